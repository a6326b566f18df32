"""Delivery status notifications, read back with the standard library's parser: RFC 3461, 3464, 6522, 6533."""

import base64
import email
import email.policy
from dataclasses import replace
from email.message import EmailMessage, Message
from typing import Any

import pytest

from angarium._core.command import Notify, ReturnContent, encode_xtext
from angarium.config.wording import shipped_wordings
from angarium.mail.status import EnhancedStatus
from angarium.outcome.bounce import DeliveryStatusNotification, OriginalMessage, RecipientReport, build_dsn

MAIL = (
    b"Received: from client by relay; Tue, 1 Jul 2025 10:00:00 +0000\r\n"
    b"From: <ada@example.org>\r\nTo: bob@example.net\r\nSubject: hello\r\n"
    b"Message-ID: <1@example.org>\r\n\r\n"
    b"First line\r\n--not a boundary\r\n"
)
ORIGINAL = OriginalMessage(queue_id="0abc", reverse_path=b"ada@example.org", mail_data=MAIL, received=1751364000.7)
FAILED = RecipientReport(
    forward_path=b"bob@example.net",
    kind="failed",
    status=EnhancedStatus(5, 1, 1),
    text=b"no such user\nhere",
    reply_code=550,
    reply_enhanced=(5, 1, 1),
    remote_mta=b"mx1.example.net",
    last_attempt=1751367600.0,
)
DELAYED = RecipientReport(
    forward_path=b"eve@example.com",
    kind="delayed",
    status=EnhancedStatus(4, 4, 1),
    text=b"mx.example.com[192.0.2.1]:25: connection refused",
    retries_until=1751796000.0,
)


def build(*reports: RecipientReport, **changes: Any) -> DeliveryStatusNotification | None:
    options = {"longest_original_octets": changes.pop("longest_original_octets", 50_000)}
    options["wordings"] = changes.pop("wordings", ())
    return build_dsn(
        replace(ORIGINAL, **changes),
        reports,
        hostname="relay.example.org",
        now=1751371200.0,
        message_id="0abd@relay.example.org",
        **options,
    )


def read(dsn: DeliveryStatusNotification | None) -> tuple[EmailMessage, list[Message], list[EmailMessage]]:
    """The message, the groups of the delivery status, and the three parts."""
    assert dsn is not None
    message = email.message_from_bytes(dsn.mail_data, policy=email.policy.SMTPUTF8)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    parts = list(message.iter_parts())
    assert all(isinstance(part, EmailMessage) and not part.defects for part in parts)
    assert len(parts) == 3
    return message, list(parts[1].get_payload()), parts  # type: ignore[arg-type, return-value]


def test_a_failure_is_reported_to_the_reverse_path_from_the_null_one() -> None:
    dsn = build(FAILED)
    assert dsn is not None
    assert (dsn.reverse_path, dsn.recipient) == (b"", b"ada@example.org")
    assert (dsn.eight_bit, dsn.smtputf8) == (False, False)
    message, groups, parts = read(dsn)
    assert message["To"].addresses[0].addr_spec == "ada@example.org"
    assert message["From"] == "Mail delivery <postmaster@relay.example.org>"
    assert message["Date"] == "Tue, 01 Jul 2025 12:00:00 +0000"
    assert message["Message-ID"] == "<0abd@relay.example.org>"
    assert message["References"] == message["In-Reply-To"] == "<1@example.org>"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["Content-Type"].params["report-type"] == "delivery-status"
    assert [part.get_content_type() for part in parts] == ["text/plain", "message/delivery-status", "message/rfc822"]
    assert [group.items() for group in groups] == [
        [("Reporting-MTA", "dns; relay.example.org"), ("Arrival-Date", "Tue, 01 Jul 2025 10:00:00 +0000")],
        [
            ("Final-Recipient", "rfc822; bob@example.net"),
            ("Action", "failed"),
            ("Status", "5.1.1"),
            ("Remote-MTA", "dns; mx1.example.net"),
            ("Diagnostic-Code", "smtp; 550 5.1.1 no such user here"),
            ("Last-Attempt-Date", "Tue, 01 Jul 2025 11:00:00 +0000"),
            ("Final-Log-ID", "0abc"),
        ],
    ]
    text = parts[0].get_content()
    for words in (
        "<bob@example.net>",
        "mx1.example.net said:",
        "550 5.1.1 no such user here",
        "Bad destination mailbox address",
        "0abc",
        "not be tried again",
    ):
        assert words in text


