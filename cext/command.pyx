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
(RFC 5890 §2.3.2.1).

ESMTP parameters: RFC 1870 (SIZE), 6152 and 3030 (BODY), 6531 (SMTPUTF8), 8689 (REQUIRETLS), 3461 (RET, ENVID, NOTIFY,
ORCPT), 4954 (AUTH), 6710 (MT-PRIORITY), 4865 (HOLDFOR, HOLDUNTIL). One that is unknown or not offered gets 555, one
given twice or with a bad value 501. What ENVID and ORCPT stand for must be printable ASCII, or else a DSN could be made
to carry forged lines (RFC 3461 §4.2, §4.4).
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from angarium._core.octets cimport Span, equal_fold, find_octet, is_digit, lower

import enum

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


cdef extern from "<arpa/inet.h>" nogil:
    enum:
        AF_INET
        AF_INET6
    int inet_pton(int family, const char *text, void *address) noexcept


cdef extern from *:
    """
    #define ADDRESS(code, of_sender, of_recipient, fault)           \\
        { code " " of_sender " Sender address: " fault "\\r\\n",     \\
          code " " of_recipient " Recipient address: " fault "\\r\\n" }
    #define PATH(code, fault) ADDRESS(code, "5.1.7", "5.1.3", fault)

    enum {
        PATH_FINE, PATH_MISSING, PATH_NULL, PATH_UNCLOSED, PATH_ROUTE, PATH_LOCAL_EMPTY, PATH_LOCAL_OCTET,
        PATH_QUOTE_OPEN, PATH_QUOTE_OCTET, PATH_QUOTE_END, PATH_UNQUALIFIED, PATH_DOMAIN_EMPTY, PATH_DOMAIN_OCTET,
        PATH_DOMAIN_LONG, PATH_LABEL_EMPTY, PATH_LABEL_HYPHEN, PATH_LABEL_LONG, PATH_LITERAL, PATH_LONG,
        PATH_NOT_ASCII, PATH_NOT_UTF8, PATH_SPACE, PATH_FAULTS
    };
    static const char *const path_replies[PATH_FAULTS][2] = {
        [PATH_MISSING]      = PATH("501", "missing"),
        [PATH_NULL]         = { NULL, "501 5.1.3 Recipient address: <> is for senders only\\r\\n" },
        [PATH_UNCLOSED]     = PATH("501", "closing > is missing"),
        [PATH_ROUTE]        = PATH("501", "source route is malformed"),
        [PATH_LOCAL_EMPTY]  = PATH("501", "local part is empty"),
        [PATH_LOCAL_OCTET]  = PATH("501", "octet in local part needs quoting"),
        [PATH_QUOTE_OPEN]   = PATH("501", "quoted local part is not closed"),
        [PATH_QUOTE_OCTET]  = PATH("501", "backslash needs an ASCII octet behind it"),
        [PATH_QUOTE_END]    = PATH("501", "only @ may follow a quoted local part"),
        [PATH_UNQUALIFIED]  = PATH("553", "domain is missing"),
        [PATH_DOMAIN_EMPTY] = PATH("501", "domain is empty"),
        [PATH_DOMAIN_OCTET] = PATH("501", "octet not allowed in domain"),
        [PATH_DOMAIN_LONG]  = PATH("501", "domain is longer than 255 octets"),
        [PATH_LABEL_EMPTY]  = PATH("501", "domain has an empty label"),
        [PATH_LABEL_HYPHEN] = PATH("501", "domain label begins or ends with a hyphen"),
        [PATH_LABEL_LONG]   = PATH("501", "domain label is longer than 63 octets"),
        [PATH_LITERAL]      = PATH("501", "address literal is not valid"),
        [PATH_LONG]         = PATH("501", "longer than 256 octets"),
        [PATH_NOT_ASCII]    = ADDRESS("553", "5.6.7", "5.6.7", "non-ASCII octets need SMTPUTF8"),
        [PATH_NOT_UTF8]     = PATH("501", "not well-formed UTF-8"),
        [PATH_SPACE]        = ADDRESS("501", "5.5.4", "5.5.4", "only a space may follow it"),
    };

    enum {
        KEY_UNKNOWN, KEY_SIZE, KEY_BODY, KEY_SMTPUTF8, KEY_REQUIRETLS, KEY_RET, KEY_ENVID, KEY_AUTH, KEY_MT_PRIORITY,
        KEY_HOLDFOR, KEY_HOLDUNTIL, KEY_NOTIFY, KEY_ORCPT, KEYS
    };
    enum { WRONG_VALUE, WRONG_TWICE, WRONG_NOT_OFFERED, WRONGS };
    #define KEYWORD(name, value)                          \\
        { "501 5.5.4 " name " " value "\\r\\n",            \\
          "501 5.5.4 " name " is given twice\\r\\n",       \\
          "555 5.5.4 " name " is not offered here\\r\\n" }
    static const char *const keyword_replies[KEYS][WRONGS] = {
        [KEY_SIZE]        = KEYWORD("SIZE", "needs 1 to 20 digits"),
        [KEY_BODY]        = KEYWORD("BODY", "needs 7BIT, 8BITMIME or BINARYMIME"),
        [KEY_SMTPUTF8]    = KEYWORD("SMTPUTF8", "takes no value"),
        [KEY_REQUIRETLS]  = KEYWORD("REQUIRETLS", "takes no value"),
        [KEY_RET]         = KEYWORD("RET", "needs FULL or HDRS"),
        [KEY_ENVID]       = KEYWORD("ENVID", "needs xtext of 1 to 100 octets that stands for printable ASCII"),
        [KEY_AUTH]        = KEYWORD("AUTH", "needs <> or xtext without control characters"),
        [KEY_MT_PRIORITY] = KEYWORD("MT-PRIORITY", "needs a number from -9 to 9"),
        [KEY_HOLDFOR]     = KEYWORD("HOLDFOR", "needs 1 to 9 digits, the first not 0"),
        [KEY_HOLDUNTIL]   = KEYWORD("HOLDUNTIL", "needs a date and time of RFC 3339, from 1970 on"),
        [KEY_NOTIFY]      = KEYWORD("NOTIFY", "needs NEVER or a list of SUCCESS, FAILURE, DELAY"),
        [KEY_ORCPT]       = KEYWORD("ORCPT", "needs type;xtext of up to 500 octets that stands for printable ASCII"),
    };

    enum {
        SAY_CONTROL, SAY_UNKNOWN_VERB, SAY_MAIL_SYNTAX, SAY_RCPT_SYNTAX, SAY_MALFORMED, SAY_MAIL_UNKNOWN,
        SAY_RCPT_UNKNOWN, SAY_BINARYMIME, SAY_HOLD_TWICE, SAY_BDAT_SYNTAX, SAY_BDAT_SIZE, SAY_NAME_MISSING,
        SAY_NAME_SPACE, SAY_NAME_ASCII, SAY_NAME_LONG, SAY_NO_ARGUMENT, SAY_NEEDS_ARGUMENT, SAY_NOT_UTF8, SAYINGS
    };
    static const char *const replies[SAYINGS] = {
        [SAY_CONTROL]        = "501 5.5.2 Control character in command line\\r\\n",
        [SAY_UNKNOWN_VERB]   = "500 5.5.2 Command not recognized\\r\\n",
        [SAY_MAIL_SYNTAX]    = "501 5.5.4 Syntax: MAIL FROM:<address> [parameters]\\r\\n",
        [SAY_RCPT_SYNTAX]    = "501 5.5.4 Syntax: RCPT TO:<address> [parameters]\\r\\n",
        [SAY_MALFORMED]      = "501 5.5.4 Malformed parameter\\r\\n",
        [SAY_MAIL_UNKNOWN]   = "555 5.5.4 MAIL parameter not recognized\\r\\n",
        [SAY_RCPT_UNKNOWN]   = "555 5.5.4 RCPT parameter not recognized\\r\\n",
        [SAY_BINARYMIME]     = "555 5.5.4 BODY=BINARYMIME is not offered here\\r\\n",
        [SAY_HOLD_TWICE]     = "501 5.5.4 HOLDFOR and HOLDUNTIL exclude each other\\r\\n",
        [SAY_BDAT_SYNTAX]    = "501 5.5.4 Syntax: BDAT size [LAST]\\r\\n",
        [SAY_BDAT_SIZE]      = "501 5.5.4 BDAT size is over 9223372036854775807\\r\\n",
        [SAY_NAME_MISSING]   = "501 5.5.4 Host name or address literal is missing\\r\\n",
        [SAY_NAME_SPACE]     = "501 5.5.4 Host name: space is not allowed\\r\\n",
        [SAY_NAME_ASCII]     = "501 5.5.4 Host name: non-ASCII octets are not allowed\\r\\n",
        [SAY_NAME_LONG]      = "501 5.5.4 Host name is longer than 255 octets\\r\\n",
        [SAY_NO_ARGUMENT]    = "501 5.5.4 This command takes no argument\\r\\n",
        [SAY_NEEDS_ARGUMENT] = "501 5.5.4 This command needs an argument\\r\\n",
        [SAY_NOT_UTF8]       = "501 5.5.2 Argument is not well-formed UTF-8\\r\\n",
    };
    """
    enum:
        PATH_FINE
        PATH_MISSING
        PATH_NULL
        PATH_UNCLOSED
        PATH_ROUTE
        PATH_LOCAL_EMPTY
        PATH_LOCAL_OCTET
        PATH_QUOTE_OPEN
        PATH_QUOTE_OCTET
        PATH_QUOTE_END
        PATH_UNQUALIFIED
        PATH_DOMAIN_EMPTY
        PATH_DOMAIN_OCTET
        PATH_DOMAIN_LONG
        PATH_LABEL_EMPTY
        PATH_LABEL_HYPHEN
        PATH_LABEL_LONG
        PATH_LITERAL
        PATH_LONG
        PATH_NOT_ASCII
        PATH_NOT_UTF8
        PATH_SPACE
        PATH_FAULTS
        KEY_UNKNOWN
        KEY_SIZE
        KEY_BODY
        KEY_SMTPUTF8
        KEY_REQUIRETLS
        KEY_RET
        KEY_ENVID
        KEY_AUTH
        KEY_MT_PRIORITY
        KEY_HOLDFOR
        KEY_HOLDUNTIL
        KEY_NOTIFY
        KEY_ORCPT
        KEYS
        WRONG_VALUE
        WRONG_TWICE
        WRONG_NOT_OFFERED
        WRONGS
        SAY_CONTROL
        SAY_UNKNOWN_VERB
        SAY_MAIL_SYNTAX
        SAY_RCPT_SYNTAX
        SAY_MALFORMED
        SAY_MAIL_UNKNOWN
        SAY_RCPT_UNKNOWN
        SAY_BINARYMIME
        SAY_HOLD_TWICE
        SAY_BDAT_SYNTAX
        SAY_BDAT_SIZE
        SAY_NAME_MISSING
        SAY_NAME_SPACE
        SAY_NAME_ASCII
        SAY_NAME_LONG
        SAY_NO_ARGUMENT
        SAY_NEEDS_ARGUMENT
        SAY_NOT_UTF8
        SAYINGS
    const char *path_replies[1][2]
    const char *keyword_replies[1][3]
    const char *replies[1]


