"""A webhook: batches as JSON by POST, signed, to one URL.

    POST /events HTTP/1.1
    webhook-id: 5c0f…-91822.500         the same whenever this batch is sent
    webhook-timestamp: 1764130000       when it was sent this time
    webhook-signature: v1,BASE64        HMAC-SHA256 of "ID.TIMESTAMP.BODY" under the stream's secret
    angarium-schema: 1

    {"stream":"crm","node":"relay.example.org","schema":1,"ids":["5c0f…-412",…],"events":[{…},…]}

Names and signature are those of Standard Webhooks, so its libraries verify them. A secret that begins with `whsec_` is
the Base64 of the key, as there; any other is the key itself. It is read again for each batch.

Taken is what is answered 2xx. 413 asks for half of it; 400, 415 and 422 refuse it for what it is; everything else may
be better later, and `Retry-After` says when. Redirects are not followed.

Fails: SinkFailure. Bounds: one request at a time, one connection, ANSWER_OCTETS of an answer.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ssl
from typing import TYPE_CHECKING

import aiohttp

from angarium import __version__
from angarium.app.stream.sink import SinkFailure
from angarium.config.secret import read_secret
from angarium.mail.event_schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium.app.stream.sink import Batch
    from angarium.config.model import Stream

__all__ = ["Webhook", "key_of", "signature"]

ANSWER_OCTETS = 2048
TEXT_OCTETS = 200
TOO_LARGE = 413
REFUSED = (400, 415, 422)


def key_of(secret: str) -> bytes:
    """The key of a secret; ValueError for a `whsec_` that is no Base64."""
    if secret.startswith("whsec_"):
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    return secret.encode("utf-8")


def signature(key: bytes, identity: str, timestamp: int, body: bytes) -> str:
    """What proves that a body is ours and of that time."""
    signed = f"{identity}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode("ascii")


class Webhook:
    """One URL."""

    def __init__(self, stream: Stream, node: str, now: Callable[[], float]) -> None:
        self._stream = stream
        self._node = node
        self._now = now
        self._session: aiohttp.ClientSession | None = None

    def body(self, batch: Batch) -> bytes:
        """The JSON; events stand there as they do in the log."""
        head = {"stream": self._stream.name, "node": self._node}
        fields = ",".join(f'"{name}":"{value}"' for name, value in head.items())
        keys = ",".join(f'"{item.key}"' for item in batch.items)
        events = b",".join(item.line for item in batch.items)
        return f'{{{fields},"schema":{SCHEMA_VERSION},"ids":[{keys}],"events":['.encode() + events + b"]}"

    async def send(self, batch: Batch) -> None:
        """POST it; SinkFailure unless it is answered 2xx."""
        stream = self._stream
        body = self.body(batch)
        timestamp = int(self._now())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": batch.key,
            "webhook-timestamp": str(timestamp),
            "angarium-schema": str(SCHEMA_VERSION),
        }
        try:
            if stream.secret or stream.secret_file or stream.secret_env:
                key = key_of(read_secret(stream.secret, stream.secret_file, stream.secret_env))
                headers["webhook-signature"] = signature(key, batch.key, timestamp, body)
        except (OSError, ValueError) as failure:
            raise SinkFailure(f"the secret cannot be read: {failure}") from failure
        try:
            async with self._open().post(stream.url, data=body, headers=headers, allow_redirects=False) as answer:
                said = await answer.content.read(ANSWER_OCTETS)
                status = answer.status
                retry_after = answer.headers.get("Retry-After", "")
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            raise SinkFailure(f"cannot be reached: {failure or type(failure).__name__}") from failure
        if 200 <= status < 300:
            return
        text = said.decode("utf-8", "replace")[:TEXT_OCTETS]
        text = "".join(mark if mark.isprintable() else " " for mark in text).strip()
        raise SinkFailure(
            f"HTTP status {status}" + (f": {text}" if text else ""),
            refused=status in REFUSED,
            too_large=status == TOO_LARGE,
            retry_after_s=float(retry_after) if retry_after.isdigit() else 0.0,
        )

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            context = ssl.create_default_context(cafile=self._stream.ca)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=1),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": f"Angarium/{__version__}"},
            )
        return self._session

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()
