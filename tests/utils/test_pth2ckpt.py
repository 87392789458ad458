"""PyTorch weights in and out: every tensor accounted for, every bit kept, nothing else let in."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import mindspore as ms
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the customary name)
import yaml
from PIL import Image
from safetensors.torch import save_file

from src import checkpoint
from src.errors import run_program
from src.midas_net import MidasNet
from src.utils import pth2ckpt
from tests.references import TorchMidas, randomize
from tests.weights import torch_tensors

REPOSITORY = Path(__file__).resolve().parents[2]
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
STEM = {"0": "conv1", "1": "bn1", "4": "layer1"}


@pytest.fixture(scope="module")
def reference(small_network) -> TorchMidas:
    network = TorchMidas(**small_network).eval()
    randomize(network, seed=4)
    return network


@pytest.fixture(scope="module")
def expected(reference) -> dict[str, bytes]:
    return {name: bits(tensor) for name, tensor in torch_tensors(reference).items()}


@pytest.fixture
def place(tmp_path, monkeypatch, small_network) -> Path:
    """A working folder with the small network's configuration."""
    network = small_network | {"layers": list(small_network["layers"])}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(network))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().float().contiguous().numpy().tobytes()


def convert(monkeypatch, *arguments: object, config: str = "small.yaml") -> int:
    """Run the program in this process; its exit code."""
    command = ["pth2ckpt.py", "--config_path", config, *map(str, arguments)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as exit:
        run_program(pth2ckpt.main)
    return exit.value.code


def backbone_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The backbone of an official state dict in torchvision's names."""
    result = {}
    for name, tensor in state.items():
        first, *rest = name.split(".")
        if first == "pretrained":
            names = [STEM[rest[1]], *rest[2:]] if rest[0] == "layer1" else rest
            result[".".join(names)] = tensor
    return result


def contents(path: Path) -> dict[str, bytes]:
    return {name: p.asnumpy().tobytes() for name, p in ms.load_checkpoint(str(path)).items()}


# --- In -------------------------------------------------------------------------------------------


def write_zip(state, path):
    torch.save(state, path)


def write_legacy(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


def write_nested(state, path):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])
    torch.save({"model": state, "optimizer": optimizer.state_dict(), "epoch": 7}, path)


def write_legacy_nested(state, path):
    write_legacy({"state_dict": state, "epoch": 7}, path)


def write_data_parallel(state, path):
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)


def write_safetensors(state, path):
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


@pytest.mark.parametrize(
    ("write", "name", "says"),
    [
        (write_zip, "model-f6b98070.pt", "PyTorch zip"),
        (write_legacy, "model.pth", "PyTorch pickle"),
        (write_nested, "model.pt", "nested under 'model'"),
        (write_legacy_nested, "model.pth", "nested under 'state_dict'"),
        (write_data_parallel, "model.pt", "with the prefix 'module.'"),
        (write_safetensors, "model.safetensors", "safetensors"),
        (write_zip, "no suffix at all", "PyTorch zip"),  # the content decides, not the name
        (write_legacy, "it.safetensors", "PyTorch pickle"),
        (write_zip, "it.safetensors", "PyTorch zip"),
    ],
)
def test_a_whole_network_arrives_bit_by_bit(
    place, monkeypatch, capsys, reference, expected, write, name, says
):
    write(reference.state_dict(), place / name)
    assert convert(monkeypatch, name, "--output", "out.ckpt") == 0
    assert contents(place / "out.ckpt") == expected
    printed = capsys.readouterr().out
    assert "a MiDaS v2 network, backbone and decoder" in printed
    assert says in printed
    batch_norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in reference.modules())
    assert f"{batch_norms} num_batches_tracked" in printed
    assert f"{len(expected)} tensors, {sum(map(len, expected.values())) // 4:,} values" in printed
    if "nested" in says:
        assert "beside the weights: " + ("optimizer, epoch" if "model" in says else "epoch") in (
            printed
        )


