"""The event log: every line is JSON whatever a peer sends; a file that cannot be written costs events, never mail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from angarium._core.counters import Counters, Slab, Slot
from angarium._core.dispatch import Delivery, Dispatcher, ReadyQueue
from angarium._core.event_log import EventLog
from angarium._core.record import Durability, make_accepted, new_message
from tests.support.session import Server

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
LONGEST_TEXT = 1000
MOST_GATHERED = 1 << 20
HOSTILE = [
    b'quote " and \\ backslash',
    bytes(range(32)),
    b"\x7f\x80\xff",
    b"\xc3\xa9\xe2\x82\xac\xf0\x9f\x93\xae",
    b"cut \xe2\x82",
    b"\xed\xa0\x80 surrogate",
    b"\xe2\x80\xa8 line separator \xc2\x85",
    b"</script>",
    b"",
]


def counters() -> Counters:
    slab = Slab.create(1)
    region = slab.region(0)
    slab.close()
    return region


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(str(tmp_path / "events.jsonl"), counters())


def lines(log: EventLog) -> list[dict[str, Any]]:
    log.flush()
    assert log.path is not None
    octets = Path(log.path).read_bytes()
    assert octets == b"" or octets.endswith(b"\n")
    return [json.loads(line) for line in octets.splitlines()]


def delivery_of(dispatcher: Dispatcher, queue: ReadyQueue, **envelope: Any) -> Delivery:
    envelope = {"recipients": [(b"r@example.net", 0, b"")], "received_us": time.time_ns() // 1000} | envelope
    message = new_message(make_accepted(envelope, b"mail", dispatcher_id()))
    dispatcher.send(message, queue, list(range(message.recipients)))
    delivery = queue.take()
    assert delivery is not None
    return delivery


def dispatcher_id() -> int:
    return 1 << 40


def dispatch(log: EventLog, next_hop: bytes = b"smtp://mx.example.net:25", site: bytes = b"mx.example.net") -> Any:
    dispatcher = Dispatcher(counters(), log)
    queue = ReadyQueue(dispatcher, next_hop, site, connect=lambda queue: None)
    return dispatcher, queue


# ---------------------------------------------------------------- events from Python


def test_an_event_has_its_time_its_name_and_its_fields(log: EventLog) -> None:
    before = time.time()
    log.event("bounce", {"id": "0SAQT25GM0001", "reply": {"code": 550, "enhanced": None}, "list": [1, 2.5, True]})
    log.event("worker_started", {})
    first, second = lines(log)
    assert list(first) == ["time", "event", "id", "reply", "list"]
    assert RFC_3339.fullmatch(first["time"])
    assert before - 1 <= datetime.fromisoformat(first["time"]).timestamp() <= time.time() + 1
    assert first["event"] == "bounce"
    assert first["reply"] == {"code": 550, "enhanced": None}
    assert first["list"] == [1, 2.5, True]
    assert list(second) == ["time", "event"]
    assert first["time"] <= second["time"]


@settings(deadline=None)
@given(st.dictionaries(st.text().filter(lambda key: key not in ("time", "event")), st.text(), max_size=5))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, fields: dict[str, str]) -> None:
    log = EventLog(str(tmp_path_factory.mktemp("log") / "events.jsonl"), counters())
    log.event("any", fields)
    (found,) = lines(log)
    del found["time"], found["event"]
    assert found == fields


def test_a_lone_surrogate_does_not_spoil_the_line(log: EventLog) -> None:
    log.event("odd", {"text": "a\udc80b"})
    assert lines(log)[0]["text"] == "a?b"


@pytest.mark.parametrize("fields", [{"value": object()}, {"value": float("nan")}, {"value": b"octets"}])
def test_what_is_no_json_leaves_no_trace(log: EventLog, fields: dict[str, Any]) -> None:
    log.event("before", {})
    with pytest.raises((TypeError, ValueError)):
        log.event("broken", fields)
    log.event("after", {})
    assert [line["event"] for line in lines(log)] == ["before", "after"]


# ---------------------------------------------------------------- attempts


def test_a_delivery_has_the_fields_that_were_promised(log: EventLog) -> None:
    dispatcher, queue = dispatch(log)
    delivery = delivery_of(
        dispatcher,
        queue,
        reverse_path=b"sender@example.org",
        tenant=b"acme",
        recipients=[(b"a@example.net", 0, b""), (b"b@example.net", 0, b"")],
        durability=Durability.DURABILITY_ASYNC,
    )
    dispatcher.log_attempt("deferral", delivery, 1, 451, (4, 7, 12), b"try later")
    (line,) = lines(log)
    assert line["event"] == "deferral"
    assert line["id"] == delivery.message.queue_id
    assert line["reverse_path"] == "sender@example.org"
    assert line["recipient"] == "b@example.net"
    assert line["next_hop"] == "smtp://mx.example.net:25"
    assert line["site"] == "mx.example.net"
    assert line["tenant"] == "acme"
    assert line["reply"] == {"code": 451, "enhanced": "4.7.12", "text": "try later"}
    assert line["class"] == "deferred"
    assert line["durability"] == "async"
    assert line["attempts"] == 1
    assert 0 <= line["age_s"] < 60
    assert 0 <= line["attempt_s"] < 60


@pytest.mark.parametrize(
    ("event", "code", "enhanced", "kind"),
    [
        ("delivery", 250, (2, 0, 0), "delivered"),
        ("deferral", 450, None, "deferred"),
        ("bounce", 554, (5, 999, 999), "failed"),
        ("in_doubt", 451, (4, 4, 2), "in_doubt"),
    ],
)
def test_the_class_follows_the_event(
    log: EventLog, event: str, code: int, enhanced: tuple[int, int, int] | None, kind: str
) -> None:
    dispatcher, queue = dispatch(log)
    dispatcher.log_attempt(event, delivery_of(dispatcher, queue), 0, code, enhanced, b"text")
    (line,) = lines(log)
    assert (line["event"], line["class"]) == (event, kind)
    assert line["reply"]["enhanced"] == (".".join(map(str, enhanced)) if enhanced else None)


@pytest.mark.parametrize("octets", HOSTILE, ids=repr)
def test_hostile_octets_make_json_all_the_same(log: EventLog, octets: bytes) -> None:
    dispatcher, queue = dispatch(log, next_hop=octets, site=octets)
    delivery = delivery_of(dispatcher, queue, reverse_path=octets, tenant=octets, recipients=[(octets, 0, b"")])
    dispatcher.log_attempt("attempt", delivery, 0, 451, None, octets)
    (line,) = lines(log)
    text = octets.decode("utf-8", "replace")
    assert {line[name] for name in ("reverse_path", "recipient", "next_hop", "site", "tenant")} == {text}
    assert line["reply"]["text"] == text


@pytest.mark.parametrize("length", [1, 7, 8, 9, 15, 16, 21])
def test_every_octet_in_every_place_makes_json(log: EventLog, length: int) -> None:
    dispatcher, queue = dispatch(log)
    texts = [
        b"a" * place + bytes([octet]) + b"~" * (length - place - 1)
        for place in range(length)
        for octet in (*range(36), 91, 92, 93, *range(125, 256))
    ]
    for text in texts:
        dispatcher.log_attempt("attempt", delivery_of(dispatcher, queue, reverse_path=text), 0, 250, None, b"")
    assert [line["reverse_path"] for line in lines(log)] == [text.decode("utf-8", "replace") for text in texts]


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60))
def test_any_octets_make_json(tmp_path_factory: pytest.TempPathFactory, octets: bytes) -> None:
    log = EventLog(str(tmp_path_factory.mktemp("log") / "events.jsonl"), counters())
    dispatcher, queue = dispatch(log)
    dispatcher.log_attempt("attempt", delivery_of(dispatcher, queue, reverse_path=octets), 0, 250, None, octets)
    (line,) = lines(log)
    assert line["reverse_path"] == line["reply"]["text"] == octets.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"x" * LONGEST_TEXT, "x" * LONGEST_TEXT),
        (b"x" * 65535, "x" * LONGEST_TEXT),
        (b"x" * (LONGEST_TEXT - 1) + "é".encode() * 9, "x" * (LONGEST_TEXT - 1) + "\ufffd"),
        (b'"' * 5000, '"' * LONGEST_TEXT),
    ],
)
def test_long_values_are_cut(log: EventLog, octets: bytes, expected: str) -> None:
    dispatcher, queue = dispatch(log)
    dispatcher.log_attempt("attempt", delivery_of(dispatcher, queue, reverse_path=octets), 0, 250, None, octets)
    (line,) = lines(log)
    assert line["reverse_path"] == line["reply"]["text"] == expected


def test_a_clock_that_went_back_gives_no_negative_age(log: EventLog) -> None:
    dispatcher, queue = dispatch(log)
    delivery = delivery_of(dispatcher, queue, received_us=(int(time.time()) + 1000) * 1_000_000)
    dispatcher.log_attempt("attempt", delivery, 0, 250, None, b"")
    assert lines(log)[0]["age_s"] == 0


# ---------------------------------------------------------------- receptions and rejections


def test_a_reception_is_logged_when_it_is_safe(log: EventLog) -> None:
    server = Server(commit="sync", events=log)
    client = server.connect()
    client.say(b"EHLO client.example\r\n")
    client.say(
        b'MAIL FROM:<sender@example.org>\r\nRCPT TO:<a@example.net>\r\nRCPT TO:<"q\\"x"@example.net>\r\nDATA\r\n'
    )
    answer = client.say(b"Subject: x\r\n\r\nbody\r\n.\r\n")
    assert answer.startswith(b"250 2.0.0 queued as ")
    (line,) = lines(log)
    assert line["event"] == "reception"
    assert line["id"] == answer.split()[4].decode()
    assert line["reverse_path"] == "sender@example.org"
    assert line["recipients"] == ["a@example.net", '"q\\"x"@example.net']
    assert line["octets"] == len(server.taken[0].mail_data)
    assert line["client"] == "192.0.2.1"
    assert line["greeting"] == "client.example"
    assert line["listener"] == "relay"
    assert line["protocol"] == "ESMTP"
    assert line["durability"] == "fsync"
    assert line["tenant"] == ""
    assert 0 <= line["commit_s"] < 60
    assert RFC_3339.fullmatch(line["time"])


def test_a_rejection_says_who_what_and_why(log: EventLog) -> None:
    server = Server(commit="sync", may_relay=False, events=log)
    client = server.connect()
    client.say(b"EHLO client.example\r\nMAIL FROM:<sender@example.org>\r\n")
    answer = client.say(b"RCPT TO:<a@example.net>\r\n")
    (line,) = lines(log)
    assert line["event"] == "rejection"
    assert (line["client"], line["greeting"]) == ("192.0.2.1", "client.example")
    assert (line["reverse_path"], line["recipient"]) == ("sender@example.org", "a@example.net")
    assert answer == b"%d %s %s\r\n" % (
        line["reply"]["code"],
        line["reply"]["enhanced"].encode(),
        line["reply"]["text"].encode(),
    )


# ---------------------------------------------------------------- the file


def test_without_a_path_nothing_is_kept() -> None:
    region = counters()
    log = EventLog(None, region)
    log.event("nobody", {"hears": "this"})
    log.flush()
    log.reopen()
    log.close()
    assert (log.path, log.dropped, region.value(Slot.OUTCOME_EVENTS)) == (None, 0, 0)


def test_lines_are_appended_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for name in ("first", "second"):
        log = EventLog(str(path), counters())
        log.event(name, {})
        log.close()
        log.close()
        log.event("after the end", {})
        log.flush()
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["first", "second"]
    assert path.stat().st_mode & 0o137 == 0


def test_events_are_written_when_many_have_gathered_and_counted(log: EventLog) -> None:
    for number in range(2000):
        log.event("many", {"number": number})
    assert log.path is not None
    assert os.path.getsize(log.path) > 1 << 16  # without a flush
    assert [line["number"] for line in lines(log)] == list(range(2000))
    assert log.dropped == 0


def test_a_rotated_file_is_followed(log: EventLog, tmp_path: Path) -> None:
    log.event("old", {})
    assert log.path is not None
    os.rename(log.path, tmp_path / "events.jsonl.1")
    log.event("old too", {})
    log.reopen()
    log.event("new", {})
    assert [line["event"] for line in lines(log)] == ["new"]
    rotated = (tmp_path / "events.jsonl.1").read_text().splitlines()
    assert [json.loads(line)["event"] for line in rotated] == ["old", "old too"]


def test_a_file_that_cannot_be_opened_again_keeps_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    log = EventLog(str(folder / "events.jsonl"), counters())
    log.event("first", {})
    folder.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        log.reopen()
    log.event("second", {})
    log.flush()
    kept = (tmp_path / "moved" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in kept] == ["first", "second"]


def test_a_file_that_cannot_be_opened_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        EventLog(str(tmp_path / "nowhere" / "events.jsonl"), counters())


def test_a_full_disk_costs_events_and_they_are_counted() -> None:
    region = counters()
    log = EventLog("/dev/full", region)
    for number in range(2000):
        log.event("lost", {"number": number, "text": "x" * 1000})
    assert 1000 <= log.dropped < 2000  # what was gathered at the bound; the rest may still be written
    log.close()
    assert log.dropped == region.value(Slot.OUTCOME_EVENTS_DROPPED) == region.value(Slot.OUTCOME_EVENTS) == 2000


def test_events_that_waited_for_room_are_written_when_there_is_some(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    os.symlink("/dev/full", path)
    log = EventLog(str(path), counters())
    log.event("waited", {})
    log.flush()
    path.unlink()
    log.reopen()
    assert [line["event"] for line in lines(log)] == ["waited"]
    assert log.dropped == 0


LIMITED = """
import json, os, resource, sys
from angarium._core.counters import Slab
from angarium._core.event_log import EventLog
path = sys.argv[1]
log = EventLog(path, Slab.create(1).region(0))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for number in range(3000):
    log.event("text", {"number": number, "text": "x" * 1000})
