"""The figures of the benchmarks as tables: what `python -m tests.benchmarks` prints and writes.

A section's figures are what its `figures` returns; medians, spreads and ratios are worked out here.
Ratios are medians over pairs of runs in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from src.errors import UserError
from tests.benchmarks import machine
from tests.benchmarks.sections import SECTIONS
from tests.benchmarks.timing import verdict

EAGER = "PyTorch eager"
OURS = "MindSpore"  # how the names of this project's contenders begin
FORWARD_GOALS = {"MindSpore": 1.15, "MindSpore, BN folded": 1.15}  # of the time of PyTorch eager
STEP_GOALS = {"MindSpore": 1.1}
RUNTIME_GOALS = {"OpenVINO float32": 0.7, "OpenVINO bfloat16": 0.55}
MEMORY_GOAL = 1.5  # of PyTorch's
PIPELINE_GOAL, CACHED_GOAL = 4, 8  # times PyTorch's images/s per core, without and with the cache
FOLDER_GOAL = 0.93  # of the network's throughput
CACHE_GOAL = 2.0  # of the time to the first step with the compile cache to that without
SCALING_GOAL = 0.9  # of two processes' throughput to twice that of one
DISTURBED = 20  # percent of the machine: if other programs took more, figures are no good
MEMORY = 24e9  # bytes that the largest batch is to fit
NETWORKS = {"config.yaml": "full network", "quickstart.yaml": "quickstart's network"}

Figures = Mapping[str, Any]


class Row(NamedTuple):
    """A line of a table, in Markdown."""

    what: str
    measured: str
    ratio: str = ""
    goal: str = ""


HEAD = Row("what", "median, lowest to highest", "ratio", "goal")


def parse(doc: str) -> argparse.Namespace:
    """The command line that the benchmarks share: quick, size and runs."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small network, to try this")
    parser.add_argument("--size", type=int, default=0, help="height and width in pixels")
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each")
    return parser.parse_args()


def read(file: Path) -> dict[str, Any]:
    """The results that `python -m tests.benchmarks` wrote.

    Raises:
        UserError: missing, or something else.
    """
    try:
        results = json.loads(file.read_text())
        if {"machine", "quick", "sections"} <= results.keys():
            return results
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; python -m tests.benchmarks writes one") from None
    except (ValueError, AttributeError):
        pass
    raise UserError(f"{file}: not the results of python -m tests.benchmarks; give another file")


def print_section(name: str, figures: Figures) -> None:
    """The table of one section."""
    print(table(ROWS[name](figures)))


