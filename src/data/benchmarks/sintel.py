"""MPI Sintel: frames of an animated film with exact depth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from src import image_io
from src.data.benchmarks.base import FileBenchmark, FilePair, Metric, pairs_by_name, subfolders
from src.errors import UserError


class Sintel(FileBenchmark):
    """`final_left/<scene>/*.png` with `depth/<scene>/*.dpt`, 72 m.

    Every pixel counts, those occluded in the other camera's view included, as in the published
    errors.
    """

    name: ClassVar[str] = "Sintel"
    metric: ClassVar[Metric] = "abs_rel"
    cap: ClassVar[float] = 72.0
    layout: ClassVar[str] = "final_left/<scene>/*.png and depth/<scene>/*.dpt"

    def find_pairs(self) -> Iterator[FilePair]:
        images = self.root / "final_left"
        if not images.is_dir():
            raise UserError(f"{images}: no such folder, expected {self.layout} in {self.root}")
        for scene in subfolders(images):
            yield from pairs_by_name(scene, self.root / "depth" / scene.name, scene.name, ".dpt")

    def read_depth(self, path: Path) -> np.ndarray:
        return image_io.read_dpt(path)
