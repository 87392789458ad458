"""Gradients of a convolution, in one graph."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops


class Gradient(nn.Cell):
    """Of the sum of squares: of the input, the weight and the bias."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        parameters = ms.ParameterTuple([layer.weight, layer.bias])
        self.gradient = ops.value_and_grad(self.loss, 0, parameters)

    def loss(self, x: ms.Tensor) -> ms.Tensor:
        return ops.square(self.layer(x).astype(ms.float32)).sum()

    def construct(self, x: ms.Tensor) -> tuple[ms.Tensor, ...]:
        _, (of_input, of_parameters) = self.gradient(x)
        return (of_input, *of_parameters)
