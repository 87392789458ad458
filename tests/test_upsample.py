"""Bilinear enlargement and its gradient, against PyTorch in float64."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import nn, ops

from src.upsample import Upsample2x


class Gradient(nn.Cell):
    """Of a weighted sum of what an enlargement returns."""

    def __init__(self, enlarge: Upsample2x, factors: ms.Tensor) -> None:
        super().__init__()
        self.enlarge, self.factors = enlarge, factors
        self.gradient = ops.grad(self.loss)

    def loss(self, x: ms.Tensor) -> ms.Tensor:
        return (self.enlarge(x) * self.factors).sum()

    def construct(self, x: ms.Tensor) -> ms.Tensor:
        return self.gradient(x)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 12, 18), (1, 4, 5, 7), (1, 1, 1, 6), (1, 2, 1, 1)])
def test_result_and_gradient_are_those_of_pytorch(shape, align_corners):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    factors = rng.normal(size=(*shape[:2], 2 * shape[2], 2 * shape[3])).astype(np.float32)
    known = torch.from_numpy(x).double().requires_grad_()
    output = torch.nn.functional.interpolate(
        known, scale_factor=2, mode="bilinear", align_corners=align_corners
    )
    (output * torch.from_numpy(factors)).sum().backward()
    enlarge = Upsample2x(align_corners)
    found = enlarge(ms.Tensor(x)).asnumpy()
    assert np.abs(found - output.detach().numpy()).max() <= 1e-5

    found = Gradient(enlarge, ms.Tensor(factors))(ms.Tensor(x)).asnumpy()
    assert found.dtype == np.float32
    assert np.abs(found - known.grad.numpy()).max() <= 1e-5


@pytest.mark.parametrize("align_corners", [True, False])
def test_the_gradient_is_that_of_mindspores_own(align_corners, monkeypatch):
    """At sizes of the network, where float32 positions differ from exact ones."""
    rng = np.random.default_rng(0)
    x = ms.Tensor(rng.normal(size=(1, 2, 96, 128)).astype(np.float32))
    factors = ms.Tensor(rng.normal(size=(1, 2, 192, 256)).astype(np.float32))
    found = []
    for device in ("CPU", "GPU"):  # the latter has MindSpore's
        monkeypatch.setattr(ms, "get_context", lambda key, device=device: device)
        enlarge = Upsample2x(align_corners)
        monkeypatch.undo()
        found.append(Gradient(enlarge, factors)(x).asnumpy())
    np.testing.assert_allclose(*found, atol=2e-6)


@pytest.mark.parametrize("align_corners", [True, False])
def test_the_gradient_of_float16_is_float16(align_corners):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 2, 6, 8)).astype(np.float16)
    factors = rng.normal(size=(1, 2, 12, 16)).astype(np.float16)
    found, exact = (
        Gradient(Upsample2x(align_corners), ms.Tensor(factors.astype(dtype)))(
            ms.Tensor(x.astype(dtype))
        )
        for dtype in (np.float16, np.float32)
    )
    assert found.dtype == ms.float16
    expected = exact.asnumpy()
    assert np.abs(found.asnumpy() - expected).max() <= 1e-3 * np.abs(expected).max()
