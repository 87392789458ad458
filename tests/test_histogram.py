"""Histograms of errors: counts by hand and by plain loops, bars where an axis says they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src import histogram


def counted(data: histogram.Histogram) -> dict[str, int]:
    """The bins that hold something, `low to high` -> count."""
    return {
        f"{low:g} to {high:g}": int(count)
        for low, high, count in zip(data.edges[:-1], data.edges[1:], data.counts, strict=True)
        if count
    }


def test_counts_by_hand():
    values = np.array([0.05, 0.07, 0.0, 0.15, 0.19, 0.32, 0.95])
    data = histogram.histogram(values, 0.01)
    assert data.edges.tolist() == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert data.counts.tolist() == [3, 2, 0, 1, 0, 0, 0, 0, 0, 1]
    assert data.median == 0.15
    assert data.mean == pytest.approx(1.73 / 7)


def test_a_value_on_an_edge_belongs_to_the_bin_above_and_the_last_edge_to_the_last_bin():
    """0.3 and 0.7 are where 3 * 0.1 and 7 * 0.1 miss in floating point."""
    values = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    data = histogram.histogram(values, 0.01)
    assert data.counts.tolist() == [1, 1, 1, 1, 1, 1, 1, 1, 1, 2]


def test_a_largest_value_that_rounding_leaves_above_the_last_edge_is_counted():
    data = histogram.histogram(np.array([0.45, np.nextafter(1.0, 2.0)]), 0.01)
    assert counted(data) == {"0.4 to 0.5": 1, "0.9 to 1": 1}


def test_one_image():
    data = histogram.histogram(np.array([0.2285]), 0.01)
    assert counted(data) == {"0.2 to 0.25": 1}
    assert (data.mean, data.median) == (0.2285, 0.2285)


@pytest.mark.parametrize(("value", "expected"), [(0.3, "0.25 to 0.3"), (42.0, "40 to 45")])
def test_all_values_equal(value, expected):
    assert counted(histogram.histogram(np.full(161, value), 0.01)) == {expected: 161}


@pytest.mark.parametrize("value", [0.0, 3e-9])
def test_errors_of_a_perfect_prediction_are_all_in_the_first_bin(value):
    assert counted(histogram.histogram(np.full(5, value), 1.0)) == {"0 to 0.1": 5}


def test_a_few_outliers_share_the_last_bar_and_count_in_mean_and_median():
    """96 errors up to 1 and four of 90 and more: the axis ends at twice the 95th percentile."""
    values = np.concatenate([np.linspace(0.5, 1, 96), [90.0, 100, 110, 1e6]])
    data = histogram.histogram(values, 0.01)
    assert data.edges[-1] == np.inf
    assert data.edges[-2] == 2.0
    assert data.counts[-1] == 4
    assert data.mean == pytest.approx((96 * 0.75 + 300 + 1e6) / 100)
    chart = histogram.layout(data)
    assert chart.bars[-1].label == "2 and more: 4"
    assert chart.x_ticks[-1].label == "≥ 2"
    assert chart.mean == histogram.RIGHT


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(0, 1e4), min_size=1, max_size=300),
    smallest=st.sampled_from([0.01, 1.0]),
)
def test_counts_are_those_of_a_plain_loop_over_round_edges(values, smallest):
    data = histogram.histogram(np.array(values), smallest)
    edges = data.edges.tolist()
    assert edges[0] == 0
    assert 3 <= len(edges) - 1 <= 41
    finite = [edge for edge in edges if edge != np.inf]
    for edge in finite:
        assert float(f"{edge:.3g}") == edge  # few digits to print
    step = finite[1]
    assert np.allclose(np.diff(finite), step)
    assert float(f"{step:.0e}") == step
    assert f"{step:.0e}"[0] in "125"
    expected = [0] * (len(edges) - 1)
    for value in values:
        inside = [i for i in range(len(expected)) if edges[i] <= value < edges[i + 1]]
        expected[inside[0] if inside else -1] += 1
    assert data.counts.tolist() == expected
    assert sum(expected) == len(values)


def test_74441_images_are_counted_and_labelled_with_separators():
    values = np.random.default_rng(0).gamma(3, 0.05, 74441)
    data = histogram.histogram(values, 0.01)
    assert data.counts.sum() == 74441
    assert 15 <= len(data.counts) <= 41
    labels = [tick.label for tick in histogram.layout(data).y_ticks]
    assert labels[0] == "0"
    assert any("," in label for label in labels)
    assert 2 <= len(labels) <= 6


def test_right_and_wrong_are_two_bars():
    data = histogram.wrong_or_right(np.array([0.0, 1, 0, 0]))
    assert data.counts.tolist() == [3, 1]
    chart = histogram.layout(data)
    assert [bar.label for bar in chart.bars] == ["right: 3", "wrong: 1"]
    assert [tick.label for tick in chart.x_ticks] == ["right", "wrong"]
    # 0 is the middle of the first bar, 1 that of the second: the mean 0.25 is a quarter of the way.
    right, wrong = (bar.x + bar.width / 2 for bar in chart.bars)
    assert chart.median == pytest.approx(right, abs=0.02)
    assert chart.mean == pytest.approx(right + 0.25 * (wrong - right), abs=0.02)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_right_and_all_wrong_keep_both_bars(value):
    chart = histogram.layout(histogram.wrong_or_right(np.full(3, value)))
    assert [bar.height > 0 for bar in chart.bars] == [value == 0, value == 1]


def test_bars_ticks_and_marks_agree_about_the_axes():
    values = np.array([0.05] * 4 + [0.15] * 2 + [0.25] * 3 + [0.95])
    chart = histogram.layout(histogram.histogram(values, 0.01))
    x = {tick.label: tick.at for tick in chart.x_ticks}
    y = {tick.label: tick.at for tick in chart.y_ticks}
    assert (x["0"], x["1"]) == (histogram.LEFT, histogram.RIGHT)
    assert (y["0"], y["4"]) == (histogram.BOTTOM, histogram.TOP)
    per_image = (histogram.BOTTOM - histogram.TOP) / 4
    tenth = (histogram.RIGHT - histogram.LEFT) / 10
    for i, count in enumerate([4, 2, 3, 0, 0, 0, 0, 0, 0, 1]):
        bar = chart.bars[i]
        assert bar.height == pytest.approx(count * per_image, abs=0.02)
        assert bar.y + bar.height == pytest.approx(histogram.BOTTOM, abs=0.02)
        assert bar.x == pytest.approx(histogram.LEFT + i * tenth, abs=0.02)
        assert bar.width == pytest.approx(tenth, abs=0.02)
    assert chart.mean == pytest.approx(histogram.LEFT + 10 * tenth * values.mean(), abs=0.02)
    assert chart.median == pytest.approx(histogram.LEFT + 10 * tenth * 0.15, abs=0.02)


def test_the_y_axis_ends_at_a_tick_that_no_bar_exceeds():
    """Five images in a bar, ticks at even numbers: the axis ends at 6."""
    chart = histogram.layout(histogram.histogram(np.array([0.05] * 5 + [0.95]), 0.01))
    ticks = [(tick.label, tick.at) for tick in chart.y_ticks]
    assert [label for label, _ in ticks] == ["0", "2", "4", "6"]
    assert ticks[-1][1] == histogram.TOP
    whole = histogram.BOTTOM - histogram.TOP
    assert chart.bars[0].height == pytest.approx(whole * 5 / 6, abs=0.02)


def test_labels_of_the_x_axis_have_room():
    for count in (1, 30, 400, 1000):
        for scale in (0.013, 0.7, 100):
            values = np.random.default_rng(count).lognormal(0, 0.8, count) * scale
            ticks = histogram.layout(histogram.histogram(values, 0.01)).x_ticks
            assert 2 <= len(ticks) <= 8
            places = [tick.at for tick in ticks]
            assert min(np.diff(places)) > 35  # a label of five digits at the chart's size of type
