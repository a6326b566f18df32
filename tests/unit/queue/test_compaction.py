"""Compaction: what lives is copied and stays what it was, files come free, space stays within its bound."""

from __future__ import annotations

import asyncio
import errno
import tempfile
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from angarium._core.counters import Slot
from angarium._core.record import Message, MessageState, RecordType, load_message
from angarium.queue.compaction import LEEWAY, MOST, TRIGGER, Compactor, wants_compaction
from tests.reference.record import ACCEPTED, MOVED, walk_segment
from tests.support.clock import FakeClock
from tests.support.disk import SimulatedDisk
from tests.support.journal import Shard

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from angarium._core.disk import Disk

SEGMENT = 64 << 10
RATE = 1 << 40


class Bench:
    """A shard, and a compactor that works when it is told to."""

    def __init__(self, folder: Path, disk: Disk | None = None, rate: int = RATE) -> None:
        self.shard = Shard(folder, segment_octets=SEGMENT, disk=disk)
        self.journal = self.shard.journal
        for message in self.shard.taken:
            self.shard.table.insert(message)
        self.damaged: list[tuple[Message, str]] = []
        self.clock = FakeClock()
        self.compactor = Compactor(self.shard.table, self.clock, rate_octets=rate, damaged=self.take_out)

    def take_out(self, message: Message, why: str) -> None:
        self.damaged.append((message, why))
        self.done(message)

    def accept(self, octets: int, recipients: int = 1) -> Message:
        message = self.shard.accept(bytes((len(self.shard.told) % 251,)) * octets, recipients=recipients)
        message.buffer = None
        self.shard.table.insert(message)
        return message

    def tell(self, message: Message, attempt: int, states: dict[int, int]) -> None:
        for index, state in states.items():
            message.set_recipient_state(index, state)
        message.set_attempts(attempt)
        entries = [(index, state, 451, b"attempt %d" % attempt) for index, state in states.items()]
        self.journal.append_outcome(message, entries, attempted=1.0, attempt=attempt, next_attempt=1e9 + attempt)

    def done(self, message: Message) -> None:
        self.shard.table.discard(message)
        self.journal.done(message)

    def mail_data(self, message: Message) -> bytes:
        return load_message(self.journal.read_record(message)).mail_data()

    def run(self, work: Coroutine[None, None, None]) -> None:
        async def in_loop() -> None:
            loop = asyncio.get_running_loop()
            loop.add_reader(self.journal.event_fd, self.journal.on_commit)
            try:
                await asyncio.wait_for(work, 30)
            finally:
                loop.remove_reader(self.journal.event_fd)

        asyncio.run(in_loop())

    def compact(self) -> None:
        self.run(self.compactor.compact(self.journal))

    def check(self) -> None:
        """What the journal counts is what there is."""
        for segment in self.journal.segments:
            here = [message for message in self.shard.table if message.segment is segment]
            assert segment.alive == len(here)
            assert segment.alive_octets == sum(message.record_octets for message in here)
        assert self.shard.table.octets == sum(message.record_octets for message in self.shard.table)

    def reopened(self) -> Bench:
        self.journal.close()
        return Bench(self.shard.folder)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "000")


def one_that_lives_among(bench: Bench, many: int = 40, recipients: int = 1) -> Message:
    kept = bench.accept(1000, recipients)
    for _ in range(many):
        bench.done(bench.accept(10_000))
    return kept


def test_one_message_does_not_keep_all_files(bench: Bench) -> None:
    kept = one_that_lives_among(bench)
    before = bench.mail_data(kept), kept.received_us
    assert len(bench.journal.segments) > 6
    bench.compact()
    assert len(bench.journal.segments) <= 2
    assert (bench.mail_data(kept), kept.received_us) == before
    assert bench.shard.count(Slot.QUEUE_COMPACTED_OCTETS) == kept.record_octets
    bench.check()
    again = bench.reopened()
    (found,) = again.shard.table
    assert (again.mail_data(found), found.received_us, found.id) == (*before, kept.id)
    again.check()


