"""The training losses against values worked by hand, NumPy least squares and PyTorch autograd."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
import torch

from src.loss import ScaleShiftInvariantLoss, median, smallest
from tests.references import numpy_loss_terms, torch_loss

SHAPE = (3, 13, 18)  # odd and even sides: the coarser scales end on and before the last pixel
ALPHA = 0.5
KINDS = ("ssimse", "ssimae", "ssitrim")
ROBUST = KINDS[1:]

only_ssimse = pytest.mark.parametrize("kind", ["ssimse"], indirect=True)
only_robust = pytest.mark.parametrize("kind", ROBUST, indirect=True)


@pytest.fixture(scope="module", params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def evaluate(kind):
    """Arrays [B, H, W] -> (total, data term, gradient term) and d total / d prediction."""
    # A robust loss takes no sign term: none of the values expected of it below has one.
    loss = ScaleShiftInvariantLoss(ALPHA, sign_weight=0.0 if kind == "ssimse" else 9.0, kind=kind)
    differentiate = ms.value_and_grad(loss, 0, has_aux=True)

    def run(prediction, target, mask):
        terms, slope = differentiate(*map(ms.Tensor, (prediction, target, mask)))
        assert all(term.dtype == ms.float32 for term in terms)
        return tuple(float(term) for term in terms), slope.asnumpy()

    return run


def draw(seed: int, valid_share: float = 1.0):
    """A prediction that has something to do with its target, float32 [B, H, W] each."""
    rng = np.random.default_rng(seed)
    target = rng.random(SHAPE, np.float32)
    prediction = 3 * target + rng.normal(size=SHAPE).astype(np.float32) + 7
    mask = (rng.random(SHAPE) < valid_share).astype(np.float32)
    return prediction, target, mask


def torch_value_and_gradient(kind, prediction, target, mask):
    variable = torch.tensor(prediction, requires_grad=True)
    total = torch_loss(kind, variable, torch.tensor(target), torch.tensor(mask), ALPHA)
    total.backward()
    return total.item(), variable.grad.numpy()


def assert_same_gradient(actual, expected, share=1e-4):
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=share * np.abs(expected).max())


def test_a_row_of_three_pixels_worked_by_hand():
    # d = 0 1 2, d* = 0 1 5: the means are 1 and 2, covariance 5/3, variance 2/3, so s = 5/2 and
    # t = 2 - 5/2 = -1/2. R = -1/2 1 -1/2. Data: (1/4 + 1 + 1/4) / (2 * 3). Gradient, scale 1:
    # (3/2 + 3/2) / 3; scale 2 sees the first and the last pixel, which are equal.
    row = ms.Tensor([[[0.0, 1.0, 2.0]]]), ms.Tensor([[[0.0, 1.0, 5.0]]]), ms.ops.ones((1, 1, 3))
    values = [float(term) for term in ScaleShiftInvariantLoss(alpha=0.5)(*row)]
    assert values == pytest.approx([0.25 + 0.5 * 1.0, 0.25, 1.0], rel=1e-6)


@pytest.mark.parametrize(("kind", "data"), [("ssimae", 1.8 / 6), ("ssitrim", 0.9 / 6)])
def test_an_odd_number_of_pixels_worked_by_hand(kind, data):
    # d = 0 1 5: t = 1, s = (1 + 0 + 4) / 3 = 5/3, so -0.6 0 2.4; d* = 0 1 2: t = 1, s = 2/3, so
    # -1.5 0 1.5. R = 0.9 0 0.9, of which floor(2.4) = 2 are 0 and 0.9. Gradient, scale 1:
    # (0.9 + 0.9) / 3; scale 2 sees the first and the last pixel, which are equal.
    row = ms.Tensor([[[0.0, 1.0, 5.0]]]), ms.Tensor([[[0.0, 1.0, 2.0]]]), ms.ops.ones((1, 1, 3))
    values = [float(term) for term in ScaleShiftInvariantLoss(alpha=0.5, kind=kind)(*row)]
    assert values == pytest.approx([data + 0.5 * 0.6, data, 0.6], rel=1e-6)


@pytest.mark.parametrize(("kind", "data"), [("ssimae", 1 / 2), ("ssitrim", 1 / 3)])
def test_an_even_number_of_pixels_worked_by_hand(kind, data):
    # The last pixel is not valid. d = 0 2 4 10: t = 3, s = (3 + 1 + 1 + 7) / 4 = 3, so
    # -1 -1/3 1/3 7/3; d* = 0 1 0 1: t = s = 1/2, so -1 1 -1 1. R = 0 -4/3 4/3 4/3, of which
    # floor(3.2) = 3 count: 4 / 8 and 8/3 / 8. Gradient, scale 1: (4/3 + 8/3 + 0) / 4; scale 2
    # sees the first and the third pixel: 4/3 / 4; scale 3 the first and the invalid one.
    prediction, target = ms.Tensor([[[0.0, 2, 4, 10, 99]]]), ms.Tensor([[[0.0, 1, 0, 1, -99]]])
    mask = ms.Tensor([[[1.0, 1, 1, 1, 0]]])
    terms = ScaleShiftInvariantLoss(alpha=0.5, kind=kind)(prediction, target, mask)
    expected = [data + 0.5 * 4 / 3, data, 4 / 3]
    assert [float(term) for term in terms] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("valid_share", [1.0, 0.5, 0.1])
def test_both_terms_are_those_of_numpy(evaluate, kind, valid_share):
    prediction, target, mask = draw(1, valid_share)
    (total, data, gradient), _ = evaluate(prediction, target, mask)
    images = zip(prediction, target, mask, strict=True)
    terms = [numpy_loss_terms(kind, *image) for image in images]
    expected = np.mean(terms, axis=0)
    assert (data, gradient) == pytest.approx(tuple(expected), rel=1e-5)
    assert total == pytest.approx(expected[0] + ALPHA * expected[1], rel=1e-5)


@pytest.mark.parametrize("valid_share", [1.0, 0.5, 0.1])
def test_value_and_gradient_are_those_of_autograd(evaluate, kind, valid_share):
    batch = draw(2, valid_share)
    (total, *_), slope = evaluate(*batch)
    expected_total, expected_slope = torch_value_and_gradient(kind, *batch)
    assert total == pytest.approx(expected_total, rel=1e-5)
    assert_same_gradient(slope, expected_slope)


@pytest.mark.parametrize("first", [2, 5, 8, 11])
def test_any_number_of_valid_pixels_will_do(evaluate, kind, first):
    prediction, target, mask = draw(first)
    for image, count in enumerate(range(first, first + len(mask))):
        mask[image].flat[count:] = 0
    (total, *_), slope = evaluate(prediction, target, mask)
    expected_total, expected_slope = torch_value_and_gradient(kind, prediction, target, mask)
    assert total == pytest.approx(expected_total, rel=1e-5)
    assert_same_gradient(slope, expected_slope)


def test_an_image_of_the_usual_size_is_summed_well_enough(kind):
    rng = np.random.default_rng(15)
    target = np.add.accumulate(rng.random((1, 384, 384), np.float32), axis=1) / 384
    prediction = 2 * target + rng.normal(size=target.shape).astype(np.float32) ** 3 + 5
    batch = prediction, target, (rng.random(target.shape) < 0.8).astype(np.float32)
    differentiate = ms.value_and_grad(ScaleShiftInvariantLoss(ALPHA, kind=kind), 0, has_aux=True)
    (total, *_), slope = differentiate(*map(ms.Tensor, batch))
    expected_total, expected_slope = torch_value_and_gradient(kind, *batch)
    assert float(total) == pytest.approx(expected_total, rel=1e-5)
    assert_same_gradient(slope.asnumpy(), expected_slope)


def test_alpha_and_scales_are_used():
    batch = draw(3, 0.7)
    total, *_ = ScaleShiftInvariantLoss(alpha=0.3, scales=2)(*map(ms.Tensor, batch))
    expected = torch_loss("ssimse", *map(torch.tensor, batch), alpha=0.3, scales=2)
    assert float(total) == pytest.approx(float(expected), rel=1e-5)


def test_a_kind_that_is_none_is_refused():
    with pytest.raises(ValueError, match="'mse'"):
        ScaleShiftInvariantLoss(kind="mse")


def test_float16_is_computed_in_float32(evaluate, kind):
    prediction, target, mask = draw(4, 0.6)
    # Summed in float16, squares of this size overflow.
    prediction = (100 * prediction).astype(np.float16)
    (total, *_), slope = evaluate(prediction, target.astype(np.float16), mask)
    expected_total, expected_slope = torch_value_and_gradient(
        kind, prediction.astype(np.float32), target.astype(np.float16).astype(np.float32), mask
    )
    assert total == pytest.approx(expected_total, rel=1e-5)
    assert slope.dtype == np.float16
    assert_same_gradient(slope, expected_slope, share=5e-3)


@pytest.mark.parametrize(
    ("scale", "shift"),
    [(1e-12, 0.0), (1e-6, 0.0), (1e4, 0.0), (1e4, -3e4), (1.0, 300.0), (1e12, 0.0)],
)
def test_scale_and_shift_of_the_prediction_do_not_matter(evaluate, scale, shift):
    assert_blind_to(evaluate, scale, shift)


@only_ssimse
@pytest.mark.parametrize(("scale", "shift"), [(-1.0, 0.0), (-50.0, 2e3)])
def test_ssimse_alone_cannot_tell_a_prediction_upside_down(evaluate, scale, shift):
    assert_blind_to(evaluate, scale, shift)


@only_robust
def test_a_robust_loss_can_tell_a_prediction_upside_down(evaluate):
    prediction, target, mask = draw(5, 0.6)
    (total, *_), _ = evaluate(prediction, target, mask)
    (upside_down, data, gradient), _ = evaluate(-prediction, target, mask)
    assert upside_down > 1.3 * total
    assert upside_down == pytest.approx(data + ALPHA * gradient, rel=1e-6)  # no sign term


@only_robust
@pytest.mark.parametrize(("scale", "shift"), [(1e-6, 0.0), (2.5, -1.0), (1e4, 3e4)])
def test_scale_and_shift_of_the_target_do_not_matter_to_a_robust_loss(evaluate, scale, shift):
    prediction, target, mask = draw(5, 0.6)
    (expected, *_), slope = evaluate(prediction, target, mask)
    (total, *_), moved_slope = evaluate(prediction, np.float32(scale * target + shift), mask)
    assert total == pytest.approx(expected, rel=1e-4)
    assert_same_gradient(moved_slope, slope, share=1e-3)


def assert_blind_to(evaluate, scale, shift):
    prediction, target, mask = draw(5, 0.6)
    (expected, *_), slope = evaluate(prediction, target, mask)
    moved = (scale * prediction.astype(np.float64) + shift).astype(np.float32)
    (total, *_), moved_slope = evaluate(moved, target, mask)
    assert total == pytest.approx(expected, rel=1e-4)
    assert_same_gradient(scale * moved_slope, slope, share=1e-3)


def test_a_perfect_prediction_costs_nothing(evaluate, kind):
    """The median and mean deviation of the robust losses round more than a least-squares fit."""
    _, target, mask = draw(6, 0.6)
    (total, *_), slope = evaluate(2 * target + 1, target, mask)
    assert total == pytest.approx(0, abs=1e-6 if kind == "ssimse" else 5e-6)
    assert np.isfinite(slope).all()


def test_what_lies_under_the_mask_does_not_matter(evaluate):
    prediction, target, mask = draw(7, 0.5)
    (expected, *_), expected_slope = evaluate(prediction, target, mask)
    hidden = np.resize(np.array([np.nan, np.inf, -np.inf, 1e30], np.float32), SHAPE)
    (total, *_), slope = evaluate(prediction, np.where(mask > 0, target, hidden), mask)
    assert total == expected
    np.testing.assert_array_equal(slope, expected_slope)
    np.testing.assert_array_equal(slope[mask == 0], 0)
    moved = np.where(mask > 0, prediction, prediction + 1000)
    assert evaluate(moved, target, mask)[0][0] == pytest.approx(expected, rel=1e-6)


def _empty_mask(prediction, target, mask):
    mask[1] = 0


def _one_valid_pixel(prediction, target, mask):
    mask[1] = 0
    mask[1, 4, 5] = 1


def _zero_prediction(prediction, target, mask):
    prediction[1] = 0


def _constant_prediction(prediction, target, mask):
    prediction[1] = 0.1  # has no exact binary form: its computed mean need not be the same


def _large_constant_prediction(prediction, target, mask):
    prediction[1] = 12345.678


def _constant_but_for_rounding(prediction, target, mask):
    low, high = np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1))
    prediction[1] = np.where(target[1] > 0.5, high, low)
    assert len(np.unique(prediction[1])) == 2


def _constant_where_valid(prediction, target, mask):
    prediction[1] = np.where(mask[1] > 0, 0.3, prediction[1])


def _subnormal_prediction(prediction, target, mask):
    prediction[1] *= 1e-41


def _constant_target(prediction, target, mask):
    target[1] = 0.7


DEGENERATE = (
    *(_empty_mask, _one_valid_pixel, _zero_prediction, _constant_prediction),
    *(_large_constant_prediction, _constant_but_for_rounding, _constant_where_valid),
    _subnormal_prediction,
)


@pytest.mark.parametrize("spoil", DEGENERATE)
def test_a_degenerate_image_adds_nothing_and_leaves_the_others_alone(evaluate, kind, spoil):
    assert_adds_nothing(evaluate, kind, spoil)


@only_robust
def test_a_robust_loss_cannot_compare_with_a_constant_target(evaluate, kind):
    assert_adds_nothing(evaluate, kind, _constant_target)


def assert_adds_nothing(evaluate, kind, spoil):
    """The second image, once spoilt, has no part in the loss."""
    batch = draw(8, 0.6)
    spoil(*batch)
    (total, *_), slope = evaluate(*batch)
    others = tuple(array[[0, 2]] for array in batch)
    expected_total, expected_slope = torch_value_and_gradient(kind, *others)
    assert total == pytest.approx(expected_total * 2 / 3, rel=1e-5)  # it counts in the mean
    np.testing.assert_array_equal(slope[1], 0)
    assert_same_gradient(slope[[0, 2]], expected_slope * 2 / 3)


@pytest.mark.parametrize("spoil", [_empty_mask, _constant_prediction])
def test_a_wholly_degenerate_batch_is_zero(evaluate, spoil):
    batch = draw(9)
    spoil(*batch)
    batch = tuple(np.repeat(array[1:2], SHAPE[0], axis=0) for array in batch)
    values, slope = evaluate(*batch)
    assert values == (0, 0, 0)
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 9), (1, 16, 3)])
def test_a_scale_that_sees_one_row_or_column_adds_nothing_there(shape):
    rng = np.random.default_rng(12)
    prediction, target = rng.random((2, *shape), np.float32)
    mask = np.ones(shape, np.float32)
    _, *terms = ScaleShiftInvariantLoss(scales=5)(*map(ms.Tensor, (prediction, target, mask)))
    expected = numpy_loss_terms("ssimse", prediction[0], target[0], mask[0], scales=5)
    assert [float(term) for term in terms] == pytest.approx(expected, rel=1e-4)


@only_ssimse
def test_a_constant_target_is_no_degenerate_case_of_ssimse(evaluate):
    prediction, target, mask = draw(10, 0.6)
    target[:] = 0.4
    (total, *_), slope = evaluate(prediction, target, mask)
    assert total == pytest.approx(0, abs=1e-6)
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_broken_prediction_is_not_hidden(evaluate, value):
    prediction, target, mask = draw(11)
    prediction[1, 2, 3] = value
    (total, data, _), _ = evaluate(prediction, target, mask)
    assert not np.isfinite([total, data]).any()


def torch_correlation_penalty(prediction, target, mask):
    """Mean over the images of max(0, -Pearson correlation over the valid pixels)."""
    penalties = []
    for image, truth, valid in zip(prediction, target, mask, strict=True):
        pixels = torch.stack([image[valid > 0], truth[valid > 0]])
        penalties.append(torch.relu(-torch.corrcoef(pixels)[0, 1]))
    return torch.stack(penalties).mean()


def test_a_prediction_upside_down_costs_its_correlation():
    prediction, target, mask = draw(8, valid_share=0.5)
    prediction[1:] *= -1  # the first image is the right way up
    weight = 0.3
    differentiate = ms.value_and_grad(
        ScaleShiftInvariantLoss(ALPHA, sign_weight=weight), 0, has_aux=True
    )
    terms, slope = differentiate(*map(ms.Tensor, (prediction, target, mask)))

    variable = torch.tensor(prediction.astype(np.float64), requires_grad=True)
    others = torch.tensor(target.astype(np.float64)), torch.tensor(mask)
    penalty = torch_correlation_penalty(variable, *others)
    assert penalty > 0.1
    total = torch_loss("ssimse", variable, *others, ALPHA) + weight * penalty
    total.backward()
    assert float(terms[0]) == pytest.approx(total.item(), rel=1e-5)
    assert_same_gradient(slope.asnumpy(), variable.grad.numpy())


@only_ssimse
def test_larger_is_closer_costs_nothing_more(evaluate):
    arrays = draw(9)
    (total, _, _), slope = evaluate(*arrays)
    differentiate = ms.value_and_grad(
        ScaleShiftInvariantLoss(ALPHA, sign_weight=1.0), 0, None, True
    )
    (with_sign, _, _), slope_with_sign = differentiate(*map(ms.Tensor, arrays))
    assert float(with_sign) == total
    np.testing.assert_array_equal(slope_with_sign.asnumpy(), slope)


def test_degenerate_images_have_no_sign():
    prediction, target, mask = draw(10)
    prediction[0], target[1], mask[2] = 3.0, 0.5, 0.0
    differentiate = ms.value_and_grad(
        ScaleShiftInvariantLoss(0.0, sign_weight=1.0), 0, has_aux=True
    )
    (total, _, _), slope = differentiate(*map(ms.Tensor, (-prediction, target, mask)))
    assert float(total) == pytest.approx(0, abs=1e-6)
    assert np.isfinite(slope.asnumpy()).all()


# --- Medians and trims ----------------------------------------------------------------------------


def as_image(values) -> ms.Tensor:
    return ms.Tensor(np.asarray(values, np.float32).reshape(1, 1, -1))


def _values(name: str, rng: np.random.Generator, count: int) -> np.ndarray:
    normal = rng.normal(size=count)
    return {
        "normal": normal,
        "far from zero": 1e4 + normal,
        "many magnitudes": np.exp(12 * normal),
        "an outlier": np.where(np.arange(count) == 3, 1e30, 1e24 * normal),
        "few different": np.round(normal),
        "mostly zero": np.maximum(normal - 0.3, 0),
        "all equal": np.full(count, -0.1),
    }[name].astype(np.float32)


@pytest.mark.parametrize("count", [300, 301])
@pytest.mark.parametrize(
    "name",
    [
        *("normal", "far from zero", "many magnitudes", "an outlier"),
        *("few different", "mostly zero", "all equal"),
    ],
)
def test_the_median_is_that_of_numpy(name, count):
    rng = np.random.default_rng(16)
    values = _values(name, rng, 400)
    mask = rng.permutation(np.arange(400) < count).astype(np.float32)
    expected = np.median(values[mask > 0].astype(np.float64))
    found = median(as_image(values), as_image(mask), ms.Tensor([float(count)]))
    assert float(found[0]) == pytest.approx(expected, rel=1e-7, abs=np.ptp(values) * 2.0**-36)


@pytest.fixture(scope="module")
def slope_of_median():
    return ms.grad(median)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3, 1, 2], [0, 0, 1]),
        ([4, 1, 2, 3], [0, 0, 1 / 2, 1 / 2]),
        ([5, 2, 2, 2, 9], [0, 1 / 3, 1 / 3, 1 / 3, 0]),
        ([1, 1, 3, 8], [1 / 4, 1 / 4, 1 / 2, 0]),
        ([1, 4, 4, 4], [0, 1 / 3, 1 / 3, 1 / 3]),
        ([7], [1]),
    ],
)
def test_the_gradient_of_the_median_goes_to_the_middle_in_equal_parts(
    slope_of_median, values, expected
):
    hidden = [2] * (6 - len(values))
    mask = [1] * len(values) + [0] * len(hidden)
    slope = slope_of_median(
        as_image(values + hidden), as_image(mask), ms.Tensor([float(len(values))])
    )
    np.testing.assert_allclose(slope.asnumpy().ravel(), [*expected, *np.zeros(len(hidden))])


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, [0, 0, 0, 0, 0, 0]),
        (1, [0, 0, 0, 0, 1, 0]),
        (2, [0, 1 / 3, 1 / 3, 0, 1, 1 / 3]),
        (3, [0, 2 / 3, 2 / 3, 0, 1, 2 / 3]),
        (4, [0, 1, 1, 0, 1, 1]),
        (5, [0, 1, 1, 1, 1, 1]),
    ],
)
def test_equal_values_share_what_is_left_of_the_smallest(count, expected):
    """The first value is the smallest of all, but not valid."""
    values, mask = as_image([-1, 2, 2, 7, 0, 2]), as_image([0, 1, 1, 1, 1, 1])
    weights = smallest(values, mask, ms.Tensor([float(count)]))
    np.testing.assert_allclose(weights.asnumpy().ravel(), expected, rtol=1e-6)
