"""The benchmarks of zero-shot evaluation, one module each.

A new one is a file, a line in catalogue.py, and its `datapath_*` in config.yaml and src/config.py.
"""

from __future__ import annotations

from src.data.benchmarks.base import Benchmark, DepthSample, Metric, OrdinalSample, Sample
from src.data.benchmarks.catalogue import BENCHMARKS, open_benchmarks

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "DepthSample",
    "Metric",
    "OrdinalSample",
    "Sample",
    "open_benchmarks",
]
