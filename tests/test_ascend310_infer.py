"""The C++ program from its command line: data sets, results, errors, both backends."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from src.data import transforms
from src.data.transforms import ResizeRule
from src.image_io import read_image
from tests import benchmark_sets, file_formats
from tests.benchmark_sets import put, random_image
from tests.infer_program import (
    MEAN,
    STD,
    command,
    copy_source,
    environment,
    infer,
    mean_onnx,
    one_line_error,
    rows,
    sanitized_build,
    toy_mindir,
)

LAYOUTS = ("Kitti", "Sintel", "TUM")
SHAPES = {"Kitti": (94, 310), "Sintel": (109, 256), "TUM": (120, 160)}
METHODS = {"Kitti": "lower_bound"}


class Sanitized(NamedTuple):
    """The program with both backends, under AddressSanitizer and LeakSanitizer."""

    program: Path
    reports: Path

    def environment(self) -> dict[str, str]:
        # TBB loads a library of its own in a way that the sanitizer refuses, unless told of it.
        return {"ASAN_OPTIONS": f"log_path={self.reports}/asan", "TBB_ENABLE_SANITIZERS": "1"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of ascend310_infer that its build.sh has built."""
    source = copy_source(tmp_path_factory.mktemp("built"))
    command("bash", source / "build.sh")
    return source


@pytest.fixture(scope="module")
def program(built: Path) -> Path:
    return built / "out" / "midas_infer"


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Sanitized:
    reports = tmp_path_factory.mktemp("reports")
    return Sanitized(sanitized_build(tmp_path_factory) / "midas_infer", reports)


@pytest.fixture(scope="module")
def mean_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mean_onnx(tmp_path_factory.mktemp("mean") / "mean.onnx")


