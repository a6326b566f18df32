"""What a worker says of its queue: numbers, lists, previews, one message in full."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from angarium._core.command import BodyType, Notify, ReturnContent
from angarium._core.record import MessageState
from angarium.admin.model import MessageDetail, Preview, QueuedMessage, QueueSummary
from angarium.app import inspection
from angarium.app.inspection import Filter
from angarium.queue.suspension import Suspension
from tests.support.steered import SteeredQueue

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def queue(tmp_path: Path) -> SteeredQueue:
    return SteeredQueue(tmp_path / "shard")


def ids(described: list[dict[str, Any]]) -> list[str]:
    return [message["id"] for message in described]


async def test_the_shapes_are_those_of_the_api(queue: SteeredQueue) -> None:
    message = queue.add("a@one.test", "b@two.test")
    for value, shape in (
        (await queue.inspector.summary(), QueueSummary),
        (await queue.inspector.listing(Filter()), list[QueuedMessage]),
        (await queue.inspector.preview(Filter(), None), Preview),
        (await queue.inspector.show(message.id), MessageDetail),
    ):
        msgspec.json.decode(msgspec.json.encode(value), type=shape, strict=True)


async def test_summary_counts_states_and_age(queue: SteeredQueue) -> None:
    assert (await queue.inspector.summary())["oldest_s"] is None
    queue.add("a@one.test", "b@one.test", received_us=int((time.time() - 60) * 1e6))
    queue.add().state = MessageState.MESSAGE_HELD
    summary = await queue.inspector.summary()
    assert (summary["messages"], summary["recipients"]) == (2, 3)
    assert summary["by_state"] == {"ready": 1, "scheduled": 0, "held": 1, "suspended": 0, "in_doubt": 0}
    assert summary["oldest_s"] > 60


async def test_a_list_reads_no_more_than_it_shows(queue: SteeredQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [queue.add() for _ in range(10)]
    read: list[int] = []
    journal = queue.shard.journal

    class Reading:
        def read_record(self, message: Any) -> bytes:
            read.append(message.id)
            return journal.read_record(message)

    monkeypatch.setattr(queue.dispatcher, "journal", lambda message: Reading())
    assert ids(await queue.inspector.listing(Filter(limit=3))) == [message.queue_id for message in messages[:3]]
    assert read == [message.id for message in messages[:3]]
    assert ids(await queue.inspector.listing(Filter(state="held"))) == []
    assert len(read) == 3
    assert all(message.buffer is None for message in messages)


async def test_the_oldest_are_found_behind_many_that_do_not_match(
    queue: SteeredQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "CHECKED", 3)
    for _ in range(30):
        queue.add("a@one.test")
    wanted = [queue.add("a@two.test") for _ in range(4)]
    found = await queue.inspector.oldest(Filter(to_domain="two.test"), 2)
    assert found == wanted[:2]
    assert await queue.inspector.oldest(Filter(to_domain="two.test"), 10) == wanted


async def test_conditions_on_time(queue: SteeredQueue) -> None:
    now = time.time()
    old, new = queue.add(received_us=int((now - 100) * 1e6)), queue.add(received_us=int((now - 10) * 1e6))
    for conditions, expected in (
        ({"older_than_s": 50.0}, [old]),
        ({"before_us": int((now - 50) * 1e6)}, [old]),
        ({"before_us": int(now * 1e6)}, [old, new]),
        ({"before_us": int(now * 1e6), "older_than_s": 50.0}, [old]),
        ({"older_than_s": 1e12}, []),
    ):
        found = await queue.inspector.listing(Filter(**conditions))  # type: ignore[arg-type]
        assert ids(found) == [message.queue_id for message in expected], conditions


async def test_a_domain_may_be_written_in_unicode(queue: SteeredQueue) -> None:
    message = queue.add("a@xn--grn-ioa.test")
    assert await queue.inspector.oldest(Filter(to_domain="GRÜN.test"), 1) == [message]


async def test_a_preview_counts_and_shows_a_few(queue: SteeredQueue) -> None:
    messages = [queue.add("a@one.test", "b@one.test") for _ in range(8)]
    messages[0].set_recipient_state(0, 1)
    preview = await queue.inspector.preview(Filter(to_domain="one.test"), None)
    assert (preview["messages"], preview["recipients"], preview["under_way"]) == (8, 15, 0)
    assert preview["octets"] == sum(message.record_octets for message in messages)
    assert preview["oldest"] == "1970-01-01T00:00:05.000Z"
    assert ids(preview["samples"]) == [message.queue_id for message in messages[:5]]
    some = await queue.inspector.preview(Filter(), [messages[3].id, 17])
    assert ids(some["samples"]) == [messages[3].queue_id]


async def test_show_has_the_envelope_and_the_header(queue: SteeredQueue) -> None:
    message = queue.add(
        "a@one.test",
        tenant=b"shop",
        envid=b"E1",
        listener=b"relay",
        client=b"192.0.2.1",
        body=BodyType.BODY_8BITMIME,
        ret=ReturnContent.RET_HDRS,
        priority=-3,
    )
    shown = await queue.inspector.show(message.id)
    assert shown is not None
    envelope = shown["envelope"]
    assert (envelope["reverse_path"], envelope["tenant"], envelope["envid"]) == ("me@origin.test", "shop", "E1")
    assert (envelope["body"], envelope["ret"], envelope["priority"]) == ("8BITMIME", "HDRS", -3)
    assert (envelope["durability"], envelope["login"], envelope["hold_until"]) == ("fsync", None, None)
    assert envelope["recipients"] == [{"address": "a@one.test", "notify": [], "orcpt": None}]
    assert shown["header"] == "Subject: x\r\nTo: y"
    assert shown["record"]["octets"] == message.record_octets
    assert await queue.inspector.show(5) is None


async def test_show_names_what_notify_asked_for(queue: SteeredQueue) -> None:
    message = queue.add()
    buffer = queue.shard.make(b"").loaded
    assert inspection.envelope_of(buffer)["recipients"][0]["notify"] == []
    assert [flag.name for flag in Notify] == ["NOTIFY_NEVER", "NOTIFY_SUCCESS", "NOTIFY_FAILURE", "NOTIFY_DELAY"]
    assert message.buffer is None


# ------------------------------------------------------------------ what it waits for


async def waits_for(queue: SteeredQueue, number: int) -> dict[str, Any]:
    shown = await queue.inspector.show(number)
    assert shown is not None
    waits: dict[str, Any] = shown["waits_for"]
    return waits


async def test_a_held_message_waits_for_its_release(queue: SteeredQueue) -> None:
    message = queue.add()
    message.state = MessageState.MESSAGE_HELD
    assert (await waits_for(queue, message.id))["what"] == "held"


async def test_a_scheduled_message_waits_for_its_time(queue: SteeredQueue) -> None:
    message = queue.add(in_memory=True)
    queue.dispatcher.schedule.wait(message, 4102444800.0)
    waits = await waits_for(queue, message.id)
    assert (waits["what"], waits["until"]) == ("schedule", "2100-01-01T00:00:00.000Z")


async def test_a_message_for_a_dead_host_waits_for_its_probe(queue: SteeredQueue) -> None:
    message = queue.add("a@one.test", in_memory=True)
    schedule = queue.dispatcher.schedule
    schedule.leave_alone(schedule.assign(message), 4102444800.0, b"mx.one.test: connection refused")
    waits = await waits_for(queue, message.id)
    assert waits["what"] == "site"
    assert waits["text"].endswith("one.test: mx.one.test: connection refused")
    assert waits["until"] == "2100-01-01T00:00:00.000Z"
    (listed,) = await queue.inspector.listing(Filter(state="scheduled"))
    assert listed["recipients"][0]["next_attempt"] == "2100-01-01T00:00:00.000Z"


async def test_a_suspension_is_named_with_who_and_why(queue: SteeredQueue) -> None:
    message = queue.add("a@One.test")
    until = datetime.now(UTC) + timedelta(hours=1)
    queue.steering.apply(
        [Suspension(kind="domain", name="one.test", reason="blocked us", by="ada", since=until, until=until)]
    )
    waits = await waits_for(queue, message.id)
    assert waits["what"] == "suspended"
    assert waits["text"] == "domain one.test, suspended by ada: blocked us"
    assert waits["until"].startswith(until.isoformat()[:19])
