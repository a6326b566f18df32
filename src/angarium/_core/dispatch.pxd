"""From the queue to a connection and back: ready queues, deliveries, and the intake that feeds them."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from angarium._core.counters cimport Counters
from angarium._core.event_log cimport EventLog
from angarium._core.journal cimport Journal, Receiver, Taker
from angarium._core.record cimport MailBuffer, Message
from angarium._core.reply cimport Reply
from angarium._core.schedule cimport MessageTable, Timer
from angarium._core.server_session cimport Intake


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
    cdef readonly double began               # monotonic; when a connection took it
    cdef readonly int transfers              # connections that took it so far
    cdef public bytes host                   # the connection that took it last: name[address]:port
    cdef public object results               # None, or [(recipient index, code, enhanced or None, text, phase)]
    cdef Delivery _next

    cdef uint16_t index(self, uint16_t i) noexcept
    cdef int set_recipients(self, list indices) except -1


cdef class ReadyQueue:
    """What may go to one next hop now, the connections that are open to it, and their limits."""
    cdef readonly bytes next_hop             # as in the configuration
    cdef readonly bytes site
    cdef readonly object target              # whatever the opener of connections needs to know
    cdef readonly Dispatcher dispatcher
    cdef readonly uint32_t backlog
    cdef readonly list idle                  # carriers without work
    cdef public int open
    cdef public int connecting
    cdef public int limit                    # of connections
    cdef public object connect               # (queue) -> None: begin to open one more connection
    cdef public object hand_over             # (delivery) -> None: a next hop without connections; then no limit applies
    cdef public double blocked_until         # monotonic; no new connection is opened before
    cdef public double expires               # monotonic; after that the names behind it must be looked up again
    cdef readonly uint64_t sent
    cdef Delivery _first
    cdef Delivery _last

    cdef int push(self, Delivery delivery, bint in_front) except -1
    cdef Delivery pop(self)
    cdef Delivery first(self)                # what pop would return
    cdef int pump(self) except -1


cdef class Dispatcher(Taker):
    """Takes messages that are ours, finds their ready queue, and settles what became of them."""
    cdef readonly MessageTable table
    cdef readonly Timer timer
    cdef readonly Counters counters
    cdef readonly EventLog events
    cdef readonly dict journals              # shard -> Journal
    cdef readonly dict by_domain             # lower-case domain -> ReadyQueue, where no local part matters
    cdef public object place                 # (message) -> None: finds the way of what by_domain does not know
    cdef public object load                  # (message) -> None: gets the mail data from disk, then calls enqueue
    cdef public object settle                # (delivery) -> None: records results that are not all "delivered"
    cdef public object reconsider            # (message) -> None: all deliveries are over, recipients are left
    cdef public object partial               # (message) -> None: some recipients are done, others are under way
    cdef readonly uint32_t ready             # deliveries in ready queues
    cdef public uint32_t ready_limit
    cdef public uint32_t queue_limit         # of one next hop
    cdef public uint64_t memory_soft_octets
    cdef public bint stopped                 # nothing new is dispatched
    cdef readonly list unrecorded            # messages that are done while their journal takes no records

    cdef int enqueue(self, Message message) except -1
    cdef int dispatch(self, Message message, ReadyQueue queue, Delivery delivery) except -1
    cdef Delivery split(self, Delivery delivery, list apart)
    cdef int delivered(self, Delivery delivery, Reply *reply, bytes text) except -1
    cdef int close(self, Delivery delivery) except -1
    cdef int _round_over(self, Message message) except -1
    cdef int remove(self, Message message) except -1
    cdef int _record_done(self) except -1
    cdef Journal journal_of(self, Message message)


cdef class JournalIntake(Intake):
    cdef readonly list journals              # in order of preference
    cdef readonly Dispatcher dispatcher
    cdef Journal _current

    cdef Journal _open(self)
