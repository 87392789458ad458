"""The .onnx file: what is in it, and that every runtime computes PyTorch's output with it."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from src.errors import UserError
from src.fold_bn import folded
from src.midas_net import MidasNet
from src.onnx_export import write_onnx
from src.onnx_runtimes import load_onnx
from tests.references import TorchMidas, randomize
from tests.weights import copy_torch_weights

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RUNTIMES = ("openvino", "onnxruntime")


@pytest.fixture
def network(exported, small_network) -> MidasNet:
    midas = MidasNet(**small_network).set_train(False)
    copy_torch_weights(exported.reference, midas)
    return midas


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def lengths(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_names_and_lengths_are_those_that_every_reader_relies_on(exported_onnx):
    graph = onnx.load(exported_onnx).graph
    (image,), (depth,) = graph.input, graph.output
    assert (image.name, depth.name) == ("image", "inverse_depth")
    assert lengths(image) == ["batch", 3, "height", "width"]
    assert lengths(depth) == ["batch", "height", "width"]
    for value in (image, depth):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_only_well_known_operators_and_as_many_as_the_network_has(exported_onnx, exported):
    modules = Counter(type(module).__name__ for module in exported.reference.modules())
    nodes = Counter(node.op_type for node in onnx.load(exported_onnx).graph.node)
    unused = 2  # convolutions of the coarsest block's first unit
    assert nodes.pop("Conv") == modules["Conv2d"] - unused
    assert nodes.pop("BatchNormalization") == modules["BatchNorm2d"]
    assert nodes.pop("Resize") == 5  # of four fusion blocks and the head
    assert nodes.keys() == {"Relu", "Add", "Pad", "MaxPool", "Squeeze", "Constant"}


def test_every_resize_is_bilinear_and_twofold(exported_onnx):
    graph = onnx.load(exported_onnx).graph
    constants = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
    resizes = [node for node in graph.node if node.op_type == "Resize"]
    for node in resizes:
        assert attributes(node)["mode"] == b"linear"
        _, _, scales = node.input  # and no sizes
        np.testing.assert_array_equal(constants[scales], [1, 1, 2, 2])
    modes = [attributes(node)["coordinate_transformation_mode"] for node in resizes]
    assert modes == [b"align_corners"] * 4 + [b"half_pixel"]


def test_nothing_in_the_file_is_unused_and_onnx_runtime_does_not_warn(exported_onnx, capfd):
    graph = onnx.load(exported_onnx).graph
    read = {name for node in graph.node for name in node.input}
    made = [value.name for value in graph.initializer]
    made += [node.output[0] for node in graph.node if node.op_type == "Constant"]
    assert set(made) <= read
    capfd.readouterr()
    onnxruntime.InferenceSession(str(exported_onnx), providers=["CPUExecutionProvider"])
    assert capfd.readouterr() == ("", "")


def test_the_file_tells_what_its_numbers_mean(exported_onnx):
    model = onnx.load(exported_onnx)
    assert "MiDaS" in model.producer_name
    assert "0.485 0.456 0.406" in model.graph.input[0].doc_string
    assert "0.229 0.224 0.225" in model.graph.input[0].doc_string
    assert "nverse depth" in model.graph.output[0].doc_string
    assert "larger is closer" in model.graph.output[0].doc_string


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("shape", [(1, 64, 96), (3, 64, 96), (1, 32, 32), (2, 160, 64)])
def test_every_size_and_batch_gives_pytorchs_output(exported_onnx, exported, runtime, shape):
    count, height, width = shape
    image = np.random.default_rng(1).normal(size=(count, 3, height, width)).astype(np.float32)
    with torch.no_grad():
        expected = exported.reference(torch.tensor(image)).numpy()
    found = load_onnx(exported_onnx, runtime, "float32")(image)
    assert found.dtype == np.float32
    assert found.shape == shape
    assert np.abs(found - expected).max() < 1e-5 * np.ptp(expected)


def test_a_folded_network_has_no_batch_norm_and_the_same_output(network, exported, tmp_path):
    path = tmp_path / "folded.onnx"
    write_onnx(folded(network), path, MEAN, STD)
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert "BatchNormalization" not in operators
    image = np.random.default_rng(2).normal(size=(1, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        expected = exported.reference(torch.tensor(image)).numpy()
    for runtime in RUNTIMES:
        found = load_onnx(path, runtime, "float32")(image)
        assert np.abs(found - expected).max() < 1e-4 * np.ptp(expected)


def test_the_exported_network_itself_goes_on_as_before(network, tmp_path):
    image = ms.Tensor(np.random.default_rng(3).normal(size=(1, 3, 64, 64)).astype(np.float32))
    before = network(image).asnumpy()
    write_onnx(network, tmp_path / "a.onnx", MEAN, STD)
    np.testing.assert_array_equal(network(image).asnumpy(), before)


def _another_operator(graph: onnx.GraphProto) -> None:
    next(node for node in graph.node if node.op_type == "Relu").op_type = "Softplus"


def _a_resize_less(graph: onnx.GraphProto) -> None:
    next(node for node in graph.node if node.op_type == "Resize").op_type = "Relu"


def _another_corner(graph: onnx.GraphProto) -> None:
    last = [node for node in graph.node if node.op_type == "Resize"][-1]
    for each in last.attribute:
        if each.name == "coordinate_transformation_mode":
            each.s = b"align_corners"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_another_operator, "unexpected operators: Softplus"),
        (_a_resize_less, "other Resize nodes"),
        (_another_corner, "other Resize nodes"),
    ],
)
def test_what_mindspore_exports_differently_one_day_is_noticed(
    network, tmp_path, monkeypatch, spoil, message
):
    export = ms.onnx.export

    def exports_something_else(*arguments: object, file_name: str, **options: object) -> None:
        export(*arguments, file_name=file_name, **options)
        model = onnx.load(file_name)
        spoil(model.graph)
        Path(file_name).write_bytes(model.SerializeToString())

    monkeypatch.setattr(ms.onnx, "export", exports_something_else)
    with pytest.raises(RuntimeError, match=message):
        write_onnx(network, tmp_path / "a.onnx", MEAN, STD)
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_extra_is_named(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"onnx .*; run 'bash scripts/setup\.sh onnx'"):
        write_onnx(network, tmp_path / "a.onnx", MEAN, STD)


@pytest.mark.full
@pytest.mark.parametrize("fold", [False, True])
def test_the_full_network_gives_pytorchs_output_at_two_sizes(tmp_path, fold):
    reference = TorchMidas().eval()
    randomize(reference, seed=9)
    midas = MidasNet().set_train(False)
    copy_torch_weights(reference, midas)
    write_onnx(folded(midas) if fold else midas, tmp_path / "full.onnx", MEAN, STD)
    for size in ((384, 384), (160, 384)):
        image = np.random.default_rng(10).normal(size=(1, 3, *size)).astype(np.float32)
        checkpoint = midas(ms.Tensor(image)).asnumpy()
        assert np.ptp(checkpoint) > 0.1
        with torch.no_grad():
            torchs = reference(torch.tensor(image)).numpy()
        for runtime in RUNTIMES:
            found = load_onnx(tmp_path / "full.onnx", runtime, "float32")(image)
            for expected in (checkpoint, torchs):
                share = np.abs(found - expected).max() / np.ptp(expected)
                assert share < (1e-4 if fold else 1e-5), (runtime, size)


def test_a_full_folder_for_temporary_files_is_named(network, tmp_path, monkeypatch):
    monkeypatch.setattr(ms.onnx, "export", lambda *_, **__: None)  # it says nothing then
    with pytest.raises(UserError, match="could not write the export here; free some space"):
        write_onnx(network, tmp_path / "a.onnx", MEAN, STD)
    assert not (tmp_path / "a.onnx").exists()
