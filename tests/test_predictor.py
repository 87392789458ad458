"""Predictor: what goes in and out, from all kinds of file, and damaged files."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from mindspore import nn
from mindspore.train.mind_ir_pb2 import ModelProto
from onnx import TensorProto, helper

from src import checkpoint
from src.data.transforms import ResizeRule
from src.errors import UserError
from src.export import Job, export
from src.export_plan import Size
from src.mindspore_network import MindSporeNetwork, load_mindir
from src.predictor import Predictor, needs_mindspore
from tests.stand_ins import resampled

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RULE = ResizeRule(width=96, height=64, keep_aspect_ratio=False)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [H, W, 3]: a different ramp in each channel, and noise."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 200, width)[None, :, None] * np.array([1.0, 0.5, 0.1])
    return (ramp + rng.integers(0, 55, (height, width, 3))).astype(np.uint8)


@pytest.fixture(scope="module")
def predictors(exported, small_network):
    """The same network from a .ckpt and from a .mindir."""
    return tuple(
        Predictor(file, small_network, MEAN, STD) for file in (exported.ckpt, exported.mindir)
    )


@pytest.fixture(scope="module")
def unfolded(exported, small_network):
    """The .ckpt with the batch normalisations that the .mindir has too."""
    return Predictor(exported.ckpt, small_network, MEAN, STD, fold_bn=False)


@pytest.fixture(scope="module")
def onnx_predictor(exported_onnx, small_network):
    return Predictor(exported_onnx, small_network, MEAN, STD)


def refusal(path, small_network, capfd) -> str:
    """Why a file is refused: one line, and nothing else on stdout or stderr."""
    capfd.readouterr()
    with pytest.raises(UserError) as error:
        Predictor(path, small_network, MEAN, STD)
    assert capfd.readouterr() == ("", "")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_ckpt_and_a_mindir_agree_in_every_bit(unfolded, predictors, exported):
    batch = np.random.default_rng(1).normal(size=(1, 3, exported.height, exported.width))
    batch = batch.astype(np.float32)
    ckpt, mindir = unfolded.run(batch), predictors[1].run(batch)
    assert ckpt.dtype == np.float32
    assert ckpt.shape == (1, exported.height, exported.width)
    np.testing.assert_array_equal(ckpt, mindir)


def test_a_photograph_gives_the_same_from_both(unfolded, predictors):
    image = photograph(50, 75)
    ckpt, mindir = unfolded.predict(image, RULE), predictors[1].predict(image, RULE)
    assert ckpt.dtype == np.float32
    assert ckpt.shape == (50, 75)
    assert np.isfinite(ckpt).all()
    assert ckpt.min() >= 0
    np.testing.assert_array_equal(ckpt, mindir)


def test_a_ckpt_is_folded_which_changes_hardly_anything(unfolded, predictors, exported):
    """Within 1e-5 of the range of what the checkpoint's own layers compute."""
    found, wanted = (
        [cell for _, cell in predictor.network.cell.cells_and_names()]
        for predictor in (predictors[0], unfolded)
    )
    assert sum(isinstance(cell, nn.BatchNorm2d) for cell in wanted) == 17
    assert not any(isinstance(cell, nn.BatchNorm2d) for cell in found)
    inputs = inputs_of(4)
    folded, own = predictors[0].run(inputs, 4), unfolded.run(inputs, 4)
    assert np.abs(folded - own).max() < 1e-5 * np.ptp(own)
    with torch.no_grad():
        expected = exported.reference(torch.tensor(np.stack(inputs))).numpy()
    assert np.abs(folded - expected).max() < 1e-4 * np.ptp(expected)


def test_an_image_of_the_networks_size_is_normalised_and_predicted_as_in_pytorch(
    predictors, exported
):
    image = photograph(exported.height, exported.width)
    # By hand: RGB in [0, 1] minus the mean, over the deviation, channels first.
    normalised = (image.astype(np.float64) / 255 - MEAN) / STD
    batch = torch.tensor(normalised.transpose(2, 0, 1)[None].astype(np.float32))
    with torch.no_grad():
        expected = exported.reference(batch).numpy()[0]
    for predictor in predictors:
        output = predictor.predict(image, RULE)
        assert np.abs(output - expected).max() < 1e-4 * np.ptp(expected)
    swapped = predictors[0].predict(image[:, :, ::-1], RULE)  # BGR must not pass for RGB
    assert np.abs(swapped - expected).max() > 1e-2 * np.ptp(expected)


