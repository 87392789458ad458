"""CUDA for MindSpore's GPU plug-in: the extra `gpu` installs its libraries, this makes them found.

The dynamic loader reads LD_LIBRARY_PATH once, when a program starts; but a library that is loaded
already is found by its name from then on. So the libraries of the `nvidia-*-cu11` packages are
loaded by path, each after those it needs, before MindSpore opens its plug-in.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from src.errors import UserError

DRIVER = "libcuda.so.1"
PLUGIN_CUDA = "11.6"  # the newer of the two CUDA versions whose plug-ins MindSpore 2.10 brings
# Folder of the package `nvidia` -> its libraries that the plug-in is linked to, in loading order.
# cuDNN opens its other parts itself, beside libcudnn.so.8. NCCL comes with MindSpore.
LIBRARIES = (
    ("cuda_runtime", "libcudart.so.11.0"),
    ("cuda_nvrtc", "libnvrtc.so.11.2"),
    ("cublas", "libcublasLt.so.11"),
    ("cublas", "libcublas.so.11"),
    ("cufft", "libcufft.so.10"),
    ("curand", "libcurand.so.10"),
    ("cusparse", "libcusparse.so.11"),
    ("cusolver", "libcusolver.so.11"),
    ("cudnn", "libcudnn.so.8"),
)
_INSTALL = "run 'bash scripts/setup.sh gpu'"


def import_mindspore() -> None:
    """Import MindSpore with its GPU plug-in, which it opens then or never.

    Raises:
        UserError: the driver, a library or the plug-in is missing; names it and what to do.
    """
    load_driver()
    load_libraries()
    with _cuda_home():
        import mindspore  # noqa: F401


def load_driver() -> None:
    """Load libcuda.so.1, which belongs to NVIDIA's driver.

    Raises:
        UserError: there is none.
    """
    try:
        ctypes.CDLL(DRIVER)
    except OSError as error:
        raise UserError(
            f"device_target: GPU needs {DRIVER}, a part of NVIDIA's driver ({error}): install the "
            "driver (in a container: start it with its GPUs, --gpus all), or choose "
            "--device_target CPU"
        ) from None


def load_libraries() -> None:
    """Load the CUDA libraries: those of the packages, else those on the loader's own path.

    Child processes, MindSpore's check by `ldd` among them, find the packages' by LD_LIBRARY_PATH.

    Raises:
        UserError: one is missing or damaged.
    """
    folders = library_folders()
    path = [*map(str, dict.fromkeys(folders.values())), os.environ.get("LD_LIBRARY_PATH", "")]
    os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, path))
    for package, name in LIBRARIES:
        try:
            ctypes.CDLL(str(folders[package] / name) if package in folders else name)
        except OSError as error:
            raise UserError(
                f"device_target: GPU needs {name} of CUDA 11 ({error}): {_INSTALL}"
            ) from None


def library_folders() -> dict[str, Path]:
    """Package, as in LIBRARIES -> its folder of libraries, for those that are installed."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(root) for root in spec.submodule_search_locations or ()] if spec else []
    found = {}
    for package, name in LIBRARIES:
        for root in roots:
            if (root / package / "lib" / name).exists():
                found.setdefault(package, root / package / "lib")
    return found


def plugin() -> Path:
    """MindSpore's GPU plug-in; MindSpore itself is not imported for that.

    Raises:
        UserError: this MindSpore has none.
    """
    spec = importlib.util.find_spec("mindspore")
    root = Path(spec.origin).parent if spec and spec.origin else Path()
    path = root / "lib" / "plugin" / f"libmindspore_gpu.so.{PLUGIN_CUDA}"
    if not path.exists():
        raise UserError(
            f"device_target: this MindSpore has no GPU plug-in ({path} is missing): install its "
            "package for Linux on x86-64, or choose --device_target CPU"
        )
    return path


@contextlib.contextmanager
def _cuda_home() -> Iterator[None]:
    """Have MindSpore choose the plug-in that these libraries fit.

    It opens none unless the `nvcc` of CUDA_HOME tells a version, and then the one of that version.
    Of a CUDA without a compiler, or of another one on the machine, a stand-in has to tell it.
    """
    plugin()
    before = os.environ.get("CUDA_HOME")
    home = Path(tempfile.mkdtemp(prefix="midas-cuda-"))
    try:
        nvcc = home / "bin" / "nvcc"
        nvcc.parent.mkdir()
        nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {PLUGIN_CUDA}, V0'\n")
        nvcc.chmod(0o755)
        os.environ["CUDA_HOME"] = str(home)
        yield
    finally:
        os.environ.pop("CUDA_HOME")
        if before is not None:
            os.environ["CUDA_HOME"] = before
        shutil.rmtree(home, ignore_errors=True)
