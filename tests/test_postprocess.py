"""postprocess.py: what is scored and drawn of the files that ascend310_infer writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import postprocess
from src.data.benchmarks import BENCHMARKS
from src.data.transforms import ResizeRule
from src.errors import UserError
from src.evaluation import Options, evaluate_all
from src.inference import predict_folder
from src.predictor import Predictor
from src.results import ResultFiles
from tests import file_formats
from tests.benchmark_sets import paths, random_image, stored_depth, write_diw, write_files
from tests.saved_files import HEADER, write_bin, write_run, write_saved

REPOSITORY = Path(__file__).resolve().parents[1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 64
SHAPES = [(40, 60), (64, 64), (50, 90), (40, 60)]
METHODS = {"Kitti": "lower_bound", "Sintel": "upper_bound", "TUM": "upper_bound"}
# printf weights | sha256sum
WEIGHTS_SHA256 = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"


def images_of(name: str) -> list[str]:
    """The images of a set below its folder, in its order."""
    return [str(paths(name, "one", number)[0]) for number in range(len(SHAPES))]


def write_set(root: Path, name: str) -> None:
    images = [random_image(i, shape) // (i + 1) for i, shape in enumerate(SHAPES)]
    depths = [stored_depth(name, i, shape) for i, shape in enumerate(SHAPES)]
    write_files(name, root / name, {"one": list(zip(images, depths, strict=True))})


def write_occlusions(root: Path) -> None:
    for i, image in enumerate(images_of("Sintel")):
        hidden = np.random.default_rng(i).choice(np.uint8([0, 255]), SHAPES[i])
        file = root / "Sintel/occlusions/one" / Path(image).name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(file_formats.png(hidden))


def run(place: Path, *arguments: object) -> int:
    """postprocess.py on result_Files into result_val.json, all below `place`."""
    flags = {"train_data_dir": "data", "result_path": "result_Files", "ann_file": "result_val.json"}
    for name in BENCHMARKS:
        flags[f"datapath_{name}"] = "[a, b]" if name == "NYU" else name
    words = [word for key, value in flags.items() for word in (f"--{key}", value)]
    words += [str(argument) for argument in arguments]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(sys, "argv", ["postprocess.py", *words])
        return postprocess.main()


def details(place: Path) -> dict:
    return json.loads((place / "result_val/results.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- The numbers ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predictor(exported, small_network) -> Predictor:
    return Predictor(exported.ckpt, small_network, MEAN, STD)


@pytest.fixture(scope="module")
def saved(tmp_path_factory, predictor) -> Path:
    """Three data sets, and what the network predicts for each of their images alone."""
    place = tmp_path_factory.mktemp("saved")
    for name, method in METHODS.items():
        write_set(place / "data", name)
        rule = ResizeRule(SIZE, SIZE, method=method)
        predictions = []
        for i, image in enumerate(images_of(name)):
            input_ = predictor.prepare(random_image(i, SHAPES[i]) // (i + 1), rule)
            predictions.append((image, predictor.run([input_])[0], SHAPES[i]))
        folder = place / "result_Files" / name
        write_saved(folder, predictions, model=str(predictor.path), resize=f"{method} {SIZE}")
    write_occlusions(place / "data")
    return place


@pytest.mark.parametrize(
    ("upsampling", "occluded"), [("bilinear", True), ("bicubic", True), ("bilinear", False)]
)
def test_predictions_of_the_network_give_its_results_to_the_last_bit(
    tmp_path, saved, predictor, upsampling, occluded, capsys
):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    benchmarks = [
        BENCHMARKS[name](
            tmp_path / "data" / name, SIZE, **({"occluded": occluded} if name == "Sintel" else {})
        )
        for name in METHODS
    ]
    (tmp_path / "eval").mkdir()
    files = ResultFiles(tmp_path / "eval/result_val.json")
    evaluate_all(predictor, benchmarks, files, Options(upsampling=upsampling))

    options = ("--upsampling", upsampling, "--sintel_occluded", occluded, "--eval_size", SIZE)
    assert run(tmp_path, "--data_name", "Kitti,Sintel,TUM", *options) == 0
    expected = tmp_path / "eval/result_val.json"
    assert (tmp_path / "result_val.json").read_bytes() == expected.read_bytes()
    found, wanted = contents(tmp_path / "result_val"), contents(tmp_path / "eval/result_val")
    assert found.keys() == wanted.keys()
    changed = {name for name in found if found[name] != wanted[name]}
    assert changed == {"results.json", "report.html"}, "what the predictions were computed with"
    for name, entry in json.loads(wanted["results.json"]).items():
        of_files = details(tmp_path)[name]
        settings, of_network = of_files.pop("settings"), entry.pop("settings")
        assert of_network.pop("batch_norm") == "folded"
        assert of_files == entry
        added = {"backend", "precision", "device"}
        assert settings.keys() - of_network.keys() == added
        assert {**of_network, "network_size": str(SIZE)}.items() <= settings.items()
    table = capsys.readouterr().out
    assert (
        f"predictions resized by {upsampling} interpolation; computed by openvino in float32\n"
        in (table)
    )


def test_one_data_set_after_the_other_is_added(tmp_path, saved):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    run(tmp_path, "--data_name", "Sintel")
    before = details(tmp_path)["Sintel"]
    run(tmp_path, "--data_name", "kitti")
    assert list(json.loads((tmp_path / "result_val.json").read_text())) == ["Sintel", "Kitti"]
    assert details(tmp_path)["Sintel"] == before


# --- Small sets, whose predictions nobody computed ------------------------------------------------


def drawn(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 9, (5, 7)).astype(np.float32)


@pytest.fixture
def place(tmp_path) -> Path:
    """A Kitti set with drawn predictions."""
    write_set(tmp_path / "data", "Kitti")
    names = images_of("Kitti")
    predictions = [(name, drawn(i), SHAPES[i]) for i, name in enumerate(names)]
    write_saved(tmp_path / "result_Files/Kitti", predictions)
    return tmp_path


def rewrite(place: Path, change) -> Path:
    """Change the lines of predictions.csv, the header among them."""
    file = place / "result_Files/Kitti/predictions.csv"
    file.write_text("".join(f"{line}\n" for line in change(file.read_text().splitlines())))
    return file


def refused(place: Path, *arguments: object) -> str:
    """The message of a run that must not write results."""
    with pytest.raises(UserError) as caught:
        run(place, "--data_name", "Kitti", *arguments)
    assert not (place / "result_val.json").exists()
    return str(caught.value)


def skipped(place: Path) -> list[str]:
    return [f"{one['id']} {one['reason']}" for one in details(place)["Kitti"]["skipped"]]


def test_the_settings_are_those_of_the_run(place):
    model = place / "model.onnx"
    model.write_bytes(b"weights")
    write_run(
        place / "result_Files/Kitti",
        {"model": str(model), "precision": "bfloat16", "batch_size": 4, "device": "Some CPU"},
    )
    run(place, "--data_name", "Kitti", "--upsampling", "bicubic")
    assert details(place)["Kitti"]["settings"] == {
        "checkpoint": str(model),
        "checkpoint_sha256": WEIGHTS_SHA256,
        "dataset": str(place / "data/Kitti"),
        "network_size": "384",
        "normalisation": "mean 0.485 0.456 0.406, std 0.229 0.224 0.225",
        "batch_size": 4,
        "backend": "openvino",
        "precision": "bfloat16",
        "device": "Some CPU",
        "resize": "upper_bound 384",
        "upsampling": "bicubic",
        "cap_m": 80.0,
    }
    page = (place / "result_val/report.html").read_text()
    assert all(word in page for word in ("bfloat16", "Some CPU", str(model), WEIGHTS_SHA256[:12]))


@pytest.mark.parametrize(("seconds", "known"), [(-1, True), (0, True), (1, False)])
def test_a_model_that_changed_since_it_predicted_has_no_hash(place, seconds, known):
    model = place / "model.onnx"
    model.write_bytes(b"weights")
    write_run(place / "result_Files/Kitti", {"model": str(model)})
    os.utime(place / "result_Files/Kitti/run.json", (1_700_000_000, 1_700_000_000))
    os.utime(model, (1_700_000_000 + seconds, 1_700_000_000 + seconds))
    run(place, "--data_name", "Kitti")
    settings = details(place)["Kitti"]["settings"]
    assert settings.get("checkpoint_sha256") == (WEIGHTS_SHA256 if known else None)
    assert settings["checkpoint"] == str(model)


def test_a_model_that_is_not_here_has_no_hash(place):
    run(place, "--data_name", "Kitti")
    settings = details(place)["Kitti"]["settings"]
    assert settings["checkpoint"] == "/models/small.onnx"
    assert "checkpoint_sha256" not in settings


@pytest.mark.parametrize(
    ("values", "size", "words"),
    [
        ({"resize": "lower_bound 256"}, "256", []),
        ({"resize": "fixed 384x1280"}, "1280x384", []),
        (
            {"mean": [0.5, 0.5, 0.5]},
            "384",
            ["normalised by mean 0.5 0.5 0.5, std 0.229 0.224 0.225 instead of mean 0.485 "],
        ),
        ({"std": [1, 1, 1]}, "384", ["normalised by mean 0.485 0.456 0.406, std 1 1 1 instead of"]),
        ({"backend": "lite", "precision": "float16"}, "384", ["computed by lite in float16"]),
    ],
)
def test_what_differs_from_the_protocol_is_in_the_last_line_and_the_settings(
    place, capsys, values, size, words
):
    write_run(place / "result_Files/Kitti", values)
    run(place, "--data_name", "Kitti")
    *_, last, _ = capsys.readouterr().out.splitlines()
    assert last.startswith(f"network size {size} (384 in the protocol), ")
    assert all(word in last for word in words)
    assert ("normalised" in last) == ("mean" in values or "std" in values)
    settings = details(place)["Kitti"]["settings"]
    assert settings["network_size"] == size
    assert settings["resize"] == values.get("resize", "upper_bound 384")
    if size != "384":
        page = (place / "result_val/report.html").read_text()
        assert f"Network size {size}; the published errors are of size 384." in page


@pytest.mark.parametrize(
    ("predicted", "told"),
    [
        ("lower_bound 128", ""),
        ("lower_bound 384", "predicted at lower_bound 384 instead of lower_bound 128"),
        ("upper_bound 128", "predicted at upper_bound 128 instead of lower_bound 128"),
        ("fixed 384x384", ""),
    ],
)
def test_another_resize_rule_than_the_benchmarks_is_in_the_last_line(
    place, capsys, predicted, told
):
    write_run(place / "result_Files/Kitti", {"resize": predicted})
    run(place, "--data_name", "Kitti", "--eval_size", 128)
    *_, last, _ = capsys.readouterr().out.splitlines()
    assert last.endswith(f", {told}" if told else "computed by openvino in float32")


def test_other_means_in_the_configuration_are_those_to_compare_with(place, capsys):
    write_run(place / "result_Files/Kitti", {"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1]})
    flags = ("--nm_img_mean", "[0.5, 0.5, 0.5]", "--nm_img_std", "[1, 1, 1]")
    run(place, "--data_name", "Kitti", *flags)
    assert "normalised" not in capsys.readouterr().out


def test_a_prediction_belongs_to_its_own_image(place):
    """In whatever order the program finished the images, and whatever it called their files."""
    run(place, "--data_name", "Kitti")
    before = contents(place / "result_val")
    folder = place / "result_Files/Kitti"
    for i in range(4):
        (folder / f"one/image/000000000{i}.bin").rename(folder / f"{9 - i}.bin")
    rewrite(
        place,
        lambda lines: [
            HEADER,
            *(cell(lines, row, 1, f"{10 - row}.bin")[row] for row in (4, 2, 3, 1)),
        ],
    )
    (place / "result_val.json").unlink()
    shutil.rmtree(place / "result_val")
    run(place, "--data_name", "Kitti")
    assert contents(place / "result_val") == before


# --- Bad input ------------------------------------------------------------------------------------


def cut_row(lines: list[str], index: int) -> list[str]:
    return [line for i, line in enumerate(lines) if i != index]


def cell(lines: list[str], row: int, column: int, value: str) -> list[str]:
    cells = lines[row].split(",")
    cells[column] = value
    return [*lines[:row], ",".join(cells), *lines[row + 1 :]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "predictions.csv: expected the header image,file,height"),
        (lambda lines: [], "predictions.csv: expected the header"),
        (lambda lines: cell(lines, 2, 2, "five"), "predictions.csv, line 3: expected image,file"),
        (lambda lines: [*lines[:2], "a,b,1", *lines[2:]], "predictions.csv, line 3: expected"),
        (lambda lines: [*lines, 'x,"y'], "predictions.csv, line 6: expected"),
        (
            lambda lines: [lines[0], *(f"two/{line}" for line in lines[1:])],
            "predictions.csv: two/one/image/0000000000.png, two/one/image/0000000001.png, "
            "two/one/image/0000000002.png and 1 more: no such image in the data; give the folder "
            "that was",
        ),
    ],
)
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_table_of_something_else_is_an_error_always(place, change, message, on_error):
    rewrite(place, change)
    assert message in refused(place, "--on_error", on_error)


def test_rows_without_image_are_an_error_or_left_out(place, caplog):
    table = rewrite(place, lambda lines: cell(lines, 1, 0, "two/image/1.png"))
    assert f"{table}: two/image/1.png: no such image in the data; give the folder" in refused(place)
    run(place, "--data_name", "Kitti", "--on_error", "skip")
    assert f"{table}: 1 of 4 rows have no image: two/image/1.png" in caplog.messages
    assert details(place)["Kitti"]["images"] == 3


def test_images_without_a_row_are_named_or_skipped(place):
    table = rewrite(place, lambda lines: lines[:1] + lines[3:4])
    names = images_of("Kitti")
    message = refused(place)
    assert f"{table}: 3 of 4 images have no prediction: {names[0]}, {names[1]}, {names[3]};" in (
        message
    )
    assert "--on_error skip" in message
    run(place, "--data_name", "Kitti", "--on_error", "skip")
    assert details(place)["Kitti"]["images"] == 1
    assert [line.split()[0] for line in skipped(place)] == [f"one/000000000{i}" for i in (0, 1, 3)]
    assert f"has no row of {names[3]}" in skipped(place)[2]


def test_of_many_images_without_a_row_three_are_named(tmp_path):
    images = [random_image(0, (4, 5))] * 30
    depths = [stored_depth("Kitti", 0, (4, 5))] * 30
    write_files("Kitti", tmp_path / "data/Kitti", {"a": list(zip(images, depths, strict=True))})
    write_saved(tmp_path / "result_Files/Kitti", [])
    message = refused(tmp_path)
    assert "30 of 30 images" in message
    assert message.count(".png") == 3
    assert "a/image/0000000002.png and 27 more" in message


def test_a_row_that_was_being_written_counts_as_none(place):
    """Its end is missing, and with it maybe the last digits."""
    table = rewrite(place, list)
    table.write_bytes(table.read_bytes()[:-2])
    assert f"1 of 4 images have no prediction: {images_of('Kitti')[3]};" in refused(place)


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def lengthen(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0\0\0\0")


def with_value(value: float):
    def write(file: Path) -> None:
        prediction = drawn(1)
        prediction[4, 6] = value
        write_bin(file, prediction)

    return write


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "no such file"),
        (shorten, "7 x 5 values need 140 bytes, the file has 136"),
        (lengthen, "7 x 5 values need 140 bytes, the file has 144"),
        (lambda file: file.write_bytes(b""), "the file is empty"),
        (with_value(np.nan), "holds values that are not finite"),
        (with_value(np.inf), "holds values that are not finite"),
        (with_value(-np.inf), "holds values that are not finite"),
    ],
)
def test_a_damaged_prediction_is_named_or_skipped(place, damage, message):
    file = place / "result_Files/Kitti/one/image/0000000001.bin"
    damage(file)
    assert refused(place).startswith(f"{file}: {message}")
    run(place, "--data_name", "Kitti", "--on_error", "skip")
    (line,) = skipped(place)
    assert line.startswith(f"one/0000000001 {file}: {message}")


@pytest.mark.parametrize("column", [4, 5])
def test_an_image_of_another_size_than_the_predicted_one_is_named(place, column):
    rewrite(place, lambda lines: cell(lines, 2, column, "63"))
    size = {4: "64 x 63", 5: "63 x 64"}[column]
    message = f"is of an image of {size} pixels, but {images_of('Kitti')[1]} has 64 x 64"
    assert message in refused(place)


@pytest.mark.parametrize(("column", "value"), [(2, "0"), (3, "-7"), (3, "8")])
def test_a_prediction_of_another_size_is_named(place, column, value):
    rewrite(place, lambda lines: cell(lines, 2, column, value))
    assert str(place / "result_Files/Kitti/one/image/0000000001.bin") in refused(place)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON object"),
        ("[1]", "no JSON object"),
        ("{}", "model: Field required"),
        ({"resize": "384"}, "resize: String should match"),
        ({"mean": [0.5]}, "mean"),
        ({"std": [1, 1, float("nan")]}, "std.2"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_a_damaged_run_json_is_named(place, text, message):
    file = place / "result_Files/Kitti/run.json"
    if isinstance(text, str):
        file.write_text(text)
    else:
        write_run(file.parent, text)
    found = refused(place)
    assert found.startswith(f"{file}: damaged ({message}")
    assert found.endswith("; run ascend310_infer again")
    assert "\n" not in found


@pytest.mark.parametrize("file", ["run.json", "predictions.csv"])
def test_predictions_that_are_not_there_are_asked_for(place, file):
    (place / "result_Files/Kitti" / file).unlink()
    assert refused(place) == (
        f"{place}/result_Files/Kitti/{file}: no such file; let ascend310_infer predict Kitti "
        "first, or check result_path"
    )


def test_a_corrupt_image_that_was_not_predicted_is_skipped_for_its_own_reason(place):
    image = place / "data/Kitti" / images_of("Kitti")[2]
    image.write_bytes(image.read_bytes()[:-30])
    rewrite(place, lambda lines: cut_row(lines, 3))
    assert "1 of 4 images have no prediction" in refused(place)
    run(place, "--data_name", "Kitti", "--on_error", "skip")
    (line,) = skipped(place)
    assert line.startswith(f"one/0000000002 {image}: truncated")


def test_benchmarks_that_the_program_does_not_know_are_refused(tmp_path):
    write_diw(tmp_path / "data/DIW", {"a": random_image(0, (9, 12))}, ["1,1,9,5,<"])
    with pytest.raises(UserError, match="ascend310_infer does not predict DIW; expected Kitti"):
        run(tmp_path, "--data_name", "DIW")


def test_all_are_those_that_were_predicted(place, caplog):
    caplog.set_level("INFO", "midas")
    (place / "data/DIW").mkdir()  # no DIW data set: it is not looked at
    assert run(place, "--data_name", "all") == 0
    assert list(details(place)) == ["Kitti"]
    for name in ("Sintel", "TUM"):
        assert f"{name}: no predictions in {place}/result_Files" in caplog.messages


def test_all_of_nothing_is_an_error(place):
    (place / "result_Files/Kitti").rename(place / "result_Files/NYU")
    with pytest.raises(UserError, match=r"result_Files: no predictions of Kitti, Sintel, TUM; let"):
        run(place, "--data_name", "all")


@pytest.mark.parametrize("check", [["--check"], []])
def test_skipping_needs_a_benchmark_that_is_left(place, capsys, check):
    shutil.rmtree(place / "data/Kitti/one")
    assert "no Kitti images found" in refused(place, "--on_error", "skip", *check)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ['a, "b".png', "ä ö.png", "\udcff.png", "a\nb.png"])
def test_names_of_all_kinds_find_their_prediction(tmp_path, name):
    image, depth = random_image(0, (6, 8)), stored_depth("Kitti", 0, (6, 8))
    for kind, array in (("image", image), ("depth", depth)):
        (tmp_path / "data/Kitti/drive" / kind).mkdir(parents=True)
        (tmp_path / "data/Kitti/drive" / kind / name).write_bytes(file_formats.png(array))
    write_saved(tmp_path / "result_Files/Kitti", [(f"drive/image/{name}", drawn(0), (6, 8))])
    run(tmp_path, "--data_name", "Kitti")
    assert details(tmp_path)["Kitti"]["images"] == 1


def test_a_sequence_of_tum_by_itself_and_by_a_link(tmp_path):
    """Whose images the benchmark knows by their real folder."""
    write_set(tmp_path, "TUM")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/TUM").symlink_to(tmp_path / "TUM/one")
    names = [name.removeprefix("one/") for name in images_of("TUM")]
    predictions = [(name, drawn(i), SHAPES[i]) for i, name in enumerate(names)]
    write_saved(tmp_path / "result_Files/TUM", predictions)
    run(tmp_path, "--data_name", "TUM")
    assert details(tmp_path)["TUM"]["images"] == len(SHAPES)


@pytest.mark.parametrize("missing", ["predictions", "image"])
def test_a_check_needs_the_data_and_no_predictions(place, missing):
    shutil.rmtree(place / "result_Files")
    if missing == "image":
        (place / "data/Kitti" / images_of("Kitti")[0]).unlink()
        assert "incomplete, missing" in refused(place, "--check")
    else:
        assert run(place, "--data_name", "Kitti", "--check") == 0
    assert [path.name for path in place.iterdir()] == ["data"]


def test_a_check_prints_the_flags_of_the_program(place, capsys):
    values = "eval_size: 128\nnm_img_mean: [0.5, 0.25, 0]\nnm_img_std: [1, 0.5, 0.125]\n"
    (place / "config.yaml").write_text(values)
    run(place, "--data_name", "Kitti", "--check", "--config_path", "config.yaml")
    assert capsys.readouterr().out == "--size=128\n--mean=0.5,0.25,0.0\n--std=1.0,0.5,0.125\n"


# --- Depth maps of images -------------------------------------------------------------------------


RULE = ResizeRule(SIZE, SIZE)


@pytest.fixture
def photographs(tmp_path, predictor) -> Path:
    """Two photographs with the network's predictions, and an alignment of the first."""
    (tmp_path / "photographs").mkdir()
    predictions = []
    for name, shape in (("a.png", (40, 60)), ("b.png", (64, 64))):
        image = random_image(len(predictions), shape)
        (tmp_path / "photographs" / name).write_bytes(file_formats.png(image))
        prediction = predictor.run([predictor.prepare(image, RULE)])[0]
        predictions.append((name, prediction, shape))
    write_saved(tmp_path / "result_Files/images", predictions)
    return tmp_path


