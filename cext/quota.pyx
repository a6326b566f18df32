"""How much each sender has sent: one table for the whole node, in a file that all its workers have mapped.

Job: keep limits on recipients an hour and a day exactly, whichever worker a sender's messages come to, and say when it
sends unusually much. The table outlives a worker, a reload and the node: it is the page cache's, and written back by
the kernel. Only a machine that loses its power may forget the last half minute.

Time is cut into steps of ten minutes. An entry has a count for each step of the day that is over, of this step, and of
the 55 hours ahead. An hour is the six steps before a step and that step itself, a day the 144 before it, so that no
window of that length, wherever it begins, sees more than the limit; what has been counted may weigh up to one step too
long. A sender that `queues` gets the first step in which neither limit would be passed, no earlier than the last one
given: a message is counted where it goes, and what is put off goes in the order in which it came.

What is unusual is seen by what came in within the last hour: more than `unusual_above`, or more than `unusual_times`
the mean of the hours in which the sender sent at all (the last 50 or so; nothing is said before LEARNED_HOURS of them
are known, nor of fewer than LEAST_UNUSUAL recipients). From then on the sender is suspect, until `excuse`.

Whoever counts has the lock on the file's first octet (an OFD lock, fcntl(2)), which the kernel drops when its holder
dies: a message costs two system calls, and who waits does so for a few hundred nanoseconds of another's work. A look,
at MAIL and RCPT, takes no lock and changes nothing; the count has the last word. Each store leaves an entry that can be
used: a worker that is killed at any point loses at most the message that it was counting.

Bounds: `capacity` senders (2,048 octets each, allocated when the file is made, so that a full disk is found then and
not by a fault later). A place is used anew when its sender has sent nothing for a day, has nothing put off and is not
suspect. When all PLACES that a sender may be in are taken, it shares the first of them with its owner: a limit errs to
the strict side.

A clock that goes back leaves time standing still in the table until it has caught up; one that goes back by more than
two hours makes each entry begin anew.

Fails: OSError when the file cannot be made, mapped or locked. A file of another release, or with a harmed head, is
replaced by an empty one.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.unistd cimport close as c_close

import os

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <string.h>
    #include <sys/mman.h>
    /* Take (or leave) the write lock on the file's first octet; waits for whoever has it. 0, or errno. */
    static int angarium_quota_lock(int fd, int taken)
    {
        struct flock lock;
        memset(&lock, 0, sizeof lock);
        lock.l_type = taken ? F_WRLCK : F_UNLCK;
        lock.l_whence = SEEK_SET;
        lock.l_start = 0;
        lock.l_len = 1;
        while (fcntl(fd, F_OFD_SETLKW, &lock) != 0)
            if (errno != EINTR)
                return errno;
        return 0;
    }
    """
    int angarium_quota_lock(int fd, int taken) nogil

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void *address, size_t length)
    enum:
        PROT_READ
        PROT_WRITE
        MAP_SHARED
    void *MAP_FAILED

cdef extern from "<errno.h>" nogil:
    int errno

cdef enum:
    VERSION = 1
    HEAD = 4096
    PLACES = 32                  # in which a sender may be, from the one that its key names
    STALE_S = 86400 + 7200
    FAR_BACK = 12                # steps
    USUAL_HOURS = 50             # that the mean is of, about
    MOST_USUAL = 1 << 27

STEP_S = QUOTA_STEP_S
LEAST_UNUSUAL = 50
LEARNED_HOURS = 10
cdef uint32_t LEAST = 50
cdef uint32_t LEARNED = 10
cdef uint64_t MAGIC = 0x41544F5551474E41     # "ANGQUOTA"


cdef struct Head:
    uint64_t magic
    uint32_t version
    uint32_t capacity
    uint32_t entry_octets


