"""A folder of photographs in, three files each out."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.data.transforms import ResizeRule
from src.errors import UserError
from src.inference import output_names, predict_folder, stretch16
from tests import file_formats

RULE = ResizeRule(64, 64)
HEIGHT, WIDTH = 6, 8


class StandIn:
    """Predicts the red channel, times 0.37."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def predict(self, image: np.ndarray, rule: ResizeRule) -> np.ndarray:
        assert rule == RULE
        self.seen.append(image)
        return image[..., 0].astype(np.float32) * np.float32(0.37)


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
    ],
)
def test_output_names_do_not_collide(images, expected):
    found = output_names([Path(image) for image in images])
    assert found == expected
    files = [f"{name}{end}" for name in found for end in (".pfm", ".png", "_depth.png")]
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
