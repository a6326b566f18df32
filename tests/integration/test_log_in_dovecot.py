"""SCRAM through a real Dovecot, whose users the relay knows nothing of; scramp is the client."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
from scramp import ScramClient  # type: ignore[import-untyped]

from tests.support.dovecot import PASSWORD as DOVECOT_PASSWORD
from tests.support.dovecot import Dovecot
from tests.support.log_ins import coded, text_of
from tests.support.submission import LOG_IN, PASSWORD, Submission, plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.clients import Dialogue

MAILBOX, OLD_MAILBOX = "bob@mail.test", "old@mail.test"
SCRAM = "SCRAM-SHA-256"
MECHANISMS = [SCRAM, "PLAIN", "LOGIN"]

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    with Dovecot([MAILBOX, OLD_MAILBOX], scram=[MAILBOX], mechanisms="plain login scram-sha-256") as running:
        yield running


@pytest.fixture(scope="module")
def relay(dovecot: Dovecot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submission]:
    folder = tmp_path_factory.mktemp("relay")
    credentials = [
        {"kind": "dovecot", "socket": str(dovecot.login_socket)},
        {"kind": "file", "file": str(folder / "users")},
    ]
    access = {"delay": "1ms", "longest_delay": "2ms", "address_failures": 1000, "log_in_failures": 1000}
    config = {
        "credentials": credentials,
        "access": access,
        "route": [{"recipients": ["*"], "next_hop": "discard:"}],
    }
    with Submission(folder, config, mechanisms=MECHANISMS) as running:
        assert isinstance(running, Submission)
        yield running


def challenge(client: Dialogue, log_in: str, password: str = DOVECOT_PASSWORD) -> tuple[ScramClient, str]:
    scram = ScramClient([SCRAM], log_in, password)
    lines = client.expect(334, f"AUTH {SCRAM} {coded(scram.get_client_first())}")
    said = text_of(lines)
    scram.set_server_first(said)
    return scram, said


def proof(client: Dialogue, scram: ScramClient) -> int:
    code, lines = client.command(coded(scram.get_client_final()))
    if code != 334:
        return code
    scram.set_server_final(text_of(lines))  # what the server proves, too
    return client.command("")[0]


def log_in(relay: Submission, name: str, password: str = DOVECOT_PASSWORD) -> int:
    """A Dovecot that is slow on a busy machine has the client come again, which is no failure."""
    code = 454
    for _ in range(6):
        with relay.dialogue() as client:
            code = proof(client, challenge(client, name, password)[0])
        if code != 454:
            break
    return code


def test_a_password_of_which_only_the_scram_secret_is_kept(relay: Submission) -> None:
    assert log_in(relay, MAILBOX) == 235
    assert log_in(relay, MAILBOX, "wrong") == 535
    assert log_in(relay, OLD_MAILBOX) == 235  # Dovecot makes the secret of the password that it has
    assert log_in(relay, LOG_IN, PASSWORD) == 235  # of the file behind it
    assert log_in(relay, LOG_IN, DOVECOT_PASSWORD) == 535
    with relay.dialogue() as client:
        assert client.extensions["AUTH"].split() == MECHANISMS
        assert client.command(f"AUTH PLAIN {plain(MAILBOX, DOVECOT_PASSWORD)}")[0] == 235
    refused = relay.wait_event("log_in_failed", login=MAILBOX)
    assert refused["mechanism"] == SCRAM
    for secret in (DOVECOT_PASSWORD, PASSWORD):
        assert secret not in relay.stderr + relay.events_file.read_text()


def test_whose_mail_it_is(relay: Submission) -> None:
    with relay.dialogue() as client:
        code = 454
        while code == 454:
            code = proof(client, challenge(client, MAILBOX)[0])
        assert code == 235
        client.send(MAILBOX, ["you@dest.test"], b"Subject: x\r\n\r\nHello.\r\n")
    assert relay.wait_event("reception", recipients=["you@dest.test"])["login"] == MAILBOX


def test_a_stranger_is_challenged_like_everybody_and_refused_like_a_wrong_password(relay: Submission) -> None:
    challenges = {}
    for name in (MAILBOX, "nobody@mail.test", "nobody@mail.test"):
        with relay.dialogue() as client:
            scram, said = challenge(client, name)
            nonce, salt, iterations = (part[2:] for part in said.split(","))
            shown = (len(nonce), len(base64.b64decode(salt)), iterations)
            before = challenges.setdefault(name, (shown, salt))
            assert before == (shown, salt)  # the same each time
            code = proof(client, scram)
            assert code in ({235, 454} if name == MAILBOX else {535})
    (real, _), (made_up, _) = challenges.values()
    assert made_up == real
    assert relay.wait_event("log_in_failed", login=None)["mechanism"] == SCRAM


def test_what_a_client_may_do_in_between(relay: Submission) -> None:
    with relay.dialogue() as client:
        challenge(client, MAILBOX)
        assert client.command("*")[0] == 501
        assert client.command(f"AUTH {SCRAM} {coded('n,,n=bob')}")[0] == 535
        assert client.command(f"AUTH {SCRAM} {coded('n,a=boss@mail.test,n=bob@mail.test,r=abc')}")[0] == 535
        challenge(client, MAILBOX)
        assert client.command(coded("c=biws,r=not-the-nonce,p=AAAA"))[0] in {535, 454}
        assert client.command("MAIL FROM:<bob@mail.test>")[0] == 530
    with relay.dialogue() as first, relay.dialogue() as second:
        # two at a time, and neither has the other's proof
        one, _ = challenge(first, MAILBOX)
        other, _ = challenge(second, MAILBOX, "wrong")
        assert proof(second, other) in {535, 454}
        assert proof(first, one) in {235, 454}


def test_a_dovecot_without_scram_says_so_in_the_log(tmp_path: Path) -> None:
    with Dovecot([MAILBOX]) as plain_one:
        credentials = [{"kind": "dovecot", "socket": str(plain_one.login_socket)}]
        with Submission(tmp_path, {"credentials": credentials}, mechanisms=MECHANISMS) as relay:
            assert isinstance(relay, Submission)
            with relay.dialogue() as client:
                first = ScramClient([SCRAM], MAILBOX, DOVECOT_PASSWORD).get_client_first()
                assert client.command(f"AUTH {SCRAM} {coded(first)}")[0] == 454
                assert client.command(f"AUTH PLAIN {plain(MAILBOX, DOVECOT_PASSWORD)}")[0] == 235
            assert f"it offers no {SCRAM} (auth_mechanisms)" in relay.stderr
