"""Keep aside what can still be read of a record that is damaged, for people to look at.

Input: where the record stands, and why it is no good. Output: ID.record with its octets (unreadable blocks of 4,096
octets are zeros) and ID.json, which says where it stood and what is wrong, in spool/damaged. Both are on disk when
`keep_aside` returns. ID is the queue id, or segment serial and offset when that cannot be read.

Fails: OSError when nothing can be written; then nothing is kept, and the message must not be given up. Bounds:
MOST_KEPT records are kept aside at once (OSError ENOSPC beyond).
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import msgspec

from angarium._core.record import format_id

if TYPE_CHECKING:
    from pathlib import Path

    from angarium._core.journal import Segment

MOST_KEPT = 10_000
_BLOCK = 4096


class Damage(msgspec.Struct, frozen=True):
    """A record that is no good, and where what is left of it was kept."""

    number: int  # the queue id; less than 0 when it cannot be read
    segment: str
    serial: int
    offset: int
    octets: int
    why: str
    unreadable_octets: int = 0
    kept: str = ""  # path, empty: nothing was kept

    @property
    def name(self) -> str:
        """The queue id as text, or the place of the record."""
        return format_id(self.number) if self.number > 0 else f"{self.serial}-{self.offset}"


def read_what_can_be(segment: Segment, offset: int, octets: int) -> tuple[bytes, int]:
    """(the octets of a record, how many of them cannot be read and are zeros)."""
    try:
        return segment.disk.read_at(segment.fileno, octets, offset), 0
    except OSError:
        pass
    parts, lost = [], 0
    end = offset + octets
    while offset < end:
        n = min(end, offset // _BLOCK * _BLOCK + _BLOCK) - offset
        try:
            part = segment.disk.read_at(segment.fileno, n, offset)
        except OSError:
            part, lost = bytes(n), lost + n
        parts.append(part)
        offset += n
    return b"".join(parts), lost


def keep_aside(folder: Path, number: int, segment: Segment, offset: int, octets: int, why: str) -> Damage:
    """Copy what can be read of a record into folder. Blocks: call it in a thread, or before the loop runs."""
    record, lost = read_what_can_be(segment, offset, octets)
    damage = Damage(number, segment.path, segment.serial, offset, octets, why, lost)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{damage.name}.record"
    damage = msgspec.structs.replace(damage, kept=str(path))
    if not path.exists() and sum(1 for _ in folder.glob("*.record")) >= MOST_KEPT:
        raise OSError(errno.ENOSPC, f"{MOST_KEPT} damaged records are kept already", str(folder))
    about = {**msgspec.to_builtins(damage), "id": damage.name}
    del about["number"]
    _write(path.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(about)) + b"\n")
    _write(path, record)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return damage


def _write(path: Path, octets: bytes) -> None:
    temporary = path.with_name(path.name + ".new")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(fd)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
