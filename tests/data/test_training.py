"""Training data: pairs from mixdata.json, samples by (seed, epoch, index), batches of a dataset."""

from __future__ import annotations

import io
import json
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from src.data.training import Augmentation, Pair, TrainingData, find_pairs, make_dataset, read_pair
from src.errors import UserError
from tests import file_formats

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
MIXDATA = {"img": {"RW": "/ReDWeb_V1/Imgs/*"}, "depth": {"RW": "/ReDWeb_V1/RDs/*"}}


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


def write_pair(root: Path, stem: str, values: np.ndarray) -> Pair:
    """A grey photograph (as RGB PNG, lossless) whose target has the same values."""
    image = put(root / "ReDWeb_V1/Imgs" / f"{stem}.png", file_formats.png(np.dstack([values] * 3)))
    return Pair(image, put(root / "ReDWeb_V1/RDs" / f"{stem}.png", file_formats.png(values)))


def write_set(root: Path, count: int) -> list[Pair]:
    put(root / "mixdata.json", json.dumps(MIXDATA).encode())
    return [write_pair(root, f"{i:03d}", noise(i)) for i in range(count)]


def augmentation(**changes: object) -> Augmentation:
    values = {"height": 32, "width": 32, "mean": ZERO, "std": ONE} | changes
    return Augmentation(**values)


# --- Pairs --------------------------------------------------------------------------------------


def test_pairs_are_found_by_stem_under_the_root(tmp_path):
    pairs = write_set(tmp_path, 3)
    put(tmp_path / "ReDWeb_V1/Imgs/Thumbs.db", b"")  # not an image: no partner expected
    assert find_pairs(str(tmp_path), "mixdata.json") == pairs
    assert find_pairs(str(tmp_path), "/mixdata.json") == pairs


def test_datasets_follow_each_other_in_the_order_of_the_file(tmp_path):
    for name in ("b", "a"):
        put(tmp_path / name / "rgb/0.JPG", jpeg(np.dstack([noise(0)] * 3)))
        put(tmp_path / name / "rd/0.png", file_formats.png(noise(0)))
    mix = {"img": {"B": "b/rgb/*", "A": "/a/rgb/*"}, "depth": {"A": "a/rd/*", "B": "b/rd/*"}}
    put(tmp_path / "mixdata.json", json.dumps(mix).encode())
    images = [pair.image for pair in find_pairs(str(tmp_path), "mixdata.json")]
    assert images == [tmp_path / "b/rgb/0.JPG", tmp_path / "a/rgb/0.JPG"]


def test_absolute_globs_and_an_absolute_mixdata_work_without_a_root(tmp_path):
    pairs = write_set(tmp_path, 2)
    mix = {
        "img": {"RW": f"{tmp_path}/ReDWeb_V1/Imgs/*"},
        "depth": {"RW": f"{tmp_path}/ReDWeb_V1/RDs/*"},
    }
    path = put(tmp_path / "elsewhere" / "mix.json", json.dumps(mix).encode())
    assert find_pairs(str(tmp_path / "no such root"), str(path)) == pairs


def test_a_root_with_glob_characters_is_a_plain_folder(tmp_path):
    root = tmp_path / "data [1]*"
    pairs = write_set(root, 1)
    assert find_pairs(str(root), "mixdata.json") == pairs


def test_an_image_without_target_is_named(tmp_path):
    pairs = write_set(tmp_path, 3)
    pairs[1].target.unlink()
    with pytest.raises(UserError) as caught:
        find_pairs(str(tmp_path), "mixdata.json")
    assert str(pairs[1].image) in str(caught.value)
    assert str(pairs[1].target) in str(caught.value)


def test_a_target_without_image_is_named(tmp_path):
    pairs = write_set(tmp_path, 3)
    pairs[2].image.unlink()
    with pytest.raises(UserError) as caught:
        find_pairs(str(tmp_path), "mixdata.json")
    assert str(caught.value).startswith(str(pairs[2].target))
    assert str(pairs[2].image) in str(caught.value)


