"""A small authoritative name server on loopback, with faults: what resolver tests ask.

`async with NameServer() as server` binds an ephemeral port, the same for UDP and TCP. Zones are master-file text.
A fault holds for one name, one (name, type), or everything; `hold()` makes answers wait until `release()`.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from enum import Enum
from typing import TYPE_CHECKING

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.zone

from tests.support.clients import PATIENCE_S
from tests.support.loop_end import end_tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

LONGEST_CHAIN = 8


class Fault(Enum):
    SERVFAIL = "servfail"
    REFUSED = "refused"
    FORMERR = "formerr"
    NXDOMAIN = "nxdomain"
    SILENCE = "silence"  # no answer at all
    TRUNCATION = "truncation"  # over UDP nothing but the TC flag
    WRONG_ID = "wrong id"  # the answer to another query
    GARBAGE = "garbage"  # octets that are no message, then the answer
    NO_EDNS = "no edns"  # FORMERR for queries with an OPT record, as servers of old
    BADVERS = "badvers"  # a response code whose upper bits stand in the OPT record
    NO_SOA = "no soa"  # "no" without a word on how long that holds
    LAME = "lame"  # a pointer to other servers instead of an answer
    BARE_CNAME = "bare cname"  # an alias alone, of whose target nothing is said
    NO_TCP = "no tcp"  # TC over UDP, and TCP connections end at once


class NameServer:
    """`queries` lists what was asked: (name without the last dot, type, "udp" or "tcp")."""

    def __init__(self) -> None:
        self.queries: list[tuple[str, str, str]] = []
        self.port = 0
        self._zones: dict[dns.name.Name, dns.zone.Zone] = {}
        self._faults: dict[tuple[str, str], Fault] = {}
        self.secure: set[str] = set()  # zones of whose answers the AD bit is said, when it is asked for
        self.insecure: set[str] = set()  # but not of those in these
        self._gate = asyncio.Event()
        self._gate.set()
        self._held = ""
        self._asked = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors: list[BaseException] = []
        self._udp: asyncio.DatagramTransport | None = None
        self._tcp: asyncio.Server | None = None

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    def zone(self, origin: str, text: str) -> None:
        """Serve origin. Without an SOA of its own it gets one with a minimum of 300."""
        if " SOA " not in text:
            text = "@ 3600 IN SOA ns hostmaster 1 7200 900 1209600 300\n" + text
        if " NS " not in text:
            text += "\n@ 3600 IN NS ns\n"
        zone = dns.zone.from_text(text, origin=origin, relativize=False)
        self._zones[zone.origin or dns.name.root] = zone

    def fault(self, fault: Fault | None, name: str = "", rdtype: str = "") -> None:
        """From now on; None ends it."""
        if fault is None:
            self._faults.pop((name, rdtype), None)
        else:
            self._faults[name, rdtype] = fault

    def hold(self, below: str = "") -> None:
        """From now on answers for names that end like that wait."""
        self._held = below
        self._gate.clear()

    def release(self) -> None:
        self._gate.set()

    async def wait_for_queries(self, count: int) -> None:
        """Until so many queries have come in."""
        while len(self.queries) < count:
            self._asked.clear()
            await self._asked.wait()

    async def __aenter__(self) -> NameServer:
        loop = asyncio.get_running_loop()
        while True:
            self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), local_addr=("127.0.0.1", 0))
            self.port = self._udp.get_extra_info("sockname")[1]
            try:
                self._tcp = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            except OSError as error:
                self._udp.close()
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._udp is not None
        assert self._tcp is not None
        self._udp.close()
        self._tcp.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._tcp.wait_closed()
        if self._errors:
            raise BaseExceptionGroup("the name server of the test failed", self._errors)

    # ------------------------------------------------------------------ transports

    def datagram(self, wire: bytes, sender: tuple[str, int]) -> None:
        task = asyncio.get_running_loop().create_task(self._answer_datagram(wire, sender))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._errors.append(error)

    async def _answer_datagram(self, wire: bytes, sender: tuple[str, int]) -> None:
        assert self._udp is not None
        for response in await self._respond(wire, "udp"):
            self._udp.sendto(response, sender)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            length = int.from_bytes(await reader.readexactly(2), "big")
            for response in await self._respond(await reader.readexactly(length), "tcp"):
                writer.write(len(response).to_bytes(2, "big") + response)
            await writer.drain()
        finally:
            self._tasks.discard(task)
            writer.close()
            await writer.wait_closed()

    # ------------------------------------------------------------------ answers

    async def _respond(self, wire: bytes, transport: str) -> list[bytes]:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        rdtype = dns.rdatatype.to_text(question.rdtype)
        self.queries.append((name, rdtype, transport))
        self._asked.set()
        if name.endswith(self._held):
            await self._gate.wait()
        faults = self._faults
        fault = faults.get((name, rdtype)) or faults.get((name, "")) or faults.get(("", ""))
        response = dns.message.make_response(query, recursion_available=True)
        if fault in _RCODES:
            response.set_rcode(_RCODES[fault])
            return [response.to_wire()]
        if fault is Fault.SILENCE or (fault is Fault.NO_TCP and transport == "tcp"):
            return []
        if fault is Fault.NO_EDNS and query.edns >= 0:
            response = dns.message.make_response(query)
            response.use_edns(False)
            response.set_rcode(dns.rcode.FORMERR)
            return [response.to_wire()]
        if fault in {Fault.TRUNCATION, Fault.NO_TCP} and transport == "udp":
            response.flags |= dns.flags.TC
            return [response.to_wire()]
        if fault is Fault.WRONG_ID:
            response.id ^= 1
        if fault is Fault.LAME:
            response.authority.append(dns.rrset.from_text(question.name.parent(), 60, "IN", "NS", "ns.elsewhere.test."))
            return [response.to_wire()]
        self._fill(response, question)
        if fault is Fault.BADVERS:
            response.set_rcode(dns.rcode.BADVERS)
            response.answer = response.authority = []
        if fault is Fault.NO_SOA:
            response.authority = []
        if fault is Fault.BARE_CNAME:
            response.set_rcode(dns.rcode.NOERROR)
            response.answer = response.answer[:1]
            response.authority = []
        if query.flags & dns.flags.AD and self._is_secure(response):
            response.flags |= dns.flags.AD
        try:
            octets = response.to_wire(max_size=query.payload or 512 if transport == "udp" else 65535)
        except dns.exception.TooBig:
            response = dns.message.make_response(query, recursion_available=True)
            response.flags |= dns.flags.TC
            octets = response.to_wire()
        return [b"\x00garbage", octets] if fault is Fault.GARBAGE else [octets]

    def _is_secure(self, response: dns.message.Message) -> bool:
        owners = [response.question[0].name, *(rrset.name for rrset in response.answer)]

        def inside(name: dns.name.Name, zones: set[str]) -> bool:
            return any(name.is_subdomain(dns.name.from_text(zone)) for zone in zones)

        return all(inside(name, self.secure) and not inside(name, self.insecure) for name in owners)

    def _fill(self, response: dns.message.Message, question: dns.rrset.RRset) -> None:
        """Answer and authority sections, RFC 1034 §4.3.2, as a recursive server would for the zones here."""
        name = question.name
        for _ in range(LONGEST_CHAIN):
            zone = next((self._zones[n] for n in _ancestors(name) if n in self._zones), None)
            if zone is None:
                response.set_rcode(dns.rcode.REFUSED)
                return
            found = zone.get_rrset(name, question.rdtype)
            if found is not None:
                response.answer.append(found)
                return
            alias = zone.get_rrset(name, "CNAME")
            if alias is None:
                if not any(owner.is_subdomain(name) for owner in zone.nodes):
                    response.set_rcode(dns.rcode.NXDOMAIN)
                soa = zone.get_rrset(zone.origin or dns.name.root, "SOA")
                assert soa is not None
                response.authority.append(soa)
                return
            response.answer.append(alias)
            name = alias[0].target


class NameServerThread:
    """A NameServer on a loop and thread of its own, for blocking tests: `with` gives the server."""

    def __init__(self, zones: Mapping[str, str]) -> None:
        self._server = NameServer()
        for origin, text in zones.items():
            self._server.zone(origin, text)
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="name server")

    def _run(self) -> None:
        async def serve() -> None:
            self._stop = asyncio.Event()
            async with self._server:
                self._started.set()
                await self._stop.wait()
            await end_tasks()

        self._loop.run_until_complete(serve())
        self._loop.close()

    def __enter__(self) -> NameServer:
        self._thread.start()
        assert self._started.wait(PATIENCE_S)
        return self._server

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def call(self, function: Callable[[], None]) -> None:
        """Do something in the server's thread."""
        self._loop.call_soon_threadsafe(function)


_RCODES: dict[Fault | None, dns.rcode.Rcode] = {
    Fault.SERVFAIL: dns.rcode.SERVFAIL,
    Fault.REFUSED: dns.rcode.REFUSED,
    Fault.FORMERR: dns.rcode.FORMERR,
    Fault.NXDOMAIN: dns.rcode.NXDOMAIN,
}


def _ancestors(name: dns.name.Name) -> list[dns.name.Name]:
    """The name itself and every domain above it, the root last."""
    return [dns.name.Name(name.labels[i:]) for i in range(len(name.labels))]


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._server.datagram(data, addr)
