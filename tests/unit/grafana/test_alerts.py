"""promtool judges the rules: every alert fires in its scenario, after its time and not before, and is silent otherwise.

A scenario is the healthy node with some series changed from minute FAULT on. `quiet` is a weaker form of the same
trouble (too little mail for a share to mean something, or a value below the bound), in which the alert is silent.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from angarium.outcome.metrics import REGISTRY, Kind
from grafana.boards.rules import ALERTS, RECORDINGS

FOLDER = Path(__file__).parents[3] / "grafana"
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)"),
]

FAULT = 90  # minutes
LENGTH = 240
LATE = 210  # every `for` is over by then, and every window but a few hours
NODE = 'instance="relay:8025",job="angarium"'


def counter(rate: float, then: float | None = None) -> str:
    """So much a minute, from FAULT on another amount."""
    then = rate if then is None else then
    start = rate * FAULT
    return f"0+{rate:g}x{FAULT - 1} {start:g}+{then:g}x{LENGTH - FAULT}"


def gauge(value: float, then: float | None = None, slope: float = 0) -> str:
    """A value, from FAULT on another one, which may change by `slope` a minute."""
    then = value if then is None else then
    return f"{value:g}+0x{FAULT - 1} {then:g}+{slope:g}x{LENGTH - FAULT}"


def buckets(name: str, rate: float, slow: float, then: float, bound: float, labels: str = "") -> dict[str, str]:
    """A histogram with `rate` a minute, of which `slow` (from FAULT on `then`) are above `bound` seconds."""
    label = f"{labels}," if labels else ""
    return {
        f'{name}_bucket{{{NODE},{label}le="0.01"}}': counter(rate * (1 - slow), rate * (1 - then)),
        f'{name}_bucket{{{NODE},{label}le="{bound:g}"}}': counter(rate * (1 - slow), rate * (1 - then)),
        f'{name}_bucket{{{NODE},{label}le="{bound * 10:g}"}}': counter(rate),
        f'{name}_bucket{{{NODE},{label}le="+Inf"}}': counter(rate),
        f"{name}_count{{{NODE}{',' + labels if labels else ''}}}": counter(rate),
    }


def of(name: str, values: str, **labels: str) -> dict[str, str]:
    """One series of the node."""
    shown = ",".join([NODE, *(f'{label}="{value}"' for label, value in labels.items())])
    return {f"angarium_{name}{{{shown}}}": values}


def results(prefix: str, delivered: float, deferred: float, failed: float, **labels: str) -> dict[str, str]:
    """Results a minute from FAULT on; before, 600 delivered and few others."""
    made: dict[str, str] = {}
    usual = {"delivered": 600.0, "deferred": 12.0, "failed": 6.0, "expired": 0.0}
    for result, then in (("delivered", delivered), ("deferred", deferred), ("failed", failed), ("expired", 0.0)):
        made |= of(f"{prefix}_recipients_total", counter(usual[result], then), result=result, **labels)
    return made


def healthy() -> dict[str, str]:
    """Every series of the registry on a node that delivers 600 recipients a minute and lacks nothing."""
    series = {"up{" + NODE + "}": gauge(1)}
    named = {
        "provider": ("alphamail", "other"),
        "tenant": ("shop",),
        "listener": ("relay",),
        "shard": ("0",),
        "source": ("default",),
        "pool": ("bulk",),
        "stream": ("crm",),
        "domain": ("a.test",),
    }
    for spec in REGISTRY:
        name = spec.name.removeprefix("angarium_")
        combinations: list[dict[str, str]] = [{}]
        for label in spec.labels:
            values = [value.replace("worker-N", "worker-0") for value in label.values or named[label.name]]
            combinations = [{**one, label.name: value} for one in combinations for value in values]
        for labels in combinations:
            if spec.kind is Kind.COUNTER:
                series |= of(name, counter(0), **labels)
            elif spec.kind is Kind.GAUGE:
                series |= of(name, gauge(0), **labels)
    for provider in named["provider"]:
        series |= results("provider", 300, 6, 3, provider=provider)
        series |= of("provider_connections_total", counter(30), provider=provider, result="opened")
    series |= results("delivery", 600, 12, 6)
    series |= buckets("angarium_queue_sync_latency_seconds", 600, 0, 0, 0.5)
    series |= buckets("angarium_worker_loop_lag_seconds", 6000, 0, 0, 0.2)
    series |= buckets("angarium_delivery_latency_seconds", 600, 0, 0, 10, 'durability="fsync"')
    series |= of("queue_syncs_total", counter(600))
    for process in ("supervisor", "admin", "lookup", "access", "events", "worker-0", "worker-1"):
        series |= of("process_up", gauge(1), process=process)
    series |= of("ingress_messages_total", counter(600), durability="fsync")
    series |= of("ingress_tls_handshakes_total", counter(10), result="ok")
    series |= of("ingress_certificate_expiry_seconds", gauge(60 * 86400))
    series |= of("delivery_connections_total", counter(60), result="opened")
    series |= of("delivery_connections_total", counter(600), result="reused")
    series |= of("delivery_attempts_total", counter(600))
    series |= of("delivery_dns_queries_total", counter(100))
    series |= of("queue_messages", gauge(1500))
    series |= of("queue_memory_state", gauge(2), state="below")
    series |= of("queue_journal_bytes", gauge(4e8))
    series |= of("queue_journal_living_bytes", gauge(1e6))
    series |= of("worker_starts_total", gauge(2))
    for bound, count in (("60", 1400), ("3600", 1500), ("86400", 1500), ("+Inf", 1500)):
        series |= of("queue_age_seconds_bucket", gauge(count), le=bound)
    return series


@dataclass(frozen=True)
class Scenario:
    """What is changed, the labels of the alert beside those of the rule, and a form of it that is no alert."""

    changed: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)
    quiet: dict[str, str] | None = None


def old(counts: tuple[int, int, int]) -> dict[str, str]:
    made: dict[str, str] = {}
    for bound, count in zip(("60", "3600", "86400"), counts, strict=True):
        made |= of("queue_age_seconds_bucket", gauge(1500 if bound != "60" else 1400, count), le=bound)
    return made | of("queue_age_seconds_bucket", gauge(1500, counts[2]), le="+Inf")


def connections(opened: float, reused: float, failed: float) -> dict[str, str]:
    made = of("delivery_connections_total", counter(60, opened), result="opened")
    made |= of("delivery_connections_total", counter(600, reused), result="reused")
    return made | of("delivery_connections_total", counter(0, failed), result="failed")


ALPHA = {"provider": "alphamail"}
CRM = {"stream": "crm"}
SCENARIOS: dict[str, Scenario] = {
    "AngariumDown": Scenario({"up{" + NODE + "}": gauge(1, 0)}, {"job": "angarium"}),
    "AngariumNoWorker": Scenario(
        of("process_up", gauge(1, 0), process="worker-0") | of("process_up", gauge(1, 0), process="worker-1"),
        quiet=of("process_up", gauge(1, 0), process="worker-1"),
    ),
    "AngariumProcessDown": Scenario(
        of("process_up", gauge(1, 0), process="lookup"),
        {"process": "lookup"},
        quiet=of("process_up", gauge(1, 0), process="supervisor"),
    ),
    "AngariumProcessesDie": Scenario(
        of("node_process_hangs_total", counter(0, 0.1), kind="lookup"),
        {"kind": "lookup"},
        quiet=of("node_process_deaths_total", counter(0, 0.01), kind="lookup"),
    ),
    "AngariumWorkerRestarts": Scenario(
        of("worker_starts_total", f"2+0x{FAULT - 1} 2+1x{LENGTH - FAULT}"),
        quiet=of("worker_starts_total", gauge(2, 4)),  # a reload, which starts both once
    ),
    "AngariumJournalFailed": Scenario(of("queue_failed_shards", gauge(0, 1))),
    "AngariumLedgerDrift": Scenario(of("queue_ledger_drift_recipients", gauge(0, -3))),
    "AngariumShardFull": Scenario(of("queue_full_shards", gauge(0, 1))),
    "AngariumSpaceAmplification": Scenario(
        of("queue_journal_bytes", gauge(4e8, 5e9)), quiet=of("queue_journal_bytes", gauge(4e8, 8e8))
    ),
    "AngariumDamagedRecords": Scenario(of("queue_damaged_records_total", counter(0, 0.1), found="read")),
    "AngariumMailRefused": Scenario(
        of("ingress_rejections_total", counter(0, 10), reason="storage"),
        {"reason": "storage"},
        quiet=of("ingress_rejections_total", counter(0, 10), reason="size"),
    ),
    "AngariumConnectionsRefused": Scenario(
        of("ingress_refused_connections_total", counter(0, 5), limit="node"),
        quiet=of("ingress_refused_connections_total", counter(0, 500), limit="client"),  # one client's own limit
    ),
    "AngariumLogInsUnavailable": Scenario(
        of("ingress_authentications_total", counter(0, 2), result="unavailable"),
        quiet=of("ingress_authentications_total", counter(0, 500), result="failed"),
    ),
    "AngariumMemoryPressure": Scenario(
        of("queue_memory_state", gauge(0, 2), state="hard"), quiet=of("queue_memory_state", gauge(0, 2), state="soft")
    ),
    "AngariumSlowSync": Scenario(
        buckets("angarium_queue_sync_latency_seconds", 600, 0, 0.1, 0.5),
        quiet=buckets("angarium_queue_sync_latency_seconds", 600, 0, 0.1, 0.5)
        | of("queue_syncs_total", counter(600, 3)),
    ),
    "AngariumBacklogGrows": Scenario(
        of("queue_messages", gauge(1500, 1500, 100)), quiet=of("queue_messages", gauge(100, 100, 5))
    ),
    "AngariumDeliveryStalls": Scenario(
        of("delivery_ready_messages", gauge(0, 5000)) | of("delivery_attempts_total", counter(600, 0)),
        quiet=of("delivery_ready_messages", gauge(0, 5000))
        | of("delivery_attempts_total", counter(600, 0))
        | of("delivery_connections_total", counter(0, 1), result="failed"),  # it tries, and nobody lets it in
    ),
    "AngariumDropWaits": Scenario(
        of("ingress_drop_waiting_files", gauge(0, 3)),
        quiet=of("ingress_drop_waiting_files", "3+0x5 0+0x5 " * 25),  # they come and go
    ),
    "AngariumMailIsOld": Scenario(
        old((200, 300, 1500)), quiet=old((20, 30, 90)) | of("queue_messages", gauge(1500, 90))
    ),
    "AngariumDeferrals": Scenario(results("delivery", 300, 300, 6), quiet=results("delivery", 4, 4, 0)),
    "AngariumFailures": Scenario(results("delivery", 300, 12, 100), quiet=results("delivery", 4, 0, 2)),
    "AngariumEgressDown": Scenario(connections(0, 0, 60), quiet=connections(0, 0, 1)),
    "AngariumSourceUnusable": Scenario(
        of("delivery_source_failures_total", counter(0, 2)), quiet=of("delivery_source_failures_total", counter(0, 0.2))
    ),
    "AngariumDnsFailures": Scenario(
        of("delivery_dns_failures_total", counter(0, 60)),
        quiet=of("delivery_dns_failures_total", counter(0, 2)) | of("delivery_dns_queries_total", counter(100, 4)),
    ),
    "AngariumProviderDeferrals": Scenario(
        results("provider", 100, 500, 6, provider="alphamail"),
        ALPHA,
        quiet=results("provider", 1, 4, 0, provider="alphamail"),
    ),
    "AngariumProviderRefusals": Scenario(
        results("provider", 300, 6, 200, provider="alphamail"),
        ALPHA,
        quiet=results("provider", 1, 0, 1, provider="alphamail"),
    ),
    "AngariumProviderUnreachable": Scenario(
        of("provider_connections_total", counter(30, 5), result="opened", **ALPHA)
        | of("provider_connections_total", counter(0, 20), result="failed", **ALPHA),
        ALPHA,
        quiet=of("provider_connections_total", counter(30, 0), result="opened", **ALPHA)
        | of("provider_connections_total", counter(0, 0.5), result="failed", **ALPHA),
    ),
    "AngariumAccessToken": Scenario(
        of("delivery_access_token_requests_total", counter(0, 1), result="refused"),
        quiet=of("delivery_access_token_requests_total", counter(0, 1), result="granted"),
    ),
    "AngariumDuplicatesPossible": Scenario(
        of("delivery_possible_duplicates_total", counter(0, 1)),
        quiet=of("delivery_possible_duplicates_total", counter(0, 0.1)),
    ),
    "AngariumLoopLag": Scenario(
        buckets("angarium_worker_loop_lag_seconds", 6000, 0, 0.1, 0.2),
        quiet=buckets("angarium_worker_loop_lag_seconds", 6000, 0, 0.005, 0.2),
    ),
    "AngariumEventsLost": Scenario(of("outcome_dropped_events_total", counter(0, 5))),
    "AngariumEventLogNotCompressed": Scenario(
        of("outcome_event_log_compressions_total", counter(0, 1), result="failed"),
        quiet=of("outcome_event_log_compressions_total", counter(0, 0.1), result="failed")
        | of("outcome_event_log_compressions_total", counter(0, 1), result="ok"),
    ),
    "AngariumEventsProcessDown": Scenario(of("process_up", gauge(1, 0), process="events")),
    "AngariumStreamFailing": Scenario(
        of("stream_failing", gauge(0, 1), stream="crm"),
        CRM,
        quiet=of("stream_failing", "0+0x10 1+0x13 " * 10, stream="crm"),  # it works again before 15 minutes are over
    ),
    "AngariumStreamLags": Scenario(
        of("stream_lag_seconds", gauge(0, 1000, 60), stream="crm"),
        CRM,
        quiet=of("stream_lag_seconds", gauge(0, 600), stream="crm"),
    ),
    "AngariumStreamDeadLetters": Scenario(of("stream_dead_letters", gauge(0, 500), stream="crm"), CRM),
    "AngariumStreamLost": Scenario(
        of("stream_lost_events_total", counter(0, 1), stream="crm"),
        CRM,
        quiet=of("stream_lost_events_total", gauge(7000), stream="crm"),  # long ago
    ),
    "AngariumNotificationsWait": Scenario(of("outcome_waiting_notifications", gauge(0, 7))),
    "AngariumRecipientsUnverified": Scenario(
        of("ingress_recipients_checked_total", counter(0, 5), result="deferred"),
        quiet=of("ingress_recipients_checked_total", counter(0, 50), result="unknown"),
    ),
    "AngariumCertificateExpires": Scenario(
        of("ingress_certificate_expiry_seconds", gauge(60 * 86400, 3 * 86400)),
        quiet=of("ingress_certificate_expiry_seconds", gauge(0, 0))
        | of("ingress_tls_handshakes_total", counter(0), result="ok"),  # a relay without TLS
    ),
    "AngariumUnusualSender": Scenario(of("ingress_unusual_senders_total", counter(0, 0.1))),
    "AngariumMtaStsNotRefreshed": Scenario(
        of("delivery_mta_sts_fetches_total", counter(0, 0.1), result="kept"),
        quiet=of("delivery_mta_sts_fetches_total", counter(0, 10), result="failed"),
    ),
    "AngariumReloadRefused": Scenario(of("node_last_reload_refused", gauge(0, 1))),
    "AngariumDraining": Scenario(of("node_draining", gauge(0, 1))),
}


def firing(alert: str = "") -> str:
    name = f',alertname="{alert}"' if alert else ""
    return f'ALERTS{{alertstate="firing"{name}}}'


def question(expression: str, minute: int, expected: list[dict[str, Any]]) -> dict[str, Any]:
    return {"expr": expression, "eval_time": f"{minute}m", "exp_samples": expected}


def case(name: str, series: dict[str, str], questions: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": questions,
    }


def judged(folder: Path, cases: list[dict[str, Any]]) -> None:
    """Have promtool look at the cases."""
    rules = [str(FOLDER / name) for name in ("recording.yml", "alerts.yml")]
    path = folder / "tests.yml"
    path.write_text(yaml.safe_dump({"rule_files": rules, "evaluation_interval": "1m", "tests": cases}, sort_keys=False))
    judge = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert judge.returncode == 0, judge.stdout + judge.stderr


def for_alert(alert: Any, series: dict[str, str]) -> dict[str, str]:
    """The series that the alert asks for, by itself or by a recording; what else there is makes promtool slow."""
    exprs = alert.expr + "".join(rule.expr for rule in RECORDINGS if rule.record in alert.expr)
    wanted = set(re.findall(r"\b(?:angarium_\w+|up)\b", exprs))
    return {name: values for name, values in series.items() if name.partition("{")[0] in wanted}


def for_minutes(wait: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([smh])", wait or "0s").groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1 / 60, "m": 1, "h": 60}[unit]


def test_the_rules_are_rules() -> None:
    files = [str(FOLDER / name) for name in ("alerts.yml", "recording.yml")]
    judge = subprocess.run(
        ["promtool", "check", "rules", "--lint-fatal", *files], capture_output=True, text=True, check=False
    )
    assert judge.returncode == 0, judge.stdout + judge.stderr


def test_every_alert_has_a_scenario() -> None:
    assert list(SCENARIOS) == [alert.name for alert in ALERTS]


def test_a_healthy_node_is_silent(tmp_path: Path) -> None:
    moments = range(10, LENGTH, 40)
    silent = [question("count(ALERTS)", minute, []) for minute in moments]
    there = question(
        "count(instance_provider:angarium_provider_deferred:ratio_rate15m)", LATE, [{"labels": "{}", "value": 2}]
    )
    judged(tmp_path, [case("healthy", healthy(), [*silent, there])])


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_fires_in_its_scenario_and_not_before(tmp_path: Path, alert: Any) -> None:
    scenario = SCENARIOS[alert.name]
    labels = {"__name__": "ALERTS", "alertname": alert.name, "alertstate": "firing", "instance": "relay:8025"}
    labels |= {"severity": alert.severity, "scope": alert.scope} | scenario.labels
    shown = "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
    questions = [
        question(firing(alert.name), FAULT - 1, []),
        question(firing(alert.name), LATE, [{"labels": shown, "value": 1}]),
    ]
    if for_minutes(alert.wait) >= 1:
        questions.append(question(firing(alert.name), FAULT + int(for_minutes(alert.wait)) - 1, []))
    cases = [case("fires", for_alert(alert, healthy() | scenario.changed), questions)]
    if scenario.quiet is not None:
        silent = [question(firing(alert.name), minute, []) for minute in (FAULT + 20, LATE)]
        cases.append(case("quiet", for_alert(alert, healthy() | scenario.quiet), silent))
    judged(tmp_path, cases)


def test_a_share_has_a_quiet_form() -> None:
    """What divides by a volume is told apart from a handful of messages."""
    for alert in ALERTS:
        if " / " in alert.expr or "ratio_rate" in alert.expr or "histogram_quantile" in alert.expr:
            assert SCENARIOS[alert.name].quiet is not None, alert.name
