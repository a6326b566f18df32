"""Reads the event log by lines, from a position, over rotations and compression, while it is written.

Job: `read` gives the next whole lines; `position` is where it stands behind them, and stays true over restarts. Input:
the path of the log. At the end of a file that was rotated, and to which nobody writes any more, it goes on with the
next; at the end of the active one it waits for what will be written.

A line that has no end (its writer was killed, or has written half of it so far) is not given: in a file that is
finished it is passed over. Files that went away before they were read are a gap: `gaps` counts them, and reading goes
on with the oldest that is there.

Fails: OSError. Bounds: READ_OCTETS and one line in memory; a line beyond LONGEST_LINE is passed over.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec import Struct

from angarium.outcome.event_files import (
    LONGEST_LINE,
    READ_OCTETS,
    LogFile,
    first_line,
    has_writers,
    head_of,
    list_files,
    open_file,
    time_of,
    whole_line,
)

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["LogReader", "Position", "before", "oldest", "youngest"]

_COMPRESSES_TO = 8  # events take about this part of their octets when they are compressed


class Position(Struct, frozen=True):
    """A place in the log. `head`: what the file is known by, empty: before the first file; `begins`: the time of its
    first line; `offset`: octets of it that lie behind."""

    head: str = ""
    begins: str = ""
    offset: int = 0


def oldest() -> Position:
    """Where the oldest file begins."""
    return Position()


def youngest(path: Path) -> Position:
    """Behind the last whole line that there is now."""
    for file in reversed(list_files(path)):
        try:
            line = first_line(file)
        except FileNotFoundError:
            continue
        if line is not None:
            return Position(head_of(line), time_of(line), _whole_length(file))
    return Position()


def before(path: Path, position: Position, octets: int) -> Position:
    """About so many octets before a position, maybe within a line: for who wants to see again what was last read.

    Less where there is less; a compressed file that has only a part of them is taken from its start. The position
    itself when its file is gone.
    """
    files = list_files(path)
    lines = [_first_line_of(file) for file in files]
    heads = ["" if line is None else head_of(line) for line in lines]
    if not position.head or position.head not in heads:
        return position
    left, found = octets, position
    for number in range(heads.index(position.head), -1, -1):
        file, line = files[number], lines[number]
        if line is None:
            continue
        size = position.offset if heads[number] == position.head else file.size
        exact = not file.compressed or heads[number] == position.head
        found = Position(heads[number], time_of(line), max(0, size - left) if exact else 0)
        left -= size if exact else size * _COMPRESSES_TO
        if left <= 0:
            break
    return found


def _first_line_of(file: LogFile) -> bytes | None:
    try:
        return first_line(file)
    except FileNotFoundError:
        return None


def _whole_length(file: LogFile) -> int:
    length = end = 0
    with open_file(file) as opened:
        if not file.compressed:
            length = end = max(0, os.fstat(opened.fileno()).st_size - LONGEST_LINE)
            opened.seek(length)
        while more := opened.read(READ_OCTETS):
            last = more.rfind(b"\n")
            if last >= 0:
                end = length + last + 1
            length += len(more)
    return end


class _Open:
    """A file that is being read."""

    def __init__(self, file: LogFile, opened: BinaryIO, line: bytes) -> None:
        self.file = file
        self.opened = opened
        self.head = head_of(line)
        self.begins = time_of(line)
        self.offset = 0  # of the first octet in `kept`
        self.kept = b""
        self.ended = False  # it has been seen to be finished

    def close(self) -> None:
        self.opened.close()

    def whole_lines(self, most_octets: int) -> bytes:
        """What comes next, not yet passed: whole lines of about so many octets; empty: there is no whole line."""
        kept = self.kept
        first = kept.find(b"\n")
        while first < 0 or len(kept) < most_octets:
            more = self.opened.read(max(READ_OCTETS, most_octets))
            kept += more
            first = kept.find(b"\n")
            if not more or first >= 0 or len(kept) > LONGEST_LINE:
                break
        if first < 0 and len(kept) > LONGEST_LINE:  # no event is that long
            self.offset += len(kept)
            kept = b""
        self.kept = kept
        return kept[: kept.rfind(b"\n", 0, max(most_octets, first + 1)) + 1]

    def skip(self, octets: int) -> None:
        """To this offset, when nothing has been read yet."""
        if not self.file.compressed:
            self.opened.seek(octets)
        else:
            left = octets
            while left and (more := self.opened.read(min(left, READ_OCTETS))):
                left -= len(more)
        self.offset = octets


class LogReader:
    """Reads one log from a position on."""

    def __init__(self, path: Path, position: Position) -> None:
        self._path = path
        self._position = position
        self._file: _Open | None = None
        self._found = not position.head
        self._heads: dict[tuple[Path, tuple[int, int, int]], tuple[str, str]] = {}
        self.gaps = 0

    @property
    def position(self) -> Position:
        """Behind the last line that `read` gave."""
        return self._position

    @property
    def path(self) -> Path:
        """Of the log."""
        return self._path

    @property
    def file(self) -> LogFile | None:
        """The file that it stands in, as it was when it was opened; None: in none."""
        return None if self._file is None else self._file.file

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._found = not self._position.head

    def read(self, most_lines: int = 10_000, most_octets: int = READ_OCTETS) -> list[bytes]:
        """The next whole lines, with their ends; none: there is nothing more at present."""
        block = self._block(most_octets)
        if not block:
            return []
        lines = block.splitlines(keepends=True) if block.find(b"\r") < 0 else _split(block)
        if len(lines) > most_lines:
            del lines[most_lines:]
        self._consume(sum(map(len, lines)))
        return lines

    def block(self, most_octets: int = READ_OCTETS) -> bytes:
        """The same, as one piece."""
        block = self._block(most_octets)
        self._consume(len(block))
        return block

    def _block(self, most_octets: int) -> bytes:
        try:
            while True:
                file = self._current()
                if file is None:
                    return b""
                block = file.whole_lines(most_octets)
                if block or not self._finished(file):
                    return block
        except FileNotFoundError:  # something was renamed or compressed while we looked
            return b""

    def _consume(self, octets: int) -> None:
        file = self._file
        if octets and file is not None:
            file.kept = file.kept[octets:]
            file.offset += octets
            self._position = Position(file.head, file.begins, file.offset)

    def count(self, most_octets: int) -> tuple[int, int]:
        """Pass over about so many octets: how many lines and octets they were."""
        lines = octets = 0
        while octets < most_octets and (block := self.block(READ_OCTETS)):
            lines += block.count(b"\n")
            octets += len(block)
        return lines, octets

    def read_within(self, file: LogFile) -> list[bytes]:
        """The next whole lines of this file, if it is the one that comes next; none: it is passed, or has no more."""
        try:
            current = self._current()
            if current is None or current.head != self._head(file)[0]:
                return []
            block = current.whole_lines(READ_OCTETS)
        except FileNotFoundError:
            return []
        self._consume(len(block))
        return _split(block)

    def place_in(self, files: list[LogFile], position: Position) -> int:
        """Number of the file in which this position is; of the first behind it when that has gone."""
        if not position.head:
            return 0
        try:
            heads = [self._head(file) for file in files]
        except FileNotFoundError:
            return 0
        for number, (head, _) in enumerate(heads):
            if head == position.head:
                return number
        return next((number for number, (_, begins) in enumerate(heads) if begins > position.begins), len(files))

    # -------------------------------------------------------------- one file

    def _finished(self, file: _Open) -> bool:
        """At the end of a file: whether there will be nothing more, so that the next is open now."""
        if file.file.active or not file.file.compressed:
            try:
                now = os.stat(self._path)
                there = os.fstat(file.opened.fileno())
                if (now.st_dev, now.st_ino) == (there.st_dev, there.st_ino):
                    return False
            except FileNotFoundError:
                pass  # rotated, and nothing has been written since
            if not file.ended:
                if has_writers(file.opened.fileno()):
                    return False
                file.ended = True
                return True  # once more: something may have been written before the last writer let go
        return self._next(file)

    # -------------------------------------------------------------- from file to file

    def _current(self) -> _Open | None:
        if self._file is not None:
            return self._file
        files = list_files(self._path)
        if self._found:
            self._file = self._first_of(files)
            return self._file
        for file in files:
            if self._head(file)[0] == self._position.head:
                opened = self._open(file)
                if opened is not None and opened.head == self._position.head:
                    opened.skip(self._position.offset)
                    self._found = True
                    self._file = opened
                return self._file
        return self._open_behind_gap(files)

    def _open_behind_gap(self, files: list[LogFile]) -> _Open | None:
        """The file is gone: on with the first that began later."""
        later = [file for file in files if self._head(file)[1] > self._position.begins]
        opened = self._first_of(later)
        if opened is not None:
            self.gaps += 1
            self._found = True
            self._file = opened
            self._position = Position(opened.head, opened.begins, 0)
        return opened

    def _next(self, file: _Open) -> bool:
        files = list_files(self._path)
        place = next((i for i, other in enumerate(files) if self._head(other)[0] == file.head), None)
        later = files[(len(files) if place is None else place) + 1 :]
        if place is None:  # it was deleted meanwhile
            later = [other for other in files if self._head(other)[1] > file.begins]
        opened = self._first_of(later)
        if opened is None:
            return False
        file.close()
        self._file = opened
        self._position = Position(opened.head, opened.begins, 0)
        return True

    def _first_of(self, files: list[LogFile]) -> _Open | None:
        """The first in which there is a whole line; None: there is none at present."""
        for file in files:
            opened = self._open(file)
            if opened is not None:
                return opened
            if not file.active and not file.compressed:
                with open_file(file) as empty:
                    if has_writers(empty.fileno()):
                        return None  # it may still get one
        return None

    def _head(self, file: LogFile) -> tuple[str, str]:
        """Head and first time; empty for a file without a whole line."""
        key = (file.path, file.identity)
        known = None if file.active else self._heads.get(key)
        if known is None:
            line = first_line(file)
            if line is None:
                return "", ""
            known = head_of(line), time_of(line)
            if not file.active:
                self._heads[key] = known
        return known

    def _open(self, file: LogFile) -> _Open | None:
        """Open it at its start; None when there is no whole line in it. FileNotFoundError: it has another name now."""
        opened = open_file(file)
        try:
            if not file.compressed:
                there = os.fstat(opened.fileno())
                if (there.st_dev, there.st_ino) != file.identity[:2]:
                    raise FileNotFoundError(file.path)
            line = whole_line(opened)
            if line is None:
                opened.close()
                return None
            if file.compressed:
                opened.close()
                opened = open_file(file)
            else:
                opened.seek(0)
        except BaseException:
            opened.close()
            raise
        return _Open(file, opened, line)


def _split(octets: bytes) -> list[bytes]:
    """Lines by their LF alone."""
    return [line + b"\n" for line in octets.split(b"\n")[:-1]]
