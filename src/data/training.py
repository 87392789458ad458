"""Training data: pairs of files -> samples -> GeneratorDataset.

A sample is (image float32 [3, H, W] normalised, disparity float32 [H, W] in [0, 1],
mask float32 [H, W] of 0 and 1). What it is depends on (seed, epoch, index) alone, not on the
number of workers or processes, or on what was read before.
"""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mindspore.dataset as ds
import numpy as np

from src.data import transforms
from src.data.mixdata import Pair
from src.errors import UserError
from src.image_io import read_image, read_target

COLUMNS = ["image", "disparity", "mask"]


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


def read_pair(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] RGB and disparity float32 [H, W], larger is closer, NaN where unknown.

    A raw value of the target times `scale` is disparity or, of kind `depth`, metres, which are
    inverted here. Unknown is what is not finite or equals `invalid` (compared raw, in float32); of
    kind `depth` also 0, a hole, and negative values, MegaDepth's mask of ordinal depth. Of kind
    `disparity` without `invalid` every finite value counts: ReDWeb's 0 is one.

    Raises:
        UserError: a file is unreadable, or their sizes differ; names the file.
    """
    source = pair.source
    image, raw = read_image(pair.image), read_target(pair.target, source.key)
    if image.shape[:2] != raw.shape:
        raise UserError(
            f"{pair.target}: {raw.shape[1]}x{raw.shape[0]} pixels, but {pair.image} "
            f"has {image.shape[1]}x{image.shape[0]}; expected equal sizes"
        )
    with np.errstate(all="ignore"):
        values = raw * np.float32(source.scale)
        known = np.isfinite(values)
        if source.kind == "depth":
            known &= values >= np.finfo(np.float32).tiny  # what is above 0 and has an inverse
            values = 1 / values
    if source.invalid is not None:
        known &= raw != np.float32(source.invalid)
    values[~known] = np.nan
    return image, values


class TrainingData:
    """Random access to the augmented samples of one process.

    An epoch has `steps` steps. The images in the `order` of the epoch are dealt out to them, and
    in each step to the `ranks` processes, `batch_size` at a time. Where the last step has more
    places than images are left, images of the epoch come again, with an empty mask: they add
    nothing to the loss, and batch normalisation sees real pictures.

    Places are numbered through all epochs, `steps * batch_size * ranks` an epoch, so that a sample
    needs no state beside its number.

    Args:
        pairs: what to read.
        augment: how a pair becomes a sample.
        seed: of order and augmentation.
        batch_size: images per step and process.
        rank: of this process, in [0, ranks).
        ranks: processes that share the data.
        skip_bad: put the next image of the dataset in the place of an unreadable one.
    """

    def __init__(
        self,
        pairs: list[Pair],
        augment: Augmentation,
        seed: int,
        batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        skip_bad: bool = False,
    ) -> None:
        self.pairs = pairs
        self.augment = augment
        self.seed = seed
        self.batch_size = batch_size
        self.rank = rank
        self.global_batch = batch_size * ranks
        self.steps = math.ceil(len(pairs) / self.global_batch)
        self.last_batch = (
            len(pairs) - (self.steps - 1) * self.global_batch
        )  # images in the last step
        self.skip_bad = skip_bad
        # Files that could not be read. Raised in a worker, such an error would come out of
        # MindSpore as pages of text, so the trainer looks here after every step instead.
        self.errors: list[UserError] = []
        self._bad: dict[int, str] = {}  # index of a pair that was replaced -> why
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.pairs)

    def __deepcopy__(self, memo: dict) -> TrainingData:
        """MindSpore copies a pipeline before it runs; workers and trainer share this object."""
        return self

    def __getitem__(self, place: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        epoch, position = divmod(int(place), self.steps * self.global_batch)
        image, disparity, mask = self.sample(epoch, self.order(epoch)[position % len(self)])
        if position < len(self):
            return image, disparity, mask
        return image, np.zeros_like(disparity), np.zeros_like(mask)

    def sample(self, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pair `index` as it looks in `epoch` (counted from 0); depends on them and the seed alone.

        An unreadable pair is noted in `errors` and gives zeros, an empty mask included; with
        `skip_bad` it is noted in `skipped`, and the next readable pair takes its place.
        """
        index = int(index)
        for candidate in (index + shift for shift in range(len(self))):
            try:
                pair = read_pair(self.pairs[candidate % len(self)])
            except UserError as error:
                self._note(candidate % len(self), error)
                if self.errors:
                    break
            else:
                rng = np.random.default_rng((self.seed, epoch, index))
                return self.augment(*pair, rng)
        size = (self.augment.height, self.augment.width)
        empty = np.zeros(size, np.float32)
        return np.zeros((3, *size), np.float32), empty, empty

    def _note(self, index: int, error: UserError) -> None:
        """Keep the error: as one that stops the run, or, past 1 % of all pairs, as one of them."""
        if not self.skip_bad:
            self.errors.append(error)
            return
        with self._lock:
            self._bad.setdefault(index, str(error))
            bad, total = len(self._bad), len(self)
            if 100 * bad > total and not self.errors:
                self.errors.append(
                    UserError(
                        f"{bad} of {total} images ({100 * bad / total:.1f} %) cannot be read, more "
                        f"than 1 %; first: {self._bad[min(self._bad)]}; mend or remove them"
                    )
                )

    @property
    def skipped(self) -> dict[Path, str]:
        """The image of each unreadable pair that was replaced so far -> why, naming the file."""
        with self._lock:
            return {self.pairs[index].image: self._bad[index] for index in sorted(self._bad)}

    def order(self, epoch: int) -> np.ndarray:
        """The shuffled indices of an epoch (counted from 0): int64 [len], read-only."""
        return _shuffled(self.seed, epoch, len(self))

    def batch_files(self, epoch: int, step: int) -> list[str]:
        """The images in a step (counted from 0) of an epoch, of all ranks, to name them."""
        start = step * self.global_batch
        indices = self.order(epoch)[start : start + self.global_batch]
        return [str(self.pairs[index].image) for index in indices]


