"""The log file of a run, with times and why it stopped, and the progress bar."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from src.errors import UserError

LOG = logging.getLogger("midas")
T = TypeVar("T")


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[Callable[[str], None]]:
    """Send the log to the end of a file as well, with times.

    Yields a function that writes a text to the file alone, for what the console shows by other
    means. A UserError that leaves the block is written so as well: `run_program` prints it.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot write the log there: {error.strerror}") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))

    def note(text: str) -> None:
        handler.handle(LOG.makeRecord(LOG.name, logging.INFO, "", 0, text, (), None))

    LOG.addHandler(handler)
    try:
        yield note
    except UserError as error:
        note(f"error: {' '.join(str(error).split())}")
        raise
    finally:
        LOG.removeHandler(handler)
        handler.close()


def progress_bar(iterable: Iterable[T] | None = None, **options: Any) -> tqdm[T]:
    """A progress bar with the time left, on stderr; in a log file a line every half minute.

    Args:
        iterable: what to go through, if the bar is not moved by hand.
        options: those of tqdm.
    """
    return tqdm(iterable, mininterval=0.1 if sys.stderr.isatty() else 30, **options)
