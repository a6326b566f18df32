"""The metrics of the node: every name, with its unit, help, labels and the slots of shared memory it is read from.

Job: the one table from which the exposition (outcome.exposition), docs/metrics.md (outcome.metric_page), the boards and
the alert rules are made. Names are `angarium_<stage>_<what>_<unit|total>` in base units (seconds, bytes).

    METRICS            read from the slab (angarium._core.counters), summed over all processes of the node
    PROCESS_METRICS    read from /proc by the admin process
    TOP_METRICS        the domains with the most of something, from the slab's lists
    REGISTRY           all of them

A label's values are a closed set: listed here, or the rows of a Dimension, which the configuration names. Only
TOP_METRICS have a label with values from the mail, and of these at most TOP_SHOWN at a time.

A new metric needs its slot in counters.pxd (and its name in counters.pyi) and one line here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from angarium._core.counters import Dimension, Slot, Top, has_exemplars

if TYPE_CHECKING:
    from collections.abc import Mapping

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

TOP_SHOWN = 50
UNITS = ("seconds", "bytes", "messages", "recipients", "connections", "records", "events")


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


PROVIDER = Label("provider", dimension=Dimension.DIMENSION_PROVIDER)
TENANT = Label("tenant", dimension=Dimension.DIMENSION_TENANT)
LISTENER = Label("listener", dimension=Dimension.DIMENSION_LISTENER)
SOURCE = Label("source", dimension=Dimension.DIMENSION_SOURCE)
POOL = Label("pool", dimension=Dimension.DIMENSION_POOL)
SHARD = Label("shard", dimension=Dimension.DIMENSION_SHARD)
PROCESS = Label("process", ("supervisor", "admin", "lookup", "access", "events", "worker-N"))
STREAM = Label("stream", configured=True)
DOMAIN = Label("domain")

MICROSECONDS = 1e-6


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


def _counter(
    name: str,
    slots: Slot | Mapping[str, Slot],
    text: str,
    label: str = "",
    *,
    by: Label | None = None,
    scale: float = 1.0,
) -> MetricSpec:
    return _metric(Kind.COUNTER, name, slots, text, label, by, scale)


def _gauge(
    name: str,
    slots: Slot | Mapping[str, Slot],
    text: str,
    label: str = "",
    *,
    by: Label | None = None,
    scale: float = 1.0,
    of_all: str = "sum",
) -> MetricSpec:
    return _metric(Kind.GAUGE, name, slots, text, label, by, scale, of_all)


def _histogram(
    name: str,
    slots: Slot | Mapping[str, Slot],
    text: str,
    label: str = "",
    *,
    scale: float = MICROSECONDS,
    largest_bound: float = float("inf"),
) -> MetricSpec:
    return _metric(Kind.HISTOGRAM, name, slots, text, label, scale=scale, largest_bound=largest_bound)


METRICS: tuple[MetricSpec, ...] = (
    # ingress: connections
    _gauge("ingress_open_connections", Slot.INGRESS_CONNECTIONS, "Client connections that are open."),
    _counter("ingress_connections_total", Slot.INGRESS_CONNECTIONS_TOTAL, "Client connections accepted."),
    _counter(
        "ingress_refused_connections_total",
        {"node": Slot.INGRESS_REFUSED_NODE, "client": Slot.INGRESS_REFUSED_CLIENT},
        "Connections answered 421 at once, by the limit that was reached: the node's or the client's own.",
        "limit",
    ),
    _counter(
        "ingress_client_table_full_total",
        Slot.INGRESS_CLIENT_TABLE_FULL,
        "Connections whose client found no place in the table of clients, and so shared one limit with others like it.",
    ),
    _counter(
        "ingress_tls_handshakes_total",
        {"ok": Slot.INGRESS_TLS_HANDSHAKES, "failed": Slot.INGRESS_TLS_FAILURES},
        "TLS handshakes with clients.",
        "result",
    ),
    _counter(
        "ingress_proxy_headers_total",
        {
            "client": Slot.INGRESS_PROXY_CLIENT,
            "own": Slot.INGRESS_PROXY_OWN,
            "malformed": Slot.INGRESS_PROXY_MALFORMED,
            "too_long": Slot.INGRESS_PROXY_TOO_LONG,
            "timeout": Slot.INGRESS_PROXY_TIMEOUT,
            "lost": Slot.INGRESS_PROXY_LOST,
        },
        "Connections from proxies by the header of the PROXY protocol: it names a client or the proxy itself, or there "
        "is none that can be used and the connection was closed.",
        "result",
    ),
    _counter(
        "ingress_xclient_total",
        {"taken": Slot.INGRESS_XCLIENT, "refused": Slot.INGRESS_XCLIENT_REFUSED},
        "XCLIENT commands of hosts to whom it is offered.",
        "result",
    ),
    _counter(
        "ingress_client_certificates_total",
        {"relays": Slot.INGRESS_CERTIFICATE_RELAYS, "other": Slot.INGRESS_CERTIFICATE_OTHER},
        "Verified certificates of clients: named in relay_certificates, or not.",
        "named",
    ),
    _counter(
        "ingress_certificate_reads_total",
        {"ok": Slot.INGRESS_CERTIFICATES_LOADED, "failed": Slot.INGRESS_CERTIFICATES_REFUSED},
        "Times a process read its own certificates again because their files had changed.",
        "result",
    ),
    _gauge(
        "ingress_certificate_expiry_seconds",
        Slot.INGRESS_CERTIFICATE_LEFT,
        "Until the first of the relay's own certificates ends; 0 without [tls], and when one has ended.",
    ),
    _counter(
        "ingress_authentications_total",
        {
            "ok": Slot.INGRESS_AUTH_OK,
            "failed": Slot.INGRESS_AUTH_FAILED,
            "banned": Slot.INGRESS_AUTH_BANNED,
            "unavailable": Slot.INGRESS_AUTH_UNAVAILABLE,
        },
        "AUTH commands by result: right, wrong, not looked at because the client or the log-in is banned, or nobody "
        "could say.",
        "result",
    ),
    _counter(
        "ingress_verifications_total",
        {
            "accepted": Slot.INGRESS_VERIFIED_ACCEPTED,
            "refused": Slot.INGRESS_VERIFIED_REFUSED,
            "unavailable": Slot.INGRESS_VERIFIED_UNAVAILABLE,
            "remembered": Slot.INGRESS_VERIFIED_REMEMBERED,
        },
        "Log-ins by what back ends said of them; nobody could look at them, or they were answered from memory.",
        "result",
    ),
    _counter(
        "ingress_delayed_log_ins_total", Slot.INGRESS_DELAYED_LOG_INS, "Failed log-ins whose answer was held back."
    ),
    _gauge(
        "ingress_banned",
        {"address": Slot.INGRESS_BANNED_ADDRESSES, "log_in": Slot.INGRESS_BANNED_LOG_INS},
        "Clients and log-ins whose AUTH is not looked at for a time, because too many have failed.",
        "of",
    ),
    _counter(
        "ingress_bans_total",
        {"address": Slot.INGRESS_BANS_ADDRESS, "log_in": Slot.INGRESS_BANS_LOG_IN},
        "Bans that began, of clients and of log-ins.",
        "of",
    ),
    _counter("ingress_lifted_bans_total", Slot.INGRESS_BANS_LIFTED, "Bans that an operator lifted."),
    # ingress: commands and replies
    _counter("ingress_commands_total", Slot.INGRESS_COMMANDS_TOTAL, "SMTP commands received."),
    _counter(
        "ingress_replies_total",
        {
            "2xx": Slot.INGRESS_REPLIES_2XX,
            "3xx": Slot.INGRESS_REPLIES_3XX,
            "4xx": Slot.INGRESS_REPLIES_4XX,
            "5xx": Slot.INGRESS_REPLIES_5XX,
        },
        "SMTP replies sent to clients, by the first digit of the reply code.",
        "class",
    ),
    _counter(
        "ingress_throttled_total", Slot.INGRESS_THROTTLED, "Times a session had to wait for sending commands too fast."
    ),
    _counter(
        "ingress_paced_total", Slot.INGRESS_PACED, "Times a session had to wait because memory was over its hard mark."
    ),
    # ingress: messages
    _counter(
        "ingress_messages_total",
        {
            "fsync": Slot.INGRESS_MESSAGES_FSYNC,
            "async": Slot.INGRESS_MESSAGES_ASYNC,
            "memory": Slot.INGRESS_MESSAGES_MEMORY,
        },
        "Messages answered 250, by durability class.",
        "durability",
    ),
    _counter("ingress_mail_data_bytes_total", Slot.INGRESS_OCTETS, "Octets of mail data answered 250."),
    _counter(
        "ingress_rejections_total",
        {
            "relay": Slot.INGRESS_REJECTED_RELAY,
            "size": Slot.INGRESS_REJECTED_SIZE,
            "bare_newline": Slot.INGRESS_REJECTED_BARE_NEWLINE,
            "hops": Slot.INGRESS_REJECTED_HOPS,
            "syntax": Slot.INGRESS_REJECTED_SYNTAX,
            "recipients": Slot.INGRESS_REJECTED_RECIPIENTS,
            "errors": Slot.INGRESS_REJECTED_ERRORS,
            "idle": Slot.INGRESS_REJECTED_IDLE,
            "storage": Slot.INGRESS_REJECTED_STORAGE,
            "memory_full": Slot.INGRESS_REJECTED_MEMORY_FULL,
            "unknown_recipient": Slot.INGRESS_REJECTED_UNKNOWN,
            "unverified_recipient": Slot.INGRESS_REJECTED_UNVERIFIED,
            "sender": Slot.INGRESS_REJECTED_SENDER,
            "quota": Slot.INGRESS_REJECTED_QUOTA,
            "header": Slot.INGRESS_REJECTED_HEADER,
        },
        "Commands, messages and sessions turned away, by reason.",
        "reason",
    ),
    _counter(
        "ingress_recipients_checked_total",
        {
            "known": Slot.INGRESS_CHECKED_KNOWN,
            "unknown": Slot.INGRESS_CHECKED_UNKNOWN,
            "deferred": Slot.INGRESS_CHECKED_DEFERRED,
            "unchecked": Slot.INGRESS_CHECKED_UNCHECKED,
        },
        "Recipients of the relay's own domains by what their verification came to; unchecked: accepted because the "
        "mailbox host could not be asked.",
        "result",
    ),
    _counter(
        "ingress_recipient_lists_total",
        {"read": Slot.INGRESS_LISTS_READ, "failed": Slot.INGRESS_LISTS_FAILED},
        "Files of recipients read, by worker and change; failed: the recipients stay as they were.",
        "result",
    ),
    _counter(
        "ingress_recipient_probes_total",
        {
            "known": Slot.INGRESS_PROBES_KNOWN,
            "unknown": Slot.INGRESS_PROBES_UNKNOWN,
            "failed": Slot.INGRESS_PROBES_FAILED,
            "spared": Slot.INGRESS_PROBES_SPARED,
            "stale": Slot.INGRESS_PROBES_STALE,
        },
        "Questions about recipients to mailbox hosts by what they said; spared: answered by what was known; stale: by "
        "what was right once, since the host could not be asked.",
        "result",
    ),
    # ingress: permissions
    _counter(
        "ingress_fixed_up_messages_total",
        Slot.INGRESS_FIXED_UP,
        "Messages whose header section was completed, cleaned or rewritten.",
    ),
    _counter(
        "ingress_over_quota_messages_total",
        Slot.INGRESS_OVER_QUOTA,
        "Messages accepted beyond their sender's limit, which go when it allows.",
    ),
    _counter(
        "ingress_held_unusual_messages_total",
        Slot.INGRESS_HELD_UNUSUAL,
        "Messages accepted and held, because their sender sends unusually much.",
    ),
    _counter(
        "ingress_unusual_senders_total",
        Slot.INGRESS_UNUSUAL_SENDERS,
        "Times a sender was found to send unusually much.",
    ),
    _gauge(
        "ingress_drop_waiting_files", Slot.INGRESS_DROP_WAITING, "Files in the drop folder when it was looked into."
    ),
    _counter(
        "ingress_drop_files_total",
        {
            "taken": Slot.INGRESS_DROP_TAKEN,
            "refused": Slot.INGRESS_DROP_REFUSED,
            "returned": Slot.INGRESS_DROP_RETURNED,
        },
        "Files of the drop folder: queued and removed, put aside for good, left because no mail could be taken then.",
        "result",
    ),
    _histogram(
        "ingress_accept_latency_seconds",
        {
            "envelope": Slot.INGRESS_ACCEPT_ENVELOPE,
            "data": Slot.INGRESS_ACCEPT_DATA,
            "commit": Slot.INGRESS_COMMIT_LATENCY,
        },
        "The time of messages answered 250, by phase: from MAIL until the mail data began, until its end, until the "
        "250 was written.",
        "phase",
    ),
    # queue
    _gauge("queue_messages", Slot.QUEUE_MESSAGES, "Messages queued."),
    _gauge(
        "queue_recipients",
        Slot.QUEUE_RECIPIENTS,
        "Recipients of the messages queued; all of a message's, until the last of them is final.",
    ),
    _gauge("queue_mail_data_bytes", Slot.QUEUE_OCTETS, "Octets of the messages queued, in memory or not."),
    _gauge("queue_memory_bytes", Slot.QUEUE_MEMORY_OCTETS, "Octets of memory behind mail data."),
    _gauge(
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
    _gauge(
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
    _counter(
        "queue_memory_passed_marks_total",
        {
            "soft": Slot.QUEUE_MEMORY_ENTERED_SOFT,
            "hard": Slot.QUEUE_MEMORY_ENTERED_HARD,
            "budget": Slot.QUEUE_MEMORY_ENTERED_REFUSING,
        },
        "Times that a worker saw the node's memory pass a mark upwards.",
        "mark",
    ),
    _gauge("queue_journal_bytes", Slot.QUEUE_JOURNAL_OCTETS, "Octets of the journal's segments on disk."),
    _gauge(
        "queue_journal_living_bytes",
        Slot.QUEUE_LIVING_OCTETS,
        "Octets of journal records that are needed; queue_journal_bytes over this is the space amplification.",
    ),
    _gauge("queue_failed_shards", Slot.QUEUE_SHARDS_FAILED, "Shards closed for intake after a failed write or sync."),
    _gauge(
        "queue_full_shards", Slot.QUEUE_SHARDS_FULL, "Shards that refused mail for want of room and found none since."
    ),
    _counter(
        "queue_shard_changes_total",
        {"fenced": Slot.QUEUE_SHARD_FENCED, "full": Slot.QUEUE_SHARD_FULL, "healed": Slot.QUEUE_SHARD_HEALED},
        "Shards fenced after a failed write or sync, found full, and healed of either.",
        "state",
    ),
    _counter(
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
    _counter(
        "queue_ledger_dropped_recipients_total",
        {
            "operator_deleted": Slot.QUEUE_LEDGER_DELETED,
            "damaged": Slot.QUEUE_LEDGER_DAMAGED,
            "lost_memory": Slot.QUEUE_LEDGER_LOST_MEMORY,
        },
        "Recipients since the spool was made who left the queue in another way; kept in the journal.",
        "reason",
    ),
    _gauge(
        "queue_ledger_queued_recipients",
        Slot.QUEUE_LEDGER_QUEUED,
        "Recipients queued when the ledger was published: accepted less delivered, bounced, expired and dropped.",
    ),
    _gauge(
        "queue_ledger_drift_recipients",
        Slot.QUEUE_LEDGER_DRIFT,
        "By how many recipients the ledger and the queue differ: 0, or there is a fault in the relay.",
    ),
    _counter(
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
    _metric(
        Kind.GAUGE_HISTOGRAM,
        "queue_age_seconds",
        Slot.QUEUE_AGE,
        "Messages queued, by the time since they were accepted; looked at once a minute at least.",
        scale=MICROSECONDS,
    ),
    _counter("queue_commits_total", Slot.QUEUE_COMMITS_TOTAL, "Groups of records written to a journal."),
    _counter("queue_commit_records_total", Slot.QUEUE_COMMIT_RECORDS, "Records in the groups written."),
    _counter("queue_journal_written_bytes_total", Slot.QUEUE_JOURNAL_WRITTEN_OCTETS, "Octets written to journals."),
    _counter("queue_syncs_total", Slot.QUEUE_SYNCS_TOTAL, "Calls of fdatasync on a journal."),
    _histogram(
        "queue_commit_batch_records",
        Slot.QUEUE_BATCH_RECORDS,
        "Records of a group written to a journal.",
        scale=0.01,
        largest_bound=10_000,
    ),
    _histogram("queue_write_latency_seconds", Slot.QUEUE_WRITE_LATENCY, "Writing one group of records to a journal."),
    _histogram("queue_sync_latency_seconds", Slot.QUEUE_SYNC_LATENCY, "Duration of one fdatasync of a journal."),
    _counter(
        "queue_segments_total",
        {"created": Slot.QUEUE_SEGMENTS_CREATED, "recycled": Slot.QUEUE_SEGMENTS_RECYCLED},
        "Journal segments taken into use, by where they came from.",
        "origin",
    ),
    _counter(
        "queue_compacted_bytes_total", Slot.QUEUE_COMPACTED_OCTETS, "Octets of records copied out of old segments."
    ),
    _counter("queue_recovered_messages_total", Slot.QUEUE_RECOVERED, "Messages found in the journal at start."),
    _counter("queue_torn_records_total", Slot.QUEUE_TORN_RECORDS, "Unfinished records found at start, and left out."),
    _counter(
        "queue_damaged_records_total",
        {"start": Slot.QUEUE_DAMAGED_START, "read": Slot.QUEUE_DAMAGED_READ},
        "Records that were on disk and are damaged, by when that was found; what is left of them is in spool/damaged.",
        "found",
    ),
    _counter(
        "queue_in_doubt_messages_total",
        Slot.QUEUE_IN_DOUBT_TOTAL,
        "Messages whose next hop may have taken them without its final reply being seen.",
    ),
    _counter("queue_expired_messages_total", Slot.QUEUE_EXPIRED, "Messages given up because their time was over."),
    # delivery
    _gauge("delivery_open_connections", Slot.DELIVERY_CONNECTIONS, "Connections to next hops that are open."),
    _gauge("delivery_ready_messages", Slot.DELIVERY_READY, "Messages that may go now."),
    _gauge("delivery_scheduled_messages", Slot.DELIVERY_SCHEDULED, "Messages that wait for their time."),
    _gauge(
        "delivery_access_token_seconds",
        Slot.DELIVERY_TOKEN_LEFT,
        "Until the first of the access tokens for log-ins expires; 0 when one is needed and there is none.",
    ),
    _counter("delivery_attempts_total", Slot.DELIVERY_ATTEMPTS, "Attempts to hand a message to a next hop."),
    _counter(
        "delivery_recipients_total",
        {
            "delivered": Slot.DELIVERY_DELIVERED_RECIPIENTS,
            "deferred": Slot.DELIVERY_DEFERRED_RECIPIENTS,
            "failed": Slot.DELIVERY_FAILED_RECIPIENTS,
            "expired": Slot.DELIVERY_EXPIRED_RECIPIENTS,
        },
        "Recipients by what an attempt came to; one that is deferred counts again at its next attempt.",
        "result",
    ),
    _counter(
        "delivery_delivered_messages_total",
        Slot.DELIVERY_DELIVERED_MESSAGES,
        "Messages of which all recipients were delivered.",
    ),
    _counter("delivery_mail_data_bytes_total", Slot.DELIVERY_OCTETS, "Octets of mail data taken by next hops."),
    _counter(
        "delivery_possible_duplicates_total",
        Slot.DELIVERY_DUPLICATES_POSSIBLE,
        "Messages sent again after a transaction whose final reply was not seen.",
    ),
    _histogram(
        "delivery_latency_seconds",
        {
            "fsync": Slot.DELIVERY_LATENCY_FSYNC,
            "async": Slot.DELIVERY_LATENCY_ASYNC,
            "memory": Slot.DELIVERY_LATENCY_MEMORY,
        },
        "From the acceptance of a message until it was delivered, by durability class.",
        "durability",
    ),
    _histogram(
        "delivery_attempt_seconds",
        {
            "dns": Slot.DELIVERY_ATTEMPT_DNS,
            "connect": Slot.DELIVERY_ATTEMPT_CONNECT,
            "greeting": Slot.DELIVERY_ATTEMPT_GREETING,
            "ehlo": Slot.DELIVERY_ATTEMPT_EHLO,
            "tls": Slot.DELIVERY_ATTEMPT_TLS,
            "auth": Slot.DELIVERY_ATTEMPT_AUTH,
            "mail": Slot.DELIVERY_ATTEMPT_MAIL,
            "rcpt": Slot.DELIVERY_ATTEMPT_RCPT,
            "data": Slot.DELIVERY_ATTEMPT_DATA,
            "final": Slot.DELIVERY_ATTEMPT_FINAL,
        },
        "The time of attempts by phase. The first six are of a look-up or a connection, not of each message; the "
        "others last until a reply was read, and where commands are pipelined the first of them has the wait.",
        "phase",
    ),
    _counter(
        "delivery_replies_total",
        {
            "2xx": Slot.DELIVERY_REPLIES_2XX,
            "4xx": Slot.DELIVERY_REPLIES_4XX,
            "5xx": Slot.DELIVERY_REPLIES_5XX,
            "none": Slot.DELIVERY_REPLIES_NONE,
        },
        "What decided for a recipient in an attempt: the first digit of the reply, or none for want of one.",
        "class",
    ),
    _counter(
        "delivery_connections_total",
        {
            "opened": Slot.DELIVERY_CONNECTIONS_OPENED,
            "reused": Slot.DELIVERY_CONNECTIONS_REUSED,
            "failed": Slot.DELIVERY_CONNECTIONS_FAILED,
        },
        "Connections leased for an attempt: newly opened, taken from the pool, or not to be had.",
        "result",
    ),
    _counter(
        "delivery_tls_connections_total",
        {
            "plaintext": Slot.DELIVERY_TLS_PLAINTEXT,
            "encrypted": Slot.DELIVERY_TLS_ENCRYPTED,
            "webpki": Slot.DELIVERY_TLS_WEBPKI,
            "dane": Slot.DELIVERY_TLS_DANE,
            "fingerprint": Slot.DELIVERY_TLS_FINGERPRINT,
        },
        "Connections to next hops that were set up, by their TLS: none, with an unknown host, or with one that was "
        "authenticated so.",
        "level",
    ),
    _counter(
        "delivery_tls_failures_total",
        {
            "starttls_not_supported": Slot.DELIVERY_TLS_NOT_SUPPORTED,
            "certificate_host_mismatch": Slot.DELIVERY_TLS_HOST_MISMATCH,
            "certificate_expired": Slot.DELIVERY_TLS_EXPIRED,
            "certificate_not_trusted": Slot.DELIVERY_TLS_NOT_TRUSTED,
            "validation_failure": Slot.DELIVERY_TLS_VALIDATION,
            "tlsa_invalid": Slot.DELIVERY_TLS_TLSA_INVALID,
            "dnssec_invalid": Slot.DELIVERY_TLS_DNSSEC_INVALID,
            "dane_required": Slot.DELIVERY_TLS_DANE_REQUIRED,
        },
        "Connections to next hops whose TLS was not what the policy asks for, by result type (RFC 8460 §4.3).",
        "reason",
    ),
    _counter(
        "delivery_next_host_total",
        Slot.DELIVERY_NEXT_HOST,
        "Deliveries that went on to another host of their next hop after trouble with one in a session.",
    ),
    _counter(
        "delivery_source_failures_total",
        Slot.DELIVERY_SOURCE_FAILURES,
        "Connections that were not opened, for their source cannot be bound or has no address of the host's family.",
    ),
    _counter(
        "delivery_source_replaced_total",
        Slot.DELIVERY_SOURCE_REPLACED,
        "Ways of a domain's mail that were found by another source of the pool, for the one assigned cannot be used.",
    ),
    _counter(
        "delivery_source_pool_missing_total",
        Slot.DELIVERY_SOURCE_POOL_MISSING,
        "Messages whose source pool the configuration does not have: they go as mail without a pool of its own.",
    ),
    _counter(
        "delivery_access_token_requests_total",
        {
            "granted": Slot.DELIVERY_TOKENS_GRANTED,
            "refused": Slot.DELIVERY_TOKENS_REFUSED,
            "failed": Slot.DELIVERY_TOKENS_FAILED,
        },
        "Requests for OAuth2 access tokens: granted, refused by the token host, or not answered in a way to be read.",
        "result",
    ),
    _counter("delivery_dns_queries_total", Slot.DELIVERY_DNS_QUERIES, "DNS queries sent."),
    _counter("delivery_dns_cache_hits_total", Slot.DELIVERY_DNS_CACHE_HITS, "DNS questions answered from the cache."),
    _counter("delivery_dns_failures_total", Slot.DELIVERY_DNS_FAILURES, "DNS queries without a usable answer."),
    _counter(
        "delivery_dns_stale_answers_total",
        Slot.DELIVERY_DNS_STALE,
        "DNS questions answered with what was right once, because no server had an answer in time.",
    ),
    # outcome
    _counter("outcome_events_total", Slot.OUTCOME_EVENTS, "Events written to the event log."),
    _counter("outcome_dropped_events_total", Slot.OUTCOME_EVENTS_DROPPED, "Events that could not be written."),
    _gauge("outcome_event_log_bytes", Slot.OUTCOME_LOG_OCTETS, "Octets on disk of the event log's files."),
    _counter("outcome_event_log_rotations_total", Slot.OUTCOME_LOG_ROTATIONS, "Rotations of the event log."),
    _counter(
        "outcome_event_log_compressions_total",
        {"ok": Slot.OUTCOME_LOG_COMPRESSED, "failed": Slot.OUTCOME_LOG_COMPRESS_FAILED},
        "Files of the event log that were compressed, and tries that failed and come again.",
        "result",
    ),
    _counter(
        "outcome_event_log_deleted_files_total",
        Slot.OUTCOME_LOG_DELETED,
        "Files of the event log that were deleted for their age, for their size, or unsent.",
    ),
    _counter(
        "outcome_notifications_total",
        {
            "failed": Slot.OUTCOME_NOTIFICATIONS_FAILED,
            "delayed": Slot.OUTCOME_NOTIFICATIONS_DELAYED,
            "success": Slot.OUTCOME_NOTIFICATIONS_SUCCESS,
        },
        "Delivery status notifications queued, by the worst that they tell their recipient.",
        "kind",
    ),
    _gauge(
        "outcome_waiting_notifications",
        Slot.OUTCOME_NOTIFICATIONS_WAITING,
        "Notifications that no journal has taken yet; the messages that they are about stay queued.",
    ),
    _counter(
        "outcome_put_off_notifications_total",
        Slot.OUTCOME_NOTIFICATIONS_PUT_OFF,
        "Notifications that found no room to wait in: their message is deferred, and they are tried again with it.",
    ),
    _counter(
        "outcome_dropped_notifications_total",
        Slot.OUTCOME_NOTIFICATIONS_DROPPED,
        "Notifications of a success that found no room to wait in, and were given up.",
    ),
    _counter(
        "outcome_double_bounces_total",
        Slot.OUTCOME_DOUBLE_BOUNCES,
        "Mail with the null reverse-path that failed: nobody is told.",
    ),
    # MTA-STS, and reports of TLS results
    _gauge("delivery_mta_sts_policies", Slot.DELIVERY_MTA_STS_POLICIES, "Policies of MTA-STS that are kept."),
    _counter(
        "delivery_mta_sts_fetches_total",
        {
            "ok": Slot.DELIVERY_MTA_STS_FETCHED,
            "failed": Slot.DELIVERY_MTA_STS_FAILED,
            "kept": Slot.DELIVERY_MTA_STS_KEPT,
        },
        "Policy files of MTA-STS that were asked for: a policy came of it, none is known, or one known before goes on.",
        "result",
    ),
    _counter("outcome_tls_results_total", Slot.OUTCOME_TLS_RESULTS, "Results of TLS sessions gathered for reports."),
    _counter(
        "outcome_dropped_tls_results_total",
        Slot.OUTCOME_TLS_RESULTS_DROPPED,
        "Results of TLS sessions that found no room, and are in no report.",
    ),
    _counter(
        "outcome_tls_reports_total",
        {
            "mailed": Slot.OUTCOME_TLS_REPORTS_MAILED,
            "posted": Slot.OUTCOME_TLS_REPORTS_POSTED,
            "failed": Slot.OUTCOME_TLS_REPORTS_FAILED,
        },
        "Daily reports of TLS results: queued as mail, taken by HTTPS, or given up after a day.",
        "result",
    ),
    # processes
    _counter("worker_starts_total", Slot.WORKER_STARTS, "Starts of worker processes, the first ones included."),
    _histogram("worker_loop_lag_seconds", Slot.LOOP_LAG, "How late a worker's event loop ran what was due."),
    # the node
    _counter(
        "node_reloads_total",
        {"applied": Slot.NODE_RELOADS_APPLIED, "refused": Slot.NODE_RELOADS_REFUSED},
        "Reloads of the configuration: changed in place, or refused as a whole, so that the one before stays.",
        "result",
    ),
    _gauge("node_last_reload_refused", Slot.NODE_RELOAD_REFUSED, "1 when the last reload was refused, else 0."),
    _gauge(
        "node_configuration_timestamp_seconds",
        Slot.NODE_CONFIGURATION_TIME,
        "Since when the configuration in force is in force, Unix time.",
    ),
    _gauge(
        "node_restart_keys",
        Slot.NODE_RESTART_KEYS,
        "Keys of the configuration file that differ from what is in force and wait for a restart.",
    ),
    _counter(
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
    _counter(
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
    _gauge("node_draining", Slot.NODE_DRAINING, "1 while the node takes no mail because of `angarium drain`, else 0."),
    # by provider
    _counter("provider_attempts_total", Slot.PROVIDER_ATTEMPTS, "Attempts, by provider.", by=PROVIDER),
    _counter(
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
    _counter(
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
    _counter(
        "provider_connections_total",
        {"opened": Slot.PROVIDER_OPENED, "failed": Slot.PROVIDER_UNREACHED},
        "Connections that were opened, or not to be had, by provider.",
        "result",
        by=PROVIDER,
    ),
    _gauge(
        "provider_waiting_messages",
        Slot.PROVIDER_WAITING,
        "Messages that wait for their time or for a connection, by provider.",
        by=PROVIDER,
    ),
    _gauge(
        "provider_oldest_seconds",
        Slot.PROVIDER_OLDEST,
        "Since the oldest message that waits for its time was accepted, by provider; 0 when none does.",
        by=PROVIDER,
        scale=MICROSECONDS,
        of_all="most",
    ),
    # by tenant
    _counter(
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
    _gauge("tenant_waiting_messages", Slot.TENANT_WAITING, "Messages that are queued, by tenant.", by=TENANT),
    # by listener
    _counter("listener_connections_total", Slot.LISTENER_CONNECTIONS, "Client connections, by listener.", by=LISTENER),
    _counter(
        "listener_refused_connections_total",
        Slot.LISTENER_TURNED_AWAY,
        "Client connections answered 421 at once, by listener.",
        by=LISTENER,
    ),
    _counter("listener_messages_total", Slot.LISTENER_ACCEPTED, "Messages answered 250, by listener.", by=LISTENER),
    _counter(
        "listener_rejections_total",
        Slot.LISTENER_REFUSED,
        "Commands and messages turned away, by listener.",
        by=LISTENER,
    ),
    # by source address and pool
    _counter("source_attempts_total", Slot.SOURCE_ATTEMPTS, "Attempts, by source address.", by=SOURCE),
    _counter(
        "source_recipients_total",
        {"delivered": Slot.SOURCE_DELIVERED, "deferred": Slot.SOURCE_DEFERRED, "failed": Slot.SOURCE_FAILED},
        "Recipients by what an attempt came to, by source address.",
        "result",
        by=SOURCE,
    ),
    _counter(
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
    _counter(
        "source_connections_total",
        {"opened": Slot.SOURCE_OPENED, "failed": Slot.SOURCE_UNREACHED},
        "Connections that were opened, or not to be had, by source address.",
        "result",
        by=SOURCE,
    ),
    _counter(
        "pool_recipients_total",
        {"delivered": Slot.POOL_DELIVERED, "deferred": Slot.POOL_DEFERRED, "failed": Slot.POOL_FAILED},
        "Recipients by what an attempt came to, by source pool.",
        "result",
        by=POOL,
    ),
    # by shard
    _gauge("shard_journal_bytes", Slot.SHARD_JOURNAL, "Octets of a shard's journal segments on disk.", by=SHARD),
    _gauge("shard_living_bytes", Slot.SHARD_LIVING, "Octets of a shard's records that are needed.", by=SHARD),
    _gauge(
        "shard_closed",
        Slot.SHARD_CLOSED,
        "1 while a shard takes no mail after a failed write or sync, or for want of room, else 0.",
        by=SHARD,
    ),
)


def _of_process(kind: Kind, name: str, text: str) -> MetricSpec:
    return MetricSpec(kind, f"angarium_{name}", text, (), (PROCESS,))


# Not counted in slots: angarium.admin.processes reads these from /proc.
PROCESS_MEMORY = _of_process(Kind.GAUGE, "process_resident_memory_bytes", "Resident memory of a process.")
PROCESS_CPU = _of_process(Kind.COUNTER, "process_cpu_seconds_total", "User and system CPU time of a process.")
PROCESS_FDS = _of_process(Kind.GAUGE, "process_open_fds", "Open file descriptors of a process.")
PROCESS_UP = _of_process(Kind.GAUGE, "process_up", "1 while the process serves and its event loop turns, else 0.")
PROCESS_METRICS = (PROCESS_MEMORY, PROCESS_CPU, PROCESS_FDS, PROCESS_UP)


def _of_stream(kind: Kind, name: str, text: str) -> MetricSpec:
    return MetricSpec(kind, f"angarium_{name}", text, (), (STREAM,))


# Not counted in slots: the events process tells them, and keeps the totals over restarts.
STREAM_LAG_EVENTS = _of_stream(
    Kind.GAUGE, "stream_lag_events", "Lines of the event log that a stream has not got to, sent or passed over."
)
STREAM_LAG_SECONDS = _of_stream(Kind.GAUGE, "stream_lag_seconds", "Age of the oldest event that is not sent.")
STREAM_FAILING = _of_stream(Kind.GAUGE, "stream_failing", "1 while a batch is not taken by the other side, else 0.")
STREAM_DEAD_LETTERS = _of_stream(Kind.GAUGE, "stream_dead_letters", "Events that were set aside and can be sent again.")
STREAM_SENT = _of_stream(Kind.COUNTER, "stream_sent_events_total", "Events that the other side has taken.")
STREAM_BATCHES = _of_stream(Kind.COUNTER, "stream_sent_batches_total", "Batches that the other side has taken.")
STREAM_FAILURES = _of_stream(Kind.COUNTER, "stream_failures_total", "Tries to hand over a batch that failed.")
STREAM_LOST = _of_stream(
    Kind.COUNTER,
    "stream_lost_events_total",
    "Events that were given up unsent, by events.keep_unsent or for want of room.",
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

REGISTRY = METRICS + STREAM_METRICS + PROCESS_METRICS + TOP_METRICS
