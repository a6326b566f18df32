"""Opening a shard: what was acknowledged is there, what is torn is said, no file that may hold mail is thrown away."""

from __future__ import annotations

from pathlib import Path

import pytest

from angarium._core.journal import segment_header
from angarium._core.outcome_record import encode_outcome
from angarium._core.record import (
    Message,
    MessageFlag,
    MessageState,
    RecordType,
    format_id,
    load_message,
    make_accepted,
    new_message,
)
from tests.reference.record import ACCEPTED, DONE, encode_record
from tests.support.journal import Shard, files

SEGMENT = 64 << 10


def open_shard(folder: Path) -> Shard:
    return Shard(folder, segment_octets=SEGMENT)


def ids(shard: Shard) -> set[int]:
    return {message.id for message in shard.table}


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return open_shard(tmp_path / "000")


def test_an_empty_folder_is_an_empty_shard(shard: Shard) -> None:
    assert (shard.report.messages, shard.report.segments, shard.report.harmed, shard.report.in_doubt) == (0, 0, [], [])
    assert len(shard.table) == 0
    assert shard.journal.segments == []


def test_everything_that_is_known_of_a_message_comes_back(shard: Shard) -> None:
    message = shard.accept(b"mail data", recipients=3)
    entries = [(0, 1, 250, b"2.0.0 ok"), (1, 2, 451, b"4.7.1 later"), (2, 5, 0, b"")]
    for index, state, _, _ in entries:
        message.set_recipient_state(index, state)
    message.set_attempts(4)
    shard.journal.append_outcome(
        message,
        entries,
        attempted=1_800_000_000.5,
        attempt=4,
        next_attempt=1_800_000_060.25,
        next_hop=b"mx",
        host=b"mx.example.net[192.0.2.1]:25",
        source=b"a7",
        pool=b"bulk",
    )
    shard.journal.append_record(RecordType.RECORD_HOLD, message.id, b"")
    shard.journal.close()
    again = open_shard(shard.folder)
    found = again.table.get(message.id)
    assert found is not None
    assert [found.recipient_state(i) for i in range(3)] == [1, 2, 5]
    assert again.journal.last_replies(found) == {1: (451, b"4.7.1 later"), 2: (0, b"")}
    (outcome,) = again.journal.read_outcomes(found)
    assert outcome == (
        1_800_000_000.5,
        4,
        4,
        1_800_000_060.25,
        b"mx",
        b"mx.example.net[192.0.2.1]:25",
        entries,
        b"a7",
        b"bulk",
    )
    assert (found.attempts, found.next_attempt) == (4, pytest.approx(1_800_000_060.25))
    assert found.state == MessageState.MESSAGE_HELD
    assert found.in_doubt
    assert found.received_us == message.received_us
    assert found.buffer is None
    assert load_message(again.journal.read_record(found)).mail_data() == b"mail data"
    assert (again.report.messages, again.report.segments) == (1, 1)


def test_a_message_that_is_to_wait_waits_after_a_restart_too(shard: Shard) -> None:
    release = 1_900_000_000
    envelope = {"recipients": [(b"a@example.net", 0, b"")], "received_us": 1_800_000_000_000_000, "hold_until": release}
    messages = [new_message(make_accepted(envelope, b"mail", shard.journal.new_id())) for _ in range(2)]
    for message in messages:
        shard.journal.append(message, shard.receiver)
    shard.settle()
    # one has had its time, and an attempt behind it
    shard.journal.append_record(
        RecordType.RECORD_OUTCOME, messages[1].id, encode_outcome(1, release + 60.0, [(0, 2, 451, b"later")])
    )
    shard.journal.close()
    table = open_shard(shard.folder).table
    found = [table.get(message.id) for message in messages]
    assert [message.next_attempt for message in found if message] == [release, release + 60]
    assert [message.received_us for message in found if message] == [release * 1_000_000] * 2


