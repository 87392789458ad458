"""DIW: pairs of points from a csv, and the error of their order."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

from src.data.benchmarks.diw import Diw
from src.errors import UserError
from tests import file_formats
from tests.benchmark_sets import put, random_image, write_diw

SHAPE = 4, 7
CSV = "DIW_Annotations/DIW_test.csv"


def write(root, *points: str) -> Diw:
    """Image number i, from 0, is named after it and has the content of seed i."""
    images = {f"{i:08x}": random_image(i, SHAPE) for i in range(len(points))}
    write_diw(root, images, points)
    return Diw(root)


def rewrite(root, text: str) -> str:
    """Put another text into the csv; its path."""
    return str(put(root / CSV, text.encode()))


def test_points_count_from_1_and_the_relation_tells_the_closer_one(tmp_path):
    benchmark = write(tmp_path, "1,2,4,7,>", "1,2,4,7,<", "3,3,2,1,>")
    samples = list(benchmark.samples())
    # Row 1, column 2 is [0, 1]; row 4, column 7, the last of each, is [3, 6].
    assert [(sample.closer, sample.farther) for sample in samples] == [
        ((0, 1), (3, 6)),
        ((3, 6), (0, 1)),
        ((2, 2), (1, 0)),
    ]
    assert benchmark.ids == ["DIW_test/00000000", "DIW_test/00000001", "DIW_test/00000002"]
    assert [sample.id for sample in samples] == benchmark.ids
    for seed, sample in enumerate(samples):
        assert sample.image.dtype == np.uint8
        np.testing.assert_array_equal(sample.image, random_image(seed, SHAPE))


def test_thumbs_are_jpeg(tmp_path):
    write(tmp_path, "1,1,2,2,>")
    image = np.zeros((*SHAPE, 3), np.uint8)
    image[..., 0] = 250  # red
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=100)
    put(tmp_path / "DIW_test/00000000.thumb", file.getvalue())
    found = Diw(tmp_path).read(0).image
    assert np.abs(found.astype(int) - image).max() < 4


def test_images_stay_as_they_are_stored_whatever_their_orientation(tmp_path):
    benchmark = write(tmp_path, "1,1,2,2,>")
    turned = file_formats.png_chunk(b"eXIf", file_formats.exif(6))
    image = file_formats.png(random_image(8, SHAPE), extra=(turned,))
    put(tmp_path / "DIW_test/00000000.thumb", image)
    np.testing.assert_array_equal(benchmark.read(0).image, random_image(8, SHAPE))


def test_the_protocol(tmp_path):
    benchmark = write(tmp_path, "1,1,2,2,>")
    assert benchmark.settings() == {"resize": "upper_bound 384"}
    assert (benchmark.metric, benchmark.cap) == ("whdr", None)
    assert benchmark.columns == ("whdr", "row_whdr")


def test_a_prediction_is_wrong_unless_the_closer_point_is_larger(tmp_path):
    benchmark = write(tmp_path, "1,2,4,7,>", "1,2,4,7,<")
    top, bottom = benchmark.samples()
    prediction = np.zeros(SHAPE, np.float32)
    prediction[0, 1] = 0.5
    # The image row alone says that the lower one is closer.
    assert benchmark.score(prediction, top) == {"whdr": 0.0, "row_whdr": 1.0}
    assert benchmark.score(prediction, bottom) == {"whdr": 1.0, "row_whdr": 0.0}
    prediction[3, 6] = 0.5  # a tie
    assert benchmark.score(prediction, top)["whdr"] == 1.0
    assert benchmark.score(prediction, bottom)["whdr"] == 1.0
    prediction[3, 6] = 0.6
    assert benchmark.score(prediction, top)["whdr"] == 1.0
    assert benchmark.score(prediction, bottom)["whdr"] == 0.0


def test_points_in_one_row_are_a_tie_of_the_row_baseline(tmp_path):
    benchmark = write(tmp_path, "2,1,2,7,>")
    assert benchmark.score(np.zeros(SHAPE, np.float32), benchmark.read(0))["row_whdr"] == 1.0


@pytest.mark.parametrize("shape", [(7, 4), (2, 3), (8, 14)])
def test_a_prediction_of_another_size_is_refused(tmp_path, shape):
    benchmark = write(tmp_path, "1,1,2,2,>")
    with pytest.raises(ValueError, match="shapes differ"):
        benchmark.score(np.zeros(shape, np.float32), benchmark.read(0))


def test_a_repeated_image_gets_an_id_of_its_own(tmp_path):
    write(tmp_path, "1,1,2,2,>")
    lines = "./DIW_test/00000000.thumb\n{},7,4\n"
    rewrite(tmp_path, "".join(lines.format(p) for p in ("1,1,2,2,>", "3,3,1,1,<", "1,1,3,3,<")))
    benchmark = Diw(tmp_path)
    assert benchmark.ids == [f"DIW_test/00000000{n}" for n in ("", "#2", "#3")]
    assert benchmark.read(1).closer == (0, 0)
    assert benchmark.read(2).closer == (2, 2)


@pytest.mark.parametrize(
    "text",
    [
        './DIW_test/00000000.thumb\r\n1,2,4,7,">",7,4\r\n',
        '"./DIW_test/00000000.thumb"\n"1","2","4","7",">","7","4"',
        "\ufeff./DIW_test/00000000.thumb\n1, 2, 4, 7, >, 7, 4\n\n\n",
        "\nDIW_test/00000000.thumb \n\n1,2,4,7,>,7,4\n",
    ],
)
def test_quotes_line_ends_and_blanks_do_not_matter(tmp_path, text):
    write(tmp_path, "2,2,3,3,<")
    rewrite(tmp_path, text)
    (sample,) = Diw(tmp_path).samples()
    assert (sample.id, sample.closer, sample.farther) == ("DIW_test/00000000", (0, 1), (3, 6))


def test_construction_lists_each_folder_once_and_reads_no_image(tmp_path, monkeypatch):
    write(tmp_path, *["1,1,2,2,>"] * 50)
    calls = []
    for name in ("stat", "scandir"):
        original = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, original=original, **k: calls.append(a) or original(*a, **k)
        )
    monkeypatch.setattr("src.image_io.read_image", None)
    assert len(Diw(tmp_path)) == 50
    assert len(calls) < 10


# --- wrong data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "points",
    [
        "1,1,2,2,=,7,4",
        "1,1,2,2,7,4",
        "1,1,2,2,>,7",
        "1,1,2,2,>,7,4,9",
        "1,1,2,2,,7,4",
        "a,1,2,2,>,7,4",
        "1,,2,2,>,7,4",
        "1,1,2,2,>,0,4",
        "1,1,2,2,>,7,-4",
        "garbage",
    ],
)
def test_an_odd_line_is_named_with_its_number_and_the_others_are_good(tmp_path, points):
    write(tmp_path, *["1,1,2,2,>"] * 3)
    names = [f"./DIW_test/{i:08x}.thumb\n" for i in range(3)]
    good = "1,1,2,2,>,7,4\n"
    path = rewrite(tmp_path, names[0] + good + names[1] + f"{points}\n" + names[2] + good)
    benchmark = Diw(tmp_path)
    with pytest.raises(UserError, match=rf"^{path}, line 4: expected 'yA,xA,yB,xB,") as caught:
        benchmark.read(1)
    assert points in str(caught.value)
    assert [benchmark.read(index).id[-1] for index in (0, 2)] == ["0", "2"]


@pytest.mark.parametrize("points", ["0,1,2,2", "1,0,2,2", "1,1,5,2", "1,1,2,8", "-1,1,2,2"])
def test_a_point_outside_of_the_image_is_an_odd_line(tmp_path, points):
    benchmark = write(tmp_path, f"{points},<")
    with pytest.raises(UserError, match=rf"{CSV}, line 2: a point of '{points},.*is outside of"):
        benchmark.read(0)


def test_the_corners_are_inside(tmp_path):
    sample = write(tmp_path, "1,1,4,7,>").read(0)
    assert (sample.closer, sample.farther) == ((0, 0), (3, 6))


def test_a_lost_line_of_either_kind_is_named(tmp_path):
    write(tmp_path, "1,1,2,2,>", "1,1,2,2,>")
    first, points, second, _ = (tmp_path / CSV).read_text().splitlines(keepends=True)
    path = rewrite(tmp_path, first + points + points)
    with pytest.raises(UserError, match=rf"^{path}, line 3: expected an image such as"):
        Diw(tmp_path)
    rewrite(tmp_path, first + second + points)
    with pytest.raises(UserError, match=rf"^{path}, line 3: expected an image such as"):
        Diw(tmp_path)
    rewrite(tmp_path, first + points + second)
    with pytest.raises(UserError, match=rf"^{path}, line 3: .*0001.thumb, found ''"):
        Diw(tmp_path).read(1)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_csv_is_named(tmp_path, text):
    write(tmp_path, "1,1,2,2,>")
    path = rewrite(tmp_path, text)
    with pytest.raises(UserError, match=rf"^{path}: the file is empty"):
        Diw(tmp_path)


def test_a_csv_that_is_no_text_is_named(tmp_path):
    write(tmp_path, "1,1,2,2,>")
    path = put(tmp_path / CSV, b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match=rf"^{path}: cannot be read as text"):
        Diw(tmp_path)


@pytest.mark.parametrize("name", ["", "dir/", "a\x00b"])
def test_a_line_that_names_no_file_is_an_odd_line(tmp_path, name):
    write(tmp_path, "1,1,2,2,>")
    path = rewrite(tmp_path, f'"{name}"\n1,1,2,2,>,7,4\n')
    with pytest.raises(UserError, match=rf"^{path}(, line 1: expected an image|: cannot be read)"):
        Diw(tmp_path)


def test_a_missing_csv_or_folder_is_named(tmp_path):
    write(tmp_path, "1,1,2,2,>")
    (tmp_path / CSV).unlink()
    with pytest.raises(UserError, match=rf"^{tmp_path / CSV}: no such file"):
        Diw(tmp_path)
    with pytest.raises(UserError, match=r"nowhere: no such folder.*DIW"):
        Diw(tmp_path / "nowhere")


def test_the_first_three_missing_images_are_named(tmp_path):
    write(tmp_path, *["1,1,2,2,>"] * 8)
    for number in range(2, 8):
        (tmp_path / f"DIW_test/{number:08x}.thumb").unlink()
    pattern = r"0002\.thumb, \S*0003\.thumb, \S*0004\.thumb and 3 more;"
    with pytest.raises(UserError, match=rf"^{tmp_path}: incomplete, missing: \S*{pattern}"):
        Diw(tmp_path)


def test_an_image_of_another_size_is_named(tmp_path):
    benchmark = write(tmp_path, "1,1,2,2,>")
    image = put(tmp_path / "DIW_test/00000000.thumb", file_formats.png(random_image(0, (7, 4))))
    with pytest.raises(UserError, match=r"00000000.thumb is 4 x 7 but .*, line 2 says 7 x 4"):
        benchmark.read(0)
    put(image, image.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"00000000.thumb: truncated or damaged"):
        benchmark.read(0)
