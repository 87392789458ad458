"""What guards a training run: its position, divergence, checkpoints and the request to stop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn
from mindspore.train import Callback, RunContext

from src.data.training import TrainingData
from src.errors import UserError
from src.events import Events
from src.image_io import write_bytes
from src.run_folder import Checkpoints
from src.stop_signals import StopSignals
from src.train_step import Step, StepOutputs

LOG = logging.getLogger("midas")
_DEAD_STEPS = 10  # a loss of 0 in so many steps is no accident
_NAMED_FILES = 3  # of a batch, in a message


@dataclass
class Position:
    """Where a run is, and what its last step returned.

    Attributes:
        epochs: of the whole run.
        steps: of an epoch.
        done: steps done, in all epochs.
        applied: those of them that moved the weights; float16 skips some.
        outputs: of the last step; its losses are means over the images.
        started: clock at the start of the step that is next, in seconds.
        seconds: of the last step with the wait for its data, without callbacks.
    """

    epochs: int
    steps: int
    done: int = 0
    applied: int = 0
    outputs: StepOutputs | None = None
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0

    @property
    def epoch(self) -> int:
        """Epoch of the last step, from 1; 0 before the first step."""
        return -(-self.done // self.steps)

    @property
    def step(self) -> int:
        """The last step's number in its epoch, from 1; 0 before the first step."""
        return (self.done - 1) % self.steps + 1 if self.done else 0

    @property
    def ends_epoch(self) -> bool:
        """Whether the last step was the last of its epoch."""
        return self.done % self.steps == 0

    @property
    def finished(self) -> bool:
        """Whether all steps of all epochs are done."""
        return self.done >= self.epochs * self.steps


class Advance(Callback):
    """Moves the position by a step; the first of the callbacks.

    Args:
        position: of the run.
        data: what is trained on.
    """

    def __init__(self, position: Position, data: TrainingData) -> None:
        self.position = position
        # Losses are means over a whole batch; places that no image is left for add 0 to them.
        self.last_share = data.last_batch / data.global_batch

    def on_train_step_end(self, run_context: RunContext) -> None:
        """Read what the step returned."""
        position = self.position
        position.done += 1
        position.seconds = time.perf_counter() - position.started
        outputs = StepOutputs.read(run_context.original_args().net_outputs.asnumpy().tolist())
        if position.ends_epoch:
            outputs = outputs.of_share(self.last_share)
        position.outputs = outputs
        position.applied += bool(position.outputs.finite)


class Clock(Callback):
    """Starts the next step's time; the last of the callbacks."""

    def __init__(self, position: Position) -> None:
        self.position = position

    def on_train_step_end(self, run_context: RunContext) -> None:
        """Start it."""
        self.position.started = time.perf_counter()


class DivergedError(UserError):
    """The training cannot go on; all processes find that after the same step."""


