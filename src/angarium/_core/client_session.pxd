"""The client's side of SMTP after the connection is set up: transactions, pipelined."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from angarium._core.counters cimport Counters
from angarium._core.dialogue cimport Dialogues, Heard
from angarium._core.dispatch cimport Carrier, Delivery, ReadyQueue
from angarium._core.farewell cimport Farewell
from angarium._core.reply cimport ReplyParser


cpdef enum Capability:
    CAPABILITY_PIPELINING = 1
    CAPABILITY_8BITMIME = 2
    CAPABILITY_SMTPUTF8 = 4
    CAPABILITY_CHUNKING = 8
    CAPABILITY_SIZE = 16
    CAPABILITY_DSN = 32
    CAPABILITY_REQUIRETLS = 64
    CAPABILITY_PRIORITY = 128        # MT-PRIORITY, RFC 6710


cpdef enum Phase:                # where in a transaction something happened
    PHASE_CONNECT = 0
    PHASE_GREETING
    PHASE_EHLO
    PHASE_TLS
    PHASE_AUTH
    PHASE_MAIL
    PHASE_RCPT
    PHASE_DATA
    PHASE_CONTENT                # the mail data is on its way, not all of it has left
    PHASE_FINAL                  # the last octet has left, the reply to it is awaited
    PHASE_RSET
    PHASE_IDLE
    PHASE_QUIT


cdef class Egress:
    """What the outgoing sessions of one worker share: receive buffer, timeouts, the list of open sessions."""
    cdef readonly Counters counters
    cdef readonly Dialogues dialogues        # where what is said is kept, as far as it is
    cdef object _view
    cdef char *_receive
    cdef char *_scratch                      # where envelopes are composed
    cdef size_t _scratch_capacity
    cdef ClientSession _first
    cdef ClientSession _sweep_at             # where the next sweep goes on, when one has stopped before the end
    cdef readonly bint unswept               # it has
    cdef readonly uint32_t sessions
    cdef readonly uint32_t idle              # of them wait for work
    cdef readonly uint32_t idle_once         # of these have carried one message only
    cdef public uint32_t idle_limit          # more than that do not wait; of those used once, a share of it
    cdef public double mail_timeout_s        # RFC 5321 §4.5.3.2, each
    cdef public double rcpt_timeout_s
    cdef public double data_timeout_s
    cdef public double block_timeout_s
    cdef public double final_timeout_s
    cdef public double idle_s                # an idle connection is closed after that
    cdef public double lifetime_s            # no new transaction on an older connection
    cdef public uint64_t chunk_octets        # BDAT in one piece with the envelope up to this size


cdef class ClientSession(Carrier):
    cdef readonly Egress egress
    cdef readonly ReadyQueue queue
    cdef readonly object transport
    cdef readonly bytes host                 # what we are connected to: name and address
    cdef readonly bytes tls                  # version, cipher, how the host was authenticated, as JSON; None: plaintext
    cdef readonly bytes opening              # what was said before, without secrets
    cdef readonly uint32_t capabilities
    cdef readonly uint64_t size_limit        # 0: none known
    cdef readonly uint32_t transactions      # done
    cdef readonly uint32_t transactions_limit    # 0: none
    cdef readonly uint32_t recipients_limit  # of one transaction; 0: none
    cdef readonly uint32_t domains_limit     # of recipients, of one connection; 0: none
    cdef readonly bint lmtp                  # RFC 2033: a final reply for each recipient accepted
    cdef ClientSession _next, _previous
    cdef readonly bint closed
    cdef bint _linked
    cdef bint _idle                          # it is counted in Egress.idle
    cdef bint _idle_once                     # and in Egress.idle_once
    cdef set _domains                        # None, or those used so far
    cdef double _born
    cdef double _deadline
    cdef double _asked_at                    # monotonic: since when the next reply is awaited
    cdef double _read_at                     # when what is being read came
    cdef uint64_t _read_us                   # the same, in Unix time
    cdef ReplyParser _parser
    cdef bint _write_paused                  # the transport holds back more than it likes to
    cdef size_t _unsent                      # octets that it held back when last asked
    # the transaction under way
    cdef Delivery _current
    cdef uint8_t _expecting                  # Phase of the next reply
    cdef uint16_t _rcpt_answered
    cdef uint16_t _rcpt_accepted
    cdef uint16_t _final_answered            # LMTP: recipients whose final reply was read
    cdef bint _chunked                       # BDAT, not DATA
    cdef bint _content_sent                  # the last octet has been handed to the transport
    cdef bint _answered                      # some reply of this transaction was seen
    cdef bint _mail_refused                  # what was pipelined behind it is to be ignored
    cdef bint _quitting                      # no further transaction on this connection
    cdef list _refused                       # None, or [(index, code, enhanced, text, phase)] of single recipients
    cdef list _accepted                      # LMTP, behind the first of several final replies: whom they are for
    cdef list _despite                       # None, or indices of those accepted behind a refused MAIL
    cdef Farewell _farewell                  # None, or the host has said 421 and has the content already
    cdef bint _ended                         # the connection has ended by itself
    # the one whose envelope was sent along with the content of the current one (RFC 2920 §3.1)
    cdef Delivery _ahead
    # what the host has said in the transaction under way, when that may be kept
    cdef Heard _heard
    cdef bint _said_ahead                    # the envelope went along with the content of the message before
    cdef bint _told                          # it has been kept

    cdef int _listen(self, bint ahead) except -1
    cdef int _hear(self, int phase) except -1
    cdef int _tell(self, Delivery delivery, bint delivered, str why) except -1
    cdef int _show(self, str direction, bytes octets) except -1
    cdef size_t _compose_all(self, Delivery delivery) except 0
    cdef int _make_room(self, Delivery delivery) except -1
    cdef int _on_reply(self) except -1
    cdef int _on_mail(self, bint good) except -1
    cdef int _on_rcpt(self, bint good) except -1
    cdef int _on_data(self) except -1
    cdef int _on_final(self, bint good) except -1
    cdef bint _begin(self, Delivery delivery) except -1
    cdef bint _fits(self, Delivery delivery) except -1
    cdef int _fail(self, Delivery delivery, tuple failure) except -1
    cdef bint _limit(self, Delivery delivery) except -1
    cdef bint _limit_domains(self, Delivery delivery) except -1
    cdef int _leave(self) except -1
    cdef bint _hand_on(self, int phase, int code, bytes text) except -1
    cdef int _begin_farewell(self, int phase) except -1
    cdef int _on_reply_to_quit(self, int code) except -1
    cdef int _conclude(self, bint in_step, str why) except -1
    cdef int _answer_rest(self, int phase) except -1
    cdef int _answer_despite(self, uint16_t index) except -1
    cdef int _check_progress(self) except -1
    cdef size_t _compose(self, Delivery delivery) except 0
    cdef size_t _size_of(self, Delivery delivery) except? 0
    cdef bytes _top_of(self, Delivery delivery)
    cdef bint _awaits_more(self, int phase) noexcept
    cdef int _on_one_of_several(self) except -1
    cdef bint _pipelined(self) noexcept
    cdef bint _chunks(self, Delivery delivery) noexcept
    cdef int _write(self, const char *octets, size_t n) except -1
    cdef int _write_rcpt(self) except -1
    cdef int _write_content(self) except -1
    cdef int _write_chunk(self, size_t envelope) except -1
    cdef int _mark(self) except -1
    cdef int _go_on(self) except -1
    cdef int _end_idling(self) except -1
    cdef int _take_ahead(self) except -1
    cdef tuple _result(self, uint16_t index, int phase)
    cdef int _settle(self, int phase) except -1
    cdef int _abandon(self, str why) except -1
    cdef int _quit(self) except -1
    cdef int _unlink(self) except -1
    cdef int _await(self, int phase) except -1
    cdef int _await_next(self, int phase) except -1
    cdef int _note_time(self, int phase) except -1
