"""Reading a pair: a photograph and the disparity that its target stands for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.data.mixdata import Pair, by_dataset
from src.errors import UserError
from src.image_io import read_grey, read_image, read_target


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] RGB and disparity float32 [H, W], larger is closer, NaN where unknown.

    A raw value of the target times `scale` is disparity or, of kind `depth`, metres, which are
    inverted here. Unknown is what is not finite or equals `invalid` (compared raw, in float32); of
    kind `depth` also 0, a hole, and negative values, MegaDepth's mask of ordinal depth. Of kind
    `disparity` without `invalid` every finite value counts: ReDWeb's 0 is one.

    Where the pair has a mask, its 0 is unknown too.

    Raises:
        UserError: a file is unreadable, or their sizes differ; names the file.
    """
    source = pair.source
    image, raw = read_image(pair.image), read_target(pair.target, source.key)
    _check_size(pair, pair.target, raw, image)
    with np.errstate(all="ignore"):
        values = raw * np.float32(source.scale)
        known = np.isfinite(values)
        if source.kind == "depth":
            known &= values >= np.finfo(np.float32).tiny  # what is above 0 and has an inverse
            values = 1 / values
    if source.invalid is not None:
        known &= raw != np.float32(source.invalid)
    if pair.mask is not None:
        mask = read_grey(pair.mask)
        _check_size(pair, pair.mask, mask, image)
        known &= mask != 0
    values[~known] = np.nan
    return image, values


def _check_size(pair: Pair, path: Path, values: np.ndarray, image: np.ndarray) -> None:
    if image.shape[:2] != values.shape:
        raise UserError(
            f"{path}: {values.shape[1]}x{values.shape[0]} pixels, but {pair.image} "
            f"has {image.shape[1]}x{image.shape[0]}; expected equal sizes"
        )


def require_valid_pixels(pairs: list[Pair], samples: int = 100, skip_bad: bool = False) -> None:
    """Raise if a dataset has no valid pixel in its first targets, which no training would notice.

    Args:
        samples: how many pairs of each dataset to read, in their order, at most; normally the
            first is enough.
        skip_bad: count an unreadable pair as one without valid pixels.

    Raises:
        UserError: a dataset without a single valid pixel in them; or, unless `skip_bad`, an
            unreadable pair among those that were read.
    """
    for name, indices in by_dataset(pairs).items():
        first = [pairs[index] for index in indices[:samples]]
        if not any(_has_valid_pixel(pair, skip_bad) for pair in first):
            raise UserError(
                f"{name}: not one valid pixel in the first {len(first)} of its {len(indices)} "
                f"targets, such as {first[0].target}; check kind, scale, invalid, key and mask of "
                "its entry in mixdata"
            )


def _has_valid_pixel(pair: Pair, skip_bad: bool) -> bool:
    try:
        _, disparity = read_pair(pair)
    except UserError:
        if not skip_bad:
            raise
        return False
    return bool(np.isfinite(disparity).any())
