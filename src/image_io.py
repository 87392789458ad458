"""Every image and depth format, read and written in one place.

A file that cannot be read as what it should be raises a `UserError` that names it. Files are
written whole or not at all. All functions take `str` or `Path`.
"""

from __future__ import annotations

import io
import os
import re
import struct
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import h5py
import numpy as np
from PIL import ExifTags, Image

from src import fast_decode
from src.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
HDF5_SUFFIXES = frozenset({".h5", ".hdf5"})
TARGET_SUFFIXES = frozenset({".png", ".pfm", ".npy", ".exr", ".tif", ".tiff"}) | HDF5_SUFFIXES

# OpenCV reads OpenEXR only if this is set before it meets the first such file.
os.environ.setdefault("OPENCV_IO_ENABLE_OPENEXR", "1")

# Only what the suffixes stand for: Pillow's other plug-ins include ones that start programs (EPS).
_PIL_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOUR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey + alpha", 6: "RGBA"}
_DPT_TAG = 202021.25
_DPT_HEADER = struct.Struct("<fii")
_PFM_HEADER = re.compile(rb"(P[Ff])\s+(\d{1,9})\s+(\d{1,9})\s+([-+.\deE]{1,32})\s")
_NPY_MAGIC = b"\x93NUMPY"
_EXR_MAGIC = b"\x76\x2f\x31\x01"
_EXR_CHANNELS = b"channels\0chlist\0"  # name and type of the attribute
_EXR_WINDOW = b"dataWindow\0box2i\0"
_EXR_CHANNEL = re.compile(rb"([ -~]{1,255})\0.{16}", re.DOTALL)
_EXR_LIST = re.compile(rb"(?:[ -~]{1,255}\0.{16})+\0", re.DOTALL)
_EXR_COLOURS = ([b"B", b"G", b"R"], [b"A", b"B", b"G", b"R"])
_TIFF_MODES = ("F", "L", "I", "I;16", "I;16B")
_MAP_DTYPES = "uif"  # NumPy's kinds of integers and floating-point numbers
_JPEG_QUALITY = 95
_QUICK_PNG = {"compress_type": zlib.Z_RLE}  # a third of the time; some percent larger

# EXIF 2.32, tag 0x0112: how the stored rows and columns lie -> what makes them upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_TURNED = (5, 6, 7, 8)  # orientations that swap height and width
_PNG_METADATA = {b"eXIf", b"tEXt", b"zTXt", b"iTXt"}  # chunks that may hold an orientation

PathLike = str | Path


def read_image(path: PathLike, upright: bool = True) -> np.ndarray:
    """Read a photograph.

    The content decides the format, not the suffix. Transparency is dropped, grey and palette images
    become RGB, 16-bit values are scaled to 8 bits.

    Args:
        upright: apply the EXIF orientation; otherwise rows and columns stay as they are stored.
            That of a TIFF is part of the format and always applied.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        UserError: the file is missing, a folder, empty, no image, truncated, damaged or too large.
    """
    return ImageFile(path, upright).pixels()


