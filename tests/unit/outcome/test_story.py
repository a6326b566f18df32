"""A message's story out of its events: waits by cause, attempts, operators, results. And how the events are found."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from angarium._core.record import format_id, parse_id
from angarium.outcome.event_search import accepted_at, search
from angarium.outcome.story import tell

if TYPE_CHECKING:
    from pathlib import Path

BEGAN = 1795694400.0
ID = format_id(int((BEGAN - 1_577_836_800) * 1000) << 22 | 5)


def at(seconds: float) -> str:
    return datetime.fromtimestamp(BEGAN + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def event(seconds: float, name: str, **fields: Any) -> dict[str, Any]:
    return {"time": at(seconds), "event": name, "id": ID, **fields}


def reception(**more: Any) -> dict[str, Any]:
    return event(
        0,
        "reception",
        reverse_path="me@example.org",
        recipients=["a@dest.test"],
        octets=100,
        client="192.0.2.1",
        greeting="client.test",
        listener="submission",
        login="me",
        tenant="shop",
        protocol="ESMTPSA",
        durability="fsync",
        commit_s=0.002,
        **more,
    )


def attempt(seconds: float, name: str, number: int, **more: Any) -> dict[str, Any]:
    classes = {"delivery": "delivered", "deferral": "deferred", "bounce": "failed"}
    fields = {
        "recipient": "a@dest.test",
        "next_hop": "mx",
        "site": "dest.test",
        "tenant": "shop",
        "reply": {"code": 250, "enhanced": "2.0.0", "text": "ok"},
        "class": classes[name],
        "attempts": number,
        "age_s": seconds,
        "attempt_s": 1.0,
    }
    return event(seconds, name, **(fields | more))


def around(seconds: float, what: str, /, **fields: Any) -> dict[str, Any]:
    return {"time": at(seconds), "event": what, **fields}


def waits(
    own: list[dict[str, Any]], other: list[dict[str, Any]] | None = None
) -> list[tuple[str | None, float | None]]:
    story = tell(ID, own, other or [], [], None, now=BEGAN + 10_000)
    return [(step.cause, step.seconds) for step in story.steps if step.kind == "wait"]


def test_the_whole_of_it() -> None:
    later = {"code": 452, "enhanced": None, "text": "full"}
    own = [reception(priority=3), attempt(3, "deferral", 1, reply=later), attempt(64, "delivery", 2)]
    story = tell(ID, own, [], [], None, now=BEGAN + 10_000)
    assert (story.state, story.reverse_path, story.seconds) == ("delivered", "me@example.org", 64.0)
    assert [step.kind for step in story.steps] == ["reception", "policy", "wait", "attempt", "wait", "attempt"]
    came, decided = story.steps[0].text, story.steps[1].text
    assert came.startswith("from 192.0.2.1 (client.test) by listener submission, ESMTPSA, TLS, logged in as me: ")
    assert decided == "durability fsync, tenant shop, priority 3"
    assert story.waited_s == {"queue": 2.0, "backoff": 60.0}
    assert [(result.result, result.reply) for result in story.recipients] == [("delivered", "250 2.0.0 ok")]
    assert story.steps[3].results[0].reply == "452 full"


def test_each_moment_is_charged_to_the_strongest_cause() -> None:
    own = [
        reception(),
        attempt(10, "deferral", 1),
        event(20, "hold", by="ops", why="looks odd"),
        event(40, "release", by="ops"),
        attempt(101, "delivery", 2),
    ]
    other = [
        around(30, "suspension", kind="domain", name="dest.test", by="ops", why="pause", until=at(500)),
        around(30.1, "suspension", kind="domain", name="dest.test", by="ops", why="pause", until=at(500)),
        around(50, "resumption", kind="domain", name="dest.test"),
        around(60, "unreachable", next_hop="mx", site="dest.test", failures=1, retry_s=15.0, reply={"text": "refused"}),
        around(60, "suspension", kind="domain", name="else.test", by="ops", why="pause", until=at(500)),
        around(61, "unreachable", next_hop="mx9", site="else.test", failures=1, retry_s=90.0, reply={}),
    ]
    assert waits(own, other) == [
        ("queue", 9.0),
        ("backoff", 10.0),
        ("held", 20.0),
        ("suspended", 10.0),
        ("backoff", 10.0),
        ("connection", 15.0),
        ("backoff", 25.0),
    ]


def test_what_an_attempt_says_of_the_wait_before_it_is_the_end_of_that_wait() -> None:
    own = [
        reception(),
        attempt(41, "deferral", 1, waited={"dns": 1.7, "concurrency": 38.3}),
        attempt(120, "delivery", 2, waited={"suspended": 5.0, "connection": 13.0}),
    ]
    other = [
        around(30, "unreachable", next_hop="mx", site="dest.test", failures=1, retry_s=15.0, reply={"text": "refused"}),
        around(108, "suspension", kind="domain", name="dest.test", by="ops", why="pause", until=at(500)),
        around(113, "resumption", kind="domain", name="dest.test"),
    ]
    assert waits(own, other) == [
        ("dns", 1.7),
        ("concurrency", 38.3),
        ("connection", 4.0),  # it was left alone; and this attempt says nothing of what was before its time
        ("backoff", 56.0),
        ("suspended", 5.0),
        ("connection", 13.0),
    ]
    story = tell(ID, own, other, [], None, now=BEGAN + 10_000)
    assert story.waited_s == {"dns": 1.7, "concurrency": 38.3, "connection": 17.0, "backoff": 56.0, "suspended": 5.0}
    texts = [step.text for step in story.steps if step.kind == "wait"]
    assert texts[:2] == ["waits: dns, of 40.000 s in all", "waits: concurrency, of 40.000 s in all"]
    assert texts[4] == "waits: suspended (by ops: pause), of 18.000 s in all"
    began = [step.time for step in story.steps if step.cause in {"dns", "concurrency"}]
    assert began == [at(0), at(0)]  # both are of one wait
    assert next(step.waited_s for step in story.steps if step.kind == "attempt") == {"dns": 1.7, "concurrency": 38.3}


def test_a_wait_is_never_longer_than_there_is_time() -> None:
    own = [reception(), attempt(11, "delivery", 1, waited={"room": 15.0, "disk": 5.0})]
    assert waits(own) == [("room", 7.5), ("disk", 2.5)]
    assert waits([reception(), attempt(11, "delivery", 1, waited="what?")]) == [("queue", 10.0)]
    assert waits([reception(), attempt(11, "delivery", 1, waited={"room": "long"})]) == [("queue", 10.0)]


def test_attempts_at_the_same_time_have_no_wait_between_them() -> None:
    one = attempt(11, "deferral", 1, attempt_s=10.0)
    other = attempt(5, "delivery", 1, recipient="b@else.test", next_hop="mx9", site="else.test", attempt_s=2.0)
    assert waits([reception(), other, one]) == [("queue", 1.0)]


def test_what_waits_now_and_what_waited_in_vain() -> None:
    detail = {"state": "scheduled", "received": at(0), "recipients": [], "waited": {"connection": 20.0}}
    story = tell(ID, [reception(hold_until=at(5))], [], [], detail, now=BEGAN + 25)
    assert story.waited_s == {"release": 5.0, "connection": 20.0}
    reply = {"code": 451, "enhanced": None, "text": "expired"}
    over = event(90, "expiry", recipient="a@dest.test", attempts=0, age_s=90.0, reply=reply, waited={"dns": 88.0})
    over["class"] = "expired"
    story = tell(ID, [reception(), over], [], [], None, now=BEGAN + 200)
    assert (story.state, story.waited_s) == ("expired", {"queue": 2.0, "dns": 88.0})


def test_releases_and_log_ins_that_are_held() -> None:
    assert waits([reception(hold_until=at(50)), attempt(62, "delivery", 1)]) == [("release", 50.0), ("queue", 11.0)]
    own = [reception(held="unusual"), event(30, "release", by="ops"), attempt(32, "delivery", 1)]
    assert waits(own) == [("unusual", 30.0), ("queue", 1.0)]


def test_what_waits_still_and_what_was_deleted() -> None:
    detail = {
        "state": "held",
        "received": at(0),
        "reverse_path": "me@example.org",
        "waits_for": {"what": "held", "text": "an operator, who holds it", "until": None},
        "recipients": [{"address": "a@dest.test", "state": "deferred", "reply": "452 full"}],
    }
    own = [reception(), attempt(2, "deferral", 1), event(5, "hold", by="ops", why="")]
    story = tell(ID, own, [], [], detail, now=BEGAN + 25)
    assert (story.state, story.seconds, story.waits_for) == ("held", 25.0, detail["waits_for"])
    assert story.waited_s == {"queue": 1.0, "backoff": 3.0, "held": 20.0}
    own.append(event(30, "deletion", recipients=1, by="ops", why="spam"))
    story = tell(ID, own, [], [], None, now=BEGAN + 99)
    assert (story.state, story.recipients[0].result) == ("deleted", "deleted")
    assert [step.text for step in story.steps if step.kind == "event"][-1].startswith("deletion")


def test_without_an_event_log_the_journal_tells_of_attempts() -> None:
    tried = {"number": 1, "time": at(5), "next_hop": "mx", "host": "mx.dest.test"}
    tried["recipients"] = [{"address": "a@dest.test", "state": "deferred", "reply": "452 full"}]
    detail = {"state": "scheduled", "received": at(0), "reverse_path": "", "recipients": [], "attempts": [tried]}
    story = tell(ID, [], [], [], detail, now=BEGAN + 15)
    (step,) = [step for step in story.steps if step.kind == "attempt"]
    assert (step.attempt, step.results[0].result, step.results[0].reply) == (1, "deferred", "452 full")
    assert story.waited_s == {"queue": 5.0, "backoff": 10.0}


def test_recipients_of_one_attempt_are_one_step() -> None:
    own = [
        reception(),
        attempt(2, "delivery", 1),
        attempt(2.001, "bounce", 1, recipient="b@dest.test", reply={"code": 550, "enhanced": None, "text": "no"}),
    ]
    story = tell(ID, own, [], [], None, now=BEGAN + 10)
    (step,) = [step for step in story.steps if step.kind == "attempt"]
    assert [(result.recipient, result.result) for result in step.results] == [
        ("a@dest.test", "delivered"),
        ("b@dest.test", "failed"),
    ]
    assert story.state == "failed"


def test_without_its_reception_it_begins_with_its_age() -> None:
    story = tell(ID, [attempt(60, "bounce", 1)], [], [], None, now=BEGAN + 99)
    assert (story.accepted, story.state) == (at(0), "failed")
    nothing = tell(ID, [], [], [], None, now=BEGAN)
    assert (nothing.state, nothing.steps, nothing.accepted) == ("unknown", [], None)


def test_events_are_found_over_files_and_compression(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    old = [around(-3600, "reception", id="0SAQS2V780G00"), around(-3500, "suspension", kind="domain", name="x")]
    first = [
        reception(),
        around(1, "notification", id="0SAQS2V780G01", about=ID),
        around(1, "hold", id="0SAQS2V780G02", why=f"beside {ID}"),
    ]
    second = [attempt(10, "deferral", 1), around(9, "unreachable", next_hop="mx", site="s", retry_s=1.0)]

    def lines(events: list[dict[str, Any]]) -> bytes:
        return b"".join(json.dumps(one, separators=(",", ":")).encode() + b"\n" for one in events)

    def stamp(seconds: float) -> str:
        return datetime.fromtimestamp(BEGAN + seconds, UTC).strftime("%Y%m%dT%H%M%S.%fZ")

    (tmp_path / f"events-{stamp(-3400)}.jsonl").write_bytes(lines(old))
    (tmp_path / f"events-{stamp(5)}.jsonl.gz").write_bytes(gzip.compress(lines(first)))
    log.write_bytes(lines(second) + b'{"time":"half')
    found = search(log, ID, accepted_at(parse_id(ID)))
    assert [one["event"] for one in found.own] == ["reception", "notification", "deferral"]
    assert [one["event"] for one in found.around] == ["unreachable"]
    assert found.complete
    assert abs(accepted_at(parse_id(ID)) - BEGAN) < 0.002
