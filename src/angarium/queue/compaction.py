"""Compaction: copy what lives in old segments to the youngest, so that their files can be used again.

Segments are freed oldest first, so one message that waits for days would keep every file behind it. When the full
segments of a journal take more than TRIGGER times what lives in it (and one segment more), the oldest segment's living
messages are copied, with what their attempts came to: a thread reads and checks their records, the loop hands the
copies to the journal, and the old places are let go when the copies are on disk (Journal.move).

Bound: the files of a journal take at most MOST times what lives in it, and besides LEEWAY segments (the one that
grows, one that is being emptied, one for what trickles in meanwhile) and the spares. Budget: `queue.compaction_rate`
octets a second and worker, read or written; over MOST it is not held back, so that it keeps pace with intake.

Fails: a record that is harmed is given to `damaged`, unless the mail data is in memory still. When a file cannot be
read, or the journal takes nothing, compaction rests for RETRY_S and the journal grows. A crash at any moment leaves
each message where it was or where it was copied to, never twice: of two copies the younger counts.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from angarium._core.record import MessageState, RecordError, check_message
from angarium._core.recovery import living_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from angarium._core.journal import Journal, Segment
    from angarium._core.outcome_record import Outcome
    from angarium._core.record import Message
    from angarium._core.schedule import MessageTable
    from angarium.clock import Clock

__all__ = ["LEEWAY", "MOST", "TRIGGER", "Compactor", "wants_compaction"]

log = logging.getLogger(__name__)

TRIGGER = 1.4
MOST = 1.6  # so that the files of a moment that is over still fit into twice what lives
LEEWAY = 3  # segments
CHUNK_OCTETS = 1 << 20  # read and copied at a time
CHUNK_MESSAGES = 256
RETRY_S = 60.0
BUSY_S = 1.0  # what is under way in a segment has ended by then, as a rule


def wants_compaction(journal: Journal, factor: float = TRIGGER) -> bool:
    """Whether the full segments take more than factor times what lives, and one segment besides."""
    log_octets = journal.log_octets
    if journal.failed or len(journal.segments) < 2 or log_octets <= journal.segment_octets:
        return False
    return log_octets > factor * journal.living_octets + journal.segment_octets


@dataclass(slots=True)
class _Read:
    """A message as it was when its record was read."""

    message: Message
    offset: int
    outcome: tuple[int, int]
    record: bytes = b""
    outcomes: list[Outcome] | None = None
    harm: str = ""


class Compactor:
    """Compacts the journals of one worker, one at a time.

    `damaged(message, why)` takes a message whose record cannot be moved out of the queue."""

    def __init__(
        self,
        table: MessageTable,
        clock: Clock,
        *,
        rate_octets: int,
        damaged: Callable[[Message, str], None],
    ) -> None:
        self._table = table
        self._clock = clock
        self.rate_octets = rate_octets
        self._damaged = damaged
        self._task: asyncio.Task[None] | None = None
        self._rests_until = 0.0
        self._longer: dict[int, int] = {}  # by shard: Journal.moved_octets that the table knows of
        self._debt = 0.0  # octets read or written beyond the budget so far
        self._paid_at = clock.monotonic()

    @property
    def running(self) -> bool:
        """Whether a journal is being compacted."""
        return self._task is not None

    def tick(self, journals: Iterable[Journal]) -> None:
        """Begin where it is wanted; call it about once a second."""
        if self._task is not None or self._clock.monotonic() < self._rests_until:
            return
        for journal in journals:
            if wants_compaction(journal):
                self._task = asyncio.get_running_loop().create_task(self._run(journal))
                return

    async def close(self) -> None:
        """Stop; what was being copied is copied or stays where it is."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self, journal: Journal) -> None:
        try:
            await self.compact(journal)
        finally:
            self._task = None

    async def compact(self, journal: Journal) -> None:
        """Until it is no longer wanted, or cannot go on."""
        self._account(journal)
        while wants_compaction(journal):
            try:
                moved = await self._empty(journal, journal.segments[0])
            except OSError as failure:
                log.error("shard %d: compaction rests: %s", journal.shard, failure)
                self._rests_until = self._clock.monotonic() + RETRY_S
                return
            if not moved:  # something is under way there
                self._rests_until = self._clock.monotonic() + BUSY_S
                return

    async def _empty(self, journal: Journal, segment: Segment) -> bool:
        """Move everything out of a segment; False when something stays."""
        loop = asyncio.get_running_loop()
        rest = await loop.run_in_executor(None, living_messages, segment, self._table)
        await self._pay(journal, segment.used)
        if len(rest) < segment.alive:
            self._hand_over_lost(segment, {message.id for message in rest})
        passes = 0
        while rest and passes < 8:  # what an attempt changes while it is read is read again
            passes += 1
            again: list[Message] = []
            for chunk in _chunks(rest):
                reads = await loop.run_in_executor(None, self._read, journal, segment, chunk)
                octets = sum(len(read.record) for read in reads)
                again += self._move(journal, segment, reads)
                await self._moved(journal)
                await self._pay(journal, 2 * octets)
                if journal.failed:
                    return False
            rest = again
        return not rest and segment.alive == 0

    def _hand_over_lost(self, segment: Segment, found: set[int]) -> None:
        """Messages whose record cannot even be found: its meta part is harmed."""
        for message in [message for message in self._table if message.segment is segment and message.id not in found]:
            self._damaged(message, f"{segment.path}: no sound record at {message.offset_octets}")

    def _read(self, journal: Journal, segment: Segment, messages: list[Message]) -> list[_Read]:
        """In a thread: the records as they are on disk, checked."""
        reads = []
        for message in messages:
            if message.segment is not segment:
                continue  # done, or moved
            read = _Read(message, message.offset_octets, (message.outcome_serial, message.outcome_offset))
            try:
                read.record = journal.read_record(message)
                read.outcomes = journal.read_outcomes(message)
                check_message(read.record, message.id)
            except RecordError as harm:
                read.harm = str(harm)
            except OSError:
                if message.segment is segment:
                    raise
                continue  # done, or moved, while it was read
            reads.append(read)
        return reads

    def _move(self, journal: Journal, segment: Segment, reads: list[_Read]) -> list[Message]:
        """Hand copies to the journal. Returns the messages that have to be read again."""
        again = []
        movable = []
        for read in reads:
            message = read.message
            if not journal.is_at(message, segment, read.offset, read.outcome):
                if message.segment is segment and message.state != MessageState.MESSAGE_GONE:
                    again.append(message)
            elif not read.harm:
                movable.append(read)
            elif message.buffer is not None:  # it is whole in memory: that copy becomes the record
                read.record = message.buffer.record()
                read.outcomes = read.outcomes or []
                movable.append(read)
            else:
                self._damaged(message, f"{segment.path}: {read.harm}")
        for number, read in enumerate(movable, 1):
            journal.move(read.message, read.record, read.outcomes or [], number == len(movable))
        return again

    async def _moved(self, journal: Journal) -> None:
        """Wait until the copies are on disk (or lost)."""
        done = asyncio.Event()
        journal.on_moved = done.set
        if journal.moving:
            await done.wait()
        journal.on_moved = None
        self._account(journal)

    def _account(self, journal: Journal) -> None:
        """A copy is a little longer than the first record was."""
        self._table.resize(journal.moved_octets - self._longer.get(journal.shard, 0))
        self._longer[journal.shard] = journal.moved_octets

    async def _pay(self, journal: Journal, octets: int) -> None:
        """Wait as long as the budget wants it, unless space is running out."""
        now = self._clock.monotonic()
        self._debt = max(0.0, self._debt - (now - self._paid_at) * self.rate_octets) + octets
        self._paid_at = now
        if wants_compaction(journal, MOST):
            self._debt = 0.0
        if self._debt > 0:
            await asyncio.sleep(self._debt / self.rate_octets)


def _chunks(messages: list[Message]) -> Iterable[list[Message]]:
    chunk: list[Message] = []
    octets = 0
    for message in messages:
        chunk.append(message)
        octets += message.record_octets
        if octets >= CHUNK_OCTETS or len(chunk) == CHUNK_MESSAGES:
            yield chunk
            chunk, octets = [], 0
    if chunk:
        yield chunk
