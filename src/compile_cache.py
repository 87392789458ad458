"""Compiled training graphs, kept for the next start of the same configuration.

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
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mindspore as ms

from src import runtime

LOG = logging.getLogger("midas")
_SOURCES = Path(__file__).resolve().parent


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


def _key(facts: Mapping[str, Any]) -> str:
    """Of sources, versions, kernels and `facts`."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    versions = (ms.__version__, platform.python_version(), os.environ.get("ONEDNN_MAX_CPU_ISA"))
    digest.update(repr(versions).encode())
    for source in sorted(_SOURCES.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:32]
