"""The validation pass: its numbers by plain NumPy, and what it leaves of a training network."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from mindspore.graph.api import _cell_graph_executor

from src import validation, visualize
from src.data.mixdata import Pair
from src.errors import UserError
from src.loss import ScaleShiftInvariantLoss
from src.midas_net import MidasNet
from src.validation import Validator, centre_crop
from tests import file_formats
from tests.references import numpy_loss_terms

SIZE = 32
PAIRS = 7
ALPHA, SIGN_WEIGHT = 0.5, 0.25
MEAN, STD = (0.25, 0.5, 0.5), (0.5, 0.25, 0.25)


class Red(nn.Cell):
    """Stands for a network: it predicts the red channel."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = ms.Parameter(Tensor(factor, ms.float32), "factor")

    def construct(self, image: Tensor) -> Tensor:
        return image[:, 0] * self.factor


def content(i: int) -> tuple[np.ndarray, np.ndarray]:
    """Pair i: uint8 [32, 48, 3] and disparity float32 [32, 48]. The crop is columns 8 to 39."""
    rng = np.random.default_rng(i)
    image = rng.integers(0, 256, (SIZE, 48, 3), dtype=np.uint8)
    disparity = (image[..., 0] / 100 + rng.uniform(0.5, 3, (SIZE, 48))).astype(np.float32)
    if i == 0:  # much is as far as anything is: the fit goes below it, and is clamped
        disparity = np.maximum(image[..., 0] / 100 - 0.5, 0.3).astype(np.float32)
    disparity[rng.random((SIZE, 48)) < 0.3] = np.nan
    if i == 1:
        disparity[:] = np.nan
    elif i == 2:  # valid for the loss, not for a depth
        disparity[:9], disparity[9:11] = 0, -1
    elif i == 3:
        image[:] = 77
    elif i == 4:
        disparity[np.isfinite(disparity)] = 2
    elif i == 5:
        disparity = 5 - disparity  # upside down
    elif i == 6:
        disparity[:] = -2
        disparity[:, :20] = -1
    return image, disparity


@pytest.fixture(autouse=True)
def pairs(monkeypatch: pytest.MonkeyPatch) -> list[Pair]:
    """Seven pairs that need no files."""
    monkeypatch.setattr(validation, "read_pair", lambda pair: content(int(pair.image.stem)))
    return [Pair(Path(f"{i}.png"), Path(f"{i}.png")) for i in range(PAIRS)]


def make(network: nn.Cell, pairs: list[Pair], kind: str = "ssimse", **changes) -> Validator:
    values = {
        **{"height": SIZE, "width": SIZE, "mean": MEAN, "std": STD},
        **{"keep_aspect_ratio": True, "batch_size": 3},
    } | changes
    return Validator(
        network, ScaleShiftInvariantLoss(ALPHA, 4, SIGN_WEIGHT, kind=kind), pairs, **values
    )


# --- Expectations, by NumPy -----------------------------------------------------------------------


def expected_loss(prediction: np.ndarray, disparity: np.ndarray, kind: str) -> float:
    mask = np.isfinite(disparity)
    if not mask.any():
        return 0.0
    low, high = disparity[mask].min(), disparity[mask].max()
    target = (disparity - low) / (high - low) if high > low else np.zeros_like(disparity)
    data, gradient = numpy_loss_terms(kind, prediction, target, mask)
    upside_down = 0.0
    if kind == "ssimse" and np.ptp(prediction[mask]) > 0 and high > low:
        upside_down = max(0.0, -np.corrcoef(prediction[mask], target[mask])[0, 1])
    return data + ALPHA * gradient + SIGN_WEIGHT * upside_down


def expected_abs_rel(prediction: np.ndarray, disparity: np.ndarray) -> float | None:
    """Pixel after pixel: the fit, the clamp at the largest depth, the inverse, the error."""
    pixels = [(y, x) for y in range(SIZE) for x in range(SIZE) if disparity[y, x] > 0]
    if not pixels:
        return None
    wanted = np.array([disparity[pixel] for pixel in pixels], np.float64)
    system = np.array([[prediction[pixel], 1.0] for pixel in pixels], np.float64)
    scale, shift = np.linalg.lstsq(system, wanted, rcond=None)[0]
    farthest = max(1 / value for value in wanted)
    errors = []
    for pixel, value in zip(pixels, wanted, strict=True):
        fitted = max(scale * prediction[pixel] + shift, 1 / farthest)
        errors.append(abs(1 / fitted - 1 / value) * value)
    return float(np.mean(errors))


