"""The metric registry: complete, closed, well named, on the page, and right in both exposition formats."""

import re
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from angarium._core.counters import (
    Dimension,
    Slab,
    Slot,
    Top,
    bucket_bounds_us,
    has_exemplars,
    is_gauge,
    is_histogram,
    most_rows,
    reserved_names,
    rows_of,
)
from angarium._core.record import format_id
from angarium._core.top_k import TopK
from angarium.outcome.exposition import SlabCollector, bounds_of
from angarium.outcome.metric_page import render_page
from angarium.outcome.metrics import METRICS, REGISTRY, TOP_METRICS, TOP_SHOWN, UNITS, Kind, MetricSpec

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"
HISTOGRAMS = (Kind.HISTOGRAM, Kind.GAUGE_HISTOGRAM)
MESSAGE = 12345 << 22


def registry_of(slab: Slab) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(SlabCollector(slab))
    return registry


def samples(slab: Slab) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(generate_latest(registry_of(slab)).decode())
        for sample in family.samples
    }


def value(slab: Slab, name: str, **labels: str) -> float:
    return samples(slab)[name, frozenset(labels.items())]


def openmetrics_samples(slab: Slab) -> list[Sample]:
    text = generate_openmetrics(registry_of(slab)).decode()
    return [sample for family in parse_openmetrics(text) for sample in family.samples]


def named_slab() -> Slab:
    slab = Slab.create(2)
    slab.assign(Dimension.DIMENSION_PROVIDER, ["google", "yahoo"])
    slab.assign(Dimension.DIMENSION_TENANT, ["shop"])
    slab.assign(Dimension.DIMENSION_LISTENER, ["relay"])
    slab.assign(Dimension.DIMENSION_SOURCE, ["out1"])
    slab.assign(Dimension.DIMENSION_POOL, ["bulk"])
    slab.assign(Dimension.DIMENSION_SHARD, range(2))
    return slab


# ------------------------------------------------------------------ the registry


def test_every_slot_is_in_the_registry_exactly_once() -> None:
    registered = Counter(slot for spec in METRICS for slot in spec.slots)
    assert set(registered) == set(Slot)
    assert [slot for slot, times in registered.items() if times > 1] == []


def test_no_two_metrics_share_a_number_in_the_slab() -> None:
    taken = Counter(
        slot + row
        for spec in METRICS
        for slot in spec.slots
        for row in range(
            len(bucket_bounds_us()) + 2
            if spec.kind in HISTOGRAMS
            else 1
            if spec.dimension is None
            else rows_of(spec.dimension)
        )
    )
    assert [slot for slot, times in taken.items() if times > 1] == []
    assert max(taken) < len(Slab.create(1).totals())


@pytest.mark.parametrize("spec", METRICS, ids=lambda spec: spec.name)
def test_a_slot_is_of_its_metrics_type(spec: MetricSpec) -> None:
    for slot in spec.slots:
        assert is_gauge(slot) is (spec.kind in (Kind.GAUGE, Kind.GAUGE_HISTOGRAM))
        assert is_histogram(slot) is (spec.kind in HISTOGRAMS)
        if spec.dimension is not None:
            assert is_gauge(slot + rows_of(spec.dimension) - 1) is (spec.kind is Kind.GAUGE)


@pytest.mark.parametrize("spec", REGISTRY, ids=lambda spec: spec.name)
def test_a_name_says_stage_and_unit(spec: MetricSpec) -> None:
    stages = "ingress|policy|queue|delivery|outcome|worker|process|node|provider|tenant|listener|source|pool|shard"
    assert re.fullmatch(rf"angarium_({stages}|stream)(_[a-z]+)+", spec.name)
    assert spec.name.endswith("_total") is (spec.kind is Kind.COUNTER)
    assert spec.unit in ("", *UNITS)
    if spec.kind in HISTOGRAMS:
        assert spec.unit in {"seconds", "records"}
    unit = spec.name.removesuffix("_total").rsplit("_", 1)[1]
    assert unit not in {"octets", "kb", "mb", "ms", "us", "milliseconds", "minutes"}
    if "ctets" in spec.help:
        assert unit == spec.unit == "bytes"
    assert spec.help[0].isupper() or spec.help[0].isdigit()
    assert spec.help.endswith(".")


