"""The trace field that stands on top of mail from the moment it is accepted."""

from libc.stdint cimport uint64_t

from angarium._core.record cimport Text


cdef enum:
    TRACE_FIELD_OCTETS = 1700


cdef struct TraceFacts:
    # what it says; a text of length 0 is absent
    Text hostname                    # ours
    Text greeting                    # the client's name for itself
    Text client                      # its address; no address: of a Unix socket, or "unknown"
    Text client_name                 # of its host, where XCLIENT has said it
    Text origin                      # of a local user, in place of an address
    Text tls_version, tls_cipher
    Text recipient                   # when there is one
    Text date                        # RFC 5322 §3.3
    const char *protocol             # protocol_keyword
    uint64_t id
    int priority                     # as granted (RFC 6710)
    bint has_priority
    bint tls
    bint hide_client                 # nobody is to learn who the client is
    bint headless                    # no header section follows it


# the keyword of RFC 3848 and RFC 6531 §4.3
cdef const char *protocol_keyword(bint extended, bint lmtp, bint smtputf8, bint tls, bint authenticated) noexcept nogil

# the field into TRACE_FIELD_OCTETS of room; how long it is
cdef size_t write_trace_field(char *field, TraceFacts *facts) noexcept nogil
