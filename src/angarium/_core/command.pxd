"""SMTP command grammar, RFC 5321 §4.1: what a command line says, as spans into that line.

The C functions are what the server session calls; the Python functions of command.pyx wrap them for tests and tools.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from angarium._core.octets cimport Span


cpdef enum Verb:
    VERB_UNKNOWN = 0
    VERB_HELO
    VERB_EHLO
    VERB_LHLO
    VERB_MAIL
    VERB_RCPT
    VERB_DATA
    VERB_BDAT
    VERB_RSET
    VERB_NOOP
    VERB_QUIT
    VERB_VRFY
    VERB_EXPN
    VERB_HELP
    VERB_STARTTLS
    VERB_AUTH
    VERB_XCLIENT
    VERB_COUNT


cpdef enum BodyType:
    BODY_UNSTATED = 0
    BODY_7BIT
    BODY_8BITMIME
    BODY_BINARYMIME


cpdef enum ReturnContent:    # RET, RFC 3461 §4.3
    RET_UNSTATED = 0
    RET_FULL
    RET_HDRS


cpdef enum Notify:           # NOTIFY, RFC 3461 §4.1: a set of bits, 0 means unstated
    NOTIFY_NEVER = 1
    NOTIFY_SUCCESS = 2
    NOTIFY_FAILURE = 4
    NOTIFY_DELAY = 8


cdef struct Path:
    Span mailbox         # local-part@domain without <>, source route dropped; length 0 is the null reverse-path
    Span domain          # the part behind the last unquoted @, literal brackets included; length 0: <Postmaster> or <>
    bint internationalised   # holds an octet over 127 (RFC 6531)


cdef struct MailParameters:
    bint has_size
    uint64_t size        # RFC 1870
    uint8_t body         # BodyType
    bint smtputf8
    bint requiretls      # RFC 8689
    uint8_t ret          # ReturnContent
    Span envid           # xtext as it came (RFC 3461 §4.4)
    Span auth            # xtext as it came, or <> (RFC 4954 §5)
    bint has_priority
    int priority         # RFC 6710, -9..9
    bint has_hold
    bint hold_is_until   # HOLDUNTIL (unix seconds) instead of HOLDFOR (seconds), RFC 4865
    uint64_t hold


cdef struct RcptParameters:
    uint8_t notify       # set of Notify bits
    Span orcpt           # addr-type ";" xtext as it came (RFC 3461 §4.2)


cdef enum:               # which ESMTP parameters this session has offered; all others are refused with 555 5.5.4
    OFFER_SIZE = 1
    OFFER_8BITMIME = 2
    OFFER_SMTPUTF8 = 4
    OFFER_DSN = 8
    OFFER_BINARYMIME = 16
    OFFER_REQUIRETLS = 32
    OFFER_AUTH = 64
    OFFER_PRIORITY = 128
    OFFER_FUTURERELEASE = 256


# Each returns NULL when the line is right, else the whole reply line for the client, CRLF included (static storage).
# `line` is the command line without its CRLF; `arguments` is where the verb ends.
cdef int parse_verb(const char *line, size_t n, size_t *arguments) noexcept nogil
cdef const char *parse_mail(const char *line, size_t n, size_t arguments, uint32_t offers,
                            Path *path, MailParameters *parameters) noexcept nogil
cdef const char *parse_rcpt(const char *line, size_t n, size_t arguments, uint32_t offers, bint smtputf8,
                            Path *path, RcptParameters *parameters) noexcept nogil
cdef const char *parse_bdat(const char *line, size_t n, size_t arguments, uint64_t *size, bint *last) noexcept nogil
cdef const char *parse_greeting(const char *line, size_t n, size_t arguments, Span *name) noexcept nogil

# DATA, RSET, QUIT, STARTTLS: nothing may follow the verb
cdef const char *parse_nothing(const char *line, size_t n, size_t arguments) noexcept nogil
# NOOP, HELP, VRFY, EXPN, AUTH, XCLIENT: what follows the verb, without the spaces around it; `required`: 501 if that is
# nothing
cdef const char *parse_text(const char *line, size_t n, size_t arguments, bint required, Span *text) noexcept nogil
# for VERB_UNKNOWN: 500 5.5.2, or 501 5.5.2 when the line holds control characters
cdef const char *refuse_verb(const char *line, size_t n) noexcept nogil
