"""The report page: its numbers are those of the result files, and it works in a browser."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from src.errors import UserError
from src.report import write_report

# The contract of an evaluation's files, spelt out: the header of results.csv.
HEADER = [
    *("benchmark", "id", "height", "width", "skipped"),
    *("abs_rel", "rmse", "log10", "silog", "delta1", "delta2", "delta3", "bad_pixel_percent"),
    *("row_abs_rel", "whdr", "row_whdr"),
]
EVIL = "<script>alert('x')</script>\"&"

DEPTH_MEANS = {
    "abs_rel": 0.123456,
    "rmse": 4.56789,
    "log10": 0.054321,
    "silog": 17.98765,
    "delta1": 0.91239,
    "delta2": 0.95678,
    "delta3": 0.98765,
    "bad_pixel_percent": 8.76049,
    "row_abs_rel": 0.54321,
}
# To the printed digits, rounded by hand.
DEPTH_TEXTS = [
    "0.1235",
    "4.568",
    "0.0543",
    "17.988",
    "0.9124",
    "0.9568",
    "0.9877",
    "8.760",
    "0.5432",
]


class Page(HTMLParser):
    """What a page holds: tables of cell texts, tags with their attributes, all text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(source)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._rows = self.tables.setdefault(dict(attrs).get("id") or f"t{len(self.tables)}", [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        if tag not in ("meta", "link", "img"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag  # well-formed

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.words.append(data)
        if "td" in self._open or "th" in self._open:
            self._rows[-1][-1] = f"{self._rows[-1][-1]} {' '.join(data.split())}".strip()


def benchmark(metric: str, errors: list[float], **changes: Any) -> dict[str, Any]:
    """An entry of results.json without panels and skipped images, and its images' errors."""
    means = {"whdr": 0.25, "row_whdr": 0.4} if metric == "whdr" else dict(DEPTH_MEANS)
    mean = float(np.mean(errors)) if errors else 0.0
    settings = {"checkpoint": "net.ckpt", "checkpoint_sha256": "0123456789abcdef" * 4}
    settings |= {"network_size": "384", "upsampling": "bilinear"}
    entry = {
        "metric": metric,
        "error": mean,
        "images": len(errors),
        "means": means | {metric: mean},
    }
    entry |= {"settings": settings, "skipped": [], "panels": [], "errors": errors}
    return entry | changes


def write_evaluation(folder: Path, **benchmarks: dict[str, Any]) -> Path:
    """results.json and results.csv of `benchmark` entries, and the pictures of their panels."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "results.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, HEADER, restval="")
        table.writeheader()
        for name, entry in benchmarks.items():
            for i, error in enumerate(entry["errors"]):
                row = {"benchmark": name, "id": f"scene/{i}", "height": 48, "width": 64}
                table.writerow(row | {entry["metric"]: repr(error)})
            for image in entry["skipped"]:
                table.writerow({"benchmark": name, "id": image["id"], "skipped": image["reason"]})
            for panel in entry["panels"]:
                for picture in panel["pictures"]:
                    write_picture(folder / picture["file"])
    entries = {
        name: {key: value for key, value in entry.items() if key != "errors"}
        for name, entry in benchmarks.items()
    }
    (folder / "results.json").write_text(json.dumps(entries))
    return folder


def write_picture(path: Path, width: int = 64, height: int = 48) -> None:
    path.parent.mkdir(exist_ok=True)
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    picture = np.broadcast_to(ramp[None, :, None], (height, width, 3))
    Image.fromarray(np.ascontiguousarray(picture)).save(path)


def panel(name: str, rank: str, error: float, image: str | None = None) -> dict[str, Any]:
    captions = (
        "photograph",
        "ground truth, 3.1 to 78.2 m",
        "aligned prediction",
        "error, 0 to 0.5",
    )
    pictures = [
        {"file": f"panels/{name}-{rank}-{i}.png", "caption": caption}
        for i, caption in enumerate(captions)
    ]
    return {"rank": rank, "id": image or f"{rank}/0001", "error": error, "pictures": pictures}


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text())


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_evaluation(tmp_path / "val", Kitti=benchmark("bad_pixel_percent", [5.0, 15.0]))


# ---- tables ----


def test_own_errors_stand_beside_the_published_ones(tmp_path):
    """The published rows typed from the papers' tables: v2, v2.1, RW-only, model zoo twice."""
    folder = write_evaluation(
        tmp_path / "val",
        Middlebury=benchmark("abs_rel", [0.22854]),
        DIW=benchmark("whdr", [0.0] * 7 + [1.0]),
        NYU=benchmark("bad_pixel_percent", [9.7]),
        ETH3D=benchmark("abs_rel", [0.15006]),
        TUM=benchmark("bad_pixel_percent", [15.08, 14.0]),
        Sintel=benchmark("abs_rel", [0.3] * 1063 + [1.3]),
        Kitti=benchmark("bad_pixel_percent", [24.2219]),
    )
    percent = "% of pixels with δ > 1.25"
    none = "none"
    rows = page_of(folder).tables["errors"]
    assert rows[2:] == [
        [f"Kitti {percent}", "1", "24.222", "23.90", "16.08", "27.95", "24.222", "23.870"],
        ["Sintel AbsRel", "1,064", "0.3009", "0.327", "0.3285", "0.349", "0.323", "0.322569"],
        [f"TUM {percent}", "2", "14.540", "14.29", "12.51", "21.69", "15.08", "16.198"],
        ["ETH3D AbsRel", "1", "0.1501", "0.129", "0.1155", "0.151", none, none],
        [f"NYU {percent}", "1", "9.700", "9.55", "8.71", "18.74", none, none],
        ["DIW WHDR", "8", "0.1250", "0.1246", "0.1295", "0.1459", none, none],
        ["Middlebury AbsRel", "1", "0.2285", none, none, none, none, none],
    ]
    heads = [" ".join(row) for row in rows[:2]]
    assert heads[0] == "Benchmark Images This evaluation Mixed training sets ReDWeb alone"
    assert heads[1] == (
        "MiDaS v2 ResNeXt-101 MIX 5 MiDaS v2.1 ResNeXt-101 Paper ResNet-50"
        " Model zoo ResNeXt-101 Ascend 910 Model zoo ResNeXt-101 V100"
    )


def test_all_measures_are_those_of_the_results_with_unit_and_direction(tmp_path):
    kitti = benchmark("bad_pixel_percent", [8.76049])
    diw = benchmark("whdr", [0.0, 0.0, 1.0])
    rows = page_of(write_evaluation(tmp_path, Kitti=kitti, DIW=diw)).tables["measures"]
    assert rows[0] == [
        "Benchmark",
        *("AbsRel ratio ↓", "RMSE m ↓", "log10 ratio ↓", "SILog ×100 ↓"),
        *("δ < 1.25 share ↑", "δ < 1.25² share ↑", "δ < 1.25³ share ↑", "δ > 1.25 % ↓"),
        *("AbsRel, row ratio ↓", "WHDR ratio ↓", "WHDR, row ratio ↓"),
    ]
    assert rows[1] == ["Kitti", *DEPTH_TEXTS, "n/a", "n/a"]
    assert rows[2] == ["DIW", *["n/a"] * 9, "0.3333", "0.4000"]


def test_measures_that_no_benchmark_has_take_no_column(small):
    rows = page_of(small).tables["measures"]
    assert len(rows[0]) == 1 + len(DEPTH_TEXTS)


# ---- what was evaluated, and notes ----


def test_header_says_what_was_evaluated_and_sections_what_differs(tmp_path):
    kitti, tum = (benchmark("bad_pixel_percent", [1.0]) for _ in range(2))
    kitti["settings"] |= {"cap_m": 80.0, "resize": "lower_bound 384", "dataset": "/data/Kitti"}
    tum["settings"] |= {"cap_m": 10.0, "resize": "upper_bound 384", "dataset": "/data/TUM"}
    text = page_of(write_evaluation(tmp_path, Kitti=kitti, TUM=tum)).text
    header, kitti_text, tum_text = re.split(r"(?:Kitti|TUM) 1\.000", text)
    assert "checkpoint net.ckpt checkpoint SHA-256 0123456789ab network size 384" in header
    assert "upsampling bilinear" in header
    assert "lower_bound" not in header
    assert "cap 80.0 m resize lower_bound 384 dataset /data/Kitti" in kitti_text
    assert "cap 10.0 m resize upper_bound 384 dataset /data/TUM" in tum_text
    assert "net.ckpt" not in kitti_text + tum_text


def test_notes_name_what_keeps_numbers_from_being_compared(tmp_path):
    kitti, sintel = benchmark("bad_pixel_percent", [1.0]), benchmark("abs_rel", [0.1])
    calm = page_of(write_evaluation(tmp_path / "calm", Kitti=kitti, Sintel=sintel))
    assert not [tag for tag in calm.all("p") if tag.get("class") == "note"]

    kitti["settings"]["network_size"] = "128"
    small_only = page_of(write_evaluation(tmp_path / "small", Kitti=kitti))
    assert "Network size 128; the published errors are of size 384" in small_only.text

    kitti["settings"] |= {"checkpoint_sha256": "f" * 64, "network_size": "384"}
    sintel["settings"] |= {"network_size": "128", "occluded_pixels": "excluded"}
    sintel["skipped"] = [{"id": "alley/0001", "reason": "truncated"}]
    page = page_of(write_evaluation(tmp_path / "odd", Kitti=kitti, Sintel=sintel))
    assert len([tag for tag in page.all("p") if tag.get("class") == "note"]) == 4
    assert "not evaluated with one and the same checkpoint" in page.text
    assert "Network size 128, 384; the published errors are of size 384" in page.text
    assert "Sintel: occluded pixels are excluded" in page.text
    assert "Sintel: 1 of 2 images were skipped" in page.text


def noted(folder: Path, kitti: dict[str, str], sintel: dict[str, str]) -> str:
    """The page of two benchmarks with these settings and no others."""
    entries = {
        "Kitti": benchmark("bad_pixel_percent", [1.0], settings=kitti),
        "Sintel": benchmark("abs_rel", [0.1], settings=sintel),
    }
    return page_of(write_evaluation(folder, **entries)).text


@pytest.mark.parametrize(
    ("kitti", "sintel", "same"),
    [
        (("a.onnx", "1"), ("a.onnx", "1"), True),
        (("a.onnx", "1"), ("b.onnx", "1"), True),
        (("a.onnx", "1"), ("a.onnx", "2"), False),
        (("a.onnx", None), ("a.onnx", None), True),
        (("a.onnx", None), ("b.onnx", None), False),
        (("a.onnx", "1"), ("a.onnx", None), True),
        (("a.onnx", "1"), ("b.onnx", None), False),
    ],
)
def test_another_checkpoint_is_told_by_its_hash_or_else_its_name(tmp_path, kitti, sintel, same):
    settings = [
        {"checkpoint": name} | ({"checkpoint_sha256": sha256} if sha256 else {})
        for name, sha256 in (kitti, sintel)
    ]
    assert ("one and the same checkpoint" in noted(tmp_path, *settings)) != same


def test_another_runtime_or_precision_is_told(tmp_path):
    program = {"backend": "openvino", "precision": "float32"}
    coarse = program | {"precision": "bfloat16"}
    words = "The benchmarks were not computed alike: "
    assert words not in noted(tmp_path, program, dict(program))
    assert words not in noted(tmp_path, {}, {})
    expected = f"{words}Kitti by openvino float32, Sintel by openvino bfloat16."
    assert expected in noted(tmp_path, program, coarse)
    expected = f"{words}Kitti by openvino float32, Sintel by lite float32."
    assert expected in noted(tmp_path, program, program | {"backend": "lite"})
    expected = f"{words}Kitti by OpenVINO 2026.4 float32, Sintel by MindSpore."
    assert expected in noted(tmp_path, {"runtime": "OpenVINO 2026.4 float32"}, {})


# ---- histograms ----


def bar_titles(page: Page) -> list[str]:
    return re.findall(r"[\d.]+ (?:to [\d.]+|and more): [\d,]+|(?:right|wrong): [\d,]+", page.text)


def test_histogram_has_the_counts_of_the_csv(tmp_path):
    errors = [3.0, 12.0, 14.5, 18.0, 55.0, 91.0]
    page = page_of(write_evaluation(tmp_path, Kitti=benchmark("bad_pixel_percent", errors)))
    assert bar_titles(page) == [
        *("0 to 10: 1", "10 to 20: 3", "20 to 30: 0", "30 to 40: 0", "40 to 50: 0"),
        *("50 to 60: 1", "60 to 70: 0", "70 to 80: 0", "80 to 90: 0", "90 to 100: 1"),
    ]
    assert "mean 32.250" in page.text
    assert "median 16.250" in page.text
    (drawing,) = page.all("svg")
    assert "mean 32.250, median 16.250" in drawing["aria-label"]
    assert "% of pixels with δ > 1.25, of one image" in page.text.replace("\xa0", " ")


def test_histogram_of_ordinal_errors_counts_right_and_wrong(tmp_path):
    page = page_of(write_evaluation(tmp_path, DIW=benchmark("whdr", [0.0, 1.0, 0.0, 0.0])))
    assert bar_titles(page) == ["right: 3", "wrong: 1"]
    assert "mean 0.2500" in page.text


def test_every_benchmark_has_its_own_histogram(tmp_path):
    folder = write_evaluation(
        tmp_path, ETH3D=benchmark("abs_rel", [0.22]), DIW=benchmark("whdr", [1.0])
    )
    titles = bar_titles(page_of(folder))
    assert [title for title in titles if not title.endswith(" 0")] == ["0.2 to 0.25: 1", "wrong: 1"]


def test_a_benchmark_of_which_all_images_were_skipped_has_no_histogram(tmp_path):
    skipped = [{"id": "a/1", "reason": "truncated"}]
    page = page_of(write_evaluation(tmp_path, NYU=benchmark("abs_rel", [], skipped=skipped)))
    assert page.all("svg") == []
    assert "NYU: 1 of 1 images were skipped" in page.text


# ---- panels ----


def test_panels_show_pictures_ids_errors_and_captions(tmp_path):
    ranks = (("best", 3.1), ("median", 12.34567), ("worst", 91.0))
    panels = [panel("Kitti", rank, error) for rank, error in ranks]
    entry = benchmark("bad_pixel_percent", [3.1, 12.34567, 91.0], panels=panels)
    page = page_of(write_evaluation(tmp_path, Kitti=entry))
    pictures = page.all("img")
    assert len(pictures) == 12
    assert pictures[5]["alt"] == "Kitti, median image median/0001: ground truth, 3.1 to 78.2 m"
    percent = "% of pixels with δ > 1.25"
    text = page.text.replace("\xa0", " ")
    assert f"Best best/0001 {percent} 3.100" in text
    assert f"Median median/0001 {percent} 12.346" in text
    assert f"Worst worst/0001 {percent} 91.000" in text
    for picture in pictures:
        assert decoded(picture).size == (64, 48)
        assert (picture["width"], picture["height"]) == ("64", "48")
    # The ramp from black to white that the file holds.
    grey = np.asarray(decoded(pictures[0]).convert("L")).astype(float)
    assert np.abs(grey - np.linspace(0, 255, 64)).max() < 6


def decoded(picture: dict[str, str | None]) -> Image.Image:
    prefix, code = str(picture["src"]).split(",")
    assert prefix == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(code, validate=True)))


def test_large_pictures_are_made_smaller(tmp_path):
    entry = benchmark("abs_rel", [0.1], panels=[panel("Sintel", "best", 0.1)])
    folder = write_evaluation(tmp_path, Sintel=entry)
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "panels" / "Sintel-best-0.png")
    path = write_report(folder)
    assert decoded(Page(path.read_text()).all("img")[0]).size == (640, 480)
    assert path.stat().st_size < 500_000


