"""Training in the cloud (ModelArts): data in before it, results out after it.

A job there reads and writes object storage through `moxing`, which only its images have. The same
training code runs in between, on the machine's own disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from src import runtime
from src.config import Config
from src.errors import UserError

LOG = logging.getLogger("midas")
_LOCK = ".copying"  # in train_data_dir: held by the process that copies
_COPIED = ".copied_from"  # in train_data_dir, once it is whole: holds the data_url


@contextlib.contextmanager
def synced(config: Config) -> Iterator[Config]:
    """With `is_modelarts`, copy `data_url` to `train_data_dir`, and `run_path` to `train_url` last.

    The results are copied however the work in between ends. With `resume`, and no results on the
    machine, those of an earlier job come back from `train_url` first. One process of a machine
    copies, the others wait. Data that it has from the same `data_url` are not copied again.

    Enter it after `runtime.start`: copying may take longer than the processes of msrun wait for
    each other when they join.

    Args:
        config: the configuration of the training; comes back as it is.

    Raises:
        UserError: `data_url` or `train_url` is empty, `moxing` is missing, or a copy failed.
    """
    if not config.is_modelarts or runtime.is_scheduler():
        yield config
        return
    for key in ("data_url", "train_url"):
        if not getattr(config, key):
            raise UserError(f"{key}: empty; is_modelarts needs it: set it to a folder of the cloud")
    files = _moxing_files()
    _fetch(files, config)
    try:
        yield config
    except BaseException:  # Ctrl-C and SystemExit too
        try:
            _send(files, config)
        except UserError as error:  # what ended the training tells more
            LOG.error("%s", error)
        raise
    _send(files, config)


def _moxing_files() -> Any:
    try:
        return importlib.import_module("moxing").file
    except ImportError as error:
        raise UserError(
            f"is_modelarts: the Python package moxing cannot be imported ({error}); ModelArts' own "
            "images have it. Elsewhere choose --is_modelarts False"
        ) from None


def _fetch(files: Any, config: Config) -> None:
    """Copy in what the machine does not have, once for all its processes."""
    folder = Path(config.train_data_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the system frees it if its process dies
            _fetch_data(files, config, folder / _COPIED)
            if config.resume:
                _fetch_results(files, config)
    except OSError as error:
        raise UserError(
            f"is_modelarts: cannot write {error.filename or folder} ({error.strerror}); set "
            "train_data_dir and run_path to folders with space, such as /cache/data"
        ) from None


def _fetch_data(files: Any, config: Config, copied: Path) -> None:
    if copied.exists() and copied.read_text() == config.data_url:
        return
    copied.unlink(missing_ok=True)
    _copy(files, "data_url", config.data_url, config.train_data_dir)
    copied.write_text(config.data_url)


def _fetch_results(files: Any, config: Config) -> None:
    """Into a folder of another name first: a run in run_path is whole."""
    from src import run_folder  # imports MindSpore

    run_path = Path(config.run_path)
    with _explained("train_url", f"looking for {config.train_url}"):
        there = files.exists(config.train_url)
    if not there or run_folder.find(run_path, "") is not None:
        return
    incoming = run_path.with_name(f"{run_path.name}.incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    _copy(files, "train_url", config.train_url, str(incoming))
    run_path.mkdir(parents=True, exist_ok=True)  # the launcher's logs may be in it
    for entry in incoming.iterdir():
        target = run_path / entry.name
        if not target.exists():
            entry.rename(target)
    shutil.rmtree(incoming)


def _send(files: Any, config: Config) -> None:
    """Copy the results out; on a machine without the first process there may be none."""
    if runtime.local_rank() == 0 and Path(config.run_path).is_dir():
        _copy(files, "train_url", config.run_path, config.train_url)


def _copy(files: Any, key: str, source: str, target: str) -> None:
    LOG.info("copying %s to %s", source, target)
    with _explained(key, f"copying {source} to {target}"):
        files.copy_parallel(source, target)


@contextlib.contextmanager
def _explained(key: str, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # moxing has no common class for what can go wrong
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{key}: {what} failed ({reason}); check the address and the job's rights"
        ) from None
