"""--check of a mixdata.json: numbers worked out by hand, the sheet, what fails and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.data import mix_check
from src.data.contact_sheet import Block, draw_sheet, tiles
from src.data.mixdata import DataSource, Pair
from src.errors import UserError
from tests import file_formats

REPOSITORY = Path(__file__).parents[2]
NAN = np.nan
DARK, BRIGHT, GREY = (0, 0, 4), (252, 255, 164), (128, 128, 128)
"""The ends of Matplotlib's 'inferno', from its published table, and what is unknown."""


def put_pairs(root: Path, name: str, maps: list[np.ndarray], colour: int = 0) -> dict[str, str]:
    """Photographs of one grey and these maps as .npy files; returns the globs of their entry."""
    for folder in ("rgb", "map"):
        (root / name / folder).mkdir(parents=True, exist_ok=True)
    for index, values in enumerate(maps):
        photo = file_formats.png(np.full((*np.shape(values), 3), colour, np.uint8))
        (root / name / f"rgb/{index}.png").write_bytes(photo)
        np.save(root / name / f"map/{index}.npy", np.array(values, np.float32))
    return {"image": f"{name}/rgb/*", "depth": f"{name}/map/*"}


def put_mix(root: Path, **entries: dict) -> Path:
    path = root / "mix.json"
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def check(monkeypatch, capsys, tmp_path):
    """Run the program with these arguments: (what it printed, its error or '')."""

    def run(*arguments: object) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["training", *map(str, arguments)])
        try:
            mix_check.main()
        except UserError as error:
            return capsys.readouterr().out, str(error)
        return capsys.readouterr().out, ""

    monkeypatch.setattr(mix_check, "DEFAULT_CONFIG", tmp_path / "repository/config.yaml")
    return run


def line(printed: str, name: str) -> str:
    """The text of the only line of this name."""
    (text,) = re.findall(rf"^  {name} +(.*)$", printed, re.MULTILINE)
    return text


UP = [[1, 1], [2, 2], [3, 3]]
"""Disparity that is closer at the bottom."""


# --- One pair -----------------------------------------------------------------------------------


def measure(root: Path, values: list, source: DataSource) -> mix_check.Sample:
    globs = put_pairs(root, "a", [values])
    assert globs["depth"] == "a/map/*"
    return mix_check.measure(Pair(root / "a/rgb/0.png", root / "a/map/0.npy", source))


def test_a_sample_by_hand(tmp_path):
    sample = measure(tmp_path, [[4, 0, 2], [1, 1, -1]], DataSource("a", "depth"))
    assert sample.size == (3, 2)
    assert sample.valid == pytest.approx(4 / 6)
    assert sorted(sample.values) == [1, 1, 2, 4]  # metres
    # Disparity 1/4, 1/2, 1, 1 becomes 0, 1/3, 1, 1: bins 0, 32/3 and the last.
    assert {i: share for i, share in enumerate(sample.histogram) if share} == {
        0: 0.25,
        10: 0.25,
        31: 0.5,
    }
    # Ranks 1, 2, 3.5, 3.5 against 1.5, 1.5, 3.5, 3.5.
    assert sample.slope == pytest.approx(4 / np.sqrt(18))


def test_the_other_kind_turns_the_correlation_round(tmp_path):
    values = np.random.default_rng(0).uniform(1, 9, (20, 30)) + np.arange(20)[:, None]
    as_disparity = measure(tmp_path, values, DataSource("a")).slope
    assert as_disparity > 0.5
    assert measure(tmp_path, values, DataSource("a", "depth")).slope == pytest.approx(-as_disparity)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "values",
    [[[5, 5], [5, 5]], [[NAN, NAN], [NAN, NAN]], [[1, 2], [NAN, NAN]], [[NAN, 3], [NAN, NAN]]],
)
def test_without_different_values_and_rows_there_is_no_correlation(tmp_path, values):
    sample = measure(tmp_path, values, DataSource("a"))
    assert np.isnan(sample.slope)
    assert sample.valid == np.isfinite(values).mean()


