"""The admin process: HTTP for operators and for Prometheus, never on the path of a message.

Job: run() serves the application of angarium.admin.api until SIGTERM or SIGINT, then lets requests under way end within
GRACE_S.
Input: the configuration, the slab's descriptor, the workers' sockets, the board of heartbeats, and a listening socket
or the address to bind.
Output: when it listens, one octet on `ready_fd`, which is then closed.

Fails: OSError when it cannot listen or read the token, ValueError for an address, a slab or a token that is none: all
before it is ready.
Bounds: CONNECTIONS_MAX connections at once, others are answered 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from angarium._core.counters import Slab
from angarium.admin.api import create_app
from angarium.admin.node import node_socket_path
from angarium.admin.sandbox_mail import SandboxMail
from angarium.admin.services import Services
from angarium.admin.suspensions import SuspensionBook
from angarium.admin.workers import Workers
from angarium.config.resolve import needs_access, needs_events
from angarium.delivery.event_protocol import events_socket_path
from angarium.delivery.lookup_client import LookupClient
from angarium.delivery.lookup_protocol import socket_path
from angarium.policy.access_protocol import access_socket_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from litestar.types import ASGIApp

    from angarium.admin.heartbeat import Board, Heart
    from angarium.config.address import ListenAddress
    from angarium.config.model import Config

__all__ = ["bind", "read_token", "run"]

CONNECTIONS_MAX = 256
GRACE_S = 3
BACKLOG = 128
LOOKUP_PATIENCE_S = 1.0


def run(
    config: Config,
    slab_fd: int,
    worker_sockets: Sequence[str | Path],
    board: Board,
    *,
    sock_fd: int | None = None,
    ready_fd: int | None = None,
    supervisor_pid: int | None = None,
) -> None:
    """Serve until told to stop. `sock_fd` is a socket that listens already; without it config.admin.listen is bound."""
    if config.admin.token_file is None and not config.admin.listen.is_loopback:
        raise ValueError(f"admin.token_file is needed to listen on {config.admin.listen}, which is not loopback")
    spool = Path(config.node.spool)
    services = Services(
        hostname=config.node.hostname,
        slab=Slab.attach(slab_fd),
        board=board,
        workers=Workers(worker_sockets),
        suspensions=SuspensionBook(spool),
        sandbox_mail=SandboxMail(spool / "sink" / "Maildir") if config.sandbox else None,
        token=read_token(Path(config.admin.token_file)) if config.admin.token_file else None,
        supervisor_pid=supervisor_pid,
        spool=spool,
        event_file=None if config.event_file is None else Path(config.event_file),
        dialogues=config.trace.dialogues,
        node_socket=node_socket_path(spool) if supervisor_pid is not None else None,
        lookup=LookupClient(
            socket_path(spool), monotonic=time.monotonic, random=random.Random(), away_s=LOOKUP_PATIENCE_S
        ),
        access=LookupClient(
            access_socket_path(spool),
            monotonic=time.monotonic,
            random=random.Random(),
            away_s=LOOKUP_PATIENCE_S,
            away="the access process does not answer",
        )
        if needs_access(config)
        else None,
        events=LookupClient(
            events_socket_path(spool),
            monotonic=time.monotonic,
            random=random.Random(),
            away_s=LOOKUP_PATIENCE_S,
            away="the events process does not answer",
        )
        if needs_events(config)
        else None,
    )
    listener = bind(config.admin.listen) if sock_fd is None else socket.socket(fileno=sock_fd)
    serve(create_app(services), listener, board.heart("admin"), ready_fd)


def serve(app: ASGIApp, listener: socket.socket, heart: Heart, ready_fd: int | None = None) -> None:
    """Serve an application on a listening socket until SIGTERM or SIGINT."""
    settings = uvicorn.Config(
        app,
        loop="none",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_graceful_shutdown=GRACE_S,
    )
    with listener:
        uvloop.run(_Server(settings, heart, ready_fd).serve(sockets=[listener]))


class _Server(uvicorn.Server):
    """Tells when it listens, and ends with an ordinary exit where uvicorn would send itself the signal once more."""

    def __init__(self, config: uvicorn.Config, heart: Heart, ready_fd: int | None) -> None:
        super().__init__(config)
        self._heart = heart
        self._ready_fd = ready_fd

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._heart.beat_by(asyncio.get_running_loop())
        if self._ready_fd is not None:
            os.write(self._ready_fd, b"1")
            os.close(self._ready_fd)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.handle_exit)
        yield


def bind(address: ListenAddress) -> socket.socket:
    """A listening socket. A Unix socket that nobody listens on any more is replaced; it is for its owner and group."""
    if not address.path:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(address.path)
        mask = os.umask(0o117)
        try:
            listener.bind(address.path)
        finally:
            os.umask(mask)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def read_token(path: Path) -> str:
    """The token in a file: its first line. ValueError when it is too short to be a secret, or has odd characters."""
    with open(path, encoding="utf-8") as file:
        token = file.readline(1024).strip()
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"{path}: the token must be one line of at least 16 printable ASCII characters without spaces")
    return token
