"""Train steps of one process or of several, for test_data_parallel.py.

    python tests/programs/data_parallel.py FOLDER [--run_distribute]

Writes FOLDER/RANKS-RANK.npz, of steps on four drawn images, dealt out to the processes, with frozen
batch-norm statistics: `gradient/NAME`, the averaged gradients of a first step; `SCOPE/NAME`, the
mixed ones where the first two images are one dataset and the others another, and `SCOPE_outputs`;
and `weights/NAME` after 20 steps of Adam on images of each process's own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from src import runtime

IMAGES, SIZE, STEPS = 4, 64, 20
NETWORK = {"in_channels": 8, "groups": 4, "width_per_group": 2, "features": 16}


def draw(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Images, disparity and a mask with holes."""
    shape = (count, SIZE, SIZE)
    mask = (rng.random(shape) < 0.8).astype(np.float32)
    image = rng.normal(size=(count, 3, SIZE, SIZE)).astype(np.float32)
    return [image, rng.random(shape).astype(np.float32), mask]


def main() -> None:
    runtime.start("CPU", seed=3, run_distribute="--run_distribute" in sys.argv)
    import mindspore as ms
    from mindspore import Parameter, nn, ops

    from src.loss import ScaleShiftInvariantLoss
    from src.midas_net import MidasNet
    from src.mixing import make_step
    from src.train_step import TrainStep
    from src.trainer import make_optimizer

    class Recorder(nn.Cell):
        """Stands in for an optimizer: keeps the gradients, changes nothing."""

        def __init__(self, parameters: list[Parameter]) -> None:
            super().__init__(auto_prefix=False)
            self.parameters = ms.ParameterTuple(parameters)
            kept = [Parameter(ops.zeros_like(p), name=f"kept.{p.name}") for p in parameters]
            self.kept = ms.ParameterTuple(kept)

        def construct(self, gradients: tuple[ms.Tensor, ...]) -> tuple[ms.Tensor, ...]:
            done = ()
            for i in range(len(self.kept)):
                done += (ops.assign(self.kept[i], gradients[i]),)
            return done

        def values(self, name: str) -> dict[str, np.ndarray]:
            """What is kept, by `name` and that of the parameter."""
            return {f"{name}/{p.name.removeprefix('kept.')}": p.asnumpy() for p in self.kept}

    rank, ranks = runtime.rank_and_size()
    network = MidasNet(**NETWORK, layers=(1, 1, 1, 1))
    norms = [cell for _, cell in network.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    loss = ScaleShiftInvariantLoss()
    recorder = Recorder(network.trainable_params())
    for norm in norms:
        norm.use_batch_statistics = False
    step = TrainStep(network, loss, recorder, ranks=ranks).set_train()
    own = slice(rank * IMAGES // ranks, (rank + 1) * IMAGES // ranks)
    images = draw(np.random.default_rng(0), IMAGES)
    outputs = step(*(ms.Tensor(part[own]) for part in images))
    results = recorder.values("gradient")
    results["outputs"] = outputs.asnumpy()

    # Of each dataset a process has its share, the first's before the second's.
    dealt = np.arange(IMAGES).reshape(2, ranks, -1)[:, rank].ravel()
    for scope in ("all", "last"):
        loss = ScaleShiftInvariantLoss(kind="ssitrim")
        step = make_step(network, loss, recorder, (1, 1), "pareto", scope, ranks=ranks).set_train()
        outputs = step(*(ms.Tensor(part[dealt]) for part in images))
        results |= recorder.values(scope)
        results[f"{scope}_outputs"] = outputs.asnumpy()

    for norm in norms:
        norm.use_batch_statistics = None
    rates = np.full(STEPS, 1e-3, np.float32)
    step = TrainStep(network, loss, make_optimizer(network, rates, rates), ranks=ranks).set_train()
    rng = np.random.default_rng(1 + rank)
    for _ in range(STEPS):
        step(*(ms.Tensor(part) for part in draw(rng, 2)))
    results |= {f"weights/{p.name}": p.asnumpy() for p in network.trainable_params()}
    np.savez(Path(sys.argv[1], f"{ranks}-{rank}.npz"), **results)


if __name__ == "__main__":
    main()
