"""What computes .onnx files on a CPU: OpenVINO or ONNX Runtime, neither of which needs MindSpore.

Both are of the extra `onnx` and imported here alone. The precision is always set: OpenVINO would
choose bfloat16 by itself where the CPU has it.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from src import cpu_kernels
from src.errors import UserError
from src.silence import silent_stderr

_THREADS = len(os.sched_getaffinity(0))  # the cores that this process may use


class Port(NamedTuple):
    """An input or output of a model; None is a length that the model leaves open."""

    is_float32: bool
    dims: tuple[int | None, ...]

    def __str__(self) -> str:
        dims = ", ".join("any" if length is None else str(length) for length in self.dims)
        return f"{'' if self.is_float32 else 'no float32 '}({dims})"


class _Library(Protocol):
    """A model, read by the library that computes it."""

    name: str  # with the version
    precisions: ClassVar[tuple[str, ...]]

    def __init__(self, path: Path, precision: str) -> None: ...

    def ports(self) -> tuple[list[Port], list[Port]]:
        """Inputs and outputs."""
        ...

    def __call__(self, batch: np.ndarray) -> np.ndarray: ...


class _OpenVino:
    precisions = ("float32", "bfloat16")

    def __init__(self, path: Path, precision: str) -> None:
        self._openvino = import_extra("openvino")
        self.name = f"OpenVINO {_version(self._openvino)}"
        core = self._openvino.Core()
        capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and "BF16" not in capabilities:
            raise UserError("onnx_precision: this CPU does not compute in bfloat16; choose float32")
        options = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": _THREADS,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }
        # For any shape: compiled for one, the network is no faster (full network, 384x384).
        self._compiled = core.compile_model(core.read_model(path), "CPU", options)

    def ports(self) -> tuple[list[Port], list[Port]]:
        return self._ports(self._compiled.inputs), self._ports(self._compiled.outputs)

    def _ports(self, sides: list[Any]) -> list[Port]:
        return [
            Port(
                side.get_element_type() == self._openvino.Type.f32,
                tuple(n.get_length() if n.is_static else None for n in side.get_partial_shape()),
            )
            for side in sides
        ]

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self._compiled(batch)[0]


class _OnnxRuntime:
    precisions = ("float32",)

    def __init__(self, path: Path, precision: str) -> None:
        onnxruntime = import_extra("onnxruntime")
        self.name = f"ONNX Runtime {_version(onnxruntime)}"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _THREADS
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # fatal ones; errors are raised as well
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def ports(self) -> tuple[list[Port], list[Port]]:
        return self._ports(self._session.get_inputs()), self._ports(self._session.get_outputs())

    def _ports(self, sides: list[Any]) -> list[Port]:
        return [
            Port(
                side.type == "tensor(float)",
                tuple(length if isinstance(length, int) else None for length in side.shape),
            )
            for side in sides
        ]

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self._session.run(None, {self._session.get_inputs()[0].name: batch})[0]


_LIBRARIES: dict[str, type[_Library]] = {"openvino": _OpenVino, "onnxruntime": _OnnxRuntime}


class OnnxNetwork:
    """The network of an .onnx file, as a `Network` (predictor.py)."""

    compiles_each_shape = False

    def __init__(self, path: Path, library: _Library, precision: str) -> None:
        """
        Raises:
            UserError: the model does not map RGB images to their inverse depth.
        """
        self.runtime = f"{library.name} {precision}"
        self._path, self._library = path, library
        self.fixed_batch, self.fixed_size = _fixed(path, *library.ports())

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        try:
            output = self._library(batch)
        except Exception as error:  # each library has its own kinds
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{self._path}: {self.runtime} cannot compute it for {batch.shape} ({reason})"
            ) from None
        expected = (len(batch), *batch.shape[2:])
        if output.shape != expected:
            raise _foreign(self._path, str(batch.shape), str(output.shape))
        return output


def load_onnx(path: Path, runtime: str, precision: str) -> OnnxNetwork:
    """The network of an .onnx file, on as many threads as this process may use cores.

    Args:
        path: the file.
        runtime: openvino or onnxruntime.
        precision: float32 or bfloat16.

    Raises:
        UserError: missing, damaged, or not image -> inverse depth; the runtime is not installed; or
            it does not compute in this precision here.
    """
    kind = _LIBRARIES[runtime]
    if precision not in kind.precisions:
        raise UserError(
            f"onnx_precision: {runtime} computes in {kind.precisions[0]} alone; choose "
            "--onnx_runtime openvino"
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected an .onnx that midas_export.py wrote")
    try:
        # Both write pages before they raise; MindSpore's limit would slow OpenVINO down.
        with silent_stderr(), cpu_kernels.unlimited():
            library = kind(path, precision)
            return OnnxNetwork(path, library, precision)
    except UserError:
        raise
    except Exception:  # each library has its own kinds
        raise UserError(f"{path}: not an ONNX file, or damaged; export it again") from None


def import_extra(name: str) -> ModuleType:
    """A package of the extra `onnx`.

    Raises:
        UserError: it is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        reason = "is not installed" if absent else f"cannot be imported ({error})"
        raise UserError(f"{name} {reason}; run 'bash scripts/setup.sh onnx'") from None


def _version(library: ModuleType) -> str:
    """Major and minor."""
    return ".".join(library.__version__.split(".")[:2])


def _fixed(
    path: Path, inputs: list[Port], outputs: list[Port]
) -> tuple[int | None, tuple[int, int] | None]:
    """The batch and the (height, width) that a model is made for; None: any."""
    foreign = _foreign(path, _listed(inputs), _listed(outputs))
    if [len(port.dims) for port in inputs] != [4] or [len(port.dims) for port in outputs] != [3]:
        raise foreign
    (image,), (depth,) = inputs, outputs
    batch, channels, *size = image.dims
    # What a runtime does not know of the output, it finds out when it computes.
    same = all(
        a is None or b is None or a == b for a, b in zip([batch, *size], depth.dims, strict=True)
    )
    if not (image.is_float32 and depth.is_float32 and channels == 3 and same):
        raise foreign
    if None in size:
        if size != [None, None]:
            raise foreign
        return batch, None
    return batch, (size[0], size[1])


def _listed(ports: list[Port]) -> str:
    return " and ".join(map(str, ports))


def _foreign(path: Path, inputs: str, outputs: str) -> UserError:
    return UserError(
        f"{path}: maps {inputs} to {outputs}, expected RGB images (batch, 3, height, width) to "
        "their inverse depth (batch, height, width)"
    )
