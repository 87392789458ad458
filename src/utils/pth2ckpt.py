"""Convert weights: PyTorch checkpoints of MiDaS v2 and ResNeXt-101 into a .ckpt, and back.

    python src/utils/pth2ckpt.py FILE.pth [--output FILE.ckpt] [--check IMAGE]
    python src/utils/pth2ckpt.py FILE.ckpt --output FILE.pt

FILE is a ResNeXt-101 32x8d in torchvision's names, such as ig_resnext101_32x8-c38310e5.pth (the
start of training), or a whole MiDaS v2.0 or v2.1 large network, such as model-f6b98070.pt. Its
tensors' names tell which; it may be a .pth, .pt or .safetensors. Without --output it becomes
ckpt/<name>.ckpt in this repository. Back, a .ckpt becomes a .pt or .safetensors with the official
names.

Other flags are those of config.yaml: --config_path with the config.yaml of a run converts the
weights of another network shape.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import mindspore as ms
import numpy as np
from mindspore.nn.utils import no_init_parameters
from safetensors import SafetensorError
from safetensors.numpy import save_file

from src import checkpoint, image_io, runtime
from src.config import DEFAULT_CONFIG, Config, build_config, parse_flags
from src.errors import Parser, UserError, run_program
from src.midas_net import MidasNet
from src.predictor import Predictor
from src.utils.torch_names import COUNTER, counter_name, official_name, torchvision_name
from src.utils.weight_files import (
    FileTensor,
    WeightFile,
    container_of,
    import_torch,
    read_weight_file,
)

Kind = Literal["backbone", "full"]

OUTPUT_FOLDER = DEFAULT_CONFIG.parent / "ckpt"
_TITLE = {
    "backbone": "a ResNeXt backbone in torchvision's names",
    "full": "a MiDaS v2 network, backbone and decoder",
}
_CLASSIFIER = ("fc.weight", "fc.bias")


@dataclass
class Conversion:
    """What became of the tensors of a file.

    Attributes:
        kind: what the file holds.
        parameters: this project's name -> float32 values, in the network's order.
        ignored: reason -> how many tensors.
        cast: dtype in the file -> how many tensors became float32.
        fresh: names of the network's parameters that the file has no values for.
    """

    kind: Kind
    parameters: dict[str, np.ndarray] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    cast: dict[str, int] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)


def to_mindspore(path: Path, file: WeightFile, shapes: Mapping[str, tuple[int, ...]]) -> Conversion:
    """Give every tensor of a PyTorch file its place in a MidasNet.

    Args:
        path: of the file, for messages.
        file: its content.
        shapes: name -> shape of all parameters of the network, in order.

    Raises:
        UserError: the names are of no known kind; a tensor is missing, left over, of another
            shape, no floating-point number or not finite.
    """
    kind = recognise(path, file.tensors)
    result = Conversion(kind, fresh=[n for n in shapes if not _is_part(n, kind)])
    named = {_torch_name(name, kind): name for name in shapes if _is_part(name, kind)}
    expected = {torch_name: shapes[name] for torch_name, name in named.items()}
    found = _without_ignored(file.tensors, expected, result)
    if problem := checkpoint.mismatch(expected, {name: t.shape for name, t in found.items()}):
        raise UserError(
            f"{path}: {_TITLE[kind]}, but not of this network's shape (full: ResNeXt-101 32x8d): "
            f"{problem}; for a network of another shape, give its --config_path"
        )
    for torch_name, name in named.items():
        result.parameters[name] = _values(path, torch_name, found[torch_name], result)
    return result


def recognise(path: Path, names: Mapping[str, object]) -> Kind:
    """The kind of network that a PyTorch file holds, by its names.

    Raises:
        UserError: another network's.
    """
    if any(name.startswith("scratch.") for name in names):
        if any(name.startswith("pretrained.model.") for name in names):
            raise UserError(
                f"{path}: holds a DPT network (pretrained.model.*), expected MiDaS v2.0 or v2.1 "
                "large, whose backbone is a ResNeXt-101"
            )
        return "full"
    if "conv1.weight" in names and any(name.startswith("layer1.") for name in names):
        return "backbone"
    raise UserError(
        f"{path}: neither a MiDaS v2 network (pretrained.*, scratch.*) nor a ResNeXt backbone "
        f"(conv1, layer1..4); it holds {checkpoint.some('', list(names))}"
    )


def to_torch(
    path: Path, parameters: Mapping[str, ms.Parameter], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The parameters of a .ckpt in official names, those of a backbone alone in torchvision's.

    The counters of BatchNorm, which PyTorch's strict loading wants, are 0.

    Raises:
        UserError: the parameters are not exactly those of the network or of its backbone, or not
            finite.
    """
    kind: Kind = "backbone" if checkpoint.is_backbone(parameters) else "full"
    expected = {name: shape for name, shape in shapes.items() if _is_part(name, kind)}
    checkpoint.require_match(path, expected, parameters)
    state: dict[str, np.ndarray] = {}
    for name in expected:
        torch_name = _torch_name(name, kind)
        state[torch_name] = parameters[name].asnumpy()
        if not np.isfinite(state[torch_name]).all():
            raise UserError(f"{path}: {name} is not finite; this checkpoint has diverged")
        if counter := counter_name(torch_name):
            state[counter] = np.zeros((), np.int64)
    return state


