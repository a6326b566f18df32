"""The archive of TLS results: what is counted stays counted, and is bounded."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from datetime import date
from typing import TYPE_CHECKING

import pytest

from angarium.outcome import tls_archive
from angarium.outcome.tls_archive import DueReport, TlsArchive, open_archive
from angarium.outcome.tls_report import FailureCount, PolicyCount, ReportPolicy, SessionResult

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY, NEXT = date(2026, 3, 1), date(2026, 3, 2)
NONE = ReportPolicy("a.example")
STS = ReportPolicy("a.example", "sts", ("version: STSv1", "mode: enforce"), ("mx.a.example", "*.b.example"))
EXPIRED = SessionResult(STS, "certificate-expired", "192.0.2.1", "mx.a.example", "198.51.100.1", "mx", "10")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[TlsArchive]:
    archive = open_archive(tmp_path)
    yield archive
    archive.close()


def test_equal_results_are_counted_together(archive: TlsArchive) -> None:
    archive.add(DAY, [(SessionResult(NONE), 2), (SessionResult(STS), 3), (EXPIRED, 1)])
    archive.add(DAY, [(EXPIRED, 4), (SessionResult(STS, "starttls-not-supported"), 9), (SessionResult(NONE), 1)])
    archive.add(NEXT, [(SessionResult(NONE), 1)])
    (report,) = archive.reports(DAY)
    assert (report.domain, report.day) == ("a.example", DAY)
    assert report.policies == (
        PolicyCount(NONE, 3, 0),
        PolicyCount(
            STS,
            3,
            14,
            (
                FailureCount("starttls-not-supported", 9),
                FailureCount("certificate-expired", 5, "192.0.2.1", "mx.a.example", "198.51.100.1", "mx", "10"),
            ),
        ),
    )
    assert archive.days() == [DAY, NEXT]


def test_reports_by_domain_and_number(archive: TlsArchive) -> None:
    for domain, successes, failures in (("a", 9, 0), ("b", 1, 1), ("c", 5, 7)):
        policy = ReportPolicy(domain)
        archive.add(DAY, [(SessionResult(policy), successes)])
        if failures:
            archive.add(DAY, [(SessionResult(policy, "validation-failure"), failures)])
    assert [report.domain for report in archive.reports(DAY)] == ["c", "b", "a"]
    assert [report.domain for report in archive.reports(DAY, limit=1)] == ["c"]
    assert [report.domain for report in archive.reports(DAY, "a")] == ["a"]
    assert archive.reports(DAY, "d") == []
    assert archive.reports(NEXT) == []


def test_the_policies_of_a_day_are_bounded(archive: TlsArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_archive, "MOST_POLICIES", 3)
    many = [(SessionResult(ReportPolicy(f"d{i}.example")), 10) for i in range(5)]
    assert archive.add(DAY, many) == 20
    assert archive.add(DAY, many) == 20  # those that are known go on being counted
    assert archive.add(NEXT, many[3:]) == 0  # a day each
    assert archive.add(DAY, many) == 20
    assert [report.policies[0].successes for report in archive.reports(DAY)] == [30, 30, 30]


def test_the_failures_of_a_policy_are_bounded(archive: TlsArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_archive, "MOST_DETAILS", 2)
    failures = [(SessionResult(STS, "validation-failure", receiving_host=f"mx{i}"), 1) for i in range(6)]
    archive.add(DAY, failures)
    archive.add(DAY, failures)
    (report,) = archive.reports(DAY)
    (counted,) = report.policies
    assert counted.failures == 12
    assert counted.details == (
        FailureCount("validation-failure", 8),
        FailureCount("validation-failure", 2, receiving_host="mx0"),
        FailureCount("validation-failure", 2, receiving_host="mx1"),
    )


def test_long_texts_are_cut(archive: TlsArchive) -> None:
    archive.add(
        DAY, [(SessionResult(ReportPolicy("d" * 999, "tlsa", ("s" * 999,)), "tlsa-invalid", reason="r" * 999), 1)]
    )
    (report,) = archive.reports(DAY)
    (counted,) = report.policies
    longest = tls_archive.LONGEST_TEXT
    assert (len(report.domain), len(counted.policy.strings[0]), len(counted.details[0].reason)) == (longest,) * 3


def test_a_batch_counts_whole_or_not_at_all(archive: TlsArchive) -> None:
    broken = SessionResult(NONE, "validation-failure", reason="\ud800")  # SQLite takes no lone surrogate
    with pytest.raises(UnicodeEncodeError):
        archive.add(DAY, [(SessionResult(NONE), 1), (broken, 1)])
    assert archive.reports(DAY) == []
    archive.add(DAY, [(SessionResult(NONE), 1)])
    assert archive.reports(DAY)[0].policies == (PolicyCount(NONE, 1, 0),)


def test_a_report_on_its_way(archive: TlsArchive) -> None:
    archive.add(DAY, [(SessionResult(ReportPolicy(name)), 1) for name in ("a", "b")])
    assert archive.plan(DAY, lambda: 100.0) == 2
    assert archive.plan(DAY, lambda: 100.0) == 0
    archive.add(DAY, [(SessionResult(ReportPolicy("c")), 1)])
    assert archive.plan(DAY, lambda: 200.0) == 1
    assert archive.due(99.0, 10) == []
    a, b = archive.due(199.0, 10)
    assert a == DueReport(DAY, "a", "", None, 0)
    assert archive.due(199.0, 1) == [a]
    archive.found(a, ["mailto:x@a", "https://a/"], 110.0)
    archive.found(b, [], 110.0)
    assert [state[1:4] for state in archive.states(DAY, "b")] == [("", "unwanted", 1)]
    https, mailto = archive.due(199.0, 10)
    assert (https.address, mailto.address) == ("https://a/", "mailto:x@a")
    archive.settle(https, "due", 120.0, due=150.0, text="HTTP status 503")
    archive.settle(mailto, "sent", 120.0)
    assert archive.due(149.0, 10) == []
    assert archive.due(150.0, 10) == [DueReport(DAY, "a", "https://a/", 120.0, 1)]
    archive.settle(https, "failed", 160.0, text="no")
    assert archive.states(DAY, "a") == [
        ("a", "", "found", 1, ""),
        ("a", "https://a/", "failed", 2, "no"),
        ("a", "mailto:x@a", "sent", 1, ""),
    ]
    assert [due.domain for due in archive.due(1e9, 10)] == ["c"]


def test_old_days_go(archive: TlsArchive, tmp_path: Path) -> None:
    for day in (DAY, NEXT):
        archive.add(day, [(EXPIRED, 1)])
        archive.plan(day, lambda: 0.0)
    archive.purge(NEXT)
    assert archive.days() == [NEXT]
    assert [due.day for due in archive.due(1.0, 10)] == [NEXT]
    with sqlite3.connect(tmp_path / tls_archive.FILE) as db:
        assert db.execute("SELECT count(*) FROM failure").fetchone() == (1,)
    db.close()


def test_it_is_there_after_a_restart(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    archive.add(DAY, [(EXPIRED, 1)])
    archive.close()
    archive = open_archive(tmp_path)
    archive.add(DAY, [(EXPIRED, 1)])
    assert archive.reports(DAY)[0].policies[0].failures == 2
    archive.close()


CHILD = """
import sys
from datetime import date
from pathlib import Path
from angarium.outcome.tls_archive import open_archive
from angarium.outcome.tls_report import ReportPolicy, SessionResult
archive = open_archive(Path(sys.argv[1]))
while True:
    archive.add(date(2026, 3, 1), [(SessionResult(ReportPolicy("a.example")), 1)] * 7)
    print("added", flush=True)