@pytest.mark.parametrize("folder", ["Imgs", "RDs"])
def test_two_files_of_one_name_are_not_paired_by_chance(tmp_path, folder):
    write_set(tmp_path, 2)
    mix = {"img": {"RW": "ReDWeb_V1/Imgs/**"}, "depth": {"RW": "ReDWeb_V1/RDs/**"}}
    put(tmp_path / "mixdata.json", json.dumps(mix).encode())
    twin = put(tmp_path / "ReDWeb_V1" / folder / "more/001.png", file_formats.png(noise(9)))
    with pytest.raises(UserError, match="same name") as caught:
        find_pairs(str(tmp_path), "mixdata.json")
    assert str(twin) in str(caught.value)


@pytest.mark.parametrize("kind", ["img", "depth"])
def test_a_glob_that_matches_nothing_names_its_key_and_both_places(tmp_path, kind):
    write_set(tmp_path, 2)
    mix = json.loads((tmp_path / "mixdata.json").read_text())
    mix[kind]["RW"] = "/nowhere/*"
    path = put(tmp_path / "mixdata.json", json.dumps(mix).encode())
    with pytest.raises(UserError) as caught:
        find_pairs(str(tmp_path), "mixdata.json")
    message = str(caught.value)
    assert message.startswith(f"{path}: {kind}.RW:")
    assert f"{tmp_path}/nowhere/*" in message
    assert "train_data_dir" in message


def test_an_empty_folder_is_an_error(tmp_path):
    pairs = write_set(tmp_path, 1)
    pairs[0].image.unlink()
    with pytest.raises(UserError, match="file matches"):
        find_pairs(str(tmp_path), "mixdata.json")


def test_a_missing_mixdata_names_both_places(tmp_path):
    with pytest.raises(UserError) as caught:
        find_pairs(str(tmp_path), "mix.json")
    assert str(tmp_path / "mix.json") in str(caught.value)
    assert str(Path("mix.json").absolute()) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'"/ReDWeb_V1/Imgs/*"',
        b"{}",
        b'{"img": {}, "depth": {}}',
        b'{"img": {"RW": "Imgs/*"}}',
        b'{"img": "Imgs/*", "depth": "RDs/*"}',
        b'{"img": {"RW": ["Imgs/*"]}, "depth": {"RW": ["RDs/*"]}}',
        b'{"img": {"RW": null}, "depth": {"RW": "RDs/*"}}',
        b'{"img": {"RW": "Imgs/*"}, "depth": {"rw": "RDs/*"}}',
        b'{"img": {"RW": "Imgs/*", "B": "b/*"}, "depth": {"RW": "RDs/*"}}',
    ],
)
def test_a_malformed_mixdata_is_named(tmp_path, content):
    path = put(tmp_path / "mixdata.json", content)
    with pytest.raises(UserError) as caught:
        find_pairs(str(tmp_path), "mixdata.json")
    assert str(caught.value).startswith(f"{path}: ")


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


def test_a_size_mismatch_names_both_files_and_sizes(tmp_path):
    pair = Pair(
        put(tmp_path / "a.png", file_formats.png(np.dstack([noise(0, 20, 30)] * 3))),
        put(tmp_path / "b.png", file_formats.png(noise(0, 20, 31))),
    )
    with pytest.raises(UserError) as caught:
        read_pair(pair)
    for part in (str(pair.image), str(pair.target), "30x20", "31x20"):
        assert part in str(caught.value)


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


# --- Samples ------------------------------------------------------------------------------------


def test_a_sample_has_the_documented_shapes_types_and_ranges(tmp_path):
    data = TrainingData(write_set(tmp_path, 2), augmentation(height=32, width=64), seed=0)
    image, disparity, mask = data[0]
    assert [a.shape for a in (image, disparity, mask)] == [(3, 32, 64), (32, 64), (32, 64)]
    assert all(a.dtype == np.float32 for a in (image, disparity, mask))
    assert disparity.min() == 0
    assert disparity.max() == 1
    assert (mask == 1).all()


def test_without_randomness_a_sample_is_the_resized_pair(tmp_path):
    values = noise(5, 60, 60)
    pair = write_pair(tmp_path, "a", values)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    augment = augmentation(mean=mean, std=std, crop_min_scale=1.0, flip_probability=0.0)
    image, disparity, _ = TrainingData([pair], augment, seed=0)[0]
    grey = cv2.resize(values / 255.0, (32, 32), interpolation=cv2.INTER_CUBIC)
    expected = np.stack([(grey - m) / s for m, s in zip(mean, std, strict=True)])
    np.testing.assert_allclose(image, expected, atol=1e-5)
    index = [int((i + 0.5) * 60 / 32) for i in range(32)]
    nearest = values[np.ix_(index, index)].astype(float)
    unit = (nearest - nearest.min()) / (nearest.max() - nearest.min())
    np.testing.assert_allclose(disparity, unit, atol=1e-6)


