"""Training in the cloud, with a stand-in for moxing: addresses are folders below `bucket`."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src import cloud
from src.config import Config, load_config
from src.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

STAND_IN = """\
import os, shutil, time
from pathlib import Path

BUCKET = Path(os.environ["STAND_IN_BUCKET"])

def local(address):
    stored = address.startswith("obs://")
    return BUCKET / address.removeprefix("obs://") if stored else Path(address)

def exists(address):
    return local(address).exists()

def copy_parallel(source, target):
    with (BUCKET / "calls.txt").open("a") as calls:
        calls.write(f"{source} -> {target}\\n")
    time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))
    if source == os.environ.get("STAND_IN_FAILS"):
        local(target).mkdir(parents=True, exist_ok=True)
        (local(target) / "half").touch()
        raise RuntimeError(f"403 Forbidden\\n{source}")
    shutil.copytree(local(source), local(target), dirs_exist_ok=True)
"""


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the cloud stores: a data set, and no results. `moxing` can be imported."""
    package = tmp_path / "site" / "moxing"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from moxing import file\n")
    (package / "file.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(package.parent)
    folder = tmp_path / "bucket"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "mixdata.json").write_text("{}")
    monkeypatch.setenv("STAND_IN_BUCKET", str(folder))
    monkeypatch.delenv("MS_ROLE", raising=False)
    yield folder
    for name in ("moxing", "moxing.file"):
        sys.modules.pop(name, None)


def flags(tmp_path: Path, **changed: str) -> list[str]:
    values = {
        "is_modelarts": "True",
        "data_url": "obs://data",
        "train_url": "obs://results",
        "train_data_dir": str(tmp_path / "machine" / "data"),
        "run_path": str(tmp_path / "machine" / "output"),
    } | changed
    return [text for key, value in values.items() for text in (f"--{key}", value)]


def job(tmp_path: Path, **changed: str) -> Config:
    return load_config(flags(tmp_path, **changed))


def calls(bucket: Path) -> list[str]:
    path = bucket / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []


def write_results(config: Config, text: str = "weights") -> None:
    path = Path(config.run_path, "run", "ckpt")
    path.mkdir(parents=True)
    (path / "Midas.ckpt").write_text(text)


def test_data_come_in_before_and_results_go_out_after(tmp_path, bucket):
    with cloud.synced(job(tmp_path)) as config:
        assert Path(config.train_data_dir, "mixdata.json").read_text() == "{}"
        assert not (bucket / "results").exists()
        write_results(config)
    assert (bucket / "results" / "run" / "ckpt" / "Midas.ckpt").read_text() == "weights"


def test_elsewhere_nothing_is_copied_and_moxing_is_not_needed(tmp_path):
    before = job(tmp_path, is_modelarts="False", data_url="", train_url="")
    with cloud.synced(before) as config:
        assert config == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "end", [UserError("disk full"), SystemExit(3), KeyboardInterrupt(), ValueError("a bug")]
)
def test_results_go_out_however_the_training_ends(tmp_path, bucket, end):
    with pytest.raises(type(end)) as raised, cloud.synced(job(tmp_path)) as config:
        write_results(config)
        raise end
    assert raised.value is end
    assert (bucket / "results" / "run" / "ckpt" / "Midas.ckpt").exists()


def test_a_training_that_fails_early_has_no_results_to_copy(tmp_path, bucket):
    with pytest.raises(UserError, match=r"^mixdata"), cloud.synced(job(tmp_path)):
        raise UserError("mixdata: empty")
    assert len(calls(bucket)) == 1


def test_without_moxing_there_is_one_clear_line(tmp_path):
    with (
        pytest.raises(UserError, match=r"^is_modelarts: .*moxing.*--is_modelarts False") as raised,
        cloud.synced(job(tmp_path)),
    ):
        pytest.fail("the training must not begin")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["data_url", "train_url"])
def test_an_empty_address_is_one_clear_line(tmp_path, bucket, key):
    with pytest.raises(UserError, match=f"^{key}: empty"), cloud.synced(job(tmp_path, **{key: ""})):
        pytest.fail("the training must not begin")
    assert calls(bucket) == []


def test_data_that_cannot_be_copied_are_one_line_and_are_copied_next_time(
    tmp_path, bucket, monkeypatch
):
    monkeypatch.setenv("STAND_IN_FAILS", "obs://data")
    with pytest.raises(UserError) as raised, cloud.synced(job(tmp_path)):
        pytest.fail("the training must not begin")
    assert str(raised.value).startswith("data_url: copying obs://data to ")
    assert "(403 Forbidden obs://data)" in str(raised.value)
    monkeypatch.delenv("STAND_IN_FAILS")
    with cloud.synced(job(tmp_path)) as config:
        assert Path(config.train_data_dir, "mixdata.json").exists()


