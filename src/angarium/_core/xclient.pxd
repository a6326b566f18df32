"""The arguments of XCLIENT; documented in cext/xclient.pyx."""

cimport cython


@cython.final
cdef class XClient:
    # each None: not said; b"": said to be unknown
    cdef readonly bytes address          # as text; b"unknown" when it is not known
    cdef readonly bytes name             # of the client's host
    cdef readonly bytes greeting         # its HELO
    cdef readonly bytes login
    cdef readonly bint plain             # it speaks SMTP, not ESMTP

    cdef const char *read(self, bytes arguments) except? NULL
    cdef const char *_take(self, bytes attribute, bytes text) except? NULL