def test_a_mindir_takes_its_own_size_whatever_the_rule(predictors, exported):
    _, mindir = predictors
    assert mindir.fixed_size == (exported.height, exported.width)
    image = photograph(40, 33)
    large = ResizeRule(width=512, height=512, method="lower_bound")
    np.testing.assert_array_equal(mindir.predict(image, large), mindir.predict(image, RULE))


def test_a_mindir_needs_no_description_of_the_network(exported, small_network):
    wrong = small_network | {"features": 64}
    assert Predictor(exported.mindir, wrong, MEAN, STD).fixed_size is not None


@pytest.mark.parametrize("name", ["weights", "weights.air", "weights.ckpt.txt"])
def test_another_suffix_is_refused(tmp_path, small_network, capfd, name):
    path = tmp_path / name
    path.write_bytes(b"anything")
    text = refusal(path, small_network, capfd)
    assert str(path) in text
    assert ".ckpt, a .mindir or an .onnx file" in text


def test_no_weights_at_all_are_refused(small_network, capfd):
    assert ".ckpt, a .mindir or an .onnx file" in refusal("", small_network, capfd)


@pytest.mark.parametrize("suffix", [".ckpt", ".mindir", ".onnx"])
def test_a_missing_file_and_a_folder_are_refused(tmp_path, small_network, capfd, suffix):
    assert "no such" in refusal(tmp_path / f"none{suffix}", small_network, capfd)
    (tmp_path / f"folder{suffix}").mkdir()
    assert "no such" in refusal(tmp_path / f"folder{suffix}", small_network, capfd)


@pytest.fixture
def damaged(exported, tmp_path, small_network, capfd):
    """Writes bytes as a .mindir and returns why it is refused."""

    def refuse(content: bytes) -> str:
        path = tmp_path / "damaged.mindir"
        path.write_bytes(content)
        text = refusal(path, small_network, capfd)
        assert str(path) in text
        return text

    return refuse


# -2 is the end of the last but one field: what is left parses and lacks only a version number.
@pytest.mark.parametrize(
    "kept", [0, 1, 5, 16, 24, 100, 5000, 0.1, 0.5, 0.9, -9000, -1000, -100, -30, -3, -2, -1]
)
def test_a_truncated_mindir_is_refused(damaged, exported, kept):
    content = exported.mindir.read_bytes()
    end = int(kept * len(content)) if isinstance(kept, float) else kept
    assert "damaged" in damaged(content[:end])


@pytest.mark.parametrize(
    "content", [b"not a network\n" * 50, bytes(1000), b"\x89PNG\r\n\x1a\n" + bytes(range(256))]
)
def test_what_is_no_mindir_is_refused(damaged, content):
    assert "damaged" in damaged(content)


def test_random_bytes_are_refused(damaged):
    for seed in range(20):
        assert "damaged" in damaged(np.random.default_rng(seed).bytes(10_000))


def _renamed_parameter(graph):
    graph.parameter[5].name = "renamed"


def _node_without_source(graph):
    graph.node[50].input[0] = "nowhere"


def _unknown_operator(graph):
    graph.node[50].op_type = "REF::unknown"


@pytest.mark.parametrize("spoil", [_renamed_parameter, _node_without_source, _unknown_operator])
def test_a_graph_that_does_not_hang_together_is_refused(damaged, exported, spoil):
    # MindSpore finds out by itself, and would print pages about it.
    model = ModelProto()
    model.ParseFromString(exported.mindir.read_bytes())
    spoil(model.graph)
    assert "damaged" in damaged(model.SerializeToString())


def test_a_broken_text_is_refused(damaged, exported):
    content = exported.mindir.read_bytes()
    assert "damaged" in damaged(content.replace(b"MindSpore", b"Mind\xff\xfe\xffre", 1))


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ((1, 1, 28, 28), (1, 28, 28)),
        ((2, 3, 64, 96), (1, 64, 96)),
        ((0, 3, 64, 96), (0, 64, 96)),
        ((1, 3, 64, 96), (1, 1000)),
        ((1, 3, -1, -1), (1, -1, -1)),
        ((1, 3), (1, 3)),
    ],
)
def test_the_mindir_of_another_network_is_refused(damaged, exported, inputs, outputs):
    model = ModelProto()
    model.ParseFromString(exported.mindir.read_bytes())
    model.graph.input[0].tensor[0].dims[:] = inputs
    model.graph.output[0].tensor[0].dims[:] = outputs
    assert str(inputs) in damaged(model.SerializeToString())


