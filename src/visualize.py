"""Colour maps, panels and curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from src.image_io import write_image

COLOUR_MAP = "inferno"  # bright is close
_PERCENTILES = (1, 99)  # of a map's finite values, so that an outlier does not darken the rest
_MOST_POINTS = 2000  # of a curve; a picture shows no more


def colourize(values: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """A map float [H, W] as colours uint8 [H, W, 3] RGB, low dark, high bright.

    Values that are not finite, or False in `mask` bool [H, W], become grey.
    """
    valid = np.isfinite(values) if mask is None else np.isfinite(values) & mask
    low, high = np.percentile(values[valid], _PERCENTILES) if valid.any() else (0, 1)
    unit = np.clip((np.where(valid, values, low) - low) / max(high - low, 1e-12), 0, 1)
    colours = (matplotlib.colormaps[COLOUR_MAP](unit)[..., :3] * 255).round().astype(np.uint8)
    colours[~valid] = 128
    return colours


def side_by_side(pictures: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Pictures uint8 [H, W_i, 3] of one height in a row, white between them."""
    height = pictures[0].shape[0]
    separator = np.full((height, gap, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (separator, picture)]
    return np.concatenate(parts[1:], axis=1)


def write_depth_picture(path: Path, image: np.ndarray, prediction: np.ndarray) -> None:
    """The photograph uint8 [H, W, 3] and, beside it, its inverse depth float32 [H, W]."""
    write_image(path, side_by_side([image, colourize(prediction)]))


def plot_curves(rows: Sequence[dict[str, float]], steps: int, path: Path) -> None:
    """Draw loss and learning rates of a training run over its epochs.

    Args:
        rows: the rows of metrics.csv.
        steps: of an epoch.
        path: the PNG to write.
    """
    stride = max(1, len(rows) // _MOST_POINTS)
    epochs = np.arange(1, len(rows) + 1) / steps
    figure = Figure(figsize=(9, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for name, label in (
        ("loss", "total"),
        ("data_loss", "data term"),
        ("gradient_loss", "gradient term"),
    ):
        values = np.array([row[name] for row in rows])
        (line,) = top.plot(epochs[::stride], values[::stride], alpha=0.25, linewidth=0.8)
        means = values[: len(values) // steps * steps].reshape(-1, steps).mean(axis=1)
        top.plot(
            np.arange(1, len(means) + 1),
            means,
            ".-",
            color=line.get_color(),
            label=f"{label}, mean",
        )
    positive = any(row["loss"] > 0 for row in rows)  # not so in a run that died at once
    top.set(ylabel="loss", yscale="log" if positive else "linear")
    top.legend()
    top.grid(alpha=0.3, which="both")
    for name, label in (("backbone_lr", "backbone"), ("decoder_lr", "decoder")):
        bottom.plot(epochs[::stride], [row[name] for row in rows][::stride], label=label)
    bottom.set(xlabel="epoch", ylabel="learning rate", yscale="log")
    bottom.legend()
    bottom.grid(alpha=0.3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    write_image(path, np.asarray(canvas.buffer_rgba())[..., :3].copy())