def _is_part(name: str, kind: Kind) -> bool:
    return kind == "full" or name.startswith(checkpoint.BACKBONE)


def _torch_name(name: str, kind: Kind) -> str:
    return official_name(name) if kind == "full" else torchvision_name(name)


def _without_ignored(
    tensors: Mapping[str, FileTensor], expected: Mapping[str, object], result: Conversion
) -> dict[str, FileTensor]:
    """The tensors but for those that the network has no use for, which are counted."""
    counters = {counter_name(name) for name in expected} - {None}
    found = {}
    for name, tensor in tensors.items():
        if name in counters:
            reason = f"{COUNTER} of BatchNorm, not used in computing"
        elif result.kind == "backbone" and name in _CLASSIFIER:
            reason = "fc.*, the ImageNet classifier, which MiDaS does not have"
        else:
            found[name] = tensor
            continue
        result.ignored[reason] = result.ignored.get(reason, 0) + 1
    return found


def _values(path: Path, name: str, tensor: FileTensor, result: Conversion) -> np.ndarray:
    if not tensor.is_float:
        raise UserError(f"{path}: {name} is {tensor.dtype}, expected floating-point weights")
    if tensor.dtype != "float32":
        result.cast[tensor.dtype] = result.cast.get(tensor.dtype, 0) + 1
    values = tensor.load()
    if not np.isfinite(values).all():
        raise UserError(f"{path}: {name} is not finite as float32; copy or download the file again")
    if name.endswith("running_var") and (values < 0).any():
        raise UserError(f"{path}: {name} has negative variances; copy or download the file again")
    return values


# --- The program ----------------------------------------------------------------------------------


def summary(path: Path, file: WeightFile, result: Conversion) -> str:
    """What was found in a file and what became of it, a line each."""
    values = sum(value.size for value in result.parameters.values())
    rows = [
        ("file", f"{path}: {_TITLE[result.kind]} ({file.container}, {len(file.tensors)} tensors)"),
        ("used", f"{len(result.parameters)} tensors, {values:,} values"),
    ]
    if file.wrapping:
        rows.append(("names", file.wrapping))
    rows += [("ignored", f"{count} {reason}") for reason, count in result.ignored.items()]
    if file.beside:
        rows.append(("ignored", f"beside the weights: {checkpoint.some('', list(file.beside))}"))
    rows += [("converted", f"{count} {dtype} to float32") for dtype, count in result.cast.items()]
    if result.fresh:
        rows.append(
            ("left", f"{len(result.fresh)} decoder parameters, which keep their initial values")
        )
    return "\n".join(f"{label:<10} {text}" for label, text in rows)


def check(weights: Path, image_path: Path, config: Config) -> str:
    """Predict a photograph with converted weights and say how its depth is distributed."""
    image = image_io.read_image(image_path)
    predictor = Predictor(weights, config.network(), config.nm_img_mean, config.nm_img_std)
    depth = predictor.predict(image, config.input_rule())
    low, first, median, last, high = np.percentile(depth, [0, 1, 50, 99, 100])
    size = f"{depth.shape[1]} x {depth.shape[0]}"
    lines = [
        f"{'check':<10} {image_path}, {size}, relative inverse depth (larger is closer)",
        f"{'':<10} min {low:.5g}, 1 % {first:.5g}, median {median:.5g}, 99 % {last:.5g}, "
        f"max {high:.5g}, mean {depth.mean():.5g}, deviation {depth.std():.5g}",
    ]
    if low == high:
        lines.append(f"{'':<10} the prediction is constant: these weights do not predict depth")
    return "\n".join(lines)


