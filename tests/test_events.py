"""TensorBoard events, read back by a parser of their own, and what a full disk does to them.

The formats: TFRecord (TensorFlow, "TFRecord and tf.train.Example", the section on its details),
CRC-32C (RFC 3720, appendix B.4), the Protocol Buffers wire format ("Encoding"), and the field
numbers of TensorFlow's event.proto and summary.proto.
"""

from __future__ import annotations

import io
import math
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src import events
from src.errors import UserError
from src.events import Events
from tests.limits import file_size_limit

ROOT = Path(__file__).resolve().parents[1]

# --- Reading --------------------------------------------------------------------------------------


def crc32c(data: bytes) -> int:
    """Bit by bit, the reflected polynomial 0x1EDC6F41."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(data: bytes) -> Iterator[bytes]:
    """The whole records; an incomplete one at the end is left out, as TensorBoard does."""
    position = 0
    while position + 12 <= len(data):
        head = data[position : position + 8]
        (length,) = struct.unpack("<Q", head)
        if position + 16 + length > len(data):
            return
        content = data[position + 12 : position + 12 + length]
        checksums = data[position + 8 : position + 12] + data[position + 12 + length :][:4]
        assert struct.unpack("<II", checksums) == (masked(head), masked(content))
        yield content
        position += 16 + length


def varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def message(data: bytes) -> dict[int, list]:
    """Field number -> its values: int, float or bytes."""
    fields: dict[int, list] = {}
    position = 0
    while position < len(data):
        key, position = varint(data, position)
        kind = key & 7
        if kind in (0, 2):
            value, position = varint(data, position)
        if kind == 2:
            value, position = data[position : position + value], position + value
        if kind in (1, 5):
            size = 8 if kind == 1 else 4
            (value,) = struct.unpack("<d" if kind == 1 else "<f", data[position : position + size])
            position += size
        fields.setdefault(key >> 3, []).append(value)
    return fields


WALL_TIME, STEP, FILE_VERSION, SUMMARY, SESSION_LOG = 1, 2, 3, 5, 7  # of Event
TAG, SIMPLE_VALUE, IMAGE = 1, 2, 4  # of Summary.Value
START = 1


def files(run: Path) -> list[Path]:
    return sorted(run.glob("events.out.tfevents.*"))


def read(path: Path) -> list[dict[int, list]]:
    return [message(record) for record in records(path.read_bytes())]


def points(path: Path) -> list[tuple[int, str, dict[int, list]]]:
    """(step, tag, value) of every summary of a file."""
    return [
        (event.get(STEP, [0])[0], fields[TAG][0].decode(), fields)
        for event in read(path)
        for summary in event.get(SUMMARY, [])
        for fields in map(message, message(summary)[1])
    ]


@contextmanager
def written(run: Path, *arguments: object) -> Iterator[Events]:
    writer = Events(run, *arguments)
    yield writer
    writer.close()


def test_the_parser_knows_the_check_value_of_crc32c():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4


# --- Writing --------------------------------------------------------------------------------------


def test_scalars_come_back_with_step_tag_value_and_time(tmp_path):
    before = time.time()
    with written(tmp_path) as writer:
        writer.scalars(1, {"loss/total": 0.5, "loss/data": 0.25})
        writer.scalars(300, {"loss/total": 1e-7})
    (path,) = files(tmp_path)
    found = [(step, tag, fields[SIMPLE_VALUE][0]) for step, tag, fields in points(path)]
    small = float(np.float32(1e-7))
    assert found == [(1, "loss/total", 0.5), (1, "loss/data", 0.25), (300, "loss/total", small)]
    first, *others = read(path)
    assert first[FILE_VERSION] == [b"brain.Event:2"]
    assert len(others) == 2  # all scalars of a step are one record
    times = [event[WALL_TIME][0] for event in others]
    assert before <= times[0] <= times[1] <= time.time()


def test_values_that_are_not_finite_are_kept(tmp_path):
    with written(tmp_path) as writer:
        writer.scalars(1, {"a": math.nan, "b": math.inf})
    not_a_number, infinite = (fields[SIMPLE_VALUE][0] for _, _, fields in points(*files(tmp_path)))
    assert math.isnan(not_a_number)
    assert infinite == math.inf


def test_pictures_come_back_pixel_by_pixel(tmp_path):
    rng = np.random.default_rng(0)
    pictures = {
        f"validation/{i}": rng.integers(0, 256, (5 + i, 9, 3), dtype=np.uint8) for i in range(2)
    }
    with written(tmp_path) as writer:
        writer.images(70, pictures)
    found = points(*files(tmp_path))
    assert [(step, tag) for step, tag, _ in found] == [(70, tag) for tag in pictures]
    for (_, tag, fields), picture in zip(found, pictures.values(), strict=True):
        (height,), (width,), (colours,), (encoded,) = message(fields[IMAGE][0]).values()
        assert (height, width, colours) == picture.shape
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded))), picture), tag


def test_a_resumed_run_writes_a_later_file_that_purges_the_steps_done_again(tmp_path):
    with written(tmp_path) as writer:
        writer.scalars(5, {"loss": 1.0})
    (first,) = files(tmp_path)
    content = first.read_bytes()
    for resumed in (4, 3):  # both within a second
        with written(tmp_path, resumed) as writer:
            writer.scalars(resumed, {"loss": 2.0})
    again, *later = files(tmp_path)  # TensorBoard reads them in the order of their names
    assert again == first
    assert first.read_bytes() == content
    assert not any(SESSION_LOG in event for event in read(first))
    for path, step in zip(later, (4, 3), strict=True):
        _, start, point = read(path)
        assert start[STEP] == [step]
        assert message(start[SESSION_LOG][0]) == {1: [START]}
        assert point[STEP] == [step]


def test_events_reach_the_disk_by_flush_by_pictures_and_after_half_a_minute(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(events.time, "monotonic", lambda: now)
    with written(tmp_path) as writer:
        (path,) = files(tmp_path)
        writer.scalars(1, {"a": 1.0})
        writer.flush()
        assert len(points(path)) == 1
        writer.scalars(2, {"a": 1.0})
        writer.images(2, {"b": np.zeros((2, 2, 3), np.uint8)})
        assert len(points(path)) == 3
        writer.scalars(3, {"a": 1.0})
        assert len(points(path)) == 3  # a step does not wait for the disk
        now = 1031.0
        writer.scalars(4, {"a": 1.0})
        assert len(points(path)) == 5
        now = 1032.0
        writer.scalars(5, {"a": 1.0})
        assert len(points(path)) == 5
    assert len(points(path)) == 6


# --- Faults ---------------------------------------------------------------------------------------


def fill(run: Path) -> int:
    """Write until the disk is full; returns how many steps were accepted."""
    writer = Events(run)
    step = 0
    with pytest.raises(UserError) as caught:
        for step in range(10_000):
            writer.scalars(step, {"loss/total": 1.0})
    text = str(caught.value)
    assert str(run) in text and "run_path" in text
    assert "\n" not in text
    writer.close()  # has no more to say
    return step


def check_what_is_left(run: Path, steps: int) -> None:
    """The whole records of the steps that were accepted, but for the last ones in the buffer."""
    (path,) = files(run)
    left = [step for step, _, _ in points(path)]
    assert left == list(range(len(left)))
    assert 0.7 * steps < len(left) <= steps


def test_a_full_disk_is_an_error_of_one_line(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        check_what_is_left(tmp_path, fill(tmp_path))
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_file_that_may_not_grow_is_an_error_of_one_line(tmp_path):
    with file_size_limit(40_000):
        steps = fill(tmp_path)
    check_what_is_left(tmp_path, steps)


def test_what_does_not_fit_any_more_is_noticed_by_close(tmp_path):
    writer = Events(tmp_path)
    size = files(tmp_path)[0].stat().st_size
    with file_size_limit(size):
        writer.scalars(1, {"a": 1.0})  # goes into the buffer
        with pytest.raises(UserError, match="cannot write TensorBoard events"):
            writer.close()
    writer.close()


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot write TensorBoard events") as caught:
        Events(tmp_path / "missing")
    assert str(tmp_path / "missing") in str(caught.value)


def test_there_is_no_thread_that_could_keep_the_program_from_ending(tmp_path):
    before = set(threading.enumerate())
    with written(tmp_path) as writer:
        writer.scalars(1, {"a": 1.0})
        assert set(threading.enumerate()) <= before


def test_a_program_that_never_closes_its_events_ends_on_a_full_disk(tmp_path):
    program = f"""
import resource
from pathlib import Path
from src.events import Events
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
writer = Events(Path({str(tmp_path)!r}))
for step in range(10_000):
    writer.scalars(step, {{"a": 1.0}})
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1
    assert "UserError" in ended.stderr.splitlines()[-1]
