"""Write the tables and the picture of docs/scaling.md.

    python -m tests.benchmarks.scaling_page [--figures docs/performance.json] [--step 0.423 ...]

Every parameter of `tests.benchmarks.simulate_scaling` is a flag. With a flag the tables are printed
and nothing is written. Without one, docs/scaling.md and docs/scaling.jpg are written from
docs/performance.json, as `python -m tests.benchmarks.readme` does for all that shows its figures.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from preprocess.check import PUBLISHED as BENCHMARKS
from src.errors import Parser, UserError, run_program
from src.image_io import write_bytes
from tests.benchmarks import report
from tests.benchmarks.blocks import replaced
from tests.benchmarks.report import short
from tests.benchmarks.sections import SECTIONS
from tests.benchmarks.simulate_scaling import (
    ASSUMED,
    MEASURED,
    SOURCES,
    Parameters,
    Setup,
    all_reduce,
    ladder,
    load_times,
    measured,
    save_interval,
    simulate,
)

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "docs" / "performance.json"
PAGE, PICTURE = ROOT / "docs" / "scaling.md", ROOT / "docs" / "scaling.jpg"
DEVICES = (8, 64, 1024)
MOST_DEVICES = 2**14  # where looking for a limit ends
REDWEB = 3600  # images
FELT = 0.2  # of computing: from here on, what is not hidden counts as holding up the training
SHOWN = (1, 4, 5)  # of the ladder: files, files and a mended all-reduce, all that the project has
REMEDIES = {
    "cores": "more threads (`num_parallel_workers`), the cache",
    "opened files": "the cache: a few large files instead of two for each image",
    "shared bytes": "the cache, copied to the servers' own disks",
    "disk": "its shards on several disks of each server",
    "gradients": "an all-reduce in two levels, larger buckets; then accumulation",
    "checkpoints": "a larger `save_checkpoint_epochs`",
}

# What carries a value: (factor, unit)
UNITS: dict[str, tuple[float, str]] = {
    **dict.fromkeys(("inner", "outer", "shared", "disk"), (1e-9, "GB/s")),
    **dict.fromkeys(("torch_cost", "plain_cost", "cached_cost", "step"), (1e3, "ms")),
    **dict.fromkeys(("gradients", "bucket"), (1e-6, "M values")),
    **dict.fromkeys(("pair_bytes", "cached_bytes"), (1e-3, "kB")),
    **{"hop": (1e6, "us"), "checkpoint": (1, "s"), "opens": (1, "a second")},
    **{"batch": (1, "images"), "epoch": (1, "images")},
}

GIVEN = "given"

simulated = functools.cache(simulate)  # tables and picture show the same steps


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def origins(results: Mapping[str, Any]) -> dict[str, str]:
    """Of each parameter that a section of a benchmark's results gave: which one, and whether other
    programs disturbed it."""
    found = {}
    for name in measured(results):
        section = SOURCES[name][1]
        if section in SECTIONS:
            text = f"section `{section}` of docs/performance.json. "
            found[name] = (text + report.disturbed(results["sections"][section])).strip(". ")
    return found


def parameters(p: Parameters, known: Mapping[str, str]) -> str:
    """All parameters with where they come from.

    Args:
        p: their values.
        known: of `origins`; GIVEN for those of the command line.
    """
    rows = []
    for name, value in asdict(p).items():
        kind, source = SOURCES[name]
        factor, unit = UNITS.get(name, (1, ""))
        if known.get(name) == GIVEN:
            kind, source = GIVEN, "the command line"
        elif source in SECTIONS:
            kind = MEASURED if name in known else ASSUMED
            source = known.get(name, "not measured yet")
        rows.append([f"`{name}`", f"{short(value * factor)} {unit}".strip(), kind, source])
    return markdown(["parameter", "value", "", "source"], rows)


def steps(p: Parameters, setups: Sequence[Setup]) -> str:
    """Throughput and what a step's time goes to, simulated."""
    rows = []
    for devices in DEVICES:
        for i, setup in enumerate(setups):
            shares = simulated(devices, setup, p)
            rate = devices * p.batch / shares.total
            parts = [f"{100 * part / shares.total:.0f} %" for part in asdict(shares).values()]
            rows.append([f"{devices:,}", f"({i + 1}) {setup.name}", f"{rate:,.0f}", *parts])
    head = ["devices", "turned on", "images/s"]
    shown = ["computing", "waiting for the slowest", "for data", "gradients", "checkpoints"]
    return markdown([*head, *shown], rows)


def needs(p: Parameters) -> str:
    """What computing without waiting needs, in figures."""
    first, levels = ladder()[0], Setup("", two_levels=True)
    rows: dict[str, list[str]] = {}
    for devices in DEVICES:
        images = devices * p.batch
        rate = images / p.step
        traffic = 2 * (devices - 1) / devices * 4 * p.gradients
        column = {
            "images a second": f"{rate:.0f}",
            "cores that prepare them, MiDaS' transforms": short(rate * p.torch_cost / p.core),
            "this project": short(rate * p.plain_cost / p.core),
            "this project, cache": short(rate * p.cached_cost / p.core),
            "read from files, GB/s": short(rate * p.pair_bytes / 1e9),
            "read from the cache, GB/s, all servers together": short(rate * p.cached_bytes / 1e9),
            "files opened a second": short(2 * rate),
            "sent by a device for the gradients of a step, MB": short(traffic / 1e6),
            "all-reduce, one ring, ms": short(1e3 * all_reduce(devices, first, p)),
            "all-reduce, two levels, ms": short(1e3 * all_reduce(devices, levels, p)),
            "steps of an epoch of ReDWeb": short(REDWEB / images),
            f"steps between checkpoints, one every {p.epoch:,} images": short(
                save_interval(devices, first, p)
            ),
        }
        for name, value in column.items():
            rows.setdefault(name, []).append(value)
    table = [[name, *values] for name, values in rows.items()]
    return markdown(["", *(f"{devices:,} devices" for devices in DEVICES)], table)


