"""A question that the compiled session asks of Python, and its one answer.

Job: let a session wait for somebody outside (is this password right, does that mailbox exist) without knowing whom. The
session gives away a Decision and reads no further; whoever was asked calls it once with the answer, within the call or
whenever it is known, and the session goes on. What answers mean is agreed between the one who asks and the one who is
asked.

Each question has a number. An answer that comes too late (its session ended, or began TLS, or asks something else
meanwhile) carries another number than the session waits for, and the session ignores it. So whoever answers need not
know what became of the session.

A Decision that is let go without an answer says None by itself: a session never waits for somebody who is gone. How
long an answer may take is the business of the one who is asked; the session's idle timeout stands still meanwhile.

Fails: what the session raises while it goes on is raised by the call.
"""

from libc.stdint cimport uint32_t


cdef class Decision:
    def __init__(self):
        raise TypeError("a session makes it")

    def __call__(self, answer):
        asker = self._asker
        if asker is not None:
            self._asker = None
            self._answered(asker, self._question, answer)

    def __del__(self):
        self(None)


cdef Decision decision_of(object asker, uint32_t question, Answered answered):
    cdef Decision decision = Decision.__new__(Decision)
    decision._asker = asker
    decision._question = question
    decision._answered = answered
    return decision
