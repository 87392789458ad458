"""Time of one forward pass of the full network against PyTorch, same weights, same input, one run.

    python -m tests.benchmarks.forward [--size 384] [--runs 7]

The two take turns, so that a change of the machine's speed meets both. Prints medians in seconds
with the spread, and their ratio.
"""

from __future__ import annotations

import argparse
import statistics

import mindspore as ms
import numpy as np
import torch

from src import runtime
from src.midas_net import MidasNet
from tests.benchmarks.timing import seconds
from tests.references import TorchMidas, randomize
from tests.weights import copy_torch_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=384, help="height and width in pixels")
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each")
    options = parser.parse_args()
    # PyTorch keeps what its first convolution finds; `start` chooses other kernels for MindSpore.
    torch.conv2d(torch.ones(1, 8, 8, 8), torch.ones(8, 8, 3, 3))
    runtime.start("CPU")
    reference = TorchMidas().eval()
    randomize(reference, seed=0)
    network = MidasNet()
    copy_torch_weights(reference, network)
    network.set_train(False)
    image = np.random.default_rng(0).normal(size=(1, 3, options.size, options.size))
    image = image.astype(np.float32)

    def run_torch() -> np.ndarray:
        with torch.no_grad():
            return reference(torch.from_numpy(image)).numpy()

    def run_mindspore() -> np.ndarray:
        return network(ms.Tensor(image)).asnumpy()

    expected, actual = run_torch(), run_mindspore()  # the first runs compile and allocate
    difference = np.abs(expected - actual).max() / np.ptp(expected)
    pairs = [(seconds(run_mindspore), seconds(run_torch)) for _ in range(options.runs)]
    for name, times in zip(("MindSpore", "PyTorch"), zip(*pairs, strict=True), strict=True):
        median, low, high = statistics.median(times), min(times), max(times)
        print(f"{name:<10} median {median:.2f} s, {low:.2f} to {high:.2f} s")
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    print(f"MindSpore / PyTorch {ratio:.2f} (median of {options.runs} pairs)")
    print(f"largest difference {difference:.1e} of the output's range; PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
