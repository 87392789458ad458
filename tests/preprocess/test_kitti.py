"""KITTI's two downloads, written in their real folders, laid out as the evaluation reads them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from src.data.benchmarks.kitti import Kitti
from tests import file_formats

PROGRAM = Path(__file__).resolve().parents[2] / "preprocess/kitti.py"
DRIVE, OTHER = "2011_09_26_drive_0002_sync", "2011_10_03_drive_0047_sync"
ALL = ("--raw", "raw", "--depth", "truth", "--split", "split.txt", "--output", "Kitti")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PROGRAM, *(arguments or ALL)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in last


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def content(drive: str, frame: int, camera: str, kind: str) -> bytes:
    """A file that says which it is: image of 3 x 2 pixels, depth of the same size."""
    seed = sum(f"{drive}{frame}{camera}{kind}".encode())
    rng = np.random.default_rng(seed)
    if kind == "image":
        return file_formats.png(rng.integers(0, 256, (2, 3, 3), dtype=np.uint8))
    return file_formats.png(rng.integers(256, 2560, (2, 3), dtype=np.uint16))


def download_image(root: Path, drive: str, frame: int, camera: str = "image_02") -> Path:
    path = root / "raw" / drive[:10] / drive / camera / "data" / f"{frame:010d}.png"
    return put(path, content(drive, frame, camera, "image"))


def download_depth(
    root: Path, drive: str, frame: int, camera: str = "image_02", part: str = "val"
) -> Path:
    folder = root / "truth" / part / drive / "proj_depth/groundtruth" / camera
    return put(folder / f"{frame:010d}.png", content(drive, frame, camera, "depth"))


def line(drive: str, frame: int, camera: str = "image_02", suffix: str = "png") -> str:
    return f"{drive[:10]}/{drive}/{camera}/data/{frame:010d}.{suffix}"


@pytest.fixture
def root(tmp_path) -> Path:
    """Downloads and a split: frames 5 and 69 of one drive, 7 of another whose depth is in train."""
    for drive, frame, part in ((DRIVE, 5, "val"), (DRIVE, 69, "val"), (OTHER, 7, "train")):
        download_image(tmp_path, drive, frame)
        download_depth(tmp_path, drive, frame, part=part)
    lines = [line(DRIVE, 5), line(DRIVE, 69), line(OTHER, 7)]
    (tmp_path / "split.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def files(folder: Path) -> set[str]:
    """Every file and link, hidden ones too."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def expected_files(*frames: tuple[str, int]) -> set[str]:
    return {f"{drive}/{kind}/{n:010d}.png" for drive, n in frames for kind in ("image", "depth")}


def state(folder: Path) -> dict[str, tuple[int, int]]:
    stats = {name: (folder / name).lstat() for name in files(folder)}
    return {name: (stat.st_mtime_ns, stat.st_ino) for name, stat in stats.items()}


# --- what is written ---------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--copy",)])
def test_the_split_is_laid_out_as_the_evaluation_reads_it(root, options):
    printed = succeeded(run(root, *ALL, *options))
    assert "3 images in " in printed
    assert f"6 files {'copied' if options else 'linked'}, 0 were there" in printed
    assert files(root / "Kitti") == expected_files((DRIVE, 5), (DRIVE, 69), (OTHER, 7))
    for drive, frame in ((DRIVE, 5), (DRIVE, 69), (OTHER, 7)):
        for kind in ("image", "depth"):
            file = root / "Kitti" / drive / kind / f"{frame:010d}.png"
            assert file.read_bytes() == content(drive, frame, "image_02", kind)
            assert file.is_symlink() == (not options)
    assert len(Kitti(root / "Kitti")) == 3
    assert sorted(entry.name for entry in root.iterdir()) == ["Kitti", "raw", "split.txt", "truth"]


def test_links_survive_a_move_of_the_whole_data_root(root, tmp_path_factory):
    succeeded(run(root))
    elsewhere = tmp_path_factory.mktemp("moved") / "data"
    root.rename(elsewhere)
    image = elsewhere / "Kitti" / DRIVE / "image" / "0000000005.png"
    assert image.read_bytes() == content(DRIVE, 5, "image_02", "image")
    root.mkdir()  # pytest's folder


def test_copies_need_no_downloads(root):
    succeeded(run(root, *ALL, "--copy"))
    (root / "raw").rename(root / "gone")
    (root / "truth").rename(root / "gone too")
    assert [sample.id for sample in Kitti(root / "Kitti").samples()] == [
        f"{DRIVE}/0000000005",
        f"{DRIVE}/0000000069",
        f"{OTHER}/0000000007",
    ]


def test_folders_may_be_links(root):
    (root / "disk").mkdir()
    (root / "raw").rename(root / "disk/raw")
    (root / "raw").symlink_to("disk/raw")
    (root / "far/away").mkdir(parents=True)
    (root / "Kitti").symlink_to("far/away")
    succeeded(run(root))
    image = root / "far/away" / DRIVE / "image/0000000005.png"
    assert image.read_bytes() == content(DRIVE, 5, "image_02", "image")


