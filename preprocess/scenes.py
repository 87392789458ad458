"""Random scenes as plain data (NumPy only): shapes, materials, lights and where a camera may stand.

Axes: x right, y up, z forward, metres. A scene is a function of the generator it is built from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from textures import Rng, random_colour, random_texture

Vector = np.ndarray
Mesh = tuple[np.ndarray, np.ndarray, np.ndarray]  # vertices [V,3], faces [F,3], texcoords [V,2]


@dataclass(frozen=True)
class Material:
    """What a surface looks like: `texture` uint8 [N,N,3] sRGB repeated `repeat` times, or a plain
    `colour` (linear RGB); `finish` is "matte", "glossy" or "metal"."""

    colour: Vector
    texture: np.ndarray | None
    repeat: tuple[float, float]
    finish: str
    roughness: float


@dataclass(frozen=True)
class Shape:
    """A unit shape and its place: `kind` is "cube", "sphere" (radius 1), "cylinder" (radius 1, z
    from 0 to 1), "disk", "rectangle" (both in the plane z = 0) or "mesh"."""

    kind: str
    to_world: np.ndarray
    material: int
    mesh: Mesh | None = None

    def contains(self, point: Vector, margin: float) -> bool:
        """Whether a point is inside the shape's box, grown by `margin` metres."""
        if self.kind in ("rectangle", "disk"):
            return False
        local = np.linalg.solve(self.to_world, np.append(point, 1.0))[:3]
        if self.kind == "cylinder":
            local[2] = 2 * local[2] - 1
        reach = 1 + margin / np.linalg.norm(self.to_world[:3, :3], axis=0)
        return bool((np.abs(local) < reach).all())


@dataclass(frozen=True)
class Light:
    """`kind` "point" has its position in `place`, "area" the [4, 4] matrix of a rectangle, "sun"
    its direction; `value` is linear RGB."""

    kind: str
    value: np.ndarray
    place: np.ndarray


@dataclass(frozen=True)
class Camera:
    """Pinhole camera: place, rotation (columns right, up, forward) and horizontal field of view."""

    origin: Vector
    rotation: np.ndarray
    fov: float


@dataclass
class Scene:
    """Everything the renderer needs; `camera` draws one candidate place to look from, `sky` is a
    panorama, linear RGB float32 [H, W, 3] from zenith to nadir (None: closed on all sides). What
    is `visibility` metres away has almost faded into the linear RGB `haze`."""

    rng: Rng
    camera: Callable[[Rng], Camera]
    shapes: list[Shape] = field(default_factory=list)
    materials: list[Material] = field(default_factory=list)
    lights: list[Light] = field(default_factory=list)
    sky: np.ndarray | None = None
    visibility: float = np.inf
    haze: np.ndarray = field(default_factory=lambda: np.zeros(3))


def unit(vector: Vector) -> Vector:
    """The vector of length 1 in the same direction."""
    return np.asarray(vector, float) / np.linalg.norm(vector)


def yaw_matrix(angle: float) -> np.ndarray:
    """Rotation by `angle` radians about the vertical axis, [3, 3]."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def frame_towards(direction: Vector) -> np.ndarray:
    """A rotation whose third column is `direction`, [3, 3]."""
    z = unit(direction)
    helper = np.array([0.0, 1.0, 0.0]) if abs(z[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    x = unit(np.cross(helper, z))
    return np.stack([x, np.cross(z, x), z], axis=1)


def random_rotation(rng: Rng) -> np.ndarray:
    """A rotation uniform over all orientations, [3, 3]."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    q[:, 0] *= np.linalg.det(q)
    return q


def place(centre: Vector, size: Vector | float, rotation: np.ndarray | None = None) -> np.ndarray:
    """The [4, 4] matrix that scales a unit shape by `size`, turns it and moves it to `centre`."""
    matrix = np.eye(4)
    rotation = np.eye(3) if rotation is None else rotation
    matrix[:3, :3] = rotation * np.broadcast_to(np.asarray(size, float), 3)
    matrix[:3, 3] = centre
    return matrix


def look(origin: Vector, target: Vector, roll: float, fov: float) -> Camera:
    """A camera at `origin` that looks at `target`, turned by `roll` radians about its axis."""
    forward = unit(np.asarray(target) - origin)
    if abs(forward[1]) > 0.98:
        forward = unit(forward + np.array([0.3, 0.0, 0.3]))
    right = unit(np.cross([0.0, 1.0, 0.0], forward))
    up = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    rotation = np.stack([c * right + s * up, c * up - s * right, forward], axis=1)
    return Camera(np.asarray(origin, float), rotation, fov)


