"""Random procedural textures: uint8 [N, N, 3] sRGB pictures from a NumPy generator.

Every family tiles or at least does not jar when it repeats, and every one appears in soft and in
strong contrast, so that no texture goes with one kind of surface or one distance.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import cv2
import numpy as np

Rng = np.random.Generator
SIZE = 128


def random_colour(rng: Rng, vivid: float) -> np.ndarray:
    """Random sRGB colour, float [3] in [0, 1]; with probability `vivid` a saturated one, else one
    of the greys, browns and pale tones that most surfaces have."""
    hue = rng.uniform()
    if rng.uniform() < vivid:
        saturation, value = rng.uniform(0.3, 0.85), rng.uniform(0.3, 0.95)
    else:
        hue = rng.choice([hue, rng.normal(0.09, 0.04) % 1.0])
        saturation, value = rng.beta(1.5, 5.0), rng.uniform(0.12, 0.95)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def _palette(rng: Rng, count: int, vivid: float) -> np.ndarray:
    """`count` colours, float [count, 3]; half of the time all close to the first."""
    colours = np.stack([random_colour(rng, vivid) for _ in range(count)])
    if rng.uniform() < 0.5:
        colours = colours[0] + rng.uniform(0.08, 0.4) * (colours - colours[0])
    return colours


def fractal_noise(rng: Rng, size: int = SIZE, stretch: float = 1.0) -> np.ndarray:
    """Sum of octaves of smooth noise, float [size, size] in [0, 1]; `stretch` > 1 draws it out
    along the columns, as in wood or brushed metal."""
    first, roughness = int(rng.integers(2, 6)), rng.uniform(0.35, 0.8)
    total, weight, cells = np.zeros((size, size)), 1.0, first
    while cells < size:
        rows = max(1, round(cells / stretch))
        grid = rng.uniform(-1, 1, (rows, cells)).astype(np.float32)
        total += weight * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
        weight, cells = weight * roughness, cells * 2
    total -= total.min()
    return total / max(total.max(), 1e-9)


def _coordinates(size: int) -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(size) / size
    return np.meshgrid(axis, axis)


def _blend(mask: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first + mask[..., None] * (second - first)


def _noise(rng: Rng, vivid: float) -> np.ndarray:
    colours = _palette(rng, 3, vivid)
    value = fractal_noise(rng)
    low, high = np.clip(2 * value, 0, 1), np.clip(2 * value - 1, 0, 1)
    return _blend(high, _blend(low, colours[0], colours[1]), colours[2])


def _checker(rng: Rng, vivid: float) -> np.ndarray:
    x, y = _coordinates(SIZE)
    columns, rows = rng.integers(2, 9, 2)
    cell = (np.floor(x * columns) + np.floor(y * rows)) % 2
    return _blend(cell, *_palette(rng, 2, vivid))


def _stripes(rng: Rng, vivid: float) -> np.ndarray:
    x, y = _coordinates(SIZE)
    kx, ky = rng.integers(0, 9), rng.integers(0, 9)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (kx * x + max(ky, 1 - kx) * y + rng.uniform()))
    if rng.uniform() < 0.6:
        wave = (wave > rng.uniform(0.2, 0.8)).astype(float)
    return _blend(wave, *_palette(rng, 2, vivid))


def _bricks(rng: Rng, vivid: float) -> np.ndarray:
    """Bricks, tiles or planks: cells of varying colour between joints."""
    x, y = _coordinates(SIZE)
    columns, rows = rng.integers(1, 7), rng.integers(3, 12)
    row = np.floor(y * rows)
    shifted = (x * columns + (row % 2) * rng.choice([0.0, 0.5])) % columns
    cell = (row * columns + np.floor(shifted)).astype(int)
    tint = rng.normal(1.0, rng.uniform(0.02, 0.25), (rows * columns + 1, 1))
    joint_x, joint_y = rng.uniform(0.01, 0.06) * columns, rng.uniform(0.02, 0.08) * rows / 2
    joint = ((shifted % 1) < joint_x) | (((y * rows) % 1) < joint_y)
    colours = _palette(rng, 2, vivid)
    return np.where(joint[..., None], colours[1], colours[0] * tint[cell])


def _blotches(rng: Rng, vivid: float) -> np.ndarray:
    colours = _palette(rng, 3, vivid)
    first = fractal_noise(rng) > rng.uniform(0.4, 0.6)
    second = fractal_noise(rng) > rng.uniform(0.5, 0.7)
    return _blend(second.astype(float), _blend(first.astype(float), *colours[:2]), colours[2])


def _wood(rng: Rng, vivid: float) -> np.ndarray:
    grain = fractal_noise(rng, stretch=rng.uniform(6, 20))
    rings = 0.5 + 0.5 * np.sin(grain * rng.uniform(5, 40))
    picture = _blend(rings, *_palette(rng, 2, vivid))
    return picture if rng.uniform() < 0.5 else picture.transpose(1, 0, 2)


def _text(rng: Rng, vivid: float) -> np.ndarray:
    """Lines of small dark marks on a page, as on labels, posters and book backs."""
    page, ink = _palette(rng, 2, vivid)
    picture = np.tile(page, (SIZE, SIZE, 1))
    line = int(rng.integers(5, 16))
    for top in range(2, SIZE - line, line + int(rng.integers(1, 5))):
        left = int(rng.integers(1, 20))
        while left < SIZE - 4:
            width = int(rng.integers(1, max(2, line // 2)))
            start = top + int(rng.integers(0, max(1, line // 2)))
            if rng.uniform() < 0.8:
                picture[start : top + line - 1, left : left + width] = ink
            left += width + int(rng.integers(1, max(2, line // 2)))
    return picture


def _collage(rng: Rng, vivid: float) -> np.ndarray:
    """Overlapping shapes: a picture on a wall, a printed box. Its edges are not depth edges."""
    colours = _palette(rng, 6, vivid)
    picture = np.tile(colours[0], (SIZE, SIZE, 1)).astype(np.float32)
    for _ in range(int(rng.integers(3, 14))):
        colour = tuple(float(c) for c in colours[rng.integers(1, 6)])
        a, b = (tuple(int(c) for c in rng.integers(0, SIZE, 2)) for _ in range(2))
        shape = rng.integers(3)
        if shape == 0:
            cv2.rectangle(picture, a, b, colour, -1)
        elif shape == 1:
            cv2.circle(picture, a, int(rng.integers(3, SIZE // 3)), colour, -1)
        else:
            cv2.line(picture, a, b, colour, int(rng.integers(1, 8)))
    return picture.astype(float)


def _windows(rng: Rng, vivid: float) -> np.ndarray:
    """A facade or a cupboard front: a grid of panels with frames."""
    wall, glass, frame = _palette(rng, 3, vivid)
    x, y = _coordinates(SIZE)
    columns, rows = rng.integers(2, 6, 2)
    u, v = (x * columns) % 1, (y * rows) % 1
    edge = np.maximum(np.abs(u - 0.5), np.abs(v - 0.5))
    inner = rng.uniform(0.2, 0.42)
    picture = np.where((edge < inner + 0.05)[..., None], frame, wall)
    return np.where((edge < inner)[..., None], glass, picture)


def _gradient(rng: Rng, vivid: float) -> np.ndarray:
    x, y = _coordinates(SIZE)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = 0.5 + 0.5 * np.sin(np.cos(angle) * x * 3 + np.sin(angle) * y * 3)
    return _blend(ramp, *_palette(rng, 2, vivid))


def _speckle(rng: Rng, vivid: float) -> np.ndarray:
    """Gravel, terrazzo, carpet: noise with no coarse structure."""
    cells = int(rng.integers(SIZE // 4, SIZE + 1))
    grid = rng.uniform(0, 1, (cells, cells)).astype(np.float32)
    return _blend(cv2.resize(grid, (SIZE, SIZE)).astype(float), *_palette(rng, 2, vivid))


_FAMILIES: tuple[Callable[[Rng, float], np.ndarray], ...] = (
    _noise,
    _noise,
    _checker,
    _stripes,
    _bricks,
    _bricks,
    _blotches,
    _wood,
    _text,
    _collage,
    _collage,
    _windows,
    _gradient,
    _speckle,
)


def random_texture(rng: Rng, vivid: float) -> np.ndarray:
    """One random texture, uint8 [SIZE, SIZE, 3] sRGB, `vivid` the share of saturated colours; half
    of them with dirt and fading on top."""
    picture = _FAMILIES[rng.integers(len(_FAMILIES))](rng, vivid)
    if rng.uniform() < 0.5:
        dirt = 1 + rng.uniform(0.05, 0.5) * (fractal_noise(rng) - 0.5)
        picture = picture * dirt[..., None]
    return (np.clip(picture, 0.02, 0.98) * 255).round().astype(np.uint8)
