"""Random histories of a shard, closed, killed or cut off from power at any moment, against a plain model.

What must hold after every recovery: each message that was acknowledged and is not done is there exactly once, with its
octets, its recipients' states and its replies; what was not acknowledged is whole or absent; what is known to be done
stays done.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from angarium._core.record import Message, MessageState, RecipientState, RecordType, load_message
from tests.reference.record import BLOCK, decode_segment_header
from tests.support.journal import Shard, files

SEGMENT = 16 << 10
SECTOR = 512
Step = tuple[Any, ...]
FINAL = (RecipientState.RECIPIENT_DELIVERED, RecipientState.RECIPIENT_FAILED, RecipientState.RECIPIENT_EXPIRED)


@dataclass(frozen=True)
class Known:
    """What the model knows of one message."""

    mail_data: bytes
    states: tuple[int, ...]
    attempts: int = 0
    next_attempt: int = 0
    replies: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    chain: tuple[tuple[int, list[tuple[int, int, int, bytes]]], ...] = ()  # (attempt, entries) of every record
    held: bool = False


class History:
    """A shard and its model side by side."""

    def __init__(self, folder: Path) -> None:
        self.shard = Shard(folder, segment_octets=SEGMENT)
        self.messages = {message.id: message for message in self.shard.table}
        self.model = {number: what_is(self.shard, message) for number, message in self.messages.items()}
        self.mail_data = {number: known.mail_data for number, known in self.model.items()}
        self.spoken_of: set[int] = set()  # by records after that of the message itself
        report = self.shard.report
        # what is torn is reported until its segment is used again, what it cost until there is another checkpoint
        self.torn = bool(report.harmed or report.missing or report.unexpected)

    def run(self, steps: list[Step]) -> None:
        for name, *arguments in steps:
            getattr(self, name)(*arguments)

    def pick(self, which: int) -> int | None:
        alive = sorted(self.model)
        if not alive:
            return None
        self.spoken_of.add(alive[which % len(alive)])
        return alive[which % len(alive)]

    def accept(self, seed: int, octets: int, recipients: int, durability: int) -> None:
        mail_data = Random(seed).randbytes(octets)
        message = self.shard.append(mail_data, durability=durability, recipients=recipients)
        self.messages[message.id] = message
        self.mail_data[message.id] = mail_data
        self.model[message.id] = Known(mail_data, (0,) * recipients)

    def outcome(self, which: int, states: list[int], attempts: int, text: bytes) -> None:
        number = self.pick(which)
        if number is None:
            return
        known = self.model[number]
        entries: list[tuple[int, int, int, bytes]] = []
        after, replies = list(known.states), dict(known.replies)
        for index, state in enumerate(states[: len(after)]):
            code = 250 if state == RecipientState.RECIPIENT_DELIVERED else 451
            entries.append((index, state, code, text))
            after[index] = state
            replies.pop(index, None)
            if state not in FINAL:
                replies[index] = (code, text)
        next_attempt = 1_800_000_000 + attempts
        self.shard.settle()
        message = self.messages[number]
        for index, state in enumerate(states[: len(after)]):
            message.set_recipient_state(index, state)
        message.set_attempts(attempts)
        self.shard.journal.append_outcome(
            message, entries, attempted=1.0, attempt=attempts, next_attempt=float(next_attempt)
        )
        chain = (*known.chain, (attempts, entries))
        self.model[number] = replace(
            known, states=tuple(after), attempts=attempts, next_attempt=next_attempt, replies=replies, chain=chain
        )

    def done(self, which: int) -> None:
        number = self.pick(which)
        if number is None:
            return
        self.shard.settle()  # only what is ours can be done
        self.shard.journal.done(self.messages.pop(number))
        del self.model[number]

    def hold(self, which: int, held: bool) -> None:
        number = self.pick(which)
        if number is None:
            return
        kind = RecordType.RECORD_HOLD if held else RecordType.RECORD_RELEASE
        self.shard.journal.append_record(kind, number, b"")
        self.model[number] = replace(self.model[number], held=held)

    def write_all(self) -> None:
        """Everything is with the kernel: the sync of a message takes along what stands before it."""
        self.accept(0, 10, 1, 0)
        self.shard.settle()

    def closed(self) -> None:
        """Closed and opened again."""
        self.shard.journal.close()
        self.opened(self.shard.folder)

    def killed(self) -> None:
        """The process died; what was written stays, and the dead one's journal no longer counts."""
        self.write_all()
        image = Path(tempfile.mkdtemp(dir=self.shard.folder.parent))
        shutil.copytree(self.shard.folder, image / "000")
        self.opened(image / "000")

    def opened(self, folder: Path) -> None:
        self.shard = Shard(folder, segment_octets=SEGMENT)
        assert self.torn or self.shard.report.harmed == []
        # the ledger had come to the same number of queued recipients as the table
        assert self.torn or (self.shard.report.missing, self.shard.report.unexpected) == (0, 0)
        self.check()
        self.messages = {message.id: message for message in self.shard.table}

    def check(self) -> None:
        found = {message.id: message for message in self.shard.table}
        assert len(found) == len(self.shard.table) == self.shard.report.messages
        assert sorted(found) == sorted(self.model)
        for number, known in self.model.items():
            assert what_is(self.shard, found[number]) == known
        ledger = self.shard.journal.ledger
        assert ledger.queued == self.shard.table.recipients - ledger.counted
        for segment in self.shard.journal.segments:
            here = [message for message in found.values() if message.segment is segment]
            assert segment.alive == len(here)
            assert segment.alive_octets == sum(message.record_octets for message in here)


