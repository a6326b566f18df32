"""Make a connected socket ready for mail: greeting, EHLO and STARTTLS by aiosmtplib; then its transport is ours.

Greeting and EHLO have timeouts of their own (RFC 5321 §4.5.3.2.1): a host may take minutes for them.

Input: a socket, a Host, a TlsPolicy. Output: an aiosmtplib client whose transport has been through all of it.

Fails: ConnectFailure with the phase and the host's reply; the socket is closed then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiosmtplib

from angarium._core.client_session import Phase
from angarium.delivery.failure import ConnectFailure

if TYPE_CHECKING:
    import socket

    from angarium.config.model import Timeouts
    from angarium.delivery.target import Host, TlsPolicy
    from angarium.delivery.tls import Contexts

__all__ = ["Handshake"]


class Handshake:
    """Sets up the connections of one worker."""

    def __init__(self, contexts: Contexts, *, hostname: str) -> None:
        self._contexts = contexts
        self._hostname = hostname

    async def perform(
        self, connected: socket.socket, host: Host, tls: TlsPolicy, where: str, timeouts: Timeouts
    ) -> aiosmtplib.SMTP:
        """All that comes before the first MAIL command."""
        client = aiosmtplib.SMTP(
            sock=connected,
            local_hostname=self._hostname,
            timeout=timeouts.greeting_s,
            start_tls=False,
            use_tls=False,
        )
        phase = Phase.PHASE_GREETING
        try:
            await client.connect()
            client.timeout = timeouts.ehlo_s
            phase = Phase.PHASE_EHLO
            try:
                await client.ehlo()
            except aiosmtplib.SMTPHeloError as refusal:
                if refusal.code < 500:
                    raise  # not now; only a host that does not know EHLO is asked with HELO (RFC 5321 §3.2)
                await client.helo()
            if tls.level != "none":
                phase = Phase.PHASE_TLS
                await self._contexts.secure(client, tls, host, where)
        except ConnectFailure:
            client.close()
            raise
        except aiosmtplib.SMTPResponseException as refusal:
            client.close()
            raise ConnectFailure.of_reply(phase, where, refusal) from refusal
        except aiosmtplib.SMTPConnectError as failure:
            # it ends before the greeting, or the greeting is none; aiosmtplib would name a socket by "None"
            client.close()
            late = isinstance(failure, aiosmtplib.SMTPConnectTimeoutError)
            what = "timed out waiting for the greeting" if late else f"no greeting: {failure.__cause__ or failure}"
            raise ConnectFailure(phase, f"{where}: {what}") from failure
        except (aiosmtplib.SMTPException, OSError, ValueError) as failure:
            client.close()
            raise ConnectFailure(phase, f"{where}: {failure}") from failure
        except asyncio.CancelledError:
            client.close()
            raise
        return client
