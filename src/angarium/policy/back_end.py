"""What a back end of log-ins says, and how little it may cost.

Job: the words that every back end of `[[credentials]]` answers with, and the pool of threads in which slow ones
verify. A back end is asked for a password, a token or a SCRAM verifier; it accepts or refuses what it knows, and says
unknown of the rest, which is the next one's to answer.

Fails: a back end raises nothing but VerifierBusy; what goes wrong within it is UNAVAILABLE, with the reason in the log.
Bounds: MOST_AT_ONCE questions of each back end that asks others; `threads` verifications, and `waiting` in line."""

from __future__ import annotations

import asyncio
import enum
import heapq
import itertools
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from angarium.policy.access_protocol import PasswordAttempt, ScramFinal, ScramFirst, TokenAttempt

__all__ = ["MOST_AT_ONCE", "RANK", "BackEnd", "Finding", "Found", "VerifierBusy", "VerifierPool"]

MOST_AT_ONCE = 64
RANK: ContextVar[float] = ContextVar("rank", default=1.0)  # of the question at hand: the lower goes first

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


class VerifierPool:
    """Threads for what blocks: hashing, libraries that know no event loop. Of those in line the lowest RANK is next."""

    def __init__(self, threads: int, waiting: int) -> None:
        self._most = threads + waiting
        self._free = threads
        self._line: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="verifier")
        self.under_way = 0

    async def run(self, function: Callable[[], R]) -> R:
        """What the function returns; VerifierBusy when there is no room in line."""
        if self.under_way >= self._most:
            raise VerifierBusy
        self.under_way += 1
        try:
            await self._turn()
            try:
                return await asyncio.get_running_loop().run_in_executor(self._executor, function)
            finally:
                self._give_turn()
        finally:
            self.under_way -= 1

    def close(self) -> None:
        """Those in line are not served any more."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _turn(self) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._line, (RANK.get(), next(self._numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_turn()
            raise

    def _give_turn(self) -> None:
        while self._line:
            _, _, turn = heapq.heappop(self._line)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
