"""A process that trains one step, for tests.benchmarks.train_step.

    python -m tests.benchmarks.first_step CACHE_FOLDER CONFIG SIZE

Prints as JSON when its first step was finished (seconds since 1970) and how long that step took,
with its compilation or what the cache leaves of it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from src import runtime


def main() -> None:
    cache, config_path, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    runtime.start("CPU")

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


if __name__ == "__main__":
    main()
