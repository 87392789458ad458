"""What watches a training run: guards, progress, metrics and checkpoints."""

from __future__ import annotations

import csv
import logging
import math
import time
from pathlib import Path

import numpy as np
from mindspore import nn
from mindspore.train import Callback, RunContext

from src import checkpoint
from src.data.training import TrainingData
from src.errors import UserError
from src.runlog import progress_bar
from src.visualize import plot_curves

LOG = logging.getLogger("midas")
METRICS = [
    "epoch",
    "step",
    "loss",
    "data_loss",
    "gradient_loss",
    "backbone_lr",
    "decoder_lr",
    "images_per_second",
]
_DEAD_STEPS = 10  # a loss of 0 in so many steps is no accident
_CURVES_SECONDS = 60  # redraw curves.png at most this often


def _position(run_context: RunContext) -> tuple[int, int, int]:
    """Epoch and step in the epoch, both from 1 as users count, and steps done in all."""
    state = run_context.original_args()
    step = (state.cur_step_num - 1) % state.batch_num + 1
    return state.cur_epoch_num, step, state.cur_step_num


class Guard(Callback):
    """Stops the run at a sample that could not be read, or when training has diverged.

    A loss that is not finite shows that at once. More often MindSpore's ReLU hides it: its
    relu(NaN) is 0 on a CPU, the prediction becomes constant, and the loss of a constant is 0.
    """

    def __init__(self, data: TrainingData, batch_size: int) -> None:
        self.data = data
        self.batch_size = batch_size
        self.zeros = 0  # steps in a row whose loss is exactly 0

    def on_train_step_end(self, run_context: RunContext) -> None:
        if self.data.errors:
            raise self.data.errors[0]
        loss = float(run_context.original_args().net_outputs[0].asnumpy())
        self.zeros = self.zeros + 1 if loss == 0 else 0
        if math.isfinite(loss) and self.zeros < _DEAD_STEPS:
            return
        problem = (
            f"loss is 0 in {_DEAD_STEPS} steps up to"
            if loss == 0  # the prediction is constant
            else f"loss is {loss} at"
        )
        epoch, step, _ = _position(run_context)
        files = self.data.batch_files(epoch - 1, step - 1, self.batch_size)
        raise UserError(
            f"{problem} epoch {epoch} step {step}: the training has diverged; lower the learning "
            f"rate, or check model_weights and these files: {', '.join(files)}"
        )


class Progress(Callback):
    """Progress bar, metrics.csv (a row a step), curves.png and a log line an epoch.

    Args:
        run: the run's folder.
        steps: of an epoch.
        epochs: in all.
        batch_size: images of a step.
        backbone_lr: learning rate of every step, float32 [steps * epochs].
        decoder_lr: the same for the decoder.
    """

    def __init__(
        self,
        run: Path,
        steps: int,
        epochs: int,
        batch_size: int,
        backbone_lr: np.ndarray,
        decoder_lr: np.ndarray,
    ) -> None:
        self.run = run
        self.steps = steps
        self.epochs = epochs
        self.batch_size = batch_size
        self.rates = backbone_lr, decoder_lr
        self.rows: list[dict[str, float]] = []
        self.drawn = -math.inf
        self.file = (run / "metrics.csv").open("w", newline="", buffering=1)
        self.writer = csv.DictWriter(self.file, METRICS)
        self.writer.writeheader()
        self.bar = progress_bar(total=steps * epochs, unit="step", desc="compiling")
        self.started = time.perf_counter()

    def close(self) -> None:
        """Leave the bar, metrics.csv and curves.png finished, however the run ended."""
        self.bar.close()
        self.file.close()
        if self.rows:
            self._draw()

    def on_train_step_end(self, run_context: RunContext) -> None:
        epoch, step, done = _position(run_context)
        outputs = run_context.original_args().net_outputs
        loss, data_loss, gradient_loss = (float(value.asnumpy()) for value in outputs)
        now = time.perf_counter()
        speed, self.started = self.batch_size / (now - self.started), now
        backbone_lr, decoder_lr = (float(rate[done - 1]) for rate in self.rates)
        values = (epoch, step, loss, data_loss, gradient_loss, backbone_lr, decoder_lr, speed)
        self.rows.append(dict(zip(METRICS, values, strict=True)))
        self.writer.writerow({name: f"{value:.7g}" for name, value in self.rows[-1].items()})
        self.bar.set_description(f"epoch {epoch}/{self.epochs}", refresh=False)
        self.bar.set_postfix_str(f"loss {loss:.4f}, {speed:.1f} images/s", refresh=False)
        self.bar.update()

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        rows = self.rows[-self.steps :]
        mean = {name: float(np.mean([row[name] for row in rows])) for name in METRICS}
        seconds = sum(self.batch_size / row["images_per_second"] for row in rows)
        LOG.info(
            "epoch %d/%d: loss %.4f (data %.4f, gradient %.4f), %.1f images/s",
            rows[-1]["epoch"],
            self.epochs,
            mean["loss"],
            mean["data_loss"],
            mean["gradient_loss"],
            self.batch_size * len(rows) / seconds,
        )
        if time.perf_counter() - self.drawn > _CURVES_SECONDS:
            self._draw()

    def _draw(self) -> None:
        plot_curves(self.rows, self.steps, self.run / "curves.png")
        self.drawn = time.perf_counter()


class CheckpointSaver(Callback):
    """Saves Midas_<rank>-<epoch>_<step>.ckpt and removes the oldest ones of the run.

    Args:
        network: what is saved.
        folder: an existing folder.
        every_epochs: epochs between two checkpoints; the last epoch is saved always.
        keep: checkpoints that stay.
    """

    def __init__(self, network: nn.Cell, folder: Path, every_epochs: int, keep: int) -> None:
        self.network = network
        self.folder = folder
        self.every_epochs = every_epochs
        self.keep = keep
        self.saved: list[Path] = []

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        epoch, step, _ = _position(run_context)
        if epoch % self.every_epochs and epoch != run_context.original_args().epoch_num:
            return
        for parameter in self.network.get_parameters():
            if not np.isfinite(parameter.asnumpy()).all():
                raise UserError(
                    f"{parameter.name}: not finite after epoch {epoch}, so it is not saved; lower "
                    "the learning rate, or check model_weights"
                )
        path = self.folder / f"Midas_0-{epoch}_{step}.ckpt"
        checkpoint.save(self.network, path)
        self.saved.append(path)
        while len(self.saved) > self.keep:
            self.saved.pop(0).unlink(missing_ok=True)
