"""Listening sockets that systemd has opened (sd_listen_fds(3)): who they are, and what is expected of them.

Job: take the descriptors that came with the process, by the names that their units give them (FileDescriptorName=), so
that a listener can be `systemd:NAME`. They are taken once, when the relay starts, and the environment that announced
them is forgotten: no child takes them for its own.

Fails: ValueError, in a sentence, when what came is not what was announced, or is no listening stream socket. Sockets
that no listener asks for stay open and unserved; the caller says so.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

__all__ = ["take_sockets"]

FIRST_FD = 3  # SD_LISTEN_FDS_START
NAMELESS = "unknown"  # what systemd calls a socket without a name


def take_sockets(environment: MutableMapping[str, str], pid: int, first: int = FIRST_FD) -> dict[str, socket.socket]:
    """The sockets by name; none when this process was not started with any.

    `environment`: LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are taken out of it. ValueError: see above.
    """
    whose = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "")
    if whose != str(pid) or not count.isdigit():
        return {}  # not for us: an ancestor's
    named = names.split(":") if names else [NAMELESS] * int(count)
    if len(named) != int(count):
        raise ValueError(f"systemd announces {count} sockets and {len(named)} names: LISTEN_FDNAMES={names}")
    for name in named:
        if named.count(name) > 1:
            raise ValueError(
                f'systemd has opened several sockets named "{name}"; give each a socket unit of its own, with a '
                "FileDescriptorName of its own"
            )
    found: dict[str, socket.socket] = {}
    try:
        for fd, name in enumerate(named, first):
            found[name] = _listening(fd, name)
    except ValueError:
        for sock in found.values():
            sock.close()
        raise
    return found


def _listening(fd: int, name: str) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as failure:
        raise ValueError(f'descriptor {fd}, "{name}", is no socket: {failure.strerror}') from failure
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise ValueError(f'"{name}" is no listening stream socket: ListenStream= and Accept=no are wanted')
    return sock
