"""The disk interface on the machine's own files, and with functions of a test in place of some."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

import pytest

from angarium._core.disk import Disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHORT = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64)
SYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    disk = Disk()
    fd = disk.open_file(str(tmp_path / "file"), os.O_RDWR | os.O_CREAT)
    yield fd
    disk.close_file(fd)


def address(function: object) -> int:
    value = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    assert value is not None
    return value


def test_what_is_written_is_read(tmp_path: Path, fd: int) -> None:
    disk = Disk()
    disk.write_at(fd, b"octets", 10)
    assert disk.size(fd) == 16
    assert disk.read_at(fd, 3, 10) == b"oct"
    assert disk.read_at(fd, 100, 0) == bytes(10) + b"octets"
    assert disk.read_at(fd, 100, 16) == b""
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert not os.get_inheritable(fd)


@pytest.mark.parametrize("octets", [0, 1, 1 << 20, (1 << 20) + 1])
def test_zeros_are_written_to_the_last(tmp_path: Path, fd: int, octets: int) -> None:
    Disk().fill_with_zeros(fd, octets)
    assert (tmp_path / "file").read_bytes() == bytes(octets)


def test_room_is_taken_when_it_is_allocated(tmp_path: Path, fd: int) -> None:
    disk = Disk()
    disk.allocate(fd, 100_000, "file")
    assert disk.size(fd) == 100_000
    assert (tmp_path / "file").stat().st_blocks * 512 >= 100_000
    disk.resize(fd, 5)
    assert disk.size(fd) == 5


def test_a_folder_is_listed_however_many_files_it_has(tmp_path: Path) -> None:
    disk = Disk()
    names = sorted(f"{number:04d}{'x' * 200}" for number in range(700))  # more than the first buffer takes
    for name in names:
        (tmp_path / name).touch()
    assert disk.list_folder(str(tmp_path)) == names
    disk.unlink_file(str(tmp_path / names[0]))
    disk.rename_file(str(tmp_path / names[1]), str(tmp_path / "a"))
    assert disk.list_folder(str(tmp_path)) == [*names[2:], "a"]


def test_folders_are_opened_and_synced_and_have_room(tmp_path: Path) -> None:
    disk = Disk()
    fd = disk.open_file(str(tmp_path), os.O_RDONLY | os.O_DIRECTORY)
    disk.sync_folder(fd)
    assert disk.room(fd) > 0
    disk.close_file(fd)


def test_failures_name_the_file(tmp_path: Path) -> None:
    disk, missing = Disk(), str(tmp_path / "missing")
    for attempt in (
        lambda: disk.open_file(missing, os.O_RDONLY),
        lambda: disk.unlink_file(missing),
        lambda: disk.rename_file(missing, missing),
        lambda: disk.list_folder(missing),
    ):
        with pytest.raises(FileNotFoundError) as failure:
            attempt()
        assert failure.value.filename == missing
    for broken in (disk.close_file, disk.sync_data, disk.size):
        with pytest.raises(OSError) as failure:
            broken(999_999)
        assert failure.value.errno == errno.EBADF


def test_other_functions_take_the_place_of_some(fd: int) -> None:
    written: list[tuple[int, int]] = []

    def write(fd: int, vector: int, count: int, position: int) -> int:
        written.append((fd, position))
        return (-errno.EINTR, 2)[len(written) % 2]

    short = SHORT(write)
    disk = Disk.from_functions(short, write_at=address(short))
    disk.write_at(fd, b"octets", 7)
    assert [position for _, position in written] == [7, 9, 9, 11, 11]
    assert disk.size(fd) == 0  # the rest is the machine's own
    with pytest.raises(TypeError, match="no function 'sing'"):
        Disk.from_functions(None, sing=1)


def test_the_functions_errno_is_raised(fd: int) -> None:
    refuse = SYNC(lambda fd: -errno.EIO)
    disk = Disk.from_functions(refuse, sync_data=address(refuse), sync_folder=address(refuse))
    for attempt in (disk.sync_data, disk.sync_folder, lambda fd: disk.fill_with_zeros(fd, 10)):
        with pytest.raises(OSError) as failure:
            attempt(fd)
        assert failure.value.errno == errno.EIO
