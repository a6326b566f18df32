"""How much memory the mail data of the whole node takes, and what that means for whoever hands in more.

Job: N workers share one budget. Each publishes in the shared slab what it holds (`refresh`, on every tick of its loop)
and reads the sum of what all hold; between two ticks it adds its own changes to what the others held at the last one.
So a look at the budget is an addition and a comparison, and costs no system call and no lock.

Three marks, in octets of the node: the soft one (mail data of what waits is dropped from memory, by the dispatcher),
the hard one (intake is slowed: `pause_s`), and the budget itself (no new mail is taken: `refuses`). A state is entered
at once when its mark is passed, and left by `refresh` when no more than LEAVE_AT of that mark is held, so that nothing
flaps. All processes enter it when one has: the state, too, is the node's.

Output: gauges for the state of each process (one of four is 1), the marks (written by the first process of the slab,
for all hold the same), and counters of how often each mark was passed.

Bounds: what other processes take in between two ticks is not seen: the budget can be passed by what they receive in
that time. Mail data is counted by the memory behind it, not by its length. Mail of the node's own (notifications) is
counted and never refused: it does not come in by a session.

Fails: ValueError for marks that are not in order.
"""

from libc.stdint cimport uint64_t

from angarium._core.counters cimport Counters, Slot, slot_add, slot_set
from angarium._core.record cimport buffered_octets

cdef double LEAVE_AT = 0.9           # of the mark by which a state was entered
cdef double SHORTEST_PAUSE_S = 0.1   # at the hard mark
cdef double LONGEST_PAUSE_S = 2.0    # where the budget is used up


cdef class MemoryBudget:
    def __init__(self, Counters counters, uint64_t octets=<uint64_t>1 << 62, double soft=0.5, double hard=0.85):
        self.counters = counters
        self.resize(octets, soft, hard)

    @property
    def octets(self) -> int:
        """The whole budget."""
        return self._marks[<int>MEMORY_REFUSING]

    @property
    def soft_octets(self) -> int:
        """The soft mark."""
        return self._marks[<int>MEMORY_SOFT]

    @property
    def hard_octets(self) -> int:
        """The hard mark."""
        return self._marks[<int>MEMORY_HARD]

    @property
    def soft_left_octets(self) -> int:
        """What this process may hold before the node is over the soft mark."""
        return self._left_of(self._marks[<int>MEMORY_SOFT])

    @property
    def load_left_octets(self) -> int:
        """What this process may hold before no more mail data is read back from disk: half way to the hard mark, so
        that what is to go out does not slow what is to come in."""
        return self._left_of((self._marks[<int>MEMORY_SOFT] + self._marks[<int>MEMORY_HARD]) // 2)

    cdef uint64_t _left_of(self, uint64_t mark) noexcept:
        return mark - self.elsewhere_octets if mark > self.elsewhere_octets else 0

    def resize(self, uint64_t octets, soft=None, hard=None):
        """Another budget from now on; marks that are not given are the same shares of it as before."""
        cdef double share = self.soft if soft is None else soft
        cdef double high = self.hard if hard is None else hard
        if not 0 < share < high <= 1:
            raise ValueError(f"soft mark {share}, hard mark {high}: they stand in this order between 0 and 1")
        self.soft = share
        self.hard = high
        self._marks[<int>MEMORY_BELOW] = 0
        self._marks[<int>MEMORY_SOFT] = <uint64_t>(octets * self.soft)
        self._marks[<int>MEMORY_HARD] = <uint64_t>(octets * self.hard)
        self._marks[<int>MEMORY_REFUSING] = octets
        self.refresh()

    def refresh(self) -> int:
        """Tell the others what is held here, ask what they hold, and settle the state, which is returned.

        Call it on every tick of the loop.
        """
        cdef uint64_t *slots = self.counters.slots
        cdef uint64_t own = buffered_octets()
        cdef uint64_t total
        cdef int state
        slot_set(slots, Slot.QUEUE_MEMORY_OCTETS, own)
        total = self.counters.node_total(Slot.QUEUE_MEMORY_OCTETS)
        self.elsewhere_octets = total - own if total > own else 0
        total = self.elsewhere_octets + own
        while self.state > MEMORY_BELOW and total <= self._leave_at(self.state):
            self.state -= 1
        self._publish()
        self._rise(total)
        # a mark that another process saw passed was passed for all, until all have left it
        for state in range(<int>MEMORY_REFUSING, self.state, -1):
            if total > self._leave_at(state) and self.counters.node_total(<int>Slot.QUEUE_MEMORY_STATE_BELOW + state):
                self._enter(state)
                break
        self._publish()
        if self.counters.index == 0:
            slot_set(slots, Slot.QUEUE_MEMORY_MARK_SOFT, self._marks[<int>MEMORY_SOFT])
            slot_set(slots, Slot.QUEUE_MEMORY_MARK_HARD, self._marks[<int>MEMORY_HARD])
            slot_set(slots, Slot.QUEUE_MEMORY_MARK_BUDGET, self._marks[<int>MEMORY_REFUSING])
        return self.state

    cdef uint64_t total(self) noexcept:
        """Octets that the node holds, as far as is known here."""
        return self.elsewhere_octets + buffered_octets()

    cdef uint64_t _leave_at(self, int state) noexcept:
        """Octets at which a state is left."""
        return <uint64_t>(self._marks[state] * LEAVE_AT)

    cdef int _publish(self) noexcept:
        cdef int state
        for state in range(4):
            slot_set(self.counters.slots, <int>Slot.QUEUE_MEMORY_STATE_BELOW + state, self.state == state)
        return 0

    cdef int _enter(self, int state) noexcept:
        """Enter every state up to this one."""
        while self.state < state:
            self.state += 1
            slot_add(self.counters.slots, <int>Slot.QUEUE_MEMORY_ENTERED_SOFT + self.state - 1, 1)
        return 0

    cdef int _rise(self, uint64_t total) noexcept:
        """Enter every state whose mark is passed."""
        while self.state < MEMORY_REFUSING and total > self._marks[self.state + 1]:
            self._enter(self.state + 1)
        return 0

    cdef bint full(self) noexcept:
        """Whether more is held than the budget: what is coming in has no room, however much of it is here."""
        cdef uint64_t total = self.total()
        if total > self._marks[<int>MEMORY_REFUSING]:
            self._rise(total)
            return True
        return False

    cdef bint refuses(self) noexcept:
        """Whether no new mail is taken: until there is some room again, and not only the last octet of it."""
        return self.full() or self.state == MEMORY_REFUSING

    cdef double pause_s(self) noexcept:
        """How long a client that hands in mail has to wait now, in seconds; 0: not at all."""
        cdef uint64_t total = self.total()
        cdef uint64_t hard = self._marks[<int>MEMORY_HARD]
        cdef uint64_t most = self._marks[<int>MEMORY_REFUSING]
        cdef double share
        if total > hard:
            self._rise(total)
        if self.state < MEMORY_HARD:
            return 0
        if total <= hard or most == hard:
            return SHORTEST_PAUSE_S
        share = min(1.0, <double>(total - hard) / (most - hard))
        return SHORTEST_PAUSE_S + (LONGEST_PAUSE_S - SHORTEST_PAUSE_S) * share
