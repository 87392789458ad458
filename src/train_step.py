"""One optimizer step: mixed precision, loss scaling and gradients averaged over processes.

Here is the step of one loss; mixing.py has those of several gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, amp, nn, ops
from mindspore.ops import constexpr

AmpLevel = Literal["O0", "O1", "O2", "O3"]

# Gradients travel in pieces of about this many values (4 bytes each): large enough to make good
# use of the network, small enough to start before the last one is known. PyTorch's DDP takes 25 MB.
BUCKET_VALUES = 6_000_000


class StepOutputs(NamedTuple):
    """What a step returns, in this order, as float32 [7 + 2 L] for L datasets.

    Losses are means over all processes, before the step; each dataset counts once, however many
    images it has, or by its weight where weights are given.

    Attributes:
        loss, data_loss, gradient_loss: of the batch.
        gradient_norm: Euclidean norm of the direction that the optimizer gets: the gradients,
            averaged, unscaled and mixed.
        finite: 1, or 0 if a gradient was not finite and the step was skipped (mixed precision).
        loss_scale: that the gradients were computed with; 1 without mixed precision.
        stop: more than 0 once any process was asked to stop.
        losses: of each dataset.
        weights: that each dataset's gradient had in the direction; their sum is 1.
    """

    loss: float
    data_loss: float
    gradient_loss: float
    gradient_norm: float
    finite: float
    loss_scale: float
    stop: float
    losses: tuple[float, ...]
    weights: tuple[float, ...]

    @classmethod
    def read(cls, values: Sequence[float]) -> StepOutputs:
        """The outputs in what a step returned."""
        count = len(cls._fields) - 2
        datasets = (len(values) - count) // 2
        losses, weights = values[count : count + datasets], values[count + datasets :]
        return cls(*values[:count], tuple(losses), tuple(weights))

    def of_share(self, share: float) -> StepOutputs:
        """The same with losses that are means over so large a share of the batch."""
        return self._replace(
            loss=self.loss / share,
            data_loss=self.data_loss / share,
            gradient_loss=self.gradient_loss / share,
            losses=tuple(loss / share for loss in self.losses),
        )


class Objective(nn.Cell):
    """Losses of datasets, and gradients that are averaged over processes and unscaled.

    A batch holds equally many images of each dataset, those of the first before those of the next.
    Loss and average compute in float32, whatever the precision of the network is.

    Args:
        network: a MidasNet.
        loss: ScaleShiftInvariantLoss.
        parameters: float32, that gradients are taken of.
        scaler: of the loss, for float16; None computes without.
        ranks: processes that train together.
    """

    def __init__(
        self,
        network: nn.Cell,
        loss: nn.Cell,
        parameters: Sequence[Parameter],
        scaler: amp.DynamicLossScaler | None,
        ranks: int,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss
        self.parameters = ms.ParameterTuple(parameters)
        self.scaler = scaler
        if scaler is not None:  # a graph from the cache knows parameters of the cell alone
            self.loss_scale, self.good_steps = scaler.scale_value, scaler.counter
        self.average = Average([p.size for p in parameters], ranks)

    def terms(
        self, prediction: Tensor, disparity: Tensor, mask: Tensor, datasets: int
    ) -> tuple[Tensor, Tensor]:
        """The loss of each dataset [L], and together with its two terms [3, L]."""
        terms = ops.stack(self.loss.per_image(prediction, disparity, mask))
        terms = terms.reshape(3, datasets, -1).mean(axis=2)
        return terms[0], ops.stop_gradient(terms)

    def present(self, mask: Tensor, datasets: int) -> Tensor:
        """1 for each dataset with a valid pixel in any process, else 0: float32 [L].

        One without has no objective in this batch.
        """
        largest = mask.astype(ms.float32).reshape(datasets, -1).max(axis=1)
        return (self.average.of(largest) > 0).astype(ms.float32)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss, or what float16 takes the gradient of."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def unscaled(self, gradients: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Averaged gradients as they are, and 1 if they are finite in all processes, else 0."""
        if self.scaler is None:
            return gradients, Tensor(1.0, ms.float32)
        # Some Ascend devices saturate instead, and raise a flag of their own, which this reads.
        everywhere = self.average.of(amp.all_finite(gradients).astype(ms.float32))
        return self.scaler.unscale(gradients), (everywhere == 1).astype(ms.float32)