# --- octets -----------------------------------------------------------------------------------------------------------

cdef enum:
    LOCAL = 1        # unquoted local part: atext, dots, non-ASCII
    LABEL = 2        # letters, digits, hyphen, underscore
    HIGH = 4         # over 127
    KEYWORD = 8      # letters, digits, hyphen
    XCHAR = 16       # 33..126 but "+" and "=" (RFC 3461 §4)
    TYPE = 32        # of ORCPT: atext that may stand in a parameter
    DCONTENT = 64    # of a general address literal: 33..90, 94..126

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
    graphic = bytes(range(33, 127))
    high = bytes(range(128, 256))
    classify(atext + b"." + high, LOCAL)
    classify(letters_digits + b"-_", LABEL)
    classify(high, HIGH)
    classify(letters_digits + b"-", KEYWORD)
    classify(graphic.translate(None, b"+="), XCHAR)
    classify(atext.translate(None, b"="), TYPE)
    classify(graphic.translate(None, b"[\\]"), DCONTENT)


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


cdef inline size_t skip_spaces(const char *p, size_t i, size_t n) noexcept nogil:
    while i < n and p[i] == c' ':
        i += 1
    return i


cdef inline size_t trim_spaces(const char *p, size_t begin, size_t n) noexcept nogil:
    """Where p[begin:n] ends without the spaces at its end."""
    while n > begin and p[n - 1] == c' ':
        n -= 1
    return n


