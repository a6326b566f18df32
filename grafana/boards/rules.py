"""The recording and alert rules, in the names of the registry, and their text as Prometheus reads it.

An alert is a fact that somebody must act on. Its severity: `page` when mail is refused or lost or stands still,
`ticket` when today is soon enough. Its scope says whose trouble it is (node, egress, dns, provider, stream):
alertmanager.yml lets trouble of our own silence what follows from it. Shares are asked for together with a volume, so
that three messages at night wake nobody. Each has a runbook in docs/runbooks.md under its own name, and names the board
that shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import yaml

from .query import Scope, summed

RUNBOOKS = "https://example.org/angarium/docs/runbooks.md"
NODE = ("instance",)
PROVIDER = ("instance", "provider")
STREAM = ("instance", "stream")
PROCESS = ("instance", "process")
ANY = Scope()
M5, M10, M15, M30, H1 = (ANY.within(window) for window in ("5m", "10m", "15m", "30m", "1h"))


@dataclass(frozen=True)
class Recording:
    """One recording rule: what boards and alerts ask for again and again, or for months."""

    record: str
    expr: str


@dataclass(frozen=True)
class Alert:
    """One alert rule."""

    name: str
    expr: str
    severity: Literal["page", "ticket"]
    summary: str
    wait: str = ""
    scope: Literal["node", "egress", "dns", "provider", "stream"] = "node"
    board: str = "node"


def _increase(scope: Scope, name: str, by: tuple[str, ...] = NODE, **values: str | tuple[str, ...]) -> str:
    return scope.increase(name, by, **values).expr


def _level(name: str, by: tuple[str, ...] = NODE, how: str = "sum", **values: str | tuple[str, ...]) -> str:
    return ANY.level(name, by, how=how, **values).expr


def _p99(scope: Scope, name: str) -> str:
    return scope.quantile(0.99, name, NODE).expr


def _share(scope: Scope, name: str, wanted: str | tuple[str, ...], by: tuple[str, ...] = NODE) -> str:
    part = scope.rate(name, by, result=wanted).expr
    return f"{part}\n  / ({scope.rate(name, by).expr} > 0)"


DEFERRED = "instance:angarium_delivery_deferred:ratio_rate15m"
FAILED = "instance:angarium_delivery_failed:ratio_rate1h"
PROVIDER_DEFERRED = "instance_provider:angarium_provider_deferred:ratio_rate15m"
PROVIDER_FAILED = "instance_provider:angarium_provider_failed:ratio_rate1h"

RECORDINGS = (
    Recording("instance:angarium_ingress_messages:rate5m", M5.rate("ingress_messages_total", NODE).expr),
    Recording(
        "instance_result:angarium_delivery_recipients:rate5m",
        M5.rate("delivery_recipients_total", ("instance", "result")).expr,
    ),
    Recording("instance:angarium_delivery_latency_seconds:p99_rate5m", _p99(M5, "delivery_latency_seconds")),
    Recording(
        "instance_tenant_result:angarium_tenant_recipients:rate5m",
        M5.rate("tenant_recipients_total", ("instance", "tenant", "result")).expr,
    ),
    Recording(
        "instance_provider_result:angarium_provider_recipients:rate5m",
        M5.rate("provider_recipients_total", (*PROVIDER, "result")).expr,
    ),
    Recording(DEFERRED, _share(M15, "delivery_recipients_total", "deferred")),
    Recording(FAILED, _share(H1, "delivery_recipients_total", ("failed", "expired"))),
    Recording(PROVIDER_DEFERRED, _share(M15, "provider_recipients_total", "deferred", PROVIDER)),
    Recording(PROVIDER_FAILED, _share(H1, "provider_recipients_total", ("failed", "expired"), PROVIDER)),
)

MESSAGES = ANY.select("queue_messages")
QUEUED = summed(MESSAGES, NODE)
QUEUED_BEFORE = summed(f"{MESSAGES} offset 1h", NODE)
QUEUE_GROWTH = summed(f"deriv({MESSAGES}[30m])", NODE)
WORKERS = f"count by (instance) ({ANY.select('process_up', process='worker-.*')})"

ALERTS = (
    Alert(
        "AngariumDown",
        'up{job="angarium"} == 0',
        "page",
        "{{ $labels.instance }} cannot be scraped",
        "2m",
    ),
    Alert(
        "AngariumNoWorker",
        f"{_level('process_up', process='worker-.*')} == 0",
        "page",
        "No worker of {{ $labels.instance }} answers: no mail is accepted or delivered",
        "1m",
    ),
    Alert(
        "AngariumProcessDown",
        f"{_level('process_up', PROCESS, how='max', process=('lookup', 'access'))} == 0",
        "page",
        "The {{ $labels.process }} process of {{ $labels.instance }} does not answer",
        "2m",
    ),
    Alert(
        # one death is mended by itself, and its cause is in the log; a hang is a fault of the relay or of the machine
        "AngariumProcessesDie",
        f"{_increase(H1, 'node_process_deaths_total', ('instance', 'kind'))} > 2\n"
        f"  or {_increase(H1, 'node_process_hangs_total', ('instance', 'kind'))} > 0",
        "ticket",
        "{{ $labels.kind }} processes of {{ $labels.instance }} die or hang, and are started again",
    ),
    Alert(
        # a reload starts each worker once at most, so twice their number is more than that
        "AngariumWorkerRestarts",
        f"{_increase(M15, 'worker_starts_total')}\n  > 2 * {WORKERS}",
        "page",
        "Workers of {{ $labels.instance }} die again and again",
    ),
    Alert(
        "AngariumJournalFailed",
        f"{_level('queue_failed_shards')} > 0",
        "page",
        "{{ $value }} journals of {{ $labels.instance }} cannot be written",
        "30s",
    ),
    Alert(
        # either way: recipients that are lost to the queue, or that the ledger does not know
        "AngariumLedgerDrift",
        f"{_level('queue_ledger_drift_recipients')} != 0",
        "page",
        "The ledger of {{ $labels.instance }} and its queue differ by {{ $value }} recipients",
        "30s",
    ),
    Alert(
        "AngariumShardFull",
        f"{_level('queue_full_shards')} > 0",
        "page",
        "{{ $value }} journals of {{ $labels.instance }} have no room for mail",
        "1m",
    ),
    Alert(
        # beside what every shard has whatever is queued: seven segments, of 64 MB unless queue.segment_size says less
        "AngariumSpaceAmplification",
        f"{_level('queue_journal_bytes')}\n  > 2 * {_level('queue_journal_living_bytes')} + 448e6 * {WORKERS}",
        "ticket",
        "The journals of {{ $labels.instance }} take {{ $value | humanize1024 }}B, over twice what is queued",
        "15m",
    ),
    Alert(
        "AngariumDamagedRecords",
        f"{_increase(H1, 'queue_damaged_records_total')} > 0",
        "page",
        "{{ $labels.instance }} lost about {{ $value | humanize }} messages to damaged records on disk",
    ),
    Alert(
        "AngariumMailRefused",
        M5.rate("ingress_rejections_total", ("instance", "reason"), reason=("storage", "memory_full")).expr + " > 0",
        "page",
        "{{ $labels.instance }} refuses mail for want of {{ $labels.reason }}",
        "1m",
    ),
    Alert(
        "AngariumConnectionsRefused",
        f"{_increase(M10, 'ingress_refused_connections_total', limit='node')} > 20",
        "page",
        "{{ $labels.instance }} has as many client connections as it may, and turned {{ $value | humanize }} away",
        "5m",
        board="overview",
    ),
    Alert(
        "AngariumLogInsUnavailable",
        f"{_increase(M10, 'ingress_authentications_total', result='unavailable')} > 5",
        "page",
        "{{ $labels.instance }} cannot verify log-ins: {{ $value | humanize }} were answered 454",
        "5m",
        board="overview",
    ),
    Alert(
        "AngariumMemoryPressure",
        f"{_level('queue_memory_state', state=('hard', 'refusing'))} > 0",
        "ticket",
        "{{ $labels.instance }} slows its clients down: mail data in memory is over the hard mark",
        "10m",
    ),
    Alert(
        "AngariumSlowSync",
        f"{_p99(M10, 'queue_sync_latency_seconds')} > 0.5\n  and {M10.rate('queue_syncs_total', NODE).expr} > 0.1",
        "ticket",
        "1 in 100 syncs of {{ $labels.instance }}'s journals takes over half a second",
        "10m",
    ),
    Alert(
        "AngariumBacklogGrows",
        f"{QUEUED} > 1000\n  and {QUEUED} > 1.5 * {QUEUED_BEFORE}\n  and {QUEUE_GROWTH} > 0",
        "ticket",
        "{{ $labels.instance }} holds {{ $value }} messages, half as much again as an hour ago, and it grows",
        "15m",
        board="overview",
    ),
    Alert(
        # what is ready may go: mail of a host that is suspended or cannot be reached is not among it
        "AngariumDeliveryStalls",
        f"{_level('delivery_ready_messages')} > 100\n"
        f"  and {_increase(M15, 'delivery_attempts_total')} == 0\n"
        f"  and {_increase(M15, 'delivery_connections_total', result='failed')} == 0",
        "page",
        "{{ $value }} messages of {{ $labels.instance }} may go, and no attempt has been made for 15 minutes",
        "5m",
        board="overview",
    ),
    Alert(
        "AngariumDropWaits",
        f"{_level('ingress_drop_waiting_files')} > 0",
        "ticket",
        "{{ $value }} messages of programs on {{ $labels.instance }} lie in the drop folder",
        "15m",
    ),
    Alert(
        "AngariumMailIsOld",
        f"{ANY.quantile(0.5, 'queue_age_seconds', NODE).expr} > 4 * 3600\n  and {_level('queue_messages')} > 100",
        "ticket",
        "Half of what {{ $labels.instance }} has queued was accepted more than {{ $value | humanizeDuration }} ago",
        "30m",
        board="overview",
    ),
    Alert(
        "AngariumDeferrals",
        f"{DEFERRED} > 0.3\n  and {_increase(M15, 'delivery_recipients_total')} > 200",
        "ticket",
        "{{ $value | humanizePercentage }} of the attempts of {{ $labels.instance }} are deferred",
        "15m",
        board="overview",
    ),
    Alert(
        "AngariumFailures",
        f"{FAILED} > 0.1\n  and {_increase(H1, 'delivery_recipients_total')} > 500",
        "ticket",
        "{{ $value | humanizePercentage }} of the recipients of {{ $labels.instance }} are refused for good",
        "15m",
        board="overview",
    ),
    Alert(
        "AngariumEgressDown",
        _share(M10, "delivery_connections_total", "failed")
        + f" > 0.9\n  and {_increase(M10, 'delivery_connections_total')} > 20",
        "page",
        "{{ $labels.instance }} gets no connection to anybody: {{ $value | humanizePercentage }} fail",
        "5m",
        scope="egress",
        board="overview",
    ),
    Alert(
        "AngariumSourceUnusable",
        f"{_increase(M15, 'delivery_source_failures_total')} > 5",
        "ticket",
        "{{ $labels.instance }} could not open {{ $value | humanize }} connections from their own source address",
        "5m",
        board="overview",
    ),
    Alert(
        "AngariumDnsFailures",
        f"{M10.rate('delivery_dns_failures_total', NODE).expr}\n"
        f"  / ({M10.rate('delivery_dns_queries_total', NODE).expr} > 0) > 0.2\n"
        f"  and {_increase(M10, 'delivery_dns_queries_total')} > 50",
        "page",
        "{{ $value | humanizePercentage }} of the DNS queries of {{ $labels.instance }} have no usable answer",
        "5m",
        scope="dns",
        board="overview",
    ),
    Alert(
        "AngariumProviderDeferrals",
        f"{PROVIDER_DEFERRED} > 0.5\n  and {_increase(M15, 'provider_recipients_total', PROVIDER)} > 100",
        "ticket",
        "{{ $labels.provider }} defers {{ $value | humanizePercentage }} of the attempts of {{ $labels.instance }}",
        "15m",
        scope="provider",
        board="provider",
    ),
    Alert(
        "AngariumProviderRefusals",
        f"{PROVIDER_FAILED} > 0.2\n  and {_increase(H1, 'provider_recipients_total', PROVIDER)} > 200",
        "ticket",
        "{{ $labels.provider }} refuses {{ $value | humanizePercentage }} of the recipients of {{ $labels.instance }}",
        "15m",
        scope="provider",
        board="provider",
    ),
    Alert(
        "AngariumProviderUnreachable",
        _share(M15, "provider_connections_total", "failed", PROVIDER)
        + f" > 0.5\n  and {_increase(M15, 'provider_connections_total', PROVIDER)} > 10",
        "ticket",
        "{{ $value | humanizePercentage }} of the connections of {{ $labels.instance }} to {{ $labels.provider }} fail",
        "15m",
        scope="provider",
        board="provider",
    ),
    Alert(
        "AngariumAccessToken",
        f"{_increase(M30, 'delivery_access_token_requests_total', result=('refused', 'failed'))} > 3",
        "ticket",
        "{{ $labels.instance }} got no access token {{ $value | humanize }} times in half an hour: mail will wait",
        "5m",
    ),
    Alert(
        "AngariumDuplicatesPossible",
        f"{_increase(H1, 'delivery_possible_duplicates_total')} > 10",
        "ticket",
        "{{ $labels.instance }} sent about {{ $value | humanize }} messages again whose first reply it had not seen",
        board="overview",
    ),
    Alert(
        "AngariumLoopLag",
        f"{_p99(M10, 'worker_loop_lag_seconds')} > 0.2",
        "ticket",
        "A worker of {{ $labels.instance }} runs late: one turn in a hundred by more than 0.2 s",
        "10m",
    ),
    Alert(
        "AngariumEventsLost",
        f"{_increase(M15, 'outcome_dropped_events_total')} > 0",
        "ticket",
        "{{ $labels.instance }} cannot write its event log",
    ),
    Alert(
        "AngariumEventLogNotCompressed",
        f"{_increase(H1, 'outcome_event_log_compressions_total', result='failed')} > 10",
        "ticket",
        "{{ $labels.instance }} cannot compress its event log: {{ $value | humanize }} tries failed in an hour",
    ),
    Alert(
        # nobody keeps the log within bounds, and no stream is fed: their metrics are not there at all
        "AngariumEventsProcessDown",
        f"{_level('process_up', process='events')} == 0",
        "ticket",
        "The events process of {{ $labels.instance }} does not answer: streams stand still, the event log grows",
        "10m",
    ),
    Alert(
        "AngariumStreamFailing",
        f"{_level('stream_failing', STREAM, how='max')} > 0",
        "ticket",
        "The receiver of the stream {{ $labels.stream }} of {{ $labels.instance }} has taken nothing for 15 minutes",
        "15m",
        scope="stream",
    ),
    Alert(
        "AngariumStreamLags",
        f"{_level('stream_lag_seconds', STREAM, how='max')} > 900",
        "ticket",
        "The stream {{ $labels.stream }} of {{ $labels.instance }} is {{ $value | humanizeDuration }} behind",
        "10m",
        scope="stream",
    ),
    Alert(
        "AngariumStreamDeadLetters",
        f"{_level('stream_dead_letters', STREAM)} > 0",
        "ticket",
        "{{ $value | humanize }} events of the stream {{ $labels.stream }} of {{ $labels.instance }} are set aside",
        scope="stream",
    ),
    Alert(
        "AngariumStreamLost",
        f"{_increase(H1, 'stream_lost_events_total', STREAM)} > 0",
        "ticket",
        "The stream {{ $labels.stream }} of {{ $labels.instance }} has lost about {{ $value | humanize }} events",
        scope="stream",
    ),
    Alert(
        "AngariumNotificationsWait",
        f"{_level('outcome_waiting_notifications')} > 0\n"
        f"  or {_increase(M15, 'outcome_dropped_notifications_total')} > 0",
        "ticket",
        "{{ $labels.instance }} cannot queue {{ $value | humanize }} notifications to senders",
        "10m",
    ),
    Alert(
        "AngariumRecipientsUnverified",
        f"{_increase(M10, 'ingress_recipients_checked_total', result=('deferred', 'unchecked'))} > 5",
        "page",
        "{{ $labels.instance }} cannot find out whether recipients exist",
        "10m",
    ),
    Alert(
        # a relay without [tls] shows 0, as one whose certificate has ended does: it has made no handshake, then
        "AngariumCertificateExpires",
        f"{_level('ingress_certificate_expiry_seconds', how='min')} < 7 * 86400\n"
        f"  and ({_level('ingress_certificate_expiry_seconds', how='min')} > 0\n"
        f"    or {_increase(ANY.within('1d'), 'ingress_tls_handshakes_total')} > 0)",
        "ticket",
        "A certificate of {{ $labels.instance }} ends in {{ $value | humanizeDuration }}",
        "1h",
    ),
    Alert(
        "AngariumUnusualSender",
        f"{_increase(H1, 'ingress_unusual_senders_total')} > 0",
        "ticket",
        "A log-in of {{ $labels.instance }} sends unusually much; its mail is held",
    ),
    Alert(
        # RFC 8461 §5.1: somebody may be in the way of the policies, waiting for those that are kept to end
        "AngariumMtaStsNotRefreshed",
        f"{_increase(ANY.within('6h'), 'delivery_mta_sts_fetches_total', result='kept')} > 3",
        "ticket",
        "{{ $labels.instance }} cannot fetch MTA-STS policies that it has kept until now",
    ),
    Alert(
        "AngariumReloadRefused",
        f"{_level('node_last_reload_refused', how='max')} > 0",
        "ticket",
        "{{ $labels.instance }} has refused the last configuration it was to read: the one before is in force",
        "10m",
    ),
    Alert(
        "AngariumDraining",
        f"{_level('node_draining', how='max')} > 0",
        "ticket",
        "{{ $labels.instance }} has taken no mail for an hour, because of `angarium drain`",
        "1h",
    ),
)


def alert_rules() -> dict[str, object]:
    """alerts.yml."""
    rules: list[dict[str, object]] = []
    for alert in ALERTS:
        rule: dict[str, object] = {"alert": alert.name, "expr": alert.expr}
        if alert.wait:
            rule["for"] = alert.wait
        rule["labels"] = {"severity": alert.severity, "scope": alert.scope}
        variable = "&var-provider={{ $labels.provider }}" if alert.board == "provider" else ""
        rule["annotations"] = {
            "summary": alert.summary,
            "runbook_url": f"{RUNBOOKS}#{alert.name.lower()}",
            "dashboard": f"/d/angarium-{alert.board}?var-instance={{{{ $labels.instance }}}}{variable}",
        }
        rules.append(rule)
    return {"groups": [{"name": "angarium", "rules": rules}]}


def recording_rules() -> dict[str, object]:
    """recording.yml."""
    rules = [{"record": recording.record, "expr": recording.expr} for recording in RECORDINGS]
    return {"groups": [{"name": "angarium-recordings", "rules": rules}]}


class _Dumper(yaml.SafeDumper):
    """Expressions of several lines stand as such."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(head: str, rules: dict[str, object]) -> str:
    """A file of rules, with a line of comment on top."""
    return f"# {head}\n# Made by `python -m grafana.boards`: change grafana/boards/rules.py.\n" + yaml.dump(
        rules, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True
    )
