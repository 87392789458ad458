"""What an export is to write: which file, which sizes and where they come from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from src.errors import UserError
from src.export_plan import Size, choose_path, choose_sizes
from tests.benchmark_sets import random_image, stored_depth, write_diw, write_files, write_nyu

PATHS = {
    "Kitti": ["Kitti_raw_data"],
    "Sintel": ["Sintel"],
    "TUM": ["TUM"],
    "ETH3D": ["ETH3D"],
    "DIW": ["DIW"],
    "NYU": ["NYU/nyu.mat", "NYU/splits.mat"],
    "Middlebury": ["Middlebury"],
}


def path_of(weights: Path, path: str = "", file_format: str = "MINDIR", **more: str) -> Path:
    weights.parent.mkdir(exist_ok=True)
    weights.touch()
    options = {"device_target": "CPU", "onnx_runtime": "openvino", **more}
    return choose_path(str(weights), path, file_format, **options)


@pytest.mark.parametrize(
    ("file_format", "name"), [("MINDIR", "a.b.mindir"), ("ONNX", "a.b.onnx"), ("AIR", "a.b.air")]
)
def test_the_file_is_beside_the_weights_by_default(tmp_path, file_format, name):
    weights = tmp_path / "a.b.ckpt"
    found = path_of(weights, file_format=file_format, device_target="Ascend")
    assert found == tmp_path / name


def test_export_path_wins(tmp_path):
    given = tmp_path / "other.onnx"
    assert path_of(tmp_path / "weights" / "a.ckpt", str(given), "ONNX") == given


@pytest.mark.parametrize("device", ["CPU", "GPU"])
def test_air_off_ascend_is_refused(tmp_path, device):
    with pytest.raises(UserError, match=f"AIR can be written on Ascend alone, .* is {device}; "):
        path_of(tmp_path / "a.ckpt", file_format="AIR", device_target=device)


@pytest.mark.parametrize(
    ("file_format", "name"),
    [("MINDIR", "a.onnx"), ("ONNX", "a.mindir"), ("ONNX", "a"), ("MINDIR", "a.air")],
)
def test_a_suffix_of_another_format_is_refused(tmp_path, file_format, name):
    with pytest.raises(UserError, match=r"export_path: .* should end in \.(mindir|onnx), as"):
        path_of(tmp_path / "a.ckpt", str(tmp_path / name), file_format)


def test_a_folder_that_is_not_there_and_one_in_the_files_place_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"export_path: .*none is no folder; create it first"):
        path_of(tmp_path / "a.ckpt", str(tmp_path / "none" / "a.mindir"))
    (tmp_path / "b.mindir").mkdir()
    with pytest.raises(UserError, match=r"export_path: .*b\.mindir is a folder"):
        path_of(tmp_path / "a.ckpt", str(tmp_path / "b.mindir"))


@pytest.mark.parametrize("weights", ["gone.ckpt", "/"])
def test_weights_that_are_not_there_are_noticed_first(weights):
    with pytest.raises(UserError, match=f"model_weights: {weights}: no such file"):
        choose_path(weights, "", "MINDIR", "CPU", "openvino")


@pytest.mark.parametrize("name", ["a.mindir", "a.onnx", "a.air"])
def test_what_is_exported_already_is_refused(tmp_path, name):
    with pytest.raises(
        UserError, match=r"model_weights: .* is exported already; expected a \.ckpt"
    ):
        path_of(tmp_path / name, file_format="ONNX")


@pytest.mark.parametrize("package", ["onnx", "openvino", "onnxruntime"])
def test_onnx_needs_its_packages_and_the_other_formats_do_not(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    runtime = {"onnx_runtime": package} if package != "onnx" else {}
    with pytest.raises(UserError, match=rf"{package} .*; run 'bash scripts/setup\.sh onnx'"):
        path_of(tmp_path / "a.ckpt", file_format="ONNX", **runtime)
    assert path_of(tmp_path / "a.ckpt", **runtime).name == "a.mindir"
    other = {"openvino": "onnxruntime", "onnxruntime": "openvino"}.get(package)
    if other:
        assert path_of(tmp_path / "a.ckpt", file_format="ONNX", onnx_runtime=other)


def sizes(names: str = "", root: Path = Path("none"), given=(), bound: int = 384) -> list[Size]:
    return choose_sizes(list(given), names, (384, 512), str(root), PATHS, bound)


def test_without_a_wish_it_is_the_configured_size():
    (size,) = sizes()
    assert size[:2] == (384, 512)
    assert str(size) == "384x512"
    assert size.origin == "img_height and img_width"


def test_sizes_that_are_given_come_once_and_in_their_order():
    found = sizes(given=[(64, 96), (32, 32), (64, 96)])
    assert found == [(64, 96, "export_size"), (32, 32, "export_size")]


def test_sizes_and_benchmarks_together_are_refused():
    with pytest.raises(UserError, match="export_size: --for gives sizes as well"):
        sizes("Kitti", given=[(32, 32)])


# By hand. Kitti, at least 384: 384 / 375 x 1242 = 1271.8 -> 1280. The others at most 384:
# 436 / 1024 x 384 = 163.5 -> 160; 480 / 640 x 384 = 288; 4032 / 6048 x 384 = 256.
PUBLISHED = {
    "Kitti": (384, 1280),
    "Sintel": (160, 384),
    "TUM": (288, 384),
    "ETH3D": (256, 384),
    "NYU": (288, 384),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_without_data_the_published_images_count(tmp_path, name):
    (size,) = sizes(name, tmp_path)
    assert size[:2] == PUBLISHED[name]
    assert "published" in size.origin
    assert f"datapath_{name} is not there" in size.origin


def test_the_bound_is_that_of_the_evaluation(tmp_path):
    # 192 / 375 x 1242 = 635.9 -> 640; 436 / 1024 x 192 = 81.75 -> 96 is above no bound.
    assert [size[:2] for size in sizes("Kitti,Sintel", tmp_path, bound=192)] == [
        (192, 640),
        (96, 192),
    ]


def test_a_size_of_several_benchmarks_comes_once_and_names_them_all(tmp_path):
    kitti, tum = sizes(" kitti, TUM,nyu,Tum ", tmp_path)
    assert kitti[:2] == (384, 1280)
    assert tum[:2] == (288, 384)
    assert "TUM" in tum.origin
    assert "NYU" in tum.origin


def frames(name, *shapes):
    return [(random_image(i, s), stored_depth(name, i, s)) for i, s in enumerate(shapes)]


def test_data_that_is_there_counts_by_its_headers(tmp_path):
    write_files(
        "Kitti",
        tmp_path / "Kitti_raw_data",
        {
            "a": frames("Kitti", (30, 60), (30, 60), (60, 60)),
            "b": frames("Kitti", (30, 60)),
        },
    )
    found = {size[:2]: size.origin for size in sizes("Kitti", tmp_path, bound=64)}
    assert found.keys() == {(64, 128), (64, 64)}
    assert found[64, 128] == f"Kitti, 3 of 4 images in {tmp_path / 'Kitti_raw_data'}"
    assert found[64, 64].startswith("Kitti, 1 of 4 images in ")


def test_the_pixels_of_the_data_are_not_read(tmp_path):
    write_files("TUM", tmp_path / "TUM", {"a": frames("TUM", (480, 640))})
    (image,) = tmp_path.glob("TUM/a/rgb/*.png")
    image.write_bytes(image.read_bytes()[:100])  # the header is in the first 33
    (size,) = sizes("TUM", tmp_path)
    assert size[:2] == (288, 384)
    image.write_bytes(b"no header")
    with pytest.raises(UserError, match=image.name):
        sizes("TUM", tmp_path)


def test_both_files_of_nyu_must_be_there_to_count(tmp_path):
    images, splits = write_nyu(tmp_path / "NYU", frames("NYU", (40, 80), (40, 80)), [1, 2])
    (size,) = sizes("NYU", tmp_path, bound=64)
    assert size[:2] == (32, 64)
    assert size.origin == f"NYU, 2 of 2 images in {images}"
    splits.unlink()
    (size,) = sizes("NYU", tmp_path, bound=64)
    assert size[:2] == (64, 64)  # 480 / 640 x 64 = 48, half-way: Python rounds 1.5 to 2
    assert "published" in size.origin


@pytest.mark.parametrize("name", ["DIW", "Middlebury"])
def test_a_benchmark_of_many_sizes_needs_its_data(tmp_path, name):
    with pytest.raises(UserError) as error:
        sizes(name, tmp_path)
    text = str(error.value)
    assert f"for: the images of {name} have many sizes" in text
    assert "--export_size" in text
    assert "ONNX" in text


def test_diw_with_its_data_has_sizes(tmp_path):
    images = {"a": random_image(0, (48, 96)), "b": random_image(1, (96, 48))}
    write_diw(tmp_path / "DIW", images, ["1,1,2,2,<", "1,1,2,2,>"])
    assert {size[:2] for size in sizes("DIW", tmp_path, bound=64)} == {(32, 64), (64, 32)}


@pytest.mark.parametrize("names", ["Foo", "Kitti,Foo", "all", ","])
def test_an_unknown_name_is_refused_with_the_alternative(tmp_path, names):
    with pytest.raises(UserError, match=r"for: got '.*'; expected Kitti, Sintel, .*--export_size"):
        sizes(names, tmp_path)


def test_a_folder_that_is_laid_out_otherwise_is_refused(tmp_path):
    (tmp_path / "Kitti_raw_data").mkdir()
    with pytest.raises(UserError, match="no Kitti images found"):
        sizes("Kitti", tmp_path)
