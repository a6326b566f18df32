"""Doors on real sockets: proxies' headers, TLS from the first octet, Unix sockets, and the limits meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from angarium._core.counters import Counters, Slab, Slot, client_key
from angarium._core.event_log import EventLog
from angarium.ingress.certificates import LiveContext
from angarium.ingress.door import Door, DoorLimits
from tests.reference.proxy_header import block_of
from tests.support.certificates import self_signed
from tests.support.clients import PATIENCE_S
from tests.support.session import Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

GREETING = b"220 relay.example.org ESMTP Angarium\r\n"
CLIENT = "192.0.2.9"
LINE = f"PROXY TCP4 {CLIENT} 192.0.2.25 40000 25\r\n".encode()
BLOCK = block_of(
    0x21, 0x11, socket.inet_aton(CLIENT) + socket.inet_aton("192.0.2.25") + b"\x9c\x40\x00\x19" + b"\x04\0\x01x", None
)


class House:
    """One door on loopback or on a Unix socket, and the sessions behind it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.events_file = folder / "events.jsonl"
        self.counters: Counters = Slab.create(1).region(0)
        self.events = EventLog(str(self.events_file), self.counters)
        self.per_client = options.pop("per_client", 10)
        self.server = Server(
            counters=self.counters,
            events=self.events,
            connections=options.pop("connections", 100),
            connections_per_client=self.per_client,
        )
        self.header_timeout_s = options.pop("header_timeout_s", PATIENCE_S)
        self.unix = options.pop("unix", False)
        self.options = options

    def __enter__(self) -> House:
        if self.unix:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.bind(str(self.folder / "smtp.sock"))
        else:
            self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = self.socket.getsockname()
        self.door = Door(
            self.socket,
            lambda client: self.server.reception.session(self.server.profile, client),
            self.counters,
            self.events,
            DoorLimits(
                backlog=100,
                connections=self.server.profile.connections,
                connections_per_client=self.per_client,
                handshake_timeout_s=PATIENCE_S,
                header_timeout_s=self.header_timeout_s,
            ),
            name="front",
            **self.options,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.door.close()
        self.events.close()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.unix:
            return await asyncio.open_unix_connection(self.address)
        return await asyncio.open_connection(*self.address)

    def told(self) -> list[dict[str, Any]]:
        self.events.flush()
        lines = self.events_file.read_text().splitlines() if self.events_file.exists() else []
        return [json.loads(line) for line in lines if "proxy_refused" in line]

    def connections_of(self, address: str) -> int:
        return self.counters.client_connections(client_key(socket.inet_aton(address)))


def run(test: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(test(), PATIENCE_S))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


@pytest.mark.parametrize("header", [LINE, BLOCK], ids=["v1", "v2"])
@pytest.mark.parametrize("step", [0, 1, 11])
def test_the_client_is_who_the_proxy_says(tmp_path: Path, header: bytes, step: int) -> None:
    async def test() -> None:
        with House(tmp_path, is_proxy=lambda peer: peer == "127.0.0.1") as house:
            reader, writer = await house.connect()
            data = header + b"EHLO client.example\r\n"
            for at in range(0, len(data), step or len(data)):
                writer.write(data[at : at + (step or len(data))])
                await writer.drain()
                await asyncio.sleep(0)
            assert await reader.readline() == GREETING
            assert (await reader.readline()).startswith(b"250-relay.example.org")
            assert house.server.asked == [CLIENT]
            assert house.connections_of(CLIENT) == 1
            assert house.connections_of("127.0.0.1") == 0
            assert house.counters.value(Slot.INGRESS_PROXY_CLIENT) == 1
            assert house.counters.value(Slot.INGRESS_CONNECTIONS) == 1
            writer.close()

    run(test)


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", block_of(0x20, 0, b"", None), block_of(0x21, 0, b"12", None)])
def test_a_proxys_own_connection_is_its_own(tmp_path: Path, header: bytes) -> None:
    async def test() -> None:
        with House(tmp_path, is_proxy=lambda _: True) as house:
            reader, writer = await house.connect()
            writer.write(header)
            assert await reader.readline() == GREETING
            assert house.server.asked == ["127.0.0.1"]
            assert house.counters.value(Slot.INGRESS_PROXY_OWN) == 1
            writer.close()

    run(test)


def test_a_client_of_the_proxys_unix_socket_has_no_address(tmp_path: Path) -> None:
    async def test() -> None:
        with House(tmp_path, is_proxy=lambda _: True) as house:
            reader, writer = await house.connect()
            writer.write(block_of(0x21, 0x31, bytes(216), None))
            assert await reader.readline() == GREETING
            assert house.server.asked == ["unknown"]
            writer.close()

    run(test)


@pytest.mark.parametrize(
    ("said", "slot", "why"),
    [
        (b"EHLO client.example\r\n", Slot.INGRESS_PROXY_MALFORMED, "no header"),
        (b"\x16\x03\x01\x02\x00\x01", Slot.INGRESS_PROXY_MALFORMED, "no header"),
        (b"PROXY TCP4 192.0.2.9\r\n", Slot.INGRESS_PROXY_MALFORMED, "malformed"),
        (b"PROXY TCP4 " + b"1" * 200, Slot.INGRESS_PROXY_TOO_LONG, "too long"),
        (block_of(0x21, 0x11, b"", 65535), Slot.INGRESS_PROXY_TOO_LONG, "too long"),
    ],
)
def test_without_a_header_the_connection_ends_without_a_word(tmp_path: Path, said: bytes, slot: Slot, why: str) -> None:
    async def test() -> None:
        with House(tmp_path, is_proxy=lambda _: True) as house:
            reader, writer = await house.connect()
            writer.write(said)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            assert house.counters.value(slot) == 1
            (event,) = house.told()
            assert (event["listener"], event["client"], event["why"]) == ("front", "127.0.0.1", why)
            assert house.server.asked == []
            assert house.counters.value(Slot.INGRESS_CONNECTIONS) == 0
            writer.close()

    run(test)


@pytest.mark.parametrize("said", [b"", b"PROXY TCP4 "])
def test_a_header_that_does_not_come_is_not_waited_for(tmp_path: Path, said: bytes) -> None:
    async def test() -> None:
        with House(tmp_path, is_proxy=lambda _: True, header_timeout_s=0.02) as house:
            reader, writer = await house.connect()
            writer.write(said)
            assert await reader.read() == b""
            assert house.counters.value(Slot.INGRESS_PROXY_TIMEOUT) == 1
            assert house.told()[0]["why"] == "not there in time"
            writer.close()

    run(test)


def test_a_proxy_that_goes_is_counted_and_not_told(tmp_path: Path) -> None:
    """A check that only connects comes every other second."""

    async def test() -> None:
        with House(tmp_path, is_proxy=lambda _: True) as house:
            _, writer = await house.connect()
            await until(lambda: house.counters.value(Slot.INGRESS_CONNECTIONS) == 1)
            writer.close()
            await until(lambda: house.counters.value(Slot.INGRESS_PROXY_LOST) == 1)
            await until(lambda: house.counters.value(Slot.INGRESS_CONNECTIONS) == 0)
            assert house.told() == []

    run(test)


def test_who_is_no_proxy_is_greeted_at_once_and_its_header_is_no_command(tmp_path: Path) -> None:
    async def test() -> None:
        with House(tmp_path, is_proxy=lambda peer: peer == "10.0.0.1") as house:
            reader, writer = await house.connect()
            assert await reader.readline() == GREETING
            writer.write(LINE)
            assert (await reader.readline()).startswith(b"500 ")
            assert house.server.asked == ["127.0.0.1"]
            writer.close()

    run(test)


def test_over_its_limit_a_client_is_told_so_whoever_carries_it(tmp_path: Path) -> None:
    async def test() -> None:
        with House(tmp_path, is_proxy=lambda _: True, per_client=1) as house:
            reader, writer = await house.connect()
            writer.write(LINE)
            assert await reader.readline() == GREETING
            second, other = await house.connect()
            other.write(BLOCK)
            assert (await second.read()).startswith(b"421 4.7.0 ")
            third, neighbour = await house.connect()
            neighbour.write(LINE.replace(b"192.0.2.9", b"192.0.2.8"))
            assert await third.readline() == GREETING
            for one in (writer, other, neighbour):
                one.close()

    run(test)


def contexts(folder: Path) -> tuple[LiveContext, ssl.SSLContext]:
    issued = self_signed("relay.test")
    client = ssl.create_default_context(cadata=issued.pem.decode())
    return LiveContext(issued.server_context(folder)), client


@pytest.mark.parametrize("header", [b"", LINE, BLOCK], ids=["direct", "v1", "v2"])
def test_tls_begins_behind_the_header(tmp_path: Path, header: bytes) -> None:
    async def test() -> None:
        live, client = contexts(tmp_path)
        with House(tmp_path, is_proxy=lambda _: bool(header), tls=live, per_client=1) as house:
            sock = socket.create_connection(house.address)
            sock.sendall(header)
            sock.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=sock, ssl=client, server_hostname="relay.test")
            assert await reader.readline() == GREETING
            assert house.server.asked == [CLIENT if header else "127.0.0.1"]
            assert house.counters.value(Slot.INGRESS_TLS_HANDSHAKES) == 1
            # the limit is the client's, and over it nothing is said in plaintext
            second, other = await house.connect()
            other.write(header)
            assert await second.read() == b""
            assert house.counters.value(Slot.INGRESS_REFUSED_CLIENT) == 1
            assert house.counters.value(Slot.INGRESS_CONNECTIONS) == 1
            writer.close()
            other.close()

    run(test)


