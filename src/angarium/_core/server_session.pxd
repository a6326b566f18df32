"""The server's side of one SMTP session, and what the sessions of one worker share."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from angarium._core.client_terms cimport ClientTerms
from angarium._core.command cimport MailParameters
from angarium._core.counters cimport Counters
from angarium._core.decision cimport Answered, Decision
from angarium._core.event_log cimport EventLog
from angarium._core.header cimport HeaderFacts
from angarium._core.intake cimport Intake
from angarium._core.journal cimport Receiver
from angarium._core.listener_profile cimport ListenerProfile
from angarium._core.mail_data cimport MailDataScan
from angarium._core.memory_budget cimport MemoryBudget
from angarium._core.permission cimport Permission
from angarium._core.record cimport AcceptedMeta, MailBuffer, Message, Text


cpdef enum AuthVerdict:          # what an AUTH exchange comes to when it is no challenge and no log-in
    AUTH_REFUSED = 1             # what was proved is not enough: 535
    AUTH_SYNTAX                  # the response cannot be decoded: 501
    AUTH_UNAVAILABLE             # nobody could say: 454
    AUTH_BANNED                  # too many have failed from there, and nobody was asked: 454


cdef class Reception:
    """What the sessions of one worker share: receive buffer, clock, counters, intake."""
    cdef readonly Counters counters
    cdef readonly EventLog events
    cdef readonly Intake intake
    cdef readonly MemoryBudget memory            # of the node
    cdef public bint draining                    # new commands get 421
    cdef public object watch                     # None, or (connection, direction, client, listener, octets) -> None
    cdef object _view                            # memoryview of _receive
    cdef char *_receive
    cdef bint _paced                             # some session may be waiting for memory
    cdef ServerSession _first                    # doubly linked list of the open sessions
    # where the next call of `sweep`, `pace`, `follow` goes on, when one has stopped before the end
    cdef ServerSession _sweep_at, _pace_at, _follow_at
    cdef readonly bint unswept                   # `sweep` has stopped before the end
    cdef readonly uint32_t sessions
    cdef int64_t _date_second
    cdef char _date[40]
    cdef size_t _date_length

    cdef double now(self) noexcept
    cdef size_t date(self, uint64_t unix_us) noexcept


cdef class ServerSession(Receiver):
    cdef readonly ListenerProfile profile
    cdef readonly Reception reception
    cdef readonly object transport
    cdef ServerSession _next, _previous
    # connection
    cdef str _address                            # the client's, as the policies are asked for it; None: not known yet
    cdef bytes _client                           # the same in the trace field and in events
    cdef bytes _client_name                      # of its host, b"" unless XCLIENT says it
    cdef bint _may_xclient
    cdef bint _spoken_for                        # XCLIENT has said who the client is
    cdef bytes _stated_login                     # then: what it has said of a log-in
    cdef str _own_address                        # then: whose connection it is
    cdef uint64_t _client_key
    cdef bytes _origin                           # of a local user, for the trace field; b"": a client with an address
    cdef bint _counted
    cdef ClientTerms _terms                      # what policy grants this client
    cdef readonly bint closed
    cdef bint _eof
    cdef readonly bint tls
    cdef readonly object tls_version, tls_cipher
    cdef readonly object certificate             # that the client has proved to be its own; None: none
    # dialogue
    cdef uint8_t _dialogue                       # DIALOGUE_*: what the verb table is asked with
    cdef uint8_t _mode                           # MODE_*: what the next octets are
    cdef uint8_t _waiting_for                    # WAIT_*: why input is not read on
    cdef bint _extended                          # EHLO, not HELO
    cdef uint32_t _offered                       # OFFER_* of its last EHLO
    cdef bint _consuming                         # within _consume: who answers must not read on
    cdef bint _skipping_line
    cdef bytes _greeting_name
    cdef bytes _login
    cdef object _exchange                        # AUTH under way
    cdef uint32_t _question                      # the number of the last Decision that was asked for
    cdef uint32_t _errors
    cdef uint32_t _transactions
    cdef int64_t _rate_second
    cdef uint32_t _rate_count
    cdef bint _throttled                 # it has the commands of this second: nothing more until the next sweep
    cdef double _deadline
    cdef double _data_deadline
    cdef double _paused_at                       # while it waits for memory
    cdef double _pause_until
    # replies not yet written
    cdef char *_out
    cdef size_t _out_length, _out_capacity
    cdef bint _write_paused
    # input that came while waiting
    cdef char *_stash
    cdef size_t _stash_length, _stash_capacity
    cdef bint _read_paused
    # mail transaction
    cdef bytes _reverse_path
    cdef bytes _done                             # by policy to this message, as members of its event; None: nothing
    cdef bytes _envid
    cdef MailParameters _mail
    cdef uint64_t _hold_until                    # unix seconds, 0: none (RFC 4865)
    cdef uint32_t _counted_step                  # of its sender's quota that the message was counted in, 0: in none
    cdef int _priority                           # as granted (RFC 6710)
    cdef char *_recipients                       # as the journal's record wants them
    cdef size_t _recipients_length, _recipients_capacity
    cdef uint16_t _recipient_count
    cdef size_t _next_recipient                  # the length with the one that is being verified
    cdef MailBuffer _buffer
    cdef MailDataScan _scan
    cdef bint _discarding                        # the message is refused; its octets are read and dropped
    cdef const char *_refusal                    # what it is refused with
    cdef uint64_t _chunk_left
    cdef bint _chunk_last
    cdef bint _chunk_ignored                     # a chunk outside a transaction
    cdef const char *_chunk_reply
    cdef double _mail_at                         # monotonic: of MAIL, of the start and the end of the mail data
    cdef double _data_at
    cdef double _end_of_data_at

    cdef int _read(self, const char *p, size_t n) except -1
    cdef size_t _consume(self, const char *p, size_t n) except? 0
    cdef int _command(self, const char *line, size_t n) except -1
    cdef int _do_mail(self, const char *line, size_t n, size_t arguments) except -1
    cdef int _do_rcpt(self, const char *line, size_t n, size_t arguments) except -1
    cdef int _take_recipient(self) except -1
    cdef int _verify_recipient(self, answer) except -1
    cdef int _do_bdat(self, const char *line, size_t n, size_t arguments) except -1
    cdef int _do_greeting(self, int verb, const char *line, size_t n, size_t arguments) except -1
    cdef int _do_auth(self, const char *line, size_t n, size_t arguments) except -1
    cdef int _auth_step(self, const char *line, size_t n) except -1
    cdef int _auth_answer(self, bytes response) except -1
    cdef int _settle_terms(self) except -1
    cdef int _do_xclient(self, const char *line, size_t n, size_t arguments) except -1
    cdef int _take_address(self, str address) except -1
    cdef int _believe_nobody(self) except -1
    cdef int _auth_decided(self, answer) except -1
    cdef int _do_start_tls(self, const char *line, size_t n, size_t arguments) except -1
    cdef bytes _with_own_limits(self, bytes lines)
    cdef int _say_future_release(self) except -1
    cdef const char *_settle_hold(self) noexcept
    cdef int _grant_priority(self) except -1
    cdef int _misspelt(self, const char *reply) except -1
    cdef int _start_data(self) except -1
    cdef size_t _take_data(self, const char *p, size_t n) except? 0
    cdef size_t _take_chunk(self, const char *p, size_t n) except? 0
    cdef int _end_of_chunk(self) except -1
    cdef int _end_of_data(self) except -1
    cdef int _refuse_message(self, const char *reply, int slot) except -1
    cdef int _repeat(self, const char *reply, uint32_t recipients) except -1
    cdef bint _in_data(self) noexcept
    cdef int _check_bounds(self) except -1
    cdef bint _may_begin(self) except -1
    cdef uint64_t _most_octets(self) noexcept
    cdef const char *_apply_permission(self, uint64_t id, HeaderFacts *facts, AcceptedMeta *meta,
                                       int *slot) except? NULL
    cdef int _say_unusual(self, Permission permission) except -1
    cdef int _give_back(self) except -1
    cdef int _slot_of(self, const char *reply) noexcept
    cdef const char *_verdict(self) noexcept
    cdef int _write_trace(self, uint64_t id, uint64_t received_us, bint headless) except -1
    cdef const char *_protocol(self) noexcept
    cdef int _say(self, const char *octets, size_t n) except -1
    cdef int _reply(self, const char *reply) except -1
    cdef int _reject(self, const char *reply, int slot, const char *path, size_t path_length) except -1
    cdef int _note_rejection(self, const char *reply, int slot, const char *path, size_t path_length,
                             uint32_t recipients) except -1
    cdef int _flush(self) except -1
    cdef int _show(self, str direction, bytes octets) except -1
    cdef int _keep(self, const char *p, size_t n) except -1
    cdef int _go_on(self) except -1
    cdef Decision _ask(self, Answered answered)
    cdef bint _is_answer(self, uint32_t question) noexcept
    cdef void _forget_question(self) noexcept
    cdef int _note_error(self) except -1
    cdef int _pace(self, double seconds) except -1
    cdef int _end_pause(self, double now) except -1
    cdef bint _leave_if_free(self) except -1
    cdef int _abort(self, const char *reply) except -1
    cdef int _finish(self) except -1
    cdef int _renew(self) except -1
    cdef void _reset(self) noexcept
    cdef uint32_t _offers(self) noexcept
    cdef void _note_offers(self) noexcept
    cdef bint _may_relay(self) noexcept
