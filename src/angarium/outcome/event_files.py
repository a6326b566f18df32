"""The files of the event log: which there are, in which order they were written, and what is in them.

    /var/log/angarium/events.jsonl                                  the one that is written
    /var/log/angarium/events-20261126T000000.000000Z.jsonl          was written until then
    /var/log/angarium/events-20261125T000000.000000Z.jsonl.zst      and is compressed

Job: list them, oldest first, with those that others rotated (`events.jsonl.1`, `events.jsonl-20261125.gz`); open one,
compressed or not; tell whether anybody still writes to one.

A file is known by its *head*, a digest of its first line, which begins with a time in microseconds: it stays the same
when the file is renamed, compressed or copied, and a position (head, offset into what was written) holds over all of
that. Two processes that write hold a shared lock (flock) on the file that they have open: who gets an exclusive one on
a file that has another name by now knows that nothing will be added to it any more (`has_writers`). The kernel drops
the locks of a process that dies.

Fails: OSError; a file that went away between listing and opening is FileNotFoundError. Bound: LONGEST_LINE.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = [
    "LONGEST_LINE",
    "LogFile",
    "first_line",
    "has_writers",
    "head_of",
    "list_files",
    "open_file",
    "rotated_name",
    "time_of",
    "whole_line",
]

LONGEST_LINE = 4 << 20  # octets; a reception with 65,535 recipients of the usual length
HEAD_DIGITS = 24
READ_OCTETS = 1 << 20
_STAMP = "%Y%m%dT%H%M%S.%fZ"
_OWN = re.compile(r"-(\d{8}T\d{6}\.\d{6}Z)")
_TIME = re.compile(rb'\{"time":"([0-9T:.-]{19,26}Z)"')


@dataclass(frozen=True)
class LogFile:
    """One file. `ended`: when it was rotated, Unix time; infinity for the one that is written."""

    path: Path
    ended: float
    suffix: str  # of its compression
    size: int
    identity: tuple[int, int, int]  # device, inode, time of the last change in ns
    own: bool = True  # its name is one that the relay gives

    @property
    def active(self) -> bool:
        """Whether it is the one that is written."""
        return self.ended == float("inf")

    @property
    def compressed(self) -> bool:
        """Whether its octets on disk are not those that were written."""
        return self.suffix != ""


def _parts(path: Path) -> tuple[str, str]:
    """The name before and behind where the stamp stands."""
    stem, dot, ending = path.name.rpartition(".")
    return (stem, dot + ending) if stem else (path.name, "")


def rotated_name(path: Path, moment: float, existing: list[LogFile]) -> Path:
    """The name under which the active file goes on, later than all that there are, whatever the clock says."""
    last = max((file.ended for file in existing if not file.active), default=0.0)
    moment = max(moment, last + 2e-6)
    stem, ending = _parts(path)
    stamp = datetime.fromtimestamp(moment, UTC).strftime(_STAMP)
    return path.with_name(f"{stem}-{stamp}{ending}")


def list_files(path: Path) -> list[LogFile]:
    """Every file of the log at `path`, oldest first, the active one last. One that is there twice, since its compressed
    copy has just been made, is listed as the copy."""
    stem, ending = _parts(path)
    own: dict[str, LogFile] = {}
    found: list[LogFile] = []
    try:
        entries = list(os.scandir(path.parent))
    except FileNotFoundError:
        return []
    for entry in entries:
        if not entry.name.startswith(stem):
            continue
        plain, suffix = _without_suffix(entry.name)
        if suffix == ".part":
            continue
        ended = _ended(plain, path.name, stem, ending)
        if ended is None:
            continue
        try:
            if not entry.is_file():
                continue
            stat = entry.stat()
        except FileNotFoundError:
            continue
        file = LogFile(
            Path(entry.path),
            stat.st_mtime if ended == 0.0 else ended,
            suffix,
            stat.st_size,
            (stat.st_dev, stat.st_ino, stat.st_mtime_ns),
            ended != 0.0,
        )
        if file.active and file.compressed:
            continue
        before = own.get(plain)
        if before is None or (file.compressed and not before.compressed):
            own[plain] = file
    found.extend(own.values())
    found.sort(key=lambda file: (file.ended, file.path.name))
    return found


def _without_suffix(name: str) -> tuple[str, str]:
    for suffix in (".gz", ".zst", ".part"):
        if name.endswith(suffix):
            return name.removesuffix(suffix), suffix
    return name, ""


def _ended(name: str, active: str, stem: str, ending: str) -> float | None:
    """When a file of this name was rotated; 0: its own time tells; None: it is not of this log."""
    if name == active:
        return float("inf")
    middle = name.removeprefix(stem).removesuffix(ending)
    own = _OWN.fullmatch(middle)
    if own is not None and name == f"{stem}{middle}{ending}":
        return datetime.strptime(own[1], _STAMP).replace(tzinfo=UTC).timestamp()
    if re.fullmatch(re.escape(active) + r"[.-]\d{1,10}(?:-\d+)?", name):
        return 0.0  # logrotate's names
    return None


def open_file(file: LogFile) -> BinaryIO:
    """What was written to it, from the start; its compression is undone while it is read."""
    return open_path(file.path, file.suffix)


def open_path(path: Path, suffix: str) -> BinaryIO:
    """The same by name."""
    if suffix == ".gz":
        return cast("BinaryIO", gzip.open(path, "rb"))
    if suffix == ".zst":
        import zstandard  # noqa: PLC0415  # only where there is something to read

        opened = open(path, "rb", buffering=0)  # noqa: SIM115  # the reader closes it
        reader = zstandard.ZstdDecompressor().stream_reader(
            opened, read_size=1 << 18, read_across_frames=True, closefd=True
        )
        return cast("BinaryIO", io.BufferedReader(cast("io.RawIOBase", reader), READ_OCTETS))
    return open(path, "rb", buffering=0)


def first_line(file: LogFile) -> bytes | None:
    """The first line, with its end; None when there is no whole line."""
    with open_file(file) as opened:
        return whole_line(opened)


def whole_line(opened: BinaryIO) -> bytes | None:
    """The line at the place where it stands; None when it has no end yet."""
    octets = b""
    while len(octets) < LONGEST_LINE:
        more = opened.read(8192)
        if not more:
            return None
        octets += more
        end = octets.find(b"\n")
        if end >= 0:
            return octets[: end + 1]
    return None


def head_of(line: bytes) -> str:
    """What a file is known by that begins with this line."""
    return hashlib.sha256(line).hexdigest()[:HEAD_DIGITS]


def time_of(line: bytes) -> str:
    """The time at which a line begins, as it stands there; empty for what is no event."""
    found = _TIME.match(line)
    return "" if found is None else found[1].decode("ascii")


def has_writers(fd: int) -> bool:
    """Whether a process may still add to a file that is not the active one any more."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
