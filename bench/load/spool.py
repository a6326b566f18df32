"""Where the queues live while they are measured.

As root the bench makes a disk of its own: a pre-written image file with a journaled ext4 on a loop device, mounted for
the length of the series and removed at its end. Every relay gets the same disk, and results can be compared between
machines whose own file systems differ (an ext4 without a journal, an overlay of a container). Otherwise the queues lie
in a plain directory, and the result says so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MOUNT_POINT = Path("/var/spool/angarium-bench")
IMAGE = Path("/var/tmp/angarium-bench.img")
CHUNK_OCTETS = 4 << 20


class SpoolFailure(Exception):
    """The bench's own disk could not be made; the message says which step and why."""


@dataclass(frozen=True)
class Spool:
    folder: Path
    kind: str  # "loop ext4" or "plain directory"

    @property
    def device(self) -> str:
        """major:minor of the block device, as /proc/diskstats numbers it."""
        number = os.stat(self.folder).st_dev
        return f"{os.major(number)}:{os.minor(number)}"


def run_step(*argv: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=True)
    except FileNotFoundError as error:
        raise SpoolFailure(f"{argv[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise SpoolFailure(f"{' '.join(argv)}: {error.stderr.strip()}") from error
    return done.stdout.strip()


def write_image(image: Path, octets: int) -> None:
    """Written out, not just allocated: the first write to an unwritten extent would be a metadata change below the loop
    device.
    """
    if shutil.disk_usage(image.parent).free < octets + (1 << 30):
        raise SpoolFailure(f"{image.parent} has no room for an image of {octets >> 30} GiB")
    chunk = bytes(CHUNK_OCTETS)
    with image.open("wb", buffering=0) as file:
        for _ in range(octets // CHUNK_OCTETS):
            file.write(chunk)
        os.fsync(file.fileno())


def attach(image: Path) -> str:
    try:
        return run_step("losetup", "--find", "--show", "--direct-io=on", str(image))
    except SpoolFailure:  # the file system below cannot do direct I/O
        return run_step("losetup", "--find", "--show", str(image))


@contextlib.contextmanager
def loop_disk(image: Path, size_gib: int) -> Iterator[Spool]:
    if os.path.ismount(MOUNT_POINT):
        raise SpoolFailure(f"{MOUNT_POINT} is mounted already: another series runs, or one was killed (umount it)")
    with contextlib.ExitStack() as undo:
        undo.callback(image.unlink, missing_ok=True)
        write_image(image, size_gib << 30)
        device = attach(image)
        undo.callback(run_step, "losetup", "--detach", device)
        run_step("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", device)
        MOUNT_POINT.mkdir(parents=True, exist_ok=True)
        undo.callback(MOUNT_POINT.rmdir)
        run_step("mount", "-o", "nodiscard", device, str(MOUNT_POINT))
        undo.callback(run_step, "umount", str(MOUNT_POINT))
        yield Spool(MOUNT_POINT, "loop ext4")


@contextlib.contextmanager
def plain_directory(folder: Path) -> Iterator[Spool]:
    """A fresh directory in `folder`, removed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="angarium-bench-", dir=folder) as made:
        os.chmod(made, 0o755)  # a relay's own users have to get to their queue
        yield Spool(Path(made), "plain directory")


def open_spool(choice: str, folder: Path, image: Path, size_gib: int) -> contextlib.AbstractContextManager[Spool]:
    """`choice`: "loop", "plain", or "auto" (loop as root, else plain)."""
    if choice == "loop" or (choice == "auto" and os.geteuid() == 0):
        return loop_disk(image, size_gib)
    return plain_directory(folder)
