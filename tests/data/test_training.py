"""Training data: samples by (seed, pass, index), batches of every process, unreadable files."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import chain
from pathlib import Path

import cv2
import mindspore as ms
import numpy as np
import pytest

from src.data.mixdata import DataSource, Pair
from src.data.pairs import read_pair
from src.data.training import Augmentation, TrainingData, make_dataset
from tests import file_formats

ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def noise(seed: int, height: int = 40, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def write_pair(root: Path, stem: str, values: np.ndarray) -> Pair:
    """A grey photograph (as RGB PNG, lossless) whose target has the same values."""
    image = put(root / "ReDWeb_V1/Imgs" / f"{stem}.png", file_formats.png(np.dstack([values] * 3)))
    return Pair(image, put(root / "ReDWeb_V1/RDs" / f"{stem}.png", file_formats.png(values)))


def write_set(root: Path, count: int) -> list[Pair]:
    return [write_pair(root, f"{i:03d}", noise(i)) for i in range(count)]


def augmentation(**changes: object) -> Augmentation:
    values = {"height": 32, "width": 32, "mean": ZERO, "std": ONE} | changes
    return Augmentation(**values)


# --- Samples ------------------------------------------------------------------------------------


def test_a_sample_has_the_documented_shapes_types_and_ranges(tmp_path):
    data = TrainingData(
        write_set(tmp_path, 2), augmentation(height=32, width=64), seed=0, batch_size=1
    )
    image, disparity, mask = data[0]
    assert [a.shape for a in (image, disparity, mask)] == [(3, 32, 64), (32, 64), (32, 64)]
    assert all(a.dtype == np.float32 for a in (image, disparity, mask))
    assert disparity.min() == 0
    assert disparity.max() == 1
    assert (mask == 1).all()


def test_without_randomness_a_sample_is_the_resized_pair(tmp_path):
    values = noise(5, 300, 300)
    pair = write_pair(tmp_path, "a", values)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    augment = augmentation(height=160, width=160, mean=mean, std=std, crop_min_scale=1.0)
    augment = replace(augment, flip_probability=0.0)
    image, disparity, _ = TrainingData([pair], augment, seed=0, batch_size=1)[0]
    # In floats, then to 8 bits: the sample's resize has fixed-point weights, so that now and then
    # it rounds to the neighbouring grey value, up as often as down.
    grey = cv2.resize(values.astype(np.float64), (160, 160), interpolation=cv2.INTER_CUBIC)
    grey = grey.clip(0, 255).round()
    found = (image * np.float32(std)[:, None, None] + np.float32(mean)[:, None, None]) * 255
    for channel in found:
        off = channel - grey
        assert np.abs(off).max() < 1.001
        assert (np.abs(off) < 1e-3).mean() >= 0.97
        assert abs(off.mean()) < 0.01
    index = [int((i + 0.5) * 300 / 160) for i in range(160)]
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


def test_unknown_depth_is_masked_in_the_sample_and_near_is_1(tmp_path):
    rows = np.repeat(np.array([0, 1, 2, 4], np.float32), 16)[:, None].repeat(64, 1)
    np.save(tmp_path / "a.npy", rows)
    image = put(tmp_path / "a.png", file_formats.png(np.zeros((64, 64, 3), np.uint8)))
    augment = augmentation(height=64, width=64, crop_min_scale=1.0, flip_probability=0.0)
    pair = Pair(image, tmp_path / "a.npy", DataSource("a", "depth"))
    _, disparity, mask = TrainingData([pair], augment, 0, 1)[0]
    # 1, 1/2 and 1/4 from 1/4 up to 1: 1, 1/3 and 0.
    np.testing.assert_allclose(disparity[[0, 16, 32, 48], 5], [0, 1, 1 / 3, 0], atol=1e-6)
    assert mask[:, 0].tolist() == [0] * 16 + [1] * 48


@pytest.mark.parametrize(("side", "shrink"), [(63, 1), (64, 2), (127, 2), (128, 4), (300, 8)])
def test_a_large_jpeg_is_decoded_at_a_part_of_its_size(tmp_path, side, shrink):
    """The largest part whose whole crop still has 32 x 32 pixels, as OpenCV decodes it."""
    smooth = cv2.resize(np.random.default_rng(side).uniform(0, 255, (9, 9, 3)), (side, side + 40))
    photograph = smooth.astype(np.uint8)
    assert cv2.imwrite(str(tmp_path / "a.jpg"), photograph)
    values = (np.mgrid[: side + 40, :side].sum(axis=0) % 251).astype(np.uint8)
    pair = Pair(tmp_path / "a.jpg", put(tmp_path / "a.png", file_formats.png(values)))
    augment = augmentation(crop_min_scale=1.0, flip_probability=1.0)
    image, disparity, _ = TrainingData([pair], augment, seed=3, batch_size=1).sample(0, 0)
    rng = np.random.default_rng((3, 0, 0))
    rng.uniform()  # the size, of which there is one
    drawn = int(rng.integers(41))
    # Each edge goes up or left to a pixel of the smaller image.
    top, bottom = (y // shrink * shrink for y in (drawn, drawn + side))
    whole = side // shrink * shrink
    flags = {1: 1, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
    small = cv2.imread(str(pair.image), flags.get(shrink, cv2.IMREAD_REDUCED_COLOR_8))
    rows = slice(top // shrink, bottom // shrink)
    small = small[rows, : whole // shrink, ::-1].astype(np.float64)
    expected = cv2.resize(small, (32, 32), interpolation=cv2.INTER_CUBIC)[:, ::-1]
    expected = expected.clip(0, 255).round().transpose(2, 0, 1)
    assert np.abs(image * 255 - expected).max() < 1.001
    rows = [top + int((i + 0.5) * (bottom - top) / 32) for i in range(32)]
    columns = [int((i + 0.5) * whole / 32) for i in range(32)]
    nearest = values[np.ix_(rows, columns)][:, ::-1].astype(float)
    unit = (nearest - nearest.min()) / np.ptp(nearest)
    np.testing.assert_allclose(disparity, unit, atol=1e-6)


def test_other_formats_are_decoded_whole(tmp_path):
    """Alternate columns of black and white: at half the size they would be grey."""
    stripes = np.tile(np.array([0, 255], np.uint8), (96, 48))
    pair = write_pair(tmp_path, "a", stripes)
    augment = augmentation(crop_min_scale=1.0)
    image, _, _ = TrainingData([pair], augment, seed=0, batch_size=1).sample(0, 0)
    assert set(np.unique(image * 255).round()) == {0, 255}  # every third column, at its centre


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
    first = TrainingData(pairs, augmentation(), seed=3, batch_size=1)
    expected = {(epoch, i): first.sample(epoch, i) for epoch in (0, 1) for i in range(4)}
    others = [
        TrainingData(pairs, augmentation(), seed=3, batch_size=3, rank=1, ranks=2),
        TrainingData(pairs, augmentation(), seed=3, batch_size=1, skip_bad=True),
    ]
    for data in others:
        for place in ((1, 3), (0, 2), (1, 1), (0, 0), (0, 2)):  # any order, any number of times
            for left, right in zip(expected[place], data.sample(*place), strict=True):
                assert np.array_equal(left, right)
    assert not np.array_equal(expected[0, 1][0], expected[1, 1][0])
    other_seed = TrainingData(pairs, augmentation(), seed=4, batch_size=1)
    assert not np.array_equal(expected[0, 1][0], other_seed.sample(0, 1)[0])


def test_a_sample_is_the_augmented_pair_with_the_documented_random_numbers(tmp_path):
    """Runs of older versions can be repeated: the stream of a sample is (seed, epoch, index)."""
    pairs = write_set(tmp_path, 3)
    data = TrainingData(pairs, augmentation(), seed=5, batch_size=2)
    for epoch, index in ((0, 0), (0, 2), (7, 1)):
        rng = np.random.default_rng((5, epoch, index))
        expected = augmentation()(*read_pair(pairs[index]), rng)
        for left, right in zip(expected, data.sample(epoch, index), strict=True):
            assert np.array_equal(left, right)


def test_equal_pairs_get_different_crops(tmp_path):
    pair = write_pair(tmp_path, "a", noise(0))
    data = TrainingData([pair, pair], augmentation(), seed=0, batch_size=1)
    assert not np.array_equal(data.sample(0, 0)[0], data.sample(0, 1)[0])


@pytest.mark.parametrize("known", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["disparity", "depth"])
def test_converting_only_the_pixels_of_a_sample_changes_nothing(tmp_path, kind, known):
    """Against the whole disparity, cut and resized after it; 16 bits, a hole value and a mask."""
    rng = np.random.default_rng(2)
    raw = rng.integers(0, 5000, (70, 90)).astype(np.uint16)
    seen = (rng.random((70, 90)) < known).astype(np.uint8) * 255
    pair = Pair(
        put(tmp_path / "a.png", file_formats.png(np.zeros((70, 90, 3), np.uint8))),
        put(tmp_path / "t.png", file_formats.png(raw)),
        DataSource("a", kind, scale=0.01, invalid=7),
        put(tmp_path / "m.png", file_formats.png(seen)),
    )
    _, disparity, mask = TrainingData([pair], augmentation(), seed=0, batch_size=1).sample(4, 0)
    _, expected, expected_mask = augmentation()(*read_pair(pair), np.random.default_rng((0, 4, 0)))
    assert np.array_equal(mask, expected_mask)
    assert np.array_equal(disparity, expected)
    assert abs(mask.mean() - known) < 0.1


# --- The dataset --------------------------------------------------------------------------------

Batch = tuple[np.ndarray, ...]


def flat_set(root: Path, count: int) -> list[Pair]:
    """Image i has the value 5 * i everywhere, so that a sample names its image."""
    return [write_pair(root, f"{i:03d}", np.full((32, 32), 5 * i, np.uint8)) for i in range(count)]


def flat_data(pairs: list[Pair], **changes: object) -> TrainingData:
    return TrainingData(pairs, augmentation(), **({"seed": 0, "batch_size": 2} | changes))


def epochs_of(
    data: TrainingData, epochs: int, workers: int = 1, epoch: int = 0, step: int = 0
) -> list[list[Batch]]:
    """Per epoch, the list of its batches (image, disparity, mask)."""
    dataset = make_dataset(data, workers, epoch, step)
    iterator = dataset.create_tuple_iterator(num_epochs=epochs, output_numpy=True)
    found = [
        [tuple(column.copy() for column in batch) for batch in iterator] for _ in range(epochs)
    ]
    assert {len(batches) for batches in found} == {dataset.get_dataset_size()}
    return found


def indices_of(batch: Batch) -> list[int]:
    """The images of the samples that are no fills."""
    return [
        round(float(image.mean()) * 255 / 5)
        for image, mask in zip(batch[0], batch[2], strict=True)
        if mask.any()
    ]


def same_bits(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        all(map(np.array_equal, a, b)) for a, b in zip(left, right, strict=True)
    )


def joined(parts: list[list[Batch]]) -> list[Batch]:
    """The global batches of the batches of each rank."""
    return [
        tuple(np.concatenate(columns) for columns in zip(*batches, strict=True))
        for batches in zip(*parts, strict=True)
    ]


def test_batches_do_not_depend_on_the_number_of_workers(tmp_path):
    pairs = write_set(tmp_path, 13)
    one, four = (
        epochs_of(TrainingData(pairs, augmentation(), seed=1, batch_size=4), 2, workers)
        for workers in (1, 4)  # four, or as many as there are cores
    )
    assert [len(epoch) for epoch in one] == [4, 4]
    assert same_bits(list(chain(*one)), list(chain(*four)))
    assert not np.array_equal(one[0][0][0], one[1][0][0])  # another epoch, other samples


def test_a_batch_has_the_samples_of_its_places(tmp_path):
    data = TrainingData(
        write_set(tmp_path, 7), augmentation(), seed=1, batch_size=3, rank=1, ranks=2
    )
    for step in range(2 * data.steps):
        batch = data.batch(step)
        for slot in range(3):
            for column, values in zip(batch, data[6 * step + 3 + slot], strict=True):
                assert np.array_equal(column[slot], values)


def test_batches_that_are_kept_are_not_overwritten(tmp_path):
    """MindSpore's iterator hands out the arrays as they are, so memory may be used again only when
    the last of them is gone."""
    data = TrainingData(write_set(tmp_path, 24), augmentation(), seed=1, batch_size=2)
    dataset = make_dataset(data, 2)
    assert data.memory.reuse  # on the CPU
    kept = list(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))
    tensors = list(dataset.create_tuple_iterator(num_epochs=1))
    other = TrainingData(data.pairs, augmentation(), seed=1, batch_size=2)
    assert len(kept) == len(tensors) == 12
    for step in range(12):
        expected = other.batch(step)
        assert all(map(np.array_equal, kept[step], expected))
        found = [column.asnumpy() for column in tensors[step]]
        assert all(map(np.array_equal, found, expected))


def test_memory_is_fresh_where_a_device_copies_in_the_background(tmp_path, monkeypatch):
    monkeypatch.setattr(ms, "get_context", {"device_target": "Ascend"}.__getitem__)
    data = TrainingData(write_set(tmp_path, 2), augmentation(), seed=1, batch_size=2)
    make_dataset(data, 1)
    assert not data.memory.reuse


def test_more_workers_than_cores_are_not_an_error(tmp_path):
    assert len(epochs_of(flat_data(flat_set(tmp_path, 2)), 1, workers=1000)[0]) == 1


def test_every_image_comes_exactly_once_an_epoch_in_another_order(tmp_path):
    data = flat_data(flat_set(tmp_path, 12), batch_size=4)
    orders = [list(chain(*map(indices_of, epoch))) for epoch in epochs_of(data, 3, workers=2)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert tuple(range(12)) not in {tuple(order) for order in orders}


def test_the_order_of_an_epoch_is_that_of_older_versions():
    pairs = [Pair(Path(f"{i}.png"), Path(f"{i}.png")) for i in range(7)]
    for epoch in (0, 3):
        expected = np.random.default_rng((11, epoch, 7)).permutation(7)
        order = flat_data(pairs, seed=11).order(0, epoch)
        assert order.tolist() == expected.tolist()
        assert order.dtype == np.int64
        assert not order.flags.writeable  # it is kept for the next sample


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (3, 4), (7, 2), (12, 2), (29, 3)])
def test_the_processes_together_cover_every_image_once_an_epoch(tmp_path, count, batch_size, ranks):
    pairs = flat_set(tmp_path, count)
    parts = [
        epochs_of(flat_data(pairs, batch_size=batch_size, rank=rank, ranks=ranks), 2)
        for rank in range(ranks)
    ]
    steps = -(-count // (batch_size * ranks))
    for epoch in range(2):
        assert [len(part[epoch]) for part in parts] == [steps] * ranks
        found = [index for part in parts for batch in part[epoch] for index in indices_of(batch)]
        assert sorted(found) == list(range(count))
        # Every step but the last is full, on every rank.
        assert all(len(indices_of(b)) == batch_size for part in parts for b in part[epoch][:-1])


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("step", [1, 2])
def test_a_run_can_start_anywhere_and_goes_on_with_the_same_bits(tmp_path, ranks, step):
    pairs = write_set(tmp_path, 5 * ranks + 1)  # three steps an epoch, the last nearly all fills
    for rank in range(ranks):
        whole = epochs_of(flat_data(pairs, rank=rank, ranks=ranks), 4)
        assert [len(batches) for batches in whole] == [3] * 4
        again = flat_data(pairs, rank=rank, ranks=ranks)
        (rest,) = epochs_of(again, 1, epoch=1, step=step)
        assert same_bits(rest, whole[1][step:])
        following = epochs_of(again, 2, epoch=2)
        assert same_bits(list(chain(*following)), list(chain(*whole[2:])))


@pytest.mark.parametrize(("ranks", "step"), [(1, 3), (2, 1), (3, 1), (5, 1)])
def test_the_rest_of_an_epoch_is_covered_exactly_once(tmp_path, ranks, step):
    data = [flat_data(flat_set(tmp_path, 23), rank=r, ranks=ranks) for r in range(ranks)]
    rest = [i for d in data for b in epochs_of(d, 1, epoch=2, step=step)[0] for i in indices_of(b)]
    before = [int(Path(f).stem) for s in range(step) for f in data[0].batch_files(2, s)]
    assert len(before) == step * 2 * ranks
    assert sorted(before + rest) == list(range(23))


def test_fills_are_real_images_that_the_loss_does_not_see(tmp_path):
    pairs = write_set(tmp_path, 3)
    data = TrainingData(pairs, augmentation(), seed=0, batch_size=8)
    ((batch,),) = epochs_of(data, 1)
    order = data.order(0, 0).tolist()
    for position in range(8):
        image, disparity, mask = data.sample(0, order[position % 3])
        assert np.array_equal(batch[0][position], image)
        real = position < 3
        assert np.array_equal(batch[1][position], disparity * real)
        assert np.array_equal(batch[2][position], mask * real)


def test_one_process_or_several_hold_the_same_global_batches(tmp_path):
    pairs = write_set(tmp_path, 10)
    (whole,) = epochs_of(flat_data(pairs, batch_size=4), 1)
    halves = [epochs_of(flat_data(pairs, rank=rank, ranks=2), 1)[0] for rank in (0, 1)]
    assert same_bits(joined(halves), whole)


def test_columns_and_shapes_of_a_batch(tmp_path):
    data = TrainingData(
        flat_set(tmp_path, 4), augmentation(height=32, width=64), seed=0, batch_size=2
    )
    dataset = make_dataset(data, 1)
    assert dataset.get_col_names() == ["image", "disparity", "mask"]
    batch = next(dataset.create_dict_iterator(num_epochs=1, output_numpy=True))
    assert {name: (value.shape, value.dtype) for name, value in batch.items()} == {
        "image": ((2, 3, 32, 64), np.float32),
        "disparity": ((2, 32, 64), np.float32),
        "mask": ((2, 32, 64), np.float32),
    }


@pytest.mark.parametrize("ranks", [1, 2])
def test_batch_files_names_what_the_batches_of_all_ranks_held(tmp_path, ranks):
    pairs = flat_set(tmp_path, 11)
    data = [flat_data(pairs, seed=5, rank=rank, ranks=ranks) for rank in range(ranks)]
    parts = [epochs_of(d, 3, workers=2) for d in data]
    for epoch in range(3):
        for step in range(data[0].steps):
            found = [index for part in parts for index in indices_of(part[epoch][step])]
            names = [str(pairs[index].image) for index in found]
            assert all(d.batch_files(epoch, step) == names for d in data)


# --- Several datasets ---------------------------------------------------------------------------

THREE = {"a": 5, "b": 1, "c": 12}


def named_pairs(**counts: int) -> list[Pair]:
    """Pairs without files; the image of pair 3 of dataset a is a/3."""
    return [
        Pair(Path(f"{name}/{i}"), Path(f"{name}/{i}"), DataSource(name))
        for name, count in counts.items()
        for i in range(count)
    ]


def three_sets(root: Path) -> list[Pair]:
    """Flat images as in `flat_set`, 0 to 4 of dataset a, 5 of b, 6 to 17 of c."""
    sources = [DataSource(name) for name, count in THREE.items() for _ in range(count)]
    return [
        Pair(pair.image, pair.target, source)
        for pair, source in zip(flat_set(root, len(sources)), sources, strict=True)
    ]


def streams(pairs: list[Pair], seed: int, length: int) -> list[list[tuple[int, int]]]:
    """Of each dataset the (pass, index) of its first places, one after the other."""
    names = list(dict.fromkeys(pair.source.name for pair in pairs))
    found = []
    for number, name in enumerate(names):
        members = [i for i, pair in enumerate(pairs) if pair.source.name == name]
        stream: list[tuple[int, int]] = []
        turn = 0
        while len(stream) < length:
            rng = np.random.default_rng((seed, turn, len(pairs) + number))
            stream += [(turn, members[i]) for i in rng.permutation(len(members))]
            turn += 1
        found.append(stream[:length])
    return found


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("epoch_images", [0, 20])
def test_a_step_has_the_next_images_of_each_dataset_in_turn(tmp_path, ranks, epoch_images):
    """Batch by batch against the streams, over epochs: nothing but the step's number counts."""
    pairs, batch = three_sets(tmp_path), 2
    keys = {"batch_size": batch, "seed": 4, "ranks": ranks, "epoch_images": epoch_images}
    steps = -(-12 // (batch * ranks)) if epoch_images == 0 else -(-20 // (3 * batch * ranks))
    expected = streams(pairs, 4, 3 * steps * batch * ranks)
    for rank in range(ranks):
        data = flat_data(pairs, rank=rank, **keys)
        sizes = (data.datasets, data.local_batch, data.global_batch, data.steps, data.last_batch)
        assert sizes == (["a", "b", "c"], 6, 6 * ranks, steps, 6 * ranks)
        batches = list(chain(*epochs_of(data, 3, workers=2)))
        assert len(batches) == 3 * steps
        for step, found in enumerate(batches):
            first = (step * ranks + rank) * batch
            places = [place for s in expected for place in s[first : first + batch]]
            assert [round(float(image.mean()) * 255 / 5) for image in found[0]] == [
                index for _, index in places
            ]
            assert (found[2] == 1).all()
            for image, (turn, index) in zip(found[0], places, strict=True):
                assert np.array_equal(image, data.sample(turn, index)[0])


def test_datasets_may_be_interleaved_in_the_list():
    pairs = named_pairs(a=6, b=4)
    mixed = [pairs[i] for i in (6, 0, 1, 7, 2, 8, 3, 4, 9, 5)]
    data = flat_data(mixed, batch_size=2, seed=1)
    assert data.datasets == ["b", "a"]
    assert sorted(data.order(0, 0)) == [0, 3, 5, 8]
    assert sorted(data.order(1, 0)) == [1, 2, 4, 6, 7, 9]
    expected = [[index for _, index in stream] for stream in streams(mixed, 1, 6)]
    for step in range(3):
        places = [i for stream in expected for i in stream[2 * step : 2 * step + 2]]
        assert data.batch_files(0, step) == [str(mixed[i].image) for i in places]


def test_datasets_of_one_size_are_shuffled_independently():
    data = flat_data(named_pairs(a=50, b=50), seed=0)
    orders = [(data.order(d, turn) - 50 * d).tolist() for d in (0, 1) for turn in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


@pytest.mark.parametrize(
    ("counts", "batch_size", "ranks", "epoch_images", "steps"),
    [
        ({"a": 5, "b": 12}, 2, 1, 0, 6),  # the largest is seen once
        ({"a": 5, "b": 13}, 2, 1, 0, 7),
        ({"a": 5, "b": 13}, 2, 2, 0, 4),
        ({"a": 5, "b": 13}, 2, 1, 100, 25),  # 4 images a step
        ({"a": 5, "b": 13}, 2, 1, 101, 26),
        ({"a": 5, "b": 13}, 2, 3, 100, 9),
        ({"a": 5}, 2, 1, 100, 50),
        ({"a": 100}, 8, 1, 1, 1),
        ({"rw": 3600, "dl": 220_000, "md": 130_000}, 8, 1, 72_000, 3000),  # the paper's epoch
    ],
)
def test_an_epoch_has_the_configured_number_of_images(
    counts, batch_size, ranks, epoch_images, steps
):
    pairs = named_pairs(**counts)
    data = flat_data(pairs, batch_size=batch_size, ranks=ranks, epoch_images=epoch_images)
    assert data.steps == steps
    assert data.last_batch == data.global_batch == len(counts) * batch_size * ranks
    assert len(data.batch_files(0, steps - 1)) == data.global_batch


def test_one_dataset_with_epoch_images_runs_through_its_passes_without_fills(tmp_path):
    """3 images, 2 a step, 2 steps an epoch: a pass ends in the middle of a step."""
    pairs = flat_set(tmp_path, 3)
    data = flat_data(pairs, batch_size=2, seed=7, epoch_images=4)
    found = [indices_of(batch) for batch in chain(*epochs_of(data, 3))]
    ((*stream,),) = streams(pairs, 7, 12)
    assert found == [[index for _, index in stream[2 * i : 2 * i + 2]] for i in range(6)]
    seen = list(chain(*found))
    assert [sorted(seen[i : i + 3]) for i in (0, 3, 6, 9)] == [[0, 1, 2]] * 4


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("epoch_images", [0, 30])
def test_a_mix_can_start_anywhere_and_goes_on_with_the_same_bits(tmp_path, ranks, epoch_images):
    pairs = three_sets(tmp_path)
    for rank in range(ranks):
        keys = {"rank": rank, "ranks": ranks, "epoch_images": epoch_images, "seed": 3}
        whole = epochs_of(flat_data(pairs, **keys), 3)
        again = flat_data(pairs, **keys)
        (rest,) = epochs_of(again, 1, epoch=1, step=1)
        assert len(rest) == again.steps - 1 > 0
        assert same_bits(rest, whole[1][1:])
        (last,) = epochs_of(again, 1, epoch=2)
        assert same_bits(last, whole[2])


def test_one_process_or_several_hold_the_same_images_of_each_dataset(tmp_path):
    pairs = three_sets(tmp_path)
    (whole,) = epochs_of(flat_data(pairs, batch_size=4, seed=2), 1)
    halves = [epochs_of(flat_data(pairs, rank=r, ranks=2, seed=2), 1)[0] for r in (0, 1)]
    for batch, parts in zip(whole, zip(*halves, strict=True), strict=True):
        for column, left, right in zip(batch, *parts, strict=True):
            by_set = [
                np.concatenate([part[i : i + 2] for part in (left, right)]) for i in (0, 2, 4)
            ]
            assert np.array_equal(column, np.concatenate(by_set))


@pytest.mark.parametrize("ranks", [1, 2])
def test_batch_files_of_a_mix_go_dataset_by_dataset_over_all_ranks(tmp_path, ranks):
    pairs = three_sets(tmp_path)
    data = [flat_data(pairs, rank=rank, ranks=ranks, seed=8) for rank in range(ranks)]
    parts = [epochs_of(d, 2) for d in data]
    for epoch in range(2):
        for step in range(data[0].steps):
            ranked = [indices_of(part[epoch][step]) for part in parts]
            names = [str(pairs[i].image) for d in (0, 2, 4) for r in ranked for i in r[d : d + 2]]
            assert all(d.batch_files(epoch, step) == names for d in data)


# --- Unreadable files ---------------------------------------------------------------------------


def test_an_unreadable_file_leaves_its_error_with_the_data(tmp_path):
    """MindSpore would bury an exception of a worker; the trainer looks at `errors` instead."""
    pairs = flat_set(tmp_path, 4)
    pairs[2].image.write_bytes(b"")
    data = flat_data(pairs, batch_size=4)
    (epoch,) = epochs_of(data, 1, workers=2)
    assert [str(error).startswith(str(pairs[2].image)) for error in data.errors] == [True]
    position = data.batch_files(0, 0).index(str(pairs[2].image))
    assert all(not column[position].any() for column in epoch[0])  # an empty mask: no loss
    assert data.skipped == {}


def many_pairs(root: Path, count: int, bad: tuple[int, ...]) -> list[Pair]:
    """`count` pairs of few files; those in `bad` have files of their own, the target damaged."""
    good = write_set(root, 4)
    return [
        Pair(put(root / f"{i}.png", good[i % 4].image.read_bytes()), put(root / f"{i}.npy", b"?"))
        if i in bad
        else good[i % 4]
        for i in range(count)
    ]


def test_the_next_readable_pair_takes_an_unreadable_ones_place_and_random_numbers(tmp_path):
    pairs = many_pairs(tmp_path, 300, bad=(5, 6, 299))
    data = TrainingData(pairs, augmentation(), seed=9, batch_size=4, skip_bad=True)
    for index, instead in ((5, 7), (6, 7), (299, 0), (8, 8)):
        rng = np.random.default_rng((9, 2, index))
        expected = augmentation()(*read_pair(pairs[instead]), rng)
        for left, right in zip(expected, data.sample(2, index), strict=True):
            assert np.array_equal(left, right)
    assert list(data.skipped) == [pairs[index].image for index in (5, 6, 299)]
    for index in (5, 6, 299):
        assert data.skipped[pairs[index].image].startswith(str(pairs[index].target))
    assert data.errors == []  # 3 of 300 are 1 %, not more


def test_past_1_percent_of_unreadable_pairs_there_is_an_error(tmp_path):
    pairs = many_pairs(tmp_path, 200, bad=(10, 20, 30))
    data = TrainingData(pairs, augmentation(), seed=0, batch_size=4, skip_bad=True)
    for _ in range(3):  # again and again: each pair counts once
        data.sample(0, 30), data.sample(1, 20)
    assert data.errors == []
    data.sample(0, 10)
    data.sample(0, 30)
    (error,) = data.errors
    assert str(error) == (
        f"3 of 200 images (1.5 %) cannot be read, more than 1 %; first: {pairs[10].target}: not a "
        ".npy file; write it with numpy.save; mend or remove them"
    )


def test_a_set_without_a_readable_pair_ends_in_an_error_not_in_a_search(tmp_path):
    pairs = many_pairs(tmp_path, 250, bad=tuple(range(250)))
    data = TrainingData(pairs, augmentation(), seed=0, batch_size=4, skip_bad=True)
    sample = data.sample(0, 100)
    assert not any(column.any() for column in sample)
    assert len(data.errors) == 1
    assert len(data.skipped) == 3  # the search ended with the error


def in_sets(pairs: list[Pair], *names: str) -> list[Pair]:
    """The pairs, one after the other in datasets of these names."""
    return [
        Pair(pair.image, pair.target, DataSource(names[i % len(names)]))
        for i, pair in enumerate(pairs)
    ]


def test_a_replacement_is_of_the_same_dataset(tmp_path):
    """Even indices are dataset a, odd ones b; after the last comes the first of the dataset."""
    pairs = in_sets(many_pairs(tmp_path, 400, bad=(5, 7, 398)), "a", "b")
    data = TrainingData(pairs, augmentation(), seed=9, batch_size=4, skip_bad=True)
    for index, instead in ((5, 9), (7, 9), (398, 0)):
        expected = augmentation()(*read_pair(pairs[instead]), np.random.default_rng((9, 2, index)))
        for left, right in zip(expected, data.sample(2, index), strict=True):
            assert np.array_equal(left, right)
    assert list(data.skipped) == [pairs[index].image for index in (5, 7, 398)]
    assert data.errors == []


def test_past_1_percent_of_a_small_dataset_there_is_an_error_that_names_it(tmp_path):
    """One of 398 and then two of two: each dataset has a limit of its own."""
    pairs = many_pairs(tmp_path, 400, bad=(5, 7, 300))
    pairs = [
        Pair(p.image, p.target, DataSource("b" if i in (5, 7) else "a"))
        for i, p in enumerate(pairs)
    ]
    data = TrainingData(pairs, augmentation(), seed=9, batch_size=4, skip_bad=True)
    assert any(column.any() for column in data.sample(0, 300))
    assert data.errors == []
    assert not any(column.any() for column in data.sample(0, 7))
    assert [str(error) for error in data.errors] == [
        f"b: 1 of 2 images (50.0 %) cannot be read, more than 1 %; first: {pairs[7].target}: not a "
        ".npy file; write it with numpy.save; mend or remove them"
    ]
    assert list(data.skipped) == [pairs[7].image, pairs[300].image]


def test_the_unreadable_images_of_two_datasets_are_not_added_up(tmp_path):
    """Even indices are dataset a, odd ones b, 150 each: one bad image is less than 1 %, two are
    more, though three in all are just 1 %."""
    pairs = in_sets(many_pairs(tmp_path, 300, bad=(9, 20, 30)), "a", "b")
    data = TrainingData(pairs, augmentation(), seed=9, batch_size=4, skip_bad=True)
    data.sample(0, 9), data.sample(0, 30)
    assert data.errors == []
    data.sample(0, 20)
    (error,) = data.errors
    assert str(error).startswith(
        f"a: 2 of 150 images (1.3 %) cannot be read, more than 1 %; first: {pairs[20].target}: "
    )


def test_replacements_are_the_same_for_any_number_of_workers_and_processes(tmp_path):
    pairs = many_pairs(tmp_path, 101, bad=(50,))
    keys = {"seed": 2, "skip_bad": True}
    one = flat_data(pairs, batch_size=6, **keys)
    two = flat_data(pairs, batch_size=6, **keys)
    (left,), (right,) = epochs_of(one, 1, workers=1), epochs_of(two, 1, workers=2)
    assert same_bits(left, right)
    parts = [epochs_of(flat_data(pairs, rank=r, ranks=3, **keys), 1)[0] for r in range(3)]
    assert same_bits(joined(parts), left)
    assert one.skipped == two.skipped
    assert list(one.skipped) == [pairs[50].image]


def test_threads_note_every_unreadable_pair_once(tmp_path):
    pairs = many_pairs(tmp_path, 1000, bad=tuple(range(0, 1000, 125)))
    data = TrainingData(pairs, augmentation(), seed=0, batch_size=4, skip_bad=True)
    threads = [
        threading.Thread(target=lambda: [data.sample(0, i) for i in range(0, 1000, 125)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(data.skipped) == 8
    assert data.errors == []
