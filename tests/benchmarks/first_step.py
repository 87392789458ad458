"""How long the first training step takes, without and with the compile cache.

    python -m tests.benchmarks.first_step [--quick] [--runs 1]

Pairs of processes that take one step each, batch 1; the second of a pair finds the graph that the
first has compiled. Timed from the start of the process, and the first step alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from src import cpu_kernels
from tests.benchmarks.report import parse, print_section

ROOT = Path(__file__).resolve().parents[2]
FRESH, CACHED = "compiled", "from the cache"
WORKER = "--worker"


def work(cache: Path, config_path: str, size: int) -> None:
    """Take a step; print as JSON when it was finished (seconds since 1970) and what it took, with
    its compilation or what the cache leaves of it."""
    from src import runtime

    runtime.start("CPU", checkpoints_only=True)

    import mindspore as ms

    from src.compile_cache import CompileCache
    from src.config import load_config
    from src.midas_net import MidasNet
    from tests.benchmarks import bare_step

    config = load_config(["--config_path", config_path])
    step = bare_step.make_step(config, MidasNet(**config.network()))
    batch = tuple(ms.Tensor(values) for values in bare_step.make_batch(1, size, size))
    graphs = CompileCache(cache, {"config": config.model_dump(mode="json"), "size": size})
    start = time.perf_counter()
    graphs.open()
    step(*batch).asnumpy()
    graphs.close()
    spent = time.perf_counter() - start
    print(json.dumps({"finished": time.time(), "first_step": spent}))


def start_process(cache: Path, config_path: Path, size: int) -> tuple[float, float]:
    """Seconds from the start of a process to the end of its first step, and of that step alone."""
    command = ["-m", "tests.benchmarks.first_step", WORKER, str(cache), str(config_path), str(size)]
    start = time.time()
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True
    )
    result = json.loads(done.stdout.splitlines()[-1])
    return result["finished"] - start, result["first_step"]


def figures(quick: bool = False, runs: int = 3, size: int = 0) -> dict[str, Any]:
    """Seconds to the end of the first step, and of that step alone, of every pair.

    Args:
        quick: the quickstart's network at a small size.
        runs: pairs.
        size: in pixels; 0: 384, quick: 96.

    Raises:
        RuntimeError: the second process of a pair did not find the first one's graph.
    """
    # Measures a machine that it does not know yet: in no figure.
    cpu_kernels.choose(checkpoints_only=True)
    config_path = ROOT / ("scripts/quickstart.yaml" if quick else "config.yaml")
    found = {name: {"process": [], "step": []} for name in (FRESH, CACHED)}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as cache:
            for name, values in found.items():
                spent = start_process(Path(cache), config_path, size or (96 if quick else 384))
                print(f"{name}: {spent[0]:.1f} s, first step alone {spent[1]:.1f} s", flush=True)
                for key, value in zip(values, spent, strict=True):
                    values[key].append(round(value, 3))
            if len(list(Path(cache).iterdir())) != 1:
                raise RuntimeError("the sources changed between two starts: this compares nothing")
    return {"network": config_path.name, "seconds": found}


def main() -> None:
    if sys.argv[1:2] == [WORKER]:
        cache, config_path, size = sys.argv[2:]
        work(Path(cache), config_path, int(size))
        return
    options = parse(__doc__)
    print_section("first_step", figures(options.quick, min(options.runs, 3), options.size))


if __name__ == "__main__":
    main()
