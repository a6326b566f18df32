"""The header section of mail data (RFC 5322 §2.2): one walk for what policy asks, and edits that leave the body alone.

Input is mail data from its first octet, whole or at least up to its header section's end; output is offsets into it.

What counts as what:
- A line ends at LF, with or without CR in front of it: mail that came with bare LFs and was let in is read as its
  reader will read it.
- A field is a name of printable US-ASCII without colon, a colon, and the rest of the line with all continuation lines
  behind it, which begin with SP or HTAB. White space between name and colon is tolerated (obsolete syntax, §4.5).
- The section ends at the first empty line, at the end of the data, or, `malformed`, at the first line that is neither a
  field nor a continuation: then there is no empty line, and that line is the body's first. Whoever puts fields in front
  of malformed mail should put an empty line behind them, or a body that begins with white space continues them.
- Names are compared without regard to case. Values are handed out without the white space around them; folds inside
  them stay as they came.

The walk takes time linear in the section's length, and never fails. Edits raise ValueError for a name or value that
would not make one well-formed field, so that a policy's text becomes neither other fields nor the body.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcpy, memmove, memset

from angarium._core.octets cimport Span, equal_fold


cdef enum:
    SP = 32
    HTAB = 9
    CR = 13
    LF = 10
    COLON = 58
    FIRST_PRINTABLE = 33
    LAST_PRINTABLE = 126

cdef size_t SPAN_LIMIT = <size_t>0xFFFFFFFF


cdef inline bint _is_blank(char c) noexcept nogil:
    return c == SP or c == HTAB


cdef inline bint _is_name_octet(char c) noexcept nogil:
    return FIRST_PRINTABLE <= <uint8_t>c <= LAST_PRINTABLE and c != COLON


cdef inline size_t _line_end(const char *data, size_t n, size_t at) noexcept nogil:
    cdef const char *hit = <const char *>memchr(data + at, LF, n - at)
    return n if hit == NULL else hit - data + 1


cdef inline size_t _empty_line(const char *data, size_t n, size_t at) noexcept nogil:
    """Octets of the empty line at data[at], 0 if it is none."""
    if data[at] == LF:
        return 1
    return 2 if data[at] == CR and n - at > 1 and data[at + 1] == LF else 0


cdef inline void _trim(const char *data, size_t *start, size_t *end) noexcept nogil:
    while start[0] < end[0] and (_is_blank(data[start[0]]) or data[start[0]] == CR or data[start[0]] == LF):
        start[0] += 1
    while start[0] < end[0] and (_is_blank(data[end[0] - 1]) or data[end[0] - 1] == CR or data[end[0] - 1] == LF):
        end[0] -= 1


cdef bint read_field(const char *data, size_t n, size_t start, HeaderField *field) noexcept nogil:
    cdef size_t at = start
    while at < n and _is_name_octet(data[at]):
        at += 1
    field.start = start
    field.name_length = at - start
    while at < n and _is_blank(data[at]):
        at += 1
    if field.name_length == 0 or at == n or data[at] != COLON:
        return False
    field.value = at + 1
    at = _line_end(data, n, at)
    while at < n and _is_blank(data[at]):
        at = _line_end(data, n, at)
    field.end = at
    return True


cdef inline Span _value_span(const char *data, const HeaderField *field) noexcept nogil:
    cdef size_t start = field.value, end = field.end
    cdef Span span
    _trim(data, &start, &end)
    span.start = span.length = 0
    if end <= SPAN_LIMIT:
        span.start = <uint32_t>start
        span.length = <uint32_t>(end - start)
    return span


cdef inline bint _is_named(const char *data, const HeaderField *field, const char *name, size_t length) noexcept nogil:
    return field.name_length == length and equal_fold(data + field.start, name, length)


cdef inline void _note(const char *data, const HeaderField *field, HeaderFacts *facts) noexcept nogil:
    """Enter one field into the facts. The name's length picks the few names it is worth comparing with."""
    cdef const char *name = data + field.start
    cdef Span span
    facts.fields += 1
    if field.name_length == 8:
        facts.received += equal_fold(name, b"received", 8)
    elif field.name_length == 2:
        facts.has_to |= equal_fold(name, b"to", 2)
        facts.has_cc |= equal_fold(name, b"cc", 2)
    elif field.name_length == 3:
        facts.has_bcc |= equal_fold(name, b"bcc", 3)
    elif field.name_length == 4:
        if equal_fold(name, b"from", 4):
            if not facts.has_from:
                facts.from_ = _value_span(data, field)
            facts.has_from = True
            facts.from_fields += 1
        else:
            facts.has_date |= equal_fold(name, b"date", 4)
    elif field.name_length == 6:
        if equal_fold(name, b"sender", 6):
            if not facts.has_sender:
                facts.sender = _value_span(data, field)
            facts.has_sender = True
            facts.sender_fields += 1
    elif field.name_length == 7:
        if facts.subject.start == 0 and equal_fold(name, b"subject", 7):
            facts.subject = _value_span(data, field)
    elif field.name_length == 10:
        if not facts.has_message_id and equal_fold(name, b"message-id", 10):
            facts.has_message_id = True
            facts.message_id = _value_span(data, field)
        else:
            facts.has_resent_bcc |= equal_fold(name, b"resent-bcc", 10)
    elif field.name_length == 12:
        if equal_fold(name, b"tls-required", 12):
            span = _value_span(data, field)
            facts.tls_required_no |= span.length == 2 and equal_fold(data + span.start, b"no", 2)
    elif field.name_length == 21:
        if equal_fold(name, b"x-angarium-durability", 21):
            if facts.durability_fields == 0:
                facts.durability = _value_span(data, field)
            facts.durability_fields += 1


