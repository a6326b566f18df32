"""The compiled command parser says of every line what the reference model says, word for word."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from angarium._core import command
from tests.reference import command as reference

ATEXT = "abcXYZ019!#$%&'*+-/=?^_`{|}~."
WIDE = "äß€漢字😀\u00a0"


def joined(*parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(b"".join)


def either_case(word: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from([word, word.lower(), word.title()])


spaces = st.integers(0, 2).map(lambda count: b" " * count)
gap = st.integers(1, 3).map(lambda count: b" " * count)
dot_string = st.text(ATEXT, min_size=1, max_size=70).map(str.encode)
wide_string = st.text(ATEXT + WIDE, min_size=1, max_size=20).map(str.encode)
quoted = st.lists(
    st.sampled_from([b"a", b" ", b"@", b">", b"<", b'\\"', b"\\\\", b"\\ ", b"(", "ä".encode()]),
    max_size=12,
).map(lambda pieces: b'"' + b"".join(pieces) + b'"')
label = st.from_regex(rb"[a-zA-Z0-9_](?:[a-zA-Z0-9_-]{0,64}[a-zA-Z0-9_])?", fullmatch=True)
wide_label = st.text("ab1-" + WIDE, min_size=1, max_size=30).map(str.encode)
name = joined(
    st.lists(st.one_of(label, label, wide_label), min_size=1, max_size=5).map(b".".join),
    st.sampled_from([b"", b"", b"", b"."]),
)
literal = st.one_of(
    st.ip_addresses(v=4).map(lambda address: f"[{address}]".encode()),
    st.ip_addresses(v=6).map(lambda address: f"[IPv6:{address}]".encode()),
    st.ip_addresses(v=6).map(lambda address: f"[ipv6:{address.exploded.upper()}]".encode()),
    st.from_regex(rb"\[IPv6:[0-9a-fA-F:.]{0,40}\]", fullmatch=True),
    st.from_regex(rb"\[[0-9.]{0,16}\]", fullmatch=True),
    st.from_regex(rb"\[[a-zA-Z0-9-]{1,8}:[!-Z^-~]{1,10}\]", fullmatch=True),
)
mailbox = joined(st.one_of(dot_string, wide_string, quoted), st.just(b"@"), st.one_of(name, name, literal))
route = st.lists(joined(st.just(b"@"), name), min_size=1, max_size=3).map(lambda hops: b",".join(hops) + b":")
path = st.one_of(
    joined(st.just(b"<"), mailbox, st.just(b">")),
    joined(st.just(b"<"), mailbox, st.just(b">")),
    joined(st.just(b"<"), route, mailbox, st.just(b">")),
    mailbox,
    st.sampled_from([b"<>", b"<Postmaster>", b"postmaster", b"<root>", b"<", b"<@", b"<@a.example>", b"<@a.example:"]),
)
xtext = st.lists(
    st.sampled_from(
        [b"a", b"Z", b"@", b".", b"+2B", b"+3D", b"+20", b"+0A", b"+7F", b"+80", b"+2b", b"\\x{E4}", "ä".encode()]
    ),
    max_size=40,
).map(b"".join)
moment = st.datetimes().flatmap(
    lambda at: st.tuples(
        st.sampled_from([b"", b".5", b".123456"]),
        st.sampled_from([b"Z", b"z", b"+00:00", b"-08:30", b"+23:59", b"+24:00"]),
    ).map(lambda tail: at.isoformat(timespec="seconds").encode() + tail[0] + tail[1])
)


def parameter(keyword: bytes, *values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return joined(either_case(keyword), st.just(b"="), st.one_of(*values))


parameters = st.one_of(
    parameter(b"SIZE", st.integers(0, 2**70).map(lambda number: b"%d" % number)),
    parameter(b"BODY", st.sampled_from([b"7BIT", b"8bitmime", b"BINARYMIME", b"9BIT"])),
    either_case(b"SMTPUTF8"),
    either_case(b"REQUIRETLS"),
    st.sampled_from(
        [b"SMTPUTF8=", b"SIZE", b"BODY=", b"NOTIFY=", b"X-FOO=1", b"-", b"=", b"ORCPT", b"AUTH=<>", b"ENVID="]
    ),
    parameter(b"RET", st.sampled_from([b"FULL", b"hdrs", b"NONE"])),
    parameter(b"ENVID", xtext),
    parameter(b"AUTH", xtext),
    parameter(b"MT-PRIORITY", st.integers(-11, 11).map(lambda number: b"%d" % number), st.just(b"-0")),
    parameter(b"HOLDFOR", st.integers(0, 2**32).map(lambda number: b"%d" % number)),
    parameter(b"HOLDUNTIL", moment),
    parameter(
        b"NOTIFY",
        st.lists(st.sampled_from([b"SUCCESS", b"failure", b"DELAY", b"NEVER", b""]), max_size=4).map(b",".join),
    ),
    parameter(b"ORCPT", joined(st.sampled_from([b"rfc822;", b"UTF-8;", b"utf-8;", b";", b"x y;", b"rfc822"]), xtext)),
)
parameter_list = st.lists(joined(gap, parameters), max_size=4).map(b"".join)
transaction_line = joined(
    st.sampled_from([b"MAIL FROM:", b"mail from:", b"MAIL  From:", b"RCPT TO:", b"rcpt to:", b"Rcpt  To:"]),
    spaces,
    path,
    parameter_list,
    spaces,
)
greeting_line = joined(
    st.sampled_from([b"EHLO", b"helo", b"LHLO"]),
    spaces,
    st.one_of(name, literal, st.just(b"a b"), st.just(b"x" * 255), st.just(b"x" * 256)),
    spaces,
)
other_line = joined(
    st.sampled_from(
        [
            b"BDAT",
            b"DATA",
            b"RSET",
            b"NOOP",
            b"QUIT",
            b"VRFY",
            b"EXPN",
            b"HELP",
            b"STARTTLS",
            b"AUTH",
            b"auth",
            b"XClient",
            b"MAILX",
            b"",
        ]
    ),
    st.one_of(
        st.sampled_from([b"", b" ", b"  ", b" LAST", b" 0", b" 0 last ", b" PLAIN AGEAYg==", b" \xe4", " ä".encode()]),
        st.integers(0, 2**65).map(lambda number: b" %d LAST" % number),
        st.integers(2**63 - 2, 2**63 + 1).map(lambda number: b" %d" % number),
    ),
)
valid_line = st.one_of(transaction_line, transaction_line, transaction_line, greeting_line, other_line)
FLAVOUR = b'MAILFROMRCPTTO:<>@[]"\\.,; =+-_0123456789abc\x00\t\r\n\x7f\x80\xc3\xa4\xff'


@st.composite
def mutated_line(draw: st.DrawFn) -> bytes:
    """A line with some octets deleted, inserted or replaced."""
    line = bytearray(draw(valid_line))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(line)))
        kept = draw(st.integers(0, 2))
        line[at : at + kept] = bytes(draw(st.lists(st.sampled_from(FLAVOUR), max_size=2)))
    return bytes(line)


garbage_line = st.one_of(
    st.binary(max_size=80),
    st.lists(st.sampled_from(FLAVOUR), max_size=60).map(bytes),
    joined(st.sampled_from([b"MAIL FROM:", b"RCPT TO:<", b"RCPT TO:<a@", b"EHLO ", b"BDAT "]), st.binary(max_size=40)),
)
offers = st.one_of(st.just(511), st.just(511), st.integers(0, 511))


@settings(max_examples=400)
@given(line=st.one_of(valid_line, mutated_line(), garbage_line), offers=offers, smtputf8=st.booleans())
@example(line=b'RCPT TO:<"\\', offers=511, smtputf8=False)
@example(line=b"MAIL FROM:<a@[IPv6:1:2:3:4:5:6:7::]>", offers=511, smtputf8=False)
@example(line=b"MAIL FROM:<a@[IPv6:::1%eth0]>", offers=511, smtputf8=False)
@example(line=b"MAIL FROM:<a@b> HOLDUNTIL=1970-01-01T00:00:00+00:01", offers=511, smtputf8=False)
@example(line=b"MAIL FROM:<a@b> HOLDUNTIL=2016-12-31T23:59:60Z", offers=511, smtputf8=False)
def test_a_line_means_the_same_to_both(line: bytes, offers: int, smtputf8: bool) -> None:
    compiled = reference.attributes_of(command.parse_command(line, offers=offers, smtputf8=smtputf8))
    assert compiled == reference.parse_command(line, offers=offers, smtputf8=smtputf8)


@given(line=transaction_line, smtputf8=st.booleans())
def test_what_is_refused_is_refused_with_one_of_the_listed_replies(line: bytes, smtputf8: bool) -> None:
    result = command.parse_command(line, smtputf8=smtputf8)
    if isinstance(result, command.Rejection):
        assert result.reply in command.REPLIES
    else:
        assert result.mailbox is not None
        assert result.mailbox in line


@given(octets=st.binary(max_size=100))
def test_xtext_stands_for_what_it_was_made_of(octets: bytes) -> None:
    text = command.encode_xtext(octets)
    assert all(33 <= octet <= 126 and octet != ord("=") for octet in text)
    assert command.decode_xtext(text) == octets == reference.decode_xtext(text)
    assert b"".join(command.split_xtext(text)) == text
    assert len(command.split_xtext(text)) == len(octets)


@given(text=st.one_of(st.binary(max_size=30), xtext))
def test_xtext_is_decoded_or_refused(text: bytes) -> None:
    if reference.XTEXT.fullmatch(text):
        assert command.decode_xtext(text) == reference.decode_xtext(text)
    else:
        with pytest.raises(ValueError, match=r"^not xtext at octet "):
            command.decode_xtext(text)