class ImageFile:
    """A photograph whose header is read and whose pixels are not decoded yet.

    Args:
        path, upright: as in `read_image`.

    Attributes:
        height, width: in pixels, of what `pixels` returns.

    Raises:
        UserError: as `read_image`, as far as the header tells; of a PNG, the checksums.
    """

    def __init__(self, path: PathLike, upright: bool = True) -> None:
        self._path = path
        self._data = _read_bytes(path)
        self._image, chunks = _open(path, self._data)
        png = self._image.format == "PNG"
        told = not png or (upright and not chunks.isdisjoint(_PNG_METADATA))
        if png and told:
            _load(path, self._image)  # Pillow decodes all of it to learn what metadata it has
        orientation = _orientation(self._image) if told else 1
        self._plain_png = _plain_png(self._data, chunks) and not told
        if self._image.format == "TIFF" and orientation != 1:
            _load(path, self._image)  # Pillow turns it, and knows its size only then
            orientation = 1
        if not upright:
            orientation = 1
        self._transpose = _UPRIGHT.get(orientation)
        width, height = self._image.size
        self.height, self.width = (width, height) if orientation in _TURNED else (height, width)

    def can_shrink(self, shrink: int) -> bool:
        """Whether `pixels` can be asked for this part of the size: JPEG, colour or grey.

        One that is turned must divide into whole pixels, or those of the result would not lie where
        those of the file are.
        """
        image = self._image
        divides = self.height % shrink == self.width % shrink == 0
        return shrink == 1 or (
            image.format == "JPEG"
            and image.mode in ("RGB", "L")
            and (self._transpose is None or divides)
        )

    def pixels(self, shrink: int = 1) -> np.ndarray:
        """Decode the pixels.

        Args:
            shrink: 1, or 2, 4 or 8 where `can_shrink` says so: decode at this part of the size. A
                pixel of the result stands for shrink x shrink of the file (JPEG's transform does
                it, ITU-T T.81, at a fraction of the cost), the last row and column for fewer.

        Returns:
            uint8 [ceil(height / shrink), ceil(width / shrink), 3], RGB.

        Raises:
            UserError: truncated, damaged, or no 8- or 16-bit image.
        """
        width, height = self._image.size
        image = self._image
        pixels = None
        if image.format == "JPEG" and image.mode in ("RGB", "L"):
            pixels = fast_decode.decode_jpeg(self._data, height, width, shrink)
        elif self._plain_png and image.mode == "RGB":
            pixels = fast_decode.decode_png(self._data, height, width, colour=True)
        if pixels is None:
            if shrink > 1:
                image, _ = _open(self._path, self._data)  # for it changes
                image.draft(None, (width // shrink, height // shrink))
            pixels = _rgb(self._path, _load(self._path, image))
        if self._transpose is not None:
            pixels = np.array(Image.fromarray(pixels).transpose(self._transpose))
        return pixels


def _rgb(path: PathLike, image: Image.Image) -> np.ndarray:
    """Any decoded image as uint8 [H, W, 3]."""
    if image.mode == "F":
        raise UserError(f"{path}: holds floating-point values, expected an 8- or 16-bit image")
    if image.mode.startswith("I"):
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        grey = ((wide + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))


def image_size(path: PathLike, upright: bool = True) -> tuple[int, int]:
    """(height, width) of a photograph in pixels, from its header alone.

    Args:
        upright: as in `read_image`.

    Raises:
        UserError: as `read_image`, as far as the header tells.
    """
    _read_bytes(path, 1)  # its messages
    with _decoding(path), Image.open(path, formats=_PIL_FORMATS) as image:
        width, height = image.size
        told = image.format != "PNG" or (upright and _has_metadata(path))
        orientation = _orientation(image) if told else 1
        turned_by_pillow = image.format == "TIFF" and orientation != 1
    if turned_by_pillow:
        file = ImageFile(path, upright)
        return file.height, file.width
    return (width, height) if upright and orientation in _TURNED else (height, width)


def _has_metadata(path: PathLike) -> bool:
    """Whether a PNG may hold an orientation; to look it up, Pillow decodes the pixels."""
    with Path(path).open("rb") as file:
        file.seek(len(_PNG_SIGNATURE))
        while len(head := file.read(8)) == 8:
            if head[4:] in _PNG_METADATA:
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def write_image(path: PathLike, image: np.ndarray, quick: bool = False) -> None:
    """Write uint8 [H, W, 3] RGB or uint8 [H, W] grey as PNG or JPEG, by the suffix.

    Args:
        quick: a PNG of photographs and depth maps takes a third of the time to write, and is some
            percent larger; drawings would become much larger.

    Raises:
        ValueError: another suffix, dtype or shape.
        UserError: the file cannot be written.
    """
    colour = image.ndim == 3 and image.shape[2] == 3
    if image.dtype != np.uint8 or not (colour or image.ndim == 2):
        raise ValueError(f"expected uint8 [H, W, 3] or [H, W], got {image.dtype} {image.shape}")
    suffix = Path(path).suffix.lower()
    if suffix == ".png":
        data = _encode_png(image, quick)
    elif suffix in (".jpg", ".jpeg"):
        data = _encode(image, "JPEG", quality=_JPEG_QUALITY)
    else:
        raise ValueError(f"{path}: images are written as .png, .jpg or .jpeg")
    write_bytes(path, data)


def read_png16(path: PathLike) -> np.ndarray:
    """Read a single-channel 16-bit PNG, the depth format of KITTI and TUM.

    Returns:
        uint16 [H, W], raw values.

    Raises:
        UserError: missing, damaged, or a PNG of another bit depth or with colours.
    """
    data = _read_bytes(path)
    bits, colour_type = _png_kind(path, data, "a 16-bit grey PNG")
    if (bits, colour_type) != (16, 0):
        found = _describe_png(bits, colour_type)
        raise UserError(f"{path}: expected a 16-bit grey PNG, found {found}; use the original file")
    return np.asarray(_decode(path, data)).astype(np.uint16)


def write_png16(path: PathLike, values: np.ndarray, quick: bool = False) -> None:
    """Write uint16 [H, W] as a single-channel 16-bit PNG.

    Args:
        quick: as in `write_image`.

    Raises:
        ValueError: another dtype or shape.
        UserError: the file cannot be written.
    """
    if values.dtype != np.uint16 or values.ndim != 2:
        raise ValueError(f"expected uint16 [H, W], got {values.dtype} {values.shape}")
    write_bytes(path, _encode_png(values, quick))


def read_grey(path: PathLike) -> np.ndarray:
    """Read the raw values of a grey PNG, the format of ReDWeb's relative depth (RDs).

    8 and 16 bits a value; a colour PNG is accepted where its three channels are equal.

    Returns:
        float32 [H, W] in [0, 255] or [0, 65535].

    Raises:
        UserError: missing, damaged, not a PNG, or a PNG with colours.
    """
    return _read_grey_values(path).astype(np.float32)


def _read_grey_values(path: PathLike) -> np.ndarray:
    """As `read_grey`, but uint8 or uint16."""
    data = _read_bytes(path)
    bits, colour_type = _png_kind(path, data, "a grey PNG")
    image, chunks = _open(path, data)
    if colour_type == 0 and _plain_png(data, chunks):
        width, height = image.size
        values = fast_decode.decode_png(data, height, width, colour=False)
        if values is not None:
            return values
    image = _load(path, image)
    if bits == 16 and colour_type == 0:
        return np.asarray(image).astype(np.uint16)
    channels = np.asarray(image.convert("RGB"))
    if bits == 16 or (channels != channels[:, :, :1]).any():
        found = _describe_png(bits, colour_type)
        raise UserError(f"{path}: expected a grey PNG of 8 or 16 bits, found {found} with colours")
    return channels[:, :, 0]


def read_dpt(path: PathLike) -> np.ndarray:
    """Read a Sintel depth file (.dpt, MPI Sintel depth training data, `sintel_io.py`).

    Returns:
        float32 [H, W], metres.

    Raises:
        UserError: missing, wrong tag, impossible size, or not as long as its header says.
    """
    data = _read_bytes(path)
    if len(data) < _DPT_HEADER.size:
        raise UserError(f"{path}: {len(data)} bytes, too short for the header of a .dpt file")
    tag, width, height = _DPT_HEADER.unpack_from(data)
    if tag != _DPT_TAG:
        raise UserError(f"{path}: starts with tag {tag:.8g}, a .dpt file starts with {_DPT_TAG}")
    return _raw_floats(path, data[_DPT_HEADER.size :], height, width, "<f4")


def write_dpt(path: PathLike, depth: np.ndarray) -> None:
    """Write float32 [H, W] metres as a Sintel .dpt file.

    Raises:
        ValueError: another dtype or shape.
        UserError: the file cannot be written.
    """
    height, width = _float_map_shape(depth)
    write_bytes(path, _DPT_HEADER.pack(_DPT_TAG, width, height) + depth.astype("<f4").tobytes())


def read_raw_depth(path: PathLike, height: int, width: int) -> np.ndarray:
    """Read little-endian float32 values without a header, row after row: the depth of ETH3D.

    Returns:
        float32 [height, width], metres.

    Raises:
        UserError: missing, or not as long as `height` x `width` values.
    """
    return _raw_floats(path, _read_bytes(path), height, width, "<f4")


def read_pfm(path: PathLike) -> np.ndarray:
    """Read a grey PFM file of either byte order; the size of its scale factor is ignored.

    Returns:
        float32 [H, W], top row first.

    Raises:
        UserError: missing, no grey PFM, or not as long as its header says.
    """
    data = _read_bytes(path)
    header = _PFM_HEADER.match(data)
    if header is None or header[1] != b"Pf":
        found = "a colour PFM" if data.startswith(b"PF") else "another header"
        raise UserError(f"{path}: expected a grey PFM ('Pf', width, height, scale), found {found}")
    try:
        scale = float(header[4])
    except ValueError:
        scale = 0.0
    if scale == 0:
        raise UserError(f"{path}: PFM scale {header[4].decode()!r}, expected a number other than 0")
    dtype = "<f4" if scale < 0 else ">f4"
    rows = _raw_floats(path, data[header.end() :], int(header[3]), int(header[2]), dtype)
    return np.ascontiguousarray(rows[::-1])


def write_pfm(path: PathLike, values: np.ndarray) -> None:
    """Write float32 [H, W] (any value, NaN and infinity included) as a little-endian grey PFM.

    Raises:
        ValueError: another dtype or shape.
        UserError: the file cannot be written.
    """
    height, width = _float_map_shape(values)
    header = f"Pf\n{width} {height}\n-1.0\n".encode("ascii")
    write_bytes(path, header + values[::-1].astype("<f4").tobytes())


def read_target(path: PathLike, key: str = "") -> np.ndarray:
    """Read the raw values of a disparity or depth map; the suffix decides the format.

    `.png` (grey, 8 or 16 bits), `.pfm` (grey), `.npy` (integers or floating point, never
    pickles), `.h5` and `.hdf5`, `.exr` (one channel, or R, G and B alike), `.tif` and `.tiff`
    (one channel of integers or float32).

    Args:
        key: the name of the map inside HDF5 files; others do not look at it.

    Returns:
        [H, W]: uint8 or uint16 of a PNG, as it has them; otherwise float32, any value, NaN and
        infinity included.

    Raises:
        UserError: missing, damaged, not what its suffix says, no map of numbers, or an HDF5 file
            without `key`.
    """
    suffix = Path(path).suffix.lower()
    if suffix in HDF5_SUFFIXES:
        return _read_hdf5(path, key)
    readers = {
        ".png": _read_grey_values,
        ".pfm": read_pfm,
        ".npy": _read_npy,
        ".exr": _read_exr,
        ".tif": _read_tiff,
        ".tiff": _read_tiff,
    }
    if suffix not in readers:
        raise UserError(
            f"{path}: targets are {', '.join(sorted(TARGET_SUFFIXES))} files; convert it to one"
        )
    return readers[suffix](path)


def list_images(folder: PathLike) -> tuple[list[Path], list[Path]]:
    """The files of a folder, not of its subfolders, each list sorted by name.

    Returns:
        (files whose suffix is in `IMAGE_SUFFIXES`, hidden ones left out, and all other files)

    Raises:
        UserError: the folder is missing, a file or unreadable.
    """
    folder = Path(folder)
    try:
        files = sorted(entry for entry in folder.iterdir() if not entry.is_dir())
    except FileNotFoundError:
        raise UserError(f"{folder}: no such folder; check the path") from None
    except NotADirectoryError:
        raise UserError(f"{folder}: is a file, expected a folder of images") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from None
    images = [file for file in files if _is_image(file)]
    return images, [file for file in files if not _is_image(file)]


def _is_image(file: Path) -> bool:
    """By its name; a hidden one, such as the ._NAME.jpg that macOS leaves, is none."""
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


def _read_bytes(path: PathLike, count: int = -1) -> bytes:
    """The first `count` bytes of a file, or all."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(count)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, expected a file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not data:
        raise UserError(f"{path}: the file is empty; copy or download it again")
    return data


def write_bytes(path: PathLike, data: bytes) -> None:
    """Write any file whole or not at all: to a temporary file beside it, then moved in one step.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        temporary.unlink(missing_ok=True)


def _decode(path: PathLike, data: bytes) -> Image.Image:
    """Decode all pixels; a truncated file is an error, never a half-grey picture."""
    return _load(path, _open(path, data)[0])


def _open(path: PathLike, data: bytes) -> tuple[Image.Image, set[bytes]]:
    """Read a header, and of a PNG check all chunks: the image, and which chunks it has."""
    chunks: set[bytes] = set()
    with _decoding(path):
        image = Image.open(io.BytesIO(data), formats=_PIL_FORMATS)
        if image.format == "PNG":
            chunks = _check_png_chunks(data)
    return image, chunks


def _load(path: PathLike, image: Image.Image) -> Image.Image:
    with _decoding(path):
        image.load()
    return image


@contextmanager
def _decoding(path: PathLike) -> Iterator[None]:
    """Turn what decoders raise into a message that names the file."""
    try:
        yield
    except Image.UnidentifiedImageError:
        raise UserError(f"{path}: not an image, or damaged at its start") from None
    except Image.DecompressionBombError:
        raise UserError(
            f"{path}: more than {2 * Image.MAX_IMAGE_PIXELS} pixels; make the image smaller"
        ) from None
    except Exception as error:
        # Damaged bytes reach the decoders' code in more ways than they document.
        raise UserError(
            f"{path}: truncated or damaged ({error}); copy or download it again"
        ) from None


def _check_png_chunks(data: bytes) -> set[bytes]:
    """Raise unless every chunk up to IEND is there with its checksum; Pillow skips some of them.

    Returns the chunks' names."""
    position, name, names = len(_PNG_SIGNATURE), b"", set()
    while name != b"IEND":
        length, name = struct.unpack(">I4s", data[position : position + 8].ljust(8, b"\0"))
        end = position + 8 + length
        if len(data) < end + 4:
            raise ValueError("its end is missing")
        if zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise ValueError(f"wrong checksum in chunk {name.decode('ascii', 'replace')}")
        names.add(name)
        position = end + 4
    return names


def _plain_png(data: bytes, chunks: set[bytes]) -> bool:
    """Whether it is a PNG of 8 bits a value that is not interlaced (PNG, 11.2.2)."""
    return bool(chunks) and (data[24], data[28]) == (8, 0)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation. Damaged metadata leaves the pixels good: then it is 1, upright."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as in `_decoding`
        return 1


def _encode_png(values: np.ndarray, quick: bool) -> bytes:
    return _encode(values, "PNG", **(_QUICK_PNG if quick else {}))


def _encode(values: np.ndarray, image_format: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, image_format, **options)
    return buffer.getvalue()


def _png_kind(path: PathLike, data: bytes, expected: str) -> tuple[int, int]:
    """(bits a value, colour type) from the IHDR chunk; Pillow's modes do not tell all of them."""
    if not data.startswith(_PNG_SIGNATURE):
        raise UserError(f"{path}: not a PNG file, expected {expected}")
    if len(data) < 26 or data[12:16] != b"IHDR":
        raise UserError(f"{path}: truncated or damaged (no PNG header); copy or download it again")
    return data[24], data[25]


def _describe_png(bits: int, colour_type: int) -> str:
    return f"{bits}-bit {_PNG_COLOUR_TYPES.get(colour_type, 'unknown')}"


def _read_npy(path: PathLike) -> np.ndarray:
    """A .npy file of versions 1 and 2 (NumPy enhancement proposal 1): float32 [H, W]."""
    data = _read_bytes(path)
    if not data.startswith(_NPY_MAGIC):
        raise UserError(f"{path}: not a .npy file; write it with numpy.save")
    file = io.BytesIO(data)
    with _decoding(path):
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, columns_first, dtype = read_header(file)
        shape = tuple(int(side) for side in shape)  # a header may say True
    _check_map(path, "the array", shape, dtype)
    values = data[file.tell() :]
    expected = shape[0] * shape[1] * dtype.itemsize
    if len(values) != expected:
        raise UserError(
            f"{path}: {shape[1]} x {shape[0]} values of {dtype} need {expected} bytes, the file "
            f"has {len(values)}; copy or download it again"
        )
    order = "F" if columns_first else "C"
    return _as_float32(np.frombuffer(values, dtype).reshape(shape, order=order))


def _read_hdf5(path: PathLike, key: str) -> np.ndarray:
    """The dataset `key` of an HDF5 file: float32 [H, W]."""
    _read_bytes(path, 1)  # its messages
    try:
        # Without locks, which file systems over a network often refuse.
        with h5py.File(path, "r", locking=False) as file:
            found = file.get(key) if key else None
            if not isinstance(found, h5py.Dataset):
                there = ", ".join(_hdf5_datasets(file)[:10]) or "nothing"
                raise UserError(f"{path}: has no dataset {key!r}, but {there}; set key to one")
            if found.external or found.is_virtual or found.file.filename != file.filename:
                raise UserError(f"{path}: {key!r} lies in other files; copy the data into this one")
            _check_map(path, key, found.shape or (), found.dtype)
            return _as_float32(found[()])
    except UserError:
        raise
    except Exception as error:  # as in `_decoding`
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: no HDF5 file, or damaged ({reason}); download it again") from None


def _hdf5_datasets(file: h5py.File) -> list[str]:
    """The names of all datasets, in groups too."""
    names: list[str] = []

    def note(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset):
            names.append(f"/{name}")

    file.visititems(note)
    return names


def _read_exr(path: PathLike) -> np.ndarray:
    """An OpenEXR image of one channel, or of equal ones: float32 [H, W]."""
    data = _read_bytes(path)
    if not data.startswith(_EXR_MAGIC):
        raise UserError(f"{path}: not an OpenEXR file")
    position, names = _exr_header(path, data)
    if len(names) == 1 and len(names[0]) == 1:
        # OpenCV knows a single channel as Y only; of Z, Blender's depth, it would make zeros.
        data = data[:position] + b"Y" + data[position + 1 :]
    elif names not in _EXR_COLOURS:
        found = b", ".join(names).decode("ascii")
        raise UserError(f"{path}: has the channels {found}; expected one, or R, G and B alike")
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        raise UserError(
            f"{path}: this OpenCV cannot read OpenEXR files; set OPENCV_IO_ENABLE_OPENEXR=1, or "
            "convert the maps to .npy or .pfm"
        ) from None
    if values is None:
        raise UserError(f"{path}: truncated or damaged; copy or download it again")
    if values.ndim == 3:
        if not np.array_equal(values[..., :3], values[..., :1].repeat(3, 2), equal_nan=True):
            raise UserError(f"{path}: R, G and B differ; expected a map of one value a pixel")
        values = values[..., 0]
    return _as_float32(values)


def _exr_header(path: PathLike, data: bytes) -> tuple[int, list[bytes]]:
    """Where the list of channels starts, and their names; raises where the image is too large.

    An attribute of the header is name, type (each ends with 0), size (int32) and value. A channel
    is its name and 16 bytes, the list ends with 0; a window is the first and the last column and
    row (OpenEXR file layout, "Attribute Layout" and "Predefined Attribute Types").
    """
    begin, channels = _exr_attribute(data, _EXR_CHANNELS)
    _, window = _exr_attribute(data, _EXR_WINDOW)
    if not _EXR_LIST.fullmatch(channels) or len(window) != 16:
        raise UserError(f"{path}: truncated or damaged; copy or download it again")
    left, top, right, bottom = struct.unpack("<iiii", window)
    _check_map(path, "the image", (bottom - top + 1, right - left + 1), np.dtype(np.float32))
    return begin, _EXR_CHANNEL.findall(channels)


def _exr_attribute(data: bytes, name_and_type: bytes) -> tuple[int, bytes]:
    """Where its value starts, and the value, empty if there is none."""
    begin = data.find(name_and_type) + len(name_and_type) + 4
    size = int.from_bytes(data[begin - 4 : begin], "little")
    return begin, data[begin : begin + size] if name_and_type in data else b""


def _read_tiff(path: PathLike) -> np.ndarray:
    """A TIFF of one channel: float32 [H, W]."""
    image = _decode(path, _read_bytes(path))
    if image.mode not in _TIFF_MODES:
        raise UserError(f"{path}: expected one channel of numbers, found {image.mode}")
    with _decoding(path):
        return _as_float32(np.asarray(image))


def _check_map(path: PathLike, what: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise unless it is a map of numbers that is small enough to be meant."""
    if len(shape) != 2 or dtype.kind not in _MAP_DTYPES or min(shape) <= 0:
        raise UserError(f"{path}: {what} is {dtype} {tuple(shape)}, expected numbers [H, W]")
    if shape[0] * shape[1] > 2 * Image.MAX_IMAGE_PIXELS:
        raise UserError(f"{path}: more than {2 * Image.MAX_IMAGE_PIXELS} pixels; make it smaller")


def _as_float32(values: np.ndarray) -> np.ndarray:
    """A contiguous float32 copy; what float32 cannot hold becomes infinite."""
    with np.errstate(over="ignore"):
        return np.array(values, np.float32, order="C")


def _raw_floats(path: PathLike, data: bytes, height: int, width: int, dtype: str) -> np.ndarray:
    if height <= 0 or width <= 0:
        raise UserError(f"{path}: impossible size {width} x {height}; the file is damaged")
    expected = 4 * height * width
    if len(data) != expected:
        raise UserError(
            f"{path}: {width} x {height} values need {expected} bytes, the file has {len(data)};"
            " copy or download it again"
        )
    return np.frombuffer(data, dtype).reshape(height, width).astype(np.float32)


def _float_map_shape(values: np.ndarray) -> tuple[int, int]:
    if values.dtype != np.float32 or values.ndim != 2:
        raise ValueError(f"expected float32 [H, W], got {values.dtype} {values.shape}")
    return values.shape
