"""Clients of the log-in benches: a storm of wrong passwords, somebody else at the same relay, and a submitter.

    python -m bench.login_storm.clients storm '{"port": 2587, "rate": 1000, "seconds": 20, …}'

`storm` prints its counters as JSON when its time is over. `others` and `submit` run within the bench. All are on
uvloop, with nothing between the socket and a protocol but TLS, by the relay's own layer. Certificates are not verified:
the relay's is made for the run."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, cast

import uvloop

from angarium._core.tls_transport import TlsTransport
from angarium.cli.loadgen import Histogram, Load, Plan, Session

if TYPE_CHECKING:
    from collections.abc import Callable

MESSAGE = b"From: <a@bench.invalid>\r\nSubject: bench\r\n\r\n" + b"The quick brown fox.\r\n" * 40 + b".\r\n"
STEP_S = 0.005
SENDERS = 10  # connections of somebody else: on one alone, messages that are due would wait for each other


def careless_context() -> ssl.SSLContext:
    """TLS with whoever answers."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def plain(log_in: str, password: str) -> bytes:
    """AUTH PLAIN with an initial response."""
    return b"AUTH PLAIN " + base64.b64encode(f"\0{log_in}\0{password}".encode()) + b"\r\n"


class Talk(asyncio.Protocol):
    """One connection: `ask` writes and gives the next reply."""

    def __init__(self) -> None:
        self.lost = False
        self._octets = b""
        self._replies: deque[bytes] = deque()
        self._waiting: asyncio.Future[bytes] | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        octets = self._octets + data
        start = 0
        while (end := octets.find(b"\r\n", start)) >= 0:
            line, start = octets[start:end], end + 2
            if line[3:4] != b"-":
                self._replies.append(line)
        self._octets = octets[start:]
        if self._replies and self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(self._replies.popleft())

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(b"")

    async def ask(self, octets: bytes = b"") -> bytes:
        """The next reply's last line; b"" when the connection has ended."""
        if octets and not self.lost:
            self.transport.write(octets)
        if self._replies:
            return self._replies.popleft()
        if self.lost:
            return b""
        self._waiting = asyncio.get_running_loop().create_future()
        return await self._waiting


async def over_tls(protocol: asyncio.Protocol, context: ssl.SSLContext, port: int, local: str = "127.0.0.1") -> None:
    """Connect a protocol, by the relay's own TLS layer; ssl.SSLError, OSError."""
    loop = asyncio.get_running_loop()
    shaken = loop.create_future()

    def ended(tls: TlsTransport, failure: Exception | None) -> None:
        if shaken.done():
            return  # nobody waits for it any more
        if failure is not None:
            shaken.set_exception(failure)
            return
        shaken.set_result(None)
        tls.set_protocol(protocol)
        protocol.connection_made(tls)

    tls = TlsTransport(context, ended, server_side=False)
    await loop.create_connection(lambda: tls, "127.0.0.1", port, local_addr=(local, 0))
    await shaken


async def connected(port: int, context: ssl.SSLContext | None, local: str = "127.0.0.1") -> Talk:
    """A connection whose greeting and EHLO are over."""
    loop = asyncio.get_running_loop()
    if context is None:
        _, talk = await loop.create_connection(Talk, "127.0.0.1", port, local_addr=(local, 0))
    else:
        talk = Talk()
        await over_tls(talk, context, port, local)
    await talk.ask()
    await talk.ask(b"EHLO client.bench.invalid\r\n")
    return talk


# ------------------------------------------------------------------ the storm


