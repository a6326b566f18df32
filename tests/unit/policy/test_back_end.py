"""The pool of verifiers: so many at one time, a line with an end, and who goes first in it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from angarium.policy.back_end import RANK, VerifierBusy, VerifierPool


async def ranked(pool: VerifierPool, rank: float, done: list[float]) -> None:
    RANK.set(rank)
    await pool.run(lambda: done.append(rank))


async def test_the_lowest_rank_goes_first() -> None:
    pool, done, gate = VerifierPool(1, 10), list[float](), threading.Event()
    first = asyncio.ensure_future(pool.run(gate.wait))
    await asyncio.sleep(0)
    waiting = [asyncio.ensure_future(ranked(pool, rank, done)) for rank in (3.0, 1.0, 0.0, 1.5)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *waiting)
    assert done == [0.0, 1.0, 1.5, 3.0]
    pool.close()


async def test_one_who_gives_up_takes_nobody_s_turn() -> None:
    pool, done, gate = VerifierPool(1, 10), list[float](), threading.Event()
    first = asyncio.ensure_future(pool.run(gate.wait))
    await asyncio.sleep(0)
    gone, stays = (asyncio.ensure_future(ranked(pool, rank, done)) for rank in (0.0, 1.0))
    await asyncio.sleep(0)
    gone.cancel()
    gate.set()
    await asyncio.gather(first, stays)
    await pool.run(lambda: done.append(9.0))
    assert done == [1.0, 9.0]
    assert pool.under_way == 0
    pool.close()


async def test_the_line_has_an_end() -> None:
    pool, gate = VerifierPool(1, 1), threading.Event()
    under_way = [asyncio.ensure_future(pool.run(gate.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(VerifierBusy):
        await pool.run(gate.wait)
    gate.set()
    assert await asyncio.gather(*under_way) == [True, True]
    pool.close()


async def test_what_fails_in_a_thread_is_raised_and_its_turn_given_on() -> None:
    pool = VerifierPool(1, 1)

    def fail() -> None:
        raise ValueError("in the thread")

    for _ in range(3):
        with pytest.raises(ValueError, match="in the thread"):
            await pool.run(fail)
    pool.close()
