"""What a child process makes of the orders that it is given."""

from __future__ import annotations

import msgspec
import pytest

from angarium.app.process import give_orders, read_orders

ORDERS = give_orders(
    b"\x80",
    role="worker",
    number=1,
    workers=2,
    shards=4,
    slab_fd=7,
    board_fd=6,
    socket_fds=[8, 9],
    ready_fd=10,
    worker_sockets=["/run/worker-0.sock"],
    supervisor_pid=1,
)


def test_orders_are_read_as_they_were_given() -> None:
    orders = read_orders(ORDERS)
    assert (orders.role, orders.number, orders.socket_fds, orders.ready_fd) == ("worker", 1, [8, 9], 10)


@pytest.mark.parametrize("length", [0, 1, len(ORDERS) // 2, len(ORDERS) - 1])
def test_a_supervisor_that_is_killed_while_it_writes_them_is_no_error_of_the_child(length: int) -> None:
    with pytest.raises(SystemExit, match="the supervisor is gone"):
        read_orders(ORDERS[:length])


def test_orders_of_another_release_are_an_error() -> None:
    with pytest.raises(msgspec.ValidationError):
        read_orders(b"{}")
