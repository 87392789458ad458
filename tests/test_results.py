"""The files of an evaluation: exact, whole, mergeable, and never over something else."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.errors import UserError
from src.results import ResultFiles
from src.summary import Result, Row
from tests.limits import file_size_limit

DEPTH = ("abs_rel", "rmse", "log10", "silog", "delta1", "delta2", "delta3")
DEPTH += ("bad_pixel_percent", "row_abs_rel")
HEADER = (
    "benchmark,id,height,width,skipped,abs_rel,rmse,log10,silog,delta1,delta2,delta3,"
    "bad_pixel_percent,row_abs_rel,whdr,row_whdr"
)
SETTINGS = {
    "checkpoint": "a.ckpt",
    "checkpoint_sha256": "f00d",
    "dataset": "/data/Kitti",
    "network_size": "384",
    "upsampling": "bilinear",
    "cap_m": 80.0,
}
BOUNDED = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
ODD_IDS = ["a,b", 'say "hi"', "Straße/Grün", "日本/é", "  spaces ", "'", "", '"', ",", "a;b\tc"]


def depth_row(id_: str, seed: int = 0) -> Row:
    values = np.random.default_rng(seed).random(len(DEPTH))
    return Row(id_, 12, 16, dict(zip(DEPTH, map(float, values), strict=True)))


def result(name: str, metric: str = "abs_rel", error: float = 0.25, images: int = 2) -> Result:
    return Result(name, metric, {metric: error, "row_abs_rel": 0.5}, images, [], SETTINGS)


@pytest.fixture
def files(tmp_path) -> ResultFiles:
    """Those of tmp_path/val.json, with a benchmark Kitti under way."""
    files = ResultFiles(tmp_path / "val.json")
    files.prepare("Kitti", SETTINGS, 2, resume=False)
    return files


def add(files: ResultFiles, rows: list[Row], rank: int = 0, name: str = "Kitti") -> Path:
    with files.append(name, rank) as writer:
        for row in rows:
            writer.add(row)
    return files.partial / f"{name}-{rank}.csv"


def cells(files: ResultFiles) -> list[list[str]]:
    """results.csv without its header."""
    with (files.folder / "results.csv").open(
        newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        header, *rows = csv.reader(file)
    assert ",".join(header) == HEADER
    return rows


# --- Rows ----------------------------------------------------------------------------------------


@BOUNDED
@given(
    numbers=st.lists(st.floats(allow_nan=False), min_size=len(DEPTH), max_size=len(DEPTH)),
    id_=st.text(st.characters(blacklist_categories=("Cs", "Cc"))),
)
def test_a_row_comes_back_with_every_bit(files, numbers, id_):
    row = Row(id_, 12, 16, dict(zip(DEPTH, numbers, strict=True)))
    path = add(files, [row])
    (read,) = files.rows("Kitti").values()
    path.unlink()
    assert read == row
    assert [np.float64(n).tobytes() for n in read.errors.values()] == [
        np.float64(n).tobytes() for n in numbers
    ]


def test_rows_of_all_kinds_and_odd_names_come_back_from_all_processes(files):
    rows = [depth_row(id_, seed) for seed, id_ in enumerate(ODD_IDS)]
    rows.append(Row("points", 3, 4, {"whdr": 1.0, "row_whdr": 0.0}))
    rows.append(Row("bad", 0, 0, {}, 'a.png: "truncated", or damaged: größer'))
    add(files, rows[::2], rank=0)
    add(files, rows[1::2], rank=1)
    assert files.rows("Kitti") == {row.id: row for row in rows}
    assert files.rows("Sintel") == {}


def test_rows_are_on_disk_as_soon_as_they_are_added(files):
    with files.append("Kitti", 0) as writer:
        for count in range(1, 4):
            writer.add(depth_row(f"drive/{count}"))
            other = ResultFiles(files.ann_file)
            assert len(other.rows("Kitti")) == count


def test_a_row_that_was_cut_anywhere_is_dropped_and_done_again(files):
    """The last row's name has letters of two and three bytes and a comma."""
    first, last = depth_row("a", 1), depth_row("Grün, 日本", 2)
    whole = add(files, [first, last]).read_bytes()
    path = files.partial / "Kitti-0.csv"
    (start,) = [i + 1 for i, byte in enumerate(whole[:-1]) if byte == ord("\n")]
    assert whole.count(b"\n") == 2
    for length in range(start, len(whole)):
        path.write_bytes(whole[:length])
        assert files.rows("Kitti") == {"a": first}, length
        add(files, [last])
        assert path.read_bytes() == whole