def what_is(shard: Shard, message: Message) -> Known:
    return Known(
        load_message(shard.journal.read_record(message)).mail_data(),
        tuple(message.recipient_state(i) for i in range(message.recipients)),
        message.attempts,
        round(message.next_attempt),
        shard.journal.last_replies(message),
        tuple((outcome.attempt, outcome.entries) for outcome in shard.journal.read_outcomes(message, most=1000)),
        message.state == MessageState.MESSAGE_HELD,
    )


which = st.integers(0, 50)
steps = st.one_of(
    st.tuples(
        st.just("accept"),
        st.integers(0, 2**32),
        st.one_of(st.integers(0, 4000), st.integers(4000, 12_000), st.just(20_000)),
        st.integers(1, 4),
        st.sampled_from([0, 0, 0, 1]),
    ),
    st.tuples(
        st.just("outcome"),
        which,
        st.lists(st.integers(0, 4), max_size=4),
        st.integers(1, 30),
        st.binary(max_size=600),
    ),
    st.tuples(st.just("done"), which),
    st.tuples(st.just("done"), which),
    st.tuples(st.just("hold"), which, st.booleans()),
)
histories = st.lists(steps, max_size=40)
reopenings = st.lists(st.tuples(histories, st.sampled_from(["closed", "killed"])), min_size=1, max_size=3)
unhurried = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@unhurried
@given(reopenings)
def test_a_shard_that_is_opened_again_knows_what_it_knew(parts: list[tuple[list[Step], str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder) / "000")
        for part, end in parts:
            history.run(part)
            getattr(history, end)()


def power_failure(before: dict[str, bytes], after: dict[str, bytes], random: Random) -> dict[str, bytes]:
    """A disk after the power failed: of what was written since the last sync any sectors may be there, and any not.

    But for what the journal puts in order: when a file's new header is written, all that was put before is on disk, and
    it is on disk itself before what is put later is written. So only the youngest life that began can be torn. And
    files go in order of age; that a file system keeps unlinks in order is assumed.
    """

    def serial(octets: bytes) -> int:
        return decode_segment_header(octets).serial if any(octets[:BLOCK]) else 0

    new_lives = sorted(
        (serial(octets), name)
        for name, octets in after.items()
        if name.endswith(".segment") and octets[:BLOCK] != before.get(name, bytes(BLOCK))[:BLOCK]
    )
    lives = {name for _, name in new_lives}
    order = [name for _, name in new_lives]
    begun = order[: random.randint(0, len(order))]
    removed = sorted(
        (name for name in before if not after.get(name)),  # what is shorter has lost its unused end
        key=lambda name: serial(before[name]),
    )
    least = max((removed.index(name) + 1 for name in removed if name in begun), default=0)
    gone = set(removed[: random.randint(least, len(removed))])
    rate = random.choice([0.0, 0.1, 0.5, 0.9, 1.0])
    image: dict[str, bytes] = {}
    for name in sorted(before.keys() | after.keys()):
        old = None if name in gone else before.get(name)
        new = after.get(name)
        if new is None or name in lives - set(begun):
            if old is not None:
                image[name] = old
            elif new is not None and random.random() < 0.5:
                image[name] = bytes(len(new))
            continue
        octets = bytearray(old if old is not None else bytes(len(new)))
        octets[:BLOCK] = new[:BLOCK]
        is_youngest = name == begun[-1] if begun else True
        for at in range(BLOCK, len(new), SECTOR):
            if not is_youngest or random.random() < rate:
                octets[at : at + SECTOR] = new[at : at + SECTOR]
        image[name] = bytes(octets)
    return image


@unhurried
@given(histories, histories, histories, st.integers(0, 2**32))
def test_after_a_power_failure_nothing_acknowledged_is_lost_and_nothing_done_comes_back(
    first: list[Step], second: list[Step], third: list[Step], seed: int
) -> None:
    random = Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder) / "000")
        history.run(first)
        history.write_all()
        before, safe = files(history.shard.folder), dict(history.model)
        history.spoken_of.clear()
        ever = set(history.mail_data)
        history.run(second)
        history.write_all()
        after, later = files(history.shard.folder), dict(history.model)
        for turn in range(3):
            image = Path(folder) / f"image{turn}" / "000"
            image.mkdir(parents=True)
            for name, octets in power_failure(before, after, random).items():
                (image / name).write_bytes(octets)
            recovered = History(image)
            found = set(recovered.model)
            assert set(safe) & set(later) <= found, "an acknowledged message is lost"
            assert not found & (ever - set(safe)), "a done message came back"
            for number, known in recovered.model.items():
                assert known.mail_data == history.mail_data[number]
                if number in safe and number not in history.spoken_of:
                    assert known == safe[number]
            # it goes on from there, and the next opening finds no more and no less
            recovered.run(third)
            recovered.closed()
            recovered.run(third)
            recovered.closed()


