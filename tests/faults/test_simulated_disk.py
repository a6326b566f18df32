"""The journal on a disk in memory: single cases of what tests/property/test_journal_crash.py searches for at random."""

from __future__ import annotations

import errno
import os
from random import Random
from typing import TYPE_CHECKING

import pytest

from angarium._core.counters import Slot
from angarium._core.record import Message, load_message
from tests.support.disk import SimulatedDisk
from tests.support.journal import Shard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.faults

SEGMENT = 16 << 10


class Machine:
    """A shard on a simulated disk."""

    def __init__(self, folder: Path, files: dict[str, bytes] | None = None, capacity: int = 1 << 40) -> None:
        self.folder = folder
        self.disk = SimulatedDisk(folder, files, capacity)
        self.start()

    def start(self) -> None:
        self.shard = Shard(self.folder, segment_octets=SEGMENT, disk=self.disk.disk)

    def kill(self) -> None:
        """What has gathered is lost; what was written stays."""
        self.disk.dead = True
        self.shard.journal.close()
        self.disk.dead = False

    def after_power_failures(self, begin: int, turns: int) -> Iterator[set[int]]:
        """Ids of the messages found after each of many power failures, at every operation since begin."""
        for point in range(begin, len(self.disk.events) + 1):
            state = self.disk.state_at(point)
            for turn in range(turns):
                again = Machine(self.folder, state.without_power(Random(turn)))
                yield {message.id for message in again.shard.table}
                again.shard.journal.close()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "000")


def fail(machine: Machine, operation: str, error: int) -> None:
    machine.disk.fail = lambda kind, name: error if kind == operation else 0


def well(machine: Machine) -> None:
    machine.disk.fail = lambda kind, name: 0


def refused(machine: Machine, error: int) -> Message:
    message = machine.shard.append(b"refused")
    machine.shard.settle()
    assert machine.shard.told[-1] == (message, error)
    assert machine.shard.journal.failed == error
    return message


def test_a_file_that_a_killed_process_made_is_still_there_after_the_next_ones_power_failure(machine: Machine) -> None:
    """The file was made, its folder not synced; the next process found it as a spare."""
    machine.shard.journal.kick_later = lambda kick: None
    machine.shard.append(b"gathered", durability=1)  # it is written when it is asked for
    machine.kill()
    machine.start()
    safe = machine.shard.accept(b"safe")
    for found in machine.after_power_failures(len(machine.disk.events), 20):
        assert found == {safe.id}


def test_what_a_killed_process_had_written_is_safe_once_it_is_recovered(machine: Machine) -> None:
    message = machine.shard.append(b"async", durability=1)
    machine.shard.flush()
    machine.kill()
    machine.start()
    assert {found.id for found in machine.shard.table} == {message.id}
    for found in machine.after_power_failures(len(machine.disk.events), 20):
        assert found == {message.id}


def test_files_may_come_back_in_any_order_and_bring_no_message_back(machine: Machine) -> None:
    shard = machine.shard
    large = shard.accept(bytes(20_000))  # in a file of its own
    others = [shard.accept(b"in the next file, after which the folder is synced no more")]
    shard.journal.done(large)
    others.append(shard.accept(b"done is on disk"))
    begin = machine.disk.note("from here on it may not come back")
    for other in others:
        shard.journal.done(other)
    fail(machine, "write", errno.EIO)
    refused(machine, errno.EIO)  # so that the file that says `done` goes, too
    well(machine)
    assert shard.journal.heal()
    after = shard.accept(b"after")
    shard.journal.on_commit()
    assert len(machine.disk.names()) == 2  # the table and one segment
    for found in machine.after_power_failures(begin, 12):
        assert large.id not in found
    assert after.segment is not None


def test_a_message_that_was_torn_does_not_come_back_however_often_the_power_fails(machine: Machine) -> None:
    """It is written off for good before anything else is done: later recoveries do not look at its mail data."""
    shard = machine.shard
    safe = shard.accept(b"safe")
    torn = shard.append(bytes(3000))
    shard.settle()
    files = machine.disk.state_at(len(machine.disk.events)).killed()
    (segment,) = (name for name in files if name.endswith(".segment"))
    octets = bytearray(files[segment])
    octets[torn.offset_octets + 2000] ^= 1
    files[segment] = bytes(octets)
    for turn in range(6):
        again = Machine(machine.folder, files)
        assert {message.id for message in again.shard.table} == {safe.id}
        files = again.disk.state_at(len(again.disk.events)).without_power(Random(turn))
        again.shard.journal.close()


