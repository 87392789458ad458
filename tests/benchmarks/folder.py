"""midas_run.py's way from a folder of photographs to depth maps, against the network alone.

    python -m tests.benchmarks.folder [--quick] [--images 12] [--runs 5] [--batch_size 1] [--onnx]

The photographs are JPEGs of 640x480 and 1024x768, half of them each; all files of midas_run.py are
written. "Network alone" runs on inputs that are in memory already. The two take turns. Loading and
compiling are no part of either, and stated. `--onnx` exports the network first and computes the
.onnx with OpenVINO in float32.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from skimage import data

from src.config import Config, load_config
from src.image_io import list_images, read_image
from src.inference import predict_folder
from src.predictor import Predictor
from tests.benchmarks.report import print_section
from tests.benchmarks.timing import seconds

ROOT = Path(__file__).resolve().parents[2]
SIZES = ((640, 480), (1024, 768))
NAMES = ("astronaut", "chelsea", "coffee")


def write_photographs(folder: Path, count: int) -> None:
    """JPEGs of scikit-image's photographs, `SIZES` in turn, each a part of its own."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        whole = getattr(data, NAMES[i % len(NAMES)])()
        top, left = (int(rng.integers(side // 5)) for side in whole.shape[:2])
        picture = cv2.resize(whole[top:, left:], SIZES[i % 2], interpolation=cv2.INTER_CUBIC)
        Image.fromarray(picture).save(folder / f"{i:03d}.jpg", quality=92)


def write_weights(folder: Path, config: Config, onnx: bool) -> Path:
    """Random weights of a configuration's network, as .ckpt or .onnx."""
    from src import checkpoint
    from src.export import Job, export
    from src.export_plan import Size
    from src.midas_net import MidasNet

    path = folder / "drawn.ckpt"
    checkpoint.save(MidasNet(**config.network()), path)
    if not onnx:
        return path
    size = [Size(64, 64, "")]
    normalisation = (config.nm_img_mean, config.nm_img_std)
    place = path.with_suffix(".onnx")
    list(export(Job(str(path), config.network(), *normalisation, "ONNX", place, size)))
    return place


def usage(function: Callable[[], object], images: int) -> dict[str, float]:
    """Seconds an image, of the clock and of all cores together."""
    cores = time.process_time()
    spent = seconds(function)
    return {"clock": spent / images, "cores": (time.process_time() - cores) / images}


def figures(
    quick: bool = False, runs: int = 5, images: int = 12, batch_size: int = 1, onnx: bool = False
) -> dict[str, Any]:
    """Seconds an image of every run, for `network` and `folder`, by `clock` and by `cores`; seconds
    of `loading` and of the `first` image of each shape, which compiles; how it was computed.

    Args:
        quick: the quickstart's network.
        runs: counted runs of each.
        images: how many photographs.
        batch_size: run_batch_size.
        onnx: the .onnx on OpenVINO, float32, instead of the .ckpt.
    """
    from src import runtime

    runtime.start("CPU", checkpoints_only=True)
    config_path = ROOT / ("scripts/quickstart.yaml" if quick else "config.yaml")
    config = load_config(["--config_path", str(config_path)])
    rule, times = config.input_rule(), {"network": [], "folder": []}
    with tempfile.TemporaryDirectory() as temporary:
        source, output = Path(temporary, "photographs"), Path(temporary, "depth")
        write_photographs(source, images)
        weights = write_weights(Path(temporary), config, onnx)
        start = time.perf_counter()
        predictor = Predictor(weights, config.network(), config.nm_img_mean, config.nm_img_std)
        loading = time.perf_counter() - start
        files, _ = list_images(source)
        inputs = [predictor.prepare(read_image(file), rule) for file in files]
        batches = [inputs[at : at + batch_size] for at in range(0, images, batch_size)]

        def network_alone() -> None:
            for batch in batches:
                predictor.run(batch, batch_size)

        def whole() -> None:
            predict_folder(
                predictor, rule, source, output, None, batch_size, config.num_parallel_workers
            )

        first = seconds(lambda: predictor.run(batches[0], batch_size))
        for _ in range(runs):
            times["network"].append(usage(network_alone, images))
            times["folder"].append(usage(whole, images))
    return {
        "runtime": predictor.runtime,
        "config": config_path.name,
        **{"images": images, "batch_size": batch_size, "input": list(inputs[0].shape[1:])},
        **{"loading": loading, "first": first, "seconds": times},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="quickstart's network, to try this")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--onnx", action="store_true", help="the .onnx on OpenVINO, float32")
    logging.getLogger("midas").setLevel(logging.WARNING)
    print_section("folder", figures(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
