"""Which messages an operator means: `queue list`, and whatever is done to many messages at once.

Job: walk the table by what is in memory (id, age, state, hash of the reverse-path; tenant and domain by the scheduled
queue), keep the oldest candidates, and read the envelopes of those about which memory does not know enough, and of no
others. A census counts all messages by state in the same way.

The work is cut so that the loop is never held up: `step` looks at so many slots and returns; `sort` and `examine`
touch no Python object and may run in a thread of their own. In order:

    while not selection.step(SLOTS): give way
    selection.sort()                            # in a thread, when there are many
    while selection.left:
        if selection.load(N): selection.examine()   # in a thread
        for message in selection.matching(): …

A message that comes while the table is walked may be missed, one that is over by the time may still be handed out: look
at its state. A table that grows meanwhile is walked again from its beginning.

Fails: MemoryError. An envelope that cannot be read, or is harmed, counts in `unreadable`, and its message does not
match. Bounds: 16 octets a candidate, of which `most` are kept; N envelopes are read at a time.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy, memset
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from angarium._core.disk cimport angarium_read_all
from angarium._core.journal cimport Segment
from angarium._core.octets cimport equal_fold
from angarium._core.record cimport (
    ENVELOPE_TEXTS,
    MARK_FRESH,
    MARK_IN_DOUBT,
    MESSAGE_GONE,
    MESSAGE_HELD,
    MESSAGE_SCHEDULED,
    TEXT_LOGIN,
    TEXT_REVERSE_PATH,
    TEXT_TENANT,
    AcceptedMeta,
    MailBuffer,
    Message,
    RecordHeader,
    hash_path,
    is_final,
    record_is_sound,
)
from angarium._core.schedule cimport MessageTable, Schedule, ScheduledQueue

STATES = ("ready", "scheduled", "held", "suspended", "in_doubt")

cdef enum:
    STATE_READY = 0
    STATE_SCHEDULED = 1
    STATE_HELD = 2
    STATE_SUSPENDED = 3
    STATE_IN_DOUBT = 4

cdef enum Verdict:
    VERDICT_NO = 0
    VERDICT_YES = 1
    VERDICT_MOVED = 2        # the record is not where it was: it is over, or stands elsewhere by now
    VERDICT_UNREADABLE = 3
    VERDICT_UNSURE = 4       # memory does not say

cdef enum:
    MOST_TENANTS = 0xFFFE    # that have a number of their own in a schedule
    FIRST_ROOM = 1024
    FIRST_READ = 1024        # octets: the meta part of nearly every message

cdef double FUTURE_S = 1.0   # a first attempt further away than this is scheduled, not ready


cdef double unix_now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return t.tv_sec + t.tv_nsec * 1e-9


cdef int state_index(Schedule schedule, Message message, double now) noexcept:
    """What the message waits for, as an index into STATES; -1 when it is over."""
    cdef ScheduledQueue queue
    cdef bint rests = False
    if message.state == MESSAGE_GONE:
        return -1
    if message.state == MESSAGE_HELD:
        return STATE_HELD
    if message.state == MESSAGE_SCHEDULED and message.queue_number:
        queue = <ScheduledQueue><object>PyList_GET_ITEM(schedule.queues, message.queue_number)
        if queue._suspended:
            return STATE_SUSPENDED
        rests = queue.not_before > now + FUTURE_S
        if rests and queue.reason is not None and is_suspension(queue.reason):
            return STATE_SUSPENDED
    if message.marks & MARK_IN_DOUBT:
        return STATE_IN_DOUBT
    if message.state != MESSAGE_SCHEDULED:
        return STATE_READY
    if rests or not message.marks & MARK_FRESH and (message.attempts or message.next_attempt > now + FUTURE_S):
        return STATE_SCHEDULED
    return STATE_READY


cdef bint is_suspension(object reason) noexcept:
    """Whether a next hop is left alone because its site or source is suspended."""
    return PyBytes_CheckExact(reason) and PyBytes_GET_SIZE(reason) > 10 and (
        memcmp(PyBytes_AS_STRING(reason), b"suspended:", 10) == 0
    )


def state_name(Schedule schedule, Message message) -> str:
    """The message's state as the API names it; one that is over counts as ready."""
    return STATES[max(0, state_index(schedule, message, unix_now()))]


