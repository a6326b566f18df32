"""A disk in memory behind the journal's disk interface: it knows what was synced, fails when told to, and crashes.

Every operation is logged. `State` replays the log, and at any point gives what a crash there leaves behind: all that
was written (the process died), or (the power failed) for each sector that was not synced any of the versions it had,
and of the files made, renamed and unlinked since the last sync of their folder any subset.

What no journal may do is noted in `violations`: use a descriptor that is not open, sync one again whose sync failed,
unlink or rename what is not there.
"""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from angarium._core.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

SECTOR = 512
Event = tuple[Any, ...]


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_INT, _I64, _U64, _TEXT, _POINTER = ctypes.c_int, ctypes.c_int64, ctypes.c_uint64, ctypes.c_char_p, ctypes.c_void_p
_TYPES = {
    "open_file": ctypes.CFUNCTYPE(_INT, _TEXT, _INT, _INT),
    "close_file": ctypes.CFUNCTYPE(_INT, _INT),
    "size": ctypes.CFUNCTYPE(_I64, _INT),
    "resize": ctypes.CFUNCTYPE(_INT, _INT, _U64),
    "allocate": ctypes.CFUNCTYPE(_INT, _INT, _U64),
    "write_at": ctypes.CFUNCTYPE(_I64, _INT, ctypes.POINTER(_Iovec), _INT, _U64),
    "read_at": ctypes.CFUNCTYPE(_I64, _INT, _POINTER, _U64, _U64),
    "sync_data": ctypes.CFUNCTYPE(_INT, _INT),
    "sync_folder": ctypes.CFUNCTYPE(_INT, _INT),
    "unlink_file": ctypes.CFUNCTYPE(_INT, _TEXT),
    "rename_file": ctypes.CFUNCTYPE(_INT, _TEXT, _TEXT),
    "list": ctypes.CFUNCTYPE(_I64, _TEXT, _POINTER, _U64),
    "room": ctypes.CFUNCTYPE(_I64, _INT),
    "map": ctypes.CFUNCTYPE(_POINTER, _INT, _U64),
    "unmap": ctypes.CFUNCTYPE(_INT, _POINTER, _U64),
}


@dataclass
class _File:
    """What a file may hold after a power failure."""

    now: bytearray = field(default_factory=bytearray)
    safe: bytes = b""
    unsynced: list[tuple[int, bytes]] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)  # sectors that a failed sync threw away: no later sync makes them safe


