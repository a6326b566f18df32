# cython: auto_pickle=False
"""The header that a proxy sends before its client's first octet: the PROXY protocol, versions 1 and 2.

Job: read the header from however many pieces it comes in, and say who the client is. `feed` takes what belongs to the
header and says how many octets that was; the octets behind it are the client's own and stay where they are. The
protocol is HAProxy's (proxy-protocol.txt, 2020/03/05).

What is said: `known` is whether the header names a client. It does not after LOCAL (the proxy's own connection, such as
a health check) and UNKNOWN (version 1) or UNSPEC (version 2): then whoever is connected is the client, as the
specification has it. A client of the proxy's Unix socket is known and has no address (`source` is "").

Decided beyond the specification: there is nothing lenient. One space between words, ports without leading zeros,
addresses as inet_pton reads them, STREAM only; a header of version 2 may take up MOST_OCTETS, which leaves 4,080 for
addresses and TLVs. TLVs are skipped unread, their checksum too: whoever can change a header can change its checksum.

Fails: ValueError, which says what is wrong; the connection is of no use after that.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.string cimport memchr, memcmp, memcpy

from angarium._core.octets cimport is_digit

cdef extern from "<arpa/inet.h>" nogil:
    enum:
        AF_INET
        AF_INET6
    int inet_pton(int family, const char *text, void *packed)
    const char *inet_ntop(int family, const void *packed, char *text, unsigned int room)

cdef enum:
    MOST_OCTETS = 4096           # of a header of version 2
    LINE_OCTETS = 107            # of a header of version 1, its CRLF included
    FIXED_OCTETS = 16            # of version 2: signature, version and command, family, length
    SIGNATURE_OCTETS = 12

cdef const char *SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


@cython.final
cdef class ProxyHeader:
    """One header, as it comes in."""
    cdef char _octets[MOST_OCTETS]
    cdef size_t _length
    cdef readonly int version            # 0 until the first octet has come
    cdef readonly bint done
    cdef readonly bint known             # it names a client
    cdef readonly str source             # the client's address as text, "" when it has none
    cdef readonly int source_port
    cdef readonly str destination        # where the client was connected to
    cdef readonly int destination_port

    def __cinit__(self):
        self.source = self.destination = ""

    def feed(self, bytes octets not None) -> int:
        """Take the header's part of octets; how many of them that is. ValueError for what is no header."""
        cdef const char *p = PyBytes_AS_STRING(octets)
        cdef size_t n = PyBytes_GET_SIZE(octets)
        cdef size_t taken = 0
        cdef size_t step
        while not self.done and taken < n:
            if self.version == 0:
                if p[0] == c'P':
                    self.version = 1
                elif p[0] == c'\r':
                    self.version = 2
                else:
                    raise ValueError("no header")
            if self.version == 1:
                step = self._feed_line(p + taken, n - taken)
            else:
                step = self._feed_block(p + taken, n - taken)
            taken += step
        return taken

    cdef int _keep(self, const char *p, size_t n) except -1:
        memcpy(self._octets + self._length, p, n)
        self._length += n
        return 0

    # ------------------------------------------------------------------ version 1

    cdef size_t _feed_line(self, const char *p, size_t n) except? 0:
        cdef const char *newline
        cdef size_t step = min(n, <size_t>LINE_OCTETS - self._length)
        newline = <const char *>memchr(p, c'\n', step)
        if newline != NULL:
            step = newline - p + 1
        self._keep(p, step)
        if memcmp(self._octets, b"PROXY ", min(self._length, <size_t>6)) != 0:
            raise ValueError("no header")
        if newline != NULL:
            self._read_line()
        elif self._length == LINE_OCTETS:
            raise ValueError("too long")
        return step

    cdef int _read_line(self) except -1:
        cdef bytes line
        cdef list words
        cdef int family
        if self._length < 8 or self._octets[self._length - 2] != c'\r':
            raise ValueError("malformed")
        line = self._octets[6:self._length - 2]
        words = line.split(b" ")
        self.done = True
        if words[0] == b"UNKNOWN":
            return 0             # whatever stands behind it
        if len(words) != 5 or words[0] not in (b"TCP4", b"TCP6"):
            raise ValueError("malformed")
        family = AF_INET if words[0] == b"TCP4" else AF_INET6
        self.source = address_in(family, words[1])
        self.destination = address_in(family, words[2])
        self.source_port = port_in(words[3])
        self.destination_port = port_in(words[4])
        self.known = True
        return 0

    # ------------------------------------------------------------------ version 2

    cdef size_t _feed_block(self, const char *p, size_t n) except? 0:
        cdef size_t whole = self._whole()
        cdef size_t step = min(n, whole - self._length)
        self._keep(p, step)
        if memcmp(self._octets, SIGNATURE, min(self._length, <size_t>SIGNATURE_OCTETS)) != 0:
            raise ValueError("no header")
        if self._length >= FIXED_OCTETS and self._whole() == self._length:
            self._read_block()
        return step

    cdef size_t _whole(self) except 0:
        """How many octets the header has, as far as is known."""
        cdef size_t whole
        if self._length < FIXED_OCTETS:
            return FIXED_OCTETS
        whole = FIXED_OCTETS + (<size_t><uint8_t>self._octets[14] << 8 | <uint8_t>self._octets[15])
        if whole > MOST_OCTETS:
            raise ValueError("too long")
        return whole

    cdef int _read_block(self) except -1:
        cdef uint8_t command = <uint8_t>self._octets[12]
        cdef uint8_t family = <uint8_t>self._octets[13]
        cdef const char *addresses = self._octets + FIXED_OCTETS
        cdef size_t room = self._length - FIXED_OCTETS
        if command != 0x20 and command != 0x21:
            raise ValueError("malformed")
        self.done = True
        if command == 0x20 or family == 0x00:
            return 0             # LOCAL or UNSPEC: whatever stands behind it
        if family == 0x11 and room >= 12:
            self.source = address_text(AF_INET, addresses)
            self.destination = address_text(AF_INET, addresses + 4)
            addresses += 8
        elif family == 0x21 and room >= 36:
            self.source = address_text(AF_INET6, addresses)
            self.destination = address_text(AF_INET6, addresses + 16)
            addresses += 32
        elif family == 0x31 and room >= 216:
            self.known = True
            return 0
        else:
            self.done = False
            raise ValueError("malformed")
        self.source_port = <uint8_t>addresses[0] << 8 | <uint8_t>addresses[1]
        self.destination_port = <uint8_t>addresses[2] << 8 | <uint8_t>addresses[3]
        self.known = True
        return 0


cdef str address_text(int family, const void *packed):
    cdef char text[64]
    inet_ntop(family, packed, text, sizeof(text))
    return (<bytes>text).decode("ascii")


cdef str address_in(int family, bytes word):
    cdef char packed[16]
    # a NUL would end the text before the word's end
    if b"\0" in word or inet_pton(family, PyBytes_AS_STRING(word), packed) != 1:
        raise ValueError("malformed")
    return address_text(family, packed)


cdef int port_in(bytes word) except -1:
    cdef const char *p = PyBytes_AS_STRING(word)
    cdef Py_ssize_t n = PyBytes_GET_SIZE(word)
    cdef Py_ssize_t i
    cdef int port = 0
    if not 1 <= n <= 5 or (n > 1 and p[0] == c'0'):
        raise ValueError("malformed")
    for i in range(n):
        if not is_digit(p[i]):
            raise ValueError("malformed")
        port = port * 10 + (p[i] - 48)
    if port > 65535:
        raise ValueError("malformed")
    return port
