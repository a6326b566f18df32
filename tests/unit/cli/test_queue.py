"""`angarium queue` and `angarium status`, against a server that answers as the admin API does."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from click.testing import CliRunner, Result

from angarium.admin.api import UNREACHABLE_HEADER as API_HEADER
from angarium.admin.model import MessageDetail, NodeStatus, NodeTotals, QueuedMessage, QueueSummary
from angarium.cli import client
from angarium.cli.client import UNREACHABLE_HEADER, RelayClient, RelayError, printable
from angarium.cli.queue import queue
from angarium.cli.show import ago, octets_text
from angarium.cli.status import status
from angarium.config.address import ListenAddress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import click

MESSAGE: dict[str, Any] = {
    "id": "0123456789ABC",
    "state": "scheduled",
    "reverse_path": "news@example.org",
    "octets": 20480,
    "received": "2026-01-02T03:04:05Z",
    "tenant": None,
    "recipients": [
        {
            "address": f"r{i}@example.net",
            "state": "deferred",
            "attempts": 3,
            "reply": "451 4.3.0 \x1b[31mlater",
            "next_attempt": "2026-01-02T04:04:05Z",
        }
        for i in range(5)
    ],
}
DETAIL = {
    **MESSAGE,
    "header": "Subject: hi\r\n\tfolded \x1b]0;title\x07\r\n",
    "record": {"shard": 3, "segment": "0000002A.journal", "offset": 4096, "octets": 20800},
    "envelope": {
        "reverse_path": "news@example.org",
        "recipients": [{"address": "r0@example.net", "notify": ["FAILURE"], "orcpt": None}],
        "received": "2026-01-02T03:04:05Z",
        "durability": "async",
        "body": "8BITMIME",
        "ret": None,
        "smtputf8": False,
        "requiretls": False,
        "priority": 0,
        "hold_until": None,
        "envid": "E17",
        "listener": "relay",
        "client": "192.0.2.1",
        "greeting": None,
        "login": None,
        "tenant": None,
        "source_pool": "bulk",
    },
    "attempts": [
        {
            "number": 1,
            "time": "2026-01-02T03:04:06Z",
            "next_hop": "mx",
            "host": "mx1.example.net[192.0.2.25]:25",
            "source": "a7",
            "pool": "bulk",
            "recipients": [{"address": "r0@example.net", "state": "deferred", "reply": "451 4.3.0 \x1b[31mfirst"}],
        }
    ],
    "waits_for": {"what": "site", "text": "mx.example.net, which cannot be reached", "until": "2026-01-02T04:00:00Z"},
    "waited": {"connection": 41.5, "room": 0.25, "dns": 0.0002},
}
SUMMARY = {
    "messages": 12345,
    "recipients": 20000,
    "octets": 3 * 1024**2,
    "oldest_s": 5400.7,
    "by_state": {"ready": 45, "scheduled": 12300, "held": 0, "suspended": 0, "in_doubt": 0},
}
STATUS = {
    "version": "0.1.0",
    "hostname": "relay.example.org",
    "sandbox": True,
    "time": "2026-01-02T03:04:05Z",
    "uptime_s": 90061.0,
    "accepting": True,
    "reasons": ["worker 1 does not answer: No such file or directory"],
    "workers": [
        {
            "worker": 0,
            "answering": True,
            "error": None,
            "status": {"worker": 0, "pid": 4711, "accepting": True, "reason": "", "shards": [0, 2], "uptime_s": 61.0}
            | {"watchers": 0, "dialogues_lost": 0},
        },
        {"worker": 1, "answering": False, "error": "No such file or directory", "status": None},
    ],
    "lookup": {
        "answering": True,
        "error": None,
        "status": {"pid": 4712, "entries": 3, "under_way": 0, "uptime_s": 62.0},
    },
    "access": {
        "answering": True,
        "error": None,
        "status": {"pid": 4713, "under_way": 0, "bans": 1, "uptime_s": 62.0},
    },
    "events": {
        "answering": True,
        "error": None,
        "status": {
            "pid": 4714,
            "uptime_s": 62.0,
            "files": 3,
            "octets": 1048576,
            "streams": [
                {
                    "name": "crm",
                    "to": "https://crm.example.org/mail",
                    "state": "failing",
                    "lag_events": 12345,
                    "lag_s": 3700.0,
                    "sent": 99,
                    "batches": 9,
                    "failures": 4,
                    "dead_letters": 2,
                    "lost": 1,
                    "error": "HTTP status 503\x1b[2J",
                }
            ],
        },
    },
    "draining": False,
    "configuration": {
        "file": "/etc/angarium/angarium.toml",
        "sha256": "0123456789abcdef" * 4,
        "since": "2026-01-02T03:04:05.000+00:00",
        "changes": 2,
        "waiting": ["node.workers"],
        "reload": {"phase": "preparing", "waiting_for": ["worker 1"]},
        "last_refused": {"time": "2026-01-02T03:03:05.000+00:00", "problems": ["a.toml:1:1: node: is no key"]},
    },
    "totals": dict.fromkeys(NodeTotals.__struct_fields__, 7),
}


class FakeRelay:
    """Answers GET with what a test has put under the path, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {
            "/api/v1/queue/summary": (200, SUMMARY),
            "/api/v1/queue": (200, [MESSAGE]),
            "/api/v1/queue/0123456789ABC": (200, DETAIL),
            "/api/v1/status": (200, STATUS),
        }
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.authorizations: list[str | None] = []
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                target = urlsplit(self.path)
                relay.asked.append((target.path, parse_qs(target.query)))
                relay.authorizations.append(self.headers["Authorization"])
                code, answer = relay.answers.get(target.path, (404, {"status_code": 404, "detail": "not here"}))
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(code)
                for name, value in relay.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def address_string(self) -> str:
                return "client"

        self.handler = Handler


