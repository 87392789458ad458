"""What the benchmarks share: a stopwatch, and how figures are shown."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def spread(values: Sequence[float], unit: str, digits: int = 2) -> str:
    """Median, lowest and highest."""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"median {median:.{digits}f} {unit}, {low:.{digits}f} to {high:.{digits}f}"


def verdict(met: bool) -> str:
    """Whether a goal is met, in a word."""
    return "met" if met else "NOT met"


def load() -> str:
    """How busy the machine is, this program included: figures of a busy one say little."""
    one, five, _ = os.getloadavg()
    return f"load {one:.1f} in the last minute, {five:.1f} in five, {os.cpu_count()} cores"
