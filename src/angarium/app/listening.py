"""The listening sockets of a node, which its supervisor binds, keeps, and gives to the processes.

Job: `bind` makes one socket; ListeningSockets knows what a listener needs: a TCP socket for each worker (SO_REUSEPORT),
one Unix socket for all of them, with its mode and group, or one that systemd has opened.

Fails: StartFailure, in one line, for an address that cannot be bound, a group that is not there, or a socket that
systemd was to open and did not. A Unix socket that somebody listens on, and any other file in its place, stays.
"""

from __future__ import annotations

import grp
import logging
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from angarium.app.inherited import take_sockets
from angarium.app.start_failure import StartFailure
from angarium.delivery.short_path import short_path

if TYPE_CHECKING:
    from collections.abc import Container, MutableMapping, Sequence

    from angarium.config.address import ListenAddress
    from angarium.config.model import Listener

__all__ = ["ListeningSockets", "bind", "bind_path", "unlink"]

log = logging.getLogger("angarium")

BACKLOG = 1024


class ListeningSockets:
    """What the listeners of one node are bound to."""

    def __init__(self) -> None:
        self._inherited: dict[str, socket.socket] = {}

    def inherit(self, environment: MutableMapping[str, str], listeners: Sequence[Listener]) -> None:
        """Take the sockets that systemd has opened."""
        try:
            self._inherited = take_sockets(environment, os.getpid())
        except ValueError as failure:
            raise StartFailure(str(failure)) from failure
        for name in sorted(self._inherited.keys() - {listener.listen.name for listener in listeners}):
            log.warning('systemd has opened a socket "%s" that no listener has as "systemd:%s"', name, name)

    def of_listener(
        self, listener: Listener, worker: int, first: socket.socket | None, owner: tuple[int, int]
    ) -> socket.socket:
        """The socket of a listener for one worker: its own, or one for all of them. `first`: that of worker 0.

        owner: user and group of a Unix socket, -1: as they are.
        """
        listen = listener.listen
        if listen.host:
            return bind(listen, shared=True, first=worker == 0)
        if first is not None:
            return first
        if listen.path:
            return _bind_door(listener, owner)
        if listen.name not in self._inherited:
            known = ", ".join(sorted(self._inherited)) or "none"
            raise StartFailure(
                f'listener "{listener.name}": systemd has opened no socket "{listen.name}" (there: {known})'
            )
        return self._inherited[listen.name]

    def close(self, socks: Sequence[socket.socket], keep: Container[socket.socket]) -> None:
        """Close what is not kept; what systemd has opened stays open for a listener that may come back."""
        for sock in socks:
            if sock not in keep and sock not in self._inherited.values():
                sock.close()


def bind(address: ListenAddress, *, shared: bool = False, first: bool = True) -> socket.socket:
    """A listening socket.

    With `shared` there will be several on this address, and the kernel spreads connections over them. The `first` one
    is bound as if it were alone: or a second relay of the same user would join in unnoticed, and take half of the mail.
    """
    if address.path:
        return bind_path(address)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared and not first:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind((address.host, address.port))
        if shared and first:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.listen(BACKLOG)
    except OSError as failure:
        sock.close()
        raise StartFailure(f"cannot listen on {address}: {failure.strerror}") from failure
    return sock


def bind_path(address: ListenAddress, *, mode: int | None = None, owner: tuple[int, int] = (-1, -1)) -> socket.socket:
    """A listening Unix socket. `mode`: None: as the umask says; `owner`: user and group, -1: as they are."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = None if mode is None else os.umask(0o777 & ~mode)  # there is no moment at which more may connect
    try:
        with short_path(address.path) as name:
            _make_room(address, name)
            sock.bind(name)
            if owner != (-1, -1):
                os.chown(name, *owner)
        sock.listen(BACKLOG)
    except OSError as failure:
        sock.close()
        raise StartFailure(f"cannot listen on {address}: {failure.strerror}") from failure
    except StartFailure:
        sock.close()
        raise
    finally:
        if mask is not None:
            os.umask(mask)
    return sock


def unlink(path: str) -> None:
    """Remove the name of a Unix socket that nobody is to connect to any more; OSError."""
    with short_path(path) as name:
        os.unlink(name)


def _bind_door(listener: Listener, owner: tuple[int, int]) -> socket.socket:
    """A Unix socket that clients connect to: who may is said by its mode and its group."""
    uid, gid = owner
    try:
        if listener.socket_group is not None:
            gid = grp.getgrnam(listener.socket_group).gr_gid
    except KeyError as failure:
        raise StartFailure(f'listener "{listener.name}": socket_group: {failure}') from failure
    return bind_path(listener.listen, mode=int(listener.socket_mode, 8), owner=(uid, gid))


def _make_room(address: ListenAddress, name: str) -> None:
    """Remove the socket that a relay left behind; one that somebody listens on, and any other file, stays."""
    path = Path(name)
    if not path.is_socket():
        return  # nothing there, or bind will say that it is in the way
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(name) == 0:
            raise StartFailure(f"cannot listen on {address}: Address already in use")
    path.unlink(missing_ok=True)
