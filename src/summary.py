"""The errors of single images, their means over a benchmark, and the table of all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from src.data.transforms import Upsampling
from src.errors import UserError

_LISTED = 20  # skipped images that the table names

_UNITS = {
    "bad_pixel_percent": "{:.3f} % > 1.25",
    "abs_rel": "{:.4f} AbsRel",
    "whdr": "{:.4f} WHDR",
}


@dataclass(frozen=True)
class Row:
    """What is known of one image.

    Attributes:
        id: unique in its benchmark.
        height, width: of the image in pixels; 0 where it could not be read.
        errors: column -> value; empty for a skipped image.
        skipped: the reason, empty for an image that counts.
    """

    id: str
    height: int
    width: int
    errors: Mapping[str, float]
    skipped: str = ""


@dataclass(frozen=True)
class Result:
    """The errors of one benchmark, each the mean over its images.

    Attributes:
        name: of the benchmark.
        metric: the column of the error that is reported.
        means: column -> mean over the images that count.
        images: how many count.
        skipped: (id, reason) of those that do not.
        settings: what the errors depend on.
    """

    name: str
    metric: str
    means: Mapping[str, float]
    images: int
    skipped: Sequence[tuple[str, str]]
    settings: Mapping[str, Any]

    @property
    def error(self) -> float:
        """The reported error: percent for bad_pixel_percent, a ratio otherwise."""
        return self.means[self.metric]


class NothingCountsError(UserError):
    """All images of a benchmark were skipped."""


def summarise(
    name: str, metric: str, rows: Sequence[Row], settings: Mapping[str, Any], source: object
) -> Result:
    """The means over all rows that count, in the rows' order.

    Args:
        source: where the images are, for the message.

    Raises:
        NothingCountsError: all were skipped.
    """
    counted = [row for row in rows if not row.skipped]
    if not counted:
        raise NothingCountsError(f"{source}: all {len(rows)} images were skipped, see the log")
    means = {
        column: math.fsum(row.errors[column] for row in counted) / len(counted)
        for column in counted[0].errors
    }
    skipped = [(row.id, row.skipped) for row in rows if row.skipped]
    return Result(name, metric, means, len(counted), skipped, settings)


def table(results: Sequence[Result], size: str, upsampling: Upsampling) -> str:
    """The results as text, each error in its own unit.

    Args:
        results: of the benchmarks that were evaluated.
        size: of the network's input, in words.
        upsampling: of the predictions.
    """
    form = "{:<12} {:>7} {:>16} {:>8} {:>22}"
    lines = [form.format("benchmark", "images", "error", "AbsRel", "AbsRel of the row only")]
    for result in results:
        lines.append(
            form.format(
                result.name,
                result.images,
                _UNITS[result.metric].format(result.error),
                f"{result.means['abs_rel']:.4f}" if "abs_rel" in result.means else "",
                _against_row(result),
            )
        )
    depth = [result for result in results if "abs_rel" in result.means]
    if len(depth) > 1:
        lines.append(form.format("all images", *_all_images(depth)))
    lines += [line for result in results for line in _skipped_lines(result)]
    lines.append(
        f"network size {size} (384 in the protocol), predictions resized by {upsampling} "
        "interpolation"
    )
    return "\n".join(lines)


def _skipped_lines(result: Result) -> list[str]:
    lines = [f"{result.name}: skipped {id_}: {why}" for id_, why in result.skipped[:_LISTED]]
    more = len(result.skipped) - _LISTED
    return lines if more <= 0 else [*lines, f"{result.name}: skipped {more} more, see results.csv"]


def _against_row(result: Result) -> str:
    """The error of the row alone, and how much smaller or larger the network's is."""
    column = "abs_rel" if "abs_rel" in result.means else result.metric
    text = _relative(result.means[column], result.means[f"row_{column}"])
    return text if column == "abs_rel" else f"WHDR {text}"


def _all_images(results: Sequence[Result]) -> tuple[int, str, str, str]:
    """Images, no common error, AbsRel and that of the row alone, over the images of all."""
    weights = [result.images for result in results]
    mean, row = (
        float(np.average([result.means[name] for result in results], weights=weights))
        for name in ("abs_rel", "row_abs_rel")
    )
    return sum(weights), "", f"{mean:.4f}", _relative(mean, row)


def _relative(error: float, row_error: float) -> str:
    return f"{row_error:.4f} ({error / row_error - 1:+.0%})" if row_error else f"{row_error:.4f}"
