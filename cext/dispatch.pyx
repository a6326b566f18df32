"""From the queue to a connection and back.

Job: a message that is ours goes into the ready queue of its next hop (Dispatcher.take), a free connection carries it
(ReadyQueue.pump), and what became of it is settled: delivered to all is settled here, everything else in Python, by the
functions that the application puts into Dispatcher's attributes.

A ready queue takes what it has room for from the scheduled queues attached to it (`refill`): nothing polls.
A next hop that cannot be reached gives everything back untouched (`ReadyQueue.block`) and is probed with one message
at a time. Mail to a domain whose way depends on more than the domain, and to several domains, has no ready queue
to wait for: it goes out of its scheduled queue some messages at a time, and each finds its way, and waits, by itself.
So does mail that asks for more TLS than the rest of its domain's, or for less (OWN_POLICY), whatever ready queue there
is.

Mail that goes by a source pool has an outlet (source_pool.pyx), and what is known of a domain is known for each outlet.
Where that is a pool (the route's, for mail that has none of its own), a message is first assigned to an outlet of it.

**Waits.** A delivery knows what its message has waited for until a connection took it (`Delivery.waits`: seconds by
cause, which its events say). Nothing is counted while it waits: each ready queue keeps a timeline of what stood in the
way of what waits there, and what goes is charged with its part of that (`Dispatcher._charge`), once when it leaves its
scheduled queue and once when a connection takes it. What goes at once pays a comparison. What comes back untried, or is
read from disk, is remembered (`_kept_waits`) for MOST_KEPT_WAITS messages; of others the last part of their wait is
known, and so of what was due at a next hop whose routes were changed meanwhile.

Bounds: at most `ready_limit` deliveries are ready, about `queue_limit` for one next hop; what comes beyond waits in
scheduled queues. The mail data of what does not go soon, and over `memory_soft_octets` of everything that cannot go at
once, is dropped from memory (it is on disk) and read again when its turn comes.

Fails: a message that is over while its journal takes no records is kept in `unrecorded` until it does; after a crash
before that it is in doubt, never lost.
"""

from collections import deque

from angarium._core.timeline import CAUSE_NAMES as _CAUSE_NAMES

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

from angarium._core.command cimport NOTIFY_SUCCESS
from angarium._core.counters cimport HISTOGRAM_SLOTS, Counters, Slot, observe_message, slot_add, slot_set
from angarium._core.domain_map cimport DomainMap
from angarium._core.event_log cimport EventLog
from angarium._core.intake cimport Intake
from angarium._core.journal cimport Journal, Receiver, Taker
from angarium._core.ledger cimport DROP_DELETED
from angarium._core.octets cimport lower
from angarium._core.record cimport (
    DURABILITY_MEMORY,
    MARK_ATTEMPTED,
    MARK_FRESH,
    MARK_HOLD,
    MARK_URGENT,
    MARK_WARNED,
    MESSAGE_COMMITTING,
    MESSAGE_GONE,
    MESSAGE_HELD,
    MESSAGE_OVER_QUOTA,
    MESSAGE_POOL,
    MESSAGE_READY,
    MESSAGE_REQUIRETLS,
    MESSAGE_SCHEDULED,
    MESSAGE_TLS_REQUIRED_NO,
    MESSAGE_UNUSUAL,
    RECIPIENT_DELIVERED,
    TEXT_TENANT,
    MailBuffer,
    Message,
    Recipient,
    Text,
    buffered_octets,
    is_final,
)
from angarium._core.reply cimport Reply
from angarium._core.schedule cimport (
    LANES,
    PLACE_READY,
    PLACE_TIMER,
    MessageTable,
    Schedule,
    ScheduledQueue,
    lane_of,
)
from angarium._core.source_pool cimport Outlet, SourcePool
from angarium._core.survey cimport Survey
from angarium._core.timeline cimport (
    CAUSE_BACKOFF,
    CAUSE_CONCURRENCY,
    CAUSE_CONNECTION,
    CAUSE_DISK,
    CAUSE_DNS,
    CAUSE_HELD,
    CAUSE_NONE,
    CAUSE_QUOTA,
    CAUSE_RELEASE,
    CAUSE_RESTART,
    CAUSE_ROOM,
    CAUSE_SUSPENDED,
    Timeline,
    Waits,
    add_wait,
    seconds_by_cause,
)

cdef enum:
    MOST_DOMAINS = 200000        # whose ready queue is remembered; with source pools, for each outlet of up to 8
    LONGEST_KEY = 258            # a domain, and the outlet behind it
    QUANTUM_OCTETS = 65536       # what a tenant of weight 1 may send before it is the next one's turn
    UNATTACHED_BATCH = 200       # messages of a queue without a ready queue that go at a time
    SPREAD_BATCH = 1000          # messages that are assigned to other outlets at a time

    MOST_KEPT_WAITS = 20000      # of messages for which nothing was tried, or whose data is being read
    MOST_NAMELESS = 10000        # domains without names that are remembered, each with
    MOST_PERIODS = 8             # times
    LEAST_WINDOW = 4             # deliveries that may be ready for a next hop, however many wait for others
    OWN_POLICY = MESSAGE_REQUIRETLS | MESSAGE_TLS_REQUIRED_NO    # mail that never takes the way of its domain's

cdef bytes DEFAULT_SOURCE = b"default"    # of what goes by no source of the configuration
cdef double NO_LIMIT_S = 3650 * 86400.0
cdef double UNKNOWN_S = 2.0      # a domain whose names could not be had comes back after that
cdef double SEVERAL_S = 60.0     # mail to several domains of which one cannot be reached looks again after that
cdef double CROWDED_S = 0.25     # such a queue comes back after that
cdef double SOON_S = 10.0        # what waits longer than that does not keep its mail data in memory
cdef double OVERDUE_S = 60.0
cdef double UNDISTURBED_S = 5e-5  # both clocks were read within that: they were read at once

cdef const char *R_STORAGE_FULL = b"452 4.3.1 Out of disk space for mail; try again later\r\n"
cdef const char *R_STORAGE_FAILED = b"451 4.3.0 Mail cannot be stored at the moment; try again later\r\n"


cdef inline double monotonic() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec + t.tv_nsec * 1e-9


cdef inline double unix_s() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return t.tv_sec + t.tv_nsec * 1e-9


cdef bytes SUSPENDED = b"suspended: "


cdef int cause_of(object reason, int failures) except -2:
    """Why a next hop is left alone, as a cause."""
    if reason is not None and (<bytes>reason).startswith(SUSPENDED):
        return CAUSE_SUSPENDED
    return CAUSE_CONNECTION if failures or reason is not None else CAUSE_ROOM


cdef inline size_t key_of(char *key, size_t n, uint16_t outlet) noexcept nogil:
    """Make the domain key[:n] a key of by_domain for mail of an outlet: no domain has these octets behind it."""
    if outlet == 0:
        return n
    key[n] = 0
    key[n + 1] = <char>(outlet & 255)
    key[n + 2] = <char>(outlet >> 8)
    return n + 3


def suspension_text(str kind, bytes name, str reason) -> bytes:
    """What mail that is suspended is said to wait for."""
    return b"%s%s %s: %s" % (SUSPENDED, kind.encode(), name, reason.encode())


cdef class Carrier:
    cdef int carry(self, Delivery delivery) except -1:
        raise NotImplementedError


cdef class Delivery:
    def __dealloc__(self):
        free(self._indices)

    cdef int set_recipients(self, list indices) except -1:
        """The message's indices of its recipients, ascending."""
        cdef size_t i, n = len(indices)
        cdef uint16_t *kept = <uint16_t *>malloc(n * sizeof(uint16_t))
        if kept == NULL:
            raise MemoryError
        for i in range(n):
            kept[i] = indices[i]
        free(self._indices)
        self._indices = kept
        self.recipients = n
        return 0

    cdef uint16_t index(self, uint16_t i) noexcept:
        """The message's index of this delivery's i-th recipient."""
        return i if self._indices == NULL else self._indices[i]

    def indices(self) -> list[int]:
        """The message's indices of this delivery's recipients."""
        return [self.index(i) for i in range(self.recipients)]

    cdef bint asks_for_success(self) noexcept:
        """Whether the NOTIFY of one of its recipients holds SUCCESS (RFC 3461 §4.1)."""
        cdef Recipient recipient
        cdef size_t position = self.buffer.first_recipient()
        cdef uint16_t i
        cdef uint16_t k = 0
        for i in range(self.message.recipients):
            if k == self.recipients:
                break
            position = self.buffer.recipient_at(position, &recipient)
            if self.index(k) == i:
                if recipient.notify & NOTIFY_SUCCESS:
                    return True
                k += 1
        return False

    @property
    def wants_success(self) -> bool:
        """asks_for_success for callers in Python."""
        return self.asks_for_success()

    def mail_buffer(self) -> MailBuffer:
        """The octets of the message."""
        return self.buffer

    def seconds(self) -> float:
        """Since a connection took it."""
        return monotonic() - self.began if self.began else 0.0

    @property
    def waited(self) -> dict[str, float]:
        """Seconds by cause that it waited for connections to take it, as far as it does not wait any more."""
        return seconds_by_cause(&self.waits)

    def __repr__(self):
        return f"<Delivery of {self.message!r} to {self.queue.next_hop!r}>"


