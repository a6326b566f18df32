"""Random histories of a shard on a simulated disk, cut off at any of its operations.

The process dies there, or the power fails: then any sector that was not synced is as it was, or as any write since
left it, and of the files made, renamed and unlinked since the last sync of the folder any subset was. Recovery itself
is cut off in the same way, and lives follow each other.

What must hold after every recovery: each message that was acknowledged and is not done is there exactly once, with its
octets and its recipients' states; what was not acknowledged is whole or absent; what is done on disk stays done; and
what one recovery found is what the next one finds.

ANGARIUM_CRASHES=N runs N times as many histories, each with many more points of failure.
"""

from __future__ import annotations

import errno
import os
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from angarium._core.journal import JournalFailed, JournalFull
from angarium._core.record import Message, MessageState, RecordType, load_message
from angarium._core.segment_index import build_index
from angarium.queue.indexer import Indexer
from tests.support.disk import SimulatedDisk
from tests.support.journal import Shard

SEGMENT = 16 << 10
TIMES = int(os.environ.get("ANGARIUM_CRASHES", "1"))
POINTS = 5 if TIMES == 1 else 25
NEVER = 1 << 60
ASYNC = 1
Step = tuple[Any, ...]


@dataclass(frozen=True)
class Known:
    """What the records about one message say."""

    states: tuple[int, ...]
    attempts: int = 0
    next_attempt: int = 0
    held: bool = False


@dataclass
class Fact:
    """One message, and from which operation of the disk on what is known of it."""

    mail_data: bytes
    durability: int
    begun: int = 0
    written: int = NEVER
    safe: int = NEVER
    told: int = NEVER
    done: int = NEVER
    done_written: int = NEVER
    done_safe: int = NEVER
    said: list[list[Any]] = field(default_factory=list)  # [begun, safe, Known]
    loose: bool = False  # a record about it was lost when the disk failed
    doubtful: bool = False  # so was its own: what the kernel shows of it may not be on the disk
    done_doubtful: bool = False

    def may_be(self, point: int) -> list[Known]:
        """What a crash at point may leave: the last that was safe, and what was begun since."""
        known: list[Known] = []
        for begun, safe, what in self.said:
            if begun > point:
                break
            if safe <= point and not self.loose:
                known = [what]
            else:
                known.append(what)
        return known


def what_is(message: Message) -> Known:
    return Known(
        tuple(message.recipient_state(i) for i in range(message.recipients)),
        message.attempts,
        round(message.next_attempt),
        message.state == MessageState.MESSAGE_HELD,
    )


