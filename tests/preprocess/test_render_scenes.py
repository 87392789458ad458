"""Rendered data: exact depth, the datasets' encodings, the same bytes however a run went."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from src.errors import UserError

pytest.importorskip("mitsuba", reason="the demo extra is not installed")

PREPROCESS = Path(__file__).parents[2] / "preprocess"
SMALL = ("--train", "4", "--test", "3", "--samples", "1", "--width", "48", "--height", "32")


@pytest.fixture(scope="module")
def load():
    """Import a module of preprocess/ by its plain name, as its scripts do."""
    sys.path.insert(0, str(PREPROCESS))
    yield importlib.import_module
    sys.path.remove(str(PREPROCESS))


@pytest.fixture(scope="module")
def renderer(load) -> ModuleType:
    return load("renderer")


@pytest.fixture(scope="module")
def scenes(load) -> ModuleType:
    return load("scenes")


def command(output: Path, *options: str) -> list[str]:
    return [sys.executable, str(PREPROCESS / "render_scenes.py"), "--output", str(output), *options]


def run(output: Path, *options: str, **keywords) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(output, *options), capture_output=True, text=True, timeout=120, **keywords
    )


def digest(folder: Path) -> dict[str, str]:
    """Every file of a folder, hidden ones too, and its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    """A small data set made in one go by one worker."""
    output = tmp_path_factory.mktemp("rendered") / "data"
    result = run(output, *SMALL, "--workers", "1")
    assert result.returncode == 0, result.stderr
    return output


# --- geometry -------------------------------------------------------------------------------------


def pixel_rays(camera, width: int, height: int) -> np.ndarray:
    """World directions through the pixels' centres, scaled to z-depth 1, from the field of view."""
    half = np.tan(np.radians(camera.fov / 2))
    rays = np.empty((height, width, 3))
    for row in range(height):
        for column in range(width):
            x = (2 * (column + 0.5) / width - 1) * half
            y = (1 - 2 * (row + 0.5) / height) * half * height / width
            right, up, forward = camera.rotation.T
            rays[row, column] = x * right + y * up + forward
    return rays


def scene_of(scenes: ModuleType, kind: str, to_world: np.ndarray):
    colour = np.array([0.5, 0.5, 0.5])
    material = scenes.Material(colour, None, (1.0, 1.0), "matte", 0.2)
    scene = scenes.Scene(np.random.default_rng(0), camera=lambda _: None)
    scene.materials.append(material)
    scene.shapes.append(scenes.Shape(kind, to_world, 0))
    return scene


@pytest.mark.parametrize("fov", [40.0, 95.0])
def test_depth_of_a_fronto_parallel_plane_is_the_same_everywhere(renderer, scenes, fov):
    camera = scenes.look(np.zeros(3), np.array([0, 0, 1.0]), 0.0, fov)
    wall = scenes.place(np.array([0, 0, 3.5]), 100.0)
    loaded = renderer.load_scene(scene_of(scenes, "rectangle", wall))
    depth = renderer.render_depth(loaded, camera, 31, 20)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, 3.5, rtol=2e-6)


def test_depth_of_a_slanted_plane_from_a_turned_camera(renderer, scenes):
    origin = np.array([0.4, -0.3, 0.2])
    camera = scenes.look(origin, np.array([1.0, 0.5, 2.0]), 0.3, 50.0)
    point, normal = np.array([0.5, 0.0, 4.0]), np.array([0.3, 0.4, -1.0])
    wall = scenes.place(point, 100.0, scenes.frame_towards(normal))
    loaded = renderer.load_scene(scene_of(scenes, "rectangle", wall))
    expected = (point - origin) @ normal / (pixel_rays(camera, 40, 28) @ normal)
    np.testing.assert_allclose(renderer.render_depth(loaded, camera, 40, 28), expected, rtol=1e-5)


def test_depth_of_a_sphere_and_of_the_sky_around_it(renderer, scenes):
    origin, centre, radius = np.array([0.0, 1.0, -1.0]), np.array([0.3, 1.2, 4.0]), 1.1
    camera = scenes.look(origin, np.array([0.0, 1.1, 4.0]), -0.2, 60.0)
    loaded = renderer.load_scene(scene_of(scenes, "sphere", scenes.place(centre, radius)))
    depth = renderer.render_depth(loaded, camera, 64, 48)

    rays = pixel_rays(camera, 64, 48)
    a, b = (rays**2).sum(-1), rays @ (origin - centre)
    root = b**2 - a * (np.sum((origin - centre) ** 2) - radius**2)
    expected = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    clear = np.abs(root) > 1e-3  # away from the outline, where rounding decides
    np.testing.assert_array_equal(np.isinf(depth[clear]), np.isinf(expected[clear]))
    hit = clear & np.isfinite(expected)
    assert 200 < hit.sum() < hit.size / 2
    np.testing.assert_allclose(depth[hit], expected[hit], rtol=1e-4)


