"""Which recipients a listener takes from those who may not relay, decided by octets of the RCPT line.

Job: hold the domains whose mail a listener of the role `inbound` takes, and judge each recipient by them without making
an object. Domains compare without regard to case; U-labels are folded by a function in Python, since they are rare.

A recipient is foreign (its domain is none of ours), hosted, or hosted with a route in its local part. The last is for
`victim%elsewhere@ours`, `elsewhere!victim@ours`, `"victim@elsewhere"@ours` and the like: the host behind this one may
take the local part for an address and relay it, because it trusts this one. No domain in the configuration makes that
wanted, so who may not relay is refused. Encoded words (RFC 2047) and what becomes one of the three marks under
Unicode's compatibility forms count as well: some hosts decode them.

`verify`, where there is one, is asked about every recipient that is hosted: mailbox -> b"" (take it), the whole reply
that refuses it, or a function that is given a Decision and answers it so later.

Fails: ValueError for a domain over 255 octets; what `fold` and `verify` raise. Bound: the domains of the configuration.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from angarium._core.domain_map cimport DomainMap
from angarium._core.octets cimport lower

cdef enum:
    LONGEST = 255                # octets of a domain, RFC 5321 §4.5.3.1.2


cdef class RecipientPolicy:
    def __init__(self, domains, *, verify=None, fold=None):
        cdef bytes name
        self._domains = DomainMap()
        self.verify = verify
        self._fold = fold
        self.postmaster_domain = b""
        for name in domains:
            if name.startswith(b"*."):
                self._below = True
                name = name[1:]              # found by its leading dot
            elif not self.postmaster_domain:
                self.postmaster_domain = name
            self._domains.set(name, True)

    cdef bint _hosts(self, const char *domain, size_t n):
        """Whether mail to domain, which is in lower case, is taken."""
        cdef size_t i
        if domain[0] == c'.':
            return False
        if self._domains.find(domain, n) is not None:
            return True
        if self._below:
            for i in range(1, n):
                if domain[i] == c'.' and self._domains.find(domain + i, n - i) is not None:
                    return True
        return False

    cdef int judge(self, const char *mailbox, size_t n, size_t domain_length) except -1:
        cdef char folded[256]
        cdef bytes name
        cdef const char *domain = mailbox + n - domain_length
        cdef uint8_t seen = 0
        cdef size_t i, length = domain_length
        if length == 0 or length > LONGEST:
            return RECIPIENT_FOREIGN
        for i in range(length):
            seen |= <uint8_t>domain[i]
            folded[i] = lower(domain[i])
        if seen & 0x80:
            if self._fold is None:
                return RECIPIENT_FOREIGN
            name = self._fold(PyBytes_FromStringAndSize(domain, length))
            length = PyBytes_GET_SIZE(name)
            if length == 0 or length > LONGEST or not is_ascii(PyBytes_AS_STRING(name), length):
                return RECIPIENT_FOREIGN     # it has no A-labels
            memcpy(folded, PyBytes_AS_STRING(name), length)
        if not self._hosts(folded, length):
            return RECIPIENT_FOREIGN
        return RECIPIENT_ROUTED if carries_route(mailbox, n - domain_length - 1) else RECIPIENT_HOSTED

    def judged(self, bytes mailbox, size_t domain_length) -> Judgement:
        """judge for callers in Python; ValueError when the mailbox has no such domain."""
        cdef size_t n = PyBytes_GET_SIZE(mailbox)
        if domain_length and (domain_length >= n or mailbox[n - domain_length - 1] != c'@'):
            raise ValueError(f"{mailbox!r} has no domain of {domain_length} octets")
        return Judgement(self.judge(PyBytes_AS_STRING(mailbox), n, domain_length))


cdef bint is_ascii(const char *p, size_t n) noexcept nogil:
    cdef uint8_t seen = 0
    cdef size_t i
    for i in range(n):
        seen |= <uint8_t>p[i]
    return seen < 0x80


cdef bint carries_route(const char *local, size_t n) noexcept nogil:
    """Whether a local part looks like an address of somewhere else."""
    cdef size_t i
    cdef uint8_t c, second, third
    for i in range(n):
        c = <uint8_t>local[i]
        if c == c'%' or c == c'!' or c == c'@' or c == c':':
            return True
        if c == 0xEF and i + 2 < n:
            # U+FF01, FF05, FF20, FE57, FE6A, FE6B, FE15: the fullwidth, small and vertical forms of ! % @
            second, third = <uint8_t>local[i + 1], <uint8_t>local[i + 2]
            if second == 0xBC and (third == 0x81 or third == 0x85 or third == 0xA0):
                return True
            if second == 0xB9 and (third == 0x97 or third == 0xAA or third == 0xAB):
                return True
            if second == 0xB8 and third == 0x95:
                return True
        if c == c'=' and i + 1 < n and local[i + 1] == c'?':
            return True
    return False
