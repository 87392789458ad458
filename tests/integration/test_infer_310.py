"""run_infer_310.sh: with a stand-in for the C++ program, and with the program itself."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml

from src.data.transforms import ResizeRule
from src.image_io import read_image
from src.predictor import Predictor
from tests import file_formats
from tests.benchmark_sets import metres, paths, random_image, stored_depth, write_files
from tests.infer_program import SETUP, copy_source
from tests.saved_files import Saved, write_saved

REPOSITORY = Path(__file__).resolve().parents[2]
SHAPE = (12, 20)
IMAGES = 3

BUILD = """#!/usr/bin/env bash
printf 'building\\n'
[[ -z "${FAKE_BUILD_CODE:-}" ]] || { echo 'error: no compiler' >&2; exit "$FAKE_BUILD_CODE"; }
touch "$FAKE/built"
[[ -z "${FAKE_BLOCK:-}" ]] || mkdir infer_310_logs/infer.log
"""

INFER = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$FAKE/arguments"
while (($#)); do
    case "$1" in
        --output) output="$2" ;;
        --dataset) dataset="$2" ;;
    esac
    shift 2
done
printf 'line on stdout\\n'
if [[ -n "${FAKE_WAIT:-}" ]]; then
    for ((i = 0; i < 600; i++)); do [[ ! -e "$FAKE/go" ]] || break; sleep 0.05; done
fi
[[ -z "${FAKE_EARLY_CODE:-}" ]] || exit "$FAKE_EARLY_CODE"
[[ ! -e "$output/result_Files/$dataset" ]] || exit 5
mkdir -p "$output/result_Files" "$output/time_Result"
cp -r "$FAKE/$dataset" "$output/result_Files/$dataset"
printf 'NN inference cost average time: 1.5 ms of infer_count 3\\n' \\
    >"$output/time_Result/test_perform_static.txt"
printf 'line on stderr\\n' >&2
if [[ -n "${FAKE_STAY:-}" ]]; then
    for name in HUP INT TERM; do trap "echo $name >>'$FAKE/got'; exit 99" "$name"; done
    touch "$FAKE/ready"
    sleep 300
fi
[[ -z "${FAKE_SIGNAL:-}" ]] || kill "-$FAKE_SIGNAL" $$
exit "${FAKE_CODE:-0}"
"""


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def closest(depth: np.ndarray) -> np.ndarray:
    """The perfect prediction: the inverse depth, 1 where nothing is known."""
    return (1 / np.where(np.isfinite(depth) & (depth > 0), depth, 1)).astype(np.float32)


def write_data(place: Path, name: str, kept: int = IMAGES) -> None:
    """A data set and what a perfect network predicts for its first images."""
    images = [random_image(i, SHAPE) for i in range(IMAGES)]
    stored = [stored_depth(name, i, SHAPE) for i in range(IMAGES)]
    write_files(name, place / "the data" / name, {"one": list(zip(images, stored, strict=True))})
    predictions: list[Saved] = [
        (str(paths(name, "one", i)[0]), closest(metres(name, depth)), SHAPE)
        for i, depth in enumerate(stored[:kept])
    ]
    shutil.rmtree(place / "fake" / name, ignore_errors=True)
    write_saved(place / "fake" / name, predictions)


def copy_script(repo: Path) -> Path:
    """The script and what it runs, but for ascend310_infer, in a folder of its own."""
    for name in ("scripts/run_infer_310.sh", "scripts/common.sh", "postprocess.py"):
        put(repo / name, (REPOSITORY / name).read_text())
    (repo / "src").symlink_to(REPOSITORY / "src")
    return repo


@pytest.fixture
def place(tmp_path) -> Path:
    """The repository with a stand-in for ascend310_infer, data, models and a working folder."""
    repo = copy_script(tmp_path / "the repo")
    put(repo / "ascend310_infer/build.sh", BUILD)
    put(repo / "ascend310_infer/out/midas_infer", INFER).chmod(0o755)
    for name in ("Kitti", "Sintel"):
        write_data(tmp_path, name)
    for model in ("a model.onnx", "a model.mindir"):
        put(tmp_path / "models" / model, "weights")
    (tmp_path / "my work").mkdir()
    return tmp_path


def command(place: Path, *arguments: object) -> list[str]:
    return ["bash", str(place / "the repo/scripts/run_infer_310.sh"), *map(str, arguments)]


