"""DANE and MTA-STS for the same domain (RFC 8461 §2): a signed zone behind a validating resolver, policies over HTTPS.

Usable TLSA records win, whatever the policy says; without them, or where the zone is not signed, the policy holds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pytest
import trustme

from tests.support.certificates import Issued, self_signed
from tests.support.https import HttpsServer
from tests.support.peers import SinkServer
from tests.support.ports import is_free
from tests.support.relay import Relay
from tests.support.zone import SignedDns

if TYPE_CHECKING:
    from collections.abc import Iterator

POLICY = "version: STSv1\nmode: enforce\nmx: {}\nmax_age: 604800\n"
WEB = "127.0.0.1"


@dataclass(frozen=True)
class Case:
    """A domain whose one host shows a certificate that nobody vouches for but its TLSA record."""

    record: Literal["right", "wrong", "unusable"] | None
    trust: Literal["secure", "insecure"]
    named: bool  # by the policy
    outcome: str  # "dane", or the reason of the failure
    source: str


CASES = {
    "both": Case("right", "secure", True, "dane", "the TLSA records of mx.both.test"),
    "unnamed": Case("right", "secure", False, "dane", "the TLSA records of mx.unnamed.test"),
    "mismatch": Case("wrong", "secure", True, "tlsa-invalid", "the TLSA records of mx.mismatch.test"),
    "useless": Case("unusable", "secure", True, "certificate-not-trusted", "the MTA-STS policy of useless.test"),
    "absent": Case(None, "secure", True, "certificate-not-trusted", "the MTA-STS policy of absent.test"),
    "unsigned": Case("right", "insecure", True, "certificate-not-trusted", "the MTA-STS policy of unsigned.test"),
}
ADDRESS = {name: f"127.0.26.{number}" for number, name in enumerate(CASES, 1)}


def can_bind() -> bool:
    return os.geteuid() == 0 and all(is_free(address, 25) for address in ADDRESS.values())


pytestmark = pytest.mark.skipif(not can_bind(), reason="mail hosts listen on port 25 of 127.0.26.1 and up: needs root")


def zone_of(name: str, case: Case, issued: Issued) -> str:
    zone = (
        f"@ 60 IN MX 10 mx\nmx 60 IN A {ADDRESS[name]}\nmta-sts 60 IN A {WEB}\n"
        '_mta-sts 60 IN TXT "v=STSv1; id=1;"\n'
    )  # fmt: skip
    stranger = self_signed("stranger.test")
    match case.record:
        case "right":
            zone += f"_25._tcp.mx 60 IN TLSA 3 1 1 {issued.tlsa_data(1, 1).hex()}\n"
        case "wrong":
            zone += f"_25._tcp.mx 60 IN TLSA 3 1 1 {stranger.tlsa_data(1, 1).hex()}\n"
        case "unusable":
            zone += f"_25._tcp.mx 60 IN TLSA 1 1 1 {stranger.tlsa_data(1, 1).hex()}\n"
    return zone


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relay, dict[str, SinkServer]]]:
    folder = tmp_path_factory.mktemp("both")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    hosts: dict[str, SinkServer] = {}
    with SignedDns() as dns, HttpsServer(ca, *(f"mta-sts.{name}.test" for name in CASES), host=WEB) as web:
        for name, case in CASES.items():
            issued = self_signed(f"mx.{name}.test")
            context = issued.server_context(folder, name=name)
            hosts[name] = SinkServer(host=ADDRESS[name], port=25, tls=context)
            dns.zone(f"{name}.test", zone_of(name, case, issued), trust=case.trust)
            web.publish(f"mta-sts.{name}.test", POLICY.format(pattern_of(name, case)))
        dns.publish()
        config: dict[str, Any] = {
            "dns": {"servers": [dns.server], "dnssec": "trust-ad"},
            "delivery": {"never_contact": []},
            "mta_sts": {"ca_file": str(folder / "ca.pem"), "port": web.port},
        }
        try:
            for host in hosts.values():
                host.start()
            with Relay(folder, config) as relay:
                yield relay, hosts
        finally:
            for host in hosts.values():
                host.stop()


def pattern_of(name: str, case: Case) -> str:
    return f"mx.{name}.test" if case.named else f"elsewhere.{name}.test"


@pytest.mark.peer
@pytest.mark.parametrize("name", CASES)
def test_who_has_the_say(relay: tuple[Relay, dict[str, SinkServer]], name: str) -> None:
    node, hosts = relay
    case = CASES[name]
    recipient = f"a@{name}.test"
    queue_id = node.send(recipient)
    if case.outcome == "dane":
        assert hosts[name].wait_mail(recipient).tls
    else:
        deferral = node.wait_event("deferral", id=queue_id)
        assert case.source in deferral["reply"]["text"]
        failed = node.wait_event("tls_failed", host=f"mx.{name}.test")
        assert (failed["reason"], failed["source"]) == (case.outcome, case.source)
        assert hosts[name].count("MAIL") == 0

    def result() -> dict[str, Any] | None:
        domains = node.api(f"tls-report?domain={name}.test")["domains"]
        return domains[0] if domains else None

    counted = node.wait(result, "the result")
    assert counted is not None
    (policy,) = counted["policies"]
    by_dane = "TLSA" in case.source
    assert policy["type"] == ("tlsa" if by_dane else "sts")
    assert policy["strings"][0].startswith("3 1 1 " if by_dane else "version: STSv1")
    if case.outcome == "dane":
        assert (policy["successes"], policy["failures"]) == (1, 0)
    else:
        assert policy["successes"] == 0
        assert policy["details"][0]["type"] == case.outcome
