"""A 421 to a host that has the content already, and what is to be believed of what it says behind it.

A host that says 421 closes the connection, and has taken nothing (RFC 5321 §3.8). Some go on all the same. Where the
content has left with the envelope (BDAT), or the 421 is the answer to the content, such a host may take the message: it
must not go to another host meanwhile, or be sent again as if nothing had happened. So the session writes QUIT at once,
keeps the message, and hears the host to its end.

- 421 and the end of the connection: as it should be. Nothing was taken; with LMTP, and a 421 to the content of one
  recipient, the others are in doubt, as they are without a 421.
- 221 in the place of QUIT's reply: every reply stands in its place. Who was accepted, and then taken by the reply to
  the content, is delivered; whoever was turned away with 421 has nothing from this host, and goes to the next.
- Anything else: the 421 may have been an answer, or one reply too many that a timer has put in, and then each reply
  behind it belongs to the command before the one that it seems to answer: a 250 to the last RCPT would pass for one to
  the content. So nothing behind it counts. When the host has said refusals only, to the content too, and had accepted
  nobody, nothing was taken; else whoever was not refused before the 421 is in doubt.

It fails never.
"""

from angarium._core.client_session cimport PHASE_CONTENT, PHASE_FINAL


cdef class Farewell:
    cdef void note(self, bint good) noexcept:
        """The host has said one more reply."""
        self._went_on = True
        self._good_since = self._good_since or good

    cdef bint leaves_doubt(self, bint ended, bint accepted, bint answered, bint each) noexcept:
        """Whether some may have been taken by a host whose replies are not in step.

        ended: the host has closed the connection. accepted: so it seems that some recipients were. answered: so it
        seems that the content was. each: every recipient has an answer to the content (RFC 2033).
        """
        if self.phase == PHASE_FINAL:
            return self._good_since or each
        return (self._went_on or not ended) and (accepted or self._good_since or not answered)

    cdef list keep(self, list results, bint in_step, bint mail_counts_not):
        """Those of the results, in the order in which they came, that are to be believed.

        mail_counts_not: results from before the 421 are refusals of MAIL that the host has not kept to.
        """
        cdef list kept = []
        cdef Py_ssize_t i
        for i in range(len(results)):
            if in_step:
                # who was turned away with 421 before the content was answered has nothing from this host
                if results[i][1] != 421 or results[i][4] >= PHASE_CONTENT:
                    kept.append(results[i])
            elif i < self.results_before:
                if not mail_counts_not:
                    kept.append(results[i])
            elif self.phase == PHASE_FINAL and results[i][1] == 421 and not self._good_since:
                kept.append(results[i])
        return kept
