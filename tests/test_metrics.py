"""Alignment against numpy.linalg.lstsq, errors against plain Python loops and against hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src import metrics

BOUNDED = settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
ALL = np.ones((2, 2), bool)


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A prediction, a depth in metres that is 0 where the mask is not set, and the mask."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(2, 12, 2)
    prediction = rng.normal(rng.normal(scale=100), 10 ** rng.uniform(-2, 3), (height, width))
    mask = rng.random((height, width)) < 0.7
    mask[0, :2] = True
    depth = np.where(mask, rng.uniform(0.5, 70, (height, width)), 0)
    return prediction.astype(np.float32), depth.astype(np.float32), mask


def inverse(depth: np.ndarray) -> np.ndarray:
    return np.array([[1 / float(z) if z > 0 else 0.0 for z in row] for row in depth])


@BOUNDED
@given(seed=SEEDS)
def test_alignment_is_the_least_squares_fit_on_valid_pixels(seed):
    prediction, depth, mask = random_case(seed)
    target = inverse(depth)
    columns = np.stack([prediction[mask].astype(np.float64), np.ones(mask.sum())], axis=1)
    (scale, shift), *_ = np.linalg.lstsq(columns, target[mask], rcond=None)
    found = metrics.fit_disparity(prediction[mask], target[mask])
    np.testing.assert_allclose(found, (scale, shift), rtol=1e-6, atol=1e-9)


def test_alignment_by_hand():
    # Through (1, 1), (2, 3), (3, 2): the slope is 2/4 and the line passes through (2, 2).
    prediction = np.array([[1, 2, 3, 99]], np.float32)
    target = np.array([[1, 3, 2, -99]], np.float32)
    mask = np.array([[True, True, True, False]])
    assert metrics.fit_disparity(prediction[mask], target[mask]) == pytest.approx((0.5, 1.0))


@pytest.mark.parametrize("unit", [1e-30, 1e-6, 1e6, 1e30])
def test_alignment_does_not_depend_on_the_unit_of_the_prediction(unit):
    prediction = (np.array([[1, 2], [3, 4]]) * unit).astype(np.float32)
    target = np.array([[0.3, 0.5], [0.7, 0.9]])
    scale, shift = metrics.fit_disparity(prediction.ravel(), target.ravel())
    assert scale * unit == pytest.approx(0.2, rel=1e-6)
    assert shift == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -7e20])
def test_a_constant_prediction_gets_scale_0_and_the_mean_of_the_target(value):
    prediction = np.full((2, 2), value, np.float32)
    prediction[1, 1] = 5  # not valid
    mask = np.array([[True, True], [True, False]])
    target = np.array([[0.1, 0.2], [0.6, 9.0]])
    assert metrics.fit_disparity(prediction[mask], target[mask]) == (0.0, pytest.approx(0.3))


def test_a_single_valid_pixel_gets_scale_0():
    mask = np.array([[False, True], [False, False]])
    target = np.array([[1.0, 0.25], [3.0, 4.0]])
    assert metrics.fit_disparity(np.eye(2)[mask], target[mask]) == (0.0, 0.25)


@BOUNDED
@given(seed=SEEDS)
def test_a_perfect_prediction_of_any_scale_and_shift_scores_0(seed):
    _, depth, mask = random_case(seed)
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(-3, 3) * rng.choice([-1, 1])
    prediction = np.where(mask, (inverse(depth) - rng.normal()) / scale, rng.normal(scale=1e3))
    found = metrics.aligned_depth(prediction, depth, mask, cap=80)
    np.testing.assert_allclose(found[mask], depth[mask], rtol=1e-6)
    scores = metrics.depth_scores(prediction, depth, mask, cap=80)
    scores.pop("row_abs_rel")
    deltas = dict.fromkeys(("delta1", "delta2", "delta3"), 1.0)
    assert {name: scores.pop(name) for name in deltas} == deltas
    assert scores == pytest.approx(dict.fromkeys(scores, 0), abs=1e-4)


@BOUNDED
@given(seed=SEEDS)
def test_aligned_depth_is_clamped_at_the_cap(seed):
    prediction, depth, mask = random_case(seed)
    scale, shift = metrics.fit_disparity(prediction[mask], inverse(depth)[mask])
    found = metrics.aligned_depth(prediction, depth, mask, cap=20)
    assert found.dtype == np.float64
    for value, predicted in zip(found.flat, prediction.flat, strict=True):
        disparity = scale * float(predicted) + shift
        assert value == pytest.approx(20 if disparity < 1 / 20 else 1 / disparity)


def test_pixels_that_are_not_valid_change_nothing():
    prediction, depth, mask = random_case(3)
    assert not mask.all()
    other = depth.copy()
    other[~mask] = np.nan
    first = metrics.aligned_depth(prediction, depth, mask, cap=80)
    second = metrics.aligned_depth(prediction, other, mask, cap=80)
    np.testing.assert_array_equal(first, second)
    scores = [metrics.depth_scores(prediction, d, mask, cap=80) for d in (depth, other)]
    assert scores[0] == scores[1]


def errors_by_loops(predicted: list[float], true: list[float]) -> dict[str, float]:
    """Every error by its definition, pixel after pixel."""
    count = len(true)
    relative = square = log10 = 0.0
    bad, within = 0, [0, 0, 0]
    differences = []
    for z, t in zip(predicted, true, strict=True):
        relative += abs(z - t) / t
        square += (z - t) ** 2
        log10 += abs(math.log10(z) - math.log10(t))
        differences.append(math.log(z) - math.log(t))
        factor = max(z / t, t / z)
        bad += factor > 1.25
        for i in range(3):
            within[i] += factor < 1.25 ** (i + 1)
    mean = sum(differences) / count
    variance = sum((difference - mean) ** 2 for difference in differences) / count
    return {
        "abs_rel": relative / count,
        "rmse": math.sqrt(square / count),
        "log10": log10 / count,
        "silog": 100 * math.sqrt(variance),
        "delta1": within[0] / count,
        "delta2": within[1] / count,
        "delta3": within[2] / count,
        "bad_pixel_percent": 100 * bad / count,
    }


@BOUNDED
@given(seed=SEEDS, spread=st.floats(0.001, 2))
def test_errors_equal_plain_loops(seed, spread):
    _, depth, mask = random_case(seed)
    true = depth[mask].astype(np.float64)
    predicted = true * np.exp(np.random.default_rng(seed).normal(0, spread, true.shape))
    expected = errors_by_loops(predicted.tolist(), true.tolist())
    found = metrics.depth_errors([(predicted, true)])
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert metrics.abs_rel([(predicted, true)]) == pytest.approx(expected["abs_rel"], rel=1e-12)
    third = true.size // 3
    parts = [(predicted[:third], true[:third]), (predicted[third:], true[third:])]
    assert metrics.depth_errors(parts) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_errors_by_hand():
    true = np.array([2.0, 4.0, 4.0, 10.0])
    predicted = np.array([1.0, 5.0, 4.0, 15.0])
    found = metrics.depth_errors([(predicted, true)])
    # 1/2, 1/4, 0 and 1/2; the factors are 2, exactly 1.25 (neither bad nor within), 1 and 1.5.
    assert found["abs_rel"] == pytest.approx(1.25 / 4)
    assert found["bad_pixel_percent"] == 50
    # 1.25^2 = 1.5625 and 1.25^3 = 1.953 take 1.25 and 1.5 too.
    assert [found[f"delta{i}"] for i in (1, 2, 3)] == [0.25, 0.75, 0.75]
    assert found["rmse"] == pytest.approx(math.sqrt((1 + 1 + 0 + 25) / 4))
    # log10 of 2, 1.25, 1 and 1.5 is 0.30103, 0.09691, 0 and 0.17609.
    assert found["log10"] == pytest.approx(0.1435076, abs=1e-6)
    # ln is -0.693147, 0.223144, 0 and 0.405465: mean -0.0161347, mean square 0.1736618.
    assert found["silog"] == pytest.approx(41.641, abs=1e-3)


@pytest.mark.parametrize("factor", [0.2, 0.5, 0.8, 1.6, 1.9, 2.4, 2.7, 7])
def test_silog_is_blind_to_scale(factor):
    """Rounding must not make its variance negative either."""
    true = np.array([1.0, 2.0, 3.0])
    found = metrics.depth_errors([(factor * true, true)])
    assert found["silog"] == pytest.approx(0, abs=1e-5)


def test_scores_are_those_of_the_aligned_prediction_and_of_the_row(monkeypatch):
    prediction, depth, mask = random_case(11)
    monkeypatch.setattr(metrics, "_PIECE", 7)  # several pieces, the last one smaller
    found = metrics.depth_scores(prediction, depth, mask, cap=30)
    assert tuple(found) == metrics.DEPTH_COLUMNS
    rows = np.array([[v] * depth.shape[1] for v in range(len(depth))], float)
    true = depth[mask].astype(np.float64)
    expected = []
    for values in (prediction, rows):
        columns = np.stack([values[mask].astype(np.float64), np.ones(true.size)], axis=1)
        scale, shift = np.linalg.lstsq(columns, 1 / true, rcond=None)[0]
        depths = [1 / max(scale * value + shift, 1 / 30) for value in columns[:, 0]]
        expected.append(errors_by_loops(depths, true.tolist()))
    assert found.pop("row_abs_rel") == pytest.approx(expected[1]["abs_rel"], rel=1e-6)
    assert found == pytest.approx(expected[0], rel=1e-6)


def test_float32_depths_are_summed_in_float64():
    depth = np.full((1000, 1000), 3.0, np.float32)
    depth[:, ::2] = 1.5
    # A constant has scale 0: it becomes the mean of 1/3 and 2/3.
    found = metrics.depth_scores(np.zeros(depth.shape), depth, depth > 0, cap=80)
    assert found["abs_rel"] == pytest.approx((1 / 3 + 1 / 3) / 2, rel=1e-12)
    assert found["rmse"] == pytest.approx(math.sqrt((1 + 0.25) / 2), rel=1e-12)


@pytest.mark.parametrize(
    ("upper", "lower", "whdr", "row"), [(1, 2, 0, 0), (2, 1, 1, 0), (2, 2, 1, 0)]
)
def test_whdr_by_hand(upper, lower, whdr, row):
    """The lower point is the closer one; a tie is wrong."""
    prediction = np.full((4, 3), 9, np.float32)
    prediction[1, 2], prediction[3, 0] = upper, lower
    scores = metrics.ordinal_scores(prediction, closer=(3, 0), farther=(1, 2))
    assert scores == {"whdr": whdr, "row_whdr": row}
    assert tuple(scores) == metrics.ORDINAL_COLUMNS
    assert metrics.whdr(prediction, (3, 0), (1, 2)) == whdr
    opposite = metrics.ordinal_scores(prediction, closer=(1, 2), farther=(3, 0))
    assert opposite == {"whdr": float(upper <= lower), "row_whdr": 1}


@pytest.mark.parametrize("point", [(4, 0), (0, 3), (-1, 0), (0, -1)])
def test_a_point_outside_of_the_prediction_is_a_value_error(point):
    with pytest.raises(ValueError, match="outside"):
        metrics.whdr(np.zeros((4, 3)), (0, 0), point)
    with pytest.raises(ValueError, match="outside"):
        metrics.whdr(np.zeros((4, 3)), point, (0, 0))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_point_that_is_not_finite_is_a_value_error(value):
    for prediction in ([[value, 1.0]], [[1.0, value]]):
        with pytest.raises(ValueError, match="not finite"):
            metrics.whdr(np.array(prediction), (0, 0), (0, 1))


def test_row_baseline_grows_with_the_row_only():
    found = metrics.row_baseline(5, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[v / 4] * 3 for v in range(5)])
    np.testing.assert_array_equal(metrics.row_baseline(1, 2), [[0, 0]])


FUNCTIONS = [
    lambda prediction, depth, mask: metrics.aligned_depth(prediction, depth, mask, cap=80),
    lambda prediction, depth, mask: metrics.depth_scores(prediction, depth, mask, cap=80),
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_has_no_answer_is_a_value_error(function):
    good = np.array([[1.0, 2.0], [3.0, 4.0]])
    broken = np.array([[1.0, np.nan], [3.0, 4.0]])
    for arguments, message in [
        ((good, good, ~ALL), "no valid pixel"),
        ((good, good[:1], ALL), "shapes differ"),
        ((good, good, ALL.astype(np.uint8)), "bool mask"),
        ((broken, good, ALL), "not finite"),
        ((good, broken, ALL), "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            function(*arguments)


@pytest.mark.parametrize("function", [metrics.aligned_depth, metrics.depth_scores])
def test_a_valid_depth_must_be_positive(function):
    with pytest.raises(ValueError, match="not positive"):
        function(np.eye(2), np.eye(2), ALL, cap=80)
