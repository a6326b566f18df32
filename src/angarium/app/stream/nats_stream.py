"""A subject of NATS, with JetStream: each event is published with `Nats-Msg-Id`, and is taken when it was stored.

A JetStream stream must take the subject. Within its duplicate window it keeps an event that is sent twice once.

Fails: SinkFailure. Bounds: one connection, UNDER_WAY events that wait for their acknowledgement."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import nats
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError

from angarium.app.stream.log_in import context_of, password_of
from angarium.app.stream.sink import SinkFailure
from angarium.mail.event_schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext

    from angarium.app.stream.sink import Batch, Item
    from angarium.config.check_stream import Target
    from angarium.config.model import Stream

__all__ = ["NatsStream"]

UNDER_WAY = 100


class NatsStream:
    """One subject."""

    def __init__(self, stream: Stream, target: Target) -> None:
        self._stream = stream
        self._target = target
        self._client: Client | None = None
        self._context: JetStreamContext | None = None

    async def send(self, batch: Batch) -> None:
        """Publish them all, in parts that are acknowledged; SinkFailure when one was not."""
        done = 0
        try:
            jet_stream = await self._open()
            for begin in range(0, len(batch.items), UNDER_WAY):
                part = batch.items[begin : begin + UNDER_WAY]
                results = await asyncio.gather(
                    *(self._publish(jet_stream, item) for item in part), return_exceptions=True
                )
                for result in results:
                    if isinstance(result, BaseException):
                        raise result
                    done += 1
        except MaxPayloadError as failure:
            raise SinkFailure(
                "nats: the event is larger than the server takes", taken=done, too_large=True
            ) from failure
        except (NatsError, OSError, TimeoutError, ValueError) as failure:
            await self.close()
            raise SinkFailure(f"nats: {failure or type(failure).__name__}", taken=done) from failure

    async def _publish(self, jet_stream: JetStreamContext, item: Item) -> None:
        headers = {"Nats-Msg-Id": item.key, "Angarium-Schema": str(SCHEMA_VERSION)}
        await jet_stream.publish(self._target.topic, item.line, headers=headers, timeout=self._stream.timeout_s)

    async def _open(self) -> JetStreamContext:
        if self._context is None:
            ((host, port),) = self._target.hosts
            more: dict[str, Any] = {}
            if self._target.tls:
                more["tls"] = context_of(self._stream.ca)
            password = password_of(self._stream)
            if self._stream.user is not None:
                more |= {"user": self._stream.user, "password": password}
            elif password is not None:
                more["token"] = password
            self._client = await nats.connect(
                f"nats://{host}:{port}",
                allow_reconnect=False,  # the stream tries again, in its own time
                max_reconnect_attempts=1,  # which holds for the first connection, too
                reconnect_time_wait=0,
                connect_timeout=max(1, int(self._stream.timeout_s)),
                error_cb=_said,
                name="angarium",
                **more,
            )
            self._context = self._client.jetstream()
        return self._context

    async def close(self) -> None:
        """Close the connection."""
        client, self._client, self._context = self._client, None, None
        if client is not None:
            await client.close()


async def _said(_: Exception) -> None:
    """The library prints errors when nobody takes them; each comes out of the call that it belongs to."""
