"""The addresses of a From or Sender field, as RFC 5322 §3.4 writes them, obsolete syntax (§4.4) and UTF-8 (RFC 6532)
included.

Job: say which mailboxes an address list names, so that policy can compare them. What decides is the address itself:
display names, comments, groups and routes are read and left out. Encoded words (RFC 2047) have no meaning within an
address, so that nothing is decoded: one that stands there is the atom that it looks like.

Input is the value of one field, folds included. Output is a list of (local part, domain, end of the local part in the
value, stood in angle brackets). A local part is given without the quoting that means nothing, so that `"a"@b`, `a@b`
and `a (x) @ b` compare equal; a domain in lower case (ASCII letters). A mailbox without a domain has an empty one.

Taken as they are meant: empty list elements and routes (obs-addr-list, obs-route), white space and comments around
dots (obs-local-part, obs-domain), dots in a display name (obs-phrase), control characters within quoted strings and
comments (obs-qtext, obs-ctext). Not taken, because programs disagree about them: NUL, a CR or LF that does not fold,
octets that are no UTF-8, an address literal with a quoted pair, `<>`, a group within a group, anything between two
addresses but a comma.

Fails: None for what cannot be read; MemoryError. Takes time linear in the length, nesting included: comments are
counted, not recursed into.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc

from angarium._core.octets cimport is_alpha, is_digit, is_utf8, lower

cdef enum:
    WORD_NONE
    WORD_TEXT
    WORD_DOT


cdef struct Reader:
    const char *p
    size_t n
    size_t at


cdef struct Words:
    size_t count             # words
    bint dotted              # word *("." word): what a local part may be
    size_t length            # octets of the content, at Reader's output
    size_t end               # behind the last word


cdef inline bint is_atext(char c) noexcept nogil:
    """RFC 5322 §3.2.3 and RFC 6532 §3.2."""
    if is_alpha(c) or is_digit(c) or <uint8_t>c >= 128:
        return True
    return c in (c'!', c'#', c'$', c'%', c'&', c"'", c'*', c'+', c'-', c'/', c'=', c'?', c'^', c'_', c'`', c'{', c'|',
                 c'}', c'~')


cdef inline size_t fold_at(const char *p, size_t at, size_t n) noexcept nogil:
    """Octets of the line end at p[at] that folds, 0 when there is none: white space stands behind it, or nothing."""
    cdef size_t length = 0
    if p[at] == c'\n':
        length = 1
    elif p[at] == c'\r' and at + 1 < n and p[at + 1] == c'\n':
        length = 2
    if length and (at + length == n or p[at + length] == c' ' or p[at + length] == c'\t'):
        return length
    return 0


cdef bint skip_space(Reader *r) noexcept nogil:
    """White space, folds included. False: a CR or LF that does not fold."""
    cdef size_t fold
    while r.at < r.n:
        if r.p[r.at] == c' ' or r.p[r.at] == c'\t':
            r.at += 1
        elif r.p[r.at] == c'\r' or r.p[r.at] == c'\n':
            fold = fold_at(r.p, r.at, r.n)
            if fold == 0:
                return False
            r.at += fold
        else:
            break
    return True


cdef bint skip_comments(Reader *r) noexcept nogil:
    """CFWS: white space and comments. False: broken."""
    cdef size_t depth, fold
    cdef char c
    while True:
        if not skip_space(r):
            return False
        if r.at == r.n or r.p[r.at] != c'(':
            return True
        depth = 0
        while True:
            if r.at == r.n:
                return False
            c = r.p[r.at]
            if c == 0:
                return False
            if c == c'\r' or c == c'\n':
                fold = fold_at(r.p, r.at, r.n)
                if fold == 0:
                    return False
                r.at += fold
                continue
            r.at += 1
            if c == c'\\':
                if r.at == r.n or r.p[r.at] in (c'\0', c'\r', c'\n'):
                    return False
                r.at += 1
            elif c == c'(':
                depth += 1
            elif c == c')':
                depth -= 1
                if depth == 0:
                    break


cdef bint read_quoted(Reader *r, char *out, size_t *length) noexcept nogil:
    """A quoted string; its content is added to out. False: broken."""
    cdef size_t fold
    cdef char c
    r.at += 1
    while r.at < r.n:
        c = r.p[r.at]
        if c == 0:
            return False
        if c == c'\r' or c == c'\n':
            fold = fold_at(r.p, r.at, r.n)
            if fold == 0:
                return False
            r.at += fold
            continue
        r.at += 1
        if c == c'"':
            return True
        if c == c'\\':
            if r.at == r.n or r.p[r.at] in (c'\0', c'\r', c'\n'):
                return False
            c = r.p[r.at]
            r.at += 1
        out[length[0]] = c
        length[0] += 1
    return False


cdef bint read_words(Reader *r, char *out, Words *words) noexcept nogil:
    """Words and dots with CFWS around them, up to something else. False: broken."""
    cdef int last = WORD_NONE
    words.count = words.length = 0
    words.dotted = True
    words.end = r.at
    while True:
        if not skip_comments(r):
            return False
        if r.at == r.n:
            break
        if r.p[r.at] == c'.':
            words.dotted = words.dotted and last == WORD_TEXT
            last = WORD_DOT
            out[words.length] = c'.'
            words.length += 1
            r.at += 1
            continue
        if r.p[r.at] != c'"' and not is_atext(r.p[r.at]):
            break
        words.dotted = words.dotted and last != WORD_TEXT
        last = WORD_TEXT
        words.count += 1
        if r.p[r.at] == c'"':
            if not read_quoted(r, out, &words.length):
                return False
        else:
            while r.at < r.n and is_atext(r.p[r.at]):
                out[words.length] = r.p[r.at]
                words.length += 1
                r.at += 1
        words.end = r.at
    words.dotted = words.dotted and last == WORD_TEXT
    return True


cdef bint read_domain(Reader *r, char *out, size_t *length) noexcept nogil:
    """A domain or an address literal, with CFWS around its parts, into out. False: broken."""
    cdef char c
    length[0] = 0
    if not skip_comments(r) or r.at == r.n:
        return False
    if r.p[r.at] == c'[':
        out[0] = c'['
        length[0] = 1
        r.at += 1
        while True:
            if not skip_space(r) or r.at == r.n:
                return False
            c = r.p[r.at]
            if c == c'[' or c == c'\\' or <uint8_t>c <= 32 or c == 127:
                return False
            out[length[0]] = lower(c)
            length[0] += 1
            r.at += 1
            if c == c']':
                return skip_comments(r)
    while True:
        if not skip_comments(r) or r.at == r.n or not is_atext(r.p[r.at]):
            return False
        while r.at < r.n and is_atext(r.p[r.at]):
            out[length[0]] = lower(r.p[r.at])
            length[0] += 1
            r.at += 1
        if not skip_comments(r):
            return False
        if r.at == r.n or r.p[r.at] != c'.':
            return True
        out[length[0]] = c'.'
        length[0] += 1
        r.at += 1


cdef bint skip_route(Reader *r, char *out) noexcept nogil:
    """`@a,@b:` (obs-route), at the first @ or comma. False: broken."""
    cdef size_t length
    while True:
        if not skip_comments(r) or r.at == r.n:
            return False
        if r.p[r.at] == c':':
            r.at += 1
            return True
        if r.p[r.at] == c'@':
            r.at += 1
            if not read_domain(r, out, &length) or r.at == r.n or r.p[r.at] not in (c',', c':'):
                return False
        elif r.p[r.at] == c',':
            r.at += 1
        else:
            return False


cdef bytes local_part(const char *content, size_t n):
    """A local part as it compares: quoted only when it must be (RFC 5321 §4.1.2)."""
    cdef size_t i, k = 1
    cdef bint plain = n > 0 and content[0] != c'.' and content[n - 1] != c'.'
    cdef bytes quoted
    cdef char *q
    for i in range(n):
        if content[i] == c'.':
            plain = plain and (i == 0 or content[i - 1] != c'.')
        elif not is_atext(content[i]):
            plain = False
    if plain:
        return PyBytes_FromStringAndSize(content, n)
    quoted = PyBytes_FromStringAndSize(NULL, 2 * n + 2)
    q = PyBytes_AS_STRING(quoted)
    q[0] = c'"'
    for i in range(n):
        if content[i] == c'"' or content[i] == c'\\':
            q[k] = c'\\'
            k += 1
        q[k] = content[i]
        k += 1
    q[k] = c'"'
    return quoted[:k + 1]


cdef list read_addresses(const char *p, size_t n):
    cdef list found = []
    cdef char *out
    if not is_utf8(p, n):
        return None
    out = <char *>malloc(2 * n + 2)          # a local part, and its domain behind it
    if out == NULL:
        raise MemoryError
    try:
        return found if read_list(p, n, out, found) else None
    finally:
        free(out)


cdef bint read_list(const char *p, size_t n, char *out, list found) except -1:
    cdef Reader r
    cdef Words words
    cdef bint in_group = False               # between a group's colon and its semicolon
    cdef bint complete = False               # an address or a group ended: a comma comes, or the end
    cdef bint angle
    cdef size_t length
    cdef char c
    r.p = p
    r.n = n
    r.at = 0
    while True:
        if not skip_comments(&r):
            return False
        if r.at == n:
            return not in_group
        c = p[r.at]
        if c == c',':
            complete = False
            r.at += 1
            continue
        if c == c';' and in_group:
            in_group = False
            complete = True
            r.at += 1
            continue
        if complete or not read_words(&r, out, &words):
            return False
        c = p[r.at] if r.at < n else c'\0'
        if c == c':' and words.count and not in_group:
            in_group = True
            r.at += 1
            continue
        angle = c == c'<'
        if angle:
            r.at += 1
            if not skip_comments(&r):
                return False
            if r.at < n and (p[r.at] == c'@' or p[r.at] == c',') and not skip_route(&r, out):
                return False
            if not read_words(&r, out, &words):
                return False
        if not words.dotted:
            return False
        length = 0
        if r.at < n and p[r.at] == c'@':
            r.at += 1
            if not read_domain(&r, out + words.length, &length):
                return False
        if angle:
            if r.at == n or p[r.at] != c'>':
                return False
            r.at += 1
        found.append((local_part(out, words.length), PyBytes_FromStringAndSize(out + words.length, length), words.end,
                      angle))
        complete = True


def parse_addresses(bytes value not None):
    """The mailboxes in the value of an address field; None when it cannot be read."""
    return read_addresses(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