def test_the_original_comes_back_octet_for_octet() -> None:
    dsn = build(FAILED)
    assert dsn is not None
    assert b"Content-Transfer-Encoding: 7bit\r\n\r\n" + MAIL + b"\r\n--=_" in dsn.mail_data
    assert dsn.mail_data.count(b"\n") == dsn.mail_data.count(b"\r\n") == dsn.mail_data.count(b"\r")


@pytest.mark.parametrize(
    ("changes", "content_type"),
    [
        ({}, "message/rfc822"),
        ({"ret": ReturnContent.RET_FULL}, "message/rfc822"),
        ({"ret": ReturnContent.RET_HDRS}, "text/rfc822-headers"),
        ({"longest_original_octets": len(MAIL)}, "message/rfc822"),
        ({"longest_original_octets": len(MAIL) - 1}, "text/rfc822-headers"),
        ({"ret": ReturnContent.RET_FULL, "longest_original_octets": len(MAIL) - 1}, "text/rfc822-headers"),
    ],
)
def test_ret_and_size_decide_how_much_of_the_original_comes_back(changes: dict[str, Any], content_type: str) -> None:
    dsn = build(FAILED, **changes)
    parts = read(dsn)[2]
    assert parts[2].get_content_type() == content_type
    assert dsn is not None
    assert (b"First line" in dsn.mail_data) is (content_type == "message/rfc822")
    assert b"Subject: hello" in dsn.mail_data


def test_a_header_section_without_end_is_cut_at_a_line() -> None:
    header = b"".join(b"X-Line: %d\r\n" % n for n in range(10_000))
    dsn = build(FAILED, mail_data=header)
    content = read(dsn)[2][2].get_content()
    lines = content.splitlines()
    assert 40_000 < len(content) <= 50_000
    assert [*lines] == [f"X-Line: {n}" for n in range(len(lines))]


def test_a_delay_is_reported_with_the_header_alone() -> None:
    message, groups, parts = read(build(DELAYED))
    assert message["Subject"] == "Your mail is delayed"
    assert parts[2].get_content_type() == "text/rfc822-headers"
    assert groups[1].items() == [
        ("Final-Recipient", "rfc822; eve@example.com"),
        ("Action", "delayed"),
        ("Status", "4.4.1"),
        ("Diagnostic-Code", "X-Angarium; mx.example.com[192.0.2.1]:25: connection refused"),
        ("Final-Log-ID", "0abc"),
        ("Will-Retry-Until", "Sun, 06 Jul 2025 10:00:00 +0000"),
    ]
    text = parts[0].get_content()
    assert "tried again until 2025-07-06 10:00 UTC, and then given up" in " ".join(text.split())
    assert "not be tried again" not in text


def test_a_delay_without_an_end_is_none() -> None:
    with pytest.raises(ValueError, match="until which"):
        replace(DELAYED, retries_until=None)


SUCCESS = RecipientReport(
    forward_path=b"ina@example.net",
    kind="relayed",
    status=EnhancedStatus(2, 0, 0),
    text=b"2.0.0 queued as 77",
    reply_code=250,
    remote_mta=b"mx1.example.net",
    notify=Notify.NOTIFY_SUCCESS,
    last_attempt=1751367600.0,
)
KINDS: list[tuple[RecipientReport, str, str, str]] = [
    (FAILED, "failed", "5.1.1", "Your mail could not be delivered"),
    (replace(FAILED, kind="expired", status=EnhancedStatus(4, 4, 7)), "failed", "4.4.7", "not be delivered in time"),
    (DELAYED, "delayed", "4.4.1", "Your mail is delayed"),
    (SUCCESS, "relayed", "2.0.0", "Your mail was handed on"),
    (replace(SUCCESS, kind="delivered", remote_mta=b""), "delivered", "2.0.0", "Your mail was delivered"),
    (replace(SUCCESS, kind="expanded", remote_mta=b""), "expanded", "2.0.0", "passed on to several recipients"),
]


