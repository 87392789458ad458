"""Files of weights as PyTorch tools write them, read without running any code that they hold."""

from __future__ import annotations

import json
import pickletools
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import safetensors

from src.errors import UserError

Container = Literal["PyTorch zip", "PyTorch pickle", "safetensors", "other"]

_PICKLE = b"\x80"  # opcode PROTO, with which both PyTorch formats begin their pickles
_ZIP = b"PK\x03\x04"
_SAFETENSORS_LARGEST_HEADER = 100_000_000  # bytes, of the format's documentation
_SAFETENSORS_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_HARMLESS = ("torch ", "torch._", "torch.storage ", "collections OrderedDict")  # tensors' own


@dataclass(frozen=True)
class FileTensor:
    """A tensor of a file, not read yet.

    Attributes:
        shape: of the tensor.
        dtype: such as "float32".
        load: reads it as float32 [*shape]; only for a floating `dtype`.
    """

    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], np.ndarray]

    @property
    def is_float(self) -> bool:
        return self.dtype in _SAFETENSORS_FLOATS.values()


@dataclass(frozen=True)
class WeightFile:
    """What a file holds.

    Attributes:
        container: how it is stored.
        tensors: name -> tensor, in the file's order.
        wrapping: what the names were found in and freed of, in words; empty for none.
        beside: names of the entries beside a nested state dict, such as `optimizer`.
    """

    container: Container
    tensors: Mapping[str, FileTensor]
    wrapping: str = ""
    beside: tuple[str, ...] = ()


def container_of(path: Path) -> Container:
    """How a file is stored, by its first bytes.

    Raises:
        UserError: it is missing, a folder, empty or unreadable.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected a file of weights")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not start:
        raise UserError(f"{path}: the file is empty; copy or download it again")
    if start.startswith(_ZIP):
        return "PyTorch zip"
    if start.startswith(_PICKLE):
        return "PyTorch pickle"
    header = int.from_bytes(start[:8], "little")
    if start[8:] == b"{" and 2 <= header <= _SAFETENSORS_LARGEST_HEADER:
        return "safetensors"
    return "other"


def read_weight_file(path: Path) -> WeightFile:
    """The tensors of a PyTorch (zip or older pickle) or safetensors file.

    A state dict may be nested under `model` or `state_dict`, and its names may start with the
    `module.` of DataParallel.

    Raises:
        UserError: no such file, of another kind, damaged, holding code instead of plain tensors,
            or PyTorch is needed and not installed.
    """
    container = container_of(path)
    if container == "other":
        raise UserError(
            f"{path}: not a file of weights; expected a .pth or .pt of PyTorch, or a .safetensors"
        )
    if container == "safetensors":
        return WeightFile(container, *_unwrap_module(_read_safetensors(path)))
    content = _load_pickled(path, container)
    state, wrapping, beside = _state_dict(path, content)
    tensors, module = _unwrap_module({name: _torch_tensor(t) for name, t in state.items()})
    return WeightFile(container, tensors, " ".join(filter(None, (wrapping, module))), beside)


def import_torch() -> Any:
    """The module torch, which only conversion needs.

    Raises:
        UserError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise UserError(
            "PyTorch is needed to convert its files and is not installed: run "
            "`bash scripts/setup.sh convert`, or install the extra `convert` of pyproject.toml"
        ) from None
    return torch


# --- safetensors ----------------------------------------------------------------------------------


def _read_safetensors(path: Path) -> dict[str, FileTensor]:
    """Tensors by the format's own layout: 8 bytes header length, JSON header, data."""
    try:
        with safetensors.safe_open(path, framework="numpy"):
            pass  # the library checks header, offsets and length
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path}: truncated or damaged ({_line(error)}); copy or download it again"
        ) from None
    header.pop("__metadata__", None)
    return {
        name: FileTensor(
            tuple(entry["shape"]),
            _SAFETENSORS_FLOATS.get(entry["dtype"], entry["dtype"]),
            lambda entry=entry: _safetensors_values(path, 8 + size, entry),
        )
        for name, entry in header.items()
    }


def _safetensors_values(path: Path, data: int, entry: Mapping[str, Any]) -> np.ndarray:
    """One tensor as float32; NumPy has no bfloat16, whose bits are the upper half of a float32."""
    start, end = entry["data_offsets"]
    with path.open("rb") as file:
        file.seek(data + start)
        raw = file.read(end - start)
    if entry["dtype"] == "BF16":
        values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(raw, f"<f{int(entry['dtype'][1:]) // 8}").astype(np.float32)
    return values.reshape(entry["shape"])


