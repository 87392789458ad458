"""Naive and Pareto mixing of two datasets that contradict each other.

    python -m tests.benchmarks.mixing_conflict [--seeds 3] [--steps 200] [--output DIR]

Both datasets show the same kind of picture: a random field r in all channels, a fainter one p in
red and another, q, in blue; independent, smooth, uniform in [0, 1] and new for every picture. The
target of dataset A is 3 q^2 - 2 q^3, that of B is p^3. Nothing in a picture tells which dataset it
is from, and the network has one output, so the two cannot both be met.

By ssimse with neither gradient matching nor the sign term, a dataset whose targets have the
variance V costs V/2 (1 - c^2), where c is the correlation of prediction and target. V is 0.121 for
A and 0.080 for B. The squared correlations with two independent things add up to at most 1, so the
mean of both losses is least where A has all of it: naive mixing must give B up, whatever the
learning rate and however long it runs. Along the direction of Pareto mixing both losses fall at
first by the same amount; it ends where they can no longer fall together, with something learned of
each.

Both start from the same random weights, with the same data, steps and learning rate: Adam 1e-3 with
linear decay, as the quickstart's. The network and the number of steps were chosen for the time they
take, the targets so that the variances differ clearly, but by less than a factor of two, and r so
that random weights have not learned one of the two by luck. (In a first trial in PyTorch, with
p^8, which has a variance of 0.047, and without r, one of three seeds began with a quarter of A's
loss gone by luck; Pareto mixing went to where B had most and lost some of that. Steps by Adam along
the common direction of a small batch are no guarantee for both.)

The losses are those of held-out pictures by `src.validation`, with moving statistics. The claim is
that Pareto mixing reduces both by at least 5 % of what they were at the start, and naive mixing one
of them not; the exit code is 1 if it fails in any seed. `--output` keeps data and runs; the
datasets' training losses and weights in each step are in the runs' metrics.csv.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from src import checkpoint, runtime
from src.config import load_config
from src.data.mixdata import find_pairs
from src.errors import Parser, UserError, run_program
from src.image_io import write_bytes, write_image, write_png16
from src.loss import ScaleShiftInvariantLoss
from src.midas_net import MidasNet
from src.validation import Validator
from tests.benchmarks.mixing_runs import last_weights, markdown, write_first_weights

SIZE = 64  # pixels
SMOOTHNESS = 5.0  # standard deviation of the blur, pixels
PAIRS = {"train": 240, "held_out": 48}  # of each dataset
TARGETS = {"A": lambda p, q: q * q * (3 - 2 * q), "B": lambda p, q: p**3}
MIXINGS = ("naive", "pareto")
MARGIN = 0.05
BATCH = 8

Losses = Mapping[str, float]  # dataset -> loss


def random_field(rng: np.random.Generator) -> np.ndarray:
    """Smooth, float64 [SIZE, SIZE], its values exactly uniform in [0, 1]."""
    smooth = cv2.GaussianBlur(rng.normal(size=(SIZE, SIZE)), (0, 0), SMOOTHNESS)
    field = np.empty(SIZE * SIZE)
    field[np.argsort(smooth, axis=None)] = np.linspace(0, 1, field.size)
    return field.reshape(SIZE, SIZE)


def make_pair(dataset: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture, uint8 [SIZE, SIZE, 3], and its disparity in [0, 1], float64 [SIZE, SIZE]."""
    r, p, q = (random_field(rng) for _ in range(3))
    picture = 0.6 * r[..., None] + 0.4 * np.stack([p, np.full_like(p, 0.5), q], axis=-1)
    return (255 * picture).round().astype(np.uint8), TARGETS[dataset](p, q)


def write_data(root: Path) -> None:
    """`<part>/<dataset>/{photos,disparity}/*.png`, and `<part>.json` that names them."""
    for number, (part, count) in enumerate(PAIRS.items()):
        entries = {}
        for offset, dataset in enumerate(TARGETS):
            rng = np.random.default_rng((number, offset))
            folders = [Path(part, dataset, name) for name in ("photos", "disparity")]
            for folder in folders:
                (root / folder).mkdir(parents=True)
            for i in range(count):
                picture, disparity = make_pair(dataset, rng)
                write_image(root / folders[0] / f"{i:04d}.png", picture)
                encoded = (65535 * disparity).round().astype(np.uint16)
                write_png16(root / folders[1] / f"{i:04d}.png", encoded)
            entries[dataset] = {
                "image": f"{folders[0]}/*.png",
                "depth": f"{folders[1]}/*.png",
                "kind": "disparity",
            }
        write_bytes(root / f"{part}.json", json.dumps(entries, indent=2).encode())