@pytest.mark.parametrize(("report", "action", "status", "subject"), KINDS, ids=lambda value: str(value)[:12])
def test_every_kind_has_its_action_and_its_words(
    report: RecipientReport, action: str, status: str, subject: str
) -> None:
    message, groups, parts = read(build(report, ret=ReturnContent.RET_FULL))
    assert subject in message["Subject"]
    assert (groups[1]["Action"], groups[1]["Status"]) == (action, status)
    assert f"<{report.forward_path.decode()}>" in parts[0].get_content()
    failed = action == "failed"
    assert parts[2].get_content_type() == ("message/rfc822" if failed else "text/rfc822-headers"), "RFC 3461 \u00a74.3"
    assert ("Will-Retry-Until" in groups[1]) is (action == "delayed")


def test_the_gravest_news_gives_the_subject() -> None:
    dsn = build(SUCCESS, DELAYED, replace(FAILED, kind="expired"), FAILED)
    assert dsn is not None
    assert dsn.kind == "failed"
    message, groups, _ = read(dsn)
    assert message["Subject"] == "Your mail could not be delivered"
    assert [group["Action"] for group in groups[1:]] == ["relayed", "delayed", "failed", "failed"]


def test_it_speaks_the_languages_that_it_is_told() -> None:
    known = shipped_wordings()
    dsn = build(FAILED, wordings=[known["de"], known["en"]])
    message, _, parts = read(dsn)
    assert message["Subject"] == "Ihre Nachricht konnte nicht zugestellt werden"
    assert message["From"].addresses[0].display_name == "Mailzustellung"
    assert parts[0]["Content-Language"] == "de, en"
    text = parts[0].get_content()
    assert text.index("Empf\u00e4ngeradresse unbekannt") < text.index("Bad destination mailbox address")
    assert "vom 01.07.2025 10:00 UTC" in text
    assert dsn is not None
    assert dsn.mail_data.isascii(), "umlauts need no 8BITMIME"
    subject = read(build(DELAYED, wordings=[known["de"]]))[0]["Subject"]
    assert subject == "Die Zustellung Ihrer Nachricht verz\u00f6gert sich"


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        (b"Subject: hello", "hello"),
        (b"subject:  two\r\n\tlines", "two lines"),
        (b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= you", "Gr\u00fc\u00dfe you"),
        (b"Subject: =?utf-8?q?a=0D=0ABcc:_x?=", "a??Bcc: x"),
        (b"Subject: =?x-unknown?b?AAAA?=", "=?x-unknown?b?AAAA?="),
        (b"Subject: =?utf-8?b?A?=", "=?utf-8?b?A?="),
        ("Subject: Gr\u00fc\u00dfe".encode(), "Gr\u00fc\u00dfe"),
        (b"Subject: caf\xe9", "caf?"),
        (b"Subject: " + b"x" * 400, "x" * 119 + "\u2026"),
        (b"Subject:", "(no subject)"),
        (b"X-Subject: no", "(no subject)"),
    ],
)
def test_a_person_knows_the_message_by_its_subject(field: bytes, shown: str) -> None:
    text = read(build(FAILED, mail_data=field + b"\r\n\r\nSubject: not this one\r\n"))[2][0].get_content()
    assert f"\n    {shown}\n" in text.replace("\r\n", "\n")


