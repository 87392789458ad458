"""A process of tests.benchmarks.scaling: trains as many steps as it is told, until it is told 0.

    python scaling_worker.py FOLDER solo|pair CORE[,CORE]

It listens at the socket FOLDER/KIND-CORE once its train step is compiled, and answers each number
of steps with (start, end, cores): the clock in seconds, and the processor time of all its threads
over the time that went by. Of a pair, each takes the core of its rank.
"""

from __future__ import annotations

import os
import sys
import time
from multiprocessing.connection import Listener
from pathlib import Path

PAIR = "pair"
CONFIG = Path(__file__).resolve().parents[2] / "scripts" / "quickstart.yaml"


def main() -> None:
    folder, kind, cores = sys.argv[1], sys.argv[2], sys.argv[3].split(",")

    from src import runtime

    core = int(cores[runtime.local_rank()])
    os.sched_setaffinity(0, {core})  # inherited by all threads: MindSpore's are not there yet
    runtime.start("CPU", run_distribute=kind == PAIR, checkpoints_only=True)

    import mindspore as ms

    from src.config import load_config
    from src.midas_net import MidasNet
    from tests.benchmarks import bare_step

    config = load_config(["--config_path", str(CONFIG)])
    rank, ranks = runtime.rank_and_size()
    step = bare_step.make_step(config, MidasNet(**config.network()), ranks)
    size = (config.batch_size, config.img_height, config.img_width)
    batch = [ms.Tensor(values) for values in bare_step.make_batch(*size, seed=rank)]
    step(*batch).asnumpy()  # compiles
    with Listener(f"{folder}/{kind}-{core}") as listener, listener.accept() as parent:
        while steps := parent.recv():
            started, used = time.time(), time.process_time()
            for _ in range(steps):
                step(*batch).asnumpy()
            ended = time.time()
            parent.send((started, ended, (time.process_time() - used) / (ended - started)))


if __name__ == "__main__":
    main()
