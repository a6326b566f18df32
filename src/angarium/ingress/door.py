"""Listeners where something comes before SMTP: a proxy's word of who its client is, TLS from the first octet (RFC 8314
§3), or a Unix socket.

Job: accept, read the header of the PROXY protocol from those who are named as proxies, shake hands, and only then make
a session. The limits of connections hold meanwhile: asyncio's own server tells a protocol of a connection when its
handshake is over; who never says a word would hold a descriptor and the memory of a TLS engine, and count for nothing.
So connections are counted here, at once for the node and as soon as it is known for their client, and handed on with
their count. What a proxy carries counts for the client it names, never for the proxy.

A proxy's header is required, and comes before anything is said to it. It is taken off the socket octet for octet, so
that what stands behind it, a TLS handshake too, is left for whoever reads on.

Input: a listening socket, which other workers may accept from as well; a factory of sessions, given the address that a
proxy has named, or None. Output: ServerSessions on transports.

Fails: a header that is none, is too long, or is not there in time closes the connection without a word; so does a TLS
connection over a limit, since plaintext means nothing on its port, and a handshake that fails or is not over in time.
All are counted, and the headers told in the event log. Without a free descriptor nothing is accepted for a second, and
clients wait in the kernel.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from angarium._core.counters import Slot, client_key
from angarium._core.proxy_header import ProxyHeader
from angarium._core.tls_transport import TlsTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium._core.counters import Counters
    from angarium._core.event_log import EventLog
    from angarium._core.server_session import ServerSession
    from angarium.ingress.certificates import LiveContext

__all__ = ["UNKNOWN_CLIENT", "Door", "DoorLimits"]

ACCEPT_AT_ONCE = 64  # connections taken in one turn of the loop
PAUSE_S = 1.0  # when there is no descriptor left
HEADER_OCTETS = 4096  # looked at in one go
LEAST_HANDSHAKE_S = 1.0  # for one whose turn came late
UNKNOWN_CLIENT = "unknown"  # a client of the proxy's without an address: it is in no network


class _Refused(Exception):
    """This connection has no use; the text says why."""

    def __init__(self, slot: Slot, why: str) -> None:
        super().__init__(why)
        self.slot = slot


@dataclass(frozen=True)
class DoorLimits:
    """What a listener grants to connections that have no session yet."""

    backlog: int
    connections: int  # of the node
    connections_per_client: int
    handshake_timeout_s: float
    header_timeout_s: float


class _Place:
    """A connection's place within the limits until its session takes one of its own."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._key = 0  # nobody's
        self._held = True
        counters.add(Slot.INGRESS_CONNECTIONS, 1)

    def give_to(self, client: str) -> int:
        """Count it for a client; how many connections that one has now."""
        self._key = _key_of(client)
        return self._counters.client_opened(self._key)

    def leave(self) -> None:
        """Give it back, once."""
        if self._held:
            self._held = False
            self._counters.sub(Slot.INGRESS_CONNECTIONS, 1)
            self._counters.client_closed(self._key)


