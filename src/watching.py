"""What shows how a training run goes: tables, progress bar, curves, events and validation."""

from __future__ import annotations

import csv
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn
from mindspore.train import Callback, RunContext

from src import runtime
from src.callbacks import Position
from src.errors import UserError
from src.events import Events
from src.run_folder import Checkpoints
from src.runlog import progress_bar
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
LOSS_OF, WEIGHT_OF = "loss/", "weight/"  # and the name of a dataset
VALIDATION = ["epoch", "step", "loss", "abs_rel", "images"]
_CURVES_SECONDS = 60  # redraw curves.png at most this often
_EXAMPLES = 4  # pictures of predictions for TensorBoard


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
                csv.writer(self.file, lineterminator="\n").writerow(columns)
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
        datasets: names of those that are mixed.
        rates: learning rates of backbone and decoder of every step, float32 [steps] each.
        events: of TensorBoard.
        validation: rows of validation.csv, which grow.
    """

    def __init__(
        self,
        run: Path,
        position: Position,
        batch_size: int,
        datasets: Sequence[str],
        rates: tuple[np.ndarray, np.ndarray],
        events: Events,
        validation: Sequence[Mapping[str, float]],
    ) -> None:
        self.run = run
        self.position = position
        self.batch_size = batch_size
        self.datasets = datasets if len(datasets) > 1 else ()  # one alone is the whole loss
        self.rates = rates
        self.events = events
        self.validation = validation
        self.drawn = -math.inf
        self.columns = [*METRICS, *(LOSS_OF + name for name in self.datasets)]
        self.columns += (WEIGHT_OF + name for name in self.datasets)
        self.table = Table(run / "metrics.csv", self.columns)
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
        values = [*outputs[:4], outputs.loss_scale, backbone_lr, decoder_lr, speed]
        if self.datasets:
            values += [*outputs.losses, *outputs.weights]
        self.table.append(position.epoch, position.step, *values)
        tags = dict(zip(self.columns[2:], values, strict=True))
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
        mean = {name: float(np.mean([row[name] for row in rows])) for name in self.columns}
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
        if self.datasets:
            parts = (
                f"{name} {mean[LOSS_OF + name]:.4f} ({mean[WEIGHT_OF + name]:.2f})"
                for name in self.datasets
            )
            LOG.info("loss (and weight) of each dataset: %s", ", ".join(parts))
        if time.perf_counter() - self.drawn > _CURVES_SECONDS:
            self._draw()

    def _draw(self) -> None:
        path = self.run / "curves.png"
        plot_curves(self.table.rows, self.position.steps, path, self.validation, self.datasets)
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