def test_one_image_that_is_best_median_and_worst_is_shown_once(tmp_path):
    panels = [
        panel("Middlebury", rank, 0.2285, "motorcycle") for rank in ("best", "median", "worst")
    ]
    entry = benchmark("abs_rel", [0.2285], panels=panels)
    page = page_of(write_evaluation(tmp_path, Middlebury=entry))
    assert len(page.all("img")) == 4
    assert "Best, median, worst motorcycle" in page.text


# ---- skipped images ----


def test_first_50_skipped_images_are_listed_with_reasons_and_the_total(tmp_path):
    skipped = [{"id": f"rgb/{i:04d}", "reason": f"{i}.png: truncated"} for i in range(1234)]
    entry = benchmark("bad_pixel_percent", [1.0], skipped=skipped)
    page = page_of(write_evaluation(tmp_path, TUM=entry))
    (table,) = [rows for key, rows in page.tables.items() if key not in ("errors", "measures")]
    assert table[0] == ["Image", "Reason"]
    assert table[1:] == [[f"rgb/{i:04d}", f"{i}.png: truncated"] for i in range(50)]
    assert "1,234 skipped images, the first 50 listed" in page.text


def test_one_skipped_image_is_singular_and_none_makes_no_list(tmp_path, small):
    skipped = [{"id": "a/1", "reason": "no valid pixel"}]
    one = page_of(
        write_evaluation(tmp_path / "one", TUM=benchmark("abs_rel", [1.0], skipped=skipped))
    )
    assert re.search(r"1 skipped image a|1 skipped image I", one.text)
    assert "listed" not in one.text
    assert page_of(small).all("details") == []