def environment(place: Path, more: Mapping[str, str]) -> dict[str, str]:
    return os.environ | {"MIDAS_PYTHON": sys.executable, "FAKE": str(place / "fake")} | more


def run(
    place: Path, *arguments: object, folder: str = "my work", **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(place, *arguments),
        cwd=place / folder,
        env=environment(place, more),
        capture_output=True,
        text=True,
        timeout=120,
    )


KITTI = ("../models/a model.onnx", "../the data/Kitti", "Kitti")
SINTEL = ("../models/a model.onnx", "../the data/Sintel", "Sintel")


def good(place: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    done = run(place, *arguments, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def passed_on(place: Path) -> dict[str, str]:
    """The flags of midas_infer."""
    words = (place / "fake/arguments").read_text().splitlines()
    assert len(words[::2]) == len(set(words[::2])), "each once"
    return dict(zip(words[::2], words[1::2], strict=True))


# --- A run ----------------------------------------------------------------------------------------


def test_a_run_leaves_scores_predictions_times_and_logs(place):
    done = good(place, *KITTI)
    work = place / "my work"
    assert {path.name for path in work.iterdir()} == {
        *("result_Files", "time_Result", "result_val.json", "result_val", "infer_310_logs")
    }
    assert json.loads((work / "result_val.json").read_text()) == {"Kitti": 0}
    assert contents(work / "result_Files/Kitti") == contents(place / "fake/Kitti")
    logs = {path.name: path.read_text() for path in (work / "infer_310_logs").iterdir()}
    assert logs.keys() == {"build.log", "infer.log", "postprocess.log"}
    assert logs["build.log"] == "building\n"
    assert logs["infer.log"] == "line on stdout\nline on stderr\n"
    assert "\nKitti              3 " in logs["postprocess.log"]
    for text in logs.values():
        assert text in done.stdout
    *_, report, predictions, times, log, values = done.stdout.splitlines()
    assert report.split(maxsplit=1) == ["report", f"{work}/result_val/report.html"]
    assert predictions.split(maxsplit=1) == ["predictions", f"{work}/result_Files/Kitti"]
    assert times.split(maxsplit=1) == ["times", f"{work}/time_Result/test_perform_static.txt"]
    assert log.split(maxsplit=1) == ["logs", f"{work}/infer_310_logs"]
    assert values.split(maxsplit=1) == ["result_val.json", '{"Kitti": 0.0}']


def test_flags_go_to_the_stage_that_knows_them(place):
    infer = {
        "--batch_size": "4",
        "--precision": "bfloat16",
        "--size": "256",
        "--mean": "-0.5,0.5,0.5",
        "--std": "1,1,1",
        "--threads": "2",
    }
    joined = [f"{key}={value}" for key, value in infer.items()][:3]
    apart = [word for pair in list(infer.items())[3:] for word in pair]
    options = ("--upsampling", "bicubic", "--sintel_occluded=True")
    good(place, *SINTEL, "3", *joined, *options, *apart)
    assert passed_on(place) == infer | {
        "--model": str(place / "models/a model.onnx"),
        "--data": str(place / "the data/Sintel"),
        "--dataset": "Sintel",
        "--output": str(place / "my work"),
        "--backend": "openvino",
        "--device_id": "3",
    }
    details = json.loads((place / "my work/result_val/results.json").read_text())
    assert details["Sintel"]["settings"]["upsampling"] == "bicubic"


def test_the_configuration_decides_what_the_program_computes(place):
    values = "eval_size: 128\nnm_img_mean: [0.5, 0.25, 0]\nnm_img_std: [1, 0.5, 0.125]\n"
    put(place / "my work/run.yaml", values)
    good(place, *KITTI, "--config_path", "run.yaml", "--std", "1,1,1")
    found = passed_on(place)
    assert (found["--size"], found["--mean"]) == ("128", "0.5,0.25,0.0")
    assert found["--std"] == "1,1,1", "what the user says wins"
    done = good(place, *KITTI, "--eval_size", "256")
    assert passed_on(place)["--size"] == "256"
    assert "predicted at upper_bound 384 instead of lower_bound 256\n" in done.stdout


@pytest.mark.parametrize(
    ("model", "flags", "backend"),
    [
        ("a model.onnx", [], "openvino"),
        ("a model.mindir", [], "lite"),
        ("a model.mindir", ["--backend", "auto"], "auto"),
    ],
)
def test_the_model_decides_the_backend(place, model, flags, backend):
    good(place, f"../models/{model}", "../the data/Kitti", "kitti", *flags)
    found = passed_on(place)
    assert (found["--backend"], found["--device_id"]) == (backend, "0")
    assert found["--dataset"] == "Kitti"


def test_what_a_stage_says_is_shown_while_it_works(place):
    process = subprocess.Popen(
        command(place, *KITTI),
        cwd=place / "my work",
        env=environment(place, {"FAKE_WAIT": "1"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        seen = [next(process.stdout) for _ in range(4)]
        assert seen == ["== build\n", "building\n", "== infer\n", "line on stdout\n"]
        assert not (place / "my work/result_Files").exists()
        (place / "fake/go").touch()
        process.communicate(timeout=60)
    assert process.returncode == 0


# --- Earlier results ------------------------------------------------------------------------------


@pytest.fixture
def stopped_clock(place) -> dict[str, str]:
    """An environment in which `date` always says the same second."""
    put(place / "bin/date", "#!/bin/sh\necho 20260102-030405\n").chmod(0o755)
    return {"PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def test_earlier_results_are_moved_aside_also_within_one_second(place, stopped_clock):
    work, states = place / "my work", []
    for number in range(3):
        table = place / "fake/Kitti/run.json"
        table.write_text(table.read_text().replace("CPU", f"CPU {number} "))
        done = good(
            place, *KITTI, "--upsampling", ("bilinear", "bicubic")[number % 2], **stopped_clock
        )
        states.append({k: v for k, v in contents(work).items() if not k.startswith("earlier")})
    assert f"earlier results  {work}/earlier/20260102-030405-2\n" in done.stdout
    earlier = [path.name for path in sorted((work / "earlier").iterdir())]
    assert earlier == ["20260102-030405", "20260102-030405-2"]
    for name, state in zip(earlier, states, strict=False):
        assert contents(work / "earlier" / name) == state
    assert len({state["result_Files/Kitti/run.json"] for state in states}) == 3


def test_results_of_other_data_sets_stay(place):
    work = place / "my work"
    good(place, *KITTI)
    before = contents(work)
    good(place, *SINTEL)
    now = contents(work)
    kept = [name for name in before if name.startswith(("result_Files", "result_val/panels"))]
    assert all(now[name] == before[name] for name in kept)
    assert json.loads(now["result_val.json"]) == {"Kitti": 0, "Sintel": 0}
    (earlier,) = (work / "earlier").iterdir()
    moved = {path.name for path in earlier.iterdir()}
    assert moved == {"time_Result", "infer_310_logs"}, "they are of the last run"


def test_a_second_run_of_a_data_set_keeps_the_results_of_others(place):
    work = place / "my work"
    good(place, *SINTEL)
    good(place, *KITTI)
    before = json.loads((work / "result_val/results.json").read_text())
    good(place, *KITTI, "--upsampling", "bicubic")
    assert json.loads((work / "result_val.json").read_text()) == {"Sintel": 0, "Kitti": 0}
    now = json.loads((work / "result_val/results.json").read_text())
    assert now["Sintel"] == before["Sintel"]
    assert now["Kitti"]["settings"]["upsampling"] == "bicubic"


def test_what_is_there_of_somebody_elses_stays(place):
    put(place / "my work/result_Files/mine.txt", "mine")
    put(place / "my work/notes.txt", "notes")
    good(place, *KITTI)
    assert (place / "my work/result_Files/mine.txt").read_text() == "mine"
    assert (place / "my work/notes.txt").read_text() == "notes"
    assert not (place / "my work/earlier").exists()


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "usage: bash scripts/run_infer_310.sh MODEL_PATH DATA_PATH DATASET_NAME"),
        (KITTI[:2], "usage: "),
        (["small.ckpt", *KITTI[1:]], "MODEL_PATH: got 'small.ckpt'; expected a .mindir or .onnx"),
        (["gone.onnx", *KITTI[1:]], "MODEL_PATH: gone.onnx: no such file"),
        ([KITTI[0], "gone", "Kitti"], "DATA_PATH: gone: no such folder; expected that of Kitti"),
        ([*KITTI[:2], "NYU"], "DATASET_NAME: got 'NYU'; expected Kitti, Sintel, TUM or images"),
        ([*KITTI, "first"], "DEVICE_ID: got 'first'; expected a whole number"),
        ([*KITTI, "0", "more"], "more: expected a flag, --key value"),
        ([*KITTI, "--upsampling"], "--upsampling: expected a value behind it"),
        ([*KITTI, "--upsampling", "nearest"], "upsampling: got 'nearest'"),
        ([*KITTI, "--upsamplign", "bicubic"], "upsamplign: no such key; did you mean upsampling?"),
        ([*KITTI, "--ann_file", "a.json"], "--ann_file: set by this script"),
        ([*KITTI, "--onnx_precision", "bfloat16"], "--onnx_precision: {no}; use --precision"),
        ([*KITTI, "--onnx_runtime=openvino"], "--onnx_runtime: {no}; use --backend, --precision"),
        ([*KITTI, "--eval_batch_size", "2"], "--eval_batch_size: {no}; use --batch_size"),
        ([*KITTI, "--device_id", "1"], "--device_id: give it as DEVICE_ID, the fourth argument"),
        ([*KITTI[:2], "Sintel"], "{place}/the data/Kitti/final_left: no such folder"),
        (
            [KITTI[0], "../the data/Sintel", "images", "--align", "gone.csv"],
            "align: cannot read {place}",
        ),
    ],
)
def test_bad_arguments_are_one_line_before_anything_is_done(place, arguments, message):
    done = run(place, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    expected = message.format(place=place, no="midas_infer does not take it")
    assert done.stderr.startswith(f"error: {expected}")
    assert done.stderr.count("\n") == 1
    assert not list((place / "my work").iterdir())
    assert not (place / "fake/built").exists()


def test_without_an_environment_there_is_advice(place):
    done = run(place, *KITTI, MIDAS_PYTHON="")
    assert done.returncode == 2
    assert "run 'bash scripts/setup.sh' first, or set MIDAS_PYTHON" in done.stderr


OF_BEFORE = " result_val.json holds scores of an earlier run;"


def assert_stopped(
    place: Path,
    done: subprocess.CompletedProcess[str],
    stage: str,
    code: int,
    *last: str,
    note: str = "",
) -> None:
    assert done.returncode == code
    log = place / f"my work/infer_310_logs/{stage}.log"
    first, *lines = done.stderr.splitlines()
    assert first == f"error: {stage} failed with exit code {code};{note} its log, {log}, ends with:"
    assert lines[-len(last) :] == [f"    {line}" for line in last]
    assert last[-1] in log.read_text().splitlines()
    assert "result_val.json  " not in done.stdout


def test_a_build_that_fails_stops_the_run_and_moves_no_results(place):
    good(place, *KITTI)
    work = place / "my work"
    before = {k: v for k, v in contents(work).items() if not k.startswith("infer_310_logs")}
    done = run(place, *KITTI, FAKE_BUILD_CODE="2")
    assert_stopped(place, done, "build", 2, "building", "error: no compiler")
    assert contents(work).items() >= before.items()


@pytest.mark.parametrize("code", [2, 3, 4, 5, 6])
def test_the_exit_code_of_the_program_is_that_of_the_script(place, code):
    done = run(place, *KITTI, FAKE_CODE=str(code))
    assert_stopped(place, done, "infer", code, "line on stdout", "line on stderr")
    assert not (place / "my work/result_val.json").exists()
    assert (place / "my work/result_Files/Kitti/predictions.csv").exists(), "results so far"


def test_what_a_failed_run_predicted_takes_the_place_of_earlier_results(place):
    work = place / "my work"
    good(place, *KITTI)
    before = contents(work / "result_Files"), contents(work / "time_Result")
    run_json = place / "fake/Kitti/run.json"
    run_json.write_text(run_json.read_text().replace("CPU", "another"))
    assert run(place, *KITTI, FAKE_CODE="6").returncode == 6
    assert contents(work / "result_Files/Kitti") == contents(place / "fake/Kitti")
    assert [path.name for path in (work / "time_Result").iterdir()] == ["test_perform_static.txt"]
    (earlier,) = (work / "earlier").iterdir()
    assert (contents(earlier / "result_Files"), contents(earlier / "time_Result")) == before


@pytest.mark.parametrize(("arguments", "note"), [(KITTI, OF_BEFORE), (SINTEL, "")])
def test_a_mistake_that_the_program_sees_at_once_moves_no_results(place, arguments, note):
    good(place, *KITTI)
    work = place / "my work"
    before = {k: v for k, v in contents(work).items() if not k.startswith("infer_310_logs")}
    done = run(place, *arguments, FAKE_EARLY_CODE="3")
    assert_stopped(place, done, "infer", 3, "line on stdout", note=note)
    now = contents(work)
    assert {k: v for k, v in now.items() if not k.split("/")[0].startswith(("infer", "earl"))} == (
        before
    )
    (earlier,) = (work / "earlier").iterdir()
    assert [path.name for path in earlier.iterdir()] == ["infer_310_logs"]


def test_a_first_run_that_fails_at_once_leaves_its_logs_alone(place):
    done = run(place, *KITTI, FAKE_EARLY_CODE="3")
    assert_stopped(place, done, "infer", 3, "line on stdout")
    assert [path.name for path in (place / "my work").iterdir()] == ["infer_310_logs"]


def test_a_program_that_crashes_is_a_failing_stage(place):
    done = run(place, *KITTI, FAKE_SIGNAL="SEGV")
    assert done.returncode == 128 + 11
    assert "error: infer failed with exit code 139" in done.stderr
    assert not (place / "my work/result_val.json").exists()


def test_scores_that_fail_stop_the_run_and_keep_the_predictions(place):
    file = place / "fake/Kitti/one/image/0000000001.bin"
    file.write_bytes(b"abcd")
    done = run(place, *KITTI)
    here = place / "my work/result_Files/Kitti/one/image/0000000001.bin"
    last = (
        f"error: {here}: 20 x 12 values need 960 bytes, the file has 4; copy or download it again"
    )
    assert_stopped(place, done, "postprocess", 2, last)
    assert here.exists()


def test_scores_that_fail_are_not_taken_for_those_of_an_earlier_run(place):
    good(place, *KITTI)
    (place / "fake/Kitti/one/image/0000000001.bin").write_bytes(b"abcd")
    done = run(place, *KITTI)
    assert done.returncode == 2
    first = "error: postprocess failed with exit code 2;"
    assert done.stderr.startswith(f"{first}{OF_BEFORE} its log")
    assert json.loads((place / "my work/result_val.json").read_text()) == {"Kitti": 0}


def test_details_without_result_val_json_are_kept_too(place):
    good(place, *KITTI)
    work = place / "my work"
    before = contents(work / "result_val")
    (work / "result_val.json").unlink()
    good(place, *KITTI, "--upsampling", "bicubic")
    (earlier,) = (work / "earlier").iterdir()
    assert contents(earlier / "result_val") == before


@pytest.mark.parametrize("condition", ["True", "'--check' not in sys.argv"])
def test_a_crash_of_postprocess_is_not_taken_for_images_that_failed(place, photographs, condition):
    crash = f"import sys\nif {condition}:\n    raise RuntimeError('boom')\n"
    program = place / "the repo/postprocess.py"
    program.write_text(crash + program.read_text())
    for arguments in (KITTI, photographs):
        done = run(place, *arguments)
        assert done.returncode == 70
        assert "RuntimeError: boom" in done.stderr
        stage = "postprocess.py --check crashed" if condition == "True" else "postprocess failed"
        assert f"error: {stage}" in done.stderr


# --- Signals and the way out ----------------------------------------------------------------------


def session_members(session: int) -> list[str]:
    """The processes of a session that are alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, of = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state != "Z":
                found.append((folder / "cmdline").read_text())
        except OSError:  # it has just ended
            continue
    return found


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("HUP", 129), ("INT", 130)])
def test_a_signal_stops_the_stage_and_leaves_nothing_running(place, name, code):
    process = subprocess.Popen(
        command(place, *KITTI),
        cwd=place / "my work",
        env=environment(place, {"FAKE_STAY": "1"}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (place / "fake/ready").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(getattr(signal, f"SIG{name}"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors.startswith(f"error: infer failed with exit code {code}; its log, ")
    assert (place / "fake/got").read_text() == f"{name}\n"
    assert session_members(process.pid) == []
    work = place / "my work"
    assert contents(work / "result_Files/Kitti") == contents(place / "fake/Kitti")
    assert not (work / "result_val.json").exists()


@pytest.mark.parametrize("kind", ["closed", "full", "no reader"])
def test_nobody_needs_to_see_what_is_logged(place, kind):
    reader, writer = os.pipe()
    os.close(reader)
    redirection = {"closed": ">&-", "full": ">/dev/full", "no reader": f">&{writer}"}[kind]
    done = subprocess.run(
        ["bash", "-c", f'"$@" {redirection}', "bash", *command(place, *KITTI)],
        cwd=place / "my work",
        env=environment(place, {}),
        stderr=subprocess.PIPE,
        pass_fds=[writer],
        text=True,
        timeout=120,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    logs = place / "my work/infer_310_logs"
    assert (logs / "infer.log").read_text() == "line on stdout\nline on stderr\n"
    assert "\nKitti              3 " in (logs / "postprocess.log").read_text()


def test_a_log_that_cannot_be_written_is_an_error(place):
    done = run(place, *KITTI, FAKE_BLOCK="1")
    assert done.returncode == 5
    assert done.stderr.startswith(f"error: {place / 'my work'}: cannot be written; work in")
    assert done.stderr.count("\n") == 1


def test_images_that_failed_are_listed_and_the_exit_code_says_so(place):
    write_data(place, "Kitti", kept=2)
    done = run(place, *KITTI, FAKE_CODE="1")
    assert done.returncode == 1
    assert (
        done.stderr
        == "error: not all images are in these results: the logs name those that failed\n"
    )
    assert "Kitti: skipped one/0000000002: " in done.stdout
    assert done.stdout.endswith('result_val.json  {"Kitti": 0.0}\n')
    details = json.loads((place / "my work/result_val/results.json").read_text())
    assert (details["Kitti"]["images"], len(details["Kitti"]["skipped"])) == (2, 1)


def test_on_error_stop_holds_for_images_that_failed_too(place):
    write_data(place, "Kitti", kept=2)
    done = run(place, *KITTI, "--on_error", "stop", FAKE_CODE="1")
    assert done.returncode == 2
    assert "1 of 3 images have no prediction" in done.stderr
    assert not (place / "my work/result_val.json").exists()


def test_two_runs_do_not_work_in_one_folder(place):
    folder = os.open(place / "my work", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    done = run(place, *KITTI)
    os.close(folder)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: another run works in {place / 'my work'}: wait for it")
    assert not list((place / "my work").iterdir())
    good(place, *KITTI)


def test_a_folder_that_cannot_be_written_is_named(place):
    good(place, *KITTI)
    put(place / "my work/earlier", "a file where a folder must be")
    before = contents(place / "my work")
    done = run(place, *KITTI)
    assert done.returncode == 5
    assert done.stderr.startswith(f"error: {place / 'my work'}: cannot be written; work in")
    assert done.stderr.count("\n") == 1
    assert contents(place / "my work") == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("the data/Kitti/one/depth/0000000001.png", "{place}/the data/Kitti: incomplete, missing"),
        ("my work/result_val.json", "ann_file: {place}/my work/result_val.json exists and is no"),
    ],
)
def test_what_would_stop_the_scores_stops_before_the_network_computes(place, damage, message):
    put(place / damage, "mine")
    if "depth" in damage:
        (place / damage).unlink()
    before = contents(place / "my work")
    done = run(place, *KITTI)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message.format(place=place)}")
    assert contents(place / "my work") == before
    assert not (place / "fake/built").exists()


# --- Images without scores ------------------------------------------------------------------------


@pytest.fixture
def photographs(place) -> tuple[str, str, str]:
    """Two, with predictions; the arguments of the script."""
    predictions: list[Saved] = []
    for i, name in enumerate(("a.png", "b.png")):
        (place / "photographs").mkdir(exist_ok=True)
        (place / "photographs" / name).write_bytes(file_formats.png(random_image(i, SHAPE)))
        predictions.append((name, closest(np.full((6, 10), i + 1.0)), SHAPE))
    write_saved(place / "fake/images", predictions)
    return "../models/a model.onnx", "../photographs", "images"


def test_images_become_depth_maps(place, photographs):
    done = good(place, *photographs)
    work = place / "my work"
    assert sorted(contents(work / "result_depth")) == [
        *("a.pfm", "a.png", "a_depth.png", "b.pfm", "b.png", "b_depth.png")
    ]
    assert not (work / "result_val.json").exists()
    assert f"depth maps       {work}/result_depth\n" in done.stdout
    first = contents(work / "result_depth")
    good(place, *photographs)
    (earlier,) = (work / "earlier").iterdir()
    assert contents(earlier / "result_depth") == first


def test_an_image_that_failed_is_named_and_the_others_are_done(place, photographs):
    data = (place / "photographs/b.png").read_bytes()
    (place / "photographs/b.png").write_bytes(data[:-30])
    table = place / "fake/images/predictions.csv"
    table.write_text("".join(line for line in table.open() if not line.startswith("b.png")))
    done = run(place, *photographs, FAKE_CODE="1")
    assert done.returncode == 1
    assert (
        done.stderr
        == "error: not all images are in these results: the logs name those that failed\n"
    )
    names = sorted(contents(place / "my work/result_depth"))
    assert names == ["a.pfm", "a.png", "a_depth.png"]
    assert "b.png: truncated" in (place / "my work/infer_310_logs/postprocess.log").read_text()


# --- The program itself ---------------------------------------------------------------------------

SETS = {"Kitti": "Kitti_raw_data", "Sintel": "Sintel", "TUM": "TUM"}
METHODS = {"Kitti": "lower_bound", "Sintel": "upper_bound", "TUM": "upper_bound"}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, exported, exported_onnx, small_network) -> Path:
    """Rendered sets, and beside each other the results of midas_eval.py and of the program."""
    missing = [tool for tool in ("cmake", "make", "g++") if not shutil.which(tool)]
    assert not missing, f"missing: {missing}; {SETUP}"
    pytest.importorskip("mitsuba", reason="the demo extra is not installed")
    place = tmp_path_factory.mktemp("a place")
    repo = copy_script(place / "repo")
    copy_source(repo)  # the build leaves the repository as it is
    network = {key: list(v) if key == "layers" else v for key, v in small_network.items()}
    put(place / "small.yaml", yaml.safe_dump(network | {"train_data_dir": "data"}))
    (place / "eval").mkdir()
    (place / "work").mkdir()
    render = (
        "--output",
        "data",
        "--sets",
        ",".join(SETS.values()),
        "--test",
        "2",
        "--samples",
        "4",
    )
    evaluate = ("--config_path", "small.yaml", "--ckpt_path", exported.ckpt)
    sets = ("--data_name", ",".join(SETS), "--ann_file", "eval/val.json")
    for program in (
        ("preprocess/render_scenes.py", *render),
        ("midas_eval.py", *evaluate, *sets),
    ):
        checked([sys.executable, REPOSITORY / program[0], *program[1:]], place)
    for name, folder in SETS.items():
        script = ("bash", repo / "scripts/run_infer_310.sh", exported_onnx)
        checked([*script, f"../data/{folder}", name, "--batch_size", "2"], place / "work")
    return place


def checked(words: list[object], folder: Path) -> None:
    done = subprocess.run(
        list(map(str, words)),
        cwd=folder,
        env=os.environ | {"MIDAS_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_program_scores_what_midas_eval_scores(evaluated):
    """Every number within 0.1 %."""
    expected = json.loads((evaluated / "eval/val.json").read_text())
    found = json.loads((evaluated / "work/result_val.json").read_text())
    assert list(found) == list(SETS)
    assert all(expected.values())
    assert found == pytest.approx(expected, rel=1e-3)
    means, others = (
        {name: entry["means"] for name, entry in json.loads(file.read_text()).items()}
        for file in (
            evaluated / "eval/val/results.json",
            evaluated / "work/result_val/results.json",
        )
    )
    for name in SETS:
        assert others[name] == pytest.approx(means[name], rel=1e-3)


@pytest.mark.parametrize("name", SETS)
def test_the_program_predicts_what_the_checkpoint_predicts(
    evaluated, exported, small_network, name
):
    """Each image within 1e-3 of its prediction's range."""
    predictor = Predictor(
        exported.ckpt, small_network, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    rule = ResizeRule(384, 384, method=METHODS[name])
    folder = evaluated / "work/result_Files" / name
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        image = read_image(evaluated / "data" / SETS[name] / row["image"], upright=False)
        assert image.shape[:2] == (int(row["image_height"]), int(row["image_width"]))
        expected = predictor.run([predictor.prepare(image, rule)])[0]
        assert expected.shape == (int(row["height"]), int(row["width"]))
        found = np.fromfile(folder / row["file"], "<f4").reshape(expected.shape)
        assert np.ptp(expected) > 0
        assert np.abs(found - expected).max() <= 1e-3 * np.ptp(expected)
