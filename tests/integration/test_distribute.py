"""Training by two processes through the scripts: as one launch, and as two machines would."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests import file_formats

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
IMAGES, BATCH, EPOCHS, SIZE = 8, 2, 30, 64
STEPS = IMAGES // BATCH // 2  # of an epoch, with two processes
PREFIX = f"midas{os.getpid() % 100000}"  # of the network namespaces; an interface has 15 letters


@pytest.fixture(scope="module")
def place(tmp_path_factory, small_network) -> Path:
    """A folder with images, disparities and the configuration of a small training."""
    place = tmp_path_factory.mktemp("place")
    network = {key: list(v) if key == "layers" else v for key, v in small_network.items()}
    values = {
        **network,
        **{"img_width": SIZE, "img_height": SIZE, "batch_size": BATCH, "epoch_size": EPOCHS},
        **{"train_data_dir": "data", "run_path": "runs", "save_checkpoint_steps": 1},
        **{"keep_checkpoint_max": 99, "num_parallel_workers": 1, "compile_cache": "graphs"},
    }
    (place / "small.yaml").write_text("\n".join(f"{key}: {v}" for key, v in values.items()))
    mixdata = {"img": {"RW": "Imgs/*"}, "depth": {"RW": "RDs/*"}}
    for folder in ("Imgs", "RDs"):
        (place / "data" / folder).mkdir(parents=True)
    (place / "data/mixdata.json").write_text(json.dumps(mixdata))
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        values = rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
        (place / f"data/Imgs/{i}.png").write_bytes(file_formats.png(np.dstack([values] * 3)))
        (place / f"data/RDs/{i}.png").write_bytes(file_formats.png(values))
    return place


class Training:
    """The script, once for each of `machines`: what comes before it, and its environment."""

    def __init__(self, place: Path, machines: Sequence[tuple[list[str], dict[str, str]]]) -> None:
        self.place = place
        self.started: list[subprocess.Popen[str]] = []
        self.machines = machines

    def start(self, *arguments: str) -> None:
        script = ["bash", str(SCRIPTS / "run_distribute_train.sh"), str(2 // len(self.machines))]
        flags = ["--config_path", "small.yaml", "--run_path", "runs", "--run_name", *arguments]
        base = {key: v for key, v in os.environ.items() if key not in ("GLOG_v", "MS_ROLE")}
        self.started = [
            subprocess.Popen(
                [*before, *script, *flags],
                cwd=self.place,
                env=base | {"MIDAS_PYTHON": sys.executable} | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for before, environment in self.machines
        ]

    def end(self, code: int) -> list[tuple[str, str]]:
        """Wait for all; what each wrote to stdout and stderr. Nothing may be left."""
        written = [process.communicate(timeout=300) for process in self.started]
        assert [process.returncode for process in self.started] == [code] * len(written), written
        assert self.left() == []
        return written

    def left(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.cwd() == str(self.place) and process.status() != "zombie":
                    found.append(process)
        return found

    def worker(self, rank: int) -> psutil.Process:
        (worker,) = (
            process
            for process in self.left()
            if process.environ().get("RANK_ID") == str(rank)
            and process.environ().get("MS_ROLE") == "MS_WORKER"
        )
        return worker

    def steps(self, run: str) -> int:
        """How many are in metrics.csv."""
        file = self.place / "runs" / run / "metrics.csv"
        return max(0, file.read_text().count("\n") - 1) if file.exists() else 0

    def after_steps(self, run: str, steps: int) -> None:
        wait_until(lambda: self.steps(run) >= steps)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end, "nothing came for five minutes"
        time.sleep(0.02)


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@contextlib.contextmanager
def two_machines() -> Iterator[list[tuple[list[str], dict[str, str]]]]:
    """Two network namespaces joined by a cable; where that is not allowed, one machine twice."""
    names = [f"{PREFIX}{letter}" for letter in "ab"]
    nodes = [{"NODE_NUM": "2", "NODE_RANK": str(i), "MASTER_PORT": free_port()} for i in (0, 1)]
    nodes[1]["MASTER_PORT"] = nodes[0]["MASTER_PORT"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1])
        ip("link", "set", names[1], "netns", names[1])
        for i, name in enumerate(names):
            ip("-n", name, "address", "add", f"10.77.0.{i + 1}/24", "dev", name)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", name, "up")
        befores, address = [["ip", "netns", "exec", name] for name in names], "10.77.0.1"
    except (OSError, subprocess.SubprocessError):
        befores, address = [[], []], "127.0.0.1"
    try:
        machines = list(zip(befores, nodes, strict=True))
        yield [(before, node | {"MASTER_ADDR": address}) for before, node in machines]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.fixture(params=["one machine", "two machines"])
def training(request, place) -> Iterator[Training]:
    with contextlib.ExitStack() as stack:
        machines = [([], {})]
        if request.param == "two machines":
            machines = stack.enter_context(two_machines())
        training = Training(place, machines)
        yield training
        for process in training.left():
            process.kill()


@pytest.fixture(scope="module")
def whole(place) -> bytes:
    """The last weights of a run on one machine that nothing happened to."""
    training = Training(place, [([], {})])
    training.start("whole")
    training.end(0)
    assert training.steps("whole") == EPOCHS * STEPS
    return final_weights(place, "whole")


def final_weights(place: Path, run: str) -> bytes:
    return (place / f"runs/{run}/ckpt/Midas_0-{EPOCHS}_{STEPS}.ckpt").read_bytes()


def test_a_run_that_lost_a_worker_and_was_stopped_ends_as_one_that_was_not(training, place, whole):
    run = f"broken{len(training.machines)}"
    training.start(run)
    training.after_steps(run, 3)
    training.worker(1).kill()
    written = training.end(128 + signal.SIGKILL)
    for _, stderr in written:
        errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, stderr
        assert errors[0].startswith("error: rank 1 was killed by signal 9 (SIGKILL); its log: ")
        assert "Traceback" not in stderr
    assert training.steps(run) < EPOCHS * STEPS

    before = training.steps(run)
    training.start(run, "--resume", "auto")
    training.after_steps(run, before + 2)
    training.started[-1].send_signal(signal.SIGTERM)  # of the last machine: all of them stop
    training.end(3)
    assert training.steps(run) < EPOCHS * STEPS

    training.start(run, "--resume", "auto")
    training.end(0)
    assert final_weights(place, run) == whole
    assert training.steps(run) == EPOCHS * STEPS


@pytest.mark.skipif(shutil.which("ip") is None, reason="no `ip`, so no network namespaces")
def test_a_cable_that_is_cut_ends_both_machines(place):
    with two_machines() as machines:
        if not machines[0][0]:
            pytest.skip("this machine does not allow network namespaces")
        training = Training(place, machines)
        try:
            training.start("cut", "--epoch_size", "100000")
            training.after_steps("cut", 1)
            ip("-n", f"{PREFIX}a", "link", "set", f"{PREFIX}a", "down")
            for _, stderr in training.end(1):
                assert "vanished" in stderr
        finally:
            for process in training.left():
                process.kill()


@pytest.mark.parametrize(
    ("script", "arguments", "environment", "message"),
    [
        ("run_distribute_train.sh", ["0"], {}, "DEVICE_NUM: got '0'"),
        ("run_distribute_train.sh", ["2"], {"NODE_NUM": "two"}, "NODE_NUM: got 'two'"),
        ("run_distribute_train.sh", ["2"], {"NODE_NUM": "2"}, "NODE_NUM is 2: set NODE_RANK"),
        ("run_distribute_train.sh", ["2"], {"MASTER_PORT": "80"}, "master_port: got 80"),
        ("run_train_gpu.sh", ["many"], {}, "DEVICE_NUM: got 'many'"),
        ("run_train_gpu.sh", ["2", "3"], {}, "DEVICE_ID(s): got '3'; expected 2"),
        ("run_train_gpu.sh", ["2", "3,3"], {}, "DEVICE_ID(s): got '3,3'; expected 2"),
        ("run_train_gpu.sh", ["2", "a,b"], {}, "DEVICE_ID(s): got 'a,b'; expected 2"),
    ],
)
def test_what_is_wrong_from_the_start(tmp_path, script, arguments, environment, message):
    done = subprocess.run(
        ["bash", str(SCRIPTS / script), *arguments],
        cwd=tmp_path,
        env=os.environ | {"MIDAS_PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "command", "devices"),
    [
        ([], "midas_train.py --device_target GPU --run_distribute False --device_id 0", None),
        (
            ["1", "5", "w.ckpt", "--seed", "3"],
            "midas_train.py --device_target GPU --run_distribute False --device_id 5 "
            "--model_weights w.ckpt --seed 3",
            None,
        ),
        (
            ["2", "4,6", "w.ckpt", "--seed", "3"],
            "launch.py --workers 2 --local_workers 2 --log_dir ROOT/output/launch -- "
            "midas_train.py --run_distribute True --model_weights w.ckpt --device_target GPU "
            "--seed 3",
            "4,6",
        ),
        (
            ["3", "--run_path=there"],
            "launch.py --workers 3 --local_workers 3 --log_dir there/launch -- midas_train.py "
            "--run_distribute True --device_target GPU --run_path=there",
            "0,1,2",
        ),
    ],
)
def test_what_run_train_gpu_starts(tmp_path, arguments, command, devices):
    """With an interpreter that tells what it was asked to run."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\necho "${CUDA_VISIBLE_DEVICES-none}"\n')
    python.chmod(0o755)
    base = {key: v for key, v in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        ["bash", str(SCRIPTS / "run_train_gpu.sh"), *arguments],
        env=base | {"MIDAS_PYTHON": str(python)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    root = str(SCRIPTS.parent)
    expected = command.replace("ROOT", root).replace("midas_train.py", f"{root}/midas_train.py")
    expected = expected.replace("launch.py", f"{root}/src/launch.py")
    assert done.stdout.splitlines() == [expected, devices or "none"]


@pytest.mark.parametrize(
    ("ids", "expected"), [(["0,2"], "GPU-a,GPU-c"), ([], "GPU-a,GPU-b"), (["0,3"], "no 3")]
)
def test_gpus_are_counted_within_those_that_a_job_was_given(tmp_path, ids, expected):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES"\n')
    python.chmod(0o755)
    given = {"MIDAS_PYTHON": str(python), "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b,GPU-c"}
    command = ["bash", str(SCRIPTS / "run_train_gpu.sh"), "2", *ids]
    done = subprocess.run(
        command, env={**os.environ, **given}, capture_output=True, text=True, timeout=60
    )
    output = done.stderr if done.returncode else done.stdout
    assert expected in output.splitlines()[-1]
    assert done.returncode == (2 if expected == "no 3" else 0)
