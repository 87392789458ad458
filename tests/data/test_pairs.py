"""Reading pairs: values by the rules of their dataset, what is refused, valid pixels."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from src.data.mixdata import DataSource, Pair
from src.data.pairs import cut_photo, read_pair, require_valid_pixels
from src.data.transforms import Crop
from src.errors import UserError
from tests import file_formats


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    return buffer.getvalue()


def noise(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


# --- Reading ------------------------------------------------------------------------------------


def test_a_pair_is_read_in_rgb_and_raw_values(tmp_path):
    image = np.zeros((4, 5, 3), np.uint8)
    image[1, 2] = (255, 128, 1)
    target = np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000
    pair = Pair(
        put(tmp_path / "a.png", file_formats.png(image)),
        put(tmp_path / "b.png", file_formats.png(target)),
    )
    read_image, read_target = read_pair(pair)
    assert np.array_equal(read_image, image)
    assert np.array_equal(read_target, target.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_raw_value_of_a_disparity_counts_0_included(tmp_path, dtype):
    """ReDWeb: what is read is what the file holds, bit for bit."""
    values = np.arange(256, dtype=dtype).reshape(8, 32) * (257 if dtype == np.uint16 else 1)
    pair = Pair(
        put(tmp_path / "a.png", file_formats.png(np.zeros((8, 32, 3), np.uint8))),
        put(tmp_path / "b.png", file_formats.png(values)),
    )
    _, disparity = read_pair(pair)
    assert disparity.dtype == np.float32
    assert disparity.tobytes() == values.astype(np.float32).tobytes()


def read_values(root: Path, values: np.ndarray, source: DataSource) -> np.ndarray:
    """The disparity of a pair whose target is a .npy file of these values."""
    image = put(root / "a.png", file_formats.png(np.zeros((*values.shape, 3), np.uint8)))
    np.save(root / "a.npy", values)
    read_image, disparity = read_pair(Pair(image, root / "a.npy", source))
    assert (read_image.dtype, read_image.shape) == (np.uint8, (*values.shape, 3))
    assert disparity.dtype == np.float32
    return disparity


INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("source", "raw", "expected"),
    [
        # Disparity: what is not finite is unknown, and what `invalid` says.
        (DataSource("a"), [0, -1.5, INF, -INF, NAN, 7], [0, -1.5, NAN, NAN, NAN, 7]),
        (DataSource("a", invalid=0), [0, -1.5, 3, 0, NAN, 7], [NAN, -1.5, 3, NAN, NAN, 7]),
        (DataSource("a", scale=0.5), [0, -1, 2, 3, 4, 5], [0, -0.5, 1, 1.5, 2, 2.5]),
        # `invalid` is a raw value, compared as float32: 0.1 is no float32.
        (
            DataSource("a", scale=0.5, invalid=2),
            [0, -1, 2, 3, 4, 1],
            [0, -0.5, NAN, 1.5, 2, 0.5],
        ),
        (DataSource("a", invalid=0.1), [0.1, 0.2, 0.1, 0, 0, 1], [NAN, 0.2, NAN, 0, 0, 1]),
        # Depth: also holes (0), ordinal masks (negative), infinitely far and infinitely near.
        (DataSource("a", "depth"), [0, -1, -2, INF, NAN, 4], [NAN, NAN, NAN, NAN, NAN, 0.25]),
        (DataSource("a", "depth", invalid=4), [4, 2, 1, 8, 5, 4], [NAN, 0.5, 1, 0.125, 0.2, NAN]),
        (DataSource("a", "depth", 0.001), [1000, 500, 0, 4000, 1, 2], [1, 2, NAN, 0.25, 1000, 500]),
        (
            DataSource("a", "depth", 0.001),
            [1e-38, 1e-40, 1, 2, 5, 8],
            [NAN, NAN, 1e3, 500, 200, 125],
        ),
        (DataSource("a", "depth", 1e30), [1e30, 1, 1, 1, 1, 1], [NAN] + [1e-30] * 5),
    ],
)
def test_raw_values_become_disparity_by_the_rules_of_their_source(tmp_path, source, raw, expected):
    disparity = read_values(tmp_path, np.array(raw, np.float32).reshape(2, 3), source)
    np.testing.assert_allclose(disparity.ravel(), np.array(expected, np.float32), rtol=1e-6)


def test_the_depth_of_an_hdf5_file_is_inverted(tmp_path):
    """MegaDepth's shape: /depth, metres, 0 a hole, negative an ordinal mask."""
    depth = np.array([[0, 2, -1], [4, 0.5, 10]], np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["depth"] = depth
    image = put(tmp_path / "a.png", file_formats.png(np.zeros((2, 3, 3), np.uint8)))
    source = DataSource("MD", "depth", key="/depth")
    _, disparity = read_pair(Pair(image, tmp_path / "a.h5", source))
    np.testing.assert_allclose(disparity, [[NAN, 0.5, NAN], [0.25, 2, 0.1]], rtol=1e-6)


def test_a_size_mismatch_names_both_files_and_sizes(tmp_path):
    pair = Pair(
        put(tmp_path / "a.png", file_formats.png(np.dstack([noise(0, 20, 30)] * 3))),
        put(tmp_path / "b.png", file_formats.png(noise(0, 20, 31))),
    )
    with pytest.raises(UserError) as caught:
        read_pair(pair)
    for part in (str(pair.image), str(pair.target), "30x20", "31x20"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (DataSource("a"), [NAN, 2, 4, NAN]),
        (DataSource("a", "depth", invalid=4), [NAN, 0.5, NAN, NAN]),
    ],
)
def test_what_a_mask_leaves_out_is_unknown_too(tmp_path, source, expected):
    image = put(tmp_path / "a.png", file_formats.png(np.zeros((1, 4, 3), np.uint8)))
    np.save(tmp_path / "a.npy", np.array([[1, 2, 4, NAN]], np.float32))
    mask = put(tmp_path / "m.png", file_formats.png(np.array([[0, 1, 255, 255]], np.uint8)))
    _, disparity = read_pair(Pair(image, tmp_path / "a.npy", source, mask))
    assert disparity.dtype == np.float32
    np.testing.assert_array_equal(disparity, np.array([expected], np.float32))


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (file_formats.png(np.ones((2, 3), np.uint8)), "3x2 pixels, but"),
        (file_formats.png(np.ones((2, 4), np.uint8))[:-20], "truncated or damaged"),
        (b"", "the file is empty"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(tmp_path, mask, expected):
    image = put(tmp_path / "a.png", file_formats.png(np.zeros((2, 4, 3), np.uint8)))
    target = put(tmp_path / "b.png", file_formats.png(np.zeros((2, 4), np.uint8)))
    pair = Pair(image, target, DataSource("a"), put(tmp_path / "m.png", mask))
    with pytest.raises(UserError) as caught:
        read_pair(pair)
    assert str(caught.value).startswith(f"{pair.mask}: {expected}")


def test_an_hdf5_file_without_the_dataset_names_those_it_has(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["targets/gt_depth"] = np.ones((2, 3), np.float32)
    image = put(tmp_path / "a.png", file_formats.png(np.zeros((2, 3, 3), np.uint8)))
    with pytest.raises(UserError) as caught:
        read_pair(Pair(image, tmp_path / "a.h5", DataSource("MD", "depth", key="/depth")))
    expected = "has no dataset '/depth', but /targets/gt_depth; set key to one"
    assert str(caught.value) == f"{tmp_path / 'a.h5'}: {expected}"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("kind", ["jpeg", "png", "target"])
def test_a_truncated_file_is_named(tmp_path, kind, share):
    values = noise(0)
    image = np.dstack([values] * 3)
    data = {"jpeg": jpeg(image), "png": file_formats.png(image), "target": file_formats.png(values)}
    good = {"image": data["png"], "target": data["target"]}
    broken = data[kind][: int(share * len(data[kind]))]
    good["target" if kind == "target" else "image"] = broken
    pair = Pair(
        put(tmp_path / "image.jpg", good["image"]), put(tmp_path / "target.png", good["target"])
    )
    with pytest.raises(UserError) as caught:
        read_pair(pair)
    assert str(caught.value).startswith(str(pair.target if kind == "target" else pair.image))


# --- Valid pixels -------------------------------------------------------------------------------


def value_pairs(root: Path, source: DataSource, *values: float) -> list[Pair]:
    """A pair for each value, which fills its target."""
    image = put(root / "a.png", file_formats.png(np.zeros((2, 3, 3), np.uint8)))
    pairs = []
    for value in values:
        target = root / source.name / f"{len(pairs)}.npy"
        target.parent.mkdir(exist_ok=True)
        np.save(target, np.full((2, 3), value, np.float32))
        pairs.append(Pair(image, target, source))
    return pairs


def test_datasets_with_a_valid_pixel_somewhere_pass(tmp_path):
    pairs = value_pairs(tmp_path, DataSource("a", "depth"), 0, -1, 5)
    pairs += value_pairs(tmp_path, DataSource("b"), 0)
    require_valid_pixels(pairs)
    require_valid_pixels(pairs, samples=3)


@pytest.mark.parametrize(
    ("source", "values"),
    [
        (DataSource("b", "depth"), (0, -1, NAN)),  # ordinal depth alone
        (DataSource("b", invalid=7), (7, 7, 7)),
        (DataSource("b", "depth", scale=1e-30), (1e-9, 1e-9, 1e-9)),
    ],
)
def test_a_dataset_without_a_valid_pixel_is_named(tmp_path, source, values):
    pairs = value_pairs(tmp_path, DataSource("a"), 0) + value_pairs(tmp_path, source, *values)
    with pytest.raises(UserError) as caught:
        require_valid_pixels(pairs)
    assert str(caught.value) == (
        f"b: not one valid pixel in the first 3 of its 3 targets, such as {tmp_path}/b/0.npy; "
        "check kind, scale, invalid, key and mask of its entry in mixdata"
    )


def test_only_the_first_samples_count(tmp_path):
    pairs = value_pairs(tmp_path, DataSource("b", "depth"), 0, 0, 0, 5)
    require_valid_pixels(pairs, samples=4)
    with pytest.raises(UserError, match="in the first 3 of its 4 targets"):
        require_valid_pixels(pairs, samples=3)


def test_one_pair_of_each_dataset_is_read_if_it_will_do(tmp_path):
    pairs = value_pairs(tmp_path, DataSource("a"), 1, 1) + value_pairs(
        tmp_path, DataSource("b"), 1, 1
    )
    for pair in pairs[1::2]:
        pair.target.write_bytes(b"?")
    require_valid_pixels(pairs)


def test_an_unreadable_pair_is_an_error_of_its_own_or_one_without_valid_pixels(tmp_path):
    pairs = value_pairs(tmp_path, DataSource("a"), 1, 1)
    pairs[0].target.write_bytes(b"?")
    with pytest.raises(UserError) as caught:
        require_valid_pixels(pairs)
    assert str(caught.value).startswith(f"{pairs[0].target}: not a .npy file")
    require_valid_pixels(pairs, skip_bad=True)
    with pytest.raises(UserError, match="a: not one valid pixel in the first 1 of its 1"):
        require_valid_pixels(pairs[:1], skip_bad=True)


class Shrinkable:
    """A photograph of 100 x 120 pixels whose values are its columns; it can be decoded at some
    parts of its size."""

    height, width = 100, 120

    def __init__(self, parts: set[int]) -> None:
        self.parts = parts

    def can_shrink(self, shrink: int) -> bool:
        return shrink in self.parts

    def pixels(self, shrink: int = 1) -> np.ndarray:
        columns = np.arange(0, 120, shrink, dtype=np.uint8)
        return np.tile(columns[None, :, None], (-(-100 // shrink), 1, 3))


@pytest.mark.parametrize(
    ("parts", "shrink"), [({1, 2, 4, 8}, 4), ({1, 2, 4}, 4), ({1, 2}, 2), ({1, 2, 8}, 2), ({1}, 1)]
)
def test_a_part_is_decoded_as_small_as_the_file_allows_and_its_size_does(parts, shrink):
    """50 x 70 pixels for 12 x 15 of them: a quarter is enough, an eighth too small."""
    pixels, box = cut_photo(Shrinkable(parts), Crop(3, 9, 50, 70), 12, 15)
    top, bottom, left, right = (y // shrink * shrink for y in (3, 53, 9, 79))
    assert box == Crop(top, left, bottom - top, right - left)
    assert pixels.shape == (box.height // shrink, box.width // shrink, 3)
    assert pixels[0, :, 0].tolist() == list(range(left, right, shrink))
