"""What a client meets at the marks of the memory budget: slowed at the hard one, refused beyond the budget, and let go
on by itself when there is memory again. `elsewhere` is what another process of the node holds: the means to press.
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

import pytest

from angarium._core.counters import Slab, Slot
from angarium._core.memory_budget import MemoryState
from angarium._core.record import memory_octets
from tests.support.session import Server, ServerDialogue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1 << 20
READ_OCTETS = 1 << 18
HELLO = b"HELO client.example\r\n"
ENVELOPE = b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.net>\r\n"
MESSAGE = ENVELOPE + b"DATA\r\nx: y\r\n.\r\n"
FULL = b"452 4.3.1 Out of memory for mail; try again later\r\n"
PACE_S = 0.1  # a pause at the hard mark


class Pressed(Server):
    """A server of a node of two processes with a budget of 100 MiB."""

    def __init__(self, **profile: float) -> None:
        slab = Slab.create(2)
        self.other = slab.region(1)
        super().__init__(commit="sync", counters=slab.region(0), memory_octets=100 * MIB, **profile)
        slab.close()

    def elsewhere(self, mebibytes: int) -> MemoryState:
        """The other process holds so much; this one's tick sees it."""
        self.other.set(Slot.QUEUE_MEMORY_OCTETS, mebibytes * MIB)
        state = MemoryState(self.memory.refresh())
        self.reception.pace()
        return state

    def ready(self) -> ServerDialogue:
        client = self.connect()
        client.say(HELLO)
        return client


@pytest.fixture
def server() -> Iterator[Pressed]:
    gc.collect()
    assert memory_octets() < MIB
    yield Pressed()
    gc.collect()


def codes(replies: bytes) -> list[int]:
    return [int(line[:3]) for line in replies.splitlines()]


def test_below_the_hard_mark_nobody_waits(server: Pressed) -> None:
    client = server.ready()
    assert server.elsewhere(84) == MemoryState.MEMORY_SOFT
    assert codes(client.say(MESSAGE)) == [250, 250, 354, 250]
    assert server.value(Slot.INGRESS_PACED) == 0


def in_time(dialogue: Callable[[Pressed, ServerDialogue], bytes]) -> tuple[Pressed, ServerDialogue]:
    """A dialogue at the hard mark that has to be over before the pause is, and then has heard nothing.

    It is held again when something came in between: the machine may be busy.
    """
    for _ in range(50):
        server = Pressed()
        client = server.ready()
        assert server.elsewhere(86) == MemoryState.MEMORY_HARD
        began = time.monotonic()
        heard = dialogue(server, client)
        if time.monotonic() - began < PACE_S:
            assert heard == b""
            return server, client
    pytest.skip("this machine is too busy for a look within a tenth of a second")


def test_at_the_hard_mark_a_transaction_waits_and_goes_on_by_itself() -> None:
    def dialogue(server: Pressed, client: ServerDialogue) -> bytes:
        assert client.say(MESSAGE) == b"250 2.1.0 Sender OK\r\n"
        assert not client.transport.reading
        assert client.say(b"NOOP\r\n") == b""  # not read
        server.elsewhere(86)
        client.run()
        return client.transport.take()  # its time is not over

    server, client = in_time(dialogue)
    assert server.elsewhere(60) == MemoryState.MEMORY_SOFT
    client.run()
    assert codes(client.transport.take()) == [250, 354, 250, 250]
    assert client.transport.reading
    assert server.value(Slot.INGRESS_PACED) == 1
    assert server.value(Slot.INGRESS_REJECTED_MEMORY_FULL) == 0
    assert len(server.accepted) == 1


def test_the_hard_mark_is_left_with_some_room() -> None:
    def dialogue(server: Pressed, client: ServerDialogue) -> bytes:
        client.say(ENVELOPE)
        assert server.elsewhere(80) == MemoryState.MEMORY_HARD
        client.run()
        return client.transport.take()

    server, client = in_time(dialogue)
    assert server.elsewhere(76) == MemoryState.MEMORY_SOFT
    client.run()
    assert codes(client.transport.take()) == [250]


def test_intake_is_slowed_not_stopped(server: Pressed) -> None:
    """The pause ends although the memory is as short as before: what is half received can become whole."""
    client = server.ready()
    server.elsewhere(86)
    client.say(MESSAGE)
    assert codes(wait_for_pace(server, client, 3)) == [250, 354, 250]
    assert server.memory.state == MemoryState.MEMORY_HARD
    assert len(server.accepted) == 1


def wait_for_pace(server: Pressed, client: ServerDialogue, replies: int) -> bytes:
    """Ticks until the client has had so many replies."""
    heard = b""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        server.reception.pace()
        client.run()
        heard += client.transport.take()
        if len(heard.splitlines()) >= replies:
            return heard
    raise AssertionError(f"only {heard!r}")


def test_mail_data_comes_in_one_read_at_a_time(server: Pressed) -> None:
    client = server.ready()
    client.say(ENVELOPE + b"DATA\r\n")
    server.elsewhere(86)
    client.transport.deliver(b"x" * 4 * READ_OCTETS)
    assert len(client.transport.incoming) == 3 * READ_OCTETS
    assert not client.transport.reading
    server.elsewhere(10)
    client.run()
    assert not client.transport.incoming
    assert codes(client.say(b"\r\n.\r\n")) == [250]


