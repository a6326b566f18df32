"""What nobody should send, over real sockets: a clear reply or a clean close, no traceback, no leak, memory in bounds.

After each of them the relay answers, is ready, has no open connection left, and has said nothing on standard error.
"""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import ssl
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.faults.node import TRACEBACK, pss_octets
from tests.support.clients import PATIENCE_S, Dialogue
from tests.support.load import HopThread
from tests.support.ports import free_port
from tests.support.relay import Relay, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.faults

MIB = 1 << 20
SIZE_LIMIT = 1_000_000
PER_CLIENT = 200
IDLE_S = 5  # within which hundreds of connections are opened and looked at
ENVELOPE = b"EHLO client.test\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<b@next.test>\r\n"
MESSAGE = b"X-Token: %s\r\nSubject: x\r\n\r\nHello.\r\n"


class Target:
    """The relay that is mistreated, and what it delivers to."""

    def __init__(self, relay: Relay, next_hop: HopThread, tls_port: int) -> None:
        self.relay = relay
        self.next_hop = next_hop
        self.tls_port = tls_port

    @property
    def port(self) -> int:
        return self.relay.smtp_port

    def connect(self, port: int | None = None) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port or self.port), timeout=PATIENCE_S)

    def memory(self) -> int:
        return sum(pss_octets(pid) for pid in self.relay.worker_pids())

    def open_connections(self) -> float:
        return self.relay.metrics()["angarium_ingress_open_connections"]

    def says(self, octets: bytes) -> list[bytes]:
        """All reply lines to these octets, sent at once; then our side is closed. Every line must be a reply's."""
        with self.connect() as sock:
            # sent from where replies are read: one who only writes is another test
            sock.setblocking(False)
            received = b""
            view: memoryview | None = memoryview(octets)
            while True:
                reads, writes, _ = select.select([sock], [sock] if view is not None else [], [], PATIENCE_S)
                assert reads or writes, f"neither reply nor close; so far {received[-300:]!r}"
                if writes:
                    try:
                        view = view[sock.send(view) :]
                        if not len(view):
                            sock.shutdown(socket.SHUT_WR)
                            view = None
                    except OSError:
                        view = None  # it has closed, and said why
                if reads:
                    try:
                        got = sock.recv(1 << 16)
                    except ConnectionResetError:
                        break  # it closed while more came in
                    if not got:
                        break
                    received += got
        lines = received.split(b"\r\n")
        assert lines.pop() == b"", f"the last line is torn: {received[-100:]!r}"
        for line in lines:
            assert re.fullmatch(rb"[2345]\d\d[ -][\x20-\x7e]*", line), line
        assert lines[0].startswith(b"220 relay.test ")
        return lines[1:]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def module_target(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("bad-input")
    certificate = authority.issue_cert("relay.test")
    certificate.cert_chain_pems[0].write_to_path(folder / "chain.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    smtp_port, tls_port = free_port(), free_port()
    common = {"role": "relay", "relay_networks": ["127.0.0.0/8"]}
    with HopThread(chunking=False) as next_hop:
        config = {
            "tls": {"certificate": folder / "chain.pem", "key": folder / "key.pem"},
            "limits": {
                "message_size": SIZE_LIMIT,
                "connections_per_client": PER_CLIENT,
                "idle_timeout": f"{IDLE_S}s",
                "commands_per_second": 1_000_000,
                "errors": 20,
            },
            "delivery": {"tls": "none"},
            "listener": [
                {"name": "relay", "listen": f"127.0.0.1:{smtp_port}", "tls": "starttls", **common},
                {"name": "tls", "listen": f"127.0.0.1:{tls_port}", "tls": "implicit", **common},
            ],
            "route": [{"recipients": ["*"], "next_hop": f"smtp://127.0.0.1:{next_hop.hop.port}"}],
        }
        relay = Relay(folder / "relay", config)
        relay.smtp_port = smtp_port
        with relay:
            yield Target(relay, next_hop, tls_port)


@pytest.fixture
def target(module_target: Target) -> Iterator[Target]:
    """The target, which must be well before and after."""
    module_target.next_hop.ledger.arrivals.clear()
    yield module_target
    relay = module_target.relay
    relay.wait(lambda: module_target.open_connections() == 0, "no open connection")
    assert relay.get("/readyz")[0] == 200
    with relay.client() as client:
        client.ehlo()
        client.expect(250, "NOOP")
        client.expect(221, "QUIT")
    assert not TRACEBACK.search(relay.stderr), relay.stderr[-4000:]
    relay.wait_empty()
    relay.wait(lambda: module_target.open_connections() == 0, "that client to be gone")


def codes(lines: list[bytes]) -> list[int]:
    return [int(line[:3]) for line in lines if line[3:4] == b" "]


def client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="relay.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


# ---------------------------------------------------------------- command lines


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        pytest.param(b"\0" * 1000 + b"\r\nNOOP\r\n", [501, 250], id="nulls"),
        pytest.param(
            b"EHLO client.test\r\nMAIL FROM:<a\0@client.test>\r\nNOOP\r\n", [250, 501, 250], id="null-in-path"
        ),
        pytest.param(b"NOOP " + b"x" * MIB + b"\r\nNOOP\r\n", [500, 250], id="megabyte-line"),
        pytest.param(b"x" * (4 * MIB), [], id="megabytes-without-end"),
        pytest.param(b"EHL", [], id="half-command"),
        pytest.param(b"EHLO client.test\r\nMAIL FROM:<a@client.te", [250], id="half-path"),
        pytest.param(b"QUIT\r\nNOOP\r\nEHLO again.test\r\nMAIL FROM:<>\r\n", [221], id="after-quit"),
        pytest.param(b"\r\n\r\n\r\nNOOP\r\n", [500, 500, 500, 250], id="empty-lines"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: relay.test\r\n\r\n", [500, 500, 500], id="http"),
        pytest.param(b"NOOP\r\n" * 30_000, [250] * 30_000, id="many-pipelined"),
        pytest.param(b"WHAT\r\n" * 1000, [500] * 20 + [421], id="errors"),
    ],
)
def test_command_lines(target: Target, octets: bytes, expected: list[int]) -> None:
    assert codes(target.says(octets)) == expected


def test_binary_on_the_plain_port(target: Target) -> None:
    noise = random.Random(1)
    for octets in (client_hello(), noise.randbytes(300_000), bytes(range(256)) * 100, b"\xff" * 100_000):
        assert all(code in (500, 501, 421) for code in codes(target.says(octets)))


# ---------------------------------------------------------------- mail data and chunks


def test_garbage_behind_mail_data_is_answered_as_commands(target: Target) -> None:
    lines = target.says(ENVELOPE + b"DATA\r\n" + MESSAGE % b"one" + b".\r\n\0\1\2\r\nX-Token: two\r\n.\r\nNOOP\r\n")
    assert codes(lines) == [250, 250, 250, 354, 250, 501, 500, 500, 250]
    target.relay.wait_empty()
    assert list(target.next_hop.ledger.arrivals) == ["one"]


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        # too short: the rest of the content is taken for commands, and the transaction is not complete
        pytest.param(b"BDAT 4\r\nX-Token: x\r\nNOOP\r\n", [250, 500, 250], id="too-short"),
        pytest.param(b"BDAT 1000 LAST\r\nX-Token: x\r\n\r\n", [], id="too-long"),
        pytest.param(b"BDAT 1000000000000 LAST\r\nabc", [], id="a-terabyte"),
        pytest.param(b"BDAT 18446744073709551615 LAST\r\nabc", [501, 421], id="2^64-1"),
        pytest.param(b"BDAT 18446744073709551616 LAST\r\nabc", [501, 421], id="2^64"),
        pytest.param(b"BDAT -1 LAST\r\nNOOP\r\n", [501, 421], id="negative"),
        pytest.param(b"BDAT\r\nNOOP\r\n", [501, 421], id="no-size"),
        pytest.param(b"BDAT 0x10\r\nNOOP\r\n", [501, 421], id="hexadecimal"),
        pytest.param(b"BDAT 5 LAS\r\nhelloNOOP\r\n", [501, 421], id="misspelt"),
        pytest.param(b"BDAT 5 LAST\r\nhell", [], id="one-octet-missing"),
        pytest.param(b"BDAT 0\r\nBDAT 0\r\nRSET\r\nNOOP\r\n", [250, 250, 250, 250], id="empty-chunks"),
        pytest.param(b"RSET\r\nBDAT 6 LAST\r\nNOOP\r\nNOOP\r\n", [250, 503, 250], id="without-a-transaction"),
    ],
)
def test_chunks_that_lie(target: Target, octets: bytes, expected: list[int]) -> None:
    lines = target.says(ENVELOPE + octets)
    assert codes(lines)[3:] == expected
    target.relay.wait_empty()
    assert not target.next_hop.ledger.arrivals


