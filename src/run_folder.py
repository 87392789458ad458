"""The folder of a training run: made, found again, and what is needed to resume it.

    config.yaml, train.log, metrics.csv, validation.csv, curves.png, TensorBoard events
    ckpt/Midas_<rank>-<epoch>_<step>.ckpt           weights; epoch and step in it count from 1
    ckpt/resume/Midas_<rank>-<epoch>_<step>.ckpt    optimizer, loss scale, position and settings
    ckpt/best.ckpt                                  weights with the lowest validation loss
    ckpt/aside-<time>/                              what a run that was resumed earlier had after it

A checkpoint's weights are written after its resume file: where they are, both are.
"""

from __future__ import annotations

import datetime
import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from src import checkpoint
from src.errors import UserError
from src.image_io import write_bytes

LOG = logging.getLogger("midas")

CONFIG = "config.yaml"
CSV_FILES = ("metrics.csv", "validation.csv")  # their first columns are epoch and step
_NAME = re.compile(r"Midas_0-(\d+)_(\d+)\.ckpt")
_FACTS = "facts"  # the entry of a resume file that holds JSON
_RESUME = "resume"


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint from which a run goes on.

    Attributes:
        epoch, step: of the last step that was done, both from 1.
        weights: of the network, by name.
        state: of optimizer and loss scale, by name.
        facts: all else, as `save` was given it.
    """

    epoch: int
    step: int
    weights: dict[str, ms.Parameter]
    state: dict[str, ms.Parameter]
    facts: dict[str, Any]


def create(run_path: Path, name: str, write_config: Callable[[Path], None]) -> Path:
    """A new run folder with its config.yaml: it is there with both or not at all.

    Args:
        run_path: where runs are.
        name: of the run.
        write_config: writes the file whose path it gets.

    Raises:
        UserError: it exists, or cannot be made.
    """
    run = run_path / name
    if run.exists():
        raise UserError(
            f"run_name: {run} exists and is not overwritten; choose another name, move it away, or "
            "continue it with --resume auto"
        )
    try:
        run_path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=run_path, prefix=".new-") as folder:
            new = Path(folder, name)
            (new / "ckpt" / _RESUME).mkdir(parents=True)
            write_config(new / CONFIG)
            new.rename(run)
    except OSError as error:
        raise UserError(f"run_path: cannot create {run}: {error.strerror}") from None
    return run


def find(run_path: Path, name: str) -> Path | None:
    """The run called `name`, or the last one that wrote if `name` is empty; None if none is there.

    Raises:
        UserError: the folder `name` is no training run.
    """
    if name:
        run = run_path / name
        if run.exists() and not _is_run(run):
            raise UserError(
                f"run_name: {run} is there, but is no training run; choose another name"
            )
        return run if run.exists() else None
    runs = [run for run in run_path.glob("*") if _is_run(run)]
    return max(runs, key=_last_written, default=None)


def run_of(path: Path) -> Path:
    """The run folder that a checkpoint belongs to.

    Raises:
        UserError: the file is not a checkpoint of a run, or has no resume file.
    """
    if not path.is_file():
        raise UserError(f"resume: {path}: no such file; expected auto, or a checkpoint of a run")
    run = path.absolute().parent.parent
    if not _is_run(run) or not _NAME.fullmatch(path.name):
        raise UserError(
            f"resume: {path} is not RUN/ckpt/Midas_0-<epoch>_<step>.ckpt, so there is no run to "
            "continue; to start a new run with these weights, give them as --model_weights"
        )
    return run


def _is_run(run: Path) -> bool:
    return (run / "ckpt" / _RESUME).is_dir() and (run / CONFIG).is_file()


def _last_written(run: Path) -> float:
    return max(path.stat().st_mtime for path in [run, *run.glob("*.log"), *run.glob("*.csv")])


class Checkpoints:
    """The checkpoints of a run.

    Args:
        run: its folder.
        keep: how many stay; older ones are removed.
    """

    def __init__(self, run: Path, keep: int) -> None:
        self.folder = run / "ckpt"
        self.keep = keep

    def save(
        self,
        network: nn.Cell,
        epoch: int,
        step: int,
        state: Mapping[str, np.ndarray],
        facts: Mapping[str, Any],
    ) -> None:
        """Write a checkpoint, then remove the oldest ones.

        Args:
            epoch, step: of the last step that was done, both from 1.
            state: of optimizer and loss scale, by name.
            facts: JSON-able; anything else that `Snapshot.facts` is to return.

        Raises:
            UserError: it cannot be written; what was there is unharmed.
        """
        name = f"Midas_0-{epoch}_{step}.ckpt"
        entry = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        checkpoint.save_values({**state, _FACTS: entry}, self.folder / _RESUME / name)
        checkpoint.save(network, self.folder / name)
        for old in self.paths()[: -self.keep]:
            self._remove(old)

    def save_best(self, network: nn.Cell) -> None:
        """Write the weights as ckpt/best.ckpt.

        Raises:
            UserError: they cannot be written.
        """
        checkpoint.save(network, self.folder / "best.ckpt")

    def paths(self) -> list[Path]:
        """The weights of all checkpoints, oldest first."""
        found = [path for path in self.folder.glob("Midas_0-*.ckpt") if _NAME.fullmatch(path.name)]
        return sorted(found, key=_position)

    def load(self, path: Path) -> Snapshot:
        """Read a checkpoint and its resume file.

        Raises:
            UserError: one of them is missing or damaged.
        """
        resume = self.folder / _RESUME / path.name
        if not resume.is_file():
            raise UserError(f"{path}: cannot be resumed from: {resume} is missing")
        state = checkpoint.read(resume, checksum=True)
        weights = checkpoint.read(path, checksum=True)
        try:
            facts = json.loads(state.pop(_FACTS).asnumpy().tobytes())
        except (KeyError, ValueError):
            raise UserError(f"{resume}: damaged, or not written by a training run") from None
        epoch, step = _position(path)
        return Snapshot(epoch, step, weights, state, facts)

    def newest(self) -> Path | None:
        """The newest checkpoint that is whole, None if there is none at all; damaged ones are named
        in the log.

        Raises:
            UserError: all are damaged.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                self.load(path)
                return path
            except UserError as error:
                LOG.error("%s; trying the one before", error)
        if paths:
            raise UserError(f"resume: no checkpoint in {self.folder} can be read; start a new run")
        return None

    def rewind(self, epoch: int, step: int) -> None:
        """Make this position the newest: later checkpoints go to a folder aside, with a copy of the
        tables; rows of later steps leave the tables.

        Args:
            epoch, step: of the last step that stays; 0, 0 for none.
        """
        self._sweep()
        later = [path for path in self.paths() if _position(path) > (epoch, step)]
        run = self.folder.parent
        tables = [run / name for name in CSV_FILES if (run / name).exists()]
        if later:
            aside = self.folder / f"aside-{datetime.datetime.now():%Y%m%d-%H%M%S-%f}"
            (aside / _RESUME).mkdir(parents=True)
            if (best := self.folder / "best.ckpt").exists():
                best.rename(aside / best.name)
            for path in later:
                path.rename(aside / path.name)
                with suppress(FileNotFoundError):  # somebody deleted it
                    (self.folder / _RESUME / path.name).rename(aside / _RESUME / path.name)
            for table in tables:
                shutil.copy2(table, aside)
            LOG.info("%d later checkpoints are in %s now", len(later), aside)
        for table in tables:
            _cut_table(table, epoch, step)

    def _sweep(self) -> None:
        """Remove what a save, or a removal, left that was killed."""
        for pattern in (".Midas_*", f"{_RESUME}/.Midas_*", ".best.*"):
            for rest in self.folder.glob(pattern):
                shutil.rmtree(rest, ignore_errors=True)
        for resume in self.folder.glob(f"{_RESUME}/Midas_0-*.ckpt"):
            if _NAME.fullmatch(resume.name) and not (self.folder / resume.name).exists():
                resume.unlink()

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        (path.parent / _RESUME / path.name).unlink(missing_ok=True)


def _position(path: Path) -> tuple[int, int]:
    epoch, step = _NAME.fullmatch(path.name).groups()
    return int(epoch), int(step)


def _cut_table(path: Path, epoch: int, step: int) -> None:
    """Keep the header and the rows up to a step; a last line that is not whole goes."""
    *lines, _ = path.read_text().split("\n")
    try:
        kept = [row for row in lines[1:] if _row_position(row) <= (epoch, step)]
    except ValueError:
        raise UserError(f"{path}: not as a training run wrote it; move it away") from None
    write_bytes(path, "".join(f"{line}\n" for line in [*lines[:1], *kept]).encode())


def _row_position(row: str) -> tuple[int, int]:
    epoch, step = row.split(",")[:2]
    return int(epoch), int(step)
