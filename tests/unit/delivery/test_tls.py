"""SSL contexts by policy, and the account of what TLS came to."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from angarium._core.client_session import Phase
from angarium._core.counters import Slab, Slot
from angarium._core.event_log import EventLog
from angarium.delivery.failure import ConnectFailure
from angarium.delivery.mail_host import Tlsa
from angarium.delivery.target import Host, TlsPolicy
from angarium.delivery.tls import Contexts, Reached
from angarium.delivery.tls_result import BROKEN_S, FAILED_SLOTS, MOST_BROKEN, TlsOutcome, TlsResults
from tests.support.certificates import Authority
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

HOST = Host("mx.example.test", "192.0.2.1", 25)
RECORD = Tlsa(3, 1, 1, bytes(32))


@pytest.mark.parametrize(
    ("policy", "host", "name"),
    [
        (TlsPolicy(), HOST, "mx.example.test"),
        (TlsPolicy("require", name="example.test"), HOST, "example.test"),
        (TlsPolicy("dane"), Host("mx.example.test", "192.0.2.1", 25, (RECORD,), "mx.base.test"), "mx.base.test"),
        (TlsPolicy("verify"), Host("192.0.2.1", "192.0.2.1", 25), "192.0.2.1"),
    ],
)
def test_the_name_that_a_host_is_asked_for(policy: TlsPolicy, host: Host, name: str) -> None:
    assert Contexts().prepare(policy, host, "there")[1] == name


def test_contexts_are_shared_by_what_they_are_made_of(tmp_path: Path) -> None:
    root = Authority("Root CA")
    ca, _ = root.write(tmp_path, "ca")
    certificate, key = root.issue("relay.test").write(tmp_path, "client")
    contexts = Contexts()

    def context(level: Any, **settings: str) -> ssl.SSLContext:
        return contexts.prepare(TlsPolicy(level, **settings), HOST, "there")[0]  # type: ignore[arg-type]

    plain = context("opportunistic")
    assert plain is context("require", ca=str(ca)) is context("dane", source="elsewhere") is context("fingerprint")
    assert (plain.verify_mode, plain.check_hostname) == (ssl.CERT_NONE, False)
    verifying = context("verify")
    assert verifying is context("verify", name="other.test") is not plain
    assert (verifying.verify_mode, verifying.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context("verify", ca=str(ca)) is context("verify", ca=str(ca)) is not verifying
    with_certificate = context("opportunistic", certificate=str(certificate), key=str(key))
    assert with_certificate is not plain
    assert all(made.minimum_version == ssl.TLSVersion.TLSv1_2 for made in (plain, verifying, with_certificate))


@pytest.mark.parametrize("what", ["missing", "garbage"])
def test_files_that_went_bad_since_the_start_make_mail_wait(tmp_path: Path, what: str) -> None:
    file = tmp_path / "client.pem"
    if what == "garbage":
        file.write_text("no certificate")
    for settings in ({"certificate": str(file), "key": str(file)}, {"ca": str(file)}):
        policy = TlsPolicy("verify", "route[0]", **settings)  # type: ignore[arg-type]
        with pytest.raises(ConnectFailure) as failure:
            Contexts().prepare(policy, HOST, "there")
        assert (failure.value.phase, failure.value.code) == (Phase.PHASE_TLS, 0)
        assert "of route[0]" in failure.value.text


class Account:
    """TlsResults with what comes out of it."""

    def __init__(self, folder: Path) -> None:
        self.counters = Slab.create(1).region(0)
        self.clock = FakeClock()
        self.file = folder / "events"
        self.events = EventLog(str(self.file), self.counters)
        self.outcomes: list[TlsOutcome] = []
        self.results = TlsResults(self.counters, self.clock, self.outcomes.append)

    def fail(self, policy: TlsPolicy, host: Host = HOST, result: Any = "validation-failure") -> None:
        failure = ConnectFailure.of_tls("there", "it is broken", result)
        failure.local = "192.0.2.9"
        self.results.failed(policy, host, failure, self.events)

    def logged(self) -> list[dict[str, Any]]:
        self.events.flush()
        return [json.loads(line) for line in self.file.read_text().splitlines()]


def test_a_failure_is_counted_logged_and_told(tmp_path: Path) -> None:
    account = Account(tmp_path)
    policy = TlsPolicy("verify", 'route "smart"')
    for number, result in enumerate(FAILED_SLOTS):
        account.fail(policy, result=result)
        assert account.counters.value(FAILED_SLOTS[result]) == 1
        assert account.outcomes[number] == TlsOutcome(policy, HOST, result, "there: it is broken", "192.0.2.9")
    event = account.logged()[-1]
    del event["time"]
    assert event == {
        "event": "tls_failed",
        "host": "mx.example.test",
        "address": "192.0.2.1",
        "port": 25,
        "policy": "verify",
        "source": 'route "smart"',
        "reason": "dane-required",
        "text": "there: it is broken",
        "then": "next host",
    }
    assert account.results.broken(HOST) is None  # where TLS must be, it is tried each time


def test_what_was_reached_is_counted_and_told(tmp_path: Path) -> None:
    account = Account(tmp_path)
    for authentication, slot in (
        ("none", Slot.DELIVERY_TLS_ENCRYPTED),
        ("webpki", Slot.DELIVERY_TLS_WEBPKI),
        ("dane", Slot.DELIVERY_TLS_DANE),
        ("fingerprint", Slot.DELIVERY_TLS_FINGERPRINT),
    ):
        account.results.set_up(TlsPolicy(), HOST, Reached("TLSv1.3", "AES", authentication), "")  # type: ignore[arg-type]
        assert account.counters.value(slot) == 1
    assert [outcome.result for outcome in account.outcomes] == [None] * 4
    account.results.set_up(TlsPolicy(), HOST, None, "192.0.2.9")
    assert account.outcomes[-1].result == "starttls-not-supported"
    account.results.set_up(TlsPolicy("none"), HOST, None, "192.0.2.9")
    assert len(account.outcomes) == 5  # nobody asked for TLS
    assert account.counters.value(Slot.DELIVERY_TLS_PLAINTEXT) == 2
    assert account.logged() == []


def test_broken_tls_is_remembered_for_a_while_and_for_each_host_by_itself(tmp_path: Path) -> None:
    account = Account(tmp_path)
    other = Host(HOST.name, "192.0.2.2", 25)
    account.fail(TlsPolicy())
    assert account.logged()[0]["then"] == "plaintext"
    assert account.results.broken(HOST) == "validation-failure"
    assert account.results.broken(other) is None
    account.clock.advance(BROKEN_S - 1)
    assert account.results.broken(HOST) == "validation-failure"
    account.clock.advance(1)
    assert account.results.broken(HOST) is None


def test_the_memory_of_broken_tls_is_bounded(tmp_path: Path) -> None:
    account = Account(tmp_path)
    hosts = [Host(str(number), f"192.0.{number >> 8}.{number & 255}", 25) for number in range(MOST_BROKEN + 2)]
    for host in hosts:
        account.fail(TlsPolicy(), host)
    assert [host for host in hosts if account.results.broken(host) is None] == hosts[:2]
