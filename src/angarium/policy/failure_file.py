"""Failures and bans over the end of a process: a small file of the spool.

Job: `load` the table of failures (policy.failure_table) from SPOOL/access.failures, and `save` it there when it has
changed, off the loop and at most once in SAVE_S: a process that is killed forgets what was failed within that time. The
file is replaced whole, so there is always one; it is not synced, since waiting for the disk is for mail, and after a
power failure a lost ban is a small harm. Times in it are the calendar's, so a ban ends when it would have.

The names of log-ins are in it as keyed hashes, the key beside them; a name is there itself when some back end knows
it. One that none knows may be a password in the wrong field, and is there from the third failure on only.

Input: the table, the spool, a clock. Output: the file, mode 0600. Fails: a file that is damaged, or from the future,
costs what it holds and no more: `load` says why, and the table is empty. One that cannot be written is said once in the
log, and tried again. Bounds: those of FailureTable.kept, LARGEST_OCTETS read."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from typing import TYPE_CHECKING

import msgspec

from angarium.policy.failure_table import Kept

if TYPE_CHECKING:
    from pathlib import Path

    from angarium.clock import Clock
    from angarium.policy.failure_table import FailureTable

__all__ = ["FILE", "FailureFile"]

log = logging.getLogger(__name__)

FILE = "access.failures"
MAGIC = b"angarium failures 1\n"
CHECKSUM_OCTETS = 16
LARGEST_OCTETS = 16 << 20
SAVE_S = 1.0
AHEAD_S = 60.0  # a clock that was set back by less is no reason to forget


class FailureFile:
    """The file of one node."""

    def __init__(self, folder: Path, table: FailureTable, clock: Clock) -> None:
        self._path = folder / FILE
        self._table = table
        self._clock = clock
        self._saved = table.changes
        self._not_before = clock.monotonic()
        self._complaint = ""
        self._writing = asyncio.Lock()

    @property
    def path(self) -> str:
        """For the log."""
        return str(self._path)

    def load(self) -> str:
        """Fill the table; why what was there is lost, "" when nothing is."""
        try:
            kept = self._read()
            if kept is not None:
                self._table.restore(kept, self._clock.now())
        except (OSError, ValueError) as failure:
            return failure.strerror or str(failure) if isinstance(failure, OSError) else str(failure)
        self._saved = self._table.changes
        return ""

    def _read(self) -> Kept | None:
        try:
            with self._path.open("rb") as file:
                octets = file.read(LARGEST_OCTETS + 1)
        except FileNotFoundError:
            return None
        body = octets[len(MAGIC) + CHECKSUM_OCTETS :]
        if octets[: len(MAGIC)] != MAGIC or octets[len(MAGIC) : len(MAGIC) + CHECKSUM_OCTETS] != _checksum(body):
            raise ValueError("it is damaged")
        try:
            kept = msgspec.msgpack.decode(body, type=Kept)
        except msgspec.MsgspecError:
            raise ValueError("it is damaged") from None
        ahead_s = kept.written - self._clock.now()
        if ahead_s > AHEAD_S:
            raise ValueError(f"it was written {ahead_s:.0f} s in the future")
        return kept

    async def save(self, *, at_once: bool = False) -> None:
        """Write the table if it has changed; `at_once`: whenever the last time was."""
        async with self._writing:
            now = self._clock.monotonic()
            if self._table.changes != self._saved and (now >= self._not_before or at_once):
                self._not_before = now + SAVE_S
                await self._save()

    async def _save(self) -> None:
        changes, kept = self._table.changes, self._table.kept(self._clock.now())
        try:
            await asyncio.to_thread(self._write, kept)
        except OSError as failure:
            why = failure.strerror or str(failure)
            if why != self._complaint:
                self._complaint = why
                log.error("%s cannot be written: %s; a restart will know of no bans", self._path, why)
            return
        self._complaint = ""
        self._saved = changes

    def _write(self, kept: Kept) -> None:
        body = msgspec.msgpack.encode(kept)
        new = self._path.with_name(f".{FILE}.new")
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(MAGIC + _checksum(body) + body)
        new.replace(self._path)


def _checksum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=CHECKSUM_OCTETS).digest()
