"""No stranger gets mail through to anywhere else, whatever the address looks like, on any role, by SMTP and LMTP."""

from __future__ import annotations

from typing import Any

import pytest

from angarium._core.counters import Slot
from tests.support.relay_tricks import CHUNK_ENDS, ENDS, HARMLESS, TRICKS, smuggling
from tests.support.session import Server, ServerDialogue

ROLES: dict[str, dict[str, Any]] = {
    "relay": {},
    "relay by LMTP": {"lmtp": True},
    "submission": {"authentication_required": True, "auth": (b"PLAIN",)},
    "inbound": {"domains": (b"ours.example",)},
    "inbound by LMTP": {"domains": (b"ours.example",), "lmtp": True},
    # whatever the mailbox host says: it may well take the local part for an address
    "inbound, all of it verified": {"domains": (b"ours.example",), "known": (), "commit": "sync"},
}
STRANGER = ("203.0.113.7", 40000)
by_role = pytest.mark.parametrize("role", ROLES)


class Gullible(tuple[bytes, ...]):
    """A mailbox host that knows everybody."""

    __slots__ = ()

    def __contains__(self, mailbox: object) -> bool:
        return True

    def __bool__(self) -> bool:
        return True


def dialogue(role: str, *, may_relay: bool = False, tls: bool = False, **more: Any) -> ServerDialogue:
    settings = {"errors": 0, "may_relay": may_relay, **ROLES[role], **more}
    if "known" in settings:
        settings["known"] = Gullible()
    client = Server(**settings).connect(STRANGER, tls=tls)
    client.say(b"LHLO scanner.example\r\n" if settings.get("lmtp") else b"EHLO scanner.example\r\n")
    return client


def offer(client: ServerDialogue, trick: str) -> list[bytes]:
    """The replies to RCPT."""
    client.say(b"MAIL FROM:<scanner@scanner.example>%s\r\n" % (b"" if trick.isascii() else b" SMTPUTF8"))
    said = client.say(b"RCPT TO:" + trick.encode() + b"\r\n")
    if not any(line.startswith(b"250 ") for line in said.splitlines()):
        assert client.say(b"DATA\r\n").startswith(b"503 ")
    assert client.say(b"RSET\r\n") == b"250 2.0.0 OK\r\n"
    return said.splitlines()


def test_there_are_enough_tricks() -> None:
    assert len({trick for _, trick in TRICKS}) == len(TRICKS) >= 100


@by_role
def test_no_trick_relays(role: str) -> None:
    client = dialogue(role)
    for kind, trick in TRICKS:
        replies = offer(client, trick)
        assert replies
        assert all(reply[:1] == b"5" for reply in replies), f"{kind}: {trick!r}: {replies}"
    assert client.server.taken == []


@by_role
def test_no_trick_relays_for_a_stranger_under_tls_either(role: str) -> None:
    client = dialogue(role, tls=True)
    for kind, trick in TRICKS:
        assert all(reply[:1] == b"5" for reply in offer(client, trick)), f"{kind}: {trick!r}"


@pytest.mark.parametrize("role", ["relay", "relay by LMTP", "inbound", "inbound by LMTP"])
def test_who_may_relay_is_refused_none_of_them_for_relaying(role: str) -> None:
    client = dialogue(role, may_relay=True)
    taken = 0
    for _, trick in TRICKS:
        replies = offer(client, trick)
        assert not any(b" 5.7." in reply for reply in replies), trick
        taken += replies[0].startswith(b"250 ")
    assert taken > 50  # the others are no addresses


@pytest.mark.parametrize("role", [role for role in ROLES if role.startswith("inbound")])
def test_what_is_odd_and_ours_is_taken(role: str) -> None:
    for trick, recipient in HARMLESS:
        client = dialogue(role)
        client.say(b"MAIL FROM:<a@client.example>%s\r\n" % (b"" if trick.isascii() else b" SMTPUTF8"))
        assert client.say(b"RCPT TO:" + trick.encode() + b"\r\n").startswith(b"250 "), trick
        assert client.say(b"DATA\r\n").startswith(b"354 ")
        assert client.say(b"x: y\r\n\r\n.\r\n").startswith(b"250 ")
        (taken,) = client.server.taken
        assert taken.envelope["recipients"] == [(recipient.encode(), 0, b"")]


