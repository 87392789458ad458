"""The cache: what its records are, what makes it invalid, and builds that are stopped."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.data import cache, cache_build
from src.data.cache import Cache, Settings
from src.data.cache_build import build, verify
from src.data.mixdata import DataSource, Pair
from src.data.pairs import read_pair
from src.data.training import Augmentation, TrainingData
from src.data.transforms import random_crop
from src.errors import UserError
from tests import file_formats

ROOT = Path(__file__).resolve().parents[2]
AUGMENT = Augmentation(32, 48, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def photograph(seed: int, height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0, 256, (7, 9, 3))
    return cv2.resize(coarse, (width, height)).astype(np.uint8)


def write_pair(root: Path, stem: str, height: int, width: int, **changes: object) -> Pair:
    """A PNG photograph and an 8-bit target."""
    seed = sum(stem.encode())
    grey = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    image = put(root / f"{stem}.png", file_formats.png(photograph(seed, height, width)))
    target = put(root / f"{stem}_t.png", file_formats.png(grey))
    return replace(Pair(image, target, DataSource("a")), **changes)


def settings_in(root: Path, **changes: object) -> Settings:
    return replace(Settings(root / "cache", 32, 48, True, 1.5), **changes)


@pytest.fixture
def small(tmp_path) -> list[Pair]:
    """Three pairs that are not larger than their cache: the crop of 60 x 72 pixels is 48 x 72."""
    return [write_pair(tmp_path / "files", name, 60, 72) for name in ("x", "y", "z")]


def message(pairs: list[Pair], settings: Settings) -> str:
    """Why a training cannot use the cache; it must be one line that names the command."""
    with pytest.raises(UserError) as error:
        Cache(pairs, settings)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(f"data_cache: {settings.root} ")
    assert text.endswith("; run python -m src.data.cache with the same flags")
    return text


# --- Sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "keep", "margin", "expected"),
    [
        # Samples of 384 x 384. The largest crop of 480 x 640 is 480 x 480: 1.25 times as large.
        ((480, 640), True, 1.34, (480, 640)),
        ((480, 640), True, 1.25, (480, 640)),
        ((480, 640), True, 1.0, (384, 512)),
        ((960, 1280), True, 1.25, (480, 640)),
        ((3000, 4000), True, 1.5, (576, 768)),
        ((4000, 3000), True, 1.5, (768, 576)),
        ((200, 4000), True, 1.0, (200, 4000)),  # a side is smaller than the sample
        # Without the aspect the crop is the whole image, and each side has to fill its own.
        ((960, 1280), False, 1.0, (384, 512)),
        ((400, 4000), False, 1.0, (384, 3840)),
    ],
)
def test_a_photograph_is_kept_so_large_that_the_largest_crop_fills_the_margin(
    size, keep, margin, expected
):
    settings = Settings(Path("c"), 384, 384, keep, margin)
    assert settings.size_of(*size) == expected


def test_the_size_follows_the_aspect_of_the_samples():
    """Of 1000 x 1000 pixels, samples of 96 x 128 take crops of 750 x 1000."""
    assert Settings(Path("c"), 96, 128, True, 1.5).size_of(1000, 1000) == (192, 192)
    assert Settings(Path("c"), 128, 96, True, 1.5).size_of(1000, 1000) == (192, 192)


# --- Samples ------------------------------------------------------------------------------------


def kinds(root: Path) -> list[Pair]:
    """Pairs of several types of targets that fit into the cache: one dataset each."""
    rng = np.random.default_rng(1)
    wide = rng.integers(0, 9000, (60, 72)).astype(np.uint16)
    floats = rng.uniform(-1, 9, (60, 72)).astype(np.float32)
    floats[:20, :30] = np.nan
    mask = put(root / "m.png", file_formats.png((rng.random((60, 72)) < 0.7).astype(np.uint8)))
    np.save(root / "f.npy", floats)
    depth = put(root / "d.png", file_formats.png(wide))
    eight = write_pair(root, "e", 60, 72)
    return [
        eight,
        replace(eight, source=DataSource("holes", invalid=3, scale=0.01)),
        replace(eight, target=depth, source=DataSource("depth", "depth", scale=0.001)),
        replace(eight, target=root / "f.npy", source=DataSource("floats", "depth")),
        replace(eight, source=DataSource("masked"), mask=mask),
        replace(eight, target=root / "f.npy", source=DataSource("both"), mask=mask),
    ]


def test_samples_of_what_is_not_larger_than_the_cache_are_the_same_bits(tmp_path):
    (tmp_path / "files").mkdir()
    pairs = kinds(tmp_path / "files")
    build(pairs, settings_in(tmp_path), threads=2)
    reader = Cache(pairs, settings_in(tmp_path))
    plain = TrainingData(pairs, AUGMENT, seed=4, batch_size=1)
    cached = TrainingData(pairs, AUGMENT, seed=4, batch_size=1, open_=reader)
    for index in range(len(pairs)):
        for turn in range(5):
            left, right = plain.sample(turn, index), cached.sample(turn, index)
            assert all(map(np.array_equal, left, right))
            assert left[2].any()
    assert plain.errors == cached.errors == []


def test_a_jpeg_that_is_not_larger_is_kept_as_it_is(tmp_path):
    assert cv2.imwrite(str(tmp_path / "a.jpg"), photograph(3, 64, 80))
    pair = replace(write_pair(tmp_path, "b", 64, 80), image=tmp_path / "a.jpg")
    build([pair], settings_in(tmp_path, margin=1.9), threads=1)
    opened = Cache([pair], settings_in(tmp_path, margin=1.9))(pair)
    assert np.array_equal(opened.photo.pixels(), read_pair(pair)[0])


def test_samples_of_a_jpeg_that_is_not_larger_are_the_same_bits(tmp_path):
    """The largest that the largest margin keeps: the crop of 61 x 91 pixels is 1.9 samples."""
    assert cv2.imwrite(str(tmp_path / "a.jpg"), photograph(3, 64, 91))
    pair = replace(write_pair(tmp_path, "b", 64, 91), image=tmp_path / "a.jpg")
    settings = settings_in(tmp_path, margin=1.9)
    build([pair], settings, threads=1)
    augment = replace(AUGMENT, crop_min_scale=0.95)
    plain = TrainingData([pair], augment, seed=4, batch_size=1)
    cached = TrainingData([pair], augment, seed=4, batch_size=1, open_=Cache([pair], settings))
    assert Cache([pair], settings)(pair).photo.width == 91
    for turn in range(20):
        assert all(map(np.array_equal, plain.sample(turn, 0), cached.sample(turn, 0)))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("size", [(32, 32), (96, 128), (384, 384)])
def test_what_the_largest_margin_keeps_is_never_decoded_at_half_its_size(size, keep):
    """Otherwise a sample out of the file would not be the one out of the cache."""
    settings = Settings(Path("c"), *size, keep, 1.9)
    aspect = size[1] / size[0] if keep else None
    kept = 0
    for height in range(size[0], 4 * size[0], 3):
        for width in range(size[1], 4 * size[1], 7):
            if settings.size_of(height, width) == (height, width):
                box = random_crop(height, width, aspect, 1.0, np.random.default_rng(0))
                assert box.shrink_for(*size) == 1
                kept += 1
    assert kept > 100


@pytest.mark.parametrize("name", ["large.png", "large.jpg"])
def test_a_larger_photograph_is_resized_first_and_cropped_then(tmp_path, name):
    """301 x 403 pixels, of which crops of 268.7 x 403 fill 1.5 times 32 x 48: 54 x 72."""
    pixels = photograph(8, 301, 403)
    if name == "large.jpg":
        assert cv2.imwrite(str(tmp_path / name), pixels)
        # At a quarter, 76 x 101 pixels are the least above 54 x 72; the last row and column, which
        # stand for fewer than 4 pixels, are cut off.
        pixels = cv2.imread(str(tmp_path / name), cv2.IMREAD_REDUCED_COLOR_4)
        pixels = pixels[:75, :100, ::-1]
        height, width = 300, 400
    else:
        put(tmp_path / name, file_formats.png(pixels))
        height, width = 301, 403
    values = (np.mgrid[:301, :403][1] % 250).astype(np.uint8)
    values[100:150] = 255
    target = put(tmp_path / "t.png", file_formats.png(values))
    pair = Pair(tmp_path / name, target, DataSource("a", invalid=255))
    build([pair], settings_in(tmp_path), threads=1)
    reader = Cache([pair], settings_in(tmp_path))
    data = TrainingData([pair], AUGMENT, seed=6, batch_size=1, open_=reader)
    kept = cv2.resize(pixels.astype(np.float64), (72, 54), interpolation=cv2.INTER_CUBIC)
    kept = kept.clip(0, 255).round()
    rows, columns = (
        [int((i + 0.5) * s / n) for i in range(n)] for s, n in ((height, 54), (width, 72))
    )
    kept_values = values[np.ix_(rows, columns)]
    for turn in range(6):
        image, disparity, mask = data.sample(turn, 0)
        rng = np.random.default_rng((6, turn, 0))
        share = rng.uniform(0.5, 1)
        # The crop of the file, as without a cache; its edges are rounded in what is kept.
        size = round(403 / 1.5 * share), round(403 * share)
        top, left = (int(rng.integers(s - n + 1)) for s, n in zip((301, 403), size, strict=True))
        flip = -1 if rng.random() < 0.5 else 1
        top, bottom = (round(y * 54 / 301) for y in (top, top + size[0]))
        left, right = (round(x * 72 / 403) for x in (left, left + size[1]))
        crop_height, crop_width = bottom - top, right - left
        part = kept[top : top + crop_height, left : left + crop_width]
        expected = cv2.resize(part, (48, 32), interpolation=cv2.INTER_CUBIC)[:, ::flip]
        found = image.transpose(1, 2, 0) * np.float32(AUGMENT.std) + np.float32(AUGMENT.mean)
        # One grey value of the first resize, which the second may stretch, and one of the second.
        off = np.abs(found * 255 - expected.clip(0, 255))
        assert off.max() < 2.5
        assert off.mean() < 0.4
        picked_rows = [top + int((i + 0.5) * crop_height / 32) for i in range(32)]
        picked_columns = [left + int((i + 0.5) * crop_width / 48) for i in range(48)]
        picked = kept_values[np.ix_(picked_rows, picked_columns)][:, ::flip].astype(float)
        known = picked != 255
        assert np.array_equal(mask, known)
        unit = (picked - picked[known].min()) / np.ptp(picked[known])
        np.testing.assert_allclose(disparity, unit * known, atol=1e-6)


def test_a_sample_is_the_same_part_of_a_photograph_with_the_cache_and_without(tmp_path):
    """Ramps, so that a part shows in its values: 1 grey value is 3 pixels of the file."""
    rows, columns = np.mgrid[:600, :720]
    ramps = np.stack([columns // 3, rows // 3, 0 * rows], axis=-1).astype(np.uint8)
    pair = write_pair(tmp_path, "r", 600, 720)
    put(pair.image, file_formats.png(ramps))
    build([pair], settings_in(tmp_path), threads=1)
    reader = Cache([pair], settings_in(tmp_path))
    augment = replace(AUGMENT, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    plain = TrainingData([pair], augment, seed=2, batch_size=1)
    cached = TrainingData([pair], augment, seed=2, batch_size=1, open_=reader)
    for turn in range(60):
        off = plain.sample(turn, 0)[0] - cached.sample(turn, 0)[0]
        # A pixel of the cache is 10 of the file, which edges are rounded to.
        assert np.abs(off).max() < 6


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(("how", "text"), [("damaged", "not a PNG"), ("dangling", "no such file")])
def test_an_unreadable_pair_is_an_error_or_left_to_the_training(tmp_path, small, number, how, text):
    bad = small[number].target
    bad.unlink()
    if how == "damaged":
        bad.write_bytes(b"?")
    else:
        bad.symlink_to("nowhere.png")
    with pytest.raises(UserError, match=rf"{bad.name}: .*{text}"):
        build(small, settings_in(tmp_path), threads=2)
    assert list((tmp_path / "cache").iterdir()) == []
    build(small, settings_in(tmp_path), threads=2, skip_bad=True)
    reader = Cache(small, settings_in(tmp_path))
    for skip in (False, True):
        data = TrainingData(small, AUGMENT, 0, 1, skip_bad=skip, open_=reader)
        data.sample(0, number)
        (error,) = data.errors
        assert bad.name in str(error)
        assert text in str(error)


def test_a_dataset_without_a_readable_pair_has_a_cache_without_records(tmp_path, small):
    for pair in small:
        pair.target.write_bytes(b"?")
    build(small, settings_in(tmp_path), threads=1, skip_bad=True)
    Cache(small, settings_in(tmp_path))
    assert not list((tmp_path / "cache" / "a").glob("shard*"))


def test_shards_are_files_of_bounded_size(tmp_path, small, monkeypatch):
    """A record takes 60 * 72 * 4 bytes; two and a half of them are allowed in a file."""
    monkeypatch.setattr(cache_build, "SHARD_BYTES", 60 * 72 * 10)
    build(small, settings_in(tmp_path), threads=2)
    folder = tmp_path / "cache" / "a"
    assert [(folder / f"shard-{n}.bin").stat().st_size for n in (0, 1)] == [34560, 17280]
    assert sorted(p.name for p in folder.iterdir()) == [
        *("cache.json", "index.npy", "shard-0.bin", "shard-1.bin"),
    ]
    reader = Cache(small, settings_in(tmp_path))
    for pair in small:
        opened, (image, disparity) = reader(pair), read_pair(pair)
        assert np.array_equal(opened.photo.pixels(), image)
        assert np.array_equal(opened.disparity(), disparity)


# --- What makes it invalid ----------------------------------------------------------------------


@pytest.fixture
def built(tmp_path, small) -> Settings:
    settings = settings_in(tmp_path)
    build(small, settings, threads=1)
    Cache(small, settings)
    return settings


def test_a_cache_that_is_not_there(tmp_path, small):
    assert "has no cache of a;" in message(small, settings_in(tmp_path))


@pytest.mark.parametrize("which", ["image", "target"])
@pytest.mark.parametrize("how", ["size", "time"])
def test_a_changed_file_is_named(small, built, which, how):
    path = getattr(small[1], which)
    if how == "size":
        times = path.stat()
        path.write_bytes(path.read_bytes() + b"\0")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    else:
        os.utime(path, (1, 1))
    assert str(small[1].image) in message(small, built)
    Cache([small[0], small[2]], built)  # the others are as they were


def test_a_file_under_another_name_is_not_in_it(small, built):
    moved = small[1].image.with_name("w.png")
    shutil.copy2(small[1].image, moved)
    assert f"does not hold {moved}" in message([replace(small[1], image=moved)], built)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("height", 64, "another height: 32, now 64"),
        ("width", 32, "another width: 48, now 32"),
        ("margin", 1.25, "another margin: 1.5, now 1.25"),
        ("keep_aspect_ratio", False, "another keep_aspect_ratio: True, now False"),
    ],
)
def test_another_setting_is_named(small, built, key, value, text):
    assert text in message(small, replace(built, **{key: value}))


@pytest.mark.parametrize(
    ("key", "value"), [("kind", "depth"), ("scale", 2.0), ("invalid", 0.0), ("key", "/d")]
)
def test_another_entry_in_mixdata_is_named(small, built, key, value):
    source = replace(small[0].source, **{key: value})
    changed = [replace(pair, source=source) for pair in small]
    assert f"another mixdata's {key}: " in message(changed, built)


def test_the_weight_of_a_dataset_does_not_matter(small, built):
    source = replace(small[0].source, weight=3.0)
    heavier = [replace(pair, source=source) for pair in small]
    opened = Cache(heavier, built)(heavier[0])
    np.testing.assert_array_equal(opened.photo.pixels(), read_pair(small[0])[0])


def test_another_version_of_the_code_is_named(small, built, monkeypatch):
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert "another format: 1, now 2" in message(small, built)


@pytest.mark.parametrize("name", ["cache.json", "index.npy", "shard-0.bin"])
@pytest.mark.parametrize("how", ["missing", "cut", "empty"])
def test_a_damaged_file_is_found_at_the_start(small, built, name, how):
    path = built.root / "a" / name
    whole = path.read_bytes()
    path.unlink()
    if how != "missing":
        path.write_bytes(whole[:-1] if how == "cut" else b"")
    text = message(small, built)
    assert name in text or "damaged" in text


@pytest.mark.parametrize(
    "meta",
    [
        {"shards": []},
        {"facts": {}, "shards": []},
        {"facts": 1, "index": "", "shards": []},
        {"facts": {}, "index": "", "shards": [{"bytes": 3}]},
        [],
        3,
    ],
)
def test_a_description_with_other_keys_is_a_damaged_cache(small, built, meta):
    (built.root / "a" / "cache.json").write_text(json.dumps(meta))
    assert "holds a damaged cache of a" in message(small, built)


def test_a_training_goes_on_with_the_cache_that_it_began_with(tmp_path, small, built):
    reader = Cache(small, built)
    before = [reader(pair).photo.pixels().copy() for pair in small]
    put(small[0].image, file_formats.png(photograph(99, 60, 72)))
    build(list(reversed(small)), built, threads=1)
    assert all(
        np.array_equal(reader(pair).photo.pixels(), pixels)
        for pair, pixels in zip(small, before, strict=True)
    )
    shutil.rmtree(built.root)
    assert np.array_equal(reader(small[1]).photo.pixels(), before[1])


def test_a_cache_that_is_replaced_while_it_is_opened_is_refused(small, built, monkeypatch):
    map_shard = cache._mapped

    def replaced(path: Path) -> object:
        meta = path.parent / "cache.json"
        meta.write_text(meta.read_text() + "\n")
        return map_shard(path)

    monkeypatch.setattr(cache, "_mapped", replaced)
    assert "replaced just now" in message(small, built)


def test_more_shards_than_open_files_are_allowed_at_first(small, built, monkeypatch):
    limits = [resource.getrlimit(resource.RLIMIT_NOFILE)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    for soft, hard, expected in ((100, 4096, 101), (4096, 4096, 4096), (100, -1, 101)):
        limits.append((soft, hard))
        Cache(small, built)
        assert limits[-1] == (expected, hard)


def test_a_flipped_bit_of_the_index_is_found_at_the_start_and_of_a_shard_by_verify(small, built):
    verify(small, built)
    for name, find in (("index.npy", Cache), ("shard-0.bin", verify)):
        path = built.root / "a" / name
        whole = bytearray(path.read_bytes())
        whole[-5] ^= 4
        path.write_bytes(whole)
        with pytest.raises(UserError, match=f"{name}.*checksum|checksum of {name}"):
            find(small, built)
        whole[-5] ^= 4
        path.write_bytes(whole)
    verify(small, built)


def test_a_part_of_the_datasets_pairs_is_enough(small, built):
    """Held-out images are in the cache and not asked for."""
    opened = Cache(small[1:2], built)(small[1])
    np.testing.assert_array_equal(opened.photo.pixels(), read_pair(small[1])[0])


# --- Builds -------------------------------------------------------------------------------------


def stamp(root: Path) -> dict[str, int]:
    return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def test_only_what_is_invalid_is_built(tmp_path, small, built):
    before = stamp(built.root)
    more = [*small, *(replace(pair, source=DataSource("b")) for pair in small)]
    build(more, built, threads=1)
    assert {key: value for key, value in stamp(built.root).items() if key in before} == before
    Cache(more, built)
    os.utime(small[0].image, (1, 1))
    build(small, built, threads=1)
    Cache(small, built)
    after = stamp(built.root)
    assert all(after[key] != value for key, value in before.items())


def test_a_folder_that_is_no_cache_is_never_replaced(tmp_path):
    """The data root as the cache's: the dataset's name is that of the folder of its files."""
    pairs = [write_pair(tmp_path / "root" / "a" / "video", name, 60, 72) for name in "xy"]
    settings = replace(settings_in(tmp_path), root=tmp_path / "root")
    before = stamp(tmp_path)
    with pytest.raises(UserError, match=r"root/a is not a cache, .*; choose another folder"):
        build(pairs, settings, threads=1)
    assert stamp(tmp_path) == before


@pytest.mark.parametrize("name", ["notes.txt", "shard-0.bin.bak", ".hidden", "shard-.bin"])
def test_a_folder_with_anything_else_is_never_replaced(small, built, name):
    put(built.root / "a" / name, b"mine")
    os.utime(small[0].image, (1, 1))
    before = stamp(built.root)
    with pytest.raises(UserError, match="is not a cache"):
        build(small, built, threads=1)
    assert stamp(built.root) == before


def test_a_folder_that_pairs_are_read_from_is_never_replaced(tmp_path):
    """Even where their names are those of a cache's files."""
    pair = write_pair(tmp_path / "files", "x", 60, 72)
    folder = tmp_path / "cache" / "a"
    folder.mkdir(parents=True)
    pair = replace(pair, target=pair.target.rename(folder / "shard-0.bin"))
    with pytest.raises(UserError, match="is not a cache"):
        build([pair], settings_in(tmp_path), threads=1)
    assert pair.target.exists()