cdef inline size_t _finish(const char *data, size_t n, size_t at, bint *malformed) noexcept nogil:
    """Where the body begins, when no field begins at data[at]."""
    cdef size_t empty = 0 if at == n else _empty_line(data, n, at)
    malformed[0] = at < n and empty == 0
    return at + empty


cdef void walk_header(const char *data, size_t n, HeaderFacts *facts) noexcept nogil:
    cdef HeaderField field
    cdef size_t at = 0
    memset(facts, 0, sizeof(HeaderFacts))
    while read_field(data, n, at, &field):
        _note(data, &field, facts)
        at = field.end
    facts.length = at
    facts.body = _finish(data, n, at, &facts.malformed)


cdef size_t cut_fields(char *data, size_t n, const char *name, size_t name_length) noexcept nogil:
    cdef HeaderField field
    cdef size_t at = 0, kept = 0
    while read_field(data, n, at, &field):
        if not _is_named(data, &field, name, name_length):
            if kept != at:
                memmove(data + kept, data + at, field.end - at)
            kept += field.end - at
        at = field.end
    if kept != at:
        memmove(data + at - kept, data, kept)
    return at - kept


def without_fields(bytes mail_data not None, bytes name not None) -> bytes:
    """mail_data without its header fields of that name (cut_fields, for tests and tools)."""
    cdef bytes folded = name.lower()
    cdef bytearray octets = bytearray(mail_data)
    cdef size_t cut = cut_fields(PyByteArray_AS_STRING(octets), len(octets), PyBytes_AS_STRING(folded),
                                 PyBytes_GET_SIZE(folded))
    return bytes(octets[cut:])


cdef bytes _slice(const char *data, Span span):
    return None if span.start == 0 else PyBytes_FromStringAndSize(data + span.start, span.length)


@cython.final
cdef class HeaderWalk:
    """What one walk over the header section of `data` finds; the C function walk_header for tests and tools."""

    cdef HeaderFacts _facts
    cdef readonly bytes message_id
    cdef readonly bytes from_
    cdef readonly bytes sender
    cdef readonly bytes subject
    cdef readonly bytes durability

    def __init__(self, bytes data not None):
        cdef const char *octets = PyBytes_AS_STRING(data)
        walk_header(octets, PyBytes_GET_SIZE(data), &self._facts)
        self.message_id = _slice(octets, self._facts.message_id)
        self.from_ = _slice(octets, self._facts.from_)
        self.sender = _slice(octets, self._facts.sender)
        self.subject = _slice(octets, self._facts.subject)
        self.durability = _slice(octets, self._facts.durability)

    @property
    def length(self):
        return self._facts.length

    @property
    def body(self):
        return self._facts.body

    @property
    def fields(self):
        return self._facts.fields

    @property
    def received(self):
        return self._facts.received

    @property
    def durability_fields(self):
        return self._facts.durability_fields

    @property
    def malformed(self):
        return bool(self._facts.malformed)

    @property
    def has_date(self):
        return bool(self._facts.has_date)

    @property
    def has_message_id(self):
        return bool(self._facts.has_message_id)

    @property
    def has_from(self):
        return bool(self._facts.has_from)

    @property
    def has_sender(self):
        return bool(self._facts.has_sender)

    @property
    def has_to(self):
        return bool(self._facts.has_to)

    @property
    def has_cc(self):
        return bool(self._facts.has_cc)

    @property
    def has_bcc(self):
        return bool(self._facts.has_bcc)

    @property
    def has_resent_bcc(self):
        return bool(self._facts.has_resent_bcc)

    @property
    def from_fields(self):
        return self._facts.from_fields

    @property
    def sender_fields(self):
        return self._facts.sender_fields

    @property
    def tls_required_no(self):
        return bool(self._facts.tls_required_no)


