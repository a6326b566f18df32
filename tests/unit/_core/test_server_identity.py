"""Who the client of a session is: by its connection, by a proxy's or a front host's word, by its certificate."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from angarium._core.client_terms import ClientTerms
from angarium._core.counters import Slot
from angarium._core.listener_profile import ListenerProfile
from tests.support.session import FakeSsl, Server, connections_of

GREETING = b"220 relay.example.org ESMTP Angarium\r\n"
DENIED = b"550 5.7.1 Relaying denied\r\n"
OFFER = b"250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n"
FRONT, CLIENT = "10.0.0.1", "192.0.2.9"


def relays(*addresses: str) -> Any:
    return lambda address: ClientTerms(may_relay=address in addresses)


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def rcpt(client: Any) -> bytes:
    """The reply to RCPT in a new transaction."""
    client.say(b"HELO c.example\r\n")
    client.say(b"MAIL FROM:<a@c.example>\r\n")
    reply: bytes = client.say(b"RCPT TO:<b@d.example>\r\n")
    client.say(b"RSET\r\n")
    return reply


def test_what_a_proxy_says_is_what_policies_and_limits_go_by() -> None:
    server = Server(policy=relays(CLIENT), connections_per_client=2)
    one = server.connect((FRONT, 1), client=CLIENT)
    other = server.connect((FRONT, 2), client="2001:db8::7")
    assert one.transport.take() == other.transport.take() == GREETING
    assert rcpt(one).startswith(b"250 ")
    assert rcpt(other) == DENIED
    assert connections_of(server, packed(CLIENT)) == 1
    assert connections_of(server, packed(FRONT)) == 0
    server.connect((FRONT, 3), client=CLIENT)
    full = server.connect((FRONT, 4), client=CLIENT)
    assert full.transport.take().startswith(b"421 4.7.0 ")
    for dialogue in (one, other, full):
        dialogue.transport.lose()
    assert connections_of(server, packed(CLIENT)) == 1


def test_a_connection_that_is_gone_already_is_no_unix_socket() -> None:
    server = Server(policy=relays(""))
    gone = server.connect(None)
    assert rcpt(gone) == DENIED
    assert server.asked == ["unknown"]
    assert rcpt(server.connect("")).startswith(b"250 ")


def test_xclient_changes_what_the_client_may() -> None:
    server = Server(policy=relays(FRONT), xclient=True)
    client = server.connect((FRONT, 1))
    assert rcpt(client).startswith(b"250 ")
    assert client.say(b"XCLIENT ADDR=192.0.2.9\r\n") == GREETING
    assert rcpt(client) == DENIED
    # a client of the front host's is not asked for by its address alone
    assert client.say(b"XCLIENT ADDR=10.0.0.1\r\n") == GREETING
    assert rcpt(client).startswith(b"250 ")
    assert client.say(b"XCLIENT ADDR=[UNAVAILABLE]\r\n") == GREETING
    assert rcpt(client) == DENIED


def test_xclient_counts_the_connection_for_the_other_client() -> None:
    server = Server(xclient=True, connections_per_client=1)
    first = server.connect((FRONT, 1))
    assert first.say(b"XCLIENT ADDR=192.0.2.9\r\n") == GREETING + GREETING
    assert (connections_of(server, packed(FRONT)), connections_of(server, packed(CLIENT))) == (0, 1)
    second = server.connect((FRONT, 2))
    assert second.say(b"XCLIENT ADDR=192.0.2.9\r\n").startswith(GREETING + b"421 4.7.0 ")
    assert second.closed
    assert server.value(Slot.INGRESS_REFUSED_CLIENT) == 1
    assert connections_of(server, packed(CLIENT)) == 1
    first.transport.lose()
    assert connections_of(server, packed(CLIENT)) == 0


def test_xclient_begins_a_session_of_its_own() -> None:
    """Errors, transactions, and a log-in of the host in front are not the client's."""
    server = Server(xclient=True, auth=(b"PLAIN",), errors=3, transactions=1)
    client = server.connect((FRONT, 1), tls=True)
    client.say(b"EHLO front.example\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\nFOO\r\nFOO\r\n")
    client.say(b"MAIL FROM:<a@c.example>\r\nRCPT TO:<b@d.example>\r\nDATA\r\nx: y\r\n.\r\n")
    assert client.say(b"XCLIENT ADDR=192.0.2.9\r\n") == GREETING
    assert client.say(b"FOO\r\nFOO\r\n").count(b"500 ") == 2
    said = client.say(b"EHLO c.example\r\nMAIL FROM:<a@c.example>\r\nRCPT TO:<b@d.example>\r\nDATA\r\nx: y\r\n.\r\n")
    assert b"250 2.0.0 queued as " in said
    assert [taken.envelope["login"] for taken in server.taken] == [b"user", b""]


