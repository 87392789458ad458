"""Random scenes to pictures and exact z-depth with Mitsuba 3 (variant `scalar_rgb`, one thread)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import drjit
import mitsuba as mi
import numpy as np
from scenes import Camera, Light, Material, Rng, Scene, Shape
from worlds import WORLDS

from src.errors import UserError

mi.set_variant("scalar_rgb")
mi.set_log_level(mi.LogLevel.Error)
# Processes render in parallel, one scene each. One thread and a fixed block size also keep the
# random numbers of every pixel the same, however many cores there are.
drjit.set_thread_count(1)
cv2.setNumThreads(1)
BLOCK_SIZE = 32
NEAR_CLIP = 0.01  # metres

NEAREST = 0.5  # metres; a view with more than a few pixels closer than this is in something
EDGES = 0.015  # least share of neighbouring pixels with a jump of depth between them
PREVIEW_SAMPLES = 4
TRIES = 24  # camera places tried in one scene
ATTEMPTS = 50  # scenes tried for one view; more than a few are rare


@dataclass(frozen=True)
class View:
    """A picture and its depth: `image` uint8 [H, W, 3] RGB, `depth` float32 [H, W], z-depth in
    metres (inf = sky), `focal` in pixels."""

    image: np.ndarray
    depth: np.ndarray
    focal: float


def _texture(material: Material) -> dict[str, Any]:
    if material.texture is None:
        return {"type": "rgb", "value": [float(c) for c in material.colour]}
    scale = np.diag([*material.repeat, 1.0, 1.0])
    return {
        "type": "bitmap",
        "bitmap": mi.Bitmap(material.texture),
        "to_uv": mi.ScalarTransform4f(scale),
    }


def _bsdf(material: Material) -> dict[str, Any]:
    reflectance = _texture(material)
    if material.finish == "glossy":
        # "roughplastic" would do as well, but tabulates its transmittance for 80 ms.
        inner = {
            "type": "principled",
            "base_color": reflectance,
            "roughness": material.roughness + 0.1,
            "specular": 0.6,
        }
    elif material.finish == "metal":
        inner = {
            "type": "principled",
            "base_color": reflectance,
            "roughness": material.roughness + 0.2,
            "metallic": 0.5,
        }
    else:
        inner = {"type": "diffuse", "reflectance": reflectance}
    return {"type": "twosided", "inner": inner}


def _mesh(shape: Shape, bsdf: Any) -> mi.Mesh:
    vertices, faces, texcoords = shape.mesh
    properties = mi.Properties()
    properties["bsdf"] = bsdf
    mesh = mi.Mesh("mesh", len(vertices), len(faces), properties, True, True)
    world = vertices @ shape.to_world[:3, :3].T + shape.to_world[:3, 3]
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = world.astype(np.float32).ravel()
    parameters["faces"] = faces.astype(np.uint32).ravel()
    parameters["vertex_texcoords"] = texcoords.astype(np.float32).ravel()
    parameters.update()
    return mesh


def _shape(shape: Shape, bsdf: Any) -> Any:
    if shape.kind == "mesh":
        return _mesh(shape, bsdf)
    return {"type": shape.kind, "to_world": mi.ScalarTransform4f(shape.to_world), "bsdf": bsdf}


def _light(light: Light) -> dict[str, Any]:
    value = {"type": "rgb", "value": [float(c) for c in light.value]}
    if light.kind == "point":
        return {"type": "point", "position": light.place.tolist(), "intensity": value}
    if light.kind == "sun":
        return {"type": "directional", "direction": light.place.tolist(), "irradiance": value}
    emitter = {"type": "area", "radiance": value}
    transform = mi.ScalarTransform4f(light.place)
    return {"type": "rectangle", "to_world": transform, "emitter": emitter}


def load_scene(scene: Scene) -> mi.Scene:
    """Build the Mitsuba scene; the fixed order of the dictionary fixes the order of everything."""
    bsdfs = [mi.load_dict(_bsdf(material)) for material in scene.materials]
    parts: dict[str, Any] = {"type": "scene"}
    for i, shape in enumerate(scene.shapes):
        parts[f"shape_{i:04d}"] = _shape(shape, bsdfs[shape.material])
    for i, light in enumerate(scene.lights):
        parts[f"light_{i:02d}"] = _light(light)
    return mi.load_dict(parts)


def focal_length(camera: Camera, width: int) -> float:
    """Focal length in pixels of a camera with square pixels."""
    return width / 2 / np.tan(np.radians(camera.fov) / 2)


def _pixel_rays(camera: Camera, width: int, height: int) -> np.ndarray:
    """Rays through the pixels' centres in camera axes (right, up, forward), float [H, W, 3], with
    forward = 1."""
    focal = focal_length(camera, width)
    right = (np.arange(width) + 0.5 - width / 2) / focal
    up = (height / 2 - np.arange(height) - 0.5) / focal
    return np.stack([*np.meshgrid(right, up), np.ones((height, width))], axis=-1)


def _sensor(camera: Camera, width: int, height: int, sampler: dict[str, Any]) -> mi.Sensor:
    # Mitsuba's camera has its x axis to the left of the picture.
    to_world = np.eye(4)
    to_world[:3, :3] = camera.rotation * [-1.0, 1.0, 1.0]
    to_world[:3, 3] = camera.origin
    film = {
        "type": "hdrfilm",
        "width": width,
        "height": height,
        "pixel_format": "rgba",
        "component_format": "float32",
        "rfilter": {"type": "box"},
    }
    return mi.load_dict(
        {
            "type": "perspective",
            "fov": float(camera.fov),
            "fov_axis": "x",
            "near_clip": NEAR_CLIP,
            "far_clip": 1e4,
            "to_world": mi.ScalarTransform4f(to_world),
            "film": film,
            "sampler": sampler,
        }
    )


def render_depth(scene: mi.Scene, camera: Camera, width: int, height: int) -> np.ndarray:
    """z-depth in metres at the centre of every pixel, float32 [height, width]; inf = sky.

    Mitsuba gives the distance along the ray, from the near plane on (its `depth` integrator the
    same numbers as the `aov` one, in a fifteenth of the time). One sample without jitter is exactly
    the pixel's centre, so no depth is a mixture of two surfaces.
    """
    sampler = {"type": "stratified", "sample_count": 1, "jitter": False}
    integrator = mi.load_dict({"type": "depth", "block_size": BLOCK_SIZE})
    sensor = _sensor(camera, width, height, sampler)
    image = np.array(mi.render(scene, sensor=sensor, integrator=integrator))
    distance = image[..., 0].astype(np.float64)
    cosine = 1 / np.linalg.norm(_pixel_rays(camera, width, height), axis=-1)
    return np.where(distance > 0, NEAR_CLIP + distance * cosine, np.inf).astype(np.float32)


def _sky(panorama: np.ndarray, camera: Camera, width: int, height: int) -> np.ndarray:
    """What the camera sees of the sky, linear RGB float32 [height, width, 3]."""
    rays = _pixel_rays(camera, width, height) @ camera.rotation.T
    elevation = np.arcsin(rays[..., 1] / np.linalg.norm(rays, axis=-1))
    azimuth = np.arctan2(rays[..., 0], rays[..., 2])
    rows, columns = panorama.shape[:2]
    row = (0.5 - elevation / np.pi) * rows - 0.5
    column = (0.5 + azimuth / (2 * np.pi)) * columns - 0.5
    maps = (column.astype(np.float32), row.astype(np.float32))
    return cv2.remap(panorama, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _render_radiance(
    loaded: mi.Scene,
    panorama: np.ndarray | None,
    camera: Camera,
    size: tuple[int, int],
    samples: int,
    seed: int,
) -> np.ndarray:
    """Linear RGB, float [height, width, 3]: direct light with shadows.

    Every room has several lamps instead of bounces: a third of the time of a path tracer, and the
    stratified samples share themselves out evenly among the lamps, so there is little noise.
    """
    width, height = size
    sampler = {"type": "multijitter", "sample_count": samples}
    integrator = mi.load_dict(
        {"type": "direct", "emitter_samples": 1, "bsdf_samples": 0, "block_size": BLOCK_SIZE}
    )
    sensor = _sensor(camera, width, height, sampler)
    picture = np.array(mi.render(loaded, sensor=sensor, integrator=integrator, seed=seed))
    # Grazing rays on a shiny surface can give NaN, and one NaN would spoil the exposure of all.
    colour = np.nan_to_num(picture[..., :3], nan=0.0, posinf=0.0, neginf=0.0)
    coverage = picture[..., 3:]
    if panorama is None:
        return colour
    return colour + (1 - coverage) * _sky(panorama, camera, width, height)


def add_haze(
    radiance: np.ndarray, depth: np.ndarray, haze: np.ndarray, visibility: float
) -> np.ndarray:
    """Aerial perspective: what is far fades into the haze (Koschmieder's law).

    Args:
        radiance: linear RGB [H, W, 3].
        depth: metres [H, W]; the sky (inf) stays as it is.
        haze: its linear RGB [3].
        visibility: metres at which 2 % of the contrast is left; inf for clear air.
    """
    distance = np.where(np.isfinite(depth), depth, 0.0)
    clear = np.exp(-3.912 / visibility * distance)[..., None]
    return clear * radiance + (1 - clear) * haze


def _exposure(radiance: np.ndarray) -> tuple[np.ndarray, float]:
    """Luminance, float32 [H, W] > 0, and the one that should become a middle grey."""
    luminance = (radiance @ np.array([0.2126, 0.7152, 0.0722])).astype(np.float32) + 1e-6
    capped = np.minimum(luminance, np.percentile(luminance, 85))
    return luminance, float(np.sqrt(capped).mean() ** 2)


def is_lit(radiance: np.ndarray) -> bool:
    """Whether there is light and less than a sixth of a picture would be black, or white."""
    luminance, grey = _exposure(radiance)
    black, white = (luminance < 0.04 * grey).mean(), (luminance > 7 * grey).mean()
    return bool(grey > 1e-3 and black < 1 / 6 and white < 1 / 6)


def tone_map(radiance: np.ndarray, rng: Rng) -> np.ndarray:
    """Linear RGB to a photograph-like uint8 sRGB picture: exposure, white balance, a soft shoulder
    for highlights, vignetting and sensor noise, all a little random."""
    height, width = radiance.shape[:2]
    luminance, grey = _exposure(radiance)
    # Single bright dots are samples of a shiny surface that hit the sun.
    calm = np.minimum(1, 2.5 * cv2.medianBlur(luminance, 3) / luminance)
    exposed = (calm * (0.22 * 2 ** rng.uniform(-0.8, 0.8) / grey))[..., None] * radiance
    exposed = exposed * (1 + rng.normal(0, 0.06, 3))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    exposed *= (1 - rng.uniform(0, 0.2) * (x**2 + y**2))[..., None]
    if rng.uniform() < 0.4:
        exposed = cv2.GaussianBlur(exposed, (0, 0), rng.uniform(0.3, 0.9))
    shoulder = 0.6
    over = np.maximum(exposed - shoulder, 0)
    linear = np.minimum(exposed, shoulder) + (1 - shoulder) * over / (over + 1 - shoulder)
    low, high = 12.92 * linear, 1.055 * np.maximum(linear, 1e-6) ** (1 / 2.4) - 0.055
    encoded = np.where(linear <= 0.0031308, low, high)
    noise = rng.normal(0, rng.uniform(0.0, 0.012), encoded.shape)
    return (np.clip(encoded + noise, 0, 1) * 255).round().astype(np.uint8)


def is_informative(depth: np.ndarray) -> bool:
    """Whether a depth map is worth learning from: enough of it, not all at one distance, not one
    plane (a plane's disparity is affine in the pixel), nothing in the camera's face or so close
    that it flattens all the rest."""
    valid = np.isfinite(depth)
    if valid.mean() < 0.4 or (depth < NEAREST).mean() > 0.005:
        return False
    inverse = 1 / depth.astype(np.float64)
    left, right = inverse[:, :-1], inverse[:, 1:]
    if (np.abs(right - left) > 0.15 * np.maximum(left, right)).mean() < EDGES:
        return False
    nearest, near, middle, far = np.percentile(depth[valid], [1, 5, 50, 95])
    if far < 1.5 * near or middle > 8 * nearest:
        return False
    v, u = np.nonzero(valid)
    disparity = inverse[valid]
    design = np.stack([u, v, np.ones_like(u)], axis=1).astype(np.float64)
    residual = disparity - design @ np.linalg.lstsq(design, disparity, rcond=None)[0]
    return bool(residual.var() > 0.08 * disparity.var())


def _find_camera(scene: Scene, loaded: mi.Scene, rng: Rng, aspect: float) -> Camera | None:
    """The first of `TRIES` random cameras that stands free and sees something worth it
    in the light."""
    width = 48
    height = max(8, round(width / aspect))
    for _ in range(TRIES):
        camera = scene.camera(rng)
        if any(shape.contains(camera.origin, 0.05) for shape in scene.shapes):
            continue
        if not is_informative(render_depth(loaded, camera, width, height)):
            continue
        if is_lit(_render_radiance(loaded, scene.sky, camera, (width, height), PREVIEW_SAMPLES, 0)):
            return camera
    return None


class SceneRenderer:
    """Renders the views of one scene. View i depends on (seed, kind, i) only, so any of them can be
    rendered alone."""

    def __init__(self, seed: int | tuple[int, ...], kind: str) -> None:
        self.seed = (seed,) if isinstance(seed, int) else tuple(seed)
        self.kind = kind
        self._latest: tuple[int, Scene, mi.Scene] | None = None

    def _attempt(self, number: int) -> tuple[Scene, mi.Scene]:
        """The scene, or the replacement number `number` for one in which no camera fits."""
        if self._latest is None or self._latest[0] != number:
            self._latest = None  # frees the memory before the next scene takes its own
            scene = WORLDS[self.kind](np.random.default_rng([*self.seed, 0, number]))
            self._latest = (number, scene, load_scene(scene))
        return self._latest[1:]

    def render(self, view: int, width: int, height: int, samples: int) -> View:
        """Render view number `view` with `samples` rays a pixel.

        Raises:
            UserError: none of `ATTEMPTS` scenes has a view of this shape worth rendering.
        """
        rng = np.random.default_rng([*self.seed, 1, view])
        for number in range(ATTEMPTS):
            scene, loaded = self._attempt(number)
            camera = _find_camera(scene, loaded, rng, width / height)
            if camera is not None:
                break
        else:
            raise UserError(
                f"no view worth rendering in {ATTEMPTS} scenes of kind {self.kind!r} at "
                f"{width}x{height} pixels; choose a less extreme width and height or another seed"
            )
        depth = render_depth(loaded, camera, width, height)
        seed = int(rng.integers(2**31))
        radiance = _render_radiance(loaded, scene.sky, camera, (width, height), samples, seed)
        radiance = add_haze(radiance, depth, scene.haze, scene.visibility)
        return View(tone_map(radiance, rng), depth, focal_length(camera, width))


def render_scene(
    seed: int, kind: str, width: int, height: int, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """One picture of one random scene of a kind in `WORLDS`.

    Returns uint8 [height, width, 3] sRGB and the z-depth in metres, float32 [height, width]
    (inf = sky). The same arguments give the same arrays.
    """
    view = SceneRenderer(seed, kind).render(0, width, height, samples)
    return view.image, view.depth