class Builder:
    """Adds shapes to a scene, each with a material from the scene's own small set of textures."""

    def __init__(self, rng: Rng, tile: tuple[float, float] = (0.6, 4.0)) -> None:
        """`tile` is the range of the edge length of a texture, in metres."""
        self.rng = rng
        self.tile = tile
        self.scene = Scene(rng, camera=lambda _: look(np.zeros(3), np.array([0, 0, 1.0]), 0, 60))
        self.vivid = float(rng.choice([0.03, 0.08, 0.2]))
        self.textures = [random_texture(rng, self.vivid) for _ in range(int(rng.integers(8, 16)))]
        self.plainness = rng.uniform(0.35, 0.8)

    def material(self, size: float = 1.0, plain: float | None = None) -> int:
        """A new material for a surface `size` metres wide; returns its index."""
        rng = self.rng
        texture = None
        if rng.uniform() > (self.plainness if plain is None else plain):
            texture = self.textures[rng.integers(len(self.textures))]
        grain = max(0.4, size / np.exp(rng.uniform(*np.log(self.tile))))
        repeat = (grain, grain * rng.choice([1.0, 1.0, 0.5, 2.0]))
        finish = str(rng.choice(["matte", "glossy", "metal"], p=[0.75, 0.18, 0.07]))
        colour = random_colour(rng, 0.03 if size > 4 else self.vivid + 0.05) ** 2.2
        self.scene.materials.append(
            Material(colour, texture, repeat, finish, rng.uniform(0.08, 0.4))
        )
        return len(self.scene.materials) - 1

    def add(
        self, kind: str, to_world: np.ndarray, material: int | None = None, mesh: Mesh | None = None
    ) -> None:
        """Any shape, as in `Shape`; without a `material` it gets a new one."""
        if material is None:
            material = self.material(2 * float(np.linalg.norm(to_world[:3, :3], axis=0).max()))
        self.scene.shapes.append(Shape(kind, to_world, material, mesh))

    def box(
        self,
        centre: Vector,
        size: Vector,
        rotation: np.ndarray | None = None,
        material: int | None = None,
    ) -> None:
        """A box of full edge lengths `size`."""
        self.add("cube", place(centre, np.asarray(size) / 2, rotation), material)

    def ball(self, centre: Vector, radius: float, material: int | None = None) -> None:
        """A sphere."""
        self.add("sphere", place(centre, radius), material)

    def rod(self, start: Vector, end: Vector, radius: float, material: int | None = None) -> None:
        """A cylinder from `start` to `end`, closed by disks."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        axis = frame_towards(end - start)
        length = float(np.linalg.norm(end - start))
        material = self.material(length) if material is None else material
        self.add("cylinder", place(start, [radius, radius, length], axis), material)
        for centre in (start, end):
            self.add("disk", place(centre, radius, axis), material)

    def blob(self, centre: Vector, radii: Vector, material: int | None = None) -> None:
        """An uneven ellipsoid: cushion, bush, rock, fruit."""
        mesh = blob_mesh(self.rng, self.rng.choice([0.0, 0.1, 0.25]))
        rotation = yaw_matrix(self.rng.uniform(0, 6.3))
        self.add("mesh", place(centre, radii, rotation), material, mesh)

    def ring(self, centre: Vector, axis: Vector, radius: float, thickness: float) -> None:
        """A wheel or hoop: a torus about `axis`."""
        mesh = torus_mesh(thickness / radius)
        self.add("mesh", place(centre, radius, frame_towards(axis)), None, mesh)

    def cone(self, base: Vector, height: float, radius: float, top: float = 0.0) -> None:
        """An upright cone, cut off at the relative radius `top`."""
        upright = frame_towards(np.array([0.0, 1.0, 0.0]))
        self.add("mesh", place(base, [radius, radius, height], upright), None, cone_mesh(top))

    def sheet(
        self, centre: Vector, normal: Vector, size: tuple[float, float], material: int | None = None
    ) -> None:
        """A rectangle of full edge lengths `size`, facing `normal`."""
        self.add(
            "rectangle",
            place(centre, [size[0] / 2, size[1] / 2, 1.0], frame_towards(normal)),
            material if material is not None else self.material(max(size)),
        )


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    corner = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).ravel()
    below = corner + columns + 1
    first = np.stack([corner, below, corner + 1], axis=1)
    second = np.stack([corner + 1, below, below + 1], axis=1)
    return np.concatenate([first, second])


def _surface(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parameters u, v in [0, 1] of a (rows+1) x (columns+1) grid, flat, and its triangles."""
    v, u = np.meshgrid(np.linspace(0, 1, rows + 1), np.linspace(0, 1, columns + 1), indexing="ij")
    return u.ravel(), v.ravel(), _grid_faces(rows, columns)


def blob_mesh(rng: Rng, unevenness: float) -> Mesh:
    """A sphere of radius 1 with bumps up to `unevenness` high."""
    u, v, faces = _surface(12, 20)
    theta, phi = np.pi * v, 2 * np.pi * u
    direction = np.stack(
        [np.sin(theta) * np.cos(phi), np.cos(theta), np.sin(theta) * np.sin(phi)], axis=1
    )
    waves = rng.normal(0, 3.0, (5, 3))
    bumps = np.sin(direction @ waves.T + rng.uniform(0, 6.3, 5)).mean(axis=1)
    return direction * (1 + unevenness * bumps)[:, None], faces, np.stack([u, v], axis=1)


def torus_mesh(thickness: float) -> Mesh:
    """A torus about the z axis: radius 1, its tube's radius `thickness`."""
    u, v, faces = _surface(8, 24)
    phi, theta = 2 * np.pi * u, 2 * np.pi * v
    distance = 1 + thickness * np.cos(theta)
    points = [distance * np.cos(phi), distance * np.sin(phi), thickness * np.sin(theta)]
    return np.stack(points, axis=1), faces, np.stack([4 * u, v], axis=1)


def cone_mesh(top: float) -> Mesh:
    """An open cone about the z axis: radius 1 at z = 0, `top` at z = 1."""
    u, v, faces = _surface(1, 20)
    phi, radius = 2 * np.pi * u, 1 + v * (top - 1)
    points = [radius * np.cos(phi), radius * np.sin(phi), v]
    return np.stack(points, axis=1), faces, np.stack([u, v], axis=1)
