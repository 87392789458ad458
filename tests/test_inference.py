"""A folder of photographs in, three files each out."""

from __future__ import annotations

import errno
import io
import logging
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from src import inference
from src.align import Alignment, KnownPoints, read_alignment
from src.data.transforms import ResizeRule
from src.errors import UserError
from src.inference import output_names, predict_folder, stretch16
from src.predictor import Predictor
from tests import file_formats, stand_ins

RULE = ResizeRule(64, 64)
HEIGHT, WIDTH = 6, 8


class StandIn:
    """Predicts the red channel, times 0.37, at the image's size."""

    fixed_batch: int | None = None

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []
        self.batches: list[tuple[int, ...]] = []  # shapes of what went through the network

    def input_size(self, height: int, width: int, rule: ResizeRule) -> tuple[int, int]:
        assert rule == RULE
        return height, width

    def prepare(self, image: np.ndarray, rule: ResizeRule) -> np.ndarray:
        assert rule == RULE
        self.seen.append(image)
        return image.transpose(2, 0, 1).astype(np.float32)

    def run(self, inputs: Sequence[np.ndarray], batch_size: int) -> np.ndarray:
        assert 1 <= len(inputs) <= batch_size
        batch = np.stack(inputs)  # fails where sizes differ
        self.batches.append(batch.shape)
        return batch[:, 0] * np.float32(0.37)


