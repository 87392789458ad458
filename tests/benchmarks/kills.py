"""Kills a short training at random moments, resumes it, and compares how it ends.

    python -m tests.benchmarks.kills [--kills 20] [--seed 0]

A tiny network trains 30 steps on generated pairs by midas_train.py, with a checkpoint every 2
steps, a validation pass every epoch and the compile cache; first twice without a kill (the second
run finds the graph in the cache, and is the control). Then come `--kills` trials: each starts the
same training with `--resume auto`, kills it with SIGKILL after a time that is uniform over the
duration of the undisturbed run, and starts it again, to be killed one to three times in all, until
it ends with exit code 0. Its last checkpoint (weights and resume file) and its best one must then
be those of the undisturbed run, byte for byte. Ends with exit code 1 if one is not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tests.benchmarks.timing import load
from tests.benchmarks.training_pairs import write_pairs

ROOT = Path(__file__).resolve().parents[2]
PAIRS, HELD_OUT, BATCH, EPOCHS, SIZE = 15, 0.2, 2, 5, 64
STEPS = 6  # of an epoch: 12 of the 15 pairs, 2 at a time
LAST = f"Midas_0-{EPOCHS}_{STEPS}.ckpt"
COMPARED = (f"ckpt/{LAST}", f"ckpt/resume/{LAST}", "ckpt/best.ckpt")
MOST_KILLS = 3  # of a trial
CONFIG = {
    **{"in_channels": 8, "groups": 4, "width_per_group": 2, "features": 16},
    **{"layers": [1, 1, 1, 1], "img_width": SIZE, "img_height": SIZE, "batch_size": BATCH},
    **{"epoch_size": EPOCHS, "val_share": HELD_OUT, "lr_decay": True},
    **{"no_backbone_params_lr": 0.001, "backbone_params_lr": 0.001, "save_checkpoint_steps": 2},
    **{"train_data_dir": "data", "run_path": "runs", "compile_cache": "graphs"},
}


class Training:
    """A run of midas_train.py in `place`, in as many processes as it takes.

    Attributes:
        killed: how many steps were done when a process was killed, in the order of the kills.
    """

    def __init__(self, place: Path, name: str) -> None:
        self.place = place
        self.name = name
        self.killed: list[int] = []

    def go_on(self, limit: float | None = None) -> bool:
        """Start or resume it; whether it finished. It is killed after `limit` seconds.

        Raises:
            RuntimeError: it ended by itself, but badly.
        """
        flags = ["--config_path", str(self.place / "tiny.yaml"), "--run_name", self.name]
        command = [sys.executable, str(ROOT / "midas_train.py"), *flags, "--resume", "auto"]
        output = self.place / f"{self.name}.txt"
        with output.open("ab") as file:
            process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                process.kill()  # nothing, if it has ended
                process.wait()
        if code is None:
            self.killed.append(self.steps())
            return False
        if code:
            raise RuntimeError(f"exit code {code}: {output.read_text(errors='replace')[-2000:]}")
        return True

    def steps(self) -> int:
        """How many are in metrics.csv."""
        table = self.place / "runs" / self.name / "metrics.csv"
        return max(0, table.read_bytes().count(b"\n") - 1) if table.exists() else 0

    def files(self) -> list[bytes]:
        """What it left, to compare."""
        return [(self.place / "runs" / self.name / name).read_bytes() for name in COMPARED]


def write_place(place: Path) -> None:
    """Data and configuration."""
    write_pairs(place / "data", PAIRS, SIZE, SIZE)
    (place / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))


def run_undisturbed(place: Path) -> tuple[list[bytes], float]:
    """What the undisturbed run leaves, and how long it takes with the compile cache."""
    durations, left = [], []
    for name in ("undisturbed", "control"):
        training = Training(place, name)
        start = time.monotonic()
        training.go_on()
        durations.append(time.monotonic() - start)
        left.append(training.files())
        assert training.steps() == EPOCHS * STEPS
    print(
        f"undisturbed {durations[0]:.1f} s, control with the compile cache {durations[1]:.1f} s, "
        f"{'equal' if left[0] == left[1] else 'DIFFERENT'}; {load()}",
        flush=True,
    )
    if left[0] != left[1]:
        sys.exit("two undisturbed runs end differently, so there is nothing to compare with")
    return left[0], durations[1]


def run_trial(place: Path, number: int, chance: random.Random, duration: float) -> Training:
    """A training that was killed one to three times, and finished.

    One that happens to finish before the first of its moments is no trial, and another is run.
    """
    for attempt in itertools.count(1):
        training = Training(place, f"trial{number}-{attempt}")
        moments = [chance.uniform(0, duration) for _ in range(chance.randint(1, MOST_KILLS))]
        if not any(training.go_on(moment) for moment in moments):
            training.go_on()
        if training.killed:
            return training
    raise AssertionError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="trials, each with a kill or more")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave no training behind
    chance = random.Random(options.seed)
    equal, killed = 0, []
    with tempfile.TemporaryDirectory() as folder:
        write_place(Path(folder))
        expected, duration = run_undisturbed(Path(folder))
        for number in range(1, options.kills + 1):
            training = run_trial(Path(folder), number, chance, duration)
            same = [a == b for a, b in zip(training.files(), expected, strict=True)]
            equal += all(same)
            killed += training.killed
            different = [name for name, agrees in zip(COMPARED, same, strict=True) if not agrees]
            print(
                f"trial {number}: killed after {json.dumps(training.killed)} of {EPOCHS * STEPS} "
                f"steps, {'DIFFERENT: ' + ', '.join(different) if different else 'equal'}",
                flush=True,
            )
    before = sum(steps == 0 for steps in killed)
    print(f"{len(killed)} kills, {before} before the first step of a run; {load()}")
    print(f"{equal} of {options.kills} ended bit-identical")
    return 0 if equal == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
