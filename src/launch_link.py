"""How the launches of several machines know of each other: one TCP connection to the first one.

MindSpore notices a lost machine late or never. Here a launch that fails tells the others why, and
one that vanishes, with its machine or its network, is missed within 40 seconds. Messages are JSON
objects, one a line.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from src.errors import UserError

_LONGEST = 1 << 16  # bytes of a message


@dataclass(frozen=True)
class Failure:
    """Why a launch failed, in one line, and the exit code that all launches end with."""

    line: str
    code: int


@dataclass
class _Peer:
    """A connection: to the first launch, or of one that joined it."""

    socket: socket.socket
    buffer: bytes = b""
    node: int = 0  # its rank; of those that joined, known once they said so
    done: bool = False

    def send(self, **message: Any) -> None:
        with contextlib.suppress(OSError):  # one that is gone is noticed when reading
            self.socket.sendall(json.dumps(message).encode() + b"\n")


@dataclass
class Link:
    """The connections of this launch. `others` is the number of launches the first one waits for.

    Attributes:
        failure: of another launch, once one is known.
    """

    selector: selectors.BaseSelector
    node: int
    workers: int
    others: int
    seconds: float
    server: socket.socket | None = None
    peers: list[_Peer] = field(default_factory=list)
    failure: Failure | None = None
    since: float = field(default_factory=time.monotonic)

    @classmethod
    def listen(
        cls, selector: selectors.BaseSelector, port: int, workers: int, others: int, seconds: float
    ) -> Link:
        """The link of the first launch; the others are to join it within so many seconds."""
        try:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            server = socket.create_server(("", port), family=family, dualstack_ipv6=both)
        except OSError as error:
            raise UserError(
                f"master_port: the launcher's own port {port} (master_port + 1) cannot be used: "
                f"{error.strerror}; choose another --master_port on all machines"
            ) from None
        selector.register(server, selectors.EVENT_READ)
        return cls(selector, 0, workers, others, seconds, server)

    @classmethod
    def join(
        cls,
        selector: selectors.BaseSelector,
        address: tuple[str, int],
        node: int,
        workers: int,
        seconds: float,
    ) -> Link:
        """The link of another launch; waits so many seconds for the first one to be there."""
        connection = _connect(address, seconds)
        link = cls(selector, node, workers, 0, seconds)
        link._add(connection).send(node=node, workers=workers)
        return link

    def serve(self, ready: object) -> None:
        """Do what a socket that the selector found readable is about, if it is one of these."""
        if self.server is not None and ready is self.server:
            self._add(self.server.accept()[0])
        for peer in [peer for peer in self.peers if peer.socket is ready]:
            self._read(peer)

    def check(self) -> None:
        """Notice, in the first launch, that another one has not come."""
        absent = set(range(1, self.others + 1)) - {peer.node for peer in self.peers}
        if absent and self._late() and not self.failure:
            ranks = ", ".join(map(str, sorted(absent)))
            self._fail(f"no launch with node rank {ranks} joined within {self.seconds:.0f} s", 2)

    def tell(self, failure: Failure) -> None:
        for peer in self.peers:
            peer.send(failed=failure.line, code=failure.code)

    def say_done(self) -> None:
        """The workers of this launch have ended well."""
        for peer in self.peers:
            peer.send(done=True)

    @property
    def waits(self) -> bool:
        """Whether this is the first launch and another one still works."""
        return sum(peer.done for peer in self.peers) < self.others

    def close(self) -> None:
        for peer in self.peers:
            peer.socket.close()
        if self.server is not None:
            self.server.close()

    def _late(self) -> bool:
        return time.monotonic() - self.since > self.seconds

    def _add(self, connection: socket.socket) -> _Peer:
        connection.settimeout(5)
        _notice_loss(connection)
        self.selector.register(connection, selectors.EVENT_READ)
        self.peers.append(_Peer(connection))
        return self.peers[-1]

    def _read(self, peer: _Peer) -> None:
        try:
            new = peer.socket.recv(_LONGEST)
        except OSError:
            new = b""
        peer.buffer += new
        try:
            for message in _messages(peer):
                self._receive(peer, message)
        except (KeyError, TypeError, ValueError):  # no launch talks like this
            new = b""
        if not new or len(peer.buffer) > _LONGEST:
            self._lose(peer)

    def _receive(self, peer: _Peer, message: dict[str, Any]) -> None:
        if "failed" in message:
            code = int(message["code"])
            self._fail(str(message["failed"]), code if 0 < code < 256 else 1)
        elif "done" in message:
            peer.done = True
        elif message.get("workers") != self.workers:
            self._fail(
                f"workers: {self.workers} with node rank 0, {message.get('workers')} with node "
                f"rank {message.get('node')}; start all machines with the same numbers",
                2,
            )
        elif any(other.node == int(message["node"]) for other in self.peers):
            self._fail(f"two launches have node rank {message['node']}; number them 0, 1, ...", 2)
        else:
            peer.node = int(message["node"])

    def _lose(self, peer: _Peer) -> None:
        """A connection has ended. One that never said who it is was no launch."""
        self.selector.unregister(peer.socket)
        peer.socket.close()
        if self.node == 0 and not peer.node:
            self.peers.remove(peer)
        elif not peer.done:
            self._fail(f"the launch with node rank {peer.node} vanished, or its machine did", 1)

    def _fail(self, line: str, code: int) -> None:
        if self.failure is None:
            self.failure = Failure(line, code)
            self.tell(self.failure)  # the first launch passes it on


def _connect(address: tuple[str, int], seconds: float) -> socket.socket:
    end = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(address, timeout=5)
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"master_addr: no launch with node rank 0 answered at {address[0]}, port "
                    f"{address[1]} (master_port + 1), within {seconds:.0f} s ({error}); check "
                    "MASTER_ADDR, MASTER_PORT, the network, and that machine's launch"
                ) from None
        time.sleep(0.5)


def _notice_loss(connection: socket.socket) -> None:
    """Probe an idle connection after 10 s and every 5 s; give up after 30 s without an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)


def _messages(peer: _Peer) -> Iterator[dict[str, Any]]:
    """The whole messages that have come; ValueError or TypeError where one is none."""
    *lines, peer.buffer = peer.buffer.split(b"\n")
    for line in lines:
        message = json.loads(line)
        if not isinstance(message, dict):
            raise TypeError(type(message))
        yield message
