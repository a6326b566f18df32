"""Which recipients a listener takes from those who may not relay."""

from angarium._core.domain_map cimport DomainMap


cpdef enum Judgement:
    RECIPIENT_FOREIGN = 0    # its domain is none of ours
    RECIPIENT_HOSTED
    RECIPIENT_ROUTED         # hosted, and its local part names another destination


cdef class RecipientPolicy:
    """The domains of one listener, and who is asked whether a mailbox of theirs exists."""
    cdef readonly bytes postmaster_domain    # of the domainless <Postmaster>; b"": no domain is listed by its name
    cdef readonly object verify              # None: every address of the domains is taken
    cdef DomainMap _domains                  # names, and with a dot in front those of which subdomains are meant
    cdef object _fold                        # domain with U-labels -> as it compares
    cdef bint _below                         # some have a dot in front

    # the domain is the last octets of mailbox, behind an @
    cdef int judge(self, const char *mailbox, size_t n, size_t domain_length) except -1
    cdef bint _hosts(self, const char *domain, size_t n)
