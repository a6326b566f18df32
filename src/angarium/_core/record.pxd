"""The journal's records (format: cext/record_format.h), the octets of one message, and its entry in the queue."""

from libc.stdint cimport int8_t, int16_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "crc32c.h":
    uint32_t crc32c "angarium_crc32c"(uint32_t crc, const void *data, size_t n) noexcept nogil


cdef extern from "record_format.h":
    enum:
        SEGMENT_MAGIC "ANGARIUM_SEGMENT_MAGIC"
        RECORD_MAGIC "ANGARIUM_RECORD_MAGIC"
        BLOCK "ANGARIUM_BLOCK"

    ctypedef struct SegmentHeader:
        uint32_t magic
        uint32_t crc
        uint32_t version
        uint32_t shard
        uint64_t serial
        uint64_t oldest_serial
        uint64_t size
        uint64_t created_us

    ctypedef struct RecordHeader:
        uint32_t magic
        uint32_t meta_crc
        uint32_t meta_length
        uint32_t length
        uint64_t serial
        uint64_t id
        uint8_t type
        uint8_t version
        uint16_t flags

    ctypedef struct AcceptedMeta:
        uint64_t received_us
        uint64_t hold_until
        uint32_t data_crc
        uint16_t recipients
        uint8_t durability
        uint8_t body
        uint8_t flags
        uint8_t ret
        int8_t priority
        uint8_t trace_fields

    ctypedef struct MovedMeta:
        uint64_t next_attempt_us
        uint32_t outcome_serial
        uint32_t outcome_offset
        uint16_t outcome_units
        uint16_t attempts
        uint8_t held
        uint8_t marks


cpdef enum RecordType:
    RECORD_ACCEPTED = 1      # envelope + mail data: the message is ours
    RECORD_OUTCOME = 2       # what an attempt left: states and replies of some recipients, time of the next attempt
    RECORD_DONE = 3          # nothing is left to do for this message
    RECORD_HOLD = 4          # kept from delivery until a RECORD_RELEASE
    RECORD_RELEASE = 5
    RECORD_LEDGER = 6        # totals of recipients so far (ledger.pxd)
    RECORD_WARNED = 8        # its sender was told that it is late


cpdef enum Durability:
    DURABILITY_FSYNC = 0     # on disk before 250
    DURABILITY_ASYNC = 1     # handed to the kernel before 250, on disk within the stated time
    DURABILITY_MEMORY = 2    # on disk only if the first attempt does not deliver


cpdef enum MessageFlag:
    MESSAGE_SMTPUTF8 = 1
    MESSAGE_REQUIRETLS = 2
    MESSAGE_TLS_REQUIRED_NO = 4
    MESSAGE_EIGHT_BIT = 8    # the mail data holds an octet over 127, whatever BODY said
    MESSAGE_BULK = 16        # of class bulk: it gives way to what is not
    MESSAGE_OVER_QUOTA = 32  # beyond what its sender may send at the time: hold_until says when it may go
    MESSAGE_UNUSUAL = 64     # its log-in sent unusually much: held until it is released
    MESSAGE_POOL = 128       # its record names the source pool that it goes by


cpdef enum RecipientState:
    RECIPIENT_QUEUED = 0
    RECIPIENT_DELIVERED = 1
    RECIPIENT_DEFERRED = 2
    RECIPIENT_FAILED = 3
    RECIPIENT_EXPIRED = 4
    RECIPIENT_IN_DOUBT = 5


cpdef enum MessageState:
    MESSAGE_COMMITTING = 0   # its record is on the way to the disk
    MESSAGE_READY = 1        # may go now, or is going
    MESSAGE_SCHEDULED = 2    # waits for its time
    MESSAGE_HELD = 3
    MESSAGE_GONE = 4


cdef enum:
    ATTEMPTS_KEPT = 16       # whose outcome records are read back and carried along

cdef enum:
    ENVELOPE_TEXTS = 7       # the length-prefixed texts in front of the recipients, in AcceptedMeta's order
    TEXT_REVERSE_PATH = 0
    TEXT_ENVID = 1
    TEXT_LISTENER = 2
    TEXT_CLIENT = 3
    TEXT_GREETING = 4
    TEXT_LOGIN = 5
    TEXT_TENANT = 6


cdef struct Text:
    const char *octets
    uint16_t length


cdef struct Recipient:
    Text forward_path
    Text orcpt
    uint8_t notify


cdef class MailBuffer:
    """The octets of one message: room in front, the record's meta part, the mail data.

    The meta part is written backwards into the room in front once the envelope is known, so that the record is one
    piece of memory that the commit thread writes and a connection sends without a copy.
    """
    cdef char *octets
    cdef size_t capacity
    cdef size_t begin        # of the record; == data_begin while there is none
    cdef size_t data_begin   # of the mail data, trace fields included
    cdef size_t end
    cdef Py_ssize_t exports  # views that are out: the memory must not move

    cdef int reserve(self, size_t n) except -1
    cdef int prepend(self, const char *p, size_t n) except -1
    cdef int cut(self, size_t n) except -1
    cdef int make_room_in_front(self, size_t n) except -1
    cdef AcceptedMeta *meta(self) noexcept nogil
    cdef Text text(self, int which) noexcept nogil
    cdef Text pool(self) noexcept nogil      # the name of its source pool; empty: none
    cdef size_t recipient_at(self, size_t position, Recipient *recipient) noexcept nogil
    cdef size_t first_recipient(self) noexcept nogil