def test_every_form_of_a_line_is_understood(root):
    for frame in (8, 9, 10, 11, 12, 13):
        for camera in ("image_02", "image_03"):
            download_image(root, DRIVE, frame, camera)
            download_depth(root, DRIVE, frame, camera)
    lines = [
        "# a comment",
        "",
        f"{line(DRIVE, 5)} {line(DRIVE, 5, 'image_03')}",
        f"{line(DRIVE, 8, suffix='jpg')} None 721.5377  # focal length",
        f"{DRIVE} 9",
        f"{DRIVE[:10]}/{DRIVE} 0000000010 l",
        f"{DRIVE[:10]}/{DRIVE} 11 r",
        f"{DRIVE} 12 image_02",
        line(DRIVE, 13, "image_03"),
        line(DRIVE, 5),
    ]
    (root / "split.txt").write_text("\r\n".join(lines))
    assert succeeded(run(root)).startswith("7 images in ")
    left, right = (DRIVE, (5, 8, 9, 10, 12)), (f"{DRIVE}_image_03", (11, 13))
    assert files(root / "Kitti") == expected_files(
        *((folder, frame) for folder, frames in (left, right) for frame in frames)
    )


def test_two_cameras_of_one_frame_do_not_collide(root):
    download_image(root, DRIVE, 5, "image_03")
    download_depth(root, DRIVE, 5, "image_03")
    (root / "split.txt").write_text(f"{line(DRIVE, 5)}\n{line(DRIVE, 5, 'image_03')}\n")
    succeeded(run(root))
    for folder, camera in ((DRIVE, "image_02"), (f"{DRIVE}_image_03", "image_03")):
        for kind in ("image", "depth"):
            data = (root / "Kitti" / folder / kind / "0000000005.png").read_bytes()
            assert data == content(DRIVE, 5, camera, kind)


def test_intersect_keeps_what_is_in_the_validation_set(root):
    download_image(root, DRIVE, 6)
    with (root / "split.txt").open("a") as file:
        file.write(line(DRIVE, 6) + "\n")  # without depth anywhere
    printed = succeeded(run(root, *ALL, "--intersect"))
    assert printed.startswith("2 images in ")
    assert "2 without ground truth left out" in printed
    assert files(root / "Kitti") == expected_files((DRIVE, 5), (DRIVE, 69))


def test_depth_may_be_the_validation_set_itself(root):
    options = ("--raw", "raw", "--depth", "truth/val", "--split", "split.txt", "--output", "Kitti")
    succeeded(run(root, *options, "--intersect"))
    assert files(root / "Kitti") == expected_files((DRIVE, 5), (DRIVE, 69))


# --- a second run, an interrupted run ----------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--copy",)])
def test_a_second_run_changes_nothing(root, options):
    succeeded(run(root, *ALL, *options))
    before = state(root / "Kitti")
    assert "0 files " in succeeded(run(root, *ALL, *options))
    assert state(root / "Kitti") == before


def test_missing_files_are_put_back_and_links_that_lead_nowhere_replaced(root):
    succeeded(run(root))
    image, depth = (root / "Kitti" / DRIVE / kind / "0000000005.png" for kind in ("image", "depth"))
    image.unlink()
    depth.unlink()
    depth.symlink_to("nowhere.png")
    assert "2 files linked, 4 were there" in succeeded(run(root))
    assert image.read_bytes() == content(DRIVE, 5, "image_02", "image")
    assert depth.read_bytes() == content(DRIVE, 5, "image_02", "depth")


def test_copy_turns_links_into_files_and_links_leave_copies(root):
    succeeded(run(root))
    assert "6 files copied" in succeeded(run(root, *ALL, "--copy"))
    assert not any((root / "Kitti" / name).is_symlink() for name in files(root / "Kitti"))
    assert "0 files linked, 6 were there" in succeeded(run(root))


@pytest.mark.parametrize("kind", ["image", "depth"])
def test_a_different_file_is_not_overwritten_and_nothing_else_written(root, kind):
    mine = put(root / "Kitti" / OTHER / kind / "0000000007.png", b"mine")
    refused(run(root), str(mine), "exists with other content")
    assert mine.read_bytes() == b"mine"
    assert files(root / "Kitti") == {f"{OTHER}/{kind}/0000000007.png"}


