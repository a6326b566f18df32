"""What an operator's question costs at a million queued messages: the whole of it, and its longest slice.

The messages are entries without mail data, as those of mail that waits on disk. The loop of a worker is held up for one
slice at a time: none may come near the 50 ms that the relay promises.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from angarium._core.record import MessageState, make_accepted, new_message
from angarium._core.schedule import MessageTable
from angarium._core.selection import Census, Selection
from angarium.app.inspection import WALK_SLOTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

MESSAGES = 1_000_000
LONGEST_SLICE_S = 0.05


@pytest.fixture(scope="module")
def table() -> Iterator[MessageTable]:
    table = MessageTable()
    for number in range(1, MESSAGES + 1):
        envelope: dict[str, Any] = {
            "reverse_path": b"list-%d@origin.test" % (number % 100),
            "recipients": [(b"you@d%d.test" % (number % 1000), 0, b"")],
            "received_us": number,
        }
        message = new_message(make_accepted(envelope, b"", number << 14))
        message.buffer = None
        if number % 10 == 0:
            message.state = MessageState.MESSAGE_HELD
        table.insert(message)
    return table


QUESTIONS: dict[str, dict[str, Any]] = {
    "the oldest 100": {"most": 100},
    "the oldest 100 that are held": {"most": 100, "state": "held"},
    "the oldest 100 from one address": {"most": 100, "reverse_path": b"list-7@origin.test"},
    "the oldest 1 % by time": {"before_us": MESSAGES // 100},
    "all": {},
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_walk(benchmark: BenchmarkFixture, table: MessageTable, question: str) -> None:
    benchmark.group = "selection: walk over 1,000,000 messages"
    longest = 0.0

    def walk() -> Selection:
        nonlocal longest
        selection = Selection(table, **QUESTIONS[question])
        while True:
            began = time.perf_counter()
            complete = selection.step(WALK_SLOTS)
            longest = max(longest, time.perf_counter() - began)
            if complete:
                return selection

    selection = benchmark.pedantic(walk, rounds=5)
    expected = {"all": MESSAGES, "the oldest 1 % by time": MESSAGES // 100 - 1}
    assert selection.count == expected.get(question, 100)
    benchmark.extra_info["longest_slice_ms"] = round(longest * 1e3, 2)
    assert longest < LONGEST_SLICE_S


def test_census(benchmark: BenchmarkFixture, table: MessageTable) -> None:
    benchmark.group = "selection: states of 1,000,000 messages"
    longest = 0.0

    def count() -> Census:
        nonlocal longest
        census = Census(table)
        while True:
            began = time.perf_counter()
            complete = census.step(WALK_SLOTS)
            longest = max(longest, time.perf_counter() - began)
            if complete:
                return census

    census = benchmark.pedantic(count, rounds=5)
    assert census.by_state["held"] == MESSAGES // 10
    assert sum(census.by_state.values()) == MESSAGES
    benchmark.extra_info["longest_slice_ms"] = round(longest * 1e3, 2)
    assert longest < LONGEST_SLICE_S
