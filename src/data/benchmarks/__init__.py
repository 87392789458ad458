"""The benchmarks of zero-shot evaluation, one module each.

A new one is a file, a line here, and its `datapath_*` in config.yaml and src/config.py.
"""

from __future__ import annotations

from src.data.benchmarks.base import Benchmark, Metric, Sample
from src.data.benchmarks.kitti import Kitti
from src.data.benchmarks.middlebury import Middlebury
from src.data.benchmarks.sintel import Sintel
from src.data.benchmarks.tum import Tum

BENCHMARKS: dict[str, type[Benchmark]] = {
    benchmark.name: benchmark
    for benchmark in (
        Kitti,
        Sintel,
        Tum,
        Middlebury,
    )
}

__all__ = ["BENCHMARKS", "Benchmark", "Metric", "Sample"]
