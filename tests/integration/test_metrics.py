"""What /metrics says of a running relay: by provider, tenant, listener and cause, through a kill and a reload."""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from angarium.outcome.metrics import METRICS, Kind
from tests.support.peers import SinkServer, Step
from tests.support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

PROVIDERS = [{"name": "big", "domains": ["big.test", "*.big.test"]}, {"name": "hosts", "mail_hosts": ["127.0.0.1"]}]
TENANTS = [{"name": "shop", "networks": ["127.0.0.0/8"]}]
RECIPIENTS = "angarium_{}_recipients_total"
LASTING = {spec.name for spec in METRICS if spec.kind in (Kind.COUNTER, Kind.HISTOGRAM)}


def answer(step: Step) -> str | None:
    if step.verb == "RCPT" and "later" in step.argument:
        return "451 4.2.1 Try again later"
    if step.verb == "RCPT" and "never" in step.argument:
        return "550 5.1.1 No such user"
    return None


@pytest.fixture(scope="module")
def sink() -> Iterator[SinkServer]:
    with SinkServer(answer=answer) as server:
        yield server


@pytest.fixture(scope="module")
def relay(sink: SinkServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    config = {
        "node": {"workers": 2},
        "queue": {"retry": {"first": "1h", "longest": "1h", "expire": "1d"}},
        "provider": PROVIDERS,
        "tenant": TENANTS,
        "route": [
            {"recipients": ["discard.test"], "next_hop": "discard:"},
            {"recipients": ["*"], "next_hop": sink.url},
        ],
    }
    with Relay(tmp_path_factory.mktemp("metrics"), config) as started:
        yield started


def by(metrics: Mapping[str, float], name: str, **labels: str) -> float:
    pairs = ",".join(f'{key}="{text}"' for key, text in sorted(labels.items()))
    return metrics[f"{name}{{{pairs}}}"]


def openmetrics(relay: Relay) -> dict[str, Metric]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{relay.admin_port}/metrics",
        headers={"Accept": "application/openmetrics-text; version=1.0.0"},
    )
    with urllib.request.urlopen(request) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        return {family.name: family for family in parse_openmetrics(response.read().decode())}


def test_what_was_sent_is_counted_where_it_belongs(relay: Relay) -> None:
    fresh = relay.metrics()
    for result in ("delivered", "deferred", "failed", "expired"):
        for provider in ("big", "hosts", "other"):
            assert by(fresh, RECIPIENTS.format("provider"), provider=provider, result=result) == 0
        assert by(fresh, RECIPIENTS.format("tenant"), tenant="shop", result=result) == 0
    relay.send(["a@big.test"])
    relay.send(["b@mx.big.test"])
    relay.send(["c@elsewhere.test"])  # its host alone says whose it is
    relay.send(["d@discard.test"])
    relay.send(["later@big.test"])
    relay.send(["never@big.test"], reverse_path="")
    with relay.client() as client:
        client.ehlo()
        client.write(b"MAIL FROM:<a@b.test> SIZE=999999999\r\n")
        assert client.read()[0] == 552
    relay.wait(lambda: len(relay.events("delivery")) == 4, "four deliveries")
    relay.wait_event("bounce")
    relay.wait_event("deferral")
    relay.wait(
        lambda: (
            by(relay.metrics(), "angarium_provider_waiting_messages", provider="big") == 1
            and by(relay.metrics(), "angarium_tenant_waiting_messages", tenant="shop") == 1
        ),
        "the round to be over",
    )
    found = relay.metrics()
    for provider, results in {"big": (2, 1, 1), "hosts": (1, 0, 0), "other": (1, 0, 0)}.items():
        for result, count in zip(("delivered", "deferred", "failed"), results, strict=True):
            assert by(found, RECIPIENTS.format("provider"), provider=provider, result=result) == count
        assert by(found, "angarium_provider_attempts_total", provider=provider) == sum(results)
    for reply, count in {"2xx": 2, "4xx": 1, "5xx": 1, "none": 0}.items():
        assert by(found, "angarium_provider_replies_total", provider="big", **{"class": reply}) == count
    for result, count in {"accepted": 6, "delivered": 4, "deferred": 1, "failed": 1}.items():
        assert by(found, RECIPIENTS.format("tenant"), tenant="shop", result=result) == count
    assert by(found, "angarium_tenant_waiting_messages", tenant="shop") == 1
    assert by(found, "angarium_listener_messages_total", listener="relay") == 6
    assert by(found, "angarium_listener_connections_total", listener="relay") == 7
    assert by(found, "angarium_listener_rejections_total", listener="relay") == 1
    assert by(found, "angarium_queue_top_domain_messages", domain="big.test") == 1
    relay.wait(
        lambda: relay.metrics().get('angarium_delivery_top_domain_deferred_recipients{domain="big.test"}') == 1,
        "the largest domains",
    )
    for phase in ("envelope", "data", "commit"):
        assert by(found, "angarium_ingress_accept_latency_seconds_count", phase=phase) == 6
    assert by(found, "angarium_delivery_latency_seconds_count", durability="fsync") == 4
    assert by(found, "angarium_delivery_latency_seconds_count", durability="memory") == 0
    for phase, count in {"mail": 5, "rcpt": 5, "data": 0, "final": 5}.items():  # by BDAT, along with the envelope
        assert by(found, "angarium_delivery_attempt_seconds_count", phase=phase) == count
    opened = found['angarium_delivery_connections_total{result="opened"}']
    for phase in ("connect", "greeting", "ehlo"):
        assert by(found, "angarium_delivery_attempt_seconds_count", phase=phase) == opened
    assert found["angarium_queue_write_latency_seconds_count"] == found["angarium_queue_commit_batch_records_count"] > 0
    assert found["angarium_queue_commit_batch_records_sum"] >= 6
    assert found["angarium_queue_age_seconds_gcount"] == 1
    relay.wait(
        lambda: by(relay.metrics(), "angarium_queue_waited_seconds_total", cause="backoff") > 0, "a second or less"
    )
    for shard in ("0", "1"):
        relay.wait(lambda shard=shard: by(relay.metrics(), "angarium_shard_journal_bytes", shard=shard) > 0, shard)
        assert by(found, "angarium_shard_closed", shard=shard) == 0