def red(i: int) -> np.ndarray:
    """What `Red` predicts of the crop of pair i."""
    return (content(i)[0][:, 8:40, 0] / 255 - MEAN[0]) / STD[0]


def expected_scores(
    predictions: dict[int, np.ndarray], kind: str = "ssimse"
) -> tuple[float, float]:
    """Of predictions by the number of the pair."""
    cases = [(values, content(i)[1][:, 8:40]) for i, values in predictions.items()]
    losses = [expected_loss(*case, kind) for case in cases]
    errors = [expected_abs_rel(*case) for case in cases]
    return np.mean(losses), np.mean([error for error in errors if error is not None])


# --- Scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ssimse", "ssimae", "ssitrim"])
def test_scores_are_those_of_plain_loops(pairs, kind):
    """Two of the seven images have no depth, one no alignment; all count in the loss."""
    scores = make(Red(), pairs, kind).run()
    loss, abs_rel = expected_scores({i: red(i) for i in range(PAIRS)}, kind)
    np.testing.assert_allclose(scores.loss, loss, rtol=2e-6)
    np.testing.assert_allclose(scores.abs_rel, abs_rel, rtol=1e-6)
    assert scores.images == PAIRS
    assert [type(value) for value in scores] == [float, float, int]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 16])
def test_scores_do_not_depend_on_the_batch(pairs, batch_size):
    scores = make(Red(), pairs, batch_size=batch_size).run()
    expected = expected_scores({i: red(i) for i in range(PAIRS)})
    np.testing.assert_allclose(scores[:2], expected, rtol=2e-6)
    assert scores.images == PAIRS


def test_without_a_depth_there_is_no_abs_rel_but_a_loss(pairs):
    scores = make(Red(), [pairs[1], pairs[6]]).run()
    assert np.isnan(scores.abs_rel)
    assert scores.images == 2
    loss = expected_loss(red(6), content(6)[1][:, 8:40], "ssimse") / 2
    np.testing.assert_allclose(scores.loss, loss, rtol=2e-6)


def test_without_the_aspect_the_whole_image_is_stretched(pairs, monkeypatch):
    """32 x 96 pixels to 32 x 32: bicubic and nearest both give the middle of every three."""
    image, disparity = (np.concatenate([part] * 2, axis=1) for part in content(0))
    monkeypatch.setattr(validation, "read_pair", lambda pair: (image, disparity))
    scores = make(Red(), pairs[:1], keep_aspect_ratio=False).run()
    prediction = (image[:, 1::3, 0] / 255 - MEAN[0]) / STD[0]
    target = disparity[:, 1::3]
    expected = expected_loss(prediction, target, "ssimse"), expected_abs_rel(prediction, target)
    np.testing.assert_allclose(scores[:2], expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("size", "aspect", "box"),
    [
        ((32, 48), 1.0, (0, 8, 32, 32)),
        ((48, 32), 1.0, (8, 0, 32, 32)),
        ((101, 50), 0.5, (0, 0, 100, 50)),
        ((480, 640), 1.5, (26, 0, 427, 640)),  # 640 / 1.5 = 426.67; 53 rows are left
        ((480, 640), 4 / 3, (0, 0, 480, 640)),
        ((1, 9), 0.2, (0, 4, 1, 1)),
    ],
)
def test_the_crop_is_the_largest_in_the_middle(size, aspect, box):
    crop = centre_crop(*size, aspect)
    assert (crop.top, crop.left, crop.height, crop.width) == box


# --- The network ----------------------------------------------------------------------------------


def perturbed(small_network: dict) -> MidasNet:
    """A network in training mode that tells images apart, with moving statistics of no batch."""
    network = MidasNet(**small_network).set_train()
    rng = np.random.default_rng(8)
    for parameter in network.get_parameters():
        values = parameter.asnumpy()
        if "moving" in parameter.name:
            values = rng.uniform(0.5, 1.5, values.shape)
        elif values.ndim == 4:
            values = rng.normal(0, np.sqrt(2 / values[0].size), values.shape)
        parameter.set_data(Tensor(values.astype(np.float32)))
    return network


def state(network: nn.Cell) -> dict[str, bytes]:
    return {p.name: p.asnumpy().tobytes() for p in network.get_parameters()}