def test_everything_that_is_known_of_a_message_goes_with_it(bench: Bench) -> None:
    kept = bench.accept(1000, recipients=4)
    for attempt in range(1, 21):
        bench.tell(kept, attempt, {2: 2, 3: 5})
        if attempt == 3:
            bench.tell(kept, attempt, {0: 1, 1: 3})
    kept.state = MessageState.MESSAGE_HELD
    kept.in_doubt = True
    bench.journal.append_record(RecordType.RECORD_HOLD, kept.id, b"")
    for _ in range(40):
        bench.done(bench.accept(10_000))
    history = bench.journal.read_outcomes(kept)
    for _ in range(2):  # what was moved once is moved again
        serial = kept.segment.serial if kept.segment else 0
        bench.compact()
        assert kept.segment is not None
        assert kept.segment.serial > serial
        assert bench.journal.read_outcomes(kept) == history
        bench.check()
        for _ in range(40):
            bench.done(bench.accept(10_000))
    bench.tell(kept, 21, {2: 2})
    history = [*history[1:], bench.journal.read_outcomes(kept)[-1]]
    again = bench.reopened()
    (found,) = again.shard.table
    assert [found.recipient_state(i) for i in range(4)] == [1, 3, 2, 5]
    assert (found.attempts, found.next_attempt, found.in_doubt) == (21, 1e9 + 21, True)
    assert found.state == MessageState.MESSAGE_HELD
    assert again.journal.read_outcomes(found) == history
    assert again.journal.ledger.counted == 2
    assert again.journal.ledger.chain_units == bench.journal.ledger.chain_units
    assert (again.shard.report.missing, again.shard.report.unexpected) == (0, 0)


def test_a_copy_is_laid_out_as_the_format_says(bench: Bench) -> None:
    kept = one_that_lives_among(bench, recipients=2)
    bench.tell(kept, 3, {0: 1, 1: 2})
    bench.compact()
    assert kept.segment is not None
    records = [record for _, record in walk_segment(Path(kept.segment.path).read_bytes()) if record.id == kept.id]
    (copy,) = [record for record in records if record.type == ACCEPTED]
    assert copy.flags == MOVED
    assert (copy.states, copy.attempts, copy.held) == ((1, 2), 3, False)
    assert [path for path, *_ in copy.envelope["recipients"]] == [b"r0@example.net", b"r1@example.net"]  # type: ignore[attr-defined]


def test_the_source_pool_goes_with_it_and_is_found_at_a_start(bench: Bench) -> None:
    kept = bench.shard.make(b"x" * 1000, recipients=3, source_pool=b"bulk")
    bench.journal.append(kept, bench.shard.receiver)
    bench.shard.settle()
    bench.shard.table.insert(kept)
    kept.buffer = None
    bench.tell(kept, 1, {0: 1, 1: 2})
    for _ in range(2):
        for _ in range(40):
            bench.done(bench.accept(10_000))
        bench.compact()
        assert load_message(bench.journal.read_record(kept)).envelope()["source_pool"] == b"bulk"
    again = bench.reopened()
    (found,) = again.shard.table
    assert [found.recipient_state(i) for i in range(3)] == [1, 2, 0]
    pools = again.shard.table.schedule.pools
    assert pools.take_missed() == {b"bulk": 1}
    outlet = pools.outlets[found.outlet]
    assert outlet is not None
    assert (outlet.pool, outlet.missing) == (b"bulk", True)


