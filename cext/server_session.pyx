"""The server's side of one SMTP session (RFC 5321), compiled from the receive buffer to the journal.

Job: read commands and mail data, answer each in order, hand complete messages to an Intake, and answer 250 only when
the intake says that the message is safe. The session is an asyncio BufferedProtocol: all sessions of a worker share one
receive buffer, so an idle session holds no buffer at all.

What policy grants the client is asked for once a connection (ClientTerms), and looked up by no command after that.

What a session may do next is looked up in a table (command_order.pyx). While an answer is outstanding (a commit,
a TLS handshake, a decision of somebody outside, the next second of a client that is too fast, memory that is short)
input is kept aside, up to STASH_LIMIT octets; then reading stops.

Fails: what the client gets wrong is answered with the reply that command.pyx or this module names; too many errors,
silence, or a node that drains end the session with 421. A client that is gone loses its unfinished transaction and
nothing else: a message that was complete is ours already, whether or not the 250 could be written.
"""

import json

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int8_t, int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcpy, memmove, memset, strlen
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

from angarium._core.command cimport (
    OFFER_FUTURERELEASE,
    OFFER_PRIORITY,
    VERB_AUTH,
    VERB_BDAT,
    VERB_DATA,
    VERB_EHLO,
    VERB_EXPN,
    VERB_HELO,
    VERB_HELP,
    VERB_LHLO,
    VERB_MAIL,
    VERB_NOOP,
    VERB_QUIT,
    VERB_RCPT,
    VERB_RSET,
    VERB_STARTTLS,
    VERB_VRFY,
    VERB_XCLIENT,
    Path,
    RcptParameters,
    parse_bdat,
    parse_greeting,
    parse_mail,
    parse_nothing,
    parse_rcpt,
    parse_text,
    parse_verb,
    refuse_verb,
)
from angarium._core.client_terms cimport ClientTerms
from angarium._core.command_order cimport (
    DIALOGUE_BDAT,
    DIALOGUE_MAIL,
    DIALOGUE_NEW,
    DIALOGUE_RCPT,
    DIALOGUE_READY,
    DIALOGUE_SPOILT,
    out_of_order,
)
from angarium._core.counters cimport (
    Counters,
    Slot,
    about_now_us,
    address_key,
    observe_message,
    slot_add,
    slot_sub,
)
from angarium._core.decision cimport Answered, Decision, decision_of
from angarium._core.event_log cimport EventLog
from angarium._core.header cimport HeaderFacts, cut_fields, walk_header
from angarium._core.intake cimport Intake
from angarium._core.journal cimport Receiver
from angarium._core.listener_profile cimport ListenerProfile
from angarium._core.mail_data cimport mail_data_ends_in_bare_cr, scan_chunk, scan_mail_data
from angarium._core.memory_budget cimport MEMORY_HARD, MemoryBudget
from angarium._core.octets cimport Span, put, put_decimal
from angarium._core.permission cimport R_NOT_YOUR_PATH, Handling, Permission
from angarium._core.quota cimport QUOTA_LATER, QUOTA_OK, QUOTA_STEP_S
from angarium._core.recipient_policy cimport RECIPIENT_FOREIGN, RECIPIENT_ROUTED, RecipientPolicy
from angarium._core.record cimport (
    DURABILITY_ASYNC,
    DURABILITY_FSYNC,
    DURABILITY_MEMORY,
    MESSAGE_EIGHT_BIT,
    MESSAGE_OVER_QUOTA,
    MESSAGE_REQUIRETLS,
    MESSAGE_SMTPUTF8,
    MESSAGE_TLS_REQUIRED_NO,
    MESSAGE_UNUSUAL,
    TEXT_CLIENT,
    TEXT_ENVID,
    TEXT_GREETING,
    TEXT_LISTENER,
    TEXT_LOGIN,
    TEXT_REVERSE_PATH,
    TEXT_TENANT,
    AcceptedMeta,
    EnvelopeTexts,
    MailBuffer,
    Message,
    Text,
    id_text,
    read_entry,
    write_accepted,
)
from angarium._core.trace_field cimport TRACE_FIELD_OCTETS, TraceFacts, protocol_keyword, write_trace_field
from angarium._core.xclient cimport XClient

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    cdef struct tm:
        int tm_sec
    tm *gmtime_r(const time_t *when, tm *result)
    size_t strftime(char *out, size_t room, const char *format, const tm *when)

cdef extern from "<arpa/inet.h>" nogil:
    enum:
        AF_INET
        AF_INET6
    int inet_pton(int family, const char *text, void *packed)

cdef extern from "<errno.h>" nogil:
    enum:
        ENOSPC
        EDQUOT

cdef enum:
    RECEIVE_OCTETS = 1 << 18     # of the buffer that a worker's sessions share
    STASH_LIMIT = 1 << 16        # of input kept while an answer is outstanding
    AUTH_LINE_OCTETS = 12288     # RFC 4954 §4

cdef double NO_LIMIT_S = float("inf")

cdef enum:                       # what comes next on the wire
    MODE_COMMAND
    MODE_DATA
    MODE_CHUNK
    MODE_AUTH
    MODE_CLOSED

cdef enum:                       # why input is not read on
    WAIT_NOTHING
    WAIT_COMMIT
    WAIT_TLS
    WAIT_POLICY                  # a Decision of somebody outside
    WAIT_RATE
    WAIT_MEMORY

cdef const char *R_OK = b"250 2.0.0 OK\r\n"
cdef const char *R_SENDER_OK = b"250 2.1.0 Sender OK\r\n"
cdef const char *R_RECIPIENT_OK = b"250 2.1.5 Recipient OK\r\n"
cdef const char *R_HOLD_TOO_LONG = b"501 5.5.4 The release is further away than FUTURERELEASE allows\r\n"
cdef const char *R_START_DATA = b"354 End data with <CR><LF>.<CR><LF>\r\n"
cdef const char *R_BYE = b"221 2.0.0 Bye\r\n"
cdef const char *R_VRFY = b"252 2.5.2 Cannot verify; send some mail and I will try\r\n"
cdef const char *R_EXPN = b"502 5.5.1 EXPN is not offered\r\n"
cdef const char *R_HELP = (
    b"214-2.0.0 Commands: HELO EHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP STARTTLS AUTH\r\n"
    b"214 2.0.0 See RFC 5321\r\n")
cdef const char *R_HELP_LMTP = (
    b"214-2.0.0 Commands: LHLO MAIL RCPT DATA BDAT RSET NOOP QUIT VRFY HELP STARTTLS AUTH\r\n"
    b"214 2.0.0 See RFC 2033\r\n")
cdef const char *R_LHLO = b"500 5.5.1 LHLO is for LMTP; send EHLO\r\n"
cdef const char *R_LMTP = b"500 5.5.1 This is LMTP; send LHLO\r\n"
cdef const char *R_LINE_TOO_LONG = b"500 5.5.2 Command line too long\r\n"
cdef const char *R_NO_RELAY = b"550 5.7.1 Relaying denied\r\n"
cdef const char *R_ROUTED = b"550 5.7.1 Relaying denied: the local part names another destination\r\n"
cdef const char *R_UNVERIFIED = b"451 4.4.3 The recipient cannot be verified now; try again later\r\n"
cdef const char *R_AUTH_REQUIRED = b"530 5.7.0 Authentication required\r\n"
cdef const char *R_TLS_FIRST = b"530 5.7.0 Send STARTTLS first\r\n"
cdef const char *R_TOO_MANY_RECIPIENTS = b"452 4.5.3 Too many recipients; send the rest in another transaction\r\n"
cdef const char *R_TOO_LARGE = b"552 5.3.4 Message exceeds the size limit\r\n"
cdef const char *R_HEADER_TOO_LARGE = b"552 5.3.4 Header section exceeds the size limit\r\n"
cdef const char *R_BARE_NEWLINE = \
    b"554 5.6.0 Bare CR or LF in mail data; lines end with CRLF (RFC 5321 section 2.3.8)\r\n"
cdef const char *R_LOOP = b"554 5.4.6 Too many Received fields; this is a mail loop\r\n"
cdef const char *R_MEMORY_FULL = b"452 4.3.1 Out of memory for mail; try again later\r\n"
cdef const char *R_STORAGE_FULL = b"452 4.3.1 Out of disk space for mail; try again later\r\n"
cdef const char *R_STORAGE_FAILED = b"451 4.3.0 The message could not be written to disk; try again later\r\n"
cdef const char *R_DRAINING = b"421 4.3.2 Shutting down; try again later\r\n"
cdef const char *R_IDLE = b"421 4.4.2 Idle for too long\r\n"
cdef const char *R_DATA_TIMEOUT = b"421 4.4.2 Mail data took too long\r\n"
cdef const char *R_ERRORS = b"421 4.7.0 Too many errors\r\n"
cdef const char *R_TRANSACTIONS = b"421 4.7.0 Enough mail for one session; connect again\r\n"
cdef const char *R_NODE_FULL = b"421 4.3.2 Too many connections; try again later\r\n"
cdef const char *R_CLIENT_FULL = b"421 4.7.0 Too many connections from your address; try again later\r\n"
cdef const char *R_NO_TLS = b"502 5.5.1 STARTTLS is not offered\r\n"
cdef const char *R_TLS_ACTIVE = b"503 5.5.1 TLS is active already\r\n"
cdef const char *R_TLS_READY = b"220 2.0.0 Ready to start TLS\r\n"
cdef const char *R_NO_AUTH = b"502 5.5.1 AUTH is not offered\r\n"
cdef const char *R_AUTH_DONE = b"503 5.5.1 Already authenticated\r\n"
cdef const char *R_AUTH_MECHANISM = b"504 5.5.4 Unknown authentication mechanism\r\n"
cdef const char *R_AUTH_OK = b"235 2.7.0 Authentication successful\r\n"
cdef const char *R_AUTH_UNAVAILABLE = b"454 4.7.0 Authentication is not possible now; try again later\r\n"
cdef const char *R_AUTH_BANNED = b"454 4.7.0 Too many failed log-ins; try again later\r\n"
cdef const char *R_AUTH_FAILED = b"535 5.7.8 Authentication credentials invalid\r\n"
cdef const char *R_AUTH_CANCELLED = b"501 5.7.0 Authentication cancelled\r\n"
cdef const char *R_AUTH_SYNTAX = b"501 5.5.2 Response cannot be decoded\r\n"
cdef const char *R_AUTH_ARGUMENTS = b"501 5.5.4 Syntax: AUTH mechanism [initial-response]\r\n"
cdef const char *XCLIENT_LINE = b"250-XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT\r\n"
cdef const char *R_CHUNK_LOST = b"421 4.5.0 The end of the chunk cannot be known\r\n"


