"""midas_eval.py as a user starts it: interrupted, by several processes, on damaged files."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import mindspore as ms
import pytest

from src import checkpoint
from src.midas_net import MidasNet
from tests.benchmark_sets import (
    Frame,
    random_image,
    stored_depth,
    write_diw,
    write_files,
)

REPOSITORY = Path(__file__).resolve().parents[2]
MSRUN = Path(sys.executable).parent / "msrun"
SMALL, LARGE = (20, 30), (60, 50)
KITTI = [SMALL] * 6 + [LARGE] * 6  # the network is compiled twice, after six images again
POINTS = ["1,1,9,5,<", "9,4,2,12,>", "8,1,8,2,<"]


def frames(name: str, shapes: Sequence[tuple[int, int]]) -> list[Frame]:
    return [
        (random_image(i, shape), stored_depth(name, i, shape)) for i, shape in enumerate(shapes)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory, small_network) -> Path:
    """A folder with weights, a configuration, and images of three benchmarks below data."""
    place = tmp_path_factory.mktemp("place")
    ms.set_seed(1)
    checkpoint.save(MidasNet(**small_network), place / "small.ckpt")
    network = {key: list(v) if key == "layers" else v for key, v in small_network.items()}
    values = network | {"eval_size": 64, "train_data_dir": "data", "ckpt_path": "small.ckpt"}
    (place / "small.yaml").write_text("\n".join(f"{key}: {v}" for key, v in values.items()))
    write_files("Kitti", place / "data/Kitti_raw_data", {"drive": frames("Kitti", KITTI)})
    write_files("Sintel", place / "data/Sintel", {"alley": frames("Sintel", [LARGE, LARGE])})
    images = {f"{i:02x}": random_image(i, (9, 12)) for i in range(len(POINTS))}
    write_diw(place / "data/DIW", images, POINTS)
    return place


def command(place: Path, folder: str, *arguments: str) -> list[str]:
    (place / folder).mkdir(exist_ok=True)
    program = [str(REPOSITORY / "midas_eval.py"), "--config_path", "small.yaml"]
    return [sys.executable, *program, "--ann_file", f"{folder}/val.json", *arguments]


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("GLOG_v", "MS_ROLE")}
    return kept | more


def run(place: Path, words: Sequence[str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program in `place`, with more environment variables; what it started ends with it."""
    process = subprocess.Popen(
        words,
        cwd=place,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # on which msrun ends its processes
        raise
    return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)


def evaluate(place: Path, folder: str, *arguments: str) -> tuple[str, str]:
    """A good evaluation into folder/val.json; returns what it wrote to stdout and stderr."""
    done = run(place, command(place, folder, *arguments))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def results(place: Path, folder: str) -> dict[str, bytes]:
    """All files but logs."""
    files = (path for path in (place / folder).rglob("*") if path.is_file())
    return {
        str(path.relative_to(place / folder)): path.read_bytes()
        for path in files
        if path.suffix != ".log"
    }


@pytest.fixture(scope="module")
def complete(place) -> dict[str, bytes]:
    """The files of an evaluation of all that is there, by one process, in batches."""
    _, messages = evaluate(place, "complete", "--eval_batch_size", "2")
    for name in ("TUM", "ETH3D", "NYU", "Middlebury"):
        assert f"skipped datapath_{name}" in messages
    return results(place, "complete")


def test_all_that_is_there_is_evaluated(place, complete):
    assert list(json.loads(complete["val.json"])) == ["Kitti", "Sintel", "DIW"]
    rows = list(csv.DictReader(complete["val/results.csv"].decode().splitlines()))
    assert [row["benchmark"] for row in rows] == ["Kitti"] * 12 + ["Sintel"] * 2 + ["DIW"] * 3
    details = json.loads(complete["val/results.json"])
    pictures = {
        f"val/{p['file']}" for one in details.values() for q in one["panels"] for p in q["pictures"]
    }
    assert complete.keys() == pictures | {
        *("val.json", "val/results.json", "val/results.csv", "val/report.html")
    }
    assert "compiling the network for" in (place / "complete/val.log").read_text()