# ---- one file, safe to open ----


def test_names_from_the_data_set_are_text_never_markup(tmp_path):
    best = panel("Kitti", "best", 1.0, EVIL) | {"rank": f"best{EVIL}"}
    best["pictures"][0]["caption"] = EVIL
    entry = benchmark(
        "bad_pixel_percent", [1.0], panels=[best], skipped=[{"id": EVIL, "reason": EVIL}]
    )
    entry["settings"] |= {"dataset": EVIL, EVIL: "x"}
    page = page_of(write_evaluation(tmp_path, **{f"Kitti{EVIL}": entry}))
    assert page.all("script") == []
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert page.text.count("<script>alert('x')</script>") >= 6
    assert page.all("img")[0]["alt"].endswith(EVIL)


def test_a_file_name_that_is_no_text_is_shown_all_the_same(tmp_path):
    skipped = [{"id": "caf\udce9", "reason": "truncated"}]
    folder = write_evaluation(tmp_path, TUM=benchmark("abs_rel", [1.0], skipped=[]))
    results = json.loads((folder / "results.json").read_text())
    results["TUM"]["skipped"] = skipped
    results["TUM"]["settings"]["dataset"] = "/donn\udce9es"
    (folder / "results.json").write_text(json.dumps(results))
    page = page_of(folder)
    assert "caf\\udce9" in page.text
    assert "/donn\\udce9es" in page.text


