"""What is counted of TLS sessions, and what is handed over."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Any

import msgspec
import pytest

from angarium.delivery import tls_account
from angarium.delivery.lookup_protocol import TLS_RESULTS, Gathered, Request, TlsBatch, frame
from angarium.delivery.mail_host import Tlsa, no_answer
from angarium.delivery.mta_sts import Policy
from angarium.delivery.target import NOT_REQUIRED, Host, TlsPolicy
from angarium.delivery.tls_account import TlsAccount
from angarium.delivery.tls_policy import as_published, for_domain
from angarium.delivery.tls_result import TlsOutcome
from angarium.outcome.tls_report import ReportPolicy, SessionResult
from tests.support.clock import FakeClock

DAY = date(2027, 1, 15)  # of the fake clock
HOST = Host("mx.a.example", "192.0.2.1", 25)
ENFORCE = Policy("enforce", 86400, ("*.a.example",))
TESTING = Policy("testing", 86400, ("*.a.example",))
STS = ReportPolicy("a.example", "sts", ENFORCE.lines(), ENFORCE.patterns)


class Lookup:
    """The lookup process, as far as it is asked here."""

    def __init__(self) -> None:
        self.batches: list[TlsBatch] = []
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def ask(self, kind: Any, batch: TlsBatch) -> Gathered:
        await self.gate.wait()
        if self.away:
            raise no_answer("the lookup process")
        self.batches.append(batch)
        return Gathered()

    @property
    def counted(self) -> dict[SessionResult, int]:
        counts: dict[SessionResult, int] = {}
        for batch in self.batches:
            for result, count in batch.results:
                counts[result] = counts.get(result, 0) + count
        return counts


@pytest.fixture
def account() -> TlsAccount:
    return TlsAccount(FakeClock())


@pytest.fixture
async def lookup() -> Lookup:
    return Lookup()


@pytest.mark.parametrize(
    ("policy", "host", "reported"),
    [
        (TlsPolicy(domain="a.example"), HOST, ReportPolicy("a.example")),
        (for_domain(TlsPolicy(), "a.example", ENFORCE), HOST, STS),
        (
            as_published(for_domain(TlsPolicy(), "a.example", TESTING)),
            HOST,
            ReportPolicy("a.example", "sts", TESTING.lines(), TESTING.patterns),
        ),
        (
            TlsPolicy("dane", domain="a.example", sts=ENFORCE),
            Host("mx.a.example", "192.0.2.1", 25, (Tlsa(3, 1, 1, b"\xab" * 32),)),
            ReportPolicy("a.example", "tlsa", ("3 1 1 " + "ab" * 32,)),
        ),
        (TlsPolicy(source=NOT_REQUIRED), HOST, None),
        (TlsPolicy("require"), HOST, None),  # a next hop that a route names
        (TlsPolicy(domain="[192.0.2.1]"), HOST, None),
    ],
)
async def test_sessions_are_counted_under_their_policy(
    account: TlsAccount, lookup: Lookup, policy: TlsPolicy, host: Host, reported: ReportPolicy | None
) -> None:
    account.note(TlsOutcome(policy, host, None, "", "192.0.2.9"))
    account.note(TlsOutcome(policy, host, None, "", "192.0.2.9"))
    account.note(TlsOutcome(policy, host, "certificate-expired", "it has expired", "192.0.2.9"))
    account.note(TlsOutcome(policy, host, "validation-failure", "not named"))  # it was not even dialled
    await account.hand_over(lookup)  # type: ignore[arg-type]
    if reported is None:
        assert lookup.batches == []
        return
    (batch,) = lookup.batches
    assert batch == TlsBatch(
        DAY,
        (
            (SessionResult(reported), 2),
            (
                SessionResult(
                    reported, "certificate-expired", "192.0.2.9", "mx.a.example", "192.0.2.1", "", "it has expired"
                ),
                1,
            ),
            (SessionResult(reported, "validation-failure", "", "mx.a.example", "", "", "not named"), 1),
        ),
    )
    assert not account.pending


async def test_a_day_has_its_own_batch(lookup: Lookup) -> None:
    clock = FakeClock()
    account = TlsAccount(clock)
    for _ in range(2):
        account.note(TlsOutcome(TlsPolicy(domain="a.example"), HOST, None))
        clock.advance(86400)
    await account.hand_over(lookup)  # type: ignore[arg-type]
    assert [batch.day for batch in lookup.batches] == [DAY, date(2027, 1, 16)]


async def test_what_is_not_taken_is_kept(account: TlsAccount, lookup: Lookup) -> None:
    outcome = TlsOutcome(TlsPolicy(domain="a.example"), HOST, None)
    lookup.away = True
    account.note(outcome)
    await account.hand_over(lookup)  # type: ignore[arg-type]
    assert account.pending
    account.note(outcome)
    lookup.away = False
    await account.hand_over(lookup)  # type: ignore[arg-type]
    assert lookup.counted == {SessionResult(ReportPolicy("a.example")): 2}


async def test_one_batch_at_a_time(account: TlsAccount, lookup: Lookup) -> None:
    outcome = TlsOutcome(TlsPolicy(domain="a.example"), HOST, None)
    account.note(outcome)
    lookup.gate.clear()
    first = asyncio.ensure_future(account.hand_over(lookup))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    account.note(outcome)
    assert not account.pending
    await account.hand_over(lookup)  # type: ignore[arg-type]
    last = asyncio.ensure_future(account.hand_over_last(lookup))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    lookup.gate.set()
    await first
    await last
    assert lookup.counted == {SessionResult(ReportPolicy("a.example")): 2}
    assert len(lookup.batches) == 2


async def test_one_who_gives_up_takes_nothing_away(account: TlsAccount, lookup: Lookup) -> None:
    account.note(TlsOutcome(TlsPolicy(domain="a.example"), HOST, None))
    lookup.gate.clear()
    first = asyncio.ensure_future(account.hand_over(lookup))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    lookup.gate.set()
    await account.hand_over(lookup)  # type: ignore[arg-type]
    assert lookup.counted == {SessionResult(ReportPolicy("a.example")): 1}


async def test_what_is_in_hand_is_bounded(account: TlsAccount, lookup: Lookup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls_account, "MOST_KINDS", 700)
    for number in range(1000):
        account.note(TlsOutcome(TlsPolicy(domain=f"d{number}.example"), HOST, None))
    account.note(TlsOutcome(TlsPolicy(domain="d0.example"), HOST, None))  # a kind that is known
    assert account.dropped == 300
    await account.hand_over(lookup)  # type: ignore[arg-type]
    assert [len(batch.results) for batch in lookup.batches] == [500, 200]
    assert lookup.counted[SessionResult(ReportPolicy("d0.example"))] == 2


async def test_a_batch_fits_into_a_frame(account: TlsAccount, lookup: Lookup) -> None:
    patterns = tuple(f"{number:0240d}.example" for number in range(500))
    for number in range(300):
        domain = f"d{number}.example"
        policy = for_domain(TlsPolicy(), domain, Policy("enforce", 86400, patterns))
        account.note(TlsOutcome(policy, HOST, "certificate-expired", "x" * 999, "192.0.2.9"))
    await account.hand_over(lookup)  # type: ignore[arg-type]
    assert sum(len(batch.results) for batch in lookup.batches) == 300
    assert len(lookup.batches) > 1
    for batch in lookup.batches:
        frame(Request(1, TLS_RESULTS.name, msgspec.Raw(msgspec.msgpack.encode(batch))))
