"""Get mail data that is on disk only back into memory, a batch per thread hop.

Input: messages without a buffer. Output: the same messages with their buffer, handed to whoever asked.

Fails: a record that the disk does not give is handed to `unreadable` with the reason, to be tried again; the third
time, or when a record is read and is harmed, what can be read of it is kept aside (queue/damaged.py) and the message is
handed to `damaged`, which gives it up. One that cannot be kept aside is `unreadable` still. Whoever asked is told all
the same. Bounds: BATCH messages or BATCH_OCTETS are read at a time; the rest waits its turn. A message that left the
state READY while it was read (deleted, held) gets no buffer."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from angarium._core.record import MailBuffer, MessageState, shard_of
from angarium.queue.damaged import Damage, keep_aside
from angarium.queue.record import RecordError, load_message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from angarium._core.journal import Journal
    from angarium._core.record import Message

BATCH = 64
BATCH_OCTETS = 8 << 20
MOST_READS = 3  # of a record that the disk does not give


class Loader:
    """Reads for one worker."""

    def __init__(
        self,
        journals: Mapping[int, Journal],
        unreadable: Callable[[Message, str], None],
        damaged: Callable[[Message, Damage], None],
        aside: Path,
    ) -> None:
        self._journals = journals
        self._unreadable = unreadable
        self._damaged = damaged
        self._aside = aside
        self._reads: dict[int, int] = {}  # of messages that could not be read
        self._waiting: deque[tuple[Message, Callable[[Message], None]]] = deque()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def load(self, message: Message, then: Callable[[Message], None]) -> None:
        """Have message.buffer filled, then `then` called with it."""
        self._waiting.append((message, then))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch: list[tuple[Message, Callable[[Message], None]]] = []
                octets = 0
                while self._waiting and len(batch) < BATCH and octets < BATCH_OCTETS:
                    entry = self._waiting.popleft()
                    batch.append(entry)
                    octets += entry[0].record_octets
                read = await loop.run_in_executor(None, self._read, [message for message, _ in batch])
                for (message, then), result in zip(batch, read, strict=True):
                    if message.state == MessageState.MESSAGE_READY and message.buffer is None:
                        if isinstance(result, MailBuffer):
                            self._loaded(message, result)
                        else:
                            await self._doubt(message, result)
                    then(message)
        finally:
            self._task = None

    def _loaded(self, message: Message, buffer: MailBuffer) -> None:
        self._reads.pop(message.id, None)
        message.buffer = buffer

    async def _doubt(self, message: Message, failure: OSError | RecordError) -> None:
        if isinstance(failure, OSError):
            self._reads[message.id] = self._reads.get(message.id, 0) + 1
            if self._reads[message.id] < MOST_READS:
                self._unreadable(message, str(failure))
                return
        result = await asyncio.get_running_loop().run_in_executor(None, self._keep, message, str(failure))
        if message.state != MessageState.MESSAGE_READY or message.buffer is not None:
            return
        if isinstance(result, MailBuffer):
            self._loaded(message, result)
        elif isinstance(result, Damage):
            self._reads.pop(message.id, None)
            self._damaged(message, result)
        else:
            self._unreadable(message, result)

    def _read(self, batch: list[Message]) -> list[MailBuffer | OSError | RecordError]:
        results: list[MailBuffer | OSError | RecordError] = []
        for message in batch:
            try:
                results.append(self._read_one(message))
            except (OSError, RecordError) as failure:
                results.append(failure)
        return results

    def _read_one(self, message: Message) -> MailBuffer:
        return load_message(self._journals[shard_of(message.id)].read_record(message))

    def _keep(self, message: Message, why: str) -> MailBuffer | Damage | str:
        try:
            return self._read_one(message)  # it may have been moved while it was read
        except (OSError, RecordError):
            pass
        segment = message.segment
        if segment is None:
            return why
        try:
            return keep_aside(self._aside, message.id, segment, message.offset_octets, message.record_octets, why)
        except OSError as failure:
            return f"{why}; it cannot be kept aside: {failure}"