class Step(Objective):
    """What the steps of all ways of mixing share beside that: the optimizer, and the stop.

    Args:
        network: a MidasNet.
        loss: ScaleShiftInvariantLoss.
        optimizer: over the network's parameters; it computes in float32.
        shares: of each dataset in the loss that is told; their sum is 1.
        scaler: of the loss, for float16; a step whose gradients overflow is skipped and the scale
            halved. None computes without.
        ranks: processes that train together.
    """

    def __init__(
        self,
        network: nn.Cell,
        loss: nn.Cell,
        optimizer: nn.Optimizer,
        shares: Sequence[float] = (1.0,),
        scaler: amp.DynamicLossScaler | None = None,
        ranks: int = 1,
    ) -> None:
        super().__init__(network, loss, optimizer.parameters, scaler, ranks)
        self.optimizer = optimizer
        self.datasets = len(shares)
        self.shares = Tensor(np.array(shares, np.float32))
        self.stop = Parameter(Tensor(0.0, ms.float32), name="stop", requires_grad=False)

    def request_stop(self) -> None:
        """Let the next step tell all processes to stop."""
        self.stop.set_data(Tensor(1.0, ms.float32))

    def update(
        self, gradients: tuple[Tensor, ...], usable: Tensor, terms: Tensor, weights: Tensor
    ) -> Tensor:
        """Move the weights; returns the outputs.

        Args:
            gradients: averaged, unscaled and mixed.
            usable: 0 skips the step in mixed precision.
            terms: losses of this process, float32 [3, L].
            weights: of the datasets, float32 [L].
        """
        norm = global_norm(gradients)
        finite = ops.isfinite(norm).astype(ms.float32)
        scale = Tensor(1.0, ms.float32)
        if self.scaler is None:
            terms = ops.depend(terms, self.optimizer(gradients))
        else:
            scale = self.scaler.scale_value * 1  # its value before it is adjusted
            finite = usable
            if finite == 1:
                terms = ops.depend(terms, self.optimizer(gradients))
            terms = ops.depend(terms, self.scaler.adjust(finite == 1))
        means = self.average.of(ops.concat([terms.reshape(-1), self.stop.reshape(1)]))
        terms, stop = means[:-1].reshape(3, -1), means[-1:]
        own = ops.stack([norm, finite, scale])
        told = (terms * self.shares).sum(axis=1)
        return ops.concat([told, own, stop, terms[0], weights])


class TrainStep(Step):
    """A step down the gradient of one loss, the weighted mean of the datasets' losses.

    `shares` are the weights: equal ones are the naive mix of the MiDaS paper (Ranftl et al., TPAMI
    2022, section 6).
    """

    def __init__(
        self,
        network: nn.Cell,
        loss: nn.Cell,
        optimizer: nn.Optimizer,
        shares: Sequence[float] = (1.0,),
        scaler: amp.DynamicLossScaler | None = None,
        ranks: int = 1,
    ) -> None:
        super().__init__(network, loss, optimizer, shares, scaler, ranks)
        self.value_and_grad = ops.value_and_grad(self.forward, None, self.parameters, has_aux=True)

    def forward(self, image: Tensor, disparity: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        losses, terms = self.terms(self.network(image), disparity, mask, self.datasets)
        return self.scaled((losses * self.shares).sum()), terms

    def construct(self, image: Tensor, disparity: Tensor, mask: Tensor) -> Tensor:
        (_, terms), gradients = self.value_and_grad(image, disparity, mask)
        gradients, usable = self.unscaled(self.average(gradients))
        return self.update(gradients, usable, terms, self.shares * 1)


class Average(nn.Cell):
    """Means over the processes; changes nothing where there is one.

    Args:
        sizes: number of values of each tensor of a tuple.
        ranks: how many processes there are.
    """

    def __init__(self, sizes: Sequence[int], ranks: int) -> None:
        super().__init__()
        self.ranks = ranks
        self.buckets = plan_buckets(sizes, BUCKET_VALUES)
        self.sizes = list(sizes)
        self.all_reduce = ops.AllReduce() if ranks > 1 else ops.identity

    def of(self, value: Tensor) -> Tensor:
        """The mean of a tensor."""
        return self.all_reduce(value) / self.ranks

    def construct(self, values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The means of a tuple of tensors, a bucket of several at a time."""
        if self.ranks == 1:
            return values
        means = ()
        for first, last in self.buckets:
            flat = [value.reshape(-1) for value in values[first:last]]
            bucket = self.of(ops.concat(flat))
            start = 0
            for i in range(first, last):
                piece = bucket[start : start + self.sizes[i]]
                means += (piece.reshape(values[i].shape),)
                start += self.sizes[i]
        return means


def plan_buckets(sizes: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Cut a list into runs [first, last) of at most `limit` values, or of one item if larger."""
    buckets: list[tuple[int, int]] = []
    first = values = 0
    for i, size in enumerate(sizes):
        if i > first and values + size > limit:
            buckets.append((first, i))
            first, values = i, 0
        values += size
    return [*buckets, (first, len(sizes))] if sizes else []


def global_norm(values: tuple[Tensor, ...]) -> Tensor:
    """Euclidean norm over all tensors, a float32 scalar."""
    total = Tensor(0.0, ms.float32)
    for value in values:
        # By rows first: a CPU sums a whole tensor four times as slowly.
        total = total + ops.square(value).reshape(_rows(value.shape)).sum(axis=1).sum()
    return ops.sqrt(total)


@constexpr
def _rows(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], -1) if shape else (1, 1)


def mixed_precision(network: nn.Cell, level: AmpLevel) -> None:
    """Have the network compute in float16 where `level` says so; its parameters stay float32.

    Args:
        level: O0: float32. O1: convolutions in float16, batch norm in float32, the rest in what
            comes in. O2: all but batch norm in float16. O3: everything.
    """
    if level != "O1":
        # It changes the network itself. What it returns only has its output made float32, which
        # the loss does, and has no parts that a step could call.
        amp.auto_mixed_precision(network, level)
        return
    # MindSpore's own O1 rewrites the source of the network into files of the working folder.
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.Conv2d):
            cell.to_float(ms.float16)
        elif isinstance(cell, nn.BatchNorm2d):
            cell.to_float(ms.float32)
