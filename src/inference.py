"""Depth maps for a folder of images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm.contrib.logging import logging_redirect_tqdm

from src import image_io
from src.align import Alignment, fit_points, metric_depth, millimetres
from src.data.transforms import ResizeRule
from src.errors import UserError
from src.predictor import Predictor
from src.runlog import progress_bar
from src.visualize import write_depth_picture

LOG = logging.getLogger("midas")


class NoPredictionError(UserError):
    """One image has none; those of others may be good."""


def predict_folder(
    predictor: Predictor,
    rule: ResizeRule,
    source: Path,
    output: Path,
    alignment: Alignment | None = None,
) -> int:
    """Predict every image of a folder and write its depth maps, as in `write_depth_maps`.

    Returns:
        The number of images that failed.

    Raises:
        UserError: as in `write_depth_maps`, or a prediction is not finite.
    """
    return write_depth_maps(
        lambda _, image: predictor.predict(image, rule), source, output, alignment
    )


def write_depth_maps(
    predict: Callable[[Path, np.ndarray], np.ndarray],
    source: Path,
    output: Path,
    alignment: Alignment | None = None,
) -> int:
    """Write <name>.pfm, <name>.png and <name>_depth.png for every image of a folder.

    The PFM holds the prediction float32, the PNG the same stretched to 16 bits (a constant
    prediction gives 0), and the picture the photograph beside the prediction in colours. What is
    no image is named and skipped. An image that cannot be read or has no prediction is named
    and the rest goes on.

    Images with known distances in `alignment` also get <name>_metric.pfm, metres float32, and
    <name>_metric.png, millimetres uint16 (0 beyond 65.535 m). Where these cannot be fitted the
    image counts as failed and has no metric files, not even those of an earlier run.

    Args:
        predict: from an image's file and the image, uint8 [H, W, 3] RGB, to its inverse depth,
            float32 [H, W]; raises NoPredictionError where there is none.

    Returns:
        The number of images that failed.

    Raises:
        UserError: the folder is missing or holds no image, or the output cannot be written or
            would overwrite the photographs or somebody else's files.
    """
    images = _list_images(source)
    aligned = alignment.points if alignment else {}
    names = output_names(images)
    _prepare(output, source)
    for path, name in zip(images, names, strict=True):
        _check_free(output, name, metric=path.name in aligned)
    failed = 0
    with logging_redirect_tqdm([LOG]):
        bar = progress_bar(images, unit="image", desc="predicting")
        for path, name in zip(bar, names, strict=True):
            try:
                image = _read(path)
                prediction = predict(path, image)
            except NoPredictionError as error:
                LOG.error("error: %s", error)
                failed += 1
                continue
            write_outputs(output, name, image, prediction)
            if path.name in aligned:
                failed += not _write_metric(output, name, path, prediction, alignment)
            elif alignment:
                LOG.info("%s: no known distance, relative depth only", path.name)
    return failed


def _list_images(folder: Path) -> list[Path]:
    images, others = image_io.list_images(folder)
    if not images:
        suffixes = " ".join(sorted(image_io.IMAGE_SUFFIXES))
        raise UserError(f"{folder}: no image in this folder; expected {suffixes}")
    for path in others:
        LOG.info("skipped %s: not an image", path)
    return images


def _read(path: Path) -> np.ndarray:
    try:
        return image_io.read_image(path)
    except UserError as error:
        raise NoPredictionError(str(error)) from None


def _prepare(output: Path, source: Path) -> None:
    """Make the output folder, which must not be that of the photographs."""
    if output.resolve() == source.resolve():
        raise UserError(f"output_path: {output} holds the photographs; choose another folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_path: cannot create {output}: {error.strerror}") from None


def output_names(images: Sequence[Path]) -> list[str]:
    """The <name> of each image's files: its stem, or its whole name if two stems would collide.

    a.jpg and a.png must not write the same files, nor a.jpg (a_depth.png) and a_depth.jpg. The
    same images have the same names whether or not distances are known.
    """
    stems = Counter(path.stem for path in images)
    return [
        path.name
        if stems[path.stem] > 1
        or path.stem.endswith(("_depth", "_metric"))
        or Path(path.stem).suffix.lower() in image_io.IMAGE_SUFFIXES
        else path.stem
        for path in images
    ]


def output_files(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """The PFM, the 16-bit PNG and the picture of one image."""
    return folder / f"{name}.pfm", folder / f"{name}.png", folder / f"{name}_depth.png"


def metric_files(folder: Path, name: str) -> tuple[Path, Path]:
    """The PFM in metres and the PNG in millimetres of one image."""
    return folder / f"{name}_metric.pfm", folder / f"{name}_metric.png"


def _check_free(folder: Path, name: str, metric: bool) -> None:
    """Results of an earlier run may be replaced; a file of somebody else's may not.

    An earlier run wrote all relative files or none, and metric ones, both, only beside them.
    """
    relative = output_files(folder, name)
    metres = metric_files(folder, name) if metric else ()
    there = [path for path in (*relative, *metres) if path.exists()]
    if tuple(there) not in {(), relative, (*relative, *metres)}:
        raise UserError(
            f"output_path: {there[-1]} exists and is no result of an earlier run; choose another "
            "folder"
        )


def write_outputs(folder: Path, name: str, image: np.ndarray, prediction: np.ndarray) -> None:
    """Write the three files of one image: uint8 [H, W, 3] and inverse depth float32 [H, W]."""
    pfm, png, picture = output_files(folder, name)
    image_io.write_pfm(pfm, prediction)
    image_io.write_png16(png, stretch16(prediction))
    write_depth_picture(picture, image, prediction)


def _write_metric(
    folder: Path, name: str, image: Path, prediction: np.ndarray, alignment: Alignment
) -> bool:
    """Write the two metric files of one image, or log why there are none; whether it worked."""
    pfm, png = metric_files(folder, name)
    try:
        fit = fit_points(prediction, alignment.points[image.name], alignment.max_depth)
    except UserError as error:
        LOG.error("error: %s: %s", image, error)
        for path in (pfm, png):  # those of an earlier run would pass for this one's
            path.unlink(missing_ok=True)
        return False
    depth = metric_depth(prediction, fit.scale, fit.shift, alignment.max_depth)
    values = millimetres(depth)
    LOG.info("%s: %s", image.name, fit)
    if unknown := np.count_nonzero(values == 0):
        LOG.info("%s: %d pixels lie beyond 65.535 m and are 0 there", png, unknown)
    image_io.write_pfm(pfm, depth)
    image_io.write_png16(png, values)
    return True


def stretch16(values: np.ndarray) -> np.ndarray:
    """float32 [H, W] -> uint16 [H, W], minimum to 0 and maximum to 65535."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(values.shape, np.uint16)
    return np.rint((values.astype(np.float64) - low) / (high - low) * 65535).astype(np.uint16)
