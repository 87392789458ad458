"""The share of a training's step time outside the network.

    python -m tests.benchmarks.overhead [--full] [--rounds 3] [--epochs 3] [--steps 100] [--bare 50]

A whole training (`src.trainer.train`) on generated 640x480 JPEG and PNG pairs: reading and
augmentation, progress bar, metrics, events, curves, a checkpoint every 50 steps. Before and after
it, in the same process and by the same compiled graph, the bare train step runs `--bare` times on
one batch that is in memory. The first step of a training, which starts the pipeline, is not
counted; nor is the pass over example pictures at the end of an epoch, which is network time too
and is printed apart. All figures are means over the steps of a round, then medians over the rounds.

The network is that of scripts/quickstart.yaml with its input size and batch; with `--full` the full
one, 384x384, batch 1 (8 GB of memory; a step takes seconds, so less of each is the default).
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import mindspore as ms
from mindspore import Model
from mindspore.train import Callback, RunContext

from src import runtime
from src.callbacks import Advance
from src.config import Config, load_config
from src.train_step import TrainStep
from src.trainer import train
from src.watching import Validation
from tests.benchmarks.bare_step import make_batch
from tests.benchmarks.timing import load, seconds, spread, verdict
from tests.benchmarks.training_pairs import write_pairs

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT_STEPS = 50
GOALS = {"small": 15.0, "full": 5.0}  # percent
WAIT, STEP = "data wait", "network"
EXAMPLES = Validation.__name__


@dataclass
class Round:
    """A training between bare steps.

    Attributes:
        bare: seconds of every bare step.
        spent: seconds a training step, by what they went to.
        left: clock when the last bare step was done.
    """

    bare: list[float]
    spent: dict[str, float]
    left: float

    @property
    def step(self) -> float:
        """Seconds of a training step, without the example pictures."""
        return sum(self.spent.values()) - self.spent[EXAMPLES]

    @property
    def overhead(self) -> float:
        """Percent of a training step that a bare one does not take."""
        return 100 * (1 - statistics.mean(self.bare) / self.step)


class Stopwatch(Callback):
    """Calls the trainer's callbacks and notes what each of them, and what is between, takes."""

    def __init__(self, callbacks: list[Callback]) -> None:
        self.callbacks = callbacks
        self.spent: Counter[str] = Counter()
        self.steps = 0
        self.mark = time.perf_counter()

    def _lap(self, name: str) -> None:
        now = time.perf_counter()
        if self.steps:  # not of the first step
            self.spent[name] += now - self.mark
        self.mark = now

    def on_train_step_begin(self, run_context: RunContext) -> None:
        self._lap(WAIT)
        for callback in self.callbacks:
            callback.on_train_step_begin(run_context)
            self._lap(type(callback).__name__)

    def on_train_step_end(self, run_context: RunContext) -> None:
        for callback in self.callbacks:
            callback.on_train_step_end(run_context)
            # The first to look at the step's outputs waits until they are computed.
            self._lap(STEP if isinstance(callback, Advance) else type(callback).__name__)
        self.steps += 1


class MeasuredModel(Model):
    """Trains with a stopwatch, between bare steps."""

    def __init__(self, config: Config, bare: int, rounds: list[Round], step: TrainStep) -> None:
        super().__init__(step)
        self.step = step
        self.bare = bare
        self.rounds = rounds
        batch = make_batch(config.batch_size, config.img_height, config.img_width)
        self.batch = [ms.Tensor(values) for values in batch]

    def train(self, epoch: int, dataset: Any, callbacks: list[Callback], **options: Any) -> None:
        self.step(*self.batch).asnumpy()  # compiles
        bare = self._bare_steps()
        watch = Stopwatch(callbacks)
        super().train(epoch, dataset, [watch], **options)
        bare += self._bare_steps()
        counted = watch.steps - 1
        spent = {name: value / counted for name, value in watch.spent.items()}
        self.rounds.append(Round(bare, spent, time.perf_counter()))

    def _bare_steps(self) -> list[float]:
        self._rewind()
        times = [seconds(lambda: self.step(*self.batch).asnumpy()) for _ in range(self.bare)]
        self._rewind()
        return times

    def _rewind(self) -> None:
        """The learning rates are those of the training's steps; there are no more of them."""
        count = self.step.optimizer.global_step
        count.set_data(ms.ops.zeros_like(count))


