"""What stood in the way of mail, and when: a bounded memory of turns."""

from libc.stdint cimport uint32_t


cdef enum Cause:
    CAUSE_NONE = -1          # nothing waits
    CAUSE_HELD = 0           # the order, up to CAUSE_DISK, is that of Slot.QUEUE_WAITED_HELD and what follows it
    CAUSE_SUSPENDED = 1
    CAUSE_QUOTA = 2
    CAUSE_RELEASE = 3
    CAUSE_BACKOFF = 4
    CAUSE_DNS = 5
    CAUSE_CONNECTION = 6
    CAUSE_CONCURRENCY = 7
    CAUSE_ROOM = 8
    CAUSE_DISK = 9
    CAUSE_RESTART = 10       # before this process began
    CAUSES = 11


cdef struct Waits:
    double since             # monotonic: what was waited until then is counted in seconds; 0: nothing waits
    double total             # of seconds
    double seconds[11]       # by Cause


cdef inline void add_wait(Waits *waits, int cause, double seconds) noexcept nogil:
    if seconds > 0:
        waits.seconds[cause] += seconds
        waits.total += seconds


cdef struct Turn:
    double began             # it ends where the next one begins
    float seconds[11]        # by Cause: of several turns, once there are too many


cdef class Timeline:
    cdef readonly int cause                  # at the moment
    cdef double _since                       # monotonic: it has been that since then
    cdef Turn *_turns                        # what was before, the oldest first
    cdef uint32_t _count
    cdef uint32_t _capacity

    cdef int turn(self, int cause, double now) except -1
    cdef void _condense(self) noexcept
    cdef void stop(self) noexcept
    cdef double begins(self) noexcept        # monotonic; infinity: nothing waits
    cdef void charge(self, double begin, double end, Waits *waits) noexcept


cdef dict seconds_by_cause(Waits *waits)
