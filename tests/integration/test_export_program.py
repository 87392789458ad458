"""midas_export.py and what its files are for, as a user starts the programs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from src import image_io
from tests.benchmark_sets import random_image, stored_depth, write_files

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRESS = ("writing", "computing", "compiling")


@pytest.fixture(scope="module")
def place(tmp_path_factory, small_network, exported) -> Path:
    """A folder with weights, a configuration, photographs, and images of Kitti below data."""
    place = tmp_path_factory.mktemp("place")
    (place / "small.ckpt").write_bytes(exported.ckpt.read_bytes())
    network = {key: list(v) if key == "layers" else v for key, v in small_network.items()}
    values = network | {
        "img_height": 64,
        "img_width": 96,
        "eval_size": 64,
        "train_data_dir": "data",
        "model_weights": "small.ckpt",
        "input_path": "photographs",
    }
    (place / "small.yaml").write_text("\n".join(f"{key}: {v}" for key, v in values.items()))
    shapes = [(30, 60), (60, 60), (30, 60)]
    frames = [(random_image(i, s), stored_depth("Kitti", i, s)) for i, s in enumerate(shapes)]
    write_files("Kitti", place / "data/Kitti_raw_data", {"drive": frames})
    (place / "photographs").mkdir()
    for i, shape in enumerate(shapes):
        image_io.write_image(place / f"photographs/{i}.png", random_image(i, shape))
    return place


def run(
    place: Path, program: str, words: Sequence[str], without: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a program in `place`, as if these packages were not installed."""
    hidden = place / f"without {' '.join(without)}"
    hidden.mkdir(exist_ok=True)
    for package in without:
        text = f"raise ModuleNotFoundError('hidden', name={package!r})"
        (hidden / f"{package}.py").write_text(text)
    environment = {key: value for key, value in os.environ.items() if key != "ONEDNN_MAX_CPU_ISA"}
    return subprocess.run(
        [sys.executable, str(REPOSITORY / program), "--config_path", "small.yaml", *words],
        cwd=place,
        env=environment | {"PYTHONPATH": str(hidden)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def succeed(place: Path, program: str, words: Sequence[str], **more: Sequence[str]) -> list[str]:
    """The lines of stdout; stderr may hold progress alone."""
    ran = run(place, program, words, **more)
    assert ran.returncode == 0, ran.stderr
    for line in ran.stderr.replace("\r", "\n").splitlines():
        known = not line.strip() or any(word in line for word in PROGRESS) or "it/s" in line
        assert known or "image" in line, ran.stderr
    return ran.stdout.splitlines()


def refusal(place: Path, program: str, words: Sequence[str], **more: Sequence[str]) -> str:
    """The one line of stderr of a program that ends with exit code 2 and writes nothing."""
    before = set(place.rglob("*"))
    ran = run(place, program, words, **more)
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    (line,) = ran.stderr.splitlines()
    assert line.startswith("error: ")
    assert {p for p in set(place.rglob("*")) - before if "without" not in str(p)} == set()
    return line


def depth_maps(place: Path, model: str, *words: str) -> tuple[list[np.ndarray], str]:
    """What midas_run.py predicts with a file, and what it says."""
    output = f"out {model} {' '.join(words)}"
    arguments = ["--model_weights", model, "--output_path", output, *words]
    without = ["mindspore"] if model.endswith(".onnx") else []
    (line,) = succeed(place, "midas_run.py", arguments, without=without)
    return [image_io.read_pfm(place / output / f"{i}.pfm") for i in range(3)], line


@pytest.fixture(scope="module")
def onnx(place) -> str:
    """The .onnx of the checkpoint, exported by the program."""
    words = ["--file_format", "ONNX", "--for", "Kitti,TUM", "--export_batch", "2"]
    kitti, tall, tum, *checks = succeed(place, "midas_export.py", words)
    # By hand. Kitti, at least 64: 30 x 60 -> 64 x 128, 60 x 60 -> 64 x 64. TUM, at most 64:
    # 480 x 640 -> 48 x 64, and half-way between 32 and 64 Python rounds to the even multiple.
    root = place / "data/Kitti_raw_data"
    assert kitti == f"size 64x128 (height x width): Kitti, 2 of 3 images in {root}"
    assert tall.startswith(
        f"size 64x64 (height x width): Kitti, 1 of 3 images in {root}; TUM, whose"
    )
    checks = [tum, *checks]
    assert len(checks) == 2
    for line, size in zip(checks, ("64x128", "64x64"), strict=True):
        assert line.startswith(
            f"{place / 'small.onnx'}: 0.8 MB, any size and batch; 2 images of {size}"
        )
        assert " on OpenVINO " in line
        assert line.endswith(" of its range, tolerance 1e-05")
    return "small.onnx"


def test_an_onnx_gives_the_checkpoints_depth_maps_on_both_runtimes_without_mindspore(place, onnx):
    expected, said = depth_maps(place, "small.ckpt")
    assert said.endswith(", computed by MindSpore CPU")
    for runtime, name in [("openvino", "OpenVINO"), ("onnxruntime", "ONNX Runtime")]:
        found, said = depth_maps(place, onnx, "--onnx_runtime", runtime)
        assert f", computed by {name} " in said
        assert said.endswith(" float32")
        for one, other in zip(found, expected, strict=True):
            # Far below bfloat16's rounding, which OpenVINO would choose by itself on some CPUs.
            assert np.abs(one - other).max() < 1e-5 * np.ptp(other)


HAS_BFLOAT16 = "avx512_bf16" in Path("/proc/cpuinfo").read_text()


def test_onnxruntime_refuses_bfloat16(place, onnx):
    words = ["--model_weights", onnx, "--onnx_precision", "bfloat16"]
    assert "onnxruntime computes in float32 alone" in refusal(
        place, "midas_run.py", [*words, "--onnx_runtime", "onnxruntime", "--output_path", "none"]
    )


@pytest.mark.skipif(HAS_BFLOAT16, reason="this CPU computes in bfloat16")
def test_a_cpu_without_bfloat16_refuses_it(place, onnx):
    words = ["--model_weights", onnx, "--onnx_precision", "bfloat16", "--output_path", "none"]
    assert "this CPU does not compute in bfloat16" in refusal(place, "midas_run.py", words)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU does not compute in bfloat16")
def test_bfloat16_is_told_and_close(place, onnx):
    expected, _ = depth_maps(place, "small.ckpt")
    found, said = depth_maps(place, onnx, "--onnx_precision", "bfloat16")
    assert said.endswith(" bfloat16")
    for one, other in zip(found, expected, strict=True):
        share = np.abs(one - other).max() / np.ptp(other)
        assert 1e-4 < share < 0.1


def test_mindirs_of_several_sizes_and_their_depth_maps(place):
    words = ["--export_size", "64x96,32x64", "--export_batch", "2", "--fold_bn", "True"]
    words += ["--export_path", "folded.mindir", "--file_format", "MINDIR"]
    first, second, *lines = succeed(place, "midas_export.py", words)
    assert first == "size 64x96 (height x width): export_size"
    assert second == "size 32x64 (height x width): export_size"
    for line, size in zip(lines, ("64x96", "32x64"), strict=True):
        path = place / f"folded_{size}.mindir"
        megabytes = f"{path.stat().st_size / 1e6:.1f} MB"
        about = f"{path}: {megabytes}, 2 images of {size}, BN folded into 17 convolutions: "
        assert line.startswith(about)
        assert "of its range, tolerance 0.0001" in line
    expected, _ = depth_maps(place, "small.ckpt", "--keep_aspect_ratio", "False")  # 64 x 96
    found, said = depth_maps(place, "folded_64x96.mindir")
    assert said.endswith("computed by MindSpore CPU")
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() < 1e-4 * np.ptp(other)


def test_an_evaluation_of_an_onnx_gives_the_checkpoints_errors(place, onnx):
    errors = {}
    for model in ("small.ckpt", onnx):
        ann_file = f"{model.replace('.', '_')}.json"
        words = ["--ckpt_path", model, "--data_name", "Kitti", "--ann_file", ann_file]
        without = ["mindspore"] if model == onnx else []
        lines = succeed(place, "midas_eval.py", [*words, "--eval_batch_size", "2"], without=without)
        told = "OpenVINO" if model == onnx else "MindSpore CPU"
        assert any(line.startswith(f"computed by {told}") for line in lines)
        errors[model] = json.loads((place / ann_file).read_text())["Kitti"]
    assert errors[onnx] == pytest.approx(errors["small.ckpt"], rel=1e-3)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_a_truncated_onnx_is_one_line(place, onnx, runtime):
    content = (place / onnx).read_bytes()
    (place / "cut.onnx").write_bytes(content[: len(content) // 2])
    for program, key in [("midas_run.py", "model_weights"), ("midas_eval.py", "ckpt_path")]:
        words = [f"--{key}", "cut.onnx", "--onnx_runtime", runtime, "--data_name", "Kitti"]
        line = refusal(place, program, [*words, "--output_path", "none", "--ann_file", "cut.json"])
        assert line.endswith("cut.onnx: not an ONNX file, or damaged; export it again")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--file_format", "AIR"], "file_format: AIR can be written on Ascend alone"),
        (["--file_format", "TFLITE"], "file_format: got 'TFLITE'"),
        (
            ["--export_size", "384"],
            "export_size: got '384'; expected HEIGHTxWIDTH, multiples of 32",
        ),
        (["--export_size", "64x90"], "export_size: got '64x90'; expected HEIGHTxWIDTH"),
        (["--export_size", "64x96", "--for", "Kitti"], "export_size: --for gives sizes as well"),
        (["--export_batch", "0"], "export_batch: got 0"),
        (["--for", "DIW"], "for: the images of DIW have many sizes"),
        (["--for", "Kiti"], "for: got 'Kiti'; expected Kitti, Sintel"),
        (["--export_path", "a.onnx"], "a.onnx should end in .mindir, as file_format is MINDIR"),
        (["--export_path", "none/a.mindir"], "none is no folder; create it first"),
        (["--model_weights", "a.onnx"], "a.onnx is exported already; expected a .ckpt"),
        (["--model_weights", ""], "model_weights: empty"),
    ],
)
def test_mistakes_are_one_line_before_mindspore_is_started(place, words, message):
    assert message in refusal(place, "midas_export.py", words, without=["mindspore"])


@pytest.mark.parametrize(
    ("program", "words", "missing"),
    [
        ("midas_export.py", ["--file_format", "ONNX"], "onnx"),
        ("midas_export.py", ["--file_format", "ONNX"], "openvino"),
        ("midas_run.py", ["--model_weights", "small.onnx"], "openvino"),
        ("midas_run.py", ["--model_weights", "small.onnx"], "onnxruntime"),
    ],
)
def test_without_the_extra_a_line_names_the_setup_command(place, onnx, program, words, missing):
    words = [*words, "--output_path", "none"]
    if missing == "onnxruntime":
        words += ["--onnx_runtime", missing]
    line = refusal(place, program, words, without=[missing, "mindspore"])
    assert line == f"error: {missing} is not installed; run 'bash scripts/setup.sh onnx'"


def test_weights_that_do_not_fit_are_one_line(place):
    ran = run(place, "midas_export.py", ["--features", "32", "--export_path", "wide.mindir"])
    assert ran.returncode == 2
    assert "does not fit this network" in ran.stderr.splitlines()[-1]
    assert not (place / "wide.mindir").exists()
