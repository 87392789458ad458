"""Work around a computation: what runs at once, in which order results come, and what is dropped.

Threads wait for each other here; where they should not have to, a test fails after ten seconds.
"""

from __future__ import annotations

import threading
import time

import pytest

from src.ahead import Early, batches_of_equal, pipelined
from src.errors import UserError

SECONDS = 10
SINGLY = [(i,) for i in range(12)]


def add_ten(items):
    return [item + 10 for item in items]


def both(item, output):
    return item, output


def test_each_item_meets_its_own_output():
    batches = [(0, 2), (1, 3, 5), (4,)]
    seen = []

    def run(items):
        seen.append(tuple(items))
        return add_ten(items)

    results = list(pipelined(batches, lambda index: index, run, both, 2))
    assert sorted(results) == [(i, i + 10) for i in range(6)]
    assert seen == batches


def test_early_results_are_not_computed_and_a_batch_of_them_alone_is_none():
    def read(index):
        return Early(("early", index)) if index in (1, 2, 3) else index

    seen = []

    def run(items):
        seen.append(tuple(items))
        return add_ten(items)

    results = set(pipelined([(0, 1), (2, 3), (4,)], read, run, both, 2))
    assert results == {("early", 1), ("early", 2), ("early", 3), (0, 10), (4, 14)}
    assert seen == [(0,), (4,)]


def test_nothing_gives_nothing():
    assert list(pipelined([], lambda index: index, add_ten, both, 2)) == []


def test_while_one_is_computed_the_next_is_read_and_the_one_before_is_finished():
    was_read, was_finished = ([threading.Event() for _ in SINGLY] for _ in range(2))

    def read(index):
        was_read[index].set()
        return index

    def run(items):
        (index,) = items
        if index < len(SINGLY) - 1:
            assert was_read[index + 1].wait(SECONDS)
        if index > 0:
            assert was_finished[index - 1].wait(SECONDS)
        return items

    def finish(item, _):
        was_finished[item].set()
        return item

    assert sorted(pipelined(SINGLY, read, run, finish, 2)) == list(range(12))


@pytest.mark.parametrize(("size", "workers"), [(1, 1), (1, 3), (4, 2)])
def test_little_is_in_memory_however_slow_one_side_is(size, workers):
    batches = [tuple(range(start, start + size)) for start in range(0, 120, size)]
    lock, counts, most = threading.Lock(), [0], [0]

    def read(index):
        with lock:
            counts[0] += 1
            most[0] = max(most[0], counts[0])
        return index

    def finish(item, _):
        time.sleep(0.002)
        with lock:
            counts[0] -= 1
        return item

    results = list(pipelined(batches, read, lambda items: items, finish, workers))
    assert len(results) == 120
    ahead = size + workers
    assert most[0] <= 2 * ahead + size  # read ahead, in the network, waiting to be finished


def test_an_error_of_reading_or_finishing_is_raised_and_the_rest_dropped():
    for place in ("read", "finish"):
        done = []

        def read(index, place=place, done=done):
            done.append(index)
            if (index, place) == (3, "read"):
                raise OSError(place)
            return index

        def finish(item, _, place=place):
            if (item, place) == (3, "finish"):
                raise OSError(place)
            return item

        with pytest.raises(OSError, match=place):
            list(pipelined([(i,) for i in range(100)], read, lambda items: items, finish, 2))
        assert len(done) < 20


def stops_at_five(error):
    def run(items):
        if items == [5]:
            raise error
        return items

    return run


def test_what_was_computed_before_an_error_of_the_user_is_still_finished():
    results = []
    with pytest.raises(UserError, match="not finite"):
        for item in pipelined(SINGLY, int, stops_at_five(UserError("not finite")), max, 1):
            results.append(item)
    assert results == [0, 1, 2, 3, 4]


def test_an_interrupt_ends_it_at_once():
    """What waits to be finished is dropped, and no more is read."""
    read, finished, hold = [], [], threading.Event()

    def note(index):
        read.append(index)
        return index

    def finish(item, _):
        if item == 0:
            hold.wait(SECONDS)
            time.sleep(0.5)  # by then, what waits behind it is dropped
        finished.append(item)

    def run(items):
        if items == [2]:
            hold.set()
            raise KeyboardInterrupt
        return items

    with pytest.raises(KeyboardInterrupt):
        list(pipelined([(i,) for i in range(100)], note, run, finish, 1))
    assert len(read) < 8
    assert finished == [0]


def test_who_stops_listening_stops_the_work():
    read = []
    results = pipelined([(i,) for i in range(100)], lambda i: read.append(i) or i, add_ten, both, 2)
    next(results)
    results.close()
    assert len(read) < 20


def test_batches_hold_equal_keys_in_their_order():
    #       0123456789
    keys = "abaabacbba"
    assert batches_of_equal(keys, 2) == [(0, 2), (1, 4), (3, 5), (6,), (7, 8), (9,)]
    assert batches_of_equal(keys, 100) == [(0, 2, 3, 5, 9), (1, 4, 7, 8), (6,)]
    assert batches_of_equal(keys, 1) == [(i,) for i in range(10)]
    assert batches_of_equal("", 3) == []
