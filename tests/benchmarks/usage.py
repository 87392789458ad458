"""What work costs in time and processor seconds, and programs that are asked for it in turn."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def _processor_seconds() -> float:
    """Of all threads of this process, and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@contextlib.contextmanager
def used(images: int) -> Iterator[dict[str, float]]:
    """Milliseconds for each of so many images: `wall`, and `cpu` of all threads and processes.

    Processes that are started in the block must end in it.
    """
    figures: dict[str, float] = {}
    wall, cpu = time.perf_counter(), _processor_seconds()
    yield figures
    figures["wall"] = (time.perf_counter() - wall) * 1000 / images
    figures["cpu"] = (_processor_seconds() - cpu) * 1000 / images


def answer(functions: dict[str, Callable[..., Any]]) -> None:
    """Answer each line of JSON on standard input, [name, arguments], with the function's result."""
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(functions[name](**arguments)), flush=True)


@contextlib.contextmanager
def asked(*command: str) -> Iterator[Callable[..., Any]]:
    """Start `python -m COMMAND`, a program that `answer`s, and yield what asks it: by the name of
    one of its functions, with arguments.

    Programs that are asked in turn meet the same changes of the machine's speed, though each has a
    process of its own.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(name: str, **arguments: object) -> Any:
        process.stdin.write(json.dumps([name, arguments]) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{command[0]} ended with code {process.wait()}")
        return json.loads(line)

    with process:
        try:
            yield ask
        finally:
            process.stdin.close()
