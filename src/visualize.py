"""Colour maps, panels and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
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
_BINS = 100  # of a curve: enough to show a trend, and each holds enough steps to show one
_LOG_FROM = 5  # times its smallest value: a curve that reaches higher gets a logarithmic axis
_CURVES = {  # column of metrics.csv -> title
    "loss": "total loss",
    "data_loss": "data term",
    "gradient_loss": "gradient-matching term",
    "gradient_norm": "gradient norm",
}


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
    table = _colour_table(colour_map)
    # As Matplotlib chooses among the colours, without its float64 RGBA.
    steps = np.minimum(unit * len(table), len(table) - 1).astype(np.uint8)
    colours = table.take(steps, axis=0)
    colours[~valid] = 128
    return colours


@cache
def _colour_table(colour_map: str) -> np.ndarray:
    """The 256 colours of a map, uint8 [256, 3] RGB."""
    colours = matplotlib.colormaps[colour_map](np.arange(256))[:, :3]
    return (colours * 255).round().astype(np.uint8)


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
    write_image(path, side_by_side([image, colourize(prediction)]), quick=True)


def plot_curves(
    rows: Sequence[Mapping[str, float]],
    steps: int,
    path: Path,
    validation: Sequence[Mapping[str, float]] = (),
    datasets: Sequence[str] = (),
) -> None:
    """Draw the losses, gradient norm and learning rates of a training run over its epochs.

    Each has axes of its own, scaled to its trend. A line is the mean and its band the middle 80 %
    of up to `_BINS` equal stretches of the run, so that any number of steps can be drawn. Values
    that are not finite are left out.

    Args:
        rows: the rows of metrics.csv, at least one.
        steps: of an epoch.
        path: the PNG to write.
        validation: the rows of validation.csv; their loss joins the total loss, and AbsRel gets
            axes of its own.
        datasets: whose losses and weights, `loss/<name>` and `weight/<name>`, are drawn too.
    """
    epochs = _column(rows, "epoch") - 1 + _column(rows, "step") / steps
    right = "abs_rel" if validation else "loss"
    mosaic = [["loss", right], ["data_loss", "gradient_loss"], ["gradient_norm", "rates"]]
    if datasets:
        mosaic.insert(1, ["losses", "weights"])
    figure = Figure(figsize=(11, 8.5 / 3 * len(mosaic)))
    # By hand: to let Matplotlib find these takes as long as the drawing itself.
    bottom, top = 0.18 / len(mosaic), 1 - 0.105 / len(mosaic)  # the same for any number of rows
    figure.subplots_adjust(0.065, bottom, 0.985, top, wspace=0.16, hspace=0.28)
    axes = figure.subplot_mosaic(mosaic)
    for part in axes.values():
        part.set_xlim(0, epochs.max())
    for name, title in _CURVES.items():
        values = _column(rows, name)
        trends = [_draw_trend(axes[name], epochs, values, "training")]
        if name == "loss" and validation:
            trends.append(_draw_points(axes[name], validation, name, "validation"))
            axes[name].legend()
        _scale(axes[name], np.concatenate(trends), title)
    if validation:
        trend = _draw_points(axes["abs_rel"], validation, "abs_rel", "AbsRel")
        _scale(axes["abs_rel"], trend, "AbsRel after alignment, validation")
    groups = {"rates": ("learning rate", {f"{part}_lr": part for part in ("backbone", "decoder")})}
    if datasets:
        groups["losses"] = ("loss of each dataset", {f"loss/{name}": name for name in datasets})
        groups["weights"] = ("weight of each", {f"weight/{name}": name for name in datasets})
    for name, (title, columns) in groups.items():
        trends = [
            _draw_trend(axes[name], epochs, _column(rows, column), label)
            for column, label in columns.items()
        ]
        axes[name].legend()
        _scale(axes[name], np.concatenate(trends), title)
    for name in ("gradient_norm", "rates"):
        axes[name].set_xlabel("epoch")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    write_image(path, np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _column(rows: Sequence[Mapping[str, float]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], np.float64)


def _draw_trend(axes: Axes, epochs: np.ndarray, values: np.ndarray, label: str) -> np.ndarray:
    """Draw the mean and the middle 80 % of equal stretches; returns the means, [<= _BINS]."""
    finite = np.isfinite(values)
    count = min(_BINS, np.count_nonzero(finite))
    if count == 0:
        return np.empty(0)
    places = np.array_split(epochs[finite], count)
    stretches = np.array_split(values[finite], count)
    at = [place.mean() for place in places]
    means = np.array([stretch.mean() for stretch in stretches])
    low, high = np.transpose([np.percentile(stretch, (10, 90)) for stretch in stretches])
    (line,) = axes.plot(at, means, "." if count == 1 else "-", label=label)
    axes.fill_between(at, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    return means


def _draw_points(
    axes: Axes, rows: Sequence[Mapping[str, float]], name: str, label: str
) -> np.ndarray:
    """Draw a value of each validation, in the second colour; returns the finite ones."""
    values = _column(rows, name)
    style = ".-" if len(rows) <= _BINS else "-"
    axes.plot(_column(rows, "epoch"), values, style, color="C1", label=label)
    return values[np.isfinite(values)]


def _scale(axes: Axes, trend: np.ndarray, title: str) -> None:
    """Fit the vertical axis to a trend [N], a logarithmic one if it covers much and is positive."""
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3, which="both")
    if trend.size == 0:
        return
    low, high = float(trend.min()), float(trend.max())
    if low > 0 and high / low > _LOG_FROM:
        margin = (high / low) ** 0.1
        axes.set(yscale="log", ylim=(low / margin, high * margin))
        return
    margin = 0.1 * (high - low) or 0.1 * abs(high) or 0.1
    axes.set_ylim(low - margin, high + margin)