class Door:
    """Serves one socket. `close` stops accepting; what is under way goes on."""

    def __init__(
        self,
        sock: socket.socket,
        session: Callable[[str | None], ServerSession],
        counters: Counters,
        events: EventLog,
        limits: DoorLimits,
        *,
        name: str,
        tls: LiveContext | None = None,
        is_proxy: Callable[[str], bool] | None = None,
    ) -> None:
        """`name`: of the listener. `tls`: from the first octet. `is_proxy`: address, "" on a Unix socket -> yes or no.

        Needs a running loop, and accepts from now on.
        """
        self._socket = sock
        self._session = session
        self._counters = counters
        self._events = events
        self._limits = limits
        self._name = name
        self._tls = tls
        self._is_proxy = is_proxy
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        sock.setblocking(False)
        sock.listen(limits.backlog)
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Accept no more."""
        if self._socket.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    # -------------------------------------------------------------- accepting

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
            self._admit(connection, str(address[0]) if isinstance(address, tuple) else "")

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._socket, self._accept)

    def _admit(self, connection: socket.socket, peer: str) -> None:
        place = _Place(self._counters)
        proxied = self._is_proxy is not None and self._is_proxy(peer)
        if not proxied and not self._has_room(place, peer):
            place.leave()
            connection.close()
            return
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._let_in(connection, place, peer if proxied else None))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _has_room(self, place: _Place, client: str) -> bool:
        """Whether the limits let this client shake hands. In plaintext the session says so itself, with a reply."""
        if self._tls is None:
            return True
        over_client = place.give_to(client) > self._limits.connections_per_client
        if over_client or self._counters.node_total(Slot.INGRESS_CONNECTIONS) > self._limits.connections:
            self._counters.add(Slot.INGRESS_REFUSED_CLIENT if over_client else Slot.INGRESS_REFUSED_NODE, 1)
            return False
        return True

    async def _let_in(self, connection: socket.socket, place: _Place, proxy: str | None) -> None:
        """From an accepted connection to a session, or to its end. `proxy`: the proxy's address; None: no proxy's."""
        client: str | None = None
        handed_on = False
        try:
            if proxy is not None:
                client = await self._client_of(connection)
                if not self._has_room(place, proxy if client is None else client):
                    return
            handed_on = True
            await self._hand_on(connection, place, client)
        except _Refused as refused:
            self._counters.add(refused.slot, 1)
            if refused.slot != Slot.INGRESS_PROXY_LOST:
                self._events.event("proxy_refused", {"listener": self._name, "client": proxy, "why": str(refused)})
        except (OSError, ssl.SSLError):  # ConnectionError and TimeoutError are OSErrors
            if self._tls is not None:
                self._counters.add(Slot.INGRESS_TLS_FAILURES, 1)
        finally:
            place.leave()
            if not handed_on:
                connection.close()

    async def _hand_on(self, connection: socket.socket, place: _Place, client: str | None) -> None:
        session = partial(self._session, client)
        if self._tls is None:
            place.leave()  # the session counts itself
            await self._loop.connect_accepted_socket(session, connection)
            return
        until = self._loop.time() + self._limits.handshake_timeout_s
        try:
            await self._readable(connection, until, TimeoutError())  # who says nothing has no TLS engine
            await self._tls.line.turn()
        except BaseException:
            connection.close()
            raise
        shaken = self._loop.create_future()

        def ended(tls: TlsTransport, failure: Exception | None) -> None:
            _settle(shaken, failure)
            if failure is None:
                place.leave()  # the session counts itself
                made = session()
                tls.set_protocol(made)
                made.connection_made(tls)

        left_s = max(LEAST_HANDSHAKE_S, until - self._loop.time())
        tls = TlsTransport(self._tls.context, ended, timeout_s=left_s)
        await self._loop.connect_accepted_socket(lambda: tls, connection)
        await shaken

    # -------------------------------------------------------------- a proxy's header

    async def _client_of(self, connection: socket.socket) -> str | None:
        """The address that the header names; None: the client is whoever is connected."""
        header = ProxyHeader()
        until = self._loop.time() + self._limits.header_timeout_s
        while not header.done:
            try:
                octets = connection.recv(HEADER_OCTETS, socket.MSG_PEEK)
                if not octets:
                    raise _Refused(Slot.INGRESS_PROXY_LOST, "the connection was closed")
                connection.recv(header.feed(octets))
            except (BlockingIOError, InterruptedError):
                late = _Refused(Slot.INGRESS_PROXY_TIMEOUT, "not there in time")
                await self._readable(connection, until, late)
            except OSError as failure:
                raise _Refused(Slot.INGRESS_PROXY_LOST, str(failure)) from failure
            except ValueError as failure:
                slot = Slot.INGRESS_PROXY_TOO_LONG if str(failure) == "too long" else Slot.INGRESS_PROXY_MALFORMED
                raise _Refused(slot, str(failure)) from failure
        self._counters.add(Slot.INGRESS_PROXY_CLIENT if header.known else Slot.INGRESS_PROXY_OWN, 1)
        return (header.source or UNKNOWN_CLIENT) if header.known else None

    async def _readable(self, connection: socket.socket, until: float, late: Exception) -> None:
        """Until there is something to read; `late` is raised when there is nothing in time."""
        ready = self._loop.create_future()
        timer = self._loop.call_at(until, _settle, ready, late)
        self._loop.add_reader(connection, _settle, ready, None)
        try:
            await ready
        finally:
            self._loop.remove_reader(connection)
            timer.cancel()


def _settle(future: asyncio.Future[None], failure: Exception | None) -> None:
    if future.done():
        return
    if failure is None:
        future.set_result(None)
    else:
        future.set_exception(failure)


def _key_of(address: str) -> int:
    """What counts as one client (see client_key)."""
    text = address.partition("%")[0]
    try:
        return client_key(socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text))
    except OSError:
        return client_key(b"")
