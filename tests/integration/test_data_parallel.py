"""Several processes train as one: the same gradients, and the same weights in each of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests/programs/data_parallel.py"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(command: list[str], folder: Path) -> None:
    paths = f"{ROOT}{os.pathsep}{Path(sys.executable).parent}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{paths}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400
    )
    logs = "".join(path.read_text()[-2000:] for path in folder.glob("logs/*.log"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + logs


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """What one process and each of two found, by `processes-rank`."""
    folder = tmp_path_factory.mktemp("parallel")
    run([sys.executable, str(PROGRAM), str(folder)], folder)
    msrun = [str(Path(sys.executable).with_name("msrun")), "--worker_num=2", "--local_worker_num=2"]
    options = [f"--master_port={free_port()}", "--join=True", "--log_dir=logs"]
    run([*msrun, *options, str(PROGRAM), str(folder), "--run_distribute"], folder)
    return {path.stem: dict(np.load(path)) for path in folder.glob("*.npz")}


@pytest.mark.parametrize(
    ("gradient", "outputs"),
    [("gradient", "outputs"), ("all", "all_outputs"), ("last", "last_outputs")],
)
def test_the_averaged_gradient_of_two_processes_is_that_of_one(results, gradient, outputs):
    """Each half of the batch by a process; against the whole batch in one, to 1e-5.

    Of two datasets, that is the mix of their averaged gradients, weights and losses told.
    """
    one, two = results["1-0"], results["2-0"]
    names = [name for name in one if name.startswith(f"{gradient}/")]
    assert len(names) > 50
    total = np.sqrt(sum((one[name].astype(np.float64) ** 2).sum() for name in names))
    assert total > 1e-4
    apart = np.sqrt(sum(((one[n] - two[n]).astype(np.float64) ** 2).sum() for n in names))
    assert apart < 1e-5 * total
    for name in names:
        largest = np.abs(one[name]).max()
        assert np.abs(one[name] - two[name]).max() <= 1e-5 * max(largest, total / 100), name
    np.testing.assert_allclose(two[outputs], one[outputs], rtol=1e-5)  # losses and norm too


def test_all_processes_have_the_same_gradient(results):
    for name, value in results["2-0"].items():
        assert np.array_equal(value, results["2-1"][name]), name


def test_weights_are_bit_identical_across_processes_after_20_steps(results):
    first, second, alone = results["2-0"], results["2-1"], results["1-0"]
    names = [name for name in first if name.startswith("weights/")]
    assert len(names) > 50
    for name in names:
        assert first[name].tobytes() == second[name].tobytes(), name
    # Each process had images of its own: had they not been averaged, rank 0 would be alone's.
    assert any(not np.array_equal(first[name], alone[name]) for name in names)
