"""What was gathered of TLS to mail hosts: the handler of `/api/v1/tls-report`, and the shape of its answer.

The lookup process has the archive and is asked. Fails: 400 for a day that is none, 503 when nobody answers, or nothing
is gathered."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

from litestar import get
from litestar.params import QueryParameter
from msgspec import Struct

from angarium.admin.services import Services, ServicesDependency, ServiceUnavailable
from angarium.admin.workers import TIMEOUT_S
from angarium.delivery.lookup_protocol import TLS_REPORTS, ReportQuestion
from angarium.delivery.mail_host import ResolutionFailure
from angarium.mail.address import ascii_domain

if TYPE_CHECKING:
    from angarium.outcome.tls_archive import ReportState
    from angarium.outcome.tls_report import DayReport, FailureCount, PolicyCount

__all__ = ["HANDLERS"]

DOMAINS_MAX = 1000


class TlsFailure(Struct, frozen=True):
    """Sessions that failed alike; null is what nothing is known of. `type` is a result type of RFC 8460 §4.3."""

    type: str
    sessions: int
    sending_ip: str | None
    receiving_host: str | None
    receiving_ip: str | None
    reason: str | None


class TlsPolicyReport(Struct, frozen=True):
    """What happened under one policy. `type` is tlsa, sts or no-policy-found; `strings` are the policy's own words."""

    type: str
    strings: list[str]
    hosts: list[str]
    successes: int
    failures: int
    details: list[TlsFailure]


class TlsReportState(Struct, frozen=True):
    """How far a report is. `address` is null until it is known where the domain wants it.

    `state` is due, found (the addresses are known), unwanted (there are none), sent or failed.
    """

    address: str | None
    state: str
    attempts: int
    text: str | None


class TlsDomainReport(Struct, frozen=True):
    """One domain on one day."""

    domain: str
    successes: int
    failures: int
    policies: list[TlsPolicyReport]
    reports: list[TlsReportState]


class TlsDayReport(Struct, frozen=True):
    """One day of UTC, the domains with most failures first."""

    day: str
    domains: list[TlsDomainReport]


@get("/api/v1/tls-report", tags=["tls"])
async def tls_report(
    services: ServicesDependency,
    day: Annotated[date | None, QueryParameter(description="a day of UTC; today when none is given")] = None,
    domain: Annotated[str | None, QueryParameter(description="this domain alone", max_length=255)] = None,
    limit: Annotated[int, QueryParameter(description="at most so many domains", ge=1, le=DOMAINS_MAX)] = 100,
) -> TlsDayReport:
    """Results of TLS sessions with mail hosts, as reports to their domains are made of them."""
    wanted = day or datetime.now(UTC).date()
    question = ReportQuestion(wanted, None if domain is None else _normal(domain), limit)
    found = await _ask(services, question)
    return TlsDayReport(wanted.isoformat(), [_domain(report, states) for report, states in found])


async def _ask(services: Services, question: ReportQuestion) -> tuple[tuple[DayReport, tuple[ReportState, ...]], ...]:
    if services.lookup is None:
        raise ServiceUnavailable(detail="there is no lookup process")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return (await services.lookup.ask(TLS_REPORTS, question)).reports
    except ResolutionFailure as failure:
        raise ServiceUnavailable(detail=failure.text) from None
    except TimeoutError:
        raise ServiceUnavailable(detail=f"the lookup process has no answer within {TIMEOUT_S:g} s") from None


def _normal(domain: str) -> str:
    try:
        return ascii_domain(domain.strip().rstrip(".").encode()).decode("ascii")
    except ValueError:
        return domain  # nothing was gathered under such a name


def _domain(report: DayReport, states: tuple[ReportState, ...]) -> TlsDomainReport:
    return TlsDomainReport(
        domain=report.domain,
        successes=sum(counted.successes for counted in report.policies),
        failures=sum(counted.failures for counted in report.policies),
        policies=[_policy(counted) for counted in report.policies],
        reports=[
            TlsReportState(state.address or None, state.state, state.attempts, state.text or None) for state in states
        ],
    )


def _policy(counted: PolicyCount) -> TlsPolicyReport:
    policy = counted.policy
    return TlsPolicyReport(
        type=policy.type,
        strings=list(policy.strings),
        hosts=list(policy.hosts),
        successes=counted.successes,
        failures=counted.failures,
        details=[_failure(failure) for failure in counted.details],
    )


def _failure(failure: FailureCount) -> TlsFailure:
    return TlsFailure(
        type=failure.type,
        sessions=failure.count,
        sending_ip=failure.sending_ip or None,
        receiving_host=failure.receiving_host or None,
        receiving_ip=failure.receiving_ip or None,
        reason=failure.reason or None,
    )


HANDLERS = (tls_report,)
