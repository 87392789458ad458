"""Weak scaling on a CPU: two processes that train together against one, each bound to one core.

    python -m tests.benchmarks.scaling [--quick] [--runs 7]

The train step of scripts/quickstart.yaml's network with its input size and batch per process, on a
batch in memory. All processes run from the start, and take turns:

    first     one process, on one core
    second    another, on the other core
    apart     these two at the same time, knowing nothing of each other
    together  two processes of `src.launch` (msrun), gradients averaged in every step

"apart" shows what the machine itself leaves of two cores (shared cache, memory and clock), so the
rest of what "together" lacks is communication. Every process has its threads, MindSpore's
included, bound to its core; the share of a core that it used is printed.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any, NamedTuple

from src.config import load_config
from tests.benchmarks.report import parse, print_section
from tests.benchmarks.scaling_worker import CONFIG, PAIR

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("scaling_worker.py")
SOLO = "solo"


class Turn(NamedTuple):
    """What a process says of its steps; see scaling_worker."""

    started: float
    ended: float
    cores: float


def start(folder: Path, cores: Sequence[int]) -> list[subprocess.Popen[bytes]]:
    """Start four processes: one alone on each core, and a pair over both."""
    both = ",".join(map(str, cores))
    launch = ["-m", "src.launch", "--workers", "2", "--log_dir", str(folder / "logs"), "--"]
    commands = [[str(WORKER), str(folder), SOLO, str(core)] for core in cores]
    commands.append([*launch, str(WORKER), str(folder), PAIR, both])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
        )
        for command in commands
    ]


def connect(path: Path, processes: Sequence[subprocess.Popen[bytes]]) -> Connection:
    """The worker at a socket, once it is there."""
    while not path.exists():
        if any(process.poll() is not None for process in processes):
            sys.exit("a process ended before its first step; what it said is above")
        time.sleep(0.2)
    return Client(str(path))


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it; src.launch ends its workers."""
    process.terminate()
    process.wait()


def run(workers: Sequence[Connection], steps: int) -> list[Turn]:
    """Have some processes train at the same time."""
    for worker in workers:
        worker.send(steps)
    return [Turn(*worker.recv()) for worker in workers]


def throughput(turns: Sequence[Turn], images: int) -> float:
    """Images a second of processes that trained `images` each, from first start to last end."""
    spent = max(turn.ended for turn in turns) - min(turn.started for turn in turns)
    return images * len(turns) / spent


def take_turns(
    solo: Sequence[Connection], pair: Sequence[Connection], runs: int, steps: int
) -> dict[str, Any]:
    """Images a second of every turn, and the share of its core that a process used, by group."""
    groups = {"first": [solo[0]], "second": [solo[1]], "apart": solo, "together": pair}
    batch = load_config(["--config_path", str(CONFIG)]).batch_size
    rates: dict[str, list[float]] = {name: [] for name in groups}
    used: dict[str, list[float]] = {name: [] for name in groups}
    for workers in groups.values():
        run(workers, 2)  # the first steps allocate
    for i in range(runs):
        print(f"turn {i + 1} of {runs}", flush=True)
        for name, workers in groups.items():
            turns = run(workers, steps)
            rates[name].append(round(throughput(turns, batch * steps), 3))
            used[name] += [turn.cores for turn in turns]
    cores = {name: round(statistics.median(values), 3) for name, values in used.items()}
    return {"network": CONFIG.name, "batch": batch, "images/s": rates, "cores": cores}


def figures(quick: bool = False, runs: int = 7) -> dict[str, Any]:
    """Images a second of one process, of two apart and of two together.

    Args:
        quick: few steps a turn.
        runs: turns of each.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise RuntimeError("this needs two cores")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave no process behind
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = start(folder, cores)
        for process in processes:
            stack.callback(stop, process)
        solo, pair = (
            [stack.enter_context(connect(folder / f"{kind}-{core}", processes)) for core in cores]
            for kind in (SOLO, PAIR)
        )
        found = take_turns(solo, pair, runs, 2 if quick else 10)
        for worker in (*solo, *pair):
            worker.send(0)
        for process in processes:
            process.wait()
    return found


def main() -> None:
    options = parse(__doc__)
    print_section("scaling", figures(options.quick, options.runs))


if __name__ == "__main__":
    main()
