"""The addresses of header fields and command lines, against email.utils where that can be trusted."""

from __future__ import annotations

from email.utils import getaddresses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.mail.address_list import addresses_in


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("", []),
        ("  ", []),
        ("a@b.example", ["a@b.example"]),
        ("root", ["root"]),
        ("a@b.example, c@d.example", ["a@b.example", "c@d.example"]),
        ("a@b.example,,c@d.example,", ["a@b.example", "c@d.example"]),
        ("Alice <a@b.example>", ["a@b.example"]),
        ("Alice Q. Example <a@b.example>, root", ["a@b.example", "root"]),
        ('"Example, Alice" <a@b.example>', ["a@b.example"]),
        ('"a@x.example" <a@b.example>', ["a@b.example"]),
        ("a (first) @ (at) b.example (last (really))", ["a@b.example"]),
        ("a(\\) not the end)@b.example", ["a@b.example"]),
        ('"john smith"@b.example', ['"john smith"@b.example']),
        ("a@[192.0.2.1]", ["a@[192.0.2.1]"]),
        ("<@relay.example,@other.example:a@b.example>", ["a@b.example"]),
        ("undisclosed-recipients:;", []),
        ("Friends: a@b.example, Bob <c@d.example>; e@f.example", ["a@b.example", "c@d.example", "e@f.example"]),
        ("My friends: a@b.example;, c@d.example", ["a@b.example", "c@d.example"]),
        ("jörg@müller.example", ["jörg@müller.example"]),
        ("a . b @ c . example", ["a.b@c.example"]),
        ("=?utf-8?Q?J=C3=B6rg?= <a@b.example>", ["a@b.example"]),
    ],
)
def test_a_list(text: str, addresses: list[str]) -> None:
    assert addresses_in(text) == addresses


@pytest.mark.parametrize(
    "text",
    [
        "a@b.example c@d.example",
        "a b",
        "<a@b.example",
        "a@b.example>",
        "<>",
        "a@@b.example",
        "@b.example",
        "a@",
        "a..b@c.example",
        ".a@c.example",
        "a@b.example (never ends",
        "Friends: a@b.example",
        ": a@b.example;",
        "a@b.example;",
        "<a@b.example> c",
        "<a@b.example> <c@d.example>",
        "<a@b.example, c@d.example>",
        'a@"b.example"',
        "[192.0.2.1]@b.example",
        '"a\r\nRCPT TO:<x@y.example>"@b.example',
        "a\x00@b.example",
        "a\\@b.example",
        "A: B: c@d.example;;",
    ],
)
def test_what_is_no_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match='"'):
        addresses_in(text)


atom = st.from_regex(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,8}", fullmatch=True)
dotted = st.lists(atom, min_size=1, max_size=3).map(".".join)
quoted = st.text(st.sampled_from("abc ,;:<>@.()"), min_size=1, max_size=8).map(lambda text: f'"{text}"')
address = st.tuples(st.one_of(dotted, quoted), dotted).map("@".join)
name = st.one_of(st.lists(atom, max_size=3).map(" ".join), quoted)
space = st.sampled_from(["", " ", "\t", "\r\n ", " (a comment) "])
mailbox = st.one_of(
    st.tuples(space, address, space).map("".join),
    st.tuples(space, name, space, address, space).map(lambda p: f"{p[0]}{p[1]}{p[2]}<{p[3]}>{p[4]}"),
)


@given(st.lists(mailbox, max_size=5))
def test_any_list_of_mailboxes_gives_what_email_utils_gives(mailboxes: list[str]) -> None:
    text = ",".join(mailboxes)
    expected = [found for _, found in getaddresses([text]) if found]
    assert addresses_in(text) == expected


@given(st.text(max_size=60))
def test_any_text_gives_addresses_or_a_reason(text: str) -> None:
    try:
        found = addresses_in(text)
    except ValueError:
        return
    for one in found:
        assert one
        assert not any(ord(character) < 32 or ord(character) == 127 for character in one)
        assert " " not in one or '"' in one
