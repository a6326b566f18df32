"""LMTP into a real Dovecot, over TCP and over a Unix socket, and what its users find by IMAP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support import corpus
from tests.support.clients import stuffed
from tests.support.dovecot import Dovecot
from tests.support.relay import Relay, run_command

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.peer
MESSAGES = corpus.load()
USERS = ("ada@box.test", "bob@box.test", "cyd@box.test", "ada@shared.test", "bob@shared.test", "dan@shared.test")


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    with Dovecot([*USERS, "full@box.test", "full@shared.test"], full=["full@box.test", "full@shared.test"]) as peer:
        yield peer


@pytest.fixture(scope="module", params=["tcp", "unix"])
def relay(
    dovecot: Dovecot, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Relay]:
    next_hop = dovecot.url if request.param == "tcp" else dovecot.unix_url
    routes = [
        {"recipients": ["origin.test"], "next_hop": "discard:"},
        {"recipients": ["shared.test"], "next_hop": next_hop, "delivered_to": False},
        {"recipients": ["*"], "next_hop": next_hop},
    ]
    with Relay(tmp_path_factory.mktemp(request.param), {"route": routes}) as running:
        yield running


def arrived(dovecot: Dovecot, relay: Relay, user: str, mark: bytes) -> bytes:
    """The only message of user's that has mark in it."""

    def found() -> list[bytes]:
        return [octets for octets in dovecot.messages(user) if mark in octets]

    (octets,) = relay.wait(found, f"{mark!r} in the mailbox of {user}")
    return octets


def parts(octets: bytes) -> tuple[list[bytes], bytes]:
    """The fields down to our own trace field, and the message below it."""
    lines = octets.split(b"\r\n")
    own = next(
        n
        for n, line in enumerate(lines)
        if line.startswith(b"Received: ") and b"by relay.test" in b"".join(lines[n : n + 3])
    )
    return lines[:own], corpus.without_trace(b"\r\n".join(lines[own:]))


@pytest.mark.parametrize("name", ["lone-dots", "attachment-of-1-mb", "utf8-8bit"])
def test_a_message_arrives_as_it_was(dovecot: Dovecot, relay: Relay, name: str) -> None:
    mark = f"X-Mark: {relay.folder.name}.{name}\r\n".encode()
    with relay.client() as client:
        client.ehlo()
        client.send("me@origin.test", ["ada@box.test"], mark + MESSAGES[name], "BODY=8BITMIME")
    top, message = parts(arrived(dovecot, relay, "ada@box.test", mark))
    assert message == mark + MESSAGES[name]
    # Dovecot puts its own above ours
    assert top.count(b"Return-Path: <me@origin.test>") == 2
    assert b"Delivered-To: ada@box.test" in top


def test_recipients_do_not_learn_of_each_other_and_each_has_a_result(dovecot: Dovecot, relay: Relay) -> None:
    mark = f"X-Mark: {relay.folder.name}.several\r\n".encode()
    recipients = ["ada@box.test", "nobody@box.test", "bob@box.test", "full@box.test", "cyd@box.test"]
    queue_id = relay.send(recipients, mark + MESSAGES["lone-dots"])
    relay.wait_event("delivery", id=queue_id, count=3)
    relay.wait_event("bounce", id=queue_id, count=2)
    bounces = {event["recipient"]: event["reply"] for event in relay.events("bounce", id=queue_id)}
    assert bounces["nobody@box.test"]["code"] == 550
    assert (bounces["full@box.test"]["code"], bounces["full@box.test"]["enhanced"]) == (552, "5.2.2")
    for user in ("ada@box.test", "bob@box.test", "cyd@box.test"):
        octets = arrived(dovecot, relay, user, mark)
        top, message = parts(octets)
        assert message == mark + MESSAGES["lone-dots"]
        ours = top[-2:]
        assert ours == [b"Return-Path: <me@origin.test>", f"Delivered-To: {user}".encode()]
        assert not any(other.encode() in octets for other in recipients if other != user)
    assert relay.events("deferral", id=queue_id) == []


def test_one_transaction_for_all_where_the_route_says_so(dovecot: Dovecot, relay: Relay) -> None:
    mark = f"X-Mark: {relay.folder.name}.shared\r\n".encode()
    recipients = ["ada@shared.test", "full@shared.test", "nobody@shared.test", "bob@shared.test", "dan@shared.test"]
    queue_id = relay.send(recipients, mark + MESSAGES["lone-dots"])
    relay.wait_event("delivery", id=queue_id, count=3)
    relay.wait_event("bounce", id=queue_id, count=2)
    bounces = {event["recipient"]: event["reply"]["code"] for event in relay.events("bounce", id=queue_id)}
    assert bounces == {"full@shared.test": 552, "nobody@shared.test": 550}
    for user in ("ada@shared.test", "bob@shared.test", "dan@shared.test"):
        top, message = parts(arrived(dovecot, relay, user, mark))
        assert message == mark + MESSAGES["lone-dots"]
        assert top[-1] == b"Return-Path: <me@origin.test>"
        assert not any(line.startswith(b"Delivered-To") for line in top)  # Dovecot writes it in transactions for one


def test_explain_tries_lmtp(relay: Relay) -> None:
    for address, accepted in (("ada@box.test", True), ("nobody@box.test", False)):
        arguments = ("explain", address, "--try", "--json", "--admin", f"127.0.0.1:{relay.admin_port}")
        trial = json.loads(run_command(*arguments).stdout)["trial"]
        assert trial["dialogue"][0]["command"] == "LHLO"
        assert trial["accepted"] is accepted


def test_a_notification_of_success_says_delivered(dovecot: Dovecot, relay: Relay) -> None:
    with relay.client() as client:
        client.ehlo()
        mark = f"X-Mark: {relay.folder.name}.success\r\n".encode()
        client.expect(250, "MAIL FROM:<bob@box.test> ENVID=lmtp-success")
        client.expect(250, "RCPT TO:<cyd@box.test> NOTIFY=SUCCESS")
        client.expect(354, "DATA")
        client.write(stuffed(mark + MESSAGES["lone-dots"]))
        queue_id = client.queued()
    relay.wait_event("delivery", id=queue_id)
    octets = arrived(dovecot, relay, "bob@box.test", mark)
    assert b"\r\nReturn-Path: <>\r\n" in octets
    assert b"\r\nAction: delivered\r\n" in octets


def test_explain_tries_lmtp_as_mail_would_go(relay: Relay) -> None:
    admin = ("--admin", f"127.0.0.1:{relay.admin_port}", "--json")
    trial = json.loads(run_command("explain", "ada@box.test", "--try", *admin).stdout)["trial"]
    assert trial["accepted"]
    assert [step["command"].partition(" ")[0] for step in trial["dialogue"]] == ["LHLO", "MAIL", "RCPT", "RSET", "QUIT"]
    done = run_command("explain", "nobody@box.test", "--try", *admin)
    assert done.returncode == 1
    assert json.loads(done.stdout)["trial"]["dialogue"][2]["reply"].startswith("550 5.1.1")
