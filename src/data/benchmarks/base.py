"""What a benchmark is: named images with ground truth, and the protocol they are scored by."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from src import image_io, metrics
from src.data.transforms import ResizeMethod, ResizeRule
from src.errors import UserError

_NO_CONTROL = dict.fromkeys((*range(32), 127), "_")

Metric = Literal["abs_rel", "bad_pixel_percent", "whdr"]


@dataclass(frozen=True)
class Sample:
    """One image of a benchmark.

    Attributes:
        id: unique within the benchmark, `<folder>/<file without suffix>` where it has files.
        image: uint8 [H, W, 3], RGB.
    """

    id: str
    image: np.ndarray


@dataclass(frozen=True)
class DepthSample(Sample):
    """An image with measured depth.

    Attributes:
        depth: float32 [H, W], metres; meaningless where the mask is not set.
        mask: bool [H, W], pixels whose depth is finite, above 0 and below the benchmark's cap;
            there is at least one.
    """

    depth: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class OrdinalSample(Sample):
    """An image with two points of known order.

    Attributes:
        closer: (y, x), 0-based pixel of the point that is closer to the camera.
        farther: (y, x) of the other one.
    """

    closer: tuple[int, int]
    farther: tuple[int, int]


class Benchmark(ABC):
    """A data set and its protocol (Ranftl et al., TPAMI 2022, section 6).

    Attributes:
        name: the name in `val.json` and on the command line.
        metric: the error that is reported, one of `columns`.
        cap: metres; deeper pixels are not valid and predictions are clamped to it. None where there
            is no depth.
        columns: the names of what `score` returns, in the order of `results.csv`.
        root: where the images are.
        resize: how an image becomes the network's input. The ground truth is never resized.
        ids: of all samples, unique, in order; known without reading images.
    """

    name: ClassVar[str]
    metric: ClassVar[Metric]
    cap: ClassVar[float | None]
    columns: ClassVar[tuple[str, ...]]
    resize_method: ClassVar[ResizeMethod] = "upper_bound"

    root: Path
    ids: Sequence[str]

    def __init__(self, size: int) -> None:
        """
        Args:
            size: pixels; the bound of `resize`, a multiple of 32. The published errors use 384.
        """
        self.resize = ResizeRule(width=size, height=size, method=self.resize_method)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.ids)

    @abstractmethod
    def read(self, index: int) -> Sample:
        """The sample `ids[index]`. Safe to call from several threads.

        Raises:
            UserError: a file is damaged, has another encoding or another size than its partner, or
                holds no valid pixel.
        """

    @abstractmethod
    def image_size(self, index: int) -> tuple[int, int]:
        """(height, width) of the image `ids[index]` in pixels, without decoding it.

        Raises:
            UserError: the file is damaged.
        """

    @abstractmethod
    def score(self, prediction: np.ndarray, sample: Sample) -> dict[str, float]:
        """The errors of a prediction, `columns` -> value.

        Args:
            prediction: float32 [H, W], inverse depth up to scale and shift, at the sample's size.
            sample: one of this benchmark's.

        Raises:
            ValueError: the prediction has another size, or is not finite where it is scored.
        """

    def settings(self) -> dict[str, Any]:
        """What the errors depend on besides the prediction, for JSON."""
        settings: dict[str, Any] = {"resize": f"{self.resize.method} {self.resize.width}"}
        return settings if self.cap is None else {"cap_m": self.cap, **settings}

    def samples(self) -> Iterator[Sample]:
        """All samples in order, one in memory at a time.

        Raises:
            UserError: as in `read`, when the iteration comes to it.
        """
        return (self.read(index) for index in range(len(self)))


class DepthBenchmark(Benchmark):
    """A benchmark with measured depth."""

    cap: ClassVar[float]
    columns: ClassVar[tuple[str, ...]] = metrics.DEPTH_COLUMNS

    def score(self, prediction: np.ndarray, sample: DepthSample) -> dict[str, float]:
        return metrics.depth_scores(prediction, sample.depth, sample.mask, self.cap)

    def valid_pixels(self, depth: np.ndarray, source: object) -> np.ndarray:
        """The mask of a depth map: bool [H, W].

        Args:
            depth: [H, W], metres.
            source: what holds it, for the message.

        Raises:
            UserError: no pixel is valid.
        """
        mask = (depth > 0) & (depth < self.cap)  # NaN compares false
        if not mask.any():
            raise UserError(
                f"{source}: no pixel with a depth between 0 and {self.cap:g} m; check the file, "
                "or remove it with its image"
            )
        return mask


class MissingFilesError(UserError):
    """Files of a data set that are not there; the message has the first three, `files` has all."""

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        super().__init__(
            f"{root}: incomplete, missing: {', '.join(files[:3])}{more}; copy or download "
            "them again, or remove their partners"
        )
        self.files = files


class FilePair(NamedTuple):
    """An image file and its depth file."""

    id: str
    image: Path
    depth: Path


class FileBenchmark(DepthBenchmark):
    """A benchmark with one image file and one depth file for each sample."""

    layout: ClassVar[str]
    """The expected files, for messages."""

    def __init__(self, root: str | Path, size: int = 384, check: bool = True) -> None:
        """Look at the folder, without reading images.

        Args:
            root: the folder of the data set.
            size: pixels; the bound of `resize`, a multiple of 32. The published errors use 384.
            check: raise if files are missing; otherwise `read` does.

        Raises:
            UserError: the folder is missing, is not laid out as expected, or files are missing.
        """
        super().__init__(size)
        self.root = existing_folder(root, self.name)
        self._pairs = sorted(self.find_pairs())
        if not self._pairs:
            raise UserError(f"{self.root}: no {self.name} images found, expected {self.layout}")
        if check:
            check_files(self.root, (file for pair in self._pairs for file in self.files(pair)))
        self.ids = unique(pair.id for pair in self._pairs)

    def read(self, index: int) -> DepthSample:
        """As in `Benchmark`; image and depth map of one pair of files."""
        pair = self._pairs[index]
        # A depth map has the orientation in which the camera stored the image.
        image = image_io.read_image(pair.image, upright=False)
        depth = self.read_depth(pair, image.shape[:2])
        check_size(depth, pair.depth, image.shape[:2], pair.image)
        return DepthSample(self.ids[index], image, depth, self.valid_pixels(depth, pair.depth))

    def image_size(self, index: int) -> tuple[int, int]:
        return image_io.image_size(self._pairs[index].image, upright=False)

    def image_file(self, index: int) -> Path:
        """The file of the image `ids[index]`."""
        return self._pairs[index].image

    @abstractmethod
    def find_pairs(self) -> Iterator[FilePair]:
        """The pairs below `root`, in any order; their files need not exist.

        Raises:
            UserError: the folder is not laid out as expected.
        """

    @abstractmethod
    def read_depth(self, pair: FilePair, shape: tuple[int, int]) -> np.ndarray:
        """The depth map of an image of this shape (height, width).

        Returns:
            float32 [H, W], metres; 0 or not finite where nothing was measured.

        Raises:
            UserError: the file is damaged or has another encoding.
        """

    def files(self, pair: FilePair) -> tuple[Path, ...]:
        """All files that a sample needs."""
        return pair.image, pair.depth


def pairs_by_name(
    images: Path, depths: Path, group: str, suffixes: tuple[str, str]
) -> Iterator[FilePair]:
    """The images of one folder with the depth files of the same name in another.

    An image or depth file without partner makes a pair too, with the name of the missing file.

    Args:
        images: the folder of the images; other files in it are ignored.
        depths: the folder of the depth files.
        group: the first part of the samples' ids.
        suffixes: of the images, for the name of a missing one, and of the depth files.
    """
    image_files = _by_stem(images, image_io.IMAGE_SUFFIXES)
    depth_files = _by_stem(depths, {suffixes[1].lower()})
    for stem in sorted(image_files | depth_files):
        image = image_files.get(stem, images / f"{stem}{suffixes[0]}")
        yield FilePair(
            f"{group}/{stem}", image, depth_files.get(stem, depths / f"{stem}{suffixes[1]}")
        )


def subfolders(folder: Path) -> list[Path]:
    """The folders directly inside a folder, hidden ones left out, sorted by name; none if there is
    no such folder."""
    if not folder.is_dir():
        return []
    return sorted(
        entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )


def existing_folder(path: str | Path, name: str) -> Path:
    """The folder of the data set `name`.

    Raises:
        UserError: there is no such folder.
    """
    if not Path(path).is_dir():
        raise UserError(f"{path}: no such folder, expected the {name} data set")
    return Path(path)


def check_files(root: Path, files: Iterable[str | Path]) -> None:
    """Raise unless all files exist; each of their folders is listed once.

    Raises:
        MissingFilesError: some do not.
    """
    listings: dict[str, set[str]] = {}
    missing = []
    for file in files:
        folder, name = os.path.split(file)
        if folder not in listings:
            listings[folder] = _file_names(folder)
        if name not in listings[folder]:
            missing.append(str(file))
    if missing:
        raise MissingFilesError(root, missing)


def check_size(map_: np.ndarray, file: Path, shape: tuple[int, int], image: Path) -> None:
    """Raise unless a map [H, W] has the shape of its image.

    Args:
        map_: what `file` holds.
        shape: (height, width) of what `image` holds.

    Raises:
        UserError: names both files and their sizes.
    """
    if map_.shape != shape:
        raise UserError(
            f"{image} is {shape[1]} x {shape[0]} but {file} is {map_.shape[1]} x {map_.shape[0]};"
            " expected the same size"
        )


def unique(names: Iterable[str]) -> list[str]:
    """The names, with #2, #3 ... after those that came before; control characters become "_"."""
    seen: dict[str, None] = {}
    repeats: Counter[str] = Counter()
    for name in (name.translate(_NO_CONTROL) for name in names):
        candidate = name
        while candidate in seen:
            repeats[name] += 1
            candidate = f"{name}#{repeats[name] + 1}"
        seen[candidate] = None
    return list(seen)


def _by_stem(folder: Path, suffixes: Iterable[str]) -> dict[str, Path]:
    """The files of a folder by their name without suffix, hidden ones left out."""
    files = (Path(folder, name) for name in _file_names(folder) if not name.startswith("."))
    return {file.stem: file for file in sorted(files) if file.suffix.lower() in suffixes}


def _file_names(folder: str | Path) -> set[str]:
    """What a folder holds, folders and broken links left out; nothing if there is no folder."""
    try:
        with os.scandir(folder or ".") as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from None
