"""The connection ends at every octet of a dialogue, on either side.

As server: for every k, a client sends the first k octets of a whole session and is gone, politely or with a
reset. As client: for every k, a next hop says the first k octets of all its replies and closes. What was
acknowledged arrives; what arrives twice was in doubt.
"""

from __future__ import annotations

import re
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from tests.faults.node import TRACEBACK
from tests.support.clients import PATIENCE_S
from tests.support.load import HopThread
from tests.support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.faults

CONTENT = b"X-Token: %s\r\nSubject: x\r\n\r\n.Hello.\r\n"
COMMANDS = b"EHLO client.test\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<b@next.test>\r\n"


def by_data(token: bytes) -> bytes:
    return COMMANDS + b"DATA\r\n" + CONTENT.replace(b"\r\n.", b"\r\n..") % token + b".\r\nQUIT\r\n"


def by_chunks(token: bytes) -> bytes:
    content = CONTENT % token
    return COMMANDS + b"BDAT 20\r\n%sBDAT %d LAST\r\n%sQUIT\r\n" % (content[:20], len(content) - 20, content[20:])


@pytest.fixture(scope="module")
def next_hop() -> Iterator[HopThread]:
    with HopThread() as next_hop:
        yield next_hop


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory, next_hop: HopThread) -> Iterator[Relay]:
    config = {
        "limits": {"idle_timeout": "30s"},
        "delivery": {"tls": "none"},
        "route": [{"recipients": ["*"], "next_hop": f"smtp://127.0.0.1:{next_hop.hop.port}"}],
    }
    with Relay(tmp_path_factory.mktemp("disconnect"), config) as relay:
        yield relay


@pytest.mark.parametrize("end", ["close", "half-close", "reset"])
@pytest.mark.parametrize(("kind", "dialogue"), [(b"d", by_data), (b"c", by_chunks)], ids=["data", "bdat"])
def test_a_client_that_is_gone_after_any_octet(
    relay: Relay, next_hop: HopThread, kind: bytes, dialogue: Callable[[bytes], bytes], end: str
) -> None:
    acknowledged = set()
    octets = len(dialogue(b"xx000"))
    prefix = kind + end[:1].encode()
    for k in range(octets + 1):
        token = prefix + b"%03d" % k
        with socket.create_connection(("127.0.0.1", relay.smtp_port), timeout=PATIENCE_S) as sock:
            sock.sendall(dialogue(token)[:k])
            if end == "half-close":
                sock.shutdown(socket.SHUT_WR)
                heard = b""
                while part := sock.recv(4096):
                    heard += part
                assert re.fullmatch(rb"(?:[235]\d\d[ -][^\r\n]*\r\n)+", heard), (k, heard)
                if b"queued as" in heard:
                    acknowledged.add(token.decode())
            elif end == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with relay.client() as last:  # greeted in its turn: everybody before it has been accepted
        last.expect(221, "QUIT")
    relay.wait(lambda: relay.metrics()["angarium_ingress_open_connections"] == 0, "no open connection")
    relay.wait_empty()
    arrivals = {k: ids for k, ids in next_hop.ledger.arrivals.items() if k.encode().startswith(prefix)}
    assert acknowledged <= arrivals.keys()
    assert all(len(ids) == 1 for ids in arrivals.values()), arrivals
    # whole before QUIT was sent: it was accepted in any case where the relay read it all
    whole = {f"{prefix.decode()}{k:03d}" for k in range(octets - len(b"QUIT\r\n"), octets + 1)}
    assert arrivals.keys() <= whole, "a message that was not complete"
    if end == "half-close":
        assert acknowledged == whole
    assert relay.get("/readyz")[0] == 200
    assert not TRACEBACK.search(relay.stderr), relay.stderr[-4000:]


@pytest.mark.parametrize(
    ("chunking", "pipelining"), [(True, True), (False, True), (False, False)], ids=["bdat", "data", "one-by-one"]
)
def test_a_next_hop_that_closes_after_any_octet_of_its_replies(
    tmp_path: Path, chunking: bool, pipelining: bool
) -> None:
    """A next hop of its own for every k; its first connection says k octets, the others everything."""
    with HopThread(chunking=chunking, pipelining=pipelining) as hops:
        total = hops.octets_of_replies()
        ports = hops.open_limited(range(total + 1))
        config = {
            "delivery": {"tls": "none", "idle": "1s"},
            "route": [
                {"recipients": [f"k{k}.test"], "next_hop": f"smtp://127.0.0.1:{port}"} for k, port in enumerate(ports)
            ]
            + [{"recipients": ["*"], "next_hop": f"smtp://127.0.0.1:{hops.hop.port}"}],
        }
        with Relay(tmp_path, config) as relay:
            ids = {}
            with relay.client() as client:
                client.ehlo()
                for k in range(total + 1):
                    ids[f"k{k}"] = client.send("a@client.test", [f"b@k{k}.test"], CONTENT % b"k%d" % k)
            relay.wait_empty(60)
            arrivals = hops.ledger.arrivals
            assert arrivals.keys() == ids.keys(), f"lost: {ids.keys() - arrivals.keys()}"
            doubtful = {event["id"] for event in relay.events("in_doubt")}
            for token, seen in hops.ledger.twice.items():
                assert seen == [ids[token]] * 2
                assert ids[token] in doubtful, f"{token} arrived twice and nothing says so"
            # the cut within the final reply is what nobody can know
            assert hops.ledger.twice, "no cut fell between the message and its final reply"
            relay.wait(
                lambda: relay.metrics()["angarium_delivery_open_connections"] == 0, "idle connections to be closed"
            )
            assert relay.metrics()["angarium_delivery_possible_duplicates_total"] == len(doubtful)
            assert not TRACEBACK.search(relay.stderr), relay.stderr[-4000:]
