"""Depth maps for a folder of images."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from src import image_io
from src.data.transforms import ResizeRule
from src.errors import UserError
from src.predictor import Predictor
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
        UserError: the folder is missing or holds no image, or the output cannot be written.
    """
    images, others = image_io.list_images(source)
    if not images:
        suffixes = " ".join(sorted(image_io.IMAGE_SUFFIXES))
        raise UserError(f"{source}: no image in this folder; expected {suffixes}")
    for path in others:
        LOG.info("skipped %s: not an image", path)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_path: cannot create {output}: {error.strerror}") from None
    failed = 0
    stems = Counter(path.stem for path in images)
    with logging_redirect_tqdm([LOG]):
        for path in tqdm(images, unit="image", desc="predicting"):
            try:
                image = image_io.read_image(path)
            except UserError as error:
                LOG.error("error: %s", error)
                failed += 1
                continue
            # a.jpg and a.png in one folder must not write the same files.
            name = path.stem if stems[path.stem] == 1 else path.name
            write_outputs(output, name, image, predictor.predict(image, rule))
    return failed


def write_outputs(folder: Path, name: str, image: np.ndarray, prediction: np.ndarray) -> None:
    """Write the three files of one image: uint8 [H, W, 3] and inverse depth float32 [H, W]."""
    image_io.write_pfm(folder / f"{name}.pfm", prediction)
    image_io.write_png16(folder / f"{name}.png", stretch16(prediction))
    write_depth_picture(folder / f"{name}_depth.png", image, prediction)


def stretch16(values: np.ndarray) -> np.ndarray:
    """float32 [H, W] -> uint16 [H, W], minimum to 0 and maximum to 65535."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(values.shape, np.uint16)
    return np.rint((values.astype(np.float64) - low) / (high - low) * 65535).astype(np.uint16)
