"""The metrics of the node: every name, with its unit, help, labels and the slots of shared memory it is read from.

Job: the one registry from which the exposition (outcome.exposition), docs/metrics.md (outcome.metric_page), the boards
and the alert rules are made. Names are `angarium_<stage>_<what>_<unit|total>` in base units (seconds, bytes).

    METRICS            read from the slab (angarium._core.counters), summed over all processes of the node
    STREAM_METRICS     told by the events process
    PROCESS_METRICS    read from /proc by the admin process
    TOP_METRICS        the domains with the most of something, from the slab's lists
    REGISTRY           all of them

A label's values are a closed set: listed here, or the rows of a Dimension, which the configuration names. Only
TOP_METRICS have a label with values from the mail, and of these at most TOP_SHOWN at a time.

A new metric needs its slot in counters.pxd (and its name in counters.pyi) and one line in the table of its part of the
node: ingress.py, queue.py, delivery.py, outcome.py, node.py, row.py (by provider, tenant, …), told.py (not in slots).
"""

from __future__ import annotations

from angarium.outcome.metrics.delivery import DELIVERY
from angarium.outcome.metrics.ingress import INGRESS
from angarium.outcome.metrics.model import UNITS, Kind, Label, MetricSpec
from angarium.outcome.metrics.node import NODE
from angarium.outcome.metrics.outcome import OUTCOME
from angarium.outcome.metrics.queue import QUEUE
from angarium.outcome.metrics.row import ROWS
from angarium.outcome.metrics.told import PROCESS_METRICS, STREAM_METRICS, TOP_METRICS, TOP_SHOWN

__all__ = [
    "METRICS",
    "PROCESS_METRICS",
    "REGISTRY",
    "STREAM_METRICS",
    "TOP_METRICS",
    "TOP_SHOWN",
    "UNITS",
    "Kind",
    "Label",
    "MetricSpec",
]

METRICS: tuple[MetricSpec, ...] = (*INGRESS, *QUEUE, *DELIVERY, *OUTCOME, *NODE, *ROWS)
REGISTRY = METRICS + STREAM_METRICS + PROCESS_METRICS + TOP_METRICS
