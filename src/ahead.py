"""Threads that read ahead and finish what was computed, around a computation in one thread.

The computation, a network, may use all cores; reading and writing fill the gaps that it leaves.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Generic, TypeVar

from src.errors import UserError

A = TypeVar("A")
T = TypeVar("T")
Item = TypeVar("Item")
Output = TypeVar("Output")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Early(Generic[Result]):
    """A result that reading alone gives, such as that of a damaged file: nothing to compute."""

    result: Result


def pipelined(
    batches: Sequence[Sequence[int]],
    read: Callable[[int], Item | Early[Result]],
    run: Callable[[Sequence[Item]], Sequence[Output]],
    finish: Callable[[Item, Output], Result],
    workers: int,
) -> Iterator[Result]:
    """The results of batches of indices, in any order; in memory are a few batches at most.

    Args:
        read: from an index to an item, in threads.
        run: from the items of one batch to their outputs, in the caller's thread. Where it raises
            a UserError, the batches before still give their results.
        finish: from an item and its output to its result, in threads.
        workers: threads.

    Raises:
        Exception: what one of the three raises; then what has not begun is dropped.
    """
    ahead = max(map(len, batches), default=0) + workers  # wait on either side
    finishing: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool, _cancelling(pool):
        items = _map_ahead(pool, read, chain.from_iterable(batches), ahead)
        for batch in batches:
            good = []
            for item in islice(items, len(batch)):
                if isinstance(item, Early):
                    yield item.result
                else:
                    good.append(item)
            try:
                outputs = run(good) if good else []
            except UserError:
                yield from _results(finishing, 0)
                raise
            for item, output in zip(good, outputs, strict=True):
                finishing.append(pool.submit(finish, item, output))
            yield from _results(finishing, ahead)
        yield from _results(finishing, 0)


def _results(futures: deque[Future[T]], count: int) -> Iterator[T]:
    """Those that are known, and the oldest until at most `count` are left."""
    while futures and (len(futures) > count or futures[0].done()):
        yield futures.popleft().result()


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[A], T], arguments: Iterable[A], count: int
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


def batches_of_equal(keys: Iterable[Hashable], batch_size: int) -> list[tuple[int, ...]]:
    """The indices of keys in batches of equal ones, each at most `batch_size`.

    The indices of a batch ascend, and so do the batches by their first. Which indices meet depends
    on the keys alone.
    """
    equal: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        equal[key].append(index)
    return sorted(
        tuple(indices[start : start + batch_size])
        for indices in equal.values()
        for start in range(0, len(indices), batch_size)
    )
