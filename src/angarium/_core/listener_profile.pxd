"""What all sessions of one listener have in common."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from angarium._core.counters cimport Counters
from angarium._core.recipient_policy cimport RecipientPolicy


cdef class ListenerProfile:
    """Decided by the configuration, read by the session."""
    cdef readonly bytes hostname
    cdef readonly bytes name
    cdef readonly int durability
    cdef readonly uint64_t message_octets
    cdef readonly uint64_t header_octets
    cdef readonly uint32_t recipients
    cdef readonly uint32_t command_octets
    cdef readonly uint32_t errors
    cdef readonly uint32_t commands_per_second
    cdef readonly uint32_t hops
    cdef readonly uint32_t transactions          # of one session, 0: no limit
    cdef readonly uint64_t connections           # of the node
    cdef readonly uint32_t connections_per_client
    cdef readonly double idle_timeout_s
    cdef readonly double data_timeout_s          # from the start of one message's data to its end
    cdef readonly bint authentication_required
    cdef readonly object client_policy           # address text -> ClientTerms
    cdef readonly object authentication          # mechanism, session -> exchange; None: AUTH is not offered
    cdef readonly tuple mechanisms
    cdef readonly object start_tls               # session -> None; None: STARTTLS is not offered
    cdef readonly uint64_t future_release_s      # RFC 4865, the longest one may ask for; 0: not offered
    cdef readonly bytes priorities               # RFC 6710, name of the priority profile or b""; None: not offered
    cdef readonly object identity_policy         # address, log-in, certificate -> ClientTerms; None: as client_policy
    cdef readonly object client_certificate      # address, ssl object -> certificate or None; None: none is asked for
    cdef readonly object xclient                 # address text -> bint: XCLIENT is offered to it; None: to nobody
    cdef readonly RecipientPolicy recipient_policy  # of mail to domains of ours; None: there are none
    cdef readonly bint lmtp                      # RFC 2033
    cdef readonly ListenerProfile successor      # what holds from the next transaction on; None: this one
    cdef dict _clients                           # what client_policy said, bounded
    cdef dict _identities                        # what identity_policy said, bounded
    cdef bytes _greeting
    cdef bytes _ehlo_plain                       # rest of the EHLO reply behind its first line
    cdef bytes _ehlo_tls
    cdef bytes _ehlo_certified                   # to clients with a certificate; None: nobody is offered EXTERNAL
    cdef uint32_t _offers_plain
    cdef uint32_t _offers_tls
    cdef int _row                                # of the listener's metrics; -1: not looked up yet

    cdef uint16_t _find_row(self, Counters counters) noexcept

    cdef inline uint16_t row(self, Counters counters) noexcept:
        """The row of the listener's metrics."""
        return <uint16_t>self._row if self._row >= 0 else self._find_row(counters)