@pytest.fixture(scope="module", params=LAYOUTS)
def benchmark_set(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A data set of two groups of three images."""
    name = request.param
    root = tmp_path_factory.mktemp(name)
    frames = [
        (random_image(seed, SHAPES[name]), benchmark_sets.stored_depth(name, seed, SHAPES[name]))
        for seed in range(6)
    ]
    benchmark_sets.write_files(name, root, {"b": frames[:3], "a": frames[3:]})
    return name, root


def plain_folder(root: Path, *shapes: tuple[int, int]) -> Path:
    """Images of these (height, width), named after their number."""
    for number, shape in enumerate(shapes):
        put(root / f"{number:03d}.png", file_formats.png(random_image(number, shape)))
    return root


def prepared(path: Path, rule: ResizeRule, upright: bool = False) -> np.ndarray:
    """The network's input by the Python code: float32 [1, 3, h, w]."""
    image = read_image(path, upright)
    resized = transforms.resize_image(image, *rule.output_size(*image.shape[:2]))
    return transforms.normalize(resized, MEAN, STD)[None]


def has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


def channel_mean(path: Path, rule: ResizeRule, upright: bool = False) -> np.ndarray:
    return prepared(path, rule, upright)[0].astype(np.float64).mean(axis=0)


# ---- predictions ----


def test_predictions_are_those_of_python(
    program: Path, exported_onnx: Path, benchmark_set: tuple[str, Path], tmp_path: Path
) -> None:
    name, root = benchmark_set
    done = infer(program, exported_onnx, root, name, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    session = onnxruntime.InferenceSession(exported_onnx)
    rule = ResizeRule(method=METHODS.get(name, "upper_bound"))
    found = rows(tmp_path, name)
    expected_images = sorted(
        benchmark_sets.paths(name, group, frame)[0].as_posix()
        for group in "ab"
        for frame in range(3)
    )
    assert [row.image for row in found] == expected_images
    for row in found:
        expected = session.run(None, {"image": prepared(root / row.image, rule)})[0][0]
        assert row.image_size == SHAPES[name]
        assert row.file == f"{row.image.removesuffix('.png')}.bin"
        # 2e-5 of the range was found, nearly all of it from IPP (test_ascend310_images.py)
        assert np.abs(row.values - expected).max() <= 1e-4 * np.ptp(expected)


@pytest.mark.parametrize("batch", [2, 5])
def test_batches_give_the_same_predictions(
    program: Path, exported_onnx: Path, tmp_path: Path, batch: int
) -> None:
    shapes = [(40, 60), (60, 40), (40, 60), (40, 60), (60, 40), (40, 60), (40, 60)]
    data = plain_folder(tmp_path / "data", *shapes)
    flags = ("--size", "64")
    infer(program, exported_onnx, data, "images", tmp_path / "1", *flags)
    infer(
        program, exported_onnx, data, "images", tmp_path / "n", *flags, "--batch_size", f"{batch}"
    )
    singly = {row.image: row.values for row in rows(tmp_path / "1", "images")}
    together = {row.image: row.values for row in rows(tmp_path / "n", "images")}
    assert sorted(singly) == sorted(together) == [f"{n:03d}.png" for n in range(7)]
    for image, values in singly.items():
        assert np.abs(together[image] - values).max() <= 1e-5 * np.ptp(values)


def test_a_last_batch_of_fewer_images_is_no_error(
    program: Path, mean_model: Path, tmp_path: Path
) -> None:
    data = plain_folder(tmp_path / "data", *[(32, 64)] * 5)
    done = infer(program, mean_model, data, "images", tmp_path, "--size=64", "--batch_size=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 of 3 batches held fewer than 2 images of one size" in done.stdout
    assert len(rows(tmp_path, "images")) == 5


def test_images_of_one_size_share_batches(program: Path, mean_model: Path, tmp_path: Path) -> None:
    data = plain_folder(tmp_path / "data", *[(32, 64), (64, 32)] * 4)
    done = infer(program, mean_model, data, "images", tmp_path, "--size=64", "--batch_size=4")
    assert "batches" not in done.stdout
    times = (tmp_path / "time_Result" / "test_perform_static.txt").read_text()
    assert times.splitlines()[0].endswith(" ms of infer_count 2")
    rule = ResizeRule(64, 64)
    for row in rows(tmp_path, "images"):
        expected = channel_mean(data / row.image, rule)
        assert np.abs(row.values - expected).max() <= 1e-5


def test_a_bounded_number_of_images_waits_for_its_batch(
    program: Path, mean_model: Path, tmp_path: Path
) -> None:
    """39 sizes in turn, twice; 2 + 32 images may wait, so each has gone when its partner comes."""
    shapes = [(8 * n, 160) for n in range(1, 21)] + [(160, 8 * n) for n in range(1, 20)]
    data = plain_folder(tmp_path / "data", *shapes * 2)
    flags = ("--batch_size", "2", "--size", "640")
    done = infer(program, mean_model, data, "images", tmp_path, *flags)
    assert "78 of 78 batches held fewer than 2 images of one size" in done.stdout
    found = [row.image for row in rows(tmp_path, "images")]
    assert found == [f"{n:03d}.png" for n in range(78)]


def test_a_model_of_fixed_shape_decides(program: Path, tmp_path: Path) -> None:
    model = mean_onnx(tmp_path / "fixed.onnx", (2, 3, 64, 96))
    data = plain_folder(tmp_path / "data", (32, 64), (70, 50), (64, 96))
    done = infer(program, model, data, "images", tmp_path, "--batch_size", "4")
    assert (done.returncode, done.stderr) == (0, "")
    assert "takes 2 images at once" in done.stdout and "were filled up" in done.stdout
    settings = json.loads((tmp_path / "result_Files" / "images" / "run.json").read_text())
    assert (settings["resize"], settings["batch_size"]) == ("fixed 64x96", 2)
    found = rows(tmp_path, "images")
    assert [row.image_size for row in found] == [(32, 64), (70, 50), (64, 96)]
    for row in found:
        image = transforms.resize_image(read_image(data / row.image), 64, 96)
        expected = transforms.normalize(image, MEAN, STD).mean(axis=0)
        assert np.abs(row.values - expected).max() <= 1e-5


def test_only_plain_images_are_turned_upright(
    program: Path, mean_model: Path, tmp_path: Path
) -> None:
    exif = file_formats.png_chunk(b"eXIf", file_formats.exif(6))
    picture = file_formats.png(random_image(1, (32, 64)), extra=(exif,))
    put(tmp_path / "plain" / "turned.png", picture)
    put(tmp_path / "Kitti" / "drive" / "image" / "turned.png", picture)
    infer(program, mean_model, tmp_path / "plain", "images", tmp_path, "--size", "64")
    infer(program, mean_model, tmp_path / "Kitti", "Kitti", tmp_path, "--size", "32")
    assert rows(tmp_path, "images")[0].values.shape == (64, 32)
    assert rows(tmp_path, "Kitti")[0].values.shape == (32, 64)


def test_normalisation_by_flag(program: Path, mean_model: Path, tmp_path: Path) -> None:
    grey = np.full((32, 32), 51, np.uint8)  # 0.2
    put(tmp_path / "data" / "grey.png", file_formats.png(grey))
    flags = ("--mean", "0.1,0.2,0.3", "--std", "0.5,1,2")
    infer(program, mean_model, tmp_path / "data", "images", tmp_path, *flags)
    expected = ((0.2 - 0.1) / 0.5 + 0 + (0.2 - 0.3) / 2) / 3
    assert np.abs(rows(tmp_path, "images")[0].values - expected).max() <= 1e-6
    settings = json.loads((tmp_path / "result_Files" / "images" / "run.json").read_text())
    assert (settings["mean"], settings["std"]) == ([0.1, 0.2, 0.3], [0.5, 1, 2])


def test_bfloat16_is_coarser_and_stated(program: Path, exported_onnx: Path, tmp_path: Path) -> None:
    data = plain_folder(tmp_path / "data", (64, 96))
    found = []
    for precision in ("float32", "bfloat16"):
        output = tmp_path / precision
        done = infer(program, exported_onnx, data, "images", output, "--precision", precision)
        if done.returncode and not has_bfloat16():
            one_line_error(done, 6, "try --precision float32")
            return
        assert done.returncode == 0, done.stderr
        settings = json.loads((output / "result_Files" / "images" / "run.json").read_text())
        assert settings["precision"] == precision
        found.append(rows(output, "images")[0].values)
    difference = np.abs(found[0] - found[1]).max() / np.ptp(found[0])
    # 8 bits of each value; a few layers add up
    assert (difference > 0 or not has_bfloat16()) and difference <= 0.1


# ---- layouts ----


def test_associations_with_times_and_a_single_sequence(
    program: Path, mean_model: Path, tmp_path: Path
) -> None:
    root = tmp_path / "desk"
    for name in ("b.png", "a.png", "unused.png"):
        put(root / "rgb" / name, file_formats.png(random_image(1, (32, 32))))
    text = "\ufeff# times\r\n\r\n1.5 rgb/b.png 1.6 depth/b.png\r\nrgb/a.png depth/a.png\r\n"
    put(root / "associate.txt", (text + "rgb/a.png depth/other.png\n").encode())
    done = infer(program, mean_model, root, "TUM", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [row.image for row in rows(tmp_path, "TUM")] == ["rgb/a.png", "rgb/b.png"]


def test_hidden_files_and_other_files_are_left_out(
    program: Path, mean_model: Path, tmp_path: Path
) -> None:
    picture = file_formats.png(random_image(1, (32, 32)))
    for name in ("b.PNG", "a.jpg", ".hidden.png", "notes.txt", "folder.png/inner.png"):
        put(tmp_path / "images" / name, picture)
    for name in ("d/image/1.png", ".d/image/1.png", "d/image/.1.png", "d/depth/1.png", "1.png"):
        put(tmp_path / "Kitti" / name, picture)
    infer(program, mean_model, tmp_path / "images", "images", tmp_path)
    infer(program, mean_model, tmp_path / "Kitti", "Kitti", tmp_path)
    assert [row.image for row in rows(tmp_path, "images")] == ["a.jpg", "b.PNG"]
    assert [row.image for row in rows(tmp_path, "Kitti")] == ["d/image/1.png"]


def test_every_image_has_a_file_of_its_own(program: Path, mean_model: Path, tmp_path: Path) -> None:
    names = ["a.jpg", "a.jpg.png", "a.png", "b.png", 'odd, "name"\n.png', "größe 1.5 m.png"]
    for number, name in enumerate(names):
        picture = file_formats.png(np.full((32, 32), number, np.uint8))
        put(tmp_path / "data" / name, picture)
    assert infer(program, mean_model, tmp_path / "data", "images", tmp_path).returncode == 0
    found = rows(tmp_path, "images")
    assert [row.image for row in found] == sorted(names, key=str.encode)
    files = {row.image: row.file for row in found}
    assert files["a.jpg"] == "a.jpg.bin" and files["a.png"] == "a.png.bin"
    assert files["a.jpg.png"] == "a.jpg.png.bin" and files["b.png"] == "b.bin"
    assert len(set(files.values())) == len(names)
    for row in found:
        expected = (names.index(row.image) / 255 - np.array(MEAN)) / np.array(STD)
        assert np.abs(row.values - expected.mean()).max() <= 1e-6


# ---- the files of a run ----


def test_settings_and_times(program: Path, mean_model: Path, tmp_path: Path) -> None:
    data = plain_folder(tmp_path / "data", (32, 32), (32, 32))
    done = infer(program, mean_model, data, "images", tmp_path, "--size", "64")
    assert re.fullmatch(r"2 of 2 images predicted in .* images/s\): .*\n", done.stdout)
    settings = json.loads((tmp_path / "result_Files" / "images" / "run.json").read_text())
    assert "OpenVINO" in settings.pop("device")
    assert settings == {
        "model": str(mean_model),
        "backend": "openvino",
        "precision": "float32",
        "batch_size": 1,
        "resize": "upper_bound 64",
        "mean": list(MEAN),
        "std": list(STD),
    }
    header = (tmp_path / "result_Files" / "images" / "predictions.csv").read_text().split("\n")[0]
    assert header == "image,file,height,width,image_height,image_width"
    times = (tmp_path / "time_Result" / "test_perform_static.txt").read_text().splitlines()
    first = r"NN inference cost average time: \d+\.\d+ ms of infer_count 2"
    assert re.fullmatch(first, times[0])
    assert any(re.match(r"end to end: \d+\.\d+ images/s", line) for line in times)


def test_nothing_is_overwritten(program: Path, mean_model: Path, tmp_path: Path) -> None:
    data = plain_folder(tmp_path / "data", (32, 32))
    assert infer(program, mean_model, data, "images", tmp_path).returncode == 0
    times = tmp_path / "time_Result" / "test_perform_static.txt"
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    again = infer(program, mean_model, data, "images", tmp_path)
    one_line_error(again, 5, str(tmp_path / "result_Files" / "images"), "exists already")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    (tmp_path / "result_Files").rename(tmp_path / "moved")
    assert infer(program, mean_model, data, "images", tmp_path).returncode == 0
    assert times.with_name("test_perform_static.1.txt").read_bytes() == before[times]


def test_progress_is_drawn_on_a_terminal_only(
    program: Path, mean_model: Path, tmp_path: Path
) -> None:
    data = plain_folder(tmp_path / "data", *[(32, 32)] * 3)
    ours, theirs = pty.openpty()
    words = [program, "--model", mean_model, "--data", data, "--dataset", "images"]
    done = subprocess.run(
        [*words, "--output", tmp_path],
        env=environment(),
        stderr=theirs,
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    )
    os.close(theirs)
    shown = os.read(ours, 10000).decode()
    os.close(ours)
    assert re.search(r"\[#+\.*\] \d of 3 images, [\d.]+ images/s, \d+:\d\d:\d\d left", shown)
    assert b"\r" not in done.stdout


# ---- errors ----


def test_help(program: Path) -> None:
    for flag in ("--model", "--dataset", "--precision", "Exit codes"):
        assert flag in command(program, "--help")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--sise", "3"), ("--sise: no such flag",)),
        (("--threads",), ("--threads: expected a value",)),
        (("--batch_size", "0"), ("--batch_size: '0'", "from 1 to 1024")),
        (("--batch_size", "2x"), ("--batch_size: '2x'",)),
        (("--size", "100"), ("--size: 100", "multiple of 32")),
        (("--backend", "cuda"), ("--backend: 'cuda'", "auto, openvino, lite")),
        (("--precision", "float16"), ("--precision: 'float16'",)),
        (("--mean", "1,2"), ("--mean: '1,2'", "three numbers")),
        (("--mean", "nan,0,0"), ("--mean",)),
        (("--mean", "1e300,0,0"), ("--mean",)),
        (("--std", "1,0,1"), ("--std", "above 0")),
        (("--std", "1,1,1e-60"), ("--std", "above 0")),
        (("--size", "64", "--size", "64"), ("--size: given twice",)),
    ],
)
def test_wrong_command_line(
    program: Path, mean_model: Path, tmp_path: Path, flags: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    done = infer(program, mean_model, tmp_path, "images", tmp_path / "out", *flags)
    one_line_error(done, 2, *parts)
    assert not (tmp_path / "out").exists()


def test_missing_flag_and_unknown_data_set(program: Path, mean_model: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [program], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    one_line_error(done, 2, "--model is missing")
    one_line_error(infer(program, mean_model, tmp_path, "NYU", tmp_path), 2, "--dataset: 'NYU'")


def bad_models(folder: Path, good: Path) -> dict[str, tuple[Path, str]]:
    whole = good.read_bytes()
    return {
        "missing": (folder / "none.onnx", "no such file"),
        "part": (put(folder / "half.onnx", whole[: len(whole) // 2]), "damaged"),
        "no end": (put(folder / "end.onnx", whole[:-7]), ""),
        "text": (put(folder / "text.onnx", b"hello\nworld\n" * 99), "damaged"),
        "empty": (put(folder / "empty.onnx", b""), "damaged"),
        "checkpoint": (put(folder / "w.ckpt", whole), "midas_export.py"),
        "mindir": (put(folder / "w.mindir", whole), "built with openvino only"),
        "vector": (mean_onnx(folder / "v.onnx", ("b", 3, 64, 96), kept=(0, 2)), "(any, 3, 64, 96)"),
        "grey": (mean_onnx(folder / "g.onnx", ("b", 1, "h", "w")), "expected RGB images"),
        "half": (
            mean_onnx(folder / "w.onnx", operator="MaxPool", kernel_shape=[2], strides=[2]),
            "to (any, any, 48)",
        ),
        "turned": (
            mean_onnx(folder / "t.onnx", operator="Transpose", perm=[0, 2, 1]),
            "to (any, 96, 64)",
        ),
        "one": (
            mean_onnx(folder / "o.onnx", operator="Slice", operands=([0], [1], [0])),
            "to (1, any, any)",
        ),
        "rank": (mean_onnx(folder / "r.onnx", ("b", 3), kept=(0,)), "expected RGB images"),
    }


def test_wrong_models(program: Path, exported_onnx: Path, tmp_path: Path) -> None:
    data = plain_folder(tmp_path / "data", (32, 32))
    for model, reason in bad_models(tmp_path, exported_onnx).values():
        done = infer(program, model, data, "images", tmp_path / "out")
        one_line_error(done, 3, str(model), reason)
        assert not (tmp_path / "out").exists()  # nothing in the way of the next try
    mindir = tmp_path / "w.mindir"
    done = infer(program, mindir, data, "images", tmp_path, "--backend", "openvino")
    one_line_error(done, 3, str(mindir), "reads .onnx files")


def test_model_whose_output_has_another_size_for_some_images(program: Path, tmp_path: Path) -> None:
    model = mean_onnx(tmp_path / "cut.onnx", operator="Slice", operands=([0], [96], [2]))
    data = plain_folder(tmp_path / "data", (32, 96), (32, 128))
    done = infer(program, model, data, "images", tmp_path, "--size", "96")
    assert (done.returncode, len(rows(tmp_path, "images"))) == (0, 2)
    done = infer(program, model, data, "images", tmp_path / "large", "--size", "128")
    one_line_error(done, 3, str(model), "another size")
    assert rows(tmp_path / "large", "images") == []


def test_wrong_data(program: Path, mean_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path / "tum" / "s" / "rgb" / "1.png", b"")
    put(tmp_path / "line" / "associate.txt", b"rgb/1.png depth/1.png\na b c\n")
    put(tmp_path / "out" / "s" / "associate.txt", b"../../../etc/x.png d.png\n")
    cases = [
        ("none", "images", "no such folder"),
        ("tum/s/rgb/1.png", "images", "no such folder"),
        ("empty", "images", "no image in this folder"),
        ("empty", "Kitti", "<drive>/image/*.png"),
        ("empty", "Sintel", "final_left"),
        ("empty", "TUM", "associate.txt"),
        ("tum", "TUM", "preprocess/associate.py"),
        ("line", "TUM", "line 2: expected 'rgb depth' or 'time rgb time depth', found 'a b c'"),
        ("out", "TUM", "lies outside"),
    ]
    for folder, dataset, reason in cases:
        done = infer(program, mean_model, tmp_path / folder, dataset, tmp_path / "results")
        one_line_error(done, 4, str(tmp_path), reason)
        assert not (tmp_path / "results").exists()


def test_unreadable_images_among_good_ones(program: Path, mean_model: Path, tmp_path: Path) -> None:
    data = plain_folder(tmp_path / "data", *[(32, 32)] * 5)
    (data / "001.png").write_bytes(b"no image")
    (data / "003.png").write_bytes((data / "004.png").read_bytes()[:-20])
    done = infer(program, mean_model, data, "images", tmp_path, "--batch_size", "2")
    assert done.returncode == 1
    errors = done.stderr.splitlines()
    assert len(errors) == 2
    assert errors[0] == f"error: {data}/001.png: not an image, or damaged at its start"
    assert errors[1].startswith(f"error: {data}/003.png: truncated or damaged")
    assert "3 of 5 images predicted" in done.stdout
    assert [row.image for row in rows(tmp_path, "images")] == ["000.png", "002.png", "004.png"]


def test_image_that_an_association_only_names(
    program: Path, mean_model: Path, tmp_path: Path
) -> None:
    put(tmp_path / "TUM" / "rgb" / "1.png", file_formats.png(random_image(1, (32, 32))))
    put(tmp_path / "TUM" / "associate.txt", b"rgb/0.png d\nrgb/1.png d\n")
    done = infer(program, mean_model, tmp_path / "TUM", "TUM", tmp_path)
    one_line_error(done, 1, "rgb/0.png: no such file")
    assert [row.image for row in rows(tmp_path, "TUM")] == ["rgb/1.png"]


def test_decoders_keep_silent(program: Path, mean_model: Path, tmp_path: Path) -> None:
    """Of this file libjpeg says on stderr that bytes are extraneous; Pillow reads it too."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "odd.jpg"
    Image.fromarray(random_image(1, (64, 64))).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + b"\x12" * 40 + whole[-2:])
    done = infer(program, mean_model, tmp_path / "data", "images", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    log = tmp_path / "library.log"
    other = tmp_path / "other"
    infer(program, mean_model, path.parent, "images", other, MIDAS_LIBRARY_LOG=str(log))
    assert "extraneous bytes" in log.read_text()


def test_output_that_cannot_be_written(program: Path, mean_model: Path, tmp_path: Path) -> None:
    data = plain_folder(tmp_path / "data", (32, 32))
    put(tmp_path / "file", b"")
    done = infer(program, mean_model, data, "images", tmp_path / "file")
    one_line_error(done, 5, str(tmp_path / "file"), "Not a directory")


def test_full_disk_keeps_what_is_whole(program: Path, mean_model: Path, tmp_path: Path) -> None:
    # predictions of 4 * 32 * 384 bytes, the last one of 4 * 384 * 384
    data = plain_folder(tmp_path / "data", (10, 400), (10, 400), (200, 200))
    done = infer(program, mean_model, data, "images", tmp_path, limit=100_000)
    one_line_error(done, 5, "/002.bin: cannot be written (File too large)")
    assert [row.image for row in rows(tmp_path, "images")] == ["000.png", "001.png"]


def test_full_disk_leaves_no_half_row(program: Path, mean_model: Path, tmp_path: Path) -> None:
    for number in range(20):
        name = f"{number:03d}{'x' * 200}.png"
        put(tmp_path / "data" / name, file_formats.png(random_image(number, (32, 32))))
    # 4 * 32 * 32 = 4096 bytes a prediction and some 430 a row: the table is full first
    flags = ("--size", "32")
    done = infer(program, mean_model, tmp_path / "data", "images", tmp_path, *flags, limit=4200)
    one_line_error(done, 5, "predictions.csv: cannot be written (File too large)")
    assert len(rows(tmp_path, "images")) == 9


def test_predictions_that_are_not_finite(program: Path, tmp_path: Path) -> None:
    model = mean_onnx(tmp_path / "log.onnx", operator="Log")  # of negative numbers
    put(tmp_path / "data" / "a.png", file_formats.png(np.full((32, 32), 255, np.uint8)))
    put(tmp_path / "data" / "b.png", file_formats.png(np.zeros((32, 32), np.uint8)))
    done = infer(program, model, tmp_path / "data", "images", tmp_path)
    one_line_error(done, 6, "b.png: the prediction is not finite")
    assert [row.image for row in rows(tmp_path, "images")] == ["a.png"]


def start(words: list[str | Path]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(words, env=environment(), stderr=pipe, stdout=pipe, text=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_program_between_images(
    program: Path, exported_onnx: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    data = plain_folder(tmp_path / "data", *[(100, 100)] * 500)
    words = [program, "--model", exported_onnx, "--data", data, "--dataset", "images"]
    table = tmp_path / "result_Files" / "images" / "predictions.csv"
    with start([*words, "--output", tmp_path]) as process:
        deadline = time.monotonic() + 60
        while not table.exists() or table.read_text().count("\n") < 4:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert re.fullmatch(rf"error: stopped by {number.name} after \d+ of 500 images; .*\n", errors)
    found = rows(tmp_path, "images")
    assert 3 <= len(found) < 500
    assert f"after {len(found)} of 500" in errors
    times = (tmp_path / "time_Result" / "test_perform_static.txt").read_text()
    assert f"infer_count {len(found)}\n" in times


def test_names_as_long_as_names_may_be(program: Path, mean_model: Path, tmp_path: Path) -> None:
    picture = file_formats.png(random_image(1, (32, 32)))
    longest = "x" * 251
    put(tmp_path / "data" / f"{longest}.png", picture)
    for suffix in ("png", "ppm"):  # two of one stem, so the suffix is part of the result's name
        put(tmp_path / "data" / f"{'y' * 251}.{suffix}", picture)
    done = infer(program, mean_model, tmp_path / "data", "images", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("longer than 255 bytes; rename it\n") == 2, done.stderr
    assert [row.file for row in rows(tmp_path, "images")] == [f"{longest}.bin"]


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_messages_do_not_get_into_results(
    program: Path, mean_model: Path, tmp_path: Path, closed: str
) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "odd.jpg"
    Image.fromarray(random_image(1, (64, 64))).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + b"\x12" * 40 + whole[-2:])  # libjpeg warns of these
    words = ["--model", mean_model, "--data", path.parent, "--dataset", "images"]
    command("sh", "-c", f'"$@" {closed}', "sh", program, *words, "--output", tmp_path)
    assert [row.image for row in rows(tmp_path, "images")] == ["odd.jpg"]
    table = (tmp_path / "result_Files" / "images" / "predictions.csv").read_text()
    assert table.count("\n") == 2 and "Corrupt" not in table


def test_log_that_cannot_be_opened(program: Path, mean_model: Path, tmp_path: Path) -> None:
    log = str(tmp_path / "none" / "library.log")
    done = infer(program, mean_model, tmp_path, "images", tmp_path, MIDAS_LIBRARY_LOG=log)
    one_line_error(done, 2, f"MIDAS_LIBRARY_LOG={log}", "No such file")


def test_no_thread_is_one_line(program: Path, mean_model: Path, tmp_path: Path) -> None:
    """A stack of the size of the address space cannot be had."""
    words = [program, "--model", mean_model, "--data", tmp_path, "--dataset", "images"]
    done = subprocess.run(
        ["prlimit", f"--stack={2**47}:", *map(str, words)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    one_line_error(done, 6, "Resource temporarily unavailable")


def test_times_that_could_not_be_written(program: Path, mean_model: Path, tmp_path: Path) -> None:
    data = plain_folder(tmp_path / "data", (32, 32))
    put(tmp_path / "time_Result", b"")
    done = infer(program, mean_model, data, "images", tmp_path)
    one_line_error(done, 5, f"{tmp_path}/time_Result: cannot be written (not a folder)")
    assert not (tmp_path / "result_Files").exists()
    (tmp_path / "time_Result").unlink()
    times = tmp_path / "time_Result" / "test_perform_static.txt"
    times.parent.mkdir()
    times.symlink_to(times.name)  # a link to itself, which cannot be looked into
    assert infer(program, mean_model, data, "images", tmp_path).returncode == 0
    assert times.with_name("test_perform_static.1.txt").is_symlink()
    assert "infer_count 1\n" in times.read_text()


def test_a_failed_start_is_not_in_the_way(program: Path, mean_model: Path, tmp_path: Path) -> None:
    data = plain_folder(tmp_path / "data", (32, 32))
    done = infer(program, mean_model, data, "images", tmp_path, limit=10)
    one_line_error(done, 5, "run.json: cannot be written (File too large)")
    assert infer(program, mean_model, data, "images", tmp_path).returncode == 0


def test_image_too_oblong_for_the_network(program: Path, mean_model: Path, tmp_path: Path) -> None:
    images = tmp_path / "data" / "drive" / "image"
    put(images / "line.png", file_formats.png(np.zeros((1, 60000), np.uint8)))
    put(images / "good.png", file_formats.png(np.zeros((32, 32), np.uint8)))
    done = infer(program, mean_model, tmp_path / "data", "Kitti", tmp_path)
    one_line_error(done, 1, f"{images}/line.png: becomes 384x23040000 pixels", "178956970")
    assert [row.image for row in rows(tmp_path, "Kitti")] == ["drive/image/good.png"]


def test_bfloat16_that_the_processor_has_not(
    program: Path, exported_onnx: Path, tmp_path: Path
) -> None:
    """OpenVINO may compute in float32 then, or fail."""
    data = plain_folder(tmp_path / "data", (64, 96))
    flags = ("--precision", "bfloat16")
    done = infer(
        program, exported_onnx, data, "images", tmp_path, *flags, ONEDNN_MAX_CPU_ISA="AVX2"
    )
    assert done.returncode in (0, 6)
    if done.returncode:
        one_line_error(done, 6, "try --precision float32")


def opened(fifo: Path, seconds: float) -> bool:
    """Whether somebody opens this FIFO to read; it finds nothing in it then."""
    end = time.monotonic() + seconds
    while True:
        try:
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            assert error.errno == errno.ENXIO
        else:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.01)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core: one image at a time")
def test_a_bounded_number_of_images_is_read_ahead(
    program: Path, mean_model: Path, tmp_path: Path
) -> None:
    """While the first image of 12 does not come, the next four are read and no more."""
    fifos = [tmp_path / "rgb" / f"{number:02d}.png" for number in (0, 4, 5)]
    for number in range(12):
        path = put(
            tmp_path / "rgb" / f"{number:02d}.png", file_formats.png(random_image(1, (9, 9)))
        )
        if path in fifos:
            path.unlink()
            os.mkfifo(path)
    lines = "".join(f"rgb/{number:02d}.png d\n" for number in range(12))
    put(tmp_path / "associate.txt", lines.encode())
    words = [program, "--model", mean_model, "--data", tmp_path, "--dataset", "TUM"]
    with start([*words, "--output", tmp_path]) as process:
        assert opened(fifos[1], 60)
        assert not opened(fifos[2], 1)  # never: what is read too early opens it at once
        assert opened(fifos[0], 60) and opened(fifos[2], 60)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.count("error: ")) == (1, 3), errors
    assert len(rows(tmp_path, "TUM")) == 9


# ---- MindSpore Lite, by a stand-in; AddressSanitizer and LeakSanitizer ----


@pytest.fixture
def lite_data(tmp_path: Path) -> Path:
    return plain_folder(tmp_path / "data", (64, 96), (50, 70), (96, 64))


def run_lite(
    sanitized: Sanitized, settings: dict[str, str], data: Path, output: Path, *flags: str
) -> subprocess.CompletedProcess[str]:
    model = toy_mindir(output / "toy.mindir", settings)
    done = infer(
        sanitized.program, model, data, "images", output, *flags, **sanitized.environment()
    )
    assert [path.read_text() for path in sanitized.reports.iterdir()] == []
    return done


FIXED = {"input": "2 3 64 96", "output": "2 64 96"}


def test_lite_with_a_fixed_shape(sanitized: Sanitized, lite_data: Path, tmp_path: Path) -> None:
    done = run_lite(sanitized, FIXED | {"devices": "2"}, lite_data, tmp_path, "--device_id", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "were filled up" in done.stdout and "--batch_size" not in done.stdout
    found = rows(tmp_path, "images")
    assert len(found) == 3
    for row in found:
        image = transforms.resize_image(read_image(lite_data / row.image), 64, 96)
        expected = transforms.normalize(image, MEAN, STD).mean(axis=0)
        assert np.abs(row.values - expected).max() <= 1e-5
    settings = json.loads((tmp_path / "result_Files" / "images" / "run.json").read_text())
    assert settings["backend"] == "lite" and settings["resize"] == "fixed 64x96"
    assert settings["device"] == "MindSpore Lite, Ascend device 1"


def test_lite_with_any_shape(sanitized: Sanitized, lite_data: Path, tmp_path: Path) -> None:
    shapes = {"input": "-1 3 -1 -1", "output": "-1 -1 -1"}
    flags = ("--backend", "lite", "--size", "96")
    done = run_lite(sanitized, shapes, lite_data, tmp_path, *flags)
    assert (done.returncode, done.stderr) == (0, "")
    found = rows(tmp_path, "images")
    assert [row.values.shape for row in found] == [(64, 96), (64, 96), (96, 64)]
    for row in found:
        expected = channel_mean(lite_data / row.image, ResizeRule(96, 96))
        assert np.abs(row.values - expected).max() <= 1e-5


@pytest.mark.parametrize(
    ("settings", "flags", "code", "part"),
    [
        (FIXED, ("--device_id", "1"), 6, "Ascend device 1 cannot be used"),
        (FIXED | {"fail": "build"}, (), 6, "Ascend device 0 cannot be used, or not with"),
        (FIXED | {"fail": "graph"}, (), 3, "not a model that can be loaded for Ascend device 0 (F"),
        (FIXED | {"fail": "predict"}, (), 6, "the computation on Ascend device 0 failed"),
        (FIXED | {"fail": "nan"}, (), 6, "not finite"),
        (FIXED | {"fail": "half"}, (), 3, "its output is float16, expected float32"),
        (FIXED | {"fail": "null"}, (), 6, "its output cannot be copied from the device"),
        ({"input": "1 1 64 96", "output": "1 64 96"}, (), 3, "maps (1, 1, 64, 96) to (1, 64, 96)"),
        ({"input": "1 3 64 96", "output": "1 64 64"}, (), 3, "maps (1, 3, 64, 96) to (1, 64, 64)"),
        ({}, (), 3, "not a model that can be loaded"),
        ({"input": "-1 3 -1 -1", "output": "-1 64 -1"}, (), 3, "to (any, 64, any)"),
        (FIXED, ("--precision", "bfloat16"), 2, "--precision"),
        (FIXED, ("--backend", "openvino"), 3, "reads .onnx files"),
    ],
)
def test_lite_errors(
    sanitized: Sanitized,
    lite_data: Path,
    tmp_path: Path,
    settings: dict[str, str],
    flags: tuple[str, ...],
    code: int,
    part: str,
) -> None:
    one_line_error(run_lite(sanitized, settings, lite_data, tmp_path, *flags), code, part)


def test_no_leak_and_no_stray_access(
    sanitized: Sanitized, exported_onnx: Path, mean_model: Path, tmp_path: Path
) -> None:
    data = plain_folder(tmp_path / "data", (40, 60), (60, 40), (40, 60), (33, 44))
    (data / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe1\xff\xff")
    runs = [
        (exported_onnx, 1, ("--size", "64", "--batch_size", "2")),
        (tmp_path / "none.onnx", 3, ()),
        (mean_onnx(tmp_path / "log.onnx", operator="Log"), 6, ()),
        (mean_model, 2, ("--size", "1")),
    ]
    for number, (model, code, flags) in enumerate(runs):
        output = tmp_path / str(number)
        changes = sanitized.environment()
        done = infer(sanitized.program, model, data, "images", output, *flags, **changes)
        assert done.returncode == code, done.stderr
    assert [path.read_text() for path in sanitized.reports.iterdir()] == []


def peak_memory(words: list[str | Path], **changes: str) -> int:
    """Megabytes that a successful run held at most."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, env=environment(**changes)) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss // 1024


def test_memory_does_not_grow_with_the_images(
    program: Path, mean_model: Path, tmp_path: Path
) -> None:
    """Every image has another size than the last, so that no batch becomes full by itself."""
    peaks = []
    for count in (40, 240):
        shapes = [(1000, 1000 - 40 * (n % 20)) for n in range(count)]
        data = plain_folder(tmp_path / f"data{count}", *[(h // 10, w // 10) for h, w in shapes])
        words = [program, "--model", mean_model, "--data", data, "--dataset", "images"]
        output = tmp_path / f"out{count}"
        peaks.append(peak_memory([*words, "--output", output, "--batch_size", "8"]))
        shutil.rmtree(output)
    # 200 more images are 350 MB of inputs and 120 MB of predictions
    assert peaks[1] - peaks[0] < 60, peaks


# ---- build.sh ----


def test_a_second_build_compiles_only_what_changed(built: Path) -> None:
    def objects() -> dict[str, int]:
        files = (built / "out").rglob("*.o")
        return {path.name: path.stat().st_mtime_ns for path in files}

    before = objects()
    command("bash", built / "build.sh")
    assert objects() == before
    os.utime(built / "src" / "errors.cc")
    command("bash", built / "build.sh")
    after = objects()
    assert [name for name in after if after[name] != before[name]] == ["errors.cc.o"]
    assert "midas_infer" in (built / "out" / "build.log").read_text()


def test_build_names_what_is_missing(built: Path, tmp_path: Path) -> None:
    for name in ("bash", "dirname", "mkdir", "g++", "make", "nproc"):
        (tmp_path / name).symlink_to(shutil.which(name))
    words = ["bash", built / "build.sh"]
    environment_ = environment() | {"PATH": str(tmp_path)}
    done = subprocess.run(
        words, env=environment_, capture_output=True, text=True, timeout=60, check=False
    )
    one_line_error(done, 2, "cmake is missing", "bash scripts/setup.sh infer310")
    done = subprocess.run(
        [*words, "--fast"], env=environment(), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    one_line_error(done, 2, "unknown flag '--fast'")


def test_build_names_its_backends_and_a_wrong_folder(built: Path, tmp_path: Path) -> None:
    said = command("bash", built / "build.sh")
    assert said == f"built {built}/out/midas_infer with openvino\n"
    done = subprocess.run(
        ["bash", built / "build.sh", "--debug"],
        env=environment(OpenVINO_DIR=str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    one_line_error(done, 2, f"OpenVINO_DIR={tmp_path}: no OpenVINO there")


def test_builds_in_one_folder_wait_for_each_other(built: Path) -> None:
    with (built / "out" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        log = built / "out" / "build.log"
        before = log.stat().st_mtime_ns
        with start(["bash", built / "build.sh"]) as process:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            assert log.stat().st_mtime_ns == before
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert process.wait(120) == 0
