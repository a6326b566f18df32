"""The journal's records, the octets of one message, and its entry in the queue.

Job: lay a message out so that it is written to disk and sent to the next hop from the same memory, and read records
back. The format is described in cext/record_format.h. Nothing here opens, reads or writes a file.

Fails: MemoryError when no memory can be had; RecordError for octets that are not a sound record.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from angarium._core.octets cimport lower

cdef enum:
    FRONT_ROOM = 1024        # enough for the meta part and the trace field of nearly every message
    FIRST_ROOM = 3072

cdef const char *ID_ALPHABET = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"


cdef uint64_t buffered = 0      # octets of process memory behind all mail buffers


cdef uint64_t buffered_octets() noexcept nogil:
    return buffered


cdef extern from "block_pool.h":
    enum:
        BLOCK_POOL_BLOCK
    size_t block_pool_chunks
    void *block_pool_take()
    void block_pool_give(void *block)
    void block_pool_trim(size_t kept)


cdef extern from "<malloc.h>" nogil:
    int mallopt(int option, int value)
    int malloc_trim(size_t pad)
    cdef struct MallInfo "mallinfo2":
        size_t fordblks
    MallInfo mallinfo2()
    enum:
        M_ARENA_MAX
        M_MMAP_THRESHOLD
        M_TRIM_THRESHOLD

cdef enum:
    MAPPED_BLOCK_OCTETS = 128 << 10


def keep_heap(int kept_octets, int mapped_octets):
    """Let the allocator keep so many free octets, and map only larger blocks than mapped_octets one by one.

    Messages come and go all the time: giving their pages back to the kernel and having them zeroed anew costs a large
    message a fifth of its CPU time. Threads share the heap: they allocate while they hold the GIL, and what a heap of
    their own had taken it would keep. Process-wide; call it once, at the start.
    """
    global heap_mapped_octets
    heap_mapped_octets = mapped_octets
    mallopt(M_ARENA_MAX, 1)
    mallopt(M_TRIM_THRESHOLD, kept_octets)
    mallopt(M_MMAP_THRESHOLD, mapped_octets)


cdef int heap_mapped_octets = 0         # as keep_heap was told; 0: it was not called


def map_blocks(bint on):
    """While on, a block of 128 KiB or more is mapped by itself: it takes the pages that are written to, and no others.

    For large blocks that stay for long and are hardly used. Within the heap they would stand where smaller blocks have
    been, and keep those pages. Nothing happens where keep_heap was not called.
    """
    if heap_mapped_octets:
        mallopt(M_MMAP_THRESHOLD, MAPPED_BLOCK_OCTETS if on else heap_mapped_octets)


cdef size_t free_when_trimmed = 0       # the allocator goes on to call octets free whose pages it has given back


def trim_heap(size_t kept_octets) -> bool:
    """Give the pages of free octets of the heap back to the kernel when more than kept_octets have become free.

    Since the last time, that is. What has left the memory leaves holes, which the allocator keeps; the blocks of small
    messages' mail data go back too. Whether there was anything to give back; it takes some milliseconds then.
    """
    global free_when_trimmed
    cdef size_t chunks = block_pool_chunks
    cdef size_t free_octets
    block_pool_trim(1)
    free_octets = mallinfo2().fordblks
    free_when_trimmed = min(free_when_trimmed, free_octets)
    if free_octets - free_when_trimmed <= kept_octets:
        return chunks != block_pool_chunks
    malloc_trim(kept_octets)
    free_when_trimmed = mallinfo2().fordblks
    return True


def pooled_octets() -> int:
    """Octets that the blocks of small messages' mail data are cut from; an empty chunk goes, but for some."""
    return block_pool_chunks << 20


def memory_octets() -> int:
    """Octets of process memory behind all messages whose mail data is in memory."""
    return buffered


class RecordError(ValueError):
    """Octets that are not a sound record."""


cdef void id_text(uint64_t id, char *out) noexcept nogil:
    cdef int i
    for i in range(12, -1, -1):
        out[i] = ID_ALPHABET[id & 31]
        id >>= 5


