"""TLS between a transport and a protocol; documented in cext/tls_transport.pyx."""

cimport cython


@cython.final
cdef class TlsTransport:
    cdef object _raw                     # the loop's transport; None: before and after it
    cdef object _protocol                # None: what comes in waits for one
    cdef object _ended                   # told the end of the handshake, once
    cdef object _context
    cdef object _ssl                     # ssl.SSLObject
    cdef object _incoming                # ssl.MemoryBIO, of what came in
    cdef object _outgoing
    cdef object _failure                 # why it ended, if it was TLS's doing
    cdef object _timer
    cdef double _timeout_s
    cdef int _phase
    cdef bint _connected                 # the protocol is to be told the end of the connection
    cdef bint _buffered                  # it is a BufferedProtocol
    cdef bint _paused
    cdef bint _no_more                   # the transport has nothing more to read
    cdef bint _at_end                    # and the protocol knows

    cdef int _shake(self) except -1
    cdef int _fail(self, failure) except -1
    cdef int _cancel_timer(self) except -1
    cdef int _read(self) except -1
    cdef int _flush(self) except -1
