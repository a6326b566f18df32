# cython: auto_pickle=False
"""SMTP command parser: one command line in, spans of it or the exact reply that refuses it out (RFC 5321 §4.1).

Input is a command line without its CRLF, of less than 4 GiB (the session's own limit is far lower). Output are spans
into that line; nothing is copied and nothing allocated. A line that is wrong is answered by a static reply line, which
names the fault and carries the enhanced status of RFC 3463; `REPLIES` holds every one of them. The functions keep no
state: whether a command may come now is the session's business.

Beyond the grammar, because real clients send it and it does no harm:

- spaces behind `FROM:` and `TO:`, several spaces between parameters, spaces at the end of the line;
- a path without angle brackets, if it is a plain mailbox;
- dots anywhere in an unquoted local part (`.a..b.@example.org`: some carriers gave out such mailboxes);
- a local part of more than 64 octets, as long as the whole path keeps to 256 octets (RFC 5321 §4.5.3.1.3);
- underscores in domain labels; one dot at the end of a domain, which is left out of the spans, as Postfix does;
- any printable ASCII in the name behind HELO, EHLO and LHLO: whoever writes it into a trace field has to neuter it.

Narrower than the grammar: an IPv4 literal has no leading zeros, since these read as octal elsewhere. Source routes are
checked and dropped (RFC 5321 appendix C). A domain of digits and dots only is a domain here; routing decides about it.
The 63 octets of a label hold for ASCII labels: how long a U-label may be shows only when it is turned into an A-label
(RFC 5890 §2.3.2.1). ESMTP parameters are parameter.pyx's.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from angarium._core.octets cimport Span, equal_fold, find_octet, is_digit, is_utf8, is_word, set_span, skip_spaces
from angarium._core.parameter cimport read_mail_parameters, read_rcpt_parameters

import enum

from angarium._core import parameter

__all__ = (
    "REPLIES",
    "BodyType",
    "Command",
    "Notify",
    "Offer",
    "Rejection",
    "ReturnContent",
    "Verb",
    "decode_xtext",
    "encode_xtext",
    "parse_command",
    "split_xtext",
)

decode_xtext = parameter.decode_xtext
encode_xtext = parameter.encode_xtext
split_xtext = parameter.split_xtext


cdef extern from "<arpa/inet.h>" nogil:
    enum:
        AF_INET
        AF_INET6
    int inet_pton(int family, const char *text, void *address) noexcept


cdef extern from "command_replies.h":
    enum:
        PATH_FINE, PATH_MISSING, PATH_NULL, PATH_UNCLOSED, PATH_ROUTE, PATH_LOCAL_EMPTY, PATH_LOCAL_OCTET
        PATH_QUOTE_OPEN, PATH_QUOTE_OCTET, PATH_QUOTE_END, PATH_UNQUALIFIED, PATH_DOMAIN_EMPTY, PATH_DOMAIN_OCTET
        PATH_DOMAIN_LONG, PATH_LABEL_EMPTY, PATH_LABEL_HYPHEN, PATH_LABEL_LONG, PATH_LITERAL, PATH_LONG
        PATH_NOT_ASCII, PATH_NOT_UTF8, PATH_SPACE, PATH_FAULTS

    enum:
        KEYS, WRONGS

    enum:
        SAY_CONTROL, SAY_UNKNOWN_VERB, SAY_MAIL_SYNTAX, SAY_RCPT_SYNTAX, SAY_BDAT_SYNTAX, SAY_BDAT_SIZE
        SAY_NAME_MISSING, SAY_NAME_SPACE, SAY_NAME_ASCII, SAY_NAME_LONG, SAY_NO_ARGUMENT, SAY_NEEDS_ARGUMENT
        SAY_NOT_UTF8, SAYINGS

    const char *path_replies[1][2]       # [PATH_FAULTS][sender, recipient]
    const char *keyword_replies[1][3]    # [KEYS][WRONGS]
    const char *replies[1]               # [SAYINGS]


# --- octets -----------------------------------------------------------------------------------------------------------

cdef enum:
    LOCAL = 1        # unquoted local part: atext, dots, non-ASCII
    LABEL = 2        # letters, digits, hyphen, underscore
    HIGH = 4         # over 127
    TAG = 8          # of a general address literal: letters, digits, hyphen
    DCONTENT = 16    # of a general address literal: 33..90, 94..126

cdef uint8_t CLASS[256]
memset(CLASS, 0, sizeof(CLASS))


cdef int classify(const uint8_t[:] octets, uint8_t bits) except -1:
    cdef size_t i
    for i in range(<size_t>octets.shape[0]):
        CLASS[octets[i]] |= bits
    return 0


def _fill_classes():
    letters_digits = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    atext = letters_digits + b"!#$%&'*+-/=?^_`{|}~"
    high = bytes(range(128, 256))
    classify(atext + b"." + high, LOCAL)
    classify(letters_digits + b"-_", LABEL)
    classify(high, HIGH)
    classify(letters_digits + b"-", TAG)
    classify(bytes(range(33, 127)).translate(None, b"[\\]"), DCONTENT)


_fill_classes()
del _fill_classes


cdef inline bint is_in(char c, uint8_t classes) noexcept nogil:
    return CLASS[<uint8_t>c] & classes != 0


cdef inline bint has_control(const char *p, size_t n) noexcept nogil:
    # no way out in the middle: so the compiler makes vector code of it
    cdef uint8_t seen = 0
    cdef size_t i
    for i in range(n):
        seen |= (<uint8_t>p[i] < 32) | (<uint8_t>p[i] == 127)
    return seen != 0


cdef inline size_t trim_spaces(const char *p, size_t begin, size_t n) noexcept nogil:
    """Where p[begin:n] ends without the spaces at its end."""
    while n > begin and p[n - 1] == c' ':
        n -= 1
    return n


# --- paths ------------------------------------------------------------------------------------------------------------

cdef int read_domain(const char *p, size_t *position, size_t n, uint8_t classes, size_t *end) noexcept nogil:
    """A domain name from *position on, which moves behind it; *end leaves out a dot at the end."""
    cdef size_t i = position[0], begin
    cdef bint ascii
    if i == n or p[i] == c'>' or p[i] == c' ':
        return PATH_DOMAIN_EMPTY
    while True:
        begin = i
        ascii = True
        while i < n and is_in(p[i], classes):
            if is_in(p[i], HIGH):
                ascii = False
            i += 1
        if i == begin:
            return PATH_LABEL_EMPTY if i < n and p[i] == c'.' else PATH_DOMAIN_OCTET
        if p[begin] == c'-' or p[i - 1] == c'-':
            return PATH_LABEL_HYPHEN
        if ascii and i - begin > 63:
            return PATH_LABEL_LONG
        end[0] = i
        if i == n or p[i] != c'.':
            break
        i += 1
        if i == n or not (is_in(p[i], classes) or p[i] == c'.'):
            break
    position[0] = i
    return PATH_FINE


cdef bint is_literal(const char *p, size_t n) noexcept nogil:
    """What stands between the brackets of an address literal, RFC 5321 §4.1.3."""
    cdef char text[64]
    cdef char address[16]
    cdef Py_ssize_t colon = find_octet(p, n, c':')
    cdef size_t i
    cdef int family = AF_INET
    for i in range(n):
        if not is_in(p[i], DCONTENT):
            return False
    if colon >= 0:
        if not is_word(p, colon, b"ipv6", 4):
            # a general literal: a tag of letters, digits and hyphens, not ending with a hyphen
            for i in range(<size_t>colon):
                if not is_in(p[i], TAG):
                    return False
            return colon > 0 and p[colon - 1] != c'-' and <size_t>colon + 1 < n
        family = AF_INET6
        p += 5
        n -= 5
    if n >= sizeof(text):
        return False
    memcpy(text, p, n)
    text[n] = 0
    return inet_pton(family, text, address) == 1


cdef int read_path(const char *p, size_t *position, size_t n, bint recipient, Path *path) noexcept nogil:
    """A path from *position on, which moves behind it (RFC 5321 §4.1.2); the fault, or PATH_FINE."""
    cdef size_t i = skip_spaces(p, position[0], n), begin, domain, end
    cdef Py_ssize_t length
    cdef bint bracketed, high = False
    cdef char closing
    cdef int fault
    memset(path, 0, sizeof(Path))
    if i == n:
        return PATH_MISSING
    bracketed = p[i] == c'<'
    closing = c'>' if bracketed else c' '
    if bracketed:
        i += 1
        if i < n and p[i] == c'>':
            position[0] = i + 1
            return PATH_NULL if recipient else PATH_FINE
        while i < n and p[i] == c'@':
            # a source route: "@" domain, then "," and one more, or ":" and the mailbox
            i += 1
            if read_domain(p, &i, n, LABEL, &end) != PATH_FINE or i == n:
                return PATH_ROUTE
            i += 1
            if p[i - 1] == c':':
                break
            if p[i - 1] == c'>':
                return PATH_LOCAL_EMPTY
            if p[i - 1] != c',' or i == n or p[i] != c'@':
                return PATH_ROUTE
    begin = i
    if i < n and p[i] == c'"':
        i += 1
        while i < n and p[i] != c'"':
            if p[i] == c'\\':
                i += 1
                if i < n and is_in(p[i], HIGH):
                    return PATH_QUOTE_OCTET
            elif is_in(p[i], HIGH):
                high = True
            i += 1
        if i >= n:
            return PATH_QUOTE_OPEN
        i += 1
        if i < n and p[i] != c'@' and p[i] != closing:
            return PATH_QUOTE_END
    else:
        while i < n and is_in(p[i], LOCAL):
            if is_in(p[i], HIGH):
                high = True
            i += 1
        if i < n and p[i] != c'@' and p[i] != closing:
            return PATH_LOCAL_OCTET
        if i == begin and (i < n or not bracketed):
            return PATH_LOCAL_EMPTY
    end = i
    if i < n and p[i] == c'@':
        i += 1
        domain = i
        if i < n and p[i] == c'[':
            length = find_octet(p + i, n - i, c']')
            if length < 0 or not is_literal(p + i + 1, length - 1):
                return PATH_LITERAL
            i += length + 1
            end = i
        else:
            fault = read_domain(p, &i, n, LABEL | HIGH, &end)
            if fault != PATH_FINE:
                return fault
        if i < n and p[i] != c' ' and not (bracketed and p[i] == c'>'):
            return PATH_DOMAIN_OCTET
        set_span(&path.domain, domain, end)
    if bracketed:
        if i == n or p[i] != c'>':
            return PATH_UNCLOSED
        i += 1
    if path.domain.length == 0 and not (recipient and is_word(p + begin, end - begin, b"postmaster", 10)):
        return PATH_UNQUALIFIED
    if path.domain.length > 255:
        return PATH_DOMAIN_LONG
    if end - begin > 254:       # 256 with the brackets
        return PATH_LONG
    if i < n and p[i] != c' ':
        return PATH_SPACE
    set_span(&path.mailbox, begin, end)
    path.internationalised = high
    if not high:
        for begin in range(path.domain.start, end):
            if is_in(p[begin], HIGH):
                path.internationalised = True
    position[0] = i
    return PATH_FINE


cdef inline int check_utf8(const char *line, const Path *path, bint allowed) noexcept nogil:
    if not path.internationalised:
        return PATH_FINE
    if not allowed:
        return PATH_NOT_ASCII
    return PATH_FINE if is_utf8(line + path.mailbox.start, path.mailbox.length) else PATH_NOT_UTF8


# --- commands ---------------------------------------------------------------------------------------------------------

cdef int parse_verb(const char *line, size_t n, size_t *arguments) noexcept nogil:
    cdef size_t length = n
    cdef Py_ssize_t space = find_octet(line, n, c' ')
    if space >= 0:
        length = space
    arguments[0] = length
    if length != 4:
        if is_word(line, length, b"starttls", 8):
            return VERB_STARTTLS
        return VERB_XCLIENT if is_word(line, length, b"xclient", 7) else VERB_UNKNOWN
    # the most frequent first
    if equal_fold(line, b"rcpt", 4):
        return VERB_RCPT
    if equal_fold(line, b"mail", 4):
        return VERB_MAIL
    if equal_fold(line, b"data", 4):
        return VERB_DATA
    if equal_fold(line, b"bdat", 4):
        return VERB_BDAT
    if equal_fold(line, b"rset", 4):
        return VERB_RSET
    if equal_fold(line, b"quit", 4):
        return VERB_QUIT
    if equal_fold(line, b"ehlo", 4):
        return VERB_EHLO
    if equal_fold(line, b"helo", 4):
        return VERB_HELO
    if equal_fold(line, b"noop", 4):
        return VERB_NOOP
    if equal_fold(line, b"auth", 4):
        return VERB_AUTH
    if equal_fold(line, b"lhlo", 4):
        return VERB_LHLO
    if equal_fold(line, b"vrfy", 4):
        return VERB_VRFY
    if equal_fold(line, b"expn", 4):
        return VERB_EXPN
    if equal_fold(line, b"help", 4):
        return VERB_HELP
    return VERB_UNKNOWN


cdef const char *parse_mail(const char *line, size_t n, size_t arguments, uint32_t offers,
                            Path *path, MailParameters *parameters) noexcept nogil:
    cdef size_t i = skip_spaces(line, arguments, n)
    cdef const char *reply
    cdef int fault
    memset(parameters, 0, sizeof(MailParameters))
    if has_control(line, n):
        return replies[SAY_CONTROL]
    if n - i < 5 or not equal_fold(line + i, b"from:", 5):
        return replies[SAY_MAIL_SYNTAX]
    i += 5
    fault = read_path(line, &i, n, False, path)
    if fault != PATH_FINE:
        return path_replies[fault][0]
    if i < n and line[i] != c' ':       # behind <>
        return path_replies[PATH_SPACE][0]
    reply = read_mail_parameters(line, i, n, offers, parameters)
    if reply != NULL:
        return reply
    return path_replies[check_utf8(line, path, parameters.smtputf8)][0]


cdef const char *parse_rcpt(const char *line, size_t n, size_t arguments, uint32_t offers, bint smtputf8,
                            Path *path, RcptParameters *parameters) noexcept nogil:
    cdef size_t i = skip_spaces(line, arguments, n)
    cdef int fault
    memset(parameters, 0, sizeof(RcptParameters))
    smtputf8 = smtputf8 and offers & OFFER_SMTPUTF8 != 0
    if has_control(line, n):
        return replies[SAY_CONTROL]
    if n - i < 3 or not equal_fold(line + i, b"to:", 3):
        return replies[SAY_RCPT_SYNTAX]
    i += 3
    fault = read_path(line, &i, n, True, path)
    if fault == PATH_FINE:
        fault = check_utf8(line, path, smtputf8)
    if fault != PATH_FINE:
        return path_replies[fault][1]
    return read_rcpt_parameters(line, i, n, offers, smtputf8, parameters)


cdef const char *parse_bdat(const char *line, size_t n, size_t arguments, uint64_t *size, bint *last) noexcept nogil:
    cdef size_t i = skip_spaces(line, arguments, n), begin = i, end = trim_spaces(line, i, n)
    cdef uint64_t value = 0
    size[0] = 0
    last[0] = False
    if has_control(line, n):
        return replies[SAY_CONTROL]
    while i < end and is_digit(line[i]):
        if value > (<uint64_t>0x7FFFFFFFFFFFFFFF - (line[i] - 48)) // 10:
            return replies[SAY_BDAT_SIZE]
        value = value * 10 + (line[i] - 48)
        i += 1
    if i == begin:
        return replies[SAY_BDAT_SYNTAX]
    if i < end:
        begin = skip_spaces(line, i, end)
        if begin == i or not is_word(line + begin, end - begin, b"last", 4):
            return replies[SAY_BDAT_SYNTAX]
        last[0] = True
    size[0] = value
    return NULL


cdef const char *parse_greeting(const char *line, size_t n, size_t arguments, Span *name) noexcept nogil:
    cdef size_t i = skip_spaces(line, arguments, n), end = trim_spaces(line, i, n)
    set_span(name, 0, 0)
    if has_control(line, n):
        return replies[SAY_CONTROL]
    if i == end:
        return replies[SAY_NAME_MISSING]
    if end - i > 255:
        return replies[SAY_NAME_LONG]
    set_span(name, i, end)
    while i < end:
        if is_in(line[i], HIGH):
            return replies[SAY_NAME_ASCII]
        if line[i] == c' ':
            return replies[SAY_NAME_SPACE]
        i += 1
    return NULL


cdef const char *parse_nothing(const char *line, size_t n, size_t arguments) noexcept nogil:
    if has_control(line, n):
        return replies[SAY_CONTROL]
    if skip_spaces(line, arguments, n) < n:
        return replies[SAY_NO_ARGUMENT]
    return NULL


cdef const char *parse_text(const char *line, size_t n, size_t arguments, bint required, Span *text) noexcept nogil:
    cdef size_t i = skip_spaces(line, arguments, n), end = trim_spaces(line, i, n)
    set_span(text, i, end)
    if has_control(line, n):
        return replies[SAY_CONTROL]
    if i == end and required:
        return replies[SAY_NEEDS_ARGUMENT]
    if not is_utf8(line + i, end - i):
        return replies[SAY_NOT_UTF8]
    return NULL


cdef const char *refuse_verb(const char *line, size_t n) noexcept nogil:
    return replies[SAY_CONTROL if has_control(line, n) else SAY_UNKNOWN_VERB]


# --- for tests and tools ----------------------------------------------------------------------------------------------

class Offer(enum.IntFlag):
    """Extensions whose ESMTP parameters a session takes; the values of OFFER_* in command.pxd."""

    SIZE = OFFER_SIZE
    EIGHTBITMIME = OFFER_8BITMIME
    SMTPUTF8 = OFFER_SMTPUTF8
    DSN = OFFER_DSN
    BINARYMIME = OFFER_BINARYMIME
    REQUIRETLS = OFFER_REQUIRETLS
    AUTH = OFFER_AUTH
    PRIORITY = OFFER_PRIORITY
    FUTURERELEASE = OFFER_FUTURERELEASE


cdef uint32_t EVERY_OFFER = 511

# looked up, since calling an enum costs more than parsing a line
cdef tuple VERBS = tuple(Verb(i) for i in range(VERB_COUNT))
cdef tuple BODY_TYPES = tuple(BodyType(i) for i in range(BODY_BINARYMIME + 1))
cdef tuple RETURN_CONTENTS = tuple(ReturnContent(i) for i in range(RET_HDRS + 1))
cdef tuple NOTIFIES = tuple(Notify(i) for i in range(2 * NOTIFY_DELAY))


cdef bytes take(const char *p, Span span):
    return PyBytes_FromStringAndSize(p + span.start, span.length)


cdef object take_or_none(const char *p, Span span):
    return None if span.length == 0 and span.start == 0 else take(p, span)


@cython.final
cdef class Command:
    """A command line that is right. Attributes that its verb does not have keep their empty value."""

    cdef readonly object verb               # Verb
    cdef readonly object mailbox            # bytes, b"" is the null reverse-path; None: not MAIL or RCPT
    cdef readonly object domain
    cdef readonly bint internationalised
    cdef readonly object size               # SIZE of MAIL or size of BDAT, octets
    cdef readonly object body               # BodyType
    cdef readonly bint smtputf8
    cdef readonly bint requiretls
    cdef readonly object ret                # ReturnContent
    cdef readonly object envid
    cdef readonly object auth
    cdef readonly object priority
    cdef readonly object hold_for           # seconds
    cdef readonly object hold_until         # unix seconds
    cdef readonly object notify             # Notify
    cdef readonly object orcpt
    cdef readonly bint last                 # of BDAT
    cdef readonly object name               # behind HELO, EHLO, LHLO
    cdef readonly object text               # behind NOOP, VRFY, EXPN, HELP, AUTH, XCLIENT

    def __repr__(self):
        return f"<Command {self.verb!r} mailbox={self.mailbox!r} name={self.name!r} text={self.text!r}>"


@cython.final
cdef class Rejection:
    """A command line that is refused, and the reply to it."""

    cdef readonly object verb               # Verb
    cdef readonly bytes reply               # the whole reply line, CRLF included

    @property
    def code(self) -> int:
        """The reply code."""
        return int(self.reply[:3])

    @property
    def enhanced_status(self) -> str:
        """The enhanced status, as in "5.1.3"."""
        return self.reply.split(b" ", 2)[1].decode("ascii")

    @property
    def text(self) -> str:
        """What is wrong."""
        return self.reply.split(b" ", 2)[2].decode("ascii").rstrip("\r\n")

    def __repr__(self):
        return f"<Rejection {self.verb!r} {self.reply!r}>"


def parse_command(bytes line not None, *, offers=EVERY_OFFER, bint smtputf8=False):
    """The command of one line without its CRLF, or its rejection.

    `offers` says which ESMTP parameters are taken (Offer, all by default), `smtputf8` whether the MAIL command of this
    mail transaction had SMTPUTF8 (RFC 6531 §3.4), which RCPT needs to know.
    ValueError when the line has more than a million octets.
    """
    cdef const char *p = PyBytes_AS_STRING(line)
    cdef size_t n = PyBytes_GET_SIZE(line)
    cdef uint32_t offered = offers
    cdef size_t arguments
    cdef Path path
    cdef MailParameters mail
    cdef RcptParameters rcpt
    cdef Span span
    cdef uint64_t size
    cdef bint last
    cdef const char *reply
    cdef Command command
    cdef Rejection rejection
    if n > 1_000_000:
        raise ValueError(f"a command line of {n} octets")
    cdef int verb = parse_verb(p, n, &arguments)
    memset(&path, 0, sizeof(path))
    memset(&mail, 0, sizeof(mail))
    memset(&rcpt, 0, sizeof(rcpt))
    command = Command.__new__(Command)
    command.verb = VERBS[verb]
    if verb == VERB_UNKNOWN:
        reply = refuse_verb(p, n)
    elif verb == VERB_MAIL:
        reply = parse_mail(p, n, arguments, offered, &path, &mail)
    elif verb == VERB_RCPT:
        reply = parse_rcpt(p, n, arguments, offered, smtputf8, &path, &rcpt)
    elif verb == VERB_BDAT:
        reply = parse_bdat(p, n, arguments, &size, &last)
        command.size = size
        command.last = last
    elif verb in (VERB_HELO, VERB_EHLO, VERB_LHLO):
        reply = parse_greeting(p, n, arguments, &span)
        command.name = take(p, span)
    elif verb in (VERB_NOOP, VERB_HELP, VERB_VRFY, VERB_EXPN, VERB_AUTH, VERB_XCLIENT):
        reply = parse_text(p, n, arguments, verb != VERB_NOOP and verb != VERB_HELP, &span)
        command.text = take(p, span)
    else:
        reply = parse_nothing(p, n, arguments)
    if reply != NULL:
        rejection = Rejection.__new__(Rejection)
        rejection.verb = command.verb
        rejection.reply = reply
        return rejection
    if verb == VERB_MAIL or verb == VERB_RCPT:
        command.mailbox = take(p, path.mailbox)
        command.domain = take(p, path.domain)
        command.internationalised = path.internationalised
        if mail.has_size:
            command.size = mail.size
        if mail.has_priority:
            command.priority = mail.priority
        if mail.has_hold:
            if mail.hold_is_until:
                command.hold_until = mail.hold
            else:
                command.hold_for = mail.hold
        command.smtputf8 = mail.smtputf8
        command.requiretls = mail.requiretls
        command.envid = take_or_none(p, mail.envid)
        command.auth = take_or_none(p, mail.auth)
        command.orcpt = take_or_none(p, rcpt.orcpt)
    command.body = BODY_TYPES[mail.body]
    command.ret = RETURN_CONTENTS[mail.ret]
    command.notify = NOTIFIES[rcpt.notify]
    return command


cdef list every_reply():
    cdef list found = []
    cdef int i, j
    for i in range(SAYINGS):
        found.append(<bytes>replies[i])
    for i in range(PATH_FAULTS):
        for j in range(2):
            if path_replies[i][j] != NULL:
                found.append(<bytes>path_replies[i][j])
    for i in range(KEYS):
        for j in range(WRONGS):
            if keyword_replies[i][j] != NULL:
                found.append(<bytes>keyword_replies[i][j])
    return found


REPLIES = tuple(every_reply())
