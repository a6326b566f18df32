"""What is counted by provider, tenant, listener, source address, source pool and shard: names that the configuration
says, each of which has a row (Dimension).
"""

from __future__ import annotations

from angarium._core.counters import Dimension, Slot
from angarium.outcome.metrics.model import MICROSECONDS, Label, MetricSpec, counter, gauge

__all__ = ["ROWS"]

PROVIDER = Label("provider", dimension=Dimension.DIMENSION_PROVIDER)
TENANT = Label("tenant", dimension=Dimension.DIMENSION_TENANT)
LISTENER = Label("listener", dimension=Dimension.DIMENSION_LISTENER)
SOURCE = Label("source", dimension=Dimension.DIMENSION_SOURCE)
POOL = Label("pool", dimension=Dimension.DIMENSION_POOL)
SHARD = Label("shard", dimension=Dimension.DIMENSION_SHARD)

ROWS: tuple[MetricSpec, ...] = (
    # by provider
    counter("provider_attempts_total", Slot.PROVIDER_ATTEMPTS, "Attempts, by provider.", by=PROVIDER),
    counter(
        "provider_recipients_total",
        {
            "delivered": Slot.PROVIDER_DELIVERED,
            "deferred": Slot.PROVIDER_DEFERRED,
            "failed": Slot.PROVIDER_FAILED,
            "expired": Slot.PROVIDER_EXPIRED,
        },
        "Recipients by what became of them, as in delivery_recipients, by provider.",
        "result",
        by=PROVIDER,
    ),
    counter(
        "provider_replies_total",
        {
            "2xx": Slot.PROVIDER_REPLIES_2XX,
            "4xx": Slot.PROVIDER_REPLIES_4XX,
            "5xx": Slot.PROVIDER_REPLIES_5XX,
            "none": Slot.PROVIDER_REPLIES_NONE,
        },
        "What decided for recipients, as in delivery_replies, by provider.",
        "class",
        by=PROVIDER,
    ),
    counter(
        "provider_connections_total",
        {"opened": Slot.PROVIDER_OPENED, "failed": Slot.PROVIDER_UNREACHED},
        "Connections that were opened, or not to be had, by provider.",
        "result",
        by=PROVIDER,
    ),
    gauge(
        "provider_waiting_messages",
        Slot.PROVIDER_WAITING,
        "Messages that wait for their time or for a connection, by provider.",
        by=PROVIDER,
    ),
    gauge(
        "provider_oldest_seconds",
        Slot.PROVIDER_OLDEST,
        "Since the oldest message that waits for its time was accepted, by provider; 0 when none does.",
        by=PROVIDER,
        scale=MICROSECONDS,
        of_all="most",
    ),
    # by tenant
    counter(
        "tenant_recipients_total",
        {
            "accepted": Slot.TENANT_ACCEPTED,
            "delivered": Slot.TENANT_DELIVERED,
            "deferred": Slot.TENANT_DEFERRED,
            "failed": Slot.TENANT_FAILED,
            "expired": Slot.TENANT_EXPIRED,
        },
        "Recipients accepted, and what became of them, by tenant.",
        "result",
        by=TENANT,
    ),
    gauge("tenant_waiting_messages", Slot.TENANT_WAITING, "Messages that are queued, by tenant.", by=TENANT),
    # by listener
    counter("listener_connections_total", Slot.LISTENER_CONNECTIONS, "Client connections, by listener.", by=LISTENER),
    counter(
        "listener_refused_connections_total",
        Slot.LISTENER_TURNED_AWAY,
        "Client connections answered 421 at once, by listener.",
        by=LISTENER,
    ),
    counter("listener_messages_total", Slot.LISTENER_ACCEPTED, "Messages answered 250, by listener.", by=LISTENER),
    counter(
        "listener_rejections_total",
        Slot.LISTENER_REFUSED,
        "Commands and messages turned away, by listener.",
        by=LISTENER,
    ),
    # by source address and pool
    counter("source_attempts_total", Slot.SOURCE_ATTEMPTS, "Attempts, by source address.", by=SOURCE),
    counter(
        "source_recipients_total",
        {"delivered": Slot.SOURCE_DELIVERED, "deferred": Slot.SOURCE_DEFERRED, "failed": Slot.SOURCE_FAILED},
        "Recipients by what an attempt came to, by source address.",
        "result",
        by=SOURCE,
    ),
    counter(
        "source_replies_total",
        {
            "2xx": Slot.SOURCE_REPLIES_2XX,
            "4xx": Slot.SOURCE_REPLIES_4XX,
            "5xx": Slot.SOURCE_REPLIES_5XX,
            "none": Slot.SOURCE_REPLIES_NONE,
        },
        "What decided for recipients, as in delivery_replies, by source address.",
        "class",
        by=SOURCE,
    ),
    counter(
        "source_connections_total",
        {"opened": Slot.SOURCE_OPENED, "failed": Slot.SOURCE_UNREACHED},
        "Connections that were opened, or not to be had, by source address.",
        "result",
        by=SOURCE,
    ),
    counter(
        "pool_recipients_total",
        {"delivered": Slot.POOL_DELIVERED, "deferred": Slot.POOL_DEFERRED, "failed": Slot.POOL_FAILED},
        "Recipients by what an attempt came to, by source pool.",
        "result",
        by=POOL,
    ),
    # by shard
    gauge("shard_journal_bytes", Slot.SHARD_JOURNAL, "Octets of a shard's journal segments on disk.", by=SHARD),
    gauge("shard_living_bytes", Slot.SHARD_LIVING, "Octets of a shard's records that are needed.", by=SHARD),
    gauge(
        "shard_closed",
        Slot.SHARD_CLOSED,
        "1 while a shard takes no mail after a failed write or sync, or for want of room, else 0.",
        by=SHARD,
    ),
)
