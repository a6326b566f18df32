"""The lookup process's desk for TLS: policies beside hosts, results that cannot be stored, what a sandbox has."""

from __future__ import annotations

import contextlib
import random
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from angarium._core.counters import Slab
from angarium.app.tls_desk import TlsDesk
from angarium.config.load import examine_text
from angarium.delivery.lookup_protocol import ReportQuestion, TlsBatch
from angarium.delivery.mail_host import ResolutionFailure
from angarium.delivery.resolver import Resolver
from angarium.outcome.tls_report import ReportPolicy, SessionResult
from tests.support.clock import FakeClock
from tests.support.dns import Fault, NameServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

BASE = """
[node]
hostname = "relay.example"
spool = "{spool}"
[[listener]]
name = "relay"
listen = "127.0.0.1:2525"
role = "relay"
relay_networks = ["10.0.0.0/8"]
"""
ROUTE = '[[route]]\nrecipients = ["*"]\nnext_hop = "discard:"\n'
DAY = date(2027, 1, 15)
BATCH = TlsBatch(DAY, ((SessionResult(ReportPolicy("a.test")), 3),))


@pytest.fixture
async def names() -> AsyncIterator[NameServer]:
    async with NameServer() as server:
        server.zone("a.test", '@ 60 IN MX 10 mx\nmx 60 IN A 192.0.2.1\n_mta-sts 60 IN TXT "v=STSv1; id=1;"')
        yield server


@pytest.fixture
async def make(tmp_path: Path, names: NameServer) -> AsyncIterator[Callable[..., TlsDesk]]:
    """Make a desk; it is closed with the test."""
    async with contextlib.AsyncExitStack() as stack:

        def made(text: str = "", *, sandbox: bool = False) -> TlsDesk:
            desk, resolver = desk_of(tmp_path, names, text, sandbox)
            stack.push_async_callback(resolver.close)
            stack.push_async_callback(desk.close)
            return desk

        yield made


def desk_of(tmp_path: Path, names: NameServer, text: str, sandbox: bool) -> tuple[TlsDesk, Resolver]:
    examined = examine_text(BASE.format(spool=tmp_path) + text, sandbox=sandbox)
    assert examined.config is not None, examined.problems
    clock = FakeClock()
    resolver = Resolver(
        hostnames=("relay.example",),
        monotonic=clock.monotonic,
        random=random.Random(1),
        servers=[names.address],
        families=("A",),
    )
    return TlsDesk(examined.config, Slab.create(1).region(0), resolver, clock, []), resolver


async def fetched(domain: str) -> bytes:
    return b"version: STSv1\nmode: enforce\nmx: mx.a.test\nmax_age: 86400\n"


async def test_a_domain_s_policy_comes_with_its_hosts(make: Callable[..., TlsDesk], tmp_path: Path) -> None:
    desk = make()
    desk._https.fetch_policy = fetched  # type: ignore[method-assign]
    await desk.start()
    hosts = await desk.mail_hosts("A.Test")
    assert [host.name for host in hosts.hosts] == ["mx.a.test"]
    assert hosts.mta_sts is not None
    assert hosts.mta_sts.mode == "enforce"
    await desk.close()
    assert (tmp_path / "mta-sts.json").exists()


async def test_a_domain_without_hosts_fails_as_ever(make: Callable[..., TlsDesk], names: NameServer) -> None:
    desk = make()
    await desk.start()
    with pytest.raises(ResolutionFailure, match="no such domain"):
        await desk.mail_hosts("nowhere.a.test")
    names.fault(Fault.SERVFAIL, "b.a.test")
    with pytest.raises(ResolutionFailure, match="no name server"):
        await desk.mail_hosts("b.a.test")
    assert (await desk.mail_hosts("[192.0.2.7]")).mta_sts is None


async def test_results_are_kept_and_shown(make: Callable[..., TlsDesk]) -> None:
    desk = make()
    await desk.start()
    await desk.gather(BATCH)
    ((report, states),) = (await desk.reports(ReportQuestion(DAY, None, 10))).reports
    assert (report.domain, report.policies[0].successes, states) == ("a.test", 3, ())


async def test_without_a_place_for_the_archive_mail_goes_all_the_same(
    make: Callable[..., TlsDesk], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tls-reports.sqlite").mkdir()  # SQLite cannot open it
    desk = make("[mta_sts]\nenabled = false\n")
    await desk.start()
    assert "TLS results are not gathered" in caplog.text
    assert (await desk.mail_hosts("a.test")).mta_sts is None
    await desk.gather(BATCH)
    with pytest.raises(ResolutionFailure, match="no TLS results are gathered"):
        await desk.reports(ReportQuestion(DAY, None, 10))


async def test_a_file_of_authorities_that_went_bad_stops_nothing(
    make: Callable[..., TlsDesk], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("angarium.config.check.check_mta_sts", lambda config, findings: None)
    desk = make('[mta_sts]\nca_file = "/nonexistent/ca.pem"\n')
    assert "the system's authorities are used" in caplog.text
    await desk.start()


@pytest.mark.parametrize("text", ["[mta_sts]\nenabled = false\n[tls_report]\nenabled = false\n", None])
async def test_what_is_off_leaves_no_trace(
    make: Callable[..., TlsDesk], tmp_path: Path, names: NameServer, text: str | None
) -> None:
    desk = make(text or ROUTE, sandbox=text is None)
    await desk.start()
    asked: Any = names.queries
    assert (await desk.mail_hosts("a.test")).mta_sts is None
    assert not any(name.startswith("_mta-sts") for name, *_ in asked)
    await desk.gather(BATCH)
    with pytest.raises(ResolutionFailure):
        await desk.reports(ReportQuestion(DAY, None, 10))
    desk.publish()
    await desk.close()
    assert [path.name for path in tmp_path.iterdir() if path.name != "lock"] == []
