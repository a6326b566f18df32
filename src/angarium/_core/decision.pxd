"""A question that the compiled session asks of Python, and its one answer."""

from libc.stdint cimport uint32_t

# Called with the asker, the number of its question and the answer; None: there will be none.
ctypedef int (*Answered)(object asker, uint32_t question, object answer) except -1


cdef class Decision:
    cdef object _asker                           # None: answered
    cdef uint32_t _question
    cdef Answered _answered


cdef Decision decision_of(object asker, uint32_t question, Answered answered)
