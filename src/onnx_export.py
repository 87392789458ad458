"""A MidasNet as an .onnx file that serves every batch and size.

MindSpore cannot export bilinear interpolation. So a copy of the network that enlarges by the
nearest neighbour is exported, and its Resize nodes are rewritten to linear interpolation by a
factor of two (https://onnx.ai/onnx/operators/onnx__Resize.html, version 11): no size stays in it.

The package `onnx`, of the extra of that name, is used here alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.cells import replace_part
from src.errors import UserError
from src.midas_net import MidasNet
from src.onnx_runtimes import import_extra
from src.runtime import mindspore_log_off
from src.upsample import Upsample2x

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

INPUT, OUTPUT = "image", "inverse_depth"
_LENGTHS = {INPUT: ("batch", 3, "height", "width"), OUTPUT: ("batch", "height", "width")}
_OPERATORS = frozenset(
    ["Conv", "BatchNormalization", "Relu", "Add", "Pad", "MaxPool", "Resize", "Squeeze", "Constant"]
)
_SCALES = "twofold"
_LINEAR = {False: "half_pixel", True: "align_corners"}


class _Nearest2x(nn.Cell):
    """Stands for an Upsample2x in the export."""

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def construct(self, x: Tensor) -> Tensor:
        size = (2 * x.shape[2], 2 * x.shape[3])
        return ops.ResizeNearestNeighbor(size, self.align_corners)(x)


def write_onnx(network: MidasNet, path: Path, mean: Sequence[float], std: Sequence[float]) -> None:
    """Write a network for inference: `image` float32 [batch, 3, height, width] ->
    `inverse_depth` float32 [batch, height, width].

    Args:
        network: is left as it is.
        path: is overwritten.
        mean, std: of the network's input, for the file's description.

    Raises:
        UserError: the package onnx is not installed, or the folder for temporary files is full.
        RuntimeError: MindSpore exported something else than is known here.
    """
    onnx = import_extra("onnx")
    image = Tensor(np.zeros((1, 3, 64, 64), np.float32))  # any size: none stays in the file
    with TemporaryDirectory() as folder:  # MindSpore takes plain ASCII paths without spaces only
        exported = Path(folder, "midas.onnx")
        with mindspore_log_off():
            ms.onnx.export(
                _with_nearest(network),
                image,
                file_name=str(exported),
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
        if not exported.is_file():  # it says nothing of that
            raise UserError(
                f"{folder}: MindSpore could not write the export here; free some space, or set "
                "TMPDIR to another folder"
            )
        model = onnx.load(exported)
    resizes = _rewrite_resizes(model.graph)
    cells = (cell for _, cell in network.cells_and_names() if isinstance(cell, Upsample2x))
    if resizes != sorted(_LINEAR[cell.align_corners] for cell in cells):
        raise RuntimeError(f"the export has other Resize nodes than the network: {resizes}")
    if unknown := {node.op_type for node in model.graph.node} - _OPERATORS:
        raise RuntimeError(f"the export has unexpected operators: {', '.join(sorted(unknown))}")
    _drop_unused(model.graph)
    _describe(model, mean, std)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _with_nearest(network: MidasNet) -> nn.Cell:
    """A copy of a network that can be exported."""
    result = copy.deepcopy(network)
    for _, cell in list(result.cells_and_names()):
        for name, part in list(cell.name_cells().items()):
            if isinstance(part, Upsample2x):
                replace_part(cell, name, _Nearest2x(part.align_corners))
    return result.set_train(False)


def _rewrite_resizes(graph: GraphProto) -> list[str]:
    """Make every Resize enlarge twofold and linearly.

    Returns:
        What each of them does with the corners, sorted.
    """
    from onnx import helper, numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.float32([1, 1, 2, 2]), _SCALES))
    modes = []
    for node in graph.node:
        if node.op_type != "Resize":
            continue
        was = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        modes.append(_LINEAR[was["coordinate_transformation_mode"] == b"align_corners"])
        del node.attribute[:]
        attributes = {"mode": "linear", "coordinate_transformation_mode": modes[-1]}
        node.attribute.extend(helper.make_attribute(*item) for item in attributes.items())
        node.input[2:] = [_SCALES]  # after the image and a region that is not used
    return sorted(modes)


def _drop_unused(graph: GraphProto) -> None:
    """Drop the constants that nothing reads: the sizes of the Resize nodes."""
    read = {name for node in graph.node for name in node.input}
    nodes = [node for node in graph.node if node.op_type != "Constant" or node.output[0] in read]
    values = [value for value in graph.initializer if value.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(values)


def _describe(model: ModelProto, mean: Sequence[float], std: Sequence[float]) -> None:
    """Open lengths, and what the numbers mean.

    In doc strings: they come before the weights, so that no cut file is whole up to its metadata.
    """
    model.producer_name = "MiDaS in MindSpore"
    model.producer_version = ms.__version__
    model.doc_string = "MidasNet (Ranftl et al., TPAMI 2022): relative depth of a photograph."
    model.graph.name = "MidasNet"
    image, depth = model.graph.input[0], model.graph.output[0]
    image.doc_string = (
        "RGB, (value / 255 - mean) / std, with mean "
        f"{_words(mean)} and std {_words(std)}; height and width are multiples of 32."
    )
    depth.doc_string = "Inverse depth up to scale and shift, >= 0; larger is closer."
    for value in (image, depth):
        dims = value.type.tensor_type.shape.dim
        for dim, length in zip(dims, _LENGTHS[value.name], strict=True):
            if isinstance(length, str):
                dim.dim_param = length


def _words(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:g}" for number in numbers)
