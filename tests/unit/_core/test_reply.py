"""What a next hop may answer, what is made of it, and what is refused."""

import pytest

from angarium._core import reply
from angarium._core.reply import ReplyError, ReplyParser

READ = [
    # one line
    (b"250 OK\r\n", [(250, None, b"OK")]),
    (b"250\r\n", [(250, None, b"")]),
    (b"250 \r\n", [(250, None, b"")]),
    (b"250-\r\n250-\r\n250\r\n", [(250, None, b"\n\n")]),
    (b"220 mx.example.org ESMTP Postfix (Debian/GNU)\r\n", [(220, None, b"mx.example.org ESMTP Postfix (Debian/GNU)")]),
    (b"354 End data with <CR><LF>.<CR><LF>\r\n", [(354, None, b"End data with <CR><LF>.<CR><LF>")]),
    (b"200 x\r\n599 y\r\n", [(200, None, b"x"), (599, None, b"y")]),
    # line ends
    (b"250 OK\n", [(250, None, b"OK")]),
    (b"250\n", [(250, None, b"")]),
    (b"250 OK\r\r\n", [(250, None, b"OK")]),
    (b"250-a\n250 b\r\n", [(250, None, b"a\nb")]),
    (b"250 a\rb\r\n", [(250, None, b"a\rb")]),
    # enhanced status
    (b"250 2.1.0 Ok\r\n", [(250, (2, 1, 0), b"Ok")]),
    (b"250 2.1.0\r\n", [(250, (2, 1, 0), b"")]),
    (b"250 2.0.0 Ok: queued as 4XyZ\r\n", [(250, (2, 0, 0), b"Ok: queued as 4XyZ")]),
    (b"421 4.7.0 Try again later\r\n", [(421, (4, 7, 0), b"Try again later")]),
    (b"550 5.7.999 x\r\n", [(550, (5, 7, 999), b"x")]),
    (b"550 5.1.1  x\r\n", [(550, (5, 1, 1), b"x")]),
    (b"550 5.01.001 x\r\n", [(550, (5, 1, 1), b"x")]),
    # not an enhanced status: other class, no place, no number, something behind it
    (b"250 4.1.0 x\r\n", [(250, None, b"4.1.0 x")]),
    (b"550 2.1.0 x\r\n", [(550, None, b"2.1.0 x")]),
    (b"354 3.0.0 go\r\n", [(354, None, b"3.0.0 go")]),
    (b"550 #5.1.1 x\r\n", [(550, None, b"#5.1.1 x")]),
    (b"550  5.1.1 x\r\n", [(550, None, b" 5.1.1 x")]),
    (b"550 5.1.1: x\r\n", [(550, None, b"5.1.1: x")]),
    (b"550 5.1000.1 x\r\n", [(550, None, b"5.1000.1 x")]),
    (b"550 5.1.1000 x\r\n", [(550, None, b"5.1.1000 x")]),
    (b"550 5.1 x\r\n", [(550, None, b"5.1 x")]),
    (b"550 5..1 x\r\n", [(550, None, b"5..1 x")]),
    (b"550 5.1.\r\n", [(550, None, b"5.1.")]),
    (b"250 2.10.1.5 says hello\r\n", [(250, None, b"2.10.1.5 says hello")]),
    # several lines
    (
        b"250-mx.example.org\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250-8BITMIME\r\n250 CHUNKING\r\n",
        [(250, None, b"mx.example.org\nPIPELINING\nSIZE 10240000\n8BITMIME\nCHUNKING")],
    ),
    (
        b"550-5.1.1 The email account that you tried to reach does not exist.\r\n"
        b"550-5.1.1 Please try double-checking.\r\n"
        b"550 5.1.1  https://support.example/ - gsmtp\r\n",
        [
            (
                550,
                (5, 1, 1),
                b"The email account that you tried to reach does not exist.\n"
                b"Please try double-checking.\nhttps://support.example/ - gsmtp",
            )
        ],
    ),
    (
        b"550-Requested action not taken\r\n550 5.1.1 unknown\r\n",
        [(550, (5, 1, 1), b"Requested action not taken\nunknown")],
    ),
    (b"550-5.1.1 a\r\n550-b\r\n550 5.1.2 c\r\n", [(550, (5, 1, 1), b"a\nb\n5.1.2 c")]),
    # the octets of the text stay
    ("550 5.1.1 Empfänger\r\n".encode("latin-1"), [(550, (5, 1, 1), b"Empf\xe4nger")]),
    (b"550 \x00\x1b[2J \r\n", [(550, None, b"\x00\x1b[2J ")]),
    # pipelined replies, and the first half of one more
    (
        b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n550 5.1.1 no\r\n354 go\r\n25",
        [(250, (2, 1, 0), b"Ok"), (250, (2, 1, 5), b"Ok"), (550, (5, 1, 1), b"no"), (354, None, b"go")],
    ),
    (b"", []),
    (b"250-a\r\n", []),
    (b"250 a", []),
    (b"250 a\r", []),
]

