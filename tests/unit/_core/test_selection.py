"""Which messages a selection finds: by what memory knows, by envelopes on disk, while the table changes."""

from __future__ import annotations

import sys
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium._core.record import Message, MessageState, RecipientState, make_accepted, new_message
from angarium._core.schedule import MessageTable
from angarium._core.selection import STATES, Census, Selection, id_of, state_name
from angarium.mail.address import folded_domain
from tests.support.journal import Shard

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NEVER = 1e12


def make(number: int, **envelope: Any) -> Message:
    recipients = envelope.pop("recipients", [b"you@dest.test"])
    filled = {"reverse_path": b"me@origin.test", "received_us": number * 1_000_000, **envelope}
    filled["recipients"] = [(path, 0, b"") for path in recipients]
    return new_message(make_accepted(filled, b"Subject: x\r\n\r\n", number))


def table_of(messages: Iterable[Message]) -> MessageTable:
    table = MessageTable()
    for message in messages:
        table.insert(message)
    return table


def found(table: MessageTable, *, slots: int = 100, batch: int = 7, **conditions: Any) -> list[Message]:
    """What a selection hands out, driven as a worker drives it."""
    selection = Selection(table, **conditions)
    while not selection.step(slots):
        pass
    selection.sort()
    messages: list[Message] = []
    while selection.left:
        if selection.load(batch):
            selection.examine()
        messages += selection.matching()
    assert selection.unreadable == 0
    return messages


def numbers(messages: Iterable[Message]) -> list[int]:
    return [message.id for message in messages]


def wait(message: Message, attempts: int = 1) -> Message:
    message.set_attempts(attempts)
    message.state = MessageState.MESSAGE_SCHEDULED
    return message


# ------------------------------------------------------------------ conditions


def test_without_conditions_all_are_found_the_oldest_first() -> None:
    order = list(range(1, 5001))
    Random(1).shuffle(order)
    assert numbers(found(table_of(map(make, order)))) == list(range(1, 5001))


def test_conditions_on_the_envelope_in_memory() -> None:
    messages = [
        make(1, recipients=[b"a@one.test"], tenant=b"shop"),
        make(2, recipients=[b"a@two.test", b"b@ONE.test"], reverse_path=b"Me@Origin.Test"),
        make(3, recipients=[b"one.test", b"a@xone.test", b"a@one.test.example"], reverse_path=b""),
        make(4, recipients=[b"a@one.test"], reverse_path=b"xme@origin.test", tenant=b"Shop"),
    ]
    table = table_of(messages)
    assert numbers(found(table, to_domain=b"One.Test")) == [1, 2, 4]
    assert numbers(found(table, reverse_path=b"me@ORIGIN.test")) == [1, 2]
    assert numbers(found(table, reverse_path=b"@origin.test")) == [1, 2, 4]
    assert numbers(found(table, reverse_path=b"")) == [3]
    assert numbers(found(table, tenant=b"shop")) == [1]
    assert numbers(found(table, tenant=b"")) == [2, 3]
    assert numbers(found(table, to_domain=b"one.test", reverse_path=b"me@origin.test", tenant=b"shop")) == [1]
    assert found(table, to_domain=b"") == []


def test_who_sent_it_is_a_condition(tmp_path: Path) -> None:
    names = [b"ada", b"Ada", b"", b"adam"]
    messages = [make(number, login=name, tenant=b"shop") for number, name in enumerate(names, 1)]
    table = table_of(messages)
    assert numbers(found(table, log_in=b"aDa")) == [1, 2]  # a directory does not tell the two apart
    assert numbers(found(table, log_in=b"ada", tenant=b"shop", to_domain=b"dest.test")) == [1, 2]
    assert numbers(found(table, log_in=b"ada", tenant=b"other")) == []
    assert numbers(found(table, log_in=b"")) == [3]
    # and from the record on disk
    shard = Shard(tmp_path / "000")
    message = new_message(
        make_accepted({"recipients": [(b"you@dest.test", 0, b"")], "login": b"ada"}, b"mail", shard.journal.new_id())
    )
    shard.journal.append(message, shard.receiver)
    shard.settle()
    shard.table.insert(message)
    message.buffer = None
    assert found(shard.table, log_in=b"ada") == [message]
    assert found(shard.table, log_in=b"grace") == []


