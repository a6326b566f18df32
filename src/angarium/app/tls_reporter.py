"""Daily reports of TLS results to those who ask for them (RFC 8460), from the lookup process.

Job: `gather` takes what the workers counted, `run` sends a day's reports when the day of UTC is over, spread over
`delay_s` (§4.1), and lets what is older than `keep_s` go. Input: the archive, and functions that look up TXT records,
post to a URL, and put a message into the queue. Output: reports, by mail and by HTTPS, to every address that the domain
publishes under `_smtp._tls` (§3).

A report that is not taken is tried again after RETRY_FIRST_S, doubling up to RETRY_LONGEST_S, for RETRY_FOR_S (§5.5),
and then given up, logged and counted. One that is in the queue is sent as far as this module is concerned: it carries
NOTIFY=NEVER, so nobody is told when it fails. Where it was is on disk: days that were missed while the relay was down
are made up for at the next start, and a report that was sent is not sent again, but for one whose sending was not on
disk when the process was killed; its report-id is the same then.

Fails: not at all. What SQLite says is logged and tried again a minute later. Bounds: PARALLEL reports at one time, one
thread for the archive."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, time, timedelta
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

import msgspec

from angarium.delivery.https import PostFailure
from angarium.delivery.mail_host import ResolutionFailure
from angarium.outcome.tls_report import (
    MEDIA_TYPE,
    build_report,
    mailbox_of,
    report_addresses,
    report_file,
    report_mail,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import date
    from random import Random

    from angarium.clock import Clock
    from angarium.delivery.mail_host import TextRecords
    from angarium.outcome.tls_archive import DueReport, ReportState, State, TlsArchive
    from angarium.outcome.tls_report import DayReport, SessionResult

__all__ = ["SubmitFailure", "TlsReporter"]

log = logging.getLogger(__name__)

LOOK_S = 60.0
GRACE_S = 300.0  # after midnight, for what workers still have in hand
PARALLEL = 20
RETRY_FIRST_S = 300.0
RETRY_LONGEST_S = 7200.0
RETRY_FOR_S = 86400.0
LARGEST_ANSWER = 512 << 10  # octets of what is shown: a frame to the admin process has its bound

T = TypeVar("T")


class SubmitFailure(Exception):
    """A message could not be put into the queue."""


class TlsReporter:
    """Gathers and reports for one node. The counts only ever grow."""

    def __init__(
        self,
        archive: TlsArchive,
        *,
        resolve_txt: Callable[[str], Awaitable[TextRecords]],
        post: Callable[[str, bytes, str], Awaitable[int]],
        submit: Callable[[str, str, bytes], Awaitable[None]],
        clock: Clock,
        random: Random,
        submitter: str,
        organization: str,
        contact: str,
        delay_s: float,
        keep_s: float,
    ) -> None:
        """`submit` takes reverse-path, recipient and mail data, or raises SubmitFailure; `submitter` is this node."""
        self.results = 0  # gathered
        self.dropped = 0  # of them without room
        self.mailed = 0
        self.posted = 0
        self.failed = 0  # given up
        self._archive = archive
        self._resolve_txt = resolve_txt
        self._post = post
        self._submit = submit
        self._clock = clock
        self._random = random
        self._submitter = submitter
        self._organization = organization
        self._contact = contact
        self._delay_s = delay_s
        self._keep = timedelta(seconds=keep_s)
        self._planned: set[date] = set()  # since the start
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tls-archive")

    async def gather(self, day: date, results: Sequence[tuple[SessionResult, int]]) -> None:
        """Count results of a day; when this returns they outlive the process. sqlite3.Error: they are not counted."""
        self.dropped += await self._call(self._archive.add, day, results)
        self.results += sum(count for _, count in results)

    async def reports(
        self, day: date, domain: str | None, limit: int
    ) -> tuple[tuple[DayReport, tuple[ReportState, ...]], ...]:
        """What was gathered on a day, of all domains or of one, and how far the reports about it are.

        No more than LARGEST_ANSWER: of many domains the last ones are missing then, of one its last policies.
        """
        return await self._call(self._reports, day, domain, limit)

    def _reports(
        self, day: date, domain: str | None, limit: int
    ) -> tuple[tuple[DayReport, tuple[ReportState, ...]], ...]:
        found: list[tuple[DayReport, tuple[ReportState, ...]]] = []
        left = LARGEST_ANSWER
        for report in self._archive.reports(day, domain, limit):
            kept = []
            for counted in report.policies:
                left -= len(msgspec.msgpack.encode(counted))
                if left < 0:
                    break
                kept.append(counted)
            if kept or not report.policies:
                states = tuple(self._archive.states(day, report.domain))
                found.append((msgspec.structs.replace(report, policies=tuple(kept)), states))
            if left < 0:
                break
        return tuple(found)

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            try:
                await self.turn()
            except sqlite3.Error as failure:
                log.error("TLS reports wait: %s", failure)
            await asyncio.sleep(LOOK_S)

    async def turn(self) -> None:
        """Do what is due now."""
        now = self._clock.now()
        today = _day(now)
        await self._call(self._archive.purge, today - self._keep)
        for day in await self._call(self._archive.days):
            ready = _start(day + timedelta(days=1)) + GRACE_S
            if day < today and ready <= now and day not in self._planned:
                await self._call(self._archive.plan, day, partial(self._due, ready, now))
                self._planned = {day for day in self._planned if day >= today - self._keep} | {day}
        while due := await self._call(self._archive.due, self._clock.now(), PARALLEL):
            await asyncio.gather(*(self._carry(report) for report in due))

    async def close(self) -> None:
        """Close the archive."""
        await self._call(self._archive.close)
        self._thread.shutdown()

    def _due(self, ready: float, now: float) -> float:
        return max(ready + self._random.random() * self._delay_s, now)

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        """In the archive's own thread: SQLite waits for the disk."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(function, *arguments))

    # ------------------------------------------------------------------ one report

    async def _carry(self, due: DueReport) -> None:
        try:
            if due.address:
                await self._send(due)
            else:
                records = (await self._resolve_txt(f"_smtp._tls.{due.domain}")).records
                await self._call(self._archive.found, due, report_addresses(records), self._clock.now())
        except ResolutionFailure as failure:
            await self._put_off(due, failure.text)
        except (PostFailure, SubmitFailure) as failure:
            await self._put_off(due, str(failure))

    async def _send(self, due: DueReport) -> None:
        found = await self._call(self._archive.reports, due.day, due.domain)
        if not found:
            await self._settle(due, "failed", text="its results are gone")
            return
        (report,) = found
        # the same for every attempt, and for another address of the domain
        report_id = sha256(f"{self._submitter} {due.day} {due.domain}".encode()).hexdigest()[:24]
        octets = await self._call(self._file, report, report_id)
        recipient = mailbox_of(due.address)
        if recipient is None:
            await self._post(due.address, octets, MEDIA_TYPE)
            self.posted += 1
        else:
            mail_data = report_mail(
                report,
                octets,
                submitter=self._submitter,
                contact=self._contact,
                recipient=recipient,
                report_id=report_id,
                now=self._clock.now(),
            )
            await self._submit(self._contact, recipient, mail_data)
            self.mailed += 1
        await self._settle(due, "sent")

    def _file(self, report: DayReport, report_id: str) -> bytes:
        return report_file(
            build_report(report, organization=self._organization, contact=self._contact, report_id=report_id)
        )

    async def _put_off(self, due: DueReport, text: str) -> None:
        now = self._clock.now()
        if due.first is not None and now - due.first >= RETRY_FOR_S:
            self.failed += 1
            where = due.address or "nobody knows where to"
            log.warning("the TLS report of %s about %s is given up: %s: %s", due.day, due.domain, where, text)
            await self._settle(due, "failed", text=text)
            return
        rest_s = min(RETRY_FIRST_S * 2.0 ** min(due.attempts, 30), RETRY_LONGEST_S)
        await self._settle(due, "due", due=now + rest_s, text=text)

    async def _settle(self, report: DueReport, state: State, *, due: float = 0.0, text: str = "") -> None:
        now = self._clock.now()
        await self._call(partial(self._archive.settle, report, state, now, due=due, text=text))


def _day(now: float) -> date:
    return datetime.fromtimestamp(now, UTC).date()


def _start(day: date) -> float:
    return datetime.combine(day, time(), UTC).timestamp()
