"""The benchmarks' data sets, written byte by byte in the layouts and encodings of the downloads.

Nothing here imports the project. Depth is given as it is stored: uint16 in the set's own unit for
Kitti and TUM, float32 metres for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
import scipy.io

from tests import file_formats

FILE_SETS = ("Kitti", "Sintel", "TUM", "ETH3D")
"""Those with one image file and one depth file for each sample."""

DEPTH_SETS = (*FILE_SETS, "NYU")
UNITS = {"Kitti": 256, "TUM": 5000}
CAPS = {"Kitti": 80, "Sintel": 72, "TUM": 10, "ETH3D": 72, "NYU": 10}
"""Metres."""

Frame = tuple[np.ndarray, np.ndarray]
"""(image uint8 [H, W, 3] RGB, stored depth [H, W])"""


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def random_image(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """RGB noise; red is 128 or more, green and blue are less."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 128, (*shape, 3), dtype=np.uint8)
    image[..., 0] += 128
    return image


def stored_depth(name: str, seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Depth as stored: a third of it invalid, in every way that the set's encoding allows."""
    rng = np.random.default_rng(seed)
    cap = CAPS[name]
    invalid = [0, cap, 1.1 * cap, *(() if name in UNITS else (np.nan, np.inf, -np.inf, -1))]
    depth = rng.uniform(0.05, 0.99, shape) * cap
    places = rng.choice(depth.size, size=max(depth.size // 3, 1), replace=False)
    depth.flat[places] = np.resize(invalid, places.size)
    if name in UNITS:
        return np.rint(depth * UNITS[name]).astype(np.uint16)
    return depth.astype(np.float32)


def metres(name: str, stored: np.ndarray) -> np.ndarray:
    """float64 [H, W] of what is stored."""
    return stored.astype(np.float64) / UNITS.get(name, 1)


def paths(name: str, group: str, frame: int) -> tuple[Path, Path]:
    """The image and the depth file below the root."""
    if name == "Kitti":
        stem = f"{frame:010d}.png"
        return Path(group, "image", stem), Path(group, "depth", stem)
    if name == "Sintel":
        stem = f"frame_{frame:04d}"
        return Path("final_left", group, f"{stem}.png"), Path("depth", group, f"{stem}.dpt")
    if name == "ETH3D":
        tail = Path("dslr_images", f"DSC_{frame:04d}.JPG")
        return Path(group, "images") / tail, Path(group, "ground_truth_depth") / tail
    return Path(group, "rgb", f"131187{frame}.50.png"), Path(
        group, "depth", f"131187{frame}.52.png"
    )


def depth_bytes(name: str, stored: np.ndarray) -> bytes:
    encode = {"Sintel": file_formats.dpt, "ETH3D": file_formats.raw_floats}
    return encode.get(name, file_formats.png)(stored)


def write_files(name: str, root: Path, groups: Mapping[str, Sequence[Frame]]) -> None:
    """Write one of FILE_SETS; a group is a drive, scene or sequence."""
    for group, frames in groups.items():
        files = [paths(name, group, number) for number in range(len(frames))]
        for (image, depth), (image_path, depth_path) in zip(frames, files, strict=True):
            put(root / image_path, file_formats.png(image))
            put(root / depth_path, depth_bytes(name, depth))
        if name == "TUM":
            lines = [f"{rgb.relative_to(group)} {d.relative_to(group)}\n" for rgb, d in files]
            text = "# color images, depth maps\n\n" + "".join(lines)
            put(root / group / "associate.txt", text.encode())


def write_nyu(root: Path, frames: Sequence[Frame], tested: Sequence[int]) -> tuple[Path, Path]:
    """nyu.mat and the official kind of splits.mat; all frames have one size.

    MATLAB stores columns first, so its [H, W, 3, N] is [N, 3, W, H] in HDF5.
    """
    height, width = frames[0][1].shape
    images = np.zeros((len(frames), 3, width, height), np.uint8)
    depths = np.zeros((len(frames), width, height), np.float32)
    for n, (image, depth) in enumerate(frames):
        for y in range(height):
            for x in range(width):
                depths[n, x, y] = depth[y, x]
                for c in range(3):
                    images[n, c, x, y] = image[y, x, c]
    root.mkdir(parents=True, exist_ok=True)
    write_hdf5(root / "nyu.mat", images=images, rawDepths=depths)
    scipy.io.savemat(root / "splits.mat", {"testNdxs": np.array([[n] for n in tested], np.uint16)})
    return root / "nyu.mat", root / "splits.mat"


def write_hdf5(path: Path, **arrays: np.ndarray) -> Path:
    """A MATLAB v7.3 file: 512 bytes of MATLAB's own, then HDF5."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for key, values in arrays.items():
            file[key] = values
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    return path


def write_diw(root: Path, images: Mapping[str, np.ndarray], points: Sequence[str]) -> Path:
    """Images by their name without suffix and, in the same order, `yA,xA,yB,xB,relation`."""
    lines = []
    for (name, image), point in zip(images.items(), points, strict=True):
        put(root / "DIW_test" / f"{name}.thumb", file_formats.png(image))
        lines += [f"./DIW_test/{name}.thumb", f"{point},{image.shape[1]},{image.shape[0]}"]
    text = "".join(f"{line}\n" for line in lines)
    return put(root / "DIW_Annotations" / "DIW_test.csv", text.encode())
