"""Writes rendered views in the folder layouts and encodings of the real datasets.

Each layout is a training set or a benchmark: which kinds of scenes it shows, at what size, and how
one view is written. Sky (infinite depth) has disparity 0 in ReDWeb and Outdoor, is 0 (invalid) in
KITTI, TUM and Indoor and beyond every cap in Sintel.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from src.data.benchmarks import kitti, tum
from src.errors import UserError
from src.image_io import write_bytes, write_dpt, write_image, write_png16

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


def stretched_disparity(depth: np.ndarray) -> np.ndarray:
    """z-depth [H, W] in metres to uint16 [H, W]: disparity, its least value in the picture 0 and
    its largest 65535."""
    disparity = 1.0 / depth.astype(np.float64)
    low, high = disparity.min(), disparity.max()
    return (65535 * (disparity - low) / (high - low)).round().astype(np.uint16)


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


class TrainingSet(Layout):
    """Pairs of one picture a scene, of the size that the command line asks for, in two folders with
    the same names: pictures as JPEG, maps as 16-bit PNG. `dataset` and `meaning` are its name and
    what its maps hold in mixdata.json."""

    size = None
    views = 1
    folders: ClassVar[tuple[str, str]]
    dataset: ClassVar[str]
    meaning: ClassVar[Mapping[str, str | float]]

    @staticmethod
    @abstractmethod
    def encode(depth: np.ndarray) -> np.ndarray:
        """What a map holds, uint16 [H, W], of z-depth [H, W] in metres (inf = sky)."""

    @classmethod
    def globs(cls) -> tuple[str, str]:
        """Of pictures and maps, as mixdata.json has them."""
        pictures, maps = cls.folders
        return f"/{cls.name}/{pictures}/*", f"/{cls.name}/{maps}/*"

    def files(self, index: int) -> tuple[Path, ...]:
        pictures, maps = (self.folder / name for name in self.folders)
        return pictures / f"{index:05d}.jpg", maps / f"{index:05d}.png"

    def write(self, index: int, image: np.ndarray, depth: np.ndarray, focal: float) -> None:
        image_path, depth_path = self.files(index)
        write_png16(depth_path, self.encode(depth))
        write_image(image_path, image)


class ReDWeb(TrainingSet):
    """ReDWeb: mostly indoors and close, as photographs are."""

    name, pattern, split = "ReDWeb_V1", "Imgs/*.jpg", 0
    folders = ("Imgs", "RDs")
    dataset, meaning = "RW", MappingProxyType({})
    encode = staticmethod(relative_inverse_depth)
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


class Indoor(TrainingSet):
    """What a depth camera measures: what TUM shows, in millimetres, 0 beyond 65.535 m."""

    name, pattern, split = "Indoor", "photos/*.jpg", 4
    folders = ("photos", "depth")
    dataset, meaning = "Indoor", MappingProxyType({"kind": "depth", "scale": 0.001})
    kinds = ("room", "room", "clutter")

    @staticmethod
    def encode(depth: np.ndarray) -> np.ndarray:
        return encode_depth(depth, 1000)


class Outdoor(TrainingSet):
    """What stereo without calibration measures: what KITTI shows, as disparity whose scale and
    shift are lost."""

    name, pattern, split = "Outdoor", "photos/*.jpg", 5
    folders = ("photos", "disparity")
    dataset, meaning = "Outdoor", MappingProxyType({"kind": "disparity"})
    encode = staticmethod(stretched_disparity)
    kinds = ("street", "street", "open")


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


LAYOUTS: dict[str, type[Layout]] = {
    layout.name: layout for layout in (ReDWeb, Kitti, Sintel, TUM, Indoor, Outdoor)
}
DEFAULT = ("ReDWeb_V1", "Kitti_raw_data", "Sintel", "TUM")


def write_mixdata(root: Path, layouts: Iterable[Layout]) -> None:
    """Name the training sets among `layouts`, and others that are in the folder already, in
    mixdata.json; ReDWeb alone in the original's form."""
    chosen = {layout.name for layout in layouts}
    sets = [
        layout
        for layout in LAYOUTS.values()
        if issubclass(layout, TrainingSet) and (layout.name in chosen or layout(root, 0).pictures())
    ]
    if not sets:
        return
    if sets == [ReDWeb]:
        images, maps = ReDWeb.globs()
        content = {"img": {ReDWeb.dataset: images}, "depth": {ReDWeb.dataset: maps}}
    else:
        content = {
            each.dataset: dict(zip(("image", "depth"), each.globs(), strict=True)) | each.meaning
            for each in sets
        }
    write_bytes(root / "mixdata.json", (json.dumps(content, indent=2) + "\n").encode())
