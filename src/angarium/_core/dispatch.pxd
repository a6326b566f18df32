"""From the queue to a connection and back: ready queues, deliveries, and the intake that feeds them."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from angarium._core.counters cimport Counters
from angarium._core.domain_map cimport DomainMap
from angarium._core.event_log cimport EventLog
from angarium._core.intake cimport Intake
from angarium._core.journal cimport Journal, Receiver, Taker
from angarium._core.record cimport MailBuffer, Message
from angarium._core.reply cimport Reply
from angarium._core.schedule cimport LANES, MessageTable, Schedule, ScheduledQueue
from angarium._core.survey cimport Survey
from angarium._core.timeline cimport Timeline, Waits


cdef class Carrier:
    """What can carry a delivery to a next hop: a connection."""
    cdef int carry(self, Delivery delivery) except -1


cdef class Delivery:
    """One message on its way to one next hop: an attempt for some of its recipients."""
    cdef readonly Message message
    cdef readonly ReadyQueue queue
    cdef MailBuffer buffer
    cdef uint16_t *_indices                  # recipients of this delivery; NULL: all of the message's
    cdef readonly uint16_t recipients
    cdef readonly uint16_t tenant            # row of its metrics, and so the next
    cdef readonly uint8_t provider
    cdef readonly uint16_t pool              # that of its source pool, where the message itself names none
    cdef readonly double began               # monotonic; when a connection took it
    cdef Waits waits                         # before that
    cdef readonly int transfers              # connections that took it so far
    cdef public bytes host                   # the connection that took it last: name[address]:port
    cdef public bytes tls                    # what that connection has, as JSON; None: plaintext
    cdef public bint dsn_passed_on           # that host offers DSN: telling the sender of success is its matter
    cdef public object results               # None, or [(recipient index, code, enhanced or None, text, phase)]
    cdef Delivery _next                      # in its ready queue

    cdef uint16_t index(self, uint16_t i) noexcept
    cdef bint asks_for_success(self) noexcept
    cdef int set_recipients(self, list indices) except -1


cdef class Share:
    """The scheduled queues of one tenant and lane that wait for room in a ready queue, in turn."""
    cdef uint16_t tenant
    cdef int64_t deficit                     # octets that may go before it is the next one's turn
    cdef int64_t weight
    cdef object ring                         # deque of ScheduledQueue


cdef class Waited:
    """What a message has waited, while no delivery of it can say so."""
    cdef Waits waits
    cdef double until                        # monotonic: until then it waits for `cause`; 0: for what its queue says
    cdef int cause


cdef class ReadyQueue:
    """What may go to one next hop now, the connections that are open to it, and their limits."""
    cdef readonly bytes next_hop             # as in the configuration
    cdef readonly bytes site
    cdef readonly bytes source               # by name; "default": the system chooses the address
    cdef readonly uint16_t source_row        # of the source's metrics
    cdef readonly object target              # whatever the opener of connections needs to know
    cdef readonly Dispatcher dispatcher
    cdef readonly uint32_t backlog           # deliveries that wait here
    cdef readonly uint32_t loading           # messages whose mail data is being read from disk for this queue
    cdef readonly uint32_t attached          # scheduled queues that wait for room here
    cdef readonly list idle                  # carriers without work
    cdef public int open
    cdef public int connecting
    cdef public int limit                    # of connections
    cdef public object connect               # (queue) -> None: begin to open one more connection
    cdef public object hand_over             # (delivery) -> None: a next hop without connections; then no limit applies
    cdef public int failures                 # connections that failed in a row
    cdef public uint8_t provider             # row of the metrics of what goes this way, unless its domain has another
    cdef public double blocked_until         # monotonic; no new connection is opened before
    cdef public double suspended_until       # monotonic; nothing goes before
    cdef public object reason                # bytes, why it is left alone; None: no reason
    cdef public uint64_t largest_octets      # of mail data that goes this way; 0: no limit
    cdef public double expires               # monotonic; after that the names behind it must be looked up again
    cdef readonly uint64_t sent
    cdef list _first                         # by lane: the first delivery, or None
    cdef list _last
    cdef uint8_t _lanes                      # bit by lane: something waits in it
    cdef list _shares                        # by lane: deque of Share, or None
    cdef uint8_t _attached_lanes             # bit by lane: scheduled queues wait
    cdef bint _refilling
    cdef bint _busy                          # it is in Dispatcher.busy
    cdef readonly Timeline timeline          # of what stands in the way of what waits here
    cdef readonly bint retired               # no more mail goes this way
    cdef public object trouble               # None, or: a host is in trouble; whether another may take the delivery

    cdef int push(self, Delivery delivery, bint in_front) except -1
    cdef Delivery pop(self)
    cdef Delivery _unlink(self)
    cdef Delivery first(self)                # what pop would return
    cdef int pump(self) except -1
    cdef int refill(self) except -1
    cdef int attach(self, ScheduledQueue queue) except -1
    cdef int _take_in(self, double now) except -1
    cdef int _is_busy(self) except -1
    cdef uint32_t _window(self) noexcept
    cdef int _detach_all(self, double until, object reason, int failures) except -1
    cdef bint _closed(self) noexcept
    cdef bint is_too_large(self, Message message) noexcept
    cdef int _cause(self) noexcept
    cdef int note_cause(self) except -1
    cdef int _charge(self, Delivery delivery) except -1
    cdef Delivery _find(self, Message message)


cdef class Dispatcher(Taker):
    """Takes messages that are ours, finds their ready queue, and settles what became of them."""
    cdef readonly MessageTable table
    cdef readonly Schedule schedule
    cdef readonly Counters counters
    cdef readonly EventLog events
    cdef readonly dict journals              # shard -> Journal
    # lower-case domain (key_of) -> ReadyQueue, where no local part matters; or SourcePool: mail of this outlet is to go
    # by one of that pool's instead
    cdef readonly DomainMap by_domain
    cdef readonly dict weights               # tenant -> its share where tenants compete, 1 where there is none
    cdef public object place                 # (message) -> None: finds the way of what by_domain does not know
    cdef public object load                  # (message, ready queue or None): gets the mail data, then calls `loaded`
    cdef public object settle                # (delivery) -> None: records results that are not all "delivered"
    cdef public object reconsider            # (message) -> None: all deliveries are over, recipients are left
    cdef public object partial               # (message) -> None: some recipients are done, others are under way
    cdef public object keep_reply            # (delivery, code, text) -> None: delivered, and others may be left
    cdef readonly uint32_t ready             # deliveries in ready queues
    cdef readonly uint32_t loading           # messages whose mail data is being read
    cdef readonly list busy                  # ready queues in which something waits
    cdef public uint64_t memory_load_octets  # over so many in memory, nothing is read from disk
    cdef double _postponed_until             # what `place` met: a next hop that is left alone until then, and why
    cdef object _postponed_reason
    cdef int _postponed_failures
    cdef public uint32_t ready_limit
    cdef public uint32_t queue_limit         # of one next hop
    cdef public uint64_t memory_soft_octets
    cdef public bint stopped                 # nothing new is dispatched
    cdef readonly list unrecorded            # [(message, DropReason)]: done while their journal takes no records
    cdef list _expire_s                      # by number of the retry schedule
    cdef list _warn_s
    cdef size_t _swept                       # where the sweep is
    cdef readonly Survey survey              # of what is queued, made on the way of the sweep
    cdef double _grown                       # monotonic, of the last `grow`
    cdef double _began                       # monotonic: what was before is not known
    cdef double _unix_offset                 # unix less monotonic seconds
    cdef Waits _carried                      # of the message that is being launched
    cdef uint64_t _carrying                  # its id; 0: none is
    cdef dict _kept_waits                    # id -> Waited: its data is being read, or nothing was tried for it
    # domain -> [[since, until or 0], ...], monotonic, the last first: it had no names
    cdef dict _nameless

    cdef bint is_full(self) noexcept
    cdef int enqueue(self, Message message) except -1
    cdef int _route(self, Message message) except -1
    cdef int _follow_pool(self, Message message) except -1
    cdef object _way_of(self, ScheduledQueue queue)
    cdef ReadyQueue _ready_of(self, ScheduledQueue queue)
    cdef int _leave_alone(self, ScheduledQueue queue, ReadyQueue ready) except -1
    cdef int _keep(self, Message message, double at, bint fresh) except -1
    cdef ScheduledQueue _join(self, Message message)
    cdef int launch(self, Message message, ReadyQueue ready) except -1
    cdef int admit(self, Message message, ReadyQueue ready) except -1
    cdef int postpone(self, Delivery delivery, double until, object reason, int failures) except -1
    cdef int _put_off(self, Message message, double until, object reason, int failures, Delivery delivery) except -1
    cdef int _keep_waits(self, Message message, Delivery delivery, double until, int cause) except -1
    cdef int _note_departure(self, Message message, ReadyQueue ready) except -1
    cdef int _charge(self, Waits *waits, ReadyQueue ready, ScheduledQueue queue, double begin, double end) except -1
    cdef int _charge_by(self, Waits *waits, ReadyQueue ready, ScheduledQueue queue, double begin,
                        double end) except -1
    cdef int _note_names(self, bytes domain) except -1
    cdef void _compare_clocks(self) noexcept
    cdef Delivery _waiting(self, Message message)
    cdef int _wake(self, ScheduledQueue queue, double now) except -1
    cdef int dispatch(self, Message message, ReadyQueue queue, Delivery delivery) except -1
    cdef Delivery split(self, Delivery delivery, list apart)
    cdef int delivered(self, Delivery delivery, Reply *reply, bytes text) except -1
    cdef int close(self, Delivery delivery) except -1
    cdef int _cause(self, Message message, ScheduledQueue queue, double now) except -1
    cdef int _count(self, Message message, double now) except -1
    cdef uint16_t _tenant_row(self, Message message, ScheduledQueue queue) except? 0xFFFF
    cdef uint16_t _pool_row(self, Delivery delivery) except? 0xFFFF
    cdef bytes _pool_of(self, Delivery delivery)
    cdef int _round_over(self, Message message) except -1
    cdef int remove(self, Message message, int reason=*) except -1
    cdef int _record_done(self) except -1
    cdef Journal journal_of(self, Message message)


cdef class JournalIntake(Intake):
    cdef readonly list journals              # in order of preference
    cdef readonly Dispatcher dispatcher
    cdef Journal _current

    cdef Journal _open(self)
