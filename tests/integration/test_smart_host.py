"""Smart hosts that want a log-in: Postfix with TLS that asks Dovecot, all real, and one that wants OAuth2 tokens."""

from __future__ import annotations

import base64
import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.support import corpus
from tests.support.dovecot import PASSWORD, Dovecot
from tests.support.peers import Postfix, SinkServer, Step
from tests.support.ports import free_port
from tests.support.relay import Relay, run_command
from tests.support.token_server import CLIENT, REFRESH_TOKEN, TokenServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MESSAGE = corpus.load()["lone-dots"]
USER = "relay@logins.test"
SECRETS = (PASSWORD, CLIENT["client_secret"], REFRESH_TOKEN, "token-1", "token-2")


class SmartHost:
    """A Postfix that takes mail from who has logged in, and from nobody else."""

    def __init__(self) -> None:
        self.dovecot = Dovecot([USER])
        self.implicit_port = free_port()
        folder = self.dovecot.folder
        certificate = trustme.CA().issue_cert("smart.test")
        chain, key = folder / "chain.pem", folder / "key.pem"
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(str(chain), append=True)
        certificate.private_key_pem.write_to_path(str(key))
        self.postfix = Postfix(
            services=(
                f"127.0.0.1:{self.implicit_port} inet n - n - - smtpd\n"
                " -o smtpd_tls_wrappermode=yes -o syslog_name=postfix/wrapped\n"
            ),
            settings={
                "smtpd_tls_security_level": "may",
                "smtpd_tls_cert_file": chain,
                "smtpd_tls_key_file": key,
                "smtpd_tls_auth_only": "yes",
                "smtpd_sasl_auth_enable": "yes",
                "smtpd_sasl_type": "dovecot",
                "smtpd_sasl_path": self.dovecot.login_socket,
                "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
            },
        )

    def __enter__(self) -> SmartHost:
        self.dovecot.__enter__()
        try:
            self.postfix.__enter__()
        except BaseException:
            self.dovecot.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.postfix.__exit__()
        self.dovecot.__exit__()

    @property
    def log(self) -> str:
        return self.postfix.log_file.read_text("utf-8", "replace")


@pytest.fixture(scope="module")
def smart_host() -> Iterator[SmartHost]:
    with SmartHost() as running:
        yield running


def relay_to(folder: Path, next_hop: str, auth: dict[str, Any], tls: str = "require") -> Relay:
    routes = [
        {"recipients": ["origin.test"], "next_hop": "discard:"},
        {"recipients": ["*"], "next_hop": next_hop, "auth": auth},
    ]
    return Relay(folder, {"delivery": {"tls": tls}, "route": routes})


def everything_said(relay: Relay) -> str:
    """What an operator or a sender may see: log, events, queue, metrics."""
    status, body = relay.get("/api/v1/queue?limit=1000")
    assert status == 200
    return relay.stderr + relay.events_file.read_text() + body.decode() + relay.get("/metrics")[1].decode()


@pytest.mark.peer
@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
@pytest.mark.parametrize("mechanism", [None, "PLAIN", "LOGIN", "CRAM-MD5"])
def test_a_log_in_at_postfix(smart_host: SmartHost, tmp_path: Path, mechanism: str | None, implicit: bool) -> None:
    scheme, port = ("smtps", smart_host.implicit_port) if implicit else ("smtp", smart_host.postfix.port)
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    auth = {"user": USER, "password_file": str(file)} | ({"mechanism": mechanism} if mechanism else {})
    recipient = f"{mechanism or 'any'}.{scheme}@one.postfix.test"
    with relay_to(tmp_path / "relay", f"{scheme}://127.0.0.1:{port}", auth) as relay:
        relay.wait_event("delivery", id=relay.send(recipient, MESSAGE))
        tried = run_command("explain", recipient, "--try", "--admin", f"127.0.0.1:{relay.admin_port}", "--json")
        assert tried.returncode == 0, tried
        said = everything_said(relay) + tried.stdout
        assert not any(secret in said for secret in SECRETS)
    used = mechanism or "CRAM-MD5"
    assert f"sasl_method={used}, sasl_username={USER}" in smart_host.log
    relay.wait(
        lambda: [octets for octets in smart_host.postfix.arrived() if f"Delivered-To: {recipient}".encode() in octets],
        "the mail in Postfix's Maildir",
    )


