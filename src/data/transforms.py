"""Geometry and normalisation shared by training, evaluation, inference and deployment.

Arrays are NumPy, images are RGB. Nothing here is random: random choices come in as arguments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

SIZE_MULTIPLE = 32  # MidasNet's deepest level is 1/32 of its input
ResizeMethod = Literal["lower_bound", "upper_bound", "minimal"]
Upsampling = Literal["bilinear", "bicubic"]

_UPSAMPLING = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


@dataclass(frozen=True)
class ResizeRule:
    """How an image becomes the network's input size (the rule of MiDaS, reference section 4).

    Attributes:
        width: target width in pixels.
        height: target height in pixels.
        keep_aspect_ratio: scale both sides alike; otherwise each side to its own target.
        multiple_of: both sides of the result are multiples of this.
        method: with the aspect kept, `lower_bound` makes the result at least as large as the
            target, `upper_bound` at most as large, `minimal` scales as little as possible.
    """

    width: int = 384
    height: int = 384
    keep_aspect_ratio: bool = True
    multiple_of: int = SIZE_MULTIPLE
    method: ResizeMethod = "upper_bound"

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels, multiples of `multiple_of`, for an image of this size."""
        scale_h, scale_w = self.height / height, self.width / width
        if self.keep_aspect_ratio:
            scale_h = scale_w = self._common_scale(scale_h, scale_w)
        return (
            self._round(scale_h * height, self.height),
            self._round(scale_w * width, self.width),
        )

    def _common_scale(self, scale_h: float, scale_w: float) -> float:
        if self.method == "lower_bound":
            return max(scale_h, scale_w)
        if self.method == "upper_bound":
            return min(scale_h, scale_w)
        return min(scale_h, scale_w, key=lambda scale: abs(1 - scale))

    def _round(self, length: float, bound: int) -> int:
        """Nearest multiple; the bound wins over the rounding, and one multiple over the bound."""
        size = round(length / self.multiple_of) * self.multiple_of
        if self.method == "upper_bound" and size > bound:
            size = math.floor(length / self.multiple_of) * self.multiple_of
        if self.method == "lower_bound" and size < bound:
            size = math.ceil(length / self.multiple_of) * self.multiple_of
        return max(size, self.multiple_of)


