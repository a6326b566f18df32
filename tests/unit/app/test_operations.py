"""Operations on many messages: who is met, what becomes of them, what is reported, and that the loop goes on."""

from __future__ import annotations

import asyncio
import errno
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from angarium._core.record import MessageState
from angarium.app import operations
from angarium.app.inspection import Filter
from angarium.app.operations import Order, Refusal, Report
from tests.support.steered import SteeredQueue

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def queue(tmp_path: Path) -> SteeredQueue:
    return SteeredQueue(tmp_path / "shard")


NUMBERS = itertools.count()


def order(action: Any, ids: list[int] | None = None, **conditions: Any) -> Order:
    operation = f"x{next(NUMBERS)}"
    return Order(operation=operation, action=action, ids=ids, filter=Filter(**conditions), reason="why", by="ada")


async def carry_out(queue: SteeredQueue, wanted: Order) -> Report:
    queue.operations.start(wanted)
    report = await queue.operations.wait(wanted.operation, 30)
    assert report is not None
    assert report.state == "done"
    assert report.ended is not None
    return report


def counts(report: Report) -> dict[str, int]:
    """What is not zero."""
    names = ("selected", "done", "under_way", "unchanged", "others", "failed")
    return {name: getattr(report, name) for name in names if getattr(report, name)}


async def test_hold_by_condition_and_release_by_id(queue: SteeredQueue) -> None:
    held, other = queue.add("a@one.test"), queue.add("a@two.test")
    assert counts(await carry_out(queue, order("hold", to_domain="ONE.test"))) == {"selected": 1, "done": 1}
    assert queue.dispatcher.told == [("hold", held.id)]
    assert queue.events.named("hold") == [{"id": held.queue_id, "by": "ada", "why": "why"}]
    assert counts(await carry_out(queue, order("hold", [held.id]))) == {"selected": 1, "unchanged": 1}
    released = await carry_out(queue, order("release", [held.id, other.id]))
    assert counts(released) == {"selected": 2, "done": 1, "unchanged": 1}
    assert queue.events.named("release") == [{"id": held.queue_id, "by": "ada"}]


async def test_release_by_log_in_trusts_it_again(queue: SteeredQueue) -> None:
    """Also what came and was held while somebody looked is released."""
    held = [queue.add(login=b"ada"), queue.add(login=b"ada", received_us=9_000_000), queue.add(login=b"grace")]
    for message in held:
        message.state = MessageState.MESSAGE_HELD
    queue.suspects = {"ada", "grace"}
    released = await carry_out(queue, order("release", log_in="ada", before_us=8_000_000))
    assert counts(released) == {"selected": 2, "done": 2}
    assert queue.suspects == {"grace"}
    assert queue.events.named("trusted") == [{"login": "ada", "by": "ada"}]
    assert held[2].state == MessageState.MESSAGE_HELD
    # nobody is trusted by other actions, or by a release of something else
    await carry_out(queue, order("hold", log_in="grace"))
    await carry_out(queue, order("release", to_domain="dest.test"))
    assert queue.suspects == {"grace"}
    await carry_out(queue, order("release", log_in="nobody"))
    assert len(queue.events.named("trusted")) == 1


async def test_retry_leaves_held_messages_alone(queue: SteeredQueue) -> None:
    held, waits = queue.add(), queue.add()
    held.state = MessageState.MESSAGE_HELD
    assert counts(await carry_out(queue, order("retry"))) == {"selected": 2, "done": 1, "unchanged": 1}
    assert queue.dispatcher.told == [("retry", waits.id)]


async def test_delete_says_so_in_the_event_log(queue: SteeredQueue) -> None:
    message = queue.add("a@one.test", "b@two.test")
    assert counts(await carry_out(queue, order("delete", [message.id, 12345]))) == {"selected": 1, "done": 1}
    assert len(queue.shard.table) == 0
    (event,) = queue.events.named("deletion")
    assert event == {"id": message.queue_id, "recipients": 2, "by": "ada", "why": "why"}
    (summary,) = queue.events.named("operation")
    assert (summary["action"], summary["class"], summary["selected"], summary["done"]) == ("delete", "done", 1, 1)


