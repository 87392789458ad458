"""What saving a checkpoint takes: size and time of the weights and of Adam's state.

    python -m tests.benchmarks.checkpoints [--quick] [--runs 3]

As a training saves them, with checksum, fsync and renaming, into the folder for temporary files.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from src.config import load_config
from tests.benchmarks.report import parse, print_section
from tests.benchmarks.timing import seconds

ROOT = Path(__file__).resolve().parents[2]


def figures(quick: bool = False, runs: int = 3) -> dict[str, Any]:
    """Parameters, bytes and seconds of both files.

    Args:
        quick: the quickstart's network.
        runs: how often they are saved.
    """
    from src import checkpoint, runtime

    runtime.start("CPU")

    from src.midas_net import MidasNet
    from src.trainer import make_optimizer

    config_path = ROOT / ("scripts/quickstart.yaml" if quick else "config.yaml")
    network = MidasNet(**load_config(["--config_path", str(config_path)]).network())
    optimizer = make_optimizer(network, *[np.full(10, 1e-5, np.float32)] * 2)
    own = {parameter.name for parameter in network.get_parameters()}
    state = {p.name: p.asnumpy() for p in optimizer.get_parameters() if p.name not in own}
    with tempfile.TemporaryDirectory() as folder:
        weights_file, state_file = Path(folder, "weights.ckpt"), Path(folder, "state.ckpt")
        saving = {
            weights_file: lambda: checkpoint.save(network, weights_file),
            state_file: lambda: checkpoint.save_values(state, state_file),
        }
        times = {
            file.stem: [round(seconds(save), 4) for _ in range(runs)]
            for file, save in saving.items()
        }
        sizes = {file.stem: file.stat().st_size for file in saving}
    return {
        "network": config_path.name,
        "parameters": sum(parameter.size for parameter in network.get_parameters()),
        "trained": sum(parameter.size for parameter in optimizer.parameters),
        "bytes": sizes,
        "seconds": times,
    }


def main() -> None:
    options = parse(__doc__)
    print_section("checkpoints", figures(options.quick, min(options.runs, 3)))


if __name__ == "__main__":
    main()
