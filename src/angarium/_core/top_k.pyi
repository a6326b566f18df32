"""The largest of very many names, in memory for a few; documented in cext/top_k.pyx."""

from collections.abc import Iterable, Sequence
from typing import Self

from typing_extensions import disjoint_base

from angarium._core.counters import Counters

@disjoint_base
class TopK:
    """A space-saving sketch: counts of names, the smallest replaced when there is no room."""

    def __new__(cls, capacity: int = 256) -> Self: ...
    @property
    def capacity(self) -> int:
        """How many names have a counter at a time."""
    @property
    def used(self) -> int:
        """How many have one now."""
    def __len__(self) -> int: ...
    def clear(self) -> None:
        """Forget everything."""
    def halve(self) -> None:
        """Half of what was counted is forgotten, so that what was long ago weighs less and less."""
    def add(self, name: bytes, weight: int = 1) -> None:
        """Count weight for name."""
    def items(self) -> list[tuple[bytes, int, int]]:
        """Name, count, and by how much the count may be too large; the largest first."""
    def publish(self, counters: Counters, which: int) -> None:
        """Put the first of them into a list of the region."""

def merged(lists: Iterable[Sequence[tuple[bytes, int, int]]], most: int) -> list[tuple[bytes, int, int]]:
    """The largest of several lists taken together: name, count, error; at most so many, the largest first.

    Each list is as `items` gives it, and holds what one worker has counted: counts add up.
    """
