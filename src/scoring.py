"""Scores of a benchmark's predictions, by the paper's protocol.

The predictions come from a `Source`, a network or files. Worker threads read images ahead and score
predictions while it computes. Several processes each take every n-th batch: the batches, and with
them every bit of the results, are the same however many processes there are.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm.contrib.logging import logging_redirect_tqdm

from src.ahead import Early, pipelined
from src.data import transforms
from src.data.benchmarks import Benchmark, Sample
from src.data.transforms import Upsampling
from src.errors import UserError
from src.panels import write_panels
from src.report import write_report
from src.results import ResultFiles
from src.runlog import progress_bar
from src.summary import NothingCountsError, Result, Row, summarise

LOG = logging.getLogger("midas")


@dataclass(frozen=True)
class Options:
    """How an evaluation runs.

    Attributes:
        batch_size: images of one size that go through the network together.
        workers: threads that read and score.
        upsampling: of predictions to the size of the ground truth.
        skip_damaged: go on after an image that cannot be read, and list it; else stop.
        resume: continue what was interrupted.
        rank, ranks: this process's number, and how many there are.
    """

    batch_size: int = 1
    workers: int = 2
    upsampling: Upsampling = "bilinear"
    skip_damaged: bool = False
    resume: bool = False
    rank: int = 0
    ranks: int = 1


class Source(Protocol):
    """Where the predictions of a benchmark's images come from."""

    def settings(self, benchmark: Benchmark) -> dict[str, Any]:
        """What the predictions depend on, for results.json."""

    def batches(self, benchmark: Benchmark) -> list[tuple[int, ...]]:
        """All images by their indices, those that are predicted together in one batch."""

    def prepare(self, benchmark: Benchmark, index: int, image: np.ndarray) -> np.ndarray:
        """What `run` needs of one image, uint8 [H, W, 3] RGB. Called from several threads.

        Raises:
            UserError: there is no prediction of this image.
        """

    def run(self, prepared: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """The predictions of images of one batch: float32 [h, w] of any size, inverse depth.

        Raises:
            UserError: a prediction is not finite.
        """


@dataclass(frozen=True)
class _Item:
    """An image that was read, without its pixels: what the source prepared took their place."""

    sample: Sample
    height: int
    width: int
    prepared: np.ndarray


def score_all(
    source: Source,
    benchmarks: Sequence[Benchmark],
    files: ResultFiles,
    options: Options,
    barrier: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Score benchmarks one after the other into val.json and its folder.

    Args:
        barrier: waits for the other processes.

    Returns:
        The results; in processes other than the first, nothing.

    Raises:
        UserError: as in `score`, or what is to be resumed had other settings.
    """
    with files.locked() if options.rank == 0 else nullcontext():
        return _score_all(source, benchmarks, files, options, barrier)


def _score_all(
    source: Source,
    benchmarks: Sequence[Benchmark],
    files: ResultFiles,
    options: Options,
    barrier: Callable[[], None],
) -> list[Result]:
    if options.rank == 0:
        for benchmark in benchmarks:
            settings = describe(source, benchmark, options.upsampling)
            files.prepare(benchmark.name, settings, len(benchmark), options.resume)
    barrier()  # from here on, all processes see the same files
    problems = []
    for benchmark in benchmarks:
        try:
            if files.is_open(benchmark.name):
                _score_one(source, benchmark, files, options)
        except NothingCountsError as error:
            LOG.error("%s", error)
            problems.append(str(error))
            continue
        if options.rank == 0:
            _write_report(files.folder)
    if problems:
        raise UserError("; ".join(problems))
    return [files.result(benchmark.name) for benchmark in benchmarks] if options.rank == 0 else []


def _write_report(folder: Path) -> None:
    """The page, unless files of another benchmark's earlier evaluation are gone or damaged."""
    try:
        write_report(folder)
    except UserError as error:
        LOG.warning("no report.html: %s", error)


def describe(source: Source, benchmark: Benchmark, upsampling: Upsampling) -> dict[str, Any]:
    """What the errors depend on, for results.json.

    Where the source has a setting of the benchmark's protocol, its own holds.
    """
    settings = source.settings(benchmark)
    return {**settings, "upsampling": upsampling, **benchmark.settings(), **settings}


def _score_one(source: Source, benchmark: Benchmark, files: ResultFiles, options: Options) -> None:
    """This process's share of a benchmark; the first process puts all shares together."""
    name, rank = benchmark.name, options.rank
    there = files.rows(name)
    share = source.batches(benchmark)[rank :: options.ranks]
    good = {id_ for id_, row in there.items() if not row.skipped}
    batches = [batch for batch in share if any(benchmark.ids[i] not in good for i in batch)]
    if good:
        LOG.info("%s: continues after %d of %d images", name, len(good), len(benchmark))
    with files.append(name, rank) as writer:
        score(source, benchmark, batches, options, writer.add)
    files.mark_done(name, rank)
    if rank > 0:
        return
    files.wait(name, options.ranks)
    rows = files.rows(name)
    ordered = [rows[id_] for id_ in benchmark.ids]
    result = summarise(name, benchmark.metric, ordered, files.settings(name), benchmark.root)

    def predict(index: int, image: np.ndarray) -> np.ndarray:
        (prediction,) = source.run([source.prepare(benchmark, index, image)])
        return transforms.resize_prediction(prediction, *image.shape[:2], options.upsampling)

    files.finish(result, ordered, write_panels(predict, benchmark, ordered, files.folder))


def score(
    source: Source,
    benchmark: Benchmark,
    batches: Sequence[Sequence[int]],
    options: Options,
    record: Callable[[Row], None],
) -> None:
    """Align and score the predictions of images of a benchmark.

    Args:
        batches: some of those of the source.
        record: gets the row of each image as soon as it is known, in any order.

    Raises:
        UserError: an image cannot be read, has no valid pixel or no prediction, unless
            `skip_damaged`; or a prediction is not finite.
    """
    scoring = _Scoring(source, benchmark, options)
    rows = pipelined(batches, scoring.read, scoring.run, scoring.finish, options.workers)
    bar = progress_bar(desc=benchmark.name, total=sum(map(len, batches)), unit="image")
    with logging_redirect_tqdm([LOG]), bar, closing(rows):
        total, count = 0.0, 0
        for row in rows:
            record(row)
            bar.update()
            if not row.skipped:
                total, count = total + row.errors[benchmark.metric], count + 1
                text = f"{benchmark.metric} {total / count:.4g}"
                bar.set_postfix_str(text, refresh=False)


@dataclass(frozen=True)
class _Scoring:
    """What a benchmark's images go through, see `pipelined`."""

    source: Source
    benchmark: Benchmark
    options: Options

    def read(self, index: int) -> _Item | Early[Row]:
        """A sample ready for `run`, or the row of a damaged one."""
        try:
            sample = self.benchmark.read(index)
            prepared = self.source.prepare(self.benchmark, index, sample.image)
        except UserError as error:
            if not self.options.skip_damaged:
                raise
            LOG.warning("skipped: %s", error)
            return Early(Row(self.benchmark.ids[index], 0, 0, {}, " ".join(str(error).split())))
        height, width = sample.image.shape[:2]
        without_image = replace(sample, image=np.broadcast_to(np.uint8(0), sample.image.shape))
        return _Item(without_image, height, width, prepared)

    def run(self, items: Sequence[_Item]) -> Sequence[np.ndarray]:
        return self.source.run([item.prepared for item in items])

    def finish(self, item: _Item, prediction: np.ndarray) -> Row:
        resized = transforms.resize_prediction(
            prediction, item.height, item.width, self.options.upsampling
        )
        errors = self.benchmark.score(resized, item.sample)
        return Row(item.sample.id, item.height, item.width, errors)


def words(numbers: Sequence[float]) -> str:
    """Numbers in six digits, for settings."""
    return " ".join(f"{number:g}" for number in numbers)


def sha256(path: Path) -> str:
    """Of a file's content, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
