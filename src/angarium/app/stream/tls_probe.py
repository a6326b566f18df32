"""Why the other side breaks TLS off, asked for on a connection of its own.

With TLS 1.3 a client has done with the handshake before the server has looked at its certificate. What it writes then
may meet a connection that is closed already, and its reset throws away the alert that said why. So who was cut off asks
once more, says nothing, and listens.

Input: where, the TLS, and whether TLS begins behind a greeting line (NATS). Output: the cause, or nothing: it does not
say. It never fails. Bounds: PATIENCE_S; GREETING_OCTETS."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from angarium.app.stream.cause import CLOSED, known_cause

if TYPE_CHECKING:
    import ssl

__all__ = ["reason_of_tls"]

PATIENCE_S = 5.0
GREETING_OCTETS = 65536


async def reason_of_tls(host: str, port: int, context: ssl.SSLContext, *, shows: bool, greeting: bool = False) -> str:
    """What it says. `shows`: this relay has a client certificate."""
    writer = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            if greeting:
                reader, writer = await asyncio.open_connection(host, port, limit=GREETING_OCTETS)
                await reader.readline()
                await writer.start_tls(context, server_hostname=host)
            else:
                reader, writer = await asyncio.open_connection(host, port, ssl=context)
            await reader.read(1)
    except (OSError, ValueError) as failure:  # a time-out is one
        said = known_cause(failure, shows)
        return "" if said == CLOSED or isinstance(failure, TimeoutError) else said
    finally:
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.transport.abort()  # the other side has said all that it will
    return ""
