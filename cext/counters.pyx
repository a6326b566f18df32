# cython: autotestdict=False
"""Counters, gauges and histograms of the whole node in one piece of shared memory.

Job: let every process of a node count without a lock, and let any of them read what all have counted. The supervisor
makes the slab (a memfd), hands its descriptor to the workers and to the admin process, and each process writes one
region of its own. By convention region i belongs to worker i, the next one to the lookup process, the last one to the
supervisor.

A region is 8,192 numbers (see Slot), room for an exemplar in each bucket of some histograms, two lists of the largest
(see top_k.pyx), and a table of the clients that are connected to its worker. Numbers are whole u64s written by relaxed
atomic operations: a reader sees every one of them as it was at some moment, not all at one moment. What takes several
numbers stands behind a sequence lock: the one writer never waits, and a reader that meets a change looks again.
Counters survive their worker and never go back; reset_gauges() puts gauges and the client table to zero, and is called
by whoever starts a worker (or has seen one end), so that a dead worker holds no part of a limit.

Labels whose values the configuration says (Dimension) have rows, and a table of names that all processes share. The
supervisor gives a name its row when it first appears (Slab.assign), and never another: what was counted stays where it
is through reloads and restarts of workers, and a name that is gone from the configuration keeps its row and its counts
as long as the node runs. A name that finds no row left is counted with all others: in the row `other`, a tenant in one
of 16 rows by hash. A process finds rows by the names that it has read last (Counters.read_labels).

Bounds: a client's connections are counted in one of 64 places of a table of 8,192. When all 64 are taken by other
clients, the connection is counted under one key that all such clients share, so that the limit errs to the strict side,
and INGRESS_CLIENT_TABLE_FULL counts it. Two workers that count the same client at once both see the other's connection:
a limit may refuse both, never admit both. While a place passes from one client to another, a reader may be wrong by one
for a moment.

Fails: OSError when the memory cannot be made or mapped; ValueError for a descriptor that is not a slab of this version;
IndexError for a region or slot that is not there.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
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
    VERSION = 2                  # of the layout above the slots: header, labels, region, client table
    PAGE = 4096
    INDEX_MASK = 511             # of a LabelIndex
    READINGS = 64                # of what changes again and again; then it is left out

cdef uint64_t MAGIC = 0x42414C53474E41  # "ANGSLAB"
cdef size_t REGION_OCTETS = (sizeof(Region) + PAGE - 1) // PAGE * PAGE
cdef size_t REGIONS_BEGIN = PAGE + (sizeof(LabelTable) + PAGE - 1) // PAGE * PAGE

# by dimension: rows that have no name of their own, rows at most, slots from one metric to the next
cdef int[DIMENSIONS] FIRST_NAMED = [1, 1 + TENANT_BUCKETS, 1, 2, 2, 0]
cdef int[DIMENSIONS] MOST_ROWS = [51, 1 + TENANT_BUCKETS + 200, LISTENER_ROWS, SOURCE_ROWS, POOL_ROWS, SHARD_ROWS]
cdef int[DIMENSIONS] STRIDES = [PROVIDER_ROWS, TENANT_ROWS, LISTENER_ROWS, SOURCE_ROWS, POOL_ROWS, SHARD_ROWS]
cdef int[DIMENSIONS] NAMES_BEGIN = [0, 64, 64 + 256, 64 + 256 + 64, 64 + 256 + 64 + 128, -1]


def bucket_bounds_us() -> tuple[int, ...]:
    """Upper bounds of every histogram's buckets in microseconds, without the last bucket, which has none."""
    cdef int i
    return tuple([BOUNDS_US[i] for i in range(BUCKETS - 1)])


def is_gauge(int slot) -> bool:
    """Whether reset_gauges() puts this slot to zero."""
    return 0 <= slot < COUNTERS_BEGIN or ROW_GAUGES_BEGIN <= slot < ROW_COUNTERS_BEGIN


