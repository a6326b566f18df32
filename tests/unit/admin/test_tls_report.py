"""`GET /api/v1/tls-report`, answered by a lookup process of the test."""

from __future__ import annotations

import random
import socket
import time
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pytest

from angarium.delivery.lookup_client import LookupClient
from angarium.delivery.lookup_protocol import TLS_REPORTS, GatheredReports, ReportQuestion
from angarium.delivery.lookup_server import LookupServer
from angarium.delivery.mail_host import ResolutionFailure
from angarium.outcome.tls_archive import ReportState
from angarium.outcome.tls_report import DayReport, FailureCount, PolicyCount, ReportPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import httpx

DAY = date(2026, 3, 1)
REPORT = DayReport(
    "a.example",
    DAY,
    (
        PolicyCount(
            ReportPolicy("a.example", "sts", ("version: STSv1",), ("mx.a.example",)),
            5,
            3,
            (FailureCount("certificate-expired", 3, "192.0.2.1", "mx.a.example", "198.51.100.1"),),
        ),
        PolicyCount(ReportPolicy("a.example"), 1, 0),
    ),
)


class Desk:
    """What the lookup process is asked, and says."""

    def __init__(self) -> None:
        self.questions: list[ReportQuestion] = []
        self.failure: ResolutionFailure | None = None

    async def answer(self, question: ReportQuestion) -> GatheredReports:
        self.questions.append(question)
        if self.failure is not None:
            raise self.failure
        states = (ReportState("a.example", "", "found", 1, ""), ReportState("a.example", "https://a/", "due", 2, "503"))
        return GatheredReports(((REPORT, states),))


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def client(
    desk: Desk, connect: Callable[..., httpx.AsyncClient], tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(tmp_path / "lookup.sock"))
    sock.listen()
    server = LookupServer()
    server.answer(TLS_REPORTS, desk.answer)
    await server.start(sock)
    lookup = LookupClient(str(tmp_path / "lookup.sock"), monotonic=time.monotonic, random=random.Random())
    yield connect([], lookup=lookup)
    await lookup.close()
    await server.close()


async def test_what_was_gathered_of_a_day(client: httpx.AsyncClient, desk: Desk) -> None:
    answer = await client.get("/api/v1/tls-report", params={"day": "2026-03-01", "domain": "A.Example.", "limit": 7})
    assert answer.status_code == 200
    assert desk.questions == [ReportQuestion(DAY, "a.example", 7)]
    shown: dict[str, Any] = answer.json()
    assert shown["day"] == "2026-03-01"
    (domain,) = shown["domains"]
    assert (domain["domain"], domain["successes"], domain["failures"]) == ("a.example", 6, 3)
    assert domain["policies"][0] == {
        "type": "sts",
        "strings": ["version: STSv1"],
        "hosts": ["mx.a.example"],
        "successes": 5,
        "failures": 3,
        "details": [
            {
                "type": "certificate-expired",
                "sessions": 3,
                "sending_ip": "192.0.2.1",
                "receiving_host": "mx.a.example",
                "receiving_ip": "198.51.100.1",
                "reason": None,
            }
        ],
    }
    assert domain["policies"][1]["type"] == "no-policy-found"
    assert domain["reports"] == [
        {"address": None, "state": "found", "attempts": 1, "text": None},
        {"address": "https://a/", "state": "due", "attempts": 2, "text": "503"},
    ]


async def test_without_a_day_it_is_today(client: httpx.AsyncClient, desk: Desk) -> None:
    before = datetime.now(UTC).date()
    assert (await client.get("/api/v1/tls-report")).status_code == 200
    (question,) = desk.questions
    assert before <= question.day <= datetime.now(UTC).date()
    assert (question.domain, question.limit) == (None, 100)


@pytest.mark.parametrize("parameters", ["day=yesterday", "day=2026-13-01", "limit=0", "limit=1001"])
async def test_parameters_that_make_no_sense(client: httpx.AsyncClient, desk: Desk, parameters: str) -> None:
    assert (await client.get(f"/api/v1/tls-report?{parameters}")).status_code == 400
    assert desk.questions == []


async def test_nobody_knows(client: httpx.AsyncClient, desk: Desk, connect: Callable[..., httpx.AsyncClient]) -> None:
    desk.failure = ResolutionFailure(False, 451, (4, 3, 0), "no TLS results are gathered (tls_report.enabled)")
    answer = await client.get("/api/v1/tls-report")
    assert (answer.status_code, answer.json()["detail"]) == (503, desk.failure.text)
    assert (await connect([]).get("/api/v1/tls-report")).status_code == 503
