"""Reading segments back; documented in cext/recovery.pyx."""

from typing_extensions import disjoint_base

from angarium._core.disk import Disk
from angarium._core.journal import Segment
from angarium._core.ledger import Ledger
from angarium._core.record import Message
from angarium._core.schedule import MessageTable

@disjoint_base
class SegmentScan:
    """What reading one segment found."""

    def __init__(
        self,
        segment: Segment,
        table: MessageTable,
        whole: bool,
        ledger: Ledger | None = None,
        damaged: dict[int, tuple[Segment, int, int, str]] | None = None,
        index: tuple[int, bytes] | None = None,
    ) -> None: ...
    @property
    def used(self) -> int: ...
    @property
    def accepted(self) -> int: ...
    @property
    def outcomes(self) -> int: ...
    @property
    def done(self) -> int: ...
    @property
    def last_id(self) -> int: ...
    @property
    def damaged(self) -> dict[int, tuple[Segment, int, int, str]]:
        """By id, or a number less than 0 where it is not known: segment, offset, octets, why."""

@disjoint_base
class LivingScan(SegmentScan):
    """Which messages have their record in a segment."""

    def __init__(self, segment: Segment, table: MessageTable) -> None: ...
    @property
    def messages(self) -> list[Message]: ...

def living_messages(segment: Segment, table: MessageTable) -> list[Message]:
    """The messages whose record stands in segment, in order. Blocks: call it in a thread."""

def scan_segment(
    segment: Segment,
    table: MessageTable,
    whole: bool,
    ledger: Ledger | None = None,
    damaged: dict[int, tuple[Segment, int, int, str]] | None = None,
    index: tuple[int, bytes] | None = None,
) -> SegmentScan:
    """Read segment, or what its side file says (read_index), into table and ledger; OSError when it cannot be read.

    damaged: what earlier segments lost; ids are added, and taken out when their message is done or stands here.
    """

def read_in_flight(path: str, disk: Disk | None = None) -> list[int]:
    """Ids of the messages whose last octets may have left when the node went down; none when there is no such file."""

__test__: dict[str, str]
