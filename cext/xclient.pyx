# cython: auto_pickle=False
"""What a host in front says of its client: the arguments of XCLIENT, as Postfix defines it (XCLIENT_README).

Job: read `NAME=value ADDR=value …`, values in xtext (RFC 3461 §4), into an XClient. An attribute that is not written
keeps what an earlier XCLIENT of the session said; one that is [UNAVAILABLE] or [TEMPUNAVAIL] is not known.

PORT, DESTADDR and DESTPORT are checked and kept nowhere: nothing here depends on them. An address that is not known is
"unknown", which is in no network: it may do nothing that an address is needed for, on a Unix socket neither.

Fails: with the reply that refuses the command; then nothing of it holds. Bounds: those of a command line; a value has
at most 255 octets.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from angarium._core.octets cimport is_digit, is_utf8, is_word

from angarium._core.parameter import decode_xtext

cdef extern from "<arpa/inet.h>" nogil:
    enum:
        AF_INET
        AF_INET6
    int inet_pton(int family, const char *text, void *packed)

cdef enum:
    MOST_OCTETS = 255            # of one value

cdef const char *R_SYNTAX = b"501 5.5.4 Syntax: XCLIENT attribute=value [attribute=value]\r\n"
cdef const char *R_ATTRIBUTE = b"501 5.5.4 XCLIENT attribute not recognized\r\n"
cdef const char *R_ADDRESS = \
    b"501 5.5.4 XCLIENT: ADDR and DESTADDR need an IPv4 address, or IPV6: and an IPv6 address\r\n"
cdef const char *R_PORT = b"501 5.5.4 XCLIENT: PORT and DESTPORT need a number from 0 to 65535\r\n"
cdef const char *R_PROTOCOL = b"501 5.5.4 XCLIENT: PROTO needs SMTP or ESMTP\r\n"
cdef const char *R_VALUE = b"501 5.5.4 XCLIENT value is empty, too long, or has octets that it may not have\r\n"

UNKNOWN = b"unknown"


cdef bint is_printable(const char *p, size_t n, bint high) noexcept nogil:
    """Neither spaces nor control characters; `high`: octets over 127 may be, when they are UTF-8."""
    cdef size_t i
    cdef unsigned char c
    for i in range(n):
        c = <unsigned char>p[i]
        if c <= 32 or c == 127 or (c > 127 and not high):
            return False
    return not high or is_utf8(p, n)


cdef bint is_port(const char *p, size_t n) noexcept nogil:
    cdef size_t i
    cdef int port = 0
    if not 1 <= n <= 5:
        return False
    for i in range(n):
        if not is_digit(p[i]):
            return False
        port = port * 10 + (p[i] - 48)
    return port <= 65535


cdef bytes address_of(bytes value):
    """The address as text, without the prefix of version 6; None when it is none."""
    cdef char packed[16]
    cdef bytes text = value[5:] if value[:5].upper() == b"IPV6:" else value
    cdef int family = AF_INET6 if b":" in text else AF_INET
    if b"\0" in text or inet_pton(family, PyBytes_AS_STRING(text), packed) != 1:
        return None
    return text.lower()


@cython.final
cdef class XClient:
    def __cinit__(self):
        self.address = self.name = self.greeting = self.login = None

    cdef const char *read(self, bytes arguments) except? NULL:
        """Take what the arguments say. NULL, or the reply that refuses them."""
        cdef const char *refusal
        cdef bytes attribute, equals, text
        cdef list words = arguments.split()
        if not words:
            return R_SYNTAX
        for word in words:
            attribute, equals, text = (<bytes>word).partition(b"=")
            if not equals or not attribute:
                return R_SYNTAX
            refusal = self._take(attribute.upper(), text)
            if refusal != NULL:
                return refusal
        return NULL

    cdef const char *_take(self, bytes attribute, bytes text) except? NULL:
        cdef bytes value
        cdef bint known
        if text.upper() in (b"[UNAVAILABLE]", b"[TEMPUNAVAIL]"):
            known = False
            value = b""
        else:
            known = True
            try:
                value = decode_xtext(text)
            except ValueError:
                return R_VALUE
            if not 0 < PyBytes_GET_SIZE(value) <= MOST_OCTETS or not is_printable(
                PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), attribute == b"LOGIN"
            ):
                return R_VALUE
        if attribute == b"ADDR" or attribute == b"DESTADDR":
            if known:
                value = address_of(value)
                if value is None:
                    return R_ADDRESS
            if attribute == b"ADDR":
                self.address = value if known else UNKNOWN
        elif attribute == b"PORT" or attribute == b"DESTPORT":
            if known and not is_port(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)):
                return R_PORT
        elif attribute == b"NAME":
            self.name = value
        elif attribute == b"HELO":
            self.greeting = value
        elif attribute == b"LOGIN":
            self.login = value
        elif attribute == b"PROTO":
            if known and not (is_word(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), b"smtp", 4)
                              or is_word(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), b"esmtp", 5)):
                return R_PROTOCOL
            self.plain = PyBytes_GET_SIZE(value) == 4
        else:
            return R_ATTRIBUTE
        return NULL


def read_xclient(bytes arguments not None) -> XClient | bytes:
    """What stands behind XCLIENT, read; or the reply that refuses it. For tests."""
    cdef XClient said = XClient()
    cdef const char *refusal = said.read(arguments)
    return said if refusal == NULL else <bytes>refusal
