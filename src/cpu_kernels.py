"""What computes convolutions on this CPU, by a measurement of it.

MindSpore hands oneDNN its tensors in plain NCHW. On processors with AVX-512 oneDNN 3.10, the one in
MindSpore 2.10, then takes an implementation that transposes the input and ends in the reference
kernel, for all that is larger than 1x1: a 3x3 convolution takes 100 times as long as held to AVX2,
where it becomes a matrix product. onednn_conv/, where it is built, lets oneDNN choose the layouts,
which other processors may gain less by. So all are timed, once on each machine, each in a process
of its own, as oneDNN reads the variable ONEDNN_MAX_CPU_ISA at its first convolution. One that the
user has set is left alone.
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
SWITCH = "MIDAS_ONEDNN_CONV"  # 0 or 1: without or with onednn_conv/, whatever is faster
# What can compute:
HELD_TO = "AVX2"  # MindSpore's convolutions, held to this
FREE = ""  # MindSpore's convolutions
OWN = "onednn_conv"  # of this repository
_REPOSITORY = Path(__file__).resolve().parents[1]
LIBRARY = _REPOSITORY / "onednn_conv" / "out" / "libconvolution.so"
_ATTEMPTS = 5
_SLOW = 1.0  # seconds that one attempt tells enough after
_TIMEOUT = 120  # seconds for one measurement, most of which is MindSpore's import
_CHANNELS, _SIZE = 128, 64  # of what is measured
# How long OpenMP's threads turn before they sleep: some 20 us, the gap between two parts of a
# convolution. Left alone they turn for milliseconds, while MindSpore's own threads need the cores:
# a training step of the quickstart's network takes 0.38 s instead of 0.16 s on two cores.
TURNS = {"GOMP_SPINCOUNT": "2000"}
_TURNS_OF_THE_USER = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
_ours: dict[str, str] = {}  # variables that this module has set, not the user
_chosen = FREE


def choose(checkpoints_only: bool = False) -> None:
    """Set oneDNN's limit in the environment, or not, and take onednn_conv/, or not: what computes a
    3x3 convolution of the decoder's kind the fastest.

    It must come before MindSpore's first convolution. The measurement takes some ten seconds and is
    kept in `cache_file`. Without onednn_conv/, processors without AVX-512 (older x86, Arm) have no
    choice and need none.

    Args:
        checkpoints_only: the process computes no network but those that it builds itself. The
            others, out of .mindir files, have MindSpore's convolutions, which need the limit.

    Raises:
        UserError: the variable MIDAS_ONEDNN_CONV is neither 0 nor 1, or 1 without the library.
    """
    global _chosen
    if os.environ.get(LIMIT) == _ours.get(LIMIT):  # of an earlier choice
        os.environ.pop(LIMIT, None)
    ways = _ways(checkpoints_only)
    _chosen = ways[0] if len(ways) == 1 else _fastest(ways)
    if _chosen == HELD_TO:
        _ours[LIMIT] = HELD_TO
    os.environ.update(_settings(_chosen))


def chose_own() -> bool:
    """Whether onednn_conv/ computes the convolutions of networks that this process builds."""
    return _chosen == OWN


def facts() -> tuple[str | None, ...]:
    """What compiled graphs depend on: the limit; place and content of a library in use."""
    limit = os.environ.get(LIMIT)
    return (limit, str(LIBRARY), _library_hash()) if chose_own() else (limit,)


def _ways(checkpoints_only: bool) -> list[str]:
    """What may compute in this process."""
    ways = [HELD_TO, FREE] if _has_avx512() and LIMIT not in os.environ else [FREE]
    wanted = os.environ.get(SWITCH)
    if wanted not in {None, "0", "1"}:
        raise UserError(f"{SWITCH}: expected 0 or 1, got '{wanted}'")
    is_there = os.access(LIBRARY, os.R_OK) and ":" not in str(LIBRARY)  # MindSpore splits at that
    if wanted == "1" and not is_there:
        raise UserError(
            f"{SWITCH}=1: no {LIBRARY} that can be read, in a path without ':'; run "
            "'bash onednn_conv/build.sh'"
        )
    if not checkpoints_only or wanted == "0" or not is_there:
        return ways
    return [OWN] if wanted == "1" else [OWN, *ways]


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


def _fastest(ways: list[str]) -> str:
    """One of these: what was measured here, now or earlier."""
    key = _machine(OWN in ways)
    with _alone():
        known = _read()
        if known.get(key) not in ways:
            seconds = {way: _measured(way) for way in ways}
            if not math.isfinite(min(seconds.values())):
                safe = HELD_TO if HELD_TO in ways else FREE
                LOG.warning("CPU kernels: could not be measured; %s", _in_words(safe))
                return safe  # AVX2 was right on every machine that was seen so far
            known[key] = min(seconds, key=seconds.get)
            where = _keep(known)
            _tell(seconds, known[key], where)
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


def _machine(with_own: bool) -> str:
    """A key for all that the measurement depends on: processor, MindSpore, limit and library."""
    flags = next((line for line in _cpuinfo().splitlines() if line.startswith("flags")), "")
    name = next((line for line in _cpuinfo().splitlines() if line.startswith("model name")), "")
    known = [name, flags, len(os.sched_getaffinity(0)), version("mindspore")]
    if with_own:
        known += [os.environ.get(LIMIT), _library_hash()]
    return hashlib.sha256(repr(tuple(known)).encode()).hexdigest()[:32]


def _library_hash() -> str:
    return hashlib.sha256(LIBRARY.read_bytes()).hexdigest()


def _settings(way: str) -> dict[str, str]:
    """Variables that a process needs to compute this way."""
    if way == HELD_TO:
        return {LIMIT: HELD_TO}
    return TURNS if way == OWN and not _TURNS_OF_THE_USER & os.environ.keys() else {}


def _measured(way: str) -> float:
    """Seconds of a 3x3 convolution; infinite where it fails, hangs or computes something else."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MS_")}
    environment.pop("OMP_NUM_THREADS", None)  # one answer for all that run on this machine
    environment |= _settings(way)
    command = [sys.executable, "-m", "src.cpu_kernels", way]
    try:
        done = subprocess.run(
            command, cwd=_REPOSITORY, env=environment, timeout=_TIMEOUT, capture_output=True
        )
        return float(done.stdout.split()[-1]) if done.returncode == 0 else math.inf
    except (subprocess.TimeoutExpired, OSError, ValueError, IndexError):
        return math.inf


