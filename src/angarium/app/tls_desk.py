"""The lookup process's desk for TLS: policies of domains on their way to the workers, results on their way to reports.

Job: `mail_hosts` gives the hosts of a domain together with its MTA-STS policy, `gather` takes what the workers
counted, `reports` shows it. Input: the configuration, the resolver, the workers' admin sockets, by which a report gets
into a worker's queue. It owns SPOOL/mta-sts.json and SPOOL/tls-reports.sqlite.

In a sandbox nothing leaves the machine: there are no policies and no reports. Fails: without an archive (a disk that
is full, say) results are not gathered, which is logged, and mail is delivered all the same."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from msgspec.json import Decoder

from angarium._core.counters import Slot
from angarium.admin.workers import Question, Workers
from angarium.app.tls_reporter import SubmitFailure, TlsReporter
from angarium.delivery.https import HttpsClient
from angarium.delivery.lookup_protocol import Gathered, GatheredReports
from angarium.delivery.mail_host import ResolutionFailure
from angarium.delivery.policy_store import PolicyStore
from angarium.outcome.tls_archive import open_archive
from angarium.outcome.tls_report import ReportPolicy, SessionResult

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from datetime import date

    from angarium._core.counters import Counters
    from angarium.clock import Clock
    from angarium.config.model import Config
    from angarium.delivery.lookup_protocol import ReportQuestion, TlsBatch
    from angarium.delivery.mail_host import MailHosts
    from angarium.delivery.resolver import Resolver
    from angarium.smtp.tls_result import TlsResult

__all__ = ["TlsDesk"]

log = logging.getLogger(__name__)

WORKERS_S = 30.0  # to wait for a worker; they may be starting
WORKERS_LOOK_S = 0.5

_ANSWER: Decoder[str] = Decoder(str)


class TlsDesk:
    """Policies and reports of one node."""

    def __init__(
        self,
        config: Config,
        counters: Counters,
        resolver: Resolver,
        clock: Clock,
        worker_sockets: Sequence[str],
    ) -> None:
        self._config = config
        self._counters = counters
        self._resolver = resolver
        self._clock = clock
        self._workers = Workers(worker_sockets)
        self._spool = Path(config.node.spool)
        self._tasks: set[asyncio.Task[None]] = set()
        self._counted: dict[Slot, int] = {}
        self._policies: PolicyStore | None = None
        self._reporter: TlsReporter | None = None
        self._https = self._make_client(config.mta_sts.ca_file)

    def _make_client(self, ca_file: str | None) -> HttpsClient:
        try:
            return HttpsClient(
                self._resolver.addresses,
                permitted=self._resolver.may_contact,
                ca_file=ca_file,
                port=self._config.mta_sts.port,
            )
        except OSError as failure:  # the file went bad since the configuration was checked; SSLError is one too
            if ca_file is None:
                raise
            log.error("mta_sts.ca_file: %s: %s; the system's authorities are used", ca_file, failure)
            return self._make_client(None)

    async def start(self) -> None:
        """Open the files, and begin with what goes on by itself."""
        config = self._config
        if config.mta_sts.enabled and not config.sandbox:
            self._policies = PolicyStore(
                self._resolver.txt, self._https.fetch_policy, self._spool, self._clock, report=self._report_policy
            )
            self._policies.load()
            self._go_on(self._policies.run())
        if config.tls_report.enabled and not config.sandbox:
            self._open_reporter()

    def _open_reporter(self) -> None:
        config = self._config
        try:
            archive = open_archive(self._spool)
        except (sqlite3.Error, OSError) as failure:
            log.error("TLS results are not gathered: %s", failure)
            return
        self._reporter = TlsReporter(
            archive,
            resolve_txt=self._resolver.txt,
            post=self._https.post,
            submit=self._submit,
            clock=self._clock,
            random=Random(),
            submitter=config.node.hostname,
            organization=config.tls_report.organization or config.node.hostname,
            contact=config.tls_report.contact_of(config.node),
            delay_s=config.tls_report.delay_s,
            keep_s=config.tls_report.keep_s,
        )
        self._go_on(self._reporter.run())

    def _go_on(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("the lookup process goes on without a part of it", exc_info=task.exception())

    async def close(self) -> None:
        """Save what is to be saved. Again is no harm."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.publish()
        policies, self._policies = self._policies, None
        if policies is not None:
            await policies.close()
        reporter, self._reporter = self._reporter, None
        if reporter is not None:
            await reporter.close()

    # ------------------------------------------------------------------ what is asked

    async def mail_hosts(self, domain: str) -> MailHosts:
        """The hosts that take mail for a domain, with its MTA-STS policy; Resolver.mail_hosts says how it fails."""
        if self._policies is None or domain.startswith("["):
            return await self._resolver.mail_hosts(domain)
        asking = asyncio.ensure_future(self._policies.policy(domain.lower().rstrip(".")))
        try:
            hosts = await self._resolver.mail_hosts(domain)
            answer = await asking
        finally:
            asking.cancel()
        return replace(hosts, mta_sts=answer.policy, expires=min(hosts.expires, answer.expires))

    async def gather(self, batch: TlsBatch) -> Gathered:
        """Count what a worker has counted; ResolutionFailure when it should keep it for now."""
        if self._reporter is not None:
            try:
                await self._reporter.gather(batch.day, batch.results)
            except sqlite3.Error as failure:
                log.error("TLS results cannot be stored: %s", failure)
                raise ResolutionFailure(False, 451, (4, 3, 0), f"TLS results cannot be stored: {failure}") from failure
        return Gathered()

    async def reports(self, question: ReportQuestion) -> GatheredReports:
        """What was gathered on a day."""
        if self._reporter is None:
            raise ResolutionFailure(
                False, 451, (4, 3, 0), "no TLS results are gathered: tls_report.enabled is false, or this is a sandbox"
            )
        try:
            found = await self._reporter.reports(question.day, question.domain, question.limit)
        except sqlite3.Error as failure:
            raise ResolutionFailure(False, 451, (4, 3, 0), f"TLS results cannot be read: {failure}") from failure
        return GatheredReports(found)

    def publish(self) -> None:
        """Bring the metrics up to date."""
        policies, reporter = self._policies, self._reporter
        if policies is not None:
            self._count(Slot.DELIVERY_MTA_STS_FETCHED, policies.fetched)
            self._count(Slot.DELIVERY_MTA_STS_FAILED, policies.failed)
            self._count(Slot.DELIVERY_MTA_STS_KEPT, policies.kept_on)
            self._counters.set(Slot.DELIVERY_MTA_STS_POLICIES, len(policies))
        if reporter is not None:
            self._count(Slot.OUTCOME_TLS_RESULTS, reporter.results)
            self._count(Slot.OUTCOME_TLS_RESULTS_DROPPED, reporter.dropped)
            self._count(Slot.OUTCOME_TLS_REPORTS_MAILED, reporter.mailed)
            self._count(Slot.OUTCOME_TLS_REPORTS_POSTED, reporter.posted)
            self._count(Slot.OUTCOME_TLS_REPORTS_FAILED, reporter.failed)

    def _count(self, slot: Slot, now: int) -> None:
        self._counters.add(slot, now - self._counted.get(slot, 0))
        self._counted[slot] = now

    # ------------------------------------------------------------------ what it needs itself

    def _report_policy(self, domain: str, kind: TlsResult, text: str) -> None:
        """A policy that should be there and cannot be had is a result too (RFC 8460 §4.3.2.2)."""
        if self._reporter is None:
            return
        result = SessionResult(ReportPolicy(domain, "sts"), kind, receiving_host=f"mta-sts.{domain}", reason=text)
        self._go_on(self._gather_one(self._reporter, result))

    async def _gather_one(self, reporter: TlsReporter, result: SessionResult) -> None:
        with contextlib.suppress(sqlite3.Error):  # said when a worker's results fail
            await reporter.gather(_today(self._clock), [(result, 1)])

    async def _submit(self, reverse_path: str, recipient: str, mail_data: bytes) -> None:
        question = Question(
            op="submit", reverse_path=reverse_path, recipient=recipient, mail_data=mail_data.decode("ascii")
        )
        until = self._clock.monotonic() + WORKERS_S
        while (answer := await self._workers.ask_any(question, _ANSWER)).result is None:
            if self._clock.monotonic() > until:
                raise SubmitFailure(f"no worker takes it: {answer.error}")
            await asyncio.sleep(WORKERS_LOOK_S)


def _today(clock: Clock) -> date:
    return datetime.fromtimestamp(clock.now(), UTC).date()