"""


@pytest.mark.faults
def test_what_was_added_survives_a_kill(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD, tmp_path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        added = [child.stdout.readline() for _ in range(50)]
        os.kill(child.pid, signal.SIGKILL)
        added += [line for line in child.stdout.read().splitlines(keepends=True) if line == b"added\n"]
    archive = open_archive(tmp_path)
    counted = archive.reports(DAY)[0].policies[0].successes
    archive.close()
    assert counted % 7 == 0
    assert counted // 7 in (len(added), len(added) + 1)  # the last one's message may have been lost


@pytest.mark.parametrize("octets", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_is_no_database_is_kept_aside(tmp_path: Path, octets: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / tls_archive.FILE
    path.write_bytes(octets)
    archive = open_archive(tmp_path)
    archive.add(DAY, [(EXPIRED, 1)])
    assert archive.days() == [DAY]
    archive.close()
    assert path.with_suffix(".damaged").read_bytes() == octets
    assert "TLS results are gathered anew" in caplog.text


def test_a_version_that_is_not_known_is_kept_aside(tmp_path: Path) -> None:
    open_archive(tmp_path).close()
    db = sqlite3.connect(tmp_path / tls_archive.FILE)
    db.execute("PRAGMA user_version = 99")
    db.close()
    archive = open_archive(tmp_path)
    assert archive.days() == []
    archive.close()
    assert (tmp_path / "tls-reports.damaged").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        open_archive(tmp_path / "missing")
