"""Fixtures that several test files share."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# The processes of pytest-xdist are `python -c`. MindSpore notes the program's file when it is
# imported, and reads it where it caches graphs.
if sys.argv[0] == "-c":
    sys.argv[0] = __file__

from src import checkpoint, cpu_kernels, runtime
from src.export import Job, export
from src.export_plan import Size
from src.midas_net import MidasNet
from tests.references import TorchMidas, randomize
from tests.weights import copy_torch_weights

# A shell starts what it puts into the background with Ctrl-C switched off, nohup its program with
# SIGHUP, and programs hand that on to those they start; the tests that send them need them on.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Exported:
    """The files of one network; the .mindir takes height x width pixels."""

    reference: TorchMidas
    ckpt: Path
    mindir: Path
    height: int
    width: int


@pytest.fixture(scope="session", autouse=True)
def mindspore_on_cpu() -> None:
    """MindSpore on the CPU in graph mode, with MindSpore's own convolutions."""
    cpu_kernels.choose(checkpoints_only=True)  # programs that tests start find it measured
    runtime.start("CPU")


@pytest.fixture(scope="session")
def small_network() -> dict[str, Any]:
    """Arguments of a MidasNet that computes in milliseconds."""
    return {
        "in_channels": 8,
        "groups": 4,
        "width_per_group": 2,
        "features": 16,
        "layers": (1, 1, 1, 1),
    }


@pytest.fixture(scope="session")
def exported(small_network: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One small network of drawn weights in PyTorch, as .ckpt and as .mindir."""
    reference = TorchMidas(**small_network).eval()
    randomize(reference, seed=5)
    network = MidasNet(**small_network)
    copy_torch_weights(reference, network)
    folder = tmp_path_factory.mktemp("exported")
    files = Exported(reference, folder / "small.ckpt", folder / "small.mindir", 64, 96)
    checkpoint.save(network, files.ckpt)
    size = Size(files.height, files.width, "")
    job = Job(str(files.ckpt), small_network, MEAN, STD, "MINDIR", files.mindir, [size])
    assert len(list(export(job))) == 1
    return files


@pytest.fixture(scope="session")
def exported_onnx(exported: Exported, small_network: dict[str, Any]) -> Path:
    """The network of `exported` as .onnx, in a folder of its own."""
    path = exported.ckpt.parent.with_name("exported_onnx") / "small.onnx"
    path.parent.mkdir()
    size = Size(exported.height, exported.width, "")
    list(export(Job(str(exported.ckpt), small_network, MEAN, STD, "ONNX", path, [size])))
    return path
