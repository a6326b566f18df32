"""What a stream keeps on disk, so that a power failure leaves it whole: files in their entirety, and their names.

Fails: OSError; what was there before is there still."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_folder", "replace", "sync_folder", "write_all"]


def write_all(fd: int, octets: bytes) -> None:
    """Write all of it. A disk that is nearly full may take a part, and says so only when it is given the rest."""
    left = memoryview(octets)
    while left:
        left = left[os.write(fd, left) :]


def replace(path: Path, octets: bytes) -> None:
    """The file has these contents, or those that it had."""
    beside = path.with_name(f"{path.name}.new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, octets)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(beside, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """The names in it are on disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """It is there, and so are those above it."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for one in missing:
        sync_folder(one.parent)
