"""Known distances: the file, the fit, and the depth in metres."""

from __future__ import annotations

import numpy as np
import pytest

from src import align
from src.align import KnownPoints, fit_points, metric_depth, millimetres, read_alignment
from src.errors import UserError
from tests import file_formats

HEIGHT, WIDTH = 6, 8
MAX_DEPTH = 80.0


def points(*values: tuple[int, int, float]) -> KnownPoints:
    """From (row, column, metres)."""
    rows, columns, metres = zip(*values, strict=True)
    return KnownPoints(np.array(rows), np.array(columns), np.array(metres, np.float64))


def draw(seed: int, count: int) -> tuple[np.ndarray, KnownPoints]:
    """A prediction, and points whose depth it tells but for scale, shift and noise."""
    rng = np.random.default_rng(seed)
    prediction = rng.uniform(0, 900, (HEIGHT, WIDTH)).astype(np.float32)
    cells = rng.choice(HEIGHT * WIDTH, count, replace=False)
    noise = rng.normal(0, 0.01, count)
    metres = 1 / (0.0007 * prediction.ravel()[cells].astype(float) + 0.05 + np.abs(noise))
    return prediction, KnownPoints(cells // WIDTH, cells % WIDTH, metres)


def least_squares(prediction: np.ndarray, known: KnownPoints) -> tuple[float, float]:
    """(scale, shift) by LAPACK."""
    predicted = np.array(
        [prediction[y, x] for y, x in zip(known.rows, known.columns, strict=True)], np.float64
    )
    design = np.stack([predicted, np.ones_like(predicted)], axis=1)
    scale, shift = np.linalg.lstsq(design, 1 / known.metres, rcond=None)[0]
    return float(scale), float(shift)


# --- The fit --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_is_that_of_least_squares_in_disparity(seed):
    prediction, known = draw(seed, 7)
    fit = fit_points(prediction, known, MAX_DEPTH)
    scale, shift = least_squares(prediction, known)
    assert fit.scale == pytest.approx(scale, rel=1e-9)
    assert fit.shift == pytest.approx(shift, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_errors_are_those_of_the_depth_at_the_points(seed):
    prediction, known = draw(seed, 7)
    fit = fit_points(prediction, known, MAX_DEPTH)
    scale, shift = least_squares(prediction, known)
    squares = absolute = relative = 0.0
    for y, x, metres in zip(known.rows, known.columns, known.metres, strict=True):
        error = abs(1 / (scale * float(prediction[y, x]) + shift) - metres)
        squares += error**2
        absolute = max(absolute, error)
        relative += error / metres
    assert fit.points == 7
    assert fit.rmse == pytest.approx((squares / 7) ** 0.5, rel=1e-5)  # the depth is float32
    assert fit.largest_error == pytest.approx(absolute, rel=1e-5)
    assert fit.abs_rel == pytest.approx(relative / 7, rel=1e-5)
    assert fit.rmse > 1e-3


def test_the_errors_know_the_largest_depth():
    """Disparity 0.1, 0.2, 0.5 of 10, 5 and 2 m is fitted exactly; a cap of 6 m takes 4 from 10."""
    prediction = np.array([[1, 2, 5]], np.float32)
    fit = fit_points(prediction, points((0, 0, 10), (0, 1, 5), (0, 2, 2)), 6)
    assert fit.largest_error == pytest.approx(4, rel=1e-6)
    assert fit.abs_rel == pytest.approx(0.4 / 3, rel=1e-5)
    assert fit.rmse == pytest.approx((16 / 3) ** 0.5, rel=1e-6)


def test_a_fit_in_words():
    prediction = np.array([[1, 2, 3]], np.float32)
    # 1/m: 0.5, 0.25, 1 at 1, 2, 3. By hand: scale 0.25, shift 1/12; 1/z = 1/3, 7/12, 5/6.
    fit = fit_points(prediction, points((0, 0, 2), (0, 1, 4), (0, 2, 1)), MAX_DEPTH)
    # z = 3, 12/7, 1.2: errors 1, 16/7, 0.2.
    assert str(fit) == (
        "3 points, scale 0.25, shift 0.0833333; error at the points: RMSE 1.445 m, largest "
        "2.286 m, AbsRel 42.4 %"
    )


def test_two_points_are_fitted_exactly_and_say_so():
    prediction = np.array([[10, 30]], np.float32)
    fit = fit_points(prediction, points((0, 0, 4), (0, 1, 1)), MAX_DEPTH)
    # 1/4 = 10 s + t and 1 = 30 s + t.
    assert str(fit) == (
        "2 points, scale 0.0375, shift -0.125; with two points the fit is exact, there is no error "
        "to estimate"
    )


def test_one_pixel_measured_twice_has_an_error():
    prediction = np.array([[10, 30]], np.float32)
    fit = fit_points(prediction, points((0, 0, 4), (0, 0, 2), (0, 1, 1)), MAX_DEPTH)
    assert "error at the points: RMSE" in str(fit)
    assert fit.largest_error == pytest.approx(4 - 8 / 3, rel=1e-6)  # 1/z = (1/4 + 1/2) / 2


@pytest.mark.parametrize(
    ("predicted", "metres"),
    [
        ([1, 2, 3], [1, 2, 3]),  # nearer, but predicted farther
        ([1, 2], [1, 2]),
        ([1, 2], [3, 3]),  # no slope at all
        ([1, 2, 3], [0.7, 0.3, 0.7]),
        ([1, 2, 4], [2.5, 2.5, 2.5]),  # no slope, but rounding makes one of 5e-33
        ([0.1, 0.2, 0.3], [2.1, 2.1, 2.1]),
    ],
)
def test_points_that_contradict_the_prediction_are_refused(predicted, metres):
    known = points(*((0, x, value) for x, value in enumerate(metres)))
    with pytest.raises(UserError, match="contradict the prediction") as error:
        fit_points(np.array([predicted], np.float32), known, MAX_DEPTH)
    assert "\n" not in str(error.value)


def test_one_predicted_value_at_all_points_is_refused():
    prediction = np.array([[3, 3, 5]], np.float32)
    with pytest.raises(UserError, match="the same at all 2 points"):
        fit_points(prediction, points((0, 0, 1), (0, 1, 2)), MAX_DEPTH)


# --- Depth ----------------------------------------------------------------------------------------


def test_a_plane_of_known_depth_comes_back_in_metres():
    rows, columns = np.mgrid[:40, :60]
    depth = 1.5 + 0.1 * rows + 0.05 * columns  # to 8.35 m
    prediction = ((1 / depth - 0.07) / 0.0013).astype(np.float32)
    known = points(*((y, x, depth[y, x]) for y, x in [(0, 0), (39, 59), (20, 7), (3, 50)]))
    fit = fit_points(prediction, known, MAX_DEPTH)
    metres = metric_depth(prediction, fit.scale, fit.shift, MAX_DEPTH)
    assert metres.dtype == np.float32
    assert np.abs(metres / depth - 1).max() < 1e-5
    assert fit.largest_error < 1e-5


def test_what_is_beyond_the_largest_depth_becomes_it():
    # 1/z = 0.5 p - 1: -1, 0, 0.01, 0.1 (the limit), 0.125 and 1.
    prediction = np.array([[0, 2, 2.02, 2.2, 2.25, 4]], np.float32)
    metres = metric_depth(prediction, 0.5, -1, 10)
    assert metres[0].tolist() == pytest.approx([10, 10, 10, 10, 8, 1], rel=1e-6)
    assert (metres <= 10).all()
    assert metres[0, :3].tolist() == [10, 10, 10]


def test_millimetres_by_hand():
    metres = np.array([[0.0001, 0.0126, 1.2344, 65.535, 65.536, 80]], np.float32)
    values = millimetres(metres)
    assert values.dtype == np.uint16
    assert values.tolist() == [[1, 13, 1234, 65535, 0, 0]]


# --- The file -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """a.png and b.png of 8 x 6 pixels; lying.png is stored so and upright 6 wide and 8 high."""
    place = tmp_path / "photographs"
    place.mkdir()
    grey = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    for name in ("a.png", "b.png", "comma, here.png"):
        (place / name).write_bytes(file_formats.png(grey))
    chunk = file_formats.png_chunk(b"eXIf", file_formats.exif(6))
    (place / "lying.png").write_bytes(file_formats.png(grey, extra=(chunk,)))
    (place / "notes.txt").write_text("hello")
    return place


@pytest.fixture
def read(tmp_path, folder):
    """Reads these bytes as the file of known distances."""

    def read_text(content: str | bytes, max_depth: float = MAX_DEPTH) -> align.Alignment:
        path = tmp_path / "known.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_alignment(path, folder, max_depth)

    return read_text


def as_lists(known: KnownPoints) -> list[list[float]]:
    return [known.rows.tolist(), known.columns.tolist(), known.metres.tolist()]


def test_the_points_of_each_image(read):
    alignment = read(
        "# measured with a tape\n\nimage,x,y,metres\nb.png,7,5,2.5\n  # near\na.png,0,0,1\n"
        'b.png,1,2,3e1\na.png,3,4,80\n\n"comma, here.png",1,2,3\n"comma, here.png",2,2,0.001'
    )
    assert alignment.max_depth == MAX_DEPTH
    assert {name: as_lists(known) for name, known in alignment.points.items()} == {
        "b.png": [[5, 2], [7, 1], [2.5, 30]],
        "a.png": [[0, 4], [0, 3], [1, 80]],
        "comma, here.png": [[2, 2], [1, 2], [3, 0.001]],
    }


def test_fractions_go_to_the_nearest_pixel(read):
    text = "image,x,y,metres\na.png,2.4,-0.5,1\na.png,2.5,5.49,2\na.png,3.5,1.6,3\n"
    assert as_lists(read(text).points["a.png"]) == [[0, 5, 2], [2, 3, 4], [1, 2, 3]]


def test_a_file_of_a_spreadsheet_is_read(read):
    """Byte-order mark, CRLF, spaces."""
    text = b"\xef\xbb\xbfimage, x, y, metres\r\na.png, 1, 2, 3\r\na.png, 2, 3, 4\r\n"
    assert as_lists(read(text).points["a.png"]) == [[2, 3], [1, 2], [3, 4]]


def test_pixels_are_those_of_the_upright_photograph(read):
    text = "image,x,y,metres\nlying.png,5,7,1\nlying.png,0,0,2\n"
    assert as_lists(read(text).points["lying.png"]) == [[7, 0], [5, 0], [1, 2]]
    with pytest.raises(UserError, match=r"line 2: x: pixel 6 .* 6 x 8 pixels"):
        read("image,x,y,metres\nlying.png,6,5,1\nlying.png,0,0,2\n")


def test_the_points_of_a_damaged_photograph_wait_for_its_own_error(read, folder):
    good = (folder / "a.png").read_bytes()
    (folder / "a.png").write_bytes(good[: len(good) // 2])
    assert "a.png" in read("image,x,y,metres\na.png,1,2,3\na.png,2,2,4\n").points


GOOD = "image,x,y,metres\na.png,1,2,3\n"


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["line 1: expected the header image,x,y,metres, got ''"]),
        ("# only this\n", ["line 1: expected the header"]),
        ("a.png,1,2,3\na.png,2,3,4\n", ["line 1: expected the header", "'a.png,1,2,3'"]),
        ("\nimage;x;y;metres\n", ["line 2: expected the header", "'image;x;y;metres'"]),
        ("image,y,x,metres\na.png,1,2,3\n", ["line 1: expected the header"]),
        ("image,x,y,metres\n\n", ["line 1: no points"]),
        (GOOD + "a.png,1,2\n", ["line 3: expected image,x,y,metres, got 3 values"]),
        (GOOD + "a.png,1,2,3,4\n", ["line 3: expected image,x,y,metres, got 5 values"]),
        (GOOD + '"a.png,1,2,3\n', ["line 3: not CSV"]),
        (GOOD + "#\nc.png,1,2,3\n", ["line 4: no image 'c.png' in", "photographs"]),
        (GOOD + "notes.txt,1,2,3\n", ["line 3: no image 'notes.txt' in"]),
        (GOOD + "comma here.png,1,2,3\n", ["line 3: no image", "mean comma, here.png?"]),
        (GOOD + "a.png,8,2,3\n", ["line 3: x: pixel 8", "0 to 7", "8 x 6 pixels"]),
        (GOOD + "a.png,7.5,2,3\n", ["line 3: x: pixel 8"]),
        (GOOD + "a.png,-1,2,3\n", ["line 3: x: pixel -1"]),
        (GOOD + "a.png,1,6,3\n", ["line 3: y: pixel 6", "0 to 5"]),
        (GOOD + "a.png,1,-0.6,3\n", ["line 3: y: pixel -1"]),
        (GOOD + "a.png,one,2,3\n", ["line 3: x: expected a number, got 'one'"]),
        (GOOD + "a.png,1,,3\n", ["line 3: y: expected a number, got ''"]),
        (GOOD + "a.png,1,nan,3\n", ["line 3: y: expected a number, got 'nan'"]),
        (GOOD + "a.png,1,2,3 m\n", ["line 3: metres: expected a number, got '3 m'"]),
        (GOOD + "a.png,1,2,inf\n", ["line 3: metres: expected a number, got 'inf'"]),
        (GOOD + "a.png,1,2,0\n", ["line 3: metres: expected 0.001 to 80", "got '0'"]),
        (GOOD + "a.png,1,2,-3\n", ["line 3: metres: expected 0.001 to 80", "'-3'"]),
        (GOOD + "a.png,1,2,1e-320\n", ["line 3: metres: expected 0.001 to 80"]),
        (GOOD + "a.png,1,2,80.1\n", ["line 3: metres", "80 (align_max_depth)", "'80.1'"]),
        (GOOD, ["line 2: a.png has points at one pixel only"]),
        (GOOD + "b.png,1,2,3\nb.png,2,2,3\n", ["line 2: a.png has points at one pixel"]),
        (GOOD + "a.png,1.2,2,4\n", ["line 3: a.png has points at one pixel only"]),
        (b"\xff\xfei\x00m\x00", ["align", "UTF-8"]),
    ],
)
def test_what_is_wrong_in_the_file_is_one_line(read, tmp_path, content, parts):
    with pytest.raises(UserError) as error:
        read(content)
    message = str(error.value)
    assert "\n" not in message
    for part in [str(tmp_path / "known.csv"), *parts]:
        assert part in message


def test_a_file_that_cannot_be_read_is_named(tmp_path, folder):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(UserError, match="align: cannot read") as error:
            read_alignment(path, folder, MAX_DEPTH)
        assert str(path) in str(error.value)


def test_the_largest_depth_bounds_the_known_ones(read):
    text = "image,x,y,metres\na.png,1,2,100\na.png,2,2,4\n"
    assert read(text, 100).points["a.png"].metres.tolist() == [100, 4]
    with pytest.raises(UserError, match=r"0\.001 to 99\.5 "):
        read(text, 99.5)
