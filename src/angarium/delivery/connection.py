"""Open a connection to a next hop: dial, handshake; then its transport is handed to the compiled session.

Input: a Target, whose hosts are tried in the order that angarium.delivery.host_order gives them. Output: an open
ClientSession that has taken the queue's next delivery.

Fails: when no host can be reached, one message, the probe's, is settled with the last host's failure, and the next hop
is left alone for a while that grows with each failure in a row (PROBE_*): one attempt an interval, not one a message.
Everything else that waits for it goes back to its scheduled queue untouched. A refusal for good (a 5yz greeting) is
the answer to all that was ready; but not one of this relay's own log-in, which is no answer to any message.

A host whose TLS is not what the policy asks for counts as one that cannot be reached; only the opportunistic policy
goes on in plaintext, and for a while without trying again. Mail with REQUIRETLS has failed where every host was reached
and none will do (RFC 8689 §4.2.1).

A host that fails in a session before it has the end of a message (421, a lost connection, a timeout) rests too: the
next hop's other hosts are tried before it, by the same delivery and those that follow (`_trouble`). Only when none is
left that does not rest has the host's reply, or its silence, the last word about the delivery.

A target's source that cannot be bound, or has no address of a host's family, is no failure of the host or of the mail:
`on_source_failure` is told, and finds another source or lets the mail wait."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import aiosmtplib

from angarium._core.client_session import Capability, ClientSession, Phase
from angarium._core.counters import Counters, Slot
from angarium._core.dialogue import Dialogues
from angarium._core.dispatch import Delivery, ReadyQueue
from angarium.clock import Clock
from angarium.delivery.call_line import CallLine
from angarium.delivery.dial import FAMILIES, Dialler, by_name, family_of, is_address, where_of
from angarium.delivery.egress import Egresses
from angarium.delivery.failure import ConnectFailure
from angarium.delivery.handshake import Handshake
from angarium.delivery.host_order import HostOrder
from angarium.delivery.mail_host import MailHosts, ResolutionFailure
from angarium.delivery.opening import RecordedClient
from angarium.delivery.source import Source, SourceFailure
from angarium.delivery.target import NOT_REQUIRED, Host, SessionTerms, Target, TlsPolicy, for_host
from angarium.delivery.tls import Contexts, Reached, reached, refusal_of
from angarium.delivery.tls_policy import as_published
from angarium.delivery.tls_result import TlsOutcome, TlsResults
from angarium.mail.address import ascii_domain, split_mailbox
from angarium.outcome.classify import classify
from angarium.smtp.extensions import capabilities_of, limit_of, lowest, number

log = logging.getLogger(__name__)

PROBE_FIRST_S = 1.0
PROBE_LONGEST_S = 60.0
PERMANENT = 5  # first digit of a reply that is for good
TRANSIENT = 4
MOST_TRANSFERS = 3  # connections that a delivery may use up beside those to its next hop's hosts
MOST_GREETED = 4096  # being greeted: hosts may take minutes for it, and must not hold up all others
ENCRYPTION_NEEDED = (5, 7, 10)
REQUIRETLS_NEEDED = (5, 7, 30)


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
        on_tls_result: Callable[[TlsOutcome], None] | None = None,
        host_addresses: Callable[[str, int], Awaitable[MailHosts]] | None = None,
        order: HostOrder | None = None,
        dialogues: Dialogues | None = None,
    ) -> None:
        """`families` are those of the names that a route gives, the preferred one first. `host_addresses`: who looks a
        name up with its TLSA records, for the policy "dane" (RFC 7672 §2.2.2). `order`: what is known of hosts already.
        `dialogues`: where it is kept how a connection could not be opened.
        """
        self._dialogues = dialogues
        self._host_addresses = host_addresses
        self._egresses = egresses
        self._counters = counters
        self._clock = clock
        self._dialler = Dialler(loopback_only=loopback_only, families=families, took=self._took)
        self._tls = TlsResults(counters, clock, on_tls_result)
        self._hostname = hostname
        self._handshake = Handshake(Contexts(clock.now), hostname=hostname, took=self._took)
        self.order = HostOrder(clock.monotonic, chance) if order is None else order
        self._orders: dict[str, HostOrder] = {}  # a host may do for one source and not for another
        self._chance = chance
        self.on_source_failure: Callable[[ReadyQueue, SourceFailure], None] = self._fail
        self._settle = settle
        self._tasks: set[asyncio.Task[None]] = set()
        self._greeted = asyncio.Semaphore(MOST_GREETED)
        self._failing = CallLine(clock.monotonic)  # each may have a notification composed

    def connect(self, queue: ReadyQueue) -> None:
        """Begin to open one connection for queue (its `connecting` has been counted)."""
        task = asyncio.get_running_loop().create_task(self._open(queue))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def forget_files(self) -> None:
        """Read the certificates and keys of TLS policies again, for the connections that are opened from now on."""
        self._handshake = Handshake(Contexts(self._clock.now), hostname=self._hostname, took=self._took)

    def _took(self, slot: Slot, seconds: float) -> None:
        """A phase of setting up a connection went well, and took so long."""
        self._counters.observe(slot, max(0, int(seconds * 1e6)))

    @property
    def under_way(self) -> int:
        """Connections that are being opened, and deliveries that are about to fail for want of one."""
        return len(self._tasks) + len(self._failing)

    async def close(self) -> None:
        """Give up what is being opened. What has not failed yet stays queued."""
        self._failing.clear()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _open(self, queue: ReadyQueue) -> None:
        target: Target = queue.target
        failure = ConnectFailure(
            Phase.PHASE_CONNECT, f"{target.hosts[0].name if target.hosts else 'the next hop'}: no address"
        )
        failed = False  # a host did
        unsourced: SourceFailure | None = None
        tried: list[ConnectFailure] = []
        unreached: ConnectFailure | None = None  # a host that may yet do what REQUIRETLS asks for
        session: ClientSession | None = None
        queue.trouble = self._trouble
        try:
            domain = _domain_of(queue) if target.by_mx and target.tls.source != NOT_REQUIRED else ""
            async with self._greeted:
                known = await self.in_order(target)
                target.known = tuple(known)
                for left in by_name(known):
                    while left and session is None:
                        try:
                            session = await self._open_host(queue, target, left, domain)
                        except SourceFailure as why:
                            unsourced = why
                            self._counters.add(Slot.DELIVERY_SOURCE_FAILURES, 1)
                        except ConnectFailure as why:
                            failure, failed = why, True
                            tried.append(why)
                            self._counters.add(Slot.DELIVERY_CONNECTIONS_FAILED, 1)
                            self._counters.add(Slot.PROVIDER_UNREACHED + queue.provider, 1)
                            self._counters.add(Slot.SOURCE_UNREACHED + queue.source_row, 1)
                            if why.enhanced not in (ENCRYPTION_NEEDED, REQUIRETLS_NEEDED):
                                unreached = why
                    if session is not None:
                        break
                if target.tls.requiretls and unreached is not None:
                    failure = unreached
        finally:
            queue.connecting -= 1
        if session is None:
            if unsourced is not None and not failed:
                self.on_source_failure(queue, unsourced)
            else:
                self._fail(queue, failure, tried)
            return
        queue.failures = 0
        queue.blocked_until = 0.0
        queue.reason = None
        self._counters.add(Slot.DELIVERY_CONNECTIONS_OPENED, 1)
        self._counters.add(Slot.PROVIDER_OPENED + queue.provider, 1)
        self._counters.add(Slot.SOURCE_OPENED + queue.source_row, 1)
        session.start()

    async def _addresses_of(self, host: Host, target: Target) -> list[Host]:
        """The host at each of its addresses, with its TLSA records where the policy asks for them."""
        if target.by_mx or target.tls.level != "dane" or self._host_addresses is None or is_address(host.address):
            return await self._dialler.addresses_of(host)
        try:
            found = await self._host_addresses(host.address, host.port)
        except ResolutionFailure as failure:
            log.warning("%s: %s", host, failure.text)
            return [host]  # without records: it is not dialled
        return [
            replace(host, address=address, tlsa=each.tlsa, tlsa_base=each.tlsa_base)
            for each in found.hosts
            for address in each.addresses
        ]

    def _trouble(self, queue: ReadyQueue, where: bytes, transfers: int, code: int, text: bytes, phase: int) -> bool:
        """A host failed in a session, a delivery was under way: whether another host is left for it."""
        target: Target = queue.target
        host = next((known for known in target.known if str(known).encode("ascii", "replace") == where), None)
        if host is None or not classify(code, None, text, phase).try_next_host:
            return False
        order = self.order_of(target)
        order.in_trouble(host, target.tls)
        for session in tuple(queue.idle):
            if isinstance(session, ClientSession) and session.host == where:
                session.leave()
        if transfers > len(target.known) + MOST_TRANSFERS or all(
            order.rests_for(known, target.tls) > 0 for known in target.known
        ):
            return False
        self._counters.add(Slot.DELIVERY_NEXT_HOST, 1)
        queue.dispatcher.events.event(
            "next_host",
            {
                "next_hop": queue.next_hop.decode("utf-8", "replace"),
                "site": queue.site.decode("utf-8", "replace"),
                "source": queue.source.decode("ascii"),
                "host": host.name,
                "address": host.address,
                "port": host.port,
                "rest_s": round(order.rests_for(host, target.tls), 3),
                "reply": {"code": code, "enhanced": None, "text": text.decode("utf-8", "replace")},
            },
        )
        return True

    def _fail(self, queue: ReadyQueue, failure: ConnectFailure, tried: Sequence[ConnectFailure] = ()) -> None:
        if queue.open:
            return  # others are up: they carry what waits
        if self._clock.monotonic() >= queue.blocked_until:  # attempts under way at once count as one
            queue.failures += 1
        text = failure.text.encode("utf-8", "replace")
        for_all = failure.code // 100 == PERMANENT and failure.phase != Phase.PHASE_AUTH
        for _ in range(queue.backlog if for_all else 1):
            delivery = queue.take()
            if delivery is None:
                break
            delivery.results = [
                (index, failure.code, failure.enhanced, text, failure.phase) for index in delivery.indices()
            ]
            if self._dialogues is not None:
                self._dialogues.opening(
                    delivery.message.id,
                    sum(why.seconds for why in tried),
                    delivery.message.attempts + 1,
                    queue.next_hop,
                    failure.where.encode("utf-8", "replace"),
                    _said_to(tried),
                    text,
                )
            if for_all:
                self._failing.call_soon(self._settle, delivery)
            else:
                self._settle(delivery)
        rest_s = min(PROBE_FIRST_S * 2.0 ** max(0, queue.failures - 1), PROBE_LONGEST_S)
        queue.dispatcher.events.event(
            "unreachable",
            {
                "next_hop": queue.next_hop.decode("utf-8", "replace"),
                "site": queue.site.decode("utf-8", "replace"),
                "source": queue.source.decode("ascii"),
                "failures": queue.failures,
                "retry_s": rest_s,
                "reply": {"code": failure.code, "enhanced": None, "text": failure.text},
            },
        )
        queue.block(rest_s, text)

    async def _open_host(self, queue: ReadyQueue, target: Target, left: list[Host], domain: str) -> ClientSession:
        """A session with one host, at the first of its addresses that answers; those tried are taken out of `left`.

        `domain` is the one whose mail the connection is opened for, where its TLS is reported to it.
        """
        policy = for_host(target.tls, left[0])
        if domain and not policy.domain:
            policy = replace(policy, domain=domain)
        refusal = refusal_of(policy, left[0], where_of(left[0]))
        if refusal is not None:
            self._tls.failed(policy, left[0], refusal, queue.dispatcher.events)
            left.clear()
            raise _for_good(policy, refusal)
        _leave_out_of_reach(left, target.source)
        order = self.order_of(target)
        addresses = list(left)
        began = self._clock.monotonic()
        winner: Host | None = None
        untried = False
        for host in addresses:
            order.began(host, target.tls)
        try:
            host, connected = await self._dial(queue, left)
            session = await self._shake_hands(queue, target.terms, host, connected, policy)
            winner = host
        except SourceFailure:
            untried = True
            raise
        except ConnectFailure as failure:
            failure.where = failure.where or where_of(host)
            failure.seconds = self._clock.monotonic() - began
            raise
        finally:
            for host in addresses:
                if host is winner:
                    order.worked(host, target.tls)
                elif host in left or untried:  # or overtaken
                    order.broke_off(host, target.tls)
                else:
                    order.failed(host, target.tls)
        return session

    async def _dial(self, queue: ReadyQueue, left: list[Host]) -> tuple[Host, socket.socket]:
        target: Target = queue.target
        return await self._dialler.dial(
            left, timeout_s=target.terms.timeouts.connect_s, probe=queue.failures > 0, source=target.source
        )

    async def _shake_hands(
        self, queue: ReadyQueue, terms: SessionTerms, host: Host, connected: socket.socket, policy: TlsPolicy
    ) -> ClientSession:
        """A session as the policy asks; opportunistic: in plaintext, when the host's TLS is no good."""
        if policy.in_testing:
            session, connected = await self._try_as_published(queue, terms, host, connected, policy)
            if session is not None:
                return session
            policy = replace(policy, domain="", sts=None)  # it has been accounted for
        optional = policy.level == "opportunistic" and not host.implicit_tls
        broken = self._tls.broken(host) if optional else None
        if broken is not None:
            session, _, local = await self._set_up(queue, terms, host, connected, replace(policy, level="none"))
            self._tls.left_in_plaintext(policy, host, broken, local)
            return session
        try:
            session, secured, local = await self._set_up(queue, terms, host, connected, policy)
        except ConnectFailure as failure:
            if failure.tls is None:
                raise
            self._tls.failed(policy, host, failure, queue.dispatcher.events)
            if not optional:
                raise _for_good(policy, failure) from failure
            # RFC 3207 §4.1: without a policy that forbids it, mail in plaintext is better than none
            log.warning("%s; delivering in plaintext", failure.text)
            policy = replace(policy, level="none")
            _, connected = await self._dial(queue, [host])
            session, secured, local = await self._set_up(queue, terms, host, connected, policy)
        self._tls.set_up(policy, host, secured, local)
        return session

    async def _try_as_published(
        self, queue: ReadyQueue, terms: SessionTerms, host: Host, connected: socket.socket, policy: TlsPolicy
    ) -> tuple[ClientSession | None, socket.socket]:
        """The session that an MTA-STS policy in testing asks for; without one it is accounted for why there is none.

        Then the socket is one that is still of use.
        """
        wanted = as_published(policy)
        failure = refusal_of(wanted, host, where_of(host))
        if failure is None:
            try:
                session, secured, local = await self._set_up(queue, terms, host, connected, wanted)
            except ConnectFailure as why:
                if why.tls is None:
                    raise
                failure = why
                _, connected = await self._dial(queue, [host])
            else:
                self._tls.set_up(wanted, host, secured, local)
                return session, connected
        self._tls.failed(wanted, host, failure, queue.dispatcher.events)
        return None, connected

    async def _set_up(
        self, queue: ReadyQueue, terms: SessionTerms, host: Host, connected: socket.socket, tls: TlsPolicy
    ) -> tuple[ClientSession, Reached | None, str]:
        """A session that is ready for mail, its TLS, and this relay's address."""
        where = where_of(host)
        name = connected.getsockname()
        local = str(name[0]) if isinstance(name, tuple) else ""
        target: Target = queue.target
        try:
            client = await self._handshake.perform(
                connected, host, tls, where, terms.timeouts, target.protocol, target.login, _hostname_of(target)
            )
        except ConnectFailure as failure:
            failure.local = local
            raise
        secured = reached(client.transport, tls)
        return self._adopt(queue, terms, client, tls, secured, where), secured, local

    def order_of(self, target: Target) -> HostOrder:
        """What is known of hosts as the target's source sees them."""
        if target.source is None:
            return self.order
        order = self._orders.get(target.source.name)
        if order is None:
            order = self._orders[target.source.name] = HostOrder(self._clock.monotonic, self._chance)
        return order

    async def in_order(self, target: Target, *, look: bool = False) -> list[Host]:
        """The hosts of target at their addresses, in the order in which a connection tries them; look: none does."""
        order = self.order_of(target)
        known = [host for named in order.named(target) for host in await self._addresses_of(named, target)]
        return order.in_order(known, target.tls, look=look)

    async def try_out(self, target: Target, left: list[Host]) -> tuple[Host, aiosmtplib.SMTP]:
        """A connection to one of a host's addresses, ready for mail, for who wants to see it.

        Nothing is counted, reported or remembered. Those tried are taken out of `left`; ConnectFailure: there is none.
        """
        policy = for_host(target.tls, left[0])
        refusal = refusal_of(policy, left[0], where_of(left[0]))
        if refusal is not None:
            left.clear()
            raise refusal
        _leave_out_of_reach(left, target.source)
        timeouts = target.terms.timeouts
        dial = partial(self._dialler.dial, timeout_s=timeouts.connect_s, probe=False, source=target.source)
        host, connected = await dial(left)
        how = (where_of(host), timeouts, target.protocol, target.login, _hostname_of(target))
        try:
            return host, await self._handshake.perform(connected, host, policy, *how)
        except ConnectFailure as failure:
            if failure.tls is None or policy.level != "opportunistic" or host.implicit_tls:
                raise
            plain = replace(policy, level="none")
            _, connected = await dial([host])
            return host, await self._handshake.perform(connected, host, plain, *how)

    def _adopt(
        self,
        queue: ReadyQueue,
        terms: SessionTerms,
        client: RecordedClient,
        tls: TlsPolicy,
        secured: Reached | None,
        where: str,
    ) -> ClientSession:
        """Take the transport away from aiosmtplib: from here on the compiled session reads and writes."""
        transport: Any = client.transport
        if transport is None or transport.is_closing():
            raise ConnectFailure(Phase.PHASE_EHLO, f"{where}: the host closed the connection")
        extensions = client.esmtp_extensions
        capabilities = capabilities_of(extensions)
        if secured is None:
            capabilities &= ~Capability.CAPABILITY_REQUIRETLS  # RFC 8689 §3: it is offered under TLS only
        if tls.requiretls and not capabilities & Capability.CAPABILITY_REQUIRETLS:
            client.close()
            text = f"{where}: the host does not offer REQUIRETLS, and the message asks for it"
            raise ConnectFailure(Phase.PHASE_MAIL, text, 550, REQUIRETLS_NEEDED)
        target: Target = queue.target
        session = ClientSession(
            self._egresses.of(terms),
            queue,
            transport,
            where.encode("ascii", "replace"),
            capabilities,
            size_limit=number(extensions.get("size", "")),
            transactions_limit=lowest(terms.messages_per_connection, limit_of(extensions.get("limits", ""), "MAILMAX")),
            recipients_limit=lowest(target.recipients, limit_of(extensions.get("limits", ""), "RCPTMAX")),
            domains_limit=limit_of(extensions.get("limits", ""), "RCPTDOMAINMAX"),
            lmtp=target.protocol == "lmtp",
            tls=None if secured is None else secured.as_json(),
            opening=client.opening.octets(),
        )
        transport.set_protocol(session)
        return session


