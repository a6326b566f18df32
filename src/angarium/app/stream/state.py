"""What a stream knows over restarts: how far it is, and what it has counted. One small file in `spool/streams/NAME`.

It is written whole beside the old one, has to be on disk, and takes its place, which is on disk as well before `save`
returns: there is always one that can be read, and after a power failure it is the last.
A process that is killed after a batch was taken and before that is written here sends the batch again: at least once.

Fails: `load` with ValueError for a file that is not one (nothing but a foreign hand makes such a file); `save` with
OSError, where the disk is full for one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from angarium.app.stream.durable import replace
from angarium.outcome.event_reader import Position  # noqa: TC001  # a field of a Struct

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["StreamState", "load", "save"]

FILE = "state.json"


class StreamState(msgspec.Struct):
    """`position`: behind the last event that is settled: sent, set aside or lost. The rest are totals of the stream's
    life, but for `failing_since`: since when the batch at `position` cannot be sent, Unix time; 0: it can."""

    position: Position
    sent: int = 0
    batches: int = 0
    failures: int = 0
    lost: int = 0
    failing_since: float = 0.0


def load(folder: Path) -> StreamState | None:
    """The state of a stream; None for one that has none yet."""
    try:
        octets = (folder / FILE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(octets, type=StreamState)
    except msgspec.MsgspecError as failure:
        raise ValueError(f"{folder / FILE} is not the state of a stream: {failure}") from failure


def save(folder: Path, state: StreamState) -> None:
    """From now on this is it."""
    replace(folder / FILE, msgspec.json.encode(state))