cdef uint64_t id_value(const char *text, size_t n) noexcept nogil:
    """The number behind a queue id's text, or 0 when it is not one."""
    cdef uint64_t value = 0
    cdef size_t i
    cdef int k
    cdef char c
    if n != 13:
        return 0
    for i in range(n):
        c = text[i]
        if 97 <= c <= 122:
            c -= 32
        for k in range(32):
            if ID_ALPHABET[k] == c:
                break
        else:
            return 0
        if value >> 59:                      # 13 characters hold 65 bits, an id has 64
            return 0
        value = (value << 5) | <uint64_t>k
    return value


def format_id(uint64_t id) -> str:
    """A queue id as people and log lines see it: 13 characters of Crockford's base 32, in order of time."""
    cdef char text[13]
    id_text(id, text)
    return PyBytes_FromStringAndSize(text, 13).decode("ascii")


def parse_id(str text) -> int:
    """The number behind a queue id; ValueError when text is not one."""
    cdef bytes octets = text.encode("utf-8")
    cdef uint64_t value = id_value(PyBytes_AS_STRING(octets), PyBytes_GET_SIZE(octets))
    if value == 0:
        raise ValueError(f"not a queue id: {text!r}")
    return value


def shard_of(uint64_t id) -> int:
    """The shard that a queue id names."""
    return (id >> 14) & 255


def checksum(const uint8_t[::1] data, uint32_t crc=0) -> int:
    """CRC-32C of data, continued from crc."""
    if data.shape[0] == 0:
        return crc
    return crc32c(crc, &data[0], data.shape[0])


