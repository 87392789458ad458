"""Alignment of a prediction with the ground truth, and the errors of zero-shot evaluation.

Pure NumPy, float64 inside. The protocol is that of the MiDaS paper (Ranftl et al., TPAMI 2022,
section 6): per image, the prediction is fitted to the true disparity by least squares, clamped at
the depth cap, inverted, and compared with the true depth. Relative depth has no fit: of a pair of
points, the closer one must have the larger prediction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

DELTA = 1.25
"""The factor between two depths that the delta errors count."""

DEPTH_COLUMNS = (
    *("abs_rel", "rmse", "log10", "silog", "delta1", "delta2", "delta3", "bad_pixel_percent"),
    "row_abs_rel",
)
"""What `depth_scores` returns, in its order."""

ORDINAL_COLUMNS = ("whdr", "row_whdr")
"""What `ordinal_scores` returns, in its order."""

_PIECE = 16384  # pixels


def depth_scores(
    prediction: np.ndarray, depth: np.ndarray, mask: np.ndarray, cap: float
) -> dict[str, float]:
    """All errors of one image with measured depth.

    Args:
        prediction: [H, W], inverse depth up to scale and shift.
        depth: [H, W], metres; positive where the mask is set, anything elsewhere.
        mask: bool [H, W], the valid pixels.
        cap: the largest depth in metres.

    Returns:
        those of `depth_errors`, and row_abs_rel: the abs_rel of `row_baseline`.

    Raises:
        ValueError: shapes differ, the mask is not bool or empty, a valid pixel is not finite, or a
            valid depth is not positive.
    """
    predicted, true = _valid_pixels(prediction, depth, mask)
    # The baseline at the valid pixels, in their order, without a map of it.
    rows = np.repeat(_row_values(len(mask)), mask.sum(axis=1))
    target = _disparity(true)
    errors = depth_errors(_aligned_pieces(predicted, true, target, cap))
    return errors | {"row_abs_rel": abs_rel(_aligned_pieces(rows, true, target, cap))}


def ordinal_scores(
    prediction: np.ndarray, closer: tuple[int, int], farther: tuple[int, int]
) -> dict[str, float]:
    """The errors of one image with a pair of points: whdr, and row_whdr, that of `row_baseline`.

    Args and Raises: as in `whdr`.
    """
    baseline = row_baseline(*prediction.shape)
    return {
        "whdr": whdr(prediction, closer, farther),
        "row_whdr": whdr(baseline, closer, farther),
    }


# --- alignment -----------------------------------------------------------------------------------


def fit_disparity(predicted: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """The scale s and shift t that minimise sum (s * predicted + t - target)^2.

    Args:
        predicted: [M], finite, in any unit in which float32 can hold it.
        target: [M], finite.

    Returns:
        (scale, shift). A prediction without information (constant, or a single value) gets scale 0
        and the mean of the target as shift.
    """
    target_mean = float(target.mean(dtype=np.float64))
    if predicted.min() == predicted.max():
        return 0.0, target_mean
    mean = float(predicted.mean(dtype=np.float64))
    covariance = variance = 0.0
    for x, y in _pieces(predicted, target):
        x -= mean
        y -= target_mean
        covariance += float(x @ y)
        variance += float(x @ x)
    scale = covariance / variance
    return scale, target_mean - scale * mean


def aligned_depth(
    prediction: np.ndarray, depth: np.ndarray, mask: np.ndarray, cap: float
) -> np.ndarray:
    """Depth in metres from a prediction, fitted to the true disparity 1/depth on valid pixels.

    Args:
        prediction: [H, W], inverse depth up to scale and shift.
        depth: [H, W], metres; positive where the mask is set, anything elsewhere.
        mask: bool [H, W], the valid pixels.
        cap: the largest depth in metres; disparities below 1/cap become 1/cap.

    Returns:
        float64 [H, W], metres in (0, cap].

    Raises:
        ValueError: as in `depth_scores`.
    """
    predicted, true = _valid_pixels(prediction, depth, mask)
    scale, shift = fit_disparity(predicted, _disparity(true))
    return _to_depth(prediction.astype(np.float64), scale, shift, cap)


def row_baseline(height: int, width: int) -> np.ndarray:
    """The prediction that only knows the image row: what a network must beat to have learned.

    Returns:
        float32 [height, width], v / (height - 1): 0 in the top row, 1 (closer) in the bottom row.
        A read-only view that takes the memory of one column.
    """
    return np.broadcast_to(_row_values(height)[:, None], (height, width))


# --- errors --------------------------------------------------------------------------------------


Pieces = Iterable[tuple[np.ndarray, np.ndarray]]
"""Pairs of float64 [N]: predicted depth z and true depth z*, both positive and in metres. Together
they are the valid pixels of an image."""


def abs_rel(pieces: Pieces) -> float:
    """AbsRel, the mean of |z - z*| / z*: a ratio, 0 is perfect."""
    total, count = 0.0, 0
    for predicted, true in pieces:
        total += float(np.sum(np.abs(predicted - true) / true))
        count += true.size
    return total / count


def depth_errors(pieces: Pieces) -> dict[str, float]:
    """The errors between two depths.

    Returns:
        abs_rel: mean |z - z*| / z*, a ratio.
        rmse: the root of the mean of (z - z*)^2, metres.
        log10: mean |log10 z - log10 z*|.
        silog: 100 * sqrt(mean d^2 - (mean d)^2), d = ln z - ln z* (KITTI depth prediction devkit).
        delta1, delta2, delta3: the share in [0, 1] of pixels with max(z/z*, z*/z) < 1.25^i.
        bad_pixel_percent: the percentage of pixels with max(z/z*, z*/z) > 1.25.
    """
    sums, count = np.zeros(9), 0
    for predicted, true in pieces:
        sums += _error_sums(predicted, true)
        count += true.size
    relative, square, log_size, log, log_square, *within, bad = (sums / count).tolist()
    return {
        "abs_rel": relative,
        "rmse": math.sqrt(square),
        "log10": log_size / math.log(10),
        "silog": 100 * math.sqrt(max(0.0, log_square - log**2)),
        **{f"delta{i}": share for i, share in enumerate(within, start=1)},
        "bad_pixel_percent": 100 * bad,
    }


def _error_sums(predicted: np.ndarray, true: np.ndarray) -> tuple[float, ...]:
    """Sums over pixels, of which `depth_errors` takes the means."""
    difference = predicted - true
    ratio = predicted / true
    log = np.log(ratio)
    factor = np.maximum(ratio, true / predicted)
    return (
        np.sum(np.abs(difference) / true),
        difference @ difference,
        np.sum(np.abs(log)),
        np.sum(log),
        log @ log,
        *(np.count_nonzero(factor < DELTA**power) for power in (1, 2, 3)),
        np.count_nonzero(factor > DELTA),
    )


def whdr(prediction: np.ndarray, closer: tuple[int, int], farther: tuple[int, int]) -> float:
    """1.0 if the prediction gets the order of two points wrong, else 0.0.

    The mean over the images is the weighted human disagreement rate with equal weights, as it is
    reported for DIW. A tie is wrong.

    Args:
        prediction: [H, W], inverse depth: larger is closer.
        closer: (y, x), 0-based pixel of the point that is closer.
        farther: (y, x) of the other.

    Raises:
        ValueError: a point is outside the prediction, or the prediction there is not finite.
    """
    for point in (closer, farther):
        if not all(0 <= i < size for i, size in zip(point, prediction.shape, strict=True)):
            raise ValueError(f"the point {point} is outside the prediction {prediction.shape}")
        if not np.isfinite(prediction[point]):
            raise ValueError("a valid pixel is not finite")
    return float(prediction[closer] <= prediction[farther])


# --- shared --------------------------------------------------------------------------------------


def _valid_pixels(
    prediction: np.ndarray, target: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both maps at the valid pixels, [M], row after row."""
    if not prediction.shape == target.shape == mask.shape:
        raise ValueError(f"shapes differ: {prediction.shape}, {target.shape}, mask {mask.shape}")
    if mask.dtype != np.bool_:
        raise ValueError(f"expected a bool mask, got {mask.dtype}")
    places = np.flatnonzero(mask)  # twice as fast as indexing with the mask, where it has holes
    if places.size == 0:
        raise ValueError("the mask has no valid pixel")
    valid = prediction.ravel()[places], target.ravel()[places]
    if not all(np.isfinite(values).all() for values in valid):
        raise ValueError("a valid pixel is not finite")
    return valid


