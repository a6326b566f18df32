"""A proxy's header, whole or in any pieces, right or wrong: the compiled reader says what the plain one says."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from angarium._core.proxy_header import ProxyHeader
from tests.reference.proxy_header import Said, Wrong, block_of, read_header

if TYPE_CHECKING:
    from collections.abc import Iterable

v4 = st.ip_addresses(v=4)
v6 = st.one_of(
    st.ip_addresses(v=6),
    st.ip_addresses(v=6, network="::ffff:0:0/96"),
    st.ip_addresses(v=6, network="::/96"),
    st.ip_addresses(v=6, network="2001:db8::/96"),
)
ports = st.integers(0, 65535)
words = st.one_of(
    v4.map(str),
    v6.map(str),
    v6.map(lambda address: address.exploded),
    ports.map(str),
    st.sampled_from(["", " ", "065", "65536", "1.2.3", "1.2.3.04", "::1%eth0", "fe80::1", "x", "-1", "TCP4"]),
).map(str.encode)
line = st.builds(
    lambda family, words, end: b"PROXY " + b" ".join([family, *words]) + end,
    st.sampled_from([b"TCP4", b"TCP6", b"TCP6", b"UNKNOWN", b"UDP4", b"tcp4", b""]),
    st.lists(words, min_size=0, max_size=5),
    st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"", b" \r\n"]),
)
good_line = st.one_of(
    st.tuples(v4, v4, ports, ports).map(lambda parts: "PROXY TCP4 {} {} {} {}\r\n".format(*parts).encode()),
    st.tuples(v6, v6, ports, ports).map(lambda parts: "PROXY TCP6 {} {} {} {}\r\n".format(*parts).encode()),
    st.binary(max_size=120).map(lambda rest: b"PROXY UNKNOWN " + rest + b"\r\n"),
)


tlvs = st.binary(max_size=300)
good_block = st.one_of(
    st.tuples(v4, v4, ports, ports, tlvs).map(
        lambda parts: block_of(
            0x21, 0x11, parts[0].packed + parts[1].packed + struct.pack(">HH", parts[2], parts[3]) + parts[4], None
        )
    ),
    st.tuples(v6, v6, ports, ports, tlvs).map(
        lambda parts: block_of(
            0x21, 0x21, parts[0].packed + parts[1].packed + struct.pack(">HH", parts[2], parts[3]) + parts[4], None
        )
    ),
    tlvs.map(lambda rest: block_of(0x21, 0x31, b"/run/a.sock".ljust(108, b"\0") * 2 + rest, None)),
    tlvs.map(lambda rest: block_of(0x20, 0x11, rest, None)),
)
block = st.builds(
    block_of,
    st.sampled_from([0x20, 0x21, 0x21, 0x21, 0x22, 0x11, 0x00, 0xFF]),
    st.sampled_from([0x00, 0x11, 0x21, 0x31, 0x12, 0x22, 0x01, 0x10, 0x41, 0xFF]),
    st.one_of(st.binary(max_size=400), st.integers(0, 4090).map(bytes)),
    st.one_of(st.none(), st.integers(0, 5000), st.just(65535)),
)
octets = st.one_of(
    good_line,
    good_line,
    good_block,
    good_block,
    line,
    block,
    st.binary(max_size=200),
    st.builds(lambda whole, cut: whole[:cut], st.one_of(good_line, good_block), st.integers(0, 60)),
    st.builds(
        lambda whole, at, octet: whole[:at] + bytes([octet]) + whole[at + 1 :],
        st.one_of(good_line, good_block),
        st.integers(0, 60),
        st.integers(0, 255),
    ),
)
behind = st.sampled_from([b"", b"EHLO client.example\r\n", b"\x16\x03\x01\x02\x00", b"PROXY UNKNOWN\r\n", b"\r\n\n"])
cuts = st.lists(st.integers(0, 4200), max_size=8)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def compiled(parts: list[bytes]) -> tuple[int, Said] | str | None:
    header = ProxyHeader()
    taken = 0
    for part in parts:
        try:
            step = header.feed(part)
        except ValueError as failure:
            return str(failure)
        taken += step
        assert step == len(part) or header.done, "octets that are no part of a whole header stay"
    if not header.done:
        return None
    source = (header.source, header.source_port)
    destination = (header.destination, header.destination_port)
    return taken, Said(header.version, header.known, source, destination)


def plain(data: bytes) -> tuple[int, Said] | str | None:
    try:
        return read_header(data)
    except Wrong as wrong:
        return str(wrong)


@given(octets, behind, cuts)
@example(b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 25\r\n", b"", [1])
@example(b"PROXY " + b"x" * 101, b"", [])
@example(b"PROXY UNKNOWN" + b"x" * 92 + b"\r\n", b"", [])
@example(b"PROXY UNKNOWN" + b"x" * 93 + b"\r\n", b"", [106, 107])
@example(block_of(0x21, 0x11, bytes(12), 4080), bytes(4068), [16])
@example(block_of(0x21, 0x11, bytes(12), 4081), bytes(4069), [15])
@example(block_of(0x21, 0x11, bytes(11), None), b"", [])
def test_it_says_what_the_reference_says(head: bytes, tail: bytes, cuts: list[int]) -> None:
    data = head + tail
    expected = plain(data)
    found = compiled(pieces(data, cuts))
    if isinstance(expected, str):
        # in pieces a wrong beginning is refused as soon as it is seen, and then it is what a shorter piece has wrong
        assert found in {plain(data[:n]) for n in range(len(data) + 1)} - {None}
        assert isinstance(found, str)
    else:
        assert found == expected


@given(octets, behind)
def test_octet_by_octet_it_says_the_same(head: bytes, tail: bytes) -> None:
    data = head + tail
    found = compiled([data[at : at + 1] for at in range(len(data))])
    expected = plain(data)
    assert isinstance(found, str) == isinstance(expected, str)
    if not isinstance(expected, str):
        assert found == expected


def test_what_comes_behind_a_whole_header_is_left() -> None:
    header = ProxyHeader()
    assert header.feed(b"PROXY UNKNOWN\r\nEHLO x\r\n") == 15
    assert header.feed(b"EHLO x\r\n") == 0
    assert (header.done, header.known, header.source) == (True, False, "")


@pytest.mark.parametrize("data", [b"EHLO x\r\n", b"PROXZ", b"\r\n\r\n\r\n", b"\x16\x03\x01"])
def test_who_speaks_smtp_or_tls_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(ValueError, match="no header"):
        ProxyHeader().feed(data)
