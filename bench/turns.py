"""python -m bench.turns [--things N ...] [--plain] [--unbounded] [WHAT ...]

How long one turn of a worker's loop takes when very many things come at once: answers of the access process to clients
who log in, answers about one domain that mail waits for, the end of idle sessions, a drain, a reload, a commit, the
death of a next hop. Whoever else has a session waits for so long. Each figure is CPU time of the loop's thread, so that
others on the machine do not count: the longest of the turns that follow, and all of them (where they wait for
something, with the empty ones in between).

The parts are those of a worker (uvloop, TLS sessions on real sockets, the compiled dispatcher and journal), without the
rest of it; clients and hosts are in a process of their own. `--plain`: without TLS; `--unbounded`: all in one turn.
Nothing is written but the table.

Run from the top of a checkout on a quiet machine; 20,000 open files are needed for 10,000 sessions.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import selectors
import signal
import socket
import ssl
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, cast

import msgspec
import uvloop

from angarium._core.client_session import Capability, ClientSession
from angarium._core.counters import Slab, Slot
from angarium._core.dispatch import Delivery, JournalIntake, ReadyQueue
from angarium._core.event_log import EventLog
from angarium._core.intake import CallbackIntake
from angarium._core.journal import CallbackTaker, Journal
from angarium._core.listener_profile import ListenerProfile
from angarium._core.memory_budget import MemoryBudget
from angarium._core.server_session import Reception
from angarium._core.tls_transport import TlsTransport
from angarium.config.address import ListenAddress
from angarium.config.model import Config, Listener, Node
from angarium.delivery.call_line import SLICE_S, CallLine
from angarium.delivery.lookup_client import LookupClient
from angarium.delivery.lookup_protocol import GREETING, MAIL_HOSTS, Frames, Reply, Request, frame
from angarium.delivery.mail_host import MailHosts
from angarium.ingress.authentication import ListenerAuthentication, Verifier
from angarium.policy.access_protocol import Verdict
from angarium.policy.tenancy import client_terms
from tests.support.certificates import self_signed
from tests.support.session import FakeTransport, Queue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from angarium._core.intake import Intake

EHLO = b"EHLO client.example\r\n"
AUTH = b"AUTH PLAIN AGEAeA==\r\n"
MAIL = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"
CONTENT = b"Subject: x\r\n\r\nhello\r\n.\r\n"
READ_OCTETS = 1 << 16
LIFE_S = 120


@dataclass(frozen=True)
class Given:
    """How many come at once; whether sessions have TLS; how much of a turn a part may take for them."""

    things: int
    tls: bool
    slice_s: float


class Turns:
    """Looks at the loop once in each of its turns."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._last = time.thread_time()
        self.longest_s = 0.0
        self._on = True
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        now = time.thread_time()
        self.longest_s = max(self.longest_s, now - self._last)
        self._last = now
        if self._on:
            self._loop.call_soon(self._turn)

    def stop(self) -> float:
        """The longest turn since it was made, in seconds."""
        self._on = False
        return self.longest_s


