"""A look at the datasets of a mixdata.json before they are trained on: numbers and a picture.

    python -m src.data.training --check MIXDATA.json [--train_data_dir DIR] [--samples 100]
                                [--output FILE.png]

Of each dataset it reads some evenly spaced pairs and prints what they hold, and draws a few
photographs with their targets on one sheet: bright is close, so a wrong `kind` is seen at once.
Without --train_data_dir, globs are looked up under the folder of the JSON file first.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import stats

from src.config import DEFAULT_CONFIG
from src.data.contact_sheet import COLUMNS, Block, draw_sheet, tiles
from src.data.mixdata import DataSource, Pair, by_dataset, find_pairs
from src.data.pairs import read_pair, require_valid_pixels
from src.data.transforms import unit_range
from src.errors import Parser, UserError
from src.image_io import write_image
from src.runlog import progress_bar

BINS = 32  # of the histogram
_BARS = "▁▂▃▄▅▆▇█"
_PERCENTILES = (1, 25, 50, 75, 99)
_PIXELS = 10_000  # of an image, evenly spaced, that are sorted: enough for two digits
_NAMED = 3  # unreadable pairs of a dataset that are listed


@dataclass(frozen=True)
class Sample:
    """What one pair holds.

    Attributes:
        size: (width, height) in pixels.
        valid: share of the pixels that are known, in [0, 1].
        values: float32 [N], N <= `_PIXELS`: known values, metres or disparity times `scale`.
        histogram: float64 [BINS], shares of the known pixels over disparity in [0, 1].
        slope: rank correlation of disparity and image row, above 0 if the bottom is closer; NaN
            where there is none.
    """

    size: tuple[int, int]
    valid: float
    values: np.ndarray
    histogram: np.ndarray
    slope: float


@dataclass
class Findings:
    """What was found in one dataset: the sample of each pair that was tried, or why it has none.

    `refusal` is why a training would not begin with the dataset, or ''.
    """

    source: DataSource
    images: int
    masked: bool
    samples: dict[Pair, Sample] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    refusal: str = ""

    @property
    def problems(self) -> list[str]:
        """Why the dataset cannot be trained on as it is."""
        tried = len(self.samples) + len(self.unreadable)
        found = []
        if self.unreadable:
            found.append(f"{len(self.unreadable)} of {tried} pairs cannot be read")
        if self.samples and not any(sample.valid for sample in self.samples.values()):
            found.append(
                f"no valid pixel in {len(self.samples)} targets: "
                "check kind, scale, invalid, key and mask"
            )
        elif self.refusal:
            found.append(self.refusal)
        return found

    @property
    def slopes(self) -> np.ndarray:
        """The rank correlations of all samples that have one: float64 [N]."""
        slopes = np.array([sample.slope for sample in self.samples.values()])
        return slopes[np.isfinite(slopes)]

    @property
    def upside_down(self) -> str:
        """A hint if most samples are farther at the bottom, or ''."""
        farther, count = np.count_nonzero(self.slopes < 0), len(self.slopes)
        if 2 * farther <= count:
            return ""
        return (
            f"in {farther} of {count} samples the bottom is farther than the top; nearly all "
            f"photographs are closer at the bottom: check kind, now {self.source.kind}"
        )


def measure(pair: Pair) -> Sample:
    """Read a pair and describe it.

    Raises:
        UserError: as `read_pair`.
    """
    _, disparity = read_pair(pair)
    known = np.isfinite(disparity)
    rows = np.nonzero(known)[0]
    count = len(rows)
    picked = np.linspace(0, max(count - 1, 0), min(count, _PIXELS)).astype(np.int64)
    values = disparity[known][picked]
    unit = unit_range(disparity, known)[known][picked]
    counts, _ = np.histogram(unit, BINS, (0, 1))
    varied = count > 0 and np.ptp(values) > 0 and np.ptp(rows) > 0
    return Sample(
        size=disparity.shape[::-1],
        valid=count / disparity.size,
        values=1 / values if pair.source.kind == "depth" else values,
        histogram=counts / max(len(picked), 1),
        slope=float(stats.spearmanr(values, rows[picked])[0]) if varied else np.nan,
    )


def evenly(items: Sequence, count: int) -> list:
    """At most `count` of the items, evenly spaced, the first and the last among them."""
    places = np.linspace(0, len(items) - 1, min(count, len(items)))
    return [items[round(place)] for place in places]


def look_at(pairs: list[Pair], samples: int) -> list[Findings]:
    """Read up to `samples` evenly spaced pairs of each dataset; an unreadable one is noted."""
    found = []
    for indices in by_dataset(pairs).values():
        members = [pairs[index] for index in indices]
        chosen = evenly(members, samples)
        findings = Findings(chosen[0].source, len(members), chosen[0].mask is not None)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = pool.map(_try_to_measure, chosen)
            bar = progress_bar(results, total=len(chosen), desc=findings.source.name, leave=False)
            for pair, result in zip(chosen, bar, strict=True):
                if isinstance(result, Sample):
                    findings.samples[pair] = result
                else:
                    findings.unreadable.append(result)
        findings.refusal = _refusal(members)
        found.append(findings)
    return found


def _refusal(pairs: list[Pair]) -> str:
    """Why a training would not begin with this dataset, or ''."""
    try:
        require_valid_pixels(pairs, skip_bad=True)  # the unreadable ones are told of already
    except UserError as error:
        return str(error)
    return ""


def _try_to_measure(pair: Pair) -> Sample | str:
    """The sample, or why there is none."""
    try:
        return measure(pair)
    except UserError as error:
        return str(error)


# --- The text -----------------------------------------------------------------------------------


def describe(findings: Findings) -> str:
    """What was found in a dataset, in lines."""
    source = findings.source
    lines = [f"{source.name}: {findings.images} images, weight {source.weight:g}"]
    lines += [f"  {name:<10} {text}" for name, text in _facts(findings)]
    return "\n".join(lines)


def _facts(findings: Findings) -> Iterator[tuple[str, str]]:
    """(name, text) of each line below a dataset's first."""
    samples = list(findings.samples.values())
    yield "targets", _meaning(findings)
    yield "samples", f"{len(samples)} read, {len(findings.unreadable)} unreadable"
    yield from (("", text) for text in findings.unreadable[:_NAMED])
    if len(findings.unreadable) > _NAMED:
        yield "", "..."
    if samples:
        yield "sizes", _sizes([sample.size for sample in samples])
        yield "valid", _valid(np.array([sample.valid for sample in samples]))
    if any(sample.valid for sample in samples):
        yield "values", _values(findings)
        yield "disparity", _histogram(samples)
    if findings.slopes.size:
        yield "rows", _rows(findings.slopes)
    if findings.upside_down:
        yield "HINT", findings.upside_down
    yield from (("FAILED", problem) for problem in findings.problems)