cdef class Census:
    def __init__(self, MessageTable table):
        self._table = table
        self._capacity = table._capacity
        self._now = unix_now()

    def step(self, size_t slots) -> bool:
        """Look at so many slots more. True: the count is complete."""
        cdef size_t i, end
        cdef int state
        cdef Message message
        if self._capacity != self._table._capacity:
            self._capacity = self._table._capacity
            self._position = 0
            self._oldest_us = 0
            memset(self._counts, 0, sizeof(self._counts))
        end = min(self._position + slots, self._capacity)
        for i in range(self._position, end):
            if self._table._slots[i] == NULL:
                continue
            message = <Message>self._table._slots[i]
            state = state_index(self._table.schedule, message, self._now)
            if state < 0:
                continue
            self._counts[state] += 1
            if self._oldest_us == 0 or message.received_us < self._oldest_us:
                self._oldest_us = message.received_us
        self._position = end
        return end == self._capacity

    @property
    def by_state(self) -> dict[str, int]:
        """Messages by state, all states."""
        return {STATES[i]: self._counts[i] for i in range(5)}

    @property
    def oldest_us(self) -> int:
        """When the oldest was accepted, in microseconds of unix time; 0 when there is none."""
        return self._oldest_us


cdef int by_id(const void *a, const void *b) noexcept nogil:
    cdef uint64_t first = (<const Candidate *>a).id
    cdef uint64_t second = (<const Candidate *>b).id
    return -1 if first < second else (1 if first > second else 0)


cdef bint fits(Conditions *wanted, const char *record, size_t length, const uint8_t *states,
               uint16_t recipients) noexcept nogil:
    """Whether the envelope in a sound meta part meets the conditions."""
    cdef size_t position = sizeof(RecordHeader) + sizeof(AcceptedMeta)
    cdef const char *text
    cdef const char *at
    cdef uint16_t n, index
    cdef int i
    for i in range(ENVELOPE_TEXTS):
        if position + 2 > length:
            return False
        memcpy(&n, record + position, 2)
        text = record + position + 2
        position += 2 + <size_t>n
        if position > length:
            return False
        if i == TEXT_REVERSE_PATH and wanted.reverse_path != NULL:
            if wanted.reverse_path_length > n or (wanted.reverse_path_length < n and not wanted.any_local_part):
                return False
            text += n - wanted.reverse_path_length
            if not equal_fold(text, wanted.reverse_path, wanted.reverse_path_length):
                return False
        elif i == TEXT_TENANT and wanted.tenant != NULL:
            if n != wanted.tenant_length or memcmp(text, wanted.tenant, n) != 0:
                return False
        elif i == TEXT_LOGIN and wanted.log_in != NULL:
            if n != wanted.log_in_length or not equal_fold(text, wanted.log_in, n):
                return False
    if wanted.domain == NULL:
        return True
    for index in range(recipients):          # somebody in the domain, for whom something is left to do
        if position + 2 > length:
            return False
        memcpy(&n, record + position, 2)
        text = record + position + 2
        position += 2 + <size_t>n + 1        # the path, NOTIFY
        if position + 2 > length:
            return False
        if wanted.domain_length < n and not is_final(states[index]):
            at = text + n - wanted.domain_length - 1
            if at[0] == c'@' and equal_fold(at + 1, wanted.domain, wanted.domain_length):
                return True
        if wanted.other_domain != NULL and wanted.other_length < n and not is_final(states[index]):
            at = text + n - wanted.other_length - 1
            if at[0] == c'@' and equal_fold(at + 1, wanted.other_domain, wanted.other_length):
                return True
        memcpy(&n, record + position, 2)
        position += 2 + <size_t>n            # ORCPT
    return False