def test_images_that_are_not_in_the_split_are_reported(root):
    succeeded(run(root))
    (root / "split.txt").write_text(line(DRIVE, 5) + "\n")
    printed = succeeded(run(root))
    assert printed.startswith("warning: 2 images are not in the split, the first is ")
    assert "1 images in " in printed
    assert len(files(root / "Kitti")) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_no_half_written_folder_and_is_continued(root, number):
    frames = range(100, 1300)
    for frame in frames:
        download_image(root, DRIVE, frame)
        download_depth(root, DRIVE, frame)
    (root / "split.txt").write_text("".join(line(DRIVE, frame) + "\n" for frame in frames))
    partial = root / "Kitti.partial" / DRIVE / "depth"
    command = [sys.executable, str(PROGRAM), *ALL, "--copy"]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not partial.is_dir() or len(list(partial.iterdir())) < 20:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(number)
        assert "interrupted" in process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert not (root / "Kitti").exists()
    done = files(root / "Kitti.partial")
    assert 20 <= len(done) < 2400, "stopped in the middle"
    assert done < expected_files(*((DRIVE, frame) for frame in frames)), "no temporary file"
    printed = succeeded(run(root, *ALL, "--copy"))
    assert f"{2400 - len(done)} files copied, {len(done)} were there" in printed
    assert files(root / "Kitti") == expected_files(*((DRIVE, frame) for frame in frames))
    assert not (root / "Kitti.partial").exists()


def test_an_empty_output_folder_is_as_good_as_none(root):
    unfinished = root / "Kitti.partial" / DRIVE / "image" / "0000000005.png"
    put(unfinished, content(DRIVE, 5, "image_02", "image"))
    (root / "Kitti").mkdir()
    assert "5 files linked, 1 were there" in succeeded(run(root))
    assert files(root / "Kitti") == expected_files((DRIVE, 5), (DRIVE, 69), (OTHER, 7))
    assert not (root / "Kitti.partial").exists()


def test_an_unfinished_folder_of_another_split_is_refused(root):
    put(root / "Kitti.partial" / DRIVE / "image" / "0000000001.png", b"x")
    refused(run(root), "0000000001.png: not in this split; remove", "Kitti.partial")
    assert not (root / "Kitti").exists()


# --- wrong input -------------------------------------------------------------------------------


def test_missing_files_are_listed_and_nothing_is_written(root):
    for frame in (20, 21, 22, 23):
        download_image(root, DRIVE, frame)
    with (root / "split.txt").open("a") as file:
        file.writelines(line(DRIVE, frame) + "\n" for frame in (20, 21, 22, 23, 24))
    done = run(root)
    # Depth of five frames and the image of one; the first three are named.
    refused(done, "missing: ", "0000000020.png", "0000000021.png", "0000000022.png", "and 3 more")
    assert "0000000023.png" not in done.stderr
    assert "--intersect" in done.stderr
    assert not (root / "Kitti").exists()
    assert not (root / "Kitti.partial").exists()


def test_a_missing_image_is_an_error_in_an_intersection_too(root):
    image = root / "raw" / DRIVE[:10] / DRIVE / "image_02/data/0000000069.png"
    image.unlink()
    refused(run(root, *ALL, "--intersect"), f"missing: {image}; complete the downloads")
    assert not (root / "Kitti").exists()


def test_an_empty_intersection_is_an_error(root):
    (root / "split.txt").write_text(line(OTHER, 7) + "\n")  # its depth is in train
    refused(run(root, *ALL, "--intersect"), "none of the 1 images of the split has ground truth")


@pytest.mark.parametrize(
    "odd",
    [
        "0000000069.png",
        f"{DRIVE[:10]}/{DRIVE}/image_00/data/0000000069.png",
        f"{DRIVE[:10]}/{DRIVE}/image_02/data/69.png",
        f"2011_09_28/{DRIVE}/image_02/data/0000000069.png",
        f"{DRIVE[:10]}/../{DRIVE}/image_02/data/0000000069.png",
        f"{DRIVE} x",
        f"{DRIVE} 69 middle",
        DRIVE,
    ],
)
def test_an_odd_line_is_named_with_its_number(root, odd):
    (root / "split.txt").write_text(f"# split\n{line(DRIVE, 5)}\n{odd}\n")
    refused(run(root), "split.txt, line 3: expected '<date>/<drive>/image_02/data/<frame>.png'")
    assert not (root / "Kitti").exists()


@pytest.mark.parametrize("data", [b"", b"# nothing\n", b"\xff\xfe\x00"])
def test_a_split_without_lines_is_named(root, data):
    (root / "split.txt").write_bytes(data)
    refused(run(root), "split.txt: ")


@pytest.mark.parametrize("index", [1, 3, 5])
def test_what_is_not_there_is_named(root, index):
    options = list(ALL)
    options[index] = "nowhere"
    refused(run(root, *options), "nowhere")


def test_an_output_that_is_a_file_is_named_and_left(root):
    (root / "Kitti").write_text("mine")
    refused(run(root), "Kitti/")
    assert (root / "Kitti").read_text() == "mine"


def test_missing_arguments_are_one_line(root):
    refused(run(root, "--raw", "raw"), "--depth, --split, --output")
