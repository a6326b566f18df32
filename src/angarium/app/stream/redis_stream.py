"""A stream of Redis: XADD of each event, pipelined, with the fields `id`, `event` (its JSON) and `schema`.

Fails: SinkFailure. What Redis has answered is in its memory; whether it outlives Redis is Redis' configuration. Bounds:
one connection. How long the stream grows is the business of who reads it (XTRIM)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.asyncio import Redis
from redis.exceptions import RedisError

from angarium.app.stream.log_in import context_of, password_of
from angarium.app.stream.sink import SinkFailure
from angarium.mail.event_schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from angarium.app.stream.sink import Batch
    from angarium.config.check_stream import Target
    from angarium.config.model import Stream

__all__ = ["RedisStream"]


class RedisStream:
    """One key of one Redis."""

    def __init__(self, stream: Stream, target: Target) -> None:
        self._stream = stream
        self._target = target
        self._client: Redis | None = None

    async def send(self, batch: Batch) -> None:
        """Add them all; SinkFailure when one was not added."""
        try:
            pipeline = self._open().pipeline(transaction=False)
            for item in batch.items:
                pipeline.xadd(self._target.topic, {"id": item.key, "schema": SCHEMA_VERSION, "event": item.line})
            answers = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError, ValueError) as failure:
            await self.close()
            raise SinkFailure(f"redis: {failure or type(failure).__name__}") from failure
        for number, answer in enumerate(answers):
            if isinstance(answer, BaseException):
                raise SinkFailure(f"redis: {answer}", taken=number)

    def _open(self) -> Redis:
        if self._client is None:
            ((host, port),) = self._target.hosts
            if self._target.tls:
                context_of(self._stream.ca)  # says what is wrong with it
            self._client = Redis(
                host=host,
                port=port,
                username=self._stream.user,
                password=password_of(self._stream),
                socket_connect_timeout=self._stream.timeout_s,
                single_connection_client=True,
                ssl=self._target.tls,
                ssl_ca_certs=self._stream.ca,
            )
        return self._client

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()
