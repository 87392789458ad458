"""The launcher: what it says and leaves when workers end, and what it does with signals.

The programs it starts through msrun are plain Python: they know their rank from the environment.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from src import launch
from src.errors import UserError
from src.launch_link import Failure, Link
from src.stop_signals import ONE_REQUEST
from src.worker_log import Echo, is_a_consequence, why_it_ended

ROOT = Path(__file__).resolve().parents[1]
PROLOGUE = """
import os, signal, subprocess, sys, time
if os.environ["MS_ROLE"] == "MS_SCHED":
    time.sleep(600)
rank = int(os.environ["RANK_ID"])
def wait_for(number):
    while not os.path.exists(f"here{number}"):
        time.sleep(0.02)
open(f"here{rank}", "w").close()
wait_for(1 - rank)
"""


def wait_until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing came for a minute"
        time.sleep(0.02)


class Launched:
    """A launch of two workers that run PROLOGUE and `program` in `place`."""

    def __init__(self, place: Path, program: str, *arguments: str) -> None:
        (place / "program.py").write_text(PROLOGUE + program)
        self.place = place
        words = ["--workers", "2", "--log_dir", "logs", *arguments, "--", "program.py", "a b"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "src.launch", *words],
            cwd=place,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def logs(self) -> Path:
        (folder,) = (self.place / "logs").iterdir()
        return folder

    def both_run(self) -> bool:
        return all((self.place / f"here{rank}").exists() for rank in (0, 1))

    def left(self) -> list[psutil.Process]:
        """What works in the folder of this test."""
        found = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()) == self.place and process.status() != "zombie":
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def end(self, code: int) -> tuple[str, str]:
        """Wait for it; returns what it printed, without the first line, and stderr."""
        stdout, stderr = self.process.communicate(timeout=60)
        assert self.process.returncode == code, stdout + stderr
        assert self.left() == []
        return stdout.partition("\n")[2], stderr


@pytest.fixture
def start(tmp_path) -> Iterator:
    """Starts a `Launched`, once; kills what a failing test leaves."""
    launched: list[Launched] = []

    def start(program: str, *arguments: str) -> Launched:
        launched.append(Launched(tmp_path, program, *arguments))
        return launched[0]

    yield start
    for one in launched:
        one.process.kill()
        for process in one.left():
            process.kill()


# --- Ways to end ----------------------------------------------------------------------------------


def test_the_first_workers_output_is_shown_and_all_of_it_is_kept(start):
    launched = start(
        'print("rank", rank, sys.argv[1:])\n'
        'print("[WARNING] DISTRIBUTED(12,7f,python3):2026 [a.cc:1] F] noise", file=sys.stderr)\n'
        'print("cores", os.environ["OMP_NUM_THREADS"], os.environ["MS_WORKER_NUM"])\n'
    )
    stdout, stderr = launched.end(0)
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert stdout == f"rank 0 ['a b']\ncores {share} 2\n"
    assert stderr == ""
    for rank in (0, 1):
        log = (launched.logs / f"worker_{rank}.log").read_text()
        assert f"rank {rank} ['a b']" in log
        assert "noise" in log


@pytest.mark.parametrize(
    ("death", "code", "words"),
    [
        ("os.kill(os.getpid(), 9)", 137, "rank 1 was killed by signal 9 (SIGKILL)"),
        ("raise ValueError('no\\nway')", 1, "rank 1 stopped with exit code 1: ValueError: no"),
        (
            "print('error: data: it is bad'); print('bye'); sys.exit(2)",
            2,
            "rank 1: data: it is bad",
        ),
    ],
)
def test_a_worker_that_dies_takes_all_with_it(start, death, code, words):
    """Rank 0 has a process of its own, which has left its session, and ignores SIGTERM."""
    launched = start(
        "if rank == 0:\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        '    subprocess.Popen(["sleep", "600"], start_new_session=True)\n'
        '    open("ready", "w").close(); time.sleep(600)\n'
        'while not os.path.exists("ready"): time.sleep(0.02)\n'
        f"{death}\n"
    )
    _, stderr = launched.end(code)
    assert stderr == f"error: {words}; its log: {launched.logs}/worker_1.log\n"


def test_the_cause_is_named_although_its_consequence_ends_first(start):
    launched = start(
        "if rank == 0:\n"
        "    raise RuntimeError('Launch kernel failed, name:Default/AllReduce-op0')\n"
        'open("bad", "w").close(); time.sleep(1.5)\n'
        "raise KeyError('cause')\n"
    )
    _, stderr = launched.end(1)
    assert stderr.startswith("error: rank 1 stopped with exit code 1: KeyError: 'cause'; its log")


def test_a_consequence_without_a_cause_is_named_in_the_end(start):
    launched = start("if rank == 0: raise RuntimeError('AllReduce failed')\ntime.sleep(600)\n")
    _, stderr = launched.end(1)
    assert stderr.startswith("error: rank 0 stopped with exit code 1: RuntimeError: AllReduce fai")


SAVES = """
def save(*_):
    with open(f"asked{rank}", "a") as file:
        file.write("x")
    if rank == 0:
        wait_for(2)  # while rank 1 has ended
    sys.exit(3)
