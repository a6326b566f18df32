"""What the admin process asks of the process that keeps the event log and sends it on: kinds of question for
delivery.lookup_protocol. Answers are never kept (`expires` is 0)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import msgspec

from angarium.delivery.lookup_protocol import Kind

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["EVENTS_STATUS", "RESEND", "EventsStatus", "Resent", "StreamStatus", "events_socket_path"]


class StreamStatus(msgspec.Struct, frozen=True):
    """One stream. `lag_events`: lines of the log that it has not got to, also those that it will not send; `lag_s`: the
    age of the oldest event that is not sent. The totals are of the stream's life, but `dead_letters`: those there are.
    """

    name: str
    to: str
    state: Literal["idle", "working", "failing"]
    lag_events: int
    lag_s: float
    sent: int
    batches: int
    failures: int
    dead_letters: int
    lost: int
    error: str


class EventsStatus(msgspec.Struct, frozen=True):
    """What the process says of itself, and of the log: its files, and their octets on disk."""

    pid: int
    uptime_s: float
    files: int
    octets: int
    streams: tuple[StreamStatus, ...]
    expires: float = 0.0


class Resent(msgspec.Struct, frozen=True):
    """How many dead letters a stream is about to send again; -1: there is no such stream."""

    events: int
    expires: float = 0.0


EVENTS_STATUS: Kind[None, EventsStatus] = Kind("events_status", type(None), EventsStatus)
RESEND: Kind[str, Resent] = Kind("resend", str, Resent)  # a stream's name


def events_socket_path(spool: Path) -> str:
    """Where the process of the node with this spool listens."""
    return os.path.join(spool, "run", "events.sock")
