"""How much each sender has sent, in one table of the whole node; documented in cext/quota.pyx."""

from enum import IntEnum

from typing_extensions import disjoint_base

STEP_S: int
LEAST_UNUSUAL: int
LEARNED_HOURS: int

class QuotaVerdict(IntEnum):
    QUOTA_OK = 0
    QUOTA_LATER = 1
    QUOTA_HOUR_REACHED = 2
    QUOTA_DAY_REACHED = 3

@disjoint_base
class QuotaTable:
    """The file that all workers of a node have mapped."""

    def __init__(self, path: str, capacity: int = 16384) -> None:
        """Map the file at path; it is made when it is not there, or is none of this release.

        OSError when it cannot be made or mapped.
        """
    @property
    def fd(self) -> int: ...
    @property
    def path(self) -> str: ...
    @property
    def capacity(self) -> int:
        """Senders that have a place at the same time."""
    @property
    def shared(self) -> int:
        """Times that a sender found no place of its own, and was counted with another."""
    def close(self) -> None:
        """Let go of the file. Nothing of the table may be used afterwards."""

@disjoint_base
class Quota:
    """What one sender may send, and what is unusual for it."""

    def __init__(
        self,
        table: QuotaTable,
        key: bytes,
        *,
        per_hour: int = 0,
        per_day: int = 0,
        queues: bool = False,
        unusual_above: int = 0,
        unusual_times: float = 0,
    ) -> None:
        """key: 16 octets, the same for the same sender everywhere. ValueError for another number of them."""
    @property
    def table(self) -> QuotaTable: ...
    @property
    def per_hour(self) -> int: ...
    @property
    def per_day(self) -> int: ...
    @property
    def queues(self) -> bool: ...
    @property
    def unusual_above(self) -> int: ...
    @property
    def unusual_times(self) -> float: ...
    @property
    def step(self) -> int: ...
    @property
    def arrived(self) -> int: ...
    @property
    def hour_used(self) -> int:
        """Recipients of the hour that the last message was counted in, its own included; 0 without a limit."""
    @property
    def day_used(self) -> int: ...
    @property
    def unusual(self) -> bool: ...
    @property
    def tripped(self) -> bool: ...
    def ask(self, recipients: int, now_s: int) -> int:
        """The QuotaVerdict for so many recipients more, which are not counted."""
    def count(self, recipients: int, now_s: int) -> int:
        """Count a message, or refuse it: the QuotaVerdict. `step` says when it goes."""
    def uncount(self, step: int, recipients: int, now_s: int) -> None:
        """The message counted in that step was not taken after all."""
    def used(self, now_s: int) -> tuple[int, int, int]:
        """Recipients of the last hour, of the last day, and those that are put off beyond this step."""
    def suspect(self, now_s: int) -> bool:
        """Whether what it sends is held."""
    def usual(self, now_s: int) -> tuple[float, int]:
        """The mean of the hours in which it sent, and how many they are."""
    def excuse(self, now_s: int) -> bool:
        """What it sent so far is not unusual, and nothing is held any more. Whether something was."""

__test__: dict[str, str]
