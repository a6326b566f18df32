"""The compiled reply parser reads what the reference model reads, however the octets are split."""

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from angarium._core.reply import ReplyError, ReplyParser
from tests.reference import reply as reference

status = st.one_of(
    st.builds(
        lambda *numbers: "{}.{}.{}".format(*numbers).encode(),
        st.integers(1, 6),
        st.integers(0, 1100),
        st.integers(0, 1100),
    ),
    st.sampled_from([b"2.1.5", b"5.1.1", b"4.7.0", b"5.1.1", b"2.0", b"2..0", b"2.001.02", b"4.10.1.5", b""]),
)
text = st.one_of(
    st.binary(max_size=40).map(lambda octets: octets.replace(b"\n", b"")),
    st.tuples(status, st.sampled_from([b"", b" ", b"  ", b":", b" Ok", b"  Ok \r", b"x"])).map(b"".join),
    st.sampled_from([b"", b"Ok", b"SIZE 1000", "geräumt".encode(), b"x" * 2040, b"x" * 2044, b"x" * 2045]),
)
line_end = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r\r\n"])


@st.composite
def one_reply(draw: st.DrawFn) -> bytes:
    code = draw(
        st.one_of(st.sampled_from([b"250", b"354", b"450", b"550"]), st.integers(0, 999).map(lambda n: b"%03d" % n))
    )
    texts = draw(st.lists(text, min_size=1, max_size=5))
    octets = b"".join(code + b"-" + part + draw(line_end) for part in texts[:-1])
    return octets + code + draw(st.sampled_from([b" " + texts[-1], b""])) + draw(line_end)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    octets = bytearray(draw(st.lists(one_reply(), max_size=3).map(b"".join)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(octets)))
        kept = draw(st.integers(0, 3))
        octets[at : at + kept] = bytes(draw(st.lists(st.sampled_from(b"0123456789 -.\r\nx\x00\xff"), max_size=2)))
    return bytes(octets)


inputs = st.one_of(
    mutated(), mutated(), st.binary(max_size=60), st.lists(st.sampled_from(b"25 -.\r\n"), max_size=60).map(bytes)
)


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def read_in_pieces(parser: ReplyParser, parts: Iterable[bytes]) -> tuple[list[reference.Reply], str | None]:
    replies: list[reference.Reply] = []
    for part in parts:
        try:
            replies += parser.parse(part)
        except ReplyError as error:
            return replies + error.replies, str(error)
    return replies, None


@settings(max_examples=400)
@given(
    data=inputs,
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
    max_octets=st.sampled_from([65536, 65536, 4096, 2049, 2048, 100, 5, 1]),
    max_lines=st.sampled_from([128, 128, 3, 1]),
)
@example(data=b"250 " + b"x" * 2045, cuts=[1], max_octets=2048, max_lines=1)
@example(data=b"250 " + b"x" * 2044 + b"\n", cuts=[1], max_octets=2048, max_lines=1)
@example(data=b"250 ok\r\n", cuts=[7], max_octets=8, max_lines=1)
@example(data=b"250 ok\r\n", cuts=[7], max_octets=7, max_lines=1)
def test_replies_are_the_same_in_any_split(data: bytes, cuts: list[int], max_octets: int, max_lines: int) -> None:
    expected = reference.parse_replies(data, max_octets, max_lines)
    assert read_in_pieces(ReplyParser(max_octets, max_lines), pieces(data, cuts)) == expected


@given(data=inputs)
def test_replies_are_the_same_octet_by_octet(data: bytes) -> None:
    octets = [data[i : i + 1] for i in range(len(data))]
    assert read_in_pieces(ReplyParser(), octets) == reference.parse_replies(data)


@given(first=inputs, second=inputs)
def test_a_cleared_parser_is_as_new(first: bytes, second: bytes) -> None:
    parser = ReplyParser()
    read_in_pieces(parser, [first])
    parser.clear()
    assert read_in_pieces(parser, [second]) == reference.parse_replies(second)
