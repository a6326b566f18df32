"""Files of recipients: what they say, and what is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from angarium.config.recipient_file import LONGEST_FILE_OCTETS, BadRecipientFile, RecipientList, read_recipients

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """\
# the people
ada@example.org
Bob.Builder@Example.ORG
"o d d"@example.org
"plain"@example.org
Jürgen@büro.example

@lists.example.org
   dan+fixed@example.org\t
"""


@pytest.fixture
def found(tmp_path: Path) -> RecipientList:
    return listed(tmp_path, TEXT.encode())


def listed(folder: Path, octets: bytes) -> RecipientList:
    path = folder / "recipients"
    path.write_bytes(octets)
    return read_recipients(str(path))


@pytest.mark.parametrize(
    "mailbox",
    [
        "ada@example.org",
        "ADA@EXAMPLE.ORG",
        "bob.builder@example.org",
        '"ada"@example.org',
        '"a\\da"@example.org',
        '"o d d"@example.org',
        "plain@example.org",
        "jürgen@büro.example",
        "JÜRGEN@xn--bro-hoa.example",
        "ju\u0308rgen@büro.example",
        "anybody.at-all@lists.example.org",
        "dan+fixed@example.org",
    ],
)
def test_recipients_that_there_are(found: RecipientList, mailbox: str) -> None:
    assert found.has(mailbox.encode())


@pytest.mark.parametrize(
    "mailbox",
    ["a@example.org", "ada@example.com", "ada@lists.example", "ada+x@example.org", "ada@sub.lists.example.org", "ada"],
)
def test_recipients_that_there_are_not(found: RecipientList, mailbox: str) -> None:
    assert not found.has(mailbox.encode())
    assert len(found) == 7


def test_details(found: RecipientList) -> None:
    for mailbox in ("ada+list@example.org", "ada-list@example.org", "Ada+a+b@example.org", "ada+@example.org"):
        assert found.has(mailbox.encode(), b"+-"), mailbox
    assert found.has(b"bob.builder+x-y@example.org", b"+-")
    for mailbox in (
        "+ada@example.org",
        "+@example.org",
        "a+da@example.org",
        "dan+other@example.org",
        "ada=x@example.org",
    ):
        assert not found.has(mailbox.encode(), b"+-"), mailbox
    assert found.has(b"dan+fixed@example.org", b"+")
    assert not found.has(b"ada-list@example.org", b"+")


def test_hosts(found: RecipientList) -> None:
    assert found.hosts(b"lists.example.org")
    assert found.hosts(b"example.org")
    assert not found.hosts(b"ple.org")


def test_a_byte_order_mark_and_either_line_end_do_no_harm(tmp_path: Path) -> None:
    found = listed(tmp_path, b"\xef\xbb\xbfada@example.org\r\nbob@example.org")
    assert found.has(b"ada@example.org")
    assert found.has(b"bob@example.org")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"ada", "neither an address"),
        (b"ada@", "not a domain"),
        (b"*@example.org", "every address"),
        (b"@*.example.org", "neither an address"),
        (b"@ada@example.org", "neither an address"),
        (b"ada bob@example.org", "not a local part"),
        (b"ada@exa mple.org", "not a domain"),
        (b"ada@example..org", "not a domain"),
        (b"ada@example.org, bob@example.org", "not a local part"),
        (b"ada@\xff.example", "not UTF-8"),
    ],
)
def test_what_is_no_recipient(tmp_path: Path, line: bytes, said: str) -> None:
    with pytest.raises(BadRecipientFile, match=said) as caught:
        listed(tmp_path, b"ada@example.org\n" + line + b"\nbob@example.org\n")
    assert [number for number, _ in caught.value.problems] == [2]


def test_every_bad_line_is_named_up_to_a_bound(tmp_path: Path) -> None:
    with pytest.raises(BadRecipientFile) as caught:
        listed(tmp_path, b"bad\n" * 1000)
    assert [number for number, _ in caught.value.problems] == list(range(1, 21))


def test_a_file_may_not_be_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "recipients"
    with path.open("wb") as file:
        file.truncate(LONGEST_FILE_OCTETS + 1)
    with pytest.raises(BadRecipientFile, match="more than"):
        read_recipients(str(path))
