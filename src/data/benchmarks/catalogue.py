"""All benchmarks by name, and the choice among them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from src.data.benchmarks.base import Benchmark
from src.data.benchmarks.diw import Diw
from src.data.benchmarks.eth3d import Eth3d
from src.data.benchmarks.kitti import Kitti
from src.data.benchmarks.middlebury import Middlebury
from src.data.benchmarks.nyu import Nyu
from src.data.benchmarks.sintel import Sintel
from src.data.benchmarks.tum import Tum
from src.data.paths import resolve_data_path
from src.errors import UserError

LOG = logging.getLogger("midas")

BENCHMARKS: dict[str, type[Benchmark]] = {
    benchmark.name: benchmark
    for benchmark in (
        Kitti,
        Sintel,
        Tum,
        Eth3d,
        Nyu,
        Diw,
        Middlebury,
    )
}


def open_benchmarks(
    data_name: str,
    root: str,
    paths: Mapping[str, Sequence[str]],
    size: int,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    problems: list[str] | None = None,
) -> list[Benchmark]:
    """The benchmarks that `data_name` asks for, their folders checked.

    Args:
        data_name: one name, several by comma, or `all`: those whose path exists.
        root: train_data_dir.
        paths: name -> datapath_*, looked up under `root` first.
        size: bound of the resize rules, 384 in the protocol.
        options: name -> further arguments of that benchmark.
        problems: gets what is wrong with a benchmark that cannot be used, instead of an error;
            missing files are then found when they are read.

    Raises:
        UserError: an unknown name, a missing or badly laid out folder, or `all` of nothing.
    """
    known = {name.lower(): name for name in BENCHMARKS}
    everything = data_name.strip().lower() == "all"
    asked = list(known) if everything else data_name.split(",")
    benchmarks = []
    for name in dict.fromkeys(known.get(name.strip().lower(), name) for name in asked):
        if name not in BENCHMARKS:
            raise UserError(
                f"data_name: got {name!r}; expected {', '.join(BENCHMARKS)}, several by comma, or "
                "all"
            )
        found, missing = _find(root, paths[name], f"datapath_{name}")
        if missing and not (everything and not found):
            raise missing[0]
        if missing:
            LOG.info("skipped %s", missing[0])
            continue
        arguments = {"size": size, **(options or {}).get(name, {})}
        try:
            benchmarks.append(_open(BENCHMARKS[name], found, arguments, problems is None))
        except UserError as error:
            if problems is None:
                raise
            LOG.error("skipped %s: %s", name, error)
            problems.append(str(error))
    if not benchmarks and not problems:
        raise UserError(f"data_name: none of {', '.join(BENCHMARKS)} is there; set train_data_dir")
    return benchmarks


def _open(
    kind: type[Benchmark], paths: Sequence[Path], arguments: dict[str, Any], check: bool
) -> Benchmark:
    """A benchmark; without `check` also one with missing files."""
    try:
        return kind(*paths, **arguments)
    except UserError:
        if check or kind is Nyu:  # its two files are all or nothing
            raise
        return kind(*paths, **arguments, check=False)


def _find(root: str, paths: Sequence[str], key: str) -> tuple[list[Path], list[UserError]]:
    """The paths that exist, and why the others do not."""
    found, problems = [], []
    for path in paths:
        try:
            found.append(resolve_data_path(root, path, key))
        except UserError as error:
            problems.append(error)
    return found, problems
