"""Pair the colour images and depth maps of TUM RGB-D by their time stamps.

    python preprocess/associate.py FOLDER [--max_difference 0.02] [--offset 0.0] [--force]

The two cameras of a Kinect are not synchronised: rgb.txt and depth.txt of a sequence list their
files with different times. This writes FOLDER/associate.txt, the list of pairs that the evaluation
reads: a line `rgb/FILE depth/FILE` for each, sorted by the image's time. FOLDER is one sequence or
a folder of sequences.

The method is that of the data set's own associate.py (TUM RGB-D, "Useful tools for the RGB-D
benchmark"): of all pairs that are closer than the maximal difference the closest is taken first,
and no file is used twice.
"""

from __future__ import annotations

import argparse
import heapq
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

from src.data.benchmarks.base import subfolders
from src.data.benchmarks.tum import ASSOCIATIONS
from src.errors import Parser, UserError, run_program
from src.image_io import write_bytes

RGB, DEPTH = "rgb.txt", "depth.txt"
_SECONDS = re.compile(r"\d{1,12}(\.\d{1,12})?", re.ASCII)


@dataclass(frozen=True)
class Association:
    """What was found for one sequence.

    Attributes:
        path: the file to write.
        text: its content.
        differences: seconds, one for each pair.
        rgb_left, depth_left: the numbers of images and depth maps without a partner.
    """

    path: Path
    text: str
    differences: list[Decimal]
    rgb_left: int
    depth_left: int


def read_list(path: Path) -> dict[Decimal, str]:
    """The files of rgb.txt or depth.txt by their time: lines `timestamp filename`, '#' comments.

    Seconds are decimal: a float64 of a Unix time is only good to 0.2 microseconds, which would
    leave ties and the limit to chance.

    Raises:
        UserError: the file is missing or empty, or a line has another form, or repeats a time or
            a file.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; a sequence of TUM RGB-D has {RGB} and {DEPTH}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text ({error})") from None
    files: dict[Decimal, str] = {}
    first_lines: dict[Decimal | str, int] = {}
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        if len(fields) != 2 or not _SECONDS.fullmatch(fields[0]):
            raise UserError(
                f"{path}, line {number}: expected 'timestamp filename', found {line.strip()[:80]!r}"
            )
        time, file = Decimal(fields[0]), fields[1]
        for value in (time, file):
            first = first_lines.setdefault(value, number)
            if first != number:
                raise UserError(
                    f"{path}, line {number}: {value} is in line {first} already; remove one of them"
                )
        files[time] = file
    if not files:
        raise UserError(f"{path}: names no file, expected lines 'timestamp filename'")
    return files


def pair_by_time(
    rgb: Iterable[Decimal], depth: Iterable[Decimal], max_difference: Decimal
) -> list[tuple[Decimal, Decimal]]:
    """Greedy pairs: again and again the closest two of what is left, each element once.

    Of equally close pairs the one with the earlier image goes first, then the one with the earlier
    depth map. The closest two are always neighbours in time, so a heap of neighbours is enough:
    O(n log n), however large the difference.

    Args:
        rgb, depth: seconds in any order, each without repetition.
        max_difference: seconds; a pair is strictly closer.

    Returns:
        (time in rgb, time in depth), sorted.
    """
    moments = sorted([(time, RGB) for time in rgb] + [(time, DEPTH) for time in depth])
    before = list(range(-1, len(moments) - 1))
    after = list(range(1, len(moments) + 1))
    taken = [False] * len(moments)
    heap: list[tuple[Decimal, Decimal, Decimal, int, int]] = []

    def consider(left: int, right: int) -> None:
        if left < 0 or right == len(moments) or moments[left][1] == moments[right][1]:
            return
        difference = moments[right][0] - moments[left][0]
        if difference < max_difference:
            image, depth_map = (left, right) if moments[left][1] == RGB else (right, left)
            times = moments[image][0], moments[depth_map][0]
            heapq.heappush(heap, (difference, *times, left, right))

    for right in range(1, len(moments)):
        consider(right - 1, right)
    pairs = []
    while heap:
        _, image_time, depth_time, left, right = heapq.heappop(heap)
        if taken[left] or taken[right]:
            continue
        taken[left] = taken[right] = True
        pairs.append((image_time, depth_time))
        outer_left, outer_right = before[left], after[right]
        if outer_left >= 0:
            after[outer_left] = outer_right
        if outer_right < len(moments):
            before[outer_right] = outer_left
        consider(outer_left, outer_right)
    return sorted(pairs)


def associate(sequence: Path, max_difference: Decimal, offset: Decimal) -> Association:
    """Pair the files of one sequence; `offset` seconds are added to the times of the depth maps.

    Raises:
        UserError: a list is missing or malformed, nothing can be paired, or a file of a pair is
            missing.
    """
    rgb = read_list(sequence / RGB)
    depth = {time + offset: file for time, file in read_list(sequence / DEPTH).items()}
    pairs = pair_by_time(rgb, depth, max_difference)
    if not pairs:
        raise UserError(
            f"{sequence}: no image of {RGB} is closer than {max_difference} s to a depth map of "
            f"{DEPTH}; check the files, --offset ({offset} s) and --max_difference"
        )
    files = [(rgb[image_time], depth[depth_time]) for image_time, depth_time in pairs]
    missing = [name for pair in files for name in pair if not (sequence / name).is_file()]
    if missing:
        raise UserError(
            f"{sequence / missing[0]}: listed in {RGB} or {DEPTH} but missing (in all "
            f"{len(missing)} files); unpack the sequence again or remove the lines"
        )
    head = f"# {RGB} and {DEPTH} paired with max_difference {max_difference} s, offset {offset} s\n"
    return Association(
        path=sequence / ASSOCIATIONS,
        text=head + "".join(f"{image} {depth_map}\n" for image, depth_map in files),
        differences=[abs(image_time - depth_time) for image_time, depth_time in pairs],
        rgb_left=len(rgb) - len(pairs),
        depth_left=len(depth) - len(pairs),
    )


def is_written(association: Association, force: bool) -> bool:
    """Whether the file is there already.

    Raises:
        UserError: it is there with other content (unless `force`), or cannot be read.
    """
    path = association.path
    try:
        if path.read_bytes() == association.text.encode():
            return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not force:
        raise UserError(f"{path} exists with other content; --force replaces it")
    return False


def find_sequences(folder: Path) -> list[Path]:
    """The folder itself if it has one of the two lists, or else those in it that have.

    Raises:
        UserError: there is none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected TUM RGB-D sequences")
    sequences = [
        place
        for place in (folder, *subfolders(folder))
        if (place / RGB).is_file() or (place / DEPTH).is_file()
    ]
    if not sequences:
        raise UserError(f"{folder}: no {RGB} and {DEPTH} in it or in a folder in it")
    return sequences[:1] if sequences[0] == folder else sequences


