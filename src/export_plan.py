"""What an export is to write, found out before MindSpore starts: mistakes then cost no time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from src.data.benchmarks import BENCHMARKS, Benchmark, open_benchmarks
from src.data.paths import resolve_data_path
from src.data.transforms import ResizeRule
from src.errors import UserError
from src.onnx_runtimes import import_extra
from src.runlog import progress_bar

SUFFIXES = {"MINDIR": ".mindir", "AIR": ".air", "ONNX": ".onnx"}

# (height, width) of the images that the paper evaluates on; those of KITTI differ by a few pixels,
# which makes no difference to the network's size. The other benchmarks' images have many sizes.
_PUBLISHED = {
    "Kitti": (375, 1242),
    "Sintel": (436, 1024),
    "TUM": (480, 640),
    "ETH3D": (4032, 6048),
    "NYU": (480, 640),
}


class Size(NamedTuple):
    """An input size of the exported network in pixels, and where it comes from."""

    height: int
    width: int
    origin: str

    def __str__(self) -> str:
        return f"{self.height}x{self.width}"


def choose_path(
    weights: str, path: str, file_format: str, device_target: str, onnx_runtime: str
) -> Path:
    """The file to write, by default beside the weights; one for each size if there are several.

    Raises:
        UserError: the format cannot be written on this device, or no file of it there, or the
            weights are no checkpoint.
    """
    if file_format == "AIR" and device_target != "Ascend":
        raise UserError(
            f"file_format: AIR can be written on Ascend alone, and device_target is "
            f"{device_target}; choose MINDIR or ONNX, or add --device_target Ascend on such a "
            "machine"
        )
    if file_format == "ONNX":
        for package in ("onnx", onnx_runtime):
            import_extra(package)
    suffix = SUFFIXES[file_format]
    if Path(weights).suffix in SUFFIXES.values():
        raise UserError(f"model_weights: {weights} is exported already; expected a .ckpt")
    if not Path(weights).is_file():
        raise UserError(f"model_weights: {weights}: no such file; expected a .ckpt")
    target = Path(path or Path(weights).with_suffix(suffix))
    if target.suffix != suffix:
        raise UserError(
            f"export_path: {target} should end in {suffix}, as file_format is {file_format}"
        )
    if not target.parent.is_dir():
        raise UserError(f"export_path: {target.parent} is no folder; create it first")
    if target.is_dir():
        raise UserError(f"export_path: {target} is a folder; give the name of a file")
    return target


def choose_sizes(
    given: Sequence[tuple[int, int]],
    names: str,
    default: tuple[int, int],
    root: str,
    paths: Mapping[str, Sequence[str]],
    bound: int,
) -> list[Size]:
    """The sizes to export: those given, or those of benchmarks, or the default; each once.

    Args:
        given: export_size, (height, width) each.
        names: of benchmarks, by comma.
        default: (height, width).
        root, paths, bound: as in `sizes_of_benchmarks`.

    Raises:
        UserError: sizes and benchmarks are given, or as `sizes_of_benchmarks`.
    """
    if given and names:
        raise UserError("export_size: --for gives sizes as well; choose one of the two")
    if names:
        return sizes_of_benchmarks(names, root, paths, bound)
    if given:
        return [Size(*size, "export_size") for size in dict.fromkeys(given)]
    return [Size(*default, "img_height and img_width")]


def sizes_of_benchmarks(
    names: str, root: str, paths: Mapping[str, Sequence[str]], bound: int
) -> list[Size]:
    """The sizes at which benchmarks are evaluated, each once.

    They are those of the images' headers where the data is there, else of the published images.

    Args:
        names: of benchmarks, by comma.
        root: train_data_dir.
        paths: name -> datapath_*, looked up under `root` first.
        bound: of the benchmarks' resize rules, 384 in the protocol.

    Raises:
        UserError: an unknown name; a benchmark without data whose images have many sizes; or its
            data is damaged.
    """
    known = {name.lower(): name for name in BENCHMARKS}
    origins: dict[tuple[int, int], list[str]] = {}
    for name in dict.fromkeys(known.get(n.strip().lower(), n.strip()) for n in names.split(",")):
        if name not in BENCHMARKS:
            raise UserError(
                f"for: got {name!r}; expected {', '.join(BENCHMARKS)}, several by comma, or give "
                "--export_size HEIGHTxWIDTH"
            )
        found = _present(name, root, paths[name], bound)
        for size, origin in (_of_images(found) if found else _of_published(name, bound)).items():
            origins.setdefault(size, []).append(origin)
    return [Size(*size, "; ".join(texts)) for size, texts in origins.items()]


def _present(name: str, root: str, paths: Sequence[str], bound: int) -> Benchmark | None:
    """A benchmark; None if its data is not there."""
    try:
        for path in paths:
            resolve_data_path(root, path, name)
    except UserError:
        return None
    return open_benchmarks(name, root, {name: paths}, bound)[0]


def _of_images(benchmark: Benchmark) -> dict[tuple[int, int], str]:
    """The size of each image's input, and how many images have it."""
    counts: dict[tuple[int, int], int] = {}
    for index in progress_bar(
        range(len(benchmark)), desc=f"{benchmark.name}: image sizes", unit="image"
    ):
        size = benchmark.resize.output_size(*benchmark.image_size(index))
        counts[size] = counts.get(size, 0) + 1
    return {
        size: f"{benchmark.name}, {count} of {len(benchmark)} images in {benchmark.root}"
        for size, count in counts.items()
    }


def _of_published(name: str, bound: int) -> dict[tuple[int, int], str]:
    if name not in _PUBLISHED:
        raise UserError(
            f"for: the images of {name} have many sizes, and datapath_{name} is not there to read "
            "them from; give --export_size HEIGHTxWIDTH,..., or --file_format ONNX, which takes "
            "all sizes"
        )
    height, width = _PUBLISHED[name]
    rule = ResizeRule(width=bound, height=bound, method=BENCHMARKS[name].resize_method)
    origin = f"{name}, whose published images are {height}x{width} (datapath_{name} is not there)"
    return {rule.output_size(height, width): origin}
