"""docs/metrics.md, made from the registry.

python -m angarium.outcome.metric_page > docs/metrics.md
"""

from __future__ import annotations

import sys

from angarium._core.counters import Dimension
from angarium.outcome.exposition import bounds_of
from angarium.outcome.metrics import REGISTRY, TOP_SHOWN, Kind, Label, MetricSpec

__all__ = ["render_page"]

_STAGE_TITLES = {
    "ingress": "Ingress: clients connect and hand over mail",
    "queue": "Queue: messages the relay is responsible for",
    "delivery": "Delivery: attempts at the next hop",
    "outcome": "Outcome: what is reported",
    "provider": "Providers: whose mail hosts the mail goes to",
    "tenant": "Tenants: whose mail it is",
    "listener": "Listeners: where it came in",
    "source": "Source addresses: where it goes out",
    "pool": "Source pools",
    "shard": "Shards: where it is kept",
    "stream": "Streams: events on their way to other systems",
    "worker": "Workers",
    "node": "The node: its configuration",
    "process": "Processes: read from /proc at every scrape; one that cannot be seen is left out",
}

_INTRODUCTION = """\
# Metrics

`GET /metrics` of the admin process, in the Prometheus text format, or OpenMetrics where the scraper asks for it. Values
are summed over all processes of the node. Counters survive the restart of a worker and start from zero with the relay,
but for those of the ledger, which count from the day the spool was made. Labels take only the values listed here, and
every series is there from the start, at zero.

This page is generated: `python -m angarium.outcome.metric_page > docs/metrics.md`.

## Labels that the configuration names

| label | values |
| --- | --- |
| `provider` | the names of the [`[[provider]]`](configuration.md#provider) tables, at most 50; `other` for the rest |
| `tenant` | the names of the `[[tenant]]` tables, the first 200; `none` for mail of no tenant; `hash-00` to `hash-15` \
for tenants beyond that, by a hash of the name, once there is something to count |
| `listener` | the names of the listeners, the first 63, `sendmail` among them; `other` for the rest |
| `source` | the names of the `[[source]]` tables, the first 126; `default` for the address that the system chooses; \
`other` for the rest |
| `pool` | the names of the `[[source_pool]]` tables, the first 62; `none` for mail that goes by none; `other` for the \
rest |
| `shard` | the numbers of the shards |
| `stream` | the names of the `[[stream]]` tables |

A name gets its row in the relay's memory when it first appears, at the start or by a reload, and keeps it as long as
the node runs. So a reload never makes a counter go back; the series of a name that is gone from the configuration stay,
and rest, until the node is restarted. What finds no row left is counted with the rest until then, and the log says so.

An attempt belongs to the provider of the domain that it was for, or, where no `domains` name that, to the provider of
its mail hosts; an attempt for several domains goes by the first recipient's."""

_EXEMPLARS = """\
## Exemplars

In OpenMetrics the buckets of the histograms marked *exemplars* carry the id of the last message that fell into them, as
`message_id`, with its value and time. `angarium queue show ID` and the event log know the message by it. Prometheus
keeps exemplars when it is started with `--enable-feature=exemplar-storage`."""


def render_page() -> str:
    """The whole page."""
    lines = [_INTRODUCTION]
    for stage, title in _STAGE_TITLES.items():
        lines += [
            "",
            f"## {title}",
            "",
            "| metric | type | unit | labels | meaning |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [_row(spec) for spec in REGISTRY if spec.stage == stage]
    lines += ["", "## Histograms", "", "Bucket bounds, in the unit of the metric:", ""]
    by_bounds: dict[tuple[float, ...], list[str]] = {}
    for spec in REGISTRY:
        if spec.kind in (Kind.HISTOGRAM, Kind.GAUGE_HISTOGRAM):
            by_bounds.setdefault(tuple(bounds_of(spec)), []).append(spec.name)
    for bounds, names in sorted(by_bounds.items(), key=lambda entry: -len(entry[1])):
        of = "all others" if len(names) > 1 else f"`{names[0]}`"
        lines.append(f"- {of}: {', '.join(f'{bound:g}' for bound in bounds)}")
    lines += ["", _EXEMPLARS, ""]
    return "\n".join(lines)


def _row(spec: MetricSpec) -> str:
    kind = "gauge histogram" if spec.kind is Kind.GAUGE_HISTOGRAM else spec.kind.value
    if spec.has_exemplars:
        kind += ", exemplars"
    labels = "; ".join(_values(label) for label in spec.labels)
    return f"| `{spec.name}` | {kind} | {spec.unit} | {labels} | {spec.help} |"


def _values(label: Label) -> str:
    if label.configured:
        return f"`{label.name}`: configured"
    if label.dimension is not None:
        kinds = {Dimension.DIMENSION_SHARD: "numbers"}
        return f"`{label.name}`: {kinds.get(label.dimension, 'configured')}"
    if not label.values:
        return f"`{label.name}`: the {TOP_SHOWN} largest"
    return f"`{label.name}`: {', '.join(label.values)}"


if __name__ == "__main__":
    sys.stdout.write(render_page())