cdef bytes _new_field(bytes name, bytes value):
    """The octets of one field, CRLF included; ValueError says what would make it none, or more than one."""
    cdef const char *n = PyBytes_AS_STRING(name)
    cdef const char *v = PyBytes_AS_STRING(value)
    cdef size_t length = PyBytes_GET_SIZE(value), i = 0
    cdef bint blank = False      # this line of the value is white space so far; the first line begins with the name
    if PyBytes_GET_SIZE(name) == 0:
        raise ValueError("a header field name is empty")
    for i in range(<size_t>PyBytes_GET_SIZE(name)):
        if not _is_name_octet(n[i]):
            raise ValueError(f"header field name {name!r}: octet {i} is not printable US-ASCII or is a colon")
    i = 0
    while i < length:
        if v[i] == 0:
            raise ValueError(f"value of header field {name!r}: NUL at octet {i}")
        if v[i] == LF:
            raise ValueError(f"value of header field {name!r}: bare LF at octet {i}")
        if v[i] == CR:
            if i + 1 == length or v[i + 1] != LF:
                raise ValueError(f"value of header field {name!r}: bare CR at octet {i}")
            if i + 2 == length or not _is_blank(v[i + 2]):
                raise ValueError(f"value of header field {name!r}: no white space behind the CRLF at octet {i}")
            if blank:
                raise ValueError(f"value of header field {name!r}: a line of white space alone before octet {i}")
            blank = True
            i += 1
        elif not _is_blank(v[i]):
            blank = False
        i += 1
    if blank:
        raise ValueError(f"value of header field {name!r}: its last line is white space alone")
    return name + b": " + value + b"\r\n"


cdef struct _Entry:
    Py_ssize_t owner             # -1: the section as it came; else an index into HeaderSection._new
    HeaderField field            # offsets into the owner's octets