def test_a_file_in_the_place_of_a_cache_is_never_replaced(tmp_path, small):
    file = put(tmp_path / "cache" / "a", b"mine")
    with pytest.raises(UserError, match="is not a cache"):
        build(small, settings_in(tmp_path), threads=1)
    assert file.read_bytes() == b"mine"


@pytest.mark.parametrize("empty", [True, False])
def test_a_linked_folder_is_built_where_it_lies_and_built_again(tmp_path, small, empty):
    settings = settings_in(tmp_path)
    disk = tmp_path / "disk"
    disk.mkdir()
    settings.root.mkdir()
    (settings.root / "a").symlink_to(disk / "of_a")
    if empty:
        (disk / "of_a").mkdir()
    for time_ in (1, 2):
        os.utime(small[0].image, (time_, time_))
        build(small, settings, threads=1)
        Cache(small, settings)
        assert (settings.root / "a").is_symlink()
        assert [path.name for path in disk.iterdir()] == ["of_a"]
        assert [path.name for path in settings.root.iterdir()] == ["a"]


def test_the_old_cache_stays_until_the_new_one_is_whole(tmp_path, small, built, monkeypatch):
    os.utime(small[0].image, (1, 1))
    before = stamp(built.root)
    with monkeypatch.context() as patch:
        patch.setattr(cache_build, "_write_records", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(small, built, threads=1)
    assert stamp(built.root) == before
    Cache(small[1:], built)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1))
    place = re.escape(str(built.root / "a"))
    with pytest.raises(UserError, match=f"remove {place}, which it replaces"):
        build(small, built, threads=1)
    assert stamp(built.root) == before


