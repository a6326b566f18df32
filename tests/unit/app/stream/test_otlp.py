"""OpenTelemetry against a receiver that decodes OTLP's protobuf, as a collector does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from angarium.app.stream.otlp import EVENTS_REMEMBERED, Otlp, Traces
from angarium.app.stream.sink import Batch, Item, SinkFailure
from angarium.config.model import Stream
from angarium.config.secret import Secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def item(number: int, event: str, queue_id: str = "0SAQS2V780G00", **fields: Any) -> Item:
    time = f"2026-11-26T05:00:{number:02}.000000Z"
    return Item(json.dumps({"time": time, "event": event, "id": queue_id, **fields}).encode(), f"abc-{number}")


RECEPTION = {"client": "192.0.2.1", "tenant": "shop", "octets": 9, "recipients": ["a@dest.test"], "commit_s": 0.25}
LATER = {"recipient": "a@Dest.test", "attempts": 1, "attempt_s": 2.0, "next_hop": "mx", "class": "deferred"}
LATER |= {"reply": {"code": 452, "enhanced": "4.2.2", "text": "full"}, "waited": {"concurrency": 1.5}, "pool": "bulk"}
DONE = LATER | {"attempts": 2, "class": "delivered", "reply": {"code": 250, "enhanced": None, "text": "ok"}}
STORY = (item(1, "reception", **RECEPTION), item(9, "deferral", **LATER), item(20, "delivery", **DONE))


class Collector:
    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests: list[tuple[dict[str, str], ExportTraceServiceRequest]] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        decoded = ExportTraceServiceRequest.FromString(await request.read())
        self.requests.append((dict(request.headers), decoded))
        return web.Response(status=self.status, headers=self.headers)

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for _, request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    made = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"otlp+http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    yield made
    await runner.cleanup()


async def send(collector: Collector, items: tuple[Item, ...], **keys: Any) -> None:
    sink = Otlp(Stream(name="traces", url=collector.url, **keys), "relay.test")
    try:
        await sink.send(Batch(items))
    finally:
        await sink.close()


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


async def test_a_message_is_one_trace(collector: Collector) -> None:
    await send(collector, STORY, secret=Secret("t0ken"))
    ((headers, request),) = collector.requests
    assert headers["Authorization"] == "Bearer t0ken"
    resource = {one.key: one.value.string_value for one in request.resource_spans[0].resource.attributes}
    assert (resource["service.name"], resource["host.name"]) == ("angarium", "relay.test")
    root, first, second = collector.spans
    assert len({span.trace_id for span in collector.spans}) == 1
    assert (root.name, first.name, second.name) == ("message", "attempt", "attempt")
    assert root.parent_span_id == b""
    assert first.parent_span_id == second.parent_span_id == root.span_id
    assert root.end_time_unix_nano - root.start_time_unix_nano == 250_000_000
    assert first.end_time_unix_nano - first.start_time_unix_nano == 2_000_000_000
    assert (root.kind, first.kind) == (2, 3)  # SERVER, CLIENT
    assert (root.status.code, first.status.code, second.status.code) == (1, 2, 1)
    assert first.status.message == "full"
    assert attributes(first)["angarium.reply.code"] == 452
    assert attributes(first)["angarium.recipient_domain"] == "dest.test"
    assert attributes(first)["angarium.waited.concurrency"] == 1.5
    assert attributes(first)["angarium.pool"] == "bulk"
    assert attributes(root)["client.address"] == "192.0.2.1"
    assert not any("a@" in str(span) for span in collector.spans)  # addresses are not sent
    # what is sent again is the same
    await send(collector, STORY)
    assert [span.span_id for span in collector.spans[3:]] == [span.span_id for span in collector.spans[:3]]


async def test_a_notification_is_a_message_of_its_own(collector: Collector) -> None:
    told = item(21, "notification", "0SAQS2V780G01", about="0SAQS2V780G00", **{"class": "failed"})
    await send(collector, (*STORY, told, item(22, "delivery", "0SAQS2V780G01", **DONE)))
    message, *_, notification, sent = collector.spans
    assert (notification.name, notification.parent_span_id) == ("message", b"")
    assert sent.parent_span_id == notification.span_id
    (link,) = notification.links
    assert (link.trace_id, link.span_id) == (message.trace_id, message.span_id)
    assert notification.trace_id != message.trace_id


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("<you@dest.test>: no such user", "<***@dest.test>: no such user"),
        ('"a b"@dest.test and x+y@[192.0.2.1]', "***@dest.test and ***@[192.0.2.1]"),
        ("see http://dest.test/ @ home", "see http://dest.test/ @ home"),
    ],
)
async def test_an_address_that_a_reply_repeats_is_not_sent(collector: Collector, text: str, told: str) -> None:
    refused = LATER | {"reply": {"code": 550, "enhanced": "5.1.1", "text": text}}
    tls = {"version": "TLSv1.3", "cipher": "x", "authentication": "webpki"}
    await send(collector, (item(9, "bounce", **refused, tls=tls),))
    (span,) = collector.spans
    assert span.status.message == told
    assert attributes(span)["error.type"] == "5.1.1"
    assert attributes(span)["tls.protocol.version"] == "1.3"


async def test_what_a_start_left_in_doubt_is_a_moment(collector: Collector) -> None:
    await send(collector, (item(9, "in_doubt", why="the node ended"),))
    (span,) = collector.spans
    assert (span.name, span.kind, span.status.code, span.status.message) == ("in_doubt", 1, 2, "the node ended")


async def test_a_share_is_sampled_and_all_of_a_message_or_nothing(collector: Collector) -> None:
    stories = [
        (
            item(1, "reception", f"0SAQS2V78{number:04}", **RECEPTION),
            item(9, "delivery", f"0SAQS2V78{number:04}", **DONE),
        )
        for number in range(1000)
    ]
    await send(collector, tuple(one for story in stories for one in story), sample=0.1)
    by_trace: dict[bytes, int] = {}
    for span in collector.spans:
        by_trace[span.trace_id] = by_trace.get(span.trace_id, 0) + 1
    assert 60 < len(by_trace) < 140
    assert set(by_trace.values()) == {2}


async def test_what_fails_is_traced_from_its_reception_on(collector: Collector) -> None:
    sink = Otlp(Stream(name="traces", url=collector.url, sample=0.0), "relay.test")
    failed = LATER | {"class": "failed", "attempts": 3}
    await sink.send(Batch(STORY[:2]))
    assert collector.requests == []
    collector.status = 503
    collector.headers = {"Retry-After": "7"}
    ending = Batch((item(30, "bounce", **failed), item(31, "delivery", "0SAQS2V780G01", **DONE)))
    with pytest.raises(SinkFailure) as failure:
        await sink.send(ending)
    assert (failure.value.refused, failure.value.retry_after_s) == (False, 7.0)
    collector.status = 200
    collector.requests.clear()
    await sink.send(ending)
    assert [span.name for span in collector.spans] == ["message", "attempt", "attempt"]
    await sink.send(Batch((item(32, "release", by="ops"),)))  # it stays chosen
    assert collector.spans[-1].name == "release"
    await sink.close()
    never = Traces("relay.test", 0.0, sample_failures=False)
    assert never.spans((*STORY, item(30, "bounce", **failed))) == []


async def test_what_fails_after_a_restart_is_traced_from_its_reception_on_too(collector: Collector) -> None:
    stream = Stream(name="traces", url=collector.url, sample=0.0)
    failed = LATER | {"class": "failed", "attempts": 3}
    bounce = item(30, "bounce", **failed)
    others = (item(2, "reception", "0SAQS2V780G01", **RECEPTION), item(3, "bounce", "0SAQS2V780G01", **failed))
    successor = Otlp(stream, "relay.test")
    assert successor.look_back_octets > 0
    successor.recall((*STORY[:2], *others, Item(b"half a li", "k")))
    await successor.send(Batch((bounce,)))
    assert [span.name for span in collector.spans] == ["message", "attempt", "attempt"]
    # of what had failed before the restart the rest is still wanted, and what was sent is not sent again
    await successor.send(Batch((item(31, "deletion", "0SAQS2V780G01", by="ops"),)))
    assert [span.name for span in collector.spans[3:]] == ["deletion"]
    await successor.close()
    for keys in ({"sample": 1.0}, {"sample": 0.5, "sample_failures": False}):
        assert Otlp(Stream(name="traces", url=collector.url, **keys), "relay.test").look_back_octets == 0


@pytest.mark.parametrize(
    ("status", "refused", "too_large"),
    [(400, True, False), (401, True, False), (413, False, True), (429, False, False), (504, False, False)],
)
async def test_what_an_answer_means(collector: Collector, status: int, refused: bool, too_large: bool) -> None:
    collector.status = status
    with pytest.raises(SinkFailure, match=f"HTTP status {status}") as failure:
        await send(collector, STORY)
    assert (failure.value.refused, failure.value.too_large) == (refused, too_large)


async def test_a_collector_that_is_away() -> None:
    sink = Otlp(Stream(name="traces", url="otlp+http://127.0.0.1:1/v1/traces"), "relay.test")
    with pytest.raises(SinkFailure, match="cannot be reached"):
        await sink.send(Batch(STORY))
    await sink.close()


def test_memory_for_what_is_not_chosen_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("angarium.app.stream.otlp.MOST_REMEMBERED", 10)
    traces = Traces("relay.test", 0.0, sample_failures=True)
    for number in range(100):
        traces.spans(tuple(item(i, "deferral", f"0SAQS2V78{number:04}", **LATER) for i in range(EVENTS_REMEMBERED + 9)))
        traces.settled()
    traces.recall([item(1, "deferral", f"0SAQS2V77{number:04}", **LATER) for number in range(100)])
    traces.recall([item(1, "bounce", f"0SAQS2V76{number:04}", **LATER) for number in range(100)])
    assert len(traces._failed) == 10
    traces.recall([item(i, "deferral", "0SAQS2V750000", **LATER) for i in range(EVENTS_REMEMBERED + 9)])
    assert len(traces._remembered) == 10
    assert {len(kept) for kept in traces._remembered.values()} == {1, EVENTS_REMEMBERED}
    assert traces.spans((Item(b"half a li", "k"), Item(b'{"event":"log_opened","time":"x"}', "l"))) == []
