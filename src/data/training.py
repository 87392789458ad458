"""Training data: pairs of files -> samples -> GeneratorDataset.

A sample is (image float32 [3, H, W] normalised, disparity float32 [H, W] in [0, 1],
mask float32 [H, W] of 0 and 1). What it is depends on (seed, pass, index) alone, not on the
number of workers or processes, or on what was read before.

    python -m src.data.training --check MIXDATA.json

shows what the datasets of a mixdata.json hold (src/data/mix_check.py).
"""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import mindspore as ms
import mindspore.dataset as ds
import numpy as np

from src import runtime
from src.data import transforms
from src.data.batch_memory import BatchMemory
from src.data.mixdata import DataSource, Pair, by_dataset
from src.data.pairs import DecodedPhoto, OpenPair, cut_photo, open_pair
from src.errors import UserError, run_program

COLUMNS = ["image", "disparity", "mask"]
Sample = tuple[np.ndarray, np.ndarray, np.ndarray]


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
    ) -> Sample:
        """uint8 [h, w, 3] and float32 [h, w], any finite range or NaN, -> a sample."""
        sample = self.empty()
        self.fill(sample, OpenPair(DecodedPhoto(image), disparity, DataSource("")), rng)
        return sample

    def empty(self) -> Sample:
        """Room for a sample: arrays of any content."""
        image, disparity, mask = (np.empty(shape, np.float32) for shape in self.shapes())
        return image, disparity, mask

    def shapes(self, *batch: int) -> list[tuple[int, ...]]:
        """Of the arrays of a sample, or of a batch of so many."""
        size = (self.height, self.width)
        return [(*batch, 3, *size), (*batch, *size), (*batch, *size)]

    def fill(self, sample: Sample, pair: OpenPair, rng: np.random.Generator) -> None:
        """Make a sample of a pair, in place.

        The photograph is 8 bits deep up to the last step: it is decoded at 1/2, 1/4 or 1/8 of its
        size where the file allows it and the crop still has the sample's size or more (the crop's
        edges then move to multiples of 2, 4 or 8, for the target too), cut, resized, mirrored, and
        normalised into its place.

        Raises:
            UserError: its pixels cannot be decoded.
        """
        image, disparity, mask = sample
        photo, size = pair.photo, (self.height, self.width)
        there = photo.height, photo.width
        original = pair.original or there
        aspect = self.width / self.height if self.keep_aspect_ratio else None
        box = transforms.random_crop(*original, aspect, self.crop_min_scale, rng)
        box = box.scaled(original, there)
        flip = rng.random() < self.flip_probability
        pixels, box = cut_photo(photo, box, *size)

        def mirrored(values: np.ndarray) -> np.ndarray:
            return cv2.flip(values, 1) if flip else values

        pixels = mirrored(transforms.resize_pixels(pixels, *size))
        transforms.normalize_pixels(pixels, self._table, image)
        values = pair.disparity(
            lambda m: mirrored(transforms.resize_nearest(transforms.crop(m, box), *size))
        )
        known = np.isfinite(values)
        transforms.unit_range(values, known, disparity)
        mask[:] = known

    @functools.cached_property
    def _table(self) -> np.ndarray:
        return transforms.normalization_table(self.mean, self.std)


