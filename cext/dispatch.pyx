"""From the queue to a connection and back.

Job: a message that is ours goes into the ready queue of its next hop (Dispatcher.take), a free connection carries it
(ReadyQueue.pump), and what became of it is settled: delivered to all is settled here, everything else in Python, by the
functions that the application puts into Dispatcher's attributes.

Bounds: at most `ready_limit` deliveries are ready, about `queue_limit` for one next hop; what comes beyond waits in
the timer. Over `memory_soft_octets` the
mail data of what cannot go at once is dropped from memory (it is on disk) and read again when its turn comes.

Fails: a message that is over while its journal takes no records is kept in `unrecorded` until it does; after a crash
before that it is in doubt, never lost.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

from angarium._core.counters cimport Counters, Slot, slot_add, slot_observe, slot_set
from angarium._core.event_log cimport EventLog
from angarium._core.journal cimport Journal, Receiver, Taker
from angarium._core.octets cimport lower
from angarium._core.record cimport (
    DURABILITY_MEMORY,
    MESSAGE_COMMITTING,
    MESSAGE_GONE,
    MESSAGE_READY,
    MESSAGE_SCHEDULED,
    RECIPIENT_DELIVERED,
    MailBuffer,
    Message,
    Recipient,
    buffered_octets,
    is_final,
)
from angarium._core.reply cimport Reply
from angarium._core.schedule cimport MessageTable, Timer
from angarium._core.server_session cimport Intake

cdef enum:
    MOST_DOMAINS = 200000        # whose ready queue is remembered

cdef double CROWDED_S = 0.25     # what finds its ready queue full comes back after that

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

    def mail_buffer(self) -> MailBuffer:
        """The octets of the message."""
        return self.buffer

    def seconds(self) -> float:
        """Since a connection took it."""
        return monotonic() - self.began if self.began else 0.0

    def __repr__(self):
        return f"<Delivery of {self.message!r} to {self.queue.next_hop!r}>"


cdef class ReadyQueue:
    def __init__(self, Dispatcher dispatcher, bytes next_hop, bytes site, target=None, *, int limit=20,
                 connect=None, hand_over=None,
                 double expires=float("inf")):
        self.dispatcher = dispatcher
        self.next_hop = next_hop
        self.site = site
        self.target = target
        self.limit = limit
        self.connect = connect
        self.hand_over = hand_over
        self.expires = expires
        self.idle = []

    def __repr__(self):
        return f"<ReadyQueue {self.next_hop!r} backlog={self.backlog} open={self.open} connecting={self.connecting}>"

    cdef int push(self, Delivery delivery, bint in_front) except -1:
        delivery._next = None
        if self._first is None:
            self._first = self._last = delivery
        elif in_front:
            delivery._next = self._first
            self._first = delivery
        else:
            self._last._next = delivery
            self._last = delivery
        self.backlog += 1
        self.dispatcher.ready += 1
        return 0

    cdef Delivery pop(self):
        cdef Delivery delivery = self._first
        if delivery is None or self.dispatcher.stopped:
            return None
        self._first = delivery._next
        if self._first is None:
            self._last = None
        delivery._next = None
        self.backlog -= 1
        self.dispatcher.ready -= 1
        delivery.began = monotonic()
        delivery.transfers += 1
        return delivery

    cdef Delivery first(self):
        return None if self.dispatcher.stopped else self._first

    def take(self) -> Delivery | None:
        """pop for callers in Python."""
        return self.pop()

    def put_back(self, Delivery delivery):
        """A delivery that was taken and not begun goes first again."""
        self.push(delivery, True)
        self.pump()

    cdef int pump(self) except -1:
        """Give work to idle connections; ask for one more when all are busy and mail gathers behind them."""
        cdef Delivery delivery
        cdef Carrier carrier
        while self._first is not None and not self.dispatcher.stopped:
            if self.hand_over is not None:
                delivery = self.pop()
                self.hand_over(delivery)
                continue
            if self.idle:
                carrier = self.idle.pop()
                self.sent += 1
                slot_add(self.dispatcher.counters.slots, Slot.DELIVERY_CONNECTIONS_REUSED, 1)
                carrier.carry(self.pop())
                continue
            if self.blocked_until and monotonic() < self.blocked_until:
                break
            if self.open + self.connecting < self.limit and (
                self.open + self.connecting == 0 or self.backlog > <uint32_t>(self.open + self.connecting)
            ):
                self.connecting += 1
                self.connect(self)
            break
        return 0

    def wake(self):
        """pump for callers in Python."""
        self.pump()

    def grow(self):
        """Mail has waited since the last tick: one more connection, if the limit allows."""
        if self._first is not None and self.hand_over is None and not self.dispatcher.stopped:
            if not self.idle and self.connecting == 0 and self.open < self.limit and monotonic() >= self.blocked_until:
                self.connecting += 1
                self.connect(self)
            else:
                self.pump()


cdef class Dispatcher(Taker):
    def __init__(self, Counters counters, EventLog events):
        self.counters = counters
        self.events = events
        self.table = MessageTable()
        self.timer = Timer()
        self.journals = {}
        self.by_domain = {}
        self.unrecorded = []
        self.ready_limit = 20000
        self.queue_limit = 5000
        self.memory_soft_octets = <uint64_t>1 << 62

    cdef Journal journal_of(self, Message message):
        return <Journal>self.journals[(message.id >> 14) & 255]

    def journal(self, Message message) -> Journal:
        """The journal of the shard that the message belongs to."""
        return self.journal_of(message)

    cdef int take(self, Message message) except -1:
        """A message is safe in its class: it is ours now."""
        if message.state != MESSAGE_COMMITTING:
            return 0
        self.table.add(message)
        if self.ready >= self.ready_limit or self.stopped:
            self.wait(message, 0)
            return 0
        return self.enqueue(message)

    def adopt(self, Message message):
        """take for callers in Python."""
        self.take(message)

    def wait(self, Message message, double at):
        """Let message wait in the timer until `at` (unix seconds).

        Its mail data leaves the memory when memory is short.
        """
        message.state = MESSAGE_SCHEDULED
        if message.segment is not None and buffered_octets() > self.memory_soft_octets:
            message.buffer = None
        self.timer.schedule(message, at)

    cdef int enqueue(self, Message message) except -1:
        """Put message where it may go now."""
        cdef Recipient recipient
        cdef char domain[256]
        cdef size_t i, length
        cdef const char *path
        cdef ReadyQueue queue
        message.state = MESSAGE_READY
        if message.buffer is None:
            self.load(message)
            return 0
        if message.recipients == 1:
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
                found = self.by_domain.get(PyBytes_FromStringAndSize(domain, length))
                if found is not None:
                    queue = <ReadyQueue>found
                    if queue.expires > monotonic():
                        if queue.backlog >= self.queue_limit:
                            # one slow or dead next hop must not fill the ready queues of all others
                            self.wait(message, unix_s() + max(CROWDED_S, queue.blocked_until - monotonic()))
                            return 0
                        return self.dispatch(message, queue, Delivery())
        message.outstanding += 1             # while its deliveries are made, none of them is the last
        self.place(message)
        message.outstanding -= 1
        if message.outstanding == 0 and message.state != MESSAGE_GONE:
            return self._round_over(message)
        return 0

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

    def enqueue_now(self, Message message):
        """enqueue for callers in Python."""
        self.enqueue(message)

    cdef int dispatch(self, Message message, ReadyQueue queue, Delivery delivery) except -1:
        delivery.message = message
        delivery.queue = queue
        delivery.buffer = message.buffer
        if delivery._indices == NULL:
            delivery.recipients = message.recipients
        message.outstanding += 1
        queue.push(delivery, False)
        return queue.pump()

    def send(self, Message message, ReadyQueue queue, list indices):
        """Make a delivery of some recipients of message (indices, ascending) and put it into queue."""
        cdef Delivery delivery = Delivery()
        if len(indices) != message.recipients:
            delivery.set_recipients(indices)
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
        rest.began = delivery.began
        rest.set_recipients(apart)
        delivery.set_recipients(stay)
        delivery.message.outstanding += 1
        return rest

    def redirect(self, Delivery delivery, ReadyQueue queue):
        """A delivery that waited for its next hop's names goes into the queue of that next hop."""
        delivery.queue = queue
        delivery.transfers = 0
        queue.push(delivery, False)
        queue.pump()

    def mark_in_flight(self, Message message):
        """The next hop may have the message from now on."""
        self.journal_of(message).mark_in_flight(message)

    def remember(self, bytes domain, ReadyQueue queue):
        """From now on mail to domain goes to queue, whatever the local part."""
        if len(self.by_domain) >= MOST_DOMAINS:
            self.by_domain.clear()
        self.by_domain[domain] = queue

    cdef int delivered(self, Delivery delivery, Reply *reply, bytes text) except -1:
        """Every recipient of delivery was accepted by the next hop."""
        cdef Message message = delivery.message
        cdef uint64_t *slots = self.counters.slots
        cdef double attempt_s = monotonic() - delivery.began
        cdef double age_s = unix_s() - message.received_us * 1e-6
        cdef uint16_t i, index
        for i in range(delivery.recipients):
            index = delivery.index(i)
            message.states[index] = RECIPIENT_DELIVERED
            self.events.attempt(b"delivery", message, delivery.buffer, index,
                                delivery.queue.next_hop, delivery.queue.site,
                                reply, text, attempt_s)
        slot_add(slots, Slot.DELIVERY_ATTEMPTS, 1)
        slot_add(slots, Slot.DELIVERY_DELIVERED_RECIPIENTS, delivery.recipients)
        slot_add(slots, Slot.DELIVERY_OCTETS, delivery.buffer.end - delivery.buffer.data_begin)
        slot_observe(slots, Slot.DELIVERY_LATENCY, <uint64_t>(age_s * 1e6) if age_s > 0 else 0)
        return self.close(delivery)

    def delivered_by_hand(self, Delivery delivery, int code, bytes text):
        """A next hop without SMTP took the message for all recipients."""
        cdef Reply reply
        reply.code = code
        reply.enhanced_class = 2
        reply.enhanced_subject = 0
        reply.enhanced_detail = 0
        self.delivered(delivery, &reply, text)

    def log_attempt(self, str event, Delivery delivery, int index, int code, enhanced, bytes text):
        """One line of the event log about one recipient of delivery."""
        cdef Reply reply
        cdef bytes name = event.encode("ascii")
        reply.code = code
        reply.enhanced_class = 0
        if enhanced is not None:
            reply.enhanced_class, reply.enhanced_subject, reply.enhanced_detail = enhanced
        self.events.attempt(PyBytes_AS_STRING(name), delivery.message, delivery.buffer, index, delivery.queue.next_hop,
                            delivery.queue.site, &reply, text, delivery.seconds())

    cdef int close(self, Delivery delivery) except -1:
        """A delivery is over and its recipients' states are set."""
        delivery.message.outstanding -= 1
        return self._round_over(delivery.message)

    def finish(self, Delivery delivery):
        """close for callers in Python."""
        self.close(delivery)

    cdef int remove(self, Message message) except -1:
        """Nothing is left to do for message."""
        cdef uint16_t i
        cdef bint delivered = True
        if message.state == MESSAGE_GONE:
            return 0
        for i in range(message.recipients):
            if message.states[i] != RECIPIENT_DELIVERED:
                delivered = False
                break
        self.timer.cancel(message)
        self.table.remove(message)
        if delivered:
            slot_add(self.counters.slots, Slot.DELIVERY_DELIVERED_MESSAGES, 1)
        message.buffer = None
        try:
            self.journal_of(message).append_done(message)
        except OSError:
            # a disk that fails must not stop what is in memory from going out; a crash before `tick` has caught up
            # makes doubt
            self.unrecorded.append(message)
        return 0

    cdef int _record_done(self) except -1:
        """Write into the journals what they could not take when it was over."""
        cdef Message message
        cdef list left = []
        for message in self.unrecorded:
            try:
                self.journal_of(message).append_done(message)
            except OSError:
                left.append(message)
        self.unrecorded = left
        return 0

    def drop(self, Message message):
        """remove for callers in Python."""
        self.remove(message)

    def tick(self, int most=1000, double most_s=0.005) -> int:
        """Messages whose time has come become ready, at most so many and for so long.

        Returns how many. Call it ten times a second.
        """
        cdef double now = unix_s()
        cdef double until = monotonic() + most_s
        cdef Message message
        cdef int count = 0
        if self.unrecorded:
            self._record_done()
        while count < most and self.ready < self.ready_limit and not self.stopped:
            message = self.timer.due(now)
            if message is None:
                break
            self.enqueue(message)
            count += 1
            if count % 16 == 0 and monotonic() > until:
                break
        return count

    def publish_gauges(self):
        """Write what is queued into the shared counters."""
        cdef uint64_t *slots = self.counters.slots
        slot_set(slots, Slot.QUEUE_MESSAGES, self.table.count)
        slot_set(slots, Slot.QUEUE_RECIPIENTS, self.table.recipients)
        slot_set(slots, Slot.QUEUE_OCTETS, self.table.octets)
        slot_set(slots, Slot.QUEUE_MEMORY_OCTETS, buffered_octets())
        slot_set(slots, Slot.DELIVERY_READY, self.ready)
        slot_set(slots, Slot.DELIVERY_SCHEDULED, self.timer.count)

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
        return (self._current if journal is None else journal).next_id()

    cdef const char *refusal(self) noexcept:
        if self._open() is not None:
            return NULL
        return R_STORAGE_FULL if self._current.full else R_STORAGE_FAILED

    cdef int accept(self, Message message, Receiver receiver) except -1:
        if message.durability == DURABILITY_MEMORY:
            if receiver is not None:
                receiver.committed(message, 0)
            return self.dispatcher.take(message)
        return self.dispatcher.journal_of(message).append_message(message, receiver)

    def submit(self, Message message, Receiver receiver=None):
        """accept for callers in Python (DSNs, tests); OSError when the journal takes nothing."""
        self.accept(message, receiver)

    def new_id(self) -> int:
        """A queue id for a message to be submitted."""
        return self.next_id()

    @property
    def accepting(self) -> bool:
        """Whether mail can be taken at the moment."""
        return self.refusal() == NULL