class Life:
    """A shard from one start to one crash, and what must be left of it."""

    def __init__(self, folder: Path, files: dict[str, bytes], earlier: frozenset[int] = frozenset()) -> None:
        self.folder = folder
        self.disk = SimulatedDisk(folder, files)
        self.shard = self.open()
        self.recovered = len(self.disk.events)
        self.messages = {message.id: message for message in self.shard.table}
        self.check_accounts()
        self.facts: dict[int, Fact] = {}
        for number, message in self.messages.items():
            fact = Fact(self.read(message), message.durability, 0, 0, 0, 0)
            fact.said.append([0, 0, what_is(message)])
            self.facts[number] = fact
        self.earlier = earlier | self.facts.keys()
        self.unwritten: list[tuple[Any, int]] = []
        self.unsafe: list[tuple[Any, int]] = []
        self.gathered = False

    def open(self) -> Shard:
        shard = Shard(self.folder, segment_octets=SEGMENT, disk=self.disk.disk)
        shard.journal.kick_later = lambda kick: None
        return shard

    def read(self, message: Message) -> bytes:
        return load_message(self.shard.journal.read_record(message)).mail_data()

    def close(self) -> None:
        self.shard.journal.close()
        assert self.disk.violations == []

    # -------------------------------------------------------------- steps

    def run(self, steps: list[Step]) -> None:
        for name, *arguments in steps:
            getattr(self, name)(*arguments)
        self.settle()

    def pick(self, which: int) -> int | None:
        alive = [number for number, fact in self.facts.items() if fact.told != NEVER and fact.done == NEVER]
        return sorted(alive)[which % len(alive)] if alive else None

    def put(self, what: Any) -> None:
        """A record has been handed over."""
        self.unwritten.append((what, 0))
        self.unsafe.append((what, 0))
        self.gathered = True

    def accept(self, seed: int, octets: int, recipients: int, durability: int) -> None:
        mail_data = Random(seed).randbytes(octets)
        message = self.shard.make(mail_data, durability=durability, recipients=recipients)
        while message.id in self.earlier or message.id in self.facts:  # lives are shorter than a millisecond here
            message = self.shard.make(mail_data, durability=durability, recipients=recipients)
        begun = self.disk.note("accept", message.id)
        self.shard.journal.append(message, self.shard.receiver)
        self.messages[message.id] = message
        self.facts[message.id] = fact = Fact(mail_data, durability, begun)
        fact.said.append([begun, NEVER, Known((0,) * recipients)])
        self.put(fact)
        self.put(fact.said[0])

    def outcome(self, which: int, states: list[int], attempts: int) -> None:
        number = self.pick(which)
        if number is None:
            return
        fact = self.facts[number]
        known = fact.said[-1][2]
        after = (tuple(states) + known.states[len(states) :])[: len(known.states)]
        entries = [(i, state, 250, b"text") for i, state in enumerate(states[: len(after)])]
        entry: list[Any] = [self.disk.note("outcome", number), NEVER, None]
        next_attempt = 1_800_000_000 + attempts
        message = self.messages[number]
        for i, state, _, _ in entries:
            message.set_recipient_state(i, state)
        message.set_attempts(attempts)
        self.shard.journal.append_outcome(
            message, entries, attempted=1.0, attempt=attempts, next_attempt=float(next_attempt)
        )
        entry[2] = replace(known, states=after, attempts=attempts, next_attempt=next_attempt)
        fact.said.append(entry)
        self.put(entry)

    def hold(self, which: int, held: bool) -> None:
        number = self.pick(which)
        if number is None:
            return
        fact = self.facts[number]
        entry = [self.disk.note("hold", number), NEVER, replace(fact.said[-1][2], held=held)]
        kind = RecordType.RECORD_HOLD if held else RecordType.RECORD_RELEASE
        self.shard.journal.append_record(kind, number, b"")
        fact.said.append(entry)
        self.put(entry)

    def done(self, which: int) -> None:
        number = self.pick(which)
        if number is None:
            return
        self.facts[number].done = self.disk.note("done", number)
        self.shard.journal.done(self.messages.pop(number))
        self.put(number)

    def settle(self) -> None:
        """Commit, with a message behind everything that was put, and hear what became of it."""
        self.accept(0, 10, 1, 0)
        self.shard.journal.kick()
        self.shard.settle()
        at = self.disk.note("settled")
        failed = self.shard.journal.failed
        for message, error in self.shard.told:
            if error == 0 and self.facts[message.id].told == NEVER:
                self.facts[message.id].told = at
        self.shard.told.clear()
        if not failed:
            self._mark(self.unwritten, "written", at)
            self._mark(self.unsafe, "safe", at)
        self.gathered = False

    def flush(self) -> None:
        """What nobody waits for is handed to the kernel, and what is async acknowledged."""
        if not self.gathered or (
            self.shard.journal.waiting
            and any(fact.told == NEVER and fact.durability != ASYNC for fact in self.facts.values())
        ):
            return
        self.shard.flush()
        at = self.disk.note("flushed")
        self._mark(self.unwritten, "written", at)
        for message, error in self.shard.told:
            assert error == 0
            self.facts[message.id].told = at
        self.shard.told.clear()
        self.gathered = False

    def _mark(self, records: list[tuple[Any, int]], what: str, at: int) -> None:
        for record, _ in records:
            if isinstance(record, Fact):
                setattr(record, what, at)
            elif isinstance(record, int):
                setattr(self.facts[record], f"done_{what}", at)
            elif what == "safe":
                record[1] = at
        records.clear()

    def spare(self) -> None:
        if self.shard.journal.wants_spare:
            segment = self.shard.journal.make_spare()
            self.shard.journal.prepare_spare(segment)
            self.shard.journal.add_spare(segment)

    def index(self) -> None:
        """Side files for what is full and still holds mail."""
        indexer = Indexer([self.shard.journal], after_s=0.0)
        while (due := indexer.due(0.0)) is not None:
            _, segment = due
            segment.index_octets = build_index(segment, 0)
            assert segment.index_octets

    def restart(self) -> None:
        """Stopped in order, and started again."""
        self.settle()
        self.close()
        self.reopened()

    def kill(self) -> None:
        """The process dies with what it has gathered; what it had written stays in the kernel's hands."""
        self.disk.note("killed")
        self.disk.dead = True
        self.close()
        self.disk.dead = False
        self.unwritten.clear()
        self.unsafe.clear()
        self.reopened()

    def reopened(self) -> None:
        self.shard = self.open()
        self.gathered = False
        self.messages = {message.id: message for message in self.shard.table}
        self.check_accounts()
        at = self.disk.note("reopened")
        for number, fact in self.facts.items():
            if number not in self.messages:
                assert fact.told == NEVER or fact.done != NEVER, "an acknowledged message is lost"
                if fact.done_written != NEVER and not fact.done_doubtful:
                    fact.done_safe = min(fact.done_safe, at)  # recovery syncs what it goes by
                continue
            assert self.read(self.messages[number]) == fact.mail_data
            assert fact.done_written == NEVER or fact.done_doubtful, "a done message came back"
            fact.done = fact.done_written = NEVER
            fact.told = min(fact.told, at)
            fact.written = min(fact.written, at)
            if not fact.doubtful:
                fact.safe = min(fact.safe, at)
            fact.said.append([at, NEVER if fact.doubtful or fact.loose else at, what_is(self.messages[number])])

    def fail(self, kind: str, nth: int, error: int, heals_at_once: bool) -> None:
        """The disk fails at the nth next operation of a kind, once; then it is well again."""
        left = nth

        def fails(operation: str, name: str) -> int:
            nonlocal left
            if operation == kind:
                left -= 1
                return error if left == -1 else 0
            return 0

        self.disk.fail = fails
        try:
            self.settle()
        except (JournalFull, JournalFailed, OSError):
            self.shard.journal.kick()
            self.shard.settle()
        self.disk.fail = lambda operation, name: 0
        if not self.shard.journal.failed:
            return
        lost = [record for record, _ in self.unsafe]
        for fact in self.facts.values():
            fact.doubtful = fact.doubtful or any(fact is record for record in lost)
            fact.loose = fact.loose or any(entry is record for entry in fact.said for record in lost)
        for number in lost:
            if isinstance(number, int):
                self.facts[number].done_doubtful = True
        self.unsafe.clear()
        self.unwritten.clear()
        if not heals_at_once:
            self.disk.fail = lambda operation, name: errno.EIO if operation in ("write", "sync") else 0
            with pytest.raises(OSError, match="Input/output error"):
                self.shard.journal.heal()
            assert self.shard.journal.failed
            self.disk.fail = lambda operation, name: 0
        assert self.shard.journal.heal()
        self.settle()

    # -------------------------------------------------------------- what a crash may leave

    def crash(self, point: int, random: Random) -> Life:
        """Cut off after so many operations; the life that follows, checked."""
        state = self.disk.state_at(point)
        power = random.random() < 0.7
        files = state.without_power(random) if power else state.killed()
        for name, octets in files.items():
            if name.endswith(".index") and octets and random.random() < 0.1:
                at = random.randrange(len(octets))
                files[name] = octets[:at] + bytes([octets[at] ^ 4]) + octets[at + 1 :]
        after = Life(self.folder, files, self.earlier | self.facts.keys())
        found = after.facts
        assert found.keys() <= {number for number, fact in self.facts.items() if fact.begun <= point}
        for number, fact in self.facts.items():
            if max(fact.told, fact.safe if power else 0) <= point < fact.done:
                assert number in found, "an acknowledged message is lost"
            if (fact.done_safe if power else fact.done_written) <= point:
                assert number not in found, "a done message came back"
        for number, fact in found.items():
            before = self.facts[number]
            assert fact.mail_data == before.mail_data
            possible = before.may_be(point)
            known = fact.said[0][2]
            if len(possible) == 1:
                assert known == possible[0]
            else:
                for i, state_of in enumerate(known.states):
                    assert state_of in {one.states[i] for one in possible}
                assert known.attempts in {one.attempts for one in possible}
                assert known.held in {one.held for one in possible}
        return after

    def check_accounts(self) -> None:
        assert len(self.messages) == len(self.shard.table) == self.shard.report.messages
        for segment in self.shard.journal.segments:
            here = [message for message in self.shard.table if message.segment is segment]
            assert segment.alive == len(here)
            assert segment.alive_octets == sum(message.record_octets for message in here)


