"""The line in which TLS handshakes wait for their turn.

Job: begin one handshake in a turn of the loop. A handshake is some 500 µs of arithmetic; when hundreds of clients
come at once, and the loop takes up all of them in one turn, everybody else waits for hundreds. So a turn has one of
them, and whatever else is ready. Behind a turn that took LONG_S the next handshake waits for as long as that took:
when a loop has more to do than it can, handshakes have half of its time, and those who have shaken hands the rest.

Input: those who want to begin, when the client has spoken. Output: their turn, in the order in which they came. It
fails never; who gives up takes nobody's turn. Bounds: those of connections.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HandshakeLine"]

LONG_S = 0.001  # of a turn: less is what any loop takes


class HandshakeLine:
    """The line of one loop."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken = False  # this turn of the loop has its handshake
        self._began = 0.0  # monotonic

    async def turn(self) -> None:
        """Until this turn of the loop is ours; at once when nobody else has it."""
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            self._begin(loop)
            return
        mine = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._began = self._monotonic()
        loop.call_soon(self._turned, loop)

    def _turned(self, loop: asyncio.AbstractEventLoop) -> None:
        """The turn is over in which one has begun."""
        took_s = self._monotonic() - self._began
        if took_s < LONG_S:
            self._next(loop)
        else:
            loop.call_later(took_s, self._next, loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():
                first.set_result(None)
                self._begin(loop)
                return
        self._taken = False
