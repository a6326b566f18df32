"""What became of TLS to mail hosts, kept for a node by day of UTC: the material of reports (RFC 8460) and their state.

Job: `add` counts results of sessions, `reports` gives what was gathered of a day, `plan`, `due`, `found` and `settle`
carry the reports on their way, `purge` lets old days go. It is one file of SQLite with a write-ahead log: what `add`
returned from survives the end of the process in any way; after a power failure the last moments may be missing.

A day's report about a domain is *due* once under no address: then it is found out where the domain wants it. From then
on there is one entry for each address, due until the report is taken there, or given up.

Bounds: MOST_POLICIES policies of a day (beyond, results are counted as dropped and that is all), MOST_DETAILS kinds of
failure of one policy (beyond, what happens is counted under its result type alone), what comes from outside is cut to
LONGEST_TEXT characters.

Fails: sqlite3.Error, when the file cannot be written or is damaged. `open_archive` keeps aside a file that is no
database, and begins anew. One thread at a time uses an archive."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from datetime import date
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from angarium.outcome.tls_report import DayReport, FailureCount, PolicyCount, ReportPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from angarium.outcome.tls_report import SessionResult

__all__ = ["DueReport", "ReportState", "State", "TlsArchive", "open_archive"]

log = logging.getLogger(__name__)

State = Literal["due", "found", "unwanted", "sent", "failed"]

FILE = "tls-reports.sqlite"
VERSION = 1
MOST_POLICIES = 50_000
MOST_DETAILS = 100
LONGEST_TEXT = 300
BUSY_S = 5.0

_SCHEMA = """
CREATE TABLE policy (
    number INTEGER PRIMARY KEY,
    day TEXT NOT NULL, domain TEXT NOT NULL, type TEXT NOT NULL, strings TEXT NOT NULL, hosts TEXT NOT NULL,
    successes INTEGER NOT NULL DEFAULT 0, failures INTEGER NOT NULL DEFAULT 0,
    UNIQUE (day, domain, type, strings, hosts)
);
CREATE TABLE failure (
    policy INTEGER NOT NULL REFERENCES policy ON DELETE CASCADE,
    type TEXT NOT NULL, sending_ip TEXT NOT NULL, receiving_host TEXT NOT NULL, receiving_ip TEXT NOT NULL,
    receiving_helo TEXT NOT NULL, reason TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (policy, type, sending_ip, receiving_host, receiving_ip, receiving_helo, reason)
) WITHOUT ROWID;
CREATE TABLE report (
    day TEXT NOT NULL, domain TEXT NOT NULL, address TEXT NOT NULL,
    state TEXT NOT NULL, due REAL NOT NULL, first REAL, attempts INTEGER NOT NULL DEFAULT 0,
    text TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (day, domain, address)
) WITHOUT ROWID;
CREATE INDEX report_due ON report (due) WHERE state = 'due';
"""


class DueReport(NamedTuple):
    """Something to be done: without an address it is to be found out where the report is wanted."""

    day: date
    domain: str
    address: str
    first: float | None  # when it was tried for the first time, in seconds of the calendar
    attempts: int


class ReportState(NamedTuple):
    """What is known of one report on its way."""

    domain: str
    address: str
    state: State
    attempts: int
    text: str


class TlsArchive:
    """The archive in one file."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        self._known = ("", 0)  # policies of the day that was added to last; too many after a failure, never too few
        try:
            self._prepare()
        except sqlite3.Error:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT")
        elif version != VERSION:
            raise sqlite3.DatabaseError(f"version {version} of the archive of TLS results is not known here")

    def close(self) -> None:
        """Close the file; what is in its log is moved into it."""
        self._db.close()

    # ------------------------------------------------------------------ what is gathered

    def add(self, day: date, results: Iterable[tuple[SessionResult, int]]) -> int:
        """Count results of a day; returns how many found no room."""
        dropped = 0
        with _Transaction(self._db):
            for result, count in results:
                number = self._policy(day, result.policy)
                if number is None:
                    dropped += count
                elif result.failure is None:
                    self._db.execute("UPDATE policy SET successes = successes + ? WHERE number = ?", (count, number))
                else:
                    self._db.execute("UPDATE policy SET failures = failures + ? WHERE number = ?", (count, number))
                    self._count_failure(number, result, count)
        return dropped

    def _policy(self, day: date, policy: ReportPolicy) -> int | None:
        key = (
            day.isoformat(),
            _cut(policy.domain),
            policy.type,
            _packed(policy.strings),
            _packed(policy.hosts),
        )
        found = self._db.execute(
            "SELECT number FROM policy WHERE day = ? AND domain = ? AND type = ? AND strings = ? AND hosts = ?", key
        ).fetchone()
        if found is not None:
            return int(found[0])
        if self._known[0] != key[0]:
            (known,) = self._db.execute("SELECT count(*) FROM policy WHERE day = ?", key[:1]).fetchone()
            self._known = (key[0], known)
        if self._known[1] >= MOST_POLICIES:
            return None
        self._known = (key[0], self._known[1] + 1)
        made = self._db.execute("INSERT INTO policy (day, domain, type, strings, hosts) VALUES (?, ?, ?, ?, ?)", key)
        assert made.lastrowid is not None
        return made.lastrowid

    def _count_failure(self, number: int, result: SessionResult, count: int) -> None:
        details = tuple(
            _cut(text)
            for text in (
                result.sending_ip,
                result.receiving_host,
                result.receiving_ip,
                result.receiving_helo,
                result.reason,
            )
        )
        if self._update_failure(number, result, details, count):
            return
        (known,) = self._db.execute("SELECT count(*) FROM failure WHERE policy = ?", (number,)).fetchone()
        if known >= MOST_DETAILS:
            details = ("",) * len(details)
            if self._update_failure(number, result, details, count):
                return
        self._db.execute(
            "INSERT INTO failure"
            " (policy, count, type, sending_ip, receiving_host, receiving_ip, receiving_helo, reason)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (number, count, result.failure, *details),
        )

    def _update_failure(self, number: int, result: SessionResult, details: tuple[str, ...], count: int) -> bool:
        done = self._db.execute(
            "UPDATE failure SET count = count + ? WHERE policy = ? AND type = ? AND sending_ip = ?"
            " AND receiving_host = ? AND receiving_ip = ? AND receiving_helo = ? AND reason = ?",
            (count, number, result.failure, *details),
        )
        return done.rowcount > 0

    def days(self) -> list[date]:
        """The days of which there is something, the first one first."""
        rows = self._db.execute("SELECT DISTINCT day FROM policy ORDER BY day")
        return [date.fromisoformat(day) for (day,) in rows]

    def reports(self, day: date, domain: str | None = None, limit: int = -1) -> list[DayReport]:
        """What was gathered on a day, by domain, those with most failures first; no more domains than `limit`."""
        domains = self._db.execute(
            "SELECT domain FROM policy WHERE day = ? AND (? IS NULL OR domain = ?)"
            " GROUP BY domain ORDER BY sum(failures) DESC, sum(successes) DESC, domain LIMIT ?",
            (day.isoformat(), domain, domain, limit),
        ).fetchall()
        return [DayReport(name, day, self._policies(day, name)) for (name,) in domains]

    def _policies(self, day: date, domain: str) -> tuple[PolicyCount, ...]:
        rows = self._db.execute(
            "SELECT number, type, strings, hosts, successes, failures FROM policy WHERE day = ? AND domain = ?"
            " ORDER BY number",
            (day.isoformat(), domain),
        ).fetchall()
        return tuple(
            PolicyCount(
                ReportPolicy(domain, kind, _unpacked(strings), _unpacked(hosts)),
                successes,
                failures,
                self._failures(number),
            )
            for number, kind, strings, hosts, successes, failures in rows
        )

    def _failures(self, number: int) -> tuple[FailureCount, ...]:
        rows = self._db.execute(
            "SELECT type, count, sending_ip, receiving_host, receiving_ip, receiving_helo, reason FROM failure"
            " WHERE policy = ? ORDER BY count DESC, type, receiving_host, receiving_ip",
            (number,),
        )
        return tuple(FailureCount(*row) for row in rows)

    # ------------------------------------------------------------------ reports on their way

    def plan(self, day: date, due: Callable[[], float]) -> int:
        """Have a report made of every domain of a day, each at its own time; again is no harm. Returns how many."""
        with _Transaction(self._db):
            rows = self._db.execute(
                "SELECT DISTINCT domain FROM policy WHERE day = ? AND NOT EXISTS (SELECT 1 FROM report"
                " WHERE report.day = policy.day AND report.domain = policy.domain AND report.address = '')",
                (day.isoformat(),),
            ).fetchall()
            self._db.executemany(
                "INSERT INTO report (day, domain, address, state, due) VALUES (?, ?, '', 'due', ?)",
                [(day.isoformat(), domain, due()) for (domain,) in rows],
            )
        return len(rows)

    def due(self, now: float, limit: int) -> list[DueReport]:
        """What is to be done by now, what is due longest first."""
        rows = self._db.execute(
            "SELECT day, domain, address, first, attempts FROM report WHERE state = 'due' AND due <= ?"
            " ORDER BY due LIMIT ?",
            (now, limit),
        )
        return [DueReport(date.fromisoformat(day), *rest) for day, *rest in rows]

    def found(self, report: DueReport, addresses: Sequence[str], now: float) -> None:
        """It is known where a report is wanted: nowhere, or at these addresses, to which it is due now."""
        with _Transaction(self._db):
            self.settle(report, "found" if addresses else "unwanted", now)
            self._db.executemany(
                "INSERT OR IGNORE INTO report (day, domain, address, state, due) VALUES (?, ?, ?, 'due', ?)",
                [(report.day.isoformat(), report.domain, address, now) for address in addresses],
            )

    def settle(self, report: DueReport, state: State, now: float, *, due: float = 0.0, text: str = "") -> None:
        """An attempt at `now` came to this; with the state "due" it is tried again at `due`."""
        self._db.execute(
            "UPDATE report SET state = ?, due = ?, first = coalesce(first, ?), attempts = attempts + 1, text = ?"
            " WHERE day = ? AND domain = ? AND address = ?",
            (state, due, now, _cut(text), report.day.isoformat(), report.domain, report.address),
        )

    def states(self, day: date, domain: str) -> list[ReportState]:
        """How far the report about a domain is."""
        rows = self._db.execute(
            "SELECT domain, address, state, attempts, text FROM report WHERE day = ? AND domain = ? ORDER BY address",
            (day.isoformat(), domain),
        )
        return [ReportState(*row) for row in rows]

    def purge(self, before: date) -> None:
        """Forget everything of the days before."""
        with _Transaction(self._db):
            self._db.execute("DELETE FROM policy WHERE day < ?", (before.isoformat(),))
            self._db.execute("DELETE FROM report WHERE day < ?", (before.isoformat(),))


class _Transaction:
    """All of it, or nothing."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def open_archive(folder: Path) -> TlsArchive:
    """The archive of the node with this spool. What is no archive is kept aside. sqlite3.Error, OSError."""
    path = folder / FILE
    try:
        archive = TlsArchive(str(path))
        with closing(archive._db.execute("SELECT count(*) FROM report")) as rows:
            rows.fetchone()
    except sqlite3.OperationalError:
        raise  # it cannot be opened, or is in use: that says nothing of what is in it
    except sqlite3.DatabaseError as failure:
        log.error("%s: %s; TLS results are gathered anew", path, failure)
        path.replace(path.with_suffix(".damaged"))
        for name in (f"{FILE}-wal", f"{FILE}-shm"):
            (folder / name).unlink(missing_ok=True)
        return TlsArchive(str(path))
    return archive


def _cut(text: str) -> str:
    return text[:LONGEST_TEXT]


def _packed(strings: Sequence[str]) -> str:
    return msgspec.json.encode([_cut(text) for text in strings]).decode()


def _unpacked(text: str) -> tuple[str, ...]:
    return msgspec.json.decode(text, type=tuple[str, ...])
