"""Log-ins of a node, verified: the back ends in their order, what is remembered, and the price of guessing.

Job: answer the questions of policy.access_protocol. A ban is answered at once, without a look at what is to be proved.
A password that was right a short while ago is right again, without a hash; the same wrong one is wrong again, and does
not count twice, so that a device with an old password is not banned for repeating it. Everything else is asked of the
back ends, of which the first that knows the log-in decides.

A failure is answered `delay` after the question came, however long it took to find out, so that the time tells nothing;
the delay grows with each failure of the client or of the log-in, until one of them is banned (policy.failure_table).
Where many wait for a thread, those go first who have failed least; and who has logged in from there before, who has
not, and who has failed are verified by threads of their own, which may take less and less of the processor
(VerifierPool): a storm of wrong passwords delays itself.

What is remembered is a hash with a key that only this process has; nothing keeps a password.

Input: the back ends, the settings, a clock, a way to wait. Output: Verdicts, events. Fails: when no
back end can say, or there is no room in line: `unavailable`.

Bounds: `waiting` questions in each line, PER_CLIENT of one client at a time (PER_KNOWN_CLIENT about log-ins that it is
known for) and IN_LINE_PER_CLIENT behind them, MOST_REMEMBERED passwords, MOST_HELD answers that are held back; more are
answered at once."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from angarium._core.counters import Slot
from angarium.policy.access_protocol import Verdict
from angarium.policy.back_end import RANK, Finding, Found, VerifierBusy, lane_of
from angarium.policy.credentials_file import LONGEST_LOG_IN
from angarium.policy.dovecot_scram import log_in_of
from angarium.policy.failure_table import client_of
from angarium.policy.file_back_end import FileBackEnd

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from angarium.config.credentials import Access
    from angarium.policy.access_protocol import PasswordAttempt, ScramFinal, ScramFirst, TokenAttempt
    from angarium.policy.back_end import BackEnd
    from angarium.policy.failure_table import BanEntry, FailureTable
    from angarium.policy.file_back_end import ScramExchange

__all__ = ["Verification"]

PER_CLIENT = 1
PER_KNOWN_CLIENT = 4
IN_LINE_PER_CLIENT = 64
MOST_REMEMBERED = 20_000
WRONG_S = 60.0  # so long at most: a new password may have been tried before it was set
MOST_HELD = 20_000

REFUSED = Verdict("refused")
UNAVAILABLE = Verdict("unavailable")
BANNED = Verdict("banned")


class _Attempt(Protocol):
    @property
    def address(self) -> str: ...
    @property
    def listener(self) -> str: ...
    @property
    def mechanism(self) -> str: ...


class Events(Protocol):
    """The event log."""

    def event(self, event: str, fields: dict[str, object], /) -> None:
        """One event."""


@dataclass(slots=True)
class _Turns:
    """The questions of one client; those about log-ins that it is known for are by themselves."""

    gate: asyncio.Semaphore
    there: int = 0


class Verification:
    """Who may log in."""

    def __init__(
        self,
        access: Access,
        back_ends: Sequence[BackEnd],
        table: FailureTable,
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        count: Callable[[Slot], object],
        events: Events,
    ) -> None:
        self._access = access
        self._back_ends = back_ends
        self._files = [back_end for back_end in back_ends if isinstance(back_end, FileBackEnd)]
        # who is in no file is asked for there
        self._passing_on = next((back_end for back_end in back_ends if back_end.passes_scram_on), None)
        self._table = table
        self._monotonic = monotonic
        self._sleep = sleep
        self._count = count
        self._events = events
        self._secret = os.urandom(32)
        self._right: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._wrong: OrderedDict[bytes, tuple[float, str]] = OrderedDict()
        self._turns: dict[tuple[str, bool], _Turns] = {}
        self._held = 0
        self._in_line = [0, 0, 0]  # of each lane

    @property
    def under_way(self) -> int:
        """Questions that back ends are asked, or that wait for a thread."""
        return sum(self._in_line)

    def forget(self) -> None:
        """What was remembered may not be so any more."""
        self._right.clear()
        self._wrong.clear()

    # ------------------------------------------------------------------ questions

    async def password(self, attempt: PasswordAttempt) -> Verdict:
        """Whether a password is right."""
        begun = self._monotonic()
        for file in self._files:
            file.file()  # one that has changed makes us forget
        if self._table.banned(attempt.address, attempt.log_in):
            return BANNED
        key = self._key(attempt.log_in, attempt.password)
        remembered = self._remembered(attempt, key)
        if remembered is None:
            return await self._verified(begun, attempt, attempt.log_in, key, lambda: self._ask_for_password(attempt))
        if remembered is REFUSED:
            await self._hold_back(begun, self._table.delay_s(attempt.address))
        return remembered

    async def token(self, attempt: TokenAttempt) -> Verdict:
        """Whose access token it is."""
        begun = self._monotonic()
        if self._table.banned(attempt.address, attempt.log_in):
            return BANNED
        return await self._verified(begun, attempt, attempt.log_in, None, lambda: self._ask_for_token(attempt))

    async def scram_first(self, question: ScramFirst) -> Verdict:
        """What a SCRAM client is to prove."""
        exchange, file = self._scram(question)
        if self._passing_on is not None and not _is_in(file, exchange):
            return await self._pass_on_first(self._passing_on, question)
        if exchange is None:
            return REFUSED if self._readable() else UNAVAILABLE
        if self._table.banned(question.address, exchange.log_in):
            return BANNED
        return Verdict("challenge", exchange.log_in, exchange.message)

    async def scram_final(self, question: ScramFinal) -> Verdict:
        """Whether it did."""
        begun = self._monotonic()
        exchange, back_end = self._scram(question)
        if self._passing_on is not None and not _is_in(back_end, exchange):
            return await self._pass_on_final(self._passing_on, begun, question)
        if exchange is None or back_end is None:
            return REFUSED if self._readable() else UNAVAILABLE
        if self._table.banned(question.address, exchange.log_in):
            return BANNED
        if exchange.proved:
            found = Found(Finding.ACCEPTED, exchange.log_in, exchange.message)
        else:
            found = Found(Finding.REFUSED, exchange.log_in if back_end.has(exchange.log_in) else "")
        verdict, delay_s = self._settle(question, exchange.log_in, None, found)
        await self._hold_back(begun, delay_s)
        return verdict

    async def _pass_on_first(self, back_end: BackEnd, question: ScramFirst) -> Verdict:
        log_in = log_in_of(question.message)
        if not log_in:
            return REFUSED
        if self._table.banned(question.address, log_in):
            return BANNED
        challenge = await back_end.scram_first(question, log_in)
        return UNAVAILABLE if challenge is None else Verdict("challenge", log_in, challenge)

    async def _pass_on_final(self, back_end: BackEnd, begun: float, question: ScramFinal) -> Verdict:
        log_in = log_in_of(question.first)
        try:
            rank = self._table.rank(question.address, log_in)
            async with self._turn(question.address, known=lane_of(rank) == 0):
                if self._table.banned(question.address, log_in):
                    return BANNED
                found = await back_end.scram_final(question, log_in)
                verdict, delay_s = self._settle(question, log_in, None, found)
        except VerifierBusy:
            self._count(Slot.INGRESS_VERIFIED_UNAVAILABLE)
            return UNAVAILABLE
        await self._hold_back(begun, delay_s)
        return verdict

    # ------------------------------------------------------------------ back ends

    async def _ask_for_password(self, attempt: PasswordAttempt) -> Found:
        return await self._first_who_knows([back_end.password for back_end in self._back_ends], attempt)

    async def _ask_for_token(self, attempt: TokenAttempt) -> Found:
        return await self._first_who_knows([back_end.token for back_end in self._back_ends], attempt)

    async def _first_who_knows(self, asked: Sequence[Callable[..., Awaitable[Found]]], attempt: _Attempt) -> Found:
        unavailable = False
        for ask in asked:
            found = await ask(attempt)
            if found.finding in {Finding.ACCEPTED, Finding.REFUSED}:
                return found
            unavailable = unavailable or found.finding is Finding.UNAVAILABLE
        return Found(Finding.UNAVAILABLE if unavailable else Finding.UNKNOWN)

    def _scram(self, question: ScramFirst | ScramFinal) -> tuple[ScramExchange | None, FileBackEnd | None]:
        """One step with the first file that has the log-in, else with the first. All are asked, whoever knows it."""
        taken = [(back_end.scram(question), back_end) for back_end in self._files]
        usable = [(exchange, back_end) for exchange, back_end in taken if exchange is not None]
        for exchange, back_end in usable:
            if back_end.has(exchange.log_in):
                return exchange, back_end
        return usable[0] if usable else (None, None)

    def _readable(self) -> bool:
        return any(back_end.file() is not None for back_end in self._files)

    async def _verified(
        self,
        begun: float,
        attempt: _Attempt,
        log_in: str,
        key: bytes | None,
        ask: Callable[[], Awaitable[Found]],
    ) -> Verdict:
        rank = self._table.rank(attempt.address, log_in)
        lane = lane_of(rank)
        if self._in_line[lane] >= self._access.verifiers + self._access.waiting:
            self._count(Slot.INGRESS_VERIFIED_UNAVAILABLE)
            return UNAVAILABLE
        self._in_line[lane] += 1
        try:
            async with self._turn(attempt.address, known=lane == 0):
                # while it waited its client may have been banned, or just this password been verified
                if self._table.banned(attempt.address, log_in):
                    return BANNED
                RANK.set(self._table.rank(attempt.address, log_in))  # this task is of this question alone
                remembered = None if key is None else self._remembered(attempt, key)
                if remembered is not None:
                    verdict, delay_s = remembered, 0.0
                    if remembered is REFUSED:
                        delay_s = self._table.delay_s(attempt.address)
                else:
                    # counted before the next one of this client has its turn
                    verdict, delay_s = self._settle(attempt, log_in, key, await ask())
        except VerifierBusy:
            self._count(Slot.INGRESS_VERIFIED_UNAVAILABLE)
            return UNAVAILABLE
        finally:
            self._in_line[lane] -= 1
        await self._hold_back(begun, delay_s)
        return verdict

    @contextlib.asynccontextmanager
    async def _turn(self, address: str, *, known: bool) -> AsyncIterator[None]:
        """Of one client only so many are verified at a time, or a burst would be hashed before the first is counted."""
        if self._table.trusts(address):
            yield
            return
        client, most = (client_of(address), known), PER_KNOWN_CLIENT if known else PER_CLIENT
        turns = self._turns.setdefault(client, _Turns(asyncio.Semaphore(most)))
        if turns.there >= most + IN_LINE_PER_CLIENT:
            raise VerifierBusy
        turns.there += 1
        try:
            async with turns.gate:
                yield
        finally:
            turns.there -= 1
            if not turns.there:
                del self._turns[client]

    # ------------------------------------------------------------------ what it comes to

    def _settle(self, attempt: _Attempt, log_in: str, key: bytes | None, found: Found) -> tuple[Verdict, float]:
        """Count it; the verdict, and how long it is to be held back."""
        if found.finding is Finding.ACCEPTED and _is_log_in(found.log_in):
            self._count(Slot.INGRESS_VERIFIED_ACCEPTED)
            self._table.succeeded(attempt.address, log_in or found.log_in)
            if key is not None:
                self._remember(self._right, key, self._access.remember_s, found.log_in)
            return Verdict("accepted", found.log_in, found.message), 0.0
        if found.finding is Finding.UNAVAILABLE:
            self._count(Slot.INGRESS_VERIFIED_UNAVAILABLE)
            return UNAVAILABLE, 0.0
        self._count(Slot.INGRESS_VERIFIED_REFUSED)
        exists = found.finding is Finding.REFUSED and bool(found.log_in)
        delay_s, bans = self._table.failed(attempt.address, log_in, exists=exists)
        if key is not None:
            self._remember(self._wrong, key, min(WRONG_S, self._access.remember_s), "")
        self._events.event(
            "log_in_failed",
            {
                "client": attempt.address,
                "listener": attempt.listener,
                "mechanism": attempt.mechanism,
                # a name that nobody knows may be a password in the wrong field
                "login": log_in if exists else None,
                "delay_s": round(delay_s, 3),
            },
        )
        for ban in bans:
            self._note_ban(ban)
        return Verdict("refused", message=found.message), delay_s

    def _note_ban(self, ban: BanEntry) -> None:
        self._count(Slot.INGRESS_BANS_ADDRESS if ban.kind == "address" else Slot.INGRESS_BANS_LOG_IN)
        said = {"of": ban.kind, "subject": ban.of, "failures": ban.failures, "ban_s": round(ban.left_s, 3)}
        self._events.event("ban", said)

    async def _hold_back(self, begun: float, delay_s: float) -> None:
        """Until so long after the question came."""
        left = begun + delay_s - self._monotonic()
        if left <= 0 or self._held >= MOST_HELD:
            return
        self._count(Slot.INGRESS_DELAYED_LOG_INS)
        self._held += 1
        try:
            await self._sleep(left)
        finally:
            self._held -= 1

    # ------------------------------------------------------------------ what is remembered

    def _key(self, log_in: str, password: str) -> bytes:
        return hashlib.blake2b(f"{log_in}\0{password}".encode(), digest_size=32, key=self._secret).digest()

    def _remembered(self, attempt: _Attempt, key: bytes) -> Verdict | None:
        now = self._monotonic()
        right = self._right.get(key)
        if right is not None and right[0] > now:
            self._count(Slot.INGRESS_VERIFIED_REMEMBERED)
            self._table.succeeded(attempt.address, right[1])
            return Verdict("accepted", right[1])
        wrong = self._wrong.get(key)
        if wrong is not None and wrong[0] > now:
            self._count(Slot.INGRESS_VERIFIED_REMEMBERED)
            return REFUSED
        return None

    def _remember(self, memory: OrderedDict[bytes, tuple[float, str]], key: bytes, for_s: float, log_in: str) -> None:
        if for_s <= 0:
            return
        memory[key] = (self._monotonic() + for_s, log_in)
        memory.move_to_end(key)
        if len(memory) > MOST_REMEMBERED:
            memory.popitem(last=False)


def _is_in(file: FileBackEnd | None, exchange: ScramExchange | None) -> bool:
    return file is not None and exchange is not None and file.has(exchange.log_in)


def _is_log_in(name: str) -> bool:
    """Whether it can stand in a message's record, in events and in rules."""
    return bool(name) and name.isprintable() and len(name.encode()) <= LONGEST_LOG_IN
