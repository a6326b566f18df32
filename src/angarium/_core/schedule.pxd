"""The queue in memory: all messages by id, and scheduled queues for those that wait."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from angarium._core.record cimport Message
from angarium._core.source_pool cimport SourcePool, SourcePools


cdef enum:
    LANES = 6                # of one next hop; a lower one goes first


cdef enum QueuePlace:
    PLACE_NOWHERE = 0        # nothing in it waits, or it is suspended
    PLACE_TIMER = 1          # waits for its time
    PLACE_READY = 2          # what is due in it waits for room in a ready queue
    PLACE_AWAKE = 3          # its time has come, and where it goes is being found


cdef class ScheduledQueue:
    """What waits for one (tenant, lane, outlet, domain): a heap by time, fresh mail first. About 112 octets.

    It has no methods in C, which would cost a pointer each.
    """
    cdef void **items                        # borrowed: what waits is in the table
    cdef readonly uint32_t used              # how many wait
    cdef uint32_t capacity
    cdef readonly uint32_t members           # messages that belong to it, waiting or not
    cdef readonly uint32_t number
    cdef uint32_t hash
    cdef uint32_t timer_index
    cdef uint16_t tenant                     # index of Schedule.tenants
    cdef readonly uint16_t outlet            # of a source pool; 0: none
    cdef uint8_t domain_length
    cdef readonly uint8_t lane
    cdef readonly uint8_t failures           # look-ups or connections that failed in a row
    cdef readonly uint8_t policy             # which retry schedule: what Schedule.policy_of said
    cdef uint8_t place                       # QueuePlace
    cdef readonly uint8_t provider           # row of its metrics, 0: what the next hop's is
    cdef uint8_t _suspended
    cdef readonly uint8_t nameless           # not_before is for want of the next hop's names
    cdef char *domain_text
    cdef readonly double not_before          # unix seconds; its next hop is left alone until then
    cdef double time                         # when it is due, while it is in the timer
    cdef readonly object reason              # bytes, why not_before; None: no reason


cdef class Schedule:
    """All scheduled queues of a worker, by key and by time."""
    cdef readonly list queues                # by number; None where there is none
    cdef object _free_numbers
    cdef uint32_t *_slots                    # numbers by hash: open addressing, at most two thirds full
    cdef size_t _capacity                    # a power of two
    cdef size_t _taken
    cdef void **_timer
    cdef size_t _timer_count, _timer_capacity
    cdef readonly uint64_t count             # messages that wait
    cdef readonly list tenants
    cdef dict _tenant_numbers
    cdef readonly SourcePools pools
    cdef readonly dict suspensions           # (kind, name) -> (until in unix seconds, reason)
    cdef dict _suspended_at                  # (kind, name) -> unix seconds
    cdef readonly list pauses                # suspensions that are over, at most 64: (kind, name, since, until)
    cdef double taken_due                    # unix seconds: since when what `take` gave could have gone; 0: not known
    cdef public object fold_domain           # (bytes) -> bytes: U-labels to A-labels; None: as they are
    cdef public object policy_of             # (domain) -> number of its retry schedule; None: 0
    cdef public object provider_of           # (domain) -> row of its provider; None: 0

    cdef ScheduledQueue join(self, Message message, const char *record)
    cdef ScheduledQueue queue_of(self, Message message)
    cdef int add(self, Message message, double at, bint fresh) except -1
    cdef int cancel(self, Message message) except -1
    cdef int change_outlet(self, Message message, uint16_t outlet) except -1
    cdef uint32_t spread(self, ScheduledQueue queue, SourcePool pool, double now, uint32_t most) except? 0xFFFFFFFF
    cdef int leave(self, Message message) except -1
    cdef ScheduledQueue due(self, double now)
    cdef Message take(self, ScheduledQueue queue, double now)
    cdef int take_out(self, ScheduledQueue queue) except -1
    cdef int rest(self, ScheduledQueue queue) except -1
    cdef int block(self, ScheduledQueue queue, double until, object reason, int failures) except -1
    cdef ScheduledQueue _find(self, const char *domain, size_t n, uint16_t tenant, uint8_t lane, uint16_t outlet)
    cdef ScheduledQueue _make(self, const char *domain, size_t n, uint16_t tenant, uint8_t lane, uint16_t outlet,
                              uint32_t hash)
    cdef uint16_t _tenant_number(self, const char *name, size_t n) except? 0xFFFF
    cdef int _grow(self) except -1
    cdef int _forget(self, ScheduledQueue queue) except -1
    cdef bint _is_suspended(self, ScheduledQueue queue) except -1
    cdef list pauses_of(self, ScheduledQueue queue, bytes site, bytes source)
    cdef int _timer_put(self, ScheduledQueue queue, double time) except -1
    cdef void _timer_remove(self, ScheduledQueue queue) noexcept
    cdef void _timer_set(self, size_t i, void *queue) noexcept
    cdef void _timer_up(self, size_t i) noexcept
    cdef void _timer_down(self, size_t i) noexcept


cdef class MessageTable:
    """Messages by id: open addressing with linear probing, 8 octets a slot, at most two thirds full."""
    cdef readonly Schedule schedule          # of those that wait
    cdef void **_slots
    cdef size_t _capacity                    # a power of two
    cdef void **_next_slots                  # a table of twice the size that is being filled; NULL: none is
    cdef size_t _moved                       # slots that it has been given
    cdef readonly size_t count
    cdef readonly uint64_t recipients
    cdef readonly uint64_t octets            # of their records

    cdef int add(self, Message message) except -1
    cdef Message find(self, uint64_t id)
    cdef bint remove(self, Message message) except -1
    cdef int _begin_growing(self) except -1
    cdef void _put_next(self, void *message) noexcept
    cdef void _move_on(self, size_t slots) noexcept
    cdef void _close_gap(self, size_t hole) noexcept


cdef uint8_t lane_of(int priority, uint8_t flags) noexcept nogil
