"""The only module that touches MindSpore's global state: device, mode, seed, CPU kernels."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
from collections.abc import Iterator
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
        # Warnings about its queues would break up the progress bar. The logger has no public name.
        ms.log._get_logger().setLevel(logging.ERROR)
    try:
        with _mindspore_log_off():
            _choose_device(device_target, device_id)
    except Exception as error:
        raise UserError(
            f"device_target: cannot use {device_target} {device_id} on this machine "
            f"({_first_sentence(error)}); choose --device_target CPU, or install "
            "its driver (GLOG_v=2 in the environment says what is missing)"
        ) from None
    ms.set_seed(seed)


def _choose_device(device_target: str, device_id: int) -> None:
    """Select the device and try it."""
    if device_target == "CPU":
        ms.set_device("CPU")
    else:
        ms.set_device(device_target, device_id)
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.ops.ones((1,), ms.float32).asnumpy()


@contextlib.contextmanager
def _mindspore_log_off() -> Iterator[None]:
    """Keep MindSpore from logging pages about a device before it raises.

    Its own switch, the environment variable GLOG_v, turns the log on.
    """
    disabled = logging.root.manager.disable
    if "GLOG_v" not in os.environ:
        logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)


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


def _first_sentence(error: Exception) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return text[0].split(". ")[0].strip()
