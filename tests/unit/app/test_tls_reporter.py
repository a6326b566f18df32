"""Reports of TLS results on their way: when, where to, how often, and what is left of it after a restart."""

from __future__ import annotations

import email
import email.policy
import gzip
import json
import random
import sqlite3
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from angarium.app import tls_reporter
from angarium.app.tls_reporter import GRACE_S, RETRY_FIRST_S, RETRY_FOR_S, RETRY_LONGEST_S, SubmitFailure, TlsReporter
from angarium.delivery.https import PostFailure
from angarium.delivery.lookup_protocol import GatheredReports, Reply, frame
from angarium.delivery.mail_host import TextRecords, no_answer
from angarium.outcome.tls_archive import open_archive
from angarium.outcome.tls_report import ReportPolicy, SessionResult
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

DAY = date(2026, 3, 1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC).timestamp()
DELAY_S = 4 * 3600.0


class Enough(Exception):
    """The test has seen what it wanted."""


class World:
    """DNS, HTTPS and the queue, as the test has them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock(NOON)
        self.records: dict[str, str] = {}
        self.asked: list[str] = []
        self.dns_down = False
        self.posts: list[tuple[str, bytes, str]] = []
        self.mails: list[tuple[str, str, bytes]] = []
        self.refusal: str | None = None
        self.reporter = self.start()

    def start(self) -> TlsReporter:
        self.archive = open_archive(self.folder)
        self.reporter = TlsReporter(
            self.archive,
            resolve_txt=self.resolve,
            post=self.post,
            submit=self.submit,
            clock=self.clock,
            random=random.Random(1),
            submitter="relay.example",
            organization="Example Ltd.",
            contact="tls@relay.example",
            delay_s=DELAY_S,
            keep_s=14 * 86400.0,
        )
        return self.reporter

    async def resolve(self, name: str) -> TextRecords:
        self.asked.append(name)
        self.clock.advance(0.001)  # DNS takes its time
        if self.dns_down:
            raise no_answer(name)
        text = self.records.get(name.removeprefix("_smtp._tls."))
        return TextRecords(name, () if text is None else (text.encode(),), False, 0.0)

    async def post(self, url: str, body: bytes, content_type: str) -> int:
        if self.refusal is not None:
            raise PostFailure(self.refusal)
        self.posts.append((url, body, content_type))
        return 200

    async def submit(self, reverse_path: str, recipient: str, mail_data: bytes) -> None:
        if self.refusal is not None:
            raise SubmitFailure(self.refusal)
        self.mails.append((reverse_path, recipient, mail_data))

    async def gather(self, *domains: str, day: date = DAY) -> None:
        for domain in domains:
            await self.reporter.gather(day, [(SessionResult(ReportPolicy(domain)), 3)])

    async def turn_at(self, now: float) -> None:
        self.clock.jump(now)
        await self.reporter.turn()

    @property
    def states(self) -> list[tuple[str, str, int]]:
        return [(state.address, state.state, state.attempts) for state in self.archive.states(DAY, "a.example")]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    yield world
    await world.reporter.close()


def report_of(octets: bytes) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(gzip.decompress(octets))
    return made


async def test_a_day_is_reported_when_it_is_over(world: World) -> None:
    world.records["a.example"] = "v=TLSRPTv1; rua=mailto:reports@a.example,https://a.example/tls"
    await world.gather("a.example", "b.example")
    await world.turn_at(MIDNIGHT + GRACE_S - 1)
    assert world.asked == []
    # the reports are spread over the delay
    await world.turn_at(MIDNIGHT + GRACE_S)
    await world.turn_at(MIDNIGHT + GRACE_S + DELAY_S)
    assert sorted(world.asked) == ["_smtp._tls.a.example", "_smtp._tls.b.example"]
    ((reverse_path, recipient, mail_data),) = world.mails
    assert (reverse_path, recipient) == ("tls@relay.example", "reports@a.example")
    ((url, body, content_type),) = world.posts
    assert (url, content_type) == ("https://a.example/tls", "application/tlsrpt+gzip")
    _, attached = email.message_from_bytes(mail_data, policy=email.policy.default).iter_parts()
    assert attached.get_content() == body
    report = report_of(body)
    assert (report["organization-name"], report["contact-info"]) == ("Example Ltd.", "tls@relay.example")
    assert report["date-range"]["start-datetime"] == "2026-03-01T00:00:00Z"
    (policy,) = report["policies"]
    assert policy["policy"] == {"policy-type": "no-policy-found", "policy-domain": "a.example"}
    assert policy["summary"]["total-successful-session-count"] == 3
    # and once only
    await world.turn_at(MIDNIGHT + 2 * DELAY_S)
    assert (len(world.mails), len(world.posts), len(world.asked)) == (1, 1, 2)
    assert (world.reporter.mailed, world.reporter.posted, world.reporter.results) == (1, 1, 6)


async def test_reports_are_spread(world: World) -> None:
    domains = [f"d{i}.example" for i in range(50)]
    await world.gather(*domains)
    await world.turn_at(MIDNIGHT + GRACE_S)
    early = len(world.asked)
    await world.turn_at(MIDNIGHT + GRACE_S + DELAY_S / 2)
    half = len(world.asked)
    await world.turn_at(MIDNIGHT + GRACE_S + DELAY_S)
    assert early < 5
    assert 10 < half < 40
    assert len(world.asked) == 50


async def test_missed_days_are_made_up_for(world: World) -> None:
    world.records["a.example"] = "v=TLSRPTv1; rua=https://a.example/"
    for days in range(3):
        await world.gather("a.example", day=DAY - timedelta(days=days))
    await world.reporter.close()
    world.clock.jump(MIDNIGHT + 5 * 86400.0)
    world.start()
    await world.reporter.turn()
    assert sorted(report_of(body)["date-range"]["start-datetime"][:10] for _, body, _ in world.posts) == [
        "2026-02-27",
        "2026-02-28",
        "2026-03-01",
    ]
    # nothing is sent twice after another restart
    await world.reporter.close()
    world.start()
    await world.turn_at(MIDNIGHT + 6 * 86400.0)
    assert len(world.posts) == 3


@pytest.mark.parametrize("address", ["mailto:reports@a.example", "https://a.example/"])
async def test_what_is_not_taken_is_tried_for_a_day(
    world: World, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    world.records["a.example"] = f"v=TLSRPTv1; rua={address}"
    world.refusal = "HTTP status 503"
    await world.gather("a.example")
    began = MIDNIGHT + GRACE_S + DELAY_S
    await world.turn_at(began)
    assert world.states == [("", "found", 1), (address, "due", 1)]
    pauses = [RETRY_FIRST_S * 2**i for i in range(5)]
    now = began + 0.001
    for count, pause_s in enumerate(pauses, 2):
        await world.turn_at(now + pause_s - 1)
        assert world.states[1] == (address, "due", count - 1)
        now += pause_s
        await world.turn_at(now)
        assert world.states[1] == (address, "due", count)
    while now < began + RETRY_FOR_S + RETRY_LONGEST_S:
        now += RETRY_LONGEST_S
        await world.turn_at(now)
    assert world.states[1][1] == "failed"
    assert world.reporter.failed == 1
    assert f"the TLS report of 2026-03-01 about a.example is given up: {address}: HTTP status 503" in caplog.text
    world.refusal = None
    await world.turn_at(now + 86400.0)
    assert (world.mails, world.posts) == ([], [])


async def test_a_later_attempt_may_succeed(world: World) -> None:
    world.records["a.example"] = "v=TLSRPTv1; rua=https://a.example/"
    world.refusal = "connection refused"
    await world.gather("a.example")
    now = MIDNIGHT + GRACE_S + DELAY_S
    await world.turn_at(now)
    world.refusal = None
    await world.turn_at(now + RETRY_FIRST_S + 1)
    assert world.states == [("", "found", 1), ("https://a.example/", "sent", 2)]


async def test_no_answer_of_dns_is_no_answer(world: World) -> None:
    world.records["a.example"] = "v=TLSRPTv1; rua=https://a.example/"
    world.dns_down = True
    await world.gather("a.example")
    now = MIDNIGHT + GRACE_S + DELAY_S
    await world.turn_at(now)
    assert world.states == [("", "due", 1)]
    world.dns_down = False
    await world.turn_at(now + RETRY_FIRST_S + 1)
    assert world.states == [("", "found", 2), ("https://a.example/", "sent", 1)]


async def test_who_asks_for_no_report_gets_none(world: World) -> None:
    world.records["a.example"] = "v=TLSRPTv2; rua=https://a.example/"
    await world.gather("a.example")
    await world.turn_at(MIDNIGHT + GRACE_S + DELAY_S)
    assert world.states == [("", "unwanted", 1)]
    assert (world.mails, world.posts) == ([], [])


async def test_old_days_are_forgotten(world: World) -> None:
    await world.gather("a.example")
    await world.turn_at(MIDNIGHT + 13 * 86400.0)
    assert world.archive.days() == [DAY]
    await world.turn_at(MIDNIGHT + 14 * 86400.0)
    assert world.archive.days() == []


async def test_what_was_gathered_can_be_seen(world: World) -> None:
    await world.gather("a.example", "b.example", "b.example")
    assert [report.domain for report, _ in await world.reporter.reports(DAY, None, 10)] == ["b.example", "a.example"]
    assert [report.domain for report, _ in await world.reporter.reports(DAY, None, 1)] == ["b.example"]
    world.records["a.example"] = "v=TLSRPTv1; rua=https://a.example/"
    await world.turn_at(MIDNIGHT + GRACE_S + DELAY_S)
    ((report, states),) = await world.reporter.reports(DAY, "a.example", 10)
    assert report.policies[0].successes == 3
    assert [state.state for state in states] == ["found", "sent"]


async def test_trouble_with_the_disk_is_logged_and_passes(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`run` goes on: the second turn does what the first could not."""
    turns = 0
    whole = world.reporter.turn

    async def turn() -> None:
        nonlocal turns
        turns += 1
        if turns == 1:
            raise sqlite3.OperationalError("disk I/O error")
        await whole()
        raise Enough

    world.records["a.example"] = "v=TLSRPTv1; rua=https://a.example/"
    await world.gather("a.example")
    world.clock.jump(MIDNIGHT + GRACE_S + DELAY_S)
    monkeypatch.setattr(world.reporter, "turn", turn)
    monkeypatch.setattr(tls_reporter, "LOOK_S", 0.0)
    with pytest.raises(Enough):
        await world.reporter.run()
    assert "TLS reports wait: disk I/O error" in caplog.text
    assert len(world.posts) == 1


async def test_what_is_shown_fits_into_a_frame(world: World) -> None:
    hosts = tuple(f"{number:0240d}.example" for number in range(40))
    for number in range(60):
        policy = ReportPolicy(f"d{number}.example", "sts", hosts, hosts)
        failures = [SessionResult(policy, "validation-failure", receiving_host=f"{i:0200d}") for i in range(20)]
        await world.reporter.gather(DAY, [(failure, 1) for failure in failures])
    shown = await world.reporter.reports(DAY, None, 1000)
    assert 10 < len(shown) < 60
    frame(Reply(1, msgspec.Raw(msgspec.msgpack.encode(GatheredReports(shown)))))
    ((report, _),) = await world.reporter.reports(DAY, "d59.example", 1)
    assert len(report.policies[0].details) == 20
