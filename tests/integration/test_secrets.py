"""What clients say in AUTH is nowhere but on the wire: every mechanism, right, wrong, broken off, and nobody to ask.

Looked at is all that a node shows or keeps: standard error of its processes, the event log, metrics, the API, the
command lines of its processes, and every file of its spool. And no session has what another one has proved.
"""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from scramp import ScramClient  # type: ignore[import-untyped]

from tests.support.log_ins import coded, text_of
from tests.support.ports import free_port
from tests.support.submission import LOG_IN, PASSWORD, Submission, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.clients import Dialogue

KEY = rsa.generate_private_key(65537, 2048)
WRONG = "wrong horse staple"
MISPLACED = "hunter2.in.the.wrong.field"  # a password where the log-in should be
EVERY = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2", "PLAIN", "LOGIN"]
CONTENT = b"Subject: x\r\n\r\nHello.\r\n"


class Teller:
    """A client that remembers what nobody else may."""

    def __init__(self, relay: Submission) -> None:
        self.relay = relay
        self.secrets: set[str] = {PASSWORD, WRONG, MISPLACED}

    def say(self, client: Dialogue, line: str, secret: str = "") -> tuple[int, list[str]]:
        """A command or a response, of which everything behind AUTH and its mechanism is a secret."""
        self.secrets.add(secret or line)
        return client.command(line)

    def auth(self, client: Dialogue, mechanism: str, response: str) -> int:
        code, _ = self.say(client, f"AUTH {mechanism} {response}", response)
        return self.say(client, "=", response)[0] if code == 334 else code

    def login(self, client: Dialogue, name: str, password: str) -> int:
        client.expect(334, "AUTH LOGIN")
        assert self.say(client, coded(name))[0] == 334
        return self.say(client, coded(password))[0]

    def scram(self, client: Dialogue, mechanism: str, password: str) -> int:
        bound = None
        if mechanism.endswith("-PLUS"):
            assert isinstance(client.socket, ssl.SSLSocket)
            shown = client.socket.getpeercert(binary_form=True)
            assert shown is not None
            bound = ("tls-server-end-point", hashlib.sha256(shown).digest())
        scram = ScramClient([mechanism], LOG_IN, password, channel_binding=bound)
        code, lines = self.say(client, f"AUTH {mechanism} {coded(scram.get_client_first())}", "never")
        assert code == 334
        scram.set_server_first(text_of(lines))
        final = scram.get_client_final()
        self.secrets.add(final.rpartition(",p=")[2])
        code, lines = self.say(client, coded(final))
        if code != 334:
            return code
        self.secrets |= {lines[0], text_of(lines).removeprefix("v=")}
        return client.command("")[0]

    def assert_unknown(self) -> None:
        """Nothing of it is to be found."""
        relay = self.relay
        relay.wait_event("log_in_failed")
        shown: dict[str, bytes] = {
            "standard error": relay.stderr.encode(),
            "events": relay.events_file.read_bytes(),
            "metrics": relay.get("/metrics")[1],
        }
        shown |= {path: relay.get(f"/api/v1/{path}")[1] for path in ("bans", "status", "queue")}
        for file in relay.spool.rglob("*"):
            if file.is_file():
                shown[str(file)] = file.read_bytes()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                shown[str(process)] = (process / "cmdline").read_bytes()
            except OSError:
                continue
        for where, octets in shown.items():
            for secret in self.secrets - {"", "=", "never"}:
                assert secret.encode() not in octets, (secret, where)


def token(**claims: object) -> str:
    said = {"iss": "https://login.test", "aud": "mail", "exp": time.time() + 600, "email": LOG_IN}
    return jwt.encode(said | claims, KEY, algorithm="RS256", headers={"kid": "1"})


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submission]:
    folder = tmp_path_factory.mktemp("secrets")
    public = RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"keys": [{**public, "kid": "1", "use": "sig", "alg": "RS256"}]}))
    config: dict[str, Any] = {
        "credentials": [
            {"kind": "file", "file": str(folder / "users")},
            {"kind": "oauth2", "jwks_file": str(keys), "issuer": "https://login.test", "audience": "mail"},
        ],
        "access": {"delay": "1ms", "longest_delay": "1ms", "address_failures": 1000, "log_in_failures": 1000},
        "route": [{"recipients": ["*"], "next_hop": "discard:"}],
    }
    with Submission(folder, config, mechanisms=EVERY) as running:
        assert isinstance(running, Submission)
        yield running