def test_a_large_map_is_described_by_evenly_spaced_pixels(tmp_path):
    """300 x 400 of a ramp: the percentiles are those of all its values, to a hundredth."""
    values = np.tile(np.linspace(0, 10, 400), (300, 1))
    sample = measure(tmp_path, values, DataSource("a"))
    assert len(sample.values) <= 10_000
    assert np.percentile(sample.values, [1, 50, 99]) == pytest.approx([0.1, 5, 9.9], abs=0.1)
    assert sample.histogram == pytest.approx(np.full(32, 1 / 32), abs=0.005)


# --- What is printed ----------------------------------------------------------------------------


def test_the_facts_of_a_dataset_by_hand(tmp_path, check):
    """Of kind depth: 2 x 2 twice, one of them without valid pixels, and 4 x 1."""
    maps = [[[8, 4], [2, 1]], [[0, -1], [-1, 0]], [[1], [0], [2], [65.535]]]
    entry = put_pairs(tmp_path, "rooms", maps)
    entry |= {"kind": "depth", "scale": 1, "invalid": 65.535, "weight": 0.5}
    printed, error = check("--check", put_mix(tmp_path, rooms=entry))
    assert error == ""
    first, *lines = printed.splitlines()
    assert first == "rooms: 3 images, weight 0.5"
    # Metres 1, 1, 2, 2, 4, 8. Unit disparity: 0, 1/7, 3/7, 1 in the first, 0, 1 in the third.
    shares = {0: (1 / 4 + 1 / 2) / 2, 4: 1 / 8, 13: 1 / 8, 31: (1 / 4 + 1 / 2) / 2}
    bars = "".join({0: " ", 0.375: "█", 0.125: "▃"}[shares.get(i, 0)] for i in range(32))
    assert lines[:7] == [
        "  targets    kind depth (larger is farther), scale 1; "
        "unknown: 0, negative, NaN, infinity, 65.535",
        "  samples    3 read, 0 unreadable",
        "  sizes      2x2 to 2x2, most often 2x2 (2 of 3)",
        "  valid      50.0 % of the pixels, in the emptiest target 0.0 %; 1 of 3 targets have none",
        "  values     1 m, 1.25 m, 2 m, 3.5 m, 7.8 m (percentiles 1, 25, 50, 75, 99)",
        f"  disparity  far 0 |{bars}| 1 close; the highest bar is 38 % of the pixels",
        # +2 / sqrt(5) in the first, -1 in the third.
        "  rows       closer at the bottom in 1 of 2 samples; mean rank correlation of disparity "
        "and row -0.05",
    ]
    assert lines[7:-1] == [""]  # one of two is not most: no hint
    assert lines[-1].startswith("picture    ")


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({}, "kind disparity (larger is closer), scale 1; unknown: NaN, infinity"),
        ({"invalid": 0, "scale": 0.5}, "scale 0.5; unknown: NaN, infinity, 0"),
        ({"mask": "m/*.png"}, "unknown: NaN, infinity, where the mask is 0"),
    ],
)
def test_what_values_mean_is_told(tmp_path, check, entry, text):
    globs = put_pairs(tmp_path, "a", [UP])
    (tmp_path / "m").mkdir()
    (tmp_path / "m/0.png").write_bytes(file_formats.png(np.ones((3, 2), np.uint8)))
    printed, _ = check("--check", put_mix(tmp_path, a=globs | entry))
    assert line(printed, "targets").endswith(text)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ([(3, 4), (3, 4)], "all 4x3"),
        ([(3, 4), (9, 2), (3, 4), (2, 3)], "3x2 to 2x9, most often 4x3 (2 of 4)"),
    ],
)
def test_sizes_are_told_from_the_smallest_to_the_largest(tmp_path, check, sizes, text):
    maps = [np.arange(h * w).reshape(h, w) for h, w in sizes]
    printed, _ = check("--check", put_mix(tmp_path, a=put_pairs(tmp_path, "a", maps)))
    assert line(printed, "sizes") == text


