"""Export: what is written computes the same, and a failing export changes nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import mindspore as ms
import numpy as np
import onnxruntime
import pytest
import torch
from mindspore import nn
from PIL import Image

from src import checkpoint, export
from src.errors import UserError
from src.export import Job, compare, photographs
from src.export_plan import Size
from src.midas_net import MidasNet
from src.mindspore_network import load_ckpt
from tests.references import TorchMidas, randomize
from tests.weights import copy_torch_weights

SMALL = Size(32, 64, "")
WIDE = Size(64, 160, "")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def image(exported):
    size = (1, 3, exported.height, exported.width)
    return np.random.default_rng(3).normal(size=size).astype(np.float32)


@pytest.fixture
def job(exported, small_network, tmp_path) -> Job:
    """The export of a MINDIR of 32 x 64."""
    path = tmp_path / "midas.mindir"
    return Job(str(exported.ckpt), small_network, MEAN, STD, "MINDIR", path, [SMALL])


def run(job: Job) -> list[str]:
    return list(export.export(job))


def mindir_output(path: Path, image: np.ndarray) -> np.ndarray:
    return nn.GraphCell(ms.load(str(path)))(ms.Tensor(image)).asnumpy()


def noise(count: int, size: Size) -> np.ndarray:
    shape = (count, 3, size.height, size.width)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def torch_output(exported, image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return exported.reference(torch.tensor(image)).numpy()


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return np.abs(found - expected).max() / np.ptp(expected)


def test_the_file_computes_the_checkpoints_output_bit_for_bit(exported, small_network, image):
    network = MidasNet(**small_network).set_train(False)
    ms.load_param_into_net(network, ms.load_checkpoint(str(exported.ckpt)))
    expected = network(ms.Tensor(image)).asnumpy()
    np.testing.assert_array_equal(mindir_output(exported.mindir, image), expected)


def test_the_file_computes_pytorchs_output(exported, image):
    with torch.no_grad():
        expected = exported.reference(torch.tensor(image)).numpy()
    output = mindir_output(exported.mindir, image)
    assert np.abs(output - expected).max() < 1e-4 * np.ptp(expected)


def test_nothing_else_is_left_in_the_folder(exported):
    assert set(exported.mindir.parent.iterdir()) == {exported.ckpt, exported.mindir}


@pytest.fixture
def older(job):
    """A good file of an earlier export, alone in its folder."""
    job.path.write_bytes(b"of an earlier export")
    job.path.chmod(0o400)
    return job.path


def test_an_older_file_is_replaced_and_has_the_permissions_of_the_umask(job, older):
    before = os.umask(0o022)
    try:
        run(job)
    finally:
        os.umask(before)
    assert older.stat().st_mode & 0o777 == 0o644
    assert list(older.parent.iterdir()) == [older]
    assert mindir_output(older, noise(1, SMALL)).shape == (1, 32, 64)


def test_several_sizes_are_a_mindir_each_with_the_size_in_its_name(job, exported):
    lines = run(replace(job, sizes=[SMALL, WIDE], batch=2))
    for line, size, name in zip(
        lines, (SMALL, WIDE), ("midas_32x64.mindir", "midas_64x160.mindir"), strict=True
    ):
        path = job.path.with_name(name)
        assert line.startswith(f"{path}: {path.stat().st_size / 1e6:.1f} MB, 2 images of {size}")
        assert "difference from the checkpoint's output 0 of its range, tolerance 0" in line
        image = noise(2, size)
        assert relative(mindir_output(path, image), torch_output(exported, image)) < 1e-4
    assert len(list(job.path.parent.iterdir())) == 2


def test_a_folded_mindir_says_so_and_computes_the_same(job, exported):
    (line,) = run(replace(job, fold_bn=True))
    assert "BN folded into 17 convolutions" in line  # 1 + 4 x (3 + 1)
    assert "tolerance 0.0001" in line
    image = noise(1, SMALL)
    assert relative(mindir_output(job.path, image), torch_output(exported, image)) < 1e-4


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_an_onnx_of_several_sizes_is_one_file_with_a_line_for_each(job, exported, runtime):
    path = job.path.with_suffix(".onnx")
    onnx = replace(job, file_format="ONNX", path=path, sizes=[SMALL, WIDE], onnx_runtime=runtime)
    lines = run(replace(onnx, batch=2))
    assert list(path.parent.iterdir()) == [path]
    for line, size in zip(lines, (SMALL, WIDE), strict=True):
        assert line.startswith(f"{path}: {path.stat().st_size / 1e6:.1f} MB, any size and batch; ")
        assert f"2 images of {size} on {'O' if runtime == 'openvino' else 'ONNX R'}" in line
        assert "of its range, tolerance 1e-05" in line
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        image = noise(2, size)
        (found,) = session.run(None, {"image": image})
        assert relative(found, torch_output(exported, image)) < 1e-5


def test_a_path_that_mindspore_cannot_write_to_is_written_to(job):
    path = job.path.parent / "Größe 1" / "mein netz.mindir"
    path.parent.mkdir()
    run(replace(job, path=path))
    run(replace(job, path=path.with_suffix(".onnx"), file_format="ONNX"))
    assert sorted(p.suffix for p in path.parent.iterdir()) == [".mindir", ".onnx"]


# --- Exports that fail ----------------------------------------------------------------------------


def _writes_half_and_raises(_, *__, file_name, **___):
    Path(file_name).write_bytes(b"half")
    (Path(file_name).parent / "midas_variables").mkdir()  # as MindSpore does above 1 GB
    raise RuntimeError("out of memory")


def _writes_noise(_, *__, file_name, **___):
    Path(file_name).write_bytes(b"noise")


@pytest.mark.parametrize(
    ("broken", "raised"), [(_writes_half_and_raises, RuntimeError), (_writes_noise, UserError)]
)
def test_a_failing_export_leaves_the_older_file_alone(job, older, monkeypatch, broken, raised):
    monkeypatch.setattr(ms, "export", broken)
    with pytest.raises(raised):
        run(job)
    assert older.read_bytes() == b"of an earlier export"
    assert list(older.parent.iterdir()) == [older]


@pytest.fixture(scope="module")
def checkpoints_network(exported, small_network):
    return load_ckpt(exported.ckpt, small_network)


@pytest.fixture
def off_by(checkpoints_network, monkeypatch):
    """Stands for writing and loading: what is loaded is off at one pixel, by this share of the
    range, if its file has this text in its name."""

    def replace_files(share: float, name: str = "") -> None:
        def load(path: Path, *_: str):
            def network(images: np.ndarray) -> np.ndarray:
                output = checkpoints_network(images)
                if name in path.name:
                    output[-1, 3, 5] += share * np.ptp(output)
                return output

            network.runtime = "a stand-in"
            return network

        monkeypatch.setattr(export, "load_ckpt", lambda *_: checkpoints_network)
        monkeypatch.setattr(export, "load_mindir", load)
        monkeypatch.setattr(export, "load_onnx", load)
        monkeypatch.setattr(export, "write_onnx", lambda _, path, *__: path.write_bytes(b"noise"))
        monkeypatch.setattr(ms, "export", _writes_noise)

    return replace_files


@pytest.mark.parametrize(
    ("file_format", "fold", "wrong", "right"),
    [
        ("MINDIR", False, 1e-6, 0.0),
        ("MINDIR", True, 1.2e-4, 0.8e-4),
        ("ONNX", False, 1.5e-5, 0.5e-5),
        ("ONNX", True, 1.2e-4, 0.8e-4),
    ],
)
def test_a_file_that_computes_something_else_is_not_kept(
    job, off_by, file_format, fold, wrong, right
):
    path = job.path.with_suffix(f".{file_format.lower()}")
    path.write_bytes(b"of an earlier export")
    job = replace(job, file_format=file_format, fold_bn=fold, path=path)
    off_by(wrong)
    with pytest.raises(UserError, match=r"small\.ckpt at 1 image of 32x64 is not kept: ") as error:
        run(job)
    assert ("export without --fold_bn" in str(error.value)) == fold
    assert path.read_bytes() == b"of an earlier export"
    assert list(path.parent.iterdir()) == [path]
    off_by(right)
    run(job)
    assert path.read_bytes() == b"noise"


def test_the_sizes_before_one_that_fails_are_kept(job, off_by):
    off_by(1e-3, "64x160")
    with pytest.raises(UserError, match="64x160"):
        run(replace(job, sizes=[SMALL, WIDE]))
    assert [p.name for p in job.path.parent.iterdir()] == ["midas_32x64.mindir"]


def test_the_checkpoint_of_another_network_is_refused(job, small_network, older):
    with pytest.raises(UserError, match="does not fit this network"):
        run(replace(job, network=small_network | {"features": 32}))
    assert older.read_bytes() == b"of an earlier export"


def test_a_checkpoint_that_has_diverged_is_refused(job, exported, small_network):
    network = MidasNet(**small_network)
    copy_torch_weights(exported.reference, network)
    network.decoder.output_conv[4].bias.set_data(ms.Tensor(np.float32([np.inf])))
    weights = job.path.with_name("diverged.ckpt")
    checkpoint.save(network, weights)
    with pytest.raises(UserError, match="not finite; the checkpoint has diverged"):
        run(replace(job, weights=str(weights)))
    assert list(job.path.parent.iterdir()) == [weights]


def test_on_ascend_an_air_file_is_written_unchecked(job, monkeypatch):
    """As far as that can be seen elsewhere: MindSpore's own writer is replaced."""
    seen = []

    def writes_air(_, images, file_name, file_format):
        seen.append((images.shape, file_format))
        Path(file_name).write_bytes(b"air" * 100_000)

    monkeypatch.setattr(ms, "export", writes_air)
    path = job.path.with_suffix(".air")
    (line,) = run(replace(job, file_format="AIR", path=path, batch=4))
    assert path.read_bytes() == b"air" * 100_000
    assert seen == [((4, 3, 32, 64), "AIR")]
    assert line == f"{path}: 0.3 MB, 4 images of 32x64: not checked, since MindSpore cannot load it"


