"""SIGTERM and Ctrl-C as a request that a long program answers when it can.

MindSpore puts handlers of its own in place whenever it compiles a graph, runs one or reads a
dataset; they end the process without a word, some with exit code 0. Therefore no handler is used:
the signals are blocked in all threads, and one thread waits for them.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A job scheduler signals all processes of a job, and a launcher among them passes it on: signals so
# close to each other, in seconds, are one request.
ONE_REQUEST = 3.0


class StopSignals:
    """Whether the program was asked to stop.

    Attributes:
        requested: by a signal, after `accept`.
    """

    def __init__(self) -> None:
        self.requested = False
        self._accepted = False

    def watch(self) -> None:
        """Begin. Threads that were started before still answer signals in their own way.

        Not in msrun's scheduler, which has nothing to save and is ended from outside.
        """
        if os.environ.get("MS_ROLE") == "MS_SCHED":
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        threading.Thread(target=self._wait, name="signals", daemon=True).start()

    def accept(self) -> None:
        """From now on a first signal is a request; until now, and a second one, end the program."""
        self._accepted = True

    def _wait(self) -> None:
        asked = 0.0
        while True:
            name = signal.Signals(signal.sigwait(_SIGNALS))
            if self.requested and time.monotonic() - asked < ONE_REQUEST:
                continue
            asked = time.monotonic()
            if self.requested or not self._accepted:
                _say(f"{name.name}: ended at once")
                os._exit(128 + name)
            self.requested = True
            _say(f"{name.name}: saving after the next step; again after 3 s: end at once")


def _say(text: str) -> None:
    sys.stderr.write(f"\n{text}\n")
    sys.stderr.flush()


STOP = StopSignals()
