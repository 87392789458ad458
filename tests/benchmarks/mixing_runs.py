"""What the benchmarks of mixing share: trainings from the same first weights, and their tables."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mindspore as ms

from src import checkpoint
from src.config import Config
from src.midas_net import MidasNet
from src.run_folder import Checkpoints

ROOT = Path(__file__).resolve().parents[2]


def write_first_weights(config: Config, seed: int, path: Path) -> None:
    """The random weights of a seed, from which all trainings of this seed begin."""
    ms.set_seed(seed)
    checkpoint.save(MidasNet(**config.network()), path)


def last_weights(config: Config) -> Path:
    """Train in a process of its own, which finds its compiled graph, and find the last checkpoint.

    A training that does not finish ends the program with its exit code.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        config.save(path)
        command = [sys.executable, ROOT / "midas_train.py", "--config_path", path]
        if code := subprocess.run(command, check=False).returncode:
            sys.exit(code)  # the training has said why
    run = Path(config.run_path, config.run_name)
    return Checkpoints(run, config.keep_checkpoint_max).newest()


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table of its header and other rows."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def mean_and_range(values: Sequence[float], digits: int) -> str:
    """Their mean, and what they lie between."""
    low, high = min(values), max(values)
    mean = statistics.fmean(values)
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
