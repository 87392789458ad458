"""Colour maps, panels and curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from src.image_io import write_image

COLOUR_MAP = "inferno"  # bright is close
ERROR_MAP = "viridis"  # bright is a large error
ERROR_LIMIT = 0.5  # |z - z*| / z* at the bright end
PANEL_WIDTH = 640  # pixels, at most
_SPARSE = 0.3  # of a panel's pixels measured: fewer are hard to see as single points
_PERCENTILES = (1, 99)  # of a map's finite values, so that an outlier does not darken the rest
_MOST_POINTS = 2000  # of a curve; a picture shows no more


class Panel(NamedTuple):
    """A picture uint8 [H, W, 3] RGB, at most `PANEL_WIDTH` wide, and what it shows."""

    picture: np.ndarray
    caption: str


def colourize(
    values: np.ndarray,
    mask: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
    colour_map: str = COLOUR_MAP,
) -> np.ndarray:
    """A map float [H, W] as colours uint8 [H, W, 3] RGB, low dark, high bright.

    Values that are not finite, or False in `mask` bool [H, W], become grey. `limits` are the values
    of the darkest and the brightest colour; without them, percentiles of the map.
    """
    valid = np.isfinite(values) if mask is None else np.isfinite(values) & mask
    low, high = limits or _percentiles(values[valid])
    unit = np.clip((np.where(valid, values, low) - low) / max(high - low, 1e-12), 0, 1)
    colours = (matplotlib.colormaps[colour_map](unit)[..., :3] * 255).round().astype(np.uint8)
    colours[~valid] = 128
    return colours


def colour_stops(colour_map: str, count: int = 9) -> list[str]:
    """Colours of a map from its low to its high end at equal distances, as `#rrggbb`."""
    colours = matplotlib.colormaps[colour_map](np.linspace(0, 1, count))
    return [matplotlib.colors.to_hex(colour) for colour in colours]


def depth_panels(
    image: np.ndarray, depth: np.ndarray, mask: np.ndarray, aligned_depth: np.ndarray
) -> dict[str, Panel]:
    """What a network saw, should have seen and has seen of one photograph.

    Args:
        image: uint8 [H, W, 3], RGB.
        depth: float [H, W], metres; meaningless where the mask is not set.
        mask: bool [H, W], not empty.
        aligned_depth: float [H, W], metres, the prediction as `metrics.aligned_depth` gives it.

    Returns:
        `image`, `truth`, `prediction` and `error`. Truth and prediction are inverse depth on one
        colour scale, the truth's; the error is |z - z*| / z*. What was not measured is grey.
    """
    known = np.where(mask, depth, 1).astype(np.float64)
    truth, truth_mask = _shrink(1 / known, mask)
    prediction, _ = _shrink(1 / aligned_depth, np.ones_like(mask))
    error, _ = _shrink(np.abs(aligned_depth - known) / known, mask)
    limits = _percentiles(truth[truth_mask])
    return {
        "image": Panel(_shrink_picture(image), "photograph"),
        "truth": Panel(
            colourize(truth, truth_mask, limits), f"ground truth, {_metres(depth[mask])}"
        ),
        "prediction": Panel(
            colourize(prediction, limits=limits), f"aligned prediction, {_metres(aligned_depth)}"
        ),
        "error": Panel(
            colourize(error, truth_mask, (0, ERROR_LIMIT), ERROR_MAP),
            f"error |z - z*| / z*, 0 to {ERROR_LIMIT}",
        ),
    }


def ordinal_panels(
    image: np.ndarray, closer: tuple[int, int], farther: tuple[int, int], prediction: np.ndarray
) -> dict[str, Panel]:
    """A photograph and its prediction, both with the two points that were compared.

    Args:
        image: uint8 [H, W, 3], RGB.
        closer: (y, x) of the point that is closer in truth, marked A; 0-based.
        farther: (y, x) of the other one, marked B.
        prediction: float [H, W], inverse depth of any scale and shift.

    Returns:
        `image` and `prediction`. A prediction that is equal at both points is wrong.
    """
    order = np.sign(prediction[closer] - prediction[farther])
    says = {1: "A closer (right)", 0: "A and B equal (wrong)", -1: "B closer (wrong)"}[int(order)]
    height, width = prediction.shape
    points = {
        name: ((y + 0.5) / height, (x + 0.5) / width)
        for name, (y, x) in (("A", closer), ("B", farther))
    }
    colours = colourize(_shrink(prediction, np.ones(prediction.shape, bool))[0])
    return {
        "image": Panel(_mark(_shrink_picture(image), points), "photograph, A is closer than B"),
        "prediction": Panel(_mark(colours, points), f"prediction: {says}"),
    }


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)


def _metres(depths: np.ndarray) -> str:
    return f"{depths.min():.3g} to {depths.max():.3g} m"


def _panel_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) of a panel, in the order of OpenCV."""
    return min(width, PANEL_WIDTH), max(1, round(height * min(1, PANEL_WIDTH / width)))


def _shrink(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A map and its mask at panel size; a pixel is the mean of the valid ones it covers.

    A sparse map, such as that of a laser scanner, keeps its points, larger by a pixel each way.
    """
    size = _panel_size(*mask.shape)
    weight = cv2.resize(mask.astype(np.float64), size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(np.where(mask, values, 0.0), size, interpolation=cv2.INTER_AREA)
    if weight.mean() < _SPARSE:
        weight, total = (cv2.blur(sums, (3, 3)) for sums in (weight, total))
    valid = weight > 1e-6
    return total / np.where(valid, weight, 1), valid


def _shrink_picture(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, _panel_size(*image.shape[:2]), interpolation=cv2.INTER_AREA)


def _mark(picture: np.ndarray, points: dict[str, tuple[float, float]]) -> np.ndarray:
    """Rings with letters at (y, x) in [0, 1]: white within black, so visible on any background."""
    canvas = Image.fromarray(picture)
    draw = ImageDraw.Draw(canvas)
    height, width = picture.shape[:2]
    radius = max(4, width // 36)
    font = ImageFont.load_default(2.4 * radius)
    centres = {
        name: np.array([x * width - 0.5, y * height - 0.5]) for name, (y, x) in points.items()
    }
    occupied = list(centres.values())
    for centre in centres.values():
        for grow, colour, line in ((2, "black", 6), (0, "white", 2)):
            box = [*(centre - radius - grow), *(centre + radius + grow)]
            draw.ellipse(box, outline=colour, width=line)
    outline = {"stroke_width": max(2, radius // 4), "stroke_fill": "black"}
    for name, centre in centres.items():
        at = _letter_place(centre, occupied, np.array([width, height]), 2.2 * radius)
        occupied.append(at)
        draw.text(tuple(at), name, "white", font, anchor="mm", **outline)
    return np.asarray(canvas)


def _letter_place(
    centre: np.ndarray, occupied: list[np.ndarray], size: np.ndarray, reach: float
) -> np.ndarray:
    """The (x, y) beside a point, in the picture, that is farthest from all marks so far."""
    border = np.minimum(reach / 2, size / 2)
    places = [
        np.clip(centre + reach * np.array(to), border, size - border)
        for to in ((-1, 0), (1, 0), (0, -1), (0, 1))
    ]
    return max(places, key=lambda at: round(min(np.hypot(*(at - mark)) for mark in occupied)))


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
