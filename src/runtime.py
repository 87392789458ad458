"""The only module that touches MindSpore's global state: device, mode, seed, CPU kernels."""

from __future__ import annotations

import logging
import os
import platform
from pathlib import Path

import mindspore as ms

from src.errors import UserError


def start(device_target: str, device_id: int = 0, seed: int = 0) -> None:
    """Choose the device, graph mode and the seed, before the first network is built.

    Raises:
        UserError: the device is not usable on this machine.
    """
    _choose_cpu_kernels()
    if "GLOG_v" not in os.environ:  # MindSpore's own switch
        logging.getLogger("ME").setLevel(logging.ERROR)
    try:
        if device_target == "CPU":
            ms.set_device("CPU")
        else:
            ms.set_device(device_target, device_id)
        ms.set_context(mode=ms.GRAPH_MODE)
        ms.ops.ones((1,), ms.float32).asnumpy()
    except Exception as error:
        raise UserError(
            f"device_target: cannot use {device_target} {device_id} on this machine "
            f"({_first_line(error)}); choose --device_target CPU, or install its driver"
        ) from None
    ms.set_seed(seed)


def _choose_cpu_kernels() -> None:
    """Keep oneDNN off its slow path on AVX-512 processors.

    MindSpore 2.10's oneDNN falls back to its reference kernel there for kernels larger than 1x1
    (16 s instead of 0.14 s for a 3x3 256->256 convolution on 96x96). oneDNN reads the variable at
    its first convolution.
    """
    if _has_avx512():
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")


def _has_avx512() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() not in {"x86_64", "AMD64"} or not cpuinfo.exists():
        return False
    return "avx512f" in cpuinfo.read_text()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()
