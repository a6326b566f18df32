"""The line of TLS handshakes: one in a turn of the loop, in their order, and nobody waits for one who has gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from angarium.ingress.handshake_line import HandshakeLine
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_one_in_each_turn_of_the_loop_and_in_their_order() -> None:
    line, turns, began = HandshakeLine(), 0, list[tuple[int, int]]()

    async def begin(number: int) -> None:
        await line.turn()
        began.append((number, turns))

    waiting = [asyncio.ensure_future(begin(number)) for number in range(20)]
    while not all(task.done() for task in waiting):
        await asyncio.sleep(0)
        turns += 1
    assert [number for number, _ in began] == list(range(20))
    assert len({turn for _, turn in began}) == 20


async def test_who_has_gone_takes_nobody_s_turn() -> None:
    line = HandshakeLine()
    await line.turn()
    gone, stays = (asyncio.ensure_future(line.turn()) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait_for(stays, 60)
    await asyncio.wait_for(line.turn(), 60)  # the line is free again


async def test_behind_a_turn_that_took_long_the_next_waits_for_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    line, loop = HandshakeLine(clock.monotonic), asyncio.get_running_loop()
    later: list[tuple[float, Callable[[], object]]] = []

    def call_later(delay_s: float, call: Callable[..., object], *arguments: Any) -> None:
        later.append((delay_s, lambda: call(*arguments)))

    monkeypatch.setattr(loop, "call_later", call_later)
    await line.turn()
    waits = asyncio.ensure_future(line.turn())
    clock.advance(0.25)
    for _ in range(10):
        await asyncio.sleep(0)
    ((delay_s, go_on),) = later
    assert delay_s == pytest.approx(0.25)
    assert not waits.done()
    go_on()
    for _ in range(3):
        await asyncio.sleep(0)
    assert waits.done()
    assert len(later) == 1  # this one's turn took no time