# --- The check itself -----------------------------------------------------------------------------


def test_the_difference_is_told_as_a_share_of_the_range():
    expected = np.float32([[[1, 2], [3, 5]]])
    text = compare(expected, expected + np.float32([[[0, 0], [0.002, 0]]]), 1e-3)
    assert text == "difference from the checkpoint's output 0.0005 of its range, tolerance 0.001"
    with pytest.raises(UserError, match=r"0\.0005 of its range, tolerance 0\.0004"):
        compare(expected, expected - np.float32([[[0, 0], [0.002, 0]]]), 4e-4)


def test_equal_outputs_are_called_so():
    expected = np.float32([[[1, 2]]])
    assert compare(expected, expected.copy(), 0).endswith(
        "0 of its range, tolerance 0 (bit for bit)"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_never_agree(value):
    good, bad = np.float32([[[1, 2]]]), np.float32([[[1, value]]])
    for expected, found in ((good, bad), (bad, good), (bad, bad)):
        with pytest.raises(UserError, match="not finite"):
            compare(expected, found, 1)


def test_an_output_that_hardly_varies_is_compared_by_its_size():
    """Its range is 0.001, of which rounding is a large part: a tenth of 2 counts instead."""
    expected = np.float32([[[2, 1.999]]])
    text = compare(expected, expected + np.float32(2e-6), 2e-5)
    assert "of a tenth of its largest value, tolerance 2e-05" in text
    with pytest.raises(UserError):
        compare(expected, expected + np.float32(8e-6), 2e-5)


def test_a_constant_output_is_compared_and_the_line_says_what_that_is_worth():
    one, zero = np.ones((1, 2, 2), np.float32), np.zeros((1, 2, 2), np.float32)
    assert "that output is constant, so this says little" in compare(one, one, 0)
    assert "that output is constant, so this says little" in compare(zero, zero, 0)
    with pytest.raises(UserError):
        compare(one, one + np.float32(1e-3), 1e-4)
    with pytest.raises(UserError):
        compare(zero, zero + np.float32(1e-9), 1e-4)


def test_the_first_image_of_a_check_is_the_whole_photograph():
    path = Path(mpl.get_data_path(), "sample_data", "grace_hopper.jpg")
    with Image.open(path) as photograph:
        small = photograph.convert("RGB").resize(
            (96, 128), Image.Resampling.BICUBIC, reducing_gap=None
        )
        wide = np.asarray(photograph.convert("RGB")).astype(float)
    (found,) = photographs(1, 128, 96, MEAN, STD)
    assert found.dtype == np.float32
    assert found.shape == (3, 128, 96)
    restored = found.transpose(1, 2, 0) * STD + MEAN  # [0, 1]
    # Two libraries' bicubic kernels differ at edges, not in the mean or in what is where.
    assert np.abs(restored.mean(axis=(0, 1)) - wide.mean(axis=(0, 1)) / 255).max() < 5e-3
    assert np.abs(restored - np.asarray(small) / 255.0).mean() < 0.05


def test_the_images_of_a_batch_all_differ():
    images = photographs(6, 64, 96, MEAN, STD)
    assert images.shape == (6, 3, 64, 96)
    for i in range(6):
        for j in range(i):
            assert np.abs(images[i] - images[j]).mean() > 0.1
            assert np.abs(images[i] - images[j][:, :, ::-1]).mean() > 0.1
    np.testing.assert_array_equal(images[:2], photographs(2, 64, 96, MEAN, STD))


@pytest.mark.full
def test_the_full_network_is_exported_bit_for_bit(tmp_path):
    reference = TorchMidas().eval()
    randomize(reference, seed=11)
    network = MidasNet().set_train(False)
    copy_torch_weights(reference, network)
    checkpoint.save(network, tmp_path / "midas.ckpt")
    path = tmp_path / "midas.mindir"
    run(Job(str(tmp_path / "midas.ckpt"), {}, MEAN, STD, "MINDIR", path, [Size(384, 384, "")]))
    image = np.random.default_rng(4).normal(size=(1, 3, 384, 384)).astype(np.float32)
    expected = network(ms.Tensor(image)).asnumpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_array_equal(mindir_output(path, image), expected)