def test_one_notification_tells_of_all_recipients() -> None:
    message, groups, parts = read(build(FAILED, DELAYED, replace(FAILED, forward_path=b"carl@example.net")))
    assert message["Subject"] == "Your mail could not be delivered"
    assert [group["Final-Recipient"] for group in groups[1:]] == [
        "rfc822; bob@example.net",
        "rfc822; eve@example.com",
        "rfc822; carl@example.net",
    ]
    text = parts[0].get_content()
    assert text.index("bob@") < text.index("carl@") < text.index("eve@"), "failures first"


def test_nothing_is_sent_to_the_null_reverse_path() -> None:
    assert build(FAILED, reverse_path=b"") is None
    assert build() is None


@pytest.mark.parametrize(
    ("notify", "failure", "delay"),
    [
        (0, True, True),
        (Notify.NOTIFY_NEVER, False, False),
        (Notify.NOTIFY_SUCCESS, False, False),
        (Notify.NOTIFY_FAILURE, True, False),
        (Notify.NOTIFY_DELAY, False, True),
        (Notify.NOTIFY_FAILURE | Notify.NOTIFY_DELAY, True, True),
        (Notify.NOTIFY_SUCCESS | Notify.NOTIFY_FAILURE, True, False),
    ],
)
def test_notify_is_honoured(notify: int, failure: bool, delay: bool) -> None:
    assert (build(replace(FAILED, notify=notify)) is not None) is failure
    assert (build(replace(DELAYED, notify=notify)) is not None) is delay


def test_who_asked_for_nothing_is_not_mentioned() -> None:
    dsn = build(FAILED, replace(FAILED, forward_path=b"secret@example.net", notify=Notify.NOTIFY_NEVER))
    assert dsn is not None
    assert b"secret" not in dsn.mail_data


def test_envid_and_orcpt_come_back_without_their_xtext() -> None:
    dsn = build(replace(FAILED, orcpt=b"rfc822;Bob+2BBox@example.com"), envid=b"QQ+2B314159")
    groups = read(dsn)[1]
    assert groups[0]["Original-Envelope-Id"] == "QQ+314159"
    assert groups[1].items()[0] == ("Original-Recipient", "rfc822; Bob+Box@example.com")


@pytest.mark.parametrize(
    "evil", [b"a\r\nBcc: x@example.com\r\n\r\n--", b"a\nb", b"a\rb", b"a\0b\x1bc", b"\x85\xe2\x80\xa8b"]
)
def test_nothing_from_outside_can_end_a_line(evil: bytes) -> None:
    report = replace(
        FAILED,
        text=evil,
        remote_mta=evil,
        orcpt=b"rfc822;" + encode_xtext(evil),
        forward_path=b'"' + evil + b'"@example.net',
    )
    message, groups, _ = read(build(report, envid=encode_xtext(evil), reverse_path=b'"' + evil + b'"@example.org'))
    assert message["Bcc"] is None
    assert [len(groups), len(groups[0]), len(groups[1])] == [2, 3, 8]
    dsn = build(report, envid=encode_xtext(evil), reverse_path=b'"' + evil + b'"@example.org')
    assert dsn is not None
    assert dsn.mail_data.isascii()
    assert dsn.mail_data.count(b"\n") == dsn.mail_data.count(b"\r\n") == dsn.mail_data.count(b"\r")
    assert not set(dsn.mail_data) & {0, 27}


def test_long_texts_are_folded_and_cut() -> None:
    words = b"spam spam " * 200
    one = b"x" * 5000
    for text in (words, one):
        dsn = build(replace(FAILED, text=text), envid=b"e" * 1500)
        assert dsn is not None
        assert max(map(len, dsn.mail_data.split(b"\r\n"))) <= 998
        diagnostic = read(dsn)[1][1]["Diagnostic-Code"]
        unfolded = diagnostic.replace("\r\n", "").replace("\n", "").removeprefix("smtp; 550 5.1.1 ")
        assert unfolded == text.decode()[:900].strip()


