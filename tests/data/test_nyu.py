"""NYU: MATLAB's files with their axes in reverse, and numbers that count from 1."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import scipy.io

from src.data.benchmarks.nyu import Nyu
from src.errors import UserError
from tests.benchmark_sets import (
    metres,
    put,
    random_image,
    stored_depth,
    write_hdf5,
    write_nyu,
)

SHAPE = 5, 8
COUNT = 6
TESTED = (2, 3, 6)


@pytest.fixture
def files(tmp_path):
    """(nyu.mat, splits.mat); frame n, from 1, has the image and depth of seed n."""
    frames = [(random_image(n, SHAPE), stored_depth("NYU", n, SHAPE)) for n in range(1, COUNT + 1)]
    return write_nyu(tmp_path, frames, TESTED)


def test_samples_are_the_tested_images_counted_from_1(files):
    benchmark = Nyu(*files)
    samples = list(benchmark.samples())
    assert benchmark.ids == ["test/0002", "test/0003", "test/0006"]
    assert [sample.id for sample in samples] == benchmark.ids
    assert len(benchmark) == 3
    for sample, seed in zip(samples, TESTED, strict=True):
        depth = metres("NYU", stored_depth("NYU", seed, SHAPE))
        assert (sample.image.dtype, sample.depth.dtype) == (np.uint8, np.float32)
        np.testing.assert_array_equal(sample.image, random_image(seed, SHAPE))
        np.testing.assert_array_equal(sample.depth, depth)
        np.testing.assert_array_equal(sample.mask, (depth > 0) & (depth < 10))
        assert sample.image.flags.c_contiguous
        assert sample.depth.flags.c_contiguous


def test_the_split_may_be_hdf5_too(files):
    expected = Nyu(*files).ids
    # MATLAB's column of numbers is a row in HDF5.
    write_hdf5(files[1], testNdxs=np.array([TESTED], np.float64))
    assert Nyu(*files).ids == expected


def test_the_protocol(files):
    benchmark = Nyu(*files, 128)
    assert benchmark.settings() == {"cap_m": 10.0, "resize": "upper_bound 128"}
    assert benchmark.resize.output_size(480, 640) == (96, 128)
    assert Nyu(*files).resize.output_size(480, 640) == (288, 384)


def test_several_threads_may_read(files):
    benchmark = Nyu(*files)
    with ThreadPoolExecutor(4) as pool:
        samples = list(pool.map(benchmark.read, [0, 1, 2] * 20))
    for place, sample in enumerate(samples):
        expected = random_image(TESTED[place % 3], SHAPE)
        np.testing.assert_array_equal(sample.image, expected)


def test_an_image_without_a_valid_pixel_is_named_with_its_number(tmp_path):
    empty = np.zeros(SHAPE, np.float32)
    frames = [(random_image(n, SHAPE), empty + 3 * (n != 2)) for n in range(1, 4)]
    benchmark = Nyu(*write_nyu(tmp_path, frames, (1, 2, 3)))
    with pytest.raises(UserError, match=r"nyu\.mat, image 2: no pixel with a depth between 0 and"):
        benchmark.read(1)
    assert benchmark.read(2).mask.all()


# --- wrong files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_file_is_named(files, which):
    files[which].unlink()
    with pytest.raises(UserError, match=rf"^{files[which]}: no such file"):
        Nyu(*files)


@pytest.mark.parametrize("key", ["images", "rawDepths"])
def test_an_hdf5_without_the_key_is_named(files, key):
    with h5py.File(files[0], "r+") as file:
        del file[key]
    with pytest.raises(UserError, match=rf"^{files[0]}: has no {key}"):
        Nyu(*files)


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_a_split_without_the_key_is_named(files, version):
    if version == "5":
        scipy.io.savemat(files[1], {"trainNdxs": np.ones((2, 1))})
    else:
        write_hdf5(files[1], trainNdxs=np.ones((1, 2)))
    with pytest.raises(UserError, match=rf"^{files[1]}: has no testNdxs"):
        Nyu(*files)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("kind", ["truncated", "text", "empty"])
def test_a_damaged_file_is_named(files, which, kind):
    data = files[which].read_bytes()
    put(files[which], {"truncated": data[: len(data) // 2], "text": b"x" * 999, "empty": b""}[kind])
    with pytest.raises(UserError, match=rf"^{files[which]}: .*damaged") as caught:
        Nyu(*files)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("numbers", [[[0], [1]], [[1], [COUNT + 1]]])
def test_a_number_that_no_image_has_is_refused(files, numbers):
    scipy.io.savemat(files[1], {"testNdxs": np.array(numbers, np.uint16)})
    with pytest.raises(UserError, match=rf"^{files[1]}: testNdxs goes from .* from 1 to {COUNT}"):
        Nyu(*files)


@pytest.mark.parametrize("numbers", [np.zeros((0, 1)), np.array([[1.5]]), np.array([["a"]])])
def test_a_split_without_whole_numbers_is_refused(files, numbers):
    scipy.io.savemat(files[1], {"testNdxs": numbers})
    with pytest.raises(UserError, match=rf"^{files[1]}: testNdxs holds no image numbers"):
        Nyu(*files)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("images", np.zeros((COUNT, 5, 8, 3), np.uint8)),
        ("images", np.zeros((COUNT, 3, 8, 5), np.float32)),
        ("images", np.zeros((COUNT, 3, 8), np.uint8)),
        ("rawDepths", np.zeros((COUNT, 5, 8), np.float32)),
        ("rawDepths", np.zeros((COUNT - 1, 8, 5), np.float32)),
        ("rawDepths", np.zeros((COUNT, 8, 5), np.uint16)),
    ],
)
def test_an_array_of_another_form_is_named(files, key, values):
    with h5py.File(files[0], "r+") as file:
        del file[key]
        file[key] = values
    with pytest.raises(UserError, match=rf"^{files[0]}: {key} is {values.dtype} .*, expected"):
        Nyu(*files)


def test_a_damaged_image_inside_a_good_file_is_named(tmp_path, files):
    """A chunk that fails its checksum."""
    with h5py.File(files[0], "r+") as file:
        images = file["images"][()]
        del file["images"]
        chunks = (1, *images.shape[1:])
        file.create_dataset("images", data=images, chunks=chunks, fletcher32=True)
    content = bytearray(files[0].read_bytes())
    content[content.rindex(images[2].tobytes()) + 7] ^= 255
    put(files[0], bytes(content))
    benchmark = Nyu(*files)
    assert benchmark.read(0).id == "test/0002"
    with pytest.raises(UserError, match=rf"^{files[0]}: image 3 is damaged"):
        benchmark.read(1)
