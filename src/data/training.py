"""Training data: mixdata.json -> samples -> GeneratorDataset.

A sample is (image float32 [3, H, W] normalised, disparity float32 [H, W] in [0, 1],
mask float32 [H, W] of 0 and 1). What it is depends on (seed, epoch, index) alone, not on the
number of workers or on what was read before.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mindspore.dataset as ds
import numpy as np

from src.data import transforms
from src.data.paths import candidates, resolve_data_path
from src.errors import UserError
from src.image_io import IMAGE_SUFFIXES, read_grey, read_image

COLUMNS = ["image", "disparity", "mask"]
TARGET_SUFFIX = ".png"


@dataclass(frozen=True)
class Pair:
    """A photograph and its disparity map (larger is closer)."""

    image: Path
    target: Path


@dataclass(frozen=True)
class Augmentation:
    """How a pair becomes a sample of the network's input size.

    Attributes:
        height, width: of the sample, in pixels.
        mean, std: normalisation of RGB in [0, 1].
        keep_aspect_ratio: crops have the sample's aspect ratio, so that nothing is stretched.
        crop_min_scale: smallest side of a crop, as a share of the largest crop that fits.
        flip_probability: of a horizontal flip.
    """

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    keep_aspect_ratio: bool = True
    crop_min_scale: float = 0.5
    flip_probability: float = 0.5

    def __call__(
        self, image: np.ndarray, disparity: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """uint8 [h, w, 3] and float32 [h, w], any finite range or NaN, -> a sample."""
        aspect = self.width / self.height if self.keep_aspect_ratio else None
        box = transforms.random_crop(*disparity.shape, aspect, self.crop_min_scale, rng)
        flip = rng.random() < self.flip_probability
        image = transforms.resize_image(transforms.crop(image, box), self.height, self.width)
        disparity = transforms.resize_nearest(
            transforms.crop(disparity, box), self.height, self.width
        )
        if flip:
            image, disparity = image[:, ::-1], disparity[:, ::-1]
        mask = np.isfinite(disparity)
        return (
            transforms.normalize(image, self.mean, self.std),
            transforms.unit_range(disparity, mask),
            mask.astype(np.float32),
        )


def find_pairs(root: str, mixdata: str) -> list[Pair]:
    """All image-target pairs that the globs of `mixdata` match, datasets in the file's order.

    The format is the original's: {"img": {name: glob}, "depth": {name: glob}}. Pairs have the
    same file stem.

    Args:
        root: train_data_dir; globs are looked up under it first.
        mixdata: path of the JSON file, looked up the same way.

    Raises:
        UserError: the file is missing or malformed, a glob matches nothing, or a file has no
            partner.
    """
    path = resolve_data_path(root, mixdata, "mixdata")
    globs = _read_mixdata(path)
    return [
        pair
        for name, (image_glob, target_glob) in globs.items()
        for pair in _match(
            _expand(root, image_glob, IMAGE_SUFFIXES, f"{path}: img.{name}"),
            _expand(root, target_glob, {TARGET_SUFFIX}, f"{path}: depth.{name}"),
        )
    ]


def _read_mixdata(path: Path) -> dict[str, tuple[str, str]]:
    """Dataset name -> (glob of its images, glob of its targets)."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a JSON file: {error}") from None
    form = 'expected {"img": {"RW": "/ReDWeb_V1/Imgs/*"}, "depth": {"RW": "/ReDWeb_V1/RDs/*"}}'
    parts = [content.get(key) if isinstance(content, dict) else None for key in ("img", "depth")]
    for part in parts:
        if not isinstance(part, dict) or not all(isinstance(text, str) for text in part.values()):
            raise UserError(f"{path}: {form}")
    images, targets = parts
    if not images or images.keys() != targets.keys():
        raise UserError(f"{path}: img names {[*images]}, depth names {[*targets]}; {form}")
    return {name: (images[name], targets[name]) for name in images}


def _expand(root: str, pattern: str, suffixes: frozenset[str] | set[str], what: str) -> list[Path]:
    inside, as_is = candidates(glob.escape(root), pattern)
    for place in (inside, as_is):
        found = [Path(name) for name in sorted(glob.glob(str(place), recursive=True))]
        found = [path for path in found if path.suffix.lower() in suffixes]
        if found:
            return found
    raise UserError(
        f"{what}: no {'/'.join(sorted(suffixes))} file matches {inside} or {as_is}; "
        "set train_data_dir to the folder that holds the dataset"
    )


