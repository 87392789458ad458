"""Lay out KITTI's raw images and annotated depth maps as the evaluation reads them.

    python preprocess/kitti.py --raw RAW --depth DEPTH --split FILE --output OUTPUT
                               [--intersect] [--copy]

    RAW/<date>/<drive>/image_02/data/<frame>.png                            raw data, "synced"
    DEPTH/{train,val}/<drive>/proj_depth/groundtruth/image_02/<frame>.png   annotated depth maps
    OUTPUT/<drive>/{image,depth}/<frame>.png                                what is written

Images of the right camera, image_03, go to OUTPUT/<drive>_image_03. DEPTH may also be one of the
folders train and val.

FILE has a line for each image, '#' starts a comment. Either the path of the image in RAW (its
suffix may also be .jpg; what follows is ignored), the form of the widely used lists of the Eigen
split, or the drive, with or without its date before it, and the frame, and optionally the camera:
l or image_02 (default), r or image_03.

    2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png
    2011_09_26_drive_0002_sync 69

The 161 images of the paper are the 697 test images of Eigen et al. (2014) that are in the official
validation set of depth prediction: the former as FILE, with --intersect.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import re
import signal
import uuid
from pathlib import Path
from typing import NamedTuple

from layouts import make_folder

from src.errors import Parser, UserError, run_program
from src.image_io import write_bytes
from src.runlog import progress_bar

CAMERAS = {"l": "image_02", "r": "image_03", "image_02": "image_02", "image_03": "image_03"}
_DRIVE = r"(?:(?P<date>\d{4}_\d\d_\d\d)/)?(?P<drive>(?P<day>\d{4}_\d\d_\d\d)_drive_\d{4}_\w+)"
_PATH_LINE = re.compile(
    _DRIVE + r"/(?P<camera>image_0[23])/data/(?P<frame>\d{10})\.(png|jpg)(\s.*)?", re.ASCII
)
_FRAME_LINE = re.compile(
    _DRIVE + r"\s+(?P<frame>\d{1,10})(\s+(?P<camera>l|r|image_0[23]))?", re.ASCII
)
_EXPECTED = "'<date>/<drive>/image_02/data/<frame>.png' or '<drive> <frame>'"


class Frame(NamedTuple):
    """One image of the split."""

    drive: str
    camera: str
    number: str

    def image(self, raw: Path) -> Path:
        return raw / self.drive[:10] / self.drive / self.camera / "data" / f"{self.number}.png"

    def depth(self, root: Path) -> Path:
        folder = root / self.drive / "proj_depth" / "groundtruth" / self.camera
        return folder / f"{self.number}.png"

    def target(self, output: Path, kind: str) -> Path:
        """The file in the output; `kind` is image or depth."""
        suffix = "" if self.camera == "image_02" else f"_{self.camera}"
        return output / f"{self.drive}{suffix}" / kind / f"{self.number}.png"


class Job(NamedTuple):
    """A file to put in place."""

    source: Path
    target: Path


def read_split(path: Path) -> list[Frame]:
    """The images that a split file names, each once, in its order.

    Raises:
        UserError: the file cannot be read, names nothing, or a line has another form.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a split file ({error})") from None
    frames = []
    for number, line in enumerate(lines, start=1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        found = _PATH_LINE.fullmatch(text) or _FRAME_LINE.fullmatch(text)
        if not found or found["date"] not in (None, found["day"]):
            raise UserError(f"{path}, line {number}: expected {_EXPECTED}, found {text[:100]!r}")
        camera = CAMERAS[found["camera"] or "l"]
        frames.append(Frame(found["drive"], camera, found["frame"].zfill(10)))
    if not frames:
        raise UserError(f"{path}: names no image, expected lines {_EXPECTED}")
    return list(dict.fromkeys(frames))


def depth_roots(depth: Path, intersect: bool) -> list[Path]:
    """The folders that hold drives: val alone for an intersection, because the paper takes only
    the validation set; else val and train; or the folder itself if it has neither."""
    names = ("val",) if intersect and (depth / "val").is_dir() else ("val", "train")
    return [depth / name for name in names if (depth / name).is_dir()] or [depth]


def find_sources(
    frames: list[Frame], raw: Path, depth: Path, intersect: bool
) -> list[tuple[Frame, Path, Path]]:
    """Each image with its file and its depth file; `intersect` drops those without a depth file.

    Raises:
        UserError: files are missing, or nothing is left.
    """
    roots = depth_roots(depth, intersect)
    found, missing = [], []
    for frame in frames:
        image = frame.image(raw)
        places = [frame.depth(root) for root in roots]
        truth = next((place for place in places if place.is_file()), None)
        if truth is None and intersect:
            continue
        missing += [] if image.is_file() else [image]
        missing += [places[0]] if truth is None else []
        found.append((frame, image, truth or places[0]))
    if missing:
        rest = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"missing: {', '.join(map(str, missing[:3]))}{rest}; complete the downloads"
            + ("" if intersect else ", or keep only what has ground truth with --intersect")
        )
    if not found:
        raise UserError(
            f"{depth}: none of the {len(frames)} images of the split has ground truth there, "
            "expected <drive>/proj_depth/groundtruth/image_02/*.png in it or in its folder val"
        )
    return found