cdef inline double monotonic() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec + t.tv_nsec * 1e-9


cdef uint64_t key_of(bytes address) noexcept:
    """What counts as one client (counters.pxd), from the address as text."""
    cdef unsigned char packed[16]
    if inet_pton(AF_INET, PyBytes_AS_STRING(address), packed) == 1:
        return address_key(packed, 4)
    if inet_pton(AF_INET6, PyBytes_AS_STRING(address), packed) == 1:
        return address_key(packed, 16)
    return address_key(packed, 0)


cdef inline bint is_auth(const char *p, size_t n) noexcept nogil:
    """Whether the line is an AUTH command, which may be longer than others (RFC 4954 §4)."""
    return (n > 5 and (p[0] | 32) == c'a' and (p[1] | 32) == c'u' and (p[2] | 32) == c't' and (p[3] | 32) == c'h'
            and p[4] == c' ')


cdef inline void count_reply(uint64_t *slots, const char *reply, uint64_t times) noexcept nogil:
    if reply[0] == c'2':
        slot_add(slots, Slot.INGRESS_REPLIES_2XX, times)
    elif reply[0] == c'3':
        slot_add(slots, Slot.INGRESS_REPLIES_3XX, times)
    elif reply[0] == c'4':
        slot_add(slots, Slot.INGRESS_REPLIES_4XX, times)
    else:
        slot_add(slots, Slot.INGRESS_REPLIES_5XX, times)


cdef inline uint64_t unix_us() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <uint64_t>t.tv_sec * 1000000 + <uint64_t>t.tv_nsec // 1000


cdef class Reception:
    def __init__(self, Counters counters, EventLog events, Intake intake, MemoryBudget memory=None):
        self.counters = counters
        self.events = events
        self.intake = intake
        self.memory = MemoryBudget(counters) if memory is None else memory
        octets = PyByteArray_FromStringAndSize(NULL, RECEIVE_OCTETS)
        self._receive = PyByteArray_AS_STRING(octets)
        self._view = memoryview(octets)          # it keeps them where they are, and so does a transport that holds it
        self._date_second = -1

    def session(self, ListenerProfile profile, str client=None) -> ServerSession:
        """A protocol for a new connection. client: the address of its client, where a proxy has said it."""
        return ServerSession(self, profile, client)

    cdef double now(self) noexcept:
        return monotonic()

    cdef size_t date(self, uint64_t unix_us) noexcept:
        """Fill _date with the date-time of RFC 5322 §3.3; returns its length."""
        cdef time_t second = unix_us // 1000000
        cdef tm parts
        if second != self._date_second:
            self._date_second = second
            gmtime_r(&second, &parts)
            self._date_length = strftime(self._date, 40, "%a, %d %b %Y %H:%M:%S +0000", &parts)
        return self._date_length

    def sweep(self, double most_s=NO_LIMIT_S):
        """End what has been silent for too long, let throttled sessions go on. Call it about once a second.

        It takes most_s, and a session: `unswept` says that it is not at the end, and the next call goes on there.
        """
        cdef ServerSession session = self._sweep_at if self.unswept else self._first
        cdef double now = monotonic()
        cdef bint worked
        while session is not None:
            self._sweep_at = session._next       # it moves on when that one leaves
            worked = True
            if session._mode == MODE_CLOSED:
                # the last reply has been written, and the client does not take it
                worked = now > session._deadline and session.transport is not None
                if worked:
                    session.transport.abort()
            elif session._waiting_for == WAIT_RATE:
                session._throttled = False
                session._rate_count = 0
                session._go_on()
            elif session._waiting_for == WAIT_NOTHING and now > session._deadline:
                slot_add(self.counters.slots, Slot.INGRESS_REJECTED_IDLE, 1)
                session._abort(R_IDLE)
            elif session._waiting_for == WAIT_NOTHING and session._in_data() and now > session._data_deadline:
                slot_add(self.counters.slots, Slot.INGRESS_REJECTED_IDLE, 1)
                session._abort(R_DATA_TIMEOUT)
            else:
                worked = False
            session = self._sweep_at
            if worked and session is not None and monotonic() >= now + most_s:
                self.unswept = True
                return
        self.unswept = False

    def pace(self, double most_s=NO_LIMIT_S):
        """Let sessions go on that were made to wait for want of memory, when their time is over or there is some again.

        Call it on every tick. It takes most_s, and a session; the next call goes on where this one stopped.
        """
        cdef ServerSession session
        cdef double now
        if not self._paced:
            return
        session = self._pace_at
        if session is None:
            session = self._first
            self._paced = False
        now = monotonic()
        while session is not None:
            self._pace_at = session._next
            if session._waiting_for == WAIT_MEMORY:
                if self.memory.state < MEMORY_HARD or now >= session._pause_until:
                    session._end_pause(now)
                    if self._pace_at is not None and monotonic() >= now + most_s:
                        self._paced = True
                        return
                else:
                    self._paced = True
            session = self._pace_at

    def follow(self, dict successors, double most_s=NO_LIMIT_S) -> bool:
        """Other profiles hold in the place of these from now on (old -> new), because the configuration has changed.

        A session between two transactions goes on under its new one at once; a transaction that is under way ends under
        the terms that it began with. What each is granted is asked anew, for most_s, and one of them. True: call it
        again in another turn of the loop, with no more successors. Who begins a transaction meanwhile follows at once.
        """
        cdef ServerSession session = self._first
        cdef ListenerProfile profile
        cdef double until = monotonic() + most_s
        if successors:
            for old, new in successors.items():
                (<ListenerProfile?>old).successor = <ListenerProfile?>new
                (<ListenerProfile>old).forget_clients()
            while session is not None:
                profile = session.profile
                while profile.successor is not None:
                    profile = profile.successor
                if session.profile is not profile:
                    session.profile.successor = profile      # nobody holds what came in between
                session = session._next
            self._follow_at = self._first
        session = self._follow_at
        while session is not None:
            self._follow_at = session._next
            if session.profile.successor is not None and session._waiting_for == WAIT_NOTHING and (
                session._mode == MODE_COMMAND and session._dialogue <= DIALOGUE_READY
            ):
                session._renew()
                if self._follow_at is not None and monotonic() >= until:
                    return True
            session = self._follow_at
        return False

    def drain(self, double most_s=NO_LIMIT_S) -> bool:
        """No new transactions: sessions between two transactions end now with 421, the others when theirs is over.

        It takes most_s, and a session. True: there may be more to end now; call it again in another turn of the loop.
        """
        cdef ServerSession session = self._first
        cdef ServerSession following
        cdef double until = monotonic() + most_s
        self.draining = True
        while session is not None:
            following = session._next
            if session._waiting_for == WAIT_MEMORY:
                session._end_pause(monotonic())
            if session._leave_if_free() and following is not None and monotonic() >= until:
                return True
            session = following
        return False


