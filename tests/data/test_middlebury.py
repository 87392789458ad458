"""Middlebury: depth from disparity by the data set's formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from src.data.benchmarks.middlebury import Middlebury, read_calibration
from src.data.transforms import ResizeRule
from src.errors import UserError
from tests import file_formats

CALIBRATION = """cam0=[1000 0 320.5; 0 1000 240; 0 0 1]
cam1=[1000 0 340.5; 0 1000 240; 0 0 1]
doffs=20
baseline=150.5
width=4
height=2
ndisp=70
"""
DISPARITY = np.array([[30.25, np.inf, 5.0, 130.5], [-20.0, np.nan, -25.0, 0.0]], np.float32)
# Z = baseline * f / (d + doffs) = 150.5 / (d + 20) metres, by hand.
DEPTH = [[150.5 / 50.25, 0, 150.5 / 25, 1.0], [0, 0, 0, 7.525]]


def write_scene(folder: Path, calibration: str = CALIBRATION) -> None:
    folder.mkdir(parents=True)
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    (folder / "im0.png").write_bytes(file_formats.png(image))
    (folder / "disp0.pfm").write_bytes(file_formats.pfm(DISPARITY))
    (folder / "calib.txt").write_text(calibration)


def test_depth_is_baseline_times_focal_length_over_disparity(tmp_path):
    write_scene(tmp_path / "room")
    benchmark = Middlebury(tmp_path, 64)
    (sample,) = benchmark.samples()
    assert len(benchmark) == 1
    assert sample.id == "room"
    np.testing.assert_allclose(sample.depth, DEPTH, rtol=1e-6)
    assert sample.depth.dtype == np.float32
    assert sample.mask.tolist() == [[True, False, True, True], [False, False, False, True]]
    assert np.array_equal(sample.image, np.arange(24, dtype=np.uint8).reshape(2, 4, 3))


def test_the_protocol(tmp_path):
    write_scene(tmp_path / "room")
    benchmark = Middlebury(tmp_path)
    assert (benchmark.name, benchmark.metric, benchmark.cap) == ("Middlebury", "abs_rel", 10)
    assert benchmark.resize == ResizeRule(384, 384, method="upper_bound")


def test_scenes_are_sorted(tmp_path):
    for name in ("b", "a"):
        write_scene(tmp_path / name)
    assert [sample.id for sample in Middlebury(tmp_path).samples()] == ["a", "b"]


@pytest.mark.parametrize("name", ["im0.png", "disp0.pfm", "calib.txt"])
def test_a_missing_file_of_a_scene_is_named(tmp_path, name):
    write_scene(tmp_path / "room")
    (tmp_path / "room" / name).unlink()
    with pytest.raises(UserError) as caught:
        Middlebury(tmp_path)
    missing = tmp_path / "room" / name
    assert str(caught.value).startswith(f"{tmp_path}: incomplete, missing: {missing};")


def test_a_folder_without_scenes_is_named(tmp_path):
    with pytest.raises(UserError) as caught:
        Middlebury(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


def test_calibration_by_hand(tmp_path):
    path = tmp_path / "calib.txt"
    path.write_text(CALIBRATION)
    assert read_calibration(path) == pytest.approx((1000.0, 20.0, 0.1505))
    path.write_text("cam0=[9.5e2 0 1; 0 9.5e2 1; 0 0 1]\r\ndoffs=-1.5\r\nbaseline=100\r\n")
    assert read_calibration(path) == pytest.approx((950.0, -1.5, 0.1))


@pytest.mark.parametrize("key", ["cam0", "doffs", "baseline"])
@pytest.mark.parametrize("value", [None, "", "none", "-.e"])
def test_a_calibration_without_a_number_is_named(tmp_path, key, value):
    lines = [line for line in CALIBRATION.splitlines() if not line.startswith(f"{key}=")]
    path = tmp_path / "calib.txt"
    path.write_text("\n".join([*lines, *([] if value is None else [f"{key}={value}"])]))
    with pytest.raises(UserError) as caught:
        read_calibration(path)
    assert str(caught.value).startswith(f"{path}: no number for {key}=")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b""])
def test_a_calibration_that_is_no_text_is_named(tmp_path, content):
    path = tmp_path / "calib.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_calibration(path)
    assert str(caught.value).startswith(str(path))
