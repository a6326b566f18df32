"""The journal's records, the octets of one message, and its entry in the queue; documented in cext/record.pyx."""

from enum import IntEnum
from typing import Any, Self

from typing_extensions import Buffer, disjoint_base

from angarium._core.journal import Segment

class RecordType(IntEnum):
    RECORD_ACCEPTED = 1
    RECORD_OUTCOME = 2
    RECORD_DONE = 3
    RECORD_HOLD = 4
    RECORD_RELEASE = 5
    RECORD_LEDGER = 6
    RECORD_WARNED = 8

class Durability(IntEnum):
    DURABILITY_FSYNC = 0
    DURABILITY_ASYNC = 1
    DURABILITY_MEMORY = 2

# A set of bits: Message.flags is any sum of these.
class MessageFlag(IntEnum):
    MESSAGE_SMTPUTF8 = 1
    MESSAGE_REQUIRETLS = 2
    MESSAGE_TLS_REQUIRED_NO = 4
    MESSAGE_EIGHT_BIT = 8
    MESSAGE_BULK = 16
    MESSAGE_OVER_QUOTA = 32
    MESSAGE_UNUSUAL = 64
    MESSAGE_POOL = 128

class RecipientState(IntEnum):
    RECIPIENT_QUEUED = 0
    RECIPIENT_DELIVERED = 1
    RECIPIENT_DEFERRED = 2
    RECIPIENT_FAILED = 3
    RECIPIENT_EXPIRED = 4
    RECIPIENT_IN_DOUBT = 5

class MessageState(IntEnum):
    MESSAGE_COMMITTING = 0
    MESSAGE_READY = 1
    MESSAGE_SCHEDULED = 2
    MESSAGE_HELD = 3
    MESSAGE_GONE = 4

class RecordError(ValueError):
    """Octets that are not a sound record."""

# before Python 3.12 a class of C shows no method for its buffers: for the type checker only
class _ShowsOctets:
    def __buffer__(self, flags: int, /) -> memoryview: ...

@disjoint_base
class MailBuffer(_ShowsOctets):
    """The octets of one message: room in front, the record's meta part, the mail data.

    A memoryview of it shows the mail data, read-only.
    """

    def __new__(cls, room: int = 0) -> Self: ...
    def __len__(self) -> int: ...
    @property
    def capacity_octets(self) -> int:
        """Octets of process memory behind this message."""
    def append(self, data: bytes) -> None:
        """Add mail data."""
    def replace_mail_data(self, data: bytes) -> None:
        """Other mail data in place of what is there; only before the record is written."""
    def mail_data(self) -> bytes:
        """The mail data, trace fields included."""
    def record(self) -> bytes:
        """The whole record as it lies in the journal."""
    def envelope(self) -> dict[str, Any]:
        """The envelope as plain values; RecordError when there is no meta part."""
    @property
    def hold_until(self) -> int:
        """When the sender wants the message to be released (RFC 4865), unix seconds; 0: at once."""
    def recipient(self, index: int) -> tuple[bytes, int, bytes]:
        """(forward_path, NOTIFY bits, ORCPT) of one recipient; IndexError when there is none."""
    def reverse_path(self) -> bytes:
        """The reverse-path without its brackets; RecordError when there is no meta part."""

@disjoint_base
class Message:
    """The queue's entry for one message: small, because there may be millions."""

    segment: Segment | None
    buffer: MailBuffer | None
    state: int
    durability: int
    flags: int
    in_doubt: bool
    soon: bool
    warned: bool
    def __new__(cls) -> Self: ...
    @property
    def loaded(self) -> MailBuffer: ...
    @property
    def id(self) -> int: ...
    @property
    def queue_id(self) -> str: ...
    @property
    def received_us(self) -> int: ...
    @property
    def next_attempt(self) -> float: ...
    @property
    def record_octets(self) -> int: ...
    @property
    def outcome_serial(self) -> int: ...
    @property
    def outcome_offset(self) -> int: ...
    @property
    def from_hash(self) -> int: ...
    @property
    def priority(self) -> int: ...
    @property
    def outlet(self) -> int: ...
    @property
    def attempts(self) -> int: ...
    @property
    def recipients(self) -> int: ...
    @property
    def outstanding(self) -> int: ...
    @property
    def offset_octets(self) -> int:
        """Where the record begins in its segment."""
    def recipient_state(self, index: int) -> int:
        """RecipientState of one recipient; IndexError when there is none."""
    def set_recipient_state(self, index: int, state: int) -> None:
        """Set the RecipientState of one recipient; IndexError when there is none."""
    def unfinished(self) -> list[int]:
        """Indices of the recipients for whom something is left to do."""
    def set_attempts(self, attempts: int) -> None:
        """How many attempts have been made; beyond 65,535 it is that many."""

def keep_heap(kept_octets: int, mapped_octets: int) -> None: ...
def map_blocks(on: bool) -> None:
    """While on, a block of 128 KiB or more is mapped by itself: it takes the pages that are written to, and no others.

    Nothing happens where keep_heap was not called.
    """

def trim_heap(kept_octets: int) -> bool:
    """Give the pages of free octets of the heap back to the kernel when more than kept_octets have become free.

    Since the last time, that is; the blocks of small messages' mail data go back too. Whether there was anything to
    give back; it takes some milliseconds then.
    """

def pooled_octets() -> int:
    """Octets that the blocks of small messages' mail data are cut from; an empty chunk goes, but for some."""

def memory_octets() -> int:
    """Octets of process memory behind all messages whose mail data is in memory."""

def format_id(id: int) -> str:
    """A queue id as people and log lines see it: 13 characters of Crockford's base 32, in order of time."""

def parse_id(text: str) -> int:
    """The number behind a queue id; ValueError when text is not one."""

def shard_of(id: int) -> int:
    """The shard that a queue id names."""

def checksum(data: Buffer, crc: int = 0) -> int:
    """CRC-32C of data, continued from crc."""

def load_message(record: Buffer) -> MailBuffer:
    """The message of a whole `accepted` record, mail data checked; RecordError when it is harmed."""

def check_message(record: bytes, id: int) -> None:
    """RecordError when record is not the whole and sound `accepted` record of that message, mail data included."""

def make_accepted(envelope: dict[str, Any], mail_data: bytes, id: int) -> MailBuffer:
    """A message from plain values (keys as MailBuffer.envelope returns them), for DSNs, tools and tests."""

def path_hash(path: bytes) -> int:
    """What Message.from_hash is for a reverse-path."""

def new_message(buffer: MailBuffer) -> Message:
    """The queue's entry for a message that has its meta part."""

__pyx_capi__: dict[str, object]  # the C functions of record.pxd
__test__: dict[str, str]
