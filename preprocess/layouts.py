"""Writes rendered views in the folder layouts and encodings of the real datasets.

Each layout is a training set or a benchmark: which kinds of scenes it shows, at what size, and how
one view is written. Sky (infinite depth) has disparity 0 in ReDWeb, is 0 (invalid) in KITTI and TUM
and beyond every cap in Sintel.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from itertools import groupby
from pathlib import Path
from typing import ClassVar

import numpy as np

from src.data.benchmarks import kitti, tum
from src.errors import UserError
from src.image_io import write_bytes, write_dpt, write_image, write_png16

MIXDATA = {"img": {"RW": "/ReDWeb_V1/Imgs/*"}, "depth": {"RW": "/ReDWeb_V1/RDs/*"}}
SINTEL_SKY = 1e4  # metres
SINTEL_BASELINE = 0.1  # metres between the left camera and the right one that occlusions refer to


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, where they are missing.

    Raises:
        UserError: it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be created ({error.strerror}); choose another folder"
        ) from None


def relative_inverse_depth(depth: np.ndarray) -> np.ndarray:
    """z-depth [H, W] in metres to uint16 [H, W]: 65535 at the closest surface, down to 0 at
    infinity, scaled per image. (ReDWeb has 8 bits; they would leave a far wall behind one close
    thing with a dozen levels.)"""
    disparity = 1.0 / depth.astype(np.float64)
    return (65535 * disparity / disparity.max()).round().astype(np.uint16)


def encode_depth(depth: np.ndarray, units_per_metre: int) -> np.ndarray:
    """z-depth [H, W] in metres to uint16 [H, W] in those units; 0 where it does not fit (sky)."""
    units = np.rint(depth.astype(np.float64) * units_per_metre)
    return np.where(units <= np.iinfo(np.uint16).max, units, 0).astype(np.uint16)


def stereo_occlusions(depth: np.ndarray, focal: float) -> np.ndarray:
    """Pixels of the left picture that the right camera does not see, uint8 [H, W]: 255 = occluded.

    A pixel moves left by focal * baseline / depth; it is hidden if something clearly closer lands
    on the same place (the neighbours on a slanted surface are not), or if it leaves the picture.
    """
    height, width = depth.shape
    shift = focal * SINTEL_BASELINE / depth.astype(np.float64)
    landing = np.rint(np.arange(width) - shift).astype(int)
    inside = landing >= 0
    rows = np.broadcast_to(np.arange(height)[:, None], depth.shape)
    nearest = np.zeros(depth.shape)
    np.maximum.at(nearest, (rows[inside], landing[inside]), shift[inside])
    hidden = nearest[rows, np.maximum(landing, 0)] > 1.1 * shift + 1
    return np.where(hidden | ~inside, 255, 0).astype(np.uint8)


class Layout(ABC):
    """One output folder. `split` keeps its random numbers apart from the others', so no scene is in
    two sets; `kinds` are the kinds of scenes in turn; `views` pictures are taken of each scene;
    `count` pictures are asked for, and `pattern` finds those that are there."""

    name: ClassVar[str]
    pattern: ClassVar[str]
    split: ClassVar[int]
    kinds: ClassVar[tuple[str, ...]]
    views: ClassVar[int] = 2
    size: ClassVar[tuple[int, int] | None]  # width, height; None: as the command line says

    def __init__(self, root: Path, count: int) -> None:
        self.folder = root / self.name
        self.count = count

    @abstractmethod
    def files(self, index: int) -> tuple[Path, ...]:
        """The files of picture number `index`."""

    @abstractmethod
    def write(self, index: int, image: np.ndarray, depth: np.ndarray, focal: float) -> None:
        """Write `image` uint8 [H, W, 3] and `depth` float32 [H, W] in metres (inf = sky); the
        image last, so that no picture is ever without its depth."""

    def pictures(self) -> list[Path]:
        """The pictures in the folder, sorted, also those of an earlier, larger `count`."""
        return sorted(self.folder.glob(self.pattern))

    def finish(self) -> None:  # noqa: B027 - most sets need nothing
        """Write what belongs to the set as a whole, once every picture is there."""


class ReDWeb(Layout):
    """The training set: mostly indoors and close, as photographs are."""

    name, pattern = "ReDWeb_V1", "Imgs/*.jpg"
    split, size = 0, None
    views = 1
    kinds = (
        "room",
        "clutter",
        "street",
        "room",
        "open",
        "clutter",
        "room",
        "clutter",
        "street",
        "room",
        "open",
        "floating",
    )

    def files(self, index: int) -> tuple[Path, ...]:
        stem = f"{index:05d}"
        return self.folder / "Imgs" / f"{stem}.jpg", self.folder / "RDs" / f"{stem}.png"

    def write(self, index: int, image: np.ndarray, depth: np.ndarray, focal: float) -> None:
        image_path, depth_path = self.files(index)
        write_png16(depth_path, relative_inverse_depth(depth))
        write_image(image_path, image)

    def finish(self) -> None:
        text = json.dumps(MIXDATA, indent=2) + "\n"
        write_bytes(self.folder.parent / "mixdata.json", text.encode())


class Kitti(Layout):
    """KITTI: streets and open ground, wide and low; two pictures a drive."""

    name, pattern = "Kitti_raw_data", "*/image/*.png"
    split, size = 1, (320, 96)
    kinds = ("street", "street", "open")

    def files(self, index: int) -> tuple[Path, ...]:
        drive = self.folder / f"2011_09_26_drive_{index // self.views + 1:04d}_sync"
        name = f"{index % self.views:010d}.png"
        return drive / "image" / name, drive / "depth" / name

    def write(self, index: int, image: np.ndarray, depth: np.ndarray, focal: float) -> None:
        image_path, depth_path = self.files(index)
        write_png16(depth_path, encode_depth(depth, kitti.UNITS_PER_METRE))
        write_image(image_path, image)


class Sintel(Layout):
    """Sintel: everything but floating things; two frames a scene."""

    name, pattern = "Sintel", "final_left/*/*.png"
    split, size = 2, (256, 109)
    kinds = ("clutter", "open", "room", "street")

    def files(self, index: int) -> tuple[Path, ...]:
        scene, frame = f"scene_{index // self.views + 1}", f"frame_{index % self.views + 1:04d}"
        return (
            self.folder / "final_left" / scene / f"{frame}.png",
            self.folder / "depth" / scene / f"{frame}.dpt",
            self.folder / "occlusions" / scene / f"{frame}.png",
        )

    def write(self, index: int, image: np.ndarray, depth: np.ndarray, focal: float) -> None:
        image_path, depth_path, occlusion_path = self.files(index)
        write_dpt(depth_path, np.where(np.isfinite(depth), depth, SINTEL_SKY).astype(np.float32))
        write_image(occlusion_path, stereo_occlusions(depth, focal))
        write_image(image_path, image)


class TUM(Layout):
    """TUM RGB-D: indoors; six pictures a sequence, of three scenes."""

    name, pattern = "TUM", "*/rgb/*.png"
    split, size = 3, (160, 120)
    kinds = ("room", "room", "clutter")
    sequence_length: ClassVar[int] = 6

    def _place(self, index: int) -> tuple[Path, str]:
        number, frame = divmod(index, self.sequence_length)
        timestamp = f"{1305031100 + 100 * number}.{33000 * frame + 102000:06d}"
        return self.folder / f"rgbd_dataset_freiburg1_room{number + 1}", timestamp

    def files(self, index: int) -> tuple[Path, ...]:
        sequence, timestamp = self._place(index)
        return sequence / "rgb" / f"{timestamp}.png", sequence / "depth" / f"{timestamp}.png"

    def write(self, index: int, image: np.ndarray, depth: np.ndarray, focal: float) -> None:
        image_path, depth_path = self.files(index)
        write_png16(depth_path, encode_depth(depth, tum.UNITS_PER_METRE))
        write_image(image_path, image)

    def finish(self) -> None:
        for sequence, pictures in groupby(self.pictures(), key=lambda path: path.parents[1]):
            stamps = [picture.stem for picture in pictures]
            for kind, title in (("rgb", "color images"), ("depth", "depth maps")):
                lines = [f"# {title}", "# timestamp filename"]
                lines += [f"{stamp} {kind}/{stamp}.png" for stamp in stamps]
                write_bytes(sequence / f"{kind}.txt", ("\n".join(lines) + "\n").encode())
            pairs = "".join(f"rgb/{stamp}.png depth/{stamp}.png\n" for stamp in stamps)
            write_bytes(sequence / "associate.txt", pairs.encode())


LAYOUTS: tuple[type[Layout], ...] = (ReDWeb, Kitti, Sintel, TUM)
