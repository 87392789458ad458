"""The benchmarks on data sets written byte by byte in the real layouts and encodings."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

from src import image_io
from src.data.benchmarks import BENCHMARKS
from src.data.benchmarks.kitti import Kitti
from src.data.benchmarks.sintel import Sintel
from src.data.benchmarks.tum import Tum, read_associations
from src.errors import UserError
from tests import file_formats

NAMES = ["Kitti", "Sintel", "TUM"]
HEIGHT, WIDTH = 6, 9
FACTOR = {"Kitti": 256, "TUM": 5000}


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def random_image(seed: int) -> np.ndarray:
    """RGB noise; red is 128 or more, green and blue are less."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 128, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image[..., 0] += 128
    return image


def stored_depth(seed: int, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """uint16 values with zeros; most do not survive a reading as 8 bits."""
    depth = np.random.default_rng(seed).integers(300, 65536, shape, dtype=np.uint16)
    depth[0, :3] = 0
    return depth


def paths(name: str, group: str, frame: int) -> tuple[Path, Path]:
    """The image and the depth file below the root, as the data sets lay them out."""
    if name == "Kitti":
        stem = f"{frame:010d}.png"
        return Path(group, "image", stem), Path(group, "depth", stem)
    if name == "Sintel":
        stem = f"frame_{frame:04d}"
        return Path("final_left", group, f"{stem}.png"), Path("depth", group, f"{stem}.dpt")
    return Path(group, "rgb", f"131187{frame}.50.png"), Path(
        group, "depth", f"131187{frame}.52.png"
    )


def depth_bytes(name: str, values: np.ndarray) -> bytes:
    """Sintel stores metres: 1/256 of the values, which is exact in float32."""
    return file_formats.dpt(values / 256) if name == "Sintel" else file_formats.png(values)


def write_set(name: str, root: Path, groups: tuple[str, ...] = ("b", "a"), frames: int = 2) -> None:
    """Frame `f` of group number `g` has the image and depth of seed 10 * g + f."""
    for number, group in enumerate(groups):
        lines = ["# color images, depth maps", ""]
        for frame in range(frames):
            image, depth = paths(name, group, frame)
            put(root / image, file_formats.png(random_image(10 * number + frame)))
            put(root / depth, depth_bytes(name, stored_depth(10 * number + frame)))
            lines.append(f"{image.relative_to(image.parts[0])} {depth.relative_to(depth.parts[0])}")
        if name == "TUM":
            put(root / group / "associate.txt", "\n".join(lines).encode())


def test_the_benchmarks_are_those_of_the_protocol_in_order():
    assert list(BENCHMARKS) == [*NAMES, "Middlebury"]
    protocol = {name: (b.metric, b.cap, b.resize_method) for name, b in BENCHMARKS.items()}
    assert protocol == {
        "Kitti": ("bad_pixel_percent", 80, "lower_bound"),
        "Sintel": ("abs_rel", 72, "upper_bound"),
        "TUM": ("bad_pixel_percent", 10, "upper_bound"),
        "Middlebury": ("abs_rel", 10, "upper_bound"),
    }
    assert all(name == benchmark.name for name, benchmark in BENCHMARKS.items())


@pytest.mark.parametrize(
    ("name", "size", "shape", "expected"),
    [
        # By hand: 384 is the short side under a lower bound, the long one under an upper bound.
        ("Kitti", 384, (375, 1242), (384, 1280)),  # 1271.8 / 32 = 39.7
        ("Kitti", 128, (375, 1242), (128, 416)),  # 423.9 / 32 = 13.2
        ("Sintel", 384, (436, 1024), (160, 384)),  # 163.5 / 32 = 5.1
        ("TUM", 384, (480, 640), (288, 384)),
        ("TUM", 128, (480, 640), (96, 128)),
    ],
)
def test_network_sizes(tmp_path, name, size, shape, expected):
    write_set(name, tmp_path)
    assert BENCHMARKS[name](tmp_path, size=size).resize.output_size(*shape) == expected


@pytest.mark.parametrize("name", NAMES)
def test_384_is_the_size_if_none_is_given(tmp_path, name):
    write_set(name, tmp_path)
    rule = BENCHMARKS[name](tmp_path).resize
    assert (rule.width, rule.height, rule.keep_aspect_ratio, rule.multiple_of) == (
        384,
        384,
        True,
        32,
    )


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_the_files_in_rgb_and_metres_sorted_by_id(tmp_path, name):
    write_set(name, tmp_path)
    benchmark = BENCHMARKS[name](str(tmp_path))
    samples = list(benchmark.samples())
    assert len(benchmark) == len(samples) == 4
    stems = [paths(name, "", frame)[0].stem for frame in range(2)]
    assert [sample.id for sample in samples] == [f"{g}/{stem}" for g in "ab" for stem in stems]
    for sample, seed in zip(samples, (10, 11, 0, 1), strict=True):
        metres = stored_depth(seed) / FACTOR.get(name, 256)
        assert (sample.image.dtype, sample.depth.dtype) == (np.uint8, np.float32)
        assert sample.mask.dtype == bool
        np.testing.assert_array_equal(sample.image, random_image(seed))
        np.testing.assert_allclose(sample.depth, metres, rtol=1e-6)
        np.testing.assert_array_equal(sample.mask, (metres > 0) & (metres < benchmark.cap))


@pytest.mark.parametrize(
    ("name", "values", "valid"),
    [
        ("Kitti", [0, 1, 80 * 256 - 1, 80 * 256, 65535], [0, 1, 1, 0, 0]),
        ("TUM", [0, 1, 10 * 5000 - 1, 10 * 5000, 65535], [0, 1, 1, 0, 0]),
        ("Sintel", [0, 1, 72 * 256 - 1, 72 * 256, 65535], [0, 1, 1, 0, 0]),
    ],
)
def test_valid_is_above_0_and_below_the_cap(tmp_path, name, values, valid):
    write_set(name, tmp_path, groups=("a",), frames=1)
    image, depth = paths(name, "a", 0)
    values = np.array([values], np.uint16)
    put(tmp_path / image, file_formats.png(np.zeros((1, 5, 3), np.uint8)))
    put(tmp_path / depth, depth_bytes(name, values))
    (sample,) = BENCHMARKS[name](tmp_path).samples()
    np.testing.assert_array_equal(sample.mask, [np.array(valid, bool)])


def test_sintel_depth_that_is_not_finite_is_not_valid(tmp_path):
    write_set("Sintel", tmp_path, groups=("a",), frames=1)
    values = np.array([[np.nan, np.inf, -np.inf, -1, 5]], np.float32)
    put(tmp_path / paths("Sintel", "a", 0)[0], file_formats.png(np.zeros((1, 5, 3), np.uint8)))
    put(tmp_path / paths("Sintel", "a", 0)[1], file_formats.dpt(values))
    (sample,) = Sintel(tmp_path).samples()
    np.testing.assert_array_equal(sample.mask, [[False, False, False, False, True]])


def test_sintel_uses_occluded_pixels_too(tmp_path):
    write_set("Sintel", tmp_path, groups=("a",), frames=1)
    occluded = np.full((HEIGHT, WIDTH), 255, np.uint8)
    put(tmp_path / "occlusions" / "a" / "frame_0000.png", file_formats.png(occluded))
    (sample,) = Sintel(tmp_path).samples()
    metres = stored_depth(0) / 256
    np.testing.assert_array_equal(sample.mask, (metres > 0) & (metres < 72))


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_read_one_at_a_time(tmp_path, name, monkeypatch):
    write_set(name, tmp_path)
    read = []
    original = image_io.read_image
    monkeypatch.setattr(image_io, "read_image", lambda path: read.append(path) or original(path))
    benchmark = BENCHMARKS[name](tmp_path)
    samples = benchmark.samples()
    assert inspect.isgenerator(samples)
    assert len(read) == 0
    next(samples)
    assert len(read) == 1
    assert len(list(benchmark.samples())) == 4, "a second pass starts again"


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_stops_only_the_iteration_that_comes_to_it(tmp_path, name):
    write_set(name, tmp_path)
    last = tmp_path / paths(name, "b", 1)[1]
    put(last, last.read_bytes()[:-5])
    samples = BENCHMARKS[name](tmp_path).samples()
    assert [next(samples).id[0] for _ in range(3)] == ["a", "a", "b"]
    with pytest.raises(UserError, match=last.name):
        next(samples)


# --- wrong data sets ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_folder_is_named(tmp_path, name):
    with pytest.raises(UserError, match=rf"nowhere: no such folder.*{name}"):
        BENCHMARKS[name](tmp_path / "nowhere")


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_images_says_which_layout_is_expected(tmp_path, name):
    (tmp_path / "final_left" / "scene").mkdir(parents=True)
    (tmp_path / "depth" / "scene").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{tmp_path.name}: no {name} images found, expected <?\w"):
        BENCHMARKS[name](tmp_path)


def test_sintel_names_the_missing_final_left(tmp_path):
    with pytest.raises(UserError, match=r"final_left: no such folder, expected final_left/<scene>"):
        Sintel(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_without_depth_is_named_before_anything_is_read(tmp_path, name):
    write_set(name, tmp_path)
    missing = tmp_path / paths(name, "a", 1)[1]
    missing.unlink()
    with pytest.raises(UserError, match=rf"{missing} is missing"):
        BENCHMARKS[name](tmp_path)


@pytest.mark.parametrize("part", ["image", "depth"])
def test_a_drive_without_one_of_its_folders_is_named(tmp_path, part):
    write_set("Kitti", tmp_path)
    (tmp_path / "a" / part).rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"a/{part}: no such folder, expected the partners of"):
        Kitti(tmp_path)


def test_folders_that_are_no_drives_or_sequences_are_ignored(tmp_path):
    for name in ("Kitti", "TUM"):
        root = tmp_path / name
        write_set(name, root)
        (root / "notes").mkdir()
        put(root / "readme.txt", b"")
        put(root / ".cache" / "image" / "a.png", b"")
        assert len(BENCHMARKS[name](root)) == 4


@pytest.mark.parametrize("name", NAMES)
def test_an_image_and_a_depth_of_different_sizes_are_both_named(tmp_path, name):
    write_set(name, tmp_path)
    image, depth = (tmp_path / path for path in paths(name, "a", 0))
    put(depth, depth_bytes(name, stored_depth(0, (HEIGHT + 1, WIDTH))))
    with pytest.raises(UserError, match=rf"{image} is 9 x 6 but {depth} is 9 x 7"):
        next(BENCHMARKS[name](tmp_path).samples())


@pytest.mark.parametrize("name", ["Kitti", "TUM"])
def test_8_bit_depth_is_refused(tmp_path, name):
    write_set(name, tmp_path)
    depth = put(
        tmp_path / paths(name, "a", 0)[1],
        file_formats.png(np.ones((HEIGHT, WIDTH), np.uint8)),
    )
    with pytest.raises(UserError, match=rf"{depth}: expected a 16-bit grey PNG, found 8-bit grey"):
        next(BENCHMARKS[name](tmp_path).samples())


def test_a_wrong_tag_in_sintel_depth_is_refused(tmp_path):
    write_set("Sintel", tmp_path)
    depth = tmp_path / paths("Sintel", "a", 0)[1]
    put(depth, b"JUNK" + depth.read_bytes()[4:])
    with pytest.raises(UserError, match=rf"{depth}: starts with tag"):
        next(Sintel(tmp_path).samples())


# --- associate.txt -----------------------------------------------------------------------------


def sequence(tmp_path: Path, text: str | bytes) -> Path:
    for file in ("rgb/1.5.png", "depth/1.6.png", "rgb/2.5.png", "depth/2.6.png"):
        put(tmp_path / file, b"x")
    data = text if isinstance(text, bytes) else text.encode()
    return put(tmp_path / "associate.txt", data)


def test_both_forms_of_lines_are_read(tmp_path):
    text = (
        "# rgb depth\n\n   \nrgb/1.5.png depth/1.6.png\r\n"
        "  # more\n1311870426.50\trgb/2.5.png 1311870426.52   depth/2.6.png"
    )
    assert read_associations(sequence(tmp_path, text)) == [
        (tmp_path / "rgb/1.5.png", tmp_path / "depth/1.6.png"),
        (tmp_path / "rgb/2.5.png", tmp_path / "depth/2.6.png"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "rgb/1.5.png",
        "1.5 rgb/1.5.png depth/1.6.png",
        "rgb/1.5.png depth/1.6.png rgb/2.5.png depth/2.6.png",
        "1.5 rgb/1.5.png 1.6 depth/1.6.png more",
    ],
)
def test_an_odd_line_is_named_with_its_number(tmp_path, line):
    path = sequence(tmp_path, f"# head\nrgb/1.5.png depth/1.6.png\n{line}\n")
    with pytest.raises(UserError, match=rf"{path}, line 3: expected 'rgb depth'"):
        read_associations(path)


def test_a_file_that_a_line_names_must_exist(tmp_path):
    path = sequence(tmp_path, "rgb/1.5.png depth/9.9.png\n")
    with pytest.raises(UserError, match=rf"{path}, line 1: .*depth/9\.9\.png is missing"):
        read_associations(path)


def test_an_associate_file_that_is_no_text_is_named(tmp_path):
    with pytest.raises(UserError, match=r"associate\.txt: cannot be read as text"):
        read_associations(sequence(tmp_path, b"\xff\xfe\x00rgb"))


def test_a_sequence_without_associate_file_says_what_it_holds(tmp_path):
    write_set("TUM", tmp_path)
    (tmp_path / "a" / "associate.txt").unlink()
    with pytest.raises(UserError, match=r"a/associate\.txt: no such file.*rgb/FILE.png depth/FILE"):
        Tum(tmp_path)


def test_the_root_may_be_one_sequence(tmp_path):
    write_set("TUM", tmp_path, groups=("rgbd_dataset_freiburg2_desk_with_person",))
    root = tmp_path / "rgbd_dataset_freiburg2_desk_with_person"
    assert [s.id for s in Tum(root).samples()] == [s.id for s in Tum(tmp_path).samples()]


def test_a_sequence_is_sorted_whatever_the_order_of_its_lines(tmp_path):
    sequence(tmp_path, "rgb/2.5.png depth/2.6.png\nrgb/1.5.png depth/1.6.png\n")
    for frame in ("1", "2"):
        put(tmp_path / f"rgb/{frame}.5.png", file_formats.png(random_image(int(frame))))
        put(tmp_path / f"depth/{frame}.6.png", file_formats.png(stored_depth(int(frame))))
    stems = [sample.id.split("/")[1] for sample in Tum(tmp_path).samples()]
    assert stems == ["1.5", "2.5"]


def test_an_associate_file_without_pairs_is_an_error(tmp_path):
    sequence(tmp_path, "# nothing\n")
    with pytest.raises(UserError, match="no TUM images found"):
        Tum(tmp_path)
