"""What one client may send, and what is done to its mail: what a session reads of it."""

from libc.stdint cimport uint32_t, uint64_t

from angarium._core.header cimport HeaderFacts
from angarium._core.quota cimport Quota
from angarium._core.record cimport MailBuffer


cdef struct Handling:
    # what the session knows of the message
    uint64_t id
    const char *date         # a date-time of RFC 5322 §3.3
    size_t date_length
    bint smtputf8            # the client declared it
    bint eight_bit           # the mail data has an octet over 127
    # what was done
    bint changed
    int slot                 # which counter a refusal belongs to


cdef class Permission:
    cdef readonly bytes name
    cdef readonly object reverse_paths       # reverse path -> may it be used; None: any may
    cdef readonly object from_addresses      # (local part, domain) -> may it stand in From; None: any may
    cdef readonly bint null_reverse_path
    cdef readonly uint32_t recipients        # of a message; 0: as the listener says
    cdef readonly uint64_t message_octets    # likewise
    cdef readonly Quota quota                # None: no limits on time
    cdef readonly bint fix_up
    cdef readonly bint hide_client
    cdef readonly bint legacy
    cdef readonly bytes rewrite_from         # the From field and the reverse path of what is not allowed; None: refused
    cdef readonly bytes rewrite_path
    cdef readonly bytes identity             # From of mail that has none, and no reverse path; None: none is added
    cdef readonly bytes hostname
    cdef readonly bytes told                 # members of the event of a message: its name, and what it limits
    cdef bytes _reached                      # the replies at a limit
    cdef bytes _hour_reached
    cdef bytes _day_reached
    cdef dict _paths                         # verdicts, bounded
    cdef dict _fields                        # values of From fields that may pass as they are, bounded

    # The reverse path to use in place of the client's: mostly the same. None: refused.
    cdef bytes path_of(self, bytes reverse_path)
    # Refuses MAIL: no mail of this client can be taken now. NULL: it can.
    cdef const char *refuse_mail(self, uint64_t now_s) except? NULL
    # Refuses the n-th recipient.
    cdef const char *refuse_recipient(self, uint32_t n, uint64_t now_s) except? NULL
    # The reply for a QuotaVerdict of a whole message.
    cdef const char *reply_of(self, int verdict) noexcept
    # A member of the event of the message that was counted last; None: nothing is counted.
    cdef bytes used(self)
    # Judges the header section of complete mail data and tidies it: the reply that refuses it, or NULL. `facts` say
    # afterwards what _write_trace asks of them.
    cdef const char *handle(self, MailBuffer buffer, HeaderFacts *facts, bytes reverse_path,
                            Handling *handling) except? NULL
    cdef bint may_write(self, list mailboxes, bytes domain) except -1
    cdef const char *_judge(self, MailBuffer buffer, HeaderFacts *facts, bytes domain, Handling *handling) except? NULL
    cdef const char *_not_allowed(self, MailBuffer buffer, HeaderFacts *facts, const char *reply,
                                  Handling *handling) except? NULL


cdef const char *R_NOT_YOUR_PATH
