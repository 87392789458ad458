"""The files of an evaluation: val.json, and beside it a folder of the same name with the details.

    val.json                          the benchmarks' errors, in the format of the original
    val/results.json                  all errors, what they depend on, what was skipped
    val/results.csv                   a row for each image
    val/panels/, val/report.html      pictures, and the page that shows all of it
    val/partial/                      rows of an evaluation that goes on or was interrupted

While a benchmark is evaluated, every process appends the row of an image to a file of its own as
soon as it is known, so that memory stays flat and an interrupted evaluation can go on. At the end
one process puts them in the benchmark's order: the results do not depend on how the work was split.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.image_io import write_bytes
from src.locks import exclusive
from src.metrics import DEPTH_COLUMNS, ORDINAL_COLUMNS
from src.report import read_results
from src.summary import Result, Row

ERRORS = (*DEPTH_COLUMNS, *ORDINAL_COLUMNS)
COLUMNS = ("benchmark", "id", "height", "width", "skipped", *ERRORS)
_PLACES = {"checkpoint"}  # settings that may change: its content is compared
_POLL_SECONDS = 0.2


class ResultFiles:
    """The files of one evaluation.

    Args:
        ann_file: val.json.

    Raises:
        UserError: its folder is missing, or files there are something else.
    """

    def __init__(self, ann_file: Path) -> None:
        self.ann_file = ann_file
        self.folder = ann_file.with_suffix("")
        self.partial = self.folder / "partial"
        if not ann_file.parent.is_dir():
            raise UserError(f"ann_file: {ann_file.parent} is no folder; create it first")
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"ann_file: {self.folder} is a file, expected a folder for the details")
        _read_json(ann_file, "no result of an evaluation", _is_number)
        self.details = _read_json(self.folder / "results.json", "no results.json", _is_result)
        if self.details:
            read_results(self.folder / "results.json")
        self._read_csv()
        if self.folder.is_dir() and any(self.folder.iterdir()) and not self._is_ours():
            raise UserError(
                f"ann_file: the details would go to {self.folder}, which holds other files; choose "
                "another name"
            )

    def _is_ours(self) -> bool:
        return any((self.folder / name).exists() for name in ("results.json", "partial"))

    # --- while a benchmark is evaluated -----------------------------------------------------------

    def prepare(self, name: str, settings: Mapping[str, Any], images: int, resume: bool) -> None:
        """Make room for the rows of a benchmark, before any process adds one.

        Nothing is opened for a benchmark that is to be resumed and was complete.

        Args:
            images: in the benchmark.

        Raises:
            UserError: what is to be resumed was evaluated with other settings.
        """
        if resume:
            if self.is_open(name):
                _require_same(self.settings(name), settings)
            elif name in self.details:
                _require_same(self.details[name]["settings"], settings)
                if self.details[name]["images"] == images:
                    return
                self._reopen(name)
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            for file in (*self.partial.glob(f"{name}-*"), *self.folder.rglob(".*.tmp")):
                if not resume or file.suffix != ".csv":
                    file.unlink()
        except OSError as error:
            raise UserError(f"{self.partial}: cannot be written ({error.strerror})") from None
        write_bytes(self._record(name), f"{json.dumps(settings)}\n".encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other evaluations out of these files.

        Raises:
            UserError: one is at work there.
        """
        busy = f"ann_file: another evaluation writes to {self.folder}; wait, or choose another"
        with exclusive(self.folder, busy):
            yield

    def _reopen(self, name: str) -> None:
        """Take the good rows of a complete benchmark as the beginning of another try."""
        rows = [row for row in self._read_csv() if row[0] == name and not row[4]]
        self.partial.mkdir(parents=True, exist_ok=True)
        write_bytes(self.partial / f"{name}-earlier.csv", _csv_bytes(rows))

    def is_open(self, name: str) -> bool:
        """Whether a benchmark is being evaluated."""
        return self._record(name).exists()

    def settings(self, name: str) -> dict[str, Any]:
        """What the errors of the open benchmark depend on."""
        try:
            return dict(json.loads(self._record(name).read_text()))
        except (OSError, ValueError, TypeError):
            raise self._damaged(self._record(name)) from None

    def _record(self, name: str) -> Path:
        return self.partial / f"{name}.json"

    def rows(self, name: str) -> dict[str, Row]:
        """The rows that there are of a benchmark so far, by id; good ones before skipped ones."""
        rows: dict[str, Row] = {}
        for file in sorted(self.partial.glob(f"{name}-*.csv")):
            try:
                found = list(_read_rows(file.read_bytes()))
            except (OSError, ValueError, csv.Error):
                raise self._damaged(file) from None
            for row in found:
                if row.id not in rows or not row.skipped:  # a skipped image may have been mended
                    rows[row.id] = row
        return rows

    def _damaged(self, path: Path) -> UserError:
        return UserError(f"{path}: damaged; start anew, without --resume True")

    def append(self, name: str, rank: int) -> RowWriter:
        """Where this process adds its rows, a context."""
        return RowWriter(self.partial / f"{name}-{rank}.csv", name)

    def mark_done(self, name: str, rank: int) -> None:
        """Say that all rows of this process are there."""
        write_bytes(self.partial / f"{name}-{rank}.done", b"")

    def wait(self, name: str, ranks: int) -> None:
        """Wait until all processes have marked theirs. If one dies, msrun ends the others."""
        while not all((self.partial / f"{name}-{rank}.done").exists() for rank in range(ranks)):
            time.sleep(_POLL_SECONDS)

    # --- when it is complete ----------------------------------------------------------------------

    def finish(self, result: Result, rows: Sequence[Row], panels: Sequence[Any]) -> None:
        """Add a benchmark to val.json, results.json and results.csv; what others hold stays."""
        self._merge_csv(result.name, rows)
        self.details = self.details | {
            result.name: {
                "metric": result.metric,
                "error": result.error,
                "images": result.images,
                "means": dict(result.means),
                "settings": dict(result.settings),
                "skipped": [{"id": id_, "reason": reason} for id_, reason in result.skipped],
                "panels": list(panels),
            }
        }
        write_bytes(
            self.folder / "results.json", f"{json.dumps(self.details, indent=1)}\n".encode()
        )
        errors = _read_json(self.ann_file, "no result of an evaluation", _is_number)
        errors[result.name] = round(result.error, 6)
        write_bytes(self.ann_file, f"{json.dumps(errors)}\n".encode())
        for file in self.partial.glob(f"{result.name}[-.]*"):
            file.unlink()
        if not any(self.partial.iterdir()):
            self.partial.rmdir()

    def result(self, name: str) -> Result:
        """A benchmark's result as results.json holds it."""
        entry = self.details[name]
        skipped = [(one["id"], one["reason"]) for one in entry["skipped"]]
        return Result(
            name, entry["metric"], entry["means"], entry["images"], skipped, entry["settings"]
        )

    def _merge_csv(self, name: str, rows: Iterable[Row]) -> None:
        others = [row for row in self._read_csv() if row[0] != name]
        data = _csv_bytes([COLUMNS, *others, *(_cells(name, row) for row in rows)])
        write_bytes(self.folder / "results.csv", data)

    def _read_csv(self) -> list[list[str]]:
        """The rows of results.csv below its header.

        Raises:
            UserError: the file is something else, which must not be overwritten.
        """
        path = self.folder / "results.csv"
        try:
            rows = list(_csv_rows(path.read_bytes())) if path.exists() else [list(COLUMNS)]
        except (OSError, csv.Error):
            rows = []
        if rows[:1] != [list(COLUMNS)] or any(len(row) != len(COLUMNS) for row in rows):
            raise UserError(f"ann_file: {path} exists and is no results.csv; move it away")
        return rows[1:]


