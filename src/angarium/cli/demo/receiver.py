"""Where the demo's stream leads: a webhook that takes events, and now and then says "later".

Input: a listening socket on loopback. Output: `taken`, events by their name, and `refused`, requests that were answered
503, which is every REFUSED_EVERY-th. Both are what the metrics of the relay's stream are compared with.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    import socket

__all__ = ["STREAM", "Receiver"]

STREAM = "crm"
REFUSED_EVERY = 8
LARGEST_OCTETS = 16 << 20  # a batch is about 1 MB


class Receiver:
    """One of them."""

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        self.refused = 0
        self._asked = 0
        application = web.Application(client_max_size=LARGEST_OCTETS)
        application.router.add_post("/events", self._take)
        self._runner = web.AppRunner(application, access_log=None)

    async def open(self, sock: socket.socket) -> None:
        """Answer on a listening socket."""
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()

    async def close(self) -> None:
        """No more."""
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        batch = await request.json()
        self._asked += 1
        if self._asked % REFUSED_EVERY == 0:
            self.refused += 1
            return web.Response(status=503)
        self.taken.update(event["event"] for event in batch["events"])
        return web.Response(status=204)
