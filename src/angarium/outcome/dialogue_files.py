"""The files in which a worker keeps what was said in attempts.

    trace/dialogues-0-1764130000000000          worker 0, begun then (Unix time, µs)

Job: append what Dialogues has gathered, begin a new file when one is large or old enough, delete the oldest when all of
the worker's are over their size or age. A file begins with MAGIC and the mark of its records. Readers need no lock: a
record is whole when its length says so.

Fails: never. What cannot be written is dropped, counted in `lost` (records) and logged once. Bounds: `size_octets` for
this worker's files and a part more; PARTS files and some.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MAGIC", "DialogueFile", "DialogueFiles", "list_dialogues"]

log = logging.getLogger(__name__)

MAGIC = b"ANGDLG1\n"
HEAD_OCTETS = 20  # of a record (angarium._core.dialogue)
PARTS = 16
SMALLEST_PART_OCTETS = 64 << 10
ORPHANS_S = 86400.0  # files of workers that there are no more are kept so long, where age is no bound
_NAME = re.compile(r"dialogues-(\d+)-(\d+)")


@dataclass(frozen=True)
class DialogueFile:
    """One file."""

    path: Path
    worker: int
    began: float  # Unix time
    size: int
    written: float  # last, Unix time


def list_dialogues(folder: Path) -> list[DialogueFile]:
    """All that there are, the oldest first; none where there is no folder."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = _NAME.fullmatch(entry.name)
                if name is None:
                    continue
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                file = folder / entry.name
                found.append(DialogueFile(file, int(name[1]), int(name[2]) * 1e-6, status.st_size, status.st_mtime))
    except FileNotFoundError:
        return []
    return sorted(found, key=lambda file: (file.began, file.worker))


def _records(octets: bytes) -> int:
    """How many whole records begin there: mark 8, id 8, octets of the rest 4."""
    count = at = 0
    while at + HEAD_OCTETS <= len(octets):
        at += HEAD_OCTETS + int.from_bytes(octets[at + HEAD_OCTETS - 4 : at + HEAD_OCTETS], "little")
        count += at <= len(octets)
    return count


class DialogueFiles:
    """Those of one worker."""

    def __init__(self, folder: Path, worker: int, workers: int, mark: bytes) -> None:
        self._folder = folder
        self._worker = worker
        self._workers = workers
        self._mark = mark
        self._fd = -1
        self._began = 0.0
        self._written = 0
        self._said = False
        self.lost = 0
        self.set_bounds(0, 0.0)

    def set_bounds(self, size_octets: int, keep_s: float) -> None:
        """size_octets: of the node, of which this worker has its share; keep_s: 0 for no bound."""
        self._most_octets = size_octets // self._workers
        self._keep_s = keep_s
        self._part_octets = max(SMALLEST_PART_OCTETS, self._most_octets // PARTS)

    def write(self, octets: bytes, now: float) -> None:
        """Append whole records."""
        try:
            if self._fd < 0 or self._written >= self._part_octets or 0 < self._keep_s / PARTS < now - self._began:
                self._open(now)
            done = os.write(self._fd, octets)
            self._written += done
            if done < len(octets):
                # what follows would stand behind half a record: a reader stops there, so it goes into another file
                self.close()
                self.lost += _records(octets) - _records(octets[:done])
        except OSError as failure:
            self.close()
            self.lost += _records(octets)
            if not self._said:
                log.warning("what is said in attempts cannot be kept: %s", failure)
            self._said = True
        else:
            self._said = False

    def _open(self, now: float) -> None:
        self.close()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / f"dialogues-{self._worker}-{int(now * 1e6)}"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.write(self._fd, MAGIC + self._mark)
        self._began = now
        self._written = 0
        self.tidy(now)

    def tidy(self, now: float) -> None:
        """Delete what is too much or too old, also of workers that there are no more. Call it now and then: what cannot
        be deleted waits for the next time."""
        with contextlib.suppress(OSError):
            self._tidy(now)

    def _tidy(self, now: float) -> None:
        files = list_dialogues(self._folder)
        own = [file for file in files if file.worker == self._worker]
        going = [file for file in own if 0 < self._keep_s < now - file.written]
        left = sum(file.size for file in own) - sum(file.size for file in going)
        for file in own[len(going) : -1]:
            if left <= self._most_octets:
                break
            going.append(file)
            left -= file.size
        if self._worker == 0:
            old = now - (self._keep_s or ORPHANS_S)
            going += [file for file in files if file.worker >= self._workers and file.written < old]
        for file in going:
            file.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; `write` begins another."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