@pytest.mark.peer
def test_a_wrong_password_leaves_the_mail_waiting_until_it_is_right(smart_host: SmartHost, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("not the password\n")
    auth = {"user": USER, "password_file": str(file), "mechanism": "PLAIN"}
    with relay_to(tmp_path / "relay", f"smtps://127.0.0.1:{smart_host.implicit_port}", auth) as relay:
        ids = [relay.send(f"waits.{n}@one.postfix.test", MESSAGE) for n in range(5)]
        event = relay.wait_event("deferral")
        assert (event["reply"]["code"], event["reply"]["enhanced"]) == (535, "4.7.8")
        assert "log-in refused: Error: authentication failed" in event["reply"]["text"]
        assert relay.wait_event("unreachable")["reply"]["code"] == 535
        assert relay.events("bounce") == []
        assert relay.summary()["messages"] == 5
        assert "not the password" not in everything_said(relay)
        file.write_text(PASSWORD)  # no reload
        for queue_id in ids:
            relay.wait_event("delivery", id=queue_id)


@pytest.mark.peer
def test_explain_tries_the_log_in_and_shows_nothing_of_it(smart_host: SmartHost, tmp_path: Path) -> None:
    auth = {"user": USER, "password": PASSWORD}
    with relay_to(tmp_path, f"smtps://127.0.0.1:{smart_host.implicit_port}", auth) as relay:
        asked = ("explain", "a@one.postfix.test", "--try", "--admin", f"127.0.0.1:{relay.admin_port}")
        answer = json.loads(run_command(*asked, "--json").stdout)
        assert answer["tls"] == {"level": "require", "source": "delivery.tls"}
        assert answer["trial"]["accepted"], answer["trial"]  # Postfix takes it from who has logged in alone
        shown = run_command(*asked)
        assert shown.returncode == 0, shown.stderr
        assert not any(secret in shown.stdout + json.dumps(answer) for secret in SECRETS)


@pytest.mark.peer
def test_without_tls_nothing_of_the_log_in_leaves(smart_host: SmartHost, tmp_path: Path) -> None:
    auth = {"user": USER, "password": PASSWORD}
    with SinkServer(extensions=["AUTH PLAIN LOGIN"]) as sink:
        with relay_to(tmp_path / "relay", sink.url, auth, tls="opportunistic") as relay:
            event = relay.wait_event("deferral", id=relay.send("a@dest.test", MESSAGE))
            assert "no log-in, because the connection has no TLS" in event["reply"]["text"]
        assert sink.count("AUTH") == sink.count("MAIL") == 0


class TokenSink:
    """A host that takes mail from who shows a token that holds at the token host (RFC 7628, and Google's XOAUTH2)."""

    def __init__(self, tokens: TokenServer, mechanisms: str, certificate: ssl.SSLContext) -> None:
        self.tokens = tokens
        self.shown: list[str] = []
        self.sink = SinkServer(extensions=["PIPELINING", f"AUTH {mechanisms}"], answer=self._answer, tls=certificate)

    def _answer(self, step: Step) -> str | None:
        if step.verb == "AUTH":
            mechanism, _, response = step.argument.partition(" ")
            said = base64.b64decode(response)
            token = said.partition(b"auth=Bearer ")[2].rstrip(b"\x01").decode()
            if mechanism == "XOAUTH2":
                assert said == f"user={USER}\x01auth=Bearer {token}\x01\x01".encode()
            else:
                assert mechanism == "OAUTHBEARER"
                assert said.startswith(f"n,a={USER},\x01host=127.0.0.1\x01port={self.sink.port}\x01".encode())
            self.shown.append(token)
            if token in self.tokens.tokens:
                return "235 2.7.0 welcome"
            return "334 " + base64.b64encode(json.dumps({"status": "invalid_token"}).encode()).decode()
        if step.verb in {"", "AQ=="}:
            return "535 5.7.8 that token does not hold"
        return None


@pytest.fixture
def certificate() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("tokens.test").configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("offered", "grant"),
    [("PLAIN XOAUTH2", "client_credentials"), ("XOAUTH2 OAUTHBEARER", "refresh_token")],
)
def test_tokens_are_had_kept_and_replaced(
    tmp_path: Path, certificate: ssl.SSLContext, offered: str, grant: str
) -> None:
    with TokenServer(lifetime_s=3600, rotates=True) as tokens:
        host = TokenSink(tokens, offered, certificate)
        oauth2 = {"token_url": tokens.url, "client_id": CLIENT["client_id"], "client_secret": CLIENT["client_secret"]}
        oauth2 |= {"grant": grant, "scope": "mail"} | ({"refresh_token": REFRESH_TOKEN} if "refresh" in grant else {})
        with host.sink, relay_to(tmp_path, host.sink.url, {"user": USER, "oauth2": oauth2}) as relay:
            relay.wait_event("delivery", id=relay.send("a@dest.test", MESSAGE))
            event = relay.wait_event("token")
            assert (event["token_host"], event["class"]) == ("127.0.0.1", "granted")
            assert 3590 < event["lifetime_s"] <= 3600
            host.sink.close_connections()
            relay.wait_event("delivery", id=relay.send("b@dest.test", MESSAGE))
            assert host.shown == ["token-1", "token-1"], "one token, as long as it holds"
            assert relay.metrics()['angarium_delivery_access_token_requests_total{result="granted"}'] == 1
            left = relay.wait(lambda: relay.metrics()["angarium_delivery_access_token_seconds"], "the token's time")
            assert 3500 < left <= 3600
            assert tokens.requests[0]["grant_type"] == grant
            said = everything_said(relay)
            assert not any(secret in said for secret in SECRETS)


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
def test_a_token_that_was_revoked_is_replaced(tmp_path: Path, certificate: ssl.SSLContext, mechanism: str) -> None:
    with TokenServer(lifetime_s=3600) as tokens:
        host = TokenSink(tokens, mechanism, certificate)
        oauth2 = {"token_url": tokens.url, "client_id": CLIENT["client_id"], "client_secret": CLIENT["client_secret"]}
        with host.sink, relay_to(tmp_path, host.sink.url, {"user": USER, "oauth2": oauth2}) as relay:
            relay.wait_event("delivery", id=relay.send("a@dest.test", MESSAGE))
            tokens.revoke()
            host.sink.close_connections()
            relay.wait_event("delivery", id=relay.send("b@dest.test", MESSAGE))
            assert (host.shown[0], host.shown[-1]) == ("token-1", "token-2")
            assert len(tokens.requests) == 2, "one fresh token, however often the old one was refused"
            # as long as the token was new the host's refusal was an answer, and it is in the host's words
            for event in relay.events("deferral"):
                assert event["reply"]["text"].endswith("log-in refused (invalid_token): that token does not hold")
            assert relay.events("bounce") == []


