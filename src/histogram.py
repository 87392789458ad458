"""Histograms of per-image errors: bins at round numbers, and their place in a drawing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

_FEWEST_BINS, _MOST_BINS = 10, 40
_TAIL_PERCENTILE = 95
_TAIL_FACTOR = 2  # beyond this multiple of the percentile, errors share one bar
_TAIL_WIDTH = 2  # of that bar, in bins
_MOST_X_TICKS, _MOST_Y_TICKS = 7, 4


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins.

    Attributes:
        edges: float64 [B + 1]; a bin holds its lower edge, the last bin both. The last edge is
            infinite where the few largest values share one bin.
        counts: int [B].
        mean, median: of all values.
    """

    edges: np.ndarray
    counts: np.ndarray
    mean: float
    median: float
    names: tuple[str, ...] = ()
    """Of the bins, where they have any."""


@dataclass(frozen=True)
class Bar:
    """A rectangle of a chart, in the chart's units, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in the chart's units."""

    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """A histogram laid out on a canvas of `WIDTH` x `HEIGHT` units, y downwards."""

    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    mean: float
    median: float


WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 48, 384, 26, 186  # of the area of the bars


def histogram(values: np.ndarray, smallest_range: float) -> Histogram:
    """Count values in some 5 to 40 bins whose edges are round numbers, the first of them 0.

    Args:
        values: float [N], N >= 1, finite and not negative.
        smallest_range: the last edge is at least this, so that errors of 1e-9 look like none.
    """
    largest = float(values.max())
    tail = _TAIL_FACTOR * float(np.percentile(values, _TAIL_PERCENTILE))
    top = max(min(largest, tail), smallest_range)
    step = _round_up(top / min(max(math.isqrt(len(values)), _FEWEST_BINS), _MOST_BINS))
    decimals = max(0, -math.floor(math.log10(step)))
    edges = np.round(np.arange(math.ceil(top / step - 1e-9) + 1) * step, decimals)
    if largest > edges[-1] * (1 + 1e-9):  # and not by rounding alone
        edges = np.append(edges, np.inf)
    return _count(values, edges)


def wrong_or_right(values: np.ndarray) -> Histogram:
    """Two bins around 0 and 1, for errors that are one of these."""
    return _count(values, np.array([-0.5, 0.5, 1.5]), ("right", "wrong"))


def _count(values: np.ndarray, edges: np.ndarray, names: tuple[str, ...] = ()) -> Histogram:
    counts, _ = np.histogram(np.minimum(values, edges[-1]), edges)
    return Histogram(edges, counts, float(values.mean()), float(np.median(values)), names)


def layout(data: Histogram) -> Chart:
    """Place the bars, ticks and marks of a histogram."""
    finite = data.edges[np.isfinite(data.edges)]
    has_tail = len(finite) < len(data.edges)
    end = finite[-1] + (_TAIL_WIDTH * (finite[1] - finite[0]) if has_tail else 0)
    y_step = max(1, int(_round_up(data.counts.max() / _MOST_Y_TICKS)))
    highest = y_step * math.ceil(data.counts.max() / y_step)

    def x(value: float) -> float:
        share = (min(value, end) - finite[0]) / (end - finite[0])
        return round(LEFT + share * (RIGHT - LEFT), 2)

    def y(count: int) -> float:
        return round(BOTTOM - count / highest * (BOTTOM - TOP), 2)

    bars = [
        Bar(x(low), y(count), round(x(high) - x(low), 2), round(BOTTOM - y(count), 2), label)
        for (low, high), count, label in zip(
            pairwise(data.edges), data.counts.tolist(), _labels(data), strict=True
        )
    ]
    y_ticks = [Tick(y(count), f"{count:,}") for count in range(0, highest + 1, y_step)]
    return Chart(bars, _x_ticks(data, bars, x), y_ticks, x(data.mean), x(data.median))


def _labels(data: Histogram) -> list[str]:
    """What each bin holds, in words."""
    if data.names:
        ranges = list(data.names)
    else:
        ranges = [f"{low:g} to {high:g}" for low, high in pairwise(data.edges)]
        ranges[-1] = ranges[-1].replace(" to inf", " and more")
    return [f"{words}: {count:,}" for words, count in zip(ranges, data.counts, strict=True)]


def _x_ticks(data: Histogram, bars: list[Bar], x: Callable[[float], float]) -> list[Tick]:
    """Round numbers at some edges; the names of the bins where they have any."""
    centres = [bar.x + bar.width / 2 for bar in bars]
    if data.names:
        return [Tick(at, name) for at, name in zip(centres, data.names, strict=True)]
    finite = data.edges[np.isfinite(data.edges)]
    stride = math.ceil(_round_up((len(data.edges) - 1) / (_MOST_X_TICKS - 1)))
    ticks = [Tick(x(edge), f"{edge:g}") for edge in finite[::stride]]
    if len(finite) < len(data.edges):
        room = (RIGHT - LEFT) / _MOST_X_TICKS
        ticks = [tick for tick in ticks if tick.at < centres[-1] - room]
        ticks.append(Tick(centres[-1], f"≥ {finite[-1]:g}"))
    return ticks


def _round_up(value: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= value * (1 - 1e-9))