# --- PyTorch --------------------------------------------------------------------------------------


def _load_pickled(path: Path, container: Container) -> object:
    """`torch.load` of tensors and plain containers, nothing else."""
    torch = import_torch()
    if container == "PyTorch zip":
        _check_zip(path)
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # about torch.load's own future
            # Mapping a zip into memory takes its name, and torch.load goes by that name's suffix.
            mapped = container == "PyTorch zip" and path.suffix != ".safetensors"
            return torch.load(
                path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped
            )
    except Exception as error:
        # Damaged bytes reach the unpickler's code in more ways than it documents.
        if code := _named_code(path, container):
            raise UserError(
                f"{path}: its pickle would run code ({code}) and was not loaded; expected plain "
                "tensors: save the state_dict() of the network instead of the network"
            ) from None
        raise UserError(
            f"{path}: not a PyTorch checkpoint, or damaged ({_line(error)}); copy or download it "
            "again"
        ) from None


def _check_zip(path: Path) -> None:
    """Refuse what `torch.save` cannot have written, or was changed since, by checksum."""
    problem = ""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if any("/code/" in name for name in names):
                problem = "holds a TorchScript program, expected the weights alone (state_dict())"
            elif not any(name.endswith("/data.pkl") for name in names):
                problem = "a zip file, but no PyTorch checkpoint (no data.pkl in it)"
            elif any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                problem = "compressed zip entries, which torch.save does not write; unpack it"
            elif damaged := archive.testzip():
                problem = f"damaged (wrong checksum of {damaged}); copy or download it again"
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        problem = f"truncated or damaged ({_line(error)}); copy or download it again"
    if problem:
        raise UserError(f"{path}: {problem}")


def _state_dict(path: Path, content: object) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    """(state dict, what it was nested in, names of the entries beside it)."""
    torch = import_torch()
    wrapping, beside = "", ()
    if isinstance(content, dict):
        for key in ("model", "state_dict"):
            if isinstance(content.get(key), dict):
                wrapping = f"nested under '{key}'"
                beside = tuple(str(name) for name in content if name != key)
                content = content[key]
                break
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: holds no state dict; expected named tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UserError(
                f"{path}: entry {str(name)[:80]!r} is a {type(value).__name__}; expected a state "
                "dict of named tensors"
            )
    return content, wrapping, beside


def _torch_tensor(tensor: Any) -> FileTensor:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if str(tensor.layout) != "torch.strided" or tensor.device.type != "cpu":
        dtype = f"{tensor.layout} {dtype} on {tensor.device.type}"  # no plain array in memory
    return FileTensor(
        tuple(tensor.shape), dtype, lambda: tensor.detach().float().contiguous().numpy()
    )


def _unwrap_module(tensors: dict[str, FileTensor]) -> tuple[dict[str, FileTensor], str]:
    prefix = "module."
    if not all(name.startswith(prefix) for name in tensors):
        return tensors, ""
    return {n.removeprefix(prefix): t for n, t in tensors.items()}, "with the prefix 'module.'"


def _named_code(path: Path, container: Container) -> str:
    """The classes and functions that a file's pickles would import, other than tensors'."""
    named: list[str] = []
    with suppress(Exception), _pickles(path, container) as file:  # the end of what is a pickle
        for name in _imports(file):
            named.append(name)
    foreign = [name for name in dict.fromkeys(named) if not name.startswith(_HARMLESS)]
    return ", ".join(name.replace(" ", ".") for name in foreign[:3])


@contextmanager
def _pickles(path: Path, container: Container) -> Iterator[BinaryIO]:
    """The part of a file that holds its pickles."""
    if container == "PyTorch pickle":
        with path.open("rb") as file:
            yield file
        return
    with zipfile.ZipFile(path) as archive:
        entry = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(entry) as file:
            yield file


def _imports(file: BinaryIO) -> Iterator[str]:
    """ "module name" of every import in the pickles that follow one another; nothing is run."""
    texts: list[str] = []
    while True:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name in ("GLOBAL", "INST"):
                yield argument
            elif opcode.name == "STACK_GLOBAL":
                yield " ".join(texts[-2:])
            elif isinstance(argument, str):
                texts.append(argument)


def _line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160]
