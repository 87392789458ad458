"""The train step: gradients, mixed precision, loss scaling and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import amp, nn

from src import train_step
from src.loss import ScaleShiftInvariantLoss
from src.midas_net import MidasNet
from src.train_step import Average, StepOutputs, TrainStep, global_norm, mixed_precision
from tests.references import TorchMidas, randomize, torch_loss
from tests.weights import copy_torch_weights, torch_tensors

LEVELS = ["O1", "O2", "O3"]
HALF_MAX = 65504  # the largest float16
BATCH, INPUTS = 4, 3
DATA_SHARE, GRADIENT_SHARE = 1.0, 0.25  # of the line's loss


def outputs(result: ms.Tensor) -> StepOutputs:
    assert result.dtype == ms.float32
    assert result.shape == (9,)  # one dataset
    return StepOutputs.read(result.asnumpy().tolist())


def values(parameters: list[ms.Parameter]) -> dict[str, np.ndarray]:
    assert all(p.dtype in (ms.float32, ms.int32) for p in parameters)
    return {p.name: p.asnumpy().copy() for p in parameters}


def same_bits(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return {k: v.tobytes() for k, v in left.items()} == {k: v.tobytes() for k, v in right.items()}


# --- MidasNet in float32, against PyTorch ---------------------------------------------------------


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, disparity and mask of four images of 64x64."""
    rng = np.random.default_rng(3)
    image = rng.normal(size=(4, 3, 64, 64)).astype(np.float32)
    disparity = rng.random((4, 64, 64), np.float32)
    return image, disparity, (rng.random((4, 64, 64)) < 0.7).astype(np.float32)


@pytest.fixture(scope="module")
def reference(small_network) -> TorchMidas:
    reference = TorchMidas(**small_network)
    randomize(reference, seed=11)
    return reference


@pytest.fixture(scope="module")
def stepped(small_network, reference, batch) -> tuple[StepOutputs, dict[str, np.ndarray]]:
    """One step of SGD: what it returned, and the gradients by how far it went.

    Its rate is so large that what float32 rounds off the new weights does not matter.
    """
    rate = 2.0**12
    network = MidasNet(**small_network)
    copy_torch_weights(reference, network)
    parameters = network.trainable_params()
    loss = ScaleShiftInvariantLoss(alpha=0.5, sign_weight=0.0)
    step = TrainStep(network, loss, nn.SGD(parameters, rate)).set_train()
    before = values(parameters)
    result = outputs(step(*map(ms.Tensor, batch)))
    after = values(parameters)
    return result, {name: (before[name] - after[name]) / rate for name in before}


def test_a_step_takes_the_gradients_of_autograd(reference, batch, stepped):
    image, disparity, mask = map(torch.tensor, batch)
    prediction = reference.train()(image)
    total = torch_loss("ssimse", prediction, disparity, mask, 0.5)
    total.backward()
    result, gradients = stepped
    expected = {
        name: tensor.grad.numpy() if tensor.grad is not None else np.zeros(tensor.shape)
        for name, tensor in torch_tensors(reference).items()
        if tensor.requires_grad
    }
    assert gradients.keys() == expected.keys()
    for name, value in expected.items():
        # The gradients of |x| and ReLU are steps: an x that is rounded to the other side counts.
        off = np.linalg.norm(gradients[name] - value)
        assert off <= 1e-3 * np.linalg.norm(value), name
    assert result.loss == pytest.approx(total.item(), rel=1e-4)
    assert result.loss == pytest.approx(result.data_loss + 0.5 * result.gradient_loss, rel=1e-6)
    norm = np.sqrt(sum((value.astype(np.float64) ** 2).sum() for value in expected.values()))
    assert result.gradient_norm == pytest.approx(norm, rel=1e-3)


# --- A line, worked with NumPy --------------------------------------------------------------------


