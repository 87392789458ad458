"""Both runtimes of .onnx files: what they refuse, what they take, and in which precision."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
from onnx import TensorProto, helper

from src import onnx_runtimes
from src.errors import UserError
from src.onnx_runtimes import load_onnx

RUNTIMES = ("openvino", "onnxruntime")
FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
each_runtime = pytest.mark.parametrize("runtime", RUNTIMES)


@pytest.fixture
def model(tmp_path) -> Callable[..., Path]:
    """Writes a model of one or two nodes."""

    def write(nodes, inputs, outputs, constants=()) -> Path:
        sides = (
            [helper.make_tensor_value_info(name, kind, dims) for name, kind, dims in side]
            for side in (inputs, outputs)
        )
        graph = helper.make_graph(nodes, "g", *sides, initializer=list(constants))
        opset = [helper.make_opsetid("", 11)]
        content = helper.make_model(graph, opset_imports=opset, ir_version=6)
        path = tmp_path / "model.onnx"
        path.write_bytes(content.SerializeToString())
        return path

    return write


@pytest.fixture
def channel_mean(model) -> Callable[..., Path]:
    """Writes a model that predicts the mean of the channels."""

    def write(image, depth, kind=FLOAT, axis=1) -> Path:
        node = helper.make_node("ReduceMean", ["image"], ["depth"], axes=[axis], keepdims=0)
        return model([node], [("image", kind, image)], [("depth", kind, depth)])

    return write


def refusal(path: Path, runtime: str, capfd: pytest.CaptureFixture) -> str:
    """Why a file is refused: one line, and nothing else on stdout or stderr."""
    capfd.readouterr()
    with pytest.raises(UserError) as error:
        load_onnx(path, runtime, "float32")
    assert capfd.readouterr() == ("", "")
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


@each_runtime
def test_a_model_of_open_lengths_takes_any(channel_mean, runtime):
    network = load_onnx(channel_mean(["n", 3, "h", "w"], ["n", "h", "w"]), runtime, "float32")
    assert (network.fixed_batch, network.fixed_size) == (None, None)
    for shape in [(1, 3, 32, 64), (2, 3, 64, 32), (5, 3, 1, 1)]:
        image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        np.testing.assert_allclose(network(image), image.mean(axis=1), atol=1e-6)


@each_runtime
@pytest.mark.parametrize(
    ("image", "batch", "size"),
    [
        ([2, 3, 64, 96], 2, (64, 96)),
        (["n", 3, 64, 96], None, (64, 96)),
        ([4, 3, "h", "w"], 4, None),
    ],
)
def test_lengths_that_are_fixed_are_known(channel_mean, runtime, image, batch, size):
    path = channel_mean(image, [image[0], *image[2:]])
    network = load_onnx(path, runtime, "float32")
    assert (network.fixed_batch, network.fixed_size) == (batch, size)


@each_runtime
@pytest.mark.parametrize(
    ("image", "depth", "kind", "axis"),
    [
        (["n", 1, "h", "w"], ["n", "h", "w"], FLOAT, 1),
        (["n", "c", "h", "w"], ["n", "h", "w"], FLOAT, 1),
        (["n", 3, "h", "w"], ["n", "h", "w"], DOUBLE, 1),
        ([1, 3, 64, 96], [1, 3, 96], FLOAT, 2),
        (["n", 3, "w"], ["n", "w"], FLOAT, 1),
        ([1, 3, 64, "w"], [1, 64, "w"], FLOAT, 1),
    ],
)
def test_the_model_of_something_else_is_refused(
    channel_mean, runtime, image, depth, kind, axis, capfd
):
    text = refusal(channel_mean(image, depth, kind, axis), runtime, capfd)
    assert "expected RGB images (batch, 3, height, width) to their inverse depth" in text


@each_runtime
def test_the_published_kind_of_export_with_a_channel_is_refused(model, runtime, capfd):
    node = helper.make_node("ReduceMean", ["image"], ["depth"], axes=[1], keepdims=1)
    shapes = [("image", FLOAT, [1, 3, 64, 96])], [("depth", FLOAT, [1, 1, 64, 96])]
    text = refusal(model([node], *shapes), runtime, capfd)
    assert "maps (1, 3, 64, 96) to (1, 1, 64, 96), expected" in text


@each_runtime
def test_two_inputs_or_two_outputs_are_refused(model, runtime, capfd):
    dims = ["n", 3, "h", "w"]
    add = helper.make_node("Add", ["image", "other"], ["sum"])
    mean = helper.make_node("ReduceMean", ["sum"], ["depth"], axes=[1], keepdims=0)
    depth = ("depth", FLOAT, ["n", "h", "w"])
    images = [("image", FLOAT, dims), ("other", FLOAT, dims)]
    assert " and " in refusal(model([add, mean], images, [depth]), runtime, capfd)
    relu = helper.make_node("Relu", ["image"], ["sum"])
    two = [depth, ("sum", FLOAT, dims)]
    assert " and " in refusal(model([relu, mean], images[:1], two), runtime, capfd)


@each_runtime
def test_an_output_of_another_size_is_found_out_when_it_is_computed(model, runtime):
    """All that the file tells of it is that it has three lengths."""
    pool = helper.make_node("MaxPool", ["image"], ["half"], kernel_shape=[2, 2], strides=[2, 2])
    mean = helper.make_node("ReduceMean", ["half"], ["depth"], axes=[1], keepdims=0)
    shapes = [("image", FLOAT, ["n", 3, "h", "w"])], [("depth", FLOAT, ["n", "y", "x"])]
    network = load_onnx(model([pool, mean], *shapes), runtime, "float32")
    with pytest.raises(UserError, match=r"maps \(1, 3, 32, 64\) to \(1, 16, 32\), expected"):
        network(np.zeros((1, 3, 32, 64), np.float32))


@each_runtime
def test_what_cannot_be_computed_for_a_size_is_one_line(model, runtime):
    """A constant of 32 x 64 inside, and open lengths outside."""
    value = helper.make_tensor("c", FLOAT, [3, 32, 64], np.zeros(3 * 32 * 64))
    add = helper.make_node("Add", ["image", "c"], ["sum"])
    mean = helper.make_node("ReduceMean", ["sum"], ["depth"], axes=[1], keepdims=0)
    shapes = [("image", FLOAT, ["n", 3, "h", "w"])], [("depth", FLOAT, ["n", "h", "w"])]
    path = model([add, mean], *shapes, constants=[value])
    network = load_onnx(path, runtime, "float32")
    assert network(np.zeros((1, 3, 32, 64), np.float32)).shape == (1, 32, 64)
    with pytest.raises(UserError, match=r"cannot compute it for \(1, 3, 64, 96\)") as error:
        network(np.zeros((1, 3, 64, 96), np.float32))
    assert "\n" not in str(error.value)


@each_runtime
@pytest.mark.parametrize("kept", [0, 1, 5, 16, 100, 5000, 0.1, 0.5, 0.9, -100, -30, -4, -3, -2, -1])
def test_a_truncated_file_is_refused(exported_onnx, tmp_path, runtime, kept, capfd):
    content = exported_onnx.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    assert "not an ONNX file, or damaged" in refusal(path, runtime, capfd)


@each_runtime
@pytest.mark.parametrize(
    "content", [b"not a network\n" * 50, bytes(1000), b"\x89PNG\r\n\x1a\n" + bytes(range(256))]
)
def test_what_is_no_onnx_file_is_refused(tmp_path, runtime, content, capfd):
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    assert "not an ONNX file, or damaged" in refusal(path, runtime, capfd)


@each_runtime
def test_a_missing_file_and_a_folder_are_refused(tmp_path, runtime, capfd):
    assert "no such file" in refusal(tmp_path / "none.onnx", runtime, capfd)
    (tmp_path / "folder.onnx").mkdir()
    assert "no such file" in refusal(tmp_path / "folder.onnx", runtime, capfd)


@each_runtime
def test_a_path_with_spaces_and_umlauts_is_read(exported_onnx, tmp_path, runtime):
    path = tmp_path / "Größe 1" / "mein netz.onnx"
    path.parent.mkdir()
    path.write_bytes(exported_onnx.read_bytes())
    assert load_onnx(path, runtime, "float32").fixed_size is None


@each_runtime
def test_a_runtime_that_is_not_installed_is_named_with_its_command(
    exported_onnx, monkeypatch, runtime
):
    monkeypatch.setitem(sys.modules, runtime, None)
    with pytest.raises(UserError) as error:
        load_onnx(exported_onnx, runtime, "float32")
    assert runtime in str(error.value)
    assert str(error.value).endswith("; run 'bash scripts/setup.sh onnx'")


def test_a_package_that_is_there_but_broken_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import a_part_that_is_gone")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"cannot be imported .*a_part_that_is_gone"):
        onnx_runtimes.import_extra("half_installed")


def test_runtime_and_precision_are_told(exported_onnx):
    version = ".".join(openvino.__version__.split(".")[:2])
    assert load_onnx(exported_onnx, "openvino", "float32").runtime == f"OpenVINO {version} float32"
    told = load_onnx(exported_onnx, "onnxruntime", "float32").runtime
    assert told.startswith("ONNX Runtime ")
    assert told.endswith(" float32")


def test_bfloat16_is_refused_where_it_cannot_be_had(exported_onnx, monkeypatch):
    with pytest.raises(UserError, match="onnx_precision: onnxruntime computes in float32 alone"):
        load_onnx(exported_onnx, "onnxruntime", "bfloat16")

    class OldCpu:
        def get_property(self, *_: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino, "Core", OldCpu)
    with pytest.raises(UserError, match="onnx_precision: this CPU does not compute in bfloat16"):
        load_onnx(exported_onnx, "openvino", "bfloat16")


@pytest.fixture
def compilations(monkeypatch) -> list[tuple[list[str], dict[str, object]]]:
    """(input lengths, options) of each of OpenVINO's compilations."""
    seen = []
    compile_model = openvino.Core.compile_model

    def watched(self, model, device, options):
        compiled = compile_model(self, model, device, options)
        told = {key: compiled.get_property(key) for key in options}
        seen.append(([str(n) for n in model.inputs[0].partial_shape], told))
        return compiled

    monkeypatch.setattr(openvino.Core, "compile_model", watched)
    return seen


