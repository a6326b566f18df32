"""A worker's end of the socket to the lookup process: the same interface as a Resolver, and a cache of its own.

Job: `mail_hosts`, `host_addresses`, `tlsa`, `txt` ask the process, which has one cache for the node; `ask` asks
anything else that it knows. Answers are kept until they expire, equal questions share one request. Hosts of equal
preference come in another order each time. `ask_once` asks what no cache may see: the access process is asked so.

Thousands of answers may come at once; they are told in their order, some in each turn of the loop (`CallLine`).

Fails with ResolutionFailure, as the process does. The process is away: it is connected to again and again, what waits
is asked anew; after AWAY_S answers that were right once are used for STALE_S beyond their time, and what there is
none for is deferred with 451 4.4.3, at once as long as the process stays away. The same answers are used when the
process is there and nobody can answer it: one that has just been started has none of its own. A request without a
reply after ANSWER_S is taken for lost.

Bounds: questions under way (a transient failure beyond), entries of the cache."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec

from angarium.delivery.cache import Cache
from angarium.delivery.call_line import CallLine
from angarium.delivery.lookup_protocol import (
    GREETING,
    HOST_ADDRESSES,
    MAIL_HOSTS,
    TLSA,
    TXT,
    Frames,
    FrameWriter,
    Kind,
    Perishable,
    Reply,
    Request,
    frame,
)
from angarium.delivery.mail_host import MailHosts, ResolutionFailure, TextRecords, TlsaRecords
from angarium.delivery.short_path import short_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random

__all__ = ["LookupClient"]

log = logging.getLogger(__name__)

SMTP_PORT = 25
AWAY_S = 4.0
ANSWER_S = 120.0
LOOK_S = 5.0
RECONNECT_FIRST_S = 0.05
RECONNECT_LONGEST_S = 1.0
STALE_S = 86400.0
STALE_TTL_S = 30.0
QUESTIONS = 15_000
ENTRIES = 20_000

A = TypeVar("A")
R = TypeVar("R", bound=Perishable)


@dataclass(slots=True)
class _Waiting:
    """A request that has no reply yet: `ended` takes the reply, or why there is none."""

    octets: bytes = field(repr=False)  # there may be a secret in it
    until: float
    ended: Callable[[Reply | ResolutionFailure], None]


class _Question:
    """What is being asked, and everybody who is to be told the answer.

    Each is told by himself: one who has gone away does not take it from the others.
    """

    __slots__ = ("cached", "key", "result", "waiters")

    def __init__(self, key: tuple[str, Any], result: Any, cached: Any) -> None:
        self.key = key
        self.result = result  # its type
        self.cached = cached
        self.waiters: list[Callable[[Any], None]] = []


class LookupClient:
    """The lookup process, as a worker sees it. It connects with the first question."""

    def __init__(
        self,
        path: str,
        *,
        monotonic: Callable[[], float],
        random: Random,
        away_s: float = AWAY_S,
        on_change: Callable[[bool], None] = lambda _: None,
        away: str = "names cannot be looked up now: the lookup process does not answer",
    ) -> None:
        """`path` is that of the Unix socket; `away_s` how long to wait for a process that is away.

        `on_change` is told True when it has been for so long, and False when it is back. `away` is what those who ask
        meanwhile are told.
        """
        self.stale_answers = 0  # questions answered with what was right once
        self._path = path
        self._monotonic = monotonic
        self._random = random
        self._away_s = away_s
        self._on_change = on_change
        self._away = away
        self._cache: Cache[tuple[str, Any], tuple[int, Any]] = Cache(ENTRIES)
        self._generation = 1  # what was put into the cache under another one is to be asked again
        self._gone: Callable[[], None] | None = None
        self._under_way: dict[tuple[str, Any], _Question] = {}
        self._awaited: set[asyncio.Future[Any]] = set()
        self._waiting: dict[int, _Waiting] = {}
        self._number = GREETING
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._is_away = False
        self._closed = False
        self._look: asyncio.TimerHandle | None = None
        self._line = CallLine(monotonic)

    # ------------------------------------------------------------------ questions

    async def mail_hosts(self, domain: str) -> MailHosts:
        """The hosts that take mail for domain, as Resolver.mail_hosts."""
        return self.in_any_order(await self.ask(MAIL_HOSTS, domain))

    def in_any_order(self, found: MailHosts) -> MailHosts:
        """The answer to MAIL_HOSTS with hosts of equal preference in another order."""
        if len(found.hosts) == 1:
            return found
        hosts = list(found.hosts)
        self._random.shuffle(hosts)
        hosts.sort(key=lambda host: host.preference)
        return replace(found, hosts=tuple(hosts))

    async def host_addresses(self, host: str, port: int = SMTP_PORT) -> MailHosts:
        """The one host that a route names, as Resolver.host_addresses."""
        return await self.ask(HOST_ADDRESSES, (host, port))

    async def tlsa(self, name: str) -> TlsaRecords:
        """The TLSA records of a name."""
        return await self.ask(TLSA, name)

    async def txt(self, name: str) -> TextRecords:
        """The TXT records of a name."""
        return await self.ask(TXT, name)

    def knows(self, domain: str) -> bool:
        """Whether the hosts of domain have been asked for before, so that there is an answer, be it an old one."""
        return self._cache.peek((MAIL_HOSTS.name, domain)) is not None

    def expect_another(self, gone: Callable[[], None]) -> None:
        """The process will be replaced by one with other rules.

        What this one has said, or says until it is gone, is asked again; it remains what is used when nobody answers.
        `gone` is called when it is.
        """
        self._generation += 1
        self._gone = gone

    async def ask(self, kind: Kind[A, R], argument: A) -> R:
        """The answer, from the cache while it holds. A dataclass may be used for longer when there is no other."""
        cached = self._fresh((kind.name, argument))
        if cached is not None:
            return cast("R", cached)
        waiter = self._waiter()
        self.ask_then(kind, argument, partial(_settle, waiter))
        return cast("R", await waiter)

    def ask_then(self, kind: Kind[A, R], argument: A, tell: Callable[[R | ResolutionFailure], None]) -> None:
        """`ask` without a task: `tell` is called once, later, with the answer or why there is none.

        After `close` it is not called any more.
        """
        key = (kind.name, argument)
        cached = self._fresh(key)
        if cached is not None:
            self._line.call_soon(tell, cached)
            return
        question = self._under_way.get(key)
        if question is None:
            _, cached = self._cache.peek(key) or (0, None)
            if len(self._under_way) >= QUESTIONS and cached is None:
                self._line.call_soon(tell, ResolutionFailure(False, 451, (4, 4, 3), "too many look-ups under way"))
                return
            question = _Question(key, kind.result, cached)
            self._send(kind.name, argument, partial(self._answered, question))
            self._under_way[key] = question
        question.waiters.append(tell)

    async def ask_once(self, kind: Kind[A, R], argument: A) -> R:
        """The answer of now: it is not kept, nobody else's question shares it, and no old one stands in for it."""
        waiter = self._waiter()
        self.ask_once_then(kind, argument, partial(_settle, waiter))
        return cast("R", await waiter)

    def ask_once_then(self, kind: Kind[A, R], argument: A, tell: Callable[[R | ResolutionFailure], None]) -> None:
        """`ask_once` without a task: `tell` is called once, later; after `close` not any more."""
        if len(self._waiting) >= QUESTIONS:
            self._line.call_soon(tell, ResolutionFailure(False, 451, (4, 4, 3), "too many look-ups under way"))
            return

        def ended(reply: Reply | ResolutionFailure) -> None:
            if isinstance(reply, ResolutionFailure):
                tell(reply)
            elif reply.failure is not None:
                tell(reply.failure.raised())
            else:
                try:
                    answer = msgspec.msgpack.decode(reply.result, type=kind.result)
                except msgspec.MsgspecError as unreadable:
                    tell(_unreadable(unreadable))
                    return
                tell(answer)

        self._send(kind.name, argument, ended)

    def _waiter(self) -> asyncio.Future[Any]:
        """What somebody awaits, until `close`."""
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._awaited.add(waiter)
        waiter.add_done_callback(self._awaited.discard)
        return waiter

    def _fresh(self, key: tuple[str, Any]) -> Any:
        generation, cached = self._cache.peek(key) or (0, None)
        if cached is None or generation != self._generation or cached.expires <= self._monotonic():
            return None
        self._cache.use(key)
        return cached

    async def close(self) -> None:
        """Give up what is under way; whoever awaits it is cancelled."""
        self._closed = True
        for waiter in tuple(self._awaited):
            waiter.cancel()
        self._under_way.clear()
        self._waiting.clear()
        self._line.clear()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._look is not None:
            self._look.cancel()
        if self._connection is not None:
            self._connection.end()

    def _answered(self, question: _Question, reply: Reply | ResolutionFailure) -> None:
        """Tell everybody the answer, or why there is none."""
        self._under_way.pop(question.key, None)
        answer = self._answer_of(question, reply)
        for tell in question.waiters:
            self._line.call_soon(tell, answer)

    def _answer_of(self, question: _Question, reply: Reply | ResolutionFailure) -> Any:
        if isinstance(reply, ResolutionFailure):
            failure = reply
        elif reply.failure is not None:
            failure = reply.failure.raised()
        else:
            try:
                result = msgspec.msgpack.decode(reply.result, type=question.result)
            except msgspec.MsgspecError as unreadable:
                return _unreadable(unreadable)
            if result.expires > self._monotonic():
                self._cache.put(question.key, (self._generation, result))
            return result
        cached = question.cached
        if failure.permanent or cached is None or not is_dataclass(cached):
            return failure
        now = self._monotonic()
        if now >= question.cached.expires + STALE_S:
            return failure
        self.stale_answers += 1
        return _until(cached, now + STALE_TTL_S)

    # ------------------------------------------------------------------ the connection

    def _send(self, kind: str, argument: object, ended: Callable[[Reply | ResolutionFailure], None]) -> None:
        """Ask; `ended` is called once, later."""
        loop = asyncio.get_running_loop()
        if self._connection is None:
            if self._is_away:
                self._line.call_soon(ended, self._failure())
                return
            if self._connecting is None:
                self._connecting = loop.create_task(self._connect())
        self._number += 1
        octets = frame(Request(self._number, kind, msgspec.Raw(msgspec.msgpack.encode(argument))))
        self._waiting[self._number] = _Waiting(octets, loop.time() + ANSWER_S, ended)
        if self._look is None:
            self._look = loop.call_later(LOOK_S, self._end_late_ones, loop)
        if self._connection is not None:
            self._connection.send(octets)

    def _end_late_ones(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for all requests."""
        now = loop.time()
        self._fail([number for number, waiting in self._waiting.items() if waiting.until <= now])
        self._look = loop.call_later(LOOK_S, self._end_late_ones, loop) if self._waiting else None

    async def _connect(self) -> None:
        """Until the process greets; what waits for it too long is told so."""
        loop = asyncio.get_running_loop()
        away = loop.call_later(self._away_s, self._give_up)
        pause_s = RECONNECT_FIRST_S
        try:
            while True:
                connection = await self._greeted()
                if connection is not None:
                    break
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RECONNECT_LONGEST_S)
        finally:
            away.cancel()
            self._connecting = None
        if self._is_away:
            self._is_away = False
            self._on_change(False)
        self._connection = connection
        for waiting in self._waiting.values():
            connection.send(waiting.octets)

    async def _greeted(self) -> _Connection | None:
        """A connection on which the process has said something; the socket alone is there without it as well."""
        loop = asyncio.get_running_loop()
        try:
            with short_path(self._path) as name:
                _, connection = await loop.create_unix_connection(lambda: _Connection(self), name)
        except OSError:
            return None
        try:
            greeted = await connection.greeted
        except asyncio.CancelledError:
            connection.end()
            raise
        return connection if greeted and not connection.lost else None

    def _give_up(self) -> None:
        self._is_away = True
        self._on_change(True)
        self._fail(list(self._waiting))

    def _fail(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._line.call_soon(self._waiting.pop(number).ended, self._failure())

    def _failure(self) -> ResolutionFailure:
        return ResolutionFailure(False, 451, (4, 4, 3), self._away)

    def on_reply(self, reply: Reply) -> None:
        """A reply has come in."""
        waiting = self._waiting.pop(reply.number, None)
        if waiting is not None:
            self._line.call_soon(waiting.ended, reply)

    def on_lost(self, connection: _Connection) -> None:
        """A connection has ended: another one, if something waits for it."""
        if connection is not self._connection:
            return
        self._connection = None
        gone, self._gone = self._gone, None
        if gone is not None:
            self._generation += 1
            gone()
        if self._waiting and not self._closed:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())


class _Connection(asyncio.Protocol):
    def __init__(self, client: LookupClient) -> None:
        self.greeted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.lost = False
        self._client = client
        self._frames = Frames(Reply)
        self._transport: asyncio.Transport
        self._writer: FrameWriter

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are of no class of asyncio's
        self._writer = FrameWriter(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.greeted.done():
            self.greeted.set_result(False)
        self._client.on_lost(self)

    def data_received(self, data: bytes) -> None:
        try:
            for reply in self._frames.feed(data):
                if reply.number == GREETING and not self.greeted.done():
                    self.greeted.set_result(True)
                self._client.on_reply(reply)
        except (ValueError, msgspec.MsgspecError) as failure:
            log.error("the lookup process says what cannot be read: %s", failure)
            self.end()

    def send(self, octets: bytes) -> None:
        """One request."""
        self._writer.send(octets)

    def end(self) -> None:
        """Close it."""
        self._transport.close()


def _settle(waiter: asyncio.Future[Any], answer: Any) -> None:
    if waiter.done():
        return
    if isinstance(answer, ResolutionFailure):
        waiter.set_exception(answer)
    else:
        waiter.set_result(answer)


def _unreadable(why: msgspec.MsgspecError) -> ResolutionFailure:
    return ResolutionFailure(False, 451, (4, 3, 0), f"the lookup process says {why}")


def _until(answer: Any, expires: float) -> Any:
    return replace(answer, expires=expires)
