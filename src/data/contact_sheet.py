"""A picture of some samples of each dataset of a mix: photograph above, target below."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from src.visualize import colourize

TILE = (240, 180)  # width and height a photograph is fitted into, pixels
COLUMNS = 6
_GAP = 8
_LINE = 24  # height of a line of text
_WIDTH = COLUMNS * (TILE[0] + _GAP) + _GAP
_TEXT, _FAINT, _WARNING = "black", "#555555", "#c00000"
_LEGEND = (
    "Photographs, and below each its target as the training will see it. Where far things are "
    "bright, kind is wrong in mixdata.json."
)
_RAMP = np.tile(np.linspace(0, 1, 240), (16, 1))
_UNKNOWN = np.full((16, 16), np.nan)
_NAME = 38  # characters under a tile
_WARNING_LINE = 140  # characters: as many digits, wider than most letters, would fit


@dataclass(frozen=True)
class Block:
    """A dataset on the sheet.

    Attributes:
        title, note: of the dataset.
        warnings: what is wrong with it.
        samples: (name, photograph and target as `tiles` makes them), up to `COLUMNS`.
    """

    title: str
    note: str
    warnings: list[str]
    samples: list[tuple[str, np.ndarray, np.ndarray]]


def tiles(image: np.ndarray, disparity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [h, w, 3] RGB of a photograph and its target, no larger than `TILE`.

    Args:
        image: uint8 [H, W, 3], RGB.
        disparity: float32 [H, W], NaN where unknown; in the picture bright is close.
    """
    return _fit(image), _target(disparity)


def draw_sheet(blocks: list[Block]) -> np.ndarray:
    """The picture: uint8 [H, 1496, 3], RGB; a legend, then the blocks below each other."""
    return np.concatenate([_draw_legend(), *map(_draw_block, blocks)])


def _canvas(height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (_WIDTH, height), "white")
    return sheet, ImageDraw.Draw(sheet)


def _write(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: str = _TEXT
) -> int:
    """Write a line at (left, top); returns where it ends."""
    font = ImageFont.load_default(size)
    draw.text(at, text, colour, font)
    return round(draw.textbbox(at, text, font)[2])


def _draw_legend() -> np.ndarray:
    """What the picture shows, and its colours from far to close."""
    sheet, draw = _canvas(2 * _LINE + 2 * _GAP)
    _write(draw, (_GAP, _GAP), _LEGEND, 17)
    left, top = _GAP, _GAP + _LINE
    for name, values in (("far", _RAMP), ("close", None), ("unknown", _UNKNOWN)):
        left = _write(draw, (left, top), name, 17) + _GAP
        if values is not None:
            sheet.paste(Image.fromarray(colourize(values, limits=(0, 1))), (left, top + 3))
            left += values.shape[1] + _GAP
        if name != "far":
            left += 4 * _GAP
    return np.asarray(sheet)


def _draw_block(block: Block) -> np.ndarray:
    """A dataset: its title, what is wrong with it, and its samples in two rows."""
    rows = [[sample[part] for sample in block.samples] for part in (1, 2)]
    heights = [max((len(picture) for picture in row), default=0) for row in rows]
    warnings = [line for text in block.warnings for line in textwrap.wrap(text, _WARNING_LINE)]
    lines = 2 + len(warnings) + bool(block.samples)
    sheet, draw = _canvas(lines * _LINE + sum(heights) + 5 * _GAP)
    draw.line((0, 1, _WIDTH, 1), _FAINT, 2)
    _write(draw, (_GAP, _GAP), block.title, 20)
    _write(draw, (_GAP, _GAP + _LINE), block.note, 15, _FAINT)
    top = _GAP + 2 * _LINE
    for line in warnings:
        _write(draw, (_GAP, top), line, 17, _WARNING)
        top += _LINE
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), _middle(column, top, height, picture))
        top += height + _GAP
    for column, (name, _, _) in enumerate(block.samples):
        text = name if len(name) <= _NAME else "..." + name[3 - _NAME :]
        _write(draw, (_left(column), top), text, 12, _FAINT)
    return np.asarray(sheet)


def _left(column: int) -> int:
    return _GAP + column * (TILE[0] + _GAP)


def _middle(column: int, top: int, height: int, picture: np.ndarray) -> tuple[int, int]:
    """Where a picture goes in its tile of a row of this height."""
    left = _left(column) + (TILE[0] - picture.shape[1]) // 2
    return left, top + (height - picture.shape[0]) // 2


def _fit(values: np.ndarray) -> np.ndarray:
    """An image or map, as large as fits into a tile with its own aspect."""
    height, width = values.shape[:2]
    scale = min(TILE[0] / width, TILE[1] / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(values, size, interpolation=cv2.INTER_AREA)


def _target(disparity: np.ndarray) -> np.ndarray:
    """A map as colours; a pixel is the mean of the known ones it covers, so sparse maps show."""
    known = np.isfinite(disparity)
    share = _fit(known.astype(np.float32))
    total = _fit(np.where(known, disparity, np.float32(0)))
    return colourize(total / np.where(share > 1e-6, share, np.nan))