def test_what_is_unusual_is_held_after_a_restart_unless_it_was_released(shard: Shard) -> None:
    envelope = {"recipients": [(b"a@example.net", 0, b"")], "flags": MessageFlag.MESSAGE_UNUSUAL}
    held, released = (new_message(make_accepted(envelope, b"mail", shard.journal.new_id())) for _ in range(2))
    for message in (held, released):
        shard.journal.append(message, shard.receiver)
    shard.settle()
    shard.journal.append_record(RecordType.RECORD_RELEASE, released.id, b"")
    shard.journal.close()
    table = open_shard(shard.folder).table
    found = [table.get(message.id) for message in (held, released)]
    assert [message.state for message in found if message] == [
        MessageState.MESSAGE_HELD,
        MessageState.MESSAGE_COMMITTING,
    ]
    assert [message.flags for message in found if message] == [MessageFlag.MESSAGE_UNUSUAL, 0]


def test_a_recipient_in_doubt_keeps_the_message_in_doubt(shard: Shard) -> None:
    message = shard.accept(b"mail", recipients=2)
    for attempts, entries in ((1, [(0, 5, 0, b"")]), (2, [(1, 2, 451, b"later")])):
        shard.journal.append_record(RecordType.RECORD_OUTCOME, message.id, encode_outcome(attempts, 0.0, entries))
    shard.journal.close()
    found = open_shard(shard.folder).table.get(message.id)
    assert found is not None
    assert found.recipient_state(0) == 5
    assert found.in_doubt


def test_ids_go_on_above_those_that_were_used(shard: Shard) -> None:
    last = shard.accept(b"mail")
    shard.journal.done(last)
    shard.journal.close()
    assert open_shard(shard.folder).journal.new_id() > last.id


def test_old_segments_are_used_again_when_nothing_in_them_lives(shard: Shard) -> None:
    messages = [shard.accept(bytes(20_000)) for _ in range(7)]
    for message in messages[:6]:
        shard.journal.done(message)
    for _ in range(3):
        shard.accept(bytes(20_000))  # into a segment with a new header, which says what is the oldest
    shard.journal.close()
    again = open_shard(shard.folder)
    assert len(ids(again)) == 4
    assert messages[6].id in ids(again)
    assert len(again.journal.segments) + len(again.journal.spares) == len(list(shard.folder.glob("*.segment")))
    spare_paths = [segment.path for segment in again.journal.spares]
    assert spare_paths
    assert [segment.serial for segment in again.journal.segments] == [3, 4]
    message = again.accept(b"next")
    assert message.segment is not None
    assert message.segment.path == spare_paths[0]


def test_torn_mail_data_is_said_and_stays_away_for_good(shard: Shard, tmp_path: Path) -> None:
    first = shard.accept(b"first")
    torn = shard.accept(b"x" * 5000)
    after = shard.accept(b"after")
    assert torn.segment is not None
    image = shard.copy(tmp_path / "image")
    path = image / Path(torn.segment.path).name
    octets = bytearray(path.read_bytes())
    octets[torn.offset_octets + torn.record_octets - 100] ^= 1
    path.write_bytes(octets)
    again = open_shard(image)
    assert ids(again) == {first.id, after.id}
    (line,) = again.report.harmed
    assert path.name in line
    assert format_id(torn.id) in line
    assert f"{torn.record_octets} octets at {torn.offset_octets}" in line
    # later, when its segment is no longer among those that are verified, it still is not there
    for _ in range(10):
        again.accept(bytes(20_000))
    known = ids(again) | {message.id for message in again.taken}
    again.journal.close()
    assert ids(open_shard(image)) == known


def test_a_torn_index_part_costs_what_is_torn(shard: Shard, tmp_path: Path) -> None:
    messages = [shard.accept(b"message %d" % i) for i in range(3)]
    assert messages[1].segment is not None
    image = shard.copy(tmp_path / "image")
    path = image / Path(messages[1].segment.path).name
    octets = bytearray(path.read_bytes())
    octets[messages[1].offset_octets + 45] ^= 0x80
    path.write_bytes(octets)
    again = open_shard(image)
    assert ids(again) == {messages[0].id, messages[2].id}
    assert len(again.report.harmed) == 1


