"""The three losses with naive and with Pareto mixing of two styles of rendered scenes.

    python -m tests.benchmarks.mixing_losses [--seeds 3] [--steps 300] [--output DIR]

Two training sets that cannot simply be put together: rooms and clutter with depth in millimetres
('Indoor'), streets and open ground with disparity of unknown scale and shift ('Outdoor'). Each of
ssimse, ssimae and ssitrim is trained on both with naive and with Pareto mixing: the same number of
steps, the same pictures in the same order, and in each seed the same random first weights. The
networks are evaluated by `src.evaluation` on scenes of the same two kinds in the layouts of TUM
(indoor) and KITTI (outdoor), none of which they were trained on, and zero-shot on a photograph
with measured depth, Middlebury 'motorcycle'. AbsRel is that of the protocol: each prediction is
fitted to the true disparity by least squares, capped and inverted.

Network, learning rates (Adam 1e-3, linear decay) and weight of gradient matching are those of
scripts/quickstart.yaml for all six, nothing was tuned for one of them. The input is smaller, and
the numbers of steps and pictures are what 45 minutes on two cores allow. So few steps show how the
objectives compare early in a training of a small network from random weights, not what they reach.
Pareto mixing also has each style alone in batch norm, where naive mixing has both together, and the
evaluation uses the common moving statistics: that, too, is in the difference between the rows.

All goes to a folder that a second call with the same settings goes on in: what was rendered and the
trainings that were finished are kept (runs/<loss>-<mixing>-<seed>.json), one that was interrupted
begins anew. More seeds extend it. The table is printed and, with all numbers, in results.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src import checkpoint, runtime
from src.config import Config, load_config
from src.data.benchmarks import Benchmark, open_benchmarks
from src.errors import Parser, UserError, run_program
from src.evaluation import FromNetwork, Options, plan_batches
from src.image_io import write_bytes
from src.loss import KINDS
from src.predictor import Predictor
from src.scoring import score
from src.summary import Row, summarise
from tests.benchmarks.mixing_runs import (
    last_weights,
    markdown,
    mean_and_range,
    write_first_weights,
)

ROOT = Path(__file__).resolve().parents[2]
MIXINGS = ("naive", "pareto")
TESTS = {"TUM": "indoor", "Kitti": "outdoor", "Middlebury": "photograph"}
DATASETS = 2
EVALUATION_BATCH = 8
RENDERED = ("Indoor", "Outdoor", "TUM", "Kitti_raw_data")
FLAGS = {"img_width": 96, "img_height": 64, "eval_size": 96, "batch_size": 4, "epoch_size": 1}


def parse_arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--seeds", type=int, default=3, help="trainings of each (default %(default)s)")
    add("--steps", type=int, default=300, help="of a training (default %(default)s)")
    add("--train", type=int, default=300, help="pictures of each style (default %(default)s)")
    add("--test", type=int, default=24, help="test pictures of each (default %(default)s)")
    output = ROOT / "output" / "mixing_losses"
    add("--output", type=Path, default=output, help="folder to go on in (default %(default)s)")
    options = parser.parse_args()
    for name in ("seeds", "steps", "train", "test"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: expected a whole number from 1")
    return options


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder ours.

    Raises:
        UserError: it holds results of other settings, or something else.
    """
    path = folder / "settings.json"
    if not path.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"--output: {folder} holds other files; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps(settings, indent=1).encode())
    found = read_json(path)
    if other := [key for key in settings if found.get(key) != settings[key]]:
        had = ", ".join(f"{key} {found.get(key)}" for key in other)
        raise UserError(
            f"--output: {folder} was made with {had}; use that, or choose another folder"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A file of this program.

    Raises:
        UserError: it is something else.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{path}: cannot be read as JSON; remove it, it is then made again")
    return content


def render(data: Path, train: int, test: int) -> None:
    """Render the scenes that are not there yet, and write the photograph."""
    size = ["--width", "144", "--height", "96", "--train", str(train), "--test", str(test)]
    for script, options in (
        ("render_scenes.py", ["--sets", ",".join(RENDERED), *size]),
        ("photographs.py", []),
    ):
        command = [sys.executable, ROOT / "preprocess" / script, "--output", data, *options]
        if code := subprocess.run(command, check=False).returncode:
            sys.exit(code)  # the script has said why


def make_config(folder: Path, steps: int) -> Config:
    """The quickstart's network and recipe, smaller and shorter."""
    flags = FLAGS | {
        **{"config_path": ROOT / "scripts" / "quickstart.yaml"},
        **{"train_data_dir": folder / "data", "run_path": folder / "runs"},
        **{"epoch_images": steps * FLAGS["batch_size"] * DATASETS},
        **{"compile_cache": folder / "graphs"},
    }
    return load_config([part for key, value in flags.items() for part in (f"--{key}", str(value))])


class Experiment:
    """Trains in a folder, and evaluates what it has trained."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.config = config
        self.predictor: Predictor | None = None

    def result(self, loss: str, mixing: str, seed: int) -> dict[str, Any]:
        """Of one training, which is done if it is not there."""
        name = f"{loss}-{mixing}-{seed}"
        path = self.folder / "runs" / f"{name}.json"
        if path.exists():
            return read_json(path)
        shutil.rmtree(self.folder / "runs" / name, ignore_errors=True)  # was interrupted
        start = time.perf_counter()
        changes = {"loss": loss, "mixing": mixing, "seed": seed, "run_name": name}
        weights = last_weights(
            self.config.model_copy(update={**changes, "model_weights": self._first_weights(seed)})
        )
        seconds = time.perf_counter() - start
        result = {
            **{"loss": loss, "mixing": mixing, "seed": seed, "training_seconds": seconds},
            **{"step_seconds": step_seconds(weights.parents[1] / "metrics.csv", self.images)},
            "abs_rel": self.evaluate(weights),
        }
        write_bytes(path, json.dumps(result, indent=1).encode())
        return result

    @property
    def images(self) -> int:
        """In a step."""
        return self.config.batch_size * DATASETS

    def _first_weights(self, seed: int) -> str:
        path = self.folder / f"seed{seed}.ckpt"
        if not path.exists():
            write_first_weights(self.config, seed, path)
        return str(path)

    def evaluate(self, weights: Path) -> dict[str, dict[str, float]]:
        """AbsRel of a checkpoint, and of the image row alone, on each test."""
        config = self.config
        if self.predictor is None:
            normalisation = config.nm_img_mean, config.nm_img_std
            self.predictor = Predictor(weights, config.network(), *normalisation, fold_bn=False)
        checkpoint.load(self.predictor.network.cell, weights)  # its compiled graphs stay
        tests = open_benchmarks(
            ",".join(TESTS), config.train_data_dir, config.benchmark_paths(), config.eval_size
        )
        return {test.name: self._abs_rel(test) for test in tests}

    def _abs_rel(self, test: Benchmark) -> dict[str, float]:
        size = min(EVALUATION_BATCH, len(test))
        rows: list[Row] = []
        batches = plan_batches(self.predictor, test, size)
        score(FromNetwork(self.predictor, size), test, batches, Options(), rows.append)
        means = summarise(test.name, test.metric, rows, {}, test.root).means
        return {"network": means["abs_rel"], "row": means["row_abs_rel"]}


def step_seconds(metrics: Path, images: int) -> float:
    """The median time of a step, from metrics.csv."""
    head, *rows = (line.split(",") for line in metrics.read_text().splitlines())
    column = head.index("images_per_second")
    return statistics.median(images / float(row[column]) for row in rows)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for every loss and way of mixing, means and ranges over the seeds."""
    rows = [["loss", "mixing", *(f"AbsRel {name}" for name in TESTS.values()), "ms a step"]]
    for loss, mixing in itertools.product(KINDS, MIXINGS):
        own = [one for one in results if (one["loss"], one["mixing"]) == (loss, mixing)]
        errors = [[one["abs_rel"][test]["network"] for one in own] for test in TESTS]
        step = 1000 * statistics.median(one["step_seconds"] for one in own)
        cells = [mean_and_range(values, 3) for values in errors]
        rows.append([loss, mixing, *cells, f"{step:.0f}"])
    baseline = [f"{results[0]['abs_rel'][test]['row']:.3f}" for test in TESTS]
    return markdown([*rows, ["image row alone", "", *baseline, ""]])


def main() -> None:
    options = parse_arguments()
    started = time.perf_counter()
    folder = options.output
    settings = {name: getattr(options, name) for name in ("steps", "train", "test")} | FLAGS
    claim(folder, settings)
    render(folder / "data", options.train, options.test)
    (folder / "runs").mkdir(exist_ok=True)
    runtime.start("CPU", checkpoints_only=True)
    experiment = Experiment(folder, make_config(folder, options.steps))
    results = [
        experiment.result(loss, mixing, seed)
        for seed, loss, mixing in itertools.product(range(options.seeds), KINDS, MIXINGS)
    ]
    text = table(results)
    summary = {"settings": settings, "seeds": options.seeds, "runs": results, "table": text}
    write_bytes(folder / "results.json", json.dumps(summary, indent=1).encode())
    print(f"AbsRel after {options.steps} steps of {experiment.images} pictures: mean (range) of")
    print(f"{options.seeds} seeds; {options.test} pictures of each style, 1 photograph")
    print(f"{text}\n{time.perf_counter() - started:.0f} s; {folder / 'results.json'}")


if __name__ == "__main__":
    run_program(main)
