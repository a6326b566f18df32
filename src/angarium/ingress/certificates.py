"""The relay's own certificates: TLS contexts for the listeners, by the name that a client asks for (SNI, RFC 6066 §3),
and made anew when the files change.

Job: one context for each kind of listener (lowest TLS version, whose client certificates it asks for), with the node's
certificate, and one for each [[certificate]] to which a handshake changes over when the client names one of its names.
The files are looked at every LOOK_S. When they have changed, and have stayed the same for one more look, everything is
read again and takes the place of the old in one step: handshakes from then on use it, sessions do not notice.

Input: the configuration. Output: LiveContext, whose `context` is the one for the next handshake.

Fails: ssl.SSLError, OSError or ValueError at the start, when a file cannot be used. Later such a file changes nothing:
the old certificates stay, which is said in the log and as an event and counted, once for each change of the files; what
is left of a certificate's time is a metric, so that a renewal that fails for long is seen.

Bounds: two looks, one `stat` a file each, from the change to its effect.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import time
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509.oid import NameOID

from angarium._core.counters import Slot
from angarium.ingress.handshake_line import HandshakeLine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from angarium._core.counters import Counters
    from angarium._core.event_log import EventLog
    from angarium.config.model import Config, Listener, TlsVersion

__all__ = ["Certificates", "LiveContext", "names_of"]

log = logging.getLogger(__name__)

LOOK_S = 2.0
VERSIONS: dict[TlsVersion, ssl.TLSVersion] = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
# OpenSSL's default level leaves nothing of TLS 1.0 and 1.1: their signatures are made with SHA-1
OLD_CIPHERS = "DEFAULT:@SECLEVEL=0"


@dataclass(frozen=True)
class Kind:
    """What the contexts of a listener are made for."""

    lowest: TlsVersion
    client_ca: str | None


@dataclass
class LiveContext:
    """The context of the next handshake, and the line in which it waits."""

    context: ssl.SSLContext
    line: HandshakeLine = field(default_factory=HandshakeLine)


Stamp = tuple[tuple[int, int, int] | None, ...]  # of the files: inode, time of change, size; None: not there


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The DNS names that a certificate is for, in lower case; its common name when it has none."""
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = [str(part.value) for part in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    else:
        names = alternatives.get_values_for_type(x509.DNSName)
    return tuple(name.lower() for name in names)


class Certificates:
    """All TLS contexts of a worker's listeners."""

    def __init__(
        self,
        config: Config,
        counters: Counters,
        events: EventLog,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """ssl.SSLError, OSError, ValueError: a file cannot be used. `now`: unix seconds."""
        assert config.tls is not None
        self._config = config
        self._counters = counters
        self._events = events
        self._now = now
        self._pairs = [(config.tls.certificate, config.tls.key)]
        self._pairs += [(one.certificate, one.key) for one in config.certificate]
        self._kinds = {self._kind(listener) for listener in config.listener if listener.tls != "none"}
        self._files = sorted(
            {file for pair in self._pairs for file in pair}
            | {kind.client_ca for kind in self._kinds if kind.client_ca is not None}
        )
        self._read_stamp = self._changed_stamp = self._stamp()
        self._expires = 0.0
        line = HandshakeLine()
        self._live = {kind: LiveContext(context, line) for kind, context in self._make().items()}
        self._timer: asyncio.TimerHandle | None = None

    def of(self, listener: Listener) -> LiveContext:
        """The context for a listener's handshakes."""
        return self._live[self._kind(listener)]

    def _kind(self, listener: Listener) -> Kind:
        assert self._config.tls is not None
        return Kind(listener.tls_minimum or self._config.tls.minimum, listener.client_ca)

    # -------------------------------------------------------------- as the files change

    def watch(self) -> None:
        """Look at the files from now on, as long as the loop runs."""
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look_again)
        self._publish()

    def close(self) -> None:
        """Look at them no longer; the contexts stay as they are."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_again(self) -> None:
        self.watch()
        self.look()

    def look(self) -> None:
        """Look at the files, and read them when they have changed and stay so. `watch` does it."""
        stamp = self._stamp()
        if stamp == self._read_stamp:
            self._changed_stamp = stamp
        elif stamp != self._changed_stamp:
            self._changed_stamp = stamp  # whoever writes them may be at it still
        else:
            self._read_stamp = stamp
            self._read_again()

    def _stamp(self) -> Stamp:
        found: list[tuple[int, int, int] | None] = []
        for file in self._files:
            try:
                status = os.stat(file)
            except OSError:
                found.append(None)
            else:
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
        return tuple(found)

    def _read_again(self) -> None:
        try:
            made = self._make()
        except (OSError, ValueError) as failure:  # SSLError is an OSError
            why = _reason(failure)
            self._counters.add(Slot.INGRESS_CERTIFICATES_REFUSED, 1)
            self._events.event("certificate_refused", {"files": self._files, "why": why})
            log.error("the certificates stay as they were: the files that have changed cannot be used: %s", why)
            return
        for kind, context in made.items():
            self._live[kind].context = context
        self._counters.add(Slot.INGRESS_CERTIFICATES_LOADED, 1)
        self._events.event("certificate_loaded", {"files": self._files, "expires_s": round(self._left_s())})
        log.info("the certificates have been read again; the first of them ends in %d days", self._left_s() // 86400)
        self._publish()

    def _left_s(self) -> float:
        return max(0.0, self._expires - self._now())

    def _publish(self) -> None:
        if self._counters.index == 0:  # gauges are sums over the processes, and all of them read the same files
            self._counters.set(Slot.INGRESS_CERTIFICATE_LEFT, int(self._left_s()))

    # -------------------------------------------------------------- contexts

    def _make(self) -> dict[Kind, ssl.SSLContext]:
        """Everything from the files as they are now, or an exception and nothing."""
        leaves = [_leaf(certificate) for certificate, _ in self._pairs]
        names: dict[str, int] = {}  # number of the pair; the first that has a name wins
        for number, own in enumerate(self._config.certificate, 1):
            for name in own.names or names_of(leaves[number]):
                names.setdefault(name.lower(), number)
        made = {}
        for kind in self._kinds:
            contexts = [_context(kind, certificate, key) for certificate, key in self._pairs]
            if names:
                contexts[0].sni_callback = _chooser({name: contexts[number] for name, number in names.items()})
            made[kind] = contexts[0]
        self._expires = min(leaf.not_valid_after_utc.timestamp() for leaf in leaves)
        return made


def _context(kind: Kind, certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the configuration asks for it, and was warned
        context.minimum_version = VERSIONS[kind.lowest]
    if kind.lowest in ("1.0", "1.1"):
        context.set_ciphers(OLD_CIPHERS)
    context.load_cert_chain(certificate, key)
    if kind.client_ca is not None:
        # who shows none is a client like any other; who shows one that leads nowhere is refused by the handshake
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # the file may hold clients' own certificates
        context.load_verify_locations(cafile=kind.client_ca)
    return context


def _chooser(contexts: Mapping[str, ssl.SSLContext]) -> Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None]:
    """What OpenSSL asks when a client has named a host; a name that is nobody's gets the node's certificate."""

    def choose(ssl_object: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name is None:
            return
        name = name.lower().removesuffix(".")
        found = contexts.get(name) or contexts.get("*." + name.partition(".")[2])
        if found is not None:
            ssl_object.context = found

    return choose


def _leaf(file: str) -> x509.Certificate:
    with open(file, "rb") as opened:
        return x509.load_pem_x509_certificates(opened.read())[0]


def _reason(failure: OSError | ValueError) -> str:
    if isinstance(failure, ssl.SSLError):
        return failure.reason or str(failure)
    return str(failure)