@pytest.mark.parametrize("spec", REGISTRY, ids=lambda spec: spec.name)
def test_labels_are_closed_sets(spec: MetricSpec) -> None:
    assert len({label.name for label in spec.labels}) == len(spec.labels) <= 2
    for label in spec.labels:
        assert re.fullmatch("[a-z]+", label.name)
        assert label.is_closed or spec in TOP_METRICS
        assert not (label.values and label.dimension is not None)
        assert len(label.values) == len(set(label.values))
    if spec in METRICS:
        assert len(spec.slots) == max(1, len(spec.label_values))
        assert all(re.fullmatch("[a-z0-9_]+", text) for text in spec.label_values)


def test_there_are_few_series_even_with_all_names_taken() -> None:
    rows = {dimension: most_rows(dimension) for dimension in Dimension}
    assert rows[Dimension.DIMENSION_PROVIDER] == 51  # 50 and `other`
    assert rows[Dimension.DIMENSION_TENANT] == 200 + len(reserved_names(Dimension.DIMENSION_TENANT))
    series = sum(
        (1 if spec.dimension is None else rows[spec.dimension])
        * len(spec.slots)
        * (len(bounds_of(spec)) + 3 if spec.kind in HISTOGRAMS else 1)
        for spec in METRICS
    )
    assert series < 8000


def test_no_two_families_share_a_name() -> None:
    # OpenMetrics names a counter's family without _total, and a histogram's samples with these suffixes
    families = Counter(spec.name.removesuffix("_total") for spec in REGISTRY)
    assert [name for name, times in families.items() if times > 1] == []
    suffixes = ("_bucket", "_sum", "_count", "_gsum", "_gcount")
    reserved = {spec.name + suffix for spec in REGISTRY if spec.kind in HISTOGRAMS for suffix in suffixes}
    assert not reserved & {spec.name.removesuffix("_total") for spec in REGISTRY}


def test_the_page_of_metrics_is_current() -> None:
    assert DOCS.read_text() == render_page(), "run: python -m angarium.outcome.metric_page > docs/metrics.md"


def test_the_page_lists_every_metric_with_its_unit_and_labels_and_no_other() -> None:
    rows = dict(re.findall(r"^\| `(angarium_\w+)` \| (.*)$", DOCS.read_text(), re.M))
    assert set(rows) == {spec.name for spec in REGISTRY}
    for spec in REGISTRY:
        _, unit, labels, _ = rows[spec.name].split(" | ", 3)
        assert unit == spec.unit
        assert re.findall(r"`(\w+)`:", labels) == [label.name for label in spec.labels]
        assert all(text in labels for label in spec.labels for text in label.values)


# ------------------------------------------------------------------ a scrape


def test_a_scrape_sums_over_all_processes() -> None:
    slab = Slab.create(2)
    slab.region(0).add(Slot.INGRESS_REPLIES_4XX, 2)
    slab.region(1).add(Slot.INGRESS_REPLIES_4XX, 3)
    slab.region(0).set(Slot.QUEUE_MESSAGES, 8)
    assert value(slab, "angarium_ingress_replies_total", **{"class": "4xx"}) == 5
    assert value(slab, "angarium_ingress_replies_total", **{"class": "2xx"}) == 0
    assert value(slab, "angarium_queue_messages") == 8


def test_every_series_of_every_closed_set_begins_at_zero() -> None:
    found = samples(named_slab())
    rows = {
        Dimension.DIMENSION_PROVIDER: ["other", "google", "yahoo"],
        Dimension.DIMENSION_TENANT: ["none", "shop"],
        Dimension.DIMENSION_LISTENER: ["other", "relay"],
        Dimension.DIMENSION_SOURCE: ["default", "other", "out1"],
        Dimension.DIMENSION_POOL: ["none", "other", "bulk"],
        Dimension.DIMENSION_SHARD: ["0", "1"],
    }
    for spec in METRICS:
        name = {Kind.HISTOGRAM: f"{spec.name}_count", Kind.GAUGE_HISTOGRAM: f"{spec.name}_gcount"}.get(spec.kind)
        for row in rows[spec.dimension] if spec.dimension is not None else [None]:
            for listed in spec.label_values or [None]:
                own = [text for text in (row, listed) if text is not None]
                labels = frozenset(zip([label.name for label in spec.labels], own, strict=True))
                assert found[name or spec.name, labels] == 0
    assert set(found.values()) == {0}


