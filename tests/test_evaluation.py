"""Zero-shot evaluation on hand-written benchmarks, against least squares and plain loops."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from src.data.benchmarks import BENCHMARKS
from src.data.transforms import ResizeRule
from src.errors import UserError
from src.evaluation import Result, evaluate, open_benchmarks, read_results, table, write_results
from tests import file_formats

HEIGHT, WIDTH = 12, 16
IMAGES = 3
CAPS = {"Kitti": 80, "Sintel": 72, "TUM": 10}
UNITS = {"Kitti": 256, "Sintel": 1, "TUM": 5000}
FOLDERS = {"Kitti": "Kitti_raw_data", "Sintel": "Sintel", "TUM": "TUM"}


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def stored_depth(name: str, seed: int) -> np.ndarray:
    """What is in a depth file, in its units: unknown pixels and some beyond the cap among them."""
    rng = np.random.default_rng(seed)
    metres = rng.uniform(0.1, 1.2, (HEIGHT, WIDTH)) * CAPS[name]
    metres[rng.random((HEIGHT, WIDTH)) < 0.3] = 0
    values = np.rint(metres * UNITS[name]) if name != "Sintel" else metres
    return values.astype(np.float32 if name == "Sintel" else np.uint16)


def write_benchmark(name: str, root: Path, depths: list[np.ndarray]) -> None:
    """Image i is grey of the value i."""
    associations = []
    for i, depth in enumerate(depths):
        image = file_formats.png(np.full((HEIGHT, WIDTH, 3), i, np.uint8))
        if name == "Kitti":
            put(root / "drive/image" / f"{i}.png", image)
            put(root / "drive/depth" / f"{i}.png", file_formats.png(depth))
        elif name == "Sintel":
            put(root / "final_left/alley" / f"{i}.png", image)
            put(root / "depth/alley" / f"{i}.dpt", file_formats.dpt(depth))
        else:
            put(root / "desk/rgb" / f"{i}.png", image)
            put(root / "desk/depth" / f"{i}.png", file_formats.png(depth))
            associations.append(f"rgb/{i}.png depth/{i}.png\n")
    if name == "TUM":
        put(root / "desk/associate.txt", "".join(associations).encode())


class StandIn:
    """Predicts what it is given, by the grey value of the image."""

    def __init__(self, predictions: list[np.ndarray]) -> None:
        self.predictions = predictions
        self.rules: list[ResizeRule] = []

    def predict(self, image: np.ndarray, rule: ResizeRule) -> np.ndarray:
        assert image.dtype == np.uint8
        assert image.shape == (HEIGHT, WIDTH, 3)
        self.rules.append(rule)
        return self.predictions[image[0, 0, 0]].astype(np.float32)


def protocol(prediction: np.ndarray, depth: np.ndarray, cap: float) -> tuple[float, float]:
    """(AbsRel, percent of bad pixels) by numpy.linalg.lstsq and a loop over pixels."""
    pixels = [(v, u) for v in range(HEIGHT) for u in range(WIDTH) if 0 < depth[v, u] < cap]
    columns = np.array([[prediction[pixel], 1.0] for pixel in pixels], np.float64)
    target = np.array([1 / depth[pixel] for pixel in pixels], np.float64)
    scale, shift = np.linalg.lstsq(columns, target, rcond=None)[0]
    relative, bad = 0.0, 0
    for pixel in pixels:
        z = 1 / max(scale * float(prediction[pixel]) + shift, 1 / cap)
        true = float(depth[pixel])
        relative += abs(z - true) / true
        bad += max(z / true, true / z) > 1.25
    return relative / len(pixels), 100 * bad / len(pixels)


@pytest.fixture(params=list(CAPS))
def case(request, tmp_path):
    """(name, benchmark, depths in metres float64)."""
    name = request.param
    stored = [stored_depth(name, seed) for seed in range(IMAGES)]
    write_benchmark(name, tmp_path / name, stored)
    depths = [values.astype(np.float64) / UNITS[name] for values in stored]
    return name, BENCHMARKS[name](tmp_path / name, 64), depths


def test_a_perfect_prediction_scores_zero(case):
    """Inverse depth in any scale and shift is perfect."""
    _, benchmark, depths = case
    predictions = [7 / np.where(depth > 0, depth, 1) + 3 for depth in depths]
    result = evaluate(StandIn(predictions), benchmark)
    assert result.error == pytest.approx(0, abs=1e-4)
    assert result.abs_rel == pytest.approx(0, abs=1e-5)
    assert (result.images, result.skipped) == (IMAGES, 0)


@pytest.mark.parametrize("kind", ["noisy", "constant"])
def test_errors_are_those_of_the_protocol(case, kind):
    name, benchmark, depths = case
    rng = np.random.default_rng(9)
    predictions = [
        np.full((HEIGHT, WIDTH), 0.7, np.float32)
        if kind == "constant"
        else (5 / np.where(depth > 0, depth, 1) + rng.normal(size=depth.shape)).astype(np.float32)
        for depth in depths
    ]
    rows = np.repeat(np.arange(HEIGHT)[:, None], WIDTH, axis=1).astype(np.float64)
    stand_in = StandIn(predictions)
    result = evaluate(stand_in, benchmark)
    scores = [protocol(p, d, CAPS[name]) for p, d in zip(predictions, depths, strict=True)]
    abs_rel, bad = np.mean(scores, axis=0)
    assert result.abs_rel == pytest.approx(abs_rel, rel=1e-6)
    assert result.error == pytest.approx(abs_rel if name == "Sintel" else bad, rel=1e-6)
    row_abs_rel = np.mean([protocol(rows, depth, CAPS[name])[0] for depth in depths])
    assert result.row_abs_rel == pytest.approx(row_abs_rel, rel=1e-6)
    assert (result.name, result.metric) == (name, benchmark.metric)
    method = "lower_bound" if name == "Kitti" else "upper_bound"
    assert stand_in.rules == [ResizeRule(64, 64, method=method)] * IMAGES


def test_images_without_a_valid_pixel_are_skipped_and_counted(tmp_path):
    empty = np.zeros((HEIGHT, WIDTH), np.uint16)
    beyond = np.full((HEIGHT, WIDTH), 80 * 256, np.uint16)
    good = stored_depth("Kitti", 0)
    write_benchmark("Kitti", tmp_path, [empty, good, beyond])
    prediction = np.random.default_rng(0).random((HEIGHT, WIDTH)).astype(np.float32)
    result = evaluate(StandIn([prediction] * 3), BENCHMARKS["Kitti"](tmp_path))
    assert (result.images, result.skipped) == (1, 2)
    assert result.error == pytest.approx(protocol(prediction, good / 256, 80)[1], rel=1e-6)


def test_a_benchmark_without_any_valid_pixel_is_an_error(tmp_path):
    write_benchmark("TUM", tmp_path, [np.zeros((HEIGHT, WIDTH), np.uint16)])
    with pytest.raises(UserError) as caught:
        evaluate(StandIn([]), BENCHMARKS["TUM"](tmp_path))
    assert str(caught.value).startswith(str(tmp_path))


# --- Which benchmarks -----------------------------------------------------------------------------


@pytest.fixture
def data_root(tmp_path):
    for name, folder in FOLDERS.items():
        write_benchmark(name, tmp_path / folder, [stored_depth(name, 0)])
    return tmp_path


def opened(data_name: str, root: Path, **paths: str) -> list[str]:
    known = {name: FOLDERS.get(name, name) for name in BENCHMARKS} | paths
    benchmarks = open_benchmarks(data_name, str(root), known, 64)
    assert all(max(b.resize.width, b.resize.height) == 64 for b in benchmarks)
    return [benchmark.name for benchmark in benchmarks]


@pytest.mark.parametrize(
    ("data_name", "expected"),
    [
        ("Kitti", ["Kitti"]),
        ("tum", ["TUM"]),
        ("TUM,Kitti", ["TUM", "Kitti"]),
        (" Sintel , TUM ", ["Sintel", "TUM"]),
        ("all", ["Kitti", "Sintel", "TUM"]),
        ("All", ["Kitti", "Sintel", "TUM"]),
    ],
)
def test_data_name_chooses(data_root, data_name, expected):
    assert opened(data_name, data_root) == expected


@pytest.mark.parametrize("data_name", ["Kiti", "", "Kitti,", "Kitti;TUM", "all,Kitti"])
def test_an_unknown_data_name_lists_the_known_ones(data_root, data_name):
    with pytest.raises(UserError, match=r"data_name: got .*Kitti, Sintel, TUM.* or all"):
        opened(data_name, data_root)


def test_all_skips_and_names_what_is_not_there(data_root, caplog):
    (data_root / "Sintel").rename(data_root / "elsewhere")
    caplog.set_level(logging.INFO, logger="midas")
    assert opened("all", data_root) == ["Kitti", "TUM"]
    assert "datapath_Sintel" in caplog.text
    assert str(data_root / "Sintel") in caplog.text


def test_a_named_benchmark_must_be_there(data_root):
    with pytest.raises(UserError, match="datapath_TUM") as caught:
        opened("Kitti,TUM", data_root, TUM="/no/such/tum")
    assert f"{data_root}/no/such/tum" in str(caught.value)


def test_all_of_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="train_data_dir"):
        opened("all", tmp_path)


def test_all_does_not_skip_a_folder_that_is_badly_laid_out(data_root):
    (data_root / "Kitti_raw_data/drive/depth/0.png").unlink()
    with pytest.raises(UserError, match=r"image/0\.png"):
        opened("all", data_root)


# --- val.json -------------------------------------------------------------------------------------


def result(name: str, metric: str, error: float) -> Result:
    return Result(name, metric, error, abs_rel=0.25, row_abs_rel=0.5, images=3, skipped=0)


def test_val_json_has_the_format_of_the_original(tmp_path):
    path = tmp_path / "val.json"
    results = [
        result("Kitti", "bad_pixel_percent", 24.222),
        result("Sintel", "abs_rel", 0.323),
        result("TUM", "bad_pixel_percent", 15.08),
    ]
    write_results(path, results)
    assert path.read_text().strip() == '{"Kitti": 24.222, "Sintel": 0.323, "TUM": 15.08}'
    assert [entry.name for entry in tmp_path.iterdir()] == ["val.json"]


def test_results_of_other_datasets_stay(tmp_path):
    path = put(tmp_path / "val.json", b'{"Kitti": 24.222, "ETH3D": 0.1, "DIW": 1}')
    write_results(path, [result("Kitti", "bad_pixel_percent", 1 / 3), result("TUM", "x", 15.08)])
    assert json.loads(path.read_text()) == {"Kitti": 0.333333, "ETH3D": 0.1, "DIW": 1, "TUM": 15.08}


def test_without_a_file_there_are_no_results(tmp_path):
    assert read_results(tmp_path / "val.json") == {}


@pytest.mark.parametrize(
    "content", [b"", b"mine", b"[1, 2]", b"0.5", b'{"images": []}', b'{"a": "b"}', b"\xff\xfe"]
)
def test_a_foreign_file_is_not_overwritten(tmp_path, content):
    path = put(tmp_path / "val.json", content)
    with pytest.raises(UserError, match="no result of an evaluation"):
        read_results(path)
    with pytest.raises(UserError):
        write_results(path, [result("Kitti", "bad_pixel_percent", 1.0)])
    assert path.read_bytes() == content


def test_a_folder_in_the_place_of_val_json_or_a_missing_one_is_named(tmp_path):
    with pytest.raises(UserError, match="no result of an evaluation"):
        read_results(tmp_path)
    with pytest.raises(UserError, match=r"ann_file: .*no such"):
        read_results(tmp_path / "no such" / "val.json")


def test_the_table_states_units_and_the_baseline():
    lines = table(
        [result("Kitti", "bad_pixel_percent", 24.222), result("Sintel", "abs_rel", 0.323)],
        size=128,
    ).splitlines()
    assert len(lines) == 5
    assert lines[1].split() == [
        "Kitti",
        "3",
        *["24.222", "%", ">", "1.25"],
        *["0.2500", "0.5000", "(-50%)"],
    ]
    assert lines[2].split()[2:4] == ["0.3230", "AbsRel"]
    assert lines[3].split() == ["all", "images", "6", "0.2500", "0.5000", "(-50%)"]
    assert lines[4].startswith("network size 128 (384 in the protocol)")