@pytest.mark.parametrize("write", [write_zip, write_legacy, write_safetensors])
@pytest.mark.parametrize("classifier", [True, False])
def test_a_backbone_fills_the_backbone(
    place, monkeypatch, capsys, reference, expected, small_network, write, classifier
):
    state = backbone_of(reference.state_dict())
    if classifier:
        state |= {"fc.weight": torch.ones(10, 64), "fc.bias": torch.ones(10)}
    write(state, place / "ig.pth")
    assert convert(monkeypatch, "ig.pth", "--output", "out.ckpt") == 0
    backbone = {name: value for name, value in expected.items() if name.startswith("backbone.")}
    assert contents(place / "out.ckpt") == backbone
    printed = capsys.readouterr().out
    assert "a ResNeXt backbone" in printed
    assert ("2 fc.*, the ImageNet classifier" in printed) == classifier
    assert f"{len(expected) - len(backbone)} decoder parameters, which keep" in printed

    network = MidasNet(**small_network)
    before = {p.name: p.asnumpy().tobytes() for p in network.decoder.get_parameters()}
    said = checkpoint.load_initial(network, place / "out.ckpt")
    assert said == f"backbone from {place / 'out.ckpt'}; the decoder starts from random values"
    assert {p.name: p.asnumpy().tobytes() for p in network.get_parameters()} == backbone | before


@pytest.mark.parametrize("write", [write_zip, write_safetensors])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_become_float32(place, monkeypatch, capsys, reference, write, dtype):
    state = {
        name: tensor.to(dtype) if name.endswith("conv2.weight") else tensor
        for name, tensor in reference.state_dict().items()
    }
    write(state, place / "model.pt")
    assert convert(monkeypatch, "model.pt", "--output", "out.ckpt") == 0
    cast = [tensor for tensor in state.values() if tensor.dtype == dtype]
    text = f"{len(cast)} {str(dtype).removeprefix('torch.')} to float32"
    assert text in capsys.readouterr().out
    copy = TorchMidas(**yaml.safe_load((place / "small.yaml").read_text()))
    copy.load_state_dict(state)
    wanted = {name: bits(tensor) for name, tensor in torch_tensors(copy).items()}
    assert contents(place / "out.ckpt") == wanted


def test_the_default_output_is_in_the_repositorys_ckpt_folder(
    place, monkeypatch, capsys, reference, expected
):
    assert pth2ckpt.OUTPUT_FOLDER == REPOSITORY / "ckpt"
    monkeypatch.setattr(pth2ckpt, "OUTPUT_FOLDER", place / "ckpt")
    write_zip(reference.state_dict(), place / "midas.v21.pt")
    assert convert(monkeypatch, "midas.v21.pt") == 0
    assert contents(place / "ckpt/midas.v21.ckpt") == expected
    assert str(place / "ckpt/midas.v21.ckpt") in capsys.readouterr().out


def test_an_output_that_exists_is_kept(place, monkeypatch, capsys, reference):
    write_zip(reference.state_dict(), place / "model.pt")
    (place / "out.ckpt").write_bytes(b"mine")
    assert convert(monkeypatch, "model.pt", "--output", "out.ckpt") == 2
    assert (place / "out.ckpt").read_bytes() == b"mine"
    assert "out.ckpt exists" in capsys.readouterr().err


# --- Out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_round_trip_keeps_every_bit(place, monkeypatch, reference, small_network, suffix, whole):
    state = reference.state_dict() if whole else backbone_of(reference.state_dict())
    for name, counter in state.items():  # PyTorch's count of batches, which no other tool needs
        if name.endswith("num_batches_tracked"):
            counter.fill_(7)
    torch.save(state, place / "model.pt")
    back = place / f"back{suffix}"
    assert convert(monkeypatch, "model.pt", "--output", "model.ckpt") == 0
    assert convert(monkeypatch, "model.ckpt", "--output", back) == 0
    if suffix == ".safetensors":
        from safetensors.torch import load_file

        returned = load_file(back)
    else:
        returned = torch.load(back, weights_only=True)
    assert set(returned) == set(state)
    for name, tensor in state.items():
        assert returned[name].dtype == tensor.dtype
        assert returned[name].shape == tensor.shape
        if name.endswith("num_batches_tracked"):
            assert returned[name] == 0
            continue
        assert returned[name].numpy().tobytes() == tensor.numpy().tobytes(), name
    if whole:
        TorchMidas(**small_network).load_state_dict(returned, strict=True)
    assert convert(monkeypatch, back, "--output", "again.ckpt") == 0
    assert (place / "again.ckpt").read_bytes() == (place / "model.ckpt").read_bytes()


