"""The most memory that a training step takes, against PyTorch, by batch and size.

    python -m tests.benchmarks.memory [--quick] [--runs 2]

Every figure is of a process of its own, from its start: the largest resident set (VmHWM of
/proc/self/status), in which are Python, the library's own code, weights, Adam's state, gradients,
activations and what compiling the graph takes. (getrusage's ru_maxrss is not used: after a fork it
begins with what the parent took.) Its steps are timed as well, after the first. The largest batch
that fits a memory is extrapolated by a straight line through the batches measured at 384x384.
"""

from __future__ import annotations

import functools
import math
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.forward import MINDSPORE
from tests.benchmarks.report import EAGER, parse, print_section
from tests.benchmarks.timing import seconds
from tests.benchmarks.train_step import make_mindspore, make_pytorch
from tests.benchmarks.turns import Make, Run, Shape, take_turns

ROOT = Path(__file__).resolve().parents[2]
CACHED = "MindSpore, graph from the cache"  # as every start but the first
SHAPES = (Shape(1, 384), Shape(2, 384), Shape(1, 256))
QUICK_SHAPES = (Shape(1, 96), Shape(2, 96))


def peak_memory() -> int:
    """Bytes of the largest resident set of this process since it began."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def make_with_cache(config_path: Path, cache: Path) -> Run:
    """The project's step; a graph comes from the compile cache, or goes there."""
    step = make_mindspore(config_path, "own")

    def run(shape: Shape) -> Any:
        from src.compile_cache import CompileCache

        graphs = CompileCache(cache, {"network": config_path.name, "shape": shape})
        graphs.open()
        output = step(shape)
        graphs.close()
        return output

    return run


def make_steps(make: Make, runs: int) -> Run:
    """A contender's steps and what they take: peak memory in bytes, seconds after the first."""
    run = make()

    def steps(shape: Shape) -> dict[str, Any]:
        run(shape)
        times = [round(seconds(lambda: run(shape)), 5) for _ in range(runs)]
        return {"bytes": peak_memory(), "seconds": times}

    return steps


def apart(make: Make, shape: Shape, runs: int) -> dict[str, Any]:
    """The same in a process of its own, or {"problem": one line}."""
    outcome = take_turns({"": functools.partial(make_steps, make, runs)}, {shape: 0})[""]
    return {"problem": outcome.problem} if outcome.problem else outcome.outputs[shape]


def line(peaks: Mapping[int, float]) -> tuple[float, float]:
    """Bytes of an image and of all else: least squares through bytes by batch, of two or more."""
    slope, start = statistics.linear_regression(list(peaks), list(peaks.values()))
    return slope, start


def largest_batch(peaks: Mapping[int, float], memory: float) -> int:
    """The batch whose peak is within a memory, by the straight line through those measured.

    Args:
        peaks: bytes by batch, of two batches or more.
        memory: bytes.
    """
    slope, start = line(peaks)
    return math.floor((memory - start) / slope + 1e-9)  # a whole number stays one


def free_memory() -> int:
    """Bytes that a process can take before others are ended for it."""
    return psutil.virtual_memory().available


def too_large(peaks: Mapping[int, float], batch: int) -> str:
    """Why a batch is not tried, if its peak, by the straight line, is more than there is."""
    if len(peaks) < 2:
        return ""
    slope, start = line(peaks)
    expected, free = start + slope * batch, free_memory()
    if expected < free:
        return ""
    return f"would take about {expected / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"


def figures(quick: bool = False, runs: int = 2) -> dict[str, Any]:
    """Peaks and seconds by shape and contender: {"shapes": [{batch, size, "peaks": {name: ...}}]}.

    Args:
        quick: the quickstart's network at a small size.
        runs: steps that are timed; one more comes before them.
    """
    config_path = ROOT / ("scripts/quickstart.yaml" if quick else "config.yaml")
    found = []
    known: dict[str, dict[int, float]] = {}  # by contender: bytes by batch
    shapes = QUICK_SHAPES if quick else SHAPES
    with tempfile.TemporaryDirectory() as cache:
        ours = functools.partial(make_with_cache, config_path, Path(cache))
        theirs = functools.partial(make_pytorch, config_path, EAGER)
        for shape in shapes:
            peaks = {}
            for name, make in {MINDSPORE: ours, CACHED: ours, EAGER: theirs}.items():
                same_size = shape.size == shapes[0].size
                problem = too_large(known.get(name, {}), shape.batch) if same_size else ""
                peaks[name] = {"problem": problem} if problem else apart(make, shape, runs)
                if same_size and "bytes" in peaks[name]:
                    known.setdefault(name, {})[shape.batch] = peaks[name]["bytes"]
                print(f"{name}, {shape}: {peaks[name]}", flush=True)
            found.append({**shape._asdict(), "peaks": peaks})
    return {"network": config_path.name, "shapes": found}


def main() -> None:
    options = parse(__doc__)
    print_section("memory", figures(options.quick, min(options.runs, 2)))


if __name__ == "__main__":
    main()