class State:
    """Files by name and number, as a log of operations leaves them."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = {number: _File(bytearray(octets), octets) for number, octets in enumerate(files.values())}
        self.names = {name: number for number, name in enumerate(files)}
        self._safe_names = dict(self.names)
        self._unsynced_names: list[Event] = []

    def apply(self, event: Event) -> None:
        """One operation of a log. Notes pass unseen."""
        kind, *rest = event
        if kind == "write":
            number, position, octets = rest
            file = self.files[number]
            _put(file.now, position, octets)
            file.unsynced.append((position, octets))
            file.lost.difference_update(_sectors(position, octets))
        elif kind == "resize":
            file = self.files[rest[0]]
            _resize(file.now, rest[1])
            file.unsynced.append((rest[1], b""))
        elif kind == "sync":
            self._sync(self.files[rest[0]])
        elif kind == "sync_failed":
            file = self.files[rest[0]]
            file.lost |= {at for position, new in file.unsynced for at in _sectors(position, new)}
        elif kind == "sync_folder":
            self._safe_names, self._unsynced_names = dict(self.names), []
        elif kind in ("create", "unlink", "rename"):
            if kind == "create":
                self.files[rest[1]] = _File()
            _change(self.names, event)
            self._unsynced_names.append(event)

    @staticmethod
    def _sync(file: _File) -> None:
        kept = [(at, bytes(file.now[at : at + SECTOR])) for at in sorted(file.lost)]
        safe = bytearray(file.now)
        for at, _ in kept:
            _put(safe, at, file.safe[at : at + SECTOR].ljust(SECTOR, b"\0"))
        file.safe, file.unsynced = bytes(safe[: len(file.now)]), kept

    def killed(self) -> dict[str, bytes]:
        """The process died: what it handed to the kernel is there."""
        return {name: bytes(self.files[number].now) for name, number in self.names.items()}

    def without_power(self, random: Random) -> dict[str, bytes]:
        """The power failed: what was not synced is there, or torn, or not."""
        names = dict(self._safe_names)
        share = random.choice((0.0, 0.5, 1.0))
        for event in self._unsynced_names:
            if random.random() < share:
                _change(names, event)
        rate = random.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        return {name: self._torn(self.files[number], random, rate) for name, number in names.items()}

    @staticmethod
    def _torn(file: _File, random: Random, rate: float) -> bytes:
        if not file.unsynced:
            return file.safe
        octets = bytearray(file.safe)
        versions: dict[int, list[bytes]] = {}
        page = bytearray(file.safe)
        for position, new in file.unsynced:
            if not new:
                _resize(page, position)
                if random.random() < rate:
                    _resize(octets, position)
                continue
            _put(page, position, new)
            for at in _sectors(position, new):
                versions.setdefault(at, []).append(bytes(page[at : at + SECTOR]))
        for at, several in versions.items():
            if random.random() < rate and at < max(len(octets), len(file.now)):
                _put(octets, at, random.choice(several))
        return bytes(octets)


def _sectors(position: int, octets: bytes) -> range:
    return range(position // SECTOR * SECTOR, position + len(octets), SECTOR)


def _put(octets: bytearray, position: int, new: bytes) -> None:
    if len(octets) < position + len(new):
        octets.extend(bytes(position + len(new) - len(octets)))
    octets[position : position + len(new)] = new


def _resize(octets: bytearray, size: int) -> None:
    if len(octets) < size:
        octets.extend(bytes(size - len(octets)))
    else:
        del octets[size:]


def _change(names: dict[str, int], event: Event) -> None:
    kind, name, last = event
    if kind == "create":
        names[name] = last
    elif kind == "unlink":
        names.pop(name, None)
    elif name in names:
        names[last] = names.pop(name)


class SimulatedDisk:
    """Gives `disk` to a journal; `events` is what the journal did, `note` adds what the test wants to find there."""

    def __init__(self, folder: Path, files: dict[str, bytes] | None = None, capacity: int = 1 << 40) -> None:
        self.folder = str(folder)
        self.begin = dict(files or {})
        self.events: list[Event] = []
        self.violations: list[str] = []
        self.capacity = capacity
        self.dead = False  # nothing that the process still does reaches the disk
        self.fail: Callable[[str, str], int] = lambda kind, name: 0  # an errno for an operation on a file
        self._files = {number: bytearray(octets) for number, octets in enumerate(self.begin.values())}
        self._names = {name: number for number, name in enumerate(self.begin)}
        self._open: dict[int, tuple[int, str]] = {}
        self._sync_failed: set[int] = set()
        self._next_fd = 1000
        self._mapped: dict[int, tuple[int, Any]] = {}
        self._functions = {name: kind(self._guarded(name)) for name, kind in _TYPES.items()}
        addresses = {
            name: ctypes.cast(function, ctypes.c_void_p).value or 0 for name, function in self._functions.items()
        }
        self.disk = Disk.from_functions(self._functions, **addresses)

    def note(self, *what: Any) -> int:
        """Put what happened outside the disk into the log; the in-flight table's memory goes in with it."""
        for number, memory in self._mapped.values():
            self.events.append(("write", number, 0, bytes(memory)))
        self.events.append(("note", *what))
        return len(self.events)

    def state_at(self, count: int) -> State:
        """After the first `count` events."""
        state = State(self.begin)
        for event in self.events[:count]:
            state.apply(event)
        return state

    def used_octets(self) -> int:
        """Octets of all files."""
        return sum(len(self._files[number]) for number in self._names.values())

    def octets_of(self, name: str) -> bytearray:
        """What is in a file, to be looked at or spoilt."""
        return self._files[self._names[name]]

    def names(self) -> list[str]:
        """The files there are."""
        return sorted(self._names)

    # -------------------------------------------------------------- what the journal calls

    def _guarded(self, name: str) -> Callable[..., Any]:
        method = getattr(self, f"_{name}")

        def call(*arguments: Any) -> Any:
            if self.dead and name not in ("close_file", "unmap"):
                return None if name == "map" else -errno.EIO
            try:
                return method(*arguments)
            except (LookupError, ValueError, TypeError, BufferError) as failure:  # ctypes would print it and answer 0
                self.violations.append(f"{name}: {failure!r}")
                return None if name == "map" else -errno.EIO

        return call

    def _error(self, kind: str, name: str) -> int:
        return -self.fail(kind, name)

    def _of(self, fd: int) -> tuple[int, str]:
        if fd not in self._open:
            raise ValueError(f"descriptor {fd} is not open")
        return self._open[fd]

    def _name(self, path: bytes) -> str:
        name = os.fsdecode(path)
        return name.removeprefix(self.folder).lstrip("/")

    def _open_file(self, path: bytes, flags: int, mode: int) -> int:
        name = self._name(path)
        if flags & os.O_DIRECTORY:
            number = -1
        else:
            if error := self._error("create" if flags & os.O_CREAT else "open", name):
                return error
            if name in self._names:
                if flags & os.O_EXCL:
                    return -errno.EEXIST
                number = self._names[name]
            elif not flags & os.O_CREAT:
                return -errno.ENOENT
            else:
                number = max(self._files, default=-1) + 1
                self._files[number] = bytearray()
                self._names[name] = number
                self.events.append(("create", name, number))
            if flags & os.O_TRUNC:
                del self._files[number][:]
                self.events.append(("resize", number, 0))
        self._next_fd += 1
        self._open[self._next_fd] = (number, name)
        return self._next_fd

    def _close_file(self, fd: int) -> int:
        self._of(fd)
        del self._open[fd]
        return 0

    def _size(self, fd: int) -> int:
        return len(self._files[self._of(fd)[0]])

    def _resize(self, fd: int, octets: int) -> int:
        number, name = self._of(fd)
        if error := self._error("resize", name):
            return error
        _resize(self._files[number], octets)
        self.events.append(("resize", number, octets))
        return 0

    def _allocate(self, fd: int, octets: int) -> int:
        number, name = self._of(fd)
        if error := self._error("allocate", name):
            return error
        if octets > len(self._files[number]):
            if self.used_octets() + octets - len(self._files[number]) > self.capacity:
                return -errno.ENOSPC
            return self._resize(fd, octets)
        return 0

    def _write_at(self, fd: int, vector: Any, count: int, position: int) -> int:
        number, name = self._of(fd)
        if error := self._error("write", name):
            return error
        octets = b"".join(ctypes.string_at(vector[i].base, vector[i].length) for i in range(count))
        _put(self._files[number], position, octets)
        self.events.append(("write", number, position, octets))
        return len(octets)

    def _read_at(self, fd: int, to: int, n: int, position: int) -> int:
        number, name = self._of(fd)
        if error := self._error("read", name):
            return error
        octets = bytes(self._files[number][position : position + n])
        ctypes.memmove(to, octets, len(octets))
        return len(octets)

    def _sync_data(self, fd: int) -> int:
        number, name = self._of(fd)
        if fd in self._sync_failed:
            self.violations.append(f"{name}: synced again after a sync that failed")
        if error := self._error("sync", name):
            self._sync_failed.add(fd)
            self.events.append(("sync_failed", number))
            return error
        self.events.append(("sync", number))
        return 0

    def _sync_folder(self, fd: int) -> int:
        self._of(fd)
        if fd in self._sync_failed:
            self.violations.append("the folder was synced again after a sync that failed")
        if error := self._error("sync_folder", ""):
            self._sync_failed.add(fd)
            return error
        self.events.append(("sync_folder",))
        return 0

    def _unlink_file(self, path: bytes) -> int:
        name = self._name(path)
        if error := self._error("unlink", name):
            return error
        if name not in self._names:
            return -errno.ENOENT
        number = self._names.pop(name)
        self.events.append(("unlink", name, number))
        return 0

    def _rename_file(self, source: bytes, target: bytes) -> int:
        old, new = self._name(source), self._name(target)
        if error := self._error("rename", old):
            return error
        if old not in self._names:
            return -errno.ENOENT
        self._names[new] = self._names.pop(old)
        self.events.append(("rename", old, new))
        return 0

    def _list(self, folder: bytes, names: int, capacity: int) -> int:
        octets = b"".join(os.fsencode(name) + b"\0" for name in sorted(self._names))
        if len(octets) <= capacity:
            ctypes.memmove(names, octets, len(octets))
        return len(octets)

    def _room(self, fd: int) -> int:
        self._of(fd)
        return max(0, self.capacity - self.used_octets())

    def _map(self, fd: int, octets: int) -> int:
        number, _ = self._of(fd)
        memory = (ctypes.c_char * octets).from_buffer(self._files[number])
        self._mapped[ctypes.addressof(memory)] = (number, memory)
        return ctypes.addressof(memory)

    def _unmap(self, memory: int, octets: int) -> int:
        number, array = self._mapped.pop(memory)
        self.events.append(("write", number, 0, bytes(array)))
        return 0