def _meaning(findings: Findings) -> str:
    """What the stored values stand for, in words."""
    source = findings.source
    unknown = ["NaN", "infinity"]
    if source.kind == "depth":
        larger = "farther"
        unknown = ["0", "negative", *unknown]
    else:
        larger = "closer"
    if source.invalid is not None:
        unknown.append(f"{source.invalid:g}")
    if findings.masked:
        unknown.append("where the mask is 0")
    return (
        f"kind {source.kind} (larger is {larger}), scale {source.scale:g}; "
        f"unknown: {', '.join(unknown)}"
    )


def _sizes(sizes: list[tuple[int, int]]) -> str:
    """Widths and heights: the smallest, the most common and the largest area."""
    common, times = Counter(sizes).most_common(1)[0]
    area = {size: size[0] * size[1] for size in sizes}
    low, high = min(area, key=area.get), max(area, key=area.get)
    if low == high == common and times == len(sizes):
        return f"all {low[0]}x{low[1]}"
    return (
        f"{low[0]}x{low[1]} to {high[0]}x{high[1]}, most often {common[0]}x{common[1]} "
        f"({times} of {len(sizes)})"
    )


def _valid(shares: np.ndarray) -> str:
    none = np.count_nonzero(shares == 0)
    return (
        f"{100 * shares.mean():.1f} % of the pixels, in the emptiest target "
        f"{100 * shares.min():.1f} %; {none} of {len(shares)} targets have none"
    )


