"""Training pairs out of the photographs of the scikit-image package, for the benchmarks."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt
from skimage import data

NAMES = ("astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry")


def write_photo_pairs(root: Path, count: int, height: int, width: int) -> None:
    """Views of real photographs as JPEG of quality 90 to 95, parts of a measured disparity (500 x
    741, Middlebury's motorcycle) as 8-bit PNG, and mixdata.json, laid out as ReDWeb."""
    left, _, disparity = data.stereo_motorcycle()
    photographs = [left, *(getattr(data, name)() for name in NAMES)]
    # ReDWeb's maps have no holes: each takes the value of the nearest pixel that has one.
    holes = ~np.isfinite(disparity)
    nearest = distance_transform_edt(holes, return_distances=False, return_indices=True)
    known = disparity[tuple(nearest)]
    grey = (known / known.max() * 255).round().astype(np.uint8)
    rng = np.random.default_rng(0)
    for name in ("Imgs", "RDs"):
        (root / "ReDWeb_V1" / name).mkdir(parents=True)
    for i in range(count):
        picture = _view(photographs[i % len(photographs)], height, width, cv2.INTER_CUBIC, rng)
        target = _view(grey, height, width, cv2.INTER_NEAREST, rng)
        quality = int(rng.integers(90, 96))
        _write(root / f"ReDWeb_V1/Imgs/{i:05d}.jpg", picture, "JPEG", quality=quality)
        _write(root / f"ReDWeb_V1/RDs/{i:05d}.png", target, "PNG")
    globs = {"img": {"RW": "/ReDWeb_V1/Imgs/*"}, "depth": {"RW": "/ReDWeb_V1/RDs/*"}}
    (root / "mixdata.json").write_text(json.dumps(globs))


def files_of(root: Path) -> list[tuple[Path, Path]]:
    """(image, target) of every pair that was written there."""
    images, targets = (sorted((root / "ReDWeb_V1" / name).iterdir()) for name in ("Imgs", "RDs"))
    return list(zip(images, targets, strict=True))


def _view(
    picture: np.ndarray, height: int, width: int, filter_: int, rng: np.random.Generator
) -> np.ndarray:
    """A part of a picture, 80 % of it or more in each direction, resized, mirrored or not."""
    rows, columns = (round(side * rng.uniform(0.8, 1)) for side in picture.shape[:2])
    top, left = (
        rng.integers(picture.shape[0] - rows + 1),
        rng.integers(picture.shape[1] - columns + 1),
    )
    part = picture[top : top + rows, left : left + columns, ...]
    resized = cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=filter_)
    return resized[:, :: rng.choice((1, -1))]


def _write(path: Path, values: np.ndarray, image_format: str, **options: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, image_format, **options)
    path.write_bytes(buffer.getvalue())
