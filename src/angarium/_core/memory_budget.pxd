"""How much memory the mail data of the whole node takes, and what that means for whoever hands in more."""

from libc.stdint cimport uint64_t

from angarium._core.counters cimport Counters


cpdef enum MemoryState:          # by the highest mark that was passed and not yet left again
    MEMORY_BELOW = 0
    MEMORY_SOFT = 1              # mail data of what waits is dropped from memory
    MEMORY_HARD = 2              # intake is slowed
    MEMORY_REFUSING = 3          # no new mail is taken


cdef class MemoryBudget:
    cdef readonly Counters counters
    cdef uint64_t _marks[4]              # in octets, by the state that begins there; that of MEMORY_BELOW is 0
    cdef readonly double soft            # shares of the budget
    cdef readonly double hard
    cdef readonly int state              # MemoryState
    cdef readonly uint64_t elsewhere_octets      # what the other processes of the node held when `refresh` was called

    cdef uint64_t _left_of(self, uint64_t mark) noexcept
    cdef uint64_t total(self) noexcept
    cdef uint64_t _leave_at(self, int state) noexcept
    cdef int _publish(self) noexcept
    cdef int _enter(self, int state) noexcept
    cdef int _rise(self, uint64_t total) noexcept
    cdef bint full(self) noexcept
    cdef bint refuses(self) noexcept
    cdef double pause_s(self) noexcept