def test_results_that_cannot_be_copied_are_one_line(tmp_path, bucket, monkeypatch):
    config = job(tmp_path)
    monkeypatch.setenv("STAND_IN_FAILS", config.run_path)
    with (
        pytest.raises(UserError, match=r"^train_url: copying .* to obs://results failed"),
        cloud.synced(config),
    ):
        write_results(config)


def test_what_ended_the_training_is_told_even_if_its_results_cannot_be_copied(
    tmp_path, bucket, monkeypatch, caplog
):
    config = job(tmp_path)
    monkeypatch.setenv("STAND_IN_FAILS", config.run_path)
    with pytest.raises(UserError, match="disk full"), cloud.synced(config):
        write_results(config)
        raise UserError("disk full")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith("train_url: copying ")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, bucket):
    (tmp_path / "machine").write_text("a file, not a folder")
    with (
        pytest.raises(UserError, match=r"^is_modelarts: cannot write .*Not a directory"),
        cloud.synced(job(tmp_path)),
    ):
        pytest.fail("the training must not begin")


def test_data_of_the_same_address_are_copied_once(tmp_path, bucket):
    (bucket / "other").mkdir()
    for address in ("obs://data", "obs://data", "obs://other", "obs://data"):
        with cloud.synced(job(tmp_path, data_url=address)):
            pass
    sources = [line.split(" -> ")[0] for line in calls(bucket)]
    assert sources == ["obs://data", "obs://other", "obs://data"]


def test_data_that_others_were_half_copied_over_are_copied_again(tmp_path, bucket, monkeypatch):
    with cloud.synced(job(tmp_path)):
        pass
    monkeypatch.setenv("STAND_IN_FAILS", "obs://other")
    other = job(tmp_path, data_url="obs://other")
    with pytest.raises(UserError, match="403"), cloud.synced(other):
        pytest.fail("the training must not begin")
    with cloud.synced(job(tmp_path)):
        pass
    sources = [line.split(" -> ")[0] for line in calls(bucket)]
    assert sources == ["obs://data", "obs://other", "obs://data"]


def test_the_processes_of_a_machine_copy_once_and_none_begins_before(tmp_path, bucket):
    code = (
        "import sys; from pathlib import Path; from src import cloud; "
        "from src.config import load_config\n"
        "with cloud.synced(load_config(sys.argv[1:])) as config:\n"
        "    print(Path(config.train_data_dir, 'mixdata.json').exists())\n"
        "    Path(config.run_path).mkdir(parents=True, exist_ok=True)"
    )
    outside = {**os.environ, "STAND_IN_SECONDS": "1", "MS_ROLE": "MS_WORKER"}
    outside["PYTHONPATH"] = f"{tmp_path / 'site'}:{ROOT}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *flags(tmp_path)],
            env=outside | {"DEVICE_ID": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert outputs == ["True\n"] * 3
    sources = sorted(line.split(" -> ")[0] for line in calls(bucket))
    assert sources == sorted(["obs://data", str(tmp_path / "machine" / "output")])


def test_the_scheduler_of_msrun_copies_nothing(tmp_path, bucket, monkeypatch):
    monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    with cloud.synced(job(tmp_path)) as config:
        write_results(config)
    assert calls(bucket) == []


# --- A job that continues an earlier one ----------------------------------------------------------


@pytest.fixture
def earlier(bucket: Path) -> Path:
    """The results of an earlier job."""
    folder = bucket / "results" / "run"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("earlier")
    return folder


@pytest.mark.parametrize(("resume", "there"), [("False", False), ("auto", True), ("True", True)])
def test_earlier_results_come_back_to_be_resumed(tmp_path, earlier, resume, there):
    with cloud.synced(job(tmp_path, resume=resume)) as config:
        assert Path(config.run_path, "run", "metrics.csv").exists() == there


def test_resuming_without_earlier_results_is_left_to_the_training(tmp_path, bucket):
    with cloud.synced(job(tmp_path, resume="auto")) as config:
        assert not Path(config.run_path).exists()


def test_results_on_the_machine_are_newer_than_those_of_the_cloud(tmp_path, earlier):
    config = job(tmp_path, resume="auto")
    write_results(config, "newer")
    with cloud.synced(config):
        assert not Path(config.run_path, "run", "metrics.csv").exists()
    assert (earlier / "ckpt" / "Midas.ckpt").read_text() == "newer"


def test_earlier_results_come_back_whole_or_not_at_all(tmp_path, earlier, monkeypatch):
    config = job(tmp_path, resume="auto")
    monkeypatch.setenv("STAND_IN_FAILS", "obs://results")
    with (
        pytest.raises(UserError, match=r"^train_url: copying obs://results"),
        cloud.synced(config),
    ):
        pytest.fail("the training must not begin")
    assert not Path(config.run_path).exists()
    monkeypatch.delenv("STAND_IN_FAILS")
    with cloud.synced(config):
        assert sorted(p.name for p in Path(config.run_path).rglob("*")) == ["metrics.csv", "run"]