@dataclass
class Storm:
    """Wrong passwords at a rate, over connections that are kept for as long as the relay keeps them."""

    port: int
    rate: float
    seconds: float
    addresses: int
    most_connections: int = 2000
    attempts: int = 0
    not_sent: int = 0  # for want of a free connection
    handshakes: int = 0
    replies: Counter[str] = field(default_factory=Counter)

    async def run(self) -> dict[str, Any]:
        """Until its time is over."""
        self._context = careless_context()
        self._free: deque[tuple[Talk, int]] = deque()
        self._open = 0
        tasks: set[asyncio.Task[None]] = set()
        begun = time.monotonic()
        due = 0
        while (now := time.monotonic()) < begun + self.seconds:
            wanted = int((now - begun) * self.rate)
            while due < wanted:
                due += 1
                if self._free or self._open < self.most_connections:
                    task = asyncio.ensure_future(self._attempt(due))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                else:
                    self.not_sent += 1
            await asyncio.sleep(STEP_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        said = asdict(self)
        return {**said, "replies": dict(self.replies), "open": self._open}

    async def _attempt(self, number: int) -> None:
        while self._free:
            talk, address = self._free.popleft()
            if not talk.lost:
                break
            self._open -= 1
        else:
            address = number % self.addresses
            self._open += 1
            try:
                talk = await connected(self.port, self._context, f"127.1.{address // 250}.{1 + address % 250}")
            except OSError:
                self._open -= 1
                self.replies["no connection"] += 1
                return
            self.handshakes += 1
        log_in = f"user{number % 1000}@bench.invalid"  # some of them exist
        self.attempts += 1
        reply = await talk.ask(plain(log_in, f"guess {number}"))
        self.replies[reply[:3].decode() or "closed"] += 1
        if reply[:3] == b"535" or reply[:3] == b"454":
            self._free.append((talk, address))
        else:
            self._open -= 1
            talk.transport.abort()


# ------------------------------------------------------------------ somebody else


class Others:
    """What another client of the same relay waits for: 250s, greetings, and its own log-in."""

    def __init__(self, smtp_port: int, tls_port: int, log_in: str, password: str) -> None:
        self._ports = smtp_port, tls_port
        self._auth = plain(log_in, password)
        self._context = careless_context()
        self.accept, self.greeting, self.log_in = Histogram(), Histogram(), Histogram()
        self.wrong: Counter[str] = Counter()

    async def run(self, seconds: float, messages_s: float) -> None:
        """At a fixed rate, each message's time from when it was due."""
        begun = time.monotonic()
        until = begun + seconds
        pause_s = 1 / messages_s
        await asyncio.gather(
            *(self._messages(begun + number * pause_s, until, SENDERS * pause_s) for number in range(SENDERS)),
            self._again(until, 0.05, self._greet),
            self._again(until, 0.2, self._auth_once),
        )

    def as_json(self) -> dict[str, Any]:
        """Percentiles in milliseconds."""
        shown = {
            name: {
                "count": histogram.count,
                **{f"p{share * 100:g}_ms": round(histogram.percentile(share) * 1e3, 3) for share in (0.5, 0.95, 0.99)},
                "longest_ms": round(histogram.longest_s * 1e3, 3),
            }
            for name, histogram in (("accept", self.accept), ("greeting", self.greeting), ("log_in", self.log_in))
        }
        return {**shown, "wrong": dict(self.wrong)}

    async def _messages(self, due: float, until: float, pause_s: float) -> None:
        talk = await connected(self._ports[0], None)
        while due < until:
            due += pause_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            for octets in (b"MAIL FROM:<a@bench.invalid>\r\n", b"RCPT TO:<b@bench.invalid>\r\n", b"DATA\r\n", MESSAGE):
                reply = await talk.ask(octets)
            if reply[:1] == b"2":
                self.accept.record(time.monotonic() - due)
            else:
                self.wrong[reply.decode("ascii", "replace")] += 1
                talk = await connected(self._ports[0], None)
        talk.transport.abort()

    async def _again(self, until: float, pause_s: float, what: Callable[[], Any]) -> None:
        while time.monotonic() < until:
            await asyncio.sleep(pause_s)
            try:
                await what()
            except OSError as failure:
                self.wrong[str(failure)] += 1

    async def _greet(self) -> None:
        begun = time.monotonic()
        _, talk = await asyncio.get_running_loop().create_connection(Talk, "127.0.0.1", self._ports[0])
        reply = await talk.ask()
        if reply[:3] == b"220":
            self.greeting.record(time.monotonic() - begun)
        else:
            self.wrong[reply.decode("ascii", "replace")] += 1
        talk.transport.abort()

    async def _auth_once(self) -> None:
        talk = await connected(self._ports[1], self._context)
        begun = time.monotonic()
        reply = await talk.ask(self._auth)
        if reply[:3] == b"235":
            self.log_in.record(time.monotonic() - begun)
        else:
            self.wrong[reply.decode("ascii", "replace")] += 1
        talk.transport.abort()


# ------------------------------------------------------------------ a submitter


class Submitter(Session):
    """A session of `angarium bench` that logs in before its first message."""

    __slots__ = ()

    STEPS = Session.STEPS | {"ehlo": (ord("2"), "log_in"), "auth": (ord("2"), "begin")}

    def _log_in(self) -> None:
        load = cast("SubmissionLoad", self._load)
        self._write(load.auth, "auth")


class SubmissionLoad(Load):
    """The generator of `angarium bench`, over TLS with a log-in."""

    def __init__(self, plan: Plan, auth: bytes) -> None:
        super().__init__(plan, lambda _: None)
        self.auth = auth
        self._context = careless_context()

    async def _connect(self) -> None:
        try:
            await over_tls(Submitter(self, time.monotonic()), self._context, self.plan.port)
        except OSError as error:
            self.refused(f"cannot connect: {error}")
        else:
            self.counters.connections += 1


def main(argv: list[str]) -> int:
    """`storm JSON`, or `submit JSON AUTH` (AUTH empty: without TLS and a log-in)."""
    settings = json.loads(argv[1])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if argv[0] == "storm":
            os.nice(10)  # whose time is measured goes before those who attack
            said: dict[str, Any] = runner.run(Storm(**settings).run())
        else:
            plan = Plan(**settings)
            load = SubmissionLoad(plan, argv[2].encode() + b"\r\n") if argv[2] else Load(plan, lambda _: None)
            said = asdict(runner.run(load.run()))
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
