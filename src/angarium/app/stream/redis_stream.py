"""A stream of Redis: XADD of each event with the fields `id`, `event` (its JSON) and `schema`; a batch is one
transaction (MULTI … EXEC), so all of it is there or nothing, in its order.

Fails: SinkFailure. What Redis has answered is in its memory; whether it outlives Redis is Redis' configuration. Bounds:
one connection. How long the stream grows is the business of who reads it (XTRIM)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, OutOfMemoryError, RedisError

from angarium.app.stream.cause import CLOSED, NO_LOG_IN, known_cause
from angarium.app.stream.log_in import context_of, has_secret, password_of
from angarium.app.stream.sink import SinkFailure
from angarium.app.stream.tls_probe import reason_of_tls
from angarium.mail.event_schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from angarium.app.stream.sink import Batch
    from angarium.config.check_stream import Target
    from angarium.config.model import Stream

__all__ = ["RedisStream"]

_IN_A_PIPELINE = " of pipeline caused error: "  # what the library puts, with the whole command, before an error


class RedisStream:
    """One key of one Redis."""

    def __init__(self, stream: Stream, target: Target) -> None:
        self._stream = stream
        self._target = target
        self._client: Redis | None = None

    async def send(self, batch: Batch) -> None:
        """Add them all; SinkFailure when they were not added."""
        try:
            pipeline = self._open().pipeline(transaction=True)
            for item in batch.items:
                pipeline.xadd(self._target.topic, {"id": item.key, "schema": SCHEMA_VERSION, "event": item.line})
            answers = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError, ValueError) as failure:
            await self.close()
            raise SinkFailure(f"redis: {await self._reason(failure)}") from failure
        for number, answer in enumerate(answers):
            if isinstance(answer, BaseException):
                raise SinkFailure(f"redis: {self._words(answer)}", taken=number)

    @property
    def _shows(self) -> bool:
        return self._stream.certificate is not None

    async def _reason(self, failure: Exception) -> str:
        """What is wrong; who closes a connection by TLS without a word is asked why."""
        words = self._words(failure)
        if words == CLOSED and self._target.tls:
            stream = self._stream
            context = context_of(stream.ca, stream.certificate, stream.key)
            ((host, port),) = self._target.hosts
            words = await reason_of_tls(host, port, context, shows=self._shows) or words
        return words

    def _words(self, failure: BaseException) -> str:
        """An error of a command is told without the command, which has the event in it."""
        said = str(failure.args[0]) if failure.args else type(failure).__name__
        before, told, behind = said.partition(_IN_A_PIPELINE)
        said = behind.strip("()',\"") if told else before
        if isinstance(failure, AuthenticationError | AuthorizationError) or said.startswith(("NOAUTH", "WRONGPASS")):
            return f"the log-in is refused: {said}" if has_secret(self._stream) else NO_LOG_IN
        if isinstance(failure, NoPermissionError) or said.startswith("NOPERM"):
            return f"the log-in has no right to XADD, MULTI and EXEC there: {said}"
        if isinstance(failure, OutOfMemoryError):
            return f"it is out of memory: {said}"
        return known_cause(failure, self._shows) or said

    def _open(self) -> Redis:
        if self._client is None:
            ((host, port),) = self._target.hosts
            stream = self._stream
            if self._target.tls:
                context_of(stream.ca, stream.certificate, stream.key)  # says what is wrong with the files
            self._client = Redis(
                host=host,
                port=port,
                username=stream.user,
                password=password_of(stream),
                socket_timeout=None,  # how long it may take is the runner's to say, and so is trying again
                socket_connect_timeout=None,
                retry=Retry(NoBackoff(), 0),
                single_connection_client=True,
                ssl=self._target.tls,
                ssl_cert_reqs="required",
                ssl_check_hostname=True,
                ssl_ca_certs=stream.ca,
                ssl_certfile=stream.certificate,
                ssl_keyfile=stream.key,
            )
        return self._client

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()