def test_xclient_is_offered_by_the_address_of_the_connection() -> None:
    asked: list[str] = []

    def xclient(address: str) -> bool:
        asked.append(address)
        return address == FRONT

    server = Server()
    server.profile = ListenerProfile(
        hostname=b"relay.example.org", name=b"relay", client_policy=relays(), xclient=xclient
    )
    front, other = server.connect((FRONT, 1)), server.connect((CLIENT, 1))
    assert OFFER in front.say(b"EHLO x\r\n")
    assert OFFER not in other.say(b"EHLO x\r\n")
    front.say(b"XCLIENT ADDR=192.0.2.9\r\n")
    assert OFFER in front.say(b"EHLO x\r\n"), "who may speak for others is decided by the connection"
    assert asked == [FRONT, CLIENT]


class Policies:
    """What a profile is asked: who the certificate is, and what it may."""

    def __init__(self, certificate: object) -> None:
        self.certificate = certificate
        self.asked: list[tuple[str, str, object]] = []

    def certificate_of(self, address: str, ssl_object: FakeSsl) -> object:
        return self.certificate

    def identity(self, address: str, log_in: str, certificate: object) -> ClientTerms:
        self.asked.append((address, log_in, certificate))
        return ClientTerms(may_relay=certificate == "printer")


@pytest.mark.parametrize("implicit", [True, False])
def test_a_certificate_is_asked_for_at_the_handshake_and_gives_other_terms(implicit: bool) -> None:
    policies = Policies("printer")
    server = Server(
        policy=relays(),
        tls=True,
        identity_policy=policies.identity,
        client_certificate=policies.certificate_of,
    )
    client = server.connect((CLIENT, 1), tls=implicit)
    if not implicit:
        assert rcpt(client) == DENIED
        client.say(b"STARTTLS\r\n")
        client.handshake()
    assert client.session.certificate == "printer"
    assert rcpt(client).startswith(b"250 ")
    assert policies.asked == [(CLIENT, "", "printer")]


def test_without_a_certificate_nothing_more_is_granted() -> None:
    policies = Policies(None)
    server = Server(policy=relays(), identity_policy=policies.identity, client_certificate=policies.certificate_of)
    client = server.connect((CLIENT, 1), tls=True)
    assert client.session.certificate is None
    assert rcpt(client) == DENIED
    assert policies.asked == []


def test_the_certificate_of_a_host_in_front_is_not_its_clients() -> None:
    policies = Policies("printer")
    server = Server(
        policy=relays(),
        xclient=True,
        identity_policy=policies.identity,
        client_certificate=policies.certificate_of,
    )
    client = server.connect((FRONT, 1), tls=True)
    assert rcpt(client).startswith(b"250 ")
    assert client.say(b"XCLIENT ADDR=192.0.2.9 LOGIN=anna\r\n") == GREETING
    assert client.session.certificate is None
    assert policies.asked[-1] == (CLIENT, "anna", None)


def test_what_identities_may_is_remembered_until_the_configuration_changes() -> None:
    policies = Policies("printer")
    server = Server(policy=relays(), identity_policy=policies.identity, client_certificate=policies.certificate_of)
    for _ in range(3):
        server.connect((CLIENT, 1), tls=True)
    assert len(policies.asked) == 1
    server.profile.forget_clients()
    server.connect((CLIENT, 1), tls=True)
    assert len(policies.asked) == 2
