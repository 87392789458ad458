"""Training on several datasets at once: one loss of all, or the gradients of each, mixed.

The MiDaS paper (Ranftl et al., TPAMI 2022, section 6) compares naive mixing, the mean of the
datasets' losses, with Pareto-optimal mixing: each step goes along the shortest vector in the convex
hull of the datasets' gradients (Sener & Koltun, NeurIPS 2018, algorithm 2). To first order no
dataset's loss on the batch rises along it (of Adam, which scales it, that is not certain).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor, amp, nn, ops

from src.midas_net import MidasNet
from src.min_norm import MinNorm
from src.train_step import Average, Objective, Step, TrainStep

Mixing = Literal["naive", "weighted", "pareto"]
Scope = Literal["all", "decoder", "last"]


def make_step(
    network: MidasNet,
    loss: nn.Cell,
    optimizer: nn.Optimizer,
    weights: Sequence[float] = (1.0,),
    mixing: Mixing = "naive",
    scope: Scope = "all",
    scaler: amp.DynamicLossScaler | None = None,
    ranks: int = 1,
) -> Step:
    """The train step of a way of mixing.

    Args:
        network: that is trained.
        loss: ScaleShiftInvariantLoss.
        optimizer: over the network's parameters, in their order.
        weights: of the datasets, used by `weighted`; >= 0, their number is that of the datasets.
        mixing: `naive`: the mean of the datasets' losses. `weighted`: their weighted mean.
            `pareto`: the common descent direction of all datasets.
        scope: which gradients decide the weights of `pareto`: of all parameters, of the decoder's
            or of its last convolutions' (`output_conv`). Whatever it is, all parameters move.
        scaler: of the loss, for float16.
        ranks: processes that train together.
    """
    equal = np.full(len(weights), 1 / len(weights))
    arguments = (network, loss, optimizer)
    if mixing == "weighted":
        return TrainStep(*arguments, np.array(weights) / np.sum(weights), scaler, ranks)
    if mixing == "naive" or len(weights) == 1:  # one gradient is its own convex hull
        return TrainStep(*arguments, equal, scaler, ranks)
    if scope == "all":
        return ParetoStep(*arguments, equal, scaler, ranks)
    return HeadParetoStep(*arguments, equal, scaler, ranks, scope)


class ParetoStep(Step):
    """The common descent direction by the gradients of all parameters.

    Each dataset goes forward and backward on its own, through one graph that is compiled once;
    another graph mixes the gradients. So a step holds the activations of one dataset, and a
    gradient of the network's size for each. Batch normalisation sees the images of one dataset at a
    time, and moves its statistics with each in turn.
    """

    def __init__(
        self,
        network: nn.Cell,
        loss: nn.Cell,
        optimizer: nn.Optimizer,
        shares: Sequence[float],
        scaler: amp.DynamicLossScaler | None = None,
        ranks: int = 1,
    ) -> None:
        super().__init__(network, loss, optimizer, shares, scaler, ranks)
        self.gradient = _DatasetGradient(network, loss, optimizer.parameters, scaler, ranks)
        self.min_norm = MinNorm(self.datasets)
        self.shapes = [parameter.shape for parameter in self.parameters]
        self.ends = np.cumsum([parameter.size for parameter in self.parameters]).tolist()

    def __call__(self, image: Tensor, disparity: Tensor, mask: Tensor) -> Tensor:
        """One graph for each dataset, then that of `construct`."""
        size = image.shape[0] // self.datasets
        results = []
        for i in range(self.datasets):
            own = slice(i * size, (i + 1) * size)
            results.append(self.gradient(image[own], disparity[own], mask[own]))
        vectors, usable, present, terms = zip(*results, strict=True)
        return super().__call__(*vectors, *usable, *present, *terms)

    def construct(self, *results: Tensor) -> Tensor:
        """What `_DatasetGradient` returned, L of each in turn, to the outputs."""
        count = self.datasets
        vectors, usable = results[:count], results[count : 2 * count]
        present, terms = results[2 * count : 3 * count], results[3 * count :]
        products = gram([(vector,) for vector in vectors])
        weights = self.min_norm(products, ops.concat(present))
        vector = mixed(vectors, weights)
        gradients = ()
        start = 0
        for i in range(len(self.ends)):
            gradients += (vector[start : self.ends[i]].reshape(self.shapes[i]),)
            start = self.ends[i]
        usable = ops.stack(usable).min()
        return self.update(gradients, usable, ops.concat(terms, axis=1), weights)


class _DatasetGradient(Objective):
    """Images of one dataset -> its gradient as a float32 vector, whether that is usable, whether
    any target is valid, and its loss with its two terms [3, 1]."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.value_and_grad = ops.value_and_grad(self.forward, None, self.parameters, has_aux=True)

    def forward(self, image: Tensor, disparity: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        losses, terms = self.terms(self.network(image), disparity, mask, 1)
        return self.scaled(losses[0]), terms

    def construct(
        self, image: Tensor, disparity: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (_, terms), gradients = self.value_and_grad(image, disparity, mask)
        gradients, usable = self.unscaled(self.average(gradients))
        vector = ops.concat([gradient.reshape(-1) for gradient in gradients])
        return vector, usable, self.present(mask, 1), terms


class HeadParetoStep(Step):
    """The common descent direction by the gradients of the decoder or of its last convolutions.

    One batch of all datasets goes forward once. From where the scope begins, each dataset's images
    go on and back on their own; what reaches the rest of the network is mixed already, so that it
    goes backward once. This takes the time of naive mixing. (The decoder has no batch norm, so
    that images of one batch do not touch there.)

    Raises:
        ValueError: the optimizer's last parameters are not those of the scope.
    """

    def __init__(
        self,
        network: MidasNet,
        loss: nn.Cell,
        optimizer: nn.Optimizer,
        shares: Sequence[float],
        scaler: amp.DynamicLossScaler | None = None,
        ranks: int = 1,
        scope: Scope = "last",
    ) -> None:
        super().__init__(network, loss, optimizer, shares, scaler, ranks)
        self.scope = scope
        head = network.decoder if scope == "decoder" else network.decoder.output_conv
        size = len(head.trainable_params())
        order = [parameter.name for parameter in self.parameters]
        if order[-size:] != [parameter.name for parameter in head.trainable_params()]:
            raise ValueError(f"optimizer: expected the {scope} parameters last, in their order")
        self.trunk_parameters = ms.ParameterTuple(self.parameters[:-size])
        head_parameters = ms.ParameterTuple(self.parameters[-size:])
        self.average_head = Average([parameter.size for parameter in head_parameters], ranks)
        self.average_trunk = Average([parameter.size for parameter in self.trunk_parameters], ranks)
        self.min_norm = MinNorm(self.datasets)
        inputs = (0, 1, 2, 3) if scope == "decoder" else 0  # with one, its gradient is no tuple
        self.value_and_grad = ops.value_and_grad(self.head, inputs, head_parameters, has_aux=True)

    def trunk(self, image: Tensor) -> tuple[Tensor, ...]:
        """What comes before the scope: its last activations."""
        levels = self.network.backbone(image)
        return levels if self.scope == "decoder" else (self.network.decoder.fuse(*levels),)

    def head(self, *arguments: Tensor) -> tuple[Tensor, Tensor]:
        """Activations of one dataset's images, their disparity and mask -> loss and its terms."""
        activations, (disparity, mask) = arguments[:-2], arguments[-2:]
        decoder = self.network.decoder
        end = decoder(*activations) if self.scope == "decoder" else decoder.head(*activations)
        losses, terms = self.terms(end, disparity, mask, 1)
        return self.scaled(losses[0]), terms

    def construct(self, image: Tensor, disparity: Tensor, mask: Tensor) -> Tensor:
        activations, backward = ops.vjp(self.trunk, image, weights=self.trunk_parameters)
        size = image.shape[0] // self.datasets
        upstream, gradients, terms = (), (), ()
        usable = Tensor(1.0, ms.float32)
        for i in range(self.datasets):
            first, last = i * size, (i + 1) * size
            own = [activation[first:last] for activation in activations]
            (_, part), (into, of_head) = self.value_and_grad(
                *own, disparity[first:last], mask[first:last]
            )
            of_head, fit = self.unscaled(self.average_head(of_head))
            usable = ops.minimum(usable, fit)
            upstream += (into if self.scope == "decoder" else (into,),)
            gradients += (of_head,)
            terms += (part,)
        weights = self.min_norm(gram(gradients), self.present(mask, self.datasets))
        _, of_trunk = backward(self._mixed_upstream(upstream, weights))
        of_trunk, fit = self.unscaled(self.average_trunk(of_trunk))
        of_head = ()
        for j in range(len(gradients[0])):
            of_head += (mixed([gradient[j] for gradient in gradients], weights),)
        return self.update(
            of_trunk + of_head, ops.minimum(usable, fit), ops.concat(terms, axis=1), weights
        )

    def _mixed_upstream(
        self, upstream: tuple[tuple[Tensor, ...], ...], weights: Tensor
    ) -> tuple[Tensor, ...]:
        """The gradient of each activation of the whole batch: each dataset's times its weight."""
        whole = ()
        for j in range(len(upstream[0])):
            parts = ()
            for i in range(self.datasets):
                part = upstream[i][j]
                parts += ((weights[i] * part.astype(ms.float32)).astype(part.dtype),)
            whole += (ops.concat(parts),)
        return whole


def gram(gradients: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """Scalar products of gradients, each a tuple of tensors: float32 [L, L]."""
    rows = ()
    for i in range(len(gradients)):
        row = ()
        for j in range(len(gradients)):
            row += (_product(gradients[i], gradients[j]) if i <= j else rows[j][i],)
        rows += (ops.stack(row),)
    return ops.stack(rows)


def _product(left: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> Tensor:
    total = Tensor(0.0, ms.float32)
    for i in range(len(left)):
        # MindSpore's own product of vectors adds up one by one on CPU: 7 % off at 6e7 values.
        total = total + (left[i] * right[i]).sum()
    return total


def mixed(values: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Weighted sum of L tensors of one shape."""
    total = weights[0] * values[0]
    for i in range(1, len(values)):
        total = total + weights[i] * values[i]
    return total
