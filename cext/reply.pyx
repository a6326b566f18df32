# cython: auto_pickle=False
"""SMTP reply parser: what a next hop sends in, replies out (RFC 5321 §4.2, RFC 2034, RFC 3463).

Input are octets in any split; `feed` takes them up to the end of one reply and says whether it is complete. A line
that lies whole in the input is read where it lies; only one that comes in pieces is gathered in `_line`. The next
`feed` after a complete reply begins a new one.

A reply is one or more lines with the same code from 200 to 599; a hyphen behind the code says that lines follow. A code
alone is a whole line. Lines may end with LF alone (so do those of some old hosts) or with several CR and LF.

An enhanced status is recognised only in front of the text, with a space or nothing behind it, and if its class is the
code's first digit; the first one is the reply's. It is taken out of every line that repeats it, spaces behind it too; a
line that has a different one keeps it in its text. All other octets of the text stay as they came, non-ASCII and
control characters included: whoever shows them has to escape them.

Bounds: octets of a reply, lines of a reply, and 2,048 octets of a line, its CR included (RFC 5321 §4.5.3.1.5 asks for
512). Over one of them, and on a line that is no reply, `feed` returns an error, `fault` says which, and so does every
later call until `reset`. Memory for the text grows to `max_octets` at most and is used again.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from angarium._core.octets cimport find_octet, is_digit

__all__ = ("MAX_LINES", "MAX_LINE_OCTETS", "MAX_OCTETS", "ReplyError", "ReplyParser")

MAX_OCTETS = 65536
MAX_LINES = 128
MAX_LINE_OCTETS = 2048

cdef enum:
    LINE_ROOM = 2048         # of ReplyParser._line


class ReplyError(ValueError):
    """What came is not a reply, or is over a bound. `replies` are those that were complete before it."""

    def __init__(self, message, replies=()):
        super().__init__(message)
        self.replies = list(replies)


cdef inline size_t read_number(const char *p, size_t n, uint16_t *number) noexcept nogil:
    """How many of up to three digits p[:n] begins with, and the number they make."""
    cdef size_t i = 0
    number[0] = 0
    while i < n and i < 3 and is_digit(p[i]):
        number[0] = 10 * number[0] + (p[i] - 48)
        i += 1
    return i


cdef size_t read_enhanced_status(const char *p, size_t n, Reply *reply) noexcept nogil:
    """Octets of the enhanced status p[:n] begins with, spaces behind it included; 0: there is none (RFC 3463 §2)."""
    cdef uint8_t status_class
    cdef size_t i = 2, digits
    if n < 5 or not is_digit(p[0]) or p[1] != c'.':
        return 0
    status_class = p[0] - 48
    if status_class == 3 or status_class != reply.code // 100:
        return 0
    digits = read_number(p + i, n - i, &reply.enhanced_subject)
    i += digits
    if digits == 0 or i == n or p[i] != c'.':
        return 0
    i += 1
    digits = read_number(p + i, n - i, &reply.enhanced_detail)
    i += digits
    if digits == 0 or (i < n and p[i] != c' '):
        return 0
    reply.enhanced_class = status_class
    while i < n and p[i] == c' ':
        i += 1
    return i


cdef class ReplyParser:
    """Reads the replies of one connection. ValueError when a bound is 0."""

    def __cinit__(self, size_t max_octets=65536, size_t max_lines=128):
        if max_octets == 0 or max_lines == 0:
            raise ValueError("max_octets and max_lines must be at least 1")
        self.max_octets = max_octets
        self.max_lines = max_lines

    def __dealloc__(self):
        free(self._text)

    def parse(self, bytes data not None):
        """All replies that data completes, as (code, (class, subject, detail) or None, text); ReplyError at a fault."""
        cdef const char *p = PyBytes_AS_STRING(data)
        cdef size_t n = PyBytes_GET_SIZE(data), consumed
        cdef list replies = []
        cdef int result
        while True:
            result = self.feed(p, n, &consumed)
            p += consumed
            n -= consumed
            if result == REPLY_MORE:
                return replies
            if result != REPLY_READY:
                raise ReplyError((<bytes>self.fault).decode("ascii"), replies)
            enhanced = None
            if self.reply.enhanced_class != 0:
                enhanced = (self.reply.enhanced_class, self.reply.enhanced_subject, self.reply.enhanced_detail)
            replies.append((self.reply.code, enhanced, self.text()))

    def clear(self):
        """Forget a half reply or a fault, and begin anew."""
        self.reset()

    cdef void reset(self) noexcept nogil:
        self._ready = False
        self._failed = 0
        self.fault = NULL
        self._text_length = self._line_length = self._lines = self._octets = 0
        memset(&self.reply, 0, sizeof(Reply))

    cdef bytes text(self):
        return PyBytes_FromStringAndSize(self._text, self._text_length)

    cdef int feed(self, const char *data, size_t n, size_t *consumed) noexcept nogil:
        cdef Py_ssize_t newline
        cdef size_t position = 0, length, room
        cdef bint whole
        consumed[0] = 0
        if self._failed:
            return self._failed
        if self._ready:
            self.reset()
        while position < n:
            newline = find_octet(data + position, n - position, c'\n')
            whole = newline >= 0
            length = newline if whole else n - position
            consumed[0] = position + length + whole
            # the bound that is reached first is the fault, whatever the split
            room = min(LINE_ROOM - self._line_length, self.max_octets - self._octets)
            if length > room:
                if room == LINE_ROOM - self._line_length:
                    return self._fail(REPLY_TOO_LONG, b"reply line is over 2048 octets")
                return self._fail(REPLY_TOO_LONG, b"reply is over max_octets")
            self._octets += length
            if not whole:
                memcpy(self._line + self._line_length, data + position, length)
                self._line_length += length
                return REPLY_MORE
            if self._octets == self.max_octets:
                return self._fail(REPLY_TOO_LONG, b"reply is over max_octets")
            self._octets += 1
            if self._line_length == 0:
                self._read_line(data + position, length)
            else:
                memcpy(self._line + self._line_length, data + position, length)
                length += self._line_length
                self._line_length = 0
                self._read_line(self._line, length)
            if self._failed:
                return self._failed
            if self._ready:
                return REPLY_READY
            position = consumed[0]
        return REPLY_MORE

    cdef int _fail(self, int error, const char *fault) noexcept nogil:
        self._failed = error
        self.fault = fault
        return error

    cdef void _read_line(self, const char *p, size_t n) noexcept nogil:
        """One line without its LF: its code is checked, its text kept; the last one makes the reply ready."""
        cdef Reply status
        cdef uint16_t code
        cdef size_t skip
        if self._lines == self.max_lines:
            self._fail(REPLY_TOO_LONG, b"reply is over max_lines")
            return
        while n > 0 and p[n - 1] == c'\r':
            n -= 1
        if read_number(p, n, &code) < 3:
            self._fail(REPLY_MALFORMED, b"reply line does not begin with three digits")
            return
        if not 200 <= code <= 599:
            self._fail(REPLY_MALFORMED, b"reply code is not from 200 to 599")
            return
        if n > 3 and p[3] != c' ' and p[3] != c'-':
            self._fail(REPLY_MALFORMED, b"neither space nor hyphen behind the reply code")
            return
        if self._lines > 0 and code != self.reply.code:
            self._fail(REPLY_MALFORMED, b"reply code changes between lines")
            return
        self.reply.code = code
        self._lines += 1
        if n <= 4:
            self._keep(p, 0)
        else:
            memset(&status, 0, sizeof(Reply))
            status.code = code
            skip = read_enhanced_status(p + 4, n - 4, &status)
            if skip > 0:
                if self.reply.enhanced_class == 0:
                    self.reply = status
                elif status.enhanced_subject != self.reply.enhanced_subject or \
                        status.enhanced_detail != self.reply.enhanced_detail:
                    skip = 0
            self._keep(p + 4 + skip, n - 4 - skip)
        if n == 3 or p[3] == c' ':
            self._ready = True

    cdef void _keep(self, const char *p, size_t n) noexcept nogil:
        """Add one line's text. What is kept is never longer than what was read, so max_octets bounds it."""
        cdef size_t needed = self._text_length + n + 1, capacity
        cdef char *grown
        if needed > self._text_capacity:
            capacity = 2 * needed if needed > 128 else 256
            if capacity > self.max_octets:
                capacity = self.max_octets
            grown = <char *>realloc(self._text, capacity)
            if grown == NULL:
                self._fail(REPLY_TOO_LONG, b"no memory for the reply")
                return
            self._text = grown
            self._text_capacity = capacity
        if self._lines > 1:
            self._text[self._text_length] = c'\n'
            self._text_length += 1
        memcpy(self._text + self._text_length, p, n)
        self._text_length += n
