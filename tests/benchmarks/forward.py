"""Time of a forward pass against PyTorch, same weights, same input, one run.

    python -m tests.benchmarks.forward [--quick] [--size 384] [--runs 7]

MindSpore as midas_train.py builds the network, and with batch norm folded, against PyTorch eager,
eager with channels last, and compiled; every one in a process of its own, in turn. After the
protocol's 384x384 at batch 1, other sizes and batches show how the time grows. Outputs that differ
from PyTorch eager's by more than 1e-4 of their range leave a contender out.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from src.config import load_config
from tests.benchmarks.report import EAGER, parse, print_section
from tests.benchmarks.turns import Make, Outcome, Run, Shape, beside, seconds_by_shape, take_turns

ROOT = Path(__file__).resolve().parents[2]
CHANNELS_LAST, COMPILED = "PyTorch, channels last", "torch.compile"
MINDSPORE, FOLDED = "MindSpore", "MindSpore, BN folded"
OURS, THEIRS = (MINDSPORE, FOLDED), (EAGER, CHANNELS_LAST, COMPILED)
SHAPES = (Shape(1, 384), Shape(2, 384), Shape(4, 384), Shape(1, 256), Shape(1, 512))
QUICK_SHAPES = (Shape(1, 96), Shape(2, 96))
TOLERANCE = 1e-4  # of the output's range


@functools.cache
def draw(shape: Shape) -> np.ndarray:
    """Inputs of a network, float32 [B, 3, size, size]."""
    size = (shape.batch, 3, shape.size, shape.size)
    return np.random.default_rng(0).normal(size=size).astype(np.float32)


def make_pytorch(network: Mapping[str, Any], kind: str) -> Run:
    """One of PyTorch's ways to compute a MidasNet of drawn weights."""
    import torch

    from tests.references import TorchMidas, randomize

    reference = TorchMidas(**network).eval()
    randomize(reference, seed=0)
    layout = torch.channels_last if kind == CHANNELS_LAST else torch.contiguous_format
    reference = reference.to(memory_format=layout)
    compute = torch.compile(reference) if kind == COMPILED else reference

    def run(shape: Shape) -> np.ndarray:
        with torch.no_grad():
            image = torch.from_numpy(draw(shape)).contiguous(memory_format=layout)
            return compute(image).numpy()

    return run


def make_mindspore(network: Mapping[str, Any], kind: str) -> Run:
    """MindSpore's MidasNet with the weights of `make_pytorch`."""
    from src import runtime

    runtime.start("CPU", checkpoints_only=True)

    import mindspore as ms

    from src.fold_bn import folded
    from src.midas_net import MidasNet
    from tests.references import TorchMidas, randomize
    from tests.weights import copy_torch_weights

    reference = TorchMidas(**network)
    randomize(reference, seed=0)
    ours = MidasNet(**network).set_train(False)
    copy_torch_weights(reference, ours)
    if kind == FOLDED:
        ours = folded(ours)
    return lambda shape: ours(ms.Tensor(draw(shape))).asnumpy()


def compare(outcomes: Mapping[str, Outcome], shape: Shape) -> dict[str, float]:
    """The largest difference of every contender to PyTorch eager, of its range; those that differ
    too much have their times taken away."""
    differences = {}
    for name, outcome, output, expected in beside(outcomes, EAGER, shape):
        difference = difference_of_range(output, expected)
        differences[name] = float(f"{difference:.2g}")
        if not difference <= TOLERANCE:
            outcome.leave_out(f"its output is {difference:.1e} of the range from PyTorch's")
    return differences


def difference_of_range(output: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, of the range of what is expected."""
    return float(np.abs(output - expected).max() / np.ptp(expected))


def figures(quick: bool = False, runs: int = 7, size: int = 0) -> dict[str, Any]:
    """Seconds of every run by shape and contender, largest differences, problems.

    Args:
        quick: the quickstart's network at a small size.
        runs: counted runs at the first shape.
        size: of the first shape, in pixels; 0: 384, quick: 96.
    """
    config_path = ROOT / ("scripts/quickstart.yaml" if quick else "config.yaml")
    network = load_config(["--config_path", str(config_path)]).network()
    first, *others = QUICK_SHAPES if quick else SHAPES
    if size:
        first = Shape(1, size)
    contenders: dict[str, Make] = {
        **{name: functools.partial(make_mindspore, network, name) for name in OURS},
        **{name: functools.partial(make_pytorch, network, name) for name in THEIRS},
    }
    outcomes = take_turns(contenders, {first: runs})
    differences = compare(outcomes, first)
    found = seconds_by_shape(outcomes)
    few = {name: contenders[name] for name in (FOLDED, EAGER)}
    grown = seconds_by_shape(take_turns(few, dict.fromkeys(others, min(runs, 3))))
    found["shapes"] += grown["shapes"]
    return {"network": config_path.name, **found, "differences": differences}


def main() -> None:
    options = parse(__doc__)
    print_section("forward", figures(options.quick, options.runs, options.size))


if __name__ == "__main__":
    main()
