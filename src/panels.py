"""Pictures of the best, the median and the worst image of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src import metrics, visualize
from src.data.benchmarks import Benchmark, DepthSample, Sample
from src.errors import UserError
from src.image_io import write_image
from src.summary import Row

FOLDER = "panels"


def write_panels(
    predict: Callable[[int, np.ndarray], np.ndarray],
    benchmark: Benchmark,
    rows: Sequence[Row],
    folder: Path,
) -> list[dict[str, Any]]:
    """Predict three images again and write panels/<benchmark>-<which>-<what>.jpg for each.

    Args:
        predict: from an image's index and the image, uint8 [H, W, 3] RGB, to its inverse depth,
            float32 [H, W].
        rows: of the whole benchmark in its order.
        folder: that of results.json.

    Returns:
        What results.json says of them.
    """
    try:
        (folder / FOLDER).mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder / FOLDER}: no folder for pictures ({error.strerror})") from None
    entries = []
    for which, index in choose(rows, benchmark.metric).items():
        pictures = []
        sample = benchmark.read(index)
        prediction = predict(index, sample.image)
        for what, panel in _panels(benchmark, sample, prediction).items():
            name = f"{FOLDER}/{benchmark.name}-{which}-{what}.jpg"
            write_image(folder / name, panel.picture)
            pictures.append({"file": name, "caption": panel.caption})
        row = rows[index]
        error = row.errors[benchmark.metric]
        entries.append({"rank": which, "id": row.id, "error": error, "pictures": pictures})
    return entries


def choose(rows: Sequence[Row], metric: str) -> dict[str, int]:
    """best, median and worst -> index of the row; an image has one place, the best first."""
    counted = [index for index, row in enumerate(rows) if not row.skipped]
    order = sorted(counted, key=lambda index: rows[index].errors[metric])
    places = {"best": order[0], "worst": order[-1], "median": order[len(order) // 2]}
    chosen: dict[str, int] = {}
    for which, index in places.items():
        if index not in chosen.values():
            chosen[which] = index
    return {which: chosen[which] for which in ("best", "median", "worst") if which in chosen}


def _panels(
    benchmark: Benchmark, sample: Sample, prediction: np.ndarray
) -> dict[str, visualize.Panel]:
    if isinstance(sample, DepthSample):
        depth = metrics.aligned_depth(prediction, sample.depth, sample.mask, benchmark.cap)
        return visualize.depth_panels(sample.image, sample.depth, sample.mask, depth)
    return visualize.ordinal_panels(sample.image, sample.closer, sample.farther, prediction)
