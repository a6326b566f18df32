"""MAIL and RCPT as they are said to a host."""

from libc.stdint cimport uint32_t

from angarium._core.record cimport MailBuffer, Message, Recipient


cdef bint has_high(const char *p, size_t n) noexcept nogil       # whether there is an octet that is not ASCII

# the command at p, CRLF and all; its length. octets: of the mail data, for SIZE; capabilities: bits of Capability
cdef size_t put_mail(char *p, Message message, MailBuffer buffer, size_t octets, uint32_t capabilities) noexcept
cdef size_t put_rcpt(char *p, Recipient *recipient, uint32_t capabilities) noexcept nogil
