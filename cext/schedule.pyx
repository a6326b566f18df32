"""The queue in memory: all messages by id, and scheduled queues for those that wait.

A scheduled queue is what waits for one tenant, lane, outlet (a source of a pool: source_pool.pyx) and destination
domain: a binary heap of messages by time, fresh mail (not tried yet) before retries. The timer is a heap of scheduled
queues, not of messages, so that suspending a domain, or leaving a dead next hop alone, is one operation however much
mail waits for it.

A message that waits is in the table, which holds the only reference that is counted; queues point to it. A queue lives
while messages belong to it (`members`); it keeps its domain, so that no mail data is needed to know where a message
goes. A message to several domains belongs to the queue of the empty domain.

Lanes: what RFC 6710 calls urgent (4 and more), normal, and non-urgent (-4 and less), each with the class transactional
before bulk: lane 0 to 5, the lower one first.

What lives as long as a message waits is allocated by Python's allocator, in arenas of its own: between the buffers of
mail data, which come and go on the heap, it would keep the heap from ever shrinking.

Fails: memory that cannot be had raises MemoryError and changes nothing. Bounds: 65,534 tenants have queues of
their own, the others share one.
"""

from array import array

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from angarium._core.octets cimport lower
from angarium._core.record cimport (
    MARK_FRESH,
    MESSAGE_BULK,
    NOWHERE,
    TEXT_TENANT,
    AcceptedMeta,
    MailBuffer,
    Message,
    RecordHeader,
    crc32c,
)
from angarium._core.source_pool cimport SourcePool, SourcePools

cdef extern from "<stdlib.h>" nogil:
    void *calloc(size_t n, size_t size)

cdef enum:
    FIRST_CAPACITY = 1024
    LONGEST_DOMAIN = 255
    MOST_TENANTS = 0xFFFE
    MOST_PAUSES = 64             # suspensions that are over and remembered

cdef size_t MOVED_AT_A_TIME = 16  # slots; a table that begins to grow when 7/12 full has grown before it is 2/3 full
cdef double FRESH_FIRST = 1e10   # seconds by which fresh mail goes before anything tried
cdef double NEVER = 1e300


cdef inline double unix_s() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return t.tv_sec + t.tv_nsec * 1e-9


cdef uint8_t lane_of(int priority, uint8_t flags) noexcept nogil:
    """Which lane a message takes: its priority (RFC 6710) first, its class second."""
    cdef uint8_t lane = 0 if priority >= 4 else 2 if priority > -4 else 4
    return lane + 1 if flags & MESSAGE_BULK else lane


cdef bint is_ascii(const char *text, size_t n) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if <uint8_t>text[i] > 127:
            return False
    return True


cdef inline double key_of(void *message) noexcept:
    """By what messages of one queue are ordered."""
    cdef Message one = <Message>message
    return one.received_us * 1e-6 - FRESH_FIRST if one.marks & MARK_FRESH else one.next_attempt


cdef inline void place_at(ScheduledQueue queue, uint32_t i, void *message) noexcept:
    queue.items[i] = message
    (<Message>message).heap_index = i


cdef void sift_up(ScheduledQueue queue, uint32_t i) noexcept:
    cdef void *moving = queue.items[i]
    cdef double key = key_of(moving)
    cdef uint32_t parent
    while i > 0:
        parent = (i - 1) >> 1
        if key_of(queue.items[parent]) <= key:
            break
        place_at(queue, i, queue.items[parent])
        i = parent
    place_at(queue, i, moving)


cdef void sift_down(ScheduledQueue queue, uint32_t i) noexcept:
    cdef void *moving = queue.items[i]
    cdef double key = key_of(moving)
    cdef uint32_t child
    while True:
        child = 2 * i + 1
        if child >= queue.used:
            break
        if child + 1 < queue.used and key_of(queue.items[child + 1]) < key_of(queue.items[child]):
            child += 1
        if key_of(queue.items[child]) >= key:
            break
        place_at(queue, i, queue.items[child])
        i = child
    place_at(queue, i, moving)


