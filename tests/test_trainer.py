"""Training runs of a small network: what they compute, what they leave behind, how they stop."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn
from PIL import Image

from src.callbacks import CheckpointSaver, Guard, Position
from src.config import Config, load_config
from src.errors import UserError
from src.midas_net import MidasNet
from src.run_folder import Checkpoints, Snapshot
from src.stop_signals import StopSignals
from src.train_step import StepOutputs
from src.trainer import learning_rates, make_optimizer, train
from src.watching import METRICS
from tests import file_formats

IMAGES, BATCH, EPOCHS = 6, 3, 12
STEPS = IMAGES // BATCH
SIZE = 64


def write_training_set(root: Path) -> None:
    """Grey blobs whose disparity is their brightness: easy to learn."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for i in range(IMAGES):
        y, x = np.random.default_rng(i).uniform(10, 54, 2)
        blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 400) * 200 + 20
        values = blob.astype(np.uint8)
        for folder, data in (("Imgs", np.dstack([values] * 3)), ("RDs", values)):
            path = root / "ReDWeb_V1" / folder / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file_formats.png(data))
    mixdata = {"img": {"RW": "/ReDWeb_V1/Imgs/*"}, "depth": {"RW": "/ReDWeb_V1/RDs/*"}}
    (root / "mixdata.json").write_text(json.dumps(mixdata))


def small_config(root: Path, network: dict, **changes: object) -> Config:
    values = {
        **{key: list(value) if key == "layers" else value for key, value in network.items()},
        **{"img_width": SIZE, "img_height": SIZE, "batch_size": BATCH, "epoch_size": EPOCHS},
        **{"no_backbone_params_lr": 0.002, "no_backbone_params_end_lr": 0.001},
        **{"backbone_params_lr": 0.001, "backbone_params_end_lr": 0.0},
        **{"lr_decay": True, "power": 2.0, "save_checkpoint_epochs": 5, "keep_checkpoint_max": 2},
        **{"train_data_dir": root, "run_path": root / "runs", "run_name": "first"},
        **{"val_mixdata": "mixdata.json", "eval_interval": 6, "compile_cache": root / "graphs"},
    } | changes
    return load_config([part for key, value in values.items() for part in (f"--{key}", f"{value}")])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_training_set(folder)
    return folder


@pytest.fixture(scope="module")
def config(root: Path, small_network: dict) -> Config:
    return small_config(root, small_network)


@pytest.fixture(scope="module")
def run(config: Config) -> Path:
    """The folder of one whole training run."""
    ms.set_seed(1)
    logging.getLogger("midas").setLevel(logging.INFO)  # as run_program does
    return train(config).run


