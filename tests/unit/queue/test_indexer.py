"""Side files: a start reads them instead of the segments, finds the same, and passes over those that are harmed."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from angarium._core.disk import Disk
from angarium._core.outcome_record import encode_outcome
from angarium._core.record import MessageState, RecordType
from angarium._core.segment_index import build_index, index_path, read_index
from angarium.queue.indexer import Indexer
from tests.support.disk import SimulatedDisk
from tests.support.journal import Shard

if TYPE_CHECKING:
    from angarium._core.record import Message

SEGMENT = 64 << 10


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return Shard(tmp_path / "000", segment_octets=SEGMENT)


def filled(shard: Shard, octets: int = 3000, segments: int = 4) -> list[Message]:
    """Messages over several segments, with what is known of some of them."""
    messages = []
    while len(shard.journal.segments) < segments:
        message = shard.accept(Random(len(messages)).randbytes(octets), recipients=2)
        entries = [(0, 1, 250, b"2.0.0 ok"), (1, 2, 451, b"4.7.1 later")]
        if len(messages) % 3 == 0:
            body = encode_outcome(len(messages), 1_800_000_000.0, entries)
            shard.journal.append_record(RecordType.RECORD_OUTCOME, message.id, body)
        elif len(messages) % 5 == 0:
            shard.journal.append_record(RecordType.RECORD_HOLD, message.id, b"")
        messages.append(message)
    for message in messages[2::7]:
        shard.journal.done(message)
    shard.accept(b"the last")
    return messages


def indexed(shard: Shard) -> list[str]:
    """Side files for every segment that may have one; their paths."""
    indexer, paths = Indexer([shard.journal], after_s=0.0), []
    while (due := indexer.due(0.0)) is not None:
        due[1].index_octets = build_index(due[1], shard.journal.shard)
        paths.append(index_path(due[1].path))
        assert due[1].index_octets
    return paths


def known(shard: Shard) -> list[tuple[object, ...]]:
    found = sorted(shard.table, key=lambda message: message.id)
    return [
        (
            message.id,
            [message.recipient_state(i) for i in range(message.recipients)],
            message.attempts,
            message.next_attempt,
            message.state == MessageState.MESSAGE_HELD,
            message.segment.serial if message.segment else None,
            message.offset_octets,
            message.record_octets,
            message.received_us,
        )
        for message in found
    ]


def accounts(shard: Shard) -> list[tuple[int, int, int, int]]:
    return [(s.serial, s.used, s.alive, s.alive_octets) for s in shard.journal.segments]


@pytest.mark.parametrize("octets", [10, 300, 3000, 30_000])
def test_a_side_file_says_what_the_segment_says(shard: Shard, tmp_path: Path, octets: int) -> None:
    filled(shard, octets)
    paths = indexed(shard)
    assert len(paths) == 3
    assert os.path.getsize(paths[0]) == shard.journal.segments[0].index_octets
    with_side_files = Shard(shard.copy(tmp_path / "with"), segment_octets=SEGMENT)
    without = shard.copy(tmp_path / "without")
    for path in without.glob("*.index"):
        path.unlink()
    read = Shard(without, segment_octets=SEGMENT)
    assert (with_side_files.report.indexed, read.report.indexed) == (2, 0)  # the two youngest are verified
    assert known(with_side_files) == known(read)
    assert accounts(with_side_files) == accounts(read)
    assert with_side_files.report.harmed == read.report.harmed == []


def test_mail_data_is_not_read_where_there_is_a_side_file(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path)
    shard = Shard(tmp_path, segment_octets=SEGMENT, disk=disk.disk)
    messages = filled(shard, 3000, 8)
    indexed(shard)
    shard.journal.close()
    read: list[str] = []
    disk.fail = lambda kind, name: (read.append(name), 0)[1] if kind == "read" else 0
    again = Shard(tmp_path, segment_octets=SEGMENT, disk=disk.disk)
    assert len(again.table) == len(messages) + 1 - len(messages[2::7])
    sealed = {os.path.basename(segment.path) for segment in again.journal.segments[:-2]}
    assert len(sealed) == 6
    assert [name for name in read if name in sealed] == sorted(sealed)  # the header of each, no more


@pytest.mark.parametrize("kind", ["flip", "cut", "empty", "longer", "header"])
def test_a_harmed_side_file_is_passed_over(shard: Shard, tmp_path: Path, kind: str) -> None:
    filled(shard)
    before = known(Shard(shard.copy(tmp_path / "before"), segment_octets=SEGMENT))
    (path, *_) = indexed(shard)
    octets = bytearray(Path(path).read_bytes())
    if kind == "flip":
        octets[len(octets) // 2] ^= 1
    elif kind == "cut":
        del octets[-1:]
    elif kind == "empty":
        octets.clear()
    elif kind == "longer":
        octets += b"x"
    else:
        octets[9] ^= 1
    Path(path).write_bytes(octets)
    again = Shard(shard.copy(tmp_path / "again"), segment_octets=SEGMENT)
    assert again.report.indexed == (2 if kind == "longer" else 1)
    assert known(again) == before != []


def test_a_side_file_of_an_older_life_is_passed_over_and_goes(shard: Shard) -> None:
    messages = filled(shard)
    (path, *_) = indexed(shard)
    stale = Path(path).read_bytes()
    first = shard.journal.segments[0]
    for message in messages:
        if message.segment is first:
            shard.journal.done(message)
    assert first in shard.journal.spares
    assert not Path(path).exists()
    assert first.index_octets == 0
    more = [shard.accept(bytes(30_000)) for _ in range(8)]
    assert any(message.segment is first for message in more)
    Path(path).write_bytes(stale)
    assert read_index(Disk(), path, 0, first.serial) is None
    shard.journal.close()
    again = Shard(shard.folder, segment_octets=SEGMENT)
    assert {message.id for message in more} <= {message.id for message in again.table}
    orphan = shard.folder / "999999.index"
    orphan.write_bytes(stale)
    again.journal.close()
    Shard(shard.folder, segment_octets=SEGMENT)
    assert not orphan.exists()


def test_a_segment_with_a_harmed_record_gets_none(shard: Shard) -> None:
    messages = filled(shard)
    segment = shard.journal.segments[0]
    with open(segment.path, "r+b") as file:
        file.seek(messages[1].offset_octets + 20)
        file.write(b"!")
    assert build_index(segment, 0) == 0
    assert not os.path.exists(index_path(segment.path))


def test_a_disk_without_room_gets_none(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path)
    shard = Shard(tmp_path, segment_octets=SEGMENT, disk=disk.disk)
    filled(shard)
    disk.fail = lambda kind, name: 28 if kind == "write" and name.endswith(".index") else 0
    with pytest.raises(OSError, match="No space left"):
        build_index(shard.journal.segments[0], 0)
    assert not [name for name in disk.names() if name.endswith(".index")]


def test_none_takes_the_room_that_is_kept_for_records_about_queued_mail(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path)
    shard = Shard(tmp_path, segment_octets=SEGMENT, disk=disk.disk)
    filled(shard)
    indexer = Indexer([shard.journal], after_s=0.0)
    disk.capacity = disk.used_octets() + 2 * SEGMENT
    assert indexer.due(0.0) is None
    disk.capacity += 1
    assert indexer.due(0.0) == (shard.journal, shard.journal.segments[0])


def test_what_grows_or_is_harmed_or_has_no_mail_is_not_indexed(shard: Shard) -> None:
    messages = filled(shard)
    first, second, *_, last = shard.journal.segments
    for message in messages:
        if message.segment is second:
            shard.journal.done(message)
    assert second.alive == 0
    assert not shard.journal.is_safe(last)
    assert index_path(second.path) not in indexed(shard)
    assert first.index_octets > 0


def test_only_what_has_been_full_for_a_while_is_indexed(shard: Shard) -> None:
    indexer = Indexer([shard.journal], after_s=30.0)
    filled(shard, segments=2)
    assert indexer.due(100.0) is None
    filled(shard, segments=3)
    assert indexer.due(129.0) is None
    due = indexer.due(130.0)
    assert due is not None
    assert due == (shard.journal, shard.journal.segments[0])
    due[1].index_octets = build_index(due[1], 0)
    assert indexer.due(131.0) is None
    assert indexer.due(159.0) == (shard.journal, shard.journal.segments[1])


async def test_it_is_written_in_the_background_one_at_a_time(shard: Shard) -> None:
    filled(shard)
    indexer = Indexer([shard.journal], after_s=0.0)
    for count in (1, 2, 3):
        indexer.step(0.0)
        indexer.step(0.0)
        await indexer.settle()
        assert len(list(shard.folder.glob("*.index"))) == count
    assert [bool(segment.index_octets) for segment in shard.journal.segments] == [True, True, True, False]


async def test_one_that_was_used_again_meanwhile_keeps_no_side_file(shard: Shard) -> None:
    messages = filled(shard)
    first = shard.journal.segments[0]
    indexer = Indexer([shard.journal], after_s=0.0)
    indexer.step(0.0)
    for message in messages:
        if message.segment is first:
            shard.journal.done(message)
    await indexer.settle()
    assert first.index_octets == 0
    assert not list(shard.folder.glob("*.index"))
