"""Compiled graphs that are kept: read again by the next start, and never another one's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src import compile_cache
from src.compile_cache import CompileCache, GraphStore

ROOT = Path(__file__).resolve().parents[1]
# Arguments: folder of the caches, or nothing; alpha, which is part of the graph and of the facts,
# or several by comma; what happens after the first run: "close" or "die".
PROGRAM = """
import os, sys
from pathlib import Path
from src import runtime
from src.compile_cache import CompileCache
runtime.start("CPU")
import mindspore as ms
from mindspore import nn

class Weighted(nn.Cell):
    def __init__(self, alpha):
        super().__init__()
        self.alpha = alpha
        self.dense = nn.Dense(3, 2, weight_init="ones", bias_init="zeros")
    def construct(self, x):
        return self.alpha * self.dense(x).sum()

def show(network):
    print(network(ms.ops.ones((4, 3), ms.float32)).asnumpy().item(), flush=True)

root, alpha, then = sys.argv[1:]
for alpha in map(float, alpha.split(",")):
    cache = CompileCache(Path(root) if root else None, {"alpha": alpha})
    cache.open()
    show(Weighted(alpha))
    if then == "die":
        os._exit(9)
    cache.close()
show(Weighted(3.0))
"""
FACTS = {"alpha": 0.5}
PRODUCT = 4 * 2 * 3  # of ones: four rows, two outputs, three inputs


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)
    return path


def run(program: Path, root: Path | str, alpha: float | str, then: str = "close") -> list[float]:
    """What the program computes."""
    ended = subprocess.run(
        [sys.executable, program, str(root), str(alpha), then],
        cwd=program.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == (9 if then == "die" else 0), ended.stderr
    return [float(line) for line in ended.stdout.splitlines()]


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Files by name: when they were written, and what is in them."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def cached(program, tmp_path_factory) -> Path:
    """A folder of caches after a first start."""
    root = tmp_path_factory.mktemp("caches") / "not there yet"
    assert run(program, root, 0.5) == [0.5 * PRODUCT, 3 * PRODUCT]
    return root


def graph(root: Path) -> Path:
    """The only graph in a folder of caches."""
    (path,) = root.rglob("*.mindir")
    return path


def test_a_first_start_leaves_the_graph_it_compiled_and_no_later_one(cached):
    """And nothing else: no half cache, no folder of MindSpore's beside the program."""
    (folder,) = cached.iterdir()
    assert [path.name for path in folder.iterdir()] == ["0"]
    assert graph(cached).is_relative_to(folder / "0")


def test_nothing_is_written_beside_the_program(cached, program):
    assert list(program.parent.iterdir()) == [program]


def test_a_second_start_computes_the_same_and_writes_nothing(cached, program):
    before = content(cached)
    assert run(program, cached, 0.5) == [0.5 * PRODUCT, 3 * PRODUCT]
    assert content(cached) == before


def test_of_several_in_one_process_the_first_alone_is_cached(cached, program, tmp_path):
    """Where the first is read, and a second is begun, that one must not be filled with a third's,
    nor a third be computed with the second's."""
    shutil.copytree(cached, tmp_path / "caches")
    before = content(cached)
    for first in ("0.5,2", "0.5,5"):
        second = float(first.split(",")[1])
        expected = [0.5 * PRODUCT, second * PRODUCT, 3 * PRODUCT]
        assert run(program, tmp_path / "caches", first) == expected
    assert content(tmp_path / "caches").keys() == before.keys()
    assert run(program, tmp_path / "caches", 2) == [2 * PRODUCT, 3 * PRODUCT]


def test_other_facts_have_a_graph_of_their_own(cached, program, tmp_path):
    """A second start does read: with the graph of alpha 2 put in the place of its own, it
    computes with that, although the program says 0.5."""
    shutil.copytree(cached, tmp_path / "caches")
    before = content(cached)
    assert run(program, tmp_path / "caches", 2) == [2 * PRODUCT, 3 * PRODUCT]
    assert content(tmp_path / "caches").items() >= before.items()
    first, second = (path for path in (tmp_path / "caches").rglob("*.mindir"))
    assert first.relative_to(tmp_path) != second.relative_to(tmp_path)
    own = tmp_path / "caches" / graph(cached).relative_to(cached)
    (other,) = {first, second} - {own}
    other.replace(own)
    assert run(program, tmp_path / "caches", 0.5) == [2 * PRODUCT, 3 * PRODUCT]


