"""Questions to name servers: over UDP, and over TCP when an answer does not fit.

Job: `ask` sends one question to the server that answered last, then to the others, a number of rounds, until one has an
answer that the caller can use. Input: an ASCII name and a type. Output: what the caller made of the response.

Sockets are kept: SOCKETS of them a server, each with a source port of its own that the kernel chose at random. A query
takes one of them and an id, both at random (RFC 5452 §9.2), and a socket is given up for another after MOST_QUERIES or
LIFE_S. A response counts when it comes from the server that was asked (the sockets are connected), with the query's id
and question; anything else is passed over (RFC 5452 §9.1).

Fails: never. No response in time, a port where nobody listens, octets that are no message: the next server is asked,
and at the end None is returned. A server that does not know EDNS is asked again without (RFC 6891 §7). Bounds: the
caller's, on questions under way.

dnspython is imported when the system's servers are read; queries are written here, since that is forty octets.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from dataclasses import dataclass
from random import uniform
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["NameServers", "Type"]

T = TypeVar("T")

Type = Literal["A", "CNAME", "MX", "TXT", "AAAA", "TLSA"]
NUMBERS: dict[Type, int] = {"A": 1, "CNAME": 5, "MX": 15, "TXT": 16, "AAAA": 28, "TLSA": 52}

SOCKETS = 8  # for each server
MOST_QUERIES = 1000  # over one socket
LIFE_S = 60.0
LOOK_S = 0.05  # how often is looked whether an answer is late
JITTER = (0.8, 1.2)
MOST_READ = 64  # datagrams in one go
CHANCES = 1024
EDNS_PAYLOAD_OCTETS = 1232  # no fragments on any usual path; what is longer comes over TCP
LONGEST_DATAGRAM = 65535
HEADER_OCTETS = 12

RESPONSE = 0x80  # flags of the header, RFC 1035 §4.1.1; the third octet
OPCODE = 0x78
TRUNCATED = 0x02
RECURSION_DESIRED = 0x0100  # both octets
AUTHENTIC_DATA = 0x0020  # in a query: the answer's AD bit is wanted (RFC 6840 §5.7)
RCODE = 0x0F
FORMERR, SERVFAIL, NOTIMP, REFUSED = 1, 2, 4, 5


@dataclass(slots=True)
class _Waiting:
    question: bytes
    until: float
    answer: asyncio.Future[bytes | None]


class NameServers:
    """The servers that one process asks. `queries` and `failures` only ever grow."""

    def __init__(
        self,
        servers: Sequence[tuple[str, int]],
        *,
        timeout_s: float,
        rounds: int,
        dnssec: bool = False,
        resolv_conf: str = "/etc/resolv.conf",
    ) -> None:
        """`servers` are pairs of address and port; when there are none, those of `resolv_conf` are asked.

        `dnssec`: ask for the AD bit.
        """
        self.queries = 0  # sent
        self.failures = 0  # queries without a usable answer
        self._servers = list(servers)
        self._timeout_s = timeout_s
        self._rounds = rounds
        self._flags = RECURSION_DESIRED | (AUTHENTIC_DATA if dnssec else 0)
        self._resolv_conf = resolv_conf
        self._sockets: dict[tuple[str, int], list[_Socket | None]] = {}
        self._open: list[_Socket] = []  # those that are given up and wait for answers, too
        self._look: asyncio.TimerHandle | None = None

    async def ask(self, name: str, rdtype: Type, read: Callable[[bytes], T | None]) -> T | None:
        """What `read` makes of the first response that it can use; None when nobody has one."""
        if not self._servers:
            self._servers = _system_servers(self._resolv_conf)
        for number in range(self._rounds):
            # sooner at first: a datagram that was lost need not hold mail up. Not all at one time: what was lost in a
            # burst would be lost in the next one
            timeout_s = self._timeout_s * (0.5 if number == 0 else 1.0) * uniform(*JITTER)
            for server in tuple(self._servers):
                response = await self._query(name, rdtype, server, timeout_s)
                answer = None if response is None else read(response)
                if answer is None:
                    self.failures += 1
                    continue
                if server != self._servers[0]:
                    # a server that is down costs its timeout once, not at every question
                    self._servers.remove(server)
                    self._servers.insert(0, server)
                return answer
        return None

    def close(self) -> None:
        """Give the sockets back; what waits for an answer has none."""
        for each in self._open:
            each.close()
        self._open.clear()
        self._sockets.clear()
        if self._look is not None:
            self._look.cancel()
            self._look = None

    async def _query(self, name: str, rdtype: Type, server: tuple[str, int], timeout_s: float) -> bytes | None:
        """One server's response; None when there is none in time."""
        question = _question(name, rdtype)
        response: bytes | None = None
        for edns in (True, False):
            query = struct.pack(">HHHHH", self._flags, 1, 0, 0, edns) + question
            if edns:
                query += struct.pack(">BHHIH", 0, 41, EDNS_PAYLOAD_OCTETS, 0, 0)  # RFC 6891 §6.1.2
            self.queries += 1
            response = await self._over_udp(query, question, server, timeout_s)
            if response is not None and response[2] & TRUNCATED:
                response = await self._over_tcp(query, question, server)
            if response is None or response[3] & RCODE not in (FORMERR, NOTIMP):
                return response
        return response

    async def _over_udp(self, query: bytes, question: bytes, server: tuple[str, int], timeout_s: float) -> bytes | None:
        loop = asyncio.get_running_loop()
        try:
            used = self._socket(server, loop)
        except OSError:
            return None
        number = used.free_number()
        answer: asyncio.Future[bytes | None] = loop.create_future()
        used.waiting[number] = _Waiting(question, loop.time() + timeout_s, answer)
        if self._look is None:
            self._look = loop.call_later(LOOK_S, self._end_late_ones, loop)
        try:
            used.send(number.to_bytes(2, "big") + query)
            return await answer
        except OSError:
            return None
        finally:
            used.done(number)

    def _end_late_ones(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for all queries: a timer each costs more than sending it."""
        now = loop.time()
        busy = False
        self._open = [each for each in self._open if not each.closed]
        for each in self._open:
            for waiting in each.waiting.values():
                busy = True
                if waiting.until <= now:
                    _give_up(waiting.answer)
        self._look = loop.call_later(LOOK_S, self._end_late_ones, loop) if busy else None

    def _socket(self, server: tuple[str, int], loop: asyncio.AbstractEventLoop) -> _Socket:
        sockets = self._sockets.setdefault(server, [None] * SOCKETS)
        place = _CHANCE.number() % SOCKETS
        used = sockets[place]
        if used is None or used.closed or used.sent >= MOST_QUERIES or loop.time() > used.until:
            if used is not None:
                used.retire()
            used = sockets[place] = _Socket(server, loop)
            self._open.append(used)
        return used

    async def _over_tcp(self, query: bytes, question: bytes, server: tuple[str, int]) -> bytes | None:
        """RFC 7766: one query on a connection of its own."""
        number = secrets.token_bytes(2)
        try:
            async with asyncio.timeout(self._timeout_s):
                reader, writer = await asyncio.open_connection(*server)
                try:
                    writer.write(struct.pack(">H", len(query) + 2) + number + query)
                    length = int.from_bytes(await reader.readexactly(2), "big")
                    response = await reader.readexactly(length)
                finally:
                    writer.transport.abort()
        except (OSError, EOFError):
            return None
        return response if response[:2] == number and _answers(response, question) else None


class _Chance:
    """Numbers of sixteen bits that nobody can guess, from the system, many at a time."""

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def number(self) -> int:
        """The next one."""
        if not self._numbers:
            self._numbers = list(struct.unpack(f"{CHANCES}H", secrets.token_bytes(2 * CHANCES)))
        return self._numbers.pop()


_CHANCE = _Chance()
_DATAGRAM = memoryview(bytearray(LONGEST_DATAGRAM))  # one is read at a time


class _Socket:
    """One UDP socket that is connected to one server, and the queries that wait on it, by id."""

    def __init__(self, server: tuple[str, int], loop: asyncio.AbstractEventLoop) -> None:
        self.waiting: dict[int, _Waiting] = {}
        self.sent = 0
        self.until = loop.time() + LIFE_S
        self.closed = False
        self._retired = False
        self._loop = loop
        family = socket.AF_INET6 if ":" in server[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(server)
        except OSError:
            self._socket.close()
            raise
        loop.add_reader(self._socket.fileno(), self._read)

    def free_number(self) -> int:
        """An id that no query on this socket has."""
        while (number := _CHANCE.number()) in self.waiting:
            pass
        return number

    def send(self, query: bytes) -> None:
        """OSError when it cannot leave."""
        self.sent += 1
        self._socket.send(query)

    def done(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        del self.waiting[number]
        if self._retired and not self.waiting:
            self.close()

    def retire(self) -> None:
        """No more queries; it closes when the last answer is there."""
        self._retired = True
        if not self.waiting:
            self.close()

    def close(self) -> None:
        """What waits has no answer."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._fail()

    def _fail(self) -> None:
        for waiting in self.waiting.values():
            _give_up(waiting.answer)

    def _read(self) -> None:
        for _ in range(min(MOST_READ, max(1, len(self.waiting)))):
            try:
                length = self._socket.recv_into(_DATAGRAM)
            except BlockingIOError:
                return
            except OSError:  # nobody listens there; the kernel does not say whose query it was
                self._fail()
                return
            response = bytes(_DATAGRAM[:length])
            waiting = self.waiting.get(int.from_bytes(response[:2], "big"))
            if waiting is not None and not waiting.answer.done() and _answers(response, waiting.question):
                waiting.answer.set_result(response)


def _give_up(answer: asyncio.Future[bytes | None]) -> None:
    if not answer.done():
        answer.set_result(None)


def _question(name: str, rdtype: Type) -> bytes:
    """The question section, RFC 1035 §4.1.2."""
    labels = [label.encode("ascii") for label in name.split(".") if label]
    return b"".join(bytes((len(label),)) + label for label in labels) + struct.pack(">BHH", 0, NUMBERS[rdtype], 1)


def _answers(response: bytes, question: bytes) -> bool:
    """Whether it is a response to this question; a server that found a fault in the query may leave that out."""
    if len(response) < HEADER_OCTETS or not response[2] & RESPONSE or response[2] & OPCODE:
        return False
    if response[4:6] == b"\0\0":
        return response[3] & RCODE in (FORMERR, SERVFAIL, NOTIMP, REFUSED)
    asked = response[HEADER_OCTETS : HEADER_OCTETS + len(question)]
    return response[4:6] == b"\0\1" and asked.lower() == question.lower()


def _system_servers(resolv_conf: str) -> list[tuple[str, int]]:
    import dns.resolver  # noqa: PLC0415 - see the module's docstring

    system = dns.resolver.Resolver(configure=False)
    with contextlib.suppress(dns.resolver.NoResolverConfiguration):
        system.read_resolv_conf(resolv_conf)
        return [(str(address), 53) for address in system.nameservers]
    return [("127.0.0.1", 53)]  # resolv.conf(5): the default is a server on this machine