def test_no_mechanism_leaves_a_secret_anywhere(relay: Submission) -> None:
    teller = Teller(relay)

    def once(ask: Any, expected: int) -> None:
        with relay.dialogue() as client:
            assert client.extensions["AUTH"].split() == EVERY
            assert ask(client) == expected
            if expected == 235:
                client.send(LOG_IN, ["you@dest.test"], CONTENT)

    for password, code in ((PASSWORD, 235), (WRONG, 535)):
        once(lambda client, password=password: teller.auth(client, "PLAIN", plain(LOG_IN, password)), code)
        once(lambda client, password=password: teller.login(client, LOG_IN, password), code)
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"):
            once(lambda client, m=mechanism, password=password: teller.scram(client, m, password), code)
        once(lambda client, password=password: teller.auth(client, "PLAIN", plain(MISPLACED, password)), 535)
    for said, code in ((token(), 235), (token(aud="another"), 535), ("no-token-at-all", 535)):
        teller.secrets |= {said, said.rpartition(".")[2]}
        bearer = base64.b64encode(f"n,a={LOG_IN},\x01auth=Bearer {said}\x01\x01".encode()).decode()
        once(lambda client, bearer=bearer: teller.auth(client, "OAUTHBEARER", bearer), code)
        xoauth2 = base64.b64encode(f"user={LOG_IN}\x01auth=Bearer {said}\x01\x01".encode()).decode()
        once(lambda client, xoauth2=xoauth2: teller.auth(client, "XOAUTH2", xoauth2), code)
    teller.assert_unknown()
    # who has logged in is in the log, and who is known and failed; nobody else
    logins = {event.get("login") for event in relay.events()}
    assert logins == {LOG_IN, None}
    assert LOG_IN not in relay.stderr


def test_what_goes_wrong_within_a_dialogue_leaves_none_either(relay: Submission) -> None:
    teller = Teller(relay)
    with relay.client(relay.submission_port) as client:
        client.ehlo()  # in plaintext
        assert teller.say(client, f"AUTH PLAIN {plain(LOG_IN, PASSWORD)}", plain(LOG_IN, PASSWORD))[0] == 530
        assert teller.say(client, coded(PASSWORD))[0] == 500
    with relay.dialogue() as client:
        assert teller.say(client, f"AUTH PLAIN {PASSWORD.replace(' ', '!')}", PASSWORD.replace(" ", "!"))[0] == 501
        client.expect(334, "AUTH LOGIN " + coded(LOG_IN))
        assert teller.say(client, f"*{PASSWORD}")[0] == 501
        assert teller.say(client, coded(PASSWORD))[0] == 500  # as a command, by a client that does not look
        client.expect(334, "AUTH PLAIN")
        long = plain(LOG_IN, PASSWORD * 2000)
        teller.secrets.add(long[:100])
        assert teller.say(client, long)[0] in {500, 501}
    with relay.dialogue() as client:
        client.expect(334, "AUTH LOGIN " + coded(LOG_IN))
        teller.secrets.add(coded(WRONG))
        client.write(coded(WRONG).encode())  # and it is gone
    with relay.dialogue() as client:
        assert teller.auth(client, "PLAIN", plain(LOG_IN, WRONG + "2")) == 535
    # the process that is asked dies over the question
    pid = relay.wait(lambda: relay.api("status")["access"]["status"], "the access process to say who it is")["pid"]
    with relay.dialogue() as client:
        relay.kill_process(pid, signal.SIGSTOP)
        teller.secrets.add(plain(LOG_IN, WRONG + "3"))
        client.write(f"AUTH PLAIN {plain(LOG_IN, WRONG + '3')}\r\n".encode())
        relay.kill_process(pid, signal.SIGABRT)
        relay.kill_process(pid, signal.SIGCONT)
        assert client.read()[0] in {454, 535}
    teller.assert_unknown()


