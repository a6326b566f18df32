"""The JSON shapes of the API. They are a promise to users: extend them, do not change them.

Durations are seconds, sizes octets, times RFC 3339 in UTC.
"""

from enum import Enum

import msgspec

__all__ = [
    "Attachment",
    "Liveness",
    "MessageDetail",
    "MessageState",
    "NodeStatus",
    "NodeTotals",
    "QueueFilter",
    "QueueSummary",
    "QueuedMessage",
    "QueuedRecipient",
    "Readiness",
    "RecipientState",
    "RecordLocation",
    "SandboxListing",
    "SandboxMessage",
    "SandboxMessageDetail",
    "StateCounts",
    "WorkerReport",
    "WorkerStatus",
]


class MessageState(Enum):
    """What a queued message waits for."""

    READY = "ready"
    SCHEDULED = "scheduled"
    HELD = "held"
    SUSPENDED = "suspended"
    IN_DOUBT = "in_doubt"


class RecipientState(Enum):
    """What has become of a recipient so far."""

    QUEUED = "queued"
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"
    EXPIRED = "expired"
    IN_DOUBT = "in_doubt"


class StateCounts(msgspec.Struct, frozen=True):
    """Messages by state."""

    ready: int = 0
    scheduled: int = 0
    held: int = 0
    suspended: int = 0
    in_doubt: int = 0


class QueueSummary(msgspec.Struct, frozen=True):
    """The queue in numbers. `oldest_s` is the age of the message accepted first, null when there is none."""

    messages: int
    recipients: int
    octets: int
    oldest_s: float | None
    by_state: StateCounts


class QueuedRecipient(msgspec.Struct, frozen=True):
    """One recipient. `reply` is the last one the next hop gave."""

    address: str
    state: RecipientState
    attempts: int
    reply: str | None
    next_attempt: str | None


class QueuedMessage(msgspec.Struct, frozen=True):
    """One message of the queue. `reverse_path` is empty for the null reverse path."""

    id: str
    state: MessageState
    reverse_path: str
    octets: int
    received: str
    tenant: str | None
    recipients: list[QueuedRecipient]


class RecordLocation(msgspec.Struct, frozen=True):
    """Where the journal keeps a message. All but the shard are null for a message of class memory."""

    shard: int
    segment: str | None = None
    offset: int | None = None
    octets: int | None = None


class MessageDetail(QueuedMessage, frozen=True):
    """One message with its header section and the place of its record."""

    header: str
    record: RecordLocation | None


class QueueFilter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which messages to list. What is left out does not restrict."""

    limit: int
    to_domain: str | None = None
    reverse_path: str | None = msgspec.field(name="from", default=None)
    tenant: str | None = None
    state: MessageState | None = None
    older_than_s: float | None = None


class WorkerStatus(msgspec.Struct, frozen=True):
    """What a worker says of itself. `reason` says why it does not accept mail."""

    worker: int
    pid: int
    accepting: bool
    reason: str
    shards: list[int]
    uptime_s: float


class WorkerReport(msgspec.Struct, frozen=True):
    """A worker as the admin process sees it. `error` says why it does not answer; then `status` is null."""

    worker: int
    answering: bool
    error: str | None
    status: WorkerStatus | None


class NodeTotals(msgspec.Struct, frozen=True):
    """Counters since the relay started, summed over all workers, and what is open now."""

    connections: int
    open_connections: int
    commands: int
    accepted_messages: int
    accepted_octets: int
    rejections: int
    attempts: int
    delivered_messages: int
    delivered_recipients: int
    deferred_recipients: int
    failed_recipients: int
    expired_recipients: int
    delivery_open_connections: int
    possible_duplicates: int


class NodeStatus(msgspec.Struct, frozen=True):
    """The node at a glance."""

    version: str
    hostname: str
    sandbox: bool
    time: str
    uptime_s: float
    accepting: bool
    reasons: list[str]
    workers: list[WorkerReport]
    totals: NodeTotals


class Liveness(msgspec.Struct, frozen=True):
    """The answer of /healthz."""

    status: str


class Readiness(msgspec.Struct, frozen=True):
    """The answer of /readyz: ready when a worker accepts mail, and why others do not."""

    ready: bool
    reasons: list[str]


class SandboxMessage(msgspec.Struct, frozen=True):
    """A message that the sandbox's sink has taken. Texts are those of the header, decoded; empty when it has none."""

    id: str
    from_: str = msgspec.field(name="from")
    to: str
    subject: str
    date: str
    octets: int
    received: str


class SandboxListing(msgspec.Struct, frozen=True):
    """The newest messages first; `total` is how many there are."""

    total: int
    messages: list[SandboxMessage]


class Attachment(msgspec.Struct, frozen=True):
    """A part of a message that is not its text."""

    filename: str
    content_type: str
    octets: int


class SandboxMessageDetail(SandboxMessage, frozen=True):
    """One message taken apart. `text` and `html` are null when it has none; `cut` when only its beginning was read."""

    reverse_path: str
    header: list[tuple[str, str]]
    text: str | None
    html: str | None
    attachments: list[Attachment]
    raw: str
    cut: bool
