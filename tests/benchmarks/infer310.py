"""Throughput of the C++ program from files to files, against OpenVINO on a tensor in memory.

    python -m tests.benchmarks.infer310 [--small] [--images 12] [--size 384] [--runs 5]

The program predicts a folder of 640x480 JPEGs, decoding, resizing and writing included, loading the
model not. OpenVINO, in Python, predicts the same number of preloaded tensors of the same shape with
the same precision and threads. They take turns; images a second and the median of the ratios.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from src import checkpoint
from src.config import load_config
from src.data.transforms import ResizeRule
from src.image_io import write_image
from src.midas_net import MidasNet
from tests.benchmarks.timing import load, seconds, spread, verdict

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "ascend310_infer" / "out" / "midas_infer"
HEIGHT, WIDTH = 480, 640
GOAL = 0.95


def write_photographs(folder: Path, images: int) -> None:
    """Photograph-like JPEGs: they compress as such."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(images):
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        fine = rng.integers(-6, 7, (HEIGHT, WIDTH, 3))
        picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) + fine
        write_image(folder / f"{i:03d}.jpg", picture.clip(0, 255).astype(np.uint8))


def export(folder: Path, config_path: Path) -> Path:
    """A network of random weights as .onnx."""
    network = load_config(["--config_path", str(config_path)]).network()
    checkpoint.save(MidasNet(**network), folder / "midas.ckpt")
    files = ["--model_weights", str(folder / "midas.ckpt"), "--file_format", "ONNX"]
    program = [sys.executable, str(ROOT / "midas_export.py"), "--config_path", str(config_path)]
    subprocess.run([*program, *files], check=True)
    return folder / "midas.onnx"


def run_program(model: Path, images: Path, output: Path, size: int) -> float:
    """Images a second, end to end, by its own line."""
    output.mkdir()
    command = [PROGRAM, "--model", model, "--data", images, "--dataset", "images"]
    command += ["--output", output, "--size", str(size)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    text = (output / "time_Result" / "test_perform_static.txt").read_text()
    return float(re.search(r"end to end: ([\d.]+) images/s", text)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="quickstart's network, to try this")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--size", type=int, default=384, help="of the longer side in pixels")
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each")
    asked = parser.parse_args()
    config_path = ROOT / ("scripts/quickstart.yaml" if asked.small else "config.yaml")
    subprocess.run(["bash", str(ROOT / "ascend310_infer" / "build.sh")], check=True)
    import openvino

    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        write_photographs(folder / "images", asked.images)
        model = export(folder, config_path)
        height, width = ResizeRule(asked.size, asked.size).output_size(HEIGHT, WIDTH)
        tensor = np.random.default_rng(0).normal(size=(1, 3, height, width)).astype(np.float32)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": os.cpu_count()}
        core = openvino.Core()
        network = core.read_model(model)
        network.reshape(list(tensor.shape))
        request = core.compile_model(network, "CPU", settings).create_infer_request()
        request.infer([tensor])

        def preloaded() -> None:
            for _ in range(asked.images):
                request.infer([tensor], share_inputs=True)

        ours, bare = [], []
        for run in range(asked.runs):
            ours.append(run_program(model, folder / "images", folder / f"run{run}", asked.size))
            bare.append(asked.images / seconds(preloaded))
    print(f"midas_infer, {width}x{height}        {spread(ours, 'images/s', 3)}")
    print(f"OpenVINO, tensor in memory  {spread(bare, 'images/s', 3)}")
    ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
    print(f"midas_infer / OpenVINO {ratio:.3f}, goal {GOAL}: {verdict(ratio >= GOAL)}; {load()}")


if __name__ == "__main__":
    main()
