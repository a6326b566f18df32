"""The queue in memory; documented in cext/schedule.pyx."""

from collections.abc import Iterator
from typing import Self

from typing_extensions import disjoint_base

from angarium._core.record import Message

@disjoint_base
class MessageTable:
    """Messages by id."""

    def __new__(cls) -> Self: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Message]: ...
    @property
    def count(self) -> int: ...
    @property
    def recipients(self) -> int: ...
    @property
    def octets(self) -> int: ...
    @property
    def capacity(self) -> int:
        """How many slots there are."""
    def batch(self, position: int, slots: int) -> tuple[list[Message], int]:
        """The messages in `slots` slots from `position` on, and where to go on; for walks that give way to the loop."""
    def insert(self, message: Message) -> None:
        """Add message; ValueError when the id is there already."""
    def get(self, id: int) -> Message | None:
        """The message of that id."""
    def discard(self, message: Message) -> bool:
        """Whether the message was there; it is not any more."""

@disjoint_base
class Timer:
    """Messages by the time of their next attempt."""

    def __len__(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def first(self) -> float | None:
        """When the first message is due, or None."""
    def add(self, message: Message, at: float) -> None:
        """Have message come out of pop_due from `at` (unix seconds) on; a message that is in already moves."""
    def remove(self, message: Message) -> None:
        """Take message out, if it is in."""
    def pop_due(self, now: float) -> Message | None:
        """The next message whose time has come."""

__test__: dict[str, str]