def test_a_first_row_that_was_cut_is_dropped_too(files):
    path = add(files, [depth_row("a")])
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert files.rows("Kitti") == {}
    add(files, [depth_row("a")])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("left", [0, 1, 100])
def test_a_row_that_is_not_written_whole_is_told_in_one_line(files, left):
    """The operating system takes what there is room for, and complains only the next time."""
    path = add(files, [depth_row("a")])
    error = pytest.raises(UserError, match=r"Kitti-0\.csv: cannot be written \(.+\)")
    with file_size_limit(path.stat().st_size + left), error:
        add(files, [depth_row("b")])
    add(files, [depth_row("b")])
    assert list(files.rows("Kitti")) == ["a", "b"]


def test_names_of_files_that_are_no_text_do_not_stop_an_evaluation(files):
    """On Linux a name is bytes; Python keeps those that are no UTF-8 as lone surrogates."""
    id_ = os.fsdecode(b"drive/\xff\xfe")
    add(files, [depth_row(id_)])
    rows = files.rows("Kitti")
    assert list(rows) == [id_]
    files.finish(result("Kitti", images=1), list(rows.values()), [])
    assert len(cells(files)) == 1


# --- Begin, go on, start anew --------------------------------------------------------------------


def test_a_new_evaluation_drops_the_rows_of_an_interrupted_one(files):
    add(files, [depth_row("a")])
    files.mark_done("Kitti", 0)
    files.prepare("Kitti", SETTINGS | {"cap_m": 10.0}, 2, resume=False)
    assert files.rows("Kitti") == {}
    assert files.settings("Kitti") == SETTINGS | {"cap_m": 10.0}
    assert [path.name for path in files.partial.iterdir()] == ["Kitti.json"]


def test_a_new_evaluation_leaves_the_rows_of_other_benchmarks(files):
    files.prepare("Sintel", SETTINGS, 2, resume=False)
    add(files, [depth_row("s")], name="Sintel")
    files.prepare("Kitti", SETTINGS, 2, resume=False)
    assert list(files.rows("Sintel")) == ["s"]
    assert files.is_open("Sintel")


