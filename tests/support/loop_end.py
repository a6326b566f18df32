"""The end of a loop that a server of a test runs on: nothing is left over which the garbage collector complains later,
in the middle of another test."""

from __future__ import annotations

import asyncio

LET_S = 1.0  # for connections that were accepted a moment ago
LOOK_S = 0.05


async def end_tasks() -> None:
    """Cancel every other task of this loop, and return when they have ended; the listening sockets are closed before.

    A connection that has just been accepted is with a task of asyncio's own, which would lose its socket when it is
    cancelled. It is let through to the server's task or protocol, and ends there.
    """
    loop = asyncio.get_running_loop()
    own = asyncio.current_task()
    told: set[asyncio.Task[object]] = set()
    until = loop.time() + LET_S
    while tasks := {task for task in asyncio.all_tasks() if task is not own}:
        for task in tasks - told:
            if not _accepts(task) or loop.time() > until:
                task.cancel()
                told.add(task)
        await asyncio.wait(tasks, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0)  # what was aborted is closed with the next turn


def _accepts(task: asyncio.Task[object]) -> bool:
    return "_accept_connection" in getattr(task.get_coro(), "__qualname__", "")
