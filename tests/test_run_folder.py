"""Run folders: which one is continued, from which checkpoint, and what a killed run left in it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from src import checkpoint, run_folder
from src.errors import UserError
from src.run_folder import Checkpoints

METRICS = "epoch,step,loss\n1,1,0.5\n1,2,0.25\n1,3,0.125\n2,1,0.0625\n"


def put(path: Path, content: str, time: float | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    if time is not None:
        os.utime(path, (time, time))
    return path


def make_run(path: Path, time: float | None = None) -> Path:
    """A run folder as the module's documentation draws it; `time` is when it was last written."""
    (path / "ckpt/resume").mkdir(parents=True)
    for name, content in {
        "config.yaml": "seed: 0\n",
        "train.log": "",
        "metrics.csv": "epoch\n",
    }.items():
        put(path / name, content, time)
    if time is not None:
        os.utime(path, (time, time))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def network(value: float) -> nn.Cell:
    """Weights float32 [2000], all of this value: large beside what a file holds beside them."""
    cell = nn.Cell()
    cell.weight = ms.Parameter(ms.Tensor(np.full(2000, value, np.float32)), name="weight")
    return cell


def save(run: Path, *positions: tuple[int, int], keep: int = 99) -> Checkpoints:
    """Checkpoints whose weights, state and facts are all epoch + step / 100."""
    checkpoints = Checkpoints(run, keep)
    for epoch, step in positions:
        value = epoch + step / 100
        state = {"moment1.weight": np.full(3, value, np.float32), "counter": np.int32(step)}
        checkpoints.save(network(value), epoch, step, state, {"value": value, "who": "Zoë"})
    return checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- A new folder ---------------------------------------------------------------------------------


def write_config(path: Path) -> None:
    path.write_text("seed: 0\n")


def test_a_new_run_has_its_name_its_configuration_and_room_for_checkpoints(tmp_path):
    run_path = tmp_path / "not/there/yet"
    run = run_folder.create(run_path, "mine", write_config)
    assert run == run_path / "mine"
    assert list(run_path.iterdir()) == [run]
    assert (run / "config.yaml").read_text() == "seed: 0\n"
    assert (run / "ckpt/resume").is_dir()
    assert run_folder.find(run_path, "") == run


def test_a_run_that_cannot_be_made_whole_is_not_there(tmp_path):
    def fail(path: Path) -> None:
        path.write_text("seed")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"run_path: cannot create .*mine: No space left") as error:
        run_folder.create(tmp_path, "mine", fail)
    assert str(tmp_path / "mine") in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_taken_for_a_new_run(tmp_path):
    put(tmp_path / "mine/notes.txt", "mine")
    with pytest.raises(UserError, match="exists and is not overwritten") as error:
        run_folder.create(tmp_path, "mine", write_config)
    assert str(tmp_path / "mine") in str(error.value)
    assert content(tmp_path) == {"mine/notes.txt": b"mine"}


# --- Which run is continued -----------------------------------------------------------------------


def test_the_run_that_wrote_last_is_found_whatever_its_name(tmp_path):
    make_run(tmp_path / "z-oldest", time=1000)
    newest = make_run(tmp_path / "b", time=3000)
    make_run(tmp_path / "c-made-last", time=2000)
    assert run_folder.find(tmp_path, "") == newest


@pytest.mark.parametrize("name", ["train.log", "metrics.csv", "validation.csv", "worker_1.log"])
def test_a_run_that_only_continued_a_file_wrote_last(tmp_path, name):
    """Its folder's own time does not change by that."""
    older = make_run(tmp_path / "older", time=1000)
    put(older / name, "")
    os.utime(older, (1000, 1000))
    os.utime(older / name, (3000, 3000))
    make_run(tmp_path / "newer", time=2000)
    assert run_folder.find(tmp_path, "") == older


def test_the_run_of_a_name_is_found_though_another_wrote_last(tmp_path):
    asked = make_run(tmp_path / "asked", time=1000)
    make_run(tmp_path / "newer", time=2000)
    assert run_folder.find(tmp_path, "asked") == asked


