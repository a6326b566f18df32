"""Get mail data that is on disk only back into memory, a batch per thread hop.

Input: messages without a buffer. Output: the same messages with their buffer, handed to whoever asked.

Fails: a record that cannot be read or is harmed is given to `harmed` with the reason, which keeps the message from
delivery; whoever asked is told all the same. Bounds: BATCH messages or BATCH_OCTETS are read at a time; the rest waits
its turn. A message that left the state READY while it was read (deleted, held) gets no buffer."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from angarium._core.record import MessageState, shard_of
from angarium.queue.record import RecordError, load_message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from angarium._core.journal import Journal
    from angarium._core.record import MailBuffer, Message

BATCH = 64
BATCH_OCTETS = 8 << 20


class Loader:
    """Reads for one worker."""

    def __init__(self, journals: Mapping[int, Journal], harmed: Callable[[Message, str], None]) -> None:
        self._journals = journals
        self._harmed = harmed
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
                        if isinstance(result, str):
                            self._harmed(message, result)
                        else:
                            message.buffer = result
                    then(message)
        finally:
            self._task = None

    def _read(self, batch: list[Message]) -> list[MailBuffer | str]:
        results: list[MailBuffer | str] = []
        for message in batch:
            try:
                results.append(load_message(self._journals[shard_of(message.id)].read_record(message)))
            except (OSError, RecordError) as failure:
                results.append(str(failure))
        return results
