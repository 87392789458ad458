"""Alignment against numpy.linalg.lstsq, errors against plain Python loops and against hand."""

from __future__ import annotations

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
    found = metrics.align_disparity(prediction, target, mask)
    np.testing.assert_allclose(found, (scale, shift), rtol=1e-6, atol=1e-9)


def test_alignment_by_hand():
    # Through (1, 1), (2, 3), (3, 2): the slope is 2/4 and the line passes through (2, 2).
    prediction = np.array([[1, 2, 3, 99]], np.float32)
    target = np.array([[1, 3, 2, -99]], np.float32)
    mask = np.array([[True, True, True, False]])
    assert metrics.align_disparity(prediction, target, mask) == pytest.approx((0.5, 1.0))


@pytest.mark.parametrize("unit", [1e-30, 1e-6, 1e6, 1e30])
def test_alignment_does_not_depend_on_the_unit_of_the_prediction(unit):
    prediction = (np.array([[1, 2], [3, 4]]) * unit).astype(np.float32)
    target = np.array([[0.3, 0.5], [0.7, 0.9]])
    scale, shift = metrics.align_disparity(prediction, target, ALL)
    assert scale * unit == pytest.approx(0.2, rel=1e-6)
    assert shift == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -7e20])
def test_a_constant_prediction_gets_scale_0_and_the_mean_of_the_target(value):
    prediction = np.full((2, 2), value, np.float32)
    prediction[1, 1] = 5  # not valid
    mask = np.array([[True, True], [True, False]])
    target = np.array([[0.1, 0.2], [0.6, 9.0]])
    assert metrics.align_disparity(prediction, target, mask) == (0.0, pytest.approx(0.3))


def test_a_single_valid_pixel_gets_scale_0():
    mask = np.array([[False, True], [False, False]])
    target = np.array([[1.0, 0.25], [3.0, 4.0]])
    assert metrics.align_disparity(np.eye(2), target, mask) == (0.0, 0.25)


@BOUNDED
@given(seed=SEEDS)
def test_a_perfect_prediction_of_any_scale_and_shift_scores_0(seed):
    _, depth, mask = random_case(seed)
    rng = np.random.default_rng(seed)
    scale = 10 ** rng.uniform(-3, 3) * rng.choice([-1, 1])
    prediction = np.where(mask, (inverse(depth) - rng.normal()) / scale, rng.normal(scale=1e3))
    found = metrics.aligned_depth(prediction, depth, mask, cap=80)
    np.testing.assert_allclose(found[mask], depth[mask], rtol=1e-6)
    assert metrics.abs_rel(found, depth, mask) < 1e-6
    assert metrics.bad_pixel_percent(found, depth, mask) == 0


@BOUNDED
@given(seed=SEEDS)
def test_aligned_depth_is_clamped_at_the_cap(seed):
    prediction, depth, mask = random_case(seed)
    scale, shift = metrics.align_disparity(prediction, inverse(depth), mask)
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
    assert metrics.abs_rel(first, depth, mask) == metrics.abs_rel(first, other, mask)
    assert metrics.bad_pixel_percent(first, depth, mask) == metrics.bad_pixel_percent(
        first, other, mask
    )


@BOUNDED
@given(seed=SEEDS)
def test_errors_equal_plain_loops(seed):
    _, depth, mask = random_case(seed)
    predicted = depth * np.random.default_rng(seed).uniform(0.5, 2, depth.shape)
    predicted[~mask] = 1
    relative, bad, count = 0.0, 0, 0
    for z, true, valid in zip(predicted.flat, depth.flat, mask.flat, strict=True):
        if not valid:
            continue
        z, true = float(z), float(true)
        relative += abs(z - true) / true
        bad += max(z / true, true / z) > 1.25
        count += 1
    assert metrics.abs_rel(predicted, depth, mask) == pytest.approx(relative / count)
    assert metrics.bad_pixel_percent(predicted, depth, mask) == pytest.approx(100 * bad / count)


def test_errors_by_hand():
    depth = np.array([[2.0, 4.0], [4.0, 10.0]])
    predicted = np.array([[1.0, 5.0], [4.0, 15.0]])
    # 1/2, 1/4, 0 and 1/2; ratios 2, exactly 1.25 (not bad), 1 and 1.5.
    assert metrics.abs_rel(predicted, depth, ALL) == pytest.approx(1.25 / 4)
    assert metrics.bad_pixel_percent(predicted, depth, ALL) == 50
    assert metrics.bad_pixel_percent(predicted, depth, ALL, threshold=1.2) == 75


def test_float32_depths_are_summed_in_float64():
    depth = np.full((1000, 1000), 3.0, np.float32)
    predicted = np.full((1000, 1000), 3.3, np.float32)
    expected = (float(np.float32(3.3)) - 3.0) / 3.0
    found = metrics.abs_rel(predicted, depth, np.ones(depth.shape, bool))
    assert found == pytest.approx(expected, rel=1e-12)


def test_row_baseline_grows_with_the_row_only():
    found = metrics.row_baseline(5, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[v / 4] * 3 for v in range(5)])
    np.testing.assert_array_equal(metrics.row_baseline(1, 2), [[0, 0]])


FUNCTIONS = [
    metrics.align_disparity,
    lambda prediction, depth, mask: metrics.aligned_depth(prediction, depth, mask, cap=80),
    metrics.abs_rel,
    metrics.bad_pixel_percent,
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


def test_a_valid_depth_must_be_positive():
    with pytest.raises(ValueError, match="not positive"):
        metrics.aligned_depth(np.eye(2), np.eye(2), ALL, cap=80)