def test_a_build_that_fails_leaves_no_cache_and_can_be_run_again(tmp_path, small, monkeypatch):
    settings = settings_in(tmp_path)
    write = cache_build._Writer.add

    def full(self, *arguments):
        if self.records:
            raise OSError(28, "No space left on device")
        write(self, *arguments)

    monkeypatch.setattr(cache_build._Writer, "add", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        build(small, settings, threads=2)
    assert list(settings.root.iterdir()) == []
    monkeypatch.undo()
    (settings.root / ".unfinished-killed").mkdir()  # what a killed one leaves
    (settings.root / ".unfinished-killed" / "shard-0.bin").write_bytes(b"half")
    build(small, settings, threads=2)
    assert [path.name for path in settings.root.iterdir()] == ["a"]
    Cache(small, settings)


def test_too_little_space_is_one_line_before_anything_is_written(tmp_path, small, monkeypatch):
    """3 images of 60 * 72 pixels, 3 bytes and 1 of the target: 51840 bytes."""
    settings = settings_in(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=51839))
    monkeypatch.setattr(cache_build, "_write_records", None)
    with pytest.raises(UserError, match=r"takes 0\.00 GB.*choose another folder"):
        build(small, settings, threads=1)
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=51840))
    build(small, settings, threads=1)
    assert (settings.root / "a" / "shard-0.bin").stat().st_size == 51840


