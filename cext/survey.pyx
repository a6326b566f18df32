# cython: autotestdict=False
"""What is queued, counted now and then: by age, provider, tenant and domain; and what it waits for.

Job: gauges that a counter cannot give, for they are of the messages that are there and change with time alone. The
dispatcher goes round the table of messages (`Dispatcher.sweep`), a part of it on every tick, and tells what it meets;
when a round is over, what was found is written into the shared gauges at once, and the next one begins. So nothing of
it is on the way of a message.

A message that is met is charged with the duration of the last round, to the one cause that it waits for at that moment:
over a round that makes a second for every second that a message waits. What waits shorter than a round is met by
chance, with a probability that makes up for it.

Bounds: a round takes the time that a sweep of the table takes, 60 s for the largest, some 0.2 s for up to a thousand
messages; the gauges are as old as that at most. Fails: never, but for want of memory.
"""

from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memset

from angarium._core.counters cimport (
    BOUNDS_US,
    BUCKETS,
    PROVIDER_ROWS,
    TENANT_ROWS,
    TOP_WAITING,
    Counters,
    Slot,
    slot_add,
    slot_set,
)
from angarium._core.top_k cimport TopK


cdef class Survey:
    def __init__(self, Counters counters, double now):
        """now: monotonic."""
        self.counters = counters
        self.top = TopK()
        self._began = now

    cdef void note_age(self, double age_s) noexcept:
        """A message is queued."""
        cdef uint64_t age_us = <uint64_t>(age_s * 1e6) if age_s > 0 else 0
        cdef int bucket = 0
        while bucket < BUCKETS - 1 and age_us > BOUNDS_US[bucket]:
            bucket += 1
        self._ages[bucket] += 1
        self._ages[<int>BUCKETS] += age_us

    cdef int note_waiting(self, uint16_t provider, double age_s, const char *domain, size_t n) except -1:
        """One waits in a scheduled queue."""
        cdef uint64_t age_us = <uint64_t>(age_s * 1e6) if age_s > 0 else 0
        provider &= PROVIDER_ROWS - 1
        self._waiting[provider] += 1
        self._oldest[provider] = max(self._oldest[provider], age_us)
        return self.top.count(domain, n, 1) if n else 0

    cdef void note_ready(self, uint16_t provider, uint64_t deliveries) noexcept:
        """So many wait in a ready queue."""
        self._waiting[provider & (PROVIDER_ROWS - 1)] += deliveries

    cdef void note_tenant(self, uint16_t tenant) noexcept:
        """A message of this tenant is queued."""
        self._by_tenant[tenant & (TENANT_ROWS - 1)] += 1

    cdef void charge(self, int slot) noexcept:
        """The message that is met waits for the cause that this slot counts."""
        slot_add(self.counters.slots, slot, self.lap_us)

    cdef int close_round(self, double now) except -1:
        """Everything has been met once."""
        cdef uint64_t *slots = self.counters.slots
        cdef int i
        for i in range(BUCKETS + 1):
            slot_set(slots, <int>Slot.QUEUE_AGE + i, self._ages[i])
        for i in range(PROVIDER_ROWS):
            slot_set(slots, <int>Slot.PROVIDER_WAITING + i, self._waiting[i])
            slot_set(slots, <int>Slot.PROVIDER_OLDEST + i, self._oldest[i])
        for i in range(TENANT_ROWS):
            slot_set(slots, <int>Slot.TENANT_WAITING + i, self._by_tenant[i])
        self.top.publish(self.counters, TOP_WAITING)
        self.top.clear()
        memset(self._ages, 0, sizeof(self._ages))
        memset(self._waiting, 0, sizeof(self._waiting))
        memset(self._oldest, 0, sizeof(self._oldest))
        memset(self._by_tenant, 0, sizeof(self._by_tenant))
        self.lap_us = <uint64_t>((now - self._began) * 1e6) if now > self._began else 0
        self._began += self.lap_us * 1e-6        # what is less than a microsecond belongs to the next round
        return 0
