"""Export of a trained network: MINDIR, AIR and ONNX, each file checked against the checkpoint."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
import mindspore as ms
import numpy as np
from mindspore import nn

from src import checkpoint, image_io, runtime
from src.cells import count
from src.data import transforms
from src.errors import UserError
from src.export_plan import Size
from src.fold_bn import folded
from src.mindspore_network import load_ckpt, load_mindir
from src.onnx_export import write_onnx
from src.onnx_runtimes import load_onnx

LOG = logging.getLogger("midas")

PHOTOGRAPH = Path(mpl.get_data_path(), "sample_data", "grace_hopper.jpg")

# How far an output may be from the checkpoint's, as a share of that one's range. A MINDIR with the
# checkpoint's own weights computes the same bit for bit.
_TOLERANCE = {"MINDIR": 0.0, "ONNX": 1e-5}
_TOLERANCE_FOLDED = 1e-4
# Of the largest value. Where the range is less, as that of untrained networks may be, the rounding
# of float32 is no longer small against it.
_SMALLEST_RANGE = 0.1

Network = Callable[[np.ndarray], np.ndarray]
"""float32 [N, 3, h, w] -> float32 [N, h, w]"""


@dataclass(frozen=True)
class Job:
    """What to export, and how.

    Attributes:
        weights: the .ckpt file.
        network: the arguments of MidasNet.
        mean, std: of RGB in [0, 1].
        file_format: MINDIR, AIR or ONNX.
        path: the file to write; of several sizes, a MINDIR or AIR has its own in its name.
        sizes: of the input, multiples of 32; an .onnx takes all sizes and is checked at these.
        batch: images at once; an .onnx takes any number and is checked at this.
        fold_bn: fold batch normalisation into the convolutions.
        onnx_runtime: what an .onnx is checked on: openvino or onnxruntime.
    """

    weights: str
    network: Mapping[str, Any]
    mean: Sequence[float]
    std: Sequence[float]
    file_format: str
    path: Path
    sizes: Sequence[Size]
    batch: int = 1
    fold_bn: bool = False
    onnx_runtime: str = "openvino"

    def shape(self, size: Size) -> str:
        """What goes through the network at once, in words."""
        return f"{self.batch} {'image' if self.batch == 1 else 'images'} of {size}"


def export(job: Job) -> Iterator[str]:
    """Write a checkpoint's network; yields a line for each file and size.

    After writing, a file is loaded again, and its output on a photograph must be the checkpoint's.
    Only then does it take its place: until then an older file stays.

    Raises:
        UserError: the checkpoint does not fit, a file cannot be written, or what was written
            computes something else.
    """
    network = load_ckpt(Path(job.weights), job.network)
    deployed, about = network.cell, ""
    if job.fold_bn:
        deployed = folded(network.cell)
        about = f", BN folded into {count(network.cell, nn.BatchNorm2d)} convolutions"
    if job.file_format == "ONNX":
        yield from _export_onnx(job, network, deployed, about)
        return
    for size in job.sizes:
        path = job.path
        if len(job.sizes) > 1:
            path = path.with_stem(f"{path.stem}_{size}")
        yield _export_fixed(job, network, deployed, about, size, path)


def _export_onnx(job: Job, reference: Network, deployed: nn.Cell, about: str) -> list[str]:
    """Write one file for all sizes."""
    lines = []
    with checkpoint.whole_file(job.path) as path:
        LOG.info("writing ONNX")
        write_onnx(deployed, path, job.mean, job.std)
        written = load_onnx(path, job.onnx_runtime, "float32")
        about = f"{job.path}: {_megabytes(path)}, any size and batch{about}"
        for size in job.sizes:
            result = _compared(job, reference, written, size)
            lines.append(f"{about}; {job.shape(size)} on {written.runtime}: {result}")
    return lines


def _export_fixed(
    job: Job, reference: Network, deployed: nn.Cell, about: str, size: Size, target: Path
) -> str:
    """Write a MINDIR or AIR file for one size."""
    images = ms.Tensor(np.zeros((job.batch, 3, size.height, size.width), np.float32))
    # MindSpore exports to plain ASCII paths without spaces only.
    with checkpoint.whole_file(target) as path, TemporaryDirectory() as folder:
        exported = Path(folder, f"midas{target.suffix}")
        LOG.info("%s: writing %s", size, job.file_format)
        ms.export(deployed, images, file_name=str(exported), file_format=job.file_format)
        runtime.restore_interrupt()
        shutil.copyfile(exported, path)
        if job.file_format == "AIR":
            result = "not checked, since MindSpore cannot load it"
        else:
            result = _compared(job, reference, load_mindir(path), size)
        return f"{target}: {_megabytes(path)}, {job.shape(size)}{about}: {result}"


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def _compared(job: Job, reference: Network, written: Network, size: Size) -> str:
    """How far a file's output is from the checkpoint's, in words.

    Raises:
        UserError: farther than the tolerance.
    """
    LOG.info("%s: computing a photograph with the checkpoint (compiling takes a while)", size)
    images = photographs(job.batch, size.height, size.width, job.mean, job.std)
    expected = reference(images)
    LOG.info("%s: computing it with the file", size)
    found = written(images)
    runtime.restore_interrupt()
    tolerance = _TOLERANCE_FOLDED if job.fold_bn else _TOLERANCE[job.file_format]
    try:
        return compare(expected, found, tolerance)
    except UserError as error:
        hint = "; export without --fold_bn" if job.fold_bn else ""
        raise UserError(
            f"{job.file_format} of {job.weights} at {job.shape(size)} is not kept: {error}{hint}"
        ) from None


def photographs(
    batch: int, height: int, width: int, mean: Sequence[float], std: Sequence[float]
) -> np.ndarray:
    """A photograph, then crops of it, every other one flipped, as the network takes them:
    float32 [batch, 3, height, width]."""
    whole = image_io.read_image(PHOTOGRAPH)
    images = []
    for index in range(batch):
        rng = np.random.default_rng(index)
        box = transforms.random_crop(*whole.shape[:2], None, 0.5 if index else 1, rng)
        part = transforms.crop(whole, box)[:, :: -1 if index % 2 else 1]
        resized = transforms.resize_image(part, height, width)
        images.append(transforms.normalize(resized, tuple(mean), tuple(std)))
    return np.stack(images)


def compare(expected: np.ndarray, found: np.ndarray, tolerance: float) -> str:
    """The largest difference between two outputs, in words.

    It is told as a share of the expected output's range, or of a tenth of its largest value if that
    is more: a constant output has no range.

    Args:
        expected, found: float32 [N, h, w].
        tolerance: the largest share that is right.

    Raises:
        UserError: the difference is larger, or an output is not finite.
    """
    if not (np.isfinite(expected).all() and np.isfinite(found).all()):
        raise UserError("an output is not finite; the checkpoint has diverged")
    span, smallest = float(np.ptp(expected)), _SMALLEST_RANGE * float(np.abs(expected).max())
    nonzero = max(span, smallest, np.finfo(np.float64).tiny)
    share = float(np.abs(found - expected).max()) / nonzero
    of = "its range" if span >= smallest else "a tenth of its largest value"
    text = f"difference from the checkpoint's output {share:.2g} of {of}, tolerance {tolerance:g}"
    if share > tolerance:
        raise UserError(text)
    if share == 0:
        text += " (bit for bit)"
    if span == 0:
        text += "; that output is constant, so this says little (is the network trained?)"
    return text
