"""`angarium explain`: what it asks of the API, what it shows, how it ends."""

from __future__ import annotations

import copy
import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
from click.testing import CliRunner, Result

from angarium.admin.model import Explanation, TrialOrder
from angarium.cli.explain import explain

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUTE: dict[str, Any] = {
    "name": "there",
    "file": "/etc/angarium/angarium.toml",
    "position": 2,
    "next_hop": ["smtp://a.test:25"],
    "conditions": {"recipients": ["there.test"], "log_ins": ["app-*"], "headers": {"X-Stream": "bulk*"}},
}
ANSWER: dict[str, Any] = {
    "address": "you@there.test",
    "route": ROUTE,
    "ahead": [{**ROUTE, "name": None, "position": 0, "conditions": {"senders": ["<>"]}}],
    "next_hop": "mx",
    "site": "(mx1|mx2).there.test",
    "dns": {
        "domain": "there.test",
        "failure": None,
        "secure": True,
        "mta_sts": "enforce",
        "hosts": [{"name": "mx1.there.test", "preference": 10, "addresses": ["192.0.2.1", "2001:db8::1"], "tlsa": 2}],
        "expires_s": 3600.0,
    },
    "hosts": [
        {
            "name": "mx1.there.test",
            "address": "2001:db8::1",
            "port": 25,
            "tls": {"level": "dane", "source": "the TLSA records of mx1.there.test"},
            "refused": None,
            "rests_s": 0.0,
        },
        {
            "name": "mx1.there.test",
            "address": "192.0.2.1",
            "port": 25,
            "tls": {"level": "dane", "source": "the TLSA records of mx1.there.test"},
            "refused": None,
            "rests_s": 90.0,
        },
    ],
    "tls": {"level": "verify", "source": "mta-sts"},
    "source": {
        "pool": "bulk",
        "of": "tenant",
        "name": "mta1",
        "hostname": "mta1.relay.test",
        "sources": [
            {
                "name": "mta1",
                "addresses": ["192.0.2.1", "2001:db8::1"],
                "hostname": "mta1.relay.test",
                "weight": 3,
                "why_not": None,
            },
            {
                "name": "mta2",
                "addresses": ["192.0.2.2"],
                "hostname": "relay.test",
                "weight": 1,
                "why_not": "source mta2: 192.0.2.2: Cannot assign requested address",
            },
        ],
    },
    "limits": {
        "connections": 20,
        "connections_of_a_worker": 10,
        "message_size": 2_097_152,
        "messages_per_connection": 50,
        "idle_s": 30.0,
        "timeouts_s": {"connect": 30.0},
    },
    "workers": [
        {
            "worker": 0,
            "open": 3,
            "connecting": 0,
            "idle": 1,
            "ready": 7,
            "sent": 9,
            "failures": 2,
            "blocked_until": "2026-01-02T03:04:05.000Z",
            "reason": "mx1: \x1b[31mConnection refused",
        }
    ],
    "blocks": ["domain there.test is suspended until 2026-01-02T03:04:05.000Z: works"],
    "trial": None,
    "inbound": [{"listener": "mx", "reply": "550 5.1.1 no \x1b[31msuch"}],
}
TRIAL: dict[str, Any] = {
    "hosts": [
        {"host": "a.test[192.0.2.1]:25", "failure": "timed out connecting"},
        {"host": "b.test[192.0.2.2]:25", "failure": None},
    ],
    "tls": "TLSv1.3",
    "dialogue": [
        {"command": "EHLO", "reply": "250 b.test\nPIPELINING"},
        {"command": "MAIL FROM:<>", "reply": "250 2.1.0 OK"},
        {"command": "RCPT TO:<you@there.test>", "reply": None},
    ],
    "accepted": False,
    "failure": "Connection lost",
}