def test_exemplars_lead_to_messages(relay: Relay) -> None:
    known = {relay.send("e@big.test")} | {event["id"] for event in relay.events("reception")}
    relay.wait(lambda: {event["id"] for event in relay.events("reception")} >= known, "its event")
    families = openmetrics(relay)
    named = {
        family: [sample.exemplar.labels["message_id"] for sample in families[family].samples if sample.exemplar]
        for family in families
    }
    assert {family for family, ids in named.items() if ids} == {spec.name for spec in METRICS if spec.has_exemplars}
    assert {number for ids in named.values() for number in ids} <= known


def test_no_counter_goes_back_when_a_worker_is_killed(relay: Relay) -> None:
    before = relay.metrics()
    pids = relay.worker_pids()
    for pid in pids:
        relay.kill_process(pid)
    relay.wait(lambda: len(set(relay.worker_pids()) - set(pids)) == 2, "other workers")
    after = relay.metrics()
    lasting = {name for name in before if name.partition("{")[0].removesuffix("_bucket") in LASTING}
    lasting |= {name for name in before if name.partition("{")[0].removesuffix("_count") in LASTING}
    assert len(lasting) > 500
    assert [(name, before[name], after.get(name)) for name in lasting if not after.get(name, -1) >= before[name]] == []
    assert by(after, RECIPIENTS.format("provider"), provider="big", result="delivered") >= 2
    relay.wait(
        lambda: by(relay.metrics(), "angarium_provider_waiting_messages", provider="big") == 1,
        "what waits to be found again",
    )


def test_a_reload_gives_new_names_rows_and_takes_none_back(relay: Relay) -> None:
    before = relay.metrics()
    relay.reload(
        {
            "provider": [{"name": "fresh", "domains": ["fresh.test"]}, PROVIDERS[1]],
            "tenant": [{"name": "store", "networks": ["127.0.0.0/8"]}],
        }
    )
    relay.send("f@fresh.test")
    relay.send("g@big.test")  # whose it was by domain, it is by host now
    name = RECIPIENTS.format("provider")
    relay.wait(lambda: by(relay.metrics(), name, provider="fresh", result="delivered") == 1, "the new provider")
    relay.wait(
        lambda: (
            by(relay.metrics(), name, provider="hosts", result="delivered")
            == by(before, name, provider="hosts", result="delivered") + 1
        ),
        "the other one",
    )
    after = relay.metrics()
    for result in ("delivered", "deferred", "failed"):
        assert by(after, name, provider="big", result=result) == by(before, name, provider="big", result=result)
        tenants = RECIPIENTS.format("tenant")
        assert by(after, tenants, tenant="shop", result=result) == by(before, tenants, tenant="shop", result=result)
    assert by(after, RECIPIENTS.format("tenant"), tenant="store", result="accepted") == 2


def test_a_lost_reply_counts_as_none(relay: Relay, sink: SinkServer, tmp_path: Path) -> None:
    config = {
        "provider": PROVIDERS,
        "route": [{"recipients": ["*"], "next_hop": "smtp://127.0.0.1:1"}],
        "queue": {"retry": {"first": "1h", "longest": "1h", "expire": "1d"}},
    }
    with Relay(tmp_path, config) as lonely:
        lonely.send("a@elsewhere.test")
        lonely.wait_event("deferral")
        found = lonely.metrics()
        assert by(found, "angarium_provider_connections_total", provider="hosts", result="failed") == 1
        assert by(found, "angarium_provider_replies_total", provider="hosts", **{"class": "none"}) == 1
        assert by(found, "angarium_delivery_replies_total", **{"class": "none"}) == 1
