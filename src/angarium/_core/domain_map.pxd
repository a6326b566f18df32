"""Which ready queue the mail to a domain takes: a compact table, looked up once a message."""

from libc.stdint cimport uint8_t, uint32_t


cdef struct DomainEntry:
    uint32_t hash
    uint32_t text                            # where the name stands in the arena, 0: the entry is free
    uint32_t target                          # index in DomainMap._targets, and the tag in the highest octet


cdef class DomainMap:
    """Values by domain: 12 octets an entry at most two thirds full, and the name's own."""
    cdef DomainEntry *_entries
    cdef size_t _capacity                    # a power of two
    cdef readonly uint32_t count
    cdef char *_arena                        # names, each behind its length in one octet
    cdef size_t _arena_used, _arena_capacity
    cdef readonly uint8_t tag                # of what `find` found last
    cdef list _targets
    cdef dict _indices                       # id of a target -> its index

    cdef object find(self, const char *domain, size_t n)
    cdef int put(self, const char *domain, size_t n, object target, uint8_t tag=*) except -1
    cdef size_t _place(self, const char *domain, size_t n, uint32_t hash) noexcept
    cdef size_t targets(self)
    cdef int _grow(self) except -1
