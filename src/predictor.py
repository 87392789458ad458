"""Predictor: the only door to inference. Weights in, depth at the image's size out."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore import nn
from mindspore.train.mind_ir_pb2 import ModelProto

from src import checkpoint, runtime
from src.data import transforms
from src.data.transforms import ResizeRule, Upsampling
from src.errors import UserError
from src.midas_net import MidasNet

LOG = logging.getLogger("midas")


class Predictor:
    """A trained network, from a .ckpt or a .mindir; `path` is that file.

    Args:
        weights: the file; its suffix decides.
        network: the arguments of MidasNet, for a .ckpt; a .mindir brings its own network.
        mean: of RGB in [0, 1].
        std: of RGB in [0, 1].

    Raises:
        UserError: the file is missing, damaged, of another kind, or of another network.
    """

    def __init__(
        self,
        weights: str | Path,
        network: Mapping[str, Any],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.mean, self.std = tuple(mean), tuple(std)
        self.fixed_size: tuple[int, int] | None = None
        self._seen: set[tuple[int, ...]] = set()
        self.path = path = Path(weights)
        if path.suffix == ".mindir":
            self.network, self.fixed_size = load_mindir(path)
        elif path.suffix in (".ckpt", *checkpoint.TORCH_SUFFIXES):  # these get advice
            self.network = MidasNet(**network)
            checkpoint.load(self.network, path)
        else:
            raise UserError(f"{weights or 'weights'}: expected a .ckpt or a .mindir file")
        self.network.set_train(False)

    @property
    def fixed_size_text(self) -> str:
        """The one size that a .mindir takes, width x height; empty for a .ckpt."""
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

        A .mindir has one size, whatever the rule.
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
                compilation for each size. A .mindir takes one input at a time.

        Returns:
            float32 [N, h, w], inverse depth at the network's size.

        Raises:
            UserError: the prediction is not finite.
        """
        if self.fixed_size is not None:
            outputs = [self._run(input_[None]) for input_ in inputs]
            return np.concatenate(outputs)
        missing = batch_size - len(inputs)
        batch = np.stack([*inputs, *(inputs[-1] for _ in range(missing))])
        is_new = batch.shape not in self._seen
        if is_new:
            self._seen.add(batch.shape)
            batches = f", {batch_size} at a time" if batch_size > 1 else ""
            LOG.info(
                "compiling the network for %dx%d images%s (once)", *batch.shape[:1:-1], batches
            )
        outputs = self._run(batch)[: len(inputs)]
        if is_new:
            runtime.restore_interrupt()
        return outputs

    def _run(self, batch: np.ndarray) -> np.ndarray:
        prediction = self.network(ms.Tensor(batch)).asnumpy()
        if not np.isfinite(prediction).all():
            raise UserError("weights: the prediction is not finite; this checkpoint has diverged")
        return prediction


def load_mindir(path: Path) -> tuple[nn.GraphCell, tuple[int, int]]:
    """The network of a .mindir file and its input (height, width).

    Raises:
        UserError: missing, damaged, or not the export of a MidasNet.
    """
    damaged = UserError(f"{path}: not a MINDIR file, or damaged; export it again")
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a .mindir that midas_export.py wrote")
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
        shape = tuple(model.graph.input[0].tensor[0].dims)
        output = tuple(model.graph.output[0].tensor[0].dims)
    except (DecodeError, IndexError, UnicodeDecodeError):
        raise damaged from None
    if not model.HasField("mind_ir_version"):  # the file's last field: the end is missing
        raise damaged
    if len(shape) != 4 or shape[:2] != (1, 3) or output != (1, *shape[2:]) or min(shape) < 1:
        raise UserError(
            f"{path}: maps {shape} to {output}, expected one RGB image (1, 3, height, width) to "
            "its inverse depth (1, height, width)"
        )
    try:
        with _silent_stderr():  # MindSpore writes pages there before it raises
            return nn.GraphCell(ms.load(str(path))), (shape[2], shape[3])
    except (RuntimeError, ValueError, TypeError):
        raise damaged from None


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what the process writes to stderr, C++ code included."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
