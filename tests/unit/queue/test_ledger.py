"""The ledger: every recipient that was accepted is accounted for, whatever happens to the process or the disk."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from angarium._core.counters import Slot
from angarium._core.dispatch import Dispatcher, JournalIntake
from angarium._core.event_log import EventLog
from angarium._core.ledger import DropReason
from angarium._core.record import Durability, Message, RecipientState
from angarium.queue.ledger import LEDGER_SLOTS, LedgerWatch
from tests.support.disk import SimulatedDisk
from tests.support.journal import Shard

if TYPE_CHECKING:
    from angarium._core.disk import Disk

SEGMENT = 64 << 10
DELIVERED, DEFERRED = RecipientState.RECIPIENT_DELIVERED, RecipientState.RECIPIENT_DEFERRED
FAILED, EXPIRED = RecipientState.RECIPIENT_FAILED, RecipientState.RECIPIENT_EXPIRED
MEMORY = Durability.DURABILITY_MEMORY


class Books:
    """A shard with a dispatcher, and the totals that there have to be."""

    def __init__(self, folder: Path, disk: Disk | None = None) -> None:
        self.shard = Shard(folder, segment_octets=SEGMENT, disk=disk)
        self.journal = self.shard.journal
        self.dispatcher = Dispatcher(self.shard.counters, EventLog(None, self.shard.counters))
        self.dispatcher.journals[0] = self.journal
        for message in list(self.shard.table):
            self.shard.table.discard(message)
            self.dispatcher.table.insert(message)
        self.watch = LedgerWatch(self.dispatcher, [self.journal], self.shard.counters)

    def accept(self, recipients: int = 1, octets: int = 10) -> Message:
        message = self.shard.accept(bytes(octets), recipients=recipients)
        self.dispatcher.table.insert(message)
        return message

    def accept_memory(self, recipients: int = 1) -> Message:
        self.dispatcher.stopped = True  # it waits in the timer
        message = self.shard.make(b"memory", durability=MEMORY, recipients=recipients)
        JournalIntake(self.dispatcher, [self.journal]).submit(message, self.shard.receiver)
        return message

    def tell(self, message: Message, **states: int) -> None:
        """An attempt came to that."""
        entries = []
        for name, state in states.items():
            message.set_recipient_state(int(name[1:]), state)
            entries.append((int(name[1:]), state, 0, b"text"))
        message.set_attempts(message.attempts + 1)
        self.journal.append_outcome(message, entries, attempted=1.0, attempt=message.attempts, next_attempt=2.0)

    def end(self, message: Message, state: int | None = None, reason: int = 0) -> None:
        for index in message.unfinished() if state is not None else []:
            message.set_recipient_state(index, state or 0)
        self.dispatcher.drop(message, reason)

    def numbers(self) -> tuple[int, ...]:
        """Accepted, delivered, bounced, expired, deleted, damaged, lost with memory; queued. They agree."""
        totals = tuple(self.watch.totals()[name] for name in LEDGER_SLOTS)
        queued = self.dispatcher.queued_recipients()
        assert totals[0] == sum(totals[1:]) + queued
        assert self.watch.check() == 0
        return *totals, queued

    def killed(self, to: Path) -> Books:
        """What a process finds that starts after this one was killed: all that was written."""
        self.shard.accept(b"")  # takes along what stands before it …
        self.dispatcher.table.insert(self.shard.taken[-1])
        return Books(self.shard.copy(to))

    def closed(self) -> Books:
        self.journal.close()
        return Books(self.shard.folder)


@pytest.fixture
def books(tmp_path: Path) -> Books:
    return Books(tmp_path / "000")


def test_an_empty_spool_has_an_empty_ledger(books: Books) -> None:
    assert books.numbers() == (0,) * 8


def test_every_way_to_end_has_its_total_and_they_survive_a_kill_and_a_restart(books: Books, tmp_path: Path) -> None:
    books.end(books.accept(), DELIVERED)
    books.end(books.accept(recipients=2), FAILED)
    books.end(books.accept(recipients=3), EXPIRED)
    books.end(books.accept(recipients=4), reason=DropReason.DROP_DELETED)
    books.end(books.accept(recipients=5), reason=DropReason.DROP_DAMAGED)
    books.accept(recipients=6)
    assert books.numbers() == (21, 1, 2, 3, 4, 5, 0, 6)
    assert books.killed(tmp_path / "image").numbers() == (22, 1, 2, 3, 4, 5, 0, 7)
    assert books.closed().numbers() == (22, 1, 2, 3, 4, 5, 0, 7)


def test_recipients_of_one_message_may_end_in_different_ways_and_at_different_times(
    books: Books, tmp_path: Path
) -> None:
    message = books.accept(recipients=6)
    books.tell(message, r0=DELIVERED, r1=FAILED, r2=DEFERRED)
    assert books.numbers() == (6, 1, 1, 0, 0, 0, 0, 4)
    again = books.killed(tmp_path / "image")
    assert again.numbers() == (7, 1, 1, 0, 0, 0, 0, 5)
    for book, extra in ((books, 1), (again, 1)):
        found = book.dispatcher.table.get(message.id)
        assert found is not None
        book.tell(found, r2=DELIVERED)
        found.set_recipient_state(3, DELIVERED)
        found.set_recipient_state(4, FAILED)
        book.end(found, reason=DropReason.DROP_DELETED)
        assert book.numbers() == (6 + extra, 3, 2, 0, 1, 0, 0, extra)
        assert book.closed().numbers() == (6 + extra, 3, 2, 0, 1, 0, 0, extra)


def test_totals_outlive_the_segments_that_they_came_from(books: Books) -> None:
    kept = books.accept(recipients=2)
    for _ in range(20):
        books.end(books.accept(octets=20_000), DELIVERED)
    books.tell(kept, r0=FAILED)
    for _ in range(20):
        books.end(books.accept(octets=20_000), DELIVERED)
    books.end(kept, DELIVERED)  # of a message whose segment goes now
    for _ in range(20):
        books.end(books.accept(octets=20_000), DELIVERED)
    assert books.journal.segments[0].serial > 3
    numbers = books.numbers()
    assert numbers == (62, 61, 1, 0, 0, 0, 0, 0)
    for _ in range(3):
        books = books.closed()
        assert books.numbers() == numbers
        assert books.shard.report.missing == books.shard.report.unexpected == 0


def test_more_recipients_than_a_done_record_has_room_for(books: Books) -> None:
    books.end(books.accept(recipients=5000), DELIVERED)
    assert books.closed().numbers() == (5000, 5000, 0, 0, 0, 0, 0, 0)


def test_what_was_in_memory_is_lost_with_the_process_and_said(books: Books, tmp_path: Path) -> None:
    first, second = books.accept_memory(recipients=2), books.accept_memory(recipients=3)
    assert books.numbers() == (5, 0, 0, 0, 0, 0, 0, 5)
    books.journal.checkpoint_memory()
    books.end(first, DELIVERED)
    books.journal.checkpoint_memory()
    assert books.numbers() == (5, 2, 0, 0, 0, 0, 0, 3)
    again = books.killed(tmp_path / "image")
    assert again.shard.report.lost_memory == 3
    assert again.numbers() == (6, 2, 0, 0, 0, 0, 3, 1)
    # … but not what its first attempt left in the queue
    fourth = books.accept_memory()
    assert books.dispatcher.persist(second)
    assert books.dispatcher.persist(fourth)
    books.tell(second, r0=DELIVERED)
    books.shard.settle()
    assert books.numbers() == (7, 3, 0, 0, 0, 0, 0, 4)
    again = books.killed(tmp_path / "image2")
    assert again.shard.report.lost_memory == 0
    assert again.numbers() == (8, 3, 0, 0, 0, 0, 0, 5)
    assert again.dispatcher.table.get(second.id) is not None


def test_a_message_whose_commit_failed_was_never_accepted_and_does_not_come_back(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path / "000")
    books = Books(tmp_path / "000", disk.disk)
    books.end(books.accept(), DELIVERED)
    kept = books.accept()
    disk.fail = lambda kind, name: errno.EIO if kind == "sync" else 0
    doomed = books.shard.append(b"written, and not synced", recipients=3)
    books.shard.settle()
    assert books.shard.told[-1] == (doomed, errno.EIO)
    assert books.numbers() == (2, 1, 0, 0, 0, 0, 0, 1)
    books.end(kept, DELIVERED)  # cannot be recorded: still queued, as far as the journal knows
    assert books.numbers() == (2, 1, 0, 0, 0, 0, 0, 1)
    disk.fail = lambda kind, name: 0
    assert books.journal.heal()
    books.dispatcher.tick()
    books.accept()
    assert books.numbers() == (3, 2, 0, 0, 0, 0, 0, 1)
    image = SimulatedDisk(tmp_path / "000", disk.state_at(len(disk.events)).killed())
    again = Books(tmp_path / "000", image.disk)
    assert again.numbers() == (3, 2, 0, 0, 0, 0, 0, 1)
    assert (again.shard.report.missing, again.shard.report.unexpected) == (0, 0)
    assert disk.violations == image.violations == []


def test_a_crash_before_the_shard_heals_makes_a_failed_commit_an_accepted_one(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path / "000")
    books = Books(tmp_path / "000", disk.disk)
    books.accept()
    disk.fail = lambda kind, name: errno.EIO if kind == "sync" else 0
    books.shard.append(b"written, and not synced", recipients=3)
    books.shard.settle()
    image = SimulatedDisk(tmp_path / "000", disk.state_at(len(disk.events)).killed())
    assert Books(tmp_path / "000", image.disk).numbers() == (4, 0, 0, 0, 0, 0, 0, 4)


def test_ends_that_a_failed_write_took_along_are_written_again(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path / "000")
    books = Books(tmp_path / "000", disk.disk)
    done, part = books.accept(), books.accept(recipients=2)
    disk.fail = lambda kind, name: errno.EIO if kind == "write" else 0
    books.end(done, DELIVERED)
    books.tell(part, r0=DELIVERED)
    books.shard.flush()
    assert books.journal.failed
    assert books.numbers() == (3, 2, 0, 0, 0, 0, 0, 1)
    disk.fail = lambda kind, name: 0
    books.journal.heal()
    books.shard.flush()
    image = SimulatedDisk(tmp_path / "000", disk.state_at(len(disk.events)).killed())
    again = Books(tmp_path / "000", image.disk)
    assert again.numbers() == (3, 2, 0, 0, 0, 0, 0, 1)
    assert (again.shard.report.missing, again.shard.report.unexpected) == (0, 0)
    found = again.dispatcher.table.get(part.id)
    assert found is not None
    assert found.recipient_state(0) == DELIVERED


def test_a_damaged_record_is_a_loss_that_the_ledger_names(books: Books, tmp_path: Path) -> None:
    victim = books.accept(recipients=3)
    assert victim.segment is not None
    place = Path(victim.segment.path).name, victim.offset_octets
    for _ in range(4):
        books.accept(octets=40_000)  # into later segments, whose checkpoints know of it
    image = books.shard.copy(tmp_path / "image")
    octets = bytearray((image / place[0]).read_bytes())
    octets[place[1] + 50] ^= 1
    (image / place[0]).write_bytes(octets)
    again = Books(image)
    assert again.shard.report.missing == 3
    assert again.numbers() == (7, 0, 0, 0, 0, 3, 0, 4)


def test_a_drift_is_an_error_once_and_a_metric(books: Books, caplog: pytest.LogCaptureFixture) -> None:
    message = books.accept(recipients=2)
    books.dispatcher.table.discard(message)  # what must never happen: it is gone, and nothing says why
    with caplog.at_level(logging.WARNING):
        assert [books.watch.check() for _ in range(3)] == [2, 2, 2]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "2 recipients should be queued, 0 are" in caplog.text
    assert books.shard.count(Slot.QUEUE_LEDGER_DRIFT) == 2
    books.dispatcher.table.insert(message)
    assert books.watch.check() == 0
    assert books.shard.count(Slot.QUEUE_LEDGER_DRIFT) == 0


def test_what_is_published_was_written_before(books: Books) -> None:
    books.watch.check()
    message = books.accept(recipients=2)
    books.watch.check()
    assert (books.shard.count(Slot.QUEUE_LEDGER_ACCEPTED), books.shard.count(Slot.QUEUE_LEDGER_QUEUED)) == (2, 2)
    books.end(message, DELIVERED)
    books.watch.check()
    assert books.shard.count(Slot.QUEUE_LEDGER_DELIVERED) == 0
    assert books.shard.count(Slot.QUEUE_LEDGER_QUEUED) == 2
    books.shard.flush()
    books.watch.check()
    assert books.shard.count(Slot.QUEUE_LEDGER_DELIVERED) == 2
    assert books.shard.count(Slot.QUEUE_LEDGER_QUEUED) == 0
