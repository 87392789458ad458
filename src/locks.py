"""Folders that one process at a time writes to."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.errors import UserError


@contextmanager
def exclusive(folder: Path, busy: str) -> Iterator[None]:
    """Keep other processes that ask for it out of a folder; the system frees it with the process.

    Args:
        folder: is made if it is not there; its parent must be.
        busy: the message if another process has it.

    Raises:
        UserError: another process has it, or the folder cannot be made.
    """
    try:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(busy) from None
        yield
    finally:
        os.close(descriptor)
