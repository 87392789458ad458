"""Fixtures that several test files share."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from src import checkpoint, runtime
from src.export import export_mindir
from src.midas_net import MidasNet
from tests.references import TorchMidas, randomize
from tests.weights import copy_torch_weights

# A shell starts what it puts into the background with Ctrl-C switched off, and programs hand that
# on to those they start; the tests that send it need it on.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
    """MindSpore on the CPU in graph mode, as the programs start it."""
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
    export_mindir(str(files.ckpt), small_network, files.height, files.width, files.mindir)
    return files
