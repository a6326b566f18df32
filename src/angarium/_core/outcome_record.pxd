"""The body of outcome records: walking their entries without Python objects."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef extern from "record_format.h":
    ctypedef struct OutcomeMeta:
        uint64_t attempted_us
        uint64_t next_attempt_us
        uint32_t previous_serial
        uint32_t previous_offset
        uint16_t attempts
        uint16_t attempt
        uint16_t entries
        uint16_t delivered
        uint16_t failed
        uint16_t expired
        uint16_t next_hop_length
        uint16_t host_length


cdef struct OutcomeEntry:
    uint16_t index
    uint8_t state
    uint16_t code
    uint16_t length
    const char *text


# The entry at position of a body of n octets; returns the position of the next one, 0 where it runs over the end.
cdef inline size_t next_entry(const char *body, size_t n, size_t position, OutcomeEntry *entry) noexcept nogil:
    if position + 7 > n:
        return 0
    memcpy(&entry.index, body + position, 2)
    entry.state = <uint8_t>body[position + 2]
    memcpy(&entry.code, body + position + 3, 2)
    memcpy(&entry.length, body + position + 5, 2)
    entry.text = body + position + 7
    position += 7 + entry.length
    return 0 if position > n else position
