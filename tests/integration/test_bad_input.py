"""What users get wrong, through the real programs: one clear line, exit code 2, nothing written."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from src import checkpoint
from src.midas_net import MidasNet
from tests import file_formats

REPOSITORY = Path(__file__).resolve().parents[2]
SIZE = 64
IMAGES = 4


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def photograph(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def weights(tmp_path_factory, small_network) -> dict[str, Path]:
    """Checkpoints of the small network, of a wider one, and of one that has diverged."""
    folder = tmp_path_factory.mktemp("weights")
    files = {name: folder / f"{name}.ckpt" for name in ("good", "wide", "nan", "text")}
    network = MidasNet(**small_network)
    checkpoint.save(network, files["good"])
    checkpoint.save(MidasNet(**small_network | {"features": 32}), files["wide"])
    stem = network.backbone.conv1.weight
    stem.set_data(ms.Tensor(np.full(stem.shape, np.nan, np.float32)))
    checkpoint.save(network, files["nan"])
    files["text"].write_text("these are not the weights you are looking for\n")
    return files


REDWEB = {"image": "ReDWeb_V1/Imgs/*", "depth": "ReDWeb_V1/RDs/*"}
KITTI = {"image": "Kitti_raw_data/*/image/*", "depth": "Kitti_raw_data/*/depth/*"}  # all 2560
HDF5 = {"image": "mega/*.jpg", "depth": "mega/*.h5", "kind": "depth"}  # with /depths inside
BAD_MIXES = {
    "nothing": {"A": REDWEB | {"depth": "none/*"}},
    "lengths": {"A": REDWEB | {"depth": "ReDWeb_V1/RDs/[0-2].png"}},
    "no_key": {"A": REDWEB, "B": HDF5},
    "other_key": {"A": REDWEB, "B": HDF5 | {"key": "/depth"}},
    "unknown": {"A": REDWEB, "B": KITTI | {"invalid": 2560}},
    "negative": {"A": REDWEB | {"weight": -1}},
    "weightless": {"A": REDWEB | {"weight": 0}, "B": KITTI | {"weight": 0}},
    "formula": {"A": REDWEB, "$B$": KITTI},
}


@pytest.fixture
def place(tmp_path, small_network) -> Path:
    """A folder with a good input for every program, to be spoilt; programs run in it."""
    network = {key: list(v) if key == "layers" else v for key, v in small_network.items()}
    values = {
        **network,
        **{"img_width": SIZE, "img_height": SIZE, "eval_size": SIZE, "batch_size": 2},
        **{"epoch_size": 6, "run_name": "run", "train_data_dir": "data"},
    }
    lines = [f"{key}: {value}" for key, value in values.items()]
    put(tmp_path / "small.yaml", "\n".join(lines).encode())
    mixdata = {"img": {"RW": "/ReDWeb_V1/Imgs/*"}, "depth": {"RW": "/ReDWeb_V1/RDs/*"}}
    data = tmp_path / "data"
    put(data / "mixdata.json", json.dumps(mixdata).encode())
    for i in range(IMAGES):
        put(data / "ReDWeb_V1/Imgs" / f"{i}.jpg", jpeg(photograph(i)))
        put(data / "ReDWeb_V1/RDs" / f"{i}.png", file_formats.png(photograph(i)[..., 0]))
    depth = np.full((SIZE, SIZE), 2560, np.uint16)
    put(data / "Kitti_raw_data/drive/image/0.png", file_formats.png(photograph(0)))
    put(data / "Kitti_raw_data/drive/depth/0.png", file_formats.png(depth))
    put(data / "Sintel/final_left/alley/0.png", file_formats.png(photograph(0)))
    put(data / "Sintel/depth/alley/0.dpt", file_formats.dpt(depth / 256))
    put(data / "mega/0.jpg", jpeg(photograph(0)))
    with h5py.File(data / "mega/0.h5", "w") as file:
        file["depths"] = depth / 256
    for name, mix in BAD_MIXES.items():
        put(data / f"{name}.json", json.dumps(mix).encode())
    put(tmp_path / "photographs/0.jpg", jpeg(photograph(0)))
    return tmp_path


def run(place: Path, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, REPOSITORY / program, "--config_path", "small.yaml", *arguments]
    not_ours = ("GLOG_v", "MS_ROLE")
    environment = {key: value for key, value in os.environ.items() if key not in not_ours}
    return subprocess.run(
        [str(part) for part in command],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def snapshot(place: Path) -> dict[str, bytes | None]:
    """Every path below `place` with its content, None for folders."""
    return {
        str(path.relative_to(place)): path.read_bytes() if path.is_file() else None
        for path in sorted(place.rglob("*"))
    }


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: object) -> None:
    """Exit code 2 and nothing but one line that has all `parts`."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.endswith("\n")
    for part in parts:
        assert str(part) in done.stderr


