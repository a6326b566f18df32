"""A readable model of cext/timeline.pyx: every turn is kept, and nothing is put together."""

from __future__ import annotations

from collections import defaultdict


class Timeline:
    """`turns`: (since, cause), the oldest first."""

    def __init__(self) -> None:
        self.turns: list[tuple[float, int]] = []

    def note(self, cause: int, now: float) -> None:
        """From now on what waits waits for this; -1: nothing waits, and what was is forgotten."""
        if cause < 0:
            self.turns = []
        elif not self.turns or self.turns[-1][1] != cause:
            self.turns.append((now, cause))

    def between(self, begin: float, end: float) -> dict[int, float]:
        """Seconds by cause from begin to end, as far as there were any."""
        shares: dict[int, float] = defaultdict(float)
        ends = [since for since, _ in self.turns[1:]] + [end]
        for (since, cause), until in zip(self.turns, ends, strict=False):
            shares[cause] += max(0.0, min(until, end) - max(since, begin))
        return {cause: seconds for cause, seconds in shares.items() if seconds > 0}
