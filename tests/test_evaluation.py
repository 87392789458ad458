"""Evaluation from end to end with known predictions, against least squares and plain loops."""

from __future__ import annotations

import csv
import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.data.benchmarks import BENCHMARKS, Benchmark
from src.errors import UserError
from src.evaluation import FromNetwork, Options, evaluate_all, plan_batches
from src.predictor import Predictor
from src.results import ResultFiles
from src.scoring import score
from src.summary import Row
from tests import file_formats
from tests.benchmark_sets import (
    CAPS,
    DEPTH_SETS,
    metres,
    random_image,
    stored_depth,
    write_files,
)
from tests.data.test_scores import (
    POINTS,
    SHAPES,
    expected_errors,
    expected_whdr,
    open_diw,
    open_set,
    rows_of,
    write_depths,
)
from tests.stand_ins import MadeUp, PowerCutError, StandIn, resampled

# printf weights | sha256sum
WEIGHTS_SHA256 = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
SIX = ("Kitti", "Sintel", "TUM", "ETH3D", "NYU", "DIW")
# Two of the sizes have one input size (6, 10), and one batch.
MIXED = [(12, 20), (12, 16), (3, 5), (12, 20), (12, 16), (3, 5), (9, 7), (12, 20), (12, 16)]


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "weights.ckpt"
    path.write_bytes(b"weights")
    return path