def test_a_recipient_who_is_done_does_not_count_for_its_domain() -> None:
    message = make(1, recipients=[b"a@one.test", b"b@two.test"])
    table = table_of([message])
    message.set_recipient_state(0, RecipientState.RECIPIENT_DELIVERED)
    assert found(table, to_domain=b"one.test") == []
    assert numbers(found(table, to_domain=b"two.test")) == [1]


def test_conditions_on_time_and_id() -> None:
    table = table_of(map(make, range(1, 11)))
    assert numbers(found(table, before_us=4_000_000)) == [1, 2, 3]
    assert numbers(found(table, after=8)) == [9, 10]


def test_states() -> None:
    ready, fresh, scheduled, held, doubtful, later, gone = (make(number) for number in range(1, 8))
    fresh.state = MessageState.MESSAGE_SCHEDULED  # crowded out for a moment
    wait(scheduled)
    held.state = MessageState.MESSAGE_HELD
    doubtful.in_doubt = True
    gone.state = MessageState.MESSAGE_GONE
    table = table_of([ready, fresh, scheduled, held, doubtful, later, gone])
    table.schedule.assign(later)
    table.schedule.wait(later, NEVER)
    later.state = MessageState.MESSAGE_SCHEDULED  # no attempt yet, and none is wanted for long
    expected = {"ready": [1, 2], "scheduled": [3, 6], "held": [4], "suspended": [], "in_doubt": [5]}
    for state in STATES:
        assert numbers(found(table, state=state)) == expected[state]
    for message in table:
        if message is not gone:
            assert message.id in expected[state_name(table.schedule, message)]
    census = Census(table)
    while not census.step(100):
        pass
    assert census.by_state == {state: len(ids) for state, ids in expected.items()}
    assert census.oldest_us == 1_000_000
    with pytest.raises(ValueError, match="not in tuple"):
        Selection(table, state="lost")


def waiting(table: MessageTable, message: Message, at: float = 1.0, *, fresh: bool = True) -> Message:
    """A message that waits in its scheduled queue."""
    table.insert(message)
    table.schedule.assign(message)
    table.schedule.wait(message, at, fresh)
    message.state = MessageState.MESSAGE_SCHEDULED
    return message


def test_what_waits_for_a_suspension_or_a_dead_host_is_told_by_its_queue() -> None:
    table = MessageTable()
    one = waiting(table, make(1, recipients=[b"a@one.test"], tenant=b"shop"))
    two = waiting(table, make(2, recipients=[b"a@two.test"]))
    three = waiting(table, make(3, recipients=[b"a@three.test"]), fresh=False)
    schedule = table.schedule
    assert numbers(found(table, state="ready")) == [1, 2, 3]
    schedule.suspend("tenant", b"shop", 0, "unpaid")
    schedule.leave_alone(schedule.assign(two), NEVER, b"connection refused")
    schedule.leave_alone(schedule.assign(three), NEVER, b"suspended: site mx.three.test: asked")
    assert numbers(found(table, state="suspended")) == [1, 3]
    assert numbers(found(table, state="scheduled")) == [2]
    assert [state_name(schedule, message) for message in (one, two, three)] == ["suspended", "scheduled", "suspended"]
    schedule.resume("tenant", b"shop")
    assert numbers(found(table, state="ready")) == [1]


