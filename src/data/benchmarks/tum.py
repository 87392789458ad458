"""TUM RGB-D: a hand-held Kinect in offices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np

from src import image_io
from src.data.benchmarks.base import FileBenchmark, FilePair, Metric, subfolders
from src.errors import UserError

UNITS_PER_METRE = 5000
"""Depth files hold uint16 = 5000 * metres, 0 = not measured (TUM RGB-D, "File Formats")."""

ASSOCIATIONS = "associate.txt"


class Tum(FileBenchmark):
    """`<sequence>/associate.txt`, whose lines name an image and its 16-bit depth file, 10 m.

    A line is `rgb depth`, or `time rgb time depth` as TUM's own `associate.py` writes it; paths are
    relative to the sequence's folder. The root may also be a single sequence.
    """

    name: ClassVar[str] = "TUM"
    metric: ClassVar[Metric] = "bad_pixel_percent"
    cap: ClassVar[float] = 10.0
    layout: ClassVar[str] = f"<sequence>/{ASSOCIATIONS} with lines 'rgb/*.png depth/*.png'"

    def find_pairs(self) -> Iterator[FilePair]:
        if _is_sequence(self.root):
            sequences = [self.root.resolve()]
        else:
            sequences = [folder for folder in subfolders(self.root) if _is_sequence(folder)]
        for sequence in sequences:
            for image, depth in read_associations(sequence / ASSOCIATIONS):
                yield FilePair(f"{sequence.name}/{image.stem}", image, depth)

    def read_depth(self, pair: FilePair, shape: tuple[int, int]) -> np.ndarray:
        return image_io.read_png16(pair.depth).astype(np.float32) / np.float32(UNITS_PER_METRE)


def read_associations(path: Path) -> list[tuple[Path, Path]]:
    """The (image file, depth file) pairs of an `associate.txt`, without blank lines and '#' lines.

    Raises:
        UserError: the file is missing, or a line has another form.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file, expected a line `rgb/FILE.png depth/FILE.png` for each image; "
            f"make it with `python preprocess/associate.py {path.parent}`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from None
    pairs = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if fields and not fields[0].startswith("#"):
            pairs.append(_parse_association(fields, path, number))
    return pairs


def _parse_association(fields: list[str], path: Path, number: int) -> tuple[Path, Path]:
    if len(fields) == 4 and _is_number(fields[0]) and _is_number(fields[2]):
        fields = [fields[1], fields[3]]
    if len(fields) != 2:
        raise UserError(
            f"{path}, line {number}: expected 'rgb depth' or 'time rgb time depth',"
            f" found {' '.join(fields)!r}"
        )
    return path.parent / fields[0], path.parent / fields[1]


def _is_sequence(folder: Path) -> bool:
    return (folder / ASSOCIATIONS).is_file() or (folder / "rgb").is_dir()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
