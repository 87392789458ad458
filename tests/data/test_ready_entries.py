"""docs/mixdata.json: every entry finds and reads files in the layout and format of its dataset."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from src.data.mixdata import find_pairs
from src.data.pairs import read_pair
from tests import file_formats

ENTRIES = json.loads((Path(__file__).parents[2] / "docs/mixdata.json").read_text())
NAN = np.nan


def png(path: Path, values: np.ndarray) -> None:
    path.write_bytes(file_formats.png(values))


def photo_png(path: Path, shape: tuple[int, int]) -> None:
    png(path, np.zeros((*shape, 3), np.uint8))


def photo_jpg(path: Path, shape: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", shape[::-1]).save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue())


def grey8(path: Path, values: list[list[float]]) -> None:
    png(path, np.array(values, np.uint8))


def grey16(path: Path, values: list[list[float]]) -> None:
    png(path, np.array(values, np.uint16))


def hdf5(path: Path, values: list[list[float]]) -> None:
    with h5py.File(path, "w") as file:
        file["depth"] = np.array(values, np.float32)


def pfm(path: Path, values: list[list[float]]) -> None:
    path.write_bytes(file_formats.pfm(np.array(values, np.float32)))


def npy(path: Path, values: list[list[float]]) -> None:
    np.save(path, np.array(values, np.float32))


@dataclass(frozen=True)
class Case:
    """A dataset as it is unpacked: (image, target, mask or None) of each pair, in the order of the
    images; files that belong to it and are none of these; what the targets hold and how they are
    written; the disparity that this means, worked out by hand."""

    pairs: list[tuple[str, str, str | None]]
    others: list[str]
    photograph: Callable[[Path, tuple[int, int]], None]
    write: Callable[[Path, list[list[float]]], None]
    values: list[list[float]]
    disparity: list[list[float]]
    mask: list[list[float]] | None = None


CASES = {
    "ReDWeb": Case(
        [("ReDWeb_V1/Imgs/1_a.jpg", "ReDWeb_V1/RDs/1_a.png", None)],
        [],
        photo_jpg,
        grey8,
        [[0, 128, 255], [1, 2, 3]],
        [[0, 128, 255], [1, 2, 3]],
    ),
    "MegaDepth": Case(
        [
            (f"MegaDepth_v1/{d}/imgs/{i}", f"MegaDepth_v1/{d}/depths/{Path(i).stem}.h5", None)
            for d, i in (
                ("0000/dense0", "7_o.jpg"),
                ("0001/dense0", "7_o.JPG"),
                ("0001/dense1", "7_o.png"),
            )
        ],
        ["MegaDepth_v1/0000/dense0/list.txt"],
        photo_jpg,
        hdf5,
        [[0, 2, -1], [4, 0.5, -2]],
        [[NAN, 0.5, NAN], [0.25, 2, NAN]],
    ),
    "DIML-indoor": Case(
        [
            (f"{d}/color/in_01_160217_{i}_c.png", f"{d}/depth_filled/in_01_160217_{i}{s}", None)
            for d in ("DIML/indoor/train/LR/1. Warehouse", "DIML/indoor/train/LR/12. Livingroom")
            for i in ("123138", "123140")
            for s in ("_depth_filled.png",)
        ],
        ["DIML/indoor/train/HR/1. Warehouse/color/in_01_160217_123138_c.png"],
        photo_png,
        grey16,
        [[0, 500, 1000], [2000, 4000, 50000]],
        [[NAN, 2, 1], [0.5, 0.25, 0.02]],
    ),
    "DIML-outdoor": Case(
        [
            (f"DIML/outdoor/train/LR/{a}/{i}.png", f"DIML/outdoor/train/LR/{b}/{i}.png", None)
            for a, b in (("outleft", "depthmap"),)
            for i in ("0001", "0002")
        ],
        [f"DIML/outdoor/train/LR/{d}/0001.png" for d in ("outright", "confidencemap")],
        photo_png,
        grey16,
        [[0, 1000, 2000], [4000, 8000, 20000]],
        [[NAN, 1, 0.5], [0.25, 0.125, 0.05]],
    ),
    "WSVD": Case(
        [
            (f"WSVD/{v}/image/{i}.jpg", f"WSVD/{v}/disparity/{i}.pfm", None)
            for v in ("3lBa0L", "x-9_Kq")
            for i in ("00000", "00025")
        ],
        ["WSVD/3lBa0L/video.mp4"],
        photo_jpg,
        pfm,
        [[-2.5, 0, 7.25], [NAN, 1, 2]],
        [[-2.5, 0, 7.25], [NAN, 1, 2]],
    ),
    "HRWSI": Case(
        [("HR-WSI/train/imgs/9k_1.jpg", "HR-WSI/train/gts/9k_1.png", "9k_1.png")],
        ["HR-WSI/val/imgs/0.jpg", "HR-WSI/val/gts/0.png", "HR-WSI/val/valid_masks/0.png"],
        photo_jpg,
        grey8,
        [[0, 0, 40], [200, 255, 7]],
        [[0, NAN, 40], [200, 255, NAN]],
        [[255, 0, 255], [255, 1, 0]],
    ),
    "TartanAir": Case(
        [
            (f"{d}/image_left/{i}_left.png", f"{d}/depth_left/{i}_left_depth.npy", None)
            for d in ("TartanAir/office/Easy/P000", "TartanAir/office/Hard/P000")
            for i in ("000000", "000001")
        ],
        ["TartanAir/office/Easy/P000/image_right/000000_right.png"],
        photo_png,
        npy,
        [[0.5, 4, 10000], [1, 2, 8]],
        [[2, 0.25, 0.0001], [1, 0.5, 0.125]],
    ),
}


def test_every_ready_entry_is_tried():
    assert CASES.keys() == ENTRIES.keys()


@pytest.mark.parametrize("name", ENTRIES)
def test_a_ready_entry_finds_and_reads_its_dataset(tmp_path, name):
    case = CASES[name]
    masks = tmp_path / "HR-WSI/train/valid_masks"
    expected = []
    for image, target, mask in case.pairs:
        for file in (tmp_path / image, tmp_path / target, masks / "x"):
            file.parent.mkdir(parents=True, exist_ok=True)
        case.photograph(tmp_path / image, (2, 3))
        case.write(tmp_path / target, case.values)
        if mask:
            grey8(masks / mask, case.mask)
        expected.append((tmp_path / image, tmp_path / target, masks / mask if mask else None))
    for other in case.others:
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).write_bytes(b"")
    (tmp_path / "mixdata.json").write_text(json.dumps({name: ENTRIES[name]}))
    pairs = find_pairs(str(tmp_path), "mixdata.json")
    assert [(pair.image, pair.target, pair.mask) for pair in pairs] == expected
    for pair in pairs:
        image, disparity = read_pair(pair)
        assert image.shape == (2, 3, 3)
        np.testing.assert_allclose(disparity, np.array(case.disparity, np.float32), rtol=1e-6)
