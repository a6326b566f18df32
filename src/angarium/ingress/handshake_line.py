"""The line in which TLS handshakes wait for their turn.

Job: begin one handshake in each turn of the loop. A handshake is some 500 µs of arithmetic; when hundreds of clients
come at once, and the loop takes up all of them in one turn, everybody else waits for hundreds. So each turn has one of
them, and whatever else is ready.

Input: those who want to begin, when the client has spoken. Output: their turn, in the order in which they came. It
fails never; who gives up takes nobody's turn. Bounds: those of connections.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["HandshakeLine"]


class HandshakeLine:
    """The line of one loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken = False  # this turn of the loop has its handshake

    async def turn(self) -> None:
        """Until this turn of the loop is ours; at once when nobody else has it."""
        loop = asyncio.get_running_loop()
        if not self._taken:
            self._taken = True
            loop.call_soon(self._next)
            return
        mine = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _next(self) -> None:
        while self._waiting:
            first = self._waiting.popleft()
            if not first.done():
                first.set_result(None)
                asyncio.get_running_loop().call_soon(self._next)
                return
        self._taken = False
