"""The choice of oneDNN's kernels: measured once, kept, the user's first."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from src import cpu_kernels, runtime

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """A machine with AVX-512 that nothing is known of; what a test does to variables is undone."""
    monkeypatch.setenv(cpu_kernels.LIMIT, "to be restored")
    del os.environ[cpu_kernels.LIMIT]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cpu_kernels, "_cpuinfo", lambda: "model name : X\nflags : avx2 avx512f\n")
    monkeypatch.setattr(cpu_kernels.platform, "machine", lambda: "x86_64")
    return os.environ


@pytest.fixture
def timed(monkeypatch):
    """Stands in for the two processes; what was timed, and how long it shall take."""
    seconds = {"AVX2": 0.005, "": 0.6}
    calls: list[str] = []

    def measured(held_to: str) -> float:
        calls.append(held_to)
        return seconds[held_to]

    monkeypatch.setattr(cpu_kernels, "_measured", measured)
    return seconds, calls


@pytest.mark.parametrize(("free", "expected"), [(0.6, "AVX2"), (0.004, None)])
def test_the_faster_kernels_are_chosen(environment, timed, free, expected):
    timed[0][""] = free
    cpu_kernels.choose()
    assert environment.get("ONEDNN_MAX_CPU_ISA") == expected


@pytest.mark.parametrize("free", [0.6, 0.004])
def test_it_is_measured_once_and_told_once(environment, timed, caplog, free):
    timed[0][""] = free
    caplog.set_level(logging.INFO, "midas")
    cpu_kernels.choose()
    chosen = environment.pop("ONEDNN_MAX_CPU_ISA", None)
    cpu_kernels.choose()
    assert environment.get("ONEDNN_MAX_CPU_ISA") == chosen
    assert timed[1] == ["AVX2", ""]
    assert len(caplog.messages) == 1
    assert f"5.0 ms held to AVX2, {free * 1e3:.1f} ms otherwise" in caplog.messages[0]


def test_another_processor_or_mindspore_is_measured_anew(environment, timed, monkeypatch):
    cpu_kernels.choose()
    for change in (
        lambda: monkeypatch.setattr(
            cpu_kernels, "_cpuinfo", lambda: "model name : Y\nflags : avx512f"
        ),
        lambda: monkeypatch.setattr(cpu_kernels, "version", lambda package: "9.9"),
    ):
        del environment["ONEDNN_MAX_CPU_ISA"]
        change()
        cpu_kernels.choose()
    assert timed[1] == ["AVX2", ""] * 3
    assert len(json.loads(cpu_kernels.cache_file().read_bytes())) == 3  # earlier ones are kept


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"foreign"])
def test_a_damaged_file_is_measured_anew(environment, timed, content):
    if content == b"foreign":
        content = json.dumps({cpu_kernels._machine(): {"seconds": {}}}).encode()
    cpu_kernels.cache_file().parent.mkdir(parents=True)
    cpu_kernels.cache_file().write_bytes(content)
    cpu_kernels.choose()
    assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert timed[1] == ["AVX2", ""]


def test_where_nothing_can_be_kept_it_goes_on(environment, timed, caplog, tmp_path):
    (tmp_path / "cache").write_text("a file")
    cpu_kernels.choose()
    assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert any("not kept" in message for message in caplog.messages)


def test_without_a_home_folder_it_is_kept_among_temporary_files(environment, timed, monkeypatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    kept = cpu_kernels.cache_file().parents[1]
    monkeypatch.setattr(cpu_kernels.tempfile, "gettempdir", lambda: str(kept))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    cpu_kernels.choose()
    assert json.loads((kept / "midas" / "cpu_kernels.json").read_bytes())


def test_processes_that_start_together_measure_once(environment, timed, monkeypatch):
    """The second waits until the first has kept what it found."""
    measured, second = cpu_kernels._measured, []

    def slowly(held_to: str) -> float:
        if not second:
            second.append(threading.Thread(target=cpu_kernels._fastest))
            second[0].start()
            second[0].join(0.2)
            assert second[0].is_alive()
        return measured(held_to)

    monkeypatch.setattr(cpu_kernels, "_measured", slowly)
    cpu_kernels.choose()
    second[0].join()
    assert timed[1] == ["AVX2", ""]


@pytest.mark.parametrize(
    ("device", "role"), [("GPU", None), ("Ascend", None), ("CPU", "MS_SCHED"), ("GPU", "MS_SCHED")]
)
def test_other_devices_and_the_scheduler_need_no_choice(
    environment, timed, monkeypatch, device, role
):
    class StopError(Exception):
        pass

    def stop(*_: object) -> None:
        raise StopError

    if role:
        monkeypatch.setenv("MS_ROLE", role)
    monkeypatch.setattr(runtime, "_import_mindspore", stop)
    with pytest.raises(StopError):
        runtime.start(device, run_distribute=role is not None)
    assert timed[1] == []
    assert "ONEDNN_MAX_CPU_ISA" not in environment


def test_a_measurement_that_fails_is_not_kept(environment, timed, caplog):
    timed[0].update({"AVX2": float("inf"), "": float("inf")})
    cpu_kernels.choose()
    assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert not cpu_kernels.cache_file().exists()
    assert "could not be measured" in caplog.text


@pytest.mark.parametrize(
    ("machine", "cpuinfo"),
    [("x86_64", "flags : avx2"), ("aarch64", "Features : sve avx512f"), ("x86_64", "")],
)
def test_processors_without_avx512_need_no_choice(
    environment, timed, monkeypatch, machine, cpuinfo
):
    monkeypatch.setattr(cpu_kernels.platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu_kernels, "_cpuinfo", lambda: cpuinfo)
    cpu_kernels.choose()
    assert "ONEDNN_MAX_CPU_ISA" not in environment
    assert timed[1] == []


def test_a_users_choice_stays(environment, timed):
    environment["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE"
    runtime.start("CPU")
    assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE"
    with cpu_kernels.unlimited():  # it holds for other libraries too
        assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE"
    assert timed[1] == []


def test_the_limit_is_lifted_for_other_libraries_and_comes_back(environment, timed):
    runtime.start("CPU")
    with pytest.raises(KeyError), cpu_kernels.unlimited():
        assert "ONEDNN_MAX_CPU_ISA" not in environment
        raise KeyError
    assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"


def test_the_measurement_tells_the_seconds_of_a_convolution():
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-m", "src.cpu_kernels"]
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert float(told.stdout) > 0
    assert math.isfinite(cpu_kernels._measured("AVX2"))