def test_back_ends_that_fail_do_not_say_what_they_were_asked(tmp_path: Path) -> None:
    nowhere = free_port()
    credentials: list[dict[str, str]] = [
        {"kind": "dovecot", "socket": str(tmp_path / "no-dovecot")},
        {"kind": "http", "url": f"http://127.0.0.1:{nowhere}/"},
        {"kind": "ldap", "url": f"ldap://127.0.0.1:{nowhere}", "user_dn": "uid={log_in},dc=test"},
        {"kind": "oauth2", "introspection_url": f"http://127.0.0.1:{nowhere}/", "client_id": "relay"},
    ]
    pytest.importorskip("ldap3")
    mechanisms = ["SCRAM-SHA-256", "OAUTHBEARER", "PLAIN", "LOGIN"]
    with Submission(tmp_path, {"credentials": credentials}, mechanisms=mechanisms) as relay:
        assert isinstance(relay, Submission)
        teller = Teller(relay)
        bearer = base64.b64encode(f"n,,\x01auth=Bearer {WRONG.replace(' ', '-')}\x01\x01".encode()).decode()
        with relay.dialogue() as client:
            assert teller.auth(client, "PLAIN", plain(LOG_IN, PASSWORD)) == 454
            assert teller.login(client, LOG_IN, PASSWORD) == 454
            assert teller.auth(client, "OAUTHBEARER", bearer) == 454
            first = ScramClient(["SCRAM-SHA-256"], LOG_IN, PASSWORD).get_client_first()
            assert teller.auth(client, "SCRAM-SHA-256", coded(first)) == 454
        teller.secrets |= {WRONG.replace(" ", "-"), LOG_IN}
        for reason in ("no-dovecot", "ldap://127.0.0.1"):
            assert reason in relay.stderr
        for secret in teller.secrets:
            assert secret not in relay.stderr + relay.events_file.read_text()


# ------------------------------------------------------------------ between sessions


def test_no_session_has_what_another_has_proved(relay: Submission) -> None:
    """Interleaved, broken off, over STARTTLS and with one connection's place taken by the next."""
    with relay.dialogue() as one, relay.dialogue() as other:
        one.expect(334, "AUTH LOGIN " + coded(LOG_IN))
        other.expect(334, "AUTH LOGIN " + coded("nobody"))
        assert one.command(coded(PASSWORD))[0] == 235
        assert other.command(coded(PASSWORD))[0] == 535
        assert other.command(f"MAIL FROM:<{LOG_IN}>")[0] == 530
        one.expect(250, "RSET")
        one.ehlo()  # who has logged in stays so for the session
        one.expect(250, f"MAIL FROM:<{LOG_IN}>")
    for _ in range(20):
        with relay.dialogue() as broken_off:
            broken_off.write(f"AUTH PLAIN {plain(LOG_IN, PASSWORD)}\r\n".encode())
        with relay.client(relay.submission_port) as next_one:
            next_one.ehlo()
            assert next_one.command(f"MAIL FROM:<{LOG_IN}>")[0] == 530
            next_one.start_tls()
            next_one.ehlo()
            assert next_one.command(f"MAIL FROM:<{LOG_IN}>")[0] == 530
    with relay.dialogue() as client:
        # what was begun and given up is nothing to the next exchange
        scram = ScramClient(["SCRAM-SHA-256"], LOG_IN, PASSWORD)
        lines = client.expect(334, f"AUTH SCRAM-SHA-256 {coded(scram.get_client_first())}")
        scram.set_server_first(text_of(lines))
        client.expect(501, "*")
        client.expect(
            334, f"AUTH SCRAM-SHA-256 {coded(ScramClient(['SCRAM-SHA-256'], LOG_IN, WRONG).get_client_first())}"
        )
        assert client.command(coded(scram.get_client_final()))[0] == 535
        assert client.command(f"MAIL FROM:<{LOG_IN}>")[0] == 530


def test_an_answer_that_comes_behind_its_session_is_for_nobody(relay: Submission) -> None:
    pid = relay.api("status")["access"]["status"]["pid"]
    relay.kill_process(pid, signal.SIGSTOP)
    try:
        for _ in range(5):
            with relay.dialogue() as gone:
                gone.write(f"AUTH PLAIN {plain(LOG_IN, PASSWORD)}\r\n".encode())
        waiting = [relay.dialogue() for _ in range(5)]
    finally:
        relay.kill_process(pid, signal.SIGCONT)
    for client in waiting:
        assert client.command(f"AUTH PLAIN {plain(LOG_IN, WRONG)}")[0] == 535
        assert client.command(f"MAIL FROM:<{LOG_IN}>")[0] == 530
        client.close()
