"""Write all that shows a benchmark's figures: README's performance section and docs/scaling.

    python -m tests.benchmarks.readme [output/benchmarks/benchmarks.json]

Without a file, from docs/performance.json; a file that is given replaces that one. The section lies
between the comments `<!-- performance: begin -->` and `<!-- performance: end -->`; the page
docs/scaling.md and its picture are those of `tests.benchmarks.scaling_page`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from src.errors import Parser, UserError, run_program
from src.image_io import write_bytes
from tests.benchmarks import report, scaling_page
from tests.benchmarks.blocks import replaced
from tests.benchmarks.scaling_page import FIGURES

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PART = "performance"


def kept(file: Path) -> dict[str, Any]:
    """The results of a file that the README may show.

    Raises:
        UserError: not results, of small sizes, or with sections that failed.
    """
    results = report.read(file)
    if results["quick"]:
        raise UserError(f"{file}: measured with --quick, which says nothing; measure without")
    failed = [name for name, found in results["sections"].items() if "figures" not in found]
    if failed:
        raise UserError(
            f"{file}: {failed[0]} failed; run: python -m tests.benchmarks --only "
            f"{','.join(failed)}, and give the file that it writes"
        )
    return results


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", default=FIGURES, help=argparse.SUPPRESS)
    file = parser.parse_args().file
    results = kept(file)
    texts = {
        FIGURES: (json.dumps(results, indent=1) + "\n").encode(),
        README: replaced(README, {PART: report.page(results)}).encode(),
    }
    for place, content in (texts | scaling_page.made(results)).items():
        write_bytes(place, content)


if __name__ == "__main__":
    run_program(main)
