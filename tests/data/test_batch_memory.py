"""Memory of batches: never handed out twice while somebody refers to it, and handed out again."""

from __future__ import annotations

import gc
import threading

import mindspore as ms
import numpy as np
import pytest

from src.data.batch_memory import BatchMemory

SHAPES = [(2, 3, 4, 5), (2, 4, 5), (2, 4, 5)]


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_arrays_have_the_asked_shapes_and_do_not_overlap():
    arrays = BatchMemory().arrays(SHAPES)
    assert [array.shape for array in arrays] == SHAPES
    assert all(a.dtype == np.float32 and a.flags.c_contiguous and a.flags.writeable for a in arrays)
    for number, array in enumerate(arrays):
        array[:] = number
    assert [np.unique(array).tolist() for array in arrays] == [[0], [1], [2]]


@pytest.mark.parametrize(
    "keep",
    [
        lambda arrays: arrays[1],
        lambda arrays: arrays[0][1, 2],
        lambda arrays: arrays[0].transpose(0, 2, 3, 1)[::-1, 1:, :, 0],
        lambda arrays: memoryview(arrays[2]),
        lambda arrays: ms.Tensor.from_numpy(arrays[1]),
    ],
    ids=["array", "slice", "view of a view", "buffer", "tensor"],
)
def test_what_is_referred_to_is_not_handed_out_again(keep):
    memory = BatchMemory()
    arrays = memory.arrays(SHAPES)
    for array in arrays:
        array[:] = 7
    kept = keep(arrays)
    del arrays, array
    gc.collect()
    for _ in range(3):
        for other in memory.arrays(SHAPES):
            other[:] = 8
    values = kept.asnumpy() if isinstance(kept, ms.Tensor) else np.asarray(kept)
    assert (values == 7).all()


def test_what_nobody_refers_to_is_handed_out_again():
    memory = BatchMemory()
    first = memory.arrays(SHAPES)
    there = address(first[0])
    second = memory.arrays(SHAPES)
    del first
    third = memory.arrays(SHAPES)
    assert address(third[0]) == there
    assert address(second[0]) != there
    assert address(memory.arrays([(1, 3, 2, 2)])[0]) not in (there, address(second[0]))


def test_without_reuse_memory_is_always_fresh():
    memory = BatchMemory(reuse=False)
    first = memory.arrays(SHAPES)
    assert [array.shape for array in first] == SHAPES
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for array in first)
    assert all(array.base is None for array in first)  # of NumPy's own
    del first
    assert memory._free == {}


def test_threads_never_share_an_array():
    memory, wrong = BatchMemory(), []

    def work(number: int) -> None:
        for _ in range(2000):
            arrays = memory.arrays(SHAPES)
            for array in arrays:
                array[:] = number
            if any((array != number).any() for array in arrays):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sum(len(free) for free in memory._free.values()) <= 8  # each has two at once
