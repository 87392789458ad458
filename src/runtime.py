"""The only module that touches MindSpore's global state: device, mode, seed.

It imports MindSpore when it is first needed, because `start` has to prepare that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from src import cpu_kernels, gpu_libraries
from src.errors import UserError

_LOG_SWITCH = "GLOG_v"  # MindSpore's environment variable
_COLLECTIVE_TIMEOUT = 1800  # seconds; longer than one rank may keep the others waiting


def start(
    device_target: str,
    device_id: int = 0,
    seed: int = 0,
    run_distribute: bool = False,
    checkpoints_only: bool = False,
) -> None:
    """Choose the device, graph mode and the seed, before the first network is built.

    It must come before the first import of MindSpore, which then brings the GPU plug-in, or not,
    and keeps its warnings to itself.

    Args:
        device_target: CPU, GPU or Ascend.
        device_id: which one; with `run_distribute` each process takes the device of its rank
            within the machine instead.
        seed: of MindSpore and NumPy.
        run_distribute: join the processes that msrun started.
        checkpoints_only: as of `cpu_kernels.choose`.

    Raises:
        UserError: the device is not usable on this machine, or `run_distribute` is not as msrun
            wants it.
    """
    _check_launch(run_distribute)
    if device_target == "CPU" and not is_scheduler():
        cpu_kernels.choose(checkpoints_only)
    if is_scheduler():
        device_target = "CPU"  # it computes nothing
    if run_distribute:
        device_id = local_rank()
        os.environ.setdefault("MS_CPU_COMM_OP_TIMEOUT", str(_COLLECTIVE_TIMEOUT))  # 30 otherwise
    _import_mindspore(device_target)
    import mindspore as ms

    with _device_errors(device_target, device_id):
        _choose_device(device_target, device_id)
    if run_distribute:
        _join()
    with _device_errors(device_target, device_id):
        ms.ops.ones((1,), ms.float32).asnumpy()
    ms.set_seed(seed)
    ms.dataset.config.set_prefetch_size(4)  # batches ahead; of its 16 a large batch makes gigabytes


def restore_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again, after a graph was compiled.

    MindSpore then puts a handler in place that ends the process without a word.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_scheduler() -> bool:
    """Whether this is the process of msrun that only brings the others together."""
    return os.environ.get("MS_ROLE") == "MS_SCHED"


def local_rank() -> int:
    """This process's number on its machine; 0 without msrun. Known before MindSpore is imported."""
    return int(os.environ.get("DEVICE_ID", "0")) if "MS_ROLE" in os.environ else 0


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without msrun, or before `start`."""
    if "mindspore" not in sys.modules:
        return 0, 1
    from mindspore import communication

    if communication.GlobalComm.INITED:
        return communication.get_rank(), communication.get_group_size()
    return 0, 1


def barrier() -> None:
    """Wait until all processes are here.

    On a CPU a collective fails after 30 minutes (`start` sets that; MindSpore's own limit is 30
    seconds), or the seconds of the environment variable MS_CPU_COMM_OP_TIMEOUT.
    """
    _all_reduce(np.ones(1, np.float32))  # there is no Barrier operator on a CPU


def sum_over_ranks(values: np.ndarray) -> np.ndarray:
    """Add a small vector over all processes, with the same result, bit for bit, in each of them.

    Args:
        values: float64 [n], of every process.

    Returns:
        float64 [n]: the sum in the order of the ranks, in float64 arithmetic.
    """
    rank, ranks = rank_and_size()
    if ranks == 1:
        return values.copy()
    # A CPU reduces float32 alone. So each value travels as four 16-bit numbers, which float32 holds
    # exactly, in a row of its own rank: all that is added to them is 0.
    parts = np.zeros((ranks, values.size * 4), np.float32)
    parts[rank] = np.ascontiguousarray(values, np.float64).view(np.uint16)
    gathered = _all_reduce(parts).astype(np.uint16).view(np.float64)
    total = np.zeros(values.size)
    for row in gathered:
        total += row
    return total


def broadcast(values: np.ndarray) -> np.ndarray:
    """What the first process gives, in every process; float32, of the same shape in all of them."""
    rank, ranks = rank_and_size()
    if ranks == 1:
        return values
    return _all_reduce(values if rank == 0 else np.zeros_like(values))  # a CPU has no Broadcast


def broadcast_text(text: str) -> str:
    """The text that the first process gives, in every process; at most 4,096 bytes of UTF-8."""
    codes = np.zeros(4096, np.float32)
    data = text.encode()
    codes[: len(data)] = np.frombuffer(data, np.uint8)
    return broadcast(codes).astype(np.uint8).tobytes().rstrip(b"\0").decode()


def opencv_threads_off() -> None:
    """Let every call of OpenCV in this process use one thread: where calls themselves come from
    several threads, more only get into each other's way."""
    import cv2

    cv2.setNumThreads(1)


