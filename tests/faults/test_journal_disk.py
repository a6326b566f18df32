"""Disks that fail under the journal: who waits is told, nothing acknowledged is lost, what failed is left alone.

A descriptor of a segment is put on /dev/full (every write fails) or /dev/zero (writes vanish, every sync fails); a
small tmpfs runs full; a limit on file sizes lets writes fail in the middle of a segment.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from angarium._core.counters import Slot
from angarium._core.dispatch import Dispatcher
from angarium._core.event_log import EventLog
from angarium._core.journal import JournalFailed, JournalFull, Segment
from angarium._core.record import Durability, Message, MessageState, load_message
from angarium._core.recovery import read_in_flight
from tests.support.journal import Shard

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.faults

SEGMENT = 64 << 10
ASYNC = Durability.DURABILITY_ASYNC
# what stands in for the segment's file, and the errno of what then fails
WRITES_FAIL = ("/dev/full", errno.ENOSPC)
SYNCS_FAIL = ("/dev/zero", errno.EINVAL)


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return Shard(tmp_path / "000", segment_octets=SEGMENT)


def break_segment(segment: Segment, device: str) -> None:
    """From now on the segment's descriptor leads to the device; the file itself keeps what it has."""
    fd = os.open(device, os.O_RDWR)
    os.dup2(fd, segment.fileno, inheritable=False)
    os.close(fd)


def growing(shard: Shard) -> Segment:
    return shard.journal.segments[-1]


# ---------------------------------------------------------------- a write or a sync fails


@pytest.mark.parametrize(("device", "error"), [WRITES_FAIL, SYNCS_FAIL], ids=["write", "sync"])
def test_who_waits_is_told_and_the_journal_takes_no_more(shard: Shard, device: str, error: int) -> None:
    safe = shard.accept(b"safe")
    broken = growing(shard)
    break_segment(broken, device)
    shard.journal.kick_later = lambda kick: None
    waiting = [shard.append(b"waits %d" % i) for i in range(3)] + [shard.append(b"async", durability=ASYNC)]
    shard.journal.kick()
    shard.settle()
    told = dict(shard.told)
    assert told[safe] == 0
    for message in waiting:
        assert told[message] == error
        assert message.segment is None
        assert message.state == MessageState.MESSAGE_GONE
    assert shard.taken == [safe]
    assert shard.journal.failed == error
    assert (broken.harmed, broken.sealed, broken.alive) == (True, True, 1)
    assert shard.count(Slot.QUEUE_SHARDS_FAILED) == 1
    assert not shard.journal.wants_spare
    for attempt in (lambda: shard.append(b"more"), lambda: shard.journal.done(safe)):
        with pytest.raises(JournalFailed) as refused:
            attempt()
        assert refused.value.errno == error
    assert shard.journal.waiting == 0


@pytest.mark.parametrize(("device", "error"), [WRITES_FAIL, SYNCS_FAIL], ids=["write", "sync"])
def test_it_heals_and_the_harmed_file_is_never_touched_again(
    shard: Shard, tmp_path: Path, device: str, error: int
) -> None:
    safe = shard.accept(b"safe")
    broken = growing(shard)
    on_disk = Path(broken.path).read_bytes()
    break_segment(broken, device)
    lost = shard.append(b"lost")
    shard.settle()
    assert shard.told[-1] == (lost, error)
    assert shard.journal.heal()
    assert (shard.journal.failed, shard.count(Slot.QUEUE_SHARDS_FAILED)) == (0, 0)
    after = [shard.accept(b"after %d" % i) for i in range(5)]  # each with a sync, which the harmed file would fail
    assert shard.told[-5:] == [(message, 0) for message in after]
    assert broken not in {message.segment for message in after}
    assert Path(broken.path).read_bytes() == on_disk
    again = Shard(shard.copy(tmp_path / "crashed"), segment_octets=SEGMENT)
    assert {message.id for message in again.table} == {safe.id} | {message.id for message in after}
    assert load_message(again.journal.read_record(again.table.get(safe.id) or safe)).mail_data() == b"safe"
    # when nothing in it lives any more it goes; it is not used again
    shard.journal.done(safe)
    shard.accept(bytes(SEGMENT - 8000))
    assert not os.path.exists(broken.path)
    assert broken not in shard.journal.spares
    shard.journal.close()
    assert safe.id not in {message.id for message in Shard(shard.folder, segment_octets=SEGMENT).table}


def test_a_failure_at_a_full_segment_fences_both_files(shard: Shard) -> None:
    """The records of one commit lie in two files, and it is the older one that fails."""
    shard.accept(bytes(20_000))
    older = growing(shard)
    shard.journal.kick_later = lambda kick: None
    break_segment(older, WRITES_FAIL[0])
    messages = [shard.append(bytes(20_000)) for _ in range(3)]
    younger = growing(shard)
    assert younger is not older
    shard.journal.kick()
    shard.settle()
    assert {error for message, error in shard.told if message in messages} == {errno.ENOSPC}
    assert older.harmed
    assert younger.harmed
    shard.journal.heal()
    shard.journal.kick_later = None
    message = shard.accept(b"after")
    assert message.segment not in (older, younger)


def test_a_disk_that_fails_again_and_again(shard: Shard, tmp_path: Path) -> None:
    safe = []
    for turn in range(6):
        safe.append(shard.accept(b"safe %d" % turn))
        break_segment(growing(shard), (WRITES_FAIL, SYNCS_FAIL)[turn % 2][0])
        shard.append(b"lost %d" % turn)
        shard.settle()
        assert shard.journal.failed
        assert shard.journal.heal()
        assert shard.journal.heal()  # well already
    assert shard.count(Slot.QUEUE_SHARDS_FAILED) == 0
    assert [message for message, error in shard.told if error == 0] == safe == shard.taken
    again = Shard(shard.copy(tmp_path / "crashed"), segment_octets=SEGMENT)
    assert {message.id for message in again.table} == {message.id for message in safe}


