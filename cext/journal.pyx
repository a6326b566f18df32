"""One shard's journal.

Job: append records to segment files so that whoever waits is told when they are safe, and know which files are no
longer needed. Input: messages with their meta part (record.pyx), small records about them. Output: files as
cext/record_format.h describes; calls of Receiver.committed and Taker.take from the loop's thread (`on_commit`, to be
called when `event_fd` is readable).

The loop's thread decides where each record goes; the committer's thread (cext/committer.h) writes and syncs. Segments
are used again oldest first, and only when nothing older is alive, because a `done` record may stand in any later
segment than the message it speaks of: the header of a segment says which serial was the oldest alive, and recovery
ignores everything older. A file is unlinked only when a header that says so is on disk, because a file system is free
to bring back any file whose folder was not synced; the segment that grows has room for seven such headers behind its
own.

The in-flight table is a small mapped file of message ids whose last octets may have left for the next hop and whose
outcome is not yet in the journal: after a crash, those are the messages that are in doubt.

Fails: a write or sync that fails fences the segment (never written or synced again), tells everyone who waits, and sets
`failed` until `heal` succeeds. When there is room for two more segments only, `full` is set and messages are refused
with JournalFull; what is left is for records that let messages go, and a part of it for notifications, which do so too.
"""

import contextlib
import errno
import os
import select
from collections import deque

from angarium._core.outcome_record import decode_outcome, encode_outcome, previous_of

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.unistd cimport close as c_close
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

from angarium._core.counters cimport Counters, Slot, slot_add, slot_observe
from angarium._core.disk cimport Disk, angarium_disk, real_disk
from angarium._core.ledger cimport (
    DONE_COUNT_SHIFT,
    DONE_MOST,
    DONE_NEVER,
    DROP_DELETED,
    DROP_REASONS,
    END_BOUNCED,
    END_DELIVERED,
    END_DROPPED,
    END_EXPIRED,
    RECORD_FROM_MEMORY,
    RECORD_MOVED,
    Ledger,
    LedgerMeta,
)
from angarium._core.record cimport (
    ATTEMPTS_KEPT,
    BLOCK,
    DURABILITY_ASYNC,
    MARK_COUNTED,
    MARK_HOLD,
    MARK_IN_DOUBT,
    MARK_WARNED,
    MESSAGE_COMMITTING,
    MESSAGE_GONE,
    MESSAGE_HELD,
    RECIPIENT_DELIVERED,
    RECIPIENT_EXPIRED,
    RECIPIENT_FAILED,
    RECORD_DONE,
    RECORD_LEDGER,
    RECORD_MAGIC,
    RECORD_OUTCOME,
    SEGMENT_MAGIC,
    MailBuffer,
    Message,
    MovedMeta,
    RecordHeader,
    SegmentHeader,
    counted_of,
    crc32c,
    is_counted,
    is_final,
    note_outcome,
    record_is_sound,
    seal_record,
    set_counted,
)

cdef extern from "committer.h":
    committer *committer_new(int event_fd, int folder_fd, uint64_t sync_interval_us, const angarium_disk *disk) nogil
    uint64_t committer_put(committer *c, int fd, uint64_t position, const char *octets, size_t n,
                           int copy, int must_sync,
                           int new_file, int barrier) nogil
    void committer_set_sync_interval(committer *c, uint64_t sync_interval_us) nogil
    void committer_kick(committer *c, int flush) nogil
    void committer_restart(committer *c, int folder_fd) nogil
    void committer_stop(committer *c) nogil
    void committer_free(committer *c) nogil
    uint64_t get64 "COMMITTER_GET"(uint64_t field) nogil
    int get_int "COMMITTER_GET"(int field) nogil

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int value, int flags)
    enum:
        EFD_NONBLOCK
        EFD_CLOEXEC

cdef extern from "<unistd.h>" nogil:
    ssize_t c_read "read"(int fd, void *buffer, size_t n)
    ssize_t c_write "write"(int fd, const void *buffer, size_t n)

cdef extern from "<stdlib.h>" nogil:
    void *calloc(size_t n, size_t size)

cdef enum:
    IN_FLIGHT_SLOTS = 4096
    SEGMENT_VERSION = 1
    HEADER_ROOM = 512        # a sector: one that is torn takes no other header with it
    MORE_HEADERS = BLOCK // HEADER_ROOM - 1
    FIRST_READ = 1024            # octets that hold nearly every outcome record
    MOST_OUTCOME_OCTETS = 1 << 27    # 65,535 recipients with the longest texts
    MOST_RECORDS_READ = 1024     # of one message, whose attempts may each have gone to many next hops
    TOLD_UNWATCHED = 32          # of those who wait for a commit, before the clock is looked at


cdef double NO_LIMIT_S = float("inf")


class JournalFull(OSError):
    """No room for another segment."""


class JournalFailed(OSError):
    """The journal takes no records: a write or a sync failed."""


cdef inline double monotonic() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec + t.tv_nsec * 1e-9


cdef uint64_t unix_us() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <uint64_t>t.tv_sec * 1000000 + <uint64_t>t.tv_nsec // 1000


cdef class Receiver:
    cdef int committed(self, Message message, int error) except -1:
        raise NotImplementedError


cdef class CallbackReceiver(Receiver):
    """A receiver that calls a Python function with (message, errno)."""
    cdef object _callback

    def __init__(self, callback):
        self._callback = callback

    cdef int committed(self, Message message, int error) except -1:
        self._callback(message, error)
        return 0


cdef class Taker:
    cdef int take(self, Message message) except -1:
        raise NotImplementedError


cdef class CallbackTaker(Taker):
    """A taker that calls a Python function with the message."""
    cdef object _callback

    def __init__(self, callback):
        self._callback = callback

    cdef int take(self, Message message) except -1:
        self._callback(message)
        return 0


@cython.no_gc
cdef class Segment:
    def __init__(self, str path, int fd, uint64_t serial, uint64_t size, uint64_t used, Disk disk=None):
        self.disk = real_disk() if disk is None else disk
        self.path = path
        self.fd = fd
        self.serial = serial
        self.size = size
        self.used = used

    def __dealloc__(self):
        cdef const angarium_disk *functions
        if self.fd >= 0:
            functions = &self.disk.functions
            with nogil:                      # the pages of a file that was unlinked go now: some 14 ms for 64 MB
                functions.close_file(self.fd)
            self.fd = -1

    def __repr__(self):
        return f"<Segment {self.path} serial={self.serial} used={self.used} alive={self.alive}>"

    @property
    def fileno(self) -> int:
        """The file's descriptor."""
        return self.fd

    def fill_with_zeros(self):
        """Write it once and sync it: later syncs then change no metadata. Blocks: call it in a thread."""
        self.disk.fill_with_zeros(self.fd, self.size)

    def add_alive(self, uint32_t octets):
        """Recovery found a message here."""
        self.alive += 1
        self.alive_octets += octets

    def seal(self):
        """Nothing more is appended."""
        self.sealed = True

    def drop_alive(self, uint32_t octets):
        """A message found by recovery turned out to be done, or stands again in a later segment."""
        self.alive -= 1
        self.alive_octets -= octets