cdef class ServerSession(Receiver):
    def __init__(self, Reception reception, ListenerProfile profile, str client=None):
        self.reception = reception
        self.profile = profile
        self._address = client
        self._mode = MODE_COMMAND
        self._dialogue = DIALOGUE_NEW
        self._greeting_name = b""
        self._login = b""
        self._client = b""
        self._client_name = b""
        self._origin = b""
        self._terms = NOBODY
        self._reverse_path = b""
        self._envid = b""

    def __dealloc__(self):
        free(self._out)
        free(self._stash)
        free(self._recipients)

    @property
    def client(self) -> str:
        """The client's address."""
        return self._client.decode("ascii")

    # ------------------------------------------------------------------ asyncio's side

    def introduce(self, bytes login, bytes origin):
        """Who speaks is known before the first word: a user of this machine, on the kernel's word.

        `login` is the user's log-in; `origin` is what the trace field says in place of an address: printable ASCII
        without parentheses, 200 octets at most. Call it before connection_made.
        """
        if len(origin) > 200 or not origin.isascii() or b"(" in origin or b")" in origin or b"\\" in origin:
            raise ValueError("this cannot stand in a comment of the trace field")
        self._login = login
        self._origin = origin

    def connection_made(self, transport):
        cdef Reception reception = self.reception
        cdef uint64_t *slots = reception.counters.slots
        self.transport = transport
        self._deadline = monotonic() + self.profile.idle_timeout_s
        if self._address is None:
            peer = transport.get_extra_info("peername")
            # "" is a client of a Unix socket; of one that is gone already nothing is known
            self._address = peer[0] if isinstance(peer, tuple) else "" if isinstance(peer, (str, bytes)) else "unknown"
        # without the zone of a link-local address, which means nothing to anybody else (RFC 5321 §4.1.3)
        self._client = self._address.partition("%")[0].encode("ascii", "replace")
        self._client_key = key_of(self._client)
        ssl_object = transport.get_extra_info("ssl_object")
        if ssl_object is not None:
            self._note_tls(ssl_object)
        # into the list of sessions
        self._next = reception._first
        if self._next is not None:
            self._next._previous = self
        reception._first = self
        reception.sessions += 1
        self._counted = True
        if reception.watch is not None:
            self._show("+", self.tls_version if self.tls else b"")
        slot_add(slots, Slot.INGRESS_CONNECTIONS_TOTAL, 1)
        slot_add(slots, <int>Slot.LISTENER_CONNECTIONS + self.profile.row(reception.counters), 1)
        slot_add(slots, Slot.INGRESS_CONNECTIONS, 1)
        if reception.counters.client_opened(self._client_key) > self.profile.connections_per_client:
            slot_add(slots, Slot.INGRESS_REFUSED_CLIENT, 1)
            slot_add(slots, <int>Slot.LISTENER_TURNED_AWAY + self.profile.row(reception.counters), 1)
            self._abort(R_CLIENT_FULL)
        elif reception.counters.node_total(Slot.INGRESS_CONNECTIONS) > self.profile.connections:
            slot_add(slots, Slot.INGRESS_REFUSED_NODE, 1)
            slot_add(slots, <int>Slot.LISTENER_TURNED_AWAY + self.profile.row(reception.counters), 1)
            self._abort(R_NODE_FULL)
        elif reception.draining:
            self._abort(R_DRAINING)
        else:
            self._settle_terms()
            if self.profile.xclient is not None:
                self._may_xclient = self.profile.xclient(self._address)
            transport.write(self.profile._greeting)
            if reception.watch is not None:
                self._show("S", self.profile._greeting)

    cdef int _settle_terms(self) except -1:
        """Ask what the client is granted: at the start, and again whenever it has proved who it is."""
        if self.profile.identity_policy is None:
            self._terms = self.profile.policy_of(self._address)
        else:
            self._terms = self.profile.terms_of(self._address, self._login.decode("utf-8"), self.certificate)
        return 0

    def _note_tls(self, ssl_object):
        self.tls = True
        self.tls_version = ssl_object.version().encode("ascii")
        self.tls_cipher = ssl_object.cipher()[0].encode("ascii")
        if self.profile.client_certificate is not None:
            self.certificate = self.profile.client_certificate(self._address, ssl_object)
        slot_add(self.reception.counters.slots, Slot.INGRESS_TLS_HANDSHAKES, 1)

    def get_buffer(self, hint):
        return self.reception._view

    def buffer_updated(self, Py_ssize_t n):
        if self._mode == MODE_CLOSED:
            return
        self._deadline = monotonic() + self.profile.idle_timeout_s
        self._read(self.reception._receive, n)
        self._flush()
        if self.reception.draining:
            self._leave_if_free()

    def feed(self, bytes data):
        """Octets from the client, for tests that have no transport."""
        cdef size_t n = PyBytes_GET_SIZE(data)
        cdef size_t done = 0
        cdef size_t step
        while done < n:
            step = min(n - done, <size_t>RECEIVE_OCTETS)
            memcpy(self.reception._receive, PyBytes_AS_STRING(data) + done, step)
            self.buffer_updated(step)
            done += step

    def eof_received(self):
        # the client has said all it will: answer what is outstanding, then close
        self._eof = True
        return (self._waiting_for == WAIT_COMMIT or self._waiting_for == WAIT_RATE
                or self._waiting_for == WAIT_POLICY or self._waiting_for == WAIT_MEMORY)

    def connection_lost(self, exception):
        self._mode = MODE_CLOSED
        self.closed = True
        self._finish()

    def pause_writing(self):
        # the client does not read its replies: stop reading its commands
        self._write_paused = True
        self._pause_reading()

    def resume_writing(self):
        self._write_paused = False
        if self._waiting_for == WAIT_NOTHING and self._mode != MODE_CLOSED:
            self._go_on()

    def _pause_reading(self):
        if not self._read_paused and self.transport is not None and not self.closed:
            self._read_paused = True
            self.transport.pause_reading()

    cdef int _finish(self) except -1:
        """Leave the list of sessions and let go of everything."""
        cdef Reception reception = self.reception
        if self._counted:
            self._counted = False
            if reception.watch is not None:
                self._show("-", b"")
            slot_sub(reception.counters.slots, Slot.INGRESS_CONNECTIONS, 1)
            reception.counters.client_closed(self._client_key)
            reception.sessions -= 1
            if self._previous is not None:
                self._previous._next = self._next
            else:
                reception._first = self._next
            if self._next is not None:
                self._next._previous = self._previous
            if reception._sweep_at is self:
                reception._sweep_at = self._next
            if reception._pace_at is self:
                reception._pace_at = self._next
            if reception._follow_at is self:
                reception._follow_at = self._next
            self._next = self._previous = None
        if self._waiting_for != WAIT_COMMIT:     # else `committed` still tells the event log of the message
            self._reset()
        self._forget_question()
        self._exchange = None
        self.transport = None
        self._stash_length = 0
        self._out_length = 0
        return 0

    # ------------------------------------------------------------------ replies

    cdef int _say(self, const char *octets, size_t n) except -1:
        cdef char *moved
        cdef size_t capacity
        if self._out_length + n > self._out_capacity:
            capacity = (self._out_length + n) * 2 if self._out_length + n > 256 else 512
            moved = <char *>realloc(self._out, capacity)
            if moved == NULL:
                raise MemoryError
            self._out = moved
            self._out_capacity = capacity
        memcpy(self._out + self._out_length, octets, n)
        self._out_length += n
        return 0

    cdef int _reply(self, const char *reply) except -1:
        self._say(reply, strlen(reply))
        count_reply(self.reception.counters.slots, reply, 1)
        return self._note_error() if reply[0] == c'5' else 0

    cdef int _repeat(self, const char *reply, uint32_t recipients) except -1:
        """In LMTP, the reply to the end of the mail data again for every further recipient (RFC 2033 §4.2)."""
        cdef uint32_t _i
        if not self.profile.lmtp or recipients < 2 or self._mode == MODE_CLOSED:
            return 0
        for _i in range(recipients - 1):
            self._say(reply, strlen(reply))
        count_reply(self.reception.counters.slots, reply, recipients - 1)
        return 0

    cdef int _note_error(self) except -1:
        self._errors += 1
        if self.profile.errors and self._errors >= self.profile.errors and self._mode != MODE_CLOSED:
            slot_add(self.reception.counters.slots, Slot.INGRESS_REJECTED_ERRORS, 1)
            self._abort(R_ERRORS)
        return 0

    cdef int _reject(self, const char *reply, int slot, const char *path, size_t path_length) except -1:
        """Refuse mail (not just a malformed command): counted by reason and logged."""
        self._note_rejection(reply, slot, path, path_length, 0)
        return self._reply(reply)

    cdef int _note_rejection(self, const char *reply, int slot, const char *path, size_t path_length,
                             uint32_t recipients) except -1:
        """Count and log a refusal, before anything is forgotten. `recipients`: of a message that is refused whole."""
        cdef Text client, greeting, listener, login, tenant, permission, reverse_path, recipient
        cdef Counters counters = self.reception.counters
        slot_add(counters.slots, slot, 1)
        slot_add(counters.slots, <int>Slot.LISTENER_REFUSED + self.profile.row(counters), 1)
        set_text(&client, self._client)
        set_text(&greeting, self._greeting_name)
        set_text(&listener, self.profile.name)
        set_text(&login, self._login)
        set_text(&tenant, self._terms.tenant)
        set_text(&permission, b"" if self._terms.permission is None else self._terms.permission.name)
        set_text(&reverse_path, self._reverse_path)
        recipient.octets = path
        recipient.length = path_length
        self.reception.events.rejected(client, greeting, listener, login, tenant, permission, reverse_path, recipient,
                                       self._recipients, recipients, reply)
        return 0

    cdef int _flush(self) except -1:
        """Write the replies gathered so far in one piece."""
        if self._out_length and self.transport is not None:
            octets = PyBytes_FromStringAndSize(self._out, self._out_length)
            self._out_length = 0
            self.transport.write(octets)
            if self.reception.watch is not None:
                self._show("S", octets)
            if self._mode == MODE_CLOSED:
                self.transport.close()
        return 0

    cdef int _show(self, str direction, bytes octets) except -1:
        """Somebody watches: C: and S: as in transcripts, +: a connection, *: TLS, A: a log-in's line, -: its end."""
        self.reception.watch(<size_t><void *>self, direction, self._client, self.profile.name, octets)
        return 0

    cdef int _abort(self, const char *reply) except -1:
        """Say a last reply and close."""
        if self._mode == MODE_CLOSED:
            return 0
        self._mode = MODE_CLOSED
        self._say(reply, strlen(reply))
        if reply[0] == c'4':
            slot_add(self.reception.counters.slots, Slot.INGRESS_REPLIES_4XX, 1)
        else:
            slot_add(self.reception.counters.slots, Slot.INGRESS_REPLIES_2XX, 1)
        self._stash_length = 0
        return self._flush()

    # ------------------------------------------------------------------ input

    cdef int _read(self, const char *p, size_t n) except -1:
        cdef size_t taken
        if self._waiting_for != WAIT_NOTHING or self._stash_length or self._write_paused:
            self._keep(p, n)
            if self._waiting_for == WAIT_NOTHING and not self._write_paused:
                self._go_on()
            return 0
        taken = self._consume(p, n)
        if taken < n and self._mode != MODE_CLOSED:
            self._keep(p + taken, n - taken)
        return 0

    cdef int _keep(self, const char *p, size_t n) except -1:
        """Keep input for later; stop reading when that is much."""
        cdef char *moved
        cdef size_t capacity
        if self._stash_length + n > self._stash_capacity:
            capacity = self._stash_length + n if self._stash_length + n > 512 else 512
            moved = <char *>realloc(self._stash, capacity)
            if moved == NULL:
                raise MemoryError
            self._stash = moved
            self._stash_capacity = capacity
        memcpy(self._stash + self._stash_length, p, n)
        self._stash_length += n
        if self._stash_length > STASH_LIMIT:
            self._pause_reading()
        return 0

    cdef int _go_on(self) except -1:
        """Nothing is outstanding any more: take the input that was kept."""
        cdef size_t taken
        self._waiting_for = WAIT_RATE if self._throttled else WAIT_NOTHING
        if self._consuming:
            return 0             # the answer came while its command was being read: the reader goes on by itself
        if self._throttled:
            return self._flush()
        if self._stash_length:
            taken = self._consume(self._stash, self._stash_length)
            if self._mode == MODE_CLOSED:
                taken = self._stash_length
            if taken < self._stash_length:
                memmove(self._stash, self._stash + taken, self._stash_length - taken)
            self._stash_length -= taken
            if self._stash_length == 0:
                free(self._stash)
                self._stash = NULL
                self._stash_capacity = 0
        self._flush()
        if self.reception.draining:
            self._leave_if_free()
        if self._waiting_for == WAIT_NOTHING and self._mode != MODE_CLOSED:
            if self._eof:
                self.transport.close()
            elif self._read_paused and not self._write_paused and self._stash_length <= STASH_LIMIT:
                self._read_paused = False
                self.transport.resume_reading()
        return 0

    cdef Decision _ask(self, Answered answered):
        """Read no further until the question is answered: `answered` is called then, and asks `_is_answer` first."""
        self._question += 1
        self._waiting_for = WAIT_POLICY
        return decision_of(self, self._question, answered)

    cdef bint _is_answer(self, uint32_t question) noexcept:
        """Whether this is the question that the session waits for; if so, it waits no more."""
        if self._waiting_for != WAIT_POLICY or question != self._question or self._mode == MODE_CLOSED:
            return False
        self._waiting_for = WAIT_NOTHING
        self._deadline = monotonic() + self.profile.idle_timeout_s
        return True

    cdef void _forget_question(self) noexcept:
        """Whatever was asked, its answer means nothing any more."""
        self._question += 1
        if self._waiting_for == WAIT_POLICY:
            self._waiting_for = WAIT_NOTHING

    cdef int _pace(self, double seconds) except -1:
        """Memory is short: nothing more is read from this client for so long (0: there is enough of it)."""
        if seconds == 0 or self._mode == MODE_CLOSED:
            return 0
        slot_add(self.reception.counters.slots, Slot.INGRESS_PACED, 1)
        self._waiting_for = WAIT_MEMORY
        self._paused_at = monotonic()
        self._pause_until = self._paused_at + seconds
        self.reception._paced = True
        self._pause_reading()
        return 0

    cdef int _end_pause(self, double now) except -1:
        """The time that it was made to wait is not counted against the client."""
        self._deadline = now + self.profile.idle_timeout_s
        self._data_deadline += now - self._paused_at
        return self._go_on()

    cdef bint _leave_if_free(self) except -1:
        """The node shuts down: end the session if it stands between two transactions. Whether it does."""
        if self._waiting_for == WAIT_NOTHING and self._mode == MODE_COMMAND and self._dialogue <= DIALOGUE_READY:
            self._abort(R_DRAINING)
            return True
        return False

    cdef size_t _consume(self, const char *p, size_t n) except? 0:
        """Take octets from p[:n] until they are used up, incomplete, or an answer is outstanding. Returns how many."""
        cdef size_t position = 0
        cdef size_t length, limit
        cdef const char *newline
        self._consuming = True
        while position < n and self._waiting_for == WAIT_NOTHING and not self._write_paused:
            if self._mode == MODE_DATA:
                position += self._take_data(p + position, n - position)
                continue
            if self._mode == MODE_CHUNK:
                position += self._take_chunk(p + position, n - position)
                continue
            if self._mode == MODE_CLOSED:
                position = n
                break
            newline = <const char *>memchr(p + position, c'\n', n - position)
            limit = AUTH_LINE_OCTETS if self._mode == MODE_AUTH else self.profile.command_octets
            if n - position > limit and self.tls and is_auth(p + position, n - position):
                limit = AUTH_LINE_OCTETS
            if newline == NULL:
                if n - position > limit:
                    self._skipping_line = True
                if self._skipping_line:
                    position = n
                break
            length = newline - (p + position)
            if self._skipping_line or length > limit:
                self._skipping_line = False
                position += length + 1
                self._exchange = None
                if self._mode == MODE_AUTH:
                    self._mode = MODE_COMMAND
                self._reply(R_LINE_TOO_LONG)
                continue
            newline = p + position
            position += length + 1
            if length and newline[length - 1] == c'\r':
                length -= 1
            if self._mode == MODE_AUTH:
                self._auth_step(newline, length)
            else:
                self._command(newline, length)
        self._consuming = False
        if self._waiting_for == WAIT_TLS:
            return n             # what stands behind STARTTLS in plaintext may be injected (RFC 3207 §6)
        return position

    cdef int _command(self, const char *line, size_t n) except -1:
        cdef size_t arguments = 0
        cdef int verb
        cdef const char *refusal
        cdef Span text
        cdef uint64_t *slots = self.reception.counters.slots
        cdef int64_t second = <int64_t>self._deadline
        slot_add(slots, Slot.INGRESS_COMMANDS_TOTAL, 1)
        if second != self._rate_second:
            self._rate_second = second
            self._rate_count = 0
        self._rate_count += 1
        if self._rate_count == self.profile.commands_per_second:
            slot_add(slots, Slot.INGRESS_THROTTLED, 1)
            self._throttled = True
            self._waiting_for = WAIT_RATE        # after this command and its answer, until the next sweep
        verb = parse_verb(line, n, &arguments)
        if self.reception.watch is not None:
            self._show("C", PyBytes_FromStringAndSize(line, n))
        refusal = out_of_order(self._dialogue, verb, self.profile.lmtp)
        if refusal != NULL and not (verb == VERB_BDAT):
            return self._reply(refusal)
        if verb == VERB_MAIL:
            return self._do_mail(line, n, arguments)
        if verb == VERB_RCPT:
            return self._do_rcpt(line, n, arguments)
        if verb == VERB_BDAT:
            return self._do_bdat(line, n, arguments)
        if verb == VERB_DATA:
            refusal = parse_nothing(line, n, arguments)
            if refusal != NULL:
                return self._misspelt(refusal)
            self._start_data()
            self._mode = MODE_DATA
            return self._reply(R_START_DATA)
        if verb == VERB_EHLO or verb == VERB_HELO or verb == VERB_LHLO:
            if self.profile.lmtp != (verb == VERB_LHLO):
                return self._misspelt(R_LMTP if self.profile.lmtp else R_LHLO)      # RFC 2033 §4.1
            return self._do_greeting(verb, line, n, arguments)
        if verb == VERB_RSET or verb == VERB_QUIT:
            refusal = parse_nothing(line, n, arguments)
            if refusal != NULL:
                return self._misspelt(refusal)
            if verb == VERB_QUIT:
                return self._abort(R_BYE)
            self._reset()
            if self._dialogue > DIALOGUE_READY:
                self._dialogue = DIALOGUE_READY
            return self._reply(R_OK)
        if verb == VERB_NOOP or verb == VERB_HELP or verb == VERB_VRFY or verb == VERB_EXPN:
            refusal = parse_text(line, n, arguments, verb == VERB_VRFY or verb == VERB_EXPN, &text)
            if refusal != NULL:
                return self._misspelt(refusal)
            if verb == VERB_NOOP:
                return self._reply(R_OK)
            if verb == VERB_HELP:
                return self._reply(R_HELP_LMTP if self.profile.lmtp else R_HELP)
            return self._reply(R_VRFY if verb == VERB_VRFY else R_EXPN)
        if verb == VERB_STARTTLS:
            return self._do_start_tls(line, n, arguments)
        if verb == VERB_AUTH:
            return self._do_auth(line, n, arguments)
        if verb == VERB_XCLIENT and self._may_xclient:
            return self._do_xclient(line, n, arguments)
        return self._misspelt(refuse_verb(line, n))

    cdef int _misspelt(self, const char *reply) except -1:
        """Refuse a command that is none, or is not written as it should be."""
        slot_add(self.reception.counters.slots, Slot.INGRESS_REJECTED_SYNTAX, 1)
        return self._reply(reply)

    cdef uint32_t _offers(self) noexcept:
        """What its last EHLO offered, whatever the next one would, as far as it is for this client."""
        cdef uint32_t offers = self._offered
        if self.profile.recipient_policy is not None and not self._may_relay():
            offers &= ~<uint32_t>OFFER_FUTURERELEASE     # a stranger's mail is not kept for him
        return offers

    cdef void _note_offers(self) noexcept:
        """The client has been greeted: by EHLO, what it says is offered; by HELO, nothing."""
        self._offered = 0
        if self._extended:
            self._offered = self.profile._offers_tls if self.tls else self.profile._offers_plain

    cdef bint _may_relay(self) noexcept:
        return self._terms.may_relay or PyBytes_GET_SIZE(self._login) > 0

    cdef int _renew(self) except -1:
        """The configuration has changed: from here on what it says now holds, whatever was asked for before."""
        cdef double idle_s = self.profile.idle_timeout_s
        while self.profile.successor is not None:
            self.profile = self.profile.successor
        self._deadline += self.profile.idle_timeout_s - idle_s
        if not self._spoken_for:
            self._may_xclient = self.profile.xclient is not None and self.profile.xclient(self._address)
            if self.certificate is not None:
                self.certificate = None      # what it is known as, and whether it may relay, is asked again
                if self.profile.client_certificate is not None:
                    self.certificate = self.profile.client_certificate(
                        self._address, self.transport.get_extra_info("ssl_object"))
        return self._settle_terms()

    cdef int _do_greeting(self, int verb, const char *line, size_t n, size_t arguments) except -1:
        cdef Span name
        cdef const char *refusal = parse_greeting(line, n, arguments, &name)
        if refusal != NULL:
            return self._misspelt(refusal)
        if self.reception.draining:
            return self._abort(R_DRAINING)
        if self.profile.successor is not None:
            self._renew()
        self._reset()
        self._dialogue = DIALOGUE_READY
        self._greeting_name = PyBytes_FromStringAndSize(line + name.start, name.length)
        self._extended = verb != VERB_HELO
        self._note_offers()
        if not self._extended:
            self._say(b"250 ", 4)
            self._say(PyBytes_AS_STRING(self.profile.hostname), PyBytes_GET_SIZE(self.profile.hostname))
            self._say(b"\r\n", 2)
        else:
            self._say(b"250-", 4)
            self._say(PyBytes_AS_STRING(self.profile.hostname), PyBytes_GET_SIZE(self.profile.hostname))
            self._say(b"\r\n", 2)
            if self._may_xclient:
                self._say(XCLIENT_LINE, strlen(XCLIENT_LINE))
            if self.profile.future_release_s and (self._terms.may_relay or self.profile.mechanisms):
                self._say_future_release()
            rest = self.profile._ehlo_tls if self.tls else self.profile._ehlo_plain
            if self.tls and self.profile._ehlo_certified is not None and self.certificate is not None:
                rest = self.profile._ehlo_certified
            if self._terms.permission is not None:
                rest = self._with_own_limits(rest)
            self._say(PyBytes_AS_STRING(rest), PyBytes_GET_SIZE(rest))
        slot_add(self.reception.counters.slots, Slot.INGRESS_REPLIES_2XX, 1)
        return 0

    cdef bytes _with_own_limits(self, bytes lines):
        """EHLO lines with the limits of the client's permission, where they are lower than the listener's."""
        cdef Permission permission = self._terms.permission
        cdef uint64_t octets = self._most_octets()
        if octets != self.profile.message_octets:
            lines = lines.replace(b"-SIZE %d\r\n" % self.profile.message_octets, b"-SIZE %d\r\n" % octets, 1)
        if 0 < permission.recipients < self.profile.recipients:
            lines = lines.replace(b" RCPTMAX=%d" % self.profile.recipients, b" RCPTMAX=%d" % permission.recipients, 1)
        return lines

    cdef int _say_future_release(self) except -1:
        """The EHLO line of RFC 4865 §3: the longest interval, and the latest time, which is different each time."""
        cdef char line[80]
        cdef tm parts
        cdef time_t latest = unix_us() // 1000000 + self.profile.future_release_s
        cdef size_t n = put(line, b"250-FUTURERELEASE ", 18)
        n += put_decimal(line + n, self.profile.future_release_s)
        gmtime_r(&latest, &parts)
        n += strftime(line + n, 30, " %Y-%m-%dT%H:%M:%SZ\r\n", &parts)
        return self._say(line, n)

    cdef const char *_settle_hold(self) noexcept:
        """When the message is to be released (RFC 4865), or the reply that refuses it. A time that is past is now."""
        cdef uint64_t now = unix_us() // 1000000
        cdef uint64_t until = self._mail.hold if self._mail.hold_is_until else now + self._mail.hold
        if until > now + self.profile.future_release_s:
            return R_HOLD_TOO_LONG
        self._hold_until = until if until > now else 0
        return NULL

    cdef int _grant_priority(self) except -1:
        """Answer MAIL. A priority over the highest one is lowered to it, and the reply says so (RFC 6710 §4.1)."""
        cdef char reply[100]
        cdef size_t n
        cdef int granted = self._mail.priority       # 0 unless the client says otherwise
        if granted > self._terms.highest_priority:
            granted = self._terms.highest_priority
        self._priority = granted
        if granted == self._mail.priority or self._offered & OFFER_PRIORITY == 0:
            return self._reply(R_SENDER_OK)
        n = put(reply, b"250 2.3.6 ", 10)
        if granted < 0:
            n += put(reply + n, b"-", 1)
        n += put_decimal(reply + n, granted if granted > 0 else -granted)
        n += put(reply + n, b" is the highest priority here, and this message has it\r\n", 56)
        reply[n] = 0
        return self._reply(reply)

    cdef int _do_mail(self, const char *line, size_t n, size_t arguments) except -1:
        cdef Path path
        cdef const char *refusal
        if self.profile.successor is not None:
            self._renew()
        if self.profile.authentication_required and not PyBytes_GET_SIZE(self._login):
            return self._reply(R_AUTH_REQUIRED if self.tls else R_TLS_FIRST)
        if self.reception.draining:
            return self._abort(R_DRAINING)
        if self.profile.transactions and self._transactions >= self.profile.transactions:
            return self._abort(R_TRANSACTIONS)
        refusal = parse_mail(line, n, arguments, self._offers(), &path, &self._mail)
        if refusal != NULL:
            return self._misspelt(refusal)
        if self._mail.has_hold:
            refusal = self._settle_hold()
            if refusal != NULL:
                return self._misspelt(refusal)
        self._reverse_path = PyBytes_FromStringAndSize(line + path.mailbox.start, path.mailbox.length)
        if self._terms.permission is not None and not self._may_begin():
            return 0
        if self._mail.has_size and self._most_octets() and self._mail.size > self._most_octets():
            return self._reject(R_TOO_LARGE, Slot.INGRESS_REJECTED_SIZE, NULL, 0)
        refusal = self.reception.intake.refusal()
        if refusal != NULL:
            return self._reject(refusal, Slot.INGRESS_REJECTED_STORAGE, NULL, 0)
        if self.reception.memory.refuses():
            return self._reject(R_MEMORY_FULL, Slot.INGRESS_REJECTED_MEMORY_FULL, NULL, 0)
        self._envid = PyBytes_FromStringAndSize(line + self._mail.envid.start, self._mail.envid.length)
        self._dialogue = DIALOGUE_MAIL
        self._mail_at = monotonic()
        self._grant_priority()
        return self._pace(self.reception.memory.pause_s())

    cdef bint _may_begin(self) except -1:
        """Whether the permission lets a message begin; else it has been refused."""
        cdef Permission permission = self._terms.permission
        cdef const char *refusal = permission.refuse_mail(unix_us() // 1000000)
        cdef bytes path
        if refusal != NULL:
            self._reject(refusal, Slot.INGRESS_REJECTED_QUOTA, NULL, 0)
            return False
        path = permission.path_of(self._reverse_path)
        if path is None:
            self._reject(R_NOT_YOUR_PATH, Slot.INGRESS_REJECTED_SENDER, NULL, 0)
            return False
        if path != self._reverse_path:
            self._done = b',"original_reverse_path":' + json.dumps(
                self._reverse_path.decode("utf-8", "replace")
            ).encode("ascii")
            self._reverse_path = path
        return True

    cdef uint64_t _most_octets(self) noexcept:
        """Of one message; 0: no limit."""
        cdef Permission permission = self._terms.permission
        if permission is None or not permission.message_octets:
            return self.profile.message_octets
        if not self.profile.message_octets:
            return permission.message_octets
        return min(permission.message_octets, self.profile.message_octets)

    cdef int _do_rcpt(self, const char *line, size_t n, size_t arguments) except -1:
        cdef Path path
        cdef RcptParameters parameters
        cdef RecipientPolicy policy = self.profile.recipient_policy
        cdef int judgement = RECIPIENT_FOREIGN
        cdef bint may_relay
        cdef bytes domain
        cdef const char *refusal
        cdef const char *mailbox
        cdef uint16_t length
        cdef size_t wanted, mailbox_length
        cdef char *p
        cdef char *moved
        cdef Permission permission
        refusal = parse_rcpt(line, n, arguments, self._offers(), self._mail.smtputf8,
                             &path, &parameters)
        if refusal != NULL:
            return self._misspelt(refusal)
        mailbox = line + path.mailbox.start
        mailbox_length = path.mailbox.length
        may_relay = self._may_relay()
        if policy is None:
            if not may_relay:
                return self._reject(R_NO_RELAY, Slot.INGRESS_REJECTED_RELAY, mailbox, mailbox_length)
            domain = self.profile.hostname
        else:
            domain = policy.postmaster_domain or self.profile.hostname
        if path.domain.length == 0:
            # <Postmaster> is ours (RFC 5321 §4.5.1): qualified with a name of ours, it is routed like any other
            qualified = PyBytes_FromStringAndSize(mailbox, mailbox_length) + b"@" + domain
            mailbox = PyBytes_AS_STRING(qualified)
            mailbox_length = PyBytes_GET_SIZE(qualified)
            path.domain.length = <uint32_t>PyBytes_GET_SIZE(domain)
        if policy is not None:
            judgement = policy.judge(mailbox, mailbox_length, path.domain.length)
            if judgement == RECIPIENT_FOREIGN and not may_relay:
                return self._reject(R_NO_RELAY, Slot.INGRESS_REJECTED_RELAY, mailbox, mailbox_length)
            if judgement == RECIPIENT_ROUTED and not may_relay:
                return self._reject(R_ROUTED, Slot.INGRESS_REJECTED_RELAY, mailbox, mailbox_length)
        if self._recipient_count >= self.profile.recipients:
            return self._reject(R_TOO_MANY_RECIPIENTS, Slot.INGRESS_REJECTED_RECIPIENTS, mailbox, mailbox_length)
        if self._terms.permission is not None:
            permission = self._terms.permission
            if permission.recipients and self._recipient_count >= permission.recipients:
                return self._reject(R_TOO_MANY_RECIPIENTS, Slot.INGRESS_REJECTED_RECIPIENTS, mailbox, mailbox_length)
            refusal = permission.refuse_recipient(self._recipient_count + 1, unix_us() // 1000000)
            if refusal != NULL:
                return self._reject(refusal, Slot.INGRESS_REJECTED_QUOTA, mailbox, mailbox_length)
        wanted = self._recipients_length + 2 + mailbox_length + 1 + 2 + parameters.orcpt.length
        if wanted > self._recipients_capacity:
            moved = <char *>realloc(self._recipients, wanted * 2)
            if moved == NULL:
                raise MemoryError
            self._recipients = moved
            self._recipients_capacity = wanted * 2
        p = self._recipients + self._recipients_length
        length = <uint16_t>mailbox_length
        memcpy(p, &length, 2)
        memcpy(p + 2, mailbox, length)
        p += 2 + length
        p[0] = <char>parameters.notify
        length = <uint16_t>parameters.orcpt.length
        memcpy(p + 1, &length, 2)
        memcpy(p + 3, line + parameters.orcpt.start, length)
        self._next_recipient = wanted
        if policy is not None and judgement != RECIPIENT_FOREIGN and policy.verify is not None:
            return self._verify_recipient(policy.verify(PyBytes_FromStringAndSize(mailbox, mailbox_length)))
        return self._take_recipient()

    cdef int _take_recipient(self) except -1:
        """What stands behind the recipients is one of them."""
        self._recipients_length = self._next_recipient
        self._recipient_count += 1
        self._dialogue = DIALOGUE_RCPT
        return self._reply(R_RECIPIENT_OK)

    cdef int _verify_recipient(self, answer) except -1:
        """Empty: take the recipient; the reply that refuses it; None: nobody knows; else who is to be asked."""
        cdef uint16_t length
        cdef const char *reply = R_UNVERIFIED
        if isinstance(answer, bytes):
            if PyBytes_GET_SIZE(answer) == 0:
                return self._take_recipient()
            reply = PyBytes_AS_STRING(answer)
        elif answer is not None:
            answer(self._ask(recipient_decided))
            return 0
        memcpy(&length, self._recipients + self._recipients_length, 2)
        slot = Slot.INGRESS_REJECTED_UNKNOWN if reply[0] == c'5' else Slot.INGRESS_REJECTED_UNVERIFIED
        return self._reject(reply, slot, self._recipients + self._recipients_length + 2, length)

    # ------------------------------------------------------------------ mail data

    cdef int _start_data(self) except -1:
        cdef size_t room = 0
        if self._mail.has_size and self._mail.size < (1 << 20):
            room = self._mail.size + 512
        self._buffer = MailBuffer(room)
        memset(&self._scan, 0, sizeof(self._scan))
        self._discarding = False
        self._refusal = NULL
        self._data_at = monotonic()
        self._data_deadline = self._data_at + self.profile.data_timeout_s
        return 0

    cdef bint _in_data(self) noexcept:
        """Whether mail data is on its way, wanted or not."""
        return self._buffer is not None or self._mode == MODE_CHUNK

    cdef int _check_bounds(self) except -1:
        """Refuse what grows too large while it comes in: the rest is read and dropped."""
        if self._discarding:
            return 0
        if self._most_octets() and self._scan.octets > self._most_octets():
            self._refusal = R_TOO_LARGE
        elif self.reception.memory.full():
            self._refusal = R_MEMORY_FULL
        else:
            return 0
        self._discarding = True
        self._buffer = MailBuffer(0)
        return 0

    cdef size_t _take_data(self, const char *p, size_t n) except? 0:
        cdef size_t consumed = 0
        cdef size_t produced = 0
        cdef bint ended
        if self._discarding:
            ended = scan_mail_data(&self._scan, p, n, NULL, &consumed, &produced)
        else:
            self._buffer.reserve(n + 4)
            ended = scan_mail_data(&self._scan, p, n, self._buffer.octets + self._buffer.end, &consumed, &produced)
            self._buffer.end += produced
            self._check_bounds()
        if ended:
            self._mode = MODE_COMMAND
            self._end_of_data()
        elif not self._discarding:
            self._pace(self.reception.memory.pause_s())
        return consumed

    cdef int _do_bdat(self, const char *line, size_t n, size_t arguments) except -1:
        cdef const char *refusal = parse_bdat(line, n, arguments, &self._chunk_left, &self._chunk_last)
        if refusal != NULL:
            # without a size the end of the chunk cannot be known (RFC 3030 §2)
            self._misspelt(refusal)
            return self._abort(R_CHUNK_LOST)
        refusal = out_of_order(self._dialogue, VERB_BDAT, self.profile.lmtp)
        self._chunk_ignored = refusal != NULL
        self._chunk_reply = refusal
        if self._chunk_ignored:
            self._data_deadline = monotonic() + self.profile.data_timeout_s
        if not self._chunk_ignored and self._dialogue != DIALOGUE_BDAT:
            self._start_data()
            self._dialogue = DIALOGUE_BDAT
        self._mode = MODE_CHUNK
        if self._chunk_left == 0:
            return self._end_of_chunk()
        return 0

    cdef size_t _take_chunk(self, const char *p, size_t n) except? 0:
        if n > self._chunk_left:
            n = self._chunk_left
        if not self._chunk_ignored:
            scan_chunk(&self._scan, p, n)
            if not self._discarding:
                self._buffer.reserve(n)
                memcpy(self._buffer.octets + self._buffer.end, p, n)
                self._buffer.end += n
                self._check_bounds()
        self._chunk_left -= n
        if self._chunk_left == 0:
            self._end_of_chunk()
        elif not self._discarding and not self._chunk_ignored:
            self._pace(self.reception.memory.pause_s())
        return n

    cdef int _end_of_chunk(self) except -1:
        self._mode = MODE_COMMAND
        if self._chunk_ignored:
            return self._reply(self._chunk_reply)
        if self._chunk_last:
            return self._end_of_data()
        if self._refusal != NULL:
            # said at once, so that the client need not send the rest
            reply = self._refusal
            self._note_rejection(reply, self._slot_of(reply), NULL, 0, self._recipient_count)
            self._reset()
            self._dialogue = DIALOGUE_SPOILT
            return self._reply(reply)
        return self._reply(b"250 2.0.0 Chunk received\r\n")

    cdef int _slot_of(self, const char *reply) noexcept:
        if reply == R_TOO_LARGE or reply == R_HEADER_TOO_LARGE:
            return Slot.INGRESS_REJECTED_SIZE
        if reply == R_BARE_NEWLINE:
            return Slot.INGRESS_REJECTED_BARE_NEWLINE
        if reply == R_LOOP:
            return Slot.INGRESS_REJECTED_HOPS
        if reply == R_MEMORY_FULL:
            return Slot.INGRESS_REJECTED_MEMORY_FULL
        return Slot.INGRESS_REJECTED_STORAGE

    cdef const char *_verdict(self) noexcept:
        """NULL when the complete mail data may pass, else the reply that refuses it."""
        if self._refusal != NULL:
            return self._refusal
        if (self._scan.bare_cr or self._scan.bare_lf) and not self._terms.bare_newlines:
            return R_BARE_NEWLINE
        return NULL

    cdef int _end_of_data(self) except -1:
        cdef const char *refusal
        cdef HeaderFacts facts
        cdef AcceptedMeta meta
        cdef EnvelopeTexts texts
        cdef MailBuffer buffer = self._buffer
        cdef Message message
        cdef uint64_t id
        cdef int slot
        self._end_of_data_at = monotonic()
        self._transactions += 1
        if self._dialogue == DIALOGUE_BDAT and mail_data_ends_in_bare_cr(&self._scan):
            self._scan.bare_cr = True
        refusal = self._verdict()
        if refusal == NULL:
            if self._scan.bare_cr or self._scan.bare_lf:
                buffer.replace_mail_data(repair_newlines(buffer.mail_data()))
            walk_header(buffer.octets + buffer.data_begin, buffer.end - buffer.data_begin, &facts)
            if facts.received >= self.profile.hops:
                refusal = R_LOOP
            elif facts.length > self.profile.header_octets:
                refusal = R_HEADER_TOO_LARGE
            elif self.reception.memory.full():
                refusal = R_MEMORY_FULL
            else:
                refusal = self.reception.intake.refusal()
        if refusal != NULL:
            return self._refuse_message(refusal, self._slot_of(refusal))
        memset(&meta, 0, sizeof(meta))
        memset(&texts, 0, sizeof(texts))
        meta.received_us = unix_us()
        meta.recipients = self._recipient_count
        meta.durability = self._terms.durability
        if facts.durability_fields:
            # an instruction to this relay: obeyed as far as the terms allow, and passed on to nobody
            if facts.durability_fields == 1:
                meta.durability = self._terms.durability_of(
                    buffer.octets + buffer.data_begin + facts.durability.start, facts.durability.length)
            buffer.cut(cut_fields(buffer.octets + buffer.data_begin, buffer.end - buffer.data_begin,
                                  b"x-angarium-durability", 21))
            facts.fields -= facts.durability_fields
        meta.hold_until = self._hold_until
        meta.priority = <int8_t>self._priority
        meta.body = self._mail.body
        meta.ret = self._mail.ret
        meta.trace_fields = 1
        meta.flags = self._terms.flags
        id = self.reception.intake.next_id()
        if self._terms.permission is not None:
            slot = 0
            refusal = self._apply_permission(id, &facts, &meta, &slot)
            if refusal != NULL:
                return self._refuse_message(refusal, slot)
        if meta.durability == DURABILITY_MEMORY and (meta.hold_until or meta.flags & MESSAGE_UNUSUAL):
            meta.durability = DURABILITY_ASYNC   # its first attempt is far away
        if self._mail.smtputf8:
            meta.flags |= MESSAGE_SMTPUTF8
        if self._mail.requiretls:
            meta.flags |= MESSAGE_REQUIRETLS
        if self._scan.eight_bit:
            meta.flags |= MESSAGE_EIGHT_BIT
        if facts.tls_required_no:
            meta.flags |= MESSAGE_TLS_REQUIRED_NO
        set_text(&texts.texts[TEXT_REVERSE_PATH], self._reverse_path)
        set_text(&texts.texts[TEXT_ENVID], self._envid)
        set_text(&texts.texts[TEXT_LISTENER], self.profile.name)
        set_text(&texts.texts[TEXT_CLIENT], self._client)
        set_text(&texts.texts[TEXT_GREETING], self._greeting_name)
        set_text(&texts.texts[TEXT_LOGIN], self._login)
        set_text(&texts.texts[TEXT_TENANT], self._terms.tenant)
        self._write_trace(id, meta.received_us, facts.malformed and facts.fields == 0)
        write_accepted(buffer, id, &meta, &texts, self._recipients, self._recipients_length, self._terms.source_pool)
        message = Message()
        read_entry(message, buffer.octets + buffer.begin)
        message.buffer = buffer
        self._waiting_for = WAIT_COMMIT
        try:
            self.reception.intake.accept(message, self)
        except OSError as failure:
            if self._waiting_for != WAIT_COMMIT:
                raise            # not of storing the message: it is answered already
            self._waiting_for = WAIT_RATE if self._throttled else WAIT_NOTHING
            self._give_back()
            refusal = R_STORAGE_FULL if failure.errno in (ENOSPC, EDQUOT) else R_STORAGE_FAILED
            return self._refuse_message(refusal, Slot.INGRESS_REJECTED_STORAGE)
        return 0

    cdef int _refuse_message(self, const char *reply, int slot) except -1:
        """The transaction is over, and the message went nowhere."""
        cdef uint32_t recipients = self._recipient_count
        self._note_rejection(reply, slot, NULL, 0, recipients)
        self._reset()
        self._dialogue = DIALOGUE_READY
        self._reply(reply)
        return self._repeat(reply, recipients)

    cdef const char *_apply_permission(self, uint64_t id, HeaderFacts *facts, AcceptedMeta *meta,
                                       int *slot) except? NULL:
        """What the permission says of the complete message, and does to it: the reply that refuses it, or NULL."""
        cdef Permission permission = self._terms.permission
        cdef MailBuffer buffer = self._buffer
        cdef uint64_t *slots = self.reception.counters.slots
        cdef Handling handling
        cdef const char *refusal
        cdef int verdict
        if facts.durability_fields:
            # some have just been cut out
            walk_header(buffer.octets + buffer.data_begin, buffer.end - buffer.data_begin, facts)
        handling.id = id
        handling.date_length = self.reception.date(meta.received_us)
        handling.date = self.reception._date
        handling.smtputf8 = self._mail.smtputf8
        handling.eight_bit = self._scan.eight_bit
        refusal = permission.handle(buffer, facts, self._reverse_path, &handling)
        if refusal != NULL:
            slot[0] = handling.slot
            return refusal
        if handling.changed:
            slot_add(slots, Slot.INGRESS_FIXED_UP, 1)
        if permission.quota is None:
            return NULL
        verdict = permission.quota.take(self._recipient_count, meta.received_us // 1000000)
        if verdict != QUOTA_OK and verdict != QUOTA_LATER:
            slot[0] = Slot.INGRESS_REJECTED_QUOTA
            return permission.reply_of(verdict)
        self._counted_step = permission.quota.step
        used = permission.used()
        if used is not None:
            self._done = used if self._done is None else self._done + used
        if verdict == QUOTA_LATER:
            meta.hold_until = max(meta.hold_until, <uint64_t>permission.quota.step * QUOTA_STEP_S)
            meta.flags |= MESSAGE_OVER_QUOTA
            slot_add(slots, Slot.INGRESS_OVER_QUOTA, 1)
        if permission.quota.unusual:
            meta.flags |= MESSAGE_UNUSUAL
            slot_add(slots, Slot.INGRESS_HELD_UNUSUAL, 1)
            if permission.quota.tripped:
                slot_add(slots, Slot.INGRESS_UNUSUAL_SENDERS, 1)
                self._say_unusual(permission)
        return NULL

    cdef int _say_unusual(self, Permission permission) except -1:
        self.reception.events.event("unusual", {
            "login": self._login.decode("utf-8", "replace"),
            "client": self._client.decode("ascii"),
            "permission": permission.name.decode("utf-8", "replace"),
            "recipients": permission.quota.arrived,
            "why": permission.unusual_text().decode("utf-8"),
        })
        return 0

    cdef int _give_back(self) except -1:
        """The message that was counted has not been taken."""
        if self._counted_step:
            self._terms.permission.quota.give_back(self._counted_step, self._recipient_count, unix_us() // 1000000)
        return 0

    cdef int committed(self, Message message, int error) except -1:
        """The intake says that the message is safe (error 0), or that it could not be kept."""
        cdef Reception reception = self.reception
        cdef uint64_t *slots = reception.counters.slots
        cdef char reply[64]
        cdef double seconds = monotonic() - self._end_of_data_at
        cdef const char *durability
        cdef int slot
        cdef uint32_t recipients
        cdef uint64_t now_us
        if error:
            self._give_back()
            if self.closed:
                self._reset()
                return 0
            self._refuse_message(R_STORAGE_FULL if error in (ENOSPC, EDQUOT) else R_STORAGE_FAILED,
                                 Slot.INGRESS_REJECTED_STORAGE)
            return self._go_on()
        if message.durability == DURABILITY_FSYNC:
            durability = b" durability=fsync\r\n"
            slot = Slot.INGRESS_MESSAGES_FSYNC
        elif message.durability == DURABILITY_ASYNC:
            durability = b" durability=async\r\n"
            slot = Slot.INGRESS_MESSAGES_ASYNC
        else:
            durability = b" durability=memory\r\n"
            slot = Slot.INGRESS_MESSAGES_MEMORY
        slot_add(slots, slot, 1)
        slot_add(slots, Slot.INGRESS_OCTETS, message.buffer.end - message.buffer.data_begin)
        slot_add(slots, <int>Slot.LISTENER_ACCEPTED + self.profile.row(reception.counters), 1)
        now_us = about_now_us()
        observe_message(reception.counters.own, Slot.INGRESS_ACCEPT_ENVELOPE,
                        <uint64_t>((self._data_at - self._mail_at) * 1e6), message.id, now_us)
        observe_message(reception.counters.own, Slot.INGRESS_ACCEPT_DATA,
                        <uint64_t>((self._end_of_data_at - self._data_at) * 1e6), message.id, now_us)
        observe_message(reception.counters.own, Slot.INGRESS_COMMIT_LATENCY, <uint64_t>(seconds * 1e6), message.id,
                        now_us)
        reception.events.accepted(message, message.buffer, self._protocol(), seconds, self._terms.told, self._done)
        recipients = self._recipient_count
        self._reset()
        self._dialogue = DIALOGUE_READY
        if self.closed:
            return 0
        memcpy(reply, b"250 2.0.0 queued as ", 20)
        id_text(message.id, reply + 20)
        memcpy(reply + 33, durability, strlen(durability) + 1)
        self._reply(reply)
        self._repeat(reply, recipients)
        return self._go_on()

    cdef void _reset(self) noexcept:
        """No transaction (RFC 5321 §4.1.1.5)."""
        self._buffer = None
        self._recipients_length = 0
        self._recipient_count = 0
        self._discarding = False
        self._refusal = NULL
        self._hold_until = 0
        self._counted_step = 0
        self._done = None
        self._priority = 0
        memset(&self._mail, 0, sizeof(self._mail))

    cdef const char *_protocol(self) noexcept:
        """A local user is known without AUTH."""
        return protocol_keyword(self._extended, self.profile.lmtp, self._mail.smtputf8, self.tls,
                                PyBytes_GET_SIZE(self._login) > 0 and PyBytes_GET_SIZE(self._origin) == 0)

    cdef int _write_trace(self, uint64_t id, uint64_t received_us, bint headless) except -1:
        """Put the trace field in front of the mail data; headless: no header section follows it."""
        cdef char field[TRACE_FIELD_OCTETS]
        cdef TraceFacts facts
        cdef uint16_t path_length
        memset(&facts, 0, sizeof(facts))
        facts.hide_client = self._terms.permission is not None and self._terms.permission.hide_client
        set_text(&facts.hostname, self.profile.hostname)
        set_text(&facts.greeting, self._greeting_name)
        set_text(&facts.client, self._client)
        set_text(&facts.client_name, self._client_name)
        set_text(&facts.origin, self._origin)
        facts.protocol = self._protocol()
        facts.id = id
        facts.tls = self.tls
        if self.tls:
            set_text(&facts.tls_version, self.tls_version)
            set_text(&facts.tls_cipher, self.tls_cipher)
        if self._recipient_count == 1:
            # only when there is one: others must not learn of each other (RFC 5321 §7.2)
            memcpy(&path_length, self._recipients, 2)
            facts.recipient.octets = self._recipients + 2
            facts.recipient.length = path_length
        facts.has_priority = self._mail.has_priority
        facts.priority = self._priority
        facts.date.length = <uint16_t>self.reception.date(received_us)
        facts.date.octets = self.reception._date
        facts.headless = headless
        return self._buffer.prepend(field, write_trace_field(field, &facts))

    # ------------------------------------------------------------------ TLS

    cdef int _do_start_tls(self, const char *line, size_t n, size_t arguments) except -1:
        cdef const char *refusal
        if self.profile.start_tls is None and not self.tls:
            return self._reply(R_NO_TLS)
        if self.tls:
            return self._reply(R_TLS_ACTIVE)
        refusal = parse_nothing(line, n, arguments)
        if refusal != NULL:
            return self._misspelt(refusal)
        self._waiting_for = WAIT_TLS
        self.profile.start_tls(self)
        return 0

    def begin_tls(self):
        """Say 220, and throw away what came behind STARTTLS in plaintext: it may be injected (RFC 3207 §6).

        Call in the same step as the handshake begins; False when the session has ended meanwhile.
        """
        if self.closed or self._mode == MODE_CLOSED or self.transport is None:
            return False
        self._stash_length = 0
        self._reply(R_TLS_READY)
        self._flush()
        return True

    def tls_established(self, transport):
        """The handshake is over: go on over `transport`, knowing nothing of before (RFC 3207 §4.2)."""
        if self.closed or self._mode == MODE_CLOSED:
            transport.abort()
            return
        self.transport = transport
        self._read_paused = False
        self._write_paused = False
        self._reset()
        self._forget_question()
        self._dialogue = DIALOGUE_NEW
        self._extended = False
        self._greeting_name = b""
        self._exchange = None
        self._login = b""
        self._skipping_line = False
        if self._spoken_for:
            self._believe_nobody()       # who the client is was said in plaintext
        self._note_tls(transport.get_extra_info("ssl_object"))
        if self.reception.watch is not None:
            self._show("*", b"TLS %s %s" % (self.tls_version, self.tls_cipher))
        if self._mode == MODE_CLOSED:
            return
        self._settle_terms()
        self._deadline = monotonic() + self.profile.idle_timeout_s
        self._go_on()

    def tls_failed(self):
        """The handshake failed; the connection is of no use."""
        slot_add(self.reception.counters.slots, Slot.INGRESS_TLS_FAILURES, 1)
        self._mode = MODE_CLOSED
        if self.transport is not None:
            self.transport.close()

    # ------------------------------------------------------------------ XCLIENT

    cdef int _do_xclient(self, const char *line, size_t n, size_t arguments) except -1:
        """The client is who the host in front says, and the session begins again, with a greeting."""
        cdef uint64_t *slots = self.reception.counters.slots
        cdef XClient said = XClient()
        cdef Span text
        cdef const char *refusal = parse_text(line, n, arguments, True, &text)
        if refusal == NULL:
            refusal = said.read(PyBytes_FromStringAndSize(line + text.start, text.length))
        if refusal != NULL:
            slot_add(slots, Slot.INGRESS_XCLIENT_REFUSED, 1)
            return self._misspelt(refusal)
        slot_add(slots, Slot.INGRESS_XCLIENT, 1)
        self._reset()
        self._dialogue = DIALOGUE_NEW
        self._extended = False
        self._greeting_name = b""
        self._errors = 0
        self._transactions = 0
        self.certificate = None          # it is the host's in front, not the client's
        if not self._spoken_for:
            self._spoken_for = True
            self._own_address = self._address
            self._stated_login = b""
        if said.login is not None:
            self._stated_login = said.login
        self._login = self._stated_login      # not the one of the host in front
        if said.name is not None:
            self._client_name = said.name
        if said.greeting:
            self._greeting_name = said.greeting
            self._extended = not said.plain
            self._note_offers()
            self._dialogue = DIALOGUE_READY
        if said.address is not None:
            self._take_address(said.address.decode("ascii"))
        if self._mode == MODE_CLOSED:
            return 0
        self._settle_terms()
        return self._reply(PyBytes_AS_STRING(self.profile._greeting))

    cdef int _take_address(self, str address) except -1:
        """Count the connection for another client; the session ends with 421 when that one has too many."""
        cdef Counters counters = self.reception.counters
        cdef bytes client = address.partition("%")[0].encode("ascii", "replace")
        cdef uint64_t key = key_of(client)
        self._address = address
        self._client = client
        if key == self._client_key:
            return 0
        counters.client_closed(self._client_key)
        self._client_key = key
        if counters.client_opened(key) > self.profile.connections_per_client:
            slot_add(counters.slots, Slot.INGRESS_REFUSED_CLIENT, 1)
            return self._abort(R_CLIENT_FULL)
        return 0

    cdef int _believe_nobody(self) except -1:
        """The client is whoever is connected."""
        self._spoken_for = False
        self._client_name = b""
        return self._take_address(self._own_address)

    # ------------------------------------------------------------------ authentication

    cdef int _do_auth(self, const char *line, size_t n, size_t arguments) except -1:
        cdef bytes rest
        if not self.profile.mechanisms or not self._extended:
            return self._reply(R_NO_AUTH)
        if not self.tls:
            return self._reply(R_TLS_FIRST)
        if PyBytes_GET_SIZE(self._login):
            return self._reply(R_AUTH_DONE)
        words = PyBytes_FromStringAndSize(line + arguments, n - arguments).split()
        if not 1 <= len(words) <= 2:
            return self._misspelt(R_AUTH_ARGUMENTS)
        mechanism = words[0].upper()
        if mechanism in self.profile.mechanisms:
            self._exchange = self.profile.authentication(mechanism, self)
        if self._exchange is None:
            return self._reply(R_AUTH_MECHANISM)
        rest = words[1] if len(words) > 1 else None
        return self._auth_answer(rest)

    cdef int _auth_step(self, const char *line, size_t n) except -1:
        cdef bytes answer = PyBytes_FromStringAndSize(line, n)
        self._mode = MODE_COMMAND
        if self.reception.watch is not None:
            self._show("A", b"")
        if answer == b"*":
            self._exchange = None
            return self._reply(R_AUTH_CANCELLED)
        return self._auth_answer(answer)

    cdef int _auth_answer(self, bytes response) except -1:
        """Ask the exchange, which answers now or later."""
        self._exchange.step(response, self._ask(auth_decided))
        return 0

    cdef int _auth_decided(self, answer) except -1:
        """bytes: the next challenge; str: the log-in, proved; else an AuthVerdict, None where nobody could be asked."""
        cdef uint64_t *slots = self.reception.counters.slots
        cdef bytes challenge
        if isinstance(answer, bytes):
            challenge = b"334 " + answer + b"\r\n"
            self._mode = MODE_AUTH
            self._reply(PyBytes_AS_STRING(challenge))
            return self._go_on()
        self._exchange = None
        if isinstance(answer, str):
            self._login = answer.encode("utf-8")
            self._settle_terms()
            slot_add(slots, Slot.INGRESS_AUTH_OK, 1)
            self._reply(R_AUTH_OK)
        elif answer == AUTH_REFUSED:
            slot_add(slots, Slot.INGRESS_AUTH_FAILED, 1)
            self._reply(R_AUTH_FAILED)
        elif answer == AUTH_SYNTAX:
            self._misspelt(R_AUTH_SYNTAX)
        elif answer == AUTH_BANNED:
            # an error like any other, or a session could go on so for ever
            slot_add(slots, Slot.INGRESS_AUTH_BANNED, 1)
            self._reply(R_AUTH_BANNED)
            self._note_error()
        else:
            slot_add(slots, Slot.INGRESS_AUTH_UNAVAILABLE, 1)
            self._reply(R_AUTH_UNAVAILABLE)
        return self._go_on()


cdef int auth_decided(object session, uint32_t question, object answer) except -1:
    cdef ServerSession asker = <ServerSession>session
    return asker._auth_decided(answer) if asker._is_answer(question) else 0


cdef int recipient_decided(object session, uint32_t question, object answer) except -1:
    cdef ServerSession asker = <ServerSession>session
    if asker._is_answer(question):
        asker._verify_recipient(answer if isinstance(answer, bytes) else None)
        asker._go_on()
    return 0


cdef ClientTerms NOBODY = ClientTerms()      # until policy has been asked


cdef inline void set_text(Text *text, bytes octets) noexcept:
    text.octets = PyBytes_AS_STRING(octets)
    text.length = <uint16_t>PyBytes_GET_SIZE(octets)


def repair_newlines(bytes mail_data) -> bytes:
    """Every bare CR and bare LF becomes CRLF: for named legacy clients only."""
    return b"\r\n".join(mail_data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"))
