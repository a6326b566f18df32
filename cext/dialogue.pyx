"""What was said in attempts: records that are gathered in memory, and taken now and then to be written to a file.

Job: `begin`, seven `put`s (next hop, host, TLS, how the connection was opened, how it ended, commands, replies), `end`
make one record; `opening` makes one of an attempt that came to no mail transaction. `take` gives what was gathered. The
records are read by angarium.outcome.dialogue_reader; all numbers are little-endian:

    mark 8, id 8, octets of the rest 4 │ began 8 (Unix time, µs), took 4 (µs), flags 2, attempt 2, number 4, content 4
    seven times: octets 4, and they

Commands are lines as they were sent. A reply is: phase 1, class 1, code 2, subject 2, detail 2, when 4 (µs since it
began), octets 2, text. Nothing that is said before the mail transaction is kept but what `opening` gives, from which
secrets have been taken; mail data never.

A session keeps what its host says in a `Heard`, of HEARD_OCTETS at most, until it is known whether it becomes a record.

The mark is random, so that nothing a host says can be taken for a record. Fails: beyond MOST_GATHERED octets what comes
is lost, and counted in `lost`.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from angarium._core.reply cimport ReplyParser

cdef enum:
    MOST_GATHERED = 1 << 20
    HEAD_OCTETS = 20             # mark, id, length
    FIXED_OCTETS = 24
    REPLY_OCTETS = 14            # in front of a reply's text
    HEARD_OCTETS = 1 << 16       # of the replies of one transaction that are kept
    IDLE_OCTETS = 1024           # of memory for them that an idle connection holds


cdef inline uint64_t unix_us() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <uint64_t>t.tv_sec * 1000000 + t.tv_nsec // 1000


cdef class Dialogues:
    def __init__(self, int keep=KEEP_NONE, bytes mark=None):
        self.keep = keep
        self.mark = os.urandom(8) if mark is None else mark
        if len(self.mark) != 8:
            raise ValueError("a mark has 8 octets")

    def __dealloc__(self):
        free(self._octets)

    @property
    def gathered(self):
        """Octets that wait to be taken."""
        return self._length

    def take(self):
        """What was gathered; it is forgotten here."""
        octets = PyBytes_FromStringAndSize(self._octets, self._length)
        self._length = 0
        return octets

    def opening(self, uint64_t id, double seconds, int attempt, bytes next_hop, bytes host, bytes said, bytes why):
        """An attempt that ended before there was a mail transaction, after so many seconds."""
        if self.watch is not None:
            self.watch(id, "!", host, next_hop, said)
        if self.keep == KEEP_NONE:
            return
        if not self.begin(id, 0, seconds, DIALOGUE_OPENING, 0, attempt, 0):
            return
        for text in (next_hop, host, b"", said, why, b"", b""):
            self.put(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        self.end()

    cdef bint begin(self, uint64_t id, double began, double ended, int flags, uint32_t number, uint16_t attempt,
                    uint32_t content) except -1:
        """Begin a record; `began` and `ended` are of one clock, whatever it is. False: there is no room."""
        cdef uint32_t took = 0
        cdef uint64_t at
        cdef uint16_t short_flags = flags
        if self._length > MOST_GATHERED:
            self.lost += 1
            return False
        if ended > began:
            took = 0xFFFFFFFF if ended - began > 4294 else <uint32_t>((ended - began) * 1e6)
        at = unix_us() - took
        self._begins = self._length
        self._room(HEAD_OCTETS + FIXED_OCTETS)
        self._raw(PyBytes_AS_STRING(self.mark), 8)
        self._raw(<char *>&id, 8)
        self._length += 4
        self._raw(<char *>&at, 8)
        self._raw(<char *>&took, 4)
        self._raw(<char *>&short_flags, 2)
        self._raw(<char *>&attempt, 2)
        self._raw(<char *>&number, 4)
        self._raw(<char *>&content, 4)
        return True

    cdef int put(self, const char *octets, size_t n) except -1:
        cdef uint32_t length = n
        self._room(4 + n)
        self._raw(<char *>&length, 4)
        self._raw(octets, n)
        return 0

    cdef int end(self) except -1:
        cdef uint32_t length = self._length - self._begins - HEAD_OCTETS
        memcpy(self._octets + self._begins + HEAD_OCTETS - 4, <char *>&length, 4)
        return 0

    cdef int _room(self, size_t n) except -1:
        cdef char *moved
        cdef size_t capacity
        if self._length + n > self._capacity:
            capacity = (self._length + n) * 2
            if capacity < 16384:
                capacity = 16384
            moved = <char *>realloc(self._octets, capacity)
            if moved == NULL:
                raise MemoryError
            self._octets = moved
            self._capacity = capacity
        return 0

    cdef void _raw(self, const char *octets, size_t n) noexcept:
        memcpy(self._octets + self._length, octets, n)
        self._length += n


cdef class Heard:
    def __dealloc__(self):
        free(self.octets)

    cdef void begin(self, double now) noexcept:
        """A transaction begins: what was said before it is forgotten."""
        self.length = 0
        self.cut = False
        self.began = now

    cdef int hear(self, ReplyParser parser, int phase, double now) except -1:
        """Keep the reply that was just read."""
        cdef size_t n = parser._text_length if parser._text_length < LONGEST_TEXT else LONGEST_TEXT
        cdef size_t capacity
        cdef char *p
        cdef uint8_t short_phase = phase
        cdef uint16_t length = n
        cdef uint32_t at = <uint32_t>(min(max(now - self.began, 0.0), 4294.0) * 1e6)
        if self.cut:
            return 0
        if self.length + REPLY_OCTETS + n > HEARD_OCTETS:
            self.cut = True
            return 0
        if self.length + REPLY_OCTETS + n > self._capacity:
            capacity = max((self.length + REPLY_OCTETS + n) * 2, <size_t>512)
            p = <char *>realloc(self.octets, capacity)
            if p == NULL:
                raise MemoryError
            self.octets = p
            self._capacity = capacity
        p = self.octets + self.length
        memcpy(p, &short_phase, 1)
        memcpy(p + 1, &parser.reply.enhanced_class, 1)
        memcpy(p + 2, &parser.reply.code, 2)
        memcpy(p + 4, &parser.reply.enhanced_subject, 2)
        memcpy(p + 6, &parser.reply.enhanced_detail, 2)
        memcpy(p + 8, &at, 4)
        memcpy(p + 12, &length, 2)
        memcpy(p + REPLY_OCTETS, parser._text, n)
        self.length += REPLY_OCTETS + n
        return 0

    cdef void rest(self) noexcept:
        """The connection is idle: it holds little memory."""
        if self._capacity > IDLE_OCTETS:
            free(self.octets)
            self.octets = NULL
            self._capacity = self.length = 0