@dataclass(frozen=True)
class Crop:
    """A rectangle of an image in pixels."""

    top: int
    left: int
    height: int
    width: int

    def shrink_for(self, height: int, width: int) -> int:
        """How far an image can be shrunk at its decoding (1, 2, 4 or 8, as JPEG knows), so that
        this rectangle still has `height` x `width` pixels or more."""
        fits = (n for n in (8, 4, 2) if self.height // n >= height and self.width // n >= width)
        return next(fits, 1)

    def snapped(self, step: int) -> Crop:
        """The rectangle with each edge moved up or left to a multiple of `step`, by less than one;
        its sides are at least those before, rounded down to multiples."""
        top, left = self.top // step * step, self.left // step * step
        bottom, right = self.top + self.height, self.left + self.width
        return Crop(top, left, bottom // step * step - top, right // step * step - left)

    def scaled(self, old: tuple[int, int], new: tuple[int, int]) -> Crop:
        """Where this rectangle of an image of (height, width) `old` lies once that has the size
        `new`; its edges go to the nearest pixel."""
        if old == new:
            return self
        (top, bottom), (left, right) = (
            (round(first * b / a), round((first + length) * b / a))
            for first, length, a, b in zip(
                (self.top, self.left), (self.height, self.width), old, new, strict=True
            )
        )
        top, left = min(top, new[0] - 1), min(left, new[1] - 1)
        return Crop(top, left, max(1, bottom - top), max(1, right - left))

    def shrunk(self, step: int) -> Crop:
        """A snapped rectangle in an image that is shrunk by `step`."""
        return Crop(self.top // step, self.left // step, self.height // step, self.width // step)


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic resize of an image.

    Args:
        image: uint8 [H, W, 3].

    Returns:
        float32 [height, width, 3] in about [0, 1] (bicubic overshoots a little).
    """
    return cv2.resize(
        image.astype(np.float32) / np.float32(255), (width, height), interpolation=cv2.INTER_CUBIC
    )


def resize_pixels(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`resize_image` in 8 bits: what overshoots [0, 255] is clipped, the rest rounded.

    Args:
        image: uint8 [H, W, 3].

    Returns:
        uint8 [height, width, 3]. OpenCV computes it with fixed-point weights, in a fraction of the
        time: within one grey value of the exact result.
    """
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)


def resize_nearest(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Nearest-neighbour resize of a map [H, W], for targets and masks: it invents no values.

    A pixel takes the value under its centre, so that the map stays aligned with `resize_image`;
    OpenCV's INTER_NEAREST takes the value under its corner.
    """
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def resize_prediction(
    prediction: np.ndarray, height: int, width: int, upsampling: Upsampling = "bilinear"
) -> np.ndarray:
    """Resize a prediction float32 [h, w] to float32 [height, width]."""
    return cv2.resize(prediction, (width, height), interpolation=_UPSAMPLING[upsampling])


def normalize(image: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """float32 [H, W, 3] in [0, 1] -> normalised, contiguous float32 [3, H, W]."""
    normalized = (image - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(normalized.transpose(2, 0, 1), dtype=np.float32)


def normalization_table(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """What `normalize` makes of the grey values: float32 [3, 256], channel by channel."""
    grey = np.arange(256, dtype=np.float32)[None, :, None].repeat(3, axis=2)
    return normalize(grey / np.float32(255), mean, std)[:, 0]


def normalize_pixels(image: np.ndarray, table: np.ndarray, out: np.ndarray) -> None:
    """Normalise uint8 [H, W, 3] into `out`, contiguous float32 [3, H, W], by a table."""
    for plane, values, target in zip(cv2.split(image), table, out, strict=True):
        cv2.LUT(plane, values, dst=target)


def random_crop(
    height: int, width: int, aspect: float | None, min_scale: float, rng: np.random.Generator
) -> Crop:
    """A random rectangle inside an image of `height` x `width` pixels.

    Args:
        aspect: width / height of the rectangle; None keeps the image's own.
        min_scale: the rectangle's sides are this share or more of the largest one that fits.
        rng: the source of the size and the position.
    """
    aspect = aspect or width / height
    full_width = min(width, height * aspect)
    scale = rng.uniform(min_scale, 1.0)
    crop_width = max(1, min(width, round(full_width * scale)))
    crop_height = max(1, min(height, round(full_width / aspect * scale)))
    top = int(rng.integers(height - crop_height + 1))
    left = int(rng.integers(width - crop_width + 1))
    return Crop(top, left, crop_height, crop_width)


def crop(array: np.ndarray, box: Crop) -> np.ndarray:
    """The view of `array` [H, W, ...] inside `box`."""
    return array[box.top : box.top + box.height, box.left : box.left + box.width]


def unit_range(
    disparity: np.ndarray, mask: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """Shift and scale disparity [H, W] to [0, 1] over its valid pixels, 0 elsewhere: float32.

    A constant map becomes 0 everywhere.

    Args:
        out: float32 [H, W] to write to and return; None for a new one.
    """
    result = np.empty(disparity.shape, np.float32) if out is None else out
    whole = mask.all()
    valid = disparity if whole else disparity[mask]
    low, high = (float(valid.min()), float(valid.max())) if valid.size else (0.0, 0.0)
    if high <= low:
        result[:] = 0
        return result
    if high - low > np.finfo(np.float32).max:  # their difference would be infinite
        return unit_range(disparity * np.float32(0.5), mask, result)
    with np.errstate(invalid="ignore"):  # of what is not valid
        np.subtract(disparity, low, out=result)
        result /= high - low
    if not whole:
        result[~mask] = 0
    return result