def read_metrics(run: Path) -> list[dict[str, float]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


# --- Learning rates and optimizer -----------------------------------------------------------------


def test_learning_rates_without_decay_are_constant():
    assert learning_rates(0.5, 0.1, 2.0, 4, decay=False).tolist() == [0.5] * 4


def test_polynomial_decay_by_hand():
    """(1 - 0) * (1 - i/4)^2 + 0: 1, 9/16, 4/16, 1/16."""
    np.testing.assert_allclose(
        learning_rates(1.0, 0.0, 2.0, 4, decay=True), [1, 0.5625, 0.25, 0.0625]
    )
    np.testing.assert_allclose(
        learning_rates(0.4, 0.2, 0.5, 4, decay=True),
        [0.4, *(0.2 + 0.2 * np.sqrt([0.75, 0.5, 0.25]))],
    )


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_polynomial_decay_is_that_of_mindspore(power):
    start, end, steps = 1e-4, 1e-7, 20
    schedule = nn.PolynomialDecayLR(start, end, steps, power)
    expected = [float(schedule(ms.Tensor(step, ms.int32)).asnumpy()) for step in range(steps)]
    rates = learning_rates(start, end, power, steps, decay=True)
    assert rates.dtype == np.float32
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


class TwoParts(nn.Cell):
    """Stands in for a MidasNet where only its two parts matter."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Dense(3, 2)  # before the backbone, so that order alone decides nothing
        self.backbone = nn.Dense(4, 3)


def test_each_part_takes_adam_steps_at_its_own_rate():
    """Three steps against Adam as Kingma and Ba wrote it down (2015, algorithm 1)."""
    network = TwoParts()
    rates = {"backbone": [0.01, 0.02, 0.0], "decoder": [0.1, 0.05, 0.3]}
    optimizer = make_optimizer(
        network, *(np.float32(rates[part]) for part in ("backbone", "decoder"))
    )
    parameters = network.trainable_params()
    expected = {p.name: p.asnumpy().astype(np.float64) for p in parameters}
    first = {name: np.zeros_like(value) for name, value in expected.items()}
    second = {name: np.zeros_like(value) for name, value in expected.items()}
    rng = np.random.default_rng(0)
    for step in range(3):
        gradients = {name: rng.normal(size=value.shape) for name, value in expected.items()}
        optimizer(tuple(ms.Tensor(gradients[p.name], ms.float32) for p in parameters))
        for name, gradient in gradients.items():
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            unbiased = first[name] / (1 - 0.9 ** (step + 1))
            spread = np.sqrt(second[name] / (1 - 0.999 ** (step + 1)))
            expected[name] -= rates[name.split(".")[0]][step] * unbiased / (spread + 1e-8)
        for parameter in parameters:
            np.testing.assert_allclose(parameter.asnumpy(), expected[parameter.name], atol=1e-5)


# --- A whole run ----------------------------------------------------------------------------------


def test_the_run_folder_holds_what_is_documented(run, config):
    assert run == Path(config.run_path) / "first"
    assert sorted(path.name for path in run.iterdir()) == [
        *("ckpt", "config.yaml", "curves.png"),
        next(run.glob("events.out.tfevents.*")).name,
        *("metrics.csv", "train.log", "validation.csv"),
    ]


def test_checkpoints_are_named_as_in_the_original_and_old_ones_removed(run):
    """Saved after epochs 5, 10 and 12 (the last); two stay."""
    names = [f"Midas_0-10_{STEPS}.ckpt", f"Midas_0-12_{STEPS}.ckpt"]
    assert sorted(path.name for path in (run / "ckpt").iterdir()) == [*names, "best.ckpt", "resume"]
    assert sorted(path.name for path in (run / "ckpt/resume").iterdir()) == names


def test_the_saved_configuration_is_that_of_the_run(run, config):
    assert load_config(["--config_path", str(run / "config.yaml")]) == config


def test_metrics_have_a_row_a_step(run):
    assert (run / "metrics.csv").read_text().splitlines()[0] == ",".join(METRICS)
    rows = read_metrics(run)
    assert [(row["epoch"], row["step"]) for row in rows] == [
        (epoch, step) for epoch in range(1, EPOCHS + 1) for step in range(1, STEPS + 1)
    ]
    remaining = (1 - np.arange(len(rows)) / len(rows)) ** 2
    np.testing.assert_allclose([row["backbone_lr"] for row in rows], 0.001 * remaining, rtol=1e-5)
    np.testing.assert_allclose(
        [row["decoder_lr"] for row in rows], 0.001 * remaining + 0.001, rtol=1e-5
    )
    # The rest of the loss is sign_weight (0.1) times a mean of max(0, -correlation).
    sign = np.array([row["loss"] - row["data_loss"] - 0.5 * row["gradient_loss"] for row in rows])
    assert (sign > -1e-6).all()
    assert (sign < 0.1).all()
    assert (np.abs(sign) < 1e-6).any()  # a batch the right way up pays nothing
    assert all(row["images_per_second"] > 0 for row in rows)


def test_the_loss_is_the_configured_one(root, small_network, run):
    ms.set_seed(1)
    config = small_config(root, small_network, loss="ssitrim", run_name="ssitrim", epoch_size=1)
    rows = read_metrics(train(config).run)
    # Least squares leave at most the target's variance, which is at most 1/4 within [0, 1].
    assert read_metrics(run)[0]["data_loss"] < 1 / 8 < rows[0]["data_loss"]
    for row in rows:  # sign_weight has no part in this one
        expected = row["data_loss"] + 0.5 * row["gradient_loss"]
        assert row["loss"] == pytest.approx(expected, rel=1e-5)


def test_training_lowers_the_loss_of_a_learnable_set(run):
    losses = [row["loss"] for row in read_metrics(run)]
    assert min(losses) > 0  # a network that died has a loss of 0 as well
    assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])


def test_the_curves_are_a_picture_with_content(run):
    with Image.open(run / "curves.png") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) >= 400
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_the_log_warns_of_random_weights_and_has_a_line_an_epoch(run):
    log = (run / "train.log").read_text()
    assert "WARNING: no model_weights" in log
    images = f"{IMAGES} images, batch {BATCH}, {IMAGES} held-out images"
    assert f"{images}, {EPOCHS} epochs of {STEPS} steps" in log
    assert [line for line in log.splitlines() if f"epoch {EPOCHS}/{EPOCHS}: loss" in line]
    assert log.count(": loss ") == EPOCHS


def test_two_identical_runs_end_bit_for_bit_alike(run, config):
    ms.set_seed(1)
    again = train(config.model_copy(update={"run_name": "again"})).run
    name = f"Midas_0-{EPOCHS}_{STEPS}.ckpt"
    first, second = (ms.load_checkpoint(str(folder / "ckpt" / name)) for folder in (run, again))
    assert first.keys() == second.keys()
    for key in first:
        assert np.array_equal(first[key].asnumpy(), second[key].asnumpy()), key
    for left, right in zip(read_metrics(run), read_metrics(again), strict=True):
        assert left["loss"] == right["loss"]


def test_a_run_moves_every_trainable_parameter_and_the_statistics(run, small_network):
    """A group that the optimizer forgot, or BatchNorm left in evaluation mode, would show."""
    first, last = (
        ms.load_checkpoint(str(run / "ckpt" / f"Midas_0-{epoch}_{STEPS}.ckpt"))
        for epoch in (10, 12)
    )
    expected = {parameter.name for parameter in MidasNet(**small_network).get_parameters()}
    assert first.keys() == expected
    still = {key for key in first if np.array_equal(first[key].asnumpy(), last[key].asnumpy())}
    # The top fusion block has no skip connection to rectify, as in the official network.
    assert {key for key in still if not key.startswith("decoder.refinenet4.resConfUnit1.")} == set()


# --- Resuming -------------------------------------------------------------------------------------


class StopAfter(StopSignals):
    """Asks a run to stop during its n-th step, as a signal would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def accept(self) -> None:
        pass

    @property
    def requested(self) -> bool:  # is asked for at the start of every step
        self.left -= 1
        return self.left <= 0


def same_weights(left: Path, right: Path) -> bool:
    return left.read_bytes() == right.read_bytes()


@pytest.mark.parametrize("stops", [[1, 4, 9], [STEPS, STEPS, 3]])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(run, config, monkeypatch, stops):
    """In the middle of an epoch and at its end; weights, optimizer, tables: bit for bit."""
    name = f"stopped{stops[0]}"
    config = config.model_copy(update={"run_name": name, "resume": "auto"})
    ms.set_seed(1)
    for steps in stops:
        monkeypatch.setattr("src.trainer.STOP", StopAfter(steps))
        assert not train(config).finished
        ms.set_seed(99)  # what is drawn from now on must not matter
    monkeypatch.setattr("src.trainer.STOP", StopSignals())
    outcome = train(config)
    assert outcome.finished
    last = f"Midas_0-{EPOCHS}_{STEPS}.ckpt"
    for file in (f"ckpt/{last}", "ckpt/best.ckpt", "validation.csv"):
        assert (outcome.run / file).read_bytes() == (run / file).read_bytes(), file
    for left, right in zip(read_metrics(run), read_metrics(outcome.run), strict=True):
        assert {**left, "images_per_second": 0} == {**right, "images_per_second": 0}
    log = (outcome.run / "train.log").read_text()
    assert log.count("stopped on request after") == log.count("resumed after") == len(stops)
    assert log.count("WARNING: no model_weights") == 1


def test_a_finished_run_stays_as_it_is(run, config):
    before = {path: path.read_bytes() for path in run.rglob("*.c*") if path.is_file()}
    assert train(config.model_copy(update={"resume": "auto"})).finished
    assert {path: path.read_bytes() for path in run.rglob("*.c*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch_size", 2), ("seed", 5), ("alpha", 0.25), ("img_width", 96), ("amp_level", "O2")],
)
def test_a_run_is_not_continued_with_other_settings(run, config, key, value):
    other = config.model_copy(update={"resume": "auto", key: value})
    with pytest.raises(UserError, match=rf"^resume: {key} is {value}, but was .*--config_path"):
        train(other)


