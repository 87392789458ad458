"""Signals to a program that watches for them, tried on programs of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SIGNALS = [signal.SIGTERM, signal.SIGINT]
BEGIN = """
import os, signal, subprocess, sys, threading, time
from src import stop_signals
from src.stop_signals import StopSignals

def say(text):
    print(text, flush=True)

def requested_soon():
    end = time.monotonic() + 60
    while not stop.requested and time.monotonic() < end:
        time.sleep(0.01)
    return stop.requested

stop = StopSignals()
stop.watch()
"""
# What MindSpore does whenever it compiles: a handler that ends the process without a word.
HANDLERS = """
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: os._exit(0))
"""
UNTIL_A_SIGNAL = "stop.accept(); say('ready'); say(requested_soon()); say('saved')\n"


class Program:
    """A Python program that says when it is `ready`."""

    def __init__(self, text: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", BEGIN + text],
            cwd=ROOT,
            env={key: v for key, v in os.environ.items() if key != "MS_ROLE"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.expect("ready")

    def expect(self, line: str) -> None:
        assert self.process.stdout.readline() == f"{line}\n", self.process.communicate(timeout=60)

    def send(self, with_signal: signal.Signals) -> Program:
        self.process.send_signal(with_signal)
        return self

    def end(self) -> tuple[int, str, str]:
        """Exit code, the rest of stdout, stderr."""
        try:
            out, err = self.process.communicate(timeout=90)
        finally:
            self.process.kill()
        return self.process.returncode, out, err


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("handlers", ["", HANDLERS])
def test_before_it_is_accepted_a_signal_ends_the_program(number, handlers):
    """With the exit code of a shell, 128 + 15 or 2."""
    program = Program(f"{handlers}say('ready'); time.sleep(60); say('late')\n")
    code, out, err = program.send(number).end()
    assert code == {"SIGTERM": 143, "SIGINT": 130}[number.name]
    assert out == ""
    assert err.split("\n") == ["", f"{number.name}: ended at once", ""]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("handlers", ["", HANDLERS])
def test_after_it_is_accepted_a_signal_is_a_request(number, handlers):
    """Whatever handlers a library has put in place since."""
    code, out, err = Program(f"{handlers}{UNTIL_A_SIGNAL}").send(number).end()
    assert (code, out) == (0, "True\nsaved\n")
    assert err == f"\n{number.name}: saving after the next step; again after 3 s: end at once\n"


def test_nothing_is_requested_of_its_own(tmp_path):
    program = Program("stop.accept(); say('ready'); time.sleep(0.2); say(stop.requested)\n")
    assert program.end() == (0, "False\n", "")


TWO_SIGNALS = [SIGNALS, SIGNALS[::-1], SIGNALS[:1] * 2]


@pytest.mark.parametrize(("first", "second"), TWO_SIGNALS)
def test_a_later_second_signal_ends_the_program_at_once(first, second):
    apart = "stop_signals.ONE_REQUEST = 0.0\n"
    program = Program(
        f"{apart}stop.accept(); say('ready'); say(requested_soon()); time.sleep(60)\n"
    )
    program.send(first).expect("True")
    code, out, err = program.send(second).end()
    assert code == 128 + second
    assert out == ""
    assert err.endswith(f"\n{second.name}: ended at once\n")


@pytest.mark.parametrize(("first", "second"), TWO_SIGNALS)
def test_signals_close_to_each_other_are_one_request(first, second):
    """As of a job scheduler and of a launcher, which both tell the processes of a job."""
    close = "stop_signals.ONE_REQUEST = 1e9\n"
    program = Program(
        f"{close}stop.accept(); say('ready'); say(requested_soon()); time.sleep(0.5)\n"
    )
    program.send(first).expect("True")
    assert program.send(second).end() == (
        0,
        "",
        f"\n{first.name}: saving after the next step; again after 3 s: end at once\n",
    )


def test_a_computation_without_an_end_is_no_hindrance():
    """A thread of a library's that computes, and a main thread that waits in it."""
    busy = """
def compute():
    while True:
        sum(range(10000))
threading.Thread(target=compute, daemon=True).start()
worker = threading.Thread(target=compute, daemon=True)
worker.start()
say('ready')
worker.join()
"""
    assert Program(busy).send(signal.SIGTERM).end()[0] == 143


def test_the_scheduler_of_msrun_is_ended_as_any_program():
    program = Program("say('ready'); time.sleep(60)\n", MS_ROLE="MS_SCHED")
    assert program.send(signal.SIGTERM).end() == (-signal.SIGTERM, "", "")


def test_other_signals_are_left_alone():
    handler = "signal.signal(signal.SIGUSR1, lambda *_: say('mine'))\n"
    program = Program(f"{handler}{UNTIL_A_SIGNAL}").send(signal.SIGUSR1)
    program.expect("mine")
    assert program.send(signal.SIGTERM).end()[:2] == (0, "True\nsaved\n")
