"""Export of a trained network: MINDIR."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

from src import checkpoint
from src.errors import UserError
from src.midas_net import MidasNet
from src.predictor import load_mindir


def export_mindir(
    weights: str, network: Mapping[str, Any], height: int, width: int, path: Path
) -> None:
    """Write a checkpoint's network for one image of a fixed size, and check what was written.

    The file is loaded again and must give the checkpoint's output bit for bit.

    Args:
        weights: the .ckpt file.
        network: the arguments of MidasNet.
        height, width: of the input in pixels, multiples of 32.
        path: the .mindir to write; replaced only by a file that passed the check.

    Raises:
        UserError: the checkpoint does not fit, or `path` cannot be written.
        RuntimeError: the exported network computes something else.
    """
    if path.suffix != ".mindir":
        raise UserError(f"export_path: {path} should end in .mindir")
    if not path.parent.is_dir():
        raise UserError(f"export_path: {path.parent} is no folder; create it first")
    net = MidasNet(**network)
    checkpoint.load(net, weights)
    net.set_train(False)
    image = np.random.default_rng(0).normal(size=(1, 3, height, width)).astype(np.float32)
    # MindSpore exports to plain ASCII paths without spaces only, so not to `path` itself.
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder, "midas.mindir")
        ms.export(net, ms.Tensor(image), file_name=str(exported), file_format="MINDIR")
        reloaded, _ = load_mindir(exported)
        difference = np.abs(reloaded(ms.Tensor(image)).asnumpy() - net(ms.Tensor(image)).asnumpy())
        if difference.any():
            raise RuntimeError(f"the exported network differs by up to {difference.max():g}")
        with checkpoint.whole_file(path) as target:
            shutil.copyfile(exported, target)
