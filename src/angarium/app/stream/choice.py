"""Which lines of the event log a stream sends.

By name of the event and by tenant; where tenants are chosen, an event that names no tenant is none of theirs. Events
about a stream are never sent by that stream itself: each batch that fails would make another one. A line that is no
event, such as what a killed process has left of one, is passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Choice"]


class _Probe(msgspec.Struct):
    event: str
    tenant: str = ""
    stream: str = ""


class Choice:
    """Of one stream."""

    def __init__(self, name: str, events: Collection[str], tenants: Collection[str]) -> None:
        """Empty: no condition."""
        self._name = name
        self._events = frozenset(events)
        self._tenants = frozenset(tenants)
        self._decoder = msgspec.json.Decoder(_Probe)

    def takes(self, line: bytes) -> bool:
        """Whether it is sent."""
        try:
            probe = self._decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False
        if self._events and probe.event not in self._events:
            return False
        if self._tenants and probe.tenant not in self._tenants:
            return False
        return probe.stream != self._name
