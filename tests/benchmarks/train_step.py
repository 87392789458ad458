"""Time of one training step against PyTorch, same weights and input, one run; and the first step.

    python -m tests.benchmarks.train_step [--small] [--size 384] [--runs 7]

A step is forward, loss, backward and Adam, batch 1. The network is the full one, or with `--small`
that of scripts/quickstart.yaml, for trying out. PyTorch runs eagerly, with the kernels that it
chooses on this processor. Both losses and gradient norms are compared before they are timed; the
two take turns, so that a change of the machine's speed meets both.

Before that, two processes take a first step each: without and with the compile cache, timed from
the start of the process, and the first step alone. The full network takes about 12 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
import torch
from torch import Tensor

from src import runtime
from src.config import Config, load_config
from src.midas_net import MidasNet
from src.train_step import StepOutputs
from tests.benchmarks import bare_step
from tests.benchmarks.timing import load, seconds, spread, verdict
from tests.references import TorchMidas, randomize
from tests.weights import copy_torch_weights

ROOT = Path(__file__).resolve().parents[2]
RATIO_GOAL = 1.25  # of a step's time to PyTorch's
CACHE_GOAL = 2.0  # of the time to the first step without the cache to that with it
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-4, 1e-2  # relative


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
    return (loss + config.sign_weight * torch.relu(-correlation)).mean()


def time_first_steps(config_path: Path, size: int, cache: Path) -> None:
    """Print the time to the first step of two processes of which the second finds the cache."""
    results = []
    for name in ("first start, fills the cache", "second start, from the cache"):
        command = ["-m", "tests.benchmarks.first_step", str(cache), str(config_path), str(size)]
        start = time.time()
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True
        )
        result = json.loads(done.stdout.splitlines()[-1])
        results.append((result["finished"] - start, result["first_step"]))
        print(
            f"{name:<28} {results[-1][0]:.1f} s from process start to the end of the first step, "
            f"first step alone {results[-1][1]:.1f} s",
            flush=True,
        )
    if len(list(cache.iterdir())) != 1:
        sys.exit("the sources changed between the two starts: this compares nothing")
    whole, alone = (first / second for first, second in zip(*results, strict=True))
    print(
        f"the cache makes it {whole:.2f} times faster (goal {CACHE_GOAL}: "
        f"{verdict(whole >= CACHE_GOAL)}), the first step alone {alone:.2f} times; {load()}"
    )


def torch_step(
    reference: TorchMidas, batch: tuple[np.ndarray, ...], config: Config, rates: tuple[float, float]
) -> Callable[[], Tensor]:
    """PyTorch's step as a function that returns its loss."""
    groups = [
        {"params": reference.pretrained.parameters(), "lr": rates[0]},
        {"params": reference.scratch.parameters(), "lr": rates[1]},
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.999))
    image, disparity, mask = (torch.from_numpy(values) for values in batch)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = torch_loss(reference(image), disparity, mask, config)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def compare(name: str, ours: float, theirs: float, tolerance: float) -> None:
    """Print both values; end the program if they differ."""
    difference = abs(ours - theirs) / abs(theirs)
    print(f"{name}: MindSpore {ours:.7g}, PyTorch {theirs:.7g}, {difference:.1e} apart")
    if not difference <= tolerance:
        sys.exit(f"the {name} differs by more than {tolerance}: this compares nothing")


def time_steps(config_path: Path, size: int, runs: int) -> None:
    """Print the times of a step of both, taken in turn."""
    # PyTorch's oneDNN reads its environment at its first convolution. It comes before
    # `runtime.start` sets ONEDNN_MAX_CPU_ISA, which MindSpore needs and which slows PyTorch down.
    torch.conv2d(torch.ones(1, 8, 8, 8), torch.ones(8, 8, 3, 3))
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        print("ONEDNN_MAX_CPU_ISA is set in the environment: it may slow PyTorch down")
    runtime.start("CPU")
    config = load_config(["--config_path", str(config_path)])
    reference = TorchMidas(**config.network()).train()
    randomize(reference, seed=0)
    network = MidasNet(**config.network())
    copy_torch_weights(reference, network)
    batch = bare_step.make_batch(1, size, size)
    rates = (bare_step.BACKBONE_LR, bare_step.DECODER_LR)
    run_torch = torch_step(reference, batch, config, rates)
    step = bare_step.make_step(config, network)
    tensors = tuple(ms.Tensor(values) for values in batch)
    outputs = StepOutputs.read(step(*tensors).asnumpy().tolist())
    compare("loss", outputs.loss, float(run_torch()), LOSS_TOLERANCE)
    norms = [part.grad.norm() for part in reference.parameters() if part.grad is not None]
    norm = float(torch.stack(norms).norm())
    compare("gradient norm", outputs.gradient_norm, norm, NORM_TOLERANCE)

    pairs = [(seconds(lambda: step(*tensors).asnumpy()), seconds(run_torch)) for _ in range(runs)]
    for name, times in zip(("MindSpore", "PyTorch"), zip(*pairs, strict=True), strict=True):
        print(f"{name:<10} {spread(times, 's')}")
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    print(
        f"MindSpore / PyTorch {ratio:.2f} (median of {runs} pairs; goal {RATIO_GOAL}: "
        f"{verdict(ratio <= RATIO_GOAL)}); PyTorch {torch.__version__}, {load()}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="quickstart's network, to try this")
    parser.add_argument("--size", type=int, default=384, help="height and width in pixels")
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each")
    options = parser.parse_args()
    name = "scripts/quickstart.yaml" if options.small else "config.yaml"
    print(f"{load()}; network of {name}, batch 1, {options.size}x{options.size}", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        time_first_steps(ROOT / name, options.size, Path(cache))
    time_steps(ROOT / name, options.size, options.runs)


if __name__ == "__main__":
    main()
