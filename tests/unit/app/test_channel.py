"""Orders and answers between the supervisor and a worker, with open files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from angarium.app.channel import Answer, Channel, Order, contents_of, file_of, pair

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    both = pair()
    yield both
    for end in both:
        end.close()


def test_an_order_carries_open_files(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    octets = os.urandom(3_000_000)
    fd = file_of(octets)
    here.order(Order("prepare", 7, ["127.0.0.1:25"]), [fd, fd])
    os.close(fd)
    received = there.next_order()
    assert received is not None
    order, files = received
    assert (order.op, order.number, order.addresses) == ("prepare", 7, ["127.0.0.1:25"])
    assert len(files) == 2
    assert contents_of(files[0]) == octets
    assert contents_of(files[1]) == octets
    for received_fd in files:
        assert not os.get_inheritable(received_fd)
        os.close(received_fd)


def test_messages_come_one_by_one_and_the_end_is_told(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    there.answer(Answer("prepared", 1))
    there.answer(Answer("committed", 1))
    assert [here.next_answer(), here.next_answer()] == [Answer("prepared", 1), Answer("committed", 1)]
    with pytest.raises(BlockingIOError):
        here.next_answer()
    there.close()
    assert here.next_answer() is None
    with pytest.raises(BrokenPipeError):
        here.order(Order("commit", 1))


def test_many_long_errors_fit(ends: tuple[Channel, Channel]) -> None:
    here, there = ends
    there.answer(Answer("failed", 1, ["x" * 5000] * 500))
    answer = here.next_answer()
    assert answer is not None
    assert len(answer.errors) == 50
    assert {len(error) for error in answer.errors} == {1000}


def test_who_does_not_read_is_not_waited_for(ends: tuple[Channel, Channel]) -> None:
    here, _there = ends

    def flood() -> None:
        while True:
            here.order(Order("result", fields={"text": "y" * 10_000}))

    with pytest.raises(BlockingIOError):
        flood()