def cache_graphs(folder: Path | None) -> None:
    """Read compiled graphs from a folder, or write them there; None: compile every graph anew."""
    import mindspore as ms

    if folder is None:
        ms.set_context(enable_compile_cache=False)
    else:
        ms.set_context(enable_compile_cache=True, compile_cache_path=str(folder))


def _all_reduce(values: np.ndarray) -> np.ndarray:
    """The sum of float32 [...] over all processes."""
    if rank_and_size() == (0, 1):
        return values
    import mindspore as ms

    return ms.ops.AllReduce()(ms.Tensor(values)).asnumpy()


def _import_mindspore(device_target: str) -> None:
    """Import MindSpore with what it reads only then: its log level and where CUDA is.

    Its warnings, a hundred and more lines in each process of msrun, would break up the progress
    bar; errors stay. The variable is taken back: if it is there, the user asked for the log.
    """
    with contextlib.ExitStack() as restored:
        if _LOG_SWITCH not in os.environ:
            os.environ[_LOG_SWITCH] = "3"  # errors
            restored.callback(os.environ.pop, _LOG_SWITCH)
        if device_target == "GPU":
            gpu_libraries.import_mindspore()
        else:
            import mindspore  # noqa: F401


def _check_launch(run_distribute: bool) -> None:
    launched = "MS_ROLE" in os.environ  # of workers and of their scheduler
    if run_distribute and not launched:
        raise UserError(
            "run_distribute: True needs other processes; start all of them with: "
            "python -m src.launch --workers N -- PROGRAM --run_distribute True"
        )
    if launched and not run_distribute:
        raise UserError("run_distribute: msrun started this process; add --run_distribute True")


def _join() -> None:
    """Join the other processes; their scheduler stays in here until all are done."""
    from mindspore import communication

    try:
        with mindspore_log_off():
            communication.init()
    except Exception as error:
        raise UserError(
            f"run_distribute: the processes that msrun started did not stay together "
            f"({_first_sentence(error)}); the logs beside this one say which one stopped, and why"
        ) from None


def _choose_device(device_target: str, device_id: int) -> None:
    """Select the device. Nothing may run on it before the processes of msrun have joined."""
    import mindspore as ms

    if device_target == "CPU":
        ms.set_device(device_target)
    else:
        ms.set_device(device_target, device_id)
    ms.set_context(mode=ms.GRAPH_MODE)


@contextlib.contextmanager
def _device_errors(device_target: str, device_id: int) -> Iterator[None]:
    """Explain in one line why a device does not work."""
    try:
        with mindspore_log_off():
            yield
    except Exception as error:
        raise UserError(
            f"device_target: cannot use {device_target} {device_id} on this machine "
            f"({_first_sentence(error)}); choose --device_target CPU, or install "
            "its driver (GLOG_v=2 in the environment says what is missing)"
        ) from None


@contextlib.contextmanager
def mindspore_log_off() -> Iterator[None]:
    """Keep MindSpore from logging, sometimes pages, before it raises.

    Its own switch, the environment variable GLOG_v, turns the log on.
    """
    disabled = logging.root.manager.disable
    if _LOG_SWITCH not in os.environ:
        logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)


def _first_sentence(error: Exception) -> str:
    """Of MindSpore's text, without the headings it draws between lines of dashes."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith("-")]
    return (told or [type(error).__name__])[0].split(". ")[0]
