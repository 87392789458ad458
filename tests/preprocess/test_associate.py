"""Pairs of images and depth maps by time stamp: by hand and against greedy over the full table."""

from __future__ import annotations

import time
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from src.data.benchmarks.tum import read_associations
from tests import preprocess_scripts
from tests.preprocess_scripts import refused

PROGRAM = Path(__file__).resolve().parents[2] / "preprocess/associate.py"
HEAD = "# rgb.txt and depth.txt paired with max_difference 0.02 s, offset 0.0 s\n"


associate = preprocess_scripts.load("associate")
run = partial(preprocess_scripts.run, "associate")


def write_sequence(folder: Path, rgb: list[str], depth: list[str]) -> None:
    """A sequence in TUM's layout, a file for each time stamp."""
    for kind, times in (("rgb", rgb), ("depth", depth)):
        (folder / kind).mkdir(parents=True)
        lines = ["# color images", "# file: 'a.bag'", "# timestamp filename"]
        for stamp in times:
            (folder / kind / f"{stamp}.png").write_bytes(b"x")
            lines.append(f"{stamp} {kind}/{stamp}.png")
        (folder / f"{kind}.txt").write_text("\n".join(lines) + "\n")


def pairs_in(folder: Path) -> list[str]:
    text = (folder / "associate.txt").read_text()
    return [line for line in text.splitlines() if not line.startswith("#")]


# Image 10.00 has 10.03 and 10.01 near it, and 10.01 is closest to it; 10.03 then goes to 10.04;
# 10.10 is exactly 0.02 from 10.12, which is not closer than 0.02; 10.20 and 10.2199 are.
RGB = ["10.20", "10.04", "10.00", "10.10"]
DEPTH = ["10.03", "10.01", "10.12", "10.2199"]
EXPECTED = [
    "rgb/10.00.png depth/10.01.png",
    "rgb/10.04.png depth/10.03.png",
    "rgb/10.20.png depth/10.2199.png",
]


def test_pairs_are_those_worked_out_by_hand(tmp_path):
    write_sequence(tmp_path / "fr1", RGB, DEPTH)
    done = run(tmp_path, "fr1")
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "fr1/associate.txt").read_text()
    assert text == HEAD + "".join(line + "\n" for line in EXPECTED)
    # Differences 0.01, 0.01 and 0.0199: mean 0.0133.
    assert done.stdout == (
        "fr1/associate.txt: 3 pairs, left over: 1 images, 1 depth maps; "
        "difference mean 0.0133 s, max 0.0199 s\n"
    )


def test_the_evaluation_reads_what_was_written(tmp_path):
    write_sequence(tmp_path, RGB, DEPTH)
    assert run(tmp_path, ".").returncode == 0
    names = [line.split() for line in EXPECTED]
    expected = [(tmp_path / image, tmp_path / depth) for image, depth in names]
    assert read_associations(tmp_path / "associate.txt") == expected


def test_the_closest_pair_goes_first_even_if_that_leaves_others_alone(tmp_path):
    # In order of time, 1.00-1.015 and 1.02-1.0351 would both do; greedy takes 1.02-1.015 first.
    write_sequence(tmp_path, ["1.00", "1.02"], ["1.015", "1.0351"])
    run(tmp_path, ".", "--max_difference", "0.035")
    assert pairs_in(tmp_path) == ["rgb/1.02.png depth/1.015.png"]


def test_the_offset_is_added_to_the_times_of_the_depth_maps(tmp_path):
    write_sequence(tmp_path, ["5.00", "6.00"], ["4.51", "5.51", "6.51"])
    assert run(tmp_path, ".", "--offset", "0.5").returncode == 0
    assert pairs_in(tmp_path) == [f"rgb/{t}.00.png depth/{t - 1}.51.png" for t in (5, 6)]
    assert run(tmp_path, ".", "--offset", "-0.5", "--force").returncode == 0
    assert pairs_in(tmp_path) == [f"rgb/{t}.00.png depth/{t}.51.png" for t in (5, 6)]
    first = (tmp_path / "associate.txt").read_text().splitlines()[0]
    assert first == "# rgb.txt and depth.txt paired with max_difference 0.02 s, offset -0.5 s"


def test_every_sequence_of_a_folder_is_paired_and_other_folders_are_left(tmp_path):
    write_sequence(tmp_path / "fr1", ["1.0"], ["1.001"])
    write_sequence(tmp_path / "fr2", ["2.0"], ["2.001"])
    (tmp_path / "notes").mkdir()
    assert run(tmp_path, ".").returncode == 0
    assert pairs_in(tmp_path / "fr1") == ["rgb/1.0.png depth/1.001.png"]
    assert pairs_in(tmp_path / "fr2") == ["rgb/2.0.png depth/2.001.png"]
    assert not list((tmp_path / "notes").iterdir())


# --- the greedy rule ---------------------------------------------------------------------------


def greedy_over_the_full_table(rgb, depth, limit):
    """TUM's documentation to the letter, in fractions: sort all close pairs, take what is free."""
    table = sorted(
        (abs(Fraction(a) - Fraction(b)), a, b)
        for a in rgb
        for b in depth
        if abs(Fraction(a) - Fraction(b)) < Fraction(limit)
    )
    free_rgb, free_depth, pairs = set(rgb), set(depth), []
    for _, a, b in table:
        if a in free_rgb and b in free_depth:
            free_rgb.remove(a)
            free_depth.remove(b)
            pairs.append((a, b))
    return sorted(pairs)


# A coarse grid makes ties and equal times frequent.
moments = st.sets(st.integers(0, 40).map(lambda n: 1305031102 + Decimal(n) / 100), max_size=14)