class Line(nn.Cell):
    """Inputs [B, 3] -> [B]: a sum of products and a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Dense(INPUTS, 1)

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.dense(x).reshape(-1)


class LineLoss(nn.Cell):
    """Masked squares and a linear term, in float32."""

    def per_image(self, prediction: ms.Tensor, target: ms.Tensor, mask: ms.Tensor) -> tuple:
        gradient = (prediction.astype(ms.float32) - target) * mask
        data = gradient * gradient
        return DATA_SHARE * data + GRADIENT_SHARE * gradient, data, gradient


X = np.float32([[0.5, -1, 2], [1.5, 0.25, -0.5], [-2, 1, 1], [0.75, 0.5, -1.25]])
TARGET, MASK = np.float32([0.5, -1, 0.25, 2]), np.float32([1, 1, 0, 1])
WEIGHT, BIAS = np.float32([[0.5, -0.25, 1]]), np.float32([0.125])
# Twelve bits are enough for all of these, and for what is computed of them: float16 makes no
# difference where the loss scale is a power of two.


def line_by_hand(weight: np.ndarray, bias: np.ndarray) -> tuple[list[float], list[np.ndarray]]:
    """(loss, data, gradient term) and the gradients of weight and bias, in float64."""
    residual = (X.astype(float) @ weight[0].astype(float) + bias - TARGET) * MASK
    data, gradient = (residual**2).mean(), residual.mean()
    slope = (2 * DATA_SHARE * residual + GRADIENT_SHARE) * MASK / BATCH
    terms = [DATA_SHARE * data + GRADIENT_SHARE * gradient, data, gradient]
    return terms, [slope[None] @ X, slope.sum(keepdims=True)]


def run_line(
    make_optimizer: Callable[[Any], nn.Optimizer],
    level: str = "O0",
    scaler: amp.DynamicLossScaler | None = None,
) -> TrainStep:
    network = Line()
    network.dense.weight.set_data(ms.Tensor(WEIGHT))
    network.dense.bias.set_data(ms.Tensor(BIAS))
    optimizer = make_optimizer(network.trainable_params())
    mixed_precision(network, level)
    return TrainStep(network, LineLoss(), optimizer, scaler=scaler).set_train()


def sgd(parameters: Any) -> nn.Optimizer:
    return nn.SGD(parameters, 1.0)


def weights(step: TrainStep) -> list[np.ndarray]:
    return [parameter.asnumpy().copy() for parameter in step.optimizer.parameters]


ARGUMENTS = tuple(map(ms.Tensor, (X, TARGET, MASK)))


def test_a_step_in_float32_worked_by_hand():
    step = run_line(sgd)
    for _ in range(2):
        before = weights(step)
        terms, gradients = line_by_hand(*before)
        result = outputs(step(*ARGUMENTS))
        assert result[:3] == pytest.approx(terms, rel=1e-6)
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
        assert result.gradient_norm == pytest.approx(norm, rel=1e-6)
        assert result[4:7] == (1, 1, 0)  # finite, loss scale, stop
        assert (result.losses, result.weights) == ((result.loss,), (1,))
        for old, new, gradient in zip(before, weights(step), gradients, strict=True):
            np.testing.assert_allclose(old - new, gradient, atol=1e-6)


def test_a_request_to_stop_is_handed_on_from_the_next_step():
    step = run_line(sgd)
    assert outputs(step(*ARGUMENTS)).stop == 0
    step.request_stop()
    assert [outputs(step(*ARGUMENTS)).stop for _ in range(2)] == [1, 1]


def test_a_gradient_that_is_not_finite_is_told_in_float32():
    step = run_line(sgd)
    bad = ms.Tensor(np.where(X == 2, np.float32(np.inf), X))
    result = outputs(step(bad, *ARGUMENTS[1:]))
    assert not np.isfinite(result.gradient_norm)
    assert (result.finite, result.loss_scale) == (0, 1)


# --- Loss scaling ---------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=LEVELS[1:])
def scaled(request) -> TrainStep:
    """The line in float16 with Adam; the scale doubles after three good steps."""
    scaler = amp.DynamicLossScaler(1024, 2, 3)
    return run_line(lambda p: nn.Adam(p, 0.125), request.param, scaler)


def state(step: TrainStep) -> list[ms.Parameter]:
    """Weights and all that Adam keeps, with its count of steps."""
    parameters = list(step.optimizer.get_parameters())
    names = {parameter.name for parameter in parameters}
    assert {"moment1.dense.weight", "moment2.dense.bias", "beta1_power", "global_step"} <= names
    assert {"dense.weight", "dense.bias"} <= names
    return parameters


def begin(step: TrainStep, scale: float, count: int = 0) -> None:
    step.scaler.scale_value.set_data(ms.Tensor(scale, ms.float32))
    step.scaler.counter.set_data(ms.Tensor(count, ms.int32))


def test_a_power_of_two_as_scale_changes_nothing(scaled):
    """The gradients of the first step are the exact ones, and Adam steps by its rate."""
    begin(scaled, 1024)
    before = weights(scaled)
    terms, gradients = line_by_hand(*before)
    result = outputs(scaled(*ARGUMENTS))
    assert result[:3] == pytest.approx(terms, rel=1e-3)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
    assert result.gradient_norm == pytest.approx(norm, rel=1e-3)
    assert result[4:7] == (1, 1024, 0)
    for old, new, gradient in zip(before, weights(scaled), gradients, strict=True):
        np.testing.assert_allclose(old - new, 0.125 * np.sign(gradient), rtol=1e-4)


def test_a_step_that_overflows_is_skipped_and_the_scale_halved_until_it_fits(scaled):
    _, gradients = line_by_hand(*weights(scaled))
    assert max(np.abs(gradient).max() for gradient in gradients) * 2.0**24 > 2 * HALF_MAX
    begin(scaled, 2.0**24)
    for skipped in range(2):
        before = values(state(scaled))
        result = outputs(scaled(*ARGUMENTS))
        assert (result.finite, result.loss_scale) == (0, 2.0 ** (24 - skipped))
        assert not np.isfinite(result.gradient_norm)
        assert np.isfinite(result.loss)
        assert same_bits(values(state(scaled)), before)
        assert scaled.scaler.scale_value.asnumpy() == 2.0 ** (23 - skipped)
    scales = []
    for _ in range(30):
        result = outputs(scaled(*ARGUMENTS))
        scales.append(result.loss_scale)
        if result.finite:
            break
    assert result.finite == 1
    assert scales == [2.0 ** (22 - i) for i in range(len(scales))]
    assert not same_bits(values(state(scaled)), before)


def test_the_scale_doubles_after_so_many_good_steps_in_a_row(scaled):
    begin(scaled, 8)
    results = [outputs(scaled(*ARGUMENTS)) for _ in range(7)]
    assert [result.loss_scale for result in results] == [8, 8, 8, 16, 16, 16, 32]
    assert all(result.finite for result in results)


def test_an_overflow_begins_the_count_anew(scaled):
    begin(scaled, 8, count=2)
    bad = ms.Tensor(np.where(X == 2, np.float32(np.inf), X))
    assert outputs(scaled(bad, *ARGUMENTS[1:])).finite == 0
    results = [outputs(scaled(*ARGUMENTS)) for _ in range(4)]
    assert [result.loss_scale for result in results] == [4, 4, 4, 8]


def test_the_scale_never_falls_below_one(scaled):
    """A run at scale 1 that overflows has diverged, which the guard looks for."""
    begin(scaled, 2)
    bad = ms.Tensor(np.where(X == 2, np.float32(np.inf), X))
    scales = [outputs(scaled(bad, *ARGUMENTS[1:])).loss_scale for _ in range(3)]
    assert scales == [2, 1, 1]


# --- Which part is float16 ------------------------------------------------------------------------


class Parts(nn.Cell):
    """1x1 convolution -> batch norm -> what is around them, for inputs [1, 1, 1, 1]."""

    def __init__(self, weight: float, gamma: float, after: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            1, 1, 1, weight_init=ms.Tensor(np.full((1, 1, 1, 1), weight), ms.float32)
        )
        self.bn = nn.BatchNorm2d(1, gamma_init=ms.Tensor([gamma], ms.float32))
        self.after = after

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.bn(self.conv(x)) * self.after


def computed(level: str, x: float, weight: float = 1, gamma: float = 1, after: float = 1) -> float:
    """The product of all four, up to the 1e-5 that batch norm adds to a variance of 1."""
    network = Parts(weight, gamma, after).set_train(False)
    mixed_precision(network, level)
    assert all(p.dtype == ms.float32 for p in network.get_parameters())
    return float(network(ms.Tensor(np.full((1, 1, 1, 1), x), ms.float32)).asnumpy().item())


@pytest.mark.parametrize(
    ("level", "gamma", "product"),
    [("O0", 1e-3, 100), ("O1", 1e-3, np.inf), ("O2", 1e-3, np.inf), ("O3", 1, np.inf)],
)
def test_a_convolution_overflows_in_float16_alone(level, gamma, product):
    """1000 * 100 is more than 65504, 1e5 / 1e3 is not, but comes too late.

    At level 3 MindSpore makes one operator of convolution and batch norm.
    """
    assert computed(level, x=100, weight=1000, gamma=gamma) == pytest.approx(product, rel=1e-4)


@pytest.mark.parametrize(("level", "in_float32"), [("O0", 1), ("O1", 1), ("O2", 1), ("O3", 0)])
def test_batch_norm_is_in_float16_at_level_3_alone(level, in_float32):
    """Its factor 1e8 is no float16, though the product is one."""
    product = computed(level, x=2.0**-12, gamma=1e8)
    assert np.isfinite(product) == in_float32
    assert not in_float32 or product == pytest.approx(1e8 * 2.0**-12, rel=1e-3)


@pytest.mark.parametrize(("level", "in_float32"), [("O0", 1), ("O1", 1), ("O2", 0), ("O3", 0)])
def test_the_rest_is_in_float16_from_level_2(level, in_float32):
    """60000 is a float16, twice as much is not."""
    product = computed(level, x=60000, after=2)
    assert product == pytest.approx(120000 if in_float32 else np.inf, rel=1e-3)


@pytest.mark.parametrize("level", LEVELS)
def test_midas_in_float16_is_nearly_that_of_pytorch(small_network, reference, batch, level):
    """As near as 11 bits are, and not as near as 24 would be; in training, as it is used."""
    network = MidasNet(**small_network)
    copy_torch_weights(reference, network)
    names = values(list(network.get_parameters())).keys()
    mixed_precision(network, level)
    network.set_train()
    image, disparity, mask = batch
    with torch.no_grad():
        prediction = reference.train()(torch.tensor(image))
        expected = torch_loss("ssimse", prediction, *map(torch.tensor, (disparity, mask)), 0.5)
    found = network(ms.Tensor(image))
    assert values(list(network.get_parameters())).keys() == names
    off = np.abs(found.asnumpy() - prediction.numpy()).max() / np.abs(prediction.numpy()).max()
    assert 1e-4 < off < 0.05
    loss = ScaleShiftInvariantLoss(alpha=0.5, sign_weight=0.0)
    total, *_ = loss(found, ms.Tensor(disparity), ms.Tensor(mask))
    assert total.dtype == ms.float32
    assert float(total) == pytest.approx(expected.item(), rel=0.02)


# --- Averages over processes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "limit", "buckets"),
    [
        ([], 10, []),
        ([3], 10, [(0, 1)]),
        ([30], 10, [(0, 1)]),
        ([5, 5], 10, [(0, 2)]),
        ([5, 6], 10, [(0, 1), (1, 2)]),
        ([1, 2, 3, 4, 5, 6], 6, [(0, 3), (3, 4), (4, 5), (5, 6)]),
        ([2, 30, 2, 2], 4, [(0, 1), (1, 2), (2, 4)]),
        ([30, 30], 10, [(0, 1), (1, 2)]),
        ([0, 4, 0, 4, 0], 4, [(0, 3), (3, 5)]),
    ],
)
def test_buckets_worked_by_hand(sizes, limit, buckets):
    assert train_step.plan_buckets(sizes, limit) == buckets


SHAPES = [(2, 3), (), (4,), (1, 2, 2), (7,)]


def drawn() -> tuple[ms.Tensor, ...]:
    rng = np.random.default_rng(0)
    return tuple(ms.Tensor(rng.normal(size=shape), ms.float32) for shape in SHAPES)


@pytest.mark.parametrize("limit", [1, 7, 11, 1000])
def test_buckets_are_packed_and_unpacked_in_order(monkeypatch, limit):
    """A stand-in for the sum over two processes: this one and one that has the same values."""
    monkeypatch.setattr(train_step, "BUCKET_VALUES", limit)
    tensors = drawn()
    average = Average([tensor.size for tensor in tensors], 1)
    average.ranks = 2
    average.all_reduce = lambda value: 2 * value + 6
    means = average(tensors)
    assert [mean.shape for mean in means] == SHAPES
    for mean, tensor in zip(means, tensors, strict=True):
        np.testing.assert_allclose(mean.asnumpy(), tensor.asnumpy() + 3, rtol=1e-6)


def test_one_process_has_its_own_values():
    tensors = drawn()
    means = Average([tensor.size for tensor in tensors], 1)(tensors)
    for mean, tensor in zip(means, tensors, strict=True):
        assert mean.asnumpy().tobytes() == tensor.asnumpy().tobytes()
    value = ms.Tensor([0.1, -3.0], ms.float32)
    assert Average([], 1).of(value).asnumpy().tobytes() == value.asnumpy().tobytes()


def test_the_norm_is_that_of_all_values_together():
    tensors = drawn()
    everything = np.concatenate([tensor.asnumpy().ravel() for tensor in tensors])
    assert float(global_norm(tensors)) == pytest.approx(np.linalg.norm(everything), rel=1e-6)