def test_a_chunk_comes_in_one_read_at_a_time(server: Pressed) -> None:
    client = server.ready()
    client.say(ENVELOPE)
    server.elsewhere(86)
    client.transport.deliver(b"BDAT %d LAST\r\n" % (4 * READ_OCTETS) + b"x" * 4 * READ_OCTETS)
    assert len(client.transport.incoming) > 2 * READ_OCTETS
    server.elsewhere(10)
    client.run()
    assert codes(client.transport.take()) == [250]


def test_over_the_budget_nothing_is_taken_until_there_is_memory_again(server: Pressed) -> None:
    first, second, third = server.ready(), server.ready(), server.ready()
    first.say(ENVELOPE + b"DATA\r\nx: y\r\n")
    third.say(ENVELOPE + b"BDAT 6\r\nx: y\r\n")
    assert server.elsewhere(101) == MemoryState.MEMORY_REFUSING
    # at MAIL, at the end of mail data, and at the next chunk
    assert second.say(ENVELOPE) == FULL + b"503 5.5.1 Send MAIL first\r\n"
    assert first.say(b"more\r\n.\r\n") == FULL
    assert third.say(b"BDAT 3\r\nabc") == FULL
    # new mail is refused until less than nine tenths of the budget is held
    assert server.elsewhere(95) == MemoryState.MEMORY_REFUSING
    assert second.say(ENVELOPE[:30]) == FULL
    assert server.elsewhere(70) == MemoryState.MEMORY_SOFT
    assert codes(second.say(MESSAGE)) == [250, 250, 354, 250]
    assert codes(first.say(MESSAGE)) == [250, 250, 354, 250]
    assert server.value(Slot.INGRESS_REJECTED_MEMORY_FULL) == 4


def test_what_came_in_before_and_has_room_may_end(server: Pressed) -> None:
    first, second = server.ready(), server.ready()
    first.say(ENVELOPE + b"DATA\r\nx: y\r\n")
    assert server.elsewhere(101) == MemoryState.MEMORY_REFUSING
    assert server.elsewhere(95) == MemoryState.MEMORY_REFUSING
    assert second.say(ENVELOPE[:30]) == FULL
    assert codes(first.say(b".\r\n")) == [250]


def test_what_was_received_of_a_refused_message_is_given_back(server: Pressed) -> None:
    client = server.ready()
    gc.collect()
    before = memory_octets()
    client.say(ENVELOPE + b"DATA\r\n" + b"x" * MIB)
    assert memory_octets() - before > MIB
    server.elsewhere(101)
    client.say(b"x")
    assert memory_octets() - before < MIB // 4


def test_a_slow_client_at_the_hard_mark_is_not_blamed_for_the_pause() -> None:
    server = Pressed(idle_timeout_s=0, data_timeout_s=0)
    client = server.ready()
    client.say(ENVELOPE + b"DATA\r\n")
    server.elsewhere(86)
    client.say(b"x: y\r\n")
    # both of its timeouts have passed: they do not count while the relay does not read
    server.reception.sweep()
    client.run()
    assert client.transport.take() == b""
    assert not client.closed


def test_a_client_that_goes_silent_at_the_hard_mark_gives_its_memory_back() -> None:
    server = Pressed(idle_timeout_s=0)
    gc.collect()
    before = memory_octets()
    client = server.ready()
    client.say(ENVELOPE + b"DATA\r\n" + b"x" * MIB)
    server.elsewhere(86)
    client.say(b"x")
    server.elsewhere(60)  # its pause is over, and it says nothing more
    server.reception.sweep()
    client.run()
    assert client.transport.take() == b"421 4.4.2 Idle for too long\r\n"
    assert memory_octets() == before


def test_a_client_that_leaves_while_it_waits(server: Pressed) -> None:
    client = server.ready()
    server.elsewhere(86)
    client.say(MESSAGE)
    client.transport.lose()
    assert server.reception.sessions == 0
    server.elsewhere(10)
    assert server.accepted == []


def test_a_client_that_waits_and_has_said_all_it_will(server: Pressed) -> None:
    client = server.ready()
    server.elsewhere(86)
    client.say(MESSAGE + b"QUIT\r\n")
    assert client.session.eof_received()
    server.elsewhere(10)
    client.run()
    assert codes(client.transport.take()) == [250, 354, 250, 221]
    assert client.closed


def test_a_node_that_drains_makes_nobody_wait(server: Pressed) -> None:
    client = server.ready()
    server.elsewhere(86)
    client.say(MESSAGE)
    server.reception.drain()
    client.run()
    assert codes(client.transport.take()) == [250, 354, 250, 421]


def test_a_client_that_does_not_read_its_replies_at_the_hard_mark(server: Pressed) -> None:
    client = server.ready()
    server.elsewhere(86)
    client.session.pause_writing()
    client.say(MESSAGE)
    server.elsewhere(10)
    assert client.transport.take() == b""
    client.session.resume_writing()
    client.run()
    assert codes(client.transport.take()) == [250, 250, 354, 250]


def test_sessions_that_waited_for_memory_go_on_some_at_a_time(server: Pressed) -> None:
    clients = [server.ready() for _ in range(3)]
    assert server.elsewhere(86) == MemoryState.MEMORY_HARD
    for client in clients:
        client.transport.deliver(MESSAGE)
    assert [client.transport.reading for client in clients] == [False] * 3
    server.other.set(Slot.QUEUE_MEMORY_OCTETS, 10 * MIB)
    server.memory.refresh()
    going_on = []
    for _ in range(3):
        server.reception.pace(0.0)
        going_on.append([client.transport.reading for client in clients])
    assert going_on == [[False, False, True], [False, True, True], [True, True, True]]