def test_picture_and_depth_show_the_same_thing_at_the_same_place(renderer, scenes):
    """A lit ball to the upper right of a camera in the dark."""
    camera = scenes.look(np.zeros(3), np.array([0, 0, 1.0]), 0.0, 60.0)
    ball = scenes.place(np.array([0.7, 0.5, 3.0]), 0.4)
    scene = scene_of(scenes, "sphere", ball)
    scene.lights.append(scenes.Light("sun", np.full(3, 5.0), np.array([0.0, 0.0, 1.0])))
    loaded = renderer.load_scene(scene)
    depth = renderer.render_depth(loaded, camera, 48, 32)
    picture = renderer._render_radiance(loaded, None, camera, (48, 32), 4, 1)
    seen = np.isfinite(depth)
    assert (picture[..., 1] > 0.2)[seen].mean() > 0.7
    assert (picture[..., 1] < 0.01)[~seen].mean() > 0.95
    rows, columns = np.nonzero(seen)
    assert rows.max() < 16
    assert columns.min() > 24


# --- scenes ---------------------------------------------------------------------------------------


def test_every_kind_of_scene_renders_and_repeats(renderer, load):
    for kind in load("worlds").WORLDS:
        image, depth = renderer.render_scene(3, kind, 48, 32, 2)
        assert image.shape == (32, 48, 3)
        assert image.dtype == np.uint8
        assert depth.shape == (32, 48)
        assert depth.dtype == np.float32
        assert (depth > 0).all()
        assert image.std() > 5
        again = renderer.render_scene(3, kind, 48, 32, 2)
        np.testing.assert_array_equal(again[0], image)
        np.testing.assert_array_equal(again[1], depth)
        assert not np.array_equal(renderer.render_scene(4, kind, 48, 32, 2)[0], image)


def test_a_later_view_does_not_need_the_earlier_ones(renderer):
    both = renderer.SceneRenderer((1, 2), "room")
    both.render(0, 48, 32, 1)
    second = both.render(1, 48, 32, 1)
    alone = renderer.SceneRenderer((1, 2), "room").render(1, 48, 32, 1)
    np.testing.assert_array_equal(alone.image, second.image)
    np.testing.assert_array_equal(alone.depth, second.depth)


def test_a_scene_without_a_view_is_replaced_and_the_search_ends(renderer, monkeypatch):
    find, tried = renderer._find_camera, []

    def blind(scene, loaded, rng, aspect):
        tried.append(scene.shapes[0].to_world)
        return find(scene, loaded, rng, aspect) if len(tried) == 3 else None

    monkeypatch.setattr(renderer, "_find_camera", blind)
    scene = renderer.SceneRenderer(3, "room")
    assert scene.render(0, 48, 32, 1).image.shape == (32, 48, 3)
    assert not np.array_equal(tried[0], tried[2])
    monkeypatch.setattr(renderer, "ATTEMPTS", 2)
    with pytest.raises(UserError, match="kind 'room' at 48x32"):
        scene.render(1, 48, 32, 1)
    np.testing.assert_array_equal(tried[3], tried[0])  # view 1 begins with the first scene again