def test_what_goes_on_keeps_its_rows_but_nobody_has_finished_yet(files):
    add(files, [depth_row("a")], rank=1)
    files.mark_done("Kitti", 1)
    later = ResultFiles(files.ann_file)
    later.prepare("Kitti", dict(SETTINGS), 2, resume=True)
    assert list(later.rows("Kitti")) == ["a"]
    assert later.is_open("Kitti")
    assert not list(files.partial.glob("*.done"))


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"checkpoint_sha256": "beef"}, ["checkpoint_sha256", "'f00d'", "'beef'"]),
        ({"upsampling": "bicubic"}, ["upsampling", "'bilinear'", "'bicubic'"]),
        ({"network_size": "256"}, ["network_size", "'384'", "'256'"]),
        ({"cap_m": 70.0}, ["cap_m", "80.0", "70.0"]),
        ({"occluded_pixels": "excluded"}, ["occluded_pixels", "None", "'excluded'"]),
    ],
)
def test_other_settings_are_not_resumed_and_the_key_is_named(files, complete, change, parts):
    add(files, [depth_row("a")])
    if complete:
        files.finish(result("Kitti"), [depth_row("a")], [])
    before = {path: path.read_bytes() for path in files.folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        ResultFiles(files.ann_file).prepare("Kitti", SETTINGS | change, 2, resume=True)
    text = str(caught.value)
    assert text.startswith("resume: ")
    assert "\n" not in text
    assert all(part in text for part in parts)
    assert before == {p: p.read_bytes() for p in files.folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("complete", [False, True])
def test_the_same_checkpoint_elsewhere_is_resumed_and_another_data_set_is_not(files, complete):
    add(files, [depth_row("a")])
    if complete:
        files.finish(result("Kitti"), [depth_row("a")], [])
    moved = SETTINGS | {"checkpoint": "/elsewhere/b.ckpt"}
    later = ResultFiles(files.ann_file)
    later.prepare("Kitti", moved, 2, resume=True)
    assert later.is_open("Kitti") != complete
    with pytest.raises(UserError, match="dataset"):  # its images may be others of the same names
        later.prepare("Kitti", moved | {"dataset": "/mnt/Kitti"}, 2, resume=True)


def test_what_is_complete_is_not_opened_again_unless_anew(files):
    files.finish(result("Kitti"), [depth_row("a")], [])
    assert not files.is_open("Kitti")
    later = ResultFiles(files.ann_file)
    later.prepare("Kitti", SETTINGS, 2, resume=True)
    assert not later.is_open("Kitti")
    assert not later.partial.exists()
    later.prepare("Kitti", SETTINGS, 2, resume=False)
    assert later.is_open("Kitti")
    assert json.loads(files.ann_file.read_text()) == {"Kitti": 0.25}, "until there is a new one"


@pytest.mark.parametrize("images", [1, 3])
def test_what_was_complete_is_done_again_for_another_number_of_images(files, images):
    files.finish(result("Kitti"), [depth_row("a"), depth_row("b")], [])
    later = ResultFiles(files.ann_file)
    later.prepare("Kitti", SETTINGS, images, resume=True)
    assert later.is_open("Kitti")
    assert list(later.rows("Kitti")) == ["a", "b"]


def test_what_was_complete_but_for_skipped_images_tries_those_again(files):
    one = Result("Kitti", "abs_rel", {"abs_rel": 0.5}, 1, [("b", "damaged")], SETTINGS)
    files.finish(one, [depth_row("a"), Row("b", 0, 0, {}, "damaged")], [])
    later = ResultFiles(files.ann_file)
    later.prepare("Kitti", SETTINGS, 2, resume=True)
    assert later.is_open("Kitti")
    assert list(later.rows("Kitti")) == ["a"]


def test_two_evaluations_at_once_are_kept_apart(files):
    other = ResultFiles(files.ann_file)
    refused = pytest.raises(UserError, match="another evaluation writes to")
    with files.locked(), refused, other.locked():
        pass
    with ResultFiles(files.ann_file).locked():  # free again
        pass


def test_details_do_not_go_into_a_folder_of_other_files(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/photograph.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="holds other files"):
        ResultFiles(tmp_path / "data.json")


def test_a_second_evaluation_that_was_interrupted_goes_on_by_its_own_settings(files):
    files.finish(result("Kitti"), [depth_row("a")], [])
    bicubic = SETTINGS | {"upsampling": "bicubic"}
    ResultFiles(files.ann_file).prepare("Kitti", bicubic, 2, resume=False)
    later = ResultFiles(files.ann_file)
    later.prepare("Kitti", bicubic, 2, resume=True)
    assert later.is_open("Kitti")
    with pytest.raises(UserError, match="upsampling"):
        later.prepare("Kitti", SETTINGS, 2, resume=True)


def test_waiting_ends_when_all_processes_have_finished(files, monkeypatch):
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        assert len(naps) < 4
        if len(naps) == 3:
            files.mark_done("Kitti", 1)

    monkeypatch.setattr("src.results.time.sleep", nap)
    files.mark_done("Kitti", 0)
    files.mark_done("Kitti", 2)
    files.wait("Kitti", ranks=3)
    assert len(naps) == 3
    assert 0 < naps[0] <= 1


# --- The results ---------------------------------------------------------------------------------


def test_val_json_has_the_format_of_the_original(files):
    for name, metric, error in [
        ("Kitti", "bad_pixel_percent", 24.222),
        ("Sintel", "abs_rel", 0.323),
        ("TUM", "bad_pixel_percent", 15.08),
    ]:
        files.prepare(name, SETTINGS, 2, resume=False)
        files.finish(result(name, metric, error), [depth_row("a")], [])
    text = files.ann_file.read_text()
    assert text.strip() == '{"Kitti": 24.222, "Sintel": 0.323, "TUM": 15.08}'


def test_val_json_is_rounded_and_results_json_is_not(files):
    files.finish(result("Kitti", error=1 / 3), [depth_row("a")], [])
    assert json.loads(files.ann_file.read_text()) == {"Kitti": 0.333333}
    details = json.loads((files.folder / "results.json").read_text())
    assert details["Kitti"]["error"] == 1 / 3


def test_results_json_says_everything(files):
    skipped = [("b", "b.png: truncated")]
    means = {"abs_rel": 0.1, "rmse": 5.0}
    panels = [{"rank": "best", "id": "a", "error": 0.1, "pictures": []}]
    one = Result("Kitti", "abs_rel", means, 1, skipped, SETTINGS)
    files.finish(one, [depth_row("a"), Row("b", 0, 0, {}, "b.png: truncated")], panels)
    assert json.loads((files.folder / "results.json").read_text()) == {
        "Kitti": {
            "metric": "abs_rel",
            "error": 0.1,
            "images": 1,
            "means": means,
            "settings": SETTINGS,
            "skipped": [{"id": "b", "reason": "b.png: truncated"}],
            "panels": panels,
        }
    }
    assert files.result("Kitti") == one
    assert ResultFiles(files.ann_file).result("Kitti") == one


def test_results_csv_has_a_row_for_each_image_in_the_given_order(files):
    rows = [
        depth_row('drive/"2", ü', 1),
        Row("drive/1", 0, 0, {}, "a.png: truncated, or damaged"),
        Row("drive/0", 3, 4, {"whdr": 1.0, "row_whdr": 0.0}),
    ]
    files.finish(result("Kitti"), rows, [])
    first, second, third = cells(files)
    assert first[:5] == ["Kitti", 'drive/"2", ü', "12", "16", ""]
    assert [float(cell) for cell in first[5:14]] == list(rows[0].errors.values())
    assert first[14:] == ["", ""]
    assert second == ["Kitti", "drive/1", "0", "0", "a.png: truncated, or damaged", *[""] * 11]
    assert third == ["Kitti", "drive/0", "3", "4", "", *[""] * 9, "1.0", "0.0"]


def panel(error: float) -> dict[str, object]:
    return {"rank": "best", "id": "k", "error": error, "pictures": []}


def test_results_of_other_benchmarks_stay_and_an_earlier_one_is_replaced(files):
    files.ann_file.write_text('{"ETH3D": 0.1, "DIW": 1}')
    sintel, kitti = depth_row('s, "1"', 1), depth_row("k", 2)
    evaluations = [
        (result("Sintel", error=0.5), [sintel]),
        (result("Kitti", error=0.25), [depth_row("old", 3), depth_row("older", 4)]),
        (result("Kitti", error=0.75), [kitti]),
    ]
    for one, rows in evaluations:
        again = ResultFiles(files.ann_file)
        again.prepare(one.name, SETTINGS, 2, resume=False)
        again.finish(one, rows, [panel(one.error)])
    assert json.loads(files.ann_file.read_text()) == {
        "ETH3D": 0.1,
        "DIW": 1,
        "Sintel": 0.5,
        "Kitti": 0.75,
    }
    details = json.loads((files.folder / "results.json").read_text())
    assert list(details) == ["Sintel", "Kitti"]
    assert details["Sintel"]["panels"] == [panel(0.5)]
    assert details["Sintel"]["means"] == {"abs_rel": 0.5, "row_abs_rel": 0.5}
    assert details["Kitti"]["error"] == 0.75
    assert [row[:2] for row in cells(files)] == [["Sintel", 's, "1"'], ["Kitti", "k"]]
    assert [float(cell) for cell in cells(files)[0][5:14]] == list(sintel.errors.values())


def test_nothing_but_results_is_left_at_the_end(files, tmp_path):
    add(files, [depth_row("a")])
    files.mark_done("Kitti", 0)
    files.prepare("Sintel", SETTINGS, 2, resume=False)
    files.finish(result("Kitti"), [depth_row("a")], [])
    assert [path.name for path in files.partial.iterdir()] == ["Sintel.json"]
    files.finish(result("Sintel"), [depth_row("a")], [])
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert found == ["val", "val.json", "val/results.csv", "val/results.json"]


@pytest.mark.parametrize("written", range(3))
def test_an_interruption_while_files_are_written_loses_nothing(files, monkeypatch, written):
    """results.csv, results.json and val.json are written one after the other."""
    rows = [depth_row("a", 1), depth_row("b", 2)]
    add(files, rows)
    calls = []

    def write_some(path: Path, data: bytes) -> None:
        if len(calls) == written:
            raise KeyboardInterrupt
        calls.append(path)
        Path(path).write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr("src.results.write_bytes", write_some)
        with pytest.raises(KeyboardInterrupt):
            files.finish(result("Kitti"), rows, [])
    assert len(calls) == written
    later = ResultFiles(files.ann_file)
    later.prepare("Kitti", SETTINGS, 2, resume=True)
    assert later.is_open("Kitti")
    assert later.rows("Kitti") == {row.id: row for row in rows}
    later.finish(result("Kitti"), rows, [])
    assert [row[1] for row in cells(later)] == ["a", "b"]
    assert json.loads(files.ann_file.read_text()) == {"Kitti": 0.25}


# --- What else may be there ----------------------------------------------------------------------


def test_before_the_first_evaluation_there_is_nothing_and_looking_writes_nothing(tmp_path):
    assert ResultFiles(tmp_path / "val.json").details == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [b"", b"mine", b"[1, 2]", b"0.5", b'{"images": []}', b'{"a": "b"}', b"\xff\xfe"],
)
@pytest.mark.parametrize("name", ["val.json", "val/results.json"])
def test_a_foreign_json_file_is_not_overwritten(tmp_path, name, content):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"ann_file: .*move it away") as caught:
        ResultFiles(tmp_path / "val.json")
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_a_file_that_became_foreign_meanwhile_is_not_overwritten(files):
    files.ann_file.write_bytes(b"mine")
    with pytest.raises(UserError, match="ann_file"):
        files.finish(result("Kitti"), [depth_row("a")], [])
    assert files.ann_file.read_bytes() == b"mine"


@pytest.mark.parametrize("content", [b"mine\n", b"a,b\n1,2\n\n3,4\n", b"\xff\xfe\n", b"\n\n"])
def test_a_foreign_results_csv_is_not_overwritten(tmp_path, content):
    (tmp_path / "val").mkdir()
    path = tmp_path / "val/results.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"results\.csv") as caught:
        files = ResultFiles(tmp_path / "val.json")
        files.prepare("Kitti", SETTINGS, 2, resume=False)
        files.finish(result("Kitti"), [depth_row("a")], [])
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_folder_in_the_place_of_a_file_and_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UserError, match=r"ann_file: .*a\.json"):
        ResultFiles(tmp_path / "a.json")
    (tmp_path / "b").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"ann_file: .*b is a file"):
        ResultFiles(tmp_path / "b.json")
    with pytest.raises(UserError, match=r"ann_file: .*no such.* is no folder"):
        ResultFiles(tmp_path / "no such" / "val.json")


def test_a_file_in_the_place_of_the_partial_folder_is_named(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val/partial").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"val/partial: cannot be written"):
        ResultFiles(tmp_path / "val.json").prepare("Kitti", SETTINGS, 2, resume=False)
