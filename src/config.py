"""config.yaml and `--key value` flags -> one frozen, validated Config.

Only the entry points load a Config; other modules take what they need as arguments.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
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

from src.data.transforms import SIZE_MULTIPLE, ResizeMethod, ResizeRule, Upsampling
from src.errors import Parser, UserError
from src.image_io import write_bytes

DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "config.yaml"

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
EndRate = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Channels3 = tuple[float, float, float]


def _single_folder_name(value: str) -> str:
    if value in {".", ".."} or not {"/", "\0"}.isdisjoint(value):
        raise ValueError("should be one folder name, without '/'")
    return value


def _json_file(value: str) -> str:
    if Path(value).suffix != ".json":
        raise ValueError("should end in .json; its log and details are written beside it")
    return value


def _sizes(value: str) -> str:
    for size in value.split(",") if value.strip() else []:
        sides = re.fullmatch(r" *([0-9]{1,6})x([0-9]{1,6}) *", size)
        if not sides or any(int(side) % SIZE_MULTIPLE or not int(side) for side in sides.groups()):
            raise ValueError(
                f"expected HEIGHTxWIDTH, multiples of {SIZE_MULTIPLE}, several by comma, such as "
                "384x384,160x384"
            )
    return value


def _loaded_text(value: object) -> object:
    """YAML reads an empty value as None; for a text that means empty."""
    return "" if value is None else value


RESUME_NEWEST = "auto"  # a value of `resume`


def _resumed(value: object) -> object:
    """What `resume` may be besides a file, in one spelling: empty or RESUME_NEWEST."""
    text = str(value).lower()
    if text in {"false", "none", ""}:
        return ""
    return RESUME_NEWEST if text in {"true", RESUME_NEWEST} else value


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
    run_distribute: bool
    is_modelarts: bool
    data_url: Text
    train_url: Text
    seed: Annotated[int, Field(ge=0, lt=2**31)]

    in_channels: Count
    groups: Count
    width_per_group: Count
    layers: tuple[Count, Count, Count, Count]
    features: Annotated[int, Field(ge=8, multiple_of=8)]

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
    epoch_images: Annotated[int, Field(ge=0)]
    mixing: Literal["naive", "weighted", "pareto"]
    pareto_scope: Literal["all", "decoder", "last"]
    num_parallel_workers: Count
    data_cache: FilePath
    # From 2 on, some JPEGs would be decoded at half their size without the cache alone.
    cache_margin: Annotated[float, Field(ge=1, le=1.9)]
    on_bad_sample: Literal["stop", "skip"]
    val_mixdata: Text
    val_share: Annotated[float, Field(ge=0, le=0.5)]
    eval_interval: Count
    crop_min_scale: Annotated[float, Field(gt=0, le=1)]
    flip_probability: Share

    epoch_size: Count
    amp_level: Literal["O0", "O1", "O2", "O3"]
    loss_scale: Annotated[float, Field(ge=1, le=2**24)]
    loss_scale_window: Count
    no_backbone_params_lr: Rate
    no_backbone_params_end_lr: EndRate
    backbone_params_lr: Rate
    backbone_params_end_lr: EndRate
    lr_decay: bool
    power: Annotated[float, Field(gt=0)]
    loss: Literal["ssimse", "ssimae", "ssitrim"]
    alpha: Annotated[float, Field(ge=0)]
    scales: Annotated[int, Field(ge=1, le=8)]
    sign_weight: Annotated[float, Field(ge=0)]
    run_path: FilePath
    run_name: Annotated[Text, AfterValidator(_single_folder_name)]
    resume: Annotated[str, BeforeValidator(_resumed), _PATH]
    save_checkpoint_epochs: Count
    save_checkpoint_steps: Annotated[int, Field(ge=0)]
    keep_checkpoint_max: Count
    compile_cache: FilePath

    data_name: Text
    datapath_Kitti: Text
    datapath_Sintel: Text
    datapath_TUM: Text
    datapath_ETH3D: Text
    datapath_DIW: Text
    datapath_NYU: tuple[Text, Text]
    datapath_Middlebury: Text
    eval_size: Annotated[int, Field(ge=SIZE_MULTIPLE, multiple_of=SIZE_MULTIPLE)]
    eval_batch_size: Count
    upsampling: Upsampling
    sintel_occluded: bool
    on_error: Literal["stop", "skip"]
    ckpt_path: FilePath
    ann_file: Annotated[FilePath, AfterValidator(_json_file)]

    input_path: FilePath
    output_path: FilePath
    run_batch_size: Count
    align: FilePath
    align_max_depth: Annotated[float, Field(gt=0, le=1e6)]
    model_weights: FilePath
    onnx_runtime: Literal["openvino", "onnxruntime"]
    onnx_precision: Literal["float32", "bfloat16"]
    file_format: Literal["MINDIR", "AIR", "ONNX"]
    export_path: FilePath
    export_size: Annotated[Text, AfterValidator(_sizes)]
    for_: Annotated[Text, Field(alias="for")]  # a word of Python's own
    export_batch: Count
    fold_bn: bool
    result_path: FilePath

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

    @model_validator(mode="after")
    def _rates_fall(self) -> Config:
        for key in ("backbone_params", "no_backbone_params"):
            start, end = getattr(self, f"{key}_lr"), getattr(self, f"{key}_end_lr")
            if self.lr_decay and start < end:
                raise ValueError(f"{key}_lr: {start} is below {key}_end_lr ({end}); lr_decay falls")
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

    def benchmark_paths(self) -> dict[str, tuple[str, ...]]:
        """Benchmark name -> its datapath_*: a folder, or the files of NYU."""
        prefix = "datapath_"
        values = {
            key.removeprefix(prefix): getattr(self, key)
            for key in type(self).model_fields
            if key.startswith(prefix)
        }
        return {n: (value,) if isinstance(value, str) else value for n, value in values.items()}

    def export_sizes(self) -> list[tuple[int, int]]:
        """`export_size` as (height, width) each; empty if it is."""
        sizes = (size.split("x") for size in self.export_size.split(",") if "x" in size)
        return [(int(height), int(width)) for height, width in sizes]

    def file(self, key: str) -> str:
        """The value of a path that this program needs.

        Raises:
            UserError: it is empty.
        """
        if not (value := getattr(self, key)):
            raise UserError(f"{key}: empty; set it to the file with the network's weights")
        return value

    def resumes_evaluation(self) -> bool:
        """What `resume` means to an evaluation.

        Raises:
            UserError: it names a file.
        """
        if self.resume not in {"", RESUME_NEWEST}:
            raise UserError(f"resume: {self.resume}: an evaluation takes True or False, no file")
        return bool(self.resume)

    def save(self, path: Path) -> None:
        """Write every value as YAML that `--config_path` reads back."""
        write_bytes(
            path,
            yaml.safe_dump(self.model_dump(mode="json", by_alias=True), sort_keys=False).encode(),
        )


FIELDS = {field.alias or name: field for name, field in Config.model_fields.items()}
"""Every key of config.yaml."""


def load_config(arguments: Sequence[str] | None = None, description: str = "") -> Config:
    """Merge config.yaml, the file of `--config_path` and the flags, later ones first.

    Args:
        arguments: command-line arguments without the program's name; None takes sys.argv.
        description: what the program does, for `--help`.

    Raises:
        UserError: an unknown key, a wrong type or an impossible value; names the key, the value,
            what is allowed, and for an unknown key the nearest known one.
    """
    parser = Parser(
        description=description,
        usage="%(prog)s [--key value ...]",
        epilog=f"What the keys mean: {DEFAULT_CONFIG}",
        allow_abbrev=False,
    )
    return build_config(parse_flags(parser, arguments))


def parse_flags(parser: Parser, arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Add a flag for every key and `--config_path` to a command line, and read it.

    Returns:
        The parser's own arguments, and the text of each flag that was given.

    Raises:
        UserError: an unknown flag; names the nearest known one.
    """
    parser.add_argument(
        "--config_path",
        default=argparse.SUPPRESS,
        help="YAML file with values that differ from config.yaml",
    )
    defaults = _read_yaml(DEFAULT_CONFIG)
    for key in FIELDS:
        text = f"default: {defaults.get(key)!r}".replace("%", "%%")
        parser.add_argument(f"--{key}", default=argparse.SUPPRESS, help=text)
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise UserError(_unknown(unknown[0]))
    return vars(known)


