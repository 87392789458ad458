"""NYU Depth v2: rooms, with the depth of a Kinect as it was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import scipy.io

from src.data.benchmarks.base import DepthBenchmark, DepthSample, Metric, unique
from src.errors import UserError

_IMAGES, _DEPTHS, _SPLIT = "images", "rawDepths", "testNdxs"


class Nyu(DepthBenchmark):
    """`images` and `rawDepths` of `nyu_depth_v2_labeled.mat`, those that `splits.mat` tests, 10 m.

    Both files are MATLAB's. HDF5 shows its arrays with their axes in reverse: `images` is
    uint8 [N, 3, W, H], `rawDepths` [N, W, H] metres, 0 = not measured.
    """

    name: ClassVar[str] = "NYU"
    metric: ClassVar[Metric] = "bad_pixel_percent"
    cap: ClassVar[float] = 10.0

    def __init__(self, images_mat: str | Path, splits_mat: str | Path, size: int = 384) -> None:
        """Open the files, without reading images.

        Args:
            images_mat: the labelled data set, a MATLAB v7.3 file.
            splits_mat: the split, a MATLAB v7.3 file or an older one. `testNdxs` counts from 1.
            size: pixels; the bound of `resize`, a multiple of 32. The published errors use 384.

        Raises:
            UserError: a file is missing, damaged, or without the arrays that are needed.
        """
        super().__init__(size)
        self.root = Path(images_mat)
        # h5py lets one thread at a time read.
        self._images, self._depths = _open_arrays(self.root)
        self._indices = _test_indices(Path(splits_mat), len(self._images))
        self.ids = unique(f"test/{index:04d}" for index in self._indices)

    def image_size(self, index: int) -> tuple[int, int]:
        _, _, width, height = self._images.shape
        return height, width

    def read(self, index: int) -> DepthSample:
        """As in `Benchmark`, out of the two arrays."""
        place = self._indices[index] - 1
        try:
            image, depth = self._images[place], self._depths[place]
        except OSError as error:
            raise UserError(
                f"{self.root}: image {place + 1} is damaged ({error}); download it again"
            ) from None
        image = np.ascontiguousarray(image.transpose(2, 1, 0))
        depth = np.ascontiguousarray(depth.T, dtype=np.float32)
        mask = self.valid_pixels(depth, f"{self.root}, image {place + 1}")
        return DepthSample(self.ids[index], image, depth, mask)


def _open_arrays(path: Path) -> tuple[h5py.Dataset, h5py.Dataset]:
    """The images and the depth maps, unread; they keep the file open.

    Raises:
        UserError: missing, no HDF5 file, or without them.
    """
    file = _open_hdf5(path)
    images, depths = (_dataset(file, path, key) for key in (_IMAGES, _DEPTHS))
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise UserError(
            f"{path}: {_IMAGES} is {images.dtype} {images.shape}, expected uint8 (N, 3, W, H)"
        )
    expected = (images.shape[0], *images.shape[2:])
    if depths.shape != expected or depths.dtype.kind != "f":
        raise UserError(
            f"{path}: {_DEPTHS} is {depths.dtype} {depths.shape}, expected floating-point "
            f"{expected}, the size of {_IMAGES}"
        )
    return images, depths


def _test_indices(path: Path, count: int) -> list[int]:
    """The 1-based numbers of the test images.

    Raises:
        UserError: missing, unreadable, without them, or one is not in 1..count.
    """
    values = np.ravel(_read_split(path))
    if values.size == 0 or values.dtype.kind not in "uif" or (values != np.floor(values)).any():
        raise UserError(f"{path}: {_SPLIT} holds no image numbers; use the original file")
    if values.min() < 1 or values.max() > count:
        raise UserError(
            f"{path}: {_SPLIT} goes from {values.min():g} to {values.max():g}, expected numbers "
            f"from 1 to {count}, the images there are; use the file that belongs to them"
        )
    return values.astype(int).tolist()


def _read_split(path: Path) -> np.ndarray:
    """`testNdxs`. The official file is of MATLAB version 5, others are HDF5."""
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected the split of {Nyu.name}")
    if h5py.is_hdf5(path):
        with _open_hdf5(path) as file:
            return _dataset(file, path, _SPLIT)[()]
    try:
        content: dict[str, Any] = scipy.io.loadmat(path, variable_names=[_SPLIT])
    except Exception as error:
        # Damaged bytes reach the reader's code in more ways than it documents.
        raise UserError(f"{path}: no MATLAB file, or damaged ({error})") from None
    if _SPLIT not in content:
        raise UserError(f"{path}: has no {_SPLIT}; use the original splits.mat")
    return content[_SPLIT]


def _open_hdf5(path: Path) -> h5py.File:
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected the {Nyu.name} data set")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise UserError(
            f"{path}: no HDF5 file, truncated or damaged ({error}); download it again"
        ) from None


def _dataset(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    dataset = file.get(key)
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{path}: has no {key}; use the original file")
    return dataset
