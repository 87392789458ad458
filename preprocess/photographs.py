"""Write real photographs, one with its measured disparity, out of the scikit-image package.

    python preprocess/photographs.py --output data

makes data/photographs/<name>.jpg, to look at a network's depth, and, in Middlebury's own layout,
data/Middlebury/motorcycle/{im0.png,disp0.pfm,calib.txt}. (D. Scharstein et al., "High-resolution
stereo datasets with subpixel-accurate ground truth", GCPR 2014; the calibration is that of
scikit-image's quarter-size copy, given in the documentation of skimage.data.stereo_motorcycle.)
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from layouts import make_folder

from src.errors import Parser, UserError, run_program
from src.image_io import write_bytes, write_image, write_pfm

NAMES = ("astronaut", "chelsea", "coffee", "rocket")
CALIBRATION = (
    "cam0=[994.978 0 311.193; 0 994.978 254.877; 0 0 1]\n"
    "doffs=31.086\n"
    "baseline=193.001\n"
    "width=741\n"
    "height=500\n"
)


def encode_photographs() -> dict[str, bytes]:
    """Every file's path under the data root and its content.

    Raises:
        UserError: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError:
        raise UserError("scikit-image: not installed; pip install -e .[demo]") from None
    left, _, disparity = data.stereo_motorcycle()
    photographs = {name: getattr(data, name)() for name in NAMES} | {"motorcycle": left}
    scene = Path("Middlebury", "motorcycle")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for folder in (scene, Path("photographs")):
            make_folder(root / folder)
        write_image(root / scene / "im0.png", left)
        write_pfm(root / scene / "disp0.pfm", disparity)
        write_bytes(root / scene / "calib.txt", CALIBRATION.encode())
        for name, photograph in photographs.items():
            write_image(root / "photographs" / f"{name}.jpg", photograph)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        return {str(path.relative_to(root)): path.read_bytes() for path in files}


def write_missing(root: Path, contents: dict[str, bytes]) -> None:
    """Write the files that are not there yet; all of them, or none if one is there and differs.

    Raises:
        UserError: a file differs, or cannot be read or written.
    """
    missing = []
    for name, content in contents.items():
        path = root / name
        try:
            if path.read_bytes() != content:
                raise UserError(
                    f"{path} exists with other content and is not overwritten; move it away or "
                    "choose another folder"
                )
        except FileNotFoundError:
            missing.append(name)
        except OSError as error:
            raise UserError(
                f"{path}: cannot be read ({error.strerror}); choose another folder"
            ) from None
    for name in missing:
        make_folder((root / name).parent)
        write_bytes(root / name, contents[name])


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="data root to write to"
    )
    output = parser.parse_args().output
    contents = encode_photographs()
    write_missing(output, contents)
    print(f"photographs and Middlebury/motorcycle in {output}")


if __name__ == "__main__":
    run_program(main)