def test_other_training_images_are_not_continued_with(run, config, tmp_path):
    write_training_set(tmp_path)
    for folder in ("Imgs", "RDs"):
        (tmp_path / "ReDWeb_V1" / folder / "0.png").unlink()
    other = config.model_copy(update={"resume": "auto", "train_data_dir": str(tmp_path)})
    with pytest.raises(UserError, match="resume: training images is 5"):
        train(other)


def test_a_checkpoint_elsewhere_is_no_run(run, config, tmp_path):
    path = tmp_path / "Midas_0-1_1.ckpt"
    with pytest.raises(UserError, match="no such file"):
        train(config.model_copy(update={"resume": str(path)}))
    path.write_bytes((run / "ckpt/best.ckpt").read_bytes())
    for file in (path, run / "ckpt/best.ckpt"):
        with pytest.raises(UserError, match="give them as --model_weights"):
            train(config.model_copy(update={"resume": str(file)}))


# --- How a run ends early -------------------------------------------------------------------------


def ended(done: int, steps: int, **outputs: float) -> Position:
    """A run after step `done`, which returned these outputs."""
    usual = {"loss": 0.5, "data_loss": 0.1, "gradient_loss": 0.1, "gradient_norm": 1.0}
    usual |= {"finite": 1.0, "loss_scale": 1.0, "stop": 0.0, "losses": (0.5,), "weights": (1.0,)}
    return Position(epochs=4, steps=steps, done=done, outputs=StepOutputs(**usual | outputs))


