"""Sizes, resizing, cropping and normalisation, against values worked out by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from src.data import transforms
from src.data.transforms import Crop, ResizeRule


@pytest.mark.parametrize(
    ("method", "bounds", "image", "expected"),
    [
        # (height, width) throughout. The rule of MiDaS: scale, round to the nearest multiple of
        # 32, floor what is above an upper bound, ceil what is below a lower bound.
        ("lower_bound", (384, 384), (375, 1242), (384, 1280)),  # KITTI: 1271.8 / 32 = 39.7
        ("upper_bound", (384, 384), (436, 1024), (160, 384)),  # Sintel: 163.5 / 32 = 5.1
        ("upper_bound", (384, 384), (480, 640), (288, 384)),  # TUM: exact
        ("lower_bound", (384, 384), (480, 640), (384, 512)),  # exact
        ("upper_bound", (384, 384), (500, 741), (256, 384)),  # 259.1 / 32 = 8.1
        ("upper_bound", (384, 384), (641, 640), (384, 384)),  # 383.4 / 32 = 11.98
        ("upper_bound", (384, 384), (640, 200), (384, 128)),  # 120 / 32 = 3.75: up, below its bound
        # A bound that is no multiple itself: 120 / 32 = 3.75 would round up past it.
        ("upper_bound", (120, 120), (120, 120), (96, 96)),
        ("lower_bound", (100, 100), (100, 100), (128, 128)),  # 3.125 would round down below it
        ("upper_bound", (384, 384), (3, 1000), (32, 384)),  # 1.2 rounds to 0: one multiple at least
        ("upper_bound", (384, 384), (1, 1), (384, 384)),
        ("lower_bound", (384, 384), (2, 4), (384, 768)),
        # minimal: the scale nearer to 1 of 384 / 480 = 0.8 and 384 / 640 = 0.6.
        ("minimal", (384, 384), (480, 640), (384, 512)),
        ("minimal", (384, 384), (375, 1242), (384, 1280)),  # 1.024 against 0.309
        ("minimal", (256, 384), (600, 400), (576, 384)),  # 0.96 against 0.43
    ],
)
def test_network_size_with_the_aspect_kept(method, bounds, image, expected):
    rule = ResizeRule(height=bounds[0], width=bounds[1], method=method)
    assert rule.output_size(*image) == expected


@pytest.mark.parametrize("method", ["lower_bound", "upper_bound", "minimal"])
def test_network_size_without_the_aspect_is_the_target(method):
    rule = ResizeRule(width=320, height=192, keep_aspect_ratio=False, method=method)
    assert rule.output_size(375, 1242) == (192, 320)
    assert rule.output_size(1, 1) == (192, 320)


def test_network_size_obeys_multiple_of():
    rule = ResizeRule(width=384, height=384, multiple_of=64, method="upper_bound")
    assert rule.output_size(480, 640) == (
        256,
        384,
    )  # 288 / 64 = 4.5 goes to the even 4, as in NumPy
    assert rule.output_size(500, 640) == (320, 384)  # 300 / 64 = 4.7


def random_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_an_image_is_resized_bicubically_in_floats():
    image = random_image(20, 30)
    expected = cv2.resize(image / 255.0, (48, 32), interpolation=cv2.INTER_CUBIC)
    resized = transforms.resize_image(image, 32, 48)
    assert resized.dtype == np.float32
    assert resized.shape == (32, 48, 3)
    np.testing.assert_allclose(resized, expected, atol=1e-6)
    # A conversion back to 8 bits on the way would clip and round.
    assert resized.min() < 0 or resized.max() > 1


@pytest.mark.parametrize(("height", "width"), [(32, 48), (9, 7), (20, 30)])
def test_pixels_are_resized_bicubically_to_the_nearest_grey_value(height, width):
    image = random_image(20, 30)
    exact = cv2.resize(image.astype(np.float64), (width, height), interpolation=cv2.INTER_CUBIC)
    resized = transforms.resize_pixels(image, height, width)
    assert resized.dtype == np.uint8
    off = np.abs(resized - exact.clip(0, 255))
    assert off.max() <= 1
    assert (off <= 0.5).mean() > 0.97


def test_an_image_of_the_right_size_keeps_its_values():
    image = random_image(8, 12)
    np.testing.assert_allclose(
        transforms.resize_image(image, 8, 12), image / np.float32(255), atol=1e-7
    )


@pytest.mark.parametrize(("source", "result"), [(12, 4), (10, 4), (6, 9), (7, 5), (5, 5)])
def test_a_target_pixel_takes_the_value_under_its_centre(source, result):
    ramp = np.arange(source, dtype=np.float32)
    centres = [int((i + 0.5) * source / result) for i in range(result)]
    across = transforms.resize_nearest(np.tile(ramp, (3, 1)), 3, result)
    down = transforms.resize_nearest(np.tile(ramp[:, None], (1, 3)), result, 3)
    assert across.tolist() == [centres] * 3
    assert down.T.tolist() == [centres] * 3


def test_image_and_target_stay_aligned_when_they_shrink():
    """The same ramp in both: thirds of 9 pixels have their centres at 1, 4 and 7."""
    ramp = np.tile(np.arange(9, dtype=np.uint8), (9, 1))
    image = transforms.resize_image(np.dstack([ramp] * 3), 9, 3)[..., 0] * 255
    target = transforms.resize_nearest(ramp.astype(np.float32), 9, 3)
    np.testing.assert_allclose(target[0], [1, 4, 7])
    np.testing.assert_allclose(image[0, 1], target[0, 1], atol=1e-4)  # the border overshoots


def test_a_target_keeps_unknown_values_apart():
    values = np.array([[1, np.nan], [3, 4]], np.float32)
    resized = transforms.resize_nearest(values, 4, 4)
    assert np.isnan(resized).sum() == 4
    assert np.isnan(resized[:2, 2:]).all()


def test_a_prediction_is_resized_bilinearly():
    """By hand, pixel centres aligned: 0 | 0.25 | 0.75 | 1 from the two columns 0 and 1."""
    prediction = np.array([[0, 1], [0, 1]], np.float32)
    resized = transforms.resize_prediction(prediction, 2, 4)
    np.testing.assert_allclose(resized, [[0, 0.25, 0.75, 1]] * 2)
    assert resized.dtype == np.float32


def test_normalisation_by_hand():
    image = np.zeros((2, 3, 3), np.float32)
    image[1, 2] = [1.0, 0.5, 0.25]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalized = transforms.normalize(image[:, ::-1], mean, std)  # a view, as after a flip
    assert normalized.shape == (3, 2, 3)
    assert normalized.dtype == np.float32
    assert normalized.flags.c_contiguous
    np.testing.assert_allclose(
        normalized[:, 1, 0],
        [(1 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.25 - 0.406) / 0.225],
        1e-5,
    )
    np.testing.assert_allclose(
        normalized[:, 0, 0], [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], 1e-5
    )


@pytest.mark.parametrize("columns", [1, -1])
def test_every_grey_value_is_normalised_as_in_floats(columns):
    image = np.stack([np.roll(np.arange(256, dtype=np.uint8), 7 * c) for c in range(3)], axis=-1)
    image = image.reshape(8, 32, 3)[:, ::columns]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    out = np.full((3, 8, 32), np.nan, np.float32)
    transforms.normalize_pixels(image, transforms.normalization_table(mean, std), out)
    expected = (image / 255.0 - mean) / std
    np.testing.assert_allclose(out, expected.transpose(2, 0, 1), rtol=0, atol=1e-6)
    assert np.array_equal(out, transforms.normalize(image / np.float32(255), mean, std))


@pytest.mark.parametrize(
    ("box", "size", "shrink"),
    [
        ((384, 384), (384, 384), 1),
        ((767, 900), (384, 384), 1),
        ((768, 768), (384, 384), 2),
        ((769, 1535), (384, 384), 2),
        ((1536, 1536), (384, 384), 4),
        ((3072, 9999), (384, 384), 8),
        ((99999, 99999), (384, 384), 8),
        ((192, 500), (96, 128), 2),
        ((500, 255), (96, 128), 1),
    ],
)
def test_an_image_is_shrunk_as_far_as_the_crop_keeps_the_size(box, size, shrink):
    assert Crop(5, 6, *box).shrink_for(*size) == shrink


def test_a_snapped_crop_by_hand():
    box = Crop(13, 16, 101, 48)
    assert box.snapped(1) == box
    assert box.snapped(4) == Crop(12, 16, 100, 48)
    assert box.snapped(4).shrunk(4) == Crop(3, 4, 25, 12)
    assert box.snapped(8) == Crop(8, 16, 104, 48)  # 13 + 101 = 114, down to 112


def test_edges_of_a_snapped_crop_move_up_and_left_by_less_than_a_step():
    rng = np.random.default_rng(0)
    for step in (2, 4, 8):
        for top, left, height, width in rng.integers(0, 100, (200, 4)).tolist():
            box = Crop(top, left, height, width).snapped(step)
            bottom, right = box.top + box.height, box.left + box.width
            moved = top - box.top, left - box.left, top + height - bottom, left + width - right
            assert all(0 <= by < step for by in moved)
            assert box.height % step == box.width % step == 0
            assert box.height >= height // step * step
            assert box.width >= width // step * step


def test_a_scaled_crop_by_hand():
    box = Crop(10, 20, 30, 41)
    assert box.scaled((100, 100), (100, 100)) == box
    assert box.scaled((100, 100), (50, 50)) == Crop(5, 10, 15, 20)  # 61 / 2 goes to the even 30
    assert box.scaled((100, 100), (10, 20)) == Crop(1, 4, 3, 8)
    assert Crop(0, 0, 301, 403).scaled((301, 403), (54, 72)) == Crop(0, 0, 54, 72)
    assert Crop(99, 99, 1, 1).scaled((100, 100), (10, 10)) == Crop(9, 9, 1, 1)
    assert Crop(50, 50, 1, 1).scaled((100, 100), (2, 2)) == Crop(1, 1, 1, 1)


@pytest.mark.parametrize("aspect", [None, 1.0, 4 / 3, 0.4, 3.5])
@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (100, 700), (37, 41)])
def test_crops_lie_inside_with_the_asked_aspect_and_size(shape, aspect):
    height, width = shape
    rng = np.random.default_rng(0)
    wanted = aspect or width / height
    largest = min(width, height * wanted)  # the widest rectangle of that aspect that fits
    widths = []
    for _ in range(200):
        box = transforms.random_crop(height, width, aspect, 0.5, rng)
        assert 0 <= box.top <= box.top + box.height <= height
        assert 0 <= box.left <= box.left + box.width <= width
        # Each side is rounded to whole pixels.
        assert abs(box.width - box.height * wanted) <= 0.5 + 0.5 * wanted + 1e-9
        assert 0.5 * largest - 0.5 <= box.width <= largest + 0.5
        widths.append(box.width)
    assert min(widths) < 0.55 * largest + 1
    assert max(widths) > 0.95 * largest - 1


def test_crops_reach_every_corner():
    rng = np.random.default_rng(1)
    boxes = [transforms.random_crop(40, 40, 1.0, 0.5, rng) for _ in range(2000)]
    assert {box.top for box in boxes} >= set(range(16))
    assert any(box.top == 0 and box.left == 0 and box.height < 40 for box in boxes)
    assert any(box.top + box.height == 40 and box.height < 40 for box in boxes)
    assert any(box.left + box.width == 40 and box.width < 40 for box in boxes)


def test_a_crop_of_scale_one_is_the_largest():
    rng = np.random.default_rng(2)
    assert transforms.random_crop(30, 50, None, 1.0, rng) == Crop(0, 0, 30, 50)
    box = transforms.random_crop(30, 50, 1.0, 1.0, rng)
    assert (box.top, box.height, box.width) == (0, 30, 30)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3)])
def test_tiny_images_can_be_cropped(shape):
    rng = np.random.default_rng(3)
    for _ in range(50):
        box = transforms.random_crop(*shape, 1.0, 0.1, rng)
        assert box.height >= 1
        assert box.width >= 1
        assert box.top + box.height <= shape[0]
        assert box.left + box.width <= shape[1]


def test_a_crop_is_the_rectangle_of_images_and_maps():
    image = random_image(10, 12)
    box = Crop(top=2, left=3, height=4, width=5)
    assert np.array_equal(transforms.crop(image, box), image[2:6, 3:8])
    assert np.array_equal(transforms.crop(image[..., 0], box), image[2:6, 3:8, 0])


def test_unit_range_looks_at_valid_pixels_only():
    disparity = np.array([[10, 20, 1000], [15, -5, np.nan]], np.float32)
    mask = np.array([[True, True, False], [True, False, False]])
    result = transforms.unit_range(disparity, mask)
    assert result.dtype == np.float32
    assert result.tolist() == [[0, 1, 0], [0.5, 0, 0]]


def test_unit_range_of_the_largest_numbers():
    """3.4e38 is float32's largest; of the map [-3e38, 3e38] the difference is above it."""
    disparity = np.array([[-3e38, 0], [1.5e38, 3e38]], np.float32)
    result = transforms.unit_range(disparity, np.ones((2, 2), bool))
    np.testing.assert_allclose(result, [[0, 0.5], [0.75, 1]], atol=1e-6)
    disparity[0, 1] = np.nan
    mask = np.isfinite(disparity)
    result = transforms.unit_range(disparity, mask)
    np.testing.assert_allclose(result, [[0, 0], [0.75, 1]], atol=1e-6)


def test_unit_range_of_a_constant_or_empty_map_is_zero():
    mask = np.ones((2, 2), bool)
    assert not transforms.unit_range(np.full((2, 2), 7, np.float32), mask).any()
    assert not transforms.unit_range(np.full((2, 2), np.nan, np.float32), ~mask).any()