cdef double due_at(ScheduledQueue queue) noexcept:
    """When something in queue may go (unix seconds, 0: it could have gone already); NEVER when nothing waits."""
    cdef double first
    if queue.used == 0:
        return NEVER
    first = key_of(queue.items[0])
    return max(first, queue.not_before, 0.0)


@cython.no_gc
cdef class ScheduledQueue:
    def __dealloc__(self):
        PyMem_Free(self.items)
        PyMem_Free(self.domain_text)

    def __repr__(self):
        return f"<ScheduledQueue {self.domain!r} lane={self.lane} waiting={self.used} of {self.members}>"

    @property
    def domain(self) -> bytes:
        """The destination domain in lower case; empty for mail to several domains and for mail to none."""
        return PyBytes_FromStringAndSize(self.domain_text, self.domain_length)

    @property
    def suspended(self) -> bool:
        """Whether its domain or tenant is suspended."""
        return self._suspended != 0

    @property
    def waits_for_room(self) -> bool:
        """Whether something in it may go and only waits for room in the ready queue of its next hop."""
        return self.place == PLACE_READY

    @property
    def first(self) -> float | None:
        """When the first of what waits is due (unix seconds; fresh mail: 0), or None."""
        cdef double key
        if self.used == 0:
            return None
        key = key_of(self.items[0])
        return key if key > 0 else 0.0


