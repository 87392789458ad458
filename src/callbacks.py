"""What watches a training run: guards, progress, metrics, validation, checkpoints and signals."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor, nn
from mindspore.train import Callback, RunContext

from src import runtime
from src.data.training import TrainingData
from src.errors import UserError
from src.events import Events
from src.image_io import write_bytes
from src.run_folder import Checkpoints
from src.runlog import progress_bar
from src.stop_signals import StopSignals
from src.train_step import StepOutputs, TrainStep
from src.validation import Validator
from src.visualize import plot_curves

LOG = logging.getLogger("midas")
METRICS = [
    "epoch",
    "step",
    "loss",
    "data_loss",
    "gradient_loss",
    "gradient_norm",
    "loss_scale",
    "backbone_lr",
    "decoder_lr",
    "images_per_second",
]
VALIDATION = ["epoch", "step", "loss", "abs_rel", "images"]
_DEAD_STEPS = 10  # a loss of 0 in so many steps is no accident
_CURVES_SECONDS = 60  # redraw curves.png at most this often
_EXAMPLES = 4  # pictures of predictions for TensorBoard
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
        values = run_context.original_args().net_outputs.asnumpy().tolist()
        share = self.last_share if position.ends_epoch else 1
        position.outputs = StepOutputs(*(value / share for value in values[:3]), *values[3:])
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


class Table:
    """A CSV file that grows by rows; an existing one is continued.

    Args:
        path: of the file.
        columns: its header.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = columns
        self.rows: list[dict[str, float]] = []
        try:
            if path.exists():
                with path.open(newline="") as file:
                    for row in csv.DictReader(file):
                        self.rows.append({name: float(row[name]) for name in columns})
            self.file = path.open("a", newline="", buffering=1)
            if self.file.tell() == 0:
                self.file.write(",".join(columns) + "\n")
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}: not a table of {', '.join(columns)}; move it away") from None
        except OSError as error:
            raise self._unwritable(error) from None

    def append(self, *values: float) -> None:
        """Add a row, and write it at once.

        Raises:
            UserError: it cannot be written.
        """
        self.rows.append(dict(zip(self.columns, values, strict=True)))
        try:
            self.file.write(",".join(f"{value:.7g}" for value in values) + "\n")
        except OSError as error:
            raise self._unwritable(error) from None

    def close(self) -> None:
        """Close the file; a row that could not be written was told before."""
        with suppress(OSError):
            self.file.close()

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"{self.path}: cannot be written ({error.strerror}); make room, then continue the run "
            "with --resume auto"
        )


class Progress(Callback):
    """Progress bar, metrics.csv (a row a step), events, curves.png and a log line an epoch.

    Args:
        run: the run's folder.
        position: of the run.
        batch_size: images of a step, of all processes.
        rates: learning rates of backbone and decoder of every step, float32 [steps] each.
        events: of TensorBoard.
        validation: rows of validation.csv, which grow.
    """

    def __init__(
        self,
        run: Path,
        position: Position,
        batch_size: int,
        rates: tuple[np.ndarray, np.ndarray],
        events: Events,
        validation: Sequence[Mapping[str, float]],
    ) -> None:
        self.run = run
        self.position = position
        self.batch_size = batch_size
        self.rates = rates
        self.events = events
        self.validation = validation
        self.drawn = -math.inf
        self.table = Table(run / "metrics.csv", METRICS)
        self.bar = progress_bar(
            total=position.steps * position.epochs,
            initial=position.done,
            unit="step",
            desc="compiling",
        )
        self.epoch_rows = 0  # of this epoch, since the start of the program

    def close(self) -> None:
        """Leave the bar, metrics.csv and curves.png finished, however the run ended."""
        self.bar.close()
        self.table.close()
        if self.table.rows:
            self._draw()

    def on_train_step_end(self, run_context: RunContext) -> None:
        """Note the step."""
        position, outputs = self.position, self.position.outputs
        speed = self.batch_size / position.seconds
        # A step that was skipped leaves the schedule where it is.
        backbone_lr, decoder_lr = (float(rate[max(position.applied, 1) - 1]) for rate in self.rates)
        values = (*outputs[:4], outputs.loss_scale, backbone_lr, decoder_lr, speed)
        self.table.append(position.epoch, position.step, *values)
        tags = dict(zip(METRICS[2:], values, strict=True))
        self.events.scalars(position.done, {f"training/{tag}": v for tag, v in tags.items()})
        self.bar.set_description(f"epoch {position.epoch}/{position.epochs}", refresh=False)
        self.bar.set_postfix_str(f"loss {outputs.loss:.4f}, {speed:.1f} images/s", refresh=False)
        self.bar.update()
        self.epoch_rows += 1
        if position.ends_epoch:
            self._end_epoch()

    def _end_epoch(self) -> None:
        rows = self.table.rows[-self.epoch_rows :]
        self.epoch_rows = 0
        mean = {name: float(np.mean([row[name] for row in rows])) for name in METRICS}
        seconds = sum(self.batch_size / row["images_per_second"] for row in rows)
        LOG.info(
            "epoch %d/%d: loss %.4f (data %.4f, gradient %.4f), %.1f images/s",
            self.position.epoch,
            self.position.epochs,
            mean["loss"],
            mean["data_loss"],
            mean["gradient_loss"],
            self.batch_size * len(rows) / seconds,
        )
        if time.perf_counter() - self.drawn > _CURVES_SECONDS:
            self._draw()

    def _draw(self) -> None:
        path = self.run / "curves.png"
        plot_curves(self.table.rows, self.position.steps, path, self.validation)
        self.drawn = time.perf_counter()


