# cython: autotestdict=False
"""Counters, gauges and histograms of the whole node in one piece of shared memory.

Job: let every process of a node count without a lock, and let any of them read what all have counted. The supervisor
makes the slab (a memfd), hands its descriptor to the workers and to the admin process, and each process writes one
region of its own. By convention region i belongs to worker i, the next one to the lookup process, the last one to the
supervisor.

A region is 1,024 numbers (see Slot) and a table of the clients that are connected to its worker. Numbers are whole u64s
written by relaxed atomic operations: a reader sees every one of them as it was at some moment, not all at one moment.
Counters survive their worker and never go back; reset_gauges() puts gauges and the client table to zero, and is called
by whoever starts a worker (or has seen one end), so that a dead worker holds no part of a limit.

Bounds: a client's connections are counted in one of 64 places of a table of 8,192. When all 64 are taken by other
clients, the connection is counted under one key that all such clients share, so that the limit errs to the strict side,
and INGRESS_CLIENT_TABLE_FULL counts it. Two workers that count the same client at once both see the other's connection:
a limit may refuse both, never admit both. While a place passes from one client to another, a reader may be wrong by one
for a moment.

Fails: OSError when the memory cannot be made or mapped; ValueError for a descriptor that is not a slab of this version;
IndexError for a region or slot that is not there.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset
from posix.unistd cimport close as c_close

import fcntl
import os

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t length)
    enum: PROT_READ
    enum: PROT_WRITE
    enum: MAP_SHARED
    void *MAP_FAILED

cdef extern from "<errno.h>" nogil:
    int errno

cdef extern from *:
    """
    /* Sequentially consistent, unlike the counters: of two workers that open at once, each sees the other's count. */
    #define angarium_publish(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
    #define angarium_observe(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
    """
    void publish_u32 "angarium_publish"(uint32_t *p, uint32_t value) noexcept nogil
    uint32_t observe_u32 "angarium_observe"(const uint32_t *p) noexcept nogil

cdef enum:
    VERSION = 1                  # of the layout above the slots: header, region, client table
    PAGE = 4096

cdef uint64_t MAGIC = 0x42414C53474E41  # "ANGSLAB"
cdef size_t REGION_OCTETS = (sizeof(Region) + PAGE - 1) // PAGE * PAGE


def bucket_bounds_us() -> tuple[int, ...]:
    """Upper bounds of every histogram's buckets in microseconds, without the last bucket, which has none."""
    cdef int i
    return tuple([BOUNDS_US[i] for i in range(BUCKETS - 1)])


def is_gauge(int slot) -> bool:
    """Whether reset_gauges() puts this slot to zero."""
    return 0 <= slot < COUNTERS_BEGIN


def is_histogram(int slot) -> bool:
    """Whether a histogram begins at this slot: a count per bucket (one more than bucket_bounds_us()), then the sum."""
    return HISTOGRAMS_BEGIN <= slot < SLOTS and (slot - HISTOGRAMS_BEGIN) % HISTOGRAM_SLOTS == 0


def client_key(const unsigned char[::1] packed not None) -> int:
    """What counts as one client: an IPv4 address (also when mapped into IPv6), an IPv6 /64, or all that have neither.

    packed is the address in network order: 4 or 16 octets, or any other number for a client without an address.
    """
    if packed.shape[0] == 0:
        return 1
    return address_key(&packed[0], packed.shape[0])