cdef inline bint is_word(const char *p, size_t n, const char *word, size_t length) noexcept nogil:
    return n == length and equal_fold(p, word, length)


cdef inline void set_span(Span *span, size_t begin, size_t end) noexcept nogil:
    span.start = <uint32_t>begin
    span.length = <uint32_t>(end - begin)


cdef inline bint is_continuation(const char *p, size_t i, size_t n) noexcept nogil:
    return i < n and (<uint8_t>p[i] & 0xC0) == 0x80


cdef bint is_utf8(const char *p, size_t n) noexcept nogil:
    """RFC 3629: neither overlong forms nor surrogates nor anything over U+10FFFF."""
    cdef size_t i = 0
    cdef uint8_t c, second
    while i < n:
        c = <uint8_t>p[i]
        if c < 0x80:
            i += 1
            continue
        if c < 0xC2 or c > 0xF4 or not is_continuation(p, i + 1, n):
            return False
        if c < 0xE0:
            i += 2
            continue
        second = <uint8_t>p[i + 1]
        if not is_continuation(p, i + 2, n):
            return False
        if c < 0xF0:
            if (c == 0xE0 and second < 0xA0) or (c == 0xED and second > 0x9F):
                return False
            i += 3
            continue
        if not is_continuation(p, i + 3, n) or (c == 0xF0 and second < 0x90) or (c == 0xF4 and second > 0x8F):
            return False
        i += 4
    return True


