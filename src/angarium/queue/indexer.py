"""Write side files of segments that are full and still hold mail, one at a time, in a thread.

Input: the journals of one worker, `step` called now and then. Output: side files (cext/segment_index.pyx), so that a
start reads index data and not mail data. A segment whose mail is delivered soon is used again before it gets one: only
what has been full for INDEX_AFTER_S and still holds mail is indexed.

Fails: a segment that cannot be read or indexed is left without a side file, and is not tried again by this process.
Bounds: one side file is written at a time, and none while the disk has no more room than the journal keeps for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from angarium._core.segment_index import build_index, index_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from angarium._core.journal import Journal, Segment

INDEX_AFTER_S = 30.0

log = logging.getLogger(__name__)


class Indexer:
    """Side files for one worker's segments."""

    def __init__(self, journals: Sequence[Journal], *, after_s: float = INDEX_AFTER_S) -> None:
        self._journals = journals
        self._after_s = after_s
        self._seen: dict[tuple[int, int], float] = {}  # (shard, serial): when it was seen full first
        self._tried: set[tuple[int, int]] = set()
        self._task: asyncio.Task[None] | None = None

    def step(self, now: float) -> None:
        """Begin a side file if one is due; now: monotonic seconds. Call it in the loop, once a second or so."""
        if self._task is not None:
            return
        due = self.due(now)
        if due is not None:
            self._task = asyncio.get_running_loop().create_task(self._build(*due))

    async def settle(self) -> None:
        """Until the side file that is being written is there."""
        if self._task is not None:
            await self._task

    def due(self, now: float) -> tuple[Journal, Segment] | None:
        """The oldest segment that should have a side file and has none."""
        known: dict[tuple[int, int], float] = {}
        found: tuple[Journal, Segment] | None = None
        for journal in self._journals:
            for segment in journal.segments:
                key = (journal.shard, segment.serial)
                if segment.index_octets or not segment.alive or not journal.is_safe(segment):
                    continue
                known[key] = since = self._seen.get(key, now)
                if found is None and now - since >= self._after_s and key not in self._tried and journal.has_room:
                    found = (journal, segment)
        self._seen = known
        self._tried &= known.keys()
        return found

    async def _build(self, journal: Journal, segment: Segment) -> None:
        serial = segment.serial
        self._tried.add((journal.shard, serial))
        try:
            octets = await asyncio.get_running_loop().run_in_executor(None, build_index, segment, journal.shard)
        except OSError as failure:
            log.warning("shard %d: no side file of %s: %s", journal.shard, segment.path, failure)
        else:
            if octets and segment.serial == serial and segment in journal.segments:
                segment.index_octets = octets
            elif octets:  # it was used again meanwhile
                with contextlib.suppress(OSError):
                    journal.disk.unlink_file(index_path(segment.path))
        finally:
            self._task = None
