"""Whatever happens to a message before a connection takes it: the shares of its wait make up the whole of it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit._core.test_dispatch import Node

if TYPE_CHECKING:
    from angarium._core.dispatch import Delivery, ReadyQueue
    from angarium._core.record import Message

CLOCKS_S = 0.001  # by which the clock of the day and the other may go apart meanwhile
DOMAIN = b"example.net"

happenings = st.lists(
    st.sampled_from(
        [
            "send",
            "open",
            "close",
            "block",
            "unblock",
            "suspend",
            "resume",
            "site",
            "nameless",
            "names",
            "look",
            "take",
            "put back",
        ]
    ),
    max_size=40,
)


class Site:
    """One next hop, and mail for it that comes and goes."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.queue: ReadyQueue = node.queue(limit=2)
        node.dispatcher.remember(DOMAIN, self.queue)
        self.since: dict[int, tuple[float, float]] = {}  # the earliest and latest moment in which it became ours
        self.taken: list[Delivery] = []
        self.last: Message | None = None

    def send(self) -> None:
        message = self.node.make()
        before = time.monotonic()
        self.node.dispatcher.adopt(message)
        self.since[message.id] = (before, time.monotonic())
        self.last = message

    def take(self) -> Delivery | None:
        if (delivery := self.queue.take()) is not None:
            self.taken.append(delivery)
        return delivery

    def look(self) -> None:
        self.node.dispatcher.tick()
        self.node.dispatcher.grow()
        self.node.read()

    def happen(self, what: str) -> None:
        queue, dispatcher = self.queue, self.node.dispatcher
        if what == "send":
            self.send()
        elif what == "open":
            queue.open, queue.connecting, queue.failures, queue.blocked_until = queue.open + 1, 0, 0, 0.0
            queue.wake()
        elif what == "close":
            queue.open = max(0, queue.open - 1)
            queue.wake()
        elif what == "block":
            queue.failures += 1
            queue.connecting = 0
            queue.block(0.0005, b"refused")
        elif what == "unblock":
            queue.blocked_until = 0.0
            dispatcher.schedule.unblock(b"refused")
        elif what == "suspend":
            dispatcher.suspend("domain", DOMAIN, 0, "why")
        elif what == "resume":
            dispatcher.resume("domain", DOMAIN)
            dispatcher.resume("site", b"host")
            queue.apply_suspensions()
        elif what == "site":
            dispatcher.suspend("site", b"host", 0, "why")
            queue.apply_suspensions()
        elif what == "nameless" and self.last is not None and dispatcher.schedule.queue(self.last) is not None:
            dispatcher.leave_alone(self.last, 0.0005, b"no names")
        elif what == "names":
            dispatcher.remember(DOMAIN, queue)
        elif what == "look":
            self.look()
        elif what == "take":
            self.take()
        elif what == "put back" and (delivery := self.queue.take()) is not None:
            queue.put_back(delivery)

    def end(self) -> None:
        """Everything that waits is taken."""
        for what in ("resume", "open", "unblock", "names"):
            self.happen(what)
        while len(self.taken) < len(self.since):
            self.look()
            self.take()


@settings(max_examples=60)
@given(happenings)
def test_the_shares_make_up_the_whole(happened: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder))
        site = Site(node)
        for what in happened:
            site.happen(what)
        site.end()
        for delivery in site.taken:
            earliest, latest = site.since[delivery.message.id]
            assert (
                delivery.began - latest - CLOCKS_S
                < sum(delivery.waited.values())
                < delivery.began - earliest + CLOCKS_S
            )
        node.close()