def test_the_network_is_evaluated_with_its_moving_statistics(pairs, small_network):
    """Against a second network in evaluation mode that sees one image at a time."""
    network = perturbed(small_network)
    chosen = [0, 2, 5, 6]  # images that are not constant
    scores = make(network, [pairs[i] for i in chosen]).run()
    other = MidasNet(**small_network).set_train(False)
    for name, parameter in network.parameters_dict().items():
        other.parameters_dict()[name].set_data(Tensor(parameter.asnumpy()))
    predictions = {}
    for i in chosen:
        image = (content(i)[0][:, 8:40] / 255 - MEAN) / np.array(STD)
        inputs = Tensor(image.transpose(2, 0, 1)[None].astype(np.float32))
        predictions[i] = other(inputs).asnumpy()[0].astype(np.float64)
    np.testing.assert_allclose(scores[:2], expected_scores(predictions), rtol=1e-5)


def test_weights_statistics_and_modes_are_as_before(pairs, small_network):
    network = perturbed(small_network)
    network.backbone.set_train(False)  # a frozen part stays frozen
    before = state(network)
    modes = [(cell.training, cell.phase) for _, cell in network.cells_and_names()]
    validator = make(network, pairs)
    validator.run()
    validator.examples(2)
    assert state(network) == before
    assert [(cell.training, cell.phase) for _, cell in network.cells_and_names()] == modes
    assert network.training and not network.backbone.training