async def test_delete_by_domain_spares_messages_with_other_recipients(queue: SteeredQueue) -> None:
    alone, both = queue.add("a@one.test", "b@One.Test"), queue.add("a@one.test", "b@two.test")
    single, done = queue.add("a@one.test"), queue.add("a@one.test", "b@two.test")
    done.set_recipient_state(1, 1)  # was delivered
    report = await carry_out(queue, order("delete", to_domain="one.test"))
    assert counts(report) == {"selected": 4, "done": 3, "others": 1}
    assert {number for _, number in queue.dispatcher.told} == {alone.id, single.id, done.id}
    assert both in list(queue.shard.table)


async def test_bounce_by_domain_fails_the_recipients_there(queue: SteeredQueue) -> None:
    both, single = queue.add("a@one.test", "b@two.test"), queue.add("c@one.test", in_memory=True)
    await carry_out(queue, order("bounce", to_domain="one.test"))
    assert sorted(queue.recorder.given_up) == [(both.id, [0], "5.7.1", b"why"), (single.id, [0], "5.7.1", b"why")]
    assert both.buffer is None  # it waits on disk as it did
    assert list(queue.shard.table) == [both]


async def test_bounce_without_a_domain_fails_all(queue: SteeredQueue) -> None:
    message = queue.add("a@one.test", "b@two.test", "c@three.test")
    message.set_recipient_state(1, 1)
    await carry_out(queue, order("bounce", [message.id]))
    assert queue.recorder.given_up == [(message.id, [0, 2], "5.7.1", b"why")]


async def test_what_goes_wrong_with_a_message_is_counted_and_the_rest_goes_on(queue: SteeredQueue) -> None:
    messages = [queue.add() for _ in range(8)]
    queue.dispatcher.failure = OSError(errno.EIO, "Input/output error")
    report = await carry_out(queue, order("hold"))
    assert counts(report) == {"selected": 8, "failed": 8}
    assert len(report.errors) == operations.ERRORS_KEPT
    assert report.errors[0].startswith(f"{messages[0].queue_id}: ")
    assert "Input/output error" in report.errors[0]


async def test_a_message_that_cannot_be_read_is_not_bounced(queue: SteeredQueue) -> None:
    message = queue.add()
    with open(message.segment.path, "r+b") as file:
        file.seek(message.offset_octets + message.record_octets - 3)
        file.write(b"???")
    report = await carry_out(queue, order("bounce"))
    assert counts(report) == {"selected": 1, "failed": 1}
    assert report.errors == [f"{message.queue_id}: it cannot be read"]


async def test_a_long_operation_gives_way_and_can_be_cancelled(
    queue: SteeredQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "SLICE_S", 0.0)  # after every message
    for _ in range(50):
        queue.add()
    wanted = order("hold")
    report = queue.operations.start(wanted)
    while report.done < 5:
        await asyncio.sleep(0)
    assert report.state == "running"
    assert queue.operations.cancel(wanted.operation) is report
    await queue.operations.wait(wanted.operation, 30)
    assert report.state == "cancelled"
    assert 5 <= report.done < 50
    assert len([message for message in queue.shard.table if message.state == MessageState.MESSAGE_HELD]) == report.done


async def test_reports_stay_and_have_a_bound(queue: SteeredQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "KEPT", 3)
    wanted = [order("hold") for _ in range(5)]
    for each in wanted:
        await carry_out(queue, each)
    assert [report.operation for report in queue.operations.reports()] == [each.operation for each in wanted[2:]]
    assert queue.operations.report("nothing") is queue.operations.cancel("nothing") is None
    assert await queue.operations.wait("nothing", 0) is None
    with pytest.raises(Refusal, match="has been begun already"):
        queue.operations.start(wanted[-1])


async def test_so_many_run_at_a_time(queue: SteeredQueue) -> None:
    for _ in range(operations.RUNNING):
        queue.operations.start(order("hold"))
    with pytest.raises(Refusal, match="operations are running"):
        queue.operations.start(order("hold"))
    await queue.operations.close()
    assert {report.state for report in queue.operations.reports()} == {"cancelled"}
