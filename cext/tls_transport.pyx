"""TLS of one connection, between the transport and the protocol that it has without TLS.

Job: a BufferedProtocol towards the loop's transport, and a transport towards the session. Python's ssl does the TLS, by
two memory BIOs; this moves octets. uvloop's own TLS layer costs 40 µs more for a message of two reads and two writes:
it asks OpenSSL for more until it raises, makes a task's worth of objects for each write, and keeps a buffer of 256 KiB
for each connection. Here a read ends when both BIOs are empty, a reply is written at once, and all connections share
one buffer for what comes in.

    tls = TlsTransport(context, ended, timeout_s=60)     ended(tls, None) when the handshake is over, or (tls, why)
    await loop.connect_accepted_socket(lambda: tls, sock)
    # in ended:  tls.set_protocol(session); session.connection_made(tls)

On a connection that has spoken already (STARTTLS): make it with its protocol, `transport.set_protocol(tls)` and
`tls.connection_made(transport)`; the protocol is told the end of the connection from then on, whatever becomes of the
handshake.

Nothing that came before the handshake is in the BIOs, so nothing of it can be taken for what came under TLS
(RFC 3207 §6). What comes in is given to OpenSSL in pieces of PIECE octets, since a memory BIO keeps its largest size:
an idle session that has taken a large message costs what one does that has not.

End of input: close_notify (RFC 8446 §6.1), and an end without one, both are `eof_received` for the protocol: SMTP has
ends of its own. A protocol that wants to say something more may do so. `close` sends close_notify and waits for none.

Fails: a handshake or a record that OpenSSL refuses ends the connection; its alert is sent, for which a peer has
LINGER_S. The exception is what `ended` or `connection_lost` are given.

Bounds: the receive buffer is one for the process; one connection holds at most what its transport's one read brought.
"""

import asyncio
import ssl

cimport cython

cdef enum:
    RAW_OCTETS = 65536                # of one read from a transport
    PIECE = 8192                      # given to OpenSSL at a time

cdef double LINGER_S = 5.0
cdef object RAW = memoryview(bytearray(RAW_OCTETS))

cdef enum Phase:
    SHAKING
    OPEN
    CLOSING                           # close_notify has been sent, or will never be
    ENDED

cdef object WantRead = ssl.SSLWantReadError
cdef tuple Failures = (OSError, ValueError)      # SSLError and CertificateError among them


