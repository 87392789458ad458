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

from src import checkpoint
from src.data import transforms
from src.data.transforms import ResizeRule
from src.errors import UserError
from src.midas_net import MidasNet

LOG = logging.getLogger("midas")


class Predictor:
    """A trained network, from a .ckpt or a .mindir.

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
        self._seen: set[tuple[int, int]] = set()
        path = Path(weights)
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
        """The one size that a .mindir takes, in words; empty for a .ckpt."""
        if self.fixed_size is None:
            return ""
        return f"{self.fixed_size[1]}x{self.fixed_size[0]}, fixed by the MINDIR,"

    def predict(self, image: np.ndarray, rule: ResizeRule) -> np.ndarray:
        """Relative inverse depth of one image.

        Args:
            image: uint8 [H, W, 3], RGB.
            rule: how the image is resized for the network. A .mindir has one size and is fed
                that, whatever the rule.

        Returns:
            float32 [H, W], >= 0, larger is closer, up to scale and shift.

        Raises:
            UserError: the prediction is not finite.
        """
        height, width = image.shape[:2]
        size = self.fixed_size or rule.output_size(height, width)
        resized = transforms.resize_image(image, *size)
        batch = transforms.normalize(resized, self.mean, self.std)[None]
        prediction = self.run(batch)[0]
        if not np.isfinite(prediction).all():
            raise UserError("weights: the prediction is not finite; this checkpoint has diverged")
        return transforms.resize_prediction(prediction, height, width)

    def run(self, batch: np.ndarray) -> np.ndarray:
        """The bare network: normalised float32 [B, 3, h, w] to inverse depth float32 [B, h, w]."""
        size = batch.shape[2:]
        if size not in self._seen:
            self._seen.add(size)
            if self.fixed_size is None:
                LOG.info("compiling the network for %dx%d images (once)", *size[::-1])
        return self.network(ms.Tensor(batch)).asnumpy()


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
