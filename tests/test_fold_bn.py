"""Folded batch normalisation: by hand, as PyTorch folds it, and the whole network's output."""

from __future__ import annotations

import copy
from itertools import pairwise

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from src.fold_bn import folded
from src.midas_net import MidasNet
from tests.references import TorchMidas, randomize
from tests.weights import copy_torch_weights, torch_tensors

EPS = 1e-5  # of both libraries' batch normalisation


def values(network: nn.Cell) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().copy() for p in network.get_parameters()}


def pair(seed: int, **network: object) -> tuple[TorchMidas, MidasNet]:
    """The same drawn weights in PyTorch and in MindSpore."""
    reference = TorchMidas(**network).eval()
    randomize(reference, seed)
    midas = MidasNet(**network).set_train(False)
    copy_torch_weights(reference, midas)
    return reference, midas


@pytest.fixture(scope="module")
def networks(small_network):
    return pair(3, **small_network)


def test_a_grouped_convolution_takes_over_what_comes_after_it_by_hand(networks):
    """conv2 and bn2 of a bottleneck: weights, bias, and the output at a pixel, by loops."""
    before = values(networks[1])
    block = "backbone.layer2.0"
    gamma, beta, mean, variance = (
        before[f"{block}.bn2.{name}"].astype(float)
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    weight = before[f"{block}.conv2.weight"].astype(float)
    channels, per_group = weight.shape[:2]
    conv = folded(networks[1]).backbone.layer2[0].conv2
    assert conv.weight.dtype == conv.bias.dtype == ms.float32
    image = np.random.default_rng(0).normal(size=(1, channels, 3, 3)).astype(np.float32)
    found = conv(ms.Tensor(image)).asnumpy()[0, :, 0, 0]  # stride 2: at (0, 0), padded by one
    for out in range(channels):
        factor = gamma[out] / (variance[out] + EPS) ** 0.5
        np.testing.assert_array_equal(
            conv.weight.asnumpy()[out], (weight[out] * factor).astype(np.float32)
        )
        assert conv.bias.asnumpy()[out] == np.float32(beta[out] - mean[out] * factor)
        first = out // (channels // 4) * per_group  # four groups
        total = 0.0
        for i in range(per_group):
            for y in range(2):
                for x in range(2):
                    total += weight[out, i, y + 1, x + 1] * image[0, first + i, y, x]
        expected = (total - mean[out]) / (variance[out] + EPS) ** 0.5 * gamma[out] + beta[out]
        assert found[out] == pytest.approx(expected, abs=1e-5)


def fused_by_torch(reference: TorchMidas) -> dict[str, torch.Tensor]:
    """All tensors, by the project's names, after PyTorch's own fusion."""
    fused = copy.deepcopy(reference)
    for part in list(fused.modules()):
        children = list(part.named_children())
        for (conv_name, conv), (norm_name, norm) in pairwise(children):
            if isinstance(norm, torch.nn.BatchNorm2d):
                setattr(part, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(part, norm_name, torch.nn.Identity())
    return torch_tensors(fused)


def test_every_weight_is_the_one_that_pytorchs_fusion_makes(networks):
    expected = fused_by_torch(networks[0])
    found = values(folded(networks[1]))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        wanted = expected[name].detach().numpy()
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6, err_msg=name)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return np.abs(found - expected).max() / np.ptp(expected)


def test_the_output_is_that_of_pytorch_and_the_network_itself_stays(networks):
    reference, midas = networks
    image = np.random.default_rng(1).normal(size=(2, 3, 64, 96)).astype(np.float32)
    kept, own = values(midas), midas(ms.Tensor(image)).asnumpy()
    with torch.no_grad():
        expected = reference(torch.tensor(image)).numpy()
    result = folded(midas)  # of a network that is compiled already
    assert relative(result(ms.Tensor(image)).asnumpy(), expected) < 1e-4
    assert not any(isinstance(cell, nn.BatchNorm2d) for _, cell in result.cells_and_names())
    np.testing.assert_array_equal(midas(ms.Tensor(image)).asnumpy(), own)
    for name, value in values(midas).items():
        np.testing.assert_array_equal(value, kept[name])


def test_a_network_in_training_is_folded_by_its_statistics(networks, small_network):
    _, midas = networks
    image = ms.Tensor(np.random.default_rng(2).normal(size=(2, 3, 32, 32)).astype(np.float32))
    expected = midas(image).asnumpy()
    training = copy.deepcopy(midas).set_train(True)
    assert relative(folded(training)(image).asnumpy(), expected) < 1e-4


def test_a_convolution_that_has_a_bias_keeps_it(networks):
    midas = copy.deepcopy(networks[1])
    conv, norm = midas.backbone.conv1, midas.backbone.bn1
    bias = np.linspace(-1, 1, conv.out_channels).astype(np.float32)
    conv.bias, conv.has_bias = ms.Parameter(ms.Tensor(bias), name="backbone.conv1.bias"), True
    image = ms.Tensor(np.random.default_rng(4).normal(size=(1, 3, 32, 32)).astype(np.float32))
    expected = norm(conv(image)).asnumpy()
    found = folded(midas).backbone.conv1(image).asnumpy()
    assert relative(found, expected) < 1e-5


class _NormFirst(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 1)


class _NormAfterReLU(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.bn = nn.BatchNorm2d(3)


@pytest.mark.parametrize("kind", [_NormFirst, _NormAfterReLU])
def test_a_batch_norm_that_is_not_behind_a_convolution_is_refused(kind):
    with pytest.raises(ValueError, match=r"not behind a convolution|comes after a ReLU"):
        folded(kind())


@pytest.mark.full
def test_the_full_network_is_folded_within_a_ten_thousandth_of_its_range():
    reference, midas = pair(7)
    image = np.random.default_rng(8).normal(size=(1, 3, 192, 256)).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.tensor(image)).numpy()
    assert np.ptp(expected) > 0.1
    assert relative(folded(midas)(ms.Tensor(image)).asnumpy(), expected) < 1e-4
