"""Why the other side of a stream could not be spoken to, in plain words.

Libraries wrap what happened in exceptions of their own, each in its way; what was at fault stands somewhere below
them. Input: what was raised, and whether the relay shows a certificate. Output: a sentence that names the cause: the
certificate, the connection, the name.

It never fails: what it does not know is said as the exception says it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CLOSED", "NO_LOG_IN", "known_cause", "words_of"]

CLOSED = "the other side has closed the connection"
NO_LOG_IN = "the other side asks for a log-in, and the stream has none"
DEEPEST = 10  # exceptions below one another
# what OpenSSL calls an alert of the other side, or a failure of our own (ssl.SSLError.reason) -> what it means
_ASKS = "asks for a client certificate, and this relay shows none (stream.certificate)"
_REFUSES = "does not accept the client certificate of this relay (stream.certificate)"
_TLS = {
    "CERTIFICATE_REQUIRED": _ASKS,
    "HANDSHAKE_FAILURE": "refuses the TLS handshake: it may want a client certificate (stream.certificate)",
    "UNKNOWN_CA": f"{_REFUSES}: it does not know who issued it",
    "BAD_CERTIFICATE": _REFUSES,
    "CERTIFICATE_UNKNOWN": _REFUSES,
    "CERTIFICATE_EXPIRED": f"{_REFUSES}: it has expired",
    "CERTIFICATE_REVOKED": f"{_REFUSES}: it is revoked",
    "UNSUPPORTED_CERTIFICATE": _REFUSES,
    "PROTOCOL_VERSION": "speaks no version of TLS that this relay takes",
    "WRONG_VERSION_NUMBER": "does not speak TLS on this port",
    "RECORD_LAYER_FAILURE": "does not speak TLS on this port",
}


def words_of(failure: BaseException, shows: bool = False) -> str:
    """The cause, or what the exception says of itself."""
    return known_cause(failure, shows) or str(failure) or type(failure).__name__


def known_cause(failure: BaseException, shows: bool = False) -> str:
    """The cause; empty where it is none of those that are known here. `shows`: this relay has a client certificate."""
    found = ""
    for below in _chain(failure):
        found = _words(below, shows) or found  # the deepest is nearest to it
    return found


def _chain(failure: BaseException) -> Iterator[BaseException]:
    below: BaseException | None = failure
    for _ in range(DEEPEST):
        if below is None:
            return
        yield below
        below = below.__cause__ or below.__context__


def _words(failure: BaseException, shows: bool) -> str:
    match failure:
        case ssl.SSLCertVerificationError():
            why = getattr(failure, "verify_message", "")  # aiohttp's has none: it stands in the one below it
            return f"the certificate of the other side is not trusted: {why.rstrip('.')} (stream.ca)" if why else ""
        case ssl.SSLZeroReturnError() | ssl.SSLEOFError():
            return CLOSED
        case ssl.SSLError():
            reason = failure.reason or ""
            known = next((words for name, words in _TLS.items() if reason.endswith(name)), "")
            if known.startswith(_REFUSES) and not shows:  # TLS 1.2 has no other word for it
                known = _ASKS
            return f"the other side {known}" if known else f"TLS fails: {reason or failure}"
        case socket.gaierror():
            return f"the name of the host cannot be resolved: {failure.strerror}"
        case ConnectionRefusedError():
            return "nobody listens there: the connection is refused"
        case ConnectionError() | asyncio.IncompleteReadError():
            return CLOSED
        case TimeoutError():
            return "no answer in time"
        case OSError() if failure.strerror and not failure.filename:
            return failure.strerror
    return ""