def test_records_within_the_mail_data_of_a_torn_message_are_none(shard: Shard, tmp_path: Path) -> None:
    victim = shard.accept(b"victim")
    smuggled = encode_record(DONE, victim.id, 1, b"") + encode_record(
        ACCEPTED, 77, 1, shard.make(b"").buffer.record()[36:]
    )  # type: ignore[union-attr]
    carrier = shard.accept(smuggled + b"x" * 100)
    assert carrier.segment is not None
    image = shard.copy(tmp_path / "image")
    path = image / Path(carrier.segment.path).name
    octets = bytearray(path.read_bytes())
    octets[carrier.offset_octets + carrier.record_octets - 1] ^= 1  # what was being written is torn
    path.write_bytes(octets)
    assert ids(open_shard(image)) == {victim.id}


def test_what_is_left_of_an_older_life_does_not_count(shard: Shard) -> None:
    """A file is used again for few records; behind them stand whole records of before."""
    for _ in range(30):
        shard.journal.done(shard.accept(bytes(3000)))
    last = shard.accept(b"last")
    shard.journal.close()
    again = open_shard(shard.folder)
    assert ids(again) == {last.id}
    assert again.report.harmed == []


@pytest.mark.parametrize("garbage", [b"garbage" * 9000, b"ANR1" * 15000, b"\0" * 10 + b"ANS1" * 10])
def test_a_file_with_a_strange_header_is_left_alone_and_said(shard: Shard, garbage: bytes) -> None:
    message = shard.accept(b"mail")
    shard.journal.close()
    octets = garbage[:SEGMENT].ljust(SEGMENT, b"\0")
    strange = shard.folder / "000007.segment"
    strange.write_bytes(octets)
    again = open_shard(shard.folder)
    assert ids(again) == {message.id}
    assert [line for line in again.report.harmed if strange.name in line and "left alone" in line]
    again.accept(b"more")
    assert strange.read_bytes() == octets


@pytest.mark.parametrize("change", ["version", "shard", "bit"])
def test_a_segment_of_another_version_or_shard_is_not_overwritten(shard: Shard, change: str) -> None:
    message = shard.accept(b"mail")
    shard.journal.close()
    (path,) = shard.folder.glob("*.segment")
    octets = bytearray(path.read_bytes())
    if change == "version":
        octets[8] = 2
    elif change == "shard":
        octets[: len(segment_header(5, 1, 1, SEGMENT))] = segment_header(5, 1, 1, SEGMENT)
    else:
        octets[20] ^= 4
    path.write_bytes(octets)
    again = open_shard(shard.folder)
    assert message.id not in ids(again)
    assert len(again.report.harmed) == 1
    for _ in range(10):
        again.journal.done(again.accept(bytes(20_000)))
    assert path.read_bytes() == octets


def test_a_file_that_was_made_and_never_used_becomes_a_spare(shard: Shard) -> None:
    shard.accept(b"mail")
    shard.journal.close()
    (shard.folder / "000009.segment").write_bytes(bytes(SEGMENT))
    (shard.folder / "000010.segment").write_bytes(bytes(100))  # it was not even allocated
    again = open_shard(shard.folder)
    assert [Path(segment.path).name for segment in again.journal.spares] == ["000009.segment"]
    assert not (shard.folder / "000010.segment").exists()
    assert again.report.harmed == []


def test_another_size_of_segments_keeps_the_old_ones_while_they_live(shard: Shard) -> None:
    messages = [shard.accept(bytes(20_000)) for _ in range(4)]
    shard.journal.close()
    again = Shard(shard.folder, segment_octets=2 * SEGMENT)
    assert ids(again) == {message.id for message in messages}
    old = [segment.path for segment in again.journal.segments]
    new = again.accept(bytes(20_000))
    for message in list(again.table):
        again.journal.done(message)
    again.journal.sync()
    assert not [path for path in old if Path(path).exists()]
    again.journal.close()
    assert ids(Shard(shard.folder, segment_octets=2 * SEGMENT)) == {new.id}


def test_opening_twice_changes_nothing(shard: Shard) -> None:
    for _ in range(5):
        shard.accept(bytes(20_000))
    shard.journal.close()
    before = files(shard.folder)
    for _ in range(3):
        again = open_shard(shard.folder)
        assert len(again.table) == 5
        again.journal.close()
    assert files(shard.folder) == before


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, shard: Shard) -> None:
    shard.journal.close()
    segment = shard.folder / "000000.segment"
    segment.mkdir()
    with pytest.raises(IsADirectoryError):
        open_shard(shard.folder)


