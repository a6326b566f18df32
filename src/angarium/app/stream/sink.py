"""What a stream sends, and to what: a batch of events, and the other side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Batch", "Item", "Remembering", "Sink", "SinkFailure"]


@dataclass(frozen=True, slots=True)
class Item:
    """One event. `line`: its JSON, without the line's end. `key`: unique to it, and the same whenever it is sent."""

    line: bytes
    key: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Events in their order, at least one."""

    items: tuple[Item, ...]

    @property
    def key(self) -> str:
        """Unique to what is in it."""
        return f"{self.items[0].key}.{len(self.items)}"


class SinkFailure(Exception):
    """A batch was not taken, or nobody knows.

    `taken`: so many of its events were, the first ones. `refused`: the other side has looked at it and does not want
    it, so it will hardly want it later; `too_large`: it may want half of it. `retry_after_s`: not before.
    """

    def __init__(
        self,
        text: str,
        *,
        taken: int = 0,
        refused: bool = False,
        too_large: bool = False,
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(text)
        self.text = text
        self.taken = taken
        self.refused = refused
        self.too_large = too_large
        self.retry_after_s = retry_after_s


class Sink(Protocol):
    """The other side of a stream."""

    async def send(self, batch: Batch) -> None:
        """Hand it over; SinkFailure when it was not taken. It may be cancelled, and is then told again."""

    async def close(self) -> None:
        """Let go of what is open. It can be used again."""


@runtime_checkable
class Remembering(Protocol):
    """A sink for which what came before matters: what was settled before it was made is shown to it again."""

    @property
    def look_back_octets(self) -> int:
        """About so much of the log, up to where the stream stands."""

    def recall(self, items: Sequence[Item]) -> None:
        """Events in their order, which were sent, or not to be sent, long ago."""