@cython.no_gc
@cython.freelist(256)
cdef class MailBuffer:
    def __cinit__(self, size_t room=0):
        if room < FIRST_ROOM:
            room = FIRST_ROOM
        self.capacity = FRONT_ROOM + room
        self.octets = <char *>(block_pool_take() if self.capacity == BLOCK_POOL_BLOCK else malloc(self.capacity))
        if self.octets == NULL:
            raise MemoryError
        self.begin = self.data_begin = self.end = FRONT_ROOM
        self.exports = 0
        global buffered
        buffered += self.capacity

    def __dealloc__(self):
        global buffered
        if self.octets != NULL:
            buffered -= self.capacity
            if self.capacity == BLOCK_POOL_BLOCK:
                block_pool_give(self.octets)
            else:
                free(self.octets)

    def __len__(self):
        return self.end - self.begin

    @property
    def capacity_octets(self) -> int:
        """Octets of process memory behind this message."""
        return self.capacity

    cdef int reserve(self, size_t n) except -1:
        """Make room for n more octets at the end."""
        cdef size_t wanted = self.end + n
        cdef char *moved
        if wanted <= self.capacity:
            return 0
        if self.exports:
            raise BufferError("a view of the message is in use")
        if wanted < self.capacity * 2:
            wanted = self.capacity * 2
        if self.capacity == BLOCK_POOL_BLOCK:
            moved = <char *>malloc(wanted)
            if moved == NULL:
                raise MemoryError
            memcpy(moved, self.octets, self.end)
            block_pool_give(self.octets)
        else:
            moved = <char *>realloc(self.octets, wanted)
            if moved == NULL:
                raise MemoryError
        global buffered
        buffered += wanted - self.capacity
        self.octets = moved
        self.capacity = wanted
        return 0

    cdef int make_room_in_front(self, size_t n) except -1:
        """Move the octets up so that n fit in front of them."""
        cdef size_t shift
        if n <= self.begin:
            return 0
        shift = n - self.begin + FRONT_ROOM
        self.reserve(shift)
        memmove(self.octets + self.begin + shift, self.octets + self.begin, self.end - self.begin)
        self.begin += shift
        self.data_begin += shift
        self.end += shift
        return 0

    cdef int prepend(self, const char *p, size_t n) except -1:
        """Put octets in front of the mail data (before the record's meta part is written)."""
        self.make_room_in_front(n)
        self.begin -= n
        self.data_begin = self.begin
        memcpy(self.octets + self.begin, p, n)
        return 0

    cdef int cut(self, size_t n) except -1:
        """Let mail data begin n octets later (before the record's meta part is written)."""
        self.begin += n
        self.data_begin = self.begin
        return 0

    def append(self, bytes data):
        """Add mail data."""
        cdef size_t n = PyBytes_GET_SIZE(data)
        self.reserve(n)
        memcpy(self.octets + self.end, PyBytes_AS_STRING(data), n)
        self.end += n

    def replace_mail_data(self, bytes data):
        """Other mail data in place of what is there; only before the record is written."""
        self.begin = self.data_begin = self.end = FRONT_ROOM
        self.append(data)

    def mail_data(self) -> bytes:
        """The mail data, trace fields included."""
        return PyBytes_FromStringAndSize(self.octets + self.data_begin, self.end - self.data_begin)

    def record(self) -> bytes:
        """The whole record as it lies in the journal."""
        return PyBytes_FromStringAndSize(self.octets + self.begin, self.end - self.begin)

    def __getbuffer__(self, Py_buffer *view, int flags):
        # a view of the mail data: what goes to the next hop
        if flags & PyBUF_WRITABLE:
            raise BufferError("mail data is read-only")
        PyBuffer_FillInfo(view, self, self.octets + self.data_begin, self.end - self.data_begin, 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1

    cdef AcceptedMeta *meta(self) noexcept nogil:
        return <AcceptedMeta *>(self.octets + self.begin + sizeof(RecordHeader))

    cdef Text text(self, int which) noexcept nogil:
        cdef char *p = self.octets + self.begin + sizeof(RecordHeader) + sizeof(AcceptedMeta)
        cdef Text result
        cdef uint16_t length
        cdef int _i
        for _i in range(which):
            memcpy(&length, p, 2)
            p += 2 + length
        memcpy(&length, p, 2)
        result.octets = p + 2
        result.length = length
        return result

    cdef Text pool(self) noexcept nogil:
        return pool_text(self.octets + self.begin)

    cdef size_t first_recipient(self) noexcept nogil:
        """Position (in octets) of the first recipient."""
        cdef Text last = self.text(ENVELOPE_TEXTS - 1)
        return last.octets + last.length - self.octets

    cdef size_t recipient_at(self, size_t position, Recipient *recipient) noexcept nogil:
        """Read the recipient at position; returns the position of the next one."""
        cdef char *p = self.octets + position
        memcpy(&recipient.forward_path.length, p, 2)
        recipient.forward_path.octets = p + 2
        p += 2 + recipient.forward_path.length
        recipient.notify = <uint8_t>p[0]
        memcpy(&recipient.orcpt.length, p + 1, 2)
        recipient.orcpt.octets = p + 3
        return position + 2 + recipient.forward_path.length + 3 + recipient.orcpt.length

    def envelope(self) -> dict[str, object]:
        """The envelope as plain values; RecordError when there is no meta part."""
        cdef AcceptedMeta *meta
        cdef Text texts[7]
        cdef Recipient recipient
        cdef size_t position
        cdef int i, _i
        if self.begin == self.data_begin:
            raise RecordError("the message has no envelope yet")
        meta = self.meta()
        for i in range(ENVELOPE_TEXTS):
            texts[i] = self.text(i)
        recipients = []
        position = self.first_recipient()
        for _i in range(meta.recipients):
            position = self.recipient_at(position, &recipient)
            recipients.append((as_bytes(recipient.forward_path), recipient.notify, as_bytes(recipient.orcpt)))
        return {
            "reverse_path": as_bytes(texts[TEXT_REVERSE_PATH]),
            "envid": as_bytes(texts[TEXT_ENVID]),
            "listener": as_bytes(texts[TEXT_LISTENER]),
            "client": as_bytes(texts[TEXT_CLIENT]),
            "greeting": as_bytes(texts[TEXT_GREETING]),
            "login": as_bytes(texts[TEXT_LOGIN]),
            "tenant": as_bytes(texts[TEXT_TENANT]),
            "recipients": recipients,
            "received_us": meta.received_us,
            "hold_until": meta.hold_until,
            "durability": meta.durability,
            "body": meta.body,
            "flags": meta.flags,
            "ret": meta.ret,
            "priority": meta.priority,
            "source_pool": as_bytes(self.pool()),
        }

    @property
    def hold_until(self) -> int:
        """When the sender wants the message to be released (RFC 4865), unix seconds; 0: at once."""
        if self.begin == self.data_begin:
            raise RecordError("the message has no envelope yet")
        return self.meta().hold_until

    def recipient(self, int index) -> tuple[bytes, int, bytes]:
        """(forward_path, NOTIFY bits, ORCPT) of one recipient; IndexError when there is none."""
        cdef Recipient recipient
        cdef size_t position
        cdef int _i
        if self.begin == self.data_begin or not 0 <= index < self.meta().recipients:
            raise IndexError(index)
        position = self.first_recipient()
        for _i in range(index + 1):
            position = self.recipient_at(position, &recipient)
        return as_bytes(recipient.forward_path), recipient.notify, as_bytes(recipient.orcpt)

    def reverse_path(self) -> bytes:
        """The reverse-path without its brackets; RecordError when there is no meta part."""
        if self.begin == self.data_begin:
            raise RecordError("the message has no envelope yet")
        return as_bytes(self.text(TEXT_REVERSE_PATH))


cdef bytes as_bytes(Text text):
    return PyBytes_FromStringAndSize(text.octets, text.length)


@cython.no_gc
@cython.freelist(256)
cdef class Message:
    def __cinit__(self):
        self.states = &self._one
        self.in_flight = -1
        self.heap_index = NOWHERE

    def __dealloc__(self):
        if self.states != &self._one:
            PyMem_Free(self.states)

    def __repr__(self):
        return f"<Message {format_id(self.id)} {self.recipients} recipients>"

    @property
    def in_doubt(self) -> bool:
        """Whether the next hop may have it although no final reply was seen."""
        return self.marks & MARK_IN_DOUBT != 0

    @in_doubt.setter
    def in_doubt(self, bint value):
        self.marks = self.marks | MARK_IN_DOUBT if value else self.marks & ~MARK_IN_DOUBT

    @property
    def soon(self) -> bool:
        """Whether the next host took some recipients and said "too many" to the rest."""
        return self.marks & MARK_SOON != 0

    @soon.setter
    def soon(self, bint value):
        self.marks = self.marks | MARK_SOON if value else self.marks & ~MARK_SOON

    @property
    def warned(self) -> bool:
        """Whether its sender knows that it is late."""
        return self.marks & MARK_WARNED != 0

    @warned.setter
    def warned(self, bint value):
        self.marks = self.marks | MARK_WARNED if value else self.marks & ~MARK_WARNED

    @property
    def queue_id(self) -> str:
        """The id as text."""
        return format_id(self.id)

    @property
    def loaded(self) -> MailBuffer:
        """The buffer; RecordError when the mail data is on disk only."""
        if self.buffer is None:
            raise RecordError(f"the mail data of message {format_id(self.id)} is not in memory")
        return self.buffer

    @property
    def offset_octets(self) -> int:
        """Where the record begins in its segment."""
        return self.offset

    def recipient_state(self, int index) -> int:
        """RecipientState of one recipient; IndexError when there is none."""
        if not 0 <= index < self.recipients:
            raise IndexError(index)
        return self.states[index]

    def set_recipient_state(self, int index, int state):
        """Set the RecipientState of one recipient; IndexError when there is none."""
        if not 0 <= index < self.recipients:
            raise IndexError(index)
        self.states[index] = state

    def unfinished(self) -> list[int]:
        """Indices of the recipients for whom something is left to do."""
        cdef int i
        return [i for i in range(self.recipients) if not is_final(self.states[i])]

    def set_attempts(self, int attempts):
        """How many attempts have been made; beyond 65,535 it is that many."""
        self.attempts = min(attempts, 0xFFFF)


cdef int allocate_states(Message message, uint16_t recipients) except -1:
    """Room for the states of so many recipients, all queued."""
    cdef size_t octets = recipients
    if recipients > 1:
        octets += (recipients + 7) // 8      # a bit for each whose end is in the journal
        message.states = <uint8_t *>PyMem_Malloc(octets)
        if message.states == NULL:
            message.states = &message._one
            raise MemoryError
    message.recipients = recipients
    memset(message.states, RECIPIENT_QUEUED, octets)
    return 0


cdef bint is_counted(Message message, uint16_t index) noexcept:
    if message.states == &message._one:
        return message.marks & MARK_COUNTED != 0
    return message.states[message.recipients + (index >> 3)] >> (index & 7) & 1


cdef void set_counted(Message message, uint16_t index) noexcept:
    if message.states == &message._one:
        message.marks |= MARK_COUNTED
    else:
        message.states[message.recipients + (index >> 3)] |= 1 << (index & 7)


cdef uint16_t counted_of(Message message) noexcept:
    cdef uint16_t i, counted = 0
    for i in range(message.recipients):
        counted += is_counted(message, i)
    return counted


cdef int read_moved(Message message, const char *record) except -1:
    cdef RecordHeader header
    cdef MovedMeta moved
    cdef uint16_t i
    cdef const char *states
    memcpy(&header, record, sizeof(header))
    if header.meta_length < sizeof(header) + sizeof(AcceptedMeta) + sizeof(moved) + message.recipients:
        raise RecordError(f"the record of message {format_id(header.id)} is too short for a copy")
    memcpy(&moved, record + header.meta_length - sizeof(moved), sizeof(moved))
    states = record + header.meta_length - sizeof(moved) - message.recipients
    for i in range(message.recipients):
        message.states[i] = <uint8_t>states[i] & 127
        if <uint8_t>states[i] & 128:
            set_counted(message, i)
    message.next_attempt = moved.next_attempt_us * 1e-6
    message.outcome_serial = moved.outcome_serial
    message.outcome_offset = moved.outcome_offset
    message.outcome_units = moved.outcome_units
    message.attempts = moved.attempts
    message.marks = moved.marks
    message.record_octets = header.length
    message.state = MESSAGE_HELD if moved.held else MESSAGE_COMMITTING
    return 0


def check_message(bytes record, uint64_t id):
    """RecordError when record is not the whole and sound `accepted` record of that message, mail data included."""
    cdef size_t n = PyBytes_GET_SIZE(record)
    cdef const char *p = PyBytes_AS_STRING(record)
    cdef RecordHeader header
    cdef AcceptedMeta meta
    if n < sizeof(header) + sizeof(meta):
        raise RecordError(f"a record of {n} octets is too short")
    memcpy(&header, p, sizeof(header))
    memcpy(&meta, p + sizeof(header), sizeof(meta))
    if not record_is_sound(p, n, header.serial):
        raise RecordError("the record's meta part is harmed")
    if header.type != RECORD_ACCEPTED or header.length != n or header.id != id:
        raise RecordError(f"record of type {header.type}, {header.length} octets: not this message")
    if crc32c(0, p + header.meta_length, n - header.meta_length) != meta.data_crc:
        raise RecordError(f"the mail data of message {format_id(id)} is harmed")


cdef void note_outcome(Message message, uint64_t serial, uint64_t offset, size_t octets) noexcept:
    cdef uint32_t units = message.outcome_units
    message.outcome_serial = <uint32_t>serial
    message.outcome_offset = <uint32_t>offset
    if message.attempts > ATTEMPTS_KEPT:     # the oldest of them is not carried along by compaction
        units -= units // ATTEMPTS_KEPT
    units += <uint32_t>((octets + 32) // 64)
    message.outcome_units = <uint16_t>min(units, <uint32_t>0xFFFF)


cdef uint32_t hash_path(const char *path, size_t n) noexcept nogil:
    """CRC-32C of a path in lower case."""
    cdef char folded[64]
    cdef uint32_t crc = 0
    cdef size_t i, k = 0
    for i in range(n):
        folded[k] = lower(path[i])
        k += 1
        if k == sizeof(folded):
            crc = crc32c(crc, folded, k)
            k = 0
    return crc32c(crc, folded, k) if k else crc


def path_hash(bytes path) -> int:
    """What Message.from_hash is for a reverse-path."""
    return hash_path(PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path))


cdef bint is_final(uint8_t state) noexcept nogil:
    return state in (RECIPIENT_DELIVERED, RECIPIENT_FAILED, RECIPIENT_EXPIRED)


cdef Text pool_text(const char *record) noexcept nogil:
    cdef AcceptedMeta meta
    cdef const char *p = record + sizeof(RecordHeader) + sizeof(AcceptedMeta)
    cdef uint16_t n, _index
    cdef int _i
    cdef Text pool
    pool.octets = p
    pool.length = 0
    memcpy(&meta, record + sizeof(RecordHeader), sizeof(meta))
    if not meta.flags & MESSAGE_POOL:
        return pool
    for _i in range(ENVELOPE_TEXTS):
        memcpy(&n, p, 2)
        p += 2 + n
    for _index in range(meta.recipients):
        memcpy(&n, p, 2)
        p += 2 + n + 1                       # the path, NOTIFY
        memcpy(&n, p, 2)
        p += 2 + n                           # ORCPT
    memcpy(&pool.length, p, 2)
    pool.octets = p + 2
    return pool


cdef int write_accepted(MailBuffer buffer, uint64_t id, AcceptedMeta *meta, EnvelopeTexts *texts,
                        const char *recipients_block, size_t recipients_length, bytes pool=b"") except -1:
    cdef size_t length = sizeof(RecordHeader) + sizeof(AcceptedMeta) + recipients_length
    cdef uint16_t pool_length = <uint16_t>PyBytes_GET_SIZE(pool)
    cdef RecordHeader header
    cdef char *p
    cdef int i
    for i in range(ENVELOPE_TEXTS):
        length += 2 + texts.texts[i].length
    meta.flags &= ~MESSAGE_POOL
    if pool_length:
        length += 2 + pool_length
        meta.flags |= MESSAGE_POOL
    buffer.make_room_in_front(length)
    memset(&header, 0, sizeof(header))
    header.magic = RECORD_MAGIC
    header.meta_length = length
    header.length = length + (buffer.end - buffer.data_begin)
    header.id = id
    header.type = RECORD_ACCEPTED
    header.version = 1
    meta.data_crc = crc32c(0, buffer.octets + buffer.data_begin, buffer.end - buffer.data_begin)
    buffer.begin -= length
    p = buffer.octets + buffer.begin
    memcpy(p, &header, sizeof(header))
    p += sizeof(header)
    memcpy(p, meta, sizeof(AcceptedMeta))
    p += sizeof(AcceptedMeta)
    for i in range(ENVELOPE_TEXTS):
        memcpy(p, &texts.texts[i].length, 2)
        memcpy(p + 2, texts.texts[i].octets, texts.texts[i].length)
        p += 2 + texts.texts[i].length
    memcpy(p, recipients_block, recipients_length)
    if pool_length:
        p += recipients_length
        memcpy(p, &pool_length, 2)
        memcpy(p + 2, PyBytes_AS_STRING(pool), pool_length)
    return 0


cdef void seal_record(char *record, uint64_t serial) noexcept nogil:
    """Write the segment's serial and the meta part's checksum into a record."""
    cdef RecordHeader *header = <RecordHeader *>record
    header.serial = serial
    header.meta_crc = crc32c(0, record + 8, header.meta_length - 8)


cdef bint record_is_sound(const char *record, size_t available, uint64_t serial) noexcept nogil:
    """Whether the meta part at record is whole, unharmed and of this segment. The mail data is not looked at."""
    cdef RecordHeader header
    if available < sizeof(RecordHeader):
        return False
    memcpy(&header, record, sizeof(header))
    if header.magic != RECORD_MAGIC or header.serial != serial or header.version != 1:
        return False
    if not sizeof(RecordHeader) <= header.meta_length <= available or header.length < header.meta_length:
        return False
    return crc32c(0, record + 8, header.meta_length - 8) == header.meta_crc


def load_message(const uint8_t[::1] record) -> MailBuffer:
    """The message of a whole `accepted` record, mail data checked; RecordError when it is harmed."""
    cdef size_t n = record.shape[0]
    cdef RecordHeader header
    cdef MailBuffer buffer
    cdef const char *p
    if n < sizeof(RecordHeader) + sizeof(AcceptedMeta):
        raise RecordError(f"a record of {n} octets is too short")
    p = <const char *>&record[0]
    memcpy(&header, p, sizeof(header))
    if not record_is_sound(p, n, header.serial):
        raise RecordError("the record's meta part is harmed")
    if header.type != RECORD_ACCEPTED or header.length != n:
        raise RecordError(f"record of type {header.type}, {header.length} octets: not this message")
    buffer = MailBuffer(n)
    buffer.begin = buffer.data_begin = FRONT_ROOM
    memcpy(buffer.octets + FRONT_ROOM, p, n)
    buffer.data_begin += header.meta_length
    buffer.end = FRONT_ROOM + n
    if crc32c(0, buffer.octets + buffer.data_begin, n - header.meta_length) != buffer.meta().data_crc:
        raise RecordError(f"the mail data of message {format_id(header.id)} is harmed")
    return buffer


def make_accepted(dict envelope, bytes mail_data, uint64_t id) -> MailBuffer:
    """A message from plain values (keys as MailBuffer.envelope returns them), for DSNs, tools and tests.

    OverflowError when a text has more than 65,535 octets, there are more recipients, or a number does not fit its
    field.
    """
    cdef MailBuffer buffer = MailBuffer(len(mail_data))
    cdef AcceptedMeta meta
    cdef EnvelopeTexts texts
    cdef bytes block
    cdef bytes value
    cdef int i = 0
    cdef list kept = []
    memset(&meta, 0, sizeof(meta))
    memset(&texts, 0, sizeof(texts))
    for key in ("reverse_path", "envid", "listener", "client", "greeting", "login", "tenant"):
        value = envelope.get(key, b"")
        if PyBytes_GET_SIZE(value) > 0xFFFF:
            raise OverflowError(f"{key} has {PyBytes_GET_SIZE(value)} octets, a record takes 65535")
        kept.append(value)
        texts.texts[i].octets = PyBytes_AS_STRING(value)
        texts.texts[i].length = PyBytes_GET_SIZE(value)
        i += 1
    parts = []
    for path, notify, orcpt in envelope["recipients"]:
        parts.append(b"".join((
            len(path).to_bytes(2, "little"), path, bytes((notify,)), len(orcpt).to_bytes(2, "little"), orcpt
        )))
    if len(parts) > 0xFFFF:
        raise OverflowError(f"{len(parts)} recipients, a record takes 65535")
    block = b"".join(parts)
    value = envelope.get("source_pool", b"")
    if PyBytes_GET_SIZE(value) > 0xFFFF:
        raise OverflowError(f"source_pool has {PyBytes_GET_SIZE(value)} octets, a record takes 65535")
    meta.recipients = len(parts)
    meta.received_us = envelope.get("received_us", 0)
    meta.hold_until = envelope.get("hold_until", 0)
    meta.durability = envelope.get("durability", 0)
    meta.body = envelope.get("body", 0)
    meta.flags = envelope.get("flags", 0)
    meta.ret = envelope.get("ret", 0)
    meta.priority = envelope.get("priority", 0)
    buffer.append(mail_data)
    write_accepted(buffer, id, &meta, &texts, PyBytes_AS_STRING(block), PyBytes_GET_SIZE(block), value)
    return buffer


cdef uint64_t age_begins_us(const AcceptedMeta *meta) noexcept nogil:
    """From when on a message grows old: its reception, or the release that its client asked for.

    Delays, warnings and expiry count from then: what was asked for is no delay (RFC 4865).
    """
    # a release beyond the range of microseconds is as far away as any
    if meta.hold_until > <uint64_t>-1 // 1000000:
        return <uint64_t>-1
    return max(meta.received_us, meta.hold_until * 1000000)


cdef int read_entry(Message message, const char *record) except -1:
    """Fill a new entry with what the meta part of its `accepted` record says."""
    cdef RecordHeader header
    cdef AcceptedMeta meta
    cdef const char *path = record + sizeof(RecordHeader) + sizeof(AcceptedMeta)
    cdef uint16_t length
    memcpy(&header, record, sizeof(header))
    memcpy(&meta, record + sizeof(RecordHeader), sizeof(meta))
    memcpy(&length, path, 2)                 # the reverse-path is the first text
    message.id = header.id
    message.received_us = age_begins_us(&meta)
    message.next_attempt = meta.hold_until
    message.record_octets = header.length
    message.durability = meta.durability
    message.body = meta.body
    message.flags = meta.flags
    message.priority = meta.priority
    message.from_hash = hash_path(path + 2, length)
    return allocate_states(message, meta.recipients)


def new_message(MailBuffer buffer) -> Message:
    """The queue's entry for a message that has its meta part."""
    cdef Message message = Message()
    if buffer.begin == buffer.data_begin:
        raise RecordError("the message has no envelope yet")
    read_entry(message, buffer.octets + buffer.begin)
    message.buffer = buffer
    return message
