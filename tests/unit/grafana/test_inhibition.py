"""Alertmanager itself, with the sample configuration: what silences what."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from grafana.boards.rules import ALERTS
from tests.support.ports import free_port
from tests.support.relay import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLE = Path(__file__).parents[3] / "grafana" / "alertmanager.yml"
PROGRAM = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
RULES = {alert.name: alert for alert in ALERTS}
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(
        shutil.which("amtool") is None or PROGRAM is None,
        reason="Alertmanager is not installed (Debian: prometheus-alertmanager)",
    ),
]


def amtool(*arguments: str) -> str:
    done = subprocess.run(["amtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_sample_is_a_configuration() -> None:
    assert "11 inhibit rules" in amtool("check-config", str(SAMPLE))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_pages_and_tickets_go_to_those_who_want_them(alert: Any) -> None:
    labels = [f"severity={alert.severity}", f"scope={alert.scope}", f"alertname={alert.name}", "instance=relay:8025"]
    receiver = amtool("config", "routes", "test", f"--config.file={SAMPLE}", *labels).strip()
    assert receiver == {"page": "pager", "ticket": "tickets"}[alert.severity]


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("alertmanager")
    port = free_port()
    assert PROGRAM is not None
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                PROGRAM,
                f"--config.file={SAMPLE}",
                f"--storage.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            ],
            stdout=log,
            stderr=log,
        )
    root = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(f"{root}/-/ready"), "Alertmanager to be ready")
        yield root
    finally:
        process.terminate()
        process.wait(30)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def post(root: str, alerts: list[dict[str, str]]) -> None:
    now = datetime.now(UTC)
    body = [{"labels": labels, "startsAt": now.isoformat()} for labels in alerts]
    request = urllib.request.Request(
        f"{root}/api/v2/alerts", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=10).close()


def states(root: str, instance: str) -> dict[str, str]:
    """Each alert of a node, active or suppressed."""
    with urllib.request.urlopen(f"{root}/api/v2/alerts", timeout=10) as answer:
        found = json.load(answer)
    return {
        alert["labels"]["alertname"] + alert["labels"].get("provider", alert["labels"].get("stream", "")): alert[
            "status"
        ]["state"]
        for alert in found
        if alert["labels"]["instance"] == instance
    }


def labels(name: str, instance: str, **more: str) -> dict[str, str]:
    return {
        "alertname": name,
        "instance": instance,
        "severity": RULES[name].severity,
        "scope": RULES[name].scope,
        **more,
    }


ALPHA = {"provider": "alphamail"}
CRM = {"stream": "crm"}
TROUBLE: dict[str, tuple[list[tuple[str, dict[str, str]]], set[str]]] = {
    "own DNS is down": (
        [
            ("AngariumDnsFailures", {}),
            ("AngariumEgressDown", {}),
            ("AngariumProviderUnreachable", ALPHA),
            ("AngariumProviderDeferrals", ALPHA),
            ("AngariumDeferrals", {}),
            ("AngariumSlowSync", {}),
        ],
        {"AngariumDnsFailures", "AngariumSlowSync"},
    ),
    "own way out is closed": (
        [("AngariumEgressDown", {}), ("AngariumProviderUnreachable", ALPHA), ("AngariumMailIsOld", {})],
        {"AngariumEgressDown"},
    ),
    "one provider defers": (
        [("AngariumProviderDeferrals", ALPHA), ("AngariumDeferrals", {}), ("AngariumBacklogGrows", {})],
        {"AngariumProviderDeferralsalphamail", "AngariumBacklogGrows"},
    ),
    "no worker": (
        [("AngariumNoWorker", {}), ("AngariumLoopLag", {}), ("AngariumDamagedRecords", {})],
        {"AngariumNoWorker", "AngariumDamagedRecords"},
    ),
    "disk full": (
        [("AngariumShardFull", {}), ("AngariumMailRefused", {"reason": "storage"}), ("AngariumEventsLost", {})],
        {"AngariumShardFull"},
    ),
    "log disk full": (
        [("AngariumEventsLost", {}), ("AngariumEventLogNotCompressed", {})],
        {"AngariumEventsLost"},
    ),
    "access process away": (
        [
            ("AngariumProcessDown", {"process": "access"}),
            ("AngariumRecipientsUnverified", {}),
            ("AngariumLogInsUnavailable", {}),
        ],
        {"AngariumProcessDown", "AngariumRecipientsUnverified"},
    ),
    "lookup process away": (
        [
            ("AngariumProcessDown", {"process": "lookup"}),
            ("AngariumLogInsUnavailable", {}),
            ("AngariumBacklogGrows", {}),
            ("AngariumRecipientsUnverified", {}),
        ],
        {"AngariumProcessDown", "AngariumLogInsUnavailable"},
    ),
    "receiver of a stream away": (
        [
            ("AngariumStreamFailing", CRM),
            ("AngariumStreamLags", {"stream": "audit"}),
            ("AngariumStreamDeadLetters", CRM),
            ("AngariumStreamLost", CRM),
            ("AngariumStreamLags", CRM),
        ],
        {
            "AngariumStreamFailingcrm",
            "AngariumStreamLagsaudit",
            "AngariumStreamDeadLetterscrm",
            "AngariumStreamLostcrm",
        },
    ),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_what_is_told(alertmanager: str, trouble: str) -> None:
    given, told = TROUBLE[trouble]
    instance = f"{trouble.replace(' ', '-')}:8025"
    post(alertmanager, [labels(name, instance, **more) for name, more in given])
    # the same of a neighbour, one at a time: his trouble is told, whatever is wrong here
    post(alertmanager, [labels(given[-1][0], f"neighbour-of-{instance}", **given[-1][1])])

    def judged() -> dict[str, str]:
        found = states(alertmanager, instance)
        return found if len(found) == len(given) and "unprocessed" not in found.values() else {}

    wait_until(judged, "Alertmanager to have looked at all of them", 60)
    active = wait_until(
        lambda: {name for name, state in states(alertmanager, instance).items() if state == "active"} == told,
        f"only {told} to be told",
        60,
    )
    assert active
    neighbour = states(alertmanager, f"neighbour-of-{instance}")
    assert list(neighbour.values()) != ["suppressed"]
