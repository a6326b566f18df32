"""`angarium demo` with a real Prometheus: every query of panels and rules answers, and says what the demo did."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from angarium.cli.demo.traffic import letters
from angarium.cli.demo.world import PROVIDERS, provider_of
from angarium.outcome.metrics import REGISTRY
from grafana.boards.ask import Prometheus, filled, panels
from grafana.boards.render import picture
from tests.support.ports import free_port, is_free
from tests.support.relay import clean_environment, command_line, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[2] / "grafana"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))}
PATIENCE_S = 360
MESSAGES = 400
VALUES = {"instance": ".*", "provider": ".*", "tenant": ".*", "__rate_interval": "5m", "__interval": "5m"}
EVERY_S = 3  # between scrapes

pytestmark = [
    pytest.mark.peer,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is not installed (Debian: prometheus)"),
]

# Panels that show nothing in a demo in which all is well, each with the reason. A zero is a series.
SILENT = {
    ("overview", "Domains with the most waiting mail"): "nothing waits when the demo is over",
}


@dataclass(frozen=True)
class Ended:
    """A demo that has done its work and still runs."""

    report: dict[str, Any]
    prometheus: Prometheus
    at: float  # a moment after the last message at which a scrape had succeeded and the rules had been looked at

    def ask(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What Prometheus says of that moment."""
        return self.prometheus.instant(expression, self.at)

    def total(self, selector: str) -> float:
        """The sum of some series."""
        return sum(value for _, value in self.ask(f"sum({selector})"))


def moment_after(prometheus: Prometheus, done: float) -> float:
    """Now, if a scrape that began after `done` has succeeded, and the rules were looked at after it; else 0."""
    now = time.time()
    when = [
        prometheus.instant(f"min(timestamp({name}))", now)
        for name in ("angarium_queue_messages", "instance:angarium_ingress_messages:rate5m")
    ]
    if not all(when):
        return 0.0
    scraped, looked = (found[0][1] for found in when)
    return now if done + EVERY_S < scraped < looked else 0.0


def arguments(folder: Path, *more: str, messages: int = MESSAGES, seed: int = 7) -> tuple[list[str], int, int]:
    """The command, the relay's HTTP port and Prometheus'."""
    http_port, prometheus_port = free_port(), free_port()
    options = {
        "--folder": folder / "demo",
        "--messages": messages,
        "--rate": 40,
        "--seed": seed,
        "--report": folder / "report.json",
        "--smtp-port": free_port(),
        "--newsletter-port": free_port(),
        "--submission-port": free_port(),
        "--http-port": http_port,
        "--hosts-port": free_port(),
        "--prometheus-port": prometheus_port,
        "--scrape-every": EVERY_S,
        "--rules": FOLDER,
    }
    return (
        command_line("demo", *(str(part) for pair in options.items() for part in pair), *more),
        http_port,
        prometheus_port,
    )


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ended]:
    folder = tmp_path_factory.mktemp("demo")
    argv, http_port, prometheus_port = arguments(folder)
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(argv, stderr=output, text=True, env=clean_environment())
    try:
        report = folder / "report.json"
        wait_until(lambda: report.exists() or process.poll() is not None, "the demo to be done", PATIENCE_S)
        assert process.poll() is None, log.read_text()
        prometheus = Prometheus(f"http://127.0.0.1:{prometheus_port}")
        done = time.time()
        at = wait_until(lambda: moment_after(prometheus, done), "a scrape, and the rules after it", PATIENCE_S)
        yield Ended(json.loads(report.read_text()), prometheus, at)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
        assert "the demo has ended" in log.read_text()
        for port in (http_port, prometheus_port):
            assert is_free("127.0.0.1", port), "something goes on"
        for name in ("relay.log", "prometheus/prometheus.log"):
            assert "Traceback" not in (folder / "demo" / name).read_text()
    finally:
        process.terminate()
        process.wait(60)


QUERIES = [
    pytest.param(board, panel["title"], target["expr"], id=f"{board}-{panel['title']}-{target['refId']}")
    for board, content in BOARDS.items()
    for panel in panels(content)
    for target in panel["targets"]
]