cdef class QuotaTable:
    def __cinit__(self):
        self.fd = -1

    def __init__(self, str path, uint32_t capacity=16384):
        if capacity < PLACES or capacity & (capacity - 1):
            raise ValueError(f"{capacity} places: a power of two from {PLACES} on")
        self.path = path
        self.capacity = capacity
        self.octets = HEAD + <size_t>capacity * sizeof(QuotaEntry)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._map()
        except OSError:
            self.close()
            raise

    def __dealloc__(self):
        if self.memory != NULL:
            munmap(self.memory, self.octets)
        if self.fd >= 0:
            c_close(self.fd)

    cdef int _map(self) except -1:
        cdef Head head
        cdef bytes octets
        cdef void *memory
        memset(&head, 0, sizeof(head))
        self.lock(True)
        try:
            octets = os.pread(self.fd, sizeof(head), 0)
            memcpy(&head, PyBytes_AS_STRING(octets), len(octets))
            if head.magic != MAGIC or head.version != VERSION or head.capacity != self.capacity or (
                head.entry_octets != sizeof(QuotaEntry) or os.fstat(self.fd).st_size != self.octets
            ):
                os.ftruncate(self.fd, 0)
                os.posix_fallocate(self.fd, 0, self.octets)
            memory = mmap(NULL, self.octets, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0)
            if memory == MAP_FAILED:
                raise OSError(errno, os.strerror(errno), self.path)
            self.memory = <char *>memory
            head.version = VERSION
            head.capacity = self.capacity
            head.entry_octets = sizeof(QuotaEntry)
            head.magic = MAGIC
            memcpy(memory, &head, sizeof(head))
        finally:
            self.lock(False)
        return 0

    def close(self):
        """Let go of the file."""
        if self.memory != NULL:
            munmap(self.memory, self.octets)
            self.memory = NULL
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    cdef QuotaEntry *at(self, uint32_t index) noexcept:
        return <QuotaEntry *>(self.memory + HEAD) + (index & (self.capacity - 1))

    cdef int lock(self, bint taken) except -1:
        cdef int error = angarium_quota_lock(self.fd, taken)
        if error:
            raise OSError(error, os.strerror(error), self.path)
        return 0

    cdef int64_t place(self, uint64_t first, uint64_t second, uint64_t now_s, bint claim) noexcept:
        cdef uint32_t home = <uint32_t>second & (self.capacity - 1)
        cdef int64_t found = self._find(first, second)
        cdef uint32_t i
        cdef QuotaEntry *entry
        if found >= 0 or not claim:
            return found
        for i in range(PLACES):
            entry = self.at(home + i)
            if is_vacant(entry, now_s):
                memset(entry, 0, sizeof(QuotaEntry))
                entry.used_s = <uint32_t>now_s
                entry.key[1] = second
                entry.key[0] = first
                return (home + i) & (self.capacity - 1)
        self.shared += 1
        return home

    cdef int64_t _find(self, uint64_t first, uint64_t second) noexcept:
        cdef uint32_t home = <uint32_t>second & (self.capacity - 1)
        cdef uint32_t i
        cdef QuotaEntry *entry
        for i in range(PLACES):
            entry = self.at(home + i)
            if entry.key[0] == first and entry.key[1] == second:
                return (home + i) & (self.capacity - 1)
        return -1


cdef bint is_vacant(const QuotaEntry *entry, uint64_t now_s) noexcept nogil:
    """Whether a place may be given to another sender."""
    if entry.key[0] == 0 and entry.key[1] == 0:
        return True
    return entry.used_s + STALE_S < now_s and not entry.suspect and <uint64_t>entry.last * QUOTA_STEP_S < now_s


