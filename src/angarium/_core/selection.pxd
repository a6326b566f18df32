"""Which messages an operator means, and how many there are of each kind."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from angarium._core.disk cimport angarium_disk
from angarium._core.record cimport Message
from angarium._core.schedule cimport MessageTable


cdef struct Candidate:
    uint64_t id
    void *message            # an owned reference


cdef struct Conditions:
    # What an envelope must say; lower case where case does not matter. NULL: it does not matter.
    const char *domain       # in A-labels where it has U-labels
    const char *other_domain  # its U-labels, or NULL
    size_t other_length
    const char *reverse_path
    const char *tenant
    const char *log_in
    size_t domain_length
    size_t reverse_path_length
    size_t tenant_length
    size_t log_in_length
    bint any_local_part      # reverse_path is "@domain"


cdef struct Look:
    # One candidate whose envelope must be read: all that the reading thread needs.
    void *message            # owned references
    void *segment
    const uint8_t *states
    uint64_t serial
    uint64_t offset
    uint64_t id
    uint32_t record_octets
    uint16_t recipients
    int fd
    const angarium_disk *disk    # of the segment
    int verdict


cdef class Census:
    """Messages by state, counted in slices."""
    cdef MessageTable _table
    cdef size_t _position
    cdef size_t _capacity
    cdef double _now
    cdef uint64_t[5] _counts
    cdef uint64_t _oldest_us


cdef class Selection:
    """The messages of a table that meet some conditions."""
    cdef MessageTable _table
    cdef Conditions _conditions
    cdef tuple _kept                         # what the conditions point into
    cdef bint _unsure                        # an envelope must be seen before a message is known to match
    cdef uint32_t _from_hash
    cdef int _state                          # index into STATES, -1: any
    cdef uint64_t _before_us
    cdef uint64_t _after
    cdef double _now
    cdef size_t _most                        # candidates kept, the oldest; 0: all
    cdef Candidate *_found                   # a heap with the youngest first while most is set, then in order of id
    cdef size_t _room
    cdef size_t _next                        # candidates before it have been handed to a batch
    cdef size_t _start                       # an empty slot, where the walk begins
    cdef size_t _position                    # slots behind it that have been looked at
    cdef size_t _capacity                    # of the table when the walk began
    cdef Look *_looks
    cdef size_t _look_count
    cdef size_t _look_room
    cdef list _batch                         # messages of the batch that are known to match
    cdef readonly size_t count               # candidates
    cdef readonly bint walked                # the table has been walked to its end
    cdef readonly bint cut                   # there were more candidates than are kept
    cdef readonly size_t unreadable          # candidates whose envelope could not be read

    cdef int _by_queue(self, Message message) noexcept
    cdef int _maybe(self, Message message) noexcept
    cdef int _keep(self, Message message) except -1
    cdef void _sift_down(self, size_t i) noexcept nogil
    cdef int _consider(self, Message message) except -1
    cdef int _look_later(self, Message message) except -1
    cdef void _forget(self) noexcept
    cdef void _drop_looks(self) noexcept
