"""What is known of recipients: kept for its time, asked about once, and used for longer while nobody can say."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from angarium.delivery.call_ahead import Finding
from angarium.delivery.recipient_book import FAILED_S, MOST_UNDER_WAY, REST_S, SOFT_S, STALE_S, Answer, RecipientBook

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KNOWN = Finding("known", "250 OK")
UNKNOWN = Finding("unknown", "550 5.1.1 who?")
LATER = Finding("failed", "451 4.2.0 later")
DOWN = Finding("failed", "connection refused", down=True)


class Host:
    """A mailbox host whose words the test puts into its mouth, and its book."""

    def __init__(self, *, entries: int = 100) -> None:
        self.time = 1000.0
        self.says: dict[str, Finding] = {}
        self.asked: list[str] = []
        self.told: list[str | None] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.book = RecipientBook(
            self._probe,
            lambda: self.time,
            entries=entries,
            keep_known_s=600.0,
            keep_unknown_s=120.0,
            on_change=self.told.append,
        )

    async def _probe(self, mailbox: str) -> Finding:
        self.asked.append(mailbox)
        await self.gate.wait()
        return self.says.get(mailbox, UNKNOWN)


def run(scene: Callable[[Host], Awaitable[None]], **options: int) -> None:
    async def play() -> None:
        host = Host(**options)
        try:
            await scene(host)
        finally:
            await host.book.close()

    asyncio.run(play())


@pytest.mark.parametrize(
    ("finding", "keep_s"),
    [
        (KNOWN, 600.0),
        (UNKNOWN, 120.0),
        (replace(UNKNOWN, firm=False), SOFT_S),
        (LATER, FAILED_S),
    ],
)
def test_an_answer_is_kept_for_its_time(finding: Finding, keep_s: float) -> None:
    async def scene(host: Host) -> None:
        host.says["ada@box.test"] = finding
        assert await host.book.ask("ada@box.test") == Answer(finding.result, finding.reply, keep_s)
        host.time += keep_s - 1
        answer = await host.book.ask("ada@box.test")
        assert (answer.result, round(answer.keep_s, 6)) == (finding.result, 1.0)
        assert len(host.asked) == 1
        host.time += 1
        await host.book.ask("ada@box.test")
        assert len(host.asked) == 2
        assert host.book.hits == 1
        assert host.book.probes[finding.result] == 2

    run(scene)


def test_equal_questions_share_one_probe() -> None:
    async def scene(host: Host) -> None:
        host.gate.clear()
        questions = [asyncio.ensure_future(host.book.ask("ada@box.test")) for _ in range(50)]
        other = asyncio.ensure_future(host.book.ask("bob@box.test"))
        while len(host.asked) < 2:
            await asyncio.sleep(0)
        questions[0].cancel()
        host.gate.set()
        answers = await asyncio.gather(*questions[1:], other)
        assert {answer.result for answer in answers} == {"unknown"}
        assert sorted(host.asked) == ["ada@box.test", "bob@box.test"]

    run(scene)


def test_who_was_known_is_known_for_a_day_more_while_the_host_is_down() -> None:
    async def scene(host: Host) -> None:
        host.says["ada@box.test"] = KNOWN
        await host.book.ask("ada@box.test")
        await host.book.ask("nobody@box.test")
        host.says = dict.fromkeys(("ada@box.test", "nobody@box.test", "new@box.test"), DOWN)
        host.time += 700
        assert await host.book.ask("ada@box.test") == Answer("known", "250 OK", FAILED_S)
        assert host.book.stale == 1
        # that somebody was unknown is forgotten: the mailbox may have been made meanwhile
        assert (await host.book.ask("nobody@box.test")).result == "failed"
        assert await host.book.ask("new@box.test") == Answer("failed", DOWN.reply, 0.0)
        host.time += STALE_S
        assert (await host.book.ask("ada@box.test")).result == "failed"

    run(scene)


def test_a_host_that_is_down_is_left_alone_for_a_moment_and_that_is_told_once() -> None:
    async def scene(host: Host) -> None:
        host.says = {f"{name}@box.test": DOWN for name in "abcde"}
        for name in "abc":
            assert (await host.book.ask(f"{name}@box.test")).result == "failed"
        assert host.asked == ["a@box.test"]
        host.time += REST_S
        await host.book.ask("d@box.test")
        assert host.asked == ["a@box.test", "d@box.test"]
        assert host.told == [DOWN.reply]
        host.time += REST_S
        host.says["e@box.test"] = KNOWN
        assert (await host.book.ask("e@box.test")).result == "known"
        assert (await host.book.ask("f@box.test")).result == "unknown"
        assert host.told == [DOWN.reply, None]

    run(scene)


def test_an_answer_later_for_one_leaves_the_others_alone() -> None:
    async def scene(host: Host) -> None:
        host.says = {"full@box.test": LATER, "ada@box.test": KNOWN}
        assert (await host.book.ask("full@box.test")).result == "failed"
        assert (await host.book.ask("ada@box.test")).result == "known"
        assert host.told == []
        host.says["ada@box.test"] = LATER
        host.time += 700
        assert (await host.book.ask("ada@box.test")).result == "known"

    run(scene)


def test_no_more_answers_are_kept_than_there_is_room_for() -> None:
    async def scene(host: Host) -> None:
        host.says["ada@box.test"] = KNOWN
        for _ in range(2):
            await host.book.ask("ada@box.test")
        for number in range(1000):
            await host.book.ask(f"guess{number}@box.test")
        assert len(host.book) <= 10
        before = len(host.asked)
        assert (await host.book.ask("ada@box.test")).result == "known"
        assert len(host.asked) == before  # guesses do not drive out whom people write to

    run(scene, entries=10)


def test_no_more_questions_are_under_way_than_there_is_room_for() -> None:
    async def scene(host: Host) -> None:
        host.gate.clear()
        questions = [asyncio.ensure_future(host.book.ask(f"{number}@box.test")) for number in range(MOST_UNDER_WAY)]
        while len(host.asked) < MOST_UNDER_WAY:
            await asyncio.sleep(0)
        assert (await host.book.ask("one.more@box.test")).result == "failed"
        assert "one.more@box.test" not in host.asked
        host.gate.set()
        assert {answer.result for answer in await asyncio.gather(*questions)} == {"unknown"}
        assert (await host.book.ask("one.more@box.test")).result == "unknown"

    run(scene)
