"""Reading the sandbox's Maildir: whatever is in a message, it is listed and shown, and nothing else is."""

from email.message import EmailMessage
from pathlib import Path

import pytest

from angarium.admin import sandbox_mail
from angarium.admin.sandbox_mail import SandboxMail


@pytest.fixture
def new(tmp_path: Path) -> Path:
    folder = tmp_path / "new"
    folder.mkdir()
    (tmp_path / "cur").mkdir()
    return folder


@pytest.fixture
def mail(tmp_path: Path) -> SandboxMail:
    return SandboxMail(tmp_path)


def test_a_maildir_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    mail = SandboxMail(tmp_path / "later")
    listing = mail.listing(10)
    assert (listing.total, listing.messages) == (0, [])
    assert mail.message("1.M1P1.host") is None


def test_the_newest_come_first_and_the_list_is_cut(mail: SandboxMail, new: Path) -> None:
    for name in ("100.M5P1Q1.h", "100.M40P1Q2.h", "99.M999999P1Q3.h", "1000.M1P1Q4.h", "odd"):
        (new / name).write_bytes(b"\r\n")
    (new.parent / "cur" / "500.M1P1Q1.h:2,S").write_bytes(b"\r\n")
    listing = mail.listing(10)
    assert [message.id for message in listing.messages] == [
        "1000.M1P1Q4.h",
        "500.M1P1Q1.h",
        "100.M40P1Q2.h",
        "100.M5P1Q1.h",
        "99.M999999P1Q3.h",
        "odd",
    ]
    assert [message.id for message in mail.listing(2).messages] == ["1000.M1P1Q4.h", "500.M1P1Q1.h"]
    assert mail.listing(2).total == 6
    found = mail.message("500.M1P1Q1.h")
    assert found is not None


def test_new_messages_appear_and_removed_ones_go(mail: SandboxMail, new: Path) -> None:
    (new / "1.M1P1.h").write_bytes(b"Subject: one\r\n\r\n")
    assert [message.subject for message in mail.listing(5).messages] == ["one"]
    (new / "2.M1P1.h").write_bytes(b"Subject: two\r\n\r\n")
    (new / "1.M1P1.h").unlink()
    assert [message.subject for message in mail.listing(5).messages] == ["two"]


def test_encoded_words_are_decoded(mail: SandboxMail, new: Path) -> None:
    (new / "1.M1P1.h").write_bytes(
        b"From: =?utf-8?q?J=C3=BCrgen?= <j@example.org>\r\nTo: a@example.net,\r\n b@example.net\r\n"
        b"Subject: =?utf-8?b?w6ljb2xl?=\r\n =?utf-8?q?_d=27=C3=A9t=C3=A9?=\r\n"
        b"Date: Thu, 1 Jan 2026 00:00:00 +0000\r\n\r\nx"
    )
    (message,) = mail.listing(1).messages
    assert message.from_ == "Jürgen <j@example.org>"
    assert message.to == "a@example.net, b@example.net"
    assert message.subject == "école d'été"
    assert message.date == "Thu, 1 Jan 2026 00:00:00 +0000"


@pytest.mark.parametrize(
    "subject",
    [
        b"=?utf-8?b?!!!?=",
        b"=?nonsense-8?q?abc?=",
        b"=?utf-8?q?=FF=FE?=",
        b"=?utf-8?b?" + b"A" * 5 + b"?=",
        b"\xff\xfe raw octets",
        b"\x1b[31m control",
        b"x" * 100_000,
    ],
)
def test_a_subject_that_makes_no_sense_is_shown_as_something(mail: SandboxMail, new: Path, subject: bytes) -> None:
    (new / "1.M1P1.h").write_bytes(b"Subject: " + subject + b"\r\n\r\nbody")
    (message,) = mail.listing(1).messages
    assert message.subject
    message.subject.encode()
    assert mail.message("1.M1P1.h") is not None


@pytest.mark.parametrize(
    "octets", [b"", b"\r\n", b"no header at all", b"\0\0\0", b"A: 1", b": \r\n\r\nx", b" folded\r\n\r\n"]
)
def test_a_message_that_is_hardly_one_is_shown(mail: SandboxMail, new: Path, octets: bytes) -> None:
    (new / "1.M1P1.h").write_bytes(octets)
    (message,) = mail.listing(1).messages
    assert message.octets == len(octets)
    shown = mail.message("1.M1P1.h")
    assert shown is not None
    assert shown.raw.encode() == octets


