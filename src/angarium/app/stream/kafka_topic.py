"""A topic of Kafka: each event is a record, acknowledged by all replicas in sync, with the queue id as its key, so that
the events of one message stay in their order; headers `id` and `schema`.

Fails: SinkFailure. aiokafka keeps to itself why no broker would have it; then each is asked once more, for the reason.
Bounds: what aiokafka holds of one batch. The log-in is SASL by `stream.mechanism`."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Any

import msgspec
from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka.conn import create_conn  # type: ignore[import-untyped]
from aiokafka.errors import (  # type: ignore[import-untyped]
    AuthenticationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    LeaderNotAvailableError,
    MessageSizeTooLargeError,
    NotEnoughReplicasAfterAppendError,
    NotEnoughReplicasError,
    NotLeaderForPartitionError,
    RequestTimedOutError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
)

from angarium.app.stream.cause import CLOSED, known_cause
from angarium.app.stream.log_in import context_of, password_of
from angarium.app.stream.sink import SinkFailure
from angarium.app.stream.tls_probe import reason_of_tls
from angarium.mail.event_schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from angarium.app.stream.sink import Batch
    from angarium.config.check_stream import Target
    from angarium.config.model import Stream

__all__ = ["KafkaTopic"]

LARGEST_RECORD_OCTETS = 8 << 20
_NUMBER = re.compile(r"^\[Error \d+\] \w+: ")

logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what goes wrong is told by the stream's status


class _Probe(msgspec.Struct):
    id: str = ""


class KafkaTopic:
    """One topic."""

    def __init__(self, stream: Stream, target: Target) -> None:
        self._stream = stream
        self._target = target
        self._producer: AIOKafkaProducer | None = None
        self._decoder = msgspec.json.Decoder(_Probe)

    async def send(self, batch: Batch) -> None:
        """Send them all; SinkFailure unless all are acknowledged."""
        taken = 0
        try:
            producer = await self._open()
            waiting = []
            for item in batch.items:
                key = self._decoder.decode(item.line).id.encode("utf-8") or None
                headers = [("id", item.key.encode("ascii")), ("schema", str(SCHEMA_VERSION).encode("ascii"))]
                waiting.append(await producer.send(self._target.topic, item.line, key=key, headers=headers))
            results = await asyncio.gather(*waiting, return_exceptions=True)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
                taken += 1
        except MessageSizeTooLargeError as failure:
            text = "kafka: the event is larger than the broker takes"
            raise SinkFailure(text, taken=taken, too_large=True) from failure
        except (KafkaError, OSError, ValueError) as failure:
            await self.close()
            raise SinkFailure(f"kafka: {self._words(failure)}", taken=taken) from failure

    async def _open(self) -> AIOKafkaProducer:
        if self._producer is None:
            security = self._security()
            producer = AIOKafkaProducer(
                bootstrap_servers=[f"{host}:{port}" for host, port in self._target.hosts],
                client_id="angarium",
                acks="all",
                max_request_size=LARGEST_RECORD_OCTETS,
                request_timeout_ms=self._timeout_ms,
                **security,
            )
            try:
                await producer.start()
            except KafkaConnectionError as failure:
                await producer.stop()
                raise SinkFailure(f"kafka: {await self._reason(security)}") from failure
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        return self._producer

    @property
    def _timeout_ms(self) -> int:
        """Shorter than the runner's, who would say no more than that there was no answer."""
        return max(100, int(self._stream.timeout_s * 800))

    def _security(self) -> dict[str, Any]:
        """TLS and log-in, in aiokafka's words."""
        stream, tls = self._stream, self._target.tls
        security: dict[str, Any] = {"security_protocol": "SSL" if tls else "PLAINTEXT"}
        if tls:
            security["ssl_context"] = context_of(stream.ca, stream.certificate, stream.key)
        if stream.user is not None:
            security |= {
                "security_protocol": "SASL_SSL" if tls else "SASL_PLAINTEXT",
                "sasl_mechanism": stream.mechanism,
                "sasl_plain_username": stream.user,
                "sasl_plain_password": password_of(stream),
            }
        return security

    async def _reason(self, security: dict[str, Any]) -> str:
        """Why no broker would have us: what each says, the first time that it is said."""
        reasons: dict[str, None] = {}
        for host, port in self._target.hosts:
            try:
                connection = await create_conn(host, port, request_timeout_ms=self._timeout_ms, **security)
            except (KafkaError, OSError) as failure:
                words = self._words(failure)
                if words == CLOSED and self._target.tls:
                    shows = self._stream.certificate is not None
                    words = await reason_of_tls(host, port, security["ssl_context"], shows=shows) or words
                reasons[words] = None
            else:
                connection.close()
                asks = "" if self._stream.user else ": it may ask for a log-in, and the stream has none"
                reasons[f"the broker does not say where the topic is{asks}"] = None
        return "; ".join(reasons)

    def _words(self, failure: Exception) -> str:
        said = _NUMBER.sub("", str(failure)) or type(failure).__name__
        match failure:
            case SaslAuthenticationFailed() | AuthenticationFailedError() | IllegalSaslStateError():
                return f"the log-in is refused: {said}"
            case UnsupportedSaslMechanismError():
                return f"the log-in is refused: the broker does not take {self._stream.mechanism} (stream.mechanism)"
            case TopicAuthorizationFailedError():
                return f"the log-in has no right to write to the topic {self._target.topic}"
            case UnknownTopicOrPartitionError():
                return f"there is no topic {self._target.topic}"
            case NotEnoughReplicasError() | NotEnoughReplicasAfterAppendError():
                return "too few replicas of the topic are in sync (its min.insync.replicas)"
            case LeaderNotAvailableError() | NotLeaderForPartitionError():
                return "the topic has no leader at present"
            case KafkaTimeoutError() | RequestTimedOutError():
                return "no answer in time"
        return known_cause(failure, self._stream.certificate is not None) or said

    async def close(self) -> None:
        """Close the connections. What is under way has until its timeout to be acknowledged."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producer.stop()
