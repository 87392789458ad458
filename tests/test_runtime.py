"""Device, seed, processes and log."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from src import runtime
from src.errors import UserError
from src.midas_net import MidasNet

ROOT = Path(__file__).resolve().parents[1]


def test_the_seed_decides_the_initial_weights(small_network):
    def weights(seed: int) -> list[bytes]:
        runtime.start("CPU", seed=seed)
        return [p.asnumpy().tobytes() for p in MidasNet(**small_network).get_parameters()]

    first = weights(3)
    assert weights(3) == first
    assert weights(4) != first


def test_a_device_that_is_not_there_ends_in_one_line():
    code = (
        "from src import runtime; from src.errors import run_program; "
        "run_program(lambda: runtime.start('Ascend', 3))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        pytest.skip("this machine has an Ascend device")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: device_target: cannot use Ascend 3 on this machine")
    assert "--device_target CPU" in line


# --- Several processes ----------------------------------------------------------------------------


def test_without_msrun_there_is_one_process_and_nothing_to_wait_for():
    assert runtime.rank_and_size() == (0, 1)
    runtime.barrier()


def test_several_processes_need_msrun(monkeypatch):
    monkeypatch.delenv("MS_ROLE", raising=False)
    with pytest.raises(UserError, match=r"run_distribute: True needs .*src\.launch --workers"):
        runtime.start("CPU", run_distribute=True)
    assert runtime.rank_and_size() == (0, 1)


@pytest.mark.parametrize("role", ["MS_WORKER", "MS_SCHED"])
def test_msrun_needs_run_distribute(monkeypatch, role):
    """Otherwise each process would do all of the work, and write the same files."""
    monkeypatch.setenv("MS_ROLE", role)
    with pytest.raises(UserError, match=r"run_distribute: msrun .*--run_distribute True"):
        runtime.start("CPU")


@pytest.mark.parametrize(
    ("environment", "number"),
    [({}, 0), ({"DEVICE_ID": "5"}, 0), ({"MS_ROLE": "MS_WORKER", "DEVICE_ID": "5"}, 5)],
)
def test_the_number_within_the_machine_is_that_of_msrun(monkeypatch, environment, number):
    for key in ("MS_ROLE", "DEVICE_ID"):
        monkeypatch.delenv(key, raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert runtime.local_rank() == number


@pytest.mark.parametrize(
    ("role", "expected"),
    [("MS_WORKER", ["libraries", ("GPU", 3), "join"]), ("MS_SCHED", [("CPU",), "join"])],
)
def test_each_process_takes_the_gpu_of_its_rank_before_it_joins(monkeypatch, role, expected):
    """The scheduler, which computes nothing, takes none."""
    done: list[object] = []
    monkeypatch.setenv("MS_ROLE", role)
    monkeypatch.setenv("DEVICE_ID", "3")
    monkeypatch.setenv("MS_CPU_COMM_OP_TIMEOUT", "30")
    monkeypatch.setattr(runtime.gpu_libraries, "import_mindspore", lambda: done.append("libraries"))
    monkeypatch.setattr(ms, "set_device", lambda *arguments: done.append(arguments))
    monkeypatch.setattr(runtime, "_join", lambda: done.append("join"))
    runtime.start("GPU", device_id=7, run_distribute=True)
    assert done == expected


def msrun(tmp_path: Path, code: str, **env: str) -> list[str]:
    """The logs of two processes on the CPU, and of their scheduler."""
    program = tmp_path / "program.py"
    start = "from src import runtime\nruntime.start('CPU', run_distribute=True)\n"
    program.write_text(start + code)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = Path(sys.executable).parent
    kept = {key: value for key, value in os.environ.items() if key not in ("GLOG_v", "MS_ROLE")}
    paths = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    command = [folder / "msrun", "--worker_num=2", "--local_worker_num=2", "--join=True"]
    done = subprocess.run(
        [*command, f"--master_port={port}", f"--log_dir={tmp_path}", program],
        cwd=tmp_path,
        env=kept | paths | env,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout
    return [(tmp_path / f"{n}.log").read_text() for n in ("worker_0", "worker_1", "scheduler")]


def test_two_processes_add_in_float64_and_log_no_warnings(tmp_path):
    first = [0.1, 1e300, 1.0, -3.0, 5e-324, -0.0, float("inf"), 123456789.123456789]
    second = [0.2, 1e300, 1e-16, 3.0, 5e-324, 2.0, 1.0, -987654321.987654321]
    code = f"""
import os
import numpy as np
inf = np.inf
rank, _ = runtime.rank_and_size()
values = runtime.sum_over_ranks(np.array({[first, second]!r}[rank]))
runtime.barrier()
print("RESULT", rank, runtime.broadcast_text(f"chosen by {{rank}}"), "GLOG_v" in os.environ)
print("SUM", values.dtype, values.tobytes().hex())
"""
    *workers, scheduler = msrun(tmp_path, code)
    expected = np.array([a + b for a, b in zip(first, second, strict=True)]).tobytes().hex()
    for rank, log in enumerate(workers):
        assert f"RESULT {rank} chosen by 0 False\n" in log
        assert f"SUM float64 {expected}\n" in log
        assert "[WARNING]" not in log
    assert scheduler == ""


def test_a_user_who_asks_for_mindspores_log_gets_it(tmp_path):
    *workers, _ = msrun(tmp_path, "", GLOG_v="2")
    assert all("[WARNING]" in log for log in workers)


def test_one_process_adds_nothing():
    values = np.array([0.1, -2.0])
    total = runtime.sum_over_ranks(values)
    assert total.tolist() == [0.1, -2.0]
    assert total is not values


@pytest.mark.parametrize(("of_the_user", "seconds"), [(None, "1800"), ("77", "77")])
def test_a_rank_may_keep_the_others_waiting_for_half_an_hour(monkeypatch, of_the_user, seconds):
    """The variable's unit and effect are MindSpore's: 35 made it give up after 35.0 s."""
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    monkeypatch.setenv("MS_CPU_COMM_OP_TIMEOUT", of_the_user or "to be restored")
    if of_the_user is None:
        del os.environ["MS_CPU_COMM_OP_TIMEOUT"]
    monkeypatch.setattr(runtime, "_join", lambda: None)
    runtime.start("CPU", run_distribute=True)
    assert os.environ["MS_CPU_COMM_OP_TIMEOUT"] == seconds


# --- MindSpore's log ------------------------------------------------------------------------------


def test_mindspore_is_imported_by_start_and_not_before():
    """Else it is too late for its log level and for CUDA."""
    code = (
        "import os, sys; from src import runtime, cloud; from src.config import load_config\n"
        "print('mindspore' in sys.modules)\n"
        "runtime.start('CPU')\n"
        "print('mindspore' in sys.modules, 'GLOG_v' in os.environ)"
    )
    kept = {key: value for key, value in os.environ.items() if key not in ("GLOG_v", "MS_ROLE")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=kept, capture_output=True, text=True
    )
    assert (done.stdout.splitlines(), done.stderr) == (["False", "True False"], "")
