"""Contenders that take turns, each in a process of its own.

MindSpore needs its oneDNN held to AVX2 on some processors and PyTorch does not, and both keep what
their first convolution finds; so no two of them share a process. They take turns, so that a change
of the machine's speed meets all of them.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, NamedTuple


class Shape(NamedTuple):
    """Images that go through a network together: how many, and their height and width in pixels."""

    batch: int
    size: int

    def __str__(self) -> str:
        return f"{self.size}x{self.size}, batch {self.batch}"


Run = Callable[[Shape], Any]
Make = Callable[[], Run]  # picklable; builds a contender, in its process


@dataclass
class Outcome:
    """What a contender did.

    Attributes:
        outputs: of the first run of each shape.
        seconds: of every counted run of each shape.
        problem: one line on why it was left out, or empty.
    """

    outputs: dict[Shape, Any] = field(default_factory=dict)
    seconds: dict[Shape, list[float]] = field(default_factory=dict)
    problem: str = ""

    def leave_out(self, problem: str) -> None:
        """Take its times away: they are of something else."""
        self.problem = problem
        self.seconds.clear()


def take_turns(contenders: Mapping[str, Make], shapes: Mapping[Shape, int]) -> dict[str, Outcome]:
    """Run all contenders on all shapes, in turn.

    One that fails is left out from that shape on; what it did before is kept.

    Args:
        contenders: by name.
        shapes: with the number of counted runs of each. One more, which compiles and allocates,
            comes before them.
    """
    outcomes = {name: Outcome() for name in contenders}
    with ExitStack() as stack:
        pipes = {name: _start(stack, make) for name, make in contenders.items()}
        for shape, runs in shapes.items():
            for i in range(1 + runs):
                print(f"{shape}: run {i} of {runs}" if i else f"{shape}: first run", flush=True)
                for name, pipe in list(pipes.items()):
                    _take_turn(outcomes[name], pipe, shape)
                    if outcomes[name].problem:
                        print(f"{name}: {outcomes[name].problem}", flush=True)
                        pipes.pop(name).close()
    return outcomes


def beside(
    outcomes: Mapping[str, Outcome], reference: str, shape: Shape
) -> Iterator[tuple[str, Outcome, Any, Any]]:
    """Every other contender that ran this shape: name, outcome, its output and the reference's;
    none if the reference did not run it."""
    if shape not in outcomes[reference].outputs:
        return
    for name, outcome in outcomes.items():
        if name != reference and shape in outcome.outputs:
            yield name, outcome, outcome.outputs[shape], outcomes[reference].outputs[shape]


def seconds_by_shape(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """What the report takes: seconds of every run by shape and contender, and problems."""
    shapes = dict.fromkeys(shape for outcome in outcomes.values() for shape in outcome.seconds)
    return {
        "shapes": [
            {
                **shape._asdict(),
                "seconds": {
                    name: [round(value, 5) for value in outcome.seconds[shape]]
                    for name, outcome in outcomes.items()
                    if shape in outcome.seconds
                },
            }
            for shape in shapes
        ],
        "problems": {name: each.problem for name, each in outcomes.items() if each.problem},
    }


def one_line(error: BaseException) -> str:
    """An error's type and the first line of what it says."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"[:200]


def _start(stack: ExitStack, make: Make) -> Connection:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, make), daemon=True)
    process.start()
    theirs.close()
    stack.callback(process.join)
    stack.callback(ours.close)
    return ours


def _work(parent: Connection, make: Make) -> None:
    """A contender's process, until the pipe is closed: answers each shape with (output, seconds),
    or with the line that says why it cannot."""
    run: Run | None = None
    try:
        while True:
            shape = parent.recv()
            run = run or make()
            start = time.perf_counter()
            output = run(shape)
            parent.send((output, time.perf_counter() - start))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        parent.send(one_line(error))


def _take_turn(outcome: Outcome, pipe: Connection, shape: Shape) -> None:
    try:
        pipe.send(shape)
        answer = pipe.recv()
    except (EOFError, ConnectionError):
        answer = "its process was ended from outside, perhaps for lack of memory"
    if isinstance(answer, str):
        outcome.problem = answer
        outcome.seconds.pop(shape, None)  # it would have fewer runs than the others
    elif shape not in outcome.seconds:
        outcome.outputs[shape] = answer[0]
        outcome.seconds[shape] = []
    else:
        outcome.seconds[shape].append(answer[1])
