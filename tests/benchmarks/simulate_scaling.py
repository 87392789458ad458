"""What training costs on 8 to 1,024 devices, worked out: the model behind docs/scaling.md.

Data-parallel training as this project does it: every device reads and prepares its own batches in
threads, computes, and waits for the others in the average of the gradients; the first one also
saves checkpoints, for which the others wait. `docs/scaling.md` explains it, and
`tests.benchmarks.scaling_page` writes its tables.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

PUBLISHED, MEASURED, ASSUMED = "published", "measured", "assumed"


@dataclass(frozen=True)
class Parameters:
    """Every number that goes in; `SOURCES` says where each comes from. Seconds, bytes, per second.

    Attributes:
        step: one device's step, batch and all, without waiting.
        batch: images of a device and step.
        gradients: values that are averaged.
        bucket: values of one all-reduce.
        server: devices of one server.
        inner, outer: bytes a second of a device to the next in its server, and to another server.
        hop: seconds that one step of a ring takes beside the bytes.
        workers: threads of a device that read and prepare (num_parallel_workers).
        core: speed of a server's core, as a share of the one that the costs were measured on.
        torch_cost, plain_cost, cached_cost: seconds of one core an image, of MiDaS' transforms
            under a PyTorch DataLoader and of this project without and with its cache.
        pair_bytes, cached_bytes: read for an image and its target.
        shared, opens: bytes and opened files a second that a file system for all servers delivers.
        disk: bytes a second of a server's own disk.
        prefetch: batches prepared ahead.
        compute_spread, load_spread: standard deviation of a step and of preparing a batch, as a
            share of their mean.
        checkpoint: seconds that saving weights and optimizer takes.
        epoch: images after which a checkpoint is saved unless told otherwise.
        forward: the share of a step that evaluating the same images takes.
    """

    step: float = 0.423
    batch: int = 8
    gradients: float = 105.36e6
    bucket: float = 6e6
    server: int = 8
    inner: float = 30e9
    outer: float = 12.5e9
    hop: float = 10e-6
    workers: int = 2
    core: float = 0.5
    torch_cost: float = 0.032
    plain_cost: float = 0.014
    cached_cost: float = 0.0035
    pair_bytes: float = 292e6 / 3600
    cached_bytes: float = 640 * 480 * 4
    shared: float = 5e9
    opens: float = 20e3
    disk: float = 2e9
    prefetch: int = 4
    compute_spread: float = 0.02
    load_spread: float = 0.2
    checkpoint: float = 2.0
    epoch: int = 72_000
    forward: float = 1 / 3


MODEL_ZOO = "the model-zoo README of MiDaS"
HOT_CHIPS = "Huawei's talk on Ascend 910, Hot Chips 31 (2019)"
SOURCES: dict[str, tuple[str, str]] = {
    "step": (
        PUBLISHED,
        f"{MODEL_ZOO}: 8x Ascend 910, batch 8 each; what is in it of reading and "
        "communication is not known, and counted as computing",
    ),
    "batch": (PUBLISHED, MODEL_ZOO),
    "gradients": (MEASURED, "trained parameters of the full network"),
    "bucket": (MEASURED, "`BUCKET_VALUES` of src/train_step.py"),
    "server": (PUBLISHED, HOT_CHIPS),
    "inner": (
        ASSUMED,
        "that a server's devices are one ring, through one HCCS port each; a port's 240 Gbit/s are "
        f"published: {HOT_CHIPS}",
    ),
    "outer": (PUBLISHED, f"{HOT_CHIPS}: one RoCE port, 100 Gbit/s"),
    "hop": (ASSUMED, "a message of RDMA and the kernel that waits for it"),
    "workers": (MEASURED, "`num_parallel_workers` of config.yaml"),
    "core": (ASSUMED, "servers have many slower cores"),
    "torch_cost": (MEASURED, "input_pipeline"),
    "plain_cost": (MEASURED, "input_pipeline"),
    "cached_cost": (MEASURED, "input_pipeline"),
    "pair_bytes": (PUBLISHED, f"{MODEL_ZOO}: ReDWeb's 3,600 images with targets have 292 MB"),
    "cached_bytes": (ASSUMED, "640x480, 3 + 1 bytes a pixel"),
    "shared": (ASSUMED, "a file system that several racks share"),
    "opens": (ASSUMED, "its metadata server"),
    "disk": (ASSUMED, "one NVMe SSD, reading 1 MB at a time"),
    "prefetch": (ASSUMED, "a short queue"),
    "compute_spread": (ASSUMED, "clocks and other work on the hosts"),
    "load_spread": (ASSUMED, "images differ in size"),
    "checkpoint": (MEASURED, "checkpoints"),
    "epoch": (PUBLISHED, "Ranftl et al., TPAMI 2022: an epoch of 72,000 images"),
    "forward": (ASSUMED, "a backward pass takes twice the forward pass"),
}


@dataclass(frozen=True)
class Setup:
    """What is turned on.

    Attributes:
        name: in words.
        cost: which of a parameter's `*_cost` preparing an image has.
        from_cache: shards of the cache on the servers' own disks, instead of files that all share.
        save_every: steps between two checkpoints; 0: after every `epoch` images.
        two_levels: the all-reduce goes within servers first.
        bucket_factor: so many times larger buckets.
        accumulate: steps that are computed for one average of the gradients.
    """

    name: str
    cost: str = "torch_cost"
    from_cache: bool = False
    save_every: int = 0
    two_levels: bool = False
    bucket_factor: int = 1
    accumulate: int = 1


def ladder() -> list[Setup]:
    """One thing after the other."""
    steps: list[tuple[str, dict[str, Any]]] = [
        ("MiDaS' transforms under a PyTorch DataLoader, files", {}),
        ("+ this project's pipeline", {"cost": "plain_cost"}),
        ("+ a checkpoint every 1,000 steps", {"save_every": 1000}),
        ("+ all-reduce in two levels (the library's choice)", {"two_levels": True}),
        ("+ `BUCKET_VALUES` 4 times as large", {"bucket_factor": 4}),
        ("+ cache, on the servers' own disks", {"cost": "cached_cost", "from_cache": True}),
        ("+ gradients of 4 steps accumulated (not in this project)", {"accumulate": 4}),
    ]
    setups = []
    now: dict[str, Any] = {}
    for name, change in steps:
        now |= change
        setups.append(Setup(name, **now))
    return setups


def measured(results: Mapping[str, Any]) -> dict[str, float]:
    """The parameters that results of `python -m tests.benchmarks` hold; missing sections: none."""
    sections = {
        name: found["figures"] for name, found in results["sections"].items() if "figures" in found
    }
    found: dict[str, float] = {}
    if loading := sections.get("input_pipeline"):
        for key, name in (("torch", "torch"), ("plain", "files"), ("cached", "cache")):
            runs = loading["runs"][name]["2"]
            found[f"{key}_cost"] = statistics.median(run["cpu"] for run in runs) / 1000
    if saved := sections.get("checkpoints"):
        found["gradients"] = saved["trained"]
        found["checkpoint"] = sum(map(statistics.median, saved["seconds"].values()))
    return found


def ring(values: float, members: int, speed: float, p: Parameters, buckets: int) -> float:
    """Seconds of a ring all-reduce of float32 values: every member sends 2 (n - 1) / n of them, in
    2 (n - 1) steps a bucket (Patarasuk and Yuan, 2009)."""
    rounds = 2 * (members - 1)
    return rounds / members * 4 * values / speed + rounds * p.hop * buckets


def all_reduce(devices: int, setup: Setup, p: Parameters) -> float:
    """Seconds of averaging all gradients once, nothing of it hidden behind the backward pass."""
    buckets = math.ceil(p.gradients / (p.bucket * setup.bucket_factor))
    if devices <= p.server:
        return ring(p.gradients, devices, p.inner, p, buckets)
    if not setup.two_levels:  # one ring through all devices is as fast as its slowest link
        return ring(p.gradients, devices, p.outer, p, buckets)
    # The two halves of a ring within each server, and between them, for each device's share, one
    # ring through the servers.
    within = ring(p.gradients, p.server, p.inner, p, buckets)
    across = ring(p.gradients / p.server, devices // p.server, p.outer, p, buckets)
    return within + across


def load_times(devices: int, setup: Setup, p: Parameters) -> dict[str, float]:
    """Seconds that preparing one batch takes a device, by what could limit it."""
    times = {"cores": p.batch * getattr(p, setup.cost) / (p.workers * p.core)}
    if setup.from_cache:
        times["disk"] = min(devices, p.server) * p.batch * p.cached_bytes / p.disk
    else:
        times["shared bytes"] = devices * p.batch * p.pair_bytes / p.shared
        times["opened files"] = devices * p.batch * 2 / p.opens
    return times


def save_interval(devices: int, setup: Setup, p: Parameters) -> float:
    """Steps between two checkpoints."""
    return setup.save_every or p.epoch / (devices * p.batch)


@dataclass(frozen=True)
class Shares:
    """Mean seconds of a step, which add up to `total`.

    Attributes:
        computing: of the average device.
        slowest: so much longer the slowest device computes, for which the others wait.
        data: so much later than with all batches ready the last device is there.
        gradients: averaging them.
        checkpoints: waiting until they are saved.
    """

    computing: float
    slowest: float
    data: float
    gradients: float
    checkpoints: float

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


def simulate(devices: int, setup: Setup, p: Parameters, steps: int = 400, seed: int = 0) -> Shares:
    """Go through steps of all devices, each with its own queue of prepared batches.

    Args:
        devices: that train together.
        setup: what is turned on.
        p: the costs.
        steps: that are simulated, a multiple of those that are accumulated.
        seed: of what differs from step to step.
    """
    rng = np.random.default_rng(seed)
    load = max(load_times(devices, setup, p).values())
    average = all_reduce(devices, setup, p)
    taken = np.zeros((p.prefetch, devices))  # when the batch that had this place was taken
    ready, end, computed = np.zeros(devices), np.zeros(devices), np.zeros(devices)
    met = computing = slowest = data = 0.0  # met: when all had the last average
    for i in range(steps):
        ready = np.maximum(ready, taken[i % p.prefetch]) + vary(rng, load, p.load_spread, devices)
        start = np.maximum(ready, end)
        taken[i % p.prefetch] = start
        compute = vary(rng, p.step, p.compute_spread, devices)
        end = start + compute
        computed += compute
        if (i + 1) % setup.accumulate == 0:
            computing += float(computed.mean())
            slowest += float(computed.max() - computed.mean())
            data += float(end.max() - met - computed.max())
            met = float(end.max()) + average
            end[:], computed[:] = met, 0
    saving = p.checkpoint / save_interval(devices, setup, p)
    gradients = average / setup.accumulate
    return Shares(computing / steps, slowest / steps, data / steps, gradients, saving)


def vary(rng: np.random.Generator, mean: float, spread: float, count: int) -> np.ndarray:
    """Times around a mean, float64 [count]: gamma-distributed, never negative."""
    if spread == 0:
        return np.full(count, mean)
    shape = 1 / spread**2
    return rng.gamma(shape, mean / shape, count)
