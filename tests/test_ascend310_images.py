"""The C++ program reads and prepares images as the Python programs do."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from src.data import transforms
from src.data.transforms import ResizeRule
from src.image_io import read_image
from tests import file_formats
from tests.infer_program import MEAN, STD, sanitized_build

HEIGHT, WIDTH = 61, 83
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sanitized_build(tmp_path_factory) / "midas_probe"


@pytest.fixture
def without_ipp() -> Iterator[None]:
    """OpenCV without Intel's library, which only its Python packages for x86 have."""
    used = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    yield
    cv2.ipp.setUseIPP(used)


def picture(channels: int = 3, bits: int = 8) -> np.ndarray:
    """Noise over a gradient: uint8 or uint16 [HEIGHT, WIDTH, channels], or grey [HEIGHT, WIDTH]."""
    rng = np.random.default_rng(channels + bits)
    y, x, c = np.mgrid[:HEIGHT, :WIDTH, :channels]
    values = (y / HEIGHT + x / WIDTH + c / channels) / 3 * 0.8 + rng.random(y.shape) * 0.2
    values = (values * (2**bits - 1)).astype(np.uint16 if bits == 16 else np.uint8)
    return values[..., 0] if channels == 1 else values


def encoded(image_format: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture()).convert(mode).save(buffer, image_format, **options)
    return buffer.getvalue()


def oriented(image_format: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image_format, exif=exif)


def tiff(values: np.ndarray, **tags: int) -> bytes:
    buffer = io.BytesIO()
    orientation = tags.pop("orientation", 1)
    Image.fromarray(values).save(buffer, "TIFF", tiffinfo={274: orientation}, **tags)
    return buffer.getvalue()


def xmp_png() -> bytes:
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP)
    return encoded("PNG", pnginfo=text)


def read(probe: Path, path: Path, upright: bool) -> np.ndarray | str:
    """The pixels uint8 [H, W, 3], or the message of the error."""
    done = subprocess.run(
        [probe, "read", path, str(int(upright))], capture_output=True, timeout=60, check=False
    )
    if done.returncode:
        return done.stderr.decode().splitlines()[-1]  # the libraries' messages come before
    height, width = np.frombuffer(done.stdout[:8], np.int32)
    return np.frombuffer(done.stdout[8:], np.uint8).reshape(height, width, 3)


READ: dict[str, Callable[[], bytes]] = {
    "png": lambda: file_formats.png(picture()),
    "png grey": lambda: file_formats.png(picture(1)),
    "png grey 16 bits": lambda: file_formats.png(picture(1, 16)),
    "png grey alpha": lambda: file_formats.png(picture(2)),
    "png grey alpha 16 bits": lambda: file_formats.png(picture(2, 16)),
    "png alpha": lambda: file_formats.png(picture(4)),
    "png 16 bits": lambda: file_formats.png(picture(3, 16)),
    "png alpha 16 bits": lambda: file_formats.png(picture(4, 16)),
    "png palette": lambda: encoded("PNG", "P"),
    "png palette 1 bit": lambda: encoded("PNG", "1"),
    "png palette transparent": lambda: encoded("PNG", "P", transparency=3),
    "png transparent colour": lambda: encoded("PNG", transparency=(1, 2, 3)),
    "png xmp": xmp_png,
    "jpeg grey": lambda: encoded("JPEG", "L", quality=90),
    "jpeg 4:4:4": lambda: encoded("JPEG", quality=95, subsampling=0),
    "jpeg 4:2:2": lambda: encoded("JPEG", quality=80, subsampling=1),
    "jpeg 4:2:0": lambda: encoded("JPEG", quality=60, subsampling=2),
    "jpeg progressive": lambda: encoded("JPEG", quality=90, progressive=True),
    "jpeg restarts": lambda: encoded("JPEG", quality=90, restart_marker_blocks=3),
    "jpeg xmp": lambda: encoded("JPEG", xmp=XMP.encode()),
    "jpeg and more behind it": lambda: encoded("JPEG") + b"\xff\xd8 another picture",
    "bmp": lambda: encoded("BMP"),
    "bmp grey": lambda: encoded("BMP", "L"),
    "bmp palette": lambda: encoded("BMP", "P"),
    "bmp 1 bit": lambda: encoded("BMP", "1"),
    "webp": lambda: encoded("WEBP", quality=80),
    "webp lossless": lambda: encoded("WEBP", lossless=True),
    "webp orientation": lambda: oriented("WEBP", 5),
    "webp xmp": lambda: encoded("WEBP", xmp=XMP.encode()),
    "ppm": lambda: b"P6\n# by hand\n83 61\n255\n" + picture().tobytes(),
    "pgm": lambda: b"P5 83 61 255\n" + picture(1).tobytes(),
    "tiff": lambda: tiff(picture()),
    "tiff grey": lambda: tiff(picture(1)),
    "tiff grey 16 bits": lambda: tiff(picture(1, 16)),
    **{f"jpeg orientation {n}": lambda n=n: oriented("JPEG", n) for n in range(10)},
    **{f"png orientation {n}": lambda n=n: oriented("PNG", n) for n in range(10)},
    **{f"tiff orientation {n}": lambda n=n: tiff(picture(), orientation=n) for n in range(1, 9)},
    **{f"tiff 16 bits {n}": lambda n=n: tiff(picture(1, 16), orientation=n) for n in range(1, 9)},
}


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("kind", READ)
def test_pixels_are_those_of_python(probe: Path, tmp_path: Path, kind: str, upright: bool) -> None:
    path = tmp_path / "image.of-any-suffix"
    path.write_bytes(READ[kind]())
    np.testing.assert_array_equal(read(probe, path, upright), read_image(path, upright))


