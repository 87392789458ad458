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
from src.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """A machine with AVX-512 that nothing is known of; what a test does to variables is undone."""
    monkeypatch.setenv(cpu_kernels.LIMIT, "to be restored")
    del os.environ[cpu_kernels.LIMIT]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in (cpu_kernels.SWITCH, "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "to be restored")
        del os.environ[name]
    monkeypatch.setattr(cpu_kernels, "_chosen", cpu_kernels.FREE)
    monkeypatch.setattr(cpu_kernels, "_ours", {})
    monkeypatch.setattr(cpu_kernels, "_cpuinfo", lambda: "model name : X\nflags : avx2 avx512f\n")
    monkeypatch.setattr(cpu_kernels.platform, "machine", lambda: "x86_64")
    return os.environ


@pytest.fixture
def timed(monkeypatch):
    """Stands in for the processes; what was timed, and how long it shall take."""
    seconds = {"AVX2": 0.005, "": 0.6, "onednn_conv": 0.003}
    calls: list[str] = []

    def measured(way: str) -> float:
        calls.append(way)
        return seconds[way]

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
        content = json.dumps({cpu_kernels._machine(False): {"seconds": {}}}).encode()
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
    measured, second, ways = cpu_kernels._measured, [], ["AVX2", ""]

    def slowly(way: str) -> float:
        if not second:
            second.append(threading.Thread(target=cpu_kernels._fastest, args=(ways,)))
            second[0].start()
            second[0].join(0.2)
            assert second[0].is_alive()
        return measured(way)

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
    command = [sys.executable, "-m", "src.cpu_kernels", "AVX2"]
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert float(told.stdout) > 0
    assert math.isfinite(cpu_kernels._measured("AVX2"))


# --- onednn_conv/ ---------------------------------------------------------------------------------


@pytest.fixture
def library(environment, timed, monkeypatch, tmp_path):
    """A library that is built; how long it shall take is of `timed`."""
    path = tmp_path / "libconvolution.so"
    path.write_bytes(b"built")
    monkeypatch.setattr(cpu_kernels, "LIBRARY", path)
    return path


@pytest.mark.parametrize(
    ("own", "free", "expected"),
    [
        (0.003, 0.6, "onednn_conv"),
        (0.006, 0.6, "AVX2"),
        (0.006, 0.004, ""),
        (math.inf, 0.6, "AVX2"),
    ],
)
def test_the_own_library_is_taken_where_it_is_the_fastest(
    environment, timed, library, own, free, expected
):
    timed[0].update({"onednn_conv": own, "": free})
    for measured in (["onednn_conv", "AVX2", ""], []):  # the second time it is known
        timed[1].clear()
        cpu_kernels.choose(checkpoints_only=True)
        assert cpu_kernels.chose_own() == (expected == "onednn_conv")
        assert environment.pop("ONEDNN_MAX_CPU_ISA", "") == expected.replace("onednn_conv", "")
        assert timed[1] == measured


@pytest.mark.parametrize("own", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_its_threads_sleep_soon_unless_the_user_says_otherwise(environment, timed, library, own):
    environment.update(own)
    cpu_kernels.choose(checkpoints_only=True)
    found = {key: environment[key] for key in cpu_kernels._TURNS_OF_THE_USER & environment.keys()}
    assert found == (own or {"GOMP_SPINCOUNT": "2000"})


def test_graphs_of_files_keep_mindspores_convolutions(environment, timed, library):
    """Their convolutions would be 100 times slower without the limit."""
    cpu_kernels.choose(checkpoints_only=True)
    cpu_kernels.choose()
    assert not cpu_kernels.chose_own()
    assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"


def test_its_own_limit_is_no_users(environment, timed, library):
    """A process chooses again: what it set itself does not bind it."""
    cpu_kernels.choose()
    assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    cpu_kernels.choose(checkpoints_only=True)
    assert "ONEDNN_MAX_CPU_ISA" not in environment
    assert timed[1] == ["AVX2", "", "onednn_conv", "AVX2", ""]


def test_processes_of_fewer_threads_compute_as_the_others(environment, timed, library, monkeypatch):
    for threads in "12":
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        cpu_kernels.choose(checkpoints_only=True)
    assert timed[1] == ["onednn_conv", "AVX2", ""]


def test_another_library_is_measured_anew(environment, timed, library):
    cpu_kernels.choose(checkpoints_only=True)
    found = cpu_kernels.facts()
    library.write_bytes(b"another")
    cpu_kernels.choose(checkpoints_only=True)
    assert timed[1] == ["onednn_conv", "AVX2", ""] * 2
    assert cpu_kernels.facts() != found  # nor are graphs taken that were compiled with it


def test_a_users_limit_holds_for_the_own_library_too(environment, timed, library):
    environment["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    cpu_kernels.choose(checkpoints_only=True)
    assert timed[1] == ["onednn_conv", ""]
    assert environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"


def test_processors_without_avx512_choose_by_measurement_too(
    environment, timed, library, monkeypatch, caplog
):
    caplog.set_level(logging.INFO, "midas")
    monkeypatch.setattr(cpu_kernels, "_cpuinfo", lambda: "flags : avx2")
    timed[0][""] = 0.002
    cpu_kernels.choose(checkpoints_only=True)
    assert timed[1] == ["onednn_conv", ""]
    assert not cpu_kernels.chose_own()
    assert "ONEDNN_MAX_CPU_ISA" not in environment
    assert "3.0 ms by onednn_conv, 2.0 ms otherwise; " in caplog.text


@pytest.mark.parametrize("wanted", ["0", "1"])
def test_the_user_has_the_last_word(environment, timed, library, monkeypatch, wanted):
    monkeypatch.setenv("MIDAS_ONEDNN_CONV", wanted)
    timed[0]["onednn_conv"] = {"0": 0.001, "1": 1.0}[wanted]
    cpu_kernels.choose(checkpoints_only=True)
    assert cpu_kernels.chose_own() == (wanted == "1")
    assert "onednn_conv" not in timed[1]


@pytest.mark.parametrize("value", ["yes", "", "2"])
def test_another_word_of_the_users_is_an_error(environment, timed, monkeypatch, value):
    monkeypatch.setenv("MIDAS_ONEDNN_CONV", value)
    with pytest.raises(UserError, match="MIDAS_ONEDNN_CONV: expected 0 or 1, got "):
        cpu_kernels.choose(checkpoints_only=True)


def test_a_library_that_is_wanted_and_not_built_is_an_error(
    environment, timed, library, monkeypatch
):
    library.unlink()
    monkeypatch.setenv("MIDAS_ONEDNN_CONV", "1")
    with pytest.raises(UserError, match=r"bash onednn_conv/build\.sh"):
        cpu_kernels.choose(checkpoints_only=True)


def test_a_broken_library_fails_in_the_measurements_process(tmp_path):
    broken = tmp_path / "libconvolution.so"
    broken.write_bytes(b"no library")
    program = (
        "from pathlib import Path; from src import cpu_kernels; "
        f"cpu_kernels.LIBRARY = Path({str(broken)!r}); "
        "print(cpu_kernels._time_convolution(cpu_kernels.OWN))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stdout == ""
