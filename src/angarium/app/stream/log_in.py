"""What a stream logs in with, shows and trusts; read anew for each connection, so that files may change.

`discreet` is the last guard in front of a status, a log line or an event: whatever a library or the other side has put
into a text, what the configuration keeps secret is not in it."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from angarium.app.stream.sink import SinkFailure
from angarium.config.secret import read_secret

if TYPE_CHECKING:
    from angarium.config.model import Stream

__all__ = ["context_of", "discreet", "has_secret", "password_of"]

HIDDEN = "***"
SHORTEST_SECRET = 4


def has_secret(stream: Stream) -> bool:
    """Whether it is given one."""
    return bool(stream.secret or stream.secret_file or stream.secret_env)


def password_of(stream: Stream) -> str | None:
    """The secret; None where there is none. SinkFailure when it cannot be read."""
    if not has_secret(stream):
        return None
    try:
        return read_secret(stream.secret, stream.secret_file, stream.secret_env)
    except (OSError, ValueError) as failure:
        raise SinkFailure(f"the secret cannot be read: {failure}") from failure


def context_of(ca: str | None, certificate: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """TLS that verifies the other side, and shows it a certificate where there is one; SinkFailure when a file cannot
    be used."""
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as failure:
        raise SinkFailure(f"stream.ca, {ca}, cannot be used: {failure}") from failure
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, key, password=lambda: b"")  # no pass phrase is asked for
        except (OSError, ValueError) as failure:
            raise SinkFailure(f"stream.certificate, {certificate}, cannot be used: {failure}") from failure
    return context


def discreet(text: str, stream: Stream) -> str:
    """The text without the secret, and without what stands in the query of the URL. What is shorter than
    SHORTEST_SECRET is left: it would take whole words apart."""
    query = urlsplit(stream.url).query
    hidden = {query, unquote(query)}
    for pair in query.split("&"):
        value = pair.partition("=")[2]
        hidden |= {value, unquote(value)}
    with contextlib.suppress(SinkFailure):
        hidden.add(password_of(stream) or "")
    for secret in sorted(hidden, key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, HIDDEN)
    return text