def guarded(position: Position, errors: Sequence[UserError] = (), run: Path | None = None) -> Guard:
    def batch_files(epoch: int, step: int) -> list[str]:
        return [f"epoch{epoch}_step{step}_{i}.jpg" for i in range(5)]

    data = SimpleNamespace(errors=errors, skipped={}, batch_files=batch_files)
    return Guard(data, position, run or Path("run"), writes=run is not None)


def test_the_guard_names_epoch_step_and_files_of_a_later_step(tmp_path):
    """Users count from 1, the data from 0; all files of the batch are in a file of the run."""
    position = ended(done=8, steps=3, loss=float("inf"))
    with pytest.raises(UserError) as caught:
        guarded(position, run=tmp_path).on_train_step_end(None)
    listed = tmp_path / "diverged-3_2.txt"
    assert "loss is inf at epoch 3 step 2: " in str(caught.value)
    assert f"epoch2_step1_2.jpg and 2 more, listed in {listed}" in str(caught.value)
    assert listed.read_text().splitlines() == [f"epoch2_step1_{i}.jpg" for i in range(5)]


def test_a_gradient_that_is_not_finite_stops_a_run_in_float32(tmp_path):
    position = ended(done=1, steps=3, gradient_norm=float("nan"), finite=0.0)
    with pytest.raises(UserError, match="gradient norm is nan at epoch 1 step 1"):
        guarded(position).on_train_step_end(None)
    assert list(tmp_path.iterdir()) == []


def test_an_overflow_in_float16_is_told_and_borne_until_the_scale_is_1(caplog):
    outputs = {"loss": float("nan"), "gradient_norm": float("inf"), "finite": 0.0}
    guarded(ended(done=5, steps=3, loss_scale=1024.0, **outputs)).on_train_step_end(None)
    assert "epoch 2 step 2 skipped: gradients overflowed at loss scale 1024" in caplog.text
    with pytest.raises(UserError, match="loss is nan"):
        guarded(ended(done=5, steps=3, loss_scale=1.0, **outputs)).on_train_step_end(None)


