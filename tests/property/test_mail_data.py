"""The compiled mail data scanner against its reference model, over random data in random splits."""

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from angarium._core.mail_data import MailDataScanner, stuff
from tests.reference import mail_data as reference

FACTS = (
    "consumed",
    "ended",
    "ends_in_bare_cr",
    "bare_cr",
    "bare_lf",
    "eight_bit",
    "nul",
    "line_length",
    "longest_line",
    "octets",
)

# Line ends and dots close together, runs long enough to cross the scanner's blocks of 64, and the octets next to those
# that matter, by one or by the top bit.
fragment = st.sampled_from(
    [
        b"\r",
        b"\n",
        b".",
        b"a",
        b"\x00",
        b"\xff",
        b"\r\n",
        b"\r\n.",
        b"\r\n..",
        b"\n.\r\n",
        b"\r.\r\n",
        b"\r\n.\r",
        b"\r\n.\n",
    ]
)
filler = st.sampled_from([b"a", b"a", b"=", b"\x01", b"\x0c", b"\x80", b"\x8a", b"\x8d", b"\xae"])
run = st.builds(lambda octets, n: octets * n, filler, st.integers(0, 150))
mail_like = st.lists(st.one_of(fragment, fragment, run), max_size=30).map(b"".join)
cuts = st.lists(st.integers(0, 700), max_size=8)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = [0, *sorted(min(place, len(data)) for place in at), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def facts(scanner: object) -> dict[str, object]:
    return {name: getattr(scanner, name) for name in FACTS}


@given(mail_like, cuts, st.booleans())
@example(b"\r\n.\r\n", [3, 4], False)
@example(b"a\r\n.\rb", [3, 4, 5], False)
def test_feeding_agrees_with_the_model_after_every_piece(data: bytes, at: list[int], portable: bool) -> None:
    compiled, model, drained = MailDataScanner(portable), reference.MailDataModel(), MailDataScanner()
    for piece in cut(data, at):
        produced = model.feed(piece)
        assert compiled.feed(piece) == produced
        assert facts(compiled) == facts(model)
        assert drained.drain(piece) == len(produced)
        assert facts(drained) == facts(model)


@given(mail_like, cuts)
def test_chunks_agree_with_the_model_after_every_piece(data: bytes, at: list[int]) -> None:
    compiled, model = MailDataScanner(), reference.MailDataModel()
    for piece in cut(data, at):
        compiled.chunk(piece)
        model.chunk(piece)
        assert facts(compiled) == facts(model)


@given(mail_like, st.booleans())
def test_stuffing_agrees_with_the_model(data: bytes, portable: bool) -> None:
    assert stuff(data, portable=portable) == reference.stuff(data)


@given(mail_like, cuts)
def test_what_was_stuffed_comes_back_and_ends_where_it_ended(data: bytes, at: list[int]) -> None:
    mail_data = data + b"\r\n"
    wire = stuff(mail_data) + b".\r\n"
    scanner = MailDataScanner()
    produced, taken = b"", 0
    for piece in cut(wire + b"QUIT\r\n", at):
        produced += scanner.feed(piece)
        taken += scanner.consumed
    assert produced == mail_data
    assert scanner.ended
    assert taken == len(wire)
