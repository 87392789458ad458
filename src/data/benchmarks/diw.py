"""Depth in the Wild: photographs from the web, two points of each ordered by people."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from src import image_io, metrics
from src.data.benchmarks.base import (
    Benchmark,
    Metric,
    OrdinalSample,
    check_files,
    existing_folder,
    unique,
)
from src.errors import UserError

ANNOTATIONS = Path("DIW_Annotations", "DIW_test.csv")


class Annotation(NamedTuple):
    """Two lines of the csv, the second one unread: there are 74,441."""

    image: str
    points: str
    line: int


class Diw(Benchmark):
    """`DIW_Annotations/DIW_test.csv`: a line with an image, relative to the root, then a line
    `yA,xA,yB,xB,relation,width,height`. Points count from 1; '>' means that A is closer.

    The error of an image is 1 or 0: their mean is the WHDR.
    """

    name: ClassVar[str] = "DIW"
    metric: ClassVar[Metric] = "whdr"
    cap: ClassVar[None] = None
    columns: ClassVar[tuple[str, ...]] = metrics.ORDINAL_COLUMNS

    def __init__(self, root: str | Path, size: int = 384, check: bool = True) -> None:
        """Read the annotations and look for the images.

        Args:
            root: the folder of the data set.
            size: pixels; the bound of `resize`, a multiple of 32. The published errors use 384.
            check: raise if an image or its line is missing; otherwise `read` does.

        Raises:
            UserError: the folder or the annotations are missing, their lines do not come in pairs,
                or images are missing.
        """
        super().__init__(size)
        self.root = existing_folder(root, self.name)
        self._csv = self.root / ANNOTATIONS
        self._annotations = list(read_annotations(self._csv, strict=check))
        images = [entry.image for entry in self._annotations]
        if check:  # as Path objects the files would take seconds
            files = (os.path.join(self.root, image) for image in images)  # noqa: PTH118
            check_files(self.root, files)
        self.ids = unique(image.removeprefix("./").removesuffix(".thumb") for image in images)

    def read(self, index: int) -> OrdinalSample:
        """As in `Benchmark`; a line of the csv may also be odd."""
        entry = self._annotations[index]
        if not entry.image:
            raise UserError(f"{self._csv}, line {entry.line}: no line with an image before it")
        closer, farther, shape = _parse_points(entry, self._csv)
        path = self.root / entry.image
        image = image_io.read_image(path, upright=False)
        if image.shape[:2] != shape:
            raise UserError(
                f"{path} is {image.shape[1]} x {image.shape[0]} but {self._csv}, line {entry.line}"
                f" says {shape[1]} x {shape[0]}; use the original image"
            )
        return OrdinalSample(self.ids[index], image, closer, farther)

    def image_size(self, index: int) -> tuple[int, int]:
        return _parse_points(self._annotations[index], self._csv)[2]

    def score(self, prediction: np.ndarray, sample: OrdinalSample) -> dict[str, float]:
        if prediction.shape != sample.image.shape[:2]:
            raise ValueError(f"shapes differ: {prediction.shape}, image {sample.image.shape}")
        return metrics.ordinal_scores(prediction, sample.closer, sample.farther)


def read_annotations(path: Path, strict: bool = True) -> Iterator[Annotation]:
    """The pairs of lines of the csv, blank lines left out.

    Args:
        strict: the lines must come in pairs; otherwise a line without its partner makes an entry
            with an empty image or empty points.

    Raises:
        UserError: missing, no text, empty, or its lines do not come in pairs.
    """
    line, image = 0, ""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            for row in filter(None, rows):
                line = rows.line_num
                if image and (strict or len(row) > 1):
                    yield Annotation(image, ",".join(row), line)
                    image = ""
                    continue
                if image:
                    yield Annotation(image, "", line - 1)
                if not strict and len(row) > 1:
                    yield Annotation("", ",".join(row), line)
                else:
                    image = _image_name(row, path, line)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; download the annotations of DIW") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from None
    if image:
        yield Annotation(image, "", line)
    if line == 0:
        raise UserError(f"{path}: the file is empty; download it again")


def _image_name(row: list[str], path: Path, line: int) -> str:
    name = row[0].strip()
    if len(row) != 1 or not name.isprintable() or name[-1:] in ("", "/"):
        raise UserError(
            f"{path}, line {line}: expected an image such as ./DIW_test/NAME.thumb, found "
            f"{','.join(row)!r}"
        )
    return name


Point = tuple[int, int]


def _parse_points(entry: Annotation, path: Path) -> tuple[Point, Point, tuple[int, int]]:
    """The closer and the farther point, 0-based (y, x), and the image's (height, width).

    Raises:
        UserError: the line has another form, or a point is outside the image.
    """
    fields = [field.strip() for field in entry.points.split(",")]
    try:
        y_a, x_a, y_b, x_b, width, height = (int(field) for field in fields[:4] + fields[5:])
    except ValueError:
        width = height = 0
    if width < 1 or height < 1 or fields[4] not in ("<", ">"):
        raise UserError(
            f"{path}, line {entry.line}: expected 'yA,xA,yB,xB,< or >,width,height' after "
            f"{entry.image}, found {entry.points!r}"
        )
    a, b = (y_a - 1, x_a - 1), (y_b - 1, x_b - 1)
    if not all(0 <= y < height and 0 <= x < width for y, x in (a, b)):
        raise UserError(
            f"{path}, line {entry.line}: a point of {entry.points!r} is outside of 1..{height} x "
            f"1..{width}; use the original file"
        )
    closer, farther = (a, b) if fields[4] == ">" else (b, a)
    return closer, farther, (height, width)