def test_unknown_disparity_is_masked_and_flipped_with_the_rest():
    values = np.tile(np.arange(32, dtype=np.float32), (32, 1))
    values[:, :8] = np.nan
    image = np.dstack([np.nan_to_num(values).astype(np.uint8)] * 3)
    augment = augmentation(crop_min_scale=1.0, flip_probability=1.0)
    flipped, disparity, mask = augment(image, values, np.random.default_rng(0))
    assert (mask[:, -8:] == 0).all()
    assert (mask[:, :-8] == 1).all()
    assert not disparity[:, -8:].any()
    np.testing.assert_allclose(disparity[0, :-8], np.arange(23, -1, -1) / 23, atol=1e-6)
    np.testing.assert_allclose(flipped[0, 0], np.nan_to_num(values[0, ::-1]) / 255, atol=1e-6)


def test_crop_and_flip_hit_image_and_target_alike():
    """A smooth image that equals its target must still do so after augmentation."""
    rows, columns = np.mgrid[:90, :120]
    values = (columns * 1.5 + rows * 0.5).astype(np.uint8)  # 0..223, not symmetric
    flips = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        image, disparity, _ = augmentation()(
            np.dstack([values] * 3), values.astype(np.float32), rng
        )
        grey = image[0, 2:-2, 2:-2]  # bicubic overshoots at the border
        target = disparity[2:-2, 2:-2]
        slope, offset = np.polyfit(target.ravel(), grey.ravel(), 1)
        # Nearest against bicubic: at most a source pixel apart, which is 2 grey values.
        assert slope > 0
        assert np.abs(slope * target + offset - grey).max() < 4 / 255
        flips += disparity[0, 0] > disparity[0, -1]
    assert 10 <= flips <= 30


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0), (1.0, 20)])
def test_the_flip_probability_is_kept_at_its_ends(probability, expected):
    values = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    augment = augmentation(flip_probability=probability)
    flips = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        _, disparity, _ = augment(np.dstack([values] * 3), values.astype(np.float32), rng)
        flips += disparity[0, 0] > disparity[0, -1]
    assert flips == expected


def test_the_aspect_is_kept_only_if_asked(tmp_path):
    """In a 100x50 ramp of one grey value a column, a crop's width shows in its values."""
    values = np.tile(np.arange(100, dtype=np.uint8), (50, 1))
    image = np.dstack([values] * 3)
    kept = augmentation(crop_min_scale=1.0, flip_probability=0.0)
    free = augmentation(crop_min_scale=1.0, flip_probability=0.0, keep_aspect_ratio=False)
    spans = []
    for augment in (kept, free):
        result, _, _ = augment(image, values.astype(np.float32), np.random.default_rng(0))
        spans.append(float(np.ptp(result[0])) * 255)
    # Between the centres of the outer pixels: 49 - 49 / 32 and 99 - 99 / 32, about.
    assert spans == pytest.approx([48, 96], abs=2)


def test_a_sample_depends_on_seed_epoch_and_index_alone(tmp_path):
    pairs = write_set(tmp_path, 4)
    first = TrainingData(pairs, augmentation(), seed=3)
    again = TrainingData(pairs, augmentation(), seed=3)
    expected = [first[number] for number in range(8)]
    for number in (7, 2, 5, 0, 2):  # any order, any number of times
        for left, right in zip(expected[number], again[number], strict=True):
            assert np.array_equal(left, right)
    assert not np.array_equal(expected[1][0], expected[5][0])  # index 1 of epochs 0 and 1
    other_seed = TrainingData(pairs, augmentation(), seed=4)
    assert not np.array_equal(expected[1][0], other_seed[1][0])


def test_equal_pairs_get_different_crops(tmp_path):
    pair = write_pair(tmp_path, "a", noise(0))
    data = TrainingData([pair, pair], augmentation(), seed=0)
    assert not np.array_equal(data[0][0], data[1][0])


# --- The dataset --------------------------------------------------------------------------------