cdef int examine_look(Conditions *wanted, Look *look) noexcept nogil:
    """Read the meta part of one record and compare it."""
    cdef char first[FIRST_READ]
    cdef char *record = first
    cdef RecordHeader header
    cdef int verdict
    cdef int64_t n = angarium_read_all(look.disk, look.fd, first, min(<size_t>FIRST_READ, <size_t>look.record_octets),
                                       look.offset)
    if n < 0:
        return VERDICT_UNREADABLE
    if <size_t>n < sizeof(header):
        return VERDICT_MOVED
    memcpy(&header, first, sizeof(header))
    if header.id != look.id or header.serial != look.serial:
        return VERDICT_MOVED
    if header.meta_length > look.record_octets:
        return VERDICT_UNREADABLE
    if header.meta_length > <size_t>n:
        record = <char *>malloc(header.meta_length)
        if record == NULL:
            return VERDICT_UNREADABLE
        n = angarium_read_all(look.disk, look.fd, record, header.meta_length, look.offset)
    if n < 0 or not record_is_sound(record, n, look.serial):
        verdict = VERDICT_UNREADABLE
    else:
        verdict = VERDICT_YES if fits(wanted, record, header.meta_length, look.states, look.recipients) else VERDICT_NO
    if record != first:
        free(record)
    return verdict


