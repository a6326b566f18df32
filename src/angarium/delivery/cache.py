"""A bounded table of answers in which what is asked for again outlives what was asked for once.

Input: keys and values, the number of entries. It never fails. At its bound the value goes that was used longest ago
among those that were used once only; of the others as many are kept as fit into their share, the rest comes back
among the first. So a tail of any number of names that nobody asks for twice passes through a fifth of the table, and
leaves the known ones where they are."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["Cache"]

K = TypeVar("K")
V = TypeVar("V")

KNOWN_SHARE = 0.8


class Cache(Generic[K, V]):
    """What is kept, by key. It knows nothing of time."""

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._most_known = int(entries * KNOWN_SHARE)
        self._once: OrderedDict[K, V] = OrderedDict()
        self._known: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._once) + len(self._known)

    def peek(self, key: K) -> V | None:
        """The value, without counting it as used."""
        value = self._known.get(key)
        return self._once.get(key) if value is None else value

    def use(self, key: K) -> V | None:
        """The value, which is wanted again."""
        value = self._known.get(key)
        if value is not None:
            self._known.move_to_end(key)
            return value
        value = self._once.pop(key, None)
        if value is not None:
            self._keep(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value; in place of an older one it is known already."""
        if key in self._known or self._once.pop(key, None) is not None:
            self._keep(key, value)
        else:
            self._once[key] = value
        while len(self) > self._entries:
            (self._once or self._known).popitem(last=False)

    def _keep(self, key: K, value: V) -> None:
        self._known[key] = value
        self._known.move_to_end(key)
        while len(self._known) > self._most_known:
            old, evicted = self._known.popitem(last=False)
            self._once[old] = evicted