def test_what_happens_while_a_copy_is_on_its_way(bench: Bench) -> None:
    done, told, held = (bench.accept(1000, recipients=2) for _ in range(3))
    bench.tell(told, 1, {0: 2})
    for _ in range(40):
        bench.done(bench.accept(10_000))
    segment = bench.journal.segments[0]
    for message in (done, told, held):
        place = segment, message.offset_octets, (message.outcome_serial, message.outcome_offset)
        assert bench.journal.is_at(message, *place)
        bench.journal.move(
            message, bench.journal.read_record(message), bench.journal.read_outcomes(message), message is held
        )
        assert not bench.journal.is_at(message, *place)  # not twice at a time
    bench.done(done)
    bench.tell(told, 2, {0: 1})
    held.state = MessageState.MESSAGE_HELD
    bench.journal.append_record(RecordType.RECORD_HOLD, held.id, b"")
    bench.accept(10)
    assert bench.journal.moving == 0
    assert told.segment is held.segment is bench.journal.segments[-1]
    assert [outcome.attempt for outcome in bench.journal.read_outcomes(told)] == [1, 2]
    bench.shard.table.resize(bench.journal.moved_octets)
    bench.check()
    again = bench.reopened()
    found = again.shard.table.get(told.id), again.shard.table.get(held.id), again.shard.table.get(done.id)
    assert found[2] is None
    assert found[0] is not None
    assert found[1] is not None
    assert [found[0].recipient_state(i) for i in range(2)] == [1, 0]
    assert [outcome.attempt for outcome in again.journal.read_outcomes(found[0])] == [1, 2]
    assert found[1].state == MessageState.MESSAGE_HELD


def test_what_is_done_while_it_is_read_does_not_make_it_rest(bench: Bench) -> None:
    messages = [bench.accept(100) for _ in range(3)]
    segment = messages[0].segment
    assert segment is not None

    class Meanwhile:
        """The journal, with a delivery that ends in the middle of a read."""

        def read_record(self, message: Message) -> bytes:
            if message is messages[1]:
                bench.done(message)
            return bench.journal.read_record(message)

        def read_outcomes(self, message: Message) -> list[Any]:
            return bench.journal.read_outcomes(message)

    journal: Any = Meanwhile()
    reads = bench.compactor._read(journal, segment, messages)
    assert [read.message for read in reads] == [messages[0], messages[2]]


def test_a_failed_disk_leaves_everything_where_it_was(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path / "000")
    bench = Bench(tmp_path / "000", disk.disk)
    kept = one_that_lives_among(bench)
    place = kept.segment, kept.offset_octets
    disk.fail = lambda kind, name: errno.EIO if kind == "sync" else 0
    bench.compact()
    assert bench.journal.failed == errno.EIO
    assert (kept.segment, kept.offset_octets) == place
    bench.check()
    disk.fail = lambda kind, name: 0
    bench.journal.heal()
    bench.compact()
    assert len(bench.journal.segments) <= 3
    assert kept.segment is not place[0]
    bench.check()
    assert disk.violations == []


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_at_any_moment_leaves_each_message_once(tmp_path: Path, power: bool) -> None:
    random = Random(7)
    disk = SimulatedDisk(tmp_path / "000")
    bench = Bench(tmp_path / "000", disk.disk)
    kept = [bench.accept(random.randint(10, 8000), recipients=2) for _ in range(12)]
    for number, message in enumerate(kept):
        bench.tell(message, 1, {0: 1 + number % 2})
    for _ in range(30):
        bench.done(bench.accept(10_000))
    bench.accept(10)
    bench.shard.table.discard(bench.shard.taken[-1])
    bench.journal.done(bench.shard.taken[-1])
    bench.accept(0)
    begin = disk.note("begin")
    bench.compact()
    end = disk.note("end")
    assert len(bench.journal.segments) <= 3
    expected = {message.id: (bench.mail_data(message), message.recipient_state(0)) for message in kept}
    for point in range(begin, end + 1):
        state = disk.state_at(point)
        image = SimulatedDisk(tmp_path / "000", state.without_power(random) if power else state.killed())
        again = Shard(tmp_path / "000", segment_octets=SEGMENT, disk=image.disk)
        found = {
            message.id: (load_message(again.journal.read_record(message)).mail_data(), message.recipient_state(0))
            for message in again.table
        }
        assert {number: found.get(number) for number in expected} == expected, point
        assert len(found) == len(expected) + 1, point
        again.journal.close()


def test_what_is_harmed_is_handed_over_and_the_rest_is_moved(bench: Bench) -> None:
    data, meta, loaded, well = (bench.accept(2000) for _ in range(4))
    loaded.buffer = load_message(bench.journal.read_record(loaded))
    for _ in range(40):
        bench.done(bench.accept(10_000))
    assert data.segment is not None
    path = Path(data.segment.path)
    octets = bytearray(path.read_bytes())
    for message, at in ((data, data.record_octets - 5), (meta, 50), (loaded, loaded.record_octets - 5)):
        octets[message.offset_octets + at] ^= 1
    path.write_bytes(octets)
    bench.compact()
    assert {message.id for message, _ in bench.damaged} == {data.id, meta.id}
    assert len(bench.journal.segments) <= 2
    for message in (loaded, well):
        assert len(bench.mail_data(message)) == 2000
    bench.check()


