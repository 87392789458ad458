"""MPI Sintel: frames of an animated film with exact depth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from src import image_io
from src.data.benchmarks.base import (
    FileBenchmark,
    FilePair,
    Metric,
    check_size,
    pairs_by_name,
    subfolders,
)
from src.errors import UserError

OCCLUDED = 255
"""In the files of `occlusions`: not visible to the other camera (MPI Sintel stereo data)."""


class Sintel(FileBenchmark):
    """`final_left/<scene>/*.png` with `depth/<scene>/*.dpt`, 72 m.

    The published errors use every pixel, those that are occluded in the other camera's view
    included. They can be left out, by `occlusions/<scene>/*.png`.
    """

    name: ClassVar[str] = "Sintel"
    metric: ClassVar[Metric] = "abs_rel"
    cap: ClassVar[float] = 72.0
    layout: ClassVar[str] = "final_left/<scene>/*.png and depth/<scene>/*.dpt"

    def __init__(
        self, root: str | Path, size: int = 384, occluded: bool = True, check: bool = True
    ) -> None:
        """
        Args:
            root, size, check: as in `FileBenchmark`.
            occluded: whether occluded pixels are valid.

        Raises:
            UserError: as in `FileBenchmark`.
        """
        self.occluded = occluded
        super().__init__(root, size, check)

    def find_pairs(self) -> Iterator[FilePair]:
        images, depths = self.root / "final_left", self.root / "depth"
        for folder in (images, depths):
            if not folder.is_dir():
                raise UserError(f"{folder}: no such folder, expected {self.layout} in {self.root}")
        for scene in sorted({folder.name for folder in subfolders(images) + subfolders(depths)}):
            yield from pairs_by_name(images / scene, depths / scene, scene, (".png", ".dpt"))

    def files(self, pair: FilePair) -> tuple[Path, ...]:
        return super().files(pair) + (() if self.occluded else (self._occlusions(pair),))

    def read_depth(self, pair: FilePair, shape: tuple[int, int]) -> np.ndarray:
        depth = image_io.read_dpt(pair.depth)
        if not self.occluded:
            file = self._occlusions(pair)
            occlusions = image_io.read_grey(file)
            check_size(occlusions, file, depth.shape, pair.depth)
            depth[occlusions == OCCLUDED] = 0
        return depth

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"occluded_pixels": "included" if self.occluded else "excluded"}

    def _occlusions(self, pair: FilePair) -> Path:
        return self.root / "occlusions" / pair.image.parent.name / f"{pair.image.stem}.png"
