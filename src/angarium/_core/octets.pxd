"""Inline helpers over octets that every compiled module shares.

Pointers are indexed only here and in the scanners, always beside an explicit length.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcpy


cdef struct Span:
    # A slice of somebody else's buffer, as an offset from its start; length 0 with start 0 means "absent".
    uint32_t start
    uint32_t length


cdef inline bint is_digit(char c) noexcept nogil:
    return 48 <= <uint8_t>c <= 57


cdef inline bint is_alpha(char c) noexcept nogil:
    return 97 <= (<uint8_t>c | 0x20) <= 122


cdef inline char lower(char c) noexcept nogil:
    return c | 0x20 if 65 <= <uint8_t>c <= 90 else c


cdef inline bint equal_fold(const char *a, const char *b, size_t n) noexcept nogil:
    """ASCII-case-insensitive comparison of n octets; b is already lower case."""
    cdef size_t i
    for i in range(n):
        if lower(a[i]) != b[i]:
            return False
    return True


cdef inline size_t put(char *out, const char *octets, size_t n) noexcept nogil:
    """Copy n octets to out; returns n."""
    memcpy(out, octets, n)
    return n


cdef inline size_t put_decimal(char *out, uint64_t value) noexcept nogil:
    """Write value in decimal at out (20 octets of room) and return how many octets that took."""
    cdef char digits[20]
    cdef size_t n = 0, i
    while True:
        digits[n] = <char>(48 + value % 10)
        n += 1
        value //= 10
        if value == 0:
            break
    for i in range(n):
        out[i] = digits[n - 1 - i]
    return n


cdef inline Py_ssize_t find_octet(const char *p, size_t n, char c) noexcept nogil:
    """Offset of the first c in p[:n], or -1."""
    cdef const char *hit = <const char *>memchr(p, <uint8_t>c, n)
    return -1 if hit == NULL else hit - p


cdef inline size_t skip_spaces(const char *p, size_t i, size_t n) noexcept nogil:
    while i < n and p[i] == c' ':
        i += 1
    return i


cdef inline bint is_word(const char *p, size_t n, const char *word, size_t length) noexcept nogil:
    return n == length and equal_fold(p, word, length)


cdef inline void set_span(Span *span, size_t begin, size_t end) noexcept nogil:
    span.start = <uint32_t>begin
    span.length = <uint32_t>(end - begin)


cdef inline bint is_continuation(const char *p, size_t i, size_t n) noexcept nogil:
    return i < n and (<uint8_t>p[i] & 0xC0) == 0x80


cdef inline bint is_utf8(const char *p, size_t n) noexcept nogil:
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