signal.signal(signal.SIGTERM, save)
open(f"here{rank + 3}", "w").close()
time.sleep(600)
"""


@pytest.mark.parametrize("request_", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_is_passed_on_once_and_all_may_save(start, request_):
    launched = start(SAVES)
    here = launched.place
    wait_until(lambda: (here / "here3").exists() and (here / "here4").exists())
    launched.process.send_signal(request_)
    wait_until(lambda: (here / "asked0").exists() and (here / "asked1").exists())
    programs = [process for process in launched.left() if "a b" in process.cmdline()]
    rank_1 = [process for process in programs if process.environ().get("RANK_ID") == "1"]
    psutil.wait_procs(rank_1, timeout=30)
    time.sleep(1.5)  # longer than msrun's and the launcher's looks
    (here / "here2").touch()
    _, stderr = launched.end(3)
    assert stderr.startswith(f"{request_.name}: waiting")
    assert stderr.count("\n") == 1
    assert [(here / f"asked{rank}").read_text() for rank in (0, 1)] == ["x", "x"]


def test_a_second_request_kills(start):
    launched = start(SAVES)
    here = launched.place
    wait_until(lambda: (here / "here3").exists() and (here / "here4").exists())
    launched.process.send_signal(signal.SIGINT)
    wait_until(lambda: (here / "asked0").exists())
    launched.process.send_signal(signal.SIGINT)  # the same request: a whole job is signalled
    time.sleep(ONE_REQUEST + 1)
    assert launched.process.poll() is None
    launched.process.send_signal(signal.SIGINT)
    _, stderr = launched.end(130)
    assert "error: killed by the second signal" in stderr


def test_a_request_before_the_workers_run_ends_at_once(start):
    launched = start("")
    wait_until(lambda: any("mindspore" in " ".join(p.cmdline()) for p in launched.left()))
    launched.process.terminate()
    _, stderr = launched.end(143)
    assert stderr == "error: stopped before the workers had started\n"
    assert not (launched.place / "here0").exists()


def test_nothing_survives_a_killed_launcher(start):
    launched = start("time.sleep(600)\n")
    wait_until(launched.both_run)
    launched.process.kill()
    launched.process.wait()
    wait_until(lambda: not launched.left())


# --- What a user can get wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--workers 0 -- PROGRAM", "workers: got 0"),
        ("--workers two -- PROGRAM", "workers"),
        ("--workers 2", "PROGRAM: no such Python file"),
        ("--workers 2 -- nothing.py", "nothing.py: no such Python file"),
        ("--workers 4 --local_workers 3 -- PROGRAM", "local_workers: got 3"),
        ("--workers 4 --local_workers 0 -- PROGRAM", "local_workers: got 0"),
        ("--workers 4 --local_workers 2 --node_rank 2 -- PROGRAM", "node_rank: got 2"),
        ("--workers 4 --local_workers 2 -- PROGRAM", "master_addr: several machines"),
        ("--workers 2 --master_port 80 -- PROGRAM", "master_port: got 80"),
        ("--workers 2 --master_addr 192.0.2.1 -- PROGRAM", "cannot listen at 192.0.2.1"),
        ("--workers 2 --log_dir PROGRAM -- PROGRAM", "log_dir: "),
    ],
)
def test_what_cannot_be_started_is_one_line(tmp_path, arguments, message):
    program = tmp_path / "program.py"
    program.touch()
    words = arguments.replace("PROGRAM", str(program)).split()
    if "--log_dir" not in words:
        words[:0] = ["--log_dir", str(tmp_path / "logs")]
    with pytest.raises(UserError) as raised:
        launch.parse(words)
    assert message in str(raised.value)
    assert not (tmp_path / "logs").exists()


def test_a_port_in_use(tmp_path):
    program = tmp_path / "program.py"
    program.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"master_port.*port {port}: .*in use.*choose another"):
            launch.parse(["--workers", "2", "--master_port", str(port), "--", str(program)])


def test_every_launch_has_a_new_folder(tmp_path):
    program = tmp_path / "program.py"
    program.touch()
    words = ["--workers", "2", "--log_dir", str(tmp_path / "logs"), "--", str(program)]
    assert len({launch.parse(words).logs for _ in range(5)}) == 5


# --- What the logs tell ---------------------------------------------------------------------------

TRACEBACK = """step 3
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    f()
RuntimeError: Launch kernel failed, name:Default/AllReduce-op0

