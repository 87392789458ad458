"""Building and verifying the cache of src/data/cache.py: the program `python -m src.data.cache`."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from src.ahead import pipelined
from src.config import build_config, parse_flags
from src.data import transforms
from src.data.cache import (
    INDEX,
    META,
    RECORD,
    UNREADABLE,
    DatasetCache,
    InvalidCacheError,
    Settings,
    Shard,
    aligned,
    facts_of,
    fingerprint,
)
from src.data.mixdata import Pair, by_dataset, find_pairs
from src.data.pairs import cut_photo, open_pair
from src.data.transforms import Crop
from src.errors import Parser, UserError
from src.image_io import image_size
from src.locks import exclusive
from src.runlog import progress_bar

LOG = logging.getLogger("midas")
SHARD_BYTES = 2**30
_UNFINISHED = ".unfinished-"  # begins the names of folders that are being built or removed
_OWN_FILES = re.compile(rf"{re.escape(META)}|{re.escape(INDEX)}|shard-\d+\.bin")
_CHUNK = 2**24  # bytes that are read at once to verify them
# Photograph and target of a record, and the photograph's (height, width) before it was resized.
_Arrays = tuple[np.ndarray, np.ndarray, tuple[int, int]]


def build(pairs: list[Pair], settings: Settings, threads: int, skip_bad: bool = False) -> None:
    """Build the cache of each dataset that has no valid one.

    A dataset's folder is renamed into its place when it is whole, and one that was valid for
    something else is removed then. Where it is a link to another disk, it is built there.

    Args:
        threads: that read and resize.
        skip_bad: an unreadable pair gets no record, and a training reads it from its files, in
            vain; otherwise it is an error.

    Raises:
        UserError: an unreadable pair, too little space, a folder that cannot be written, or one of
            a dataset's name that is not a cache: nothing is removed then.
    """
    by_name = {n: [pairs[i] for i in indices] for n, indices in by_dataset(pairs).items()}
    with _writing(settings.root), ExitStack() as locks:
        places = {name: _place_of(settings.root / name, pairs) for name in by_name}
        for folder in sorted({settings.root.resolve(), *(p.parent for p in places.values())}):
            busy = f"data_cache: another program builds {folder}; wait for it"
            locks.enter_context(exclusive(folder, busy))
            for left in folder.glob(f"{_UNFINISHED}*"):
                shutil.rmtree(left)
        for name, members in by_name.items():
            if reason := _invalid(members, settings):
                LOG.info("%s: %s", name, reason)
                _build_dataset(members, places[name], settings, threads, skip_bad)
            else:
                LOG.info("%s: %d images, up to date", name, len(members))


def verify(pairs: list[Pair], settings: Settings) -> None:
    """Compare all bytes of the datasets' caches with their checksums.

    Raises:
        UserError: one is invalid, or a file has changed; names it.
    """
    for name, indices in by_dataset(pairs).items():
        members = [pairs[index] for index in indices]
        dataset = DatasetCache(settings.root / name, members[0].source, settings)
        dataset.rows(members)
        total = sum(shard.bytes for shard in dataset.shards)
        with progress_bar(total=total, desc=name, unit="B", unit_scale=True) as bar:
            for number, shard in enumerate(dataset.shards):
                if _checksum(dataset.path(number), bar.update) != shard.sha256:
                    wrong = dataset.path(number)
                    raise dataset.error(f"holds {wrong} with a wrong checksum; remove {wrong}")
        LOG.info("%s: %d images, %.2f GB, as they were written", name, len(members), total / 1e9)


def _checksum(path: Path, advance: Callable[[int], object]) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            found.update(data)
            advance(len(data))
    return found.hexdigest()


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Make the folder; an error of the file system names it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"data_cache: {root} cannot be written ({error.strerror or error}); choose another "
            "folder"
        ) from None


def _invalid(pairs: list[Pair], settings: Settings) -> str:
    """Why a dataset's cache has to be built, or ''."""
    source = pairs[0].source
    try:
        DatasetCache(settings.root / source.name, source, settings).rows(pairs)
    except InvalidCacheError as error:
        return f"{settings.root} {error.problem}"
    return ""


