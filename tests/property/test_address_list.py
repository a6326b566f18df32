"""The compiled parser of address fields against its reference model."""

from hypothesis import given
from hypothesis import strategies as st

from angarium._core.address_list import parse_addresses
from tests.reference import address_list as reference

pieces = st.sampled_from(
    [
        *(b"a", b"b.c", b"A-b", b"\xc3\xa9", b"=?utf-8?q?x?=", b'"q r"', b'"p"', b'"\\""', b'""', b'"a\r\n b"', b'"'),
        *(b"@", b"@x.example", b"@ [192.0.2.1]", b"@[a\\b]", b"<", b">", b"<a@b>", b":", b";", b",", b".", b" ", b"\t"),
        *(
            b"(c)",
            b"(a(b)\\))",
            b"(",
            b")",
            b"\r\n ",
            b"\n\t",
            b"\r",
            b"\n",
            b"\0",
            b"\xff",
            b"\\",
            b"[",
            b"]",
            b"\x01",
        ),
        *(b"<@r,@s:a@b>", b"g:", b"a@b, c@d", b"x y <a.b@c.d>", b"a@b.c.", b"\x7f"),
    ]
)
values = st.one_of(st.lists(pieces, max_size=12).map(b"".join), st.binary(max_size=20))


@given(values)
def test_the_parser_agrees_with_the_model(value: bytes) -> None:
    assert parse_addresses(value) == reference.parse_addresses(value)


locals_ = st.lists(
    st.sampled_from([b"a", b"B", b"1", b" ", b".", b'"', b"\\", b"@", b"<", b"\xc3\xa9"]), max_size=8
).map(b"".join)
comments = st.sampled_from([b"", b" ", b"(x)", b" (a@b (c)) ", b"\r\n\t"])


@given(locals_, st.sampled_from([b"example.org", b"a.b.example", b"[192.0.2.1]"]), st.lists(comments, min_size=4))
def test_an_address_is_found_however_it_is_dressed(local: bytes, domain: bytes, around: list[bytes]) -> None:
    written = b'"' + local.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
    value = around[0] + b"Some. One" + around[1] + b"<" + written + around[2] + b"@" + around[3] + domain + b">"
    parsed = parse_addresses(value)
    assert parsed is not None
    assert [(local, domain) for local, domain, _, _ in parsed] == [(reference.quoted(local), domain)]
