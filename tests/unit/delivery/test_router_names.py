"""Mail to new names beyond what may be looked up at one time waits in the queue; known ones are never behind it."""

from __future__ import annotations

import asyncio
import select
import time
from typing import TYPE_CHECKING, Any

import pytest

from angarium._core.counters import Slab
from angarium._core.dispatch import Dispatcher, JournalIntake
from angarium._core.event_log import EventLog
from angarium._core.journal import CallbackReceiver, Journal
from angarium._core.record import MessageState, make_accepted, new_message
from angarium.clock import SystemClock
from angarium.config.model import Delivery as DeliveryConfig
from angarium.delivery import attempt
from angarium.delivery.attempt import CROWDED_S, Router
from angarium.delivery.mail_host import MailHost, MailHosts
from angarium.delivery.route import RouteTable
from angarium.delivery.tls_policy import TlsPolicies

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from angarium._core.dispatch import ReadyQueue
    from angarium._core.record import Message

MOST = 10


class Lookup:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.known: set[str] = set()
        self.gate = False
        self._waiting: list[tuple[Callable[[MailHosts], None], str]] = []

    def knows(self, domain: str) -> bool:
        return domain in self.known

    def ask_then(self, _: object, domain: str, tell: Callable[[MailHosts], None]) -> None:
        self.asked.append(domain)
        if domain in self.known or self.gate:
            self._answer(tell, domain)
        else:
            self._waiting.append((tell, domain))

    def in_any_order(self, hosts: MailHosts) -> MailHosts:
        return hosts

    def open(self) -> None:
        """From now on everything has an answer."""
        self.gate = True
        for tell, domain in self._waiting:
            self._answer(tell, domain)

    def _answer(self, tell: Callable[[MailHosts], None], domain: str) -> None:
        hosts = (MailHost(f"mx.{domain}", ("192.0.2.1",)),)
        found = MailHosts(domain, hosts, f"mx.{domain}", time.monotonic() + 60)
        asyncio.get_running_loop().call_soon(tell, found)


class Connector:
    """Notes for whom a connection is wanted."""

    def __init__(self) -> None:
        self.wanted: list[str] = []

    def connect(self, queue: ReadyQueue) -> None:
        self.wanted.append(queue.site.decode())


class Node:
    """A dispatcher over one journal, and a router."""

    def __init__(self, folder: Path) -> None:
        self.lookup = Lookup()
        self.connector = Connector()
        counters = Slab.create(1).region(0)
        self.dispatcher = Dispatcher(counters, EventLog(None, counters))
        self.journal = Journal(str(folder), 0, 1 << 20, counters, self.dispatcher)
        self.dispatcher.journals[0] = self.journal
        self.intake = JournalIntake(self.dispatcher, [self.journal])
        lookup: Any = self.lookup
        connector: Any = self.connector
        self.router = Router(
            self.dispatcher,
            connector,
            lookup,
            RouteTable(()),
            DeliveryConfig(),
            SystemClock(),
            hostname="relay.test",
            workers=1,
            tls=TlsPolicies(DeliveryConfig()),
        )
        self.dispatcher.place = self.router.place

    def accept(self, *domains: str) -> list[Message]:
        """A message to each."""
        messages = []
        for domain in domains:
            envelope = {
                "reverse_path": b"me@origin.test",
                "recipients": [(f"you@{domain}".encode(), 0, b"")],
                "durability": 0,
                "received_us": time.time_ns() // 1000,
            }
            message = new_message(make_accepted(envelope, b"Subject: x\r\n\r\n", self.intake.new_id()))
            self.intake.submit(message, CallbackReceiver(lambda message, error: None))
            messages.append(message)
        while self.journal.waiting:
            poll = select.poll()
            poll.register(self.journal.event_fd, select.POLLIN)
            assert poll.poll(30_000)
            self.journal.on_commit()
        return messages

    async def turn(self) -> None:
        """Let what was begun go on."""
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Node]:
    monkeypatch.setattr(attempt, "MOST_LOOKING_UP", MOST)
    monkeypatch.setattr(attempt, "LEAST_LOOKING_UP", 1)
    (tmp_path / "shard").mkdir()
    node = Node(tmp_path / "shard")
    yield node
    await node.router.close()
    node.journal.close()


async def test_beyond_the_limit_new_names_wait_in_the_queue_and_known_ones_pass(node: Node) -> None:
    tail = [f"t{number}.test" for number in range(3 * MOST)]
    messages = node.accept(*tail)
    await node.turn()
    assert node.lookup.asked == tail[:MOST]
    waiting = messages[MOST:]
    assert {message.state for message in waiting} == {MessageState.MESSAGE_SCHEDULED}
    assert {message.attempts for message in waiting} == {0}, "it was no attempt"
    soon = time.time() + CROWDED_S + 0.5
    assert all(message.next_attempt <= soon for message in waiting)
    node.lookup.known.add("known.test")
    node.accept("known.test")
    await node.turn()
    assert node.connector.wanted == ["mx.known.test"], "a known name is never behind new ones"
    node.lookup.open()
    await node.turn()
    assert sorted(node.connector.wanted[1:]) == sorted(f"mx.{domain}" for domain in tail[:MOST])


async def test_what_waited_is_looked_up_in_its_turn(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "CROWDED_S", 0.05)
    node.lookup.open()
    tail = {f"t{number}.test" for number in range(3 * MOST)}
    node.accept(*tail)
    async with asyncio.timeout(60):
        while {site.removeprefix("mx.") for site in node.connector.wanted} != tail:
            node.dispatcher.tick()
            await asyncio.sleep(0)
    assert sorted(node.lookup.asked) == sorted(tail), "each name once"
