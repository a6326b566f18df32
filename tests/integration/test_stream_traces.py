"""A node whose messages are traced by OTLP: to a receiver that decodes its protobuf, and to a real collector."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.peers import SinkServer, Step
from tests.support.relay import Relay
from tests.support.stream_peer import Collector, Poster

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPAN_OF = {"reception": "message", "notification": "message"}
TRACED = ("reception", "notification", "delivery", "deferral", "bounce")
SERVER, CLIENT, INTERNAL = 2, 3, 1
OK, ERROR = 1, 2


class Hosts:
    """A next hop: never@ is refused, later@ the first time that it is named, all else is taken."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, step: Step) -> str | None:
        if step.verb == "RCPT":
            if "never" in step.argument:
                return f"550 5.1.1 {step.argument.partition(':')[2]} is nobody here"
            if "later" in step.argument and step.argument not in self._seen:
                self._seen.add(step.argument)
                return "451 4.2.1 Come again"
        return None


@pytest.fixture
def sink() -> Iterator[SinkServer]:
    with SinkServer(answer=Hosts()) as server:
        yield server


@pytest.fixture(params=["protobuf", pytest.param("collector", marks=pytest.mark.peer)])
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with Poster() if request.param == "protobuf" else Collector(tmp_path) as made:
        yield made


def traced(sink: SinkServer, receiver: Any, **keys: Any) -> dict[str, Any]:
    stream = {
        "name": "traces",
        "url": f"otlp+http://127.0.0.1:{receiver.port}/v1/traces",
        "start": "oldest",
        "batch_wait": "20ms",
        "batch_events": 5,
        "timeout": "2s",
        "retry_first": "20ms",
        "retry_longest": "100ms",
    }
    return {"route": [{"recipients": ["*"], "next_hop": sink.url}], "stream": [stream | keys]}


def status(relay: Relay) -> dict[str, Any]:
    report = (relay.api("status")["events"] or {}).get("status") or {}
    return next(iter(report.get("streams", ())), {"state": "failing", "failures": 0, "sent": 0})


def wait_sent(relay: Relay, ends: int) -> None:
    """Until so many recipients have come to their end, those of notifications included, and all of it is sent."""
    relay.wait_empty()
    relay.wait(lambda: len(relay.events("delivery")) + len(relay.events("bounce")) == ends, f"{ends} ends in the log")

    def sent() -> bool:
        said = status(relay)
        return said["state"] != "failing" and said["sent"] >= sum("stream" not in event for event in relay.events())

    relay.wait(sent, "everything to be sent")


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def nanoseconds(event: dict[str, Any]) -> int:
    from datetime import datetime

    return round(datetime.fromisoformat(event["time"]).timestamp() * 1e6) * 1000


def by_key(spans: list[Any]) -> dict[tuple[bytes, bytes], Any]:
    """Each once, as a backend keeps them; what came twice is the same."""
    found: dict[tuple[bytes, bytes], Any] = {}
    for span in spans:
        before = found.setdefault((span.trace_id, span.span_id), span)
        assert before == span
    return found


