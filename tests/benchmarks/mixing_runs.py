"""What the benchmarks of mixing share: trainings from the same first weights, and their tables."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import mindspore as ms

from src import checkpoint
from src.config import Config
from src.errors import EXIT_STOPPED
from src.midas_net import MidasNet
from src.run_folder import Checkpoints
from src.trainer import train


def write_first_weights(config: Config, seed: int, path: Path) -> None:
    """The random weights of a seed, from which all trainings of this seed begin."""
    ms.set_seed(seed)
    checkpoint.save(MidasNet(**config.network()), path)


def last_weights(config: Config) -> Path:
    """Train, and find the checkpoint at the end. A training that was stopped ends the program."""
    outcome = train(config)
    if not outcome.finished:
        sys.exit(EXIT_STOPPED)
    return Checkpoints(outcome.run, config.keep_checkpoint_max).newest()


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