def _tell(seconds: dict[str, float], fastest: str, where: str) -> None:
    named = {OWN: "by onednn_conv", HELD_TO: f"held to {HELD_TO}", FREE: "otherwise"}
    times = [
        f"{taken * 1e3:.1f} ms {named[way]}" if math.isfinite(taken) else f"fails {named[way]}"
        for way, taken in seconds.items()
    ]
    LOG.info(
        "CPU kernels: a 3x3 convolution takes %s; %s (measured once%s)",
        *(", ".join(times), _in_words(fastest), where),
    )


def _in_words(way: str) -> str:
    if way == OWN:
        return "onednn_conv computes"
    return f"{LIMIT}={HELD_TO}" if way == HELD_TO else f"{LIMIT} left as it is"


def _read() -> dict[str, str]:
    """By machine: which way its processes compute."""
    try:
        known = json.loads(cache_file().read_bytes())
    except (OSError, ValueError):  # none yet, or damaged
        return {}
    return known if isinstance(known, dict) else {}


def _keep(known: dict[str, str]) -> str:
    """Keep what was measured; where it is kept, in words, which are empty if it cannot be."""
    try:
        cache_file().parent.mkdir(parents=True, exist_ok=True)
        write_bytes(cache_file(), json.dumps(known, indent=1).encode())
    except (OSError, UserError) as error:
        LOG.warning("CPU kernels: not kept (%s), so every start measures anew", error)
        return ""
    return f", kept in {cache_file()}"


def _has_avx512() -> bool:
    return platform.machine() in {"x86_64", "AMD64"} and "avx512f" in _cpuinfo()


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _time_convolution(way: str) -> float:
    """Seconds of a 3x3 convolution in this process, the best of some.

    Raises:
        ArithmeticError: it computes something else.
    """
    import mindspore as ms
    from mindspore import nn

    from src.onednn_conv import OneDnnConv2d

    ms.set_device("CPU")
    kind = OneDnnConv2d if way == OWN else nn.Conv2d
    layer = kind(_CHANNELS, _CHANNELS, 3, pad_mode="pad", padding=1, weight_init="ones")
    image = ms.ops.ones((1, _CHANNELS, _SIZE, _SIZE), ms.float32)
    start = time.perf_counter()
    output = layer(image).asnumpy()
    first = time.perf_counter() - start
    if output.min() != 4 * _CHANNELS or output.max() != 9 * _CHANNELS:  # corners, inside
        raise ArithmeticError("a sum of ones is wrong")
    times = [first]
    while len(times) <= _ATTEMPTS and first < _SLOW:
        start = time.perf_counter()
        layer(image).asnumpy()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    print(_time_convolution(sys.argv[1]))
