"""run_eval.sh and run_standalone_train.sh: what arguments mean, what a run leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src import checkpoint
from src.midas_net import MidasNet
from tests import file_formats

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SIZE = 64


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture(scope="module")
def weights(tmp_path_factory, small_network) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.ckpt"
    checkpoint.save(MidasNet(**small_network), path)
    return path


@pytest.fixture
def place(tmp_path, small_network) -> Path:
    """A folder with one image each of Kitti and Sintel and a damaged one of TUM."""
    network = {key: list(v) if key == "layers" else v for key, v in small_network.items()}
    sizes = dict.fromkeys(("img_width", "img_height", "eval_size"), SIZE)
    values = network | sizes | {"train_data_dir": "data", "ann_file": "results/val.json"}
    lines = [f"{key}: {value}" for key, value in values.items()]
    put(tmp_path / "small.yaml", "\n".join(lines).encode())
    rng = np.random.default_rng(0)
    image = file_formats.png(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    depth = rng.integers(256, 2560, (SIZE, SIZE), dtype=np.uint16)
    data = tmp_path / "data"
    put(data / "Kitti_raw_data/drive/image/0.png", image)
    put(data / "Kitti_raw_data/drive/depth/0.png", file_formats.png(depth))
    put(data / "Sintel/final_left/alley/0.png", image)
    put(data / "Sintel/depth/alley/0.dpt", file_formats.dpt(depth / 256))
    put(data / "TUM/desk/associate.txt", b"rgb/0.png depth/0.png")
    put(data / "TUM/desk/rgb/0.png", image[:-200])
    put(data / "TUM/desk/depth/0.png", file_formats.png(depth))
    (tmp_path / "results").mkdir()
    return tmp_path


def run(place: Path, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script in `place` with small.yaml; `arguments` come first."""
    command = ["bash", SCRIPTS / script, *arguments, "--config_path", "small.yaml"]
    return subprocess.run(
        [str(part) for part in command],
        cwd=place,
        env=os.environ | {"MIDAS_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
    )


def paths(place: Path) -> list[Path]:
    return sorted(place.rglob("*"))


def assert_refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_evaluations_add_to_one_log_beside_the_results(place, weights):
    # The first one names by a flag what the second one takes from the file.
    first = run(place, "run_eval.sh", 0, "Kitti", weights, "CPU", "--ann_file=results/val.json")
    assert first.returncode == 0, first.stderr
    log = (place / "results/val.log").read_text()
    second = run(place, "run_eval.sh", 0, "Sintel", weights)
    assert second.returncode == 0, second.stderr

    assert list(json.loads((place / "results/val.json").read_text())) == ["Kitti", "Sintel"]
    made = sorted(path.name for path in (place / "results").iterdir())
    assert made == ["val", "val.json", "val.log"]
    details = {path.name for path in (place / "results/val").iterdir()}
    assert details == {"panels", "report.html", "results.csv", "results.json"}
    whole = (place / "results/val.log").read_text()
    assert whole.startswith(log)
    for name, done, part in (("Kitti", first, log), ("Sintel", second, whole[len(log) :])):
        table, _, _ = done.stdout.partition("results: ")
        assert table.splitlines()[0].startswith("benchmark ")
        assert table.splitlines()[1].startswith(f"{name} ")
        assert table in part
        assert str(weights) in part


def test_another_ann_file_has_another_log(place, weights):
    done = run(place, "run_eval.sh", 0, "Sintel", weights, "CPU", "--ann_file=sintel.json")
    assert done.returncode == 0, done.stderr
    assert list(json.loads((place / "sintel.json").read_text())) == ["Sintel"]
    assert "Sintel " in (place / "sintel.log").read_text()
    assert paths(place / "results") == []


def test_the_log_says_why_an_evaluation_stopped(place, weights):
    done = run(place, "run_eval.sh", 0, "TUM", weights)
    assert (done.returncode, done.stdout) == (2, "")
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    assert str(place / "data/TUM/desk/rgb/0.png") in error
    assert (place / "results/val.log").read_text().splitlines()[-1].endswith(error)
    assert not (place / "results/val.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["first"], "device_id: got 'first'"),
        ([0, "nowhere"], "data_name: got 'nowhere'"),
        ([0, "Sintel", "missing.ckpt"], "{place}/missing.ckpt: no such checkpoint"),
        ([0, "Sintel", "missing.ckpt", "TPU"], "device_target: got 'TPU'"),
        (
            [0, "Sintel", "missing.ckpt", "CPU", "--ann_file=val.log"],
            "ann_file: got '{place}/val.log'",
        ),
    ],
)
def test_bad_arguments_of_an_evaluation_write_nothing(place, arguments, message):
    before = paths(place)
    assert_refused(run(place, "run_eval.sh", *arguments), message.format(place=place))
    assert paths(place) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["first"], "device_id: got 'first'"),
        ([0, "missing.ckpt", "--run_path", "runs"], "{place}/missing.ckpt: no such checkpoint"),
    ],
)
def test_arguments_of_a_training(place, arguments, message):
    mixdata = {"img": {"RW": "ReDWeb_V1/Imgs/*"}, "depth": {"RW": "ReDWeb_V1/RDs/*"}}
    put(place / "data/mixdata.json", json.dumps(mixdata).encode())
    for i in range(8):  # a batch
        grey = np.full((SIZE, SIZE), i + 1, np.uint8)
        put(place / f"data/ReDWeb_V1/RDs/{i}.png", file_formats.png(grey))
        image = file_formats.png(np.dstack([grey] * 3))
        put(place / f"data/ReDWeb_V1/Imgs/{i}.png", image)
    before = paths(place)
    done = run(place, "run_standalone_train.sh", *arguments)
    assert_refused(done, message.format(place=place))
    assert paths(place) == before
