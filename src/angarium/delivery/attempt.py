"""Find the way of a message: recipients to routes, routes to ready queues.

Input: a message with its mail data in memory. Output: one delivery per next hop, in its ready queue; where a domain's
answer does not depend on the local part, the dispatcher remembers it, and the next message to that domain never comes
here.

Fails: a domain that has no mail host, or whose look-up failed, settles its recipients with the resolver's reply,
without a connection."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from angarium._core.client_session import Phase
from angarium._core.dispatch import ReadyQueue
from angarium.delivery.mail_host import ResolutionFailure
from angarium.delivery.maildir import deliver
from angarium.delivery.target import Host, Target, TlsPolicy
from angarium.mail.address import ascii_domain, split_mailbox

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from angarium._core.dispatch import Delivery, Dispatcher
    from angarium._core.record import Message
    from angarium.clock import Clock
    from angarium.config.model import Delivery as DeliveryConfig
    from angarium.config.model import Route
    from angarium.delivery.connection import Connector
    from angarium.delivery.lookup_client import LookupClient
    from angarium.delivery.mail_host import MailHosts
    from angarium.delivery.route import RouteTable

log = logging.getLogger(__name__)

MX = b"mx"
SMTP_PORT = 25
MOST_WRITING = 20  # messages that one worker writes into one Maildir at a time
RESOLVE_FIRST_S = 2.0  # a domain whose names cannot be had is asked for again after that, doubling up to
RESOLVE_LONGEST_S = 300.0
TRANSIENT = 4  # first digit of a reply that may change
MOST_SITES = 100_000  # ready queues by MX that are kept; idle ones go first


class Router:
    """The routes of one worker."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        connector: Connector,
        lookup: LookupClient,
        routes: RouteTable,
        config: DeliveryConfig,
        clock: Clock,
        *,
        hostname: str,
        workers: int,
    ) -> None:
        self._dispatcher = dispatcher
        self._connector = connector
        self._lookup = lookup
        self._routes = routes
        self._config = config
        self._clock = clock
        self._hostname = hostname
        self._workers = workers
        self._fixed: dict[str, ReadyQueue] = {}
        self._sites: dict[str, ReadyQueue] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def queues(self) -> list[ReadyQueue]:
        """Every ready queue there is."""
        return [*self._fixed.values(), *self._sites.values()]

    def place(self, message: Message) -> None:
        """Send message on its way."""
        ready: dict[ReadyQueue, list[int]] = {}
        by_mx: dict[str, tuple[list[int], bool]] = {}
        refused: list[tuple[int, str]] = []
        for index in message.unfinished():
            path = message.loaded.recipient(index)[0]
            try:
                local, domain = split_mailbox(path)
                name = ascii_domain(domain).decode("ascii")
            except ValueError as failure:
                refused.append((index, str(failure)))
                continue
            match = self._routes.lookup(local, domain)
            if match.route.next_hop.kind != "mx":
                queue = self._queue_of(match.route)
                if match.by_domain:
                    for form in {domain.lower(), name.encode("ascii")}:  # as clients write it, as it is scheduled
                        self._dispatcher.remember(form, queue)
                ready.setdefault(queue, []).append(index)
            else:
                indices, _ = by_mx.setdefault(name, ([], match.by_domain))
                indices.append(index)
        for queue, indices in ready.items():
            self._dispatcher.send(message, queue, indices)
        for index, why in refused:
            self._refuse(message, [index], "none", 553, (5, 1, 3), why)
        for name, (indices, by_domain) in by_mx.items():
            site = self._site_of(name)
            if site is not None:
                self._dispatcher.send(message, site, indices)
            else:
                self._hold_for_names(message, name, indices, by_domain)

    def apply_suspensions(self) -> None:
        """What is suspended by site or source rests, and what is not any more goes on."""
        for queue in self.queues:
            queue.apply_suspensions()

    # -------------------------------------------------------------- next hops that the configuration names

    def _queue_of(self, route: Route) -> ReadyQueue:
        hop = str(route.next_hop)
        queue = self._fixed.get(hop)
        if queue is None:
            queue = self._fixed[hop] = self._make_queue(route, hop.encode("utf-8"))
        return queue

    def _make_queue(self, route: Route, hop: bytes) -> ReadyQueue:
        kind = route.next_hop.kind
        if kind == "discard":
            return ReadyQueue(self._dispatcher, hop, b"discard", hand_over=self._discard)
        if kind == "maildir":
            folder = Path(route.next_hop.path)
            return ReadyQueue(
                self._dispatcher, hop, hop, hand_over=partial(self._into_maildir, folder), limit=MOST_WRITING
            )
        host, port = route.next_hop.host, route.next_hop.port
        target = Target((Host(host, host, port),), tls=TlsPolicy(self._config.tls))
        limit = self._share(route.connections or self._config.connections_per_host)
        return ReadyQueue(
            self._dispatcher, hop, host.encode("ascii"), target, limit=limit, connect=self._connector.connect
        )

    def _share(self, connections: int) -> int:
        """This worker's part of a limit that holds for the node; at least one, so that all its mail can go."""
        return max(1, connections // self._workers)

    def _discard(self, delivery: Delivery) -> None:
        self._delivered(delivery, b"discarded by configuration")

    def _into_maildir(self, folder: Path, delivery: Delivery) -> None:
        delivery.queue.open += 1
        self._start(self._hand_to_maildir(folder, delivery))

    async def _hand_to_maildir(self, folder: Path, delivery: Delivery) -> None:
        queue = delivery.queue
        try:
            await self._write_maildir(folder, delivery)
        finally:
            queue.open -= 1
        queue.wake()

    async def _write_maildir(self, folder: Path, delivery: Delivery) -> None:
        buffer = delivery.mail_buffer()
        recipients = [buffer.recipient(index)[0] for index in delivery.indices()]
        loop = asyncio.get_running_loop()
        self._dispatcher.mark_in_flight(delivery.message)
        try:
            path = await loop.run_in_executor(
                None, deliver, folder, self._hostname, buffer.reverse_path(), recipients, buffer.mail_data()
            )
        except OSError as failure:
            text = f"cannot write into {folder}: {failure}".encode("utf-8", "replace")
            self._settle_all(delivery, 451, (4, 3, 0), text)
            return
        self._delivered(delivery, f"delivered to {path.name}".encode())

    def _delivered(self, delivery: Delivery, text: bytes) -> None:
        """Handed over without SMTP; a sender who wants to hear of it is told (RFC 3461 §5.2.3)."""
        if delivery.wants_success:
            delivery.results = [(index, 250, (2, 0, 0), text, Phase.PHASE_FINAL) for index in delivery.indices()]
            self._dispatcher.settle(delivery)
        else:
            self._dispatcher.delivered_by_hand(delivery, 250, text)

    # -------------------------------------------------------------- next hops by MX

    def _site_of(self, name: str) -> ReadyQueue | None:
        """The ready queue of a domain whose mail hosts are known and fresh."""
        known = self._dispatcher.by_domain.get(name.encode("ascii"))
        return known if known is not None and known.expires > self._clock.monotonic() else None

    def _hold_for_names(self, message: Message, name: str, indices: list[int], by_domain: bool) -> None:
        # a delivery of its own keeps the message under way until the names are known
        waiting = ReadyQueue(
            self._dispatcher, MX, name.encode("ascii"), hand_over=partial(self._look_up, name, by_domain)
        )
        self._dispatcher.send(message, waiting, indices)

    def _look_up(self, name: str, by_domain: bool, delivery: Delivery) -> None:
        self._start(self._resolve(name, by_domain, delivery))

    async def _resolve(self, name: str, by_domain: bool, delivery: Delivery) -> None:
        try:
            hosts = await self._lookup.mail_hosts(name)
        except ResolutionFailure as failure:
            text = failure.text.encode("utf-8", "replace")
            if failure.code // 100 == TRANSIENT:
                # one look-up per interval, not one per message
                failures = self._dispatcher.failures_of(delivery.message)
                self._dispatcher.leave_alone(
                    delivery.message, min(RESOLVE_FIRST_S * 2.0**failures, RESOLVE_LONGEST_S), text
                )
            self._settle_all(delivery, failure.code, failure.enhanced, text)
            return
        queue = self._site_queue(hosts)
        if by_domain:
            self._dispatcher.remember(name.encode("ascii"), queue)
        self._dispatcher.redirect(delivery, queue)

    def _site_queue(self, hosts: MailHosts) -> ReadyQueue:
        targets = tuple(Host(host.name, address, SMTP_PORT) for host in hosts.hosts for address in host.addresses)
        queue = self._sites.get(hosts.site)
        if queue is None:
            if len(self._sites) >= MOST_SITES:
                self._forget_idle_sites()
            queue = ReadyQueue(
                self._dispatcher,
                MX,
                hosts.site.encode("ascii", "replace"),
                Target(targets, tls=TlsPolicy(self._config.tls)),
                limit=self._share(self._config.connections_per_host),
                connect=self._connector.connect,
            )
            self._sites[hosts.site] = queue
        queue.target.hosts = targets
        queue.expires = hosts.expires
        return queue

    def _forget_idle_sites(self) -> None:
        for site, queue in list(self._sites.items()):
            if not (queue.backlog or queue.attached or queue.loading or queue.open or queue.connecting):
                del self._sites[site]
                queue.expires = 0.0

    # -------------------------------------------------------------- ends without a connection

    def _refuse(
        self, message: Message, indices: list[int], site: str, code: int, enhanced: tuple[int, int, int], text: str
    ) -> None:
        def fail(delivery: Delivery) -> None:
            self._settle_all(delivery, code, enhanced, text.encode("utf-8", "replace"))

        self._dispatcher.send(
            message, ReadyQueue(self._dispatcher, MX, site.encode("ascii", "replace"), hand_over=fail), indices
        )

    def _settle_all(self, delivery: Delivery, code: int, enhanced: tuple[int, int, int], text: bytes) -> None:
        delivery.results = [(index, code, enhanced, text, Phase.PHASE_MAIL) for index in delivery.indices()]
        self._dispatcher.settle(delivery)

    def _start(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up look-ups under way; what waits for them stays queued."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