@pytest.fixture
def relay() -> FakeRelay:
    return FakeRelay()


@pytest.fixture
def admin(relay: FakeRelay) -> Iterator[str]:
    with socketserver.TCPServer(("127.0.0.1", 0), relay.handler) as server:
        yield from serving(server, f"127.0.0.1:{server.server_address[1]}")


@pytest.fixture
def unix_admin(relay: FakeRelay, tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "admin.sock")
    with socketserver.UnixStreamServer(path, relay.handler) as server:
        yield from serving(server, f"unix:{path}")


def serving(server: socketserver.BaseServer, address: str) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield address
    server.shutdown()
    thread.join()


def run(command: click.Command, *arguments: str, **environment: str) -> Result:
    unset = {"ANGARIUM_ADMIN": None, "ANGARIUM_CONFIG": None, "ANGARIUM_TOKEN_FILE": None}
    return CliRunner().invoke(command, arguments, env={**unset, **environment})


def test_the_answers_used_here_are_of_the_apis_shapes() -> None:
    for value, shape in (
        (SUMMARY, QueueSummary),
        (MESSAGE, QueuedMessage),
        (DETAIL, MessageDetail),
        (STATUS, NodeStatus),
    ):
        decoded = msgspec.json.decode(json.dumps(value), type=shape, strict=True)
        assert json.loads(msgspec.json.encode(decoded)) == value
    assert UNREACHABLE_HEADER == API_HEADER


def test_summary_for_people(admin: str) -> None:
    result = run(queue, "summary", "--admin", admin)
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines()]
    for wanted in (["messages", "12,345"], ["size", "3.0", "MiB"], ["oldest", "1h", "30m"], ["in", "doubt", "0"]):
        assert wanted in lines


def test_the_oldest_of_an_empty_queue_is_a_dash(relay: FakeRelay, admin: str) -> None:
    relay.answers["/api/v1/queue/summary"] = (200, {**SUMMARY, "messages": 0, "oldest_s": None})
    assert ["oldest", "-"] in [line.split() for line in run(queue, "summary", "--admin", admin).output.splitlines()]


@pytest.mark.parametrize(
    ("command", "arguments", "value"),
    [
        (queue, ("summary",), SUMMARY),
        (queue, ("list",), [MESSAGE]),
        (queue, ("show", "0123456789ABC"), DETAIL),
        (status, (), STATUS),
    ],
)
def test_json_is_the_apis_unchanged(admin: str, command: click.Command, arguments: tuple[str, ...], value: Any) -> None:
    result = run(command, *arguments, "--json", "--admin", admin)
    assert result.exit_code == 0
    assert json.loads(result.output) == value


def test_list_for_people(admin: str) -> None:
    result = run(queue, "list", "--admin", admin)
    assert result.exit_code == 0
    (line,) = [line for line in result.output.splitlines() if "0123456789ABC" in line]
    for wanted in ("scheduled", "20 KiB", "<news@example.org>", "r0@example.net (deferred)", "and 2 more"):
        assert wanted in line
    assert "\x1b" not in result.output
    assert "451 4.3.0 \\x1b[31mlater" in line


def test_list_hands_its_filters_on(relay: FakeRelay, admin: str) -> None:
    filters = (
        "--to-domain example.net --from a+b@example.org --tenant shop --state in_doubt --older-than 1h30m --limit 5"
    )
    assert run(queue, "list", *filters.split(), "--admin", admin).exit_code == 0
    assert run(queue, "list", "--admin", admin).exit_code == 0
    assert relay.asked == [
        (
            "/api/v1/queue",
            {
                "to_domain": ["example.net"],
                "from": ["a+b@example.org"],
                "tenant": ["shop"],
                "state": ["in_doubt"],
                "older_than_s": ["5400.0"],
                "limit": ["5"],
            },
        ),
        ("/api/v1/queue", {"limit": ["100"]}),
    ]