class Step(nn.Cell):
    """A training step."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.optimizer = nn.SGD(network.trainable_params(), 0.01)
        self.value_and_grad = ops.value_and_grad(self.forward, None, self.optimizer.parameters)

    def forward(self, image: Tensor) -> Tensor:
        return (self.network(image) ** 2).mean()

    def construct(self, image: Tensor) -> Tensor:
        loss, gradients = self.value_and_grad(image)
        return ops.depend(loss, self.optimizer(gradients))


def test_training_goes_on_without_another_compilation(pairs, small_network, monkeypatch):
    """And as if there had been no validation: the same losses, bit for bit."""
    compiled = []
    compile_ = type(_cell_graph_executor).compile

    def spy(self, cell, *args, **kwargs):
        phase, is_new = compile_(self, cell, *args, **kwargs)
        compiled.extend([type(cell).__name__] if is_new else [])
        return phase, is_new

    monkeypatch.setattr(type(_cell_graph_executor), "compile", spy)
    network = perturbed(small_network)
    start = [Tensor(parameter.asnumpy()) for parameter in network.get_parameters()]
    step = Step(network).set_train()
    image = Tensor(np.random.default_rng(1).normal(size=(2, 3, SIZE, SIZE)).astype(np.float32))
    undisturbed = [float(step(image).asnumpy()) for _ in range(3)]
    for parameter, value in zip(network.get_parameters(), start, strict=True):
        parameter.set_data(value)
    validator = make(network, pairs)
    losses = []
    for _ in range(3):
        losses.append(float(step(image).asnumpy()))
        validator.run()
        validator.examples(4)
    assert losses == undisturbed
    assert len(set(losses)) == 3
    assert compiled == ["Step", "_Forward"]


def test_a_validation_sees_the_weights_of_its_time(pairs):
    network = Red()
    validator = make(network, pairs[:1])
    first = validator.run()
    network.factor.set_data(Tensor(-1.0, ms.float32))  # upside down
    second = validator.run()
    np.testing.assert_allclose(
        second.loss, expected_loss(-red(0), content(0)[1][:, 8:40], "ssimse"), rtol=2e-6
    )
    assert second.loss > first.loss + 0.01
    assert validator.run() == second


def test_ctrl_c_works_after_the_compilation(pairs):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        make(Red(), pairs).run()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


# --- Several ranks --------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 3, 9])  # 9 is more than there are images
def test_every_rank_gets_the_scores_of_one(pairs, ranks):
    sums = []

    def record(values):
        assert values.dtype == np.float64
        sums.append(values.copy())
        return np.array([1.0, 1.0, 1.0, 1.0, 0.0])  # what all ranks have, first of all

    one = make(Red(), pairs)
    alone = one.run()
    validators = [make(Red(), pairs, rank=rank, ranks=ranks) for rank in range(ranks)]
    for validator in validators:
        validator.forward, validator.total = one.forward, record  # compiled once
        validator.run()
    for validator in validators[:2]:
        validator.total = lambda _: np.sum(sums[:ranks], axis=0)
        scores = validator.run()
        np.testing.assert_allclose(scores[:2], alone[:2], rtol=1e-6)
        assert scores.images == PAIRS


def test_no_rank_comes_to_the_sum_batches_before_the_others(pairs):
    """Seven images on three ranks, one at a time: three batches on each."""
    for rank in range(3):
        validator = make(Red(), pairs, batch_size=1, rank=rank, ranks=3)
        forward, batches = validator.forward, []
        validator.forward = lambda *inputs, run=forward, seen=batches: (
            seen.append(1) or run(*inputs)
        )
        validator.run()
        assert len(batches) == 3


# --- Faults ---------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    """A pair of files of which the photograph is damaged."""
    monkeypatch.undo()
    image, target = tmp_path / "photo.png", tmp_path / "target.png"
    values = content(0)[0][..., 0]
    image.write_bytes(file_formats.png(np.dstack([values] * 3))[:-200])
    target.write_bytes(file_formats.png(values))
    return Pair(image, target)


def test_an_unreadable_file_is_named_and_the_other_ranks_are_told(damaged):
    sums = []
    with pytest.raises(UserError) as caught:
        make(Red(), [damaged] * 4, total=lambda values: sums.append(values) or values).run()
    assert str(damaged.image) in str(caught.value)
    assert [values.tolist() for values in sums] == [[0, 0, 0, 0, 1]]


def test_the_other_ranks_stop_where_one_cannot_go_on(pairs):
    with pytest.raises(UserError, match="another rank"):
        make(Red(), pairs, total=lambda values: values + np.eye(5)[4]).run()


def test_a_diverged_network_is_one_line(pairs):
    network = Red(np.nan).set_train()
    with pytest.raises(UserError, match="diverged") as caught:
        make(network, pairs).run()
    assert "\n" not in str(caught.value)
    assert network.training


# --- Pictures -------------------------------------------------------------------------------------


def test_examples_show_photograph_target_and_prediction(pairs):
    pictures = make(Red(), pairs).examples(4)  # more than a batch
    assert len(pictures) == 4
    for i, picture in zip((0, 2, 4, 6), pictures, strict=True):
        assert picture.dtype == np.uint8
        assert picture.shape == (SIZE, 3 * SIZE + 2 * 4, 3)
        image, disparity = (part[:, 8:40] for part in content(i))
        assert np.array_equal(picture[:, :32], image)
        assert np.array_equal(picture[:, 36:68], visualize.colourize(disparity))
        shown = picture[:, 72:].astype(int)
        assert np.abs(shown - visualize.colourize(red(i))).max() <= 2
        assert (picture[:, 32:36] == 255).all()
        assert (picture[:, 68:72] == 255).all()


@pytest.mark.parametrize(("count", "chosen"), [(1, [0]), (2, [0, 6]), (99, [*range(7)])])
def test_examples_are_spread_over_the_pairs_and_no_more_than_they(pairs, count, chosen):
    pictures = make(Red(), pairs, rank=1, ranks=2).examples(count)
    assert [picture[:, :32].tolist() for picture in pictures] == [
        content(i)[0][:, 8:40].tolist() for i in chosen
    ]


def test_unreadable_pairs_are_left_out_if_asked(pairs, caplog, monkeypatch):
    """The scores are those of the others alone; without any there are none."""
    broken = replace(pairs[1], image=Path("none.png"))

    def read(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        if pair is broken:
            raise UserError("none.png: no such file")
        return content(int(pair.image.stem))

    monkeypatch.setattr(validation, "read_pair", read)
    mixed = [pairs[0], broken, *pairs[2:]]
    scores = make(Red(), mixed, skip_bad=True).run()
    expected = make(Red(), [pairs[0], *pairs[2:]]).run()
    assert scores.images == expected.images == len(pairs) - 1
    np.testing.assert_allclose(scores[:2], expected[:2], rtol=1e-6)
    assert "validation without" in caplog.text
    assert len(make(Red(), [pairs[0], broken], skip_bad=True).examples(2)) == 1
    with pytest.raises(UserError, match=r"none\.png"):
        make(Red(), mixed).run()
    with pytest.raises(UserError, match="none of the held-out images"):
        make(Red(), [broken], skip_bad=True).run()
