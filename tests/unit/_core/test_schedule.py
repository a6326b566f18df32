"""The table and the timer: what they hold, what they let go, and that neither keeps or loses a reference."""

from __future__ import annotations

import gc
import sys
from random import Random
from typing import Any

import pytest

from angarium._core.record import Message, make_accepted, memory_octets, new_message
from angarium._core.schedule import MessageTable, Timer


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


def test_what_they_held_is_given_back() -> None:
    gc.collect()
    before = memory_octets()
    table, timer = MessageTable(), Timer()
    for number in range(1, 2000):
        message = make(number)
        table.insert(message)
        timer.add(message, number)
    del message
    assert memory_octets() > before
    del table
    assert memory_octets() > before  # the timer still has them
    del timer
    assert memory_octets() == before


def test_references_are_balanced() -> None:
    table, timer = MessageTable(), Timer()
    message = make(1)
    alone = sys.getrefcount(message)
    table.insert(message)
    timer.add(message, 5.0)
    timer.add(message, 3.0)
    both = sys.getrefcount(message)
    assert both == alone + 2
    found = table.get(1)
    assert found is message
    del found
    assert timer.pop_due(2.0) is None
    due = timer.pop_due(3.0)
    assert due is message
    del due
    table.discard(message)
    after = sys.getrefcount(message)
    assert after == alone


def test_messages_come_out_in_order_of_their_time_and_not_before() -> None:
    timer = Timer()
    at = [float(i) for i in range(1000)]
    Random(2).shuffle(at)
    for number, when in enumerate(at, 1):
        timer.add(make(number), when)
    assert timer.first == 0.0
    assert timer.pop_due(-0.5) is None
    found = []
    while (message := timer.pop_due(499.0)) is not None:
        found.append(at[message.id - 1])
    assert found == [float(i) for i in range(500)]
    assert timer.first == 500.0
    assert len(timer) == 500


def test_a_message_that_is_added_again_moves() -> None:
    timer = Timer()
    first, second = make(1), make(2)
    timer.add(first, 10.0)
    timer.add(second, 20.0)
    timer.add(first, 30.0)
    assert len(timer) == 2
    assert timer.first == 20.0
    timer.add(first, 5.0)
    assert timer.pop_due(100.0) is first
    assert timer.pop_due(100.0) is second
    assert timer.pop_due(100.0) is None
    assert timer.first is None


def test_a_message_can_be_taken_out() -> None:
    timer = Timer()
    messages = [make(number) for number in range(1, 101)]
    for message in messages:
        timer.add(message, float(message.id % 10))
    for message in messages[::2]:
        timer.remove(message)
        timer.remove(message)
    found = []
    while (message := timer.pop_due(100.0)) is not None:  # type: ignore[assignment]
        found.append(message)
    assert {message.id for message in found} == {message.id for message in messages[1::2]}


def test_a_message_outlives_its_timer_and_can_wait_in_another() -> None:
    messages = [make(number) for number in range(1, 4)]
    timer = Timer()
    for message in messages:
        timer.add(message, 1.0)
    del timer
    later = Timer()
    for message in reversed(messages):
        later.add(message, float(message.id))
    assert [later.pop_due(9.0) for _ in range(4)] == [*messages, None]


def test_an_empty_timer_has_nothing() -> None:
    timer = Timer()
    assert (len(timer), timer.first, timer.pop_due(1e18)) == (0, None, None)
    timer.remove(make(1))
