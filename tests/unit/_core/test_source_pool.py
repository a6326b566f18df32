"""Which source of its pool a message goes by, and what becomes of that when pools change."""

from __future__ import annotations

from collections import Counter
from typing import Any

from angarium._core.record import MessageFlag, make_accepted, new_message
from angarium._core.schedule import MessageTable
from angarium._core.source_pool import Outlet, SourcePools

BULK = (b"bulk", [(b"a", 1), (b"b", 3)])


def pools(*given: tuple[bytes, list[tuple[bytes, int]]]) -> SourcePools:
    made = SourcePools()
    made.change(list(given))
    return made


def outlet(pools: SourcePools, number: int) -> Outlet:
    found = pools.outlets[number]
    assert found is not None
    return found


def to(number: int, domain: bytes = b"one.test", **more: Any) -> Any:
    envelope = {"reverse_path": b"a@b.test", "recipients": [(b"x@" + domain, 0, b"")], **more}
    return new_message(make_accepted(envelope, b"", number << 22))


def test_turns_are_taken_by_weight_and_not_in_blocks() -> None:
    made = pools(BULK)
    names = [outlet(made, made.own[b"bulk"].take()).source for _ in range(8)]
    assert names == [b"b", b"a", b"b", b"b"] * 2


def test_own_mail_and_a_routes_take_turns_of_their_own() -> None:
    made = pools(BULK)
    own = {made.own[b"bulk"].take() for _ in range(4)}
    by_route = {made.of_routes[b"bulk"].take() for _ in range(4)}
    assert not own & by_route
    assert {outlet(made, number).by_route for number in by_route} == {True}


def test_what_is_down_or_suspended_gets_nothing_new_while_another_is_there() -> None:
    made = pools((b"p", [(b"a", 1), (b"b", 1), (b"c", 2)]))
    members = made.own[b"p"].outlets
    members[0].down = True
    members[2].suspended = True
    assert {made.own[b"p"].take() for _ in range(10)} == {members[1].number}
    members[1].down = True
    counts = Counter(made.own[b"p"].take() for _ in range(40))
    assert counts == {members[0].number: 10, members[1].number: 10, members[2].number: 20}


def test_a_change_keeps_numbers_and_says_where_mail_goes_instead() -> None:
    made = pools(BULK, (b"other", [(b"a", 1)]))
    a, b = made.own[b"bulk"].outlets
    (route_other,) = made.of_routes[b"other"].outlets
    made.change([(b"bulk", [(b"b", 1), (b"c", 1)])])
    assert made.own[b"bulk"].outlets[0].number == b.number
    assert b.instead is None
    assert a.instead is made.own[b"bulk"]
    assert not a.missing
    assert route_other.instead is made.none
    assert made.none.take() == 0
    (own_other,) = (each for each in made.outlets if each and each.pool == b"other" and not each.by_route)
    assert own_other.missing
    assert own_other.instead is None
    made.change([BULK, (b"other", [(b"c", 1)])])
    assert a.instead is None
    assert own_other.instead is made.own[b"other"]
    assert not own_other.missing


def test_mail_that_names_its_pool_is_assigned_where_it_waits() -> None:
    table = MessageTable()
    table.schedule.pools.change([BULK])
    sources = Counter()
    for number in range(1, 9):
        message = to(number, source_pool=b"bulk")
        assert message.flags & MessageFlag.MESSAGE_POOL
        table.insert(message)
        queue = table.schedule.assign(message)
        assert queue.outlet == message.outlet
        sources[outlet(table.schedule.pools, message.outlet).source] += 1
    assert sources == {b"a": 2, b"b": 6}
    plain = to(9)
    table.insert(plain)
    assert (table.schedule.assign(plain).outlet, plain.outlet) == (0, 0)
    assert len([queue for queue in table.schedule.queues if queue is not None]) == 3


def test_mail_of_a_pool_that_is_not_there_waits_under_its_name_and_is_counted() -> None:
    table = MessageTable()
    found = table.schedule.pools
    messages = [to(number, source_pool=b"gone") for number in range(1, 4)]
    for message in messages:
        table.insert(message)
        table.schedule.assign(message)
    assert found.take_missed() == {b"gone": 3}
    assert found.take_missed() == {}
    assert outlet(found, messages[0].outlet).missing
    assert {message.outlet for message in messages} == {messages[0].outlet}
    found.change([(b"gone", [(b"a", 1)])])
    assert outlet(found, messages[0].outlet).instead is found.own[b"gone"]
