"""A convolution computed by onednn_conv/, where oneDNN may choose the layouts of its tensors.

It is an operator of this project's for MindSpore (`ops.Custom`), built by `onednn_conv/build.sh`
and taken where `cpu_kernels.choose` found it to be the fastest. It computes in float32 what the
operators of MindSpore compute, up to rounding.
"""

from __future__ import annotations

from typing import Any

import mindspore as ms
from mindspore import Tensor, nn, ops

from src.cpu_kernels import LIBRARY


class OneDnnConv2d(nn.Conv2d):
    """A convolution with an odd kernel, padded by half of it, of stride 1 or 2, in any groups.

    Arguments, parameters and results are those of nn.Conv2d.

    Raises:
        ValueError: another kernel, stride, padding or dilation.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        found = (self.kernel_size, self.stride, self.padding, self.dilation)
        half = self.kernel_size[0] // 2
        if found not in {((2 * half + 1,) * 2, (stride,) * 2, half, (1, 1)) for stride in (1, 2)}:
            raise ValueError(
                f"expected an odd kernel padded by its half, stride 1 or 2; got {found}"
            )
        self.conv2d = _Convolve(self.stride[0])


class _Convolve(nn.Cell):
    """(input [N, I, H, W], weight [O, I / groups, K, K]) -> [N, O, h, w], in the input's dtype."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.forward = _operator(
            "Forward", lambda x, weight: [x[0], weight[0], *(-(-size // stride) for size in x[2:])]
        )
        self.input_gradient = _operator("InputGradient", lambda x, weight, gradient: x)
        self.weight_gradient = _operator("WeightGradient", lambda x, weight, gradient: weight)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Convolve:
        """MindSpore cannot copy an operator of its own kind."""
        return _Convolve(self.stride)

    def construct(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.forward(x.astype(ms.float32), weight.astype(ms.float32)).astype(x.dtype)

    def bprop(
        self, x: Tensor, weight: Tensor, out: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        # In mixed precision what comes in is float16; nothing casts a weight's gradient back.
        operands = (x.astype(ms.float32), weight.astype(ms.float32), gradient.astype(ms.float32))
        return self.input_gradient(*operands).astype(x.dtype), self.weight_gradient(*operands)


def _operator(name: str, shape: Any) -> ops.Custom:
    """A function of the library as an operator of MindSpore; `shape` of its float32 output."""
    return ops.Custom(f"{LIBRARY}:{name}", shape, ms.float32, "aot")
