"""One optimizer step: mixed precision, loss scaling and gradients averaged over processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import mindspore as ms
from mindspore import Parameter, Tensor, amp, nn, ops

from src.midas_net import MidasNet

AmpLevel = Literal["O0", "O1", "O2", "O3"]

# Gradients travel in pieces of about this many values (4 bytes each): large enough to make good
# use of the network, small enough to start before the last one is known. PyTorch's DDP takes 25 MB.
BUCKET_VALUES = 6_000_000


class StepOutputs(NamedTuple):
    """What a step returns, in this order, as float32 [7]; losses are means over all processes.

    Attributes:
        loss, data_loss, gradient_loss: of the batch, before the step.
        gradient_norm: Euclidean norm of all gradients, averaged and unscaled.
        finite: 1, or 0 if a gradient was not finite and the step was skipped (mixed precision).
        loss_scale: that the gradients were computed with; 1 without mixed precision.
        stop: more than 0 once any process was asked to stop.
    """

    loss: float
    data_loss: float
    gradient_loss: float
    gradient_norm: float
    finite: float
    loss_scale: float
    stop: float


class TrainStep(nn.Cell):
    """Forward, backward, average over the processes, and the optimizer; see `StepOutputs`.

    Loss, gradients' average and the optimizer compute in float32, on float32 weights, whatever the
    precision of the network is.

    Args:
        network: a MidasNet, or what `mixed_precision` makes of one.
        loss: ScaleShiftInvariantLoss.
        optimizer: over the network's parameters.
        scaler: of the loss, for float16; a step whose gradients overflow is skipped and the scale
            halved. None computes without.
        ranks: processes that train together.
    """

    def __init__(
        self,
        network: nn.Cell,
        loss: nn.Cell,
        optimizer: nn.Optimizer,
        scaler: amp.DynamicLossScaler | None = None,
        ranks: int = 1,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.scaler = scaler
        if scaler is not None:  # a graph from the cache knows parameters of the cell alone
            self.loss_scale, self.good_steps = scaler.scale_value, scaler.counter
        self.stop = Parameter(Tensor(0.0, ms.float32), name="stop", requires_grad=False)
        self.average = Average([p.size for p in optimizer.parameters], ranks)
        self.value_and_grad = ops.value_and_grad(
            self.forward, None, optimizer.parameters, has_aux=True
        )

    def request_stop(self) -> None:
        """Let the next step tell all processes to stop."""
        self.stop.set_data(Tensor(1.0, ms.float32))

    def forward(self, image: Tensor, disparity: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        loss, data_loss, gradient_loss = self.loss(self.network(image), disparity, mask)
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        return scaled, loss, data_loss, gradient_loss

    def construct(self, image: Tensor, disparity: Tensor, mask: Tensor) -> Tensor:
        (_, loss, data_loss, gradient_loss), gradients = self.value_and_grad(image, disparity, mask)
        gradients = self.average(gradients)
        scale = Tensor(1.0, ms.float32)
        if self.scaler is not None:
            scale = self.scaler.scale_value * 1  # its value before it is adjusted
            gradients = self.scaler.unscale(gradients)
        norm = global_norm(gradients)
        finite = ops.isfinite(norm)
        if self.scaler is None:
            loss = ops.depend(loss, self.optimizer(gradients))
        else:
            # Some Ascend devices saturate instead, and raise a flag of their own, which this reads.
            everywhere = self.average.of(amp.all_finite(gradients).astype(ms.float32))
            finite = everywhere == 1
            if finite:
                loss = ops.depend(loss, self.optimizer(gradients))
            loss = ops.depend(loss, self.scaler.adjust(finite))
        outputs = self.average.of(ops.stack([loss, data_loss, gradient_loss, self.stop]))
        own = ops.stack([norm, finite.astype(ms.float32), scale])
        return ops.concat([outputs[:3], own, outputs[3:]])


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
        total = total + ops.square(value).sum()
    return ops.sqrt(total)


def mixed_precision(network: MidasNet, level: AmpLevel) -> nn.Cell:
    """The network in float16 where `level` says so; its parameters stay float32.

    Args:
        level: O0: float32. O1: convolutions in float16, batch norm in float32, the rest in what
            comes in. O2: all but batch norm in float16. O3: everything.
    """
    if level != "O1":
        return amp.auto_mixed_precision(network, level)
    # MindSpore's own O1 rewrites the source of the network into files of the working folder.
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.Conv2d):
            cell.to_float(ms.float16)
        elif isinstance(cell, nn.BatchNorm2d):
            cell.to_float(ms.float32)
    return network