def _arguments() -> tuple[argparse.Namespace, Config]:
    parser = Parser(
        description=__doc__,
        usage="%(prog)s FILE [--output FILE] [--check IMAGE] [--key value ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help=".pth, .pt, .safetensors or .ckpt")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: ckpt/<name>.ckpt")
    parser.add_argument(
        "--check", type=Path, metavar="IMAGE", help="predict this photograph with the new weights"
    )
    flags = parse_flags(parser)
    own = {name: flags.pop(name) for name in ("file", "output", "check")}
    return argparse.Namespace(**own), build_config(flags)


def _convert(options: argparse.Namespace, config: Config) -> None:
    """A PyTorch file into a .ckpt."""
    output = options.output or OUTPUT_FOLDER / f"{options.file.stem}.ckpt"
    _check_output(output, (".ckpt",))
    file = read_weight_file(options.file)
    result = to_mindspore(options.file, file, _shapes(config))
    if options.check is not None:
        if result.kind == "backbone":
            raise UserError("check: this file has no decoder, so there is no depth to look at")
        image_io.read_image(options.check)  # an unreadable one is found before the work
        runtime.start(config.device_target, config.device_id, config.seed)
    if options.output is None:
        _make_output_folder()
    checkpoint.save_values(result.parameters, output)
    print(summary(options.file, file, result))
    print(f"{'written':<10} {output}")
    if options.check is not None:
        try:
            print(check(output, options.check, config))
        except UserError:
            output.unlink()
            raise


def _make_output_folder() -> None:
    try:
        OUTPUT_FOLDER.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{OUTPUT_FOLDER}: cannot be created ({error.strerror}); choose another --output"
        ) from None


def _convert_back(options: argparse.Namespace, config: Config) -> None:
    """A .ckpt into a file for PyTorch tools."""
    if options.check is not None:
        raise UserError("check: goes with weights of PyTorch; for a .ckpt use midas_run.py")
    try:
        parameters = checkpoint.read(options.file)
    except UserError:
        raise UserError(
            f"{options.file}: neither a file of PyTorch (.pth, .pt, .safetensors) nor a .ckpt, or "
            "damaged; copy or download it again"
        ) from None
    state = to_torch(options.file, parameters, _shapes(config))
    what = "backbone" if checkpoint.is_backbone(parameters) else "whole network"
    if options.output is None or options.output.suffix == ".ckpt":
        raise UserError(
            f"{options.file}: already a checkpoint of this project ({what}), nothing to convert; "
            "--output FILE.pt writes it with the names of PyTorch's"
        )
    _check_output(options.output, checkpoint.TORCH_SUFFIXES)
    with checkpoint.whole_file(options.output) as temporary:
        _write(state, temporary, options.output)
    print(f"{'file':<10} {options.file}: a checkpoint of this project ({what})")
    counters = sum(name.endswith(COUNTER) for name in state)
    print(
        f"{'written':<10} {options.output}: {len(state) - counters} tensors in PyTorch's names, "
        f"and {counters} {COUNTER}, which are 0"
    )


def _write(state: Mapping[str, np.ndarray], path: Path, output: Path) -> None:
    """Write tensors to `path` as the suffix of `output` says."""
    try:
        if output.suffix == ".safetensors":
            save_file(state, path)
        else:
            torch = import_torch()
            torch.save({name: torch.from_numpy(v.copy()) for name, v in state.items()}, path)
    except (RuntimeError, SafetensorError) as error:  # what they make of a full disk
        raise UserError(f"{output}: cannot be written ({error})") from None


def _check_output(output: Path, suffixes: Sequence[str]) -> None:
    if output.suffix not in suffixes:
        raise UserError(f"output: {output} should end in {' or '.join(suffixes)}")
    try:
        exists = output.exists()
    except OSError as error:
        raise UserError(f"output: {output} cannot be written ({error.strerror})") from None
    if exists:
        raise UserError(f"output: {output} exists; remove it, or choose another --output")


def _shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the parameters of a MidasNet, whose values are not computed."""
    with no_init_parameters():
        return checkpoint.shapes(MidasNet(**config.network()))


def main() -> None:
    options, config = _arguments()
    if container_of(options.file) == "other":
        _convert_back(options, config)
    else:
        _convert(options, config)


if __name__ == "__main__":
    run_program(main)