def test_stderr_is_back_after_a_damaged_file(damaged, exported, capfd):
    model = ModelProto()
    model.ParseFromString(exported.mindir.read_bytes())
    _node_without_source(model.graph)
    damaged(model.SerializeToString())
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


def test_load_mindir_returns_the_size(exported):
    network = load_mindir(exported.mindir)
    assert network.fixed_size == (exported.height, exported.width)
    assert network.fixed_batch == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_prediction_that_is_not_finite_is_refused(
    predictors, onnx_predictor, monkeypatch, which, value
):
    """One such pixel of one image is enough."""
    predictor = (*predictors, onnx_predictor)[which]
    network = predictor.network
    compute = type(network).__call__

    def diverged(_, batch: np.ndarray) -> np.ndarray:
        output = compute(network, batch)
        output[-1, 7, 9] = value
        return output

    monkeypatch.setattr(type(network), "__call__", diverged)
    with pytest.raises(UserError, match="not finite; its training has diverged"):
        predictor.predict(photograph(64, 96), ResizeRule(96, 64))
    with pytest.raises(UserError, match="not finite"):
        predictor.run(inputs_of(3), batch_size=3)


# --- What an evaluation needs: sizes, batches, upsampling -----------------------------------------


def inputs_of(count: int) -> list[np.ndarray]:
    """Different inputs of the size that the .mindir takes."""
    rng = np.random.default_rng(count)
    return list(rng.normal(size=(count, 3, 64, 96)).astype(np.float32))


def test_input_size_is_that_of_the_rule_or_of_the_mindir(predictors):
    ckpt, mindir = predictors
    rule = ResizeRule(width=384, height=384, method="lower_bound")
    # By hand: 384/375 for the height, 1242 * 384/375 = 1271.8, nearest multiple of 32: 1280.
    assert ckpt.input_size(375, 1242, rule) == (384, 1280)
    assert mindir.input_size(375, 1242, rule) == (64, 96)
    assert ckpt.fixed_size_text == ""
    assert mindir.fixed_size_text.startswith("96x64")


def test_prepare_resizes_and_normalises(predictors):
    image = np.zeros((20, 30, 3), np.uint8)
    image[...] = (255, 51, 0)
    expected = [(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0 - 0.406) / 0.225]
    small = ResizeRule(width=64, height=32, keep_aspect_ratio=False)
    for predictor, size in zip(predictors, [(32, 64), (64, 96)], strict=True):
        prepared = predictor.prepare(image, small)
        assert prepared.dtype == np.float32
        assert prepared.shape == (3, *size)
        assert prepared.flags.c_contiguous
        for channel, value in zip(prepared, expected, strict=True):
            np.testing.assert_allclose(channel, value, rtol=1e-5)


def test_threads_prepare_what_one_thread_does(predictors):
    images = [photograph(50 + i, 75, seed=i) for i in range(16)]
    one_by_one = [predictors[0].prepare(image, RULE) for image in images]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda image: predictors[0].prepare(image, RULE), images))
    np.testing.assert_array_equal(together, one_by_one)


def test_a_batch_gives_each_input_its_own_prediction(predictors, exported):
    inputs = inputs_of(3)
    with torch.no_grad():
        expected = exported.reference(torch.tensor(np.stack(inputs))).numpy()
    for predictor in predictors:
        for count in (3, 2, 1):
            found = predictor.run(inputs[:count], batch_size=3)
            assert found.shape == (count, 64, 96)
            assert found.dtype == np.float32
            assert np.abs(found - expected[:count]).max() < 1e-4 * np.ptp(expected)


def test_a_batch_is_filled_up_so_that_the_network_is_compiled_once_for_each_size(
    exported, small_network, monkeypatch, caplog
):
    predictor = Predictor(exported.ckpt, small_network, MEAN, STD)
    compute, shapes = MindSporeNetwork.__call__, []

    def watched(network: MindSporeNetwork, batch: np.ndarray) -> np.ndarray:
        shapes.append(batch.shape)
        return compute(network, batch)

    monkeypatch.setattr(MindSporeNetwork, "__call__", watched)
    caplog.set_level(logging.INFO, logger="midas")
    for count in (3, 1, 2, 3):
        predictor.run(inputs_of(count), batch_size=3)
    assert shapes == [(3, 3, 64, 96)] * 4
    (said,) = caplog.messages
    assert "96x64" in said
    assert "3 at a time" in said
    caplog.clear()
    predictor.run([np.zeros((3, 32, 64), np.float32)])
    predictor.run([np.zeros((3, 32, 64), np.float32)])
    assert shapes[4:] == [(1, 3, 32, 64)] * 2
    (said,) = caplog.messages
    assert "64x32" in said
    assert "at a time" not in said