def test_the_guard_stops_a_network_that_died():
    """A constant prediction adds nothing to the loss, so a loss of 0 is no success."""
    position = ended(done=1, steps=3)
    guard = guarded(position)
    guard.on_train_step_end(None)
    position.outputs = position.outputs._replace(loss=0.0)
    for done in range(2, 11):
        position.done = done
        guard.on_train_step_end(None)
    position.done = 11
    with pytest.raises(UserError, match=r"0 in 10 steps up to epoch 4 step 2: .*epoch3_step1_0"):
        guard.on_train_step_end(None)


def test_the_guard_hands_on_what_could_not_be_read():
    error = UserError("x.jpg: truncated")
    with pytest.raises(UserError, match=r"x\.jpg"):
        guarded(ended(done=1, steps=3), [error]).on_train_step_begin(None)


def test_the_guard_bears_a_flat_batch_now_and_then():
    position = ended(done=1, steps=50)
    guard = guarded(position)
    for done in range(1, 40):
        position.outputs = position.outputs._replace(loss=0.0 if done % 10 else 0.1)
        guard.on_train_step_end(None)
    assert guard.zeros == 9


def saving(run: Path, network: nn.Cell, position: Position, **options: int) -> CheckpointSaver:
    (run / "ckpt/resume").mkdir(parents=True, exist_ok=True)
    every = {"every_epochs": 1, "every_steps": 0} | options
    state = {"moment": np.zeros(2, np.float32)}
    return CheckpointSaver(
        network,
        Checkpoints(run, 2),
        SimpleNamespace(flush=lambda: None),
        position,
        **every,
        state=lambda: state,
        facts=dict,
    )


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        # Steps 1 to 12 of 4 epochs; 12 is the last.
        ({"every_epochs": 1}, [3, 6, 9, 12]),
        ({"every_epochs": 2}, [6, 12]),
        ({"every_epochs": 3}, [9, 12]),
        ({"every_epochs": 4, "every_steps": 5}, [5, 10, 12]),
    ],
)
def test_when_checkpoints_are_saved(tmp_path, options, saved):
    found = []
    for done in range(1, 13):
        run = tmp_path / str(done)
        saving(run, nn.Dense(2, 2), ended(done, steps=3), **options).on_train_step_end(None)
        if Checkpoints(run, 1).paths():
            found.append(done)
    assert found == saved


