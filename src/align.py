"""Metric depth from a few known distances in a photograph.

The inverse depth of a network is right up to scale and shift. Two numbers that the known distances
give, by the least squares in disparity of zero-shot evaluation (Ranftl et al., TPAMI 2022,
section 6), turn it into metres.
"""

from __future__ import annotations

import csv
import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src import image_io, metrics
from src.errors import UserError

HEADER = ("image", "x", "y", "metres")
MIN_METRES = 0.001  # the step of the millimetre PNG; far below, 1 / metres is no number any more

# The fitted disparities of all points agree to this share: what is left is rounding.
_NO_SLOPE = 1e-9


@dataclass(frozen=True)
class KnownPoints:
    """Pixels of one image whose distance is known: N indices, N indices, N float64 metres."""

    rows: np.ndarray
    columns: np.ndarray
    metres: np.ndarray


@dataclass(frozen=True)
class Alignment:
    """What is known of a folder's photographs: file name -> points, and the largest depth [m]."""

    points: Mapping[str, KnownPoints]
    max_depth: float


@dataclass(frozen=True)
class Fit:
    """scale * prediction + shift = 1 / metres, and how far the depth is off at the points.

    `rmse` and `largest_error` are in metres, `abs_rel` is a ratio.
    """

    scale: float
    shift: float
    points: int
    rmse: float
    largest_error: float
    abs_rel: float

    def __str__(self) -> str:
        fit = f"{self.points} points, scale {self.scale:.6g}, shift {self.shift:.6g}"
        if self.points == 2:
            return f"{fit}; with two points the fit is exact, there is no error to estimate"
        return (
            f"{fit}; error at the points: RMSE {self.rmse:.4g} m, largest "
            f"{self.largest_error:.4g} m, AbsRel {100 * self.abs_rel:.3g} %"
        )


def fit_points(prediction: np.ndarray, points: KnownPoints, max_depth: float) -> Fit:
    """Fit a prediction to the known distances by least squares in disparity.

    Args:
        prediction: float32 [H, W], inverse depth up to scale and shift, larger is closer.
        points: of this image.
        max_depth: as in `metric_depth`; the errors are those of its result.

    Raises:
        UserError: the prediction is the same at all points, or the points contradict it: it does
            not grow with 1 / metres.
    """
    predicted = prediction[points.rows, points.columns]
    if np.ptp(predicted) == 0:
        raise UserError(
            f"the prediction is the same at all {predicted.size} points, no depth can be fitted; "
            "add points at other distances"
        )
    target = 1 / points.metres
    scale, shift = metrics.fit_disparity(predicted, target)
    if scale * np.ptp(predicted.astype(np.float64)) <= _NO_SLOPE * target.max():
        raise UserError(
            f"the points contradict the prediction (scale {scale:.3g}, expected more than 0): near "
            "ones are predicted no nearer than far ones; check their x, y and metres"
        )
    depth = metric_depth(predicted, scale, shift, max_depth)
    errors = np.abs(depth - points.metres)
    return Fit(
        scale=scale,
        shift=shift,
        points=errors.size,
        rmse=float(np.sqrt(np.mean(errors**2))),
        largest_error=float(errors.max()),
        abs_rel=float(np.mean(errors / points.metres)),
    )


def metric_depth(
    prediction: np.ndarray, scale: float, shift: float, max_depth: float
) -> np.ndarray:
    """1 / (scale * prediction + shift); `max_depth` where that is farther, infinite or negative.

    Args:
        prediction: float32, any shape, inverse depth up to scale and shift.
        scale: > 0, and shift, in 1/metres, from `fit_points`.
        shift: see scale.
        max_depth: metres.

    Returns:
        float32 metres in (0, max_depth], of the prediction's shape.
    """
    disparity = scale * prediction.astype(np.float64) + shift
    depth = np.full(disparity.shape, max_depth, np.float64)
    np.divide(1, disparity, out=depth, where=disparity > 1 / max_depth)
    return depth.astype(np.float32)


def millimetres(depth: np.ndarray) -> np.ndarray:
    """float32 metres > 0 -> uint16 millimetres, at least 1; beyond 65.535 m 0, 'unknown'."""
    rounded = np.rint(depth.astype(np.float64) * 1000)
    return np.where(rounded > 65535, 0, np.maximum(rounded, 1)).astype(np.uint16)


