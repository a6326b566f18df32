"""The access process: who may log in, for all workers of a node.

Hashing, and asking others whether a password is right, is slow; so it is on no worker's loop. Input: the
configuration. It answers the kinds of policy.access_protocol (app.answering says how it lives), keeps the table of
failures and bans for the whole node, and runs at a lower priority (NICE) than those who carry mail.

Fails: an exception here ends the process; the supervisor starts another. Meanwhile AUTH is answered 454, and what
was under way is asked again. Failures and bans are in a file of the spool (policy.failure_file), which a new process
begins with; the event `bans_lost` says that it could not."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from angarium._core.counters import Slot
from angarium._core.event_log import EventLog
from angarium.app.answering import AnsweringProcess
from angarium.clock import SystemClock
from angarium.policy.access_protocol import (
    ACCESS_STATUS,
    BANS,
    PASSWORD,
    SCRAM_FINAL,
    SCRAM_FIRST,
    TOKEN_LOG_IN,
    UNBAN,
    AccessStatus,
    Ban,
    BanList,
    Lifted,
)
from angarium.policy.back_end import VerifierPool
from angarium.policy.back_ends import make_back_ends
from angarium.policy.failure_file import FailureFile
from angarium.policy.failure_table import FailureTable
from angarium.policy.verification import Verification

if TYPE_CHECKING:
    from angarium._core.counters import Counters
    from angarium.config.model import Config

__all__ = ["Access"]

log = logging.getLogger(__name__)

NICE = 5


class Access(AnsweringProcess):
    """One access process."""

    publish_s = 0.25
    grace_s = 1.0

    def __init__(self, config: Config, counters: Counters) -> None:
        super().__init__()
        counters.reset_gauges()
        clock = self._clock = SystemClock()
        self._started = clock.monotonic()
        self._counters = counters
        self.events = EventLog(config.event_file, counters)
        self._pool = VerifierPool(config.access.verifiers, config.access.waiting)
        self._table = FailureTable(config.access, clock.monotonic)
        self._file = FailureFile(Path(config.node.spool), self._table, clock)
        self._back_ends = make_back_ends(config.credentials, self._pool, clock.monotonic, self._forget)
        self._verification = Verification(
            config.access,
            self._back_ends,
            self._table,
            monotonic=clock.monotonic,
            count=lambda slot: counters.add(slot, 1),
            events=self.events,
        )
        server = self.server
        server.answer(PASSWORD, self._verification.password)
        server.answer(TOKEN_LOG_IN, self._verification.token)
        server.answer(SCRAM_FIRST, self._verification.scram_first)
        server.answer(SCRAM_FINAL, self._verification.scram_final)
        server.answer(BANS, self._bans)
        server.answer(UNBAN, self._unban)
        server.answer(ACCESS_STATUS, self._status)

    async def begin(self) -> None:
        os.nice(NICE)
        lost = self._file.load()
        if lost:
            log.error("%s: %s; nobody is banned", self._file.path, lost)
            self.events.event("bans_lost", {"file": self._file.path, "why": lost})

    async def publish(self) -> None:
        self._publish()
        await self._file.save()

    async def end(self) -> None:
        for back_end in self._back_ends:
            await back_end.close()
        self._pool.close()
        await self._file.save(at_once=True)
        self.events.flush()
        self._counters.reset_gauges()  # a node without log-ins has no such process, and bans nobody
        self.events.close()

    def _forget(self) -> None:
        self._verification.forget()

    async def _bans(self, _: None) -> BanList:
        return BanList(tuple(Ban(ban.kind, ban.of, ban.failures, ban.left_s) for ban in self._table.bans()))

    async def _unban(self, subject: str) -> Lifted:
        lifted = self._table.lift(subject)
        for ban in lifted:
            self._counters.add(Slot.INGRESS_BANS_LIFTED, 1)
            self.events.event("unban", {"of": ban.kind, "subject": ban.of, "left_s": round(ban.left_s, 3)})
        self._publish()
        await self._file.save(at_once=True)
        return Lifted(len(lifted))

    async def _status(self, _: None) -> AccessStatus:
        uptime_s = round(self._clock.monotonic() - self._started, 3)
        return AccessStatus(os.getpid(), uptime_s, self._verification.under_way, len(self._table.bans()))

    def _publish(self) -> None:
        kinds = [ban.kind for ban in self._table.bans()]
        self._counters.set(Slot.INGRESS_BANNED_ADDRESSES, kinds.count("address"))
        self._counters.set(Slot.INGRESS_BANNED_LOG_INS, kinds.count("log_in"))
        self.events.flush()

    def reopen_events(self) -> None:
        try:
            self.events.reopen()
        except OSError as failure:
            log.error("the event log cannot be reopened: %s", failure)