def run(
    folder: Path,
    predictor: StandIn,
    *benchmarks: Benchmark,
    options: Options = Options(),  # noqa: B008 (frozen)
) -> dict[str, Any]:
    """Evaluate into folder/val.json; returns results.json."""
    folder.mkdir(exist_ok=True)
    evaluate_all(predictor, benchmarks, ResultFiles(folder / "val.json"), options)
    return json.loads((folder / "val/results.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    """All files of an evaluation."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def results_csv(folder: Path) -> dict[str, list[dict[str, str]]]:
    """Benchmark -> its rows."""
    rows: dict[str, list[dict[str, str]]] = {}
    with (folder / "val/results.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row.pop("benchmark"), []).append(row)
    return rows


# --- The errors ----------------------------------------------------------------------------------


def open_six(root: Path) -> tuple[list[Benchmark], dict[str, list[np.ndarray]]]:
    """All six data sets of several sizes, and the depth that is stored in five of them."""
    stored = {name: write_depths(name) for name in DEPTH_SETS}
    benchmarks = [open_set(name, root / name, depths) for name, depths in stored.items()]
    return [*benchmarks, open_diw(root / "DIW")], stored


def expected_rows(
    stand_in: StandIn, benchmark: Benchmark, stored: Sequence[np.ndarray], upsampling: str
) -> list[dict[str, float]]:
    """The errors of each image, from what was written and not from what the benchmark reads."""
    rows = []
    ordinal = benchmark.name == "DIW"
    shapes = [(9, 12)] * len(POINTS) if ordinal else [depth.shape for depth in stored]
    for i, shape in enumerate(shapes):
        image = random_image(i, shape)
        low = stand_in.of_input(stand_in.prepare(image, benchmark.resize))
        prediction = resampled(low, *shape, upsampling)
        if ordinal:
            baseline = rows_of(np.zeros(shape))
            rows.append(
                {
                    "whdr": expected_whdr(prediction, POINTS[i]),
                    "row_whdr": expected_whdr(baseline, POINTS[i]),
                }
            )
            continue
        depth, cap = metres(benchmark.name, stored[i]), CAPS[benchmark.name]
        row = expected_errors(rows_of(depth), depth, cap)["abs_rel"]
        rows.append(expected_errors(prediction, depth, cap) | {"row_abs_rel": row})
    return rows


@pytest.mark.parametrize(
    ("upsampling", "batch_size"), [("bilinear", 1), ("bilinear", 3), ("bicubic", 2)]
)
def test_all_six_agree_with_least_squares_and_loops(tmp_path, weights, upsampling, batch_size):
    benchmarks, stored = open_six(tmp_path)
    stand_in = StandIn(weights)
    options = Options(batch_size=batch_size, upsampling=upsampling)
    details = run(tmp_path / "out", stand_in, *benchmarks, options=options)
    errors = json.loads((tmp_path / "out/val.json").read_text())
    found = results_csv(tmp_path / "out")
    assert tuple(details) == tuple(errors) == tuple(found) == SIX
    for benchmark in benchmarks:
        name = benchmark.name
        expected = expected_rows(stand_in, benchmark, stored.get(name, []), upsampling)
        assert [row["id"] for row in found[name]] == list(benchmark.ids)
        for row, errors_of_image in zip(found[name], expected, strict=True):
            numbers = {key: float(row[key]) for key in errors_of_image}
            assert numbers == pytest.approx(errors_of_image, rel=1e-6)
            others = row.keys() - errors_of_image.keys() - {"id", "height", "width"}
            assert not any(row[key] for key in others)
        means = {key: np.mean([row[key] for row in expected]) for key in expected[0]}
        assert details[name]["means"] == pytest.approx(means, rel=1e-6)
        metric = details[name]["metric"]
        published = {"Sintel": "abs_rel", "ETH3D": "abs_rel", "DIW": "whdr"}
        assert metric == published.get(name, "bad_pixel_percent")
        assert details[name]["error"] == pytest.approx(means[metric], rel=1e-6)
        assert errors[name] == pytest.approx(means[metric], rel=1e-6, abs=5e-7)  # six digits
        assert details[name]["images"] == len(expected)
        assert details[name]["skipped"] == []
        assert details[name]["settings"]["upsampling"] == upsampling
    sizes = [(int(row["height"]), int(row["width"])) for row in found["Kitti"]]
    assert sizes == SHAPES


@pytest.mark.parametrize("change", ["red and blue swapped", "upside down", "the next image"])
def test_another_image_gives_other_errors_in_all_six(tmp_path, weights, monkeypatch, change):
    """So that the test above would notice."""
    benchmarks, _ = open_six(tmp_path)
    right = run(tmp_path / "right", StandIn(weights), *benchmarks)
    for benchmark in benchmarks:
        read = benchmark.read

        def changed(index: int, read=read):
            sample = read(index)
            image = {
                "red and blue swapped": sample.image[..., ::-1],
                "upside down": sample.image[::-1],
                "the next image": random_image(index + 1, sample.image.shape[:2]),
            }[change]
            return replace(sample, image=np.ascontiguousarray(image))

        monkeypatch.setattr(benchmark, "read", changed)
    wrong = run(tmp_path / "wrong", StandIn(weights), *benchmarks)
    for name in DEPTH_SETS:
        for key in ("abs_rel", "rmse", "silog"):
            difference = abs(wrong[name]["means"][key] / right[name]["means"][key] - 1)
            assert difference > 2e-5, (name, key)


def constant(input_: np.ndarray) -> np.ndarray:
    return np.full(input_.shape[1:], 0.5, np.float32)


def test_a_constant_prediction_is_the_harmonic_mean_of_the_depth(tmp_path, weights):
    """Least squares leave the mean disparity, whatever the constant is. A tie is wrong in DIW."""
    benchmarks, stored = open_six(tmp_path)
    details = run(tmp_path / "out", StandIn(weights, constant), *benchmarks)
    for name, depths in stored.items():
        abs_rel, bad = [], []
        for depth in (metres(name, values) for values in depths):
            valid = [float(d) for d in depth.ravel() if 0 < d < CAPS[name]]
            z = len(valid) / sum(1 / d for d in valid)
            abs_rel.append(sum(abs(z - d) / d for d in valid) / len(valid))
            bad.append(100 * sum(max(z / d, d / z) > 1.25 for d in valid) / len(valid))
        assert details[name]["means"]["abs_rel"] == pytest.approx(np.mean(abs_rel), rel=1e-6)
        assert details[name]["means"]["bad_pixel_percent"] == pytest.approx(np.mean(bad), rel=1e-6)
    assert details["DIW"]["means"]["whdr"] == 1


def test_a_perfect_prediction_scores_0_on_all_six(tmp_path, weights):
    """Depths of 1, 2, 4 and 8 m, whose inverse float32 holds exactly, in a drawn scale and shift.

    Both halves of an image lie at one depth in each row, so that doubling the truth from half the
    size is exact away from the border between them, which is invalid.
    """
    rng = np.random.default_rng(3)
    predictions: dict[bytes, np.ndarray] = {}
    stand_in = StandIn(weights, lambda input_: predictions[input_.tobytes()])
    benchmarks = []
    for name in DEPTH_SETS:
        stored = []
        for i in range(3):
            image = random_image(i, (8, 12))
            scale, shift = 2.0 ** rng.integers(-3, 8), float(rng.integers(-4, 5))
            depth = np.ones((8, 12))
            depth[:, 7:] = 2.0 ** rng.integers(1, 4)
            low = scale * (1 / depth[1::2, 1::2] + shift)
            depth[:, 5:7] = 0
            predictions[stand_in.prepare(image, None).tobytes()] = low.astype(np.float32)
            unit = {"Kitti": 256, "TUM": 5000}.get(name, 1)
            stored.append((depth * unit).astype(np.uint16 if unit > 1 else np.float32))
        benchmarks.append(open_set(name, tmp_path / name, stored))
    for i, line in enumerate(POINTS):
        y_a, x_a, y_b, x_b = (int(number) - 1 for number in line.split(",")[:4])
        y, x = (y_a, x_a) if line.endswith(">") else (y_b, x_b)
        input_ = stand_in.prepare(random_image(i, (9, 12)), None)
        low = np.zeros(input_.shape[1:], np.float32)
        low[2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = 1  # images of odd height are doubled
        predictions[input_.tobytes()] = low
    benchmarks.append(open_diw(tmp_path / "DIW"))
    details = run(tmp_path / "out", stand_in, *benchmarks)
    for name in DEPTH_SETS:
        means = details[name]["means"]
        assert [means.pop(f"delta{i}") for i in (1, 2, 3)] == [1, 1, 1]
        assert means.pop("row_abs_rel") > 1e-3
        assert means.pop("bad_pixel_percent") == 0
        assert means == pytest.approx(dict.fromkeys(means, 0), abs=1e-6)
    assert details["DIW"]["means"]["whdr"] == 0
    assert set(json.loads((tmp_path / "out/val.json").read_text()).values()) == {0}


@pytest.mark.parametrize("batch_size", [1, 2])
def test_the_real_network_scores_what_it_scores_in_pytorch(
    tmp_path, exported, small_network, batch_size
):
    """Images of the network's own size, so that nothing is resized."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    shape = (64, 64)
    images = [random_image(i, shape) // (i + 1) for i in range(3)]
    depths = [stored_depth("Kitti", i, shape) for i in range(3)]
    write_files("Kitti", tmp_path / "Kitti", {"a": list(zip(images, depths, strict=True))})
    predictor = Predictor(exported.ckpt, small_network, mean, std)
    options = Options(batch_size=batch_size)
    benchmark = BENCHMARKS["Kitti"](tmp_path / "Kitti", 64)
    run(tmp_path / "out", predictor, benchmark, options=options)
    batch = np.stack([((image / 255 - mean) / std).transpose(2, 0, 1) for image in images])
    with torch.no_grad():
        predictions = exported.reference(torch.tensor(batch.astype(np.float32))).numpy()
    rows = results_csv(tmp_path / "out")["Kitti"]
    for row, prediction, depth in zip(rows, predictions, depths, strict=True):
        expected = expected_errors(prediction, metres("Kitti", depth), 80)
        for key in ("abs_rel", "rmse", "log10", "silog"):
            assert float(row[key]) == pytest.approx(expected[key], rel=1e-4)


def test_results_say_what_they_depend_on(tmp_path, weights):
    benchmarks, _ = open_six(tmp_path)
    details = run(tmp_path / "out", StandIn(weights), *benchmarks)
    assert (
        details["Kitti"]["settings"].items()
        >= {
            "checkpoint": str(weights),
            "checkpoint_sha256": WEIGHTS_SHA256,
            "dataset": str(tmp_path / "Kitti"),
            "network_size": "64",
            "upsampling": "bilinear",
            "cap_m": 80.0,
            "resize": "lower_bound 64",
        }.items()
    )
    assert details["Sintel"]["settings"]["occluded_pixels"] == "included"
    fixed = StandIn(weights)
    fixed.fixed_size_text = "96x64"
    details = run(tmp_path / "out", fixed, benchmarks[0])
    assert details["Kitti"]["settings"]["network_size"] == "96x64"


def test_a_file_made_for_several_images_at_once_is_fed_that_many(tmp_path, weights):
    stand_in = StandIn(weights)
    stand_in.fixed_batch = 3
    details = run(tmp_path / "out", stand_in, MadeUp(MIXED))
    assert details["MadeUp"]["settings"]["batch_size"] == 3
    assert max(shape[0] for shape in stand_in.batches) == 3


def test_the_runtime_of_an_onnx_is_a_setting(tmp_path, weights):
    """Its precision is a choice; what computes a checkpoint is MindSpore, always."""
    stand_ins = [StandIn(tmp_path / name) for name in ("weights.onnx", "weights.ckpt")]
    for stand_in in stand_ins:
        stand_in.path.write_bytes(b"weights")
        stand_in.runtime = "OpenVINO 2026.4 bfloat16"
    onnx, ckpt = (
        run(tmp_path / stand_in.path.suffix, stand_in, MadeUp(MIXED))["MadeUp"]["settings"]
        for stand_in in stand_ins
    )
    assert onnx["runtime"] == "OpenVINO 2026.4 bfloat16"
    assert "runtime" not in ckpt


@pytest.mark.parametrize(("upsampling", "batch_size"), [("bilinear", 1), ("bicubic", 3)])
def test_panels_show_what_was_scored(tmp_path, weights, monkeypatch, upsampling, batch_size):
    """The same upsampling, and inputs in the same batches as the compiled network takes."""
    benchmark, sizes, predictions = MadeUp(MIXED), [], []

    class Noting(StandIn):
        def run(self, inputs, batch_size):
            sizes.append(batch_size)
            return super().run(inputs, batch_size)

    def note(predict, *arguments):
        for index in range(len(MIXED)):
            predictions.append(predict(index, benchmark.read(index).image))
        return []

    monkeypatch.setattr("src.scoring.write_panels", note)
    stand_in = Noting(weights)
    options = Options(batch_size=batch_size, upsampling=upsampling)
    run(tmp_path / "out", stand_in, benchmark, options=options)
    assert set(sizes) == {batch_size}
    assert len(predictions) == len(MIXED)
    for index, (prediction, shape) in enumerate(zip(predictions, MIXED, strict=True)):
        image = benchmark.read(index).image
        expected = resampled(stand_in.of_input(stand_in.prepare(image, None)), *shape, upsampling)
        assert prediction == pytest.approx(expected, rel=1e-5, abs=1e-3)


def test_other_benchmarks_and_their_pictures_stay(tmp_path, weights):
    (kitti, sintel, *_), _ = open_six(tmp_path)
    run(tmp_path / "out", StandIn(weights), kitti, sintel)
    before = contents(tmp_path / "out")
    run(tmp_path / "out", StandIn(weights, lambda input_: input_[1] / 7), sintel)
    after = contents(tmp_path / "out")
    assert before.keys() == after.keys()
    changed = {name for name in after if after[name] != before[name]}
    assert not any("Kitti" in name for name in changed)
    assert changed >= {"val.json", "val/results.json", "val/results.csv", "val/report.html"}
    old, new = (json.loads(files["val/results.json"]) for files in (before, after))
    assert old["Kitti"] == new["Kitti"]
    assert old["Sintel"]["error"] != new["Sintel"]["error"]
    old, new = (
        [line for line in f["val/results.csv"].splitlines() if line.startswith(b"Kitti")]
        for f in (before, after)
    )
    assert old == new
    assert len(old) == len(SHAPES)


# --- Batches and processes -----------------------------------------------------------------------


def run_in_processes(
    folder: Path, weights: Path, shapes: Sequence[tuple[int, int]], options: Options, ranks: int
) -> list[MadeUp]:
    """As several processes: the first prepares, then all others work, then the first."""
    folder.mkdir(exist_ok=True)
    benchmarks = [MadeUp(shapes) for _ in range(ranks)]

    def work(rank: int, barrier=lambda: None) -> None:
        results = evaluate_all(
            StandIn(weights, by_batch=True),
            [benchmarks[rank]],
            ResultFiles(folder / "val.json"),
            replace(options, rank=rank, ranks=ranks),
            barrier,
        )
        assert len(results) == (rank == 0)

    work(0, lambda: [work(rank) for rank in reversed(range(1, ranks))])
    return benchmarks


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_number_of_processes_changes_nothing(tmp_path, weights, batch_size):
    options = Options(batch_size=batch_size)
    run_in_processes(tmp_path / "1", weights, MIXED, options, 1)
    expected = contents(tmp_path / "1")
    rows = results_csv(tmp_path / "1")["MadeUp"]
    assert [row["id"] for row in rows] == [f"group/{i:03d}" for i in range(len(MIXED))]
    for ranks in (2, 3, 12):
        benchmarks = run_in_processes(tmp_path / str(ranks), weights, MIXED, options, ranks)
        assert contents(tmp_path / str(ranks)) == expected
        read = [set(benchmark.reads) for benchmark in benchmarks[1:]]
        assert sum(map(len, read)) == len(set().union(*read)) < len(MIXED), "each by one of them"
        assert any(read)


def test_batches_hold_images_of_one_input_size_in_their_order(weights):
    benchmark = MadeUp(MIXED)
    stand_in = StandIn(weights)
    assert plan_batches(stand_in, benchmark, 1) == [(i,) for i in range(9)]
    inputs = [stand_in.input_size(*shape, benchmark.resize) for shape in MIXED]
    assert [i for i, size in enumerate(inputs) if size == (6, 10)] == [0, 2, 3, 5, 7]
    assert [i for i, size in enumerate(inputs) if size == (6, 8)] == [1, 4, 8]
    planned = [(0, 2), (1, 4), (3, 5), (6,), (7,), (8,)]
    assert plan_batches(stand_in, benchmark, 2) == planned
    assert not benchmark.reads, "planning needs no pixels"


def test_images_go_through_the_network_in_batches(tmp_path, weights):
    stand_in, benchmark = StandIn(weights), MadeUp(MIXED)
    rows: list[Row] = []
    batches = plan_batches(stand_in, benchmark, 3)
    score(FromNetwork(stand_in, 3), benchmark, batches, Options(), rows.append)
    assert [shape[0] for shape in stand_in.batches] == [len(batch) for batch in batches]
    assert max(shape[0] for shape in stand_in.batches) == 3
    assert sorted(row.id for row in rows) == list(benchmark.ids)
    assert {row.id: (row.height, row.width) for row in rows} == dict(
        zip(benchmark.ids, MIXED, strict=True)
    )


# --- Reading ahead, and memory -------------------------------------------------------------------


class Watching(StandIn):
    """Waits in the network until a condition holds, at most ten seconds, and then no more."""

    def __init__(self, path: Path, condition) -> None:
        super().__init__(path)
        self.condition = condition
        self.seen: list[bool] = []

    def run(self, inputs, batch_size=1):
        end = time.monotonic() + 10
        while all(self.seen) and not self.condition(self.inputs) and time.monotonic() < end:
            time.sleep(0.002)
        self.seen.append(self.condition(self.inputs))
        return super().run(inputs, batch_size)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (1, 4), (3, 2)])
def test_the_next_images_are_read_while_the_network_computes(
    tmp_path, weights, batch_size, workers
):
    benchmark = MadeUp([(6, 8)] * 30)
    ahead = batch_size + workers

    def all_read(done: int) -> bool:
        """The batch in the network, and the next images."""
        return len(benchmark.reads) >= min(done + batch_size + ahead, 30)

    predictor = Watching(weights, all_read)
    options = Options(batch_size=batch_size, workers=workers)
    batches = [tuple(range(i, i + batch_size)) for i in range(0, 30, batch_size)]
    network = FromNetwork(predictor, batch_size)
    score(network, benchmark, batches, options, lambda row: None)
    assert predictor.seen == [True] * len(batches)


def test_predictions_are_scored_while_the_network_computes(tmp_path, weights):
    benchmark, scored = MadeUp([(6, 8)] * 8), []
    of_benchmark = benchmark.score

    def note(prediction, sample):
        scored.append(threading.get_ident())
        return of_benchmark(prediction, sample)

    benchmark.score = note
    predictor = Watching(weights, lambda done: len(scored) >= done)
    network = FromNetwork(predictor, 1)
    score(network, benchmark, [(i,) for i in range(8)], Options(), lambda row: None)
    assert predictor.seen == [True] * 8
    assert threading.get_ident() not in scored


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 2), (4, 2)])
@pytest.mark.parametrize("slow", ["network", "scores"])
def test_memory_does_not_grow_with_the_number_of_images(weights, batch_size, workers, slow):
    """Images wait in bounded numbers on both sides of the network, their pixels nowhere."""
    benchmark = MadeUp([(6, 8)] * 500, score_seconds=0.002 if slow == "scores" else 0)
    stand_in = StandIn(weights)
    if slow == "network":
        stand_in.of_input = lambda input_: time.sleep(0.001) or input_[0]
    options = Options(batch_size=batch_size, workers=workers)
    batches = [tuple(range(i, i + batch_size)) for i in range(0, 500, batch_size)]
    rows = []
    score(FromNetwork(stand_in, batch_size), benchmark, batches, options, rows.append)
    assert len(rows) == 500
    waiting = batch_size + workers
    assert waiting < benchmark.most_alive["depth"] <= 2 * waiting + 2 * batch_size + 1
    assert benchmark.most_alive["image"] <= workers + 1
    assert benchmark.alive["depth"] <= 1


def test_rows_are_recorded_as_the_evaluation_goes_on(weights):
    benchmark, recorded = MadeUp([(6, 8)] * 40), []
    lag = []
    stand_in = StandIn(weights)
    stand_in.of_input = lambda input_: lag.append(len(recorded)) or input_[0]
    network = FromNetwork(stand_in, 1)
    score(network, benchmark, [(i,) for i in range(40)], Options(), recorded.append)
    assert all(index - count <= 2 + 2 for index, count in enumerate(lag))
    assert [row.id for row in recorded] == list(benchmark.ids)


# --- Interruption --------------------------------------------------------------------------------


@pytest.fixture
def complete(tmp_path, weights):
    """The files of an evaluation that was not stopped, by the batch size."""

    def evaluated(batch_size: int) -> dict[str, bytes]:
        folder = tmp_path / f"complete-{batch_size}"
        options = Options(batch_size=batch_size)
        run(folder, StandIn(weights, by_batch=True), MadeUp(MIXED), options=options)
        return contents(folder)

    return evaluated


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_evaluation_that_was_stopped_anywhere_ends_with_the_same_files(
    tmp_path, weights, complete, batch_size, ranks
):
    """It goes on in one process or in two."""
    expected = complete(batch_size)
    options = Options(batch_size=batch_size, workers=1)
    for stop in range(len(MIXED)):
        folder = tmp_path / f"stopped-{stop}"
        stopped = StandIn(weights, by_batch=True, stops_after=stop)
        with pytest.raises(PowerCutError):
            run(folder, stopped, MadeUp(MIXED), options=options)
        assert not (folder / "val.json").exists()
        done = ResultFiles(folder / "val.json").rows("MadeUp")
        assert len(done) <= stopped.inputs
        resuming = replace(options, resume=True)
        benchmarks = run_in_processes(folder, weights, MIXED, resuming, ranks)
        assert contents(folder) == expected
        if ranks == 1 and batch_size == 1:
            assert_read_once_more(benchmarks[0], set(done), folder)


def assert_read_once_more(benchmark: MadeUp, done: set[str], folder: Path) -> None:
    """What was done is not read again, but for the pictures of three images."""
    details = json.loads((folder / "val/results.json").read_text())["MadeUp"]
    shown = [panel["id"] for panel in details["panels"]]
    for index, id_ in enumerate(benchmark.ids):
        assert benchmark.reads[index] == (id_ not in done) + (id_ in shown)


def test_most_images_are_done_when_an_evaluation_is_stopped(tmp_path, weights):
    """Only those that wait are lost."""
    with pytest.raises(PowerCutError):
        run(tmp_path / "out", StandIn(weights, stops_after=40), MadeUp([(6, 8)] * 60))
    done = ResultFiles(tmp_path / "out/val.json").rows("MadeUp")
    assert len(done) >= 40 - (1 + 2) - 1
    assert list(done) == [f"group/{i:03d}" for i in range(len(done))]


def test_a_row_that_was_cut_by_the_stop_is_done_again(tmp_path, weights, complete):
    folder = tmp_path / "stopped"
    with pytest.raises(PowerCutError):
        run(folder, StandIn(weights, by_batch=True, stops_after=8), MadeUp(MIXED))
    path = folder / "val/partial/MadeUp-0.csv"
    path.write_bytes(path.read_bytes()[:-9])
    options = Options(resume=True)
    run(folder, StandIn(weights, by_batch=True), MadeUp(MIXED), options=options)
    assert contents(folder) == complete(1)


def test_what_is_complete_is_only_reported(tmp_path, weights, complete):
    expected = complete(1)
    folder, benchmark = tmp_path / "complete-1", MadeUp(MIXED)
    stand_in = StandIn(weights)
    options = Options(resume=True)
    (result,) = evaluate_all(stand_in, [benchmark], ResultFiles(folder / "val.json"), options)
    assert contents(folder) == expected
    assert not stand_in.batches
    assert not benchmark.reads
    details = json.loads(expected["val/results.json"])["MadeUp"]
    assert (result.name, result.error, result.images) == ("MadeUp", details["error"], len(MIXED))


def test_the_next_benchmark_is_done_when_the_first_was_complete(tmp_path, weights):
    (kitti, sintel, *_), _ = open_six(tmp_path)
    run(tmp_path / "expected", StandIn(weights), kitti, sintel)
    run(tmp_path / "out", StandIn(weights), kitti)
    stand_in = StandIn(weights)
    run(tmp_path / "out", stand_in, kitti, sintel, options=Options(resume=True))
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
    assert stand_in.inputs == len(SHAPES) + 3  # and the pictures


def test_without_resume_an_interrupted_evaluation_is_forgotten(tmp_path, weights, complete):
    folder, benchmark = tmp_path / "out", MadeUp(MIXED)
    wrong = StandIn(weights, lambda input_: input_[2] ** 2, stops_after=6)
    with pytest.raises(PowerCutError):
        run(folder, wrong, benchmark)
    again = MadeUp(MIXED)
    run(folder, StandIn(weights, by_batch=True), again)
    assert contents(folder) == complete(1)
    assert all(again.reads[index] >= 1 for index in range(len(MIXED)))


def test_another_checkpoint_or_setting_is_not_resumed(tmp_path, weights):
    folder = tmp_path / "out"
    with pytest.raises(PowerCutError):
        run(folder, StandIn(weights, stops_after=5), MadeUp(MIXED))
    other = tmp_path / "other.ckpt"
    other.write_bytes(b"other")
    resume = Options(resume=True)
    fixed = StandIn(weights)
    fixed.fixed_size_text = "64x64"
    attempts = {
        "checkpoint_sha256": (StandIn(other), MadeUp(MIXED), resume),
        "upsampling": (StandIn(weights), MadeUp(MIXED), replace(resume, upsampling="bicubic")),
        "network_size": (fixed, MadeUp(MIXED), resume),
    }
    before = contents(folder)
    for key, (stand_in, benchmark, options) in attempts.items():
        with pytest.raises(UserError, match=rf"resume: .* {key} "):
            run(folder, stand_in, benchmark, options=options)
        assert not stand_in.batches
        assert contents(folder) == before


def test_a_data_set_that_has_grown_is_completed(tmp_path, weights, complete):
    folder = tmp_path / "out"
    for shapes in (MIXED[:4], MIXED):
        run(folder, StandIn(weights, by_batch=True), MadeUp(shapes), options=Options(resume=True))
    assert contents(folder) == complete(1)


def test_another_batch_size_is_not_resumed(tmp_path, weights):
    """It changes the last bits of predictions, so the result would belong to neither."""
    with pytest.raises(PowerCutError):
        run(tmp_path / "out", StandIn(weights, stops_after=5), MadeUp(MIXED))
    with pytest.raises(UserError, match=r"resume: .*batch"):
        run(
            tmp_path / "out",
            StandIn(weights),
            MadeUp(MIXED),
            options=Options(batch_size=3, resume=True),
        )


def test_a_moved_checkpoint_is_resumed(tmp_path, weights):
    frames = [(random_image(i, (6, 8)), stored_depth("Kitti", i, (6, 8))) for i in range(6)]
    write_files("Kitti", tmp_path / "data", {"drive": frames})
    expected = run(tmp_path / "whole", StandIn(weights), BENCHMARKS["Kitti"](tmp_path / "data", 64))
    with pytest.raises(PowerCutError):
        stopped = StandIn(weights, stops_after=5)
        run(tmp_path / "out", stopped, BENCHMARKS["Kitti"](tmp_path / "data", 64))
    moved = weights.rename(tmp_path / "moved.ckpt")
    details = run(
        tmp_path / "out",
        StandIn(moved),
        BENCHMARKS["Kitti"](tmp_path / "data", 64),
        options=Options(resume=True),
    )
    place = {"checkpoint": str(moved)}
    assert details["Kitti"]["settings"] == expected["Kitti"]["settings"] | place
    assert details["Kitti"]["means"] == expected["Kitti"]["means"]


# --- Damaged files -------------------------------------------------------------------------------


@pytest.fixture
def damaged_kitti(tmp_path) -> tuple[Path, Path]:
    """The root of thirty images in two drives, and the one in the middle, which is truncated."""
    depths = [stored_depth("Kitti", i, (6, 8)) for i in range(30)]
    frames = [(random_image(i, (6, 8)), depth) for i, depth in enumerate(depths)]
    root = tmp_path / "Kitti"
    write_files("Kitti", root, {"a": frames[:15], "b": frames[15:]})
    file = root / "b/image/0000000001.png"
    file.write_bytes(file.read_bytes()[:-20])
    return root, file


def test_a_truncated_image_stops_the_evaluation_and_is_named(tmp_path, weights, damaged_kitti):
    root, file = damaged_kitti
    with pytest.raises(UserError) as caught:
        run(tmp_path / "out", StandIn(weights), BENCHMARKS["Kitti"](root, 64))
    assert str(caught.value).startswith(f"{file}: truncated")
    assert not (tmp_path / "out/val.json").exists()


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("stopped_first", [False, True])
def test_a_truncated_image_is_skipped_and_listed(
    tmp_path, weights, damaged_kitti, caplog, batch_size, stopped_first
):
    """Also when the evaluation had stopped at it."""
    root, file = damaged_kitti
    benchmark = BENCHMARKS["Kitti"](root, 64)
    if stopped_first:
        with pytest.raises(UserError):
            options = Options(batch_size=batch_size)
            run(tmp_path / "out", StandIn(weights), benchmark, options=options)
    caplog.set_level(logging.INFO, logger="midas")
    options = Options(batch_size=batch_size, skip_damaged=True, resume=stopped_first)
    details = run(tmp_path / "out", StandIn(weights), benchmark, options=options)["Kitti"]
    (skipped,) = details["skipped"]
    assert skipped["id"] == "b/0000000001"
    assert skipped["reason"].startswith(f"{file}: truncated")
    assert f"skipped: {skipped['reason']}" in caplog.text
    assert details["images"] == 29
    rows = results_csv(tmp_path / "out")["Kitti"]
    assert [row["id"] for row in rows] == list(benchmark.ids)
    (bad,) = [row for row in rows if row["skipped"]]
    assert bad["id"] == "b/0000000001"
    assert bad["skipped"] == skipped["reason"]
    assert bad["abs_rel"] == ""
    values = [float(row["abs_rel"]) for row in rows if not row["skipped"]]
    assert details["means"]["abs_rel"] == pytest.approx(np.mean(values), rel=1e-12)
    assert "b/0000000001" in (tmp_path / "out/val/report.html").read_text()
    if stopped_first:
        run(tmp_path / "again", StandIn(weights), benchmark, options=replace(options, resume=False))
        assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_a_header_that_is_damaged_is_found_before_any_work_or_skipped(
    tmp_path, weights, damaged_kitti
):
    """The sizes of batches come from headers."""
    root, file = damaged_kitti
    file.write_bytes(b"not an image")
    benchmark, stand_in = BENCHMARKS["Kitti"](root, 64), StandIn(weights)
    options = Options(batch_size=4, skip_damaged=True)
    details = run(tmp_path / "out", stand_in, benchmark, options=options)["Kitti"]
    assert [one["id"] for one in details["skipped"]] == ["b/0000000001"]
    assert details["images"] == 29
    with pytest.raises(UserError, match=str(file)):
        run(tmp_path / "stop", stand_in, benchmark, options=Options(batch_size=4))


def test_a_depth_map_without_a_valid_pixel_is_named_or_skipped(tmp_path, weights, damaged_kitti):
    root, file = damaged_kitti
    file.write_bytes(file_formats.png(random_image(0, (6, 8))))
    empty = root / "a/depth/0000000003.png"
    empty.write_bytes(file_formats.png(np.full((6, 8), 80 * 256, np.uint16)))
    benchmark = BENCHMARKS["Kitti"](root, 64)
    with pytest.raises(UserError, match=rf"{empty}: no pixel"):
        run(tmp_path / "stop", StandIn(weights), benchmark)
    options = Options(skip_damaged=True)
    details = run(tmp_path / "out", StandIn(weights), benchmark, options=options)["Kitti"]
    assert [one["id"] for one in details["skipped"]] == ["a/0000000003"]


def test_a_benchmark_of_nothing_but_damaged_images_is_an_error(tmp_path, weights):
    benchmark = MadeUp([(6, 8)] * 3, damaged=range(3))
    stand_in = StandIn(weights)
    with pytest.raises(UserError, match="made up: all 3 images were skipped"):
        run(tmp_path / "out", stand_in, benchmark, options=Options(skip_damaged=True))
    assert not stand_in.batches
    assert not (tmp_path / "out/val.json").exists()


def test_images_that_were_skipped_are_tried_again_when_the_evaluation_goes_on(tmp_path, weights):
    """What could not be read may have been a disk that was away."""
    options = Options(skip_damaged=True)
    with pytest.raises(UserError, match="all 3 images were skipped"):
        broken = MadeUp([(6, 8)] * 3, damaged=range(3))
        run(tmp_path / "out", StandIn(weights), broken, options=options)
    repaired = MadeUp([(6, 8)] * 3)
    details = run(
        tmp_path / "out", StandIn(weights), repaired, options=replace(options, resume=True)
    )
    assert details["MadeUp"]["images"] == 3


def test_a_prediction_that_is_not_finite_ends_the_evaluation_even_if_files_may_be_skipped(
    tmp_path, weights
):
    def diverged(input_: np.ndarray) -> np.ndarray:
        raise UserError("weights: the prediction is not finite")

    with pytest.raises(UserError, match="not finite"):
        options = Options(skip_damaged=True)
        run(tmp_path / "out", StandIn(weights, diverged), MadeUp(MIXED), options=options)


def test_an_error_does_not_wait_for_the_images_that_were_to_be_read(weights):
    benchmark = MadeUp([(6, 8)] * 200, damaged=[3])
    with pytest.raises(UserError, match=r"group/003\.png"):
        score(
            FromNetwork(StandIn(weights), 1),
            benchmark,
            [(i,) for i in range(200)],
            Options(),
            lambda row: None,
        )
    assert len(benchmark.reads) < 20
