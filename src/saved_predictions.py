"""Predictions that ascend310_infer wrote, as a source for scores and depth maps.

result_Files/<dataset>/run.json          what they were computed with
result_Files/<dataset>/predictions.csv   a row for each image: its file, its sizes
result_Files/<dataset>/...bin            float32, little-endian, row after row, without header
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, PositiveInt, ValidationError

from src import image_io
from src.ahead import batches_of_equal
from src.align import Alignment
from src.data.benchmarks import Benchmark, open_benchmarks
from src.data.benchmarks.base import FileBenchmark
from src.data.transforms import Upsampling
from src.errors import UserError
from src.inference import NoPredictionError, write_depth_maps
from src.scoring import sha256, words
from src.summary import Result, table

LOG = logging.getLogger("midas")

BENCHMARKS = ("Kitti", "Sintel", "TUM")
"""Those that the program knows."""

COLUMNS = ("image", "file", "height", "width", "image_height", "image_width")
_LISTED = 3  # images that a message names
_AGAIN = "run ascend310_infer again"

Channels3 = tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class Run(BaseModel):
    """run.json: `resize` is "<method> <size>", or "fixed <height>x<width>" of a model of one size.

    `mean` and `std` are those of RGB in [0, 1].
    """

    model: str
    backend: str
    precision: str
    batch_size: PositiveInt
    resize: Annotated[str, Field(pattern=r"^[a-z_]+ \d+$|^fixed \d+x\d+$")]
    mean: Channels3
    std: Channels3
    device: str

    @property
    def network_size(self) -> str:
        """The bound of the rule, or the fixed width x height, as `Predictor` has it."""
        size = self.resize.split()[1]
        return "x".join(reversed(size.split("x")))

    @property
    def is_fixed(self) -> bool:
        """The model has one size, whatever the rule."""
        return self.resize.startswith("fixed ")

    @property
    def normalisation(self) -> str:
        return normalisation(self.mean, self.std)


class Entry(NamedTuple):
    """A row of predictions.csv: sizes are (height, width) in pixels."""

    file: Path
    size: tuple[int, int]
    image_size: tuple[int, int]


class PredictionFolder:
    """The predictions of one data set, by the path of their image below the data's folder.

    Args:
        path: result_Files/<dataset>.

    Raises:
        UserError: run.json or predictions.csv is missing, damaged or something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = _read_run(path / "run.json")
        self.entries = dict(_read_entries(path / "predictions.csv"))

    def model_hash(self) -> dict[str, str]:
        """checkpoint_sha256, unless the model is gone or has changed since it predicted."""
        model = Path(self.run.model)
        try:
            changed = model.stat().st_mtime_ns > (self.path / "run.json").stat().st_mtime_ns
        except OSError:
            return {}
        return {"checkpoint_sha256": sha256(model)} if model.is_file() and not changed else {}

    def read(self, image: str, height: int, width: int) -> np.ndarray:
        """The prediction of an image of this size in pixels: float32 [h, w], at the network's size.

        Raises:
            NoPredictionError: it has no row, another size, or its file is missing, not as long as
                its row says, or not finite.
        """
        if image not in self.entries:
            raise NoPredictionError(f"{self.path / 'predictions.csv'}: has no row of {image}")
        entry = self.entries[image]
        if entry.image_size != (height, width):
            found = f"{entry.image_size[1]} x {entry.image_size[0]}"
            raise NoPredictionError(
                f"{entry.file}: is of an image of {found} pixels, but {image} has {width} x "
                f"{height}; {_AGAIN}"
            )
        try:
            prediction = image_io.read_raw_depth(entry.file, *entry.size)
        except UserError as error:
            raise NoPredictionError(str(error)) from None
        if not np.isfinite(prediction).all():
            raise NoPredictionError(f"{entry.file}: holds values that are not finite; {_AGAIN}")
        return prediction

    def require_known(self, images: Iterable[str], skip: bool) -> None:
        """Raise unless the rows are of these images, those of the data.

        Args:
            skip: some rows may be of others, which is logged; not all.

        Raises:
            UserError: they are not; names the first.
        """
        unknown = sorted(self.entries.keys() - set(images))
        table = self.path / "predictions.csv"
        if unknown and not (skip and len(unknown) < len(self.entries)):
            raise UserError(
                f"{table}: {_first(unknown)}: no such image in the data; give the folder that was "
                "predicted"
            )
        if unknown:
            count, total = len(unknown), len(self.entries)
            names = _first(unknown)
            LOG.warning("%s: %d of %d rows have no image: %s", table, count, total, names)

    def require_all(self, images: Sequence[str]) -> None:
        """Raise unless each of these images has a row.

        Raises:
            UserError: names the first that have none.
        """
        missing = [image for image in images if image not in self.entries]
        table = self.path / "predictions.csv"
        if missing:
            raise UserError(
                f"{table}: {len(missing)} of {len(images)} images have no prediction: "
                f"{_first(missing)}; {_AGAIN}, or leave them out with --on_error skip"
            )


