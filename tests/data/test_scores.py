"""The errors of all six benchmarks on data sets written byte by byte, against
`numpy.linalg.lstsq` and plain loops. Nothing is expected from the code under test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from src.data.benchmarks import BENCHMARKS, Benchmark
from src.data.benchmarks.diw import Diw
from src.data.benchmarks.nyu import Nyu
from tests.benchmark_sets import (
    CAPS,
    DEPTH_SETS,
    metres,
    random_image,
    stored_depth,
    write_diw,
    write_files,
    write_nyu,
)

SHAPES = [(12, 16), (16, 12), (9, 31), (2, 5)]
POINTS = ["1,1,9,5,<", "1,1,9,5,>", "9,4,2,12,<", "7,3,7,11,>", "8,1,8,2,<"]


def open_set(name: str, root: Path, depths: Sequence[np.ndarray]) -> Benchmark:
    """The data set with these stored depth maps, in order; image i has the content of seed i."""
    frames = [(random_image(i, depth.shape), depth) for i, depth in enumerate(depths)]
    if name == "NYU":
        return Nyu(*write_nyu(root, frames, range(1, len(frames) + 1)), 64)
    write_files(name, root, {"scene": frames})
    return BENCHMARKS[name](root, 64)


def write_depths(name: str) -> list[np.ndarray]:
    """Several sizes, NYU's alike; all kinds of invalid pixels are among them."""
    shapes = [SHAPES[0]] * 4 if name == "NYU" else SHAPES
    return [stored_depth(name, seed, shape) for seed, shape in enumerate(shapes)]


def expected_errors(prediction: np.ndarray, depth: np.ndarray, cap: float) -> dict[str, float]:
    """What the paper's protocol gives, by least squares over a list of pixels, and loops."""
    height, width = depth.shape
    pixels = [(v, u) for v in range(height) for u in range(width) if 0 < depth[v, u] < cap]
    columns = np.array([[prediction[pixel], 1.0] for pixel in pixels], np.float64)
    target = np.array([1 / depth[pixel] for pixel in pixels])
    scale, shift = np.linalg.lstsq(columns, target, rcond=None)[0]
    sums = dict.fromkeys(
        ("abs_rel", "rmse", "log10", "delta1", "delta2", "delta3", "bad_pixel_percent"), 0.0
    )
    logs = []
    for pixel in pixels:
        z, true = 1 / max(scale * float(prediction[pixel]) + shift, 1 / cap), float(depth[pixel])
        factor = max(z / true, true / z)
        sums["abs_rel"] += abs(z - true) / true
        sums["rmse"] += (z - true) ** 2
        sums["log10"] += abs(math.log10(z) - math.log10(true))
        sums["delta1"] += factor < 1.25
        sums["delta2"] += factor < 1.25**2
        sums["delta3"] += factor < 1.25**3
        sums["bad_pixel_percent"] += 100 * (factor > 1.25)
        logs.append(math.log(z) - math.log(true))
    errors = {name: total / len(pixels) for name, total in sums.items()}
    errors["rmse"] = math.sqrt(errors["rmse"])
    mean = sum(logs) / len(logs)
    variance = sum(log * log for log in logs) / len(logs) - mean * mean
    return errors | {"silog": 100 * math.sqrt(variance)}


def rows_of(depth: np.ndarray) -> np.ndarray:
    return np.array([[float(v)] * depth.shape[1] for v in range(depth.shape[0])])


@pytest.mark.parametrize("name", DEPTH_SETS)
@pytest.mark.parametrize("kind", ["noisy", "far off", "constant"])
def test_errors_are_those_of_least_squares_and_loops(tmp_path, name, kind):
    stored = write_depths(name)
    benchmark = open_set(name, tmp_path, stored)
    rng = np.random.default_rng(4)
    for sample, values in zip(benchmark.samples(), stored, strict=True):
        depth = metres(name, values)
        near = 5 / np.where((depth > 0) & (depth < CAPS[name]), depth, 1)
        prediction = {
            "noisy": near + rng.normal(scale=0.5, size=depth.shape),
            "far off": rng.normal(scale=1e4, size=depth.shape),
            "constant": np.full(depth.shape, 0.7),
        }[kind].astype(np.float32)
        found = benchmark.score(prediction, sample)
        assert tuple(found) == benchmark.columns
        row = expected_errors(rows_of(depth), depth, CAPS[name])["abs_rel"]
        assert found.pop("row_abs_rel") == pytest.approx(row, rel=1e-6)
        expected = expected_errors(prediction, depth, CAPS[name])
        assert found == pytest.approx(expected, rel=1e-6)
        assert benchmark.metric in found


