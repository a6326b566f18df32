"""The table and the scheduled queues: what they hold, what they let go, and that no reference is kept or lost."""

from __future__ import annotations

import gc
import sys
from random import Random
from typing import Any

import pytest

from angarium._core.record import Message, MessageFlag, make_accepted, memory_octets, new_message
from angarium._core.schedule import MessageTable, ScheduledQueue


def make(number: int, recipients: int = 1) -> Message:
    envelope: dict[str, Any] = {"recipients": [(b"r", 0, b"")] * recipients}
    return new_message(make_accepted(envelope, b"mail", number))


def test_the_table_grows_and_shrinks_and_finds_everything() -> None:
    table = MessageTable()
    numbers = list(range(1, 5001))
    Random(1).shuffle(numbers)
    messages = {number: make(number << 14) for number in numbers}
    for message in messages.values():
        table.insert(message)
    assert len(table) == 5000
    assert table.capacity == 8192
    assert all(table.get(number << 14) is message for number, message in messages.items())
    assert table.get(5) is None
    for number in numbers[:4000]:
        assert table.discard(messages.pop(number))
    assert {message.id for message in table} == {number << 14 for number in messages}
    assert all(table.get(number << 14) is None for number in numbers[:4000])


def test_an_id_stands_in_the_table_once() -> None:
    table = MessageTable()
    message = make(7)
    table.insert(message)
    with pytest.raises(ValueError, match=f"message {message.queue_id} is in the table already"):
        table.insert(make(7))
    assert table.get(7) is message
    assert not table.discard(make(7))
    assert len(table) == 1


def test_the_table_sums_up_what_it_holds() -> None:
    table = MessageTable()
    messages = [make(number, number) for number in range(1, 6)]
    for message in messages:
        table.insert(message)
    assert (table.count, table.recipients) == (5, 15)
    assert table.octets == sum(message.record_octets for message in messages)
    for message in messages:
        table.discard(message)
    assert (table.count, table.recipients, table.octets) == (0, 0, 0)


def test_what_it_held_is_given_back() -> None:
    gc.collect()
    before = memory_octets()
    table = MessageTable()
    for number in range(1, 2000):
        message = make(number)
        table.insert(message)
        table.schedule.assign(message)
        table.schedule.wait(message, number)
    del message
    assert memory_octets() > before
    schedule = table.schedule
    del table
    assert memory_octets() == before
    assert schedule.count == 1999  # it never owned them


def test_a_message_that_waits_is_held_by_the_table_alone() -> None:
    table = MessageTable()
    message = make(1)
    alone = sys.getrefcount(message)
    table.insert(message)
    table.schedule.assign(message)
    table.schedule.wait(message, 5.0)
    table.schedule.wait(message, 3.0)
    held = sys.getrefcount(message)
    assert held == alone + 1
    table.discard(message)
    after = sys.getrefcount(message)
    assert after == alone
    assert table.schedule.count == 0


def test_who_belongs_to_no_queue_cannot_wait() -> None:
    table = MessageTable()
    message = make(1)
    table.insert(message)
    with pytest.raises(ValueError, match=f"message {message.queue_id} belongs to no queue"):
        table.schedule.wait(message, 1.0)


def to(number: int, *addresses: bytes, **more: Any) -> Message:
    recipients = [(address, 0, b"") for address in addresses]
    return new_message(make_accepted({"recipients": recipients, "received_us": number * 1000, **more}, b"mail", number))


def queued(table: MessageTable, message: Message, at: float, *, fresh: bool = False) -> ScheduledQueue:
    table.insert(message)
    queue = table.schedule.assign(message)
    table.schedule.wait(message, at, fresh)
    return queue


def test_messages_to_one_domain_wait_in_one_queue_whatever_the_case() -> None:
    table = MessageTable()
    first = queued(table, to(1, b"a@Example.ORG"), 1.0)
    second = queued(table, to(2, b"b@example.org", b"c@EXAMPLE.org"), 1.0)
    other = queued(table, to(3, b"a@example.net"), 1.0)
    assert first is second
    assert first is not other
    assert (first.domain, first.used, first.members) == (b"example.org", 2, 2)


@pytest.mark.parametrize(
    "addresses", [(b"a@example.org", b"a@example.net"), (b"postmaster",), (b"a@example.org", b"postmaster")]
)
def test_mail_to_several_domains_or_none_waits_in_the_queue_of_no_domain(addresses: tuple[bytes, ...]) -> None:
    assert queued(MessageTable(), to(1, *addresses), 1.0).domain == b""


def test_tenants_priorities_and_classes_have_queues_of_their_own() -> None:
    table = MessageTable()
    bulk = MessageFlag.MESSAGE_BULK
    made = [
        queued(table, to(1, b"a@example.org"), 1.0),
        queued(table, to(2, b"a@example.org", tenant=b"news"), 1.0),
        queued(table, to(3, b"a@example.org", priority=4), 1.0),
        queued(table, to(4, b"a@example.org", priority=-9), 1.0),
        queued(table, to(5, b"a@example.org", flags=bulk), 1.0),
        queued(table, to(6, b"a@example.org", flags=bulk, priority=9), 1.0),
    ]
    assert len({queue.number for queue in made}) == 6
    assert [queue.lane for queue in made] == [2, 2, 0, 4, 3, 1]
    assert [table.schedule.tenant(queue) for queue in made[:2]] == [b"", b"news"]


