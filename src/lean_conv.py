"""A convolution whose gradients need less memory on a CPU.

There a convolution is a matrix product with an unrolled input, 9 times as large for a 3x3 kernel,
and each of MindSpore's three convolutions (forward, gradient of the input, gradient of the weights)
keeps a buffer for its own. For the decoder's head, 128 to 32 channels at full size, that is 0.7 GB
for each gradient of a 384x384 image. The forward one unrolls block by block. So here

- the gradient of the input is a forward convolution of the output's gradient, with the kernel
  mirrored and its channels swapped;
- the gradient of the weights unrolls the output's gradient, which in the decoder has no more
  channels than the input, in the place of the input: the same sum with the mirrored offset.

Both are the same sums of the same products in another order.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.ops.operations import _grad_ops

_KERNEL = 3


class LeanConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 1, padded by 1, without groups.

    Arguments, parameters and results are those of nn.Conv2d; only on a CPU is there a difference
    at all.

    Raises:
        ValueError: another kernel, stride, padding, dilation or groups.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        found = (self.kernel_size, self.stride, self.padding, self.dilation, self.group)
        if found != ((_KERNEL, _KERNEL), (1, 1), 1, (1, 1), 1):
            raise ValueError(f"expected 3x3, stride 1, padding 1, no groups; got {found}")
        if ms.get_context("device_target") == "CPU":
            self.conv2d = _Convolve(self.conv2d, self.in_channels, self.out_channels)


class _Convolve(nn.Cell):
    """(input [B, I, H, W], weight [O, I, 3, 3]) -> [B, O, H, W]."""

    def __init__(self, forward: ops.Conv2D, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.forward = forward
        self.backward = ops.Conv2D(in_channels, _KERNEL, pad_mode="pad", pad=_KERNEL // 2)
        pad = _KERNEL // 2
        self.filter_gradient = _grad_ops.Conv2DBackpropFilter(
            in_channels, _KERNEL, "pad", pad, pad_list=(pad,) * 4
        )
        self.swapped = (in_channels, out_channels, _KERNEL, _KERNEL)
        self.transpose, self.flip = ops.Transpose(), ops.ReverseV2(axis=(2, 3))

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.forward(x, weight)

    def bprop(
        self, x: Tensor, weight: Tensor, out: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        of_input = self.backward(gradient, self._mirrored(weight))
        of_weight = self.filter_gradient(x, gradient, self.swapped)
        # In mixed precision the weight comes in as float16, but nothing casts its gradient back.
        return of_input, self._mirrored(of_weight).astype(ms.float32)

    def _mirrored(self, weight: Tensor) -> Tensor:
        """[O, I, 3, 3] -> [I, O, 3, 3], turned by half a turn."""
        return self.flip(self.transpose(weight, (1, 0, 2, 3)))