@pytest.mark.parametrize("name", DEPTH_SETS)
@pytest.mark.parametrize("seed", range(3))
def test_a_perfect_prediction_of_any_scale_and_shift_scores_0(tmp_path, name, seed):
    stored = write_depths(name)
    benchmark = open_set(name, tmp_path, stored)
    rng = np.random.default_rng(seed)
    for sample, values in zip(benchmark.samples(), stored, strict=True):
        depth = metres(name, values)
        valid = (depth > 0) & (depth < CAPS[name])
        scale, shift = 10 ** rng.uniform(-3, 3), rng.normal()
        truth = np.array([1 / z for z in depth[valid]])
        prediction = rng.normal(scale=1e3, size=depth.shape)
        prediction[valid] = scale * (truth + shift)
        scores = benchmark.score(prediction, sample)
        assert [scores.pop(f"delta{i}") for i in (1, 2, 3)] == [1, 1, 1]
        assert scores.pop("row_abs_rel") > 1e-3
        assert scores.pop("bad_pixel_percent") == 0
        assert scores == pytest.approx(dict.fromkeys(scores, 0), abs=1e-4)
        # In float32, as a network gives it, only rounding is left.
        rounded = benchmark.score((prediction / scale).astype(np.float32), sample)
        assert rounded["abs_rel"] < 1e-4
        assert rounded["bad_pixel_percent"] == 0


@pytest.mark.parametrize("name", DEPTH_SETS)
def test_a_constant_prediction_is_the_harmonic_mean_of_the_depth(tmp_path, name):
    """By hand: least squares leave the mean disparity of 1/2, 1/4 and 1/8, which is 7/24."""
    unit = {"Kitti": 256, "TUM": 5000}.get(name, 1)
    stored = np.array([[2, 4], [8, 0]]) * unit
    stored = stored.astype(np.uint16 if unit > 1 else np.float32)
    benchmark = open_set(name, tmp_path, [stored])
    scores = benchmark.score(np.full((2, 2), -3, np.float32), benchmark.read(0))
    z = 24 / 7
    assert scores["abs_rel"] == pytest.approx(((z - 2) / 2 + (4 - z) / 4 + (8 - z) / 8) / 3)
    # The factors are 12/7, 7/6 and 7/3; 1.25^2 = 1.5625 and 1.25^3 = 1.953.
    assert scores["bad_pixel_percent"] == pytest.approx(200 / 3)
    deltas = [scores[f"delta{i}"] for i in (1, 2, 3)]
    assert deltas == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert scores["rmse"] == pytest.approx(
        math.sqrt(((z - 2) ** 2 + (z - 4) ** 2 + (z - 8) ** 2) / 3)
    )


@pytest.mark.parametrize("name", DEPTH_SETS)
def test_the_truth_keeps_its_size_and_only_predictions_of_that_size_are_scored(tmp_path, name):
    """Resizing the ground truth instead of the prediction must not work."""
    benchmark = open_set(name, tmp_path, write_depths(name))
    shapes = [SHAPES[0]] * 4 if name == "NYU" else SHAPES
    for sample, shape in zip(benchmark.samples(), shapes, strict=True):
        assert sample.image.shape[:2] == sample.depth.shape == sample.mask.shape == shape
        network = benchmark.resize.output_size(*shape)
        for other in {network, shape[::-1], (shape[0], shape[1] + 1)} - {shape}:
            with pytest.raises(ValueError, match="shapes differ"):
                benchmark.score(np.random.default_rng(0).random(other, np.float32), sample)


# --- DIW -----------------------------------------------------------------------------------------


def open_diw(root: Path) -> Diw:
    images = {f"{i:04x}": random_image(i, (9, 12)) for i in range(len(POINTS))}
    write_diw(root, images, POINTS)
    return Diw(root)


def expected_whdr(prediction: np.ndarray, line: str) -> float:
    """By the csv's own words: A, the first point, is closer where the relation is '>'."""
    y_a, x_a, y_b, x_b = (int(number) for number in line.split(",")[:4])
    a, b = prediction[y_a - 1][x_a - 1], prediction[y_b - 1][x_b - 1]
    right = a > b if line.endswith(">") else b > a
    return 0.0 if right else 1.0


def test_whdr_is_that_of_loops_over_the_csv(tmp_path):
    benchmark = open_diw(tmp_path)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        for sample, line in zip(benchmark.samples(), POINTS, strict=True):
            # Few levels, so that there are ties.
            prediction = rng.integers(0, 3, (9, 12)).astype(np.float32)
            scores = benchmark.score(prediction, sample)
            rows = [[v] * 12 for v in range(9)]
            assert scores == {
                "whdr": expected_whdr(prediction, line),
                "row_whdr": expected_whdr(np.array(rows), line),
            }
            seen.add((line[-1], scores["whdr"]))
    assert len(seen) == 4, "both relations, right and wrong"


def test_whdr_of_a_perfect_and_of_a_constant_prediction(tmp_path):
    benchmark = open_diw(tmp_path)
    for sample, line in zip(benchmark.samples(), POINTS, strict=True):
        y_a, x_a, y_b, x_b = (int(number) - 1 for number in line.split(",")[:4])
        perfect = np.zeros((9, 12), np.float32)
        perfect[(y_a, x_a) if line.endswith(">") else (y_b, x_b)] = 1e-3
        assert benchmark.score(perfect, sample)["whdr"] == 0
        assert benchmark.score(-perfect, sample)["whdr"] == 1
        assert benchmark.score(np.full((9, 12), 0.7, np.float32), sample)["whdr"] == 1
