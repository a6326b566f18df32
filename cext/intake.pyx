"""Where accepted mail goes: what a session knows of it.

Job: `Intake` takes responsibility for a message, and tells the Receiver that came with it when the message is safe.
JournalIntake (dispatch.pyx) is the real one; `CallbackIntake` calls Python, for the sandbox's sink and for tests.

Fails: `accept` raises OSError when a message cannot be kept; `refusal` says beforehand that none can be.
"""

from libc.stdint cimport uint64_t
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from angarium._core.journal cimport Receiver
from angarium._core.record cimport Message


cdef class Intake:
    cdef uint64_t next_id(self) except 0:
        raise NotImplementedError

    cdef int accept(self, Message message, Receiver receiver) except -1:
        raise NotImplementedError

    cdef const char *refusal(self) noexcept:
        return NULL


cdef class CallbackIntake(Intake):
    """An intake that calls Python: deliver(message, done) must call done(errno) once, now or later."""
    cdef object _deliver
    cdef uint64_t _last_id

    def __init__(self, deliver):
        self._deliver = deliver

    cdef uint64_t next_id(self) except 0:
        cdef timespec t
        cdef uint64_t id
        clock_gettime(CLOCK_REALTIME, &t)
        id = (<uint64_t>t.tv_sec * 1000 + <uint64_t>t.tv_nsec // 1000000 - <uint64_t>1577836800000) << 22
        if id <= self._last_id:
            id = self._last_id + 1
        self._last_id = id
        return id

    cdef int accept(self, Message message, Receiver receiver) except -1:
        self._deliver(message, Committed(receiver, message))
        return 0


cdef class Committed:
    """Tells a receiver once what became of its message."""
    cdef Receiver _receiver
    cdef Message _message

    def __cinit__(self, Receiver receiver, Message message):
        self._receiver = receiver
        self._message = message

    def __call__(self, int error=0):
        cdef Receiver receiver = self._receiver
        if receiver is not None:
            self._receiver = None
            receiver.committed(self._message, error)