----------------------------------------------------
- C++ Call Stack: (For framework developers)
[INFO] DISTRIBUTED(27656,7efdc51986c0,python3):2026-11-22 [tcp.cc:314] Start] Event base
"""


@pytest.mark.parametrize(
    ("code", "text", "reason"),
    [
        (-9, "error: x", "was killed by signal 9 (SIGKILL)"),
        (-35, "", "was killed by signal 35 (no name)"),
        (1, TRACEBACK, "stopped with exit code 1: RuntimeError: Launch kernel failed, "),
        (2, "error: a: b\n[INFO] ME(1,2): c\n", "a: b"),
        (2, "usage\n", "stopped with exit code 2: its last line: usage"),
        (7, "error: a: b\nlast\n\n", "stopped with exit code 7: its last line: last"),
        (7, None, "stopped with exit code 7: its last line: none"),
    ],
)
def test_why_a_worker_ended(tmp_path, code, text, reason):
    log = tmp_path / "worker_0.log"
    if text is not None:
        log.write_text(text)
    assert why_it_ended(code, log).startswith(reason)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stopped with exit code 1: RuntimeError: name:Default/AllReduce-op0", True),
        ("run_distribute: the processes that msrun started did not stay together (x)", True),
        ("stopped with exit code 1: ValueError: bad shape", False),
        ("was killed by signal 9 (SIGKILL)", False),
    ],
)
def test_what_is_a_consequence(reason, expected):
    assert is_a_consequence(reason) == expected


def test_output_is_shown_as_it_comes_without_what_the_launcher_says_itself(tmp_path, capsys):
    log = tmp_path / "worker_0.log"
    echo = Echo(log)
    echo.show()
    with log.open("wb", buffering=0) as file:
        file.write(b"one\n10%\r20%\r[WARN")
        echo.show()
        assert capsys.readouterr().out == "one\n10%\r20%\r"
        file.write(b"ING] ME(3:5,python):x\nerror: mine\nl\xc3")
        echo.show()
        assert capsys.readouterr().out == ""
        file.write(b"\xa4st")
        echo.show(last=True)
    assert capsys.readouterr().out == "läst"


# --- Several machines -----------------------------------------------------------------------------


class Machine:
    """A link and its selector."""

    def __init__(self, make, *arguments) -> None:
        self.selector = selectors.DefaultSelector()
        self.link: Link = make(self.selector, *arguments)

    def serve(self) -> None:
        for key, _ in self.selector.select(0.02):
            self.link.serve(key.fileobj)
        self.link.check()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@pytest.fixture
def machines(port) -> Iterator[list[Machine]]:
    """Three of two workers each, joined."""
    machines = [Machine(Link.listen, port, 6, 2, 60.0)]
    for node in (1, 2):
        machines.append(Machine(Link.join, ("127.0.0.1", port), node, 6, 60.0))
    serve(machines, lambda: len(machines[0].link.peers) == 2)
    yield machines
    for machine in machines:
        machine.link.close()


def serve(machines: list[Machine], until) -> None:
    def step() -> bool:
        for machine in machines:
            machine.serve()
        return until()

    wait_until(step)


@pytest.mark.parametrize("who", [0, 1])
def test_a_failure_reaches_all_machines(machines, who):
    failure = Failure("rank 3 was killed", 137)
    machines[who].link.tell(failure)
    others = [machine for machine in machines if machine is not machines[who]]
    serve(machines, lambda: all(machine.link.failure for machine in others))
    assert {machine.link.failure for machine in others} == {failure}


@pytest.mark.parametrize(("who", "left"), [(0, (1, 2)), (2, (0, 1))])
def test_a_machine_that_vanishes_is_missed_by_all(machines, who, left):
    serve(machines, lambda: {p.node for p in machines[0].link.peers} == {1, 2})
    machines[who].link.close()
    rest = [machines[i] for i in left]
    serve(rest, lambda: all(machine.link.failure for machine in rest))
    for machine in rest:
        assert machine.link.failure.line.startswith(f"the launch with node rank {who} vanished")
        assert machine.link.failure.code == 1


def test_the_first_machine_waits_for_the_others_to_finish(machines):
    first = machines[0]
    serve(machines, lambda: {p.node for p in first.link.peers} == {1, 2})
    machines[1].link.say_done()
    machines[1].link.close()
    serve([first], lambda: sum(peer.done for peer in first.link.peers) == 1)
    assert first.link.waits
    machines[2].link.say_done()
    serve([first], lambda: not first.link.waits)
    assert first.link.failure is None


def test_different_numbers_of_workers_are_refused(machines, port):
    fourth = Machine(Link.join, ("127.0.0.1", port), 1, 8, 60.0)
    serve([*machines, fourth], lambda: fourth.link.failure is not None)
    assert fourth.link.failure.line.startswith("workers: 6 with node rank 0, 8 with node rank 1")
    fourth.link.close()


def test_strangers_at_the_port_do_no_harm(machines, port):
    with socket.create_connection(("127.0.0.1", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n[1]\n")
        serve(machines, lambda: len(machines[0].link.peers) == 3)
    serve(machines, lambda: len(machines[0].link.peers) == 2)
    assert machines[0].link.failure is None


def test_a_machine_that_does_not_come_is_named(port):
    first = Machine(Link.listen, port, 6, 2, 0.2)
    second = Machine(Link.join, ("127.0.0.1", port), 1, 6, 60.0)
    serve([first, second], lambda: second.link.failure is not None)
    assert second.link.failure == Failure("no launch with node rank 2 joined within 0 s", 2)
    first.link.close()
    second.link.close()


def test_the_first_machine_is_waited_for(port):
    first: list[Machine] = []
    late = threading.Timer(0.7, lambda: first.append(Machine(Link.listen, port, 4, 1, 60.0)))
    late.start()
    second = Machine(Link.join, ("127.0.0.1", port), 1, 4, 60.0)
    late.join()
    serve([*first, second], lambda: [peer.node for peer in first[0].link.peers] == [1])
    second.link.close()
    first[0].link.close()


def test_a_first_machine_that_never_answers_is_one_line(port):
    with pytest.raises(UserError, match=rf"master_addr: no launch .* at 127.0.0.1, port {port}"):
        Link.join(selectors.DefaultSelector(), ("127.0.0.1", port), 1, 4, 0.1)
