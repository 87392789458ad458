"""A convolution with gradients of its own, against PyTorch in float64 and MindSpore's own."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import nn, ops

from src.lean_conv import LeanConv2d
from src.resnext import conv
from tests.convolutions import assert_mixed_precision, drawn, with_weights

ARGUMENTS = {"pad_mode": "pad", "padding": 1, "has_bias": True}


@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "height", "width"),
    [(2, 6, 3, 8, 11), (1, 4, 4, 5, 5), (3, 2, 7, 9, 6), (1, 1, 1, 1, 1), (2, 3, 2, 1, 4)],
)
def test_gradients_are_those_of_pytorch(batch, inputs, outputs, height, width):
    x, weight = drawn(batch, inputs, height, width), drawn(outputs, inputs, 3, 3, seed=1)
    bias, factors = drawn(outputs, seed=2), drawn(batch, outputs, height, width, seed=3)
    layer = with_weights(LeanConv2d, weight, bias)

    def loss(x: ms.Tensor) -> ms.Tensor:
        return (layer(x) * ms.Tensor(factors)).sum()

    parameters = ms.ParameterTuple([layer.weight, layer.bias])
    gradient = ops.value_and_grad(loss, 0, parameters)
    _, (of_input, of_parameters) = ms.jit(gradient)(ms.Tensor(x))

    known = [torch.from_numpy(v).double().requires_grad_() for v in (x, weight, bias)]
    output = torch.nn.functional.conv2d(*known, padding=1)
    (output * torch.from_numpy(factors)).sum().backward()
    for found, expected in zip([of_input, *of_parameters], known, strict=True):
        expected = expected.grad.numpy()
        assert found.shape == expected.shape
        assert np.abs(found.asnumpy() - expected).max() <= 2e-6 * np.abs(expected).max()


def test_results_are_those_of_mindspores_own_bit_for_bit():
    x, weight, bias = drawn(2, 6, 16, 24), drawn(5, 6, 3, 3, seed=1), drawn(5, seed=2)
    own, lean = (with_weights(kind, weight, bias) for kind in (nn.Conv2d, LeanConv2d))
    np.testing.assert_array_equal(lean(ms.Tensor(x)).asnumpy(), own(ms.Tensor(x)).asnumpy())
    assert [p.name for p in lean.get_parameters()] == [p.name for p in own.get_parameters()]


@pytest.mark.parametrize("level", ["O1", "O2", "O3"])
def test_mixed_precision_is_that_of_mindspores_own(level):
    assert_mixed_precision(LeanConv2d, level)


def test_only_dense_3x3_convolutions_of_stride_1_are_lean():
    assert isinstance(conv(4, 4, 3), LeanConv2d)
    for other in (conv(4, 4, 1), conv(4, 4, 3, stride=2), conv(4, 4, 3, group=2), conv(3, 4, 7)):
        assert not isinstance(other, LeanConv2d)


@pytest.mark.parametrize(
    "change", [{"kernel_size": 5}, {"stride": 2}, {"padding": 0}, {"dilation": 2}, {"group": 2}]
)
def test_other_convolutions_are_refused(change):
    arguments = {"kernel_size": 3, "pad_mode": "pad", "padding": 1} | change
    with pytest.raises(ValueError, match="expected 3x3, stride 1, padding 1, no groups"):
        LeanConv2d(4, 4, **arguments)


def test_other_devices_keep_mindspores_own(monkeypatch):
    monkeypatch.setattr(ms, "get_context", {"device_target": "Ascend"}.get)
    assert isinstance(LeanConv2d(4, 4, 3, **ARGUMENTS).conv2d, ops.Conv2D)
