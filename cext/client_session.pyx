"""The client's side of SMTP on a connection that is set up (greeting, EHLO, TLS, AUTH are done): mail transactions.

Job: carry deliveries, one transaction after the other, with MAIL, RCPT and DATA pipelined where the host offers it (RFC
2920), small messages with BDAT in the same write where it offers CHUNKING (RFC 3030), and, while more mail is ready,
the next envelope in the same write as the content before it (RFC 2920 §3.1). Input: octets of the host, through a
receive buffer that all sessions of a worker share. Output: per recipient the reply that decided, given to the
dispatcher.

The commands are composed by envelope.pyx. Where a recipient's NOTIFY asks for SUCCESS and the host does not offer DSN
(RFC 3461 §5.2.2), that is settled outside of this module.

LMTP (RFC 2033, `lmtp=True`) is the same but for two things. The end of the mail data has one reply for each recipient
that was accepted, in the order of the RCPT commands (§4.2; for BDAT LAST the same, §4.3). And trace fields of a final
delivery stand in front of the mail data: Return-Path (RFC 5321 §4.4), and Delivered-To where the transaction has one
recipient; a `recipients_limit` of 1 gives each its own transaction, pipelined like any other, so that none learns of
the others.

Limits that the host sets (RFC 9422) are kept to: recipients of a transaction, transactions and recipient domains of a
connection. What is too many for one transaction goes in the next, what is too many for the connection in another one.

Fails: a connection that ends, or that the host ends with 421, before the last octet of the content was written has
delivered nothing. Who has no reply of his own goes to another connection at once, where that may help: behind earlier
transactions of this one, when nothing was answered; else when `ReadyQueue.trouble` knows of another host. One that ends
after it leaves the accepted recipients in doubt; with LMTP those whose reply had
not come. A reply that is none, or that nobody asked for, ends the connection. Results carry code 0 where no reply was
seen.

A host that says 421 to a message whose content it has already is waited for, until its end or its reply to QUIT, and
farewell.pyx says what became of the message. A host that refuses MAIL with another code, and accepts recipients and a
chunk all the same, is taken at its last word.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, strlen
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from angarium._core.command cimport BODY_8BITMIME
from angarium._core.counters cimport Counters, Slot, about_now_us, observe_message, slot_add, slot_sub
from angarium._core.dialogue cimport (
    DIALOGUE_AHEAD,
    DIALOGUE_CONTENT,
    DIALOGUE_CUT,
    DIALOGUE_DELIVERED,
    DIALOGUE_PIPELINED,
    KEEP_ALL,
    KEEP_NONE,
    LONGEST_TEXT,
    Dialogues,
    Heard,
)
from angarium._core.dispatch cimport Carrier, Delivery, ReadyQueue
from angarium._core.envelope cimport has_high, put_mail, put_rcpt
from angarium._core.farewell cimport Farewell
from angarium._core.mail_data cimport count_stuffing, stuff_mail_data
from angarium._core.octets cimport put, put_decimal
from angarium._core.record cimport (
    MESSAGE_EIGHT_BIT,
    MESSAGE_REQUIRETLS,
    MESSAGE_SMTPUTF8,
    TEXT_REVERSE_PATH,
    MailBuffer,
    Message,
    Recipient,
    Text,
    as_bytes,
)
from angarium._core.reply cimport REPLY_MORE, REPLY_READY, ReplyParser

cdef enum:
    RECEIVE_OCTETS = 1 << 16
    ONE_WRITE_OCTETS = 1 << 16   # content up to this size is copied into one write with what surrounds it
    ONCE_SHARE = 8               # one in so many idle connections may be one that has carried one message only
    MOST_TRANSFERS = 3           # connections that may lose a delivery before it counts as an attempt
    QUIT_TIMEOUT_S = 5

cdef double NO_LIMIT_S = float("inf")

PHASE_NAMES = ("connecting", "the greeting", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "the mail data",
               "the end of the mail data",
               "RSET", "nothing", "QUIT")


cdef inline double monotonic() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec + t.tv_nsec * 1e-9


cdef class Egress:
    def __init__(self, Counters counters, *, double mail_timeout_s=300, double rcpt_timeout_s=300,
                 double data_timeout_s=120,
                 double block_timeout_s=180, double final_timeout_s=600, double idle_s=30, double lifetime_s=600,
                 uint64_t chunk_octets=1 << 16, uint32_t idle_limit=4000, Dialogues dialogues=None):
        self.counters = counters
        self.dialogues = Dialogues() if dialogues is None else dialogues
        self.mail_timeout_s = mail_timeout_s
        self.rcpt_timeout_s = rcpt_timeout_s
        self.data_timeout_s = data_timeout_s
        self.block_timeout_s = block_timeout_s
        self.final_timeout_s = final_timeout_s
        self.idle_s = idle_s
        self.lifetime_s = lifetime_s
        self.chunk_octets = chunk_octets
        self.idle_limit = idle_limit
        self._scratch = <char *>malloc(4096)
        if self._scratch == NULL:
            raise MemoryError
        self._scratch_capacity = 4096
        octets = PyByteArray_FromStringAndSize(NULL, RECEIVE_OCTETS)
        self._receive = PyByteArray_AS_STRING(octets)
        self._view = memoryview(octets)          # it keeps them where they are, and so does a transport that holds it

    def __dealloc__(self):
        free(self._scratch)

    def sweep(self, double most_s=NO_LIMIT_S):
        """End what has been silent for too long, close what was idle for idle_s. Call it about once a second.

        It takes most_s, and a session: `unswept` says that it is not at the end, and the next call goes on there.
        """
        cdef ClientSession session = self._sweep_at if self.unswept else self._first
        cdef double now = monotonic()
        cdef bint worked
        while session is not None:
            self._sweep_at = session._next       # it moves on when that one leaves
            worked = now > session._deadline
            if worked:
                if session._expecting == PHASE_IDLE:
                    session._quit()
                elif session._expecting == PHASE_QUIT and session._current is None:
                    session.transport.abort()
                elif session._expecting == PHASE_FINAL and session._write_paused:
                    session._check_progress()
                else:
                    session._abandon(f"timed out waiting for the reply to {PHASE_NAMES[session._expecting]}")
            session = self._sweep_at
            if worked and session is not None and monotonic() >= now + most_s:
                self.unswept = True
                return
        self.unswept = False

    def quit_idle(self, double most_s=NO_LIMIT_S):
        """Close the connections that carry nothing: all of them, or as many as in most_s; then call it again."""
        cdef ClientSession session = self._first
        cdef ClientSession following
        cdef double until = monotonic() + most_s
        while session is not None:
            following = session._next
            if session._expecting == PHASE_IDLE:
                session._quit()
                if monotonic() >= until:
                    return
            session = following


cdef class ClientSession(Carrier):
    def __init__(self, Egress egress, ReadyQueue queue, transport, bytes host, uint32_t capabilities,
                 *, uint64_t size_limit=0,
                 uint32_t transactions_limit=0, uint32_t recipients_limit=0, uint32_t domains_limit=0,
                 bint lmtp=False, bytes tls=None, bytes opening=b""):
        self.egress = egress
        self.opening = opening
        self.queue = queue
        self.transport = transport
        self.host = host
        self.capabilities = capabilities
        self.size_limit = size_limit
        self.transactions_limit = transactions_limit
        self.recipients_limit = recipients_limit
        self.tls = tls
        self.domains_limit = domains_limit
        self.lmtp = lmtp
        if domains_limit:
            self._domains = set()
        self._parser = ReplyParser()
        self._heard = Heard()
        self._expecting = PHASE_IDLE
        self._born = monotonic()
        self._deadline = self._born + egress.idle_s

    def start(self):
        """The connection is up and the transport is ours: take work."""
        cdef Egress egress = self.egress
        self._next = egress._first
        if self._next is not None:
            self._next._previous = self
        egress._first = self
        egress.sessions += 1
        self._linked = True
        self.queue.open += 1
        self.queue.note_cause()
        slot_add(egress.counters.slots, Slot.DELIVERY_CONNECTIONS, 1)
        if egress.dialogues.watch is not None:
            self._show("+", self.opening)
        self._go_on()

    # ------------------------------------------------------------------ asyncio's side

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, hint):
        return self.egress._view

    def buffer_updated(self, Py_ssize_t n):
        cdef size_t position = 0
        cdef size_t consumed
        cdef int state
        cdef const char *p = self.egress._receive
        self._read_at = monotonic()
        self._read_us = about_now_us()
        while position < <size_t>n and not self.closed:
            consumed = 0
            state = self._parser.feed(p + position, n - position, &consumed)
            position += consumed
            if state == REPLY_MORE:
                break
            if state != REPLY_READY:
                fault = (<bytes>self._parser.fault).decode("ascii")
                self._abandon(f"the host's reply to {PHASE_NAMES[self._expecting]} is none: {fault}")
                return
            self._on_reply()

    def feed(self, bytes data):
        """Octets from the host, for tests that have no transport."""
        memcpy(self.egress._receive, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        self.buffer_updated(PyBytes_GET_SIZE(data))

    def eof_received(self):
        return False

    def connection_lost(self, exception):
        if not self.closed:
            self._ended = True
            why = "the host closed the connection" if exception is None else f"connection lost: {exception}"
            self._abandon(why)

    def pause_writing(self):
        # one message at a time is written: its memory is the bound
        self._write_paused = True
        self._unsent = self.transport.get_write_buffer_size()

    def resume_writing(self):
        # the content has left, or nearly: the timeout for the final reply starts
        self._write_paused = False
        if self._expecting == PHASE_FINAL:
            self._await(PHASE_FINAL)

    cdef int _check_progress(self) except -1:
        """The content has been on its way for block_timeout_s: go on if the host took some of it (RFC 5321 §4.5.3.2.5).
        """
        cdef size_t unsent = self.transport.get_write_buffer_size()
        if unsent >= self._unsent:
            return self._abandon("timed out sending the mail data")
        self._unsent = unsent
        return self._await(PHASE_FINAL)

    # ------------------------------------------------------------------ work

    cdef int carry(self, Delivery delivery) except -1:
        self._end_idling()
        if not self._begin(delivery):
            self._go_on()
        return 0

    cdef int _go_on(self) except -1:
        """Between two transactions: take the next delivery, wait for one, or leave."""
        cdef Delivery delivery
        if self.closed:
            return 0
        if self._quitting or (self.transactions_limit and self.transactions >= self.transactions_limit) or (
            monotonic() > self._born + self.egress.lifetime_s
        ):
            return self._quit()
        while True:
            delivery = self.queue.pop()
            if delivery is None:
                break
            if self._begin(delivery):
                return 0
            if self._quitting:
                return self._quit()
        once = self.transactions <= 1
        if self.egress.idle >= self.egress.idle_limit or (
            once and self.egress.idle_once >= self.egress.idle_limit // ONCE_SHARE
        ):
            return self._quit()  # a tail of hosts that get one message each must not hold a connection each
        self._expecting = PHASE_IDLE
        self._heard.rest()
        self._deadline = monotonic() + self.egress.idle_s
        self.queue.idle.append(self)
        self._idle = True
        self._idle_once = once
        self.egress.idle += 1
        self.egress.idle_once += once
        return 0

    cdef int _end_idling(self) except -1:
        if self._idle:
            self._idle = False
            self.egress.idle -= 1
            self.egress.idle_once -= self._idle_once
        return 0

    cdef bint _fits(self, Delivery delivery) except -1:
        """Whether the host can take delivery as it is.

        Else its recipients fail now (RFC 1870 §6.1, RFC 6152 §3, RFC 6531 §3.2).
        """
        cdef Message message = delivery.message
        cdef MailBuffer buffer = delivery.buffer
        cdef size_t octets = self._size_of(delivery)
        cdef tuple failure = None
        cdef Text path
        cdef Recipient recipient
        cdef size_t position
        cdef uint16_t i
        cdef uint16_t k = 0
        cdef list apart
        if self.size_limit and octets > self.size_limit:
            text = b"The message of %d octets exceeds the host's limit of %d" % (octets, self.size_limit)
            failure = (552, (5, 3, 4), text, PHASE_MAIL)
        elif message.flags & MESSAGE_REQUIRETLS and not self.capabilities & CAPABILITY_REQUIRETLS and (
            # a notification goes without it (RFC 8689 §5), and at a mailbox server the mail has arrived
            not self.lmtp and buffer.text(TEXT_REVERSE_PATH).length
        ):
            failure = (550, (5, 7, 30), b"REQUIRETLS was asked for and the host does not offer it", PHASE_MAIL)
        elif message.flags & MESSAGE_SMTPUTF8 and not self.capabilities & CAPABILITY_SMTPUTF8:
            # only what is really internationalised needs the extension
            path = buffer.text(TEXT_REVERSE_PATH)
            if message.flags & MESSAGE_EIGHT_BIT or has_high(path.octets, path.length):
                failure = (553, (5, 6, 7), b"The message needs SMTPUTF8 and the host does not offer it", PHASE_MAIL)
            else:
                apart = []
                position = buffer.first_recipient()
                for i in range(delivery.recipients):
                    while k <= delivery.index(i):
                        position = buffer.recipient_at(position, &recipient)
                        k += 1
                    if has_high(recipient.forward_path.octets, recipient.forward_path.length):
                        apart.append(delivery.index(i))
                if apart:
                    failure = (553, (5, 6, 7), b"The address needs SMTPUTF8 and the host does not offer it", PHASE_RCPT)
                    if len(apart) < delivery.recipients:
                        # the others are well without it
                        self._fail(self.queue.dispatcher.split(delivery, apart), failure)
                        return True
        elif message.body == BODY_8BITMIME and message.flags & MESSAGE_EIGHT_BIT and not (
            self.capabilities & CAPABILITY_8BITMIME
        ):
            failure = (554, (5, 6, 3), b"The message is 8BITMIME and the host does not offer that", PHASE_MAIL)
        if failure is None:
            return True
        self._fail(delivery, failure)
        return False

    cdef int _fail(self, Delivery delivery, tuple failure) except -1:
        """Settle delivery with one result for all of its recipients."""
        cdef uint16_t i
        delivery.results = [(delivery.index(i),) + failure for i in range(delivery.recipients)]
        self.queue.dispatcher.settle(delivery)
        return 0

    cdef bint _limit(self, Delivery delivery) except -1:
        """Leave the recipients that are too many for one transaction to the next one (RFC 9422 §4: RCPTMAX).

        False: none of them may go over this connection; it has been put back for another one.
        """
        cdef Delivery rest
        if self.domains_limit and not self._limit_domains(delivery):
            return False
        if self.recipients_limit and delivery.recipients > self.recipients_limit:
            rest = self.queue.dispatcher.split(delivery, delivery.indices()[self.recipients_limit:])
            self.queue.push(rest, True)
        return True

    cdef bint _limit_domains(self, Delivery delivery) except -1:
        """Recipients at a domain that is one too many for this connection go over another (RFC 9422 §4: RCPTDOMAINMAX).
        """
        cdef Delivery rest
        cdef list apart = []
        for index in delivery.indices():
            domain = delivery.buffer.recipient(index)[0].rpartition(b"@")[2].lower()
            if domain not in self._domains:
                if <uint32_t>len(self._domains) >= self.domains_limit:
                    apart.append(index)
                    continue
                self._domains.add(domain)
        if len(apart) == delivery.recipients:
            self._quitting = True
            delivery.transfers -= 1          # it was not used
            self.queue.push(delivery, True)
            return False
        if apart:
            rest = self.queue.dispatcher.split(delivery, apart)
            self.queue.push(rest, True)
        return True

    cdef size_t _size_of(self, Delivery delivery) except? 0:
        """Octets that the host gets: the mail data, and with LMTP what is put in front of it."""
        cdef MailBuffer buffer = delivery.buffer
        cdef size_t octets = buffer.end - buffer.data_begin
        return octets + len(self._top_of(delivery)) if self.lmtp else octets

    cdef bytes _top_of(self, Delivery delivery):
        """The trace fields of a final delivery (RFC 5321 §4.4); who else gets the message is nobody's business."""
        cdef MailBuffer buffer = delivery.buffer
        cdef Recipient recipient
        cdef size_t position
        cdef uint16_t _i
        cdef bytes top = b"Return-Path: <" + as_bytes(buffer.text(TEXT_REVERSE_PATH)) + b">\r\n"
        if delivery.recipients == 1:
            position = buffer.first_recipient()
            for _i in range(delivery.index(0) + 1):
                position = buffer.recipient_at(position, &recipient)
            top += b"Delivered-To: " + as_bytes(recipient.forward_path) + b"\r\n"
        return top

    cdef bint _pipelined(self) noexcept:
        return self.capabilities & CAPABILITY_PIPELINING

    cdef bint _chunks(self, Delivery delivery) noexcept:
        """Whether to send the content with BDAT: it saves a round trip where it can go along with the envelope."""
        return (self.capabilities & CAPABILITY_CHUNKING and self.capabilities & CAPABILITY_PIPELINING
                and delivery.buffer.end - delivery.buffer.data_begin <= self.egress.chunk_octets)

    cdef bint _begin(self, Delivery delivery) except -1:
        """Start the transaction for delivery. False when there is nothing to send: its results are settled."""
        cdef size_t n
        if not self._limit(delivery) or not self._fits(delivery):
            return False
        self._current = delivery
        delivery.host = self.host
        delivery.tls = self.tls
        delivery.dsn_passed_on = self.capabilities & CAPABILITY_DSN != 0
        self._rcpt_answered = self._rcpt_accepted = self._final_answered = 0
        self._answered = self._content_sent = self._mail_refused = False
        self._refused = None
        self._chunked = self._chunks(delivery)
        if self.egress.dialogues.keep != KEEP_NONE or self.egress.dialogues.watch is not None:
            self._listen(False)
        else:
            self._told = True
        n = self._compose(delivery)
        if self._chunked:
            self._write_chunk(n)
        else:
            self._write(self.egress._scratch, n)
        self._await(PHASE_MAIL)
        return True

    cdef int _await(self, int phase) except -1:
        cdef double seconds
        self._expecting = phase
        if phase == PHASE_FINAL:
            seconds = self.egress.block_timeout_s if self._write_paused else self.egress.final_timeout_s
        elif phase == PHASE_RCPT:
            seconds = self.egress.rcpt_timeout_s
        elif phase == PHASE_DATA:
            seconds = self.egress.data_timeout_s
        elif phase == PHASE_QUIT:
            seconds = QUIT_TIMEOUT_S
        else:
            seconds = self.egress.mail_timeout_s
        self._asked_at = monotonic()
        self._deadline = self._asked_at + seconds
        return 0

    cdef int _await_next(self, int phase) except -1:
        """The same where the command was sent along with the one that has just been answered."""
        self._expecting = phase
        self._asked_at = self._read_at
        self._deadline = self._asked_at + (
            self.egress.rcpt_timeout_s if phase == PHASE_RCPT
            else self.egress.data_timeout_s if phase == PHASE_DATA
            else self.egress.block_timeout_s if self._write_paused
            else self.egress.final_timeout_s
        )
        return 0

    cdef int _note_time(self, int phase) except -1:
        """The reply to a phase of the transaction was read."""
        cdef int base
        cdef double waited_s = self._read_at - self._asked_at
        if phase == PHASE_FINAL:
            base = Slot.DELIVERY_ATTEMPT_FINAL
        elif phase == PHASE_MAIL:
            base = Slot.DELIVERY_ATTEMPT_MAIL
        elif phase == PHASE_RCPT:
            base = Slot.DELIVERY_ATTEMPT_RCPT
        elif phase == PHASE_DATA:
            base = Slot.DELIVERY_ATTEMPT_DATA
        else:
            return 0
        # what was pipelined is asked for when the reply before it has been read, and may be there already
        observe_message(self.egress.counters.own, base, <uint64_t>(waited_s * 1e6) if waited_s > 0 else 0,
                        self._current.message.id, self._read_us)
        return 0

    # ------------------------------------------------------------------ what is written

    cdef int _make_room(self, Delivery delivery) except -1:
        """In the egress' scratch memory, for the envelope commands."""
        cdef MailBuffer buffer = delivery.buffer
        cdef Egress egress = self.egress
        cdef size_t wanted = 1024 + 3 * (buffer.data_begin - buffer.begin) + <size_t>delivery.recipients * 80
        cdef char *moved
        if wanted > egress._scratch_capacity:
            moved = <char *>realloc(egress._scratch, wanted)
            if moved == NULL:
                raise MemoryError
            egress._scratch = moved
            egress._scratch_capacity = wanted
        return 0

    cdef size_t _compose(self, Delivery delivery) except 0:
        """The envelope commands into the egress' scratch memory: all of them, or (no pipelining) MAIL alone."""
        cdef MailBuffer buffer = delivery.buffer
        cdef Egress egress = self.egress
        cdef Recipient recipient
        cdef size_t position, n
        cdef uint16_t i, k
        self._make_room(delivery)
        n = put_mail(egress._scratch, delivery.message, buffer, self._size_of(delivery), self.capabilities)
        if not self._pipelined():
            return n
        position = buffer.first_recipient()
        k = 0
        for i in range(delivery.message.recipients):
            if k == delivery.recipients:
                break
            position = buffer.recipient_at(position, &recipient)
            if delivery.index(k) == i:
                n += put_rcpt(egress._scratch + n, &recipient, self.capabilities)
                k += 1
        if not self._chunks(delivery):
            n += put(egress._scratch + n, b"DATA\r\n", 6)
        return n

    cdef int _write(self, const char *octets, size_t n) except -1:
        self.transport.write(PyBytes_FromStringAndSize(octets, n))
        return 0

    cdef int _write_rcpt(self) except -1:
        """Without pipelining: the next RCPT, or DATA when all are answered."""
        cdef Delivery delivery = self._current
        cdef MailBuffer buffer = delivery.buffer
        cdef Recipient recipient
        cdef size_t position
        cdef uint16_t _i
        if self._rcpt_answered == delivery.recipients:
            if self._rcpt_accepted == 0:
                return self._settle(PHASE_RCPT)
            self._write(b"DATA\r\n", 6)
            return self._await(PHASE_DATA)
        position = buffer.first_recipient()
        for _i in range(delivery.index(self._rcpt_answered) + 1):
            position = buffer.recipient_at(position, &recipient)
        self._write(self.egress._scratch, put_rcpt(self.egress._scratch, &recipient, self.capabilities))
        return self._await(PHASE_RCPT)

    cdef int _mark(self) except -1:
        """From here on a lost connection leaves the delivery in doubt."""
        cdef Message message = self._current.message
        self._content_sent = True
        self.queue.dispatcher.journal_of(message).mark_in_flight(message)
        return 0

    cdef int _write_chunk(self, size_t envelope) except -1:
        """Envelope and content in one write: BDAT n LAST."""
        cdef MailBuffer buffer = self._current.buffer
        cdef size_t n = buffer.end - buffer.data_begin
        cdef char line[40]
        cdef size_t length = put(line, b"BDAT ", 5)
        cdef bytes octets
        cdef bytes top = self._top_of(self._current) if self.lmtp else None
        cdef size_t in_front = len(top) if self.lmtp else 0
        cdef char *p
        length += put_decimal(line + length, in_front + n)
        length += put(line + length, b" LAST\r\n", 7)
        self._mark()
        octets = PyBytes_FromStringAndSize(NULL, envelope + length + in_front + n)
        p = PyBytes_AS_STRING(octets)
        memcpy(p, self.egress._scratch, envelope)
        memcpy(p + envelope, line, length)
        p += envelope + length
        if in_front:
            memcpy(p, PyBytes_AS_STRING(top), in_front)
        memcpy(p + in_front, buffer.octets + buffer.data_begin, n)
        self.transport.write(octets)
        return 0

    cdef int _write_content(self) except -1:
        """The content behind a 354, with the next envelope in the same write when there is one."""
        cdef MailBuffer buffer = self._current.buffer
        cdef const char *data = buffer.octets + buffer.data_begin
        cdef size_t n = buffer.end - buffer.data_begin
        cdef size_t stuffing = count_stuffing(data, n)
        cdef size_t envelope = 0
        cdef bint ends = n >= 2 and data[n - 1] == c'\n' and data[n - 2] == c'\r'
        cdef const char *tail = b".\r\n" if ends or n == 0 else b"\r\n.\r\n"
        cdef size_t tail_length = strlen(tail)
        cdef Delivery following
        cdef bytes octets
        cdef bytes top = self._top_of(self._current) if self.lmtp else None
        cdef size_t in_front = len(top) if self.lmtp else 0
        cdef char *p
        if self._pipelined() and not self._quitting and self.queue.backlog and (
            self.transactions_limit == 0 or self.transactions + 1 < self.transactions_limit
        ):
            following = self.queue.first()
            if following is not None and not self._chunks(following):
                self.queue.pop()
                if self._limit(following) and self._fits(following):
                    self._ahead = following
                    envelope = self._compose(following)
        self._mark()
        if n <= ONE_WRITE_OCTETS or stuffing:
            octets = PyBytes_FromStringAndSize(NULL, in_front + n + stuffing + tail_length + envelope)
            p = PyBytes_AS_STRING(octets)
            if in_front:                     # no line of it begins with a dot
                memcpy(p, PyBytes_AS_STRING(top), in_front)
                p += in_front
            if stuffing:
                n = stuff_mail_data(data, n, p)
            else:
                memcpy(p, data, n)
            memcpy(p + n, tail, tail_length)
            memcpy(p + n + tail_length, self.egress._scratch, envelope)
            self.transport.write(octets)
        else:
            octets = PyBytes_FromStringAndSize(NULL, tail_length + envelope)
            p = PyBytes_AS_STRING(octets)
            memcpy(p, tail, tail_length)
            memcpy(p + tail_length, self.egress._scratch, envelope)
            if in_front:
                self.transport.writelines((top, memoryview(buffer), octets))
            else:
                self.transport.writelines((memoryview(buffer), octets))
        return self._await(PHASE_FINAL)

    # ------------------------------------------------------------------ what is read

    cdef int _on_reply(self) except -1:
        cdef int code = self._parser.reply.code
        cdef int phase = self._expecting
        cdef bint good = code < 300
        if phase == PHASE_QUIT:
            if self._current is not None:
                return self._on_reply_to_quit(code)
            self.transport.close()
            return 0
        if phase == PHASE_IDLE:
            # nobody asked: 421 most often; the host is about to close
            return self._abandon(f"the host said {code} unasked")
        if phase == PHASE_RSET:
            # whatever it says, the transaction is over; one that cannot be reset ends the connection
            if not good:
                self._quitting = True
            return self._go_on()
        if self.egress.dialogues.keep != KEEP_NONE or self.egress.dialogues.watch is not None:
            self._hear(phase)
        if self._farewell is not None:
            self._farewell.note(good)
        if 300 <= code < 400 and phase != PHASE_DATA:
            # what it answers with it is not what was asked, and so it is with everything behind it
            return self._abandon(f"the host said {code} to {PHASE_NAMES[phase]}")
        self._answered = True
        self._note_time(phase)
        if code == 421:
            self._quitting = True
            if self._content_sent:
                self._begin_farewell(phase)
            elif phase < PHASE_CONTENT and self._hand_on(phase, code, self._parser.text()[:LONGEST_TEXT]):
                return self._leave()
            else:
                return self._settle(phase)
        if phase == PHASE_MAIL:
            return self._on_mail(good)
        if phase == PHASE_RCPT:
            return self._on_rcpt(good)
        if phase == PHASE_DATA:
            return self._on_data()
        return self._on_final(good)

    cdef int _on_mail(self, bint good) except -1:
        if not good:
            self._mail_refused = True
            self._despite = None
            self._refused = [self._result(self._current.index(i), PHASE_MAIL) for i in range(self._current.recipients)]
            if not self._pipelined():
                return self._settle(PHASE_MAIL)
        if not self._pipelined():
            return self._write_rcpt()
        return self._await_next(PHASE_RCPT)

    cdef int _on_rcpt(self, bint good) except -1:
        if good:
            if not self._mail_refused:
                self._rcpt_accepted += 1
            elif self._chunked:              # the content has left: what the host says to it will decide
                if self._despite is None:
                    self._despite = []
                self._despite.append(self._current.index(self._rcpt_answered))
                self._rcpt_accepted += 1
        elif not self._mail_refused:
            if self._refused is None:
                self._refused = []
            self._refused.append(self._result(self._current.index(self._rcpt_answered), PHASE_RCPT))
        self._rcpt_answered += 1
        if not self._pipelined():
            return self._write_rcpt()
        if self._rcpt_answered == self._current.recipients:
            return self._await_next(PHASE_FINAL if self._chunked else PHASE_DATA)
        return self._await_next(PHASE_RCPT)  # each has its time (RFC 5321 §4.5.3.2.3)

    cdef int _on_data(self) except -1:
        if self._parser.reply.code != 354:
            if self._parser.reply.code < 400:
                return self._abandon(f"the host said {self._parser.reply.code} to DATA")
            return self._settle(PHASE_DATA)
        if self._rcpt_accepted == 0:
            if self.lmtp:
                # it must say 503 (RFC 2033 §4.2); to an end of mail data it would have no reply
                return self._abandon("the host said 354 to DATA for nobody")
            # the host waits for mail data that nobody is to get (RFC 2920 §3.1)
            self._write(b".\r\n", 3)
            return self._await(PHASE_FINAL)
        return self._write_content()

    cdef int _on_final(self, bint good) except -1:
        cdef Delivery delivery = self._current
        if self._awaits_more(PHASE_FINAL):
            return self._on_one_of_several()
        if self._farewell is not None:
            self._answer_rest(PHASE_FINAL)
            return self._await(PHASE_QUIT)
        if not good or self._refused is not None:
            return self._settle(PHASE_FINAL)
        if not delivery.dsn_passed_on and delivery.asks_for_success():
            # the sender is to be told, and this host will not do it (RFC 3461 §5.2.2)
            return self._settle(PHASE_FINAL)
        if self.egress.dialogues.keep == KEEP_ALL:
            self._tell(delivery, True, None)
        self._current = None
        self.transactions += 1
        self.queue.dispatcher.delivered(delivery, &self._parser.reply, self._parser.text())
        if self._ahead is not None and not self.closed:
            return self._take_ahead()
        return self._go_on()

    cdef bint _awaits_more(self, int phase) noexcept:
        """Whether the reply just read is the end of the mail data's for one recipient, and others are to come."""
        return self.lmtp and phase == PHASE_FINAL and self._final_answered + 1 < self._rcpt_accepted

    cdef int _on_one_of_several(self) except -1:
        """LMTP: this reply is for the next of those who were accepted; the last one is for `_on_final` to settle."""
        cdef set refused
        if self._final_answered == 0:
            if self._refused is None:
                self._refused = []
            if self._mail_refused:
                self._accepted = self._despite
            else:
                refused = {result[0] for result in self._refused}
                self._accepted = [index for index in self._current.indices() if index not in refused]
        if self._mail_refused:
            self._answer_despite(self._accepted[self._final_answered])
        else:
            self._refused.append(self._result(self._accepted[self._final_answered], PHASE_FINAL))
        self._final_answered += 1
        return self._await(PHASE_FINAL)

    cdef int _answer_despite(self, uint16_t index) except -1:
        """The reply just read is about the content, for a recipient who was accepted though MAIL was refused.

        Only that the host has taken it is news.
        """
        cdef Py_ssize_t i
        if self._parser.reply.code < 300:
            for i in range(len(self._refused)):
                if self._refused[i][0] == index:
                    self._refused[i] = self._result(index, PHASE_FINAL)
        return 0

    cdef int _answer_rest(self, int phase) except -1:
        """The reply just read decides for all who have none of their own."""
        cdef Delivery delivery = self._current
        cdef set own
        cdef uint16_t i, index
        if self._refused is None:
            self._refused = []
        if self._mail_refused and self._despite is not None and phase == PHASE_FINAL:
            for index in self._despite[self._final_answered:]:
                self._answer_despite(index)
        own = {result[0] for result in self._refused}
        for i in range(delivery.recipients):
            index = delivery.index(i)
            if index not in own:
                self._refused.append(self._result(index, phase))
        return 0

    cdef int _take_ahead(self) except -1:
        """The envelope of the next delivery is on its way already."""
        self._current = self._ahead
        self._current.host = self.host
        self._current.tls = self.tls
        self._current.dsn_passed_on = self.capabilities & CAPABILITY_DSN != 0
        self._ahead = None
        self._rcpt_answered = self._rcpt_accepted = self._final_answered = 0
        self._answered = self._content_sent = self._mail_refused = self._chunked = False
        self._refused = None
        if self.egress.dialogues.keep != KEEP_NONE or self.egress.dialogues.watch is not None:
            self._listen(True)
        else:
            self._told = True
        self._await(PHASE_MAIL)
        return 0

    # ------------------------------------------------------------------ what is kept of it

    cdef int _listen(self, bint ahead) except -1:
        """A transaction begins of which may be kept what is said."""
        self._heard.begin(monotonic())
        self._told = False
        self._said_ahead = ahead
        if self.egress.dialogues.watch is not None:
            self._show("C", PyBytes_FromStringAndSize(self.egress._scratch, self._compose_all(self._current)))
        return 0

    cdef int _hear(self, int phase) except -1:
        """Keep the reply that was just read until it is known what becomes of the transaction."""
        cdef ReplyParser parser = self._parser
        cdef bytes status
        if self.egress.dialogues.watch is not None:
            status = b""
            if parser.reply.enhanced_class:
                status = b"%d.%d.%d " % (
                    parser.reply.enhanced_class, parser.reply.enhanced_subject, parser.reply.enhanced_detail
                )
            self._show("S", b"%d %s%s" % (parser.reply.code, status, parser.text()[:LONGEST_TEXT]))
        if self._told:
            return 0                         # nobody listened when the transaction began
        return self._heard.hear(parser, phase, self._read_at)

    cdef int _tell(self, Delivery delivery, bint delivered, str why) except -1:
        """What was said becomes a record, if that is wanted of what came of it. Call it while delivery has its octets.
        """
        cdef Dialogues kept = self.egress.dialogues
        cdef MailBuffer buffer = delivery.buffer
        cdef Message message = delivery.message
        cdef int flags = 0
        cdef bytes text
        cdef size_t n
        if self._told or kept.keep == KEEP_NONE or (delivered and kept.keep != KEEP_ALL):
            return 0
        self._told = True
        if delivered:
            flags |= DIALOGUE_DELIVERED
        if self._pipelined():
            flags |= DIALOGUE_PIPELINED
        if self._heard.cut:
            flags |= DIALOGUE_CUT
        if self._content_sent:
            flags |= DIALOGUE_CONTENT
        if self._said_ahead:
            flags |= DIALOGUE_AHEAD
        n = self._compose_all(delivery)
        if not kept.begin(message.id, self._heard.began, monotonic(), flags, self.transactions, message.attempts + 1,
                          buffer.end - buffer.data_begin):
            return 0
        text = self.queue.next_hop
        kept.put(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        kept.put(PyBytes_AS_STRING(self.host), PyBytes_GET_SIZE(self.host))
        text = self.tls if self.tls is not None else b""
        kept.put(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        # how the connection was opened is told once of one that works, and always of one that failed
        if delivered and self.transactions:
            kept.put(b"", 0)
        else:
            kept.put(PyBytes_AS_STRING(self.opening), PyBytes_GET_SIZE(self.opening))
        text = b"" if why is None else why.encode("utf-8", "replace")
        kept.put(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        kept.put(self.egress._scratch, n)
        kept.put(self._heard.octets, self._heard.length)
        return kept.end()

    cdef int _show(self, str direction, bytes octets) except -1:
        """Somebody watches."""
        self.egress.dialogues.watch(<size_t><void *>self, direction, self.host, self.queue.site, octets)
        return 0

    cdef size_t _compose_all(self, Delivery delivery) except 0:
        """The commands of the whole transaction into the egress' scratch memory, as they are or would be sent."""
        cdef MailBuffer buffer = delivery.buffer
        cdef char *p
        cdef Recipient recipient
        cdef size_t position, n
        cdef uint16_t i
        cdef uint16_t k = 0
        self._make_room(delivery)
        p = self.egress._scratch
        n = put_mail(p, delivery.message, buffer, self._size_of(delivery), self.capabilities)
        position = buffer.first_recipient()
        for i in range(delivery.message.recipients):
            if k == delivery.recipients:
                break
            position = buffer.recipient_at(position, &recipient)
            if delivery.index(k) == i:
                n += put_rcpt(p + n, &recipient, self.capabilities)
                k += 1
        if self._chunked:
            n += put(p + n, b"BDAT ", 5)
            n += put_decimal(p + n, self._size_of(delivery))
            n += put(p + n, b" LAST\r\n", 7)
        else:
            n += put(p + n, b"DATA\r\n", 6)
        return n

    cdef tuple _result(self, uint16_t index, int phase):
        cdef ReplyParser parser = self._parser
        enhanced = None
        if parser.reply.enhanced_class:
            enhanced = (parser.reply.enhanced_class, parser.reply.enhanced_subject, parser.reply.enhanced_detail)
        return index, parser.reply.code, enhanced, parser.text()[:LONGEST_TEXT], phase

    cdef int _settle(self, int phase) except -1:
        """The transaction is over, not everybody was served.

        The reply just read decides for all who have none of their own.
        """
        cdef Delivery delivery = self._current
        # MAIL was accepted and no mail data ended the transaction (or a chunk was refused, RFC 3030 §2): the host must
        # be told
        cdef bint reset = not self._mail_refused and (
            phase == PHASE_RCPT or phase == PHASE_DATA or (self._chunked and self._parser.reply.code >= 300)
        )
        cdef list results
        self._answer_rest(phase)
        results = self._refused
        if self.egress.dialogues.keep != KEEP_NONE:
            self._tell(delivery, all([result[1] // 100 == 2 for result in results]), None)
        delivery.results = results
        self._current = None
        self._refused = None
        self.transactions += 1
        self.queue.dispatcher.settle(delivery)
        if self.closed:
            return 0
        if self._quitting:
            return self._leave()
        if self._ahead is not None:
            return self._take_ahead()
        if reset:
            self._write(b"RSET\r\n", 6)
            return self._await(PHASE_RSET)
        return self._go_on()

    cdef int _leave(self) except -1:
        """No transaction is under way, and none follows on this connection."""
        cdef Delivery ahead = self._ahead
        if ahead is not None:
            self._ahead = None
            self.queue.push(ahead, True)
        return self._quit()

    cdef bint _hand_on(self, int phase, int code, bytes text) except -1:
        """Give those of the current delivery who have no result of their own to another connection.

        The host is in trouble, and has not taken the content: what it said last in phase, code 0 when that was nothing.
        False: there is no other connection for them, and nothing was done.
        """
        cdef Delivery delivery = self._current
        cdef Delivery rest
        cdef list results = self._refused
        cdef list left
        cdef set own
        if self.transactions and phase == PHASE_MAIL and delivery.transfers <= MOST_TRANSFERS:
            pass                             # it has had enough of this connection; that says nothing of a new one
        elif self.queue.trouble is None or not self.queue.trouble(
            self.queue, self.host, delivery.transfers, code, text, phase
        ):
            return False
        if results is None:
            rest = delivery
        else:
            own = {result[0] for result in results}
            left = [index for index in delivery.indices() if index not in own]
            if not left:
                return False
            rest = self.queue.dispatcher.split(delivery, left)
            rest.transfers = delivery.transfers
        if not self.closed:                  # else it has been told
            self._tell(delivery, False, None)
        self._current = None
        self._refused = None
        self.queue.push(rest, True)
        if rest is not delivery:
            delivery.results = results
            self.queue.dispatcher.settle(delivery)
        return True

    # ------------------------------------------------------------------ 421, and the content has left

    cdef int _begin_farewell(self, int phase) except -1:
        """The host said 421. QUIT marks the end of what it may still say to what it has got."""
        cdef Delivery ahead = self._ahead
        if self._farewell is not None:
            return 0
        self._farewell = Farewell()
        self._farewell.phase = phase
        self._farewell.reply = self._result(0, phase)[1:]
        self._farewell.results_before = len(self._refused) if self._refused is not None else 0
        if ahead is not None:
            self._ahead = None
            self.queue.push(ahead, True)
        self._write(b"QUIT\r\n", 6)
        return 0

    cdef int _on_reply_to_quit(self, int code) except -1:
        """The first reply that QUIT may have, where a message waits for it."""
        if self.egress.dialogues.keep != KEEP_NONE or self.egress.dialogues.watch is not None:
            self._hear(PHASE_QUIT)
        if code != 221:
            self._farewell.note(code < 300)
        self._conclude(code == 221, f"the host said {code} to QUIT")
        self.transport.close()
        return 0

    cdef int _conclude(self, bint in_step, str why) except -1:
        """Settle what the host had when it said 421, as the farewell has it, or give it to another connection.

        in_step: each reply was in its place, the one to QUIT too. why: what was seen last.
        """
        cdef Delivery delivery = self._current
        cdef Farewell farewell = self._farewell
        cdef list kept
        cdef set own
        cdef bint doubt
        cdef uint16_t k, index
        if self.lmtp and self._mail_refused and self._rcpt_accepted > 1:
            in_step = False                  # replies to the content are as many as were accepted: that proves nothing
        doubt = not in_step and not self._write_paused and farewell.leaves_doubt(
            self._ended, self._rcpt_accepted > 0, self._expecting == PHASE_QUIT, self.lmtp)
        kept = farewell.keep(self._refused if self._refused is not None else [], in_step, doubt and self._mail_refused)
        own = {result[0] for result in kept}
        self._refused = kept if kept else None
        self._tell(delivery, len(own) == delivery.recipients and all([result[1] // 100 == 2 for result in kept]),
                   why if self.closed else None)
        if len(own) < delivery.recipients and not doubt and farewell.phase < PHASE_CONTENT and (
            self._hand_on(farewell.phase, 421, farewell.reply[2])
        ):
            return 0
        text = f"{self.host.decode('ascii', 'replace')}: {why}, behind 421 to {PHASE_NAMES[farewell.phase]}"
        for k in range(delivery.recipients):
            index = delivery.index(k)
            if index not in own:
                if doubt:
                    kept.append((index, 0, None, text.encode("utf-8", "replace"), PHASE_FINAL))
                else:
                    kept.append((index,) + farewell.reply)
        self._current = None
        self._refused = None
        self.transactions += 1
        delivery.results = kept
        self.queue.dispatcher.settle(delivery)
        return 0

    cdef int _abandon(self, str why) except -1:
        """The connection is of no use any more.

        What was not answered is settled without a reply, or goes to another connection.
        """
        cdef Delivery delivery = self._current
        cdef Delivery ahead = self._ahead
        cdef int phase = self._expecting
        cdef bytes text = f"{self.host.decode('ascii', 'replace')}: {why}".encode("utf-8", "replace")
        cdef list results
        cdef set own
        cdef uint16_t i, index
        if self._content_sent:
            # BDAT went along with the envelope. While the transport holds octets back, the end of the content is among
            # them
            phase = PHASE_CONTENT if self._write_paused and ahead is None else PHASE_FINAL
        self._unlink()
        if self.transport is not None:
            self.transport.abort()
        self._ahead = None
        if ahead is not None:
            self.queue.push(ahead, True)
        if delivery is not None and self._farewell is not None:
            self._conclude(False, why)
        elif delivery is not None:
            self._tell(delivery, False, why)
            if self._mail_refused and self._despite is not None:
                # it had changed its mind, and nobody knows what it said to the content
                self._refused = [result for result in self._refused if result[0] not in self._despite]
            if not self._answered and not self._content_sent and (
                self.transactions and delivery.transfers <= MOST_TRANSFERS
            ):
                # the host closed an idle connection as we began to use it: nothing happened
                self._current = None
                self.queue.push(delivery, True)
            elif (self._content_sent and phase != PHASE_CONTENT) or not self._hand_on(phase, 0, text):
                self._current = None
                results = self._refused if self._refused is not None else []
                own = {result[0] for result in results}
                for i in range(delivery.recipients):
                    index = delivery.index(i)
                    if index not in own:
                        results.append((index, 0, None, text, phase))
                delivery.results = results
                self.queue.dispatcher.settle(delivery)
        return self.queue.pump()

    cdef int _unlink(self) except -1:
        """Leave the lists: no more work comes here."""
        cdef Egress egress = self.egress
        self.closed = True
        if egress.dialogues.watch is not None:
            self._show("-", b"")
        self._end_idling()
        if self._linked:
            self._linked = False
            if self._previous is not None:
                self._previous._next = self._next
            else:
                egress._first = self._next
            if self._next is not None:
                self._next._previous = self._previous
            if egress._sweep_at is self:
                egress._sweep_at = self._next
            self._next = self._previous = None
            egress.sessions -= 1
            self.queue.open -= 1
            self.queue.note_cause()
            slot_sub(egress.counters.slots, Slot.DELIVERY_CONNECTIONS, 1)
            if self._expecting == PHASE_IDLE and self in self.queue.idle:
                self.queue.idle.remove(self)
        return 0

    def leave(self):
        """An idle connection is not to be used any more."""
        if self._expecting == PHASE_IDLE:
            self._quit()

    cdef int _quit(self) except -1:
        """Leave politely: QUIT, and the connection is closed when the host answers or after some seconds."""
        if self._expecting == PHASE_QUIT or self.closed:
            return 0
        if self._expecting == PHASE_IDLE and self in self.queue.idle:
            self.queue.idle.remove(self)
        self._end_idling()
        self._await(PHASE_QUIT)
        self._write(b"QUIT\r\n", 6)
        return 0