def test_a_checkpoint_is_saved_before_a_stop(tmp_path):
    saving(tmp_path, nn.Dense(2, 2), ended(4, steps=3, stop=0.5)).on_train_step_end(None)
    assert [path.name for path in Checkpoints(tmp_path, 1).paths()] == ["Midas_0-2_1.ckpt"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    network = nn.Dense(2, 2)
    saving(tmp_path, network, ended(3, steps=3)).on_train_step_end(None)
    network.bias.set_data(ms.Tensor([1.0, np.nan], ms.float32))
    with pytest.raises(UserError, match="bias: not finite after epoch 2 step 3"):
        saving(tmp_path, network, ended(6, steps=3)).on_train_step_end(None)
    assert [path.name for path in Checkpoints(tmp_path, 1).paths()] == ["Midas_0-1_3.ckpt"]


@pytest.mark.parametrize("kind", ["run", "empty folder", "file"])
def test_what_exists_under_the_run_name_is_not_touched(root, small_network, kind):
    config = small_config(root, small_network, run_name=kind.replace(" ", "_"))
    path = Path(config.run_path) / config.run_name
    path.parent.mkdir(exist_ok=True)
    if kind == "file":
        path.write_text("mine")
    else:
        path.mkdir()
    if kind == "run":
        (path / "ckpt").mkdir()
        (path / "metrics.csv").write_text("mine")
    with pytest.raises(UserError, match="exists and is not overwritten") as caught:
        train(config)
    assert str(path) in str(caught.value)
    content = {child.name for child in path.iterdir()} if path.is_dir() else path.read_text()
    assert content == {"run": {"ckpt", "metrics.csv"}, "empty folder": set(), "file": "mine"}[kind]


def test_bad_weights_leave_no_run_folder(root, small_network, tmp_path):
    weights = tmp_path / "none.ckpt"
    config = small_config(root, small_network, run_name="unborn", model_weights=weights)
    with pytest.raises(UserError, match=r"none\.ckpt"):
        train(config)
    assert not (Path(config.run_path) / "unborn").exists()


def test_a_run_path_that_is_a_file_is_named(root, small_network, tmp_path):
    (tmp_path / "file").write_text("")
    config = small_config(root, small_network, run_path=tmp_path / "file")
    with pytest.raises(UserError, match="run_path: cannot create"):
        train(config)


# --- Several datasets -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets "a, b" of 6 images and "c" of 5, of weights 3 and 1; in c, larger is farther."""
    root = tmp_path_factory.mktemp("mixed")
    for name in ("a", "c"):
        write_training_set(root / name)
    for folder in ("Imgs", "RDs"):
        (root / "c/ReDWeb_V1" / folder / "5.png").unlink()
    write_mix(root, "mixdata.json", {"a, b": ("a", {"weight": 3}), "c": ("c", {"kind": "depth"})})
    return root


def write_mix(root: Path, name: str, datasets: dict[str, tuple[str, dict]]) -> None:
    """mixdata of folders with a ReDWeb_V1 in each, and what else their entries hold."""
    entries = {
        key: {"image": f"{folder}/ReDWeb_V1/Imgs/*", "depth": f"{folder}/ReDWeb_V1/RDs/*", **more}
        for key, (folder, more) in datasets.items()
    }
    (root / name).write_text(json.dumps(entries))


@pytest.fixture(scope="module")
def mixed_config(mixed_root: Path, small_network: dict) -> Config:
    changes = {"mixing": "pareto", "pareto_scope": "all", "batch_size": 2, "epoch_size": 3}
    changes |= {"val_mixdata": "", "save_checkpoint_epochs": 1, "loss": "ssitrim"}
    return small_config(mixed_root, small_network, **changes)


@pytest.fixture(scope="module")
def mixed_run(mixed_config: Config) -> Path:
    ms.set_seed(1)
    logging.getLogger("midas").setLevel(logging.INFO)
    return train(mixed_config).run


def test_the_loss_and_weight_of_each_dataset_are_in_the_metrics(mixed_run, mixed_config):
    own = ["loss/a, b", "loss/c", "weight/a, b", "weight/c"]
    rows = read_metrics(mixed_run)
    assert list(rows[0]) == [*METRICS, *own]
    assert len(rows) == 3 * 3  # 6 images, 2 a step
    for row in rows:
        losses = [row["loss/a, b"], row["loss/c"]]
        weights = [row["weight/a, b"], row["weight/c"]]
        assert row["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
        assert sum(weights) == pytest.approx(1, abs=1e-5)
        assert min(weights) >= 0
        assert row["gradient_norm"] > 0
    assert len({row["weight/c"] for row in rows}) > 1  # solved in each step
    log = (mixed_run / "train.log").read_text()
    assert "11 images of 2 datasets, mixing pareto, batch 2 of each, no held-out images" in log
    assert "mixdata: the datasets' weights are ignored, for mixing is pareto" in log
    mean = np.mean([row["loss/c"] for row in rows[-3:]])
    assert f", c {mean:.4f} (" in log.splitlines()[-1]


def test_the_curves_of_several_datasets_have_a_row_more(mixed_run, run):
    heights = []
    for folder in (mixed_run, run):
        with Image.open(folder / "curves.png") as picture:
            heights.append(picture.height)
    assert heights[0] == pytest.approx(4 / 3 * heights[1], abs=2)


def test_a_mixed_run_that_was_stopped_ends_as_one_that_was_not(
    mixed_run, mixed_config, monkeypatch
):
    config = mixed_config.model_copy(update={"run_name": "stopped", "resume": "auto"})
    ms.set_seed(1)
    for steps in (2, 3):
        monkeypatch.setattr("src.trainer.STOP", StopAfter(steps))
        assert not train(config).finished
        ms.set_seed(99)
    monkeypatch.setattr("src.trainer.STOP", StopSignals())
    outcome = train(config)
    assert outcome.finished
    assert same_weights(outcome.run / "ckpt/Midas_0-3_3.ckpt", mixed_run / "ckpt/Midas_0-3_3.ckpt")
    for left, right in zip(read_metrics(mixed_run), read_metrics(outcome.run), strict=True):
        assert {**left, "images_per_second": 0} == {**right, "images_per_second": 0}


@pytest.mark.parametrize(
    ("key", "value"), [("mixing", "naive"), ("pareto_scope", "last"), ("epoch_images", 24)]
)
def test_a_mixed_run_is_not_continued_with_another_mix(mixed_run, mixed_config, key, value):
    other = mixed_config.model_copy(update={"resume": "auto", key: value})
    with pytest.raises(UserError, match=rf"^resume: {key} is {value}, but was .*--config_path"):
        train(other)


def test_other_weights_do_not_stop_a_pareto_run_and_other_masks_do(
    mixed_root, mixed_run, mixed_config
):
    own = (mixed_root / "mixdata.json").read_text()
    config = mixed_config.model_copy(update={"resume": "auto"})
    try:
        (mixed_root / "mixdata.json").write_text(own.replace('"weight": 3', '"weight": 2'))
        assert train(config).finished
        mask = '"mask": "a/ReDWeb_V1/RDs/*"'
        (mixed_root / "mixdata.json").write_text(own.replace('"weight": 3', mask))
        with pytest.raises(UserError, match="resume: training images is 11 of a, b, c, list"):
            train(config)
    finally:
        (mixed_root / "mixdata.json").write_text(own)


def test_a_run_of_an_older_version_says_so(mixed_run, mixed_config, monkeypatch):
    load = Checkpoints.load

    def load_older(self: Checkpoints, path: Path) -> Snapshot:
        snapshot = load(self, path)
        del snapshot.facts["shared"]["mixing"]
        return snapshot

    monkeypatch.setattr(Checkpoints, "load", load_older)
    with pytest.raises(UserError, match=r"^resume: .* was made before there was mixing; finish it"):
        train(mixed_config.model_copy(update={"resume": "auto"}))


def test_a_dataset_of_weight_0_is_left_out_by_weighted(mixed_root, mixed_config, caplog):
    """So the one that is left is the whole loss; `epoch_images` 8 are four steps of it."""
    write_mix(mixed_root, "zero.json", {"a": ("a", {}), "none": ("c", {"weight": 0})})
    changes = {"mixing": "weighted", "mixdata": "zero.json", "run_name": "weighted"}
    changes |= {"epoch_size": 1, "epoch_images": 8}
    run = train(mixed_config.model_copy(update=changes)).run
    assert "mixdata: weight 0, so left out: none" in caplog.messages
    rows = read_metrics(run)
    assert list(rows[0]) == METRICS
    assert len(rows) == 4
    log = (run / "train.log").read_text()
    assert "6 images, batch 2" in log
    assert "mixing: there is one dataset, so weighted has nothing to mix" in log


def test_more_datasets_than_pareto_takes_are_one_line(mixed_root, mixed_config):
    write_mix(mixed_root, "many.json", {f"d{i}": ("a", {}) for i in range(13)})
    config = mixed_config.model_copy(update={"mixdata": "many.json", "run_name": "many"})
    with pytest.raises(
        UserError, match=r"^mixing: pareto takes 12 datasets at most, many.json has"
    ):
        train(config)
    assert not (Path(config.run_path) / "many").exists()


def test_a_dataset_without_valid_pixels_stops_before_a_run_is_made(mixed_root, mixed_config):
    """Its depths are all 0."""
    for i in range(2):
        for folder, data in (
            ("Imgs", np.full((SIZE, SIZE, 3), 9, np.uint8)),
            ("RDs", np.zeros((SIZE, SIZE), np.uint8)),
        ):
            path = mixed_root / "bad/ReDWeb_V1" / folder / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file_formats.png(data))
    write_mix(mixed_root, "empty.json", {"a": ("a", {}), "bad": ("bad", {"kind": "depth"})})
    config = mixed_config.model_copy(update={"mixdata": "empty.json", "run_name": "empty"})
    with pytest.raises(UserError, match=r"^bad: not one valid pixel in the first 2 of"):
        train(config)
    assert not (Path(config.run_path) / "empty").exists()
