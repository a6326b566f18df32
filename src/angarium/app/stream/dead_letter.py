"""Dead letters of one stream: events that the other side would not take, kept until they are sent once more.

    {"key":"9b4682637b84fe08f853ea00-418","event":{"time":…}}        a line each, with the id that it always has

They are appended to `dead-letters.jsonl` in the stream's folder, and are on disk when `add` returns. To be sent again
that file becomes `resending.jsonl`, which goes when the last of them was sent or set aside anew: who is killed in
between sends all of them again.

A line that is no letter, such as the half of one that a power failure left, is skipped and counted (`torn`). Fails:
OSError. Bound: `most_octets`, of each of the two files."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

import msgspec

from angarium.app.stream.durable import sync_folder, write_all
from angarium.app.stream.sink import Item

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = ["DeadLetters"]

FILE = "dead-letters.jsonl"
RESENDING = "resending.jsonl"


class _Letter(msgspec.Struct):
    key: str
    event: msgspec.Raw


class DeadLetters:
    """Those of one stream."""

    def __init__(self, folder: Path, most_octets: int) -> None:
        self._folder = folder
        self._most_octets = most_octets
        self._decoder = msgspec.json.Decoder(_Letter)
        self._aside = self._under_way = 0
        self.torn = 0

    def look(self) -> None:
        """Count what there is from earlier."""
        self._aside = _lines(self.file)
        self._under_way = _lines(self._resending)

    @property
    def file(self) -> Path:
        """Where they are set aside."""
        return self._folder / FILE

    @property
    def _resending(self) -> Path:
        return self._folder / RESENDING

    @property
    def count(self) -> int:
        """How many there are, with those that are being sent again; none where somebody has taken the file away."""
        if self._aside and not self.file.exists():
            self._aside = 0
        return self._aside + self._under_way

    @property
    def begun(self) -> bool:
        """Whether some are being sent again, or were when the process ended."""
        return self._resending.exists()

    def add(self, items: Iterable[Item]) -> None:
        """Set them aside; all of them, or none and OSError."""
        octets = b"".join(b'{"key":"%b","event":%b}\n' % (item.key.encode("ascii"), item.line) for item in items)
        new = not self.file.exists()
        fd = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                octets = b"\n" + octets  # the half of a line
            if size + len(octets) > self._most_octets:
                raise OSError("stream.dead_letter_size is reached")
            try:
                write_all(fd, octets)
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)
        if new:
            sync_folder(self._folder)
        self._aside += octets.strip(b"\n").count(b"\n") + 1

    def take(self, most: int) -> Iterator[list[Item]]:
        """All of them, to be sent again, in parts; what was sent of a part before the next is asked for is done with.
        `finish` ends it."""
        if not self.begun:
            if not self.file.exists():
                return
            os.rename(self.file, self._resending)
            sync_folder(self._folder)
            self._under_way, self._aside = self._aside, 0
        with open(self._resending, "rb") as opened:
            while lines := list(itertools.islice(opened, most)):
                items = []
                for line in lines:
                    try:
                        letter = self._decoder.decode(line)
                    except msgspec.MsgspecError:
                        self.torn += 1
                    else:
                        items.append(Item(bytes(letter.event), letter.key))
                if items:
                    yield items
                self._under_way = max(0, self._under_way - len(lines))

    def finish(self) -> None:
        """None of those that were taken is left."""
        self._resending.unlink(missing_ok=True)
        sync_folder(self._folder)
        self._under_way = 0


def _lines(file: Path) -> int:
    count = 0
    try:
        with open(file, "rb") as opened:
            while block := opened.read(1 << 20):
                count += block.count(b"\n")
    except FileNotFoundError:
        pass
    return count
