"""Means over images, and the table on the screen."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from src.errors import UserError
from src.summary import Result, Row, summarise, table


def row(id_: str, skipped: str = "", **errors: float) -> Row:
    return Row(id_, 12, 16, errors, skipped)


def result(
    name: str,
    metric: str,
    error: float,
    means: Mapping[str, float] | None = None,
    images: int = 3,
    skipped: int = 0,
) -> Result:
    means = {"abs_rel": 0.25, "row_abs_rel": 0.5} if means is None else means
    reasons = [(f"drive/{i}", f"{i}.png: damaged") for i in range(skipped)]
    return Result(name, metric, means | {metric: error}, images, reasons, {})


def test_means_are_over_the_images_that_count():
    rows = [
        row("a", abs_rel=1.0, whdr=0.0),
        row("b", skipped="b.png: damaged"),
        row("c", abs_rel=4.0, whdr=1.0),
    ]
    found = summarise("Kitti", "abs_rel", rows, {"cap_m": 80}, "/data")
    assert found.means == {"abs_rel": 2.5, "whdr": 0.5}
    assert (found.name, found.metric, found.error, found.images) == ("Kitti", "abs_rel", 2.5, 2)
    assert found.skipped == [("b", "b.png: damaged")]
    assert found.settings == {"cap_m": 80}


def test_means_are_exact_for_many_images():
    """74,441 images, as DIW has: the sum is rounded once, not 74,441 times."""
    values = np.random.default_rng(0).random(74_441).tolist()
    found = summarise("DIW", "whdr", [row("a", whdr=v) for v in values], {}, "/data")
    assert found.error == math.fsum(values) / 74_441
    backwards = summarise("DIW", "whdr", [row("a", whdr=v) for v in values[::-1]], {}, "/data")
    assert backwards.error == found.error


@pytest.mark.parametrize("count", [1, 3])
def test_without_an_image_that_counts_there_is_no_result(count):
    rows = [row(str(i), skipped="damaged") for i in range(count)]
    with pytest.raises(UserError, match=rf"/data/TUM: all {count} images were skipped"):
        summarise("TUM", "abs_rel", rows, {}, "/data/TUM")


def test_the_table_states_units_and_the_baseline():
    whdr = result("DIW", "whdr", 0.12, {"row_whdr": 0.3}, images=10)
    results = [
        result("Kitti", "bad_pixel_percent", 24.222),
        result("Sintel", "abs_rel", 0.323, images=1),
        whdr,
    ]
    lines = table(results, "128", "bicubic").splitlines()
    assert len(lines) == 6
    assert lines[0].split()[:5] == ["benchmark", "images", "error", "AbsRel", "AbsRel"]
    assert lines[1].split() == [
        *["Kitti", "3", "24.222", "%", ">", "1.25"],
        *["0.2500", "0.5000", "(-50%)"],
    ]
    # The mean of Sintel's metric stands in both columns; 0.323 / 0.5 is 35 % less than the row's.
    assert lines[2].split() == ["Sintel", "1", "0.3230", "AbsRel", "0.3230", "0.5000", "(-35%)"]
    assert lines[3].split() == ["DIW", "10", "0.1200", "WHDR", "WHDR", "0.3000", "(-60%)"]
    # (3 * 0.25 + 0.323) / 4 over the images with depth
    assert lines[4].split() == ["all", "images", "4", "0.2682", "0.5000", "(-46%)"]
    assert lines[5].startswith("network size 128 (384 in the protocol)")
    assert "bicubic" in lines[5]
    assert max(map(len, lines)) <= 100


def test_one_benchmark_has_no_line_for_all():
    diw = result("DIW", "whdr", 0.12, {"row_whdr": 0.3})
    for results in ([diw], [result("TUM", "abs_rel", 0.1)], [diw, result("TUM", "abs_rel", 0.1)]):
        text = table(results, "384", "bilinear")
        assert "all images" not in text
        assert len(text.splitlines()) == len(results) + 2


def test_a_baseline_without_error_is_no_division_by_zero():
    zero = {"abs_rel": 0.1, "row_abs_rel": 0.0}
    line = table([result("TUM", "bad_pixel_percent", 1.0, zero)], "384", "bilinear").splitlines()[1]
    assert line.split()[-2:] == ["0.1000", "0.0000"]


@pytest.mark.parametrize(("skipped", "listed", "more"), [(1, 1, 0), (20, 20, 0), (23, 20, 3)])
def test_the_table_names_the_skipped_images(skipped, listed, more):
    lines = table([result("TUM", "abs_rel", 0.1, skipped=skipped)], "384", "bilinear").splitlines()
    named = lines[2:-1]
    expected = [f"TUM: skipped drive/{i}: {i}.png: damaged" for i in range(listed)]
    assert named[:listed] == expected
    assert named[listed:] == ([f"TUM: skipped {more} more, see results.csv"] if more else [])
