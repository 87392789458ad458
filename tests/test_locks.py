"""Folders that one process at a time writes to, tried by two processes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from src.errors import UserError
from src.locks import exclusive

ROOT = Path(__file__).resolve().parents[1]
HOLD = """
import sys
from pathlib import Path
from src.locks import exclusive
with exclusive(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held_by_another_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def test_a_second_process_is_kept_out_and_told_why(tmp_path):
    with (
        held_by_another_process(tmp_path / "run"),
        pytest.raises(UserError, match=r"^busy here$"),
        exclusive(tmp_path / "run", "busy here"),
    ):
        pytest.fail("both are in")


def test_another_folder_is_free(tmp_path):
    (tmp_path / "run").mkdir()
    with held_by_another_process(tmp_path / "run"), exclusive(tmp_path / "other", "busy"):
        pass
    with held_by_another_process(tmp_path / "run"), exclusive(tmp_path, "busy"):
        pass


def test_a_folder_is_free_after_the_block_and_after_an_error_in_it(tmp_path):
    with exclusive(tmp_path, "busy"):
        pass
    with pytest.raises(KeyError), exclusive(tmp_path, "busy"):
        raise KeyError
    with held_by_another_process(tmp_path):
        pass


def test_a_process_that_is_killed_keeps_nothing(tmp_path):
    with held_by_another_process(tmp_path) as process:
        process.kill()
        process.wait(timeout=60)
        with exclusive(tmp_path, "busy"):
            pass


def test_nothing_is_written(tmp_path):
    folder = tmp_path / "run"
    with exclusive(folder, "busy"):
        assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder, reason in (
        (tmp_path / "none/run", "No such file or directory"),
        (tmp_path / "file", "File exists"),
        (tmp_path / "file/run", "Not a directory"),
    ):
        with pytest.raises(UserError) as error, exclusive(folder, "busy"):
            pass
        assert str(error.value) == f"{folder}: cannot be written ({reason})"
