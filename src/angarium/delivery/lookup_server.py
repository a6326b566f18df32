"""The lookup process's end of the Unix socket: requests in, replies out, each when its answer is there.

Input: a listening socket, and for each kind of request the function that answers it. Output: replies in any order.

Fails: a request that means nothing, or that finds MOST_UNDER_WAY of its connection before it, is answered with a
transient failure; a function that fails otherwise than with a ResolutionFailure is logged, and answered likewise. A
connection whose frames are broken is closed. One that does not read its replies is not read from either."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from angarium.delivery.lookup_protocol import GREETING, Failure, Frames, FrameWriter, Kind, Reply, Request, frame
from angarium.delivery.mail_host import ResolutionFailure

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

__all__ = ["LookupServer"]

log = logging.getLogger(__name__)

MOST_UNDER_WAY = 20_000  # of one connection
BUSY = Failure(False, 451, (4, 4, 3), "too many look-ups under way")

A = TypeVar("A")
R = TypeVar("R")


class LookupServer:
    """Answers the workers."""

    def __init__(self) -> None:
        self._handlers: dict[str, tuple[Any, Callable[[Any], Awaitable[Any]]]] = {}
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    def answer(self, kind: Kind[A, R], handler: Callable[[A], Awaitable[R]]) -> None:
        """From now on requests of this kind are answered by the handler."""
        self._handlers[kind.name] = (msgspec.msgpack.Decoder(kind.argument), handler)

    @property
    def under_way(self) -> int:
        """Requests that have no reply yet."""
        return sum(len(connection.tasks) for connection in self._connections)

    async def start(self, sock: socket.socket) -> None:
        """Serve a listening Unix socket."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Connection(self, self._connections), sock=sock)

    async def close(self, patience_s: float = 0.0) -> None:
        """Take no more, let what is under way end for so long, and close the connections."""
        if self._server is not None:
            self._server.close()
        for connection in self._connections:
            connection.closing = True
        tasks = [task for connection in self._connections for task in connection.tasks]
        if tasks and patience_s:
            await asyncio.wait(tasks, timeout=patience_s)
        for connection in tuple(self._connections):
            connection.end()
        await asyncio.gather(*(task for task in tasks if not task.done()), return_exceptions=True)

    async def reply_to(self, request: Request) -> Reply:
        """What a request is answered with."""
        known = self._handlers.get(request.kind)
        if known is None:
            return Reply(request.number, failure=Failure(False, 451, (4, 3, 0), f"unknown look-up: {request.kind}"))
        decoder, handler = known
        try:
            result = await handler(decoder.decode(request.argument))
        except ResolutionFailure as failure:
            return Reply(request.number, failure=Failure.of(failure))
        except Exception as failure:
            log.exception("a look-up of the kind %s failed", request.kind)
            text = f"the look-up failed: {type(failure).__name__}"
            return Reply(request.number, failure=Failure(False, 451, (4, 3, 0), text))
        return Reply(request.number, msgspec.Raw(msgspec.msgpack.encode(result)))


class _Connection(asyncio.Protocol):
    """One worker."""

    def __init__(self, server: LookupServer, connections: set[_Connection]) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.closing = False
        self._server = server
        self._connections = connections
        self._frames = Frames(Request)
        self._transport: asyncio.Transport
        self._writer: FrameWriter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are of no class of asyncio's
        self._writer = FrameWriter(self._transport)
        self._connections.add(self)
        self._writer.send(frame(Reply(GREETING)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        for task in self.tasks:
            task.cancel()

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        try:
            for request in self._frames.feed(data):
                self._take(request)
        except (ValueError, msgspec.MsgspecError) as failure:
            log.warning("a worker's request cannot be read: %s", failure)
            self.end()

    def end(self) -> None:
        """Close it; what is under way is given up."""
        for task in self.tasks:
            task.cancel()
        self._writer.flush()
        self._transport.close()

    def _take(self, request: Request) -> None:
        if self.closing:
            return  # the worker asks the successor
        if len(self.tasks) >= MOST_UNDER_WAY:
            self._writer.send(frame(Reply(request.number, failure=BUSY)))
            return
        task = asyncio.get_running_loop().create_task(self._serve(request))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self, request: Request) -> None:
        self._writer.send(frame(await self._server.reply_to(request)))