def test_the_page_refers_to_nothing_outside(tmp_path):
    entry = benchmark("bad_pixel_percent", [1.0], panels=[panel("Kitti", "best", 1.0)])
    source = write_report(write_evaluation(tmp_path, Kitti=entry)).read_text()
    page = Page(source)
    for _, attributes in page.tags:
        for key in ("src", "href", "srcset", "data", "action"):
            assert (attributes.get(key) or "#").startswith(("#", "data:"))
    assert "url(" not in source
    assert "@import" not in source
    assert "http:" not in source
    assert "https:" not in source


def test_the_page_has_language_viewport_and_headers_with_scope(small):
    page = page_of(small)
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    assert page.all("th")
    assert {tag.get("scope") for tag in page.all("th")} <= {"col", "row", "colgroup"}
    assert None not in {tag.get("scope") for tag in page.all("th")}


def test_the_same_results_give_the_same_bytes(small):
    first = write_report(small).read_bytes()
    assert write_report(small).read_bytes() == first
    assert sorted(path.name for path in small.iterdir()) == [
        *("report.html", "results.csv", "results.json")
    ]


# ---- damaged results ----


def assert_refused(folder: Path, *fragments: str) -> None:
    """One line that names the place; the page of before stays."""
    (folder / "report.html").write_text("old")
    with pytest.raises(UserError) as error:
        write_report(folder)
    message = str(error.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message
    assert (folder / "report.html").read_text() == "old"
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"Kitti": 24.2}', "null", "\0\1"])
def test_a_damaged_results_file_is_named(small, content):
    (small / "results.json").write_text(content)
    assert_refused(small, str(small / "results.json"), "damaged")


