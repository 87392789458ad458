"""ETH3D high-resolution multi-view: photographs with the depth of a laser scanner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from src import image_io
from src.data.benchmarks.base import FileBenchmark, FilePair, Metric, pairs_by_name, subfolders


class Eth3d(FileBenchmark):
    """`<scene>/images/dslr_images/*.JPG` with float32 files of the same name, 72 m.

    The depth files belong to the photographs as taken, with the lens's distortion: other folders of
    the downloads, such as `dslr_images_undistorted`, do not count.
    """

    name: ClassVar[str] = "ETH3D"
    metric: ClassVar[Metric] = "abs_rel"
    cap: ClassVar[float] = 72.0
    layout: ClassVar[str] = (
        "<scene>/images/dslr_images/*.JPG and <scene>/ground_truth_depth/dslr_images/*.JPG"
    )

    def find_pairs(self) -> Iterator[FilePair]:
        for scene in subfolders(self.root):
            images, depths = (
                scene / part / "dslr_images" for part in ("images", "ground_truth_depth")
            )
            yield from pairs_by_name(images, depths, scene.name, (".JPG", ".JPG"))

    def read_depth(self, pair: FilePair, shape: tuple[int, int]) -> np.ndarray:
        return image_io.read_raw_depth(pair.depth, *shape)
