"""Step time and memory of Pareto mixing against naive mixing, one run.

    python -m tests.benchmarks.mixing_cost [--full] [--datasets 2] [--batch 4] [--size 128]

A step is forward, loss, backward, mixing and Adam on images that are in memory. Compared are naive
mixing of one dataset and of L, and Pareto mixing of L in its three scopes. The goals: scope `all`
at most 1.2 L times naive mixing of one dataset, scope `last` at most 1.3 times naive mixing of L.
The steps take turns, so that a change of the machine's speed meets all of them. Each one's peak
memory is that of a process of its own. The network is the quickstart's, or with `--full` the full
one, for which batch 1 and a process for each step are enough for a machine of 24 GB.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np

from src import runtime
from src.config import Config, load_config
from src.loss import ScaleShiftInvariantLoss
from src.midas_net import MidasNet
from src.mixing import make_step
from src.trainer import make_optimizer
from tests.benchmarks import bare_step
from tests.benchmarks.timing import load, seconds, spread, verdict

ROOT = Path(__file__).resolve().parents[2]
ALL_GOAL, LAST_GOAL = 1.2, 1.3
KINDS = ("one", "naive", "all", "decoder", "last")  # of steps: one dataset; L, naive; L, by scope


def make(kind: str, config: Config, options: argparse.Namespace) -> Callable[[], object]:
    """A step as a function without arguments, compiled."""
    datasets = 1 if kind == "one" else options.datasets
    network = MidasNet(**config.network())
    rates = [np.full(1000, 1e-5, np.float32)] * 2
    step = make_step(
        network,
        ScaleShiftInvariantLoss(kind="ssitrim"),
        make_optimizer(network, *rates),
        (1,) * datasets,
        *(("naive",) if kind in ("one", "naive") else ("pareto", kind)),
    ).set_train()
    batch = bare_step.make_batch(datasets * options.batch, options.size * 3 // 4, options.size)
    tensors = tuple(map(ms.Tensor, batch))

    def run() -> object:
        return step(*tensors).asnumpy()

    run()
    return run


def peak_memory(kind: str, config: Config, options: argparse.Namespace) -> None:
    """Print the time of steps of one kind, in s, and the most memory of this process, in GB."""
    run = make(kind, config, options)
    times = [seconds(run) for _ in range(options.runs)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(statistics.median(times), peak)


def measure_apart(options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """(seconds a step, GB) of each kind, in a process of its own."""
    found = {}
    for kind in KINDS:
        command = [sys.executable, "-m", "tests.benchmarks.mixing_cost", *sys.argv[1:]]
        done = subprocess.run(
            [*command, "--only", kind], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
        )
        time, peak = map(float, done.stdout.splitlines()[-1].split())
        found[kind] = time, peak
        print(f"{kind:<8} {time:.3f} s a step, {peak:.2f} GB at most", flush=True)
    return found


def report(pairs: list[dict[str, float]], datasets: int) -> None:
    """Print the ratios, medians over rounds of steps in turn."""
    for name, kind, base, factor, goal in (
        ("pareto, all    / naive, one dataset ", "all", "one", datasets, ALL_GOAL),
        ("pareto, decoder/ naive              ", "decoder", "naive", 1, None),
        ("pareto, last   / naive              ", "last", "naive", 1, LAST_GOAL),
    ):
        ratio = statistics.median(times[kind] / times[base] for times in pairs)
        wanted = f"goal {goal} x {factor}: {verdict(ratio <= goal * factor)}" if goal else "no goal"
        print(f"{name} {ratio:.2f} ({wanted})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the full network")
    parser.add_argument("--datasets", type=int, default=2, help="L (default %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="images of each (default %(default)s)")
    parser.add_argument("--size", type=int, default=128, help="width; height is 3/4 of it")
    parser.add_argument("--runs", type=int, default=7, help="counted steps of each")
    parser.add_argument("--only", choices=KINDS, help=argparse.SUPPRESS)  # a process of its own
    options = parser.parse_args()
    name = "config.yaml" if options.full else "scripts/quickstart.yaml"
    config = load_config(["--config_path", str(ROOT / name)])
    runtime.start("CPU", checkpoints_only=True)
    if options.only:
        peak_memory(options.only, config, options)
        return
    print(
        f"{load()}; network of {name}, {options.datasets} datasets, batch {options.batch} of each, "
        f"{options.size}x{options.size * 3 // 4}",
        flush=True,
    )
    found = measure_apart(options)
    if options.full:  # five of them do not fit side by side
        report([{kind: time for kind, (time, _) in found.items()}], options.datasets)
        return
    runs = {kind: make(kind, config, options) for kind in KINDS}
    pairs = [{kind: seconds(run) for kind, run in runs.items()} for _ in range(options.runs)]
    for kind in KINDS:
        print(f"{kind:<8} {spread([times[kind] for times in pairs], 's', 3)}")
    report(pairs, options.datasets)
    print(load())


if __name__ == "__main__":
    main()
