"""Write a few real photographs out of the scikit-image package, to look at a network's depth.

    python preprocess/photographs.py --output input
"""

from __future__ import annotations

import argparse
from pathlib import Path

from src.errors import UserError, run_program
from src.image_io import write_image

NAMES = ("astronaut", "chelsea", "coffee", "rocket")


def write_photographs(folder: Path) -> None:
    """Write <name>.jpg for all NAMES and the motorcycle into `folder`, which is created.

    Raises:
        UserError: scikit-image is not installed, or the folder cannot be written.
    """
    try:
        from skimage import data
    except ImportError:
        raise UserError("scikit-image: not installed; pip install -e '.[demo]'") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output: cannot create {folder}: {error.strerror}") from None
    for name in NAMES:
        write_image(folder / f"{name}.jpg", getattr(data, name)())
    write_image(folder / "motorcycle.jpg", data.stereo_motorcycle()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("input"), help="folder to write to")
    folder = parser.parse_args().output
    write_photographs(folder)
    print(folder)


if __name__ == "__main__":
    run_program(main)
