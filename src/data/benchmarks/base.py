"""What a benchmark is: named images with measured depth, and the protocol they are scored by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from src import image_io
from src.data.transforms import ResizeMethod, ResizeRule
from src.errors import UserError

Metric = Literal["abs_rel", "bad_pixel_percent"]


@dataclass(frozen=True)
class Sample:
    """One image of a benchmark with its ground truth.

    Attributes:
        id: unique name within the benchmark, `<folder>/<file without suffix>`.
        image: uint8 [H, W, 3], RGB.
        depth: float32 [H, W], metres; meaningless where the mask is not set.
        mask: bool [H, W], pixels whose depth is finite, above 0 and below the benchmark's cap. It
            may be empty.
    """

    id: str
    image: np.ndarray
    depth: np.ndarray
    mask: np.ndarray


class Benchmark(ABC):
    """A data set and its protocol (Ranftl et al., TPAMI 2022, section 6).

    Attributes:
        name: the name in `val.json` and on the command line.
        metric: the error that is reported, a function of `src.metrics`.
        cap: metres; deeper pixels are not valid and predictions are clamped to it.
        resize: how an image becomes the network's input. Depth and mask are never resized.
        root: the folder of the data set.
    """

    name: ClassVar[str]
    metric: ClassVar[Metric]
    cap: ClassVar[float]
    resize_method: ClassVar[ResizeMethod] = "upper_bound"

    def __init__(self, root: str | Path, size: int = 384) -> None:
        """Look at the folder, without reading images.

        Args:
            root: the folder of the data set.
            size: pixels; the bound of `resize`, a multiple of 32. The published errors use 384.

        Raises:
            UserError: the folder is missing or is not laid out as expected.
        """
        self.root = Path(root)
        self.resize = ResizeRule(width=size, height=size, method=self.resize_method)
        if not self.root.is_dir():
            raise UserError(f"{self.root}: no such folder, expected the {self.name} data set")

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def samples(self) -> Iterator[Sample]:
        """All samples in order of their id; one is in memory at a time.

        Raises:
            UserError: a file is damaged, has another encoding, or an image and its depth differ in
                size. Raised when the iteration comes to it.
        """


class FilePair(NamedTuple):
    """An image file and its depth file."""

    id: str
    image: Path
    depth: Path


class FileBenchmark(Benchmark):
    """A benchmark with one image file and one depth file for each sample."""

    layout: ClassVar[str]
    """The expected files, for messages."""

    def __init__(self, root: str | Path, size: int = 384) -> None:
        super().__init__(root, size)
        self._pairs = sorted(self.find_pairs())
        if not self._pairs:
            raise UserError(f"{self.root}: no {self.name} images found, expected {self.layout}")

    def __len__(self) -> int:
        return len(self._pairs)

    def samples(self) -> Iterator[Sample]:
        for pair in self._pairs:
            yield self._read_sample(pair)

    @abstractmethod
    def find_pairs(self) -> Iterator[FilePair]:
        """The pairs below `root`, in any order.

        Raises:
            UserError: an image has no depth file.
        """

    @abstractmethod
    def read_depth(self, path: Path) -> np.ndarray:
        """float32 [H, W], metres; 0 or not finite where nothing was measured.

        Raises:
            UserError: the file is damaged or has another encoding.
        """

    def _read_sample(self, pair: FilePair) -> Sample:
        image = image_io.read_image(pair.image)
        depth = self.read_depth(pair.depth)
        if image.shape[:2] != depth.shape:
            raise UserError(
                f"{pair.image} is {image.shape[1]} x {image.shape[0]} but {pair.depth} is"
                f" {depth.shape[1]} x {depth.shape[0]}; expected the same size"
            )
        # NaN compares false, infinity is above every cap.
        mask = (depth > 0) & (depth < self.cap)
        return Sample(pair.id, image, depth, mask)


def pairs_by_name(images: Path, depths: Path, group: str, depth_suffix: str) -> Iterator[FilePair]:
    """The images of one folder with the depth files of the same name in another.

    Args:
        images: the folder of the images; other files in it are ignored.
        depths: the folder of the depth files.
        group: the first part of the samples' ids.
        depth_suffix: suffix of the depth files, with its dot.

    Raises:
        UserError: a folder is missing, or an image has no depth file.
    """
    for folder, partner in ((images, depths), (depths, images)):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder, expected the partners of {partner}")
    for image in image_io.list_images(images)[0]:
        depth = depths / f"{image.stem}{depth_suffix}"
        if not depth.is_file():
            raise UserError(f"{image}: its depth file {depth} is missing; add it or drop the image")
        yield FilePair(f"{group}/{image.stem}", image, depth)


def subfolders(folder: Path) -> list[Path]:
    """The folders directly inside a folder, hidden ones left out, sorted by name."""
    return sorted(
        entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
