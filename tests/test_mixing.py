"""Steps on several datasets, against PyTorch's gradients and scipy's least norm."""

from __future__ import annotations

import copy

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import amp, nn
from scipy.optimize import minimize_scalar

from src.loss import ScaleShiftInvariantLoss
from src.midas_net import MidasNet
from src.mixing import HeadParetoStep, ParetoStep, gram, make_step
from src.train_step import StepOutputs, TrainStep, mixed_precision
from tests.references import TorchMidas, randomize, torch_loss
from tests.weights import copy_torch_weights, torch_tensors

DATASETS, BATCH, SIZE = 2, 2, 64
RATE = 2.0**12  # so large that what float32 rounds off the new weights does not matter
SCOPES = {"all": "", "decoder": "decoder.", "last": "decoder.output_conv."}


@pytest.fixture(scope="module")
def batch() -> list[np.ndarray]:
    """Image, disparity and mask: two dark images of steps, two bright ones of noise.

    None of the values that a ReLU meets is so near to 0 that rounding decides its gradient, as it
    does with one draw in a few: that changes gradients by 1 % of their length.
    """
    rng = np.random.default_rng(10)
    shape = (DATASETS * BATCH, SIZE, SIZE)
    image = rng.normal(size=(shape[0], 3, SIZE, SIZE)).astype(np.float32)
    image[BATCH:] = 0.5 * image[BATCH:] + 1
    disparity = rng.random(shape).astype(np.float32)
    disparity[:BATCH] = 0.3 * rng.random((BATCH, 8, 8)).repeat(8, axis=1).repeat(8, axis=2)
    return [image, disparity, (rng.random(shape) < 0.7).astype(np.float32)]


@pytest.fixture(scope="module")
def reference(small_network) -> TorchMidas:
    reference = TorchMidas(**small_network).train()
    randomize(reference, seed=11)
    return reference


def losses(reference: TorchMidas, batch: list[np.ndarray], together: bool) -> list[torch.Tensor]:
    """PyTorch's loss of each dataset; whether batch norm sees both of them together."""
    image, disparity, mask = map(torch.tensor, batch)
    parts = [slice(i * BATCH, (i + 1) * BATCH) for i in range(DATASETS)]
    whole = reference(image) if together else torch.cat([reference(image[own]) for own in parts])
    # Without the gradient term, whose |x| has steps in its slope, float32 agrees closely.
    return [torch_loss("ssimse", whole[o], disparity[o], mask[o], 0.0) for o in parts]


def gradients_of(
    reference: TorchMidas, batch: list[np.ndarray], together: bool
) -> list[dict[str, np.ndarray]]:
    """The gradient of each dataset's loss, by the project's names."""
    tensors = {name: t for name, t in torch_tensors(reference).items() if t.requires_grad}
    found = []
    for loss in losses(reference, batch, together):
        parts = torch.autograd.grad(loss, tensors.values(), retain_graph=True, allow_unused=True)
        named = zip(tensors.items(), parts, strict=True)
        found.append(
            {n: (torch.zeros_like(t) if g is None else g).double().numpy() for (n, t), g in named}
        )
    return found


def flat(gradient: dict[str, np.ndarray], prefix: str = "") -> np.ndarray:
    parts = [gradient[name].ravel() for name in sorted(gradient) if name.startswith(prefix)]
    assert parts
    return np.concatenate(parts)


def first_weight(left: np.ndarray, right: np.ndarray) -> float:
    """Of the shortest w left + (1 - w) right, by a search."""
    return minimize_scalar(
        lambda w: np.linalg.norm(w * left + (1 - w) * right) ** 2,
        bounds=(0, 1),
        method="bounded",
        options={"xatol": 1e-9},
    ).x


def stepped(
    reference: TorchMidas, network: dict, batch: list[np.ndarray], **options: object
) -> tuple[StepOutputs, dict[str, np.ndarray]]:
    """One step of SGD: what it returned, and its direction by how far it went."""
    net = MidasNet(**network)
    copy_torch_weights(reference, net)
    parameters = net.trainable_params()
    loss = ScaleShiftInvariantLoss(alpha=0.0)
    step = make_step(net, loss, nn.SGD(parameters, RATE), **options).set_train()
    before = {p.name: p.asnumpy().astype(np.float64) for p in parameters}
    result = step(*map(ms.Tensor, batch))
    assert result.dtype == ms.float32
    assert result.shape == (7 + 2 * DATASETS,)
    moved = {p.name: (before[p.name] - p.asnumpy()) / RATE for p in parameters}
    return StepOutputs.read(result.asnumpy().tolist()), moved


