"""The JSON shapes of the API. They are a promise to users: extend them, do not change them.

Durations are seconds, sizes octets, times RFC 3339 in UTC.
"""

from datetime import datetime
from enum import Enum
from typing import Annotated

import msgspec

from angarium.queue.suspension import Kind

__all__ = [
    "AccessReport",
    "AccessStatus",
    "ActionName",
    "Attachment",
    "Attempt",
    "AttemptRecipient",
    "ConfigurationStatus",
    "Envelope",
    "EnvelopeRecipient",
    "ExplainedDns",
    "ExplainedHost",
    "ExplainedMailHost",
    "ExplainedRoute",
    "ExplainedTls",
    "ExplainedTrial",
    "ExplainedWorker",
    "Explanation",
    "Inquiry",
    "Liveness",
    "LookupReport",
    "LookupStatus",
    "MeantMessages",
    "MessageDetail",
    "MessageState",
    "NewSuspension",
    "NodeStatus",
    "NodeTotals",
    "Operation",
    "OperationPart",
    "Preview",
    "QueueAction",
    "QueueFilter",
    "QueueSummary",
    "QueuedMessage",
    "QueuedRecipient",
    "Readiness",
    "RecipientState",
    "RecordLocation",
    "RefusedReload",
    "ReloadUnderWay",
    "SandboxListing",
    "SandboxMessage",
    "SandboxMessageDetail",
    "StateCounts",
    "SuspensionReport",
    "TrialOrder",
    "TriedCommand",
    "TriedHost",
    "Wait",
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


class EnvelopeRecipient(msgspec.Struct, frozen=True):
    """One recipient as the client gave it. `notify` holds NEVER, SUCCESS, FAILURE, DELAY; empty when unstated."""

    address: str
    notify: list[str]
    orcpt: str | None


class Envelope(msgspec.Struct, frozen=True):
    """The envelope with what the client asked for, and how the message came in."""

    reverse_path: str
    recipients: list[EnvelopeRecipient]
    received: str
    durability: str
    body: str | None
    ret: str | None
    smtputf8: bool
    requiretls: bool
    priority: int
    hold_until: str | None
    envid: str | None
    listener: str | None
    client: str | None
    greeting: str | None
    login: str | None
    tenant: str | None
    source_pool: str | None = None


class AttemptRecipient(msgspec.Struct, frozen=True):
    """What an attempt came to for one recipient."""

    address: str
    state: RecipientState
    reply: str | None


class Attempt(msgspec.Struct, frozen=True):
    """One attempt for some of the recipients: when it ended, where it went, and what was said.

    `source`, `pool`: by what it left, where that was a source of the configuration.
    """

    number: int
    time: str | None
    next_hop: str | None
    host: str | None
    source: str | None
    pool: str | None
    recipients: list[AttemptRecipient]


class Wait(msgspec.Struct, frozen=True):
    """What a message waits for.

    `what`: `attempt` (a connection has it), `disk`, `held`, `suspended`, `schedule`, `site` (its host is down), `dns`
    (its host's names cannot be had), `source` (no source of its pool can be used), `concurrency` (all connections that
    there may be are busy), `connection` (one is being opened), `room` (others are before it), `quota` (its sender's
    limit), `unusual` (held: its log-in sent unusually much). `until` is null when nobody can say.
    """

    what: str
    text: str
    until: str | None


class MessageDetail(QueuedMessage, frozen=True):
    """One message with its envelope, its header section, its attempts, and what it waits for."""

    header: str
    record: RecordLocation | None
    envelope: Envelope
    attempts: list[Attempt]
    waits_for: Wait
    waited: dict[str, float]  # seconds by cause, since it could go


class QueueFilter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which messages are meant. What is left out does not restrict. `before_us`: accepted before (unix time)."""

    limit: int | None = None
    to_domain: str | None = None
    reverse_path: str | None = msgspec.field(name="from", default=None)
    tenant: str | None = None
    log_in: str | None = None
    state: MessageState | None = None
    older_than_s: float | None = None
    before_us: int | None = None


class MeantMessages(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which messages an action is for: `ids`, or what matches all of the conditions, or `all`.

    `before`: accepted before that time. `limit`: at most so many, the oldest.
    """

    ids: Annotated[list[str], msgspec.Meta(max_length=100_000)] | None = None
    all: bool = False
    to_domain: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    reverse_path: Annotated[str, msgspec.Meta(max_length=1000)] | None = msgspec.field(name="from", default=None)
    tenant: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    log_in: Annotated[str, msgspec.Meta(max_length=255)] | None = None
    state: MessageState | None = None
    older_than_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    before: datetime | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None


class QueueAction(MeantMessages, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is asked of POST /api/v1/queue/{action}.

    `dry_run`: say what would be met, and do nothing. `wait_s`: wait so long for the end before answering.
    """

    dry_run: bool = False
    reason: Annotated[str, msgspec.Meta(max_length=500)] = ""
    by: Annotated[str, msgspec.Meta(max_length=100)] = ""
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=30)] = 5.0


class ActionName(Enum):
    """What can be done to messages."""

    HOLD = "hold"
    RELEASE = "release"
    RETRY = "retry"
    DELETE = "delete"
    BOUNCE = "bounce"


class Preview(msgspec.Struct, frozen=True):
    """What an action would meet. `recipients`: for whom something is left to do. `before`: hand it on with the action,
    and messages that come later are not met."""

    messages: int
    recipients: int
    octets: int
    oldest: str | None
    under_way: int
    samples: list[QueuedMessage]
    before: str | None = None


class OperationProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far an action on many messages is."""

    action: ActionName
    state: str
    by: str
    reason: str
    started: str
    ended: str | None
    selected: int
    done: int
    under_way: int
    unchanged: int
    others: int
    failed: int
    errors: list[str]


class OperationPart(OperationProgress, frozen=True, kw_only=True):
    """How far one worker is with an operation."""

    operation: str


class Operation(OperationProgress, frozen=True, kw_only=True):
    """An action on many messages, over all workers.

    `state`: `running`, `done`, `cancelled`, or `failed` when a worker could not finish (see `errors`). Messages:
    `selected` so far, `done`; left alone: `under_way` (a connection had it), `unchanged` (was so already, or over),
    `others` (has recipients who were not meant); `failed`.
    """

    id: str


class NewSuspension(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is asked of POST /api/v1/suspensions: it ends by itself after `for_s`."""

    kind: Kind
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    for_s: Annotated[float, msgspec.Meta(ge=1, le=366 * 86400)]
    by: Annotated[str, msgspec.Meta(max_length=100)] = ""


class SuspensionReport(msgspec.Struct, frozen=True):
    """Delivery stands still for one domain, site, source or tenant."""

    kind: Kind
    name: str
    reason: str
    by: str
    since: str
    until: str


class WorkerStatus(msgspec.Struct, frozen=True):
    """What a worker says of itself. `reason` says why it does not accept mail."""

    worker: int
    pid: int
    accepting: bool
    reason: str
    shards: list[int]
    uptime_s: float
    watchers: int = 0  # of its sessions
    dialogues_lost: int = 0  # attempts of which it could not be kept what was said


class WorkerReport(msgspec.Struct, frozen=True):
    """A worker as the admin process sees it. `error` says why it does not answer; then `status` is null."""

    worker: int
    answering: bool
    error: str | None
    status: WorkerStatus | None


class LookupStatus(msgspec.Struct, frozen=True):
    """What the lookup process says of itself: answers in its cache, and questions that are being asked."""

    pid: int
    entries: int
    under_way: int
    uptime_s: float


class LookupReport(msgspec.Struct, frozen=True):
    """The lookup process as the admin process sees it. `error` says why it does not answer; then `status` is null."""

    answering: bool
    error: str | None
    status: LookupStatus | None


class AccessStatus(msgspec.Struct, frozen=True):
    """What the access process says of itself: log-ins that are being verified, and bans that hold."""

    pid: int
    under_way: int
    bans: int
    uptime_s: float


class AccessReport(msgspec.Struct, frozen=True):
    """The access process as the admin process sees it. `error` says why it does not answer; then `status` is null."""

    answering: bool
    error: str | None
    status: AccessStatus | None


class StreamReport(msgspec.Struct, frozen=True):
    """One stream. `to` is where it leads, `state` idle, working or failing, `error` why it fails.

    `lag_events`: lines of the event log that it has not got to; `lag_s`: age of the oldest event that is not sent. The
    rest are totals of its life, but `dead_letters`: those that are set aside now.
    """

    name: str
    to: str
    state: str
    lag_events: int
    lag_s: float
    sent: int
    batches: int
    failures: int
    dead_letters: int
    lost: int
    error: str


class EventsStatus(msgspec.Struct, frozen=True):
    """What the events process says of itself, and of the event log: its files, and their octets on disk."""

    pid: int
    uptime_s: float
    files: int
    octets: int
    streams: list[StreamReport]


class EventsReport(msgspec.Struct, frozen=True):
    """The events process as the admin process sees it. `error` says why it does not answer; then `status` is null."""

    answering: bool
    error: str | None
    status: EventsStatus | None


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


class ReloadUnderWay(msgspec.Struct, frozen=True):
    """A reload that runs: how far it is (`reading`, `preparing`, `committing`, `over`), and whom it waits for."""

    phase: str
    waiting_for: list[str]


class RefusedReload(msgspec.Struct, frozen=True):
    """The last reload that changed nothing, and why; it stays here when a later one was applied."""

    time: str
    problems: list[str]


class ConfigurationStatus(msgspec.Struct, frozen=True):
    """The configuration in force: `sha256` is that of the file as it was read, `changes` counts reloads that changed
    something, `waiting` names the keys of the file that wait for a restart."""

    file: str | None
    sha256: str | None
    since: str
    changes: int
    waiting: list[str]
    reload: ReloadUnderWay | None
    last_refused: RefusedReload | None


class NodeStatus(msgspec.Struct, frozen=True):
    """The node at a glance. `configuration` is null when the supervisor does not answer."""

    version: str
    hostname: str
    sandbox: bool
    time: str
    uptime_s: float
    accepting: bool
    reasons: list[str]
    workers: list[WorkerReport]
    lookup: LookupReport | None
    access: AccessReport | None
    events: EventsReport | None
    draining: bool
    configuration: ConfigurationStatus | None
    totals: NodeTotals


class Liveness(msgspec.Struct, frozen=True):
    """The answer of /healthz: `ok` or `failing`, and then why."""

    status: str
    release: str
    uptime_s: float
    why: str | None


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at for /readyz. `why`: what is wrong; null when it is well."""

    name: str
    ok: bool
    why: str | None


class Readiness(msgspec.Struct, frozen=True):
    """The answer of /readyz: ready when a worker accepts mail; each check; and why those failed that did.

    `state` is `ready`, `degraded` (ready, and a check failed) or `not ready`.
    """

    ready: bool
    state: str
    reasons: list[str]
    checks: list[Check]


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


# ---------------------------------------------------------------------- where mail would go


class Inquiry(msgspec.Struct, frozen=True, rename={"reverse_path": "from"}):
    """What is asked of a worker: a recipient, and what routes may ask of the mail; `trial`: a session up to RCPT."""

    address: str
    reverse_path: str = ""
    tenant: str = ""
    listener: str = ""
    log_in: str = ""
    trial: bool = False


class TrialOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"reverse_path": "from"}):
    """What a session up to RCPT is to be tried for."""

    address: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    reverse_path: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    tenant: Annotated[str, msgspec.Meta(max_length=255)] = ""
    listener: Annotated[str, msgspec.Meta(max_length=255)] = ""
    log_in: Annotated[str, msgspec.Meta(max_length=255)] = ""


class ExplainedRoute(msgspec.Struct, frozen=True):
    """A route. `position` is its place among the [[route]] tables of `file`, from 0; null for the last resort."""

    name: str | None
    file: str | None
    position: int | None
    next_hop: list[str]
    conditions: dict[str, list[str] | dict[str, str]]


class ExplainedMailHost(msgspec.Struct, frozen=True):
    """A mail exchanger as DNS has it. `tlsa`: how many TLSA records DNSSEC vouches for, null where DANE is none."""

    name: str
    preference: int
    addresses: list[str]
    tlsa: int | None


class ExplainedDns(msgspec.Struct, frozen=True):
    """What DNS says of the recipient's domain. `expires_s`: until it is asked again.

    `secure`: DNSSEC vouches for the mail exchangers. `mta_sts`: the mode of the domain's MTA-STS policy, if it has one.
    """

    domain: str
    failure: str | None
    secure: bool | None
    mta_sts: str | None
    hosts: list[ExplainedMailHost]
    expires_s: float | None


class ExplainedTls(msgspec.Struct, frozen=True):
    """What is asked of a connection, and where that comes from."""

    level: str
    source: str


class ExplainedHost(msgspec.Struct, frozen=True):
    """A host at one address. `refused`: why its TLS policy forbids to connect to it. `rests_s`: it failed, and goes
    behind the others for so long."""

    name: str
    address: str
    port: int
    tls: ExplainedTls
    refused: str | None
    rests_s: float


class ExplainedWorker(msgspec.Struct, frozen=True):
    """One worker's connections and ready queue. `blocked_until`: the next hop is left alone, for `reason`."""

    worker: int
    open: int
    connecting: int
    idle: int
    ready: int
    sent: int
    failures: int
    blocked_until: str | None
    reason: str | None


class TriedHost(msgspec.Struct, frozen=True):
    """A host that was tried; `failure` is null for the one that took the connection."""

    host: str
    failure: str | None


class TriedCommand(msgspec.Struct, frozen=True):
    """A command, and the reply to it; null when none came."""

    command: str
    reply: str | None


class ExplainedTrial(msgspec.Struct, frozen=True):
    """A session up to RCPT. `tls` is the version, null for plaintext."""

    hosts: list[TriedHost]
    tls: str | None
    dialogue: list[TriedCommand]
    accepted: bool
    failure: str | None


class ExplainedInbound(msgspec.Struct, frozen=True):
    """What a client that may not relay is answered to RCPT by a listener of the role inbound."""

    listener: str
    reply: str


class ExplainedMember(msgspec.Struct, frozen=True):
    """A source of a pool; `hostname`: what it says in EHLO; `why_not`: why it cannot be used, null when it can."""

    name: str
    addresses: list[str]
    hostname: str
    weight: int
    why_not: str | None


class ExplainedSource(msgspec.Struct, frozen=True):
    """The source pool of such mail, and what gives it to it: `permission`, `tenant` or `route`.

    `name`, `hostname`: of the source that a message would leave by now; the next one may take another of `sources`.
    """

    pool: str
    of: str
    name: str
    hostname: str
    sources: list[ExplainedMember]


class Explanation(msgspec.Struct, frozen=True):
    """Where mail to an address would go, and why.

    `ahead`: routes that would come first if their conditions held. `dns` is null where no mail exchangers are asked
    for, `tls` where there is no session, `source` where there is none or the system chooses the address. `hosts` in the
    order in which one worker's next connection tries them.
    """

    address: str
    route: ExplainedRoute
    ahead: list[ExplainedRoute]
    next_hop: str
    site: str | None
    dns: ExplainedDns | None
    hosts: list[ExplainedHost]
    tls: ExplainedTls | None
    limits: dict[str, int | float | dict[str, float] | None]
    workers: list[ExplainedWorker]
    blocks: list[str]
    trial: ExplainedTrial | None
    inbound: list[ExplainedInbound] = []
    source: ExplainedSource | None = None
