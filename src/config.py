"""config.yaml and `--key value` flags -> one frozen, validated Config.

Only the entry points load a Config; other modules take what they need as arguments.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from src.data.transforms import SIZE_MULTIPLE, ResizeMethod, ResizeRule
from src.errors import UserError

DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "config.yaml"

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
EndRate = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Channels3 = tuple[float, float, float]


def _single_folder_name(value: str) -> str:
    if value in {".", ".."} or "/" in value:
        raise ValueError("should be one folder name, without '/'")
    return value


def _loaded_text(value: object) -> object:
    """YAML reads an empty value as None; for a text that means empty."""
    return "" if value is None else value


Text = Annotated[str, BeforeValidator(_loaded_text)]
_PATH = "path"  # marks a value that is relative to its YAML file or, as a flag, the working folder
FilePath = Annotated[Text, _PATH]


class Config(BaseModel):
    """Every parameter, as documented in config.yaml. Paths are absolute, or empty for none."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )

    device_target: Literal["CPU", "GPU", "Ascend"]
    device_id: Annotated[int, Field(ge=0)]
    run_distribute: Literal[False]
    is_modelarts: Literal[False]
    seed: Annotated[int, Field(ge=0, lt=2**31)]

    in_channels: Count
    groups: Count
    width_per_group: Count
    layers: tuple[Count, Count, Count, Count]
    features: Annotated[int, Field(ge=2, multiple_of=2)]

    img_width: Count
    img_height: Count
    nm_img_mean: Channels3
    nm_img_std: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
    ]
    keep_aspect_ratio: bool
    resize_target: Literal[True]
    ensure_multiple_of: Annotated[int, Field(ge=SIZE_MULTIPLE, multiple_of=SIZE_MULTIPLE)]
    resize_method: ResizeMethod

    train_data_dir: FilePath
    mixdata: Text
    batch_size: Count
    num_parallel_workers: Count
    crop_min_scale: Annotated[float, Field(gt=0, le=1)]
    flip_probability: Share

    epoch_size: Count
    no_backbone_params_lr: Rate
    no_backbone_params_end_lr: EndRate
    backbone_params_lr: Rate
    backbone_params_end_lr: EndRate
    lr_decay: bool
    power: Annotated[float, Field(gt=0)]
    loss: Literal["ssimse"]
    alpha: Annotated[float, Field(ge=0)]
    scales: Annotated[int, Field(ge=1, le=8)]
    run_path: FilePath
    run_name: Annotated[Text, AfterValidator(_single_folder_name)]
    save_checkpoint_epochs: Count
    keep_checkpoint_max: Count

    data_name: Text
    datapath_Kitti: Text
    datapath_Sintel: Text
    datapath_TUM: Text
    datapath_Middlebury: Text
    eval_size: Annotated[int, Field(ge=SIZE_MULTIPLE, multiple_of=SIZE_MULTIPLE)]
    ckpt_path: FilePath
    ann_file: FilePath

    input_path: FilePath
    output_path: FilePath
    model_weights: FilePath
    file_format: Literal["MINDIR"]
    export_path: FilePath

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_no_booleans(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation in (int, float):
            raise ValueError("should be a number")
        return value

    @model_validator(mode="after")
    def _sizes_fit(self) -> Config:
        for key in ("img_width", "img_height"):
            if getattr(self, key) % self.ensure_multiple_of:
                raise ValueError(
                    f"{key}: {getattr(self, key)} is not a multiple of ensure_multiple_of "
                    f"({self.ensure_multiple_of})"
                )
        return self

    def network(self) -> dict[str, Any]:
        """The arguments of MidasNet."""
        keys = ("in_channels", "groups", "width_per_group", "features", "layers")
        return {key: getattr(self, key) for key in keys}

    def input_rule(self) -> ResizeRule:
        """How midas_run resizes an image of any size for the network."""
        return ResizeRule(
            width=self.img_width,
            height=self.img_height,
            keep_aspect_ratio=self.keep_aspect_ratio,
            multiple_of=self.ensure_multiple_of,
            method=self.resize_method,
        )

    def benchmark_paths(self) -> dict[str, str]:
        """Benchmark name -> its datapath_* value."""
        prefix = "datapath_"
        return {
            key.removeprefix(prefix): getattr(self, key)
            for key in type(self).model_fields
            if key.startswith(prefix)
        }

    def save(self, path: Path) -> None:
        """Write every value as YAML that `--config_path` reads back."""
        path.write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def load_config(arguments: Sequence[str] | None = None, description: str = "") -> Config:
    """Merge config.yaml, the file of `--config_path` and the flags, later ones first.

    Args:
        arguments: command-line arguments without the program's name; None takes sys.argv.
        description: what the program does, for `--help`.

    Raises:
        UserError: an unknown key, a wrong type or an impossible value; names the key, the value,
            what is allowed, and for an unknown key the nearest known one.
    """
    flags = _parse_flags(arguments, description)
    values = _read_yaml(DEFAULT_CONFIG)
    config_path = flags.pop("config_path", None)
    if config_path is not None:
        values |= _read_yaml(Path(config_path))
    values |= {key: _flag_value(key, text) for key, text in flags.items()}
    try:
        return Config(**values)
    except ValidationError as error:
        raise UserError(_explain(error)) from None


def resolve_data_path(root: str, path: str, what: str) -> Path:
    """An existing file or folder `path`, looked up under `root` first, then as it stands.

    A leading '/' does not stop the look under `root`: configurations of the original join the
    two that way.

    Raises:
        UserError: it is in neither place; names both.
    """
    inside, as_is = Path(root) / path.lstrip("/"), Path(path).absolute()
    for candidate in (inside, as_is):
        if path and candidate.exists():
            return candidate
    raise UserError(
        f"{what}: found neither {inside} nor {as_is}; put the data there, or set {what} "
        "or train_data_dir"
    )


def _is_path(key: str) -> bool:
    return _PATH in Config.model_fields[key].metadata


def _parse_flags(arguments: Sequence[str] | None, description: str) -> dict[str, str]:
    parser = _Parser(description=description, argument_default=argparse.SUPPRESS)
    parser.add_argument(
        "--config_path", help="a YAML file with values that differ from config.yaml"
    )
    for key, value in _read_yaml(DEFAULT_CONFIG).items():
        parser.add_argument(f"--{key}", help=f"default: {value!r}".replace("%", "%%"))
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise UserError(_unknown(unknown[0]))
    return vars(known)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(
            allow_abbrev=False,
            usage="%(prog)s [--key value ...]",
            epilog=f"What the keys mean: {DEFAULT_CONFIG}",
            **options,
        )

    def error(self, message: str) -> None:  # argparse would print its usage as well
        raise UserError(message)


def _unknown(name: str, where: str = "") -> str:
    key = name.lstrip("-").split("=")[0]
    known = [*Config.model_fields, *([] if where else ["config_path"])]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    if not name.startswith("-") and not where:
        return f"{name}: expected a flag, --key value{hint}"
    return f"{where}{key}: no such key{hint or ' (config.yaml lists all of them)'}"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"config_path: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: not valid YAML: {problem}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected lines of 'key: value'")
    for key in values:
        if key not in Config.model_fields:
            raise UserError(_unknown(str(key), where=f"{path}: "))
    return {
        key: _absolute(value, path.resolve().parent) if _is_path(key) else value
        for key, value in values.items()
    }


def _flag_value(key: str, text: str) -> object:
    """A flag's text as YAML would read it, so that lists and booleans work; texts stay texts."""
    if _is_path(key):
        return _absolute(text, Path.cwd())
    if Config.model_fields[key].annotation is str:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _absolute(value: object, folder: Path) -> object:
    return str(folder / Path(value).expanduser()) if isinstance(value, str) and value else value


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    key = str(first["loc"][0])
    if first["type"] == "missing":  # an element of a list; config.yaml itself has every key
        return f"{key}: got too few values; expected as many as in config.yaml"
    message = message[0].lower() + message[1:]
    position = "".join(f"[{part}]" for part in first["loc"][1:])
    return f"{key}{position}: got {first['input']!r}; {message}"