def test_an_empty_list_says_so(relay: FakeRelay, admin: str) -> None:
    relay.answers["/api/v1/queue"] = (200, [])
    assert run(queue, "list", "--admin", admin).output == "no messages\n"
    assert run(queue, "list", "--json", "--admin", admin).output == "[]\n"


def test_a_list_that_was_cut_says_so(relay: FakeRelay, admin: str) -> None:
    result = run(queue, "list", "--limit", "1", "--admin", admin)
    assert result.stderr == "the first 1 are shown; see --limit\n"


@pytest.mark.parametrize(
    "option", ["--state=lost", "--older-than=soon", "--limit=0", "--limit=10001", "--admin=nowhere"]
)
def test_wrong_usage_exits_2(relay: FakeRelay, admin: str, option: str) -> None:
    result = run(queue, "list", "--admin", admin, option)
    assert result.exit_code == 2
    assert relay.asked == []


def test_show_for_people(admin: str) -> None:
    result = run(queue, "show", "0123456789ABC", "--admin", admin)
    assert result.exit_code == 0
    assert "shard 3, segment 0000002A.journal, offset 4096" in result.output
    assert result.output.count("@example.net") == 6  # five recipients, one of them in an attempt
    assert "Subject: hi\n" in result.output
    assert "mx.example.net, which cannot be reached, until 2026-01-02T04:00:00Z" in result.output
    assert "BODY=8BITMIME ENVID=E17" in result.output
    (attempt,) = [line for line in result.output.splitlines() if "mx1.example.net" in line]
    assert "451 4.3.0 \\x1b[31mfirst" in attempt
    assert "a7 of bulk" in attempt
    (waited,) = [line.rstrip() for line in result.output.splitlines() if line.startswith("waited ")]
    assert waited.endswith("connection 41.5 s, room 250 ms")
    assert "\x1b" not in result.output
    assert "\x07" not in result.output


def test_an_id_is_one_part_of_the_path(relay: FakeRelay, admin: str) -> None:
    result = run(queue, "show", "../status?x", "--admin", admin)
    assert (result.exit_code, result.stderr) == (1, "not here\n")
    assert relay.asked == [("/api/v1/queue/..%2Fstatus%3Fx", {})]


def test_status_for_people(admin: str) -> None:
    result = run(status, "--admin", admin)
    assert result.exit_code == 0
    assert result.output.startswith(
        "relay.example.org: accepting mail, sandbox, up 1d 1h, version 0.1.0\n  worker 1 does not answer"
    )
    lines = [line.split() for line in result.output.splitlines()]
    assert ["0", "accepting", "4711", "0,", "2", "1m", "1s"] in lines
    assert ["1", "no", "answer", "-", "-", "-"] in lines
    assert ["lookup", "answering", "4712", "-", "1m", "2s"] in lines
    assert ["access", "answering", "4713", "-", "1m", "2s"] in lines
    assert ["accepted", "messages", "7"] in lines


def test_workers_that_do_not_answer_are_named(relay: FakeRelay, admin: str) -> None:
    relay.headers[UNREACHABLE_HEADER] = "0, 2"
    result = run(queue, "list", "--json", "--admin", admin)
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [MESSAGE]
    assert result.stderr == "without workers that do not answer: 0, 2\n"


