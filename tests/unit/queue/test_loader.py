"""Mail data that is on disk only comes back into memory, and what cannot be read is said."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from angarium._core.record import Message, MessageState
from angarium.queue.loader import BATCH, Loader
from tests.support.journal import Shard

if TYPE_CHECKING:
    from pathlib import Path


class Loaded:
    """A loader over one shard, and what it handed on."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.ready: list[Message] = []
        self.without: list[Message] = []
        self.harmed: list[tuple[Message, str]] = []
        self.loader = Loader({0: shard.journal}, self._harmed)
        self._expected = 0
        self._over = asyncio.Event()

    def load(self, message: Message) -> None:
        self.loader.load(message, self._then)

    def _then(self, message: Message) -> None:
        (self.without if message.buffer is None else self.ready).append(message)
        self._check()

    def _harmed(self, message: Message, why: str) -> None:
        self.harmed.append((message, why))

    def _check(self) -> None:
        if len(self.ready) + len(self.without) == self._expected:
            self._over.set()

    async def until(self, expected: int) -> None:
        self._expected = expected
        self._over.clear()
        self._check()
        await asyncio.wait_for(self._over.wait(), 30)

    def message(self, mail_data: bytes) -> Message:
        """One whose mail data is on disk only, and whose time has come."""
        message = self.shard.accept(mail_data)
        message.buffer = None
        message.state = MessageState.MESSAGE_READY
        return message


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    return Loaded(Shard(tmp_path / "000"))


async def test_mail_data_comes_back_in_order(loaded: Loaded) -> None:
    mail = [b"message %d" % i * (i + 1) for i in range(2 * BATCH + 3)]
    messages = [loaded.message(mail_data) for mail_data in mail]
    for message in messages:
        loaded.load(message)
    assert len(loaded.loader) == len(messages)
    await loaded.until(len(messages))
    assert loaded.ready == messages
    assert [message.buffer.mail_data() for message in loaded.ready if message.buffer is not None] == mail
    assert len(loaded.loader) == 0


async def test_it_can_be_asked_again_when_it_was_idle(loaded: Loaded) -> None:
    for count in (1, 2, 3):
        loaded.load(loaded.message(b"mail"))
        await loaded.until(count)


async def test_large_messages_are_read_a_few_at_a_time(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("angarium.queue.loader.BATCH_OCTETS", 50_000)
    messages = [loaded.message(bytes(30_000)) for _ in range(7)]
    sizes: list[int] = []
    read = loaded.loader._read
    monkeypatch.setattr(loaded.loader, "_read", lambda batch: (sizes.append(len(batch)), read(batch))[1])
    for message in messages:
        loaded.load(message)
    await loaded.until(7)
    assert sizes == [2, 2, 2, 1]


async def test_a_harmed_record_costs_one_message(loaded: Loaded) -> None:
    messages = [loaded.message(b"message %d" % i) for i in range(3)]
    spoilt = messages[1]
    assert spoilt.segment is not None
    with open(spoilt.segment.path, "r+b") as file:
        file.seek(spoilt.offset_octets + spoilt.record_octets - 1)
        file.write(b"!")
    for message in messages:
        loaded.load(message)
    await loaded.until(3)
    assert loaded.ready == [messages[0], messages[2]]
    assert loaded.without == [spoilt]  # whoever asked is told all the same
    ((message, why),) = loaded.harmed
    assert message is spoilt
    assert "harmed" in why
    assert spoilt.queue_id in why
    assert spoilt.buffer is None


async def test_a_file_that_cannot_be_read_is_said(loaded: Loaded) -> None:
    message = loaded.message(b"mail")
    assert message.segment is not None
    with open(message.segment.path, "r+b") as file:
        file.truncate(message.offset_octets)
    loaded.load(message)
    await loaded.until(1)
    assert "too short" in loaded.harmed[0][1]


async def test_what_is_deleted_or_held_meanwhile_gets_no_mail_data(loaded: Loaded) -> None:
    deleted, held, loaded_twice, last = (loaded.message(b"message %d" % i) for i in range(4))
    for message in (deleted, held, loaded_twice, loaded_twice, last):
        loaded.load(message)
    loaded.shard.journal.done(deleted)
    held.state = MessageState.MESSAGE_HELD
    await loaded.until(5)
    assert loaded.ready == [loaded_twice, loaded_twice, last]
    assert loaded.without == [deleted, held]
    assert loaded.harmed == []
