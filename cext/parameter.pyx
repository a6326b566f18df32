# cython: auto_pickle=False
"""ESMTP parameters of MAIL and RCPT, and xtext: the part of the command parser behind the path (RFC 5321 §4.1.2).

Input is the rest of a command line, output the values, or spans of those that are kept as they came. A parameter that
is unknown or not offered gets 555, one given twice or with a bad value 501; the replies are static and name it.

RFC 1870 (SIZE), 6152 and 3030 (BODY), 6531 (SMTPUTF8), 8689 (REQUIRETLS), 3461 (RET, ENVID, NOTIFY, ORCPT), 4954
(AUTH), 6710 (MT-PRIORITY), 4865 (HOLDFOR, HOLDUNTIL). Decided beyond them:

- a SIZE over 64 bits is the greatest there is, so that it is over every limit;
- what ENVID and ORCPT stand for must be printable ASCII, or else a DSN could be made to carry forged lines (RFC 3461
  §4.2 and §4.4 ask clients for it); what AUTH stands for must hold no control characters;
- ORCPT of type utf-8 may be unencoded only in an internationalised transaction (RFC 6533 §3);
- a word given twice in NOTIFY counts once;
- HOLDUNTIL drops fractions of a second, and takes a leap second for the one after it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr

from angarium._core.command cimport (
    BODY_7BIT,
    BODY_8BITMIME,
    BODY_BINARYMIME,
    BODY_UNSTATED,
    NOTIFY_DELAY,
    NOTIFY_FAILURE,
    NOTIFY_NEVER,
    NOTIFY_SUCCESS,
    OFFER_8BITMIME,
    OFFER_AUTH,
    OFFER_BINARYMIME,
    OFFER_DSN,
    OFFER_FUTURERELEASE,
    OFFER_PRIORITY,
    OFFER_REQUIRETLS,
    OFFER_SIZE,
    OFFER_SMTPUTF8,
    RET_FULL,
    RET_HDRS,
    RET_UNSTATED,
    MailParameters,
    RcptParameters,
)
from angarium._core.octets cimport (
    equal_fold,
    find_octet,
    is_alpha,
    is_digit,
    is_utf8,
    is_word,
    lower,
    set_span,
    skip_spaces,
)

__all__ = ("decode_xtext", "encode_xtext", "split_xtext")


cdef extern from "command_replies.h":
    enum:
        KEY_UNKNOWN, KEY_SIZE, KEY_BODY, KEY_SMTPUTF8, KEY_REQUIRETLS, KEY_RET, KEY_ENVID, KEY_AUTH, KEY_MT_PRIORITY
        KEY_HOLDFOR, KEY_HOLDUNTIL, KEY_NOTIFY, KEY_ORCPT

    enum:
        WRONG_VALUE, WRONG_TWICE, WRONG_NOT_OFFERED

    enum:
        SAY_MALFORMED, SAY_MAIL_UNKNOWN, SAY_RCPT_UNKNOWN, SAY_BINARYMIME, SAY_HOLD_TWICE

    const char *keyword_replies[1][3]    # [KEYS][WRONGS]
    const char *replies[1]               # [SAYINGS]


# --- octets and xtext -------------------------------------------------------------------------------------------------

cdef inline bint is_keyword_octet(char c) noexcept nogil:
    return is_alpha(c) or is_digit(c) or c == c'-'


cdef inline bint is_xchar(char c) noexcept nogil:
    return 33 <= c <= 126 and c != c'+' and c != c'='


cdef inline bint is_type_octet(char c) noexcept nogil:
    """Of ORCPT's address type: an atom's octets (RFC 5322 §3.2.3) that may stand in a parameter's value."""
    return 33 <= c <= 126 and memchr(b'()<>[]:;@\\,."=', c, 14) == NULL


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
        if is_xchar(p[i]) or (high and <uint8_t>p[i] > 127):
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


# --- values -----------------------------------------------------------------------------------------------------------

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
    while i < n and is_keyword_octet(p[i]):
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
        if not is_type_octet(p[i]):
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


# --- the lists --------------------------------------------------------------------------------------------------------

cdef const char *read_mail_parameters(const char *line, size_t i, size_t n, uint32_t offers,
                                      MailParameters *parameters) noexcept nogil:
    cdef Parameter parameter
    cdef uint32_t seen = 0
    cdef int keyword, more
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
    return NULL


cdef const char *read_rcpt_parameters(const char *line, size_t i, size_t n, uint32_t offers, bint smtputf8,
                                      RcptParameters *parameters) noexcept nogil:
    cdef Parameter parameter
    cdef uint32_t seen = 0
    cdef int keyword, more
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


# --- for tests and tools ----------------------------------------------------------------------------------------------

def split_xtext(bytes text not None) -> list[bytes]:
    """xtext as the list of its xchars and hexchars (RFC 3461 §4); ValueError when it is not xtext."""
    cdef const char *p = PyBytes_AS_STRING(text)
    cdef size_t n = PyBytes_GET_SIZE(text), i = 0, length
    cdef list parts = []
    while i < n:
        length = 1
        if p[i] == c'+' and n - i >= 3 and hex_value(p[i + 1]) >= 0 and hex_value(p[i + 2]) >= 0:
            length = 3
        elif not is_xchar(p[i]):
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
        PyBytes_FromStringAndSize(p + i, 1) if is_xchar(p[i]) else b"+%02X" % (<uint8_t>p[i])
        for i in range(<size_t>PyBytes_GET_SIZE(octets))
    ])
