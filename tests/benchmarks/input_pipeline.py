"""The input pipeline against MiDaS' transforms under a PyTorch DataLoader, one run.

    python -m tests.benchmarks.input_pipeline [--images 192] [--rounds 5]

Both read the same 640x480 JPEG photographs and 8-bit PNG targets, take the same crops and flips,
and make batches of 8 at 384x384. Each has a process of its own, and they take turns. What is
compared is the processor time of an image, that of all threads and worker processes: images/s per
core are its inverse, and other programs on the machine disturb it less than they do the wall clock.
The goals: a quarter of the other's or less, with the cache an eighth. With the margin of
config.yaml the cache keeps photographs of this size as they are: it saves their decoding, and no
resizing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.photo_pairs import write_photo_pairs
from tests.benchmarks.report import print_section
from tests.benchmarks.usage import answer, asked, used

PAIRS, HEIGHT, WIDTH = 64, 480, 640
SIZE, BATCH, MARGIN = 384, 8, 1.34  # config.yaml's
WORKERS = (0, 1, 2)
OURS, CACHED, TORCH = "files", "cache", "torch"
ME = "tests.benchmarks.input_pipeline"


# --- This project's side, in a process of its own -------------------------------------------------


def serve(root: Path) -> None:
    """Answer questions of `figures`."""
    from src import runtime
    from src.config import load_config
    from src.data.cache import Cache, Settings
    from src.data.cache_build import build
    from src.data.mixdata import find_pairs
    from src.data.training import Augmentation, TrainingData, make_dataset

    runtime.start("CPU")  # with the queue of batches that a training has
    keys = {"data_cache": root / "cache", "cache_margin": MARGIN}
    keys |= {"img_height": SIZE, "img_width": SIZE}
    config = load_config([text for k, v in keys.items() for text in (f"--{k}", str(v))])
    mean, std = config.nm_img_mean, config.nm_img_std
    augment = Augmentation(SIZE, SIZE, mean, std)
    pairs = find_pairs(str(root), "mixdata.json")
    settings = Settings.of(config)
    build(pairs, settings, threads=2)
    readers = {OURS: {}, CACHED: {"open_": Cache(pairs, settings)}}

    def run(kind: str, workers: int, images: int) -> dict[str, float]:
        data = TrainingData(pairs, augment, 0, BATCH, epoch_images=images, **readers[kind])
        with used(images) as figures:
            if workers == 0:
                for step in range(data.steps):
                    assert data.batch(step)[0].shape == (BATCH, 3, SIZE, SIZE)
            else:
                dataset = make_dataset(data, workers)
                for batch in dataset.create_dict_iterator(num_epochs=1):
                    assert batch["image"].shape == (BATCH, 3, SIZE, SIZE)
        return figures

    def split(images: int) -> dict[str, float]:
        return _split(augment, pairs, images)

    answer({"run": run, "split": split})


def _split(augment: Any, pairs: list, images: int) -> dict[str, float]:
    """Milliseconds of processor time that each part of a sample takes, in one thread."""
    from src.data import transforms
    from src.data.pairs import open_pair

    spent: Counter[str] = Counter()

    def timed(name: str, function: Callable[..., Any], *arguments: object) -> Any:
        start = time.thread_time()
        result = function(*arguments)
        spent[name] += (time.thread_time() - start) * 1000 / images
        return result

    table = transforms.normalization_table(augment.mean, augment.std)
    batch = [np.empty(shape, np.float32) for shape in augment.shapes(BATCH)]
    for place in range(images):
        turn, index = divmod(place, len(pairs))
        rng = np.random.default_rng((0, turn, index))
        image, disparity, mask = (column[place % BATCH] for column in batch)
        pair = timed("target decoded, headers", open_pair, pairs[index])
        pixels = timed("image decoded", pair.photo.pixels)
        box = transforms.random_crop(HEIGHT, WIDTH, 1.0, augment.crop_min_scale, rng)
        part = transforms.crop(pixels, box)
        resized = timed("image resized", transforms.resize_pixels, part, SIZE, SIZE)
        timed("image normalised into the batch", transforms.normalize_pixels, resized, table, image)

        def target(
            box: Any = box, pair: Any = pair, out: Any = disparity, mask: Any = mask
        ) -> None:
            values = pair.disparity(
                lambda m: transforms.resize_nearest(transforms.crop(m, box), SIZE, SIZE)
            )
            known = np.isfinite(values)
            transforms.unit_range(values, known, out)
            mask[:] = known

        timed("target resized, to [0, 1]", target)
    return dict(spent)


# --- The comparison -------------------------------------------------------------------------------


def figures(images: int = 192, rounds: int = 5) -> dict[str, Any]:
    """Measure.

    Args:
        images: of a run: 64 times a number, or below 64 a multiple of 8. These are whole passes
            over the pairs, so that all read the same pairs and cut them alike.
        rounds: in each, every contender runs once with each number of workers.

    Returns:
        {"runs": {contender: {workers: [{"wall", "cpu"}, ...]}},
        "split": {contender: {part: ms}}, "per core": [ratio, ...], "per core, cache": [...]}, times
        in ms an image, a ratio for each round: of the processor time with 2 workers.
    """
    count = min(PAIRS, images)
    if images % count or count % BATCH:
        raise ValueError(f"images: {images} are no whole passes; choose 64 or a multiple")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_photo_pairs(Path(folder), count, HEIGHT, WIDTH)
        ours = stack.enter_context(asked(ME, "--serve", folder))
        torch = stack.enter_context(asked("tests.benchmarks.torch_pipeline", folder))
        ask = {
            TORCH: lambda workers: torch("run", workers=workers, images=images),
            OURS: lambda workers: ours("run", kind=OURS, workers=workers, images=images),
            CACHED: lambda workers: ours("run", kind=CACHED, workers=workers, images=images),
        }
        runs = {name: {workers: [] for workers in WORKERS} for name in ask}
        for number in range(rounds + 1):  # the first warms up
            for workers in WORKERS:
                for name, run in ask.items():
                    done = run(workers)
                    if number:
                        runs[name][workers].append(done)
        found["runs"] = runs
        found["split"] = {
            OURS: ours("split", images=images),
            TORCH: torch("split", images=images),
        }
    cpu = {name: [run["cpu"] for run in runs[name][2]] for name in runs}
    for key, name in (("per core", OURS), ("per core, cache", CACHED)):
        found[key] = [other / own for other, own in zip(cpu[TORCH], cpu[name], strict=True)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=192, help="of a run (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)  # a process of its own
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    else:
        found = figures(options.images, options.rounds)
        print_section("input_pipeline", json.loads(json.dumps(found)))  # keys as in a file


if __name__ == "__main__":
    sys.exit(main())