def test_a_token_that_has_expired_is_not_shown(tmp_path: Path, certificate: ssl.SSLContext) -> None:
    with TokenServer(lifetime_s=4) as tokens:
        host = TokenSink(tokens, "XOAUTH2", certificate)
        oauth2 = {"token_url": tokens.url, "client_id": CLIENT["client_id"], "client_secret": CLIENT["client_secret"]}
        with host.sink, relay_to(tmp_path, host.sink.url, {"user": USER, "oauth2": oauth2}) as relay:
            for name in ("a", "b", "c"):
                relay.wait_event("delivery", id=relay.send(f"{name}@dest.test", MESSAGE))
                host.sink.close_connections()
                relay.wait(lambda: not tokens.tokens, "the token to expire")
            assert host.shown == ["token-1", "token-2", "token-3"]
            assert relay.events("deferral") == []


def test_a_token_host_that_is_away_makes_mail_wait(tmp_path: Path, certificate: ssl.SSLContext) -> None:
    with TokenServer() as tokens:
        tokens.answer = (503, {"error": "temporarily_unavailable"})
        host = TokenSink(tokens, "XOAUTH2", certificate)
        oauth2 = {"token_url": tokens.url, "client_id": CLIENT["client_id"], "client_secret": CLIENT["client_secret"]}
        with host.sink, relay_to(tmp_path, host.sink.url, {"user": USER, "oauth2": oauth2}) as relay:
            queue_id = relay.send("a@dest.test", MESSAGE)
            event = relay.wait_event("deferral", id=queue_id)
            assert "no access token for the log-in: the token host 127.0.0.1 refused (503)" in event["reply"]["text"]
            assert relay.wait_event("token")["class"] == "failed"
            tokens.answer = None
            relay.wait_event("delivery", id=queue_id)
            assert relay.events("bounce") == []
