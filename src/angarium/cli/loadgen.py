"""Generator and sink of `angarium bench`: small SMTP client and server on uvloop, each in a process of its own.

    python -m angarium.cli.loadgen generate '{"host": "127.0.0.1", "port": 2525, …}'
    python -m angarium.cli.loadgen sink

Both write JSON, a line at a time, to standard output: the sink first its port, then both their counters a few times
a second, and the generator at its end a line with `"finished": true`. The sink ends when its standard input does.
Times are of the system-wide monotonic clock in seconds, so that those of the two processes can be compared.

The generator keeps `sessions` connections busy until `messages` have been sent or `duration_s` has passed. A message's
latency is the time until its 250: from MAIL on a connection that is reused, from connecting on one of its own.
Whatever refuses a message (a reply, a lost connection) is counted by its text; after `FAILURES_AT_MOST` it gives up.
It speaks only as much SMTP as it takes to send; it is no client for mail that matters.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

REPORT_EVERY_S: Final = 0.2
FAILURES_AT_MOST: Final = 100
STALL_S: Final = 60.0
QUIT_S: Final = 2.0
REPLY_OCTETS_AT_MOST: Final = 65_536
COMMAND_OCTETS_AT_MOST: Final = 65_536
LINE: Final = b"The quick brown fox jumps over the lazy dog, again and again, as mail must go.\r\n"


class Histogram:
    """Counts of durations in buckets whose width is 1/64 of their value: bounded memory, percentiles within 1.6 %.

    A duration in microseconds below 128 has a bucket of its own; above, its six bits after the highest one choose.
    """

    __slots__ = ("buckets", "count", "longest_s")

    def __init__(self) -> None:
        self.buckets: dict[int, int] = {}  # at most 64 for each power of two: 1,700 for an hour
        self.count = 0
        self.longest_s = 0.0

    def record(self, seconds: float) -> None:
        microseconds = int(seconds * 1e6)
        shift = max(0, microseconds.bit_length() - 7)
        bucket = microseconds >> shift << shift
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        self.count += 1
        self.longest_s = max(self.longest_s, seconds)

    def percentile(self, share: float) -> float:
        """The duration in seconds that `share` (0 to 1) of the recorded ones do not exceed; 0 when there are none."""
        wanted = share * self.count
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                width = 1 << max(0, bucket.bit_length() - 7)
                return min((bucket + width) / 1e6, self.longest_s)
        return self.longest_s

    def as_pairs(self) -> list[tuple[int, int]]:
        """(lower bound in microseconds, count), ascending."""
        return sorted(self.buckets.items())

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[int, int]], longest_s: float) -> Histogram:
        histogram = cls()
        histogram.buckets = dict(pairs)
        histogram.count = sum(histogram.buckets.values())
        histogram.longest_s = longest_s
        return histogram


@dataclass(frozen=True)
class Plan:
    """What the generator is to send. One of `messages` and `duration_s` bounds the load, and `limit_s` bounds both."""

    host: str
    port: int
    size_octets: int = 1024
    sessions: int = 50
    messages: int | None = None
    duration_s: float | None = None
    reuse: bool = True
    pipelining: bool = False
    limit_s: float = 600.0
    reverse_path: str = "sender@bench.invalid"
    recipient: str = "recipient@bench.invalid"
    hostname: str = "generator.bench.invalid"


@dataclass
class Counters:
    """The generator's, so far."""

    started_at: float = 0.0
    at: float = 0.0
    accepted: int = 0
    failed: int = 0
    connections: int = 0
    cpu_s: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)


def build_message(plan: Plan) -> bytes:
    """A message of `size_octets` (header section included, at least its size), dot-stuffed, with the end of data."""
    head = (
        f"From: <{plan.reverse_path}>\r\nTo: <{plan.recipient}>\r\nSubject: angarium bench\r\n"
        f"Message-ID: <{os.getpid()}.{time.time_ns()}@{plan.hostname}>\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n\r\n"
    ).encode("ascii")
    space = max(0, plan.size_octets - len(head))
    whole, rest = divmod(space, len(LINE))
    body = LINE * whole
    if rest >= 2:
        body += b"=" * (rest - 2) + b"\r\n"
    return head + body + b".\r\n"