@cython.final
cdef class HeaderSection:
    """The header section of mail data, for policy: read it, edit it, render it.

    `data` (bytes, or anything with a buffer) begins with the header section; only that part of it is copied and kept.
    Edited mail data is `render() + data[length:]`: untouched fields octet for octet as they came, in their order, and
    the empty line and the body untouched. Names and values are bytes; a value is without the white space around it.
    """

    cdef readonly size_t length      # of the section as it came, the empty line excluded
    cdef readonly size_t body        # where the body begins in the data as it came
    cdef bint _malformed
    cdef bint _edited
    cdef bytes _raw
    cdef list _new                   # octets of the fields that edits have made
    cdef _Entry *_entries
    cdef size_t _count
    cdef size_t _capacity

    def __init__(self, data):
        cdef Py_buffer view
        if self._raw is not None:
            raise TypeError("a HeaderSection is initialised once")
        self._new = []
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self._walk(<const char *>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    def __dealloc__(self):
        PyMem_Free(self._entries)

    cdef int _walk(self, const char *data, size_t n) except -1:
        cdef _Entry entry
        cdef size_t at = 0
        entry.owner = -1
        while read_field(data, n, at, &entry.field):
            self._insert(self._count, entry)
            at = entry.field.end
        self.length = at
        self.body = _finish(data, n, at, &self._malformed)
        self._raw = PyBytes_FromStringAndSize(data, at)
        return 0

    cdef int _insert(self, size_t position, _Entry entry) except -1:
        cdef size_t capacity
        cdef _Entry *entries
        if self._count == self._capacity:
            capacity = 2 * self._capacity if self._capacity else 32
            entries = <_Entry *>PyMem_Realloc(self._entries, capacity * sizeof(_Entry))
            if entries == NULL:
                raise MemoryError
            self._entries = entries
            self._capacity = capacity
        memmove(self._entries + position + 1, self._entries + position, (self._count - position) * sizeof(_Entry))
        self._entries[position] = entry
        self._count += 1
        return 0

    cdef _Entry _make(self, bytes name, bytes value) except *:
        cdef bytes octets = _new_field(name, value)
        cdef _Entry entry
        entry.owner = len(self._new)
        entry.field.start = 0
        entry.field.name_length = PyBytes_GET_SIZE(name)
        entry.field.value = entry.field.name_length + 1
        entry.field.end = PyBytes_GET_SIZE(octets)
        self._new.append(octets)
        return entry

    cdef const char *_octets(self, const _Entry *entry) except NULL:
        return PyBytes_AS_STRING(self._raw if entry.owner < 0 else <bytes>self._new[entry.owner])

    cdef Py_ssize_t _find(self, bytes folded, size_t start) except -2:
        """Position of the first field from `start` on with that name (given in lower case), or -1."""
        cdef size_t i
        for i in range(start, self._count):
            if _is_named(self._octets(&self._entries[i]), &self._entries[i].field,
                         PyBytes_AS_STRING(folded), PyBytes_GET_SIZE(folded)):
                return i
        return -1

    cdef bytes _value(self, const _Entry *entry):
        cdef const char *octets = self._octets(entry)
        cdef size_t start = entry.field.value, end = entry.field.end
        _trim(octets, &start, &end)
        return PyBytes_FromStringAndSize(octets + start, end - start)

    @property
    def malformed(self):
        """The section as it came ended at a line that is no field; there is no empty line before the body."""
        return bool(self._malformed)

    @property
    def edited(self):
        """An edit has changed something."""
        return bool(self._edited)

    def fields(self):
        """All fields in order, as (name, value)."""
        cdef size_t i
        cdef _Entry *entry
        cdef list found = []
        for i in range(self._count):
            entry = &self._entries[i]
            found.append((PyBytes_FromStringAndSize(self._octets(entry) + entry.field.start, entry.field.name_length),
                          self._value(entry)))
        return found

    def get(self, bytes name not None):
        """Value of the first field of that name, None if there is none."""
        cdef Py_ssize_t i = self._find(name.lower(), 0)
        return None if i < 0 else self._value(&self._entries[i])

    def get_all(self, bytes name not None):
        """Values of all fields of that name, in order."""
        cdef bytes folded = name.lower()
        cdef Py_ssize_t i = self._find(folded, 0)
        cdef list found = []
        while i >= 0:
            found.append(self._value(&self._entries[i]))
            i = self._find(folded, i + 1)
        return found

    def count(self, bytes name not None):
        """How many fields have that name."""
        cdef bytes folded = name.lower()
        cdef Py_ssize_t i = self._find(folded, 0)
        cdef size_t found = 0
        while i >= 0:
            found += 1
            i = self._find(folded, i + 1)
        return found

    def prepend(self, bytes name not None, bytes value not None):
        """Put a field on top, as trace fields are. ValueError: it would not be one well-formed field."""
        self._insert(0, self._make(name, value))
        self._edited = True

    def append(self, bytes name not None, bytes value not None):
        """Put a field behind the last one. ValueError: it would not be one well-formed field."""
        self._insert(self._count, self._make(name, value))
        self._edited = True

    def replace(self, bytes name not None, bytes value not None, size_t index=0):
        """Put a field in the place of the index-th (from 0) of that name; False, and no change, if there are too few.

        ValueError: it would not be one well-formed field.
        """
        cdef _Entry entry = self._make(name, value)
        cdef bytes folded = name.lower()
        cdef Py_ssize_t i = self._find(folded, 0)
        while i >= 0 and index > 0:
            i = self._find(folded, i + 1)
            index -= 1
        if i < 0:
            self._new.pop()
            return False
        self._entries[i] = entry
        self._edited = True
        return True

    def remove(self, bytes name not None):
        """Take out all fields of that name; how many that were."""
        cdef bytes folded = name.lower()
        cdef size_t i, kept = 0, removed
        for i in range(self._count):
            if not _is_named(self._octets(&self._entries[i]), &self._entries[i].field,
                             PyBytes_AS_STRING(folded), PyBytes_GET_SIZE(folded)):
                self._entries[kept] = self._entries[i]
                kept += 1
        removed = self._count - kept
        self._count = kept
        self._edited = self._edited or removed > 0
        return removed

    def render(self):
        """The section's octets, edits included, without the empty line behind it.

        A field that came without a line end, because the data ended, gets CRLF if another stands behind it.
        """
        cdef size_t i, size = 0
        cdef bytes rendered
        cdef char *out
        cdef _Entry *entry
        if not self._edited:
            return self._raw
        for i in range(self._count):
            size += self._entries[i].field.end - self._entries[i].field.start + 2
        rendered = PyBytes_FromStringAndSize(NULL, size)
        out = PyBytes_AS_STRING(rendered)
        size = 0
        for i in range(self._count):
            entry = &self._entries[i]
            memcpy(out + size, self._octets(entry) + entry.field.start, entry.field.end - entry.field.start)
            size += entry.field.end - entry.field.start
            if out[size - 1] != LF and i + 1 < self._count:
                out[size] = CR
                out[size + 1] = LF
                size += 2
        return rendered[:size]