def draw(place: Path, *arguments: object) -> int:
    flags = (
        "--data_name",
        "images",
        "--input_path",
        "photographs",
        "--output_path",
        "result_depth",
    )
    return run(place, *flags, *arguments)


def test_depth_maps_are_those_of_midas_run(photographs, predictor):
    predict_folder(predictor, RULE, photographs / "photographs", photographs / "expected")
    assert draw(photographs) == 0
    found = contents(photographs / "result_depth")
    assert found == contents(photographs / "expected")
    assert len(found) == 6
    assert not (photographs / "result_val.json").exists()


def test_images_may_be_in_capitals_and_a_check_prints_their_size(photographs, capsys):
    sizes = ("--img_width", 256, "--img_height", 128, "--eval_size", 64)
    assert draw(photographs, "--data_name", "Images", "--check", *sizes) == 0
    assert capsys.readouterr().out.splitlines() == [
        *("--size=256", "--mean=0.485,0.456,0.406", "--std=0.229,0.224,0.225")
    ]
    assert not (photographs / "result_depth").exists()


def test_known_distances_give_metric_depth(photographs, predictor):
    predict_folder(predictor, RULE, photographs / "photographs", photographs / "plain")
    data = (photographs / "plain/a.pfm").read_bytes()
    values = np.frombuffer(data[-4 * 40 * 60 :], "<f4").reshape(40, 60)[::-1].astype(float)
    low, high = (np.unravel_index(pick(values), values.shape) for pick in (np.argmin, np.argmax))
    lines = [f"a.png,{low[1]},{low[0]},4", f"a.png,{high[1]},{high[0]},2"]
    (photographs / "known.csv").write_text("\n".join(["image,x,y,metres", *lines]))
    assert draw(photographs, "--align", "known.csv") == 0
    data = (photographs / "result_depth/a_metric.pfm").read_bytes()
    metres = np.frombuffer(data[-4 * 40 * 60 :], "<f4").reshape(40, 60)[::-1]
    share = (values - values[low]) / (values[high] - values[low])
    assert np.abs(metres * (1 / 4 + share * (1 / 2 - 1 / 4)) - 1).max() < 1e-5
    assert not (photographs / "result_depth/b_metric.pfm").exists()


