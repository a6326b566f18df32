"""Make a connected socket ready for mail: greeting, EHLO, STARTTLS, log-in by aiosmtplib; then its transport is ours.

Greeting and EHLO have timeouts of their own (RFC 5321 §4.5.3.2.1): a host may take minutes for them. LMTP (RFC 2033)
begins with LHLO in the place of EHLO, has no older form, and is the same in all else.

Input: a socket, a Host, the Target's protocol, log-in and TlsPolicy. Output: an aiosmtplib client whose transport has
been through all of it. A Host with implicit TLS is spoken to through TLS from the first octet on (RFC 8314 §3.3).

Fails: ConnectFailure with the phase and the host's reply; the socket is closed then."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import aiosmtplib

from angarium._core.client_session import Phase
from angarium._core.counters import Slot
from angarium.delivery.failure import ConnectFailure
from angarium.delivery.login import log_in
from angarium.delivery.opening import RecordedClient

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from angarium.config.model import Timeouts
    from angarium.delivery.login import Login
    from angarium.delivery.target import Host, Protocol, TlsPolicy
    from angarium.delivery.tls import Contexts

__all__ = ["Handshake"]

COMPLETED = 250


class LmtpClient(RecordedClient):
    """aiosmtplib's client with the greeting of RFC 2033 §4.1."""

    async def ehlo(self, **_: object) -> aiosmtplib.SMTPResponse:
        """LHLO; what it offers is kept as what EHLO does."""
        response = await self.execute_command(b"LHLO", (self.local_hostname or "").encode("ascii"))
        if response.code != COMPLETED:
            raise aiosmtplib.SMTPHeloError(response.code, response.message)
        self.last_ehlo_response = response
        return response

    async def helo(self, **_: object) -> aiosmtplib.SMTPResponse:
        """Never (RFC 2033 §4.1)."""
        raise aiosmtplib.SMTPException("the host does not know LHLO")


class Handshake:
    """Sets up the connections of one worker."""

    def __init__(self, contexts: Contexts, *, hostname: str, took: Callable[[Slot, float], None] | None = None) -> None:
        """took: told how many seconds each phase that went well took."""
        self._took = took
        self._contexts = contexts
        self._hostname = hostname

    async def perform(
        self,
        connected: socket.socket,
        host: Host,
        tls: TlsPolicy,
        where: str,
        timeouts: Timeouts,
        protocol: Protocol = "smtp",
        login: Login | None = None,
        hostname: str | None = None,
    ) -> RecordedClient:
        """All that comes before the first MAIL command; `hostname`: what EHLO says in place of the relay's own name."""
        context, name = self._contexts.prepare(tls, host, where) if host.implicit_tls else (None, None)
        # a Unix socket is handed over like any other: the loop asks for a stream, not for its family
        client = (LmtpClient if protocol == "lmtp" else RecordedClient)(
            hostname=name,
            sock=connected,
            local_hostname=hostname or self._hostname,
            timeout=timeouts.greeting_s,
            start_tls=False,
            use_tls=host.implicit_tls,
            tls_context=context,
        )
        try:
            await self._speak(client, host, tls, where, timeouts, protocol, login)
        except ConnectFailure as failure:
            failure.opening = client.opening.octets()
            raise
        return client

    async def _speak(
        self,
        client: RecordedClient,
        host: Host,
        tls: TlsPolicy,
        where: str,
        timeouts: Timeouts,
        protocol: Protocol,
        login: Login | None,
    ) -> None:
        phase = Phase.PHASE_GREETING
        began = asyncio.get_running_loop().time()
        try:
            await client.connect()
            if host.implicit_tls:
                self._contexts.confirm(client.transport, tls, host, where)
            _in_step(client, phase, where)
            began = self._note(Slot.DELIVERY_ATTEMPT_GREETING, began)
            client.timeout = timeouts.ehlo_s
            phase = Phase.PHASE_EHLO
            try:
                await client.ehlo()
            except aiosmtplib.SMTPHeloError as refusal:
                if refusal.code < 500 or protocol == "lmtp":
                    raise  # not now; only a host that does not know EHLO is asked with HELO (RFC 5321 §3.2)
                await client.helo()
            began = self._note(Slot.DELIVERY_ATTEMPT_EHLO, began)
            if tls.level != "none" and not (host.is_local or host.implicit_tls):
                phase = Phase.PHASE_TLS
                await self._contexts.secure(client, tls, host, where)
                began = self._note(Slot.DELIVERY_ATTEMPT_TLS, began)
            _in_step(client, Phase.PHASE_EHLO, where)
            if login is not None:
                phase = Phase.PHASE_AUTH
                await log_in(client, login, host, where)
                _in_step(client, phase, where)
                self._note(Slot.DELIVERY_ATTEMPT_AUTH, began)
        except ConnectFailure:
            client.close()
            raise
        except aiosmtplib.SMTPResponseException as refusal:
            client.close()
            raise ConnectFailure.of_reply(phase, where, refusal) from refusal
        except aiosmtplib.SMTPConnectError as failure:
            # it ends before the greeting, or the greeting is none; aiosmtplib would name a socket by "None"
            client.close()
            if isinstance(failure.__cause__, ssl.SSLError):
                raise self._contexts.explain(failure.__cause__, tls, where) from failure
            late = isinstance(failure, aiosmtplib.SMTPConnectTimeoutError)
            what = "timed out waiting for the greeting" if late else f"no greeting: {failure.__cause__ or failure}"
            raise ConnectFailure(phase, f"{where}: {what}") from failure
        except (aiosmtplib.SMTPException, OSError, ValueError) as failure:
            client.close()
            raise ConnectFailure(phase, f"{where}: {failure}") from failure
        except asyncio.CancelledError:
            client.close()
            raise

    def _note(self, slot: Slot, began: float) -> float:
        """A phase that began then is over; returns when the next one begins."""
        now = asyncio.get_running_loop().time()
        if self._took is not None:
            self._took(slot, now - began)
        return now


def _in_step(client: aiosmtplib.SMTP, phase: Phase, where: str) -> None:
    """The host has said no more than it was asked, or its next words would be taken for a reply to something else."""
    if client.protocol is not None and client.protocol._buffer:  # what was read behind the last reply
        raise ConnectFailure(phase, f"{where}: the host said more than it was asked")