@pytest.mark.parametrize("how", ["data", "chunk", "chunks"])
def test_a_message_over_the_limit_costs_no_memory(target: Target, how: str) -> None:
    before = target.memory()
    line = b"x" * 998 + b"\r\n"
    total = 40 * MIB
    with target.relay.client() as client:
        client.ehlo()
        client.expect(552, f"MAIL FROM:<a@client.test> SIZE={SIZE_LIMIT + 1}")
        client.envelope("a@client.test", ["b@next.test"])
        if how == "data":
            client.expect(354, "DATA")
        elif how == "chunk":
            client.write(b"BDAT %d LAST\r\n" % (total // len(line) * len(line)))
        peak = 0
        for n in range(total // len(line)):
            client.write((b"BDAT 1000\r\n" if how == "chunks" else b"") + line)
            if how == "chunks":
                code, _ = client.read()
                if code != 250:
                    assert code == 552
                    assert n * len(line) <= SIZE_LIMIT + len(line)
                    break
            if n % 8000 == 7999:
                peak = max(peak, target.memory())
        if how == "data":
            client.write(b".\r\n")
        if how != "chunks":
            code, lines = client.read()
            assert (code, lines[0][:5]) == (552, "5.3.4")
            assert peak - before < 8 * MIB, f"{(peak - before) / MIB:.1f} MiB for a message that is refused"
        client.expect(250, "RSET")
        client.send("a@client.test", ["b@next.test"], MESSAGE % b"small")
        client.expect(221, "QUIT")
    target.relay.wait_empty()
    assert list(target.next_hop.ledger.arrivals) == ["small"]


SMUGGLED = b"MAIL FROM:<evil@client.test>\r\nRCPT TO:<victim@next.test>\r\nDATA\r\nX-Token: smuggled\r\n\r\nevil\r\n"
ENDS = [
    b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n", b"\n.\r", b"\r\n\0.\r\n",
    b"\r\n.\0\r\n", b"\r\n.\r\r\n", b"\n\r\n.\r\r\n", b"\r\r\n.\r\r\n", b"\r\n..\r\n", b"\r\n. \r\n",
    b"\r\n .\r\n", b"\r\n\x85.\x85", b"\xe2\x80\xa8.\xe2\x80\xa8",
]  # fmt: skip


@pytest.mark.parametrize("end", ENDS, ids=repr)
@pytest.mark.parametrize("how", ["data", "chunk"])
def test_no_message_is_smuggled_into_another(target: Target, end: bytes, how: str) -> None:
    content = MESSAGE % b"outer" + b"text" + end + SMUGGLED
    mail_data = b"DATA\r\n" + content + b".\r\n" if how == "data" else b"BDAT %d LAST\r\n" % len(content) + content
    got = codes(target.says(ENVELOPE + mail_data + b"NOOP\r\n"))
    assert got[-1] == 250
    assert got[-2] in (250, 554), got
    assert len(got) == (6 if how == "data" else 5), f"{got}: something of the content was taken for commands"
    target.relay.wait_empty()
    arrivals = target.next_hop.ledger.arrivals
    assert {token: len(ids) for token, ids in arrivals.items()} == ({"outer": 1} if got[-2] == 250 else {})


def test_the_end_of_data_within_a_chunk_is_content(target: Target) -> None:
    content = MESSAGE % b"outer" + b"\r\n.\r\n" + SMUGGLED + b".\r\n..\r\n"
    assert codes(target.says(ENVELOPE + b"BDAT %d LAST\r\n" % len(content) + content))[3:] == [250]
    target.relay.wait_empty()
    assert {token: len(ids) for token, ids in target.next_hop.ledger.arrivals.items()} == {"outer": 1}


# ---------------------------------------------------------------- TLS


def test_garbage_on_the_tls_port(target: Target) -> None:
    noise = random.Random(2)
    for octets in (
        b"EHLO client.test\r\n",
        noise.randbytes(100_000),
        b"\x16\x03\x01\xff\xff" + b"\0" * 1000,
        client_hello()[:50],
        b"",
    ):
        with target.connect(target.tls_port) as sock, contextlib.suppress(OSError):
            sock.sendall(octets)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass


@pytest.mark.parametrize(
    "octets", [b"EHLO x.test\r\nNOOP\r\n", b"\x16\x03\x01\0\x05garbage", b"\0" * 70_000, b""], ids=len
)
def test_garbage_behind_starttls(target: Target, octets: bytes) -> None:
    with target.relay.client() as client:
        client.ehlo()
        client.expect(220, "STARTTLS")
        with contextlib.suppress(OSError):
            client.write(octets)
            client.socket.shutdown(socket.SHUT_WR)
            while client.socket.recv(1 << 16):
                pass


def test_commands_in_plaintext_behind_starttls_are_thrown_away(target: Target, authority: trustme.CA) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with target.relay.client() as client:
        client.ehlo()
        client.write(b"STARTTLS\r\nEHLO injected.test\r\nMAIL FROM:<injected@client.test>\r\n")
        assert client.read()[0] == 220
        with context.wrap_socket(client.socket, server_hostname="relay.test") as secured:
            secured.sendall(b"RCPT TO:<b@next.test>\r\n")
            assert secured.recv(4096).startswith(b"503 5.5.1 "), "the injected EHLO and MAIL were taken"


# ---------------------------------------------------------------- many, slow and deaf clients


def test_silent_and_slow_connections_cost_little_and_end(target: Target) -> None:
    before = target.memory()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(target.connect()) for _ in range(PER_CLIENT - 1)]
        slow = clients[::2]
        for octet in b"EHLO slow.t":
            for sock in slow:
                sock.sendall(bytes((octet,)))
        target.relay.wait(lambda: target.open_connections() == len(clients), "all of them to be open")
        grown = target.memory() - before
        assert grown < len(clients) * 40_000, f"{grown / len(clients):.0f} octets for a connection that says nothing"
        for sock in clients:
            octets = b""
            while part := sock.recv(4096):
                octets += part
            assert re.search(rb"\r\n421 4\.4\.2 [^\r\n]*\r\n$", octets), octets


def test_a_client_that_never_reads_is_not_read(target: Target) -> None:
    """What it may send is bounded, what the relay holds for it too, and after the idle time it is cut off."""
    before = target.memory()
    noops = b"NOOP\r\n" * 10_000
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(10):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", target.port))
            sock.setblocking(False)
            clients.append(sock)
        sent = 0
        blocked: set[socket.socket] = set()
        while len(blocked) < len(clients):
            _, writable, _ = select.select([], clients, [], 0.5)
            blocked = set(clients) - set(writable)
            for sock in writable:
                with contextlib.suppress(BlockingIOError):
                    sent += sock.send(noops)
            assert sent < 10 * 32 * MIB, "it reads on and on"
        grown = target.memory() - before
        assert grown < 10 * 2 * MIB, f"{grown / 10 / MIB:.1f} MiB for each client that does not read"
        # their side stays open: the relay ends it alone
        target.relay.wait(lambda: target.open_connections() == 0, "deaf clients to be cut off")


def test_a_flood_of_connections_is_turned_away_beyond_the_limit(target: Target) -> None:
    extra = 60
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(target.connect()) for _ in range(PER_CLIENT + extra)]
        greetings = [sock.recv(4096) for sock in clients]
        assert sum(greeting.startswith(b"220 ") for greeting in greetings) == PER_CLIENT
        turned_away = [greeting for greeting in greetings if not greeting.startswith(b"220 ")]
        assert all(re.fullmatch(rb"421 4\.7\.0 [^\r\n]+\r\n", greeting) for greeting in turned_away)
    wait_until(lambda: target.open_connections() == 0, "the flood to end")
    with target.relay.client() as client:
        client.expect(221, "QUIT")


def test_handshakes_count_for_the_limits_and_silent_ones_end(target: Target) -> None:
    """Whoever connects to the TLS port and never says a word holds one of its client's places, and not for long."""
    extra = 40
    failures = 'angarium_ingress_tls_handshakes_total{result="failed"}'
    refusals = 'angarium_ingress_refused_connections_total{limit="client"}'
    before = target.relay.metrics()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(target.connect(target.tls_port)) for _ in range(PER_CLIENT + extra)]
        target.relay.wait(
            lambda: target.relay.metrics()[refusals] == before[refusals] + extra, "those beyond the limit to be refused"
        )
        with target.connect() as plain:  # the limit is one, whatever the port
            assert plain.recv(4096).startswith(b"421 4.7.0 ")
        assert all(sock.recv(4096) == b"" for sock in clients), "a silent client was answered"
    wait_until(lambda: target.open_connections() == 0, "silent handshakes to end")
    assert target.relay.metrics()[failures] == before[failures] + PER_CLIENT


