"""What a metric of the registry says of itself, and short words to say it with.

Job: MetricSpec, its Label and its Kind; `counter`, `gauge`, `histogram` and `gauge_histogram` make one from a name
without `angarium_`, the slot that it is read from (or a slot for each value of a label), and a help text; `told` makes
one that is not in the slab. The modules beside this one are tables of them, one for each part of the node.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from angarium._core.counters import Dimension, Slot, Top, has_exemplars

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MICROSECONDS",
    "UNITS",
    "Kind",
    "Label",
    "MetricSpec",
    "counter",
    "gauge",
    "gauge_histogram",
    "histogram",
    "told",
]

UNITS = ("seconds", "bytes", "messages", "recipients", "connections", "records", "events")
MICROSECONDS = 1e-6  # what one is in the slab, of times


class Kind(Enum):
    """The types of metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    GAUGE_HISTOGRAM = "gaugehistogram"  # of what is now; to Prometheus a histogram whose counts go down as well


@dataclass(frozen=True, slots=True)
class Label:
    """A label and its values: those listed; the rows of a dimension; names in the configuration that have no rows; or,
    with none of these, what is largest now.
    """

    name: str
    values: tuple[str, ...] = ()
    dimension: Dimension | None = None
    configured: bool = False

    @property
    def is_closed(self) -> bool:
        """Whether the values do not come from the mail."""
        return bool(self.values) or self.dimension is not None or self.configured


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: one slot for each value of its listed label; with a dimension, the first of that many each."""

    kind: Kind
    name: str
    help: str
    slots: tuple[Slot, ...]
    labels: tuple[Label, ...] = ()
    scale: float = 1.0  # what one is in the slab is so much in the metric's unit; histograms: of microseconds
    of_all: str = "sum"  # what is shown of the values of all processes: sum, most
    largest_bound: float = float("inf")  # of a histogram's buckets
    top: Top | None = None  # the list that it shows

    @property
    def stage(self) -> str:
        """The second part of the name."""
        return self.name.split("_")[1]

    @property
    def unit(self) -> str:
        """The last word of the name, where that is a unit; empty for plain counts and states."""
        unit = self.name.removesuffix("_total").rpartition("_")[2]
        return unit if unit in UNITS else ""

    @property
    def dimension(self) -> Dimension | None:
        """The dimension among its labels."""
        return next((label.dimension for label in self.labels if label.dimension is not None), None)

    @property
    def listed(self) -> Label | None:
        """The label whose values are listed."""
        return next((label for label in self.labels if label.values), None)

    @property
    def label(self) -> str:
        """The name of the listed label; empty without one."""
        return "" if self.listed is None else self.listed.name

    @property
    def label_values(self) -> tuple[str, ...]:
        """The values of the listed label."""
        return () if self.listed is None else self.listed.values

    @property
    def has_exemplars(self) -> bool:
        """Whether its buckets say, in OpenMetrics, the id of a message that fell into them."""
        return any(has_exemplars(slot) for slot in self.slots)


def _metric(
    kind: Kind,
    name: str,
    slots: Slot | Mapping[str, Slot],
    text: str,
    label: str = "",
    by: Label | None = None,
    scale: float = 1.0,
    of_all: str = "sum",
    largest_bound: float = float("inf"),
) -> MetricSpec:
    labels = [] if by is None else [by]
    if isinstance(slots, Slot):
        slots = {"": slots}
    else:
        labels.append(Label(label, tuple(slots)))
    return MetricSpec(
        kind, f"angarium_{name}", text, tuple(slots.values()), tuple(labels), scale, of_all, largest_bound
    )


def counter(
    name: str,
    slots: Slot | Mapping[str, Slot],
    text: str,
    label: str = "",
    *,
    by: Label | None = None,
    scale: float = 1.0,
) -> MetricSpec:
    """What only grows."""
    return _metric(Kind.COUNTER, name, slots, text, label, by, scale)


def gauge(
    name: str,
    slots: Slot | Mapping[str, Slot],
    text: str,
    label: str = "",
    *,
    by: Label | None = None,
    scale: float = 1.0,
    of_all: str = "sum",
) -> MetricSpec:
    """How much there is now."""
    return _metric(Kind.GAUGE, name, slots, text, label, by, scale, of_all)


def histogram(
    name: str,
    slots: Slot | Mapping[str, Slot],
    text: str,
    label: str = "",
    *,
    scale: float = MICROSECONDS,
    largest_bound: float = float("inf"),
) -> MetricSpec:
    """How long something took, or how large it was."""
    return _metric(Kind.HISTOGRAM, name, slots, text, label, scale=scale, largest_bound=largest_bound)


def gauge_histogram(name: str, slot: Slot, text: str, *, scale: float = MICROSECONDS) -> MetricSpec:
    """How what is there now is spread."""
    return _metric(Kind.GAUGE_HISTOGRAM, name, slot, text, scale=scale)


def told(kind: Kind, name: str, text: str, label: Label) -> MetricSpec:
    """What is not counted in slots: whoever collects it asks for it at each scrape."""
    return MetricSpec(kind, f"angarium_{name}", text, (), (label,))
