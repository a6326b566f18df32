"""The sockets that come from systemd, as sd_listen_fds(3) has it."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from angarium.app.inherited import take_sockets

if TYPE_CHECKING:
    from collections.abc import Iterator

PID = 4711


@pytest.fixture
def first() -> Iterator[int]:
    """Two listening sockets at descriptors next to each other; the first of them."""
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    first = 200
    while any(os.path.exists(f"/proc/self/fd/{first + i}") for i in range(2)):
        first += 2
    for offset, sock in enumerate(made):
        os.dup2(sock.fileno(), first + offset, inheritable=True)
        sock.close()
    yield first
    for offset in range(2):
        try:
            os.close(first + offset)
        except OSError:
            continue


def environment(**changes: str) -> dict[str, str]:
    return {"LISTEN_PID": str(PID), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "smtp:local", "PATH": "/bin"} | changes


def test_they_are_taken_by_name_and_forgotten(first: int) -> None:
    told = environment()
    found = take_sockets(told, PID, first)
    assert {name: sock.fileno() for name, sock in found.items()} == {"smtp": first, "local": first + 1}
    assert not any(sock.get_inheritable() for sock in found.values())
    assert told == {"PATH": "/bin"}
    for sock in found.values():
        sock.close()


@pytest.mark.parametrize("changes", [{"LISTEN_PID": "1"}, {"LISTEN_PID": ""}, {"LISTEN_FDS": ""}, {"LISTEN_FDS": "x"}])
def test_what_is_meant_for_another_process_is_left(first: int, changes: dict[str, str]) -> None:
    told = environment(**changes)
    assert take_sockets(told, PID, first) == {}
    assert told == {"PATH": "/bin"}


def test_none_at_all() -> None:
    assert take_sockets({}, PID) == {}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"LISTEN_FDNAMES": "smtp"}, "announces 2 sockets and 1 names"),
        ({"LISTEN_FDNAMES": "smtp:smtp"}, 'several sockets named "smtp"'),
        ({"LISTEN_FDNAMES": ""}, 'several sockets named "unknown"'),
    ],
)
def test_what_cannot_be_is_said(first: int, changes: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        take_sockets(environment(**changes), PID, first)


def test_a_socket_that_does_not_listen_is_said(first: int) -> None:
    with socket.socket() as idle:
        os.dup2(idle.fileno(), first)
    with pytest.raises(ValueError, match='"smtp" is no listening stream socket'):
        take_sockets(environment(), PID, first)


def test_a_descriptor_that_is_no_socket_is_said(first: int) -> None:
    read_fd, write_fd = os.pipe()
    os.dup2(read_fd, first)
    os.close(read_fd)
    os.close(write_fd)
    with pytest.raises(ValueError, match='"smtp", is no socket'):
        take_sockets(environment(), PID, first)