def is_histogram(int slot) -> bool:
    """Whether a histogram begins at this slot: a count per bucket (one more than bucket_bounds_us()), then the sum."""
    return slot == Slot.QUEUE_AGE or (
        HISTOGRAMS_BEGIN <= slot < ROW_GAUGES_BEGIN and (slot - HISTOGRAMS_BEGIN) % HISTOGRAM_SLOTS == 0
    )


def has_exemplars(int slot) -> bool:
    """Whether the histogram that begins at this slot has room for an exemplar in each bucket."""
    return is_histogram(slot) and 0 <= slot - HISTOGRAMS_BEGIN < EXEMPLAR_HISTOGRAMS * HISTOGRAM_SLOTS


def rows_of(int dimension) -> int:
    """How many slots a metric by this dimension takes, at least as many as there can be rows."""
    check_dimension(dimension)
    return STRIDES[dimension]


def most_rows(int dimension) -> int:
    """How many rows there can be, those for all others included."""
    check_dimension(dimension)
    return MOST_ROWS[dimension]


cdef int check_dimension(int dimension) except -1:
    if not 0 <= dimension < DIMENSIONS:
        raise IndexError(f"dimension {dimension} of {DIMENSIONS}")
    return 0


def reserved_names(int dimension) -> list[str]:
    """The names of the rows for what has no row of its own."""
    check_dimension(dimension)
    if dimension == DIMENSION_TENANT:
        return ["none"] + [f"hash-{i:02}" for i in range(TENANT_BUCKETS)]
    if dimension == DIMENSION_SOURCE:
        return ["default", "other"]
    if dimension == DIMENSION_POOL:
        return ["none", "other"]
    return [] if dimension == DIMENSION_SHARD else ["other"]


