"""One shard's ledger; documented in cext/ledger.pyx."""

from enum import IntEnum
from typing import Final

from typing_extensions import disjoint_base

REASONS: Final = ("operator_deleted", "damaged", "lost_memory")

class DropReason(IntEnum):
    """Why a recipient left the queue in another way than SMTP's; REASONS has the words."""

    DROP_DELETED = 0
    DROP_DAMAGED = 1
    DROP_LOST_MEMORY = 2

@disjoint_base
class Ledger:
    """The totals of one shard, all zero at first. Counts are of recipients."""

    def __init__(self) -> None: ...
    @property
    def accepted(self) -> int: ...
    @property
    def delivered(self) -> int: ...
    @property
    def bounced(self) -> int: ...
    @property
    def expired(self) -> int: ...
    @property
    def in_memory(self) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def counted(self) -> int: ...
    @property
    def chain_units(self) -> int: ...
    @property
    def ended(self) -> int:
        """Recipients for whom it is over, however it ended."""
    @property
    def queued(self) -> int:
        """Recipients that have to be queued if the totals are right."""
    def totals(self) -> dict[str, int]:
        """All totals by name, what was dropped under its reason."""
    def settle(self, queued: int) -> tuple[int, int, int]:
        """Recovery found so many recipients queued. Returns (lost with class memory, missing, more than expected)."""

__test__: dict[str, str]