class FakeRelay:
    """Answers everything with `answer`, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer = copy.deepcopy(ANSWER)
        self.asked: list[tuple[str, dict[str, str]]] = []
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                target = urlsplit(self.path)
                relay.asked.append((f"GET {target.path}", dict(parse_qsl(target.query, keep_blank_values=True))))
                self._answer()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                msgspec.convert(body, TrialOrder)
                relay.asked.append((f"POST {self.path}", body))
                self._answer()

            def _answer(self) -> None:
                body = json.dumps(relay.answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = socketserver.TCPServer(("127.0.0.1", 0), Handler)

    def run(self, *arguments: str) -> Result:
        unset = {"ANGARIUM_ADMIN": None, "ANGARIUM_CONFIG": None, "ANGARIUM_TOKEN_FILE": None}
        admin = f"127.0.0.1:{self.server.server_address[1]}"
        return CliRunner().invoke(explain, [*arguments, "--admin", admin], env=unset)


@pytest.fixture
def relay() -> Iterator[FakeRelay]:
    made = FakeRelay()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_the_answers_used_here_are_of_the_apis_shape() -> None:
    for value in (ANSWER, {**ANSWER, "trial": TRIAL}):
        decoded = msgspec.json.decode(json.dumps(value), type=Explanation, strict=True)
        assert json.loads(msgspec.json.encode(decoded)) == value


def test_what_is_asked(relay: FakeRelay) -> None:
    assert relay.run("you@there.test").exit_code == 0
    words = ["--from", "<me@x.test>", "--tenant", "shop", "--listener", "relay", "--log-in", "ann"]
    assert relay.run("you@there.test", *words).exit_code == 0
    assert relay.run("you@there.test", "--from", "<>").exit_code == 0
    path = "GET /api/v1/explain"
    assert relay.asked == [
        (path, {"address": "you@there.test"}),
        (
            path,
            {
                "address": "you@there.test",
                "from": "me@x.test",
                "tenant": "shop",
                "listener": "relay",
                "log_in": "ann",
            },
        ),
        (path, {"address": "you@there.test"}),
    ]


def test_for_people(relay: FakeRelay) -> None:
    output = relay.run("you@there.test").output
    lines = [line.strip() for line in output.splitlines()]
    assert 'route       "there", route[2] of /etc/angarium/angarium.toml' in output
    assert any(line.startswith("asks for") and line.endswith("headers: X-Stream: bulk*") for line in lines)
    assert any(line.startswith("TLS") and line.endswith("verify, from mta-sts") for line in lines)
    assert "20 connections (10 of a worker), 50 messages per connection, 2.0 MiB a message, idle for 30s" in output
    assert "blocked     domain there.test is suspended" in output
    assert "listener    mx answers a stranger 550 5.1.1 no " in output
    assert "not taken   route[0] of /etc/angarium/angarium.toml" in output
    assert "DNS for there.test, asked again in 1h 0m\nDNSSEC vouches for it; MTA-STS: enforce\n" in output
    assert "dane, from the TLSA records of mx1.there.test" in output
    assert any(line.startswith("sources") and line.endswith("pool bulk, of the tenant") for line in lines)
    assert any(line.split() == ["mta1", "192.0.2.1,", "2001:db8::1", "mta1.relay.test", "3"] for line in lines)
    assert any(
        line.startswith("mta2")
        and line.endswith("cannot be used: source mta2: 192.0.2.2: Cannot assign requested address")
        for line in lines
    )
    assert any(line.split() == ["10", "mx1.there.test", "192.0.2.1,", "2001:db8::1", "2"] for line in lines)
    assert any(line.split()[:3] == ["2", "mx1.there.test", "192.0.2.1:25"] and "rests for" in line for line in lines)
    assert any(line.split()[:5] == ["0", "3", "1", "0", "7"] for line in lines)
    assert "\x1b" not in output


def test_where_nothing_stands_in_the_way(relay: FakeRelay) -> None:
    relay.answer |= {"blocks": [], "ahead": [], "dns": None, "hosts": [], "tls": None, "source": None, "site": None}
    relay.answer["route"] = {**ROUTE, "name": "last resort", "file": None, "position": None}
    output = relay.run("you@there.test").output
    assert any(line.split() == ["blocked", "by", "nothing"] for line in output.splitlines())
    assert "none in the configuration: the last resort, by MX" in output
    assert "asks for" not in output
    assert "DNS" not in output


def test_dns_that_fails(relay: FakeRelay) -> None:
    relay.answer["dns"] |= {"failure": "451 4.4.3 no answer", "hosts": [], "expires_s": None}
    assert "DNS for there.test: 451 4.4.3 no answer" in relay.run("you@there.test").output


def test_a_session_is_shown_and_decides_the_exit_status(relay: FakeRelay) -> None:
    relay.answer["trial"] = copy.deepcopy(TRIAL)
    result = relay.run("you@there.test", "--from", "me@x.test", "--try")
    assert relay.asked == [("POST /api/v1/explain", {"address": "you@there.test", "from": "me@x.test"})]
    assert result.exit_code == 1
    assert result.output.endswith(
        "a.test[192.0.2.1]:25: timed out connecting\n"
        "b.test[192.0.2.2]:25: connected\n"
        "TLS: TLSv1.3\n"
        "> EHLO\n< 250 b.test\n< PIPELINING\n"
        "> MAIL FROM:<>\n< 250 2.1.0 OK\n"
        "> RCPT TO:<you@there.test>\n< no reply\n"
        "Connection lost\n"
        "the recipient was not accepted\n"
    )
    relay.answer["trial"]["accepted"] = True
    result = relay.run("you@there.test", "--try", "--json")
    assert (result.exit_code, json.loads(result.output)) == (0, relay.answer)


def test_a_hand_off_has_no_session_to_try(relay: FakeRelay) -> None:
    result = relay.run("you@there.test", "--try")
    assert result.exit_code == 1
    assert result.output.endswith("there is no session to try\n")
