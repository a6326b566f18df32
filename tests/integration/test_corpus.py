"""Real-world messages come out as they went in: octet for octet, but for the Received field on top.

Every message of the corpus goes in by DATA and by BDAT (in one chunk, and in pieces), and out to a next hop that offers
CHUNKING and to one that does not. One connection carries all of them: what one leaves behind would harm the next.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support import corpus
from tests.support.peers import EXTENSIONS, SinkServer
from tests.support.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGES = corpus.load()
BY_DATA = [name for name, message in MESSAGES.items() if corpus.dotted(message)]
NEXT_HOPS = ("chunking", "plain")
PIECE = 1000


class Road:
    """A relay between this test and two next hops."""

    def __init__(self, relay: Relay, sinks: dict[str, SinkServer]) -> None:
        self.relay = relay
        self.sinks = sinks
        self.client = relay.client()
        self.client.ehlo()

    def arrived(self, name: str, way: str, next_hop: str) -> bytes:
        """The octets that arrived for this message."""
        return self.sinks[next_hop].wait_mail(f"{way}.{name}@{next_hop}.test").content


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    with (
        SinkServer() as chunking,
        SinkServer(extensions=[word for word in EXTENSIONS if word != "CHUNKING"]) as plain,
        Relay(
            tmp_path_factory.mktemp("corpus"),
            {
                "route": [
                    {"recipients": ["chunking.test"], "next_hop": chunking.url},
                    {"recipients": ["plain.test"], "next_hop": plain.url},
                ]
            },
        ) as relay,
    ):
        road = Road(relay, {"chunking": chunking, "plain": plain})
        yield road
        road.client.close()


def recipients(name: str, way: str) -> list[str]:
    return [f"{way}.{name}@{next_hop}.test" for next_hop in NEXT_HOPS]


def parameters(message: bytes) -> str:
    return "" if message.isascii() else "BODY=8BITMIME"


def as_relayed(message: bytes) -> bytes:
    """A blank line goes in front of text that has no header section, or the trace field would have swallowed it."""
    return b"\r\n" + message if message == MESSAGES["no-header-no-separator"] else message


def pieces(message: bytes) -> list[bytes]:
    """Chunks of several sizes, none at a line end but by chance, and an empty one at the end."""
    chunks, start, size = [], 0, 1
    while start < len(message):
        chunks.append(message[start : start + size])
        start += size
        size = min(size * 3 + 1, max(PIECE, len(message) // 20))
    return [*chunks, b""]


@pytest.mark.parametrize("name", BY_DATA)
def test_data(road: Road, name: str) -> None:
    message = MESSAGES[name]
    road.client.send("me@origin.test", recipients(name, "data"), message, parameters(message))
    for next_hop in NEXT_HOPS:
        assert corpus.without_trace(road.arrived(name, "data", next_hop)) == as_relayed(message)


@pytest.mark.parametrize("name", MESSAGES)
def test_bdat(road: Road, name: str) -> None:
    message = MESSAGES[name]
    for way, chunks in (("bdat", [message]), ("pieces", pieces(message))):
        road.client.send_chunks("me@origin.test", recipients(name, way), chunks, parameters(message))
        assert corpus.without_trace(road.arrived(name, way, "chunking")) == as_relayed(message)
        # without CHUNKING there is no way to say that the last line has no end: DATA ends every line
        whole = message if corpus.dotted(message) else message + b"\r\n"
        assert corpus.without_trace(road.arrived(name, way, "plain")) == as_relayed(whole)


@pytest.mark.parametrize(
    ("name", "canonicalization"),
    [("dkim-simple", "simple"), ("dkim-relaxed", "relaxed"), ("dkim-empty-body", "simple")],
)
def test_a_dkim_body_hash_still_verifies(road: Road, name: str, canonicalization: str) -> None:
    message = MESSAGES[name]
    signed = re.search(rb"bh=([^;\s]+)", message)
    assert signed is not None
    assert corpus.body_hash(message, canonicalization) == signed[1].decode()
    road.client.send("me@origin.test", recipients(name, "dkim"), message)
    for next_hop in NEXT_HOPS:
        assert corpus.body_hash(road.arrived(name, "dkim", next_hop), canonicalization) == signed[1].decode()


def test_every_message_used_the_way_that_it_was_meant_to(road: Road) -> None:
    """The test above would prove nothing about BDAT if the relay had not spoken it."""
    message = MESSAGES["plain-ascii"]
    road.client.send("me@origin.test", recipients("way", "check"), message)
    assert road.sinks["chunking"].wait_mail("check.way@chunking.test").chunked
    assert not road.sinks["plain"].wait_mail("check.way@plain.test").chunked
    assert road.relay.events("bounce") == road.relay.events("deferral") == []


def test_bare_line_ends_are_refused(road: Road) -> None:
    """RFC 5321 §2.3.8: what other servers might take for an end of line, or of a message, must not get through."""
    for content in (b"a\nb\r\n", b"a\rb\r\n", b"a\n.\r\nb\r\n", b"a\r\n.\nb\r\n", b"a\r\n.\rb\r\n"):
        road.client.envelope("me@origin.test", ["bare@plain.test"])
        road.client.expect(354, "DATA")
        road.client.write(b"Subject: bare\r\n\r\n" + content.replace(b"\r\n.\r\n", b"\r\n..\r\n") + b".\r\n")
        code, lines = road.client.read()
        assert (code, lines[0][:5]) == (554, "5.6.0"), content
