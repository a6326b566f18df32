"""The compiled table and schedule against the plain ones, step by step."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from angarium._core.record import Message, make_accepted, new_message
from angarium._core.schedule import MessageTable
from tests.reference.schedule import PlainSchedule, PlainTable

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


DOMAINS = (b"a.example", b"b.example", b"c.example")
TENANTS = (b"", b"news")
Key = tuple[bytes, int, bytes]


def member(number: int, tenant: bytes, priority: int, domain: bytes) -> tuple[Key, Message]:
    recipients = [(b"x@" + domain.upper(), 0, b"")] if domain else [(b"x@a.example", 0, b""), (b"x@b.example", 0, b"")]
    envelope: dict[str, Any] = {
        "recipients": recipients,
        "tenant": tenant,
        "priority": priority,
        "received_us": 1_000_000 * number,
    }
    lane = 0 if priority >= 4 else 2 if priority > -4 else 4
    return (tenant, lane, domain), new_message(make_accepted(envelope, b"", number))


class ScheduleMachine(RuleBasedStateMachine):
    """The compiled schedule beside the plain one. A queue that is awake, between pop_due and settle, is left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = MessageTable()
        self.schedule = self.table.schedule
        self.plain: PlainSchedule[Message] = PlainSchedule()
        self.messages: dict[int, Message] = {}
        self.keys: dict[int, Key] = {}
        self.made = 0
        self.suspended: set[tuple[str, bytes]] = set()

    @rule(
        count=st.integers(1, 40),
        tenant=st.sampled_from(TENANTS),
        priority=st.integers(-9, 9),
        domain=st.sampled_from((*DOMAINS, b"")),
        at=st.one_of(st.none(), times),
    )
    def accept(self, count: int, tenant: bytes, priority: int, domain: bytes, at: float | None) -> None:
        for _ in range(count):
            self.made += 1
            key, message = member(self.made, tenant, priority, domain)
            self.table.insert(message)
            self.schedule.assign(message)
            self.messages[message.id] = message
            self.keys[message.id] = key
            self.wait(message.id, at)

    def wait(self, number: int, at: float | None) -> None:
        message = self.messages[number]
        self.plain.remove(number)
        fresh = at is None
        self.schedule.wait(message, at or 0.0, fresh)
        self.plain.queue(self.keys[number]).waiting[number] = (fresh, float(number) if fresh else at or 0.0, message)

    def pick(self, which: int) -> int | None:
        return sorted(self.messages)[which % len(self.messages)] if self.messages else None

    @rule(which=st.integers(0, 1000), at=st.one_of(st.none(), times))
    def move(self, which: int, at: float | None) -> None:
        number = self.pick(which)
        if number is not None:
            self.wait(number, at)

    @rule(which=st.integers(0, 1000))
    def cancel(self, which: int) -> None:
        number = self.pick(which)
        if number is not None:
            self.schedule.remove(self.messages[number])
            self.plain.remove(number)
            assert self.messages[number].next_attempt == 0.0

    @rule(which=st.integers(0, 1000))
    def done(self, which: int) -> None:
        number = self.pick(which)
        if number is not None:
            assert self.table.discard(self.messages.pop(number))
            self.plain.remove(number)

    @rule(which=st.integers(0, 1000), until=times)
    def leave_alone(self, which: int, until: float) -> None:
        number = self.pick(which)
        if number is None:
            return
        queue = self.schedule.queue(self.messages[number])
        assert queue is not None
        self.schedule.leave_alone(queue, until, b"refused", 3)
        assert (queue.not_before, queue.reason, queue.failures) == (until, b"refused", 3)
        self.plain.queue(self.keys[number]).not_before = until

    @rule(kind=st.sampled_from(("domain", "tenant")), domain=st.sampled_from(DOMAINS), tenant=st.sampled_from(TENANTS))
    def suspend(self, kind: str, domain: bytes, tenant: bytes) -> None:
        self.schedule.suspend(kind, domain if kind == "domain" else tenant, 0.0, "a reason")
        self.judge()

    @rule(kind=st.sampled_from(("domain", "tenant")), domain=st.sampled_from(DOMAINS), tenant=st.sampled_from(TENANTS))
    def resume(self, kind: str, domain: bytes, tenant: bytes) -> None:
        name = domain if kind == "domain" else tenant
        assert self.schedule.resume(kind, name) is ((kind, name) in self.suspended)
        self.judge()

    def judge(self) -> None:
        self.suspended = set(self.schedule.suspensions)

    @rule(now=times, most=st.integers(1, 30))
    def pass_of(self, now: float, most: int) -> None:
        for _ in range(most):
            due = self.plain.due(now)
            queue = self.schedule.pop_due(now)
            if queue is None:
                assert not due
                return
            key = (self.schedule.tenant(queue), queue.lane, queue.domain)
            assert key in due
            plain = self.plain.queue(key)
            message = self.schedule.take_from(queue, now)
            assert message is not None
            assert message.id in plain.candidates()
            assert message is self.messages[message.id]
            del plain.waiting[message.id]
            self.schedule.settle(queue)

    @invariant()
    def same(self) -> None:
        members: dict[Key, int] = {}
        for number in self.messages:
            members[self.keys[number]] = members.get(self.keys[number], 0) + 1
        for key in set(self.plain.queues) - set(members):
            del self.plain.queues[key]  # a queue lives while messages belong to it
        for key, queue in self.plain.queues.items():
            tenant, _, domain = key
            queue.suspended = ("domain", domain) in self.suspended or ("tenant", tenant) in self.suspended
        assert len(self.schedule) == self.schedule.count == self.plain.count
        assert self.schedule.first == self.plain.first
        alive = {
            (self.schedule.tenant(queue), queue.lane, queue.domain): queue for queue in self.schedule.queues if queue
        }
        assert {key: queue.members for key, queue in alive.items()} == members
        for key, queue in alive.items():
            plain = self.plain.queue(key)
            assert queue.used == len(plain.waiting)
            assert queue.suspended == plain.suspended

    def teardown(self) -> None:
        for number in list(self.messages):
            assert self.table.discard(self.messages.pop(number))
        assert self.schedule.count == 0
        assert self.schedule.first is None
        assert not any(self.schedule.queues)


TestTable = TableMachine.TestCase
TestSchedule = ScheduleMachine.TestCase
TestTable.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestSchedule.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
