"""A predictor without a network and a benchmark without files, to test what is around them."""

from __future__ import annotations

import math
import time
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from src.data.benchmarks.base import DepthBenchmark, DepthSample
from src.data.transforms import ResizeRule
from src.errors import UserError


class PowerCutError(Exception):
    """What a stand-in raises in place of a power cut."""


def red(input_: np.ndarray) -> np.ndarray:
    """The red channel of an input [3, h, w]."""
    return input_[0]


class StandIn:
    """Has the interface of `Predictor`, and predicts a function of the network's input.

    Even images are halved for the network, others doubled: then bilinear weights are exact in
    float32. The input is every second pixel, or every pixel four times, unnormalised.

    Args:
        path: stands for the weights.
        of_input: float32 [3, h, w] -> float32 [h, w].
        stops_after: so many inputs, then PowerCutError is raised.
        by_batch: what is predicted depends a little on the whole batch, as in a real network.
    """

    fixed_size_text = ""
    fixed_batch: int | None = None
    fold_bn = False
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(
        self,
        path: Path,
        of_input: Callable[[np.ndarray], np.ndarray] = red,
        stops_after: int | None = None,
        by_batch: bool = False,
    ) -> None:
        self.path = path
        self.of_input, self.stops_after, self.by_batch = of_input, stops_after, by_batch
        self.batches: list[tuple[int, ...]] = []  # shapes of what went through the network
        self.rules: list[ResizeRule] = []

    @property
    def inputs(self) -> int:
        """How many inputs went through the network."""
        return sum(shape[0] for shape in self.batches)

    def input_size(self, height: int, width: int, rule: ResizeRule) -> tuple[int, int]:
        if height % 2 == 0 and width % 2 == 0:
            return height // 2, width // 2
        return 2 * height, 2 * width

    def prepare(self, image: np.ndarray, rule: ResizeRule) -> np.ndarray:
        assert image.dtype == np.uint8
        assert image.shape[2:] == (3,)
        self.rules.append(rule)
        height, width = self.input_size(*image.shape[:2], rule)
        rows = np.arange(height) * image.shape[0] // height
        columns = np.arange(width) * image.shape[1] // width
        return image[rows][:, columns].transpose(2, 0, 1).astype(np.float32)

    def run(self, inputs: Sequence[np.ndarray], batch_size: int = 1) -> np.ndarray:
        assert 1 <= len(inputs) <= batch_size
        batch = np.stack(inputs)
        if self.stops_after is not None and self.inputs + len(batch) > self.stops_after:
            raise PowerCutError
        self.batches.append(batch.shape)
        predictions = np.stack([self.of_input(input_) for input_ in batch])
        return predictions + batch[:, 0].mean(axis=0) / 64 if self.by_batch else predictions

    def predict(
        self, image: np.ndarray, rule: ResizeRule, upsampling: str, batch_size: int
    ) -> np.ndarray:
        prediction = self.run([self.prepare(image, rule)], batch_size)[0]
        return resampled(prediction, *image.shape[:2], upsampling).astype(np.float32)


def resampled(values: np.ndarray, height: int, width: int, method: str) -> np.ndarray:
    """float64 [height, width] by loops, pixels' centres at .5, the border's values beyond it.

    The bicubic kernel is that of Keys (1981) with a = -0.75, as OpenCV documents it.
    """
    result = np.zeros((height, width))
    for v in range(height):
        for u in range(width):
            for y, weight_y in _taps(v, values.shape[0], height, method):
                for x, weight_x in _taps(u, values.shape[1], width, method):
                    result[v, u] += weight_y * weight_x * float(values[y, x])
    return result


def _taps(place: int, length: int, new_length: int, method: str) -> list[tuple[int, float]]:
    """(index, weight) of the values of one dimension that a new one is made of."""
    centre = (place + 0.5) * length / new_length - 0.5
    reach, kernel = {"bilinear": (1, _triangle), "bicubic": (2, _keys)}[method]
    indices = range(math.floor(centre) - reach + 1, math.floor(centre) + reach + 1)
    return [(min(max(i, 0), length - 1), kernel(abs(centre - i))) for i in indices]


def _triangle(distance: float) -> float:
    return 1 - distance


def _keys(distance: float, a: float = -0.75) -> float:
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a


class MadeUp(DepthBenchmark):
    """Images of these shapes with drawn content; image i has the id `group/0i`.

    Args:
        shapes: of the images, in their order.
        damaged: indices of images that cannot be read.
        score_seconds: how long it takes to score one.

    Attributes:
        reads: index -> how often the image was read.
        alive, most_alive: name -> arrays in memory, now and at most; of images and of depth maps.
    """

    name = "MadeUp"
    metric = "abs_rel"
    cap = 80.0

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        damaged: Sequence[int] = (),
        score_seconds: float = 0,
    ) -> None:
        super().__init__(64)
        self.root = Path("made up")
        self.shapes, self.damaged, self.score_seconds = shapes, set(damaged), score_seconds
        self.ids = [f"group/{index:03d}" for index in range(len(shapes))]
        self.reads: Counter[int] = Counter()
        self.alive: Counter[str] = Counter()
        self.most_alive: Counter[str] = Counter()

    def image_size(self, index: int) -> tuple[int, int]:
        return self.shapes[index]

    def read(self, index: int) -> DepthSample:
        self.reads[index] += 1
        if index in self.damaged:
            raise UserError(f"{self.ids[index]}.png: truncated or damaged")
        rng = np.random.default_rng(index)
        image = rng.integers(0, 256, (*self.shapes[index], 3), dtype=np.uint8)
        depth = rng.uniform(1, 70, self.shapes[index]).astype(np.float32)
        self._count("image", image)
        self._count("depth", depth)
        return DepthSample(self.ids[index], image, depth, np.ones(depth.shape, bool))

    def score(self, prediction: np.ndarray, sample: DepthSample) -> dict[str, float]:
        time.sleep(self.score_seconds)
        return super().score(prediction, sample)

    def _count(self, name: str, array: np.ndarray) -> None:
        self.alive[name] += 1
        self.most_alive[name] = max(self.most_alive[name], self.alive[name])
        weakref.finalize(array, self.alive.subtract, [name])
