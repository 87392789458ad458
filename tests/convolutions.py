"""What the tests of convolutions of our own share."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from src.train_step import AmpLevel, mixed_precision


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def with_weights(
    kind: type[nn.Conv2d], weight: np.ndarray, bias: np.ndarray, stride: int = 1, group: int = 1
) -> nn.Conv2d:
    outputs, inputs, kernel, _ = weight.shape
    layer = kind(
        inputs * group,
        outputs,
        kernel,
        stride,
        pad_mode="pad",
        padding=kernel // 2,
        group=group,
        has_bias=True,
    )
    layer.weight.set_data(ms.Tensor(weight))
    layer.bias.set_data(ms.Tensor(bias))
    return layer


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


def assert_mixed_precision(kind: type[nn.Conv2d], level: AmpLevel) -> None:
    """It computes in float16 as MindSpore's own; weights and their gradients stay float32."""
    x, weight, bias = drawn(2, 6, 16, 24), drawn(5, 6, 3, 3, seed=1), drawn(5, seed=2)
    results = []
    for each in (nn.Conv2d, kind):
        gradient = Gradient(with_weights(each, weight, bias))
        mixed_precision(gradient.layer, level)
        results.append(gradient(ms.Tensor(x)))
    exact = Gradient(with_weights(kind, weight, bias))(ms.Tensor(x))
    for own, found, full in zip(*results, exact, strict=True):
        assert found.dtype == own.dtype == ms.float32
        own, found, full = own.asnumpy(), found.asnumpy(), full.asnumpy()
        assert np.abs(found - own).max() <= 2e-3 * np.abs(own).max()  # float16 has 11 bits
        assert np.abs(found - full).max() > 1e-5 * np.abs(full).max()  # float32 has 24
