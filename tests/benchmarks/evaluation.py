"""Speed of an evaluation from the files to the errors, against the network alone, in one run.

    python -m tests.benchmarks.evaluation [--images 200] [--size 384] [--config_path FILE]

The network is that of a configuration, the small one of scripts/quickstart.yaml unless another is
given, with random weights; the data set is TUM-shaped: 640x480 PNG photographs and 16-bit depth.
"Network alone" runs on inputs that are in memory already.
The two take turns; medians with the spread, in images a second, and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import cv2
import numpy as np

from src import checkpoint, image_io, runtime
from src.config import load_config
from src.data.benchmarks import BENCHMARKS
from src.evaluation import FromNetwork, Options, plan_batches
from src.midas_net import MidasNet
from src.predictor import Predictor
from src.scoring import score
from tests.benchmarks.timing import seconds

SMALL = Path(__file__).resolve().parents[2] / "scripts" / "quickstart.yaml"


def write_set(root: Path, images: int) -> None:
    """Photograph-like pictures (they compress as such) and depth maps with holes, TUM's layout."""
    rng = np.random.default_rng(0)
    sequence = root / "sequence"
    lines = []
    for i in range(images):
        coarse = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        fine = rng.integers(-6, 7, (480, 640, 3))
        picture = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC) + fine
        depth = cv2.resize(rng.uniform(1, 8, (12, 16)), (640, 480), interpolation=cv2.INTER_LINEAR)
        depth[cv2.resize(rng.random((48, 64)), (640, 480)) < 0.3] = 0
        lines.append(f"rgb/{i}.png depth/{i}.png\n")
        for folder in ("rgb", "depth"):
            (sequence / folder).mkdir(parents=True, exist_ok=True)
        image_io.write_image(sequence / f"rgb/{i}.png", picture.clip(0, 255).astype(np.uint8))
        image_io.write_png16(sequence / f"depth/{i}.png", (depth * 5000).astype(np.uint16))
    (sequence / "associate.txt").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--size", type=int, default=384, help="eval_size in pixels")
    parser.add_argument("--config_path", type=Path, default=SMALL, help="of the network")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each")
    asked = parser.parse_args()
    runtime.start("CPU", checkpoints_only=True)
    config = load_config(["--config_path", str(asked.config_path)])
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(MidasNet(**config.network()), Path(folder, "small.ckpt"))
        write_set(Path(folder), asked.images)
        predictor = Predictor(
            Path(folder, "small.ckpt"), config.network(), config.nm_img_mean, config.nm_img_std
        )
        benchmark = BENCHMARKS["TUM"](folder, size=asked.size)
        options = Options(workers=asked.workers)
        network = FromNetwork(predictor, asked.batch_size)
        batches = plan_batches(predictor, benchmark, asked.batch_size)
        prepared = [
            [predictor.prepare(benchmark.read(i).image, benchmark.resize) for i in batch]
            for batch in batches
        ]

        def network_alone() -> None:
            for inputs in prepared:
                predictor.run(inputs, asked.batch_size)

        def whole() -> None:
            score(network, benchmark, batches, options, lambda row: None)

        predictor.run(prepared[0], asked.batch_size)  # compiles
        pairs = [(seconds(network_alone), seconds(whole)) for _ in range(asked.runs)]
    for name, times in zip(("network alone", "evaluation"), zip(*pairs, strict=True), strict=True):
        rates = [asked.images / spent for spent in times]
        print(
            f"{name:<14} median {statistics.median(rates):.2f} images/s, "
            f"{min(rates):.2f} to {max(rates):.2f}"
        )
    ratio = statistics.median(alone / spent for alone, spent in pairs)
    print(
        f"evaluation / network alone {ratio:.3f} (median of {asked.runs} pairs, {asked.images} "
        f"images, size {asked.size}, batch {asked.batch_size}, {asked.workers} workers)"
    )


if __name__ == "__main__":
    main()
