"""midas_train.py as a lab runs it: killed, stopped, on a full disk, with files that are broken.

All runs that can have one configuration, so that one compiled graph serves them: 150 images of
which one is unreadable and skipped, two epochs of five steps, a checkpoint every second step.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from src import checkpoint
from src.midas_net import MidasNet
from src.run_folder import Checkpoints
from src.watching import METRICS
from tests import file_formats

PROGRAM = Path(__file__).resolve().parents[2] / "midas_train.py"
IMAGES, HELD_OUT, SIZE = 150, 2, 64
BATCH, EPOCHS, STEPS, EVERY = 30, 2, 5, 2
LAST = f"ckpt/Midas_0-{EPOCHS}_{STEPS}.ckpt"
ALL_STEPS = [(epoch, step) for epoch in range(1, EPOCHS + 1) for step in range(1, STEPS + 1)]
SECONDS = 240  # for one start; they take ten, and the first one half a minute


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"nothing came for {SECONDS} seconds"
        time.sleep(0.01)


def write_images(data: Path) -> None:
    """Blobs whose disparity is their brightness, smaller than the network's input."""
    rows, columns = np.mgrid[:32, :32]
    for kind, count in (("train", IMAGES), ("val", HELD_OUT)):
        for folder in ("Imgs", "RDs"):
            (data / kind / folder).mkdir(parents=True)
        for i in range(count):
            y, x = np.random.default_rng(i).uniform(4, 28, 2)
            blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 100) * 200 + 20
            values = blob.astype(np.uint8)
            image = file_formats.png(np.dstack([values] * 3))
            (data / kind / f"Imgs/{i:03}.png").write_bytes(image)
            (data / kind / f"RDs/{i:03}.png").write_bytes(file_formats.png(values))
    for file, kind in (("mixdata.json", "train"), ("held_out.json", "val")):
        mixdata = {"img": {"RW": f"{kind}/Imgs/*"}, "depth": {"RW": f"{kind}/RDs/*"}}
        (data / file).write_text(json.dumps(mixdata))


def break_image(data: Path, number: int) -> Path:
    path = data / f"train/Imgs/{number:03}.png"
    path.write_bytes(path.read_bytes()[:60])
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory, small_network) -> Path:
    """A folder with the data, its configuration and the compiled graphs; programs run in it."""
    place = tmp_path_factory.mktemp("place")
    write_images(place / "data")
    break_image(place / "data", 7)
    network = {key: list(v) if key == "layers" else v for key, v in small_network.items()}
    values = {
        **network,
        **{"img_width": SIZE, "img_height": SIZE, "batch_size": BATCH, "epoch_size": EPOCHS},
        **{"no_backbone_params_lr": 0.002, "backbone_params_lr": 0.001, "lr_decay": True},
        **{"train_data_dir": "data", "val_mixdata": "held_out.json", "on_bad_sample": "skip"},
        **{"save_checkpoint_steps": EVERY, "keep_checkpoint_max": 3, "num_parallel_workers": 1},
        **{"run_path": "runs", "compile_cache": "graphs"},
    }
    (place / "small.yaml").write_text("\n".join(f"{key}: {v}" for key, v in values.items()))
    return place


class Training:
    """The program in `place`; once it has ended, `out` and `err` are what it wrote."""

    def __init__(self, place: Path, run: str, arguments: tuple[object, ...]) -> None:
        self.run = place / "runs" / run
        command = [sys.executable, PROGRAM, "--config_path", "small.yaml", "--run_name", run]
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=place,
            env={key: v for key, v in os.environ.items() if key not in ("GLOG_v", "MS_ROLE")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.out = self.err = ""

    def after_steps(self, count: int) -> None:
        """Wait until metrics.csv has so many rows."""
        wait_until(lambda: len(rows(self.run / "metrics.csv")) >= count or self.ended())
        assert not self.ended(), self.process.communicate()

    def after_line(self, text: str, count: int) -> None:
        """Wait until train.log has it so many times."""
        log = self.run / "train.log"
        wait_until(lambda: log.read_text().count(text) >= count or self.ended())
        assert not self.ended(), self.process.communicate()

    def ended(self) -> bool:
        return self.process.poll() is not None

    def end(self, with_signal: signal.Signals | None = None) -> int:
        """Wait for it; its exit code."""
        if with_signal is not None:
            self.process.send_signal(with_signal)
        self.out, self.err = self.process.communicate(timeout=SECONDS)
        assert "Traceback" not in self.err
        return self.process.returncode

    def last_line(self) -> str:
        return self.err.splitlines()[-1]


@contextlib.contextmanager
def started(place: Path, run: str, *arguments: object) -> Iterator[Training]:
    training = Training(place, run, arguments)
    try:
        yield training
    finally:
        training.process.kill()
        training.process.communicate()


def whole(place: Path, run: str, *arguments: object) -> Training:
    """A run to its end."""
    with started(place, run, *arguments) as training:
        assert training.end() == 0, training.err
        assert training.out == f"run folder: {training.run}\n"
    return training


def error_of(place: Path, run: str, *arguments: object) -> str:
    """The one line of a run that is refused or fails."""
    with started(place, run, *arguments) as training:
        assert training.end() == 2, training.err
    (line,) = (line for line in training.err.splitlines() if line.startswith("error: "))
    assert training.last_line() == line
    assert training.out == ""
    return line


def rows(table: Path) -> list[list[str]]:
    """The whole lines of a CSV file below its header."""
    text = table.read_text() if table.exists() else ""
    return list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))[1:]