def make_config(root: Path, full: bool, epochs: int) -> Config:
    flags = {
        **{"epoch_size": epochs, "train_data_dir": root, "run_path": root / "runs"},
        **{"save_checkpoint_steps": CHECKPOINT_STEPS, "compile_cache": ""},
    }
    flags |= {"batch_size": 1} if full else {"config_path": ROOT / "scripts/quickstart.yaml"}
    return load_config([part for key, value in flags.items() for part in (f"--{key}", str(value))])


def measure(config: Config, bare: int, rounds: int) -> list[Round]:
    """Train `rounds` times."""
    done: list[Round] = []
    with mock.patch("src.trainer.Model", functools.partial(MeasuredModel, config, bare, done)):
        for i in range(rounds):
            train(config.model_copy(update={"run_name": f"round{i}"}))
            closing = time.perf_counter() - done[-1].left
            print(
                f"round {i + 1}: training step {1000 * done[-1].step:.1f} ms, bare "
                f"{spread([1000 * value for value in done[-1].bare], 'ms', 1)}, overhead "
                f"{done[-1].overhead:.1f} %; end of the run {closing:.1f} s; {load()}",
                flush=True,
            )
    return done


def report(rounds: list[Round], goal: float) -> None:
    """Print where the time of a training step goes."""

    def median(name: str) -> float:
        return statistics.median(each.spent[name] for each in rounds)

    step = statistics.median(each.step for each in rounds)
    bare = statistics.median(statistics.mean(each.bare) for each in rounds)
    print(f"a training step, means: {1000 * step:.1f} ms; a bare one {1000 * bare:.1f} ms")
    slower = statistics.median(each.spent[STEP] - statistics.mean(each.bare) for each in rounds)
    parts = {name: median(name) for name in rounds[0].spent if name not in (STEP, EXAMPLES)}
    parts["network slower than bare"] = slower
    for name, value in sorted(parts.items(), key=lambda part: -part[1]):
        print(f"  {name:<25} {1000 * value:8.2f} ms {100 * value / step:6.2f} %")
    print(f"not counted: example pictures, {1000 * median(EXAMPLES):.1f} ms a step")
    overhead = statistics.median(each.overhead for each in rounds)
    print(f"overhead {overhead:.1f} % of a training step (goal {goal:g} %: ", end="")
    print(f"{verdict(overhead < goal)}), median of {len(rounds)} rounds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the full network")
    parser.add_argument("--rounds", type=int, help="trainings: 3; full: 1")
    parser.add_argument("--epochs", type=int, help="of a training: 3; full: 1")
    parser.add_argument("--steps", type=int, help="of an epoch: 100; full: 50")
    parser.add_argument("--bare", type=int, help="bare steps before and after: 50; full: 10")
    asked = parser.parse_args()
    default_sizes = (1, 1, 50, 10) if asked.full else (3, 3, 100, 50)
    given = (asked.rounds, asked.epochs, asked.steps, asked.bare)
    rounds, epochs, steps, bare = (
        size if value is None else value for value, size in zip(given, default_sizes, strict=True)
    )
    if bare > steps * epochs:
        parser.error("--bare: at most the steps of a training")
    runtime.start("CPU", checkpoints_only=True)
    name = "full" if asked.full else "small"
    print(f"{name} network, {epochs} epochs of {steps} steps; {load()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(Path(folder), asked.full, epochs)
        write_pairs(Path(folder), steps * config.batch_size, 480, 640)
        report(measure(config, bare, rounds), GOALS[name])


if __name__ == "__main__":
    main()
