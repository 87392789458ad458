"""The parts of the benchmarks of mixing that need no training: data, verdicts, tables, restarts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from src.data.mixdata import find_pairs
from src.data.pairs import read_pair
from src.errors import UserError
from src.loss import KINDS
from tests.benchmarks import mixing_conflict, mixing_losses, mixing_runs

# --- two datasets that contradict each other ------------------------------------------------------


def features(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p and q of a picture, to 8-bit rounding: channels are 0.6 r + 0.4 (p, 0.5, q)."""
    red, green, blue = np.moveaxis(picture / 255, -1, 0)
    brightness = green - 0.2
    return (red - brightness) / 0.4, (blue - brightness) / 0.4


def test_a_field_is_uniform_and_smooth():
    field = mixing_conflict.random_field(np.random.default_rng(0))
    np.testing.assert_array_equal(np.sort(field.ravel()), np.linspace(0, 1, 64 * 64))
    assert np.abs(np.diff(field, axis=0)).mean() < 0.1  # 1/3 between independent pixels


@pytest.mark.parametrize("dataset", ["A", "B"])
def test_the_target_is_of_its_own_feature_alone(dataset):
    picture, disparity = mixing_conflict.make_pair(dataset, np.random.default_rng(1))
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    p, q = features(picture)
    expected = 3 * q**2 - 2 * q**3 if dataset == "A" else p**3
    # Rounding moves a feature by up to 2 * 0.5 / 255 / 0.4, and a target up to three times that.
    np.testing.assert_allclose(disparity, expected, atol=0.03)


def test_the_variances_are_those_of_the_integrals():
    """Over u in [0, 1]: of 3u^2 - 2u^3, 9/5 - 2 + 4/7 - 1/4; of u^3, 1/7 - 1/16."""
    rng = np.random.default_rng(2)
    for dataset, variance in (("A", 9 / 5 - 2 + 4 / 7 - 1 / 4), ("B", 1 / 7 - 1 / 16)):
        _, disparity = mixing_conflict.make_pair(dataset, rng)
        assert disparity.var() == pytest.approx(variance, rel=1e-3)


def test_the_files_are_read_as_they_were_meant(tmp_path, monkeypatch):
    monkeypatch.setattr(mixing_conflict, "PAIRS", {"train": 3, "held_out": 2})
    mixing_conflict.write_data(tmp_path)
    pairs = {part: find_pairs(str(tmp_path), f"{part}.json") for part in ("train", "held_out")}
    assert [pair.source.name for pair in pairs["train"]] == ["A"] * 3 + ["B"] * 3
    assert [pair.source.name for pair in pairs["held_out"]] == ["A"] * 2 + ["B"] * 2
    everything = [pair for part in pairs.values() for pair in part]
    assert len({pair.image.read_bytes() for pair in everything}) == 10
    for pair in everything:
        picture, disparity = read_pair(pair)
        p, q = features(picture)
        own, other = (q, p) if pair.source.name == "A" else (p, q)
        # Both targets rise with their own feature, in [0, 1] or in units of a file's 16 bits.
        assert np.corrcoef(own.ravel(), disparity.ravel())[0, 1] > 0.9
        assert abs(np.corrcoef(other.ravel(), disparity.ravel())[0, 1]) < 0.7


START = {"A": 0.06, "B": 0.04}


@pytest.mark.parametrize(
    ("naive", "pareto", "claim"),
    [
        ({"A": 0.01, "B": 0.04}, {"A": 0.05, "B": 0.02}, True),
        ({"A": 0.07, "B": 0.01}, {"A": 0.05, "B": 0.02}, True),
        ({"A": 0.01, "B": 0.03}, {"A": 0.05, "B": 0.02}, False),  # naive reduces both
        ({"A": 0.07, "B": 0.05}, {"A": 0.05, "B": 0.02}, False),  # naive learns nothing
        ({"A": 0.01, "B": 0.04}, {"A": 0.01, "B": 0.039}, False),  # 2.5 % are too little
        ({"A": 0.01, "B": 0.04}, {"A": 0.0, "B": 0.0}, False),  # a constant prediction
        ({"A": 0.01, "B": 0.04}, {"A": 0.05, "B": float("nan")}, False),
    ],
)
def test_the_claim(naive, pareto, claim):
    assert mixing_conflict.holds({"start": START, "naive": naive, "pareto": pareto}) is claim