def test_it_rests_when_a_file_cannot_be_read(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path / "000")
    bench = Bench(tmp_path / "000", disk.disk)
    kept = one_that_lives_among(bench)
    disk.fail = lambda kind, name: errno.EIO if kind == "read" else 0
    bench.compact()
    assert wants_compaction(bench.journal)
    disk.fail = lambda kind, name: 0

    async def tick() -> None:
        bench.compactor.tick([bench.journal])
        assert not bench.compactor.running
        bench.clock.advance(61)
        bench.compactor.tick([bench.journal])
        assert bench.compactor.running
        while bench.compactor.running:
            await asyncio.sleep(0)

    bench.run(tick())
    assert not wants_compaction(bench.journal)
    assert bench.mail_data(kept)


def test_a_journal_that_is_full_of_life_is_left_alone(bench: Bench) -> None:
    for _ in range(40):
        bench.accept(10_000)
    assert not wants_compaction(bench.journal)


def test_the_unused_end_of_a_segment_is_given_back(bench: Bench) -> None:
    for _ in range(6):
        bench.accept(40_000)
    sizes = [segment.size for segment in bench.journal.segments]
    assert max(sizes[:-1]) < 50_000
    assert [Path(segment.path).stat().st_size for segment in bench.journal.segments] == sizes
    assert len(bench.reopened().shard.table) == 6


lifetimes = st.sampled_from([1, 1, 1, 3, 10, 50, 1000])
arrivals = st.lists(
    st.tuples(st.sampled_from([100, 1000, 5000, 20_000, 50_000]), lifetimes, st.integers(0, 6)),
    min_size=20,
    max_size=200,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(arrivals)
def test_space_is_bounded_whatever_the_lifetimes(mail: list[tuple[int, int, int]]) -> None:
    """Messages come with lifetimes of 1 to 1,000 arrivals, in any mix; attempts leave their records."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "000")
        ends: dict[int, list[Message]] = {}
        for now, (octets, lifetime, attempts) in enumerate(mail):
            message = bench.accept(octets)
            for attempt in range(1, attempts + 1):
                bench.tell(message, attempt, {0: 2})
            ends.setdefault(now + lifetime, []).append(message)
            for over in ends.pop(now, []):
                bench.done(over)
            if wants_compaction(bench.journal):
                bench.compact()
            journal = bench.journal
            constant = (LEEWAY + journal.most_spares) * SEGMENT + 50_000
            assert journal.octets_on_disk <= MOST * journal.living_octets + constant
            bench.check()
        known = sorted(message.id for message in bench.shard.table)
        again = bench.reopened()
        assert sorted(message.id for message in again.shard.table) == known
        assert (again.shard.report.missing, again.shard.report.unexpected) == (0, 0)


def test_the_budget_holds_it_back_until_space_runs_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "000", rate=1000)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        bench.clock.advance(seconds)

    with pytest.MonkeyPatch.context() as patch:
        kept = [bench.accept(10_000) for _ in range(30)]
        while not wants_compaction(bench.journal):
            bench.done(bench.accept(10_000))
        assert not wants_compaction(bench.journal, MOST)
        patch.setattr("angarium.queue.compaction.asyncio.sleep", sleep)
        bench.compact()
        moved = bench.shard.count(Slot.QUEUE_COMPACTED_OCTETS)
        assert sum(slept) * 1000 >= 2 * moved > 0
        slept.clear()
        for _ in range(200):
            bench.done(bench.accept(10_000))
        assert wants_compaction(bench.journal, MOST)
        bench.compact()
        assert bench.journal.log_octets <= TRIGGER * bench.journal.living_octets + SEGMENT
        assert len(kept) == len(bench.shard.table)