cdef inline int hex_value(char c) noexcept nogil:
    """RFC 3461 §4: hexadecimal digits of xtext are upper case. -1: not one."""
    if is_digit(c):
        return c - 48
    if c'A' <= c <= c'F':
        return c - 55
    return -1


cdef bint is_xtext(const char *p, size_t n, uint8_t highest, bint high) noexcept nogil:
    """Whether p[:n] is xtext whose hexchars stand for 32 to `highest` without DEL; `high`: octets over 127 may pass."""
    cdef size_t i = 0
    cdef int first, second, octet
    while i < n:
        if is_in(p[i], XCHAR) or (high and is_in(p[i], HIGH)):
            i += 1
            continue
        if p[i] != c'+' or n - i < 3:
            return False
        first = hex_value(p[i + 1])
        second = hex_value(p[i + 2])
        octet = 16 * first + second
        if first < 0 or second < 0 or octet < 32 or octet == 127 or octet > highest:
            return False
        i += 3
    return True


cdef inline int two_digits(const char *p) noexcept nogil:
    """The number of two digits, or -1."""
    if not is_digit(p[0]) or not is_digit(p[1]):
        return -1
    return 10 * (p[0] - 48) + (p[1] - 48)


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
                if not is_in(p[i], KEYWORD):
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


# --- ESMTP parameters -------------------------------------------------------------------------------------------------

cdef struct Parameter:
    const char *keyword
    size_t keyword_length
    const char *value
    size_t length
    size_t start             # of the value in the line
    bint has_value


cdef int next_parameter(const char *p, size_t *position, size_t n, Parameter *parameter) noexcept nogil:
    """1: one more; 0: the line is at its end; -1: what stands here is no parameter (RFC 5321 §4.1.2, esmtp-param)."""
    cdef size_t i = skip_spaces(p, position[0], n), begin = i
    if i == n:
        return 0
    if p[i] == c'-':
        return -1
    while i < n and is_in(p[i], KEYWORD):
        i += 1
    if i == begin:
        return -1
    parameter.keyword = p + begin
    parameter.keyword_length = i - begin
    parameter.has_value = i < n and p[i] == c'='
    if parameter.has_value:
        i += 1
    parameter.start = i
    parameter.value = p + i
    if parameter.has_value:
        while i < n and p[i] != c' ':
            i += 1
    parameter.length = i - parameter.start
    if i < n and p[i] != c' ':
        return -1
    position[0] = i
    return 1