def check(
    result: tuple[StepOutputs, dict[str, np.ndarray]],
    expected: list[float],
    gradients: list[dict[str, np.ndarray]],
    weights: list[float],
    rtol: float,
) -> None:
    """The step went along the weighted sum, and told so."""
    outputs, moved = result
    assert outputs.losses == pytest.approx(expected, rel=1e-4)
    assert outputs.weights == pytest.approx(weights, abs=rtol)
    assert (outputs.finite, outputs.loss_scale, outputs.stop) == (1, 1, 0)
    direction = sum(w * flat(g) for w, g in zip(weights, gradients, strict=True))
    off = np.linalg.norm(flat(moved) - direction)
    assert off <= rtol * np.linalg.norm(direction)
    assert outputs.gradient_norm == pytest.approx(np.linalg.norm(direction), rel=rtol)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_pareto_step_goes_along_the_shortest_mix_of_pytorchs_gradients(
    small_network, reference, batch, scope
):
    """Each dataset alone in batch norm where all parameters decide, else both together."""
    together = scope != "all"
    expected = [loss.item() for loss in losses(reference, batch, together)]
    gradients = gradients_of(reference, batch, together)
    first = first_weight(*(flat(gradient, SCOPES[scope]) for gradient in gradients))
    assert 0.02 < first < 0.98  # else the step would be that of one dataset
    assert abs(first - 0.5) > 0.02  # and this, the naive one
    weights = [first, 1 - first]
    result = stepped(reference, small_network, batch, weights=(1, 1), mixing="pareto", scope=scope)
    check(result, expected, gradients, weights, rtol=1e-4)
    assert result[0].loss == pytest.approx(np.mean(expected), rel=1e-4)
    # Both losses fall along it, the point of the method.
    if scope == "all":
        for gradient in gradients:
            assert flat(gradient) @ flat(result[1]) >= 0.99 * result[0].gradient_norm ** 2


@pytest.mark.parametrize(
    ("mixing", "given", "weights"),
    [
        ("naive", [3, 1], [0.5, 0.5]),
        ("weighted", [3, 1], [0.75, 0.25]),
        ("weighted", [0, 2], [0, 1]),
    ],
)
def test_one_loss_of_all_datasets(small_network, reference, batch, mixing, given, weights):
    expected = [loss.item() for loss in losses(reference, batch, together=True)]
    gradients = gradients_of(reference, batch, together=True)
    result = stepped(reference, small_network, batch, weights=given, mixing=mixing)
    check(result, expected, gradients, weights, rtol=1e-4)
    assert result[0].loss == pytest.approx(np.dot(weights, expected), rel=1e-4)
    assert result[0].data_loss == pytest.approx(result[0].loss, rel=1e-4)  # alpha is 0 here


def test_one_dataset_has_nothing_to_mix(small_network):
    network = MidasNet(**small_network)
    optimizer = nn.SGD(network.trainable_params(), 0.1)
    for scope in SCOPES:
        step = make_step(network, ScaleShiftInvariantLoss(), optimizer, (1,), "pareto", scope)
        assert type(step) is TrainStep


@pytest.mark.parametrize("scope", ["all", "last"])
def test_a_dataset_without_a_valid_pixel_has_no_part_in_the_step(
    small_network, reference, batch, scope
):
    """Its gradient of 0 would be the shortest vector and stop all others."""
    more = [np.concatenate([part[:BATCH], part[:BATCH], part[BATCH:]]) for part in batch]
    more[2][BATCH : 2 * BATCH] = 0
    network = MidasNet(**small_network)
    copy_torch_weights(reference, network)
    optimizer = nn.SGD(network.trainable_params(), 0.1)
    loss = ScaleShiftInvariantLoss()
    step = make_step(network, loss, optimizer, (1, 1, 1), "pareto", scope).set_train()
    result = StepOutputs.read(step(*map(ms.Tensor, more)).asnumpy().tolist())
    assert result.weights[1] == 0 == result.losses[1]
    assert min(result.weights[0], result.weights[2]) > 0.01
    assert sum(result.weights) == pytest.approx(1, abs=1e-6)
    assert result.gradient_norm > 1e-5