def plan(sources: list[tuple[Frame, Path, Path]], output: Path, copy: bool) -> list[Job]:
    """What is left to do for a complete output.

    Raises:
        UserError: a file is there with other content.
    """
    jobs = []
    for frame, image, depth in progress_bar(sources, desc="looking", unit="image"):
        for kind, source in (("depth", depth), ("image", image)):
            job = Job(source, frame.target(output, kind))
            if not is_done(job, copy):
                jobs.append(job)
    return jobs


def is_done(job: Job, copy: bool) -> bool:
    """Whether the target is there with the right content, for `copy` as a file of its own. A link
    that leads nowhere, because folders were moved, is to be replaced.

    Raises:
        UserError: the target is there with other content.
    """
    try:
        if not job.target.exists():
            return False
        if not job.target.samefile(job.source) and not filecmp.cmp(
            job.target, job.source, shallow=False
        ):
            raise UserError(
                f"{job.target} exists with other content than {job.source} and is not "
                "overwritten; move it away or choose another --output"
            )
    except OSError as error:
        raise UserError(f"{job.target}: cannot be compared ({error})") from None
    return not (copy and job.target.is_symlink())


def carry_out(job: Job, copy: bool) -> None:
    """Copy or link one file, in one step.

    Raises:
        UserError: it cannot be read or written.
    """
    make_folder(job.target.parent)
    try:
        if copy:
            write_bytes(job.target, job.source.read_bytes())
            return
        temporary = job.target.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            # Relative: a data root with downloads and output can be moved or mounted elsewhere.
            temporary.symlink_to(os.path.relpath(job.source, job.target.parent))
            temporary.replace(job.target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        hint = "" if copy else "; --copy copies instead"
        raise UserError(f"{job.target}: {error.strerror}{hint}") from None


def anchored(folder: Path) -> Path:
    """The folder's absolute path, with the links above it followed, but not its own: relative links
    into it are then as short as possible and still lead through a link that the user made."""
    folder = folder.absolute()
    return folder.parent.resolve() / folder.name


def strangers(sources: list[tuple[Frame, Path, Path]], folder: Path) -> list[Path]:
    """Images that are there but not in the split."""
    expected = {frame.target(folder, "image") for frame, _, _ in sources}
    return sorted(path for path in folder.glob("*/image/*") if path not in expected)


def lay_out(sources: list[tuple[Frame, Path, Path]], output: Path, copy: bool) -> int:
    """Make the output whole. A new one is built beside its place and moved there when it is
    complete; a stopped run goes on from there.

    Returns:
        The number of files that were written.

    Raises:
        UserError: a file is there with other content, or cannot be written.
    """
    partial = output.with_name(f"{output.name}.partial")
    empty = output.is_dir() and not any(output.iterdir())
    folder = partial if empty or not output.exists() else output
    others = strangers(sources, folder)
    if others and folder == partial:
        raise UserError(f"{others[0]}: not in this split; remove {partial}, left by another one")
    jobs = plan(sources, folder, copy)
    for job in progress_bar(jobs, desc="copying" if copy else "linking", unit="file"):
        carry_out(job, copy)
    if folder == partial:
        partial.rename(output)
    elif others:
        print(f"warning: {len(others)} images are not in the split, the first is {others[0]}")
    return len(jobs)


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, metavar, text in (
        ("raw", "DIR", "raw data: <date>/<drive>/image_02/data/*.png"),
        ("depth", "DIR", "annotated depth: {train,val}/<drive>/proj_depth/..."),
        ("split", "FILE", "which images; see above"),
        ("output", "DIR", "folder to write"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar=metavar, help=text)
    parser.add_argument("--intersect", action="store_true", help="only images with ground truth")
    parser.add_argument("--copy", action="store_true", help="copy the files instead of linking")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as tidily as on Ctrl-C
    raw, depth = anchored(arguments.raw), anchored(arguments.depth)
    for folder in (raw, depth):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
    frames = read_split(arguments.split)
    sources = find_sources(frames, raw, depth, arguments.intersect)
    output = arguments.output.resolve()
    for folder in (raw, depth):
        if output.is_relative_to(folder.resolve()):
            raise UserError(f"--output: {output} is inside of the download {folder}")
    written = lay_out(sources, output, arguments.copy)
    left_out = f", {len(frames) - len(sources)} without ground truth left out"
    print(
        f"{len(sources)} images in {output}{left_out if arguments.intersect else ''}; "
        f"{written} files {'copied' if arguments.copy else 'linked'}, "
        f"{2 * len(sources) - written} were there"
    )


if __name__ == "__main__":
    run_program(main)