def _values(findings: Findings) -> str:
    """Percentiles of the known values of all samples, in their unit."""
    values = np.concatenate([sample.values for sample in findings.samples.values()])
    unit = " m" if findings.source.kind == "depth" else ""
    found = np.percentile(values, _PERCENTILES)
    listed = ", ".join(f"{value:.3g}{unit}" for value in found)
    return f"{listed} (percentiles {', '.join(map(str, _PERCENTILES))})"


def _histogram(samples: list[Sample]) -> str:
    """Bars for the mean of the samples' histograms."""
    shares = np.mean([sample.histogram for sample in samples if sample.valid], axis=0)
    levels = np.ceil(shares / shares.max() * len(_BARS)).astype(int)
    bars = "".join(_BARS[level - 1] if level else " " for level in levels)
    return f"far 0 |{bars}| 1 close; the highest bar is {100 * shares.max():.0f} % of the pixels"


def _rows(slopes: np.ndarray) -> str:
    closer = np.count_nonzero(slopes > 0)
    return (
        f"closer at the bottom in {closer} of {len(slopes)} samples; mean rank correlation of "
        f"disparity and row {slopes.mean():+.2f}"
    )


# --- The program --------------------------------------------------------------------------------


def _block(findings: Findings) -> Block:
    """What the sheet shows of a dataset."""
    shown = evenly(list(findings.samples), COLUMNS) if findings.samples else []
    return Block(
        title=f"{findings.source.name}: {findings.images} images",
        note=_meaning(findings),
        warnings=[*findings.problems, *filter(None, [findings.upside_down])],
        samples=[(str(pair.image), *tiles(*read_pair(pair))) for pair in shown],
    )


def _parse() -> argparse.Namespace:
    parser = Parser(
        prog="python -m src.data.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", required=True, type=Path, metavar="MIXDATA.json")
    parser.add_argument("--train_data_dir", type=Path, metavar="DIR")
    parser.add_argument("--samples", type=int, default=100, metavar="N", help="of each dataset")
    parser.add_argument("--output", type=Path, metavar="FILE.png", help="the picture")
    arguments = parser.parse_args()
    if arguments.samples < 1:
        raise UserError(f"--samples: got {arguments.samples}, expected a number above 0")
    if not arguments.check.is_file():
        raise UserError(f"{arguments.check}: no such file; --check takes a mixdata.json")
    return arguments


def _output(given: Path | None, mixdata: Path) -> Path:
    """Where the picture goes; known before anything is read."""
    path = given
    if path is None:
        name = f"{mixdata.stem}-check-{datetime.datetime.now():%Y%m%d-%H%M%S}.png"
        path = DEFAULT_CONFIG.parent / "output/check" / name
    if path.suffix.lower() != ".png":
        raise UserError(f"--output: {path}: expected a name that ends in .png")
    # Missing folders are made when the picture is. Path.exists would raise where it may not look.
    folder = next(filter(os.path.exists, path.parents), path.parent)
    if not folder.is_dir():
        raise UserError(f"--output: {folder}: is not a folder, so {path} cannot be written")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"--output: {folder}: may not be written to; choose another folder")
    if os.path.lexists(path):
        raise UserError(f"--output: {path}: is there already; choose another name or remove it")
    return path


def _write(path: Path, sheet: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {path.parent}: no folder for it ({error.strerror})") from None
    write_image(path, sheet)


def main() -> None:
    """The program.

    Raises:
        UserError: a wrong command line or mixdata.json; or, after all is printed and drawn, that a
            dataset has unreadable pairs or no valid pixel.
    """
    arguments = _parse()
    mixdata = arguments.check.absolute()
    output = _output(arguments.output, mixdata)
    root = arguments.train_data_dir or mixdata.parent
    found = look_at(find_pairs(str(root), str(mixdata)), arguments.samples)
    sys.stdout.reconfigure(errors="replace")  # for a console that has no characters for bars
    print("\n\n".join(describe(findings) for findings in found))
    _write(output, draw_sheet([_block(findings) for findings in found]))
    print(f"\npicture    {output}")
    failed = [findings.source.name for findings in found if findings.problems]
    if failed:
        raise UserError(f"{arguments.check}: failed the check: {', '.join(failed)}; see above")