def test_the_parts_of_a_message_are_told_apart(mail: SandboxMail, new: Path) -> None:
    made = EmailMessage()
    made["Return-Path"] = "<bounce@example.org>"
    made["Subject"] = "parts"
    made.set_content("plain ü\n")
    made.add_alternative("<p>rich <script>alert(1)</script></p>\n", subtype="html")
    made.add_attachment(b"\x89PNG", maintype="image", subtype="png", filename="picture é.png")
    made.add_attachment("an attached text", filename="notes.txt")
    (new / "1.M1P1.h").write_bytes(made.as_bytes())
    shown = mail.message("1.M1P1.h")
    assert shown is not None
    assert shown.reverse_path == "<bounce@example.org>"
    assert shown.text == "plain ü\n"
    assert shown.html == "<p>rich <script>alert(1)</script></p>\n"
    assert [(a.filename, a.content_type) for a in shown.attachments] == [
        ("picture é.png", "image/png"),
        ("notes.txt", "text/plain"),
    ]
    assert shown.attachments[0].octets == 4
    assert ("Subject", "parts") in shown.header
    assert not shown.cut


@pytest.mark.parametrize(
    "charset", ["nonsense", "utf-7", "idna", "rot13", "base64", "punycode", "unicode_escape", '"', "utf-8\x00"]
)
def test_any_character_set_is_survived(mail: SandboxMail, new: Path, charset: str) -> None:
    (new / "1.M1P1.h").write_bytes(f"Content-Type: text/plain; charset={charset}\r\n\r\nab\\u12".encode() + b"\xff")
    shown = mail.message("1.M1P1.h")
    assert shown is not None
    assert shown.text is not None
    assert shown.text.startswith("ab")


def test_parts_nested_too_deep_leave_the_raw_message(mail: SandboxMail, new: Path) -> None:
    level = b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n"
    (new / "1.M1P1.h").write_bytes(b"".join(level % (i, i) for i in range(3000)) + b"\r\nend")
    shown = mail.message("1.M1P1.h")
    assert shown is not None
    assert (shown.text, shown.html, shown.attachments) == (None, None, [])
    assert shown.raw.startswith("Content-Type")


def test_a_large_message_is_cut_but_given_whole_as_octets(
    mail: SandboxMail, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_mail, "TEXT_MAX_OCTETS", 1000)
    octets = b"Subject: large\r\n\r\n" + b"x" * 5000
    (new / "1.M1P1.h").write_bytes(octets)
    shown = mail.message("1.M1P1.h")
    assert shown is not None
    assert shown.cut
    assert shown.text is not None
    assert len(shown.text) == len(shown.raw) == 1000
    assert shown.octets == len(octets)
    assert mail.octets("1.M1P1.h") == octets


@pytest.mark.parametrize(
    "message_id",
    [
        "../secret",
        "..",
        ".",
        "",
        "../new/1.M1P1.h",
        "/etc/passwd",
        "1.M1P1.h/",
        "1.M1P1.h\0",
        "1.M1P1.h\n",
        ".hidden",
        "a" * 300,
    ],
)
def test_an_id_names_only_a_message_of_the_maildir(mail: SandboxMail, new: Path, message_id: str) -> None:
    (new / "1.M1P1.h").write_bytes(b"\r\n")
    (new / ".hidden").write_bytes(b"\r\n")
    (new.parent / "secret").write_bytes(b"\r\n")
    assert mail.message(message_id) is None
    assert mail.octets(message_id) is None


def test_links_and_folders_are_not_read(mail: SandboxMail, new: Path) -> None:
    (new.parent / "secret").write_bytes(b"Subject: secret\r\n\r\n")
    (new / "1.M1P1.h").symlink_to(new.parent / "secret")
    (new / "2.M1P1.h").mkdir()
    assert mail.listing(10).messages == []
    assert mail.message("1.M1P1.h") is None
    assert mail.octets("1.M1P1.h") is None
    assert mail.octets("2.M1P1.h") is None


def test_only_so_many_summaries_are_kept(mail: SandboxMail, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_mail, "CACHED", 3)
    for i in range(5):
        (new / f"{i}.M1P1.h").write_bytes(f"Subject: {i}\r\n\r\n".encode())
    for _ in range(2):
        assert [message.subject for message in mail.listing(5).messages] == ["4", "3", "2", "1", "0"]
        assert len(mail._summaries) == 3