def assert_last_line(done: subprocess.CompletedProcess[str], *parts: object) -> None:
    """As `assert_one_line`, where the log of work that had begun stands before the error."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "WARNING] ME" not in done.stderr
    assert "[ERROR]" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == done.stderr.splitlines()[-1:]
    for part in parts:
        assert str(part) in errors[0]


RUN = ("midas_run.py", "--input_path", "photographs", "--output_path", "depth")
EVAL = ("midas_eval.py", "--ann_file", "val.json")
TRAIN = ("midas_train.py", "--run_path", "runs")


# --- Found before any work: one line, and nothing is written --------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        pytest.param(
            (*TRAIN, "--batchsize", "4"), ["batchsize", "did you mean batch_size?"], id="flag"
        ),
        pytest.param(
            (*TRAIN, "--device_target", "GPU"), ["device_target", "GPU", "CPU"], id="no GPU"
        ),
        pytest.param((*TRAIN, "--model_weights", "a.ckpt"), ["a.ckpt: no such"], id="no weights"),
        pytest.param(
            (*EVAL, "--data_name", "TUM", "--ckpt_path", "a.ckpt"),
            ["datapath_TUM", "data/TUM"],
            id="missing dataset",
        ),
        pytest.param(("midas_export.py",), ["model_weights"], id="nothing to export"),
        pytest.param(
            ("midas_eval.py", "--ann_file", "results"),
            ["ann_file", "results", ".json"],
            id="ann_file without .json",
        ),
        pytest.param((*EVAL, "--on_error", "ignore"), ["on_error", "stop", "skip"], id="on_error"),
        pytest.param((*EVAL, "--upsampling", "cubic"), ["upsampling", "bicubic"], id="upsampling"),
        pytest.param((*EVAL, "--eval_batch_size", "0"), ["eval_batch_size"], id="no batch"),
        pytest.param((*EVAL, "--data_name", "Kiti"), ["data_name", "Kiti", "Kitti"], id="no name"),
        pytest.param(
            (*EVAL, "--run_distribute", "True"), ["run_distribute", "src.launch"], id="alone"
        ),
        *(
            pytest.param((*TRAIN, "--mixdata", f"{name}.json"), parts, id=f"mix {name}")
            for name, parts in (
                ("nothing", ["nothing.json: A.depth: no ", "data/none/*"]),
                ("lengths", ["Imgs/3.jpg: has no target", "4 images and 3 targets"]),
                ("no_key", ["no_key.json: B.key: missing", "mega/0.h5"]),
                ("other_key", ["mega/0.h5: has no dataset '/depth', but /depths"]),
                ("unknown", ["B: not one valid pixel in the first 1 of its 1", "depth/0.png"]),
                ("negative", ["negative.json: A.weight: got -1", "at least 0"]),
                ("weightless", ["weightless.json: weight: is 0 in every dataset"]),
                ("formula", ["formula.json: '$B$' names a dataset", "letter or digit first"]),
            )
        ),
    ],
)
def test_what_is_wrong_from_the_start(place, arguments, parts):
    if "GPU" in arguments and Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    before = snapshot(place)
    assert_one_line(run(place, *arguments), *parts)
    assert snapshot(place) == before


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("text", ["text.ckpt: not a MindSpore checkpoint"]),
        ("wide", ["wide.ckpt: does not fit", "--features 32"]),
    ],
)
def test_a_checkpoint_that_does_not_fit(place, weights, name, parts):
    put(place / "depth/0.pfm", b"of yesterday")
    before = snapshot(place)
    assert_one_line(run(place, *RUN, "--model_weights", weights[name]), *parts)
    assert snapshot(place) == before


def test_an_unknown_key_in_a_file(place):
    with (place / "small.yaml").open("a") as file:
        file.write("\nlearning_rates: 0.1\n")
    before = snapshot(place)
    assert_one_line(run(place, *TRAIN), "small.yaml", "learning_rates")
    assert snapshot(place) == before


def test_an_empty_folder(place, weights):
    (place / "photographs/0.jpg").unlink()
    before = snapshot(place)
    done = run(place, *RUN, "--model_weights", weights["good"])
    assert_one_line(done, place / "photographs", "no image")
    assert snapshot(place) == before


def test_a_missing_partner(place):
    (place / "data/ReDWeb_V1/RDs/2.png").unlink()
    before = snapshot(place)
    assert_one_line(run(place, *TRAIN), "Imgs/2.jpg", "RDs/2.png")
    assert snapshot(place) == before


def test_a_run_name_that_exists(place):
    put(place / "runs/run/metrics.csv", b"of yesterday")
    before = snapshot(place)
    assert_one_line(run(place, *TRAIN), "run_name", "runs/run", "not overwritten")
    assert snapshot(place) == before


def test_an_ann_file_that_is_something_else(place):
    put(place / "val.json", b'{"images": []}')
    before = snapshot(place)
    assert_one_line(run(place, *EVAL, "--data_name", "Kitti"), "ann_file", "val.json")
    assert snapshot(place) == before


def test_details_of_an_evaluation_that_are_something_else(place):
    put(place / "val/results.json", b'["mine"]')
    before = snapshot(place)
    done = run(place, *EVAL, "--data_name", "Kitti")
    assert_one_line(done, "ann_file", "val/results.json")
    assert snapshot(place) == before


# --- Found on the way: the log of the work, then one line -----------------------------------------


@pytest.mark.parametrize(
    ("data_name", "file"),
    [("Kitti", "Kitti_raw_data/drive/depth/0.png"), ("Sintel", "Sintel/depth/alley/0.dpt")],
)
def test_depth_in_another_encoding(place, weights, data_name, file):
    """8-bit depth for KITTI; for Sintel the tag of a big-endian file."""
    path = place / "data" / file
    if data_name == "Kitti":
        path.write_bytes(file_formats.png(np.full((SIZE, SIZE), 10, np.uint8)))
    else:
        path.write_bytes(path.read_bytes()[3::-1] + path.read_bytes()[4:])
    put(place / "val.json", b'{"TUM": 15.08}\n')
    before = snapshot(place)
    done = run(place, *EVAL, "--data_name", data_name, "--ckpt_path", weights["good"])
    assert_last_line(done, path)
    after = snapshot(place)
    assert str(path) in after.pop("val.log").decode()  # the log says why the evaluation stopped
    # What --resume True needs is kept apart from results; here it is no image.
    kept = {name for name in after if name == "val" or name.startswith("val/partial")}
    assert kept == {
        *("val", "val/partial"),
        *(f"val/partial/{data_name}{end}" for end in (".json", "-0.csv")),
    }
    assert after[f"val/partial/{data_name}-0.csv"] == b""
    assert {name: after[name] for name in after.keys() - kept} == before


def test_a_truncated_training_file(place):
    path = place / "data/ReDWeb_V1/Imgs/1.jpg"
    path.write_bytes(path.read_bytes()[:2000])
    done = run(place, *TRAIN, "--save_checkpoint_epochs", "1")
    assert_last_line(done, path)
    assert not list((place / "runs/run/ckpt").rglob("*.ckpt"))


def test_weights_that_have_diverged(place, weights):
    """NaN weights: on a CPU the ReLUs turn them into a constant prediction, with a loss of 0; the
    gradient tells at once."""
    done = run(place, *TRAIN, "--model_weights", weights["nan"], "--save_checkpoint_epochs", "99")
    assert_last_line(done, "gradient norm is nan at epoch 1 step 1", "learning rate")
    files = done.stderr.splitlines()[-1].rsplit(": ", 1)[1].split(", ")
    known = [str(place / "data/ReDWeb_V1/Imgs" / f"{i}.jpg") for i in range(IMAGES)]
    assert len(set(files) & set(known)) == len(files) == 2  # the batch
    folder = place / "runs/run"
    assert f"all weights from {weights['nan']}" in (folder / "train.log").read_text()
    assert len((folder / "metrics.csv").read_text().splitlines()) == 1  # names, and no step
    assert not list((folder / "ckpt").rglob("*.ckpt"))


def test_corrupt_photographs_fail_alone(place, weights):
    """Exit code 1: something failed, the rest is there."""
    broken = [
        put(place / "photographs/1.jpg", jpeg(photograph(1))[:1000]),
        put(place / "photographs/2.png", file_formats.png(photograph(2))[:1000]),
    ]
    text = put(place / "photographs/notes.txt", b"hello")
    done = run(place, *RUN, "--model_weights", weights["good"])
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert all(f"error: {path}: " in done.stderr for path in broken)
    assert f"skipped {text}: not an image" in done.stderr
    assert done.stderr.splitlines()[-1] == "error: images that failed, named above: 2"
    assert sorted(p.name for p in (place / "depth").iterdir()) == ["0.pfm", "0.png", "0_depth.png"]
