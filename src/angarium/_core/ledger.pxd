"""One shard's ledger: what became of every recipient that was ever accepted."""

from libc.stdint cimport int64_t, uint16_t, uint64_t


cdef extern from "record_format.h":
    enum:
        DROP_REASONS "ANGARIUM_DROP_REASONS"
        DONE_HOW "ANGARIUM_DONE_HOW"
        DONE_NEVER "ANGARIUM_DONE_NEVER"
        DONE_COUNT_SHIFT "ANGARIUM_DONE_COUNT_SHIFT"
        DONE_MOST "ANGARIUM_DONE_MOST"
        RECORD_FROM_MEMORY "ANGARIUM_RECORD_FROM_MEMORY"
        RECORD_MOVED "ANGARIUM_RECORD_MOVED"

    ctypedef struct LedgerMeta:
        uint64_t accepted
        uint64_t delivered
        uint64_t bounced
        uint64_t expired
        uint64_t dropped[3]
        uint64_t in_memory


cpdef enum DropReason:       # why a recipient left the queue in another way than SMTP's
    DROP_DELETED = 0         # an operator deleted it
    DROP_DAMAGED = 1         # its message cannot be read any more
    DROP_LOST_MEMORY = 2     # it was of class memory when the process died


cdef enum:                   # how it ended for a recipient; 0: no end
    END_DELIVERED = 1
    END_BOUNCED = 2
    END_EXPIRED = 3
    END_DROPPED = 4          # + DropReason


cdef class Ledger:
    cdef readonly uint64_t accepted
    cdef readonly uint64_t delivered
    cdef readonly uint64_t bounced
    cdef readonly uint64_t expired
    cdef uint64_t dropped[3]
    cdef readonly uint64_t in_memory         # recipients of class memory of whom the journal knows nothing
    cdef readonly uint64_t pending           # recipients of messages that are on their way to the disk
    cdef readonly uint64_t counted           # recipients in the totals whose message still has others
    cdef readonly uint64_t chain_units       # octets of the outcome records of living messages, in units of 64
    cdef bint in_memory_changed              # since the last checkpoint

    cdef uint64_t over(self) noexcept
    cdef void end(self, int how, uint64_t recipients) noexcept
    cdef void write(self, LedgerMeta *meta) noexcept
    cdef void read(self, const LedgerMeta *meta) noexcept
    cdef void replay_done(self, uint16_t flags, const char *body, size_t n) noexcept