def assert_same_end(run: Path, reference: Path) -> None:
    """Weights, optimizer, best weights and tables, bit for bit; only the speed may differ."""
    assert (run / LAST).read_bytes() == (reference / LAST).read_bytes()
    assert not list(run.rglob(".*"))
    for name in (f"ckpt/resume/{Path(LAST).name}", "ckpt/best.ckpt", "validation.csv"):
        assert (run / name).read_bytes() == (reference / name).read_bytes(), name
    speed = METRICS.index("images_per_second")
    metrics, expected = (rows(folder / "metrics.csv") for folder in (run, reference))
    for row, wanted in zip(metrics, expected, strict=True):
        assert [*row[:speed], *row[speed + 1 :]] == [*wanted[:speed], *wanted[speed + 1 :]]
    assert [(int(row[0]), int(row[1])) for row in metrics] == ALL_STEPS


@pytest.fixture(scope="module")
def reference(place) -> Training:
    """A run that nothing happens to, but for one unreadable image."""
    return whole(place, "reference")


# --- Files that cannot be read, a loss that is not finite -----------------------------------------


def test_one_unreadable_image_of_150_is_skipped_and_told(reference):
    bad = "data/train/Imgs/007.png"
    told = "unreadable, another takes its place (1): "
    (line,) = (line for line in reference.err.splitlines() if told in line)
    assert bad in line
    assert f"{told}{line.split(told, 1)[1]}" in (reference.run / "train.log").read_text()
    assert [(int(row[0]), int(row[1])) for row in rows(reference.run / "metrics.csv")] == ALL_STEPS


def test_two_unreadable_images_of_150_end_the_run(place):
    """That is more than 1 %."""
    shutil.copytree(place / "data", place / "worse")
    break_image(place / "worse", 99)
    line = error_of(place, "worse", "--train_data_dir", "worse")
    assert "2 of 150 images (1.3 %) cannot be read" in line
    assert "train/Imgs/007.png" in line


def test_a_loss_that_is_not_finite_names_the_files_of_the_batch(place, small_network):
    """Of weights whose last layer is so large that predictions are infinite."""
    network = MidasNet(**small_network)
    last = network.decoder.output_conv[4].weight
    last.set_data(ms.Tensor(np.full(last.shape, 3e38, np.float32)))
    checkpoint.save(network, place / "huge.ckpt")
    line = error_of(place, "diverged", "--model_weights", "huge.ckpt")
    assert "loss is nan at epoch 1 step 1: the training has diverged" in line
    listed = place / "runs/diverged/diverged-1_1.txt"
    assert f"and {BATCH - 3} more, listed in {listed}" in line
    files = listed.read_text().splitlines()
    assert len(set(files)) == len(files) == BATCH
    assert set(files) <= {str(path) for path in (place / "data/train/Imgs").iterdir()}
    assert all(file in line for file in files[:3])
    assert line in (place / "runs/diverged/train.log").read_text()
    assert Checkpoints(place / "runs/diverged", 1).newest() is None


# --- Kills and stops ------------------------------------------------------------------------------


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(place, reference):
    """First before it has saved anything, then at three moments that are drawn."""
    moments = random.Random(5)
    with started(place, "killed", "--save_checkpoint_steps", 0) as training:
        training.after_steps(1)
        training.end(signal.SIGKILL)
    run = training.run
    assert Checkpoints(run, 1).newest() is None
    for starts in (1, 2, 3):
        with started(place, "killed", "--resume", "auto") as training:
            training.after_line("150 images", starts + 1)
            training.after_steps(min(len(rows(run / "metrics.csv")) + moments.randint(1, 2), 9))
            time.sleep(moments.uniform(0, 0.1))
            training.end(signal.SIGKILL)
    whole(place, "killed", "--resume", "auto")
    assert_same_end(run, reference.run)
    assert sorted(path.name for path in (place / "runs").glob("killed*")) == ["killed"]


def assert_stopped(training: Training, with_signal: signal.Signals) -> None:
    """It has saved, said so, and can go on."""
    assert training.end(with_signal) == 3, training.err
    epoch, step = map(int, rows(training.run / "metrics.csv")[-1][:2])
    assert f"{with_signal.name}: saving after the next step" in training.err
    said = f"stopped on request after epoch {epoch} step {step}; continue with --resume auto"
    assert training.err.splitlines().count(said) == 1
    assert training.out == f"run folder: {training.run}\n"
    newest = Checkpoints(training.run, 1).newest()
    assert newest == training.run / f"ckpt/Midas_0-{epoch}_{step}.ckpt"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_signals_and_a_damaged_checkpoint_change_nothing_in_the_end(place, reference):
    with started(place, "stopped") as training:
        training.after_steps(2)
        assert_stopped(training, signal.SIGTERM)
    run = training.run
    done = len(rows(run / "metrics.csv"))
    with started(place, "stopped", "--resume", "auto") as training:
        training.after_steps(done + 1)
        assert_stopped(training, signal.SIGINT)
    newest = Checkpoints(run, 1).newest()
    flip(newest)
    training = whole(place, "stopped", "--resume", "auto")
    assert f"{newest}: not a MindSpore checkpoint, or damaged" in training.err
    assert "trying the one before" in training.err
    assert_same_end(run, reference.run)


