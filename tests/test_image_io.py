"""Formats against bytes written from their specifications, and against OpenCV as second reader."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from src import fast_decode, image_io
from src.errors import UserError
from tests import file_formats

BOUNDED = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SIDE = st.integers(1, 9)
FLOATS = hnp.arrays(np.float32, st.tuples(SIDE, SIDE), elements=st.floats(width=32, allow_nan=True))


def random_rgb(height: int = 20, width: int = 28) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def jpeg(image: np.ndarray) -> bytes:
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert encoded
    return data.tobytes()


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


# --- photographs -------------------------------------------------------------------------------


def test_read_image_returns_the_bytes_of_an_rgb_png(tmp_path):
    image = random_rgb()
    read = image_io.read_image(put(tmp_path / "a.png", file_formats.png(image)))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, image)


def test_read_image_accepts_a_string_and_an_upper_case_suffix(tmp_path):
    image = random_rgb()
    path = put(tmp_path / "A.PNG", file_formats.png(image))
    np.testing.assert_array_equal(image_io.read_image(str(path)), image)


def test_a_red_jpeg_is_red_in_the_first_channel(tmp_path):
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    read = image_io.read_image(put(tmp_path / "red.jpg", jpeg(red)))
    assert read[..., 0].min() > 245
    assert read[..., 1:].max() < 10


def test_read_image_decides_by_content_not_by_suffix(tmp_path):
    image = random_rgb()
    path = put(tmp_path / "really_png.jpg", file_formats.png(image))
    np.testing.assert_array_equal(image_io.read_image(path), image)


UPRIGHT = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored.transpose(1, 0, 2), 2),
    8: lambda stored: np.rot90(stored, 1),
}


def turned(suffix: str, stored: np.ndarray, orientation: int) -> bytes:
    """A file of these stored pixels with an orientation."""
    if suffix == "png":
        return file_formats.png(stored, extra=(exif_chunk(orientation),))
    if suffix == "jpg":
        return turned_jpeg(stored, orientation)
    buffer = io.BytesIO()
    image = Image.fromarray(stored)
    if suffix == "webp":
        image.save(buffer, "WEBP", lossless=True, exif=file_formats.exif(orientation))
    else:
        image.save(buffer, "TIFF", tiffinfo={0x0112: orientation})
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    stored = random_rgb(20, 28)
    path = put(tmp_path / f"a.{suffix}", turned(suffix, stored, orientation))
    if suffix == "jpg":
        stored = cv2.imdecode(np.frombuffer(jpeg(stored), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    turned_always = suffix == "tif"  # TIFF 6.0, section 8: a field of the format
    right = UPRIGHT[orientation](stored)
    for upright, expected in ((True, right), (False, right if turned_always else stored)):
        np.testing.assert_array_equal(image_io.read_image(path, upright), expected)
        assert image_io.image_size(path, upright) == expected.shape[:2]
        file = image_io.ImageFile(path, upright)
        assert (file.height, file.width) == expected.shape[:2]
        for _ in range(2):
            np.testing.assert_array_equal(file.pixels(), expected)


def test_an_orientation_in_the_xmp_of_a_tiff_is_applied(tmp_path):
    """As photo editors write it: tag 700, an XML text."""
    stored, buffer = random_rgb(20, 28), io.BytesIO()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6"/></x:xmpmeta>'
    Image.fromarray(stored).save(buffer, "TIFF", tiffinfo={700: xmp})
    path = put(tmp_path / "a.tif", buffer.getvalue())
    expected = UPRIGHT[6](stored)
    for upright in (True, False):
        file = image_io.ImageFile(path, upright)
        assert (file.height, file.width) == image_io.image_size(path, upright)
        assert (file.height, file.width) == expected.shape[:2]
        np.testing.assert_array_equal(file.pixels(), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("damaged", [b"nonsense", b"MM\0*\xff\xff\xff\xff", b""])
def test_damaged_metadata_does_not_cost_the_pixels(tmp_path, damaged):
    image = random_rgb()
    chunk = file_formats.png_chunk(b"eXIf", damaged)
    path = put(tmp_path / "a.png", file_formats.png(image, extra=(chunk,)))
    np.testing.assert_array_equal(image_io.read_image(path), image)


def test_grey_palette_alpha_and_16_bit_images_become_8_bit_rgb(tmp_path):
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (5, 7), dtype=np.uint8)
    palette = rng.integers(0, 256, (256, 3), dtype=np.uint8)
    rgba = rng.integers(0, 256, (5, 7, 4), dtype=np.uint8)
    three = np.stack([grey] * 3, axis=-1)
    cases = {
        "grey": (file_formats.png(grey), three),
        "grey_alpha": (file_formats.png(np.stack([grey, 255 - grey], axis=-1)), three),
        "palette": (file_formats.png(grey, palette=palette), palette[grey]),
        "rgba": (file_formats.png(rgba), rgba[..., :3]),
        # 257 * 255 = 65535: the 8-bit value times 257 is the same shade in 16 bits.
        "grey16": (file_formats.png(grey.astype(np.uint16) * 257), three),
        "rgb16": (file_formats.png(rgba[..., :3].astype(np.uint16) * 257), rgba[..., :3]),
    }
    for name, (data, expected) in cases.items():
        read = image_io.read_image(put(tmp_path / f"{name}.png", data))
        assert read.dtype == np.uint8, name
        np.testing.assert_array_equal(read, expected, err_msg=name)


def test_floating_point_images_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    assert cv2.imwrite(str(path), np.ones((4, 4), np.float32))
    with pytest.raises(UserError, match=r"a\.tif.*floating-point"):
        image_io.read_image(path)


# --- the size alone ----------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [None, *UPRIGHT, 0, 9])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_image_size_is_that_of_the_image_that_is_read(tmp_path, name, orientation):
    """Orientations 5 to 8 lie on their side, those that do not exist do not (EXIF 2.32, 4.6.4)."""
    stored = random_rgb(20, 28)
    if name == "a.png":
        chunk = () if orientation is None else (exif_chunk(orientation),)
        data = file_formats.png(stored, extra=chunk)
    else:
        data = jpeg(stored) if orientation is None else turned_jpeg(stored, orientation)
    path = put(tmp_path / name, data)
    turned = orientation in (5, 6, 7, 8)
    assert image_io.image_size(path) == ((28, 20) if turned else (20, 28))
    assert image_io.image_size(path, upright=False) == (20, 28)
    assert image_io.image_size(str(path)) == image_io.image_size(path, upright=True)
    for upright in (True, False):
        read = image_io.read_image(path, upright=upright)
        assert read.shape[:2] == image_io.image_size(path, upright=upright)


def exif_chunk(orientation: int) -> bytes:
    return file_formats.png_chunk(b"eXIf", file_formats.exif(orientation))


def turned_jpeg(image: np.ndarray, orientation: int) -> bytes:
    """A JPEG file with an EXIF segment behind its first marker."""
    payload = b"Exif\0\0" + file_formats.exif(orientation)
    data = jpeg(image)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(payload)) + payload + data[2:]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("damaged", [b"nonsense", b"MM\0*\xff\xff\xff\xff", b""])
def test_damaged_metadata_leaves_the_size_as_stored(tmp_path, damaged):
    chunk = file_formats.png_chunk(b"eXIf", damaged)
    path = put(tmp_path / "a.png", file_formats.png(random_rgb(), extra=(chunk,)))
    assert image_io.image_size(path) == (20, 28)


def test_image_size_does_not_decode_the_pixels(tmp_path):
    """A header is enough: of 74,441 images, nothing more is wanted before they are read."""
    whole = file_formats.png(random_rgb(200, 300))
    path = put(tmp_path / "a.png", whole[: len(whole) // 2])
    assert image_io.image_size(path) == (200, 300)
    with pytest.raises(UserError, match=r"a\.png: truncated"):
        image_io.read_image(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_header_cut_anywhere_is_an_error_that_names_the_file(tmp_path, name):
    whole = file_formats.png(random_rgb()) if name == "a.png" else jpeg(random_rgb())
    # PNG: signature, then IHDR up to width and height. JPEG: all that stands before them.
    header = 24 if name == "a.png" else whole.index(b"\xff\xc0") + 9
    for length in range(header):
        with pytest.raises(UserError, match=name) as caught:
            image_io.image_size(put(tmp_path / name, whole[:length]))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"not an image at all", "not an image"),
        (b"", "the file is empty"),
        (file_formats.PNG_SIGNATURE + b"\0" * 40, "a.png"),
        (
            file_formats.PNG_SIGNATURE
            + file_formats.png_chunk(b"IHDR", struct.pack(">IIBBBBB", 10**5, 10**5, 8, 2, 0, 0, 0))
            + file_formats.png_chunk(b"IDAT", b""),
            "pixels",
        ),
    ],
)
def test_a_header_that_is_none_is_named(tmp_path, data, message):
    path = put(tmp_path / "a.png", data)
    with pytest.raises(UserError, match=message) as caught:
        image_io.image_size(path)
    assert str(path) in str(caught.value)


# --- decoded faster, or smaller ----------------------------------------------------------------


def encoded(image: np.ndarray, image_format: str, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).convert(mode).save(buffer, image_format, **options)
    return buffer.getvalue()


def smooth_rgb(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(4).uniform(0, 256, (6, 7, 3))
    return cv2.resize(coarse, (width, height)).astype(np.uint8)


PLAIN = {
    "colour.jpg": lambda image: encoded(image, "JPEG", quality=92),
    "full_chroma.jpg": lambda image: encoded(image, "JPEG", subsampling=0),
    "half_chroma.jpg": lambda image: encoded(image, "JPEG", subsampling=1),
    "progressive.jpg": lambda image: encoded(image, "JPEG", progressive=True),
    "restarts.jpg": lambda image: encoded(image, "JPEG", restart_marker_rows=1),
    "rgb.jpg": lambda image: encoded(image, "JPEG", keep_rgb=True),
    "grey.jpg": lambda image: encoded(image, "JPEG", "L"),
    "cmyk.jpg": lambda image: encoded(image, "JPEG", "CMYK"),
    "colour.png": lambda image: encoded(image, "PNG"),
    "grey.png": lambda image: encoded(image, "PNG", "L"),
    "palette.png": lambda image: encoded(image, "PNG", "P"),
    "transparent.png": lambda image: encoded(image, "PNG", transparency=(1, 2, 3)),
    "see_through.png": lambda image: encoded(image, "PNG", "L", transparency=3),
    "bits.png": lambda image: encoded(image, "PNG", "1"),
    "own.png": lambda image: file_formats.png(image),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("size", [(64, 80), (33, 47), (1, 1), (480, 640)])
def test_what_is_decoded_fast_is_what_pillow_decodes(tmp_path, monkeypatch, name, size):
    data = PLAIN[name](smooth_rgb(*size))
    path = put(tmp_path / name, data)
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(image_io.read_image(path), expected)
    if name in ("grey.png", "see_through.png"):
        assert np.array_equal(image_io.read_grey(path), expected[..., 0])
    for package in ("simplejpeg", "kornia_io"):  # as if they could not
        monkeypatch.setattr(fast_decode, package, None)
    assert np.array_equal(image_io.read_image(path), expected)
    if name in ("grey.png", "see_through.png"):
        assert np.array_equal(image_io.read_target(path), expected[..., 0])
        assert image_io.read_target(path).dtype == np.uint8


def test_the_fast_decoders_take_plain_files():
    """Else all files would go to Pillow, and nobody would notice."""
    image = smooth_rgb(33, 47)
    assert fast_decode.decode_jpeg(PLAIN["colour.jpg"](image), 33, 47).shape == (33, 47, 3)
    assert fast_decode.decode_jpeg(PLAIN["grey.jpg"](image), 33, 47, 4).shape == (9, 12, 3)
    assert fast_decode.decode_png(PLAIN["colour.png"](image), 33, 47, True).shape == (33, 47, 3)
    assert fast_decode.decode_png(PLAIN["grey.png"](image), 33, 47, False).shape == (33, 47)
    for data in (b"", PLAIN["colour.jpg"](image)[:-40]):
        assert fast_decode.decode_jpeg(data, 33, 47) is None
        assert fast_decode.decode_png(data, 33, 47, True) is None


REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
REDUCED[8] = cv2.IMREAD_REDUCED_COLOR_8


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("shrink", REDUCED)
@pytest.mark.parametrize("name", ["colour.jpg", "progressive.jpg", "grey.jpg"])
@pytest.mark.parametrize("size", [(64, 80), (61, 47), (41, 90), (480, 640)])
def test_a_jpeg_decoded_at_a_part_of_its_size(tmp_path, monkeypatch, name, shrink, size, fast):
    """As OpenCV decodes it, and near the mean of the pixels that each one stands for."""
    if not fast:
        monkeypatch.setattr(fast_decode, "simplejpeg", None)
    data = PLAIN[name](smooth_rgb(*size))
    file = image_io.ImageFile(put(tmp_path / name, data))
    assert (file.height, file.width) == size
    assert file.can_shrink(shrink)
    found = file.pixels(shrink)
    assert file.pixels().shape == (*size, 3)  # it is as it was
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), REDUCED[shrink])[..., ::-1]
    assert np.array_equal(found, expected)
    rows, columns = size[0] // shrink, size[1] // shrink
    whole = image_io.read_image(tmp_path / name)[: rows * shrink, : columns * shrink]
    means = whole.reshape(rows, shrink, columns, shrink, 3).mean(axis=(1, 3))
    assert np.abs(found[:rows, :columns] - means).mean() < 2


@pytest.mark.parametrize("name", ["cmyk.jpg", "colour.png"])
def test_other_files_cannot_be_shrunk(tmp_path, name):
    file = image_io.ImageFile(put(tmp_path / name, PLAIN[name](smooth_rgb(64, 80))))
    assert file.can_shrink(1)
    assert not file.can_shrink(2)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_turned_jpeg_is_shrunk_where_its_pixels_stay_whole(tmp_path, orientation):
    image = smooth_rgb(64, 80)
    upright = image_io.ImageFile(put(tmp_path / "a.jpg", turned_jpeg(image, orientation)))
    stored = image_io.ImageFile(tmp_path / "a.jpg", upright=False)
    assert upright.can_shrink(4)
    assert np.array_equal(upright.pixels(4), UPRIGHT[orientation](stored.pixels(4)))
    odd = image_io.ImageFile(put(tmp_path / "b.jpg", turned_jpeg(image[:63], orientation)))
    assert odd.can_shrink(2) == (orientation == 1)


# --- files that are not whole ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_small_file_cut_anywhere_is_an_error_that_names_it(tmp_path, name):
    image = random_rgb(9, 11)
    whole = file_formats.png(image) if name == "a.png" else jpeg(image)
    for length in range(len(whole)):
        with pytest.raises(UserError, match=name):
            image_io.read_image(put(tmp_path / name, whole[:length]))


@pytest.mark.parametrize("missing", [1, 2, 3, 100, 70_000, 200_000])
@pytest.mark.parametrize("name", ["big.png", "big.jpg"])
def test_a_large_file_cut_near_its_end_is_an_error(tmp_path, name, missing):
    image = random_rgb(400, 500)
    whole = file_formats.png(image) if name == "big.png" else jpeg(image)
    path = put(tmp_path / name, whole[:-missing])
    with pytest.raises(UserError, match=rf"{name}: truncated or damaged"):
        image_io.read_image(path)


def test_a_png_whose_pixels_end_early_between_whole_chunks_is_an_error(tmp_path):
    whole = file_formats.png(random_rgb())
    start = whole.index(b"IDAT") + 4
    pixels = whole[start : whole.index(b"IEND") - 8]
    chunks = [file_formats.png_chunk(b"IDAT", pixels[:-50]), file_formats.png_chunk(b"IEND", b"")]
    path = put(tmp_path / "a.png", whole[: start - 8] + b"".join(chunks))
    with pytest.raises(UserError, match=r"a\.png: truncated"):
        image_io.read_image(path)


def test_a_flipped_bit_in_a_png_is_an_error(tmp_path):
    data = bytearray(file_formats.png(random_rgb()))
    data[len(data) // 2] ^= 1
    with pytest.raises(UserError, match=r"a\.png"):
        image_io.read_image(put(tmp_path / "a.png", bytes(data)))


def test_a_decompression_bomb_is_refused(tmp_path):
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = file_formats.png_chunk(b"IHDR", header) + file_formats.png_chunk(b"IDAT", b"")
    path = put(tmp_path / "bomb.png", file_formats.PNG_SIGNATURE + chunks)
    with pytest.raises(UserError, match=r"bomb\.png: more than \d+ pixels"):
        image_io.read_image(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"dear diary\n", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        (b"\0" * 5000, "not an image"),
    ],
)
def test_a_file_that_is_no_image_is_named(tmp_path, data, message):
    with pytest.raises(UserError, match=rf"fake\.jpg: .*{message}"):
        image_io.read_image(put(tmp_path / "fake.jpg", data))


READERS = [
    image_io.image_size,
    image_io.read_image,
    image_io.read_png16,
    image_io.read_grey,
    image_io.read_dpt,
    image_io.read_pfm,
]


@pytest.mark.parametrize("read", READERS)
def test_a_missing_file_a_folder_and_an_empty_file_are_named(tmp_path, read):
    with pytest.raises(UserError, match=r"nowhere: no such file"):
        read(tmp_path / "nowhere")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"folder\.png: is a folder"):
        read(tmp_path / "folder.png")
    with pytest.raises(UserError, match=r"nothing: the file is empty"):
        read(put(tmp_path / "nothing", b""))


@BOUNDED
@given(data=st.data())
def test_damaged_bytes_never_raise_anything_but_a_user_error(tmp_path, data):
    values = random_rgb(6, 6)
    whole = data.draw(
        st.sampled_from(
            [
                file_formats.png(values, extra=(file_formats.png_chunk(b"eXIf", b"MM\0*"),)),
                file_formats.png(values[..., 0].astype(np.uint16)),
                jpeg(values),
                file_formats.dpt(values[..., 0].astype(np.float32)),
                file_formats.pfm(values[..., 0].astype(np.float32)),
            ]
        )
    )
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = put(tmp_path / "damaged", bytes(damaged))
    for read in READERS:
        try:
            read(path)
        except UserError as error:
            assert "damaged" in str(error)


# --- writing -----------------------------------------------------------------------------------


def test_a_written_png_is_read_alike_by_opencv(tmp_path):
    image = random_rgb()
    image_io.write_image(tmp_path / "a.png", image)
    image_io.write_image(tmp_path / "grey.png", image[..., 0])
    read = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read[..., ::-1], image)
    grey = cv2.imread(str(tmp_path / "grey.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(grey, image[..., 0])


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG"])
def test_a_written_jpeg_is_close_to_the_image(tmp_path, name):
    rows, columns = np.mgrid[0:64, 0:64]
    image = np.stack([rows * 4, columns * 4, 255 - rows * 4], axis=-1).astype(np.uint8)
    image_io.write_image(tmp_path / name, image)
    read = cv2.imread(str(tmp_path / name))[..., ::-1]
    assert np.abs(read.astype(int) - image).mean() < 3


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a.gif", np.zeros((2, 2, 3), np.uint8)),
        ("a.png", np.zeros((2, 2, 3), np.float32)),
        ("a.png", np.zeros((2, 2, 4), np.uint8)),
    ],
)
def test_write_image_refuses_what_it_cannot_store(tmp_path, name, image):
    with pytest.raises(ValueError):
        image_io.write_image(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []


def test_write_png16_is_read_alike_by_opencv(tmp_path):
    values = np.arange(0, 65536, 1237, dtype=np.uint16)[:50].reshape(5, 10)
    image_io.write_png16(tmp_path / "a.png", values)
    read = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("write", [image_io.write_png16, image_io.write_dpt, image_io.write_pfm])
def test_another_dtype_or_shape_is_a_bug_of_the_caller(tmp_path, write):
    for values in (np.zeros((2, 2)), np.zeros(4, np.float32), np.zeros(4, np.uint16)):
        with pytest.raises(ValueError):
            write(tmp_path / "a", values)


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = put(tmp_path / "a.pfm", b"old")

    def disk_full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:5])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(UserError, match=r"a\.pfm: cannot be written \(No space left on device\)"):
        image_io.write_pfm(path, np.zeros((9, 9), np.float32))
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_writing_into_a_missing_folder_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(UserError, match=r"a\.png: cannot be written"):
        image_io.write_image(tmp_path / "nowhere" / "a.png", random_rgb())


# --- 16-bit and grey PNG -----------------------------------------------------------------------


@BOUNDED
@given(values=hnp.arrays(np.uint16, st.tuples(SIDE, SIDE)))
def test_read_png16_returns_the_values_of_the_file(tmp_path, values):
    read = image_io.read_png16(put(tmp_path / "a.png", file_formats.png(values)))
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.zeros((4, 4), np.uint8), "8-bit grey"),
        (np.zeros((4, 4, 3), np.uint8), "8-bit RGB"),
        (np.zeros((4, 4, 3), np.uint16), "16-bit RGB"),
    ],
)
def test_read_png16_says_what_it_found_instead(tmp_path, values, found):
    path = put(tmp_path / "a.png", file_formats.png(values))
    with pytest.raises(UserError, match=rf"a\.png: expected a 16-bit grey PNG, found {found}"):
        image_io.read_png16(path)


def test_read_png16_refuses_a_jpeg(tmp_path):
    with pytest.raises(UserError, match=r"a\.png: not a PNG"):
        image_io.read_png16(put(tmp_path / "a.png", jpeg(random_rgb())))


@pytest.mark.parametrize("read", [image_io.read_png16, image_io.read_grey])
def test_a_16_bit_png_cut_anywhere_is_an_error(tmp_path, read):
    whole = file_formats.png(np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000)
    for length in range(len(whole)):
        with pytest.raises(UserError, match=r"a\.png"):
            read(put(tmp_path / "a.png", whole[:length]))


def test_read_grey_returns_raw_values_of_8_and_16_bits_and_of_equal_channels(tmp_path):
    grey = np.arange(0, 240, 8, dtype=np.uint8).reshape(5, 6)
    cases = {
        "8": (file_formats.png(grey), grey),
        "16": (file_formats.png(grey.astype(np.uint16) * 273), grey.astype(np.uint16) * 273),
        "rgb": (file_formats.png(np.stack([grey] * 3, axis=-1)), grey),
    }
    for name, (data, expected) in cases.items():
        read = image_io.read_grey(put(tmp_path / f"{name}.png", data))
        assert read.dtype == np.float32, name
        np.testing.assert_array_equal(read, expected.astype(np.float32), err_msg=name)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_read_grey_refuses_colours(tmp_path, dtype):
    path = put(tmp_path / "colours.png", file_formats.png(random_rgb().astype(dtype)))
    with pytest.raises(UserError, match=r"colours\.png: expected a grey PNG.*with colours"):
        image_io.read_grey(path)


# --- .dpt and .pfm -----------------------------------------------------------------------------


@BOUNDED
@given(values=FLOATS)
def test_dpt_and_pfm_are_read_and_written_as_specified(tmp_path, values):
    data = file_formats.dpt(values)
    np.testing.assert_array_equal(image_io.read_dpt(put(tmp_path / "a.dpt", data)), values)
    image_io.write_dpt(tmp_path / "b.dpt", values)
    assert (tmp_path / "b.dpt").read_bytes() == data

    for little_endian in (True, False):
        path = put(tmp_path / "a.pfm", file_formats.pfm(values, little_endian))
        read = image_io.read_pfm(path)
        assert read.dtype == np.float32
        assert read.dtype.isnative
        np.testing.assert_array_equal(read, values)
    image_io.write_pfm(tmp_path / "b.pfm", values)
    assert (tmp_path / "b.pfm").read_bytes() == file_formats.pfm(values)


def test_the_tag_of_a_dpt_file_is_the_float_202021_25():
    assert struct.unpack("<f", b"PIEH") == (202021.25,)


DPT = file_formats.dpt(np.ones((3, 4), np.float32))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PIEI" + DPT[4:], "tag"),
        (struct.pack("<f", float("nan")) + DPT[4:], "tag"),
        (DPT[:11], "too short"),
        (DPT[:-1], "need 48 bytes, the file has 47"),
        (DPT + b"\0", "need 48 bytes, the file has 49"),
        (b"PIEH" + struct.pack("<ii", 0, 4), "impossible size 0 x 4"),
        (b"PIEH" + struct.pack("<ii", -3, -4) + DPT[12:], "impossible size -3 x -4"),
        (b"PIEH" + struct.pack("<ii", 2**31 - 1, 2**31 - 1) + DPT[12:], "need \\d+ bytes"),
    ],
)
def test_a_wrong_dpt_file_is_named_with_the_reason(tmp_path, data, message):
    with pytest.raises(UserError, match=rf"a\.dpt: .*{message}"):
        image_io.read_dpt(put(tmp_path / "a.dpt", data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PF\n1 1\n-1.0\n" + b"\0" * 12, "colour PFM"),
        (b"P5\n1 1\n255\n\0", "another header"),
        (b"Pf\n1 -1\n-1.0\n\0\0\0\0", "another header"),
        (b"Pf\n1 1\n0.0\n\0\0\0\0", "scale"),
        (b"Pf\n1 1\n-e-\n\0\0\0\0", "scale"),
        (b"Pf\n0 1\n-1.0\n", "impossible size 0 x 1"),
        (b"Pf\n1 1\n-1.0\n\0\0\0", "need 4 bytes, the file has 3"),
        (b"Pf\n1 1\n-1.0\n\0\0\0\0\0", "need 4 bytes, the file has 5"),
        (b"Pf\n999999999 999999999\n-1.0\n\0\0\0\0", "need \\d+ bytes"),
    ],
)
def test_a_wrong_pfm_file_is_named_with_the_reason(tmp_path, data, message):
    with pytest.raises(UserError, match=rf"a\.pfm: .*{message}"):
        image_io.read_pfm(put(tmp_path / "a.pfm", data))


# --- targets of training -----------------------------------------------------------------------


def npy(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()


def hdf5(**datasets: object) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    return buffer.getvalue()


def tiff(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")
    return buffer.getvalue()


def exr(**channels: np.ndarray) -> bytes:
    """An uncompressed scan-line OpenEXR file of float32 channels ("OpenEXR File Layout")."""
    names = sorted(channels)
    height, width = channels[names[0]].shape

    def attribute(name: str, kind: str, value: bytes) -> bytes:
        return f"{name}\0{kind}\0".encode() + struct.pack("<i", len(value)) + value

    entries = [name.encode() + b"\0" + struct.pack("<iB3xii", 2, 0, 1, 1) for name in names]
    window = struct.pack("<iiii", 0, 0, width - 1, height - 1)
    header = b"".join(
        [
            b"\x76\x2f\x31\x01" + struct.pack("<i", 2),
            attribute("channels", "chlist", b"".join(entries) + b"\0"),
            attribute("compression", "compression", b"\0"),
            attribute("dataWindow", "box2i", window),
            attribute("displayWindow", "box2i", window),
            attribute("lineOrder", "lineOrder", b"\0"),
            attribute("pixelAspectRatio", "float", struct.pack("<f", 1)),
            attribute("screenWindowCenter", "v2f", struct.pack("<ff", 0, 0)),
            attribute("screenWindowWidth", "float", struct.pack("<f", 1)),
            b"\0",
        ]
    )
    rows = [
        struct.pack("<ii", y, 4 * width * len(names))
        + b"".join(struct.pack(f"<{width}f", *map(float, channels[name][y])) for name in names)
        for y in range(height)
    ]
    start = len(header) + 8 * height
    offsets = [start + sum(map(len, rows[:y])) for y in range(height)]
    return header + struct.pack(f"<{height}Q", *offsets) + b"".join(rows)


MAP = np.array([[0, 1.5, np.nan], [np.inf, -2, 1e-20]], np.float32)
GREY = np.array([[0, 1, 255], [3, 128, 7]], np.uint8)
SIXTEEN = np.array([[0, 1, 65535], [3, 1000, 7]], np.uint16)

TARGETS = {
    "8.png": (file_formats.png(GREY), GREY),
    "16.PNG": (file_formats.png(SIXTEEN), SIXTEEN),
    "a.pfm": (file_formats.pfm(MAP), MAP),
    "a.npy": (npy(MAP), MAP),
    "columns_first.npy": (npy(np.asfortranarray(MAP)), MAP),
    "big_endian.npy": (npy(MAP.astype(">f8")), MAP),
    "half.npy": (npy(MAP.astype(np.float16)), MAP.astype(np.float16)),
    "whole.npy": (npy(np.array([[-3, 0, 2**30]])), [[-3, 0, 2**30]]),
    "beyond.npy": (npy(np.array([[1e300, -1e300, 2]])), [[np.inf, -np.inf, 2]]),
    "a.h5": (hdf5(depth=MAP), MAP),
    "a.HDF5": (hdf5(depth=SIXTEEN), SIXTEEN),
    "grey.exr": (exr(Y=MAP), MAP),
    "blender.exr": (exr(Z=MAP), MAP),
    "colours.exr": (exr(R=MAP, G=MAP, B=MAP), MAP),
    "alpha.exr": (exr(R=MAP, G=MAP, B=MAP, A=MAP + 1), MAP),
    "float.tif": (tiff(MAP), MAP),
    "16.tiff": (tiff(SIXTEEN), SIXTEEN),
    "8.tif": (tiff(GREY), GREY),
}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_read_with_the_raw_values_of_its_file(tmp_path, name):
    data, expected = TARGETS[name]
    read = image_io.read_target(put(tmp_path / name, data), "/depth")
    assert read.dtype == (expected.dtype if name.lower().endswith(".png") else np.float32)
    np.testing.assert_array_equal(read, np.asarray(expected, np.float32))


def test_an_exr_that_opencv_wrote_is_read(tmp_path):
    """Compressed, and with half-precision values: what tools write by default."""
    image_io.read_target(put(tmp_path / "a.exr", exr(Y=MAP)))  # OpenEXR is on by now
    values = np.arange(2000, dtype=np.float32).reshape(40, 50)
    half = [cv2.IMWRITE_EXR_TYPE, cv2.IMWRITE_EXR_TYPE_HALF]
    for image, options in ((values, []), (np.dstack([values] * 3), []), (values, half)):
        assert cv2.imwrite(str(tmp_path / "b.exr"), image, options)
        np.testing.assert_array_equal(image_io.read_target(tmp_path / "b.exr"), values)


def test_an_opencv_without_openexr_is_one_line(tmp_path):
    """OpenCV decides once a process, so this is one of its own."""
    path = put(tmp_path / "a.exr", exr(Y=MAP))
    code = (
        "import os; os.environ['OPENCV_IO_ENABLE_OPENEXR'] = '0'\n"
        "from src import errors, image_io\n"
        f"try:\n    image_io.read_target({str(path)!r})\n"
        "except errors.UserError as error:\n    print(error)\n"
    )
    root = Path(image_io.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{path}: this OpenCV cannot read OpenEXR files; set OPENCV_IO")
    assert done.stdout.count("\n") == 1


def test_a_dataset_in_a_group_is_found_and_a_missing_one_gets_a_list(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["maps/left/depth"] = MAP
        file["image"] = GREY
    np.testing.assert_array_equal(image_io.read_target(path, "maps/left/depth"), MAP)
    for key in ("/depth", "", "maps/left"):
        with pytest.raises(UserError) as caught:
            image_io.read_target(path, key)
        assert str(caught.value) == (
            f"{path}: has no dataset {key!r}, but /image, /maps/left/depth; set key to one"
        )


def exr_of_size(width: int, height: int) -> bytes:
    """A header that claims this size, as damage can; OpenCV would ask for the memory."""
    window = struct.pack("<iiii", 0, 0, width - 1, height - 1)
    return exr(Y=MAP).replace(struct.pack("<iiii", 0, 0, 2, 1), window)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the file ran code",)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.npy", npy(np.array([[Bomb()]], dtype=object), allow_pickle=True), "object"),
        ("a.npy", pickle.dumps(Bomb()), "not a .npy file"),
        ("a.npy", npy(np.zeros(6)), r"float64 \(6,\), expected numbers \[H, W\]"),
        ("a.npy", npy(np.zeros((2, 3, 1))), r"float64 \(2, 3, 1\)"),
        ("a.npy", npy(np.zeros((2, 3), bool)), "bool"),
        ("a.npy", npy(np.zeros((2, 3), complex)), "complex128"),
        ("a.npy", npy(np.zeros((2, 0))), r"\(2, 0\)"),
        ("a.npy", npy(MAP)[:-1], "3 x 2 values of float32 need 24 bytes, the file has 23"),
        ("a.npy", npy(MAP) + b"\0", "the file has 25"),
        ("a.npy", npy(MAP).replace(b"(2, 3)", b"(9e9,)"), "damaged"),
        ("a.npy", npy(MAP).replace(b"(2, 3), }   ", b"(99999,99999)}"), "more than .* pixels"),
        ("a.npy", npy(MAP).replace(b"\x01\x00", b"\x09\x00", 1), "damaged"),
        ("a.h5", b"not HDF5", "no HDF5 file"),
        ("a.h5", hdf5(depth=MAP)[:1000], "no HDF5 file"),
        ("a.h5", hdf5(depth=np.zeros((2, 3, 4))), r"/depth is float64 \(2, 3, 4\)"),
        ("a.h5", hdf5(depth="text"), "/depth is object"),
        ("a.h5", hdf5(depth=h5py.Empty("f")), r"/depth is float32 \(\)"),
        ("a.h5", hdf5(), "but nothing"),
        ("a.exr", file_formats.png(GREY), "not an OpenEXR file"),
        ("a.exr", exr(Y=MAP)[:-1], "truncated or damaged"),
        ("a.exr", exr(Y=MAP)[:60], "truncated or damaged"),
        ("a.exr", exr(Y=MAP)[:8], "truncated or damaged"),
        ("a.exr", exr(X=MAP, Y=MAP), "channels X, Y; expected one"),
        ("a.exr", exr(**{"Layer.Z": MAP}), "channels Layer.Z; expected one"),
        ("a.exr", exr(R=MAP, G=MAP, B=MAP + 1), "R, G and B differ"),
        ("a.exr", exr(R=MAP, G=MAP + 1, B=MAP), "R, G and B differ"),
        ("a.exr", exr_of_size(99_999, 99_999), "more than .* pixels"),
        ("a.exr", exr_of_size(0, 5), "expected numbers"),
        ("a.exr", exr(Y=MAP).replace(b"dataWindow", b"dateWindow"), "truncated or damaged"),
        ("a.tif", b"not a TIFF", "not an image"),
        ("a.tif", tiff(MAP)[:-4], "truncated or damaged"),
        ("a.tif", tiff(random_rgb()), "found RGB"),
        ("a.jpg", jpeg(random_rgb()), "targets are .exr, .h5, .hdf5, .npy, .pfm, .png, .tif"),
        ("a.png", jpeg(random_rgb()), "not a PNG"),
    ],
)
def test_a_wrong_target_is_named_with_the_reason(tmp_path, name, data, message):
    path = put(tmp_path / name, data)
    with pytest.raises(UserError, match=message) as caught:
        image_io.read_target(path, "/depth")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", sorted(image_io.TARGET_SUFFIXES))
def test_a_missing_target_a_folder_and_an_empty_file_are_named(tmp_path, suffix):
    for name, message in (("no", "no such file"), ("dir", "is a folder"), ("nil", "is empty")):
        path = tmp_path / f"{name}{suffix}"
        if name == "dir":
            path.mkdir()
        elif name == "nil":
            path.touch()
        with pytest.raises(UserError, match=message) as caught:
            image_io.read_target(path, "/depth")
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged tags
@BOUNDED
@given(data=st.data())
def test_a_damaged_target_never_raises_anything_but_a_user_error(tmp_path, data):
    name = data.draw(st.sampled_from(["a.npy", "a.h5", "float.tif"]))
    damaged = bytearray(TARGETS[name][0])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = put(tmp_path / name, bytes(damaged))
    try:
        values = image_io.read_target(path, "/depth")
    except UserError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
    else:
        assert values.dtype == np.float32
        assert values.ndim == 2


# --- folders -----------------------------------------------------------------------------------


def test_list_images_sorts_and_names_what_is_no_image(tmp_path):
    for name in ("b.JPG", "a.png", "._a.png", "c.webp", "notes.txt", "depth.pfm", "no_suffix"):
        put(tmp_path / name, b"")
    (tmp_path / "folder.png").mkdir()
    images, others = image_io.list_images(str(tmp_path))
    assert [path.name for path in images] == ["a.png", "b.JPG", "c.webp"]
    assert [path.name for path in others] == ["._a.png", "depth.pfm", "no_suffix", "notes.txt"]


def test_list_images_of_no_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        image_io.list_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"a\.png: is a file"):
        image_io.list_images(put(tmp_path / "a.png", b""))


def test_an_hdf5_map_that_lies_in_another_file_is_refused(tmp_path):
    """Else a data set could show any file of the machine."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["depth"] = np.ones((2, 2), np.float32)
    (tmp_path / "raw.bin").write_bytes(bytes(16))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["linked"] = h5py.ExternalLink("other.h5", "/depth")
        raw = [(str(tmp_path / "raw.bin"), 0, 16)]
        file.create_dataset("stored", (2, 2), np.float32, external=raw)
    for key in ("linked", "stored"):
        with pytest.raises(UserError, match="lies in other files"):
            image_io.read_target(tmp_path / "a.h5", key)
