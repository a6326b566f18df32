"""One shard's journal; documented in cext/journal.pyx."""

from collections.abc import Callable, Iterable
from typing import Any, Never

from typing_extensions import disjoint_base

from angarium._core.counters import Counters
from angarium._core.disk import Disk
from angarium._core.ledger import Ledger
from angarium._core.outcome_record import Outcome
from angarium._core.record import Message

class JournalFull(OSError):
    """No room for another segment."""

class JournalFailed(OSError):
    """The journal takes no records: a write or a sync failed, or it is closed."""

@disjoint_base
class Receiver:
    """Who waits for a commit. Its method is C: see CallbackReceiver and ServerSession."""

@disjoint_base
class CallbackReceiver(Receiver):
    """A receiver that calls a Python function with (message, errno); errno 0: the message is safe in its class."""

    def __init__(self, callback: Callable[[Message, int], object]) -> None: ...

@disjoint_base
class Taker:
    """Who takes a message once it is ours. Its method is C: see CallbackTaker and Dispatcher."""

@disjoint_base
class CallbackTaker(Taker):
    """A taker that calls a Python function with the message."""

    def __init__(self, callback: Callable[[Message], object]) -> None: ...

@disjoint_base
class Segment:
    """One file of the journal."""

    def __init__(self, path: str, fd: int, serial: int, size: int, used: int, disk: Disk | None = None) -> None:
        """The segment owns fd, a descriptor of that disk, and closes it."""
    @property
    def path(self) -> str: ...
    @property
    def disk(self) -> Disk: ...
    @property
    def fileno(self) -> int:
        """The file's descriptor."""
    @property
    def serial(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def used(self) -> int: ...
    @property
    def alive(self) -> int: ...
    @property
    def alive_octets(self) -> int: ...
    @property
    def sealed(self) -> bool: ...
    @property
    def harmed(self) -> bool: ...
    @property
    def closed(self) -> int:
        """Sequence of what was put behind its last record; 0: recovery found it."""
    index_octets: int
    def fill_with_zeros(self) -> None:
        """Write it once and sync it: later syncs then change no metadata. Blocks: call it in a thread."""
    def add_alive(self, octets: int) -> None:
        """Recovery found a message here."""
    def drop_alive(self, octets: int) -> None:
        """A message found by recovery turned out to be done, or stands again in a later segment."""
    def seal(self) -> None:
        """Nothing more is appended."""

@disjoint_base
class Move:
    """A copy of a message's record, and of its outcomes, on the way to the disk."""

    @property
    def message(self) -> Message: ...

@disjoint_base
class Journal:
    """One shard's journal: segments, group commit in a thread of its own, the in-flight table."""

    full: bool
    let_go: Callable[[list[Segment]], object] | None
    kick_later: Callable[[Callable[[], None]], object] | None
    telling_s: float
    def __init__(
        self,
        folder: str,
        shard: int,
        segment_octets: int,
        counters: Counters,
        taker: Taker,
        *args: Never,
        segments: Iterable[Segment] = (),
        spares: Iterable[Segment] = (),
        next_serial: int = 1,
        last_id: int = 0,
        sync_interval_s: float = 1.0,
        most_spares: int = 4,
        in_doubt: Iterable[Message] = (),
        disk: Disk | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """in_doubt: messages of the in-flight table that keep their place in it; disk: None is the machine's own."""

    @property
    def disk(self) -> Disk: ...
    @property
    def folder(self) -> str: ...
    @property
    def shard(self) -> int: ...
    @property
    def segment_octets(self) -> int: ...
    @property
    def most_spares(self) -> int: ...
    @property
    def segments(self) -> list[Segment]: ...
    @property
    def spares(self) -> list[Segment]: ...
    @property
    def failed(self) -> int: ...
    @property
    def event_fd(self) -> int:
        """Readable when on_commit has something to do."""
    @property
    def waiting(self) -> int:
        """How many commits are awaited."""
    @property
    def octets_on_disk(self) -> int:
        """Octets of all files."""
    @property
    def wants_spare(self) -> bool:
        """Whether a spare file should be prepared."""
    def set_sync_interval(self, seconds: float) -> None:
        """The longest time between 250 and the disk of class async, from now on."""
    def new_id(self) -> int:
        """A new queue id."""
    def append(self, message: Message, receiver: Receiver | None) -> None:
        """Append the record of message.buffer; receiver is told when it is safe (None: nobody is).

        JournalFull when there is no room for a segment, JournalFailed when a write or sync has failed.
        """
    def append_record(self, type: int, id: int, body: bytes) -> None:
        """Append a record about a message. It goes to disk with the next commit, or with the next flush."""
    def append_outcome(
        self,
        message: Message,
        entries: list[tuple[int, int, int, bytes]],
        *args: Never,
        attempted: float,
        attempt: int,
        next_attempt: float,
        next_hop: bytes = b"",
        host: bytes = b"",
        source: bytes = b"",
        pool: bytes = b"",
    ) -> None:
        """Journal what an attempt came to and make the record the last of the message's chain.

        entries: [(recipient index, RecipientState, reply code, text)]; recipients for whom it has ended without the
        journal knowing are added. JournalFull or JournalFailed when the journal takes nothing; the message's chain is
        then as it was.
        """
    def read_outcomes(self, message: Message, most: int = 16) -> list[Outcome]:
        """What the message's attempts came to, oldest first: the records of its newest `most` attempts.

        A record that cannot be read ends the list. Blocks: call it in a thread.
        """
    def last_replies(self, message: Message) -> dict[int, tuple[int, bytes]]:
        """{recipient index: (reply code, text)} of the recipients who are not final.

        It reads no further back than it has to. Blocks: call it in a thread.
        """
    def _read_body(self, id: int, place: tuple[int, int]) -> bytes | None: ...
    def _append_again(self) -> Any: ...
    def done(self, message: Message, reason: int = 0) -> None:
        """Nothing is left to do for message: say so in the journal and let go of its record.

        Recipients that are not final are dropped, for that DropReason.
        """
    def checkpoint(self) -> None:
        """Append the ledger's totals: what they say of class memory is in no other record."""
    def checkpoint_memory(self) -> None:
        """A checkpoint if class memory has changed since the last; call it once a second."""
    @property
    def ledger(self) -> Ledger: ...
    @property
    def appended(self) -> int:
        """A mark of what has been appended so far, for `is_written`."""
    def is_written(self, mark: int) -> bool:
        """Whether all up to that mark is in the kernel's hands."""
    def settle_in_flight(self, message: Message) -> None:
        """A final reply was seen, and message goes on."""
    def kick(self) -> None:
        """Let the commit thread go on with what has gathered."""
    def flush(self) -> None:
        """Let the commit thread write what nobody waits for; call it a few times a second."""
    @property
    def has_room(self) -> bool:
        """Whether there is more room than what is kept for records about queued mail."""
    def is_safe(self, segment: Segment) -> bool:
        """Whether all records of a sealed segment are on disk as they are in the kernel."""
    def sync(self) -> None:
        """Write and sync what has gathered, and wait for it: for the start, before the loop runs."""
    def on_commit(self) -> None:
        """Tell those who wait what became of their records. Call it when event_fd is readable."""
    def heal(self) -> bool:
        """After a failure, try a new file. True when the journal takes records again; OSError says why it does not."""
    def make_spare(self) -> Segment:
        """Make a file for `prepare_spare` (in a thread) and `add_spare`; JournalFull when there is no room."""
    def prepare_spare(self, segment: Segment) -> None:
        """Fill it with zeros and sync it and the folder; when that fails the file goes. Blocks: call it in a thread."""
    def add_spare(self, segment: Segment) -> None:
        """A file that `prepare_spare` made ready."""
    def read_record(self, message: Message) -> bytes:
        """The whole record of message from disk. Blocks: call it in a thread."""
    on_moved: Callable[[], None] | None
    @property
    def moved_octets(self) -> int:
        """By how much moves have made records longer."""
    @property
    def living_octets(self) -> int:
        """Octets of the records that are needed: of messages and of what their attempts came to."""
    @property
    def log_octets(self) -> int:
        """Octets of the segments that are full."""
    @property
    def moving(self) -> int:
        """Copies that are not on disk yet."""
    def is_at(self, message: Message, segment: Segment, offset: int, outcome: tuple[int, int]) -> bool:
        """Whether message may be moved, and its record and the last of its outcomes are where they were."""
    def move(self, message: Message, record: bytes, outcomes: list[Outcome], last: bool) -> None:
        """Copy message to the segment that grows: `record` as it was read, `outcomes` as read_outcomes gave them.

        What it is worth now (states, attempts, hold) goes with it, in one record. The old place is let go when the copy
        is on disk; until then, and if that fails, the message is where it was. `last`: sync what was put so far.
        OSError when the journal takes nothing.
        """
    def close(self) -> None:
        """Write and sync what is pending, tell those who wait, close the files. The object is dead afterwards."""
    def _close(self) -> Any: ...
    def _drop_first_waiting(self) -> Any: ...
    def _drop_index(self, segment: Segment) -> Any: ...
    def _cut(self, segment: Segment) -> Any: ...
    def _make_file(self, size: int) -> Segment: ...
    def _note_full(self) -> Any: ...
    def _note_room(self) -> Any: ...
    def _fence(self, error: int) -> Any: ...

def segment_header(shard: int, serial: int, oldest_serial: int, size: int, ledger: Ledger | None = None) -> bytes:
    """The header of a segment file, with a checkpoint of the ledger."""

def read_segment_header(block: bytes) -> tuple[int, int, int, int] | None:
    """(shard, serial, oldest_serial, size), or None when block does not begin with a sound header."""

__test__: dict[str, str]