def agree(relay: Relay, spans: list[Any]) -> None:
    """There is one span for each event of a message and no other, with what the event says."""
    events = [event for event in relay.events() if event["event"] in TRACED]
    kept = by_key(spans)
    assert len(kept) == len(events)
    roots = {span.trace_id: span for span in kept.values() if not span.parent_span_id}
    assert {span.name for span in roots.values()} == {"message"}
    assert len(roots) == len({event["id"] for event in events})
    ids = {attributes(span)["angarium.id"]: span for span in roots.values()}
    assert len(ids) == len(roots)
    for span in kept.values():
        root = roots[span.trace_id]
        found = attributes(span)
        assert ids[found["angarium.id"]] is root
        assert span.end_time_unix_nano >= span.start_time_unix_nano >= root.start_time_unix_nano
        if span is not root:
            assert (span.name, span.kind, span.parent_span_id) == ("attempt", CLIENT, root.span_id)
    told = Counter(
        (event["id"], SPAN_OF.get(event["event"], "attempt"), nanoseconds(event), event.get("attempts"))
        for event in events
    )
    made = Counter(
        (attributes(s)["angarium.id"], s.name, s.end_time_unix_nano, attributes(s).get("angarium.attempt"))
        for s in kept.values()
    )
    assert made == told
    for event in events:
        if event["event"] in ("delivery", "deferral", "bounce"):
            (span,) = (
                span
                for span in kept.values()
                if span.name == "attempt"
                and attributes(span)["angarium.id"] == event["id"]
                and attributes(span)["angarium.attempt"] == event["attempts"]
                and span.end_time_unix_nano == nanoseconds(event)
            )
            said = attributes(span)
            assert span.end_time_unix_nano - span.start_time_unix_nano == int(event["attempt_s"] * 1e9)
            assert said["angarium.recipient_domain"] == event["recipient"].partition("@")[2]
            assert said["angarium.class"] == event["class"]
            assert said["angarium.reply.code"] == event["reply"]["code"]
            assert span.status.code == (OK if event["event"] == "delivery" else ERROR)
            assert ("error.type" in said) == (event["event"] != "delivery")


def test_each_message_is_a_trace(tmp_path: Path, sink: SinkServer, receiver: Any) -> None:
    receiver.start()
    with Relay(tmp_path, traced(sink, receiver)) as relay:
        now = relay.send("now@dest.test")
        later = relay.send("later@dest.test")
        never = relay.send("never@dest.test")
        several = relay.send(["now2@dest.test", "later2@dest.test", "never2@other.test"])
        wait_sent(relay, 8)
        relay.wait(lambda: len(receiver.spans()) >= 16, "every span in the receiver")
        spans = receiver.spans()
        agree(relay, spans)
        of = {
            one: [span for span in spans if attributes(span)["angarium.id"] == one]
            for one in (now, later, never, several)
        }
        assert [(span.name, span.kind, span.status.code) for span in of[now]] == [
            ("message", SERVER, OK),
            ("attempt", CLIENT, OK),
        ]
        assert [span.status.code for span in of[later]] == [OK, ERROR, OK]
        assert [attributes(span).get("angarium.attempt") for span in of[later]] == [None, 1, 2]
        assert [span.status.code for span in of[never]] == [OK, ERROR]
        assert of[never][1].status.message == "<***@dest.test> is nobody here"
        assert attributes(of[never][1])["error.type"] == "5.1.1"
        assert sorted((attributes(s)["angarium.recipient_domain"], s.status.code) for s in of[several][1:]) == [
            ("dest.test", OK),
            ("dest.test", OK),
            ("dest.test", ERROR),
            ("other.test", ERROR),
        ]
        message = attributes(of[several][0])
        assert (message["angarium.recipients"], message["client.address"]) == (3, "127.0.0.1")
        # a notification of the failure, which is about its message
        notified = [span for span in spans if span.kind == INTERNAL]
        assert [span.links[0].trace_id for span in notified] == [of[never][0].trace_id, of[several][0].trace_id]
        sent = str(spans)
        assert not [name for name in ("now@", "later@", "never@", "never2@", "me@") if name in sent]


def test_over_an_outage_and_a_restart_each_span_comes_with_the_same_ids(
    tmp_path: Path, sink: SinkServer, receiver: Any
) -> None:
    receiver.start()
    with Relay(tmp_path, traced(sink, receiver)) as relay:
        relay.send(["a@dest.test", "later-a@dest.test"])
        wait_sent(relay, 2)
        receiver.stop()
        relay.send("never-b@dest.test")
        relay.wait_empty()
        relay.wait(lambda: status(relay)["failures"] > 1, "failures")
        relay.restart()
        relay.send(["c@dest.test", "later-c@dest.test"])
        relay.wait_empty()
        relay.wait(lambda: status(relay)["state"] == "failing", "a stream that fails")
        receiver.start()
        wait_sent(relay, 6)
        relay.wait(lambda: len(by_key(receiver.spans())) >= 12, "every span in the receiver")
        agree(relay, receiver.spans())