def test_what_is_no_run_is_passed_over(tmp_path):
    """A folder of an evaluation, one without checkpoints, one without configuration, a file."""
    run = make_run(tmp_path / "run", time=1000)
    put(tmp_path / "val/config.yaml", "")
    put(tmp_path / "weights/ckpt/Midas_0-1_1.ckpt", "")
    (tmp_path / "half/ckpt/resume").mkdir(parents=True)
    put(tmp_path / "notes.txt", "")
    assert run_folder.find(tmp_path, "") == run


@pytest.mark.parametrize("name", ["", "mine"])
def test_no_run_is_none(tmp_path, name):
    assert run_folder.find(tmp_path, name) is None
    assert run_folder.find(tmp_path / "not there", name) is None


def test_a_name_that_another_folder_has_is_told(tmp_path):
    put(tmp_path / "mine/notes.txt", "")
    with pytest.raises(UserError, match=r"^run_name: .*mine is there, but is no training run"):
        run_folder.find(tmp_path, "mine")


def test_the_run_of_a_checkpoint_is_two_folders_up(run, monkeypatch):
    file = put(run / "ckpt/Midas_0-12_345.ckpt", "")
    assert run_folder.run_of(file) == run
    monkeypatch.chdir(run / "ckpt")
    assert run_folder.run_of(Path(file.name)).resolve() == run


@pytest.mark.parametrize(
    "name",
    [
        *("ckpt/best.ckpt", "ckpt/Midas_1-1_1.ckpt", "ckpt/Midas_0-1_1.ckpt.bak"),
        *("ckpt/resume/Midas_0-1_1.ckpt", "ckpt/aside-x/Midas_0-1_1.ckpt", "Midas_0-1_1.ckpt"),
    ],
)
def test_another_file_has_no_run_to_continue(run, name):
    file = put(run / name, "")
    with pytest.raises(UserError, match="give them as --model_weights") as error:
        run_folder.run_of(file)
    assert str(file) in str(error.value)


def test_a_checkpoint_that_is_not_there_is_named(run):
    with pytest.raises(UserError, match=r"^resume: .*Midas_0-1_1\.ckpt: no such file"):
        run_folder.run_of(run / "ckpt/Midas_0-1_1.ckpt")


# --- Saving and loading ---------------------------------------------------------------------------


def test_a_checkpoint_comes_back_bit_for_bit(run):
    save(run, (3, 7))
    state = {"moment1.weight": np.float32([0.1, -0.0, 1e-40, 3e38]), "counter": np.int32(7)}
    facts = {"done": 31, "best": None, "list": [0.1, "ä"], "nested": {"key": True}}
    Checkpoints(run, 1).save(network(0.1), 3, 8, state, facts)
    snapshot = Checkpoints(run, 1).load(run / "ckpt/Midas_0-3_8.ckpt")
    assert (snapshot.epoch, snapshot.step) == (3, 8)
    assert snapshot.facts == facts
    assert snapshot.weights.keys() == {"weight"}
    weights = snapshot.weights["weight"].asnumpy()
    assert weights.tobytes() == np.full(2000, 0.1, np.float32).tobytes()
    assert {name: value.asnumpy().tobytes() for name, value in snapshot.state.items()} == {
        name: np.asarray(value).tobytes() for name, value in state.items()
    }
    assert snapshot.state["counter"].dtype == ms.int32


def test_checkpoints_are_in_the_order_of_the_training_and_the_oldest_go(run):
    """Epoch 10 is after epoch 9, step 10 after step 9; text would have it the other way."""
    put(run / "ckpt/best.ckpt", "best")
    put(run / "ckpt/notes.txt", "mine")
    put(run / "ckpt/Midas_1-1_1.ckpt", "of another rank")
    put(run / "ckpt/Midas_0-mine.ckpt", "a copy")
    save(run, (9, 9), (9, 10), (10, 1), (10, 2), keep=3)
    kept = ["Midas_0-9_10.ckpt", "Midas_0-10_1.ckpt", "Midas_0-10_2.ckpt"]
    assert [path.name for path in Checkpoints(run, 3).paths()] == kept
    assert names(run / "ckpt/resume") == sorted(kept)
    others = ["Midas_0-mine.ckpt", "Midas_1-1_1.ckpt", "best.ckpt", "notes.txt", "resume"]
    assert names(run / "ckpt") == sorted([*kept, *others])