class SavedPredictions:
    """The predictions of benchmarks as a source for `score_all`.

    Args:
        folder: result_Files.
        benchmarks: those that are scored, all of them in BENCHMARKS.
        skip_damaged: images may be without prediction, and rows without image.

    Raises:
        UserError: as in `PredictionFolder` and its `require_known` and `require_all`.
    """

    def __init__(self, folder: Path, benchmarks: Sequence[Benchmark], skip_damaged: bool) -> None:
        self.folders: dict[str, PredictionFolder] = {}
        self._images: dict[str, list[str]] = {}
        self._rules: dict[str, str] = {}
        for benchmark in benchmarks:
            images = list(_image_names(benchmark))
            predictions = PredictionFolder(folder / benchmark.name)
            predictions.require_known(images, skip_damaged)
            if not skip_damaged:
                predictions.require_all(images)
            self.folders[benchmark.name] = predictions
            self._images[benchmark.name] = images
            self._rules[benchmark.name] = f"{benchmark.resize.method} {benchmark.resize.width}"

    def settings(self, benchmark: Benchmark) -> dict[str, Any]:
        """What the C++ program noted of its run, and the model by its hash."""
        folder = self.folders[benchmark.name]
        run = folder.run
        return {
            "checkpoint": run.model,
            **folder.model_hash(),
            "dataset": str(benchmark.root.resolve()),
            "network_size": run.network_size,
            "normalisation": run.normalisation,
            "batch_size": run.batch_size,
            "backend": run.backend,
            "precision": run.precision,
            "device": run.device,
            "resize": run.resize,
        }

    def batches(self, benchmark: Benchmark) -> list[tuple[int, ...]]:
        return [(index,) for index in range(len(benchmark))]

    def prepare(self, benchmark: Benchmark, index: int, image: np.ndarray) -> np.ndarray:
        name = self._images[benchmark.name][index]
        return self.folders[benchmark.name].read(name, *image.shape[:2])

    def run(self, prepared: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        return prepared

    def table(
        self,
        results: Sequence[Result],
        upsampling: Upsampling,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> str:
        """The results as text; the last line also says how the predictions were computed.

        Args:
            results, upsampling: as in `src.summary.table`.
            mean, std: those that the network was trained with; a run with others is told, as is
                one with another resize rule than the benchmark's.
        """
        runs = [folder.run for folder in self.folders.values()]
        text = table(results, _listed(run.network_size for run in runs), upsampling)
        text += f"; computed by {_listed(f'{run.backend} in {run.precision}' for run in runs)}"
        expected = normalisation(mean, std)
        others = [run.normalisation for run in runs if run.normalisation != expected]
        if others:
            text += f", normalised by {_listed(others)} instead of {expected}"
        sizes = [
            f"{folder.run.resize} instead of {self._rules[name]}"
            for name, folder in self.folders.items()
            if folder.run.resize != self._rules[name] and not folder.run.is_fixed
        ]
        return f"{text}, predicted at {_listed(sizes)}" if sizes else text


def write_saved(
    folder: Path,
    source: Path,
    output: Path,
    alignment: Alignment | None = None,
    skip_damaged: bool = False,
) -> int:
    """Write the depth maps of a folder of images, as midas_run does, from saved predictions.

    Args:
        folder: of the predictions, result_Files/images.
        source, output, alignment: as in `write_depth_maps`.
        skip_damaged: predictions may be without image.

    Returns:
        The number of images that failed, those without prediction among them.

    Raises:
        UserError: as in `write_depth_maps`, `PredictionFolder` and its `require_known`.
    """
    predictions = PredictionFolder(folder)
    images, _ = image_io.list_images(source)
    predictions.require_known((image.name for image in images), skip_damaged)
    return write_depth_maps(_SavedDepth(predictions), source, output, alignment)


class _SavedDepth(NamedTuple):
    """The predictions of a folder of images as a source for `write_depth_maps`."""

    predictions: PredictionFolder

    def batches(self, images: Sequence[Path]) -> list[tuple[int, ...]]:
        return batches_of_equal(images, 1)

    def prepare(self, path: Path, image: np.ndarray) -> np.ndarray:
        return self.predictions.read(path.name, *image.shape[:2])

    def run(self, prepared: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        return prepared


def open_predicted(
    folder: Path,
    data_name: str,
    root: str,
    paths: Mapping[str, Sequence[str]],
    size: int,
    options: Mapping[str, Mapping[str, Any]],
    problems: list[str] | None,
) -> list[Benchmark]:
    """The benchmarks that `data_name` asks for; of `all`, those that were predicted.

    Args:
        folder: result_Files.
        data_name, root, paths, size, options, problems: as in `open_benchmarks`.

    Raises:
        UserError: as in `open_benchmarks`, the program does not know one of them, or none is left.
    """
    names = _predicted_names(data_name, folder)
    benchmarks = open_benchmarks(names, root, paths, size, options, problems)
    if not benchmarks:
        raise UserError("; ".join(problems or ()))
    return benchmarks


def midas_infer_flags(size: int, mean: Sequence[float], std: Sequence[float]) -> str:
    """The flags of midas_infer, one a line.

    Args:
        size: bound of the resize rule in pixels.
        mean, std: of RGB in [0, 1].
    """
    mean_text, std_text = (",".join(map(repr, values)) for values in (mean, std))
    return f"--size={size}\n--mean={mean_text}\n--std={std_text}"


def normalisation(mean: Sequence[float], std: Sequence[float]) -> str:
    """In words, of RGB in [0, 1]."""
    return f"mean {words(mean)}, std {words(std)}"


def _predicted_names(data_name: str, folder: Path) -> str:
    if data_name.strip().lower() == "all":
        names = [name for name in BENCHMARKS if (folder / name).is_dir()]
        for name in BENCHMARKS:
            if name not in names:
                LOG.info("%s: no predictions in %s", name, folder)
        if not names:
            raise UserError(
                f"result_path: {folder}: no predictions of {', '.join(BENCHMARKS)}; let "
                "ascend310_infer predict one first"
            )
        return ",".join(names)
    for name in data_name.split(","):
        if name.strip().lower() not in map(str.lower, BENCHMARKS):
            raise UserError(
                f"data_name: ascend310_infer does not predict {name.strip()}; expected "
                f"{', '.join(BENCHMARKS)}, several by comma, or all, or images"
            )
    return data_name


def _image_names(benchmark: Benchmark) -> Iterator[str]:
    """The images of a benchmark in its order, relative to its folder, with '/'."""
    assert isinstance(benchmark, FileBenchmark)  # as all of BENCHMARKS
    for index in range(len(benchmark)):
        image = benchmark.image_file(index)
        inside = image.is_relative_to(benchmark.root)
        root = benchmark.root if inside else benchmark.root.resolve()
        yield os.path.relpath(image, root)


def _read_run(path: Path) -> Run:
    try:
        return Run(**json.loads(_read_text(path)))
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except (ValueError, TypeError) as error:
        problem = f"no JSON object: {error}"
    raise UserError(f"{path}: damaged ({problem}); {_AGAIN}")


def _read_entries(path: Path) -> Iterator[tuple[str, Entry]]:
    """The complete rows: the program adds them one by one, the last may be torn."""
    text = _read_text(path)
    rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""), strict=True)
    try:
        if next(rows, None) != list(COLUMNS):
            raise UserError(f"{path}: expected the header {','.join(COLUMNS)}; {_AGAIN}")
        for image, file, *numbers in rows:
            height, width, image_height, image_width = map(int, numbers)
            entry = Entry(path.parent / file, (height, width), (image_height, image_width))
            yield os.path.normpath(image), entry
    except (csv.Error, ValueError):
        raise UserError(
            f"{path}, line {rows.line_num}: expected {','.join(COLUMNS)}, the last four whole "
            f"numbers; {_AGAIN}"
        ) from None


def _read_text(path: Path) -> str:
    """With the bytes of file names that are no UTF-8."""
    try:
        return path.read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; let ascend310_infer predict {path.parent.name} first, or check "
            "result_path"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))
