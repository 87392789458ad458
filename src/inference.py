"""Depth maps for a folder of images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm.contrib.logging import logging_redirect_tqdm

from src import image_io
from src.data.transforms import ResizeRule
from src.errors import UserError
from src.predictor import Predictor
from src.runlog import progress_bar
from src.visualize import write_depth_picture

LOG = logging.getLogger("midas")


def predict_folder(predictor: Predictor, rule: ResizeRule, source: Path, output: Path) -> int:
    """Predict every image of a folder; write <name>.pfm, <name>.png and <name>_depth.png each.

    The PFM holds the prediction float32, the PNG the same stretched to 16 bits (a constant
    prediction gives 0), and the picture the photograph beside the prediction in colours. What is
    no image is named and skipped. An image that cannot be read is named and the rest goes on.

    Returns:
        The number of images that failed.

    Raises:
        UserError: the folder is missing or holds no image, or the output cannot be written or
            would overwrite the photographs.
    """
    images, others = image_io.list_images(source)
    if not images:
        suffixes = " ".join(sorted(image_io.IMAGE_SUFFIXES))
        raise UserError(f"{source}: no image in this folder; expected {suffixes}")
    for path in others:
        LOG.info("skipped %s: not an image", path)
    if output.resolve() == source.resolve():
        raise UserError(f"output_path: {output} holds the photographs; choose another folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_path: cannot create {output}: {error.strerror}") from None
    failed = 0
    names = output_names(images)
    for name in names:
        _check_free(output, name)
    with logging_redirect_tqdm([LOG]):
        bar = progress_bar(images, unit="image", desc="predicting")
        for path, name in zip(bar, names, strict=True):
            try:
                image = image_io.read_image(path)
            except UserError as error:
                LOG.error("error: %s", error)
                failed += 1
                continue
            write_outputs(output, name, image, predictor.predict(image, rule))
    return failed


def output_names(images: Sequence[Path]) -> list[str]:
    """The <name> of each image's files: its stem, or its whole name if two stems would collide.

    a.jpg and a.png must not write the same files, nor a.jpg (a_depth.png) and a_depth.jpg.
    """
    stems = Counter(path.stem for path in images)
    return [
        path.name
        if stems[path.stem] > 1
        or path.stem.endswith("_depth")
        or Path(path.stem).suffix.lower() in image_io.IMAGE_SUFFIXES
        else path.stem
        for path in images
    ]


def output_files(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """The PFM, the 16-bit PNG and the picture of one image."""
    return folder / f"{name}.pfm", folder / f"{name}.png", folder / f"{name}_depth.png"


def _check_free(folder: Path, name: str) -> None:
    """Results of an earlier run may be replaced; a file of somebody else's may not."""
    files = output_files(folder, name)
    there = [path for path in files if path.exists()]
    if 0 < len(there) < len(files):
        raise UserError(
            f"output_path: {there[0]} exists and is no result of an earlier run; choose another "
            "folder"
        )


def write_outputs(folder: Path, name: str, image: np.ndarray, prediction: np.ndarray) -> None:
    """Write the three files of one image: uint8 [H, W, 3] and inverse depth float32 [H, W]."""
    pfm, png, picture = output_files(folder, name)
    image_io.write_pfm(pfm, prediction)
    image_io.write_png16(png, stretch16(prediction))
    write_depth_picture(picture, image, prediction)


def stretch16(values: np.ndarray) -> np.ndarray:
    """float32 [H, W] -> uint16 [H, W], minimum to 0 and maximum to 65535."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(values.shape, np.uint16)
    return np.rint((values.astype(np.float64) - low) / (high - low) * 65535).astype(np.uint16)