def test_signals_in_the_middle_of_compiling_are_obeyed_after_a_step(place, reference, tmp_path):
    for with_signal, resume in ((signal.SIGTERM, "False"), (signal.SIGINT, "auto")):
        graphs = tmp_path / with_signal.name
        with started(place, "early", "--resume", resume, "--compile_cache", graphs) as training:
            wait_until(lambda: list(graphs.glob("*/.new-*")) or training.ended())  # noqa: B023
            time.sleep(1)
            before = len(rows(training.run / "metrics.csv"))
            assert_stopped(training, with_signal)
        assert 0 < len(rows(training.run / "metrics.csv")) - before <= 2
    whole(place, "early", "--resume", "auto")
    assert_same_end(training.run, reference.run)


def test_a_mixed_run_in_float16_that_was_stopped_ends_as_one_that_was_not(place):
    """Two datasets, Pareto mixing, two compiled graphs, which the second start finds."""
    entries = {
        name: {"image": f"{kind}/Imgs/*", "depth": f"{kind}/RDs/*"}
        for name, kind in (("many", "train"), ("few", "val"))
    }
    (place / "data/two.json").write_text(json.dumps(entries))
    arguments = ("--mixdata", "two.json", "--mixing", "pareto", "--amp_level", "O2")
    arguments += ("--epoch_images", 2 * BATCH * len(ALL_STEPS) // EPOCHS)
    reference = whole(place, "mixed", *arguments)
    with started(place, "mixed-stopped", *arguments) as training:
        training.after_steps(2)
        assert_stopped(training, signal.SIGTERM)
    whole(place, "mixed-stopped", *arguments, "--resume", "auto")
    assert_same_end(training.run, reference.run)


# --- A full disk ----------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of this size, where the machine lets us mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], timeout=30, check=True)


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_after(place, reference):
    """A checkpoint has 2.4 MB: two fit."""
    disk = place / "disk"
    with small_disk(disk, "6m"):
        line = error_of(place, "full", "--run_path", disk)
        assert "cannot be written (No space left on device)" in line
        run = disk / "full"
        newest = Checkpoints(run, 1).newest()
        assert newest == run / "ckpt/Midas_0-1_4.ckpt"
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], timeout=30, check=True)
        with started(place, "full", "--run_path", disk, "--resume", "auto") as training:
            assert training.end() == 0, training.err
        assert_same_end(run, reference.run)


# --- What is refused, and mixed precision ---------------------------------------------------------


def test_a_checkpoint_that_is_not_there_cannot_be_resumed(place):
    line = error_of(place, "new", "--resume", "runs/nowhere/ckpt/Midas_0-1_1.ckpt")
    assert "runs/nowhere/ckpt/Midas_0-1_1.ckpt: no such file" in line
    assert not (place / "runs/new").exists()


def test_a_run_cannot_be_resumed_with_another_batch_size(place, reference):
    line = error_of(place, "reference", "--resume", "auto", "--batch_size", 15)
    assert f"resume: batch_size is 15, but was {BATCH} in {reference.run}" in line


def test_held_out_images_come_from_one_place(place):
    line = error_of(place, "new", "--val_share", 0.1)
    assert line.startswith("error: val_mixdata, val_share: ")
    assert not (place / "runs/new").exists()


def test_two_trainings_do_not_write_to_one_folder(place):
    with started(place, "shared") as first:
        first.after_steps(1)
        first.process.send_signal(signal.SIGSTOP)  # it keeps the folder, and waits
        before = {path: path.stat().st_mtime_ns for path in first.run.rglob("*")}
        line = error_of(place, "shared", "--resume", "auto")
        assert f"run_name: another training writes to {first.run}; wait, or" in line
        assert {path: path.stat().st_mtime_ns for path in first.run.rglob("*")} == before


def test_float16_trains_on_a_cpu(place, reference):
    training = whole(place, "float16", "--amp_level", "O2", "--epoch_size", 1)
    first, expected = (rows(run / "metrics.csv")[0] for run in (training.run, reference.run))
    assert len(rows(training.run / "metrics.csv")) == STEPS
    assert float(first[6]) == 65536  # loss_scale
    assert float(expected[6]) == 1
    assert first[2] != expected[2]
    assert float(first[2]) == pytest.approx(float(expected[2]), rel=0.02)
    assert Checkpoints(training.run, 1).newest() == training.run / f"ckpt/Midas_0-1_{STEPS}.ckpt"