@pytest.mark.parametrize(
    "command",
    [
        ["summary"],
        ["list"],
        ["show", "0A"],
        ["hold", "0123456789ABC"],
        ["delete", "--all", "--yes"],
        ["export", "--all", "--to", "nowhere"],
    ],
)
def test_a_relay_that_does_not_run_is_one_line_and_exit_1(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        result = run(queue, *command, "--admin", address)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == f"cannot reach the relay at {address}: Connection refused\n"


def test_a_unix_socket_that_is_not_there_is_named() -> None:
    result = run(status, "--admin", "unix:/nowhere/admin.sock")
    assert result.exit_code == 1
    assert result.stderr == "cannot reach the relay at unix:/nowhere/admin.sock: No such file or directory\n"


def test_a_unix_socket_serves_as_well(unix_admin: str) -> None:
    result = run(queue, "summary", "--json", ANGARIUM_ADMIN=unix_admin)
    assert json.loads(result.output) == SUMMARY


def test_a_silent_relay_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = ListenAddress(host="127.0.0.1", port=silent.getsockname()[1])
        with pytest.raises(RelayError, match=r"no answer in 0\.05 s"):
            RelayClient(address, timeout_s=0.05).get("status")


@pytest.mark.parametrize("answer", [(200, b"<html>"), (502, b"<html>"), (200, b"\xff\xff")])
def test_something_else_on_the_port_is_told(relay: FakeRelay, admin: str, answer: tuple[int, bytes]) -> None:
    relay.answers["/api/v1/status"] = answer
    result = run(status, "--admin", admin)
    assert result.exit_code == 1
    assert result.stderr == f"{admin} does not answer like a relay (HTTP {answer[0]})\n"


def test_something_that_does_not_speak_http_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"220 relay.example.org ESMTP Angarium\r\n")
                connection.recv(4096)

        thread = threading.Thread(target=greet)
        thread.start()
        result = run(status, "--admin", f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert result.exit_code == 1
    assert "does not answer like a relay" in result.stderr


@pytest.mark.parametrize(("code", "detail"), [(503, "no worker answers"), (401, "a token is needed")])
def test_what_the_relay_objects_is_printed(relay: FakeRelay, admin: str, code: int, detail: str) -> None:
    relay.answers["/api/v1/queue/summary"] = (code, {"status_code": code, "detail": detail})
    result = run(queue, "summary", "--admin", admin)
    assert (result.exit_code, result.stderr) == (1, f"{detail}\n")


def test_the_token_is_sent(relay: FakeRelay, admin: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\n")
    assert run(queue, "summary", "--admin", admin, "--token-file", str(tmp_path / "token")).exit_code == 0
    assert run(queue, "summary", "--admin", admin).exit_code == 0
    assert relay.authorizations == ["Bearer 0123456789abcdef", None]


def test_a_token_that_cannot_be_read_is_one_line(admin: str, tmp_path: Path) -> None:
    result = run(status, "--admin", admin, "--token-file", str(tmp_path / "none"))
    assert (result.exit_code, result.stderr) == (
        1,
        f"cannot read the token in {tmp_path}/none: No such file or directory\n",
    )


def test_the_configuration_says_where_the_relay_is(relay: FakeRelay, admin: str, tmp_path: Path) -> None:
    config = tmp_path / "angarium.toml"
    config.write_text(f'[admin]\nlisten = "{admin}"\ntoken_file = "token"\n[tls]\nkey = "/nowhere"\nno_such_key = 1\n')
    (tmp_path / "token").write_text("0123456789abcdef\n")
    assert run(queue, "summary", "--config", str(config)).exit_code == 0
    assert run(queue, "summary", ANGARIUM_CONFIG=str(config)).exit_code == 0
    assert relay.authorizations == ["Bearer 0123456789abcdef"] * 2


def test_without_a_configuration_the_sandboxs_address_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, admin: str
) -> None:
    monkeypatch.setattr(client, "DEFAULT_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setattr(client, "DEFAULT_ADDRESS", admin)
    assert json.loads(run(queue, "summary", "--json").output) == SUMMARY


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[admin", "is not TOML"),
        ("admin = 1", "[admin] is not as it should be"),
        ("[admin]\nlisten = 8025", "[admin] is not as it should be"),
        ("[admin]\ntoken_file = []", "[admin] is not as it should be"),
        ("[admin]\nlisten = 'nowhere'", "admin.listen: "),
        (None, "No such file or directory"),
    ],
)
def test_a_configuration_that_does_not_say_is_one_line(tmp_path: Path, text: str | None, problem: str) -> None:
    config = tmp_path / "angarium.toml"
    if text is not None:
        config.write_text(text)
    result = run(status, "--config", str(config))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{config}: ")
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 日本", "plain ü 日本"),
        ("\x1b[2J\x07\r\n", "\\x1b[2J\\x07\\r\\n"),
        ("\u202eevil", "\\u202eevil"),
        ("\x9b31m", "\\x9b31m"),
    ],
)
def test_text_from_outside_cannot_steer_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.9, "59s"), (60, "1m 0s"), (5400, "1h 30m"), (86400, "1d 0h"), (400000, "4d 15h")],
)
def test_durations_are_shown_to_two_units(seconds: float, text: str) -> None:
    assert ago(seconds) == text


@pytest.mark.parametrize(
    ("octets", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (20480, "20 KiB"),
        (5 * 1024**3, "5.0 GiB"),
        (1024**5, "1,024.0 TiB"),
    ],
)
def test_sizes_are_shown_in_powers_of_1024(octets: int, text: str) -> None:
    assert octets_text(octets) == text


def test_a_command_starts_without_what_only_the_server_needs() -> None:
    script = (
        "import sys, angarium.cli.queue, angarium.cli.status, angarium.cli.suspend\n"
        "heavy = ('litestar', 'uvicorn', 'uvloop', 'rich', 'prometheus_client', 'tarfile')\n"
        "print(*[module for module in heavy if module in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.stdout == "\n"
