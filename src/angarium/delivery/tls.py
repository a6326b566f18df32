"""TLS to a mail host as the policy asks: STARTTLS, the SSL contexts for it, and who the host turns out to be.

Input: an aiosmtplib client behind EHLO, a TlsPolicy as it holds for the host (`for_host`), the Host. Output: the same
client behind STARTTLS and a second EHLO, authenticated as the policy asks; or as it was, when the policy lets mail go
in plaintext and the host offers no TLS. `reached` says afterwards what it is.

The host's name goes along in the handshake (SNI), the TLSA base domain where there are TLSA records (RFC 7672 §8.1).
A name is checked by OpenSSL for `verify`; `dane` and `fingerprint` look at the certificate themselves, behind a
handshake that takes any, and before anything is said over it.

Bounds: a context for each combination of CA file, client certificate and kind of verification in the configuration.

Fails: ConnectFailure with what is wrong (RFC 8460 §4.3), the policy and its source; the connection is of no use
then."""

from __future__ import annotations

import hashlib
import json
import ssl
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import aiosmtplib

from angarium._core.client_session import Phase
from angarium.delivery.dane import public_key_of, verify
from angarium.delivery.failure import ConnectFailure

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium.delivery.target import Host, TlsPolicy
    from angarium.smtp.tls_result import TlsResult

__all__ = ["Contexts", "Reached", "reached", "refusal_of"]

ENCODING_DER = 2  # _ssl.ENCODING_DER, which the module does not export

# OpenSSL's X509_V_ERR_* that mean one thing (x509_vfy.h); all others: the chain leads to nobody who is trusted
_EXPIRED = {9, 10}  # not yet valid, has expired
_MISMATCH = {62, 63, 64}  # host name, mail address, IP address

Authentication = Literal["none", "webpki", "dane", "fingerprint"]
_AUTHENTICATED: dict[str, Authentication] = {"verify": "webpki", "dane": "dane", "fingerprint": "fingerprint"}