def test_a_damaged_graph_is_compiled_anew(cached, program, tmp_path):
    shutil.copytree(cached, tmp_path / "caches")
    path = graph(tmp_path / "caches")
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-200])
    assert run(program, tmp_path / "caches", 0.5) == [0.5 * PRODUCT, 3 * PRODUCT]


def test_a_first_start_that_dies_leaves_no_graph_for_the_next(program, tmp_path):
    assert run(program, tmp_path, 0.5, "die") == [0.5 * PRODUCT]
    (folder,) = tmp_path.iterdir()
    assert not (folder / "0").exists()
    assert run(program, tmp_path, 0.5) == [0.5 * PRODUCT, 3 * PRODUCT]
    assert (folder / "0").is_dir()


def test_without_a_folder_nothing_is_kept(program, tmp_path):
    before = set(program.parent.rglob("*"))
    assert run(program, "", 0.5) == [0.5 * PRODUCT, 3 * PRODUCT]
    assert set(program.parent.rglob("*")) == before


# --- Inference: a graph for each shape ------------------------------------------------------------

# Arguments: folder of the store; alpha; numbers of rows. "train" opens a CompileCache before,
# "fail" raises where a graph is to be compiled.
SHAPES = (
    PROGRAM[: PROGRAM.index("def show")]
    + """
from src.compile_cache import GraphStore
root, alpha, *rows = sys.argv[1:]
store = GraphStore(Path(root), {"alpha": alpha})
network = Weighted(float(alpha))
for count in rows:
    if count == "train":
        CompileCache(Path(root) / "trained", {}).open()
        continue
    try:
        with store.compiling("4" if count == "fail" else count):
            if count == "fail":
                raise ValueError
            print(network(ms.ops.ones((int(count), 3), ms.float32)).asnumpy().item(), flush=True)
    except ValueError:
        pass
"""
)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("shapes") / "shapes.py"
    path.write_text(SHAPES)
    return path


