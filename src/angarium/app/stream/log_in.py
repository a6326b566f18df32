"""What a stream logs in with, and what it trusts; read anew for each connection, so that files may change."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from angarium.app.stream.sink import SinkFailure
from angarium.config.secret import read_secret

if TYPE_CHECKING:
    from angarium.config.model import Stream

__all__ = ["context_of", "password_of"]


def password_of(stream: Stream) -> str | None:
    """The secret; None where there is none. SinkFailure when it cannot be read."""
    if not (stream.secret or stream.secret_file or stream.secret_env):
        return None
    try:
        return read_secret(stream.secret, stream.secret_file, stream.secret_env)
    except (OSError, ValueError) as failure:
        raise SinkFailure(f"the secret cannot be read: {failure}") from failure


def context_of(ca: str | None) -> ssl.SSLContext:
    """TLS that verifies the other side; SinkFailure when the file of authorities cannot be used."""
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as failure:
        raise SinkFailure(f"{ca} cannot be used: {failure}") from failure