def flat_set(root: Path, count: int) -> list[Pair]:
    """Image i has the value 10 * i everywhere, so that a sample names its image."""
    return [write_pair(root, f"{i:03d}", np.full((32, 32), 10 * i, np.uint8)) for i in range(count)]


def epochs_of(data: TrainingData, batch_size: int, workers: int, epochs: int) -> list[list]:
    """Per epoch, the list of its batches (image, disparity, mask)."""
    iterator = make_dataset(data, batch_size, workers).create_tuple_iterator(
        num_epochs=epochs, output_numpy=True
    )
    return [[tuple(column.copy() for column in batch) for batch in iterator] for _ in range(epochs)]


def indices_of(batch: tuple[np.ndarray, ...]) -> list[int]:
    return [round(float(image.mean()) * 255 / 10) for image in batch[0]]


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path):
    pairs = write_set(tmp_path, 12)
    one, four = (
        epochs_of(TrainingData(pairs, augmentation(), seed=1), 4, workers, 2)
        for workers in (1, 4)  # four, or as many as there are cores
    )
    assert [len(epoch) for epoch in one] == [3, 3]
    for left, right in zip(chain(*one), chain(*four), strict=True):
        for a, b in zip(left, right, strict=True):
            assert np.array_equal(a, b)
    assert not np.array_equal(one[0][0][0], one[1][0][0])  # another epoch, other samples


def test_more_workers_than_cores_are_not_an_error(tmp_path):
    data = TrainingData(flat_set(tmp_path, 2), augmentation(), seed=0)
    assert len(epochs_of(data, 2, 1000, 1)[0]) == 1


def test_every_image_comes_exactly_once_an_epoch_in_another_order(tmp_path):
    data = TrainingData(flat_set(tmp_path, 12), augmentation(), seed=0)
    orders = [list(chain(*map(indices_of, epoch))) for epoch in epochs_of(data, 4, 2, 3)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert tuple(range(12)) not in {tuple(order) for order in orders}


def test_an_incomplete_batch_is_left_out(tmp_path):
    data = TrainingData(flat_set(tmp_path, 5), augmentation(), seed=0)
    dataset = make_dataset(data, 2, 1)
    assert dataset.get_dataset_size() == 2
    (epoch,) = epochs_of(data, 2, 1, 1)
    found = list(chain(*map(indices_of, epoch)))
    assert len(set(found)) == len(found) == 4


def test_columns_and_shapes_of_a_batch(tmp_path):
    data = TrainingData(flat_set(tmp_path, 4), augmentation(height=32, width=64), seed=0)
    dataset = make_dataset(data, 2, 1)
    assert dataset.get_col_names() == ["image", "disparity", "mask"]
    batch = next(dataset.create_dict_iterator(num_epochs=1, output_numpy=True))
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        "image": ((2, 3, 32, 64), np.float32),
        "disparity": ((2, 32, 64), np.float32),
        "mask": ((2, 32, 64), np.float32),
    }


def test_batch_files_names_what_the_batch_held(tmp_path):
    pairs = flat_set(tmp_path, 11)
    data = TrainingData(pairs, augmentation(), seed=5)
    for epoch, batches in enumerate(epochs_of(data, 3, 2, 3)):
        assert len(batches) == 3
        for step, batch in enumerate(batches):
            names = [str(pairs[index].image) for index in indices_of(batch)]
            assert data.batch_files(epoch, step, 3) == names


def test_fewer_images_than_a_batch_is_an_error(tmp_path):
    data = TrainingData(flat_set(tmp_path, 3), augmentation(), seed=0)
    with pytest.raises(UserError, match="batch_size: 4 is more than the 3"):
        make_dataset(data, 4, 1)


def test_an_unreadable_file_leaves_its_error_with_the_data(tmp_path):
    """MindSpore would bury an exception of a worker; the trainer looks at `errors` instead."""
    pairs = flat_set(tmp_path, 4)
    pairs[2].image.write_bytes(b"")
    data = TrainingData(pairs, augmentation(), seed=0)
    (epoch,) = epochs_of(data, 4, 2, 1)
    assert [str(error).startswith(str(pairs[2].image)) for error in data.errors] == [True]
    position = data.batch_files(0, 0, 4).index(str(pairs[2].image))
    assert all(not column[position].any() for column in epoch[0])  # an empty mask: no loss
