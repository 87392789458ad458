"""Which of oneDNN's CPU kernels MindSpore computes with, by a measurement of this machine.

MindSpore hands oneDNN its tensors in plain NCHW. On processors with AVX-512 oneDNN 3.10, the one in
MindSpore 2.10, then takes an implementation that transposes the input and ends in the reference
kernel, for all that is larger than 1x1: a 3x3 convolution takes 100 times as long as held to AVX2,
where it becomes a matrix product. Another version or processor may do better without the limit, so
both are timed, once on each machine, each in a process of its own, as oneDNN reads the variable
ONEDNN_MAX_CPU_ISA at its first convolution. One that the user has set is left alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from src.errors import UserError
from src.image_io import write_bytes

LOG = logging.getLogger("midas")
LIMIT = "ONEDNN_MAX_CPU_ISA"  # oneDNN's; MindSpore's and OpenVINO's both read it
HELD_TO = "AVX2"
_REPOSITORY = Path(__file__).resolve().parents[1]
_ATTEMPTS = 3
_TIMEOUT = 120  # seconds for one measurement, most of which is MindSpore's import
_ours: dict[str, str] = {}  # variables that this module has set, not the user


def choose() -> None:
    """Set oneDNN's limit in the environment, or not: what is faster here.

    It must come before MindSpore's first convolution. The measurement takes some ten seconds and is
    kept in `cache_file`; processors without AVX-512 (older x86, Arm) have no choice and need none.
    """
    if LIMIT in os.environ or not _has_avx512():
        return
    if _fastest() == HELD_TO:
        os.environ[LIMIT] = _ours[LIMIT] = HELD_TO


@contextlib.contextmanager
def unlimited() -> Iterator[None]:
    """Lift the limit that `choose` set, for a library that needs none.

    OpenVINO has a oneDNN of its own, which reads the variable when it first compiles a network:
    held to AVX2 it is 1.7 times slower, and bfloat16 fails. A limit of the user's stays.
    """
    limit = os.environ.get(LIMIT)
    is_ours = limit is not None and limit == _ours.get(LIMIT)
    if is_ours:
        del os.environ[LIMIT]
    try:
        yield
    finally:
        if is_ours:
            os.environ[LIMIT] = limit


def cache_file() -> Path:
    """Where measurements are kept, of all machines that share the home folder."""
    try:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # nobody knows of a home folder
        root = tempfile.gettempdir()
    return Path(root) / "midas" / "cpu_kernels.json"


def _fastest() -> str:
    """AVX2 or nothing: what was measured here, now or earlier."""
    key = _machine()
    with _alone():
        known = _read()
        if known.get(key) not in (HELD_TO, ""):
            seconds = {held_to: _measured(held_to) for held_to in (HELD_TO, "")}
            if not math.isfinite(min(seconds.values())):
                LOG.warning("CPU kernels: could not be measured; %s=%s", LIMIT, HELD_TO)
                return HELD_TO  # right on every machine that was seen so far
            known[key] = min(seconds, key=seconds.get)
            _tell(seconds, known[key])
            _keep(known)
    return known[key]


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Of processes that start together, one measures and the others wait for what it found."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            cache_file().parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(cache_file().with_suffix(".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _machine() -> str:
    """A key for all that the measurement depends on: processor and MindSpore."""
    flags = next((line for line in _cpuinfo().splitlines() if line.startswith("flags")), "")
    name = next((line for line in _cpuinfo().splitlines() if line.startswith("model name")), "")
    facts = (name, flags, len(os.sched_getaffinity(0)), version("mindspore"))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _measured(held_to: str) -> float:
    """Seconds of a 3x3 convolution; infinite where it fails or hangs."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MS_")}
    if held_to:
        environment[LIMIT] = held_to
    command = [sys.executable, "-m", "src.cpu_kernels"]
    try:
        done = subprocess.run(
            command, cwd=_REPOSITORY, env=environment, timeout=_TIMEOUT, capture_output=True
        )
        return float(done.stdout.split()[-1])
    except (subprocess.TimeoutExpired, OSError, ValueError, IndexError):
        return math.inf


def _tell(seconds: dict[str, float], fastest: str) -> None:
    held, free = (f"{seconds[key] * 1e3:.1f} ms" for key in (HELD_TO, ""))
    choice = f"{LIMIT}={HELD_TO}" if fastest else f"{LIMIT} not set"
    LOG.info(
        "CPU kernels: a 3x3 convolution takes %s held to %s, %s otherwise; %s (measured once, kept "
        "in %s)",
        *(held, HELD_TO, free, choice, cache_file()),
    )


def _read() -> dict[str, str]:
    """By machine: what its processes are held to, AVX2 or nothing."""
    try:
        known = json.loads(cache_file().read_bytes())
    except (OSError, ValueError):  # none yet, or damaged
        return {}
    return known if isinstance(known, dict) else {}


def _keep(known: dict[str, str]) -> None:
    try:
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        write_bytes(cache_file(), json.dumps(known, indent=1).encode())
    except (OSError, UserError) as error:
        LOG.warning("CPU kernels: not kept (%s); set %s to save the time", error, LIMIT)


def _has_avx512() -> bool:
    return platform.machine() in {"x86_64", "AMD64"} and "avx512f" in _cpuinfo()


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _time_convolution() -> float:
    """Seconds of a 3x3 convolution of 64 channels on 48x48 in this process, the best of some."""
    import mindspore as ms
    from mindspore import nn

    ms.set_device("CPU")
    layer = nn.Conv2d(64, 64, 3, pad_mode="pad", padding=1)
    image = ms.ops.ones((1, 64, 48, 48), ms.float32)
    layer(image).asnumpy()
    times = []
    for _ in range(_ATTEMPTS):
        start = time.perf_counter()
        layer(image).asnumpy()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    print(_time_convolution())
