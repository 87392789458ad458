"""Batch normalisation folded into the convolutions before it, for deployment.

With its statistics fixed, batch normalisation is one factor and one summand for each channel, which
the convolution's weights and a bias can hold: the network computes the same with a third of its
layers gone.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import mindspore as ms
import numpy as np
from mindspore import nn

from src.cells import count, replace_part
from src.midas_net import MidasNet


def folded(network: MidasNet) -> MidasNet:
    """A copy of a network for inference, without batch normalisation.

    Its output differs from that of `network` in inference by rounding alone. The factors are
    computed in float64 and stored float32. `network` itself is left as it is.

    Raises:
        ValueError: a batch normalisation does not come right after a convolution.
    """
    return fold(copy.deepcopy(network))


def fold(network: MidasNet) -> MidasNet:
    """As `folded`, but it is `network` itself that changes, and that is returned."""
    for _, cell in list(network.cells_and_names()):
        # A cell holds its parts in the order in which it applies them.
        for (_, conv), (name, norm) in pairwise(list(cell.name_cells().items())):
            if isinstance(norm, nn.BatchNorm2d):
                _fold(conv, norm)
                replace_part(cell, name, nn.Identity())
    if left := count(network, nn.BatchNorm2d):
        raise ValueError(f"{left} batch normalisations are not behind a convolution")
    return network.set_train(False)


def _fold(conv: nn.Cell, norm: nn.BatchNorm2d) -> None:
    """Give a convolution the weights [out, in, h, w] and the bias [out] that do the work of both:
    (w x + b - mean) gamma / sqrt(var + eps) + beta."""
    if not isinstance(conv, nn.Conv2d):
        raise ValueError(f"{norm.gamma.name} comes after a {type(conv).__name__}")
    mean, variance, gamma, beta = (
        parameter.asnumpy().astype(np.float64)
        for parameter in (norm.moving_mean, norm.moving_variance, norm.gamma, norm.beta)
    )
    factor = gamma / np.sqrt(variance + norm.eps)
    bias = conv.bias.asnumpy() if conv.has_bias else np.zeros_like(mean)
    weight = conv.weight.asnumpy() * factor[:, None, None, None]
    conv.weight.set_data(ms.Tensor(weight.astype(np.float32)))
    name = conv.weight.name.removesuffix("weight") + "bias"
    values = ms.Tensor(((bias - mean) * factor + beta).astype(np.float32))
    conv.bias = ms.Parameter(values, name=name)
    conv.has_bias = True