def test_blanks_at_the_end_of_a_value_make_no_blank_line() -> None:
    dsn = build(FAILED, envid=encode_xtext(b"e" * 60 + b" " * 30))
    assert dsn is not None
    assert b"\r\nOriginal-Envelope-Id: " + b"e" * 60 + b"\r\n" in dsn.mail_data


def test_the_boundary_occurs_in_no_part() -> None:
    first = build(FAILED)
    boundary = read(first)[0].get_boundary()
    assert boundary is not None
    body = MAIL + b"--" + boundary.encode() + b"--\r\n" + b"text\r\n"
    dsn = build(FAILED, mail_data=body)
    message, _, parts = read(dsn)
    assert message.get_boundary() != boundary
    assert parts[2].get_payload()[0].get_payload().endswith("text\r\n")  # type: ignore[index, union-attr]


@pytest.mark.parametrize(
    "message_id", [b"<1@exa mple>", b"1@example.org", b"<a\r\n b@c>", b"<" + b"a" * 300 + b"@b>", b"<\xff@b>", b""]
)
def test_a_message_id_that_is_none_is_not_referred_to(message_id: bytes) -> None:
    message = read(build(FAILED, mail_data=b"Message-ID: " + message_id + b"\r\n\r\n"))[0]
    assert message["References"] is None


def test_eight_bit_originals_make_an_eight_bit_notification() -> None:
    dsn = build(FAILED, mail_data=MAIL + b"caf\xe9\r\n")
    assert dsn is not None
    assert (dsn.eight_bit, dsn.smtputf8) == (True, False)
    assert b"\r\n\r\n" + MAIL + b"caf\xe9\r\n\r\n--" in dsn.mail_data
    assert read(dsn)[2][2]["Content-Transfer-Encoding"] == "8bit"
    dsn = build(FAILED, mail_data=MAIL + b"caf\xe9\r\n", ret=ReturnContent.RET_HDRS)
    assert dsn is not None
    assert not dsn.eight_bit


def test_internationalised_mail_is_reported_in_the_global_forms() -> None:
    bob, ada = "b\u00f6b@example.net".encode(), "\u00e5da@example.org".encode()
    dsn = build(
        replace(FAILED, forward_path=bob, text="gibt es nicht: b\u00f6b".encode()),
        smtputf8=True,
        reverse_path=ada,
        mail_data=MAIL.replace(b"<ada@example.org>", b"<" + ada + b">"),
    )
    assert dsn is not None
    assert (dsn.eight_bit, dsn.smtputf8, dsn.recipient) == (True, True, ada)
    assert b"Content-Type: message/global-delivery-status\r\n" in dsn.mail_data
    assert b"Final-Recipient: utf-8; " + bob + b"\r\n" in dsn.mail_data
    assert b"Content-Type: message/global\r\n" in dsn.mail_data
    message = email.message_from_bytes(dsn.mail_data, policy=email.policy.SMTPUTF8)
    assert b"\r\nTo: <" + ada + b">\r\n" in dsn.mail_data
    people, _, _ = message.iter_parts()  # type: ignore[attr-defined]
    assert "gibt es nicht: b\u00f6b" in people.get_content()
    header_only = build(replace(FAILED, forward_path=bob), smtputf8=True, reverse_path=ada, ret=ReturnContent.RET_HDRS)
    assert header_only is not None
    assert b"Content-Type: text/rfc822-headers\r\n" in header_only.mail_data, "its header is ASCII"


