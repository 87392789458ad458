"""MidasNet against an independent PyTorch implementation with the same weights."""

from __future__ import annotations

import copy

import mindspore as ms
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the customary name)
from mindspore import nn

from src.loss import ScaleShiftInvariantLoss
from src.midas_net import MidasNet
from tests import references
from tests.references import TorchMidas, randomize, torch_ssimse
from tests.weights import copy_torch_weights, torch_tensors

BOUND = 1e-4  # of the output's range; measured 5e-6, a classic mistake gives over 1e-2


def images(*shape: int, seed: int = 0) -> np.ndarray:
    """Float32 [B, 3, H, W], normalised colours."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def torch_output(network: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network(torch.tensor(image)).numpy()


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference as a share of the expected output's range."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.ptp(expected))


@pytest.fixture(scope="module")
def torch_network(small_network):
    network = TorchMidas(**small_network).eval()
    randomize(network, seed=1)
    return network


@pytest.fixture(scope="module")
def network(small_network, torch_network):
    net = MidasNet(**small_network).set_train(False)
    copy_torch_weights(torch_network, net)
    return net


def test_the_full_network_has_the_parameters_of_the_official_one():
    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in torch_tensors(TorchMidas()).items()}
    with nn.no_init_parameters():
        found = {p.name: tuple(p.shape) for p in MidasNet().get_parameters()}
    assert found == expected
    assert sum(int(np.prod(shape)) for shape in found.values()) == 105_565_825


@pytest.mark.parametrize("shape", [(2, 3, 64, 96), (1, 3, 96, 32)])
def test_a_small_network_gives_pytorchs_output(network, torch_network, shape):
    image = images(*shape)
    output = network(ms.Tensor(image)).asnumpy()
    assert output.dtype == np.float32
    assert output.shape == (shape[0], *shape[2:])
    assert difference(output, torch_output(torch_network, image)) < BOUND


def test_another_shape_of_network_gives_pytorchs_output():
    shape = {"in_channels": 4, "groups": 2, "width_per_group": 3, "features": 24}
    reference = TorchMidas(**shape, layers=(2, 1, 3, 1)).eval()
    randomize(reference, seed=2)
    net = MidasNet(**shape, layers=(2, 1, 3, 1)).set_train(False)
    copy_torch_weights(reference, net)
    image = images(1, 3, 64, 64)
    assert difference(net(ms.Tensor(image)).asnumpy(), torch_output(reference, image)) < BOUND


@pytest.mark.full
def test_the_full_network_gives_pytorchs_output():
    reference = TorchMidas().eval()
    randomize(reference, seed=3)
    net = MidasNet().set_train(False)
    copy_torch_weights(reference, net)
    image = images(1, 3, 384, 384)
    assert difference(net(ms.Tensor(image)).asnumpy(), torch_output(reference, image)) < BOUND


def _unrectified_residual(network: TorchMidas) -> None:
    for part in network.modules():
        if isinstance(part, references.ResidualConvUnit):
            part.forward = lambda x, unit=part: unit.conv2(F.relu(unit.conv1(F.relu(x)))) + x


def _same_max_pool(network: TorchMidas) -> None:
    network.pretrained.layer1[3] = torch.nn.Sequential(
        torch.nn.ZeroPad2d((0, 1, 0, 1)), torch.nn.MaxPool2d(3, 2)
    )


def _fusion_without_aligned_corners(network: TorchMidas) -> None:
    for i in range(1, 5):
        block = getattr(network.scratch, f"refinenet{i}")

        def forward(x, skip=None, block=block):
            x = block.resConfUnit2(x if skip is None else x + block.resConfUnit1(skip))
            return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

        block.forward = forward


def _head_with_aligned_corners(network: TorchMidas) -> None:
    network.scratch.output_conv[1].align_corners = True


def _stride_in_the_first_convolution(network: TorchMidas) -> None:
    for part in network.modules():
        if isinstance(part, references.Bottleneck) and part.conv2.stride == (2, 2):
            part.conv1.stride, part.conv2.stride = (2, 2), (1, 1)


def _swapped_statistics(network: TorchMidas) -> None:
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            mean, variance = part.running_mean.clone(), part.running_var.clone()
            part.running_mean, part.running_var = variance, mean.abs()


def _other_epsilon(network: TorchMidas) -> None:
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eps = 1e-3


MISTAKES = (
    *(_unrectified_residual, _same_max_pool, _fusion_without_aligned_corners),
    *(_head_with_aligned_corners, _stride_in_the_first_convolution),
    *(_swapped_statistics, _other_epsilon),
)


@pytest.fixture(scope="module")
def output(network):
    return network(ms.Tensor(images(2, 3, 64, 96))).asnumpy()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_sees_a_classic_mistake(output, torch_network, mistake):
    wrong = copy.deepcopy(torch_network)
    mistake(wrong)
    assert difference(output, torch_output(wrong, images(2, 3, 64, 96))) > 5 * BOUND


def test_a_new_network_has_an_output_to_learn_from(small_network):
    ms.set_seed(0)
    net = MidasNet(**small_network).set_train(False)
    output = net(ms.Tensor(images(2, 3, 64, 96))).asnumpy()
    assert np.isfinite(output).all()
    assert (output > 0).mean() > 0.9  # the last ReLU passes no gradient elsewhere
    assert np.ptp(output) > 0
    assert output.max() < 100


def test_convolutions_start_with_he_initial_weights(small_network):
    ms.set_seed(0)
    net = MidasNet(**small_network)
    for name in ("backbone.conv1.weight", "decoder.refinenet1.resConfUnit1.conv1.weight"):
        weight = net.parameters_dict()[name].asnumpy()
        fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
        assert weight.mean() == pytest.approx(0, abs=0.02)
        assert weight.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def test_a_backbone_has_four_stages(small_network):
    with pytest.raises(ValueError, match="4 stages"):
        MidasNet(**small_network | {"layers": (1, 1, 1)})


@pytest.fixture(scope="module")
def training_step(small_network):
    """Both networks after one loss and gradient in training mode: (MindSpore's, PyTorch's).

    Each is (loss, gradients by name, parameters and statistics afterwards by name).
    """
    reference = TorchMidas(**small_network).train()
    randomize(reference, seed=4)
    net = MidasNet(**small_network).set_train(True)
    copy_torch_weights(reference, net)
    rng = np.random.default_rng(0)
    image = images(4, 3, 64, 64, seed=1)
    target = rng.random((4, 64, 64), np.float32)
    mask = (rng.random((4, 64, 64)) < 0.7).astype(np.float32)

    loss = torch_ssimse(reference(torch.tensor(image)), *map(torch.tensor, (target, mask)))
    loss.backward()
    tensors = torch_tensors(reference)
    slopes = {name: t.grad.numpy() for name, t in tensors.items() if t.grad is not None}
    after = {name: t.detach().numpy() for name, t in tensors.items()}
    expected = loss.item(), slopes, after

    criterion = ScaleShiftInvariantLoss()
    parameters = net.trainable_params()

    def forward(image, target, mask):
        return criterion(net(image), target, mask)[0]

    differentiate = ms.value_and_grad(forward, None, parameters)
    value, gradients = differentiate(*map(ms.Tensor, (image, target, mask)))
    slopes = {p.name: g.asnumpy() for p, g in zip(parameters, gradients, strict=True)}
    after = {p.name: p.asnumpy() for p in net.get_parameters()}
    return (float(value), slopes, after), expected


def test_the_loss_of_a_training_step_is_pytorchs(training_step):
    (loss, *_), (expected, *_) = training_step
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "backbone.conv1.weight",
        "backbone.bn1.gamma",
        "backbone.layer1.0.conv2.weight",
        "backbone.layer2.0.downsample.0.weight",
        "backbone.layer4.0.bn3.beta",
        "decoder.layer4_rn.weight",
        "decoder.refinenet4.resConfUnit2.conv1.weight",
        "decoder.refinenet3.resConfUnit1.conv2.bias",
        "decoder.refinenet1.resConfUnit1.conv1.weight",
        "decoder.output_conv.2.weight",
        "decoder.output_conv.4.weight",
    ],
)
def test_a_gradient_of_a_training_step_is_pytorchs(training_step, name):
    (_, slopes, _), (_, expected, _) = training_step
    scale = np.linalg.norm(expected[name])
    assert scale > 0
    assert np.linalg.norm(slopes[name] - expected[name]) < 1e-3 * scale


def test_the_unused_unit_of_the_deepest_block_gets_no_gradient(training_step):
    (_, slopes, _), (_, expected, _) = training_step
    unused = {name for name in slopes if name.startswith("decoder.refinenet4.resConfUnit1.")}
    assert set(slopes) - set(expected) == unused
    assert all(not slopes[name].any() for name in unused)


def test_the_statistics_after_a_training_step_are_pytorchs(training_step):
    (_, _, after), (_, _, expected) = training_step
    for name in ("backbone.bn1", "backbone.layer3.0.bn2", "backbone.layer4.0.bn3"):
        for statistic in ("moving_mean", "moving_variance"):
            key = f"{name}.{statistic}"
            np.testing.assert_allclose(after[key], expected[key], rtol=1e-3, atol=1e-5)
