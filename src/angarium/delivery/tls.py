"""TLS to a mail host as the policy asks, and the SSL contexts for it.

Input: an aiosmtplib client behind EHLO, a TlsPolicy, the Host. Output: the same client behind STARTTLS and a second
EHLO, or as it was when the policy lets mail go in plaintext and the host offers no TLS.

Fails: aiosmtplib.SMTPException, ssl.SSLError or OSError; the connection is of no use then."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import aiosmtplib

if TYPE_CHECKING:
    from angarium.delivery.target import Host, TlsPolicy

__all__ = ["Contexts"]


class Contexts:
    """The SSL contexts of one worker, one for each kind of verification."""

    def __init__(self) -> None:
        self._contexts: dict[bool, ssl.SSLContext] = {}

    async def secure(self, client: aiosmtplib.SMTP, policy: TlsPolicy, host: Host) -> None:
        """STARTTLS as the policy asks."""
        if not client.supports_extension("starttls"):
            if policy.level in {"require", "verify"}:
                raise aiosmtplib.SMTPException("the host does not offer STARTTLS, and the policy requires it")
            return
        verify = policy.level == "verify"
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