# ---------------------------------------------------------------- damage


def spoil(image: Path, message: Message, at: int) -> None:
    """Change one octet of a record, counted from its beginning (or its end)."""
    assert message.segment is not None
    path = image / Path(message.segment.path).name
    octets = bytearray(path.read_bytes())
    octets[message.offset_octets + (at if at >= 0 else message.record_octets + at)] ^= 1
    path.write_bytes(octets)


@pytest.mark.parametrize("at", [0, 9, 30, 60, -100, -1], ids=["magic", "length", "id", "meta", "data", "end"])
def test_a_damaged_record_costs_that_record_alone_and_is_kept_aside(shard: Shard, tmp_path: Path, at: int) -> None:
    messages = [shard.accept(b"message %d" % i * 300) for i in range(9)]
    victim = messages[4]
    image, aside = shard.copy(tmp_path / "image"), tmp_path / "damaged"
    spoil(image, victim, at)
    again = Shard(image, segment_octets=SEGMENT, aside=aside)
    assert ids(again) == {message.id for message in messages} - {victim.id}
    (damage,) = again.report.damaged
    assert (damage.offset, damage.octets) == (victim.offset_octets, victim.record_octets)
    if at not in (0, 30):  # what is in the way of the id
        assert damage.name == victim.queue_id
    kept = Path(damage.kept)
    assert kept.parent == aside
    whole = shard.journal.read_record(victim)
    assert sum(a != b for a, b in zip(kept.read_bytes(), whole, strict=True)) == 1
    # it is written off: said once
    again.journal.close()
    later = Shard(image, segment_octets=SEGMENT, aside=aside)
    assert ids(later) == {message.id for message in messages} - {victim.id}
    if at not in (0, 30):
        assert later.report.damaged == []
        assert later.report.harmed == []


def test_a_damaged_record_of_a_message_that_is_done_is_no_loss(shard: Shard, tmp_path: Path) -> None:
    messages = [shard.accept(b"message %d" % i * 300) for i in range(9)]
    segment = messages[4].segment
    shard.journal.done(messages[4])
    shard.accept(b"after")
    image = shard.copy(tmp_path / "image")
    messages[4].segment = segment
    spoil(image, messages[4], -1)
    again = Shard(image, segment_octets=SEGMENT, aside=tmp_path / "damaged")
    assert again.report.damaged == again.report.harmed == []
    assert not (tmp_path / "damaged").exists()


def test_the_torn_end_of_what_was_written_is_not_damage(shard: Shard, tmp_path: Path) -> None:
    safe = shard.accept(b"safe")
    torn = shard.accept(b"x" * 5000)
    image = shard.copy(tmp_path / "image")
    spoil(image, torn, -1)
    again = Shard(image, segment_octets=SEGMENT, aside=tmp_path / "damaged")
    assert ids(again) == {safe.id}
    assert len(again.report.harmed) == 1
    assert again.report.damaged == []


def test_a_damaged_record_that_cannot_be_kept_aside_is_found_again(shard: Shard, tmp_path: Path) -> None:
    messages = [shard.accept(b"message %d" % i) for i in range(3)]
    image, aside = shard.copy(tmp_path / "image"), tmp_path / "damaged"
    spoil(image, messages[1], -1)
    aside.touch()
    again = Shard(image, segment_octets=SEGMENT, aside=aside)
    assert again.report.damaged == []
    assert [line for line in again.report.harmed if "cannot be kept aside" in line]
    again.journal.close()
    aside.unlink()
    later = Shard(image, segment_octets=SEGMENT, aside=aside)
    assert [damage.number for damage in later.report.damaged] == [messages[1].id]


def test_a_bounded_number_of_damaged_records_is_kept(
    shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("angarium.queue.damaged.MOST_KEPT", 2)
    messages = [shard.accept(b"message %d" % i) for i in range(5)]
    image, aside = shard.copy(tmp_path / "image"), tmp_path / "damaged"
    for message in messages[:4]:
        spoil(image, message, -1)
    again = Shard(image, segment_octets=SEGMENT, aside=aside)
    assert len(again.report.damaged) == len(list(aside.glob("*.record"))) == 2
    assert ids(again) == {messages[4].id}
