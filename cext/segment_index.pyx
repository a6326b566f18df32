"""Side files of sealed segments: the index data of all their records, so that a start need not read mail data.

Job: for a segment that has been full for a while and still holds mail, copy position and meta part of every record into
NAME.index beside NAME.segment; at recovery, give that back. Input: a sealed segment whose records are on disk. Output:
a file of one IndexHeader and, for each record (the ledger's totals in the first block included), its position (u64) and
its meta part as it stands in the segment.

A side file is a help, never a source of truth: it is not synced, and one that is missing, cut off, harmed (its checksum
covers every octet) or of an older life of the segment (its header names the serial) is passed over, and the segment
itself is read. It is made only of a segment whose records are all sound up to the last.

Fails: build_index returns 0 when a record is not sound, or there is no room; OSError when a file cannot be read or
written (and then leaves no side file). Bounds: the index data of one segment is held in memory while it is written.
"""

import contextlib
import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from angarium._core.disk cimport Disk, angarium_disk, angarium_read_all, angarium_write_all, iovec
from angarium._core.journal cimport Segment
from angarium._core.record cimport BLOCK, RECORD_MAGIC, RecordHeader, SegmentHeader, crc32c, record_is_sound

cdef enum:
    INDEX_MAGIC = 0x31584E41     # "ANX1"
    INDEX_VERSION = 1
    WINDOW = 1 << 18             # octets read at a time where records are small
    GLIMPSE = 1 << 12            # and where most of a record is mail data
    UNSOUND = -1000000           # no errno


cdef struct IndexHeader:
    uint32_t magic
    uint32_t crc                 # of everything behind it in this struct
    uint32_t version
    uint32_t shard
    uint64_t serial              # of the segment
    uint64_t used                # octets of the segment that hold records
    uint64_t octets              # of the body
    uint32_t records
    uint32_t body_crc


cdef struct Body:
    char *octets
    size_t used
    size_t capacity
    uint32_t records


def index_path(str path) -> str:
    """Where the side file of a segment is."""
    return path.removesuffix(".segment") + ".index"


def build_index(Segment segment, int shard) -> int:
    """Write the side file of a sealed segment; its octets, or 0 when there is none. Blocks: call it in a thread."""
    cdef IndexHeader header
    cdef Body body
    cdef iovec pieces[2]
    cdef uint64_t serial = segment.serial
    cdef uint64_t used = segment.used
    cdef const angarium_disk *disk = &segment.disk.functions
    cdef int64_t result
    cdef int file
    cdef int fd = segment.fd
    path = index_path(segment.path)
    memset(&body, 0, sizeof(body))
    try:
        with nogil:
            result = collect(disk, fd, serial, used, &body)
        if result == UNSOUND:
            return 0
        if result < 0:
            raise OSError(-result, os.strerror(-result), segment.path)
        memset(&header, 0, sizeof(header))
        header.magic = INDEX_MAGIC
        header.version = INDEX_VERSION
        header.shard = shard
        header.serial = serial
        header.used = used
        header.octets = body.used
        header.records = body.records
        header.body_crc = crc32c(0, body.octets, body.used)
        header.crc = crc32c(0, <char *>&header + 8, sizeof(header) - 8)
        pieces[0].iov_base = &header
        pieces[0].iov_len = sizeof(header)
        pieces[1].iov_base = body.octets
        pieces[1].iov_len = body.used
        file = segment.disk.open_file(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        with nogil:
            result = -angarium_write_all(disk, file, pieces, 2 if body.used else 1, 0)
        segment.disk.close_file(file)
        if result < 0:
            with contextlib.suppress(OSError):
                segment.disk.unlink_file(path)
            raise OSError(-result, os.strerror(-result), path)
        return sizeof(header) + header.octets
    finally:
        free(body.octets)


cdef int64_t collect(const angarium_disk *disk, int fd, uint64_t serial, uint64_t used, Body *body) noexcept nogil:
    """The body; 0, UNSOUND, or a negative errno."""
    cdef char *window = <char *>malloc(WINDOW)
    cdef uint64_t at = 0             # of the window
    cdef uint64_t n = 0              # octets in it
    cdef uint64_t position = BLOCK
    cdef uint64_t wanted, last = 0
    cdef RecordHeader header
    cdef int64_t result = 0
    cdef const char *p
    if window == NULL:
        return -12                   # ENOMEM
    result = angarium_read_all(disk, fd, window, BLOCK, 0)
    if result >= <int64_t>(sizeof(SegmentHeader) + sizeof(header)):
        # the totals of the ledger, behind the segment's header
        p = window + sizeof(SegmentHeader)
        memcpy(&header, p, sizeof(header))
        if record_is_sound(p, <size_t>result - sizeof(SegmentHeader), serial):
            take(body, sizeof(SegmentHeader), p, header.meta_length)
    result = 0 if result >= 0 else result
    while position < used and result == 0:
        wanted = sizeof(header)
        while True:
            if position < at or position + wanted > at + n:
                if wanted > WINDOW or position + wanted > used:
                    result = UNSOUND
                    break
                at = position
                n = WINDOW if last < WINDOW // 16 or wanted > GLIMPSE else GLIMPSE
                if n > used - at:
                    n = used - at
                result = angarium_read_all(disk, fd, window, n, at)
                if result < 0:
                    break
                n = <uint64_t>result
                result = 0
                if n < wanted:
                    result = UNSOUND
                    break
            p = window + (position - at)
            memcpy(&header, p, sizeof(header))
            if header.magic != RECORD_MAGIC or header.length < header.meta_length or (
                header.meta_length < sizeof(header) or position + header.length > used
            ):
                result = UNSOUND
                break
            if wanted == header.meta_length:
                break
            wanted = header.meta_length
        if result < 0:
            break
        if not record_is_sound(p, header.meta_length, serial):
            result = UNSOUND
            break
        result = take(body, position, p, header.meta_length)
        last = header.length
        position += header.length
    free(window)
    return result


cdef int64_t take(Body *body, uint64_t position, const char *p, size_t n) noexcept nogil:
    cdef size_t capacity
    cdef char *moved
    if body.used + 8 + n > body.capacity:
        capacity = (body.used + 8 + n) * 2
        moved = <char *>realloc(body.octets, capacity)
        if moved == NULL:
            return -12
        body.octets = moved
        body.capacity = capacity
    memcpy(body.octets + body.used, &position, 8)
    memcpy(body.octets + body.used + 8, p, n)
    body.used += 8 + n
    body.records += 1
    return 0


def read_index(Disk disk, str path, int shard, uint64_t serial) -> tuple[int, bytes] | None:
    """(used, body) of the side file at path; None when there is none for this life of the segment, or it is harmed."""
    cdef IndexHeader header
    cdef bytes body
    try:
        fd = disk.open_file(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        body = disk.read_at(fd, sizeof(header), 0)
        if PyBytes_GET_SIZE(body) < <Py_ssize_t>sizeof(header):
            return None
        memcpy(&header, PyBytes_AS_STRING(body), sizeof(header))
        if header.magic != INDEX_MAGIC or header.version != INDEX_VERSION:
            return None
        if crc32c(0, <char *>&header + 8, sizeof(header) - 8) != header.crc:
            return None
        if <int>header.shard != shard or header.serial != serial or header.octets > <uint64_t>disk.size(fd):
            return None
        body = disk.read_at(fd, header.octets, sizeof(header))
    except OSError:
        return None
    finally:
        disk.close_file(fd)
    if <uint64_t>PyBytes_GET_SIZE(body) != header.octets:
        return None
    if crc32c(0, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body)) != header.body_crc:
        return None
    return header.used, body