class TrainingData:
    """Random access to the augmented samples of one process, of one dataset or several.

    A step has `batch_size` images of each dataset on each of the `ranks` processes, dataset after
    dataset. Each dataset is a stream of passes over its own shuffles, which runs on through all
    epochs, so the datasets may be of any sizes: an epoch is `steps` steps, in which the largest of
    them is seen about once, or `epoch_images` images.

    Only where there is one dataset and no `epoch_images`, an epoch is one pass: every image comes
    exactly once. Where its last step has more places than images are left, images of the pass come
    again, with an empty mask: they add nothing to the loss, and batch normalisation sees real
    pictures.

    Places are numbered through all epochs, `global_batch` a step and in it dataset by dataset, so
    that a sample needs no state beside its number.

    Args:
        pairs: what to read, of all datasets.
        augment: how a pair becomes a sample.
        seed: of order and augmentation.
        batch_size: images of each dataset per step and process.
        rank: of this process, in [0, ranks).
        ranks: processes that share the data.
        skip_bad: put the next image of the dataset in the place of an unreadable one, up to 1 %
            of the dataset.
        epoch_images: of all datasets and processes in an epoch, rounded up to whole steps; 0: one
            pass over the largest dataset.
        open_: how a pair is read; raises UserError if it cannot be.

    Attributes:
        datasets: their names, in the order in which `pairs` begins them.
        local_batch, global_batch: images in a step of this process, and of all.
        steps: of an epoch.
        last_batch: images with a target in the last step of an epoch.
        memory: of the batches.
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
        epoch_images: int = 0,
        open_: Callable[[Pair], OpenPair] = open_pair,
    ) -> None:
        self.pairs = pairs
        self.augment = augment
        self.seed = seed
        self.batch_size = batch_size
        self.rank = rank
        self.skip_bad = skip_bad
        self.open_ = open_
        self.memory = BatchMemory()
        members = by_dataset(pairs)
        self.datasets = list(members)
        self._members = [np.array(indices) for indices in members.values()]
        self.local_batch = len(members) * batch_size
        self.global_batch = self.local_batch * ranks
        self._share = batch_size * ranks  # images of each dataset in a step of all processes
        self._lengths = [len(indices) for indices in self._members]  # places of a pass
        self.steps = math.ceil(max(self._lengths) / self._share)
        self.last_batch = self.global_batch
        if epoch_images:
            self.steps = math.ceil(epoch_images / self.global_batch)
        elif len(members) == 1:
            self._lengths = [self.steps * self._share]
            self.last_batch = len(pairs) - (self.steps - 1) * self._share
        # Of each dataset, the last passes' orders: workers may be a pass apart.
        self._orders = [functools.lru_cache(maxsize=4)(self._shuffled) for _ in members]
        # Files that could not be read. Raised in a worker, such an error would come out of
        # MindSpore as pages of text, so the trainer looks here after every step instead.
        self.errors: list[UserError] = []
        # Of each dataset, index of a pair that was replaced -> why.
        self._bad: list[dict[int, str]] = [{} for _ in members]
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, place: int) -> Sample:
        sample = self.augment.empty()
        self._fill_place(sample, place)
        return sample

    def batch(self, step: int) -> Sample:
        """What this process has in a step, counted from 0 through all epochs.

        Returns:
            image float32 [B, 3, H, W], disparity and mask float32 [B, H, W], B = `local_batch`.
        """
        batch = self.memory.arrays(self.augment.shapes(self.local_batch))
        share = np.arange(self.global_batch).reshape(len(self.datasets), -1, self.batch_size)
        places = step * self.global_batch + share[:, self.rank].ravel()
        for sample, place in zip(zip(*batch, strict=True), places.tolist(), strict=True):
            self._fill_place(sample, place)
        return batch

    def _fill_place(self, sample: Sample, place: int) -> None:
        turn, index, real = self._at(place)
        self._fill(sample, turn, index)
        if not real:
            for target in sample[1:]:
                target[:] = 0

    def _at(self, place: int) -> tuple[int, int, bool]:
        """(pass over its dataset, index of the pair, whether it counts) of a place."""
        step, rest = divmod(place, self.global_batch)
        dataset, slot = divmod(rest, self._share)
        turn, position = divmod(step * self._share + slot, self._lengths[dataset])
        order = self.order(dataset, turn)
        return turn, int(order[position % len(order)]), position < len(order)

    def sample(self, turn: int, index: int) -> Sample:
        """Pair `index` as it looks in pass `turn` over its dataset (counted from 0).

        It depends on these and the seed alone. An unreadable pair is noted in `errors` and gives
        zeros, an empty mask included; with `skip_bad` it is noted in `skipped`, and the next
        readable pair of its dataset takes its place.
        """
        sample = self.augment.empty()
        self._fill(sample, turn, int(index))
        return sample

    def _fill(self, sample: Sample, turn: int, index: int) -> None:
        for candidate in self._from(index):
            try:
                rng = np.random.default_rng((self.seed, turn, index))
                self.augment.fill(sample, self.open_(self.pairs[candidate]), rng)
                return
            except UserError as error:
                self._note(candidate, error)
                if self.errors:
                    break
        for target in sample:
            target[:] = 0

    def _from(self, index: int) -> Iterator[int]:
        """The pairs of one dataset, from `index` on and around."""
        members = self._members[self._dataset_of(index)]
        start = int(np.searchsorted(members, index))
        return (int(members[(start + i) % len(members)]) for i in range(len(members)))

    def _dataset_of(self, index: int) -> int:
        return self.datasets.index(self.pairs[index].source.name)

    def _note(self, index: int, error: UserError) -> None:
        """Keep the error as one that stops the run, or count it: past 1 % of its dataset, the count
        is an error, so the search for a replacement ends."""
        if not self.skip_bad:
            self.errors.append(error)
            return
        dataset = self._dataset_of(index)
        with self._lock:
            found = self._bad[dataset]
            found.setdefault(index, str(error))
            bad, total = len(found), len(self._members[dataset])
            if 100 * bad > total and not self.errors:
                name = f"{self.datasets[dataset]}: " if len(self.datasets) > 1 else ""
                self.errors.append(
                    UserError(
                        f"{name}{bad} of {total} images ({100 * bad / total:.1f} %) cannot be "
                        f"read, more than 1 %; first: {found[min(found)]}; mend or remove them"
                    )
                )

    @property
    def skipped(self) -> dict[Path, str]:
        """The image of each unreadable pair that was replaced so far -> why, naming the file."""
        with self._lock:
            found = sorted(item for bad in self._bad for item in bad.items())
        return {self.pairs[index].image: why for index, why in found}

    def order(self, dataset: int, turn: int) -> np.ndarray:
        """The indices of a dataset's pairs in pass `turn` (both from 0): int64 [N], read-only."""
        return self._orders[dataset](dataset, turn)

    def _shuffled(self, dataset: int, turn: int) -> np.ndarray:
        # No pair has an index of len(self) or more, so this stream is no sample's.
        rng = np.random.default_rng((self.seed, turn, len(self) + dataset))
        members = self._members[dataset]
        order = members[rng.permutation(len(members))]
        order.flags.writeable = False
        return order

    def batch_files(self, epoch: int, step: int) -> list[str]:
        """The images in a step (counted from 0) of an epoch, of all ranks, to name them."""
        first = (epoch * self.steps + step) * self.global_batch
        places = (self._at(place) for place in range(first, first + self.global_batch))
        return [str(self.pairs[index].image) for _, index, real in places if real]


