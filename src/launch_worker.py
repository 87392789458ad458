"""What msrun starts in place of a worker; it becomes the worker when the launcher says so.

    python3 -I src/launch_worker.py LAUNCHER START INTERPRETER PROGRAM [ARGUMENTS]

LAUNCHER is the launcher's process id, START a file that it makes once it knows all processes and is
their parent. From then on the kernel ends the worker when the launcher ends, however that happens.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """Wait for the launcher's word, then become the program: the process stays the same."""
    launcher, start, interpreter, *program = sys.argv[1:]
    while not Path(start).exists():
        if not is_alive(int(launcher)):
            sys.exit(1)
        time.sleep(0.02)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(launcher):  # it ended before the kernel was asked
        sys.exit(1)
    os.execv(interpreter, [interpreter, *program])


if __name__ == "__main__":
    main()