def test_orientation_turns_pixels_as_exif_says(probe: Path, tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    path.write_bytes(oriented("PNG", 6))  # the first row is the right-hand side
    pixels = picture()
    expected = [[pixels[HEIGHT - 1 - x, y] for x in range(HEIGHT)] for y in range(WIDTH)]
    np.testing.assert_array_equal(read(probe, path, upright=True), expected)
    np.testing.assert_array_equal(read(probe, path, upright=False), pixels)


def test_16_bits_become_8(probe: Path, tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 32768, 65406, 65535]], np.uint16)
    path = tmp_path / "deep.png"
    path.write_bytes(file_formats.png(values))
    # (v + 128) // 257, by hand; of colours the upper byte
    assert read(probe, path, upright=False)[0, :, 0].tolist() == [0, 0, 1, 128, 254, 255]
    path.write_bytes(file_formats.png(np.repeat(values[..., None], 3, axis=2)))
    assert read(probe, path, upright=False)[0, :, 0].tolist() == [0, 0, 0, 128, 255, 255]


def changed(image_format: str, offset: int, number: int, **options: object) -> bytes:
    """A picture in which these 4 bytes are another little-endian number."""
    data = encoded(image_format, **options)
    new = (number % 2**32).to_bytes(4, "little")
    return data[:offset] + new + data[offset + 4 :]


def translucent_webp() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(4)).save(buffer, "WEBP", quality=50)
    return buffer.getvalue()


REFUSED = {
    "cmyk jpeg": (lambda: encoded("JPEG", "CMYK"), "a CMYK JPEG"),
    "tiff palette": (lambda: encoded("TIFF", "P"), "photometric interpretation 3"),
    "tiff alpha": (lambda: encoded("TIFF", "RGBA"), "4 x 8 bits"),
    "tiff float": (lambda: tiff(picture(1).astype(np.float32)), "floating-point"),
    "tiff lzw": (lambda: tiff(picture(), compression="tiff_lzw"), "a compressed TIFF"),
    "tiff deflate": (lambda: tiff(picture(), compression="tiff_adobe_deflate"), "convert it to"),
    "tiff packbits": (lambda: tiff(picture(), compression="packbits"), "a compressed TIFF"),
    "bmp header": (lambda: changed("BMP", 14, 41), "a BMP of an old or unknown kind"),
    "bmp height": (lambda: changed("BMP", 22, -(2**31)), "impossible size"),
    "bmp width": (lambda: changed("BMP", 18, -5), "impossible size"),
    "bmp large": (lambda: changed("BMP", 22, 2**30), "its end is missing"),
    "webp large": (lambda: changed("WEBP", 26, 0x3FFF3FFF), "more than 178956970 pixels"),
    "webp lossless large": (
        lambda: changed("WEBP", 21, 0x0FFFFFFF, lossless=True),
        "more than 178956970 pixels",
    ),
    "webp extended large": (lambda: oriented("WEBP", 5)[:24] + b"\xff" * 6, "its end is missing"),
    "bmp alpha": (lambda: encoded("BMP", "RGBA"), "32 bits"),
    "webp alpha": (translucent_webp, "transparency"),
    "ppm text": (lambda: b"P2 2 1 255\n1 2\n", "plain text"),
    "pgm 16 bits": (lambda: b"P5 2 1 65535\n1234", "other than 8 bits"),
    "gif": (lambda: encoded("GIF", "P"), "not an image"),
    "text": (lambda: b"hello", "not an image"),
    "nothing": (lambda: b"", "the file is empty"),
    "bomb": (
        lambda: (
            file_formats.PNG_SIGNATURE
            + file_formats.png_chunk(b"IHDR", bytes.fromhex("0000ffff0000ffff0802000000"))
            + file_formats.png_chunk(b"IEND", b"")
        ),
        "more than 178956970 pixels",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_alike_is_refused(probe: Path, tmp_path: Path, kind: str) -> None:
    make, reason = REFUSED[kind]
    path = tmp_path / "image.png"
    path.write_bytes(make())
    message = read(probe, path, upright=True)
    assert isinstance(message, str)
    assert message.startswith(f"{path}: ") and reason in message


DAMAGED = ["png", "png grey 16 bits", "jpeg 4:2:0", "jpeg progressive", "bmp", "ppm", "tiff",
           "tiff grey 16 bits", "webp", "webp lossless"]  # fmt: skip


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", DAMAGED)
def test_truncated_files_are_errors(probe: Path, tmp_path: Path, kind: str, share: float) -> None:
    data = READ[kind]()
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * share)])
    message = read(probe, path, upright=True)
    assert isinstance(message, str) and message.startswith(f"{path}: ")