class Outside:
    """A process with clients that connect to a socket and say something; what they are told they read and forget."""

    def __init__(self, play: Callable[[], None]) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LIFE_S)  # it does not outlive a run that broke off
            try:
                play()
            finally:
                os._exit(0)

    def end(self) -> None:
        """Kill it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def clients(path: str, things: int, said: bytes, *, tls: bool) -> Callable[[], None]:
    """So many connections to a Unix socket, each of which says so."""

    def play() -> None:
        ready = selectors.DefaultSelector()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for _ in range(things):
            sock = socket.socket(socket.AF_UNIX)
            while True:
                with contextlib.suppress(BlockingIOError, ConnectionRefusedError, FileNotFoundError):
                    sock.connect(path)
                    break
                time.sleep(0.01)
            if tls:
                sock = context.wrap_socket(sock)
            sock.sendall(said)
            sock.setblocking(False)
            ready.register(sock, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                peer = cast("socket.socket", key.fileobj)
                with contextlib.suppress(OSError):
                    if peer.recv(READ_OCTETS):
                        continue
                ready.unregister(peer)
                peer.close()

    return play


def hosts(path: str, things: int) -> Callable[[], None]:
    """Hosts that take so many connections and say nothing."""

    def play() -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen(1 << 12)
        held = [listening.accept() for _ in range(things)]
        signal.pause()
        held.clear()

    return play


def answers(path: str, things: int, result: object) -> Callable[[], None]:
    """A process that is asked so many questions, and answers them all in one piece."""

    def play() -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen()
        sock, _ = listening.accept()
        sock.sendall(frame(Reply(GREETING)))
        frames = Frames(Request)
        numbers: list[int] = []
        while len(numbers) < things:
            numbers += [request.number for request in frames.feed(sock.recv(READ_OCTETS))]
        octets = msgspec.Raw(msgspec.msgpack.encode(result))
        said = b"".join(frame(Reply(number, octets)) for number in numbers)
        time.sleep(1.5)
        sock.sendall(said)
        signal.pause()

    return play


class Sessions:
    """The sessions of a listener, on real sockets."""

    def __init__(
        self, folder: Path, given: Given, access: LookupClient | None = None, intake: Intake | None = None, **more: Any
    ) -> None:
        counters = Slab.create(1).region(0)
        self.events = EventLog(str(folder / "events.jsonl"), counters)
        taken = CallbackIntake(lambda message, done: None) if intake is None else intake
        self.reception = Reception(counters, self.events, taken, MemoryBudget(counters))
        if access is not None:
            more |= {
                "authentication": ListenerAuthentication("bench", Verifier(access), None),
                "mechanisms": (b"PLAIN",),
            }
        self.profile = self.make(**more)
        self.path = str(folder / "smtp.sock")
        self.context: ssl.SSLContext | None = None
        if given.tls or access is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(*self_signed("relay.example.org").write(folder, "relay"))

    def make(self, **more: Any) -> ListenerProfile:
        """What a listener says."""
        return ListenerProfile(
            hostname=b"relay.example.org",
            name=b"relay",
            **{
                "client_policy": lambda _: (True, False),
                "connections": 1 << 20,
                "connections_per_client": 1 << 20,
                **more,
            },
        )

    async def serve(self, things: int, said: bytes) -> Outside:
        """Listen, and let so many clients come and say something."""

        def session() -> asyncio.BaseProtocol:
            if self.context is None:
                return cast("asyncio.BaseProtocol", self.reception.session(self.profile))
            return cast("asyncio.BaseProtocol", TlsTransport(self.context, self._shaken, timeout_s=600))

        await asyncio.get_running_loop().create_unix_server(session, self.path, backlog=1 << 12)
        outside = Outside(clients(self.path, things, said, tls=self.context is not None))
        await until(lambda: self.reception.sessions == things)
        await asyncio.sleep(0.5)
        return outside

    def _shaken(self, tls: TlsTransport, failure: Exception | None) -> None:
        if failure is None:
            made = self.reception.session(self.profile)
            tls.set_protocol(made)
            made.connection_made(tls)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what comes from outside."""
    while not condition():
        await asyncio.sleep(0.02)


async def turns_of(work: Callable[[], object], over: Callable[[], bool]) -> tuple[float, float]:
    """The longest turn from the beginning of work until it is over, and how long all of it took, in seconds."""
    turns = Turns()
    began = time.thread_time()
    work()
    while not over():
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return turns.stop(), time.thread_time() - began


async def drain(folder: Path, given: Given) -> tuple[float, float]:
    """`angarium drain`, or stop: sessions between two transactions are told 421."""
    sessions = Sessions(folder, given)
    outside = await sessions.serve(given.things, EHLO)
    loop = asyncio.get_running_loop()

    def end() -> None:
        if sessions.reception.drain(given.slice_s):
            loop.call_soon(end)

    result = await turns_of(end, lambda: sessions.reception.sessions == 0)
    outside.end()
    return result