@functools.lru_cache(maxsize=4)  # workers may be an epoch apart
def _shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    # No sample has the index `count`, so this stream is nobody else's.
    order = np.random.default_rng((seed, epoch, count)).permutation(count)
    order.flags.writeable = False
    return order


class _Places(ds.Sampler):
    """The places of one rank from a step on, epoch after epoch."""

    def __init__(self, data: TrainingData, epoch: int, step: int) -> None:
        # MindSpore takes this for the length of every epoch, and checks it.
        super().__init__(num_samples=(data.steps - step) * data.batch_size)
        self.data = data
        self.epoch = epoch
        self.step = step

    def __iter__(self) -> Iterator[int]:
        data = self.data
        steps = self.epoch * data.steps + np.arange(self.step, data.steps)
        starts = steps * data.global_batch + data.rank * data.batch_size
        self.epoch += 1
        return iter((starts[:, None] + np.arange(data.batch_size)).ravel().tolist())


def make_dataset(data: TrainingData, workers: int, epoch: int = 0, step: int = 0) -> ds.Dataset:
    """Batches of `data` in the order of `epoch`, then of the next, and so on.

    Columns: image float32 [B, 3, H, W], disparity and mask float32 [B, H, W].

    Args:
        workers: threads that read and augment. OpenCV and Pillow release the interpreter lock
            for most of their work.
        epoch: to begin with, counted from 0.
        step: to begin with, counted from 0. If it is not 0, the dataset is the rest of this epoch
            only: MindSpore wants all epochs of a dataset to be of one length.
    """
    dataset = ds.GeneratorDataset(
        data,
        COLUMNS,
        sampler=_Places(data, epoch, step),
        num_parallel_workers=min(workers, os.cpu_count() or 1),  # MindSpore refuses more
        python_multiprocessing=False,
    )
    return dataset.batch(data.batch_size, drop_remainder=True)
