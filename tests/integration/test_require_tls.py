"""REQUIRETLS from the client to the next host and back in notifications (RFC 8689)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import Authority, self_signed
from tests.support.peers import EXTENSIONS, SinkServer
from tests.support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = b"Subject: for your eyes\r\n\r\nthe secret itself\r\n"
WITH = (*EXTENSIONS, "REQUIRETLS")


class Hosts:
    """A relay that offers REQUIRETLS, and next hops of all kinds behind domains of their own."""

    def __init__(self, folder: Path) -> None:
        root = Authority("Root CA")
        self.ca, _ = root.write(folder, "root")
        certificate, key = root.issue("relay.test").write(folder, "relay")
        good = root.issue("localhost").server_context(folder, name="good")
        stranger = self_signed("localhost").server_context(folder, name="stranger")
        self.sinks = {
            "good": SinkServer(tls=good, extensions=WITH),
            "without": SinkServer(tls=good),
            "stranger": SinkServer(tls=stranger, extensions=WITH),
            "plain": SinkServer(extensions=WITH),
            "sender": SinkServer(),
            "safe-sender": SinkServer(tls=good, extensions=WITH),
        }
        routes = [
            {"recipients": [f"{name}.test"], "next_hop": f"smtp://localhost:{sink.port}"}
            | ({"tls": "verify", "tls_ca": str(self.ca)} if name in {"good", "without"} else {})
            for name, sink in self.sinks.items()
        ]
        self.relay = Relay(
            folder,
            {
                "tls": {"certificate": str(certificate), "key": str(key)},
                "route": routes,
            },
        )

    def send(self, recipient: str, parameters: str = "REQUIRETLS", reverse_path: str = "s@sender.test") -> str:
        """One message over TLS."""
        with self.relay.client() as client:
            client.ehlo()
            client.start_tls()
            assert "REQUIRETLS" in client.ehlo()
            return client.send(reverse_path, [recipient], CONTENT, parameters)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    made = Hosts(tmp_path_factory.mktemp("require-tls"))
    for sink in made.sinks.values():
        sink.start()
    try:
        with made.relay:
            yield made
    finally:
        for sink in made.sinks.values():
            sink.stop()


def test_only_to_a_host_that_is_authenticated_and_offers_it(hosts: Hosts) -> None:
    """And other mail to the same domains goes as it always does, before and behind."""
    for name in ("good", "without", "stranger", "plain"):
        hosts.send(f"before@{name}.test", "")
        hosts.sinks[name].wait_mail(f"before@{name}.test")
    hosts.send("a@good.test")
    mail = hosts.sinks["good"].wait_mail("a@good.test")
    assert mail.tls
    assert "REQUIRETLS" in mail.parameters.split()
    assert mail.content.endswith(b"the secret itself\r\n")
    for name, status in (("without", "5.7.30"), ("stranger", "5.7.10"), ("plain", "5.7.10")):
        queue_id = hosts.send(f"a@{name}.test")
        event = hosts.relay.wait_event("bounce", id=queue_id)
        assert event["reply"]["enhanced"] == status, event
        assert "localhost[" in event["reply"]["text"]
        assert hosts.sinks[name].to(f"a@{name}.test") == []
        hosts.send(f"after@{name}.test", "")
        assert "REQUIRETLS" not in hosts.sinks[name].wait_mail(f"after@{name}.test").parameters
    assert hosts.sinks["stranger"].to("after@stranger.test")[0].tls
    assert not hosts.sinks["plain"].to("after@plain.test")[0].tls
    hosts.relay.wait_empty()


def test_its_notification_has_the_header_alone_and_asks_for_tls(hosts: Hosts) -> None:
    """Whatever RET said; and it is not held up where the sender's host does not offer REQUIRETLS (RFC 8689 §5)."""
    for sender, asked in (("sender", False), ("safe-sender", True)):
        hosts.send("gone@plain.test", "REQUIRETLS RET=FULL", f"{sender}@{sender}.test")
        notice = hosts.sinks[sender].wait_mail(f"{sender}@{sender}.test")
        assert notice.reverse_path == ""
        assert ("REQUIRETLS" in notice.parameters.split()) == asked
        assert notice.tls == asked
        assert b"Status: 5.7.10\r\n" in notice.content
        assert b"Subject: for your eyes" in notice.content
        assert b"text/rfc822-headers" in notice.content
        assert b"the secret itself" not in notice.content


def test_it_is_refused_in_plaintext(hosts: Hosts) -> None:
    with hosts.relay.client() as client:
        assert "REQUIRETLS" not in client.ehlo()
        client.expect(555, "MAIL FROM:<s@sender.test> REQUIRETLS")


def test_several_recipients_have_their_own_ways(hosts: Hosts) -> None:
    with hosts.relay.client() as client:
        client.ehlo()
        client.start_tls()
        client.ehlo()
        recipients = ["both@good.test", "both@plain.test", "both2@good.test"]
        queue_id = client.send("s@sender.test", recipients, CONTENT, "REQUIRETLS")
    hosts.sinks["good"].wait_mail("both@good.test")
    hosts.sinks["good"].wait_mail("both2@good.test")
    assert hosts.relay.wait_event("bounce", id=queue_id)["recipient"] == "both@plain.test"
    hosts.relay.wait_empty()