def test_fresh_mail_goes_before_retries_and_both_in_order() -> None:
    table = MessageTable()
    for number, at in ((1, 30.0), (2, 10.0), (3, 20.0)):
        queue = queued(table, to(number, b"a@example.org"), at)
    for number in (5, 4):
        queued(table, to(number, b"a@example.org"), 0.0, fresh=True)
    assert table.schedule.pop_due(15.0) is queue
    taken = []
    while (message := table.schedule.take_from(queue, 15.0)) is not None:
        taken.append(message.id)
    assert taken == [4, 5, 2]
    table.schedule.settle(queue)
    assert (queue.used, queue.first, table.schedule.first) == (2, 20.0, 20.0)


def test_a_next_hop_that_is_left_alone_keeps_its_queue_from_being_due() -> None:
    table = MessageTable()
    queue = queued(table, to(1, b"a@example.org"), 0.0, fresh=True)
    table.schedule.leave_alone(queue, 50.0, b"connection refused", 2)
    assert table.schedule.first == 50.0
    assert table.schedule.pop_due(49.0) is None
    assert table.schedule.take_from(queue, 49.0) is None
    table.schedule.unblock(b"something else")
    assert table.schedule.first == 50.0
    table.schedule.unblock(b"connection refused")
    assert table.schedule.pop_due(1.0) is queue


def test_suspensions_hold_what_is_there_and_what_comes_and_end_by_themselves() -> None:
    table = MessageTable()
    schedule = table.schedule
    before = queued(table, to(1, b"a@example.org"), 0.0, fresh=True)
    schedule.suspend("domain", b"example.org", 100.0, "complaints")
    schedule.suspend("tenant", b"news", 0.0, "unpaid")
    after = queued(table, to(2, b"a@example.org", tenant=b"other"), 0.0, fresh=True)
    theirs = queued(table, to(3, b"a@example.net", tenant=b"news"), 0.0, fresh=True)
    free = queued(table, to(4, b"a@example.net"), 0.0, fresh=True)
    assert [queue.suspended for queue in (before, after, theirs, free)] == [True, True, True, False]
    assert schedule.pop_due(1e9) is free
    assert schedule.pop_due(1e9) is None
    assert schedule.expire_suspensions(99.0) == []
    assert schedule.expire_suspensions(100.0) == [("domain", b"example.org")]
    assert {schedule.pop_due(1e9), schedule.pop_due(1e9)} == {before, after}
    assert schedule.pop_due(1e9) is None
    assert schedule.resume("tenant", b"news")
    assert not schedule.resume("tenant", b"news")
    assert schedule.pop_due(1e9) is theirs


def test_a_retry_schedule_is_asked_for_once_a_queue() -> None:
    table = MessageTable()
    asked: list[bytes] = []

    def policy_of(domain: bytes) -> int:
        asked.append(domain)
        return 7

    table.schedule.policy_of = policy_of
    queue = queued(table, to(1, b"a@example.org"), 1.0)
    queued(table, to(2, b"b@example.org"), 1.0)
    assert (queue.policy, asked) == (7, [b"example.org"])


def test_a_queued_message_whose_mail_data_is_on_disk_takes_112_octets() -> None:
    message = make(1)
    assert sys.getsizeof(message) <= 120  # 112, and 8 while `replies` is there


def test_other_routes_leave_no_next_hop_alone_and_keep_suspensions() -> None:
    table = MessageTable()
    schedule = table.schedule
    messages = [waiting(table, number, domain) for number, domain in enumerate((b"a.test", b"b.test", b"c.test"), 1)]
    queues = [schedule.assign(message) for message in messages]
    schedule.leave_alone(queues[0], 5000.0, b"unreachable", 3)
    schedule.leave_alone(queues[1], 6000.0, b"unreachable", 1)
    schedule.suspend("domain", b"b.test", 0.0, "complaints")
    schedule.unblock_all()
    assert [(queue.not_before, queue.reason, queue.failures) for queue in queues] == [(0.0, None, 0)] * 3
    assert [queue.suspended for queue in queues] == [False, True, False]
    due = []
    while (queue := schedule.pop_due(2000.0)) is not None:
        due.append(queue.domain)
    assert sorted(due) == [b"a.test", b"c.test"]


def test_other_retry_schedules_are_asked_for_again() -> None:
    table = MessageTable()
    schedule = table.schedule
    schedule.policy_of = lambda domain: 1 if domain == b"a.test" else 0
    queues = [
        schedule.assign(waiting(table, number, domain)) for number, domain in enumerate((b"a.test", b"b.test"), 1)
    ]
    assert [queue.policy for queue in queues] == [1, 0]
    schedule.policy_of = lambda domain: 2
    schedule.renumber_policies()
    assert [queue.policy for queue in queues] == [2, 2]


def waiting(table: MessageTable, number: int, domain: bytes) -> Message:
    """A message to that domain that waits until 1000."""
    envelope: dict[str, Any] = {"recipients": [(b"r@" + domain, 0, b"")]}
    message = new_message(make_accepted(envelope, b"mail", number << 14))
    table.insert(message)
    table.schedule.assign(message)
    table.schedule.wait(message, 1000.0)
    return message
