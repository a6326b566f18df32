"""Recovery: read a segment and bring the queue in memory to what the journal says.

Job: walk the records of one segment in order, from the oldest segment to the youngest. Mail data is skipped unless
`whole` is asked for (the segment that was growing when the node went down), where its checksum is verified too. With
the body of a side file (segment_index.pyx) the segment itself is not read at all.

Fails: a record that is not sound is looked past: the next sound record of the same segment is searched for, and what
lies between is reported as torn or harmed. Nothing acknowledged stands behind a torn record, because a sync covers all
that was written before it; so whatever is found behind one is whole mail that was not acknowledged, or the rest of a
segment of which one record was harmed. A record that is harmed is lost only if its message is not said to be done
further on, and stands nowhere else: `damaged` holds those of all segments so far.
"""

import os

from angarium._core.record import format_id

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from angarium._core.disk cimport Disk, real_disk
from angarium._core.journal cimport Segment
from angarium._core.ledger cimport (
    END_BOUNCED,
    END_DELIVERED,
    END_EXPIRED,
    RECORD_FROM_MEMORY,
    RECORD_MOVED,
    Ledger,
    LedgerMeta,
)
from angarium._core.outcome_record cimport OutcomeEntry, OutcomeMeta, next_entry
from angarium._core.record cimport (
    BLOCK,
    MARK_IN_DOUBT,
    MARK_WARNED,
    MESSAGE_COMMITTING,
    MESSAGE_HELD,
    MESSAGE_UNUSUAL,
    RECIPIENT_IN_DOUBT,
    RECORD_ACCEPTED,
    RECORD_DONE,
    RECORD_HOLD,
    RECORD_LEDGER,
    RECORD_MAGIC,
    RECORD_OUTCOME,
    RECORD_RELEASE,
    RECORD_WARNED,
    AcceptedMeta,
    Message,
    RecordHeader,
    SegmentHeader,
    counted_of,
    crc32c,
    is_counted,
    is_final,
    note_outcome,
    read_entry,
    read_moved,
    record_is_sound,
    set_counted,
)
from angarium._core.schedule cimport MessageTable

cdef extern from "<string.h>" nogil:
    void *memmem(const void *haystack, size_t n, const void *needle, size_t m)

cdef enum:
    WINDOW = 1 << 22             # octets read at a time