cdef inline uint32_t home_of(uint64_t key, uint64_t seed) noexcept nogil:
    # the finisher of splitmix64: every bit of the key and of the seed decides
    key ^= seed
    key = (key ^ (key >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    key = (key ^ (key >> 27)) * <uint64_t>0x94D049BB133111EB
    return <uint32_t>((key ^ (key >> 31)) & (CLIENT_SLOTS - 1))


cdef inline ClientSlot *place(Region *region, uint32_t home, int distance) noexcept nogil:
    return region.clients + ((home + distance) & (CLIENT_SLOTS - 1))


cdef uint32_t connections_of(Region *region, uint32_t home, uint64_t key) noexcept nogil:
    """Open connections of key in one region."""
    cdef int distance
    cdef uint64_t found
    for distance in range(CLIENT_WINDOW):
        found = load_u64(&place(region, home, distance).key)
        if found == key:
            return observe_u32(&place(region, home, distance).count)
        if found == 0:
            break
    return 0


cdef void forget(Region *region, uint32_t position) noexcept nogil:
    # A free place at the end of a run of used ones may be marked as never used, and so may the free ones before it:
    # no search has to go beyond it. So searches stay short however many clients have come and gone.
    cdef ClientSlot *here = place(region, position, 0)
    while here.key and here.count == 0 and place(region, position, 1).key == 0:
        store_u64(&here.key, 0)
        position -= 1
        here = place(region, position, 0)


@cython.final
@cython.no_gc
cdef class Slab:
    """The node's shared memory. Make one with create() or attach()."""

    def __cinit__(self):
        self.fd = -1
        self.memory = NULL

    def __init__(self):
        raise TypeError("use Slab.create() or Slab.attach()")

    def __dealloc__(self):
        if self.owns_fd and self.fd >= 0:
            c_close(self.fd)
        if self.memory != NULL:
            munmap(self.memory, self.octets)

    @staticmethod
    def create(Py_ssize_t regions) -> Slab:
        """A new slab, all zeros. Its fd is closed on exec: pass it on explicitly."""
        cdef Slab slab = Slab.__new__(Slab)
        cdef size_t octets
        if not 1 <= regions <= 4096:
            raise ValueError(f"{regions} regions: from 1 to 4096")
        octets = PAGE + regions * REGION_OCTETS
        slab.fd = os.memfd_create("angarium-counters", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        slab.owns_fd = True
        try:
            os.ftruncate(slab.fd, octets)
            # nobody can shrink it: no process can be made to fault on what it has mapped
            fcntl.fcntl(slab.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            map_slab(slab, slab.fd, octets)
        except OSError:
            slab.close()
            raise
        slab.header.version = VERSION
        slab.header.regions = regions
        slab.header.region_octets = REGION_OCTETS
        slab.header.seed = int.from_bytes(os.urandom(8), "little")
        slab.header.magic = MAGIC
        return slab

    @staticmethod
    def attach(int fd) -> Slab:
        """The slab behind a descriptor, which stays the caller's: it may be closed right after."""
        cdef Slab slab = Slab.__new__(Slab)
        cdef size_t octets = os.fstat(fd).st_size
        slab.owns_fd = False
        if octets < PAGE:
            raise ValueError(f"descriptor {fd} is not a slab of counters: {octets} octets")
        map_slab(slab, fd, octets)
        if slab.header.magic != MAGIC:
            raise ValueError(f"descriptor {fd} is not a slab of counters")
        if (slab.header.version != VERSION or slab.header.region_octets != REGION_OCTETS
                or octets != PAGE + slab.header.regions * REGION_OCTETS):
            raise ValueError(f"descriptor {fd} is a slab of another release (layout {slab.header.version})")
        slab.fd = fd
        return slab

    @property
    def regions(self) -> int:
        """How many regions there are."""
        return self.header.regions

    def close(self):
        """Close the descriptor if create() made it. The memory stays mapped until the last Counters over it is gone."""
        if self.owns_fd and self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    cdef Region *at(self, uint32_t i) noexcept nogil:
        return <Region *>(self.memory + PAGE + i * self.header.region_octets)

    cpdef Counters region(self, Py_ssize_t i):
        """The counters of one process."""
        cdef Counters counters
        if not 0 <= i < self.header.regions:
            raise IndexError(f"region {i} of {self.header.regions}")
        counters = Counters.__new__(Counters)
        counters.slab = self
        counters.own = self.at(<uint32_t>i)
        counters.slots = counters.own.slots
        counters.index = i
        return counters

    def values(self, Py_ssize_t i) -> list[int]:
        """All slots of one region."""
        cdef Region *region
        cdef int slot
        if not 0 <= i < self.header.regions:
            raise IndexError(f"region {i} of {self.header.regions}")
        region = self.at(<uint32_t>i)
        return [load_u64(region.slots + slot) for slot in range(SLOTS)]

    def total(self, int slot) -> int:
        """One slot, summed over all regions."""
        if not 0 <= slot < SLOTS:
            raise IndexError(f"slot {slot} of {SLOTS}")
        return sum_of(self, slot)

    def totals(self) -> list[int]:
        """All slots, each summed over all regions."""
        cdef int slot
        return [sum_of(self, slot) for slot in range(SLOTS)]


cdef int map_slab(Slab slab, int fd, size_t octets) except -1:
    cdef void *memory
    memory = mmap(NULL, octets, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if memory == MAP_FAILED:
        raise OSError(errno, os.strerror(errno))
    slab.memory = <char *>memory
    slab.octets = octets
    slab.header = <SlabHeader *>memory
    return 0


cdef uint64_t sum_of(Slab slab, int slot) noexcept nogil:
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(slab.header.regions):
        total += load_u64(slab.at(i).slots + slot)
    return total


cdef int check_slot(int slot) except -1 nogil:
    if not 0 <= slot < SLOTS:
        with gil:
            raise IndexError(f"slot {slot} of {SLOTS}")
    return 0


@cython.final
@cython.no_gc
cdef class Counters:
    """One region of the slab, and what it takes to compare it with all others. Slab.region() makes it."""

    def __init__(self):
        raise TypeError("use Slab.region()")

    cpdef int add(self, int slot, uint64_t n) except -1 nogil:
        """Add n to a counter or gauge."""
        check_slot(slot)
        slot_add(self.slots, slot, n)
        return 0

    cpdef int sub(self, int slot, uint64_t n) except -1 nogil:
        """Take n from a gauge."""
        check_slot(slot)
        slot_sub(self.slots, slot, n)
        return 0

    cpdef int set(self, int slot, uint64_t value) except -1 nogil:
        """Set a gauge."""
        check_slot(slot)
        slot_set(self.slots, slot, value)
        return 0

    cpdef int observe(self, int base, uint64_t microseconds) except -1 nogil:
        """Count one duration in the histogram that begins at base."""
        if not HISTOGRAMS_BEGIN <= base < SLOTS or (base - HISTOGRAMS_BEGIN) % HISTOGRAM_SLOTS:
            with gil:
                raise IndexError(f"no histogram begins at slot {base}")
        slot_observe(self.slots, base, microseconds)
        return 0

    def value(self, int slot) -> int:
        """One slot of this region."""
        check_slot(slot)
        return load_u64(self.slots + slot)

    cpdef uint64_t node_total(self, int slot) except? 0xFFFFFFFFFFFFFFFF nogil:
        """One slot, summed over all regions."""
        check_slot(slot)
        return sum_of(self.slab, slot)

    cpdef uint32_t client_opened(self, uint64_t key) noexcept nogil:
        """Count a connection of a client (see client_key); returns its connections over the node, this one included.

        Key 0 stands for nobody: it is not counted, and 0 is returned.
        """
        cdef uint32_t home = home_of(key, self.slab.header.seed)
        cdef int distance
        cdef uint32_t connections = 0
        cdef uint32_t i
        cdef uint64_t found
        cdef ClientSlot *here
        cdef ClientSlot *vacant = NULL
        if key == 0:
            return 0
        for distance in range(CLIENT_WINDOW):
            here = place(self.own, home, distance)
            found = here.key
            if found == key:
                vacant = here
                break
            if vacant == NULL and here.count == 0:
                vacant = here
            if found == 0:
                break
        if vacant == NULL:
            slot_add(self.slots, INGRESS_CLIENT_TABLE_FULL, 1)
            publish_u32(&self.own.uncounted, self.own.uncounted + 1)
            for i in range(self.slab.header.regions):
                connections += observe_u32(&self.slab.at(i).uncounted)
            return connections
        if vacant.key != key:
            store_u64(&vacant.key, key)
        publish_u32(&vacant.count, vacant.count + 1)
        for i in range(self.slab.header.regions):
            connections += connections_of(self.slab.at(i), home, key)
        return connections

    cpdef void client_closed(self, uint64_t key) noexcept nogil:
        """Take back what client_opened counted."""
        cdef uint32_t home = home_of(key, self.slab.header.seed)
        cdef int distance
        cdef ClientSlot *here
        if key == 0:
            return
        for distance in range(CLIENT_WINDOW):
            here = place(self.own, home, distance)
            if here.key == key and here.count:
                store_u32(&here.count, here.count - 1)
                forget(self.own, home + distance)
                return
            if here.key == 0:
                break
        if self.own.uncounted:
            store_u32(&self.own.uncounted, self.own.uncounted - 1)

    def client_connections(self, uint64_t key) -> int:
        """Connections of a client over the node."""
        cdef uint32_t home = home_of(key, self.slab.header.seed)
        cdef uint32_t connections = 0
        cdef uint32_t i
        for i in range(self.slab.header.regions):
            connections += connections_of(self.slab.at(i), home, key)
        return connections

    def reset_gauges(self):
        """Put the gauges and the client table to zero: the worker of this region starts, or has ended."""
        cdef int slot
        for slot in range(COUNTERS_BEGIN):
            store_u64(self.slots + slot, 0)
        memset(self.own.clients, 0, sizeof(self.own.clients))
        publish_u32(&self.own.uncounted, 0)
