"""TLS policies against real next hops: what a host has to show, what this relay shows it, what happens otherwise."""

from __future__ import annotations

import ssl
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.certificates import Authority, Issued, self_signed
from tests.support.peers import Postfix, SinkServer
from tests.support.relay import Relay

if TYPE_CHECKING:
    from pathlib import Path


class Parties:
    """Certificates for "localhost", good and bad."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = Authority("Root CA")
        self.ca, _ = self.root.write(folder, "root")
        self.made: dict[str, Issued] = {
            "good": self.root.issue("localhost"),
            "expired": self.root.issue("localhost", days=(-20, -10)),
            "other": self.root.issue("other.test"),
            "stranger": self_signed("localhost"),
        }

    def context(self, name: str) -> ssl.SSLContext:
        return self.made[name].server_context(self.folder, [self.root], name)


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory) -> Parties:
    return Parties(tmp_path_factory.mktemp("certificates"))


def settings_of(parties: Parties, words: str) -> dict[str, Any]:
    """`tls` and its settings as a route has them."""
    level, *rest = words.split()
    settings: dict[str, Any] = {"tls": level}
    for word in rest:
        key, _, value = word.partition("=")
        match key:
            case "ca":
                settings["tls_ca"] = str(parties.ca)
            case "name":
                settings["tls_name"] = value
            case "certificate" | "key":
                fingerprint = parties.made[value].fingerprint(of_key=key == "key")
                settings["tls_fingerprints"] = ["00" * 32, ":".join(fingerprint[i : i + 2] for i in range(0, 64, 2))]
    return settings


CASES = {
    # a route's settings, the host's certificate: what was reached, or why not
    "verified": ("verify ca", "good", "webpki"),
    "by another name": ("verify ca name=other.test", "other", "webpki"),
    "expired": ("verify ca", "expired", "certificate-expired"),
    "wrong name": ("verify ca", "other", "certificate-host-mismatch"),
    "self-signed": ("verify ca", "stranger", "certificate-not-trusted"),
    "unknown CA": ("verify", "good", "certificate-not-trusted"),
    "listed certificate": ("fingerprint certificate=stranger", "stranger", "fingerprint"),
    "listed key": ("fingerprint key=expired", "expired", "fingerprint"),
    "not listed": ("fingerprint certificate=good key=good", "stranger", "validation-failure"),
}


def test_what_a_host_has_to_show(parties: Parties, tmp_path: Path) -> None:
    sinks = {case: SinkServer(tls=parties.context(certificate)) for case, (_, certificate, _) in CASES.items()}
    routes = [
        {"recipients": [f"{number}.test"], "next_hop": f"smtp://localhost:{sinks[case].port}", "name": f"r{number}"}
        | settings_of(parties, CASES[case][0])
        for number, case in enumerate(CASES)
    ]
    for sink in sinks.values():
        sink.start()
    try:
        with Relay(tmp_path, {"route": routes}) as relay:
            for number, (case, (words, _, outcome)) in enumerate(CASES.items()):
                queue_id = relay.send(f"a@{number}.test")
                if outcome in {"webpki", "fingerprint"}:
                    assert sinks[case].wait_mail(f"a@{number}.test").tls
                    continue
                failed = relay.wait_event("tls_failed", reason=outcome, source=f'route "r{number}"')
                assert failed["policy"] == words.split()[0]
                assert failed["then"] == "next host"
                deferral = relay.wait_event("deferral", id=queue_id)
                assert deferral["reply"]["enhanced"] == "4.7.5"
                assert f'of route "r{number}"' in deferral["reply"]["text"]
                assert sinks[case].mails == []
                assert sinks[case].count("MAIL") == 0
                assert sinks[case].count("EHLO") <= sinks[case].connections  # none under TLS
            metrics = relay.metrics()
            reached = 'angarium_delivery_tls_connections_total{level="%s"}'
            assert metrics[reached % "webpki"] == 2
            assert metrics[reached % "fingerprint"] == 2
            assert metrics[reached % "plaintext"] == metrics[reached % "encrypted"] == 0
            assert metrics['angarium_delivery_tls_failures_total{reason="certificate_expired"}'] >= 1
    finally:
        for sink in sinks.values():
            sink.stop()


def test_the_name_and_the_certificate_that_this_relay_shows(parties: Parties, tmp_path: Path) -> None:
    asked: list[str | None] = []
    context = parties.context("good")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(parties.ca)
    context.sni_callback = lambda secured, name, of: asked.append(name)
    own = parties.root.issue("relay.test", extended=())
    certificate, key = own.write(tmp_path, "client")
    with SinkServer(tls=context) as sink:
        shown = {"tls": "require", "tls_certificate": str(certificate), "tls_key": str(key)}
        hop = {"next_hop": f"smtp://localhost:{sink.port}"}
        routes = [{"recipients": ["shown.test"]} | hop | shown, {"recipients": ["*"], "tls": "require"} | hop]
        with Relay(tmp_path / "relay", {"route": routes}) as relay:
            relay.send("a@shown.test")
            assert sink.wait_mail("a@shown.test").tls
            queue_id = relay.send("a@hidden.test")  # TLS 1.3 lets the client go on until the server has looked
            assert relay.wait_event("deferral", id=queue_id)["reply"]["code"] == 451
            assert sink.to("a@hidden.test") == []
    assert set(asked) == {"localhost"}


def test_postfix_over_verified_tls_with_a_client_certificate(parties: Parties, tmp_path: Path) -> None:
    chain, key = parties.made["good"].write(tmp_path, "postfix", [parties.root])
    own_chain, own_key = parties.root.issue("relay.test", common_name="relay.test", extended=()).write(tmp_path, "own")
    settings = {
        "smtpd_tls_security_level": "encrypt",
        "smtpd_tls_chain_files": f"{key}, {chain}",
        "smtpd_tls_CAfile": str(parties.ca),
        "smtpd_tls_req_ccert": "yes",
        "smtpd_tls_received_header": "yes",
        "smtpd_tls_session_cache_database": "",
    }
    with Postfix(settings=settings) as postfix:
        route = {
            "recipients": ["*"],
            "next_hop": f"smtp://localhost:{postfix.port}",
            "tls": "verify",
            "tls_ca": str(parties.ca),
            "tls_certificate": str(own_chain),
            "tls_key": str(own_key),
        }
        with Relay(tmp_path / "relay", {"route": [route]}) as relay:
            queue_id = relay.send("king@one.postfix.test")
            relay.wait_event("delivery", id=queue_id)
            relay.wait(postfix.arrived, "the mail in Postfix's Maildir")
        (mail,) = postfix.arrived()
        assert b"using TLSv1.3" in mail
        assert b'Client CN "relay.test"' in mail
        assert b"(verified OK)" in mail


def test_a_host_that_knows_old_ciphers_only(parties: Parties, tmp_path: Path) -> None:
    """Opportunistic mail goes to it under TLS 1.2 rather than in plaintext; one of TLS 1.1 gets plaintext."""
    context = parties.root.issue("localhost", kind="rsa").server_context(tmp_path)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")
    ancient = parties.root.issue("localhost", kind="rsa").server_context(tmp_path, name="ancient")
    ancient.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        ancient.minimum_version = ancient.maximum_version = ssl.TLSVersion.TLSv1_1
    with SinkServer(tls=context) as old, SinkServer(tls=ancient) as older:
        routes = [{"recipients": [f"{name}.test"], "next_hop": sink.url} for name, sink in (("a", old), ("b", older))]
        with Relay(tmp_path / "relay", {"route": routes}) as relay:
            queue_id = relay.send("x@a.test")
            assert old.wait_mail("x@a.test").tls
            assert relay.wait_event("delivery", id=queue_id)["tls"]["version"] == "TLSv1.2"
            relay.send("x@b.test")
            assert not older.wait_mail("x@b.test").tls


def test_broken_tls_costs_one_handshake(tmp_path: Path) -> None:
    """Opportunistic: the next connections to the host begin in plaintext, and that is said once."""
    broken = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # without a certificate
    with SinkServer(tls=broken) as sink:
        config = {
            "delivery": {"messages_per_connection": 1},
            "route": [{"recipients": ["*"], "next_hop": sink.url}],
        }
        with Relay(tmp_path, config) as relay:
            for number in range(4):
                relay.send(f"{number}@dest.test")
                assert not sink.wait_mail(f"{number}@dest.test").tls
            assert sink.count("STARTTLS") == 1
            assert relay.wait_event("tls_failed")["then"] == "plaintext"
            relay.wait_event("delivery", recipient="3@dest.test")
            assert len(relay.events("tls_failed")) == 1
            assert relay.metrics()['angarium_delivery_tls_connections_total{level="plaintext"}'] >= 4


def test_a_reload_changes_what_is_asked_of_waiting_mail(parties: Parties, tmp_path: Path) -> None:
    with SinkServer() as sink:
        route = {"recipients": ["*"], "next_hop": sink.url}
        with Relay(tmp_path, {"route": [route | {"tls": "require"}]}) as relay:
            queue_id = relay.send("a@dest.test")
            assert relay.wait_event("deferral", id=queue_id)["reply"]["enhanced"] == "4.7.10"
            assert sink.mails == []
            relay.reload({"route": [route]})
            assert not sink.wait_mail("a@dest.test").tls