def _place_of(folder: Path, pairs: list[Pair]) -> Path:
    """Where a dataset's cache lies, links followed.

    Raises:
        UserError: there is something that is not a cache, or photographs or targets are read there.
    """
    place = folder.resolve()
    files = (path for pair in pairs for path in (pair.image, pair.target, pair.mask) if path)
    sources = {path.resolve() for path in {path.parent for path in files}}
    foreign = any(path.is_relative_to(place) for path in sources)
    if place.exists() and not foreign:
        foreign = not place.is_dir() or not all(
            _OWN_FILES.fullmatch(entry.name) for entry in place.iterdir()
        )
    if foreign:
        raise UserError(
            f"data_cache: {folder} is not a cache, and would be replaced by one; choose another "
            "folder"
        )
    return place


def _build_dataset(
    pairs: list[Pair], place: Path, settings: Settings, threads: int, skip_bad: bool
) -> None:
    source = pairs[0].source
    _require_space(pairs, place, settings, threads, skip_bad)
    folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=place.parent))
    try:
        with _Writer(folder) as writer:
            _write_records(pairs, settings, threads, skip_bad, writer)
        index = io.BytesIO()
        np.save(index, np.array(writer.records, RECORD))
        (folder / INDEX).write_bytes(index.getvalue())
        meta = {
            "facts": facts_of(source, settings),
            "index": hashlib.sha256(index.getvalue()).hexdigest(),
            "shards": [shard._asdict() for shard in writer.shards],
        }
        (folder / META).write_text(json.dumps(meta, indent=1))
        folder.chmod(0o755)  # mkdtemp's are for nobody else
        _replace(place, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(place: Path, new: Path) -> None:
    """Put a folder into its place. What was there is whole up to that moment, and removed then."""
    old = None
    if place.exists():
        old = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=place.parent))
        place.rename(old)
    new.rename(place)
    if old is not None:
        shutil.rmtree(old)


def _require_space(
    pairs: list[Pair], place: Path, settings: Settings, threads: int, skip_bad: bool
) -> None:
    """Say how much space the cache of a dataset takes, and raise if there is less.

    The targets' type is that of the first readable one; those of a dataset are alike.
    """
    values = _bytes_of_value(pairs, skip_bad)
    with ThreadPoolExecutor(threads) as pool:
        sizes = pool.map(lambda pair: _pixels(pair, settings), pairs)
        needed = sum(progress_bar(sizes, total=len(pairs), desc="headers")) * (3 + values)
    root, name = place.parent, pairs[0].source.name
    free = shutil.disk_usage(root).free
    LOG.info("%s: %d images, %.2f GB in %s", name, len(pairs), needed / 1e9, root)
    if needed > free:
        first = f"remove {place}, which it replaces" if place.exists() else "free some"
        raise UserError(
            f"data_cache: {name} takes {needed / 1e9:.2f} GB, but {root} has {free / 1e9:.2f} GB "
            f"left; {first}, or choose another folder or a smaller cache_margin"
        )


def _bytes_of_value(pairs: list[Pair], skip_bad: bool) -> int:
    """Of the first target that can be read; 0 if none can.

    Raises:
        UserError: unless `skip_bad`, the first is unreadable.
    """
    for pair in pairs:
        try:
            opened = open_pair(pair)
        except UserError:
            if not skip_bad:
                raise
            continue
        return 4 if opened.mask is not None else opened.raw.itemsize
    return 0


def _pixels(pair: Pair, settings: Settings) -> int:
    """Of a cached photograph, from the header of its file; 0 if that is unreadable."""
    try:
        height, width = settings.size_of(*image_size(pair.image))
    except UserError:
        return 0
    return height * width