def sacrificed(start: Losses, end: Losses) -> list[str]:
    """The datasets whose loss is not at least `MARGIN` below that at the start.

    A loss of exactly 0 is that of a prediction that is constant, which has learned nothing.
    """
    return [name for name in start if not 0 < end[name] <= (1 - MARGIN) * start[name]]


def holds(losses: Mapping[str, Losses]) -> bool:
    """Whether naive mixing has given up one dataset of two, and Pareto mixing none."""
    given_up = {mixing: sacrificed(losses["start"], losses[mixing]) for mixing in MIXINGS}
    return len(given_up["naive"]) == 1 and not given_up["pareto"]


def table(results: list[Mapping[str, Losses]]) -> str:
    """Markdown: a row for every seed and one for their means."""
    stages = ("start", *MIXINGS)
    columns = [(name, stage) for name in TARGETS for stage in stages]
    head = ["seed", *(f"{name}: {stage}" for name, stage in columns), "claim"]
    rows = [head]
    for seed, losses in enumerate(results):
        cells = [f"{losses[stage][name]:.4f}" for name, stage in columns]
        rows.append([str(seed), *cells, "holds" if holds(losses) else "FAILS"])
    means = [statistics.fmean(losses[stage][name] for losses in results) for name, stage in columns]
    rows.append(["mean", *(f"{mean:.4f}" for mean in means), ""])
    return markdown(rows)


class Experiment:
    """Trainings on the data in a folder, and their losses on held-out pairs."""

    def __init__(self, root: Path, steps: int) -> None:
        flags = {
            **{"in_channels": 8, "groups": 4, "width_per_group": 4, "features": 32},
            **{"layers": [1, 1, 1, 1], "img_width": SIZE, "img_height": SIZE},
            **{"train_data_dir": root, "mixdata": "train.json", "run_path": root / "runs"},
            **{"batch_size": BATCH, "crop_min_scale": 1.0, "compile_cache": ""},
            **{"epoch_size": 1, "epoch_images": steps * BATCH * len(TARGETS)},
            **{"no_backbone_params_lr": 0.001, "backbone_params_lr": 0.001},
            **{"no_backbone_params_end_lr": 0.00001, "backbone_params_end_lr": 0.00001},
            **{"lr_decay": True, "power": 1.0, "loss": "ssimse", "alpha": 0, "sign_weight": 0},
        }
        arguments = [part for key, value in flags.items() for part in (f"--{key}", str(value))]
        self.config = config = load_config(arguments)
        self.root = root
        self.network = MidasNet(**config.network())
        loss = ScaleShiftInvariantLoss(config.alpha, config.scales, config.sign_weight, config.loss)
        pairs = find_pairs(str(root), "held_out.json")
        shape = (config.img_height, config.img_width, config.nm_img_mean, config.nm_img_std)
        self.validators = {
            name: Validator(
                self.network,
                loss,
                [pair for pair in pairs if pair.source.name == name],
                *shape,
                config.keep_aspect_ratio,
                config.batch_size,
            )
            for name in TARGETS
        }

    def losses(self, weights: Path) -> Losses:
        """Of a checkpoint."""
        checkpoint.load(self.network, weights)
        return {name: validator.run().loss for name, validator in self.validators.items()}

    def run(self, seed: int) -> Mapping[str, Losses]:
        """The losses at the start and after each way of mixing."""
        first = self.root / f"seed{seed}.ckpt"
        write_first_weights(self.config, seed, first)
        losses = {"start": self.losses(first)}
        for mixing in MIXINGS:
            changes = {"mixing": mixing, "seed": seed, "run_name": f"{mixing}-{seed}"}
            config = self.config.model_copy(update={**changes, "model_weights": str(first)})
            losses[mixing] = self.losses(last_weights(config))
        return losses


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each (3)")
    parser.add_argument("--steps", type=int, default=200, help="of a training (200)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="new folder to keep all in")
    options = parser.parse_args()
    if min(options.seeds, options.steps) < 1:
        raise UserError("--seeds, --steps: expected whole numbers from 1")
    if options.output and options.output.exists():
        raise UserError(f"--output: {options.output} exists; choose a new folder")
    runtime.start("CPU", checkpoints_only=True)
    with ExitStack() as stack:
        root = options.output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_data(root)
        experiment = Experiment(root, options.steps)
        results = [experiment.run(seed) for seed in range(options.seeds)]
    print(f"held-out losses, {options.steps} steps of {BATCH} pictures of each dataset")
    print(table(results))
    return 0 if all(map(holds, results)) else 1


if __name__ == "__main__":
    run_program(main)