class Session(asyncio.Protocol):
    """One connection to the relay. What comes next after each good reply is a table: `STEPS`."""

    __slots__ = ("_begun_at", "_buffer", "_load", "_open", "_step", "_transport")

    # step → (first digit of the good reply, what then)
    STEPS: Final[dict[str, tuple[int, str]]] = {
        "greeting": (ord("2"), "say_ehlo"),
        "ehlo": (ord("2"), "begin"),
        "mail": (ord("2"), "say_rcpt"),
        "rcpt": (ord("2"), "say_data"),
        "data": (ord("3"), "send_message"),
        "message": (ord("2"), "count"),
        "quit": (ord("2"), "leave"),
    }

    def __init__(self, load: Load, begun_at: float) -> None:
        self._load = load
        self._begun_at = begun_at
        self._buffer = b""
        self._step = "greeting"
        self._open = True  # a message has been taken from the load and has no outcome yet
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._load.joined(self)

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        start = 0
        while (end := data.find(b"\r\n", start)) >= 0:
            line = data[start:end]
            start = end + 2
            if line[3:4] != b"-":
                self._reply(line)
        self._buffer = data[start:]
        if len(self._buffer) > REPLY_OCTETS_AT_MOST:
            self._fail("a reply line without an end")

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.left(self)
        if self._open:
            self._open = False
            self._load.refused(f"connection lost: {exc}" if exc else "connection closed by the relay")

    def abort(self) -> None:
        """The load is over: whatever is under way has no outcome."""
        self._open = False
        if self._transport is not None:
            self._transport.abort()

    def _reply(self, line: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        good, then = self.STEPS[self._step]
        if line[:1] == b"" or line[0] != good:
            self._fail(line[:200].decode("utf-8", "replace"))
            return
        getattr(self, f"_{then}")()

    def _fail(self, text: str) -> None:
        if self._transport is not None:
            self._transport.abort()
        if self._open:
            self._open = False
            self._load.refused(text)

    def _write(self, octets: bytes, step: str) -> None:
        self._step = step
        if octets and self._transport is not None:
            self._transport.write(octets)

    def _say_ehlo(self) -> None:
        self._write(self._load.ehlo, "ehlo")

    def _begin(self) -> None:
        if self._load.plan.reuse:
            self._begun_at = time.monotonic()
        load = self._load
        self._write(load.mail + load.rcpt + load.data if load.plan.pipelining else load.mail, "mail")

    def _say_rcpt(self) -> None:
        self._write(b"" if self._load.plan.pipelining else self._load.rcpt, "rcpt")

    def _say_data(self) -> None:
        self._write(b"" if self._load.plan.pipelining else self._load.data, "data")

    def _send_message(self) -> None:
        self._write(self._load.message, "message")

    def _count(self) -> None:
        self._open = False
        again = self._load.accepted(time.monotonic() - self._begun_at)
        if again and self._load.plan.reuse:
            self._open = True
            self._begin()
        else:
            self._write(b"QUIT\r\n", "quit")
            if again:
                self._load.connect()

    def _leave(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Load:
    """The generator: hands out messages to its sessions, counts, and is done when each has an outcome."""

    def __init__(self, plan: Plan, report: Callable[[Counters], None]) -> None:
        self.plan = plan
        self.ehlo = f"EHLO {plan.hostname}\r\n".encode("ascii")
        self.mail = f"MAIL FROM:<{plan.reverse_path}>\r\n".encode()
        self.rcpt = f"RCPT TO:<{plan.recipient}>\r\n".encode()
        self.data = b"DATA\r\n"
        self.message = build_message(plan)
        self.counters = Counters()
        self.latency = Histogram()
        self._report = report
        self._taken = 0
        self._sessions: set[Session] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()
        self._emptied = asyncio.Event()  # done, and every session has quit
        self._progress_at = 0.0
        self._stopped = ""

    async def run(self) -> Counters:
        """Send everything; returns the counters at the end. Never raises for what the relay does."""
        counters = self.counters
        counters.started_at = self._progress_at = time.monotonic()
        for _ in range(self.plan.sessions):
            if self._take():
                self.connect()
        ticker = asyncio.get_running_loop().create_task(self._tick())
        await self._done.wait()
        counters.at = time.monotonic()
        counters.cpu_s = time.process_time()
        tasks = [ticker, *self._connecting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(0 if self._stopped else QUIT_S):
                await self._emptied.wait()
        except TimeoutError:
            pass
        for session in list(self._sessions):
            session.abort()
        if self._stopped:
            counters.failures[self._stopped] = counters.failures.get(self._stopped, 0) + 1
        return counters

    def connect(self) -> None:
        task = asyncio.get_running_loop().create_task(self._connect())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        begun_at = time.monotonic()
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: Session(self, begun_at), self.plan.host, self.plan.port
            )
        except OSError as error:
            self.refused(f"cannot connect: {error.strerror or error}")
        else:
            self.counters.connections += 1

    def joined(self, session: Session) -> None:
        self._sessions.add(session)

    def left(self, session: Session) -> None:
        self._sessions.discard(session)
        if self._done.is_set() and not self._sessions:
            self._emptied.set()

    def accepted(self, latency_s: float) -> bool:
        """Count a 250; True when there is one more message for this session."""
        self.counters.accepted += 1
        self.latency.record(latency_s)
        return self._next()

    def refused(self, text: str) -> None:
        counters = self.counters
        counters.failed += 1
        counters.failures[text] = counters.failures.get(text, 0) + 1
        if counters.failed >= FAILURES_AT_MOST:
            self._stop(f"given up after {FAILURES_AT_MOST} failures")
        elif self._next():
            self.connect()

    def _next(self) -> bool:
        self._progress_at = time.monotonic()
        if self._done.is_set():
            return False
        taken = self._take()
        if not taken and self.counters.accepted + self.counters.failed >= self._taken:
            self._done.set()
        return taken

    def _take(self) -> bool:
        plan = self.plan
        if plan.messages is not None and self._taken >= plan.messages:
            return False
        if plan.duration_s is not None and time.monotonic() >= self.counters.started_at + plan.duration_s:
            return False
        self._taken += 1
        return True

    def _stop(self, why: str) -> None:
        if not self._done.is_set():
            self._stopped = why
            self._done.set()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            now = self.counters.at = time.monotonic()
            self.counters.cpu_s = time.process_time()
            self._report(self.counters)
            if now > self.counters.started_at + self.plan.limit_s:
                self._stop(f"not done after {self.plan.limit_s:g} s")
            elif now > self._progress_at + STALL_S:
                self._stop(f"no reply for {STALL_S:g} s")


@dataclass
class SinkCounters:
    messages: int = 0
    octets: int = 0
    connections: int = 0
    last_at: float = 0.0
    at: float = 0.0
    cpu_s: float = 0.0


class SinkSession(asyncio.Protocol):
    """Takes everything, keeps nothing: answers each command, counts each message. Understands pipelining."""

    __slots__ = ("_buffer", "_counters", "_in_data", "_transport")

    REPLIES: Final[dict[bytes, bytes]] = {
        b"EHLO": b"250-sink.bench.invalid\r\n250-PIPELINING\r\n250-SIZE\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n",
        b"HELO": b"250 sink.bench.invalid\r\n",
        b"MAIL": b"250 2.1.0 ok\r\n",
        b"RCPT": b"250 2.1.5 ok\r\n",
        b"DATA": b"354 go on\r\n",
        b"RSET": b"250 2.0.0 ok\r\n",
        b"NOOP": b"250 2.0.0 ok\r\n",
        b"QUIT": b"221 2.0.0 bye\r\n",
    }

    def __init__(self, counters: SinkCounters) -> None:
        self._counters = counters
        self._buffer = b""
        self._in_data = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._counters.connections += 1
        self._transport.write(b"220 sink.bench.invalid ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._counters.octets += len(data)
        data = self._buffer + data
        start = 0
        replies: list[bytes] = []
        leaving = False
        while not leaving:
            if self._in_data:
                end = data.find(b"\r\n.\r\n", start)
                if end == -1:
                    start = max(start, len(data) - 4)  # keep what could be the beginning of the end
                    break
                start = end + 5
                self._in_data = False
                self._counters.messages += 1
                self._counters.last_at = time.monotonic()
                replies.append(b"250 2.0.0 taken\r\n")
                continue
            end = data.find(b"\r\n", start)
            if end == -1:
                break
            verb = data[start : start + 4].upper()
            start = end + 2
            replies.append(self.REPLIES.get(verb, b"500 5.5.2 what?\r\n"))
            if verb == b"DATA":
                self._in_data = True
                start = end  # its CRLF is the one before the dot of an empty message
            leaving = verb == b"QUIT"
        self._buffer = data[start:]
        if replies:
            self._transport.write(b"".join(replies))
        if leaving or (not self._in_data and len(self._buffer) > COMMAND_OCTETS_AT_MOST):
            self._transport.close()


async def start_sink(counters: SinkCounters, host: str = "127.0.0.1", port: int = 0) -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(lambda: SinkSession(counters), host, port, backlog=1024)


def write_line(values: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


async def run_generator(plan: Plan) -> None:
    load = Load(plan, lambda counters: write_line(asdict(counters)))
    counters = await load.run()
    latency = {"buckets": load.latency.as_pairs(), "longest_s": load.latency.longest_s}
    write_line({**asdict(counters), "finished": True, "latency": latency})


async def run_sink() -> None:
    """Serve until standard input ends."""
    counters = SinkCounters()
    server = await start_sink(counters)
    write_line({"port": server.sockets[0].getsockname()[1]})
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 4096) else ended.set())
    while not ended.is_set():
        try:
            async with asyncio.timeout(REPORT_EVERY_S):
                await ended.wait()
        except TimeoutError:
            pass
        counters.at, counters.cpu_s = time.monotonic(), time.process_time()
        write_line(asdict(counters))
    loop.remove_reader(sys.stdin.fileno())
    server.close()


def main(argv: list[str]) -> int:
    work = run_sink() if argv[0] == "sink" else run_generator(Plan(**json.loads(argv[1])))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
