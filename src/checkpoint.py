"""Save checkpoints atomically, load them strictly, explain every mismatch."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import mindspore as ms
from mindspore import nn

from src.errors import UserError
from src.midas_net import MidasNet

BACKBONE = "backbone."  # what the names of a MidasNet's backbone start with
_LISTED = 3  # names in a message before "and N more"


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
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None


def save(network: nn.Cell, path: Path) -> None:
    """Write all parameters of `network`: the file is complete or not there at all.

    Raises:
        UserError: the file cannot be written.
    """
    with whole_file(path) as temporary:
        ms.save_checkpoint(network, str(temporary))


def load_initial(network: MidasNet, path: str | Path) -> str:
    """Fill a MidasNet that is to be trained: wholly, or its backbone if the file holds no more.

    Returns:
        What was filled, in words.

    Raises:
        UserError: as `load`.
    """
    parameters = _read(Path(path))
    if all(name.startswith(BACKBONE) for name in parameters):
        _fill(network.backbone, path, parameters)
        return f"backbone from {path}; the decoder starts from random values"
    _fill(network, path, parameters)
    return f"all weights from {path}"


def load(network: nn.Cell, path: str | Path) -> None:
    """Fill every parameter of a MidasNet from a checkpoint.

    Raises:
        UserError: the file is missing or no checkpoint, or its parameters are not exactly the
            network's; says which, and which network the file holds.
    """
    _fill(network, path, _read(Path(path)))


def _fill(network: nn.Cell, path: str | Path, parameters: dict[str, ms.Parameter]) -> None:
    expected = {parameter.name: parameter for parameter in network.get_parameters()}
    if problem := _mismatch(expected, parameters):
        raise UserError(f"{path}: does not fit this network: {problem}{_advice(path, parameters)}")
    ms.load_param_into_net(network, parameters, strict_load=True)


def _read(path: Path) -> dict[str, ms.Parameter]:
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file; expected a .ckpt")
    try:
        content = ms.load_checkpoint(str(path))
    except (ValueError, RuntimeError, TypeError):
        raise UserError(
            f"{path}: not a MindSpore checkpoint, or damaged; expected a .ckpt that training wrote"
        ) from None
    return {name: value for name, value in content.items() if isinstance(value, ms.Parameter)}


def _mismatch(expected: Mapping[str, ms.Parameter], found: Mapping[str, ms.Parameter]) -> str:
    """What differs, in words; empty if nothing does."""
    wrong = [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    parts = [
        _some("", wrong),
        _some("missing ", [name for name in expected if name not in found]),
        _some("not in the network: ", [name for name in found if name not in expected]),
    ]
    return "; ".join(part for part in parts if part)


def _some(label: str, items: list[str]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return label + ", ".join(items[:_LISTED]) + more if items else ""


def _advice(path: str | Path, parameters: Mapping[str, ms.Parameter]) -> str:
    """How to load it all the same, where the file holds another MidasNet."""
    shape = _network_of(parameters)
    if shape is None:
        return ""
    run_config = Path(path).absolute().parent.parent / "config.yaml"
    if run_config.is_file():
        return f"; use --config_path {run_config}"
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
