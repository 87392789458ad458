"""Datasets kept decoded and resized: what a training reads instead of photographs and targets.

    python -m src.data.cache --data_cache FOLDER [--verify] [--config_path FILE] [--key value ...]

builds the cache of the datasets that `midas_train.py` trains on with the same flags, or with
--verify compares all bytes of one with its checksums (src/data/cache_build.py).

A dataset's cache is a folder of its name:

    cache.json     what the cache was made of and for, and the checksums of the other files
    index.npy      a `RECORD` for each pair
    shard-<n>.bin  records, one after the other, at most 1 GiB a file: any of them may be a link to
                   another disk

A record is the photograph, uint8 [H, W, 3], then the target's values as stored, uint8, uint16 or
float32 [H, W]; each begins at a multiple of 4 bytes. Both have the size of `Settings.size_of`.
All shards are mapped into memory when a training begins: a sample reads no more than its crop, and
a cache that is built again meanwhile changes nothing. Crops are drawn in the size that the file
has, so a sample is the same part of the photograph with the cache and without.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import resource
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from src.config import Config
from src.data.mixdata import DataSource, Pair, by_dataset
from src.data.pairs import DecodedPhoto, OpenPair, open_pair
from src.errors import UserError, run_program

FORMAT = 1  # of the folder and of how its records are made; a cache of another one is invalid
META, INDEX = "cache.json", "index.npy"
ALIGNMENT = 4  # bytes
UNREADABLE = -1  # as a shard: the files could not be read, so there is no record
RECORD = np.dtype(
    [
        ("fingerprint", "u8", 2),  # of the pair's files
        ("shard", "i4"),
        ("offset", "u8"),  # in the shard, in bytes
        ("height", "u4"),
        ("width", "u4"),
        ("original", "u4", 2),  # height and width of the photograph as its file has it
        ("target", "S2"),  # NumPy's name of the target's type: u1, u2, f4
    ]
)
_BUILD = "run python -m src.data.cache with the same flags"


@dataclass(frozen=True)
class Settings:
    """Where a cache is and what it is made for.

    Attributes:
        root: folder of the datasets' caches.
        height, width: of the samples, in pixels.
        keep_aspect_ratio: of the crops, as in `Augmentation`.
        margin: the largest crop of a cached photograph is this times as high and wide as a sample,
            or as large as the file has it.
    """

    root: Path
    height: int
    width: int
    keep_aspect_ratio: bool
    margin: float

    @staticmethod
    def of(config: Config) -> Settings:
        """What a configuration with `data_cache` asks for."""
        size = config.img_height, config.img_width
        root = Path(config.data_cache)
        return Settings(root, *size, config.keep_aspect_ratio, config.cache_margin)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) at which a photograph of this size is kept: never larger than it is."""
        aspect = self.width / self.height if self.keep_aspect_ratio else width / height
        crop_width = min(width, height * aspect)
        scale = self.margin * max(self.width / crop_width, self.height / (crop_width / aspect))
        if scale >= 1:
            return height, width
        return max(1, round(height * scale)), max(1, round(width * scale))


class Shard(NamedTuple):
    """A file of records, as the index's facts list it."""

    bytes: int
    sha256: str


def facts_of(source: DataSource, settings: Settings) -> dict[str, Any]:
    """What all records of a dataset's cache depend on beside the files, as JSON returns it."""
    made_for = asdict(settings)
    del made_for["root"]
    entry = {f"mixdata's {key}": value for key, value in asdict(source).items() if key != "weight"}
    return {"format": FORMAT, **made_for, **entry}


def fingerprint(pair: Pair) -> tuple[int, int]:
    """128 bits of the paths, sizes and times of a pair's files; those of a missing one are none."""
    found = hashlib.blake2b(digest_size=16)
    for path in (pair.image, pair.target, pair.mask):
        if path is None:
            continue
        try:
            facts = path.stat()
            state = f"{facts.st_size}\0{facts.st_mtime_ns}"
        except OSError:
            state = "missing"  # who opens it says so
        found.update(f"{path}\0{state}\0".encode())
    return tuple(np.frombuffer(found.digest(), np.uint64).tolist())


class InvalidCacheError(UserError):
    """A cache that is not there, is damaged, or was made of or for something else."""

    def __init__(self, root: Path, problem: str) -> None:
        super().__init__(f"data_cache: {root} {problem}; {_BUILD}")
        self.problem = problem