def test_results_without_a_benchmark_are_refused(small):
    (small / "results.json").write_text("{}")
    assert_refused(small, str(small / "results.json"), "no benchmark")


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("error", None, "Kitti.error"),
        ("error", float("nan"), "Kitti.error"),
        ("metric", "psnr", "Kitti.metric"),
        ("means", {"rmse": "high"}, "Kitti.means.rmse"),
        ("skipped", [{"id": "a"}], "Kitti.skipped.0.reason"),
        ("panels", [{"rank": "best"}], "Kitti.panels.0.id"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(small, key, value, named):
    results = json.loads((small / "results.json").read_text())
    results["Kitti"][key] = value
    (small / "results.json").write_text(json.dumps(results))
    assert_refused(small, str(small / "results.json"), named)


@pytest.mark.parametrize("name", ["results.json", "results.csv"])
def test_a_missing_file_is_named(small, name):
    (small / name).unlink()
    assert_refused(small, str(small / name), "no such file")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Kitti,scene/1,48,64,,,,,,,,,many,,,", "'many'"),
        ("Kitti,scene/1,48,64,,,,,,,,,nan,,,", "'nan'"),
        ("Kitti,scene/1,48,64,,,,,,,,,-1.0,,,", "'-1.0'"),
        ("Kitti,scene/1,48,64,,,,,,,,,,,,", "''"),
        ("Kitti,scene/1,48", "None"),
    ],
)
def test_a_damaged_line_of_the_csv_is_named(small, line, expected):
    lines = (small / "results.csv").read_text().splitlines()
    (small / "results.csv").write_text("\n".join([*lines[:2], line, ""]))
    assert_refused(small, str(small / "results.csv"), "line 3", "bad_pixel_percent", expected)


