"""From standard input to mail data."""

from __future__ import annotations

import email
import email.policy
from email.header import decode_header, make_header

import pytest

from angarium.mail.composition import Composition, display_name

MADE = {"author": "Me <me@here.example>", "date": "Thu, 26 Nov 2026 01:00:00 +0000", "message_id": "<1@here.example>"}


def mail_data(octets: bytes) -> bytes:
    return Composition(octets).mail_data(**MADE)


def test_missing_fields_are_added_and_others_stay_as_they_are() -> None:
    assert mail_data(b"Subject:  hello \nX-Odd : 1\n\nbody\n") == (
        b"Date: Thu, 26 Nov 2026 01:00:00 +0000\r\nFrom: Me <me@here.example>\r\nMessage-ID: <1@here.example>\r\n"
        b"Subject:  hello \r\nX-Odd : 1\r\n\r\nbody\r\n"
    )
    whole = b"from: a@b.example\r\nDATE: x\r\nmessage-id: <2@b.example>\r\n\r\nbody\r\n"
    assert mail_data(whole) == whole


@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
def test_every_end_of_a_line_becomes_crlf(ends: bytes) -> None:
    made = mail_data(b"Subject: a\n\none\n\ntwo".replace(b"\n", ends))
    assert made.endswith(b"Subject: a\r\n\r\none\r\n\r\ntwo\r\n")
    assert made.count(b"\r") == made.count(b"\n") == made.count(b"\r\n")


@pytest.mark.parametrize(
    ("octets", "rest"),
    [
        (b"", b"\r\n"),
        (b"\nbody\n", b"\r\nbody\r\n"),
        (b"no header at all\n\nbody\n", b"\r\nno header at all\r\n\r\nbody\r\n"),
        (b"Subject: a\nnot a field\n\nbody\n", b"Subject: a\r\n\r\nnot a field\r\n\r\nbody\r\n"),
        (b"Subject: a", b"Subject: a\r\n\r\n"),
        (b"From root Thu Nov 26\nSubject: a\n\nb\n", b"Subject: a\r\n\r\nb\r\n"),
        (b" starts with a space\n\nb\n", b"\r\n starts with a space\r\n\r\nb\r\n"),
    ],
)
def test_where_the_header_section_ends(octets: bytes, rest: bytes) -> None:
    made = mail_data(octets)
    assert made.endswith(b"Message-ID: <1@here.example>\r\n" + rest)
    parsed = email.message_from_bytes(made, policy=email.policy.default)
    assert parsed["Message-ID"] == "<1@here.example>"


def test_recipients_and_bcc() -> None:
    message = Composition(
        b"To: Alice <a@x.example>,\n b@x.example\nCc: root\nBcc: c@x.example,\n\td@x.example\nSubject: s\n\nBcc: body\n"
    )
    assert message.recipients() == ["a@x.example", "b@x.example", "root", "c@x.example", "d@x.example"]
    message.remove_bcc()
    made = message.mail_data(**MADE)
    assert b"c@x.example" not in made
    assert b"d@x.example" not in made
    assert made.endswith(b"Subject: s\r\n\r\nBcc: body\r\n")
    assert b"To: Alice <a@x.example>,\r\n b@x.example\r\nCc: root\r\n" in made


def test_a_resent_message_goes_to_whom_it_is_resent() -> None:
    message = Composition(b"To: a@x.example\nResent-To: b@x.example\nResent-Bcc: c@x.example\n\n")
    assert message.recipients() == ["b@x.example", "c@x.example"]
    message.remove_bcc()
    assert b"Bcc" not in message.mail_data(**MADE)


def test_recipients_that_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=r"^Cc: .*is not an address"):
        Composition(b"To: a@x.example\nCc: b c\n\n").recipients()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("", "me@x.example"),
        ("Me", "Me <me@x.example>"),
        ("Me  Too", "Me Too <me@x.example>"),
        ("Me, Too", '"Me, Too" <me@x.example>'),
        ('M"e\\', '"M\\"e\\\\" <me@x.example>'),
        ("Evil\r\nBcc: x", '"Evil Bcc: x" <me@x.example>'),
    ],
)
def test_a_display_name(name: str, shown: str) -> None:
    assert display_name(name, "me@x.example") == shown


def test_a_display_name_beyond_ascii_is_encoded_in_words_that_are_short_enough() -> None:
    name = "Jürgen Müller-Lüdenscheidt von und zu Hohenlohe-Öhringen aus Überlingen"
    shown = display_name(name, "me@x.example")
    assert shown.isascii()
    assert all(len(word) <= 75 for word in shown.split())
    words, address = shown.rsplit(" ", 1)
    assert str(make_header(decode_header(words))) == name
    assert address == "<me@x.example>"
