"""Check a downloaded benchmark: is everything there, and can every file be read?

    python preprocess/check.py NAME FOLDER [--workers N]
    python preprocess/check.py NYU nyu_depth_v2_labeled.mat splits.mat

NAME is Kitti, Sintel, TUM, ETH3D, NYU, DIW or Middlebury. Looks for missing files, reads every
image and its ground truth as the evaluation does, lists what is damaged and sums up what is there.
A set of another size than the published one is no error, but a warning. Writes nothing.

Exit code: 0 complete, 1 files are missing or damaged, 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from src.data.benchmarks import BENCHMARKS, Benchmark, DepthSample, Sample
from src.data.benchmarks.base import MissingFilesError
from src.data.benchmarks.sintel import Sintel
from src.errors import Parser, UserError, run_program
from src.runlog import progress_bar

MOST_LISTED = 100  # missing or damaged files
MOST_SIZES = 5
BLOCK = 256  # images given to the threads at once, so that memory does not grow with the set


class Published(NamedTuple):
    """A set as its authors describe it: samples, and scenes where they have names."""

    images: int
    source: str
    scenes: tuple[str, ...] = ()


PUBLISHED = {
    "Kitti": Published(161, "the split of Ranftl et al., TPAMI 2022"),
    "Sintel": Published(
        1064,
        "the training set of MPI Sintel",
        (
            *("alley_1", "alley_2", "ambush_2", "ambush_4", "ambush_5", "ambush_6", "ambush_7"),
            *("bamboo_1", "bamboo_2", "bandage_1", "bandage_2", "cave_2", "cave_4", "market_2"),
            *("market_5", "market_6", "mountain_1", "shaman_2", "shaman_3", "sleeping_1"),
            *("sleeping_2", "temple_2", "temple_3"),
        ),
    ),
    "ETH3D": Published(
        454,
        "the high-resolution training set of ETH3D",
        (
            *("courtyard", "delivery_area", "electro", "facade", "kicker", "meadow", "office"),
            *("pipes", "playground", "relief", "relief_2", "terrace", "terrains"),
        ),
    ),
    "NYU": Published(654, "the test set of NYU Depth v2"),
    "DIW": Published(74441, "the test set of DIW"),
}
NYU_LABELLED = 1449
"""Images in nyu_depth_v2_labeled.mat, of training and test."""


class Finding(NamedTuple):
    """What one sample is like: its size (width, height), the share of valid pixels and the range of
    their depths in metres (0 where there is no depth map), or else what is wrong with it."""

    size: tuple[int, int] = (0, 0)
    valid: float = 0.0
    nearest: float = 0.0
    farthest: float = 0.0
    problem: str = ""


@dataclass
class Summary:
    """The findings of all samples so far."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    valid: float = 0.0
    nearest: float = float("inf")
    farthest: float = 0.0
    problems: list[str] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        if finding.problem:
            self.problems.append(finding.problem)
            return
        self.sizes[finding.size] += 1
        self.valid += finding.valid
        self.nearest = min(self.nearest, finding.nearest)
        self.farthest = max(self.farthest, finding.farthest)


def inspect(benchmark: Benchmark, index: int) -> Finding:
    """Read one sample."""
    try:
        sample: Sample = benchmark.read(index)
    except UserError as error:
        return Finding(problem=" ".join(str(error).split()))
    height, width = sample.image.shape[:2]
    if not isinstance(sample, DepthSample):
        return Finding((width, height))
    depths = sample.depth[sample.mask]
    nearest, farthest = float(depths.min()), float(depths.max())
    return Finding((width, height), float(np.mean(sample.mask)), nearest, farthest)


