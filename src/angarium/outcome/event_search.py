"""The events of one message, and what happened on the node meanwhile that may have made it wait.

Job: `search` reads the log's files from the one in which the message was accepted on, as octets: only lines that
contain the id, or the name of one of ON_THE_NODE, are decoded. Input: the log's path, the id, when the message was
accepted (its id says so). Output: the events, in the order of their times.

Fails: OSError. Bounds: MOST_EVENTS of the message, MOST_AROUND of the node, MOST_OCTETS read (after decompression);
`complete` says whether that was enough.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from angarium.outcome.event_files import list_files, open_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from angarium.outcome.event_files import LogFile

__all__ = ["ON_THE_NODE", "Found", "accepted_at", "search"]

MOST_EVENTS = 10_000
MOST_AROUND = 5_000
MOST_OCTETS = 8 << 30
BLOCK_OCTETS = 8 << 20
SLACK_S = 60.0  # lines of two processes may stand out of order, and clocks be set
ON_THE_NODE = ("suspension", "resumption", "unreachable")
EPOCH_S = 1_577_836_800  # of queue ids
TIME_SHIFT = 22


@dataclass
class Found:
    """`own`: events that name the message; `around`: those of ON_THE_NODE since it was accepted."""

    own: list[dict[str, Any]] = field(default_factory=list)
    around: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = True


def accepted_at(id: int) -> float:
    """When the message of this id began to be taken, Unix time."""
    return (id >> TIME_SHIFT) / 1000 + EPOCH_S


def search(path: Path, text: str, since: float) -> Found:
    """`text`: the id; `since`: when its message was accepted, Unix time."""
    found = Found()
    name = text.encode("ascii")
    needles = [f'"event":"{event}"'.encode("ascii") for event in ON_THE_NODE]
    begins = datetime.fromtimestamp(since - SLACK_S, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode("ascii")
    left = MOST_OCTETS
    for file in list_files(path):
        if file.ended < since - SLACK_S:
            continue
        for block in _blocks(file):
            left -= len(block)
            for line in _lines(block, name):
                event = _decoded(line)
                if event is not None and text in (event.get("id"), event.get("about")):
                    found.own.append(event)
            for needle in needles:
                found.around += [
                    event
                    for line in _lines(block, needle)
                    if line[9:36] >= begins and (event := _decoded(line)) is not None
                ]
            if left < 0 or len(found.own) > MOST_EVENTS:
                found.complete = False
                break
    found.own.sort(key=_time_of)
    found.around = sorted(found.around[-MOST_AROUND:], key=_time_of)
    return found


def _blocks(file: LogFile) -> Iterator[bytes]:
    """Its whole lines, some MiB at a time; nothing when it went away meanwhile."""
    try:
        opened = open_file(file)
    except FileNotFoundError:
        return
    with opened:
        rest = b""
        while more := opened.read(BLOCK_OCTETS):
            end = more.rfind(b"\n") + 1
            if end:
                yield rest + more[:end]
                rest = more[end:]
            else:
                rest += more


def _lines(block: bytes, needle: bytes) -> Iterator[bytes]:
    """The lines of a block in which this stands."""
    at = 0
    while (at := block.find(needle, at)) >= 0:
        begin = block.rfind(b"\n", 0, at) + 1
        end = block.find(b"\n", at)
        yield block[begin:end]
        at = end + 1


def _decoded(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None  # what a killed process has left of one
    return event if isinstance(event, dict) and isinstance(event.get("time"), str) else None


def _time_of(event: dict[str, Any]) -> str:
    moment: str = event["time"]
    return moment
