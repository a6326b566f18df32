"""Load with a ledger: senders that note what the relay answered 250, and a next hop that notes what arrived.

Every message carries a token of its own in `X-Token:`. A token is *acknowledged* at the moment at which the
sender reads its 250, and *arrived* at the moment at which the next hop has read the end of its mail data.
Senders never send a token twice: whatever arrives twice was sent twice by the relay, and the queue id in its
topmost Received field says which message it was.

Both sides run on the caller's loop; neither keeps more than one message in memory per connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.clients import PATIENCE_S
from tests.support.loop_end import end_tasks
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TOKEN = re.compile(rb"^X-Token: (\S+)\r$", re.MULTILINE)
_QUEUE_ID = re.compile(rb"\bid (\S{13})\b")
_QUEUED = re.compile(rb"^250 2\.0\.0 queued as (\S{13}) durability=(\w+)")
_PAUSE_S = 0.02  # of a sender that finds the relay away


@dataclass
class Ledger:
    """What was promised and what came of it. Tokens are text, ids the relay's queue ids."""

    acknowledged: dict[str, str] = field(default_factory=dict)  # token: queue id
    unanswered: set[str] = field(default_factory=set)  # sent, and no final reply was seen
    refused: dict[str, str] = field(default_factory=dict)  # token: reply
    arrivals: dict[str, list[str]] = field(
        default_factory=lambda: defaultdict(list)
    )  # token: queue ids, one an arrival
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self) -> None:
        """Wake whoever waits for progress."""
        self.changed.set()
        self.changed = asyncio.Event()

    @property
    def missing(self) -> set[str]:
        """Acknowledged and not arrived."""
        return self.acknowledged.keys() - self.arrivals.keys()

    @property
    def twice(self) -> dict[str, list[str]]:
        """What arrived more than once."""
        return {token: ids for token, ids in self.arrivals.items() if len(ids) > 1}

    async def wait_for(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until condition holds; False when it does not in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self.changed.wait()
        except TimeoutError:
            return False
        return True


class Sink(asyncio.Protocol):
    """One connection of the next hop."""

    def __init__(self, hop: NextHop, limit: int | None = None) -> None:
        self.hop = hop
        self.limit = limit  # octets of replies, then it closes
        self.buffer = bytearray()
        self.data = False
        self.chunk: int | None = None
        self.last = False
        self.content = bytearray()
        self.said = 0
        self.transport: asyncio.Transport
        self.search = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.hop.open.add(self)
        self.hop.connections += 1
        if not self.hop.mute:
            self.say(b"220 sink.test ESMTP\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self.hop.open.discard(self)
        self.hop.ledger.note()

    def say(self, reply: bytes) -> None:
        limit = self.limit
        if limit is not None and self.said + len(reply) >= limit:
            self.transport.write(reply[: max(0, limit - self.said)])
            self.said = limit
            self.transport.close()
            return
        self.said += len(reply)
        self.transport.write(reply)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while not self.transport.is_closing() and self._step():
            pass

    def _step(self) -> bool:
        if self.data:
            return self._take_data()
        if self.chunk is not None:
            return self._take_chunk()
        end = self.buffer.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 2]
        self._command(line)
        return True

    def _take_data(self) -> bool:
        if self.buffer.startswith(b".\r\n") and not self.search:
            end, length = 0, 3
        else:
            end = self.buffer.find(b"\r\n.\r\n", self.search)
            length = 5
            if end < 0:
                self.search = max(0, len(self.buffer) - 4)
                return False
        self.content = self.buffer[: end + 2]
        del self.buffer[: end + length]
        self.data = False
        self.search = 0
        self._message()
        return True

    def _take_chunk(self) -> bool:
        assert self.chunk is not None
        if len(self.buffer) < self.chunk:
            return False
        self.content += self.buffer[: self.chunk]
        del self.buffer[: self.chunk]
        self.chunk = None
        if self.last:
            self._message()
        else:
            self.say(b"250 2.0.0 OK\r\n")
        return True

    def _message(self) -> None:
        answer = self.hop.arrived(bytes(self.content))
        self.content.clear()
        if answer is None:
            self.transport.abort()
        else:
            self.say(answer)

    def _command(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"EHLO":
            lines = [b"sink.test", *self.hop.extensions]
            self.say(b"".join(b"250-%s\r\n" % x for x in lines[:-1]) + b"250 %s\r\n" % lines[-1])
        elif verb == b"DATA":
            self.data = True
            self.content.clear()
            self.say(b"354 go on\r\n")
        elif verb == b"BDAT":
            words = line.split()
            self.chunk = int(words[1])
            self.last = len(words) > 2
        elif verb == b"QUIT":
            self.say(b"221 2.0.0 bye\r\n")
            self.transport.close()
        else:
            self.say(b"250 2.0.0 OK\r\n")


class NextHop:
    """A next hop on 127.0.0.1 that counts in memory, and fails as it is told."""

    def __init__(self, ledger: Ledger, *, chunking: bool = True, pipelining: bool = True) -> None:
        self.ledger = ledger
        self.extensions = [b"8BITMIME", b"SMTPUTF8", b"ENHANCEDSTATUSCODES"]
        if pipelining:
            self.extensions.insert(0, b"PIPELINING")
        if chunking:
            self.extensions.append(b"CHUNKING")
        self.mute = False  # whether connections are accepted and not even greeted
        self.silent: Callable[[], bool] = lambda: False  # whether to close after the final dot instead of replying
        self.final_reply = b"250 2.0.0 kept\r\n"
        self.open: set[Sink] = set()
        self.connections = 0
        self.closed_unanswered = 0
        self.messages: list[bytes] | None = None  # set it to a list to keep what arrives
        self.port = free_port()  # it may be taken up again after a crash: no port of outgoing connections
        self._server: asyncio.Server | None = None
        self._more: list[asyncio.Server] = []

    async def start(self) -> None:
        """Listen; always on the same port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Sink(self), "127.0.0.1", self.port, backlog=1024)

    async def start_limited(self, octets: int) -> int:
        """Listen on one more port, whose first connection says so many octets and closes; the port."""
        limits = [octets]
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Sink(self, limits.pop() if limits else None), "127.0.0.1", 0)
        self._more.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def crash(self) -> None:
        """Be gone at once, connections and all, as after kill -9; what arrived stays noted."""
        if self._server is not None:
            self._server.close()
            self._server = None
        while self._more:
            self._more.pop().close()
        for connection in tuple(self.open):
            connection.transport.abort()

    def arrived(self, content: bytes) -> bytes | None:
        """Note a message; the reply to it, None: no reply and the end of the connection."""
        if self.messages is not None:
            self.messages.append(content)
        token = _TOKEN.search(content)
        queue_id = _QUEUE_ID.search(content)
        self.ledger.arrivals[token[1].decode() if token else ""].append(queue_id[1].decode() if queue_id else "")
        self.ledger.note()
        if self.silent():
            self.closed_unanswered += 1
            return None
        return self.final_reply


class Senders:
    """Connections that send one message after the other until told to stop, and connect again when they are cut off."""

    def __init__(
        self,
        ledger: Ledger,
        port: int,
        *,
        connections: int = 16,
        body_octets: int = 600,
        most_ahead: int = 1000,
        transactions: int = 50,
        prefix: str = "t",
    ) -> None:
        self.ledger = ledger
        self.port = port
        self.most_ahead = most_ahead  # acknowledged, not arrived: then senders wait
        self.transactions = transactions  # of a connection
        self._line = b"x" * 70 + b"\r\n"
        self._body = self._line * max(1, body_octets // 72)
        self._connections = connections
        self._prefix = prefix
        self._count = 0
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(self._connections)]

    async def stop(self) -> None:
        """End after the messages that are under way; what is not answered soon counts as unanswered."""
        self._stop.set()
        self.ledger.note()
        _, late = await asyncio.wait(self._tasks, timeout=5.0)
        for task in late:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for task in self._tasks:
            if not task.cancelled() and (failure := task.exception()) is not None:
                raise failure

    async def _run(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(_PAUSE_S)
                continue
            try:
                await self._session(reader, writer, number)
            except (OSError, asyncio.IncompleteReadError):
                pass  # cut off: what had no reply was noted by _send
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        if not (await read_reply(reader)).startswith(b"220"):
            return
        writer.write(b"EHLO sender.test\r\n")
        await read_reply(reader)
        for _ in range(self.transactions):
            await self.ledger.wait_for(
                lambda: (
                    self._stop.is_set() or len(self.ledger.acknowledged) - len(self.ledger.arrivals) < self.most_ahead
                ),
                60,
            )
            if self._stop.is_set():
                break
            await self._send(reader, writer, number)
        writer.write(b"QUIT\r\n")
        await read_reply(reader)

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self._count += 1
        token = f"{self._prefix}{self._count:x}"
        writer.write(b"MAIL FROM:<from%d@sender.test>\r\nRCPT TO:<to@next.test>\r\nDATA\r\n" % number)
        for code in (b"250", b"250", b"354"):
            reply = await read_reply(reader)
            if not reply.startswith(code):
                self.ledger.refused[token] = reply.decode()
                writer.write(b"RSET\r\n")
                raise ConnectionAbortedError(reply)
        self.ledger.unanswered.add(token)
        writer.write(b"X-Token: %s\r\nSubject: load\r\n\r\n%s.\r\n" % (token.encode(), self._body))
        reply = await read_reply(reader)
        self.ledger.unanswered.discard(token)
        queued = _QUEUED.match(reply)
        if queued is None:
            self.ledger.refused[token] = reply.decode()
        else:
            self.ledger.acknowledged[token] = queued[1].decode()
        self.ledger.note()


async def read_reply(reader: asyncio.StreamReader) -> bytes:
    """A whole reply, its lines joined; IncompleteReadError when the connection ends first."""
    lines = []
    while True:
        line = await reader.readuntil(b"\r\n")
        lines.append(line)
        if line[3:4] != b"-":
            return b"".join(lines)


class HopThread:
    """A NextHop on a loop of its own in a thread, for tests that block. `ledger` and `hop` may be read at any time."""

    def __init__(self, *, chunking: bool = True, pipelining: bool = True) -> None:
        self.ledger = Ledger()
        self.hop = NextHop(self.ledger, chunking=chunking, pipelining=pipelining)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="next hop")

    def __enter__(self) -> HopThread:
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self.hop.start(), self._loop).result(PATIENCE_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        await self.hop.crash()
        await end_tasks()
        await self.hop.crash()  # those that were being accepted
        await asyncio.sleep(0)

    def unmute(self) -> None:
        """Greet those who come from now on, and cut off those who were not greeted."""

        async def cut_off() -> None:
            self.hop.mute = False
            for connection in tuple(self.hop.open):
                connection.transport.abort()

        asyncio.run_coroutine_threadsafe(cut_off(), self._loop).result(PATIENCE_S)

    def octets_of_replies(self) -> int:
        """How many octets a connection says that carries one message to one recipient and ends with QUIT."""
        hop = self.hop
        greeting, bye, ok, go_on = (
            b"220 sink.test ESMTP\r\n",
            b"221 2.0.0 bye\r\n",
            b"250 2.0.0 OK\r\n",
            b"354 go on\r\n",
        )
        lines = sum(len(line) + 6 for line in (b"sink.test", *hop.extensions))
        data = 0 if b"CHUNKING" in hop.extensions and b"PIPELINING" in hop.extensions else len(go_on)
        return len(greeting) + lines + 2 * len(ok) + data + len(hop.final_reply) + len(bye)

    def open_limited(self, limits: Iterable[int]) -> list[int]:
        """NextHop.start_limited for each."""

        async def start() -> list[int]:
            return [await self.hop.start_limited(octets) for octets in limits]

        return asyncio.run_coroutine_threadsafe(start(), self._loop).result(PATIENCE_S)

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