cdef enum MessageMark:
    MARK_IN_DOUBT = 1        # the next hop may have it: no final reply was seen
    MARK_SOON = 2            # the next host took some recipients and said "too many" to the rest
    MARK_HOLD = 4            # under way, and to be held when it comes back
    MARK_WARNED = 8          # its sender knows that it is late
    MARK_FRESH = 16          # waits for room only: it goes before what was tried already
    MARK_ATTEMPTED = 32      # some recipient of this round was answered
    MARK_COUNTED = 64        # an only recipient's end is in the journal
    MARK_URGENT = 128        # an operator wants it tried, whatever its next hop did before


cdef class Message:
    """The queue's entry for one message: small, because there may be millions (112 octets).

    It has no methods in C, which would cost a pointer each.
    """
    cdef readonly uint64_t id
    cdef readonly uint64_t received_us       # or the release that the client asked for (RFC 4865): age counts from it
    cdef readonly double next_attempt        # unix seconds; 0 while it is not scheduled and none was asked for
    cdef public object segment               # journal.Segment that holds the record, None for class memory
    cdef public MailBuffer buffer            # None: the mail data is on disk only
    cdef uint8_t *states                     # RecipientState per recipient
    cdef uint32_t queue_number               # of the scheduled queue that it belongs to, 0: none
    cdef uint32_t heap_index                 # its place among those that wait in that queue, NOWHERE: it does not wait
    cdef uint32_t offset                     # of the record in its segment
    cdef readonly uint32_t record_octets
    cdef readonly uint32_t outcome_serial    # segment of its last outcome record, 0: none
    cdef readonly uint32_t outcome_offset    # of that record in its segment
    cdef readonly uint32_t from_hash         # CRC-32C of the reverse-path in lower case
    cdef readonly uint16_t attempts
    cdef readonly uint16_t recipients
    cdef readonly uint16_t outstanding       # deliveries under way or ready
    cdef uint16_t outcome_units              # octets of its outcome records in the journal, in units of 64
    cdef int16_t in_flight                   # slot of the journal's in-flight table, -1: none
    cdef readonly uint16_t outlet            # of a source pool (source_pool.pxd), that it goes by; 0: none
    cdef public uint8_t state                # MessageState
    cdef public uint8_t durability
    cdef uint8_t body
    cdef public uint8_t flags
    cdef uint8_t marks                       # MessageMark
    cdef readonly int8_t priority            # RFC 6710, -9 to 9
    cdef uint8_t _one                        # the state of an only recipient


cdef enum:
    NOWHERE = 0xFFFFFFFF     # heap_index of what is in no heap


cdef int allocate_states(Message message, uint16_t recipients) except -1
cdef bint is_counted(Message message, uint16_t index) noexcept      # whether the journal says how it ended for it
cdef uint16_t counted_of(Message message) noexcept    # for how many it does
cdef void set_counted(Message message, uint16_t index) noexcept
cdef int read_moved(Message message, const char *record) except -1      # what a copied `accepted` record says besides
# its last outcome record is at offset of the segment with that serial and has so many octets
cdef void note_outcome(Message message, uint64_t serial, uint64_t offset, size_t octets) noexcept
cdef int read_entry(Message message, const char *record) except -1
cdef uint32_t hash_path(const char *path, size_t n) noexcept nogil
cdef uint64_t buffered_octets() noexcept nogil
cdef bytes as_bytes(Text text)
cdef bint is_final(uint8_t state) noexcept nogil


cdef struct EnvelopeTexts:
    Text texts[7]


# Writes the meta part of an accepted record in front of buffer's mail data. `recipients_block` is the recipients as the
# record wants them. Serial and checksum are filled in when the journal knows where the record goes (seal_record).
# `pool` is the name of a source pool, of 65,535 octets at most; empty: none.
cdef int write_accepted(MailBuffer buffer, uint64_t id, AcceptedMeta *meta, EnvelopeTexts *texts,
                        const char *recipients_block, size_t recipients_length, bytes pool=*) except -1
cdef Text pool_text(const char *record) noexcept nogil        # the name of the source pool in a sound meta part
cdef void seal_record(char *record, uint64_t serial) noexcept nogil
cdef bint record_is_sound(const char *record, size_t available, uint64_t serial) noexcept nogil
cdef void id_text(uint64_t id, char *out) noexcept nogil      # 13 octets
cdef uint64_t id_value(const char *text, size_t n) noexcept nogil