def test_rows_count_apart_and_add_up_over_processes() -> None:
    slab = named_slab()
    for number, recipients in ((0, 3), (1, 4)):
        counters = slab.region(number)
        counters.add(Slot.PROVIDER_DEFERRED + counters.row(Dimension.DIMENSION_PROVIDER, b"yahoo"), recipients)
        counters.add(Slot.PROVIDER_DEFERRED + counters.row(Dimension.DIMENSION_PROVIDER, b"nobody"), 1)
    name = "angarium_provider_recipients_total"
    assert value(slab, name, provider="yahoo", result="deferred") == 7
    assert value(slab, name, provider="google", result="deferred") == 0
    assert value(slab, name, provider="other", result="deferred") == 2


def test_tenants_without_a_row_are_there_once_they_count() -> None:
    slab = named_slab()
    counters = slab.region(0)
    row = counters.row(Dimension.DIMENSION_TENANT, b"of-yesterday")
    counters.add(Slot.TENANT_ACCEPTED + row, 5)
    name = "angarium_tenant_recipients_total"
    hashed = {
        dict(labels)["tenant"]: number
        for (sample, labels), number in samples(slab).items()
        if sample == name and ("result", "accepted") in labels and dict(labels)["tenant"].startswith("hash-")
    }
    assert list(hashed.values()) == [5]
    assert value(slab, name, tenant="shop", result="accepted") == 0


def test_the_oldest_of_all_processes_is_shown() -> None:
    slab = named_slab()
    slab.region(0).set(Slot.PROVIDER_OLDEST + 1, 90_000_000)
    slab.region(1).set(Slot.PROVIDER_OLDEST + 1, 30_000_000)
    assert value(slab, "angarium_provider_oldest_seconds", provider="google") == 90


def test_waited_time_is_shown_in_seconds() -> None:
    slab = Slab.create(1)
    slab.region(0).add(Slot.QUEUE_WAITED_DNS, 2_500_000)
    assert value(slab, "angarium_queue_waited_seconds_total", cause="dns") == pytest.approx(2.5)


def test_a_histogram_is_cumulative_and_in_seconds() -> None:
    slab = Slab.create(2)
    for region, microseconds in ((0, 90), (1, 150), (1, 1_500_000), (0, 10**11)):
        slab.region(region).observe(Slot.INGRESS_COMMIT_LATENCY, microseconds)
    found = samples(slab)
    name = "angarium_ingress_accept_latency_seconds"
    buckets = {
        dict(labels)["le"]: count
        for (sample, labels), count in found.items()
        if sample == f"{name}_bucket" and ("phase", "commit") in labels
    }
    assert [float(le) for le in buckets] == [bound / 1e6 for bound in bucket_bounds_us()] + [float("inf")]
    assert (buckets["0.0001"], buckets["0.0002"], buckets["1.0"], buckets["2.0"], buckets["+Inf"]) == (1, 2, 2, 3, 4)
    assert value(slab, f"{name}_count", phase="commit") == 4
    assert value(slab, f"{name}_count", phase="data") == 0
    assert value(slab, f"{name}_sum", phase="commit") == pytest.approx(100_001.50024)


def test_a_batch_is_counted_in_records() -> None:
    slab = Slab.create(1)
    for records in (1, 3, 64, 50_000):
        slab.region(0).observe(Slot.QUEUE_BATCH_RECORDS, 100 * records)
    found = samples(slab)
    name = "angarium_queue_commit_batch_records"
    buckets = {dict(labels)["le"]: count for (sample, labels), count in found.items() if sample == f"{name}_bucket"}
    assert [float(le) for le in buckets][:4] == [1, 2, 5, 10]
    assert (buckets["1.0"], buckets["5.0"], buckets["50.0"], buckets["100.0"]) == (1, 2, 2, 3)
    assert (buckets["10000.0"], buckets["+Inf"]) == (3, 4)
    assert found[f"{name}_sum", frozenset()] == 50_068


