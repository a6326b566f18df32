"""The supervisor's own Unix socket, `run/supervisor.sock` in the spool: how commands reach a running node.

One connection carries one request, a line of JSON `{"op": …}`, and one answer, a line of JSON. `reload` is answered
when it is over; `stop` is not answered at all: the connection ends with the node.

Input: a listening socket, for the node's own user only, and a function that answers. It waits for nothing: the
supervisor calls `on_readable`. Fails: a request that is none is answered with an error; a client that does not read its
answer loses it. Bounds: MOST_CLIENTS at a time, LONGEST_REQUEST octets.

`ask` is the other side, for commands.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from angarium.admin.node import node_socket_path
from angarium.delivery.short_path import short_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Client", "NodeSocket", "Request", "ask", "node_socket_path"]

MOST_CLIENTS = 16
LONGEST_REQUEST = 4096
LONGEST_ANSWER = 1 << 20


class Request(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a command asks for. `on`: of `drain`, false: take mail again."""

    op: Literal["reload", "drain", "stop", "status"]
    on: bool = True


class Client:
    """One connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self.asked = bytearray()
        self.closed = False

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def read(self) -> bytes:
        """What there is; empty at the end."""
        try:
            return self._socket.recv(LONGEST_REQUEST)
        except BlockingIOError:
            raise
        except OSError:
            return b""

    def answer(self, answer: Any) -> None:
        """The one answer; the connection ends."""
        if self.closed:
            return
        with contextlib.suppress(OSError):  # it went away, or does not read
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST_ANSWER)
            self._socket.send(msgspec.json.encode(answer) + b"\n", socket.MSG_NOSIGNAL)
        self.close()

    def close(self) -> None:
        """End the connection."""
        self.closed = True
        self._socket.close()


class NodeSocket:
    """Takes requests."""

    def __init__(self, sock: socket.socket, on_request: Callable[[Request, Client], None]) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._on_request = on_request
        self.clients: dict[int, Client] = {}

    @property
    def files(self) -> list[int]:
        """What to wait for."""
        self.clients = {fd: client for fd, client in self.clients.items() if not client.closed}
        full = len(self.clients) >= MOST_CLIENTS
        return [*self.clients] if full else [self._socket.fileno(), *self.clients]

    def on_readable(self, fd: int) -> None:
        """One of `files` is readable."""
        if fd == self._socket.fileno():
            with contextlib.suppress(OSError):  # whoever it was has gone again
                client = Client(self._socket.accept()[0])
                self.clients[client.fileno()] = client
            return
        asking = self.clients.get(fd)
        if asking is None:
            return
        try:
            octets = asking.read()
        except BlockingIOError:
            return
        asking.asked += octets
        if not octets or len(asking.asked) > LONGEST_REQUEST:
            asking.close()
        elif b"\n" in asking.asked:
            line, _, _ = bytes(asking.asked).partition(b"\n")
            asking.asked.clear()
            try:
                request = msgspec.json.decode(line, type=Request)
            except msgspec.MsgspecError as failure:
                asking.answer({"ok": False, "error": str(failure)})
            else:
                self._on_request(request, asking)

    def close(self) -> None:
        """Take no more requests; connections stay open until the process ends."""
        self._socket.close()


def ask(spool: Path, request: Request, timeout_s: float) -> dict[str, Any] | None:
    """The answer of the node with this spool; None when the connection ended without one.

    OSError when there is no such node, or it may not be asked; TimeoutError when it does not answer in time.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        with short_path(str(node_socket_path(spool))) as name:
            sock.connect(name)
        sock.sendall(msgspec.json.encode(request) + b"\n")
        octets = bytearray()
        while b"\n" not in octets:
            more = sock.recv(1 << 16)
            if not more:
                return None
            octets += more
        answer: dict[str, Any] = msgspec.json.decode(octets)
        return answer