@pytest.mark.parametrize("scope", SCOPES)
def test_statistics_move_once_with_each_forward_pass_of_pytorch(
    small_network, reference, batch, scope
):
    """Each dataset's in turn where all parameters decide, else the whole batch's."""
    other = copy.deepcopy(reference)
    losses(other, batch, together=scope != "all")
    network = MidasNet(**small_network)
    copy_torch_weights(reference, network)
    optimizer = nn.SGD(network.trainable_params(), 0.0)
    step = make_step(network, ScaleShiftInvariantLoss(), optimizer, (1, 1), "pareto", scope)
    step.set_train()(*map(ms.Tensor, batch)).asnumpy()
    expected = torch_tensors(other)
    means = [p for p in network.get_parameters() if p.name.endswith("moving_mean")]
    assert len(means) > 10
    for mean in means:
        wanted = expected[mean.name].numpy()
        moved = np.abs(wanted - torch_tensors(reference)[mean.name].numpy()).max()
        np.testing.assert_allclose(mean.asnumpy(), wanted, atol=1e-4 * moved, err_msg=mean.name)


def test_the_optimizer_must_have_the_networks_order(small_network):
    network = MidasNet(**small_network)
    optimizer = nn.SGD(network.trainable_params()[::-1], 0.1)
    with pytest.raises(ValueError, match="expected the last parameters last, in their order"):
        HeadParetoStep(network, ScaleShiftInvariantLoss(), optimizer, (0.5, 0.5))


@pytest.mark.parametrize(("scope", "kind"), [("all", ParetoStep), ("last", HeadParetoStep)])
def test_a_request_to_stop_is_handed_on(small_network, batch, scope, kind):
    network = MidasNet(**small_network)
    optimizer = nn.SGD(network.trainable_params(), 1e-3)
    step = make_step(network, ScaleShiftInvariantLoss(), optimizer, (1, 1), "pareto", scope)
    assert type(step) is kind
    arguments = list(map(ms.Tensor, batch))
    assert StepOutputs.read(step.set_train()(*arguments).asnumpy().tolist()).stop == 0
    step.request_stop()
    assert StepOutputs.read(step(*arguments).asnumpy().tolist()).stop == 1


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
def test_float16_finds_nearly_the_same_mix_and_skips_an_overflow(
    small_network, reference, batch, scope, level
):
    """With the loss scaled; then one dataset's images overflow, and nothing but the scale moves."""
    gradients = gradients_of(reference, batch, together=scope != "all")
    first = first_weight(*(flat(gradient, SCOPES[scope]) for gradient in gradients))
    assert abs(first - 0.5) > 0.06  # or an equal mix would pass
    network = MidasNet(**small_network)
    copy_torch_weights(reference, network)
    mixed_precision(network, level)
    loss = ScaleShiftInvariantLoss(alpha=0.0)
    scaler = amp.DynamicLossScaler(1024, 2, 100)
    parameters = network.trainable_params()
    before = {p.name: p.asnumpy().astype(np.float64) for p in parameters}
    optimizer = nn.SGD(parameters, RATE)
    step = make_step(network, loss, optimizer, (1, 1), "pareto", scope, scaler).set_train()
    result = StepOutputs.read(step(*map(ms.Tensor, batch)).asnumpy().tolist())
    assert (result.finite, result.loss_scale) == (1, 1024)
    assert result.weights == pytest.approx((first, 1 - first), abs=0.05)
    direction = first * flat(gradients[0]) + (1 - first) * flat(gradients[1])
    moved = flat({p.name: (before[p.name] - p.asnumpy()) / RATE for p in parameters})
    assert np.linalg.norm(moved - direction) < 0.1 * np.linalg.norm(direction)
    copy_torch_weights(reference, network)
    before = [p.asnumpy().tobytes() for p in network.trainable_params()]
    bad = [part.copy() for part in batch]
    bad[0][-1, 0, 0, 0] = np.inf
    result = StepOutputs.read(step(*map(ms.Tensor, bad)).asnumpy().tolist())
    assert result.finite == 0
    assert [p.asnumpy().tobytes() for p in network.trainable_params()] == before
    assert scaler.scale_value.asnumpy() == 512


def test_scalar_products_are_those_of_all_values_together():
    rng = np.random.default_rng(0)
    gradients = [(rng.normal(size=(3, 4)), rng.normal(size=7)) for _ in range(3)]
    vectors = np.array([np.concatenate([part.ravel() for part in parts]) for parts in gradients])
    tensors = [tuple(ms.Tensor(part, ms.float32) for part in parts) for parts in gradients]
    np.testing.assert_allclose(gram(tensors).asnumpy(), vectors @ vectors.T, rtol=1e-5)