def table(rows: Sequence[Row]) -> str:
    """Rows in Markdown."""
    lines = [HEAD, Row(*["---"] * len(HEAD)), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def short(value: float) -> str:
    """Three digits, or all of those before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def amount(values: Sequence[float], unit: str, factor: float = 1) -> str:
    """Median, lowest and highest."""
    values = [value * factor for value in values]
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{short(median)} {unit}, {short(low)} to {short(high)}"


def at_most(value: float, goal: float) -> str:
    """A goal from above, and whether it is met."""
    return f"at most {goal:g}: {verdict(value <= goal)}"


def at_least(value: float, goal: float) -> str:
    """A goal from below, and whether it is met."""
    return f"at least {goal:g}: {verdict(value >= goal)}"


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over pairs of runs in turn."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def contest(figures: Figures, unit: str, goals: Mapping[str, float]) -> list[Row]:
    """All contenders at the first shape, with how far their outputs are from PyTorch eager's; then
    those of this project at the others, and who was left out.

    Args:
        figures: of `turns.seconds_by_shape`, with `differences` of the outputs at the first shape.
        unit: of the seconds.
        goals: of a contender's time over that of PyTorch eager.
    """
    rows = []
    for i, shape in enumerate(figures["shapes"]):
        times = shape["seconds"]
        where = f"{shape['size']}x{shape['size']}, batch {shape['batch']}"
        for name in times if i == 0 else [name for name in times if name.startswith(OURS)]:
            ratios = _ratios(name, times)
            measured = amount(times[name], unit, 1 / shape["batch"])
            goal = ""
            if i == 0 and name in figures["differences"]:
                measured += f"; {_words(figures['differences'][name])} apart"
            if i == 0 and name in goals and EAGER in ratios:
                goal = at_most(ratios[EAGER], goals[name])
            told = ", ".join(f"{ratio:.2f} of {other}" for other, ratio in ratios.items())
            rows.append(Row(f"{name}, {where}", measured, told, goal))
    left_out = figures["problems"].items()
    return rows + [Row(name, f"left out: {_cell(problem)}") for name, problem in left_out]


def _ratios(name: str, times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Of this project's contenders to all others, of the others to PyTorch eager."""
    others = [other for other in times if not other.startswith(OURS)]
    compared = others if name.startswith(OURS) else [other for other in others if other == EAGER]
    return {other: median_ratio(times[name], times[other]) for other in compared if other != name}


def _words(difference: float | Mapping[str, float]) -> str:
    if isinstance(difference, Mapping):
        return ", ".join(f"{what} {value:.1e}" for what, value in difference.items())
    return f"outputs {difference:.1e} of their range"


def _cell(text: str) -> str:
    """A text that does not end a cell of a table."""
    return text.replace("|", "/").replace("\n", " ")


def memory(figures: Figures) -> list[Row]:
    """Peaks by shape, and the largest batch that they let expect."""
    from tests.benchmarks.memory import largest_batch

    rows = []
    fits: dict[str, dict[int, int]] = {}
    size = figures["shapes"][0]["size"]
    for shape in figures["shapes"]:
        where = f"{shape['size']}x{shape['size']}, batch {shape['batch']}"
        peaks = {name: each["bytes"] for name, each in shape["peaks"].items() if "bytes" in each}
        for name, each in shape["peaks"].items():
            if "problem" in each:
                rows.append(Row(f"{name}, {where}", f"left out: {_cell(each['problem'])}"))
                continue
            if shape["size"] == size:
                fits.setdefault(name, {})[shape["batch"]] = each["bytes"]
            ratio = each["bytes"] / peaks[EAGER] if EAGER in peaks else None
            ours = name.startswith(OURS)
            has_goal = ours and ratio and shape["size"] == size and shape["batch"] <= 2
            rows.append(
                Row(
                    f"{name}, {where}",
                    f"{each['bytes'] / 1e9:.2f} GB; {amount(each['seconds'], 's a step')}",
                    f"{ratio:.2f} of {EAGER}" if ratio and ours else "",
                    at_most(ratio, MEMORY_GOAL) if has_goal else "",
                )
            )
    for name, peaks in fits.items():
        if len(peaks) > 1:
            batches = ", ".join(map(str, peaks))
            rows.append(
                Row(
                    f"{name}, {size}x{size}, largest batch in {MEMORY / 1e9:g} GB",
                    f"{largest_batch(peaks, MEMORY)}, extrapolated from batches {batches}",
                )
            )
    return rows


def kernels(figures: Figures) -> list[Row]:
    """Convolutions by direction, other kernels of oneDNN's and the rest, of passes in turn; and the
    share of PyTorch's whole pass that MindSpore's convolutions alone take."""
    from tests.benchmarks.kernels import MAKERS, convolutions_share

    names = {"forward": "forward pass", "train_step": "training step"}
    mixed = " and those of src/lean_conv.py that are gradients"
    rows = []
    for what in [what for what in MAKERS if what in figures]:
        for who, each in figures[what].items():
            rest = [
                whole - other - sum(parts)
                for whole, other, *parts in zip(
                    each["seconds"],
                    each["other kernels"],
                    *(found["seconds"] for found in each["convolutions"].values()),
                    strict=True,
                )
            ]
            name = f"{who}, {names[what]}"
            for direction, found in each["convolutions"].items():
                speed = found["gflop"] / statistics.median(found["seconds"])
                measured = f"{amount(found['seconds'], 's')}; {short(speed)} GFLOP/s"
                lean = (who, what, direction) == (OURS, "train_step", "forward")
                lean = lean and not each.get("onednn_conv")
                rows.append(Row(f"{name}: convolutions {direction}{mixed * lean}", measured))
            rows.append(Row(f"{name}: other kernels", amount(each["other kernels"], "s")))
            rows.append(Row(f"{name}: the rest", amount(rest, "s")))
        share = f"{convolutions_share(figures, what):.2f} of PyTorch's whole pass"
        by = ", ".join(figures[what]["MindSpore"]["implementations"])
        if figures[what]["MindSpore"].get("onednn_conv"):
            by = f"onednn_conv/ and oneDNN's {by}"
        name = f"MindSpore's convolutions of a {names[what]}, as they are"
        rows.append(Row(name, f"by {by}", share))
    return rows


def first_step(figures: Figures) -> list[Row]:
    """Start to first step, without and with the compile cache."""
    compiled, cached = figures["seconds"].values()
    speedup = median_ratio(compiled["process"], cached["process"])
    alone = median_ratio(compiled["step"], cached["step"])
    return [
        Row("start of the program to the end of its first step", amount(compiled["process"], "s")),
        Row(
            "the same with the graph in the compile cache",
            amount(cached["process"], "s"),
            f"{speedup:.2f} times faster",
            at_least(speedup, CACHE_GOAL),
        ),
        Row("the first step alone", amount(compiled["step"], "s")),
        Row(
            "the same with the graph in the compile cache",
            amount(cached["step"], "s"),
            f"{alone:.2f} times faster",
        ),
    ]


def scaling(figures: Figures) -> list[Row]:
    """One process a core: alone, two apart, two together."""
    rates = figures["images/s"]
    twice = [a + b for a, b in zip(rates["first"], rates["second"], strict=True)]
    one = [value / 2 for value in twice]
    apart, together = (median_ratio(rates[name], twice) for name in ("apart", "together"))
    each = f"batch {figures['batch']} each"
    return [
        Row(f"one process on one core, batch {figures['batch']}", amount(one, "images/s")),
        Row(
            f"two that know nothing of each other, {each}",
            amount(rates["apart"], "images/s"),
            f"{apart:.2f} of twice one",
        ),
        Row(
            f"two that train together, {each}",
            amount(rates["together"], "images/s"),
            f"{together:.2f} of twice one",
            at_least(together, SCALING_GOAL),
        ),
    ]


def input_pipeline(figures: Figures) -> list[Row]:
    """By contender and number of workers; then what the time of an image goes to."""
    names = {
        "torch": "MiDaS' transforms, PyTorch DataLoader",
        "files": "this project",
        "cache": "this project, with the cache",
    }
    ratios = {"files": ("per core", PIPELINE_GOAL), "cache": ("per core, cache", CACHED_GOAL)}
    rows = []
    for name, by_workers in figures["runs"].items():
        for workers, runs in by_workers.items():
            per_core, rate = ([1000 / run[key] for run in runs] for key in ("cpu", "wall"))
            row = Row(
                f"{names[name]}, {workers} worker{'' if workers == '1' else 's'}",
                f"{amount(per_core, 'images/s per core')}; {amount(rate, 'images/s')}",
            )
            if workers == max(by_workers) and name in ratios:
                key, goal = ratios[name]
                ratio = statistics.median(figures[key])
                row = row._replace(
                    ratio=f"{amount(figures[key], 'times as many per core')}",
                    goal=at_least(ratio, goal),
                )
            rows.append(row)
    for name, parts in figures["split"].items():
        told = ", ".join(f"{part} {short(spent)}" for part, spent in parts.items())
        rows.append(Row(f"{names[name]}: ms of a core an image", told))
    return rows


def folder(figures: Figures) -> list[Row]:
    """The network alone and the whole way, by the clock and by what all cores did."""
    what = {"network": "network alone, inputs in memory", "folder": "from files to files"}
    clocks = {name: [run["clock"] for run in runs] for name, runs in figures["seconds"].items()}
    share = median_ratio(clocks["network"], clocks["folder"])
    height, width = figures["input"]
    rows = []
    for name, runs in figures["seconds"].items():
        rates = amount([1 / clock for clock in clocks[name]], "images/s")
        cores = amount([run["cores"] for run in runs], "s of a core an image")
        where = f"{figures['runtime']}, {width}x{height}, batch {figures['batch_size']}"
        rows.append(Row(f"{what[name]}, {where}", f"{rates}; {cores}"))
    rows[-1] = rows[-1]._replace(
        ratio=f"{share:.3f} of the network's throughput", goal=at_least(share, FOLDER_GOAL)
    )
    started = f"{short(figures['loading'])} s and {short(figures['first'])} s"
    return [*rows, Row("loading the weights, and the first image, which compiles", started)]


def checkpoints(figures: Figures) -> list[Row]:
    """Size and time of both files."""
    names = {
        "weights": f"weights, {figures['parameters'] / 1e6:.2f} M values",
        "state": f"state of Adam, of {figures['trained'] / 1e6:.2f} M parameters",
    }
    return [
        Row(what, f"{amount(figures['seconds'][key], 's')}; {figures['bytes'][key] / 1e6:.0f} MB")
        for key, what in names.items()
    ]


ROWS: dict[str, Callable[[Figures], list[Row]]] = {
    "forward": lambda figures: contest(figures, "s an image", FORWARD_GOALS),
    "train_step": lambda figures: contest(figures, "s", STEP_GOALS),
    "kernels": kernels,
    "memory": memory,
    "input_pipeline": input_pipeline,
    "folder": folder,
    "first_step": first_step,
    "scaling": scaling,
    "runtimes": lambda figures: contest(figures, "s", RUNTIME_GOALS),
    "checkpoints": checkpoints,
}


def disturbed(found: Mapping[str, Any]) -> str:
    """A warning about a section that was measured on a busy machine; otherwise nothing."""
    if found["others"] <= DISTURBED:
        return ""
    return f"**Disturbed: other programs took {found['others']:.0f} % of the machine.**"


def section(name: str, found: Mapping[str, Any]) -> str:
    """Title, what is measured and how, and the table of a section, or why there is none."""
    told = SECTIONS[name]
    if "error" in found:
        return f"**{told.title}** failed: {_cell(found['error'])}"
    config = found["figures"].get("network") or found["figures"].get("config", "")
    network = NETWORKS.get(config, "")
    before, after = found["load"]
    head = (
        f"**{told.title}**{network and f', {network}'}. {told.text} Load of the machine {before} "
        f"before and {after} after, other programs took {found['others']:.0f} % of its cores; "
        f"`python -m tests.benchmarks --only {name}`."
    )
    head = " ".join(filter(None, [head, disturbed(found)]))
    return f"{head}\n\n{table(ROWS[name](found['figures']))}"


def page(results: Mapping[str, Any]) -> str:
    """All that was measured, in the order of the sections."""
    dates = sorted(found["started"][:10] for found in results["sections"].values())
    days = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    intro = f"Measured on {days}: {machine.in_words(results['machine'])}."
    if results["quick"]:
        intro += " **With `--quick`, small sizes: these figures say nothing.**"
    parts = [section(name, found) for name in SECTIONS if (found := results["sections"].get(name))]
    if missing := [name for name in SECTIONS if name not in results["sections"]]:
        parts.append(f"Not measured in this run: {', '.join(f'`{name}`' for name in missing)}.")
    return "\n\n".join([intro, *parts]) + "\n"