@pytest.mark.parametrize("operation", ["sync", "sync_folder", "write"])
@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS, errno.ENOSPC])
def test_no_sync_is_tried_again_where_one_failed(machine: Machine, operation: str, error: int) -> None:
    shard = machine.shard
    safe = [] if operation == "sync_folder" else [shard.accept(b"safe")]
    fail(machine, operation, error)
    refused(machine, error)
    well(machine)
    assert shard.journal.heal()
    safe += [shard.accept(b"after %d" % i) for i in range(3)]
    begin = len(machine.disk.events)
    shard.journal.close()
    assert machine.disk.violations == []
    for found in machine.after_power_failures(begin, 10):
        assert {message.id for message in safe} <= found


@pytest.mark.parametrize("operation", ["create", "allocate", "write", "sync"])
def test_a_disk_that_stays_broken_is_not_healed_and_leaves_no_files(machine: Machine, operation: str) -> None:
    machine.shard.accept(b"safe")
    fail(machine, "write", errno.EIO)
    refused(machine, errno.EIO)
    names = machine.disk.names()
    fail(machine, operation, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        machine.shard.journal.heal()
    assert machine.shard.journal.failed == errno.EIO
    assert machine.disk.names() == names
    well(machine)
    assert machine.shard.journal.heal()


def test_a_file_that_cannot_be_unlinked_harms_nobody(machine: Machine) -> None:
    fail(machine, "unlink", errno.EIO)
    large = machine.shard.accept(bytes(20_000))
    machine.shard.journal.done(large)
    after = machine.shard.accept(b"after")
    assert machine.shard.told[-1] == (after, 0)
    assert machine.shard.journal.failed == 0
    machine.shard.journal.close()
    well(machine)
    machine.start()
    assert {message.id for message in machine.shard.table} == {after.id}
    assert len(machine.disk.names()) == 2


def test_a_full_disk_refuses_and_goes_on_when_mail_goes(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "000", capacity=12 * SEGMENT)
    shard, safe = machine.shard, []

    def fill() -> None:
        for _ in range(100):
            safe.append(shard.accept(bytes(5200)))

    with pytest.raises(OSError, match="No space left") as full:
        fill()
    assert full.value.errno == errno.ENOSPC
    assert shard.journal.full
    assert not shard.journal.failed
    for _ in range(3):
        shard.journal.full = False  # as a worker does, to let the next message try again
        with pytest.raises(OSError, match="No space left"):
            shard.accept(bytes(5200))
    assert states(shard) == {"full now": 1, "failed now": 0, "full": 1, "fenced": 0, "healed": 0}
    for message in safe:  # what is known of queued mail still finds room
        shard.journal.done(message)
    after = shard.accept(bytes(5200))
    assert shard.told[-1] == (after, 0)
    assert machine.disk.violations == []
    assert states(shard) == {"full now": 0, "failed now": 0, "full": 1, "fenced": 0, "healed": 1}


def states(shard: Shard) -> dict[str, int]:
    """What the metrics say of the shard."""
    return {
        "full now": shard.count(Slot.QUEUE_SHARDS_FULL),
        "failed now": shard.count(Slot.QUEUE_SHARDS_FAILED),
        "full": shard.count(Slot.QUEUE_SHARD_FULL),
        "fenced": shard.count(Slot.QUEUE_SHARD_FENCED),
        "healed": shard.count(Slot.QUEUE_SHARD_HEALED),
    }


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS], ids=["EIO", "read-only"])
def test_a_shard_is_fenced_and_healed_and_the_metrics_say_so(machine: Machine, error: int) -> None:
    shard = machine.shard
    safe = shard.accept(b"safe")
    for turn in (1, 2):
        fail(machine, "write", error)
        refused(machine, error)
        assert states(shard) == {"full now": 0, "failed now": 1, "full": 0, "fenced": turn, "healed": turn - 1}
        # what is queued can still be read and sent; what became of it waits for the disk
        assert load_message(shard.journal.read_record(safe)).mail_data() == b"safe"
        with pytest.raises(OSError, match=os.strerror(error)):
            shard.journal.heal()
        well(machine)
        assert shard.journal.heal()
        assert states(shard) == {"full now": 0, "failed now": 0, "full": 0, "fenced": turn, "healed": turn}
    after = shard.accept(b"after")
    assert shard.told[-1] == (after, 0)


def test_records_are_read_from_where_they_are(machine: Machine) -> None:
    message = machine.shard.accept(b"some mail")
    assert load_message(machine.shard.journal.read_record(message)).mail_data() == b"some mail"
    fail(machine, "read", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        machine.shard.journal.read_record(message)