cdef void move_on(QuotaEntry *entry, uint64_t now_s) noexcept nogil:
    """Bring an entry to this moment: what has left the day is forgotten, what is over of the usual hours is learnt."""
    cdef uint32_t step = <uint32_t>(now_s // QUOTA_STEP_S)
    cdef uint32_t hour = <uint32_t>(now_s // 3600)
    cdef uint32_t i
    cdef int64_t mean, count
    if entry.step > step + FAR_BACK:
        memset(entry.steps, 0, sizeof(entry.steps))
        memset(entry.recent, 0, sizeof(entry.recent))
        entry.step = entry.last = entry.excused_step = 0
        entry.hour = entry.hour_count = 0
    if step > entry.step:
        # the places of steps that come into sight had steps that are more than a day ago
        if step - entry.step >= QUOTA_STEPS:
            memset(entry.steps, 0, sizeof(entry.steps))
        else:
            for i in range(entry.step + QUOTA_AHEAD + 1, step + QUOTA_AHEAD + 1):
                entry.steps[i % QUOTA_STEPS] = 0
        if step - entry.step >= QUOTA_RECENT:
            memset(entry.recent, 0, sizeof(entry.recent))
        else:
            for i in range(entry.step + 1, step + 1):
                entry.recent[i % QUOTA_RECENT] = 0
        entry.step = step
    if hour > entry.hour:
        if entry.hour_count and not entry.suspect:
            mean = entry.usual
            count = <int64_t>entry.hour_count * 16
            entry.usual_hours = min(entry.usual_hours + 1, <uint32_t>USUAL_HOURS)
            entry.usual = <uint32_t>min(mean + (count - mean) // <int64_t>entry.usual_hours, <int64_t>MOST_USUAL * 16)
        entry.hour_count = 0
        entry.hour = hour
    entry.used_s = max(entry.used_s, <uint32_t>now_s)


cdef uint64_t sum_of(const QuotaEntry *entry, uint32_t step, uint32_t before) noexcept nogil:
    """Recipients of a step and so many before it."""
    cdef uint64_t total = 0
    cdef uint32_t place = (step + QUOTA_STEPS - before) % QUOTA_STEPS
    cdef uint32_t end = place + before + 1
    cdef uint32_t i
    for i in range(place, min(end, <uint32_t>QUOTA_STEPS)):
        total += entry.steps[i]
    if end > QUOTA_STEPS:
        for i in range(end - QUOTA_STEPS):
            total += entry.steps[i]
    return total


cdef uint64_t recent_of(const QuotaEntry *entry) noexcept nogil:
    """Recipients that came in within the last hour."""
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(QUOTA_HOUR + 1):
        total += entry.recent[(entry.step + QUOTA_RECENT - i) % QUOTA_RECENT]
    return total


cdef class Quota:
    def __init__(self, QuotaTable table not None, bytes key not None, *, uint32_t per_hour=0, uint32_t per_day=0,
                 bint queues=False, uint32_t unusual_above=0, double unusual_times=0):
        if len(key) != 16:
            raise ValueError(f"a key of {len(key)} octets: 16 are wanted")
        memcpy(self.key, PyBytes_AS_STRING(key), 16)
        if self.key[0] == 0 and self.key[1] == 0:
            self.key[0] = 1                  # that is what is free
        self.table = table
        self.per_hour = per_hour
        self.per_day = per_day
        self.queues = queues
        self.unusual_above = unusual_above
        self.unusual_times = unusual_times
        self._index = -1

    cdef QuotaEntry *entry(self, uint64_t now_s, bint claim) except? NULL:
        """This sender's entry, brought to this moment, when it has one or `claim`. Call it under the lock."""
        cdef QuotaEntry *entry
        if self.table.memory == NULL:
            raise ValueError("the table of quotas is closed")
        if self._index >= 0:
            entry = self.table.at(<uint32_t>self._index)
            if entry.key[0] == self.key[0] and entry.key[1] == self.key[1]:
                move_on(entry, now_s)
                return entry
        self._index = self.table.place(self.key[0], self.key[1], now_s, claim)
        if self._index < 0:
            return NULL
        entry = self.table.at(<uint32_t>self._index)
        move_on(entry, now_s)
        return entry

    cdef int _limit(self, QuotaEntry *entry, uint32_t step, uint32_t n) noexcept:
        """Which limit n more recipients in that step would pass."""
        if self.per_hour and sum_of(entry, step, QUOTA_HOUR) + n > self.per_hour:
            return QUOTA_HOUR_REACHED
        if self.per_day and sum_of(entry, step, QUOTA_DAY) + n > self.per_day:
            return QUOTA_DAY_REACHED
        return QUOTA_OK

    cdef int look(self, uint32_t n, uint64_t now_s) except -1:
        cdef uint32_t step = <uint32_t>(now_s // QUOTA_STEP_S)
        cdef QuotaEntry *entry
        if self.per_hour and n > self.per_hour:
            return QUOTA_HOUR_REACHED
        if self.per_day and n > self.per_day:
            return QUOTA_DAY_REACHED
        if self.queues or not (self.per_hour or self.per_day):
            return QUOTA_OK
        if self.table.memory == NULL:
            raise ValueError("the table of quotas is closed")
        # without the lock, and nothing is changed: `take` has the last word
        self._index = self.table.place(self.key[0], self.key[1], now_s, False)
        if self._index < 0:
            return QUOTA_OK
        entry = self.table.at(<uint32_t>self._index)
        if entry.step > step + FAR_BACK or step > entry.step + QUOTA_AHEAD:
            return QUOTA_OK                  # it begins anew
        return self._limit(entry, max(step, entry.step), n)

    cdef int take(self, uint32_t n, uint64_t now_s) except -1:
        cdef QuotaEntry *entry
        cdef uint32_t step
        cdef int verdict
        self.unusual = self.tripped = False
        self.table.lock(True)
        try:
            entry = self.entry(now_s, True)
            step = entry.step
            if self.queues and entry.last > step:
                step = entry.last            # others wait already
            verdict = self._limit(entry, step, n)
            while verdict != QUOTA_OK and self.queues and step < entry.step + QUOTA_AHEAD:
                step += 1
                verdict = self._limit(entry, step, n)
            if verdict != QUOTA_OK:
                return verdict
            self._note_arrival(entry, n)
            entry.steps[step % QUOTA_STEPS] += n
            self.step = step
            self.hour_used = sum_of(entry, step, QUOTA_HOUR) if self.per_hour else 0
            self.day_used = sum_of(entry, step, QUOTA_DAY) if self.per_day else 0
            if step == entry.step:
                return QUOTA_OK
            entry.last = step
            return QUOTA_LATER
        finally:
            self.table.lock(False)

    cdef int _note_arrival(self, QuotaEntry *entry, uint32_t n) except -1:
        cdef uint64_t arrived, allowed = 0
        cdef double times
        entry.recent[entry.step % QUOTA_RECENT] += n
        entry.hour_count += n
        arrived = recent_of(entry)
        self.arrived = <uint32_t>min(arrived, <uint64_t>0xFFFFFFFF)
        if not self.unusual_above and not self.unusual_times:
            return 0
        if entry.excused and entry.step - entry.excused_step <= QUOTA_HOUR:
            allowed = entry.excused
        if not entry.suspect:
            if self.unusual_above and arrived > self.unusual_above + allowed:
                self.tripped = True
            if self.unusual_times and entry.usual_hours >= LEARNED and arrived > LEAST + allowed:
                times = self.unusual_times * entry.usual / 16
                if arrived > times + allowed:
                    self.tripped = True
            entry.suspect = self.tripped
        self.unusual = entry.suspect != 0
        return 0

    cdef int give_back(self, uint32_t step, uint32_t n, uint64_t now_s) except -1:
        cdef QuotaEntry *entry
        cdef uint32_t *count
        self.table.lock(True)
        try:
            entry = self.entry(now_s, False)
            if entry != NULL and step + QUOTA_DAY >= entry.step and step <= entry.step + QUOTA_AHEAD:
                count = &entry.steps[step % QUOTA_STEPS]
                count[0] -= min(count[0], n)
                count = &entry.recent[entry.step % QUOTA_RECENT]
                count[0] -= min(count[0], n)
                entry.hour_count -= min(entry.hour_count, n)
        finally:
            self.table.lock(False)
        return 0

    # ------------------------------------------------------------------ for tools and tests

    def ask(self, uint32_t recipients, uint64_t now_s) -> int:
        """look for callers in Python."""
        return self.look(recipients, now_s)

    def count(self, uint32_t recipients, uint64_t now_s) -> int:
        """take for callers in Python."""
        return self.take(recipients, now_s)

    def uncount(self, uint32_t step, uint32_t recipients, uint64_t now_s):
        """give_back for callers in Python."""
        self.give_back(step, recipients, now_s)

    def used(self, uint64_t now_s) -> tuple[int, int, int]:
        """Recipients of the last hour, of the last day, and those that are put off beyond this step."""
        cdef QuotaEntry *entry
        cdef uint64_t ahead = 0
        cdef uint32_t step
        self.table.lock(True)
        try:
            entry = self.entry(now_s, False)
            if entry == NULL:
                return 0, 0, 0
            for step in range(entry.step + 1, entry.last + 1):
                ahead += entry.steps[step % QUOTA_STEPS]
            return sum_of(entry, entry.step, QUOTA_HOUR), sum_of(entry, entry.step, QUOTA_DAY), ahead
        finally:
            self.table.lock(False)

    def suspect(self, uint64_t now_s) -> bool:
        """Whether what it sends is held."""
        cdef QuotaEntry *entry
        self.table.lock(True)
        try:
            entry = self.entry(now_s, False)
            return entry != NULL and entry.suspect != 0
        finally:
            self.table.lock(False)

    def usual(self, uint64_t now_s) -> tuple[float, int]:
        """The mean of the hours in which it sent, and how many they are."""
        cdef QuotaEntry *entry
        self.table.lock(True)
        try:
            entry = self.entry(now_s, False)
            if entry == NULL:
                return 0.0, 0
            return entry.usual / 16.0, entry.usual_hours
        finally:
            self.table.lock(False)

    def excuse(self, uint64_t now_s) -> bool:
        """What it sent so far is not unusual, and nothing is held any more. Whether something was."""
        cdef QuotaEntry *entry
        self.table.lock(True)
        try:
            entry = self.entry(now_s, False)
            if entry == NULL or not entry.suspect:
                return False
            entry.excused = <uint32_t>min(recent_of(entry), <uint64_t>0xFFFFFFFF)
            entry.excused_step = entry.step
            entry.suspect = 0
            return True
        finally:
            self.table.lock(False)