def test_the_best_weights_are_apart_and_replaced(run):
    checkpoints = save(run, (1, 1), keep=1)
    for value in (0.25, 0.75):
        checkpoints.save_best(network(value))
    checkpoints = save(run, (1, 2), keep=1)
    best = ms.load_checkpoint(str(run / "ckpt/best.ckpt"))
    assert best["weight"].asnumpy().tolist() == [0.75] * 2000
    assert [path.name for path in checkpoints.paths()] == ["Midas_0-1_2.ckpt"]


def test_a_run_without_checkpoints_has_no_newest(run):
    assert Checkpoints(run, 1).paths() == []
    assert Checkpoints(run, 1).newest() is None


# --- Damage ---------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """The lowest bit of a byte among the values in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zero(path: Path) -> None:
    """What some file systems leave of a file after a power cut."""
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = [flip, truncate, empty, zero, Path.unlink]
PARTS = ["ckpt", "ckpt/resume"]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("part", PARTS)
def test_a_damaged_newest_is_named_and_the_one_before_used(run, caplog, part, damage):
    checkpoints = save(run, (1, 1), (1, 2), (2, 1))
    file = run / part / "Midas_0-2_1.ckpt"
    damage(file)
    assert checkpoints.newest() == run / "ckpt/Midas_0-1_2.ckpt"
    if (part, damage) == ("ckpt", Path.unlink):  # as a kill between the two files leaves it
        assert caplog.records == []
    else:
        (message,) = caplog.messages
        assert str(file) in message
        assert message.endswith("trying the one before")
        assert "\n" not in message


@pytest.mark.parametrize("damage", DAMAGES[:-1], ids=lambda damage: damage.__name__)
def test_two_damaged_ones_are_both_named(run, caplog, damage):
    checkpoints = save(run, (1, 1), (1, 2), (2, 1))
    damage(run / "ckpt/Midas_0-2_1.ckpt")
    damage(run / "ckpt/resume/Midas_0-1_2.ckpt")
    assert checkpoints.newest() == run / "ckpt/Midas_0-1_1.ckpt"
    assert ["Midas_0-2_1" in caplog.messages[0], "Midas_0-1_2" in caplog.messages[1]] == [True] * 2


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again(run):
    checkpoints = save(run, (1, 1), (1, 2))
    flip(run / "ckpt/Midas_0-1_1.ckpt")
    (run / "ckpt/resume/Midas_0-1_2.ckpt").unlink()
    with pytest.raises(UserError, match=r"no checkpoint in .*ckpt can be read") as error:
        checkpoints.newest()
    assert str(run) in str(error.value)


def test_weights_without_a_resume_file_are_named_with_it(run):
    checkpoints = save(run, (1, 1))
    weights, resume = run / "ckpt/Midas_0-1_1.ckpt", run / "ckpt/resume/Midas_0-1_1.ckpt"
    resume.unlink()
    with pytest.raises(UserError) as error:
        checkpoints.load(weights)
    assert str(error.value) == f"{weights}: cannot be resumed from: {resume} is missing"


def test_a_resume_file_that_another_program_wrote_is_named(run):
    checkpoints = save(run, (1, 1))
    resume = run / "ckpt/resume/Midas_0-1_1.ckpt"
    checkpoint.save(network(1), resume)
    with pytest.raises(UserError, match="not written by a training run") as error:
        checkpoints.load(run / "ckpt/Midas_0-1_1.ckpt")
    assert str(resume) in str(error.value)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program catches it."""


def die_in(step: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second file of a checkpoint be left as a kill within `step` leaves it."""
    real, written = checkpoint.whole_file, []

    def whole_file(path: Path):
        written.append(path)
        if len(written) == 2:
            step(path)
            raise Killed
        return real(path)

    monkeypatch.setattr(checkpoint, "whole_file", whole_file)


