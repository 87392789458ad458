"""What computes an exported network fastest on this machine, and how exactly, in one run.

    python -m tests.benchmarks.runtimes [--quick] [--size 384] [--runs 5]

One network of drawn weights, exported by `midas_export.py`, on a photograph, against PyTorch eager;
every contender in a process of its own, in turn. The largest difference is to PyTorch's float32
output, over that output's range. (The network that is not exported: tests.benchmarks.forward.)
"""

from __future__ import annotations

import functools
import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from src.config import Config, load_config
from tests.benchmarks.forward import difference_of_range
from tests.benchmarks.report import EAGER, parse, print_section
from tests.benchmarks.turns import Make, Run, Shape, beside, seconds_by_shape, take_turns

ROOT = Path(__file__).resolve().parents[2]
CKPT, STATE = "midas.ckpt", "midas.pt"
CONTENDERS = {
    "MindSpore, .mindir": ("midas.mindir", "", ""),
    "MindSpore, .mindir, BN folded": ("folded.mindir", "", ""),
    "ONNX Runtime float32": ("midas.onnx", "onnxruntime", "float32"),
    "OpenVINO float32": ("midas.onnx", "openvino", "float32"),
    "OpenVINO bfloat16": ("midas.onnx", "openvino", "bfloat16"),
}
"""Name -> file, runtime and precision."""


def write_networks(folder: Path, config_path: Path, size: int) -> None:
    """One network of drawn weights in every format."""
    import torch

    from src import checkpoint
    from src.midas_net import MidasNet
    from tests.references import TorchMidas, randomize
    from tests.weights import copy_torch_weights

    network = load_config(["--config_path", str(config_path)]).network()
    reference = TorchMidas(**network).eval()
    randomize(reference, seed=0)
    torch.save(reference.state_dict(), folder / STATE)
    ours = MidasNet(**network)
    copy_torch_weights(reference, ours)
    checkpoint.save(ours, folder / CKPT)
    common = ["--config_path", str(config_path), "--model_weights", str(folder / CKPT)]
    for name, *flags in (
        ("midas.mindir", "--file_format", "MINDIR"),
        ("folded.mindir", "--file_format", "MINDIR", "--fold_bn", "True"),
        ("midas.onnx", "--file_format", "ONNX"),
    ):
        place = ["--export_path", str(folder / name), "--export_size", f"{size}x{size}"]
        command = [sys.executable, str(ROOT / "midas_export.py"), *common, *flags, *place]
        subprocess.run(command, check=True, stdout=sys.stderr)


@functools.cache
def photograph(config: Config, size: int) -> np.ndarray:
    """matplotlib's sample photograph as the network takes it: float32 [1, 3, size, size]."""
    from matplotlib import cbook

    from src import image_io
    from src.data import transforms

    image = image_io.read_image(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    resized = transforms.resize_image(image, size, size)
    return transforms.normalize(resized, config.nm_img_mean, config.nm_img_std)[None]


def make_pytorch(config_path: Path, folder: Path) -> Run:
    """PyTorch's network on the photograph."""
    import torch

    from tests.references import TorchMidas

    config = load_config(["--config_path", str(config_path)])
    reference = TorchMidas(**config.network()).eval()
    reference.load_state_dict(torch.load(folder / STATE))

    def run(shape: Shape) -> np.ndarray:
        with torch.no_grad():
            return reference(torch.from_numpy(photograph(config, shape.size))).numpy()

    return run


def make_exported(config_path: Path, folder: Path, name: str) -> Run:
    """An exported file in the runtime of a contender, on the photograph."""
    from src import runtime
    from src.predictor import Predictor, is_checkpoint, needs_mindspore

    config = load_config(["--config_path", str(config_path)])
    file, onnx_runtime, precision = CONTENDERS[name]
    if needs_mindspore(file):
        runtime.start("CPU", checkpoints_only=is_checkpoint(file))
    choice = (onnx_runtime, precision) if onnx_runtime else ()
    predictor = Predictor(
        folder / file, config.network(), config.nm_img_mean, config.nm_img_std, *choice
    )
    return lambda shape: predictor.run(photograph(config, shape.size))


def figures(quick: bool = False, runs: int = 5, size: int = 0) -> dict[str, Any]:
    """Seconds of every run by contender, largest differences to PyTorch's output, problems.

    Args:
        quick: the quickstart's network at a small size.
        runs: counted runs.
        size: in pixels; 0: 384, quick: 96.
    """
    config_path = ROOT / ("scripts/quickstart.yaml" if quick else "config.yaml")
    shape = Shape(1, size or (96 if quick else 384))
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        # in a process of its own: what MindSpore and PyTorch take there is given back
        writing = multiprocessing.get_context("spawn").Process(
            target=write_networks, args=(folder, config_path, shape.size)
        )
        writing.start()
        writing.join()
        if writing.exitcode:
            raise RuntimeError("the export failed, see above")
        contenders: dict[str, Make] = {
            EAGER: functools.partial(make_pytorch, config_path, folder),
            **{
                name: functools.partial(make_exported, config_path, folder, name)
                for name in CONTENDERS
            },
        }
        outcomes = take_turns(contenders, {shape: runs})
    differences = {
        name: float(f"{difference_of_range(output, expected):.2g}")
        for name, _, output, expected in beside(outcomes, EAGER, shape)
    }
    return {"network": config_path.name, **seconds_by_shape(outcomes), "differences": differences}


def main() -> None:
    options = parse(__doc__)
    print_section("runtimes", figures(options.quick, options.runs, options.size))


if __name__ == "__main__":
    main()
