"""The drop folder: files that `angarium-sendmail` leaves there while the relay is down, one message each.

    FOLDER/NAME.mail        complete, on disk, waiting; NAME begins with the time
    FOLDER/.NAME            being written
    FOLDER/taken/ID         being queued under the id that its message has or will have
    FOLDER/refused/NAME     what the relay does not take, kept for whoever looks

Every user of the machine may write into the folder, and nobody may trust what is in it: a file counts as its owner's,
links and everything that is no plain file are refused, and what the relay relies on, names in `taken`, stands in a
folder of the relay's own.

**Exactly once.** A file is renamed to the id of its message before the message is written (`claim`), and removed when
it is on disk; until the removal is on disk too the message is held (angarium._core.named_intake). After a crash, before
anything is delivered, `recover` looks at `taken`: a message that the journal has came to us, so its file goes; one that
it does not have did not, so its file goes back to the others. Ids say which shard they are of: each worker looks at
those of its own.

Fails: DropError for a folder that is not as it must be, BadFile for a file that is no message; OSError.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from angarium.queue.record import format_id, parse_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["BadFile", "DropError", "DropFolder", "Dropped", "make_folders", "split_transaction"]

SUFFIX = ".mail"
FOLDER_MODE = 0o3733  # everybody may leave a file, see no other's, and remove only his own
HALF_WRITTEN_S = 86400.0  # a file that has not become complete in so long never will
LONGEST_ENVELOPE = 8 << 20  # octets of the commands: what 65,535 recipients take
SHARD_BITS, SHARD_MASK = 14, 0xFF  # of a queue id


def make_folders(path: str, uid: int, gid: int) -> None:
    """As root: the drop folder of the relay that will run as this user. What is there already stays as it is."""
    for folder, mode in ((Path(path), FOLDER_MODE), (Path(path, "taken"), 0o700), (Path(path, "refused"), 0o700)):
        if not folder.exists():
            folder.mkdir(mode=0o700, parents=True)
            os.chown(folder, uid, gid)
            folder.chmod(mode)


class DropError(Exception):
    """The folder cannot be used; the text says why."""


class BadFile(Exception):
    """A file that is no message, and will never be one."""


class Dropped(NamedTuple):
    """A message of the folder: who left it there, and an SMTP transaction."""

    uid: int
    commands: list[bytes]
    mail_data: bytes


def split_transaction(octets: bytes) -> tuple[list[bytes], bytes]:
    """Command lines without their ends, the last of them `BDAT n LAST`, and the n octets behind it.

    BadFile unless that is all of it.
    """
    commands: list[bytes] = []
    at = 0
    while True:
        end = octets.find(b"\r\n", at)
        if end < 0:
            raise BadFile("it has no mail data")
        line = octets[at:end]
        at = end + 2
        commands.append(line)
        if line.startswith(b"BDAT "):
            break
        if not line.startswith((b"EHLO ", b"MAIL FROM:", b"RCPT TO:")):
            raise BadFile(f"line {len(commands)} is no part of a message")
    words = commands[-1].split(b" ")
    if len(words) != 3 or words[2] != b"LAST" or not words[1].isdigit() or len(words[1]) > 10:
        raise BadFile("its last command is not BDAT n LAST")
    if int(words[1]) != len(octets) - at:
        raise BadFile(f"it should have {int(words[1])} octets of mail data and has {len(octets) - at}")
    return commands, octets[at:]


class DropFolder:
    """The files of one drop folder."""

    def __init__(self, path: str, *, longest_octets: int) -> None:
        """longest_octets: of mail data; larger files are not read."""
        self.path = Path(path)
        self.taken = self.path / "taken"
        self.refused = self.path / "refused"
        self._longest_octets = longest_octets + LONGEST_ENVELOPE

    def prepare(self) -> None:
        """Make what is missing. DropError when others could write where only the relay may."""
        try:
            if not self.path.exists():
                self.path.mkdir(parents=True)
                self.path.chmod(FOLDER_MODE)
            for folder in (self.taken, self.refused):
                folder.mkdir(mode=0o700, exist_ok=True)
                found = folder.lstat()
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                    raise DropError(f"{folder} is not a folder of this relay's user alone; remove it")
        except OSError as error:
            raise DropError(f"{error.filename}: {error.strerror}") from None

    def recover(self, shards: Collection[int], is_queued: Callable[[int], bool]) -> tuple[int, int]:
        """Settle what a crash left in `taken` of these shards, before anything is delivered.

        Returns how many files were queued already and are removed, and how many go back to the others.
        """
        removed = returned = 0
        for entry in os.scandir(self.taken):
            number = _id_of(entry.name)
            if number is None or (number >> SHARD_BITS) & SHARD_MASK not in shards:
                continue
            if is_queued(number):
                os.unlink(entry.path)
                removed += 1
            else:
                os.rename(entry.path, self.path / f"{entry.name}{SUFFIX}")
                returned += 1
        if removed or returned:
            self.sync(self.path)
            self.sync(self.taken)
        return removed, returned

    def waiting(self) -> list[str]:
        """The names of complete files, the oldest first. What was left half written long ago is removed."""
        names = []
        for entry in os.scandir(self.path):
            if entry.name.startswith("."):
                _remove_half_written(entry)
            elif entry.name.endswith(SUFFIX):
                names.append(entry.name)
        return sorted(names)

    def claim(self, name: str, number: int) -> bool:
        """From now on the file is that of the message of this id; False when its owner took it back."""
        try:
            os.rename(self.path / name, self.taken / format_id(number))
        except FileNotFoundError:
            return False
        return True

    def read(self, number: int) -> Dropped:
        """A claimed file. BadFile when it is none."""
        try:
            fd = os.open(self._claimed(number), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise BadFile(f"it cannot be opened: {error.strerror}") from None
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise BadFile("it is no plain file")
            if found.st_nlink > 1:
                raise BadFile("it is a link to a file that somebody else has too")
            if found.st_size > self._longest_octets:
                raise BadFile(f"it has {found.st_size} octets, and no message may have so many")
            with open(fd, "rb", closefd=False) as file:
                octets = file.read(self._longest_octets + 1)
        finally:
            os.close(fd)
        commands, mail_data = split_transaction(octets)
        return Dropped(found.st_uid, commands, mail_data)

    def remove(self, number: int) -> None:
        """The message is queued; `sync` the folder `taken` afterwards."""
        self._claimed(number).unlink(missing_ok=True)

    def give_back(self, number: int, name: str) -> None:
        """The message cannot be taken now: the file waits again."""
        os.rename(self._claimed(number), self.path / name)

    def refuse(self, number: int, name: str) -> Path:
        """Put the file aside; where it is now."""
        kept = self.refused / f"{format_id(number)}-{name}"
        os.rename(self._claimed(number), kept)
        return kept

    def owner(self, number: int) -> int | None:
        """Who left a claimed file."""
        try:
            return self._claimed(number).lstat().st_uid
        except OSError:
            return None

    def _claimed(self, number: int) -> Path:
        return self.taken / format_id(number)

    @staticmethod
    def sync(folder: Path) -> None:
        """The names in a folder are on disk."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _id_of(name: str) -> int | None:
    try:
        return parse_id(name)
    except ValueError:
        return None


def _remove_half_written(entry: os.DirEntry[str]) -> None:
    try:
        if entry.is_file(follow_symlinks=False) and time.time() - entry.stat().st_mtime > HALF_WRITTEN_S:
            os.unlink(entry.path)
    except FileNotFoundError:
        return