def test_float32_is_set_and_no_more_threads_than_cores(channel_mean, compilations, monkeypatch):
    path = channel_mean(["n", 3, "h", "w"], ["n", "h", "w"])
    load_onnx(path, "openvino", "float32")
    monkeypatch.setattr(onnx_runtimes, "_THREADS", 1)
    load_onnx(path, "openvino", "float32")
    (_, first), (_, second) = compilations
    assert first["INFERENCE_PRECISION_HINT"] == openvino.Type.f32
    assert first["INFERENCE_NUM_THREADS"] == len(os.sched_getaffinity(0))
    assert second["INFERENCE_NUM_THREADS"] == 1


def test_onnx_runtime_takes_no_more_threads_than_cores(channel_mean, monkeypatch):
    seen = []
    session = onnxruntime.InferenceSession

    def watched(path, options, **more):
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads))
        return session(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    load_onnx(channel_mean(["n", 3, "h", "w"], ["n", "h", "w"]), "onnxruntime", "float32")
    assert seen == [(len(os.sched_getaffinity(0)), 1)]


def test_openvino_compiles_once_for_all_shapes(exported_onnx, compilations):
    network = load_onnx(exported_onnx, "openvino", "float32")
    judge = load_onnx(exported_onnx, "onnxruntime", "float32")
    shapes = [(2, 3, 32, 64), (1, 3, 96, 64), (1, 3, 32, 32)]
    for shape in [*shapes, *shapes]:
        image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        expected = judge(image)
        assert np.abs(network(image) - expected).max() < 1e-5 * np.ptp(expected)
    assert [lengths for lengths, _ in compilations] == [["?", "3", "?", "?"]]


def test_the_answer_is_not_overwritten_by_the_next_one(exported_onnx):
    for runtime in RUNTIMES:
        network = load_onnx(exported_onnx, runtime, "float32")
        rng = np.random.default_rng(1)
        first, second = rng.normal(size=(2, 1, 3, 32, 32)).astype(np.float32)
        output = network(first)
        kept = output.copy()
        network(second)
        np.testing.assert_array_equal(output, kept)
