"""kill -9 under load: nothing that was answered 250 is lost, and what is sent twice is said to be in doubt.

The same loop runs longer as `python -m tests.faults.torture`; docs/durability.md has its figures.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from tests.faults.node import Node, arguments
from tests.faults.torture import Plan, Report, torture
from tests.support.clients import PATIENCE_S
from tests.support.load import Ledger, NextHop, Senders, read_reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

# each of them starts a relay several times
pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]


@pytest.fixture
async def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
async def hop(ledger: Ledger) -> AsyncIterator[NextHop]:
    hop = NextHop(ledger)
    await hop.start()
    yield hop
    await hop.crash()


@pytest.fixture
async def node(tmp_path: Path, hop: NextHop) -> AsyncIterator[Node]:
    node = Node(tmp_path, hop.port)
    yield node
    await node.close()


def check(report: Report) -> None:
    assert not report.details, "\n".join(report.details)
    assert report.sound, report
    assert report.acknowledged > 500, f"hardly any load: {report}"


async def test_kills_under_load_lose_nothing_and_explain_every_duplicate(tmp_path: Path) -> None:
    plan = Plan(worker_kills=4, node_kills=3, supervisor_kills=1, hop_kills=2, seed=20260101)
    report = await torture(tmp_path, plan)
    check(report)
    assert report.kills == {"worker": 4, "node": 3, "supervisor": 1, "next_hop": 2}


async def test_a_next_hop_that_never_says_whether_it_took_the_message(tmp_path: Path) -> None:
    # DATA, with the next envelope in the same write as the content: the message ahead is neither lost nor in doubt
    report = await torture(
        tmp_path, Plan(worker_kills=2, node_kills=1, silent_share=0.1, chunking=False, seed=7, connections=8)
    )
    check(report)
    assert report.closed_unanswered > 50
    assert report.duplicates_explained >= report.closed_unanswered * 9 // 10, "in doubt, and yet not sent again"


async def test_an_unanswered_final_dot_is_counted_and_sent_again(node: Node, hop: NextHop, ledger: Ledger) -> None:
    left = 5

    def silent() -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    hop.silent = silent
    await node.up()
    senders = Senders(ledger, node.smtp_port, connections=1)
    senders.start()
    assert await ledger.wait_for(lambda: len(ledger.arrivals) >= 20, PATIENCE_S)
    await senders.stop()
    await node.settled()
    assert not ledger.missing
    assert hop.closed_unanswered == 5
    await node.until(lambda: len(node.events("in_doubt")) == 5, "the events of the five")
    doubtful = {event["id"] for event in node.events("in_doubt")}
    assert {ids[0] for ids in ledger.twice.values()} == doubtful
    assert sum(len(ids) - 1 for ids in ledger.arrivals.values()) == 5
    await node.until(lambda: node.metrics()["angarium_delivery_possible_duplicates_total"] == 5, "the counter")


async def test_what_is_in_doubt_stays_so_through_a_second_crash(node: Node, hop: NextHop, ledger: Ledger) -> None:
    """Killed with a message at the next hop, and again and again before it can be sent: the doubt is not forgotten."""
    taken = asyncio.Event()
    answer = hop.arrived

    def arrived(content: bytes) -> bytes | None:
        answer(content)
        taken.set()
        return b""  # no reply, and no end

    hop.arrived = arrived  # type: ignore[method-assign]
    await node.up()
    first = await asyncio.to_thread(node.send, "to@next.test", b"X-Token: one\r\n\r\nHello.\r\n")
    await asyncio.wait_for(taken.wait(), PATIENCE_S)
    hop.mute = True  # the message cannot go out
    for _ in range(2):
        await node.kill_everything()
        node.events_file.unlink()  # as if the log had been lost with the machine
        await node.up()
        assert [event["id"] for event in node.events("in_doubt")] == [first]
    hop.mute = False
    hop.arrived = answer  # type: ignore[method-assign]
    await node.kill_everything()
    await node.up()
    await node.settled()
    assert ledger.arrivals == {"one": [first, first]}
    await node.down()
    events = len(node.events("in_doubt"))
    await node.up()
    await node.down()  # with all that it had to say
    assert len(node.events("in_doubt")) == events, "delivered, and still in doubt"


@pytest.mark.parametrize("policy", ["hold", "fail"])
@pytest.mark.parametrize("killed", [False, True])
async def test_what_is_in_doubt_is_held_or_failed_by_policy(
    tmp_path: Path, hop: NextHop, ledger: Ledger, policy: str, killed: bool
) -> None:
    """Not sent again: kept for an operator, over a restart too, or ended, and its sender told."""
    node = Node(tmp_path, hop.port, {"queue": {"in_doubt": policy}})
    taken = asyncio.Event()
    answer = hop.arrived

    def arrived(content: bytes) -> bytes | None:
        answer(content)
        taken.set()
        return b"" if killed else None  # no reply, and no end; or the connection's end

    hop.arrived = arrived  # type: ignore[method-assign]
    try:
        await node.up()
        first = await asyncio.to_thread(node.send, "to@next.test", b"X-Token: one\r\n\r\nHello.\r\n")
        await asyncio.wait_for(taken.wait(), PATIENCE_S)
        hop.arrived = answer  # type: ignore[method-assign]
        if killed:
            await node.kill_everything()
            await node.up()
        await node.until(lambda: node.events("in_doubt", id=first), "it to be in doubt")
        if policy == "hold":
            for _ in range(2):
                await node.until(lambda: node.summary()["by_state"]["held"] == 1, "it to be held")
                await node.kill_everything()
                await node.up()
        else:
            await node.until(lambda: node.events("bounce", id=first), "it to fail")
            await node.until(lambda: node.events("notification", about=first), "its sender to be told")
            await node.settled()
        assert ledger.arrivals["one"].count(first) == 1  # what else has its token quotes it: the notification
    finally:
        await node.close()


@pytest.mark.parametrize("durability", ["async", "memory"])
async def test_what_was_deferred_outlives_a_kill_in_every_class(
    tmp_path: Path, hop: NextHop, ledger: Ledger, durability: str
) -> None:
    """Class async is in the kernel's hands before its 250, class memory when its first attempt has failed."""
    node = Node(tmp_path, hop.port, {"queue": {"durability": durability}})
    try:
        await hop.crash()
        await node.up()
        first = await asyncio.to_thread(node.send, "to@next.test", b"X-Token: one\r\n\r\nHello.\r\n")
        await node.until(lambda: node.events("deferral", id=first), "a deferral")
        await node.until(lambda: node.summary()["by_state"]["scheduled"] == 1, "it to wait for its next attempt")
        await node.kill_everything()
        await hop.start()
        await node.up()
        await node.settled()
        assert ledger.arrivals == {"one": [first]}
        await node.until(lambda: node.events("delivery", id=first), "the event of its delivery")
        assert {event["durability"] for event in node.events("delivery", id=first)} == {durability}
    finally:
        await node.close()


