"""The queue in memory, the plain way: dicts, and walks over all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
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


@dataclass
class PlainQueue(Generic[Entry]):
    """What waits for one key: fresh entries by arrival, then the others by time."""

    waiting: dict[int, tuple[bool, float, Entry]] = field(default_factory=dict)
    not_before: float = 0.0
    suspended: bool = False

    def due_at(self) -> float | None:
        """When something may go; None: never, as things are."""
        if not self.waiting or self.suspended:
            return None
        first = (
            0.0
            if any(fresh for fresh, _, _ in self.waiting.values())
            else min(at for _, at, _ in self.waiting.values())
        )
        return max(first, self.not_before, 0.0)

    def candidates(self) -> set[int]:
        """The numbers of which one must be taken next."""
        order = {number: (not fresh, at) for number, (fresh, at, _) in self.waiting.items()}
        first = min(order.values())
        return {number for number, key in order.items() if key == first}


class PlainSchedule(Generic[Entry]):
    """Queues by key, looked through from end to end."""

    def __init__(self) -> None:
        self.queues: dict[tuple[bytes, int, bytes], PlainQueue[Entry]] = {}

    def queue(self, key: tuple[bytes, int, bytes]) -> PlainQueue[Entry]:
        return self.queues.setdefault(key, PlainQueue())

    def remove(self, number: int) -> None:
        for queue in self.queues.values():
            queue.waiting.pop(number, None)

    @property
    def count(self) -> int:
        return sum(len(queue.waiting) for queue in self.queues.values())

    @property
    def first(self) -> float | None:
        return min((at for queue in self.queues.values() if (at := queue.due_at()) is not None), default=None)

    def due(self, now: float) -> set[tuple[bytes, int, bytes]]:
        """The keys of which one must come next; none when nothing is due."""
        first = self.first
        if first is None or first > now:
            return set()
        return {key for key, queue in self.queues.items() if queue.due_at() == first}
