"""Bilinear enlargement, with a gradient that is faster on a CPU."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.ops import constexpr


class Upsample2x(nn.Cell):
    """Bilinear enlargement of [B, C, H, W] to twice its height and width."""

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        on_cpu = ms.get_context("device_target") == "CPU"
        self.enlarge = (_EnlargeOnCpu if on_cpu else _Enlarge)(align_corners)

    def construct(self, x: Tensor) -> Tensor:
        return self.enlarge(x)


class _Enlarge(nn.Cell):
    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def construct(self, x: Tensor) -> Tensor:
        size = (2 * x.shape[2], 2 * x.shape[3])
        return ops.interpolate(x, size=size, mode="bilinear", align_corners=self.align_corners)


class _EnlargeOnCpu(_Enlarge):
    """Its gradient is two matrix products, with the transposed weights of rows and columns:
    MindSpore's own operator takes three times as long there."""

    def bprop(self, x: Tensor, out: Tensor, gradient: Tensor) -> tuple[Tensor]:
        rows = weights(x.shape[2], self.align_corners).T
        columns = weights(x.shape[3], self.align_corners)
        of_x = ops.matmul(rows, ops.matmul(gradient.astype(ms.float32), columns))
        return (of_x.astype(gradient.dtype),)


@constexpr
def weights(size: int, align_corners: bool) -> Tensor:
    """What each of `2 size` enlarged values takes of the `size` given ones: float32 [2 size, size].

    Positions are computed in float32, as MindSpore and PyTorch do.
    """
    index = np.arange(2 * size, dtype=np.float32)
    if align_corners:
        position = index * np.float32((size - 1) / (2 * size - 1))
    else:
        position = np.maximum((index + np.float32(0.5)) / 2 - np.float32(0.5), 0)
    low = np.minimum(position.astype(int), size - 1)
    high = np.minimum(low + 1, size - 1)
    share = position - low.astype(np.float32)
    matrix = np.zeros((2 * size, size), np.float32)
    np.add.at(matrix, (index.astype(int), low), 1 - share)
    np.add.at(matrix, (index.astype(int), high), share)
    return Tensor(matrix)
