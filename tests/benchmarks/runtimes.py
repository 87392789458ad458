"""What computes the full network fastest on this machine, and how exactly, in one run.

    python -m tests.benchmarks.runtimes [--small] [--size 384] [--runs 5]

One network of drawn weights, exported by `midas_export.py`, on a photograph; every contender in a
process of its own, because MindSpore needs its oneDNN held to AVX2 on some processors and the
others do not. They take turns, so that a change of the machine's speed meets all of them. Prints
the median time of an image with its spread, the time over that of PyTorch eager (median of the
pairs), and the largest difference to PyTorch's float32 output over that output's range.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from src.config import Config, load_config
from tests.benchmarks.timing import load, seconds, spread, verdict

ROOT = Path(__file__).resolve().parents[2]
CKPT, STATE = "midas.ckpt", "midas.pt"
PYTORCH = "PyTorch eager"
CONTENDERS = {
    "MindSpore, .ckpt": (CKPT, "", ""),
    "MindSpore, .mindir": ("midas.mindir", "", ""),
    "MindSpore, .mindir, BN folded": ("folded.mindir", "", ""),
    "ONNX Runtime float32": ("midas.onnx", "onnxruntime", "float32"),
    "OpenVINO float32": ("midas.onnx", "openvino", "float32"),
    "OpenVINO bfloat16": ("midas.onnx", "openvino", "bfloat16"),
}
"""Name -> file, runtime and precision."""
GOALS = {"OpenVINO float32": 0.7, "OpenVINO bfloat16": 0.55}


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
        subprocess.run(command, check=True)


def photograph(config: Config, size: int) -> np.ndarray:
    """matplotlib's sample photograph as the network takes it: float32 [1, 3, size, size]."""
    from matplotlib import cbook

    from src import image_io
    from src.data import transforms

    image = image_io.read_image(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    resized = transforms.resize_image(image, size, size)
    return transforms.normalize(resized, config.nm_img_mean, config.nm_img_std)[None]


def make_pytorch(config: Config, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    import torch

    from tests.references import TorchMidas

    reference = TorchMidas(**config.network()).eval()
    reference.load_state_dict(torch.load(folder / STATE))

    def run(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return reference(torch.from_numpy(image)).numpy()

    return run


def make_ours(config: Config, folder: Path, name: str) -> Callable[[np.ndarray], np.ndarray]:
    from src import runtime
    from src.predictor import Predictor, needs_mindspore

    file, onnx_runtime, precision = CONTENDERS[name]
    if needs_mindspore(file):
        runtime.start("CPU")
    statistics_ = (config.nm_img_mean, config.nm_img_std)
    choice = (onnx_runtime, precision) if onnx_runtime else ()
    return Predictor(folder / file, config.network(), *statistics_, *choice).run


def work(parent: Connection, name: str, folder: Path, config_path: Path, size: int) -> None:
    """One contender: sends its output, then the seconds of an image whenever it is asked."""
    config = load_config(["--config_path", str(config_path)])
    image = photograph(config, size)
    run = make_pytorch(config, folder) if name == PYTORCH else make_ours(config, folder, name)
    run(image)  # compiles and allocates
    parent.send(run(image))
    while parent.recv():
        parent.send(seconds(lambda: run(image)))


def start(stack: ExitStack, name: str, *arguments: object) -> Connection:
    """A contender's process, and the pipe to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, name, *arguments), daemon=True)
    process.start()
    theirs.close()
    stack.callback(process.join)
    stack.callback(lambda: ours.send(0))
    return ours


def report(times: dict[str, list[float]], outputs: dict[str, np.ndarray]) -> None:
    """The table, and whether the goals are met."""
    expected = outputs[PYTORCH]
    print("| runtime | s an image | of PyTorch eager's time | largest difference |")
    print("| --- | --- | --- | --- |")
    ratios = {}
    for name, values in times.items():
        pairs = zip(values, times[PYTORCH], strict=True)
        ratios[name] = statistics.median(ours / theirs for ours, theirs in pairs)
        difference = np.abs(outputs[name] - expected).max() / np.ptp(expected)
        print(f"| {name} | {spread(values, 's')} | {ratios[name]:.2f} | {difference:.1e} |")
    for name, goal in GOALS.items():
        print(f"{name}: {ratios[name]:.2f}, goal {goal}: {verdict(ratios[name] <= goal)}")
    print(load())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="quickstart's network, to try this")
    parser.add_argument("--size", type=int, default=384, help="height and width in pixels")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each")
    options = parser.parse_args()
    config_path = ROOT / ("scripts/quickstart.yaml" if options.small else "config.yaml")
    print(load(), flush=True)
    with tempfile.TemporaryDirectory() as path, ExitStack() as stack:
        folder = Path(path)
        # in a process of its own: what MindSpore and PyTorch take there is given back
        writing = multiprocessing.get_context("spawn").Process(
            target=write_networks, args=(folder, config_path, options.size)
        )
        writing.start()
        writing.join()
        if writing.exitcode:
            sys.exit("the export failed, see above")
        pipes = {
            name: start(stack, name, folder, config_path, options.size)
            for name in (PYTORCH, *CONTENDERS)
        }
        outputs = {name: pipe.recv() for name, pipe in pipes.items()}
        times: dict[str, list[float]] = {name: [] for name in pipes}
        for _ in range(options.runs):
            for name, pipe in pipes.items():
                pipe.send(1)
                times[name].append(pipe.recv())
        report(times, outputs)


if __name__ == "__main__":
    main()