def half_a_file(path: Path) -> None:
    put(path.parent / f".{path.stem}.x3kq9" / path.name, "half of the weigh")


@pytest.mark.parametrize("left", [lambda path: None, half_a_file], ids=["before", "within"])
def test_a_kill_between_the_two_files_leaves_the_checkpoint_before(run, caplog, monkeypatch, left):
    checkpoints = save(run, (1, 1), keep=1)
    before = content(run / "ckpt")
    die_in(left, monkeypatch)
    with pytest.raises(Killed):
        save(run, (1, 2), keep=1)
    monkeypatch.undo()
    newest = checkpoints.newest()
    assert newest == run / "ckpt/Midas_0-1_1.ckpt"
    assert caplog.records == []  # that is no damage
    assert content(run / "ckpt").items() >= before.items()
    checkpoints.rewind(1, 1)
    assert content(run / "ckpt") == before
    assert checkpoints.load(newest).facts["value"] == 1.01
    save(run, (1, 2), keep=1)  # the step is done again
    assert names(run / "ckpt") == ["Midas_0-1_2.ckpt", "resume"]
    assert names(run / "ckpt/resume") == ["Midas_0-1_2.ckpt"]
    assert checkpoints.load(run / "ckpt/Midas_0-1_2.ckpt").facts["value"] == 1.02


# --- Going back -----------------------------------------------------------------------------------


def test_later_checkpoints_go_aside_with_the_tables_as_they_were(run):
    put(run / "metrics.csv", METRICS)
    put(run / "validation.csv", "epoch,step,loss\n1,3,0.5\n2,1,0.25\n")
    checkpoints = save(run, (1, 2), (1, 3), (2, 1))
    before = content(run)
    checkpoints.rewind(1, 2)
    assert (run / "metrics.csv").read_text() == "epoch,step,loss\n1,1,0.5\n1,2,0.25\n"
    assert (run / "validation.csv").read_text() == "epoch,step,loss\n"
    (aside,) = (run / "ckpt").glob("aside-*")
    moved = [f"{part}Midas_0-{at}.ckpt" for part in ("", "resume/") for at in ("1_3", "2_1")]
    assert content(aside) == {
        **{name: before[f"ckpt/{name}"] for name in moved},
        **{name: before[name] for name in ("metrics.csv", "validation.csv")},
    }
    assert names(run / "ckpt") == ["Midas_0-1_2.ckpt", aside.name, "resume"]
    assert names(run / "ckpt/resume") == ["Midas_0-1_2.ckpt"]
    assert checkpoints.newest() == run / "ckpt/Midas_0-1_2.ckpt"


def test_nothing_goes_aside_where_nothing_is_later(run):
    put(run / "metrics.csv", METRICS)
    checkpoints = save(run, (1, 2), (1, 3))
    before = content(run)
    checkpoints.rewind(1, 3)
    assert content(run) == before | {"metrics.csv": METRICS[: METRICS.index("2,1")].encode()}


def test_a_run_begins_again_with_empty_tables_and_all_checkpoints_aside(run):
    put(run / "metrics.csv", METRICS)
    checkpoints = save(run, (1, 1), (2, 1))
    checkpoints.rewind(0, 0)
    assert (run / "metrics.csv").read_text() == "epoch,step,loss\n"
    assert checkpoints.paths() == []
    (aside,) = (run / "ckpt").glob("aside-*")
    assert (aside / "metrics.csv").read_text() == METRICS


def test_going_back_twice_keeps_what_went_aside_first(run):
    checkpoints = save(run, (1, 1), (1, 2))
    checkpoints.rewind(1, 1)
    first = content(run / "ckpt")
    save(run, (1, 2))
    checkpoints.rewind(1, 1)
    assert content(run / "ckpt").items() >= first.items()
    assert len(list((run / "ckpt").glob("aside-*"))) == 2


