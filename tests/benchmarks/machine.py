"""The machine that figures were measured on."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("mindspore", "torch", "numpy", "opencv-python-headless", "pillow", "openvino")
BUSY = ("user", "nice", "system", "irq", "softirq", "steal")  # of psutil.cpu_times
SWITCHES = ("ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")


def describe() -> dict[str, Any]:
    """Processor, cores, memory in bytes, system, versions, and variables that change the speed."""
    return {
        "processor": _processor(Path("/proc/cpuinfo")),
        "cores": len(os.sched_getaffinity(0)),
        "memory": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": {name: _version(name) for name in PACKAGES},
        "environment": {name: os.environ[name] for name in SWITCHES if name in os.environ},
    }


def in_words(machine: dict[str, Any]) -> str:
    """One sentence of it."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    switches = "".join(f", {name}={value}" for name, value in machine["environment"].items())
    return (
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory'] / 2**30:.0f} GiB, "
        f"{machine['system']}, {versions}{switches}"
    )


def load() -> float:
    """Processes that wanted to run in the last minute, on average."""
    return round(os.getloadavg()[0], 2)


@dataclass
class Usage:
    """Seconds since some moment: of the clock, of all cores at work, and of this program's ended
    children and theirs. Time that a host took away from a virtual machine counts as work."""

    clock: float
    busy: float
    own: float

    @classmethod
    def now(cls) -> Usage:
        cores, children = psutil.cpu_times(), os.times()
        busy = sum(getattr(cores, name, 0.0) for name in BUSY)
        own = children.children_user + children.children_system
        return cls(time.monotonic(), busy, own)

    def others_since(self, start: Usage) -> float:
        """The share of all cores' time that other programs took, in percent."""
        others = (self.busy - start.busy) - (self.own - start.own)
        whole = (self.clock - start.clock) * psutil.cpu_count()
        return round(100 * max(0.0, others) / whole, 1)


def _processor(cpuinfo: Path) -> str:
    """Its name, and the widest vectors that it computes with."""
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    text = cpuinfo.read_text()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    vectors = "AVX-512" if "avx512f" in text else "AVX2" if "avx2" in text else ""
    return " ".join(filter(None, [names[0] if names else platform.machine(), vectors]))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
