"""Checkpoints: whole or not there, read strictly, and every mismatch explained."""

from __future__ import annotations

import errno
import os
import re
import shlex
import zlib
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from src import checkpoint
from src.config import load_config
from src.errors import UserError
from src.midas_net import MidasNet


def drawn(arguments, seed: int) -> MidasNet:
    """A network of which no parameter or statistic has its default value."""
    rng = np.random.default_rng(seed)
    network = MidasNet(**arguments)
    for parameter in network.get_parameters():
        parameter.set_data(ms.Tensor(rng.normal(size=parameter.shape).astype(np.float32)))
    return network


def values(network: MidasNet) -> dict[str, bytes]:
    return {p.name: p.asnumpy().tobytes() for p in network.get_parameters()}


@pytest.fixture(scope="module")
def network(small_network):
    return drawn(small_network, seed=0)


@pytest.fixture
def saved(network, tmp_path):
    path = tmp_path / "run" / "ckpt" / "Midas_0-1_2.ckpt"
    path.parent.mkdir(parents=True)
    checkpoint.save(network, path)
    return path


@pytest.fixture(scope="module")
def other(small_network):
    """A network of the same shape and other weights, which nothing may change."""
    return drawn(small_network, seed=1)


def refusal(network: MidasNet, path: Path, capfd) -> str:
    """Why `path` is not loaded: one line, with no other output and the network unchanged."""
    before = values(network)
    capfd.readouterr()
    with pytest.raises(UserError) as error:
        checkpoint.load(network, path)
    assert capfd.readouterr() == ("", "")
    assert values(network) == before
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_round_trip_keeps_every_bit(network, small_network, saved):
    loaded = drawn(small_network, seed=2)
    checkpoint.load(loaded, saved)
    assert values(loaded) == values(network)


def test_mindspore_reads_the_file_by_itself(network, saved):
    content = {name: p.asnumpy().tobytes() for name, p in ms.load_checkpoint(str(saved)).items()}
    assert content == values(network)


