"""How fast the project is on this machine, beside PyTorch: one run, one table.

    python -m tests.benchmarks [--only NAMES] [--quick] [--output FOLDER]

Each section is measured in a process of its own, one after the other. FOLDER (output/benchmarks
unless given) gets `benchmarks.json`, `benchmarks.md` and what each section said, NAME.log. Sections
that are not measured again keep their figures, if they are of the same machine and versions. With
`--quick` all is small: that shows whether everything works, and nothing else.

Exit code 1 if a section failed, 2 if the command line cannot be used. Ctrl-C keeps what is done.
"""

from __future__ import annotations

import datetime
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.errors import Parser, UserError, run_program
from src.image_io import write_bytes
from tests.benchmarks import machine, report
from tests.benchmarks.sections import SECTIONS

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = "benchmarks.json", "benchmarks.md"


def chosen(only: str) -> list[str]:
    """The sections of a comma-separated list, in their own order; empty: all.

    Raises:
        UserError: an unknown name.
    """
    asked = {name.strip() for name in only.split(",") if name.strip()}
    if unknown := sorted(asked - SECTIONS.keys()):
        raise UserError(f"--only: no section {unknown[0]!r}; expected {', '.join(SECTIONS)}")
    return [name for name in SECTIONS if name in asked or not asked]


def begin(folder: Path, quick: bool) -> dict[str, Any]:
    """Results without sections, or those in the folder.

    Raises:
        UserError: those in the folder cannot stand beside new ones.
    """
    here = {"machine": machine.describe(), "quick": quick, "sections": {}}
    file = folder / RESULTS
    if not file.exists():
        return here
    earlier = report.read(file)
    if any(earlier[key] != here[key] for key in ("machine", "quick")):
        raise UserError(
            f"{file}: of another machine, of other versions or of other sizes (--quick); choose "
            "another --output"
        )
    return earlier


def measure(name: str, quick: bool, log: Path) -> dict[str, Any]:
    """A section's figures or its error, when it was measured and how busy the machine was.

    Lines of its standard output are shown, and with all else it says go to the log.
    """
    found: dict[str, Any] = {
        "started": datetime.datetime.now().isoformat(timespec="seconds"),
        "load": [machine.load()],
    }
    start = machine.Usage.now()
    with tempfile.TemporaryDirectory() as folder, log.open("w") as said:
        file = Path(folder, "figures.json")
        command = [sys.executable, "-m", "tests.benchmarks.sections", name, str(file)]
        code = _run([*command, *["--quick"] * quick], said)
        if code == 0:
            found["figures"] = json.loads(file.read_text())
    if code:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        found["error"] = f"exit code {code}: {lines[-1].strip() if lines else 'no output'}"
    end = machine.Usage.now()
    found["minutes"] = round((end.clock - start.clock) / 60, 2)
    found["others"] = end.others_since(start)
    found["load"].append(machine.load())
    return found


def _run(command: Sequence[str], said: Any) -> int:
    """Run a program, show its standard output, and return its exit code."""
    with subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=said, text=True) as process:
        try:
            for line in process.stdout:
                said.write(line)
                said.flush()
                print(f"    {line}", end="", flush=True)
        except BaseException:
            process.terminate()
            raise
    return process.returncode


def main() -> int:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help=f"some of {', '.join(SECTIONS)}, by comma")
    parser.add_argument("--quick", action="store_true", help="small sizes: does everything work?")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave no process behind
    names = chosen(options.only)
    results = begin(options.output, options.quick)
    options.output.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        print(f"[{i + 1}/{len(names)}] {SECTIONS[name].title} (load {machine.load()})", flush=True)
        found = measure(name, options.quick, options.output / f"{name}.log")
        results["sections"][name] = found
        write_bytes(options.output / RESULTS, json.dumps(results, indent=1).encode())
        page = report.page(results)
        write_bytes(options.output / PAGE, page.encode())
        print(f"    {found['minutes']} min; {found.get('error', 'done')}", flush=True)
    print(f"\n{page}\n{options.output / RESULTS}")
    return int(any("error" in results["sections"][name] for name in names))


if __name__ == "__main__":
    run_program(main)
