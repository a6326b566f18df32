"""Time as a value that is passed in: whoever needs the time is given a Clock, so that tests own it.

`now()` is the calendar's time in seconds since 1970 UTC: for trace fields, retry times and the event log; it can jump.
`monotonic()` is for measuring how long something took, and never goes back. Code that must outlive a restart stores the
first, code that waits uses the second.
"""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """What tells the time. A test's clock stands still until the test turns it."""

    def now(self) -> float:
        """Seconds since 1970-01-01T00:00:00Z."""
        ...

    def monotonic(self) -> float:
        """Seconds since a moment that does not change while the process lives."""
        ...


class SystemClock:
    """The machine's clock."""

    __slots__ = ()

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