cdef int mail_keyword(const char *p, size_t n) noexcept nogil:
    if n == 4:
        if equal_fold(p, b"size", 4):
            return KEY_SIZE
        if equal_fold(p, b"body", 4):
            return KEY_BODY
        if equal_fold(p, b"auth", 4):
            return KEY_AUTH
    elif n == 8 and equal_fold(p, b"smtputf8", 8):
        return KEY_SMTPUTF8
    elif n == 3 and equal_fold(p, b"ret", 3):
        return KEY_RET
    elif n == 5 and equal_fold(p, b"envid", 5):
        return KEY_ENVID
    elif n == 10 and equal_fold(p, b"requiretls", 10):
        return KEY_REQUIRETLS
    elif n == 11 and equal_fold(p, b"mt-priority", 11):
        return KEY_MT_PRIORITY
    elif n == 7 and equal_fold(p, b"holdfor", 7):
        return KEY_HOLDFOR
    elif n == 9 and equal_fold(p, b"holduntil", 9):
        return KEY_HOLDUNTIL
    return KEY_UNKNOWN


cdef int rcpt_keyword(const char *p, size_t n) noexcept nogil:
    if is_word(p, n, b"notify", 6):
        return KEY_NOTIFY
    if is_word(p, n, b"orcpt", 5):
        return KEY_ORCPT
    return KEY_UNKNOWN


cdef uint32_t offer_of(int keyword) noexcept nogil:
    """The offers of which one at least must have been made."""
    if keyword == KEY_SIZE:
        return OFFER_SIZE
    if keyword == KEY_BODY:
        return OFFER_8BITMIME | OFFER_BINARYMIME
    if keyword == KEY_SMTPUTF8:
        return OFFER_SMTPUTF8
    if keyword == KEY_REQUIRETLS:
        return OFFER_REQUIRETLS
    if keyword == KEY_AUTH:
        return OFFER_AUTH
    if keyword == KEY_MT_PRIORITY:
        return OFFER_PRIORITY
    if keyword == KEY_HOLDFOR or keyword == KEY_HOLDUNTIL:
        return OFFER_FUTURERELEASE
    return OFFER_DSN


cdef bint read_number(const char *p, size_t n, size_t digits, uint64_t *number) noexcept nogil:
    """1 to `digits` decimal digits; one too big for 64 bits saturates, so that it is over every limit."""
    cdef uint64_t value = 0
    cdef uint8_t digit
    cdef size_t i
    if n == 0 or n > digits:
        return False
    for i in range(n):
        if not is_digit(p[i]):
            return False
        digit = p[i] - 48
        if value > (<uint64_t>-1 - digit) // 10:
            value = <uint64_t>-1
        else:
            value = value * 10 + digit
    number[0] = value
    return True


cdef int64_t days_since_1970(int year, int month, int day) noexcept nogil:
    # Years begin with March here, so that the leap day is the last of its year; years are never negative.
    cdef int64_t y = year - (1 if month <= 2 else 0)
    cdef int64_t m = month + (9 if month <= 2 else -3)
    return 365 * y + y // 4 - y // 100 + y // 400 + (153 * m + 2) // 5 + day - 1 - 719468


cdef int days_in_month(int year, int month) noexcept nogil:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


cdef bint read_date_time(const char *p, size_t n, uint64_t *seconds) noexcept nogil:
    """RFC 3339 §5.6 to unix seconds: fractions are dropped, a leap second is the second after it."""
    cdef int high, low, year, month, day, hour, minute, second, offset_hour = 0, offset_minute = 0
    cdef int64_t value
    cdef size_t i
    if n < 20 or p[4] != c'-' or p[7] != c'-' or lower(p[10]) != c't' or p[13] != c':' or p[16] != c':':
        return False
    high = two_digits(p)
    low = two_digits(p + 2)
    year = 100 * high + low
    month = two_digits(p + 5)
    day = two_digits(p + 8)
    hour = two_digits(p + 11)
    minute = two_digits(p + 14)
    second = two_digits(p + 17)
    if high < 0 or low < 0 or not 1 <= month <= 12 or not 1 <= day <= days_in_month(year, month):
        return False
    if not 0 <= hour <= 23 or not 0 <= minute <= 59 or not 0 <= second <= 60:
        return False
    value = 86400 * days_since_1970(year, month, day) + 3600 * hour + 60 * minute + second
    i = 19
    if p[i] == c'.':
        i += 1
        while i < n and is_digit(p[i]):
            i += 1
        if i == 20:
            return False
    if n - i == 6 and (p[i] == c'+' or p[i] == c'-') and p[i + 3] == c':':
        offset_hour = two_digits(p + i + 1)
        offset_minute = two_digits(p + i + 4)
        if not 0 <= offset_hour <= 23 or not 0 <= offset_minute <= 59:
            return False
        value += (3600 * offset_hour + 60 * offset_minute) * (1 if p[i] == c'-' else -1)
    elif n - i != 1 or lower(p[i]) != c'z':
        return False
    if value < 0:
        return False
    seconds[0] = <uint64_t>value
    return True


