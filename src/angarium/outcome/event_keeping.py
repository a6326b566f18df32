"""Keeps the event log's files within bounds: rotation, compression, retention.

Job: `rotation_due` and `rotate` end the file that is written; `compress` makes a file that nobody writes to any more
small; `to_delete` says which are too old or too many. One process of a node calls them (angarium.app.events).

**Rotation** is a rename. Who writes sees within `events.flush_interval` that the name leads to another file now, puts
what it holds into the old one, and opens the new (angarium._core.event_log); the writer that comes first makes it. So
every line is in one of the two, whole. Whether all have gone on is what the kernel says (event_files.has_writers):
until then a file is neither compressed nor taken for finished.

**Compression** writes `NAME.zst.part`, has it on disk, renames it to `NAME.zst`, and only then removes `NAME`. What is
killed in between leaves the original, and at most a `.part` that the next one overwrites, or both of the same contents,
of which the next one removes the original.

Fails: OSError. A disk that is full makes compression fail and nothing else: the original stays, and is counted.
"""

from __future__ import annotations

import contextlib
import gzip
import os
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from angarium.outcome.event_files import first_line, has_writers, list_files, rotated_name, time_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from angarium.outcome.event_files import LogFile

__all__ = ["Compression", "Retention", "compress", "rotate", "rotation_due", "to_compress", "to_delete"]

Compression = Literal["zstd", "gzip", "none"]

BLOCK_OCTETS = 1 << 20
ZSTD_LEVEL = 6
GZIP_LEVEL = 6
_SUFFIX = {"zstd": ".zst", "gzip": ".gz"}


class Retention(Struct, frozen=True):
    """What is kept. 0: no bound."""

    size_octets: int  # of all files that were rotated, as they are on disk
    age_s: float  # since they were rotated
    unsent_octets: int  # of those that a stream has not sent yet, whatever the others say


def rotation_due(path: Path, now: float, size_octets: int, every_s: float) -> bool:
    """Whether the active file is to end: it is too large, or a boundary of `every_s` (days begin at midnight, UTC) lies
    between its first line and now. 0: not for that reason. An empty file never ends."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return False
    if stat.st_size == 0 or not os.path.isfile(path):
        return False
    if size_octets and stat.st_size >= size_octets:
        return True
    if not every_s:
        return False
    active = next((file for file in list_files(path) if file.active), None)
    line = None if active is None else first_line(active)
    began = time_of(line) if line is not None else ""
    try:
        since = datetime.fromisoformat(began).timestamp()
    except ValueError:
        since = stat.st_mtime
    return since // every_s < now // every_s


def rotate(path: Path, now: float) -> Path:
    """End the active file; its new path."""
    target = rotated_name(path, now, list_files(path))
    os.rename(path, target)
    return target


def to_compress(path: Path, spared: Collection[Path] = ()) -> list[LogFile]:
    """The rotated files of our own that are not compressed and that nobody writes to."""
    found = []
    for file in list_files(path):
        if file.active or file.compressed or file.path in spared or not file.own:
            continue
        with contextlib.suppress(FileNotFoundError), open(file.path, "rb") as opened:
            if not has_writers(opened.fileno()):
                found.append(file)
    return found


def compress(file: Path, how: Compression) -> Path:
    """Make a file small; the path of what it is now. It may take a second for each 100 MB: not for a loop."""
    target = file.with_name(file.name + _SUFFIX[how])
    if target.exists():  # complete, for it was renamed when it was
        file.unlink()
        return target
    part = target.with_name(target.name + ".part")
    try:
        with open(file, "rb") as source, open(part, "wb") as made:
            os.fchmod(made.fileno(), os.fstat(source.fileno()).st_mode & 0o777)
            if how == "zstd":
                import zstandard  # noqa: PLC0415  # loaded where it is used

                zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).copy_stream(source, made)
            else:
                with gzip.GzipFile(filename="", fileobj=made, mode="wb", compresslevel=GZIP_LEVEL, mtime=0) as packed:
                    while block := source.read(BLOCK_OCTETS):
                        packed.write(block)
            made.flush()
            os.fsync(made.fileno())
        os.rename(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    file.unlink()
    return target


def to_delete(files: Sequence[LogFile], now: float, retention: Retention, unsent: int | None) -> list[LogFile]:
    """Which of the files (oldest first, as list_files gives them) go.

    `unsent`: number of the first one that a stream has not sent whole; None: there is none. From there on a file is
    kept for the stream until those files together are more than `unsent_octets`; then the oldest go all the same. Files
    that others rotated are theirs to delete.
    """
    rotated = [file for file in files if not file.active]
    total = sum(file.size for file in rotated)
    waiting = 0 if unsent is None else sum(file.size for file in rotated[unsent:])
    gone = []
    for number, file in enumerate(rotated):
        too_many = retention.size_octets and total > retention.size_octets
        too_old = retention.age_s and now - file.ended > retention.age_s
        if not (too_many or too_old) or not file.own:
            break
        if unsent is not None and number >= unsent:
            if not retention.unsent_octets or waiting <= retention.unsent_octets:
                break
            waiting -= file.size
        total -= file.size
        gone.append(file)
    return gone
