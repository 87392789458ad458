"""Objects to fill scenes with. Each stands on `base` (or hangs from it), is about `size` metres
high and turned by a random yaw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scenes import Builder, Vector, frame_towards, random_rotation, unit, yaw_matrix

Thing = Callable[[Builder, Vector, float], None]


def _local(b: Builder, base: Vector) -> tuple[np.ndarray, Callable[[float, float, float], Vector]]:
    """A random yaw and the function that takes object coordinates to the world."""
    turn = yaw_matrix(b.rng.uniform(0, 2 * np.pi))
    return turn, lambda x, y, z: base + turn @ np.array([x, y, z])


def crates(b: Builder, base: Vector, size: float) -> None:
    """A pile of boxes, each turned a little."""
    count = int(b.rng.integers(1, 5))
    bottom = np.array(base, float)
    for _ in range(count):
        edges = size / count * b.rng.uniform([0.8, 0.8, 0.8], [1.8, 1.1, 1.8])
        b.box(np.add(bottom, [0, edges[1] / 2, 0]), edges, yaw_matrix(b.rng.uniform(0, 6.3)))
        bottom = np.add(bottom, [b.rng.normal(0, 0.1) * size / count, edges[1], 0])


def tipped_box(b: Builder, base: Vector, size: float) -> None:
    """One box in any orientation: no vertical edges to lean on."""
    edges = size * b.rng.uniform(0.25, 1.0, 3)
    b.box(np.add(base, [0, size * 0.4, 0]), edges, random_rotation(b.rng))


def barrel(b: Builder, base: Vector, size: float) -> None:
    """An upright drum or tin, sometimes with something on top."""
    radius = size * b.rng.uniform(0.15, 0.45)
    b.rod(base, np.add(base, [0, size, 0]), radius)
    if b.rng.uniform() < 0.4:
        b.blob(np.add(base, [0, size * 1.1, 0]), size * b.rng.uniform(0.1, 0.3, 3))


def ball(b: Builder, base: Vector, size: float) -> None:
    """A ball on the ground."""
    radius = size / 2 * b.rng.uniform(0.5, 1)
    b.ball(np.add(base, [0, radius, 0]), radius)


def heap(b: Builder, base: Vector, size: float) -> None:
    """Rocks, cushions or sacks."""
    material = b.material(size)
    for _ in range(int(b.rng.integers(2, 6))):
        radii = size * b.rng.uniform(0.15, 0.45, 3)
        offset = b.rng.normal(0, 0.3, 3) * size * [1, 0, 1]
        b.blob(base + offset + np.array([0, radii[1] * 0.7, 0]), radii, material)


def table(b: Builder, base: Vector, size: float) -> None:
    """A table or bench with things on it and sometimes under it."""
    turn, at = _local(b, base)
    width, depth = size * b.rng.uniform([0.9, 0.6], [2.2, 1.2])
    wood = b.material(width)
    thickness = size * b.rng.uniform(0.03, 0.1)
    b.box(at(0, size - thickness / 2, 0), [width, thickness, depth], turn, wood)
    x, z, leg = width * 0.45, depth * 0.42, size * b.rng.uniform(0.02, 0.05)
    for sx, sz in ((-x, -z), (-x, z), (x, -z), (x, z)):
        b.box(at(sx, (size - thickness) / 2, sz), [2 * leg, size - thickness, 2 * leg], turn, wood)
    for _ in range(int(b.rng.integers(1, 6))):
        spot = at(b.rng.uniform(-0.4, 0.4) * width, size, b.rng.uniform(-0.4, 0.4) * depth)
        small_thing(b, spot, size * b.rng.uniform(0.15, 0.5))
    if b.rng.uniform() < 0.4:
        crates(b, at(0, 0, 0), size * 0.5)


def chair(b: Builder, base: Vector, size: float) -> None:
    """A chair with a straight back."""
    turn, at = _local(b, base)
    seat, width = size * 0.48, size * b.rng.uniform(0.4, 0.6)
    wood = b.material(size)
    cloth = b.material(size)
    b.box(at(0, seat, 0), [width, size * 0.06, width], turn, cloth)
    b.box(at(0, (seat + size) / 2, width / 2), [width, size - seat, size * 0.04], turn, cloth)
    for sx in (-0.45, 0.45):
        for sz in (-0.45, 0.45):
            b.rod(at(sx * width, 0, sz * width), at(sx * width, seat, sz * width), size / 50, wood)


def shelf(b: Builder, base: Vector, size: float) -> None:
    """A rack with boards and things on each board."""
    turn, at = _local(b, base)
    width, depth = size * b.rng.uniform([0.5, 0.2], [1.1, 0.3])
    wood = b.material(size)
    levels = int(b.rng.integers(2, 5))
    for side in (-width / 2, width / 2):
        b.box(at(side, size / 2, 0), [size * 0.03, size, depth], turn, wood)
    if b.rng.uniform() < 0.5:
        b.box(at(0, size / 2, depth / 2), [width, size, size * 0.02], turn)
    for level in range(levels + 1):
        height = size * level / levels
        b.box(at(0, height, 0), [width, size * 0.03, depth], turn, wood)
        for _ in range(int(b.rng.integers(0, 4)) if level < levels else 1):
            spot = at(b.rng.uniform(-0.4, 0.4) * width, height + size * 0.015, 0)
            small_thing(b, spot, size / levels * b.rng.uniform(0.3, 0.75))


def cabinet(b: Builder, base: Vector, size: float) -> None:
    """A cupboard or chest, often with something on top."""
    turn, at = _local(b, base)
    width, depth = size * b.rng.uniform([0.4, 0.25], [1.2, 0.6])
    b.box(at(0, size / 2, 0), [width, size, depth], turn)
    if b.rng.uniform() < 0.6:
        small_thing(b, at(0, size, 0), size * b.rng.uniform(0.15, 0.4))


def plant(b: Builder, base: Vector, size: float) -> None:
    """A pot with leaves or a bush."""
    b.cone(base, size * 0.3, size * 0.2, b.rng.uniform(1.0, 1.4))
    b.rod(base, np.add(base, [0, size * 0.6, 0]), size * 0.02)
    leaves = b.material(size)
    for _ in range(int(b.rng.integers(4, 10))):
        centre = np.add(base, [0, size * 0.65, 0]) + b.rng.normal(0, 0.16, 3) * size
        b.blob(centre, size * b.rng.uniform(0.05, 0.22, 3), leaves)


def lamp(b: Builder, base: Vector, size: float) -> None:
    """A standard lamp with a shade."""
    b.rod(base, np.add(base, [0, size, 0]), size * b.rng.uniform(0.01, 0.03))
    b.cone(np.add(base, [0, size * 0.8, 0]), size * 0.25, size * 0.2, b.rng.uniform(0.2, 0.9))
    b.rod(base, np.add(base, [0, size * 0.03, 0]), size * 0.15)


def ladder(b: Builder, base: Vector, size: float) -> None:
    """A leaning ladder or a frame of rods: one sees through it."""
    _, at = _local(b, base)
    lean, width = size * b.rng.uniform(0, 0.4), size * b.rng.uniform(0.1, 0.25)
    steel = b.material(size)
    for side in (-width, width):
        b.rod(at(side, 0, 0), at(side, size, lean), size * 0.015, steel)
    for t in np.linspace(0.1, 0.9, int(b.rng.integers(3, 8))):
        b.rod(at(-width, t * size, t * lean), at(width, t * size, t * lean), size * 0.012, steel)


def person(b: Builder, base: Vector, size: float) -> None:
    """A figure of rounded parts."""
    _, at = _local(b, base)
    cloth, skin = b.material(size), b.material(size, plain=1.0)
    for side in (-0.07, 0.07):
        b.rod(
            at(side * size, 0, b.rng.normal(0, 0.06) * size), at(0, size / 2, 0), size / 22, cloth
        )
        hand = at(2.4 * side * size, size * b.rng.uniform(0.4, 0.9), -b.rng.uniform(0, 0.3) * size)
        b.rod(at(1.6 * side * size, size * 0.78, 0), hand, size / 35)
    b.blob(at(0, size * 0.65, 0), np.array([0.13, 0.2, 0.09]) * size)
    b.ball(at(0, size * 0.93, 0), size * 0.075, skin)


def machine(b: Builder, base: Vector, size: float) -> None:
    """A bicycle-, motorcycle- or engine-like tangle: wheels, a frame of rods, tanks and boxes."""
    turn, at = _local(b, base)
    wheel = size * b.rng.uniform(0.22, 0.36)
    reach = size * b.rng.uniform(0.5, 0.8)
    for x in (-reach, reach):
        b.ring(at(x, wheel, 0), turn @ np.array([0, 0, 1.0]), wheel * 0.87, wheel * 0.13)
        b.rod(at(x, wheel, -0.06 * size), at(x, wheel, 0.06 * size), wheel * 0.25)
        b.rod(at(x, wheel, 0), at(0.6 * x, size * 0.95, 0), size * 0.025)
    steel = b.material(size)
    for _ in range(int(b.rng.integers(5, 12))):
        ends = b.rng.uniform([-0.6, 0.25, -0.15], [0.6, 0.95, 0.15], (2, 3)) * size
        b.rod(at(*ends[0]), at(*ends[1]), size * b.rng.uniform(0.01, 0.04), steel)
    for _ in range(int(b.rng.integers(2, 5))):
        centre = b.rng.uniform([-0.4, 0.35, -0.1], [0.4, 0.8, 0.1]) * size
        b.blob(at(*centre), size * b.rng.uniform(0.06, 0.25, 3))
    b.box(at(0, 0.4 * size, 0), size * b.rng.uniform(0.15, 0.4, 3), turn)


def bundle(b: Builder, base: Vector, size: float) -> None:
    """Poles, pipes or tools that lean against each other."""
    for _ in range(int(b.rng.integers(2, 7))):
        foot = np.add(base, b.rng.normal(0, 0.12, 3) * size * [1, 0, 1])
        tip = foot + size * np.array([b.rng.normal(0, 0.25), b.rng.uniform(0.6, 1.2), 0])
        b.rod(foot, tip, size * b.rng.uniform(0.01, 0.05))


def panel(b: Builder, base: Vector, size: float) -> None:
    """A board or screen that stands or leans."""
    turn, at = _local(b, base)
    normal = turn @ unit(np.array([0, b.rng.uniform(-0.4, 0.4), 1]))
    edges = [size * b.rng.uniform(0.5, 1.6), size, size * 0.03]
    b.box(at(0, size / 2, 0), edges, frame_towards(normal))


def tree(b: Builder, base: Vector, size: float) -> None:
    """A tree: a trunk with a conical or an uneven crown."""
    trunk = np.add(base, b.rng.normal(0, 0.06, 3) * size * [1, 0, 1] + [0, size * 0.6, 0])
    b.rod(base, trunk, size * b.rng.uniform(0.015, 0.05))
    if b.rng.uniform() < 0.25:
        b.cone(np.add(base, [0, size * 0.2, 0]), size * 0.8, size * b.rng.uniform(0.15, 0.3))
        return
    leaves = b.material(size, plain=0.1)
    spread = b.rng.uniform(0.08, 0.18)
    for _ in range(int(b.rng.integers(3, 9))):
        centre = trunk + b.rng.normal(0, spread, 3) * size
        b.blob(centre, size * b.rng.uniform(0.08, 0.25, 3), leaves)


def car(b: Builder, base: Vector, size: float, turn: np.ndarray | None = None) -> None:
    """A car, van or truck, `size` metres high."""
    turn = yaw_matrix(b.rng.uniform(0, 2 * np.pi)) if turn is None else turn
    paint, glass = b.material(size, plain=0.8), b.material(size, plain=0.8)
    length, width, waist = size * np.array([b.rng.uniform(2.2, 3.2), 1.15, b.rng.uniform(0.5, 0.7)])

    def at(x: float, y: float, z: float) -> Vector:
        return base + turn @ np.array([x, y, z])

    b.box(at(0, waist / 2 + size * 0.12, 0), [width, waist, length], turn, paint)
    cabin = length * b.rng.uniform(0.4, 0.85)
    b.box(at(0, (waist + size) / 2, 0), [width * 0.88, size - waist, cabin], turn, glass)
    b.box(at(0, size * 0.99, 0), [width * 0.86, size * 0.03, cabin], turn, paint)
    tyre = b.material(size, plain=1.0)
    for x in (-width / 2, width / 2):
        for z in (-length * 0.32, length * 0.32):
            centre, axle = at(x, size * 0.2, z), turn @ np.array([0.06 * size, 0, 0])
            b.rod(centre - axle, centre + axle, size * 0.2, tyre)


def building(b: Builder, base: Vector, size: float) -> None:
    """A block, sometimes under a wider roof."""
    width, depth = size * b.rng.uniform(0.5, 1.8, 2)
    turn = yaw_matrix(b.rng.normal(0, 0.15))
    b.box(np.add(base, [0, size / 2, 0]), [width, size, depth], turn, b.material(size, plain=0.1))
    if b.rng.uniform() < 0.4:
        b.box(np.add(base, [0, size, 0]), [width * 1.08, size * 0.06, depth * 1.08], turn)


def post(b: Builder, base: Vector, size: float) -> None:
    """A street lamp, sign or mast."""
    top = np.add(base, [0, size, 0])
    b.rod(base, top, size * b.rng.uniform(0.01, 0.025))
    arm = yaw_matrix(b.rng.uniform(0, 6.3)) @ np.array([size * b.rng.uniform(0.1, 0.35), 0, 0])
    if b.rng.uniform() < 0.5:
        b.rod(top, top + arm, size * 0.01)
        b.box(top + arm, [size * 0.08, size * 0.03, size * 0.08])
    else:
        facing = np.array([arm[2], 0.0, -arm[0]])
        b.box(top, size * np.array([0.2, 0.2, 0.01]), frame_towards(facing))


def fence(b: Builder, base: Vector, size: float) -> None:
    """Posts with two rails."""
    turn, at = _local(b, base)
    wood, gap = b.material(size), size * b.rng.uniform(0.3, 1.0)
    count = int(b.rng.integers(4, 10))
    for i in range(count):
        b.box(at(i * gap, size / 2, 0), [size * 0.08, size, size * 0.08], turn, wood)
    for height in (0.4, 0.85):
        middle = at((count - 1) * gap / 2, height * size, 0)
        b.box(middle, [count * gap, size * 0.1, size * 0.04], turn, wood)


def hanging(b: Builder, top: Vector, size: float) -> None:
    """Something that hangs from `top`, its lower end `size` metres below."""
    top, low = np.asarray(top, float), np.subtract(top, [0, size, 0])
    b.rod(top, low, b.rng.uniform(0.004, 0.02))
    body = b.rng.uniform(0.08, 0.35)
    choice = b.rng.integers(5)
    if choice == 0:
        b.ball(low, body)
    elif choice == 1:
        b.cone(low - [0, body, 0], 1.4 * body, body, 0.3)
    elif choice == 2:
        b.box(low, 2 * body * b.rng.uniform(0.4, 1.5, 3), random_rotation(b.rng))
    elif choice == 3:
        b.sheet(low, b.rng.normal(size=3) * [1, 0.3, 1], (4 * body, 3 * body))
    else:
        b.ring(low - [0, body, 0], b.rng.normal(size=3), body, body * b.rng.uniform(0.1, 0.3))


SMALL: tuple[Thing, ...] = (crates, barrel, ball, heap, tipped_box, tipped_box, plant, panel)
INDOOR: tuple[Thing, ...] = (
    crates,
    table,
    table,
    chair,
    chair,
    shelf,
    shelf,
    cabinet,
    plant,
    lamp,
    ladder,
    person,
    machine,
    bundle,
    barrel,
    heap,
    panel,
    tipped_box,
)
OUTDOOR: tuple[Thing, ...] = (
    tree,
    tree,
    tree,
    car,
    person,
    person,
    building,
    building,
    post,
    fence,
    heap,
    crates,
    barrel,
    tipped_box,
    machine,
)


def small_thing(b: Builder, base: Vector, size: float) -> None:
    """Any of `SMALL`."""
    SMALL[b.rng.integers(len(SMALL))](b, base, size)


def indoor_thing(b: Builder, base: Vector, size: float) -> None:
    """Any of `INDOOR`."""
    INDOOR[b.rng.integers(len(INDOOR))](b, base, size)
