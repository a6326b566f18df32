"""One shard's ledger: what became of every recipient that was ever accepted.

Job: keep the totals of which the equation accepted = delivered + bounced + expired + dropped + queued is made, in step
with the journal, and bring them back from it. Every segment's header carries a checkpoint (RECORD_LEDGER), and each
record behind it says of how many recipients it is the end; so the totals are the youngest checkpoint and what follows
it. A recipient is queued until the journal says otherwise: an end that could not be written is no end yet.

What counts as what: a recipient is delivered when a next hop took responsibility (a `discard:` or `maildir:` route
counts as one), bounced when it failed for good (whether or not anybody could be told, and when an operator bounces
it), expired when its time was over, dropped when it left in any other way, by DropReason. Notifications of our own are
accepted like any message. What could not be committed (451, 452) was never accepted.

Messages of class memory are in the totals while the process lives; `in_memory` of the youngest checkpoint is what a
crash loses.

`settle` compares the totals with the recipients that recovery found. Fewer: damage (dropped, reason damaged). More: a
record that was not acknowledged is whole, or a damaged record had said that it was over; they are accepted (again).
"""

from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy, memset

REASONS = ("operator_deleted", "damaged", "lost_memory")     # DropReason in words

assert len(REASONS) == DROP_REASONS


cdef class Ledger:
    def __repr__(self):
        return f"<Ledger {self.totals()}>"

    @property
    def ended(self) -> int:
        """Recipients for whom it is over, however it ended."""
        return self.over()

    @property
    def queued(self) -> int:
        """Recipients that have to be queued if the totals are right."""
        return <int64_t>(self.accepted - self.over())

    def totals(self) -> dict[str, int]:
        """All totals by name, what was dropped under its reason."""
        cdef int i
        found = {"accepted": self.accepted, "delivered": self.delivered, "bounced": self.bounced,
                 "expired": self.expired}
        for i in range(DROP_REASONS):
            found[REASONS[i]] = self.dropped[i]
        return found

    cdef uint64_t over(self) noexcept:
        cdef uint64_t sum = self.delivered + self.bounced + self.expired
        cdef int i
        for i in range(DROP_REASONS):
            sum += self.dropped[i]
        return sum

    cdef void end(self, int how, uint64_t recipients) noexcept:
        """It is over for so many recipients; how: END_*, or END_DROPPED + DropReason."""
        if how == END_DELIVERED:
            self.delivered += recipients
        elif how == END_BOUNCED:
            self.bounced += recipients
        elif how == END_EXPIRED:
            self.expired += recipients
        elif END_DROPPED <= how < END_DROPPED + DROP_REASONS:
            self.dropped[how - END_DROPPED] += recipients

    cdef void write(self, LedgerMeta *meta) noexcept:
        """A checkpoint: what has been appended counts, whether or not it is on disk yet."""
        memset(meta, 0, sizeof(LedgerMeta))
        meta.accepted = self.accepted + self.pending
        meta.delivered = self.delivered
        meta.bounced = self.bounced
        meta.expired = self.expired
        memcpy(meta.dropped, self.dropped, sizeof(self.dropped))
        meta.in_memory = self.in_memory

    cdef void read(self, const LedgerMeta *meta) noexcept:
        """Go on from a checkpoint."""
        self.accepted = meta.accepted
        self.delivered = meta.delivered
        self.bounced = meta.bounced
        self.expired = meta.expired
        memcpy(self.dropped, meta.dropped, sizeof(self.dropped))
        self.in_memory = meta.in_memory

    cdef void replay_done(self, uint16_t flags, const char *body, size_t n) noexcept:
        """What a `done` record says (DONE_* in cext/record_format.h)."""
        cdef uint16_t pair[2]
        cdef size_t position = 0
        if flags & DONE_HOW != DONE_NEVER:
            self.end(flags & DONE_HOW, flags >> DONE_COUNT_SHIFT)
        while position + sizeof(pair) <= n:
            memcpy(pair, body + position, sizeof(pair))
            self.end(pair[0], pair[1])
            position += sizeof(pair)

    def settle(self, int64_t queued) -> tuple[int, int, int]:
        """Recovery found so many recipients queued. Returns (lost with class memory, missing, more than expected)."""
        cdef uint64_t lost = self.in_memory
        cdef int64_t expected
        self.in_memory = 0
        self.dropped[<int>DROP_LOST_MEMORY] += lost
        expected = self.queued
        if queued < expected:
            self.dropped[<int>DROP_DAMAGED] += expected - queued
        elif queued > expected:
            self.accepted += queued - expected
        return lost, max(0, expected - queued), max(0, queued - expected)
