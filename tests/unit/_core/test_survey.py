"""What is queued, by age, provider, tenant and domain, and what it waits for, as a round through the table finds it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from angarium._core.counters import Counters, Dimension, Slab, Slot, Top
from angarium._core.record import MessageFlag, MessageState
from tests.unit._core.test_dispatch import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from angarium._core.dispatch import ReadyQueue
    from angarium._core.record import Message

CAUSES = [slot for slot in Slot if slot.name.startswith("QUEUE_WAITED_")]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    for journal in node.journals:
        journal.close()


def go_round(node: Node, times: int = 1) -> None:
    """Look at everything queued so many times, and let what was found show."""
    for _ in range(times + 1):
        node.dispatcher.sweep(node.dispatcher.table.capacity)


def waited(counters: Counters) -> dict[Slot, int]:
    return {slot: counters.value(slot) for slot in CAUSES if counters.value(slot)}


def test_what_is_queued_shows_by_age_and_goes_when_it_is_gone(node: Node) -> None:
    now = time.time()
    for age_s in (0.5, 90, 90, 7000):
        node.wait(now + 3600, received_us=int((now - age_s) * 1e6))
    go_round(node)
    buckets = [node.counters.value(Slot.QUEUE_AGE + i) for i in range(26)]
    assert sum(buckets[:25]) == 4
    assert [i for i, count in enumerate(buckets[:25]) if count] == [12, 18, 23]  # under 1 s, 2 minutes, 4 hours
    assert buckets[25] == pytest.approx(7180.5e6, abs=5e6)
    for message in list(node.dispatcher.table):
        node.dispatcher.withdraw(message)
        node.dispatcher.drop(message)
    go_round(node)
    assert not any(node.counters.value(Slot.QUEUE_AGE + i) for i in range(26))


def test_what_waits_shows_by_provider_tenant_and_domain(node: Node, tmp_path: Path) -> None:
    slab = Slab.create(1)
    slab.assign(Dimension.DIMENSION_TENANT, ["shop"])
    slab.assign(Dimension.DIMENSION_PROVIDER, ["big"])
    (tmp_path / "named").mkdir()
    node = Node(tmp_path / "named", slab=slab)
    node.dispatcher.schedule.provider_of = lambda domain: 1 if domain == b"big.example" else 0
    now = time.time()
    for path, tenant, age_s in (
        (b"a@big.example", b"shop", 50),
        (b"b@big.example", b"", 20),
        (b"c@small.example", b"shop", 10),
    ):
        node.wait(now + 3600, path, tenant=tenant, received_us=int((now - age_s) * 1e6))
    go_round(node)
    assert [node.counters.value(Slot.PROVIDER_WAITING + row) for row in range(3)] == [1, 2, 0]
    oldest = [node.counters.value(Slot.PROVIDER_OLDEST + row) * 1e-6 for row in range(3)]
    assert oldest == [pytest.approx(10, abs=5), pytest.approx(50, abs=5), 0]
    shop = node.counters.row(Dimension.DIMENSION_TENANT, b"shop")
    assert node.counters.value(Slot.TENANT_WAITING + shop) == 2
    assert node.counters.value(Slot.TENANT_WAITING) == 1
    assert slab.top(0, Top.TOP_WAITING) == [(b"big.example", 2, 0), (b"small.example", 1, 0)]


def held(node: Node) -> None:
    node.dispatcher.hold(node.wait(time.time() + 3600))


def suspended(node: Node) -> None:
    node.wait(0)
    node.dispatcher.suspend("domain", b"example.net", 0, "by hand")


def over_quota(node: Node) -> None:
    node.wait(time.time() + 3600, flags=MessageFlag.MESSAGE_OVER_QUOTA)


def to_be_released(node: Node) -> None:
    node.wait(time.time() + 3600, received_us=int((time.time() + 3600) * 1e6))


def deferred(node: Node) -> None:
    message = node.wait(time.time() + 3600)
    message.set_attempts(1)


def without_names(node: Node) -> None:
    message = node.wait(0)
    node.dispatcher.leave_alone(message, 3600, b"no answer")


def unreachable(node: Node) -> None:
    queue = node.queue()
    node.dispatcher.remember(b"example.net", queue)
    queue.failures = 1
    queue.block(3600, b"refused")
    node.wait(0)
    node.dispatcher.tick()


def without_a_connection_yet(node: Node) -> None:
    busy(node, open=0)


def busy(node: Node, *, open: int = 2) -> None:
    queue = node.queue(limit=2)
    queue.open = open
    node.dispatcher.remember(b"example.net", queue)
    node.dispatcher.queue_limit = 4
    for _ in range(20):
        node.wait(0)
    node.dispatcher.tick()
    node.read()


@pytest.mark.parametrize(
    ("prepare", "cause"),
    [
        (held, Slot.QUEUE_WAITED_HELD),
        (suspended, Slot.QUEUE_WAITED_SUSPENDED),
        (over_quota, Slot.QUEUE_WAITED_QUOTA),
        (to_be_released, Slot.QUEUE_WAITED_RELEASE),
        (deferred, Slot.QUEUE_WAITED_BACKOFF),
        (without_names, Slot.QUEUE_WAITED_DNS),
        (unreachable, Slot.QUEUE_WAITED_CONNECTION),
        (without_a_connection_yet, Slot.QUEUE_WAITED_CONNECTION),
        (busy, Slot.QUEUE_WAITED_CONCURRENCY),
        (lambda node: node.wait(0), Slot.QUEUE_WAITED_ROOM),
    ],
)
def test_what_waits_is_charged_to_one_cause(node: Node, prepare: Callable[[Node], None], cause: Slot) -> None:
    prepare(node)
    go_round(node, 50)
    assert list(waited(node.counters)) == [cause]


def test_every_second_of_a_message_is_charged_once(node: Node) -> None:
    began = time.monotonic()
    go_round(node, 2)
    for _ in range(10):
        node.dispatcher.hold(node.wait(time.time() + 3600))
    go_round(node)
    first = last = time.monotonic()
    while last - first < 0.1:
        last = time.monotonic()
        go_round(node)
    charged_s = sum(waited(node.counters).values()) * 1e-6
    assert 10 * (last - first) <= charged_s <= 10 * (time.monotonic() - began)


def test_what_is_ready_is_charged_while_it_waits_for_a_connection(node: Node) -> None:
    queue: ReadyQueue = node.queue()
    node.dispatcher.remember(b"example.net", queue)
    messages: list[Message] = [node.accept() for _ in range(3)]
    assert [message.state for message in messages] == [MessageState.MESSAGE_READY] * 3
    node.dispatcher.grow()
    node.dispatcher.grow()
    assert list(waited(node.counters)) == [Slot.QUEUE_WAITED_CONNECTION]
    while (delivery := queue.take()) is not None:
        delivery.message.set_recipient_state(0, 1)
    at_rest = waited(node.counters)
    node.dispatcher.grow()
    node.dispatcher.grow()
    assert waited(node.counters) == at_rest