cdef uint8_t read_notify(const char *p, size_t n) noexcept nogil:
    """The set of Notify bits, 0 when it is none (RFC 3461 §4.1: NEVER stands alone)."""
    cdef uint8_t bits = 0
    cdef Py_ssize_t comma
    cdef size_t length
    if is_word(p, n, b"never", 5):
        return NOTIFY_NEVER
    while True:
        comma = find_octet(p, n, c',')
        length = n if comma < 0 else comma
        if is_word(p, length, b"success", 7):
            bits |= NOTIFY_SUCCESS
        elif is_word(p, length, b"failure", 7):
            bits |= NOTIFY_FAILURE
        elif is_word(p, length, b"delay", 5):
            bits |= NOTIFY_DELAY
        else:
            return 0
        if comma < 0:
            return bits
        p += length + 1
        n -= length + 1


cdef bint is_orcpt(const char *p, size_t n, bint smtputf8) noexcept nogil:
    """addr-type ";" xtext; with SMTPUTF8 the type "utf-8" may have its address as it is (RFC 6533 §3)."""
    cdef Py_ssize_t semicolon = find_octet(p, n, c';')
    cdef bint high
    cdef size_t i
    if n > 500 or semicolon < 1:
        return False
    for i in range(<size_t>semicolon):
        if not is_in(p[i], TYPE):
            return False
    high = smtputf8 and is_word(p, semicolon, b"utf-8", 5)
    p += semicolon + 1
    n -= semicolon + 1
    return is_xtext(p, n, 126, high) and (not high or is_utf8(p, n))


cdef bint read_mail_value(int keyword, const Parameter *it, MailParameters *parameters) noexcept nogil:
    cdef size_t n = it.length
    if keyword == KEY_SIZE:
        parameters.has_size = True
        return read_number(it.value, n, 20, &parameters.size)
    if keyword == KEY_BODY:
        if is_word(it.value, n, b"8bitmime", 8):
            parameters.body = BODY_8BITMIME
        elif is_word(it.value, n, b"7bit", 4):
            parameters.body = BODY_7BIT
        elif is_word(it.value, n, b"binarymime", 10):
            parameters.body = BODY_BINARYMIME
        return parameters.body != BODY_UNSTATED
    if keyword == KEY_SMTPUTF8:
        parameters.smtputf8 = True
        return not it.has_value
    if keyword == KEY_REQUIRETLS:
        parameters.requiretls = True
        return not it.has_value
    if keyword == KEY_RET:
        if is_word(it.value, n, b"full", 4):
            parameters.ret = RET_FULL
        elif is_word(it.value, n, b"hdrs", 4):
            parameters.ret = RET_HDRS
        return parameters.ret != RET_UNSTATED
    if keyword == KEY_ENVID:
        set_span(&parameters.envid, it.start, it.start + n)
        return 1 <= n <= 100 and is_xtext(it.value, n, 126, False)
    if keyword == KEY_AUTH:
        set_span(&parameters.auth, it.start, it.start + n)
        return n > 0 and (is_word(it.value, n, b"<>", 2) or is_xtext(it.value, n, 255, False))
    if keyword == KEY_MT_PRIORITY:
        # RFC 6710 §3.1: "0", or a digit from 1 to 9 with or without a minus
        parameters.has_priority = True
        if n == 2 and it.value[0] == c'-' and c'1' <= it.value[1] <= c'9':
            parameters.priority = 48 - it.value[1]
            return True
        if n == 1 and is_digit(it.value[0]):
            parameters.priority = it.value[0] - 48
            return True
        return False
    # one of the two of RFC 4865 §3, erratum 2040
    parameters.has_hold = True
    parameters.hold_is_until = keyword == KEY_HOLDUNTIL
    if parameters.hold_is_until:
        return read_date_time(it.value, n, &parameters.hold)
    return n > 0 and it.value[0] != c'0' and read_number(it.value, n, 9, &parameters.hold)


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
        return VERB_STARTTLS if is_word(line, length, b"starttls", 8) else VERB_UNKNOWN
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
    cdef uint32_t seen = 0
    cdef Parameter parameter
    cdef int fault, keyword, more
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
    while True:
        more = next_parameter(line, &i, n, &parameter)
        if more == 0:
            break
        if more < 0:
            return replies[SAY_MALFORMED]
        keyword = mail_keyword(parameter.keyword, parameter.keyword_length)
        if keyword == KEY_UNKNOWN:
            return replies[SAY_MAIL_UNKNOWN]
        if offers & offer_of(keyword) == 0:
            return keyword_replies[keyword][WRONG_NOT_OFFERED]
        if seen >> keyword & 1:
            return keyword_replies[keyword][WRONG_TWICE]
        seen |= 1 << keyword
        if not read_mail_value(keyword, &parameter, parameters):
            return keyword_replies[keyword][WRONG_VALUE]
    if parameters.body == BODY_BINARYMIME and offers & OFFER_BINARYMIME == 0:
        return replies[SAY_BINARYMIME]
    if seen >> KEY_HOLDFOR & 1 and seen >> KEY_HOLDUNTIL & 1:
        return replies[SAY_HOLD_TWICE]
    return path_replies[check_utf8(line, path, parameters.smtputf8)][0]


