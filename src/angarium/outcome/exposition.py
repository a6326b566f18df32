"""What a scrape shows: the registry (outcome.metrics) with the values of the slab.

Job: SlabCollector makes prometheus-client's families of METRICS and TOP_METRICS at every scrape, summed over all
processes. Every series of a closed set is there from the start, at zero; rows of tenants by hash are left out while
nothing was counted in them, and so is every domain that is not among the largest.

prometheus-client renders them, as text or OpenMetrics; exemplars show in the latter only, with the id of a message in
`message_id`. Nothing here fails, and nothing waits for a worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeHistogramMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from angarium._core.counters import Dimension, Slab, Slot, bucket_bounds_us, has_exemplars, reserved_names
from angarium._core.record import format_id
from angarium._core.top_k import merged
from angarium.outcome.metrics import METRICS, TOP_METRICS, TOP_SHOWN, Kind, MetricSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client.metrics_core import Metric as Family

__all__ = ["SlabCollector", "bounds_of"]

_HASHED = frozenset(reserved_names(Dimension.DIMENSION_TENANT)[1:])


def bounds_of(spec: MetricSpec) -> list[float]:
    """Upper bounds of a histogram's buckets in its unit, without the last bucket, which has none."""
    bounds = [round(bound * spec.scale, 9) for bound in bucket_bounds_us()]
    return [bound for bound in bounds if bound <= spec.largest_bound]


class SlabCollector(Collector):
    """The families of METRICS and TOP_METRICS, read from the slab at the moment of the scrape."""

    def __init__(self, slab: Slab) -> None:
        self._slab = slab

    def collect(self) -> Iterator[Family]:
        """One family for each metric, with every label value, zeros included."""
        totals = self._slab.totals()
        names = {dimension: self._slab.labels(dimension) for dimension in Dimension}
        for spec in METRICS:
            if spec.kind in (Kind.HISTOGRAM, Kind.GAUGE_HISTOGRAM):
                yield self._histogram(spec, totals)
            else:
                yield self._family(spec, totals, names)
        for spec in TOP_METRICS:
            yield self._top(spec)

    def _family(self, spec: MetricSpec, totals: Sequence[int], names: dict[Dimension, list[str]]) -> Family:
        labels = [label.name for label in spec.labels]
        family: CounterMetricFamily | GaugeMetricFamily
        if spec.kind is Kind.COUNTER:
            family = CounterMetricFamily(spec.name, spec.help, labels=labels, unit=spec.unit)
        else:
            family = GaugeMetricFamily(spec.name, spec.help, labels=labels, unit=spec.unit)
        rows = [None] if spec.dimension is None else names[spec.dimension]
        for row, name in enumerate(rows):
            values = [self._value(spec, slot + row, totals) for slot in spec.slots]
            if name in _HASHED and not any(values):
                continue
            for value, listed in zip(values, spec.label_values or (None,), strict=True):
                family.add_metric([each for each in (name, listed) if each is not None], value)
        return family

    def _value(self, spec: MetricSpec, slot: int, totals: Sequence[int]) -> float:
        value = self._slab.most(slot) if spec.of_all == "most" else totals[slot]
        if spec.kind is Kind.GAUGE and value >= 1 << 63:
            value -= 1 << 64  # a gauge taken down too often shows as what it is, not as 18 quintillion
        return value if spec.scale == 1 else value * spec.scale

    def _histogram(self, spec: MetricSpec, totals: Sequence[int]) -> Family:
        labels = [label.name for label in spec.labels]
        bounds = bounds_of(spec)
        buckets_there = len(bucket_bounds_us()) + 1
        histogram = HistogramMetricFamily(spec.name, spec.help, labels=labels, unit=spec.unit)
        of_now = GaugeHistogramMetricFamily(spec.name, spec.help, labels=labels, unit=spec.unit)
        for base, listed in zip(spec.slots, spec.label_values or (None,), strict=True):
            counts = totals[base : base + buckets_there]
            # beyond the bounds that are shown, and beyond all of them, is the last bucket
            cumulative = [sum(counts[: i + 1]) for i in range(len(bounds))] + [sum(counts)]
            buckets = list(zip([str(bound) for bound in bounds] + ["+Inf"], map(float, cumulative), strict=True))
            values = [] if listed is None else [listed]
            total = totals[base + buckets_there] * spec.scale
            if spec.kind is Kind.GAUGE_HISTOGRAM:
                of_now.add_metric(values, buckets, total)
            else:
                exemplars = self._exemplars(spec, base) if has_exemplars(base) else {}
                histogram.add_metric(
                    values,
                    [(*bucket, exemplars[i]) if i in exemplars else bucket for i, bucket in enumerate(buckets)],
                    total,
                )
        return of_now if spec.kind is Kind.GAUGE_HISTOGRAM else histogram

    def _exemplars(self, spec: MetricSpec, base: Slot) -> dict[int, Exemplar]:
        """By bucket, where there is one."""
        found = {}
        for bucket in range(len(bucket_bounds_us()) + 1):
            newest = self._slab.exemplar(base, bucket)
            if newest is not None:
                number, microseconds, at_us = newest
                labels = {"message_id": format_id(number)}
                found[bucket] = Exemplar(labels, microseconds * spec.scale, at_us * 1e-6)
        return found

    def _top(self, spec: MetricSpec) -> Family:
        assert spec.top is not None
        family = GaugeMetricFamily(spec.name, spec.help, labels=[spec.labels[0].name], unit=spec.unit)
        lists = [self._slab.top(region, spec.top) for region in range(self._slab.regions)]
        for name, count, _ in merged(lists, TOP_SHOWN):
            family.add_metric([name.decode("utf-8", "replace")], count)
        return family
