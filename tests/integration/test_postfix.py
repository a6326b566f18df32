"""Postfix as the next hop, delivering to a Maildir."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import corpus
from tests.support.peers import Postfix
from tests.support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.peer
MESSAGES = corpus.load()
SIZE_LIMIT = 500_000
# Postfix takes a Return-Path on top away, and puts a blank line in front of what begins with no field.
CARRIED = [
    name
    for name, message in MESSAGES.items()
    if corpus.dotted(message)
    and message.startswith((b"From:", b"DKIM", b"ARC", b"Received"))
    and len(message) < SIZE_LIMIT
]


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with Postfix(size_limit=SIZE_LIMIT) as peer:
        yield peer


@pytest.fixture(scope="module")
def relay(postfix: Postfix, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    routes = [
        {"recipients": ["origin.test"], "next_hop": "discard:"},
        {"recipients": ["*.postfix.test"], "next_hop": postfix.url},
    ]
    with Relay(tmp_path_factory.mktemp("postfix"), {"route": routes}) as running:
        yield running


def delivered(postfix: Postfix, relay: Relay, recipient: str) -> bytes:
    """The message that Postfix delivered to recipient, without what Postfix put on top and with CRLF again."""
    mark = f"\nDelivered-To: {recipient}\n".encode()

    def found() -> bytes | None:
        return next((octets for octets in postfix.arrived() if mark in octets[:500]), None)

    octets = relay.wait(found, f"mail for {recipient} in Postfix's Maildir").replace(b"\n", b"\r\n")
    top = octets.index(b"Received: ")
    assert b"by mail.postfix.test (Postfix) with" in octets[top : top + 300]
    return corpus.without_trace(octets[top:])


@pytest.mark.parametrize("name", CARRIED)
def test_a_message_arrives_as_it_was(postfix: Postfix, relay: Relay, name: str) -> None:
    message = MESSAGES[name]
    recipient = f"{name}@one.postfix.test"
    with relay.client() as client:
        client.ehlo()
        client.send("me@origin.test", [recipient], message, "" if message.isascii() else "BODY=8BITMIME")
    assert corpus.without_trace(delivered(postfix, relay, recipient)) == message


def test_several_recipients_of_whom_one_does_not_exist(postfix: Postfix, relay: Relay) -> None:
    recipients = ["several.a@one.postfix.test", "nobody@one.postfix.test", "several.b@two.postfix.test"]
    queue_id = relay.send(recipients, MESSAGES["lone-dots"])
    relay.wait_event("delivery", id=queue_id, count=2)
    bounce = relay.wait_event("bounce", id=queue_id)
    assert bounce["recipient"] == "nobody@one.postfix.test"
    assert (bounce["reply"]["code"], bounce["reply"]["enhanced"]) == (550, "5.1.1")
    for recipient in (recipients[0], recipients[2]):
        assert corpus.without_trace(delivered(postfix, relay, recipient)) == MESSAGES["lone-dots"]
    # one transaction: Postfix gave both the same id
    ids = {event["reply"]["text"].split()[-1] for event in relay.events("delivery", id=queue_id)}
    assert len(ids) == 1


def test_its_size_limit_is_seen_before_anything_is_sent(relay: Relay) -> None:
    queue_id = relay.send("large@one.postfix.test", MESSAGES["attachment-of-1-mb"])
    bounce = relay.wait_event("bounce", id=queue_id)
    assert (bounce["reply"]["code"], bounce["reply"]["enhanced"]) == (552, "5.3.4")


def test_an_internationalised_address(postfix: Postfix, relay: Relay) -> None:
    with relay.client() as client:
        client.ehlo()
        queue_id = client.send(
            "me@origin.test", ["böte@one.postfix.test"], MESSAGES["utf8-raw-header"], "SMTPUTF8 BODY=8BITMIME"
        )
    relay.wait_event("delivery", id=queue_id)
    assert corpus.without_trace(delivered(postfix, relay, "böte@one.postfix.test")) == MESSAGES["utf8-raw-header"]


def test_two_hundred_messages_share_few_connections(postfix: Postfix, relay: Relay) -> None:
    before = postfix.log_file.read_text().count(": connect from")
    with relay.client() as client:
        client.ehlo()
        ids = [client.send("me@origin.test", ["many@two.postfix.test"], b"Subject: many\r\n\r\n") for _ in range(200)]
    for queue_id in ids:
        relay.wait_event("delivery", id=queue_id)
    assert postfix.log_file.read_text().count(": connect from") - before <= 20
