"""Predictor: the only door to inference. Weights in, depth at the image's size out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from src import runtime
from src.data import transforms
from src.data.transforms import ResizeRule, Upsampling
from src.errors import UserError
from src.onnx_runtimes import load_onnx

LOG = logging.getLogger("midas")


class Network(Protocol):
    """What computes: the network of a file and the library that runs it.

    Attributes:
        fixed_size: the one (height, width) it takes; None: any multiples of 32.
        fixed_batch: the one number of images it takes at once; None: any.
        compiles_each_shape: the first batch of each shape takes longer.
        runtime: the library and, where there is a choice, the precision, in words.
    """

    fixed_size: tuple[int, int] | None
    fixed_batch: int | None
    compiles_each_shape: bool
    runtime: str

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """float32 [N, 3, h, w], normalised RGB -> float32 [N, h, w], inverse depth."""
        ...


def needs_mindspore(weights: str | Path) -> bool:
    """Whether MindSpore has to be started for this file: for all but .onnx files."""
    return Path(weights).suffix != ".onnx"


def is_checkpoint(weights: str | Path) -> bool:
    """Whether the network of this file is built here; the others bring their own."""
    return Path(weights).suffix == ".ckpt"


class Predictor:
    """A trained network, from a .ckpt, a .mindir or an .onnx; `path` is that file.

    Args:
        weights: the file; its suffix decides.
        network: the arguments of MidasNet, for a .ckpt; the others bring their own network.
        mean: of RGB in [0, 1].
        std: of RGB in [0, 1].
        onnx_runtime: what computes an .onnx: openvino or onnxruntime.
        onnx_precision: in which numbers it computes: float32 or bfloat16.
        compile_cache: folder where the compiled graphs of a .ckpt are kept; empty: nowhere.
        fold_bn: fold the batch normalisation of a .ckpt into the convolutions, which changes its
            predictions by rounding alone.

    Attributes:
        fold_bn: whether batch normalisation was folded here.

    Raises:
        UserError: the file is missing, damaged, of another kind, or of another network; or the
            runtime is not installed, or does not compute in this precision here.
    """

    def __init__(
        self,
        weights: str | Path,
        network: Mapping[str, Any],
        mean: Sequence[float],
        std: Sequence[float],
        onnx_runtime: str = "openvino",
        onnx_precision: str = "float32",
        compile_cache: str | Path = "",
        fold_bn: bool = True,
    ) -> None:
        self.mean, self.std = tuple(mean), tuple(std)
        self._seen: set[tuple[int, ...]] = set()
        self.path = Path(weights)
        self.fold_bn = fold_bn and is_checkpoint(weights)
        if needs_mindspore(weights):
            self.network = _mindspore_network(weights, network, compile_cache, fold_bn)
        else:
            self.network = load_onnx(self.path, onnx_runtime, onnx_precision)

    @property
    def runtime(self) -> str:
        """What computes, in words, such as "OpenVINO 2026.4 float32"."""
        return self.network.runtime

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """The one (height, width) that the file takes; None: any."""
        return self.network.fixed_size

    @property
    def fixed_batch(self) -> int | None:
        """The number of images that the file takes at once; None: any."""
        return self.network.fixed_batch

    @property
    def fixed_size_text(self) -> str:
        """The one size that the file takes, width x height; empty if it takes any."""
        if self.fixed_size is None:
            return ""
        return f"{self.fixed_size[1]}x{self.fixed_size[0]}"

    def predict(
        self,
        image: np.ndarray,
        rule: ResizeRule,
        upsampling: Upsampling = "bilinear",
        batch_size: int = 1,
    ) -> np.ndarray:
        """Relative inverse depth of one image.

        Args:
            image: uint8 [H, W, 3], RGB.
            rule: how the image is resized for the network.
            upsampling: of the prediction to the image's size.
            batch_size: as in `run`.

        Returns:
            float32 [H, W], larger is closer, up to scale and shift; >= 0 if bilinear.

        Raises:
            UserError: the prediction is not finite.
        """
        prediction = self.run(self.prepare(image, rule)[None], batch_size)[0]
        return transforms.resize_prediction(prediction, *image.shape[:2], upsampling)

    def input_size(self, height: int, width: int, rule: ResizeRule) -> tuple[int, int]:
        """(height, width) of the network's input for an image of this size in pixels.

        A file of one size takes that, whatever the rule.
        """
        return self.fixed_size or rule.output_size(height, width)

    def prepare(self, image: np.ndarray, rule: ResizeRule) -> np.ndarray:
        """An image uint8 [H, W, 3] RGB as the network takes it, normalised float32 [3, h, w].

        Safe to call from several threads.
        """
        resized = transforms.resize_image(image, *self.input_size(*image.shape[:2], rule))
        return transforms.normalize(resized, self.mean, self.std)

    def run(self, inputs: Sequence[np.ndarray] | np.ndarray, batch_size: int = 1) -> np.ndarray:
        """The bare network on inputs of one size.

        Args:
            inputs: N of `prepare`, 1 <= N <= batch_size.
            batch_size: of the compiled network: fewer inputs are filled up, so that there is one
                compilation for each size. A file of a fixed batch takes that instead.

        Returns:
            float32 [N, h, w], inverse depth at the network's size.

        Raises:
            UserError: the prediction is not finite.
        """
        size = self.fixed_batch or batch_size
        starts = range(0, len(inputs), size)
        return np.concatenate([self._run(inputs[start : start + size], size) for start in starts])

    def _run(self, inputs: Sequence[np.ndarray] | np.ndarray, size: int) -> np.ndarray:
        """The network on `size` inputs or fewer, filled up with the last one."""
        batch = np.stack([*inputs, *(inputs[-1] for _ in range(size - len(inputs)))])
        is_new = batch.shape not in self._seen
        if is_new:
            self._seen.add(batch.shape)
            self._announce(*batch.shape, used=len(inputs))
        prediction = self.network(batch)
        if is_new:
            runtime.restore_interrupt()
        if not np.isfinite(prediction).all():
            raise UserError(f"{self.path}: the prediction is not finite; its training has diverged")
        return prediction[: len(inputs)]

    def _announce(self, size: int, _: int, height: int, width: int, used: int) -> None:
        """Say what takes long, or longer than it needs to."""
        if self.network.compiles_each_shape:
            batches = f", {size} at a time" if size > 1 else ""
            LOG.info("compiling the network for %dx%d images%s (once)", width, height, batches)
        elif self.network.fixed_batch and used < size:
            LOG.info("%s computes %d images at a time, used or not", self.path, size)


def _mindspore_network(
    weights: str | Path, network: Mapping[str, Any], compile_cache: str | Path, fold_bn: bool
) -> Network:
    from src import checkpoint, mindspore_network

    path = Path(weights)
    if path.suffix == ".mindir":
        return mindspore_network.load_mindir(path)
    if path.suffix in (".ckpt", *checkpoint.TORCH_SUFFIXES):  # these get advice
        return mindspore_network.load_ckpt(path, network, compile_cache, fold_bn)
    raise UserError(f"{weights or 'weights'}: expected a .ckpt, a .mindir or an .onnx file")
