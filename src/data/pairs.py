"""Reading a pair: a photograph and the disparity that its target stands for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from src.data import transforms
from src.data.mixdata import DataSource, Pair, by_dataset
from src.data.transforms import Crop
from src.errors import UserError
from src.image_io import ImageFile, read_grey, read_target


class Photo(Protocol):
    """What a sample needs of a photograph; see `image_io.ImageFile`."""

    height: int
    width: int

    def can_shrink(self, shrink: int) -> bool: ...

    def pixels(self, shrink: int = 1) -> np.ndarray: ...


class DecodedPhoto:
    """A photograph that is in memory as uint8 [H, W, 3]; it comes at its own size only."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.height, self.width = pixels.shape[:2]
        self._pixels = pixels

    def can_shrink(self, shrink: int) -> bool:
        return shrink == 1

    def pixels(self, shrink: int = 1) -> np.ndarray:
        return self._pixels


def cut_photo(photo: Photo, box: Crop, height: int, width: int) -> tuple[np.ndarray, Crop]:
    """A part of a photograph that is to be resized to `height` x `width` pixels.

    It is decoded at 1/8, 1/4 or 1/2 of its size: the smallest of these that the file allows and
    that leaves the part that many pixels or more.

    Returns:
        uint8 [h, w, 3], and the part in pixels of the whole photograph: `box`, with its edges on
        multiples of 8, 4 or 2 then.

    Raises:
        UserError: its pixels cannot be decoded.
    """
    shrink = box.shrink_for(height, width)
    while not photo.can_shrink(shrink):
        shrink //= 2
    box = box.snapped(shrink)
    return transforms.crop(photo.pixels(shrink), box.shrunk(shrink)), box


def _as_it_is(values: np.ndarray) -> np.ndarray:
    return values


@dataclass(frozen=True)
class OpenPair:
    """A pair that is read, of which no more is decoded and converted than a sample asks for.

    Attributes:
        photo: the photograph, of H x W pixels.
        raw: [H, W], the target's values as stored.
        source: what they mean.
        mask: [H, W], 0 where the target is unknown; None if it is so nowhere.
        original: (height, width) of the photograph before it was resized for the cache, in which
            crops are drawn; None if it was not.
    """

    photo: Photo
    raw: np.ndarray
    source: DataSource
    mask: np.ndarray | None = None
    original: tuple[int, int] | None = None

    def disparity(self, pick: Callable[[np.ndarray], np.ndarray] = _as_it_is) -> np.ndarray:
        """Disparity float32 [h, w], larger is closer, NaN where unknown; always a new array.

        A raw value of the target times `scale` is disparity or, of kind `depth`, metres, which are
        inverted here. Unknown is what is not finite or equals `invalid` (compared raw, in float32);
        of kind `depth` also 0, a hole, and negative values, MegaDepth's mask of ordinal depth. Of
        kind `disparity` without `invalid` every finite value counts: ReDWeb's 0 is one.

        Args:
            pick: takes pixels out of a map [H, W], such as those of a resized part: only they are
                converted.
        """
        source = self.source
        raw = pick(self.raw)
        with np.errstate(all="ignore"):
            values = raw * np.float32(source.scale)
            known = np.isfinite(values)
            if source.kind == "depth":
                known &= values >= np.finfo(np.float32).tiny  # what is above 0 and has an inverse
                values = 1 / values
        if source.invalid is not None:
            known &= raw != np.float32(source.invalid)
        if self.mask is not None:
            known &= pick(self.mask) != 0
        if not known.all():
            values[~known] = np.nan
        return values


def open_pair(pair: Pair) -> OpenPair:
    """Read the files of a pair; the photograph is decoded when its pixels are asked for.

    Raises:
        UserError: a file is unreadable, or their sizes differ; names the file.
    """
    photo = ImageFile(pair.image)
    raw = read_target(pair.target, pair.source.key)
    _check_size(pair, pair.target, raw, photo)
    mask = None
    if pair.mask is not None:
        mask = read_grey(pair.mask)
        _check_size(pair, pair.mask, mask, photo)
    return OpenPair(photo, raw, pair.source, mask)


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] RGB and disparity float32 [H, W]; see `OpenPair.disparity`.

    Raises:
        UserError: a file is unreadable, or their sizes differ; names the file.
    """
    opened = open_pair(pair)
    return opened.photo.pixels(), opened.disparity()


def _check_size(pair: Pair, path: Path, values: np.ndarray, photo: Photo) -> None:
    if (photo.height, photo.width) != values.shape:
        raise UserError(
            f"{path}: {values.shape[1]}x{values.shape[0]} pixels, but {pair.image} "
            f"has {photo.width}x{photo.height}; expected equal sizes"
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
