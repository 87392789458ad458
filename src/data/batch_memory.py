"""Memory of batches that is used again.

Fresh memory costs the system a page fault for every 4 kB: at 384x384 that is up to a third of the
time of a sample from the cache. MindSpore takes the arrays of a GeneratorDataset as they are, its
tensors share their memory, so only the last reference to an array tells that it is free. That is so
on the CPU. What copies to a device in the background may still read an array that nobody refers to
any more, so there every batch has fresh memory.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence

import numpy as np


class BatchMemory:
    """Hands out float32 arrays of any content, from several threads.

    What an array or a view of it refers to is never handed out again; what nobody refers to any
    more is. So there is as much memory as there were arrays in use at once.

    Attributes:
        reuse: hand out memory again; otherwise it is always fresh.
    """

    def __init__(self, reuse: bool = True) -> None:
        self.reuse = reuse
        self._free: dict[int, list[bytearray]] = {}

    def arrays(self, shapes: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, ...]:
        """Arrays of these shapes, C-contiguous."""
        if not self.reuse:
            return tuple(np.empty(shape, np.float32) for shape in shapes)
        sizes = [math.prod(shape) for shape in shapes]
        free = self._free.setdefault(sum(sizes), [])
        try:
            memory = free.pop()
        except IndexError:
            memory = bytearray(4 * sum(sizes))
        # All views keep this array, the one that is no view of another array.
        whole = np.frombuffer(memory, np.float32)
        weakref.finalize(whole, free.append, memory).atexit = False
        parts = np.split(whole, np.cumsum(sizes)[:-1])
        return tuple(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
