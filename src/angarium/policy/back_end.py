"""What a back end of log-ins says, and how little it may cost.

Job: the words that every back end of `[[credentials]]` answers with, and the pool of threads in which slow ones
verify. A back end is asked for a password, a token or a SCRAM verifier; it accepts or refuses what it knows, and says
unknown of the rest, which is the next one's to answer.

Fails: a back end raises nothing but VerifierBusy; what goes wrong within it is UNAVAILABLE, with the reason in the log.
Bounds: MOST_AT_ONCE questions of each back end that asks others; in each of two lanes `threads` verifications, and
`waiting` in line."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import heapq
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium.policy.access_protocol import PasswordAttempt, TokenAttempt

__all__ = ["MOST_AT_ONCE", "NEVER_FAILED", "RANK", "BackEnd", "Finding", "Found", "VerifierBusy", "VerifierPool"]

MOST_AT_ONCE = 64
NEVER_FAILED = 1.0  # a rank; above it are clients whose log-ins have failed
RANK: ContextVar[float] = ContextVar("rank", default=NEVER_FAILED)  # of the question at hand: the lower goes first

R = TypeVar("R")


class Finding(enum.Enum):
    """What a back end says of an attempt."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # it knows the log-in, and this is not its password
    UNKNOWN = "unknown"  # it does not know; the next one may
    UNAVAILABLE = "unavailable"  # it cannot say now


@dataclass(frozen=True, slots=True)
class Found:
    """A finding. `log_in` is the name that was proved; `message` what an OAuth client is told."""

    finding: Finding
    log_in: str = ""
    message: str = ""


class VerifierBusy(Exception):
    """Too many are in line already."""


class BackEnd:
    """One place where log-ins are looked for. What it cannot do at all, it does not know."""

    async def password(self, attempt: PasswordAttempt) -> Found:
        """Whether a password is right."""
        del attempt
        return Found(Finding.UNKNOWN)

    async def token(self, attempt: TokenAttempt) -> Found:
        """Whose access token it is."""
        del attempt
        return Found(Finding.UNKNOWN)

    async def close(self) -> None:
        """Let go of connections."""


class _Lane:
    """Some threads, and those who wait for one; the lowest RANK is next."""

    def __init__(self, threads: int, name: str, initializer: Callable[[], None] | None = None) -> None:
        self._free = threads
        self._line: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=initializer)

    async def turn(self) -> None:
        """Until a thread is free."""
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._line, (RANK.get(), next(self._numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_turn()
            raise

    def give_turn(self) -> None:
        """To the next, or back."""
        while self._line:
            _, _, turn = heapq.heappop(self._line)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class VerifierPool:
    """Threads for what blocks: hashing, libraries that know no event loop.

    Who has failed before waits in a lane of its own, whose threads get what time nobody else wants: a storm of wrong
    passwords takes the processor from nobody, and its line is not the others' line.
    """

    def __init__(self, threads: int, waiting: int) -> None:
        """`threads` and `waiting`: of each of the two lanes."""
        self._most = threads + waiting
        self._lanes = _Lane(threads, "verifier"), _Lane(threads, "idle verifier", _run_when_idle)
        self.under_way = [0, 0]

    async def run(self, function: Callable[[], R]) -> R:
        """What the function returns; VerifierBusy when there is no room in line."""
        number = int(RANK.get() > NEVER_FAILED)
        if self.under_way[number] >= self._most:
            raise VerifierBusy
        lane = self._lanes[number]
        self.under_way[number] += 1
        try:
            await lane.turn()
            try:
                return await asyncio.get_running_loop().run_in_executor(lane.executor, function)
            finally:
                lane.give_turn()
        finally:
            self.under_way[number] -= 1

    def close(self) -> None:
        """Those in line are not served any more."""
        for lane in self._lanes:
            lane.executor.shutdown(wait=False, cancel_futures=True)


def _run_when_idle() -> None:
    """This thread alone (sched(7)): whoever wakes up goes before it, at once."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