def test_jpeg_without_its_last_marker_is_an_error(probe: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    path.write_bytes(encoded("JPEG")[:-2])
    assert "truncated" in read(probe, path, upright=True)


@pytest.mark.parametrize("kind", [kind for kind in READ if kind.startswith("png")])
def test_png_with_a_wrong_byte_is_an_error(probe: Path, tmp_path: Path, kind: str) -> None:
    data = READ[kind]()
    begin = data.index(b"IDAT") + 4
    end = begin + int.from_bytes(data[begin - 8 : begin - 4], "big")
    path = tmp_path / "flipped.png"
    for position in (begin, (begin + end) // 2, end - 1):
        flipped = bytearray(data)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        assert "wrong checksum in chunk IDAT" in read(probe, path, upright=True)


def test_damaged_metadata_leave_the_pixels_good(probe: Path, tmp_path: Path) -> None:
    exif = b"MM\0*\xff\xff\xff\xf0"  # a directory behind the end
    path = tmp_path / "odd.png"
    path.write_bytes(file_formats.png(picture(), extra=(file_formats.png_chunk(b"eXIf", exif),)))
    np.testing.assert_array_equal(read(probe, path, upright=True), picture())


SMALL = ["png", "png grey", "png grey 16 bits", "png palette", "png alpha", "jpeg 4:2:0",
         "jpeg orientation 6"]  # fmt: skip


def prepare(probe: Path, path: Path, size: tuple[int, int]) -> np.ndarray:
    words = [probe, "prepare", path, "1", *map(str, size)]
    done = subprocess.run(words, capture_output=True, timeout=60, check=True)
    return np.frombuffer(done.stdout, np.float32).reshape(3, *size)


def prepared_by_python(path: Path, size: tuple[int, int]) -> np.ndarray:
    return transforms.normalize(transforms.resize_image(read_image(path), *size), MEAN, STD)


@pytest.mark.usefixtures("without_ipp")
@pytest.mark.parametrize("size", [(32, 64), (61, 83), (192, 256)])
@pytest.mark.parametrize("kind", SMALL)
def test_prepared_values_are_those_of_python(
    probe: Path, tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    path = tmp_path / "image"
    path.write_bytes(READ[kind]())
    difference = prepare(probe, path, size) - prepared_by_python(path, size)
    assert np.abs(difference).max() <= 1e-6  # values up to 2.6, float32 steps of 2.4e-7


def test_prepared_values_with_ipp_differ_in_the_sixth_digit(probe: Path, tmp_path: Path) -> None:
    """Intel's library computes where a pixel lies in float64, OpenCV in float32.

    At column x of the image that is off by x * 6e-8 pixels, so at 2000 by 1.2e-4 of the slope
    between two pixels, which is 1 / 0.225 at most.
    """
    path = tmp_path / "large.png"
    noise = np.random.default_rng(1).integers(0, 256, (300, 2000, 3), dtype=np.uint8)
    path.write_bytes(file_formats.png(noise))
    difference = prepare(probe, path, (96, 640)) - prepared_by_python(path, (96, 640))
    assert np.abs(difference).max() <= 1.2e-4 / 0.225


def test_resize_rule_is_that_of_python(probe: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 5000, (3000, 2)).tolist()
    # A side that becomes an odd multiple of 16 lies between two multiples of 32.
    sizes += [(2 * 16 * odd, 768) for odd in range(1, 200, 2)]
    sizes += [(768, 2 * 16 * odd) for odd in range(1, 200, 2)]
    cases = [
        (method, bound, *size)
        for size in sizes
        for method, bound in (("upper", 384), ("lower", 384), ("upper", 32), ("lower", 640))
    ]
    lines = "".join(f"{' '.join(map(str, case))}\n" for case in cases)
    done = subprocess.run(
        [probe, "resize"], input=lines, capture_output=True, text=True, timeout=60, check=True
    )
    found = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    expected = [
        ResizeRule(bound, bound, method=f"{method}_bound").output_size(*size)
        for method, bound, *size in cases
    ]
    assert found == expected


def test_resize_rule_by_hand(probe: Path) -> None:
    lines = "lower 384 375 1242\nupper 384 436 1024\nupper 384 96 768\nupper 384 160 768\n"
    lines += "lower 8192 1 178956970\n"  # 1.5e12, as large as an int can be
    done = subprocess.run(
        [probe, "resize"], input=lines, capture_output=True, text=True, timeout=60, check=True
    )
    # 1271.8 / 32 = 39.7; 163.5 / 32 = 5.1; 48 / 32 = 1.5 and 80 / 32 = 2.5, both to even
    assert done.stdout.split("\n")[:-1] == [
        "384 1280",
        "160 384",
        "64 384",
        "64 384",
        "8192 2147483616",
    ]