def segment_header(int shard, uint64_t serial, uint64_t oldest_serial, uint64_t size, Ledger ledger=None) -> bytes:
    """The header of a segment file, with a checkpoint of the ledger."""
    cdef SegmentHeader header
    cdef char record[256]
    cdef size_t length = sizeof(RecordHeader) + sizeof(LedgerMeta)
    memset(&header, 0, sizeof(header))
    header.magic = SEGMENT_MAGIC
    header.version = SEGMENT_VERSION
    header.shard = shard
    header.serial = serial
    header.oldest_serial = oldest_serial
    header.size = size
    header.created_us = unix_us()
    header.crc = crc32c(0, <char *>&header + 8, sizeof(header) - 8)
    octets = PyBytes_FromStringAndSize(<char *>&header, sizeof(header))
    if ledger is None:
        return octets
    make_header(<RecordHeader *>record, RECORD_LEDGER, 0, 0, length)
    ledger.write(<LedgerMeta *>(record + sizeof(RecordHeader)))
    seal_record(record, serial)
    return octets + PyBytes_FromStringAndSize(record, length)


cdef void make_header(RecordHeader *header, uint8_t type, uint64_t id, uint16_t flags, size_t length) noexcept nogil:
    """The header of a record that is all meta part."""
    memset(header, 0, sizeof(RecordHeader))
    header.magic = RECORD_MAGIC
    header.meta_length = <uint32_t>length
    header.length = <uint32_t>length
    header.id = id
    header.type = type
    header.version = 1
    header.flags = flags


cdef bint read_header(bytes block, Py_ssize_t position, SegmentHeader *header) except -1:
    if PyBytes_GET_SIZE(block) < position + <Py_ssize_t>sizeof(SegmentHeader):
        return False
    memcpy(header, PyBytes_AS_STRING(block) + position, sizeof(SegmentHeader))
    if header.magic != SEGMENT_MAGIC or header.version != SEGMENT_VERSION:
        return False
    return crc32c(0, <char *>header + 8, sizeof(SegmentHeader) - 8) == header.crc


def read_segment_header(bytes block) -> tuple[int, int, int, int] | None:
    """(shard, serial, oldest_serial, size), or None when block does not begin with a sound header.

    oldest_serial is the highest of all headers of this life in the block.
    """
    cdef SegmentHeader header, later
    cdef int i
    if not read_header(block, 0, &header):
        return None
    for i in range(1, MORE_HEADERS + 1):
        if read_header(block, i * HEADER_ROOM, &later) and later.serial == header.serial and (
            later.shard == header.shard and later.oldest_serial > header.oldest_serial
        ):
            header.oldest_serial = later.oldest_serial
    return header.shard, header.serial, header.oldest_serial, header.size


cdef class Move:
    pass


