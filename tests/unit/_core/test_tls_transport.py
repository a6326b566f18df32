"""The compiled TLS layer beside OpenSSL by the standard library: octets, ends, faults, flow."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from angarium._core.tls_transport import TlsTransport
from tests.support.certificates import self_signed
from tests.support.session import FakeTransport

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
MESSAGES = [b"EHLO client.example\r\n", b"x" * 40_000, b"", b"." * 16_384, b"QUIT\r\n"]


@pytest.fixture(scope="module")
def server_context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A relay's."""
    return make_server_context(tmp_path_factory.mktemp("certificate"))


def make_server_context(folder: Path) -> ssl.SSLContext:
    certificate, key = self_signed("relay.test").write(folder, "node")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def client_context(version: str | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if version is not None:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


class Ear(asyncio.BufferedProtocol):
    """A protocol that hears, and is told."""

    def __init__(self, room: int = 65536, *, keeps_open: bool = False) -> None:
        self.heard = bytearray()
        self.told: list[str] = []
        self.lost: list[Exception | None] = []
        self.on_heard: Callable[[], None] = lambda: None
        self._room = bytearray(room)
        self._keeps_open = keeps_open

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self.heard += self._room[:nbytes]
        self.on_heard()

    def eof_received(self) -> bool:
        self.told.append("end")
        return self._keeps_open

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


class SimpleEar(asyncio.Protocol):
    """One that is given octets."""

    def __init__(self) -> None:
        self.heard = bytearray()

    def data_received(self, data: bytes) -> None:
        self.heard += data


class Peer:
    """A client that is OpenSSL and two memory BIOs, and the layer under test, on a transport without a socket."""

    def __init__(
        self,
        server: ssl.SSLContext,
        client: ssl.SSLContext | None = None,
        ear: Any = None,
        *,
        had_protocol: bool = False,
        timeout_s: float = 60,
    ) -> None:
        self.ear = Ear() if ear is None else ear
        self.ended: list[Exception | None] = []
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = client_context() if client is None else client
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="relay.test")
        self.layer = TlsTransport(server, self._ended, self.ear if had_protocol else None, timeout_s=timeout_s)
        self.raw = FakeTransport(self.layer)
        self.layer.connection_made(self.raw)  # type: ignore[arg-type]  # it is a transport in all that counts

    def _ended(self, layer: TlsTransport, failure: Exception | None) -> None:
        assert layer is self.layer
        self.ended.append(failure)
        if failure is None:
            layer.set_protocol(self.ear)

    def carry(self, step: int = 0) -> None:
        """What each has said to the other, so many octets at a time."""
        self.raw.deliver(self._outgoing.read(), step)
        self._incoming.write(self.raw.take())

    def shake(self, step: int = 0) -> Peer:
        """The whole handshake."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.carry(step)
            else:
                self.carry(step)
                return self

    def say(self, data: bytes, step: int = 0) -> None:
        sent = 0
        while sent < len(data):
            sent += self.tls.write(data[sent:])
        self.carry(step)

    def hear(self) -> bytes:
        """Everything that the server has said."""
        self.carry()
        heard = b""
        while True:
            try:
                part = self.tls.read(65536)
            except ssl.SSLWantReadError:
                return heard
            if not part:
                return heard
            heard += part


def loop_turns(turns: int = 3) -> Any:
    async def turn() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)

    return turn()


@pytest.mark.parametrize("version", VERSIONS)
async def test_both_hear_what_the_other_says(server_context: ssl.SSLContext, version: str) -> None:
    peer = Peer(server_context, client_context(version)).shake()
    assert peer.ended == [None]
    assert peer.layer.get_extra_info("ssl_object").version() == f"TLSv{version}"
    for message in MESSAGES:
        peer.say(message)
        peer.layer.write(message)
        assert peer.hear() == message
    assert peer.ear.heard == b"".join(MESSAGES)
    assert peer.layer.get_extra_info("peername") == ("192.0.2.1", 40000)
    assert peer.layer.get_extra_info("cipher") == peer.layer.get_extra_info("ssl_object").cipher()
    assert peer.layer.get_extra_info("sslcontext") is server_context
    assert peer.layer.get_extra_info("nothing", 7) == 7


@given(
    pieces=st.lists(st.binary(max_size=40_000), max_size=6),
    step=st.integers(1, 20_000),
    room=st.integers(1, 70_000),
    version=st.sampled_from(sorted(VERSIONS)),
)
def test_however_it_is_cut_every_octet_arrives_once(
    server_context: ssl.SSLContext, pieces: list[bytes], step: int, room: int, version: str
) -> None:
    async def test() -> None:
        peer = Peer(server_context, client_context(version), Ear(room)).shake(step)
        for piece in pieces:
            peer.say(piece, step)
            peer.layer.writelines([piece[:7], piece[7:]])
            assert peer.hear() == piece
        assert peer.ear.heard == b"".join(pieces)

    asyncio.run(test())


async def test_a_protocol_that_wants_octets_is_given_octets(server_context: ssl.SSLContext) -> None:
    peer = Peer(server_context, ear=SimpleEar()).shake()
    peer.say(b"x" * 100_000)
    assert peer.ear.heard == b"x" * 100_000


async def test_nothing_is_read_while_reading_is_paused_and_nothing_is_lost(server_context: ssl.SSLContext) -> None:
    peer = Peer(server_context, ear=Ear(10)).shake()
    peer.ear.on_heard = peer.layer.pause_reading
    peer.say(b"0123456789abcdefghij" * 2000)
    assert peer.ear.heard == b"0123456789"
    assert not peer.raw.reading
    assert not peer.layer.is_reading()
    for _ in range(3):
        peer.layer.resume_reading()
        await loop_turns()
    assert peer.ear.heard == b"0123456789abcdefghij0123456789abcdefghij"
    peer.ear.on_heard = lambda: None
    peer.layer.resume_reading()
    await loop_turns()
    peer.raw.pump()
    assert peer.ear.heard == b"0123456789abcdefghij" * 2000


async def test_close_sends_close_notify_and_reads_no_more(server_context: ssl.SSLContext) -> None:
    peer = Peer(server_context).shake()
    peer.layer.write(b"221 bye\r\n")
    peer.layer.close()
    peer.layer.close()
    assert peer.raw.closing
    assert not peer.raw.aborted
    assert peer.layer.is_closing()
    assert peer.hear() == b"221 bye\r\n"
    assert peer.tls.read(10) == b""  # close_notify: no error
    peer.layer.write(b"after the end")
    peer.raw.lose()
    assert peer.ear.lost == [None]
    peer.layer.abort()
    peer.layer.close()
    assert peer.layer.is_closing()


@pytest.mark.parametrize("notified", [True, False], ids=["close_notify", "no close_notify"])
@pytest.mark.parametrize("keeps_open", [True, False])
async def test_the_end_of_input_is_told_once(server_context: ssl.SSLContext, notified: bool, keeps_open: bool) -> None:
    peer = Peer(server_context, ear=Ear(keeps_open=keeps_open)).shake()
    peer.say(b"QUIT\r\n")
    if notified:
        with pytest.raises(ssl.SSLWantReadError):
            peer.tls.unwrap()
        peer.carry()
    assert peer.layer.eof_received()
    assert peer.ear.heard == b"QUIT\r\n"
    assert peer.ear.told == ["end"]
    assert peer.raw.closing is not keeps_open
    if keeps_open:
        peer.layer.write(b"250 it is safe\r\n")
        assert peer.hear() == b"250 it is safe\r\n"
        peer.layer.close()
    assert peer.raw.closing
    peer.raw.lose()
    assert peer.ear.lost == [None]


async def test_the_end_waits_for_what_came_before_it(server_context: ssl.SSLContext) -> None:
    peer = Peer(server_context, ear=Ear(4)).shake()
    peer.ear.on_heard = peer.layer.pause_reading
    peer.say(b"QUIT\r\n")
    peer.layer.eof_received()
    assert (peer.ear.heard, peer.ear.told) == (b"QUIT", [])
    peer.ear.on_heard = lambda: None
    peer.layer.resume_reading()
    await loop_turns()
    assert (peer.ear.heard, peer.ear.told) == (b"QUIT\r\n", ["end"])


async def test_what_comes_before_there_is_a_protocol_waits_for_it(server_context: ssl.SSLContext) -> None:
    peer = Peer(server_context, ear=Ear())
    heard, peer.ear = peer.ear, None
    peer.shake()
    peer.say(b"EHLO early.example\r\n")
    assert heard.heard == b""
    peer.layer.set_protocol(heard)
    assert peer.layer.get_protocol() is heard
    await loop_turns()
    assert heard.heard == b"EHLO early.example\r\n"


@pytest.mark.parametrize("said", [b"EHLO client.example\r\n", b"\x16\x03\x01\x00\x05hello", b"\0" * 30_000])
async def test_what_is_no_handshake_ends_it(server_context: ssl.SSLContext, said: bytes) -> None:
    peer = Peer(server_context, had_protocol=True)
    peer.raw.deliver(said)
    (failure,) = peer.ended
    assert isinstance(failure, ssl.SSLError)
    assert peer.raw.closing
    assert peer.ear.heard == b""
    peer.raw.lose()
    assert peer.ear.lost == [failure]
    assert peer.ended == [failure]


async def test_a_client_that_wants_what_is_not_offered_is_told_so(server_context: ssl.SSLContext) -> None:
    client = client_context("1.2")
    client.set_ciphers("AES256-SHA")  # there are no static keys since RFC 9325 §4.1
    peer = Peer(server_context, client)
    with pytest.raises(ssl.SSLError, match=r"(?i)alert|handshake"):
        peer.shake()
    assert len(peer.ended) == 1
    peer.raw.lose()
    assert peer.ear.lost == []  # it had no protocol yet


@pytest.mark.parametrize("how", ["end", "lost", "abort", "close"])
async def test_a_handshake_that_is_not_ended_is_told_once(server_context: ssl.SSLContext, how: str) -> None:
    peer = Peer(server_context)
    if how == "end":
        peer.layer.eof_received()
    elif how == "lost":
        peer.raw.lose(ConnectionResetError("reset"))
    elif how == "abort":
        peer.layer.abort()
    else:
        peer.layer.close()
    peer.raw.lose()
    (failure,) = peer.ended
    assert isinstance(failure, ConnectionResetError)
    assert peer.raw.closing


async def test_a_silent_client_is_not_waited_for(server_context: ssl.SSLContext) -> None:
    peer = Peer(server_context, timeout_s=0.01)
    while not peer.ended:
        await asyncio.sleep(0.005)
    assert isinstance(peer.ended[0], TimeoutError)
    assert peer.raw.closing


async def test_a_record_that_was_changed_on_the_way_ends_the_connection(server_context: ssl.SSLContext) -> None:
    peer = Peer(server_context).shake()
    peer.tls.write(b"MAIL FROM:<a@client.example>\r\n")
    record = bytearray(peer._outgoing.read())
    record[-1] ^= 1
    peer.raw.deliver(bytes(record))
    assert peer.ear.heard == b""
    assert peer.raw.closing
    assert peer.raw.take()  # the alert
    peer.raw.lose()
    (why,) = peer.ear.lost
    assert isinstance(why, ssl.SSLError)
    assert peer.ended == [None]


async def test_a_protocol_that_fails_is_the_loop_s_to_handle(server_context: ssl.SSLContext) -> None:
    peer = Peer(server_context).shake()

    def fail() -> None:
        raise RuntimeError("in the protocol")

    peer.ear.on_heard = fail
    with pytest.raises(RuntimeError, match="in the protocol"):
        peer.say(b"EHLO client.example\r\n")


async def test_the_transport_s_flow_is_the_protocol_s(server_context: ssl.SSLContext) -> None:
    peer = Peer(server_context).shake()
    peer.layer.pause_writing()
    peer.layer.resume_writing()
    assert peer.ear.told == ["pause", "resume"]
    peer.raw.unsent = 17
    assert peer.layer.get_write_buffer_size() == 17
    assert not peer.layer.can_write_eof()


async def test_a_client_s_keys_may_change(server_context: ssl.SSLContext) -> None:
    """Whatever OpenSSL wants to say by itself is sent: here an answer to what a client may ask (RFC 8446 §4.6.3)."""
    peer = Peer(server_context, client_context("1.3")).shake()
    for number in range(300):
        peer.say(b"NOOP\r\n")
        peer.layer.write(b"250 2.0.0 OK\r\n")
        assert peer.hear() == b"250 2.0.0 OK\r\n", number
    assert peer.ear.heard == b"NOOP\r\n" * 300


async def test_it_is_a_client_as_well(server_context: ssl.SSLContext) -> None:
    """Two of them talk to each other."""
    ears = Ear(), Ear()
    ended: list[Exception | None] = []

    def done(ear: Ear) -> Callable[[TlsTransport, Exception | None], None]:
        def tell(layer: TlsTransport, failure: Exception | None) -> None:
            ended.append(failure)
            layer.set_protocol(ear)

        return tell

    client = TlsTransport(client_context(), done(ears[0]), server_side=False, server_hostname="relay.test")
    server = TlsTransport(server_context, done(ears[1]))
    wires = FakeTransport(client), FakeTransport(server)
    server.connection_made(wires[1])  # type: ignore[arg-type]
    client.connection_made(wires[0])  # type: ignore[arg-type]
    while any(wire.written for wire in wires):
        wires[1].deliver(wires[0].take())
        wires[0].deliver(wires[1].take())
    client.write(b"hello")
    server.write(b"welcome")
    wires[1].deliver(wires[0].take())
    wires[0].deliver(wires[1].take())
    assert ended == [None, None]
    assert [ear.heard for ear in ears] == [b"welcome", b"hello"]


def test_a_real_connection_of_the_loop(server_context: ssl.SSLContext) -> None:
    """Beside asyncio's own client, over a socket, with an end that the client makes."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(over_a_socket(server_context))


async def over_a_socket(server_context: ssl.SSLContext) -> None:
    ear = Ear()
    done = asyncio.get_running_loop().create_future()

    def ended(layer: TlsTransport, failure: Exception | None) -> None:
        assert failure is None
        layer.set_protocol(ear)
        layer.write(b"220 relay.test\r\n")

    ear.connection_lost = done.set_result  # type: ignore[method-assign]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: TlsTransport(server_context, ended), "127.0.0.1", 0)  # type: ignore[arg-type,return-value]
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context())
    assert await reader.readline() == b"220 relay.test\r\n"
    writer.write(b"x" * 1_000_000)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await done
    server.close()
    assert ear.heard == b"x" * 1_000_000
