"""DANE end to end: a signed zone behind a validating resolver, mail hosts with good, wrong and missing TLSA records.

Also what a message says of it itself: REQUIRETLS and `TLS-Required: No` (RFC 8689).
"""

from __future__ import annotations

import json
import os
import random
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pytest

from tests.support.certificates import Authority, Issued, self_signed
from tests.support.peers import EXTENSIONS, SinkServer, Step
from tests.support.ports import is_free
from tests.support.relay import Relay, run_command
from tests.support.zone import SignedDns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = b"Subject: over DANE\r\n\r\nhello\r\n"
LAX = b"TLS-Required: No\r\n" + CONTENT

# A mail host's certificate; its TLSA record: usage, selector, matching type, and whose it is.
Certificate = Literal["own", "signed", "expired", "other", "none", "broken", "refused"]


@dataclass(frozen=True)
class Case:
    """A domain with one mail host, and what comes of mail to it."""

    certificate: Certificate
    record: tuple[int, int, int, Literal["host", "root", "stranger"]] | None
    outcome: str  # what the connection reached, or the reason of the deferral
    trust: Literal["secure", "insecure"] = "secure"


CASES = {
    "ee-key": Case("own", (3, 1, 1, "host"), "dane"),
    "ee-certificate": Case("own", (3, 0, 2, "host"), "dane"),
    "ee-expired": Case("expired", (3, 1, 1, "host"), "dane"),
    "ee-other-name": Case("other", (3, 1, 1, "host"), "dane"),
    "ta": Case("signed", (2, 0, 1, "root"), "dane"),
    "ta-key": Case("signed", (2, 1, 1, "root"), "dane"),
    "ee-wrong": Case("own", (3, 1, 1, "stranger"), "tlsa-invalid"),
    "ta-wrong": Case("signed", (2, 0, 1, "stranger"), "tlsa-invalid"),
    "ta-expired": Case("expired", (2, 0, 1, "root"), "certificate-expired"),
    "ta-other-name": Case("other", (2, 0, 1, "root"), "certificate-host-mismatch"),
    "stripped": Case("none", (3, 1, 1, "stranger"), "starttls-not-supported"),
    "refused": Case("refused", (3, 1, 1, "stranger"), "starttls-not-supported"),
    "broken": Case("broken", (3, 1, 1, "stranger"), "validation-failure"),
    "missing": Case("own", None, "none"),
    "missing-and-plain": Case("none", None, "plaintext"),
    "insecure": Case("own", (3, 1, 1, "stranger"), "none", "insecure"),
    "unusable": Case("own", (1, 1, 1, "stranger"), "none"),
    "unusable-and-plain": Case("none", (0, 0, 1, "stranger"), "starttls-not-supported"),
    "mandatory": Case("own", None, "dane-required"),
    "forbidden": Case("own", (3, 1, 1, "stranger"), "plaintext"),
}
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mail hosts listen on port 25 of 127.0.x.y: needs root")


def addresses() -> dict[str, str]:
    """An address for each host, in a part of 127.0.0.0/16 where nobody else has a port 25."""
    names = [*CASES, "second", "listed"]
    for part in random.sample(range(20, 250), 20):
        found = {name: f"127.0.{part}.{number}" for number, name in enumerate(names, 1)}
        if all(is_free(address, 25) for address in found.values()):
            return found
    pytest.skip("no addresses of this machine are free for mail hosts")