def test_a_handshake_that_fails_behind_a_header_is_counted(tmp_path: Path) -> None:
    async def test() -> None:
        live, _ = contexts(tmp_path)
        with House(tmp_path, is_proxy=lambda _: True, tls=live) as house:
            reader, writer = await house.connect()
            writer.write(LINE + b"EHLO client.example\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert GREETING not in await reader.read()
            await until(lambda: house.counters.value(Slot.INGRESS_CONNECTIONS) == 0)
            assert house.counters.value(Slot.INGRESS_TLS_FAILURES) == 1
            assert house.connections_of(CLIENT) == 0
            writer.close()

    run(test)


def test_the_next_handshake_uses_the_certificate_that_is_live(tmp_path: Path) -> None:
    async def test() -> None:
        live, _ = contexts(tmp_path)
        with House(tmp_path, tls=live) as house:
            renewed = self_signed("relay.test")
            live.context = renewed.server_context(tmp_path)
            client = ssl.create_default_context(cadata=renewed.pem.decode())
            reader, writer = await asyncio.open_connection(*house.address, ssl=client, server_hostname="relay.test")
            assert await reader.readline() == GREETING
            writer.close()

    run(test)


@pytest.mark.parametrize("proxied", [False, True])
def test_a_unix_socket(tmp_path: Path, proxied: bool) -> None:
    async def test() -> None:
        with House(tmp_path, unix=True, is_proxy=(lambda peer: peer == "") if proxied else None) as house:
            reader, writer = await house.connect()
            if proxied:
                writer.write(BLOCK)
            assert await reader.readline() == GREETING
            assert house.server.asked == [CLIENT if proxied else ""]
            writer.close()

    run(test)


def test_a_closed_door_accepts_no_more(tmp_path: Path) -> None:
    async def test() -> None:
        with House(tmp_path) as house:
            reader, writer = await house.connect()
            assert await reader.readline() == GREETING
            house.door.close()
            with pytest.raises(ConnectionRefusedError):
                await house.connect()
            writer.write(b"NOOP\r\n")
            assert (await reader.readline()).startswith(b"250 ")
            writer.close()

    run(test)
