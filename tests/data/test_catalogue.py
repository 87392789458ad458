"""Which benchmarks `data_name` opens."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from src.data.benchmarks import BENCHMARKS, open_benchmarks
from src.errors import UserError
from tests.benchmark_sets import (
    FILE_SETS,
    paths,
    random_image,
    stored_depth,
    write_diw,
    write_files,
    write_nyu,
)

SIX = ["Kitti", "Sintel", "TUM", "ETH3D", "NYU", "DIW"]
SHAPE = (6, 8)


@pytest.fixture
def data_root(tmp_path):
    """One image of each of the six, in a folder of the benchmark's name."""

    def frame(name: str) -> tuple[np.ndarray, np.ndarray]:
        return random_image(0, SHAPE), stored_depth(name, 0, SHAPE)

    for name in FILE_SETS:
        write_files(name, tmp_path / name, {"scene": [frame(name)]})
    write_nyu(tmp_path / "NYU", [frame("NYU")], [1])
    write_diw(tmp_path / "DIW", {"0a": random_image(0, SHAPE)}, ["1,1,2,2,<"])
    return tmp_path


def opened(data_name: str, root: Path, options=None, **paths: tuple[str, ...]):
    known = {name: (name,) for name in BENCHMARKS} | {"NYU": ("NYU/nyu.mat", "NYU/splits.mat")}
    return open_benchmarks(data_name, str(root), known | paths, 64, options)


def names(*arguments, **paths) -> list[str]:
    return [benchmark.name for benchmark in opened(*arguments, **paths)]


@pytest.mark.parametrize(
    ("data_name", "expected"),
    [
        *((name, [name]) for name in SIX),
        ("tum", ["TUM"]),
        ("eth3d,diw", ["ETH3D", "DIW"]),
        ("TUM,Kitti", ["TUM", "Kitti"]),
        (" Sintel , TUM ", ["Sintel", "TUM"]),
        ("TUM,Kitti,tum", ["TUM", "Kitti"]),
        ("all", SIX),
        (" All", SIX),
    ],
)
def test_data_name_chooses(data_root, data_name, expected):
    assert names(data_name, data_root) == expected


def test_all_of_them_get_the_size_and_those_with_options_theirs(data_root):
    benchmarks = opened("all", data_root, {"Sintel": {"occluded": True}})
    assert [(b.resize.width, b.resize.height) for b in benchmarks] == [(64, 64)] * 6
    lower_bound = [b.name for b in benchmarks if b.resize.method == "lower_bound"]
    assert lower_bound == ["Kitti"]
    (data_root / "Sintel/occlusions/scene").mkdir(parents=True)
    with pytest.raises(UserError, match="occlusions"):  # their masks are needed, and missing
        opened("Sintel", data_root, {"Sintel": {"occluded": False}})


@pytest.mark.parametrize("data_name", ["Kiti", "", "Kitti,", "Kitti;TUM", "all,Kitti", "Kitti TUM"])
def test_an_unknown_data_name_lists_the_known_ones(data_root, data_name):
    with pytest.raises(UserError, match=r"data_name: got .*Kitti, Sintel, TUM.* or all"):
        opened(data_name, data_root)


@pytest.mark.parametrize("missing", SIX)
def test_all_skips_and_names_what_is_not_there(data_root, caplog, missing):
    (data_root / missing).rename(data_root / "elsewhere")
    caplog.set_level(logging.INFO, logger="midas")
    assert names("all", data_root) == [name for name in SIX if name != missing]
    (line,) = [m for m in caplog.messages if f"datapath_{missing}" in m]
    assert line.startswith("skipped")
    assert str(data_root / missing) in line


def test_a_named_benchmark_must_be_there(data_root):
    with pytest.raises(UserError, match="datapath_TUM") as caught:
        opened("Kitti,TUM", data_root, TUM=("/no/such/tum",))
    assert f"{data_root}/no/such/tum" in str(caught.value)


def test_all_of_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="train_data_dir"):
        opened("all", tmp_path)


@pytest.mark.parametrize("data_name", ["all", "Kitti"])
def test_a_folder_without_some_files_is_an_error_and_not_skipped(data_root, data_name):
    (file,) = (data_root / "Kitti").rglob("depth/*.png")
    file.unlink()
    with pytest.raises(UserError, match=r"incomplete, missing: .*depth/0000000000\.png"):
        opened(data_name, data_root)


@pytest.mark.parametrize("name", ["Kitti", "Sintel", "TUM", "ETH3D"])
def test_skipping_opens_what_is_incomplete_and_reading_names_the_file(data_root, name):
    depth = data_root / name / paths(name, "scene", 0)[1]
    depth.unlink()
    problems = []
    (benchmark,) = open_benchmarks(name, str(data_root), {name: (name,)}, 64, None, problems)
    assert (len(benchmark), problems) == (1, [])
    with pytest.raises(UserError, match=depth.name):
        benchmark.read(0)


@pytest.mark.parametrize("data_name", ["all", "NYU"])
@pytest.mark.parametrize("file", ["nyu.mat", "splits.mat"])
def test_one_of_the_two_files_of_nyu_is_not_enough(data_root, data_name, file):
    (data_root / "NYU" / file).unlink()
    with pytest.raises(UserError, match=rf"datapath_NYU.*{file}"):
        opened(data_name, data_root)
