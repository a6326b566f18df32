"""The sandbox's sink: an SMTP server that accepts everything and keeps it in a Maildir, newest MOST_KEPT messages.

It is a process of its own that speaks SMTP with the same compiled session as the relay, so that what a developer sees
in the sandbox went the whole way: accepted, journalled, and delivered over a connection.

Input: a bound loopback socket and the Maildir's folder. Output: one file per message.
Fails: a message that cannot be written is answered 451 or 452 and stays in the relay's queue.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from angarium._core.event_log import EventLog
from angarium._core.server_session import CallbackIntake, ListenerProfile, Reception
from angarium.delivery.maildir import deliver

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from angarium._core.counters import Counters
    from angarium._core.record import Message

MOST_KEPT = 2000
SWEEP_S = 1.0
HOSTNAME = "sink.sandbox.invalid"


class Sink:
    """The sink process."""

    def __init__(self, folder: Path, counters: Counters) -> None:
        self._folder = folder
        self._counters = counters
        self._kept: list[Path] = []

    async def run(self, sock: socket.socket, ready_fd: int) -> None:
        """Serve until SIGTERM."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        for name in ("tmp", "new", "cur"):
            (self._folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._kept = sorted((self._folder / "new").iterdir(), key=lambda path: path.stat().st_mtime)
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sink")

        def take(message: Message, done: Callable[[int], None]) -> None:
            future = loop.run_in_executor(executor, self._write, message)
            future.add_done_callback(lambda finished: done(finished.result()))

        reception = Reception(self._counters, EventLog(None, self._counters), CallbackIntake(take))
        profile = ListenerProfile(
            hostname=HOSTNAME.encode(),
            name=b"sink",
            client_policy=lambda address: (True, False),
            message_octets=1 << 30,
            errors=0,
            commands_per_second=1 << 30,
            hops=1000,
        )
        server = await loop.create_server(lambda: reception.session(profile), sock=sock)
        os.write(ready_fd, b"1")
        os.close(ready_fd)
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), SWEEP_S)
            except TimeoutError:
                reception.sweep()
        server.close()
        reception.drain()
        executor.shutdown(wait=True)

    def _write(self, message: Message) -> int:
        """One message into the Maildir, in the writer's thread. Returns an errno, 0 for success."""
        buffer = message.loaded
        recipients = [buffer.recipient(index)[0] for index in range(message.recipients)]
        try:
            self._kept.append(deliver(self._folder, HOSTNAME, buffer.reverse_path(), recipients, buffer.mail_data()))
            while len(self._kept) > MOST_KEPT:
                self._kept.pop(0).unlink(missing_ok=True)
        except OSError as failure:
            return failure.errno or errno.EIO
        return 0
