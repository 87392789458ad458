"""Generated training pairs for the benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np


def write_pairs(root: Path, count: int, height: int, width: int) -> None:
    """Photograph-like JPEG pictures (they compress as such), 8-bit PNG disparities that follow
    their brightness, and mixdata.json, laid out as ReDWeb."""
    rng = np.random.default_rng(0)
    folder = root / "ReDWeb_V1"
    for name in ("Imgs", "RDs"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        coarse = rng.integers(20, 236, (max(2, height // 20), max(2, width // 20), 3), np.uint8)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        picture = (smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
        _write(folder / f"Imgs/{i:05d}.jpg", picture)
        _write(folder / f"RDs/{i:05d}.png", smooth.mean(axis=2).astype(np.uint8))
    globs = {"img": {"RW": "/ReDWeb_V1/Imgs/*"}, "depth": {"RW": "/ReDWeb_V1/RDs/*"}}
    (root / "mixdata.json").write_text(json.dumps(globs))


def _write(path: Path, values: np.ndarray) -> None:
    if not cv2.imwrite(str(path), values):
        raise OSError(f"{path}: cannot be written")
