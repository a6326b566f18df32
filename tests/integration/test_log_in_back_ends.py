"""Log-ins that others know: a real Dovecot, a program by HTTP, an OAuth2 server's keys and its introspection."""

from __future__ import annotations

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from tests.support.dovecot import PASSWORD as DOVECOT_PASSWORD
from tests.support.dovecot import Dovecot
from tests.support.submission import LOG_IN, PASSWORD, Submission, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEY = rsa.generate_private_key(65537, 2048)
MAILBOX = "bob@mail.test"


class Web:
    """An HTTP server on a thread; `answer` is given each body."""

    def __init__(self, answer: Callable[[bytes], Any]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                said = json.dumps(answer(self.rfile.read(int(self.headers["Content-Length"])))).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Web:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def code_of(relay: Submission, mechanism: str, response: str) -> int:
    with relay.dialogue() as client:
        code, _ = client.command(f"AUTH {mechanism} {response}")
        return client.command("")[0] if code == 334 else code


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    with Dovecot([MAILBOX]) as running:
        yield running


@pytest.mark.peer
def test_dovecot(dovecot: Dovecot, tmp_path: Path) -> None:
    credentials = [
        {"kind": "file", "file": str(tmp_path / "users")},
        {"kind": "dovecot", "socket": str(dovecot.login_socket)},
    ]
    with Submission(tmp_path, {"credentials": credentials}) as relay:
        assert isinstance(relay, Submission)
        assert code_of(relay, "PLAIN", plain(MAILBOX, DOVECOT_PASSWORD)) == 235
        assert code_of(relay, "PLAIN", plain(MAILBOX, "wrong")) == 535
        assert code_of(relay, "PLAIN", plain("nobody", "wrong")) == 535
        assert code_of(relay, "PLAIN", plain(LOG_IN, PASSWORD)) == 235  # of the file before it
        with relay.dialogue() as client:
            assert client.command("AUTH LOGIN " + base64.b64encode(MAILBOX.encode()).decode())[0] == 334
            assert client.command(base64.b64encode(DOVECOT_PASSWORD.encode()).decode())[0] == 235
        assert DOVECOT_PASSWORD not in relay.stderr


@pytest.mark.peer
def test_a_dovecot_that_is_away_and_comes_back(tmp_path: Path) -> None:
    dovecot = Dovecot([MAILBOX])
    credentials = [{"kind": "dovecot", "socket": str(dovecot.login_socket), "timeout": "2s"}]
    with Submission(tmp_path, {"credentials": credentials}) as relay:
        assert isinstance(relay, Submission)
        assert code_of(relay, "PLAIN", plain(MAILBOX, DOVECOT_PASSWORD)) == 454
        with dovecot:
            assert code_of(relay, "PLAIN", plain(MAILBOX, DOVECOT_PASSWORD)) == 235


def test_a_program_by_http(tmp_path: Path) -> None:
    asked: list[dict[str, str]] = []

    def answer(body: bytes) -> dict[str, str]:
        asked.append(json.loads(body))
        right = asked[-1]["password"] == "open sesame"
        return {"result": "accepted", "log_in": "carol@example.org"} if right else {"result": "refused"}

    with Web(answer) as web, Submission(tmp_path, {"credentials": [{"kind": "http", "url": web.url}]}) as relay:
        assert isinstance(relay, Submission)
        assert code_of(relay, "PLAIN", plain("carol", "open sesame")) == 235
        assert code_of(relay, "PLAIN", plain("carol", "wrong")) == 535
        assert asked[0] == {
            "log_in": "carol",
            "password": "open sesame",
            "address": "127.0.0.1",
            "listener": "submission",
            "mechanism": "PLAIN",
        }
        assert relay.wait_event("log_in_failed")["login"] == "carol"


def bearer(log_in: str, token: str) -> str:
    return base64.b64encode(f"n,a={log_in},\x01auth=Bearer {token}\x01\x01".encode()).decode()


def xoauth2(log_in: str, token: str) -> str:
    return base64.b64encode(f"user={log_in}\x01auth=Bearer {token}\x01\x01".encode()).decode()


def test_signed_tokens(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    public = RSAAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
    keys.write_text(json.dumps({"keys": [{**public, "kid": "1", "use": "sig", "alg": "RS256"}]}))
    settings = {"kind": "oauth2", "jwks_file": str(keys), "issuer": "https://login.test", "audience": "mail"}

    def token(**claims: object) -> str:
        said = {"iss": "https://login.test", "aud": "mail", "exp": time.time() + 600, "email": LOG_IN}
        return jwt.encode(said | claims, KEY, algorithm="RS256", headers={"kid": "1"})

    with Submission(tmp_path, {"credentials": [settings]}) as relay:
        assert isinstance(relay, Submission)
        assert code_of(relay, "OAUTHBEARER", bearer(LOG_IN, token())) == 235
        assert code_of(relay, "XOAUTH2", xoauth2(LOG_IN, token())) == 235
        assert code_of(relay, "OAUTHBEARER", bearer(LOG_IN, token(exp=time.time() - 100))) == 535
        assert code_of(relay, "OAUTHBEARER", bearer("boss@example.org", token())) == 535
        assert code_of(relay, "XOAUTH2", xoauth2(LOG_IN, token(aud="another"))) == 535
        with relay.dialogue() as client:
            assert client.extensions["AUTH"] == "OAUTHBEARER XOAUTH2"
            code, lines = client.command(f"AUTH OAUTHBEARER {bearer(LOG_IN, 'nonsense')}")
            assert (code, json.loads(base64.b64decode(lines[0]))) == (334, {"status": "invalid_token"})


def test_introspection(tmp_path: Path) -> None:
    def answer(body: bytes) -> dict[str, Any]:
        good = parse_qs(body.decode())["token"] == ["a-good-token"]
        return {"active": True, "username": LOG_IN} if good else {"active": False}

    with Web(answer) as web:
        settings = {"kind": "oauth2", "introspection_url": web.url, "client_id": "relay", "log_in_claim": "username"}
        with Submission(tmp_path, {"credentials": [settings]}) as relay:
            assert isinstance(relay, Submission)
            assert code_of(relay, "OAUTHBEARER", bearer(LOG_IN, "a-good-token")) == 235
            assert code_of(relay, "XOAUTH2", xoauth2(LOG_IN, "a-bad-token")) == 535
            assert "a-good-token" not in relay.stderr + relay.events_file.read_text()