def test_the_scheduled_queue_knows_domain_and_tenant() -> None:
    """No envelope is looked at where the queue says it; that of a message to several domains is."""
    table = MessageTable()
    for message in (
        make(1, recipients=[b"a@One.test"], tenant=b"shop"),
        make(2, recipients=[b"a@one.test", b"b@one.test"]),
        make(3, recipients=[b"a@two.test"], tenant=b"shop"),
        make(4, recipients=[b"a@two.test", b"b@one.test"], tenant=b"shop"),
    ):
        waiting(table, message).buffer = None  # nor on disk: whoever looks there finds nothing
    assert numbers(found(table, to_domain=b"one.test")) == [1, 2]
    assert numbers(found(table, tenant=b"shop")) == [1, 3, 4]
    assert numbers(found(table, tenant=b"")) == [2]
    assert numbers(found(table, tenant=b"sho")) == []
    assert numbers(found(table, to_domain=b"one.test", tenant=b"shop")) == [1]
    selection = Selection(table, to_domain=b"one.test")
    assert selection.step(1 << 20)
    assert selection.count == 3  # the one to several domains is a candidate, until its envelope is looked for


def test_an_internationalised_domain_is_found_in_both_of_its_forms() -> None:
    table = MessageTable()
    table.schedule.fold_domain = folded_domain
    for message in (
        make(1, recipients=["a@Bücher.test".encode()]),
        make(2, recipients=[b"a@XN--bcher-kva.test", b"b@xn--bcher-kva.test"]),
        make(3, recipients=[b"a@buecher.test"]),
    ):
        waiting(table, message).buffer = None
    several = make(4, recipients=["a@bücher.test".encode(), b"b@one.test"])  # its envelope is looked at
    waiting(table, several)
    labels = {"to_domain": b"xn--bcher-kva.test", "to_domain_unicode": "bücher.test".encode()}
    assert numbers(found(table, **labels)) == [1, 2, 4]
    assert table.schedule.queue(several) is not table.schedule.queue(found(table, **labels)[0])
    queues = [queue.domain for queue in table.schedule.queues if queue is not None]
    assert queues.count(b"xn--bcher-kva.test") == 1, "one domain is one scheduled queue"


# ------------------------------------------------------------------ the oldest few


@given(st.lists(st.integers(1, 1 << 62), unique=True, max_size=200), st.integers(1, 60), st.integers(1, 50))
def test_the_oldest_are_kept_whatever_the_order(order: list[int], most: int, slots: int) -> None:
    table = table_of(make(number, received_us=0) for number in order)
    assert numbers(found(table, most=most, slots=slots)) == sorted(order)[:most]


def test_it_says_when_there_were_more() -> None:
    table = table_of(map(make, range(1, 11)))
    for most, cut in ((9, True), (10, False), (11, False), (0, False)):
        selection = Selection(table, most=most)
        assert selection.step(1 << 20)
        assert (selection.cut, selection.count, selection.left) == (cut, min(most or 10, 10), min(most or 10, 10))


# ------------------------------------------------------------------ envelopes on disk


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    return Shard(tmp_path / "shard", segment_octets=1 << 16)


def on_disk(shard: Shard, **envelope: Any) -> Message:
    """A message whose mail data is on disk only."""
    filled = {"reverse_path": b"me@origin.test", "received_us": 5, **envelope}
    filled["recipients"] = [(path, 0, b"") for path in envelope.get("recipients", [b"you@dest.test"])]
    message = new_message(make_accepted(filled, b"x" * 3000, shard.journal.new_id()))
    shard.journal.append(message, shard.receiver)
    shard.settle()
    message.buffer = None
    shard.table.insert(message)
    return message


def test_envelopes_on_disk_are_read(shard: Shard) -> None:
    one = on_disk(shard, recipients=[b"a@one.test"])
    two = on_disk(shard, recipients=[b"a@two.test"], tenant=b"shop")
    many = on_disk(shard, recipients=[b"r%d@many.test" % i for i in range(200)] + [b"a@one.test"])
    other = on_disk(shard, reverse_path=b"other@origin.test", recipients=[b"a@one.test"])
    assert found(shard.table, to_domain=b"one.test") == [one, many, other]
    assert found(shard.table, tenant=b"shop") == [two]
    assert found(shard.table, reverse_path=b"ME@origin.test") == [one, two, many]
    assert found(shard.table, reverse_path=b"@origin.test") == [one, two, many, other]
    assert all(message.buffer is None for message in shard.table)