def test_a_csv_that_lacks_images_is_refused(small):
    lines = (small / "results.csv").read_text().splitlines()
    (small / "results.csv").write_text("\n".join([*lines[:2], ""]))
    assert_refused(small, str(small / "results.csv"), "1 images of Kitti", "counts 2")


def test_a_binary_csv_is_refused(small):
    (small / "results.csv").write_bytes(b"benchmark\0,\xff\xfe\n\0")
    assert_refused(small, str(small / "results.csv"))


def test_a_damaged_picture_is_named_and_one_that_was_removed_is_left_out(tmp_path):
    entry = benchmark("abs_rel", [0.1], panels=[panel("Sintel", "best", 0.1)])
    folder = write_evaluation(tmp_path / "val", Sintel=entry)
    picture = folder / "panels" / "Sintel-best-2.png"
    data = picture.read_bytes()
    picture.write_bytes(data[: len(data) // 2])
    assert_refused(folder, str(picture))
    picture.write_bytes(data)
    whole = write_report(folder).read_text().count("data:image/")
    picture.unlink()
    assert write_report(folder).read_text().count("data:image/") == whole - 1


# ---- in a browser ----

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

# The smallest contrast ratio (WCAG 2.1, 1.4.3) of a text with the colour behind it, and that text.
LOWEST_CONTRAST = """() => {
  const light = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(
      v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  let lowest = [Infinity, ""];
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
    if (e.tagName === "title") continue;
    const style = getComputedStyle(e);
    const front = light(parse(e instanceof SVGElement ? style.fill : style.color));
    const back = light(behind(e));
    const ratio = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
    if (ratio < lowest[0]) lowest = [ratio, e.textContent];
  }
  return lowest;
}"""


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (scripts/setup.sh dev says why)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def full_page(tmp_path_factory) -> Path:
    """All seven benchmarks with everything a page can have, names of the most awkward kinds."""
    rng = np.random.default_rng(0)
    metrics = {"Kitti": "bad_pixel_percent", "TUM": "bad_pixel_percent", "NYU": "bad_pixel_percent"}
    benchmarks = {}
    for name in ("Kitti", "Sintel", "TUM", "ETH3D", "NYU", "DIW", "Middlebury"):
        metric = "whdr" if name == "DIW" else metrics.get(name, "abs_rel")
        errors = rng.lognormal(0, 1, 1 if name == "Middlebury" else 300)
        errors = (errors > 2).astype(float) if name == "DIW" else errors
        entry = benchmark(metric, errors.tolist())
        image = "a" * 150 + EVIL
        ranks = ("best", "median", "worst")
        entry["panels"] = [panel(name, rank, 1.0, f"{rank}/{image}") for rank in ranks]
        reason = f"/{'folder/' * 30}{'b' * 90}.png: truncated or damaged"
        entry["skipped"] = [{"id": f"{i}/{image}", "reason": reason} for i in range(60)]
        entry["settings"] |= {"dataset": f"/data/{'c' * 120}/{name}", "network_size": "128"}
        benchmarks[name] = entry
    return write_report(write_evaluation(tmp_path_factory.mktemp("full"), **benchmarks))


@pytest.fixture
def open_page(browser, full_page):
    """Opens the page as (width, colour scheme) ask, and checks in the end what it did."""
    problems: list[str] = []
    contexts = []

    def open_it(width: int = 1280, scheme: str = "light"):
        viewport = {"width": width, "height": 740}
        contexts.append(browser.new_context(viewport=viewport, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(full_page.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        return page

    requests: list[str] = []
    yield open_it
    for context in contexts:
        context.close()
    assert problems == []
    assert full_page.as_uri() in requests
    assert [url for url in requests if not url.startswith("data:")] == [full_page.as_uri()] * len(
        contexts
    )


def test_browser_shows_every_picture(open_page):
    page = open_page()
    widths = page.evaluate("[...document.images].map(i => i.complete ? i.naturalWidth : 0)")
    assert widths == [64] * (7 * 3 * 4)


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_browser_needs_no_horizontal_scrolling(open_page, width):
    page = open_page(width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll')"
        " && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []


def test_tables_scroll_in_their_own_box_by_keyboard(open_page):
    page = open_page(360)
    box = page.locator(".scroll").first
    assert box.evaluate("e => e.scrollWidth > e.clientWidth")
    for region in page.locator(".scroll").all():
        assert region.get_attribute("tabindex") == "0"
        assert region.get_attribute("role") == "region"
        assert region.get_attribute("aria-label")
    box.focus()
    page.keyboard.press("ArrowRight")
    moved = 0
    for _ in range(50):  # scrolling is animated
        moved = moved or box.evaluate("e => e.scrollLeft")
        page.wait_for_timeout(0 if moved else 100)
    assert moved > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_both_colour_schemes(open_page, scheme):
    ratio, text = open_page(scheme=scheme).evaluate(LOWEST_CONTRAST)
    assert ratio >= 4.5, text


def test_dark_mode_is_dark_and_print_is_not(open_page):
    def background(page) -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    dark = open_page(scheme="dark")
    assert background(open_page(scheme="light")) > 230
    assert background(dark) < 40
    dark.emulate_media(media="print", color_scheme="dark")
    assert background(dark) > 230


def test_tables_fit_on_a_printed_page(open_page):
    """A4 less 1 cm at each side is 718 CSS pixels wide."""
    page = open_page(718)
    page.emulate_media(media="print")
    assert page.evaluate("document.querySelector('#errors').offsetWidth") <= 718
    assert page.evaluate("document.querySelector('#measures').offsetWidth") <= 718
