"""PromQL from the registry: every metric that a board or a rule names goes through here.

Job: make selectors, rates, levels and quantiles of metrics by their name in the registry without `angarium_`.
Fails with LookupError for a metric, a label or a label's value that the registry does not have, and with TypeError when
a gauge is asked for its rate or a counter for its level: a board that names what is not there cannot be made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from angarium.outcome.metrics import REGISTRY, Kind, MetricSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

SPECS: dict[str, MetricSpec] = {spec.name.removeprefix("angarium_"): spec for spec in REGISTRY}
TARGET_LABELS = frozenset({"instance", "job"})  # Prometheus adds them
BOARD_WINDOW = "$__rate_interval"


@dataclass(frozen=True)
class Query:
    """One expression of a panel: how its series are called, in what unit they are, and what they are made of."""

    expr: str
    legend: str = ""
    unit: str = "short"
    metrics: tuple[str, ...] = ()

    def named(self, legend: str) -> Query:
        """The same with another legend."""
        return replace(self, legend=legend)

    def when(self, volume: Query, least: float) -> Query:
        """This one where there is enough of `volume`: a share of three results says nothing."""
        return replace(self, expr=f"{self.expr}\n  and {volume.expr} >= {least:g}")

    def over(self, other: Query, legend: str = "", unit: str = "percentunit") -> Query:
        """This one divided by another."""
        return Query(f"{self.expr}\n  / {other.expr}", legend, unit, self.metrics + other.metrics)


def spec_of(name: str) -> MetricSpec:
    """The registry's entry."""
    try:
        return SPECS[name]
    except KeyError:
        raise LookupError(f"the registry has no metric angarium_{name}") from None


def labels_of(spec: MetricSpec) -> dict[str, tuple[str, ...]]:
    """A metric's labels, each with its values; none where the configuration or the mail names them."""
    return {label.name: label.values for label in spec.labels}


@dataclass(frozen=True)
class Scope:
    """What all expressions of a board or a group of rules have in common: matchers, and the window of rates."""

    matchers: tuple[tuple[str, str], ...] = ()
    window: str = BOARD_WINDOW

    def within(self, window: str) -> Scope:
        """The same with another window."""
        return replace(self, window=window)

    def select(self, name: str, suffix: str = "", /, **values: str | tuple[str, ...]) -> str:
        """A selector. A value is one value of the label, several of them, or "" for all but those without."""
        spec = spec_of(name)
        known = labels_of(spec)
        parts = []
        for label, pattern in self.matchers:
            if label in TARGET_LABELS or label in known:
                parts.append(f'{label}=~"{pattern}"')
        for label, wanted in values.items():
            if label not in known:
                raise LookupError(f"{spec.name} has no label {label}")
            several = (wanted,) if isinstance(wanted, str) else wanted
            for value in several:
                listed = [one.replace("worker-N", "worker-0") for one in known[label]]
                if listed and not any(re.fullmatch(value, one) for one in listed):
                    raise LookupError(f"{spec.name}: {label} is never {value}")
            plain = len(several) == 1 and re.escape(several[0]).replace("\\-", "-") == several[0]
            parts.append(f'{label}{"=" if plain else "=~"}"{"|".join(several)}"')
        return f"{spec.name}{suffix}" + ("{" + ",".join(parts) + "}" if parts else "")

    def rate(self, name: str, by: Iterable[str] = (), *, how: str = "rate", **values: str | tuple[str, ...]) -> Query:
        """A counter a second (or, `how="increase"`, in the window), summed over everything but `by`."""
        spec = spec_of(name)
        if spec.kind in {Kind.GAUGE, Kind.GAUGE_HISTOGRAM}:
            raise TypeError(f"{spec.name} is a gauge: it has no rate")
        suffix = "_count" if spec.kind is Kind.HISTOGRAM else ""
        inner = f"{how}({self.select(name, suffix, **values)}[{self.window}])"
        by = _known(spec, by)
        unit = "short" if how == "increase" else ("Bps" if "_bytes" in name else "cps")
        return Query(summed(inner, by), _legend(by), unit, (spec.name,))

    def increase(self, name: str, by: Iterable[str] = (), **values: str | tuple[str, ...]) -> Query:
        """How much a counter grew in the window."""
        return self.rate(name, by, how="increase", **values)

    def level(self, name: str, by: Iterable[str] = (), *, how: str = "sum", **values: str | tuple[str, ...]) -> Query:
        """A gauge, summed (or `how`) over everything but `by`."""
        spec = spec_of(name)
        if spec.kind is not Kind.GAUGE:
            raise TypeError(f"{spec.name} is no gauge")
        by = _known(spec, by)
        return Query(summed(self.select(name, **values), by, how), _legend(by), _unit(name), (spec.name,))

    def quantile(
        self,
        share: float,
        name: str,
        by: Iterable[str] = (),
        legend: str | None = None,
        **values: str | tuple[str, ...],
    ) -> Query:
        """A quantile of a histogram."""
        spec = spec_of(name)
        if spec.kind not in {Kind.HISTOGRAM, Kind.GAUGE_HISTOGRAM}:
            raise TypeError(f"{spec.name} is no histogram")
        by = _known(spec, by)
        buckets = self.select(name, "_bucket", **values)
        if spec.kind is Kind.HISTOGRAM:  # the other one is of what is now, and has no rate
            buckets = f"rate({buckets}[{self.window}])"
        inner = summed(buckets, (*by, "le"))
        said = " ".join(filter(None, (_legend(by), f"p{share * 100:g}"))) if legend is None else legend
        return Query(f"histogram_quantile({share:g}, {inner})", said, _unit(name), (spec.name,))

    def quantiles(self, name: str, *shares: float, **values: str | tuple[str, ...]) -> tuple[Query, ...]:
        """Several quantiles of the same histogram, by default the median, p90 and p99."""
        return tuple(self.quantile(share, name, **values) for share in shares or (0.5, 0.9, 0.99))

    def mean(self, name: str, by: Iterable[str] = (), **values: str | tuple[str, ...]) -> Query:
        """The mean of what a histogram has seen."""
        spec = spec_of(name)
        if spec.kind is not Kind.HISTOGRAM:
            raise TypeError(f"{spec.name} is no histogram")
        by = _known(spec, by)
        parts = (summed(f"rate({self.select(name, end, **values)}[{self.window}])", by) for end in ("_sum", "_count"))
        return Query("\n  / ".join(parts), _legend(by), _unit(name), (spec.name,))


def summed(inner: str, by: Iterable[str] = (), how: str = "sum") -> str:
    """An aggregation."""
    listed = ", ".join(by)
    return f"{how} by ({listed}) ({inner})" if listed else f"{how}({inner})"


def _known(spec: MetricSpec, by: Iterable[str]) -> tuple[str, ...]:
    by = tuple(filter(None, (by,))) if isinstance(by, str) else tuple(by)
    for label in by:
        if label not in labels_of(spec) and label not in TARGET_LABELS:
            raise LookupError(f"{spec.name} has no label {label}")
    return by


def _legend(by: tuple[str, ...]) -> str:
    return " ".join("{{" + label + "}}" for label in by)


def _unit(name: str) -> str:
    if name.endswith("_timestamp_seconds"):
        return "dateTimeAsIso"
    for ending, unit in (("_seconds", "s"), ("_bytes", "bytes"), ("_octets", "bytes")):
        if name.endswith(ending):
            return unit
    return "short"
