# cython: autotestdict=False
"""What stood in the way of mail, and when: so that a message can say afterwards what it has waited for.

Job: whoever lets mail wait (a ready queue) says what for when that changes (`turn`), and that nothing waits any more
(`stop`). A message that goes is charged with the time that it has waited, by cause (`charge`): what it costs to know is
a look at the last turns, when it goes, and nothing while it waits.

Bounds: MOST_TURNS turns. When there are more, pairs of the older half become one each, which keeps the seconds of
every cause but not their order: what began or ended in the middle of such a one is charged with its part of each. So
all shares of a time always make up the whole of it, and what is old is told less exactly, never wrongly on the whole.

Fails: never, but for want of memory.
"""

from libc.math cimport INFINITY
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove, memset

cdef enum:
    FIRST_TURNS = 4
    MOST_TURNS = 32          # a power of two, at least 8

CAUSE_NAMES = (
    "held", "suspended", "quota", "release", "backoff", "dns", "connection", "concurrency", "room", "disk", "restart"
)


cdef class Timeline:
    def __cinit__(self):
        self.cause = CAUSE_NONE

    def __dealloc__(self):
        free(self._turns)

    def __len__(self):
        return self._count + (self.cause != CAUSE_NONE)

    cdef int turn(self, int cause, double now) except -1:
        """From now on (monotonic, not before the last turn) what waits waits for this."""
        cdef Turn *turns
        cdef uint32_t capacity
        if cause == self.cause:
            return 0
        if self.cause != CAUSE_NONE and now > self._since:
            if self._count == MOST_TURNS:
                self._condense()
            elif self._count == self._capacity:
                capacity = self._capacity * 2 if self._capacity else FIRST_TURNS
                turns = <Turn *>realloc(self._turns, capacity * sizeof(Turn))
                if turns == NULL:
                    raise MemoryError
                self._turns = turns
                self._capacity = capacity
            turns = self._turns + self._count
            memset(turns, 0, sizeof(Turn))
            turns.began = self._since
            turns.seconds[self.cause] = <float>(now - self._since)
            self._count += 1
            self._since = now
        elif self.cause == CAUSE_NONE:
            self._since = now
        self.cause = cause
        return 0

    cdef void _condense(self) noexcept:
        cdef uint32_t i
        cdef int cause
        cdef Turn *first
        for i in range(MOST_TURNS // 4):
            first = self._turns + 2 * i
            for cause in range(CAUSES):
                first.seconds[cause] += (first + 1).seconds[cause]
            self._turns[i] = first[0]
        memmove(self._turns + MOST_TURNS // 4, self._turns + MOST_TURNS // 2, MOST_TURNS // 2 * sizeof(Turn))
        self._count = MOST_TURNS // 4 * 3

    cdef void stop(self) noexcept:
        """Nothing waits any more: what was is forgotten."""
        self.cause = CAUSE_NONE
        self._count = 0
        if self._capacity:
            free(self._turns)
            self._turns = NULL
            self._capacity = 0

    cdef double begins(self) noexcept:
        if self.cause == CAUSE_NONE:
            return INFINITY
        return self._turns[0].began if self._count else self._since

    cdef void charge(self, double begin, double end, Waits *waits) noexcept:
        """Add what stood in the way between two moments, from `begins` on; what is after the last turn is its too."""
        cdef double until = self._since
        cdef double low, high, share
        cdef uint32_t i = self._count
        cdef int cause
        cdef Turn *turn
        if self.cause == CAUSE_NONE:
            return
        add_wait(waits, self.cause, end - max(begin, until))
        while i > 0 and until > begin:
            i -= 1
            turn = self._turns + i
            low = max(begin, turn.began)
            high = min(end, until)
            if high > low:
                share = (high - low) / (until - turn.began)
                for cause in range(CAUSES):
                    add_wait(waits, cause, share * turn.seconds[cause])
            until = turn.began

    # ------------------------------------------------------------------ for callers in Python

    def note(self, int cause, double now):
        """turn for callers in Python; CAUSE_NONE: stop."""
        if cause == CAUSE_NONE:
            self.stop()
        elif 0 <= cause < CAUSES:
            self.turn(cause, now)
        else:
            raise ValueError(f"there is no cause {cause}")

    def between(self, double begin, double end) -> dict[str, float]:
        """Seconds by cause of the time from begin (or where the memory begins) to end, both monotonic."""
        cdef Waits waits
        memset(&waits, 0, sizeof(Waits))
        self.charge(max(begin, self.begins()), end, &waits)
        return seconds_by_cause(&waits)


cdef dict seconds_by_cause(Waits *waits):
    cdef int cause
    return {CAUSE_NAMES[cause]: waits.seconds[cause] for cause in range(CAUSES) if waits.seconds[cause] > 0}