class RowWriter:
    """Appends rows to a file, each in one write: after a crash only the last may be torn."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def __enter__(self) -> RowWriter:
        _drop_torn_end(self._path)
        self._file = self._path.open("ab", buffering=0)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, row: Row) -> None:
        """
        Raises:
            UserError: the disk is full.
        """
        data = _csv_bytes([_cells(self._name, row)])
        try:
            written = self._file.write(data)
        except OSError as error:
            raise UserError(f"{self._path}: cannot be written ({error.strerror})") from None
        if written != len(data):
            raise UserError(f"{self._path}: cannot be written (the disk is full)")


def _cells(name: str, row: Row) -> list[object]:
    numbers = [repr(row.errors[column]) if column in row.errors else "" for column in ERRORS]
    return [name, row.id, row.height, row.width, row.skipped, *numbers]


def _read_rows(data: bytes) -> Iterator[Row]:
    """The complete rows of a partial file."""
    for _, id_, height, width, skipped, *numbers in _csv_rows(data[: data.rfind(b"\n") + 1]):
        errors = {c: float(n) for c, n in zip(ERRORS, numbers, strict=True) if n}
        yield Row(id_, int(height), int(width), errors, skipped)


def _csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """UTF-8, and the bytes of file names that are not."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="surrogateescape")


def _csv_rows(data: bytes) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(data.decode(errors="surrogateescape"), newline=""))


def _drop_torn_end(path: Path) -> None:
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _require_same(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key in sorted((earlier.keys() | now.keys()) - _PLACES):
        if earlier.get(key) != now.get(key):
            raise UserError(
                f"resume: the earlier evaluation had {key} {earlier.get(key)!r}, now it is "
                f"{now.get(key)!r}; give it the same, or start anew without --resume True"
            )


def _read_json(path: Path, problem: str, is_valid: Any) -> dict[str, Any]:
    """A JSON object whose values are all valid; {} if there is no file.

    Raises:
        UserError: the file is something else, which must not be overwritten.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or not all(is_valid(value) for value in content.values()):
        raise UserError(f"ann_file: {path} exists and is {problem}; move it away")
    return content


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_result(value: object) -> bool:
    return isinstance(value, dict)
