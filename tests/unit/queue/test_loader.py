"""Mail data that is on disk only comes back into memory, and what cannot be read is said."""

from __future__ import annotations

import asyncio
import errno
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from angarium._core.record import Message, MessageState
from angarium.queue.loader import BATCH, MOST_READS, Loader
from tests.support.disk import SimulatedDisk
from tests.support.journal import Shard

if TYPE_CHECKING:
    from angarium.queue.damaged import Damage


class Loaded:
    """A loader over one shard, and what it handed on."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.ready: list[Message] = []
        self.without: list[Message] = []
        self.unreadable: list[tuple[Message, str]] = []
        self.damaged: list[tuple[Message, Damage]] = []
        self.aside = shard.folder.parent / "damaged"
        self.loader = Loader({0: shard.journal}, self._unreadable, self._damaged, self.aside)
        self._expected = 0
        self._over = asyncio.Event()

    def load(self, message: Message) -> None:
        self.loader.load(message, self._then)

    def _then(self, message: Message) -> None:
        (self.without if message.buffer is None else self.ready).append(message)
        self._check()

    def _unreadable(self, message: Message, why: str) -> None:
        self.unreadable.append((message, why))

    def _damaged(self, message: Message, damage: Damage) -> None:
        self.damaged.append((message, damage))

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


async def test_a_damaged_record_costs_one_message_and_is_kept_aside(loaded: Loaded) -> None:
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
    ((message, damage),) = loaded.damaged
    assert message is spoilt
    assert "harmed" in damage.why
    assert (damage.number, damage.name) == (spoilt.id, spoilt.queue_id)
    assert spoilt.buffer is None
    assert loaded.unreadable == []
    kept = Path(damage.kept)
    assert kept == loaded.aside / f"{spoilt.queue_id}.record"
    assert kept.read_bytes()[-9:] == b"message !"
    about = json.loads(kept.with_suffix(".json").read_text())
    assert (about["id"], about["offset"], about["octets"]) == (
        spoilt.queue_id,
        spoilt.offset_octets,
        spoilt.record_octets,
    )
    assert {path.stat().st_mode & 0o777 for path in loaded.aside.iterdir()} == {0o600}


async def test_a_record_that_is_cut_off_is_damaged(loaded: Loaded) -> None:
    message = loaded.message(b"mail")
    assert message.segment is not None
    with open(message.segment.path, "r+b") as file:
        file.truncate(message.offset_octets)
    loaded.load(message)
    await loaded.until(1)
    assert "too short" in loaded.damaged[0][1].why
    assert Path(loaded.damaged[0][1].kept).read_bytes() == b""


async def test_a_record_that_cannot_be_kept_aside_is_not_given_up(loaded: Loaded) -> None:
    loaded.aside.touch()  # no folder can be made there
    message = loaded.message(b"mail")
    assert message.segment is not None
    with open(message.segment.path, "r+b") as file:
        file.truncate(message.offset_octets)
    loaded.load(message)
    await loaded.until(1)
    assert loaded.damaged == []
    assert "cannot be kept aside" in loaded.unreadable[0][1]


class Unreadable:
    """A shard on a simulated disk that fails to read where it is told to."""

    def __init__(self, folder: Path) -> None:
        self.disk = SimulatedDisk(folder)
        self.loaded = Loaded(Shard(folder, disk=self.disk.disk))
        self.fails = True
        self.disk.fail = lambda kind, name: errno.EIO if self.fails and kind == "read" else 0

    async def load(self, message: Message) -> None:
        before = len(self.loaded.without) + len(self.loaded.ready)
        self.loaded.load(message)
        await self.loaded.until(before + 1)


async def test_a_disk_that_does_not_give_a_record_is_asked_three_times(tmp_path: Path) -> None:
    disk = Unreadable(tmp_path / "000")
    message = disk.loaded.message(b"mail")
    for turn in range(MOST_READS - 1):
        await disk.load(message)
        assert len(disk.loaded.unreadable) == turn + 1
    await disk.load(message)
    ((found, damage),) = disk.loaded.damaged
    assert found is message
    assert "Input/output error" in damage.why
    assert damage.unreadable_octets == message.record_octets
    assert Path(damage.kept).read_bytes() == bytes(message.record_octets)


async def test_a_disk_that_recovers_in_between_is_forgiven(tmp_path: Path) -> None:
    disk = Unreadable(tmp_path / "000")
    message = disk.loaded.message(b"mail")
    for fails in (True, True, False, True, True, False):
        disk.fails = fails
        message.buffer = None
        await disk.load(message)
    assert disk.loaded.damaged == []
    assert len(disk.loaded.ready) == 2


async def test_what_is_deleted_or_held_meanwhile_gets_no_mail_data(loaded: Loaded) -> None:
    deleted, held, loaded_twice, last = (loaded.message(b"message %d" % i) for i in range(4))
    for message in (deleted, held, loaded_twice, loaded_twice, last):
        loaded.load(message)
    loaded.shard.journal.done(deleted)
    held.state = MessageState.MESSAGE_HELD
    await loaded.until(5)
    assert loaded.ready == [loaded_twice, loaded_twice, last]
    assert loaded.without == [deleted, held]
    assert loaded.unreadable == []
    assert loaded.damaged == []
