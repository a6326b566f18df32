"""What was said in attempts, gathered until it is written."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from angarium._core.reply cimport ReplyParser

cdef enum:
    LONGEST_TEXT = 1000          # octets of a reply's text that are kept


cpdef enum Keep:                 # of which attempts
    KEEP_NONE = 0
    KEEP_FAILURES = 1
    KEEP_ALL = 2


cpdef enum DialogueFlag:
    DIALOGUE_DELIVERED = 1       # to all of its recipients
    DIALOGUE_PIPELINED = 2       # commands did not wait for the replies to those before them
    DIALOGUE_CUT = 4             # there were more replies than are kept
    DIALOGUE_CONTENT = 8         # the last octet of the mail data was sent
    DIALOGUE_AHEAD = 16          # its envelope went along with the content of the message before
    DIALOGUE_OPENING = 32        # there was no mail transaction: the connection could not be opened


cdef class Dialogues:
    """Of one worker."""
    cdef public int keep                     # Keep
    cdef public object watch                 # None, or (connection, direction, host, site, octets) -> None
    cdef readonly bytes mark                 # in front of each record, known to nobody outside
    cdef readonly uint64_t lost              # that found no room
    cdef char *_octets
    cdef size_t _length, _capacity
    cdef size_t _begins                      # where the record that is being put begins

    cdef bint begin(self, uint64_t id, double began, double ended, int flags, uint32_t number, uint16_t attempt,
                    uint32_t content) except -1
    cdef int put(self, const char *octets, size_t n) except -1
    cdef int end(self) except -1
    cdef int _room(self, size_t n) except -1
    cdef void _raw(self, const char *octets, size_t n) noexcept


cdef class Heard:
    """What a host has said in the transaction under way, until it is known whether that is kept."""
    cdef char *octets                        # replies, as a record has them
    cdef size_t length
    cdef size_t _capacity
    cdef double began                        # monotonic: the transaction
    cdef bint cut                            # there was no room for more

    cdef void begin(self, double now) noexcept
    cdef int hear(self, ReplyParser parser, int phase, double now) except -1
    cdef void rest(self) noexcept
