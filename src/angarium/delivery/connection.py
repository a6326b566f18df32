"""Open a connection to a next hop: dial, handshake; then its transport is handed to the compiled session.

Input: a Target, whose hosts are tried in the order that angarium.delivery.host_order gives them. Output: an open
ClientSession that has taken the queue's next delivery.

Fails: when no host can be reached, one message, the probe's, is settled with the last host's failure, and the next hop
is left alone for a while that grows with each failure in a row (PROBE_*): one attempt an interval, not one a message.
Everything else that waits for it goes back to its scheduled queue untouched. A refusal for good (a 5yz greeting) is
the answer to all that was ready."""

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import aiosmtplib

from angarium._core.client_session import ClientSession, Phase
from angarium._core.counters import Counters, Slot
from angarium._core.dispatch import Delivery, ReadyQueue
from angarium.clock import Clock
from angarium.delivery.dial import FAMILIES, Dialler, by_name, where_of
from angarium.delivery.egress import Egresses
from angarium.delivery.failure import ConnectFailure
from angarium.delivery.handshake import Handshake
from angarium.delivery.host_order import HostOrder
from angarium.delivery.target import Host, SessionTerms, Target, TlsPolicy
from angarium.delivery.tls import Contexts
from angarium.smtp.extensions import capabilities_of, limit_of, lowest, number

log = logging.getLogger(__name__)

PROBE_FIRST_S = 1.0
PROBE_LONGEST_S = 60.0
PERMANENT = 5  # first digit of a reply that is for good
MOST_GREETED = 4096  # being greeted: hosts may take minutes for it, and must not hold up all others


class Connector:
    """Opens the connections of one worker."""

    def __init__(
        self,
        egresses: Egresses,
        counters: Counters,
        clock: Clock,
        *,
        hostname: str,
        chance: Random,
        settle: Callable[[Delivery], None],
        loopback_only: bool,
        families: Sequence[socket.AddressFamily] = FAMILIES,
    ) -> None:
        """`families` are those of the names that a route gives, the preferred one first."""
        self._egresses = egresses
        self._counters = counters
        self._clock = clock
        self._dialler = Dialler(loopback_only=loopback_only, families=families)
        self._handshake = Handshake(Contexts(), hostname=hostname)
        self.order = HostOrder(clock.monotonic, chance)
        self._settle = settle
        self._tasks: set[asyncio.Task[None]] = set()
        self._greeted = asyncio.Semaphore(MOST_GREETED)

    def connect(self, queue: ReadyQueue) -> None:
        """Begin to open one connection for queue (its `connecting` has been counted)."""
        task = asyncio.get_running_loop().create_task(self._open(queue))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is being opened."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _open(self, queue: ReadyQueue) -> None:
        target: Target = queue.target
        failure = ConnectFailure(
            Phase.PHASE_CONNECT, f"{target.hosts[0].name if target.hosts else 'the next hop'}: no address"
        )
        session: ClientSession | None = None
        try:
            async with self._greeted:
                known = [host for named in self.order.named(target) for host in await self._dialler.addresses_of(named)]
                for left in by_name(self.order.in_order(known, target.tls)):
                    while left and session is None:
                        try:
                            session = await self._open_host(queue, target, left)
                        except ConnectFailure as why:
                            failure = why
                            self._counters.add(Slot.DELIVERY_CONNECTIONS_FAILED, 1)
                    if session is not None:
                        break
        finally:
            queue.connecting -= 1
        if session is None:
            self._fail(queue, failure)
            return
        queue.failures = 0
        queue.blocked_until = 0.0
        queue.reason = None
        self._counters.add(Slot.DELIVERY_CONNECTIONS_OPENED, 1)
        session.start()

    def _fail(self, queue: ReadyQueue, failure: ConnectFailure) -> None:
        if queue.open:
            return  # others are up: they carry what waits
        if self._clock.monotonic() >= queue.blocked_until:  # attempts under way at once count as one
            queue.failures += 1
        text = failure.text.encode("utf-8", "replace")
        for _ in range(queue.backlog if failure.code // 100 == PERMANENT else 1):
            delivery = queue.take()
            if delivery is None:
                break
            delivery.results = [
                (index, failure.code, failure.enhanced, text, failure.phase) for index in delivery.indices()
            ]
            self._settle(delivery)
        rest_s = min(PROBE_FIRST_S * 2.0 ** max(0, queue.failures - 1), PROBE_LONGEST_S)
        queue.dispatcher.events.event(
            "unreachable",
            {
                "next_hop": queue.next_hop.decode("utf-8", "replace"),
                "site": queue.site.decode("utf-8", "replace"),
                "failures": queue.failures,
                "retry_s": rest_s,
                "reply": {"code": failure.code, "enhanced": None, "text": failure.text},
            },
        )
        queue.block(rest_s, text)

    async def _open_host(self, queue: ReadyQueue, target: Target, left: list[Host]) -> ClientSession:
        """A session with one host, at the first of its addresses that answers; those tried are taken out of `left`."""
        addresses = list(left)
        winner: Host | None = None
        for host in addresses:
            self.order.began(host, target.tls)
        try:
            host, connected = await self._dialler.dial(
                left, timeout_s=target.terms.timeouts.connect_s, probe=queue.failures > 0
            )
            session = await self._shake_hands(queue, target, host, connected)
            winner = host
        finally:
            for host in addresses:
                if host is winner:
                    self.order.worked(host, target.tls)
                elif host in left:  # not tried, or overtaken
                    self.order.broke_off(host, target.tls)
                else:
                    self.order.failed(host, target.tls)
        return session

    async def _shake_hands(
        self, queue: ReadyQueue, target: Target, host: Host, connected: socket.socket
    ) -> ClientSession:
        try:
            return await self._set_up(queue, target.terms, host, connected, target.tls)
        except ConnectFailure as failure:
            if failure.phase != Phase.PHASE_TLS or target.tls.level != "opportunistic":
                raise
            # RFC 3207 §4.1: without a policy that forbids it, mail in plaintext is better than none
            log.warning("%s; delivering in plaintext", failure.text)
            _, connected = await self._dialler.dial(
                [host], timeout_s=target.terms.timeouts.connect_s, probe=queue.failures > 0
            )
            return await self._set_up(queue, target.terms, host, connected, replace(target.tls, level="none"))

    async def _set_up(
        self, queue: ReadyQueue, terms: SessionTerms, host: Host, connected: socket.socket, tls: TlsPolicy
    ) -> ClientSession:
        where = where_of(host)
        client = await self._handshake.perform(connected, host, tls, where, terms.timeouts)
        return self._adopt(queue, terms, client, where)

    def _adopt(self, queue: ReadyQueue, terms: SessionTerms, client: aiosmtplib.SMTP, where: str) -> ClientSession:
        """Take the transport away from aiosmtplib: from here on the compiled session reads and writes."""
        transport: Any = client.transport
        if transport is None or transport.is_closing():
            raise ConnectFailure(Phase.PHASE_EHLO, f"{where}: the host closed the connection")
        extensions = client.esmtp_extensions
        session = ClientSession(
            self._egresses.of(terms),
            queue,
            transport,
            where.encode("ascii", "replace"),
            capabilities_of(extensions),
            size_limit=number(extensions.get("size", "")),
            transactions_limit=lowest(terms.messages_per_connection, limit_of(extensions.get("limits", ""), "MAILMAX")),
            recipients_limit=limit_of(extensions.get("limits", ""), "RCPTMAX"),
        )
        transport.set_protocol(session)
        return session
