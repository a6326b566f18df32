"""An awaitable in place of a coroutine: what comes of it, what it raises, and how it is cancelled; pages given back."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme
import uvloop

from angarium._core.record import discard_pages
from angarium.ingress.own_pages import OwnPages, give_back_pages
from tests.support.clients import PATIENCE_S
from tests.support.session import FakeTransport, Server


async def test_a_value_at_once() -> None:
    async def at_once() -> int:
        return 7

    assert await OwnPages(at_once()) == 7


async def test_a_value_after_several_waits() -> None:
    async def later() -> list[int]:
        found = []
        for number in range(3):
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_result, number)
            found.append(await future)
        return found

    assert await OwnPages(later()) == [0, 1, 2]


@pytest.mark.parametrize("waits", [0, 1, 2])
async def test_a_failure(waits: int) -> None:
    async def fails() -> None:
        for _ in range(waits):
            await asyncio.sleep(0)
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await OwnPages(fails())


async def test_what_is_waited_for_may_fail_and_be_handled() -> None:
    async def handles() -> str:
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, OSError("no"))
        try:
            await future
        except OSError:
            await asyncio.sleep(0)
            return "handled"
        return "not raised"

    assert await OwnPages(handles()) == "handled"


async def test_it_can_be_cancelled() -> None:
    ended = []

    async def waits() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(True)

    async def outer() -> None:
        await OwnPages(waits())

    task = asyncio.get_running_loop().create_task(outer())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


# ------------------------------------------------------------------ pages

PAGE = 4096


def test_the_first_page_of_a_buffer_stays() -> None:
    octets = bytearray(b"x" * (64 * PAGE))
    discard_pages(octets)
    assert octets[:1] == b"x"
    zeros = octets.count(0)
    assert zeros % PAGE == 0
    assert 62 * PAGE <= zeros < 64 * PAGE


@pytest.mark.parametrize("size", [0, 1, PAGE, 2 * PAGE - 1])
def test_a_small_buffer_stays_as_it_is(size: int) -> None:
    octets = bytearray(b"x" * size)
    discard_pages(octets)
    assert octets == b"x" * size


def test_a_tls_engine_gives_back_its_pages_and_goes_on() -> None:
    """A real one of uvloop's, with a burst before and another behind."""
    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    burst = b"y" * 100_000

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, uvloop.loop._SSLProtocolTransport)
            self.transport = transport
            transports.append(transport)

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    transports: list[asyncio.Transport] = []

    async def talk() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=server_side)
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_side, server_hostname="localhost")
        try:
            for _ in range(2):
                writer.write(burst)
                assert await reader.readexactly(len(burst)) == burst
                engine = transports[0].get_extra_info("uvloop.sslproto")
                inner = engine.get_buffer(0)[2 * PAGE : -PAGE]  # it begins and ends anywhere within a page
                assert any(inner)
                give_back_pages(transports[0])
                assert not any(inner)
        finally:
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(talk(), PATIENCE_S))


def test_any_other_transport_has_none() -> None:
    give_back_pages(FakeTransport(None))  # type: ignore[arg-type]


def test_a_session_rests_once_when_it_is_quiet_after_much() -> None:
    server = Server(message_octets=0)
    reception = server.reception
    rested: list[object] = []
    reception.rest = rested.append
    reception.quiet_s = -1.0
    plain, secure = server.connect(), server.connect(tls=True)
    for client in (plain, secure):
        client.say(b"EHLO client.example\r\n")
        reception.sweep()
        assert rested == []
    for client in (plain, secure):
        client.say(b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n")
        client.say(b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 140 + b".\r\n")
    reception.quiet_s = 60.0
    reception.sweep()
    assert rested == []
    reception.quiet_s = -1.0
    reception.sweep()
    reception.sweep()
    assert rested == [secure.transport]
    secure.say(b"NOOP\r\n")
    reception.sweep()
    assert rested == [secure.transport]
