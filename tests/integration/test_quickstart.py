"""The README's first command in miniature: through the scripts, on real files."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PHOTOGRAPHS = {"astronaut", "chelsea", "coffee", "motorcycle", "rocket"}


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """(run folder, standard output) of one quickstart with as little as it takes."""
    folder = tmp_path_factory.mktemp("quick start")  # a space in the path on purpose
    run = folder / "run"
    done = subprocess.run(
        [
            *("bash", ROOT / "scripts" / "quickstart.sh", "--train", "8", "--test", "1"),
            *("--epochs", "2", "--data", folder / "data", "--output", run),
        ],
        env=os.environ | {"MIDAS_PYTHON": sys.executable},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return run, done.stdout


def test_every_result_is_there(quickstart):
    run, _ = quickstart
    results = json.loads((run / "val.json").read_text())
    assert list(results) == ["Kitti", "Sintel", "TUM", "Middlebury"]
    assert 0 <= results["Kitti"] <= 100
    assert 0 < results["Middlebury"] < 1
    assert [path.name for path in (run / "ckpt").iterdir()].count("Midas_0-2_2.ckpt") == 1
    assert (run / "midas.mindir").stat().st_size > 1_000_000
    with Image.open(run / "curves.png") as curves:
        assert curves.width >= 900
        assert curves.height >= 600


def test_the_table_compares_with_the_row_baseline(quickstart):
    run, output = quickstart
    lines = output.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("benchmark "))
    assert lines[header].endswith("AbsRel of the row only")
    rows = {line.split()[0]: line for line in lines[header + 1 :] if line}
    for name in json.loads((run / "val.json").read_text()):
        assert re.search(r" \d+\.\d{4} +\d+\.\d{4} \([+-]\d+%\)$", rows[name])
    assert "AbsRel of the row only" in (run / "val.log").read_text()


def test_a_row_of_metrics_for_every_step(quickstart):
    run, _ = quickstart
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [
        ("1", "1"),
        ("1", "2"),
        ("2", "1"),
        ("2", "2"),
    ]
    assert all(float(row["loss"]) > 0 for row in rows)


def test_every_photograph_has_its_depth(quickstart):
    run, _ = quickstart
    depth = run / "depth"
    assert {path.stem for path in depth.glob("*.pfm")} == PHOTOGRAPHS
    with Image.open(depth / "motorcycle.png") as image:
        assert image.size == (741, 500)
        values = np.asarray(image)
    assert values.min() == 0
    assert values.max() == 65535
    with Image.open(depth / "motorcycle_depth.png") as picture:
        assert picture.height == 500
        assert picture.width > 2 * 741


def test_the_end_names_what_was_made_and_how_long_it_took(quickstart):
    run, output = quickstart
    end = output[output.index("== done in") :]
    for part in ("scenes", "training", "evaluation", "export", "depth maps"):
        assert f"{part} " in end.splitlines()[0]
    for name in (
        "val.json",
        "val/report.html",
        "ckpt/Midas_0-2_2.ckpt",
        "midas.mindir",
        "curves.png",
        "depth",
    ):
        assert str(run / name) in end


def test_another_run_does_not_overwrite_it(quickstart):
    run, _ = quickstart
    before = (run / "metrics.csv").read_bytes()
    refused(run.parent / "other", "--output", run, message=f"--output: {run} exists")
    assert (run / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train"], "--train: expected"),
        (["--scenes", "3"], "--scenes: expected"),
        (["--train", "0"], "--train: got '0'; expected a whole number"),
        (["--test", "two"], "--test: got 'two'; expected a whole number"),
        (["--epochs", "1.5"], "--epochs: got '1.5'; expected a whole number"),
    ],
)
def test_what_is_wrong_is_refused_before_set_up_and_rendering(tmp_path, arguments, message):
    refused(tmp_path / "data", *arguments, message=message)


def refused(data, *arguments, message):
    """Run the quickstart: one line on stderr, no part begun, no data folder made."""
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "quickstart.sh", "--data", data, *arguments],
        env=os.environ | {"MIDAS_PYTHON": "/nowhere/python"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not data.exists()
