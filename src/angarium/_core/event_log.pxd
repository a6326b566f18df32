"""The event log's hot lines: JSON composed in C, written in large pieces."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from angarium._core.counters cimport Counters
from angarium._core.record cimport MailBuffer, Message, Text
from angarium._core.reply cimport Reply
from angarium._core.timeline cimport Waits


cdef class EventLog:
    cdef readonly object path                # None: no log is kept
    cdef bytes _name                         # the path's octets
    cdef int _fd
    cdef bint _busy                          # another process was writing
    cdef readonly bint failing               # the last write failed: lines are kept for later, or lost
    cdef char *_octets
    cdef size_t _length
    cdef size_t _capacity
    cdef Counters _counters
    cdef uint64_t _second
    cdef char _stamp[20]                     # YYYY-MM-DDTHH:MM:SS
    cdef readonly uint64_t dropped           # events lost because the file could not be written
    cdef uint64_t _said                      # of them, said in the log

    cdef bint enabled(self) noexcept
    cdef int accepted(self, Message message, MailBuffer buffer, const char *protocol, double seconds,
                      bytes granted, bytes done) except -1
    cdef int attempt(self, const char *event, Message message, MailBuffer buffer, int recipient,
                     bytes next_hop, bytes site, bytes source, bytes pool,
                     Reply *reply, bytes text, double attempt_s, bytes tls, Waits *waits) except -1
    cdef int rejected(self, Text client, Text greeting, Text listener, Text login, Text tenant, Text permission,
                      Text reverse_path, Text recipient, const char *recipients, uint32_t recipient_count,
                      const char *reply) except -1
    cdef int _write(self) except -1
    cdef int _waited(self, Waits *waits) except -1
    cdef int _say_lost(self) except -1
    cdef int _room(self, size_t n) except -1
    cdef int _put(self, const char *octets, size_t n) except -1
    cdef int _json(self, const char *octets, size_t n) except -1
    cdef int _seconds(self, double value) except -1
    cdef int _decimal(self, uint64_t value) except -1
    cdef int _begin(self, const char *event) except -1
    cdef int _end(self) except -1
    cdef int _hold(self, uint64_t until) except -1
    cdef int _durability(self, Message message) except -1
