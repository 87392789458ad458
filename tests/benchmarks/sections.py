"""What `python -m tests.benchmarks` measures, and a process that measures one of it.

    python -m tests.benchmarks.sections NAME FILE [--quick]

writes the section's figures as JSON.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

from src.image_io import write_bytes


class Section(NamedTuple):
    """A measurement; the module of its name returns plain numbers.

    Attributes:
        title, text: what it measures.
        runs, quick_runs: of each, counted.
    """

    title: str
    text: str
    runs: int
    quick_runs: int = 2


SECTIONS = {
    "forward": Section(
        "Forward pass",
        "The same weights and inputs, drawn, float32, each in a process of its own, in turn.",
        7,
    ),
    "train_step": Section(
        "Training step",
        "Forward, loss, backward and Adam, float32; the same weights and inputs, in turn.",
        7,
    ),
    "kernels": Section(
        "Where the time goes",
        "oneDNN's own timing of its kernels, batch 1, each library in a process of its own.",
        3,
        1,
    ),
    "memory": Section(
        "Memory of a training step",
        "The largest resident set of a process that trains, everything in it counted.",
        2,
    ),
    "input_pipeline": Section(
        "Input pipeline",
        "640x480 JPEG images and PNG targets from the disk to batches of 384x384, against the "
        "transforms of MiDaS under a PyTorch DataLoader, in turn.",
        5,
    ),
    "folder": Section(
        "Folder inference",
        "midas_run.py on photographs, from files to files, over the network alone on inputs in "
        "memory, in turn; without start and compilation.",
        3,
    ),
    "runtimes": Section(
        "Exported networks",
        "One network, exported, on a photograph; in turn.",
        3,
    ),
    "first_step": Section(
        "Compile cache",
        "Processes that train one step, batch 1.",
        2,
        1,
    ),
    "checkpoints": Section(
        "Checkpoints",
        "Saving with checksum and fsync into the folder for temporary files.",
        3,
    ),
    "scaling": Section(
        "Processes",
        "Weak scaling of training: each process has a core and a batch of its own.",
        3,
    ),
}


def measure(name: str, quick: bool) -> dict[str, Any]:
    """The figures of a section, in this process."""
    section = SECTIONS[name]
    runs = section.quick_runs if quick else section.runs
    module = importlib.import_module(f"tests.benchmarks.{name}")
    if name == "input_pipeline":
        return module.figures(images=16 if quick else 192, rounds=runs)
    if name == "folder":
        return module.figures(quick, runs, images=2 if quick else 12)
    return module.figures(quick, runs)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave no process behind
    name, file, *flags = sys.argv[1:]
    write_bytes(Path(file), json.dumps(measure(name, "--quick" in flags)).encode())


if __name__ == "__main__":
    main()
