"""Building and running ascend310_infer's program, and models whose output is known by hand."""

from __future__ import annotations

import csv
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "ascend310_infer"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETUP = "run: bash scripts/setup.sh infer310"


@dataclass(frozen=True)
class Row:
    """A row of predictions.csv with what its file holds: float32 [height, width]."""

    image: str
    file: str
    image_size: tuple[int, int]
    values: np.ndarray


def environment(**changes: str) -> dict[str, str]:
    """This process's, without what would lead the build or the run elsewhere; the limit that
    MindSpore needs on the CPU's kernels makes bfloat16 impossible."""
    of_builds = ("LITE_HOME", "OpenVINO_DIR", "CXX", "CXXFLAGS")
    left_out = (*of_builds, "MIDAS_LIBRARY_LOG", "ONEDNN_MAX_CPU_ISA")
    kept = {key: value for key, value in os.environ.items() if key not in left_out}
    return kept | {"MIDAS_PYTHON": sys.executable} | changes


def command(*words: str | Path, **changes: str) -> str:
    """Run a command that must succeed; returns its stdout."""
    assert shutil.which(words[0]), f"{words[0]} is missing; {SETUP}"
    done = subprocess.run(
        list(map(str, words)),
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{words[0]} failed; {SETUP}\n{done.stdout}{done.stderr}"
    return done.stdout


def copy_source(folder: Path) -> Path:
    """A copy of the sources without what was built, so that builds leave the tree as it is."""
    copied = folder / "ascend310_infer"
    shutil.copytree(SOURCE, copied, ignore=shutil.ignore_patterns("out*"))
    return copied


def build(source: Path, folder: Path, *flags: str, **changes: str) -> Path:
    """Configure and build a CMake project; returns its build folder."""
    command("cmake", "-S", source, "-B", folder, "-G", "Unix Makefiles", *flags, **changes)
    command("cmake", "--build", folder, "--parallel", str(os.cpu_count()), **changes)
    return folder


def sanitized_build(folders: pytest.TempPathFactory) -> Path:
    """The build folder of the program with the probe and both backends, MindSpore Lite's by the
    stand-in, under AddressSanitizer and LeakSanitizer; built once for all processes of pytest."""
    base = folders.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "midas_infer_asan"
    out, built = folder / "out", folder / "built"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            source = copy_source(folder)
            stand_in = build(source / "tests" / "lite_stand_in", folder / "stand_in")
            command("cmake", "--install", stand_in, "--prefix", folder / "lite")
            flags = ("-DMIDAS_ASAN=ON", "-DMIDAS_TESTS=ON", "-DCMAKE_BUILD_TYPE=Debug")
            build(source, out, *flags, LITE_HOME=str(folder / "lite"))
            built.touch()
    return out


def infer(
    program: Path,
    model: Path,
    data: Path,
    dataset: str,
    output: Path,
    *flags: str,
    limit: int | None = None,
    **changes: str,
) -> subprocess.CompletedProcess[str]:
    """Run midas_infer.

    Args:
        limit: bytes that a file may have, which stands for a full disk.
        changes: to the environment.
    """
    words = [program, "--model", model, "--data", data, "--dataset", dataset, "--output", output]
    limited = [] if limit is None else ["prlimit", f"--fsize={limit}:{limit}"]
    return subprocess.run(
        [*limited, *map(str, words), *flags],
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def rows(output: Path, dataset: str) -> list[Row]:
    """What a run left; fails unless all of it is whole."""
    folder = output / "result_Files" / dataset
    found = []
    with (folder / "predictions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            shape = int(row["height"]), int(row["width"])
            values = np.fromfile(folder / row["file"], "<f4").reshape(shape)
            size = int(row["image_height"]), int(row["image_width"])
            found.append(Row(row["image"], row["file"], size, values))
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {row.file for row in found} | {"predictions.csv", "run.json"}
    return found


def one_line_error(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """Fail unless a run ended with this code and one line on stderr that has these parts."""
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: "), done.stderr
    for part in parts:
        assert part in done.stderr


def mean_onnx(
    path: Path,
    lengths: Sequence[int | str] = ("batch", 3, "height", "width"),
    operator: str = "Identity",
    kept: Sequence[int] = (0, 2, 3),
    operands: Sequence[Sequence[int]] = (),
    **attributes: object,
) -> Path:
    """A network whose output is the mean of the three channels.

    Args:
        lengths: of the input.
        operator: what is applied to the mean.
        kept: the axes of the input that the output's shape has.
        operands: of the operator, besides the mean.
        attributes: of the operator.
    """
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, list(lengths))
    depth = helper.make_tensor_value_info(
        "inverse_depth", TensorProto.FLOAT, [lengths[axis] for axis in kept]
    )
    axes = [axis for axis in range(len(lengths)) if axis not in kept]
    names = [f"operand{number}" for number in range(len(operands))]
    constants = [
        helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        for name, values in zip(names, operands, strict=True)
    ]
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=axes, keepdims=0),
        helper.make_node(operator, ["mean", *names], ["inverse_depth"], **attributes),
    ]
    graph = helper.make_graph(nodes, "mean", [image], [depth], constants)
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opset), path)
    return path


def toy_mindir(path: Path, settings: Mapping[str, str]) -> Path:
    """A model for the stand-in of MindSpore Lite: the mean of the three channels too."""
    lines = "".join(f"{key} {value}\n" for key, value in settings.items())
    path.write_text(f"toy\n{lines}")
    return path
