"""The output of a process that msrun started: shown as it comes, and read for why it ended."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

from src.errors import EXIT_USER_ERROR

_TAIL = 1 << 18  # bytes of a log that are read for its last words
_MINDSPORE = re.compile(r"\[(DEBUG|INFO|WARNING|ERROR|CRITICAL|EXCEPTION)\] ?[A-Z_]+\(\d+[:,]")
_ERROR = "error: "  # how a UserError is printed
_PEER_IS_GONE = re.compile(
    r"\b(AllReduce|AllGather|ReduceScatter|Broadcast|Barrier|NCCL|HCCL)\b"
    r"|(?i:\bcollective|disconnect|timed? ?out|did not stay together)"
)


class Echo:
    """Copies a growing log to stdout, without MindSpore's own lines and a UserError's.

    The latter is what the launcher says itself, with the rank.

    Args:
        path: the log; need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read = 0  # bytes
        self.rest = b""  # the beginning of a line

    def show(self, last: bool = False) -> None:
        """Copy what has come since; of a line without an end only with `last`."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self.read)
            new = file.read()
        self.read += len(new)
        *lines, self.rest = re.split(rb"(?<=[\r\n])", self.rest + new)
        if last:
            lines.append(self.rest)
        shown = "".join(line for line in map(_text, lines) if not _is_hidden(line))
        if shown:
            _print(shown)


def why_it_ended(code: int, log: Path) -> str:
    """In half a sentence: the signal, its own error line, or the last line of its traceback.

    Args:
        code: as in `subprocess`: that of the exit, or -n for signal n.
        log: what it wrote.
    """
    if code < 0:
        return f"was killed by signal {-code} ({_signal_name(-code)})"
    lines = _last_lines(log)
    errors = [line for line in lines if line.startswith(_ERROR)]
    if code == EXIT_USER_ERROR and errors:
        return errors[-1].removeprefix(_ERROR)
    last = _exception(lines) or f"its last line: {lines[-1] if lines else 'none'}"
    return f"stopped with exit code {code}: {last}"


def is_a_consequence(reason: str) -> bool:
    """Whether it ended, by all appearances, because it lost another process."""
    return bool(_PEER_IS_GONE.search(reason))


def _last_lines(log: Path) -> list[str]:
    """The non-empty lines at its end, without MindSpore's own."""
    if not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        lines = re.split(rb"[\r\n]", file.read())
    return [line for line in map(_text, lines) if line.strip() and not _MINDSPORE.match(line)]


def _exception(lines: list[str]) -> str:
    """The line that names the exception of the last traceback; '' without one."""
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent call")]
    if not starts:
        return ""
    named = (line for line in lines[starts[-1] + 1 :] if not line.startswith(" "))
    return next(named, "").strip()


def _is_hidden(line: str) -> bool:
    return bool(_MINDSPORE.match(line)) or line.startswith(_ERROR)


def _text(line: bytes) -> str:
    return line.decode(errors="replace")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return "no name"


def _print(text: str) -> None:
    """A terminal that was closed is no reason to stop a training: the log has it all."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        pass
