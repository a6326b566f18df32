"""What is shown and not counted in slots: streams, as the events process tells; processes, read from /proc; and the
domains with the most of something, from the slab's lists (Top).
"""

from __future__ import annotations

from angarium._core.counters import Top
from angarium.outcome.metrics.model import Kind, Label, MetricSpec, told

__all__ = [
    "PROCESS_CPU",
    "PROCESS_FDS",
    "PROCESS_MEMORY",
    "PROCESS_METRICS",
    "PROCESS_UP",
    "STREAM_BATCHES",
    "STREAM_DEAD_LETTERS",
    "STREAM_FAILING",
    "STREAM_FAILURES",
    "STREAM_LAG_EVENTS",
    "STREAM_LAG_SECONDS",
    "STREAM_LOST",
    "STREAM_METRICS",
    "STREAM_SENT",
    "TOP_METRICS",
    "TOP_SHOWN",
]

TOP_SHOWN = 50

PROCESS = Label("process", ("supervisor", "admin", "lookup", "access", "events", "worker-N"))
STREAM = Label("stream", configured=True)
DOMAIN = Label("domain")

PROCESS_MEMORY = told(Kind.GAUGE, "process_resident_memory_bytes", "Resident memory of a process.", PROCESS)
PROCESS_CPU = told(Kind.COUNTER, "process_cpu_seconds_total", "User and system CPU time of a process.", PROCESS)
PROCESS_FDS = told(Kind.GAUGE, "process_open_fds", "Open file descriptors of a process.", PROCESS)
PROCESS_UP = told(Kind.GAUGE, "process_up", "1 while the process serves and its event loop turns, else 0.", PROCESS)
PROCESS_METRICS = (PROCESS_MEMORY, PROCESS_CPU, PROCESS_FDS, PROCESS_UP)

# The events process keeps the totals over restarts.
STREAM_LAG_EVENTS = told(
    Kind.GAUGE, "stream_lag_events", "Lines of the event log that a stream has not got to, sent or passed over.", STREAM
)
STREAM_LAG_SECONDS = told(Kind.GAUGE, "stream_lag_seconds", "Age of the oldest event that is not sent.", STREAM)
STREAM_FAILING = told(Kind.GAUGE, "stream_failing", "1 while a batch is not taken by the other side, else 0.", STREAM)
STREAM_DEAD_LETTERS = told(
    Kind.GAUGE, "stream_dead_letters", "Events that were set aside and can be sent again.", STREAM
)
STREAM_SENT = told(Kind.COUNTER, "stream_sent_events_total", "Events that the other side has taken.", STREAM)
STREAM_BATCHES = told(Kind.COUNTER, "stream_sent_batches_total", "Batches that the other side has taken.", STREAM)
STREAM_FAILURES = told(Kind.COUNTER, "stream_failures_total", "Tries to hand over a batch that failed.", STREAM)
STREAM_LOST = told(
    Kind.COUNTER,
    "stream_lost_events_total",
    "Events that were given up unsent, by events.keep_unsent or for want of room; a file that vanished counts as one.",
    STREAM,
)
STREAM_METRICS = (
    STREAM_LAG_EVENTS,
    STREAM_LAG_SECONDS,
    STREAM_FAILING,
    STREAM_DEAD_LETTERS,
    STREAM_SENT,
    STREAM_BATCHES,
    STREAM_FAILURES,
    STREAM_LOST,
)

TOP_METRICS = (
    MetricSpec(
        Kind.GAUGE,
        "angarium_queue_top_domain_messages",
        f"Messages that wait, for the {TOP_SHOWN} destination domains with the most; may be too high by what the "
        "smallest of them has.",
        (),
        (DOMAIN,),
        top=Top.TOP_WAITING,
    ),
    MetricSpec(
        Kind.GAUGE,
        "angarium_delivery_top_domain_deferred_recipients",
        f"Recipients deferred lately, for the {TOP_SHOWN} destination domains with the most; half of it is forgotten "
        "every 10 minutes.",
        (),
        (DOMAIN,),
        top=Top.TOP_DEFERRED,
    ),
)