cdef class Share:
    pass


cdef class Waited:
    pass


cdef class ReadyQueue:
    def __init__(self, Dispatcher dispatcher, bytes next_hop, bytes site, target=None, *, int limit=20,
                 connect=None, hand_over=None,
                 double expires=float("inf"), bytes source=DEFAULT_SOURCE):
        self.dispatcher = dispatcher
        self.next_hop = next_hop
        self.site = site
        self.source = source
        self.source_row = dispatcher.counters.source_row(PyBytes_AS_STRING(source), PyBytes_GET_SIZE(source))
        self.target = target
        self.limit = limit
        self.connect = connect
        self.hand_over = hand_over
        self.expires = expires
        self.idle = []
        self._first = [None] * LANES
        self._last = [None] * LANES
        self._shares = [None] * LANES
        self.timeline = Timeline()
        if dispatcher.schedule.suspensions:
            self.apply_suspensions()

    def __repr__(self):
        return f"<ReadyQueue {self.next_hop!r} backlog={self.backlog} open={self.open} connecting={self.connecting}>"

    cdef uint32_t _window(self) noexcept:
        """How many deliveries may be ready here: fewer when many wait elsewhere, one while it is probed."""
        cdef Dispatcher dispatcher = self.dispatcher
        cdef uint32_t ready = dispatcher.ready + dispatcher.loading
        cdef uint32_t window
        if self.failures and self.open == 0:
            return 1
        if ready >= 2 * dispatcher.ready_limit:
            return 0
        window = (dispatcher.ready_limit - ready) >> 3 if ready < dispatcher.ready_limit else 0
        return min(dispatcher.queue_limit, max(window, <uint32_t>LEAST_WINDOW))

    cdef bint is_too_large(self, Message message) noexcept:
        """Whether it has more octets than this next hop is sent: then `place` says what becomes of it."""
        return self.largest_octets != 0 and message.buffer.end - message.buffer.data_begin > self.largest_octets

    @property
    def rests(self) -> bool:
        """Whether its next hop is left alone at the moment: unreachable, or suspended."""
        return self._closed()

    cdef bint _closed(self) noexcept:
        cdef double now
        if self.blocked_until == 0 and self.suspended_until == 0:
            return False
        now = monotonic()
        return now < self.blocked_until or now < self.suspended_until

    cdef int _cause(self) noexcept:
        """What mail that waits for this next hop waits for."""
        if self.suspended_until and monotonic() < self.suspended_until:
            return CAUSE_SUSPENDED
        if self.hand_over is None and (self.open == 0 or self.blocked_until and monotonic() < self.blocked_until):
            return CAUSE_CONNECTION
        if self.open + self.connecting >= self.limit:
            return CAUSE_CONCURRENCY
        return CAUSE_CONNECTION if self.connecting else CAUSE_ROOM

    cdef int note_cause(self) except -1:
        """Something has changed that mail here may wait for: its timeline says so, while there is any."""
        cdef int cause
        if self.backlog or self.attached or self.loading or self.failures or self._closed():
            cause = self._cause()
            if cause != self.timeline.cause:
                self.timeline.turn(cause, monotonic())
        elif self.timeline.cause != CAUSE_NONE:
            self.timeline.stop()
        return 0

    cdef int _charge(self, Delivery delivery) except -1:
        """delivery goes: what it has waited for here since it was counted last."""
        cdef Waits *waits = &delivery.waits
        if self.timeline.cause != CAUSE_NONE and waits.since >= self.timeline._since:
            add_wait(waits, self.timeline.cause, delivery.began - waits.since)       # nothing has changed meanwhile
        else:
            self.dispatcher._charge(waits, self, None, waits.since, delivery.began)
        waits.since = 0
        return 0

    @property
    def waits_for(self) -> str:
        """What mail that waits for this next hop waits for at the moment: a cause, as in the metrics."""
        return _CAUSE_NAMES[self._cause()]

    cdef Delivery _find(self, Message message):
        """The delivery of message that waits here."""
        cdef Delivery delivery
        for found in self._first:
            delivery = <Delivery>found
            while delivery is not None:
                if delivery.message is message:
                    return delivery
                delivery = delivery._next
        return None

    # ------------------------------------------------------------------ deliveries that are ready

    cdef int push(self, Delivery delivery, bint in_front) except -1:
        cdef Message message = delivery.message
        cdef uint8_t lane = lane_of(message.priority, message.flags)
        if self.retired:
            return self.dispatcher.postpone(delivery, unix_s(), None, 0)     # it finds its way again
        delivery._next = None
        if in_front and delivery.began:      # a connection had it, and another one is to take it
            delivery.waits.since = monotonic()
            add_wait(&delivery.waits, CAUSE_CONNECTION, delivery.waits.since - delivery.began)
        first = self._first[lane]
        if first is None:
            self._first[lane] = self._last[lane] = delivery
            self._lanes |= 1 << lane
        elif in_front:
            delivery._next = <Delivery>first
            self._first[lane] = delivery
        else:
            (<Delivery>self._last[lane])._next = delivery
            self._last[lane] = delivery
        self.backlog += 1
        self.dispatcher.ready += 1
        self._is_busy()
        return 0

    cdef int _is_busy(self) except -1:
        """Have `Dispatcher.grow` look after this queue."""
        if not self._busy:
            self._busy = True
            self.dispatcher.busy.append(self)
        return 0

    cdef Delivery _unlink(self):
        """Take the first delivery out, whatever its next hop."""
        cdef Delivery delivery
        cdef int lane = 0
        if self._lanes == 0:
            return None
        while not self._lanes & (1 << lane):
            lane += 1
        delivery = <Delivery>self._first[lane]
        self._first[lane] = delivery._next
        if delivery._next is None:
            self._last[lane] = None
            self._lanes &= ~(1 << lane)
        delivery._next = None
        self.backlog -= 1
        self.dispatcher.ready -= 1
        return delivery

    cdef Delivery pop(self):
        cdef Delivery delivery
        if self.dispatcher.stopped or self.suspended_until and monotonic() < self.suspended_until:
            return None
        if self.attached and self.backlog + self.loading <= self._window() >> 1:
            self.refill()
        delivery = self._unlink()
        if delivery is not None:
            delivery.began = monotonic()
            delivery.transfers += 1
            if delivery.waits.since:
                self._charge(delivery)
        return delivery

    cdef Delivery first(self):
        cdef int lane = 0
        if self.dispatcher.stopped or self._lanes == 0 or self.suspended_until and monotonic() < self.suspended_until:
            return None
        while not self._lanes & (1 << lane):
            lane += 1
        return <Delivery>self._first[lane]

    def take(self) -> Delivery | None:
        """pop for callers in Python."""
        return self.pop()

    def peek(self) -> Delivery | None:
        """What take would return."""
        return self.first()

    def put_back(self, Delivery delivery):
        """A delivery that was taken and not begun goes first again."""
        self.push(delivery, True)
        self.pump()

    cdef int pump(self) except -1:
        """Give work to idle connections; ask for one more when all are busy and mail gathers behind them."""
        cdef Delivery delivery
        cdef Carrier carrier
        if self.attached and self.backlog + self.loading <= self._window() >> 1:
            self.refill()
        while self._lanes and not self.dispatcher.stopped:
            if self.hand_over is not None:
                if self.open and self.open >= self.limit:
                    break
                delivery = self.pop()
                if delivery is None:
                    break
                self.hand_over(delivery)
                continue
            if self.idle:
                delivery = self.pop()
                if delivery is None:
                    break
                carrier = self.idle.pop()
                self.sent += 1
                slot_add(self.dispatcher.counters.slots, Slot.DELIVERY_CONNECTIONS_REUSED, 1)
                carrier.carry(delivery)
                continue
            if self._closed():
                break
            if self.open + self.connecting < self.limit and (
                self.open + self.connecting == 0 or self.backlog > <uint32_t>(self.open + self.connecting)
            ) and not (self.failures and self.connecting):
                self.connecting += 1
                self.connect(self)
            break
        if self._lanes or self.attached or self.timeline.cause != CAUSE_NONE:
            self.note_cause()
        return 0

    def wake(self):
        """pump for callers in Python."""
        self.pump()

    def grow(self):
        """Mail has waited since the last tick: one more connection, if the limit allows."""
        if self.dispatcher.stopped:
            return
        if self._lanes and self.hand_over is None:
            if not self.idle and self.connecting == 0 and self.open < self.limit and not self._closed():
                self.connecting += 1
                self.connect(self)
                return
        self.pump()

    # ------------------------------------------------------------------ scheduled queues that wait for room

    cdef int attach(self, ScheduledQueue queue) except -1:
        """What is due in queue goes this way, as soon as there is room."""
        cdef Share share
        cdef int lane = queue.lane
        shares = self._shares[lane]
        if shares is None:
            shares = self._shares[lane] = deque()
        for found in shares:
            if (<Share>found).tenant == queue.tenant:
                share = <Share>found
                break
        else:
            share = Share()
            share.tenant = queue.tenant
            share.weight = self.dispatcher.weights.get(self.dispatcher.schedule.tenants[queue.tenant], 1)
            share.ring = deque()
            shares.append(share)
        share.ring.append(queue)
        queue.place = PLACE_READY
        if queue.provider == 0:
            queue.provider = self.provider
        self._is_busy()
        self.attached += 1
        self._attached_lanes |= 1 << lane
        return 0

    cdef int refill(self) except -1:
        """Take in what is due in the scheduled queues attached, as far as there is room.

        The lowest lane goes first; in a lane tenants take turns by deficit round robin, and their domains in turn.
        While the next hop is being probed there is room for one.
        """
        if self._refilling or self.dispatcher.stopped or self._closed() or self.attached == 0:
            return 0
        if self.expires <= monotonic():
            return self._detach_all(0, None, 0)          # the names behind it are looked up again
        self._refilling = True               # what is admitted pumps this queue
        try:
            self._take_in(unix_s())
        finally:
            self._refilling = False
        return 0

    cdef int _take_in(self, double now) except -1:
        cdef Dispatcher dispatcher = self.dispatcher
        cdef Schedule schedule = dispatcher.schedule
        cdef Share share
        cdef ScheduledQueue queue
        cdef Message message
        cdef int lane
        while self._attached_lanes and self.backlog + self.loading < self._window() and not dispatcher.is_full():
            lane = 0
            while not self._attached_lanes & (1 << lane):
                lane += 1
            shares = self._shares[lane]
            share = <Share>shares[0]
            if share.deficit <= 0:
                share.deficit += share.weight * QUANTUM_OCTETS
                shares.rotate(-1)
                continue
            queue = <ScheduledQueue>share.ring.popleft()
            message = schedule.take(queue, now)
            if message is None:
                queue.not_before = 0
                queue.reason = None
                queue.failures = min(self.failures, 255)
                self.attached -= 1
                schedule.rest(queue)
                if not share.ring:
                    shares.popleft()
                    if not shares:
                        self._attached_lanes &= ~(1 << lane)
                continue
            share.ring.append(queue)
            share.deficit -= message.record_octets
            dispatcher.launch(message, self)
        return 0

    cdef int _detach_all(self, double until, object reason, int failures) except -1:
        """Every scheduled queue goes back into the timer; until: leave the next hop alone until then (unix seconds)."""
        cdef ScheduledQueue queue
        for shares in self._shares:
            if shares is None:
                continue
            while shares:
                share = shares.popleft()
                while (<Share>share).ring:
                    queue = <ScheduledQueue>(<Share>share).ring.popleft()
                    queue.not_before = until
                    queue.reason = reason
                    queue.nameless = False
                    queue.failures = min(failures, 255)
                    self.dispatcher.schedule.rest(queue)
        self.attached = 0
        self._attached_lanes = 0
        return 0

    def block(self, double seconds, bytes reason):
        """Leave the next hop alone for so long: whatever waits for it goes back untouched, and comes again then."""
        cdef Delivery delivery
        cdef double until = unix_s() + seconds
        self.blocked_until = max(self.blocked_until, monotonic() + seconds)
        self.reason = reason
        self.note_cause()
        self._detach_all(until, reason, self.failures)
        for _ in range(self.backlog):
            delivery = self._unlink()
            if delivery is None:
                break
            self.dispatcher.postpone(delivery, until, reason, self.failures)

    def retire(self):
        """No more mail goes this way, for the routes have changed: what waits for it finds its way again.

        What is under way ends where it began; what of it comes back finds its way again as well.
        """
        cdef Delivery delivery
        cdef double now = unix_s()
        self.retired = True
        self.expires = 0
        self._detach_all(0, None, 0)
        for _ in range(self.backlog):
            delivery = self._unlink()
            if delivery is None:
                break
            self.dispatcher.postpone(delivery, now, None, 0)

    def divert(self):
        """Its source cannot be used: what waits finds its way again, now that this is known."""
        cdef Delivery delivery
        cdef double now = unix_s()
        self._detach_all(0, None, 0)
        for _ in range(self.backlog):
            delivery = self._unlink()
            if delivery is None:
                break
            self.dispatcher.postpone(delivery, now, None, 0)

    def reweigh(self):
        """The tenants' weights have changed."""
        for shares in self._shares:
            for share in shares or ():
                (<Share>share).weight = self.dispatcher.weights.get(
                    self.dispatcher.schedule.tenants[(<Share>share).tenant], 1
                )

    def apply_suspensions(self):
        """Rest while the site, or the source, is suspended; go on when neither is any more."""
        cdef dict suspensions = self.dispatcher.schedule.suspensions
        cdef double rest_s, now = unix_s()
        cdef double until = 0
        for key in (("site", self.site), ("source", self.source)):
            found = suspensions.get(key)
            if found is not None:
                until = max(until, found[0] if found[0] else now + NO_LIMIT_S)
                reason = suspension_text(key[0], key[1], found[1])
        if until <= now:
            self.suspended_until = 0
            self.note_cause()
            self.pump()
            return
        rest_s = until - now
        self.suspended_until = monotonic() + rest_s
        blocked, self.blocked_until = self.blocked_until, 0.0
        self.block(rest_s, reason)
        self.blocked_until = blocked


