"""The validation pass: loss and AbsRel of the network on held-out pairs, during training."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from src import metrics, runtime
from src.data import transforms
from src.data.mixdata import Pair
from src.data.pairs import read_pair
from src.data.transforms import Crop
from src.errors import UserError
from src.loss import ScaleShiftInvariantLoss
from src.midas_net import MidasNet
from src.visualize import colourize, side_by_side

LOG = logging.getLogger("midas")


class Scores(NamedTuple):
    """What a validation pass found.

    Attributes:
        loss: mean over the images of the training loss.
        abs_rel: mean of AbsRel over the images with valid pixels; NaN if there are none.
        images: how many were validated, by all ranks together.
    """

    loss: float
    abs_rel: float
    images: int


class _Sample(NamedTuple):
    """A held-out pair at the network's size."""

    image: np.ndarray  # float32 [3, H, W], normalised
    disparity: np.ndarray  # float32 [H, W], as it was read; NaN where invalid
    picture: np.ndarray  # float32 [H, W, 3], RGB in about [0, 1]


class _Forward(nn.Cell):
    """The network and its loss as a graph of their own, so that the train step's stays compiled."""

    def __init__(self, network: nn.Cell, loss: nn.Cell) -> None:
        super().__init__(auto_prefix=False)  # the network's parameters keep their names
        self.network = network
        self.loss = loss

    def construct(self, image: Tensor, disparity: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        prediction = self.network(image).astype(ms.float32)
        return prediction, self.loss(prediction, disparity, mask)[0]


class Validator:
    """Validates a network that is being trained, and leaves it as it was.

    Each pair is cut to the largest centred crop of the network's aspect ratio
    (`keep_aspect_ratio`; else it is whole) and resized as for training. Nothing is random. All
    batches have one shape, so one graph is compiled, at the first pass.

    Args:
        network: in training or evaluation mode; it is evaluated with its moving statistics.
        loss: that of the training.
        pairs: the held-out ones of all ranks, at least one.
        height, width: of the network's input, in pixels.
        mean, std: normalisation of RGB in [0, 1].
        keep_aspect_ratio: whether a crop keeps images from being stretched.
        batch_size: images that go through the network together.
        rank, ranks: this process takes every ranks-th pair, from the rank-th on.
        total: float64 [N] of this process -> its sum over all of them. Every rank must be in `run`
            at the same time.
        skip_bad: leave out pairs that cannot be read, with a line in the log; else they are errors.
    """

    def __init__(
        self,
        network: MidasNet,
        loss: ScaleShiftInvariantLoss,
        pairs: Sequence[Pair],
        height: int,
        width: int,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        keep_aspect_ratio: bool,
        batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        total: Callable[[np.ndarray], np.ndarray] = lambda sums: sums,
        skip_bad: bool = False,
    ) -> None:
        self.network = network
        self.forward = _Forward(network, loss)
        self.pairs = pairs
        self.size = height, width
        self.mean, self.std = mean, std
        self.keep_aspect_ratio = keep_aspect_ratio
        self.batch_size = batch_size
        self.rank, self.ranks = rank, ranks
        self.total = total
        self.skip_bad = skip_bad

    def run(self) -> Scores:
        """Validate all pairs; every rank gets the same scores.

        AbsRel is that of the benchmark protocol (Ranftl et al., TPAMI 2022, section 6) at the
        network's size: the prediction is fitted to the disparity by least squares, clamped at a
        cap and inverted, and compared with depth = 1 / disparity where that is positive. The cap is
        the image's largest depth. Targets whose scale and shift are unknown, such as ReDWeb's, have
        no depth in this sense: with them, AbsRel compares one epoch with another, not with a
        benchmark.

        Raises:
            UserError: a file is unreadable (with `skip_bad` all of them are), or a prediction is
                not finite. Where there are several ranks, all of them raise.
        """
        error: UserError | None = None
        try:
            sums = self._sums()
        except UserError as problem:
            error, sums = problem, np.array([0.0, 0.0, 0.0, 0.0, 1.0])
        # A rank that stopped here alone would leave the others waiting for its sums.
        loss, images, abs_rel, measured, failed = self.total(sums)
        if error is not None:
            raise error
        if failed:
            raise UserError("validation: another rank cannot go on; its log says which file is why")
        if not images:
            raise UserError("validation: none of the held-out images can be read; the log says why")
        mean_abs_rel = float(abs_rel / measured) if measured else np.nan
        return Scores(float(loss / images), mean_abs_rel, int(images))

    def examples(self, count: int) -> list[np.ndarray]:
        """Pictures of up to `count` pairs, at least one, spread evenly over all of them.

        Returns:
            uint8 [H, W', 3] RGB: photograph, target and prediction side by side, bright is close,
            grey is invalid. Every rank may ask for them alone.

        Raises:
            UserError: as in `run`.
        """
        places = np.linspace(0, len(self.pairs) - 1, min(count, len(self.pairs))).round()
        chosen = [self.pairs[int(place)] for place in places]
        return [
            side_by_side(
                [
                    (np.clip(sample.picture, 0, 1) * 255).round().astype(np.uint8),
                    colourize(sample.disparity),
                    colourize(prediction),
                ]
            )
            for batch in self._batches(chosen, -(-len(chosen) // self.batch_size))
            for sample, prediction in zip(batch, self._predict(batch)[0], strict=False)
        ]

    def _sums(self) -> np.ndarray:
        """float64 [5] over this rank's images: losses and how many, AbsRels and how many, and 0."""
        sums = np.zeros(5)
        # The same number of batches for every rank: none comes to `total` long before the others.
        count = -(-len(self.pairs) // (self.ranks * self.batch_size))
        for batch in self._batches(self.pairs[self.rank :: self.ranks], count):
            predictions, loss = self._predict(batch)
            sums[:2] += loss, len(batch)
            for sample, prediction in zip(batch, predictions, strict=False):
                if (sample.disparity > 0).any():
                    sums[2:4] += _abs_rel(prediction, sample.disparity), 1
        return sums

    def _batches(self, pairs: Sequence[Pair], count: int) -> Iterator[list[_Sample]]:
        """`count` batches of the pairs in order, short or empty where pairs are left out or run
        out; the next one is read while one is used."""
        parts = [pairs[i * self.batch_size : (i + 1) * self.batch_size] for i in range(count)]
        with ThreadPoolExecutor(min(self.batch_size, os.cpu_count() or 1)) as pool:
            ahead = pool.map(self._read, parts[0])
            for part in [*parts[1:], []]:
                batch = list(ahead)
                ahead = pool.map(self._read, part)
                yield [sample for sample in batch if sample is not None]

    def _read(self, pair: Pair) -> _Sample | None:
        try:
            image, disparity = read_pair(pair)
        except UserError as error:
            if not self.skip_bad:
                raise
            LOG.warning("validation without %s: %s", pair.image, error)
            return None
        if self.keep_aspect_ratio:
            box = centre_crop(*disparity.shape, self.size[1] / self.size[0])
            image, disparity = transforms.crop(image, box), transforms.crop(disparity, box)
        picture = transforms.resize_image(image, *self.size)
        disparity = transforms.resize_nearest(disparity, *self.size)
        return _Sample(transforms.normalize(picture, self.mean, self.std), disparity, picture)

    def _predict(self, batch: Sequence[_Sample]) -> tuple[np.ndarray, float]:
        """Predictions float32 [batch_size, H, W] and the sum of the losses of the batch.

        Black images without a valid pixel fill it up; they add 0 to the loss.
        """
        image = np.zeros((self.batch_size, 3, *self.size), np.float32)
        disparity = np.zeros((self.batch_size, *self.size), np.float32)
        mask = np.zeros_like(disparity)
        for place, sample in enumerate(batch):
            valid = np.isfinite(sample.disparity)
            image[place], mask[place] = sample.image, valid
            disparity[place] = transforms.unit_range(sample.disparity, valid)
        with _evaluating(self.network):
            prediction, loss = self.forward(*(Tensor(part) for part in (image, disparity, mask)))
        runtime.restore_interrupt()
        prediction = prediction.asnumpy()
        if not np.isfinite(prediction).all():
            raise UserError(
                "validation: the prediction is not finite, so the training has diverged; lower the "
                "learning rate, or check model_weights"
            )
        return prediction, float(loss.asnumpy()) * self.batch_size


def centre_crop(height: int, width: int, aspect: float) -> Crop:
    """The largest rectangle with this width / height in the middle of height x width pixels."""
    crop_width = max(1, round(min(width, height * aspect)))
    crop_height = max(1, round(min(height, width / aspect)))
    return Crop((height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width)


def _abs_rel(prediction: np.ndarray, disparity: np.ndarray) -> float:
    """AbsRel of a prediction [H, W]; at least one disparity is positive. See `Validator.run`."""
    mask = disparity > 0
    depth = 1 / np.where(mask, disparity, 1).astype(np.float64)
    aligned = metrics.aligned_depth(prediction, depth, mask, cap=float(depth[mask].max()))
    return metrics.abs_rel([(aligned[mask], depth[mask])])


@contextmanager
def _evaluating(network: nn.Cell) -> Iterator[None]:
    """Evaluation mode, then for each cell the mode that it was in."""
    cells = [(cell, cell.training, cell.phase) for _, cell in network.cells_and_names()]
    network.set_train(False)
    try:
        yield
    finally:
        for cell, training, phase in cells:
            cell.add_flags(training=training).phase = phase
