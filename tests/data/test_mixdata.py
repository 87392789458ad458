"""Pairs from mixdata.json: both forms, the rule of pairs, what is refused, held-out shares."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from src.data.mixdata import DataSource, Pair, find_pairs, hold_out
from src.errors import UserError

MIXDATA = {"img": {"RW": "/ReDWeb_V1/Imgs/*"}, "depth": {"RW": "/ReDWeb_V1/RDs/*"}}
REDWEB = DataSource("RW")


def put(path: Path, data: bytes = b"not read here") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_mix(root: Path, content: object) -> Path:
    return put(root / "mixdata.json", json.dumps(content).encode())


def write_set(root: Path, count: int) -> list[Pair]:
    """A ReDWeb-shaped set and its mixdata.json; pairs are found without opening the files."""
    write_mix(root, MIXDATA)
    return [
        Pair(
            put(root / "ReDWeb_V1/Imgs" / f"{i:03d}.jpg"),
            put(root / "ReDWeb_V1/RDs" / f"{i:03d}.png"),
            REDWEB,
        )
        for i in range(count)
    ]


def found_in(root: Path, **entry: object) -> list[tuple[str, str]]:
    """(image, target) of a mix of one entry, relative to the root."""
    write_mix(root, {"A": entry})
    return [
        (str(pair.image.relative_to(root)), str(pair.target.relative_to(root)))
        for pair in find_pairs(str(root), "mixdata.json")
    ]


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        find_pairs(str(root), "mixdata.json")
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- The original's form ------------------------------------------------------------------------


def test_pairs_are_found_by_stem_under_the_root(tmp_path):
    pairs = write_set(tmp_path, 3)
    put(tmp_path / "ReDWeb_V1/Imgs/Thumbs.db", b"")  # not an image: no partner expected
    assert find_pairs(str(tmp_path), "mixdata.json") == pairs
    assert find_pairs(str(tmp_path), "/mixdata.json") == pairs


def test_datasets_follow_each_other_in_the_order_of_the_file(tmp_path):
    for name in ("b", "a"):
        put(tmp_path / name / "rgb/0.JPG")
        put(tmp_path / name / "rd/0.png")
    mix = {"img": {"B": "b/rgb/*", "A": "/a/rgb/*"}, "depth": {"A": "a/rd/*", "B": "b/rd/*"}}
    write_mix(tmp_path, mix)
    pairs = find_pairs(str(tmp_path), "mixdata.json")
    assert [pair.image for pair in pairs] == [tmp_path / "b/rgb/0.JPG", tmp_path / "a/rgb/0.JPG"]
    assert [pair.source for pair in pairs] == [DataSource("B"), DataSource("A")]


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
    write_mix(tmp_path, mix)
    twin = put(tmp_path / "ReDWeb_V1" / folder / "more/001.png")
    with pytest.raises(UserError, match="same name") as caught:
        find_pairs(str(tmp_path), "mixdata.json")
    assert str(twin) in str(caught.value)


@pytest.mark.parametrize("kind", ["img", "depth"])
def test_a_glob_that_matches_nothing_names_its_key_and_both_places(tmp_path, kind):
    write_set(tmp_path, 2)
    mix = json.loads((tmp_path / "mixdata.json").read_text())
    mix[kind]["RW"] = "/nowhere/*"
    path = write_mix(tmp_path, mix)
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
        b'{"A": "Imgs/*"}',
        b'{"A": {"image": "a/*"}}',
        b'{"A": {"depth": "a/*"}}',
        b"[" * 100_000,
    ],
)
def test_a_malformed_mixdata_is_named(tmp_path, content):
    path = put(tmp_path / "mixdata.json", content)
    assert refusal(tmp_path).startswith(f"{path}: ")


def test_a_dataset_beside_the_original_form_is_not_left_out(tmp_path):
    write_set(tmp_path, 1)
    path = write_mix(tmp_path, MIXDATA | {"B": {"image": "b/*", "depth": "c/*"}})
    assert refusal(tmp_path).startswith(f"{path}: B stands beside img or depth; expected")


def test_a_repeated_dataset_is_not_left_out(tmp_path):
    """JSON itself would keep the second."""
    put(tmp_path / "a/0.jpg"), put(tmp_path / "a/0.png")
    entry = '"A": {"image": "a/*.jpg", "depth": "a/*.png"}'
    path = put(tmp_path / "mixdata.json", f"{{{entry}, {entry}}}".encode())
    assert refusal(tmp_path) == f"{path}: not valid JSON: A occurs twice"


# --- An entry for each dataset ------------------------------------------------------------------


def test_entries_say_what_their_values_mean(tmp_path):
    put(tmp_path / "mega/1.jpg"), put(tmp_path / "mega/1.h5")
    put(tmp_path / "rooms/2.png"), put(tmp_path / "rooms_depth/2.png")
    put(tmp_path / "plain/3.png"), put(tmp_path / "plain/3.PFM")
    mega = {"image": "mega/*.jpg", "depth": "mega/*.h5", "kind": "depth", "key": "/depth"}
    rooms = {"image": "rooms/*", "depth": "rooms_depth/*", "scale": 0.001, "invalid": 65535}
    plain = {"image": "/plain/*.png", "depth": "plain/*.PFM", "invalid": None, "scale": 2}
    write_mix(tmp_path, {"MD": mega, "R": rooms, "P": plain})
    assert find_pairs(str(tmp_path), "mixdata.json") == [
        Pair(
            tmp_path / "mega/1.jpg",
            tmp_path / "mega/1.h5",
            DataSource("MD", "depth", 1.0, "/depth", None),
        ),
        Pair(
            tmp_path / "rooms/2.png",
            tmp_path / "rooms_depth/2.png",
            DataSource("R", "disparity", 0.001, "", 65535.0),
        ),
        Pair(tmp_path / "plain/3.png", tmp_path / "plain/3.PFM", DataSource("P", scale=2.0)),
    ]


@pytest.mark.parametrize(
    "suffix", [".png", ".pfm", ".npy", ".h5", ".hdf5", ".exr", ".tif", ".TIFF"]
)
def test_targets_of_every_format_are_found_and_others_left_alone(tmp_path, suffix):
    put(tmp_path / "rgb/0.jpg"), put(tmp_path / f"d/0{suffix}")
    put(tmp_path / "d/0.txt"), put(tmp_path / "d/1.npz"), put(tmp_path / "rgb/readme.md")
    pairs = found_in(tmp_path, image="rgb/*", depth="d/*", key="/depth")
    assert pairs == [("rgb/0.jpg", f"d/0{suffix}")]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("kind", "inverse", '"disparity"'),
        ("kind", 1, '"disparity"'),
        ("kind", None, '"disparity"'),
        ("kind", ["depth"], '"disparity"'),
        ("scale", 0, "above 0"),
        ("scale", -0.001, "above 0"),
        ("scale", 1e-60, "above 0"),  # 0 as float32
        ("scale", float("nan"), "finite number"),
        ("scale", float("inf"), "finite number"),
        ("scale", 1e39, "finite number"),
        ("scale", 10**400, "finite number"),
        ("scale", True, "finite number"),
        ("scale", "0.001", "finite number"),
        ("scale", None, "finite number"),
        ("invalid", "0", "finite number"),
        ("invalid", False, "finite number"),
        ("invalid", float("nan"), "finite number"),
        ("invalid", [0], "finite number"),
        ("weight", -0.5, "at least 0"),
        ("weight", float("nan"), "finite number"),
        ("weight", float("inf"), "finite number"),
        ("weight", True, "finite number"),
        ("weight", "1", "finite number"),
        ("weight", None, "finite number"),
        ("key", 3, "HDF5"),
        ("key", None, "HDF5"),
        ("image", 3, "glob"),
        ("image", "", "glob"),
        ("depth", ["d/*"], "glob"),
        ("mask", None, "glob"),
        ("mask", "", "glob"),
    ],
)
def test_a_wrong_value_names_the_entry_the_key_and_what_is_allowed(tmp_path, key, value, expected):
    entry = {"image": "rgb/*", "depth": "d/*", key: value}
    path = write_mix(tmp_path, {"A": entry})
    message = refusal(tmp_path)
    assert message.startswith(f"{path}: A.{key}: got {value!r}, expected")
    assert expected in message


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("images", "did you mean image?"),
        ("depht", "did you mean depth?"),
        ("Scale", "did you mean scale?"),
        ("zzz", "known are image, depth, mask, kind, scale, key, invalid, weight"),
    ],
)
def test_an_unknown_key_gets_the_nearest_known_one(tmp_path, key, hint):
    path = write_mix(tmp_path, {"A": {"image": "rgb/*", "depth": "d/*", key: "depth"}})
    assert refusal(tmp_path) == f"{path}: A.{key}: no such key; {hint}"


def test_hdf5_targets_need_a_key(tmp_path):
    put(tmp_path / "a/1.jpg"), put(tmp_path / "a/1.h5")
    path = write_mix(tmp_path, {"A": {"image": "a/*.jpg", "depth": "a/*.h5"}})
    message = refusal(tmp_path)
    assert message.startswith(f"{path}: A.key: missing")
    assert str(tmp_path / "a/1.h5") in message


@pytest.mark.parametrize(("side", "suffixes"), [("image", ".jpg"), ("depth", ".exr")])
def test_a_glob_of_an_entry_that_matches_nothing_is_named(tmp_path, side, suffixes):
    put(tmp_path / "rgb/0.jpg"), put(tmp_path / "d/0.png"), put(tmp_path / "nowhere/0.txt")
    path = write_mix(tmp_path, {"A": {"image": "rgb/*", "depth": "d/*"} | {side: "nowhere/*"}})
    message = refusal(tmp_path)
    assert message.startswith(f"{path}: A.{side}: no ")
    assert suffixes in message
    assert str(tmp_path / "nowhere/*") in message


def test_weights_are_read_and_are_1_by_default(tmp_path):
    for name in "abc":
        put(tmp_path / name / "0.jpg"), put(tmp_path / name / "0.png")
    entry = {name: {"image": f"{name}/*.jpg", "depth": f"{name}/*.png"} for name in "abc"}
    entry["b"]["weight"], entry["c"]["weight"] = 0, 2.5
    write_mix(tmp_path, entry)
    weights = [pair.source.weight for pair in find_pairs(str(tmp_path), "mixdata.json")]
    assert weights == [1.0, 0.0, 2.5]


@pytest.mark.parametrize("count", [1, 3])
def test_weights_that_are_all_0_are_refused(tmp_path, count):
    entry = {"image": "a/*.jpg", "depth": "a/*.png", "weight": 0}
    path = write_mix(tmp_path, {str(i): entry for i in range(count)})
    expected = "weight: is 0 in every dataset; give at least one a weight above 0"
    assert refusal(tmp_path) == f"{path}: {expected}"


NAMES = "at most 60 letters, digits, spaces and _ . , + ( ) -, with a letter or digit first"


@pytest.mark.parametrize("form", ["entries", "img and depth"])
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("$a$", "'$a$'"),  # would be a formula in a plot
        ("a$", "'a$'"),
        ("a\n", r"'a\n'"),
        ("a\nb", r"'a\nb'"),
        ("a\tb", r"'a\tb'"),
        ("_a", "'_a'"),  # would not be in a legend
        (" a", "' a'"),
        ("-a", "'-a'"),
        ("", "''"),
        ("a/b", "'a/b'"),
        ('a"b', "'a\"b'"),
        ("a=b", "'a=b'"),
        ("a\u2028b", r"'a\u2028b'"),
        ("x" * 61, f"'{'x' * 61}'"),
    ],
)
def test_a_name_that_would_spoil_tables_or_plots_is_refused(tmp_path, form, name, shown):
    both = {"img": {name: "a/*"}, "depth": {name: "d/*"}}
    entries = {name: {"image": "a/*", "depth": "d/*"}}
    path = write_mix(tmp_path, both if form == "img and depth" else entries)
    assert refusal(tmp_path) == f"{path}: {shown} names a dataset; expected {NAMES}"


@pytest.mark.parametrize("form", ["entries", "img and depth"])
@pytest.mark.parametrize(
    "name", ["RW", "3D Movies", "a_b.c,d+(e)-f", "Größe 2", "深度", "x" * 60, "DIML-indoor", "0"]
)
def test_names_have_letters_of_any_language_digits_and_some_signs(tmp_path, form, name):
    put_all(tmp_path, "a/0.jpg", "a/0.png")
    both = {"img": {name: "a/*.jpg"}, "depth": {name: "a/*.png"}}
    entries = {name: {"image": "a/*.jpg", "depth": "a/*.png"}}
    write_mix(tmp_path, both if form == "img and depth" else entries)
    assert [pair.source.name for pair in find_pairs(str(tmp_path), "mixdata.json")] == [name]


# --- Masks --------------------------------------------------------------------------------------

MASKED = {"image": "*/i/*.jpg", "depth": "*/d/*.png", "mask": "*/m/*.png"}


def test_masks_are_paired_with_their_images_by_the_rule_of_targets(tmp_path):
    scenes = [f"{scene}/{part}" for scene in "ab" for part in ("i/0.jpg", "d/0.png", "m/0.png")]
    put_all(tmp_path, *scenes, "c/i/1_x.jpg", "c/d/1_x.png", "c/m/1_x.png", "c/m/readme.txt")
    write_mix(tmp_path, {"A": MASKED, "B": {key: MASKED[key] for key in ("image", "depth")}})
    pairs = find_pairs(str(tmp_path), "mixdata.json")
    assert [pair.mask for pair in pairs[:3]] == [
        tmp_path / "a/m/0.png",
        tmp_path / "b/m/0.png",
        tmp_path / "c/m/1_x.png",
    ]
    assert [pair.target.parent.parent for pair in pairs[:3]] == [tmp_path / s for s in "abc"]
    assert [pair.mask for pair in pairs[3:]] == [None] * 3


@pytest.mark.parametrize(
    ("lost", "blamed", "missing", "counts"),
    [
        ("b/m/0.png", "b/i/0.jpg", "mask", "2 images and 1 masks"),
        ("b/i/0.jpg", "b/d/0.png", "image", "1 images and 2 targets"),
    ],
)
def test_an_image_without_mask_is_named(tmp_path, lost, blamed, missing, counts):
    put_all(tmp_path, *(f"{s}/{part}" for s in "ab" for part in ("i/0.jpg", "d/0.png", "m/0.png")))
    (tmp_path / lost).unlink()
    write_mix(tmp_path, {"A": MASKED})
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path / blamed}: has no {missing}; ")
    assert message.endswith(f"; found {counts}")


def test_a_glob_of_masks_that_matches_nothing_is_named(tmp_path):
    put_all(tmp_path, "a/i/0.jpg", "a/d/0.png", "a/m/0.jpg")
    path = write_mix(tmp_path, {"A": MASKED})
    assert refusal(tmp_path).startswith(f"{path}: A.mask: no .png file matches ")


# --- Which image belongs to which target --------------------------------------------------------


def put_all(root: Path, *names: str) -> None:
    for name in names:
        put(root / name)


def test_folders_per_scene_are_matched_by_the_wildcards(tmp_path):
    scenes = ("a", "b", "deep/c")
    for scene in scenes:
        put_all(tmp_path, *(f"{scene}/{part}/{i}.png" for part in ("image", "depth") for i in "01"))
    pairs = found_in(tmp_path, image="**/image/*.png", depth="**/depth/*.png")
    assert sorted(pairs) == [
        (f"{scene}/image/{i}.png", f"{scene}/depth/{i}.png") for scene in scenes for i in "01"
    ]


@pytest.mark.parametrize(
    ("image", "depth", "pairs"),
    [
        # TartanAir: the names differ too, by what the globs fix.
        (
            "*/*/image_left/*_left.png",
            "*/*/depth_left/*_left_depth.npy",
            [
                (f"x/{p}/image_left/{i}_left.png", f"x/{p}/depth_left/{i}_left_depth.npy")
                for p in ("P0", "P1")
                for i in ("00", "01")
            ],
        ),
        # MegaDepth: images of several suffixes, names that come again in other scenes.
        (
            "MD/**/imgs/*",
            "MD/**/depths/*",
            [
                ("MD/0000/dense0/imgs/1_o.jpg", "MD/0000/dense0/depths/1_o.h5"),
                ("MD/0001/dense0/imgs/1_o.JPG", "MD/0001/dense0/depths/1_o.h5"),
                ("MD/0001/dense1/imgs/1_o.png", "MD/0001/dense1/depths/1_o.h5"),
            ],
        ),
        # No stem is shared, though each is unique.
        (
            "photos/IMG_*.jpg",
            "photos/DEPTH_*.png",
            [(f"photos/IMG_{i}.jpg", f"photos/DEPTH_{i}.png") for i in "789"],
        ),
        # Wildcards at different depths stand for the same folders.
        (
            "rgb/*/*/*.jpg",
            "**/*.pfm",
            [(f"rgb/a/{s}/1.jpg", f"a/{s}/1.pfm") for s in "xy"],
        ),
        # Files in the folder itself and below it; a dot in the stem; several suffixes.
        (
            "Imgs/**",
            "RDs/**",
            [("Imgs/1.0.jpg", "RDs/1.0.png"), ("Imgs/s/1.0.jpeg", "RDs/s/1.0.npy")],
        ),
        ("*/c/*.jp*g", "*/d/*", [(f"{s}/c/1.jpg", f"{s}/d/1.png") for s in "ab"]),
        ("?/c/*", "[ab]/d/*png", [(f"{s}/c/1.jpg", f"{s}/d/1.png") for s in "ab"]),
        ("cam[0-9]/*_*.jpg", "d[!x]/*_*.png", [(f"cam{s}/1_2.jpg", f"d{s}/1_2.png") for s in "12"]),
    ],
)
def test_wildcards_decide_where_stems_do_not(tmp_path, image, depth, pairs):
    put_all(tmp_path, *(name for pair in pairs for name in pair))
    assert found_in(tmp_path, image=image, depth=depth, key="/depth") == pairs


def test_the_suffix_and_the_root_have_no_part_in_the_match(tmp_path):
    root = tmp_path / "data [1]*? [!]"
    for scene in "ab":
        put_all(root, f"{scene}/rgb/1.png"), put_all(tmp_path, f"else[!]where/{scene}/1.pfm")
    write_mix(root, {"A": {"image": "*/rgb/*.png", "depth": f"{tmp_path}/else[!]where/*/*.pfm"}})
    targets = [pair.target for pair in find_pairs(str(root), "mixdata.json")]
    assert targets == [tmp_path / "else[!]where/a/1.pfm", tmp_path / "else[!]where/b/1.pfm"]


def test_unique_stems_need_no_equal_folders(tmp_path):
    put_all(tmp_path, "rgb/day1/1.jpg", "rgb/day2/2.jpg", "all/1.png", "all/2.png")
    pairs = found_in(tmp_path, image="rgb/**/*.jpg", depth="all/*.png")
    assert pairs == [("rgb/day1/1.jpg", "all/1.png"), ("rgb/day2/2.jpg", "all/2.png")]


@pytest.mark.parametrize(
    ("files", "blamed", "missing"),
    [
        # A twin without partner is not given the other scene's target.
        (["a/i/1.png", "b/i/1.png", "a/d/1.png"], "b/i/1.png", "target"),
        (["a/i/1.png", "a/d/1.png", "b/d/1.png"], "b/d/1.png", "image"),
        (["a/i/1.png", "b/i/1.png", "a/d/1.png", "c/d/1.png"], "b/i/1.png", "target"),
    ],
)
def test_a_scene_without_partner_is_named_and_what_was_looked_for(tmp_path, files, blamed, missing):
    put_all(tmp_path, *files)
    write_mix(tmp_path, {"A": {"image": "*/i/*.png", "depth": "*/d/*.png"}})
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path / blamed}: has no {missing}; ")
    assert "has the same name as" in message
    assert "wildcards" in message
    assert repr(f"{blamed[0]}/1") in message


@pytest.mark.parametrize(
    ("image", "depth", "files"),
    [
        ("s*/c*/*.jpg", "s*/c*/*.png", ["s1/c/7.jpg", "s/c1/7.png"]),
        ("**/b/**/*.jpg", "**/d/**/*.png", ["b/x/7.jpg", "x/d/7.png"]),
    ],
)
def test_wildcards_that_stand_for_nothing_are_not_left_out(tmp_path, image, depth, files):
    """Both would be x/7 or 1/7 then, a wrong pair; the other pairs only make the stems repeat."""
    good = [f"{p}{i}/c9/7.{e}" for i in (8, 9) for p, e in (("s", "jpg"), ("s", "png"))]
    good += [f"{i}/{p}/9/7.{e}" for i in (8, 9) for p, e in (("b", "jpg"), ("d", "png"))]
    put_all(tmp_path, *good, *files)
    write_mix(tmp_path, {"A": {"image": image, "depth": depth}})
    assert refusal(tmp_path).startswith(f"{tmp_path / files[0]}: has no target; ")


def test_two_targets_for_one_image_are_refused(tmp_path):
    put_all(tmp_path, "i/1.jpg", "d/1.npy", "d/1.png")
    write_mix(tmp_path, {"A": {"image": "i/*", "depth": "d/*"}})
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path}/d/1.png: same name as {tmp_path}/d/1.npy")


def test_a_file_cannot_be_its_own_target(tmp_path):
    put_all(tmp_path, "s/1.png", "s/2.png")
    write_mix(tmp_path, {"A": {"image": "s/*", "depth": "s/*.png"}})
    assert refusal(tmp_path).startswith(f"{tmp_path}/s/1.png: is matched as image and as target")


def test_without_a_common_stem_or_wildcard_the_expected_file_is_named(tmp_path):
    put_all(tmp_path, "i/1.jpg", "d/x.png")
    write_mix(tmp_path, {"A": {"image": "i/*", "depth": "d/*"}})
    assert refusal(tmp_path) == f"{tmp_path}/i/1.jpg: has no target; expected {tmp_path}/d/1.png"


@pytest.mark.parametrize(
    ("files", "blamed", "counts"),
    [
        (["i/1.jpg", "i/2.jpg", "d/1.png"], "i/2.jpg", "2 images and 1 targets"),
        (["i/1.jpg", "d/1.png", "d/2.png", "d/3.png"], "d/2.png", "1 images and 3 targets"),
        (["i/1.jpg", "d/1.npy", "d/1.png"], "d/1.png", "1 images and 2 targets"),
    ],
)
def test_lists_of_different_length_are_counted(tmp_path, files, blamed, counts):
    put_all(tmp_path, *files)
    write_mix(tmp_path, {"A": {"image": "i/*", "depth": "d/*"}})
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path / blamed}: ")
    assert message.endswith(f"; found {counts}")


# --- Held-out images ----------------------------------------------------------------------------


def pairs_of(**counts: int) -> list[Pair]:
    return [
        Pair(Path(f"{name}/{i}.jpg"), Path(f"{name}/{i}.png"), DataSource(name))
        for name, count in counts.items()
        for i in range(count)
    ]


def test_a_share_of_every_dataset_is_held_out():
    pairs = pairs_of(a=100, b=7, c=2)
    training, held = hold_out(pairs, 0.1, seed=3)
    assert Counter(pair.source.name for pair in held) == {"a": 10, "b": 1, "c": 1}
    assert sorted(training + held, key=pairs.index) == pairs  # nothing lost, nothing twice
    assert training == sorted(training, key=pairs.index)
    assert held == sorted(held, key=pairs.index)
    assert held[:10] != pairs[:10]


def test_what_is_held_out_depends_on_the_seed_and_its_own_dataset_alone():
    held = hold_out(pairs_of(a=100, b=50), 0.2, seed=1)[1]
    assert hold_out(pairs_of(a=100, b=50), 0.2, seed=1)[1] == held
    assert hold_out(pairs_of(a=100, b=50), 0.2, seed=2)[1] != held
    with_another = hold_out(pairs_of(c=30, b=50, a=100), 0.2, seed=1)[1]
    assert [p for p in with_another if p.source.name == "a"] == held[:20]
    assert [p for p in with_another if p.source.name == "b"] == held[20:]
    # Datasets of one size do not hold out the same numbers.
    one = {p.image.stem for p in hold_out(pairs_of(a=50, b=50), 0.2, seed=1)[1][:10]}
    assert one != {p.image.stem for p in hold_out(pairs_of(a=50, b=50), 0.2, seed=1)[1][10:]}


def test_no_share_holds_nothing_out():
    pairs = pairs_of(a=5, b=1)
    assert hold_out(pairs, 0.0, seed=0) == (pairs, [])


@pytest.mark.parametrize(("share", "count"), [(0.1, 1), (0.9, 3), (0.99, 20)])
def test_a_dataset_with_nothing_left_to_train_on_is_named(share, count):
    with pytest.raises(UserError, match=rf"val_share: {share}.* of small .* {count};"):
        hold_out(pairs_of(large=1000, small=count), share, seed=0)


def test_files_of_two_scenes_are_no_pair_though_their_names_come_once(tmp_path):
    """Scene a has lost its depth map 0, scene b its image 0: left without partners, not paired."""
    for name in ("a/image/0.png", "b/depth/0.png", "a/image/1.png", "a/depth/1.png"):
        put(tmp_path / name)
    write_mix(tmp_path, {"A": {"image": "*/image/*.png", "depth": "*/depth/*.png"}})
    assert "a/image/0.png: has no target" in refusal(tmp_path)
