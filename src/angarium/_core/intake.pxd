"""Where accepted mail goes."""

from libc.stdint cimport uint64_t

from angarium._core.journal cimport Receiver
from angarium._core.record cimport Message


cdef class Intake:
    """Takes responsibility for a message and tells the session when it is safe."""
    cdef uint64_t next_id(self) except 0
    cdef int accept(self, Message message, Receiver receiver) except -1
    cdef const char *refusal(self) noexcept      # NULL, or the whole 4xx reply while no mail can be taken
