"""Mail of this machine's own users: a Unix socket on which the kernel says who speaks.

Job: serve `sendmail.socket` with the same compiled sessions as every listener. SO_PEERCRED gives the user's id before
the first word; his log-in is the session's, so that routes, permissions and the event log know it, and the trace field
says "user NAME, uid N" where it has an address otherwise (RFC 5321 §4.4 leaves room for it in a comment).

Whoever may open the socket may relay: that is a matter of its permissions. It is 0666 in a folder that anybody may
enter; put it into a folder for some to restrict it.

Fails: LocalFailure when the socket cannot be made; the worker says so and tries again. Bounds: the limits of [limits],
all local users together counting as one client.
"""

from __future__ import annotations

import asyncio
import functools
import os
import pwd
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from angarium._core.server_session import ServerSession
from angarium.delivery.short_path import short_path

if TYPE_CHECKING:
    from angarium._core.listener_profile import ListenerProfile
    from angarium._core.server_session import Reception

__all__ = ["LocalFailure", "introduce", "listen_locally", "remove_socket", "user_name"]

MOST_USERS = 1024  # whose names are remembered
SOCKET_MODE_MASK = 0o111


class LocalFailure(Exception):
    """The socket cannot be made; the text says why."""


@functools.lru_cache(MOST_USERS)
def user_name(uid: int) -> str:
    """The log-in of a user of this machine; the number where there is none that can be shown."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
    plain = name.isascii() and name.isprintable() and len(name) <= 100 and not any(mark in name for mark in '()\\"')
    return name if plain else str(uid)


def introduce(session: ServerSession, uid: int, beside: str = "") -> None:
    """Tell a session which user of this machine it speaks with."""
    name = user_name(uid)
    session.introduce(name.encode("ascii"), f"user {name}, uid {uid}{beside}".encode("ascii"))


class LocalSession(ServerSession):
    """A session with a user of this machine."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        introduce(self, _peer(transport))
        super().connection_made(transport)


def _peer(transport: asyncio.BaseTransport) -> int:
    """The user id of who connected, on the kernel's word."""
    fd = transport.get_extra_info("socket").fileno()
    with socket.socket(fileno=os.dup(fd)) as sock:
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)


async def listen_locally(path: str, profile: ListenerProfile, reception: Reception) -> asyncio.Server:
    """Serve the socket at path; one that was left behind is replaced. LocalFailure when that cannot be."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _bind(sock, path)
    except OSError as failure:
        sock.close()
        raise LocalFailure(f"sendmail.socket {path}: {failure.strerror}") from None
    sock.setblocking(False)
    return await asyncio.get_running_loop().create_unix_server(lambda: LocalSession(reception, profile), sock=sock)


def _bind(sock: socket.socket, path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if Path(path).is_socket():
        Path(path).unlink()
    mask = os.umask(SOCKET_MODE_MASK)
    try:
        with short_path(path) as name:
            sock.bind(name)
    finally:
        os.umask(mask)


def remove_socket(path: str) -> None:
    """Nobody listens there any more."""
    Path(path).unlink(missing_ok=True)
