"""Start the workers of a distributed program with msrun, watch over them, and end what is left.

    python -m src.launch --workers N [--local_workers n] [--node_rank k] [--master_addr A]
        [--master_port P] [--log_dir DIR] [--cluster_time_out SECONDS] -- PROGRAM [ARGUMENTS]

PROGRAM is a Python file. On several machines start it on each, with the same N, A and P and its
own node rank 0, 1, ...; machine 0 has the address A. The console shows the first worker of this
machine; the output of all processes is in DIR/<date-time>.

A worker that dies ends the others, on all machines, with one line on stderr that says which and
why. SIGTERM and Ctrl-C are passed to the workers as SIGTERM, once: a training then saves and ends
with exit code 3; a second signal kills. Exit code: 0 when all workers ended with 0, 3 when they
stopped on request, else that of the one that failed first (128+n: killed by signal n).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import itertools
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from src.errors import EXIT_STOPPED, EXIT_USER_ERROR, Parser, UserError, run_program
from src.launch_link import Failure, Link
from src.stop_signals import ONE_REQUEST
from src.worker_log import Echo, is_a_consequence, why_it_ended

DEFAULT_PORT = 8118
SCHEDULER = "the scheduler"
_LOCALHOST = "127.0.0.1"
_STUB = Path(__file__).with_name("launch_worker.py")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_GRACE = 5.0  # seconds in which the cause may end after its consequence
_REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # the last: a closed terminal


@dataclass(frozen=True)
class Job:
    """What to start, and where it belongs.

    Attributes:
        program: a Python file and its arguments.
        workers: how many on all machines together.
        local_workers: how many on this one.
        node_rank: which machine this is.
        master_addr: an address of machine 0.
        master_port: of MindSpore's scheduler there; the launchers use the next one.
        logs: a new folder.
        time_out: seconds within which all machines must have joined.
    """

    program: tuple[str, ...]
    workers: int
    local_workers: int
    node_rank: int
    master_addr: str
    master_port: int
    logs: Path
    time_out: float

    @property
    def nodes(self) -> int:
        return self.workers // self.local_workers

    @property
    def first_rank(self) -> int:
        return self.node_rank * self.local_workers

    def log(self, name: str) -> Path:
        """The log of `SCHEDULER` or of `rank K`."""
        file = "scheduler" if name == SCHEDULER else f"worker_{name.split()[-1]}"
        return self.logs / f"{file}.log"


@dataclass(frozen=True)
class _End:
    """A process that ended badly; `cause`: not because it had lost another one."""

    failure: Failure
    cause: bool
    time: float = field(default_factory=time.monotonic)


class _FailedError(Exception):
    def __init__(self, failure: Failure) -> None:
        self.failure = failure


class Launcher:
    """Starts a job and waits for it; a context that leaves no process behind.

    msrun starts the processes and ends. The launcher, made the "subreaper" of its descendants, is
    then their parent: it learns at once how each of them ends.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.names: dict[int, str] = {}  # process id -> name, of those alive
        self.ends: list[_End] = []
        self.codes: set[int] = set()  # of the workers that ended well
        self.requests: list[int] = []  # signals that asked to stop
        self.asked = 0.0  # when the last of them came
        self.starting = False
        self.link: Link | None = None
        self.echo = Echo(job.log(f"rank {job.first_rank}"))

    def __enter__(self) -> Launcher:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self.selector = selectors.DefaultSelector()
        self.woken, self.waker = socket.socketpair()
        self.selector.register(self.woken, selectors.EVENT_READ)
        self.waker.setblocking(False)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # with the default nothing is woken
        nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        for number in _REQUESTS[:-1] if nohup else _REQUESTS:
            signal.signal(number, self._on_request)
        return self

    def __exit__(self, *_: object) -> None:
        for number in _REQUESTS:
            signal.signal(number, signal.SIG_IGN)
        self._clear()
        if self.link:
            self.link.close()

    def run(self) -> int:
        """Start the job and wait until it has ended; returns the exit code."""
        try:
            self.starting = True
            self._join_machines()
            self._start()
            self.starting = False
            self._watch()
        except (_FailedError, UserError) as error:
            self.starting = False
            known = isinstance(error, _FailedError)
            failure = error.failure if known else Failure(str(error), EXIT_USER_ERROR)
            if self.link and not self.link.failure:
                line = f"{failure.line} (on the machine with node rank {self.job.node_rank})"
                self.link.tell(Failure(line, failure.code))
            self._clear()
            print(f"error: {failure.line}", file=sys.stderr)
            return failure.code
        return max(self.codes, default=EXIT_USER_ERROR)

    def _clear(self) -> None:
        """End every process, and show what the first worker still wrote."""
        _kill_children()
        self.echo.show(last=True)

    # ---- the start ----

    def _join_machines(self) -> None:
        job, port = self.job, self.job.master_port + 1
        if job.nodes > 1 and job.node_rank == 0:
            self.link = Link.listen(self.selector, port, job.workers, job.nodes - 1, job.time_out)
        elif job.nodes > 1:
            self.link = Link.join(
                self.selector, (job.master_addr, port), job.node_rank, job.workers, job.time_out
            )

    def _start(self) -> None:
        """Let msrun start the processes; when it has ended, name them and let them go."""
        start, log = self.job.logs / "started", self.job.logs / "msrun.log"
        with log.open("w") as output:
            msrun = subprocess.Popen(
                _msrun(self.job, start),
                env=_environment(self.job),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
            )
        while msrun.poll() is None:
            self._sleep()
        if msrun.returncode:
            raise UserError(f"msrun {why_it_ended(msrun.returncode, log)}; its log: {log}")
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):  # it has ended
                self.names[child.pid] = _name(child)
        self._check_scheduler()
        workers, begun = self.job.local_workers, len(self._workers())
        if begun < workers:
            ranks = range(self.job.first_rank, self.job.first_rank + workers)
            lost = sorted({f"rank {rank}" for rank in ranks} - set(self.names.values()))
            raise UserError(
                f"{', '.join(lost)} ended before the program had begun; the logs are in "
                f"{self.job.logs}"
            )
        start.touch()

    def _check_scheduler(self) -> None:
        """msrun starts one wherever the master's address is local; machine 0 needs it."""
        schedulers = [pid for pid, name in self.names.items() if name == SCHEDULER]
        if self.job.node_rank == 0 and not schedulers:
            raise UserError(
                f"master_addr: {self.job.master_addr} is not an address of this machine, which has "
                "node rank 0; give one that the other machines reach"
            )
        if self.job.node_rank:  # two launches on one machine
            for pid in schedulers:
                del self.names[pid]
                os.kill(pid, signal.SIGKILL)

    # ---- watching ----

    def _watch(self) -> None:
        """Until all workers, on all machines, have ended well."""
        passed_on = done = False
        while not (done and not (self.link and self.link.waits)):
            self._wait()
            if self.requests and not passed_on:
                passed_on = True
                self._ask_to_stop()
            self._check()
            if not done and not self._workers():
                done = True
                if self.link:
                    self.link.say_done()

    def _wait(self) -> None:
        """Until something happens, or a short while; then see who ended and what was written."""
        self._sleep()
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                name = self.names.pop(ended[0], "")
                if name:
                    self._note_end(name, os.waitstatus_to_exitcode(ended[1]))
        self.echo.show()
        if self.link:
            self.link.check()

    def _sleep(self) -> None:
        for key, _ in self.selector.select(0.2):
            if key.fileobj is self.woken:
                self.woken.recv(4096)
            elif self.link:
                self.link.serve(key.fileobj)

    def _note_end(self, name: str, code: int) -> None:
        if name == SCHEDULER:
            if code and not self.codes and self._workers():
                self._add_end(name, code, cause=False)
        elif code in (0, EXIT_STOPPED):
            self.codes.add(code)
        else:
            self._add_end(name, code)

    def _add_end(self, name: str, code: int, cause: bool = True) -> None:
        log = self.job.log(name)
        reason = why_it_ended(code, log)
        if self.requests and code == -signal.SIGTERM:
            reason = "was stopped by SIGTERM before it could save"
        colon = ":" if code == EXIT_USER_ERROR else ""
        failure = Failure(
            f"{name}{colon} {reason}; its log: {log}", code if code > 0 else 128 - code
        )
        self.ends.append(_End(failure, cause and not is_a_consequence(reason)))

    def _check(self) -> None:
        """Raises what ended the job, once that is clear: a cause, before its consequences."""
        if len(self.requests) > 1:  # apart from each other, see `_on_request`
            raise _FailedError(
                Failure("killed by the second signal, perhaps unsaved", 128 + self.requests[1])
            )
        for end in self.ends:
            if end.cause:
                raise _FailedError(end.failure)
        if self.link and self.link.failure:
            raise _FailedError(self.link.failure)
        if self.ends and time.monotonic() > self.ends[0].time + _GRACE:
            raise _FailedError(self.ends[0].failure)

    def _workers(self) -> list[int]:
        return [pid for pid, name in self.names.items() if name != SCHEDULER]

    # ---- signals ----

    def _on_request(self, number: int, _: object) -> None:
        if self.requests and time.monotonic() - self.asked < ONE_REQUEST:
            return
        self.asked = time.monotonic()
        self.requests.append(number)
        if self.starting:
            raise _FailedError(Failure("stopped before the workers had started", 128 + number))

    def _ask_to_stop(self) -> None:
        print(
            f"{signal.Signals(self.requests[0]).name}: waiting for the workers to save and stop; "
            "a second signal kills them",
            file=sys.stderr,
        )
        for pid in self._workers():
            os.kill(pid, signal.SIGTERM)


