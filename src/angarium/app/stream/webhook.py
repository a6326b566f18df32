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

Fails: SinkFailure. Bounds: those of http_receiver.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING

from angarium.app.stream.http_receiver import TOO_LARGE, HttpReceiver
from angarium.app.stream.log_in import has_secret
from angarium.app.stream.sink import SinkFailure
from angarium.config.secret import read_secret
from angarium.mail.event_schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium.app.stream.sink import Batch
    from angarium.config.model import Stream

__all__ = ["Webhook", "key_of", "signature"]

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
        self._receiver = HttpReceiver(stream)

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
            if has_secret(stream):
                key = key_of(read_secret(stream.secret, stream.secret_file, stream.secret_env))
                headers["webhook-signature"] = signature(key, batch.key, timestamp, body)
        except (OSError, ValueError) as failure:
            raise SinkFailure(f"the secret cannot be read: {failure}") from failure
        answer = await self._receiver.post(stream.url, body, headers)
        if answer.taken:
            return
        raise SinkFailure(
            f"HTTP status {answer.status}" + (f": {answer.text}" if answer.text else ""),
            refused=answer.status in REFUSED,
            too_large=answer.status == TOO_LARGE,
            retry_after_s=answer.retry_after_s,
        )

    async def close(self) -> None:
        """Close the connection."""
        await self._receiver.close()