cdef class Schedule:
    def __cinit__(self):
        self._slots = <uint32_t *>malloc(FIRST_CAPACITY * sizeof(uint32_t))
        if self._slots == NULL:
            raise MemoryError
        memset(self._slots, 0, FIRST_CAPACITY * sizeof(uint32_t))
        self._capacity = FIRST_CAPACITY
        self.queues = [None]                 # number 0: no queue
        self._free_numbers = array("I")      # not a list: small integers would pin the pages that mail leaves behind
        self.tenants = [b""]
        self._tenant_numbers = {b"": 0}
        self.suspensions = {}
        self._suspended_at = {}
        self.pauses = []
        self.pools = SourcePools()

    def __dealloc__(self):
        free(self._slots)
        free(self._timer)

    def __len__(self):
        return self.count

    # ------------------------------------------------------------------ which queue

    cdef uint16_t _tenant_number(self, const char *name, size_t n) except? 0xFFFF:
        if n == 0:
            return 0
        key = PyBytes_FromStringAndSize(name, n)
        number = self._tenant_numbers.get(key)
        if number is None:
            if len(self.tenants) >= MOST_TENANTS:
                return 0
            number = len(self.tenants)
            self.tenants.append(key)
            self._tenant_numbers[key] = number
        return number

    cdef ScheduledQueue join(self, Message message, const char *record):
        """The queue that message belongs to; it becomes a member if it is none. `record`: its record's meta part."""
        cdef char domain[LONGEST_DOMAIN]
        cdef const char *p = record + sizeof(RecordHeader) + sizeof(AcceptedMeta)
        cdef const char *path
        cdef const char *tenant
        cdef ScheduledQueue queue
        cdef uint16_t length, tenant_length
        cdef size_t n = 0, k, at
        cdef int _i
        cdef uint16_t index
        if message.queue_number:
            return <ScheduledQueue>self.queues[message.queue_number]
        self.pools.assign(message, record)
        for _i in range(TEXT_TENANT):
            memcpy(&length, p, 2)
            p += 2 + length
        memcpy(&tenant_length, p, 2)
        tenant = p + 2
        p = tenant + tenant_length
        for index in range(message.recipients):
            memcpy(&length, p, 2)
            path = p + 2
            at = length
            while at > 0 and path[at - 1] != c'@':
                at -= 1
            if at == 0 or length - at > LONGEST_DOMAIN:
                n = 0
                break
            if index == 0:
                n = length - at
                for k in range(n):
                    domain[k] = lower(path[at + k])
            else:
                if length - at != n:
                    n = 0
                    break
                for k in range(n):
                    if lower(path[at + k]) != domain[k]:
                        n = 0
                        break
                if n == 0:
                    break
            p = path + length + 1            # NOTIFY
            memcpy(&length, p, 2)
            p += 2 + length                  # ORCPT
        if self.fold_domain is not None and not is_ascii(domain, n):
            folded = self.fold_domain(PyBytes_FromStringAndSize(domain, n))
            if PyBytes_GET_SIZE(folded) <= LONGEST_DOMAIN:
                n = PyBytes_GET_SIZE(folded)
                memcpy(domain, PyBytes_AS_STRING(folded), n)
        queue = self._find(domain, n, self._tenant_number(tenant, tenant_length),
                           lane_of(message.priority, message.flags), message.outlet)
        message.queue_number = queue.number
        queue.members += 1
        return queue

    cdef ScheduledQueue queue_of(self, Message message):
        """The queue that message belongs to, or None."""
        return <ScheduledQueue>self.queues[message.queue_number] if message.queue_number else None

    cdef ScheduledQueue _find(self, const char *domain, size_t n, uint16_t tenant, uint8_t lane, uint16_t outlet):
        cdef uint32_t hash = crc32c((<uint32_t>tenant * 8 + lane) ^ <uint32_t>outlet << 16, domain, n)
        cdef size_t mask = self._capacity - 1
        cdef size_t i = hash & mask
        cdef ScheduledQueue queue
        while self._slots[i]:
            queue = <ScheduledQueue>self.queues[self._slots[i]]
            if queue.hash == hash and queue.lane == lane and queue.tenant == tenant and queue.outlet == outlet:
                if queue.domain_length == n and memcmp(queue.domain_text, domain, n) == 0:
                    return queue
            i = (i + 1) & mask
        return self._make(domain, n, tenant, lane, outlet, hash)

    cdef ScheduledQueue _make(self, const char *domain, size_t n, uint16_t tenant, uint8_t lane, uint16_t outlet,
                              uint32_t hash):
        cdef ScheduledQueue queue = ScheduledQueue()
        cdef size_t mask, i
        if (self._taken + 1) * 3 > self._capacity * 2:
            self._grow()
        queue.domain_text = <char *>PyMem_Malloc(n if n else 1)
        if queue.domain_text == NULL:
            raise MemoryError
        memcpy(queue.domain_text, domain, n)
        queue.domain_length = n
        queue.tenant = tenant
        queue.outlet = outlet
        queue.lane = lane
        queue.hash = hash
        queue.timer_index = NOWHERE
        if self.policy_of is not None:
            queue.policy = self.policy_of(queue.domain)
        if self.provider_of is not None:
            queue.provider = self.provider_of(queue.domain)
        if self._free_numbers:
            queue.number = self._free_numbers.pop()
            self.queues[queue.number] = queue
        else:
            queue.number = len(self.queues)
            self.queues.append(queue)
        mask = self._capacity - 1
        i = hash & mask
        while self._slots[i]:
            i = (i + 1) & mask
        self._slots[i] = queue.number
        self._taken += 1
        if self.suspensions:
            queue._suspended = self._is_suspended(queue)
        return queue

    cdef int _grow(self) except -1:
        cdef size_t capacity = self._capacity * 2
        cdef uint32_t *slots = <uint32_t *>malloc(capacity * sizeof(uint32_t))
        cdef size_t i, k
        if slots == NULL:
            raise MemoryError
        memset(slots, 0, capacity * sizeof(uint32_t))
        for i in range(self._capacity):
            if self._slots[i]:
                k = (<ScheduledQueue>self.queues[self._slots[i]]).hash & (capacity - 1)
                while slots[k]:
                    k = (k + 1) & (capacity - 1)
                slots[k] = self._slots[i]
        free(self._slots)
        self._slots = slots
        self._capacity = capacity
        return 0

    cdef int _forget(self, ScheduledQueue queue) except -1:
        """Nothing belongs to queue any more."""
        cdef size_t mask = self._capacity - 1
        cdef size_t i = queue.hash & mask
        cdef size_t hole, home
        self._timer_remove(queue)
        while self._slots[i] != queue.number:
            i = (i + 1) & mask
        hole = i
        while True:                          # close the gap: move back what probing had pushed on
            i = (i + 1) & mask
            if self._slots[i] == 0:
                break
            home = (<ScheduledQueue>self.queues[self._slots[i]]).hash & mask
            if ((i - home) & mask) >= ((i - hole) & mask):
                self._slots[hole] = self._slots[i]
                hole = i
        self._slots[hole] = 0
        self._taken -= 1
        self.queues[queue.number] = None
        self._free_numbers.append(queue.number)
        return 0

    # ------------------------------------------------------------------ messages of a queue

    cdef int add(self, Message message, double at, bint fresh) except -1:
        """Have a member wait until `at` (unix seconds); fresh: for room only. One that waits already moves."""
        cdef ScheduledQueue queue = <ScheduledQueue>self.queues[message.queue_number]
        cdef uint32_t capacity
        cdef void **moved
        if message.heap_index != NOWHERE:
            self.cancel(message)
        if queue.used == queue.capacity:
            capacity = (queue.capacity + (queue.capacity >> 2) + 2) & ~<uint32_t>1    # what an allocator's step holds
            moved = <void **>PyMem_Realloc(queue.items, capacity * sizeof(void *))
            if moved == NULL:
                raise MemoryError
            queue.items = moved
            queue.capacity = capacity
        message.next_attempt = at
        message.marks = message.marks | MARK_FRESH if fresh else message.marks & ~MARK_FRESH
        place_at(queue, queue.used, <void *>message)
        queue.used += 1
        self.count += 1
        sift_up(queue, queue.used - 1)
        if queue.place == PLACE_TIMER or queue.place == PLACE_NOWHERE:
            self.rest(queue)
        return 0

    cdef int cancel(self, Message message) except -1:
        """message does not wait any more, if it did; it stays a member of its queue."""
        cdef ScheduledQueue queue
        cdef uint32_t i = message.heap_index
        cdef uint32_t capacity
        cdef void **moved
        if i == NOWHERE:
            return 0
        queue = <ScheduledQueue>self.queues[message.queue_number]
        queue.used -= 1
        self.count -= 1
        message.heap_index = NOWHERE
        message.next_attempt = 0
        message.marks &= ~MARK_FRESH
        if i != queue.used:
            place_at(queue, i, queue.items[queue.used])
            sift_up(queue, i)
            sift_down(queue, (<Message>queue.items[i]).heap_index)
        if queue.capacity > 64 and queue.used < queue.capacity >> 2:
            capacity = queue.capacity >> 1
            moved = <void **>PyMem_Realloc(queue.items, capacity * sizeof(void *))
            if moved != NULL:
                queue.items = moved
                queue.capacity = capacity
        if queue.place == PLACE_TIMER:
            self.rest(queue)
        return 0

    cdef int change_outlet(self, Message message, uint16_t outlet) except -1:
        """message, which does not wait at the moment, goes by another outlet, and belongs to another queue then."""
        cdef ScheduledQueue before = self.queue_of(message)
        cdef ScheduledQueue queue
        if message.outlet == outlet:
            return 0
        message.outlet = outlet
        if before is None:
            return 0
        self.leave(message)
        queue = self._find(before.domain_text, before.domain_length, before.tenant, before.lane, outlet)
        message.queue_number = queue.number
        queue.members += 1
        return 0

    cdef uint32_t spread(self, ScheduledQueue queue, SourcePool pool, double now, uint32_t most) except? 0xFFFFFFFF:
        """What is due in queue, at most so many, is assigned anew to the outlets of pool, and waits there as before."""
        cdef Message message
        cdef double at
        cdef bint fresh
        cdef uint32_t count = 0
        while count < most and not queue.suspended and due_at(queue) <= now:
            message = <Message>queue.items[0]
            at = message.next_attempt
            fresh = message.marks & MARK_FRESH != 0
            self.cancel(message)
            self.change_outlet(message, pool.pick())
            self.add(message, at, fresh)
            count += 1
        return count

    cdef int leave(self, Message message) except -1:
        """message belongs to no queue any more."""
        cdef ScheduledQueue queue
        if message.queue_number == 0:
            return 0
        self.cancel(message)
        queue = <ScheduledQueue>self.queues[message.queue_number]
        message.queue_number = 0
        queue.members -= 1
        if queue.members == 0 and queue.place in (PLACE_NOWHERE, PLACE_TIMER):
            self._forget(queue)
        return 0

    cdef Message take(self, ScheduledQueue queue, double now):
        """The first of what waits in queue and may go, or None."""
        cdef Message message
        if queue._suspended or due_at(queue) > now:
            return None
        message = <Message>queue.items[0]
        self.taken_due = message.next_attempt
        self.cancel(message)
        return message

    # ------------------------------------------------------------------ queues by time

    cdef ScheduledQueue due(self, double now):
        """The next queue whose time has come, or None. It is out of the timer until `rest`."""
        cdef ScheduledQueue queue
        if self._timer_count == 0:
            return None
        queue = <ScheduledQueue>self._timer[0]
        if queue.time > now:
            return None
        self.take_out(queue)
        return queue

    cdef int take_out(self, ScheduledQueue queue) except -1:
        """queue is out of the timer until `rest`, or it goes to a ready queue."""
        self._timer_remove(queue)
        queue.place = PLACE_AWAKE
        return 0

    cdef int rest(self, ScheduledQueue queue) except -1:
        """queue waits in the timer for its time; nowhere when nothing waits or it is suspended."""
        cdef double at
        if queue.members == 0:
            queue.place = PLACE_NOWHERE
            if <object>self.queues[queue.number] is queue:
                self._forget(queue)
            return 0
        at = NEVER if queue._suspended else due_at(queue)
        if at == NEVER:
            self._timer_remove(queue)
            queue.place = PLACE_NOWHERE
            return 0
        queue.place = PLACE_TIMER
        return self._timer_put(queue, at)

    cdef int block(self, ScheduledQueue queue, double until, object reason, int failures) except -1:
        """The next hop of queue is to be left alone until then (0: no longer)."""
        queue.not_before = until
        queue.reason = reason
        queue.nameless = False
        queue.failures = min(failures, 255)
        if queue.place == PLACE_TIMER or queue.place == PLACE_NOWHERE:
            self.rest(queue)
        return 0

    cdef int _timer_put(self, ScheduledQueue queue, double time) except -1:
        cdef size_t capacity
        cdef void **moved
        cdef size_t i = queue.timer_index
        cdef double before = queue.time
        if i != NOWHERE:
            if time != before:
                queue.time = time
                if time < before:
                    self._timer_up(i)
                else:
                    self._timer_down(i)
            return 0
        if self._timer_count == self._timer_capacity:
            capacity = self._timer_capacity * 2 if self._timer_capacity else 256
            moved = <void **>realloc(self._timer, capacity * sizeof(void *))
            if moved == NULL:
                raise MemoryError
            self._timer = moved
            self._timer_capacity = capacity
        queue.time = time
        self._timer_set(self._timer_count, <void *>queue)
        self._timer_count += 1
        self._timer_up(self._timer_count - 1)
        return 0

    cdef void _timer_remove(self, ScheduledQueue queue) noexcept:
        cdef size_t i = queue.timer_index
        if i == NOWHERE:
            return
        queue.timer_index = NOWHERE
        self._timer_count -= 1
        if i != self._timer_count:
            self._timer_set(i, self._timer[self._timer_count])
            self._timer_up(i)
            self._timer_down((<ScheduledQueue>self._timer[i]).timer_index)

    cdef void _timer_set(self, size_t i, void *queue) noexcept:
        self._timer[i] = queue
        (<ScheduledQueue>queue).timer_index = i

    cdef void _timer_up(self, size_t i) noexcept:
        cdef void *moving = self._timer[i]
        cdef double time = (<ScheduledQueue>moving).time
        cdef size_t parent
        while i > 0:
            parent = (i - 1) >> 1
            if (<ScheduledQueue>self._timer[parent]).time <= time:
                break
            self._timer_set(i, self._timer[parent])
            i = parent
        self._timer_set(i, moving)

    cdef void _timer_down(self, size_t i) noexcept:
        cdef void *moving = self._timer[i]
        cdef double time = (<ScheduledQueue>moving).time
        cdef size_t child
        while True:
            child = 2 * i + 1
            if child >= self._timer_count:
                break
            if child + 1 < self._timer_count and (
                (<ScheduledQueue>self._timer[child + 1]).time < (<ScheduledQueue>self._timer[child]).time
            ):
                child += 1
            if (<ScheduledQueue>self._timer[child]).time >= time:
                break
            self._timer_set(i, self._timer[child])
            i = child
        self._timer_set(i, moving)

    # ------------------------------------------------------------------ suspensions

    cdef bint _is_suspended(self, ScheduledQueue queue) except -1:
        return ("domain", queue.domain) in self.suspensions or (
            ("tenant", self.tenants[queue.tenant]) in self.suspensions
        )

    def suspend(self, str kind, bytes name, double until, str reason):
        """Let nothing go by a kind ("domain", "tenant") and name until then (unix seconds; 0: until `resume`).

        What is under way ends.
        """
        self.suspensions[kind, name] = (until, reason)
        self._suspended_at.setdefault((kind, name), unix_s())
        self._apply_suspensions()

    def resume(self, str kind, bytes name) -> bool:
        """Whether there was such a suspension; there is none any more."""
        found = self.suspensions.pop((kind, name), None)
        if found is not None:
            self._note_pause((kind, name), unix_s())
            self._apply_suspensions()
        return found is not None

    def _note_pause(self, tuple key, double until):
        """A suspension is over: remember it for those who waited for that."""
        if len(self.pauses) >= MOST_PAUSES:
            del self.pauses[0]
        self.pauses.append((*key, self._suspended_at.pop(key, until), until))

    cdef list pauses_of(self, ScheduledQueue queue, bytes site, bytes source):
        """When what is in queue was suspended: (since, until) in unix seconds.

        site, source: of its next hop; None: not known.
        """
        cdef list found = []
        cdef tuple keys = (
            ("domain", queue.domain), ("tenant", self.tenants[queue.tenant]), ("site", site), ("source", source)
        )
        for kind, name, since, until in self.pauses:
            if (kind, name) in keys:
                found.append((since, until))
        for key in keys:
            if key in self._suspended_at:
                found.append((self._suspended_at[key], NEVER))
        return found

    def unblock(self, bytes reason):
        """Next hops that are left alone for this reason are not any more."""
        for found in self.queues[:]:
            if found is not None and (<ScheduledQueue>found).reason == reason:
                self.block(<ScheduledQueue>found, 0, None, 0)

    def unblock_all(self):
        """No next hop is left alone any more for what it did before: the routes have changed. Suspensions stay."""
        cdef ScheduledQueue queue
        for found in self.queues[:]:
            if found is not None:
                queue = <ScheduledQueue>found
                if queue.not_before or queue.failures or queue.reason is not None:
                    self.block(queue, 0, None, 0)

    def renumber_policies(self):
        """Ask policy_of again for every queue: the retry schedules have changed."""
        cdef ScheduledQueue queue
        if self.policy_of is None:
            return
        for found in self.queues[:]:
            if found is not None:
                queue = <ScheduledQueue>found
                queue.policy = self.policy_of(queue.domain)

    def renumber_providers(self):
        """Ask provider_of again for every queue: the providers have changed."""
        cdef ScheduledQueue queue
        if self.provider_of is None:
            return
        for found in self.queues[:]:
            if found is not None:
                queue = <ScheduledQueue>found
                queue.provider = self.provider_of(queue.domain)

    def expire_suspensions(self, double now) -> list[tuple[str, bytes]]:
        """End the suspensions whose time is over; returns which."""
        over = [key for key, (until, _) in self.suspensions.items() if until and until <= now]
        for key in over:
            del self.suspensions[key]
            self._note_pause(key, now)
        if over:
            self._apply_suspensions()
        return over

    def _apply_suspensions(self):
        cdef ScheduledQueue queue
        cdef bint now_suspended
        for found in self.queues[:]:
            if found is None:
                continue
            queue = <ScheduledQueue>found
            now_suspended = self._is_suspended(queue)
            if now_suspended != queue._suspended:
                queue._suspended = now_suspended
                if queue.place == PLACE_TIMER or queue.place == PLACE_NOWHERE:
                    self.rest(queue)

    # ------------------------------------------------------------------ for callers in Python

    def assign(self, Message message) -> ScheduledQueue:
        """join for callers in Python; a message that belongs to none must have its mail data in memory."""
        cdef MailBuffer buffer
        if message.queue_number:
            return self.queue_of(message)
        buffer = message.loaded
        return self.join(message, buffer.octets + buffer.begin)

    def queue(self, Message message) -> ScheduledQueue | None:
        """queue_of for callers in Python."""
        return self.queue_of(message)

    def tenant(self, ScheduledQueue queue) -> bytes:
        """The tenant whose mail queue holds."""
        return <bytes>self.tenants[queue.tenant]

    def wait(self, Message message, double at, bint fresh=False):
        """add for callers in Python."""
        if message.queue_number == 0:
            raise ValueError(f"message {message.queue_id} belongs to no queue")
        self.add(message, at, fresh)

    def remove(self, Message message):
        """cancel for callers in Python."""
        self.cancel(message)

    def pop_due(self, double now) -> ScheduledQueue | None:
        """due for callers in Python; `settle` puts the queue back."""
        return self.due(now)

    def take_from(self, ScheduledQueue queue, double now) -> Message | None:
        """take for callers in Python."""
        return self.take(queue, now)

    def settle(self, ScheduledQueue queue):
        """rest for callers in Python."""
        self.rest(queue)

    def leave_alone(self, ScheduledQueue queue, double until, bytes reason, int failures=0):
        """block for callers in Python."""
        self.block(queue, until, reason, failures)

    @property
    def first(self) -> float | None:
        """When the first queue is due (unix seconds), or None."""
        return (<ScheduledQueue>self._timer[0]).time if self._timer_count else None