def _write_records(
    pairs: list[Pair], settings: Settings, threads: int, skip_bad: bool, writer: _Writer
) -> None:
    def read(index: int) -> tuple[tuple[int, int], _Arrays | None]:
        key = fingerprint(pairs[index])  # before its files are read: a later change shows
        try:
            return key, _resized(pairs[index], settings)
        except UserError as error:
            if not skip_bad:
                raise
            LOG.warning("left out: %s", error)
            return key, None

    def write(items: Sequence[tuple[tuple[int, int], _Arrays | None]]) -> list[None]:
        return [writer.add(*item) for item in items]

    batches = [(index,) for index in range(len(pairs))]
    done = pipelined(batches, read, write, lambda item, output: output, threads)
    for _ in progress_bar(done, total=len(pairs), desc=pairs[0].source.name):
        pass


def _resized(pair: Pair, settings: Settings) -> _Arrays:
    """Photograph uint8 [H, W, 3] and target [H, W] of a record, and the size of the file's.

    The photograph is decoded at 1/2, 1/4 or 1/8 where that is large enough, and resized as a sample
    is; the target takes the nearest values. Where there is a mask, unknown values become NaN.
    """
    opened = open_pair(pair)
    photo, raw = opened.photo, opened.raw
    if opened.mask is not None:
        raw = np.where(opened.mask != 0, raw.astype(np.float32), np.float32(np.nan))
    original = photo.height, photo.width
    size = settings.size_of(*original)
    pixels, box = cut_photo(photo, Crop(0, 0, *original), *size)
    target = transforms.resize_nearest(transforms.crop(raw, box), *size)
    return transforms.resize_pixels(pixels, *size), target, original


class _Writer:
    """Writes the records of a dataset into shards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards: list[Shard] = []
        self.records: list[tuple] = []
        self._file: BinaryIO | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:
            self._close()
        elif self._file is not None:
            self._file.close()  # it is removed: nothing to wait for

    def add(self, key: tuple[int, int], arrays: _Arrays | None) -> None:
        """Write the record of the pair with this fingerprint, None where it has none."""
        if arrays is None:
            self.records.append((key, UNREADABLE, 0, 0, 0, (0, 0), b""))
            return
        image, target, original = arrays
        size = aligned(image.nbytes) + aligned(target.nbytes)
        if self._file is None or self._file.tell() + size > SHARD_BYTES:
            self._close()
            self._file = (self.folder / f"shard-{len(self.shards)}.bin").open("wb")
            self._hash = hashlib.sha256()
        offset = self._file.tell()
        for array in (image, target):
            data = np.ascontiguousarray(array).tobytes()
            data += bytes(aligned(len(data)) - len(data))
            self._file.write(data)
            self._hash.update(data)
        kind = target.dtype.str[1:].encode()
        self.records.append((key, len(self.shards), offset, *target.shape, original, kind))

    def _close(self) -> None:
        """End a shard; its bytes are on the disk then."""
        if self._file is None:
            return
        with self._file as file:
            file.flush()
            os.fsync(file.fileno())
            self.shards.append(Shard(file.tell(), self._hash.hexdigest()))
        self._file = None


def main() -> None:
    """The program.

    Raises:
        UserError: a wrong configuration, or as `build` and `verify`.
    """
    parser = Parser(
        prog="python -m src.data.cache",
        usage="%(prog)s [--verify] [--key value ...]",
        description="Build the cache of the datasets that midas_train.py trains on.",
        allow_abbrev=False,
    )
    parser.add_argument("--verify", action="store_true", help="compare a cache with its checksums")
    flags = parse_flags(parser)
    only_verify = flags.pop("verify")
    config = build_config(flags)
    if not config.data_cache:
        raise UserError("data_cache: empty; set it to the folder for the cache")
    settings = Settings.of(config)
    pairs = find_pairs(config.train_data_dir, config.mixdata)
    if only_verify:
        verify(pairs, settings)
    else:
        threads = config.num_parallel_workers
        build(pairs, settings, threads, config.on_bad_sample == "skip")
