"""`angarium doctor DOMAIN`: a signed DNS behind a real validating resolver, a web server with an MTA-STS policy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from angarium.app.certificate import ensure_certificate
from tests.support.https import HttpsServer
from tests.support.ports import free_port
from tests.support.relay import run_command, to_toml
from tests.support.zone import SignedDns, tlsa

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADDRESS = "203.0.114.25"  # of no network that is set aside; nothing is sent there
POLICY = "version: STSv1\nmode: enforce\nmx: mail.example.test\nmax_age: 604800\n"

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def dns() -> Iterator[SignedDns]:
    with SignedDns() as running:
        yield running


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[HttpsServer, trustme.CA]]:
    ca = trustme.CA()
    with HttpsServer(ca, "mta-sts.example.test", "mta-sts.behind.test") as running:
        running.publish("mta-sts.example.test", POLICY)
        running.publish("mta-sts.behind.test", POLICY.replace("mail.example", "other.example"))
        yield running, ca


class World:
    """A configuration that asks the test's name servers, and the zones of one domain as they should be."""

    def __init__(self, folder: Path, dns: SignedDns, web: tuple[HttpsServer, trustme.CA]) -> None:
        self.folder = folder
        self.dns = dns
        server, ca = web
        ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        self.certificate, key = ensure_certificate(folder / "tls", ("mail.example.test",))
        (folder / "spool").mkdir(mode=0o700)
        config: dict[str, Any] = {
            "node": {"hostname": "mail.example.test", "spool": folder / "spool", "workers": 1},
            "admin": {"listen": f"127.0.0.1:{free_port()}"},
            "tls": {"certificate": self.certificate, "key": key},
            "dns": {"servers": [dns.server], "dnssec": "trust-ad"},
            "mta_sts": {"ca_file": folder / "ca.pem", "port": server.port},
            "delivery": {"never_contact": []},
            "listener": [
                {
                    "name": "relay",
                    "listen": f"127.0.0.1:{free_port()}",
                    "role": "relay",
                    "relay_networks": ["10.0.0.0/8"],
                }
            ],
        }
        self.file = folder / "angarium.toml"
        self.file.write_text(to_toml(config))

    def good_zone(self) -> str:
        return f"""
@ 60 IN MX 10 mail
@ 60 IN TXT "v=spf1 mx -all"
mail 60 IN A {ADDRESS}
_25._tcp.mail 60 IN TLSA {tlsa(self.certificate.read_bytes())}
_dmarc 60 IN TXT "v=DMARC1; p=reject; rua=mailto:dmarc@example.test"
_mta-sts 60 IN TXT "v=STSv1; id=1"
mta-sts 60 IN A 127.0.0.1
_smtp._tls 60 IN TXT "v=TLSRPTv1; rua=mailto:tls@example.test"
"""

    def publish(self, zone: str, *, trust: Any = "secure", back: str = "25 60 IN PTR mail.example.test.") -> None:
        self.dns.zone("example.test", zone, trust=trust)
        self.dns.zone("114.0.203.in-addr.arpa", back)
        self.dns.publish()

    def doctor(self, *arguments: str) -> dict[str, list[tuple[str, str]]]:
        """Severities and reasons by subject."""
        done = run_command("doctor", *arguments, "--config", str(self.file), "--json")
        document = json.loads(done.stdout)
        errors = [one for one in document["findings"] if one["severity"] == "error"]
        assert done.returncode == bool(errors), (errors, done.stderr)
        found: dict[str, list[tuple[str, str]]] = {}
        for one in document["findings"]:
            found.setdefault(one["subject"], []).append((one["severity"], one["reason"]))
            assert one["severity"] == "ok" or one["remedy"]
        return found


@pytest.fixture
def world(tmp_path: Path, dns: SignedDns, web: tuple[HttpsServer, trustme.CA]) -> World:
    return World(tmp_path, dns, web)


SUBJECTS = (
    "name servers",
    "hostname",
    "reverse name",
    "MX",
    "SPF",
    "DMARC",
    "MTA-STS",
    "TLS-RPT",
    "DANE",
    "certificate",
)


