"""Compiled graphs, kept for the next start of the same configuration.

MindSpore's own cache is keyed by the sources it finds alone and warns of "correctness risks": what
a network was built with (a loss weight, a number of blocks) may change unnoticed. Here a folder
stands for everything that a graph is made of, and a file is in it once it is whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mindspore as ms

from src import cpu_kernels, runtime
from src.errors import UserError
from src.image_io import write_bytes

LOG = logging.getLogger("midas")
_SOURCES = Path(__file__).resolve().parent
_DIGEST = "compile_dependency.hash"  # MindSpore's, of the sources that it finds


class CompileCache:
    """The graphs that are compiled between `open` and `close`, of the first that a process opens.

    MindSpore takes the first folder that a process names for all that come, and numbers the graphs
    through the whole process: a second training would take another's graphs for its own. So where a
    process trains again, that compiles anew.

    Args:
        root: folder of all caches; None: compile anew.
        facts: JSON-able, everything beside the sources that the graph depends on.
        rank: this process's number; each has a graph of its own.
    """

    used = False  # in this process

    def __init__(self, root: Path | None, facts: Mapping[str, Any], rank: int = 0) -> None:
        self.folder = root / _key(facts) / str(rank) if root else None
        self.opened = False
        self.fresh: Path | None = None  # where new graphs are written until they are whole

    def open(self) -> None:
        """Take graphs from the cache from now on, or have them written for it."""
        if self.folder is None or CompileCache.used:
            return
        self.opened = CompileCache.used = True
        if self.folder.is_dir():
            runtime.cache_graphs(self.folder)
            return
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.fresh = Path(tempfile.mkdtemp(dir=self.folder.parent, prefix=".new-"))
        except OSError as error:
            LOG.warning("compile_cache: %s cannot be written (%s)", self.folder, error.strerror)
            return
        runtime.cache_graphs(self.fresh)

    def close(self) -> None:
        """Compile anew from now on; keep what was compiled."""
        if self.opened:
            runtime.cache_graphs(None)
        if self.fresh is not None:
            try:
                self.fresh.rename(self.folder)
            except OSError:  # another run was faster, or the disk is full
                shutil.rmtree(self.fresh, ignore_errors=True)
            self.fresh = None


class GraphStore:
    """The graphs of one network, by a name of what goes in, for as many as a process compiles.

    MindSpore numbers the graphs of a process and takes the file that has a number for that graph,
    although it may be of another input: shapes that come in another order would be computed wrong,
    without a word. So a process gives it an empty folder of its own. A stored graph is put there
    under the number that comes next, and a new one is copied from there to the store.

    Args:
        root: folder of all caches; None: compile anew.
        facts: JSON-able, everything beside the sources and the input that the graphs depend on.
    """

    _folder: tempfile.TemporaryDirectory[str] | None = None  # MindSpore's, in this process

    def __init__(self, root: Path | None, facts: Mapping[str, Any]) -> None:
        # MindSpore takes graphs only in the program that compiled them, and needs its file.
        program = Path(sys.argv[0]).resolve()
        # Under msrun it names its files otherwise; on other devices it has caches of their own.
        is_known = "MS_ROLE" not in os.environ and ms.get_context("device_target") == "CPU"
        is_kept = root and program.is_file() and is_known
        self.root = root / _key({**facts, "program": str(program)}) if is_kept else None

    @contextmanager
    def compiling(self, name: str) -> Iterator[None]:
        """Take the one graph that this block compiles, that of `name`, from the store, or keep it.

        After the first one that is not there, MindSpore compiles all others of the process anew.
        """
        graph = self._offered(name)
        if graph is None:
            yield
            return
        runtime.cache_graphs(Path(GraphStore._folder.name))
        try:
            yield
        except BaseException:
            graph.unlink(missing_ok=True)  # its number may be the next one's
            raise
        finally:
            runtime.cache_graphs(None)
        if graph.is_file() and not self._stored(name).is_file():
            self._keep(graph, name)

    def _stored(self, name: str) -> Path:
        return self.root / f"{name}.mindir"

    def _offered(self, name: str) -> Path | None:
        """The file that MindSpore will take for the next graph, or write, a copy of the stored one
        if there is one.

        None where graphs are not kept, or a `CompileCache` has given MindSpore its folder.
        """
        if self.root is None or (CompileCache.used and GraphStore._folder is None):
            return None
        try:
            if GraphStore._folder is None:
                GraphStore._folder = tempfile.TemporaryDirectory(prefix="graphs-")
                CompileCache.used = True
            place = Path(GraphStore._folder.name, "rank_0", "graph_cache")
            place.mkdir(parents=True, exist_ok=True)
            graph = place / f"compile_cache_{len(list(place.glob('*.mindir')))}.mindir"
            # MindSpore looks for this once: without, it compiles all of the process anew.
            if (self.root / _DIGEST).is_file() and not (place / _DIGEST).exists():
                shutil.copyfile(self.root / _DIGEST, place / _DIGEST)
            if self._stored(name).is_file():
                shutil.copyfile(self._stored(name), graph)
        except OSError as error:
            LOG.warning("compile_cache: not used (%s)", error)
            self.root = None
            return None
        return graph

    def _keep(self, graph: Path, name: str) -> None:
        """Put a graph into the store: whole, or not at all."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            write_bytes(self.root / _DIGEST, graph.with_name(_DIGEST).read_bytes())
            write_bytes(self._stored(name), graph.read_bytes())
        except (OSError, UserError) as error:
            LOG.warning("compile_cache: graphs are not kept (%s)", error)
            self.root = None


def _key(facts: Mapping[str, Any]) -> str:
    """Of sources, versions, kernels and `facts`."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    versions = (ms.__version__, platform.python_version())
    digest.update(repr((*versions, *cpu_kernels.facts())).encode())
    for source in sorted(_SOURCES.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:32]