def _pieces(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Two arrays [M] in float64, in pieces whose intermediate results stay in the cache: on whole
    images of 640x480 the errors take three times as long."""
    for start in range(0, first.size, _PIECE):
        stop = start + _PIECE
        yield first[start:stop].astype(np.float64), second[start:stop].astype(np.float64)


def _aligned_pieces(
    predicted: np.ndarray, true: np.ndarray, target: np.ndarray, cap: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pieces of the depth of a prediction [M], fitted to target = 1 / true, and of the true one."""
    scale, shift = fit_disparity(predicted, target)
    for values, depth in _pieces(predicted, true):
        yield _to_depth(values, scale, shift, cap), depth


def _disparity(depth: np.ndarray) -> np.ndarray:
    """float64 [M], 1/metres."""
    if depth.min() <= 0:
        raise ValueError("a valid pixel has a depth that is not positive")
    return np.divide(1, depth, dtype=np.float64)


def _to_depth(prediction: np.ndarray, scale: float, shift: float, cap: float) -> np.ndarray:
    """Metres in (0, cap] from inverse depth in float64."""
    return 1 / np.maximum(scale * prediction + shift, 1 / cap)


def _row_values(height: int) -> np.ndarray:
    """float32 [height]: the baseline's value in each row."""
    return np.linspace(0, 1, height, dtype=np.float32)
