"""What MindSpore computes: the network of a .ckpt or of a .mindir file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from google.protobuf.message import DecodeError
from mindspore import nn
from mindspore.nn.utils import no_init_parameters
from mindspore.train.mind_ir_pb2 import ModelProto

from src import checkpoint
from src.compile_cache import GraphStore
from src.errors import UserError
from src.fold_bn import fold
from src.midas_net import MidasNet
from src.silence import silent_stderr


class MindSporeNetwork:
    """A cell as a `Network` (predictor.py).

    Args:
        cell: maps [N, 3, h, w] to [N, h, w].
        fixed_size, fixed_batch: as in `Network`.
        graphs: where the cell's compiled graphs are kept.
    """

    def __init__(
        self,
        cell: nn.Cell,
        fixed_size: tuple[int, int] | None = None,
        fixed_batch: int | None = None,
        graphs: GraphStore | None = None,
    ) -> None:
        self.graphs = graphs or GraphStore(None, {})
        self._compiled: set[tuple[int, ...]] = set()
        self.cell = cell
        self.cell.set_train(False)
        self.fixed_size, self.fixed_batch = fixed_size, fixed_batch
        self.compiles_each_shape = fixed_size is None
        self.runtime = f"MindSpore {ms.get_context('device_target')}"

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        if batch.shape in self._compiled:
            return self._compute(batch)
        with self.graphs.compiling("x".join(map(str, batch.shape))):
            output = self._compute(batch)
        self._compiled.add(batch.shape)
        return output

    def _compute(self, batch: np.ndarray) -> np.ndarray:
        return self.cell(ms.Tensor(batch)).asnumpy()


def load_ckpt(
    path: Path,
    network: Mapping[str, Any],
    compile_cache: str | Path = "",
    fold_bn: bool = False,
) -> MindSporeNetwork:
    """The MidasNet of these arguments with the weights of a checkpoint.

    Args:
        compile_cache: folder where compiled graphs are kept; empty: nowhere.
        fold_bn: fold batch normalisation into the convolutions.

    Raises:
        UserError: as `checkpoint.load`.
    """
    with no_init_parameters():  # to draw 105 M weights takes longer than to compile
        cell = MidasNet(**network)
    checkpoint.load(cell, path)
    device = ms.get_context("device_target")
    facts = {"inference": dict(network), "fold_bn": fold_bn, "device": device}
    graphs = GraphStore(Path(compile_cache) if compile_cache else None, facts)
    return MindSporeNetwork(fold(cell) if fold_bn else cell, graphs=graphs)


def load_mindir(path: Path) -> MindSporeNetwork:
    """The network of a .mindir file, which takes one size and one number of images.

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
    if len(shape) != 4 or shape[1] != 3 or output != (shape[0], *shape[2:]) or min(shape) < 1:
        raise UserError(
            f"{path}: maps {shape} to {output}, expected RGB images (batch, 3, height, width) to "
            "their inverse depth (batch, height, width)"
        )
    try:
        with silent_stderr():
            return MindSporeNetwork(nn.GraphCell(ms.load(str(path))), shape[2:], shape[0])
    except (RuntimeError, ValueError, TypeError):
        raise damaged from None