def test_a_damaged_one_goes_aside_in_whatever_parts_are_left(run):
    """So it does not count among those that are kept when the run comes to that step again."""
    checkpoints = save(run, (1, 1), (1, 2), (1, 3))
    flip(run / "ckpt/Midas_0-1_2.ckpt")
    (run / "ckpt/resume/Midas_0-1_3.ckpt").unlink()
    before = content(run / "ckpt")
    checkpoints.rewind(1, 1)
    (aside,) = (run / "ckpt").glob("aside-*")
    moved = ["Midas_0-1_2.ckpt", "Midas_0-1_3.ckpt", "resume/Midas_0-1_2.ckpt"]
    tables = {"metrics.csv": b"epoch\n"}
    assert content(aside) == {name: before[name] for name in moved} | tables
    assert names(run / "ckpt") == ["Midas_0-1_1.ckpt", aside.name, "resume"]


@pytest.mark.parametrize(
    ("table", "kept"),
    [
        ("epoch,step,loss\n1,1,0.5\n1,2,0.25\n1,3,0.1", "epoch,step,loss\n1,1,0.5\n1,2,0.25\n"),
        ("epoch,step,loss\n1,1,0.5\n1,", "epoch,step,loss\n1,1,0.5\n"),
        ("epoch,step,loss\n1,1,0.5\n1", "epoch,step,loss\n1,1,0.5\n"),
        ("epoch,step,loss\n1,1,0.5\n\0\0\0\0", "epoch,step,loss\n1,1,0.5\n"),
        ("epoch,st", ""),  # the header is written anew
        ("", ""),
    ],
)
def test_a_half_written_last_line_goes(run, table, kept):
    put(run / "metrics.csv", table)
    Checkpoints(run, 1).rewind(1, 3)
    assert (run / "metrics.csv").read_text() == kept


def test_rows_go_by_number(run):
    """Epoch 10 is after epoch 9, and step 10 after step 9."""
    rows = ["epoch,step,loss\n", *(f"9,{step},0.5\n" for step in range(1, 13)), "10,1,0.5\n"]
    put(run / "metrics.csv", "".join(rows))
    Checkpoints(run, 1).rewind(9, 11)
    assert (run / "metrics.csv").read_text() == "".join(rows[:12])


@pytest.mark.parametrize("row", ["one,two,0.5\n", "1\n", "\n", "1.0,1.0,0.5\n"])
def test_a_table_that_somebody_changed_is_told_in_one_line(run, row):
    table = put(run / "metrics.csv", f"epoch,step,loss\n{row}1,2,0.5\n")
    with pytest.raises(UserError, match=r"metrics\.csv: .*move it away") as error:
        Checkpoints(run, 1).rewind(1, 2)
    assert "\n" not in str(error.value)
    assert table.read_text() == f"epoch,step,loss\n{row}1,2,0.5\n"


def test_what_a_killed_save_left_is_removed_and_nothing_else(run):
    save(run, (1, 1))
    mine = ["ckpt/notes.txt", "ckpt/best.ckpt", "ckpt/Midas_best/a.ckpt", "ckpt/.mine/a.ckpt"]
    mine += ["ckpt/resume/notes.txt", "ckpt/resume/Midas_0-1_1.ckpt.bak", ".git"]
    mine += ["ckpt/Midas_1-1_2.ckpt", "ckpt/resume/Midas_1-1_2.ckpt", "ckpt/old.Midas_0-1_1.ckpt"]
    for name in mine:
        put(run / name, name)
    before = content(run)
    for name in (
        "ckpt/.Midas_0-1_2.ab3/Midas_0-1_2.ckpt",
        "ckpt/resume/.Midas_0-1_2.yz_/Midas_0-1_2.ckpt",
        "ckpt/.best.k2q/best.ckpt",
        "ckpt/resume/Midas_0-1_2.ckpt",  # whose weights were not written, or are removed
    ):
        put(run / name, "half")
    Checkpoints(run, 1).rewind(1, 1)
    assert content(run) == before
    assert [path.name for path in run.rglob(".*")] == [".git", ".mine"]