def photograph(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(photograph(seed)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    return folder


def add(folder: Path, name: str, seed: int) -> None:
    data = file_formats.png(photograph(seed)) if name.lower().endswith(".png") else jpeg(seed)
    (folder / name).write_bytes(data)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_each_image_gives_three_files(source, tmp_path):
    add(source, "a.png", 1)
    add(source, "b.JPG", 2)
    output = tmp_path / "new" / "depth"  # made on the way
    stand_in = StandIn()
    assert predict_folder(stand_in, RULE, source, output) == 0
    assert names(output) == ["a.pfm", "a.png", "a_depth.png", "b.pfm", "b.png", "b_depth.png"]
    assert np.array_equal(stand_in.seen[0], photograph(1))  # RGB, untouched
    prediction = photograph(1)[..., 0].astype(np.float32) * np.float32(0.37)
    assert (output / "a.pfm").read_bytes().endswith(prediction[::-1].astype("<f4").tobytes())


def test_the_pfm_is_the_prediction_byte_for_byte(source, tmp_path):
    add(source, "a.png", 3)
    predict_folder(StandIn(), RULE, source, tmp_path / "out")
    prediction = photograph(3)[..., 0].astype(np.float32) * np.float32(0.37)
    header, size, scale, data = (tmp_path / "out/a.pfm").read_bytes().split(b"\n", 3)
    assert (header, size) == (b"Pf", b"8 6")
    assert float(scale) < 0  # little endian
    assert data == prediction[::-1].astype("<f4").tobytes()  # bottom row first


def test_the_png_is_the_prediction_stretched_to_16_bits(source, tmp_path):
    add(source, "a.png", 4)
    predict_folder(StandIn(), RULE, source, tmp_path / "out")
    red = photograph(4)[..., 0].astype(float)
    expected = np.rint((red - red.min()) / (red.max() - red.min()) * 65535)
    data = (tmp_path / "out/a.png").read_bytes()
    assert data[24:26] == b"\x10\x00"  # 16 bits, grey
    values = np.asarray(Image.open(io.BytesIO(data))).astype(float)
    assert np.abs(values - expected).max() <= 1  # the prediction is float32
    assert (values.min(), values.max()) == (0, 65535)


def test_the_picture_shows_the_photograph_beside_its_depth(source, tmp_path):
    add(source, "a.png", 5)
    predict_folder(StandIn(), RULE, source, tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out/a_depth.png"))
    assert picture.shape[0] == HEIGHT
    assert picture.shape[1] >= 2 * WIDTH
    assert np.array_equal(picture[:, :WIDTH], photograph(5))


def test_stretch_by_hand():
    values = np.array([[-1.0, 0.0], [1.0, 3.0]], np.float32)
    stretched = stretch16(values)
    assert stretched.dtype == np.uint16
    assert stretched.tolist() == [[0, 16384], [32768, 65535]]  # 16383.75 and 32767.5 (to even)
    assert stretch16(np.full((2, 2), 5, np.float32)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (["a.jpg", "b.png"], ["a", "b"]),
        (["a.jpg", "a.png", "b.png"], ["a.jpg", "a.png", "b"]),
        # The picture of a is a_depth.png, the 16-bit map of a_depth would be that too.
        (["a.jpg", "a_depth.jpg"], ["a", "a_depth.jpg"]),
        # The whole name of one is the stem of another.
        (["a.jpg", "a.jpg.png", "a.png"], ["a.jpg", "a.jpg.png", "a.png"]),
        (["a.b.png", "a.c.png"], ["a.b", "a.c"]),
        # The depth of a in metres is a_metric.png.
        (["a.jpg", "a_metric.jpg"], ["a", "a_metric.jpg"]),
        (["a.jpg", "a_depth_metric.png"], ["a", "a_depth_metric.png"]),
    ],
)
def test_output_names_do_not_collide(images, expected):
    found = output_names([Path(image) for image in images])
    assert found == expected
    ends = (".pfm", ".png", "_depth.png", "_metric.pfm", "_metric.png")
    files = [f"{name}{end}" for name in found for end in ends]
    assert len(set(files)) == len(files)


def test_images_of_one_stem_keep_their_own_depth(source, tmp_path):
    add(source, "a.png", 6)
    add(source, "a.jpg", 7)
    predict_folder(StandIn(), RULE, source, tmp_path / "out")
    assert len(names(tmp_path / "out")) == 6
    prediction = photograph(6)[..., 0].astype(np.float32) * np.float32(0.37)
    data = (tmp_path / "out/a.png.pfm").read_bytes()
    assert data.endswith(prediction[::-1].astype("<f4").tobytes())


def test_what_is_no_image_is_named_and_skipped(source, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="midas")
    add(source, "a.png", 8)
    (source / "notes.txt").write_text("hello")
    (source / "folder").mkdir()
    assert predict_folder(StandIn(), RULE, source, tmp_path / "out") == 0
    assert f"skipped {source / 'notes.txt'}: not an image" in caplog.text
    assert names(tmp_path / "out") == ["a.pfm", "a.png", "a_depth.png"]


@pytest.mark.parametrize("broken", ["first.jpg", "middle.png", "z.webp"])
def test_corrupt_images_do_not_stop_the_others(source, tmp_path, caplog, broken):
    add(source, "a.png", 9)
    add(source, "n.png", 10)
    data = file_formats.png(photograph(11)) if broken.endswith("png") else jpeg(11)
    (source / broken).write_bytes(data[: len(data) // 2])
    assert predict_folder(StandIn(), RULE, source, tmp_path / "out") == 1
    assert {name.split(".")[0] for name in names(tmp_path / "out")} == {
        *("a", "a_depth", "n", "n_depth")
    }
    assert str(source / broken) in caplog.text


def test_a_second_time_writes_the_same_files(source, tmp_path):
    add(source, "a.png", 12)
    contents = []
    for _ in range(2):
        predict_folder(StandIn(), RULE, source, tmp_path / "out")
        contents.append({p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()})
    assert contents[0] == contents[1]


def test_an_empty_folder_says_what_was_expected(source, tmp_path):
    (source / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"no image in this folder; expected .*\.jpg"):
        predict_folder(StandIn(), RULE, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="no such") as caught:
        predict_folder(StandIn(), RULE, tmp_path / "gone", tmp_path / "out")
    assert str(tmp_path / "gone") in str(caught.value)


def test_photographs_are_never_overwritten(source):
    """a.png would give the depth map a.png in the same folder."""
    add(source, "a.png", 13)
    with pytest.raises(UserError, match=r"output_path: .*holds the photographs"):
        predict_folder(StandIn(), RULE, source, source / ".." / source.name)
    assert names(source) == ["a.png"]
    assert (source / "a.png").read_bytes() == file_formats.png(photograph(13))


def test_an_output_path_that_is_a_file_is_named(source, tmp_path):
    add(source, "a.png", 14)
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="output_path: cannot create"):
        predict_folder(StandIn(), RULE, source, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_file_of_somebody_else_is_not_overwritten(source, tmp_path):
    add(source, "a.jpg", 0)
    output = tmp_path / "pictures"
    output.mkdir()
    (output / "a.png").write_bytes(b"a holiday")
    with pytest.raises(UserError, match=r"output_path: .*a\.png exists and is no result"):
        predict_folder(StandIn(), RULE, source, output)
    assert names(output) == ["a.png"]
    assert (output / "a.png").read_bytes() == b"a holiday"


def test_a_prediction_of_another_size_is_enlarged_bilinearly(source, tmp_path):
    add(source, "a.png", 15)
    halved = photograph(15)[::2, ::2, 0]
    predict_folder(stand_ins.StandIn(tmp_path), RULE, source, tmp_path / "out")
    expected = stand_ins.resampled(halved, HEIGHT, WIDTH, "bilinear")
    np.testing.assert_allclose(pfm(tmp_path / "out/a.pfm"), expected, rtol=1e-6)


def test_quick_pngs_hold_what_they_should_bit_for_bit(source, tmp_path):
    """As another decoder, that of OpenCV, reads them."""
    smooth = np.linspace(0, 255, 200 * 150).reshape(150, 200).astype(np.uint8)
    image = np.stack([smooth, smooth.T.reshape(150, 200), 255 - smooth], axis=2)
    (source / "a.png").write_bytes(file_formats.png(image))
    predict_folder(StandIn(), RULE, source, tmp_path / "out")
    values = cv2.imread(str(tmp_path / "out/a.png"), cv2.IMREAD_UNCHANGED)
    assert values.dtype == np.uint16
    assert np.array_equal(values, np.rint(smooth / 255 * 65535).astype(np.uint16))
    picture = cv2.imread(str(tmp_path / "out/a_depth.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(picture[:, :200, ::-1], image)


# --- Batches, and work at once --------------------------------------------------------------------


def pfm(path: Path) -> np.ndarray:
    """The values of a PFM file by its specification: float32 [H, W]."""
    size, _, data = path.read_bytes().split(b"\n", 3)[1:]
    width, height = map(int, size.split())
    return np.frombuffer(data, "<f4").reshape(height, width)[::-1]


def add_sizes(folder: Path, widths: str) -> dict[str, np.ndarray]:
    """Images 0.png, 1.png, ... with these widths in digits; returns what StandIn predicts."""
    expected = {}
    for index, width in enumerate(map(int, widths)):
        image = np.random.default_rng(index).integers(0, 256, (6, width, 3), dtype=np.uint8)
        (folder / f"{index}.png").write_bytes(file_formats.png(image))
        expected[f"{index}.pfm"] = image[..., 0].astype(np.float32) * np.float32(0.37)
    return expected


def check_maps(folder: Path, expected: dict[str, np.ndarray]) -> None:
    assert {path.name for path in folder.glob("*.pfm")} == expected.keys()
    for name, prediction in expected.items():
        assert np.array_equal(pfm(folder / name), prediction), name


def test_images_of_one_size_go_through_the_network_together(source, tmp_path):
    expected = add_sizes(source, "89888998")
    stand_in = StandIn()
    assert predict_folder(stand_in, RULE, source, tmp_path / "out", batch_size=3) == 0
    # By hand: the 8s are 0 2 3 4 7, the 9s are 1 5 6.
    assert [(n, w) for n, _, _, w in stand_in.batches] == [(3, 8), (3, 9), (2, 8)]
    check_maps(tmp_path / "out", expected)


def test_a_file_of_a_fixed_batch_gets_that_many_at_once(source, tmp_path):
    expected = add_sizes(source, "8888888")
    stand_in = StandIn()
    stand_in.fixed_batch = 3
    assert predict_folder(stand_in, RULE, source, tmp_path / "out", batch_size=2) == 0
    assert [shape[0] for shape in stand_in.batches] == [3, 3, 1]
    check_maps(tmp_path / "out", expected)


def test_one_by_one_the_images_have_the_order_of_the_files(source, tmp_path):
    add_sizes(source, "8798")
    stand_in = StandIn()
    predict_folder(stand_in, RULE, source, tmp_path / "out")
    assert [(n, w) for n, _, _, w in stand_in.batches] == [(1, 8), (1, 7), (1, 9), (1, 8)]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_an_image_turned_by_its_metadata_is_in_the_batch_of_its_upright_size(
    source, tmp_path, batch_size
):
    add_sizes(source, "88")
    image = np.random.default_rng(9).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    chunk = file_formats.png_chunk(b"eXIf", file_formats.exif(6))  # upright: 6 high, 8 wide
    (source / "2.png").write_bytes(file_formats.png(image, extra=(chunk,)))
    (source / "3.png").write_bytes(file_formats.png(image))  # 8 high, 6 wide
    assert predict_folder(StandIn(), RULE, source, tmp_path / "out", batch_size=batch_size) == 0
    expected = np.rot90(image, -1)[..., 0].astype(np.float32) * np.float32(0.37)
    assert np.array_equal(pfm(tmp_path / "out/2.pfm"), expected)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("kept", [20, -30])  # bytes: of the header, or all but the end
def test_a_damaged_image_of_a_batch_fails_alone(source, tmp_path, caplog, batch_size, kept):
    expected = add_sizes(source, "88888")
    data = (source / "2.png").read_bytes()
    (source / "2.png").write_bytes(data[:kept])
    del expected["2.pfm"]
    assert predict_folder(StandIn(), RULE, source, tmp_path / "out", batch_size=batch_size) == 1
    check_maps(tmp_path / "out", expected)
    (said,) = caplog.messages
    assert said.startswith(f"error: {source / '2.png'}: ")


def test_what_is_said_has_the_order_of_the_files(source, tmp_path, caplog, monkeypatch):
    """Although 1.png is predicted with 3.png, and the first image is written last of all."""
    caplog.set_level(logging.INFO, logger="midas")
    add_sizes(source, "898987")
    for broken in ("3.png", "5.png"):
        (source / broken).write_bytes(b"nothing")
    written, write = threading.Event(), inference.write_outputs

    def slow(folder: Path, name: str, *arrays: np.ndarray) -> None:
        if name == "0":
            assert written.wait(10)
        write(folder, name, *arrays)
        if name == "4":
            written.set()

    monkeypatch.setattr(inference, "write_outputs", slow)
    alignment = Alignment({}, 80)
    assert predict_folder(StandIn(), RULE, source, tmp_path / "out", alignment, 2) == 2
    starts = [
        message.removeprefix(f"error: {source}/").split(":")[0] for message in caplog.messages
    ]
    assert starts == [f"{i}.png" for i in range(6)]


def test_reading_and_writing_go_on_while_the_network_computes(source, tmp_path, monkeypatch):
    """Image 2 is read and image 0 written whole while 1 is in the network."""
    add_sizes(source, "88888")
    prepared, written, write = threading.Event(), threading.Event(), inference.write_outputs

    class Waiting(StandIn):
        def prepare(self, image: np.ndarray, rule: ResizeRule) -> np.ndarray:
            result = super().prepare(image, rule)
            if len(self.seen) > 2:
                prepared.set()
            return result

        def run(self, inputs: Sequence[np.ndarray], batch_size: int) -> np.ndarray:
            if len(self.batches) == 1:
                assert prepared.wait(10)
                assert written.wait(10)
            return super().run(inputs, batch_size)

    def noting(*arguments: object) -> None:
        write(*arguments)
        written.set()

    monkeypatch.setattr(inference, "write_outputs", noting)
    assert predict_folder(Waiting(), RULE, source, tmp_path / "out") == 0
    assert len(names(tmp_path / "out")) == 15


def test_a_full_disk_ends_it_with_one_line(source, tmp_path, monkeypatch):
    add_sizes(source, "8" * 60)
    write = Path.write_bytes

    def write_until_full(path: Path, data: bytes) -> int:
        if len(list(path.parent.glob("*_depth.png"))) >= 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_until_full)
    stand_in = StandIn()
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)$"):
        predict_folder(stand_in, RULE, source, tmp_path / "out")
    assert len(stand_in.batches) < 20
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_a_prediction_that_is_not_finite_leaves_the_maps_before_it(source, tmp_path):
    expected = add_sizes(source, "8" * 30)

    class Diverging(StandIn):
        def run(self, inputs: Sequence[np.ndarray], batch_size: int) -> np.ndarray:
            if len(self.batches) == 7:
                raise UserError("the prediction is not finite")
            return super().run(inputs, batch_size)

    with pytest.raises(UserError, match="not finite"):
        predict_folder(Diverging(), RULE, source, tmp_path / "out")
    first = sorted(expected)[:7]  # the order of the files: 0 1 10 11 12 ...
    check_maps(tmp_path / "out", {name: expected[name] for name in first})


# --- Depth in metres ------------------------------------------------------------------------------


def known(seed: int, scale: float, shift: float, count: int = 4) -> KnownPoints:
    """Points of photograph(seed) whose distance agrees with what StandIn predicts."""
    red = photograph(seed)[..., 0].astype(float)
    pixels = np.random.default_rng(seed).choice(HEIGHT * WIDTH, count, replace=False)
    rows, columns = pixels // WIDTH, pixels % WIDTH
    return KnownPoints(rows, columns, 1 / (scale * 0.37 * red[rows, columns] + shift))


def metric_maps(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Both metric files of one image, decoded by their specifications."""
    size, _, data = (folder / f"{name}_metric.pfm").read_bytes().split(b"\n", 3)[1:]
    width, height = map(int, size.split())
    png = (folder / f"{name}_metric.png").read_bytes()
    assert png[24:26] == b"\x10\x00"  # 16 bits, grey
    return np.frombuffer(data, "<f4").reshape(height, width)[::-1], np.asarray(
        Image.open(io.BytesIO(png))
    )


def test_known_distances_give_depth_in_metres(source, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="midas")
    add(source, "a.png", 20)
    red = photograph(20)[..., 0].astype(float)
    shift = 1 / 70 - 0.01 * 0.37 * red.min()  # the farthest pixel is at 70 m
    alignment = Alignment({"a.png": known(20, 0.01, shift)}, 80)
    assert predict_folder(StandIn(), RULE, source, tmp_path / "out", alignment) == 0
    assert names(tmp_path / "out") == [
        *("a.pfm", "a.png", "a_depth.png", "a_metric.pfm", "a_metric.png")
    ]
    metres, millimetres = metric_maps(tmp_path / "out", "a")
    expected = 1 / (0.01 * 0.37 * red + shift)
    assert np.abs(metres / expected - 1).max() < 1e-5
    far = expected > 65.535
    assert 0 < far.sum() < far.size
    assert (millimetres[far] == 0).all()
    assert np.abs(millimetres[~far] - expected[~far] * 1000).max() <= 1.1
    fit = f"a.png: 4 points, scale 0.01, shift {shift:.6g}; error at the points: RMSE "
    assert fit in caplog.text
    assert f"a_metric.png: {far.sum()} pixels lie beyond 65.535 m and are 0" in caplog.text


def test_an_image_without_known_distances_is_named_once(source, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="midas")
    add(source, "a.png", 21)
    add(source, "b.png", 22)
    alignment = Alignment({"a.png": known(21, 0.01, 0.1)}, 80)
    assert predict_folder(StandIn(), RULE, source, tmp_path / "out", alignment) == 0
    assert caplog.text.count("b.png") == 1
    assert "b.png: no known distance, relative depth only" in caplog.text
    assert "beyond 65.535 m" not in caplog.text
    assert [name for name in names(tmp_path / "out") if "metric" in name] == [
        *("a_metric.pfm", "a_metric.png")
    ]


def test_without_alignment_nothing_is_said_of_distances(source, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="midas")
    add(source, "a.png", 23)
    predict_folder(StandIn(), RULE, source, tmp_path / "out")
    assert "distance" not in caplog.text


def test_points_that_contradict_fail_one_image(source, tmp_path, caplog):
    """The relative maps of it are written; metric ones of an earlier run would be mistaken."""
    add(source, "a.png", 24)
    add(source, "b.png", 25)
    output = tmp_path / "out"
    good = Alignment({"a.png": known(24, 0.01, 0.1), "b.png": known(25, 0.01, 0.1)}, 80)
    assert predict_folder(StandIn(), RULE, source, output, good) == 0
    (output / "a.pfm").write_bytes(b"of yesterday")
    caplog.clear()
    bad = Alignment({**good.points, "a.png": known(24, -0.001, 1)}, 80)
    assert predict_folder(StandIn(), RULE, source, output, bad) == 1
    assert f"error: {source / 'a.png'}: the points contradict the prediction" in caplog.text
    assert [record.levelname for record in caplog.records if "a.png" in record.message] == ["ERROR"]
    assert names(output) == [
        *("a.pfm", "a.png", "a_depth.png"),
        *("b.pfm", "b.png", "b_depth.png", "b_metric.pfm", "b_metric.png"),
    ]
    assert (output / "a.pfm").read_bytes() != b"of yesterday"


def test_metric_depth_may_follow_and_be_repeated_in_one_folder(source, tmp_path):
    add(source, "a.png", 26)
    alignment = Alignment({"a.png": known(26, 0.01, 0.1)}, 80)
    output = tmp_path / "out"
    for each in (None, alignment, alignment, None):
        assert predict_folder(StandIn(), RULE, source, output, each) == 0
    assert len(names(output)) == 5


def test_points_that_contradict_the_first_time(source, tmp_path):
    add(source, "a.png", 32)
    alignment = Alignment({"a.png": known(32, -0.001, 1)}, 80)
    assert predict_folder(StandIn(), RULE, source, tmp_path / "out", alignment) == 1
    assert names(tmp_path / "out") == ["a.pfm", "a.png", "a_depth.png"]


@pytest.mark.parametrize(
    "there",
    [
        ["a_metric.png"],
        ["a_metric.pfm", "a_metric.png"],  # an earlier run would have written the others too
        ["a.pfm", "a.png", "a_depth.png", "a_metric.png"],
        ["a.pfm", "a.png", "a_metric.pfm", "a_metric.png"],
    ],
)
def test_a_metric_file_of_somebody_else_is_not_overwritten(source, tmp_path, there):
    add(source, "a.jpg", 27)
    output = tmp_path / "pictures"
    output.mkdir()
    for name in there:
        (output / name).write_bytes(b"a holiday")
    alignment = Alignment({"a.jpg": known(27, 0.01, 0.1)}, 80)
    with pytest.raises(UserError, match=rf"output_path: .*{there[-1]} exists and is no result"):
        predict_folder(StandIn(), RULE, source, output, alignment)
    assert names(output) == sorted(there)


def test_a_metric_file_that_is_not_written_is_not_in_the_way(source, tmp_path):
    """b has no known distances."""
    add(source, "b.png", 28)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b_metric.png").write_bytes(b"a holiday")
    assert predict_folder(StandIn(), RULE, source, tmp_path / "out", Alignment({}, 80)) == 0
    assert (tmp_path / "out/b_metric.png").read_bytes() == b"a holiday"


def test_images_whose_metric_files_would_collide_keep_their_own(source, tmp_path):
    add(source, "a.png", 29)
    add(source, "a_metric.png", 30)
    alignment = Alignment({"a.png": known(29, 0.01, 0.1)}, 80)
    assert predict_folder(StandIn(), RULE, source, tmp_path / "out", alignment) == 0
    expected = 1 / (0.01 * 0.37 * photograph(29)[..., 0].astype(float) + 0.1)
    metres, _ = metric_maps(tmp_path / "out", "a")
    assert np.abs(metres / expected - 1).max() < 1e-5
    assert "a_metric.png.pfm" in names(tmp_path / "out")


def test_a_network_gives_metres_where_they_were_measured(source, tmp_path, exported, small_network):
    """A real prediction of a photograph on its side, the points in a file, by LAPACK."""
    image = np.random.default_rng(31).integers(0, 256, (48, 70, 3), dtype=np.uint8)
    chunk = file_formats.png_chunk(b"eXIf", file_formats.exif(6))  # upright: 70 high, 48 wide
    (source / "a.png").write_bytes(file_formats.png(image, extra=(chunk,)))
    predictor = Predictor(exported.ckpt, small_network, (0.485, 0.456, 0.406), (0.2, 0.2, 0.2))
    upright = np.rot90(image, -1)
    prediction = predictor.predict(np.ascontiguousarray(upright), RULE).astype(float)
    order = np.argsort(prediction, axis=None)
    pixels = [divmod(int(order[int(share * (order.size - 1))]), 48) for share in (0, 0.4, 0.7, 1)]
    metres = [9, 4, 4.5, 2]
    lines = [f"a.png,{x},{y},{z}" for (y, x), z in zip(pixels, metres, strict=True)]
    (tmp_path / "known.csv").write_text("\n".join(["image,x,y,metres", *lines]))
    alignment = read_alignment(tmp_path / "known.csv", source, 20)
    assert predict_folder(predictor, RULE, source, tmp_path / "out", alignment) == 0
    design = np.array([[prediction[pixel], 1] for pixel in pixels])
    scale, shift = np.linalg.lstsq(design, 1 / np.array(metres), rcond=None)[0]
    disparity = scale * prediction + shift
    expected = np.array([[1 / d if d > 1 / 20 else 20 for d in row] for row in disparity])
    found, _ = metric_maps(tmp_path / "out", "a")
    assert found.shape == (70, 48)
    assert np.abs(found / expected - 1).max() < 1e-5
