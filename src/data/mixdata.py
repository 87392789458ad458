"""mixdata.json: which photographs and targets to train on, and what the targets' values mean."""

from __future__ import annotations

import difflib
import functools
import glob
import json
import math
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from src.data.paths import candidates, resolve_data_path
from src.errors import UserError
from src.image_io import HDF5_SUFFIXES, IMAGE_SUFFIXES, TARGET_SUFFIXES

MASK_SUFFIXES = frozenset({".png"})

Kind = Literal["disparity", "depth"]

_FORM = (
    'expected {"NAME": {"image": GLOB, "depth": GLOB}}, with mask, kind, scale, key, invalid and '
    'weight where needed, or {"img": {"RW": "/ReDWeb_V1/Imgs/*"}, "depth": {"RW": '
    '"/ReDWeb_V1/RDs/*"}}'
)
_TWO_KEYS = ("img", "depth")
# Names head columns of tables and label curves and pictures.
_NAME = re.compile(r"[^\W_][\w .,+()-]{0,59}")
_NAME_FORM = "at most 60 letters, digits, spaces and _ . , + ( ) -, with a letter or digit first"
_WILDCARD = re.compile(r"(\*+|\?|\[(?:!.[^]]*|[^!][^]]*)\])")


@dataclass(frozen=True)
class DataSource:
    """What the values of one dataset's targets mean: one entry of mixdata.json.

    Attributes:
        name: of the dataset.
        kind: `disparity`, larger is closer, or `depth`, larger is farther.
        scale: a raw value times this is disparity, in any unit, or depth in metres; > 0.
        key: of the map inside HDF5 files, "/depth" in MegaDepth.
        invalid: the raw value (before `scale`) that marks unknown pixels; None for no such value.
        weight: of the dataset's loss where `mixing` is `weighted`; >= 0.
    """

    name: str
    kind: Kind = "disparity"
    scale: float = 1.0
    key: str = ""
    invalid: float | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Pair:
    """A photograph and its target, a disparity or depth map of the same size.

    `mask`, if there is one, is a grey PNG of that size: 0 where the target is unknown.
    """

    image: Path
    target: Path
    source: DataSource = DataSource("")
    mask: Path | None = None


@dataclass(frozen=True)
class _Side:
    """The images, the targets or the masks of a dataset.

    `where` is their key in mixdata.json, for messages; `suffixes` are those they may have.
    """

    glob: str
    where: str
    suffixes: frozenset[str]


class _Dataset(NamedTuple):
    """One entry of the file."""

    source: DataSource
    images: _Side
    targets: _Side
    masks: _Side | None = None


@dataclass(frozen=True)
class _Files:
    """The files of a side, sorted, and the glob that found them, with the folder it starts in."""

    paths: list[Path]
    pattern: str


def find_pairs(root: str, mixdata: str, key: str = "mixdata") -> list[Pair]:
    """All pairs that the globs of `mixdata` match, datasets in the file's order, images sorted.

    An image and its target have the same file stem. Where both globs have wildcards for folders, as
    many of them, or a stem occurs twice in one glob, or the two share none, they agree instead in
    what the wildcards of their globs stand for, folder by folder, without the suffix:
    `**/image/*.png` and `**/depth/*.npy` make a pair of `a/b/image/7.png` and `a/b/depth/7.npy`,
    for both are `a/b/7`. An image and its mask are paired in the same way.

    Args:
        root: train_data_dir; globs are looked up under it first.
        mixdata: path of the JSON file, looked up the same way.
        key: of the configuration that named it, for messages.

    Raises:
        UserError: the file is missing or malformed, a glob matches nothing, or a file has no
            partner or more than one.
    """
    path = resolve_data_path(root, mixdata, key)
    return [pair for entry in _read_mixdata(path) for pair in _pairs(root, path, entry)]


def by_dataset(pairs: list[Pair]) -> dict[str, list[int]]:
    """The indices of each dataset's pairs, rising; datasets in the order in which they begin."""
    members: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        members.setdefault(pair.source.name, []).append(index)
    return members


def hold_out(pairs: list[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Split off a share of every dataset, chosen at random, for validation.

    What is chosen from a dataset depends on its number of images, its name, `share` and `seed`
    alone. Both lists keep the order of `pairs`.

    Args:
        share: in [0, 1), of each dataset, rounded; at least one image each if it is above 0.

    Returns:
        (for training, held out)

    Raises:
        UserError: a dataset would have no image left to train on.
    """
    if share <= 0:
        return list(pairs), []
    held: set[int] = set()
    for name, indices in by_dataset(pairs).items():
        count = max(1, round(share * len(indices)))
        if count >= len(indices):
            raise UserError(
                f"val_share: {share:g} leaves no image of {name} to train on, it has "
                f"{len(indices)}; set a smaller share, or val_mixdata instead"
            )
        rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        held.update(rng.choice(indices, count, replace=False).tolist())
    return (
        [pair for index, pair in enumerate(pairs) if index not in held],
        [pair for index, pair in enumerate(pairs) if index in held],
    )


# --- The file -----------------------------------------------------------------------------------


def _read_mixdata(path: Path) -> list[_Dataset]:
    try:
        content = json.loads(path.read_text(), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; expected a JSON file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: {_FORM}")
    if not content.keys().isdisjoint(_TWO_KEYS):
        return _two_key_form(path, content)
    entries = [_dataset(path, _name(path, name), entry) for name, entry in content.items()]
    if not any(entry.source.weight for entry in entries):
        raise UserError(
            f"{path}: weight: is 0 in every dataset; give at least one a weight above 0"
        )
    return entries


def _without_repeats(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two equal keys, JSON would keep the second and lose a dataset."""
    content = dict(items)
    if len(content) < len(items):
        names = [name for name, _ in items]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)} occurs twice")
    return content