def test_a_session_over_tls_counts_once(target: Target, authority: trustme.CA) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with contextlib.ExitStack() as stack:
        for number in range(1, PER_CLIENT // 10):
            sock = stack.enter_context(target.connect(target.tls_port))
            secured = stack.enter_context(context.wrap_socket(sock, server_hostname="relay.test"))
            assert secured.recv(4096).startswith(b"220 ")
            target.relay.wait(lambda number=number: target.open_connections() == number, f"{number} open connections")
            secured.sendall(b"EHLO client.test\r\n")
            assert b"LIMITS RCPTMAX" in secured.recv(4096)


def test_connections_reset_at_once(target: Target) -> None:
    for number in range(300):
        sock = target.connect()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if number % 2:
            sock.sendall(ENVELOPE)
        sock.close()


def test_descriptors_are_given_back(target: Target) -> None:
    def descriptors() -> int:
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in target.relay.worker_pids())

    with target.relay.client() as client:
        client.ehlo()
        client.send("a@client.test", ["b@next.test"], MESSAGE % b"x")
    target.relay.wait_empty()
    target.relay.wait(lambda: target.open_connections() == 0, "no open connection")
    before = descriptors()
    for _ in range(200):
        with Dialogue("127.0.0.1", target.port) as client:
            client.ehlo()
    target.relay.wait(lambda: target.open_connections() == 0, "no open connection")
    # some are on their way out, or the admin process asks just now
    target.relay.wait(lambda: descriptors() <= before + 2, f"no more than {before} descriptors")
