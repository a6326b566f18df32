"""The node's memory for mail data; documented in cext/memory_budget.pyx."""

from enum import IntEnum

from typing_extensions import disjoint_base

from angarium._core.counters import Counters

class MemoryState(IntEnum):
    MEMORY_BELOW = 0
    MEMORY_SOFT = 1
    MEMORY_HARD = 2
    MEMORY_REFUSING = 3

@disjoint_base
class MemoryBudget:
    """What one process knows of the node's budget for mail data."""

    def __init__(self, counters: Counters, octets: int = ..., soft: float = 0.5, hard: float = 0.85) -> None:
        """A budget of so many octets for the whole node; soft and hard are shares of it, in that order, up to 1."""
    @property
    def counters(self) -> Counters: ...
    @property
    def soft(self) -> float: ...
    @property
    def hard(self) -> float: ...
    @property
    def state(self) -> int:
        """The MemoryState."""
    @property
    def elsewhere_octets(self) -> int:
        """What the other processes of the node held when refresh was called."""
    @property
    def octets(self) -> int:
        """The whole budget."""
    @property
    def soft_octets(self) -> int:
        """The soft mark."""
    @property
    def hard_octets(self) -> int:
        """The hard mark."""
    @property
    def soft_left_octets(self) -> int:
        """What this process may hold before the node is over the soft mark."""
    @property
    def load_left_octets(self) -> int:
        """What this process may hold before no more mail data is read back from disk: half way to the hard mark."""
    def resize(self, octets: int, soft: float | None = None, hard: float | None = None) -> None:
        """Another budget from now on; marks that are not given are the same shares of it as before."""
    def refresh(self) -> int:
        """Tell the others what is held here, ask what they hold, and settle the state, which is returned."""

__test__: dict[str, str]
