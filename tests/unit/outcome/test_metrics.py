"""The metric registry: complete, well named, and right in both exposition formats."""

import re
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from angarium._core.counters import Slab, Slot, bucket_bounds_us, is_gauge, is_histogram
from angarium.outcome.metrics import METRICS, PROCESS_METRICS, Kind, MetricSpec, SlabCollector, render_page

ALL = METRICS + PROCESS_METRICS
DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def samples(slab: Slab) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    registry = CollectorRegistry()
    registry.register(SlabCollector(slab))
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_text(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_every_slot_is_in_the_registry_exactly_once() -> None:
    registered = Counter(slot for spec in METRICS for slot in spec.slots)
    assert set(registered) == set(Slot)
    assert [slot for slot, times in registered.items() if times > 1] == []


@pytest.mark.parametrize("spec", METRICS, ids=lambda spec: spec.name)
def test_a_slot_is_of_its_metrics_type(spec: MetricSpec) -> None:
    for slot in spec.slots:
        assert is_gauge(slot) is (spec.kind is Kind.GAUGE)
        assert is_histogram(slot) is (spec.kind is Kind.HISTOGRAM)
    if spec.kind is Kind.HISTOGRAM:
        assert len(spec.slots) == 1


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
def test_a_name_says_stage_and_unit(spec: MetricSpec) -> None:
    stages = "ingress|policy|queue|delivery|outcome|worker|process|node"
    assert re.fullmatch(rf"angarium_({stages})(_[a-z]+)+", spec.name)
    assert spec.name.endswith("_total") is (spec.kind is Kind.COUNTER)
    if spec.kind is Kind.HISTOGRAM:
        assert spec.name.endswith("_seconds")
    unit = spec.name.removesuffix("_total").rsplit("_", 1)[1]
    assert unit not in {"octets", "kb", "mb", "ms", "us", "milliseconds", "minutes"}
    if "ctets" in spec.help:
        assert unit == "bytes"
    assert spec.help[0].isupper() or spec.help[0].isdigit()
    assert spec.help.endswith(".")


@pytest.mark.parametrize("spec", [spec for spec in METRICS if spec.label], ids=lambda spec: spec.name)
def test_labels_take_few_and_plain_values(spec: MetricSpec) -> None:
    assert re.fullmatch("[a-z]+", spec.label)
    assert len(spec.label_values) == len(spec.slots) == len(set(spec.label_values))
    assert all(re.fullmatch("[a-z0-9_]+", value) for value in spec.label_values)


def test_no_two_families_share_a_name() -> None:
    # OpenMetrics names a counter's family without _total, and a histogram's samples with these suffixes
    families = Counter(spec.name.removesuffix("_total") for spec in ALL)
    assert [name for name, times in families.items() if times > 1] == []
    reserved = {
        spec.name + suffix for spec in ALL if spec.kind is Kind.HISTOGRAM for suffix in ("_bucket", "_sum", "_count")
    }
    assert not reserved & {spec.name for spec in ALL}


def test_a_scrape_sums_over_all_processes() -> None:
    slab = Slab.create(2)
    slab.region(0).add(Slot.INGRESS_REPLIES_4XX, 2)
    slab.region(1).add(Slot.INGRESS_REPLIES_4XX, 3)
    slab.region(0).set(Slot.QUEUE_MESSAGES, 8)
    found = samples(slab)
    assert found["angarium_ingress_replies_total", frozenset({("class", "4xx")})] == 5
    assert found["angarium_ingress_replies_total", frozenset({("class", "2xx")})] == 0
    assert found["angarium_queue_messages", frozenset()] == 8


def test_a_histogram_is_cumulative_and_in_seconds() -> None:
    slab = Slab.create(2)
    for region, microseconds in ((0, 90), (1, 150), (1, 1_500_000), (0, 10**11)):
        slab.region(region).observe(Slot.INGRESS_COMMIT_LATENCY, microseconds)
    found = samples(slab)
    name = "angarium_ingress_commit_latency_seconds"
    buckets = {dict(labels)["le"]: value for (sample, labels), value in found.items() if sample == f"{name}_bucket"}
    assert [float(le) for le in buckets] == [bound / 1e6 for bound in bucket_bounds_us()] + [float("inf")]
    assert (buckets["0.0001"], buckets["0.0002"], buckets["1.0"], buckets["2.0"], buckets["+Inf"]) == (1, 2, 2, 3, 4)
    assert found[f"{name}_count", frozenset()] == 4
    assert found[f"{name}_sum", frozenset()] == pytest.approx(100_001.50024)


def test_a_gauge_taken_down_too_often_shows_as_negative() -> None:
    slab = Slab.create(1)
    slab.region(0).sub(Slot.DELIVERY_READY, 2)
    assert samples(slab)["angarium_delivery_ready_messages", frozenset()] == -2


def test_openmetrics_output_is_valid_and_complete() -> None:
    slab = Slab.create(1)
    slab.region(0).observe(Slot.LOOP_LAG, 300)
    registry = CollectorRegistry()
    registry.register(SlabCollector(slab))
    families = {family.name: family for family in parse_openmetrics(generate_openmetrics(registry).decode())}
    assert set(families) == {spec.name.removesuffix("_total") for spec in METRICS}
    for spec in METRICS:
        family = families[spec.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (spec.kind.value, spec.help)


def test_the_page_of_metrics_is_current() -> None:
    assert DOCS.read_text() == render_page(), "run: python -m angarium.outcome.metrics > docs/metrics.md"


def test_the_page_lists_every_metric_under_its_stage() -> None:
    page = render_page()
    for spec in ALL:
        assert page.count(f"| `{spec.name}` |") == 1
