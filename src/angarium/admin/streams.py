"""Streams and the event log: what the events process says of them, their metrics, and dead letters sent once more.

Fails: 404 for a stream that is not there; 503 when the process does not answer, or the node keeps no log."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from litestar import post
from litestar.exceptions import NotFoundException
from litestar.params import FromPath  # noqa: TC002  # Litestar looks at it
from msgspec import Struct
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from angarium.admin.model import EventsReport, EventsStatus, StreamReport
from angarium.admin.services import Services, ServicesDependency, ServiceUnavailable
from angarium.admin.workers import TIMEOUT_S
from angarium.delivery.event_protocol import EVENTS_STATUS, RESEND
from angarium.delivery.mail_host import ResolutionFailure
from angarium.outcome.metrics import STREAM_METRICS, Kind
from angarium.outcome.metrics.told import (
    STREAM_BATCHES,
    STREAM_DEAD_LETTERS,
    STREAM_FAILING,
    STREAM_FAILURES,
    STREAM_LAG_EVENTS,
    STREAM_LAG_SECONDS,
    STREAM_LOST,
    STREAM_SENT,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric as Family

    from angarium.delivery.lookup_protocol import Kind as Question
    from angarium.delivery.lookup_protocol import Perishable

__all__ = ["HANDLERS", "StreamCollector", "ask_events"]

R = TypeVar("R", bound="Perishable")


class ResentLetters(Struct, frozen=True):
    """How many dead letters the stream is about to send again."""

    events: int


@post("/api/v1/streams/{name:str}/resend", tags=["streams"], status_code=200)
async def resend(services: ServicesDependency, name: FromPath[str]) -> ResentLetters:
    """Send a stream's dead letters once more. What is refused again is a dead letter again."""
    said = await _ask(services, RESEND, name)
    if said.events < 0:
        raise NotFoundException(detail=f"there is no stream {name}")
    return ResentLetters(said.events)


async def ask_events(services: Services) -> EventsReport | None:
    """What the events process says of itself; None where there is none."""
    if services.events is None:
        return None
    try:
        said = await _ask(services, EVENTS_STATUS, None)
    except ServiceUnavailable as failure:
        return EventsReport(answering=False, error=failure.detail, status=None)
    streams = [
        StreamReport(**{name: getattr(stream, name) for name in stream.__struct_fields__}) for stream in said.streams
    ]
    status = EventsStatus(pid=said.pid, uptime_s=said.uptime_s, files=said.files, octets=said.octets, streams=streams)
    return EventsReport(answering=True, error=None, status=status)


async def _ask(services: Services, kind: Question[Any, R], argument: object) -> R:
    if services.events is None:
        raise ServiceUnavailable(detail="this node keeps no event log")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await services.events.ask_once(kind, argument)
    except ResolutionFailure as failure:
        raise ServiceUnavailable(detail=failure.text) from None
    except TimeoutError:
        raise ServiceUnavailable(detail=f"the events process has no answer within {TIMEOUT_S:g} s") from None


class StreamCollector(Collector):
    """Families of STREAM_METRICS for the streams of a node; without a value while their process does not answer."""

    def __init__(self, report: EventsReport | None) -> None:
        self._streams = [] if report is None or report.status is None else report.status.streams

    def collect(self) -> Iterator[Family]:
        """One family for each metric."""
        for spec in STREAM_METRICS:
            family = (CounterMetricFamily if spec.kind is Kind.COUNTER else GaugeMetricFamily)(
                spec.name, spec.help, labels=[label.name for label in spec.labels]
            )
            for stream in self._streams:
                family.add_metric([stream.name], _VALUES[spec.name](stream))
            yield family


_VALUES = {
    STREAM_LAG_EVENTS.name: lambda stream: stream.lag_events,
    STREAM_LAG_SECONDS.name: lambda stream: stream.lag_s,
    STREAM_FAILING.name: lambda stream: stream.state == "failing",
    STREAM_DEAD_LETTERS.name: lambda stream: stream.dead_letters,
    STREAM_SENT.name: lambda stream: stream.sent,
    STREAM_BATCHES.name: lambda stream: stream.batches,
    STREAM_FAILURES.name: lambda stream: stream.failures,
    STREAM_LOST.name: lambda stream: stream.lost,
}

HANDLERS = (resend,)
