"""Which images the report shows, and their pictures."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.benchmarks.diw import Diw
from src.evaluation import Options, evaluate_all
from src.panels import choose, write_panels
from src.results import ResultFiles
from src.summary import Row
from tests.benchmark_sets import random_image, write_diw
from tests.stand_ins import MadeUp, StandIn


def rows(*errors: float | None) -> list[Row]:
    """A row for each error; None is an image that was skipped."""
    return [
        Row(str(i), 0, 0, {}, "damaged")
        if error is None
        else Row(str(i), 2, 3, {"abs_rel": error, "rmse": -error})
        for i, error in enumerate(errors)
    ]


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([3.0, 1.0, 2.0], {"best": 1, "median": 2, "worst": 0}),
        ([5.0, 4.0, 1.0, 3.0, 2.0], {"best": 2, "median": 3, "worst": 0}),
        ([0.5], {"best": 0}),
        ([0.5, 0.25], {"best": 1, "worst": 0}),
        ([1.0, 1.0, 1.0], {"best": 0, "median": 1, "worst": 2}),
        ([1.0, 1.0], {"best": 0, "worst": 1}),
        ([1.0, 0.0, 1.0, 0.0, 0.0], {"best": 1, "median": 4, "worst": 2}),
        ([None, 2.0, None, 1.0, 3.0, None], {"best": 3, "median": 1, "worst": 4}),
        ([None, 2.0, None], {"best": 1}),
    ],
)
def test_best_median_and_worst_are_different_images_that_count(errors, expected):
    chosen = choose(rows(*errors), "abs_rel")
    assert chosen == expected
    assert list(chosen) == [which for which in ("best", "median", "worst") if which in expected]


def test_the_metric_decides():
    assert choose(rows(3.0, 1.0, 2.0), "rmse") == {"best": 0, "median": 2, "worst": 1}


def test_the_median_of_an_even_number_is_one_of_the_two_in_the_middle():
    assert choose(rows(4.0, 1.0, 3.0, 2.0), "abs_rel")["median"] in (2, 3)


def evaluated(tmp_path: Path, benchmark) -> tuple[Path, dict]:
    """The folder of an evaluation and its results.json."""
    (tmp_path / "weights").write_bytes(b"weights")
    files = ResultFiles(tmp_path / "val.json")
    options = Options(skip_damaged=True)
    evaluate_all(StandIn(tmp_path / "weights"), [benchmark], files, options)
    return files.folder, json.loads((files.folder / "results.json").read_text())


@pytest.mark.parametrize(
    ("count", "damaged", "ranks"),
    [
        (5, [1], ["best", "median", "worst"]),
        (3, [0], ["best", "worst"]),
        (2, [], ["best", "worst"]),
        (1, [], ["best"]),
    ],
)
def test_panels_are_files_that_results_json_lists_and_the_report_holds(
    tmp_path, count, damaged, ranks
):
    benchmark = MadeUp([(6, 8)] * count, damaged)
    folder, details = evaluated(tmp_path, benchmark)
    panels = details["MadeUp"]["panels"]
    assert [panel["rank"] for panel in panels] == ranks
    lines = (folder / "results.csv").read_text().splitlines()[1:]
    errors = {line.split(",")[1]: float(line.split(",")[5] or "nan") for line in lines}
    good = sorted((e, i) for i, e in errors.items() if not np.isnan(e))
    assert (panels[0]["error"], panels[0]["id"]) == good[0]
    if len(ranks) > 1:
        assert (panels[-1]["error"], panels[-1]["id"]) == good[-1]
    assert all(panel["error"] == errors[panel["id"]] for panel in panels)
    assert len({panel["id"] for panel in panels}) == len(panels)
    files = [picture["file"] for panel in panels for picture in panel["pictures"]]
    what = ("image", "truth", "prediction", "error")
    assert files == [f"panels/MadeUp-{rank}-{name}.jpg" for rank in ranks for name in what]
    assert sorted(files) == sorted(f"panels/{path.name}" for path in (folder / "panels").iterdir())
    assert_report_holds(folder, panels)


def assert_report_holds(folder: Path, panels: list[dict]) -> None:
    """Every picture, in its order, with its caption and id."""
    page = (folder / "report.html").read_text()
    codes = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    files = [picture["file"] for panel in panels for picture in panel["pictures"]]
    assert len(codes) == len(files)
    for code, file in zip(codes, files, strict=True):
        shown = np.array(Image.open(io.BytesIO(base64.b64decode(code)))).astype(float)
        written = np.array(Image.open(folder / file)).astype(float)
        assert shown.shape == written.shape
        assert np.abs(shown - written).mean() < 20  # it is compressed once more
    for panel in panels:
        assert panel["id"] in page


def test_a_depth_panel_shows_the_image_the_truth_and_the_aligned_prediction(tmp_path):
    """A prediction that is the inverse of the true depth: panels of truth and prediction agree."""
    benchmark = MadeUp([(32, 40)] * 2)
    depths = {benchmark.read(i).image[0, 0].tobytes(): benchmark.read(i).depth for i in range(2)}

    def perfect(index: int, image: np.ndarray) -> np.ndarray:
        assert np.array_equal(image, benchmark.read(index).image)
        return 5 / depths[image[0, 0].tobytes()] - 1

    errors = [Row(id_, 32, 40, {"abs_rel": float(i)}) for i, id_ in enumerate(benchmark.ids)]
    entries = write_panels(perfect, benchmark, errors, tmp_path)
    for index, entry in enumerate(entries):
        assert entry["id"] == benchmark.ids[index]
        pictures = {
            Path(picture["file"]).stem.split("-")[-1]: np.array(
                Image.open(tmp_path / picture["file"])
            ).astype(int)
            for picture in entry["pictures"]
        }
        photograph = benchmark.read(index).image.astype(int)
        other = benchmark.read(1 - index).image.astype(int)
        difference, from_other = (
            np.abs(pictures["image"] - expected).mean() for expected in (photograph, other)
        )
        assert difference < 0.7 * from_other  # a JPEG of noise is not close to it
        np.testing.assert_allclose(pictures["prediction"], pictures["truth"], atol=2)
        assert pictures["error"].std(axis=(0, 1)).max() < 2
        captions = [picture["caption"] for picture in entry["pictures"]]
        low, high = (
            f"{value:.3g}" for value in np.sort(benchmark.read(index).depth.ravel())[[0, -1]]
        )
        assert captions[1] == f"ground truth, {low} to {high} m"


def test_ordinal_panels_have_a_photograph_and_a_prediction(tmp_path):
    images = {f"{i:02x}": random_image(i, (6, 8)) for i in range(3)}
    write_diw(tmp_path / "DIW", images, ["1,1,5,5,<", "1,1,5,5,>", "2,2,6,6,<"])
    folder, details = evaluated(tmp_path, Diw(tmp_path / "DIW"))
    files = [p["file"] for panel in details["DIW"]["panels"] for p in panel["pictures"]]
    what = ("image", "prediction")
    ranks = ("best", "median", "worst")
    assert files == [f"panels/DIW-{rank}-{name}.jpg" for rank in ranks for name in what]
    assert_report_holds(folder, details["DIW"]["panels"])