class Guard(Callback):
    """Stops the run at a sample that could not be read, or when training has diverged.

    A loss that is not finite shows that at once. More often MindSpore's ReLU hides it: its
    relu(NaN) is 0 on a CPU, the prediction becomes constant, and the loss of a constant is 0.
    In float16 a step that overflows is skipped; the training has diverged if it does at scale 1.

    Args:
        data: what is trained on.
        position: of the run.
        run: its folder.
        writes: whether this is the process that writes to it.
    """

    def __init__(
        self, data: TrainingData, position: Position, run: Path, writes: bool = True
    ) -> None:
        self.data = data
        self.position = position
        self.run = run
        self.writes = writes
        self.zeros = 0  # steps in a row whose loss is exactly 0
        self.named: set[Path] = set()  # skipped files that were logged

    def on_train_step_begin(self, run_context: RunContext) -> None:
        """Raise UserError before a step that a sample is missing from: it is never done."""
        for path, reason in self.data.skipped.items():
            if path not in self.named:
                self.named.add(path)
                LOG.warning("unreadable, another takes its place (%d): %s", len(self.named), reason)
        if self.data.errors:
            raise self.data.errors[0]

    def on_train_step_end(self, run_context: RunContext) -> None:
        """Raise DivergedError where the run cannot go on."""
        outputs = self.position.outputs
        self.zeros = self.zeros + 1 if outputs.loss == 0 else 0
        if self.zeros >= _DEAD_STEPS:
            raise self._diverged(f"loss is 0 in {_DEAD_STEPS} steps up to")
        if not outputs.finite and outputs.loss_scale > 1:
            LOG.warning(
                "epoch %d step %d skipped: gradients overflowed at loss scale %g, which is halved",
                self.position.epoch,
                self.position.step,
                outputs.loss_scale,
            )
        elif not math.isfinite(outputs.loss) or not outputs.finite:
            name, value = (
                ("gradient norm", outputs.gradient_norm)
                if math.isfinite(outputs.loss)
                else ("loss", outputs.loss)
            )
            raise self._diverged(f"{name} is {value} at")

    def _diverged(self, problem: str) -> DivergedError:
        """The error, after the names of the batch's files went to a file of the run."""
        epoch, step = self.position.epoch, self.position.step
        files = self.data.batch_files(epoch - 1, step - 1)
        named = ", ".join(files[:_NAMED_FILES])
        if len(files) > _NAMED_FILES:
            path = self.run / f"diverged-{epoch}_{step}.txt"
            if self.writes:
                write_bytes(path, "".join(f"{file}\n" for file in files).encode())
            named += f" and {len(files) - _NAMED_FILES} more, listed in {path}"
        return DivergedError(
            f"{problem} epoch {epoch} step {step}: the training has diverged; lower the learning "
            f"rate, or check model_weights and these files: {named}"
        )


class CheckpointSaver(Callback):
    """Saves checkpoints: every so many epochs and steps, after the last step, and before a stop.

    Args:
        network: that is trained.
        checkpoints: of the run.
        events: of TensorBoard; they are written out first, for no step before is done again.
        position: of the run.
        every_epochs: epochs between two checkpoints.
        every_steps: steps of the whole run between two checkpoints; 0: only by epochs.
        state: returns the arrays of optimizer and loss scale by name.
        facts: returns all else that a resumed run needs, JSON-able.
    """

    def __init__(
        self,
        network: nn.Cell,
        checkpoints: Checkpoints,
        events: Events,
        position: Position,
        every_epochs: int,
        every_steps: int,
        state: Callable[[], dict[str, np.ndarray]],
        facts: Callable[[], dict[str, Any]],
    ) -> None:
        self.network = network
        self.checkpoints = checkpoints
        self.events = events
        self.position = position
        self.every_epochs = every_epochs
        self.every_steps = every_steps
        self.state = state
        self.facts = facts

    def on_train_step_end(self, run_context: RunContext) -> None:
        """Save, if it is time."""
        position = self.position
        epoch, step = position.epoch, position.step
        by_epoch = position.ends_epoch and epoch % self.every_epochs == 0
        by_step = self.every_steps and position.done % self.every_steps == 0
        if not (by_epoch or by_step or position.finished or position.outputs.stop):
            return
        for parameter in self.network.get_parameters():
            if not np.isfinite(parameter.asnumpy()).all():
                raise UserError(
                    f"{parameter.name}: not finite after epoch {epoch} step {step}, so it is not "
                    "saved; lower the learning rate, or check model_weights"
                )
        self.events.flush()
        self.checkpoints.save(self.network, epoch, step, self.state(), self.facts())


class Stopper(Callback):
    """Ends the run after a step, in all processes, when one of them is asked to by a signal.

    Args:
        step: the train step, which tells the other processes.
        position: of the run.
        signals: what asks.
    """

    def __init__(self, step: Step, position: Position, signals: StopSignals) -> None:
        self.step = step
        self.position = position
        self.signals = signals
        self.stopped = False

    def on_train_step_begin(self, run_context: RunContext) -> None:
        """Tell the others."""
        if self.signals.requested:
            self.step.request_stop()

    def on_train_step_end(self, run_context: RunContext) -> None:
        """Stop, if any process was asked to."""
        if self.position.outputs.stop:
            self.stopped = True
            run_context.request_stop()