@pytest.mark.parametrize(("down", "hint"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_hint_if_most_samples_are_farther_at_the_bottom(tmp_path, check, down, hint):
    maps = [UP[::-1]] * down + [UP] * (4 - down)
    printed, error = check("--check", put_mix(tmp_path, a=put_pairs(tmp_path, "a", maps)))
    assert error == ""  # a hint only
    assert line(printed, "rows").startswith(f"closer at the bottom in {4 - down} of 4 samples")
    assert ("  HINT " in printed) == hint
    if hint:
        text = line(printed, "HINT")
        assert text.startswith(f"in {down} of 4 samples the bottom is farther than the top")
        assert text.endswith("check kind, now disparity")


def test_samples_are_evenly_spaced(tmp_path, check):
    """Of 7 pairs only 0, 3 and 6 can be read, and those are the three that are."""
    globs = put_pairs(tmp_path, "a", [UP] * 7)
    for index in (1, 2, 4, 5):
        (tmp_path / f"a/map/{index}.npy").write_bytes(b"?")
    printed, error = check("--check", put_mix(tmp_path, a=globs), "--samples", 3)
    assert error == ""
    assert line(printed, "samples") == "3 read, 0 unreadable"
    assert printed.startswith("a: 7 images")


# --- What fails ---------------------------------------------------------------------------------


def test_unreadable_pairs_are_listed_and_the_rest_is_shown(tmp_path, check):
    bad, good = put_pairs(tmp_path, "bad", [UP] * 6), put_pairs(tmp_path, "good", [UP] * 2)
    for index in (0, 2, 3, 5):
        (tmp_path / f"bad/map/{index}.npy").write_bytes(b"?")
    path = put_mix(tmp_path, bad=bad, good=good)
    printed, error = check("--check", path, "--output", tmp_path / "sheet.png")
    assert error == f"{path}: failed the check: bad; see above"
    assert line(printed.split("good:")[0], "samples") == "2 read, 4 unreadable"
    named = re.findall(rf"{tmp_path}/bad/map/(\d).npy: not a .npy file", printed)
    assert named == ["0", "2", "3"]
    assert line(printed, "FAILED") == "4 of 6 pairs cannot be read"
    assert line(printed.split("good:")[1], "samples") == "2 read, 0 unreadable"
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_a_dataset_that_cannot_be_read_at_all_is_on_the_sheet_by_name(tmp_path, check):
    globs = put_pairs(tmp_path, "a", [UP] * 2)
    for index in (0, 1):
        (tmp_path / f"a/rgb/{index}.png").write_bytes(b"")
    printed, error = check("--check", put_mix(tmp_path, a=globs), "--output", tmp_path / "s.png")
    assert "failed the check: a" in error
    assert "sizes" not in printed
    assert (tmp_path / "s.png").stat().st_size > 0


def test_a_dataset_without_a_valid_pixel_fails(tmp_path, check):
    globs = put_pairs(tmp_path, "a", [[[0, -1]], [[NAN, 0]]]) | {"kind": "depth"}
    globs_b = put_pairs(tmp_path, "b", [[[0, -1]], [[NAN, 5]]]) | {"kind": "depth"}
    printed, error = check("--check", put_mix(tmp_path, a=globs, b=globs_b))
    assert error.endswith("failed the check: a; see above")
    expected = "no valid pixel in 2 targets: check kind, scale, invalid, key and mask"
    assert line(printed, "FAILED") == expected


def test_a_dataset_that_a_training_would_refuse_fails(tmp_path, check):
    """Only the last of 101 maps, 99.npy by name, has valid pixels; a training looks at 100."""
    maps = [[[0, 0]]] * 99 + [[[0, 5]], [[0, 0]]]
    late = put_pairs(tmp_path, "late", maps) | {"kind": "depth"}
    soon = put_pairs(tmp_path, "soon", maps[:100]) | {"kind": "depth"}
    path = put_mix(tmp_path, soon=soon, late=late)
    printed, error = check("--check", path, "--samples", 2)
    assert error == f"{path}: failed the check: late; see above"
    assert line(printed.split("late:")[1], "valid").endswith("1 of 2 targets have none")
    assert line(printed, "FAILED") == (
        f"late: not one valid pixel in the first 100 of its 101 targets, such as "
        f"{tmp_path}/late/map/0.npy; check kind, scale, invalid, key and mask of its entry in "
        "mixdata"
    )


def test_unreadable_pairs_and_no_valid_pixel_are_both_told(tmp_path, check):
    globs = put_pairs(tmp_path, "a", [[[0, 0]]] * 3) | {"kind": "depth"}
    (tmp_path / "a/map/1.npy").write_bytes(b"?")
    printed, _ = check("--check", put_mix(tmp_path, a=globs))
    assert re.findall(r"^  FAILED +(.*)$", printed, re.MULTILINE) == [
        "1 of 3 pairs cannot be read",
        "no valid pixel in 2 targets: check kind, scale, invalid, key and mask",
    ]


# --- The sheet ----------------------------------------------------------------------------------


def region(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of what has this colour, ends included."""
    rows, columns = np.nonzero((sheet == colour).all(axis=2))
    return rows.min(), rows.max(), columns.min(), columns.max()


def target_below(sheet: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """What is drawn below the photograph of this colour: a picture of the same size, 8 lower."""
    top, bottom, left, right = region(sheet, colour)
    height = bottom - top + 1
    return sheet[bottom + 9 : bottom + 9 + height, left : right + 1]


def sheet_of(*samples: tuple[tuple[int, int, int], np.ndarray]) -> np.ndarray:
    photos = [np.full((*values.shape, 3), colour, np.uint8) for colour, values in samples]
    shown = [
        ("name", *tiles(photo, values.astype(np.float32)))
        for photo, (_, values) in zip(photos, samples, strict=True)
    ]
    return draw_sheet([Block("title", "note", [], shown)])


def near(pixel: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return np.abs(pixel.astype(int) - colour).max() <= 2


def test_below_a_photograph_is_its_target_bright_where_close_and_grey_where_unknown():
    values = np.repeat([[0.0, NAN, 7.0]], 90, axis=0).repeat(40, axis=1)  # 120 x 90
    target = target_below(sheet_of(((9, 200, 30), values)), (9, 200, 30))
    assert target.shape == (180, 240, 3)  # its own aspect, as large as fits
    assert near(target[90, 40], DARK)
    assert near(target[90, 120], GREY)
    assert near(target[90, 200], BRIGHT)


def test_samples_stand_beside_each_other_with_their_own_aspect():
    wide, tall = np.zeros((10, 120)), np.zeros((400, 100))
    sheet = sheet_of(((200, 9, 30), wide), ((30, 9, 200), tall))
    top, bottom, left, right = region(sheet, (200, 9, 30))
    assert (bottom - top + 1, right - left + 1) == (20, 240)
    other = region(sheet, (30, 9, 200))
    assert (other[1] - other[0] + 1, other[3] - other[2] + 1) == (180, 45)
    assert other[2] > right
    assert abs((other[0] + other[1]) - (top + bottom)) <= 2  # centred in one row


def test_every_point_of_a_sparse_map_shows():
    values = np.full((480, 640), NAN)
    values[::20, ::20] = np.arange(32)
    target = target_below(sheet_of(((9, 200, 30), values)), (9, 200, 30))
    assert np.count_nonzero((target != GREY).any(axis=2)) >= 24 * 32


def test_a_title_a_warning_and_names_are_written(tmp_path):
    def ink(title: str, warning: str, name: str) -> int:
        white = np.full((90, 120, 3), 255, np.uint8)
        block = Block(title, "", [warning] if warning else [], [(name, white, white)])
        return np.count_nonzero(draw_sheet([block]) < 100)

    bare = ink("", "", "")
    assert all(ink(*text) > bare for text in (("MMM", "", ""), ("", "MMM", ""), ("", "", "MMM")))


RED = (192, 0, 0)  # of warnings
LONG = "no valid pixel in /a/long/path/0123456789/to/a/map.npy " * 4  # two lines


@pytest.mark.parametrize(
    ("warnings", "lines"), [([], 0), (["M"], 1), (["M"] * 3, 3), (["M", LONG], 3)]
)
def test_every_warning_is_a_line_of_its_own_and_a_long_one_is_continued(warnings, lines):
    bare = draw_sheet([Block("title", "note", [], [])])
    sheet = draw_sheet([Block("title", "note", warnings, [])])
    assert len(sheet) == len(bare) + 24 * lines
    assert sheet.shape[1] == 1496
    rows, columns = np.nonzero((sheet == RED).all(axis=2))
    # The legend is 64 high; in a block, two lines of text come before, 24 each, and 8 above them.
    assert {(row - 64 - 8 - 48) // 24 for row in rows} == set(range(lines))
    assert columns.max(initial=0) < 1496 - 8  # nothing is cut off


def test_problems_and_hint_are_warnings_on_the_sheet(tmp_path, check, monkeypatch):
    blocks = []
    draw = mix_check.draw_sheet
    monkeypatch.setattr(mix_check, "draw_sheet", lambda given: blocks.extend(given) or draw(given))
    entries = {name: put_pairs(tmp_path, name, [UP[::-1]] * 2) for name in "ab"}
    (tmp_path / "a/map/1.npy").write_bytes(b"?")
    entries["b"]["kind"] = "depth"  # then nothing is wrong
    check("--check", put_mix(tmp_path, **entries))
    first, second = (block.warnings for block in blocks)
    assert first[0] == "1 of 2 pairs cannot be read"
    assert first[1].startswith("in 1 of 1 samples the bottom is farther than the top")
    assert (len(first), second) == (2, [])


def test_photographs_are_small_before_the_next_is_read(tmp_path, check, monkeypatch):
    """Two datasets of six: none is kept in full size, neither for the block nor for the sheet."""
    entries = {name: put_pairs(tmp_path, name, [np.eye(400)] * 6) for name in "ab"}
    read, draw = mix_check.read_pair, mix_check.draw_sheet
    kept, alive = [], []

    def count() -> None:
        alive.append(sum(array() is not None for array in kept))

    def counting_read(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        count()
        arrays = read(pair)
        kept.extend(map(weakref.ref, arrays))
        return arrays

    def counting_draw(blocks: list[Block]) -> np.ndarray:
        count()
        assert {part.shape for block in blocks for _, *s in block.samples for part in s} == {
            (180, 180, 3)
        }
        return draw(blocks)

    monkeypatch.setattr(mix_check, "read_pair", counting_read)
    monkeypatch.setattr(mix_check, "draw_sheet", counting_draw)
    assert check("--check", put_mix(tmp_path, **entries))[1] == ""
    assert len(kept) == 2 * (12 + 12)  # all are measured, then all are drawn
    assert alive[-13:] == [0] * 13


def test_the_sheet_has_the_samples_of_every_dataset(tmp_path, check):
    entries = {
        name: put_pairs(tmp_path, name, [np.tile(np.arange(8.0), (6, 1))] * 9, colour)
        for name, colour in (("a", 90), ("b", 160))
    }
    output = tmp_path / "sheet.png"
    check("--check", put_mix(tmp_path, **entries), "--output", output)
    sheet = cv2.imread(str(output))[..., ::-1]
    first, second = (np.nonzero((sheet == colour).all(axis=2))[0] for colour in (90, 160))
    for rows in (first, second):  # six of nine, 240 x 180 each, and some pixels of letters
        assert 6 * 240 * 180 <= len(rows) < 6.1 * 240 * 180
    assert np.median(first) < np.median(second)


# --- The program --------------------------------------------------------------------------------


def test_the_default_picture_is_named_after_the_file_and_the_time(tmp_path, check):
    printed, error = check("--check", put_mix(tmp_path, a=put_pairs(tmp_path, "a", [UP])))
    assert error == ""
    (picture,) = (tmp_path / "repository/output/check").iterdir()
    assert re.fullmatch(r"mix-check-\d{8}-\d{6}\.png", picture.name)
    assert f"picture    {picture}" in printed


def test_globs_are_looked_up_under_the_folder_of_the_file_or_the_one_given(
    tmp_path, check, monkeypatch
):
    put_pairs(tmp_path / "here", "a", [UP])
    put_pairs(tmp_path / "there", "a", [UP] * 2)
    path = put_mix(tmp_path / "here", a={"image": "a/rgb/*", "depth": "a/map/*"})
    monkeypatch.chdir(tmp_path)
    for arguments, count in (((), 1), (("--train_data_dir", "there"), 2)):
        output = tmp_path / f"{count}.png"
        given = ("--check", path.relative_to(tmp_path), "--output", output, *arguments)
        assert check(*given)[0].startswith(f"a: {count} images")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--samples", "0"], "--samples: got 0, expected a number above 0"),
        (["--samples", "x"], "argument --samples: invalid int value: 'x'"),
        (["--output", "there.png"], "is there already; choose another name"),
        (["--output", "sheet.jpg"], "expected a name that ends in .png"),
        (["--output", "mix.json/sheet.png"], "mix.json: is not a folder"),
        (["--check", "none.json"], "none.json: no such file; --check takes a mixdata.json"),
        (["--train_data"], "expected one argument"),
        (["--depth"], "unrecognized arguments: --depth"),
    ],
)
def test_a_wrong_command_line_is_one_line_before_anything_is_read(
    tmp_path, check, monkeypatch, arguments, expected
):
    monkeypatch.chdir(tmp_path)
    put_mix(tmp_path, a={"image": "none/*", "depth": "none/*"})
    (tmp_path / "there.png").write_bytes(b"mine")
    printed, error = check("--check", "mix.json", *arguments)
    assert printed == ""
    assert expected in error
    assert "\n" not in error
    assert (tmp_path / "there.png").read_bytes() == b"mine"


def test_a_mix_that_cannot_be_read_leaves_no_folder(tmp_path, check):
    path = put_mix(tmp_path, a={"image": "none/*", "depth": "none/*"})
    for arguments in ((), ("--output", tmp_path / "new/folder/sheet.png")):
        printed, error = check("--check", path, *arguments)
        assert (printed, error[: len(str(path))]) == ("", str(path))
        assert [*tmp_path.iterdir()] == [path]


def test_folders_of_the_picture_are_made_with_it(tmp_path, check):
    output = tmp_path / "new/folder/sheet.png"
    path = put_mix(tmp_path, a=put_pairs(tmp_path, "a", [UP]))
    assert check("--check", path, "--output", output)[1] == ""
    assert output.stat().st_size > 0


@pytest.mark.parametrize("folder", ["locked", "locked/new/folder"])
def test_a_folder_that_may_not_be_written_to_is_told_before_anything_is_read(
    tmp_path, check, monkeypatch, folder
):
    """Root may write anywhere, so the system's answer is made up."""
    (tmp_path / "locked").mkdir()
    asked = []

    def access(path: Path, mode: int) -> bool:
        asked.append((Path(path), mode))
        return False

    monkeypatch.setattr(mix_check.os, "access", access)
    path = put_mix(tmp_path, a={"image": "none/*", "depth": "none/*"})
    printed, error = check("--check", path, "--output", tmp_path / folder / "sheet.png")
    assert printed == ""
    assert error == (f"--output: {tmp_path}/locked: may not be written to; choose another folder")
    assert asked == [(tmp_path / "locked", os.W_OK | os.X_OK)]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, check):
    path = put_mix(tmp_path, a=put_pairs(tmp_path, "a", [UP]))
    output = tmp_path / ("x" * 300) / "sheet.png"  # names have at most 255 bytes
    printed, error = check("--check", path, "--output", output)
    assert printed.startswith("a: 1 images")
    assert error == f"--output: {output.parent}: no folder for it (File name too long)"


def test_it_is_started_as_a_module_and_ends_with_the_exit_code(tmp_path):
    bad, good = put_pairs(tmp_path, "bad", [UP]), put_pairs(tmp_path, "good", [UP])
    (tmp_path / "bad/map/0.npy").write_bytes(b"?")
    for entries, code, error, encoding in (
        ({"good": good}, 0, "", "utf-8"),
        ({"bad": bad, "good": good}, 2, "failed the check: bad; see above", "ascii"),
    ):
        path = put_mix(tmp_path, **entries)
        output = tmp_path / f"{code}.png"
        done = subprocess.run(
            [sys.executable, "-m", "src.data.training", "--check", path, "--output", output],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONIOENCODING": encoding},
            capture_output=True,
            encoding=encoding,
            timeout=300,
        )
        assert done.returncode == code
        assert "good: 1 images, weight 1" in done.stdout
        # 1, 2 and 3 become 0, 1/2 and 1; a console without bars gets another character.
        bar = "█" if encoding == "utf-8" else "?"
        assert f"|{bar}{15 * ' '}{bar}{14 * ' '}{bar}|" in done.stdout
        assert done.stderr.splitlines()[-1].endswith(error)
        assert "Traceback" not in done.stderr
        assert output.stat().st_size > 0
