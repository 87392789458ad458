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
from tests.benchmark_sets import (
    CAPS,
    FILE_SETS,
    UNITS,
    depth_bytes,
    metres,
    paths,
    put,
    random_image,
    stored_depth,
    write_files,
)

NAMES = list(FILE_SETS)
SHAPE = HEIGHT, WIDTH = 6, 9


def write_set(name: str, root: Path, groups: tuple[str, ...] = ("b", "a"), frames: int = 2) -> None:
    """Frame `f` of group number `g` has the image and depth of seed 10 * g + f."""
    content = {
        group: [
            (random_image(seed, SHAPE), stored_depth(name, seed, SHAPE))
            for seed in range(10 * number, 10 * number + frames)
        ]
        for number, group in enumerate(groups)
    }
    write_files(name, root, content)


def test_the_benchmarks_are_those_of_the_protocol_in_order():
    protocol = {name: (b.metric, b.cap, b.resize_method) for name, b in BENCHMARKS.items()}
    assert list(protocol) == ["Kitti", "Sintel", "TUM", "ETH3D", "NYU", "DIW", "Middlebury"]
    assert protocol == {
        "Kitti": ("bad_pixel_percent", 80, "lower_bound"),
        "Sintel": ("abs_rel", 72, "upper_bound"),
        "TUM": ("bad_pixel_percent", 10, "upper_bound"),
        "ETH3D": ("abs_rel", 72, "upper_bound"),
        "NYU": ("bad_pixel_percent", 10, "upper_bound"),
        "DIW": ("whdr", None, "upper_bound"),
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
        ("ETH3D", 384, (4032, 6048), (256, 384)),
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
    assert benchmark.ids == [f"{group}/{stem}" for group in "ab" for stem in stems]
    assert [sample.id for sample in samples] == benchmark.ids
    for sample, seed in zip(samples, (10, 11, 0, 1), strict=True):
        depth = metres(name, stored_depth(name, seed, SHAPE))
        assert (sample.image.dtype, sample.depth.dtype) == (np.uint8, np.float32)
        assert sample.mask.dtype == bool
        np.testing.assert_array_equal(sample.image, random_image(seed, SHAPE))
        np.testing.assert_allclose(sample.depth[sample.mask], depth[sample.mask], rtol=1e-6)
        np.testing.assert_array_equal(sample.mask, (depth > 0) & (depth < CAPS[name]))


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_read_by_its_index(tmp_path, name):
    write_set(name, tmp_path)
    benchmark = BENCHMARKS[name](tmp_path)
    assert [benchmark.read(index).id for index in (2, 0)] == [benchmark.ids[2], benchmark.ids[0]]
    np.testing.assert_array_equal(benchmark.read(3).image, random_image(1, SHAPE))


@pytest.mark.parametrize("name", NAMES)
def test_images_stay_as_they_are_stored_whatever_their_orientation(tmp_path, name):
    """The depth map is that of the stored rows and columns. Orientation 6: turn it clockwise."""
    write_set(name, tmp_path, groups=("a",), frames=1)
    turned = file_formats.png_chunk(b"eXIf", file_formats.exif(6))
    image = random_image(5, SHAPE)
    put(tmp_path / paths(name, "a", 0)[0], file_formats.png(image, extra=(turned,)))
    np.testing.assert_array_equal(BENCHMARKS[name](tmp_path).read(0).image, image)


@pytest.mark.parametrize("name", NAMES)
def test_settings_say_what_the_errors_depend_on(tmp_path, name):
    write_set(name, tmp_path)
    settings = BENCHMARKS[name](tmp_path, 128).settings()
    method = "lower_bound" if name == "Kitti" else "upper_bound"
    expected = {"cap_m": float(CAPS[name]), "resize": f"{method} 128"}
    if name == "Sintel":
        expected["occluded_pixels"] = "included"
    assert settings == expected


def write_row(name: str, root: Path, stored: np.ndarray) -> None:
    """One image whose depth is one row."""
    image = np.zeros((1, stored.size, 3), np.uint8)
    write_files(name, root, {"a": [(image, stored[None, :])]})


@pytest.mark.parametrize("name", UNITS)
def test_valid_is_above_0_and_below_the_cap(tmp_path, name):
    cap = CAPS[name] * UNITS[name]
    write_row(name, tmp_path, np.array([0, 1, cap - 1, cap, cap + 1, 65535], np.uint16))
    sample = BENCHMARKS[name](tmp_path).read(0)
    assert sample.mask.tolist() == [[False, True, True, False, False, False]]


@pytest.mark.parametrize("name", ["Sintel", "ETH3D"])
def test_valid_is_finite_above_0_and_below_the_cap(tmp_path, name):
    below = np.nextafter(np.float32(72), np.float32(0))
    values = [0, 1e-3, below, 72, 72.5, np.inf, -np.inf, np.nan, -1]
    write_row(name, tmp_path, np.array(values, np.float32))
    sample = BENCHMARKS[name](tmp_path).read(0)
    assert sample.mask.tolist() == [[False, True, True, *[False] * 6]]


@pytest.mark.parametrize("name", NAMES)
def test_a_depth_map_without_a_valid_pixel_is_named(tmp_path, name):
    write_set(name, tmp_path)
    depth = tmp_path / paths(name, "b", 0)[1]
    beyond = CAPS[name] * UNITS.get(name, 1)
    put(depth, depth_bytes(name, np.full_like(stored_depth(name, 0, SHAPE), beyond)))
    benchmark = BENCHMARKS[name](tmp_path)
    with pytest.raises(UserError, match=rf"^{depth}: no pixel with a depth between 0 and"):
        benchmark.read(2)
    assert benchmark.read(3).mask.any()


# --- Sintel's occluded pixels --------------------------------------------------------------------


def write_occlusions(root: Path, values: np.ndarray, frame: int = 0) -> Path:
    return put(root / "occlusions" / "a" / f"frame_{frame:04d}.png", file_formats.png(values))


def occluded_half() -> np.ndarray:
    """255 on the left and 0 on the right, which is all that MPI Sintel has."""
    values = np.zeros(SHAPE, np.uint8)
    values[:, : WIDTH // 2] = 255
    return values


def test_sintel_uses_occluded_pixels_unless_told_otherwise(tmp_path):
    write_set("Sintel", tmp_path, groups=("a",), frames=1)
    write_occlusions(tmp_path, occluded_half())
    depth = metres("Sintel", stored_depth("Sintel", 0, SHAPE))
    valid = (depth > 0) & (depth < 72)
    np.testing.assert_array_equal(Sintel(tmp_path).read(0).mask, valid)
    without = Sintel(tmp_path, occluded=False)
    assert without.settings()["occluded_pixels"] == "excluded"
    sample = without.read(0)
    assert valid[:, : WIDTH // 2].any()
    valid[:, : WIDTH // 2] = False
    np.testing.assert_array_equal(sample.mask, valid)
    np.testing.assert_allclose(sample.depth[valid], depth[valid], rtol=1e-6)


def test_occlusions_are_needed_only_where_occluded_pixels_are_left_out(tmp_path):
    write_set("Sintel", tmp_path, groups=("a",), frames=5)
    write_occlusions(tmp_path, occluded_half(), frame=2)
    assert len(Sintel(tmp_path)) == 5
    with pytest.raises(UserError, match=r"occlusions/a/frame_0000\.png, .* and 1 more"):
        Sintel(tmp_path, occluded=False)


def test_occlusions_of_another_size_are_named(tmp_path):
    write_set("Sintel", tmp_path, groups=("a",), frames=1)
    file = write_occlusions(tmp_path, occluded_half().T)
    with pytest.raises(UserError, match=rf"frame_0000\.dpt is 9 x 6 but {file} is 6 x 9"):
        Sintel(tmp_path, occluded=False).read(0)


def test_a_frame_that_is_all_occluded_has_no_valid_pixel(tmp_path):
    write_set("Sintel", tmp_path, groups=("a",), frames=1)
    write_occlusions(tmp_path, np.full(SHAPE, 255, np.uint8))
    with pytest.raises(UserError, match=r"frame_0000\.dpt: no pixel with a depth"):
        Sintel(tmp_path, occluded=False).read(0)


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_read_one_at_a_time(tmp_path, name, monkeypatch):
    write_set(name, tmp_path)
    read = []
    original = image_io.read_image
    monkeypatch.setattr(
        image_io,
        "read_image",
        lambda path, **options: read.append(path) or original(path, **options),
    )
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
def test_a_truncated_image_is_named(tmp_path, name):
    write_set(name, tmp_path)
    image = tmp_path / paths(name, "b", 1)[0]
    put(image, image.read_bytes()[:-20])
    benchmark = BENCHMARKS[name](tmp_path)
    with pytest.raises(UserError, match=rf"^{image}: truncated or damaged"):
        benchmark.read(3)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_images_says_which_layout_is_expected(tmp_path, name):
    (tmp_path / "final_left" / "scene").mkdir(parents=True)
    (tmp_path / "depth" / "scene").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{tmp_path.name}: no {name} images found, expected <?\w"):
        BENCHMARKS[name](tmp_path)


def test_sintel_names_the_missing_final_left(tmp_path):
    write_set("Sintel", tmp_path)
    (tmp_path / "final_left").rename(tmp_path / "final")
    with pytest.raises(UserError, match=r"final_left: no such folder, expected final_left/<scene>"):
        Sintel(tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("part", [0, 1])
def test_the_first_three_missing_files_are_named_before_anything_is_read(tmp_path, name, part):
    write_set(name, tmp_path, groups=("a", "b"), frames=3)
    missing = [tmp_path / paths(name, g, int(f))[part] for g, f in ("a1", "a2", "b0", "b1", "b2")]
    for count, more in ((5, " and 2 more;"), (4, " and 1 more;"), (3, ";"), (1, ";")):
        for file in missing:
            put(file, b"x")
        for file in missing[:count]:
            file.unlink()
        named = ", ".join(map(str, missing[: min(count, 3)]))
        with pytest.raises(UserError, match=rf"^{tmp_path}: incomplete, missing: {named}{more}"):
            BENCHMARKS[name](tmp_path)


@pytest.mark.parametrize("name", ["Kitti", "ETH3D"])
@pytest.mark.parametrize("part", [0, 1])
def test_all_files_of_a_missing_folder_are_missing(tmp_path, name, part):
    write_set(name, tmp_path)
    missing = tmp_path / paths(name, "a", 0)[part]
    missing.parent.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=rf"missing: {missing}, {missing.parent}/\S*1\.\w+;"):
        BENCHMARKS[name](tmp_path)


def test_a_link_to_nothing_is_a_missing_file(tmp_path):
    write_set("Kitti", tmp_path)
    image = tmp_path / paths("Kitti", "a", 0)[0]
    image.unlink()
    image.symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match=rf"missing: {image};"):
        Kitti(tmp_path)


def test_links_to_files_are_files(tmp_path):
    write_set("Kitti", tmp_path / "original")
    for file in list((tmp_path / "original").rglob("*.png")):
        link = tmp_path / "linked" / file.relative_to(tmp_path / "original")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    np.testing.assert_array_equal(
        Kitti(tmp_path / "linked").read(0).image, Kitti(tmp_path / "original").read(0).image
    )


def test_folders_that_are_no_drives_or_sequences_are_ignored(tmp_path):
    for name in ("Kitti", "TUM", "ETH3D"):
        root = tmp_path / name
        write_set(name, root)
        (root / "notes").mkdir()
        put(root / "readme.txt", b"")
        put(root / ".cache" / "image" / "a.png", b"")
        put((root / paths(name, "a", 0)[0]).with_name("._1.png"), b"")
        put((root / paths(name, "a", 0)[0]).with_name("Thumbs.db"), b"")
        assert len(BENCHMARKS[name](root)) == 4


@pytest.mark.parametrize("name", NAMES)
def test_an_image_and_a_depth_of_different_sizes_are_both_named(tmp_path, name):
    write_set(name, tmp_path)
    image, depth = (tmp_path / path for path in paths(name, "a", 0))
    put(depth, depth_bytes(name, stored_depth(name, 0, (HEIGHT + 1, WIDTH))))
    message = (
        rf"{depth}: 9 x 6 values need 216 bytes, the file has 252"  # it has no header
        if name == "ETH3D"
        else rf"{image} is 9 x 6 but {depth} is 9 x 7"
    )
    with pytest.raises(UserError, match=message):
        next(BENCHMARKS[name](tmp_path).samples())


@pytest.mark.parametrize("name", UNITS)
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
    sequence(tmp_path, "rgb/1.5.png depth/9.9.png\n")
    with pytest.raises(UserError, match=rf"incomplete, missing: {tmp_path}/depth/9\.9\.png;"):
        Tum(tmp_path)


def test_an_image_that_is_named_twice_makes_two_samples(tmp_path):
    sequence(tmp_path, "rgb/1.5.png depth/1.6.png\nrgb/1.5.png depth/2.6.png\n")
    put(tmp_path / "rgb/1.5.png", file_formats.png(random_image(0, SHAPE)))
    for seed, frame in enumerate(("1", "2")):
        depth = file_formats.png(stored_depth("TUM", seed, SHAPE))
        put(tmp_path / f"depth/{frame}.6.png", depth)
    samples = list(Tum(tmp_path).samples())
    assert [sample.id for sample in samples] == [f"{tmp_path.name}/1.5", f"{tmp_path.name}/1.5#2"]
    assert (samples[0].depth != samples[1].depth).any()


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
        put(tmp_path / f"rgb/{frame}.5.png", file_formats.png(random_image(int(frame), SHAPE)))
        depth = stored_depth("TUM", int(frame), SHAPE)
        put(tmp_path / f"depth/{frame}.6.png", file_formats.png(depth))
    stems = [sample.id.split("/")[1] for sample in Tum(tmp_path).samples()]
    assert stems == ["1.5", "2.5"]


def test_an_associate_file_without_pairs_is_an_error(tmp_path):
    sequence(tmp_path, "# nothing\n")
    with pytest.raises(UserError, match="no TUM images found"):
        Tum(tmp_path)
