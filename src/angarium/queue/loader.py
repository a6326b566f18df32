"""Get mail data that is on disk only back into memory, a batch per thread hop.

Input: messages without a buffer whose time has come. Output: the same messages with their buffer, handed to `ready`.

Fails: a record that cannot be read or is harmed is given to `harmed` with the reason; the message stays in the queue,
held. Bounds: BATCH messages or BATCH_OCTETS are read at a time; the rest waits its turn."""

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

    def __init__(
        self,
        journals: Mapping[int, Journal],
        ready: Callable[[Message], None],
        harmed: Callable[[Message, str], None],
    ) -> None:
        self._journals = journals
        self._ready = ready
        self._harmed = harmed
        self._waiting: deque[Message] = deque()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def load(self, message: Message) -> None:
        """Have message.buffer filled, then `ready` called."""
        self._waiting.append(message)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch: list[Message] = []
                octets = 0
                while self._waiting and len(batch) < BATCH and octets < BATCH_OCTETS:
                    message = self._waiting.popleft()
                    batch.append(message)
                    octets += message.record_octets
                for message, result in await loop.run_in_executor(None, self._read, batch):
                    if message.state != MessageState.MESSAGE_READY or message.buffer is not None:
                        continue  # deleted or held while it was read, or read twice
                    if isinstance(result, str):
                        self._harmed(message, result)
                    else:
                        message.buffer = result
                        self._ready(message)
        finally:
            self._task = None

    def _read(self, batch: list[Message]) -> list[tuple[Message, MailBuffer | str]]:
        results: list[tuple[Message, MailBuffer | str]] = []
        for message in batch:
            try:
                record = self._journals[shard_of(message.id)].read_record(message)
                results.append((message, load_message(record)))
            except (OSError, RecordError) as failure:
                results.append((message, str(failure)))
        return results