@by_role
def test_a_stranger_may_not_send_to_postmaster_of_somewhere_else(role: str) -> None:
    client = dialogue(role)
    replies = offer(client, "<postmaster@evil.test>") + offer(client, "<Postmaster@[203.0.113.9]>")
    assert all(reply[:1] == b"5" for reply in replies)


# ---------------------------------------------------------------- smuggling (CVE-2023-51764 and its family)

OFFERS = {"relay": {"may_relay": True}, "inbound": {}, "inbound by LMTP": {}}
by_offer = pytest.mark.parametrize("role", OFFERS)
by_end = pytest.mark.parametrize("end", ENDS, ids=lambda end: repr(end)[2:-1])


def begin(role: str, **more: Any) -> ServerDialogue:
    client = dialogue(role, **{**OFFERS[role], **more})
    client.say(b"MAIL FROM:<a@client.example>\r\nRCPT TO:<x@ours.example>\r\n")
    return client


def only_message(client: ServerDialogue, mark: bytes) -> bytes:
    """What was taken: one message to x, in which all of it is, or none. The session goes on as if nothing had been."""
    assert client.say(b"NOOP\r\n") == b"250 2.0.0 OK\r\n"
    assert len(client.server.taken) <= 1
    value = client.server.value
    replies = [value(slot) for slot in (Slot.INGRESS_REPLIES_2XX, Slot.INGRESS_REPLIES_4XX, Slot.INGRESS_REPLIES_5XX)]
    assert value(Slot.INGRESS_COMMANDS_TOTAL) == sum(replies)  # DATA has two, of which one is its 354
    for taken in client.server.taken:
        assert taken.envelope["recipients"] == [(b"x@ours.example", 0, b"")]
        assert mark in taken.mail_data
        assert taken.mail_data.count(b"smuggled@ours.example") == 1
        return taken.mail_data
    return b""


def test_there_are_enough_ends() -> None:
    assert len(set(ENDS)) == len(ENDS) >= 35


@by_offer
@by_end
def test_an_end_that_is_none_lets_nothing_in(role: str, end: bytes) -> None:
    client = begin(role)
    client.say(b"DATA\r\n")
    content = smuggling(end, b"one", b"ours.example")
    reply = client.say(content + b".\r\n")
    whole = only_message(client, b"Subject: one")
    bare = b"\n" in content.replace(b"\r\n", b"") or b"\r" in content.replace(b"\r\n", b"")
    assert reply.startswith(b"554 5.6.0 " if bare else b"250 2.0.0 ")
    assert reply.count(b"\r\n") == 1
    assert bool(whole) is not bare
    if whole:  # but for the stuffing, as it came
        assert whole.endswith(content.replace(b"\r\n.", b"\r\n"))


@by_offer
@by_end
def test_what_is_repaired_is_one_message(role: str, end: bytes) -> None:
    client = begin(role, bare_newlines=True)
    client.say(b"DATA\r\n")
    reply = client.say(smuggling(end, b"one", b"ours.example") + b".\r\n")
    assert reply.startswith(b"250 2.0.0 ")
    whole = only_message(client, b"Subject: one")
    assert b"\r" not in whole.replace(b"\r\n", b"")
    assert b"\n" not in whole.replace(b"\r\n", b"")


@by_offer
@pytest.mark.parametrize("end", CHUNK_ENDS, ids=lambda end: repr(end)[2:-1])
def test_nothing_ends_a_chunk_but_its_size(role: str, end: bytes) -> None:
    client = begin(role)
    content = smuggling(end, b"one", b"ours.example") + b".\r\n"
    reply = client.say(b"BDAT %d LAST\r\n" % len(content) + content)
    whole = only_message(client, b"Subject: one")
    bare = b"\n" in content.replace(b"\r\n", b"") or b"\r" in content.replace(b"\r\n", b"")
    assert reply.startswith(b"554 5.6.0 " if bare else b"250 2.0.0 ")
    if whole:
        assert whole.endswith(content)