def test_an_older_file_is_replaced_in_one_step(network, other, saved, tmp_path):
    os.link(saved, tmp_path / "older.ckpt")
    older = saved.read_bytes()
    checkpoint.save(other, saved)
    assert (tmp_path / "older.ckpt").read_bytes() == older  # moved over, not written over
    loaded = ms.load_checkpoint(str(saved))
    assert {name: p.asnumpy().tobytes() for name, p in loaded.items()} == values(other)
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_file_has_the_permissions_of_the_umask(network, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        checkpoint.save(network, tmp_path / "a.ckpt")
    finally:
        os.umask(before)
    assert (tmp_path / "a.ckpt").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("damage", [RuntimeError("killed"), KeyboardInterrupt()])
def test_a_failing_save_leaves_the_old_file_alone(network, saved, monkeypatch, damage):
    old = saved.read_bytes()

    def half_a_file(_, path, **__):
        Path(path).write_bytes(old[:1000])
        Path(path).with_suffix(".tmp").write_bytes(old[:1000])  # as MindSpore does on its way
        raise damage

    monkeypatch.setattr(ms, "save_checkpoint", half_a_file)
    with pytest.raises(type(damage)):
        checkpoint.save(network, saved)
    assert saved.read_bytes() == old
    assert list(saved.parent.iterdir()) == [saved]


def test_a_full_disk_is_told_in_one_line(network, saved, monkeypatch):
    def no_space(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(ms, "save_checkpoint", no_space)
    with pytest.raises(UserError, match=r"Midas_0-1_2\.ckpt: cannot be written \(No space left"):
        checkpoint.save(network, saved)
    assert list(saved.parent.iterdir()) == [saved]


def test_a_missing_folder_is_told_in_one_line(network, tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        checkpoint.save(network, tmp_path / "none" / "a.ckpt")


def test_a_missing_file_and_a_folder_are_refused(other, tmp_path, capfd):
    assert "no such" in refusal(other, tmp_path / "none.ckpt", capfd)
    assert "no such" in refusal(other, tmp_path, capfd)


def test_no_damaged_bit_ends_the_process_or_goes_unnoticed_in_the_sizes(
    small_network, saved, capfd
):
    """MindSpore's own reader crashes on sizes that do not fit the values.

    The file is one without a checksum, as MindSpore writes it unless asked for one.
    """
    ms.save_checkpoint(MidasNet(**small_network), str(saved))
    saved.chmod(0o600)
    data = saved.read_bytes()
    shapes = {p.name: p.shape for p in MidasNet(**small_network).get_parameters()}
    accepted = 0
    for bit in range(8 * 60):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        saved.write_bytes(damaged)
        try:
            found = {name: p.shape for name, p in checkpoint.read(saved).items()}
        except UserError as error:
            assert str(saved) in str(error)
            continue
        accepted += 1  # a letter of a name, a value, or a size that the network's will not match
        assert sum(np.prod(s) for s in found.values()) <= sum(np.prod(s) for s in shapes.values())
    assert 0 < accepted < 8 * 60
    assert capfd.readouterr() == ("", "")


def test_a_file_ends_with_the_checksum_that_mindspore_documents(saved):
    """crc_check of `mindspore.save_checkpoint`: CRC-32 of all before, big endian, 10 bytes."""
    data = saved.read_bytes()
    assert data[-17:] == b"crc_num" + zlib.crc32(data[:-17]).to_bytes(10, "big")
    assert ms.load_checkpoint(str(saved), crc_check=True).keys() == checkpoint.read(saved).keys()


def test_every_flipped_bit_is_noticed(saved, capfd):
    """Far into the values, too, where nothing but the checksum can tell."""
    data = saved.read_bytes()
    for place in np.random.default_rng(0).integers(0, 8 * len(data), 40):
        damaged = bytearray(data)
        damaged[place // 8] ^= 1 << place % 8
        saved.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged"):
            checkpoint.read(saved)
    assert capfd.readouterr() == ("", "")


def test_an_empty_checkpoint_is_named(other, tmp_path, capfd):
    (tmp_path / "a.ckpt").touch()
    assert "is empty" in refusal(other, tmp_path / "a.ckpt", capfd)


@pytest.mark.parametrize(
    "content",
    [
        b"hello\n",
        b"this is a text file named .ckpt\n" * 100,
        bytes(4096),
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(other, tmp_path, capfd, content):
    path = tmp_path / "text.ckpt"
    path.write_bytes(content)
    assert "not a MindSpore checkpoint" in refusal(other, path, capfd)


@pytest.mark.parametrize("kept", [1, 7, 100, 5000, 0.1, 0.5, 0.9, -1, -2, -10, -1000])
def test_a_truncated_file_is_refused(other, saved, capfd, kept):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    refusal(other, saved, capfd)


def test_random_bytes_are_refused(other, tmp_path, capfd):
    path = tmp_path / "noise.ckpt"
    for seed in range(5):
        path.write_bytes(np.random.default_rng(seed).bytes(10_000))
        refusal(other, path, capfd)


@pytest.mark.parametrize(
    "change",
    [
        {"in_channels": 4},
        {"groups": 2},
        {"width_per_group": 4},
        {"features": 32},
        {"layers": (1, 2, 1, 1)},
        {"in_channels": 16, "groups": 8, "features": 8, "layers": (2, 1, 1, 2)},
    ],
)
def test_another_network_is_answered_with_the_flags_it_needs(
    network, small_network, tmp_path, capfd, change
):
    path = tmp_path / "other" / "a.ckpt"
    path.parent.mkdir()
    checkpoint.save(drawn(small_network | change, seed=3), path)
    text = refusal(network, path, capfd)
    assert "does not fit" in text
    flags = shlex.split(text.split("it holds ")[1])
    assert load_config(flags).network() == small_network | change


def test_another_network_of_a_run_is_answered_with_the_runs_config(saved, small_network, capfd):
    wider = drawn(small_network | {"features": 32}, seed=4)
    config = saved.parent.parent / "config.yaml"
    config.write_text("features: 16\n")
    (saved.parent.parent / "train.log").touch()  # a run's folder, not that of the repository
    text = refusal(wider, saved, capfd)
    assert f"--config_path {config}" in text
    assert re.search(r"decoder\.\S+ is \(16, .*expected \(32, ", text)


def test_parameters_that_are_missing_or_too_many_are_named(other, saved, capfd):
    content = ms.load_checkpoint(str(saved))
    renamed = content.pop("decoder.output_conv.4.bias")
    ms.save_checkpoint(
        [{"name": name, "data": value} for name, value in content.items()]
        + [{"name": "head.bias", "data": renamed}],
        str(saved),
    )
    text = refusal(other, saved, capfd)
    assert "missing decoder.output_conv.4.bias" in text
    assert "not in the network: head.bias" in text


def test_the_checkpoint_of_something_else_gets_no_flags(other, tmp_path, capfd):
    path = tmp_path / "dense.ckpt"
    ms.save_checkpoint([{"name": "weight", "data": ms.ops.ones((3, 3))}], str(path))
    text = refusal(other, path, capfd)
    assert "not in the network: weight" in text
    assert "--" not in text
    assert re.search(r"missing .* and 12\d more", text)


def test_training_starts_from_a_backbone_alone(network, other, tmp_path):
    path = tmp_path / "wsl.ckpt"
    ms.save_checkpoint(
        [{"name": p.name, "data": p} for p in network.backbone.get_parameters()], str(path)
    )
    before = values(other)
    said = checkpoint.load_initial(other, path)
    after, source = values(other), values(network)
    assert said == f"backbone from {path}; the decoder starts from random values"
    for name, value in after.items():
        assert value == (source if name.startswith("backbone.") else before)[name]


def test_training_starts_from_all_weights(network, other, saved):
    assert checkpoint.load_initial(other, saved) == f"all weights from {saved}"
    assert values(other) == values(network)


def test_an_incomplete_backbone_is_no_start(network, other, tmp_path):
    path = tmp_path / "wsl.ckpt"
    parameters = list(network.backbone.get_parameters())[1:]
    ms.save_checkpoint([{"name": p.name, "data": p} for p in parameters], str(path))
    with pytest.raises(UserError, match=r"missing backbone\.conv1\.weight"):
        checkpoint.load_initial(other, path)