class DatasetCache:
    """The cache of one dataset, checked as far as that takes no time.

    Args:
        folder: of it.
        source: the dataset.
        settings: what it should be made for.

    Raises:
        InvalidCacheError: there is none, it is damaged, or it was made of or for something else.
    """

    def __init__(self, folder: Path, source: DataSource, settings: Settings) -> None:
        self.folder = folder
        self.name = source.name
        if not folder.is_dir():
            raise self.error(f"has no cache of {source.name}")
        try:
            text = (folder / META).read_text()
            meta = json.loads(text)
            facts, checksum = dict(meta["facts"]), meta["index"]
            self.shards = [Shard(**shard) for shard in meta["shards"]]
            index = (folder / INDEX).read_bytes()
            _allow_open_files(len(self.shards))
            self._data = [_mapped(self.path(number)) for number in range(len(self.shards))]
            unchanged = (folder / META).read_text() == text
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise self.error(f"holds a damaged cache of {source.name} ({reason})") from None
        for key, now in facts_of(source, settings).items():
            if (before := facts.get(key)) != now:
                raise self.error(
                    f"holds a cache of {source.name} with another {key}: {before}, now {now}"
                )
        if not unchanged:
            raise self.error(f"holds a cache of {source.name} that was replaced just now")
        self._check(index, checksum)
        self.index = np.load(io.BytesIO(index), allow_pickle=False)

    def _check(self, index: bytes, checksum: str) -> None:
        """Raise unless the index has this checksum, and each shard its size."""
        if hashlib.sha256(index).hexdigest() != checksum:
            raise self.error(f"holds a cache of {self.name} with a wrong checksum of {INDEX}")
        for number, (data, shard) in enumerate(zip(self._data, self.shards, strict=True)):
            if len(data) != shard.bytes:
                raise self.error(
                    f"holds a cache of {self.name} whose {self.path(number).name} has {len(data)} "
                    f"bytes instead of {shard.bytes}"
                )

    def error(self, problem: str) -> InvalidCacheError:
        """What is said of this cache."""
        return InvalidCacheError(self.folder.parent, problem)

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.folder / f"shard-{shard}.bin"

    def rows(self, pairs: Iterable[Pair]) -> dict[Pair, int]:
        """The record of each pair.

        Raises:
            InvalidCacheError: there is none of a pair, or its files have changed since.
        """
        known = {tuple(key): row for row, key in enumerate(self.index["fingerprint"].tolist())}
        rows = {pair: known.get(fingerprint(pair)) for pair in pairs}
        for pair, row in rows.items():
            if row is None:
                raise self.error(
                    f"does not hold {pair.image} and its target as they are now (path, size, time)"
                )
        return rows

    def open(self, pair: Pair, row: int) -> OpenPair:
        """A pair as its record has it.

        Raises:
            UserError: the pair was unreadable when the cache was built, and is.
        """
        record = self.index[row]
        if record["shard"] == UNREADABLE:
            return open_pair(pair)
        height, width, offset = (int(record[key]) for key in ("height", "width", "offset"))
        data = self._data[int(record["shard"])]
        count = height * width
        photo = np.frombuffer(data, np.uint8, 3 * count, offset).reshape(height, width, 3)
        offset += aligned(3 * count)
        target = np.frombuffer(data, record["target"].decode(), count, offset)
        target = target.reshape(height, width)
        original = tuple(record["original"].tolist())
        return OpenPair(DecodedPhoto(photo), target, pair.source, original=original)


def _mapped(path: Path) -> mmap.mmap:
    """Raises OSError, or ValueError for an empty file."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _allow_open_files(count: int) -> None:
    """Let this process have so many more files open, as far as the system allows: a mapped one
    stays open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        wanted = soft + count
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def aligned(size: int) -> int:
    """A number of bytes, rounded up to where the next array may begin."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Cache:
    """Opens pairs out of their cache, as `open_pair` does out of their files.

    Args:
        pairs: all that will be asked for.
        settings: what the cache should be made for.

    Raises:
        UserError: a dataset's cache is missing, damaged, or made of or for something else; says
            what, and what to do.
    """

    def __init__(self, pairs: list[Pair], settings: Settings) -> None:
        self._datasets: dict[str, DatasetCache] = {}
        self._rows: dict[Pair, int] = {}
        for name, indices in by_dataset(pairs).items():
            members = [pairs[index] for index in indices]
            dataset = DatasetCache(settings.root / name, members[0].source, settings)
            self._datasets[name] = dataset
            self._rows |= dataset.rows(members)

    def __call__(self, pair: Pair) -> OpenPair:
        return self._datasets[pair.source.name].open(pair, self._rows[pair])


if __name__ == "__main__":
    from src.data.cache_build import main  # a training has no use for it

    run_program(main)
