"""A 421 to a host that has the content already, and what it says behind it."""


cdef class Farewell:
    cdef int phase                           # of the transaction, to which the 421 was said
    cdef tuple reply                         # (421, enhanced, text, phase)
    cdef Py_ssize_t results_before           # results of recipients that were there before it
    cdef bint _went_on                       # the host has said more
    cdef bint _good_since                    # a 2yz was among that

    cdef void note(self, bint good) noexcept
    cdef bint leaves_doubt(self, bint ended, bint accepted, bint answered, bint each) noexcept
    cdef list keep(self, list results, bint in_step, bint mail_counts_not)
