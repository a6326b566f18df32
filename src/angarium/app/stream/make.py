"""Which sink a stream has. Its library is imported here and nowhere else, so only where it is configured; one that
cannot be loaded makes a stream that fails, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from angarium.app.stream.sink import SinkFailure
from angarium.config.check_stream import parse_syslog, parse_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium.app.stream.sink import Batch, Sink
    from angarium.config.model import Config, Stream

__all__ = ["make_forwarder", "make_sink"]


class _Unusable:
    """Takes nothing."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def send(self, _: Batch) -> None:
        """SinkFailure."""
        raise SinkFailure(self._why)

    async def close(self) -> None:
        """There is nothing open."""


def make_sink(stream: Stream, node: str, now: Callable[[], float]) -> Sink:
    """Where this stream leads."""
    try:
        return _sink_of(stream, node, now)
    except ImportError as failure:
        return _Unusable(f"its library cannot be loaded: {failure}")


def _sink_of(stream: Stream, node: str, now: Callable[[], float]) -> Sink:
    target = parse_target(stream.url)
    match target.kind:
        case "webhook":
            from angarium.app.stream.webhook import Webhook  # noqa: PLC0415

            return Webhook(stream, node, now)
        case "kafka":
            from angarium.app.stream.kafka_topic import KafkaTopic  # noqa: PLC0415

            return KafkaTopic(stream, target)
        case "nats":
            from angarium.app.stream.nats_stream import NatsStream  # noqa: PLC0415

            return NatsStream(stream, target)
        case "otlp":
            from angarium.app.stream.otlp import Otlp  # noqa: PLC0415

            return Otlp(stream, node)
        case "redis":
            from angarium.app.stream.redis_stream import RedisStream  # noqa: PLC0415

            return RedisStream(stream, target)


def make_forwarder(config: Config) -> Sink:
    """Where `events.to` leads, where that is not a file."""
    events = config.events
    if events.to == "journald":
        from angarium.app.stream.journald import Journald  # noqa: PLC0415

        return Journald(events.facility)
    from angarium.app.stream.syslog import Syslog  # noqa: PLC0415

    return Syslog(parse_syslog(events.syslog), config.node.hostname, events.facility)