def inspect_all(benchmark: Benchmark, workers: int) -> Iterator[Finding]:
    """Read all samples in several threads, in order, with a progress bar."""
    with (
        contextlib.closing(progress_bar(total=len(benchmark), desc="reading", unit="image")) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        for start in range(0, len(benchmark), BLOCK):
            indices = range(start, min(start + BLOCK, len(benchmark)))
            for finding in pool.map(partial(inspect, benchmark), indices):
                bar.update()
                yield finding


def warnings(benchmark: Benchmark) -> Iterator[str]:
    """In what the set is another than the published one."""
    published = PUBLISHED.get(benchmark.name)
    if published is not None and len(benchmark) != published.images:
        yield (
            f"{len(benchmark)} images, {published.source} has {published.images}: "
            "errors are not those of the published set"
        )
    if published is not None and published.scenes:
        scenes = {name.split("/")[0] for name in benchmark.ids}
        if absent := [name for name in published.scenes if name not in scenes]:
            yield f"{len(absent)} of {len(published.scenes)} scenes are not there: " + " ".join(
                absent
            )
    if benchmark.name == "NYU":
        with h5py.File(benchmark.root, "r") as file:
            count = len(file["images"])
        if count != NYU_LABELLED:
            yield f"{benchmark.root}: {count} labelled images, NYU Depth v2 has {NYU_LABELLED}"
    if benchmark.name == "Sintel":
        try:
            Sintel(benchmark.root, occluded=False)
        except UserError as error:
            yield f"{error} (occlusions; needed only to leave occluded pixels out)"


def describe(benchmark: Benchmark, summary: Summary) -> Iterator[str]:
    """The lines that sum up what could be read."""
    count = summary.sizes.total()
    yield f"{benchmark.name}: {count} of {len(benchmark)} images are good"
    if not count:
        return
    by_number = sorted(summary.sizes.items(), key=lambda item: (-item[1], item[0]))
    sizes = [f"{width} x {height} ({number})" for (width, height), number in by_number[:MOST_SIZES]]
    others = len(summary.sizes) - len(sizes)
    yield f"sizes: {', '.join(sizes)}" + (f" and {others} other sizes" if others else "")
    if benchmark.cap is not None:
        yield (
            f"valid pixels: {100 * summary.valid / count:.1f} % (below {benchmark.cap:g} m); "
            f"depth {summary.nearest:.2f} to {summary.farthest:.2f} m"
        )


def print_problems(label: str, problems: Sequence[str]) -> None:
    """A line each, to a limit, and how many more there are."""
    for problem in problems[:MOST_LISTED]:
        print(f"{label}: {' '.join(problem.split())}")
    if len(problems) > MOST_LISTED:
        print(f"{label}: {len(problems) - MOST_LISTED} more that are not listed")


def check(benchmark: Benchmark, workers: int) -> int:
    """Read and report everything. Returns the exit code, 0 or 1."""
    for text in warnings(benchmark):
        print(f"warning: {text}")
    summary = Summary()
    with contextlib.closing(inspect_all(benchmark, workers)) as findings:
        for finding in findings:
            summary.add(finding)
    print_problems("damaged", summary.problems)
    for line in describe(benchmark, summary):
        print(line)
    return 1 if summary.problems else 0


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("paths", type=Path, nargs="+", metavar="FOLDER", help="NYU: its two files")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="threads that read"
    )
    arguments = parser.parse_args()
    name, paths = arguments.name, arguments.paths
    if len(paths) != (2 if name == "NYU" else 1):
        expected = "the labelled .mat file and splits.mat" if name == "NYU" else "one folder"
        raise UserError(f"{name}: expected {expected}, got {' '.join(map(str, paths))}")
    if arguments.workers < 1:
        raise UserError(f"--workers {arguments.workers}: expected at least 1")
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder, expected the {name} data set")
    try:
        benchmark = BENCHMARKS[name](*paths)
    except MissingFilesError as error:
        print_problems("missing", error.files)
    except UserError as error:
        print_problems("missing or damaged", [str(error)])
    else:
        return check(benchmark, arguments.workers)
    print(f"{name}: nothing was read; mend this first")
    return 1


if __name__ == "__main__":
    run_program(main)