@pytest.mark.parametrize("problem", ["no row", "short", "corrupt"])
def test_one_bad_image_does_not_stop_the_others(photographs, capsys, caplog, problem):
    folder = photographs / "result_Files/images"
    if problem == "no row":
        table = folder / "predictions.csv"
        table.write_text("".join(line for line in table.open() if not line.startswith("a.png")))
    elif problem == "short":
        shorten(folder / "a.bin")
    else:
        image = photographs / "photographs/a.png"
        image.write_bytes(image.read_bytes()[:-30])
    assert draw(photographs) == 4
    assert sorted(contents(photographs / "result_depth")) == ["b.pfm", "b.png", "b_depth.png"]
    assert capsys.readouterr().err.endswith("error: images that failed, named above: 1\n")
    assert "error: " in caplog.text
    named = {"no row": "has no row of a.png", "short": str(folder / "a.bin"), "corrupt": "a.png"}
    assert named[problem] in caplog.text


def test_predictions_of_another_folder_are_refused(photographs):
    (photographs / "photographs/a.png").unlink()
    with pytest.raises(UserError, match=r"predictions\.csv: a\.png: no such image in the data"):
        draw(photographs)
    assert not (photographs / "result_depth").exists()
    assert draw(photographs, "--on_error", "skip") == 0
    assert sorted(contents(photographs / "result_depth")) == ["b.pfm", "b.png", "b_depth.png"]


