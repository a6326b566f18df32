"""From the queue to a connection and back; documented in cext/dispatch.pyx."""

from collections.abc import Callable
from typing import Any, TypeAlias

from typing_extensions import disjoint_base

from angarium._core.counters import Counters
from angarium._core.domain_map import DomainMap
from angarium._core.event_log import EventLog
from angarium._core.intake import Intake
from angarium._core.journal import Journal, Receiver, Taker
from angarium._core.record import MailBuffer, Message
from angarium._core.schedule import MessageTable, Schedule
from angarium._core.source_pool import SourcePool
from angarium._core.survey import Survey
from angarium._core.timeline import Timeline

_Enhanced: TypeAlias = tuple[int, int, int] | None
# recipient index, reply code (0: no reply was seen), enhanced status, text, Phase
_Result: TypeAlias = tuple[int, int, _Enhanced, bytes, int]

@disjoint_base
class Carrier:
    """What can carry a delivery to a next hop. Its method is C: see ClientSession."""

@disjoint_base
class Delivery:
    """One message on its way to one next hop: an attempt for some of its recipients."""

    results: list[_Result] | None
    host: bytes | None
    tls: bytes | None
    dsn_passed_on: bool
    @property
    def message(self) -> Message: ...
    @property
    def queue(self) -> ReadyQueue: ...
    @property
    def recipients(self) -> int: ...
    @property
    def tenant(self) -> int:
        """The row of the metrics of its tenant."""
    @property
    def provider(self) -> int:
        """The row of the metrics of its provider."""
    @property
    def pool(self) -> int:
        """The row of the metrics of its source pool, where the message itself names none."""
    @property
    def began(self) -> float: ...
    @property
    def transfers(self) -> int: ...
    @property
    def waited(self) -> dict[str, float]:
        """Seconds by cause that it waited for connections to take it, as far as it does not wait any more."""
    @property
    def wants_success(self) -> bool:
        """Whether the NOTIFY of one of its recipients holds SUCCESS."""
    def indices(self) -> list[int]:
        """The message's indices of this delivery's recipients."""
    def mail_buffer(self) -> MailBuffer:
        """The octets of the message."""
    def seconds(self) -> float:
        """Since a connection took it."""

@disjoint_base
class Share:
    """The scheduled queues of one tenant and lane that wait for room in a ready queue, in turn."""

@disjoint_base
class Waited:
    """What a message has waited, while no delivery of it can say so."""

@disjoint_base
class ReadyQueue:
    """What may go to one next hop now, the connections that are open to it, and their limits."""

    open: int
    connecting: int
    limit: int
    connect: Callable[[ReadyQueue], None] | None
    trouble: Callable[[ReadyQueue, bytes, int, int, bytes, int], bool] | None
    hand_over: Callable[[Delivery], None] | None
    failures: int
    provider: int
    blocked_until: float
    suspended_until: float
    reason: bytes | None
    largest_octets: int
    expires: float
    def __init__(
        self,
        dispatcher: Dispatcher,
        next_hop: bytes,
        site: bytes,
        target: object = None,
        *,
        limit: int = 20,
        connect: Callable[[ReadyQueue], None] | None = None,
        hand_over: Callable[[Delivery], None] | None = None,
        expires: float = ...,
        source: bytes = ...,
    ) -> None:
        """connect begins to open one more connection; hand_over takes deliveries where there are no connections."""
    @property
    def next_hop(self) -> bytes: ...
    @property
    def site(self) -> bytes: ...
    @property
    def source_row(self) -> int:
        """Of the source's metrics."""
    @property
    def source(self) -> bytes:
        """By name; `default`: the system chooses the address."""
    @property
    def target(self) -> Any: ...
    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def backlog(self) -> int: ...
    @property
    def loading(self) -> int: ...
    @property
    def attached(self) -> int: ...
    @property
    def rests(self) -> bool:
        """Whether its next hop is left alone at the moment: unreachable, or suspended."""
    @property
    def idle(self) -> list[Carrier]: ...
    @property
    def sent(self) -> int: ...
    def take(self) -> Delivery | None:
        """The next delivery; None when there is none, or the dispatcher is stopped."""
    def peek(self) -> Delivery | None:
        """What take would return; it stays where it is."""
    def put_back(self, delivery: Delivery) -> None:
        """A delivery that was taken and not begun goes first again."""
    def wake(self) -> None:
        """Give work to idle connections; ask for one more when all are busy and mail gathers behind them."""
    def grow(self) -> None:
        """Mail has waited since the last tick: one more connection, if the limit allows."""
    def block(self, seconds: float, reason: bytes) -> None:
        """Leave the next hop alone for so long: whatever waits for it goes back untouched, and comes again then."""
    @property
    def waits_for(self) -> str:
        """What mail that waits for this next hop waits for at the moment: a cause, as in the metrics."""
    @property
    def timeline(self) -> Timeline:
        """Of what stands in the way of what waits here."""
    @property
    def retired(self) -> bool: ...
    def retire(self) -> None:
        """No more mail goes this way, for the routes have changed: what waits for it finds its way again."""
    def divert(self) -> None:
        """Its source cannot be used: what waits finds its way again, now that this is known."""
    def reweigh(self) -> None:
        """The tenants' weights have changed."""
    def apply_suspensions(self) -> None:
        """Rest while the site, or the source, is suspended; go on when neither is any more."""