def test_views_without_structure_are_rejected(renderer):
    v, u = np.mgrid[0:32, 0:48].astype(np.float32)
    plane = 1 / (0.1 + 0.01 * u + 0.02 * v)
    assert not renderer.is_informative(plane)
    sky = plane.copy()
    sky[:25] = np.inf
    assert not renderer.is_informative(sky)
    steps = np.where((u // 8 + v // 8) % 2 == 0, 2.0, 4.0).astype(np.float32)
    assert renderer.is_informative(steps)
    face = steps.copy()
    face[:3] = 0.1
    assert not renderer.is_informative(face)


def test_views_without_light_are_rejected(renderer):
    picture = np.full((30, 40, 3), 0.2)
    assert renderer.is_lit(picture)
    picture[:10] = 0.0
    assert not renderer.is_lit(picture)
    picture[:10] = 50.0
    assert not renderer.is_lit(picture)
    assert not renderer.is_lit(np.zeros((30, 40, 3)))


# --- encodings ------------------------------------------------------------------------------------


def test_depth_files_are_rounded_to_the_nearest_unit(load):
    layouts = load("layouts")
    depth = np.array([[1.0, 10.00195, 255.997, 256.0, np.inf]], np.float32)
    # 10.00195 m * 256 = 2560.4992; 256 m does not fit into 16 bits.
    np.testing.assert_array_equal(
        layouts.encode_depth(depth, 256), np.array([[256, 2560, 65535, 0, 0]], np.uint16)
    )
    depth = np.array([[0.5, 1.00011, 13.107, 13.2]], np.float32)
    np.testing.assert_array_equal(
        layouts.encode_depth(depth, 5000), np.array([[2500, 5001, 65535, 0]], np.uint16)
    )


def test_relative_inverse_depth_is_largest_at_the_closest_and_zero_at_the_sky(load):
    depth = np.array([[2.0, 4.0, 20.0, np.inf]], np.float32)
    encoded = load("layouts").relative_inverse_depth(depth)
    assert encoded.dtype == np.uint16
    assert encoded.tolist() == [[65535, 32768, 6554, 0]]  # 65535 * (1, 1/2, 1/10, 0)


def test_stretched_disparity_begins_at_zero_and_ends_at_the_largest_number(load):
    layouts = load("layouts")
    depth = np.array([[2.0, 4.0, 8.0]], np.float32)  # disparity 1/2, 1/4, 1/8
    encoded = layouts.stretched_disparity(depth)
    assert encoded.dtype == np.uint16
    assert encoded.tolist() == [[65535, 21845, 0]]  # 65535 * (1, 1/3, 0)
    sky = layouts.stretched_disparity(np.array([[2.0, 4.0, np.inf]], np.float32))
    assert sky.tolist() == [[65535, 32768, 0]]


def test_occlusions_by_hand(load):
    """Focal length 40 and a baseline of 0.1 m: the background at 4 m moves 1 pixel, the thing at
    1 m moves 4. It hides what lands on columns 0..1 from behind: background columns 1 and 2; column
    0 leaves the picture."""
    depth = np.full((1, 9), 4.0, np.float32)
    depth[0, 4:6] = 1.0
    mask = load("layouts").stereo_occlusions(depth, 40.0)
    assert mask.tolist() == [[255, 255, 255, 0, 0, 0, 0, 0, 0]]


# --- folders --------------------------------------------------------------------------------------


def test_layouts_read_back(rendered):
    mixdata = json.loads((rendered / "mixdata.json").read_text())
    assert mixdata == {
        "img": {"RW": "/ReDWeb_V1/Imgs/*"},
        "depth": {"RW": "/ReDWeb_V1/RDs/*"},
    }
    pictures = sorted((rendered / "ReDWeb_V1/Imgs").iterdir())
    depths = sorted((rendered / "ReDWeb_V1/RDs").iterdir())
    assert [p.suffix for p in pictures] == [".jpg"] * 4
    assert [p.stem for p in pictures] == [d.stem for d in depths]
    for picture, depth in zip(pictures, depths, strict=True):
        assert Image.open(picture).size == Image.open(depth).size == (48, 32)
        assert np.asarray(Image.open(depth)).max() == 65535


def test_kitti_and_tum_hold_metres_in_16_bit_png(rendered):
    kitti = sorted(rendered.glob("Kitti_raw_data/2011_09_26_drive_*_sync/image/*.png"))
    assert len(kitti) == 3
    for picture in kitti:
        depth = picture.parents[1] / "depth" / picture.name
        header = depth.read_bytes()[:26]
        assert struct.unpack(">IIBB", header[16:26]) == (320, 96, 16, 0)
        metres = np.asarray(Image.open(depth)) / 256
        assert ((metres > 0) & (metres < 80)).mean() > 0.3
        assert Image.open(picture).size == (320, 96)
    for sequence in (rendered / "TUM").iterdir():
        lines = (sequence / "associate.txt").read_text().splitlines()
        assert lines
        for line in lines:
            picture, depth = line.split(" ")
            assert picture.startswith("rgb/")
            assert Image.open(sequence / picture).mode == "RGB"
            header = (sequence / depth).read_bytes()[:26]
            assert struct.unpack(">IIBB", header[16:26]) == (160, 120, 16, 0)
            metres = np.asarray(Image.open(sequence / depth)) / 5000
            assert ((metres > 0) & (metres < 10)).mean() > 0.5


def test_sintel_depth_is_tagged_float32(rendered):
    pictures = sorted(rendered.glob("Sintel/final_left/*/*.png"))
    assert len(pictures) == 3
    for picture in pictures:
        scene, stem = picture.parent.name, picture.stem
        data = (rendered / "Sintel/depth" / scene / f"{stem}.dpt").read_bytes()
        tag, width, height = struct.unpack("<fii", data[:12])
        assert (tag, width, height) == (202021.25, 256, 109)
        depth = np.frombuffer(data[12:], "<f4").reshape(height, width)
        assert (depth > 0).all()
        assert np.isfinite(depth).all()
        assert (depth < 72).mean() > 0.3
        mask = np.asarray(Image.open(rendered / "Sintel/occlusions" / scene / f"{stem}.png"))
        assert mask.shape == depth.shape
        assert set(np.unique(mask)) <= {0, 255}
        assert Image.open(picture).size == (width, height)


def test_two_styles_of_training_sets(rendered, tmp_path):
    output = tmp_path / "data"
    result = run(output, *SMALL, "--sets", "Outdoor,Indoor,TUM,TUM", "--workers", "1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith(": Outdoor 4, Indoor 4, TUM 3\n")
    assert json.loads((output / "mixdata.json").read_text()) == {
        "Indoor": {
            "image": "/Indoor/photos/*",
            "depth": "/Indoor/depth/*",
            "kind": "depth",
            "scale": 0.001,
        },
        "Outdoor": {
            "image": "/Outdoor/photos/*",
            "depth": "/Outdoor/disparity/*",
            "kind": "disparity",
        },
    }
    for name, maps in (("Indoor", "depth"), ("Outdoor", "disparity")):
        pictures = sorted((output / name / "photos").iterdir())
        assert [picture.name for picture in pictures] == [f"0000{i}.jpg" for i in range(4)]
        for picture in pictures:
            map_ = np.asarray(Image.open(output / name / maps / f"{picture.stem}.png"))
            assert Image.open(picture).size == map_.shape[::-1] == (48, 32)
            if name == "Indoor":
                metres = map_ / 1000
                assert ((metres > 0.3) & (metres < 15)).mean() > 0.7
            else:
                assert (map_.min(), map_.max()) == (0, 65535)
    both = (digest(output), digest(rendered))
    tum = [{n: d for n, d in each.items() if n.startswith("TUM")} for each in both]
    assert tum[0] == tum[1]  # what a set shows does not depend on the others
    contents = [d for n, d in digest(output).items() if n.endswith(".jpg") or "rgb/" in n]
    assert len(set(contents)) == len(contents) == 4 + 4 + 3


def test_no_two_sets_draw_the_same_scenes(load):
    layouts = load("layouts").LAYOUTS.values()
    assert len({layout.split for layout in layouts}) == len(layouts)


def test_mixdata_names_the_training_sets_of_earlier_runs_too(tmp_path):
    few = ("--train", "1", "--test", "1", *SMALL[4:])
    assert run(tmp_path, *few, "--sets", "Indoor").returncode == 0
    assert run(tmp_path, *few, "--sets", "TUM").returncode == 0
    assert list(json.loads((tmp_path / "mixdata.json").read_text())) == ["Indoor"]
    assert run(tmp_path, *few, "--sets", "ReDWeb_V1").returncode == 0
    mixdata = json.loads((tmp_path / "mixdata.json").read_text())
    assert list(mixdata) == ["RW", "Indoor"]
    assert mixdata["RW"] == {"image": "/ReDWeb_V1/Imgs/*", "depth": "/ReDWeb_V1/RDs/*"}


def test_no_two_pictures_are_the_same(rendered):
    names = [n for n in digest(rendered) if "Imgs" in n or "image" in n or "rgb/" in n]
    contents = {digest(rendered)[name] for name in names}
    assert len(contents) == len(names) == 4 + 3 + 3


# --- runs -----------------------------------------------------------------------------------------


def test_two_workers_and_an_interruption_give_the_same_bytes(rendered, tmp_path):
    output = tmp_path / "data"
    process = subprocess.Popen(
        command(output, *SMALL, "--workers", "2"),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(output.glob("ReDWeb_V1/RDs/*.png")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr

    partial, whole = digest(output), digest(rendered)
    assert 0 < len(partial) < len(whole)
    assert partial.items() <= whole.items()

    (output / next(name for name in partial if name.endswith(".jpg"))).unlink()
    result = run(output, *SMALL, "--workers", "2")
    assert result.returncode == 0, result.stderr
    assert digest(output) == whole


def test_a_finished_folder_is_left_as_it_is(rendered):
    before = {path: path.stat().st_mtime_ns for path in rendered.rglob("*.*g")}
    assert run(rendered, *SMALL).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_larger_counts_extend_and_smaller_ones_leave_what_is_there(rendered, tmp_path):
    output = tmp_path / "data"
    options = SMALL[4:]
    assert run(output, "--train", "2", "--test", "1", *options).returncode == 0
    (associations,) = output.glob("TUM/*/associate.txt")
    assert len(associations.read_text().splitlines()) == 1
    assert run(output, *SMALL).returncode == 0
    assert digest(output) == digest(rendered)
    result = run(output, "--train", "1", "--test", "1", *options)
    assert result.returncode == 0
    assert digest(output) == digest(rendered)
    assert len(associations.read_text().splitlines()) == 3
    assert "ReDWeb_V1 4, Kitti_raw_data 3, Sintel 3, TUM 3" in result.stdout


def refused(result: subprocess.CompletedProcess, *words: str) -> None:
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr


def test_other_settings_for_the_same_folder_are_refused(rendered):
    before = digest(rendered)
    refused(run(rendered, *SMALL, "--seed", "2"), "other settings", "seed 1", str(rendered))
    assert digest(rendered) == before


def test_data_of_other_origin_is_never_touched(tmp_path):
    (tmp_path / "TUM").mkdir()
    refused(run(tmp_path, *SMALL), "TUM", "choose another folder")
    assert list(tmp_path.rglob("*")) == [tmp_path / "TUM"]


def test_a_damaged_settings_file_is_named(tmp_path):
    (tmp_path / "render_settings.json").write_text("{")
    refused(run(tmp_path, *SMALL), "render_settings.json")
    (tmp_path / "render_settings.json").write_text("[]")
    refused(run(tmp_path, *SMALL), "other settings")


@pytest.mark.parametrize(
    "option",
    [
        *("--train=-1", "--width=8", "--samples=0", "--workers=0", "--train=abc"),
        *("--sets=Indor", "--sets=", "--sets=TUM,,Indoor"),
    ],
)
def test_impossible_values_are_refused(tmp_path, option):
    refused(run(tmp_path, option), option.split("=")[0])
    assert not list(tmp_path.iterdir())


def test_an_output_that_is_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    refused(run(file, *SMALL), "file")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", ["ReDWeb_V1/RDs", "mixdata.json"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, name):
    """A file where a folder belongs stops a worker, a folder where a file belongs the end."""
    nothing = ("--train", "0", "--test", "0", *SMALL[4:])
    assert run(tmp_path, *nothing).returncode == 0
    if name == "mixdata.json":
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("mine")
    result = run(tmp_path, "--train", "1", "--test", "0", *SMALL[4:])
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith(f"error: {tmp_path / name}: cannot be ")


def test_missing_mitsuba_says_what_to_install(tmp_path):
    (tmp_path / "mitsuba.py").write_text("raise ImportError('no mitsuba')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    output = tmp_path / "data"
    refused(run(output, *SMALL, env=environment), "pip install -e .[demo]")
    assert not output.exists()


def test_haze_is_koschmieders_law(renderer):
    radiance = np.array([[[1.0, 0.5, 0.0]] * 3])
    depth = np.array([[0.0, 100.0, np.inf]])
    hazy = renderer.add_haze(radiance, depth, np.array([0.8, 0.8, 1.0]), visibility=100.0)
    # By definition 2 % of the contrast is left at the visibility: exp(-3.912) = 0.02.
    faded = 0.02 * radiance[0, 1] + 0.98 * np.array([0.8, 0.8, 1.0])
    np.testing.assert_allclose(hazy[0], [radiance[0, 0], faded, radiance[0, 2]], atol=1e-5)
    clear = renderer.add_haze(radiance, depth, np.zeros(3), visibility=np.inf)
    np.testing.assert_array_equal(clear, radiance)
