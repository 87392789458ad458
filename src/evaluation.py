"""Zero-shot evaluation of a network on the benchmarks.

Images of one size go through it in batches; `src.scoring` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from src.ahead import batches_of_equal
from src.data.benchmarks import Benchmark
from src.errors import UserError
from src.predictor import Predictor
from src.results import ResultFiles
from src.runlog import progress_bar
from src.scoring import Options, score_all, sha256, words
from src.summary import Result


def evaluate_all(
    predictor: Predictor,
    benchmarks: Sequence[Benchmark],
    files: ResultFiles,
    options: Options,
    barrier: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Evaluate benchmarks one after the other, as `score_all` does."""
    return score_all(
        FromNetwork(predictor, options.batch_size), benchmarks, files, options, barrier
    )


class FromNetwork:
    """A network as the source of predictions, see `src.scoring.Source`.

    Args:
        batch_size: as in `Options`; a file that is made for another takes that.
    """

    def __init__(self, predictor: Predictor, batch_size: int) -> None:
        self.predictor = predictor
        self.batch_size = predictor.fixed_batch or batch_size

    @cached_property
    def _weights(self) -> dict[str, str]:
        path = self.predictor.path
        return {"checkpoint": str(path), "checkpoint_sha256": sha256(path)}

    @property
    def _runtime(self) -> dict[str, str]:
        """What changes the last digits: what computes an .onnx, and in which precision; of a
        checkpoint, whether its batch norm is folded."""
        if self.predictor.path.suffix == ".onnx":
            return {"runtime": self.predictor.runtime}
        return {"batch_norm": "folded"} if self.predictor.fold_bn else {}

    def settings(self, benchmark: Benchmark) -> dict[str, Any]:
        """The weights by their hash, the network's size and normalisation, and what else changes
        digits, see `_runtime`."""
        mean, std = words(self.predictor.mean), words(self.predictor.std)
        return {
            **self._weights,
            "dataset": str(benchmark.root.resolve()),
            "network_size": self.predictor.fixed_size_text or str(benchmark.resize.width),
            "normalisation": f"mean {mean}, std {std}",
            "batch_size": self.batch_size,
            **self._runtime,
        }

    def batches(self, benchmark: Benchmark) -> list[tuple[int, ...]]:
        return plan_batches(self.predictor, benchmark, self.batch_size)

    def prepare(self, benchmark: Benchmark, index: int, image: np.ndarray) -> np.ndarray:
        return self.predictor.prepare(image, benchmark.resize)

    def run(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        return self.predictor.run(prepared, self.batch_size)


def plan_batches(
    predictor: Predictor, benchmark: Benchmark, batch_size: int
) -> list[tuple[int, ...]]:
    """The images that go through the network together: of one input size, in their order.

    What a batch holds changes the last bits of a prediction, so it must not depend on how the work
    is split.
    """
    if batch_size == 1:
        return [(index,) for index in range(len(benchmark))]
    bar = progress_bar(range(len(benchmark)), desc=f"{benchmark.name}: image sizes", unit="image")
    return batches_of_equal((_input_size(predictor, benchmark, index) for index in bar), batch_size)


def _input_size(predictor: Predictor, benchmark: Benchmark, index: int) -> tuple[int, int] | None:
    """(height, width) of the network's input; None for a damaged file, which `read` reports."""
    try:
        return predictor.input_size(*benchmark.image_size(index), benchmark.resize)
    except UserError:
        return None