def test_internationalised_mail_from_an_ascii_path_is_reported_in_seven_bits() -> None:
    """RFC 6533: nobody knows whether the host of an ASCII reverse-path takes such mail (\u00a73, \u00a74.1)."""
    bob = "b\u00f6b@example.net".encode()
    mail = MAIL.replace(b"Subject: hello", "Subject: Gr\u00fc\u00dfe".encode())
    for ret, content_type in (
        (ReturnContent.RET_FULL, "message/global"),
        (ReturnContent.RET_HDRS, "message/global-headers"),
    ):
        dsn = build(
            replace(FAILED, forward_path=bob, orcpt="utf-8;b\u00f6b+@example.net".encode()),
            smtputf8=True,
            mail_data=mail,
            ret=ret,
        )
        assert dsn is not None
        assert dsn.mail_data.isascii()
        assert (dsn.eight_bit, dsn.smtputf8) == (False, False)
        assert rb"Final-Recipient: utf-8; b\x{F6}b@example.net" in dsn.mail_data
        assert rb"Original-Recipient: utf-8; b\x{F6}b\x{2B}@example.net" in dsn.mail_data
        _, groups, parts = read(dsn)
        assert len(groups) == 2
        assert parts[1].get_content_type() == "message/delivery-status"
        assert "<b\u00f6b@example.net>" in parts[0].get_content()
        assert parts[2].get_content_type() == content_type
        assert parts[2]["Content-Transfer-Encoding"] == "base64"
        encoded = dsn.mail_data.split(b"base64\r\n\r\n")[1].split(b"\r\n--=_")[0]
        expected = mail if ret == ReturnContent.RET_FULL else mail[: mail.index(b"\r\n\r\n") + 2]
        assert base64.b64decode(encoded) == expected


@pytest.mark.parametrize(
    ("orcpt", "seven_bit", "global_form"),
    [
        ("utf-8;b\u00f6b@example.net", r"utf-8; b\x{F6}b@example.net", "utf-8; b\u00f6b@example.net"),
        (r"utf-8;b\x{F6}b@example.net", r"utf-8; b\x{F6}b@example.net", "utf-8; b\u00f6b@example.net"),
        (r"UTF-8;\x{1F40E}@example.net", r"utf-8; \x{1F40E}@example.net", "utf-8; \U0001f40e@example.net"),
        (r"utf-8;\x{D800}@example.net", r"utf-8; \x{5C}x{D800}@example.net", r"utf-8; \x{D800}@example.net"),
        ("rfc822;bob+2B@example.net", "rfc822; bob+@example.net", "rfc822; bob+@example.net"),
    ],
)
def test_original_recipients_in_both_forms(orcpt: str, seven_bit: str, global_form: str) -> None:
    report = replace(FAILED, orcpt=orcpt.encode())
    for path, form in ((b"ada@example.org", seven_bit), ("\u00e5da@example.org".encode(), global_form)):
        dsn = build(report, smtputf8=True, reverse_path=path)
        assert dsn is not None
        assert f"\r\nOriginal-Recipient: {form}\r\n".encode() in dsn.mail_data


def test_a_reverse_path_alone_can_call_for_the_global_forms() -> None:
    dsn = build(FAILED, smtputf8=True, reverse_path="\u00e5da@example.org".encode())
    assert dsn is not None
    assert (dsn.eight_bit, dsn.smtputf8) == (False, True)
    assert b"8bit" not in dsn.mail_data, "no part may claim more than the whole (RFC 2045 \u00a76.4)"


def test_ascii_addresses_of_an_smtputf8_message_are_reported_in_the_plain_forms() -> None:
    dsn = build(replace(FAILED, text="gibt es nicht: b\u00f6b".encode()), smtputf8=True)
    assert dsn is not None
    assert b"Content-Type: message/delivery-status\r\n" in dsn.mail_data
    assert dsn.mail_data.isascii()
    assert read(dsn)[1][1]["Diagnostic-Code"] == "smtp; 550 5.1.1 gibt es nicht: b??b"


def test_a_reply_without_enhanced_status_is_quoted_as_it_was() -> None:
    report = replace(FAILED, reply_code=554, reply_enhanced=None, status=EnhancedStatus(5, 0, 0))
    assert read(build(report))[1][1]["Diagnostic-Code"] == "smtp; 554 no such user here"


def test_an_original_that_does_not_end_its_line_is_closed() -> None:
    dsn = build(FAILED, mail_data=b"Subject: x")
    assert dsn is not None
    assert b"Subject: x\r\n\r\n--=_" in dsn.mail_data
