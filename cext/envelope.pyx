"""MAIL and RCPT as they are said to a host: with the parameters that it offers, and no others.

Job: write the commands of an envelope. What the host does not offer is left out; whether a message can do without is
not judged here. A host that offers DSN gets RET, ENVID, NOTIFY and ORCPT as they came (RFC 3461
§5.2.1); an original recipient that is not ASCII goes to one without SMTPUTF8 in its 7-bit form (RFC 6533 §3).

Input: a message, its record, the capabilities of a host. Output: octets, into room that the caller has made: 3 for each
of the record's in front of the mail data, 80 for each recipient, and 1024. It fails never.
"""

from libc.stdint cimport uint8_t, uint32_t

from angarium._core.client_session cimport (
    CAPABILITY_8BITMIME,
    CAPABILITY_DSN,
    CAPABILITY_PRIORITY,
    CAPABILITY_REQUIRETLS,
    CAPABILITY_SIZE,
    CAPABILITY_SMTPUTF8,
)
from angarium._core.command cimport (
    BODY_8BITMIME,
    NOTIFY_DELAY,
    NOTIFY_FAILURE,
    NOTIFY_NEVER,
    NOTIFY_SUCCESS,
    RET_FULL,
    RET_HDRS,
)
from angarium._core.octets cimport put, put_decimal
from angarium._core.record cimport (
    MESSAGE_EIGHT_BIT,
    MESSAGE_REQUIRETLS,
    MESSAGE_SMTPUTF8,
    TEXT_ENVID,
    TEXT_REVERSE_PATH,
    AcceptedMeta,
    MailBuffer,
    Message,
    Recipient,
    Text,
)

cdef const char *HEX = b"0123456789ABCDEF"


cdef bint has_high(const char *p, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if <uint8_t>p[i] > 127:
            return True
    return False


cdef size_t put_utf8_xtext(char *out, const char *octets, size_t n) noexcept nogil:
    """An address of type utf-8 in its 7-bit form, at most three times as long: what is not ASCII as \\x{HEX}.

    RFC 6533 §3: utf-8-addr-xtext. The octets are well-formed UTF-8, the command parser has seen to that.
    """
    cdef size_t i = 0
    cdef size_t k = 0
    cdef uint32_t character
    cdef uint8_t octet
    cdef int more, shift
    while i < n:
        octet = <uint8_t>octets[i]
        i += 1
        if octet < 0x80:
            out[k] = octet
            k += 1
            continue
        more = 1 if octet < 0xE0 else 2 if octet < 0xF0 else 3
        character = octet & (0x3F >> more)
        while more and i < n:
            character = character << 6 | <uint8_t>octets[i] & 0x3F
            i += 1
            more -= 1
        k += put(out + k, b"\\x{", 3)
        shift = 20
        while shift > 4 and character >> shift == 0:
            shift -= 4
        while shift >= 0:
            out[k] = HEX[character >> shift & 15]
            k += 1
            shift -= 4
        k += put(out + k, b"}", 1)
    return k


cdef size_t put_mail(char *p, Message message, MailBuffer buffer, size_t octets, uint32_t capabilities) noexcept:
    cdef AcceptedMeta *meta = buffer.meta()
    cdef Text text = buffer.text(TEXT_REVERSE_PATH)
    cdef size_t n = put(p, b"MAIL FROM:<", 11)
    n += put(p + n, text.octets, text.length)
    n += put(p + n, b">", 1)
    if capabilities & CAPABILITY_SIZE:
        n += put(p + n, b" SIZE=", 6)
        n += put_decimal(p + n, octets)
    if capabilities & CAPABILITY_8BITMIME and (
        message.body == BODY_8BITMIME or message.flags & MESSAGE_EIGHT_BIT
    ):
        n += put(p + n, b" BODY=8BITMIME", 14)
    if capabilities & CAPABILITY_SMTPUTF8 and message.flags & MESSAGE_SMTPUTF8:
        n += put(p + n, b" SMTPUTF8", 9)
    if capabilities & CAPABILITY_REQUIRETLS and message.flags & MESSAGE_REQUIRETLS:
        n += put(p + n, b" REQUIRETLS", 11)
    if meta.priority and capabilities & CAPABILITY_PRIORITY:
        n += put(p + n, b" MT-PRIORITY=", 13)
        if meta.priority < 0:
            n += put(p + n, b"-", 1)
        n += put_decimal(p + n, meta.priority if meta.priority > 0 else -meta.priority)
    if capabilities & CAPABILITY_DSN:
        if meta.ret == RET_FULL:
            n += put(p + n, b" RET=FULL", 9)
        elif meta.ret == RET_HDRS:
            n += put(p + n, b" RET=HDRS", 9)
        text = buffer.text(TEXT_ENVID)
        if text.length:
            n += put(p + n, b" ENVID=", 7)
            n += put(p + n, text.octets, text.length)
    n += put(p + n, b"\r\n", 2)
    return n


cdef size_t put_rcpt(char *p, Recipient *recipient, uint32_t capabilities) noexcept nogil:
    cdef size_t n = put(p, b"RCPT TO:<", 9)
    cdef char *list_begin
    n += put(p + n, recipient.forward_path.octets, recipient.forward_path.length)
    n += put(p + n, b">", 1)
    if capabilities & CAPABILITY_DSN:
        if recipient.notify:
            n += put(p + n, b" NOTIFY=", 8)
            list_begin = p + n
            if recipient.notify & NOTIFY_NEVER:
                n += put(p + n, b"NEVER,", 6)
            if recipient.notify & NOTIFY_SUCCESS:
                n += put(p + n, b"SUCCESS,", 8)
            if recipient.notify & NOTIFY_FAILURE:
                n += put(p + n, b"FAILURE,", 8)
            if recipient.notify & NOTIFY_DELAY:
                n += put(p + n, b"DELAY,", 6)
            if p + n > list_begin:
                n -= 1               # the last comma
        if recipient.orcpt.length:
            n += put(p + n, b" ORCPT=", 7)
            if not capabilities & CAPABILITY_SMTPUTF8 and has_high(
                recipient.orcpt.octets, recipient.orcpt.length
            ):
                n += put_utf8_xtext(p + n, recipient.orcpt.octets, recipient.orcpt.length)
            else:
                n += put(p + n, recipient.orcpt.octets, recipient.orcpt.length)
    n += put(p + n, b"\r\n", 2)
    return n
