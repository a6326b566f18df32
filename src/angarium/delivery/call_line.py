"""The line in which calls wait for their turn of the loop.

Job: make calls in the order in which they came, later, and no more of them in one turn of the loop than SLICE_S has
room for. A thousand answers may come in one packet, and each may end a session, or send a message on its way: in one
turn everybody else would wait for all of them. So a turn has some, and whatever else is ready.

Input: calls, as `loop.call_soon` takes them. Output: they are made, one at least in a turn. Fails: what a call raises
is the loop's to report, and the calls behind it are made in the next turn. Bounds: those of who puts calls in.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SLICE_S", "CallLine"]

SLICE_S = 0.005  # of one turn of the loop


class CallLine:
    """The line of one loop, for one kind of call."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, slice_s: float = SLICE_S) -> None:
        self._monotonic = monotonic
        self._slice_s = slice_s
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._asked = False  # for a turn

    def __len__(self) -> int:
        return len(self._calls)

    def call_soon(self, call: Callable[..., object], *arguments: Any) -> None:
        """Make a call in a later turn of the loop, behind those that wait already."""
        self._calls.append((call, arguments))
        self._ask()

    def clear(self) -> None:
        """Make none of the calls that wait."""
        self._calls.clear()

    def _ask(self) -> None:
        if self._calls and not self._asked:
            self._asked = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._asked = False
        until = self._monotonic() + self._slice_s
        try:
            for _ in range(len(self._calls)):  # what is put in meanwhile has its turn later
                if not self._calls:
                    break
                call, arguments = self._calls.popleft()
                call(*arguments)
                if self._monotonic() >= until:
                    break
        finally:
            self._ask()
