"""The wire: queries that cannot be guessed, responses that must be to them, sockets that are kept and given up."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from angarium.delivery import name_servers
from angarium.delivery.name_servers import SOCKETS, NameServers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    Answer = Callable[[dns.message.Message], list[bytes]]


def answer_to(query: dns.message.Message, address: str = "192.0.2.1") -> dns.message.Message:
    response = dns.message.make_response(query, recursion_available=True)
    response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", address))
    return response


class Server(asyncio.DatagramProtocol):
    """Notes each query with its sender's port, and answers what it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, dns.message.Message]] = []
        self.answer: Answer = lambda query: [answer_to(query).to_wire()]
        self.address = ("", 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]
        self.address = transport.get_extra_info("sockname")

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        self.asked.append((addr[1], query))
        for response in self.answer(query):
            self.transport.sendto(response, addr)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    yield server
    transport.close()


def make(server: Server, **options: object) -> NameServers:
    given = {"timeout_s": 30.0, "rounds": 1} | options
    return NameServers([server.address], **given)  # type: ignore[arg-type]


def read(octets: bytes) -> str:
    return dns.message.from_wire(octets).answer[0][0].address


async def test_queries_come_from_several_ports_with_ids_at_random(server: Server) -> None:
    servers = make(server)
    for number in range(200):
        assert await servers.ask(f"n{number}.example", "A", read) == "192.0.2.1"
    ports = {port for port, _ in server.asked}
    assert len(ports) == SOCKETS, "as many as are kept, not one a query"
    ids = [query.id for _, query in server.asked]
    assert len(set(ids)) > 190
    assert max(ids) - min(ids) > 1 << 15
    servers.close()


@pytest.mark.parametrize("dnssec", [True, False])
async def test_what_a_query_says(server: Server, dnssec: bool) -> None:
    servers = make(server, dnssec=dnssec)
    await servers.ask("_25._tcp.MX.example", "TLSA", lambda octets: octets)
    servers.close()
    ((_, query),) = server.asked
    assert (query.question[0].name.to_text(), query.question[0].rdtype) == ("_25._tcp.MX.example.", dns.rdatatype.TLSA)
    assert query.flags == dns.flags.RD | (dns.flags.AD if dnssec else 0)
    assert (query.edns, query.payload) == (0, 1232)


def wrong_id(query: dns.message.Message) -> bytes:
    response = answer_to(query, "198.51.100.66")
    response.id ^= 1
    return response.to_wire()


def wrong_question(query: dns.message.Message) -> bytes:
    other = dns.message.make_query("other.example", "A", id=query.id)
    return answer_to(other, "198.51.100.66").to_wire()


def wrong_type(query: dns.message.Message) -> bytes:
    return dns.message.make_response(dns.message.make_query(query.question[0].name, "AAAA", id=query.id)).to_wire()


def no_response(query: dns.message.Message) -> bytes:
    return dns.message.make_query(query.question[0].name, "A", id=query.id).to_wire()


@pytest.mark.parametrize("forge", [wrong_id, wrong_question, wrong_type, no_response, lambda _: b"", lambda _: b"\0"])
async def test_what_is_no_response_to_the_query_is_passed_over(
    server: Server, forge: Callable[[dns.message.Message], bytes]
) -> None:
    server.answer = lambda query: [forge(query), answer_to(query).to_wire()]
    servers = make(server)
    assert await servers.ask("mx.example", "A", read) == "192.0.2.1"
    assert (servers.queries, servers.failures) == (1, 0)
    servers.close()


async def test_another_sender_is_passed_over(server: Server) -> None:
    servers = make(server)
    answered = asyncio.Event()

    def from_elsewhere(query: dns.message.Message) -> list[bytes]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.sendto(answer_to(query, "198.51.100.66").to_wire(), ("127.0.0.1", server.asked[-1][0]))
        answered.set()
        return [answer_to(query).to_wire()]

    server.answer = from_elsewhere
    assert await servers.ask("mx.example", "A", read) == "192.0.2.1"
    assert answered.is_set()
    servers.close()


async def test_many_queries_share_the_sockets_and_each_gets_its_answer(server: Server) -> None:
    waiting: list[bytes] = []

    def gather(query: dns.message.Message) -> list[bytes]:
        number = int(query.question[0].name.to_text().partition(".")[0][1:])
        waiting.append(answer_to(query, f"10.0.{number // 256}.{number % 256}").to_wire())
        # only when all have asked, the last one first; each sender gets all answers, and takes its own
        if len(waiting) < 100:
            return []
        for port in {port for port, _ in server.asked}:
            for octets in reversed(waiting):
                server.transport.sendto(octets, ("127.0.0.1", port))
        return []

    server.answer = gather
    servers = make(server)
    found = await asyncio.gather(*(servers.ask(f"n{number}.example", "A", read) for number in range(100)))
    assert found == [f"10.0.{number // 256}.{number % 256}" for number in range(100)]
    servers.close()


async def test_a_socket_is_given_up_after_a_number_of_queries(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_servers, "MOST_QUERIES", 3)
    monkeypatch.setattr(name_servers, "SOCKETS", 1)
    servers = make(server)
    for number in range(9):
        await servers.ask(f"n{number}.example", "A", read)
    ports = [port for port, _ in server.asked]
    assert [len(set(ports[begin : begin + 3])) for begin in (0, 3, 6)] == [1, 1, 1]
    assert len({ports[0], ports[3], ports[6]}) > 1
    servers.close()


async def test_a_socket_that_is_given_up_waits_for_its_answers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_servers, "MOST_QUERIES", 1)
    monkeypatch.setattr(name_servers, "SOCKETS", 1)
    held: list[tuple[bytes, int]] = []

    def hold_the_first(query: dns.message.Message) -> list[bytes]:
        if not held:
            held.append((answer_to(query).to_wire(), server.asked[-1][0]))
            return []
        return [answer_to(query).to_wire()]

    server.answer = hold_the_first
    servers = make(server)
    first = asyncio.create_task(servers.ask("first.example", "A", read))
    while not held:
        await asyncio.sleep(0)
    assert await servers.ask("second.example", "A", read) == "192.0.2.1"
    assert not first.done()
    octets, port = held[0]
    server.transport.sendto(octets, ("127.0.0.1", port))
    assert await first == "192.0.2.1"
    servers.close()


async def test_close_ends_what_waits(server: Server) -> None:
    server.answer = lambda _: []
    servers = make(server)
    waiting = asyncio.create_task(servers.ask("mx.example", "A", read))
    while not server.asked:
        await asyncio.sleep(0)
    servers.close()
    assert await waiting is None
