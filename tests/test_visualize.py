"""Pictures: colours in the right order, panels in the right place, curves that show something."""

from __future__ import annotations

import warnings

import matplotlib
import numpy as np
import pytest
from PIL import Image

from src import visualize
from src.callbacks import METRICS

GREY = [128, 128, 128]


def brightness(colours: np.ndarray) -> np.ndarray:
    return colours.astype(float) @ [0.2126, 0.7152, 0.0722]


def test_closer_is_brighter():
    colours = visualize.colourize(np.linspace(0, 1, 50, dtype=np.float32)[None])
    assert colours.shape == (1, 50, 3)
    assert colours.dtype == np.uint8
    assert (np.diff(brightness(colours[0])) >= 0).all()


def test_colours_are_those_of_the_map_between_the_percentiles():
    """0..100 in steps of 1: the 1st and 99th percentiles are 1 and 99."""
    colours = visualize.colourize(np.arange(101, dtype=np.float64)[None])[0]
    inferno = matplotlib.colormaps["inferno"]
    for value in (0, 1, 50, 99, 100):
        expected = np.array(inferno(min(max((value - 1) / 98, 0.0), 1.0))[:3]) * 255
        assert np.abs(colours[value] - expected).max() <= 1


def test_unknown_pixels_are_grey():
    values = np.array([[0.0, np.nan, 2.0, np.inf, 4.0]])
    mask = np.array([[True, True, False, True, True]])
    colours = visualize.colourize(values, mask)[0]
    assert colours[1:4].tolist() == [GREY] * 3
    assert GREY not in colours[[0, 4]].tolist()
    assert GREY not in visualize.colourize(values)[0, [0, 2, 4]].tolist()


@pytest.mark.parametrize("value", [0.0, 3.5, np.nan])
def test_constant_and_empty_maps_give_one_colour_without_warnings(value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        colours = visualize.colourize(np.full((3, 4), value, np.float32))
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 1


def test_pictures_stand_side_by_side_with_white_between():
    left, right = (np.full((2, width, 3), width, np.uint8) for width in (3, 5))
    row = visualize.side_by_side([left, right], gap=2)
    assert row[0, :, 0].tolist() == [3] * 3 + [255] * 2 + [5] * 5
    assert visualize.side_by_side([left]).shape == left.shape


def test_a_depth_picture_holds_photograph_and_depth(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    prediction = np.tile(np.arange(8, dtype=np.float32), (6, 1))
    visualize.write_depth_picture(tmp_path / "a.png", image, prediction)
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(picture[:, :8], image)
    assert np.array_equal(picture[:, -8:], visualize.colourize(prediction))


def rows(count: int, **changes: float) -> list[dict[str, float]]:
    values = dict.fromkeys(METRICS, 1.0) | {"backbone_lr": 1e-5, "decoder_lr": 1e-4}
    return [values | {"loss": 1 / (i + 1), "epoch": i // 4 + 1} | changes for i in range(count)]


@pytest.mark.parametrize("count", [1, 3, 4, 41, 5000])  # less than an epoch, an epoch, and more
def test_curves_are_drawn_at_any_length(tmp_path, count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        visualize.plot_curves(rows(count), 4, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture)
    assert min(pixels.shape[:2]) >= 400
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_curves_bear_values_a_logarithm_does_not(tmp_path):
    """A loss of 0, a learning rate that decays to 0, a gradient term that is 0 throughout."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = rows(8, gradient_loss=0.0, backbone_lr=0.0)
        data[3]["loss"] = 0.0
        visualize.plot_curves(data, 4, tmp_path / "curves.png")
        dead = rows(8, loss=0.0, data_loss=0.0, gradient_loss=0.0)
        visualize.plot_curves(dead, 4, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_curves_differ_where_the_loss_differs(tmp_path):
    pictures = []
    for loss in (0.5, 5.0):
        data = rows(8)
        data[-1]["loss"] = loss
        visualize.plot_curves(data, 4, tmp_path / "curves.png")
        pictures.append((tmp_path / "curves.png").read_bytes())
    assert pictures[0] != pictures[1]
