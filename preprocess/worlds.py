"""The kinds of scenes: rooms, close clutter, floating things, open ground and streets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import things
from scenes import (
    Builder,
    Camera,
    Light,
    Rng,
    Scene,
    frame_towards,
    look,
    place,
    random_colour,
    random_rotation,
    unit,
    yaw_matrix,
)
from textures import fractal_noise

# Textures much finer than a pixel are only noise; things outdoors are farther away.
OUTDOOR_TILE = (2.0, 12.0)


def _warm_or_cold(rng: Rng) -> np.ndarray:
    return np.clip(1 + rng.normal(0, 0.18) * np.array([1.0, 0.1, -1.0]), 0.4, 1.8)


def _indoor_lights(b: Builder, low: np.ndarray, high: np.ndarray) -> None:
    """A main lamp inside the box from `low` to `high` and weaker ones anywhere, which
    stand in for the light that walls throw back."""
    rng, scale = b.rng, float(np.prod(high - low)) ** (2 / 3)
    for number in range(int(rng.choice([4, 8, 8]))):  # parts of 16 samples: an equal share for each
        lowest = 0.6 if number == 0 else 0.15
        spot = low + (high - low) * rng.uniform([0.1, lowest, 0.1], [0.9, 0.97, 0.9])
        strength = scale * _warm_or_cold(rng)
        strength *= 1.0 if number == 0 else rng.uniform(0.12, 0.6)
        if number > 0 or rng.uniform() < 0.5:
            b.scene.lights.append(Light("point", strength, spot))
            continue
        spot[1] = low[1] + 0.97 * (high[1] - low[1])
        size = rng.uniform(0.1, 0.5, 2)
        down = unit(np.array([0, -1, 0]) + rng.normal(0, 0.3, 3))
        panel = place(spot, [size[0], size[1], 1], frame_towards(down))
        b.scene.lights.append(Light("area", strength / size.prod(), panel))


def _daylight(b: Builder) -> None:
    """A sky with a gradient and clouds, and usually a sun."""
    rng = b.rng
    zenith, horizon = np.array([0.15, 0.32, 0.75]), np.array([0.7, 0.78, 0.85])
    if rng.uniform() < 0.4:
        zenith, horizon = random_colour(rng, 0.2) ** 2.2, random_colour(rng, 0.1) ** 1.2
    zenith, horizon = zenith * rng.uniform(0.5, 1.5), horizon * rng.uniform(0.7, 1.2)
    height = np.linspace(1, -1, 64)[:, None, None]
    sky = horizon + np.clip(height, 0, 1) ** rng.uniform(0.3, 1) * (zenith - horizon)
    clouds = fractal_noise(rng, 64)
    cover = np.clip(clouds - rng.uniform(0.3, 0.9), 0, 1) * 3 * (height[..., 0] > 0)
    sky = sky + np.clip(cover, 0, 1)[..., None] * (rng.uniform(0.5, 1.2) - sky)
    b.scene.sky = np.maximum(sky, 0.02).astype(np.float32)
    # The light of the sky comes from seven directions, not from sampling the panorama: no noise.
    ambient = b.scene.sky[:24].mean(axis=(0, 1)) * rng.uniform(0.6, 1.4)
    for azimuth in np.linspace(0, 2 * np.pi, 7)[:6] + rng.uniform(0, 1):
        down = unit(np.array([np.cos(azimuth), -rng.uniform(0.3, 1.0), np.sin(azimuth)]))
        b.scene.lights.append(Light("sun", ambient / 2, down))
    b.scene.lights.append(Light("sun", ambient / 2, np.array([0.0, -1.0, 0.0])))
    b.scene.visibility = np.exp(rng.uniform(np.log(60), np.log(1500)))
    b.scene.haze = b.scene.sky[28:32].mean(axis=(0, 1))
    strength = rng.choice([0.0, 1.0, 1.0, 1.0]) * rng.uniform(0.8, 4.0) * ambient.mean()
    direction = unit(np.array([rng.normal(), -rng.uniform(0.4, 2.5), rng.normal()]))
    sunlight = strength * np.clip(_warm_or_cold(rng), 0.7, 1.4)
    b.scene.lights.append(Light("sun", sunlight, direction))


def _walls(b: Builder, low: np.ndarray, high: np.ndarray, slant: float) -> None:
    """Floor, ceiling and four walls, wider than the room so that slanted ones still meet."""
    rng, centre, half = b.rng, (low + high) / 2, (high - low) / 2
    reach = 2.5 * float((high - low).max())
    wall = b.material(reach)
    for axis in range(3):
        for sign in (-1.0, 1.0):
            normal = np.zeros(3)
            normal[axis] = -sign
            is_floor = axis == 1 and sign < 0
            if not is_floor:
                normal = unit(normal + rng.normal(0, slant, 3))
            shared = axis != 1 and rng.uniform() < 0.6
            material = wall if shared else b.material(reach)
            edge = centre + half * sign * np.eye(3)[axis]
            b.sheet(edge, normal, (reach, reach), material)


def _wall_things(b: Builder, low: np.ndarray, high: np.ndarray, count: int) -> None:
    """Pictures, boards, boxes and pipes on the walls, at any height."""
    rng = b.rng
    for _ in range(count):
        axis, sign = int(rng.choice([0, 2])), rng.choice([-1.0, 1.0])
        spot = low + (high - low) * rng.uniform(0.05, 0.95, 3)
        spot[axis] = high[axis] if sign > 0 else low[axis]
        size = rng.uniform(0.2, 1.3, 3)
        size[axis] = rng.choice([0.02, 0.05, rng.uniform(0.1, 0.5)])
        spot[axis] -= sign * size[axis] / 2
        if rng.uniform() < 0.15:
            end = spot.copy()
            end[1] = high[1] if rng.uniform() < 0.5 else low[1]
            b.rod(spot, np.add(end, [0, 0.01, 0]), rng.uniform(0.02, 0.12))
        else:
            b.box(spot, size)


def _inside(rng: Rng, low: np.ndarray, high: np.ndarray, margin: float) -> np.ndarray:
    span = np.maximum(high - low - 2 * margin, 0.05)
    return low + margin + span * rng.uniform(0, 1, 3)


def room(rng: Rng) -> Scene:
    """A closed room with furniture, things on the walls and things that hang."""
    b = Builder(rng)
    high = np.array([rng.uniform(2.2, 6), rng.uniform(2.2, 3.4), rng.uniform(4, 10)])
    low = np.zeros(3)
    _walls(b, low, high, rng.choice([0.0, 0.0, 0.03, 0.08]))
    for _ in range(int(rng.integers(3, 9))):
        base = _inside(rng, low, high, 0.3) * [1, 0, 1]
        things.indoor_thing(b, base, rng.uniform(0.4, 1.8))
    _wall_things(b, low, high, int(rng.integers(1, 6)))
    for _ in range(int(rng.integers(0, 3))):
        top = _inside(rng, low, high, 0.3)
        top[1] = high[1]
        things.hanging(b, top, rng.uniform(0.2, 0.55) * high[1])
    if rng.uniform() < 0.3:
        pillar = _inside(rng, low, high, 0.3)
        width = rng.uniform(0.1, 0.6)
        b.rod(pillar * [1, 0, 1], [pillar[0], high[1], pillar[2]], width / 2)
    _indoor_lights(b, low, high)

    def camera(view: Rng) -> Camera:
        # As people photograph rooms: from one end towards the other, walls on both sides.
        axis, end = int(view.choice([0, 2, 2])), int(view.integers(2))
        origin, target = _inside(view, low, high, 0.25), _inside(view, low, high, 0.25)
        origin[axis] = (low, high)[end][axis] + (0.4, -0.4)[end]
        target[axis] = (high, low)[end][axis]
        origin[1] = high[1] * view.uniform(0.3, 0.75)
        target[1] = origin[1] + view.normal(-0.04, 0.12) * np.linalg.norm(target - origin)
        return look(origin, target, view.normal(0, 0.04), view.uniform(60, 95))

    b.scene.camera = camera
    return b.scene


def clutter(rng: Rng) -> Scene:
    """Dense things close to the camera, in a garage, on a table or floating in the air."""
    b = Builder(rng)
    half = np.array([rng.uniform(1.2, 3.0), rng.uniform(1.1, 1.6), rng.uniform(1.2, 3.0)])
    low, high = -half * [1, 0, 1], half * [1, 2, 1]
    slant = rng.choice([0.0, 0.0, 0.03, 0.1])
    _walls(b, low, high, slant)
    floor = rng.choice([0.0, 0.0, rng.uniform(0.4, 1.0)])
    if floor > 0:
        top = high - low
        size = [top[0] * rng.uniform(0.3, 0.7), floor, top[2] * rng.uniform(0.3, 0.7)]
        b.box([0, floor / 2, 0], size, yaw_matrix(rng.uniform(0, 3)))
    middle = rng.choice([things.machine, things.indoor_thing, things.small_thing])
    middle(b, np.array([0, floor, 0]), rng.uniform(0.7, 1.5) / (1 + floor))
    for _ in range(int(rng.integers(4, 10))):
        base = _inside(rng, low, high, 0.2) * [1, 0, 1]
        thing = things.indoor_thing if rng.uniform() < 0.6 else things.small_thing
        thing(b, base, np.exp(rng.uniform(np.log(0.2), np.log(1.9))))
    for _ in range(int(rng.integers(0, 4))):
        top = _inside(rng, low, high, 0.1)
        top[1] = high[1]
        things.hanging(b, top, rng.uniform(0.1, 0.6) * high[1])
    _floating(b, low, high, int(rng.integers(0, 3)))
    _wall_things(b, low, high, int(rng.integers(2, 9)))
    _indoor_lights(b, low, high)

    def camera(view: Rng) -> Camera:
        target = np.array([0, 0.3 * high[1], 0]) + view.normal(0, 0.2, 3) * half
        origin = _inside(view, low, high, 0.15)
        origin[1] = high[1] * view.uniform(0.3, 0.8)
        return look(origin, target, view.normal(0, 0.05), view.uniform(40, 75))

    b.scene.camera = camera
    return b.scene


def _floating(b: Builder, low: np.ndarray, high: np.ndarray, count: int) -> None:
    """Things that rest on nothing: the row of a pixel says nothing about them."""
    rng = b.rng
    for _ in range(count):
        spot = low + (high - low) * rng.uniform(0.05, 0.95, 3)
        size = 0.05 * (high - low).max() * rng.uniform(0.4, 2.0)
        choice = rng.integers(4)
        if choice == 0:
            b.ball(spot, size)
        elif choice == 1:
            b.box(spot, size * rng.uniform(0.3, 2.5, 3), random_rotation(rng))
        elif choice == 2:
            b.rod(spot, spot + rng.normal(size=3) * 2 * size, size * rng.uniform(0.05, 0.5))
        else:
            b.blob(spot, size * rng.uniform(0.4, 1.5, 3))


def floating(rng: Rng) -> Scene:
    """Walls at any angle and things in the air: no floor, no upright, no horizon to rely on."""
    b = Builder(rng)
    size = np.exp(rng.uniform(np.log(2.0), np.log(9.0)))
    low, high = np.full(3, -size / 2), np.full(3, size / 2)
    turn = random_rotation(rng)
    for axis in range(3):
        for sign in (-1.0, 1.0):
            normal = unit(-sign * turn[:, axis] + rng.normal(0, 0.15, 3))
            b.sheet(-normal * size * rng.uniform(0.55, 0.9), normal, (5 * size, 5 * size))
    _floating(b, low, high, int(rng.integers(12, 40)))
    for _ in range(int(rng.integers(0, 6))):
        things.indoor_thing(b, _inside(rng, low, high, 0.1 * size), size * rng.uniform(0.1, 0.3))
    _indoor_lights(b, low, high)

    def camera(view: Rng) -> Camera:
        origin, target = _inside(view, low, high, 0.1), _inside(view, low, high, 0.1)
        return look(origin, target, view.normal(0, 0.15), view.uniform(40, 85))

    b.scene.camera = camera
    return b.scene


def open_ground(rng: Rng) -> Scene:
    """Ground under a sky, with trees, buildings, people and things near and far."""
    b = Builder(rng, tile=OUTDOOR_TILE)
    slope = unit(np.array([0, 1, 0]) + rng.normal(0, 0.03, 3))
    b.sheet(np.zeros(3), slope, (800, 800), b.material(rng.uniform(200, 2000), plain=0.2))

    def ground(x: float, z: float) -> np.ndarray:
        return np.array([x, -(slope[0] * x + slope[2] * z) / slope[1], z])

    for _ in range(int(rng.integers(10, 24))):
        distance = np.exp(rng.uniform(np.log(1.5), np.log(60)))
        angle = rng.uniform(0, 2 * np.pi)
        base = ground(distance * np.cos(angle), distance * np.sin(angle))
        thing = things.OUTDOOR[rng.integers(len(things.OUTDOOR))]
        size = rng.uniform(0.08, 0.4) * distance + rng.uniform(0.3, 1.2)
        if thing is things.person:
            size = rng.uniform(1.4, 1.9)
        thing(b, base, size)
    if rng.uniform() < 0.2:
        _floating(b, np.array([-15.0, 0.5, -15]), np.array([15.0, 9, 15]), int(rng.integers(2, 10)))
    _daylight(b)

    def camera(view: Rng) -> Camera:
        x, z = view.normal(0, 2.0, 2)
        eye = np.exp(view.uniform(np.log(0.7), np.log(4.0)))
        origin = np.add(ground(x, z), [0, eye, 0])
        angle, tilt = view.uniform(0, 2 * np.pi), view.normal(-0.05, 0.12)
        target = np.add(origin, [np.cos(angle), tilt, np.sin(angle)])
        return look(origin, target, view.normal(0, 0.04), view.uniform(40, 80))

    b.scene.camera = camera
    return b.scene


def street(rng: Rng) -> Scene:
    """A road between buildings, trees and parked cars, as a car sees it."""
    b = Builder(rng, tile=OUTDOOR_TILE)
    b.sheet(np.zeros(3), np.array([0, 1.0, 0]), (900, 900), b.material(rng.uniform(300, 2000)))
    width = rng.uniform(3.0, 8.0)
    b.box([0, 0, 100], [2 * width, 0.02, 400], None, b.material(rng.uniform(100, 500)))
    far = width + rng.uniform(2, 8)
    for side in (-1, 1):
        z = rng.uniform(-15, 5)
        while z < 90:
            size = rng.uniform(4, 14)
            if rng.uniform() < 0.75:
                spot = np.array([side * (far + size * rng.uniform(0.5, 1.1)), 0, z])
                rng.choice([things.building, things.building, things.tree])(b, spot, size)
            z += size * rng.uniform(0.6, 1.6)
    for _ in range(int(rng.integers(10, 26))):
        side, z = rng.choice([-1, 1]), np.exp(rng.uniform(np.log(4), np.log(70)))
        x = side * rng.uniform(0.55, 1.0) * far
        thing = rng.choice([things.car, things.car, things.tree, things.post, things.person])
        if thing is things.car:
            turn = yaw_matrix(rng.choice([0, np.pi]) + rng.normal(0, 0.08))
            things.car(b, np.array([side * width * 0.75, 0, z]), rng.uniform(1.3, 2.6), turn)
            continue
        height = {things.tree: (3, 9), things.post: (2, 7), things.person: (1.5, 1.9)}[thing]
        thing(b, np.array([x, 0, z]), rng.uniform(*height))
    if rng.uniform() < 0.2:
        z = rng.uniform(12, 40)
        b.box([0, rng.uniform(5, 7), z], [3 * far, 1.0, rng.uniform(2, 8)])
    _daylight(b)

    def camera(view: Rng) -> Camera:
        origin = np.array([view.uniform(-0.5, 0.5) * width, view.uniform(1.3, 2.0), view.normal()])
        target = np.add(origin, [view.normal(0, 0.12), view.normal(-0.02, 0.05), 1])
        return look(origin, target, view.normal(0, 0.015), view.uniform(60, 90))

    b.scene.camera = camera
    return b.scene


WORLDS: dict[str, Callable[[Rng], Scene]] = {
    "room": room,
    "clutter": clutter,
    "floating": floating,
    "open": open_ground,
    "street": street,
}
