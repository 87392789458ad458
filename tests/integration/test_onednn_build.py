"""onednn_conv/build.sh where it has what it needs, and where it does not."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None or platform.machine() != "x86_64", reason="needs g++ and x86_64"
)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that the build reads, in a folder of their own."""
    root = tmp_path / "a clone"
    (root / "onednn_conv").mkdir(parents=True)
    (root / "scripts").mkdir()
    for name in ("onednn_conv/build.sh", "onednn_conv/convolution.cc", "scripts/common.sh"):
        shutil.copy(REPO / name, root / name)
    return root


def build(clone: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(clone / "onednn_conv" / "build.sh"), *arguments],
        cwd="/",
        env=os.environ | {"MIDAS_PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def assert_one_line_error(done: subprocess.CompletedProcess[str], *fragments: str) -> None:
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for fragment in ("error: ", *fragments):
        assert fragment in done.stderr


def test_a_second_run_builds_only_what_changed(clone: Path) -> None:
    library = clone / "onednn_conv" / "out" / "libconvolution.so"
    first = build(clone)
    if "no package registry reached" in first.stderr:
        pytest.skip(first.stderr.strip())
    assert (first.returncode, first.stdout, first.stderr) == (0, f"built {library}\n", "")
    content = library.read_bytes()
    again = build(clone)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    with (clone / "onednn_conv" / "convolution.cc").open("a") as source:
        source.write(
            'extern "C" __attribute__((visibility("default"))) int Another() { return 1; }\n'
        )
    assert build(clone).stdout == f"built {library}\n"
    assert library.read_bytes() != content

    with (clone / "onednn_conv" / "convolution.cc").open("a") as source:
        source.write("what is this\n")
    good = library.read_bytes()
    assert_one_line_error(build(clone), "the build failed (", "error: ", "out/build.log")
    assert library.read_bytes() == good  # that of the earlier source stays


def test_what_is_missing_is_named(clone: Path, tmp_path: Path) -> None:
    assert_one_line_error(build(clone, "--clean"), "usage: bash onednn_conv/build.sh")
    assert_one_line_error(build(clone, CXX="no-such-compiler"), "no-such-compiler is missing")
    bare = tmp_path / "bare" / "python"
    bare.parent.mkdir()
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    assert_one_line_error(build(clone, MIDAS_PYTHON=str(bare)), "no MindSpore with oneDNN 3")
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    nowhere |= {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": ""}
    assert_one_line_error(build(clone, **nowhere), "no package registry reached", "onednn-devel==")
    assert not (clone / "onednn_conv" / "out" / "libconvolution.so").exists()