def test_a_domain_that_is_well(world: World) -> None:
    world.publish(world.good_zone())
    found = world.doctor("example.test")
    assert {subject: {severity for severity, _ in found[subject]} for subject in SUBJECTS} == {
        subject: {"ok"} for subject in SUBJECTS
    }
    assert found["DANE"] == [
        ("ok", "mail.example.test: 1 TLSA record, signed, and the certificate is the one they name")
    ]


@pytest.mark.parametrize(
    ("old", "new", "subject", "reason"),
    [
        ("10 mail", "10 none", "MX", "none.example.test has no address"),
        ("mx -all", "-all", "SPF", f"example.test says that {ADDRESS}, this relay, must not send (-all)"),
        ("v=DMARC1; p=reject", "v=DMARC1; p=all", "DMARC", '_dmarc.example.test: p="all" is no policy'),
        ("id=1", "id=-", "MTA-STS", "_mta-sts.example.test is malformed, or there are several"),
        (
            "mailto:tls",
            "tls",
            "TLS-RPT",
            '_smtp._tls.example.test: rua="tls@example.test" is neither mailto: nor https:',
        ),
        ("TLSA 3 1 1 ", "TLSA 0 1 1 ", "DANE", "no TLSA record of mail.example.test can be used for mail"),
    ],
)
def test_one_record_that_is_not(world: World, old: str, new: str, subject: str, reason: str) -> None:
    zone = world.good_zone()
    assert old in zone
    world.publish(zone.replace(old, new))
    found = world.doctor("example.test")
    assert ("error", reason) in found[subject]


def test_a_certificate_that_the_tlsa_records_do_not_name(world: World) -> None:
    other, _ = ensure_certificate(world.folder / "other", ("mail.example.test",))
    world.publish(world.good_zone().replace(tlsa(world.certificate.read_bytes()), tlsa(other.read_bytes())))
    assert world.doctor("example.test")["DANE"] == [
        ("error", "mail.example.test: the certificate is not the one that the TLSA records name")
    ]


def test_tlsa_records_that_nobody_signed(world: World) -> None:
    world.publish(world.good_zone(), trust="insecure")
    assert world.doctor("example.test")["DANE"] == [
        ("error", "mail.example.test has TLSA records, and DNSSEC does not vouch for all of them and the MX")
    ]


def test_signatures_that_do_not_hold(world: World) -> None:
    world.publish(world.good_zone(), trust="expired")
    found = world.doctor("example.test")
    assert found["MX"][0][0] == "error"
    assert found["hostname"][0][0] == "warning"


def test_a_reverse_name_that_is_another_s(world: World) -> None:
    world.publish(world.good_zone(), back="25 60 IN PTR host25.provider.test.")
    assert world.doctor()["reverse name"] == [
        ("error", f"{ADDRESS} is said to be host25.provider.test, which does not lead back to it")
    ]


def test_a_policy_that_leaves_a_mail_host_out(world: World) -> None:
    world.publish(world.good_zone())
    world.dns.zone(
        "behind.test",
        '@ 60 IN MX 10 mail.example.test.\n_mta-sts 60 IN TXT "v=STSv1; id=1"\nmta-sts 60 IN A 127.0.0.1',
    )
    world.dns.zone("gone.test", '@ 60 IN MX 10 mail.example.test.\n_mta-sts 60 IN TXT "v=STSv1; id=1"')
    world.dns.publish()
    assert world.doctor("behind.test")["MTA-STS"] == [
        ("error", "the policy (mode: enforce) does not name mail.example.test")
    ]
    severity, reason = world.doctor("gone.test")["MTA-STS"][0]
    assert severity == "error"
    assert reason.startswith("the policy of gone.test cannot be had: ")


def test_name_servers_that_do_not_answer(world: World) -> None:
    text = world.file.read_text().replace(world.dns.server, f"127.0.0.1:{free_port()}")
    world.file.write_text(text)
    found = world.doctor("example.test")
    assert found["name servers"][0][0] == "error"
    assert found["hostname"][0][0] == "warning"
