"""Which lines of the event log a stream sends.

By name of the event and by tenant; where tenants are chosen, an event that names no tenant is none of theirs. Events
about a stream are never sent by that stream itself: each batch that fails would make another one.

A process that is killed may leave the half of a line, and the next to write goes on behind it: what is whole at the
end of such a line is an event, the half is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["Choice"]

_BEGIN = b'{"time":"'  # of every event; within one its quotation marks would be escaped


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

    def taken_of(self, line: bytes) -> bytes:
        """What of this line is sent, with its end; empty: nothing."""
        probe = self._decoded(line)
        if probe is None:
            line = line[max(0, line.rfind(_BEGIN)) :]
            probe = self._decoded(line)
        return line if probe is not None and self._wants(probe) else b""

    def takes(self, line: bytes) -> bool:
        """Whether anything of it is sent."""
        return self.taken_of(line) != b""

    def _wants(self, probe: _Probe) -> bool:
        if self._events and probe.event not in self._events:
            return False
        if self._tenants and probe.tenant not in self._tenants:
            return False
        return probe.stream != self._name

    def _decoded(self, line: bytes) -> _Probe | None:
        try:
            return self._decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