def test_our_own_checkpoint_is_recognised(place, monkeypatch, capsys, small_network):
    checkpoint.save(MidasNet(**small_network), place / "midas.ckpt")
    assert convert(monkeypatch, "midas.ckpt") == 2
    assert "already a checkpoint of this project (whole network)" in capsys.readouterr().err
    assert convert(monkeypatch, "midas.ckpt", "--output", "x.onnx") == 2
    assert "x.onnx should end in .pt or .pth or .safetensors" in capsys.readouterr().err
    assert sorted(p.name for p in place.iterdir()) == ["midas.ckpt", "small.yaml"]


def test_an_output_of_the_way_back_is_kept(place, monkeypatch, capsys, small_network):
    checkpoint.save(MidasNet(**small_network), place / "midas.ckpt")
    (place / "mine.pt").write_bytes(b"mine")
    assert convert(monkeypatch, "midas.ckpt", "--output", "mine.pt") == 2
    assert (place / "mine.pt").read_bytes() == b"mine"
    assert "mine.pt exists" in capsys.readouterr().err


def test_a_checkpoint_that_has_diverged_is_not_handed_on(place, monkeypatch, capsys, small_network):
    network = MidasNet(**small_network)
    stem = network.backbone.conv1.weight
    stem.set_data(ms.Tensor(np.full(stem.shape, np.nan, np.float32)))
    checkpoint.save(network, place / "midas.ckpt")
    assert convert(monkeypatch, "midas.ckpt", "--output", "a.pt") == 2
    assert "backbone.conv1.weight is not finite" in capsys.readouterr().err
    assert not (place / "a.pt").exists()


def test_a_model_zoo_checkpoint_is_refused_with_the_reason(place, monkeypatch, capsys):
    names = [f"backbone_layer1.0.conv2.convs.{i}.weight" for i in range(32)]
    content = [{"name": n, "data": ms.Tensor(np.ones((8, 8, 3, 3), np.float32))} for n in names]
    ms.save_checkpoint(content, str(place / "zoo.ckpt"))
    assert convert(monkeypatch, "zoo.ckpt", "--output", "zoo.pt") == 2
    error = capsys.readouterr().err
    assert "model zoo" in error
    assert "max-pool" in error
    assert "unrectified" in error
    with pytest.raises(checkpoint.UserError, match="model zoo"):
        checkpoint.load(MidasNet(8, 4, 2, 16, (1, 1, 1, 1)), place / "zoo.ckpt")
    assert not (place / "zoo.pt").exists()


# --- What is no such file -------------------------------------------------------------------------


