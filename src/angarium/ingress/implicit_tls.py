"""Listeners that speak TLS from the first octet (RFC 8314 §3): accept, handshake, and only then a session.

Job: the limits of connections hold for handshakes too. asyncio's own server tells a protocol of a connection when its
handshake is over; who never says a word would hold a descriptor and the memory of a TLS engine, and count for nothing.
So connections are accepted here, counted at once, for the node and for their client, and handed on with their count.

Input: a bound socket, a TLS context, a factory of sessions. Output: ServerSessions on TLS transports.

Fails: a connection over a limit is closed without a word, since plaintext means nothing on this port; a handshake that
fails, or is not over in time, ends the connection and is counted. Without a free descriptor nothing is accepted for a
second, and clients wait in the kernel.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING

from angarium._core.counters import Slot, client_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.counters import Counters
    from angarium._core.server_session import ServerSession

ACCEPT_AT_ONCE = 64  # connections taken in one turn of the loop
PAUSE_S = 1.0  # when there is no descriptor left


class _Place:
    """A connection's place within the limits until its session takes one of its own."""

    def __init__(self, counters: Counters, key: int) -> None:
        self._counters = counters
        self._key = key
        self._held = True
        self.of_client = counters.client_opened(key)
        counters.add(Slot.INGRESS_CONNECTIONS, 1)

    def leave(self) -> None:
        """Give it back, once."""
        if self._held:
            self._held = False
            self._counters.sub(Slot.INGRESS_CONNECTIONS, 1)
            self._counters.client_closed(self._key)


class _Door(asyncio.Protocol):
    """What the TLS layer talks to until the handshake is over."""

    def __init__(self, place: _Place, session: Callable[[], ServerSession]) -> None:
        self._place = place
        self._session = session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._place.leave()  # the session counts itself
        session = self._session()
        transport.set_protocol(session)
        session.connection_made(transport)


class ImplicitTlsServer:
    """Serves one socket. `close` stops accepting; handshakes under way go on."""

    def __init__(
        self,
        sock: socket.socket,
        session: Callable[[], ServerSession],
        counters: Counters,
        context: ssl.SSLContext,
        *,
        backlog: int,
        connections: int,
        connections_per_client: int,
        handshake_timeout_s: float,
    ) -> None:
        self._socket = sock
        self._session = session
        self._counters = counters
        self._context = context
        self._connections = connections
        self._connections_per_client = connections_per_client
        self._handshake_timeout_s = handshake_timeout_s
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.listen(backlog)
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Accept no more."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                connection, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # no descriptors, no memory: those who wait would wake us for nothing
                self._loop.remove_reader(self._socket)
                self._pause = self._loop.call_later(PAUSE_S, self._go_on)
                return
            self._admit(connection, str(address[0]))

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)

    def _admit(self, connection: socket.socket, address: str) -> None:
        packed = socket.inet_pton(connection.family, address.partition("%")[0])
        place = _Place(self._counters, client_key(packed))
        over_client = place.of_client > self._connections_per_client
        if over_client or self._counters.node_total(Slot.INGRESS_CONNECTIONS) > self._connections:
            self._counters.add(Slot.INGRESS_REFUSED_CLIENT if over_client else Slot.INGRESS_REFUSED_NODE, 1)
            place.leave()
            connection.close()
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._handshake(connection, place))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handshake(self, connection: socket.socket, place: _Place) -> None:
        try:
            await self._loop.connect_accepted_socket(
                lambda: _Door(place, self._session),
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_timeout_s,
            )
        except (OSError, ssl.SSLError):  # ConnectionError and TimeoutError are OSErrors
            self._counters.add(Slot.INGRESS_TLS_FAILURES, 1)
        finally:
            place.leave()