def test_what_a_batch_is_filled_up_with_does_not_matter(predictors):
    """Bit for bit: otherwise the last image of a data set would depend on the filling."""
    first, second, third = inputs_of(3)
    filled = predictors[0].run([first], batch_size=3)[0]
    full = predictors[0].run([first, second, third], batch_size=3)[0]
    np.testing.assert_array_equal(filled, full)


def test_a_mindir_takes_one_input_at_a_time_and_says_nothing(predictors, caplog):
    caplog.set_level(logging.INFO, logger="midas")
    inputs = inputs_of(3)
    together = predictors[1].run(inputs, batch_size=3)
    alone = [predictors[1].run([input_])[0] for input_ in inputs]
    np.testing.assert_array_equal(together, alone)
    assert not caplog.messages


@pytest.mark.parametrize("upsampling", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(64, 96), (90, 101), (33, 40)])
def test_a_prediction_is_resized_to_the_image_by_the_given_interpolation(
    predictors, upsampling, size
):
    image = photograph(*size)
    small = predictors[0].run([predictors[0].prepare(image, RULE)])[0]
    expected = resampled(small, *size, upsampling)
    found = predictors[0].predict(image, RULE, upsampling)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.ptp(small), rtol=0)
    if upsampling == "bilinear":
        np.testing.assert_array_equal(found, predictors[0].predict(image, RULE))


def test_predict_may_use_the_network_compiled_for_batches(predictors):
    image = photograph(50, 75)
    alone = predictors[0].predict(image, RULE)
    in_batch = predictors[0].predict(image, RULE, "bilinear", 3)
    assert np.abs(alone - in_batch).max() < 1e-5 * np.ptp(alone)


# --- Files of a fixed batch, and .onnx files ------------------------------------------------------


