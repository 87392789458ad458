"""Zero-shot evaluation on the benchmarks, by the paper's protocol, into val.json."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.contrib.logging import logging_redirect_tqdm

from src import metrics
from src.data.benchmarks import BENCHMARKS, Benchmark, Sample
from src.data.paths import resolve_data_path
from src.errors import UserError
from src.image_io import write_bytes
from src.predictor import Predictor
from src.runlog import progress_bar

LOG = logging.getLogger("midas")


@dataclass(frozen=True)
class Result:
    """Errors of one benchmark, each the mean over its images.

    Attributes:
        error: by the benchmark's own metric: a ratio for abs_rel, percent for bad_pixel_percent.
        abs_rel: ratio.
        row_abs_rel: AbsRel of a prediction that only knows the image row, aligned the same way.
        images: how many were evaluated.
        skipped: how many have no valid pixel.
    """

    name: str
    metric: str
    error: float
    abs_rel: float
    row_abs_rel: float
    images: int
    skipped: int


def open_benchmarks(
    data_name: str, root: str, paths: Mapping[str, str], size: int
) -> list[Benchmark]:
    """The benchmarks that `data_name` asks for, their folders checked.

    Args:
        data_name: one name, several by comma, or `all`: those whose folder exists.
        root: train_data_dir.
        paths: name -> datapath_*, looked up under `root` first.
        size: bound of the resize rules, 384 in the protocol.

    Raises:
        UserError: an unknown name, a missing or badly laid out folder, or `all` of nothing.
    """
    known = {name.lower(): name for name in BENCHMARKS}
    names = list(known) if data_name.lower() == "all" else data_name.split(",")
    benchmarks = []
    for name in (known.get(name.strip().lower(), name) for name in names):
        if name not in BENCHMARKS:
            raise UserError(
                f"data_name: got {name!r}; expected {', '.join(BENCHMARKS)}, several by comma, or "
                "all (ETH3D, DIW and NYU are not evaluated yet)"
            )
        try:
            folder = resolve_data_path(root, paths[name], f"datapath_{name}")
        except UserError as error:
            if data_name.lower() != "all":
                raise
            LOG.info("skipped %s", error)
            continue
        benchmarks.append(BENCHMARKS[name](folder, size))
    if not benchmarks:
        raise UserError(f"data_name: none of {', '.join(BENCHMARKS)} is there; set train_data_dir")
    return benchmarks


def evaluate(predictor: Predictor, benchmark: Benchmark) -> Result:
    """Predict, align and score every image of a benchmark.

    Raises:
        UserError: a file is damaged, no image has a valid pixel, or a prediction is not finite.
    """
    errors = []
    count = len(benchmark)
    bar = progress_bar(benchmark.samples(), desc=benchmark.name, total=count, unit="image")
    with logging_redirect_tqdm([LOG]):
        for sample in bar:
            if sample.mask.any():
                errors.append(_score(predictor, benchmark, sample))
                mean = np.mean(errors, axis=0)[0]
                bar.set_postfix_str(f"{benchmark.metric} {mean:.4g}", refresh=False)
    if not errors:
        raise UserError(f"{benchmark.root}: no depth map with a valid pixel")
    error, abs_rel, row_abs_rel = np.mean(errors, axis=0).tolist()
    skipped = count - len(errors)
    return Result(
        benchmark.name, benchmark.metric, error, abs_rel, row_abs_rel, len(errors), skipped
    )


def _score(predictor: Predictor, benchmark: Benchmark, sample: Sample) -> tuple[float, ...]:
    """(the benchmark's error, AbsRel, AbsRel of the row baseline) of one image."""
    prediction = predictor.predict(sample.image, benchmark.resize)
    truth = (sample.depth, sample.mask)
    depth = metrics.aligned_depth(prediction, *truth, benchmark.cap)
    baseline = metrics.row_baseline(*sample.depth.shape)
    row_depth = metrics.aligned_depth(baseline, *truth, benchmark.cap)
    return (
        getattr(metrics, benchmark.metric)(depth, *truth),
        metrics.abs_rel(depth, *truth),
        metrics.abs_rel(row_depth, *truth),
    )


def read_results(path: Path) -> dict[str, float]:
    """What val.json holds, {} if there is none yet.

    Raises:
        UserError: the file is something else, which must not be overwritten, or its folder is
            missing.
    """
    if not path.parent.is_dir():
        raise UserError(f"ann_file: {path.parent} is no folder; create it first")
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or not all(
        isinstance(value, (int, float)) for value in content.values()
    ):
        raise UserError(f"ann_file: {path} exists and is no result of an evaluation; move it away")
    return content


def write_results(path: Path, results: list[Result]) -> None:
    """Merge the benchmarks' errors into val.json; other benchmarks' results stay."""
    merged = read_results(path) | {result.name: round(result.error, 6) for result in results}
    write_bytes(path, f"{json.dumps(merged)}\n".encode())


def table(results: list[Result], size: str) -> str:
    """The results as text: percent for bad pixels, ratios otherwise.

    Args:
        results: of the benchmarks that were evaluated.
        size: of the network's input in words, for the last line.
    """
    form = "{:<12} {:>7} {:>16} {:>8} {:>22}"
    lines = [form.format("benchmark", "images", "error", "AbsRel", "AbsRel of the row only")]
    for result in results:
        percent = result.metric == "bad_pixel_percent"
        error = f"{result.error:.3f} % > 1.25" if percent else f"{result.error:.4f} AbsRel"
        against = _against_row(result.abs_rel, result.row_abs_rel)
        lines.append(
            form.format(result.name, result.images, error, f"{result.abs_rel:.4f}", against)
        )
    if len(results) > 1:
        images = [result.images for result in results]
        mean, row = (
            float(np.average([getattr(result, name) for result in results], weights=images))
            for name in ("abs_rel", "row_abs_rel")
        )
        against = _against_row(mean, row)
        lines.append(form.format("all images", sum(images), "", f"{mean:.4f}", against))
    lines += [
        f"{result.name}: {result.skipped} images have no valid pixel and do not count"
        for result in results
        if result.skipped
    ]
    lines.append(f"network size {size} (384 in the protocol), predictions resized bilinearly")
    return "\n".join(lines)


def _against_row(abs_rel: float, row_abs_rel: float) -> str:
    return f"{row_abs_rel:.4f} ({abs_rel / row_abs_rel - 1:+.0%})"
