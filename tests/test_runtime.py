"""Device, seed and CPU kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from src import runtime
from src.errors import UserError
from src.midas_net import MidasNet

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def environment(monkeypatch):
    """The environment without the variable; what the test does to it is undone."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "to be restored")
    del os.environ["ONEDNN_MAX_CPU_ISA"]
    return os.environ


@pytest.mark.parametrize(("avx512", "expected"), [(True, "AVX2"), (False, None)])
def test_onednn_is_limited_on_avx512_processors_only(environment, monkeypatch, avx512, expected):
    monkeypatch.setattr(runtime, "_has_avx512", lambda: avx512)
    runtime.start("CPU")
    assert environment.get("ONEDNN_MAX_CPU_ISA") == expected


def test_a_users_choice_of_cpu_kernels_stays(environment, monkeypatch):
    environment["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE"
    monkeypatch.setattr(runtime, "_has_avx512", lambda: True)
    runtime.start("CPU")
    assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE"


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
    with pytest.raises(UserError, match=r"run_distribute: True needs msrun: msrun --worker_num"):
        runtime.start("CPU", run_distribute=True)
    assert runtime.rank_and_size() == (0, 1)


@pytest.mark.parametrize("role", ["MS_WORKER", "MS_SCHED"])
def test_msrun_needs_run_distribute(monkeypatch, role):
    """Otherwise each process would do all of the work, and write the same files."""
    monkeypatch.setenv("MS_ROLE", role)
    with pytest.raises(UserError, match=r"run_distribute: msrun .*--run_distribute True"):
        runtime.start("CPU")
