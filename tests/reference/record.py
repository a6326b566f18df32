"""The journal on disk, read with struct: what cext/record_format.h says, in the plainest way.

`encode_*` writes what the compiled core should write, `decode_*` reads what it wrote, `walk_segment` reads a whole
segment as recovery should. Speed is no aim.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

SEGMENT_HEADER = struct.Struct("<IIIIQQQQ")  # magic, crc, version, shard, serial, oldest_serial, size, created_us
RECORD_HEADER = struct.Struct("<IIIIQQBBH")  # magic, crc, meta_length, length, serial, id, type, version, flags
# received_us, hold_until, data_crc, recipients, durability, body, flags, ret, priority, trace_fields
ACCEPTED_META = struct.Struct("<QQIHBBBBbB")
# attempted_us, next_attempt_us, previous_serial, previous_offset, attempts, attempt, entries, delivered, failed,
# expired, next_hop_length, host_length
OUTCOME_META = struct.Struct("<QQIIHHHHHHHH")
OUTCOME_ENTRY = struct.Struct("<HBHH")  # index, state, code, length of the text

SEGMENT_MAGIC = int.from_bytes(b"ANS1", "little")
RECORD_MAGIC = int.from_bytes(b"ANR1", "little")
BLOCK = 4096
TEXTS = ("reverse_path", "envid", "listener", "client", "greeting", "login", "tenant")
# next_attempt_us, outcome_serial, outcome_offset, outcome_units, attempts, held, marks
MOVED_META = struct.Struct("<QIIHHBB")
ACCEPTED, OUTCOME, DONE, HOLD, RELEASE, LEDGER = range(1, 7)
FROM_MEMORY, MOVED = 1, 2  # flags of `accepted`
POOL = 128  # flag of the envelope: the name of a source pool stands behind the recipients


def crc32c(octets: bytes, crc: int = 0) -> int:
    """RFC 3720 appendix B.4, a bit at a time."""
    crc ^= 0xFFFFFFFF
    for octet in octets:
        crc ^= octet
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


class HarmedError(ValueError):
    """Octets that are not what they should be."""


@dataclass
class Record:
    """One record, decoded."""

    id: int
    type: int
    serial: int
    length: int
    flags: int = 0
    held: bool = False
    states: tuple[int, ...] = ()  # of a copy
    envelope: dict[str, object] = field(default_factory=dict)
    mail_data: bytes = b""
    attempts: int = 0
    attempt: int = 0
    attempted_us: int = 0
    next_attempt_us: int = 0
    previous: tuple[int, int] = (0, 0)
    ended: tuple[int, int, int] = (0, 0, 0)  # delivered, failed, expired
    next_hop: bytes = b""
    host: bytes = b""
    source: bytes = b""
    pool: bytes = b""
    entries: list[tuple[int, int, int, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class SegmentHead:
    """The header of a segment file."""

    shard: int
    serial: int
    oldest_serial: int
    size: int
    created_us: int


def _prefixed(octets: bytes, position: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<H", octets, position)
    begin = position + 2
    if begin + length > len(octets):
        raise HarmedError("a text runs over the end")
    return octets[begin : begin + length], begin + length


def decode_record(octets: bytes, position: int = 0) -> Record:
    """The record that begins at position; HarmedError when it is not whole and sound, mail data included."""
    if position + RECORD_HEADER.size > len(octets):
        raise HarmedError("too short for a header")
    magic, crc, meta_length, length, serial, number, kind, version, flags = RECORD_HEADER.unpack_from(octets, position)
    if magic != RECORD_MAGIC or version != 1:
        raise HarmedError("not a record")
    if not RECORD_HEADER.size <= meta_length <= length or position + length > len(octets):
        raise HarmedError("lengths that cannot be")
    meta = octets[position : position + meta_length]
    if crc32c(meta[8:]) != crc:
        raise HarmedError("meta part")
    record = Record(number, kind, serial, length)
    body = meta[RECORD_HEADER.size :]
    record.flags = flags
    if kind == ACCEPTED:
        if flags & MOVED:
            (recipients,) = struct.unpack_from("<H", body, 20)
            *_, record.attempts, held, _ = MOVED_META.unpack_from(body, len(body) - MOVED_META.size)
            record.held = bool(held)
            body = body[: len(body) - MOVED_META.size]
            record.states = tuple(state & 127 for state in body[len(body) - recipients :])
            body = body[: len(body) - recipients]
        record.mail_data = octets[position + meta_length : position + length]
        record.envelope, data_crc = _decode_envelope(body)
        if crc32c(record.mail_data) != data_crc:
            raise HarmedError("mail data")
    elif kind == OUTCOME:
        meta = OUTCOME_META.unpack_from(body)
        record.attempted_us, record.next_attempt_us, *previous, record.attempts, record.attempt, entries = meta[:7]
        record.previous, record.ended = tuple(previous), meta[7:10]
        at = OUTCOME_META.size + meta[10] + meta[11]
        record.next_hop, record.host = body[OUTCOME_META.size : at - meta[11]], body[at - meta[11] : at]
        for _ in range(entries):
            index, state, code, n = OUTCOME_ENTRY.unpack_from(body, at)
            at += OUTCOME_ENTRY.size
            record.entries.append((index, state, code, body[at : at + n]))
            at += n
        if at < len(body):
            source, pool = at + 1, at + 2 + body[at]
            record.source, record.pool = body[source : pool - 1], body[pool : pool + body[pool - 1]]
    return record


def _decode_envelope(body: bytes) -> tuple[dict[str, object], int]:
    (received_us, hold_until, data_crc, recipients, durability, mime_body, flags, ret, priority, _) = (
        ACCEPTED_META.unpack_from(body)
    )
    at = ACCEPTED_META.size
    envelope: dict[str, object] = {}
    for name in TEXTS:
        envelope[name], at = _prefixed(body, at)
    people = []
    for _ in range(recipients):
        forward_path, at = _prefixed(body, at)
        notify = body[at]
        orcpt, at = _prefixed(body, at + 1)
        people.append((forward_path, notify, orcpt))
    pool = b""
    if flags & POOL:
        pool, at = _prefixed(body, at)
    if at != len(body):
        raise HarmedError("octets behind the last recipient")
    envelope |= {
        "recipients": people,
        "received_us": received_us,
        "hold_until": hold_until,
        "durability": durability,
        "body": mime_body,
        "flags": flags,
        "ret": ret,
        "priority": priority,
        "source_pool": pool,
    }
    return envelope, data_crc


def encode_record(kind: int, number: int, serial: int, body: bytes, mail_data: bytes = b"") -> bytes:
    """A sealed record of the segment with that serial; body: what stands behind the header in the meta part."""
    meta_length = RECORD_HEADER.size + len(body)
    rest = RECORD_HEADER.pack(0, 0, meta_length, meta_length + len(mail_data), serial, number, kind, 1, 0)[8:] + body
    return struct.pack("<II", RECORD_MAGIC, crc32c(rest)) + rest + mail_data


def decode_segment_header(octets: bytes) -> SegmentHead:
    """The header at the start of octets; HarmedError when there is no sound one."""
    if len(octets) < SEGMENT_HEADER.size:
        raise HarmedError("too short for a header")
    magic, crc, version, shard, serial, oldest_serial, size, created_us = SEGMENT_HEADER.unpack_from(octets)
    if magic != SEGMENT_MAGIC or version != 1 or crc32c(octets[8 : SEGMENT_HEADER.size]) != crc:
        raise HarmedError("not a segment's header")
    return SegmentHead(shard, serial, oldest_serial, size, created_us)


def walk_segment(octets: bytes) -> list[tuple[int, Record]]:
    """(offset, record) of every record of this life of the segment, up to the first that is none."""
    head = decode_segment_header(octets)
    position = BLOCK
    found = []
    while True:
        try:
            record = decode_record(octets, position)
        except HarmedError:
            return found
        if record.serial != head.serial:
            return found
        found.append((position, record))
        position += record.length