cdef inline uint32_t hash_of(const char *name, size_t n) noexcept nogil:
    # FNV-1a: names are short, and whoever may choose them is the operator
    cdef uint32_t hash = 2166136261
    cdef size_t i
    for i in range(n):
        hash = (hash ^ <unsigned char>name[i]) * <uint32_t>16777619
    return hash


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
        cdef int i
        if not 1 <= regions <= 4096:
            raise ValueError(f"{regions} regions: from 1 to 4096")
        octets = REGIONS_BEGIN + regions * REGION_OCTETS
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
        for i in range(DIMENSIONS):
            slab.labels_table.used[i] = FIRST_NAMED[i]
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
                or octets != REGIONS_BEGIN + slab.header.regions * REGION_OCTETS):
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
        return <Region *>(self.memory + REGIONS_BEGIN + i * self.header.region_octets)

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
        counters.read_labels()
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

    def most(self, int slot) -> int:
        """The highest value of one slot in any region."""
        cdef uint32_t i
        cdef uint64_t most = 0
        check_slot(slot)
        for i in range(self.header.regions):
            most = max(most, load_u64(self.at(i).slots + slot))
        return most

    def exemplar(self, int base, int bucket) -> tuple[int, int, int] | None:
        """The newest exemplar of one bucket of the histogram that begins at base: message id, microseconds, unix time
        in microseconds. None: there is none."""
        cdef Exemplar copy
        cdef Exemplar *exemplar
        cdef uint32_t i, sequence
        cdef int _reading
        cdef uint64_t id = 0, value_us = 0, at_us = 0
        if not has_exemplars(base) or not 0 <= bucket < BUCKETS:
            raise IndexError(f"slot {base} has no exemplar in a bucket {bucket}")
        for i in range(self.header.regions):
            exemplar = &self.at(i).exemplars[(base - HISTOGRAMS_BEGIN) // HISTOGRAM_SLOTS][bucket]
            for _reading in range(READINGS):
                sequence = begin_reading(&exemplar.sequence)
                copy.id = load_u64(&exemplar.id)
                copy.value_us = load_u64(&exemplar.value_us)
                copy.at_us = load_u64(&exemplar.at_us)
                if sequence & 1 == 0 and end_reading(&exemplar.sequence, sequence):
                    if copy.id and copy.at_us >= at_us:
                        id, value_us, at_us = copy.id, copy.value_us, copy.at_us
                    break
        return (id, value_us, at_us) if id else None

    def top(self, Py_ssize_t i, int which) -> list[tuple[bytes, int, int]]:
        """A list of the largest of one region: name, count, by how much that may be too large. The largest first."""
        cdef TopList *shared
        cdef TopList *copy
        cdef uint32_t sequence, k
        cdef int _reading
        if not 0 <= i < self.header.regions or not 0 <= which < TOP_LISTS:
            raise IndexError(f"list {which} of region {i}")
        shared = &self.at(<uint32_t>i).tops[which]
        copy = <TopList *>malloc(sizeof(TopList))
        if copy == NULL:
            raise MemoryError
        try:
            for _reading in range(READINGS):
                sequence = begin_reading(&shared.sequence)
                memcpy(copy, shared, sizeof(TopList))
                if sequence & 1 == 0 and end_reading(&shared.sequence, sequence):
                    return [
                        (copy.entries[k].name[:copy.entries[k].length], copy.entries[k].count, copy.entries[k].error)
                        for k in range(min(copy.count, <uint32_t>TOPS))
                    ]
            return []
        finally:
            free(copy)

    def assign(self, int dimension, names) -> list[str]:
        """Give each name a row that has none yet. The supervisor alone does so.

        Returns those that found no row, and are counted with all others. Shards are numbers: range(n).
        """
        cdef LabelTable *table = self.labels_table
        cdef LabelName *place
        cdef uint32_t used
        cdef bytes octets
        check_dimension(dimension)
        if dimension == DIMENSION_SHARD:
            store_u32(&table.used[dimension], min(max(len(names), table.used[dimension]), SHARD_ROWS))
            return []
        known = set(self.labels(dimension))
        left = []
        for name in names:
            if name in known:
                continue
            octets = name.encode("utf-8")
            used = table.used[dimension]
            if used >= <uint32_t>MOST_ROWS[dimension] or len(octets) > sizeof(place.text):
                left.append(name)
                continue
            place = &table.names[NAMES_BEGIN[dimension] + used]
            memcpy(place.text, PyBytes_AS_STRING(octets), len(octets))
            place.length = len(octets)
            publish_u32(&table.used[dimension], used + 1)    # the name stands before the row counts
            known.add(name)
        return left

    def labels(self, int dimension) -> list[str]:
        """The names of the rows, in order."""
        cdef LabelName *place
        cdef uint32_t row, used
        check_dimension(dimension)
        used = begin_reading(&self.labels_table.used[dimension])
        if dimension == DIMENSION_SHARD:
            return [str(row) for row in range(used)]
        names = reserved_names(dimension)
        for row in range(<uint32_t>FIRST_NAMED[dimension], used):
            place = &self.labels_table.names[NAMES_BEGIN[dimension] + row]
            names.append(place.text[:place.length].decode("utf-8"))
        return names


cdef int map_slab(Slab slab, int fd, size_t octets) except -1:
    cdef void *memory
    memory = mmap(NULL, octets, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
    if memory == MAP_FAILED:
        raise OSError(errno, os.strerror(errno))
    slab.memory = <char *>memory
    slab.octets = octets
    slab.header = <SlabHeader *>memory
    slab.labels_table = <LabelTable *>(slab.memory + PAGE)
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


cdef uint16_t find_row(Counters counters, int dimension, const char *name, size_t n, uint32_t hash,
                       uint16_t otherwise) noexcept nogil:
    cdef LabelIndex *index = &counters._names[dimension]
    cdef LabelName *place
    cdef uint32_t i = hash & INDEX_MASK
    while index.rows[i]:
        if index.hashes[i] == hash:
            place = &counters.slab.labels_table.names[NAMES_BEGIN[dimension] + index.rows[i] - 1]
            if place.length == n and memcmp(place.text, name, n) == 0:
                return index.rows[i] - 1
        i = (i + 1) & INDEX_MASK
    return otherwise


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
        if not HISTOGRAMS_BEGIN <= base < ROW_GAUGES_BEGIN or (base - HISTOGRAMS_BEGIN) % HISTOGRAM_SLOTS:
            with gil:
                raise IndexError(f"no histogram begins at slot {base}")
        slot_observe(self.slots, base, microseconds)
        return 0

    cpdef int observe_message(self, int base, uint64_t microseconds, uint64_t id) except -1 nogil:
        """The same, and the message that it was, as an exemplar. Only the loop's thread calls this."""
        if (not HISTOGRAMS_BEGIN <= base < HISTOGRAMS_BEGIN + EXEMPLAR_HISTOGRAMS * HISTOGRAM_SLOTS
                or (base - HISTOGRAMS_BEGIN) % HISTOGRAM_SLOTS):
            with gil:
                raise IndexError(f"no histogram with exemplars begins at slot {base}")
        observe_message(self.own, base, microseconds, id, about_now_us())
        return 0

    def read_labels(self):
        """Know the names that have rows by now: after assign(), in this process or another."""
        cdef LabelTable *table = self.slab.labels_table
        cdef LabelIndex *index
        cdef LabelName *place
        cdef uint32_t row, used, hash, i
        cdef int dimension
        for dimension in range(DIMENSION_SHARD):
            index = &self._names[dimension]
            used = begin_reading(&table.used[dimension])
            memset(index, 0, sizeof(LabelIndex))
            for row in range(<uint32_t>FIRST_NAMED[dimension], used):
                place = &table.names[NAMES_BEGIN[dimension] + row]
                hash = hash_of(place.text, place.length)
                i = hash & INDEX_MASK
                while index.rows[i]:
                    i = (i + 1) & INDEX_MASK
                index.hashes[i] = hash
                index.rows[i] = row + 1

    cdef uint16_t provider_row(self, const char *name, size_t n) noexcept nogil:
        return find_row(self, DIMENSION_PROVIDER, name, n, hash_of(name, n), 0)

    cdef uint16_t tenant_row(self, const char *name, size_t n) noexcept nogil:
        cdef uint32_t hash
        if n == 0:
            return 0
        hash = hash_of(name, n)
        return find_row(self, DIMENSION_TENANT, name, n, hash, 1 + hash % TENANT_BUCKETS)

    cdef uint16_t listener_row(self, const char *name, size_t n) noexcept nogil:
        return find_row(self, DIMENSION_LISTENER, name, n, hash_of(name, n), 0)

    cdef uint16_t source_row(self, const char *name, size_t n) noexcept nogil:
        if n == 7 and memcmp(name, b"default", 7) == 0:
            return 0
        return find_row(self, DIMENSION_SOURCE, name, n, hash_of(name, n), 1)

    cdef uint16_t pool_row(self, const char *name, size_t n) noexcept nogil:
        return find_row(self, DIMENSION_POOL, name, n, hash_of(name, n), 1) if n else 0

    def row(self, int dimension, bytes name) -> int:
        """The row of a name; of one that has none: that of all others."""
        cdef const char *p = PyBytes_AS_STRING(name)
        check_dimension(dimension)
        if dimension == DIMENSION_PROVIDER:
            return self.provider_row(p, len(name))
        if dimension == DIMENSION_TENANT:
            return self.tenant_row(p, len(name))
        if dimension == DIMENSION_LISTENER:
            return self.listener_row(p, len(name))
        if dimension == DIMENSION_SOURCE:
            return self.source_row(p, len(name))
        if dimension == DIMENSION_POOL:
            return self.pool_row(p, len(name))
        return min(int(name), SHARD_ROWS - 1)

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
        cdef int which
        for slot in range(COUNTERS_BEGIN):
            store_u64(self.slots + slot, 0)
        for slot in range(ROW_GAUGES_BEGIN, ROW_COUNTERS_BEGIN):
            store_u64(self.slots + slot, 0)
        for which in range(TOP_LISTS):
            begin_writing(&self.own.tops[which].sequence)
            self.own.tops[which].count = 0
            end_writing(&self.own.tops[which].sequence)
        memset(self.own.clients, 0, sizeof(self.own.clients))
        publish_u32(&self.own.uncounted, 0)
