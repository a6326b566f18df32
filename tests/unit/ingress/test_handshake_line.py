"""The line of TLS handshakes: one in a turn of the loop, in their order, and nobody waits for one who has gone."""

from __future__ import annotations

import asyncio

from angarium.ingress.handshake_line import HandshakeLine


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