def test_the_table_of_the_conflict():
    good = {"start": START, "naive": {"A": 0.01, "B": 0.05}, "pareto": {"A": 0.04, "B": 0.02}}
    bad = {"start": START, "naive": {"A": 0.03, "B": 0.05}, "pareto": {"A": 0.04, "B": 0.05}}
    assert mixing_conflict.table([good, bad]).splitlines() == [
        "| seed | A: start | A: naive | A: pareto | B: start | B: naive | B: pareto | claim |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| 0 | 0.0600 | 0.0100 | 0.0400 | 0.0400 | 0.0500 | 0.0200 | holds |",
        "| 1 | 0.0600 | 0.0300 | 0.0400 | 0.0400 | 0.0500 | 0.0500 | FAILS |",
        "| mean | 0.0600 | 0.0200 | 0.0400 | 0.0400 | 0.0500 | 0.0350 |  |",
    ]


# --- losses and mixing on rendered scenes ---------------------------------------------------------


def made_up(loss: str, mixing: str, seed: int) -> dict:
    """Errors that tell which they are."""
    first = KINDS.index(loss) / 10 + 0.05 * (mixing == "pareto") + seed / 100
    errors = {"TUM": first, "Kitti": first + 1, "Middlebury": first + 2}
    abs_rel = {name: {"network": error, "row": error + 0.5} for name, error in errors.items()}
    times = {"step_seconds": 0.1 + seed / 10, "training_seconds": 9.0}
    return {"loss": loss, "mixing": mixing, "seed": seed, "abs_rel": abs_rel, **times}


def test_the_table_of_losses_has_means_and_ranges():
    results = [
        made_up(loss, mixing, seed)
        for seed in range(3)
        for loss in KINDS
        for mixing in ("naive", "pareto")
    ]
    lines = mixing_losses.table(results).splitlines()
    assert lines[0].startswith("| loss | mixing | AbsRel indoor | AbsRel outdoor | AbsRel photo")
    assert len(lines) == 2 + 6 + 1
    assert lines[2].startswith("| ssimse | naive | 0.010 (0.000 to 0.020) | 1.010 (1.000 to 1.020)")
    assert lines[2].endswith("| 2.010 (2.000 to 2.020) | 200 |")
    assert lines[7].startswith("| ssitrim | pareto | 0.260 (0.250 to 0.270) |")
    assert lines[8] == "| image row alone |  | 0.500 | 1.500 | 2.500 |  |"


def test_mean_and_range():
    assert mixing_runs.mean_and_range([0.1, 0.4, 0.1], 2) == "0.20 (0.10 to 0.40)"


def test_the_time_of_a_step_is_the_median(tmp_path):
    metrics = tmp_path / "metrics.csv"
    metrics.write_text("epoch,step,images_per_second,loss\n1,1,2,0\n1,2,16,0\n1,3,32,0\n")
    assert mixing_losses.step_seconds(metrics, 8) == 0.5


def test_a_folder_goes_on_with_the_same_settings_only(tmp_path):
    folder = tmp_path / "results"
    mixing_losses.claim(folder, {"steps": 3, "train": 4})
    mixing_losses.claim(folder, {"steps": 3, "train": 4})
    with pytest.raises(UserError, match=r"made with steps 3; use that") as caught:
        mixing_losses.claim(folder, {"steps": 5, "train": 4})
    assert "\n" not in str(caught.value)
    (folder / "settings.json").write_text("[")
    with pytest.raises(UserError, match=r"settings\.json: cannot be read"):
        mixing_losses.claim(folder, {"steps": 3, "train": 4})


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(UserError, match="holds other files"):
        mixing_losses.claim(tmp_path, {"steps": 3})
    with pytest.raises(UserError, match="holds other files"):
        mixing_losses.claim(tmp_path / "mine", {"steps": 3})
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_finished_training_is_not_done_again(tmp_path, monkeypatch):
    def train(_):
        raise AssertionError("trains again")

    monkeypatch.setattr(mixing_losses, "last_weights", train)
    finished = made_up("ssimae", "pareto", 2)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/ssimae-pareto-2.json").write_text(json.dumps(finished))
    assert mixing_losses.Experiment(tmp_path, None).result("ssimae", "pareto", 2) == finished