def evaluation(p: Parameters) -> str:
    """Seconds that the network takes for the zero-shot benchmarks, shared out among devices."""
    each = p.forward * p.step / p.batch
    images = {name: published.images for name, published in BENCHMARKS.items()}
    images["together"] = sum(images.values())
    rows = [
        [name, f"{count:,}", *(short(math.ceil(count / d) * each) for d in (1, *DEVICES))]
        for name, count in images.items()
    ]
    head = ["benchmark", "images", "seconds on 1 device"]
    return markdown([*head, *(f"on {devices:,}" for devices in DEVICES)], rows)


def costs(devices: int, setup: Setup, p: Parameters) -> dict[str, float]:
    """Seconds a step of everything that can hold it up, over the seconds at which it does.

    Reading ahead costs nothing until it takes longer than what it runs beside, which is all of the
    simulated step but its own waiting and saving, where the queue soon is full. The rest is felt
    from a fifth of computing on.
    """
    shares = simulated(devices, setup, p)
    beside = shares.computing + shares.slowest + shares.gradients
    felt = {"gradients": shares.gradients, "checkpoints": shares.checkpoints}
    hidden = load_times(devices, setup, p)
    return {name: spent / beside for name, spent in hidden.items()} | {
        name: spent / (FELT * shares.computing) for name, spent in felt.items()
    }


def limit(resource: str, setup: Setup, p: Parameters) -> str:
    """From how many devices on, a power of two, a resource holds up the training."""
    devices = p.server
    if resource not in costs(devices, setup, p):
        return "not used"
    while devices <= MOST_DEVICES:
        if costs(devices, setup, p)[resource] > 1:
            return f"{devices:,}" + " or fewer" * (devices == p.server)
        devices *= 2
    return f"more than {MOST_DEVICES:,}"


def limits(p: Parameters) -> str:
    """Where each resource holds up the training, and what helps."""
    setups = [ladder()[i] for i in SHOWN]
    rows = [
        [resource, *(limit(resource, setup, p) for setup in setups), remedy]
        for resource, remedy in REMEDIES.items()
    ]
    return markdown(["devices from which on", *(f"({i + 1})" for i in SHOWN), "turn on"], rows)


def draw(p: Parameters) -> bytes:
    """The picture, as JPEG: efficiency of all setups, and what each resource costs files."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = [2**i for i in range(3, 13)]
    for i, setup in enumerate(ladder()):
        shares = [simulated(devices, setup, p) for devices in counts]
        efficiency = [100 * each.computing / each.total for each in shares]
        left.plot(counts, efficiency, marker="o", markersize=3, label=f"({i + 1}) {setup.name}")
    left.set(xscale="log", ylim=(0, 105), xlabel="devices", ylabel="computing, % of a step")
    left.set_title("throughput, one thing turned on after the other")
    left.legend(fontsize=6, loc="lower left")
    setup = ladder()[SHOWN[0]]
    for name in costs(counts[0], setup, p):
        right.plot(counts, [costs(devices, setup, p)[name] for devices in counts], label=name)
    right.axhline(1, color="grey", linestyle=":")
    right.set(xscale="log", yscale="log", xlabel="devices", ylabel="1: holds up the training")
    right.set_title(f"({SHOWN[0] + 1}): what breaks first")
    right.legend(fontsize=8)
    for axis in (left, right):
        axis.set_xticks(counts[::3], [f"{count:,}" for count in counts[::3]])
        axis.minorticks_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpg", dpi=100, pil_kwargs={"quality": 80, "optimize": True})
    return buffer.getvalue()


def tables(p: Parameters, known: Mapping[str, str]) -> dict[str, str]:
    """All tables of the page by name; `known` of `origins`."""
    return {
        "parameters": parameters(p, known),
        "needs": needs(p),
        "steps": steps(p, ladder()),
        "limits": limits(p),
        "evaluation": evaluation(p),
    }


def made(results: Mapping[str, Any]) -> dict[Path, bytes]:
    """The picture and the page for the results of a benchmark.

    Raises:
        UserError: the page does not have the places of its tables.
    """
    p = Parameters(**measured(results))
    return {PICTURE: draw(p), PAGE: replaced(PAGE, tables(p, origins(results))).encode()}


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--figures", type=Path, default=None, help="of tests.benchmarks")
    for field in fields(Parameters):
        parser.add_argument(
            f"--{field.name}",
            type=type(field.default),
            help="in seconds, bytes, values, images or as a share, without prefixes such as milli",
        )
    asked = vars(parser.parse_args())
    given = {name: value for name, value in asked.items() if value is not None}
    for name, value in given.items():
        if name != "figures" and value <= 0:
            raise UserError(f"--{name}: got {value}; expected more than 0")
    results = report.read(given.pop("figures", FIGURES))
    if asked["figures"] or given:
        p = Parameters(**(measured(results) | given))
        known = origins(results) | dict.fromkeys(given, GIVEN)
        print("\n\n".join(tables(p, known).values()))
        return
    for file, content in made(results).items():
        write_bytes(file, content)


if __name__ == "__main__":
    run_program(main)
