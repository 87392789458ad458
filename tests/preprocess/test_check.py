"""The check of downloaded benchmarks, on small sets written byte by byte in the real layouts."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from src.data.benchmarks import BENCHMARKS
from tests import file_formats, preprocess_scripts
from tests.preprocess_scripts import refused

PROGRAM = Path(__file__).resolve().parents[2] / "preprocess/check.py"
HEIGHT, WIDTH = 4, 6
# Metres: 6 of 24 pixels are 0; of the others the closest is 2 m, the farthest 5 m, below all caps.
DEPTH = np.full((HEIGHT, WIDTH), 3.0)
DEPTH[0] = 0
DEPTH[1, 0], DEPTH[3, 5] = 2, 5


program = preprocess_scripts.load("check")
run = partial(preprocess_scripts.run, "check")


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def image(seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    return file_formats.png(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def units(factor: int) -> bytes:
    return file_formats.png((DEPTH * factor).astype(np.uint16))


def write_kitti(root: Path, frames: int = 3) -> None:
    for frame in range(frames):
        put(root / f"drive/image/{frame:010d}.png", image(frame))
        put(root / f"drive/depth/{frame:010d}.png", units(256))


def write_sintel(root: Path, scenes: tuple[str, ...] = ("alley_1",), occlusions: int = 3) -> None:
    for scene in scenes:
        for frame in range(3):
            put(root / f"final_left/{scene}/frame_{frame:04d}.png", image(frame))
            put(root / f"depth/{scene}/frame_{frame:04d}.dpt", file_formats.dpt(DEPTH))
        for frame in range(occlusions):
            occluded = file_formats.png(np.zeros((HEIGHT, WIDTH), np.uint8))
            put(root / f"occlusions/{scene}/frame_{frame:04d}.png", occluded)


def write_tum(root: Path) -> None:
    lines = []
    for frame in range(3):
        put(root / f"fr1/rgb/{frame}.png", image(frame))
        put(root / f"fr1/depth/{frame}.png", units(5000))
        lines.append(f"rgb/{frame}.png depth/{frame}.png\n")
    put(root / "fr1/associate.txt", "".join(lines).encode())


def write_eth3d(root: Path) -> None:
    for frame in range(3):
        put(root / f"office/images/dslr_images/{frame}.JPG", image(frame))
        depth = np.where(DEPTH > 0, DEPTH, np.inf).astype("<f4").tobytes()
        put(root / f"office/ground_truth_depth/dslr_images/{frame}.JPG", depth)


def write_nyu(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "nyu.mat", "w") as file:
        file["images"] = np.zeros((5, 3, WIDTH, HEIGHT), np.uint8)
        file["rawDepths"] = np.repeat(DEPTH.T[None], 5, axis=0).astype(np.float32)
    with h5py.File(root / "splits.mat", "w") as file:
        file["testNdxs"] = np.array([[1, 3, 5]], np.float64)


def write_diw(root: Path) -> None:
    lines = []
    for frame in range(3):
        put(root / f"DIW_test/{frame}.thumb", image(frame))
        lines.append(f"./DIW_test/{frame}.thumb\n1,1,2,2,>,{WIDTH},{HEIGHT}\n")
    put(root / "DIW_Annotations/DIW_test.csv", "".join(lines).encode())


def write_middlebury(root: Path) -> None:
    for frame in range(3):
        put(root / f"scene{frame}/im0.png", image(frame))
        # Z = baseline * f / (d + doffs) = 0.5 m * 120 / d.
        disparity = np.where(DEPTH > 0, 60 / np.maximum(DEPTH, 1), np.inf).astype(np.float32)
        put(root / f"scene{frame}/disp0.pfm", file_formats.pfm(disparity))
        calibration = b"cam0=[120 0 3; 0 120 2; 0 0 1]\ndoffs=0\nbaseline=500\n"
        put(root / f"scene{frame}/calib.txt", calibration)


WRITERS = {
    "Kitti": write_kitti,
    "Sintel": write_sintel,
    "TUM": write_tum,
    "ETH3D": write_eth3d,
    "NYU": write_nyu,
    "DIW": write_diw,
    "Middlebury": write_middlebury,
}
PATHS = {"NYU": ("set/nyu.mat", "set/splits.mat")}
A_FILE = {
    "Kitti": "drive/depth/0000000001.png",
    "Sintel": "depth/alley_1/frame_0001.dpt",
    "TUM": "fr1/rgb/1.png",
    "ETH3D": "office/ground_truth_depth/dslr_images/1.JPG",
    "DIW": "DIW_test/1.thumb",
    "Middlebury": "scene1/disp0.pfm",
}


def check(tmp_path: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    return run(tmp_path, name, *PATHS.get(name, ("set",)), *options)


def state(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_every_benchmark_is_known_here():
    assert list(WRITERS) == list(BENCHMARKS)


@pytest.mark.parametrize("name", list(WRITERS))
def test_a_good_set_is_summed_up_and_nothing_is_written(tmp_path, name):
    WRITERS[name](tmp_path / "set")
    before = state(tmp_path)
    done = check(tmp_path, name)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if not line.startswith("warning: ")]
    assert lines[:2] == [f"{name}: 3 of 3 images are good", "sizes: 6 x 4 (3)"]
    cap = {"Kitti": "80", "Sintel": "72", "ETH3D": "72"}.get(name, "10")
    expected = f"valid pixels: 75.0 % (below {cap} m); depth 2.00 to 5.00 m"
    assert lines[2:] == ([] if name == "DIW" else [expected])
    assert "damaged" not in done.stdout
    assert state(tmp_path) == before


@pytest.mark.parametrize("name", list(A_FILE))
def test_a_damaged_file_is_named_and_the_others_are_read(tmp_path, name):
    WRITERS[name](tmp_path / "set")
    file = tmp_path / "set" / A_FILE[name]
    put(file, file.read_bytes()[:-5])
    done = check(tmp_path, name)
    assert done.returncode == 1
    (damaged,) = [line for line in done.stdout.splitlines() if line.startswith("damaged: ")]
    assert A_FILE[name] in damaged
    assert f"{name}: 2 of 3 images are good" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_depth_map_without_a_valid_pixel_is_damaged(tmp_path):
    write_kitti(tmp_path / "set")
    empty = file_formats.png(np.zeros((HEIGHT, WIDTH), np.uint16))
    put(tmp_path / "set/drive/depth/0000000002.png", empty)
    done = check(tmp_path, "Kitti")
    assert done.returncode == 1
    assert "damaged: set/drive/depth/0000000002.png: " in done.stdout


@pytest.mark.parametrize("name", list(A_FILE))
def test_a_missing_file_is_named(tmp_path, name):
    WRITERS[name](tmp_path / "set")
    (tmp_path / "set" / A_FILE[name]).unlink()
    done = check(tmp_path, name)
    assert done.returncode == 1
    assert done.stdout.startswith("missing")
    assert A_FILE[name] in done.stdout.splitlines()[0]


def test_all_missing_files_are_listed(tmp_path):
    write_kitti(tmp_path / "set")
    files = sorted((tmp_path / "set").glob("drive/depth/*.png"))
    assert len(files) == 3
    for file in files:
        file.unlink()
    lines = check(tmp_path, "Kitti").stdout.splitlines()
    assert lines[:3] == [f"missing: set/drive/depth/{file.name}" for file in files]


def test_a_folder_of_another_layout_says_which_one_is_expected(tmp_path):
    write_kitti(tmp_path / "set")
    done = check(tmp_path, "Sintel")
    assert done.returncode == 1
    assert "final_left/<scene>/*.png and depth/<scene>/*.dpt" in done.stdout


def test_an_hdf5_file_without_the_key_is_named(tmp_path):
    write_nyu(tmp_path / "set")
    with h5py.File(tmp_path / "set/nyu.mat", "a") as file:
        del file["rawDepths"]
    done = check(tmp_path, "NYU")
    assert done.returncode == 1
    assert "set/nyu.mat: has no rawDepths" in done.stdout


# --- sizes of sets -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Kitti", "3 images, the split of Ranftl et al., TPAMI 2022 has 161:"),
        ("Sintel", "3 images, the training set of MPI Sintel has 1064:"),
        ("Sintel", "22 of 23 scenes are not there: alley_2 ambush_2 "),
        ("ETH3D", "3 images, the high-resolution training set of ETH3D has 454:"),
        ("ETH3D", "12 of 13 scenes are not there: courtyard delivery_area "),
        ("NYU", "3 images, the test set of NYU Depth v2 has 654:"),
        ("NYU", "set/nyu.mat: 5 labelled images, NYU Depth v2 has 1449"),
        ("DIW", "3 images, the test set of DIW has 74441:"),
    ],
)
def test_a_smaller_set_than_the_published_one_is_a_warning(tmp_path, name, expected):
    WRITERS[name](tmp_path / "set")
    done = check(tmp_path, name)
    assert done.returncode == 0
    assert f"\nwarning: {expected}" in "\n" + done.stdout


@pytest.mark.parametrize("name", ["TUM", "Middlebury"])
def test_sets_without_a_published_size_have_no_warning(tmp_path, name):
    WRITERS[name](tmp_path / "set")
    assert "warning" not in check(tmp_path, name).stdout


def test_the_published_split_of_kitti_has_no_warning(tmp_path):
    write_kitti(tmp_path / "set", frames=161)
    done = check(tmp_path, "Kitti", "--workers", "3")
    assert done.returncode == 0
    assert done.stdout.startswith("Kitti: 161 of 161 images are good\n")


def test_the_published_scenes_are_as_many_as_documented_and_complete_without_warning(tmp_path):
    scenes = {name: program.PUBLISHED[name].scenes for name in ("Sintel", "ETH3D")}
    assert {name: len(set(names)) for name, names in scenes.items()} == {"Sintel": 23, "ETH3D": 13}
    write_sintel(tmp_path / "set", scenes["Sintel"])
    done = check(tmp_path, "Sintel")
    assert done.stdout.count("warning: ") == 1, "69 images, and no scene is absent"


def test_missing_occlusions_of_sintel_are_a_warning(tmp_path):
    write_sintel(tmp_path / "set", occlusions=2)
    done = check(tmp_path, "Sintel")
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if "occlusions" in line]
    assert line.startswith("warning: ")
    assert "occlusions/alley_1/frame_0002.png" in line


def test_sizes_are_counted_and_rare_ones_summed_up(tmp_path):
    for frame, width in enumerate((7, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 13)):
        shape = (HEIGHT, width)
        put(tmp_path / f"set/d/image/{frame}.png", file_formats.png(np.ones((*shape, 3), np.uint8)))
        put(tmp_path / f"set/d/depth/{frame}.png", file_formats.png(np.ones(shape, np.uint16)))
    expected = "sizes: 7 x 4 (3), 8 x 4 (2), 9 x 4 (2), 10 x 4 (2), 11 x 4 (2) and 2 other sizes"
    assert expected in check(tmp_path, "Kitti").stdout


def test_many_damaged_files_are_listed_to_a_limit_with_the_total(tmp_path):
    write_kitti(tmp_path / "set", frames=300)
    for frame in range(0, 300, 2):
        put(tmp_path / f"set/drive/image/{frame:010d}.png", b"x")
    done = check(tmp_path, "Kitti")
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if line.startswith("damaged: ")]
    named = [f"{frame:010d}.png" for frame in range(0, 200, 2)]
    assert [name in line for name, line in zip(named, lines[:100], strict=True)] == [True] * 100
    assert lines[100:] == ["damaged: 50 more that are not listed"]
    assert "Kitti: 150 of 300 images are good" in done.stdout


def test_a_set_without_one_good_file_has_no_sizes(tmp_path):
    write_kitti(tmp_path / "set", frames=1)
    put(tmp_path / "set/drive/image/0000000000.png", b"x")
    done = check(tmp_path, "Kitti")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "Kitti: 0 of 1 images are good"


def test_an_interrupt_stops_it(tmp_path):
    write_kitti(tmp_path / "set", frames=6000)
    command = [sys.executable, str(PROGRAM), "Kitti", "set", "--workers", "1"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        assert process.stderr.read(9) == b"\rreading:"
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert b"interrupted" in process.communicate(timeout=60)[1]
        assert time.monotonic() - start < 20
    assert process.returncode == 130


# --- wrong arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ((), "NAME"),
        (("Kitti",), "FOLDER"),
        (("KITTI", "set"), "invalid choice: 'KITTI'"),
        (("Kitti", "nowhere"), "nowhere: no such file or folder, expected the Kitti data set"),
        (("Kitti", "set", "set"), "Kitti: expected one folder, got set set"),
        (("NYU", "set"), "NYU: expected the labelled .mat file and splits.mat, got set"),
        (("NYU", "set", "nowhere.mat"), "nowhere.mat: no such file"),
        (("Kitti", "set", "--workers", "0"), "--workers 0: expected at least 1"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, arguments, part):
    write_kitti(tmp_path / "set")
    refused(run(tmp_path, *arguments), part)
