"""An intake for mail that is in a file already: under an id that is known beforehand, and held until the file is gone.

Job: a file of the drop folder is queued exactly once. It is renamed to the id that its message will have before that is
written, and is removed when it is on disk; until the removal is on disk too the message is held, so that a crash in
between finds both, and neither is done twice.

Input: `expect` names the id, and a function, for the next message that is accepted. Output: the function is called once
with (message, errno) when the message is safe, or could not be kept; a safe one is held until Dispatcher.release.

Fails: OSError, as the journal does; RuntimeError for a message that nobody expects."""

from libc.stdint cimport uint64_t

from angarium._core.dispatch cimport JournalIntake
from angarium._core.intake cimport Intake
from angarium._core.journal cimport Receiver
from angarium._core.record cimport DURABILITY_FSYNC, MARK_HOLD, Message


cdef class _Held(Receiver):
    """Tells the session, and then whoever has the file."""
    cdef Receiver _session
    cdef object _committed

    cdef int committed(self, Message message, int error) except -1:
        if not error:
            message.marks |= MARK_HOLD           # the dispatcher takes it when this returns, and holds it
        self._session.committed(message, error)
        self._committed(message, error)
        return 0


cdef class NamedIntake(Intake):
    cdef JournalIntake _journals
    cdef uint64_t _id
    cdef object _committed

    def __init__(self, JournalIntake journals):
        self._journals = journals

    def expect(self, uint64_t id, committed):
        self._id = id
        self._committed = committed

    def forget(self):
        self._id = 0
        self._committed = None

    cdef uint64_t next_id(self) except 0:
        if self._id == 0:
            raise RuntimeError("no message is expected")
        return self._id

    cdef int accept(self, Message message, Receiver receiver) except -1:
        cdef _Held held = _Held.__new__(_Held)
        held._session = receiver
        held._committed = self._committed
        self._id = 0
        self._committed = None
        message.durability = DURABILITY_FSYNC    # whatever its class: the file that it was in is removed
        return self._journals.accept(message, held)

    cdef const char *refusal(self) noexcept:
        return self._journals.refusal()
