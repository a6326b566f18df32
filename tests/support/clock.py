"""A clock that stands still until a test turns it."""

from __future__ import annotations


class FakeClock:
    """Both of its times move together; `jump` sets the calendar alone, as an administrator or NTP does."""

    def __init__(self, now: float = 1_800_000_000.0, monotonic: float = 1000.0) -> None:
        self._now = now
        self._monotonic = monotonic

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("monotonic time never goes back; jump() moves the calendar")
        self._now += seconds
        self._monotonic += seconds

    def jump(self, now: float) -> None:
        self._now = now
