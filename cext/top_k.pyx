# cython: autotestdict=False
"""The largest of very many names, in memory for a few: which destination domains have the most mail waiting.

Job: count weights by name and say which names have the most, without a counter for each name that there is. This is the
space-saving sketch (Metwally, Agrawal, El Abbadi 2005): `capacity` counters; a name that has none takes the smallest
counter over, with its count, and that count is noted as the error that the new one may have. So with W counted in all

    every count is too large by at most its error, and never too small,
    no error is larger than W / capacity,
    every name with more than W / capacity is there.

Input: octets of at most 255; longer names are cut. Output: names with counts and errors, and the first of them in a
region of the shared counters, for the admin process to put together with those of other workers (`merged`).

Bounds: capacity, at most 4,096; a count costs some comparisons in a heap. Fails: MemoryError when no memory can be had.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from angarium._core.counters cimport (
    TOP_LISTS,
    TOPS,
    Counters,
    TopEntry,
    TopList,
    begin_writing,
    end_writing,
)
from angarium._core.record cimport crc32c

cdef enum:
    LONGEST = 255
    MOST_COUNTERS = 4096


cdef class TopK:
    def __cinit__(self, uint32_t capacity=256):
        cdef uint32_t places = 64
        if not 1 <= capacity <= MOST_COUNTERS:
            raise ValueError(f"{capacity} counters: from 1 to {MOST_COUNTERS}")
        while places < 2 * capacity:
            places *= 2
        self.capacity = capacity
        self._mask = places - 1
        self._counters = <TopCounter *>malloc(capacity * sizeof(TopCounter))
        self._heap = <uint16_t *>malloc(capacity * sizeof(uint16_t))
        self._table = <uint16_t *>malloc(places * sizeof(uint16_t))
        if self._counters == NULL or self._heap == NULL or self._table == NULL:
            raise MemoryError
        self.clear()

    def __dealloc__(self):
        free(self._counters)
        free(self._heap)
        free(self._table)

    def __len__(self):
        return self.used

    def clear(self):
        """Forget everything."""
        self.used = 0
        memset(self._table, 0, (self._mask + 1) * sizeof(uint16_t))

    def halve(self):
        """Half of what was counted is forgotten, so that what was long ago weighs less and less."""
        cdef uint32_t i
        for i in range(self.used):           # the order of the heap stays
            self._counters[i].count >>= 1
            self._counters[i].error >>= 1

    cdef uint32_t _place(self, const char *name, size_t n, uint32_t hash) noexcept nogil:
        """Where the index of name's counter is, or would be."""
        cdef uint32_t i = hash & self._mask
        cdef TopCounter *counter
        while self._table[i]:
            counter = &self._counters[self._table[i] - 1]
            if counter.hash == hash and counter.length == n and memcmp(counter.name, name, n) == 0:
                break
            i = (i + 1) & self._mask
        return i

    cdef void _unindex(self, uint16_t counter) noexcept nogil:
        cdef uint32_t i = self._counters[counter].hash & self._mask
        cdef uint32_t hole, home
        while self._table[i] != counter + 1:
            i = (i + 1) & self._mask
        hole = i
        while True:                          # close the gap: move back what probing had pushed on
            i = (i + 1) & self._mask
            if self._table[i] == 0:
                break
            home = self._counters[self._table[i] - 1].hash & self._mask
            if ((i - home) & self._mask) >= ((i - hole) & self._mask):
                self._table[hole] = self._table[i]
                hole = i
        self._table[hole] = 0

    cdef void _sift_down(self, uint32_t i) noexcept nogil:
        cdef uint16_t moving = self._heap[i]
        cdef uint64_t count = self._counters[moving].count
        cdef uint32_t child
        while True:
            child = 2 * i + 1
            if child >= self.used:
                break
            if child + 1 < self.used and (
                self._counters[self._heap[child + 1]].count < self._counters[self._heap[child]].count
            ):
                child += 1
            if self._counters[self._heap[child]].count >= count:
                break
            self._heap[i] = self._heap[child]
            self._counters[self._heap[i]].heap_index = i
            i = child
        self._heap[i] = moving
        self._counters[moving].heap_index = i

    cdef void _sift_up(self, uint32_t i) noexcept nogil:
        cdef uint16_t moving = self._heap[i]
        cdef uint64_t count = self._counters[moving].count
        cdef uint32_t parent
        while i > 0:
            parent = (i - 1) >> 1
            if self._counters[self._heap[parent]].count <= count:
                break
            self._heap[i] = self._heap[parent]
            self._counters[self._heap[i]].heap_index = i
            i = parent
        self._heap[i] = moving
        self._counters[moving].heap_index = i

    cdef int count(self, const char *name, size_t n, uint64_t weight) except -1:
        """Count weight for name."""
        cdef uint32_t hash, place
        cdef uint16_t counter
        cdef TopCounter *here
        if weight == 0:
            return 0
        n = min(n, <size_t>LONGEST)
        hash = crc32c(0, name, n)
        place = self._place(name, n, hash)
        if self._table[place]:
            counter = self._table[place] - 1
            self._counters[counter].count += weight
            self._sift_down(self._counters[counter].heap_index)
            return 0
        if self.used < self.capacity:
            counter = self.used
            here = &self._counters[counter]
            here.count = weight
            here.error = 0
            self._heap[counter] = counter
            here.heap_index = counter
            self.used += 1
        else:
            counter = self._heap[0]
            self._unindex(counter)
            place = self._place(name, n, hash)
            here = &self._counters[counter]
            here.error = here.count
            here.count += weight
        memcpy(here.name, name, n)
        here.length = <uint8_t>n
        here.hash = hash
        self._table[place] = counter + 1
        if here.error:
            self._sift_down(here.heap_index)
        else:
            self._sift_up(here.heap_index)
            self._sift_down(here.heap_index)
        return 0

    def add(self, bytes name, uint64_t weight=1):
        """count for callers in Python."""
        self.count(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), weight)

    cdef list _sorted(self):
        """Indices of the counters, the largest count first, names in order where counts are equal."""
        cdef uint32_t i
        cdef TopCounter *counter
        cdef list found = []
        for i in range(self.used):
            counter = &self._counters[i]
            if counter.count:
                found.append((-<object>counter.count, PyBytes_FromStringAndSize(counter.name, counter.length), i))
        found.sort()
        return found

    def items(self) -> list[tuple[bytes, int, int]]:
        """Name, count, and by how much the count may be too large; the largest first."""
        return [(name, -count, self._counters[<uint32_t>i].error) for count, name, i in self._sorted()]

    def publish(self, Counters counters, int which):
        """Put the first of them into a list of the region."""
        cdef TopList *shared
        cdef TopEntry *entry
        cdef TopCounter *counter
        cdef list found = self._sorted()
        cdef uint32_t k, n = min(<uint32_t>len(found), <uint32_t>TOPS)
        if not 0 <= which < TOP_LISTS:
            raise IndexError(f"list {which} of {TOP_LISTS}")
        shared = &counters.own.tops[which]
        begin_writing(&shared.sequence)
        shared.count = n
        for k in range(n):
            counter = &self._counters[<uint32_t>found[k][2]]
            entry = &shared.entries[k]
            entry.count = counter.count
            entry.error = counter.error
            entry.length = counter.length
            memcpy(entry.name, counter.name, counter.length)
        end_writing(&shared.sequence)


def merged(lists, size_t most) -> list[tuple[bytes, int, int]]:
    """The largest of several lists taken together: name, count, error; at most so many, the largest first.

    Each list is as `items` gives it, and holds what one worker has counted: counts add up.
    """
    cdef dict sums = {}
    for found in lists:
        for name, count, error in found:
            before = sums.get(name, (0, 0))
            sums[name] = (before[0] + count, before[1] + error)
    ranked = sorted(((-count, name, error) for name, (count, error) in sums.items()))
    return [(name, -count, error) for count, name, error in ranked[:most]]