cdef class Dispatcher(Taker):
    def __init__(self, Counters counters, EventLog events):
        self.counters = counters
        self.events = events
        self.table = MessageTable()
        self.schedule = self.table.schedule
        self.journals = {}
        self.by_domain = DomainMap()
        self.weights = {}
        self.unrecorded = []
        self.ready_limit = 20000
        self.queue_limit = 1000
        self.memory_soft_octets = <uint64_t>1 << 62
        self.memory_load_octets = <uint64_t>1 << 62
        self.busy = []
        self._began = self._grown = monotonic()
        self._unix_offset = unix_s() - self._began
        self._kept_waits = {}
        self._nameless = {}
        self.survey = Survey(counters, self._grown)
        self._expire_s = []
        self._warn_s = []

    cdef bint is_full(self) noexcept:
        """Whether nothing more may be read from disk at the moment; never when nothing at all is under way."""
        return self.ready + self.loading > 0 and buffered_octets() > self.memory_load_octets

    cdef Journal journal_of(self, Message message):
        return <Journal>self.journals[(message.id >> 14) & 255]

    def journal(self, Message message) -> Journal:
        """The journal of the shard that the message belongs to."""
        return self.journal_of(message)

    # ------------------------------------------------------------------ a message waits

    cdef int take(self, Message message) except -1:
        """A message is safe in its class: it is ours now."""
        cdef uint64_t hold_until
        if message.state != MESSAGE_COMMITTING:
            return 0
        self.table.add(message)
        slot_add(self.counters.slots, <int>Slot.TENANT_ACCEPTED + self._tenant_row(message, None), message.recipients)
        if message.flags & MESSAGE_UNUSUAL:
            message.marks |= MARK_HOLD
        if message.marks & MARK_HOLD:            # held before anything was tried: `release` lets it go
            return self._keep(message, 0, False)
        if message.buffer is not None:
            hold_until = message.buffer.meta().hold_until
            if hold_until and hold_until > unix_s():         # RFC 4865
                return self._keep(message, hold_until, False)
        return self.enqueue(message)

    def adopt(self, Message message):
        """take for callers in Python."""
        self.take(message)

    cdef ScheduledQueue _join(self, Message message):
        """The scheduled queue that message belongs to."""
        if message.queue_number:
            return self.schedule.queue_of(message)
        if message.buffer is None:
            raise ValueError(f"message {message.queue_id} has no queue and no mail data in memory")
        return self.schedule.join(message, message.buffer.octets + message.buffer.begin)

    cdef int _keep(self, Message message, double at, bint fresh) except -1:
        """Let message wait until `at` (unix seconds); fresh: for room only.

        What will not go soon leaves the memory, and so does everything while memory is short; what is of class memory,
        and will not be tried at once, is written to the journal.
        """
        cdef ScheduledQueue queue = self._join(message)
        if fresh and at == 0:                # its place among fresh mail does not depend on that
            at = unix_s()
            if message.received_us * 1e-6 < self._began + self._unix_offset:
                at = min(at, message.received_us * 1e-6)
        if message.segment is None and (not fresh or queue.not_before or queue.suspended):
            self.persist(message)            # of class memory, and it will not be tried at once
        if message.marks & MARK_HOLD:
            message.marks &= ~MARK_HOLD
            message.state = MESSAGE_HELD
        else:
            message.state = MESSAGE_SCHEDULED
            self.schedule.add(message, at, fresh)
        if message.segment is not None and message.buffer is not None:
            if buffered_octets() > self.memory_soft_octets or at > unix_s() + SOON_S or message.state == MESSAGE_HELD:
                message.buffer = None
        return 0

    def wait(self, Message message, double at):
        """Let message wait for its next attempt at `at` (unix seconds)."""
        self._keep(message, at, message.attempts == 0 and at <= unix_s())

    cdef int enqueue(self, Message message) except -1:
        """Put a message that has not been tried where it may go now."""
        cdef Recipient recipient
        cdef char domain[LONGEST_KEY]
        cdef size_t i, length
        cdef const char *path
        cdef ReadyQueue ready
        cdef ScheduledQueue queue
        cdef Delivery delivery
        if message.flags & MESSAGE_POOL or message.outlet:
            self._follow_pool(message)
        if self.stopped or self.ready + self.loading >= 2 * self.ready_limit or message.buffer is None:
            return self._keep(message, 0, message.attempts == 0)
        if self.schedule.suspensions and self._join(message).suspended:
            return self._keep(message, 0, message.attempts == 0)
        if message.recipients == 1 and not message.flags & OWN_POLICY:
            message.buffer.recipient_at(message.buffer.first_recipient(), &recipient)
            path = recipient.forward_path.octets
            length = recipient.forward_path.length
            i = length
            while i > 0 and path[i - 1] != c'@':
                i -= 1
            if i > 0 and length - i <= 255:
                length -= i
                path += i
                for i in range(length):
                    domain[i] = lower(path[i])
                found = self.by_domain.find(domain, key_of(domain, length, message.outlet))
                if found is not None and type(found) is not ReadyQueue:
                    self.schedule.change_outlet(message, (<SourcePool>found).pick())
                    found = self.by_domain.find(domain, key_of(domain, length, message.outlet))
                if found is not None and type(found) is ReadyQueue:
                    ready = <ReadyQueue>found
                    if ready.expires > monotonic() and not ready.is_too_large(message):
                        if ready._closed():
                            queue = self._join(message)
                            if queue.not_before < unix_s():
                                self._leave_alone(queue, ready)
                            return self._keep(message, 0, message.attempts == 0)
                        if ready.backlog >= ready._window() or ready._attached_lanes and (
                            # some of its lane, or of one before it, waits for room already
                            ready._attached_lanes & ((2 << lane_of(message.priority, message.flags)) - 1)
                        ):
                            queue = self._join(message)
                            self._keep(message, 0, message.attempts == 0)
                            if queue.place == PLACE_TIMER and queue.not_before == 0:
                                self.schedule.take_out(queue)
                                ready.attach(queue)
                                return ready.pump()
                            return 0
                        message.state = MESSAGE_READY
                        message.marks &= ~MARK_ATTEMPTED
                        delivery = Delivery()
                        delivery.provider = self.by_domain.tag
                        return self.dispatch(message, ready, delivery)
        return self._route(message)

    cdef int _follow_pool(self, Message message) except -1:
        """Have message go by an outlet that is in force."""
        cdef Outlet outlet
        if message.outlet == 0:
            if message.buffer is not None:
                self.schedule.pools.assign(message, message.buffer.octets + message.buffer.begin)
            return 0
        outlet = <Outlet>self.schedule.pools.outlets[message.outlet]
        if outlet.instead is not None:
            self.schedule.change_outlet(message, outlet.instead.pick())
        return 0

    def change_outlet(self, Message message, uint16_t outlet):
        """message, which is on its way at the moment, goes by that outlet from now on."""
        self.schedule.change_outlet(message, outlet)

    cdef object _way_of(self, ScheduledQueue queue):
        """What is known of the way of all mail in queue: its ReadyQueue, a SourcePool to assign it to, or None."""
        cdef char key[LONGEST_KEY]
        cdef Outlet outlet
        if queue.outlet == 0:
            return self.by_domain.find(queue.domain_text, queue.domain_length) if queue.domain_length else None
        outlet = <Outlet>self.schedule.pools.outlets[queue.outlet]
        if outlet.instead is not None:
            return outlet.instead
        if queue.domain_length == 0:
            return None
        memcpy(key, queue.domain_text, queue.domain_length)
        return self.by_domain.find(key, key_of(key, queue.domain_length, queue.outlet))

    cdef ReadyQueue _ready_of(self, ScheduledQueue queue):
        found = self._way_of(queue)
        return <ReadyQueue>found if found is not None and type(found) is ReadyQueue else None

    cdef int _leave_alone(self, ScheduledQueue queue, ReadyQueue ready) except -1:
        """queue waits as long as the next hop is left alone."""
        cdef double rest_s = max(ready.blocked_until, ready.suspended_until) - monotonic()
        return self.schedule.block(queue, unix_s() + max(rest_s, 0.0), ready.reason, ready.failures)

    cdef int _route(self, Message message) except -1:
        """Find the way of a message that has its mail data in memory."""
        message.state = MESSAGE_READY
        message.marks &= ~MARK_ATTEMPTED
        message.outstanding += 1             # while its deliveries are made, none of them is the last
        self._postponed_until = 0
        self.place(message)
        message.outstanding -= 1
        if message.outstanding or message.state != MESSAGE_READY:
            return 0
        if self._postponed_until and not message.marks & MARK_ATTEMPTED:
            return self._put_off(message, self._postponed_until, self._postponed_reason, self._postponed_failures, None)
        return self._round_over(message)

    cdef int _put_off(self, Message message, double until, object reason, int failures, Delivery delivery) except -1:
        """Nothing was tried for message: its next hop is left alone until then, and that is no attempt.

        delivery: it knows what message has waited so far; None: what is launched knows.
        """
        cdef ScheduledQueue queue = self._join(message)
        cdef double now = unix_s()
        message.marks &= ~MARK_URGENT
        if not message.flags & OWN_POLICY and self._ready_of(queue) is not None:
            if queue.not_before < until:
                self.schedule.block(queue, until, reason, failures)
            self._keep_waits(message, delivery, until - self._unix_offset, cause_of(reason, failures))
            return self._keep(message, message.received_us * 1e-6, message.attempts == 0)
        # other mail of this queue may go elsewhere: it must not wait for this next hop. While that is probed there is
        # room for one, and the others look again at about every second probe
        if failures:
            until = max(until, now + <double>(1 << min(failures, 6)))
        until = min(until, now + SEVERAL_S)
        self._keep_waits(message, delivery, until - self._unix_offset, cause_of(reason, failures))
        return self._keep(message, until, False)

    # ------------------------------------------------------------------ what is due goes

    def tick(self, int most=1000, double most_s=0.005) -> int:
        """Scheduled queues whose time has come go to their ready queues, at most so many and for so long.

        Returns how many. Call it some ten times a second.
        """
        cdef double now = unix_s()
        cdef double until = monotonic() + most_s
        cdef ScheduledQueue queue
        cdef int count = 0
        self._compare_clocks()
        if self.unrecorded:
            self._record_done()
        while count < most and self.ready + self.loading < self.ready_limit and not self.stopped and not self.is_full():
            queue = self.schedule.due(now)
            if queue is None:
                break
            self._wake(queue, now)
            count += 1
            if monotonic() > until:
                break
        return count

    cdef int _wake(self, ScheduledQueue queue, double now) except -1:
        """Something in queue is due: it waits for room in its ready queue, or its way is found first."""
        cdef ReadyQueue ready
        cdef Message message
        cdef int count = 0, most
        found = self._way_of(queue)
        if found is not None:
            if type(found) is not ReadyQueue:
                self.schedule.spread(queue, <SourcePool>found, now, SPREAD_BATCH)
                return self.schedule.rest(queue)
            ready = <ReadyQueue>found
            if ready.expires > monotonic():
                if ready._closed():
                    queue.place = PLACE_TIMER
                    return self._leave_alone(queue, ready)
                ready.failures = max(ready.failures, queue.failures) if ready.open == 0 else 0
                ready.attach(queue)
                return ready.pump()
        # no ready queue is known for the whole of it: one finds the way; where that differs by local part, all do
        most = UNATTACHED_BATCH if queue.not_before and queue.failures == 0 else 1
        while count < most and self.ready + self.loading < self.ready_limit:
            message = self.schedule.take(queue, now)
            if message is None:
                break
            count += 1
            self.launch(message, None)
        queue.not_before = max(queue.not_before, now + (UNKNOWN_S if queue.failures else CROWDED_S))
        return self.schedule.rest(queue)

    cdef int launch(self, Message message, ReadyQueue ready) except -1:
        """message, taken out of its scheduled queue, goes; ready: where to, None: that is to be found."""
        cdef Waits saved = self._carried
        cdef uint64_t carrying = self._carrying
        message.state = MESSAGE_READY
        message.marks &= ~MARK_ATTEMPTED
        self._note_departure(message, ready)
        try:
            if message.buffer is None:
                self.loading += 1
                if ready is not None:
                    ready.loading += 1
                self._keep_waits(message, None, 0, CAUSE_DISK)
                self.load(message, ready)
                return 0
            return self.admit(message, ready)
        finally:
            self._carried = saved
            self._carrying = carrying

    cdef int admit(self, Message message, ReadyQueue ready) except -1:
        cdef Delivery delivery
        if ready is not None and message.recipients == 1 and ready.expires > monotonic() and (
            not message.flags & OWN_POLICY and not ready.is_too_large(message)
        ):
            if ready._closed():
                self._leave_alone(self._join(message), ready)
                self._keep_waits(message, None, 0, CAUSE_NONE)
                return self._keep(message, 0, message.attempts == 0)
            delivery = Delivery()
            if message.queue_number:
                delivery.provider = self.schedule.queue_of(message).provider
            return self.dispatch(message, ready, delivery)
        return self._route(message)

    def loaded(self, Message message, ReadyQueue ready):
        """The mail data asked of `load` is in memory, or cannot be had: then the message is kept back."""
        cdef Waited waited = <Waited>self._kept_waits.pop(message.id, None)
        cdef Waits saved = self._carried
        cdef uint64_t carrying = self._carrying
        self.loading -= 1
        if ready is not None:
            ready.loading -= 1
        if waited is not None:
            self._carried = waited.waits
            self._carried.since = monotonic()
            self._carrying = message.id
            add_wait(&self._carried, CAUSE_DISK, self._carried.since - waited.waits.since)
        try:
            if message.state == MESSAGE_READY and message.buffer is not None and message.outstanding == 0:
                self.admit(message, ready)
            elif ready is not None:
                ready.pump()
        finally:
            self._carried = saved
            self._carrying = carrying

    cdef int postpone(self, Delivery delivery, double until, object reason, int failures) except -1:
        """A delivery comes back that nothing was tried for: its next hop is left alone until then."""
        cdef Message message = delivery.message
        cdef uint16_t i
        message.outstanding -= 1
        if until > self._postponed_until:
            self._postponed_until = until
            self._postponed_reason = reason
            self._postponed_failures = failures
        if message.state == MESSAGE_GONE or message.outstanding:
            return 0
        if message.marks & MARK_ATTEMPTED:
            return self._round_over(message)
        for i in range(message.recipients):
            if not is_final(message.states[i]):
                break
        else:
            return self.remove(message)
        return self._put_off(message, until, reason, failures, delivery)

    def give_back(self, Delivery delivery):
        """A delivery that waited for names finds its way again, for the routes have changed meanwhile."""
        self.postpone(delivery, unix_s(), None, 0)

    def leave_alone(self, Message message, double seconds, bytes reason):
        """What waits for the same domain as message is left alone for so long: its names cannot be had."""
        cdef ScheduledQueue queue = self._join(message)
        if queue.domain_length:
            self.schedule.block(queue, unix_s() + seconds, reason, queue.failures + 1)
            queue.nameless = True
            domain = queue.domain
            periods = self._nameless.get(domain)
            if periods is None:
                if len(self._nameless) >= MOST_NAMELESS:
                    del self._nameless[next(iter(self._nameless))]
                periods = self._nameless[domain] = []
            if not periods or periods[0][1]:
                periods.insert(0, [monotonic(), 0.0])
                del periods[MOST_PERIODS:]

    def failures_of(self, Message message) -> int:
        """Look-ups or connections that failed in a row for the domain of message."""
        return self._join(message).failures

    # ------------------------------------------------------------------ operators

    def hold(self, Message message) -> bool:
        """Keep message from delivery until `release`; False when it is under way: it is held when it comes back."""
        if message.state == MESSAGE_SCHEDULED:
            self.schedule.cancel(message)
            message.state = MESSAGE_HELD
            return True
        if message.state == MESSAGE_READY or message.state == MESSAGE_COMMITTING:
            message.marks |= MARK_HOLD
        return message.state == MESSAGE_HELD

    def release(self, Message message):
        """Let a held message go, at once."""
        cdef double at = unix_s()
        cdef bint waits = message.flags & (MESSAGE_OVER_QUOTA | MESSAGE_UNUSUAL) != 0 and message.attempts == 0
        message.marks &= ~MARK_HOLD
        message.flags &= ~MESSAGE_UNUSUAL
        if message.state == MESSAGE_HELD:
            message.state = MESSAGE_SCHEDULED
            if waits:
                at = max(at, message.received_us * 1e-6)     # its sender's limit, or wish, holds all the same
            self.schedule.add(message, at, message.attempts == 0 and at <= unix_s())

    def retry_now(self, Message message) -> bool:
        """Have a waiting message tried at once, whatever its next hop did before; False when it does not wait."""
        cdef ScheduledQueue queue
        cdef ReadyQueue ready
        if message.state != MESSAGE_SCHEDULED:
            return False
        queue = self.schedule.queue_of(message)
        if message.flags & OWN_POLICY or self._ready_of(queue) is None:
            message.marks |= MARK_URGENT         # which next hop is meant turns out when its way is found
        self.schedule.add(message, unix_s(), message.attempts == 0)
        if queue.not_before > unix_s():
            ready = self._ready_of(queue)
            if ready is not None:
                ready.blocked_until = 0
            self.schedule.block(queue, 0, None, queue.failures)
        return True

    def suspend(self, str kind, bytes name, double until, str reason):
        """Let nothing go by a kind (domain, tenant, site, source) and name until then (unix seconds; 0: no end).

        For a site or a source, call ReadyQueue.apply_suspensions of all ready queues afterwards.
        """
        self.schedule.suspend(kind, name, until, reason)
        self.note_suspended_sources()

    def note_suspended_sources(self):
        """Outlets whose source is suspended get no new mail while their pool has others."""
        cdef Outlet outlet
        for found in self.schedule.pools.outlets[1:]:
            outlet = <Outlet>found
            outlet.suspended = ("source", outlet.source) in self.schedule.suspensions

    def resume(self, str kind, bytes name) -> bool:
        """Whether there was such a suspension; there is none any more. Ready queues: as for `suspend`."""
        found = self.schedule.suspensions.get((kind, name))
        if found is None:
            return False
        self.schedule.resume(kind, name)
        self.note_suspended_sources()
        if kind in ("site", "source"):
            self.schedule.unblock(suspension_text(kind, name, found[1]))
        return True

    def grow(self):
        """Look after the ready queues in which something waits. Call it some ten times a second."""
        cdef ReadyQueue ready
        cdef list busy = self.busy
        cdef uint64_t *slots = self.counters.slots
        cdef double now = monotonic()
        cdef uint64_t passed_us = <uint64_t>((now - self._grown) * 1e6)
        self.busy = []
        self._grown = now
        if self.loading:
            slot_add(slots, Slot.QUEUE_WAITED_DISK, self.loading * passed_us)
        for found in busy:
            ready = <ReadyQueue>found
            ready._busy = False
            if ready.backlog:
                slot_add(slots, <int>Slot.QUEUE_WAITED_HELD + ready._cause(), ready.backlog * passed_us)
            if ready.backlog or ready.attached:
                ready._is_busy()
                ready.grow()
            ready.note_cause()

    # ------------------------------------------------------------------ what a message has waited for

    cdef void _compare_clocks(self) noexcept:
        """How far the clock of the day is ahead of the one that nobody sets."""
        cdef double before = monotonic()
        cdef double unix = unix_s()
        cdef double after = monotonic()
        if after - before < UNDISTURBED_S:
            self._unix_offset = unix - 0.5 * (before + after)

    cdef int _note_departure(self, Message message, ReadyQueue ready) except -1:
        """message has been taken out of its scheduled queue: what it waits for next is another matter.

        What it has waited is `_carried` from now on, until the delivery that is made of it takes it over.
        """
        cdef Waited waited
        cdef Waits *carried = &self._carried
        cdef double now = monotonic()
        cdef double since = self.schedule.taken_due - self._unix_offset if self.schedule.taken_due else now
        memset(carried, 0, sizeof(Waits))
        self._carrying = message.id
        if message.attempts and self.schedule.taken_due <= message.received_us * 1e-6:
            since = now                      # that is its place among the others, not its time
        if self._kept_waits:
            waited = <Waited>self._kept_waits.pop(message.id, None)
            if waited is not None:
                carried[0] = waited.waits
                since = carried.since
                if waited.until > since:
                    add_wait(carried, waited.cause, min(waited.until, now) - since)
                    since = waited.until
        if since < now:
            self._charge(carried, ready, self.schedule.queue_of(message), since, now)
        carried.since = now
        return 0

    cdef int _charge(self, Waits *waits, ReadyQueue ready, ScheduledQueue queue, double begin, double end) except -1:
        """Add what stood in the way from begin to end (monotonic) of what goes by ready, from queue if it was there.

        The first of these that held: this process had not begun; it was suspended; the domain had no names; what the
        ready queue says; the next hop was left alone; there was no room.
        """
        cdef double at
        cdef list pauses
        if begin < self._began:
            add_wait(waits, CAUSE_RESTART, min(end, self._began) - begin)
            begin = self._began
        if queue is not None and (self._nameless or self.schedule.pauses or self.schedule._suspended_at):
            pauses = [
                (since - self._unix_offset, until - self._unix_offset, CAUSE_SUSPENDED)
                for since, until in self.schedule.pauses_of(
                    queue, None if ready is None else ready.site, None if ready is None else ready.source
                )
            ]
            for since, until in self._nameless.get(queue.domain, ()):
                pauses.append((since, until if until else end, CAUSE_DNS))
            at = begin
            for since, until, cause in sorted(pauses):
                if until <= at or since >= end:
                    continue
                self._charge_by(waits, ready, queue, at, since)
                at = max(at, since)
                add_wait(waits, cause, min(until, end) - at)
                at = until
            begin = max(begin, at)
        return self._charge_by(waits, ready, queue, begin, end)

    cdef int _charge_by(self, Waits *waits, ReadyQueue ready, ScheduledQueue queue, double begin, double end) except -1:
        """As `_charge`, from what the ready queue says on."""
        cdef double known = end
        cdef double alone = 0
        if end <= begin:
            return 0
        if ready is not None:
            known = min(ready.timeline.begins(), end)
        if begin < known:
            if queue is not None and queue.not_before:
                alone = min(queue.not_before - self._unix_offset, known)
            if alone > begin:
                add_wait(waits, CAUSE_DNS if queue.nameless else cause_of(queue.reason, queue.failures), alone - begin)
                begin = alone
            add_wait(waits, CAUSE_ROOM, known - begin)
            begin = known
        if begin < end:
            ready.timeline.charge(begin, end, waits)
        return 0

    cdef int _keep_waits(self, Message message, Delivery delivery, double until, int cause) except -1:
        """message goes back to its scheduled queue, or its data is read: remember what it has waited.

        until (monotonic): it waits for cause until then.
        """
        cdef Waited waited = Waited()
        cdef double now = monotonic()
        if delivery is not None:
            waited.waits = delivery.waits
            if delivery.waits.since:
                self._charge(&waited.waits, delivery.queue, None, delivery.waits.since, now)
        elif self._carrying == message.id:
            waited.waits = self._carried
        waited.waits.since = now
        waited.until = until
        waited.cause = cause
        if len(self._kept_waits) >= MOST_KEPT_WAITS:
            del self._kept_waits[next(iter(self._kept_waits))]
        self._kept_waits[message.id] = waited
        return 0

    cdef int _note_names(self, bytes domain) except -1:
        """The names of domain are known (again)."""
        periods = self._nameless.get(domain)
        if periods is not None and not periods[0][1]:
            periods[0][1] = monotonic()
        return 0

    def waited(self, Message message) -> dict[str, float]:
        """Seconds by cause that message has waited since it could go; empty while it is not to go yet, or goes."""
        cdef Waits waits
        cdef Waited kept
        cdef Delivery delivery
        cdef ScheduledQueue queue = self.schedule.queue_of(message)
        cdef double now = monotonic()
        cdef double since = message.next_attempt - self._unix_offset if message.next_attempt else now
        memset(&waits, 0, sizeof(Waits))
        if message.outstanding:
            delivery = self._waiting(message)
            if delivery is not None:
                waits = delivery.waits
                if waits.since:
                    self._charge(&waits, delivery.queue, None, waits.since, now)
            return seconds_by_cause(&waits)
        if message.state == MESSAGE_HELD:
            return {}
        if message.attempts and message.next_attempt <= message.received_us * 1e-6:
            since = now
        kept = <Waited>self._kept_waits.get(message.id)
        if kept is not None:
            waits = kept.waits
            since = waits.since
            if kept.until > since:
                add_wait(&waits, kept.cause, min(kept.until, now) - since)
                since = kept.until
        if since < now:
            self._charge(&waits, None if queue is None else self._ready_of(queue), queue, since, now)
        return seconds_by_cause(&waits)

    cdef Delivery _waiting(self, Message message):
        """The delivery of message that is ready, and which no connection has."""
        cdef Delivery delivery
        for found in self.busy:
            delivery = (<ReadyQueue>found)._find(message)
            if delivery is not None:
                return delivery
        return None

    def waiting_in(self, Message message) -> ReadyQueue | None:
        """The ready queue in which message waits: as a delivery, or with what is due for the same domain."""
        cdef Delivery delivery
        cdef ScheduledQueue queue
        if message.outstanding:
            delivery = self._waiting(message)
            return None if delivery is None else delivery.queue
        queue = self.schedule.queue_of(message)
        return None if queue is None or queue.place != PLACE_READY else self._ready_of(queue)

    # ------------------------------------------------------------------ the time of what waits is over

    def set_retry_schedules(self, list expire_s, list warn_s):
        """By number of the retry schedule: seconds after which a message is given up, and its sender warned (0: never).
        """
        self._expire_s = expire_s
        self._warn_s = warn_s

    cdef uint16_t _tenant_row(self, Message message, ScheduledQueue queue) except? 0xFFFF:
        """The row of the metrics of message's tenant."""
        cdef Text tenant
        cdef bytes name
        if queue is not None:
            name = <bytes>self.schedule.tenants[queue.tenant]
            return self.counters.tenant_row(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        if message.buffer is None:
            return 0
        tenant = message.buffer.text(TEXT_TENANT)
        return self.counters.tenant_row(tenant.octets, tenant.length)

    cdef uint16_t _pool_row(self, Delivery delivery) except? 0xFFFF:
        """The row of the metrics of the source pool that delivery goes by."""
        cdef bytes name
        cdef uint16_t outlet = delivery.message.outlet
        if outlet == 0:
            return delivery.pool
        name = (<Outlet>self.schedule.pools.outlets[outlet]).pool
        return self.counters.pool_row(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))

    cdef bytes _pool_of(self, Delivery delivery):
        cdef uint16_t outlet = delivery.message.outlet
        return (<Outlet>self.schedule.pools.outlets[outlet]).pool if outlet else None

    def pool_of(self, Delivery delivery) -> bytes:
        """The source pool that delivery goes by; empty where it goes by none, or is one of several of its message."""
        cdef bytes pool = self._pool_of(delivery)
        return b"" if pool is None else pool

    def pool_row_of(self, Delivery delivery) -> int:
        """The row of the metrics of the source pool that delivery goes by."""
        return self._pool_row(delivery)

    cdef int _cause(self, Message message, ScheduledQueue queue, double now) except -1:
        """What a message in queue waits for; the order is that of angarium.app.waiting."""
        cdef ReadyQueue ready
        if message.state == MESSAGE_HELD:
            return CAUSE_HELD
        if queue._suspended:
            return CAUSE_SUSPENDED
        if message.next_attempt > now and not message.marks & MARK_FRESH:
            if message.attempts:
                return CAUSE_BACKOFF
            if message.flags & MESSAGE_OVER_QUOTA:
                return CAUSE_QUOTA
            if message.received_us * 1e-6 > now:
                return CAUSE_RELEASE
            return CAUSE_CONNECTION          # its next hop was left alone when its way was found
        if queue.not_before > now:
            return CAUSE_DNS if queue.nameless else cause_of(queue.reason, queue.failures)
        if queue.place == PLACE_READY:
            ready = self._ready_of(queue)
            if ready is not None:
                return ready._cause()
        return CAUSE_ROOM

    cdef int _count(self, Message message, double now) except -1:
        """message is met on the round through the table."""
        cdef Survey survey = self.survey
        cdef ScheduledQueue queue = self.schedule.queue_of(message)
        cdef double age_s = now - message.received_us * 1e-6
        survey.note_age(age_s)
        survey.note_tenant(self._tenant_row(message, queue))
        if queue is not None and (message.state == MESSAGE_SCHEDULED or message.state == MESSAGE_HELD):
            survey.note_waiting(queue.provider, age_s, queue.domain_text, queue.domain_length)
            survey.charge(<int>Slot.QUEUE_WAITED_HELD + self._cause(message, queue, now))
        return 0

    def sweep(self, size_t slots) -> tuple[list[Message], list[Message]]:
        """Look at the next `slots` slots of the table for messages that wait; over the soft mark their mail data goes.

        Returns those whose time is over (by a minute, so that an attempt of their own at the end comes first), and
        those whose senders are to be told that they are late. On the way everything queued is counted (survey.pyx).
        """
        cdef double now = unix_s()
        cdef double monotonic_now = monotonic()
        cdef size_t i, end
        cdef Message message
        cdef ScheduledQueue queue
        cdef double age_s, expire_s, warn_s
        cdef list over = [], late = []
        cdef bint short = buffered_octets() > self.memory_soft_octets
        if self._swept >= self.table._capacity:
            self._swept = 0
            for found in self.busy:
                self.survey.note_ready((<ReadyQueue>found).provider, (<ReadyQueue>found).backlog)
            self.survey.close_round(monotonic_now)
        end = min(self._swept + slots, self.table._capacity)
        for i in range(self._swept, end):
            if self.table._slots[i] == NULL:
                continue
            message = <Message>self.table._slots[i]
            self._count(message, now)
            if message.state != MESSAGE_SCHEDULED or not self._expire_s:
                continue
            if short and message.segment is not None:
                message.buffer = None        # it came to wait before memory was short
            queue = self.schedule.queue_of(message)
            expire_s = self._expire_s[queue.policy]
            warn_s = self._warn_s[queue.policy]
            age_s = now - message.received_us * 1e-6
            # what is put off again and again is never due for long; what waits for its release is younger than nothing
            if age_s > expire_s + min(OVERDUE_S, 0.1 * expire_s) and message.next_attempt <= now + SEVERAL_S:
                over.append(message)
            elif warn_s and age_s > warn_s and not message.marks & MARK_WARNED and (
                message.attempts or message.marks & MARK_FRESH
            ):
                late.append(message)
        self._swept = end
        return over, late

    def withdraw(self, Message message) -> bool:
        """Take a waiting message out for what `sweep` found; False when it does not wait any more."""
        if message.state != MESSAGE_SCHEDULED:
            return False
        at = message.next_attempt
        self.schedule.cancel(message)
        message.next_attempt = at            # for who puts it back
        message.state = MESSAGE_READY
        return True

    # ------------------------------------------------------------------ attempts

    cdef int _round_over(self, Message message) except -1:
        """No delivery is under way any more, or one of several is over."""
        cdef uint16_t i
        if message.state == MESSAGE_GONE:    # dropped meanwhile
            return 0
        for i in range(message.recipients):
            if not is_final(message.states[i]):
                if message.outstanding == 0:
                    self.reconsider(message)
                else:
                    self.partial(message)
                return 0
        return self.remove(message)

    cdef int dispatch(self, Message message, ReadyQueue queue, Delivery delivery) except -1:
        delivery.message = message
        delivery.queue = queue
        delivery.buffer = message.buffer
        delivery.tenant = self._tenant_row(message, None)
        if delivery.provider == 0:
            delivery.provider = queue.provider
        if delivery._indices == NULL:
            delivery.recipients = message.recipients
        message.outstanding += 1
        if self._carrying == message.id:
            delivery.waits = self._carried
        queue.push(delivery, False)
        queue.pump()
        if delivery.began == 0 and delivery.waits.since == 0:
            delivery.waits.since = monotonic()
        return 0

    def send(self, Message message, ReadyQueue queue, list indices, uint8_t provider=0, uint16_t pool=0):
        """Make a delivery of some recipients of message (indices, ascending) and put it into queue.

        provider: row of the metrics of its domain; 0: those of the queue. pool: that of its source pool, where it is
        not the message's own.
        """
        cdef Delivery delivery = Delivery()
        delivery.provider = provider
        delivery.pool = pool
        if len(indices) != message.recipients:
            delivery.set_recipients(indices)
        if message.marks & MARK_URGENT:
            queue.blocked_until = 0
        if queue.hand_over is None and (queue._closed() or queue.backlog >= queue._window()):
            # a next hop that is unreachable or slow must not fill up with mail that others could have
            delivery.message = message
            message.outstanding += 1
            if queue._closed():
                rest_s = max(queue.blocked_until, queue.suspended_until) - monotonic()
                self.postpone(delivery, unix_s() + rest_s, queue.reason, queue.failures)
            else:
                self.postpone(delivery, unix_s() + CROWDED_S, None, 0 if queue.open else queue.failures)
            return
        self.dispatch(message, queue, delivery)

    cdef Delivery split(self, Delivery delivery, list apart):
        """A delivery of their own for the recipients `apart` (the message's indices, some of delivery's).

        It is in no queue.
        """
        cdef Delivery rest = Delivery()
        cdef list stay = [index for index in delivery.indices() if index not in apart]
        rest.message = delivery.message
        rest.queue = delivery.queue
        rest.buffer = delivery.buffer
        rest.tenant = delivery.tenant
        rest.provider = delivery.provider
        rest.pool = delivery.pool
        rest.began = delivery.began
        rest.waits = delivery.waits
        rest.set_recipients(apart)
        delivery.set_recipients(stay)
        delivery.message.outstanding += 1
        return rest

    def redirect(self, Delivery delivery, ReadyQueue queue):
        """A delivery that waited for its next hop's names goes into the queue of that next hop."""
        cdef double now = monotonic()
        add_wait(&delivery.waits, CAUSE_DNS, now - delivery.began)
        delivery.waits.since = now
        delivery.queue = queue
        delivery.transfers = 0
        delivery.began = 0
        if delivery.provider == 0:
            delivery.provider = queue.provider
        if delivery.message.marks & MARK_URGENT:
            queue.blocked_until = 0
        if queue._closed():
            rest_s = max(queue.blocked_until, queue.suspended_until) - monotonic()
            self.postpone(delivery, unix_s() + rest_s, queue.reason, queue.failures)
            return
        queue.push(delivery, False)
        queue.pump()

    def mark_in_flight(self, Message message):
        """The next hop may have the message from now on."""
        self.journal_of(message).mark_in_flight(message)

    def remember(self, bytes domain, way, uint16_t outlet=0, uint8_t provider=0):
        """From now on mail of an outlet to domain goes to a ReadyQueue, whatever the local part.

        Or first to another outlet, one of a SourcePool, which must not send it back. provider: as for `send`.
        """
        cdef char key[LONGEST_KEY]
        cdef size_t n = PyBytes_GET_SIZE(domain)
        cdef size_t most = MOST_DOMAINS * min(<size_t>8, <size_t>len(self.schedule.pools.outlets))
        if type(way) is not ReadyQueue and type(way) is not SourcePool:
            raise TypeError("a way is a ReadyQueue or a SourcePool")
        if n > 255:
            raise ValueError(f"a domain has at most 255 octets, not {n}")
        memcpy(key, PyBytes_AS_STRING(domain), n)
        n = key_of(key, n, outlet)
        if self._nameless and type(way) is ReadyQueue:
            self._note_names(domain)
        if n > 255:
            return                           # each message to it finds its way by itself
        if self.by_domain.count >= most or self.by_domain.targets() >= most:
            self.by_domain.clear()
        self.by_domain.put(key, n, way, provider)

    def known(self, bytes domain, uint16_t outlet=0) -> ReadyQueue | None:
        """The ready queue that mail of an outlet to domain goes to, where one is remembered."""
        cdef char key[LONGEST_KEY]
        cdef size_t n = PyBytes_GET_SIZE(domain)
        if n > 255:
            return None
        memcpy(key, PyBytes_AS_STRING(domain), n)
        found = self.by_domain.find(key, key_of(key, n, outlet))
        return <ReadyQueue>found if found is not None and type(found) is ReadyQueue else None

    cdef int delivered(self, Delivery delivery, Reply *reply, bytes text) except -1:
        """Every recipient of delivery was accepted by the next hop."""
        cdef Message message = delivery.message
        cdef uint64_t *slots = self.counters.slots
        cdef double attempt_s = monotonic() - delivery.began
        cdef double now = unix_s()
        cdef double age_s = now - message.received_us * 1e-6
        cdef uint16_t i, index
        for i in range(delivery.recipients):
            index = delivery.index(i)
            message.states[index] = RECIPIENT_DELIVERED
            self.events.attempt(b"delivery", message, delivery.buffer, index,
                                delivery.queue.next_hop, delivery.queue.site, delivery.queue.source,
                                self._pool_of(delivery), reply, text, attempt_s, delivery.tls, &delivery.waits)
        slot_add(slots, Slot.DELIVERY_ATTEMPTS, 1)
        slot_add(slots, Slot.DELIVERY_DELIVERED_RECIPIENTS, delivery.recipients)
        slot_add(slots, Slot.DELIVERY_OCTETS, delivery.buffer.end - delivery.buffer.data_begin)
        observe_message(self.counters.own, <int>Slot.DELIVERY_LATENCY_FSYNC + HISTOGRAM_SLOTS * message.durability,
                        <uint64_t>(age_s * 1e6) if age_s > 0 else 0, message.id, <uint64_t>(now * 1e6))
        slot_add(slots, Slot.DELIVERY_REPLIES_2XX, delivery.recipients)
        slot_add(slots, <int>Slot.PROVIDER_ATTEMPTS + delivery.provider, 1)
        slot_add(slots, <int>Slot.PROVIDER_DELIVERED + delivery.provider, delivery.recipients)
        slot_add(slots, <int>Slot.PROVIDER_REPLIES_2XX + delivery.provider, delivery.recipients)
        slot_add(slots, <int>Slot.TENANT_DELIVERED + delivery.tenant, delivery.recipients)
        slot_add(slots, <int>Slot.SOURCE_ATTEMPTS + delivery.queue.source_row, 1)
        slot_add(slots, <int>Slot.SOURCE_DELIVERED + delivery.queue.source_row, delivery.recipients)
        slot_add(slots, <int>Slot.SOURCE_REPLIES_2XX + delivery.queue.source_row, delivery.recipients)
        slot_add(slots, <int>Slot.POOL_DELIVERED + self._pool_row(delivery), delivery.recipients)
        if delivery.recipients != message.recipients and self.keep_reply is not None:
            # others are left: it will be in the outcome record
            if reply.enhanced_class:
                text = b"%d.%d.%d %s" % (reply.enhanced_class, reply.enhanced_subject, reply.enhanced_detail, text)
            self.keep_reply(delivery, reply.code, text)
        return self.close(delivery)

    def delivered_by_hand(self, Delivery delivery, int code, bytes text):
        """A next hop without SMTP took the message for all recipients."""
        cdef Reply reply
        reply.code = code
        reply.enhanced_class = 2
        reply.enhanced_subject = 0
        reply.enhanced_detail = 0
        self.delivered(delivery, &reply, text)

    def rows_of(self, Message message) -> tuple[int, int]:
        """The rows of the metrics of message's provider and tenant, where no delivery says so."""
        cdef ScheduledQueue queue = self.schedule.queue_of(message)
        return 0 if queue is None else queue.provider, self._tenant_row(message, queue)

    def log_attempt(self, str event, Delivery delivery, int index, int code, enhanced, bytes text):
        """One line of the event log about one recipient of delivery."""
        cdef Reply reply
        cdef bytes name = event.encode("ascii")
        reply.code = code
        reply.enhanced_class = 0
        if enhanced is not None:
            reply.enhanced_class, reply.enhanced_subject, reply.enhanced_detail = enhanced
        self.events.attempt(PyBytes_AS_STRING(name), delivery.message, delivery.buffer, index, delivery.queue.next_hop,
                            delivery.queue.site, delivery.queue.source, self._pool_of(delivery), &reply, text,
                            delivery.seconds(), delivery.tls, &delivery.waits)

    cdef int close(self, Delivery delivery) except -1:
        """A delivery is over and its recipients' states are set."""
        delivery.message.outstanding -= 1
        delivery.message.marks |= MARK_ATTEMPTED
        delivery.message.marks &= ~MARK_URGENT
        return self._round_over(delivery.message)

    def finish(self, Delivery delivery):
        """close for callers in Python."""
        self.close(delivery)

    cdef int remove(self, Message message, int reason=DROP_DELETED) except -1:
        """Nothing is left to do for message; recipients that are not final are dropped for that reason."""
        cdef uint16_t i
        cdef bint delivered = True
        if message.state == MESSAGE_GONE:
            return 0
        for i in range(message.recipients):
            if message.states[i] != RECIPIENT_DELIVERED:
                delivered = False
                break
        self.table.remove(message)
        if self._kept_waits:
            self._kept_waits.pop(message.id, None)
        if delivered:
            slot_add(self.counters.slots, Slot.DELIVERY_DELIVERED_MESSAGES, 1)
        message.buffer = None
        try:
            self.journal_of(message).append_done(message, reason)
        except OSError:
            # a disk that fails must not stop what is in memory from going out; a crash before `tick` has caught up
            # makes doubt
            self.unrecorded.append((message, reason))
        return 0

    cdef int _record_done(self) except -1:
        """Write into the journals what they could not take when it was over."""
        cdef Message message
        cdef list left = []
        for message, reason in self.unrecorded:
            try:
                self.journal_of(message).append_done(message, reason)
            except OSError:
                left.append((message, reason))
        self.unrecorded = left
        return 0

    def drop(self, Message message, int reason=DROP_DELETED):
        """remove for callers in Python."""
        self.remove(message, reason)

    def queued_recipients(self) -> int:
        """Recipients for whom the journal does not say that it is over, counted by what is in the table.

        The ledger must come to the same number by its own way.
        """
        cdef Journal journal
        cdef int64_t queued = self.table.recipients
        for message, _ in self.unrecorded:
            queued += (<Message>message).recipients
        for journal in self.journals.values():
            queued -= journal.ledger.counted
        return queued

    def publish_gauges(self):
        """Write what is queued into the shared counters."""
        cdef uint64_t *slots = self.counters.slots
        slot_set(slots, Slot.QUEUE_MESSAGES, self.table.count)
        slot_set(slots, Slot.QUEUE_RECIPIENTS, self.table.recipients)
        slot_set(slots, Slot.QUEUE_OCTETS, self.table.octets)
        slot_set(slots, Slot.QUEUE_MEMORY_OCTETS, buffered_octets())
        slot_set(slots, Slot.DELIVERY_READY, self.ready)
        slot_set(slots, Slot.DELIVERY_SCHEDULED, self.schedule.count)

    def persist(self, Message message) -> bool:
        """Put a message of class memory into the journal: its first attempt did not deliver it.

        False: it stays in memory only.
        """
        if message.segment is None and message.state != MESSAGE_GONE:
            try:
                self.journal_of(message).append_message(message, None)
            except OSError:
                return False
        return True


