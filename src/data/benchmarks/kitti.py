"""KITTI raw: street scenes with the depth of a laser scanner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from src import image_io
from src.data.benchmarks.base import FileBenchmark, FilePair, Metric, pairs_by_name, subfolders
from src.data.transforms import ResizeMethod

UNITS_PER_METRE = 256
"""Depth files hold uint16 = 256 * metres, 0 = not measured (readme of the KITTI depth devkit)."""


class Kitti(FileBenchmark):
    """`<drive>/image/*.png` with `<drive>/depth/*.png` of the same name, 16-bit, 80 m."""

    name: ClassVar[str] = "Kitti"
    metric: ClassVar[Metric] = "bad_pixel_percent"
    cap: ClassVar[float] = 80.0
    # The images are wide: with an upper bound they would be only 128 pixels high.
    resize_method: ClassVar[ResizeMethod] = "lower_bound"
    layout: ClassVar[str] = "<drive>/image/*.png and <drive>/depth/*.png"

    def find_pairs(self) -> Iterator[FilePair]:
        for drive in subfolders(self.root):
            yield from pairs_by_name(drive / "image", drive / "depth", drive.name, (".png", ".png"))

    def read_depth(self, pair: FilePair, shape: tuple[int, int]) -> np.ndarray:
        return image_io.read_png16(pair.depth).astype(np.float32) / np.float32(UNITS_PER_METRE)
