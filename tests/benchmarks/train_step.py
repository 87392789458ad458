"""Time of a training step against PyTorch, same weights and input, one run.

    python -m tests.benchmarks.train_step [--quick] [--size 384] [--runs 7]

A step is forward, loss, backward and Adam, batch 1, float32. PyTorch runs eagerly, eagerly with
channels last, and compiled, with the kernels that it chooses on this processor; every one in a
process of its own, in turn. The first step's loss and gradient norm are compared; one that differs
is left out. All of them together take about 20 GB of memory.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.config import Config, load_config
from tests.benchmarks import bare_step
from tests.benchmarks.forward import CHANNELS_LAST, COMPILED, MINDSPORE, THEIRS
from tests.benchmarks.report import EAGER, parse, print_section
from tests.benchmarks.turns import Make, Outcome, Run, Shape, beside, seconds_by_shape, take_turns

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
TOLERANCES = {"loss": 1e-4, "gradient norm": 1e-2}  # relative


def torch_loss(prediction: Tensor, target: Tensor, mask: Tensor, config: Config) -> Tensor:
    """ssimse, gradient matching and the sign term, float32 [B, H, W] each -> scalar."""
    count = mask.sum((1, 2))
    mean, target_mean = ((x * mask).sum((1, 2)) / count for x in (prediction, target))
    centred = (prediction - mean[:, None, None]) * mask
    wanted = (target - target_mean[:, None, None]) * mask
    covariance = (centred * wanted).sum((1, 2))
    variance = (centred**2).sum((1, 2))
    residual = (covariance / variance)[:, None, None] * centred - wanted
    loss = (residual**2).sum((1, 2)) / (2 * count)
    for k in range(config.scales):
        r, m = residual[:, :: 2**k, :: 2**k], mask[:, :: 2**k, :: 2**k]
        across = (r[:, :, 1:] - r[:, :, :-1]).abs() * m[:, :, 1:] * m[:, :, :-1]
        down = (r[:, 1:] - r[:, :-1]).abs() * m[:, 1:] * m[:, :-1]
        loss = loss + config.alpha * (across.sum((1, 2)) + down.sum((1, 2))) / count
    correlation = covariance / (variance * (wanted**2).sum((1, 2))).sqrt()
    return (loss + config.sign_weight * (-correlation).clamp(min=0)).mean()


def make_pytorch(config_path: Path, kind: str) -> Run:
    """A step in one of PyTorch's ways, on a network of drawn weights."""
    import torch

    from tests.references import TorchMidas, randomize

    config = load_config(["--config_path", str(config_path)])
    reference = TorchMidas(**config.network()).train()
    randomize(reference, seed=0)
    layout = torch.channels_last if kind == CHANNELS_LAST else torch.contiguous_format
    reference = reference.to(memory_format=layout)
    compute = torch.compile(reference) if kind == COMPILED else reference
    groups = [
        {"params": reference.pretrained.parameters(), "lr": bare_step.BACKBONE_LR},
        {"params": reference.scratch.parameters(), "lr": bare_step.DECODER_LR},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.999))
    made: dict[Shape, tuple[Tensor, ...]] = {}

    def run(shape: Shape) -> dict[str, float]:
        is_first = shape not in made
        if is_first:
            batch = bare_step.make_batch(shape.batch, shape.size, shape.size)
            made[shape] = tuple(map(torch.from_numpy, batch))
        image, disparity, mask = made[shape]
        optimizer.zero_grad()
        prediction = compute(image.contiguous(memory_format=layout))
        loss = torch_loss(prediction, disparity, mask, config)
        loss.backward()
        told = {"loss": loss.item()}
        if is_first:
            norms = [part.grad.norm() for part in reference.parameters() if part.grad is not None]
            told["gradient norm"] = float(torch.stack(norms).norm())
        optimizer.step()
        return told

    return run


def make_mindspore(config_path: Path, weights: str) -> Run:
    """The project's step, with the weights of `make_pytorch`; or, for measuring memory without
    PyTorch in it, those that the network draws itself.

    Args:
        config_path: of the network and its loss.
        weights: `same` or `own`.
    """
    from src import runtime

    runtime.start("CPU", checkpoints_only=True)

    import mindspore as ms

    from src.midas_net import MidasNet
    from src.train_step import StepOutputs

    config = load_config(["--config_path", str(config_path)])
    network = MidasNet(**config.network())
    if weights == "same":
        _copy_weights(config.network(), network)
    step = bare_step.make_step(config, network)
    made: dict[Shape, tuple[ms.Tensor, ...]] = {}

    def run(shape: Shape) -> dict[str, float]:
        if shape not in made:
            batch = bare_step.make_batch(shape.batch, shape.size, shape.size)
            made[shape] = tuple(map(ms.Tensor, batch))
        outputs = StepOutputs.read(step(*made[shape]).asnumpy().tolist())
        return {"loss": outputs.loss, "gradient norm": outputs.gradient_norm}

    return run


def _copy_weights(arguments: Mapping[str, Any], network: Any) -> None:
    from tests.references import TorchMidas, randomize
    from tests.weights import copy_torch_weights

    reference = TorchMidas(**arguments)
    randomize(reference, seed=0)
    copy_torch_weights(reference, network)


def compare(outcomes: Mapping[str, Outcome], shape: Shape) -> dict[str, dict[str, float]]:
    """Relative differences of every contender's first step to that of PyTorch eager; those that
    differ too much have their times taken away."""
    differences = {}
    for name, outcome, told, expected in beside(outcomes, EAGER, shape):
        found = {what: abs(told[what] - value) / abs(value) for what, value in expected.items()}
        differences[name] = {what: float(f"{value:.2g}") for what, value in found.items()}
        if not all(value <= TOLERANCES[what] for what, value in found.items()):
            outcome.leave_out(f"differs from PyTorch's step by {differences[name]}")
    return differences


def figures(quick: bool = False, runs: int = 7, size: int = 0) -> dict[str, Any]:
    """Seconds of every step by contender, relative differences, problems.

    Args:
        quick: the quickstart's network at a small size.
        runs: counted steps.
        size: in pixels; 0: 384, quick: 96.
    """
    config_path = ROOT / ("scripts/quickstart.yaml" if quick else "config.yaml")
    shape = Shape(1, size or (96 if quick else 384))
    contenders: dict[str, Make] = {
        MINDSPORE: functools.partial(make_mindspore, config_path, "same"),
        **{name: functools.partial(make_pytorch, config_path, name) for name in THEIRS},
    }
    outcomes = take_turns(contenders, {shape: runs})
    differences = compare(outcomes, shape)
    return {"network": config_path.name, **seconds_by_shape(outcomes), "differences": differences}


def main() -> None:
    options = parse(__doc__)
    print_section("train_step", figures(options.quick, options.runs, options.size))


if __name__ == "__main__":
    main()
