"""A shard in a folder of its own, as a worker would hold it, but driven by hand: nothing happens by itself."""

from __future__ import annotations

import select
import shutil
from typing import TYPE_CHECKING

from angarium._core.counters import Slab, Slot
from angarium._core.journal import CallbackReceiver, CallbackTaker, Journal
from angarium._core.record import Message, make_accepted, new_message
from angarium._core.schedule import MessageTable
from angarium.queue.recovery import RecoveryReport, open_shard

if TYPE_CHECKING:
    from pathlib import Path

    from angarium._core.disk import Disk

WAIT_S = 30.0


class Shard:
    """One shard's journal, opened with what recovery found in the folder."""

    journal: Journal
    report: RecoveryReport

    def __init__(
        self,
        folder: Path,
        *,
        shard: int = 0,
        segment_octets: int = 1 << 20,
        sync_interval_s: float = 3600.0,
        disk: Disk | None = None,
        aside: Path | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        slab = Slab.create(1)
        self.counters = slab.region(0)
        slab.close()  # the memory stays
        self.table = MessageTable()
        self.taken: list[Message] = []
        told: list[tuple[Message, int]] = []
        self.told = told  # by a name of its own: no reference leads from the journal back to the shard
        self.receiver = CallbackReceiver(lambda message, error: told.append((message, error)))
        self.journal, self.report = open_shard(
            folder,
            shard,
            self.table,
            segment_octets=segment_octets,
            counters=self.counters,
            taker=CallbackTaker(self.taken.append),
            sync_interval_s=sync_interval_s,
            disk=disk,
            aside=aside,
        )

    def make(
        self,
        mail_data: bytes,
        *,
        durability: int = 0,
        recipients: int = 1,
        reverse_path: bytes = b"sender@example.org",
        source_pool: bytes = b"",
    ) -> Message:
        """A message that is not yet in the journal."""
        envelope = {
            "reverse_path": reverse_path,
            "recipients": [(b"r%d@example.net" % i, 0, b"") for i in range(recipients)],
            "durability": durability,
            "received_us": 1_800_000_000_000_000,
            "source_pool": source_pool,
        }
        return new_message(make_accepted(envelope, mail_data, self.journal.new_id()))

    def append(self, mail_data: bytes, *, durability: int = 0, recipients: int = 1) -> Message:
        """A message that is on its way to the disk."""
        message = self.make(mail_data, durability=durability, recipients=recipients)
        self.journal.append(message, self.receiver)
        return message

    def accept(self, mail_data: bytes, *, durability: int = 0, recipients: int = 1) -> Message:
        """A message that was acknowledged."""
        message = self.append(mail_data, durability=durability, recipients=recipients)
        self.settle()
        return message

    def one_commit(self) -> None:
        """Wait until the commit thread has something to say, and hear it."""
        poll = select.poll()
        poll.register(self.journal.event_fd, select.POLLIN)
        if not poll.poll(WAIT_S * 1000):
            raise TimeoutError("the commit thread said nothing")
        self.journal.on_commit()

    def settle(self) -> None:
        """Until nobody waits any more."""
        while self.journal.waiting:
            self.one_commit()

    def flush(self) -> None:
        """Until the small records that gathered are written, too. Something must have gathered."""
        self.journal.flush()
        self.one_commit()
        self.settle()

    def count(self, slot: Slot) -> int:
        return self.counters.value(slot)

    def copy(self, to: Path) -> Path:
        """What a process that dies now leaves behind."""
        shutil.copytree(self.folder, to)
        return to


def files(folder: Path) -> dict[str, bytes]:
    """The segment files and the in-flight table."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
