"""What is known of the recipients behind one mailbox host: answers that are kept for a time, and one question a name.

Input: `probe`, which asks the host (delivery.call_ahead), how long to keep what it says, and a clock. Output: Answers,
each with how long it holds. Equal questions under way share one probe.

    known      is kept for keep_known_s, and used for STALE_S more while the host cannot be asked
    unknown    is kept for keep_unknown_s; when it is not about the mailbox, for SOFT_S at most
    failed     is kept for FAILED_S, so that an address which cannot be judged is not asked about with each RCPT

A host that is down is left alone for REST_S: meanwhile what is not known has failed at once.

Fails: never. Bounds: `entries` answers, MOST_UNDER_WAY questions; beyond these it has failed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from angarium.delivery.cache import Cache

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from angarium.delivery.call_ahead import Finding, Result

__all__ = ["Answer", "RecipientBook"]

STALE_S = 86400.0
SOFT_S = 60.0
FAILED_S = 5.0
REST_S = 5.0
MOST_UNDER_WAY = 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a recipient, in whose words, and for how many seconds that holds."""

    result: Result
    reply: str
    keep_s: float


@dataclass(frozen=True, slots=True)
class _Entry:
    result: Result
    reply: str
    until: float


class RecipientBook:
    """The recipients of one mailbox host."""

    def __init__(
        self,
        probe: Callable[[str], Awaitable[Finding]],
        monotonic: Callable[[], float],
        *,
        entries: int,
        keep_known_s: float,
        keep_unknown_s: float,
        on_change: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """on_change: told why the host is down, and None when it answers again."""
        self.hits = 0  # questions answered by what was known
        self.probes: dict[Result, int] = {"known": 0, "unknown": 0, "failed": 0}
        self.stale = 0  # answered with what was right once, since the host could not be asked
        self._probe = probe
        self._monotonic = monotonic
        self._keep_known_s = keep_known_s
        self._keep_unknown_s = keep_unknown_s
        self._on_change = on_change
        self._cache: Cache[str, _Entry] = Cache(entries)
        self._under_way: dict[str, asyncio.Task[Answer]] = {}
        self._down: str | None = None
        self._rests_until = 0.0

    def __len__(self) -> int:
        return len(self._cache)

    async def ask(self, mailbox: str) -> Answer:
        """What is known of a mailbox, or becomes known now."""
        entry = self._cache.peek(mailbox)
        now = self._monotonic()
        if entry is not None and now < entry.until:
            self._cache.use(mailbox)
            self.hits += 1
            return Answer(entry.result, entry.reply, entry.until - now)
        task = self._under_way.get(mailbox)
        if task is None:
            if len(self._under_way) >= MOST_UNDER_WAY:
                return Answer("failed", "too many recipients are being asked about", 0.0)
            task = asyncio.get_running_loop().create_task(self._find_out(mailbox, entry))
            self._under_way[mailbox] = task
            task.add_done_callback(lambda _: self._under_way.pop(mailbox, None))
        # one who is cancelled must not take the answer away from the others
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = tuple(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _find_out(self, mailbox: str, before: _Entry | None) -> Answer:
        if self._down is not None and self._monotonic() < self._rests_until:
            return self._without(mailbox, before, self._down)
        finding = await self._probe(mailbox)
        self.probes[finding.result] += 1
        if finding.down:
            self._note_down(finding.reply)
        elif self._down is not None:
            self._down = None
            self._on_change(None)
        if finding.result == "failed":
            return self._without(mailbox, before, finding.reply)
        keep_s = self._keep_known_s if finding.result == "known" else self._keep_unknown_s
        if not finding.firm:
            keep_s = min(keep_s, SOFT_S)
        return self._keep(mailbox, finding.result, finding.reply, keep_s)

    def _note_down(self, why: str) -> None:
        self._rests_until = self._monotonic() + REST_S
        if self._down is None:
            self._on_change(why)
        self._down = why

    def _without(self, mailbox: str, before: _Entry | None, why: str) -> Answer:
        """The host does not say: who was known is known for a while longer."""
        now = self._monotonic()
        if before is not None and before.result == "known" and now < before.until + STALE_S:
            self.stale += 1
            return Answer("known", before.reply, FAILED_S)
        if self._down is not None or (before is not None and before.result == "known"):
            return Answer("failed", why, 0.0)  # of no single address
        return self._keep(mailbox, "failed", why, FAILED_S)

    def _keep(self, mailbox: str, result: Result, reply: str, keep_s: float) -> Answer:
        if keep_s > 0:
            self._cache.put(mailbox, _Entry(result, reply, self._monotonic() + keep_s))
        return Answer(result, reply, keep_s)