@given(moments, moments, st.sampled_from(["0.01", "0.02", "0.05", "1000"]).map(Decimal))
@example({Decimal(1), Decimal(3)}, {Decimal(2)}, Decimal(9))  # a tie between two images
@example({Decimal(2)}, {Decimal(1), Decimal(3)}, Decimal(9))  # a tie between two depth maps
@example({Decimal(0), Decimal(5), Decimal(9)}, {Decimal(4), Decimal(6), Decimal(20)}, Decimal(99))
def test_pairs_are_those_of_greedy_over_the_full_table(rgb, depth, limit):
    found = associate.pair_by_time(rgb, depth, limit)
    assert found == greedy_over_the_full_table(rgb, depth, limit)


def test_of_equal_distances_the_earlier_image_then_the_earlier_depth_map_goes_first():
    one, two, three, nine = map(Decimal, (1, 2, 3, 9))
    assert associate.pair_by_time([three, one], [two], nine) == [(one, two)]
    assert associate.pair_by_time([two], [three, one], nine) == [(two, one)]


def test_a_large_difference_needs_no_full_table():
    rgb = [Decimal(n) / 30 for n in range(30_000)]
    depth = [Decimal(n) / 30 + Decimal("0.011") for n in range(30_000)]
    start = time.perf_counter()
    pairs = associate.pair_by_time(rgb, depth, Decimal(1000))
    assert time.perf_counter() - start < 20, "a table of 9e8 pairs would take many minutes"
    assert pairs == list(zip(rgb, depth, strict=True))


# --- files that are there ----------------------------------------------------------------------


def test_a_second_run_changes_nothing(tmp_path):
    write_sequence(tmp_path, RGB, DEPTH)
    run(tmp_path, ".")
    before = (tmp_path / "associate.txt").stat()
    done = run(tmp_path, ".")
    after = (tmp_path / "associate.txt").stat()
    assert done.returncode == 0
    assert done.stdout.endswith("(unchanged)\n")
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_an_associate_file_of_other_origin_is_only_replaced_on_demand(tmp_path):
    write_sequence(tmp_path / "a", RGB, DEPTH)
    write_sequence(tmp_path / "b", RGB, DEPTH)
    (tmp_path / "b/associate.txt").write_text("mine\n")
    refused(run(tmp_path, "."), "b/associate.txt exists with other content; --force")
    assert (tmp_path / "b/associate.txt").read_text() == "mine\n"
    assert not (tmp_path / "a/associate.txt").exists(), "all sequences or none"
    assert run(tmp_path, ".", "--force").returncode == 0
    assert pairs_in(tmp_path / "a") == pairs_in(tmp_path / "b") == EXPECTED


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("11.0", "rgb.txt, line 5: expected 'timestamp filename', found '11.0'"),
        ("11.0 rgb/a b.png", "rgb.txt, line 5: expected 'timestamp filename'"),
        ("rgb/11.0.png 11.0", "rgb.txt, line 5: expected"),
        ("nan rgb/nan.png", "rgb.txt, line 5: expected"),
        ("-1 rgb/1.png", "rgb.txt, line 5: expected"),
        ("11.0 rgb/10.00.png", "rgb.txt, line 5: rgb/10.00.png is in line 4 already"),
        ("10.0 rgb/11.0.png", "rgb.txt, line 5: 10.0 is in line 4 already"),
    ],
)
def test_an_odd_line_is_named_and_nothing_is_written(tmp_path, line, message):
    write_sequence(tmp_path, ["10.00"], ["10.01"])
    with (tmp_path / "rgb.txt").open("a") as file:
        file.write(line + "\n")
    refused(run(tmp_path, "."), message)
    assert not (tmp_path / "associate.txt").exists()


def test_missing_and_empty_lists_are_named(tmp_path):
    write_sequence(tmp_path, ["1.0"], ["1.0"])
    (tmp_path / "depth.txt").write_text("# nothing\n")
    refused(run(tmp_path, "."), "depth.txt: names no file")
    (tmp_path / "depth.txt").write_bytes(b"\xff\xfe\x00")
    refused(run(tmp_path, "."), "depth.txt: cannot be read as text")
    (tmp_path / "depth.txt").unlink()
    refused(run(tmp_path, "."), "depth.txt: no such file")
    (tmp_path / "rgb.txt").unlink()
    refused(run(tmp_path, "."), "no rgb.txt and depth.txt in it")
    refused(run(tmp_path, "nowhere"), "nowhere: no such folder")


def test_a_file_of_a_pair_that_is_missing_is_named(tmp_path):
    write_sequence(tmp_path, ["1.0", "2.0"], ["1.0", "2.0", "3.0"])
    (tmp_path / "depth/3.0.png").unlink()  # in no pair
    assert run(tmp_path, ".").returncode == 0
    (tmp_path / "associate.txt").unlink()
    (tmp_path / "depth/2.0.png").unlink()
    refused(run(tmp_path, "."), "depth/2.0.png: listed in rgb.txt or depth.txt but missing (in all")
    assert not (tmp_path / "associate.txt").exists()


def test_no_pair_at_all_is_an_error(tmp_path):
    write_sequence(tmp_path, ["1.0"], ["1.02"])
    refused(run(tmp_path, "."), "no image of rgb.txt is closer than 0.02 s", "--offset")
    assert not (tmp_path / "associate.txt").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (".", "--max_difference", "0"),
        (".", "--max_difference", "wide"),
        (".", "--offset", "inf"),
        (".", "more"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, arguments):
    write_sequence(tmp_path, ["1.0"], ["1.0"])
    refused(run(tmp_path, *arguments))
    assert not (tmp_path / "associate.txt").exists()
