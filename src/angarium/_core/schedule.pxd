"""The queue in memory: all messages by id, and a timer for those that wait."""

from libc.stdint cimport uint64_t

from angarium._core.record cimport Message


cdef class MessageTable:
    """Messages by id: open addressing with linear probing, 8 octets a slot, at most two thirds full."""
    cdef void **_slots
    cdef size_t _capacity                    # a power of two
    cdef readonly size_t count
    cdef readonly uint64_t recipients
    cdef readonly uint64_t octets            # of their records

    cdef int add(self, Message message) except -1
    cdef Message find(self, uint64_t id)
    cdef bint remove(self, Message message) except -1
    cdef int _grow(self) except -1
    cdef size_t _home(self, uint64_t id) noexcept


cdef class Timer:
    """A binary heap of messages by next_attempt."""
    cdef void **_heap
    cdef size_t _capacity
    cdef readonly size_t count

    cdef int schedule(self, Message message, double at) except -1
    cdef int cancel(self, Message message) except -1
    cdef Message due(self, double now)       # the next message whose time has come, or None
    cdef void _up(self, size_t i) noexcept
    cdef void _down(self, size_t i) noexcept
    cdef void _put(self, size_t i, void *message) noexcept
