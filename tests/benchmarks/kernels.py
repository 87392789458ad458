"""Where the time of a pass goes: oneDNN's own timing of its kernels, in MindSpore and in PyTorch.

    python -m tests.benchmarks.kernels [--quick] [--size 384] [--runs 3]

Both compute convolutions with oneDNN, which tells every kernel it runs and its time if the variable
ONEDNN_VERBOSE is 1 (oneDNN developer guide, "Verbose mode"). A forward pass and a training step,
batch 1, each in a process of its own. What no kernel of oneDNN's did is the rest: other operators,
memory, Python.

How long convolutions take depends on their kernels, which oneDNN chooses in onednn_conv/ as in
PyTorch, and MindSpore without that. Then `src/lean_conv.py` computes gradients of inputs as forward
convolutions, which oneDNN tells of as such: only the sum over directions compares with PyTorch's.
PyTorch computes small ones (batch 1, one group, no more than 20,480 values of input) without
oneDNN, and with a single thread those of 1x1; they are in its rest. The full network has no small
ones at 384x384.
"""

from __future__ import annotations

import math
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from src import cpu_kernels
from src.config import load_config
from tests.benchmarks import forward, train_step
from tests.benchmarks.report import parse, print_section
from tests.benchmarks.turns import Run, Shape

ROOT = Path(__file__).resolve().parents[2]
MARK = "midas: pass"  # before each counted pass, and after the last one
OWN = "midas: onednn_conv"  # if that computes the convolutions
MAKERS: dict[str, dict[str, Callable[[Path], Run]]] = {
    "forward": {
        "MindSpore": lambda path: forward.make_mindspore(_network(path), forward.FOLDED),
        "PyTorch": lambda path: forward.make_pytorch(_network(path), forward.EAGER),
    },
    "train_step": {
        "MindSpore": lambda path: train_step.make_mindspore(path, "same"),
        "PyTorch": lambda path: train_step.make_pytorch(path, forward.EAGER),
    },
}
_DIMENSION = re.compile(r"(g|mb|ic|oc|ih|oh|kh|iw|ow|kw)(\d+)")


class Kernel(NamedTuple):
    """One execution that oneDNN told of.

    Attributes:
        kind: `convolution`, `batch_normalization`, ...
        implementation: such as `x64:gemm:jit`.
        direction: `forward`, `backward_data`, `backward_weights` or `backward`.
        gflop: multiplications and additions, 1e9; 0 for what is no convolution.
        seconds: that it took.
    """

    kind: str
    implementation: str
    direction: str
    gflop: float
    seconds: float


def read_kernel(line: str) -> Kernel | None:
    """A line of oneDNN's verbose output, version 1, or None if it tells of no execution."""
    parts = line.strip().split(",")
    if parts[0] != "onednn_verbose" or "exec" not in parts:
        return None
    kind, implementation, direction = parts[parts.index("exec") + 2 :][:3]
    direction = direction.removesuffix("_training").removesuffix("_inference")
    gflop = _gflop(parts[-2]) if kind == "convolution" else 0.0
    return Kernel(kind, implementation, direction, gflop, float(parts[-1]) / 1e3)


def _gflop(problem: str) -> float:
    """Of a convolution's problem description: g32mb1_ic256oc256_ih24oh24kh3..._iw24ow24kw3..."""
    size = {name: int(value) for name, value in _DIMENSION.findall(problem)}
    outputs = math.prod(size[name] for name in ("mb", "oc", "oh", "ow"))
    products = size["ic"] // size.get("g", 1) * size["kh"] * size["kw"]
    return 2 * outputs * products / 1e9


def passes(lines: Iterable[str]) -> Iterator[tuple[float, list[Kernel]]]:
    """Seconds and kernels of each counted pass in what a process said."""
    kernels: list[Kernel] = []
    began = None
    for line in lines:
        if line.startswith(MARK):
            now = float(line.removeprefix(MARK))
            if began is not None:
                yield now - began, kernels
            began, kernels = now, []
        elif kernel := read_kernel(line):
            kernels.append(kernel)


def summary(found: Iterable[tuple[float, list[Kernel]]]) -> dict[str, Any]:
    """Of all passes: seconds, those of convolutions by direction, of other kernels; GFLOP, and
    what computes the convolutions."""
    found = list(found)
    convolutions = [[k for k in kernels if k.kind == "convolution"] for _, kernels in found]
    directions = sorted({k.direction for kernels in convolutions for k in kernels})
    return {
        "seconds": [seconds for seconds, _ in found],
        "convolutions": {
            direction: {
                "seconds": [
                    sum(k.seconds for k in kernels if k.direction == direction)
                    for kernels in convolutions
                ],
                "gflop": sum(k.gflop for k in convolutions[0] if k.direction == direction),
            }
            for direction in directions
        },
        "other kernels": [
            sum(k.seconds for k in kernels if k.kind != "convolution") for _, kernels in found
        ],
        "implementations": sorted({k.implementation for k in convolutions[0]}),
    }


def figures(quick: bool = False, runs: int = 3, size: int = 0) -> dict[str, Any]:
    """Of both passes and libraries, what `summary` tells; and the network."""
    config_path = ROOT / ("scripts/quickstart.yaml" if quick else "config.yaml")
    size = size or (96 if quick else 384)
    found: dict[str, Any] = {"network": config_path.name, "size": size}
    for what, makers in MAKERS.items():
        found[what] = {}
        for who in makers:
            print(f"{what}: {who}", flush=True)
            words = [what, who, str(config_path), str(size), str(runs)]
            done = subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.kernels", "--tell", *words],
                cwd=ROOT,
                env=os.environ | {"ONEDNN_VERBOSE": "1"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            lines = done.stdout.splitlines()
            found[what][who] = summary(passes(lines)) | {"onednn_conv": OWN in lines}
    return found


def convolutions_share(figures: dict[str, Any], what: str) -> float:
    """MindSpore's convolutions alone, as they are with its kernels, over PyTorch's whole pass: what
    would be left of the ratio of the two if everything else took no time."""
    ours, theirs = figures[what]["MindSpore"], figures[what]["PyTorch"]
    convolutions = sum(statistics.median(each["seconds"]) for each in ours["convolutions"].values())
    return convolutions / statistics.median(theirs["seconds"])


def _network(path: Path) -> dict[str, Any]:
    return load_config(["--config_path", str(path)]).network()


def _tell(what: str, who: str, config_path: str, size: str, runs: str) -> None:
    """Run passes between marks, in this process."""
    import time

    run = MAKERS[what][who](Path(config_path))
    shape = Shape(1, int(size))
    run(shape)  # compiles and allocates
    if cpu_kernels.chose_own():
        print(OWN, flush=True)
    for _ in range(int(runs)):
        print(MARK, time.perf_counter(), flush=True)
        run(shape)
    print(MARK, time.perf_counter(), flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--tell"]:
        _tell(*sys.argv[2:])
        return
    options = parse(__doc__)
    print_section("kernels", figures(options.quick, options.runs, options.size))


if __name__ == "__main__":
    main()
