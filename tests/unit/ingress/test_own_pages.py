"""An awaitable in place of a coroutine: what comes of it, what it raises, and how it is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from angarium.ingress.own_pages import OwnPages


async def test_a_value_at_once() -> None:
    async def at_once() -> int:
        return 7

    assert await OwnPages(at_once()) == 7


async def test_a_value_after_several_waits() -> None:
    async def later() -> list[int]:
        found = []
        for number in range(3):
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_result, number)
            found.append(await future)
        return found

    assert await OwnPages(later()) == [0, 1, 2]


@pytest.mark.parametrize("waits", [0, 1, 2])
async def test_a_failure(waits: int) -> None:
    async def fails() -> None:
        for _ in range(waits):
            await asyncio.sleep(0)
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await OwnPages(fails())


async def test_what_is_waited_for_may_fail_and_be_handled() -> None:
    async def handles() -> str:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, OSError("no"))
        try:
            await future
        except OSError:
            await asyncio.sleep(0)
            return "handled"
        return "not raised"

    assert await OwnPages(handles()) == "handled"


async def test_it_can_be_cancelled() -> None:
    ended = []

    async def waits() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(True)

    async def outer() -> None:
        await OwnPages(waits())

    task = asyncio.get_running_loop().create_task(outer())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]