def test_two_builds_at_once_are_refused(tmp_path, small, monkeypatch):
    settings = settings_in(tmp_path)
    errors = []

    def second(*_):
        try:
            build(small, settings, threads=1)
        except UserError as error:
            errors.append(str(error))
        raise UserError("enough")

    monkeypatch.setattr(cache_build, "_build_dataset", second)
    with pytest.raises(UserError, match="enough"):
        build(small, settings, threads=1)
    assert len(errors) == 1
    assert "another program builds" in errors[0]


# --- The program --------------------------------------------------------------------------------


def program(tmp_path: Path, *flags: str) -> list[str]:
    config = tmp_path / "config.yaml"
    config.write_text("img_height: 32\nimg_width: 64\n")
    keys = ("--train_data_dir", str(tmp_path), "--data_cache", str(tmp_path / "cache"))
    return [sys.executable, "-m", "src.data.cache", "--config_path", str(config), *keys, *flags]


def write_mixdata(root: Path, count: int, height: int = 90, width: int = 120) -> None:
    for i in range(count):
        write_pair(root, f"{i:04d}", height, width)
    for kind, pattern in (("img", "????.png"), ("depth", "*_t.png")):
        (root / kind).mkdir()
        for path in root.glob(pattern):
            path.rename(root / kind / path.name.replace("_t", ""))
    entry = {"RW": {"image": "img/*.png", "depth": "depth/*.png"}}
    (root / "mixdata.json").write_text(json.dumps(entry))


