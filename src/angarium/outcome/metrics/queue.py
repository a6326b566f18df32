"""What is counted of the messages that the relay is responsible for, and of the journal that keeps them."""

from __future__ import annotations

from angarium._core.counters import Slot
from angarium.outcome.metrics.model import MICROSECONDS, MetricSpec, counter, gauge, gauge_histogram, histogram

__all__ = ["QUEUE"]

QUEUE: tuple[MetricSpec, ...] = (
    gauge("queue_messages", Slot.QUEUE_MESSAGES, "Messages queued."),
    gauge(
        "queue_recipients",
        Slot.QUEUE_RECIPIENTS,
        "Recipients of the messages queued; all of a message's, until the last of them is final.",
    ),
    gauge("queue_mail_data_bytes", Slot.QUEUE_OCTETS, "Octets of the messages queued, in memory or not."),
    gauge("queue_memory_bytes", Slot.QUEUE_MEMORY_OCTETS, "Octets of memory behind mail data."),
    gauge(
        "queue_memory_mark_bytes",
        {
            "soft": Slot.QUEUE_MEMORY_MARK_SOFT,
            "hard": Slot.QUEUE_MEMORY_MARK_HARD,
            "budget": Slot.QUEUE_MEMORY_MARK_BUDGET,
        },
        "Octets of memory behind mail data over which data of what waits is dropped from memory, intake is slowed, and "
        "mail is refused.",
        "mark",
    ),
    gauge(
        "queue_memory_state",
        {
            "below": Slot.QUEUE_MEMORY_STATE_BELOW,
            "soft": Slot.QUEUE_MEMORY_STATE_SOFT,
            "hard": Slot.QUEUE_MEMORY_STATE_HARD,
            "refusing": Slot.QUEUE_MEMORY_STATE_REFUSING,
        },
        "Workers by the state of the node's memory as they see it.",
        "state",
    ),
    counter(
        "queue_memory_passed_marks_total",
        {
            "soft": Slot.QUEUE_MEMORY_ENTERED_SOFT,
            "hard": Slot.QUEUE_MEMORY_ENTERED_HARD,
            "budget": Slot.QUEUE_MEMORY_ENTERED_REFUSING,
        },
        "Times that a worker saw the node's memory pass a mark upwards.",
        "mark",
    ),
    gauge("queue_journal_bytes", Slot.QUEUE_JOURNAL_OCTETS, "Octets of the journal's segments on disk."),
    gauge(
        "queue_journal_living_bytes",
        Slot.QUEUE_LIVING_OCTETS,
        "Octets of journal records that are needed; queue_journal_bytes over this is the space amplification.",
    ),
    gauge("queue_failed_shards", Slot.QUEUE_SHARDS_FAILED, "Shards closed for intake after a failed write or sync."),
    gauge(
        "queue_full_shards", Slot.QUEUE_SHARDS_FULL, "Shards that refused mail for want of room and found none since."
    ),
    counter(
        "queue_shard_changes_total",
        {"fenced": Slot.QUEUE_SHARD_FENCED, "full": Slot.QUEUE_SHARD_FULL, "healed": Slot.QUEUE_SHARD_HEALED},
        "Shards fenced after a failed write or sync, found full, and healed of either.",
        "state",
    ),
    counter(
        "queue_ledger_recipients_total",
        {
            "accepted": Slot.QUEUE_LEDGER_ACCEPTED,
            "delivered": Slot.QUEUE_LEDGER_DELIVERED,
            "bounced": Slot.QUEUE_LEDGER_BOUNCED,
            "expired": Slot.QUEUE_LEDGER_EXPIRED,
        },
        "Recipients since the spool was made: accepted, and how it ended for them; kept in the journal.",
        "outcome",
    ),
    counter(
        "queue_ledger_dropped_recipients_total",
        {
            "operator_deleted": Slot.QUEUE_LEDGER_DELETED,
            "damaged": Slot.QUEUE_LEDGER_DAMAGED,
            "lost_memory": Slot.QUEUE_LEDGER_LOST_MEMORY,
        },
        "Recipients since the spool was made who left the queue in another way; kept in the journal.",
        "reason",
    ),
    gauge(
        "queue_ledger_queued_recipients",
        Slot.QUEUE_LEDGER_QUEUED,
        "Recipients queued when the ledger was published: accepted less delivered, bounced, expired and dropped.",
    ),
    gauge(
        "queue_ledger_drift_recipients",
        Slot.QUEUE_LEDGER_DRIFT,
        "By how many recipients the ledger and the queue differ: 0, or there is a fault in the relay.",
    ),
    counter(
        "queue_waited_seconds_total",
        {
            "held": Slot.QUEUE_WAITED_HELD,
            "suspended": Slot.QUEUE_WAITED_SUSPENDED,
            "quota": Slot.QUEUE_WAITED_QUOTA,
            "release": Slot.QUEUE_WAITED_RELEASE,
            "backoff": Slot.QUEUE_WAITED_BACKOFF,
            "dns": Slot.QUEUE_WAITED_DNS,
            "connection": Slot.QUEUE_WAITED_CONNECTION,
            "concurrency": Slot.QUEUE_WAITED_CONCURRENCY,
            "room": Slot.QUEUE_WAITED_ROOM,
            "disk": Slot.QUEUE_WAITED_DISK,
        },
        "Seconds that messages have waited, each second of a message charged to one cause; its rate is the number of "
        "messages that wait for that cause.",
        "cause",
        scale=MICROSECONDS,
    ),
    gauge_histogram(
        "queue_age_seconds",
        Slot.QUEUE_AGE,
        "Messages queued, by the time since they were accepted; looked at once a minute at least.",
    ),
    counter("queue_commits_total", Slot.QUEUE_COMMITS_TOTAL, "Groups of records written to a journal."),
    counter(
        "queue_commit_records_total",
        Slot.QUEUE_COMMIT_RECORDS,
        "Records of messages that are written, or on disk, as their durability class asks.",
    ),
    counter("queue_journal_written_bytes_total", Slot.QUEUE_JOURNAL_WRITTEN_OCTETS, "Octets written to journals."),
    counter("queue_syncs_total", Slot.QUEUE_SYNCS_TOTAL, "Calls of fdatasync on a journal."),
    histogram(
        "queue_commit_batch_records",
        Slot.QUEUE_BATCH_RECORDS,
        "Records of a group written to a journal.",
        scale=0.01,
        largest_bound=10_000,
    ),
    histogram("queue_write_latency_seconds", Slot.QUEUE_WRITE_LATENCY, "Writing one group of records to a journal."),
    histogram("queue_sync_latency_seconds", Slot.QUEUE_SYNC_LATENCY, "Duration of one fdatasync of a journal."),
    counter(
        "queue_segments_total",
        {"created": Slot.QUEUE_SEGMENTS_CREATED, "recycled": Slot.QUEUE_SEGMENTS_RECYCLED},
        "Journal segments taken into use, by where they came from.",
        "origin",
    ),
    counter(
        "queue_compacted_bytes_total", Slot.QUEUE_COMPACTED_OCTETS, "Octets of records copied out of old segments."
    ),
    counter("queue_recovered_messages_total", Slot.QUEUE_RECOVERED, "Messages found in the journal at start."),
    counter("queue_torn_records_total", Slot.QUEUE_TORN_RECORDS, "Unfinished records found at start, and left out."),
    counter(
        "queue_damaged_records_total",
        {"start": Slot.QUEUE_DAMAGED_START, "read": Slot.QUEUE_DAMAGED_READ},
        "Records that were on disk and are damaged, by when that was found; what is left of them is in spool/damaged.",
        "found",
    ),
    counter(
        "queue_in_doubt_messages_total",
        Slot.QUEUE_IN_DOUBT_TOTAL,
        "Messages whose next hop may have taken them without its final reply being seen.",
    ),
    counter("queue_expired_messages_total", Slot.QUEUE_EXPIRED, "Messages given up because their time was over."),
)
