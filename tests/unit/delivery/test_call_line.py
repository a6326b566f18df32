"""Calls have their turn in order, some in each turn of the loop, whatever one of them takes or raises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from angarium.delivery.call_line import CallLine
from tests.support.clock import FakeClock


class Watch:
    """A line whose calls take time of a fake clock, and the turn of the loop in which each was made."""

    def __init__(self, slice_s: float = 0.005) -> None:
        self.clock = FakeClock()
        self.line = CallLine(self.clock.monotonic, slice_s)
        self.turn = 0
        self.made: list[tuple[int, int]] = []

    def call(self, number: int, takes_s: float = 0.0) -> None:
        self.made.append((number, self.turn))
        self.clock.advance(takes_s)

    async def run(self) -> None:
        """Until nobody waits any more."""
        while len(self.line):
            await asyncio.sleep(0)
            self.turn += 1

    @property
    def by_turn(self) -> list[int]:
        """How many calls each turn had that had some."""
        turns = [turn for _, turn in self.made]
        return [turns.count(turn) for turn in sorted(set(turns))]


async def test_what_takes_no_time_is_called_in_one_turn_and_in_order() -> None:
    watch = Watch()
    for number in range(1000):
        watch.line.call_soon(watch.call, number)
    assert watch.made == [], "later, not at once"
    await watch.run()
    assert [number for number, _ in watch.made] == list(range(1000))
    assert watch.by_turn == [1000]


async def test_a_turn_has_as_many_calls_as_there_is_time_for() -> None:
    watch = Watch(slice_s=1.25)
    for number in range(12):
        watch.line.call_soon(watch.call, number, 0.25)
    await watch.run()
    assert [number for number, _ in watch.made] == list(range(12))
    assert watch.by_turn == [5, 5, 2]


async def test_one_call_in_a_turn_at_least() -> None:
    watch = Watch()
    for number in range(3):
        watch.line.call_soon(watch.call, number, 1.0)
    await watch.run()
    assert watch.by_turn == [1, 1, 1]


async def test_others_have_their_turns_in_between() -> None:
    watch = Watch()
    heard: list[int] = []
    for number in range(10):
        watch.line.call_soon(watch.call, number, 1.0)
    loop = asyncio.get_running_loop()

    def hear() -> None:
        heard.append(len(watch.made))
        if len(heard) < 10:
            loop.call_soon(hear)

    loop.call_soon(hear)
    await watch.run()
    assert heard == sorted(set(heard)), "between any two calls the others were heard"


async def test_a_call_that_puts_in_another_does_not_keep_the_turn() -> None:
    watch = Watch()

    def again(number: int) -> None:
        watch.call(number)
        if number < 5:
            watch.line.call_soon(again, number + 1)

    watch.line.call_soon(again, 0)
    await watch.run()
    assert watch.by_turn == [1] * 6


async def test_a_call_that_fails_is_reported_and_the_others_are_made() -> None:
    watch = Watch()
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def fail() -> None:
        raise ValueError("no")

    watch.line.call_soon(watch.call, 1)
    watch.line.call_soon(fail)
    watch.line.call_soon(watch.call, 2)
    await watch.run()
    assert [number for number, _ in watch.made] == [1, 2]
    assert [str(failure) for failure in reported] == ["no"]


@pytest.mark.parametrize("made_already", [False, True])
async def test_nothing_is_called_behind_clear(made_already: bool) -> None:
    watch = Watch()
    watch.line.call_soon(watch.line.clear if made_already else watch.call, *([] if made_already else [1]))
    watch.line.call_soon(watch.call, 2)
    if not made_already:
        watch.line.clear()
    for _ in range(5):
        await asyncio.sleep(0)
    assert watch.made == []
