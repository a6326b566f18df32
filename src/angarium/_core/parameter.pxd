"""ESMTP parameters behind the path of MAIL and RCPT (RFC 5321 §4.1.2), for command.pyx.

Each walks line[i:n], which begins with a space or is empty, and returns NULL or the static reply line that refuses it.
"""

from libc.stdint cimport uint32_t

from angarium._core.command cimport MailParameters, RcptParameters


cdef const char *read_mail_parameters(const char *line, size_t i, size_t n, uint32_t offers,
                                      MailParameters *parameters) noexcept nogil
cdef const char *read_rcpt_parameters(const char *line, size_t i, size_t n, uint32_t offers, bint smtputf8,
                                      RcptParameters *parameters) noexcept nogil