@pytest.mark.parametrize(("board", "title", "expression"), QUERIES)
def test_every_query_of_a_panel_answers(ended: Ended, board: str, title: str, expression: str) -> None:
    found = ended.ask(filled(expression, VALUES))
    if (board, title) in SILENT:
        return
    assert found, "no series"


def test_what_is_said_to_be_silent_is_a_panel() -> None:
    known = {(board, panel["title"]) for board, content in BOARDS.items() for panel in panels(content)}
    assert set(SILENT) <= known


def rules(kind: str) -> list[dict[str, Any]]:
    content = [yaml.safe_load((FOLDER / name).read_text()) for name in ("recording.yml", "alerts.yml")]
    return [rule for file in content for group in file["groups"] for rule in group["rules"] if kind in rule]


def without_bounds(expression: str) -> str:
    """An alert's expression that says 0 or 1 where the alert would have no series or some."""
    return re.sub(r"(==|!=|>=|<=|>|<)(?=\s)", r"\1 bool", expression)


@pytest.mark.parametrize("rule", rules("record"), ids=lambda rule: rule["record"])
def test_every_recording_is_there(ended: Ended, rule: dict[str, Any]) -> None:
    assert ended.ask(rule["record"])


# What cannot be there yet, each with the reason.
NOT_YET = {
    "AngariumBacklogGrows": "compares with an hour ago",
    "AngariumDnsFailures": "a demo asks no name server",
    "AngariumMailIsOld": "nothing is queued any more",
}


@pytest.mark.parametrize("rule", rules("alert"), ids=lambda rule: rule["alert"])
def test_every_alert_asks_for_what_is_there(ended: Ended, rule: dict[str, Any]) -> None:
    found = ended.ask(without_bounds(rule["expr"]))
    assert found or rule["alert"] in NOT_YET
    if rule["alert"] in NOT_YET:
        for selector in re.findall(r"angarium_\w+(?:\{[^}]*\})?", rule["expr"]):
            assert ended.ask(selector), selector


def test_no_alert_of_our_own_fires(ended: Ended) -> None:
    """The demo has providers in trouble, and a node that has none."""
    firing = {alert["labels"]["alertname"] for alert in ended.prometheus.alerts() if alert["state"] == "firing"}
    assert not firing - {"AngariumProviderUnreachable", "AngariumProviderDeferrals", "AngariumProviderRefusals"}


def test_the_exporter_has_every_metric(ended: Ended) -> None:
    known = {labels["__name__"] for labels, _ in ended.ask('{job="angarium"}')}
    for spec in REGISTRY:
        there = any(name == spec.name or name.startswith(f"{spec.name}_") for name in known)
        assert there or spec.top is not None, spec.name


# ---------------------------------------------------------------- values


def test_accepted_is_what_was_sent(ended: Ended) -> None:
    report = ended.report
    assert report["lost"] == 0
    assert ended.total("angarium_ingress_messages_total") == sum(report["accepted"].values())
    assert sum(report["accepted"].values()) + sum(report["refused"].values()) == MESSAGES
    assert ended.total('angarium_ingress_rejections_total{reason="size"}') == sum(report["refused"].values()) > 0


@pytest.mark.parametrize("tenant", ["shop", "codes", "newsletter"])
def test_tenants_have_what_they_sent(ended: Ended, tenant: str) -> None:
    selector = f'angarium_tenant_recipients_total{{tenant="{tenant}",result="accepted"}}'
    assert ended.total(selector) == ended.report["recipients"][tenant] > 0


@pytest.mark.parametrize("provider", [provider for provider in PROVIDERS if provider.listens], ids=lambda one: one.name)
def test_providers_have_what_they_said(ended: Ended, provider: Any) -> None:
    label = "other" if provider is PROVIDERS[-1] else provider.name
    told = ended.report["providers"][provider.name]
    for result, word in (("delivered", "taken"), ("failed", "refused"), ("deferred", "deferred")):
        selector = f'angarium_provider_recipients_total{{provider="{label}",result="{result}"}}'
        assert ended.total(selector) == told.get(word, 0), result
    assert told["taken"] > 0