class _Batches:
    """The batches of one process as MindSpore asks for them: whole, so that it need not copy
    samples together."""

    def __init__(self, data: TrainingData) -> None:
        self.data = data

    def __len__(self) -> int:
        return self.data.steps

    def __getitem__(self, step: int) -> Sample:
        return self.data.batch(int(step))

    def __deepcopy__(self, memo: dict) -> _Batches:
        """MindSpore copies a pipeline before it runs; workers and trainer share the data."""
        return self


class _Steps(ds.Sampler):
    """The steps from one on, epoch after epoch, counted through all epochs."""

    def __init__(self, steps: int, epoch: int, step: int) -> None:
        # MindSpore takes this for the length of every epoch, and checks it.
        super().__init__(num_samples=steps - step)
        self.steps = steps
        self.epoch = epoch
        self.step = step

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.steps
        self.epoch += 1
        return iter(range(first + self.step, first + self.steps))


def make_dataset(data: TrainingData, workers: int, epoch: int = 0, step: int = 0) -> ds.Dataset:
    """Batches of `data` in the order of `epoch`, then of the next, and so on.

    Columns: image float32 [B, 3, H, W], disparity and mask float32 [B, H, W], where B is
    `data.local_batch`: the images of the first dataset, then those of the second, and so on.

    Args:
        workers: threads, each of which makes whole batches. Decoders and OpenCV release the
            interpreter lock for most of their work; OpenCV's own threads are switched off.
        epoch: to begin with, counted from 0.
        step: to begin with, counted from 0. If it is not 0, the dataset is the rest of this epoch
            only: MindSpore wants all epochs of a dataset to be of one length.
    """
    runtime.opencv_threads_off()  # those of a resize cost a tenth more than they save
    # Devices copy their inputs in the background, when nothing may refer to an array any more.
    data.memory.reuse = ms.get_context("device_target") == "CPU"
    return ds.GeneratorDataset(
        _Batches(data),
        COLUMNS,
        sampler=_Steps(data.steps, epoch, step),
        num_parallel_workers=min(workers, os.cpu_count() or 1),  # MindSpore refuses more
        python_multiprocessing=False,
    )


if __name__ == "__main__":
    from src.data.mix_check import main  # a training has no use for it

    run_program(main)