def test_memory_decides_where_it_can(shard: Shard) -> None:
    """No envelope is read for a reverse-path of another hash, another state, another time."""
    on_disk(shard)
    on_disk(shard, reverse_path=b"other@origin.test")
    for conditions, looks in (
        ({"reverse_path": b"me@origin.test"}, 1),
        ({"reverse_path": b"nobody@origin.test"}, 0),
        ({"to_domain": b"dest.test", "state": "held"}, 0),
        ({"to_domain": b"dest.test", "before_us": 5}, 0),
        ({"state": "ready"}, 0),
        ({"to_domain": b"dest.test"}, 2),
    ):
        selection = Selection(shard.table, **conditions)  # type: ignore[arg-type]
        assert selection.step(1 << 20)
        assert selection.load(10) == looks


def test_in_memory_and_on_disk_in_one_batch_stay_in_order(shard: Shard) -> None:
    messages = [on_disk(shard) for _ in range(6)]
    for message in messages[1::2]:
        message.buffer = shard.make(b"", reverse_path=b"me@origin.test").loaded
    assert found(shard.table, reverse_path=b"me@origin.test", batch=4) == messages


def test_a_harmed_envelope_is_counted_and_does_not_match(shard: Shard) -> None:
    message = on_disk(shard)
    segment = message.segment
    with open(segment.path, "r+b") as file:
        file.seek(message.offset_octets + 60)
        file.write(b"\xff\xff")
    selection = Selection(shard.table, to_domain=b"dest.test")
    assert selection.step(1 << 20)
    assert selection.load(10) == 1
    selection.examine()
    assert selection.matching() == []
    assert selection.unreadable == 1


def test_a_message_that_is_over_before_it_is_read_does_not_match(shard: Shard) -> None:
    stays, ends = on_disk(shard), on_disk(shard)
    selection = Selection(shard.table, to_domain=b"dest.test")
    assert selection.step(1 << 20)
    selection.sort()
    assert selection.load(10) == 2
    shard.journal.done(ends)
    shard.table.discard(ends)
    selection.examine()
    assert selection.matching() == [stays]
    assert selection.unreadable == 0


# ------------------------------------------------------------------ while the table changes


def test_a_table_that_grows_is_walked_again() -> None:
    table = table_of(map(make, range(1, 600)))
    selection = Selection(table)
    assert not selection.step(512)
    for number in range(600, 1000):
        table.insert(make(number))
    assert table.capacity > 1024
    while not selection.step(64):
        pass
    selection.sort()
    assert selection.load(10_000) == 0
    assert numbers(selection.matching()) == list(range(1, 1000))


def test_a_walk_misses_nothing_when_messages_end_meanwhile() -> None:
    chance = Random(2)
    for _ in range(20):
        messages = {number: make(number, received_us=0) for number in chance.sample(range(1, 1 << 60), 600)}
        table = table_of(messages.values())
        selection = Selection(table)
        stay = set(messages)
        while not selection.step(16):
            for number in chance.sample(sorted(stay), 3):
                stay.discard(number)
                messages[number].state = MessageState.MESSAGE_GONE
                table.discard(messages[number])
        selection.sort()
        selection.load(10_000)
        assert numbers(selection.matching()) == sorted(stay)


def test_no_reference_is_kept_or_lost(shard: Shard) -> None:
    message = on_disk(shard)
    before = sys.getrefcount(message), sys.getrefcount(message.segment)
    found(shard.table, to_domain=b"dest.test")
    for stage in range(3):
        selection = Selection(shard.table, to_domain=b"dest.test", most=1)
        if stage > 0:
            selection.step(1 << 20)
        if stage > 1:
            selection.load(1)
        del selection
    assert (sys.getrefcount(message), sys.getrefcount(message.segment)) == before
    assert id_of(message) == message.id
