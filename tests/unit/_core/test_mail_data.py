"""End of data, transparency and line facts of the compiled mail data scanner, RFC 5321 §4.5.2 and RFC 3030."""

import pytest

from angarium._core.mail_data import MailDataScanner, stuff

PATHS = pytest.mark.parametrize("portable", [False, True], ids=["fast", "portable"])


def splits(data: bytes) -> list[list[bytes]]:
    """The data whole, octet by octet, and cut in two everywhere."""
    return [
        [data],
        [data[i : i + 1] for i in range(len(data))],
        *([data[:i], data[i:]] for i in range(1, len(data))),
    ]


def scan(pieces: list[bytes], *, portable: bool = False) -> tuple[MailDataScanner, bytes, int]:
    """The scanner behind the pieces, what they produced, and how many octets were taken of all of them."""
    scanner = MailDataScanner(portable)
    produced, taken = b"", 0
    for piece in pieces:
        produced += scanner.feed(piece)
        taken += scanner.consumed
    return scanner, produced, taken


def facts(scanner: MailDataScanner) -> set[str]:
    return {name for name in ("nul", "eight_bit", "bare_cr", "bare_lf") if getattr(scanner, name)}


# what came, what it is, bare CR met, bare LF met; all of it ends exactly at the end
ENDING = {
    "empty": (b".\r\n", b"", False, False),
    "one empty line": (b"\r\n.\r\n", b"\r\n", False, False),
    "plain": (b"a\r\n.\r\n", b"a\r\n", False, False),
    "stuffed": (b"..a\r\n.b\r\n....\r\n.\r\n", b".a\r\nb\r\n...\r\n", False, False),
    "dot within a line": (b"a.\r\n.\r\n", b"a.\r\n", False, False),
    "LF.LF": (b"a\n.\nb\r\n.\r\n", b"a\n.\nb\r\n", False, True),
    "LF.CRLF": (b"a\n.\r\nb\r\n.\r\n", b"a\n.\r\nb\r\n", False, True),
    "CR.CR": (b"a\r.\rb\r\n.\r\n", b"a\r.\rb\r\n", True, False),
    "CR.CRLF": (b"a\r.\r\nb\r\n.\r\n", b"a\r.\r\nb\r\n", True, False),
    "CRLF.LF": (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\nb\r\n", False, True),
    "CRLF.CR": (b"a\r\n.\rb\r\n.\r\n", b"a\r\n\rb\r\n", True, False),
    "CRLF.CRCRLF": (b"a\r\n.\r\r\nb\r\n.\r\n", b"a\r\n\r\r\nb\r\n", True, False),
    "CRCRLF.CRLF": (b"a\r\r\n.\r\n", b"a\r\r\n", True, False),
    "LFCR.CRLF": (b"a\n\r.\r\nb\r\n.\r\n", b"a\n\r.\r\nb\r\n", True, True),
    "CRLF..LF": (b"a\r\n..\nb\r\n.\r\n", b"a\r\n.\nb\r\n", False, True),
    "CRLF.CR.CRLF": (b"a\r\n.\r.\r\n.\r\n", b"a\r\n\r.\r\n", True, False),
    "CRLF NUL . CRLF": (b"a\r\n\0.\r\n.\r\n", b"a\r\n\0.\r\n", False, False),
    "CRLF . NUL CRLF": (b"a\r\n.\0\r\n.\r\n", b"a\r\n\0\r\n", False, False),
    "CRLF . SP CRLF": (b"a\r\n. \r\n.\r\n", b"a\r\n \r\n", False, False),
    "LF at the start": (b"\n.\r\n\r\n.\r\n", b"\n.\r\n\r\n", False, True),
    "CR at the start": (b"\r.\r\n.\r\n", b"\r.\r\n", True, False),
    "dot LF at the start": (b".\n\r\n.\r\n", b"\n\r\n", False, True),
    "dot CR at the start": (b".\rx\r\n.\r\n", b"\rx\r\n", True, False),
}


@PATHS
@pytest.mark.parametrize(("data", "mail_data", "bare_cr", "bare_lf"), ENDING.values(), ids=ENDING)
def test_only_crlf_dot_crlf_ends_the_data(
    data: bytes, mail_data: bytes, bare_cr: bool, bare_lf: bool, portable: bool
) -> None:
    for pieces in splits(data):
        scanner, produced, taken = scan(pieces, portable=portable)
        assert (produced, taken, scanner.ended) == (mail_data, len(data), True)
        assert (scanner.bare_cr, scanner.bare_lf) == (bare_cr, bare_lf)
        assert scanner.octets == len(mail_data)


@PATHS
def test_the_end_is_found_at_every_place_of_a_block_and_what_follows_is_left(portable: bool) -> None:
    following = b"\xff\0\n\rMAIL FROM:<>" + b"\xff\0" * 64
    for lead in range(140):
        mail_data = b"a" * lead + b"\r\n"
        scanner, produced, taken = scan([mail_data + b".\r\n" + following], portable=portable)
        assert produced == mail_data
        assert taken == len(mail_data) + 3
        assert scanner.ended
        assert facts(scanner) == set()
        assert scanner.longest_line == lead


@PATHS
def test_what_stands_before_the_end_is_seen_and_what_follows_is_not(portable: bool) -> None:
    for lead in range(130):
        for octet, fact in ((b"\0", "nul"), (b"\x80", "eight_bit")):
            for following in (0, 5, 80):
                scanner, _, _ = scan([b"a" * lead + octet + b"\r\n.\r\n" + b"b" * following], portable=portable)
                assert facts(scanner) == {fact}
            scanner, _, _ = scan([b"a" * lead + b"\r\n.\r\n" + octet + b"b" * (lead % 70)], portable=portable)
            assert facts(scanner) == set()


@PATHS
@pytest.mark.parametrize(
    ("octet", "fact"),
    [(b"\0", "nul"), (b"\x80", "eight_bit"), (b"\xff", "eight_bit"), (b"\r", "bare_cr"), (b"\n", "bare_lf")],
)
def test_an_octet_is_seen_at_every_place_of_a_block(octet: bytes, fact: str, portable: bool) -> None:
    for lead in range(140):
        data = b"a" * lead + octet + b"a" * (140 - lead)
        scanner, produced, _ = scan([data], portable=portable)
        assert produced == data
        assert facts(scanner) == {fact}


@PATHS
def test_octets_next_to_those_that_matter_set_nothing(portable: bool) -> None:
    for lead in range(70):
        scanner, _, _ = scan([b"a" * lead + b"\x01\x7f\x09\x0b\x0c\x0e-/" + b"a" * 64], portable=portable)
        assert facts(scanner) == set()


def test_nothing_is_taken_behind_the_end() -> None:
    scanner, _, _ = scan([b"a\r\n.\r\n"])
    assert scanner.feed(b"b\r\n.\r\n\xff") == b""
    assert scanner.consumed == 0
    assert scanner.drain(b"b") == 0
    assert scanner.ended
    assert scanner.octets == 3
    assert not scanner.eight_bit


@pytest.mark.parametrize(
    "data", [b"", b"a", b"a\r\n", b"a\r\n.", b"a\r\n.\r", b".", b".\r", b"a\n.\n", b"a\r\n.\n", b"a\r.\r"]
)
def test_data_that_has_not_ended(data: bytes) -> None:
    for pieces in splits(data):
        scanner, _, taken = scan(pieces)
        assert not scanner.ended
        assert taken == len(data)


def test_an_open_dot_and_cr_are_held_back_until_they_are_known() -> None:
    scanner = MailDataScanner()
    assert scanner.feed(b"a\r") == b"a\r"
    assert scanner.feed(b"\n.") == b"\n"
    assert scanner.feed(b"\r") == b""
    assert scanner.feed(b"b" * 200) == b"\r" + b"b" * 200
    assert scanner.bare_cr


@PATHS
def test_lines_are_measured_without_crlf_and_without_stuffing(portable: bool) -> None:
    scanner, produced, _ = scan([b"x" * 998 + b"\r\n." + b"." * 1500 + b"\r\nabc\r\n.\r\n"], portable=portable)
    assert scanner.longest_line == 1500
    assert len(produced) == 998 + 2 + 1500 + 2 + 5


def test_a_line_that_has_not_ended_is_measured_as_far_as_it_goes() -> None:
    scanner = MailDataScanner()
    scanner.feed(b"ab\r\nabc")
    assert (scanner.line_length, scanner.longest_line) == (3, 3)
    scanner.feed(b"d\r")
    assert (scanner.line_length, scanner.longest_line) == (4, 4)
    scanner.feed(b"\n")
    assert (scanner.line_length, scanner.longest_line) == (0, 4)
    scanner.feed(b"\r\r\r")
    assert (scanner.line_length, scanner.longest_line) == (2, 4)
    scanner.feed(b"e")
    assert (scanner.line_length, scanner.longest_line) == (4, 4)
    scanner.feed(b"\r\n.\r")
    assert (scanner.line_length, scanner.longest_line) == (0, 4)
    scanner.feed(b"f")
    assert (scanner.line_length, scanner.longest_line) == (2, 4)


def test_bare_cr_and_bare_lf_do_not_end_a_line() -> None:
    scanner, _, _ = scan([b"abc\ndef\rghi\r\n"])
    assert scanner.longest_line == 11


def test_a_megabyte_line_is_taken_and_never_broken() -> None:
    line = b"x" * 1_048_576
    scanner, produced, _ = scan([line[:70_000], line[70_000:], b"\r\n.\r\n"])
    assert produced == line + b"\r\n"
    assert scanner.longest_line == 1_048_576


def test_draining_counts_what_feeding_would_have_produced() -> None:
    data = b"a\r\n..b\n\xff\0" * 50 + b"\r\n.\r\nQUIT\r\n"
    scanner, produced, taken = scan([data])
    drained = MailDataScanner()
    assert drained.drain(data) == len(produced)
    assert drained.consumed == taken
    for fact in ("ended", "bare_cr", "bare_lf", "eight_bit", "nul", "longest_line", "octets"):
        assert getattr(drained, fact) == getattr(scanner, fact)


def test_a_chunk_has_neither_transparency_nor_end() -> None:
    scanner = MailDataScanner()
    scanner.chunk(b".\r\n..\r\n.\r\nabc")
    assert not scanner.ended
    assert (scanner.consumed, scanner.octets, scanner.longest_line) == (13, 13, 3)
    assert facts(scanner) == set()


def test_crlf_may_be_cut_by_a_chunk_border() -> None:
    scanner = MailDataScanner()
    scanner.chunk(b"abc\r")
    assert scanner.ends_in_bare_cr
    scanner.chunk(b"")
    assert scanner.ends_in_bare_cr
    scanner.chunk(b"\nd")
    assert facts(scanner) == set()
    assert not scanner.ends_in_bare_cr
    scanner.chunk(b"\r")
    scanner.chunk(b"e")
    assert scanner.bare_cr
    assert not scanner.bare_lf


def test_a_cr_at_the_end_of_the_last_chunk_is_told_apart() -> None:
    scanner = MailDataScanner()
    scanner.chunk(b"abc\r\n\r")
    assert scanner.ends_in_bare_cr
    assert not scanner.bare_cr


STUFFING = {
    "nothing": (b"", b""),
    "dot alone": (b".", b".."),
    "dot line": (b".\r\n", b"..\r\n"),
    "no dot at a line start": (b"a.b\r\nc.\r\n", b"a.b\r\nc.\r\n"),
    "every line": (b".\r\n.\r\n..a\r\n", b"..\r\n..\r\n...a\r\n"),
    "behind bare LF": (b"a\n.b\r\n", b"a\n.b\r\n"),
    "behind bare CR": (b"a\r.b\r\n", b"a\r.b\r\n"),
    "behind LF CR": (b"a\n\r.b\r\n", b"a\n\r.b\r\n"),
    "at the end": (b"a\r\n.", b"a\r\n.."),
    "CRLF first": (b"\r\n.", b"\r\n.."),
    "LF first": (b"\n.", b"\n."),
}


@PATHS
@pytest.mark.parametrize(("data", "stuffed"), STUFFING.values(), ids=STUFFING)
def test_stuffing_doubles_a_dot_that_begins_a_line(data: bytes, stuffed: bytes, portable: bool) -> None:
    assert stuff(data, portable=portable) == stuffed
    for lead in range(100, 170):
        before = b"a" * lead + b"\r\n"
        assert stuff(before + data + before, portable=portable) == before + stuffed + before


@PATHS
@pytest.mark.parametrize("rest", [b"", b"x", b"x" * 70], ids=len)
def test_stuffing_finds_the_dot_at_every_place_of_a_block(rest: bytes, portable: bool) -> None:
    for lead in range(200):
        assert stuff(b"a" * lead + b"\r\n." + rest, portable=portable) == b"a" * lead + b"\r\n.." + rest


def test_data_without_stuffing_is_handed_back_uncopied() -> None:
    data = b"a.\r\n" * 100
    assert stuff(data) is data


@pytest.mark.parametrize("wrong", [None, "a\r\n", bytearray(b"a"), memoryview(b"a")])
def test_only_bytes_are_taken(wrong: object) -> None:
    scanner = MailDataScanner()
    for call in (scanner.feed, scanner.drain, scanner.chunk, stuff):
        with pytest.raises(TypeError):
            call(wrong)
