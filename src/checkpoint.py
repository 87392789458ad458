"""Save checkpoints atomically, load them strictly, explain every mismatch."""

from __future__ import annotations

import os
import re
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore import nn
from mindspore.train.checkpoint_pb2 import Checkpoint

from src.errors import UserError
from src.midas_net import MidasNet
from src.runtime import mindspore_log_off
from src.utils.weight_files import container_of

BACKBONE = "backbone."  # what the names of a MidasNet's backbone start with
DECODER = "decoder."
TORCH_SUFFIXES = (".pt", ".pth", ".safetensors")
# What MindSpore's checkpoint format calls the types that NumPy has.
_DTYPES = {
    **{name.capitalize(): name for name in ("float16", "float32", "float64", "bool")},
    **{name.capitalize(): name for name in ("int8", "int16", "int32", "int64")},
    **{f"UInt{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}
# MindSpore's format with crc_check: the file ends with this and the CRC-32 of all before, 10 bytes.
_CHECKSUM = b"crc_num"
_CHECKSUM_BYTES = 10
_LISTED = 3  # names in a message before "and N more"
_LONGEST = 120  # characters of a name

Shape = tuple[int, ...]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write, in a temporary folder beside `path`, of the same name.

    At the end of the block the file takes the place of `path`; after an error `path` is as it
    was. Either way the folder is gone, with all that MindSpore writes on its way.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
            temporary = Path(folder, path.name)
            temporary.touch()
            mode = temporary.stat().st_mode  # the umask's; MindSpore makes its files 0400
            yield temporary
            temporary.chmod(mode)
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)  # the new name, too, outlasts a power cut
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(network: nn.Cell, path: Path) -> None:
    """Write all parameters of `network` with a checksum: whole, or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    with whole_file(path) as temporary, mindspore_log_off():
        ms.save_checkpoint(network, str(temporary), crc_check=True)


def save_values(values: Mapping[str, np.ndarray], path: Path) -> None:
    """Write parameters by name, as `save` does."""
    with whole_file(path) as temporary:
        content = [{"name": name, "data": ms.Tensor(value)} for name, value in values.items()]
        with mindspore_log_off():
            ms.save_checkpoint(content, str(temporary), crc_check=True)


def load_initial(network: MidasNet, path: str | Path) -> str:
    """Fill a MidasNet that is to be trained: wholly, or its backbone if the file holds no more.

    Returns:
        What was filled, in words.

    Raises:
        UserError: as `load`.
    """
    parameters = read(path)
    if is_backbone(parameters):
        fill(network.backbone, path, parameters)
        return f"backbone from {path}; the decoder starts from random values"
    fill(network, path, parameters)
    return f"all weights from {path}"


def load(network: nn.Cell, path: str | Path) -> None:
    """Fill every parameter of a MidasNet from a checkpoint.

    Raises:
        UserError: the file is missing or no checkpoint, or its parameters are not exactly the
            network's; says which, and which network the file holds.
    """
    fill(network, path, read(path))


def read(path: str | Path, checksum: bool = False) -> dict[str, ms.Parameter]:
    """The parameters of a checkpoint by name.

    Args:
        checksum: the file must have one, as those of this project do. A file that was cut between
            two parameters looks whole without.

    Raises:
        UserError: missing, damaged or of another kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file; expected a .ckpt")
    if container_of(path) != "other":
        raise UserError(
            f"{path}: weights of PyTorch; convert them: python src/utils/pth2ckpt.py {path}"
        )
    damaged = UserError(
        f"{path}: not a MindSpore checkpoint, or damaged; expected a .ckpt that training wrote"
    )
    # MindSpore's own reader crashes on sizes that do not fit.
    content = Checkpoint()
    try:
        content.ParseFromString(_checked(path.read_bytes(), checksum))
        values = _arrays(content)
    except (DecodeError, OSError, ValueError, KeyError, UnicodeDecodeError):
        raise damaged from None
    if not values:
        raise damaged
    return {name: ms.Parameter(ms.Tensor(value), name=name) for name, value in values.items()}


def _checked(data: bytes, required: bool) -> memoryview:
    """The message in a file, without its checksum; ValueError if that is wrong, or required."""
    trailer = len(_CHECKSUM) + _CHECKSUM_BYTES
    whole = memoryview(data)
    if data[-trailer:-_CHECKSUM_BYTES] != _CHECKSUM:
        if required:
            raise ValueError("no checksum")
        return whole
    message = whole[:-trailer]
    if zlib.crc32(message) != int.from_bytes(data[-_CHECKSUM_BYTES:], "big"):
        raise ValueError("wrong checksum")
    return message


def _arrays(content: Checkpoint) -> dict[str, np.ndarray]:
    """The values of a checkpoint; large ones are stored in pieces of one name."""
    entries: dict[str, tuple[Shape, np.dtype, list[bytes]]] = {}
    for value in content.value:
        tensor = value.tensor
        shape = () if tuple(tensor.dims) == (0,) else tuple(tensor.dims)
        dtype = np.dtype(_DTYPES[tensor.tensor_type])
        entries.setdefault(value.tag, (shape, dtype, []))[2].append(tensor.tensor_content)
    return {
        name: np.frombuffer(pieces[0] if len(pieces) == 1 else b"".join(pieces), dtype).reshape(
            shape
        )
        for name, (shape, dtype, pieces) in entries.items()
    }


def is_backbone(names: Iterable[str]) -> bool:
    """Whether these are parameters of a backbone alone."""
    return all(name.startswith(BACKBONE) for name in names)


def require_match(
    path: str | Path, expected: Mapping[str, Shape], parameters: Mapping[str, ms.Parameter]
) -> None:
    """Check that a checkpoint holds exactly these parameters.

    Raises:
        UserError: it does not; says what differs, and which network it holds.
    """
    if any(name.startswith("backbone_layer") or ".convs." in name for name in parameters):
        raise UserError(
            f"{path}: a checkpoint of the model zoo's MiDaS (backbone_layer*, convs.*), whose "
            "network pads its max-pool on two sides only and adds unrectified inputs: its weights "
            "are wrong for this one; convert the PyTorch weights with src/utils/pth2ckpt.py"
        )
    for name, parameter in parameters.items():
        if parameter.dtype != ms.float32:
            raise UserError(f"{path}: {name} is {parameter.dtype}, expected float32")
    found = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    if problem := mismatch(expected, found):
        raise UserError(f"{path}: does not fit this network: {problem}{_advice(path, parameters)}")


def mismatch(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> str:
    """What differs between two sets of names and shapes, in words; empty if nothing does."""
    wrong = [
        f"{name} is {found[name]}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    missing = [f"{name} {shape}" for name, shape in expected.items() if name not in found]
    extra = [f"{name} {shape}" for name, shape in found.items() if name not in expected]
    parts = [some("", wrong), some("missing ", missing), some("not in the network: ", extra)]
    return "; ".join(part for part in parts if part)


def some(label: str, items: Sequence[str]) -> str:
    """The label and the first items, cut where they are long; empty if there is none."""
    items = [item if len(item) <= _LONGEST else f"{item[:_LONGEST]}..." for item in items]
    items = [item if item.isprintable() else repr(item) for item in items]
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return label + ", ".join(items[:_LISTED]) + more if items else ""


def fill(network: nn.Cell, path: str | Path, parameters: dict[str, ms.Parameter]) -> None:
    require_match(path, shapes(network), parameters)
    ms.load_param_into_net(network, parameters, strict_load=True)


def shapes(network: nn.Cell) -> dict[str, Shape]:
    """The shapes of a network's parameters, by name."""
    return {parameter.name: tuple(parameter.shape) for parameter in network.get_parameters()}


def _advice(path: str | Path, parameters: Mapping[str, ms.Parameter]) -> str:
    """How to load it all the same, where the file holds another MidasNet."""
    shape = _network_of(parameters)
    if shape is None:
        return ""
    run = Path(path).absolute().parent.parent
    if (run / "config.yaml").is_file() and (run / "train.log").is_file():
        return f"; use --config_path {run / 'config.yaml'}"
    return "; use --config_path with the config.yaml of its run; it holds " + " ".join(
        f"--{key} {value}" for key, value in shape.items()
    )


def _network_of(parameters: Mapping[str, ms.Parameter]) -> dict[str, str] | None:
    """The MidasNet arguments that a checkpoint was made with, None if it holds no MidasNet."""
    try:
        stem = parameters["backbone.conv1.weight"].shape
        grouped = parameters["backbone.layer1.0.conv2.weight"].shape
        features = parameters["decoder.layer1_rn.weight"].shape
    except KeyError:
        return None
    blocks = {
        match.groups()
        for name in parameters
        if (match := re.match(r"backbone\.layer([1-4])\.(\d+)\.", name))
    }
    layers = [sum(stage == str(i) for stage, _ in blocks) for i in range(1, 5)]
    return {
        "in_channels": str(stem[0]),
        "groups": str(grouped[0] // grouped[1]),
        "width_per_group": str(grouped[1]),
        "features": str(features[0]),
        "layers": f'"{layers}"',
    }
