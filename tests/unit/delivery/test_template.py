"""Names in braces: what they stand for, and that no address leads out of its folder or becomes an option."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from angarium.config.next_hop import NextHop
from angarium.delivery.template import LONGEST_NAME, Inexpressible, Values, folder_of, words_of


def values(recipient: bytes, reverse_path: bytes = b"s@example.org") -> Values:
    return Values(recipient, hostname="relay.test", reverse_path=reverse_path, queue_id="0SAQS2V780G00", tenant=b"shop")


def folder(template: str, recipient: bytes) -> str:
    return os.fsdecode(folder_of(NextHop.parse(f"maildir:{template}").folder, values(recipient)))


def words(command: str, recipient: bytes, reverse_path: bytes = b"s@example.org") -> list[bytes]:
    return words_of(NextHop.parse(f"pipe:{command}").words, values(recipient, reverse_path))


@pytest.mark.parametrize(
    ("template", "recipient", "made"),
    [
        ("/srv/{domain}/{local}", b"Ann@Example.ORG", "/srv/example.org/Ann"),
        ("/srv/{domain}/{local}", "ann@b\u00fccher.example".encode(), "/srv/xn--bcher-kva.example/ann"),
        ("/srv/{domain}/{local}", b"postmaster", "/srv/relay.test/postmaster"),
        ("/srv/{user}/x", b"ann+lists+news@example.org", "/srv/ann/x"),
        ("/srv/{user}/.{detail}", b"ann+lists@example.org", "/srv/ann/.lists"),
        ("/srv/{user}/.{detail}", b"ann@example.org", "/srv/ann"),
        ("/srv/{recipient}", b"ann@example.org", "/srv/ann@example.org"),
        ("/srv//{local}/", b'"a b"@example.org', "/srv/a b"),
        ("/srv/{{x}}/{local}", b'"a\\"b"@example.org', '/srv/{x}/a"b'),
        ("/srv/{local}", "\u00e4@example.org".encode(), "/srv/\u00e4"),
        ("/srv/{domain}/{local}", b"a@[192.0.2.1]", "/srv/[192.0.2.1]/a"),
    ],
)
def test_the_folder_of_a_recipient(template: str, recipient: bytes, made: str) -> None:
    assert folder(template, recipient) == made


@pytest.mark.parametrize(
    ("template", "recipient", "why"),
    [
        ("/srv/{local}", b'"../x"@example.org', "begins with a dot"),
        ("/srv/{local}", b'".."@example.org', "begins with a dot"),
        ("/srv/{local}", b'".hidden"@example.org', "begins with a dot"),
        ("/srv/{local}", b"a/../../etc@example.org", "has a slash"),
        ("/srv/{local}", b"/@example.org", "has a slash"),
        ("/srv/{local}", b'"a\x00b"@example.org', "control character"),
        ("/srv/{local}", b'""@example.org', "its local is empty"),
        ("/srv/{user}", b"+x@example.org", "its user is empty"),
        ("/srv/{user}/x{detail}{user}", b"ann@example.org", "its detail is empty"),
        ("/srv/{user}/.{detail}", b"ann+.@example.org", "its detail begins with a dot"),
        ("/srv/{local}", b"a\xff@example.org", "is not UTF-8"),
        ("/srv/{domain}/{local}", b"a@..", "its domain begins with a dot"),
        ("/srv/x{local}", b"a" * LONGEST_NAME + b"@example.org", "too long for the name of a folder"),
        ("/srv" + "/{local}" * 20, b"a" * 200 + b"@example.org", "too long for the path of a folder"),
    ],
)
def test_an_address_that_can_be_no_folder(template: str, recipient: bytes, why: str) -> None:
    with pytest.raises(Inexpressible, match=why) as failure:
        folder(template, recipient)
    assert str(failure.value.status) == "5.1.3"


@given(
    st.binary(max_size=40), st.sampled_from(["/srv/{domain}/{local}", "/srv/x/{user}/.{detail}", "/srv/x/{recipient}"])
)
def test_whatever_the_address_the_folder_is_below_its_own(recipient: bytes, template: str) -> None:
    try:
        made = folder(template, recipient)
    except Inexpressible:
        return
    assert os.path.normpath(made) == made
    assert made.startswith("/srv/")
    assert made.count("/") <= template.count("/")
    assert "\0" not in made


def test_the_words_of_a_command() -> None:
    command = "/bin/x -f {sender} -r {recipient} {user}+{detail} {domain} {queue_id}/{tenant} 'a b'"
    assert words(command, b"Ann+x@Example.org") == [
        b"/bin/x",
        b"-f",
        b"s@example.org",
        b"-r",
        b"Ann+x@Example.org",
        b"Ann+x",
        b"example.org",
        b"0SAQS2V780G00/shop",
        b"a b",
    ]
    assert words("/bin/x {sender}", b"a@example.org", b"") == [b"/bin/x", b""]


@pytest.mark.parametrize("recipient", [b'"a b; rm -rf /"@example.org', b"$(id)@example.org", b"a|b@example.org"])
def test_an_address_is_one_word_whatever_is_in_it(recipient: bytes) -> None:
    assert words("/bin/x {recipient} end", recipient) == [b"/bin/x", recipient, b"end"]


@pytest.mark.parametrize(
    ("command", "recipient", "reverse_path", "status"),
    [
        ("/bin/x {recipient}", b"-rf@example.org", b"", "5.1.3"),
        ("/bin/x {local}", b'"--help"@example.org', b"", "5.1.3"),
        ("/bin/x {sender}", b"a@example.org", b"-x@example.org", "5.1.7"),
    ],
)
def test_an_address_does_not_become_an_option(command: str, recipient: bytes, reverse_path: bytes, status: str) -> None:
    with pytest.raises(Inexpressible, match="begins with a minus") as failure:
        words(command, recipient, reverse_path)
    assert str(failure.value.status) == status
    # behind something else it is none
    assert words("/bin/x --to={recipient}", b"-rf@example.org")[1] == b"--to=-rf@example.org"