def run(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_program_builds_verifies_and_says_what_is_wrong(tmp_path):
    write_mixdata(tmp_path, 4)
    first = run(program(tmp_path))
    assert first.returncode == 0, first.stderr
    assert "RW: 4 images, 0.00 GB in" in first.stderr
    assert "4/4" in first.stderr  # the progress bar
    assert "up to date" in run(program(tmp_path)).stderr
    assert run(program(tmp_path, "--verify")).returncode == 0
    shard = tmp_path / "cache" / "RW" / "shard-0.bin"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    wrong = run(program(tmp_path, "--verify"))
    assert wrong.returncode == 2
    assert "wrong checksum" in wrong.stderr.splitlines()[-1]
    other = run(program(tmp_path, "--verify", "--cache_margin", "1"))
    assert other.returncode == 2
    assert "another margin: 1.34, now 1.0" in other.stderr.splitlines()[-1]


def test_the_program_needs_a_folder(tmp_path):
    write_mixdata(tmp_path, 1)
    done = run([*program(tmp_path), "--data_cache", ""])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: data_cache: empty")


def test_a_training_without_its_cache_ends_before_it_makes_a_run(tmp_path):
    write_mixdata(tmp_path, 2)
    flags = program(tmp_path, "--run_path", str(tmp_path / "runs"))[3:]
    done = run([sys.executable, "midas_train.py", *flags])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: data_cache: {tmp_path / 'cache'} has no cache of RW; run python -m src.data.cache "
        "with the same flags"
    )
    assert not (tmp_path / "runs").exists()


SLOW = """
import time
from src.data import cache_build
from src.errors import run_program

resized = cache_build._resized
cache_build._resized = lambda *arguments: time.sleep(0.5) or resized(*arguments)
run_program(cache_build.main)
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_program_leaves_no_half_cache(tmp_path, stop):
    write_mixdata(tmp_path, 100)  # 25 seconds with two threads
    command = [sys.executable, "-c", SLOW, *program(tmp_path)[3:]]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        while not list(tmp_path.glob("cache/.unfinished-*/shard-0.bin")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(stop)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0
    assert not (tmp_path / "cache" / "RW").exists()
    again = run(program(tmp_path))
    assert again.returncode == 0, again.stderr
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["RW"]