def sums(shapes: Path, root: Path, alpha: float, *rows: int | str) -> list[float]:
    """What the program computes, over `alpha` and the 6 of each row; it leaves nothing behind."""
    temporary = shapes.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    ended = subprocess.run(
        [sys.executable, shapes, str(root), str(alpha), *map(str, rows)],
        cwd=shapes.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert not list(temporary.iterdir())
    assert {path.name for path in shapes.parent.iterdir()} == {"shapes.py", "temporary"}
    return [float(line) / alpha / 6 for line in ended.stdout.splitlines()]


@pytest.fixture(scope="module")
def stored(shapes, tmp_path_factory) -> Path:
    """A store with the graphs of 4 and 5 rows."""
    root = tmp_path_factory.mktemp("stores") / "not there yet"
    assert sums(shapes, root, 0.5, 4, 5) == [4, 5]
    assert names_in(root) == ["4.mindir", "5.mindir", "compile_dependency.hash"]
    return root


def names_in(root: Path) -> list[str]:
    (folder,) = root.iterdir()
    return sorted(path.name for path in folder.iterdir())


def test_shapes_may_come_in_another_order(stored, shapes):
    before = content(stored)
    assert sums(shapes, stored, 0.5, 5, 4) == [5, 4]
    assert content(stored) == before


def test_stored_graphs_are_taken_each_for_its_shape(stored, shapes, tmp_path):
    """With the graph of alpha 2 in the place of its own, 5 rows give four times as much."""
    shutil.copytree(stored, tmp_path / "own")
    assert sums(shapes, tmp_path / "other", 2, 5) == [5]
    (other,) = (tmp_path / "other").rglob("5.mindir")
    (own,) = (tmp_path / "own").rglob("5.mindir")
    other.replace(own)
    assert sums(shapes, tmp_path / "own", 0.5, 5, 4) == [20, 4]
    assert sums(shapes, tmp_path / "own", 0.5, 4, 5) == [4, 20]


def test_a_new_shape_among_stored_ones_is_added(stored, shapes, tmp_path):
    shutil.copytree(stored, tmp_path / "store")
    assert sums(shapes, tmp_path / "store", 0.5, 5, 6, 4, 7) == [5, 6, 4, 7]
    kept = content(tmp_path / "store")
    assert names_in(tmp_path / "store")[:4] == [f"{n}.mindir" for n in (4, 5, 6, 7)]
    assert kept.items() >= {k: v for k, v in content(stored).items() if "hash" not in k}.items()
    assert sums(shapes, tmp_path / "store", 0.5, 7, 4, 6, 5) == [7, 4, 6, 5]
    assert content(tmp_path / "store") == kept


def test_a_damaged_graph_of_one_shape_is_compiled_anew(stored, shapes, tmp_path):
    shutil.copytree(stored, tmp_path / "store")
    (path,) = (tmp_path / "store").rglob("5.mindir")
    path.write_bytes(path.read_bytes()[:-200])
    assert sums(shapes, tmp_path / "store", 0.5, 5, 4) == [5, 4]


def test_after_a_failure_the_next_shape_gets_no_other_ones_graph(stored, shapes):
    assert sums(shapes, stored, 0.5, "fail", 5, 4) == [5, 4]


def test_where_a_training_has_its_cache_graphs_of_inference_are_not_kept(stored, shapes, tmp_path):
    shutil.copytree(stored, tmp_path / "store")
    assert sums(shapes, tmp_path / "store", 0.5, "train", 6, 4) == [6, 4]
    assert not list((tmp_path / "store").rglob("6.mindir"))


def test_a_store_that_cannot_be_written_is_borne(shapes, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert sums(shapes, tmp_path / "file", 0.5, 4, 5) == [4, 5]
    assert (tmp_path / "file").read_text() == "mine"


def test_without_a_folder_graphs_of_shapes_are_not_kept(monkeypatch):
    monkeypatch.setattr(CompileCache, "used", False)
    with GraphStore(None, {}).compiling("4"):
        pass
    assert not CompileCache.used


# --- Folders --------------------------------------------------------------------------------------


def filled(cache: CompileCache) -> CompileCache:
    """Opened as if by a process of its own, with a file where MindSpore would write a graph."""
    CompileCache.used = False
    cache.open()
    (cache.fresh / "graph").write_text("compiled")
    return cache


def test_a_place_that_cannot_be_written_is_told_and_borne(tmp_path, caplog, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(CompileCache, "used", False)
    cache = CompileCache(tmp_path / "file", FACTS)
    cache.open()
    cache.close()
    (message,) = (record.message for record in caplog.records if record.name == "midas")
    assert message.startswith(f"compile_cache: {tmp_path / 'file'}/")
    assert message.endswith("cannot be written (Not a directory)")
    assert (tmp_path / "file").read_text() == "mine"


def test_each_rank_has_a_folder_of_its_own(tmp_path):
    caches = [filled(CompileCache(tmp_path, FACTS, rank)) for rank in (0, 1)]
    for cache in caches:
        cache.close()
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1"]
    assert [cache.folder.name for cache in caches] == ["0", "1"]


def test_the_folder_is_not_there_before_all_is_compiled(tmp_path):
    cache = filled(CompileCache(tmp_path, FACTS))
    assert not cache.folder.exists()
    cache.close()
    assert (cache.folder / "graph").read_text() == "compiled"
    assert list(cache.folder.parent.iterdir()) == [cache.folder]


def test_of_two_first_starts_at_once_one_is_kept_whole(tmp_path):
    fast, slow = (filled(CompileCache(tmp_path, FACTS)) for _ in range(2))
    (fast.fresh / "graph").write_text("the first")
    fast.close()
    slow.close()
    assert (fast.folder / "graph").read_text() == "the first"
    assert list(fast.folder.parent.iterdir()) == [fast.folder]


def test_the_folder_is_that_of_everything_a_graph_depends_on(tmp_path, monkeypatch):
    sources = tmp_path / "src"
    (sources / "data").mkdir(parents=True)
    (sources / "loss.py").write_text("a = 1\n")
    (sources / "data/training.py").write_text("b = 1\n")
    monkeypatch.setattr(compile_cache, "_SOURCES", sources)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)

    def folder(facts=FACTS) -> Path:
        return CompileCache(tmp_path / "caches", facts).folder

    first = folder()
    assert folder({"alpha": 0.5}) == first
    assert folder({"b": 1, "a": 2}) == folder({"a": 2, "b": 1})
    seen = {first, folder({"alpha": 0.25}), folder({"beta": 0.5})}
    (sources / "data/training.py").write_text("b = 2\n")
    seen.add(folder())
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    seen.add(folder())
    monkeypatch.setattr("mindspore.__version__", "9.9")
    seen.add(folder())
    assert len(seen) == 6