async def test_the_other_worker_goes_on_and_the_dead_one_comes_back(node: Node, hop: NextHop, ledger: Ledger) -> None:
    await node.up()
    senders = Senders(ledger, node.smtp_port, connections=8, transactions=10)
    senders.start()
    assert await ledger.wait_for(lambda: len(ledger.acknowledged) > 100, PATIENCE_S)
    victim, other = node.children("worker")
    await node.kill_pids(victim)
    at_kill = len(ledger.acknowledged)
    goes_on = await ledger.wait_for(lambda: len(ledger.acknowledged) > at_kill + 100, PATIENCE_S)
    assert goes_on, "the other worker stands still"
    await node.serving()
    workers = node.children("worker")
    assert other in workers, "the worker that was well has been replaced"
    assert victim not in workers
    assert len(workers) == 2
    await senders.stop()
    await node.settled()
    assert not ledger.missing
    assert node.metrics()["angarium_worker_starts_total"] == 3
    assert re.search(r"worker \d ended \(signal 9\); starting it again in 0\.2 s", node.stderr)
    await node.sound()


async def test_connections_that_wait_for_a_dead_worker_are_served_by_its_successor(node: Node) -> None:
    await node.up()
    await node.kill_pids(*node.children("worker"))
    opened = [await asyncio.open_connection("127.0.0.1", node.smtp_port) for _ in range(12)]
    for reader, _ in opened:
        assert (await asyncio.wait_for(read_reply(reader), PATIENCE_S)).startswith(b"220 relay.test ")
    for _, writer in opened:
        writer.close()
        await writer.wait_closed()
    await node.sound()


async def test_a_worker_that_keeps_dying_is_started_after_growing_pauses(node: Node) -> None:
    await node.up()
    other, shard = node.children("worker")[0], node.spool / "shards" / "001"
    for segment in shard.glob("*.segment"):
        segment.unlink()
    (shard / "000000.segment").mkdir()  # cannot be opened as a file, not even by root
    await node.kill_pids(node.children("worker")[1])

    def pauses() -> list[str]:
        return re.findall(r"worker 1 ended \([a-z ]+\d+\); starting it again in (\S+) s", node.stderr)

    await node.until(lambda: len(pauses()) >= 4, "four deaths")
    assert pauses()[:4] == ["0.2", "0.4", "0.8", "1.6"]
    assert other in node.children("worker")
    assert node.get("/readyz")[0] == 200
    (shard / "000000.segment").rmdir()
    await node.serving()
    assert "IsADirectoryError" in node.stderr, "the log does not say why"


async def test_a_relay_without_its_supervisor_writes_no_more(node: Node, hop: NextHop, ledger: Ledger) -> None:
    """A worker that outlived its supervisor would write to shards that the next one gives away."""
    await node.up()
    workers = node.children("worker")
    await node.kill_supervisor()
    await node.up()
    for pid in workers:
        assert not any("angarium" in word for word in arguments(str(pid)))
    await node.sound()
