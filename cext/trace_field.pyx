"""The trace field that stands on top of mail from the moment it is accepted (RFC 5321 §4.4).

Input: what a session knows of its client and of the message. Output: the octets of one `Received` field, at most
TRACE_FIELD_OCTETS: what is longer than that allows is cut off. What the client made up cannot forge the field's
clauses. It fails never.
"""

from libc.string cimport memchr, strlen

from angarium._core.octets cimport is_alpha, is_digit, put, put_decimal
from angarium._core.record cimport Text, id_text

cdef const char *PROTOCOLS[16]   # of LMTP 8, SMTPUTF8 4, TLS 2, a log-in 1
PROTOCOLS[:] = [b"ESMTP", b"ESMTPA", b"ESMTPS", b"ESMTPSA", b"UTF8SMTP", b"UTF8SMTPA", b"UTF8SMTPS", b"UTF8SMTPSA",
                b"LMTP", b"LMTPA", b"LMTPS", b"LMTPSA", b"UTF8LMTP", b"UTF8LMTPA", b"UTF8LMTPS", b"UTF8LMTPSA"]


cdef const char *protocol_keyword(bint extended, bint lmtp, bint smtputf8, bint tls, bint authenticated) noexcept nogil:
    if not extended:
        return b"SMTP"
    return PROTOCOLS[(8 if lmtp else 0) + (4 if smtputf8 else 0) + (2 if tls else 0) + (1 if authenticated else 0)]


cdef inline size_t put_text(char *out, Text *text, size_t most) noexcept nogil:
    return put(out, text.octets, min(<size_t>text.length, most))


cdef size_t put_name(char *out, Text *name, size_t most) noexcept nogil:
    """A name that the client made up.

    What is no part of a domain or an address literal could forge the field's clauses.
    """
    cdef size_t i
    cdef size_t n = min(<size_t>name.length, most)
    cdef char c
    for i in range(n):
        c = name.octets[i]
        if is_alpha(c) or is_digit(c) or c == c'.' or c == c'-' or c == c':' or c == c'_' or c == c'[' or c == c']':
            out[i] = c
        else:
            out[i] = c'?'
    return n


cdef size_t put_client(char *out, TraceFacts *facts) noexcept nogil:
    """The TCP-info of RFC 5321 §4.4: who is connected, as a comment."""
    cdef size_t n = 0
    cdef bint v6 = memchr(facts.client.octets, c':', facts.client.length) != NULL
    if v6 or memchr(facts.client.octets, c'.', facts.client.length) != NULL:
        n += put(out, b" (", 2)
        if facts.client_name.length:
            n += put_name(out + n, &facts.client_name, 255)
            n += put(out + n, b" ", 1)
        n += put(out + n, b"[IPv6:" if v6 else b"[", 6 if v6 else 1)
        n += put_text(out + n, &facts.client, 64)
        return n + put(out + n, b"])", 2)
    if facts.origin.length:
        n += put(out, b" (", 2)
        n += put_text(out + n, &facts.origin, 200)
        return n + put(out + n, b")", 1)
    if facts.client.length:
        return put(out, b" (unknown)", 10)
    return put(out, b" (Unix socket)", 14)


cdef size_t write_trace_field(char *field, TraceFacts *facts) noexcept nogil:
    cdef size_t n = put(field, b"Received: from ", 15)
    if facts.hide_client:
        # the grammar wants a name (RFC 5321 §4.4), and nobody is to learn the client's: it is ours
        n += put_name(field + n, &facts.hostname, 255)
    else:
        n += put_name(field + n, &facts.greeting, 255)
        n += put_client(field + n, facts)
    n += put(field + n, b"\r\n\tby ", 6)
    n += put_text(field + n, &facts.hostname, 255)
    n += put(field + n, b" with ", 6)
    n += put(field + n, facts.protocol, strlen(facts.protocol))
    n += put(field + n, b" id ", 4)
    id_text(facts.id, field + n)
    n += 13
    if facts.tls:
        n += put(field + n, b"\r\n\t(version=", 12)
        n += put_text(field + n, &facts.tls_version, 32)
        n += put(field + n, b" cipher=", 8)
        n += put_text(field + n, &facts.tls_cipher, 64)
        n += put(field + n, b")", 1)
    if 0 < facts.recipient.length <= 320:
        n += put(field + n, b"\r\n\tfor <", 8)
        n += put_text(field + n, &facts.recipient, 320)
        n += put(field + n, b">", 1)
    if facts.has_priority:
        # RFC 6710: what it was given, not what was asked for
        n += put(field + n, b"\r\n\tPRIORITY ", 12)
        if facts.priority < 0:
            n += put(field + n, b"-", 1)
        n += put_decimal(field + n, facts.priority if facts.priority > 0 else -facts.priority)
    n += put(field + n, b"; ", 2)
    n += put_text(field + n, &facts.date, 40)
    # mail data that begins with its body needs the empty line, or its first line might continue this field
    n += put(field + n, b"\r\n\r\n", 4 if facts.headless else 2)
    return n
