"""The queue in memory, the plain way: a dict and a sorted walk over it."""

from __future__ import annotations

from typing import Generic, TypeVar

Entry = TypeVar("Entry")


class PlainTable(Generic[Entry]):
    """Entries by id."""

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}

    def insert(self, number: int, entry: Entry) -> None:
        if number in self.entries:
            raise ValueError(number)
        self.entries[number] = entry

    def get(self, number: int) -> Entry | None:
        return self.entries.get(number)

    def discard(self, number: int, entry: Entry) -> bool:
        if self.entries.get(number) is not entry:
            return False
        del self.entries[number]
        return True


class PlainTimer(Generic[Entry]):
    """What waits, and until when. Of several that are due the earliest comes first; among equals any may."""

    def __init__(self) -> None:
        self.waiting: dict[int, tuple[float, Entry]] = {}

    def add(self, number: int, entry: Entry, at: float) -> None:
        self.waiting[number] = (at, entry)

    def remove(self, number: int) -> None:
        self.waiting.pop(number, None)

    @property
    def first(self) -> float | None:
        return min((at for at, _ in self.waiting.values()), default=None)

    def next_due(self, now: float) -> set[int]:
        """The numbers of which one must come out of pop_due(now); none when nothing is due."""
        first = self.first
        if first is None or first > now:
            return set()
        return {number for number, (at, _) in self.waiting.items() if at == first}
