"""What policy grants to one client."""

from libc.stdint cimport int8_t, uint8_t

from angarium._core.permission cimport Permission


cdef class ClientTerms:
    cdef readonly bint may_relay
    cdef readonly bint bare_newlines             # repaired instead of refused
    cdef readonly bytes tenant                   # b"": none
    cdef readonly uint8_t flags                  # MessageFlag of every message
    cdef readonly uint8_t durability             # class of a message that does not ask for one
    cdef readonly uint8_t durability_floor       # the weakest class that a message may ask for
    cdef readonly uint8_t durability_ceiling     # the strongest
    cdef readonly int8_t highest_priority        # RFC 6710; what asks for more is lowered to it
    cdef readonly Permission permission          # None: nothing is asked about single messages
    cdef readonly bytes told                     # members of the event of a message: what was granted by name
    cdef readonly bytes source_pool              # what its mail goes by; b"": as the route says

    cdef uint8_t durability_of(self, const char *asked, size_t n) noexcept nogil