def _leave_out_of_reach(left: list[Host], source: Source | None) -> None:
    """Take the addresses out whose family the source has none of; SourceFailure when no other is left."""
    if source is None:
        return
    first = left[0]
    left[:] = [host for host in left if host.is_local or family_of(host) in source.addresses]
    if not left:
        raise SourceFailure(Phase.PHASE_CONNECT, f"{where_of(first)}: {source.without(family_of(first))}")


def _hostname_of(target: Target) -> str | None:
    """What EHLO says; None: the relay's own name."""
    return None if target.source is None else target.source.hostname


def _said_to(tried: Sequence[ConnectFailure]) -> bytes:
    """What was said to one host after the other, and why each was of no use."""
    lines = []
    for why in tried:
        lines.append(f"*: {why.where or 'the next hop'}".encode("utf-8", "replace"))
        if why.opening:
            lines.append(why.opening)
        lines.append(f"*: {' '.join(why.text.split())}".encode("utf-8", "replace"))
    return b"\n".join(lines)


def _domain_of(queue: ReadyQueue) -> str:
    """The domain of what goes next, in A-labels; empty when nothing does."""
    delivery = queue.peek()
    if delivery is None:
        return ""
    _, domain = split_mailbox(delivery.mail_buffer().recipient(delivery.indices()[0])[0])
    return ascii_domain(domain).decode("ascii")


def _for_good(policy: TlsPolicy, failure: ConnectFailure) -> ConnectFailure:
    """With REQUIRETLS there is no waiting for better TLS, unless the host says so itself (RFC 8689 §4.2.1)."""
    if not policy.requiretls or failure.code // 100 == TRANSIENT:
        return failure
    return ConnectFailure(Phase.PHASE_MAIL, failure.text, 550, ENCRYPTION_NEEDED, failure.tls)