@dataclass(frozen=True, slots=True)
class Reached:
    """What a connection has: TLS version and cipher as OpenSSL names them, and how the host was authenticated."""

    version: str
    cipher: str
    authentication: Authentication

    def as_json(self) -> bytes:
        """As the event log has it."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()


class Contexts:
    """The SSL contexts of one worker. Files are read when they are first needed; a reload makes another one."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._contexts: dict[tuple[bool, str, str, str], ssl.SSLContext] = {}

    async def secure(self, client: aiosmtplib.SMTP, policy: TlsPolicy, host: Host, where: str) -> None:
        """STARTTLS as the policy asks."""
        if not client.supports_extension("starttls"):
            if policy.level != "opportunistic":
                raise ConnectFailure.of_tls(
                    where, f"the host does not offer STARTTLS ({policy})", "starttls-not-supported"
                )
            return
        context, name = self.prepare(policy, host, where)
        try:
            await client.starttls(tls_context=context, server_hostname=name)
        except aiosmtplib.SMTPResponseException as refusal:
            failure = ConnectFailure.of_reply(Phase.PHASE_TLS, where, refusal)
            failure.tls = "starttls-not-supported"
            failure.text += f" ({policy})"
            raise failure from refusal
        except (aiosmtplib.SMTPException, OSError, ValueError) as refusal:  # SSLError is an OSError
            raise self.explain(refusal, policy, where) from refusal
        self.confirm(client.transport, policy, host, where)
        await client.ehlo()

    def prepare(self, policy: TlsPolicy, host: Host, where: str) -> tuple[ssl.SSLContext, str]:
        """The context for a handshake with host, and the name that it is asked for."""
        checked = policy.level == "verify"
        wanted = (checked, policy.ca if checked else "", policy.certificate, policy.key)
        context = self._contexts.get(wanted)
        if context is None:
            try:
                context = self._contexts[wanted] = _make_context(*wanted)
            except (OSError, ValueError) as failure:  # the files went bad since the configuration was read
                text = f"TLS cannot be set up with the files of its policy: {failure} ({policy})"
                raise ConnectFailure.of_tls(where, text, "validation-failure") from failure
        return context, policy.name or host.tlsa_base or host.name

    def explain(self, failure: Exception, policy: TlsPolicy, where: str) -> ConnectFailure:
        """What came of a handshake that did not end well."""
        if not isinstance(failure, ssl.SSLCertVerificationError):
            what = failure.reason if isinstance(failure, ssl.SSLError) and failure.reason else str(failure)
            text = f"the TLS handshake failed: {what or type(failure).__name__} ({policy})"
            return ConnectFailure.of_tls(where, text, "validation-failure")
        result: TlsResult = "certificate-not-trusted"
        if failure.verify_code in _EXPIRED:
            result = "certificate-expired"
        elif failure.verify_code in _MISMATCH:
            result = "certificate-host-mismatch"
        return ConnectFailure.of_tls(where, f"{failure.verify_message.rstrip('.')} ({policy})", result)

    def confirm(self, transport: Any, policy: TlsPolicy, host: Host, where: str) -> None:
        """Behind the handshake: the certificate is one that the policy asks for."""
        if policy.level == "dane":
            # not the recipient's domain (RFC 7672 §3.2.2): the connection is for all domains that the host serves
            names = (policy.name,) if policy.name else (host.tlsa_base or host.name,)
            verdict = verify(_chain(transport), host.tlsa or (), names, self._now())
            if verdict.record is None:
                result = verdict.result or "tlsa-invalid"
                raise ConnectFailure.of_tls(where, f"{verdict.text} ({policy})", result)
        elif policy.level == "fingerprint":
            chain = _chain(transport)
            certificate = chain[0] if chain else b""
            known = {hashlib.sha256(certificate).digest(), hashlib.sha256(public_key_of(certificate) or b"").digest()}
            if not certificate or known.isdisjoint(policy.fingerprints):
                text = f"its certificate is none of those listed: {hashlib.sha256(certificate).hexdigest()} ({policy})"
                raise ConnectFailure.of_tls(where, text, "validation-failure")


def refusal_of(policy: TlsPolicy, host: Host, where: str) -> ConnectFailure | None:
    """Why a host is not even dialled under this policy (as `for_host` has it); None: it may be."""
    if not policy.allows(host.name):
        return ConnectFailure.of_tls(
            where, f"the host is none that its domain's policy names ({policy})", "validation-failure"
        )
    if policy.level == "dane" and host.tlsa is None:
        text = f"the host has no TLSA records that DNSSEC vouches for ({policy})"
        return ConnectFailure.of_tls(where, text, "dane-required")
    return None


def reached(transport: Any, policy: TlsPolicy) -> Reached | None:
    """What a connection has that was set up under the policy; None: plaintext."""
    secured = transport.get_extra_info("ssl_object")
    if secured is None:
        return None
    cipher = secured.cipher()
    return Reached(secured.version() or "", cipher[0] if cipher else "", _AUTHENTICATED.get(policy.level, "none"))


def _make_context(checked: bool, ca: str, certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not checked:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        # old hosts know no better cipher, and the alternative is plaintext (RFC 7435 §3)
        context.set_ciphers("DEFAULT:!aNULL:!eNULL:@SECLEVEL=1")
    if certificate:
        context.load_cert_chain(certificate, key or None, password=lambda: b"")
    return context


def _chain(transport: Any) -> list[bytes]:
    """The certificates as the host sent them, its own first."""
    secured = transport.get_extra_info("ssl_object")
    if secured is None:
        return []
    if hasattr(secured, "get_unverified_chain"):  # Python 3.13
        return list(secured.get_unverified_chain())
    return [certificate.public_bytes(ENCODING_DER) for certificate in secured._sslobj.get_unverified_chain() or ()]