cdef inline size_t slot_of(uint64_t id, size_t mask) noexcept:
    """Where the search for an id begins in a table of mask + 1 slots."""
    return <size_t>((id * <uint64_t>0x9E3779B97F4A7C15) >> 24) & mask


cdef void take_out(void **slots, size_t mask, void *message) noexcept:
    """Empty the slot of message, if it has one, and move back what probing had pushed on."""
    cdef size_t i = slot_of((<Message>message).id, mask)
    cdef size_t hole, home
    while slots[i] != message:
        if slots[i] == NULL:
            return
        i = (i + 1) & mask
    hole = i
    while True:
        i = (i + 1) & mask
        if slots[i] == NULL:
            break
        home = slot_of((<Message>slots[i]).id, mask)
        if ((i - home) & mask) >= ((i - hole) & mask):
            slots[hole] = slots[i]
            hole = i
    slots[hole] = NULL


cdef class MessageTable:
    def __cinit__(self):
        self._capacity = FIRST_CAPACITY
        self._slots = <void **>malloc(FIRST_CAPACITY * sizeof(void *))
        if self._slots == NULL:
            raise MemoryError
        memset(self._slots, 0, FIRST_CAPACITY * sizeof(void *))
        self.schedule = Schedule()

    def __dealloc__(self):
        cdef size_t i
        if self._slots != NULL:
            for i in range(self._capacity):
                if self._slots[i] != NULL:
                    Py_DECREF(<object>self._slots[i])
            free(self._slots)
            free(self._next_slots)

    def __len__(self):
        return self.count

    def __iter__(self):
        """All messages; the table must not change meanwhile (take `batch` for long walks)."""
        cdef size_t position = 0
        while position < self._capacity:
            messages, position = self.batch(position, 256)
            yield from messages

    def batch(self, size_t position, size_t slots) -> tuple[list[Message], int]:
        """The messages in `slots` slots from `position` on, and where to go on; for walks that give way to the loop."""
        cdef size_t i, end = min(position + slots, self._capacity)
        found = []
        for i in range(position, end):
            if self._slots[i] != NULL:
                found.append(<Message>self._slots[i])
        return found, end

    @property
    def capacity(self) -> int:
        """How many slots there are."""
        return self._capacity

    # A larger table is filled beside this one, some slots with each message that comes, and takes its place when it
    # holds everything: moving a million messages at once would hold up the loop for a tenth of a second.

    cdef int _begin_growing(self) except -1:
        self._next_slots = <void **>calloc(self._capacity * 2, sizeof(void *))
        if self._next_slots == NULL:
            raise MemoryError
        self._moved = 0
        return 0

    cdef void _put_next(self, void *message) noexcept:
        """Have message in the larger table, if it is not yet."""
        cdef size_t mask = self._capacity * 2 - 1
        cdef size_t i = slot_of((<Message>message).id, mask)
        while self._next_slots[i] != NULL:
            if self._next_slots[i] == message:
                return
            i = (i + 1) & mask
        self._next_slots[i] = message

    cdef void _move_on(self, size_t slots) noexcept:
        """Copy the next slots into the larger table; when none is left, it takes over."""
        cdef size_t end = min(self._moved + slots, self._capacity)
        cdef size_t i
        for i in range(self._moved, end):
            if self._slots[i] != NULL:
                self._put_next(self._slots[i])
        self._moved = end
        if end == self._capacity:
            free(self._slots)
            self._slots = self._next_slots
            self._next_slots = NULL
            self._capacity *= 2

    cdef int add(self, Message message) except -1:
        cdef size_t i
        if self._next_slots == NULL and (self.count + 1) * 12 > self._capacity * 7:
            self._begin_growing()
        i = slot_of(message.id, self._capacity - 1)
        while self._slots[i] != NULL:
            if (<Message>self._slots[i]).id == message.id:
                raise ValueError(f"message {message.queue_id} is in the table already")
            i = (i + 1) & (self._capacity - 1)
        Py_INCREF(message)
        self._slots[i] = <void *>message
        self.count += 1
        self.recipients += message.recipients
        self.octets += message.record_octets
        if self._next_slots != NULL:
            self._put_next(<void *>message)
            self._move_on(MOVED_AT_A_TIME if self.count * 3 <= self._capacity * 2 else self._capacity)
        return 0

    cdef Message find(self, uint64_t id):
        cdef size_t i = slot_of(id, self._capacity - 1)
        while self._slots[i] != NULL:
            if (<Message>self._slots[i]).id == id:
                return <Message>self._slots[i]
            i = (i + 1) & (self._capacity - 1)
        return None

    cdef bint remove(self, Message message) except -1:
        cdef size_t mask = self._capacity - 1
        cdef size_t i = slot_of(message.id, mask)
        while self._slots[i] != NULL:
            if <Message>self._slots[i] is message:
                break
            i = (i + 1) & mask
        else:
            return False
        self.schedule.leave(message)
        self.count -= 1
        self.recipients -= message.recipients
        self.octets -= message.record_octets
        self._close_gap(i)
        if self._next_slots != NULL:
            take_out(self._next_slots, self._capacity * 2 - 1, <void *>message)
        Py_DECREF(message)
        return True

    cdef void _close_gap(self, size_t hole) noexcept:
        """Empty a slot, and move back what probing had pushed on."""
        cdef size_t mask = self._capacity - 1
        cdef size_t i = hole
        cdef size_t home
        while True:
            i = (i + 1) & mask
            if self._slots[i] == NULL:
                break
            home = slot_of((<Message>self._slots[i]).id, mask)
            if ((i - home) & mask) >= ((i - hole) & mask):
                self._slots[hole] = self._slots[i]
                if self._next_slots != NULL and hole < self._moved <= i:
                    self._put_next(self._slots[i])   # it goes where the larger table has looked already
                hole = i
        self._slots[hole] = NULL

    def resize(self, int64_t octets):
        """Records of messages that are in have become longer by so much."""
        self.octets += octets

    def insert(self, Message message):
        """add for callers in Python; ValueError when the id is there already."""
        self.add(message)

    def get(self, uint64_t id) -> Message | None:
        """The message of that id."""
        return self.find(id)

    def discard(self, Message message) -> bool:
        """Whether the message was there; it is not any more."""
        return self.remove(message)
