"""The only module that touches MindSpore's global state: device, mode, seed, CPU kernels."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import mindspore as ms
from mindspore import communication

from src.errors import UserError


def start(
    device_target: str, device_id: int = 0, seed: int = 0, run_distribute: bool = False
) -> None:
    """Choose the device, graph mode and the seed, before the first network is built.

    Args:
        device_target: CPU, GPU or Ascend.
        device_id: which one; with `run_distribute` each process takes the device of its rank.
        seed: of MindSpore and NumPy.
        run_distribute: join the processes that msrun started.

    Raises:
        UserError: the device is not usable on this machine, or `run_distribute` is not as msrun
            wants it.
    """
    _choose_cpu_kernels()
    if "GLOG_v" not in os.environ:  # MindSpore's own switch
        # Warnings about its queues would break up the progress bar. The logger has no public name.
        ms.log._get_logger().setLevel(logging.ERROR)
    _check_launch(run_distribute)
    try:
        with mindspore_log_off():
            _choose_device(device_target, None if run_distribute else device_id)
    except Exception as error:
        raise UserError(
            f"device_target: cannot use {device_target} {device_id} on this machine "
            f"({_first_sentence(error)}); choose --device_target CPU, or install "
            "its driver (GLOG_v=2 in the environment says what is missing)"
        ) from None
    if run_distribute:
        _join()
    ms.set_seed(seed)


def restore_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, after a graph was compiled.

    MindSpore then puts a handler in place that ends the process without a word.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without msrun."""
    if communication.GlobalComm.INITED:
        return communication.get_rank(), communication.get_group_size()
    return 0, 1


def barrier() -> None:
    """Wait until all processes are here; on a CPU they must be within 30 seconds of each other."""
    if communication.GlobalComm.INITED:  # there is no Barrier operator on a CPU
        ms.ops.AllReduce()(ms.ops.ones((1,), ms.float32)).asnumpy()


def _check_launch(run_distribute: bool) -> None:
    launched = "MS_ROLE" in os.environ  # of workers and of their scheduler
    if run_distribute and not launched:
        raise UserError("run_distribute: True needs msrun: msrun --worker_num=N python PROGRAM ...")
    if launched and not run_distribute:
        raise UserError("run_distribute: msrun started this process; add --run_distribute True")


def _join() -> None:
    """Join the other processes; their scheduler stays in here until all are done."""
    try:
        with mindspore_log_off():
            communication.init()
    except Exception as error:
        raise UserError(
            f"run_distribute: the processes that msrun started did not stay together "
            f"({_first_sentence(error)}); the logs of its --log_dir say which one stopped, and why"
        ) from None


def _choose_device(device_target: str, device_id: int | None) -> None:
    """Select the device, or that of the process's rank, and try it."""
    if device_target == "CPU" or device_id is None:
        ms.set_device(device_target)
    else:
        ms.set_device(device_target, device_id)
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.ops.ones((1,), ms.float32).asnumpy()


@contextlib.contextmanager
def mindspore_log_off() -> Iterator[None]:
    """Keep MindSpore from logging, sometimes pages, before it raises.

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
