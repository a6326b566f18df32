"""The queue in memory: all messages by id, and a timer for those that wait for their next attempt.

Both hold their messages by counted references in plain C memory. Memory that cannot be had raises MemoryError and
changes nothing.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from angarium._core.record cimport Message

cdef enum:
    FIRST_CAPACITY = 1024


cdef class MessageTable:
    def __cinit__(self):
        self._capacity = FIRST_CAPACITY
        self._slots = <void **>malloc(FIRST_CAPACITY * sizeof(void *))
        if self._slots == NULL:
            raise MemoryError
        memset(self._slots, 0, FIRST_CAPACITY * sizeof(void *))

    def __dealloc__(self):
        cdef size_t i
        if self._slots != NULL:
            for i in range(self._capacity):
                if self._slots[i] != NULL:
                    Py_DECREF(<object>self._slots[i])
            free(self._slots)

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

    cdef size_t _home(self, uint64_t id) noexcept:
        return <size_t>((id * <uint64_t>0x9E3779B97F4A7C15) >> 24) & (self._capacity - 1)

    cdef int _grow(self) except -1:
        cdef size_t old_capacity = self._capacity
        cdef void **old = self._slots
        cdef void **slots = <void **>malloc(old_capacity * 2 * sizeof(void *))
        cdef size_t i, k
        if slots == NULL:
            raise MemoryError
        memset(slots, 0, old_capacity * 2 * sizeof(void *))
        self._capacity = old_capacity * 2
        self._slots = slots
        for i in range(old_capacity):
            if old[i] != NULL:
                k = self._home((<Message>old[i]).id)
                while slots[k] != NULL:
                    k = (k + 1) & (self._capacity - 1)
                slots[k] = old[i]
        free(old)
        return 0

    cdef int add(self, Message message) except -1:
        cdef size_t i
        if (self.count + 1) * 3 > self._capacity * 2:
            self._grow()
        i = self._home(message.id)
        while self._slots[i] != NULL:
            if (<Message>self._slots[i]).id == message.id:
                raise ValueError(f"message {message.queue_id} is in the table already")
            i = (i + 1) & (self._capacity - 1)
        Py_INCREF(message)
        self._slots[i] = <void *>message
        self.count += 1
        self.recipients += message.recipients
        self.octets += message.record_octets
        return 0

    cdef Message find(self, uint64_t id):
        cdef size_t i = self._home(id)
        while self._slots[i] != NULL:
            if (<Message>self._slots[i]).id == id:
                return <Message>self._slots[i]
            i = (i + 1) & (self._capacity - 1)
        return None

    cdef bint remove(self, Message message) except -1:
        cdef size_t i = self._home(message.id)
        cdef size_t hole, home, mask = self._capacity - 1
        while self._slots[i] != NULL:
            if <Message>self._slots[i] is message:
                break
            i = (i + 1) & mask
        else:
            return False
        self.count -= 1
        self.recipients -= message.recipients
        self.octets -= message.record_octets
        hole = i
        while True:                          # close the gap: move back what probing had pushed on
            i = (i + 1) & mask
            if self._slots[i] == NULL:
                break
            home = self._home((<Message>self._slots[i]).id)
            if ((i - home) & mask) >= ((i - hole) & mask):
                self._slots[hole] = self._slots[i]
                hole = i
        self._slots[hole] = NULL
        Py_DECREF(message)
        return True

    def insert(self, Message message):
        """add for callers in Python; ValueError when the id is there already."""
        self.add(message)

    def get(self, uint64_t id) -> Message | None:
        """The message of that id."""
        return self.find(id)

    def discard(self, Message message) -> bool:
        """Whether the message was there; it is not any more."""
        return self.remove(message)


cdef class Timer:
    def __dealloc__(self):
        cdef size_t i
        for i in range(self.count):
            (<Message>self._heap[i]).heap_index = -1
            Py_DECREF(<object>self._heap[i])
        free(self._heap)

    def __len__(self):
        return self.count

    cdef void _put(self, size_t i, void *message) noexcept:
        self._heap[i] = message
        (<Message>message).heap_index = i

    cdef void _up(self, size_t i) noexcept:
        cdef void *moving = self._heap[i]
        cdef double at = (<Message>moving).next_attempt
        cdef size_t parent
        while i > 0:
            parent = (i - 1) >> 1
            if (<Message>self._heap[parent]).next_attempt <= at:
                break
            self._put(i, self._heap[parent])
            i = parent
        self._put(i, moving)

    cdef void _down(self, size_t i) noexcept:
        cdef void *moving = self._heap[i]
        cdef double at = (<Message>moving).next_attempt
        cdef size_t child
        while True:
            child = 2 * i + 1
            if child >= self.count:
                break
            if child + 1 < self.count and (
                (<Message>self._heap[child + 1]).next_attempt < (<Message>self._heap[child]).next_attempt
            ):
                child += 1
            if (<Message>self._heap[child]).next_attempt >= at:
                break
            self._put(i, self._heap[child])
            i = child
        self._put(i, moving)

    cdef int schedule(self, Message message, double at) except -1:
        """Have message come out of `due` from `at` (unix seconds) on; a message that is in already moves."""
        cdef size_t capacity
        cdef void **moved
        if message.heap_index >= 0:
            self.cancel(message)
        if self.count == self._capacity:
            capacity = self._capacity * 2 if self._capacity else 256
            moved = <void **>realloc(self._heap, capacity * sizeof(void *))
            if moved == NULL:
                raise MemoryError
            self._heap = moved
            self._capacity = capacity
        Py_INCREF(message)
        message.next_attempt = at
        self._put(self.count, <void *>message)
        self.count += 1
        self._up(self.count - 1)
        return 0

    cdef int cancel(self, Message message) except -1:
        """Take message out, if it is in."""
        cdef Py_ssize_t i = message.heap_index
        if i < 0:
            return 0
        self.count -= 1
        message.heap_index = -1
        message.next_attempt = 0
        if <size_t>i != self.count:
            self._put(i, self._heap[self.count])
            self._up(i)
            self._down((<Message>self._heap[i]).heap_index)
        Py_DECREF(message)
        return 0

    cdef Message due(self, double now):
        cdef Message message
        if self.count == 0:
            return None
        message = <Message>self._heap[0]
        if message.next_attempt > now:
            return None
        self.cancel(message)
        return message

    def add(self, Message message, double at):
        """schedule for callers in Python."""
        self.schedule(message, at)

    def remove(self, Message message):
        """cancel for callers in Python."""
        self.cancel(message)

    def pop_due(self, double now) -> Message | None:
        """due for callers in Python."""
        return self.due(now)

    @property
    def first(self) -> float | None:
        """When the first message is due, or None."""
        return (<Message>self._heap[0]).next_attempt if self.count else None
