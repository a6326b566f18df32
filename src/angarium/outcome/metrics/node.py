"""What is counted of workers and of the node's configuration."""

from __future__ import annotations

from angarium._core.counters import Slot
from angarium.outcome.metrics.model import MetricSpec, counter, gauge, histogram

__all__ = ["NODE"]

NODE: tuple[MetricSpec, ...] = (
    counter("worker_starts_total", Slot.WORKER_STARTS, "Starts of worker processes, the first ones included."),
    histogram("worker_loop_lag_seconds", Slot.LOOP_LAG, "How late a worker's event loop ran what was due."),
    counter(
        "node_reloads_total",
        {"applied": Slot.NODE_RELOADS_APPLIED, "refused": Slot.NODE_RELOADS_REFUSED},
        "Reloads of the configuration: changed in place, or refused as a whole, so that the one before stays.",
        "result",
    ),
    gauge("node_last_reload_refused", Slot.NODE_RELOAD_REFUSED, "1 when the last reload was refused, else 0."),
    gauge(
        "node_configuration_timestamp_seconds",
        Slot.NODE_CONFIGURATION_TIME,
        "Since when the configuration in force is in force, Unix time.",
    ),
    gauge(
        "node_restart_keys",
        Slot.NODE_RESTART_KEYS,
        "Keys of the configuration file that differ from what is in force and wait for a restart.",
    ),
    counter(
        "node_process_hangs_total",
        {
            "worker": Slot.NODE_HANGS_WORKER,
            "lookup": Slot.NODE_HANGS_LOOKUP,
            "access": Slot.NODE_HANGS_ACCESS,
            "events": Slot.NODE_HANGS_EVENTS,
            "admin": Slot.NODE_HANGS_ADMIN,
            "sink": Slot.NODE_HANGS_SINK,
        },
        "Processes whose event loop had not turned for node.hang_timeout, by kind.",
        "kind",
    ),
    counter(
        "node_process_deaths_total",
        {
            "worker": Slot.NODE_DEATHS_WORKER,
            "lookup": Slot.NODE_DEATHS_LOOKUP,
            "access": Slot.NODE_DEATHS_ACCESS,
            "events": Slot.NODE_DEATHS_EVENTS,
            "admin": Slot.NODE_DEATHS_ADMIN,
            "sink": Slot.NODE_DEATHS_SINK,
        },
        "Processes that ended without being asked to, or were killed since they hung, by kind; each was started again.",
        "kind",
    ),
    gauge("node_draining", Slot.NODE_DRAINING, "1 while the node takes no mail because of `angarium drain`, else 0."),
)