def read_alignment(path: Path, folder: Path, max_depth: float) -> Alignment:
    """Read the known distances of a folder's photographs; all that can be checked is checked.

    The file is CSV in UTF-8 with the header `image,x,y,metres`; blank lines and lines that start
    with '#' do not count. image is the name of a file in the folder; x (to the right) and y (down)
    are pixels of the upright photograph, 0,0 the centre of the first, fractions go to the nearest;
    metres, along the camera's axis, is in [0.001, max_depth]. A photograph has points at two
    pixels at least, or none.

    Raises:
        UserError: the file or the folder cannot be read, or a line is wrong, which is named.
    """
    images = {image.name: image for image in image_io.list_images(folder)[0]}
    sizes: dict[str, tuple[int, int] | None] = {}
    points: dict[str, list[_Line]] = {}
    for line in _read_lines(path, max_depth):
        if line.image not in images:
            near = difflib.get_close_matches(line.image, images, n=1)
            hint = f"did you mean {near[0]}?" if near else "expected the name of a file there"
            raise UserError(f"{line.where}: no image {line.image!r} in {folder}; {hint}")
        if line.image not in sizes:
            sizes[line.image] = _size(images[line.image])
        _check_inside(line, sizes[line.image])
        points.setdefault(line.image, []).append(line)
    return Alignment({name: _known_points(lines) for name, lines in points.items()}, max_depth)


@dataclass(frozen=True)
class _Line:
    where: str  # FILE, line N
    image: str
    x: int
    y: int
    metres: float


def _read_lines(path: Path, max_depth: float) -> Iterator[_Line]:
    """The points of the file, in order; there is one at least."""
    rows = _rows(path)
    where, cells = next(rows, (f"{path}, line 1", []))
    if tuple(cells) != HEADER:
        raise UserError(f"{where}: expected the header {','.join(HEADER)}, got {','.join(cells)!r}")
    empty = True
    for where, cells in rows:
        empty = False
        if len(cells) != len(HEADER):
            raise UserError(f"{where}: expected {','.join(HEADER)}, got {len(cells)} values")
        x, y = (_number(where, *named) for named in zip(HEADER[1:3], cells[1:3], strict=True))
        metres = _number(where, "metres", cells[3])
        if not MIN_METRES <= metres <= max_depth:
            raise UserError(
                f"{where}: metres: expected {MIN_METRES:g} to {max_depth:g} (align_max_depth), "
                f"got {cells[3]!r}"
            )
        # Not round(), which takes halves to the even number.
        yield _Line(where, cells[0], math.floor(x + 0.5), math.floor(y + 0.5), metres)
    if empty:
        raise UserError(f"{where}: no points after the header; expected two of an image at least")


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """('FILE, line N', its values) of every line that counts."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets begin a file with a BOM
    except OSError as error:
        raise UserError(f"align: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"align: {path}: not a text file in UTF-8; save it as CSV") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}, line {number}"
        try:
            cells = next(csv.reader([line], strict=True))
        except csv.Error as error:
            raise UserError(f"{where}: not CSV ({error}); expected {','.join(HEADER)}") from None
        yield where, [cell.strip() for cell in cells]


def _number(where: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: {name}: expected a number, got {text!r}")
    return value


def _size(image: Path) -> tuple[int, int] | None:
    """(height, width) of the upright photograph; None if it is damaged, which stops only it."""
    try:
        return image_io.image_size(image)
    except UserError:
        return None


def _check_inside(line: _Line, size: tuple[int, int] | None) -> None:
    if size is None:
        return
    for name, value, length in (("x", line.x, size[1]), ("y", line.y, size[0])):
        if not 0 <= value < length:
            raise UserError(
                f"{line.where}: {name}: pixel {value} is outside of {line.image}, expected 0 to "
                f"{length - 1} (upright, it has {size[1]} x {size[0]} pixels)"
            )


def _known_points(lines: list[_Line]) -> KnownPoints:
    """The points of one image."""
    last = lines[-1]
    if len({(line.x, line.y) for line in lines}) < 2:
        raise UserError(
            f"{last.where}: {last.image} has points at one pixel only; add one at another distance"
        )
    return KnownPoints(
        rows=np.array([line.y for line in lines]),
        columns=np.array([line.x for line in lines]),
        metres=np.array([line.metres for line in lines]),
    )
