"""Depth maps for a folder of images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from tqdm.contrib.logging import logging_redirect_tqdm

from src import image_io
from src.ahead import Early, batches_of_equal, pipelined
from src.align import Alignment, fit_points, metric_depth, millimetres
from src.data.transforms import ResizeRule, resize_prediction
from src.errors import UserError
from src.predictor import Predictor
from src.runlog import progress_bar
from src.visualize import write_depth_picture

LOG = logging.getLogger("midas")


class NoPredictionError(UserError):
    """One image has none; those of others may be good."""


class Source(Protocol):
    """Where the predictions of a folder's images come from."""

    def batches(self, images: Sequence[Path]) -> list[tuple[int, ...]]:
        """All images by their indices, those that are predicted together in one batch; the first
        indices of the batches ascend."""

    def prepare(self, path: Path, image: np.ndarray) -> np.ndarray:
        """What `run` needs of one image, uint8 [H, W, 3] RGB. Called from several threads.

        Raises:
            NoPredictionError: there is no prediction of this image.
        """

    def run(self, prepared: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """The predictions of images of one batch: float32 [h, w] of any size, inverse depth.

        Raises:
            UserError: a prediction is not finite.
        """


class _FromNetwork:
    """A network as a `Source`; `batch_size` images of one size go through it together."""

    def __init__(self, predictor: Predictor, rule: ResizeRule, batch_size: int) -> None:
        self.predictor, self.rule = predictor, rule
        self.batch_size = predictor.fixed_batch or batch_size

    def batches(self, images: Sequence[Path]) -> list[tuple[int, ...]]:
        if self.batch_size == 1:
            return batches_of_equal(images, 1)
        bar = progress_bar(images, desc="image sizes", unit="image")
        return batches_of_equal(map(self._input_size, bar), self.batch_size)

    def _input_size(self, path: Path) -> tuple[int, int] | None:
        """(height, width) of the network's input; None for a damaged file: to read it will fail."""
        try:
            return self.predictor.input_size(*image_io.image_size(path), self.rule)
        except UserError:
            return None

    def prepare(self, path: Path, image: np.ndarray) -> np.ndarray:
        return self.predictor.prepare(image, self.rule)

    def run(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        return self.predictor.run(prepared, self.batch_size)


def predict_folder(
    predictor: Predictor,
    rule: ResizeRule,
    source: Path,
    output: Path,
    alignment: Alignment | None = None,
    batch_size: int = 1,
    workers: int = 2,
) -> int:
    """Predict every image of a folder and write its depth maps, as in `write_depth_maps`.

    Args:
        batch_size: images of one size that go through the network together; a file of a fixed
            batch takes that instead.
        source, output, alignment, workers: as in `write_depth_maps`.

    Returns:
        The number of images that failed.

    Raises:
        UserError: as in `write_depth_maps`, or a prediction is not finite.
    """
    network = _FromNetwork(predictor, rule, batch_size)
    return write_depth_maps(network, source, output, alignment, workers)


def write_depth_maps(
    predictions: Source,
    source: Path,
    output: Path,
    alignment: Alignment | None = None,
    workers: int = 2,
) -> int:
    """Write <name>.pfm, <name>.png and <name>_depth.png for every image of a folder.

    The PFM holds the prediction float32, the PNG the same stretched to 16 bits (a constant
    prediction gives 0), and the picture the photograph beside the prediction in colours. What is
    no image is named and skipped. An image that cannot be read or has no prediction is named
    and the rest goes on.

    Images with known distances in `alignment` also get <name>_metric.pfm, metres float32, and
    <name>_metric.png, millimetres uint16 (0 beyond 65.535 m). Where these cannot be fitted the
    image counts as failed and has no metric files, not even those of an earlier run.

    Images are read ahead and written while the next ones are predicted. What is said of them has
    the order of the files.

    Args:
        workers: threads that read and write.

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
    work = _Work(predictions, images, names, output, alignment)
    reports = pipelined(predictions.batches(images), work.read, work.run, work.finish, workers)
    failed = 0
    with (
        logging_redirect_tqdm([LOG]),
        progress_bar(desc="predicting", total=len(images), unit="image") as bar,
        closing(reports),
    ):
        for report in _in_order(reports, bar.update):
            failed += report.failed
            for level, line in report.lines:
                LOG.log(level, "%s", line)
    return failed


class _Report(NamedTuple):
    """What came of an image, and what there is to say of it: levels of logging, and lines."""

    index: int
    failed: bool
    lines: list[tuple[int, str]]


class _Read(NamedTuple):
    """An image uint8 [H, W, 3] that was read, and what the network needs of it."""

    index: int
    image: np.ndarray
    prepared: np.ndarray


class _Work(NamedTuple):
    """What the images of a folder go through, see `pipelined`."""

    predictions: Source
    images: Sequence[Path]
    names: Sequence[str]
    output: Path
    alignment: Alignment | None

    def read(self, index: int) -> _Read | Early[_Report]:
        path = self.images[index]
        try:
            image = _read(path)
            return _Read(index, image, self.predictions.prepare(path, image))
        except NoPredictionError as error:
            return Early(_Report(index, True, [(logging.ERROR, f"error: {error}")]))

    def run(self, items: Sequence[_Read]) -> Sequence[np.ndarray]:
        return self.predictions.run([item.prepared for item in items])

    def finish(self, item: _Read, prediction: np.ndarray) -> _Report:
        """Write the files of an image."""
        path, name = self.images[item.index], self.names[item.index]
        prediction = resize_prediction(prediction, *item.image.shape[:2])
        write_outputs(self.output, name, item.image, prediction)
        if self.alignment is None:
            return _Report(item.index, False, [])
        if path.name not in self.alignment.points:
            line = f"{path.name}: no known distance, relative depth only"
            return _Report(item.index, False, [(logging.INFO, line)])
        try:
            lines = _write_metric(self.output, name, path, prediction, self.alignment)
        except _NoFitError as error:
            return _Report(item.index, True, [(logging.ERROR, f"error: {path}: {error}")])
        return _Report(item.index, False, [(logging.INFO, line) for line in lines])


def _in_order(reports: Iterable[_Report], count: Callable[[], object]) -> Iterator[_Report]:
    """Reports by their index, each as soon as those before it are there; `count` is called for
    each that comes in."""
    waiting: dict[int, _Report] = {}
    following = 0
    try:
        for report in reports:
            count()
            waiting[report.index] = report
            while following in waiting:
                yield waiting.pop(following)
                following += 1
    except (UserError, KeyboardInterrupt):  # what is known of later images is told as well
        yield from (waiting[index] for index in sorted(waiting))
        raise


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
    image_io.write_png16(png, stretch16(prediction), quick=True)
    write_depth_picture(picture, image, prediction)


class _NoFitError(UserError):
    """The known distances of an image do not fit its prediction."""


def _write_metric(
    folder: Path, name: str, image: Path, prediction: np.ndarray, alignment: Alignment
) -> list[str]:
    """Write the two metric files of one image; returns what there is to say of them.

    Raises:
        _NoFitError: there are none.
    """
    pfm, png = metric_files(folder, name)
    try:
        fit = fit_points(prediction, alignment.points[image.name], alignment.max_depth)
    except UserError as error:
        for path in (pfm, png):  # those of an earlier run would pass for this one's
            path.unlink(missing_ok=True)
        raise _NoFitError(str(error)) from None
    depth = metric_depth(prediction, fit.scale, fit.shift, alignment.max_depth)
    values = millimetres(depth)
    lines = [f"{image.name}: {fit}"]
    if unknown := np.count_nonzero(values == 0):
        lines.append(f"{png}: {unknown} pixels lie beyond 65.535 m and are 0 there")
    image_io.write_pfm(pfm, depth)
    image_io.write_png16(png, values, quick=True)
    return lines


def stretch16(values: np.ndarray) -> np.ndarray:
    """float32 [H, W] -> uint16 [H, W], minimum to 0 and maximum to 65535."""
    low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(values.shape, np.uint16)
    return np.rint((values.astype(np.float64) - low) / (high - low) * 65535).astype(np.uint16)
