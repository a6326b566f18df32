"""By what mail leaves: whose pool, which source, and which stands in for one that cannot be used."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from angarium._core.client_session import Phase
from angarium._core.counters import Slab, Slot
from angarium._core.dispatch import Dispatcher
from angarium._core.event_log import EventLog
from angarium._core.journal import Journal
from angarium._core.record import make_accepted, new_message
from angarium.clock import SystemClock
from angarium.config.model import Delivery as DeliveryConfig
from angarium.config.model import Route, SourceMember, SourcePool
from angarium.config.model import Source as SourceConfig
from angarium.config.next_hop import NextHop
from angarium.delivery import source as source_module
from angarium.delivery.attempt import SOURCE_REST_S, Router
from angarium.delivery.route import RouteTable
from angarium.delivery.source import Source, SourceFailure, Sources
from angarium.delivery.tls_policy import TlsPolicies
from angarium.mail.pattern import AddressPattern
from tests.support.relay import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from angarium._core.dispatch import ReadyQueue
    from angarium._core.record import Message

V4, V6 = socket.AF_INET, socket.AF_INET6


def source(name: str, ipv4: str | None = None, ipv6: str | None = None) -> SourceConfig:
    return SourceConfig(name=name, ipv4=ipv4, ipv6=ipv6)


def pool(name: str, *members: str) -> SourcePool:
    return SourcePool(name=name, members=tuple(SourceMember(source=member) for member in members))


def route(domain: str, to: str, pool: str | None = None) -> Route:
    return Route(recipients=(AddressPattern.parse(domain),), next_hop=NextHop.parse(to), source_pool=pool)


class Connector:
    """Notes for whom a connection is wanted."""

    def __init__(self) -> None:
        self.wanted: list[ReadyQueue] = []

    def connect(self, queue: ReadyQueue) -> None:
        self.wanted.append(queue)


class Node:
    """A dispatcher and a router, without a worker."""

    def __init__(self, folder: Path, sources: list[SourceConfig], pools: list[SourcePool], *routes: Route) -> None:
        self.counters = Slab.create(1).region(0)
        self.log = folder / "events"
        self.events = EventLog(str(self.log), self.counters)
        self.dispatcher = Dispatcher(self.counters, self.events)
        (folder / "0").mkdir()
        self.journal = Journal(str(folder / "0"), 0, 1 << 20, self.counters, self.dispatcher)
        self.dispatcher.journals[0] = self.journal
        self.connector = Connector()
        self.number = 0
        self.change(sources, pools, *routes)

    def change(self, sources: list[SourceConfig], pools: list[SourcePool], *routes: Route) -> None:
        """Another configuration, as a reload takes it."""
        self.sources = Sources(self.dispatcher, self.counters, tuple(sources), tuple(pools), "relay.test")
        connector: Any = self.connector
        before = getattr(self, "router", None)
        self.router = Router(
            self.dispatcher,
            connector,
            None,  # type: ignore[arg-type]  # no route is by MX
            RouteTable(routes),
            DeliveryConfig(),
            SystemClock(),
            hostname="relay.test",
            workers=1,
            tls=TlsPolicies(DeliveryConfig()),
            sources=self.sources,
        )
        self.sources.take_over()
        if before is not None:
            self.dispatcher.by_domain.clear()
            before.retire()
            self.dispatcher.schedule.unblock_all()
        self.dispatcher.place = self.router.place

    def send(self, *recipients: bytes, pool: bytes = b"") -> Message:
        self.number += 1
        envelope = {
            "reverse_path": b"me@origin.test",
            "recipients": [(recipient, 0, b"") for recipient in recipients],
            "received_us": time.time_ns() // 1000,
            "durability": 2,
            "source_pool": pool,
        }
        message = new_message(make_accepted(envelope, b"Subject: x\r\n\r\n", self.number << 22))
        self.dispatcher.adopt(message)
        return message

    def ready(self) -> dict[str, int]:
        """How many deliveries are ready, by the source of their queue."""
        found: dict[str, int] = {}
        for queue in self.router.queues:
            if queue.backlog:
                found[queue.source.decode()] = found.get(queue.source.decode(), 0) + queue.backlog
        return found

    def settle(self, **expected: int) -> None:
        """Until what waits has found its way, and so much is ready by each source."""

        def settled() -> bool:
            self.dispatcher.tick()
            return self.ready() == expected

        wait_until(settled, f"{expected}")

    def said(self, event: str) -> list[dict[str, Any]]:
        self.events.flush()
        return [found for line in self.log.read_text().splitlines() if (found := json.loads(line))["event"] == event]

    def queue(self, name: str) -> ReadyQueue:
        return next(queue for queue in self.router.queues if queue.source == name.encode())

    def fail(self, name: str) -> None:
        """The connector finds that a source cannot be bound."""
        queue = self.queue(name)
        found: Source = queue.target.source
        with pytest.raises(SourceFailure) as failure, socket.socket(V4) as opening:
            found.bind(opening, "host")
        self.router.on_source_failure(queue, failure.value)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(
        tmp_path,
        [
            source("a", "127.0.0.2"),
            source("b", "127.0.0.3"),
            source("six", None, "::1"),
            source("lost", "198.51.100.1"),
        ],
        [pool("both", "a", "b"), pool("alone", "a"), pool("mixed", "lost", "six", "b"), pool("none", "lost", "six")],
        route("plain.test", "smtp://127.0.0.1:2600"),
        route("local.test", "discard:"),
        route("both.test", "smtp://127.0.0.1:2600", "both"),
        route("mixed.test", "smtp://127.0.0.1:2600", "mixed"),
        route("none.test", "smtp://127.0.0.1:2600", "none"),
        route("named.test", "smtp://host.example:2600", "mixed"),
    )
    yield node
    node.journal.close()


# ------------------------------------------------------------------ one source


def test_a_source_says_why_it_cannot_reach_hosts() -> None:
    one = Source("s", {V4: "198.51.100.1", V6: "::1"}, "s.example")
    assert one.why_not((V4,)) == ""
    assert Source("s", {V6: "::1"}, "x").why_not((V4,)) == "source s has no IPv4 address"
    with socket.socket(V4) as opening, pytest.raises(SourceFailure):
        one.bind(opening, "host")
    assert one.why_not((V4,)) == "source s: 198.51.100.1: Cannot assign requested address"
    assert one.why_not((V6, V4)) == ""
    assert one.look_again() == []


def test_many_connections_share_a_port_of_the_source() -> None:
    """The port is chosen with the connection: else 28,000 connections would be all that a source can have."""
    one = Source("s", {V4: "127.0.0.5"}, "s.example")
    with socket.socket(V4) as opening:
        one.bind(opening, "host")
        assert opening.getsockname() == ("127.0.0.5", 0)


# ------------------------------------------------------------------ whose pool, which source


def test_without_a_pool_nothing_is_assigned(node: Node) -> None:
    for _ in range(2):
        assert node.send(b"x@plain.test").outlet == 0
    assert node.ready() == {"default": 2}


def test_own_pools_go_before_the_routes_and_by_domain_the_second_time_too(node: Node) -> None:
    placed = []
    place = node.dispatcher.place
    node.dispatcher.place = lambda message: (placed.append(message), place(message))[1]
    for _ in range(3):
        node.send(b"x@both.test", pool=b"alone")
    assert node.ready() == {"a": 3}
    assert len(placed) == 1, "the others take the short cut"
    for _ in range(4):
        node.send(b"x@both.test")
    assert node.ready() == {"a": 5, "b": 2}
    assert len(placed) == 3, "one for each outlet"


def test_what_stays_on_this_machine_needs_no_source(node: Node) -> None:
    node.send(b"x@local.test", pool=b"alone")
    assert {queue.source for queue in node.router.queues} == {b"default"}


def test_a_message_to_many_leaves_by_one_source_for_each_pool(node: Node) -> None:
    message = node.send(b"x@both.test", b"y@both.test", b"z@plain.test")
    assert node.ready() == {"a": 1, "default": 1}
    assert message.outlet == 0


def test_mail_of_a_route_follows_the_routes_pool_and_own_mail_its_own(node: Node) -> None:
    node.send(b"x@both.test")
    for _ in range(3):
        node.send(b"x@both.test")
        node.send(b"x@both.test", pool=b"both")
    assert sum(node.ready().values()) == 7
    node.change(
        [source("a", "127.0.0.2"), source("c", "127.0.0.4")],
        [pool("both", "c"), pool("other", "a")],
        route("both.test", "smtp://127.0.0.1:2600", "other"),
    )
    node.settle(a=4, c=3)
    node.change([source("a", "127.0.0.2")], [pool("other", "a")], route("both.test", "smtp://127.0.0.1:2600"))
    node.settle(default=7)
    assert [(said["pool"], said["messages"]) for said in node.said("source_pool_missing")] == [("both", 3)]
    assert node.counters.value(Slot.DELIVERY_SOURCE_POOL_MISSING) == 3
    node.change([source("c", "127.0.0.4")], [pool("both", "c")], route("both.test", "smtp://127.0.0.1:2600"))
    node.settle(c=3, default=4)


# ------------------------------------------------------------------ what cannot be used


def test_what_waits_for_a_source_that_cannot_be_bound_goes_by_the_next_one(node: Node) -> None:
    for _ in range(6):
        node.send(b"x@mixed.test")
    assert node.ready() == {"lost": 2, "b": 4}, "six has no address of the host's family"
    node.fail("lost")
    node.settle(b=6)
    assert [(said["source"], said["address"]) for said in node.said("source_down")] == [("lost", "198.51.100.1")]
    replaced = {(said["source"], said["by"]) for said in node.said("source_replaced")}
    assert replaced == {("six", "b"), ("lost", "b")}
    for _ in range(4):
        node.send(b"x@mixed.test")  # nothing new is assigned to what is down
    assert node.ready() == {"b": 10}
    node.fail("lost")
    assert len(node.said("source_down")) == 1


def test_mail_waits_when_no_source_can_be_used_and_goes_when_one_can(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        node.send(b"x@none.test")
    node.fail("lost")
    queues = node.dispatcher.schedule.queues

    def all_wait() -> bool:
        node.dispatcher.tick()
        waiting = [queue for queue in queues if queue is not None and queue.used]
        known = all(b"source pool none: " in (queue.reason or b"") for queue in waiting)
        return known and sum(queue.used for queue in waiting) == 4 and node.ready() == {}

    wait_until(all_wait, "four messages that wait for a source")
    (said, *_) = node.said("source_pool_unusable")
    assert (said["pool"], said["retry_s"]) == ("none", SOURCE_REST_S)
    assert "source lost: 198.51.100.1: Cannot assign requested address" in said["why"]
    assert "source six has no IPv4 address" in said["why"]
    node.send(b"x@plain.test")
    assert node.ready() == {"default": 1}, "others are not held up"
    node.router.tend_sources()
    assert node.said("source_up") == []
    monkeypatch.setattr(source_module, "can_be_bound", lambda address, family: None)
    node.router.tend_sources()
    node.settle(default=1, lost=4)
    assert len(node.said("source_up")) == 1


def test_a_name_that_leads_to_hosts_of_another_family_is_found_out_by_trying(node: Node) -> None:
    node.send(b"x@named.test")
    node.send(b"x@named.test")
    assert node.ready() == {"lost": 1, "six": 1}
    queue = node.queue("six")
    node.router.on_source_failure(queue, SourceFailure(Phase.PHASE_CONNECT, "host: source six has no IPv4 address"))
    node.settle(lost=1, b=1)
    assert "no address of a family" in node.said("source_replaced")[0]["why"]


def test_a_suspended_source_does_not_stand_in_for_another(node: Node) -> None:
    node.dispatcher.suspend("source", b"b", 0, "blocklisted")
    node.router.apply_suspensions()
    node.send(b"x@both.test", pool=b"both")
    assert node.ready() == {"a": 1}
    for _ in range(3):
        node.send(b"x@mixed.test")
    node.fail("lost")
    node.settle(a=1)
    node.dispatcher.resume("source", b"b")
    node.router.apply_suspensions()
