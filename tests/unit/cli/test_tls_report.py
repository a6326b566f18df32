"""`angarium tls-report` as people and programs see it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner

from angarium.cli import client as client_module
from angarium.cli.client import RelayClient, RelayError
from angarium.cli.tls_report import tls_report

if TYPE_CHECKING:
    import pytest


def policy(kind: str, successes: int, failures: int, *details: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": kind,
        "strings": [],
        "hosts": [],
        "successes": successes,
        "failures": failures,
        "details": list(details),
    }


DETAIL = {
    "type": "certificate-expired",
    "sessions": 1200,
    "sending_ip": "192.0.2.1",
    "receiving_host": "mx.a.example",
    "receiving_ip": None,
    "reason": "expired \x1b[31m",
}
ANSWER = {
    "day": "2026-03-01",
    "domains": [
        {
            "domain": "a.example",
            "successes": 5,
            "failures": 1200,
            "policies": [policy("sts", 5, 1200, DETAIL), policy("tlsa", 0, 0)],
            "reports": [{"address": "https://a.example/", "state": "due", "attempts": 2, "text": "HTTP status 503"}],
        },
        {
            "domain": "b.example",
            "successes": 7,
            "failures": 0,
            "policies": [policy("no-policy-found", 7, 0)],
            "reports": [],
        },
    ],
}


class Relay(RelayClient):
    """A relay that says what the test wants."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[tuple[str, ...], dict[str, Any]]] = []

    def get(self, *path: str, **query: Any) -> Any:
        self.asked.append((path, query))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def run(relay: Relay, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.setattr(client_module, "_client", lambda *_: relay)
    return CliRunner().invoke(tls_report, arguments)


def test_all_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Relay(ANSWER)
    shown = run(relay, monkeypatch)
    assert shown.exit_code == 0
    assert relay.asked == [(("tls-report",), {"day": None, "domain": None, "limit": 100})]
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[1:] == [
        ["a.example", "MTA-STS", "5", "1,200", "certificate-expired", "(1,200)"],
        ["a.example", "DANE", "0", "0", "-"],
        ["b.example", "-", "7", "0", "-"],
    ]
    assert shown.stderr == ""


def test_one_domain_with_its_failures_and_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Relay({**ANSWER, "domains": ANSWER["domains"][:1]})
    shown = run(relay, monkeypatch, "--domain", "a.example", "--day", "2026-03-01")
    assert relay.asked[0][1] == {"day": "2026-03-01", "domain": "a.example", "limit": 100}
    assert "mx.a.example" in shown.stdout
    assert "expired \\x1b[31m" in shown.stdout  # what hosts say cannot steer the terminal
    assert "https://a.example/" in shown.stdout
    assert "HTTP status 503" in shown.stdout


def test_more_domains_than_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = run(Relay(ANSWER), monkeypatch, "--limit", "2")
    assert shown.stderr == "the first 2 domains are shown; see --limit\n"


def test_nothing_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Relay({"day": "2026-03-01", "domains": []})
    assert run(nothing, monkeypatch).stdout == "no TLS sessions on 2026-03-01\n"
    assert run(nothing, monkeypatch, "--domain", "c.example").stdout == (
        "no TLS sessions with hosts of c.example on 2026-03-01\n"
    )


def test_json_is_the_api_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(run(Relay(ANSWER), monkeypatch, "--json").stdout) == ANSWER


def test_failure_and_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = run(Relay(RelayError("the lookup process does not answer")), monkeypatch)
    assert (failed.exit_code, failed.stderr) == (1, "the lookup process does not answer\n")
    assert run(Relay(ANSWER), monkeypatch, "--day", "1.3.2026").exit_code == 2
    assert run(Relay(ANSWER), monkeypatch, "--limit", "0").exit_code == 2
