"""A subject of NATS, with JetStream: each event is published with `Nats-Msg-Id`, and is taken when it was stored.

A JetStream stream must take the subject. Within its duplicate window it keeps an event that is sent twice once.

Fails: SinkFailure. Bounds: one connection, UNDER_WAY events that wait for their acknowledgement."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from nats.aio.client import Client
from nats.errors import AuthorizationError, MaxPayloadError
from nats.errors import Error as NatsError
from nats.js.errors import APIError, NoStreamResponseError

from angarium.app.stream.cause import CLOSED, NO_LOG_IN, known_cause
from angarium.app.stream.log_in import context_of, has_secret, password_of
from angarium.app.stream.sink import SinkFailure
from angarium.app.stream.tls_probe import reason_of_tls
from angarium.mail.event_schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from nats.js import JetStreamContext

    from angarium.app.stream.sink import Batch, Item
    from angarium.config.check_stream import Target
    from angarium.config.model import Stream

__all__ = ["NatsStream"]

UNDER_WAY = 100
CLOSE_S = 1.0
# how long anything may take is the runner's to say: it is to be first
_LONGER = 2
_LOG_IN = ("authorization violation", "authentication")


class _Client(Client):
    """That begins TLS where TLS is wanted, whatever the server says of itself: who sits in between could take
    `tls_required` out of what it says, and would be told the log-in."""

    def __init__(self, tls: bool) -> None:
        super().__init__()
        self._always_tls = tls

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if self._always_tls and initial_connection:
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)


class NatsStream:
    """One subject."""

    def __init__(self, stream: Stream, target: Target) -> None:
        self._stream = stream
        self._target = target
        self._client: Client | None = None
        self._context: JetStreamContext | None = None
        self._said: Exception | None = None  # by the library beside what it raises

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
                    if isinstance(result, asyncio.CancelledError):  # the library has closed the connection
                        raise ConnectionResetError from self._said
                    if isinstance(result, BaseException):
                        raise result
                    done += 1
        except MaxPayloadError as failure:
            raise SinkFailure(
                "nats: the event is larger than the server takes", taken=done, too_large=True
            ) from failure
        except (NatsError, OSError, TimeoutError, ValueError) as failure:
            said = self._said
            await self.close()
            raise SinkFailure(f"nats: {await self._reason(failure, said)}", taken=done) from failure

    async def _publish(self, jet_stream: JetStreamContext, item: Item) -> None:
        headers = {"Nats-Msg-Id": item.key, "Angarium-Schema": str(SCHEMA_VERSION)}
        timeout_s = self._stream.timeout_s * _LONGER
        await jet_stream.publish(self._target.topic, item.line, headers=headers, timeout=timeout_s)

    async def _open(self) -> JetStreamContext:
        if self._context is None:
            ((host, port),) = self._target.hosts
            stream = self._stream
            more: dict[str, Any] = {}
            if self._target.tls:
                more["tls"] = context_of(stream.ca, stream.certificate, stream.key)
                more["tls_hostname"] = host
            password = password_of(stream)
            if stream.user is not None:
                more |= {"user": stream.user, "password": password}
            elif password is not None:
                more["token"] = password
            self._said = None
            self._client = _Client(self._target.tls)  # known before it is connected, so that it is closed in any case
            await self._client.connect(
                f"nats://{f'[{host}]' if ':' in host else host}:{port}",
                allow_reconnect=False,  # the stream tries again, in its own time
                max_reconnect_attempts=1,  # which holds for the first connection, too
                reconnect_time_wait=0,
                connect_timeout=max(1, int(stream.timeout_s * _LONGER)),
                error_cb=self._hear,
                name="angarium",
                **more,
            )
            self._context = self._client.jetstream()
        return self._context

    async def _hear(self, said: Exception) -> None:
        """The library prints errors when nobody takes them."""
        self._said = said

    async def _reason(self, failure: Exception, said: Exception | None) -> str:
        """What is wrong; who closes a connection by TLS without a word is asked why."""
        words = self._words(failure, said)
        if words == CLOSED and self._target.tls:
            stream = self._stream
            context = context_of(stream.ca, stream.certificate, stream.key)
            ((host, port),) = self._target.hosts
            shows = stream.certificate is not None
            words = await reason_of_tls(host, port, context, shows=shows, greeting=True) or words
        return words

    def _words(self, failure: Exception, said: Exception | None) -> str:
        """What is wrong, of what was raised and what was said beside it."""
        texts = [str(one).removeprefix("nats: ") for one in (failure, said) if one is not None]
        for one, text in zip((failure, said), texts, strict=False):
            if isinstance(one, AuthorizationError) or any(mark in text.lower() for mark in _LOG_IN):
                return f"the log-in is refused: {text}" if has_secret(self._stream) else NO_LOG_IN
            if "permissions violation" in text.lower():
                return f"the log-in has no right to do so: {text}"
        if isinstance(failure, NoStreamResponseError):
            return f"no JetStream stream takes the subject {self._target.topic}"
        if isinstance(failure, APIError):
            return f"JetStream does not store it: {failure.description or failure}"
        cause = known_cause(failure, self._stream.certificate is not None)
        if said is not None:
            cause = known_cause(said, self._stream.certificate is not None) or cause
        return cause or texts[0] or type(failure).__name__

    async def close(self) -> None:
        """Close the connection."""
        client, self._client, self._context = self._client, None, None
        if client is not None:
            with contextlib.suppress(TimeoutError):  # of a connection on which TLS failed it hears the end never
                async with asyncio.timeout(CLOSE_S):
                    await client.close()
