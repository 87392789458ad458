"""Files put together byte by byte from their specifications, for tests of the code that reads them.

Nothing here imports the project.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_COLOUR_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}
"""Channels -> colour type (PNG specification, section 11.2.2)."""


def png_chunk(name: bytes, data: bytes) -> bytes:
    """Length, name, data, CRC-32 of name and data (PNG specification, section 5.3)."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(
    values: np.ndarray, palette: np.ndarray | None = None, extra: tuple[bytes, ...] = ()
) -> bytes:
    """A PNG file of uint8 or uint16 values [H, W] or [H, W, C].

    Args:
        values: grey, grey + alpha, RGB or RGBA; indices where a palette is given.
        palette: uint8 [N, 3].
        extra: complete chunks to put before the pixels.
    """
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    colour_type = PNG_COLOUR_TYPES[channels] if palette is None else 3
    header = struct.pack(">IIBBBBB", width, height, 8 * values.itemsize, colour_type, 0, 0, 0)
    big_endian = values.astype(f">u{values.itemsize}")
    rows = b"".join(b"\0" + row.tobytes() for row in big_endian)  # filter 0: no prediction
    chunks = [png_chunk(b"IHDR", header), *extra]
    if palette is not None:
        chunks.append(png_chunk(b"PLTE", palette.astype(np.uint8).tobytes()))
    chunks += [png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND", b"")]
    return PNG_SIGNATURE + b"".join(chunks)


def exif(orientation: int) -> bytes:
    """A big-endian TIFF structure with one entry, 0x0112 Orientation (EXIF 2.32, section 4.6)."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", 1) + entry + struct.pack(">I", 0)


def dpt(depth: np.ndarray) -> bytes:
    """A Sintel depth file: float32 202021.25 (the bytes 'PIEH'), int32 width and height, rows."""
    height, width = depth.shape
    values = [float(value) for value in depth.ravel()]
    return b"PIEH" + struct.pack(f"<ii{len(values)}f", width, height, *values)


def pfm(values: np.ndarray, little_endian: bool = True) -> bytes:
    """A grey PFM file: text header, then float32 rows from the bottom to the top."""
    height, width = values.shape
    header = f"Pf\n{width} {height}\n{'-1.0' if little_endian else '1.0'}\n".encode()
    order = "<" if little_endian else ">"
    rows = [struct.pack(f"{order}{width}f", *map(float, row)) for row in values]
    return header + b"".join(reversed(rows))


def raw_floats(values: np.ndarray) -> bytes:
    """A depth file of ETH3D: little-endian float32, row after row, nothing else."""
    return struct.pack(f"<{values.size}f", *map(float, values.ravel()))