async def idle(folder: Path, given: Given) -> tuple[float, float]:
    """Sessions that have all been silent for too long."""
    sessions = Sessions(folder, given, idle_timeout_s=1e6)
    outside = await sessions.serve(given.things, EHLO)
    successor = sessions.make(idle_timeout_s=-1e7)
    sessions.reception.follow({sessions.profile: successor})
    loop = asyncio.get_running_loop()

    def sweep() -> None:
        sessions.reception.sweep(given.slice_s)
        if sessions.reception.unswept:
            loop.call_soon(sweep)

    result = await turns_of(sweep, lambda: sessions.reception.sessions == 0)
    outside.end()
    return result


async def reload(folder: Path, given: Given) -> tuple[float, float]:
    """Every session takes the successor of its listener's profile; each client has an address of its own."""
    sessions = Sessions(folder, given)
    outside = await sessions.serve(1, EHLO)
    for number in range(given.things):
        session = sessions.reception.session(sessions.profile, f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
        session.connection_made(FakeTransport(session))  # type: ignore[arg-type]
    listener = Listener(name="relay", listen=ListenAddress("127.0.0.1", 25), role="relay")
    successor = sessions.make(
        client_policy=client_terms(
            Config(node=Node(hostname="relay.example.org", spool=str(folder)), listener=(listener,)), listener
        )
    )
    loop = asyncio.get_running_loop()
    more = True

    def follow(successors: dict[ListenerProfile, ListenerProfile]) -> None:
        nonlocal more
        more = sessions.reception.follow(successors, given.slice_s)
        if more:
            loop.call_soon(follow, {})

    result = await turns_of(lambda: follow({sessions.profile: successor}), lambda: not more)
    outside.end()
    return result


async def commit(folder: Path, given: Given) -> tuple[float, float]:
    """One group commit makes so many messages safe, each of another session."""
    with _queue(folder) as queue:
        asked: list[Callable[[], None]] = []
        queue.journal.kick_later = asked.append
        queue.journal.telling_s = given.slice_s
        sessions = Sessions(folder, given, intake=JournalIntake(queue.dispatcher, [queue.journal]))
        outside = await sessions.serve(given.things, EHLO + MAIL + CONTENT)
        await until(lambda: queue.journal.waiting == given.things)
        asyncio.get_running_loop().add_reader(queue.journal.event_fd, queue.journal.on_commit)
        result = await turns_of(asked[0], lambda: queue.journal.waiting == 0)
        outside.end()
        return result


async def banned(folder: Path, given: Given) -> tuple[float, float]:
    """The access process says in one piece that so many clients are banned."""
    path = str(folder / "access.sock")
    process = Outside(answers(path, given.things, Verdict("banned")))
    access = LookupClient(path, monotonic=time.monotonic, random=Random(1))
    access._line = CallLine(slice_s=given.slice_s)
    sessions = Sessions(folder, given, access)
    outside = await sessions.serve(given.things, EHLO + AUTH)
    counters = sessions.reception.counters
    result = await turns_of(lambda: None, lambda: counters.value(Slot.INGRESS_AUTH_BANNED) == given.things)
    await access.close()
    outside.end()
    process.end()
    return result


async def names(folder: Path, given: Given) -> tuple[float, float]:
    """So many deliveries wait for the hosts of one domain, and are told them."""
    path = str(folder / "lookup.sock")
    hosts = MailHosts("example.net", (), "example.net", time.monotonic() + 300)
    process = Outside(answers(path, 1, hosts))
    lookup = LookupClient(path, monotonic=time.monotonic, random=Random(1))
    lookup._line = CallLine(slice_s=given.slice_s)
    with _queue(folder) as queue:
        told = 0

        def tell(delivery: Delivery, _: object) -> None:
            nonlocal told
            told += 1
            queue.dispatcher.redirect(delivery, queue.ready)

        def look_up(delivery: Delivery) -> None:
            lookup.ask_then(MAIL_HOSTS, "example.net", lambda found: tell(delivery, found))

        waiting = ReadyQueue(queue.dispatcher, b"mx", b"example.net", hand_over=look_up, limit=1 << 20)
        queue.dispatcher.place = lambda message: queue.dispatcher.send(message, waiting, message.unfinished())
        for number in range(given.things):
            queue.mail(str(number), [b"a@example.net"])
        result = await turns_of(lambda: None, lambda: told == given.things)
        await lookup.close()
    process.end()
    return result


@contextlib.contextmanager
def _queue(folder: Path) -> Any:
    shard = folder / "shard"
    shard.mkdir()
    journal = Journal(str(shard), 0, 1 << 20, Slab.create(1).region(0), CallbackTaker(lambda message: None))
    queue = Queue(journal, limit=1 << 20)
    queue.dispatcher.ready_limit = queue.dispatcher.queue_limit = 1 << 20
    yield queue
    journal.close()


async def death(folder: Path, given: Given) -> tuple[float, float]:
    """A next hop for which so many deliveries are ready cannot be reached: they go back."""
    with _queue(folder) as queue:
        for number in range(given.things):
            queue.mail(str(number), [b"a@example.net"])
        assert queue.ready.backlog == given.things
        return await turns_of(lambda: queue.ready.block(60.0, b"down"), lambda: True)


async def domains(folder: Path, given: Given) -> tuple[float, float]:
    """A next hop for which so many domains wait cannot be reached: they go back."""
    with _queue(folder) as queue:
        queue.dispatcher.queue_limit = 1
        for number in range(given.things):
            domain = b"d%d.example" % number
            queue.dispatcher.remember(domain, queue.ready)
            queue.mail(str(number), [b"a@" + domain])
        return await turns_of(lambda: queue.ready.block(60.0, b"down"), lambda: True)


async def busy(folder: Path, given: Given) -> tuple[float, float]:
    """Mail waits for so many next hops, and the tick looks after all of them."""
    with _queue(folder) as queue:
        for number in range(given.things):
            ready = ReadyQueue(queue.dispatcher, b"mx", b"d%d.example" % number, connect=lambda _: None)
            queue.dispatcher.remember(b"d%d.example" % number, ready)
            queue.mail(str(number), [b"a@d%d.example" % number])
        assert len(queue.dispatcher.busy) == given.things
        return await turns_of(queue.dispatcher.grow, lambda: True)


async def silent(folder: Path, given: Given) -> tuple[float, float]:
    """So many sessions with hosts time out in one sweep, each with a delivery (which the test's recorder settles)."""
    with _queue(folder) as queue:
        queue.egress.mail_timeout_s = -1
        path = str(folder / "hosts.sock")
        outside = Outside(hosts(path, given.things))
        await until(lambda: os.path.exists(path))
        for number in range(given.things):
            queue.mail(str(number), [b"a@example.net"])
        loop = asyncio.get_running_loop()
        for _ in range(given.things):
            session = ClientSession(queue.egress, queue.ready, None, b"host", Capability.CAPABILITY_PIPELINING)
            await loop.create_unix_connection(lambda made=session: cast("asyncio.BaseProtocol", made), path)
            session.start()

        def sweep() -> None:
            queue.egress.sweep(given.slice_s)
            if queue.egress.unswept:
                loop.call_soon(sweep)

        result = await turns_of(sweep, lambda: queue.egress.sessions == 0)
        outside.end()
        return result


WHATS: dict[str, Callable[[Path, Given], Awaitable[tuple[float, float]]]] = {
    each.__name__: each for each in (banned, names, drain, idle, reload, commit, death, domains, busy, silent)
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.turns", description=__doc__.split("\n\n")[1])
    parser.add_argument("what", nargs="*", help="; ".join(WHATS))
    parser.add_argument("--things", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--unbounded", action="store_true")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    slice_s = float("inf") if given.unbounded else SLICE_S
    logging.getLogger().setLevel(logging.ERROR)
    print("| at once | things | longest turn, ms | in all, ms |\n| --- | --- | --- | --- |")
    for name in given.what or WHATS:
        for things in given.things:
            with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
                longest, whole = uvloop.run(WHATS[name](Path(folder), Given(things, not given.plain, slice_s)))
            print(f"| {name} | {things} | {longest * 1e3:.1f} | {whole * 1e3:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
