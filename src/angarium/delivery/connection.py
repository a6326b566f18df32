"""Open a connection to a next hop: TCP by us, greeting, EHLO, STARTTLS by aiosmtplib; then its transport is ours.

Each of the three has a timeout of its own (RFC 5321 §4.5.3.2.1): a host may take minutes to greet, while an address
where nothing answers is given up within seconds and the next one is tried.

Input: a Target: hosts in the order in which to try them. Output: an open ClientSession that has taken the queue's next
delivery.

Fails: when no host can be reached, one message, the probe's, is settled with the last host's failure, and the next hop
is left alone for a while that grows with each failure in a row (PROBE_*): one attempt an interval, not one a message.
Everything else that waits for it goes back to its scheduled queue untouched. A refusal for good (a 5yz greeting) is
the answer to all that was ready."""

import asyncio
import ipaddress
import logging
import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiosmtplib

from angarium._core.client_session import ClientSession, Egress, Phase
from angarium._core.counters import Counters, Slot
from angarium._core.dispatch import Delivery, ReadyQueue
from angarium._core.reply import ReplyError, ReplyParser
from angarium.clock import Clock
from angarium.smtp.extensions import capabilities_of, limit_of, lowest, number

log = logging.getLogger(__name__)

PROBE_FIRST_S = 1.0
PROBE_LONGEST_S = 60.0
PERMANENT = 5  # first digit of a reply that is for good
MOST_OPENING = 256  # TCP connections being opened by one worker at a time
MOST_PROBING = 32  # of them to next hops that could not be reached before: they may take long, and others must not wait
MOST_GREETED = 4096  # being greeted: hosts may take minutes for it, and must not hold up all others


@dataclass(frozen=True)
class Host:
    """One mail host at one address."""

    name: str
    address: str
    port: int = 25


@dataclass
class Target:
    """Where the deliveries of a ready queue go."""

    hosts: tuple[Host, ...]
    tls: str = "opportunistic"  # none | opportunistic | require | verify


class ConnectFailure(Exception):
    """A host could not be used. code 0: no reply was seen, or what was seen is none."""

    def __init__(self, phase: int, text: str, code: int = 0, enhanced: tuple[int, int, int] | None = None) -> None:
        super().__init__(text)
        self.phase = phase
        self.text = text
        self.code = code
        self.enhanced = enhanced

    @classmethod
    def of_reply(cls, phase: int, where: str, refusal: aiosmtplib.SMTPResponseException) -> "ConnectFailure":
        """What a host replied: code, enhanced status and text apart, as the compiled session would read it."""
        lines = refusal.message.splitlines() or [""]
        octets = b"".join(
            b"%d%c%s\r\n" % (refusal.code, b" -"[number < len(lines)], line.encode("utf-8", "replace"))
            for number, line in enumerate(lines, 1)
        )
        try:
            ((code, enhanced, text),) = ReplyParser().parse(octets)
        except (ReplyError, ValueError):
            return cls(phase, f"{where}: {refusal.message.strip()}")
        return cls(phase, f"{where}: {text.decode('utf-8', 'replace')}", code, enhanced)


