"""What a back end of log-ins says, and how little it may cost.

Job: the words that every back end of `[[credentials]]` answers with, and the pool of threads in which slow ones
verify. A back end is asked for a password, a token or a SCRAM verifier; it accepts or refuses what it knows, and says
unknown of the rest, which is the next one's to answer.

Fails: a back end raises nothing but VerifierBusy; what goes wrong within it is UNAVAILABLE, with the reason in the log.
Bounds: MOST_AT_ONCE questions of each back end that asks others; in each of three lanes `threads` verifications, and
`waiting` in line."""

from __future__ import annotations

import asyncio
import enum
import heapq
import itertools
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from angarium._core.thread_priority import run_behind, run_when_idle

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium.policy.access_protocol import PasswordAttempt, ScramFinal, ScramFirst, TokenAttempt

__all__ = ["MOST_AT_ONCE", "RANK", "STRANGER", "BackEnd", "Finding", "Found", "VerifierBusy", "VerifierPool", "lane_of"]

MOST_AT_ONCE = 64
STRANGER = 1.0  # a rank: below it are those who are known, above it clients whose log-ins have failed
RANK: ContextVar[float] = ContextVar("rank", default=STRANGER)  # of the question at hand: the lower goes first
STRANGERS_NICE = 19
STRANGERS_SLICE_NS = 100_000

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

    passes_scram_on = False  # to another server, which keeps the state of an exchange

    async def password(self, attempt: PasswordAttempt) -> Found:
        """Whether a password is right."""
        del attempt
        return Found(Finding.UNKNOWN)

    async def token(self, attempt: TokenAttempt) -> Found:
        """Whose access token it is."""
        del attempt
        return Found(Finding.UNKNOWN)

    async def scram_first(self, question: ScramFirst, log_in: str) -> str | None:
        """The challenge for a SCRAM client, where SCRAM is passed on; None when there is none now."""
        del question, log_in
        return None

    async def scram_final(self, question: ScramFinal, log_in: str) -> Found:
        """Whether the client's proof holds; ACCEPTED with the server's last message."""
        del question, log_in
        return Found(Finding.UNAVAILABLE)

    async def close(self) -> None:
        """Let go of connections."""


class _Lane:
    """Some threads, and those who wait for one; the lowest RANK is next."""

    def __init__(self, threads: int, name: str, initializer: Callable[[], object] | None = None) -> None:
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

    There are three lanes, each with threads and a line of its own: of those who have logged in from there before, of
    those who have not, and of those who have failed. The first gives way to those who carry mail by its process's nice
    value, the second far more, and the third runs when nobody else wants to: a storm of wrong passwords takes the
    processor from nobody, and its line is not the others' line.
    """

    def __init__(self, threads: int, waiting: int) -> None:
        """`threads` and `waiting`: of each lane."""
        self._most = threads + waiting
        self._lanes = (
            _Lane(threads, "verifier"),
            _Lane(threads, "stranger", partial(run_behind, STRANGERS_NICE, STRANGERS_SLICE_NS)),
            _Lane(threads, "failed", run_when_idle),
        )
        self.under_way = [0, 0, 0]

    async def run(self, function: Callable[[], R]) -> R:
        """What the function returns; VerifierBusy when there is no room in line."""
        number = lane_of(RANK.get())
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


def lane_of(rank: float) -> int:
    """0: has logged in from there before, or is trusted; 1: a stranger; 2: has failed."""
    if rank < STRANGER:
        return 0
    return 1 if rank <= STRANGER else 2
