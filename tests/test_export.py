"""Export: what is written computes the same, and a failing export changes nothing."""

from __future__ import annotations

import os
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import nn

from src import checkpoint, export
from src.errors import UserError
from src.export import export_mindir
from src.midas_net import MidasNet

HEIGHT, WIDTH = 32, 64


@pytest.fixture
def image(exported):
    size = (1, 3, exported.height, exported.width)
    return np.random.default_rng(3).normal(size=size).astype(np.float32)


def mindir_output(path: Path, image: np.ndarray) -> np.ndarray:
    return nn.GraphCell(ms.load(str(path)))(ms.Tensor(image)).asnumpy()


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
def older(tmp_path):
    """A good file of an earlier export, alone in its folder."""
    path = tmp_path / "midas.mindir"
    path.write_bytes(b"of an earlier export")
    path.chmod(0o400)
    return path


def test_an_older_file_is_replaced_and_has_the_permissions_of_the_umask(
    exported, small_network, older
):
    before = os.umask(0o022)
    try:
        export_mindir(str(exported.ckpt), small_network, HEIGHT, WIDTH, older)
    finally:
        os.umask(before)
    assert older.stat().st_mode & 0o777 == 0o644
    assert list(older.parent.iterdir()) == [older]
    image = np.ones((1, 3, HEIGHT, WIDTH), np.float32)
    assert mindir_output(older, image).shape == (1, HEIGHT, WIDTH)


def _writes_half_and_raises(_, *__, file_name, **___):
    Path(file_name).write_bytes(b"half")
    (Path(file_name).parent / "midas_variables").mkdir()  # as MindSpore does above 1 GB
    raise RuntimeError("out of memory")


def _writes_noise(_, *__, file_name, **___):
    Path(file_name).write_bytes(b"noise")


@pytest.mark.parametrize(
    ("broken", "raised"), [(_writes_half_and_raises, RuntimeError), (_writes_noise, UserError)]
)
def test_a_failing_export_leaves_the_older_file_alone(
    exported, small_network, older, monkeypatch, broken, raised
):
    monkeypatch.setattr(ms, "export", broken)
    with pytest.raises(raised):
        export_mindir(str(exported.ckpt), small_network, HEIGHT, WIDTH, older)
    assert older.read_bytes() == b"of an earlier export"
    assert list(older.parent.iterdir()) == [older]


def test_a_file_that_computes_something_else_is_not_kept(
    exported, small_network, older, monkeypatch
):
    monkeypatch.setattr(ms, "export", _writes_noise)
    monkeypatch.setattr(
        export, "load_mindir", lambda _: (lambda x: x[:, 0] + 1e-3, (HEIGHT, WIDTH))
    )
    with pytest.raises(RuntimeError, match="differs by up to"):
        export_mindir(str(exported.ckpt), small_network, HEIGHT, WIDTH, older)
    assert older.read_bytes() == b"of an earlier export"


def test_a_folder_that_does_not_exist_is_refused(exported, small_network, tmp_path):
    with pytest.raises(UserError, match=r"export_path: .*none is no folder"):
        export_mindir(
            str(exported.ckpt), small_network, HEIGHT, WIDTH, tmp_path / "none" / "a.mindir"
        )
    assert list(tmp_path.iterdir()) == []


def test_another_suffix_is_refused(exported, small_network, tmp_path):
    with pytest.raises(UserError, match=r"export_path: .*a\.onnx should end in \.mindir"):
        export_mindir(str(exported.ckpt), small_network, HEIGHT, WIDTH, tmp_path / "a.onnx")


def test_the_checkpoint_of_another_network_is_refused(exported, small_network, older):
    wider = small_network | {"features": 32}
    with pytest.raises(UserError, match="does not fit this network"):
        export_mindir(str(exported.ckpt), wider, HEIGHT, WIDTH, older)
    assert older.read_bytes() == b"of an earlier export"


@pytest.mark.full
def test_the_full_network_is_exported_bit_for_bit(tmp_path):
    network = MidasNet().set_train(False)
    checkpoint.save(network, tmp_path / "midas.ckpt")
    export_mindir(str(tmp_path / "midas.ckpt"), {}, 384, 384, tmp_path / "midas.mindir")
    image = np.random.default_rng(4).normal(size=(1, 3, 384, 384)).astype(np.float32)
    expected = network(ms.Tensor(image)).asnumpy()
    np.testing.assert_array_equal(mindir_output(tmp_path / "midas.mindir", image), expected)
