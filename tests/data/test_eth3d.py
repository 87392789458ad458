"""ETH3D: what its layout and its depth files have of their own. The rest: test_benchmarks.py."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from src.data.benchmarks.eth3d import Eth3d
from src.errors import UserError
from tests import file_formats
from tests.benchmark_sets import put, random_image, stored_depth, write_files

SHAPE = 4, 7


def write_scene(root, scene: str = "courtyard", shape: tuple[int, int] = SHAPE) -> None:
    write_files("ETH3D", root, {scene: [(random_image(0, shape), stored_depth("ETH3D", 0, shape))]})


def test_depth_files_are_little_endian_float32_of_the_images_size_row_after_row(tmp_path):
    folder = tmp_path / "facade"
    put(folder / "images/dslr_images/DSC_1.JPG", file_formats.png(np.zeros((2, 3, 3), np.uint8)))
    data = struct.pack("<6f", 1, 2, 3, 4, 5, float("inf"))
    put(folder / "ground_truth_depth/dslr_images/DSC_1.JPG", data)
    sample = Eth3d(tmp_path).read(0)
    assert sample.id == "facade/DSC_1"
    assert sample.depth.tolist() == [[1, 2, 3], [4, 5, float("inf")]]
    assert sample.mask.tolist() == [[True, True, True], [True, True, False]]


def test_only_the_folder_dslr_images_counts(tmp_path):
    write_scene(tmp_path)
    photograph = file_formats.png(random_image(1, SHAPE))
    for folder in ("dslr_images_undistorted", "dslr_images_small", "rig_images"):
        put(tmp_path / "courtyard" / "images" / folder / "DSC_0000.JPG", photograph)
        put(tmp_path / "delivery_area" / "images" / folder / "DSC_0001.JPG", photograph)
    (sample,) = Eth3d(tmp_path).samples()
    assert sample.id == "courtyard/DSC_0000"
    np.testing.assert_array_equal(sample.image, random_image(0, SHAPE))


def test_images_may_differ_in_size(tmp_path):
    shapes = {"a": (3, 8), "b": (8, 3), "c": (1, 5)}
    for scene, shape in shapes.items():
        write_scene(tmp_path, scene, shape)
    found = {sample.id[0]: sample.depth.shape for sample in Eth3d(tmp_path).samples()}
    assert found == shapes


@pytest.mark.parametrize("change", [-4, -1, 1, 4])
def test_a_depth_file_of_another_length_is_named(tmp_path, change):
    write_scene(tmp_path)
    depth = tmp_path / "courtyard/ground_truth_depth/dslr_images/DSC_0000.JPG"
    put(depth, (depth.read_bytes() + b"\0" * 4)[: 4 * 28 + change])
    with pytest.raises(UserError, match=rf"^{depth}: 7 x 4 values need 112 bytes, the file has"):
        Eth3d(tmp_path).read(0)


def test_a_download_without_depth_lacks_all_depth_files(tmp_path):
    write_scene(tmp_path)
    (tmp_path / "courtyard/ground_truth_depth").rename(tmp_path / "elsewhere")
    missing = tmp_path / "courtyard/ground_truth_depth/dslr_images/DSC_0000.JPG"
    with pytest.raises(UserError, match=rf"incomplete, missing: {missing};"):
        Eth3d(tmp_path)