assert log.dropped > 1000, log.dropped
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
before = log.dropped
log.event("there is room again", {})
log.close()
assert log.dropped == before
broken = []
numbers = []
lost = []
for line in open(path):
    try:
        event = json.loads(line)
    except ValueError:
        broken.append(line)
    else:
        if event["event"] == "events_lost":
            lost.append(event["events"] - log.dropped)
        else:
            numbers.append(event.get("number"))
print(len(numbers) + log.dropped, len(broken), numbers[-1], lost[0] if len(lost) == 1 else lost)
"""


def test_a_line_that_was_written_in_part_spoils_no_other(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "events.jsonl")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    total, broken, last, unsaid = done.stdout.split()
    assert (int(total), last) == (3001, "None")
    assert (int(broken), int(unsaid)) == (0, 0)  # what was written of a line is taken back, and what was lost is said


def test_a_log_moves_to_another_file_between_two_lines(tmp_path: Path, log: EventLog) -> None:
    old = Path(str(log.path))
    log.event("first", {})
    new = tmp_path / "new.jsonl"
    log.move(str(new), os.open(new, os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    log.event("second", {})
    assert [line["event"] for line in lines(log)] == ["second"]
    assert [json.loads(line)["event"] for line in old.read_bytes().splitlines()] == ["first"]
    assert log.path == str(new)
    log.reopen()
    log.move(None, -1)
    log.event("third", {})
    log.flush()
    assert len(new.read_bytes().splitlines()) == 1
    log.move(str(old), os.open(old, os.O_WRONLY | os.O_APPEND))
    log.event("fourth", {})
    assert [line["event"] for line in lines(log)] == ["first", "fourth"]
