"""Middlebury Stereo 2014: indoor photographs with structured-light depth.

Not one of the paper's six. Its scene 'motorcycle' comes with scikit-image, so that a network can
be tried on a real photograph without a download.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from src import image_io
from src.data.benchmarks.base import FileBenchmark, FilePair, Metric, subfolders
from src.errors import UserError

_IMAGE, _DISPARITY, _CALIBRATION = "im0.png", "disp0.pfm", "calib.txt"


class Middlebury(FileBenchmark):
    """`<scene>/im0.png`, `disp0.pfm` (pixels, inf = unknown) and `calib.txt`, 10 m."""

    name: ClassVar[str] = "Middlebury"
    metric: ClassVar[Metric] = "abs_rel"
    cap: ClassVar[float] = 10.0
    layout: ClassVar[str] = f"<scene>/{_IMAGE}, {_DISPARITY} and {_CALIBRATION}"

    def find_pairs(self) -> Iterator[FilePair]:
        for scene in subfolders(self.root):
            yield FilePair(scene.name, scene / _IMAGE, scene / _DISPARITY)

    def files(self, pair: FilePair) -> tuple[Path, ...]:
        return pair.image, pair.depth, pair.image.with_name(_CALIBRATION)

    def read_depth(self, pair: FilePair, shape: tuple[int, int]) -> np.ndarray:
        """Depth by the data set's documentation: Z = baseline * f / (d + doffs)."""
        focal, offset, baseline = read_calibration(pair.depth.with_name(_CALIBRATION))
        disparity = image_io.read_pfm(pair.depth)
        known = np.isfinite(disparity) & (disparity + offset > 0)
        depth = np.zeros(disparity.shape, np.float32)
        depth[known] = baseline * focal / (disparity[known] + offset)
        return depth


def read_calibration(path: Path) -> tuple[float, float, float]:
    """Focal length in pixels, disparity offset in pixels and baseline in metres of a calib.txt.

    Raises:
        UserError: unreadable, or without one of the three.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path}: cannot be read; expected the scene's calibration") from None
    number = r"([-+.\deE]+)"
    values = []
    for key, pattern in (("cam0", r"\[" + number), ("doffs", number), ("baseline", number)):
        found = re.search(rf"^{key}={pattern}", text, re.MULTILINE)
        try:
            values.append(float(found[1]))  # type: ignore[index]
        except (TypeError, ValueError):
            raise UserError(
                f"{path}: no number for {key}=, expected cam0, doffs, baseline"
            ) from None
    focal, offset, baseline_millimetres = values
    return focal, offset, baseline_millimetres / 1000