def test_several_processes_give_the_same_files_bit_for_bit(place, complete, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(MSRUN), "--worker_num=2", "--local_worker_num=2", "--join=True"]
    words += [f"--master_port={port}", f"--log_dir={tmp_path}"]
    program = command(place, "two", "--eval_batch_size", "2", "--run_distribute", "True")
    search = f"{MSRUN.parent}{os.pathsep}{os.environ['PATH']}"  # msrun starts the first `python`
    done = run(place, [*words, "python", *program[1:]], PATH=search)
    logs = "".join(path.read_text(errors="replace") for path in tmp_path.glob("worker*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert "Traceback" not in logs
    assert results(place, "two") == complete
    assert {path.name for path in (place / "two").glob("*.log")} == {"val.log", "val.1.log"}
    assert logs.count("all images") == 1, "one of them prints the table"


@pytest.mark.parametrize(
    ("role", "argument", "message"),
    [(None, "True", "python -m src.launch"), ("MS_WORKER", "False", "add --run_distribute True")],
)
def test_msrun_and_run_distribute_belong_together(place, role, argument, message):
    words = command(place, "none", "--run_distribute", argument)
    done = run(place, words, **({"MS_ROLE": role} if role else {}))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: run_distribute: ")
    assert message in line
    assert not list((place / "none").iterdir())


def test_a_killed_evaluation_goes_on_to_the_same_files(place, complete):
    """By SIGKILL, while the network is compiled for the images of the second size."""
    words = command(place, "killed", "--eval_batch_size", "2", "--data_name", "Kitti,Sintel,DIW")
    process = subprocess.Popen(
        words, cwd=place, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    partial = place / "killed/val/partial/Kitti-0.csv"
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if partial.exists() and partial.read_bytes().count(b"\n") >= 3:
            break
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = partial.read_bytes().count(b"\n")
    assert 3 <= done < len(KITTI)
    assert not (place / "killed/val.json").exists()

    printed, _ = evaluate(place, "killed", "--eval_batch_size", "2", "--resume", "True")
    assert results(place, "killed") == complete
    log = (place / "killed/val.log").read_text()
    assert f"Kitti: continues after {done} of {len(KITTI)} images" in log

    again, _ = evaluate(place, "killed", "--eval_batch_size", "2", "--resume", "True")
    assert again == printed, "the table of what is complete"
    assert results(place, "killed") == complete
    second = (place / "killed/val.log").read_text().removeprefix(log)
    assert "compiling" not in second


def test_a_truncated_image_stops_or_is_skipped_on_the_screen_and_in_all_files(place, tmp_path):
    data = tmp_path / "damaged"
    write_files("Kitti", data, {"drive": frames("Kitti", [(8, 10)] * 30)})
    file = data / "drive/image/0000000017.png"
    file.write_bytes(file.read_bytes()[:-30])
    arguments = ("--data_name", "Kitti", "--datapath_Kitti", str(data), "--eval_batch_size", "4")

    done = run(place, command(place, "damaged", *arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {file}: truncated")
    assert last.removeprefix("error: ") in (place / "damaged/val.log").read_text()
    assert not (place / "damaged/val.json").exists()

    arguments += ("--on_error", "skip")
    printed, _ = evaluate(place, "damaged", *arguments, "--resume", "True")
    (line,) = [line for line in printed.splitlines() if "skipped" in line]
    assert line.startswith(f"Kitti: skipped drive/0000000017: {file}: truncated")
    assert line in (place / "damaged/val.log").read_text()
    files = results(place, "damaged")
    details = json.loads(files["val/results.json"])["Kitti"]
    assert details["images"] == 29
    (skipped,) = details["skipped"]
    assert skipped["id"] == "drive/0000000017"
    assert skipped["reason"] in line
    rows = list(csv.DictReader(files["val/results.csv"].decode().splitlines()))
    assert [row["id"] for row in rows if row["skipped"]] == ["drive/0000000017"]
    assert len(rows) == 30


def test_another_checkpoint_is_not_resumed(place, complete, small_network):
    ms.set_seed(2)
    checkpoint.save(MidasNet(**small_network), place / "other.ckpt")
    words = command(place, "complete", "--eval_batch_size", "2", "--resume", "True")
    done = run(place, [*words, "--ckpt_path", "other.ckpt"])
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: resume: ")
    assert "checkpoint_sha256" in done.stderr.splitlines()[-1]
    assert results(place, "complete") == complete
