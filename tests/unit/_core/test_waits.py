"""What a message has waited for: each cause, from what the ready queue and the schedule know; nobody measures."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from angarium._core.event_log import open_log
from tests.unit._core.test_dispatch import Node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from angarium._core.dispatch import Delivery, ReadyQueue
    from angarium._core.record import Message

DOMAIN = b"example.net"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.close()


def pass_time(node: Node, message: Message, cause: str, seconds: float = 0.001) -> None:
    """Until message has waited so long for that; what it waits for does not change meanwhile."""
    for _ in range(1_000_000):
        if node.dispatcher.waited(message).get(cause, 0.0) > seconds:
            return
    raise AssertionError(f"it does not wait for {cause}: {node.dispatcher.waited(message)}")


def take(queue: ReadyQueue) -> Delivery:
    delivery = queue.take()
    assert delivery is not None
    return delivery


def told(delivery: Delivery) -> set[str]:
    """The causes of more than it takes to say so."""
    return {cause for cause, seconds in delivery.waited.items() if seconds > 0.0001}


def main(delivery: Delivery) -> str:
    waited = delivery.waited
    return max(waited, key=lambda cause: waited[cause])


def site(node: Node, **more: int) -> ReadyQueue:
    queue = node.queue(**more)
    node.dispatcher.remember(DOMAIN, queue)
    return queue


def test_what_goes_at_once_has_not_waited(node: Node) -> None:
    queue = node.hand()
    node.dispatcher.remember(DOMAIN, queue)
    node.accept()
    assert node.handed[0].waited == {}


@pytest.mark.parametrize(
    ("open_now", "connecting", "cause"),
    [(0, 1, "connection"), (2, 0, "concurrency"), (1, 1, "concurrency"), (1, 0, "room")],
)
def test_what_waits_in_a_ready_queue(node: Node, open_now: int, connecting: int, cause: str) -> None:
    queue = site(node, limit=2)
    queue.open = open_now
    queue.connecting = connecting
    message = node.accept()
    assert queue.waits_for == cause
    assert node.dispatcher.waiting_in(message) is queue
    pass_time(node, message, cause)
    delivery = take(queue)
    assert told(delivery) == {cause}
    assert node.dispatcher.waited(message) == {}
    assert node.dispatcher.waiting_in(message) is None


def test_each_turn_is_charged_to_its_own_cause(node: Node) -> None:
    queue = site(node, limit=1)
    message = node.accept()
    pass_time(node, message, "connection")
    queue.open, queue.connecting = 1, 0
    queue.wake()
    pass_time(node, message, "concurrency", 0.002)
    assert told(take(queue)) == {"connection", "concurrency"}
    assert len(queue.timeline) == 2
    node.dispatcher.grow()
    assert len(queue.timeline) == 0  # nobody waits any more


def test_a_host_that_cannot_be_reached(node: Node) -> None:
    queue = site(node)
    message = node.accept()
    queue.connecting, queue.failures = 0, 1
    queue.block(0.01, b"refused")
    assert (queue.backlog, node.dispatcher.waiting_in(message)) == (0, None)
    pass_time(node, message, "connection", 0.011)
    node.dispatcher.tick()
    assert main(take(queue)) == "connection"


def test_more_waits_behind_what_a_next_hop_takes_at_a_time(node: Node) -> None:
    """What waits in its scheduled queue waits for the same as what is ready."""
    node.dispatcher.queue_limit = 1
    queue = site(node, limit=1)
    queue.open = 1
    first, second = node.accept(), node.accept()
    assert (queue.backlog, queue.attached) == (1, 1)
    pass_time(node, second, "concurrency")
    assert take(queue).message is first
    assert node.dispatcher.waiting_in(second) is queue
    delivery = take(queue)
    assert delivery.message is second
    assert main(delivery) == "concurrency"


@pytest.mark.parametrize(
    ("kind", "name"), [("domain", DOMAIN), ("site", b"host"), ("source", b"default"), ("tenant", b"")]
)
def test_what_was_suspended(node: Node, kind: str, name: bytes) -> None:
    queue = site(node)
    node.dispatcher.suspend(kind, name, 0, "they asked")
    queue.apply_suspensions()
    message = node.accept()
    pass_time(node, message, "suspended")
    node.dispatcher.resume(kind, name)
    queue.apply_suspensions()
    node.dispatcher.tick()
    assert main(take(queue)) == "suspended"
    assert node.dispatcher.schedule.pauses[0][:2] == (kind, name)


def test_a_suspension_that_ends_by_its_time(node: Node) -> None:
    queue = site(node)
    node.dispatcher.suspend("domain", DOMAIN, time.time() + 0.001, "for a while")
    message = node.accept()
    pass_time(node, message, "suspended", 0.002)
    assert node.dispatcher.schedule.expire_suspensions(time.time()) == [("domain", DOMAIN)]
    node.dispatcher.tick()
    assert main(take(queue)) == "suspended"


def test_pauses_that_are_over_are_bounded(node: Node) -> None:
    for number in range(100):
        node.dispatcher.suspend("domain", b"%d.test" % number, 0, "why")
        node.dispatcher.resume("domain", b"%d.test" % number)
    assert len(node.dispatcher.schedule.pauses) == 64
    assert node.dispatcher.schedule.pauses[-1][:2] == ("domain", b"99.test")


def test_a_domain_without_names(node: Node) -> None:
    message = node.wait(time.time(), b"a@example.net")
    node.dispatcher.leave_alone(message, 0.001, b"SERVFAIL")
    pass_time(node, message, "dns", 0.002)
    queue = site(node)  # they are known now
    pass_time(node, message, "room")
    node.dispatcher.tick()
    node.read()
    assert main(take(queue)) == "dns"


def test_names_that_are_looked_up(node: Node) -> None:
    waiting, queue = node.hand(), node.queue()
    message = node.make()
    node.dispatcher.send(message, waiting, [0])
    (delivery,) = node.handed
    began = time.monotonic()
    while time.monotonic() < began + 0.001:
        pass
    node.dispatcher.redirect(delivery, queue)
    pass_time(node, message, "connection")
    assert take(queue) is delivery
    assert told(delivery) == {"dns", "connection"}


def test_mail_data_that_is_read(node: Node) -> None:
    queue = site(node)
    node.wait(time.time())
    node.dispatcher.tick()
    (waiting,) = node.loaded
    began = time.monotonic()
    while time.monotonic() < began + 0.001:
        pass
    node.read()
    assert waiting[1] is queue
    assert take(queue).waited["disk"] > 0.001


def test_no_room_in_the_relay(node: Node) -> None:
    node.dispatcher.ready_limit = 1
    busy = node.queue()
    node.dispatcher.send(node.make(), busy, [0])
    queue = site(node)
    message = node.wait(time.time())
    assert node.dispatcher.tick() == 0
    pass_time(node, message, "room")
    take(busy)
    node.dispatcher.tick()
    node.read()
    assert main(take(queue)) == "room"


def test_what_was_before_this_process_began(node: Node) -> None:
    queue = site(node)
    message = node.wait(time.time() - 100)
    assert node.dispatcher.waited(message)["restart"] == pytest.approx(100, abs=5)
    node.dispatcher.tick()
    node.read()
    assert take(queue).waited["restart"] == pytest.approx(100, abs=5)


def test_the_time_of_its_next_attempt_is_no_wait_of_this_kind(node: Node) -> None:
    message = node.wait(time.time() + 1000)
    assert node.dispatcher.waited(message) == {}


def test_nothing_was_tried_for_what_comes_back(node: Node) -> None:
    """A next hop that is left alone gives back what is ready: what it has waited so far stays with it."""
    queue = node.queue()
    node.dispatcher.place = lambda message: node.dispatcher.send(message, queue, [0])
    message = node.accept(b"a@example.net")  # its domain is not remembered: it finds its way by itself
    pass_time(node, message, "connection")
    queue.connecting, queue.failures = 0, 1
    queue.block(0.001, b"refused")
    pass_time(node, message, "connection", 0.004)
    queue.blocked_until = 0.0
    node.dispatcher.retry_now(message)
    node.dispatcher.tick()
    node.read()
    assert take(queue).waited["connection"] > 0.004


def test_a_connection_that_broke_off_is_part_of_the_wait(node: Node) -> None:
    queue = site(node)
    message = node.accept()
    delivery = take(queue)
    queue.put_back(delivery)
    pass_time(node, message, "connection")
    assert take(queue) is delivery
    assert told(delivery) == {"connection"}


def test_what_is_split_off_has_waited_as_long(node: Node) -> None:
    queue = site(node)
    message = node.accept(b"a@example.net", b"b@example.net")
    assert node.placed == [message]
    node.dispatcher.send(message, queue, [0, 1])
    pass_time(node, message, "connection")
    delivery = take(queue)
    assert delivery.waited["connection"] > 0.001


def said_by_the_event(folder: Path, node: Node, waits_s: float) -> dict[str, object]:
    """The event of an attempt whose message has waited that long, at least, for a connection."""
    path = str(folder / "events.jsonl")
    node.dispatcher.events.move(path, open_log(path))
    queue = site(node)
    message = node.accept()
    pass_time(node, message, "connection", waits_s)
    node.dispatcher.log_attempt("deferral", take(queue), 0, 451, None, b"later")
    node.dispatcher.events.close()
    line: dict[str, object] = json.loads((folder / "events.jsonl").read_text())
    return line


def test_an_event_tells_of_a_wait_that_is_worth_it(tmp_path: Path, node: Node) -> None:
    waited = said_by_the_event(tmp_path, node, 0.006)["waited"]
    assert isinstance(waited, dict)
    assert set(waited) == {"connection"}
    assert waited["connection"] > 0.006


def test_an_event_says_nothing_of_what_went_at_once(tmp_path: Path, node: Node) -> None:
    path = str(tmp_path / "events.jsonl")
    node.dispatcher.events.move(path, open_log(path))
    queue = node.hand()
    node.dispatcher.remember(DOMAIN, queue)
    node.accept()
    node.dispatcher.delivered_by_hand(node.handed[0], 250, b"taken")
    node.dispatcher.events.close()
    assert "waited" not in json.loads((tmp_path / "events.jsonl").read_text())