def _msrun(job: Job, start: Path) -> list[str]:
    """Its command; each process is the stub, which becomes the program once `start` is there."""
    return [
        *(sys.executable, "-m", "mindspore.parallel.cluster.run"),
        f"--worker_num={job.workers}",
        f"--local_worker_num={job.local_workers}",
        f"--node_rank={job.node_rank}",
        f"--master_addr={job.master_addr}",
        f"--master_port={job.master_port}",
        f"--log_dir={job.logs}",
        f"--cluster_time_out={round(job.time_out) + 60}",  # the launchers notice earlier
        "--join=False",
        *("python3", "-I", str(_STUB), str(os.getpid()), str(start), sys.executable),
        *job.program,
    ]


def _environment(job: Job) -> dict[str, str]:
    """Ours, and what the user did not set: output as it comes, a share of the cores for each."""
    cores = len(os.sched_getaffinity(0))
    wanted = {
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(max(1, cores // job.local_workers)),
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return wanted | os.environ | {"PATH": path}


def _name(process: psutil.Process) -> str:
    environment = process.environ()
    if environment.get("MS_ROLE") == "MS_SCHED":
        return SCHEDULER
    return f"rank {environment['MS_NODE_ID']}"


def _kill_children() -> None:
    """End all descendants: those whose parent ends become children of the launcher."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for child in psutil.Process().children():
                with contextlib.suppress(ProcessLookupError):
                    _kill(child.pid)
            os.waitpid(-1, 0)


def _kill(pid: int) -> None:
    group = os.getpgid(pid)
    if group == os.getpgrp():
        os.kill(pid, signal.SIGKILL)
    else:
        os.killpg(group, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


# ---- the command line ----


def parse(arguments: Sequence[str]) -> Job:
    """The job of a command line; makes the folder of its logs.

    Raises:
        UserError: it cannot be started so.
    """
    parser = Parser(prog="src.launch", description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--local_workers", type=int)
    parser.add_argument("--node_rank", type=int, default=0)
    parser.add_argument("--master_addr", default="")
    parser.add_argument("--master_port", type=int)
    parser.add_argument("--log_dir", type=Path, default=Path("output/launch"))
    parser.add_argument("--cluster_time_out", type=float, default=600)
    parser.add_argument("program", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    program = options.program[1:] if options.program[:1] == ["--"] else options.program
    local_workers = options.workers if options.local_workers is None else options.local_workers
    _check_numbers(options.workers, local_workers, options.node_rank)
    if not program or not Path(program[0]).is_file():
        raise UserError(f"{program[0] if program else 'PROGRAM'}: no such Python file to launch")
    address = _address(options.master_addr, options.workers > local_workers)
    port = _port(options.master_port, options.workers > local_workers)
    if options.node_rank == 0:
        _check_port(address, port)
    return Job(
        tuple(program),
        options.workers,
        local_workers,
        options.node_rank,
        address,
        port,
        _new_folder(options.log_dir.absolute()),
        options.cluster_time_out,
    )


def _check_numbers(workers: int, local_workers: int, node_rank: int) -> None:
    if workers < 1:
        raise UserError(f"workers: got {workers}; expected a whole number above 0")
    if not 1 <= local_workers <= workers or workers % local_workers:
        raise UserError(
            f"local_workers: got {local_workers}; expected a divisor of workers, {workers}: every "
            "machine starts the same number"
        )
    nodes = workers // local_workers
    if not 0 <= node_rank < nodes:
        raise UserError(f"node_rank: got {node_rank}; expected 0 to {nodes - 1}")


def _address(given: str, several: bool) -> str:
    if several and not given:
        raise UserError("master_addr: several machines need the address of machine 0")
    try:
        return socket.getaddrinfo(given or _LOCALHOST, None, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        raise UserError(f"master_addr: cannot find {given}: {error.strerror}") from None


def _port(given: int | None, several: bool) -> int:
    """On one machine a free one, unless given: nobody else has to know it."""
    if given is None and not several:
        with socket.create_server((_LOCALHOST, 0)) as free:
            return free.getsockname()[1]
    port = DEFAULT_PORT if given is None else given
    if not 1024 <= port <= 65534:
        raise UserError(f"master_port: got {port}; expected 1024 to 65534")
    return port


def _check_port(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        raise UserError(
            f"master_port, master_addr: machine 0 cannot listen at {address}, port {port}: "
            f"{error.strerror}; choose another --master_port, or an address of this machine"
        ) from None


def _new_folder(parent: Path) -> Path:
    """A new folder of this date and time below `parent`."""
    name = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for ending in itertools.chain([""], (f"-{i}" for i in itertools.count(2))):
        try:
            (parent / f"{name}{ending}").mkdir(parents=True)
        except FileExistsError:
            if not parent.is_dir():
                raise UserError(f"log_dir: {parent} is not a folder") from None
            continue
        except OSError as error:
            raise UserError(f"log_dir: cannot write in {parent}: {error.strerror}") from None
        return parent / f"{name}{ending}"
    raise AssertionError


def main() -> int:
    job = parse(sys.argv[1:])
    print(f"{job.workers} workers, logs in {job.logs}", flush=True)
    with Launcher(job) as launcher:
        return launcher.run()


if __name__ == "__main__":
    run_program(main)
