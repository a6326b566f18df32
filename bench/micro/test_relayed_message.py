"""What one relayed message costs in compiled code alone: no socket, no loop, no disk.

Octets in at a server session, octets out at a client session, of class memory, on kept connections with PIPELINING.
What a relay spends beyond that is system calls and the loop, so the figure shows what a change of the hot path adds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from angarium._core.client_session import Capability, ClientSession, Egress
from angarium._core.client_terms import ClientTerms
from angarium._core.counters import Slab, Slot
from angarium._core.dispatch import Dispatcher, JournalIntake, ReadyQueue
from angarium._core.event_log import EventLog
from angarium._core.journal import Journal
from angarium._core.listener_profile import ListenerProfile
from angarium._core.memory_budget import MemoryBudget
from angarium._core.server_session import Reception, ServerSession

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_benchmark.fixture import BenchmarkFixture

ENVELOPE = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"
CONTENT = b"Subject: x\r\n\r\n" + (b"y" * 70 + b"\r\n") * 14 + b".\r\n"
MESSAGES = 100
MEMORY = 2  # the durability class


class Void:
    """A transport that takes everything."""

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ("192.0.2.1", 40000) if name == "peername" else default

    def write(self, octets: bytes) -> None:
        pass

    def close(self) -> None:
        pass


def test_one_relayed_message(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Of so many messages; divide by MESSAGES."""
    counters = Slab.create(4).region(0)
    events = EventLog(None, counters)
    dispatcher = Dispatcher(counters, events)
    journal = Journal(str(tmp_path), 0, 1 << 22, counters, dispatcher)
    dispatcher.journals[0] = journal
    reception = Reception(counters, events, JournalIntake(dispatcher, [journal]), MemoryBudget(counters, 1 << 30))
    terms = ClientTerms(may_relay=True, tenant=b"shop", durability=MEMORY)
    profile = ListenerProfile(
        hostname=b"relay.example.org",
        name=b"relay",
        durability=MEMORY,
        client_policy=lambda _: terms,
        commands_per_second=1_000_000_000,
    )
    server = ServerSession(reception, profile)
    server.connection_made(Void())
    server.feed(b"EHLO client.example\r\n")
    queue = ReadyQueue(dispatcher, b"smtp://host:25", b"host", connect=lambda _: None)
    dispatcher.remember(b"example.net", queue)
    client = ClientSession(Egress(counters), queue, Void(), b"host", Capability.CAPABILITY_PIPELINING)
    client.start()

    def relay() -> None:
        for _ in range(MESSAGES):
            server.feed(ENVELOPE)
            server.feed(CONTENT)
            client.feed(b"250 2.1.0 OK\r\n250 2.1.5 OK\r\n354 Go on\r\n")
            client.feed(b"250 2.0.0 Taken\r\n")

    relay()
    assert counters.value(Slot.DELIVERY_DELIVERED_MESSAGES) == MESSAGES
    benchmark(relay)
    journal.close()