def test_what_was_taken_before_a_kill_comes_again_as_the_same_spans(tmp_path: Path, sink: SinkServer) -> None:
    with Poster() as receiver, Relay(tmp_path, traced(sink, receiver, timeout="60s")) as relay:
        receiver.start()
        receiver.hold()
        relay.send(["a@dest.test", "later-a@dest.test", "never-a@dest.test"])
        relay.wait_empty()
        relay.wait(lambda: receiver.held, "a request under way")
        relay.kill_process(relay.api("status")["events"]["status"]["pid"])
        receiver.go_on()  # it takes what it has, and the position was not written
        relay.wait(lambda: receiver.bodies, "what was under way")
        wait_sent(relay, 4)
        agree(relay, receiver.spans())
        assert len(receiver.spans()) > len(by_key(receiver.spans()))


@pytest.mark.parametrize(("failures", "kept"), [(True, {"never"}), (False, set())])
def test_failures_are_kept_where_nothing_is_sampled(
    tmp_path: Path, sink: SinkServer, failures: bool, kept: set[str]
) -> None:
    with Poster() as receiver:
        receiver.start()
        with Relay(tmp_path, traced(sink, receiver, sample=0.0, sample_failures=failures)) as relay:
            ids = {name: relay.send(f"{name}@dest.test") for name in ("now", "later", "never")}
            wait_sent(relay, 4)
            spans = receiver.spans()
        assert {attributes(span)["angarium.id"] for span in spans} == {ids[name] for name in kept}
        # with all that came before it
        assert [span.name for span in spans] == ["message", "attempt"] * len(kept)


def test_what_fails_after_a_restart_has_its_reception_too(tmp_path: Path) -> None:
    reply = "451 4.2.1 Come again"
    with SinkServer(answer=lambda step: reply if "turns@" in step.argument else None) as sink:
        with Poster() as receiver, Relay(tmp_path, traced(sink, receiver, sample=0.0)) as relay:
            receiver.start()
            queue_id = relay.send("turns@dest.test")
            relay.wait_event("deferral", id=queue_id)
            relay.wait(lambda: status(relay)["sent"] >= 2, "the stream to have seen it")
            relay.restart()
            assert receiver.spans() == []
            reply = "550 5.1.1 Nobody"
            relay.wait_event("bounce", id=queue_id)
            attempts = len(relay.events("deferral", id=queue_id)) + 1
            relay.wait(lambda: len(receiver.spans()) > attempts, "its trace")
            spans = receiver.spans()
        assert {attributes(span)["angarium.id"] for span in spans} == {queue_id}
        assert [span.name for span in spans] == ["message", *["attempt"] * attempts]
        assert attempts >= 2


def test_a_share_is_sampled_message_by_message(tmp_path: Path, sink: SinkServer) -> None:
    with Poster() as receiver:
        receiver.start()
        with Relay(tmp_path, traced(sink, receiver, sample=0.5, batch_events=500)) as relay:
            names = [f"later-{number}@dest.test" for number in range(60)]
            ids = [relay.send(name) for name in names]
            wait_sent(relay, len(names))
        found = Counter(attributes(span)["angarium.id"] for span in receiver.spans())
        assert set(found.values()) == {3}  # the message, deferred, delivered: all of it or nothing
        assert 10 < len(found) < 50
        assert set(found) <= set(ids)
        # chosen by its id, so that it is the same whoever decides, and whenever
        bound = 2**63
        assert {span.trace_id for span in receiver.spans() if int.from_bytes(span.trace_id[8:]) >= bound} == set()