cdef const char *parse_rcpt(const char *line, size_t n, size_t arguments, uint32_t offers, bint smtputf8,
                            Path *path, RcptParameters *parameters) noexcept nogil:
    cdef size_t i = skip_spaces(line, arguments, n)
    cdef uint32_t seen = 0
    cdef Parameter parameter
    cdef int fault, keyword, more
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
    while True:
        more = next_parameter(line, &i, n, &parameter)
        if more == 0:
            return NULL
        if more < 0:
            return replies[SAY_MALFORMED]
        keyword = rcpt_keyword(parameter.keyword, parameter.keyword_length)
        if keyword == KEY_UNKNOWN:
            return replies[SAY_RCPT_UNKNOWN]
        if offers & OFFER_DSN == 0:
            return keyword_replies[keyword][WRONG_NOT_OFFERED]
        if seen >> keyword & 1:
            return keyword_replies[keyword][WRONG_TWICE]
        seen |= 1 << keyword
        if keyword == KEY_NOTIFY:
            parameters.notify = read_notify(parameter.value, parameter.length)
            if parameters.notify == 0:
                return keyword_replies[keyword][WRONG_VALUE]
        else:
            if not is_orcpt(parameter.value, parameter.length, smtputf8):
                return keyword_replies[keyword][WRONG_VALUE]
            set_span(&parameters.orcpt, parameter.start, parameter.start + parameter.length)


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
    cdef readonly object text               # behind NOOP, VRFY, EXPN, HELP, AUTH

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
    elif verb in (VERB_NOOP, VERB_HELP, VERB_VRFY, VERB_EXPN, VERB_AUTH):
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


def split_xtext(bytes text not None) -> list[bytes]:
    """xtext as the list of its xchars and hexchars (RFC 3461 §4); ValueError when it is not xtext."""
    cdef const char *p = PyBytes_AS_STRING(text)
    cdef size_t n = PyBytes_GET_SIZE(text), i = 0, length
    cdef list parts = []
    while i < n:
        length = 1
        if p[i] == c'+' and n - i >= 3 and hex_value(p[i + 1]) >= 0 and hex_value(p[i + 2]) >= 0:
            length = 3
        elif not is_in(p[i], XCHAR):
            raise ValueError(f"not xtext at octet {i}: {text!r}")
        parts.append(PyBytes_FromStringAndSize(p + i, length))
        i += length
    return parts


def decode_xtext(bytes text not None) -> bytes:
    """The octets that xtext stands for (RFC 3461 §4); ValueError when it is not xtext."""
    return b"".join([bytes.fromhex(part[1:].decode("ascii")) if len(part) == 3 else part for part in split_xtext(text)])


def encode_xtext(bytes octets not None) -> bytes:
    """The xtext that stands for these octets (RFC 3461 §4)."""
    cdef size_t i
    cdef const char *p = PyBytes_AS_STRING(octets)
    return b"".join([
        PyBytes_FromStringAndSize(p + i, 1) if is_in(p[i], XCHAR) else b"+%02X" % (<uint8_t>p[i])
        for i in range(<size_t>PyBytes_GET_SIZE(octets))
    ])


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
