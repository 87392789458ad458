"""Pictures: colours in the right order, panels in the right place, curves that show something."""

from __future__ import annotations

import warnings

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from src import visualize

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


@pytest.mark.parametrize("colour_map", ["inferno", "viridis"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_colours_are_matplotlibs_bit_for_bit(dtype, colour_map):
    """Steps of 1/4096, on the border between two colours and beside it, and both ends."""
    values = (np.arange(-2, 4099) / 4096).astype(dtype)
    found = visualize.colourize(values[None], limits=(0, 1), colour_map=colour_map)[0]
    colours = matplotlib.colormaps[colour_map](values.clip(0, 1))[:, :3]
    np.testing.assert_array_equal(found, np.round(colours * 255))


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


# ---- panels of an evaluation ----


def depth_case(height=40, width=50):
    """A photograph, a depth of 2 to 8 m with a hole, its mask, and a prediction 10 % too far."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    depth = np.tile(np.linspace(2, 8, width, dtype=np.float32), (height, 1))
    mask = np.ones((height, width), bool)
    mask[10:20, 20:30] = False
    depth[~mask] = np.nan
    aligned = 1.1 * np.tile(np.linspace(2, 8, width), (height, 1))
    return image, depth, mask, aligned


def test_depth_panels_are_photograph_truth_prediction_and_error():
    image, depth, mask, aligned = depth_case()
    panels = visualize.depth_panels(image, depth, mask, aligned)
    assert list(panels) == ["image", "truth", "prediction", "error"]
    for panel in panels.values():
        assert panel.picture.shape == (40, 50, 3)
        assert panel.picture.dtype == np.uint8
    assert np.array_equal(panels["image"].picture, image)
    assert [panel.caption for panel in panels.values()] == [
        "photograph",
        "ground truth, 2 to 8 m",
        "aligned prediction, 2.2 to 8.8 m",
        "error |z - z*| / z*, 0 to 0.5",
    ]


def test_unmeasured_pixels_of_truth_and_error_are_grey_and_no_others():
    panels = visualize.depth_panels(*depth_case())
    mask = depth_case()[2]
    for name in ("truth", "error"):
        grey = (panels[name].picture == GREY).all(axis=2)
        assert np.array_equal(grey, ~mask)
    assert not (panels["prediction"].picture == GREY).all(axis=2).any()


def test_truth_and_prediction_share_the_truths_colour_scale_of_inverse_depth():
    """Inverse depths 0.125 to 0.5; percentiles 1 and 99 by NumPy; colours by Matplotlib."""
    image, depth, mask, aligned = depth_case()
    panels = visualize.depth_panels(image, depth, mask, aligned)
    low, high = np.percentile(1 / depth[mask].astype(float), (1, 99))
    inferno = matplotlib.colormaps["inferno"]
    for name, values in (("truth", depth), ("prediction", aligned)):
        for y, x in ((0, 0), (0, 5), (30, 25), (39, 49)):
            unit = min(max((1 / float(values[y, x]) - low) / (high - low), 0.0), 1.0)
            expected = np.array(inferno(unit)[:3]) * 255
            assert np.abs(panels[name].picture[y, x] - expected).max() <= 2


@pytest.mark.parametrize(
    ("factor", "unit"), [(1.0, 0.0), (1.1, 0.2), (0.9, 0.2), (1.25, 0.5), (1.5, 1.0), (4.0, 1.0)]
)
def test_error_colours_run_from_0_to_half(factor, unit):
    image, depth, mask, _ = depth_case()
    aligned = factor * np.where(mask, depth, 5.0)
    picture = visualize.depth_panels(image, depth, mask, aligned)["error"].picture
    expected = np.array(matplotlib.colormaps["viridis"](unit)[:3]) * 255
    assert np.abs(picture[mask] - expected).max() <= 2


@pytest.mark.parametrize(
    ("height", "width", "shape"),
    [(375, 1242, (193, 640)), (900, 641, (899, 640)), (8, 640, (8, 640)), (1, 5000, (1, 640))],
)
def test_panels_are_at_most_640_pixels_wide(height, width, shape):
    image = np.zeros((height, width, 3), np.uint8)
    depth = np.full((height, width), 3, np.float32)
    mask = np.ones((height, width), bool)
    panels = visualize.depth_panels(image, depth, mask, depth.astype(float))
    panels |= visualize.ordinal_panels(image, (0, 0), (height - 1, width - 1), depth)
    assert {panel.picture.shape for panel in panels.values()} == {(*shape, 3)}


def test_a_shrunk_map_is_the_mean_of_the_valid_pixels():
    """Two to one: of each 2 x 2 block, the mean of the inverse depths that were measured."""
    rng = np.random.default_rng(2)
    depth = rng.uniform(1, 9, (20, 1280)).astype(np.float32)
    mask = rng.random((20, 1280)) < 0.6
    depth[~mask] = np.inf
    picture = visualize.depth_panels(
        np.zeros((20, 1280, 3), np.uint8), depth, mask, np.full((20, 1280), 2.0)
    )["truth"].picture
    means = np.full((10, 640), np.nan)
    for y in range(10):
        for x in range(640):
            block = np.s_[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            if mask[block].any():
                means[y, x] = np.mean(1 / depth[block][mask[block]].astype(float))
    assert np.array_equal((picture == GREY).all(axis=2), np.isnan(means))
    low, high = np.nanpercentile(means, (1, 99))
    unit = np.clip((np.nan_to_num(means) - low) / (high - low), 0, 1)
    expected = matplotlib.colormaps["inferno"](unit)[..., :3] * 255
    known = ~np.isnan(means)
    assert np.abs(picture[known] - expected[known]).max() <= 2


def test_points_of_a_sparse_map_grow_by_a_pixel_each_way():
    depth = np.zeros((20, 30), np.float32)
    mask = np.zeros((20, 30), bool)
    for y, x, metres in ((5, 5, 2.0), (12, 20, 4.0)):
        depth[y, x], mask[y, x] = metres, True
    image = np.zeros((20, 30, 3), np.uint8)
    panels = visualize.depth_panels(image, depth, mask, np.full((20, 30), 3.0))
    expected = np.zeros((20, 30), bool)
    expected[4:7, 4:7] = expected[11:14, 19:22] = True
    for name in ("truth", "error"):
        assert np.array_equal((panels[name].picture != GREY).any(axis=2), expected)
    truth = panels["truth"].picture
    assert len(np.unique(truth[4:7, 4:7].reshape(-1, 3), axis=0)) == 1
    assert brightness(truth[4, 4]) > brightness(truth[11, 19])


def test_a_single_valid_pixel_and_a_constant_depth_give_panels_without_warnings():
    image, depth, _, aligned = depth_case()
    one = np.zeros(depth.shape, bool)
    one[3, 3] = True
    flat = np.full(depth.shape, 4, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single = visualize.depth_panels(image, np.where(one, 5, 0).astype(np.float32), one, aligned)
        visualize.depth_panels(image, flat, flat > 0, flat.astype(float))
    assert single["truth"].caption == "ground truth, 5 to 5 m"


@pytest.mark.parametrize("background", [0, 60, 128, 200, 255])
def test_marks_are_visible_on_any_background(background):
    image = np.full((240, 320, 3), background, np.uint8)
    prediction = np.zeros((240, 320), np.float32)
    picture = visualize.ordinal_panels(image, (60, 80), (180, 240), prediction)["image"].picture
    for y, x in ((60, 80), (180, 240)):
        ring = picture[y - 14 : y + 15, x - 3 : x + 4].astype(int)  # above and below: no letter
        assert (np.abs(ring - background).max(axis=2) > 100).sum() > 20
        near = picture[y - 24 : y + 25, x - 40 : x + 41].astype(int)
        assert (np.abs(near - background).max(axis=2) > 100).sum() > 100
        assert np.array_equal(picture[y, x], [background] * 3)  # the point itself stays in sight
    changed = (picture != image).any(axis=2)
    assert not changed[100:140].any()  # the marks are at the points and nowhere else
    assert not changed[:, 130:190].any()


def test_marks_of_both_pictures_are_at_the_same_place_and_scale_with_them():
    image = np.full((400, 1280, 3), 128, np.uint8)
    prediction = np.zeros((400, 1280), np.float32)  # colourized, it is black
    panels = visualize.ordinal_panels(image, (100, 300), (300, 1000), prediction)
    rings = [(50, 150), (150, 500)]
    for panel in panels.values():
        background = panel.picture[0, 0]
        changed = (panel.picture != background).any(axis=2)
        for y, x in rings:
            around = changed[y - 22 : y + 23, x - 22 : x + 23]
            rows, columns = np.nonzero(around[:, 20:25])[0], np.nonzero(around[20:25])[1]
            # Straight above and below, left and right of the point, its ring is equally far.
            assert abs(rows.min() + rows.max() - 44) <= 2
            assert abs(columns.min() + columns.max() - 44) <= 12  # on one side is a letter


@pytest.mark.parametrize("closer", [(0, 0), (0, 319), (239, 0), (239, 319), (120, 160)])
@pytest.mark.parametrize("farther", [(1, 1), (238, 318), (121, 161), (10, 300)])
def test_points_at_the_border_or_close_to_each_other_keep_both_letters_in_sight(closer, farther):
    """A letter at the border adds as much white as the same letter in the open."""
    image = np.full((240, 320, 3), 128, np.uint8)
    prediction = np.zeros((240, 320), np.float32)

    def white(*points):
        picture = visualize.ordinal_panels(image, *points, prediction)["image"].picture
        return int((picture == 255).all(axis=2).sum())

    letters = white((120, 60), (120, 260)) - 2 * 84  # a ring of radius 8 and width 2 has 84 pixels
    assert letters > 40
    assert white(closer, farther) > letters
    assert (image == 128).all()


@pytest.mark.parametrize(
    ("at_closer", "at_farther", "words"),
    [
        (2.0, 1.0, "A closer (right)"),
        (1.0, 2.0, "B closer (wrong)"),
        (1.0, 1.0, "A and B equal (wrong)"),
    ],
)
def test_captions_of_ordinal_panels_say_what_was_asked_and_answered(at_closer, at_farther, words):
    prediction = np.zeros((30, 40), np.float32)
    prediction[5, 7], prediction[20, 3] = at_closer, at_farther
    image = np.zeros((30, 40, 3), np.uint8)
    panels = visualize.ordinal_panels(image, (5, 7), (20, 3), prediction)
    assert list(panels) == ["image", "prediction"]
    assert panels["image"].caption == "photograph, A is closer than B"
    assert panels["prediction"].caption == f"prediction: {words}"


def test_colour_stops_run_from_the_low_to_the_high_end():
    assert visualize.colour_stops("gray", 3) == ["#000000", "#808080", "#ffffff"]


# ---- curves ----

METRICS = {  # a row of metrics.csv
    **{"epoch": 1.0, "step": 1.0, "loss": 1.0, "data_loss": 1.0, "gradient_loss": 1.0},
    **{"gradient_norm": 1.0, "loss_scale": 1.0, "backbone_lr": 1e-5, "decoder_lr": 1e-4},
    "images_per_second": 1.0,
}
STEPS = 4


def rows(count: int, **changes: float) -> list[dict[str, float]]:
    """Of a run with four steps an epoch, whose loss is 1/1, 1/2, 1/3, ..."""
    places = [{"epoch": i // STEPS + 1, "step": i % STEPS + 1} for i in range(count)]
    return [METRICS | {"loss": 1 / (i + 1)} | at | changes for i, at in enumerate(places)]


def validated(epochs: int) -> list[dict[str, float]]:
    return [
        {"epoch": i, "step": STEPS, "loss": 2 / i, "abs_rel": 1 / i, "images": 5}
        for i in range(1, epochs + 1)
    ]


@pytest.fixture
def axes_of(monkeypatch, tmp_path):
    """`plot_curves` -> the axes it drew, by title; any warning is an error."""
    figures = []

    class Canvas(FigureCanvasAgg):
        def __init__(self, figure):
            super().__init__(figure)
            figures.append(figure)

    monkeypatch.setattr(visualize, "FigureCanvasAgg", Canvas)

    def draw(*arguments):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            visualize.plot_curves(arguments[0], STEPS, tmp_path / "curves.png", *arguments[1:])
        return {axes.get_title(): axes for axes in figures[-1].axes}

    return draw


def drawn(axes, number=0):
    """(places, values) of a line."""
    return np.transpose(axes.lines[number].get_xydata())


def filled_height(axes, number=0):
    """The share of its axes' height that a line takes up in the picture."""
    line = axes.lines[number]
    pixels = axes.transData.transform(line.get_xydata())[:, 1]
    return np.ptp(pixels) / axes.bbox.height


# 1 step, less than an epoch, an epoch, more of them, more steps than a curve has points
@pytest.mark.parametrize(
    ("count", "validations"), [(1, 0), (3, 1), (4, 1), (41, 10), (5000, 0), (5000, 150)]
)
def test_curves_are_drawn_at_any_length(tmp_path, count, validations):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        visualize.plot_curves(rows(count), STEPS, tmp_path / "curves.png", validated(validations))
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture)
    assert min(pixels.shape[:2]) >= 400
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_every_quantity_has_axes_of_its_own(axes_of):
    values = {"loss": 5.0, "data_loss": 2.0, "gradient_loss": 6.0, "gradient_norm": 7.0}
    axes = axes_of(rows(6, **values))
    shown = {
        title: [drawn(part, i)[1][0] for i in range(len(part.lines))]
        for title, part in axes.items()
    }
    assert shown == {
        "total loss": [5.0],
        "data term": [2.0],
        "gradient-matching term": [6.0],
        "gradient norm": [7.0],
        "learning rate": [1e-5, 1e-4],
    }


def test_a_short_run_is_drawn_step_by_step_at_its_place_in_the_epochs(axes_of):
    """Four steps an epoch: the first step ends at epoch 0.25, the fifth at 1.25."""
    data = rows(6)
    for done in (6, 2):  # a resumed run may begin later: places do not come from counting rows
        places, values = drawn(axes_of(data[-done:])["total loss"])
        np.testing.assert_allclose(places, [0.25, 0.5, 0.75, 1, 1.25, 1.5][-done:])
        np.testing.assert_allclose(values, [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6][-done:])


def test_a_long_run_is_drawn_as_the_means_of_a_hundred_stretches_and_their_middle(axes_of):
    noise = np.random.default_rng(3).lognormal(0, 1, 20_000)
    data = [row | {"gradient_norm": value} for row, value in zip(rows(20_000), noise, strict=True)]
    axes = axes_of(data)["gradient norm"]
    places, values = drawn(axes)
    stretches = noise.reshape(100, 200)
    np.testing.assert_allclose(values, stretches.mean(axis=1))
    # Steps i = 1..200 of the first stretch end at i / 4 epochs: 25.125 in the mean; then 50 more.
    np.testing.assert_allclose(places, 25.125 + 50 * np.arange(100))
    band = axes.collections[0].get_paths()[0].vertices
    at_first = np.unique(band[np.isclose(band[:, 0], 25.125), 1])
    ordered = np.sort(stretches[0])  # the 10th percentile is at place 0.1 * 199 = 19.9
    low = 0.1 * ordered[19] + 0.9 * ordered[20]
    high = 0.9 * ordered[179] + 0.1 * ordered[180]
    np.testing.assert_allclose(at_first, [low, high])


def test_a_small_change_of_one_term_fills_its_axes_whatever_the_others_do(axes_of):
    """The gradient term falls by 3 % with a little noise, while the total falls to a hundredth."""
    share = np.linspace(0, 1, 4000)
    noise = np.random.default_rng(4).normal(0, 0.01, 4000)
    data = [
        row | {"loss": 10 ** (1 - 2 * x), "gradient_loss": 0.3 - 0.01 * x + error}
        for row, x, error in zip(rows(4000), share, noise, strict=True)
    ]
    axes = axes_of(data)
    for title in ("total loss", "gradient-matching term"):
        assert 0.7 < filled_height(axes[title]) < 0.95
    assert axes["total loss"].get_yscale() == "log"
    assert axes["gradient-matching term"].get_yscale() == "linear"


def test_one_wild_step_does_not_flatten_a_long_run(axes_of):
    data = rows(10_000, gradient_norm=1.0)
    for i, row in enumerate(data):
        row["gradient_norm"] = 1 + i / 10_000
    data[5000]["gradient_norm"] = 100.0
    axes = axes_of(data)["gradient norm"]
    _, values = drawn(axes)
    pixels = axes.transData.transform([(0, values[0]), (0, values[-1])])[:, 1]
    assert np.ptp(pixels) / axes.bbox.height > 0.3


def test_validation_joins_the_loss_and_adds_abs_rel_over_the_epochs(axes_of):
    axes = axes_of(rows(12), validated(3))
    np.testing.assert_allclose(drawn(axes["total loss"], 1), [[1, 2, 3], [2, 1, 2 / 3]])
    (abs_rel,) = (part for title, part in axes.items() if title.startswith("AbsRel"))
    np.testing.assert_allclose(drawn(abs_rel), [[1, 2, 3], [1, 1 / 2, 1 / 3]])
    low, high = axes["total loss"].get_ylim()
    assert low < 1 / 12 and high > 2  # both curves are in sight
    assert not any("AbsRel" in title for title in axes_of(rows(12)))


def test_curves_bear_values_a_logarithm_does_not(axes_of):
    """A loss of 0, a learning rate that decays to 0, a gradient term that is 0 throughout."""
    data = rows(8, gradient_loss=0.0, backbone_lr=0.0)
    data[3]["loss"] = 0.0
    axes_of(data, validated(2))
    axes_of(rows(8, loss=0.0, data_loss=0.0, gradient_loss=0.0), [validated(1)[0] | {"loss": 0.0}])


def test_values_that_are_not_finite_are_left_out(axes_of):
    """Steps that overflow have no gradient norm; a set without valid pixels has no AbsRel."""
    data = rows(6)
    data[1]["gradient_norm"], data[4]["gradient_norm"] = np.inf, np.nan
    checks = validated(2)
    checks[0]["abs_rel"] = np.nan
    places, _ = drawn(axes_of(data, checks)["gradient norm"])
    np.testing.assert_allclose(places, [0.25, 0.75, 1, 1.5])
    nothing = [row | {"abs_rel": np.nan, "loss": np.nan} for row in checks]
    axes_of(rows(6, loss=np.nan, gradient_norm=np.inf), nothing)


def test_curves_differ_where_the_loss_differs(tmp_path):
    pictures = []
    for loss in (0.5, 5.0):
        data = rows(8)
        data[-1]["loss"] = loss
        visualize.plot_curves(data, STEPS, tmp_path / "curves.png")
        pictures.append((tmp_path / "curves.png").read_bytes())
    assert pictures[0] != pictures[1]
