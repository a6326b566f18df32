"""Health checks as programs make them: HAProxy, which asks without a Host, and curl."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.clients import PATIENCE_S
from tests.support.haproxy import Haproxy
from tests.support.peers import require
from tests.support.relay import Relay, wait_until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.peer


def greeting(port: int) -> bytes:
    """What a client is told first; nothing when it is turned away."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as client:
        try:
            return client.recv(512)
        except ConnectionError:
            return b""


def test_haproxy_sends_nobody_to_a_node_that_is_drained(tmp_path: Path) -> None:
    with Relay(tmp_path) as relay:
        check = f"127.0.0.1:{relay.smtp_port} check port {relay.admin_port} inter 100ms rise 1 fall 1"
        options = ("option httpchk", "http-check send meth GET uri /readyz", "http-check expect status 200")
        with Haproxy({"smtp": check}, options) as proxy:
            port = proxy.ports["smtp"]
            wait_until(lambda: _reaches(port), "HAProxy to listen")
            wait_until(lambda: greeting(port).startswith(b"220 "), "HAProxy to find the relay well")
            relay.ask("drain")
            wait_until(lambda: greeting(port) == b"", "HAProxy to send nobody there any more")
            relay.ask("drain", on=False)
            wait_until(lambda: greeting(port).startswith(b"220 "), "HAProxy to find the relay well again")


def _reaches(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), PATIENCE_S).close()
    except ConnectionRefusedError:
        return False
    return True


def test_curl_in_every_way(tmp_path: Path) -> None:
    curl = require("curl")

    def ask(*words: str) -> str:
        done = subprocess.run(
            [curl, "--silent", "--show-error", "--max-time", "60", *words], capture_output=True, check=True, text=True
        )
        return done.stdout

    with Relay(tmp_path) as relay:
        url = f"http://127.0.0.1:{relay.admin_port}"
        head = ask("--head", f"{url}/readyz")
        assert head.startswith("HTTP/1.1 200 ")
        assert "cache-control: no-store" in head.lower()
        old = ask("--http1.0", "--header", "Host:", f"{url}/readyz?format=text")
        assert old.splitlines() == [
            "ready",
            "[+] supervisor",
            "[+] worker 0",
            "[+] lookup",
            "[+] events",
            "[+] event log",
        ]
        one = json.loads(ask("--header", "Host: relay.service.consul", f"{url}/readyz?check=worker-0"))
        assert one["checks"] == [{"name": "worker 0", "ok": True, "why": None}]
        relay.ask("drain")
        shown = ("--output", "/dev/null", "--write-out", "%{http_code}")
        relay.wait(lambda: ask(*shown, f"{url}/readyz") == "503", "the worker to be drained")
        reason = json.loads(ask(f"{url}/readyz"))["reasons"]
        assert reason == ["worker 0: takes no mail: the node is being drained"]
        assert ask("--fail", f"{url}/healthz?format=text") == "ok\n"
