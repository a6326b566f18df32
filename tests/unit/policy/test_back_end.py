"""The pool of verifiers: so many at one time, a line with an end, and who goes first in it."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from angarium.policy.back_end import RANK, STRANGER, VerifierBusy, VerifierPool


async def ranked(pool: VerifierPool, rank: float, done: list[float]) -> None:
    RANK.set(rank)
    await pool.run(lambda: done.append(rank))


@pytest.mark.parametrize("lowest", [0.0, 1.5], ids=["known", "failed before"])
async def test_the_lowest_rank_goes_first(lowest: float) -> None:
    pool, done, gate = VerifierPool(1, 10), list[float](), threading.Event()
    RANK.set(lowest)
    first = asyncio.ensure_future(pool.run(gate.wait))
    await asyncio.sleep(0)
    ranks = [lowest + more for more in (0.75, 0.25, 0.0, 0.5)]  # all of one lane
    waiting = [asyncio.ensure_future(ranked(pool, rank, done)) for rank in ranks]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(first, *waiting)
    assert done == sorted(ranks)
    pool.close()


async def test_the_less_a_client_is_known_the_less_its_thread_may_take_from_others() -> None:
    pool, own = VerifierPool(1, 10), os.getpriority(os.PRIO_PROCESS, 0)
    found = []
    for rank in (0.0, STRANGER, 1.1):
        RANK.set(rank)
        found.append(await pool.run(lambda: (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))))
    assert found[:2] == [(os.SCHED_OTHER, own), (os.SCHED_OTHER, 19)]
    assert found[2][0] == os.SCHED_IDLE
    assert (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) == (os.SCHED_OTHER, own)
    pool.close()


async def test_the_line_of_those_who_have_failed_is_nobody_else_s_line() -> None:
    pool, gate, done = VerifierPool(1, 1), threading.Event(), list[float]()
    RANK.set(2.0)
    storm = [asyncio.ensure_future(pool.run(gate.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(VerifierBusy):
        await pool.run(gate.wait)
    await ranked(pool, 1.0, done)
    assert done == [1.0]
    gate.set()
    await asyncio.gather(*storm)
    pool.close()


async def test_one_who_gives_up_takes_nobody_s_turn() -> None:
    pool, done, gate = VerifierPool(1, 10), list[float](), threading.Event()
    RANK.set(2.0)
    first = asyncio.ensure_future(pool.run(gate.wait))
    await asyncio.sleep(0)
    gone, stays = (asyncio.ensure_future(ranked(pool, rank, done)) for rank in (1.5, 2.0))
    await asyncio.sleep(0)
    gone.cancel()
    gate.set()
    await asyncio.gather(first, stays)
    await pool.run(lambda: done.append(9.0))
    assert done == [2.0, 9.0]
    assert pool.under_way == [0, 0, 0]
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
