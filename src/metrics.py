"""Alignment of a prediction with the ground truth, and the errors of zero-shot evaluation.

Pure NumPy, float64 inside. The protocol is that of the MiDaS paper (Ranftl et al., TPAMI 2022,
section 6): per image, the prediction is fitted to the true disparity by least squares, clamped at
the depth cap, inverted, and compared with the true depth.
"""

from __future__ import annotations

import numpy as np


def align_disparity(
    prediction: np.ndarray, target_disparity: np.ndarray, mask: np.ndarray
) -> tuple[float, float]:
    """The scale s and shift t that minimise sum (s * prediction + t - target)^2 over the mask.

    Args:
        prediction: [H, W], inverse depth up to scale and shift.
        target_disparity: [H, W], 1/metres.
        mask: bool [H, W], the valid pixels.

    Returns:
        (scale, shift). A prediction without information (constant, or a single valid pixel) gets
        scale 0 and the mean of the target as shift.

    Raises:
        ValueError: shapes differ, the mask is not bool or empty, or a valid pixel is not finite.
    """
    predicted, target = _valid_pixels(prediction, target_disparity, mask)
    span = np.ptp(predicted)
    if span == 0:
        return 0.0, float(target.mean())
    mean = predicted.mean()
    # Divided by the span, the squares neither overflow nor vanish, whatever the network's units.
    centred = (predicted - mean) / span
    scale = centred @ (target - target.mean()) / (centred @ centred) / span
    return float(scale), float(target.mean() - scale * mean)


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
        ValueError: as in `align_disparity`, or a valid depth is not positive.
    """
    _, true = _valid_pixels(prediction, depth, mask)
    if (true <= 0).any():
        raise ValueError("a valid pixel has a depth that is not positive")
    target = np.zeros(depth.shape)
    target[mask] = 1 / true
    scale, shift = align_disparity(prediction, target, mask)
    disparity = scale * prediction.astype(np.float64) + shift
    return 1 / np.maximum(disparity, 1 / cap)


def abs_rel(predicted_depth: np.ndarray, depth: np.ndarray, mask: np.ndarray) -> float:
    """AbsRel, the mean of |z - z*| / z* over valid pixels, a ratio; 0 is perfect.

    Both depths are [H, W] in the same unit.

    Raises:
        ValueError: shapes differ, the mask is not bool or empty, or a valid pixel is not finite.
    """
    predicted, true = _valid_pixels(predicted_depth, depth, mask)
    return float(np.mean(np.abs(predicted - true) / true))


def bad_pixel_percent(
    predicted_depth: np.ndarray, depth: np.ndarray, mask: np.ndarray, threshold: float = 1.25
) -> float:
    """delta > threshold: the percentage of valid pixels with max(z/z*, z*/z) > threshold.

    Both depths are [H, W] in the same unit, positive on valid pixels.

    Raises:
        ValueError: shapes differ, the mask is not bool or empty, or a valid pixel is not finite.
    """
    predicted, true = _valid_pixels(predicted_depth, depth, mask)
    ratio = np.maximum(predicted / true, true / predicted)
    return float(100 * np.mean(ratio > threshold))


def row_baseline(height: int, width: int) -> np.ndarray:
    """The prediction that only knows the image row: what a network must beat to have learned.

    Returns:
        float32 [height, width], v / (height - 1): 0 in the top row, 1 (closer) in the bottom row.
    """
    rows = np.linspace(0, 1, height, dtype=np.float32)
    return np.repeat(rows[:, None], width, axis=1)


def _valid_pixels(
    prediction: np.ndarray, target: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Both maps at the valid pixels, float64 [M]."""
    if not prediction.shape == target.shape == mask.shape:
        raise ValueError(f"shapes differ: {prediction.shape}, {target.shape}, mask {mask.shape}")
    if mask.dtype != np.bool_:
        raise ValueError(f"expected a bool mask, got {mask.dtype}")
    if not mask.any():
        raise ValueError("the mask has no valid pixel")
    valid = prediction[mask].astype(np.float64), target[mask].astype(np.float64)
    if not all(np.isfinite(values).all() for values in valid):
        raise ValueError("a valid pixel is not finite")
    return valid
