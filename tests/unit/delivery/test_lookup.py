"""The lookup process as its workers see it: one question a name, answers that outlive it, and a short wait when it is
away."""

from __future__ import annotations

import asyncio
import random
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from angarium.delivery.lookup_client import STALE_S, STALE_TTL_S, LookupClient
from angarium.delivery.lookup_protocol import (
    GREETING,
    HOST_ADDRESSES,
    LONGEST_FRAME_OCTETS,
    MAIL_HOSTS,
    TXT,
    Frames,
    Kind,
    Reply,
    Request,
    frame,
)
from angarium.delivery.lookup_server import LookupServer
from angarium.delivery.mail_host import MailHost, MailHosts, ResolutionFailure, TextRecords, Tlsa

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from pathlib import Path

TTL_S = 60.0
TURNS = 20  # of the loop


class FakeClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time

    def turn(self, seconds: float) -> None:
        self.time += seconds


class Node:
    """A listening socket that outlives its process, the process, and workers that ask it."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.asked: list[str] = []
        self.failure: ResolutionFailure | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.came = asyncio.Event()
        self.path = str(folder / "lookup.sock")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.bind(self.path)
        self.sock.listen()
        self.server: LookupServer | None = None
        self.clients: list[LookupClient] = []

    async def start(self, **handlers: tuple[Kind[Any, Any], Callable[[Any], Awaitable[Any]]]) -> None:
        self.server = LookupServer()
        self.server.answer(MAIL_HOSTS, self.mail_hosts)
        for kind, handler in handlers.values():
            self.server.answer(kind, handler)
        await self.server.start(self.sock.dup())

    async def stop(self, patience_s: float = 0.0) -> None:
        assert self.server is not None
        await self.server.close(patience_s)
        self.server = None

    def client(self, **options: Any) -> LookupClient:
        self.clients.append(LookupClient(self.path, monotonic=self.clock, random=random.Random(1), **options))
        return self.clients[-1]

    async def client_left_alone(self) -> LookupClient:
        """One that knows one.example; the process ends, and it takes it for away as soon as it notices."""
        client = self.client()
        await client.mail_hosts("one.example")
        client._away_s = 0.05
        await self.stop()
        return client

    async def mail_hosts(self, domain: str) -> MailHosts:
        self.asked.append(domain)
        self.came.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        hosts = tuple(MailHost(f"mx{n}.{domain}", (f"192.0.2.{n}",), 10) for n in range(4))
        return MailHosts(domain, hosts, f"site of {domain}", self.clock() + TTL_S)

    async def until_asked(self, count: int) -> None:
        while len(self.asked) < count:
            self.came.clear()
            await self.came.wait()


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path)
    await node.start()
    yield node
    for client in node.clients:
        await client.close()
    if node.server is not None:
        await node.stop()
    node.sock.close()


async def at_once(question: Coroutine[Any, Any, Any]) -> Any:
    """What comes of a question in a few turns of the loop, however long one of them takes: nothing is waited for."""
    task = asyncio.create_task(question)
    for _ in range(TURNS):
        if task.done():
            return await task
        await asyncio.sleep(0)
    task.cancel()
    raise AssertionError("it waits")


async def failure_of(question: Awaitable[object]) -> ResolutionFailure:
    with pytest.raises(ResolutionFailure) as caught:
        await question
    return caught.value


async def test_an_answer_is_asked_for_once_until_it_expires(node: Node) -> None:
    client = node.client()
    first = await client.mail_hosts("one.example")
    assert (first.domain, first.site, first.expires) == ("one.example", "site of one.example", 1000.0 + TTL_S)
    assert {host.addresses for host in first.hosts} == {(f"192.0.2.{n}",) for n in range(4)}
    await client.mail_hosts("one.example")
    node.clock.turn(TTL_S - 1)
    await client.mail_hosts("one.example")
    assert node.asked == ["one.example"]
    node.clock.turn(2)
    assert (await client.mail_hosts("one.example")).expires == node.clock() + TTL_S
    assert node.asked == ["one.example"] * 2


async def test_hosts_of_equal_preference_come_in_another_order_each_time(node: Node) -> None:
    client = node.client()
    firsts = {(await client.mail_hosts("one.example")).hosts[0].name for _ in range(100)}
    assert firsts == {f"mx{n}.one.example" for n in range(4)}
    assert node.asked == ["one.example"]


async def test_equal_questions_of_a_worker_share_one_request(node: Node) -> None:
    client = node.client()
    node.gate.clear()
    waiting = [asyncio.create_task(client.mail_hosts("one.example")) for _ in range(20)]
    await node.until_asked(1)
    waiting[0].cancel()
    node.gate.set()
    found = await asyncio.gather(*waiting[1:])
    assert {each.domain for each in found} == {"one.example"}
    assert node.asked == ["one.example"]


async def test_answers_come_in_any_order(node: Node) -> None:
    quick = Kind("quick", str, TextRecords)

    async def at_once(name: str) -> TextRecords:
        return TextRecords(name, (b"v=1",), True, node.clock() + 1)

    assert node.server is not None
    node.server.answer(quick, at_once)
    client = node.client()
    node.gate.clear()
    slow = asyncio.create_task(client.mail_hosts("slow.example"))
    await node.until_asked(1)
    assert (await client.ask(quick, "name")).records == (b"v=1",)
    assert not slow.done()
    node.gate.set()
    await slow


async def test_failures_arrive_as_they_were_raised(node: Node) -> None:
    node.failure = ResolutionFailure(True, 556, (5, 1, 10), "null.example accepts no mail (null MX)")
    failure = await failure_of(node.client().mail_hosts("null.example"))
    assert (failure.permanent, failure.code, failure.enhanced, failure.text) == (
        True,
        556,
        (5, 1, 10),
        "null.example accepts no mail (null MX)",
    )


async def test_what_nobody_answers_is_a_deferral(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    client = node.client()
    failure = await failure_of(client.txt("_mta-sts.one.example"))
    assert (failure.permanent, failure.code, failure.text) == (False, 451, "unknown look-up: txt")

    async def broken(_: str) -> TextRecords:
        raise RuntimeError("a fault")

    assert node.server is not None
    node.server.answer(TXT, broken)
    failure = await failure_of(client.txt("_mta-sts.one.example"))
    assert (failure.permanent, failure.code) == (False, 451)
    assert "a fault" in caplog.text


async def test_a_dataclass_of_dataclasses_goes_over_whole(node: Node) -> None:
    hosts = MailHosts(
        "mx.example",
        (MailHost("mx.example", ("192.0.2.1", "2001:db8::1"), 0, True, (Tlsa(3, 1, 1, b"\xff" * 32),), "mx.example"),),
        "mx.example",
        float("inf"),
        True,
    )

    async def addresses(asked: tuple[str, int]) -> MailHosts:
        assert asked == ("mx.example", 26)
        return hosts

    assert node.server is not None
    node.server.answer(HOST_ADDRESSES, addresses)
    assert await node.client().host_addresses("mx.example", 26) == hosts


# ---------------------------------------------------------------------- the process goes away


async def test_what_waits_is_asked_again_of_the_successor(node: Node) -> None:
    client = node.client()
    node.gate.clear()
    waiting = asyncio.create_task(client.mail_hosts("one.example"))
    await node.until_asked(1)
    await node.stop()
    node.gate.set()
    await node.start()
    assert (await waiting).domain == "one.example"
    assert node.asked == ["one.example"] * 2


async def test_a_process_that_ends_in_peace_answers_first(node: Node) -> None:
    client = node.client()
    node.gate.clear()
    waiting = asyncio.create_task(client.mail_hosts("one.example"))
    await node.until_asked(1)
    ending = asyncio.create_task(node.stop(10.0))
    node.gate.set()
    await ending
    assert (await waiting).domain == "one.example"
    assert node.asked == ["one.example"]


async def test_while_it_is_away_names_are_deferred(node: Node) -> None:
    changes: list[bool] = []
    await node.stop()
    client = node.client(away_s=0.05, on_change=changes.append)
    failure = await failure_of(client.mail_hosts("one.example"))
    assert (failure.permanent, failure.code, failure.enhanced) == (False, 451, (4, 4, 3))
    client._away_s = 3600.0
    for _ in range(100):
        await at_once(failure_of(client.mail_hosts("one.example")))  # only the first one waits
    assert changes == [True]
    await node.start()
    while True:  # it is connected to again without anybody asking
        try:
            found = await client.mail_hosts("one.example")
        except ResolutionFailure:
            await asyncio.sleep(0)
        else:
            break
    assert (found.domain, changes) == ("one.example", [True, False])


async def test_while_it_is_away_what_was_right_once_is_used(node: Node) -> None:
    client = await node.client_left_alone()
    node.clock.turn(TTL_S + 1)
    found = await client.mail_hosts("one.example")
    assert (found.domain, found.expires, client.stale_answers) == ("one.example", node.clock() + STALE_TTL_S, 1)
    node.clock.turn(STALE_S)
    assert (await failure_of(client.mail_hosts("one.example"))).code == 451


async def test_a_successor_with_other_rules_is_asked_anew(node: Node) -> None:
    client = node.client()
    gone: list[bool] = []
    await client.mail_hosts("one.example")
    client.expect_another(lambda: gone.append(True))
    await client.mail_hosts("one.example")
    assert node.asked == ["one.example"] * 2, "what it has said does not count any more"
    await client.mail_hosts("one.example")
    assert (len(node.asked), gone) == (2, [])
    await node.stop()
    async with asyncio.timeout(60):
        while not gone:
            await asyncio.sleep(0)
    await node.start()
    await client.mail_hosts("one.example")
    assert (len(node.asked), gone) == (3, [True]), "nor does what it said until it was gone"
    await node.stop()
    await node.start()
    await client.mail_hosts("one.example")
    assert (len(node.asked), gone) == (3, [True]), "once: a successor by the same rules would say the same"


async def test_what_was_right_once_is_used_when_the_successor_has_no_answer(node: Node) -> None:
    client = node.client()
    await client.mail_hosts("one.example")
    node.clock.turn(TTL_S + 1)
    node.failure = ResolutionFailure(False, 451, (4, 4, 3), "no name server had an answer")
    assert (await client.mail_hosts("one.example")).domain == "one.example"
    node.failure = ResolutionFailure(True, 550, (5, 1, 2), "no such domain")
    assert (await failure_of(client.mail_hosts("one.example"))).permanent


async def test_a_process_that_hangs_is_away(node: Node) -> None:
    """The socket takes connections while nobody is there to greet."""
    await node.stop()
    failure = await failure_of(node.client(away_s=0.05).mail_hosts("one.example"))
    assert "the lookup process does not answer" in failure.text


async def test_a_client_that_is_closed_cancels_who_waits(node: Node) -> None:
    client = node.client()
    node.gate.clear()
    waiting = asyncio.create_task(client.mail_hosts("one.example"))
    await node.until_asked(1)
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


# ---------------------------------------------------------------------- frames


@dataclass
class Talk:
    """A connection that says what it likes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def replies(self, count: int) -> list[Reply]:
        frames, found = Frames(Reply), []
        while len(found) < count:
            octets = await self.reader.read(65536)
            assert octets, "the connection has ended"
            found += frames.feed(octets)
        return found