class World:
    """The zones, the hosts, the relay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = addresses()
        self.root = Authority("Root CA")
        self.stranger = self_signed("stranger.test")
        self.asked: list[str | None] = []
        self.hosts: dict[str, SinkServer] = {}
        self.zones: dict[str, str] = {}
        for name, case in CASES.items():
            self.add(name, case)
        # nobody vouches for the names of this one, but its certificate is listed
        self.listed = self_signed("mx.listed.test")
        self.hosts["listed"] = SinkServer(
            host=self.address["listed"],
            port=25,
            tls=self.listed.server_context(folder, name="listed"),
            extensions=(*EXTENSIONS, "REQUIRETLS"),
        )
        self.zones["listed.test"] = f"@ 60 IN MX 10 mx\nmx 60 IN A {self.address['listed']}\n"
        # the first of two hosts is somebody else
        second = self_signed("mx2.two.test")
        self.hosts["second"] = SinkServer(
            host=self.address["second"], port=25, tls=second.server_context(folder, name="second")
        )
        self.zones["two.test"] = (
            f"@ 60 IN MX 10 mx.ee-wrong.test.\n@ 60 IN MX 20 mx2\nmx2 60 IN A {self.address['second']}\n"
            f"_25._tcp.mx2 60 IN TLSA 3 1 1 {second.tlsa_data(1, 1).hex()}\n"
        )

    def add(self, name: str, case: Case) -> None:
        host = f"mx.{name}.test"
        issued = self.issue(case.certificate, host)
        context: ssl.SSLContext | None = None
        if case.certificate == "broken":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # it has no certificate to show
        elif issued is not None:
            context = issued.server_context(self.folder, [self.root], name)
            context.sni_callback = lambda secured, asked, of: self.asked.append(asked)
        extensions = (*EXTENSIONS, "REQUIRETLS", *(("STARTTLS",) if case.certificate == "refused" else ()))
        answer = no_tls_now if case.certificate == "refused" else None
        self.hosts[name] = SinkServer(
            host=self.address[name], port=25, tls=context, extensions=extensions, answer=answer
        )
        zone = f"@ 60 IN MX 10 mx\nmx 60 IN A {self.address[name]}\n"
        if case.record is not None:
            usage, selector, matching, whose = case.record
            of = {"root": self.root, "stranger": self.stranger, "host": issued or self.stranger}[whose]
            zone += f"_25._tcp.mx 60 IN TLSA {usage} {selector} {matching} {of.tlsa_data(selector, matching).hex()}\n"
        self.zones[f"{name}.test"] = zone

    def issue(self, kind: Certificate, host: str) -> Issued | None:
        match kind:
            case "own":
                return self_signed(host)
            case "signed":
                return self.root.issue(host)
            case "expired":
                return self.root.issue(host, days=(-20, -10))
            case "other":
                return self.root.issue("elsewhere.test")
        return None

    def send(self, recipient: str, parameters: str = "", content: bytes = CONTENT) -> str:
        with self.relay.client() as client:
            client.ehlo()
            client.start_tls()
            client.ehlo()
            return client.send("s@sender.test", [recipient], content, parameters)


def no_tls_now(step: Step) -> str | None:
    return "454 4.7.0 TLS not available" if step.verb == "STARTTLS" else None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("dane"))
    certificate, key = made.root.issue("relay.test").write(made.folder, "relay")
    with SignedDns() as dns:
        for name, zone in made.zones.items():
            case = CASES.get(name.removesuffix(".test"))
            trust = case.trust if case else "insecure" if name == "listed.test" else "secure"
            dns.zone(name, zone, trust=trust)
        dns.publish()
        config = {
            "dns": {"servers": [dns.server], "dnssec": "trust-ad"},
            "delivery": {"never_contact": []},
            "tls": {"certificate": str(certificate), "key": str(key)},
            "route": [{"recipients": ["sender.test"], "next_hop": "discard:"}],
            "tls_policy": [
                {"domains": ["mandatory.test"], "tls": "dane"},
                {"domains": ["forbidden.test"], "tls": "none"},
                {"domains": ["listed.test"], "tls": "fingerprint", "tls_fingerprints": [made.listed.fingerprint()]},
            ],
        }
        for host in made.hosts.values():
            host.start()
        try:
            with Relay(made.folder / "relay", config) as relay:
                made.relay = relay
                yield made
        finally:
            for host in made.hosts.values():
                host.stop()


@pytest.mark.parametrize("name", CASES)
def test_what_a_host_s_records_ask_for(world: World, name: str) -> None:
    case, host = CASES[name], world.hosts[name]
    queue_id = world.send(f"a@{name}.test")
    if case.outcome in {"dane", "none", "plaintext"}:
        mail = host.wait_mail(f"a@{name}.test")
        assert mail.tls == (case.outcome != "plaintext")
        event = world.relay.wait_event("delivery", id=queue_id)
        assert event.get("tls", {}).get("authentication", "plaintext") == case.outcome
        if mail.tls:
            assert f"mx.{name}.test" in world.asked
            assert event["tls"]["version"] == "TLSv1.3"
        return
    failed = world.relay.wait_event("tls_failed", host=f"mx.{name}.test")
    assert (failed["reason"], failed["then"]) == (case.outcome, "next host")
    deferral = world.relay.wait_event("deferral", id=queue_id)
    assert deferral["reply"]["enhanced"].startswith("4.7.")
    assert f"mx.{name}.test[{world.address[name]}]:25" in deferral["reply"]["text"]
    assert "TLS policy" in deferral["reply"]["text"]
    assert host.mails == []
    assert host.count("MAIL") == 0


def test_what_was_reached_is_counted(world: World) -> None:
    for name, case in CASES.items():
        if case.outcome == "dane":
            world.send(f"counted@{name}.test")
            world.hosts[name].wait_mail(f"counted@{name}.test")
    metrics = world.relay.metrics()
    dane = sum(case.outcome == "dane" for case in CASES.values())
    assert metrics['angarium_delivery_tls_connections_total{level="dane"}'] >= dane


def test_the_next_host_is_tried(world: World) -> None:
    world.send("a@two.test")
    assert world.hosts["second"].wait_mail("a@two.test").tls
    assert world.hosts["ee-wrong"].to("a@two.test") == []


def test_a_host_that_a_route_names(world: World, tmp_path: Path) -> None:
    """With "dane" it is looked up in DNS, and the records are those of its port (RFC 7672 §2.2.2)."""
    certificate = self_signed("relay.smart.test")
    with SignedDns() as dns, SinkServer(tls=certificate.server_context(tmp_path)) as sink:
        good = f"_{sink.port}._tcp.{{}} 60 IN TLSA 3 1 1 {certificate.tlsa_data(1, 1).hex()}\n"
        bad = f"_{sink.port}._tcp.{{}} 60 IN TLSA 3 1 1 {world.stranger.tlsa_data(1, 1).hex()}\n"
        zone = "".join(f"{name} 60 IN A 127.0.0.1\n" for name in ("relay", "wrong", "without"))
        dns.zone("smart.test", zone + good.format("relay") + bad.format("wrong"))
        dns.zone("plain.test", "relay 60 IN A 127.0.0.1\n" + good.format("relay"), trust="insecure")
        dns.publish()
        hosts = {
            "relay.smart.test": None,
            "wrong.smart.test": "tlsa-invalid",
            "without.smart.test": "dane-required",
            "relay.plain.test": "dane-required",
            "nobody.smart.test": "dane-required",
        }
        routes = [
            {"recipients": [f"{number}.test"], "next_hop": f"smtp://{host}:{sink.port}", "tls": "dane"}
            for number, host in enumerate(hosts)
        ]
        config = {"dns": {"servers": [dns.server], "dnssec": "trust-ad"}, "route": routes}
        with Relay(tmp_path / "relay", config) as relay:
            for number, (host, reason) in enumerate(hosts.items()):
                queue_id = relay.send(f"a@{number}.test")
                if reason is None:
                    assert sink.wait_mail(f"a@{number}.test").tls
                    assert relay.wait_event("delivery", id=queue_id)["tls"]["authentication"] == "dane"
                    continue
                deferral = relay.wait_event("deferral", id=queue_id)
                assert host in deferral["reply"]["text"]
                assert relay.wait_event("tls_failed", host=host)["reason"] == reason
            assert len(sink.mails) == 1


def test_tls_required_no_goes_where_dane_would_have_it_wait(world: World) -> None:
    """And mail beside it to the same domain still waits."""
    for name in ("ee-wrong", "stripped"):
        waiting = world.send(f"strict@{name}.test")
        world.send(f"lax@{name}.test", content=LAX)
        mail = world.hosts[name].wait_mail(f"lax@{name}.test")
        assert mail.tls == (name == "ee-wrong")  # TLS is tried
        assert b"TLS-Required: No" in mail.content
        world.relay.wait_event("deferral", id=waiting)
        assert world.hosts[name].to(f"strict@{name}.test") == []


def test_requiretls_with_secure_names_and_records(world: World) -> None:
    """It goes by DANE; the header field that says the opposite counts for nothing."""
    world.send("required@ee-key.test", "REQUIRETLS", LAX)
    mail = world.hosts["ee-key"].wait_mail("required@ee-key.test")
    assert mail.tls
    assert "REQUIRETLS" in mail.parameters.split()
    world.send("required@listed.test", "REQUIRETLS")
    assert "REQUIRETLS" in world.hosts["listed"].wait_mail("required@listed.test").parameters.split()
    for name in ("insecure", "missing", "ee-wrong", "stripped"):
        queue_id = world.send(f"required@{name}.test", "REQUIRETLS", LAX)
        event = world.relay.wait_event("bounce", id=queue_id)
        assert event["reply"]["enhanced"] == "5.7.10", event
        assert world.hosts[name].to(f"required@{name}.test") == []


@pytest.mark.parametrize(
    ("name", "level", "source"),
    [
        ("ee-key", "dane", "the TLSA records of mx.ee-key.test"),
        ("missing", "opportunistic", "delivery.tls"),
        ("unusable", "require", "the TLSA records of mx.unusable.test"),
        ("forbidden", "none", "tls_policy[1]"),
    ],
)
def test_explain_says_which_policy_holds_and_why(world: World, name: str, level: str, source: str) -> None:
    answer = world.relay.api(f"explain?address=a@{name}.test")
    assert answer["dns"]["secure"]
    (host,) = answer["hosts"]
    assert (host["tls"], host["refused"]) == ({"level": level, "source": source}, None)


def test_explain_tries_a_host_as_its_policy_asks(world: World) -> None:
    admin = ("--admin", f"127.0.0.1:{world.relay.admin_port}", "--json")
    good = json.loads(run_command("explain", "a@ee-key.test", "--try", *admin).stdout)["trial"]
    assert good["accepted"]
    assert good["tls"].startswith("TLSv1.")
    done = run_command("explain", "a@ee-wrong.test", "--try", *admin)
    bad = json.loads(done.stdout)["trial"]
    assert (done.returncode, bad["dialogue"], bad["failure"]) == (1, [], "no host could be used")
    assert "TLSA records" in bad["hosts"][0]["failure"]
    (refused,) = json.loads(run_command("explain", "a@mandatory.test", *admin).stdout)["hosts"]
    assert "no TLSA records" in refused["refused"]
