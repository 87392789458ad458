"""The scripts of preprocess/, for their tests: as modules, and as the programs that they are."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

FOLDER = Path(__file__).resolve().parents[1] / "preprocess"


def load(name: str) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(f"preprocess_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def run(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Start a script from a folder."""
    command = [sys.executable, FOLDER / f"{name}.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """The script ended with one line on stderr that has these parts, and exit code 2."""
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr
