"""Reads what was said in attempts: the records of cext/dialogue.pyx in the files of dialogue_files.

Job: `find` gives the dialogues of one message, in the order of their beginnings. A record begins with its file's random
mark and the id, so a file is searched as octets; nothing that a host said can be taken for a record.

Fails: OSError. A record that is cut short is passed over. Bounds: MOST_FOUND dialogues, a file mapped at a time.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from angarium._core.client_session import Phase
from angarium._core.dialogue import DialogueFlag
from angarium.outcome.dialogue_files import MAGIC, list_dialogues

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Dialogue", "Line", "decode", "find"]

MOST_FOUND = 1000
_HEAD = struct.Struct("<8sQI")
_FIXED = struct.Struct("<QIHHII")
_REPLY = struct.Struct("<BBHHHIH")
_LENGTH = struct.Struct("<I")
MARK_OCTETS = 8
TEXTS = 7


@dataclass(frozen=True)
class Line:
    """`who`: C this relay, S the host, * neither. `at_s`: since the attempt began; None: not known."""

    who: str
    text: str
    at_s: float | None = None


@dataclass(frozen=True)
class Dialogue:
    """One attempt. `began`: Unix time. `number`: of the transaction on its connection, from 0."""

    id: int
    began: float
    took_s: float
    attempt: int
    number: int
    next_hop: str
    host: str
    tls: str  # JSON; empty: plaintext
    delivered: bool
    pipelined: bool
    lines: tuple[Line, ...]


def find(folder: Path, id: int) -> list[Dialogue]:
    """What there is of a message."""
    found: list[Dialogue] = []
    for file in list_dialogues(folder):
        try:
            with open(file.path, "rb") as opened:
                if file.size < len(MAGIC) + MARK_OCTETS:
                    continue
                with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as octets:
                    found += _search(octets, id)
        except (FileNotFoundError, ValueError):  # it went away, or is empty
            continue
        if len(found) > MOST_FOUND:
            break
    return sorted(found[:MOST_FOUND], key=lambda dialogue: dialogue.began)


def _search(octets: mmap.mmap, id: int) -> Iterator[Dialogue]:
    begin = len(MAGIC)
    if octets[:begin] != MAGIC:
        return
    wanted = octets[begin : begin + MARK_OCTETS] + struct.pack("<Q", id)
    place = begin + MARK_OCTETS - 1
    while (place := octets.find(wanted, place + 1)) >= 0:
        if place + _HEAD.size > len(octets):
            return
        _, _, length = _HEAD.unpack_from(octets, place)
        end = place + _HEAD.size + length
        if end > len(octets):
            return
        yield decode(id, octets[place + _HEAD.size : end])


def decode(id: int, record: bytes) -> Dialogue:
    """A record behind its length."""
    began_us, took_us, flags, attempt, number, content = _FIXED.unpack_from(record)
    place = _FIXED.size
    texts = []
    for _ in range(TEXTS):
        (length,) = _LENGTH.unpack_from(record, place)
        place += _LENGTH.size
        texts.append(record[place : place + length])
        place += length
    next_hop, host, tls, opening, why, commands, replies = texts
    lines = [*_opening(opening)]
    if not flags & DialogueFlag.DIALOGUE_OPENING:
        lines += _transaction(flags, content, commands, replies, lost=bool(why))
    if why and not (flags & DialogueFlag.DIALOGUE_OPENING and opening):
        lines.append(Line("*", _text(why), took_us / 1e6))
    return Dialogue(
        id,
        began_us / 1e6,
        took_us / 1e6,
        attempt,
        number,
        _text(next_hop),
        _text(host),
        _text(tls),
        bool(flags & DialogueFlag.DIALOGUE_DELIVERED),
        bool(flags & DialogueFlag.DIALOGUE_PIPELINED),
        tuple(lines),
    )


def _opening(octets: bytes) -> Iterator[Line]:
    for line in octets.splitlines():
        who, _, text = _text(line).partition(": ")
        yield Line(who, text)


def _replies(octets: bytes) -> Iterator[tuple[int, Line]]:
    place = 0
    while place + _REPLY.size <= len(octets):
        phase, enhanced, code, subject, detail, at_us, length = _REPLY.unpack_from(octets, place)
        place += _REPLY.size
        status = f"{enhanced}.{subject}.{detail} " if enhanced else ""
        parts = _text(octets[place : place + length]).split("\n")
        place += length
        shown = [f"{code}{' ' if i == len(parts) else '-'}{status}{part}" for i, part in enumerate(parts, 1)]
        yield phase, Line("S", "\n".join(shown), at_us / 1e6)


def _transaction(flags: int, content: int, commands: bytes, replies: bytes, *, lost: bool) -> Iterator[Line]:
    """Commands, each with the reply to it, whether or not they were sent at once. `lost`: the connection ended it."""
    said = list(_replies(replies))
    before = [line for phase, line in said if phase <= Phase.PHASE_DATA]
    pipelined = flags & DialogueFlag.DIALOGUE_PIPELINED
    chunked = False
    if flags & DialogueFlag.DIALOGUE_AHEAD:
        yield Line("*", "the envelope went along with the content of the message before")
    for line in _text(commands).splitlines():
        chunked = line.startswith("BDAT ")
        if chunked or not (before or pipelined or lost):
            break  # without pipelining, what has no reply was not sent, but for the last before the connection ended
        yield Line("C", line)
        if before:
            yield before.pop(0)
        elif not pipelined:
            break
    if chunked:
        yield Line("C", _text(commands).splitlines()[-1])
    if flags & DialogueFlag.DIALOGUE_CONTENT:
        yield Line("C", f"({content} octets of mail data)")
    yield from before
    for phase, reply in said:
        if phase == Phase.PHASE_QUIT:
            yield Line("C", "QUIT")  # it was sent behind a 421, and its reply was waited for
        if phase > Phase.PHASE_DATA:
            yield reply
    if flags & DialogueFlag.DIALOGUE_CUT:
        yield Line("*", "there were more replies than are kept")


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")