@pytest.fixture(scope="module")
def pairs(exported, small_network, tmp_path_factory) -> Predictor:
    """A .mindir that takes two images at a time."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.mindir"
    size = Size(exported.height, exported.width, "")
    job = Job(str(exported.ckpt), small_network, MEAN, STD, "MINDIR", path, [size], batch=2)
    list(export(job))
    return Predictor(path, small_network, MEAN, STD)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [5, 8])
def test_a_mindir_of_a_fixed_batch_gives_each_input_its_own_prediction(
    pairs, exported, count, batch_size
):
    inputs = inputs_of(count)
    with torch.no_grad():
        expected = exported.reference(torch.tensor(np.stack(inputs))).numpy()
    found = pairs.run(inputs, batch_size)
    assert found.shape == (count, 64, 96)
    assert np.abs(found - expected).max() < 1e-4 * np.ptp(expected)


def test_a_mindir_of_a_fixed_batch_predicts_a_photograph_and_says_what_it_costs(
    exported, pairs, small_network, caplog
):
    fresh = Predictor(pairs.path, small_network, MEAN, STD)
    caplog.set_level(logging.INFO, logger="midas")
    image = photograph(50, 75)
    expected = Predictor(exported.ckpt, small_network, MEAN, STD).predict(image, RULE)
    caplog.clear()
    for _ in range(2):
        found = fresh.predict(image, RULE)
        assert np.abs(found - expected).max() < 1e-4 * np.ptp(expected)
    assert caplog.messages == [f"{pairs.path} computes 2 images at a time, used or not"]


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_an_onnx_predicts_photographs_of_any_size_as_the_checkpoint(
    predictors, exported_onnx, runtime
):
    predictor = Predictor(exported_onnx, {}, MEAN, STD, runtime)
    assert predictor.fixed_size is None
    assert predictor.fixed_size_text == ""
    for shape, rule in [((50, 75), RULE), ((90, 40), ResizeRule(64, 64))]:
        image = photograph(*shape)
        expected = predictors[0].predict(image, rule)
        found = predictor.predict(image, rule)
        assert found.dtype == np.float32
        assert found.shape == shape
        assert np.abs(found - expected).max() < 1e-5 * np.ptp(expected)


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_an_onnx_takes_batches(predictors, exported_onnx, runtime):
    predictor = Predictor(exported_onnx, {}, MEAN, STD, runtime)
    inputs = inputs_of(3)
    for count in (3, 1):
        expected = predictors[0].run(inputs[:count], batch_size=3)
        found = predictor.run(inputs[:count], batch_size=3)
        assert found.shape == (count, 64, 96)
        assert np.abs(found - expected).max() < 1e-5 * np.ptp(expected)


def test_an_onnx_of_fixed_size_and_batch_is_fed_accordingly(tmp_path):
    """The mean of the channels of two images of 32 x 64."""
    node = helper.make_node("ReduceMean", ["image"], ["depth"], axes=[1], keepdims=0)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [2, 3, 32, 64])
    depth = helper.make_tensor_value_info("depth", TensorProto.FLOAT, [2, 32, 64])
    graph = helper.make_graph([node], "g", [image], [depth])
    opset = [helper.make_opsetid("", 11)]
    path = tmp_path / "fixed.onnx"
    model = helper.make_model(graph, opset_imports=opset, ir_version=6)
    path.write_bytes(model.SerializeToString())
    predictor = Predictor(path, {}, (0, 0, 0), (1, 1, 1))
    assert predictor.fixed_size_text == "64x32"
    inputs = np.random.default_rng(0).normal(size=(5, 3, 32, 64)).astype(np.float32)
    np.testing.assert_allclose(predictor.run(inputs, 5), inputs.mean(axis=1), atol=1e-6)
    grey = np.full((40, 30, 3), 51, np.uint8)
    np.testing.assert_allclose(predictor.predict(grey, RULE), 0.2, atol=1e-6)


def test_what_computes_is_told(predictors, onnx_predictor):
    assert [predictor.runtime for predictor in predictors] == ["MindSpore CPU"] * 2
    assert onnx_predictor.runtime.startswith("OpenVINO 20")
    assert onnx_predictor.runtime.endswith(" float32")


def test_only_onnx_files_do_without_mindspore():
    assert not needs_mindspore("a.onnx")
    assert all(needs_mindspore(name) for name in ("a.ckpt", "a.mindir", "a.onnx.ckpt", "a", ""))


def test_an_onnx_is_predicted_without_importing_mindspore(exported_onnx):
    code = (
        "import sys; from src.predictor import Predictor; import numpy as np;"
        f"p = Predictor({str(exported_onnx)!r}, {{}}, (0, 0, 0), (1, 1, 1));"
        "p.run(np.zeros((1, 3, 32, 32), np.float32)); print('mindspore' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[1]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, "False"), ran.stderr


PREDICTS = """
import sys
import numpy as np
from src import runtime
runtime.start("CPU")
from src.predictor import Predictor
graphs, network, inputs, *weights = sys.argv[1:]
for path in weights:
    predictor = Predictor(path, eval(network), (0, 0, 0), (1, 1, 1), compile_cache=graphs)
    np.save(path + ".npy", predictor.run(np.load(inputs), 3))
"""


def test_kept_graphs_hold_no_weights(exported, small_network, predictors, tmp_path):
    """Two checkpoints, each predicted in a process of its own, and again both in one: the second
    of these comes after a graph of the same shape."""
    first, second = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    first.write_bytes(exported.ckpt.read_bytes())
    values = checkpoint.read(exported.ckpt)
    weight = values["decoder.output_conv.2.weight"].asnumpy()
    halved = {name: value.asnumpy() for name, value in values.items()}
    halved["decoder.output_conv.2.weight"] = weight / 2
    checkpoint.save_values(halved, second)
    np.save(tmp_path / "inputs.npy", np.stack(inputs_of(3)))
    expected = [
        Predictor(path, small_network, MEAN, STD).run(inputs_of(3), 3) for path in (first, second)
    ]
    assert np.abs(expected[0] - expected[1]).max() > 0.01 * np.ptp(expected[0])
    root, program = Path(__file__).resolve().parents[1], tmp_path / "program.py"
    program.write_text(PREDICTS)
    common = [str(tmp_path / "graphs"), repr(small_network), str(tmp_path / "inputs.npy")]
    for files in ([first], [second], [second, first]):
        command = [sys.executable, program, *common, *map(str, files)]
        ran = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        assert len(list((tmp_path / "graphs").rglob("3x3x64x96.mindir"))) == 1
        for path, wanted in zip((first, second), expected, strict=True):
            if path in files:
                np.testing.assert_array_equal(np.load(f"{path}.npy"), wanted)
                Path(f"{path}.npy").unlink()
