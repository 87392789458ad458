"""What a user can cause, and how a program ends because of it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from typing import NoReturn

EXIT_USER_ERROR = 2
EXIT_STOPPED = 3  # a training that was stopped on request, with everything saved


class UserError(Exception):
    """Something the user can mend: its text is one line that names the file or key, what was
    expected and what to do. Everything else is a bug and keeps its traceback."""


class Parser(argparse.ArgumentParser):
    """A command line whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def run_program(main: Callable[[], int | None]) -> None:
    """Run `main` and exit with its code; a UserError becomes one line on stderr and exit code 2.

    The log of the project ("midas") goes to stderr.
    """
    log = logging.getLogger("midas")
    log.setLevel(logging.INFO)
    log.addHandler(logging.StreamHandler())
    try:
        code = main()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code or 0)
