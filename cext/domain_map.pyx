"""Which ready queue the mail to a domain takes: a compact table, looked up once a message.

Job: remember a target for each of some hundred thousand domains in a tenth of what a dict of bytes takes, and find it
from octets that are no object. Domains are compared as they are: lower case is the caller's business. Few distinct
targets are assumed, at most 16 million; each is held by one reference. A domain may have a tag beside its target: a
number of one octet.

Fails: MemoryError when no memory can be had; ValueError for a name over 255 octets. Bound: none of its own, the caller
clears it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from angarium._core.record cimport crc32c

cdef enum:
    FIRST_CAPACITY = 256
    FIRST_ARENA = 4096
    LONGEST = 255


cdef class DomainMap:
    def __cinit__(self):
        self.clear()

    def __dealloc__(self):
        PyMem_Free(self._entries)
        PyMem_Free(self._arena)

    def __len__(self):
        return self.count

    def clear(self):
        """Forget everything."""
        self._entries = <DomainEntry *>PyMem_Realloc(self._entries, FIRST_CAPACITY * sizeof(DomainEntry))
        self._arena = <char *>PyMem_Realloc(self._arena, FIRST_ARENA)
        if self._entries == NULL or self._arena == NULL:
            raise MemoryError
        memset(self._entries, 0, FIRST_CAPACITY * sizeof(DomainEntry))
        self._capacity = FIRST_CAPACITY
        self._arena_capacity = FIRST_ARENA
        self._arena_used = 1                 # a name at 0 would look like none
        self.count = 0
        self._targets = []
        self._indices = {}

    cdef size_t _place(self, const char *domain, size_t n, uint32_t hash) noexcept:
        """Where the entry of domain is, or would be."""
        cdef size_t mask = self._capacity - 1
        cdef size_t i = hash & mask
        cdef DomainEntry *entry
        while True:
            entry = &self._entries[i]
            if entry.text == 0:
                return i
            if entry.hash == hash and <uint8_t>self._arena[entry.text] == n and (
                memcmp(self._arena + entry.text + 1, domain, n) == 0
            ):
                return i
            i = (i + 1) & mask

    cdef object find(self, const char *domain, size_t n):
        """What was set for domain, or None."""
        cdef DomainEntry *entry
        if n > LONGEST:
            return None
        entry = &self._entries[self._place(domain, n, crc32c(0, domain, n))]
        if entry.text == 0:
            return None
        self.tag = <uint8_t>(entry.target >> 24)
        return self._targets[entry.target & 0xFFFFFF]

    cdef int put(self, const char *domain, size_t n, object target, uint8_t tag=0) except -1:
        """From now on domain has this target, and this tag."""
        cdef uint32_t hash = crc32c(0, domain, n)
        cdef size_t i, capacity
        cdef char *moved
        if n > LONGEST:
            raise ValueError(f"a domain has at most {LONGEST} octets, not {n}")
        index = self._indices.get(id(target))
        if index is None:
            if len(self._targets) > 0xFFFFFF:
                raise ValueError("too many targets")
            index = self._indices[id(target)] = len(self._targets)
            self._targets.append(target)
        if (<size_t>self.count + 1) * 5 > self._capacity * 4:
            self._grow()
        i = self._place(domain, n, hash)
        if self._entries[i].text == 0:
            if self._arena_used + 1 + n > self._arena_capacity:
                capacity = self._arena_capacity + (self._arena_capacity >> 2) + 1 + n
                moved = <char *>PyMem_Realloc(self._arena, capacity)
                if moved == NULL:
                    raise MemoryError
                self._arena = moved
                self._arena_capacity = capacity
            self._arena[self._arena_used] = <char>n
            memcpy(self._arena + self._arena_used + 1, domain, n)
            self._entries[i].hash = hash
            self._entries[i].text = <uint32_t>self._arena_used
            self._arena_used += 1 + n
            self.count += 1
        self._entries[i].target = <uint32_t>index | <uint32_t>tag << 24
        return 0

    cdef size_t targets(self):
        """How many distinct targets are held, those included that no domain has any more."""
        return len(self._targets)

    cdef int _grow(self) except -1:
        cdef size_t old_capacity = self._capacity
        cdef size_t mask = 2 * old_capacity - 1
        cdef DomainEntry *old = self._entries
        cdef DomainEntry *entries = <DomainEntry *>PyMem_Realloc(NULL, 2 * old_capacity * sizeof(DomainEntry))
        cdef size_t i, k
        if entries == NULL:
            raise MemoryError
        memset(entries, 0, 2 * old_capacity * sizeof(DomainEntry))
        for i in range(old_capacity):
            if old[i].text:
                k = old[i].hash & mask
                while entries[k].text:
                    k = (k + 1) & mask
                entries[k] = old[i]
        PyMem_Free(old)
        self._entries = entries
        self._capacity *= 2
        return 0

    def get(self, bytes domain) -> object:
        """find for callers in Python."""
        return self.find(PyBytes_AS_STRING(domain), PyBytes_GET_SIZE(domain))

    def set(self, bytes domain, object target, uint8_t tag=0):
        """put for callers in Python."""
        self.put(PyBytes_AS_STRING(domain), PyBytes_GET_SIZE(domain), target, tag)
