"""Outcome records: what one attempt came to, in the journal (format: cext/record_format.h).

Job: encode and decode the body of a RECORD_OUTCOME. The records of one message are a chain: each names the segment and
the offset of the one before it, so that all attempts can be read back from the last one, and none is kept in memory.

The names of the source and its pool stand behind everything else: a release that does not know of them reads the rest,
and a body without them is one of such a release, or of mail that left by no source of the configuration.

Fails: OverflowError for a number that does not fit its field; RecordError for a body that is not whole. Bounds: a
reply's text is cut after MOST_TEXT octets, names of next hops after MOST_NAME.
"""

from collections import namedtuple

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint16_t
from libc.string cimport memcpy

from angarium._core.record import RecordError

MOST_KEPT = 16               # attempts that are read back, and carried along when a segment is compacted
MOST_TEXT = 1000
MOST_NAME = 255


Outcome = namedtuple(
    "Outcome",
    ("attempted", "attempt", "attempts", "next_attempt", "next_hop", "host", "entries", "source", "pool"),
    defaults=(b"", b""),
)


def encode_outcome(int attempts, double next_attempt, list entries, *, double attempted=0.0, attempt=None,
                   bytes next_hop=b"", bytes host=b"", tuple previous=(0, 0), tuple ended=(0, 0, 0),
                   bytes source=b"", bytes pool=b"") -> bytes:
    """The body of an outcome record.

    entries: [(recipient index, RecipientState, reply code, text)]; previous: (serial, offset) of the message's outcome
    record before; ended: how many recipients this record says (delivered, failed, expired) of for the first time.
    """
    cdef OutcomeMeta meta
    next_hop, host = next_hop[:MOST_NAME], host[:MOST_NAME]
    meta.attempted_us = <uint64_t>(attempted * 1e6)
    meta.next_attempt_us = <uint64_t>(next_attempt * 1e6)
    meta.previous_serial, meta.previous_offset = previous
    meta.attempts = <uint16_t>min(attempts, 0xFFFF)
    meta.attempt = <uint16_t>min(attempts if attempt is None else attempt, 0xFFFF)
    meta.entries = len(entries)
    meta.delivered, meta.failed, meta.expired = ended
    meta.next_hop_length = len(next_hop)
    meta.host_length = len(host)
    parts = [PyBytes_FromStringAndSize(<char *>&meta, sizeof(meta)), next_hop, host]
    for index, state, code, text in entries:
        text = text[:MOST_TEXT]
        parts += (index.to_bytes(2, "little"), bytes((state,)), code.to_bytes(2, "little"))
        parts += (len(text).to_bytes(2, "little"), text)
    if source or pool:
        for name in (source[:MOST_NAME], pool[:MOST_NAME]):
            parts += (bytes((len(name),)), name)
    return b"".join(parts)


def decode_outcome(bytes body) -> Outcome:
    """What a body of encode_outcome says; RecordError when it is not whole."""
    cdef OutcomeMeta meta
    cdef OutcomeEntry entry
    cdef const char *p = PyBytes_AS_STRING(body)
    cdef size_t n = PyBytes_GET_SIZE(body)
    cdef size_t position
    cdef int _i
    if n < sizeof(meta):
        raise RecordError(f"an outcome of {n} octets is too short")
    memcpy(&meta, p, sizeof(meta))
    position = sizeof(meta)
    next_hop = body[position : position + meta.next_hop_length]
    position += meta.next_hop_length
    host = body[position : position + meta.host_length]
    position += meta.host_length
    if position > n:
        raise RecordError("the outcome's texts run over its end")
    entries = []
    for _i in range(meta.entries):
        position = next_entry(p, n, position, &entry)
        if position == 0:
            raise RecordError("the outcome's entries run over its end")
        entries.append((entry.index, entry.state, entry.code, PyBytes_FromStringAndSize(entry.text, entry.length)))
    names = []
    while position < n and len(names) < 2:
        length = body[position]
        name = body[position + 1 : position + 1 + length]
        if len(name) < length:
            raise RecordError("the outcome's source runs over its end")
        names.append(name)
        position += 1 + length
    if len(names) == 1:
        raise RecordError("the outcome's source has no pool behind it")
    return Outcome(meta.attempted_us * 1e-6, meta.attempt, meta.attempts, meta.next_attempt_us * 1e-6, next_hop, host,
                   entries, *names)


def previous_of(bytes body) -> tuple[int, int]:
    """(serial, offset) of the outcome record before that one; (0, 0) for the first."""
    cdef OutcomeMeta meta
    if PyBytes_GET_SIZE(body) < <Py_ssize_t>sizeof(meta):
        raise RecordError("an outcome is too short")
    memcpy(&meta, PyBytes_AS_STRING(body), sizeof(meta))
    return meta.previous_serial, meta.previous_offset