@cython.final
cdef class TlsTransport:
    def __init__(self, context, ended, protocol=None, *, double timeout_s=60.0, bint server_side=True,
                 server_hostname=None):
        self._context = context
        self._ended = ended
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        self._timeout_s = timeout_s
        self._phase = SHAKING
        self._protocol = None
        self._connected = False
        if protocol is not None:
            self.set_protocol(protocol)

    # ------------------------------------------------------------------ towards the loop's transport

    def connection_made(self, raw):
        self._raw = raw
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._too_late)
        self._shake()

    def get_buffer(self, hint):
        return RAW

    def buffer_updated(self, size_t n):
        cdef size_t taken = 0, step
        while taken < n and self._phase < CLOSING:
            step = min(<size_t>PIECE, n - taken)
            self._incoming.write(RAW[taken:taken + step])
            taken += step
            if self._phase == SHAKING:
                self._shake()
            if self._phase == OPEN:
                self._read()

    def eof_received(self):
        self._no_more = True           # OpenSSL is not told: it would refuse to write any more
        if self._phase == SHAKING:
            self._fail(ConnectionResetError("the connection was closed during the handshake"))
        elif self._phase == OPEN:
            self._read()
        return True                    # the end of the connection is ours to say

    def connection_lost(self, exception):
        cdef object protocol = self._protocol, ended = self._ended
        cdef bint shaking = self._phase == SHAKING
        self._cancel_timer()
        self._phase = ENDED
        self._raw = self._protocol = self._ended = None
        if self._failure is not None:
            exception = self._failure
        if shaking and ended is not None:
            ended(self, exception or ConnectionResetError("the connection was lost during the handshake"))
        if protocol is not None and self._connected:
            protocol.connection_lost(exception)

    def pause_writing(self):
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self):
        if self._protocol is not None:
            self._protocol.resume_writing()

    # ------------------------------------------------------------------ the handshake

    cdef int _shake(self) except -1:
        cdef object ended
        try:
            self._ssl.do_handshake()
        except WantRead:
            self._flush()
            return 0
        except Failures as failure:
            self._fail(failure)
            return 0
        self._cancel_timer()
        self._flush()
        self._phase = OPEN
        ended, self._ended = self._ended, None
        ended(self, None)
        return 0

    def _too_late(self):
        self._timer = None
        if self._phase == SHAKING:
            self._fail(TimeoutError("the handshake takes too long"))

    cdef int _fail(self, failure) except -1:
        """The connection has no use any more; what OpenSSL wants to say about that is said."""
        cdef object ended
        self._cancel_timer()
        self._failure = failure
        self._phase = CLOSING
        if self._raw is not None:
            self._flush()
            self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._raw.abort)
            self._raw.close()
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(self, failure)
        return 0

    cdef int _cancel_timer(self) except -1:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return 0

    # ------------------------------------------------------------------ octets

    cdef int _read(self) except -1:
        """Give the protocol all there is, as long as it wants to read."""
        cdef object buffer
        cdef Py_ssize_t count
        while self._phase == OPEN and not self._paused and self._protocol is not None and not self._at_end:
            try:
                if self._buffered:
                    buffer = self._protocol.get_buffer(-1)
                    count = self._ssl.read(len(buffer), buffer)
                else:
                    buffer = self._ssl.read(RAW_OCTETS)
                    count = len(buffer)
            except WantRead:
                if not self._no_more:
                    break
                count = 0
            except ssl.SSLError as failure:
                self._fail(failure)
                return 0
            if count == 0:
                self._at_end = True
                if not self._protocol.eof_received():
                    self.close()
                break
            if self._buffered:
                self._protocol.buffer_updated(count)
            else:
                self._protocol.data_received(buffer)
            if not (self._no_more or self._incoming.pending or self._ssl.pending()):
                break
        if self._phase == OPEN and self._outgoing.pending:
            self._flush()              # an answer of OpenSSL's own: a change of keys
        return 0

    def _go_on(self):
        if self._phase == OPEN:
            self._read()

    cdef int _flush(self) except -1:
        cdef object octets = self._outgoing.read()
        if octets and self._raw is not None:
            self._raw.write(octets)
        return 0

    # ------------------------------------------------------------------ towards the protocol

    def write(self, data):
        cdef Py_ssize_t length = len(data), sent
        if self._phase != OPEN or length == 0:
            return
        try:
            sent = self._ssl.write(data)
            if sent < length:
                data = memoryview(data)
                while sent < length:   # a record at a time
                    sent += self._ssl.write(data[sent:])
        except ssl.SSLError as failure:
            self._fail(failure)
            return
        self._raw.write(self._outgoing.read())

    def writelines(self, pieces):
        self.write(b"".join(pieces))

    def close(self):
        if self._phase == SHAKING:
            self.abort()
        elif self._phase == OPEN:
            try:
                self._ssl.unwrap()
            except ssl.SSLError:
                pass                   # close_notify is written all the same
            self._flush()
            self._phase = CLOSING
            self._raw.close()

    def abort(self):
        if self._phase != ENDED and self._raw is not None:
            if self._phase == OPEN:
                self._phase = CLOSING
            self._raw.abort()

    def is_closing(self):
        return self._phase >= CLOSING or self._raw is None or self._raw.is_closing()

    def pause_reading(self):
        if not self._paused:
            self._paused = True
            if self._raw is not None and self._phase < CLOSING and not self._no_more:
                self._raw.pause_reading()

    def resume_reading(self):
        if self._paused:
            self._paused = False
            if self._raw is None or self._phase >= CLOSING:
                return
            if not self._no_more:
                self._raw.resume_reading()
            if self._phase == OPEN and (self._no_more or self._incoming.pending or self._ssl.pending()):
                asyncio.get_running_loop().call_soon(self._go_on)

    def is_reading(self):
        return not self._paused and self._phase < CLOSING

    def set_protocol(self, protocol):
        self._protocol = protocol
        self._connected = True
        self._buffered = hasattr(protocol, "get_buffer")
        if self._phase == OPEN and (self._no_more or self._incoming.pending or self._ssl.pending()):
            asyncio.get_running_loop().call_soon(self._go_on)

    def get_protocol(self):
        return self._protocol

    def get_extra_info(self, name, default=None):
        if name == "ssl_object":
            return self._ssl
        if name == "sslcontext":
            return self._context
        if name == "cipher":
            return self._ssl.cipher()
        if name == "peercert":
            return self._ssl.getpeercert()
        return default if self._raw is None else self._raw.get_extra_info(name, default)

    def can_write_eof(self):
        return False

    def get_write_buffer_size(self):
        return 0 if self._raw is None else self._raw.get_write_buffer_size()

    def get_write_buffer_limits(self):
        return self._raw.get_write_buffer_limits()

    def set_write_buffer_limits(self, high=None, low=None):
        if self._raw is not None:
            self._raw.set_write_buffer_limits(high, low)
