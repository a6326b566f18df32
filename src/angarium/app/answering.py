"""The life of a process that answers the workers over a Unix socket: what lookup and access have in common.

Input: the listening socket that the supervisor keeps, so that questions wait in it while the process is replaced. It
runs until SIGTERM, publishes again and again, then answers what it can within `grace_s`; the rest is asked again of its
successor. SIGUSR1 reopens the event log. One octet on ready_fd says that questions are answered.

Fails: an exception in one of its steps ends the process; the supervisor starts another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

from angarium.app.collection import settle_garbage_collection
from angarium.delivery.lookup_server import LookupServer

if TYPE_CHECKING:
    import socket

    from angarium.admin.heartbeat import Heart

__all__ = ["AnsweringProcess"]


class AnsweringProcess:
    """One process. Whoever derives from it says what it answers, and fills the steps."""

    publish_s = 1.0
    grace_s = 1.0

    def __init__(self) -> None:
        self.server = LookupServer()
        self._stop = asyncio.Event()

    async def run(self, sock: socket.socket, ready_fd: int, heart: Heart) -> None:
        """Serve until SIGTERM. heart: beats while the loop turns."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        await self.begin()
        loop.add_signal_handler(signal.SIGUSR1, self.reopen_events)
        await self.server.start(sock)
        settle_garbage_collection()
        heart.beat_by(loop)
        os.write(ready_fd, b"1")
        os.close(ready_fd)
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), self.publish_s)
            await self.publish()
        await self.server.close(self.grace_s)
        await self.end()

    async def begin(self) -> None:
        """Before the first question."""

    async def publish(self) -> None:
        """Every publish_s: metrics, events, what is kept."""

    async def end(self) -> None:
        """Behind the last answer."""

    def reopen_events(self) -> None:
        """The event log was rotated."""