@disjoint_base
class Dispatcher(Taker):
    """Takes messages that are ours, finds their ready queue, and settles what became of them."""

    place: Callable[[Message], None]
    load: Callable[[Message, ReadyQueue | None], None]
    settle: Callable[[Delivery], None]
    reconsider: Callable[[Message], None]
    partial: Callable[[Message], None]
    keep_reply: Callable[[Delivery, int, bytes], None] | None
    ready_limit: int
    queue_limit: int
    memory_soft_octets: int
    memory_load_octets: int
    stopped: bool
    def __init__(self, counters: Counters, events: EventLog) -> None: ...
    @property
    def survey(self) -> Survey: ...
    @property
    def table(self) -> MessageTable: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def counters(self) -> Counters: ...
    @property
    def events(self) -> EventLog: ...
    @property
    def journals(self) -> dict[int, Journal]: ...
    @property
    def by_domain(self) -> DomainMap: ...
    @property
    def ready(self) -> int: ...
    @property
    def loading(self) -> int: ...
    @property
    def busy(self) -> list[ReadyQueue]: ...
    @property
    def weights(self) -> dict[bytes, int]: ...
    @property
    def unrecorded(self) -> list[tuple[Message, int]]: ...
    def journal(self, message: Message) -> Journal:
        """The journal of the shard that the message belongs to."""
    def adopt(self, message: Message) -> None:
        """A message is safe in its class: it is ours now. Nothing happens to one that was adopted before."""
    def wait(self, message: Message, at: float) -> None:
        """Let message wait for its next attempt at `at` (unix seconds)."""
    def loaded(self, message: Message, ready: ReadyQueue | None) -> None:
        """The mail data of a message asked of `load` is in memory, or cannot be had: then it is kept back."""
    def give_back(self, delivery: Delivery) -> None:
        """A delivery that waited for names finds its way again, for the routes have changed meanwhile."""
    def leave_alone(self, message: Message, seconds: float, reason: bytes) -> None:
        """What waits for the same domain as message is left alone for so long: its names cannot be had."""
    def failures_of(self, message: Message) -> int:
        """Look-ups or connections that failed in a row for the domain of message."""
    def hold(self, message: Message) -> bool:
        """Keep message from delivery until `release`; False when it is under way: it is held when it comes back."""
    def release(self, message: Message) -> None:
        """Let a held message go, at once."""
    def retry_now(self, message: Message) -> bool:
        """Have a waiting message tried at once, whatever its next hop did before; False when it does not wait."""
    def suspend(self, kind: str, name: bytes, until: float, reason: str) -> None:
        """Let nothing go by a kind (domain, tenant, site, source) and name until then (unix seconds; 0: no end).

        For a site or a source, call ReadyQueue.apply_suspensions of all ready queues afterwards.
        """
    def resume(self, kind: str, name: bytes) -> bool:
        """Whether there was such a suspension; there is none any more. Ready queues: as for `suspend`."""
    def grow(self) -> None:
        """Look after the ready queues in which something waits. Call it some ten times a second."""
    def waited(self, message: Message) -> dict[str, float]:
        """Seconds by cause that message has waited since it could go; empty while it is not to go yet, or goes."""
    def waiting_in(self, message: Message) -> ReadyQueue | None:
        """The ready queue in which message waits: as a delivery, or with what is due for the same domain."""
    def set_retry_schedules(self, expire_s: list[float], warn_s: list[float]) -> None:
        """By number of the retry schedule: seconds until a message is given up, and its sender warned (0: never)."""
    def sweep(self, slots: int) -> tuple[list[Message], list[Message]]:
        """Look at the next `slots` slots: (messages whose time is over, those whose senders are to be told)."""
    def withdraw(self, message: Message) -> bool:
        """Take a waiting message out for what `sweep` found; False when it does not wait any more."""
    def send(self, message: Message, queue: ReadyQueue, indices: list[int], provider: int = 0, pool: int = 0) -> None:
        """Make a delivery of some recipients of message and put it into queue.

        provider: row of the metrics of its domain; 0: those of the queue. pool: that of its source pool, where it is
        not the message's own.
        """
    def redirect(self, delivery: Delivery, queue: ReadyQueue) -> None:
        """A delivery that waited for its next hop's names goes into the queue of that next hop."""
    def mark_in_flight(self, message: Message) -> None:
        """The next hop may have the message from now on."""
    def remember(self, domain: bytes, way: ReadyQueue | SourcePool, outlet: int = 0, provider: int = 0) -> None:
        """From now on mail of an outlet to domain (lower case) goes to a ready queue, whatever the local part.

        Or first to another outlet, one of a source pool, which must not send it back. provider: as for `send`.
        """
    def known(self, domain: bytes, outlet: int = 0) -> ReadyQueue | None:
        """The ready queue that mail of an outlet to domain goes to, where one is remembered."""
    def change_outlet(self, message: Message, outlet: int) -> None:
        """message, which is on its way at the moment, goes by that outlet from now on."""
    def note_suspended_sources(self) -> None:
        """Outlets whose source is suspended get no new mail while their pool has others."""
    def delivered_by_hand(self, delivery: Delivery, code: int, text: bytes) -> None:
        """A next hop without SMTP took the message for all recipients."""
    def pool_of(self, delivery: Delivery) -> bytes:
        """The source pool that delivery goes by; empty where it goes by none, or is one of several of its message."""
    def pool_row_of(self, delivery: Delivery) -> int:
        """The row of the metrics of the source pool that delivery goes by."""
    def rows_of(self, message: Message) -> tuple[int, int]:
        """The rows of the metrics of message's provider and tenant, where no delivery says so."""
    def log_attempt(
        self, event: str, delivery: Delivery, index: int, code: int, enhanced: _Enhanced, text: bytes
    ) -> None:
        """One line of the event log about one recipient of delivery."""
    def finish(self, delivery: Delivery) -> None:
        """A delivery is over and its recipients' states are set."""
    def drop(self, message: Message, reason: int = 0) -> None:
        """Nothing is left to do for message; recipients that are not final are dropped, for that DropReason."""
    def queued_recipients(self) -> int:
        """Recipients for whom the journal does not say that it is over, counted by what is in the table.

        The ledger must come to the same number by its own way.
        """
    def tick(self, most: int = 1000, most_s: float = 0.005) -> int:
        """Scheduled queues whose time has come go to their ready queues; returns how many."""
    def publish_gauges(self) -> None:
        """Write what is queued into the shared counters."""
    def persist(self, message: Message) -> bool:
        """Put a message of class memory into the journal. False: it cannot be had, the message stays in memory only."""

@disjoint_base
class JournalIntake(Intake):
    """Takes mail into the journals of one worker: into the first that is well, always the same while it is."""

    def __init__(self, dispatcher: Dispatcher, journals: list[Journal]) -> None: ...
    @property
    def journals(self) -> list[Journal]: ...
    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def accepting(self) -> bool: ...
    def submit(self, message: Message, receiver: Receiver | None = None, notification: bool = False) -> None:
        """Take a message made here; OSError when the journal takes nothing.

        notification: it may use a part of the last room on a full disk.
        """
    def new_id(self) -> int:
        """A queue id for a message to be submitted."""

def suspension_text(kind: str, name: bytes, reason: str) -> bytes:
    """What mail that is suspended is said to wait for."""

__test__: dict[str, str]
