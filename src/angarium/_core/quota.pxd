"""How much each sender has sent, in one table of the whole node."""

from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef extern from *:
    """
    #include <stdint.h>
    enum {
        QUOTA_STEP_S = 600,          /* one count */
        QUOTA_HOUR = 6,              /* steps */
        QUOTA_DAY = 144,
        QUOTA_AHEAD = 334,           /* steps that mail may be put off by: 55 hours */
        QUOTA_STEPS = 480,           /* a day that is over, this step, and what is ahead; and one to spare */
        QUOTA_RECENT = 8             /* steps of what came in: an hour that is over, this step, and one to spare */
    };
    typedef struct {
        uint64_t key[2];             /* 0, 0: free */
        uint32_t used_s;             /* unix time of its last use */
        uint32_t step;               /* unix time / QUOTA_STEP_S, of the newest use */
        uint32_t last;               /* the last step that something is put off to */
        uint32_t hour;               /* unix time / 3600, of hour_count */
        uint32_t hour_count;         /* recipients that came in then */
        uint32_t usual;              /* mean of the hours in which it sent, in sixteenths of a recipient */
        uint32_t usual_hours;        /* how many hours that is the mean of */
        uint32_t suspect;            /* 1: it sent unusually much, and has not been released */
        uint32_t excused;            /* recipients of the last hour that do not count as unusual … */
        uint32_t excused_step;       /* … because it was released in this step */
        uint32_t recent[QUOTA_RECENT];
        uint32_t steps[QUOTA_STEPS]; /* recipients that go, by step modulo QUOTA_STEPS */
        uint32_t unused[10];
    } QuotaEntry;
    """
    enum:
        QUOTA_STEP_S
        QUOTA_HOUR
        QUOTA_DAY
        QUOTA_AHEAD
        QUOTA_STEPS
        QUOTA_RECENT
    ctypedef struct QuotaEntry:
        uint64_t key[2]
        uint32_t used_s
        uint32_t step
        uint32_t last
        uint32_t hour
        uint32_t hour_count
        uint32_t usual
        uint32_t usual_hours
        uint32_t suspect
        uint32_t excused
        uint32_t excused_step
        uint32_t recent[8]
        uint32_t steps[480]


cpdef enum QuotaVerdict:
    QUOTA_OK
    QUOTA_LATER              # it goes in a later step
    QUOTA_HOUR_REACHED
    QUOTA_DAY_REACHED


cdef class QuotaTable:
    """The file that all workers of a node have mapped."""
    cdef readonly int fd
    cdef readonly object path
    cdef readonly uint32_t capacity
    cdef char *memory
    cdef size_t octets

    cdef readonly uint64_t shared            # times that a sender found no place of its own

    cdef QuotaEntry *at(self, uint32_t index) noexcept
    cdef int lock(self, bint taken) except -1
    # The index of the entry of a key; -1: it has none, and none was claimed.
    # Under the lock.
    cdef int64_t place(self, uint64_t first, uint64_t second, uint64_t now_s, bint claim) noexcept
    cdef int64_t _find(self, uint64_t first, uint64_t second) noexcept
    cdef int _map(self) except -1


cdef class Quota:
    """What one sender may send, and what is unusual for it."""
    cdef readonly QuotaTable table
    cdef uint64_t key[2]
    cdef readonly uint32_t per_hour          # recipients; 0: no limit
    cdef readonly uint32_t per_day
    cdef readonly bint queues                # what is beyond a limit goes later
    cdef readonly uint32_t unusual_above     # recipients an hour; 0: no limit of that kind
    cdef readonly double unusual_times       # … its usual hour; 0: likewise
    cdef int64_t _index                      # where its entry was last
    # of the last `take`
    cdef readonly uint32_t step              # that it was counted in
    cdef readonly uint32_t arrived           # recipients that came in within the last hour
    cdef readonly uint64_t hour_used         # recipients of the hour that it is counted in, its own included
    cdef readonly uint64_t day_used          # and of the day; 0 where there is no limit
    cdef readonly bint unusual               # the message is to be held …
    cdef readonly bint tripped               # … and is the first

    cdef QuotaEntry *entry(self, uint64_t now_s, bint claim) except? NULL      # under the lock
    # What may be said to n more recipients at this moment. Counts nothing.
    cdef int look(self, uint32_t n, uint64_t now_s) except -1
    # Counts a message for n recipients. QUOTA_LATER: it goes at step * QUOTA_STEP_S (unix time).
    cdef int take(self, uint32_t n, uint64_t now_s) except -1
    # The message that was counted in that step was not taken after all.
    cdef int give_back(self, uint32_t step, uint32_t n, uint64_t now_s) except -1
    cdef int _limit(self, QuotaEntry *entry, uint32_t step, uint32_t n) noexcept
    cdef int _note_arrival(self, QuotaEntry *entry, uint32_t n) except -1