class RunsCode:
    """A pickle of this would make a file when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch it_ran",)


def torch_bytes(content, legacy: bool = False) -> bytes:
    path = Path("scratch.bin")
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    path.unlink()
    return data


def cut(share: float, legacy: bool):
    def damage(state):
        data = torch_bytes(state, legacy)
        return data[: int(share * len(data))]

    return damage


def flipped(share: float):
    def damage(state):
        data = bytearray(torch_bytes(state))
        data[int(share * len(data))] ^= 0x40
        return bytes(data)

    return damage


def changed(**changes):
    """The state dict with tensors replaced; None drops one."""

    def damage(state):
        renamed = {name.replace("__", "."): value for name, value in changes.items()}
        merged = {**state, **renamed}
        return torch_bytes({name: value for name, value in merged.items() if value is not None})

    return damage


def safetensors_file(state) -> bytes:
    write_safetensors(state, "scratch.bin")
    data = Path("scratch.bin").read_bytes()
    Path("scratch.bin").unlink()
    return data


def safetensors_header(header: dict, data: bytes = b"\0" * 64) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def zip_of(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile("scratch.zip", "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    data = Path("scratch.zip").read_bytes()
    Path("scratch.zip").unlink()
    return data


def recompressed(state) -> bytes:
    Path("scratch.pt").write_bytes(torch_bytes(state))
    with zipfile.ZipFile("scratch.pt") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    Path("scratch.pt").unlink()
    return zip_of(files, zipfile.ZIP_DEFLATED)


def billion_laughs(_state) -> bytes:
    laughs = ["ha"] * 10
    for _ in range(60):
        laughs = [laughs] * 10
    return torch_bytes({"conv1.weight": laughs})


def tuple_keys(_state) -> bytes:
    """{((((1,), (1,)), ...)): 1}: hashing the key takes two to the 45 steps."""
    shared = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(44))
    return b"\x80\x02}K\x01\x85" + shared + b"K\x01s."


def encrypted(state) -> bytes:
    """The flag of encryption (bit 0) set in every entry of the central directory."""
    data = bytearray(torch_bytes(state))
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        data[place + 8] |= 1
        place = data.find(b"PK\x01\x02", place + 4)
    return bytes(data)


def whole_module(_state) -> bytes:
    return torch_bytes(torch.nn.Linear(2, 2))


def torchscript(_state) -> bytes:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), "scratch.pt")
    data = Path("scratch.pt").read_bytes()
    Path("scratch.pt").unlink()
    return data


BIAS = "scratch__output_conv__4__bias"
HUGE = torch.zeros(1).expand(10**6, 10**6)  # a view of four bytes that claims four terabytes

DAMAGES = {
    "an empty file": (lambda s: b"", "empty"),
    "one byte": (lambda s: b"\x80", "not a PyTorch checkpoint"),
    "a text": (lambda s: b"<html>404 Not Found</html>", "neither a file of PyTorch"),
    "zeros": (lambda s: bytes(5000), "neither a file of PyTorch"),
    "a PNG": (lambda s: b"\x89PNG\r\n\x1a\n" + bytes(100), "neither a file of PyTorch"),
    "a MINDIR's start": (lambda s: b"\x0a\x05abcde", "neither a file of PyTorch"),
    **{
        f"zip cut at {share}": (cut(share, legacy=False), "truncated or damaged")
        for share in (0.001, 0.01, 0.3, 0.6, 0.9, 0.999)
    },
    **{
        f"legacy cut at {share}": (cut(share, legacy=True), "damaged")
        for share in (0.0001, 0.001, 0.01, 0.3, 0.9, 0.9999)
    },
    **{f"bit flipped at {s}": (flipped(s), "damaged") for s in (0.2, 0.5, 0.8)},
    "a zip of something else": (lambda s: zip_of({"a/b.txt": b"hello"}), "no data.pkl"),
    "a zip without tensors": (lambda s: zip_of({"a/data.pkl": b"\x80\x02N."}), "a.pt"),
    "a compressed checkpoint": (recompressed, "compressed"),
    "missing tensor": (changed(**{BIAS: None}), "missing scratch.output_conv.4.bias (1,)"),
    "extra tensor": (changed(spare__weight=torch.ones(2)), "not in the network: spare.weight (2,)"),
    "extra counter": (
        changed(spare__num_batches_tracked=torch.tensor(1)),
        "spare.num_batches_tracked",
    ),
    "a classifier in a whole network": (changed(fc__bias=torch.ones(2)), "fc.bias (2,)"),
    "wrong shape": (changed(**{BIAS: torch.ones(2)}), "output_conv.4.bias is (2,), expected (1,)"),
    "a claimed size": (changed(**{BIAS: HUGE}), "(1000000, 1000000), expected (1,)"),
    "whole numbers": (changed(**{BIAS: torch.ones(1, dtype=torch.int64)}), "int64"),
    "sparse": (changed(**{BIAS: torch.ones(1).to_sparse()}), "_get_layout"),
    "on no device": (changed(**{BIAS: torch.ones(1, device="meta")}), "meta"),
    "NaN": (changed(**{BIAS: torch.full((1,), torch.nan)}), "not finite"),
    "beyond float32": (
        changed(**{BIAS: torch.full((1,), 1e300, dtype=torch.float64)}),
        "not finite",
    ),
    "no tensor": (changed(**{BIAS: "0.5"}), "is a str"),
    "a list": (lambda s: torch_bytes([torch.ones(2)]), "no state dict"),
    "another network": (lambda s: torch_bytes({"a.weight": torch.ones(2)}), "a.weight"),
    "DPT": (
        lambda s: torch_bytes(
            {"pretrained.model.cls_token": torch.ones(2), "scratch.a": torch.ones(2)}
        ),
        "DPT",
    ),
    "code in a zip": (lambda s: torch_bytes({**s, "x": RunsCode()}), "system"),
    "code in a legacy file": (lambda s: torch_bytes({**s, "x": RunsCode()}, legacy=True), "system"),
    "code in protocol 2": (lambda s: pickle.dumps(RunsCode(), protocol=2), "system"),
    "code in protocol 4": (lambda s: pickle.dumps(RunsCode(), protocol=4), "system"),
    "tuples as keys": (tuple_keys, "tuples 45 deep"),
    "a name of 300,000 letters": (
        lambda s: b"\x80\x02c" + b"a" * 300_000 + b"\nb\n)R.",
        "would run code",
    ),
    "code inside torch": (lambda s: b"\x80\x02ctorch\ncompile\n)R.", "torch.compile"),
    "an encrypted zip": (encrypted, "encrypted"),
    "negative variances": (
        changed(pretrained__layer1__1__running_var=-torch.ones(8)),
        "negative variances",
    ),
    "nested lists": (billion_laughs, "conv1.weight"),
    "a whole module": (whole_module, "Linear"),
    "TorchScript": (torchscript, "TorchScript"),
    "safetensors cut in the header": (lambda s: safetensors_file(s)[:500], "damaged"),
    "safetensors cut in the data": (lambda s: safetensors_file(s)[:-500], "damaged"),
    "safetensors with more data": (lambda s: safetensors_file(s) + b"\0" * 8, "damaged"),
    "safetensors of no JSON": (lambda s: struct.pack("<Q", 12) + b"{not a json}", "damaged"),
    "safetensors beyond its data": (
        lambda s: safetensors_header(
            {"conv1.weight": {"dtype": "F32", "shape": [999], "data_offsets": [0, 3996]}}
        ),
        "damaged",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_no_such_file_is_one_line_and_leaves_nothing(
    place, monkeypatch, capfd, reference, name
):
    make, says = DAMAGES[name]
    (place / "a.pt").write_bytes(make(dict(reference.state_dict())))
    before = sorted(p.name for p in place.iterdir())
    assert convert(monkeypatch, "a.pt", "--output", "out.ckpt") == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: a.pt: "), printed.err
    assert printed.err.count("\n") == 1
    assert len(printed.err) < 600
    assert says in printed.err
    assert sorted(p.name for p in place.iterdir()) == before


@pytest.mark.parametrize(("path", "says"), [("no.pt", "no such file"), (".", "is a folder")])
def test_no_file_at_all(place, monkeypatch, capsys, path, says):
    assert convert(monkeypatch, path) == 2
    assert says in capsys.readouterr().err


def test_there_are_more_than_thirty_damages():
    assert len(DAMAGES) >= 30


@pytest.mark.parametrize("flag", ["--outptu", "--batch_sise"])
def test_an_unknown_flag_is_named(place, monkeypatch, capsys, flag):
    assert convert(monkeypatch, "a.pt", flag, "3") == 2
    assert f"{flag.removeprefix('--')}: no such key" in capsys.readouterr().err


def test_a_disk_that_cannot_be_written_leaves_nothing(place, monkeypatch, capsys, reference):
    write_zip(reference.state_dict(), place / "model.pt")
    assert convert(monkeypatch, "model.pt", "--output", "no such folder/out.ckpt") == 2
    assert "no such folder/out.ckpt: cannot be written" in capsys.readouterr().err


def test_without_pytorch_one_line_says_how_to_install_it(
    place, monkeypatch, capsys, reference, expected
):
    write_zip(reference.state_dict(), place / "model.pt")
    write_safetensors(reference.state_dict(), place / "model.safetensors")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert convert(monkeypatch, "model.pt", "--output", "out.ckpt") == 2
    error = capsys.readouterr().err
    assert "bash scripts/setup.sh convert" in error
    assert error.count("\n") == 1
    assert convert(monkeypatch, "model.safetensors", "--output", "out.ckpt") == 0  # needs none
    assert contents(place / "out.ckpt") == expected


def test_pytorch_weights_where_a_ckpt_is_wanted_get_advice(place, reference, small_network):
    write_zip(reference.state_dict(), place / "model.pt")
    with pytest.raises(checkpoint.UserError, match=r"python src/utils/pth2ckpt.py model.pt"):
        checkpoint.load_initial(MidasNet(**small_network), "model.pt")


# --- The same depth -------------------------------------------------------------------------------


def photograph(height: int, width: int) -> np.ndarray:
    """uint8 RGB with smooth and sharp parts."""
    rng = np.random.default_rng(8)
    coarse = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return np.clip(
        cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
        + rng.integers(-20, 20, (height, width, 1)),
        0,
        255,
    ).astype(np.uint8)


def torch_depth(network: TorchMidas, image: np.ndarray, height: int, width: int) -> np.ndarray:
    """PyTorch's depth of a photograph that the resize rule makes `height` x `width`."""
    small = cv2.resize(
        image.astype(np.float32) / 255, (width, height), interpolation=cv2.INTER_CUBIC
    )
    batch = torch.from_numpy(((small - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32))
    with torch.no_grad():
        depth = network(batch)[:, None]
    return F.interpolate(depth, image.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy()


def test_check_prints_the_depth_of_a_photograph(place, monkeypatch, capsys, reference):
    write_zip(reference.state_dict(), place / "model.pt")
    Image.fromarray(photograph(100, 150)).save("photo.png")
    arguments = ("model.pt", "--output", "out.ckpt", "--check", "photo.png")
    assert convert(monkeypatch, *arguments, "--img_width", "96", "--img_height", "96") == 0
    depth = torch_depth(reference, photograph(100, 150), 64, 96)
    printed = capsys.readouterr().out
    assert "150 x 100" in printed
    for label, value in (("min", depth.min()), ("median", np.median(depth)), ("max", depth.max())):
        found = float(printed.split(f"{label} ")[1].split(",")[0])
        assert found == pytest.approx(value, rel=1e-3)
    assert "constant" not in printed


def test_check_of_a_backbone_or_of_no_image_is_refused_before_the_work(
    place, monkeypatch, capsys, reference
):
    write_zip(backbone_of(reference.state_dict()), place / "backbone.pt")
    write_zip(reference.state_dict(), place / "model.pt")
    Image.fromarray(photograph(100, 150)).save("photo.png")
    arguments = ("--output", "out.ckpt", "--check")
    assert convert(monkeypatch, "backbone.pt", *arguments, "photo.png") == 2
    assert "no decoder" in capsys.readouterr().err
    assert convert(monkeypatch, "model.pt", *arguments, "no.png") == 2
    assert "no.png: no such file" in capsys.readouterr().err
    assert not Path("out.ckpt").exists()


LARGEST_MEMORY = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""


def run(*command: object) -> int:
    """Run a program of the repository as a user does; its largest memory in bytes.

    A small process starts it: a child of this one would begin with this one's memory.
    """
    program = [sys.executable, "-c", LARGEST_MEMORY, sys.executable, *map(str, command)]
    return int(subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True).stdout)


@pytest.mark.full
def test_the_full_network_from_png_to_pfm(tmp_path):
    """Converted by the program, run by the program: PyTorch's network and PyTorch's depth."""
    reference = TorchMidas().eval()
    randomize(reference, seed=6)
    torch.save({"model": reference.state_dict(), "epoch": 1}, tmp_path / "model.pt")
    weights = tmp_path / "model.ckpt"
    script = REPOSITORY / "src/utils/pth2ckpt.py"
    assert run(script, tmp_path / "model.pt", "--output", weights) < 2e9

    network = MidasNet()
    checkpoint.load(network, weights)
    network.set_train(False)
    for height, width in ((384, 384), (384, 672)):
        rng = np.random.default_rng(width)
        batch = rng.normal(size=(1, 3, height, width)).astype(np.float32)
        with torch.no_grad():
            wanted = reference(torch.from_numpy(batch)).numpy()
        given = network(ms.Tensor(batch)).asnumpy()
        assert np.abs(given - wanted).max() < 1e-4 * np.ptp(wanted)
    del network

    (tmp_path / "in").mkdir()
    Image.fromarray(photograph(500, 741)).save(tmp_path / "in/motorcycle.png")
    run(
        *(REPOSITORY / "midas_run.py", "--model_weights", weights),
        *("--input_path", tmp_path / "in", "--output_path", tmp_path / "out"),
    )
    data = (tmp_path / "out/motorcycle.pfm").read_bytes()
    assert data.startswith(b"Pf\n741 500\n-1.0\n")
    depth = np.frombuffer(data[len(b"Pf\n741 500\n-1.0\n") :], "<f4").reshape(500, 741)[::-1]
    # 384 / 741 makes 500 rows 259.1, and 256 is the nearest multiple of 32.
    wanted = torch_depth(reference, photograph(500, 741), 256, 384)
    assert np.abs(depth - wanted).max() < 1e-3 * np.ptp(wanted)