class Connector:
    """Opens the connections of one worker."""

    def __init__(
        self,
        egress: Egress,
        counters: Counters,
        clock: Clock,
        *,
        hostname: str,
        connect_timeout_s: float,
        greeting_timeout_s: float,
        ehlo_timeout_s: float,
        transactions_per_connection: int,
        settle: Callable[[Delivery], None],
        loopback_only: bool,
    ) -> None:
        self._egress = egress
        self._counters = counters
        self._clock = clock
        self._hostname = hostname
        self._connect_timeout_s = connect_timeout_s
        self._greeting_timeout_s = greeting_timeout_s
        self._ehlo_timeout_s = ehlo_timeout_s
        self._transactions = transactions_per_connection
        self._settle = settle
        self._loopback_only = loopback_only
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(MOST_OPENING)
        self._probes = asyncio.Semaphore(MOST_PROBING)
        self._greeted = asyncio.Semaphore(MOST_GREETED)
        self._contexts: dict[bool, ssl.SSLContext] = {}

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
                for host in [known for named in target.hosts for known in await _addresses(named)]:
                    try:
                        session = await self._open_host(queue, target, host)
                        break
                    except ConnectFailure as why:
                        failure = why
                        self._counters.add(Slot.DELIVERY_CONNECTIONS_FAILED, 1)
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

    async def _open_host(self, queue: ReadyQueue, target: Target, host: Host) -> ClientSession:
        where = f"{host.name}[{host.address}]:{host.port}"
        if self._loopback_only and not ipaddress.ip_address(host.address).is_loopback:
            raise ConnectFailure(Phase.PHASE_CONNECT, f"{where}: refused, the sandbox delivers on this machine only")
        try:
            return await self._set_up(queue, host, target.tls, where)
        except ConnectFailure as failure:
            if failure.phase != Phase.PHASE_TLS or target.tls != "opportunistic":
                raise
            # RFC 3207 §4.1: without a policy that forbids it, mail in plaintext is better than none
            log.warning("%s; delivering in plaintext", failure.text)
            return await self._set_up(queue, host, "none", where)

    async def _set_up(self, queue: ReadyQueue, host: Host, tls: str, where: str) -> ClientSession:
        connected = await self._reach(host, where, self._probes if queue.failures else self._slots)
        client = aiosmtplib.SMTP(
            sock=connected,
            local_hostname=self._hostname,
            timeout=self._greeting_timeout_s,
            start_tls=False,
            use_tls=False,
        )
        phase = Phase.PHASE_GREETING
        try:
            await client.connect()
            client.timeout = self._ehlo_timeout_s
            phase = Phase.PHASE_EHLO
            try:
                await client.ehlo()
            except aiosmtplib.SMTPHeloError as refusal:
                if refusal.code < 500:
                    raise  # not now; only a host that does not know EHLO is asked with HELO (RFC 5321 §3.2)
                await client.helo()
            if tls != "none":
                phase = Phase.PHASE_TLS
                await self._secure(client, tls, host)
        except aiosmtplib.SMTPResponseException as refusal:
            client.close()
            raise ConnectFailure.of_reply(phase, where, refusal) from refusal
        except aiosmtplib.SMTPConnectError as failure:
            # it ends before the greeting, or the greeting is none; aiosmtplib would name a socket by "None"
            client.close()
            late = isinstance(failure, aiosmtplib.SMTPConnectTimeoutError)
            what = "timed out waiting for the greeting" if late else f"no greeting: {failure.__cause__ or failure}"
            raise ConnectFailure(phase, f"{where}: {what}") from failure
        except (aiosmtplib.SMTPException, OSError, ssl.SSLError, ValueError) as failure:
            client.close()
            raise ConnectFailure(phase, f"{where}: {failure}") from failure
        except asyncio.CancelledError:
            client.close()
            raise
        return self._adopt(queue, client, where)

    async def _reach(self, host: Host, where: str, slots: asyncio.Semaphore) -> socket.socket:
        """A socket that is connected to the host."""
        family = socket.AF_INET6 if ":" in host.address else socket.AF_INET
        opening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        opening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # uvloop does so for its own sockets only
        try:
            async with slots, asyncio.timeout(self._connect_timeout_s):
                await asyncio.get_running_loop().sock_connect(opening, (host.address, host.port))
        except TimeoutError as failure:
            opening.close()
            raise ConnectFailure(Phase.PHASE_CONNECT, f"{where}: timed out connecting") from failure
        except OSError as failure:
            opening.close()
            why = os.strerror(failure.errno) if failure.errno else str(failure)
            raise ConnectFailure(Phase.PHASE_CONNECT, f"{where}: {why}") from failure
        except asyncio.CancelledError:
            opening.close()
            raise
        return opening

    async def _secure(self, client: aiosmtplib.SMTP, tls: str, host: Host) -> None:
        """STARTTLS as the policy asks."""
        if not client.supports_extension("starttls"):
            if tls in {"require", "verify"}:
                raise aiosmtplib.SMTPException("the host does not offer STARTTLS, and the policy requires it")
            return
        verify = tls == "verify"
        await client.starttls(tls_context=self._context(verify), server_hostname=host.name if verify else None)
        await client.ehlo()

    def _context(self, verify: bool) -> ssl.SSLContext:
        context = self._contexts.get(verify)
        if context is None:
            context = ssl.create_default_context()
            if not verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            self._contexts[verify] = context
        return context

    def _adopt(self, queue: ReadyQueue, client: aiosmtplib.SMTP, where: str) -> ClientSession:
        """Take the transport away from aiosmtplib: from here on the compiled session reads and writes."""
        transport: Any = client.transport
        if transport is None or transport.is_closing():
            raise ConnectFailure(Phase.PHASE_EHLO, f"{where}: the host closed the connection")
        extensions = client.esmtp_extensions
        session = ClientSession(
            self._egress,
            queue,
            transport,
            where.encode("ascii", "replace"),
            capabilities_of(extensions),
            size_limit=number(extensions.get("size", "")),
            transactions_limit=lowest(self._transactions, limit_of(extensions.get("limits", ""), "MAILMAX")),
            recipients_limit=limit_of(extensions.get("limits", ""), "RCPTMAX"),
        )
        transport.set_protocol(session)
        return session


async def _addresses(host: Host) -> list[Host]:
    """The host at each of its addresses;

    a name that the configuration gives is looked up by the system (hosts file, DNS).
    """
    try:
        ipaddress.ip_address(host.address)
    except ValueError:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host.address, host.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):  # the latter for what can be no name
            return []
        return [Host(host.name, str(address[0]), host.port) for *_, address in found]
    return [host]