# --- As a program ---------------------------------------------------------------------------------


def program(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Where MindSpore cannot be imported."""
    (place / "none/mindspore").mkdir(parents=True, exist_ok=True)
    (place / "none/mindspore/__init__.py").write_text("raise ImportError('not on this host')")
    return subprocess.run(
        [
            *(sys.executable, str(REPOSITORY / "postprocess.py")),
            *("--result_path", "result_Files", *arguments),
        ],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(place / "none")},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_scores_need_no_mindspore(place):
    flags = ("--data_name", "Kitti", "--datapath_Kitti", "data/Kitti", "--ann_file", "out.json")
    done = program(place, *flags)
    assert done.returncode == 0, done.stderr
    assert "Kitti" in json.loads((place / "out.json").read_text())
    last = done.stdout.splitlines()[-1]
    assert last == f"results: {place}/out.json, details: {place}/out/report.html"


def test_depth_maps_need_no_mindspore(photographs):
    flags = ("--data_name", "images", "--input_path", "photographs", "--output_path", "depth")
    done = program(photographs, *flags)
    assert done.returncode == 0, done.stderr
    assert len(contents(photographs / "depth")) == 6


def test_an_error_is_one_line_and_exit_code_2(place):
    file = place / "result_Files/Kitti/one/image/0000000001.bin"
    file.unlink()
    flags = ("--data_name", "Kitti", "--datapath_Kitti", "data/Kitti", "--ann_file", "out.json")
    done = program(place, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"error: {file}: no such file")
    assert not (place / "out.json").exists()
    assert "Traceback" not in done.stderr