which = st.integers(0, 50)
accepts = st.tuples(
    st.just("accept"),
    st.integers(0, 2**32),
    st.one_of(st.integers(0, 4000), st.integers(4000, 12_000), st.just(20_000)),
    st.integers(1, 4),
    st.sampled_from([0, 0, 1, 2]),
)
dones = st.tuples(st.just("done"), which)
steps = st.one_of(
    accepts,
    accepts,
    dones,
    dones,
    st.tuples(st.just("outcome"), which, st.lists(st.integers(0, 5), max_size=4), st.integers(1, 30)),
    st.tuples(st.just("hold"), which, st.booleans()),
    st.tuples(st.just("settle")),
    st.tuples(st.just("flush")),
    st.tuples(st.just("spare")),
    st.tuples(st.just("index")),
    st.tuples(st.just("restart")),
    st.tuples(st.just("kill")),
    st.tuples(
        st.just("fail"),
        st.sampled_from(["write", "sync", "sync_folder", "allocate", "create"]),
        st.integers(0, 3),
        st.sampled_from([errno.EIO, errno.ENOSPC, errno.EROFS]),
        st.booleans(),
    ),
)
histories = st.lists(steps, max_size=30)


@settings(max_examples=70 * TIMES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories, histories, st.integers(0, 2**32))
def test_a_crash_at_any_point_loses_nothing_acknowledged(first: list[Step], second: list[Step], seed: int) -> None:
    random = Random(seed)
    with tempfile.TemporaryDirectory() as name:
        life = Life(Path(name), {})
        life.run(first)
        life.close()
        for turn in range(POINTS):
            after = life.crash(random.randint(0, len(life.disk.events)), random)
            recovered = len(after.disk.events)
            if turn == 0:  # it goes on from there, and the power fails again
                after.run(second)
            after.close()
            # cut off in the middle of recovery, or later
            for _ in range(2):
                point = random.randint(0, recovered)
                again = after.crash(point, random)
                assert again.facts.keys() == {number for number, fact in after.facts.items() if fact.begun == 0}
                again.close()
            if turn == 0:
                after.crash(random.randint(0, len(after.disk.events)), random).close()
