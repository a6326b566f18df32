"""What the journals of a worker need again and again beside their commits: a spare file, checkpoints, another try.

Job: keep one prepared segment ready, so that a sync in the next one changes no metadata; write the checkpoint of class
memory; try a journal again that has failed or was full. DiskWatch notices a disk that neither does what it is asked to
nor fails. Input: the journals, and calls on the worker's tick. Fails: an OSError is logged, and tried again later.
Bounds: one spare is prepared at a time, in a thread.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from angarium._core.journal import Journal, Segment

__all__ = ["DISK_SILENT_S", "DiskWatch", "JournalCare"]

log = logging.getLogger(__name__)

DISK_SLOW_S = 0.5  # a commit that somebody waits for may take so long; then nothing is done on the disk but commits
DISK_SILENT_S = 5.0  # and after so long it does not answer
SPARE_TICKS = 20  # segments that are done come back as spares: one is made only when none has for so long


class JournalCare:
    """For the journals of one worker, of which the first is written first."""

    def __init__(self, journals: Sequence[Journal]) -> None:
        self._journals = journals
        self._preparing: asyncio.Task[None] | None = None
        self._spare_missed = False
        self._ticks_without_spare = SPARE_TICKS  # the first one is made at once

    def first_spare(self) -> None:
        """Before there is mail: the segment that the first messages will be written to."""
        journal = self._journals[0]
        if not journal.wants_spare:
            return
        try:
            segment = journal.make_spare()
            journal.prepare_spare(segment)
        except OSError as failure:
            log.warning("shard %d: no spare segment: %s", journal.shard, failure)
            return
        journal.add_spare(segment)

    def tick(self) -> None:
        """Prepare a spare where none has come back for a while."""
        journal = self._journals[0]
        self._ticks_without_spare = self._ticks_without_spare + 1 if journal.wants_spare else 0
        if self._ticks_without_spare <= SPARE_TICKS or self._preparing is not None:
            return
        try:
            segment = journal.make_spare()
        except OSError as failure:
            self._ticks_without_spare = 0  # tried again after a while, and said once
            if not self._spare_missed:
                log.warning("shard %d: no spare segment: %s", journal.shard, failure)
            self._spare_missed = True
            return
        self._spare_missed = False
        self._preparing = asyncio.get_running_loop().create_task(self._fill(journal, segment))

    async def _fill(self, journal: Journal, segment: Segment) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(None, journal.prepare_spare, segment)
        except OSError as failure:
            log.warning("shard %d: %s: %s", journal.shard, segment.path, failure)
        else:
            journal.add_spare(segment)
        finally:
            self._preparing = None

    def checkpoint(self) -> None:
        """Write down what of class memory is in memory."""
        for journal in self._journals:
            try:
                journal.checkpoint_memory()
            except OSError as failure:
                log.debug("shard %d: no checkpoint of class memory: %s", journal.shard, failure)

    def heal(self) -> None:
        """Another try of those that have failed or were full."""
        for journal in self._journals:
            if journal.failed:
                try:
                    journal.heal()
                except OSError as failure:
                    log.error("shard %d still fails: %s", journal.shard, failure)
                    continue
                log.warning("shard %d takes mail again", journal.shard)
            elif journal.full:
                journal.full = False  # the next message tries again


class DiskWatch:
    """Whether the commits of a worker come back, while somebody waits for one."""

    def __init__(self, journals: Sequence[Journal], commits: Callable[[], int]) -> None:
        """commits: how many have come back so far."""
        self._journals = journals
        self._commits = commits
        self._seen = -1
        self._since = 0.0
        self.is_slow = False
        self.is_silent = False

    def look(self, now: float) -> None:
        """Look. now: monotonic."""
        commits = self._commits()
        silent_s = now - self._since
        if commits == self._seen and any(journal.waiting for journal in self._journals):
            self.is_slow = silent_s > DISK_SLOW_S
            if silent_s > DISK_SILENT_S and not self.is_silent:
                self.is_silent = True
                log.error("the disk has not answered for %.0f s; clients wait for their 250", silent_s)
            return
        if self.is_silent:
            self.is_silent = False
            log.warning("the disk answers again, after %.0f s", silent_s)
        self.is_slow = False
        self._seen = commits
        self._since = now
