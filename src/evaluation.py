"""Zero-shot evaluation on the benchmarks, by the paper's protocol.

Worker threads read images ahead and score predictions while the network computes; images of one
size go through it in batches. Several processes each take every n-th batch: the batches, and with
them every bit of the results, are the same however many processes there are.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm.contrib.logging import logging_redirect_tqdm

from src.data import transforms
from src.data.benchmarks import Benchmark, Sample
from src.data.transforms import Upsampling
from src.errors import UserError
from src.panels import write_panels
from src.predictor import Predictor
from src.report import write_report
from src.results import ResultFiles
from src.runlog import progress_bar
from src.summary import NothingCountsError, Result, Row, summarise

LOG = logging.getLogger("midas")
T = TypeVar("T")


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


@dataclass(frozen=True)
class _Item:
    """An image that was read, without its pixels: the network's input took their place."""

    sample: Sample
    height: int
    width: int
    input: np.ndarray


def evaluate_all(
    predictor: Predictor,
    benchmarks: Sequence[Benchmark],
    files: ResultFiles,
    options: Options,
    barrier: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Evaluate benchmarks one after the other into val.json and its folder.

    Args:
        barrier: waits for the other processes.

    Returns:
        The results; in processes other than the first, nothing.

    Raises:
        UserError: as in `evaluate`, or what is to be resumed had other settings.
    """
    with files.locked() if options.rank == 0 else nullcontext():
        return _evaluate_all(predictor, benchmarks, files, options, barrier)


def _evaluate_all(
    predictor: Predictor,
    benchmarks: Sequence[Benchmark],
    files: ResultFiles,
    options: Options,
    barrier: Callable[[], None],
) -> list[Result]:
    if options.rank == 0:
        weights = {"checkpoint": str(predictor.path), "checkpoint_sha256": _sha256(predictor.path)}
        for benchmark in benchmarks:
            settings = weights | describe(predictor, benchmark, options)
            files.prepare(benchmark.name, settings, len(benchmark), options.resume)
    barrier()  # from here on, all processes see the same files
    problems = []
    for benchmark in benchmarks:
        try:
            if files.is_open(benchmark.name):
                _evaluate_one(predictor, benchmark, files, options)
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


def describe(predictor: Predictor, benchmark: Benchmark, options: Options) -> dict[str, Any]:
    """What the errors depend on besides the weights, for results.json."""
    return {
        "dataset": str(benchmark.root.resolve()),
        "network_size": predictor.fixed_size_text or str(benchmark.resize.width),
        "normalisation": f"mean {_words(predictor.mean)}, std {_words(predictor.std)}",
        "batch_size": options.batch_size,
        "upsampling": options.upsampling,
        **benchmark.settings(),
    }


def _evaluate_one(
    predictor: Predictor, benchmark: Benchmark, files: ResultFiles, options: Options
) -> None:
    """This process's share of a benchmark; the first process puts all shares together."""
    name, rank = benchmark.name, options.rank
    there = files.rows(name)
    share = plan_batches(predictor, benchmark, options.batch_size)[rank :: options.ranks]
    good = {id_ for id_, row in there.items() if not row.skipped}
    batches = [batch for batch in share if any(benchmark.ids[i] not in good for i in batch)]
    if good:
        LOG.info("%s: continues after %d of %d images", name, len(good), len(benchmark))
    with files.append(name, rank) as writer:
        evaluate(predictor, benchmark, batches, options, writer.add)
    files.mark_done(name, rank)
    if rank > 0:
        return
    files.wait(name, options.ranks)
    rows = files.rows(name)
    ordered = [rows[id_] for id_ in benchmark.ids]
    result = summarise(name, benchmark.metric, ordered, files.settings(name), benchmark.root)
    panels = write_panels(
        predictor, benchmark, ordered, files.folder, options.upsampling, options.batch_size
    )
    files.finish(result, ordered, panels)


def plan_batches(
    predictor: Predictor, benchmark: Benchmark, batch_size: int
) -> list[tuple[int, ...]]:
    """The images that go through the network together: of one input size, in their order.

    What a batch holds changes the last bits of a prediction, so it must not depend on how the work
    is split.
    """
    if batch_size == 1:
        return [(index,) for index in range(len(benchmark))]
    by_size: defaultdict[tuple[int, int] | None, list[int]] = defaultdict(list)
    bar = progress_bar(range(len(benchmark)), desc=f"{benchmark.name}: image sizes", unit="image")
    for index in bar:
        by_size[_input_size(predictor, benchmark, index)].append(index)
    batches = [
        tuple(indices[start : start + batch_size])
        for indices in by_size.values()
        for start in range(0, len(indices), batch_size)
    ]
    return sorted(batches)


def _input_size(predictor: Predictor, benchmark: Benchmark, index: int) -> tuple[int, int] | None:
    """(height, width) of the network's input; None for a damaged file, which `read` reports."""
    try:
        return predictor.input_size(*benchmark.image_size(index), benchmark.resize)
    except UserError:
        return None


def evaluate(
    predictor: Predictor,
    benchmark: Benchmark,
    batches: Sequence[Sequence[int]],
    options: Options,
    record: Callable[[Row], None],
) -> None:
    """Predict, align and score images of a benchmark.

    Args:
        batches: indices of images of one input size each, at most `batch_size`.
        record: gets the row of each image as soon as it is known, in any order.

    Raises:
        UserError: an image cannot be read or has no valid pixel, unless `skip_damaged`; or a
            prediction is not finite.
    """
    with ThreadPoolExecutor(options.workers) as pool, logging_redirect_tqdm([LOG]):
        bar = progress_bar(desc=benchmark.name, total=sum(map(len, batches)), unit="image")
        with bar, _cancelling(pool):
            pipeline = _Pipeline(predictor, benchmark, options, pool)
            total, count = 0.0, 0
            for row in pipeline.rows(batches):
                record(row)
                bar.update()
                if not row.skipped:
                    total, count = total + row.errors[benchmark.metric], count + 1
                    text = f"{benchmark.metric} {total / count:.4g}"
                    bar.set_postfix_str(text, refresh=False)


class _Pipeline:
    """Reading and scoring in a pool's threads, the network in this one."""

    def __init__(
        self,
        predictor: Predictor,
        benchmark: Benchmark,
        options: Options,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.predictor, self.benchmark = predictor, benchmark
        self.options, self.pool = options, pool
        self.ahead = options.batch_size + options.workers  # samples that wait on either side

    def rows(self, batches: Sequence[Sequence[int]]) -> Iterator[Row]:
        """The rows of these samples as they become known."""
        scores: deque[Future[Row]] = deque()
        indices = chain.from_iterable(batches)
        items = _map_ahead(self.pool, self._read, indices, self.ahead)
        for batch in batches:
            good = []
            for item in islice(items, len(batch)):
                if isinstance(item, Row):
                    yield item
                else:
                    good.append(item)
            scores.extend(self._predict(good))
            while scores and (scores[0].done() or len(scores) > self.ahead):
                yield scores.popleft().result()
        for score in scores:
            yield score.result()

    def _predict(self, items: Sequence[_Item]) -> Iterator[Future[Row]]:
        """Scores under way, of items of one input size."""
        if items:
            inputs = [item.input for item in items]
            predictions = self.predictor.run(inputs, self.options.batch_size)
            for item, prediction in zip(items, predictions, strict=True):
                yield self.pool.submit(self._score, item, prediction)

    def _read(self, index: int) -> _Item | Row:
        """A sample ready for the network, or the row of a damaged one."""
        try:
            sample = self.benchmark.read(index)
        except UserError as error:
            if not self.options.skip_damaged:
                raise
            LOG.warning("skipped: %s", error)
            return Row(self.benchmark.ids[index], 0, 0, {}, " ".join(str(error).split()))
        height, width = sample.image.shape[:2]
        prepared = self.predictor.prepare(sample.image, self.benchmark.resize)
        without_image = replace(sample, image=np.broadcast_to(np.uint8(0), sample.image.shape))
        return _Item(without_image, height, width, prepared)

    def _score(self, item: _Item, prediction: np.ndarray) -> Row:
        resized = transforms.resize_prediction(
            prediction, item.height, item.width, self.options.upsampling
        )
        errors = self.benchmark.score(resized, item.sample)
        return Row(item.sample.id, item.height, item.width, errors)


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[int], T], arguments: Iterable[int], count: int
) -> Iterator[T]:
    """`map`, in order, with the next `count` results under way."""
    arguments = iter(arguments)
    futures = deque(pool.submit(function, argument) for argument in islice(arguments, count))
    while futures:
        result = futures.popleft().result()
        futures.extend(pool.submit(function, argument) for argument in islice(arguments, 1))
        yield result


@contextmanager
def _cancelling(pool: ThreadPoolExecutor) -> Iterator[None]:
    """After an error, drop the work that has not begun."""
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _words(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:g}" for number in numbers)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