cdef class Journal:
    def __cinit__(self):
        self._folder_fd = -1
        self._event_fd = -1
        self._in_flight_fd = -1
        self.telling_s = NO_LIMIT_S

    def __init__(self, str folder, int shard, uint64_t segment_octets, Counters counters, Taker taker, *,
                 segments=(), spares=(), uint64_t next_serial=1, uint64_t last_id=0, double sync_interval_s=1.0,
                 int most_spares=4,
                 in_doubt=(), Disk disk=None, Ledger ledger=None):
        cdef int i
        cdef uint64_t number
        self.folder = folder
        self.shard = shard
        self.segment_octets = segment_octets
        self.most_spares = most_spares
        self.segments = list(segments)
        self.spares = list(spares)
        self.full = False
        self.ledger = Ledger() if ledger is None else ledger
        self._doomed = []
        self._moves = deque()
        self._moving = {}
        self._parting = []
        self._leaving = []
        self._recent = {}
        self._recent_order = deque()
        self._counters = counters
        self._taker = taker
        self._next_serial = next_serial
        self._last_id = last_id
        self.disk = disk = real_disk() if disk is None else disk
        Py_INCREF(disk)
        self._kept_disk = <void *>disk
        self._folder_fd = disk.open_file(folder, os.O_RDONLY | os.O_DIRECTORY)
        path = os.path.join(folder, "in-flight")
        self._in_flight_fd = disk.open_file(path, os.O_RDWR | os.O_CREAT)
        # with its room: a store into a mapped file for which the disk has none kills the process
        disk.allocate(self._in_flight_fd, IN_FLIGHT_SLOTS * 8, path)
        self._in_flight = <uint64_t *>disk.functions.map(self._in_flight_fd, IN_FLIGHT_SLOTS * 8)
        if self._in_flight == NULL:
            raise OSError(errno.ENOMEM, "cannot map the in-flight table", folder)
        self._free_slots = <int *>malloc(IN_FLIGHT_SLOTS * sizeof(int))
        if self._free_slots == NULL:
            raise MemoryError
        # what is in doubt keeps its place until its outcome is known: a second crash must find it there again
        kept = {(<Message>message).id: message for message in in_doubt}
        for i in range(IN_FLIGHT_SLOTS - 1, -1, -1):
            number = self._in_flight[i]
            message = kept.pop(number, None) if number else None
            if message is not None:
                (<Message>message).in_flight = i
            else:
                self._in_flight[i] = 0
                self._free_slots[self._free_count] = i
                self._free_count += 1
        self._event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self._event_fd < 0:
            raise OSError(errno.EMFILE, "cannot make an eventfd", folder)
        self._committer = committer_new(self._event_fd, self._folder_fd, <uint64_t>(sync_interval_s * 1e6),
                                        &disk.functions)
        if self._committer == NULL:
            raise MemoryError

    def __dealloc__(self):
        self._close()

    def close(self):
        """Write and sync what is pending, tell those who wait, close the files. The object is dead afterwards."""
        if self._committer != NULL:
            with nogil:
                committer_stop(self._committer)
            self.telling_s = NO_LIMIT_S
            self.on_commit()
        self._close()

    def _close(self):
        cdef const angarium_disk *functions
        if self._committer != NULL:
            with nogil:
                committer_free(self._committer)
            self._committer = NULL
        while self._waiting_count:
            self._drop_first_waiting()
        if self._event_fd >= 0:
            c_close(self._event_fd)
        if self._kept_disk != NULL:
            functions = &(<Disk>self._kept_disk).functions
            if self._in_flight != NULL:
                functions.unmap(self._in_flight, IN_FLIGHT_SLOTS * 8)
            if self._folder_fd >= 0:
                functions.close_file(self._folder_fd)
            if self._in_flight_fd >= 0:
                functions.close_file(self._in_flight_fd)
            Py_DECREF(<object>self._kept_disk)
        self._kept_disk = NULL
        self._in_flight = NULL
        self._folder_fd = self._event_fd = self._in_flight_fd = -1
        free(self._free_slots)
        self._free_slots = NULL
        free(self._waiting)
        self._waiting = NULL
        free(self._finished)
        self._finished = NULL

    def _drop_first_waiting(self):
        cdef Waiting *first = &self._waiting[self._waiting_head]
        Py_DECREF(<object>first.message)
        Py_DECREF(<object>first.receiver)
        Py_DECREF(<object>first.buffer)
        self._waiting_head = (self._waiting_head + 1) % self._waiting_capacity
        self._waiting_count -= 1

    @property
    def event_fd(self) -> int:
        """Readable when on_commit has something to do."""
        return self._event_fd

    @property
    def waiting(self) -> int:
        """How many commits are awaited."""
        return self._waiting_count

    @property
    def appended(self) -> int:
        """A mark of what has been appended so far, for `is_written`."""
        return self._committer.sequence if self._committer != NULL else 0

    def is_written(self, uint64_t mark) -> bool:
        """Whether all up to that mark is in the kernel's hands."""
        return self._committer == NULL or get64(self._committer.written) >= mark

    @property
    def octets_on_disk(self) -> int:
        """Octets of all files."""
        leaving = self._leaving + [segment for _, segment in self._parting]
        return sum([segment.size + segment.index_octets for segment in self.segments + self.spares + leaving])

    @property
    def living_octets(self) -> int:
        """Octets of the records that are needed: of messages and of what their attempts came to."""
        return sum([segment.alive_octets for segment in self.segments]) + 64 * self.ledger.chain_units

    @property
    def log_octets(self) -> int:
        """Octets of the segments that are full."""
        return sum([segment.size for segment in self.segments if segment.sealed])

    cdef uint64_t next_id(self) except 0:
        """A new queue id: milliseconds since 2020 (42 bits), shard (8), number within the millisecond (14)."""
        cdef uint64_t id = ((unix_us() // 1000 - <uint64_t>1577836800000) << 22) | (<uint64_t>self.shard << 14)
        if id <= self._last_id:
            id = self._last_id + 1
        self._last_id = id
        return id

    def new_id(self) -> int:
        """A new queue id."""
        return self.next_id()

    cdef Segment _place(self, uint64_t length, bint small):
        """The segment that takes a record of so many octets; small: it is about a message that is ours already."""
        if self._committer == NULL:
            raise JournalFailed(errno.EBADF, "the journal is closed", self.folder)
        if self.failed:
            raise JournalFailed(self.failed, os.strerror(self.failed), self.folder)
        if self._on_reserve and not small:
            # the disk is full: what is left is for records about messages that are ours already
            if not self._has_room():
                self._note_full()
                raise JournalFull(errno.ENOSPC, os.strerror(errno.ENOSPC), self.folder)
            self._on_reserve = False
            self._note_room()
        if self._active is None or self._active.used + length > self._active.size:
            self._open_segment(length, small)
        return self._active

    def _has_room(self):
        """Whether the last spare may be used for mail: another file could be made, or one came back."""
        if len(self.spares) > 1:
            return True
        return self.disk.room(self._folder_fd) > 2 * <int64_t>self.segment_octets

    cdef int _open_segment(self, uint64_t length, bint small) except -1:
        cdef uint64_t size = self.segment_octets
        cdef Segment segment
        cdef Segment before = self._active
        cdef bint is_new = self._headers == 0    # a spare found at the start may have been made by a process that died
        cdef bytes header
        cdef uint64_t sequence
        cdef bint has_room = self._has_room()
        if not small and not has_room:
            # never the last room: without `done` records no segment would ever be free again
            self._note_full()
            raise JournalFull(errno.ENOSPC, os.strerror(errno.ENOSPC), self.folder)
        self._on_reserve = not has_room
        if self.spares and BLOCK + length <= size:
            segment = self.spares.pop(0)
            self._counters.add(Slot.QUEUE_SEGMENTS_RECYCLED, 1)
        else:
            if BLOCK + length > size:
                size = BLOCK + length        # a file of its own for a message larger than a segment
            segment = self._make_file(size)
            is_new = True
        segment.serial = self._next_serial
        segment.used = BLOCK
        segment.alive = 0
        segment.alive_octets = 0
        segment.sealed = False
        segment.closed = 0
        self._next_serial += 1
        if before is not None:
            before.sealed = True
            self._cut(before)
        self._active = segment
        self.segments.append(segment)
        self._recycle()
        oldest = self.segments[0].serial
        header = segment_header(self.shard, segment.serial, oldest, segment.size, self.ledger)
        # a barrier: the end of the file's older life is on disk before the first of its records is overwritten
        sequence = committer_put(self._committer, segment.fd, 0, PyBytes_AS_STRING(header), PyBytes_GET_SIZE(header),
                                 1, 0, is_new, 1)
        if sequence == 0:
            raise MemoryError
        if before is not None:
            before.closed = sequence
        self._headers += 1
        self._part(sequence)
        if has_room:
            self._note_room()
        return 0

    def _note_full(self):
        """No room for another segment."""
        self.full = True
        if not self._is_full:
            self._is_full = True
            self._counters.add(Slot.QUEUE_SHARD_FULL, 1)
            self._counters.set(Slot.QUEUE_SHARDS_FULL, self._counters.value(Slot.QUEUE_SHARDS_FULL) + 1)

    def _note_room(self):
        """There is room again."""
        self.full = False
        if self._is_full:
            self._is_full = False
            self._counters.add(Slot.QUEUE_SHARD_HEALED, 1)
            self._counters.set(Slot.QUEUE_SHARDS_FULL, self._counters.value(Slot.QUEUE_SHARDS_FULL) - 1)

    def _cut(self, Segment segment):
        """Give back what a large message has left unused at the end of a segment."""
        if segment.size - segment.used > segment.size // 8:
            with contextlib.suppress(OSError):
                self.disk.resize(segment.fd, segment.used)
                segment.size = segment.used

    def _make_file(self, uint64_t size):
        path = None
        number = len(self.segments) + len(self.spares)
        while path is None:
            path = os.path.join(self.folder, f"{number:06d}.segment")
            try:
                fd = self.disk.open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            except FileExistsError:
                path = None
                number += 1
            except OSError as failure:
                if failure.errno in (errno.ENOSPC, errno.EDQUOT):
                    self._note_full()
                    raise JournalFull(failure.errno, failure.strerror, path) from failure
                raise
        try:
            self.disk.allocate(fd, size, path)
        except OSError as failure:
            self.disk.close_file(fd)
            self.disk.unlink_file(path)
            if failure.errno in (errno.ENOSPC, errno.EDQUOT):
                self._note_full()
                raise JournalFull(failure.errno, failure.strerror, path) from failure
            raise
        self._counters.add(Slot.QUEUE_SEGMENTS_CREATED, 1)
        return Segment(path, fd, 0, size, 0, self.disk)

    def make_spare(self):
        """Make a file for `prepare_spare` (in a thread) and `add_spare`; JournalFull when there is no room."""
        return self._make_file(self.segment_octets)

    def prepare_spare(self, Segment segment):
        """Fill it with zeros and sync it and the folder; when that fails the file goes. Blocks: call it in a thread."""
        try:
            segment.fill_with_zeros()
            self.disk.sync_folder(self._folder_fd)
        except OSError:
            self.disk.unlink_file(segment.path)
            raise

    @property
    def wants_spare(self) -> bool:
        """Whether a spare file should be prepared."""
        return not self.spares and not self.failed

    def add_spare(self, Segment segment):
        """A file that `prepare_spare` made ready."""
        self.spares.append(segment)

    cdef bint _reserve_takes(self, uint64_t length) noexcept:
        """Whether a notification may use what is left on a full disk.

        It ends a message, and so makes room in time; half of the reserve stays for the `done` records.
        """
        return self._active is None or not self._on_reserve or self._active.used + length <= self._active.size >> 1

    cdef int append_message(self, Message message, Receiver receiver, bint notification=False) except -1:
        """Append the record of message.buffer; receiver is told when it is safe (None: nobody is).

        notification: it is about a message that is ours, and may use a part of the last room.
        """
        cdef MailBuffer buffer = message.buffer
        cdef size_t length = buffer.end - buffer.begin
        cdef char *record = buffer.octets + buffer.begin
        cdef bint is_new = message.state == MESSAGE_COMMITTING       # else it was accepted in class memory
        cdef Segment segment
        cdef uint64_t sequence
        cdef bint must_sync = message.durability != DURABILITY_ASYNC
        if not is_new and self.ledger.in_memory_changed:
            self.checkpoint()                # which has it among those in memory
        segment = self._place(length, notification and self._reserve_takes(length))
        (<RecordHeader *>record).flags = 0 if is_new else RECORD_FROM_MEMORY
        seal_record(record, segment.serial)
        sequence = committer_put(self._committer, segment.fd, segment.used, record, length, 0, must_sync, 0, 0)
        if sequence == 0:
            raise MemoryError
        message.segment = segment
        message.offset = segment.used
        message.record_octets = length
        segment.used += length
        segment.alive += 1
        segment.alive_octets += length
        if is_new:
            self.ledger.pending += message.recipients
        else:
            self.ledger.in_memory -= message.recipients - counted_of(message)
        self._wait(sequence, message, receiver)
        self._ask_kick(not must_sync)
        return 0

    cdef int count_memory(self, Message message) except -1:
        """A message of class memory was accepted."""
        self.ledger.accepted += message.recipients
        self.ledger.in_memory += message.recipients
        self.ledger.in_memory_changed = True
        return 0

    def checkpoint(self):
        """Append the ledger's totals: what they say of class memory is in no other record."""
        cdef LedgerMeta meta
        self.ledger.write(&meta)
        self.append_small(RECORD_LEDGER, 0, 0, <const char *>&meta, sizeof(meta))
        self.ledger.in_memory_changed = False

    def checkpoint_memory(self):
        """A checkpoint if class memory has changed since the last; call it once a second."""
        if self.ledger.in_memory_changed and not self.failed:
            self.checkpoint()

    def append(self, Message message, Receiver receiver):
        """append_message for callers in Python."""
        self.append_message(message, receiver)

    cdef int append_small(self, uint8_t type, uint64_t id, uint16_t flags, const char *body, size_t n) except -1:
        """Append a record about a message. It goes to disk with the next commit, or with the next flush."""
        cdef char on_stack[512]
        cdef char *record = on_stack
        cdef size_t length = sizeof(RecordHeader) + n
        cdef Segment segment = self._place(length, True)
        cdef uint64_t sequence
        if length > sizeof(on_stack):
            record = <char *>malloc(length)
            if record == NULL:
                raise MemoryError
        make_header(<RecordHeader *>record, type, id, flags, length)
        if n:
            memcpy(record + sizeof(RecordHeader), body, n)
        seal_record(record, segment.serial)
        sequence = committer_put(self._committer, segment.fd, segment.used, record, length, 1, 0, 0, 0)
        if record != on_stack:
            free(record)
        if sequence == 0:
            raise MemoryError
        self._placed = segment.used
        segment.used += length
        self._appended = sequence
        return 0

    def append_record(self, int type, uint64_t id, bytes body):
        """append_small for callers in Python."""
        self._append_kept(None, type, id, body)

    cdef int _append_kept(self, Message message, uint8_t type, uint64_t id, bytes body) except -1:
        """Append a record and keep it at hand until it is on disk."""
        self.append_small(type, id, 0, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
        place = (self._active.serial, self._placed)
        self._recent[place] = (message, type, id, body)
        self._recent_order.append((self._appended, place))
        return 0

    def append_outcome(self, Message message, list entries, *, double attempted, int attempt, double next_attempt,
                       bytes next_hop=b"", bytes host=b"", bytes source=b"", bytes pool=b""):
        """Journal what an attempt came to and make the record the last of the message's chain.

        entries: [(recipient index, RecipientState, reply code, text)]; recipients for whom it has ended without the
        journal knowing are added. JournalFull or JournalFailed when the journal takes nothing; the message's chain is
        then as it was.
        """
        cdef uint16_t i
        cdef int delivered = 0, failed = 0, expired = 0
        cdef list told = [entry[0] for entry in entries]
        cdef list ended = []
        cdef bytes body
        if message.segment is None:
            raise JournalFailed(errno.ENOENT, "the message has no record on disk", self.folder)
        for i in range(message.recipients):
            if is_final(message.states[i]) and not is_counted(message, i):
                ended.append(i)
                delivered += message.states[i] == RECIPIENT_DELIVERED
                failed += message.states[i] == RECIPIENT_FAILED
                expired += message.states[i] == RECIPIENT_EXPIRED
        for index in ended:
            if index not in told:
                entries = [*entries, (index, message.states[<uint16_t>index], 0, b"")]
        previous = (message.outcome_serial, message.outcome_offset)
        if message.id in self._moving and (<Move>self._moving[message.id]).old_outcome == previous:
            previous = (<Move>self._moving[message.id]).outcome
        body = encode_outcome(message.attempts, next_attempt, entries, attempted=attempted, attempt=attempt,
                              next_hop=next_hop, host=host, previous=previous,
                              ended=(delivered, failed, expired), source=source, pool=pool)
        self._chain(message, body)
        for index in ended:
            set_counted(message, index)
        self.ledger.counted += len(ended)
        self.ledger.end(END_DELIVERED, delivered)
        self.ledger.end(END_BOUNCED, failed)
        self.ledger.end(END_EXPIRED, expired)

    cdef int _chain(self, Message message, bytes body) except -1:
        """Append an outcome record; until it is on disk, its body can be read from memory."""
        self._append_kept(message, RECORD_OUTCOME, message.id, body)
        self.ledger.chain_units -= message.outcome_units
        note_outcome(message, self._active.serial, self._placed, sizeof(RecordHeader) + PyBytes_GET_SIZE(body))
        self.ledger.chain_units += message.outcome_units
        return 0

    def read_outcomes(self, Message message, int most=ATTEMPTS_KEPT) -> list:
        """What the message's attempts came to, oldest first: the records of its newest `most` attempts.

        A record that cannot be read ends the list. Blocks: call it in a thread.
        """
        found = []
        attempts = set()
        place = (message.outcome_serial, message.outcome_offset)
        while place[0] and len(found) < MOST_RECORDS_READ:
            body = self._read_body(message.id, place)
            if body is None:
                break
            outcome = decode_outcome(body)
            attempts.add(outcome.attempt)
            if len(attempts) > most:
                break
            found.append(outcome)
            before = previous_of(body)
            if before >= place:
                break
            place = before
        found.reverse()
        return found

    def last_replies(self, Message message) -> dict:
        """{recipient index: (reply code, text)} of the recipients who are not final.

        It reads no further back than it has to. Blocks: call it in a thread.
        """
        wanted = set(message.unfinished())
        replies = {}
        place = (message.outcome_serial, message.outcome_offset)
        cdef int _i
        for _i in range(MOST_RECORDS_READ):
            body = self._read_body(message.id, place) if place[0] and wanted else None
            if body is None:
                break
            for index, _, code, text in decode_outcome(body).entries:
                if index in wanted:
                    replies[index] = (code, text)
                    wanted.discard(index)
            before = previous_of(body)
            if before >= place:
                break
            place = before
        return replies

    def _read_body(self, uint64_t id, tuple place):
        """The body of the outcome record of message `id` at (serial, offset), or None."""
        cdef RecordHeader header
        cdef bytes octets
        cdef Segment segment = None
        recent = self._recent.get(place)
        if recent is not None:
            return recent[3]
        for each in list(self.segments):
            if (<Segment>each).serial == place[0]:
                segment = <Segment>each
                break
        if segment is None:
            return None
        octets = self.disk.read_at(segment.fd, FIRST_READ, place[1])
        if PyBytes_GET_SIZE(octets) < <Py_ssize_t>sizeof(header):
            return None
        memcpy(&header, PyBytes_AS_STRING(octets), sizeof(header))
        if header.type != RECORD_OUTCOME or header.id != id or header.meta_length > MOST_OUTCOME_OCTETS:
            return None
        if header.meta_length > FIRST_READ:
            octets = self.disk.read_at(segment.fd, header.meta_length, place[1])
        if not record_is_sound(PyBytes_AS_STRING(octets), PyBytes_GET_SIZE(octets), place[0]):
            return None
        return octets[sizeof(header) : header.meta_length]

    cdef int append_done(self, Message message, int reason) except -1:
        """Nothing is left to do for message: say so in the journal and let go of its record.

        Recipients that are not final are dropped, for that DropReason.
        """
        cdef uint64_t ends[END_DROPPED + DROP_REASONS]
        cdef uint16_t pairs[2 * (END_DROPPED + DROP_REASONS)]
        cdef int slot = message.in_flight
        cdef int how, kinds = 0, last = 0
        cdef uint16_t i, counted = 0
        message.in_flight = -1
        message.state = MESSAGE_GONE
        memset(ends, 0, sizeof(ends))
        for i in range(message.recipients):
            if is_counted(message, i):
                counted += 1
            elif message.states[i] == RECIPIENT_DELIVERED:
                ends[END_DELIVERED] += 1
            elif message.states[i] == RECIPIENT_FAILED:
                ends[END_BOUNCED] += 1
            elif message.states[i] == RECIPIENT_EXPIRED:
                ends[END_EXPIRED] += 1
            else:
                ends[END_DROPPED + reason] += 1
        if message.segment is None:          # never was in the journal
            self.ledger.in_memory -= message.recipients - counted
            self.ledger.in_memory_changed = True
        else:
            for how in range(1, END_DROPPED + DROP_REASONS):
                if ends[how]:
                    pairs[2 * kinds] = how
                    pairs[2 * kinds + 1] = <uint16_t>ends[how]
                    kinds += 1
                    last = how
            try:
                if kinds == 1 and ends[last] <= DONE_MOST:
                    self.append_small(RECORD_DONE, message.id, last | <int>ends[last] << DONE_COUNT_SHIFT, NULL, 0)
                else:
                    self.append_small(RECORD_DONE, message.id, 0, <const char *>pairs, kinds * 4)
            except OSError:
                if slot >= 0:
                    message.in_flight = slot     # stays in the table: after a crash it is in doubt
                raise
            self._finish_later(self._appended, slot, message.id)
        self.ledger.counted -= counted
        for how in range(1, END_DROPPED + DROP_REASONS):
            self.ledger.end(how, ends[how])
        return self.forget(message)

    def done(self, Message message, int reason=DROP_DELETED):
        """append_done for callers in Python."""
        self.append_done(message, reason)

    cdef int forget(self, Message message) except -1:
        """The record of message is no longer needed where it stands."""
        cdef Segment segment = <Segment>message.segment
        message.segment = None
        self.ledger.chain_units -= message.outcome_units
        message.outcome_units = 0
        return 0 if segment is None else self._release(segment, message.record_octets)

    cdef int _release(self, Segment segment, uint32_t octets) except -1:
        """One record less is alive in segment."""
        segment.alive -= 1
        segment.alive_octets -= octets
        if segment.alive == 0 and segment.sealed:
            self._recycle()
            if self._leaving and self._active is not None:
                self._say_oldest(False)
        return 0

    cdef int _recycle(self) except -1:
        """Take the segments at the old end in which nothing is alive out of the journal."""
        cdef Segment first
        while len(self.segments) > 1:
            first = self.segments[0]
            if first.alive or not first.sealed:
                break
            self.segments.pop(0)
            if first.index_octets:
                self._drop_index(first)
            # older spares go first: what became of their messages may stand in a younger file only
            if first.harmed or first.size != self.segment_octets:
                self._leaving += self.spares
                self.spares.clear()
                self._leaving.append(first)
            else:
                self.spares.append(first)
            while len(self.spares) > self.most_spares:
                self._leaving.append(self.spares.pop(0))
        return 0

    def _drop_index(self, Segment segment):
        """The side file of a segment that is no longer needed goes with it."""
        segment.index_octets = 0
        with contextlib.suppress(OSError):
            self.disk.unlink_file(segment.path.removesuffix(".segment") + ".index")

    @property
    def has_room(self) -> bool:
        """Whether there is more room than what is kept for records about queued mail."""
        return self._has_room()

    cdef int _part(self, uint64_t sequence) except -1:
        """What is leaving is unlinked when the header that was put with this sequence is on disk."""
        for segment in self._leaving:
            self._parting.append((sequence, segment))
        self._leaving.clear()
        return 0

    cdef uint64_t _say_oldest(self, bint must_sync) except 0:
        """Write behind the header of the segment that grows which serial is the oldest alive now.

        A barrier: what says that the messages of the files that go are done is on disk before.
        """
        cdef Segment segment = self._active
        cdef bytes header = segment_header(self.shard, segment.serial, (<Segment>self.segments[0]).serial, segment.size)
        cdef uint64_t position = HEADER_ROOM * (1 + self._headers % MORE_HEADERS)
        cdef uint64_t sequence = committer_put(self._committer, segment.fd, position, PyBytes_AS_STRING(header),
                                               PyBytes_GET_SIZE(header), 1, must_sync, 0, 1)
        if sequence == 0:
            raise MemoryError
        self._headers += 1
        self._part(sequence)
        return sequence

    def is_safe(self, Segment segment) -> bool:
        """Whether all records of a sealed segment are on disk as they are in the kernel."""
        return (
            self._committer != NULL
            and segment.sealed
            and not segment.harmed
            and segment.closed <= get64(self._committer.synced)
        )

    def sync(self):
        """Write and sync what has gathered, and wait for it: for the start, before the loop runs."""
        cdef uint64_t sequence
        if self._active is None:
            return
        sequence = self._say_oldest(True)
        self.kick()
        poll = select.poll()
        poll.register(self._event_fd, select.POLLIN)
        while get64(self._committer.synced) < sequence and not get_int(self._committer.error):
            poll.poll()
            self.on_commit()
        if self.failed:
            raise JournalFailed(self.failed, os.strerror(self.failed), self.folder)

    cdef int _remove_file(self, Segment segment) except -1:
        """Unlink a file that is no longer needed; one that cannot be unlinked now goes at the next start."""
        with contextlib.suppress(OSError):
            self.disk.unlink_file(segment.path)
        if self.let_go is not None:
            self.let_go([segment])
        return 0

    cdef void mark_in_flight(self, Message message) noexcept:
        """The last octets of message are about to leave for a next hop."""
        if message.in_flight < 0 and message.segment is not None and self._free_count > 0 and self._in_flight != NULL:
            self._free_count -= 1
            message.in_flight = self._free_slots[self._free_count]
            self._in_flight[message.in_flight] = message.id

    def settle_in_flight(self, Message message):
        """The outcome of an attempt has been appended: message is out of doubt as soon as that record is written."""
        cdef int slot = message.in_flight
        if slot >= 0 and self._in_flight != NULL:
            message.in_flight = -1
            self._finish_later(self._appended, slot, 0)

    cdef int _finish_later(self, uint64_t sequence, int slot, uint64_t id) except -1:
        cdef size_t capacity, i
        cdef Finished *moved
        if self._finished_count == self._finished_capacity:
            capacity = self._finished_capacity * 2 if self._finished_capacity else 256
            moved = <Finished *>malloc(capacity * sizeof(Finished))
            if moved == NULL:
                raise MemoryError
            for i in range(self._finished_count):
                moved[i] = self._finished[(self._finished_head + i) % self._finished_capacity]
            free(self._finished)
            self._finished = moved
            self._finished_capacity = capacity
            self._finished_head = 0
        i = (self._finished_head + self._finished_count) % self._finished_capacity
        self._finished[i].sequence = sequence
        self._finished[i].slot = slot
        self._finished[i].id = id
        self._finished_count += 1
        return 0

    cdef void _free_slot(self, int slot) noexcept:
        if slot < 0:
            return
        self._in_flight[slot] = 0
        self._free_slots[self._free_count] = slot
        self._free_count += 1

    cdef int _wait(self, uint64_t sequence, Message message, Receiver receiver) except -1:
        cdef size_t capacity, i
        cdef Waiting *moved
        if self._waiting_count == self._waiting_capacity:
            capacity = self._waiting_capacity * 2 if self._waiting_capacity else 256
            moved = <Waiting *>malloc(capacity * sizeof(Waiting))
            if moved == NULL:
                raise MemoryError
            for i in range(self._waiting_count):
                moved[i] = self._waiting[(self._waiting_head + i) % self._waiting_capacity]
            free(self._waiting)
            self._waiting = moved
            self._waiting_capacity = capacity
            self._waiting_head = 0
        i = (self._waiting_head + self._waiting_count) % self._waiting_capacity
        Py_INCREF(message)
        Py_INCREF(receiver)
        Py_INCREF(message.buffer)
        self._waiting[i].buffer = <void *>message.buffer
        self._waiting[i].sequence = sequence
        self._waiting[i].message = <void *>message
        self._waiting[i].receiver = <void *>receiver
        self._waiting_count += 1
        return 0

    cdef int _ask_kick(self, bint flush) except -1:
        if flush:
            self._flush_asked = True
        if not self._kick_asked:
            self._kick_asked = True
            if self.kick_later is None:
                self.kick()
            else:
                self.kick_later(self.kick)
        return 0

    def kick(self):
        """Let the commit thread go on with what has gathered."""
        cdef bint flush = self._flush_asked
        self._kick_asked = False
        self._flush_asked = False
        if self._committer != NULL:
            committer_kick(self._committer, flush)

    def flush(self):
        """Let the commit thread write what nobody waits for; call it a few times a second."""
        if self._committer != NULL:
            committer_kick(self._committer, 1)

    def on_commit(self):
        """Tell those who wait what became of their records, for telling_s at a time. Call it when event_fd is readable.
        """
        cdef uint64_t value
        cdef uint64_t written, synced, now
        cdef int error
        if self._committer == NULL:
            return
        c_read(self._event_fd, &value, 8)
        error = get_int(self._committer.error)
        written = get64(self._committer.written)
        synced = get64(self._committer.synced)
        now = get64(self._committer.syncs)
        if now != self._seen_syncs:
            slot_add(self._counters.slots, Slot.QUEUE_SYNCS_TOTAL, now - self._seen_syncs)
            value = get64(self._committer.sync_us)
            slot_observe(self._counters.slots, Slot.QUEUE_SYNC_LATENCY,
                         (value - self._seen_sync_us) // (now - self._seen_syncs))
            self._seen_sync_us = value
            self._seen_syncs = now
        now = get64(self._committer.groups)
        if now != self._seen_groups:         # one, unless the loop was late: then those of the same time count alike
            value = get64(self._committer.write_us)
            slot_observe(self._counters.slots, Slot.QUEUE_WRITE_LATENCY,
                         (value - self._seen_write_us) // (now - self._seen_groups))
            self._seen_write_us = value
            value = get64(self._committer.group_records)
            slot_observe(self._counters.slots, Slot.QUEUE_BATCH_RECORDS,
                         100 * (value - self._seen_group_records) // (now - self._seen_groups))
            self._seen_group_records = value
            self._seen_groups = now
        value = get64(self._committer.octets)
        slot_add(self._counters.slots, Slot.QUEUE_JOURNAL_WRITTEN_OCTETS, value - self._seen_octets)
        self._seen_octets = value
        try:
            self._settle(written, synced, error)
        except BaseException:
            # whoever stands behind the one that failed is told in the loop's next turn
            self._more_to_tell = True
            self._ring()
            raise

    cdef int _ring(self) noexcept:
        """Be called again in the loop's next turn."""
        cdef uint64_t value = 1
        c_write(self._event_fd, &value, 8)
        return 0

    cdef int _settle(self, uint64_t written, uint64_t synced, int error) except -1:
        cdef Waiting first
        cdef Finished *finished
        cdef Message message
        cdef Receiver receiver
        cdef Segment segment
        cdef int outcome
        cdef uint32_t told = 0
        cdef double until = 0
        if error and not self.failed:
            self._fence(error)
        while self._finished_freed < self._finished_count:
            finished = &self._finished[(self._finished_head + self._finished_freed) % self._finished_capacity]
            if finished.sequence > written:
                break
            self._free_slot(finished.slot)
            finished.slot = -1
            self._finished_freed += 1
        while self._finished_freed and self._finished[self._finished_head].sequence <= synced:
            self._finished_head = (self._finished_head + 1) % self._finished_capacity
            self._finished_count -= 1
            self._finished_freed -= 1
        while self._parting and self._parting[0][0] <= synced:
            self._remove_file(self._parting.pop(0)[1])
        if self._moves:
            self._finish_moves(synced, error != 0)
        while self._recent_order and self._recent_order[0][0] <= synced:
            self._recent.pop(self._recent_order.popleft()[1])
        if not self._more_to_tell:
            slot_add(self._counters.slots, Slot.QUEUE_COMMITS_TOTAL, 1)
        self._more_to_tell = False
        while self._waiting_count:
            if told == TOLD_UNWATCHED:
                until = monotonic() + self.telling_s
            elif told > TOLD_UNWATCHED and error == 0 and monotonic() >= until:
                self._more_to_tell = True
                return self._ring()
            told += 1
            first = self._waiting[self._waiting_head]
            message = <Message>first.message
            receiver = <Receiver>first.receiver
            if first.sequence <= synced or (
                first.sequence <= written and message.durability == DURABILITY_ASYNC and not error
            ):
                outcome = 0
            elif error:
                outcome = error
            else:
                break
            self._waiting_head = (self._waiting_head + 1) % self._waiting_capacity
            self._waiting_count -= 1
            Py_DECREF(message)
            Py_DECREF(receiver)
            Py_DECREF(<object>first.buffer)
            if outcome == 0:
                slot_add(self._counters.slots, Slot.QUEUE_COMMIT_RECORDS, 1)
                if message.state == MESSAGE_COMMITTING:
                    self.ledger.pending -= message.recipients
                    self.ledger.accepted += message.recipients
                if receiver is not None:
                    receiver.committed(message, 0)
                self._taker.take(message)
            else:
                segment = <Segment>message.segment
                if segment is not None:              # None: from class memory, and done meanwhile
                    segment.alive -= 1
                    segment.alive_octets -= message.record_octets
                message.segment = None
                self._doomed.append(message.id)      # parts of it, or all, may be on disk
                if message.state == MESSAGE_COMMITTING:
                    message.state = MESSAGE_GONE
                    self.ledger.pending -= message.recipients
                elif message.state != MESSAGE_GONE:
                    # it is ours already, and in memory again
                    self.ledger.in_memory += message.recipients - counted_of(message)
                    self.ledger.in_memory_changed = True
                if receiver is not None:
                    receiver.committed(message, outcome)
        return 0

    def _fence(self, int error):
        """A write or sync failed: neither the segment that grows nor the one that failed takes anything more."""
        cdef Segment segment
        self.failed = error
        self._counters.add(Slot.QUEUE_SHARD_FENCED, 1)
        self._counters.set(Slot.QUEUE_SHARDS_FAILED, self._counters.value(Slot.QUEUE_SHARDS_FAILED) + 1)
        if self._active is not None:
            self._active.harmed = True
            self._active.sealed = True
            self._active = None
        for segment in self.segments:
            if segment.fd == self._committer.failed_fd or segment.closed > get64(self._committer.synced):
                segment.harmed = True
                segment.sealed = True

    def set_sync_interval(self, double seconds):
        """The longest time between 250 and the disk of class async, from now on."""
        if self._committer != NULL:
            committer_set_sync_interval(self._committer, <uint64_t>(seconds * 1e6))

    def heal(self) -> bool:
        """After a failure, try a new file. True when the journal takes records again; OSError says why it does not."""
        cdef Segment segment
        if not self.failed:
            return True
        if self._committer == NULL:
            raise JournalFailed(errno.EBADF, "the journal is closed", self.folder)
        segment = self._make_file(self.segment_octets)
        try:
            self.disk.fill_with_zeros(segment.fd, BLOCK)
        finally:
            self.disk.unlink_file(segment.path)
        # the header that lets a file go was not written, or is in the file that failed
        self._leaving = [segment for _, segment in self._parting] + self._leaving
        self._parting.clear()
        folder_fd = self.disk.open_file(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        committer_restart(self._committer, folder_fd)
        self.disk.close_file(self._folder_fd)
        self._folder_fd = folder_fd
        self.failed = 0
        try:
            self._append_again()
        except OSError as failure:
            self.failed = failure.errno or errno.EIO
            raise
        self._counters.add(Slot.QUEUE_SHARD_HEALED, 1)
        self._counters.set(Slot.QUEUE_SHARDS_FAILED, self._counters.value(Slot.QUEUE_SHARDS_FAILED) - 1)
        return True

    def _append_again(self):
        """Small records that may not have reached the disk are written once more, an outcome behind the one before it.

        The checkpoint of the segment that they go to knows all that has ended: what they say of it again counts for
        nothing.
        """
        cdef Message message
        cdef Finished finished
        cdef size_t i, count = self._finished_count
        for id in self._doomed:
            self.append_small(RECORD_DONE, id, DONE_NEVER, NULL, 0)
        places = {}
        order, self._recent_order = self._recent_order, deque()
        try:
            for _, place in order:
                message, kind, id, body = self._recent[place]
                if message is None:
                    self._append_kept(None, kind, id, body)
                elif message.state != MESSAGE_GONE and message.segment is not None:
                    outcome = decode_outcome(body)
                    self._chain(message, encode_outcome(
                        outcome.attempts, outcome.next_attempt, outcome.entries, attempted=outcome.attempted,
                        attempt=outcome.attempt, next_hop=outcome.next_hop, host=outcome.host,
                        previous=places.get(message.id, previous_of(body)), source=outcome.source, pool=outcome.pool,
                    ))
                    places[message.id] = (message.outcome_serial, message.outcome_offset)
            for i in range(count):
                finished = self._finished[(self._finished_head + i) % self._finished_capacity]
                if finished.id:
                    self.append_small(RECORD_DONE, finished.id, 0, NULL, 0)
                    self._finish_later(self._appended, finished.slot, finished.id)
                else:
                    self._free_slot(finished.slot)
                    self._finished[(self._finished_head + i) % self._finished_capacity].slot = -1
        except OSError:
            for _, place in self._recent_order:      # all of them once more, next time
                self._recent.pop(place, None)
            self._recent_order = order
            self._finished_count = count
            raise
        self._finished_head = (self._finished_head + count) % self._finished_capacity if count else 0
        self._finished_count -= count
        self._finished_freed = 0
        for _, place in order:
            self._recent.pop(place, None)
        self._doomed.clear()

    def read_record(self, Message message) -> bytes:
        """The whole record of message from disk. Blocks: call it in a thread."""
        cdef Segment segment
        cdef uint32_t offset, n
        while True:
            segment = <Segment>message.segment
            offset, n = message.offset, message.record_octets
            if segment is None:
                raise JournalFailed(errno.ENOENT, "the message has no record on disk", self.folder)
            octets = self.disk.read_at(segment.fd, n, offset)
            if message.segment is segment and message.offset == offset:
                return octets                # else it was moved, and something else may stand there already

    # ------------------------------------------------------------------ moving what lives in old segments

    @property
    def moving(self) -> int:
        """Copies that are not on disk yet."""
        return len(self._moves)

    def is_at(self, Message message, Segment segment, uint32_t offset, tuple outcome) -> bool:
        """Whether message may be moved, and its record and the last of its outcomes are where they were."""
        return message.segment is segment and message.offset == offset and message.id not in self._moving and (
            message.state != MESSAGE_GONE and (message.outcome_serial, message.outcome_offset) == outcome
        )

    def move(self, Message message, bytes record, list outcomes, bint last):
        """Copy message to the segment that grows: `record` as it was read, `outcomes` as read_outcomes gave them.

        What it is worth now (states, attempts, hold) goes with it, in one record. The old place is let go when the copy
        is on disk; until then, and if that fails, the message is where it was. `last`: sync what was put so far.
        OSError when the journal takes nothing.
        """
        cdef Move move = Move()
        cdef RecordHeader header
        cdef MovedMeta moved
        cdef const char *p = PyBytes_AS_STRING(record)
        cdef size_t n = PyBytes_GET_SIZE(record)
        cdef size_t meta_length, trailer = message.recipients + sizeof(MovedMeta), data
        cdef char *meta
        cdef Segment segment
        cdef uint16_t i
        cdef uint32_t units = 0
        memcpy(&header, p, sizeof(header))
        data = n - header.meta_length
        meta_length = header.meta_length
        if header.flags & RECORD_MOVED:
            meta_length -= trailer
        move.outcome = (0, 0)
        move.old_outcome = (message.outcome_serial, message.outcome_offset)
        for outcome in outcomes:
            body = encode_outcome(
                outcome.attempts, outcome.next_attempt, outcome.entries, attempted=outcome.attempted,
                attempt=outcome.attempt, next_hop=outcome.next_hop, host=outcome.host, previous=move.outcome,
                source=outcome.source, pool=outcome.pool,
            )
            self.append_small(RECORD_OUTCOME, message.id, RECORD_MOVED, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
            move.outcome = (self._active.serial, self._placed)
            units += <uint32_t>((sizeof(RecordHeader) + PyBytes_GET_SIZE(body) + 32) // 64)
        move.units = <uint16_t>min(units, <uint32_t>0xFFFF)
        move.message = message
        move.record = record
        move.old = <Segment>message.segment
        move.old_offset = message.offset
        move.octets = <uint32_t>(meta_length + trailer + data)
        segment = self._place(move.octets, False)
        move.segment = segment
        move.offset = <uint32_t>segment.used
        moved.next_attempt_us = <uint64_t>(message.next_attempt * 1e6)
        moved.outcome_serial, moved.outcome_offset = move.outcome
        moved.outcome_units = move.units
        moved.attempts = message.attempts
        moved.held = message.state == MESSAGE_HELD or message.marks & MARK_HOLD != 0
        moved.marks = message.marks & (MARK_IN_DOUBT | MARK_WARNED | MARK_COUNTED)
        meta = <char *>malloc(meta_length + trailer)
        if meta == NULL:
            raise MemoryError
        memcpy(meta, p, meta_length)
        for i in range(message.recipients):
            meta[meta_length + i] = <char>(message.states[i] | (128 if is_counted(message, i) else 0))
        memcpy(meta + meta_length + message.recipients, &moved, sizeof(moved))
        header.meta_length = <uint32_t>(meta_length + trailer)
        header.length = move.octets
        header.flags = RECORD_MOVED
        memcpy(meta, &header, sizeof(header))
        seal_record(meta, segment.serial)
        move.sequence = committer_put(self._committer, segment.fd, segment.used, meta, meta_length + trailer, 1,
                                      last and data == 0, 0, 0)
        free(meta)
        if move.sequence and data:
            move.sequence = committer_put(self._committer, segment.fd, segment.used + meta_length + trailer,
                                          p + n - data, data, 0, last, 0, 0)
        if move.sequence == 0:
            raise MemoryError
        segment.used += move.octets
        segment.alive += 1
        segment.alive_octets += move.octets
        self._moves.append(move)
        self._moving[message.id] = move
        slot_add(self._counters.slots, Slot.QUEUE_COMPACTED_OCTETS, move.octets)
        self._ask_kick(not last)

    cdef int _finish_moves(self, uint64_t synced, bint failed) except -1:
        """The copies that are on disk are what counts from now on."""
        cdef Move move
        cdef Message message
        while self._moves and ((<Move>self._moves[0]).sequence <= synced or failed):
            move = self._moves.popleft()
            message = move.message
            self._moving.pop(message.id, None)
            if move.sequence > synced or message.state == MESSAGE_GONE or message.segment is not move.old or (
                message.offset != move.old_offset
            ):
                self._release(move.segment, move.octets)     # it is done, or the copy is lost
                continue
            message.segment = move.segment
            message.offset = move.offset
            if (message.outcome_serial, message.outcome_offset) == move.old_outcome:
                message.outcome_serial, message.outcome_offset = move.outcome
                self.ledger.chain_units -= message.outcome_units
                message.outcome_units = move.units
                self.ledger.chain_units += message.outcome_units
            self._release(move.old, message.record_octets)
            self.moved_octets += <int64_t>move.octets - <int64_t>message.record_octets
            message.record_octets = move.octets
        if not self._moves and self.on_moved is not None:
            self.on_moved()
        return 0