@pytest.fixture
async def talk(node: Node) -> AsyncIterator[Talk]:
    reader, writer = await asyncio.open_unix_connection(node.path)
    yield Talk(reader, writer)
    writer.close()


def request(number: int, domain: str) -> bytes:
    return frame(Request(number, "mail_hosts", msgspec.Raw(msgspec.msgpack.encode(domain))))


async def test_frames_may_be_cut_anywhere(node: Node, talk: Talk) -> None:
    for octet in request(7, "one.example") + request(8, "two.example"):
        talk.writer.write(bytes([octet]))
        await talk.writer.drain()
    greeting, *replies = await talk.replies(3)
    assert greeting.number == GREETING
    decoded = {reply.number: msgspec.msgpack.decode(reply.result, type=MailHosts).domain for reply in replies}
    assert decoded == {7: "one.example", 8: "two.example"}


@pytest.mark.parametrize(
    "octets", [b"\xff\xff\xff\xff", (LONGEST_FRAME_OCTETS + 1).to_bytes(4, "big"), b"\0\0\0\3abc", b"\0\0\0\0"]
)
async def test_broken_frames_end_the_connection_and_no_other(node: Node, talk: Talk, octets: bytes) -> None:
    client = node.client()
    await client.mail_hosts("one.example")
    talk.writer.write(octets)
    assert await talk.reader.read() == frame(Reply(GREETING)), "nothing but the greeting, then the end"
    await client.mail_hosts("two.example")