MALFORMED = [
    (b"\r\n", "reply line does not begin with three digits"),
    (b"25\r\n", "reply line does not begin with three digits"),
    (b"OK\r\n", "reply line does not begin with three digits"),
    (b" 250 OK\r\n", "reply line does not begin with three digits"),
    (b"2x0 OK\r\n", "reply line does not begin with three digits"),
    (b"250-a\r\nb\r\n250 c\r\n", "reply line does not begin with three digits"),
    (b"HTTP/1.1 400 Bad Request\r\n", "reply line does not begin with three digits"),
    (b"000 x\r\n", "reply code is not from 200 to 599"),
    (b"100 x\r\n", "reply code is not from 200 to 599"),
    (b"199 x\r\n", "reply code is not from 200 to 599"),
    (b"600 x\r\n", "reply code is not from 200 to 599"),
    (b"250OK\r\n", "neither space nor hyphen behind the reply code"),
    (b"2500\r\n", "neither space nor hyphen behind the reply code"),
    (b"250\tOK\r\n", "neither space nor hyphen behind the reply code"),
    (b"250_OK\r\n", "neither space nor hyphen behind the reply code"),
    (b"250-a\r\n251 b\r\n", "reply code changes between lines"),
    (b"250-a\r\n550\r\n", "reply code changes between lines"),
]


@pytest.mark.parametrize(("data", "replies"), READ)
def test_replies_are_read(data: bytes, replies: list[object]) -> None:
    assert ReplyParser().parse(data) == replies


@pytest.mark.parametrize(("data", "replies"), READ)
def test_replies_are_read_octet_by_octet(data: bytes, replies: list[object]) -> None:
    parser = ReplyParser()
    assert [found for i in range(len(data)) for found in parser.parse(data[i : i + 1])] == replies


@pytest.mark.parametrize(("data", "fault"), MALFORMED)
def test_malformed_reply_is_refused(data: bytes, fault: str) -> None:
    with pytest.raises(ReplyError, match=f"^{fault}$"):
        ReplyParser().parse(data)


def test_replies_in_front_of_the_fault_are_not_lost() -> None:
    with pytest.raises(ReplyError) as caught:
        ReplyParser().parse(b"250 2.1.0 Ok\r\n550 no\r\nnonsense\r\n250 Ok\r\n")
    assert caught.value.replies == [(250, (2, 1, 0), b"Ok"), (550, None, b"no")]


def test_a_fault_stays_until_the_parser_is_cleared() -> None:
    parser = ReplyParser()
    for data in (b"nonsense\r\n", b"250 OK\r\n", b""):
        with pytest.raises(ReplyError, match="three digits"):
            parser.parse(data)
    parser.clear()
    assert parser.parse(b"250 OK\r\n") == [(250, None, b"OK")]


def test_clear_forgets_a_half_reply() -> None:
    parser = ReplyParser()
    assert parser.parse(b"250-5.\r\n25") == []
    parser.clear()
    assert parser.parse(b"550 no\r\n") == [(550, None, b"no")]


def test_enhanced_status_does_not_leak_into_the_next_reply() -> None:
    parser = ReplyParser()
    assert parser.parse(b"250 2.1.0 Ok\r\n") == [(250, (2, 1, 0), b"Ok")]
    assert parser.parse(b"250 Ok\r\n") == [(250, None, b"Ok")]


def test_line_of_2048_octets_is_the_longest() -> None:
    longest = b"250 " + b"x" * 2043 + b"\r"
    assert ReplyParser().parse(longest + b"\n") == [(250, None, b"x" * 2043)]
    for data in (longest + b"\r\n", b"250 " + b"x" * 2045):
        with pytest.raises(ReplyError, match=r"^reply line is over 2048 octets$"):
            ReplyParser().parse(data)


def test_endless_line_is_refused_as_soon_as_it_is_too_long() -> None:
    parser = ReplyParser()
    for _ in range(2048):
        assert parser.parse(b"2") == []
    with pytest.raises(ReplyError, match=r"^reply line is over 2048 octets$"):
        parser.parse(b"2")


def test_reply_of_max_lines_is_the_longest() -> None:
    parser = ReplyParser(max_lines=3)
    assert parser.parse(b"250-a\r\n250-b\r\n250 c\r\n" * 2) == [(250, None, b"a\nb\nc")] * 2
    with pytest.raises(ReplyError, match=r"^reply is over max_lines$"):
        parser.parse(b"250-a\r\n250-b\r\n250-c\r\n250 d\r\n")


def test_reply_of_max_octets_is_the_longest() -> None:
    parser = ReplyParser(max_octets=14)
    assert parser.parse(b"250-a\r\n250 b\r\n" * 2) == [(250, None, b"a\nb")] * 2
    with pytest.raises(ReplyError, match=r"^reply is over max_octets$"):
        parser.parse(b"250-a\r\n250 bc\r\n")


def test_text_grows_up_to_the_bound_and_is_used_again() -> None:
    line = b"250-" + b"x" * 506 + b"\r\n"
    parser = ReplyParser()
    for _ in range(3):
        (found,) = parser.parse(line * 127 + b"250 end\r\n")
        assert found == (250, None, (b"x" * 506 + b"\n") * 127 + b"end")
        assert parser.parse(b"250 Ok\r\n") == [(250, None, b"Ok")]
    with pytest.raises(ReplyError, match=r"^reply is over max_octets$"):
        ReplyParser().parse((b"250-" + b"x" * 2000 + b"\r\n") * 33)


def test_defaults_are_stated() -> None:
    assert (reply.MAX_OCTETS, reply.MAX_LINES, reply.MAX_LINE_OCTETS) == (65536, 128, 2048)
    assert ReplyParser().parse(b"250-x\r\n" * 127 + b"250 x\r\n") == [(250, None, b"\n".join([b"x"] * 128))]
    with pytest.raises(ReplyError, match=r"^reply is over max_lines$"):
        ReplyParser().parse(b"250-x\r\n" * 129)


@pytest.mark.parametrize("bounds", [{"max_octets": 0}, {"max_lines": 0}])
def test_bound_of_nothing_is_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"^max_octets and max_lines must be at least 1$"):
        ReplyParser(**bounds)
