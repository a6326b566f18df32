"""Ask the mailbox host whether it takes mail for an address, before this relay does: a session up to RCPT, and no mail.

Input: a Connector, a Target (LMTP or SMTP, TCP or a Unix socket), an address. Output: a Finding. The probe has the null
reverse-path (RFC 5321 §4.5.5: it must never be answered by mail), and what it says is what a delivery would say. A
session is used for several questions, one after the other, with RSET in between; it is closed after PROBES of them,
after REFUSALS (hosts slow down or throw out who is refused often), and after IDLE_S without any.

    the host says to RCPT                       the finding
    2yz                                         known
    5yz                                         unknown; `firm` if it is about the address or mailbox (5.1.z, 5.2.z)
    500 to 504, 530, 555                        failed: it is about the command, or about this relay
    4yz, or anything that is no such reply      failed
    nothing, or no to the greeting, EHLO, MAIL  failed, and `down`: it would be the same for every address

Fails: never; what went wrong is in the Finding. Bounds: `connections` at a time, `timeout_s` for each question, waiting
for a connection included.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import aiosmtplib

from angarium.config.model import Timeouts
from angarium.delivery.connection import Connector
from angarium.delivery.dial import by_name, families_of
from angarium.delivery.egress import Egresses
from angarium.delivery.failure import ConnectFailure
from angarium.delivery.target import Host, SessionTerms, Target, TlsPolicy
from angarium.mail.address import with_ascii_domain

if TYPE_CHECKING:
    from random import Random

    from angarium._core.counters import Counters
    from angarium._core.dispatch import Delivery
    from angarium.clock import Clock
    from angarium.config.model import Config, Verification
    from angarium.config.next_hop import NextHop

__all__ = ["CallAhead", "Finding", "Result", "connector_for"]

Result = Literal["known", "unknown", "failed"]

PROBES = 100  # of one session
REFUSALS = 5
IDLE_S = 5.0
LONGEST_TEXT = 300
COMPLETED = 2  # first digit of a reply
UNAVAILABLE = 421
NOT_INTERNATIONALISED = "550 5.6.7 the host takes no internationalised addresses"
ABOUT_THE_COMMAND = {500, 501, 502, 503, 504, 530, 555}


@dataclass(frozen=True, slots=True)
class Finding:
    """What the mailbox host says of an address. `reply`: its words, or why there are none."""

    result: Result
    reply: str
    firm: bool = True
    down: bool = False


class _Down(Exception):
    """The host is of no use now, whoever is asked about."""


@dataclass(slots=True)
class _Session:
    client: aiosmtplib.SMTP
    probes: int = 0
    refusals: int = 0
    timer: asyncio.TimerHandle | None = None


class CallAhead:
    """The sessions with one mailbox host."""

    def __init__(self, connector: Connector, target: Target, *, connections: int, timeout_s: float) -> None:
        self._connector = connector
        self._target = target
        self._timeout_s = timeout_s
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[_Session] = []
        self.opened = 0  # sessions

    @classmethod
    def of_next_hop(cls, config: Config, connector: Connector, hop: NextHop, how: Verification) -> CallAhead:
        """As the configuration says; TLS to the host is that of `delivery.tls`."""
        patience = Timeouts(connect_s=how.timeout_s, greeting_s=how.timeout_s, ehlo_s=how.timeout_s)
        level = config.delivery.tls
        if hop.kind == "smtps" and level in {"none", "opportunistic"}:
            level = "require"
        if hop.path:  # a Unix socket: who is behind it is on this machine
            host = Host(config.node.hostname, hop.path, 0)
        else:
            host = Host(hop.host, hop.host, hop.port, implicit_tls=hop.kind == "smtps")
        target = Target(
            (host,),
            tls=TlsPolicy(level),
            protocol="lmtp" if hop.kind.startswith("lmtp") else "smtp",
            terms=SessionTerms(timeouts=patience),
        )
        return cls(connector, target, connections=how.connections, timeout_s=how.timeout_s)

    async def ask(self, mailbox: str) -> Finding:
        """What the host says of a mailbox now."""
        try:
            async with asyncio.timeout(self._timeout_s), self._slots:
                return await self._ask(mailbox)
        except TimeoutError:
            return Finding("failed", f"no answer within {self._timeout_s:g} s", down=True)
        except _Down as failure:
            return Finding("failed", str(failure), down=True)

    def close(self) -> None:
        """Leave the host alone."""
        while self._idle:
            _end(self._idle.pop())

    async def _ask(self, mailbox: str) -> Finding:
        while self._idle:
            session = self._idle.pop()
            if session.timer is not None:
                session.timer.cancel()
            finding = await self._probe(session, mailbox)
            if finding is not None:
                return finding  # else it had been closed meanwhile
        finding = await self._probe(await self._open(), mailbox)
        if finding is None:
            raise _Down("the mailbox host ended the session")
        return finding

    async def _open(self) -> _Session:
        failure = "no host has an address"
        for left in by_name(await self._connector.in_order(self._target, look=True)):
            while left:
                try:
                    _, client = await self._connector.try_out(self._target, left)
                except ConnectFailure as why:
                    failure = f"{why.code} {why.text}" if why.code else why.text
                else:
                    self.opened += 1
                    return _Session(client)
        raise _Down(failure)

    async def _probe(self, session: _Session, mailbox: str) -> Finding | None:
        """None: the session had ended, before or while it was used."""
        client = session.client
        whole = False
        try:
            options = ""
            if not mailbox.isascii():
                if client.supports_extension("smtputf8"):
                    options = " SMTPUTF8"
                else:
                    mailbox = with_ascii_domain(mailbox.encode()).decode()
                    if not mailbox.isascii():
                        whole = True
                        return Finding("unknown", NOT_INTERNATIONALISED)
            said = await client.execute_command(f"MAIL FROM:<>{options}".encode())
            if said.code // 100 != COMPLETED:
                raise _Down(f"the mailbox host does not take the null reverse-path: {_text(said)}")
            session.probes += 1
            said = await client.execute_command(f"RCPT TO:<{mailbox}>".encode())
            if said.code == UNAVAILABLE:
                raise _Down(_text(said))
            finding = _finding(said.code, _text(said))
            session.refusals += finding.result != "known"
            whole = await _reset(client)
        except aiosmtplib.SMTPServerDisconnected:
            return None
        except (aiosmtplib.SMTPException, OSError, ValueError) as failure:
            raise _Down(str(failure)[:LONGEST_TEXT]) from None
        finally:
            if whole and session.probes < PROBES and session.refusals < REFUSALS:
                self._keep(session)
            else:
                _end(session)
        return finding

    def _keep(self, session: _Session) -> None:
        self._idle.append(session)
        session.timer = asyncio.get_running_loop().call_later(IDLE_S, self._let_go, session)

    def _let_go(self, session: _Session) -> None:
        self._idle.remove(session)
        _end(session)


async def _reset(client: aiosmtplib.SMTP) -> bool:
    """Whether the session can be used again."""
    try:
        return (await client.execute_command(b"RSET")).code // 100 == COMPLETED
    except (aiosmtplib.SMTPException, OSError):
        return False


def _end(session: _Session) -> None:
    if session.timer is not None:
        session.timer.cancel()
    transport = cast("asyncio.Transport | None", session.client.transport)
    if transport is not None and not transport.is_closing():
        transport.write(b"QUIT\r\n")
    session.client.close()


def _finding(code: int, text: str) -> Finding:
    """What a reply to RCPT says of the address."""
    if code // 100 == COMPLETED:
        return Finding("known", text)
    if code // 100 != 5 or code in ABOUT_THE_COMMAND:
        return Finding("failed", text)
    status = text.split(" ")[1] if " " in text else ""
    about_another = status.startswith("5.") and not status.startswith(("5.1.", "5.2."))
    return Finding("unknown", text, firm=not about_another)


def _text(reply: aiosmtplib.SMTPResponse) -> str:
    return f"{reply.code} {' '.join(reply.message.split())}"[:LONGEST_TEXT]


def connector_for(config: Config, counters: Counters, clock: Clock, chance: Random) -> Connector:
    """Who opens the connections of questions; it never has mail."""
    return Connector(
        Egresses(counters, config.delivery),
        counters,
        clock,
        hostname=config.node.hostname,
        chance=chance,
        settle=_no_mail,
        loopback_only=config.sandbox,
        families=families_of(config.delivery.address_family),
    )


def _no_mail(_: Delivery) -> None:
    raise AssertionError("a question has no mail")