def build_config(flags: Mapping[str, str]) -> Config:
    """The configuration of `parse_flags`' flags, each its text, `config_path` included.

    Raises:
        UserError: as `load_config`.
    """
    values = _read_yaml(DEFAULT_CONFIG)
    if "config_path" in flags:
        values |= _read_yaml(Path(flags["config_path"]))
    values |= {k: _flag_value(k, text) for k, text in flags.items() if k != "config_path"}
    try:
        return Config(**values)
    except ValidationError as error:
        raise UserError(_explain(error)) from None


def _is_path(key: str) -> bool:
    return _PATH in FIELDS[key].metadata


def _unknown(name: str, where: str = "") -> str:
    key = name.lstrip("-").split("=")[0]
    known = [*FIELDS, *([] if where else ["config_path"])]
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
        if key not in FIELDS:
            raise UserError(_unknown(str(key), where=f"{path}: "))
    return {key: _located(key, value, path.resolve().parent) for key, value in values.items()}


def _flag_value(key: str, text: str) -> object:
    """A flag's text as YAML would read it, so that lists and booleans work; texts stay texts."""
    if _is_path(key):
        return _located(key, text, Path.cwd())
    if FIELDS[key].annotation is str:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _located(key: str, value: object, folder: Path) -> object:
    """The value of a key, made absolute if it is a path."""
    if not _is_path(key) or not isinstance(value, str) or not value:
        return value
    if key == "resume" and _resumed(value) in {"", RESUME_NEWEST}:
        return value
    try:
        return str(folder / Path(value).expanduser())
    except RuntimeError as error:  # ~ of an unknown user
        raise UserError(f"{value}: {error}") from None


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    key = str(first["loc"][0])
    if first["type"] == "missing":
        missing_key = len(first["loc"]) == 1  # else an element of a list
        return f"{key}: " + (
            f"missing in {DEFAULT_CONFIG}; put it back"
            if missing_key
            else "got too few values; expected as many as in config.yaml"
        )
    message = message[0].lower() + message[1:]
    position = "".join(f"[{part}]" for part in first["loc"][1:])
    return f"{key}{position}: got {first['input']!r}; {message}"
