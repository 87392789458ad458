"""report.html: the results of an evaluation as one page that needs no other file."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from pydantic import (
    BaseModel,
    BeforeValidator,
    FiniteFloat,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
)

from src import histogram, visualize
from src.errors import UserError
from src.image_io import read_image, write_bytes

_JPEG_QUALITY = 85
_MOST_SKIPPED = 50  # that are listed; their number is always given
_PROTOCOL_SIZE = "384"  # of the network in all published results


@dataclass(frozen=True)
class Measure:
    """A column of results.csv: how it is printed and read.

    Attributes:
        unit: `""` for a pure ratio.
        digits: behind the decimal point.
        explanation: in words, of one image.
    """

    name: str
    unit: str
    digits: int
    explanation: str
    better: Literal["lower", "higher"] = "lower"

    def text(self, value: float) -> str:
        return f"{value:.{self.digits}f}"


MEASURES = {
    "abs_rel": Measure("AbsRel", "", 4, "mean of |z - z*| / z*"),
    "rmse": Measure("RMSE", "m", 3, "root of the mean of (z - z*)²"),
    "log10": Measure("log10", "", 4, "mean of |log₁₀ z - log₁₀ z*|"),
    "silog": Measure("SILog", "×100", 3, "100 times the standard deviation of ln z - ln z*"),
    "delta1": Measure("δ < 1.25", "share", 4, "of pixels, δ = max(z / z*, z* / z)", "higher"),
    "delta2": Measure("δ < 1.25²", "share", 4, "of pixels", "higher"),
    "delta3": Measure("δ < 1.25³", "share", 4, "of pixels", "higher"),
    "bad_pixel_percent": Measure("δ > 1.25", "%", 3, "of pixels"),
    "row_abs_rel": Measure("AbsRel, row", "", 4, "AbsRel of the image row alone"),
    "whdr": Measure("WHDR", "", 4, "share of point pairs in the wrong order"),
    "row_whdr": Measure("WHDR, row", "", 4, "WHDR of the image row alone"),
}

# A benchmark whose errors are all smaller than this looks free of errors in its histogram.
_SMALLEST_RANGE = {"abs_rel": 0.01, "bad_pixel_percent": 1.0}


@dataclass(frozen=True)
class Published:
    """Published errors of one network by benchmark, in digits as printed there, WHDR as a share.

    The lines of `detail` say which network it is.
    """

    name: str
    detail: str
    errors: Mapping[str, str]


def _published(
    name: str, detail: str, kitti: str, sintel: str, tum: str, others: tuple[str, str, str] | None
) -> Published:
    errors = {"Kitti": kitti, "Sintel": sintel, "TUM": tum}
    if others is not None:
        errors |= dict(zip(("ETH3D", "NYU", "DIW"), others, strict=True))
    return Published(name, detail, errors)


MIXED = (
    _published(
        "MiDaS v2", "ResNeXt-101\nMIX 5", "23.90", "0.327", "14.29", ("0.129", "9.55", "0.1246")
    ),
    _published(
        "MiDaS v2.1", "ResNeXt-101", "16.08", "0.3285", "12.51", ("0.1155", "8.71", "0.1295")
    ),
)
REDWEB = (
    _published("Paper", "ResNet-50", "27.95", "0.349", "21.69", ("0.151", "18.74", "0.1459")),
    _published("Model zoo", "ResNeXt-101\nAscend 910", "24.222", "0.323", "15.08", None),
    _published("Model zoo", "ResNeXt-101\nV100", "23.870", "0.322569", "16.198", None),
)
_ORDER = ("Kitti", "Sintel", "TUM", "ETH3D", "NYU", "DIW")


def _printable(value: object) -> object:
    """Names of files may hold bytes that are no text, which Python keeps as lone surrogates."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


Name = Annotated[str, BeforeValidator(_printable)]


class Picture(BaseModel):
    file: str
    caption: str


class PanelRow(BaseModel):
    rank: str
    id: Name
    error: FiniteFloat
    pictures: list[Picture]


class Skipped(BaseModel):
    id: Name
    reason: Name


class BenchmarkResult(BaseModel):
    """One benchmark of results.json."""

    metric: Literal["abs_rel", "bad_pixel_percent", "whdr"]
    error: FiniteFloat
    images: NonNegativeInt
    means: dict[str, FiniteFloat]
    settings: dict[str, Any]
    skipped: list[Skipped]
    panels: list[PanelRow]

    @property
    def measure(self) -> Measure:
        return MEASURES[self.metric]


