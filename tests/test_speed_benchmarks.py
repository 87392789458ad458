"""`python -m tests.benchmarks`: turns, tables, results; figures and texts worked out by hand."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from src import cpu_kernels
from src.errors import UserError
from tests.benchmarks import __main__ as program
from tests.benchmarks import (
    first_step,
    forward,
    machine,
    memory,
    readme,
    report,
    scaling_page,
    train_step,
)
from tests.benchmarks.blocks import replaced
from tests.benchmarks.report import Row
from tests.benchmarks.sections import SECTIONS
from tests.benchmarks.turns import Outcome, Run, Shape, seconds_by_shape, take_turns

ROOT = Path(__file__).resolve().parents[1]
SMALL, LARGE = Shape(1, 32), Shape(2, 64)


# --- Turns ----------------------------------------------------------------------------------------


def make(name: str, notes: Path, fails: str = "") -> Run:
    """A contender that notes its turns in a file that all share."""
    if fails == "at once":
        raise RuntimeError("no such\nlibrary")

    def run(shape: Shape) -> tuple[str, int]:
        with notes.open("a") as file:
            file.write(f"{name}{shape.batch} ")
        if shape == LARGE and fails == "later":
            raise ValueError("too large")
        if shape == LARGE and fails == "killed":
            os._exit(9)
        if fails == "second time" and notes.read_text().split().count(f"{name}{shape.batch}") == 2:
            raise ValueError("tired")
        return name, os.getpid()

    return run


def test_contenders_take_turns_in_processes_of_their_own(tmp_path, capsys):
    notes = tmp_path / "notes"
    contenders = {name: functools.partial(make, name, notes) for name in "ab"}
    outcomes = take_turns(contenders, {SMALL: 2, LARGE: 1})
    # one run that is not counted and two that are; then one and one
    assert notes.read_text().split() == ["a1", "b1"] * 3 + ["a2", "b2"] * 2
    processes = {
        outcome.outputs[shape][1] for outcome in outcomes.values() for shape in (SMALL, LARGE)
    }
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert {name: outcome.outputs[LARGE][0] for name, outcome in outcomes.items()} == {
        "a": "a",
        "b": "b",
    }
    for outcome in outcomes.values():
        assert [len(outcome.seconds[shape]) for shape in (SMALL, LARGE)] == [2, 1]
        assert outcome.problem == ""
    assert "32x32, batch 1: run 2 of 2" in capsys.readouterr().out


def test_a_contender_that_fails_is_left_out_and_the_others_go_on(tmp_path):
    notes = tmp_path / "notes"
    ways = {"good": "", "absent": "at once", "weak": "later", "killed": "killed"}
    ways["tired"] = "second time"
    contenders = {name: functools.partial(make, name, notes, way) for name, way in ways.items()}
    outcomes = take_turns(contenders, {SMALL: 1, LARGE: 1})
    assert {name: outcome.problem for name, outcome in outcomes.items()} == {
        "good": "",
        "absent": "RuntimeError: no such",
        "weak": "ValueError: too large",
        "killed": "its process was ended from outside, perhaps for lack of memory",
        "tired": "ValueError: tired",
    }
    figures = seconds_by_shape(outcomes)
    assert [set(shape["seconds"]) for shape in figures["shapes"]] == [
        {"good", "weak", "killed"},
        {"good"},
    ]
    assert [(shape["batch"], shape["size"]) for shape in figures["shapes"]] == [(1, 32), (2, 64)]
    assert set(figures["problems"]) == {"absent", "weak", "killed", "tired"}


def test_forward_leaves_out_a_contender_whose_output_is_another():
    expected = np.array([0.0, 10.0])
    outcomes = {
        "PyTorch eager": Outcome({SMALL: expected}, {SMALL: [1.0]}),
        "near": Outcome({SMALL: expected + 5e-4}, {SMALL: [1.0]}),
        "far": Outcome({SMALL: expected + 0.1}, {SMALL: [1.0]}),
    }
    differences = forward.compare(outcomes, SMALL)
    assert differences == pytest.approx({"near": 5e-5, "far": 1e-2})
    assert outcomes["near"].seconds == {SMALL: [1.0]}
    assert outcomes["far"].seconds == {}
    assert "1.0e-02" in outcomes["far"].problem


def test_training_leaves_out_a_contender_whose_step_is_another():
    step = {"loss": 2.0, "gradient norm": 50.0}
    outcomes = {
        "PyTorch eager": Outcome({SMALL: step}, {SMALL: [1.0]}),
        "near": Outcome({SMALL: {"loss": 2.0001, "gradient norm": 50.25}}, {SMALL: [1.0]}),
        "far": Outcome({SMALL: {"loss": 2.0, "gradient norm": 60.0}}, {SMALL: [1.0]}),
    }
    differences = train_step.compare(outcomes, SMALL)
    assert differences["near"] == pytest.approx({"loss": 5e-5, "gradient norm": 5e-3}, rel=0.05)
    assert outcomes["near"].problem == ""
    assert outcomes["far"].seconds == {}
    assert "0.2" in outcomes["far"].problem


# --- Memory ---------------------------------------------------------------------------------------

MEGABYTES = 300


def make_block(size: int) -> Run:
    """Takes memory, and gives it back."""

    def run(shape: Shape) -> None:
        np.ones(size, np.uint8).sum()

    return run


def test_peak_is_that_of_the_process_alone_and_stays_when_memory_is_given_back():
    ours = np.ones(3 * MEGABYTES * 10**6, np.uint8)  # a peak of this process is none of the other
    small, large = (
        memory.apart(functools.partial(make_block, size), SMALL, 1)["bytes"]
        for size in (1, MEGABYTES * 10**6)
    )
    assert small < ours.nbytes
    assert large - small == pytest.approx(MEGABYTES * 1e6, rel=0.05)


def make_nothing() -> Run:
    raise RuntimeError("not here")


def make_killed() -> Run:
    os._exit(9)


def test_memory_of_a_contender_that_fails_is_a_line():
    assert memory.apart(make_nothing, SMALL, 1) == {"problem": "RuntimeError: not here"}
    assert "ended from outside" in memory.apart(make_killed, SMALL, 1)["problem"]


def test_largest_batch_is_on_the_straight_line():
    assert memory.largest_batch({1: 6_500, 2: 10_000}, 24_000) == 6  # 3,000 and 3,500 an image
    assert memory.largest_batch({1: 4, 2: 6, 4: 10}, 22) == 10  # exactly full
    assert memory.largest_batch({1: 4, 2: 6}, 21) == 9
    assert memory.largest_batch({1: 0.1, 2: 0.2}, 0.3) == 3  # exactly full, but for rounding


def test_memory_that_would_not_fit_is_not_tried(monkeypatch):
    free = 10_000
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    assert memory.too_large({}, 4) == ""
    assert memory.too_large({1: 6_000}, 2) == ""  # nothing to draw a line through
    assert memory.too_large({1: 3_000, 2: 5_000}, 4) == ""  # 9,000
    assert "would take about 11.0 GB" in memory.too_large({1: 5e9, 2: 7e9}, 4)


# --- Tables ---------------------------------------------------------------------------------------


def test_contest_has_medians_spreads_ratios_of_pairs_and_goals():
    figures = {
        "shapes": [
            {
                **{"batch": 1, "size": 384},
                "seconds": {
                    "MindSpore": [2.0, 6.0, 3.0],
                    "PyTorch eager": [1.0, 5.0, 2.0],
                    "torch.compile": [1.0, 2.0, 3.0],
                },
            },
            {
                **{"batch": 2, "size": 384},
                "seconds": {"MindSpore": [3.0], "PyTorch eager": [4.0]},
            },
        ],
        "problems": {"PyTorch, channels last": "RuntimeError: a | b"},
        "differences": {"MindSpore": 4.8e-6, "torch.compile": {"loss": 1e-7, "norm": 2e-6}},
    }
    # MindSpore over eager: 2, 1.2, 1.5; over torch.compile: 2, 3, 1; that over eager: 1, 0.4, 1.5
    assert report.contest(figures, "s an image", {"MindSpore": 1.15}) == [
        Row(
            "MindSpore, 384x384, batch 1",
            "3 s an image, 2 to 6; outputs 4.8e-06 of their range apart",
            "1.50 of PyTorch eager, 2.00 of torch.compile",
            "at most 1.15: NOT met",
        ),
        Row("PyTorch eager, 384x384, batch 1", "2 s an image, 1 to 5"),
        Row(
            "torch.compile, 384x384, batch 1",
            "2 s an image, 1 to 3; loss 1.0e-07, norm 2.0e-06 apart",
            "1.00 of PyTorch eager",
        ),
        Row(
            "MindSpore, 384x384, batch 2",
            "1.5 s an image, 1.5 to 1.5",
            "0.75 of PyTorch eager",
        ),
        Row("PyTorch, channels last", "left out: RuntimeError: a / b"),
    ]


def test_memory_has_goals_at_batches_1_and_2_and_what_fits():
    def peaks(ours: float, theirs: float) -> dict[str, Any]:
        return {
            "MindSpore": {"bytes": ours * 1e9, "seconds": [8.0, 6.0]},
            "PyTorch eager": {"bytes": theirs * 1e9, "seconds": [4.0, 4.0]},
        }

    figures = {
        "shapes": [
            {"batch": 1, "size": 384, "peaks": peaks(6, 4)},
            {"batch": 2, "size": 384, "peaks": peaks(10, 5)},
            {"batch": 4, "size": 384, "peaks": peaks(18, 7)},
            {"batch": 8, "size": 384, "peaks": {**peaks(0, 11), "MindSpore": {"problem": "no"}}},
            {"batch": 1, "size": 256, "peaks": peaks(3, 2)},
        ]
    }
    rows = {row.what: row for row in report.memory(figures)}
    one, two = (rows[f"MindSpore, 384x384, batch {batch}"] for batch in (1, 2))
    assert one == Row(
        one.what, "6.00 GB; 7 s a step, 6 to 8", "1.50 of PyTorch eager", "at most 1.5: met"
    )
    assert two[2:] == ("2.00 of PyTorch eager", "at most 1.5: NOT met")
    assert rows["MindSpore, 384x384, batch 4"].goal == ""
    assert rows["MindSpore, 384x384, batch 8"].measured == "left out: no"
    assert rows["MindSpore, 256x256, batch 1"].goal == ""
    # 2 GB and 4 GB for each image; 3 GB and 1 GB
    fits = "384x384, largest batch in 24 GB"
    assert rows[f"MindSpore, {fits}"].measured == "5, extrapolated from batches 1, 2, 4"
    assert rows[f"PyTorch eager, {fits}"].measured == "21, extrapolated from batches 1, 2, 4, 8"


def test_first_step_compares_pairs_of_starts():
    figures = {
        "seconds": {
            "compiled": {"process": [60.0, 80.0, 90.0], "step": [40.0, 50.0, 60.0]},
            "from the cache": {"process": [20.0, 50.0, 45.0], "step": [8.0, 10.0, 10.0]},
        }
    }
    rows = report.first_step(figures)
    assert rows[1][1:] == ("45 s, 20 to 50", "2.00 times faster", "at least 2: met")
    assert rows[3][1:3] == ("10 s, 8 to 10", "5.00 times faster")


def test_kernels_are_measured_before_the_first_start_is_timed(monkeypatch):
    calls = []

    def start(cache: Path, *_: object) -> tuple[float, float]:
        calls.append("start")
        (cache / "graph").touch()
        return 2.0, 1.0

    monkeypatch.setattr(cpu_kernels, "choose", lambda **_: calls.append("kernels"))
    monkeypatch.setattr(first_step, "start_process", start)
    first_step.figures(quick=True, runs=2)
    assert calls == ["kernels", *["start"] * 4]


def test_scaling_is_of_twice_one_process():
    rates = {"first": [10, 10], "second": [20, 10], "apart": [30, 18], "together": [24, 18]}
    rows = report.scaling({"batch": 4, "images/s": rates})
    assert rows[0].measured == "12.5 images/s, 10 to 15"
    assert rows[1].ratio == "0.95 of twice one"  # 1 and 0.9
    assert rows[2][1:] == ("21 images/s, 18 to 24", "0.85 of twice one", "at least 0.9: NOT met")


def test_input_pipeline_is_in_images_of_a_core():
    def runs(cpu: float, wall: float) -> dict[str, Any]:
        return {workers: [{"cpu": cpu, "wall": wall}] * 3 for workers in ("0", "1", "2")}

    figures = {
        "runs": {"torch": runs(50, 40), "files": runs(12.5, 10), "cache": runs(5, 4)},
        "split": {"files": {"image decoded": 3.0, "target": 1.25}},
        "per core": [3.5, 4.25, 4.5],
        "per core, cache": [7.5, 7.75, 9.0],
    }
    rows = {row.what: row for row in report.input_pipeline(figures)}
    assert rows["this project, 1 worker"] == Row(
        "this project, 1 worker", "80 images/s per core, 80 to 80; 100 images/s, 100 to 100"
    )
    assert rows["this project, 2 workers"][2:] == (
        "4.25 times as many per core, 3.5 to 4.5",
        "at least 4: met",
    )
    assert rows["this project, with the cache, 2 workers"].goal == "at least 8: NOT met"
    assert rows["this project: ms of a core an image"].measured == "image decoded 3, target 1.25"


def test_folder_is_compared_with_the_network_alone():
    def runs(*clocks: float) -> list[dict[str, float]]:
        return [{"clock": clock, "cores": 2 * clock} for clock in clocks]

    figures = {
        **{"runtime": "MindSpore CPU", "input": [288, 384], "batch_size": 1},
        **{"loading": 1.25, "first": 21.0},
        "seconds": {"network": runs(2.0, 1.9, 2.0), "folder": runs(2.0, 2.0, 2.5)},
    }
    rows = report.folder(figures)
    assert rows[0] == Row(
        "network alone, inputs in memory, MindSpore CPU, 384x288, batch 1",
        "0.5 images/s, 0.5 to 0.526; 4 s of a core an image, 3.8 to 4",
    )
    assert rows[1][2:] == ("0.950 of the network's throughput", "at least 0.93: met")
    assert rows[2].measured == "1.25 s and 21 s"


def test_checkpoints_have_times_and_sizes():
    figures = {
        **{"parameters": 105_570_000, "trained": 105_360_000},
        "bytes": {"weights": 422_000_000, "state": 843_000_000},
        "seconds": {"weights": [1.0, 3.0, 2.0], "state": [4.0, 4.0, 5.0]},
    }
    assert report.checkpoints(figures) == [
        Row("weights, 105.57 M values", "2 s, 1 to 3; 422 MB"),
        Row("state of Adam, of 105.36 M parameters", "4 s, 4 to 5; 843 MB"),
    ]


def test_every_section_has_a_table():
    assert report.ROWS.keys() == SECTIONS.keys()


# --- Results --------------------------------------------------------------------------------------


def results(quick: bool = False, **sections: dict[str, Any]) -> dict[str, Any]:
    described = {
        **{"processor": "Some CPU AVX2", "cores": 2, "memory": 24 * 2**30},
        **{"system": "Linux x86_64, Python 3.11.7", "versions": {"mindspore": "2.10.0"}},
        "environment": {"OMP_NUM_THREADS": "1"},
    }
    return {"machine": described, "quick": quick, "sections": sections}


def found(**more: Any) -> dict[str, Any]:
    return {"started": "2026-01-02T03:04:05", "load": [0.5, 2.0], "others": 3.2, **more}


def checkpoint_figures() -> dict[str, Any]:
    return {
        **{"network": "config.yaml", "parameters": 1e6, "trained": 1e6},
        "bytes": {"weights": 4e6, "state": 8e6},
        "seconds": {"weights": [1.0], "state": [2.0]},
    }


def test_page_says_where_when_and_how_busy():
    page = report.page(
        results(
            scaling=found(error="exit code 1: this needs two cores"),
            checkpoints=found(figures=checkpoint_figures()),
        )
    )
    first, *_, failed, _, missing = page.splitlines()
    assert first == (
        "Measured on 2026-01-02: 2 cores of Some CPU AVX2, 24 GiB, Linux x86_64, Python 3.11.7, "
        "mindspore 2.10.0, OMP_NUM_THREADS=1."
    )
    assert "**Checkpoints**, full network." in page
    assert "Load of the machine 0.5 before and 2.0 after, other programs took 3 % of its" in page
    assert "| weights, 1.00 M values | 1 s, 1 to 1; 4 MB |  |  |" in page
    assert "Disturbed" not in page
    assert failed == "**Processes** failed: exit code 1: this needs two cores"
    assert missing.startswith("Not measured in this run: `forward`, `train_step`")
    assert "`checkpoints`" not in missing
    assert "these figures say nothing" in report.page(results(quick=True, scaling=found(error="x")))


def test_page_warns_of_figures_that_other_programs_disturbed():
    for others, disturbed in ((20.0, False), (20.6, True)):
        section = found(figures=checkpoint_figures()) | {"others": others}
        page = report.page(results(checkpoints=section))
        assert ("**Disturbed: other programs took 21 % of the machine.**" in page) == disturbed


def test_machine_is_read_from_the_system(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name\t: Some CPU @ 2GHz\nflags\t\t: fpu avx2 avx512f\n" * 2)
    assert machine._processor(cpuinfo) == "Some CPU @ 2GHz AVX-512"
    cpuinfo.write_text("model name\t: Other\nflags : avx2\n")
    assert machine._processor(cpuinfo) == "Other AVX2"
    assert machine.describe()["versions"]["numpy"] == np.__version__


def test_others_are_what_is_busy_without_our_children(monkeypatch):
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda: 4)
    start, end = machine.Usage(100.0, 1000.0, 50.0), machine.Usage(110.0, 1026.0, 66.0)
    assert end.others_since(start) == 25.0  # 26 s of work in 40, 16 of them ours
    assert machine.Usage(110.0, 1010.0, 66.0).others_since(start) == 0.0


def test_work_of_children_is_ours():
    start = machine.Usage.now()
    subprocess.run([sys.executable, "-c", "while __import__('time').process_time() < 0.5: pass"])
    end = machine.Usage.now()
    assert end.own - start.own >= 0.5
    assert end.busy - start.busy >= 0.4  # the system counts in hundredths of a second


def test_sections_are_chosen_by_name_in_their_own_order():
    assert program.chosen("scaling, first_step,forward") == ["forward", "first_step", "scaling"]
    assert program.chosen("") == list(SECTIONS)
    with pytest.raises(UserError, match="no section 'speed'; expected forward, train_step"):
        program.chosen("forward,speed")


def test_results_of_the_same_machine_are_kept_and_others_refused(tmp_path):
    here = program.begin(tmp_path, quick=True)
    assert here["sections"] == {}
    file = tmp_path / "benchmarks.json"
    file.write_text(json.dumps({**here, "sections": {"scaling": found(error="x")}}))
    assert program.begin(tmp_path, quick=True)["sections"].keys() == {"scaling"}
    with pytest.raises(UserError, match=r"benchmarks.json: .* choose another --output"):
        program.begin(tmp_path, quick=False)
    file.write_text(json.dumps(results(quick=True)))
    with pytest.raises(UserError, match="of another machine"):
        program.begin(tmp_path, quick=True)
    file.write_text("[]")
    with pytest.raises(UserError, match="not the results of"):
        program.begin(tmp_path, quick=True)


def test_a_section_that_fails_is_told_by_its_last_line(tmp_path, capsys):
    done = program.measure("nothing", True, tmp_path / "nothing.log")
    assert done["error"] == "exit code 1: KeyError: 'nothing'"
    assert "Traceback" in (tmp_path / "nothing.log").read_text()
    assert "figures" not in done


def test_command_measures_and_writes_results_and_page(tmp_path):
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--only", "checkpoints"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "new")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "[1/1] Checkpoints" in done.stdout
    stored = json.loads((tmp_path / "new/benchmarks.json").read_text())
    figures = stored["sections"]["checkpoints"]["figures"]
    # float32, and what the format adds; Adam has two values for each parameter
    assert 4 * figures["parameters"] < figures["bytes"]["weights"] < 4.2 * figures["parameters"]
    assert 8 * figures["trained"] < figures["bytes"]["state"] < 8.4 * figures["trained"]
    page = (tmp_path / "new/benchmarks.md").read_text()
    assert page in done.stdout
    assert "**Checkpoints**, quickstart's network." in page


def test_command_line_errors_are_one_line():
    command = [sys.executable, "-m", "tests.benchmarks", "--only", "speed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --only: no section 'speed'")
    assert done.stderr.count("\n") == 1


def test_a_program_that_is_stopped_leaves_no_process(tmp_path):
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--only", "train_step"]
    with subprocess.Popen([*command, "--output", str(tmp_path)], cwd=ROOT, stdout=-1) as process:
        assert process.stdout.readline().startswith(b"[1/1] Training step")
        assert b"first run" in process.stdout.readline()  # its contenders are there
        started = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait() == 143
    assert len(started) >= 4
    _, left = psutil.wait_procs(started, timeout=60)
    assert left == []


# --- README ---------------------------------------------------------------------------------------


def test_a_part_of_a_file_is_replaced_and_the_rest_stays(tmp_path):
    file = tmp_path / "page.md"
    file.write_text(
        "top\n<!-- a: begin -->\nold\nlines\n<!-- a: end -->\nmiddle\n"
        "<!-- b: begin -->\n<!-- b: end -->\n"
    )
    assert replaced(file, {"a": r"new \1", "b": "more\n"}) == (
        "top\n<!-- a: begin -->\n\nnew \\1\n\n<!-- a: end -->\nmiddle\n"
        "<!-- b: begin -->\n\nmore\n\n<!-- b: end -->\n"
    )
    for text in ("", "<!-- a: begin -->\n", "<!-- a: begin -->\n<!-- a: end -->\n" * 2):
        file.write_text(text)
        with pytest.raises(UserError, match=r"page\.md: expected the lines <!-- a: begin -->"):
            replaced(file, {"a": ""})
    with pytest.raises(UserError, match="no such file"):
        replaced(tmp_path / "other.md", {})


def test_readme_takes_results_of_full_size_without_failures(tmp_path):
    file = tmp_path / "benchmarks.json"
    whole = {name: found(figures={}) for name in SECTIONS}
    file.write_text(json.dumps(results(**whole)))
    assert readme.kept(file)["sections"].keys() == SECTIONS.keys()
    file.write_text(json.dumps(results(quick=True, **whole)))
    with pytest.raises(UserError, match="measured with --quick"):
        readme.kept(file)
    file.write_text(json.dumps(results(**{**whole, "scaling": found(error="x")})))
    with pytest.raises(UserError, match=r"scaling failed; run: .* --only scaling"):
        readme.kept(file)
    del whole["scaling"]
    file.write_text(json.dumps(results(**whole)))
    assert "scaling" not in readme.kept(file)["sections"]
    with pytest.raises(UserError, match="no such file"):
        readme.kept(tmp_path / "none.json")


def test_one_command_writes_all_that_shows_the_figures(tmp_path, monkeypatch):
    """Or, where one of the files lacks its places, nothing."""
    measured = results(checkpoints=found(figures=checkpoint_figures()))
    given = tmp_path / "benchmarks.json"
    given.write_text(json.dumps(measured))
    places = {
        "FIGURES": tmp_path / "performance.json",
        "README": tmp_path / "README.md",
        "PAGE": tmp_path / "scaling.md",
        "PICTURE": tmp_path / "scaling.jpg",
    }
    for name, place in places.items():
        for module in (readme, scaling_page):
            monkeypatch.setattr(module, name, place, raising=False)
    monkeypatch.setattr(readme, "kept", report.read)
    monkeypatch.setattr(scaling_page, "draw", lambda _: b"picture")
    monkeypatch.setattr(sys, "argv", ["readme", str(given)])
    places["README"].write_text("<!-- performance: begin -->\n<!-- performance: end -->\n")
    places["PAGE"].write_text("nothing\n")
    with pytest.raises(UserError, match=r"scaling\.md: expected the lines"):
        readme.main()
    assert not places["FIGURES"].exists()
    assert "Checkpoints" not in places["README"].read_text()
    names = ("parameters", "needs", "steps", "limits", "evaluation")
    places["PAGE"].write_text(
        "".join(f"<!-- {name}: begin -->\n<!-- {name}: end -->\n" for name in names)
    )
    readme.main()
    assert json.loads(places["FIGURES"].read_text()) == measured
    assert "**Checkpoints**" in places["README"].read_text()
    assert "| `checkpoint` | 3 s | measured | section `checkpoints`" in places["PAGE"].read_text()
    assert places["PICTURE"].read_bytes() == b"picture"


def test_readme_holds_what_the_script_makes_of_the_stored_figures():
    page = report.page(readme.kept(readme.FIGURES)).strip()
    text = readme.README.read_text()
    begin, end = "<!-- performance: begin -->", "<!-- performance: end -->"
    assert text.split(begin)[1].split(end)[0].strip() == page, (
        "run: python -m tests.benchmarks.readme"
    )
