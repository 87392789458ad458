"""Render random textured scenes with exact depth as ReDWeb, KITTI, Sintel and TUM folders.

    python preprocess/render_scenes.py --output data [--train 420] [--test 12] [--seed 1]

`--sets Indoor,Outdoor,Kitti_raw_data,TUM` renders two training sets of different style instead.
No two sets share a scene. The same settings give the same bytes,
whatever the number of workers; a run that was stopped goes on where it stopped, and larger numbers
of pictures extend the sets.
Needs Mitsuba 3: pip install -e .[demo]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from layouts import DEFAULT, LAYOUTS, Layout, TrainingSet, make_folder, write_mixdata
from tqdm import tqdm

from src.errors import Parser, UserError, run_program
from src.image_io import write_bytes

SETTINGS_FILE = "render_settings.json"
GENERATOR = 2  # raise when the same settings start to give other bytes


@dataclass(frozen=True)
class Task:
    """The missing pictures of one scene."""

    layout: int
    scene: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """What every worker needs to know."""

    output: Path
    sets: tuple[str, ...]
    train: int
    test: int
    seed: int
    width: int
    height: int
    samples: int

    def layouts(self) -> list[Layout]:
        """Every set that is asked for, with the number of its pictures."""
        chosen = (LAYOUTS[name] for name in self.sets)
        return [
            layout(self.output, self.train if issubclass(layout, TrainingSet) else self.test)
            for layout in chosen
        ]

    def settings(self) -> dict[str, int]:
        """What decides the bytes of a picture; kept beside them."""
        names = ("seed", "width", "height", "samples")
        return {"generator": GENERATOR, **{name: getattr(self, name) for name in names}}


def parse_arguments(arguments: list[str] | None = None) -> tuple[Job, int]:
    """Command line to the job and the number of workers."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="folder to write to")
    add(
        "--sets",
        default=",".join(DEFAULT),
        metavar="NAME,...",
        help=f"what to render: some of {', '.join(LAYOUTS)} (default %(default)s)",
    )
    add("--train", type=int, default=420, help="pictures in a training set (default %(default)s)")
    add("--test", type=int, default=12, help="pictures in each test set (default %(default)s)")
    add("--seed", type=int, default=1, help="another seed, other scenes (default %(default)s)")
    add("--width", type=int, default=160, help="of training pictures (default %(default)s)")
    add("--height", type=int, default=128, help="of training pictures (default %(default)s)")
    add("--samples", type=int, default=16, help="light paths a pixel (default %(default)s)")
    add("--workers", type=int, default=2, help="processes (default %(default)s)")
    options = vars(parser.parse_args(arguments))
    lowest = {"train": 0, "test": 0, "seed": 0, "width": 32, "height": 32, "samples": 1}
    for name, least in {**lowest, "workers": 1}.items():
        if options[name] < least:
            raise UserError(f"--{name} {options[name]}: expected a whole number from {least}")
    workers = options.pop("workers")
    sets = tuple(dict.fromkeys(options.pop("sets").split(",")))
    for name in sets:
        if name not in LAYOUTS:
            known = ", ".join(LAYOUTS)
            raise UserError(f"--sets: got {name!r}; expected some of {known}, by comma")
    return Job(sets=sets, **options), workers


def claim_folder(job: Job) -> None:
    """Make the output folder ours: refuse one that holds other data or other settings."""
    path = job.output / SETTINGS_FILE
    wanted = job.settings()
    if not path.exists():
        for name in (*job.sets, "mixdata.json"):
            if (job.output / name).exists():
                raise UserError(
                    f"{job.output / name} exists and was not rendered by this program; choose "
                    "another folder"
                )
        make_folder(job.output)
        write_bytes(path, (json.dumps(wanted, indent=2) + "\n").encode())
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON; choose another folder") from error
    if found != wanted:
        had = found if isinstance(found, dict) else {}
        other = ", ".join(f"{key} {had.get(key)}" for key in wanted if had.get(key) != wanted[key])
        raise UserError(
            f"{job.output} was rendered with other settings ({other}): use those, or choose "
            "another folder"
        )


def missing_tasks(job: Job) -> list[Task]:
    """One task for every scene that still lacks pictures."""
    tasks = []
    for number, layout in enumerate(job.layouts()):
        for first in range(0, layout.count, layout.views):
            views = range(first, min(first + layout.views, layout.count))
            missing = [i for i in views if not all(file.exists() for file in layout.files(i))]
            if missing:
                tasks.append(Task(number, first // layout.views, tuple(missing)))
    return tasks


def _start_worker() -> None:
    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def render_task(job: Job, task: Task) -> int:
    """Render and write the pictures of one scene; returns their number."""
    from renderer import SceneRenderer

    layout = job.layouts()[task.layout]
    width, height = layout.size or (job.width, job.height)
    kind = layout.kinds[task.scene % len(layout.kinds)]
    scene = SceneRenderer((job.seed, layout.split, task.scene), kind)
    for index in task.indices:
        view = scene.render(index % layout.views, width, height, job.samples)
        for file in layout.files(index):
            make_folder(file.parent)
        layout.write(index, view.image, view.depth, view.focal)
    return len(task.indices)


def _submit(pool: ProcessPoolExecutor, job: Job, tasks: list[Task]) -> list[Future[int]]:
    # Ctrl-C reaches every process of the terminal. Workers start here and inherit that they ignore
    # it: only the parent acts on it, and they finish the picture they are at.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return [pool.submit(render_task, job, task) for task in tasks]
    finally:
        signal.signal(signal.SIGINT, handler)


def render_all(job: Job, workers: int) -> None:
    """Render what is missing with a progress bar."""
    tasks = missing_tasks(job)
    total = sum(layout.count for layout in job.layouts())
    done = total - sum(len(task.indices) for task in tasks)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker)
    try:
        with tqdm(total=total, initial=done, desc="rendering", unit="picture") as bar:
            for future in as_completed(_submit(pool, job, tasks)):
                bar.update(future.result())
    except BrokenProcessPool as error:
        raise UserError(
            "a rendering process was ended from outside (out of memory?); run the same command "
            "again to go on, with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    for layout in job.layouts():
        layout.finish()
    write_mixdata(job.output, job.layouts())


def main() -> None:
    job, workers = parse_arguments()
    try:
        import mitsuba  # noqa: F401
    except ImportError as error:
        raise UserError("rendering needs Mitsuba 3: pip install -e .[demo]") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as tidily as on Ctrl-C
    claim_folder(job)
    render_all(job, workers)
    there = [f"{layout.name} {len(layout.pictures())}" for layout in job.layouts()]
    print(f"pictures in {job.output}: {', '.join(there)}")


if __name__ == "__main__":
    run_program(main)