@unhurried
@given(histories, st.integers(0, 2**32), st.sampled_from(["cut", "zeros", "garbage", "flip"]))
def test_a_spoilt_tail_costs_only_what_was_not_acknowledged(steps: list[Step], seed: int, kind: str) -> None:
    random = Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        history = History(Path(folder) / "000")
        history.run(steps)
        history.write_all()
        safe = dict(history.model)
        journal = history.shard.journal
        tail = [history.shard.append(random.randbytes(random.randint(0, 3000))) for _ in range(random.randint(1, 4))]
        history.shard.settle()
        image = history.shard.copy(Path(folder) / "image")
        unsafe = {message.id for message in tail}
        path = image / Path(journal.segments[-1].path).name
        octets = bytearray(path.read_bytes())
        # everything in the segment that grew last, behind what was synced, is spoilt from some point on
        end = journal.segments[-1].used
        first_unsafe = min(message.offset_octets for message in tail if message.segment is journal.segments[-1])
        begin = random.randint(first_unsafe, end - 1)
        if kind == "cut":
            del octets[begin:]
        elif kind == "zeros":
            octets[begin:end] = bytes(end - begin)
        elif kind == "garbage":
            octets[begin:] = random.randbytes(len(octets) - begin)
        else:
            octets[begin] ^= 1 << random.randrange(8)
        path.write_bytes(octets)
        recovered = History(image)
        assert set(safe) <= set(recovered.model) <= set(safe) | unsafe
        for number, known in recovered.model.items():
            assert known.mail_data == history.mail_data.get(number, known.mail_data)
            assert number not in safe or known == safe[number]
        lost = unsafe - set(recovered.model)
        assert lost
        if kind in ("flip", "zeros", "garbage") and begin >= tail[-1].offset_octets + 40:
            assert len(recovered.shard.report.harmed) >= 1