def describe(association: Association) -> str:
    """One line on how well the sequence could be paired."""
    differences = association.differences
    mean = float(sum(differences)) / len(differences)
    return (
        f"{association.path}: {len(differences)} pairs, left over: {association.rgb_left} images, "
        f"{association.depth_left} depth maps; difference mean {mean:.4f} s, "
        f"max {max(differences):.4f} s"
    )


def seconds(text: str) -> Decimal:
    """A finite number of seconds, for the command line."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or abs(value) > 10**12:
        raise argparse.ArgumentTypeError(f"{text!r}, expected seconds")
    return value


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a sequence, or a folder of")
    parser.add_argument(
        "--max_difference", type=seconds, default="0.02", metavar="SECONDS", help="default 0.02"
    )
    parser.add_argument(
        "--offset", type=seconds, default="0.0", metavar="SECONDS", help="added to depth's times"
    )
    parser.add_argument("--force", action="store_true", help="replace another associate.txt")
    arguments = parser.parse_args()
    if arguments.max_difference <= 0:
        raise UserError(f"--max_difference {arguments.max_difference}: expected more than 0")
    # Nothing is written unless every sequence can be.
    associations = [
        associate(sequence, arguments.max_difference, arguments.offset)
        for sequence in find_sequences(arguments.folder)
    ]
    written = [is_written(association, arguments.force) for association in associations]
    for association, there in zip(associations, written, strict=True):
        if not there:
            write_bytes(association.path, association.text.encode())
        print(describe(association) + (" (unchanged)" if there else ""))


if __name__ == "__main__":
    run_program(main)