def _match(images: list[Path], targets: list[Path]) -> list[Pair]:
    by_stem, image_stems = _by_stem(targets), _by_stem(images)
    for image in images:
        if image.stem not in by_stem:
            raise UserError(
                f"{image}: has no target; expected {targets[0].parent / (image.stem + '.png')}"
            )
    for target in targets:
        if target.stem not in image_stems:
            raise UserError(
                f"{target}: has no image; expected {images[0].parent / target.stem}"
                f"{images[0].suffix}"
            )
    return [Pair(image, by_stem[image.stem]) for image in images]


def _by_stem(paths: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise UserError(
                f"{path}: same name as {found[path.stem]}, so its partner is not certain; rename "
                "one, or give each folder a name of its own in mixdata"
            )
        found[path.stem] = path
    return found


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] RGB and disparity float32 [H, W].

    Raises:
        UserError: a file is unreadable, or their sizes differ; names the file.
    """
    image, disparity = read_image(pair.image), read_grey(pair.target)
    if image.shape[:2] != disparity.shape:
        raise UserError(
            f"{pair.target}: {disparity.shape[1]}x{disparity.shape[0]} pixels, but {pair.image} "
            f"has {image.shape[1]}x{image.shape[0]}; expected equal sizes"
        )
    return image, disparity


class TrainingData:
    """Random access to augmented samples.

    Samples are numbered through all epochs: number n is in epoch n // len, so that a sample
    needs no state beside its number.

    Args:
        pairs: what to read.
        augment: how a pair becomes a sample.
        seed: of order and augmentation.
    """

    def __init__(self, pairs: list[Pair], augment: Augmentation, seed: int) -> None:
        self.pairs = pairs
        self.augment = augment
        self.seed = seed
        # Files that could not be read. Raised in a worker, such an error would come out of
        # MindSpore as pages of text, so the trainer looks here after every step instead.
        self.errors: list[UserError] = []

    def __len__(self) -> int:
        return len(self.pairs)

    def __deepcopy__(self, memo: dict) -> TrainingData:
        """MindSpore copies a pipeline before it runs; workers and trainer share this object."""
        return self

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        epoch, index = divmod(int(number), len(self.pairs))
        rng = np.random.default_rng((self.seed, epoch, index))
        try:
            return self.augment(*read_pair(self.pairs[index]), rng)
        except UserError as error:
            self.errors.append(error)
            size = (self.augment.height, self.augment.width)
            empty = np.zeros(size, np.float32)
            return np.zeros((3, *size), np.float32), empty, empty

    def order(self, epoch: int) -> np.ndarray:
        """The shuffled indices of an epoch (counted from 0): int64 [len]."""
        # No sample has the index len, so this stream is nobody else's.
        rng = np.random.default_rng((self.seed, epoch, len(self.pairs)))
        return rng.permutation(len(self.pairs))

    def batch_files(self, epoch: int, step: int, batch_size: int) -> list[str]:
        """The images in a step (counted from 0) of an epoch, to name them in a message."""
        indices = self.order(epoch)[step * batch_size : (step + 1) * batch_size]
        return [str(self.pairs[index].image) for index in indices]


class _EpochSampler(ds.Sampler):
    """Yields sample numbers in the shuffled order of one epoch after another."""

    def __init__(self, data: TrainingData) -> None:
        super().__init__(num_samples=len(data))
        self.data = data
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        numbers = self.epoch * len(self.data) + self.data.order(self.epoch)
        self.epoch += 1
        return iter(numbers.tolist())


def make_dataset(data: TrainingData, batch_size: int, workers: int) -> ds.Dataset:
    """Batches of `data` in shuffled order, a new one each epoch; an incomplete batch is left out.

    Columns: image float32 [B, 3, H, W], disparity and mask float32 [B, H, W].

    Args:
        workers: threads that read and augment. OpenCV and Pillow release the interpreter lock
            for most of their work.

    Raises:
        UserError: fewer images than one batch.
    """
    if len(data) < batch_size:
        raise UserError(f"batch_size: {batch_size} is more than the {len(data)} training images")
    dataset = ds.GeneratorDataset(
        data,
        COLUMNS,
        sampler=_EpochSampler(data),
        num_parallel_workers=min(workers, os.cpu_count() or 1),  # MindSpore refuses more
        python_multiprocessing=False,
    )
    return dataset.batch(batch_size, drop_remainder=True)