cdef class Selection:
    def __init__(self, MessageTable table, *, to_domain=None, to_domain_unicode=None, reverse_path=None, tenant=None,
                 log_in=None, str state=None, uint64_t before_us=0, uint64_t after=0, size_t most=0):
        """What is None or 0 does not restrict.

        The texts are octets. to_domain is in A-labels, to_domain_unicode the same in U-labels. reverse_path `@domain`
        means any local part, `b""` the null reverse-path. before_us: accepted before that (microseconds of unix time);
        after: only ids above it; most: keep only so many candidates, the oldest. ValueError for a state that is none.
        """
        cdef bytes domain = None if to_domain is None else to_domain.lower()
        cdef bytes other = to_domain_unicode
        cdef bytes path = None if reverse_path is None else reverse_path.lower()
        cdef bytes whose = tenant
        cdef bytes who = None if log_in is None else log_in.lower()
        self._table = table
        self._kept = (domain, other, path, whose, who)
        if other is not None:
            self._conditions.other_domain = PyBytes_AS_STRING(other)
            self._conditions.other_length = PyBytes_GET_SIZE(other)
        if domain is not None:
            self._conditions.domain = PyBytes_AS_STRING(domain)
            self._conditions.domain_length = PyBytes_GET_SIZE(domain)
        if path is not None:
            self._conditions.reverse_path = PyBytes_AS_STRING(path)
            self._conditions.reverse_path_length = PyBytes_GET_SIZE(path)
            self._conditions.any_local_part = len(path) > 1 and path.startswith(b"@")
            self._from_hash = hash_path(PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path))
        if whose is not None:
            self._conditions.tenant = PyBytes_AS_STRING(whose)
            self._conditions.tenant_length = PyBytes_GET_SIZE(whose)
        if who is not None:
            self._conditions.log_in = PyBytes_AS_STRING(who)
            self._conditions.log_in_length = PyBytes_GET_SIZE(who)
        self._unsure = domain is not None or path is not None or whose is not None or who is not None
        self._state = -1 if state is None else STATES.index(state)
        self._before_us = before_us
        self._after = after
        self._most = most
        self._now = unix_now()
        self._batch = []

    def __dealloc__(self):
        self._forget()
        self._drop_looks()
        free(self._found)
        free(self._looks)

    cdef void _forget(self) noexcept:
        cdef size_t i
        for i in range(self._next, self.count):
            Py_DECREF(<Message>self._found[i].message)
        self._next = self.count = 0
        self.cut = False

    cdef void _drop_looks(self) noexcept:
        cdef size_t i
        for i in range(self._look_count):
            Py_DECREF(<Message>self._looks[i].message)
            Py_DECREF(<Segment>self._looks[i].segment)
        self._look_count = 0

    # ------------------------------------------------------------------ the walk

    cdef int _by_queue(self, Message message) noexcept:
        """Whether the scheduled queue that message belongs to says that it matches tenant and domain."""
        cdef Schedule schedule = self._table.schedule
        cdef ScheduledQueue queue
        cdef int verdict = VERDICT_YES
        if message.queue_number == 0:
            return VERDICT_UNSURE
        queue = <ScheduledQueue><object>PyList_GET_ITEM(schedule.queues, message.queue_number)
        if self._conditions.tenant != NULL:
            tenant = <object>PyList_GET_ITEM(schedule.tenants, queue.tenant)
            if queue.tenant == 0 and PyList_GET_SIZE(schedule.tenants) >= MOST_TENANTS:
                verdict = VERDICT_UNSURE     # those that have no number of their own share this one
            elif <size_t>PyBytes_GET_SIZE(tenant) != self._conditions.tenant_length or (
                memcmp(PyBytes_AS_STRING(tenant), self._conditions.tenant, self._conditions.tenant_length) != 0
            ):
                return VERDICT_NO
        if self._conditions.domain != NULL:
            if queue.domain_length == 0:     # several domains, or none
                return VERDICT_UNSURE
            if queue.domain_length != self._conditions.domain_length or (
                memcmp(queue.domain_text, self._conditions.domain, queue.domain_length) != 0
            ):
                return VERDICT_NO
        return verdict

    cdef int _maybe(self, Message message) noexcept:
        """Whether message matches, by what memory says of it."""
        cdef MailBuffer buffer
        cdef int state = state_index(self._table.schedule, message, self._now)
        cdef int verdict
        if state < 0 or message.id <= self._after:
            return VERDICT_NO
        if self._state >= 0 and state != self._state:
            return VERDICT_NO
        if self._before_us and message.received_us >= self._before_us:
            return VERDICT_NO
        if not self._unsure:
            return VERDICT_YES
        if self._conditions.reverse_path != NULL and not self._conditions.any_local_part and (
            message.from_hash != self._from_hash
        ):
            return VERDICT_NO
        verdict = self._by_queue(message)
        if verdict == VERDICT_NO or (
            verdict == VERDICT_YES and self._conditions.reverse_path == NULL and self._conditions.log_in == NULL
        ):
            return verdict
        buffer = message.buffer
        if buffer is None:
            return VERDICT_UNSURE
        return VERDICT_YES if fits(&self._conditions, buffer.octets + buffer.begin, buffer.data_begin - buffer.begin,
                                   message.states, message.recipients) else VERDICT_NO

    cdef int _keep(self, Message message) except -1:
        cdef size_t i, parent, room
        cdef Candidate *moved
        if self._most and self.count == self._most:
            self.cut = True
            if message.id >= self._found[0].id:
                return 0
            Py_DECREF(<Message>self._found[0].message)
            Py_INCREF(message)
            self._found[0].id = message.id
            self._found[0].message = <void *>message
            self._sift_down(0)
            return 0
        if self.count == self._room:
            room = self._room * 2 if self._room else FIRST_ROOM
            moved = <Candidate *>realloc(self._found, room * sizeof(Candidate))
            if moved == NULL:
                raise MemoryError
            self._found = moved
            self._room = room
        Py_INCREF(message)
        i = self.count
        self.count += 1
        while self._most and i > 0:
            parent = (i - 1) >> 1
            if self._found[parent].id >= message.id:
                break
            self._found[i] = self._found[parent]
            i = parent
        self._found[i].id = message.id
        self._found[i].message = <void *>message
        return 0

    cdef void _sift_down(self, size_t i) noexcept nogil:
        cdef Candidate moving = self._found[i]
        cdef size_t child
        while True:
            child = 2 * i + 1
            if child >= self.count:
                break
            if child + 1 < self.count and self._found[child + 1].id > self._found[child].id:
                child += 1
            if self._found[child].id <= moving.id:
                break
            self._found[i] = self._found[child]
            i = child
        self._found[i] = moving

    def step(self, size_t slots) -> bool:
        """Look at about so many slots more. True: the table has been walked."""
        cdef size_t end
        cdef size_t mask = self._table._capacity - 1
        cdef void *slot
        cdef Message message
        if self.walked:
            return True
        if self._capacity != self._table._capacity:      # every message may stand elsewhere now
            self._forget()
            self._capacity = 0
        if self._capacity == 0:
            self._capacity = self._table._capacity
            self._position = self._start = 0
            while self._table._slots[self._start] != NULL:
                self._start += 1
        # from an empty slot to an empty slot: what closes a gap moves back within its run only
        end = min(self._position + slots, self._capacity)
        while end < self._capacity and self._table._slots[(self._start + end) & mask] != NULL:
            end += 1
        while self._position < end:
            slot = self._table._slots[(self._start + self._position) & mask]
            self._position += 1
            if slot != NULL:
                message = <Message>slot
                if self._maybe(message):
                    self._keep(message)
        self.walked = end == self._capacity
        return self.walked

    def sort(self):
        """Bring the candidates into the order of their ids, the oldest first; without the GIL."""
        with nogil:
            qsort(self._found + self._next, self.count - self._next, sizeof(Candidate), by_id)

    @property
    def left(self) -> int:
        """Candidates that have not been looked at closely."""
        return self.count - self._next

    @property
    def last(self) -> int:
        """The id of the youngest candidate, after `sort`; 0 when there is none."""
        return self._found[self.count - 1].id if self.count else 0

    # ------------------------------------------------------------------ the batches

    cdef int _look_later(self, Message message) except -1:
        """Its envelope must be read from disk."""
        cdef Look *look
        cdef Segment segment = <Segment>message.segment
        if self._look_count == self._look_room:
            self._look_room = self._look_room * 2 if self._look_room else FIRST_ROOM
            look = <Look *>realloc(self._looks, self._look_room * sizeof(Look))
            if look == NULL:
                self._look_room = self._look_count
                raise MemoryError
            self._looks = look
        look = &self._looks[self._look_count]
        Py_INCREF(message)
        Py_INCREF(segment)
        look.message = <void *>message
        look.segment = <void *>segment
        look.states = message.states
        look.serial = segment.serial
        look.offset = message.offset
        look.id = message.id
        look.record_octets = message.record_octets
        look.recipients = message.recipients
        look.fd = segment.fd
        look.disk = &segment.disk.functions
        look.verdict = VERDICT_UNREADABLE
        self._look_count += 1
        return 0

    cdef int _consider(self, Message message) except -1:
        """Into the batch, or to those whose envelope must be read, or away."""
        cdef int verdict = self._maybe(message)
        if verdict == VERDICT_YES:
            self._batch.append(message)
        elif verdict == VERDICT_UNSURE and message.segment is not None:
            self._look_later(message)
        return 0

    def load(self, size_t most) -> int:
        """Begin a batch of the next candidates. Returns how many envelopes `examine` must read from disk."""
        cdef Message message
        cdef size_t end = min(self._next + most, self.count)
        self._batch = []
        self._drop_looks()
        while self._next < end:
            message = <Message>self._found[self._next].message
            Py_DECREF(message)               # `message` holds a reference of its own
            self._next += 1
            self._consider(message)
        return self._look_count

    def examine(self):
        """Read the envelopes of the batch. Blocks, without the GIL: call it in a thread."""
        cdef size_t i
        with nogil:
            for i in range(self._look_count):
                self._looks[i].verdict = examine_look(&self._conditions, &self._looks[i])

    def matching(self) -> list[Message]:
        """The messages of the batch that match, the oldest first.

        A record that was moved while it was to be read is read again here.
        """
        cdef size_t i, _tries
        cdef Look look
        cdef Message message
        cdef Segment segment
        cdef list found = self._batch
        cdef size_t sure = len(found)
        for i in range(self._look_count):
            message = <Message>self._looks[i].message
            for _tries in range(3):
                if self._looks[i].verdict != VERDICT_MOVED or message.segment is None or message.state == MESSAGE_GONE:
                    break
                look = self._looks[i]
                segment = <Segment>message.segment
                look.serial = segment.serial
                look.offset = message.offset
                look.record_octets = message.record_octets
                look.fd = segment.fd
                look.disk = &segment.disk.functions
                self._looks[i].verdict = examine_look(&self._conditions, &look)
            if self._looks[i].verdict == VERDICT_YES:
                if message.state != MESSAGE_GONE:
                    found.append(message)
            elif self._looks[i].verdict == VERDICT_UNREADABLE or (
                self._looks[i].verdict == VERDICT_MOVED and message.state != MESSAGE_GONE
            ):
                self.unreadable += 1
        self._drop_looks()
        self._batch = []
        if sure and sure != <size_t>len(found):
            found.sort(key=id_of)
        return found


def id_of(Message message) -> int:
    """The number that messages are in order of."""
    return message.id
