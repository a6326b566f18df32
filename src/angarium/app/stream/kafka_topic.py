"""A topic of Kafka: each event is a record, acknowledged by all replicas in sync, with the queue id as its key, so that
the events of one message stay in their order; headers `id` and `schema`.

Fails: SinkFailure. Bounds: what aiokafka holds of one batch. The log-in is SASL PLAIN, or by `user` "scram:NAME"
SCRAM-SHA-512."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka.errors import KafkaError, MessageSizeTooLargeError  # type: ignore[import-untyped]

from angarium.app.stream.log_in import context_of, password_of
from angarium.app.stream.sink import SinkFailure
from angarium.mail.event_schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from angarium.app.stream.sink import Batch
    from angarium.config.check_stream import Target
    from angarium.config.model import Stream

__all__ = ["KafkaTopic"]

LARGEST_RECORD_OCTETS = 8 << 20


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
        try:
            producer = await self._open()
            waiting = []
            for item in batch.items:
                key = self._decoder.decode(item.line).id.encode("utf-8") or None
                headers = [("id", item.key.encode("ascii")), ("schema", str(SCHEMA_VERSION).encode("ascii"))]
                waiting.append(await producer.send(self._target.topic, item.line, key=key, headers=headers))
            for future in waiting:
                await future
        except MessageSizeTooLargeError as failure:
            raise SinkFailure(f"kafka: {failure}", too_large=True) from failure
        except (KafkaError, OSError, ValueError) as failure:
            await self.close()
            raise SinkFailure(f"kafka: {failure or type(failure).__name__}") from failure

    async def _open(self) -> AIOKafkaProducer:
        if self._producer is None:
            more: dict[str, Any] = {"security_protocol": "SSL" if self._target.tls else "PLAINTEXT"}
            if self._target.tls:
                more["ssl_context"] = context_of(self._stream.ca)
            if self._stream.user is not None:
                scram = self._stream.user.startswith("scram:")
                more |= {
                    "security_protocol": "SASL_SSL" if self._target.tls else "SASL_PLAINTEXT",
                    "sasl_mechanism": "SCRAM-SHA-512" if scram else "PLAIN",
                    "sasl_plain_username": self._stream.user.removeprefix("scram:"),
                    "sasl_plain_password": password_of(self._stream),
                }
            producer = AIOKafkaProducer(
                bootstrap_servers=[f"{host}:{port}" for host, port in self._target.hosts],
                client_id="angarium",
                acks="all",
                max_request_size=LARGEST_RECORD_OCTETS,
                request_timeout_ms=max(1000, int(self._stream.timeout_s * 1000)),
                **more,
            )
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        return self._producer

    async def close(self) -> None:
        """Close the connections."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await producer.stop()