cdef class JournalIntake(Intake):
    """Takes mail into the journals of one worker: into the first that is well, always the same while it is, so that
    as many messages as possible share a sync."""

    def __init__(self, Dispatcher dispatcher, list journals):
        self.dispatcher = dispatcher
        self.journals = journals
        self._current = journals[0]

    cdef Journal _open(self):
        cdef Journal journal
        if self._current.failed == 0 and not self._current.full:
            return self._current
        for journal in self.journals:
            if journal.failed == 0 and not journal.full:
                self._current = journal
                return journal
        return None

    cdef uint64_t next_id(self) except 0:
        cdef Journal journal = self._open()
        if journal is None:
            journal = self._current
            if journal.failed:               # one that is only full still takes notifications
                for other in self.journals:
                    if (<Journal>other).failed == 0:
                        journal = <Journal>other
                        break
        return journal.next_id()

    cdef const char *refusal(self) noexcept:
        if self._open() is not None:
            return NULL
        return R_STORAGE_FULL if self._current.full else R_STORAGE_FAILED

    cdef int accept(self, Message message, Receiver receiver) except -1:
        if message.durability == DURABILITY_MEMORY:
            self.dispatcher.journal_of(message).count_memory(message)
            if receiver is not None:
                receiver.committed(message, 0)
            return self.dispatcher.take(message)
        return self.dispatcher.journal_of(message).append_message(message, receiver)

    def submit(self, Message message, Receiver receiver=None, bint notification=False):
        """accept for callers in Python (DSNs, tests); OSError when the journal takes nothing.

        notification: it may use a part of the last room on a full disk.
        """
        if notification:
            self.dispatcher.journal_of(message).append_message(message, receiver, True)
        else:
            self.accept(message, receiver)

    def new_id(self) -> int:
        """A queue id for a message to be submitted."""
        return self.next_id()

    @property
    def accepting(self) -> bool:
        """Whether mail can be taken at the moment."""
        return self.refusal() == NULL