def test_a_gauge_taken_down_too_often_shows_as_negative() -> None:
    slab = Slab.create(1)
    slab.region(0).sub(Slot.DELIVERY_READY, 2)
    assert value(slab, "angarium_delivery_ready_messages") == -2


def test_the_largest_domains_of_all_workers_are_shown_together() -> None:
    slab = Slab.create(2)
    for number in range(2):
        top = TopK()
        for i in range(60):
            top.add(b"d%d.example" % i, 1000 - i)
        top.publish(slab.region(number), Top.TOP_WAITING)
    found = {
        dict(labels)["domain"]: count
        for (sample, labels), count in samples(slab).items()
        if sample == "angarium_queue_top_domain_messages"
    }
    assert found == {f"d{i}.example": 2 * (1000 - i) for i in range(TOP_SHOWN)}


def test_a_worker_that_starts_again_takes_its_gauges_along_and_no_count() -> None:
    slab = named_slab()
    counters = slab.region(0)
    row = counters.row(Dimension.DIMENSION_PROVIDER, b"google")
    counters.add(Slot.PROVIDER_DELIVERED + row, 9)
    counters.set(Slot.PROVIDER_WAITING + row, 4)
    counters.observe_message(Slot.DELIVERY_LATENCY_ASYNC, 700, MESSAGE)
    top = TopK()
    top.add(b"a.example")
    top.publish(counters, Top.TOP_DEFERRED)
    slab.region(0).reset_gauges()
    assert value(slab, "angarium_provider_recipients_total", provider="google", result="delivered") == 9
    assert value(slab, "angarium_delivery_latency_seconds_count", durability="async") == 1
    assert value(slab, "angarium_provider_waiting_messages", provider="google") == 0
    assert not [name for name, _ in samples(slab) if name.startswith("angarium_delivery_top_domain")]


# ------------------------------------------------------------------ OpenMetrics


def test_openmetrics_output_is_valid_and_complete() -> None:
    slab = named_slab()
    slab.region(0).observe(Slot.LOOP_LAG, 300)
    families = {family.name: family for family in parse_openmetrics(generate_openmetrics(registry_of(slab)).decode())}
    assert set(families) == {spec.name.removesuffix("_total") for spec in METRICS + TOP_METRICS}
    for spec in METRICS + TOP_METRICS:
        family = families[spec.name.removesuffix("_total")]
        assert (family.type, family.documentation, family.unit) == (spec.kind.value, spec.help, spec.unit)


@pytest.mark.parametrize("slot", [slot for slot in Slot if has_exemplars(slot)], ids=lambda slot: slot.name)
def test_an_exemplar_names_the_newest_message_of_its_bucket(slot: Slot) -> None:
    slab = Slab.create(2)
    for microseconds, message in ((1500, MESSAGE), (1700, MESSAGE + 1), (10**12, MESSAGE + 2)):
        slab.region(1).observe_message(slot, microseconds, message)
    found = [sample for sample in openmetrics_samples(slab) if sample.exemplar is not None]
    assert [sample.labels["le"] for sample in found] == ["0.002", "+Inf"]
    newest, beyond = (sample.exemplar for sample in found)
    assert newest.labels == {"message_id": format_id(MESSAGE + 1)}
    assert newest.value == pytest.approx(0.0017)
    assert float(newest.timestamp) > 1_700_000_000
    assert beyond.labels == {"message_id": format_id(MESSAGE + 2)}


def test_latencies_have_exemplars_and_the_page_says_which() -> None:
    assert {spec.name for spec in METRICS if spec.has_exemplars} == {
        "angarium_ingress_accept_latency_seconds",
        "angarium_delivery_latency_seconds",
        "angarium_delivery_attempt_seconds",
    }
    marked = re.findall(r"^\| `(\w+)` \| histogram, exemplars", DOCS.read_text(), re.M)
    assert set(marked) == {spec.name for spec in METRICS if spec.has_exemplars}


def test_plain_text_has_no_exemplars() -> None:
    slab = Slab.create(1)
    slab.region(0).observe_message(Slot.INGRESS_COMMIT_LATENCY, 1500, MESSAGE)
    assert "message_id" not in generate_latest(registry_of(slab)).decode()
