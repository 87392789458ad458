"""Files of weights as PyTorch tools write them, read without running any code that they hold."""

from __future__ import annotations

import json
import pickletools
import re
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
_FLOATS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_TENSORS_OWN = re.compile(  # what a pickle of tensors in plain containers imports
    r"collections OrderedDict|torch\._utils _rebuild_\w+|torch\._tensor _rebuild_from_type_v2|"
    r"torch\.storage \w+|torch\.nn\.parameter Parameter|"
    r"torch (\w+Storage|Size|device|b?float\w+|u?int\d+|bool|complex\d+)"
)
_DEEPEST_TUPLE = 16  # tensors have 3; tuples of tuples as keys take time exponential in their depth


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
        return self.dtype in _FLOATS.values()


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
    try:
        if path.is_dir():
            raise UserError(f"{path}: is a folder, expected a file of weights")
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is no regular file, expected a file of weights")
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
    tensors, module = _unwrap_module({name: _torch_tensor(path, t) for name, t in state.items()})
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
            _FLOATS.get(entry["dtype"], entry["dtype"]),
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
    _check_pickles(path, container)
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
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    text = _line(error)
    why = "" if text.startswith("Weights only load failed") else f" ({text})"  # a page of advice
    return UserError(
        f"{path}: not a PyTorch checkpoint, or damaged{why}; copy or download it again"
    )


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
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError) as error:
        problem = f"truncated or damaged ({_line(error)}); copy or download it again"
    if problem:
        raise UserError(f"{path}: {problem}")


def _state_dict(path: Path, content: object) -> tuple[dict[str, Any], str, tuple[str, ...]]:
    """(state dict, what it was nested in, names of the entries beside it)."""
    torch = import_torch()
    wrapping, beside = "", ()
    if isinstance(content, dict):
        content = dict(dict.items(content))  # without attributes that a pickle may have set
        for key in ("model", "state_dict"):
            if isinstance(content.get(key), dict):
                wrapping = f"nested under '{key}'"
                beside = tuple(_name(name) for name in content if name != key)
                content = dict(dict.items(content[key]))
                break
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: holds no state dict; expected named tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise UserError(
                f"{path}: entry {_name(name)!r} is a {type(value).__name__}; expected a state "
                "dict of named tensors"
            )
    return content, wrapping, beside


def _name(key: object) -> str:
    return key if isinstance(key, str) else type(key).__name__


def _torch_tensor(path: Path, tensor: Any) -> FileTensor:
    def load() -> np.ndarray:
        try:
            return tensor.detach().resolve_neg().float().contiguous().numpy()
        except Exception as error:  # as in `_load_pickled`
            raise _damaged(path, error) from None

    try:
        shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    except Exception as error:
        raise _damaged(path, error) from None
    if str(tensor.layout) != "torch.strided" or tensor.device.type != "cpu":
        dtype = f"{tensor.layout} {dtype} on {tensor.device.type}"  # no plain array in memory
    return FileTensor(shape, dtype, load)


def _unwrap_module(tensors: dict[str, FileTensor]) -> tuple[dict[str, FileTensor], str]:
    """Names without what DataParallel (`module.`) or a training framework (`model.`) adds."""
    for prefix in ("module.", "model."):
        if tensors and all(name.startswith(prefix) for name in tensors):
            bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            return bare, f"with the prefix '{prefix}'"
    return tensors, ""


def _check_pickles(path: Path, container: Container) -> None:
    """Look through a file's pickles without running them.

    Raises:
        UserError: they import what tensors do not need, or would take for ever to load.
    """
    found = _Imports()
    with suppress(Exception), _pickles(path, container) as file:  # the end of what is a pickle
        while True:
            found.read(file)
    foreign = [name for name in dict.fromkeys(found.names) if not _TENSORS_OWN.fullmatch(name)]
    if foreign:
        code = ", ".join(name.replace(" ", ".")[:80] for name in foreign[:3])
        raise UserError(
            f"{path}: its pickle would run code ({code!r}) and was not loaded; expected plain "
            "tensors: save the state_dict() of the network alone"
        )
    if found.deepest_tuple > _DEEPEST_TUPLE:
        raise UserError(f"{path}: no PyTorch checkpoint (tuples {found.deepest_tuple} deep)")


class _Imports:
    """The imports of a pickle, "module name", and how deep its tuples are.

    Follows the pickle machine's stack, where only the text of strings and the depth of tuples
    matter (pickletools documents the opcodes).
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.deepest_tuple = 0

    def read(self, file: BinaryIO) -> None:
        """One pickle; raises whatever a damaged one makes pickletools raise."""
        stack: list[tuple[int, str]] = []  # (depth, text)
        marks: list[int] = []
        memo: dict[int, tuple[int, str]] = {}
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name == "MARK":
                marks.append(len(stack))
            elif name.endswith("PUT") or name == "MEMOIZE":
                memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1]
            elif name.endswith("GET"):
                stack.append(memo[int(argument)])
            else:
                self._apply(opcode, argument, stack, marks)

    def _apply(
        self,
        opcode: pickletools.OpcodeInfo,
        argument: object,
        stack: list[tuple[int, str]],
        marks: list[int],
    ) -> None:
        before = opcode.stack_before
        if pickletools.markobject in before:
            start = marks.pop() - before.index(pickletools.markobject)
        else:
            start = len(stack) - len(before)
        taken = stack[start:]
        del stack[start:]
        if opcode.name in ("GLOBAL", "INST"):
            self.names.append(str(argument))
        elif opcode.name == "STACK_GLOBAL":
            self.names.append(" ".join(text for _, text in taken))
        depth = max((depth for depth, _ in taken), default=0) + ("TUPLE" in opcode.name)
        self.deepest_tuple = max(self.deepest_tuple, depth)
        text = argument if isinstance(argument, str) else ""
        stack.extend((depth, text) for _ in opcode.stack_after)


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


def _line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160]
