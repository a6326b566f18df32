"""SMTP replies as a client reads them, RFC 5321 §4.2 and RFC 3463, over any split of the input."""

from libc.stdint cimport uint8_t, uint16_t


cdef enum:
    REPLY_MORE = 0           # all input taken, the reply is not complete
    REPLY_READY = 1          # one reply is complete; its fields are valid until the next call of feed
    REPLY_MALFORMED = -1     # not a reply: no code, a code that changes in mid-reply, a bad separator
    REPLY_TOO_LONG = -2      # over max_lines or max_octets

cdef struct Reply:
    uint16_t code            # 200..599
    uint8_t enhanced_class   # 0: no enhanced status; else 2, 4 or 5 and equal to the code's first digit
    uint16_t enhanced_subject
    uint16_t enhanced_detail


cdef class ReplyParser:
    cdef Reply reply
    cdef size_t max_octets           # of one whole reply
    cdef size_t max_lines
    cdef char *_text                 # text of the lines, without code, separator and enhanced status, joined by \n
    cdef size_t _text_length
    cdef size_t _text_capacity
    cdef char _line[2048]            # the line being read when it came in pieces
    cdef size_t _line_length
    cdef size_t _lines
    cdef size_t _octets
    cdef bint _ready                 # the next feed begins a new reply
    cdef int _failed                 # the error that every feed returns until reset
    cdef const char *fault           # what is wrong, when feed returned an error; static ASCII text

    # Takes octets from data[:n] up to the end of one reply; *consumed says how many.
    cdef int feed(self, const char *data, size_t n, size_t *consumed) noexcept nogil
    cdef bytes text(self)            # at most 1,000 octets matter to anybody: callers cut
    cdef void reset(self) noexcept nogil
    cdef int _fail(self, int error, const char *fault) noexcept nogil
    cdef void _read_line(self, const char *p, size_t n) noexcept nogil
    cdef void _keep(self, const char *p, size_t n) noexcept nogil
