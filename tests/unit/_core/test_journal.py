"""The journal on a real disk: who waits is told in order and not too early, files rotate and are used again."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import sys
import threading
from pathlib import Path

import pytest

from angarium._core.counters import Slab, Slot
from angarium._core.disk import Disk
from angarium._core.dispatch import Dispatcher, JournalIntake
from angarium._core.event_log import EventLog
from angarium._core.journal import (
    CallbackReceiver,
    CallbackTaker,
    Journal,
    JournalFailed,
    Segment,
    read_segment_header,
    segment_header,
)
from angarium._core.outcome_record import MOST_KEPT, encode_outcome
from angarium._core.record import Durability, Message, MessageState, RecordType, load_message, memory_octets, shard_of
from angarium._core.recovery import read_in_flight
from tests.reference.record import ACCEPTED, DONE, OUTCOME, decode_segment_header, walk_segment
from tests.support.disk import SimulatedDisk
from tests.support.journal import WAIT_S, Shard, files

SEGMENT = 64 << 10
ASYNC = Durability.DURABILITY_ASYNC
MEMORY = Durability.DURABILITY_MEMORY


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return Shard(tmp_path / "000", segment_octets=SEGMENT)


def open_journal(folder: Path, **options: int) -> Journal:
    folder.mkdir()
    slab = Slab.create(1)
    counters = slab.region(0)
    slab.close()
    return Journal(str(folder), 0, SEGMENT, counters, CallbackTaker(lambda message: None), **options)  # type: ignore[arg-type]


def serials(segments: list[Segment]) -> list[int]:
    return [segment.serial for segment in segments]


def records_of(segment: Segment) -> list[tuple[int, int]]:
    """(type, id) of every record in a segment, as the plain decoder reads them."""
    return [(record.type, record.id) for _, record in walk_segment(Path(segment.path).read_bytes())]


# ---------------------------------------------------------------- commit


def test_receiver_and_taker_are_called_in_order_when_the_record_is_on_disk(shard: Shard) -> None:
    calls: list[tuple[str, int]] = []

    def told(message: Message, error: int) -> None:
        assert error == 0
        assert shard.count(Slot.QUEUE_SYNCS_TOTAL) > 0
        assert message.segment is not None
        on_disk = Path(message.segment.path).read_bytes()[message.offset_octets :][: message.record_octets]
        assert load_message(on_disk).mail_data() == b"number %d" % len(calls)
        calls.append(("told", message.id))

    def take(message: Message) -> None:
        calls.append(("taken", message.id))

    folder = shard.folder.parent / "001"
    folder.mkdir()
    journal = Journal(str(folder), 1, SEGMENT, shard.counters, CallbackTaker(take))
    shard.journal = journal
    messages = [shard.make(b"number %d" % i) for i in (0, 2, 4)]
    for message in messages:
        journal.append(message, CallbackReceiver(told))
        assert journal.waiting > 0
    assert calls == []
    shard.settle()
    assert calls == [(what, message.id) for message in messages for what in ("told", "taken")]


def test_without_a_receiver_the_message_is_taken(shard: Shard) -> None:
    message = shard.make(b"from within")
    shard.journal.append(message, None)
    shard.settle()
    assert shard.taken == [message]


def test_a_call_too_early_tells_nobody(shard: Shard) -> None:
    shard.journal.on_commit()
    assert shard.told == []


def test_many_appends_share_few_syncs(shard: Shard) -> None:
    shard.accept(b"first")
    asked: list[object] = []
    shard.journal.kick_later = asked.append
    before = shard.count(Slot.QUEUE_SYNCS_TOTAL)
    messages = [shard.append(b"message %d" % i) for i in range(600)]
    assert len(asked) == 1
    assert shard.journal.waiting <= 600
    shard.journal.kick()
    shard.settle()
    assert [message for message, _ in shard.told[1:]] == messages
    assert {error for _, error in shard.told} == {0}
    assert shard.taken[1:] == messages
    assert 1 <= shard.count(Slot.QUEUE_SYNCS_TOTAL) - before <= 20
    assert shard.count(Slot.QUEUE_COMMIT_RECORDS) == 601
    shard.append(b"after")
    assert len(asked) == 2  # the next commit is asked for anew


def test_octets_written_are_counted(shard: Shard) -> None:
    message = shard.accept(b"x" * 1000)
    shard.journal.done(message)
    shard.flush()
    header = len(segment_header(0, 1, 1, SEGMENT, shard.journal.ledger))
    assert shard.count(Slot.QUEUE_JOURNAL_WRITTEN_OCTETS) == header + message.record_octets + 36


# ---------------------------------------------------------------- durability classes


def test_async_is_told_when_written_and_synced_in_time(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "000", sync_interval_s=3600)
    message = shard.accept(b"async", durability=ASYNC)
    assert shard.told == [(message, 0)]
    assert shard.count(Slot.QUEUE_SYNCS_TOTAL) == 0
    assert records_of(shard.journal.segments[-1]) == [(ACCEPTED, message.id)]
    soon = Shard(tmp_path / "001", sync_interval_s=0.02)
    soon.accept(b"async", durability=ASYNC)
    while soon.count(Slot.QUEUE_SYNCS_TOTAL) == 0:
        soon.one_commit()
    # an interval that is made shorter holds for what waits already
    assert shard.count(Slot.QUEUE_SYNCS_TOTAL) == 0
    shard.journal.set_sync_interval(0.02)
    while shard.count(Slot.QUEUE_SYNCS_TOTAL) == 0:
        shard.one_commit()


def test_fsync_takes_async_records_along(shard: Shard) -> None:
    first = shard.append(b"async", durability=ASYNC)
    second = shard.append(b"fsync")
    shard.settle()
    assert shard.told == [(first, 0), (second, 0)]
    assert shard.count(Slot.QUEUE_SYNCS_TOTAL) >= 1


def test_class_memory_is_written_only_when_the_first_attempt_did_not_deliver(shard: Shard) -> None:
    dispatcher = Dispatcher(shard.counters, EventLog(None, shard.counters))
    dispatcher.journals[0] = shard.journal
    dispatcher.stopped = True  # what is ours waits
    intake = JournalIntake(dispatcher, [shard.journal])
    message = shard.make(b"memory", durability=MEMORY)
    intake.submit(message, shard.receiver)
    assert shard.told == [(message, 0)]
    assert message.segment is None
    assert shard.journal.segments == []
    with pytest.raises(JournalFailed):
        shard.journal.read_record(message)
    dispatcher.persist(message)
    shard.settle()
    assert shard.count(Slot.QUEUE_SYNCS_TOTAL) == 1
    assert load_message(shard.journal.read_record(message)).mail_data() == b"memory"
    assert len(dispatcher.table) == 1


# ---------------------------------------------------------------- records


def attempt(shard: Shard, message: Message, number: int, text: bytes, state: int = 2, index: int = 0) -> None:
    message.set_recipient_state(index, state)
    message.set_attempts(number)
    shard.journal.append_outcome(
        message,
        [(index, state, 451, text)],
        attempted=1_800_000_000.0 + number,
        attempt=number,
        next_attempt=1_800_000_100.0 + number,
        next_hop=b"mx",
        host=b"mx%d.example.net[192.0.2.1]:25" % number,
    )


def told(shard: Shard, message: Message) -> list[tuple[int, bytes, bytes]]:
    return [
        (outcome.attempt, outcome.host.partition(b".")[0], text)
        for outcome in shard.journal.read_outcomes(message)
        for _, _, _, text in outcome.entries
    ]


def test_all_attempts_can_be_read_back_before_and_after_they_are_on_disk(shard: Shard) -> None:
    first, second = shard.accept(b"first"), shard.accept(b"second")
    assert shard.journal.read_outcomes(first) == []
    for number in range(1, 5):
        attempt(shard, first, number, b"first %d" % number)
        attempt(shard, second, number, b"x" * 990 + b"%d" % number)  # more than is read at once
        if number == 2:
            shard.accept(b"")  # with it, the first two are on disk
    for journal_of in (shard, None):
        if journal_of is None:
            shard.journal.close()
            shard = Shard(shard.folder, segment_octets=SEGMENT)
            first, second = shard.table.get(first.id), shard.table.get(second.id)  # type: ignore[assignment]
        assert told(shard, first) == [(i, b"mx%d" % i, b"first %d" % i) for i in range(1, 5)]
        assert told(shard, second) == [(i, b"mx%d" % i, b"x" * 990 + b"%d" % i) for i in range(1, 5)]
        assert shard.journal.last_replies(first) == {0: (451, b"first 4")}


def test_the_newest_attempts_are_read_whatever_their_number(shard: Shard) -> None:
    message = shard.accept(b"mail", recipients=2)
    for number in range(1, MOST_KEPT + 10):
        attempt(shard, message, number, b"a%d" % number)
        attempt(shard, message, number, b"b%d" % number, index=1)
    outcomes = shard.journal.read_outcomes(message)
    assert [outcome.attempt for outcome in outcomes] == [i for i in range(10, MOST_KEPT + 10) for _ in range(2)]
    assert len(shard.journal.read_outcomes(message, most=3)) == 6


def test_a_recipient_for_whom_it_has_ended_is_in_one_record_and_counted_once(shard: Shard) -> None:
    message = shard.accept(b"mail", recipients=3)
    message.set_recipient_state(0, 1)  # without a reply that anybody kept
    attempt(shard, message, 1, b"later", index=1)
    attempt(shard, message, 2, b"never", state=3, index=1)
    attempt(shard, message, 3, b"later", index=2)
    shard.flush()
    records = [record for _, record in walk_segment(Path(shard.journal.segments[0].path).read_bytes())][1:]
    assert [record.ended for record in records] == [(1, 0, 0), (0, 1, 0), (0, 0, 0)]
    assert [[index for index, *_ in record.entries] for record in records] == [[1, 0], [1], [2]]


def test_a_chain_whose_record_is_harmed_ends_there(shard: Shard) -> None:
    message = shard.accept(b"mail")
    for number in range(1, 4):
        attempt(shard, message, number, b"text %d" % number)
    shard.accept(b"")
    path = Path(shard.journal.segments[0].path)
    octets = path.read_bytes()
    path.write_bytes(octets.replace(b"text 2", b"text 7"))
    assert told(shard, message) == [(3, b"mx3", b"text 3")]


def test_outcomes_lost_in_a_failed_write_are_written_again(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path / "000")
    shard = Shard(tmp_path / "000", segment_octets=SEGMENT, disk=disk.disk)
    message = shard.accept(b"mail")
    attempt(shard, message, 1, b"one")
    shard.accept(b"")
    disk.fail = lambda kind, name: errno.EIO if kind == "write" else 0
    attempt(shard, message, 2, b"two")
    attempt(shard, message, 3, b"three")
    shard.flush()
    assert shard.journal.failed == errno.EIO
    with pytest.raises(JournalFailed):
        attempt(shard, message, 4, b"four")
    disk.fail = lambda kind, name: 0
    assert shard.journal.heal()
    attempt(shard, message, 4, b"four")
    every = [(i, b"mx%d" % i, text) for i, text in enumerate((b"one", b"two", b"three", b"four"), 1)]
    assert told(shard, message) == every
    shard.flush()
    after = SimulatedDisk(tmp_path / "000", disk.state_at(len(disk.events)).killed())
    again = Shard(tmp_path / "000", segment_octets=SEGMENT, disk=after.disk)
    found = again.table.get(message.id)
    assert found is not None
    assert told(again, found) == every
    assert disk.violations == after.violations == []


def test_small_records_stand_behind_their_message(shard: Shard) -> None:
    message = shard.accept(b"mail", recipients=3)
    long_text = b"4.7.1 " + b"later " * 160
    body = encode_outcome(1, 1_800_000_060.0, [(0, 2, 451, long_text), (2, 1, 250, b"2.0.0 ok")])
    assert len(body) > 512  # larger than what a small record usually takes
    shard.journal.append_record(RecordType.RECORD_OUTCOME, message.id, body)
    shard.journal.append_record(RecordType.RECORD_HOLD, message.id, b"")
    shard.journal.append_record(RecordType.RECORD_RELEASE, message.id, b"")
    shard.journal.done(message)
    shard.flush()
    found = [record for _, record in walk_segment(Path(shard.journal.segments[0].path).read_bytes())]
    assert [(record.type, record.id) for record in found] == [(kind, message.id) for kind in (1, 2, 4, 5, 3)]
    assert found[0].mail_data == b"mail"
    assert (found[1].attempts, found[1].next_attempt_us) == (1, 1_800_000_060_000_000)
    assert found[1].entries == [(0, 2, 451, long_text), (2, 1, 250, b"2.0.0 ok")]
    assert message.state == MessageState.MESSAGE_GONE
    assert message.segment is None


def test_done_for_a_message_that_never_was_in_the_journal_writes_nothing(shard: Shard) -> None:
    message = shard.make(b"memory", durability=MEMORY)
    shard.journal.done(message)
    assert message.state == MessageState.MESSAGE_GONE
    assert shard.journal.segments == []


def test_records_come_back_from_disk(shard: Shard) -> None:
    messages = [shard.append(os.urandom(3000)) for _ in range(30)]
    shard.settle()
    for message in messages:
        assert message.buffer is not None
        assert shard.journal.read_record(message) == message.buffer.record()


# ---------------------------------------------------------------- ids


def test_ids_only_rise_and_name_their_shard(tmp_path: Path) -> None:
    shard = Shard(tmp_path / "007", shard=7)
    found = [shard.journal.new_id() for _ in range(1000)]
    assert found == sorted(set(found))
    assert {shard_of(number) for number in found} == {7}


def test_ids_rise_over_what_was_there_before_even_if_the_clock_went_back(tmp_path: Path) -> None:
    last = (1 << 63) | 12345
    assert open_journal(tmp_path / "000", last_id=last).new_id() == last + 1


# ---------------------------------------------------------------- segments


def test_headers_come_back_and_harm_is_noticed() -> None:
    header = segment_header(3, 9, 7, SEGMENT)
    assert read_segment_header(header) == read_segment_header(header + bytes(4048)) == (3, 9, 7, SEGMENT)
    found = decode_segment_header(header)
    assert (found.shard, found.serial, found.oldest_serial, found.size) == (3, 9, 7, SEGMENT)
    for position in range(len(header)):
        for bit in range(8):
            harmed = bytearray(header)
            harmed[position] ^= 1 << bit
            assert read_segment_header(bytes(harmed)) is None
    assert read_segment_header(header[:-1]) is None
    assert read_segment_header(b"") is None


def test_segments_rotate_and_say_what_is_the_oldest_alive(shard: Shard) -> None:
    messages = [shard.accept(bytes(20_000)) for _ in range(10)]  # three to a segment
    segments = shard.journal.segments
    assert serials(segments) == [1, 2, 3, 4]
    assert [segment.sealed for segment in segments] == [True, True, True, False]
    assert [segment.alive for segment in segments] == [3, 3, 3, 1]
    assert [segment.alive_octets for segment in segments] == [3 * messages[0].record_octets] * 3 + [
        messages[0].record_octets
    ]
    for segment in segments:
        assert os.path.getsize(segment.path) == SEGMENT == segment.size
        head = decode_segment_header(Path(segment.path).read_bytes())
        assert (head.shard, head.serial, head.oldest_serial, head.size) == (0, segment.serial, 1, SEGMENT)
        assert segment.used <= segment.size
    assert [entry for segment in segments for entry in records_of(segment)] == [(ACCEPTED, m.id) for m in messages]
    assert shard.count(Slot.QUEUE_SEGMENTS_CREATED) == 4
    assert shard.journal.octets_on_disk == 4 * SEGMENT


def test_segments_are_used_again_oldest_first(shard: Shard) -> None:
    messages = [shard.accept(bytes(20_000)) for _ in range(12)]
    segments = list(shard.journal.segments)
    for message in messages[3:6]:  # all of the second
        shard.journal.done(message)
    assert shard.journal.spares == []  # the first is older, and alive
    for message in messages[:3]:
        shard.journal.done(message)
    assert shard.journal.spares == segments[:2]
    assert serials(shard.journal.segments)[0] == 3
    old_paths = [segment.path for segment in segments[:2]]
    later = [shard.accept(bytes(20_000)) for _ in range(6)]
    again = [segment for segment in shard.journal.segments if segment.path in old_paths]
    assert [segment.path for segment in again] == old_paths
    assert serials(again) == sorted(serials(again))
    assert serials(shard.journal.segments) == sorted(serials(shard.journal.segments))
    for segment in again:
        head = decode_segment_header(Path(segment.path).read_bytes())
        assert (head.serial, head.oldest_serial) == (segment.serial, 3)
    new_ids = {message.id for message in later}
    assert {number for segment in again for kind, number in records_of(segment) if kind == ACCEPTED} <= new_ids
    assert shard.count(Slot.QUEUE_SEGMENTS_RECYCLED) == 2


def test_a_flow_of_messages_lives_in_a_few_files(shard: Shard) -> None:
    for _ in range(100):
        shard.journal.done(shard.accept(bytes(20_000)))
    assert len(list(shard.folder.glob("*.segment"))) <= 3
    assert shard.count(Slot.QUEUE_SEGMENTS_CREATED) <= 3
    assert shard.count(Slot.QUEUE_SEGMENTS_RECYCLED) >= 30


def test_spare_files_are_bounded(tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "000", most_spares=2)
    shard = Shard(tmp_path / "001", segment_octets=SEGMENT)
    shard.journal = journal
    messages = [shard.append(bytes(20_000)) for _ in range(30)]
    shard.settle()
    assert len(journal.segments) == 10
    for message in messages:
        journal.done(message)
    assert len(journal.spares) == 2
    shard.accept(b"the next commit writes that they are not needed, and they go")
    on_disk = {str(path) for path in (tmp_path / "000").glob("*.segment")}
    assert on_disk == {segment.path for segment in journal.spares + journal.segments}
    assert journal.octets_on_disk == len(on_disk) * SEGMENT
    assert serials(journal.spares) == sorted(serials(journal.spares))


def test_a_message_larger_than_a_segment_has_a_file_of_its_own(shard: Shard) -> None:
    small = shard.accept(b"small")
    large = shard.accept(os.urandom(3 * SEGMENT))
    after = shard.accept(b"after")
    assert large.segment is not None
    path = large.segment.path
    assert large.segment.size == 4096 + large.record_octets == os.path.getsize(path)
    assert records_of(large.segment) == [(ACCEPTED, large.id)]
    assert [small.segment, large.segment, after.segment] == shard.journal.segments
    assert large.buffer is not None
    assert shard.journal.read_record(large) == large.buffer.record()
    shard.journal.done(small)
    shard.journal.done(large)
    shard.journal.sync()
    assert not os.path.exists(path)
    assert shard.journal.spares == []  # it goes, and with it what is older
    assert [segment.serial for segment in shard.journal.segments] == [3]


@pytest.mark.parametrize("octets", [SEGMENT - 4096, SEGMENT - 4097, SEGMENT - 4095])
def test_a_record_that_just_fits_and_one_that_just_does_not(shard: Shard, octets: int) -> None:
    overhead = shard.make(b"").record_octets
    message = shard.accept(bytes(octets - overhead))
    assert message.record_octets == octets
    assert message.segment is not None
    assert message.segment.size == max(SEGMENT, 4096 + octets)
    assert len(load_message(shard.journal.read_record(message)).mail_data()) == octets - overhead


def test_a_file_that_goes_is_not_touched_any_more(tmp_path: Path) -> None:
    """Its descriptor must outlive the commit thread's last use of it, or the sync hits a stranger's file."""
    shard = Shard(tmp_path / "000", segment_octets=SEGMENT, sync_interval_s=0.05)
    for _ in range(5):
        large = shard.accept(bytes(2 * SEGMENT), durability=ASYNC)  # written, not synced
        shard.journal.done(large)
        last = shard.append(b"async", durability=ASYNC)
        before = shard.count(Slot.QUEUE_SYNCS_TOTAL)
        while shard.count(Slot.QUEUE_SYNCS_TOTAL) == before and not shard.journal.failed:
            shard.one_commit()
        assert shard.journal.failed == 0
        assert shard.told[-1] == (last, 0)
        shard.journal.done(last)
    shard.accept(b"fsync")
    shard.journal.on_commit()
    assert len(os.listdir(shard.folder)) <= 4
    open_paths = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
    assert not [path for path in open_paths if path.startswith(str(shard.folder)) and path.endswith("(deleted)")]


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_a_spare_is_prepared_and_used(shard: Shard) -> None:
    assert shard.journal.wants_spare
    spare = shard.journal.make_spare()
    shard.journal.prepare_spare(spare)
    shard.journal.add_spare(spare)
    assert not shard.journal.wants_spare
    assert Path(spare.path).read_bytes() == bytes(SEGMENT)
    message = shard.accept(b"mail")
    assert message.segment is spare
    assert shard.journal.spares == []
    assert shard.count(Slot.QUEUE_SEGMENTS_CREATED) == 1


def test_a_spare_that_cannot_be_made_ready_is_not_left_behind(tmp_path: Path) -> None:
    refuse = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda fd: -errno.EIO)
    disk = Disk.from_functions(refuse, sync_data=ctypes.cast(refuse, ctypes.c_void_p).value)
    shard = Shard(tmp_path / "000", segment_octets=SEGMENT, disk=disk)
    spare = shard.journal.make_spare()
    with pytest.raises(OSError, match="Input/output error"):
        shard.journal.prepare_spare(spare)
    assert not Path(spare.path).exists()


# ---------------------------------------------------------------- the in-flight table


def test_in_flight_is_marked_and_cleared_after_the_done_record_was_written(shard: Shard) -> None:
    table = str(shard.folder / "in-flight")
    dispatcher = Dispatcher(shard.counters, EventLog(None, shard.counters))
    dispatcher.journals[0] = shard.journal
    first, second, third = (shard.accept(b"mail %d" % i) for i in range(3))
    assert read_in_flight(table) == []
    for message in (first, second, third, first):
        dispatcher.mark_in_flight(message)
    assert sorted(read_in_flight(table)) == sorted([first.id, second.id, third.id])
    shard.journal.settle_in_flight(second)  # deferred: its final reply was seen
    shard.journal.settle_in_flight(second)
    shard.journal.done(first)
    assert first.id in read_in_flight(table)  # until on_commit has heard that the record is written
    shard.flush()
    assert read_in_flight(table) == [third.id]
    assert records_of(shard.journal.segments[0])[-1] == (DONE, first.id)


def test_a_full_in_flight_table_leaves_the_rest_unmarked(shard: Shard) -> None:
    dispatcher = Dispatcher(shard.counters, EventLog(None, shard.counters))
    dispatcher.journals[0] = shard.journal
    messages = [shard.append(b"") for _ in range(4100)]
    shard.settle()
    for message in messages:
        dispatcher.mark_in_flight(message)
    table = str(shard.folder / "in-flight")
    assert sorted(read_in_flight(table)) == [message.id for message in messages[:4096]]
    for message in messages:
        shard.journal.done(message)
    shard.flush()
    assert read_in_flight(table) == []


def test_what_was_in_flight_is_in_doubt_after_a_crash(shard: Shard, tmp_path: Path) -> None:
    dispatcher = Dispatcher(shard.counters, EventLog(None, shard.counters))
    dispatcher.journals[0] = shard.journal
    first, second, third = (shard.accept(b"mail %d" % i) for i in range(3))
    dispatcher.mark_in_flight(first)
    dispatcher.mark_in_flight(second)
    shard.journal.done(second)  # written before the crash, cleared from the table after it
    shard.journal.flush()
    shard.accept(b"fourth")
    image = shard.copy(tmp_path / "crashed")
    (image / "in-flight").write_bytes(b"".join(n.to_bytes(8, "little") for n in (0, first.id, second.id)))
    after = Shard(image, segment_octets=SEGMENT)
    assert after.report.in_doubt == [first.id]
    assert after.table.get(third.id) is not None
    assert read_in_flight(str(image / "in-flight")) == [first.id]  # still, should it crash again now
    doubtful = after.table.get(first.id)
    assert doubtful is not None
    after.journal.done(doubtful)
    after.flush()
    assert read_in_flight(str(image / "in-flight")) == []


# ---------------------------------------------------------------- the end


def test_close_writes_what_is_pending_and_tells_who_waits(shard: Shard, tmp_path: Path) -> None:
    first = shard.accept(b"first")
    shard.journal.kick_later = lambda kick: None  # nobody kicks
    second = shard.append(b"second", durability=ASYNC)
    third = shard.append(b"third")
    shard.journal.append_record(RecordType.RECORD_OUTCOME, first.id, encode_outcome(1, 0.0, []))
    shard.journal.done(first)
    shard.journal.close()
    assert shard.told == [(first, 0), (second, 0), (third, 0)]
    again = Shard(shard.folder, segment_octets=SEGMENT)
    assert {message.id for message in again.table} == {second.id, third.id}
    assert again.report.harmed == []
    assert [record for record in records_of(again.journal.segments[0]) if record[0] in (OUTCOME, DONE)] == [
        (OUTCOME, first.id),
        (DONE, first.id),
    ]


def test_a_closed_journal_takes_nothing(shard: Shard) -> None:
    message = shard.accept(b"mail")
    other = shard.make(b"other")
    dispatcher = Dispatcher(shard.counters, EventLog(None, shard.counters))
    dispatcher.journals[0] = shard.journal
    shard.journal.close()
    shard.journal.close()
    for attempt in (
        lambda: shard.journal.append(other, None),
        lambda: shard.journal.append_record(RecordType.RECORD_HOLD, message.id, b""),
        lambda: shard.journal.done(message),
    ):
        with pytest.raises(JournalFailed) as refused:
            attempt()
        assert refused.value.errno == errno.EBADF
    dispatcher.mark_in_flight(message)
    shard.journal.settle_in_flight(message)
    shard.journal.on_commit()
    shard.journal.kick()
    shard.journal.flush()
    assert shard.journal.waiting == 0


def test_a_journal_that_is_dropped_leaves_no_descriptor_and_no_memory(tmp_path: Path) -> None:
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    octets = memory_octets()
    shard = Shard(tmp_path / "000")
    shard.accept(b"mail")
    shard.accept(bytes(200_000))
    del shard
    gc.collect()
    assert memory_octets() == octets
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_references_are_balanced(shard: Shard) -> None:
    message = shard.make(b"mail")
    before = sys.getrefcount(message)
    receiver_before = sys.getrefcount(shard.receiver)
    shard.journal.append(message, shard.receiver)
    shard.settle()
    shard.told.clear()
    shard.taken.clear()
    after = sys.getrefcount(message)
    receiver_after = sys.getrefcount(shard.receiver)
    assert (after, receiver_after) == (before, receiver_before)
    shard.journal.done(message)
    shard.flush()
    after = sys.getrefcount(message)
    assert after == before


def test_only_segments_and_the_table_lie_in_the_folder(shard: Shard) -> None:
    shard.accept(b"mail")
    found = files(shard.folder)
    assert sorted(found) == ["000000.segment", "in-flight"]
    assert len(found["in-flight"]) == 4096 * 8
    for path in shard.folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0


def test_those_who_wait_for_one_commit_are_told_in_their_order_some_in_each_turn(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path / "000")
    shard = Shard(tmp_path / "000", segment_octets=SEGMENT, disk=disk.disk)
    shard.accept(b"")
    syncing, may_sync = threading.Event(), threading.Semaphore(0)

    def sync_when_told(kind: str, _: str) -> int:
        if kind == "sync":
            syncing.set()
            assert may_sync.acquire(timeout=WAIT_S)
        return 0

    disk.fail = sync_when_told
    shard.journal.telling_s = 0.0
    shard.told.clear()
    commits = shard.count(Slot.QUEUE_COMMITS_TOTAL)
    messages = [shard.append(b"first")]
    assert syncing.wait(WAIT_S)
    messages += [shard.append(b"%d\r\n" % number) for number in range(100)]  # they gather meanwhile
    may_sync.release()
    shard.one_commit()
    told = [len(shard.told)]
    may_sync.release()
    while shard.journal.waiting:
        shard.one_commit()  # it is called again as long as somebody waits
        told.append(len(shard.told))
    assert told == [1, 34, 67, 100, 101], "the clock is looked at behind the first of them"
    assert [message.id for message, _ in shard.told] == [message.id for message in messages]
    assert {error for _, error in shard.told} == {0}
    assert shard.count(Slot.QUEUE_COMMITS_TOTAL) == commits + 2
    may_sync.release(3)  # for the end
    assert disk.violations == []


def test_a_journal_that_is_closed_tells_everybody(shard: Shard) -> None:
    shard.journal.kick_later = lambda kick: None
    shard.journal.telling_s = 0.0
    for number in range(100):
        shard.append(b"%d\r\n" % number)
    shard.journal.close()
    assert len(shard.told) == 100
