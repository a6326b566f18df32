"""Mail data on the way in and on the way out (RFC 5321 §4.5.2, RFC 3030).

In: the octets behind DATA, in any split, become mail data. One pass finds the end, drops the dots of transparency,
copies, and notes what policy asks about: bare CR, bare LF, octets over 127, NUL, the longest line.

- CRLF.CRLF ends the mail data, and so does .CRLF at its very start. Nothing else does: a line ends at CRLF only
  (RFC 5321 §2.3.8), so a dot behind a bare LF or a bare CR is data, and LF.LF, LF.CRLF, CR.CRLF, CRLF.LF, CRLF.CR are
  data that sets bare_lf or bare_cr. (Taking one of them for the end lets a message smuggle in another, CVE-2023-51764.)
- A dot that begins a line and does not end the data is dropped, whatever follows it: CRLF.x gives CRLF x, CRLF..x gives
  CRLF.x, CRLF.LF gives CRLF LF (bare), CRLF.CR x gives CRLF CR x (bare), CRLF.CR CRLF gives CRLF CR CRLF (the first CR
  is bare).
- A CR that may become CRLF is produced at once. A dot at the start of a line, and the CR behind it, are held back until
  the next octet says what they are; so a call may produce one octet more than it takes.
- Lines are measured as they are produced, without CRLF; a bare CR or LF counts as an octet of its line. Lines are never
  broken.

Nothing here fails: what to do about the facts is the session's decision (554 5.6.0 by default).

BDAT chunks (RFC 3030 §2) have no transparency and no terminator: scan_chunk notes the facts alone, over chunk borders.

Out: count_stuffing and stuff_mail_data double the dots that begin a line, by the same notion of a line.

The loops are in mail_data_loop.h; tests/reference/mail_data.py is the readable model of what they do.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, _PyBytes_Resize
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF


cdef extern from "Python.h":
    PyObject *new_bytes "PyBytes_FromStringAndSize"(char *octets, Py_ssize_t n) except NULL

cdef extern from "mail_data_scan.h" nogil:
    enum:
        MAIL_DATA_CR
        MAIL_DATA_ENDED

cdef extern from "mail_data_loop.h" nogil:
    int mail_data_copy(MailDataScan *scan, const char *src, size_t n, char *dst, size_t *consumed, size_t *produced)
    int mail_data_drain(MailDataScan *scan, const char *src, size_t n, size_t *consumed, size_t *produced)
    void mail_data_chunk(MailDataScan *scan, const char *src, size_t n)
    int mail_data_copy_portable(MailDataScan *scan, const char *src, size_t n, char *dst,
                                size_t *consumed, size_t *produced)
    size_t stuffing_count_fast(const char *src, size_t n)
    size_t stuffing_write_fast(const char *src, size_t n, char *dst)
    size_t stuffing_count_portable(const char *src, size_t n)
    size_t stuffing_write_portable(const char *src, size_t n, char *dst)


cdef bint scan_mail_data(MailDataScan *scan, const char *src, size_t n, char *dst,
                         size_t *consumed, size_t *produced) noexcept nogil:
    if dst == NULL:
        return mail_data_drain(scan, src, n, consumed, produced)
    return mail_data_copy(scan, src, n, dst, consumed, produced)


cdef void scan_chunk(MailDataScan *scan, const char *src, size_t n) noexcept nogil:
    mail_data_chunk(scan, src, n)


cdef bint mail_data_ends_in_bare_cr(const MailDataScan *scan) noexcept nogil:
    return scan.state == MAIL_DATA_CR


cdef size_t count_stuffing(const char *src, size_t n) noexcept nogil:
    return stuffing_count_fast(src, n)


cdef size_t stuff_mail_data(const char *src, size_t n, char *dst) noexcept nogil:
    return stuffing_write_fast(src, n, dst)


@cython.final
cdef class MailDataScanner:
    """One message's mail data, fed in any split. `portable` runs the path of machines without SSE2."""

    cdef MailDataScan _scan      # zero-filled by Cython: the start of mail data
    cdef size_t _consumed        # of the last call
    cdef bint _portable

    def __init__(self, bint portable=False):
        self._portable = portable

    def feed(self, bytes data not None):
        """Take octets of DATA; return the mail data they produced. Behind the end nothing is taken: see `consumed`."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        cdef size_t produced = 0
        cdef const char *src = PyBytes_AS_STRING(data)
        cdef PyObject *room = new_bytes(NULL, n + 4)
        cdef char *dst = PyBytes_AS_STRING(<bytes>room)
        cdef bytes mail_data
        if self._portable:
            mail_data_copy_portable(&self._scan, src, n, dst, &self._consumed, &produced)
        else:
            scan_mail_data(&self._scan, src, n, dst, &self._consumed, &produced)
        _PyBytes_Resize(&room, produced)
        mail_data = <bytes>room
        Py_DECREF(mail_data)     # the reference of new_bytes; the variable holds its own
        return mail_data

    def drain(self, bytes data not None):
        """Take octets of DATA without copying; return how many octets `feed` would have produced."""
        cdef size_t produced = 0
        scan_mail_data(&self._scan, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), NULL, &self._consumed, &produced)
        return produced

    def chunk(self, bytes data not None):
        """Take octets of a BDAT chunk: all of them, as they are."""
        scan_chunk(&self._scan, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        self._consumed = PyBytes_GET_SIZE(data)

    @property
    def consumed(self):
        """Octets of the last call's data that were taken; the rest stands behind the end of the mail data."""
        return self._consumed

    @property
    def ended(self):
        """CRLF.CRLF was met."""
        return self._scan.state == MAIL_DATA_ENDED

    @property
    def ends_in_bare_cr(self):
        """The last octet produced was a CR that no LF follows yet; bare if the data ends here (BDAT LAST)."""
        return mail_data_ends_in_bare_cr(&self._scan)

    @property
    def bare_cr(self):
        """A CR was met that no LF follows."""
        return bool(self._scan.bare_cr)

    @property
    def bare_lf(self):
        """A LF was met that no CR precedes."""
        return bool(self._scan.bare_lf)

    @property
    def eight_bit(self):
        """An octet over 127 was met."""
        return bool(self._scan.eight_bit)

    @property
    def nul(self):
        """A NUL was met."""
        return bool(self._scan.nul)

    @property
    def line_length(self):
        """Octets of the line so far, without a CR that may be the first half of its CRLF."""
        return self._scan.line_length

    @property
    def longest_line(self):
        """Octets of the longest line, CRLF excluded, the line so far included."""
        return self._scan.longest_line

    @property
    def octets(self):
        """Octets produced so far."""
        return self._scan.octets


def stuff(bytes data not None, *, bint portable=False):
    """Whole mail data as DATA carries it: a dot that begins a line is doubled. Without such a dot, `data` itself."""
    cdef size_t n = PyBytes_GET_SIZE(data), added
    cdef const char *src = PyBytes_AS_STRING(data)
    cdef bytes stuffed
    added = stuffing_count_portable(src, n) if portable else count_stuffing(src, n)
    if added == 0:
        return data
    stuffed = PyBytes_FromStringAndSize(NULL, n + added)
    if portable:
        stuffing_write_portable(src, n, PyBytes_AS_STRING(stuffed))
    else:
        stuff_mail_data(src, n, PyBytes_AS_STRING(stuffed))
    return stuffed
