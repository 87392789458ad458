"""Write the photograph 'motorcycle' out of the scikit-image package in Middlebury's own layout.

    python preprocess/middlebury.py --output data

makes data/Middlebury/motorcycle/{im0.png,disp0.pfm,calib.txt}. (D. Scharstein et al.,
"High-resolution stereo datasets with subpixel-accurate ground truth", GCPR 2014; the calibration
is that of scikit-image's quarter-size copy, given in the documentation of
skimage.data.stereo_motorcycle.)
"""

from __future__ import annotations

import argparse
from pathlib import Path

from src.errors import UserError, run_program
from src.image_io import write_bytes, write_image, write_pfm

CALIBRATION = (
    "cam0=[994.978 0 311.193; 0 994.978 254.877; 0 0 1]\n"
    "doffs=31.086\n"
    "baseline=193.001\n"
    "width=741\n"
    "height=500\n"
)


def write_motorcycle(folder: Path) -> None:
    """Write the scene's three files into `folder`, which is created.

    Raises:
        UserError: scikit-image is not installed, or the folder cannot be written.
    """
    try:
        from skimage.data import stereo_motorcycle
    except ImportError:
        raise UserError("scikit-image: not installed; pip install -e '.[demo]'") from None
    left, _, disparity = stereo_motorcycle()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output: cannot create {folder}: {error.strerror}") from None
    write_image(folder / "im0.png", left)
    write_pfm(folder / "disp0.pfm", disparity)
    write_bytes(folder / "calib.txt", CALIBRATION.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("data"), help="data root")
    folder = parser.parse_args().output / "Middlebury" / "motorcycle"
    write_motorcycle(folder)
    print(folder)


if __name__ == "__main__":
    run_program(main)
