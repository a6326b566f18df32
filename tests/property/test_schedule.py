"""The compiled table and timer against the plain ones, step by step."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from angarium._core.record import Message, make_accepted, new_message
from angarium._core.schedule import MessageTable, Timer
from tests.reference.schedule import PlainTable, PlainTimer

# few distinct ids, so that they meet; and such as collide in a table of 1,024 slots
ids = st.one_of(st.integers(1, 30), st.integers(0, 20).map(lambda i: 5 + (i << 50)), st.integers(1, 2**64 - 1))
times = st.one_of(st.integers(0, 12).map(float), st.floats(0, 1e10))


def make(number: int, recipients: int = 1) -> Message:
    envelope: dict[str, Any] = {"recipients": [(b"r", 0, b"")] * recipients}
    return new_message(make_accepted(envelope, b"", number))


class TableMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = MessageTable()
        self.plain: PlainTable[Message] = PlainTable()

    @rule(number=ids, recipients=st.integers(0, 3))
    def insert(self, number: int, recipients: int) -> None:
        message = make(number, recipients)
        if self.plain.get(number) is None:
            self.table.insert(message)
            self.plain.insert(number, message)
        else:
            with pytest.raises(ValueError, match="already"):
                self.table.insert(message)

    @rule(first=st.integers(1, 2**60), count=st.integers(1, 1500))
    def insert_many(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            if self.plain.get(number) is None:
                message = make(number)
                self.table.insert(message)
                self.plain.insert(number, message)

    @rule(number=ids)
    def get(self, number: int) -> None:
        assert self.table.get(number) is self.plain.get(number)

    @rule(number=ids)
    def discard_a_stranger(self, number: int) -> None:
        assert self.table.discard(make(number)) is False

    @rule(which=st.integers(0, 10_000))
    def discard(self, which: int) -> None:
        if self.plain.entries:
            number = list(self.plain.entries)[which % len(self.plain.entries)]
            message = self.plain.entries[number]
            assert self.table.discard(message) is self.plain.discard(number, message) is True
            assert self.table.discard(message) is False
            assert self.table.get(number) is None

    @rule(step=st.integers(1, 700))
    def walk_in_batches(self, step: int) -> None:
        position, found = 0, []
        while position < self.table.capacity:
            messages, position = self.table.batch(position, step)
            found += messages
        assert len(found) == len(self.plain.entries)
        assert {id(message) for message in found} == {id(message) for message in self.plain.entries.values()}

    @invariant()
    def same(self) -> None:
        entries = self.plain.entries
        assert len(self.table) == self.table.count == len(entries)
        assert self.table.recipients == sum(message.recipients for message in entries.values())
        assert self.table.octets == sum(message.record_octets for message in entries.values())
        assert self.table.capacity * 2 >= len(entries) * 3
        for number in list(entries)[:50]:
            assert self.table.get(number) is entries[number]

    def teardown(self) -> None:
        assert {id(message) for message in self.table} == {id(message) for message in self.plain.entries.values()}
        messages = list(self.plain.entries.values())
        self.plain.entries.clear()
        del self.table
        counts = {sys.getrefcount(message) for message in messages}
        assert counts <= {3}  # the list, the loop's name, and the call's argument


class TimerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.timer = Timer()
        self.plain: PlainTimer[Message] = PlainTimer()
        self.messages = {number: make(number) for number in range(1, 400)}

    @rule(number=st.integers(1, 399), at=times)
    def add(self, number: int, at: float) -> None:
        self.timer.add(self.messages[number], at)
        self.plain.add(number, self.messages[number], at)
        assert self.messages[number].next_attempt == at

    @rule(at=st.lists(times, min_size=1, max_size=399))
    def add_many(self, at: list[float]) -> None:
        for number, when in enumerate(at, 1):
            self.add(number, when)

    @rule(number=st.integers(1, 399))
    def remove(self, number: int) -> None:
        self.timer.remove(self.messages[number])
        self.plain.remove(number)
        assert self.messages[number].next_attempt == 0.0

    @rule(now=times, most=st.integers(1, 20))
    def pop(self, now: float, most: int) -> None:
        for _ in range(most):
            expected = self.plain.next_due(now)
            message = self.timer.pop_due(now)
            if message is None:
                assert not expected
                return
            assert message.id in expected
            assert message is self.messages[message.id]
            assert message.next_attempt == 0.0
            self.plain.remove(message.id)

    @invariant()
    def same(self) -> None:
        assert len(self.timer) == self.timer.count == len(self.plain.waiting)
        assert self.timer.first == self.plain.first

    def teardown(self) -> None:
        found = []
        while (message := self.timer.pop_due(float("inf"))) is not None:
            found.append(self.plain.waiting.pop(message.id)[0])
        assert found == sorted(found)
        assert not self.plain.waiting
        message = None
        for number in self.messages:
            kept = self.messages[number]
            count = sys.getrefcount(kept)
            assert count == 3, f"message {number} is held by somebody else"


TestTable = TableMachine.TestCase
TestTimer = TimerMachine.TestCase
TestTable.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestTimer.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
