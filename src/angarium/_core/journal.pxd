"""One shard's journal: segments, group commit in a thread of its own that never takes the GIL, the in-flight table."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from angarium._core.counters cimport Counters
from angarium._core.disk cimport Disk, angarium_disk
from angarium._core.ledger cimport Ledger
from angarium._core.record cimport MailBuffer, Message


cdef extern from "committer.h":
    ctypedef struct committer:
        uint64_t sequence    # of what was put last
        uint64_t written
        uint64_t groups
        uint64_t group_records
        uint64_t write_us
        uint64_t synced
        uint64_t syncs
        uint64_t sync_us
        uint64_t octets
        int error
        int failed_fd


cdef class Receiver:
    """Who waits for a commit: a server session, or whoever submits mail from within."""

    # error: 0 when the message is safe in its durability class, else the errno of the write or sync that failed
    cdef int committed(self, Message message, int error) except -1


cdef class Taker:
    """Who takes a message once it is ours: the dispatcher."""
    cdef int take(self, Message message) except -1


cdef class Segment:
    """One file of the journal."""
    cdef int fd
    cdef readonly Disk disk
    cdef readonly str path
    cdef readonly uint64_t serial
    cdef readonly uint64_t size
    cdef readonly uint64_t used
    cdef readonly uint64_t alive_octets      # of messages that are not done
    cdef readonly uint32_t alive             # messages that are not done, and records of them under way
    cdef readonly uint64_t closed            # sequence of what was put behind its last record; 0: recovery found it
    cdef public uint64_t index_octets        # of its side file, 0: it has none
    cdef readonly bint sealed
    cdef readonly bint harmed                # a write or sync failed: read from it, never write or sync it again


cdef struct Waiting:
    uint64_t sequence
    void *message            # owned references
    void *receiver
    void *buffer             # the commit thread writes from it, whatever becomes of the message meanwhile


cdef struct Finished:
    uint64_t sequence        # once this is written …
    int slot                 # … this slot of the in-flight table is free (-1: it has none)
    uint64_t id              # of the message that is done; 0: the record is an outcome and the message goes on


cdef class Move:
    """A copy of a message's record, and of its outcomes, on the way to the disk."""
    cdef readonly Message message
    cdef uint64_t sequence                   # of its last piece
    cdef Segment old                         # where the message was when it was read …
    cdef uint32_t old_offset
    cdef Segment segment                     # … and where it will be
    cdef uint32_t offset
    cdef uint32_t octets
    cdef bytes record                        # kept while the commit thread may write from it
    cdef tuple outcome                       # (serial, offset) of the copy of its last outcome record, of which …
    cdef tuple old_outcome                   # … this is the original
    cdef uint16_t units


cdef class Journal:
    cdef readonly str folder
    cdef readonly int shard
    cdef readonly uint64_t segment_octets
    cdef readonly int most_spares
    cdef readonly list segments              # in order of serial; the last is the one that grows
    cdef readonly list spares                # files ready for use, oldest life first
    cdef readonly int failed                 # errno; 0 while the journal takes records
    cdef public object full                  # True after a segment could not be made for want of room
    cdef public object let_go                # takes [Segment] of a file that went, to drop it where that may take long
    cdef public double telling_s             # of one turn of the loop, to those who wait for a commit
    cdef bint _more_to_tell                  # others have the next turn
    cdef public object kick_later            # called once when a commit has been asked for: arranges for kick() soon
    cdef readonly Ledger ledger
    cdef list _doomed                        # ids of messages whose commit failed, until the journal says so
    cdef Segment _active
    cdef Counters _counters
    cdef Taker _taker
    cdef committer *_committer
    cdef readonly Disk disk
    cdef void *_kept_disk                    # an owned reference: the commit thread uses the disk's functions
    cdef int _folder_fd
    cdef int _event_fd
    cdef int _in_flight_fd
    cdef bint _is_full                       # as the metrics have it: `full` is also cleared to try again
    cdef bint _on_reserve                    # the disk is full, and the last spare serves records about queued mail
    cdef bint _kick_asked
    cdef bint _flush_asked
    cdef uint64_t _next_serial
    cdef uint64_t _last_id
    cdef uint64_t _appended                  # sequence of the last small record …
    cdef uint64_t _placed                    # … and where it begins in the segment that grows
    cdef dict _recent                        # {(serial, offset): (message or None, type, id, body)}: records but `done`
    cdef object _recent_order                # not known to be on disk, and a deque of (sequence, (serial, offset))
    cdef uint64_t _seen_syncs, _seen_sync_us, _seen_octets
    cdef uint64_t _seen_groups, _seen_group_records, _seen_write_us
    cdef Waiting *_waiting                   # ring
    cdef size_t _waiting_head, _waiting_count, _waiting_capacity
    cdef Finished *_finished                 # ring
    cdef size_t _finished_head, _finished_count, _finished_capacity
    cdef size_t _finished_freed              # of these the first so many are written: their slots are free
    cdef uint64_t *_in_flight                # mapped file: ids of messages whose last octets may have left
    cdef int *_free_slots
    cdef int _free_count
    cdef object _moves                       # deque of Move, in order of sequence
    cdef dict _moving                        # {message id: Move}
    cdef public object on_moved              # called when no move is under way any more
    cdef readonly int64_t moved_octets       # by how much moves have made records longer
    cdef list _leaving                       # files to be unlinked when a header says that they are not needed
    cdef list _parting                       # [(sequence, Segment)]: that header has been put
    cdef uint32_t _headers                   # how many have been put, of whichever kind

    cdef uint64_t next_id(self) except 0
    cdef int append_message(self, Message message, Receiver receiver, bint notification=*) except -1
    cdef bint _reserve_takes(self, uint64_t length) noexcept
    cdef int append_small(self, uint8_t type, uint64_t id, uint16_t flags, const char *body, size_t n) except -1
    cdef int append_done(self, Message message, int reason) except -1
    cdef int count_memory(self, Message message) except -1
    cdef int _chain(self, Message message, bytes body) except -1
    cdef int _append_kept(self, Message message, uint8_t type, uint64_t id, bytes body) except -1
    cdef void mark_in_flight(self, Message message) noexcept
    cdef int forget(self, Message message) except -1
    cdef int _release(self, Segment segment, uint32_t octets) except -1
    cdef int _finish_moves(self, uint64_t synced, bint failed) except -1
    cdef Segment _place(self, uint64_t length, bint small)
    cdef int _open_segment(self, uint64_t length, bint small) except -1
    cdef int _wait(self, uint64_t sequence, Message message, Receiver receiver) except -1
    cdef int _finish_later(self, uint64_t sequence, int slot, uint64_t id) except -1
    cdef void _free_slot(self, int slot) noexcept
    cdef int _recycle(self) except -1
    cdef int _part(self, uint64_t sequence) except -1
    cdef uint64_t _say_oldest(self, bint must_sync) except 0
    cdef int _remove_file(self, Segment segment) except -1
    cdef int _ask_kick(self, bint flush) except -1
    cdef int _settle(self, uint64_t written, uint64_t synced, int error) except -1
    cdef int _ring(self) noexcept