Results = dict[str, BenchmarkResult]


def write_report(folder: Path) -> Path:
    """Turn results.json, results.csv and the panel pictures of a folder into its report.html.

    Returns:
        The page: one file without scripts, with everything in it.

    Raises:
        UserError: a file is missing, damaged, or does not fit the others.
    """
    results = read_results(folder / "results.json")
    errors = _read_errors(folder / "results.csv", results)
    common = _common_settings(results)
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            benchmarks=[
                _benchmark_view(folder, name, result, errors[name], common)
                for name, result in results.items()
            ],
            settings=_settings_view(common),
            notes=list(_notes(results)),
            published={"Mixed training sets": MIXED, "ReDWeb alone": REDWEB},
            measures=_measures(results),
            size=(histogram.WIDTH, histogram.HEIGHT),
            frame=(histogram.LEFT, histogram.RIGHT, histogram.TOP, histogram.BOTTOM),
            scales=_scales(),
        )
    )
    path = folder / "report.html"
    write_bytes(path, page.encode(errors="backslashreplace"))  # as in `_printable`
    return path


def _measures(results: Results) -> dict[str, Measure]:
    """Those that any of the benchmarks has."""
    return {
        key: measure
        for key, measure in MEASURES.items()
        if any(key in result.means for result in results.values())
    }


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("src"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def read_results(path: Path) -> Results:
    """results.json, the benchmarks in the order of the published tables.

    Raises:
        UserError: missing or damaged.
    """
    try:
        results = TypeAdapter(Results).validate_python(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; evaluate first") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        message = f"{place}: {first['msg']}"
        raise UserError(f"{path}: damaged ({message}); evaluate again") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged, no JSON ({error}); evaluate again") from None
    if not results:
        raise UserError(f"{path}: holds no benchmark; evaluate first")
    rank = {name: place for place, name in enumerate(_ORDER)}
    return dict(sorted(results.items(), key=lambda item: rank.get(item[0], len(rank))))


def _read_errors(path: Path, results: Results) -> dict[str, np.ndarray]:
    """Benchmark -> the error of each image that was not skipped, float64 [N], in its own metric."""
    errors: dict[str, list[float]] = {name: [] for name in results}
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                if row.get("benchmark") in errors and not row.get("skipped"):
                    metric = results[row["benchmark"]].metric
                    errors[row["benchmark"]].append(_finite(path, reader.line_num, row, metric))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; evaluate again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except csv.Error as error:
        raise UserError(f"{path}: damaged ({error}); evaluate again") from None
    for name, result in results.items():
        if len(errors[name]) != result.images:
            raise UserError(
                f"{path}: {len(errors[name])} images of {name} with an error, results.json counts"
                f" {result.images}; evaluate {name} again"
            )
    return {name: np.array(values, np.float64) for name, values in errors.items()}


def _finite(path: Path, line: int, row: Mapping[str, str | None], column: str) -> float:
    try:
        value = float(row[column])
    except (KeyError, TypeError, ValueError):
        value = np.nan
    if not (np.isfinite(value) and value >= 0):
        raise UserError(
            f"{path}: line {line}: {column} is {row.get(column)!r}, expected a number;"
            " evaluate again"
        )
    return value


def _common_settings(results: Results) -> dict[str, Any]:
    """What all benchmarks were evaluated with."""
    first, *others = [result.settings for result in results.values()]
    return {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in others)
    }


def _settings_view(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Settings as (name, value) for reading: units behind values, a hash shortened."""
    view = []
    for key, value in settings.items():
        name = key.removesuffix("_m").replace("_", " ").replace("sha256", "SHA-256")
        text = str(value)[:12] if key.endswith("sha256") else str(value)
        view.append((name, f"{text} m" if key.endswith("_m") else text))
    return view


def _notes(results: Results) -> Iterator[str]:
    """What keeps these numbers from being compared with each other or with the published ones."""
    if not _one_checkpoint([result.settings for result in results.values()]):
        yield "The benchmarks were not evaluated with one and the same checkpoint."
    computed = {name: _computed_by(result.settings) for name, result in results.items()}
    if len(set(computed.values())) > 1:
        found = ", ".join(f"{name} by {by}" for name, by in computed.items())
        yield f"The benchmarks were not computed alike: {found}."
    sizes = {
        str(result.settings.get("network_size", _PROTOCOL_SIZE)) for result in results.values()
    }
    if sizes != {_PROTOCOL_SIZE}:
        found = ", ".join(sorted(sizes))
        yield f"Network size {found}; the published errors are of size {_PROTOCOL_SIZE}."
    for name, result in results.items():
        if result.settings.get("occluded_pixels") == "excluded":
            yield f"{name}: occluded pixels are excluded; the published errors include them."
        if result.skipped:
            total = len(result.skipped) + result.images
            yield f"{name}: {len(result.skipped):,} of {total:,} images were skipped."


def _computed_by(settings: Mapping[str, Any]) -> str:
    """In words; evaluations of checkpoints do not record it."""
    found = [str(settings[key]) for key in ("runtime", "backend", "precision") if key in settings]
    return " ".join(found) or "MindSpore"


def _one_checkpoint(settings: Sequence[Mapping[str, Any]]) -> bool:
    """By the files' hashes; where one is missing, their names must be the same too."""
    hashes = [one.get("checkpoint_sha256") for one in settings]
    names = {one.get("checkpoint") for one in settings}
    return len(set(hashes) - {None}) <= 1 and (None not in hashes or len(names) == 1)


def _benchmark_view(
    folder: Path,
    name: str,
    result: BenchmarkResult,
    errors: np.ndarray,
    common: Mapping[str, Any],
) -> dict[str, Any]:
    """What the template shows of one benchmark, numbers as text."""
    own = {key: value for key, value in result.settings.items() if key not in common}
    view = {
        "name": name,
        "result": result,
        "measure": result.measure,
        "settings": _settings_view(own),
        "chart": None,
        "panels": [
            _panel_view(folder, name, result.measure, panel) for panel in _distinct(result.panels)
        ],
        "listed": result.skipped[:_MOST_SKIPPED],
    }
    if len(errors):
        if result.metric == "whdr":
            data = histogram.wrong_or_right(errors)
        else:
            data = histogram.histogram(errors, _SMALLEST_RANGE[result.metric])
        view |= {
            "chart": histogram.layout(data),
            "mean": result.measure.text(data.mean),
            "median": result.measure.text(data.median),
        }
    return view


def _distinct(panels: list[PanelRow]) -> list[PanelRow]:
    """One panel for each image: of few images, one may be best, median and worst."""
    by_id: dict[str, PanelRow] = {}
    for panel in panels:
        seen = by_id.get(panel.id)
        rank = panel.rank if seen is None else f"{seen.rank}, {panel.rank}"
        by_id[panel.id] = panel.model_copy(update={"rank": rank})
    return list(by_id.values())


def _panel_view(folder: Path, name: str, measure: Measure, panel: PanelRow) -> dict[str, Any]:
    return {
        "rank": panel.rank,
        "id": panel.id,
        "error": measure.text(panel.error),
        "pictures": [
            {
                "alt": f"{name}, {panel.rank} image {panel.id}: {picture.caption}",
                "caption": picture.caption,
                **_embed(folder / picture.file),
            }
            for picture in panel.pictures
            if (folder / picture.file).is_file()  # they may be removed to save space
        ],
    }


def _embed(path: Path) -> dict[str, Any]:
    """A picture file as a data URI of at most panel width, with its size in pixels."""
    picture = Image.fromarray(read_image(path))
    width = visualize.PANEL_WIDTH
    if picture.width > width:
        height = max(1, round(picture.height * width / picture.width))
        picture = picture.resize((width, height), Image.Resampling.BOX)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    code = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {
        "uri": f"data:image/jpeg;base64,{code}",
        "width": picture.width,
        "height": picture.height,
    }


def _scales() -> list[dict[str, str]]:
    """The colour scales of the panels, for the legend."""
    depth, error = (
        ", ".join(visualize.colour_stops(name))
        for name in (visualize.COLOUR_MAP, visualize.ERROR_MAP)
    )
    return [
        {"name": "inverse depth", "low": "far", "high": "close", "colours": depth},
        {
            "name": "error |z - z*| / z*",
            "low": "0",
            "high": f"{visualize.ERROR_LIMIT} and more",
            "colours": error,
        },
    ]