cdef class SegmentScan:
    """What reading one segment found."""
    cdef readonly uint64_t used              # where the next record would go
    cdef readonly uint32_t accepted
    cdef readonly uint32_t outcomes
    cdef readonly uint32_t done
    cdef readonly uint64_t last_id
    cdef readonly dict damaged               # {id of a message, or less than 0: (segment, offset, octets, why)}
    cdef Segment _segment
    cdef MessageTable _table
    cdef uint64_t _size
    cdef bytes _window
    cdef uint64_t _window_at

    cdef Ledger _ledger
    cdef list _uncounted                     # meta parts of messages whose mail data is harmed, for the ledger

    def __init__(self, Segment segment, MessageTable table, bint whole, Ledger ledger=None, dict damaged=None,
                 tuple index=None):
        self._segment = segment
        self._table = table
        self._ledger = Ledger() if ledger is None else ledger
        self._size = segment.disk.size(segment.fd)
        self.damaged = {} if damaged is None else damaged
        self._uncounted = []
        self._window = b""
        if index is None:
            self._walk(whole)
        else:
            self.used, body = index
            self._walk_index(body)
        segment.used = self.used

    cdef const char *_at(self, uint64_t position, size_t n) except? NULL:
        """A pointer to n octets of the file at position, or NULL where the file is shorter."""
        if position + n > self._size:
            return NULL
        if position < self._window_at or position + n > self._window_at + PyBytes_GET_SIZE(self._window):
            self._window = self._segment.disk.read_at(self._segment.fd, max(n, <size_t>WINDOW), position)
            self._window_at = position
            if <size_t>PyBytes_GET_SIZE(self._window) < n:
                return NULL
        return PyBytes_AS_STRING(self._window) + (position - self._window_at)

    cdef int _walk(self, bint whole) except -1:
        cdef uint64_t position = BLOCK
        cdef uint64_t found
        cdef RecordHeader header
        cdef const char *p
        self.used = BLOCK
        p = self._at(sizeof(SegmentHeader), sizeof(RecordHeader) + sizeof(LedgerMeta))
        if p != NULL and record_is_sound(p, sizeof(RecordHeader) + sizeof(LedgerMeta), self._segment.serial):
            self._ledger.read(<const LedgerMeta *>(p + sizeof(RecordHeader)))
        while True:
            p = self._at(position, sizeof(RecordHeader))
            if p == NULL:
                break
            memcpy(&header, p, sizeof(header))
            if header.magic == RECORD_MAGIC and header.serial == self._segment.serial and (
                position + header.length <= self._size
            ):
                p = self._at(position, header.meta_length) if header.meta_length <= header.length else NULL
                if p != NULL and record_is_sound(p, header.meta_length, self._segment.serial):
                    if not whole or self._data_is_sound(position, &header):
                        self._count_damaged()
                        p = self._at(position, header.meta_length)
                        self._apply(position, &header, p)
                    else:
                        # its length is known, and whatever looks like a record within its mail data is none
                        self._harm(position, header.length, header.id,
                                   f"the mail data of message {format_id(header.id)} is torn or harmed")
                        p = self._at(position, header.meta_length)
                        self._uncounted.append(PyBytes_FromStringAndSize(p, header.meta_length))
                    position += header.length
                    self.used = position
                    continue
            found = self._next_sound(position + 1)
            if header.magic == RECORD_MAGIC and header.serial == self._segment.serial:
                self._harm(position, (found or min(position + header.length, self._size)) - position,
                           header.id if header.type == RECORD_ACCEPTED else 0,
                           f"record of message {format_id(header.id)} is torn or harmed")
            elif found:
                self._harm(position, found - position, 0, "octets that are no record")
            if not found:
                break
            position = found
        return 0

    cdef int _harm(self, uint64_t position, uint64_t octets, uint64_t id, str why) except -1:
        self.damaged[id or -1 - len(self.damaged)] = (self._segment, position, octets, why)
        return 0

    cdef int _count_damaged(self) except -1:
        """Something sound stands behind them: they are not the end of what was written, and had been accepted."""
        cdef RecordHeader header
        for record in self._uncounted:
            memcpy(&header, PyBytes_AS_STRING(record), sizeof(header))
            self._count(&header, PyBytes_AS_STRING(record) + sizeof(header), header.meta_length - sizeof(header))
        self._uncounted.clear()
        return 0

    cdef int _walk_index(self, bytes body) except -1:
        """The records as a side file has them: position and meta part of each. Its checksum has been verified."""
        cdef const char *p = PyBytes_AS_STRING(body)
        cdef uint64_t left = PyBytes_GET_SIZE(body)
        cdef uint64_t position
        cdef RecordHeader header
        while left >= 8 + sizeof(RecordHeader):
            memcpy(&position, p, 8)
            memcpy(&header, p + 8, sizeof(header))
            if not record_is_sound(p + 8, left - 8, self._segment.serial):
                raise ValueError(f"the side file of {self._segment.path} has a record that is not sound")
            self._apply(position, &header, p + 8)
            p += 8 + header.meta_length
            left -= 8 + header.meta_length
        return 0

    cdef uint64_t _next_sound(self, uint64_t position) except? 0:
        """Where the next sound record of this segment begins, or 0."""
        cdef const char *p
        cdef const char *hit
        cdef size_t n, i
        cdef RecordHeader header
        cdef uint32_t magic = RECORD_MAGIC
        while position + sizeof(RecordHeader) <= self._size:
            n = min(<uint64_t>WINDOW, self._size - position)
            p = self._at(position, n)
            if p == NULL:
                return 0
            i = 0
            while i + sizeof(RecordHeader) <= n:
                hit = <const char *>memmem(p + i, n - i, &magic, 4)
                if hit == NULL or <size_t>(hit - p) + sizeof(RecordHeader) > n:
                    break
                i = hit - p
                memcpy(&header, hit, sizeof(header))
                if header.serial == self._segment.serial and header.meta_length <= n - i:
                    if record_is_sound(hit, header.meta_length, self._segment.serial) and (
                        position + i + header.length <= self._size
                    ):
                        return position + i
                i += 1
            if n < <size_t>WINDOW:
                return 0
            position += n - (1 << 17)        # a record's meta part may straddle two windows
        return 0

    cdef bint _data_is_sound(self, uint64_t position, RecordHeader *header) except -1:
        cdef AcceptedMeta meta
        cdef uint64_t at = position + header.meta_length
        cdef uint64_t end = position + header.length
        cdef uint32_t crc = 0
        cdef size_t n
        cdef const char *p
        if header.type != RECORD_ACCEPTED:
            return True
        p = self._at(position, header.meta_length)
        memcpy(&meta, p + sizeof(RecordHeader), sizeof(meta))
        while at < end:
            n = min(<uint64_t>WINDOW, end - at)
            p = self._at(at, n)
            if p == NULL:
                return False
            crc = crc32c(crc, p, n)
            at += n
        return crc == meta.data_crc

    cdef int _apply(self, uint64_t position, RecordHeader *header, const char *p) except -1:
        cdef Message message
        cdef size_t n = header.meta_length - sizeof(RecordHeader)
        if header.id > self.last_id:
            self.last_id = header.id
        self._count(header, p + sizeof(RecordHeader), n)
        message = self._table.find(header.id)
        if self.damaged and header.type in (RECORD_ACCEPTED, RECORD_DONE):
            self.damaged.pop(header.id, None)    # it stands here, or nothing was left to do for it
        if header.type == RECORD_ACCEPTED:
            self.accepted += 1
            if message is None:
                message = Message()
                read_entry(message, p)
                if message.flags & MESSAGE_UNUSUAL:
                    message.state = MESSAGE_HELD
                self._table.add(message)
                self._table.schedule.join(message, p)
            else:
                (<Segment>message.segment).drop_alive(message.record_octets)
                self._table.octets += header.length - message.record_octets
                message.record_octets = header.length
            if header.flags & RECORD_MOVED:
                self._ledger.counted -= counted_of(message)
                self._ledger.chain_units -= message.outcome_units
                read_moved(message, p)
                if message.state != MESSAGE_HELD:
                    message.flags &= ~MESSAGE_UNUSUAL
                self._ledger.counted += counted_of(message)
                self._ledger.chain_units += message.outcome_units
            message.segment = self._segment
            message.offset = position
            self._segment.add_alive(header.length)
        elif message is None:
            return 0                         # about a message that was done in an older life
        elif header.type == RECORD_DONE:
            self.done += 1
            self._ledger.counted -= counted_of(message)
            self._ledger.chain_units -= message.outcome_units
            (<Segment>message.segment).drop_alive(message.record_octets)
            message.segment = None
            self._table.remove(message)
        elif header.type == RECORD_OUTCOME and not header.flags & RECORD_MOVED:
            self.outcomes += 1
            self._outcome(message, position, p + sizeof(RecordHeader), n)
        elif header.type == RECORD_HOLD:
            message.state = MESSAGE_HELD
        elif header.type == RECORD_RELEASE:
            message.state = MESSAGE_COMMITTING
            message.flags &= ~MESSAGE_UNUSUAL
        elif header.type == RECORD_WARNED:
            message.marks |= MARK_WARNED
        return 0

    cdef int _count(self, RecordHeader *header, const char *p, size_t n) except -1:
        """What a record says to the ledger; that does not depend on whether its message is still known."""
        cdef AcceptedMeta accepted
        cdef OutcomeMeta outcome
        if header.type == RECORD_ACCEPTED and n >= sizeof(accepted):
            memcpy(&accepted, p, sizeof(accepted))
            if header.flags & RECORD_FROM_MEMORY:
                self._ledger.in_memory -= accepted.recipients
            elif not header.flags & RECORD_MOVED:
                self._ledger.accepted += accepted.recipients
        elif header.type == RECORD_OUTCOME and n >= sizeof(outcome):
            memcpy(&outcome, p, sizeof(outcome))
            self._ledger.end(END_DELIVERED, outcome.delivered)
            self._ledger.end(END_BOUNCED, outcome.failed)
            self._ledger.end(END_EXPIRED, outcome.expired)
        elif header.type == RECORD_DONE:
            self._ledger.replay_done(header.flags, p, n)
        elif header.type == RECORD_LEDGER and n >= sizeof(LedgerMeta):
            self._ledger.read(<const LedgerMeta *>p)
        return 0

    cdef int _outcome(self, Message message, uint64_t position, const char *p, size_t n) except -1:
        cdef OutcomeMeta meta
        cdef OutcomeEntry entry
        cdef size_t at = sizeof(OutcomeMeta)
        cdef uint16_t i, _i
        if n < sizeof(OutcomeMeta):
            return 0
        memcpy(&meta, p, sizeof(meta))
        message.attempts = meta.attempts
        message.next_attempt = meta.next_attempt_us * 1e-6
        self._ledger.chain_units -= message.outcome_units
        note_outcome(message, self._segment.serial, position, sizeof(RecordHeader) + n)
        self._ledger.chain_units += message.outcome_units
        at += meta.next_hop_length + meta.host_length
        for _i in range(meta.entries):
            at = next_entry(p, n, at, &entry)
            if at == 0 or entry.index >= message.recipients:
                break
            message.states[entry.index] = entry.state
            if is_final(entry.state) and not is_counted(message, entry.index):
                set_counted(message, entry.index)
                self._ledger.counted += 1
        message.marks &= ~MARK_IN_DOUBT      # of an earlier outcome some recipients may still be
        for i in range(message.recipients):
            if message.states[i] == RECIPIENT_IN_DOUBT:
                message.marks |= MARK_IN_DOUBT
        return 0