def test_an_async_message_that_was_told_stays_ours_when_its_sync_fails(shard: Shard) -> None:
    first = shard.accept(b"opens the segment")
    message = shard.accept(b"async", durability=ASYNC)
    assert shard.told[-1] == (message, 0)
    break_segment(growing(shard), SYNCS_FAIL[0])
    shard.append(b"fsync")
    shard.settle()
    assert shard.journal.failed
    assert shard.taken == [first, message]
    assert message.buffer is not None
    assert message.segment is not None  # and is delivered from memory


def test_what_was_done_when_the_disk_failed_is_done_after_it_healed(shard: Shard, tmp_path: Path) -> None:
    dispatcher = Dispatcher(shard.counters, EventLog(None, shard.counters))
    dispatcher.journals[0] = shard.journal
    table = str(shard.folder / "in-flight")
    sent, other = shard.accept(b"sent"), shard.accept(b"other")
    dispatcher.mark_in_flight(sent)
    break_segment(growing(shard), WRITES_FAIL[0])
    shard.journal.kick_later = lambda kick: None
    shard.journal.done(sent)
    lost = shard.append(b"lost")
    shard.journal.kick()
    shard.settle()
    assert shard.told[-1] == (lost, errno.ENOSPC)
    assert read_in_flight(table) == [sent.id]  # a crash now would leave it in doubt
    crashed = Shard(shard.copy(tmp_path / "crashed"), segment_octets=SEGMENT)
    assert crashed.report.in_doubt == [sent.id]
    assert shard.journal.heal()
    shard.flush()
    assert read_in_flight(table) == []
    again = Shard(shard.copy(tmp_path / "healed"), segment_octets=SEGMENT)
    assert {message.id for message in again.table} == {other.id}


def test_closing_a_failed_journal_tells_who_waits(shard: Shard) -> None:
    shard.accept(b"safe")
    break_segment(growing(shard), WRITES_FAIL[0])
    shard.journal.kick_later = lambda kick: None
    lost = shard.append(b"lost")
    shard.journal.close()
    assert shard.told[-1] == (lost, errno.ENOSPC)
    with pytest.raises(JournalFailed):
        shard.journal.heal()


# ---------------------------------------------------------------- a limit on file sizes

LIMITED = """
import errno, resource, sys
from pathlib import Path
from angarium._core.journal import JournalFailed
from tests.support.journal import Shard

shard = Shard(Path(sys.argv[1]), segment_octets=65536)
safe = [shard.accept(b"safe" * 1000) for _ in range(3)]
resource.setrlimit(resource.RLIMIT_FSIZE, (17000, resource.RLIM_INFINITY))  # in the middle of the next record
lost = shard.append(b"lost" * 1000)
shard.settle()
assert shard.told[-1] == (lost, errno.EFBIG), shard.told
assert shard.journal.failed == errno.EFBIG
for _ in range(3):
    try:
        shard.journal.heal()
    except OSError as failure:
        assert failure.errno == errno.EFBIG, failure
    else:
        raise AssertionError("healed on a disk that takes nothing")
assert shard.journal.failed == errno.EFBIG
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert shard.journal.heal()
after = shard.accept(b"after")
print(*[message.id for message in [*safe, after]])
sys.stdout.flush()
import os
os._exit(0)
"""


def test_a_write_that_fails_in_the_middle_of_a_record(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "000")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "000").glob("*.segment"))) == 2  # failed attempts to heal leave no files
    again = Shard(tmp_path / "000", segment_octets=SEGMENT)
    assert sorted(message.id for message in again.table) == sorted(map(int, done.stdout.split()))


# ---------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a mebioctet."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_and_goes_on_when_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    shard = Shard(small_disk / "000", segment_octets=SEGMENT)
    safe: list[Message] = []

    def fill() -> None:
        for _ in range(100):
            safe.append(shard.accept(bytes(20_000)))

    with pytest.raises(JournalFull) as refused:
        fill()
    assert refused.value.errno == errno.ENOSPC
    assert (shard.journal.full, shard.journal.failed) == (True, 0)
    # six segments of eight: the table takes some room, and room is kept for records about queued mail
    assert len(safe) == 3 * 6
    assert {error for _, error in shard.told} == {0}
    before = sorted(path.name for path in shard.folder.iterdir())
    with pytest.raises(JournalFull):
        shard.append(bytes(20_000))
    assert sorted(path.name for path in shard.folder.iterdir()) == before  # no half-made file is left
    again = Shard(shard.copy(tmp_path / "crashed"), segment_octets=SEGMENT)
    assert {message.id for message in again.table} == {message.id for message in safe}
    # records about messages still find room, and room comes back without a restart
    for message in safe[:6]:
        shard.journal.done(message)
    after = [shard.accept(bytes(20_000)) for _ in range(3)]
    assert shard.journal.full is False
    assert {error for _, error in shard.told} == {0}
    shard.journal.close()
    assert {message.id for message in Shard(shard.folder, segment_octets=SEGMENT).table} == {
        message.id for message in safe[6:] + after
    }


def test_a_message_too_large_for_the_disk_is_refused_and_smaller_ones_go_on(small_disk: Path) -> None:
    shard = Shard(small_disk / "000", segment_octets=SEGMENT)
    safe = shard.accept(b"safe")
    with pytest.raises(JournalFull):
        shard.append(bytes(1 << 20))
    after = shard.accept(b"after")
    assert after.segment is safe.segment
    shard.journal.close()
    assert {message.id for message in Shard(shard.folder, segment_octets=SEGMENT).table} == {safe.id, after.id}