class Validation(Callback):
    """The validation pass, every so many epochs and after the last.

    Every process moves its batch-norm statistics with the images it sees. The first's are the ones
    that are saved, so all validate with them, whether the run was resumed or not.

    Args:
        network: that is trained.
        validator: of the held-out images; None if there are none.
        examples: whose predictions are shown in TensorBoard.
        position: of the run.
        every_epochs: epochs between two passes.
        watch: of the process that writes; None in the others.
    """

    def __init__(
        self,
        network: nn.Cell,
        validator: Validator | None,
        examples: Validator,
        position: Position,
        every_epochs: int,
        watch: Watch | None,
    ) -> None:
        self.network = network
        self.validator = validator
        self.examples = examples
        self.position = position
        self.every_epochs = every_epochs
        self.watch = watch

    def on_train_step_end(self, run_context: RunContext) -> None:
        """Validate, if it is time."""
        position = self.position
        due = position.ends_epoch and position.epoch % self.every_epochs == 0
        if not (due or position.finished):
            return
        if self.validator is not None:
            self._share_statistics()
            scores = self.validator.run()
            if self.watch is not None:
                self.watch.note(position, scores.loss, scores.abs_rel, scores.images)
        if self.watch is not None:
            self.watch.show(position, self.examples.examples(_EXAMPLES))

    def _share_statistics(self) -> None:
        """Take the first process's."""
        own = [p for p in self.network.get_parameters() if not p.requires_grad]
        values = runtime.broadcast(np.concatenate([p.asnumpy().ravel() for p in own]))
        for parameter, part in zip(
            own, np.split(values, np.cumsum([p.size for p in own])[:-1]), strict=True
        ):
            parameter.set_data(Tensor(part.reshape(parameter.shape)))


class Watch:
    """Where validation goes: validation.csv, events, the log and the best checkpoint.

    Args:
        run: the run's folder.
        network: that is trained.
        checkpoints: of the run.
        events: of TensorBoard.
        best_loss: lowest validation loss so far.
    """

    def __init__(
        self,
        run: Path,
        network: nn.Cell,
        checkpoints: Checkpoints,
        events: Events,
        best_loss: float = math.inf,
    ) -> None:
        self.table = Table(run / "validation.csv", VALIDATION)
        self.network = network
        self.checkpoints = checkpoints
        self.events = events
        self.best_loss = best_loss

    def note(self, position: Position, loss: float, abs_rel: float, images: int) -> None:
        """Write what a pass found; keep the weights if they are the best so far."""
        self.table.append(position.epoch, position.step, loss, abs_rel, images)
        self.events.scalars(position.done, {"validation/loss": loss, "validation/abs_rel": abs_rel})
        best = loss < self.best_loss
        LOG.info(
            "epoch %d/%d: validation loss %.4f, AbsRel %.4f on %d images%s",
            position.epoch,
            position.epochs,
            loss,
            abs_rel,
            images,
            ", the best so far" if best else "",
        )
        if best:
            self.best_loss = loss
            self.checkpoints.save_best(self.network)

    def show(self, position: Position, pictures: Sequence[np.ndarray]) -> None:
        """Write pictures uint8 [H, W, 3] to TensorBoard."""
        named = {f"prediction/{i + 1}": picture for i, picture in enumerate(pictures)}
        self.events.images(position.done, named)

    def close(self) -> None:
        """Close validation.csv."""
        self.table.close()


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

    def __init__(self, step: TrainStep, position: Position, signals: StopSignals) -> None:
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
            advice = "it was the last" if self.position.finished else "continue with --resume auto"
            place = self.position.epoch, self.position.step
            LOG.info("stopped on request after epoch %d step %d; %s", *place, advice)
            run_context.request_stop()