cdef class LivingScan(SegmentScan):
    """Which messages have their record in a segment."""
    cdef readonly list messages

    def __init__(self, Segment segment, MessageTable table):
        self._segment = segment
        self._table = table
        self._ledger = Ledger()
        self._size = segment.used
        self.damaged = {}
        self._uncounted = []
        self.messages = []
        self._window = b""
        self._walk(False)

    cdef int _apply(self, uint64_t position, RecordHeader *header, const char *p) except -1:
        cdef Message message
        if header.type == RECORD_ACCEPTED:
            message = self._table.find(header.id)
            if message is not None and message.segment is self._segment and message.offset == position:
                self.messages.append(message)
        return 0


def living_messages(Segment segment, MessageTable table) -> list:
    """The messages whose record stands in segment, in order. Blocks: call it in a thread."""
    return LivingScan(segment, table).messages


def scan_segment(Segment segment, MessageTable table, bint whole, Ledger ledger=None, dict damaged=None,
                 tuple index=None) -> SegmentScan:
    """Read segment, or what its side file says (read_index), into table and ledger; OSError when it cannot be read.

    damaged: what earlier segments lost; ids are added, and taken out when their message is done or stands here.
    """
    return SegmentScan(segment, table, whole, ledger, damaged, index)


def read_in_flight(str path, Disk disk=None) -> list[int]:
    """Ids of the messages whose last octets may have left when the node went down; none when there is no such file."""
    if disk is None:
        disk = real_disk()
    try:
        fd = disk.open_file(path, os.O_RDONLY)
    except FileNotFoundError:
        return []
    try:
        octets = disk.read_at(fd, disk.size(fd), 0)
    finally:
        disk.close_file(fd)
    ids = [int.from_bytes(octets[i : i + 8], "little") for i in range(0, len(octets) - 7, 8)]
    return [id for id in ids if id]