def _two_key_form(path: Path, content: dict[str, Any]) -> list[_Dataset]:
    """The original's: {"img": {name: glob}, "depth": {name: glob}}."""
    for name in content:
        if name not in _TWO_KEYS:
            raise UserError(f"{path}: {name} stands beside img or depth; {_FORM}")
    images, targets = (content.get(key) for key in _TWO_KEYS)
    for part in (images, targets):
        if not isinstance(part, dict) or not all(isinstance(text, str) for text in part.values()):
            raise UserError(f"{path}: {_FORM}")
    if not images or images.keys() != targets.keys():
        raise UserError(f"{path}: img names {[*images]}, depth names {[*targets]}; {_FORM}")
    return [
        _Dataset(
            DataSource(_name(path, name)),
            _Side(images[name], f"{path}: img.{name}", IMAGE_SUFFIXES),
            _Side(targets[name], f"{path}: depth.{name}", TARGET_SUFFIXES),
        )
        for name in images
    ]


def _name(path: Path, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UserError(f"{path}: {name!r} names a dataset; expected {_NAME_FORM}")
    return name


def _glob(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError('expected a glob, such as "photos/*.jpg"')
    return value


def _kind(value: object) -> str:
    if value not in get_args(Kind):
        raise ValueError('expected "disparity" (larger is closer) or "depth"')
    return value


def _finite(value: object) -> float:
    """A number that float32 can hold; all values of targets are float32."""
    number = float(value) if isinstance(value, int | float) and abs(value) < 3e38 else math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError("expected a finite number")
    return number


def _scale(value: object) -> float:
    number = _finite(value)
    if np.float32(number) <= 0:
        raise ValueError("expected a number above 0")
    return number


def _invalid(value: object) -> float | None:
    return None if value is None else _finite(value)


def _weight(value: object) -> float:
    number = _finite(value)
    if number < 0:
        raise ValueError("expected a number of at least 0")
    return number


def _key(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError('expected the name of an HDF5 dataset, such as "/depth"')
    return value


# The globs of an entry -> the suffixes of what they may find.
_GLOBS = {"image": IMAGE_SUFFIXES, "depth": TARGET_SUFFIXES, "mask": MASK_SUFFIXES}

# What an entry may hold -> what checks it. All but the globs are fields of DataSource.
_ENTRY: dict[str, Callable[[object], Any]] = {
    "image": _glob,
    "depth": _glob,
    "mask": _glob,
    "kind": _kind,
    "scale": _scale,
    "key": _key,
    "invalid": _invalid,
    "weight": _weight,
}


def _dataset(path: Path, name: str, entry: object) -> _Dataset:
    """One {"image": GLOB, "depth": GLOB, ...}."""
    if not isinstance(entry, dict):
        raise UserError(f"{path}: {name}: got {entry!r}; {_FORM}")
    values = {}
    for key, value in entry.items():
        if key not in _ENTRY:
            near = difflib.get_close_matches(key, _ENTRY, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_ENTRY)}"
            raise UserError(f"{path}: {name}.{key}: no such key; {hint}")
        try:
            values[key] = _ENTRY[key](value)
        except ValueError as error:
            raise UserError(f"{path}: {name}.{key}: got {value!r}, {error}") from None
    for key in ("image", "depth"):
        if key not in values:
            raise UserError(f"{path}: {name}.{key}: missing; {_FORM}")
    images, targets, masks = (
        _Side(values.pop(key), f"{path}: {name}.{key}", suffixes) if key in values else None
        for key, suffixes in _GLOBS.items()
    )
    return _Dataset(DataSource(name, **values), images, targets, masks)


# --- Pairs --------------------------------------------------------------------------------------


def _pairs(root: str, path: Path, entry: _Dataset) -> list[Pair]:
    """The pairs of one dataset."""
    source = entry.source
    images, targets = _expand(root, entry.images), _expand(root, entry.targets)
    for file in targets.paths:
        if file.suffix.lower() in HDF5_SUFFIXES and not source.key:
            raise UserError(
                f"{path}: {source.name}.key: missing; {file} is HDF5, so name the dataset inside "
                'that holds the map, such as "/depth"'
            )
    pairs = [Pair(*files, source) for files in _match(images, targets, "target")]
    if entry.masks is None:
        return pairs
    masks = _match(images, _expand(root, entry.masks), "mask")
    return [replace(pair, mask=mask) for pair, (_, mask) in zip(pairs, masks, strict=True)]


def _expand(root: str, side: _Side) -> _Files:
    """The files of the first place where the glob finds any."""
    places = candidates(glob.escape(root), side.glob)
    for place in map(str, places):
        found = [Path(name) for name in sorted(glob.glob(place, recursive=True))]
        found = [path for path in found if path.suffix.lower() in side.suffixes]
        if found:
            return _Files(found, place)
    raise UserError(
        f"{side.where}: no {'/'.join(sorted(side.suffixes))} file matches {places[0]} or "
        f"{places[1]}; set train_data_dir to the folder that holds the dataset"
    )


def _match(images: _Files, partners: _Files, what: str) -> list[tuple[Path, Path]]:
    """(image, partner) in the order of the images; `what` says what the partners are."""
    both = set(images.paths) & set(partners.paths)
    if both:
        raise UserError(f"{min(both)}: is matched as image and as {what}; make the globs differ")
    counts = ""
    if len(images.paths) != len(partners.paths):
        counts = f"; found {len(images.paths)} images and {len(partners.paths)} {what}s"
    key_of, reason = _rule(images, partners, what)
    image_of, partner_of = (_by_key(files, key_of, counts) for files in (images, partners))
    for missing, own, others, example in (
        (what, image_of, partner_of, partners.paths[0]),
        ("image", partner_of, image_of, images.paths[0]),
    ):
        for key, path in own.items():
            if key not in others:
                expected = f"expected {example.with_name(path.stem + example.suffix)}"
                hint = f"{reason}, here {key!r}" if reason else expected
                raise UserError(f"{path}: has no {missing}; {hint}{counts}")
    return [(image, partner_of[key]) for key, image in image_of.items()]


def _by_key(files: _Files, key_of: Callable[[_Files, Path], str], counts: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files.paths:
        other = found.setdefault(key_of(files, path), path)
        if other is not path:
            raise UserError(
                f"{path}: same name as {other}, so its partner is not certain; rename one, or "
                f"give each folder a name of its own in mixdata{counts}"
            )
    return found


def _rule(images: _Files, partners: _Files, what: str) -> tuple[Callable[[_Files, Path], str], str]:
    """(what must be equal in an image and its partner, why it is not the stem or '')."""
    if twins := _twins(images.paths) or _twins(partners.paths):
        reason = f"{twins[1]} has the same name as {twins[0]}"
    elif _folder_wildcards(images) == _folder_wildcards(partners) > 0:
        reason = "both globs have wildcards for folders"
    elif _share(_stem, images, partners) or not _share(_wildcards, images, partners):
        return _stem, ""
    else:
        reason = f"no image has the name of a {what}"
    agree = "so pairs must agree in what the wildcards of their globs stand for"
    return _wildcards, f"{reason}, {agree}"


def _share(key_of: Callable[[_Files, Path], str], images: _Files, targets: _Files) -> bool:
    left, right = ({key_of(files, path) for path in files.paths} for files in (images, targets))
    return not left.isdisjoint(right)


def _stem(_: _Files, path: Path) -> str:
    return path.stem


def _twins(paths: Iterable[Path]) -> tuple[Path, Path] | None:
    """The first two files of one stem."""
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(path.stem, path)
        if other is not path:
            return other, path
    return None


def _wildcards(files: _Files, path: Path) -> str:
    """What the wildcards of the glob stand for in `path` without suffix, joined by '/'."""
    found = _wildcard_groups(files.pattern).fullmatch(str(path.with_suffix("")))
    # A wildcard that stands for nothing keeps its place, or s1/c/7 and s/c1/7 would be alike.
    return "/".join(part.removesuffix("/") for part in found.groups() if part is not None)


def _folder_wildcards(files: _Files) -> int:
    """How many folders of the glob are wildcards."""
    return sum(glob.has_magic(part) for part in files.pattern.split("/")[:-1])


@functools.lru_cache
def _wildcard_groups(pattern: str) -> re.Pattern[str]:
    """The glob, its suffix aside, as an expression with a group for each wildcard.

    It is only asked about files that the glob has found, so a group need not check what it holds.
    """
    *folders, name = pattern.split("/")
    parts = ["((?:.*/)?)" if folder == "**" else _component(folder) + "/" for folder in folders]
    stem = "(.*)" if name == "**" else _component(name.rpartition(".")[0] or name)
    # A name such as *png has its suffix inside the wildcard: then the whole stem counts.
    return re.compile("".join(parts) + f"(?:{stem}|([^/]*))", re.DOTALL)


def _component(glob_part: str) -> str:
    """One folder's or file's part of a glob as a regular expression."""
    text = ""
    for token in _WILDCARD.split(glob_part):
        if token.startswith("*"):
            text += "([^/]*)"
        elif len(token) == 3 and token.startswith("["):  # [x] is how x itself is written
            text += re.escape(token[1])
        elif token == "?" or (token.startswith("[") and token.endswith("]")):
            text += "([^/])"
        else:
            text += re.escape(token)
    return text
