"""The sandbox's sink: an SMTP server that accepts everything and keeps it in a Maildir, newest MOST_KEPT messages.

It is a process of its own that speaks SMTP with the same compiled session as the relay, so that what a developer sees
in the sandbox went the whole way: accepted, journalled, and delivered over a connection.

It can play several hosts, each on a socket of its own, and a host may have a judge who takes, defers or refuses each
recipient, at once or after a while: `angarium demo` makes its providers of them.

Input: bound loopback sockets and the Maildir's folder. Output: one file per message.
Fails: a message that cannot be written is answered 451 or 452 and stays in the relay's queue.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from angarium._core.event_log import EventLog
from angarium._core.intake import CallbackIntake
from angarium._core.listener_profile import ListenerProfile
from angarium._core.recipient_policy import RecipientPolicy
from angarium._core.server_session import Reception
from angarium.delivery.maildir import deliver

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from angarium._core.counters import Counters
    from angarium._core.decision import Decision
    from angarium._core.record import Message
    from angarium._core.server_session import ServerSession
    from angarium.admin.heartbeat import Heart

    Judge = Callable[[bytes], bytes | Callable[[Decision], None]]

MOST_KEPT = 2000
SWEEP_S = 1.0
HOSTNAME = "sink.sandbox.invalid"


@dataclass(frozen=True, slots=True)
class Host:
    """One host that the sink plays.

    judge: mailbox -> what is said of it, as RecipientPolicy.verify; None: all is taken. With one only mail to `domains`
    is taken.
    """

    name: str = HOSTNAME
    domains: tuple[str, ...] = ()
    judge: Judge | None = None
    start_tls: Callable[[ServerSession], None] | None = None


class Sink:
    """The sink process."""

    def __init__(
        self, folder: Path, counters: Counters, taken: Callable[[bytes, list[bytes]], None] = lambda path, to: None
    ) -> None:
        """taken: is told the reverse-path and the recipients of each message that has been kept, in the loop."""
        self._folder = folder
        self._taken = taken
        self._kept: list[Path] = []
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sink")
        self._reception = Reception(counters, EventLog(None, counters), CallbackIntake(self._take))
        self._servers: list[asyncio.Server] = []

    async def run(self, sock: socket.socket, ready_fd: int, heart: Heart) -> None:
        """Serve one host that takes everything, until SIGTERM. heart: beats while the loop turns."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self.open(sock, Host())
        heart.beat_by(loop)
        os.write(ready_fd, b"1")
        os.close(ready_fd)
        await self.sweep_until(stop)
        self.close()

    async def open(self, sock: socket.socket, host: Host) -> None:
        """Answer as `host` on a socket."""
        for name in ("tmp", "new", "cur"):
            (self._folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._servers:
            self._kept = sorted((self._folder / "new").iterdir(), key=lambda path: path.stat().st_mtime)
        policy = None
        if host.judge is not None:
            policy = RecipientPolicy([domain.encode() for domain in host.domains], verify=host.judge)
        profile = ListenerProfile(
            hostname=host.name.encode(),
            name=b"sink",
            client_policy=lambda address: (policy is None, False),
            message_octets=1 << 30,
            errors=0,
            commands_per_second=1 << 30,
            hops=1000,
            start_tls=host.start_tls,
            recipient_policy=policy,
        )
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(lambda: self._reception.session(profile), sock=sock))

    async def sweep_until(self, stop: asyncio.Event) -> None:
        """Let silent sessions end, until `stop` is set."""
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), SWEEP_S)
            except TimeoutError:
                self._reception.sweep()

    def close(self) -> None:
        """Take no more connections, end the sessions, and write what has been taken."""
        for server in self._servers:
            server.close()
        self._reception.drain()
        self._executor.shutdown(wait=True)

    def _take(self, message: Message, done: Callable[[int], None]) -> None:
        buffer = message.loaded
        reverse_path = buffer.reverse_path()
        recipients = [buffer.recipient(index)[0] for index in range(message.recipients)]
        future = asyncio.get_running_loop().run_in_executor(self._executor, self._write, message, recipients)

        def written(finished: asyncio.Future[int]) -> None:
            error = finished.result()
            if not error:
                self._taken(reverse_path, recipients)
            done(error)

        future.add_done_callback(written)

    def _write(self, message: Message, recipients: list[bytes]) -> int:
        """One message into the Maildir, in the writer's thread. Returns an errno, 0 for success."""
        buffer = message.loaded
        try:
            self._kept.append(deliver(self._folder, HOSTNAME, buffer.reverse_path(), recipients, buffer.mail_data()))
            while len(self._kept) > MOST_KEPT:
                self._kept.pop(0).unlink(missing_ok=True)
        except OSError as failure:
            return failure.errno or errno.EIO
        return 0
