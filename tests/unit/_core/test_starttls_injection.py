"""What a man in the middle puts behind STARTTLS in plaintext is never obeyed (RFC 3207 §6), on any role."""

from __future__ import annotations

from typing import Any

import pytest

from angarium._core.counters import Slot
from tests.support.session import Server, ServerDialogue

ROLES: dict[str, dict[str, Any]] = {
    "relay": {},
    "submission": {"may_relay": False, "authentication_required": True, "auth": (b"PLAIN",)},
    "inbound": {"may_relay": False, "domains": (b"ours.example",)},
    "inbound by LMTP": {"may_relay": False, "domains": (b"ours.example",), "lmtp": True},
}
INJECTED = {
    "a greeting": b"EHLO evil.test\r\nLHLO evil.test\r\n",
    "a transaction": (
        b"EHLO evil.test\r\nMAIL FROM:<evil@evil.test>\r\nRCPT TO:<x@ours.example>\r\nDATA\r\nx: y\r\n.\r\n"
    ),
    "half a transaction": b"EHLO evil.test\r\nMAIL FROM:<evil@evil.test>\r\nRCPT TO:<x@ours.example>\r\nDATA\r\n",
    "a chunk": b"EHLO evil.test\r\nMAIL FROM:<evil@evil.test>\r\nRCPT TO:<x@ours.example>\r\nBDAT 1000 LAST\r\nx: y",
    "a log-in": b"EHLO evil.test\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\n",
    "half a command": b"NOO",
    "half a line end": b"NOOP\r",
    "an empty line": b"\r\n",
    "the end": b"QUIT\r\n",
    "another STARTTLS": b"STARTTLS\r\n",
    "nonsense": b"\0\xff" * 500 + b"\n",
    "a long line": b"x" * 5000,
    "much": b"NOOP\r\n" * 20_000,
}
PIECES = {"in one read": 0, "octet by octet": 1}
NOT_KNOWN = b"500 5.5.2 Command not recognized\r\n"


def stand(role: str) -> ServerDialogue:
    """A session that has greeted in plaintext."""
    server = Server(tls=True, errors=0, **ROLES[role])
    client = server.connect()
    client.say(greeting(role))
    return client


def greeting(role: str) -> bytes:
    return b"LHLO client.example\r\n" if ROLES[role].get("lmtp") else b"EHLO client.example\r\n"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("how", [*PIECES, "in the next read"])
@pytest.mark.parametrize("what", INJECTED)
def test_it_is_thrown_away(role: str, how: str, what: str) -> None:
    client = stand(role)
    plain = client.transport
    if how == "in the next read":
        plain.deliver(b"STARTTLS\r\n")
        plain.deliver(INJECTED[what])
    else:
        octets = INJECTED[what][:2000] if PIECES[how] else INJECTED[what]
        plain.deliver(b"STARTTLS\r\n" + octets, PIECES[how])
    client.run()
    assert plain.take() == b"220 2.0.0 Ready to start TLS\r\n"
    client.handshake()
    assert client.transport.take() == b""
    # neither the other half of a command nor the state of before
    assert client.say(b"P\r\n") == NOT_KNOWN
    assert client.say(b"\r\n") == NOT_KNOWN
    assert client.say(b"MAIL FROM:<a@client.example>\r\n").startswith(b"503 5.5.1 Send ")
    assert client.say(b"RSET\r\n") == b"250 2.0.0 OK\r\n"
    assert client.say(greeting(role)).startswith(b"250-relay.example.org\r\n")
    assert client.server.taken == []
    assert client.server.value(Slot.INGRESS_AUTH_OK) == client.server.value(Slot.INGRESS_AUTH_FAILED) == 0
    assert client.server.value(Slot.INGRESS_COMMANDS_TOTAL) == 7
    assert not client.closed


@pytest.mark.parametrize("role", ROLES)
def test_what_was_said_in_plaintext_counts_for_nothing_behind_the_handshake(role: str) -> None:
    client = stand(role)
    client.say(b"STARTTLS\r\n")
    client.handshake()
    for line in (b"MAIL FROM:<a@client.example>", b"RCPT TO:<x@ours.example>", b"DATA", b"AUTH PLAIN", b"STARTTLS"):
        assert client.say(line + b"\r\n").startswith(b"503 5.5.1 Send "), line


@pytest.mark.parametrize("role", ["relay", "inbound"])
def test_a_recipient_that_is_being_verified_keeps_starttls_out_and_its_answer_too(role: str) -> None:
    """Within a transaction there is no STARTTLS, pipelined behind a RCPT that waits or not."""
    settings = {**ROLES[role], "domains": (b"ours.example",), "known": (b"x@ours.example",)}
    client = Server(tls=True, commit="later", **settings).connect()
    client.say(b"EHLO client.example\r\n")
    said = client.say(
        b"MAIL FROM:<a@client.example>\r\nRCPT TO:<x@ours.example>\r\nSTARTTLS\r\nRCPT TO:<x@ours.example>\r\n"
    )
    assert [line[:3] for line in said.splitlines()] == [b"250", b"250", b"503", b"250"]
    assert client.server.handshakes == []
