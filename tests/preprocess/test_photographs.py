"""Photographs out of scikit-image: as pictures, and one as a scene of Middlebury."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.benchmarks.middlebury import Middlebury

skimage_data = pytest.importorskip("skimage.data", reason="the demo extra is not installed")

PROGRAM = Path(__file__).resolve().parents[2] / "preprocess/photographs.py"
FILES = {
    *(f"Middlebury/motorcycle/{name}" for name in ("im0.png", "disp0.pfm", "calib.txt")),
    *(f"photographs/{name}.jpg" for name in ("astronaut", "chelsea", "coffee", "rocket")),
    "photographs/motorcycle.jpg",
}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PROGRAM, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    done = run(folder, "--output", "data")
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "data"


def refused(done: subprocess.CompletedProcess[str], start: str) -> None:
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {start}"), done.stderr
    assert done.stderr.count("\n") == 1


def test_every_file_and_no_other(root):
    assert files(root) == FILES


def test_pictures_are_those_of_scikit_image(root):
    left, _, _ = skimage_data.stereo_motorcycle()
    assert np.array_equal(np.asarray(Image.open(root / "Middlebury/motorcycle/im0.png")), left)
    for name, expected in (("coffee", skimage_data.coffee()), ("motorcycle", left)):
        picture = np.asarray(Image.open(root / f"photographs/{name}.jpg")).astype(float)
        assert picture.shape == expected.shape
        assert np.abs(picture - expected).mean() < 3  # JPEG


def test_the_motorcycle_is_a_scene_of_middlebury(root):
    _, _, disparity = skimage_data.stereo_motorcycle()
    (sample,) = Middlebury(root / "Middlebury").samples()
    known = np.isfinite(disparity)
    # The calibration of scikit-image's copy, from the documentation of stereo_motorcycle.
    expected = 193.001e-3 * 994.978 / (disparity[known].astype(np.float64) + 31.086)
    np.testing.assert_allclose(sample.depth[known], expected, rtol=1e-5)
    assert not sample.mask[~known].any()
    assert 1.5 < np.median(sample.depth[sample.mask]) < 5  # a motorcycle in a workshop


def test_identical_files_are_left_and_missing_ones_written(root):
    (root / "photographs/coffee.jpg").unlink()
    others = FILES - {"photographs/coffee.jpg"}
    before = {name: (root / name).stat().st_mtime_ns for name in others}
    assert run(root, "--output", ".").returncode == 0
    assert files(root) == FILES
    assert {name: (root / name).stat().st_mtime_ns for name in others} == before


def test_a_different_file_is_never_overwritten(tmp_path):
    (tmp_path / "photographs").mkdir()
    mine = tmp_path / "photographs/rocket.jpg"
    mine.write_text("mine")
    refused(run(tmp_path, "--output", "."), "photographs/rocket.jpg exists with other content")
    assert mine.read_text() == "mine"
    assert files(tmp_path) == {"photographs/rocket.jpg"}


def test_an_output_that_is_a_file_is_named(tmp_path):
    (tmp_path / "data").write_text("mine")
    refused(run(tmp_path, "--output", "data"), "data/Middlebury/motorcycle")
    assert (tmp_path / "data").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "photographs").symlink_to("nowhere/at/all")
    refused(run(tmp_path, "--output", "."), "photographs: cannot be created")


def test_a_missing_output_is_one_line(tmp_path):
    refused(run(tmp_path), "the following arguments are required: --output")