def test_the_stream_has_sent_what_was_received(ended: Ended) -> None:
    report = ended.report
    taken = sum(report["events"].values())
    assert ended.total('angarium_stream_sent_events_total{stream="crm"}') == taken
    assert report["events"]["delivery"] == ended.total('angarium_delivery_recipients_total{result="delivered"}')
    assert report["events"]["expiry"] == ended.total('angarium_delivery_recipients_total{result="expired"}') > 0
    assert ended.total("angarium_stream_failures_total") == report["refused_batches"] > 0
    for now in ("lag_seconds", "failing", "dead_letters"):
        assert ended.total(f"angarium_stream_{now}") == 0, now
    assert ended.total("angarium_stream_lost_events_total") == 0


def test_who_does_not_listen_is_given_up(ended: Ended) -> None:
    gone = next(provider.name for provider in PROVIDERS if not provider.listens)
    assert ended.total(f'angarium_provider_recipients_total{{provider="{gone}",result="expired"}}') > 0
    assert ended.total(f'angarium_provider_connections_total{{provider="{gone}",result="failed"}}') > 0
    assert ended.total(f'angarium_provider_recipients_total{{provider="{gone}",result="delivered"}}') == 0


def test_nothing_is_left_and_the_ledger_agrees(ended: Ended) -> None:
    assert ended.total("angarium_queue_messages") == 0
    assert ended.total("angarium_queue_ledger_drift_recipients") == 0
    ledger = {
        labels["outcome"]: value
        for labels, value in ended.ask("sum by (outcome) (angarium_queue_ledger_recipients_total)")
    }
    assert ledger["accepted"] == ledger["delivered"] + ledger["bounced"] + ledger["expired"]
    taken = sum(told.get("taken", 0) for told in ended.report["providers"].values())
    assert ledger["delivered"] == taken


def test_panels_show_these_values(ended: Ended) -> None:
    """The stat of the overview, over a window that holds all of the demo, is the share that the hosts have deferred."""
    panel = next(one for one in panels(BOARDS["overview"]) if one["title"] == "Deferred")
    ((_, shown),) = ended.ask(filled(panel["targets"][0]["expr"], VALUES | {"__rate_interval": "15m"}))
    deferred = ended.total('angarium_delivery_recipients_total{result="deferred"}')
    assert shown == pytest.approx(deferred / ended.total("angarium_delivery_recipients_total"), rel=0.05)
    # connections that could not be had defer as well, and are not the hosts' words
    assert deferred >= sum(told.get("deferred", 0) for told in ended.report["providers"].values()) > 0


def test_exemplars_lead_to_messages(ended: Ended) -> None:
    now = ended.at
    found = ended.prometheus.exemplars("angarium_delivery_latency_seconds_bucket", now - 600, now)
    assert found
    for exemplar in found:
        assert re.fullmatch(r"[0-9A-Z]{13}", exemplar["labels"]["message_id"])


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_can_be_drawn(ended: Ended, name: str) -> None:
    drawn = picture(BOARDS[name], ended.prometheus, VALUES, ended.at - 300, ended.at)
    for panel in panels(BOARDS[name], collapsed=False):
        assert panel["title"].replace("&", "&amp;") in drawn
    assert "<polyline" in drawn
    assert "no data" not in drawn


def test_once_ends_by_itself(tmp_path: Path) -> None:
    """Without Prometheus, and with a seed that sends nothing to the host that is not there: nothing has to expire."""
    seed = next(
        seed
        for seed in range(1000)
        if all(provider_of(to).listens for letter in letters(20, seed) for to in letter.recipients)
    )
    argv, http_port, _ = arguments(tmp_path, "--once", "--prometheus-port", "0", messages=20, seed=seed)
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=240, env=clean_environment())
    assert done.returncode == 0, done.stderr
    assert "Prometheus  not running" in done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert sum(report["accepted"].values()) + sum(report["refused"].values()) == 20
    assert sum(told.get("taken", 0) for told in report["providers"].values()) > 0
    assert is_free("127.0.0.1", http_port)


def test_a_relay_that_does_not_start_is_said(tmp_path: Path) -> None:
    argv, http_port, _ = arguments(tmp_path, messages=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", http_port))
        taken.listen()
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=240, env=clean_environment())
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("angarium: the relay does not start: ")
    assert "Address already in use" in line