async def test_requests_under_way_are_bounded(node: Node, talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("angarium.delivery.lookup_server.MOST_UNDER_WAY", 2)
    node.gate.clear()
    for number in (1, 2, 3):
        talk.writer.write(request(number, f"d{number}.example"))
    _, refused = await talk.replies(2)
    assert (refused.number, refused.failure and refused.failure.code) == (3, 451)
    node.gate.set()
    assert {reply.number for reply in await talk.replies(2)} == {1, 2}


async def test_an_argument_of_another_type_is_answered(node: Node, talk: Talk) -> None:
    talk.writer.write(frame(Request(5, "mail_hosts", msgspec.Raw(msgspec.msgpack.encode([1, 2])))))
    _, reply = await talk.replies(2)
    assert (reply.number, reply.failure and reply.failure.permanent) == (5, False)


@pytest.mark.parametrize("same", [True, False], ids=["one question", "many questions"])
async def test_answers_that_come_at_once_have_turns_of_the_loop(node: Node, same: bool) -> None:
    client, count = node.client(), 50
    told: list[tuple[int, int]] = []
    turn = 0

    def tell(number: int, answer: object) -> None:
        assert isinstance(answer, MailHosts)
        told.append((number, turn))
        node.clock.turn(0.01)  # longer than one turn has for them

    node.gate.clear()
    for number in range(count):
        client.ask_then(MAIL_HOSTS, "one.example" if same else f"{number}.example", partial(tell, number))
    await node.until_asked(1 if same else count)
    node.gate.set()
    while len(told) < count:
        await asyncio.sleep(0)
        turn += 1
    assert [number for number, _ in told] == list(range(count)), "in the order of the questions"
    assert len({turn for _, turn in told}) == count, "others have their turn behind each"


async def test_an_answer_of_now_that_cannot_be_read_is_told_as_a_failure(node: Node) -> None:
    strange: Kind[None, TextRecords] = Kind("strange", type(None), TextRecords)

    async def answer(_: None) -> MailHosts:
        return await node.mail_hosts("one.example")

    assert node.server is not None
    node.server.answer(Kind("strange", type(None), MailHosts), answer)
    failure = await failure_of(node.client().ask_once(strange, None))
    assert "the lookup process says" in failure.text


async def test_nobody_is_told_behind_close(node: Node) -> None:
    client = node.client()
    told: list[object] = []
    await client.mail_hosts("one.example")
    client.ask_then(MAIL_HOSTS, "one.example", told.append)  # known, and told in the next turn
    await client.close()
    for _ in range(TURNS):
        await asyncio.sleep(0)
    assert told == []
