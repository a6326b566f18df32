"""The largest of very many names, in memory for a few."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from angarium._core.counters cimport Counters


cdef struct TopCounter:
    uint64_t count
    uint64_t error                           # count is too large by this at most
    uint32_t hash
    uint16_t heap_index
    uint8_t length
    char name[255]


cdef class TopK:
    """A space-saving sketch: counts of names, the smallest replaced when there is no room."""
    cdef TopCounter *_counters
    cdef uint16_t *_heap                     # indices of counters, the smallest count first
    cdef uint16_t *_table                    # index + 1 by hash: open addressing, at most half full
    cdef uint32_t _mask
    cdef readonly uint32_t capacity
    cdef readonly uint32_t used

    cdef int count(self, const char *name, size_t n, uint64_t weight) except -1
    cdef uint32_t _place(self, const char *name, size_t n, uint32_t hash) noexcept nogil
    cdef void _unindex(self, uint16_t counter) noexcept nogil
    cdef void _sift_down(self, uint32_t i) noexcept nogil
    cdef void _sift_up(self, uint32_t i) noexcept nogil
    cdef list _sorted(self)
